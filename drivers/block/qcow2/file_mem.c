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
#include <linux/slab.h>
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

/*
 * Some pages of our own.
 */

/* Moved by one transfer at most: 256 KiB with pages of 4 KiB. */
#define BUFFER_PAGES	64

/**
 * struct buffer - memory for a transfer
 * @bv: its pages
 * @nr: number of them
 */
struct buffer {
	struct bio_vec bv[BUFFER_PAGES];
	unsigned int nr;
};

static void buffer_free(struct buffer *buf)
{
	while (buf->nr)
		__free_page(buf->bv[--buf->nr].bv_page);
	kfree(buf);
}

/* Enough for @bytes bytes; with less memory a page is enough to go on. */
static struct buffer *buffer_alloc(u64 bytes)
{
	struct buffer *buf = kzalloc_obj(*buf, GFP_NOIO);
	gfp_t gfp = GFP_NOIO;

	if (!buf)
		return NULL;
	while (buf->nr < BUFFER_PAGES && (u64)buf->nr * PAGE_SIZE < bytes) {
		struct page *page = alloc_page(gfp);

		if (!page)
			break;
		bvec_set_page(&buf->bv[buf->nr++], page, PAGE_SIZE, 0);
		gfp = GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN;
	}
	if (buf->nr)
		return buf;
	buffer_free(buf);
	return NULL;
}

static u32 buffer_bytes(const struct buffer *buf, u64 bytes)
{
	return min_t(u64, bytes, (u64)buf->nr * PAGE_SIZE);
}

static int buffer_rw(struct qcow2_file *file, bool write, u64 offset,
		     struct buffer *buf, u32 bytes)
{
	struct iov_iter iter;

	iov_iter_bvec(&iter, write ? ITER_SOURCE : ITER_DEST, buf->bv, buf->nr,
		      bytes);
	return qcow2_file_rw(file, write, offset, &iter);
}

/**
 * qcow2_file_copy() - copy a part of the file to another place in it
 * @file: the file
 * @from: byte offset, aligned
 * @to: byte offset, aligned; the two parts do not overlap
 * @bytes: length, aligned
 *
 * Context: sleeps, allocates.
 * Return: 0 or a negative errno.
 */
int qcow2_file_copy(struct qcow2_file *file, u64 from, u64 to, u64 bytes)
{
	struct buffer *buf = buffer_alloc(bytes);
	int ret = buf ? 0 : -ENOMEM;
	u64 pos;
	u32 n;

	for (pos = 0; pos < bytes && !ret; pos += n) {
		n = buffer_bytes(buf, bytes - pos);
		ret = buffer_rw(file, false, from + pos, buf, n);
		ret = ret ?: buffer_rw(file, true, to + pos, buf, n);
	}
	if (buf)
		buffer_free(buf);
	return ret;
}

static void buffer_fill(struct buffer *buf, u64 pos, u32 bytes,
			qcow2_file_fill_fn fill, const void *arg)
{
	u32 done;

	for (done = 0; done < bytes; done += PAGE_SIZE)
		fill(page_address(buf->bv[done / PAGE_SIZE].bv_page),
		     pos + done, min_t(u32, bytes - done, PAGE_SIZE), arg);
}

/**
 * qcow2_file_write_filled() - write what a function makes
 * @file: the file
 * @offset: byte offset, aligned
 * @bytes: length, aligned
 * @fill: called for each page of it
 * @arg: for @fill
 *
 * Context: sleeps, allocates.
 * Return: 0 or a negative errno.
 */
int qcow2_file_write_filled(struct qcow2_file *file, u64 offset, u64 bytes,
			    qcow2_file_fill_fn fill, const void *arg)
{
	struct buffer *buf = buffer_alloc(bytes);
	int ret = buf ? 0 : -ENOMEM;
	u64 pos;
	u32 n;

	for (pos = 0; pos < bytes && !ret; pos += n) {
		n = buffer_bytes(buf, bytes - pos);
		buffer_fill(buf, pos, n, fill, arg);
		ret = buffer_rw(file, true, offset + pos, buf, n);
	}
	if (buf)
		buffer_free(buf);
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
