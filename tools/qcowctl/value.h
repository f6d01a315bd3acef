/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_VALUE_H
#define QCOWCTL_VALUE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Understand the value of an option.  Both return false, and leave the result
 * alone, when @text is no such value.
 *
 * value_switch() takes "on" and "off".
 *
 * value_size() takes a number of bytes in decimal, or of KiB, MiB, GiB or TiB
 * with one of the letters K, M, G, T behind it, in either case.
 */
bool value_switch(const char *text, bool *on);
bool value_size(const char *text, uint64_t *bytes);

#endif /* QCOWCTL_VALUE_H */
