/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_OVERFLOW_H
#define _SHIM_OVERFLOW_H

#include <linux/types.h>

#define check_add_overflow(a, b, sum)	__builtin_add_overflow(a, b, sum)
#define check_sub_overflow(a, b, diff)	__builtin_sub_overflow(a, b, diff)
#define check_mul_overflow(a, b, prod)	__builtin_mul_overflow(a, b, prod)

static inline size_t size_add(size_t a, size_t b)
{
	size_t sum;

	return __builtin_add_overflow(a, b, &sum) ? SIZE_MAX : sum;
}

static inline size_t size_mul(size_t a, size_t b)
{
	size_t product;

	return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

#define array_size(a, b)	size_mul(a, b)
#define struct_size(ptr, member, nr) \
	size_add(sizeof(*(ptr)), size_mul(nr, sizeof((ptr)->member[0])))

#endif
