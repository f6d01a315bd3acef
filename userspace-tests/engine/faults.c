// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each error in turn.
 *
 * A seed decides an image and a short program of guest operations, one at a
 * time. It is run once to count what it does: reads, writes, flushes and holes
 * of the file, allocations of memory, blocks that the file grows by. Then it is
 * run again for each of these, with exactly that one failing, and judged by
 * invariant I7:
 *
 * - An operation fails only while something is wrong, or as a change to an
 *   image that takes none any more. What it wrote is old or new, by sector.
 * - A data write that fails leaves the image fit for use, and so does any read,
 *   a hole that cannot be made, and want of space or memory. When the trouble
 *   is over all operations work, closing works, and nothing has leaked.
 * - When metadata that is in use cannot be written, or a flush fails, the image
 *   takes no more changes, says so once, and can still be read.
 * - The closed image has no corruption; what was flushed is there, all else is
 *   old or new. Closing succeeds if nothing was lost.
 * - All memory is freed.
 *
 * With --data-file the images have an external data file, and each operation on it
 * fails in turn too. Of what it holds only data can be lost, but for flushes: the
 * entries that say where data is must not be durable before it.
 */

#include <errno.h>
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
#include "verify.h"
#include "workload.h"

/* For one run, which takes milliseconds, or for making one image. */
#define HANG_SECONDS	120

/* Different images; those of the model, so that they are made once. */
#define NR_BASES	200

/* Each run of a larger one would take too long. */
#define MAX_CLUSTER_BITS 17

/* Amounts of space that are tried for one program. */
#define MAX_SPACES	24

/* Operations when the trouble is over. */
#define OPS_AFTER	6

static bool with_data_file;

static struct {
	u64 seeds, runs, struck, degraded, not_opened, close_failed;
} total;

/*
 * What may go wrong.
 */

enum source {
	OF_FILE,
	OF_DATA_FILE,
	OF_MEMORY,
	OF_SPACE,
};

/**
 * struct trouble - a kind of error
 * @name: for messages
 * @source: of what
 * @op: of a file: operations that fail
 * @error: of a file: how
 * @times: so many in a row; 0: until it is over
 * @torn: of a file: a write that fails changes some of its sectors
 * @leaks_ok: references that were to be dropped may be lost
 */
struct trouble {
	const char *name;
	enum source source;
	enum memfile_op op;
	int error;
	u64 times;
	bool torn;
	bool leaks_ok;
};

static const struct trouble troubles[] = {
	{ "a read gives EIO", OF_FILE, MEMFILE_READ, -EIO, 1,
	  .leaks_ok = true },
	{ "a write gives EIO", OF_FILE, MEMFILE_WRITE, -EIO, 1 },
	{ "a write gives EIO half-way", OF_FILE, MEMFILE_WRITE, -EIO, 1,
	  .torn = true },
	{ "a write gives ENOSPC", OF_FILE, MEMFILE_WRITE, -ENOSPC, 1 },
	{ "writes give ENOSPC", OF_FILE, MEMFILE_WRITE, -ENOSPC, 0 },
	{ "a flush gives EIO", OF_FILE, MEMFILE_FLUSH, -EIO, 1 },
	{ "a flush gives ENOSPC", OF_FILE, MEMFILE_FLUSH, -ENOSPC, 1 },
	{ "a hole gives EIO", OF_FILE, MEMFILE_PUNCH, -EIO, 1 },
	{ "zeroing gives EOPNOTSUPP", OF_FILE, MEMFILE_ZERO, -EOPNOTSUPP, 1 },
	{ "zeroing gives ENOSPC", OF_FILE, MEMFILE_ZERO, -ENOSPC, 1 },
	{ "an allocation fails", OF_MEMORY, .times = 1, .leaks_ok = true },
	{ "40 allocations fail", OF_MEMORY, .times = 40, .leaks_ok = true },
	{ "the file system is full", OF_SPACE, .times = 0 },
	{ "a read of the data file gives EIO", OF_DATA_FILE, MEMFILE_READ,
	  -EIO, 1, .leaks_ok = true },
	{ "a write of the data file gives EIO half-way", OF_DATA_FILE,
	  MEMFILE_WRITE, -EIO, 1, .torn = true },
	{ "writes of the data file give ENOSPC", OF_DATA_FILE, MEMFILE_WRITE,
	  -ENOSPC, 0 },
	{ "a flush of the data file gives EIO", OF_DATA_FILE, MEMFILE_FLUSH,
	  -EIO, 1 },
	{ "a hole in the data file gives EIO", OF_DATA_FILE, MEMFILE_PUNCH,
	  -EIO, 1 },
	{ "zeroing of the data file gives EOPNOTSUPP", OF_DATA_FILE,
	  MEMFILE_ZERO, -EOPNOTSUPP, 1 },
};

/*
 * A seed.
 */

/**
 * struct plan - what a seed decides, and what the first run found
 * @seed: the seed
 * @base: the image
 * @path: its file
 * @data_path: its external data file, if it has one
 * @data_bytes: length of that
 * @initial: what the disk holds
 * @w: mix and bounds of operations
 * @ops: how many
 * @ops_seed: of the operations
 * @cache_max: cap of the metadata cache, 0 for what it is
 * @max_dirty: likewise
 * @no_pass_discard: no holes are made
 * @counts: operations of the file
 * @data_counts: likewise of the data file
 * @allocations: of memory
 * @grows: by how many bytes the file grew at most
 */
struct plan {
	u64 seed;
	struct base_options base;
	char path[600];
	char data_path[700];
	size_t data_bytes;
	unsigned char *initial;
	struct workload w;
	unsigned int ops;
	u64 ops_seed;
	unsigned int cache_max;
	unsigned int max_dirty;
	bool no_pass_discard;

	u64 counts[MEMFILE_NR_OPS];
	u64 data_counts[MEMFILE_NR_OPS];
	u64 allocations;
	u64 grows;
};

/* QEMU makes no snapshots of those, and no compressed clusters in them. */
static bool can_have_data_file(const struct base_options *o)
{
	return o->version > 2 && !o->snapshot && !o->compressed;
}

static void choose_image(struct plan *plan, struct shim_random *r)
{
	do
		base_choose(&plan->base, shim_random(r) % NR_BASES);
	while (plan->base.cluster_bits > MAX_CLUSTER_BITS ||
	       (with_data_file && !can_have_data_file(&plan->base)));
	plan->base.data_file = with_data_file;
	plan->base.raw = with_data_file && shim_below(r, 2);
	if (base_make(&plan->base, args.images, plan->path, sizeof(plan->path)))
		exit(2);
	base_data_path(plan->path, plan->data_path, sizeof(plan->data_path));
}

static void choose_program(struct plan *plan, struct shim_random *r)
{
	plan->ops = 10 + shim_below(r, 16);
	plan->ops_seed = shim_random(r);
	plan->w.max_op_bytes = 4096ULL << shim_below(r, 6);
	plan->w.mix = (struct wl_mix) {
		.read = 8,
		.write = 50,
		.fua = shim_below(r, 10),
		.write_of_zeroes = 4,
		.flush = 2 + shim_below(r, 12),
		.discard = 5 + shim_below(r, 20),
		.zeroes = shim_below(r, 20),
	};
	plan->w.no_unref = plan->base.version > 2 && !shim_below(r, 3);
	plan->no_pass_discard = !shim_below(r, plan->w.no_unref ? 2 : 4);
	if (!shim_below(r, 3)) {
		plan->cache_max = 2 + shim_below(r, 12);
		plan->max_dirty = 1 + shim_below(r, plan->cache_max);
	}
}

static void read_disk(struct plan *plan)
{
	unsigned char *file, *data = NULL;
	size_t bytes;
	const char *why;
	struct qimg q;

	plan->initial = must(malloc(plan->base.virtual_bytes));
	file = must(read_file(plan->path, &bytes));
	if (with_data_file)
		data = must(read_file(plan->data_path, &plan->data_bytes));
	why = qimg_open(&q, file, bytes);
	qimg_data_file(&q, data, plan->data_bytes);
	if (why || qimg_read(&q, 0, plan->base.virtual_bytes, plan->initial))
		wl_fail(plan->seed, "the base image cannot be read");
	free(file);
	free(data);
}

/*
 * A run.
 */

/**
 * struct run - the program once
 * @plan: the program
 * @trouble: what goes wrong, NULL for nothing
 * @index: which one of its kind, from 0
 * @w: the disk
 * @over: the trouble is over
 * @degraded: the image takes no more changes
 * @tables: L2 tables in use in memory when something failed first, or NULL
 * @nr_tables: length of @tables
 * @struck: how often something failed before the image was closed
 * @struck_at_close: how often while it was closed
 */
struct run {
	const struct plan *plan;
	const struct trouble *trouble;
	u64 index;
	struct workload w;
	bool over;
	bool degraded;
	u64 *tables;
	u32 nr_tables;
	u64 struck;
	u64 struck_at_close;
};

static void make_disk(struct run *run)
{
	const struct plan *plan = run->plan;
	struct memfile_options options = { .seed = plan->seed };
	u64 bytes = plan->base.virtual_bytes;
	unsigned char *content = must(malloc(bytes));

	memcpy(content, plan->initial, bytes);
	run->w = plan->w;
	run->w.seed = plan->seed;
	run->w.align = WL_SECTOR;
	run->w.history = true;
	run->w.filp = memfile_create(&options);
	if (memfile_load(run->w.filp, plan->path))
		wl_fail(plan->seed, "cannot load %s", plan->path);
	if (with_data_file) {
		options.clock = run->w.filp;
		options.guest_punches = plan->base.raw;
		run->w.data_filp = memfile_create(&options);
		if (memfile_load(run->w.data_filp, plan->data_path))
			wl_fail(plan->seed, "cannot load %s", plan->data_path);
	}
	wl_init(&run->w, content, bytes);
}

static void trouble_begins(struct run *run)
{
	const struct trouble *t = run->trouble;
	struct memfile_fault fault = {};

	shim_fail_nth_allocation(U64_MAX, 1);
	if (!t)
		return;
	fault = (struct memfile_fault) {
		.ops = 1U << t->op,
		.skip = run->index,
		.times = t->times,
		.error = t->error,
		.torn = t->torn,
		.keep = t->source == OF_FILE && t->op == MEMFILE_WRITE,
	};
	if (t->source == OF_FILE)
		memfile_fault(run->w.filp, &fault);
	else if (t->source == OF_DATA_FILE)
		memfile_fault(run->w.data_filp, &fault);
	else if (t->source == OF_MEMORY)
		shim_fail_nth_allocation(run->index, t->times);
	else
		memfile_set_space(run->w.filp, memfile_space_used(run->w.filp) +
				  run->index + 1);
}

static void trouble_ends(struct run *run)
{
	if (!run->trouble)
		return;
	run->over = true;
	memfile_fault(run->w.filp, NULL);
	if (run->w.data_filp)
		memfile_fault(run->w.data_filp, NULL);
	memfile_set_space(run->w.filp, 0);
	shim_fail_nth_allocation(U64_MAX, 1);
}

static u64 data_strikes(const struct run *run)
{
	return run->w.data_filp ? memfile_faults(run->w.data_filp) : 0;
}

/* How often the trouble was met so far, as far as it can be known. */
static u64 strikes(const struct run *run)
{
	return memfile_faults(run->w.filp) + data_strikes(run) +
	       shim_failed_allocations();
}

/* Once a flush has failed, all flushes of this opening do. */
static bool is_flush(const struct trouble *t)
{
	return t && (t->source == OF_FILE || t->source == OF_DATA_FILE) &&
	       t->op == MEMFILE_FLUSH;
}

static bool lasts(const struct run *run)
{
	if (is_flush(run->trouble))
		return memfile_faults(run->w.filp) + data_strikes(run);
	return run->trouble && !run->trouble->times && !run->over;
}

static u64 all_failed(const struct workload *w)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(w->failed); i++)
		sum += w->failed[i];
	return sum;
}

/* What an operation set going is done, so that a run can be repeated. */
static void settle(struct run *run)
{
	wait_event(run->w.img->released,
		   !READ_ONCE(run->w.img->releasing));
	flush_workqueue(run->w.img->wq);
}

static void judge_operation(struct run *run, u64 failed_before,
			    u64 reads_failed_before, u64 strikes_before)
{
	struct workload *w = &run->w;

	run->degraded = qcow2_image_needs_check(w->img);
	if (all_failed(w) == failed_before || lasts(run) ||
	    strikes(run) > strikes_before)
		return;
	if (!run->degraded)
		wl_fail(w->seed, "an operation failed though nothing was wrong any more");
	if (w->failed[QCOW2_OP_READ] > reads_failed_before)
		wl_fail(w->seed, "a read failed though only changes are forbidden");
}

/*
 * The file does not know the tables yet whose L1 entries no commit has written.  One that
 * could not be made is not among them: the operation that wanted it gave it back.
 */
static void note_tables(struct run *run)
{
	struct qcow2_image *img = run->w.img;

	if (run->tables)
		return;
	mutex_lock(&img->meta_lock);
	run->nr_tables = img->l2_tables.nr;
	run->tables = must(calloc(run->nr_tables + 1, sizeof(u64)));
	memcpy(run->tables, img->l2_tables.offsets,
	       run->nr_tables * sizeof(u64));
	mutex_unlock(&img->meta_lock);
}

static bool is_table(const struct run *run, u64 offset)
{
	u32 i;

	for (i = 0; i < run->nr_tables; i++)
		if (run->tables[i] == offset)
			return true;
	return false;
}

static void run_operations(struct run *run)
{
	struct workload *w = &run->w;
	struct shim_random r = { .state = run->plan->ops_seed };
	unsigned int i;

	wl_choose_places(w, &r);
	for (i = 0; i < run->plan->ops; i++) {
		struct shim_random each = { .state = shim_random(&r) };
		u64 failed = all_failed(w), struck = strikes(run);
		u64 reads_failed = w->failed[QCOW2_OP_READ];

		wl_random_op(w, &each);
		settle(run);
		if (strikes(run) > struck)
			note_tables(run);
		judge_operation(run, failed, reads_failed, struck);
	}
}

/* Every operation must work again. */
static void use_again(struct run *run)
{
	struct workload *w = &run->w;
	struct shim_random r = { .state = ~run->plan->ops_seed };
	unsigned int i;

	w->errors_ok = false;
	wl_flush(w);
	for (i = 0; i < OPS_AFTER; i++)
		wl_random_op(w, &r);
	settle(run);
	if (qcow2_image_needs_check(w->img))
		wl_fail(w->seed, "the image failed when nothing was wrong any more");
}

static void compare_known(const struct workload *w, const unsigned char *disk,
			  const char *what)
{
	u64 s;

	for (s = 0; s < w->bytes / WL_SECTOR; s++)
		if (!w->unknown[s] &&
		    memcmp(disk + s * WL_SECTOR, w->content + s * WL_SECTOR,
			   WL_SECTOR))
			wl_fail(w->seed, "%s: sector %llu has tag %llu, wanted %llu",
				what, s,
				wl_sector_seq(w->seed, disk + s * WL_SECTOR),
				wl_sector_seq(w->seed,
					      w->content + s * WL_SECTOR));
}

static u64 writes_of(const struct workload *w)
{
	u64 sum = memfile_count(w->filp, MEMFILE_WRITE);

	if (w->data_filp)
		sum += memfile_count(w->data_filp, MEMFILE_WRITE);
	return sum;
}

/* No change reaches a file, reads go on. */
static void look_at_degraded(struct run *run)
{
	struct workload *w = &run->w;
	struct shim_random r = { .state = run->plan->ops_seed };
	unsigned char *disk = must(aligned_alloc(4096, round_up(w->bytes, 4096)));
	u64 before = writes_of(w);

	memcpy(disk, w->content, w->bytes);
	w->errors_ok = true;
	if (!wl_rw(w, QCOW2_OP_WRITE, 0, disk, WL_SECTOR, false, &r))
		wl_fail(w->seed, "a write to an image that failed succeeds");
	if (writes_of(w) != before)
		wl_fail(w->seed, "a write to an image that failed reached the file");
	w->errors_ok = false;
	wl_rw(w, QCOW2_OP_READ, 0, disk, w->bytes, false, &r);
	compare_known(w, disk, "an image that failed");
	free(disk);
}

static unsigned int count_text(const char *text, const char *what)
{
	unsigned int n = 0;

	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

/*
 * Did it hit metadata in use, by what file and memory said at that moment?  It cannot be
 * known from a run before, as the release of clusters goes on beside the
 * operations: no two runs need do the same in the same order.
 */
static bool hit_metadata(const struct run *run,
			 const struct memfile_strike *strike)
{
	u64 cluster, end, nr_meta = 0;
	unsigned char *kinds;
	struct qimg q;
	size_t nr;

	if (qimg_open(&q, strike->file, strike->file_bytes))
		wl_fail(run->w.seed, "there is no image in the file any more");
	kinds = qimg_kinds(&q, &nr);
	cluster = strike->offset >> q.cluster_bits;
	end = DIV_ROUND_UP(strike->offset + strike->bytes, q.cluster_bytes);
	for (; cluster < end; cluster++)
		nr_meta += (cluster < nr && kinds[cluster] == QKIND_META) ||
			   is_table(run, cluster << q.cluster_bits);
	free(kinds);
	cluster = strike->offset >> q.cluster_bits;
	if (nr_meta && nr_meta != end - cluster)
		wl_fail(run->w.seed, "a write goes to metadata, and to what is not");
	return nr_meta;
}

static void judge_degraded(struct run *run)
{
	const struct memfile_strike *strike = memfile_strike(run->w.filp);
	const struct trouble *t = run->trouble;
	bool must_be = is_flush(t) && run->struck;

	if (strike && t->error == -EIO)
		must_be = hit_metadata(run, strike);
	if (run->degraded && !must_be)
		wl_fail(run->w.seed, "the image takes no more changes, without need");
	if (!run->degraded && must_be)
		wl_fail(run->w.seed, "the image takes changes, though its metadata could not be written");
	if (run->degraded != count_text(shim_log(), "no more writes"))
		wl_fail(run->w.seed, "the state of the image was not told once");
}

/*
 * After closing.
 */

static bool is_zero(const unsigned char *sector)
{
	return !sector[0] && !memcmp(sector, sector + 1, WL_SECTOR - 1);
}

static u64 last_flush(const struct workload *w)
{
	return w->nr_flushes ? w->flushes[w->nr_flushes - 1].begun : 0;
}

static bool wrote_it(const struct workload *w, const struct wl_write *write,
		     u64 s, const unsigned char *content)
{
	u64 want[WL_SECTOR / 8];

	if (write->zeroes)
		return is_zero(content);
	wl_fill_sector(w->seed, write->seq, s, want);
	return !memcmp(want, content, WL_SECTOR);
}

/* Operations came one at a time, so the history is in order. */
static bool sector_is_right(const struct run *run, u64 s,
			    const unsigned char *content)
{
	const struct workload *w = &run->w;
	size_t i = w->nr_writes;

	while (i--) {
		const struct wl_write *write = &w->writes[i];

		if (s < write->sector || s >= write->sector + write->nr)
			continue;
		if (wrote_it(w, write, s, content))
			return true;
		if (write->done &&
		    (write->fua || write->done < last_flush(w)))
			return false;
	}
	return !memcmp(content, run->plan->initial + s * WL_SECTOR, WL_SECTOR);
}

static void compare_durable(const struct run *run, const unsigned char *disk,
			    const char *what)
{
	u64 s;

	for (s = 0; s < run->w.bytes / WL_SECTOR; s++)
		if (!sector_is_right(run, s, disk + s * WL_SECTOR))
			wl_fail(run->w.seed, "%s: sector %llu has tag %llu, which is older than what was flushed, or foreign",
				what, s, wl_sector_seq(run->w.seed,
						 disk + s * WL_SECTOR));
}

/* Whoever reads the raw data file without the image sees the disk. */
static void look_at_raw(const struct run *run, const unsigned char *data,
			size_t bytes, bool exact)
{
	const struct workload *w = &run->w;
	unsigned char *disk = must(calloc(1, w->bytes));

	/* QEMU makes them longer, up to the end of the last cluster. */
	if (bytes > max_t(u64, w->bytes, run->plan->data_bytes))
		wl_fail(w->seed, "the raw data file is longer than the disk");
	memcpy(disk, data, min_t(u64, bytes, w->bytes));
	if (exact)
		compare_known(w, disk, "raw data file");
	else
		compare_durable(run, disk, "raw data file");
	free(disk);
}

static void look_at_closed(const struct run *run, bool whole)
{
	const struct workload *w = &run->w;
	size_t bytes, data_bytes = 0;
	unsigned char *file = memfile_flatten(w->filp, &bytes), *data = NULL;
	unsigned char *disk = must(malloc(w->bytes));
	bool leaks_ok = !whole || (run->trouble && run->trouble->leaks_ok);
	struct qcheck check;
	const char *why;
	struct qimg q;

	if (w->data_filp)
		data = memfile_flatten(w->data_filp, &data_bytes);
	why = qimg_open(&q, file, bytes);
	qimg_data_file(&q, data, data_bytes);
	if (!why)
		why = qimg_read(&q, 0, w->bytes, disk);
	if (why)
		wl_fail(w->seed, "closed image: %s", why);
	qimg_check(&q, &check);
	if (check.corruptions || check.corrupt ||
	    (check.leaks && !leaks_ok) || (check.dirty && whole))
		wl_fail(w->seed, "closed image: %u corruptions, %u leaks, corrupt %d, dirty %d; %s",
			check.corruptions, check.leaks, check.corrupt,
			check.dirty, check.first);
	if (!base_snapshot_is_kept(run->plan->path, &q))
		wl_fail(w->seed, "closed image: the snapshot has changed");
	if (whole)
		compare_known(w, disk, "closed image");
	else
		compare_durable(run, disk, "closed with an error");
	if (run->plan->base.raw)
		look_at_raw(run, data, data_bytes, whole && !all_failed(w));
	free(disk);
	free(file);
	free(data);
}

static void close_image(struct run *run)
{
	u64 before = strikes(run);
	int ret;

	verify_closing(run->w.img);
	ret = qcow2_image_close(run->w.img);

	run->w.img = NULL;
	run->struck_at_close = strikes(run) - before;
	if (ret && !run->degraded && !run->struck_at_close)
		wl_fail(run->w.seed, "close: %d, though nothing was lost", ret);
	total.close_failed += !!ret;
	if (run->plan->no_pass_discard &&
	    (memfile_count(run->w.filp, MEMFILE_PUNCH) ||
	     (with_data_file &&
	      memfile_count(run->w.data_filp, MEMFILE_PUNCH))))
		wl_fail(run->w.seed, "holes are made with pass-discard off");
	look_at_closed(run, !ret && !run->degraded);
}

/*
 * Runs.
 */

/* False if the image could not be opened, which is right when something failed. */
static bool open_image(struct run *run)
{
	struct workload *w = &run->w;
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
		.data_filp = w->data_filp,
		.no_pass_discard = run->plan->no_pass_discard,
		.discard_no_unref = w->no_unref,
	};
	struct qcow2_reason why = {};
	u64 before;

	trouble_begins(run);
	before = strikes(run);
	w->img = qcow2_image_open(w->filp, "test", &options, &why);
	if (IS_ERR(w->img)) {
		if (strikes(run) == before)
			wl_fail(w->seed, "open: %s (%ld)", why.text,
				PTR_ERR(w->img));
		if (!why.text[0])
			wl_fail(w->seed, "open gives no reason");
		return false;
	}
	if (run->plan->cache_max) {
		w->img->cache.max = run->plan->cache_max;
		w->img->max_dirty = run->plan->max_dirty;
	}
	return true;
}

static void run_it(struct run *run)
{
	u64 before = strikes(run);

	run->w.errors_ok = run->trouble;
	if (!open_image(run)) {
		trouble_ends(run);
		total.not_opened++;
		look_at_closed(run, true);
		return;
	}
	run_operations(run);
	run->struck = strikes(run) - before;
	judge_degraded(run);
	if (run->struck || lasts(run)) {
		trouble_ends(run);
		if (run->degraded)
			look_at_degraded(run);
		else
			use_again(run);
	}
	total.degraded += run->degraded;
	close_image(run);
	trouble_ends(run);
	total.struck += run->struck || run->struck_at_close;
}

static void end_run(struct run *run)
{
	if (run->w.data_filp)
		memfile_destroy(run->w.data_filp);
	memfile_destroy(run->w.filp);
	free(run->tables);
	wl_destroy(&run->w);
}

static void try(const struct plan *plan, const struct trouble *trouble,
		u64 index)
{
	struct run run = {
		.plan = plan,
		.trouble = trouble,
		.index = index,
	};
	long long live;
	char text[200];

	snprintf(text, sizeof(text), "%s, number %llu: ", trouble->name, index);
	wl_say(text);
	wl_name_seed(plan->seed, HANG_SECONDS);
	shim_log_clear();
	rcu_barrier();
	live = shim_live_allocations();
	make_disk(&run);
	run_it(&run);
	end_run(&run);
	rcu_barrier();
	if (shim_live_allocations() != live)
		wl_fail(plan->seed, "%lld pieces of memory were not freed",
			shim_live_allocations() - live);
	wl_say("");
	total.runs++;
}

/*
 * The first run.
 */

/* Runs undisturbed and counts what can go wrong. */
static void count(struct plan *plan)
{
	struct run run = { .plan = plan };
	u64 space;
	int op;

	wl_say("the first run: ");
	wl_name_seed(plan->seed, HANG_SECONDS);
	shim_log_clear();
	make_disk(&run);
	space = memfile_space_used(run.w.filp);
	run_it(&run);
	for (op = 0; op < MEMFILE_NR_OPS; op++) {
		plan->counts[op] = memfile_count(run.w.filp, op);
		if (with_data_file)
			plan->data_counts[op] =
				memfile_count(run.w.data_filp, op);
	}
	plan->allocations = shim_counted_allocations();
	plan->grows = memfile_space_peak(run.w.filp) - space;
	end_run(&run);
	shim_fail_nth_allocation(U64_MAX, 1);
	wl_say("");
}

static u64 how_many(const struct plan *plan, const struct trouble *t)
{
	if (t->source == OF_MEMORY)
		return plan->allocations;
	if (t->source == OF_DATA_FILE)
		return plan->data_counts[t->op];
	return t->source == OF_FILE ? plan->counts[t->op] : plan->grows;
}

static u64 step_of(const struct plan *plan, const struct trouble *t)
{
	if (t->source == OF_MEMORY && t->times > 1)
		return t->times / 4;
	if (t->source != OF_SPACE)
		return 1;
	return max(round_down(plan->grows / MAX_SPACES, 4096), 4096ULL);
}

/* @only: one run of those, ~0 for all. */
static void run_seed(u64 seed, u64 only, u64 until)
{
	struct plan *plan = must(calloc(1, sizeof(*plan)));
	struct shim_random r = { .state = seed };
	u64 number = 0, index;
	unsigned int i;
	char name[200];

	wl_say("making the image: ");
	wl_name_seed(seed, HANG_SECONDS);
	plan->seed = seed;
	choose_image(plan, &r);
	choose_program(plan, &r);
	read_disk(plan);
	count(plan);
	if (args.verbose) {
		base_describe(&plan->base, name, sizeof(name));
		fprintf(stderr, "seed %llu: %s, %u operations: %llu reads, %llu writes, %llu flushes, %llu holes, %llu allocations, %llu bytes\n",
			seed, name, plan->ops, plan->counts[MEMFILE_READ],
			plan->counts[MEMFILE_WRITE],
			plan->counts[MEMFILE_FLUSH],
			plan->counts[MEMFILE_PUNCH], plan->allocations,
			plan->grows);
	}
	for (i = 0; i < ARRAY_SIZE(troubles); i++) {
		const struct trouble *t = &troubles[i];

		for (index = 0; index < how_many(plan, t);
		     index += step_of(plan, t), number++)
			if ((only == ~0ULL || only == number) &&
			    shim_now_ns() < until)
				try(plan, t, index);
	}
	total.seeds++;
	free(plan->initial);
	free(plan);
}

int main(int argc, char **argv)
{
	u64 only = U64_MAX, seed;
	const struct own_option own[] = {
		{ "run", "only the Nth error of each program, from 0", &only },
		{ "data-file", "of images with an external data file, whose errors come too",
		  .flag = &with_data_file },
		{}
	};
	const struct command command = { "faults", own, .endless = true };

	args_read(&command, argc, argv);
	shim_set_delay(SHIM_DELAY_NEVER);
	if (wl_init_pools())
		wl_fail(args.from, "cannot make the pools");
	while (args_next(&seed))
		run_seed(seed, only, args.until);
	alarm(0);
	wl_exit_pools();
	printf("faults: %llu runs of %llu programs, of which %llu met their error: %llu made the image take no more changes, %llu kept it from being opened, %llu made closing fail\n",
	       total.runs, total.seeds, total.struck + total.not_opened,
	       total.degraded, total.not_opened, total.close_failed);
	return total.runs ? 0 : 1;
}
