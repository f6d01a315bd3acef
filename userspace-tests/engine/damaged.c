// SPDX-License-Identifier: GPL-2.0-only
/*
 * Damaged images.
 *
 * An image is damaged in one way, and then used so that it matters: writing
 * must not make it worse (invariant I8). The operation fails, no metadata in
 * the file changes, the image takes no more changes and says so, what is sound
 * can be read; the closed image is marked corrupt and cannot be attached for
 * writing again.
 */

#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/rcupdate.h>

#include "args.h"
#include "base.h"
#include "memfile.h"
#include "qcheck.h"
#include "workload.h"

#define HANG_SECONDS	60
#define SEED		1
#define MAX_STEPS	4
#define K		1024U

#define COPIED		(1ULL << 63)
#define OFFSET		0x00fffffffffffe00ULL

#define HEADER_SNAPSHOTS_OFFSET	64
#define HEADER_INCOMPATIBLE	72
#define HEADER_AUTOCLEAR	88
#define INCOMPATIBLE_CORRUPT	2

/*
 * Images, and ways to damage them.
 */

/**
 * enum image - what is damaged
 * @PREALLOCATED: clusters of 4 KiB, all of which have a place in the file
 * @EMPTY: clusters of 4 KiB, none of which has
 * @SMALL: clusters of 512 bytes, refcounts of 64 bits
 * @SNAPSHOT: as @PREALLOCATED, and a snapshot has all of it
 * @EXTENDED: clusters of 16 KiB with subclusters, preallocated
 */
enum image {
	PREALLOCATED,
	EMPTY,
	SMALL,
	SNAPSHOT,
	EXTENDED,
};

static const struct base_options images[] = {
	[PREALLOCATED] = { .cluster_bits = 12, .refcount_bits = 16,
			   .metadata = true },
	[EMPTY] = { .cluster_bits = 12, .refcount_bits = 16 },
	[SMALL] = { .cluster_bits = 9, .refcount_bits = 64 },
	[SNAPSHOT] = { .cluster_bits = 12, .refcount_bits = 16,
		       .metadata = true, .snapshot = true },
	[EXTENDED] = { .cluster_bits = 14, .refcount_bits = 16,
		       .metadata = true, .extl2 = true },
};

/**
 * struct victim - an image in memory
 * @file: its bytes; there is room behind
 * @bytes: how many
 * @q: the same for the reader
 */
struct victim {
	unsigned char *file;
	size_t bytes;
	struct qimg q;
};

static u64 get64(const struct victim *v, u64 pos)
{
	u64 value = 0;
	int i;

	for (i = 0; i < 8; i++)
		value = value << 8 | v->file[pos + i];
	return value;
}

static void put64(struct victim *v, u64 pos, u64 value)
{
	int i;

	for (i = 7; i >= 0; i--, value >>= 8)
		v->file[pos + i] = value;
}

/* Where in the file the L2 entry of a guest offset is. */
static u64 l2_entry(const struct victim *v, u64 guest_offset)
{
	u64 per_table = v->q.cluster_bytes / v->q.entry_bytes;
	u64 cluster = guest_offset >> v->q.cluster_bits;
	u64 l1 = get64(v, v->q.l1_offset + cluster / per_table * 8);

	return (l1 & OFFSET) + cluster % per_table * v->q.entry_bytes;
}

static u64 refblock(const struct victim *v)
{
	return get64(v, v->q.reftable_offset);
}

static void set_refcount(struct victim *v, u64 offset, unsigned int value)
{
	u64 cluster = offset >> v->q.cluster_bits;

	/* 16 bits, in the first block */
	v->file[refblock(v) + cluster * 2] = value >> 8;
	v->file[refblock(v) + cluster * 2 + 1] = value;
}

static void data_on_l1(struct victim *v)
{
	put64(v, l2_entry(v, 0), v->q.l1_offset | COPIED);
}

/* As if a snapshot had it too, so that a write drops a reference to it. */
static void shared_data_on_l1(struct victim *v)
{
	put64(v, l2_entry(v, 0), v->q.l1_offset);
}

static void data_on_reftable(struct victim *v)
{
	put64(v, l2_entry(v, 0), v->q.reftable_offset | COPIED);
}

static void data_on_refblock(struct victim *v)
{
	put64(v, l2_entry(v, 0), refblock(v) | COPIED);
}

static void data_on_l2(struct victim *v)
{
	put64(v, l2_entry(v, 0), (get64(v, v->q.l1_offset) & OFFSET) | COPIED);
}

static void data_on_snapshots(struct victim *v)
{
	put64(v, l2_entry(v, 0), v->q.snapshots_offset | COPIED);
}

static void data_on_snapshot_l1(struct victim *v)
{
	put64(v, l2_entry(v, 0), get64(v, v->q.snapshots_offset) | COPIED);
}

static void l1_is_snapshots_too(struct victim *v)
{
	put64(v, v->q.snapshots_offset, v->q.l1_offset);
}

static void l1_not_counted(struct victim *v)
{
	set_refcount(v, v->q.l1_offset, 0);
}

static void l2_on_reftable(struct victim *v)
{
	put64(v, v->q.l1_offset, v->q.reftable_offset | COPIED);
}

/* The third one, which counts what will be taken next. */
static void refblock_on_l1(struct victim *v)
{
	put64(v, v->q.reftable_offset + 16, v->q.l1_offset);
}

static void data_not_aligned(struct victim *v)
{
	u64 pos = l2_entry(v, 0);

	put64(v, pos, get64(v, pos) + 512);
}

static void bitmap_contradicts(struct victim *v)
{
	put64(v, l2_entry(v, 0) + 8, 1ULL << 32 | 1);
}

static void bitmap_without_cluster(struct victim *v)
{
	put64(v, l2_entry(v, 0), 0);
	put64(v, l2_entry(v, 0) + 8, 1);
}

static void data_not_counted(struct victim *v)
{
	set_refcount(v, get64(v, l2_entry(v, 0)) & OFFSET, 0);
}

/* The first two clusters are one, which counts as used by one. */
static void data_counted_once(struct victim *v)
{
	put64(v, l2_entry(v, 4 * K), get64(v, l2_entry(v, 0)));
}

/* As if a snapshot had it too; for a write it is free all the same. */
static void shared_data_not_counted(struct victim *v)
{
	u64 pos = l2_entry(v, 0);

	put64(v, pos, get64(v, pos) & ~COPIED);
	data_not_counted(v);
}

/* The second of two clusters. */
static void second_not_counted(struct victim *v)
{
	u64 pos = l2_entry(v, 4 * K);

	put64(v, pos, get64(v, pos) & ~COPIED);
	pos = l2_entry(v, 0);
	put64(v, pos, get64(v, pos) & ~COPIED);
	set_refcount(v, get64(v, l2_entry(v, 4 * K)) & OFFSET, 0);
}

/*
 * It lies behind all others now, without a refcount; where it was, a cluster is
 * free, so that the allocator does not come upon it.
 */
static void l2_not_counted(struct victim *v)
{
	u64 old = get64(v, v->q.l1_offset) & OFFSET;
	u64 end = round_up(v->bytes, v->q.cluster_bytes);

	memcpy(v->file + end, v->file + old, v->q.cluster_bytes);
	v->bytes = end + v->q.cluster_bytes;
	put64(v, v->q.l1_offset, end);
	set_refcount(v, old, 0);
}

/* Refcounts have 64 bits, a block 64 of them, and the first is its own. */
static void not_counted_by_block(struct victim *v, u64 host)
{
	u64 index = host / 512;
	u64 block = get64(v, v->q.reftable_offset + index / 64 * 8);

	put64(v, block + index % 64 * 8, 0);
}

/*
 * Of the first two clusters another block counts the second, or rather does not.
 * What is free lies so far in front that nobody comes by that block.
 */
static void second_slice_not_counted(struct victim *v)
{
	u64 guest, pos, host;

	for (guest = 3 * 512; guest < 64 * K; guest += 512) {
		pos = l2_entry(v, guest);
		host = get64(v, pos) & OFFSET;
		if (host % (64 * 512) == 512)
			break;
	}
	not_counted_by_block(v, get64(v, l2_entry(v, 512)) & OFFSET);
	not_counted_by_block(v, get64(v, l2_entry(v, 1024)) & OFFSET);
	put64(v, l2_entry(v, 1024), 0);
	not_counted_by_block(v, host);
	put64(v, l2_entry(v, 0), get64(v, l2_entry(v, 0)) & OFFSET);
	put64(v, l2_entry(v, 512), host);
	put64(v, pos, 0);
}

/* Its entry says otherwise, and no block counts so far. */
static void data_behind_blocks(struct victim *v)
{
	put64(v, l2_entry(v, 0), 1ULL << 40);
}

/* The first free cluster, which a new table will take, is in use as data. */
static void data_on_free(struct victim *v)
{
	u64 end = round_up(v->bytes, v->q.cluster_bytes);

	put64(v, l2_entry(v, 512 * K + 4 * K), end | COPIED);
}

/* So is the place of the next refcount block. */
static void data_on_next_refblock(struct victim *v)
{
	u64 span = 64 * v->q.cluster_bytes;

	put64(v, l2_entry(v, 512 * K + 8 * K),
	      round_up(v->bytes, span) | COPIED);
}

/*
 * Cases.
 */

enum what {
	END,
	READ,
	WRITE,
	DISCARD,
};

struct step {
	enum what what;
	u32 offset;
	u32 bytes;
};

/**
 * struct damage - a case
 * @name: what is wrong
 * @image: with which image
 * @prepare: steps before the damage is done
 * @damage: does it
 * @use: steps on the damaged image that work
 * @bad: the step that must fail
 * @late: it is found when references are dropped, after a flush
 * @counts: refcounts may change all the same
 * @partly: a part of the bad step is sound, and carried out
 * @good: what can still be read; no bytes: nothing is sure
 */
struct damage {
	const char *name;
	enum image image;
	struct step prepare[MAX_STEPS];
	void (*damage)(struct victim *v);
	struct step use[MAX_STEPS];
	struct step bad;
	bool late;
	bool counts;
	bool partly;
	struct step good;
};

static const struct damage damages[] = {
	{ "discard of data on the L1 table", PREALLOCATED,
	  .damage = data_on_l1, .bad = { DISCARD, 0, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "discard of data on the refcount table", PREALLOCATED,
	  .damage = data_on_reftable, .bad = { DISCARD, 0, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "discard of data on a refcount block", PREALLOCATED,
	  .damage = data_on_refblock, .bad = { DISCARD, 0, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "discard of data on an L2 table", PREALLOCATED,
	  .damage = data_on_l2, .bad = { DISCARD, 0, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "data on the L1 table", PREALLOCATED, .damage = data_on_l1,
	  .bad = { WRITE, 0, 4 * K }, .good = { READ, 64 * K, 64 * K } },
	{ "shared data on the L1 table", PREALLOCATED,
	  .damage = shared_data_on_l1, .bad = { WRITE, 0, 4 * K },
	  .late = true, .good = { READ, 64 * K, 64 * K } },
	{ "data on the refcount table", PREALLOCATED,
	  .damage = data_on_reftable, .bad = { WRITE, 512, 512 },
	  .good = { READ, 64 * K, 64 * K } },
	{ "data on a refcount block", PREALLOCATED,
	  .damage = data_on_refblock, .bad = { WRITE, 0, 16 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "data on an L2 table", PREALLOCATED, .damage = data_on_l2,
	  .bad = { WRITE, 0, 4 * K }, .good = { READ, 64 * K, 64 * K } },
	{ "data on the snapshot table", SNAPSHOT, .prepare = {
	  { WRITE, 0, 4 * K } }, .damage = data_on_snapshots,
	  .bad = { WRITE, 0, 4 * K }, .good = { READ, 64 * K, 64 * K } },
	{ "data on the L1 table of a snapshot", SNAPSHOT, .prepare = {
	  { WRITE, 0, 4 * K } }, .damage = data_on_snapshot_l1,
	  .bad = { WRITE, 0, 4 * K }, .good = { READ, 64 * K, 64 * K } },
	{ "the L1 table is that of a snapshot too", SNAPSHOT,
	  .damage = l1_is_snapshots_too, .bad = { WRITE, 0, 4 * K },
	  .counts = true, .good = { READ, 64 * K, 64 * K } },
	{ "the L1 table is not counted", EMPTY, .damage = l1_not_counted,
	  .bad = { WRITE, 0, 4 * K }, .counts = true,
	  .good = { READ, 64 * K, 64 * K } },
	{ "an L2 table on the refcount table", PREALLOCATED,
	  .damage = l2_on_reftable, .bad = { WRITE, 0, 4 * K } },
	{ "a refcount block on the L1 table", SMALL,
	  .prepare = { { WRITE, 0, 64 * K } }, .damage = refblock_on_l1,
	  .bad = { WRITE, 512 * K, 64 * K }, .counts = true,
	  .good = { READ, 0, 64 * K } },
	{ "an L2 entry is not aligned, found by a write", PREALLOCATED,
	  .damage = data_not_aligned, .bad = { WRITE, 0, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "an L2 entry is not aligned, found by a read", PREALLOCATED,
	  .damage = data_not_aligned, .bad = { READ, 0, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "an L2 entry is not aligned, found by a discard", PREALLOCATED,
	  .damage = data_not_aligned, .bad = { DISCARD, 0, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "a subcluster with data is zero, found by a write", EXTENDED,
	  .damage = bitmap_contradicts, .bad = { WRITE, 4 * K, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "a subcluster with data is zero, found by a read", EXTENDED,
	  .damage = bitmap_contradicts, .bad = { READ, 4 * K, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "a subcluster with data has no cluster", EXTENDED,
	  .damage = bitmap_without_cluster, .bad = { WRITE, 4 * K, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "data is not counted, and is discarded", PREALLOCATED,
	  .damage = data_not_counted, .bad = { DISCARD, 0, 4 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "data is not counted, and is discarded with other", PREALLOCATED,
	  .damage = second_not_counted, .bad = { DISCARD, 4 * K, 16 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "data of two that is counted once, and is discarded", PREALLOCATED,
	  .damage = data_counted_once, .bad = { DISCARD, 0, 8 * K },
	  .late = true, .good = { READ, 64 * K, 64 * K } },
	{ "shared data is not counted, and is written", PREALLOCATED,
	  .damage = shared_data_not_counted, .bad = { WRITE, 0, 512 },
	  .good = { READ, 64 * K, 64 * K } },
	{ "shared data is not counted, and is written with other", PREALLOCATED,
	  .damage = second_not_counted, .bad = { WRITE, 0, 16 * K },
	  .good = { READ, 64 * K, 64 * K } },
	{ "shared data is not counted, in a slice that is not at hand", SMALL,
	  .prepare = { { WRITE, 0, 64 * K } },
	  .damage = second_slice_not_counted, .bad = { WRITE, 0, 1 * K },
	  .partly = true, .good = { READ, 0, 512 } },
	{ "shared data where no block counts is written", PREALLOCATED,
	  .damage = data_behind_blocks, .bad = { WRITE, 0, 512 },
	  .good = { READ, 64 * K, 64 * K } },
	{ "an L2 table is not counted, and is copied", PREALLOCATED,
	  .damage = l2_not_counted, .bad = { WRITE, 0, 512 },
	  .counts = true },
	{ "data on a cluster that becomes an L2 table", SMALL,
	  .prepare = { { WRITE, 512 * K, 512 } }, .damage = data_on_free,
	  .use = { { WRITE, 0, 512 } },
	  .bad = { WRITE, 512 * K + 4 * K, 512 },
	  .good = { READ, 512 * K, 512 } },
	{ "data on the L1 table, beside what was written", PREALLOCATED,
	  .damage = data_on_l1,
	  .use = { { WRITE, 64 * K, 4 * K }, { WRITE, 64 * K, 4 * K } },
	  .bad = { WRITE, 0, 4 * K }, .good = { READ, 64 * K, 64 * K } },
	{ "data on a cluster that becomes an L2 table, beside what was written",
	  SMALL, .prepare = { { WRITE, 512 * K, 512 } },
	  .damage = data_on_free,
	  .use = { { WRITE, 512 * K, 512 }, { WRITE, 0, 512 },
		   { WRITE, 900 * K, 512 }, { WRITE, 900 * K, 512 } },
	  .bad = { WRITE, 512 * K + 4 * K, 512 },
	  .good = { READ, 512 * K, 512 } },
	{ "data on a cluster that becomes a refcount block", SMALL,
	  .prepare = { { WRITE, 512 * K, 512 } },
	  .damage = data_on_next_refblock, .use = { { WRITE, 0, 64 * K } },
	  .bad = { WRITE, 512 * K + 8 * K, 512 },
	  .good = { READ, 512 * K, 512 } },
};

/*
 * Use.
 */

static int flush(struct qcow2_image *img)
{
	struct waiting_io wait = { .io = { .op = QCOW2_OP_FLUSH } };

	return wl_submit(img, &wait);
}

static int discard(struct qcow2_image *img, const struct step *step)
{
	struct waiting_io wait = {
		.io = {
			.op = QCOW2_OP_DISCARD,
			.offset = step->offset,
			.bytes = step->bytes,
		},
	};

	return wl_submit(img, &wait);
}

static int transfer(struct qcow2_image *img, const struct step *step)
{
	bool read = step->what == READ;
	struct waiting_io wait = {
		.io = {
			.op = read ? QCOW2_OP_READ : QCOW2_OP_WRITE,
			.offset = step->offset,
		},
	};
	void *buf = must(aligned_alloc(4096, round_up(step->bytes, 4096U)));
	struct bio_vec bv;
	int ret;

	memset(buf, 0x77, step->bytes);
	bvec_set_virt(&bv, buf, step->bytes);
	iov_iter_bvec(&wait.io.iter, read ? ITER_DEST : ITER_SOURCE, &bv, 1,
		      step->bytes);
	ret = wl_submit(img, &wait);
	free(buf);
	return ret;
}

static int take_step(struct qcow2_image *img, const struct step *step)
{
	return step->what == DISCARD ? discard(img, step) :
				       transfer(img, step);
}

static void take_steps(struct qcow2_image *img, const struct step *steps)
{
	unsigned int i;

	for (i = 0; i < MAX_STEPS && steps[i].what != END; i++)
		if (take_step(img, &steps[i]))
			wl_fail(SEED, "step %u fails", i);
	if (i && flush(img))
		wl_fail(SEED, "a flush fails");
}

static void settle(struct qcow2_image *img)
{
	wait_event(img->released, !READ_ONCE(img->releasing));
	flush_workqueue(img->wq);
}

static struct qcow2_image *open_image(struct file *filp, bool writable,
				      struct qcow2_reason *why)
{
	const struct qcow2_options options = {
		.file_flags = writable ? QCOW2_FILE_WRITABLE : 0,
	};

	return qcow2_image_open(filp, "test", &options, why);
}

static struct qcow2_image *must_open(struct file *filp, bool writable)
{
	struct qcow2_reason why = {};
	struct qcow2_image *img = open_image(filp, writable, &why);

	if (IS_ERR(img))
		wl_fail(SEED, "open: %s (%ld)", why.text, PTR_ERR(img));
	return img;
}

/*
 * A case.
 */

static void load(struct victim *v, enum image image)
{
	struct base_options base = images[image];
	unsigned char *file;
	char path[600];

	base.version = 3;
	base.virtual_bytes = 1024 * K;
	base.seed = 2000;
	if (base_make(&base, args.images, path, sizeof(path)))
		exit(2);
	file = must(read_file(path, &v->bytes));
	v->file = must(calloc(1, v->bytes + 1024 * K));
	memcpy(v->file, file, v->bytes);
	free(file);
	qimg_open(&v->q, v->file, v->bytes);
}

/* Changes the image as the engine does, before it is damaged. */
static void prepare(struct victim *v, const struct damage *d)
{
	struct memfile_options options = { .seed = SEED };
	struct file *filp = memfile_create(&options);
	struct qcow2_image *img;
	unsigned char *file;

	memfile_load_buf(filp, v->file, v->bytes);
	img = must_open(filp, true);
	take_steps(img, d->prepare);
	if (qcow2_image_close(img))
		wl_fail(SEED, "close fails");
	file = memfile_flatten(filp, &v->bytes);
	memcpy(v->file, file, v->bytes);
	free(file);
	memfile_destroy(filp);
	qimg_open(&v->q, v->file, v->bytes);
}

/* But for the mark in the header, and refcounts if that is allowed. */
static void compare(const struct victim *v, const struct damage *d,
		    struct file *filp, const unsigned char *before,
		    size_t bytes)
{
	size_t bytes_now, i;
	unsigned char *now = memfile_flatten(filp, &bytes_now);
	u64 block = refblock(v);

	if (!(now[HEADER_INCOMPATIBLE + 7] & INCOMPATIBLE_CORRUPT))
		wl_fail(SEED, "the image is not marked corrupt");
	now[HEADER_INCOMPATIBLE + 7] = before[HEADER_INCOMPATIBLE + 7];
	for (i = 0; i < min(bytes, bytes_now); i++)
		if (now[i] != before[i] &&
		    !(d->counts && i >= block &&
		      i < block + v->q.cluster_bytes))
			wl_fail(SEED, "byte 0x%zx of the file changed", i);
	free(now);
}

static void check_refused(struct file *filp)
{
	struct qcow2_reason why = {};
	struct qcow2_image *img = open_image(filp, true, &why);

	if (!IS_ERR(img) || !strstr(why.text, "corrupt"))
		wl_fail(SEED, "a corrupt image is attached for writing");
	img = must_open(filp, false);
	if (qcow2_image_close(img))
		wl_fail(SEED, "closing a corrupt image fails");
}

static unsigned int count_text(const char *text, const char *what)
{
	unsigned int n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

static void use_damaged(const struct victim *v, const struct damage *d,
			struct file *filp)
{
	static const struct step other = { WRITE, 900 * K, 512 };
	struct qcow2_image *img = must_open(filp, true);
	unsigned char *before;
	size_t bytes;
	int ret;

	take_steps(img, d->use);
	settle(img);
	before = memfile_flatten(filp, &bytes);
	ret = take_step(img, &d->bad);
	if (d->late && (ret || flush(img)))
		wl_fail(SEED, "an operation fails too early");
	settle(img);
	if (!d->late && !ret)
		wl_fail(SEED, "an operation that would do harm succeeds");
	if (!qcow2_image_needs_check(img) ||
	    count_text(shim_log(), "no more writes") != 1)
		wl_fail(SEED, "the damage was not told once");
	if (!take_step(img, &other))
		wl_fail(SEED, "a damaged image takes a write");
	if (d->good.bytes && take_step(img, &d->good))
		wl_fail(SEED, "what is sound cannot be read");
	qcow2_image_close(img);
	if (!d->late && !d->partly)
		compare(v, d, filp, before, bytes);
	free(before);
	check_refused(filp);
}

static void try(const struct damage *d)
{
	struct memfile_options options = {
		.seed = SEED,
		.nowait = MEMFILE_NOWAIT_ALWAYS,
	};
	struct file *filp = memfile_create(&options);
	struct victim v;
	char text[200];

	snprintf(text, sizeof(text), "%s: ", d->name);
	wl_say(text);
	wl_name_seed(SEED, HANG_SECONDS);
	shim_log_clear();
	load(&v, d->image);
	if (d->prepare[0].what != END)
		prepare(&v, d);
	d->damage(&v);
	memfile_load_buf(filp, v.file, v.bytes);
	use_damaged(&v, d, filp);
	memfile_destroy(filp);
	free(v.file);
	wl_say("");
}

/* No damage, but features that a writer who does not know them must clear. */
static void try_autoclear(void)
{
	static const struct step read = { READ, 0, 64 * K };
	static const struct step write = { WRITE, 0, 4 * K };
	struct memfile_options options = { .seed = SEED };
	struct file *filp = memfile_create(&options);
	struct qcow2_image *img;
	unsigned char *file;
	struct victim v;
	size_t bytes;
	int i;

	wl_say("autoclear features: ");
	shim_log_clear();
	load(&v, EMPTY);
	put64(&v, HEADER_AUTOCLEAR, 1ULL << 40 | 1);
	memfile_load_buf(filp, v.file, v.bytes);
	for (i = 0; i < 2; i++) {
		img = must_open(filp, true);
		if (take_step(img, i ? &write : &read) ||
		    qcow2_image_close(img))
			wl_fail(SEED, "it cannot be used");
		file = memfile_flatten(filp, &bytes);
		memcpy(v.file, file, HEADER_AUTOCLEAR + 8);
		free(file);
		if ((get64(&v, HEADER_AUTOCLEAR) == 0) != i)
			wl_fail(SEED, i ? "they stay though the image was written" :
				"they are gone though the image was only read");
		if (count_text(shim_log(), "bitmaps are not maintained") != (unsigned int)i)
			wl_fail(SEED, "what becomes of bitmaps is not told once");
	}
	memfile_destroy(filp);
	free(v.file);
	wl_say("");
}

static void snapshot_l1_not_aligned(struct victim *v)
{
	put64(v, v->q.snapshots_offset,
	      get64(v, v->q.snapshots_offset) + 512);
}

/* The length is in the upper half. */
static void snapshot_l1_too_long(struct victim *v)
{
	put64(v, v->q.snapshots_offset + 8,
	      get64(v, v->q.snapshots_offset + 8) | 0x7fffffffULL << 32);
}

static void snapshots_behind_file(struct victim *v)
{
	put64(v, HEADER_SNAPSHOTS_OFFSET,
	      round_up(v->bytes, v->q.cluster_bytes));
}

/* One block would count the clusters of two. */
static void refblock_twice(struct victim *v)
{
	put64(v, v->q.reftable_offset + 8, refblock(v));
}

/*
 * What makes an image unfit to be written before anybody has tried; the reason
 * has the word @what.
 */
static void try_read_only(const char *name, void (*damage)(struct victim *v),
			  const char *what)
{
	struct memfile_options options = { .seed = SEED };
	struct file *filp = memfile_create(&options);
	struct qcow2_reason why = {};
	struct qcow2_image *img;
	struct victim v;

	wl_say(name);
	load(&v, SNAPSHOT);
	damage(&v);
	memfile_load_buf(filp, v.file, v.bytes);
	img = open_image(filp, true, &why);
	if (!IS_ERR(img))
		wl_fail(SEED, "the image is attached for writing");
	if (PTR_ERR(img) != -EUCLEAN || !strstr(why.text, what))
		wl_fail(SEED, "%s (%ld)", why.text, PTR_ERR(img));
	img = must_open(filp, false);
	if (qcow2_image_close(img))
		wl_fail(SEED, "closing it fails");
	memfile_destroy(filp);
	free(v.file);
	wl_say("");
}

static void try_those_of_their_own(void)
{
	try_autoclear();
	try_read_only("a snapshot's L1 table is not aligned: ",
		      snapshot_l1_not_aligned, "snapshot");
	try_read_only("a snapshot's L1 table is too long: ",
		      snapshot_l1_too_long, "snapshot");
	try_read_only("the snapshot table is behind the file: ",
		      snapshots_behind_file, "snapshot");
	try_read_only("a refcount block is in the table twice: ",
		      refblock_twice, "twice");
}

int main(int argc, char **argv)
{
	const struct command command = { "damaged" };
	long long live;
	u64 done = 0, nr;

	args_read(&command, argc, argv);
	shim_set_delay(SHIM_DELAY_NEVER);
	if (wl_init_pools())
		wl_fail(SEED, "cannot make the pools");
	live = shim_live_allocations();
	if (args.from == 1)
		try_those_of_their_own();
	for (; args_next(&nr) && nr - 1 < ARRAY_SIZE(damages); done++)
		try(&damages[nr - 1]);
	rcu_barrier();
	if (shim_live_allocations() != live)
		wl_fail(SEED, "%lld pieces of memory were not freed",
			shim_live_allocations() - live);
	alarm(0);
	wl_exit_pools();
	printf("damaged: %llu kinds of damage\n", done);
	return done ? 0 : 1;
}
