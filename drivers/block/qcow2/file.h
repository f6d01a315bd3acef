/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lower seam of the engine: the file that holds the image.
 *
 * In the kernel file.c carries these out with kiocbs on an open struct file.
 * In user space the tests link another implementation behind this header.
 */
#ifndef _QCOW2_FILE_H
#define _QCOW2_FILE_H

#include <linux/atomic.h>
#include <linux/bvec.h>
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/sizes.h>
#include <linux/types.h>
#include <linux/uio.h>
#include <linux/workqueue.h>

struct qcow2_file;
struct qcow2_reason;

/**
 * struct qcow2_fio - one asynchronous transfer between memory and the file
 * @file: the file
 * @offset: byte offset in the file
 * @iter: bvecs to read into or to write from; its count is the length.  Not
 *	changed by the transfer.
 * @ioprio: as in a bio; 0 for that of whoever transfers it
 * @write: true for a write
 * @dsync: for a write: complete only when the data is durable
 * @nowait: do not wait for anything but memory, and fail with -EAGAIN, whatever the
 *	reason, maybe after some of it was transferred; the file must be fit for
 *	that, see qcow2_file_can_nowait()
 * @done: called once, in any context, maybe before qcow2_file_submit()
 *	returns; must not sleep
 * @error: result for @done, 0 or a negative errno
 *
 * The other members belong to the implementation.  A read past the end of the
 * file gives zeroes.  A transfer is whole or it has failed.
 */
struct qcow2_fio {
	struct qcow2_file *file;
	u64 offset;
	struct iov_iter iter;
	u16 ioprio;
	bool write;
	bool dsync;
	bool nowait;
	void (*done)(struct qcow2_fio *fio);
	int error;

	/* private: */
	size_t transferred;
	atomic_t users;
	long result;
	struct iov_iter rest;
	struct kiocb iocb;
	struct work_struct work;
};

/**
 * enum qcow2_file_flags - how qcow2_file_open() shall use the file
 * @QCOW2_FILE_WRITABLE: it will be written
 * @QCOW2_FILE_DIRECT: bypass the page cache
 * @QCOW2_FILE_AHEAD: while it is open it may be longer than what was written to
 *	it, if that makes writes faster
 */
enum qcow2_file_flags {
	QCOW2_FILE_WRITABLE	= 1 << 0,
	QCOW2_FILE_DIRECT	= 1 << 1,
	QCOW2_FILE_AHEAD	= 1 << 2,
};

struct qcow2_file *qcow2_file_open(struct file *filp, unsigned int flags,
				   struct workqueue_struct *wq,
				   struct qcow2_reason *why);
void qcow2_file_close(struct qcow2_file *file);

void qcow2_file_submit(struct qcow2_fio *fio);
int qcow2_file_rw(struct qcow2_file *file, bool write, u64 offset,
		  struct iov_iter *iter);
int qcow2_file_read_buf(struct qcow2_file *file, u64 offset, void *buf,
			size_t bytes);
int qcow2_file_rw_page(struct qcow2_file *file, bool write, u64 offset,
		       void *page, size_t bytes);
int qcow2_file_copy(struct qcow2_file *file, u64 from, u64 to, u64 bytes,
		    void *page);

/**
 * typedef qcow2_file_fill_fn - make a part of what is to be written
 * @buf: where to
 * @pos: its first byte, counted from the first that is written; a multiple of a page
 * @bytes: its length, at most a page
 * @arg: from qcow2_file_write_filled()
 */
typedef void (*qcow2_file_fill_fn)(void *buf, u64 pos, u32 bytes,
				   const void *arg);
int qcow2_file_write_filled(struct qcow2_file *file, u64 offset, u64 bytes,
			    qcow2_file_fill_fn fill, const void *arg,
			    void *page);

/**
 * typedef qcow2_file_see_fn - look at a part of what was read
 * @buf: the part
 * @bytes: its length, at most a page
 * @arg: from qcow2_file_look_through()
 *
 * Return: false to look at no more.
 */
typedef bool (*qcow2_file_see_fn)(const void *buf, u32 bytes, void *arg);
int qcow2_file_look_through(struct qcow2_file *file, u64 offset, u64 bytes,
			    qcow2_file_see_fn see, void *arg);

/* Zeroes that one transfer can write. */
#define QCOW2_FILE_ZEROES_MAX	SZ_2M

int __init qcow2_file_zeroes_init(void);
void qcow2_file_zeroes(struct iov_iter *iter, size_t bytes);
int qcow2_file_write_zeroes(struct qcow2_file *file, u64 offset, u64 bytes);
int qcow2_file_make_zero(struct qcow2_file *file, u64 offset, u64 bytes);
int qcow2_file_punch(struct qcow2_file *file, u64 offset, u64 bytes);
int qcow2_file_flush(struct qcow2_file *file);

bool qcow2_file_holes_are_zero(const struct qcow2_file *file);
u64 qcow2_file_bytes(const struct qcow2_file *file);
bool qcow2_file_can_nowait(const struct qcow2_file *file);
bool qcow2_file_needs_pages(const struct qcow2_file *file);
bool qcow2_file_has(const struct qcow2_file *file, u64 bytes);
bool qcow2_file_is_limited(const struct qcow2_file *file, u64 bytes);
u64 qcow2_file_max_bytes(const struct qcow2_file *file);
unsigned int qcow2_file_align(const struct qcow2_file *file);
bool qcow2_file_same(const struct qcow2_file *file, struct file *filp);
int qcow2_path_of(struct file *filp, char *buf, size_t bytes);
int qcow2_file_path(const struct qcow2_file *file, char *buf, size_t bytes);

#endif /* _QCOW2_FILE_H */
