/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sequence counters. What they guard must be marked accesses: these order them
 * by acquire and release as C11 wants, with the load of the second look made
 * an addition of nothing, since TSan knows no fences.
 */
#ifndef _SHIM_SEQLOCK_H
#define _SHIM_SEQLOCK_H

#include <linux/compiler.h>
#include <linux/preempt.h>

typedef struct {
	unsigned int sequence;
} seqcount_t;

static inline void seqcount_init(seqcount_t *s)
{
	s->sequence = 0;
}

static inline unsigned int read_seqcount_begin(const seqcount_t *s)
{
	unsigned int seq;

	while ((seq = smp_load_acquire(&s->sequence)) & 1)
		cpu_relax();
	return seq;
}

static inline bool read_seqcount_retry(const seqcount_t *s,
				       unsigned int seq)
{
	return __atomic_fetch_add((unsigned int *)&s->sequence, 0,
				  __ATOMIC_ACQ_REL) != seq;
}

static inline void write_seqcount_begin(seqcount_t *s)
{
	__atomic_fetch_add(&s->sequence, 1, __ATOMIC_ACQ_REL);
}

static inline void write_seqcount_end(seqcount_t *s)
{
	__atomic_fetch_add(&s->sequence, 1, __ATOMIC_ACQ_REL);
}

#endif
