/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_BITS_H
#define _SHIM_BITS_H

#include <linux/compiler.h>
#include <linux/types.h>

#define BITS_PER_BYTE	8
#define BITS_PER_LONG	64
#define BIT(n)		(1UL << (n))
#define BIT_ULL(n)	(1ULL << (n))
#define GENMASK(high, low) \
	((~0UL >> (63 - (high))) & (~0UL << (low)))
#define GENMASK_ULL(high, low) \
	((~0ULL >> (63 - (high))) & (~0ULL << (low)))

/* Bits of an array of longs; those that return the old value are ordered. */
static inline unsigned long *shim_bit_word(long nr, const unsigned long *addr)
{
	return (unsigned long *)addr + nr / BITS_PER_LONG;
}

static inline unsigned long shim_bit_mask(long nr)
{
	return 1UL << (nr % BITS_PER_LONG);
}

static inline bool test_bit(long nr, const unsigned long *addr)
{
	return READ_ONCE(*shim_bit_word(nr, addr)) & shim_bit_mask(nr);
}

static inline void set_bit(long nr, unsigned long *addr)
{
	__atomic_fetch_or(shim_bit_word(nr, addr), shim_bit_mask(nr),
			  __ATOMIC_RELAXED);
}

static inline void clear_bit(long nr, unsigned long *addr)
{
	__atomic_fetch_and(shim_bit_word(nr, addr), ~shim_bit_mask(nr),
			   __ATOMIC_RELAXED);
}

static inline bool test_and_set_bit(long nr, unsigned long *addr)
{
	return __atomic_fetch_or(shim_bit_word(nr, addr), shim_bit_mask(nr),
				 __ATOMIC_SEQ_CST) & shim_bit_mask(nr);
}

static inline bool test_and_clear_bit(long nr, unsigned long *addr)
{
	return __atomic_fetch_and(shim_bit_word(nr, addr), ~shim_bit_mask(nr),
				  __ATOMIC_SEQ_CST) & shim_bit_mask(nr);
}

static inline void __set_bit(long nr, unsigned long *addr)
{
	*shim_bit_word(nr, addr) |= shim_bit_mask(nr);
}

static inline void __clear_bit(long nr, unsigned long *addr)
{
	*shim_bit_word(nr, addr) &= ~shim_bit_mask(nr);
}

static inline unsigned int __ffs(unsigned long word)
{
	return __builtin_ctzl(word);
}

static inline unsigned int __ffs64(u64 word)
{
	return __builtin_ctzll(word);
}

/* From 1; 0 if no bit is set. */
static inline int fls(unsigned int word)
{
	return word ? 32 - __builtin_clz(word) : 0;
}

static inline int fls64(u64 word)
{
	return word ? 64 - __builtin_clzll(word) : 0;
}

#define ffz(x)		__ffs(~(x))

static inline unsigned int hweight32(u32 word)
{
	return __builtin_popcount(word);
}

static inline unsigned int hweight64(u64 word)
{
	return __builtin_popcountll(word);
}

#define ilog2(n)		(fls64(n) - 1)
#define is_power_of_2(n)	((n) && !((n) & ((n) - 1)))
#define roundup_pow_of_two(n)	((n) <= 1 ? 1ULL : 1ULL << fls64((n) - 1))
#define rounddown_pow_of_two(n)	(1ULL << ilog2(n))
#define order_base_2(n)		((n) <= 1 ? 0 : fls64((n) - 1))

#endif
