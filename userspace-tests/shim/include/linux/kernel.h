/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Arithmetic and small helpers.
 */
#ifndef _SHIM_KERNEL_H
#define _SHIM_KERNEL_H

#include <linux/bits.h>
#include <linux/container_of.h>
#include <linux/limits.h>
#include <linux/printk.h>
#include <linux/sizes.h>

#define ARRAY_SIZE(a)		(sizeof(a) / sizeof((a)[0]))

#define shim_align_mask(x, mask)	(((x) + (mask)) & ~(mask))
#define ALIGN(x, a)		shim_align_mask(x, (__typeof__(x))(a) - 1)
#define ALIGN_DOWN(x, a)	((x) & ~((__typeof__(x))(a) - 1))
#define IS_ALIGNED(x, a)	(!((x) & ((__typeof__(x))(a) - 1)))
#define PTR_ALIGN(p, a)		((__typeof__(p))ALIGN((unsigned long)(p), (a)))
#define round_up(x, a)		ALIGN(x, a)
#define round_down(x, a)	ALIGN_DOWN(x, a)
#define roundup(x, y)		((((x) + (y) - 1) / (y)) * (y))
#define rounddown(x, y)		((x) - (x) % (y))
#define DIV_ROUND_UP(n, d)	(((n) + (d) - 1) / (d))
#define DIV_ROUND_UP_ULL(n, d)	(((u64)(n) + (d) - 1) / (d))

#define shim_pick(a, op, b) ({ __auto_type _a = (a); __auto_type _b = (b); \
			       _a op _b ? _a : _b; })
#define min(a, b)		shim_pick(a, <, b)
#define max(a, b)		shim_pick(a, >, b)
#define min3(a, b, c)		min(min(a, b), c)
#define max3(a, b, c)		max(max(a, b), c)
#define min_t(type, a, b)	shim_pick((type)(a), <, (type)(b))
#define max_t(type, a, b)	shim_pick((type)(a), >, (type)(b))
#define min_not_zero(a, b) ({ __auto_type _x = (a); __auto_type _y = (b); \
			      !_x ? _y : !_y ? _x : min(_x, _y); })
#define clamp(x, low, high) \
	((__typeof__(x))min(max((__typeof__(x))(x), (__typeof__(x))(low)), \
			    (__typeof__(x))(high)))
#define clamp_t(type, x, low, high) \
	min_t(type, max_t(type, x, low), high)
#define swap(a, b) \
	do { __auto_type _t = (a); (a) = (b); (b) = _t; } while (0)

static inline u64 div64_u64_rem(u64 n, u64 d, u64 *rest)
{
	*rest = n % d;
	return n / d;
}

static inline u64 div_u64_rem(u64 n, u32 d, u32 *rest)
{
	*rest = n % d;
	return n / d;
}

static inline u64 div64_u64(u64 n, u64 d)
{
	return n / d;
}

static inline u64 div_u64(u64 n, u32 d)
{
	return n / d;
}

#define do_div(n, d) ({ u32 _rest = (n) % (d); (n) /= (d); _rest; })

#endif
