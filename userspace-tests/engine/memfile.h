/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The image file in memory: what stands behind drivers/block/qcow2/file.h in
 * the tests.
 *
 * Transfers are carried out by threads of the file's own, in an order and after
 * delays that a seed decides, so that completions really come in another
 * context and overtake each other. Every operation can be recorded, and made to
 * fail.
 */
#ifndef _MEMFILE_H
#define _MEMFILE_H

#include <linux/types.h>

struct file;
struct qcow2_file;

/**
 * enum memfile_nowait - what becomes of transfers that are not to wait
 * @MEMFILE_NOWAIT_RANDOM: now and then one would have to wait, which is seen at
 *	once, or when some of it is done
 * @MEMFILE_NOWAIT_NEVER: the file is not fit for them, as with a page cache
 * @MEMFILE_NOWAIT_ALWAYS: they never have to
 * @MEMFILE_NOWAIT_NO_WRITE: each write would have to wait, as in a hole
 */
enum memfile_nowait {
	MEMFILE_NOWAIT_RANDOM,
	MEMFILE_NOWAIT_NEVER,
	MEMFILE_NOWAIT_ALWAYS,
	MEMFILE_NOWAIT_NO_WRITE,
};

/**
 * struct memfile_options - how a file behaves
 * @seed: of the order and the delays of transfers
 * @threads: how many carry transfers out; 0: transfers are done at once, by who
 *	submits them
 * @inline_percent: how many of 100 are done at once all the same
 * @delay_ns: a transfer is held up for a time up to this; 0 for not at all
 * @slow_percent: how many of 100 may be held up 100 times as long
 * @align: offsets, lengths and memory must be multiples of it; 512 if 0
 * @max_bytes: the largest size, which the file tells; 0 for 2^62
 * @record: keep a log of all operations
 * @nowait: what becomes of transfers that are not to wait
 * @guest_punches: holes may be made where transfers go on, as guests ask for them
 *	in a raw data file
 * @block_device: what is punched holds anything after that
 * @needs_pages: memory of transfers must be whole pages of their own
 * @clock: points in time are those of this file, which is destroyed later; so the
 *	operations of both have one order
 */
struct memfile_options {
	u64 seed;
	unsigned int threads;
	unsigned int inline_percent;
	unsigned int delay_ns;
	unsigned int slow_percent;
	unsigned int align;
	u64 max_bytes;
	bool record;
	enum memfile_nowait nowait;
	bool guest_punches;
	bool block_device;
	bool needs_pages;
	struct file *clock;
};

enum memfile_op {
	MEMFILE_READ,
	MEMFILE_WRITE,
	MEMFILE_FLUSH,
	MEMFILE_ZERO,	/* the range reads as zeroes, space is kept */
	MEMFILE_PUNCH,	/* likewise, space is given back */
	MEMFILE_TRUNCATE,
	MEMFILE_NR_OPS
};

/**
 * struct memfile_record - an operation that changes what is in the file, or
 *	makes it durable
 * @op: reads are not recorded
 * @dsync: a write that is durable when it has ended
 * @error: it failed; a write may have changed some of its sectors all the same
 * @begun: point in time
 * @applied: point in time when the content changed; gives the order of changes
 * @ended: point in time, 0 if it has not ended yet
 * @offset: in bytes
 * @bytes: length; new size of a truncate
 * @data: of a write
 *
 * Points in time are those of memfile_now().
 */
struct memfile_record {
	enum memfile_op op;
	bool dsync;
	int error;
	u64 begun;
	u64 applied;
	u64 ended;
	u64 offset;
	u64 bytes;
	unsigned char *data;
};

/**
 * struct memfile_fault - operations that fail
 * @ops: bits 1 << enum memfile_op
 * @skip: so many of them succeed first
 * @times: so many fail then; 0 for all
 * @error: negative errno
 * @torn: a write that fails changes a random part of its sectors
 * @keep: for memfile_strike() keep what the file holds when it strikes first
 * @from: only those that touch bytes from here ...
 * @to: ... up to here; 0 for everywhere
 */
struct memfile_fault {
	unsigned int ops;
	u64 skip;
	u64 times;
	int error;
	bool torn;
	bool keep;
	u64 from;
	u64 to;
};

/**
 * struct memfile_strike - the first operation that a fault made fail
 * @offset: where it was, in bytes
 * @bytes: its length
 * @file: what the file held just before
 * @file_bytes: length of that
 */
struct memfile_strike {
	u64 offset;
	u64 bytes;
	unsigned char *file;
	size_t file_bytes;
};

struct file *memfile_create(const struct memfile_options *options);
void memfile_destroy(struct file *filp);
/* What is open. */
struct file *memfile_of(const struct qcow2_file *file);

/*
 * 0 or a negative errno. Blocks of zeroes become holes, so that it makes no
 * difference which of them are holes in the file.
 */
int memfile_load(struct file *filp, const char *path);
int memfile_dump(struct file *filp, const char *path);
void memfile_store(struct file *filp, u64 offset, const void *buf,
		   size_t bytes);
void memfile_load_buf(struct file *filp, const void *buf, size_t bytes);
void memfile_fetch(struct file *filp, u64 offset, void *buf, size_t bytes);
bool memfile_is_zero(struct file *filp, u64 offset, u64 bytes);
/* The whole content; free() it. */
unsigned char *memfile_flatten(struct file *filp, size_t *bytes);
u64 memfile_bytes(struct file *filp);

/* Ticks with every beginning and every end, and with every call. */
u64 memfile_now(struct file *filp);
/* The log; only while no transfer runs. */
const struct memfile_record *memfile_log(struct file *filp, size_t *nr);
void memfile_log_clear(struct file *filp);
/* Between these nothing is added to the log, so that it can be read. */
void memfile_pause(struct file *filp);
void memfile_go_on(struct file *filp);
/* How many of a kind were begun since the file was made. */
u64 memfile_count(struct file *filp, enum memfile_op op);
/* From now on; while no transfer runs. */
void memfile_set_nowait(struct file *filp, enum memfile_nowait nowait);
/* From now on whoever writes up to there fast is over a limit of its own; 0: nobody. */
void memfile_limit(struct file *filp, u64 bytes);
/* Of the transfer that was submitted last. */
u16 memfile_ioprio(struct file *filp);
/* How many writes were asked not to wait since the file was made. */
u64 memfile_tries(struct file *filp);

/* One fault at a time; NULL for none. */
void memfile_fault(struct file *filp, const struct memfile_fault *fault);
/* How often it struck. */
u64 memfile_faults(struct file *filp);
/* Of the last fault, which had @keep; NULL if it did not strike. */
const struct memfile_strike *memfile_strike(struct file *filp);
/*
 * The next operation of one of these kinds (bits 1 << enum memfile_op; no flush)
 * that touches bytes from here up to there waits before it is carried out, until
 * memfile_release(). Others go on.
 */
void memfile_hold(struct file *filp, unsigned int ops, u64 from, u64 to);
void memfile_release(struct file *filp);
/* Is there one that waits? */
bool memfile_holds(struct file *filp);
/*
 * Writes that need new blocks fail with ENOSPC when the file has so many bytes
 * of them, rounded to 4 KiB; 0 for no limit.
 */
void memfile_set_space(struct file *filp, u64 bytes);
u64 memfile_space_used(struct file *filp);
/* The most that it ever was. */
u64 memfile_space_peak(struct file *filp);

/* For what file.h has beyond transfers, and for tests. 0 or a negative errno. */
int memfile_zero_range(struct file *filp, u64 offset, u64 bytes, bool punch);
int memfile_truncate(struct file *filp, u64 bytes);

#endif
