/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A disk for tests that know what they do step by step: one operation after the
 * other, or some that are held, and after each what the disk must hold. What goes
 * wrong ends the process.
 */
#ifndef _DISK_H
#define _DISK_H

#include <linux/types.h>
#include <linux/uio.h>

#include "base.h"
#include "image.h"
#include "memfile.h"
#include "qcheck.h"
#include "shim.h"
#include "workload.h"

/* Of the tags in what is written; see wl_sector_seq(). */
#define SEED		0xb065ULL

/* Says what is wrong, as a diagnostic of TAP. */
void fail(const char *fmt, ...)
	__attribute__((noreturn, format(printf, 1, 2)));

#define expect(condition, ...)			\
	do {					\
		if (!(condition))		\
			fail(__VA_ARGS__);	\
	} while (0)

/* Gives @condition ten seconds to become true. */
#define wait_for(condition, ...)				\
	do {							\
		u64 until_ = shim_now_ns() + 10000000000ULL;	\
								\
		while (!(condition)) {				\
			expect(shim_now_ns() < until_, __VA_ARGS__); \
			usleep(200);				\
		}						\
	} while (0)

/**
 * struct shape - what an image looks like
 * @text: for the name of the test
 * @base: how it is made
 */
struct shape {
	const char *text;
	struct base_options base;
};

/**
 * struct disk - an image, attached or not, and what its disk holds
 * @shape: how it was made
 * @options: of its file
 * @filp: its file
 * @img: NULL while it is not attached
 * @cluster: size of a cluster
 * @bytes: size of the disk
 * @content: of the disk
 * @seq: number of the last write
 * @no_unref: it is attached with discard-no-unref
 * @layer: the backing file, or NULL
 * @backing: the bytes of that, as many as the disk has
 */
struct disk {
	const struct shape *shape;
	struct memfile_options options;
	struct file *filp;
	struct qcow2_image *img;
	u64 cluster;
	u64 bytes;
	unsigned char *content;
	u64 seq;
	bool no_unref;
	struct file *layer;
	unsigned char *backing;
};

/**
 * struct op - a guest operation
 * @wait: the operation
 * @bv: its data
 * @buf: likewise, of get_buffer(); free() it
 * @keep: a write zeroes must keep the host clusters
 * @by_worker: as in struct qcow2_io
 * @ioprio: likewise
 */
struct op {
	struct waiting_io wait;
	struct bio_vec bv;
	unsigned char *buf;
	bool keep;
	bool by_worker;
	u16 ioprio;
};

/* ---- guest operations ---- */

unsigned char *get_buffer(u64 bytes);
/* Data that names this write, which is counted. */
unsigned char *new_data(struct disk *d, u64 offset, u64 bytes);
/* Starts an operation; one with data has op->buf. Then finish() it. */
void start(struct disk *d, struct op *op, enum qcow2_op what, u64 offset,
	   u64 bytes);
bool is_done(struct op *op);
/* 0 or a negative errno, as all that return an int. */
int finish(struct op *op);
int run_op(struct disk *d, enum qcow2_op what, u64 offset, u64 bytes);
/* These keep the disk's content up to date, or compare with it. */
int try_write(struct disk *d, u64 offset, u64 bytes);
void write_new(struct disk *d, u64 offset, u64 bytes);
void write_all(struct disk *d);
void make_zero(struct disk *d, enum qcow2_op what, u64 offset, u64 bytes);
/* Write zeroes that keeps the host clusters. */
void keep_as_zeroes(struct disk *d, u64 offset, u64 bytes);
int try_read(struct disk *d, u64 offset, u64 bytes);
void read_back(struct disk *d, u64 offset, u64 bytes);
void flush(struct disk *d);
/* Is there anything that was given up and is not free yet? */
bool has_drops(struct disk *d);
/* Flushes, and waits until what was given up is free. */
void settle(struct disk *d);

/* Every sector of @buf must be that of one of the others. */
void compare(const unsigned char *buf, const unsigned char *one,
	     const unsigned char *other, u64 offset, u64 bytes,
	     const char *what);

/* ---- the image ---- */

/* A disk of zeroes; commits come only when they are asked for. */
void make_disk(struct disk *d, const struct shape *shape);
/* Likewise, but on a raw backing file of the same size, all of it data. */
void make_overlay(struct disk *d, const struct shape *shape);
void destroy(struct disk *d);
void attach(struct disk *d);
int detach(struct disk *d);
/* Detaches, and looks at all that the file holds. */
void detach_and_look(struct disk *d);
/* QEMU makes a snapshot of the detached image, which then shares all tables. */
void take_snapshot(struct disk *d);
/* Where the cluster lies, 0 if nowhere. */
u64 host_of(struct disk *d, u64 offset);
/* No corruption, now. */
struct qcheck check_file(struct disk *d, const char *when);
/* What the file says that the disk, or that of its first snapshot, holds. */
unsigned char *disk_of_file(struct disk *d, bool snapshot);

#endif
