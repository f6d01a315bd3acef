/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sequence counters. What they guard must be marked accesses: these order them
 * by acquire and release as C11 wants, with the load of the second look made
 * an addition of nothing, since TSan knows no fences.
 */
#ifndef _SHIM_SEQLOCK_H
#define _SHIM_SEQLOCK_H

#include <linux/mutex.h>
#include <linux/spinlock.h>

typedef struct {
	unsigned int sequence;
	struct shim_lock *lock;
} seqcount_mutex_t;

typedef seqcount_mutex_t seqcount_spinlock_t;

#define seqcount_mutex_init(s, m) \
	do { (s)->sequence = 0; (s)->lock = &(m)->base; } while (0)
#define seqcount_spinlock_init(s, l)	seqcount_mutex_init(s, l)

static inline unsigned int read_seqcount_begin(const seqcount_mutex_t *s)
{
	unsigned int seq;

	while ((seq = smp_load_acquire(&s->sequence)) & 1)
		cpu_relax();
	return seq;
}

static inline bool read_seqcount_retry(const seqcount_mutex_t *s,
				       unsigned int seq)
{
	return __atomic_fetch_add((unsigned int *)&s->sequence, 0,
				  __ATOMIC_ACQ_REL) != seq;
}

static inline void write_seqcount_begin(seqcount_mutex_t *s)
{
	shim_assert_held(s->lock, "seqcount's lock", __FILE__, __LINE__);
	__atomic_fetch_add(&s->sequence, 1, __ATOMIC_ACQ_REL);
}

static inline void write_seqcount_end(seqcount_mutex_t *s)
{
	__atomic_fetch_add(&s->sequence, 1, __ATOMIC_ACQ_REL);
}

#endif
