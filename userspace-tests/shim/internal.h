/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the shim's own files share.
 */
#ifndef _SHIM_INTERNAL_H
#define _SHIM_INTERNAL_H

#include "shim.h"

/* Ends the test if the thread holds a lock. */
void shim_check_context(const char *who);

#endif
