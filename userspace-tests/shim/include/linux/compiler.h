/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the compiler and the memory model give the engine in the kernel.
 */
#ifndef _SHIM_COMPILER_H
#define _SHIM_COMPILER_H

#include <linux/stddef.h>

#define __init
#define __exit
#define __initconst
#define __must_check		__attribute__((warn_unused_result))
#define __maybe_unused		__attribute__((unused))
#define __packed		__attribute__((packed))
#define __aligned(x)		__attribute__((aligned(x)))
#define __printf(a, b)		__attribute__((format(printf, a, b)))
#define __cold			__attribute__((cold))
#define noinline		__attribute__((noinline))
#define fallthrough		__attribute__((fallthrough))
#define __rcu
#define __percpu
#define __user
#define __force

#define likely(x)		__builtin_expect(!!(x), 1)
#define unlikely(x)		__builtin_expect(!!(x), 0)

#define IS_ENABLED(option)	(option)

#undef static_assert
#define static_assert(expr, ...)	_Static_assert(expr, #expr)
#define BUILD_BUG_ON(expr)		_Static_assert(!(expr), #expr)

/* Marked accesses are relaxed atomics, which is how TSan knows them. */
#define READ_ONCE(x)		__atomic_load_n(&(x), __ATOMIC_RELAXED)
#define WRITE_ONCE(x, value)	__atomic_store_n(&(x), (value), __ATOMIC_RELAXED)
#define smp_load_acquire(p)	__atomic_load_n((p), __ATOMIC_ACQUIRE)
#define smp_store_release(p, value) \
	__atomic_store_n((p), (value), __ATOMIC_RELEASE)

/*
 * TSan does not model fences, but it does an atomic exchange, which is a full
 * barrier on the machines that we test on and in C11's order of all seq_cst
 * operations as well.
 */
extern int shim_fence;
#define smp_mb()	((void)__atomic_fetch_add(&shim_fence, 1, __ATOMIC_SEQ_CST))
#define smp_rmb()	smp_mb()
#define smp_wmb()	smp_mb()
#define smp_mb__before_atomic()	smp_mb()
#define smp_mb__after_atomic()	smp_mb()
#define barrier()	__asm__ __volatile__("" ::: "memory")

void cpu_relax(void);
void cond_resched(void);
void might_sleep(void);

#endif
