/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Variables of each CPU. A thread is on another one each time that it asks, as if it
 * were moved about: what is counted up here and down there must add up all the same.
 */
#ifndef _SHIM_PERCPU_H
#define _SHIM_PERCPU_H

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/slab.h>
#include <linux/types.h>

#define SHIM_CPU_BYTES	64

static inline unsigned int shim_any_cpu(void)
{
	static __thread unsigned int last;

	return ++last % nr_cpu_ids;
}

#define alloc_percpu(type) \
	((type *)kzalloc(SHIM_CPU_BYTES * nr_cpu_ids, GFP_KERNEL))
#define free_percpu(ptr)	kfree(ptr)
#define shim_cpu_ptr(ptr, cpu) \
	((typeof(ptr))((char *)(ptr) + SHIM_CPU_BYTES * (cpu)))
/* Whoever looks at one after the other may be held up in between. */
#define per_cpu_ptr(ptr, cpu)	(shim_stall(), shim_cpu_ptr(ptr, cpu))
/* So may whoever is about to use its own. */
#define raw_cpu_ptr(ptr)	(shim_stall(), shim_cpu_ptr(ptr, shim_any_cpu()))

#endif
