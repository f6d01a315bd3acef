// SPDX-License-Identifier: GPL-2.0-only
/*
 * Iterators over bvecs.
 */

#include <linux/bug.h>
#include <linux/string.h>
#include <linux/uio.h>

#include "internal.h"

void iov_iter_bvec(struct iov_iter *iter, unsigned int direction,
		   const struct bio_vec *bvec, unsigned long nr_segs,
		   size_t count)
{
	WARN_ON(direction != ITER_SOURCE && direction != ITER_DEST);
	*iter = (struct iov_iter) {
		.data_source = direction,
		.bvec = bvec,
		.nr_segs = nr_segs,
		.count = count,
	};
}

/* Leaves finished bvecs behind; bytes of the first one that are left. */
static size_t left_in_first(struct iov_iter *iter)
{
	while (iter->nr_segs && iter->iov_offset >= iter->bvec->bv_len) {
		iter->iov_offset -= iter->bvec->bv_len;
		iter->bvec++;
		iter->nr_segs--;
	}
	if (!iter->nr_segs)
		shim_die("an iterator counts more than its bvecs hold");
	return iter->bvec->bv_len - iter->iov_offset;
}

/* Goes over @bytes and calls @step for each piece. */
static size_t walk(struct iov_iter *iter, size_t bytes,
		   void (*step)(void *piece, size_t n, char **other),
		   char *other)
{
	size_t done = 0;

	if (bytes > iter->count)
		bytes = iter->count;
	while (done < bytes) {
		size_t n = left_in_first(iter);

		if (n > bytes - done)
			n = bytes - done;
		step((char *)bvec_virt(iter->bvec) + iter->iov_offset, n,
		     &other);
		iter->iov_offset += n;
		iter->count -= n;
		done += n;
	}
	return done;
}

static void skip(void *piece, size_t n, char **other)
{
	(void)piece;
	(void)n;
	(void)other;
}

static void zero(void *piece, size_t n, char **other)
{
	(void)other;
	memset(piece, 0, n);
}

static void copy_in(void *piece, size_t n, char **other)
{
	memcpy(piece, *other, n);
	*other += n;
}

static void copy_out(void *piece, size_t n, char **other)
{
	memcpy(*other, piece, n);
	*other += n;
}

void iov_iter_advance(struct iov_iter *iter, size_t bytes)
{
	walk(iter, bytes, skip, NULL);
}

size_t iov_iter_zero(size_t bytes, struct iov_iter *iter)
{
	WARN_ON(iter->data_source);
	return walk(iter, bytes, zero, NULL);
}

size_t copy_to_iter(const void *from, size_t bytes, struct iov_iter *iter)
{
	WARN_ON(iter->data_source);
	return walk(iter, bytes, copy_in, (char *)from);
}

size_t copy_from_iter(void *to, size_t bytes, struct iov_iter *iter)
{
	WARN_ON(!iter->data_source);
	return walk(iter, bytes, copy_out, to);
}

unsigned long iov_iter_alignment(const struct iov_iter *iter)
{
	struct iov_iter it = *iter;
	unsigned long all = 0;

	while (it.count) {
		size_t n = left_in_first(&it);

		if (n > it.count)
			n = it.count;
		all |= (unsigned long)bvec_virt(it.bvec) + it.iov_offset;
		all |= n;
		it.iov_offset += n;
		it.count -= n;
	}
	return all;
}
