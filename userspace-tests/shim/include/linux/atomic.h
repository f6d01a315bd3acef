/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counters. What returns a value is fully ordered, the rest is not. Whoever is about
 * to exchange one may be held up there (shim_stall()).
 */
#ifndef _SHIM_ATOMIC_H
#define _SHIM_ATOMIC_H

#include <linux/compiler.h>
#include <linux/types.h>

/* In atomic context too, unlike shim_point(). */
void shim_stall(void);

typedef struct {
	int counter;
} atomic_t;

typedef struct {
	s64 counter;
} atomic64_t;

#define ATOMIC_INIT(i)		{ (i) }
#define ATOMIC64_INIT(i)	{ (i) }

#define SHIM_ATOMIC(name, type, value) \
static inline value name##_read(const type *v) \
{ \
	return READ_ONCE(v->counter); \
} \
static inline value name##_read_acquire(const type *v) \
{ \
	return smp_load_acquire(&v->counter); \
} \
static inline void name##_set(type *v, value i) \
{ \
	WRITE_ONCE(v->counter, i); \
} \
static inline void name##_set_release(type *v, value i) \
{ \
	smp_store_release(&v->counter, i); \
} \
static inline void name##_add(value i, type *v) \
{ \
	__atomic_fetch_add(&v->counter, i, __ATOMIC_RELAXED); \
} \
static inline void name##_sub(value i, type *v) \
{ \
	__atomic_fetch_sub(&v->counter, i, __ATOMIC_RELAXED); \
} \
static inline void name##_inc(type *v) \
{ \
	name##_add(1, v); \
} \
static inline void name##_dec(type *v) \
{ \
	name##_sub(1, v); \
} \
static inline value name##_add_return(value i, type *v) \
{ \
	return __atomic_add_fetch(&v->counter, i, __ATOMIC_SEQ_CST); \
} \
static inline value name##_inc_return(type *v) \
{ \
	return name##_add_return(1, v); \
} \
static inline value name##_dec_return(type *v) \
{ \
	return name##_add_return(-1, v); \
} \
static inline value name##_fetch_add(value i, type *v) \
{ \
	return __atomic_fetch_add(&v->counter, i, __ATOMIC_SEQ_CST); \
} \
static inline bool name##_dec_and_test(type *v) \
{ \
	return name##_dec_return(v) == 0; \
} \
static inline value name##_xchg(type *v, value new) \
{ \
	return __atomic_exchange_n(&v->counter, new, __ATOMIC_SEQ_CST); \
} \
static inline value name##_cmpxchg(type *v, value old, value new) \
{ \
	shim_stall(); \
	__atomic_compare_exchange_n(&v->counter, &old, new, false, \
				    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
	return old; \
} \
static inline bool name##_add_unless(type *v, value i, value unless) \
{ \
	value now = name##_read(v); \
	while (now != unless) \
		if (__atomic_compare_exchange_n(&v->counter, &now, now + i, \
						false, __ATOMIC_SEQ_CST, \
						__ATOMIC_RELAXED)) \
			return true; \
	return false; \
} \
static inline bool name##_inc_not_zero(type *v) \
{ \
	return name##_add_unless(v, 1, 0); \
} \
static inline value name##_dec_if_positive(type *v) \
{ \
	value now = name##_read(v); \
	while (now > 0) \
		if (__atomic_compare_exchange_n(&v->counter, &now, now - 1, \
						false, __ATOMIC_SEQ_CST, \
						__ATOMIC_RELAXED)) \
			break; \
	return now - 1; \
}

SHIM_ATOMIC(atomic, atomic_t, int)
SHIM_ATOMIC(atomic64, atomic64_t, s64)

#define cmpxchg(ptr, old, new) ({ \
	__typeof__(*(ptr)) _old = (old); \
	__atomic_compare_exchange_n(ptr, &_old, new, false, \
				    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
	_old; })
#define xchg(ptr, new)	__atomic_exchange_n(ptr, new, __ATOMIC_SEQ_CST)

#endif
