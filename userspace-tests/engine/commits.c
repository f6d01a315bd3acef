// SPDX-License-Identifier: GPL-2.0-only
/*
 * Commits: what one covers, what it costs in transfers and flushes of the file, what waits
 * for it, and what becomes of the image when it cannot be. And what the slices that it
 * writes take of memory.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "cases.h"
#include "disk.h"
#include "memfile.h"
#include "shim.h"

#define WRITERS		2
#define FLUSHES		60

static u64 flushes_of(struct disk *d)
{
	return memfile_count(d->filp, MEMFILE_FLUSH);
}

/* Those of the file that growth needs, which are no commit's. */
static u32 refblocks_of(struct disk *d)
{
	u32 nr;

	mutex_lock(&d->img->meta_lock);
	nr = d->img->refblocks.nr;
	mutex_unlock(&d->img->meta_lock);
	return nr;
}

/**
 * struct writer - a thread that writes zeroes here and there
 * @d: the disk, which holds zeroes
 * @seed: where
 * @stop: the end
 * @writes: how many it has done
 */
struct writer {
	struct disk *d;
	u64 seed;
	bool stop;
	u64 writes;
};

static void *write_here_and_there(void *arg)
{
	struct writer *w = arg;
	struct shim_random r = { .state = w->seed };
	struct op op = { .buf = get_buffer(WL_SECTOR) };

	memset(op.buf, 0, WL_SECTOR);
	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
		u64 sector = shim_below(&r, w->d->bytes / WL_SECTOR);

		start(w->d, &op, QCOW2_OP_WRITE, sector * WL_SECTOR, WL_SECTOR);
		expect(!finish(&op), "a write failed");
		__atomic_fetch_add(&w->writes, 1, __ATOMIC_RELAXED);
	}
	free(op.buf);
	return NULL;
}

static void flush_some_times(struct disk *d, struct writer *writers)
{
	u64 before = flushes_of(d), writes = 0;
	u32 blocks = refblocks_of(d);
	unsigned int i;

	for (i = 0; i < FLUSHES; i++) {
		flush(d);
		usleep(2000);
	}
	for (i = 0; i < WRITERS; i++)
		writes += __atomic_load_n(&writers[i].writes, __ATOMIC_RELAXED);
	before = flushes_of(d) - before;
	blocks = refblocks_of(d) - blocks;
	printf("# %u flushes of the disk, %llu of the file, %u refcount blocks, %llu writes\n",
	       FLUSHES, before, blocks, writes);
	expect(writes > FLUSHES, "nobody wrote meanwhile");
	expect(before <= 2 * FLUSHES + blocks,
	       "%llu flushes of the file for %u of the disk", before, FLUSHES);
	expect(before > FLUSHES, "nothing was committed");
}

static void flush_ends_while_others_write(const struct shape *shape)
{
	struct disk d = { .options = { .threads = 2, .delay_ns = 200000 } };
	struct writer writers[WRITERS];
	pthread_t threads[WRITERS];
	unsigned int i;

	make_disk(&d, shape);
	attach(&d);
	/* None but those that are asked for. */
	d.img->max_dirty = INT_MAX;
	for (i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer) { .d = &d, .seed = SEED + i };
		expect(!pthread_create(&threads[i], NULL, write_here_and_there,
				       &writers[i]), "no thread");
	}
	flush_some_times(&d, writers);
	for (i = 0; i < WRITERS; i++)
		__atomic_store_n(&writers[i].stop, true, __ATOMIC_RELAXED);
	for (i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	detach_and_look(&d);
	destroy(&d);
}

/* Guest bytes of an L2 table. */
static u64 span_of(struct disk *d)
{
	return d->cluster << d->img->geo.l2_bits;
}

static void first_touch_of_a_table_waits_for_no_flush(const struct shape *shape)
{
	struct disk d = {};
	u64 flushes, pos;
	u32 blocks, tables = 0;

	make_disk(&d, shape);
	attach(&d);
	d.img->max_dirty = INT_MAX;
	/* Clears what the header says of who wrote last. */
	write_new(&d, 0, WL_SECTOR);
	flush(&d);
	flushes = flushes_of(&d);
	blocks = refblocks_of(&d);
	for (pos = span_of(&d); pos < d.bytes; pos += span_of(&d), tables++)
		write_new(&d, pos, WL_SECTOR);
	expect(tables > 3, "the image has %u tables only", tables);
	flushes = flushes_of(&d) - flushes - (refblocks_of(&d) - blocks);
	expect(!flushes, "%llu flushes of the file for %u new tables", flushes,
	       tables);
	flushes = flushes_of(&d);
	flush(&d);
	flushes = flushes_of(&d) - flushes;
	expect(flushes == 2, "%llu flushes of the file for a commit of %u new tables",
	       flushes, tables);
	check_file(&d, "after the commit");
	detach_and_look(&d);
	destroy(&d);
}

/* By a worker, as when the file must be waited for. */
static void write_by_worker(struct disk *d, u64 offset)
{
	struct op op = { .by_worker = true };

	op.buf = new_data(d, offset, WL_SECTOR);
	start(d, &op, QCOW2_OP_WRITE, offset, WL_SECTOR);
	expect(!finish(&op), "a write failed");
	memcpy(d->content + offset, op.buf, WL_SECTOR);
	free(op.buf);
}

static void write_in_place_waits_for_no_room(const struct shape *shape)
{
	struct disk d = {};
	u64 flushes;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, d.cluster);
	flush(&d);
	write_new(&d, 2 * d.cluster, d.cluster);
	expect(d.img->nr_dirty, "nothing is dirty");
	d.img->max_dirty = 0;
	flushes = flushes_of(&d);
	write_by_worker(&d, 0);
	expect(flushes_of(&d) == flushes, "a write in place waited for a commit");
	write_by_worker(&d, 4 * d.cluster);
	expect(flushes_of(&d) > flushes, "dirty slices have no bound");
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	destroy(&d);
}

static void failed_commit_is_not_tried_again_at_once(const struct shape *shape)
{
	struct memfile_fault fault = {
		.ops = 1U << MEMFILE_WRITE,
		.error = -ENOSPC,
	};
	struct disk d = {};
	u64 tries;
	int i;

	make_disk(&d, shape);
	attach(&d);
	for (i = 0; i < 8; i++)
		write_new(&d, i * span_of(&d), WL_SECTOR);
	expect(d.img->nr_dirty > 6, "%u slices are dirty", d.img->nr_dirty);
	memfile_fault(d.filp, &fault);
	d.img->max_dirty = 8;
	qcow2_commit_soon(d.img);
	usleep(300000);
	tries = memfile_faults(d.filp);
	memfile_fault(d.filp, NULL);
	expect(tries, "no commit was tried");
	expect(tries <= 3 * d.img->nr_dirty, "%llu writes were tried", tries);
	flush(&d);
	detach_and_look(&d);
	destroy(&d);
}

static void write_to_all_tables(struct disk *d)
{
	u64 pos;

	for (pos = 0; pos < d->bytes; pos += span_of(d))
		write_new(d, pos, WL_SECTOR);
}

static void idle_image_gives_copies_back(const struct shape *shape)
{
	struct disk d = {};
	u64 flushes;

	make_disk(&d, shape);
	attach(&d);
	d.img->max_dirty = INT_MAX;
	write_to_all_tables(&d);
	settle(&d);
	expect(d.img->table_copies.nr > QCOW2_COPIES_MIN,
	       "%u copies are enough", d.img->table_copies.nr);
	flushes = flushes_of(&d);
	qcow2_commit_now(d.img);
	expect(d.img->table_copies.nr == QCOW2_COPIES_MIN &&
	       d.img->refblock_copies.nr == QCOW2_COPIES_MIN,
	       "%u and %u copies stay", d.img->table_copies.nr,
	       d.img->refblock_copies.nr);
	expect(flushes_of(&d) == flushes, "an idle image flushes its file");
	detach_and_look(&d);
	destroy(&d);
}

static void commit_begins_before_writers_must_wait(const struct shape *shape)
{
	struct disk d = {};
	u64 flushes;
	int i;

	make_disk(&d, shape);
	attach(&d);
	d.img->max_dirty = 8;
	flushes = flushes_of(&d);
	/* With a slice of the L1 table and one of refcounts there are 7. */
	for (i = 0; i < 5; i++)
		write_new(&d, i * span_of(&d), WL_SECTOR);
	wait_for(flushes_of(&d) > flushes, "no commit comes");
	detach_and_look(&d);
	destroy(&d);
}

static void expect_clean(struct disk *d)
{
	expect(!d->img->nr_dirty && !d->img->nr_dirty_refblocks,
	       "%u slices are dirty, %u of refcount blocks", d->img->nr_dirty,
	       d->img->nr_dirty_refblocks);
}

/* A commit in batches, since there is no memory for more copies, fails after @skip writes. */
static void flush_without_space(struct disk *d, u64 skip)
{
	struct memfile_fault fault = {
		.ops = 1U << MEMFILE_WRITE,
		.skip = skip,
		.times = 1,
		.error = -ENOSPC,
	};
	int error;

	shim_fail_allocations(1, 0);
	memfile_fault(d->filp, &fault);
	error = run_op(d, QCOW2_OP_FLUSH, 0, 0);
	memfile_fault(d->filp, NULL);
	shim_fail_allocations(0, 0);
	expect(error == -ENOSPC, "a commit without space: %d", error);
}

/* All that was dirty before the commit that fails is so after it. */
static void commit_fails_after(const struct shape *shape, u64 skip)
{
	struct disk d = {};
	unsigned int dirty;

	make_disk(&d, shape);
	attach(&d);
	d.img->max_dirty = INT_MAX;
	write_all(&d);
	dirty = d.img->nr_dirty;
	expect(dirty > 3 * QCOW2_COPIES_MIN, "only %u slices are dirty", dirty);
	flush_without_space(&d, skip);
	check_file(&d, "after a commit that failed");
	flush(&d);
	expect_clean(&d);
	detach_and_look(&d);
	destroy(&d);
}

/* More slices of the L1 table are dirty than the first batch takes. */
static void l1_slices_of_a_failed_commit_stay(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	attach(&d);
	d.img->max_dirty = INT_MAX;
	write_to_all_tables(&d);
	flush_without_space(&d, 0);
	flush(&d);
	expect_clean(&d);
	check_file(&d, "after the commit");
	detach_and_look(&d);
	destroy(&d);
}

static void commit_without_space_loses_nothing(const struct shape *shape)
{
	static const u64 skips[] = { 0, 5, 20, 40, 60, 100, 150 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(skips); i++)
		commit_fails_after(shape, skips[i]);
}

/* Others that want a table wait meanwhile. */
static void new_table_is_zeroed_at_once(const struct shape *shape)
{
	struct disk d = { .options.record = true };
	const struct memfile_record *log;
	unsigned int writes = 0;
	size_t nr, i;
	u64 table;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, WL_SECTOR);
	table = qcow2_l1_entry(d.img, 0) & QCOW2_OFFSET_MASK;
	log = memfile_log(d.filp, &nr);
	for (i = 0; i < nr; i++)
		writes += log[i].op == MEMFILE_WRITE &&
			  log[i].offset >= table &&
			  log[i].offset < table + d.cluster;
	expect(writes == 1, "%u writes to make a table zero", writes);
	detach_and_look(&d);
	destroy(&d);
}

/* How many flushes of the file come before the last write from @offset on, of @bytes. */
static unsigned int flushes_before_last(struct disk *d, u64 offset, u64 bytes)
{
	unsigned int flushes = 0, ret = 0, writes = 0;
	const struct memfile_record *log;
	size_t nr, i;

	log = memfile_log(d->filp, &nr);
	for (i = 0; i < nr; i++) {
		flushes += log[i].op == MEMFILE_FLUSH;
		if (log[i].op != MEMFILE_WRITE ||
		    log[i].offset + log[i].bytes <= offset ||
		    log[i].offset >= offset + bytes)
			continue;
		ret = flushes;
		writes++;
	}
	expect(writes, "nothing was written there");
	return ret;
}

static void l1_table_is_in_the_first_batch(const struct shape *shape)
{
	struct disk d = { .options.record = true };
	unsigned int flushes;

	make_disk(&d, shape);
	attach(&d);
	d.img->max_dirty = INT_MAX;
	write_all(&d);
	shim_fail_allocations(1, 0);
	memfile_log_clear(d.filp);
	flushes = flushes_of(&d);
	flush(&d);
	flushes = flushes_of(&d) - flushes;
	shim_fail_allocations(0, 0);
	expect(flushes > 6, "only %u flushes, so few batches", flushes);
	flushes = flushes_before_last(&d, d.img->geo.l1_offset,
				      d.img->geo.l1_entries * sizeof(u64));
	expect(flushes == 1, "the L1 table was written after %u flushes", flushes);
	detach_and_look(&d);
	destroy(&d);
}

static void copies_have_a_bound(const struct shape *shape)
{
	struct qcow2_copies copies;
	long long before, bytes;
	struct disk d = {};

	make_disk(&d, shape);
	attach(&d);
	before = shim_live_bytes();
	expect(!qcow2_copies_init(&copies, d.img), "no copies");
	qcow2_copies_stock(&copies, UINT_MAX);
	bytes = shim_live_bytes() - before;
	expect(copies.nr >= 4096, "%u copies", copies.nr);
	expect(bytes > SZ_16M && bytes < 20 * SZ_1M, "%lld bytes for %u copies",
	       bytes, copies.nr);
	qcow2_copies_destroy(&copies);
	expect(shim_live_bytes() == before, "%lld bytes stay",
	       shim_live_bytes() - before);
	detach_and_look(&d);
	destroy(&d);
}

/* No more than @each for their data, struct qcow2_slice and what finds them. */
static void slices_take(const struct shape *shape, bool needs_pages, u32 each)
{
	struct disk d = { .options.needs_pages = needs_pages };
	long long bytes;
	unsigned int nr;
	u64 pos;

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach");
	attach(&d);
	bytes = shim_live_bytes();
	nr = d.img->cache.nr;
	for (pos = 0; pos < d.bytes; pos += span_of(&d))
		read_back(&d, pos, WL_SECTOR);
	bytes = shim_live_bytes() - bytes;
	nr = d.img->cache.nr - nr;
	expect(nr > 30, "only %u slices", nr);
	expect(bytes >= (long long)nr * each &&
	       bytes <= nr * (each + sizeof(struct qcow2_slice) + 128LL),
	       "%u slices take %lld bytes", nr, bytes);
	qcow2_cache_set_max(d.img, QCOW2_CACHE_MIN_BYTES);
	expect(d.img->cache.max == QCOW2_CACHE_MIN_BYTES / each,
	       "the cap is %u slices", d.img->cache.max);
	detach_and_look(&d);
	destroy(&d);
}

static void slices_take_memory_by_their_size(const struct shape *shape)
{
	slices_take(shape, false, min(1U << shape->base.cluster_bits, 4096U));
}

static void slices_take_pages_where_a_file_needs_them(const struct shape *shape)
{
	slices_take(shape, true, 4096);
}

/* @offset is discarded, and before that is durable damage is found elsewhere. */
static void discard_and_fail(struct disk *d, u64 offset)
{
	u64 punches, freed;

	write_new(d, offset, d->cluster);
	settle(d);
	punches = memfile_count(d->filp, MEMFILE_PUNCH);
	freed = READ_ONCE(d->img->clusters_freed);
	make_zero(d, QCOW2_OP_DISCARD, offset, d->cluster);
	qcow2_image_fail(d->img, -EUCLEAN, "a test");
	settle(d);
	expect(memfile_count(d->filp, MEMFILE_PUNCH) == punches,
	       "a cluster of a damaged image was punched");
	expect(READ_ONCE(d->img->clusters_freed) == freed,
	       "a cluster of a damaged image was freed");
	expect(!d->img->nr_drops, "drops are miscounted");
}

static void damaged_image_frees_clusters(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	attach(&d);
	discard_and_fail(&d, 0);
	detach(&d);
	destroy(&d);
}

/* The write that it hits is in flight when the damage is found. */
static void damaged_image_punches_kept_clusters(const struct shape *shape)
{
	struct disk d = { .no_unref = true, .options.threads = 2 };
	struct op read = { .buf = get_buffer(WL_SECTOR) }, op = {};
	u64 punches;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, d.cluster);
	settle(&d);
	punches = memfile_count(d.filp, MEMFILE_PUNCH);
	/* The hole waits for who reads there. */
	memfile_hold(d.filp, 1U << MEMFILE_READ, host_of(&d, 0),
		     host_of(&d, 0) + d.cluster);
	start(&d, &read, QCOW2_OP_READ, 0, WL_SECTOR);
	wait_for(memfile_holds(d.filp), "the read does not begin");
	start(&d, &op, QCOW2_OP_DISCARD, 0, d.cluster);
	wait_for(READ_ONCE(d.img->releasing), "the discard makes no hole");
	qcow2_image_fail(d.img, -EUCLEAN, "a test");
	memfile_release(d.filp);
	finish(&read);
	finish(&op);
	wait_for(!READ_ONCE(d.img->releasing), "the discard does not end");
	expect(memfile_count(d.filp, MEMFILE_PUNCH) == punches,
	       "a cluster of a damaged image was punched");
	detach(&d);
	free(read.buf);
	destroy(&d);
}

/* All that the pool of slices has. */
static unsigned int drain_pool(struct disk *d, void **elements, unsigned int max)
{
	unsigned int nr = 0;

	while (nr < max) {
		elements[nr] = mempool_alloc(d->img->cache.pool, GFP_NOWAIT);
		if (!elements[nr])
			break;
		nr++;
	}
	return nr;
}

/* Nothing is clean, nothing can become so: who wants memory for a slice is told. */
static void read_waits_for_a_commit_that_cannot_be(const struct shape *shape)
{
	struct memfile_fault fault = {
		.ops = 1U << MEMFILE_WRITE,
		.error = -EIO,
	};
	struct disk d = {};
	void *elements[256];
	unsigned int nr;
	int error;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, WL_SECTOR);
	write_new(&d, span_of(&d), WL_SECTOR);
	expect(!detach(&d), "detach");
	attach(&d);
	write_new(&d, d.cluster, WL_SECTOR);
	memfile_fault(d.filp, &fault);
	expect(run_op(&d, QCOW2_OP_FLUSH, 0, 0), "a commit without writes");
	shim_fail_allocations(1, 0);
	nr = drain_pool(&d, elements, ARRAY_SIZE(elements));
	expect(nr < ARRAY_SIZE(elements), "the pool has no end");
	alarm(20);
	error = run_op(&d, QCOW2_OP_READ, span_of(&d), WL_SECTOR);
	alarm(0);
	shim_fail_allocations(0, 0);
	expect(error, "a read without memory");
	while (nr)
		mempool_free(elements[--nr], d.img->cache.pool);
	memfile_fault(d.filp, NULL);
	detach(&d);
	destroy(&d);
}

/*
 * All of them.
 */

#define BASE(bits, size)					\
	{ .cluster_bits = bits, .refcount_bits = 16, .version = 3, \
	  .virtual_bytes = size }

static const struct shape all_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 1 << 20) },
	{ "clusters of 4 KiB", BASE(12, 32 << 20) },
	{ "extended L2, clusters of 16 KiB",
	  { .cluster_bits = 14, .refcount_bits = 16, .version = 3, .extl2 = true,
	    .virtual_bytes = 96 << 20 } },
	{}
};

static const struct shape table_shapes[] = {
	{ "clusters of 4 KiB", BASE(12, 32 << 20) },
	{ "clusters of 2 MiB", BASE(21, 32 << 20) },
	{}
};

static const struct shape busy_shapes[] = {
	{ "clusters of 4 KiB", BASE(12, 64 << 20) },
	{}
};

/* Many L2 tables and refcount blocks. */
static const struct shape dirty_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 4 << 20) },
	{}
};

/* Of the L1 table there are 24 slices. */
static const struct shape long_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 48 << 20) },
	{}
};

static const struct shape many_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 4 << 20) },
	{ "clusters of 4 KiB", BASE(12, 64 << 20) },
	{}
};

static const struct shape idle_shapes[] = {
	{ "clusters of 4 KiB", BASE(12, 64 << 20) },
	{ "clusters of 4 KiB, lazy refcounts",
	  { .cluster_bits = 12, .refcount_bits = 16, .version = 3, .lazy = true,
	    .virtual_bytes = 64 << 20 } },
	{}
};

static const struct test_case cases[] = {
	TEST_CASE(flush_ends_while_others_write, busy_shapes),
	TEST_CASE(first_touch_of_a_table_waits_for_no_flush, all_shapes),
	TEST_CASE(new_table_is_zeroed_at_once, table_shapes),
	TEST_CASE(write_in_place_waits_for_no_room, all_shapes),
	TEST_CASE(commit_begins_before_writers_must_wait, busy_shapes),
	TEST_CASE(commit_without_space_loses_nothing, dirty_shapes),
	TEST_CASE(l1_slices_of_a_failed_commit_stay, long_shapes),
	TEST_CASE(l1_table_is_in_the_first_batch, dirty_shapes),
	TEST_CASE(copies_have_a_bound, all_shapes),
	TEST_CASE(slices_take_memory_by_their_size, many_shapes),
	TEST_CASE(slices_take_pages_where_a_file_needs_them, many_shapes),
	TEST_CASE(failed_commit_is_not_tried_again_at_once, busy_shapes),
	TEST_CASE(idle_image_gives_copies_back, idle_shapes),
	TEST_CASE(damaged_image_frees_clusters, all_shapes),
	TEST_CASE(damaged_image_punches_kept_clusters, all_shapes),
	TEST_CASE(read_waits_for_a_commit_that_cannot_be, all_shapes),
};

int main(int argc, char **argv)
{
	return run_cases("commits", cases, ARRAY_SIZE(cases), argc, argv);
}
