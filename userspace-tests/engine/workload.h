/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Random guest operations from several threads, and what the disk must hold.
 *
 * Operations that overlap do not run at the same time, so what a read must give
 * is always known; neighbours, in one cluster or one sector apart, do. Every
 * sector that is written names the write that wrote it.
 */
#ifndef _WORKLOAD_H
#define _WORKLOAD_H

#include <linux/types.h>
#include <pthread.h>
#include <semaphore.h>

#include "image.h"
#include "shim.h"

#define WL_SECTOR	512U

/**
 * struct waiting_io - a guest operation that somebody waits for
 * @io: filled in but for its image and @done
 * @done: posted when it is done
 * @done_by: the thread that posted
 */
struct waiting_io {
	struct qcow2_io io;
	sem_t done;
	pthread_t done_by;
};

void wl_start(struct qcow2_image *img, struct waiting_io *wait);
/* 0 or a negative errno. */
int wl_finish(struct waiting_io *wait);
/* Both. */
int wl_submit(struct qcow2_image *img, struct waiting_io *wait);

/**
 * struct wl_mix - what kind of operations, as weights
 * @read: reads
 * @write: writes
 * @fua: writes with FUA
 * @write_of_zeroes: writes of zeroes as data
 * @flush: flushes
 * @discard: discards
 * @zeroes: write zeroes
 * @race: a write or a read and a discard of the same bytes at the same time
 * @grow: growths of the L1 table, which no guest can ask for yet
 */
struct wl_mix {
	unsigned int read;
	unsigned int write;
	unsigned int fua;
	unsigned int write_of_zeroes;
	unsigned int flush;
	unsigned int discard;
	unsigned int zeroes;
	unsigned int race;
	unsigned int grow;
};

/**
 * struct wl_write - a write that was submitted, for the power-cut test
 * @seq: its number, from 1, which its sectors carry
 * @sector: first one
 * @nr: number of sectors
 * @zeroes: it wrote zeroes, as data, by write zeroes or by discard
 * @fua: durable when it is done
 * @begun: point in time (memfile_now())
 * @done: likewise; 0 if it failed
 */
struct wl_write {
	u64 seq;
	u32 sector;
	u32 nr;
	bool zeroes;
	bool fua;
	u64 begun;
	u64 done;
};

/**
 * struct wl_flush - a flush that succeeded
 */
struct wl_flush {
	u64 begun;
	u64 done;
};

/**
 * struct workload - a disk under test
 * @seed: of the operations and of the tags
 * @filp: the image file
 * @data_filp: the external data file, or NULL
 * @img: the image, while it is open
 * @bytes: size of the disk
 * @align: of guest operations
 * @mix: what to do
 * @max_op_bytes: the longest operation but for rare ones
 * @history: keep @writes and @flushes
 * @errors_ok: operations may fail; what they wrote may be old or new then
 * @no_unref: the image is open with discard-no-unref
 * @content: what the disk holds
 * @unknown: sectors of which nobody knows, as an operation failed on them
 * @failed: for each enum qcow2_op: how many operations failed
 */
struct workload {
	u64 seed;
	struct file *filp;
	struct file *data_filp;
	struct qcow2_image *img;
	u64 bytes;
	unsigned int align;
	struct wl_mix mix;
	u64 max_op_bytes;
	bool history;
	bool errors_ok;
	bool no_unref;

	unsigned char *content;
	unsigned char *unknown;
	u64 failed[QCOW2_OP_FLUSH + 1];

	/* private: */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned char *busy;
	u64 next_seq;
	u64 hot[4];
	struct wl_write *writes;
	size_t nr_writes, writes_room;
	struct wl_flush *flushes;
	size_t nr_flushes, flushes_room;
	u64 ops_done, bytes_done, errors;
};

/* Takes over @content, a copy of the disk as it is. */
void wl_init(struct workload *w, unsigned char *content, u64 bytes);
void wl_destroy(struct workload *w);

/*
 * Runs @ops operations in all, from @threads threads, and returns when all are
 * done. A read that gives the wrong bytes ends the process.
 */
void wl_run(struct workload *w, unsigned int threads, unsigned int ops,
	    u64 seed);
/* Chooses the places that are used more than others. wl_run() does it too. */
void wl_choose_places(struct workload *w, struct shim_random *r);
/* One random operation, in this thread. */
void wl_random_op(struct workload *w, struct shim_random *r);
/* Waits for a flush of the device. 0 or a negative errno. */
int wl_flush(struct workload *w);

/* One operation, and wait. @buf has @bytes bytes, for a read or a write. */
int wl_rw(struct workload *w, enum qcow2_op op, u64 offset, void *buf,
	  u64 bytes, bool fua, struct shim_random *r);

/* The sector as write @seq wrote it. */
void wl_fill_sector(u64 seed, u64 seq, u64 sector, void *to);
/* The number of the write that wrote it, 0 if it carries no tag of @seed. */
u64 wl_sector_seq(u64 seed, const void *sector);

/* Says what is wrong and with which seed, and ends the process. */
void wl_fail(u64 seed, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 2, 3)));
/* What goes on, for such messages. The text stays the caller's. */
void wl_say(const char *what);
/* From now on a crash, a failed assertion or @seconds of silence name @seed. */
void wl_name_seed(u64 seed, unsigned int seconds);

int wl_init_pools(void);
void wl_exit_pools(void);

#endif
