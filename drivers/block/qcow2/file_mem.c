// SPDX-License-Identifier: GPL-2.0-only
/*
 * Transfers between the image file and memory of our own, whatever the file is:
 * what needs no more than file.h.
 */

#include <linux/bvec.h>
#include <linux/gfp.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <linux/uio.h>

#include "file.h"

/* Zeroes are written in pieces of this many zero pages. */
#define ZERO_PAGES	16

/**
 * qcow2_file_rw_page() - transfer between the file and (part of) a page
 * @file: the file
 * @write: direction
 * @offset: byte offset in the file, aligned
 * @page: kernel address inside one page, aligned
 * @bytes: length, aligned
 *
 * Context: sleeps.
 * Return: 0 or a negative errno.
 */
int qcow2_file_rw_page(struct qcow2_file *file, bool write, u64 offset,
		       void *page, size_t bytes)
{
	struct bio_vec bv;
	struct iov_iter iter;

	bvec_set_virt(&bv, page, bytes);
	iov_iter_bvec(&iter, write ? ITER_SOURCE : ITER_DEST, &bv, 1, bytes);
	return qcow2_file_rw(file, write, offset, &iter);
}

/**
 * qcow2_file_read_buf() - read into any kernel memory
 * @file: the file
 * @offset: byte offset in the file, aligned
 * @buf: where to
 * @bytes: length, need not be aligned
 *
 * Goes through a page of its own: for attach, not for guest I/O.
 *
 * Context: sleeps, allocates.
 * Return: 0 or a negative errno.
 */
int qcow2_file_read_buf(struct qcow2_file *file, u64 offset, void *buf,
			size_t bytes)
{
	void *page = (void *)__get_free_page(GFP_KERNEL);
	int ret = page ? 0 : -ENOMEM;

	while (!ret && bytes) {
		size_t n = min_t(size_t, bytes, PAGE_SIZE);

		ret = qcow2_file_rw_page(file, false, offset, page,
					 round_up(n, qcow2_file_align(file)));
		memcpy(buf, page, n);
		offset += n;
		buf += n;
		bytes -= n;
	}
	free_page((unsigned long)page);
	return ret;
}

/**
 * qcow2_file_write_zeroes() - write zeroes
 * @file: the file
 * @offset: byte offset, aligned
 * @bytes: length, aligned
 *
 * Context: sleeps; allocates nothing of its own.
 * Return: 0 or a negative errno.
 */
int qcow2_file_write_zeroes(struct qcow2_file *file, u64 offset, u64 bytes)
{
	struct bio_vec bv[ZERO_PAGES];
	int i;

	for (i = 0; i < ZERO_PAGES; i++)
		bvec_set_page(&bv[i], ZERO_PAGE(0), PAGE_SIZE, 0);
	while (bytes) {
		size_t n = min_t(u64, bytes, ZERO_PAGES * PAGE_SIZE);
		struct iov_iter iter;
		int ret;

		iov_iter_bvec(&iter, ITER_SOURCE, bv, ZERO_PAGES, n);
		ret = qcow2_file_rw(file, true, offset, &iter);
		if (ret)
			return ret;
		offset += n;
		bytes -= n;
	}
	return 0;
}
