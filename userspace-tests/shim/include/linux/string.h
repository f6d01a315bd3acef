/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_STRING_H
#define _SHIM_STRING_H

#include <linux/types.h>
#include <string.h>

ssize_t strscpy(char *to, const char *from, size_t bytes);
void *memchr_inv(const void *from, int c, size_t bytes);

static inline bool mem_is_zero(const void *from, size_t bytes)
{
	return !memchr_inv(from, 0, bytes);
}

#endif
