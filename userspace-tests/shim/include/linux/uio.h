/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Iterators over bvecs.
 */
#ifndef _SHIM_UIO_H
#define _SHIM_UIO_H

#include <linux/bvec.h>

#define ITER_SOURCE	1	/* data is taken from it */
#define ITER_DEST	0	/* data goes to it */

/**
 * struct iov_iter - where data is or goes
 * @data_source: %ITER_SOURCE or %ITER_DEST
 * @iov_offset: bytes of the first bvec that are done
 * @count: bytes left
 * @bvec: first bvec that is not done
 * @nr_segs: number of bvecs from there
 */
struct iov_iter {
	bool data_source;
	size_t iov_offset;
	size_t count;
	const struct bio_vec *bvec;
	unsigned long nr_segs;
};

static inline size_t iov_iter_count(const struct iov_iter *iter)
{
	return iter->count;
}

static inline unsigned int iov_iter_rw(const struct iov_iter *iter)
{
	return iter->data_source;
}

static inline void iov_iter_truncate(struct iov_iter *iter, u64 count)
{
	if (iter->count > count)
		iter->count = count;
}

static inline void iov_iter_reexpand(struct iov_iter *iter, size_t count)
{
	iter->count = count;
}

void iov_iter_bvec(struct iov_iter *iter, unsigned int direction,
		   const struct bio_vec *bvec, unsigned long nr_segs,
		   size_t count);
void iov_iter_advance(struct iov_iter *iter, size_t bytes);
size_t iov_iter_zero(size_t bytes, struct iov_iter *iter);
size_t copy_to_iter(const void *from, size_t bytes, struct iov_iter *iter);
size_t copy_from_iter(void *to, size_t bytes, struct iov_iter *iter);
unsigned long iov_iter_alignment(const struct iov_iter *iter);

#endif
