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

/*
 * Zeroes.
 */

#define ZERO_BVECS	(QCOW2_FILE_ZEROES_MAX / PAGE_SIZE)
static struct bio_vec zero_bvecs[ZERO_BVECS];

/**
 * qcow2_file_zeroes_init() - at load: prepare the zeroes
 *
 * Return: 0.
 */
int __init qcow2_file_zeroes_init(void)
{
	unsigned int i;

	for (i = 0; i < ZERO_BVECS; i++)
		bvec_set_page(&zero_bvecs[i], ZERO_PAGE(0), PAGE_SIZE, 0);
	return 0;
}

/**
 * qcow2_file_zeroes() - zeroes to be written
 * @iter: filled in
 * @bytes: how many, at most %QCOW2_FILE_ZEROES_MAX
 *
 * Context: any.
 */
void qcow2_file_zeroes(struct iov_iter *iter, size_t bytes)
{
	iov_iter_bvec(iter, ITER_SOURCE, zero_bvecs, ZERO_BVECS, bytes);
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
	while (bytes) {
		size_t n = min_t(u64, bytes, QCOW2_FILE_ZEROES_MAX);
		struct iov_iter iter;
		int ret;

		qcow2_file_zeroes(&iter, n);
		ret = qcow2_file_rw(file, true, offset, &iter);
		if (ret)
			return ret;
		offset += n;
		bytes -= n;
	}
	return 0;
}

/*
 * Pages.
 */

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

/* More than one page is a convenience: no reason to search for memory. */
#define GFP_MORE	(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN)

/**
 * struct buffer - memory for a transfer
 * @bv: its pages; the first one is the caller's
 * @nr: number of them
 * @one: what @bv is when there is no memory
 */
struct buffer {
	struct bio_vec *bv;
	unsigned int nr;
	struct bio_vec one;
};

/* Enough for @bytes bytes, or as far as there is memory: @page is enough to go on. */
static void buffer_init(struct buffer *buf, void *page, u64 bytes)
{
	unsigned int i, want = min_t(u64, BUFFER_PAGES,
				     DIV_ROUND_UP(bytes, PAGE_SIZE));

	buf->bv = kmalloc_array(want, sizeof(*buf->bv), GFP_MORE);
	if (!buf->bv) {
		buf->bv = &buf->one;
		want = 1;
	}
	bvec_set_virt(&buf->bv[0], page, PAGE_SIZE);
	for (i = 1; i < want; i++) {
		struct page *more = alloc_page(GFP_MORE);

		if (!more)
			break;
		bvec_set_page(&buf->bv[i], more, PAGE_SIZE, 0);
	}
	buf->nr = i;
}

static void buffer_exit(struct buffer *buf)
{
	while (buf->nr > 1)
		__free_page(buf->bv[--buf->nr].bv_page);
	if (buf->bv != &buf->one)
		kfree(buf->bv);
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
 * @page: a page for it, which is enough when there is no memory for more
 *
 * Context: sleeps; without memory it is slower, no more.
 * Return: 0 or a negative errno.
 */
int qcow2_file_copy(struct qcow2_file *file, u64 from, u64 to, u64 bytes,
		    void *page)
{
	struct buffer buf;
	int ret = 0;
	u64 pos;
	u32 n;

	buffer_init(&buf, page, bytes);
	for (pos = 0; pos < bytes && !ret; pos += n) {
		n = buffer_bytes(&buf, bytes - pos);
		ret = buffer_rw(file, false, from + pos, &buf, n);
		ret = ret ?: buffer_rw(file, true, to + pos, &buf, n);
	}
	buffer_exit(&buf);
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
 * @page: a page for it, which is enough when there is no memory for more
 *
 * Context: sleeps; without memory it is slower, no more.
 * Return: 0 or a negative errno.
 */
int qcow2_file_write_filled(struct qcow2_file *file, u64 offset, u64 bytes,
			    qcow2_file_fill_fn fill, const void *arg,
			    void *page)
{
	struct buffer buf;
	int ret = 0;
	u64 pos;
	u32 n;

	buffer_init(&buf, page, bytes);
	for (pos = 0; pos < bytes && !ret; pos += n) {
		n = buffer_bytes(&buf, bytes - pos);
		buffer_fill(&buf, pos, n, fill, arg);
		ret = buffer_rw(file, true, offset + pos, &buf, n);
	}
	buffer_exit(&buf);
	return ret;
}

/**
 * qcow2_file_look_through() - read a part of the file to look at it
 * @file: the file
 * @offset: byte offset, aligned
 * @bytes: length, aligned
 * @see: called for one page of it after the other
 * @arg: for @see
 *
 * It is read in one transfer, which may be too short for all of it, also for want of
 * memory.
 *
 * Context: sleeps, allocates.
 * Return: 0 or a negative errno.
 */
int qcow2_file_look_through(struct qcow2_file *file, u64 offset, u64 bytes,
			    qcow2_file_see_fn see, void *arg)
{
	void *page = (void *)__get_free_page(GFP_MORE);
	struct buffer buf;
	u32 pos, n;
	int ret;

	if (!page)
		return -ENOMEM;
	buffer_init(&buf, page, bytes);
	n = buffer_bytes(&buf, bytes);
	ret = buffer_rw(file, false, offset, &buf, n);
	for (pos = 0; !ret && pos < n; pos += PAGE_SIZE)
		if (!see(page_address(buf.bv[pos / PAGE_SIZE].bv_page),
			 min_t(u32, n - pos, PAGE_SIZE), arg))
			break;
	buffer_exit(&buf);
	free_page((unsigned long)page);
	return ret;
}
