/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_REFUSAL_H
#define QCOWCTL_REFUSAL_H

#include "control.h"

/*
 * Complain that the kernel refused a request about @object with the negative
 * errno @err, in the kernel's own words if it gave some (@reason may be NULL).
 * Returns the exit code.
 */
int refused(const char *object, int err, const struct control_reason *reason);

/* What to say about @err where the kernel said nothing. */
const char *refusal_words(int err, const struct control_reason *reason);

#endif /* QCOWCTL_REFUSAL_H */
