// SPDX-License-Identifier: GPL-2.0-only
/*
 * What operations cost in transfers of the file: the figures of
 * Documentation/design/index.rst, "What a request costs".
 *
 * The file does all at once, by who submits it, and nothing else runs, so each
 * transfer is counted. The slices that an operation needs are in the cache before.
 */

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "cases.h"
#include "disk.h"
#include "memfile.h"
#include "shim.h"
#include "verify.h"

/**
 * struct cost - transfers
 * @reads: of the file
 * @writes: likewise
 * @written: bytes of these
 * @zeroed: calls that zero a range
 * @flushes: of the file
 */
struct cost {
	u64 reads;
	u64 writes;
	u64 written;
	u64 zeroed;
	u64 flushes;
};

static struct cost cost_so_far(struct disk *d)
{
	struct cost cost = {
		.reads = memfile_count(d->filp, MEMFILE_READ),
		.writes = memfile_count(d->filp, MEMFILE_WRITE),
		.zeroed = memfile_count(d->filp, MEMFILE_ZERO),
		.flushes = memfile_count(d->filp, MEMFILE_FLUSH),
	};
	const struct memfile_record *log;
	size_t i, nr;

	log = memfile_log(d->filp, &nr);
	for (i = 0; i < nr; i++)
		if (log[i].op == MEMFILE_WRITE)
			cost.written += log[i].bytes;
	return cost;
}

static void expect_cost(struct disk *d, const struct cost *before,
			const struct cost *want, const char *what)
{
	struct cost now = cost_so_far(d);

	now.reads -= before->reads;
	now.writes -= before->writes;
	now.written -= before->written;
	now.zeroed -= before->zeroed;
	now.flushes -= before->flushes;
	expect(!memcmp(&now, want, sizeof(now)),
	       "%s: %llu reads, %llu writes (%llu bytes), %llu ranges zeroed, %llu flushes; wanted %llu, %llu (%llu), %llu, %llu",
	       what, now.reads, now.writes, now.written, now.zeroed,
	       now.flushes, want->reads, want->writes, want->written,
	       want->zeroed, want->flushes);
}

static void write_costs(struct disk *d, u64 offset, u64 bytes,
			const struct cost *want, const char *what)
{
	struct cost before = cost_so_far(d);

	write_new(d, offset, bytes);
	expect_cost(d, &before, want, what);
}

/* Attached, with the first L2 slice and all refcounts in the cache. */
static void begin(struct disk *d, const struct shape *shape)
{
	d->options.record = true;
	make_disk(d, shape);
	attach(d);
	write_new(d, d->bytes - d->cluster, d->cluster);
	write_new(d, 0, d->cluster);
	settle(d);
}

static void end(struct disk *d)
{
	detach_and_look(d);
	destroy(d);
}

/* So that the first clusters belong to a snapshot too. */
static void begin_shared(struct disk *d, const struct shape *shape)
{
	begin(d, shape);
	write_new(d, 0, 8 * d->cluster);
	expect(!detach(d), "detach");
	take_snapshot(d);
	attach(d);
	/* Moves the L2 table, and has the slices in the cache. */
	write_new(d, 0, d->cluster);
	settle(d);
}

/*
 * Cases.
 */

static void whole_clusters_are_written_without_a_read(const struct shape *shape)
{
	struct disk d = {};

	begin_shared(&d, shape);
	write_costs(&d, 0, d.cluster,
		    &(struct cost){ .writes = 1, .written = d.cluster },
		    "in place");
	write_costs(&d, 10 * d.cluster, 2 * d.cluster,
		    &(struct cost){ .writes = 1, .written = 2 * d.cluster },
		    "new");
	write_costs(&d, d.cluster, 2 * d.cluster,
		    &(struct cost){ .writes = 1, .written = 2 * d.cluster },
		    "shared");
	make_zero(&d, QCOW2_OP_DISCARD, 10 * d.cluster, d.cluster);
	settle(&d);
	write_costs(&d, 10 * d.cluster, d.cluster,
		    &(struct cost){ .writes = 1, .written = d.cluster },
		    "discarded");
	end(&d);
}

/* The slices of one table, which were made dirty in another order. */
static void neighbouring_slices_are_written_together(const struct shape *shape)
{
	struct disk d = {};
	struct cost before;
	u64 slice;
	u32 i, nr;

	begin(&d, shape);
	slice = d.cluster << d.img->geo.l2_slice_bits;
	nr = d.bytes / slice;
	expect(nr == d.cluster / qcow2_slice_bytes(&d.img->geo),
	       "%u slices are not one table", nr);
	for (i = 0; i < nr; i++)
		read_back(&d, i * slice, d.cluster);
	for (i = 0; i < nr; i++)
		write_new(&d, (i ^ 2) * slice + d.cluster, d.cluster);
	before = cost_so_far(&d);
	flush(&d);
	/* One of the table, one of refcounts. */
	expect_cost(&d, &before,
		    &(struct cost){ .writes = 2,
				    .written = d.cluster +
					       qcow2_slice_bytes(&d.img->geo),
				    .flushes = 2 },
		    "commit");
	end(&d);
}

/* Only what an entry needs moves when it gets a table. */
static void new_table_is_written_once(const struct shape *shape)
{
	struct disk d = {};
	struct cost before;
	u64 table;

	begin(&d, shape);
	table = d.cluster << d.img->geo.l2_bits;
	expect(!(qcow2_l1_entry(d.img, 1) & QCOW2_OFFSET_MASK),
	       "the table is there already");
	before = cost_so_far(&d);
	write_new(&d, table, d.cluster);
	/* Zeroes for the table, the data; the slice of the table is read. */
	expect_cost(&d, &before,
		    &(struct cost){ .reads = 1, .writes = 2,
				    .written = 2 * d.cluster },
		    "first write to a table");
	end(&d);
}

/* In large pieces, not slice by slice. */
static void shared_table_is_copied_at_once(const struct shape *shape)
{
	struct disk d = {};
	struct cost before;

	begin(&d, shape);
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach(&d);
	read_back(&d, 0, d.cluster);
	before = cost_so_far(&d);
	write_new(&d, 0, d.cluster);
	/*
	 * Reads: refcounts, the table, the slice of the L1 table, that of the new table.
	 * Writes: the copy, the data.
	 */
	expect_cost(&d, &before,
		    &(struct cost){ .reads = 4, .writes = 2,
				    .written = 2 * d.cluster },
		    "first write after a snapshot");
	end(&d);
}

static void where_the_file_grows_nothing_is_zeroed(const struct shape *shape)
{
	struct disk d = {};

	begin(&d, shape);
	write_costs(&d, 10 * d.cluster + 1024, 1024,
		    &(struct cost){ .writes = 1, .written = 1024 }, "middle");
	write_costs(&d, 11 * d.cluster + 1024, d.cluster,
		    &(struct cost){ .writes = 1, .written = d.cluster },
		    "parts of two");
	end(&d);
}

/* Two clusters were written, and are free again; @first is where they lie. */
static void free_two(struct disk *d, u64 *first)
{
	write_new(d, 10 * d->cluster, 2 * d->cluster);
	settle(d);
	*first = host_of(d, 10 * d->cluster);
	make_zero(d, QCOW2_OP_DISCARD, 10 * d->cluster, 2 * d->cluster);
	settle(d);
}

/* A small write to the first of them, by which @zeroes bytes are zeroed. */
static void write_in_freed(struct disk *d, u64 first, u64 zeroes,
			   const char *what)
{
	write_costs(d, 10 * d->cluster + 1024, 1024,
		    &(struct cost){ .writes = 1, .written = 1024 + zeroes },
		    what);
	expect(host_of(d, 10 * d->cluster) == first, "%s: somewhere else", what);
	read_back(d, 10 * d->cluster, d->cluster);
}

static void what_was_punched_is_not_zeroed(const struct shape *shape)
{
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	free_two(&d, &first);
	write_in_freed(&d, first, 0, "punched");
	write_costs(&d, 11 * d.cluster, 512,
		    &(struct cost){ .writes = 1, .written = 512 }, "its neighbour");
	expect(host_of(&d, 11 * d.cluster) == first + d.cluster,
	       "the neighbour is somewhere else");
	read_back(&d, 11 * d.cluster, d.cluster);
	end(&d);
}

/* Discards a cluster, in which no hole can be made. */
static void free_without_punch(struct disk *d, u64 offset)
{
	struct memfile_fault always = {
		.ops = 1 << MEMFILE_PUNCH, .error = -EIO,
	};

	memfile_fault(d->filp, &always);
	make_zero(d, QCOW2_OP_DISCARD, offset, d->cluster);
	settle(d);
}

/* One of two does not read as zeroes; the other does. */
static void parts_of_two_kinds(const struct shape *shape, u64 punched)
{
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	write_new(&d, 10 * d.cluster, 2 * d.cluster);
	settle(&d);
	first = host_of(&d, 10 * d.cluster);
	make_zero(&d, QCOW2_OP_DISCARD, (10 + punched) * d.cluster, d.cluster);
	settle(&d);
	free_without_punch(&d, (11 - punched) * d.cluster);
	write_costs(&d, 10 * d.cluster + 1024, d.cluster,
		    &(struct cost){ .writes = 1, .written = 2 * d.cluster },
		    "parts of both");
	expect(host_of(&d, 10 * d.cluster) == first, "somewhere else");
	read_back(&d, 10 * d.cluster, 2 * d.cluster);
	end(&d);
}

static void parts_of_first_punched_are_zeroed(const struct shape *shape)
{
	parts_of_two_kinds(shape, 0);
}

static void parts_of_last_punched_are_zeroed(const struct shape *shape)
{
	parts_of_two_kinds(shape, 1);
}

/* Takes a cluster that is free, and gives it back. */
static void take_and_give_back(struct disk *d, u64 host)
{
	struct qcow2_need need = {};
	struct qcow2_run run;
	int ret;

	mutex_lock(&d->img->meta_lock);
	ret = qcow2_alloc_clusters(d->img, host, 1, &need, &run);
	expect(!ret && run.nb_clusters == 1, "it is not free");
	qcow2_alloc_undo(d->img, &run);
	mutex_unlock(&d->img->meta_lock);
}

/* So those in front of a cluster that was taken far behind the others. */
static void what_was_passed_over_is_not_zeroed(const struct shape *shape)
{
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	write_new(&d, 10 * d.cluster, d.cluster);
	first = host_of(&d, 10 * d.cluster);
	take_and_give_back(&d, first + 3 * d.cluster);
	write_costs(&d, 11 * d.cluster + 1024, 1024,
		    &(struct cost){ .writes = 1, .written = 1024 }, "passed over");
	write_costs(&d, 12 * d.cluster + 1024, 1024,
		    &(struct cost){ .writes = 1, .written = 1024 },
		    "passed over, too");
	expect(host_of(&d, 12 * d.cluster) == first + 2 * d.cluster,
	       "it lies somewhere else");
	write_costs(&d, 13 * d.cluster + 1024, 1024,
		    &(struct cost){ .writes = 1, .written = d.cluster },
		    "taken before");
	expect(host_of(&d, 13 * d.cluster) == first + 3 * d.cluster,
	       "that lies somewhere else");
	end(&d);
}

/* Without memory to remember it, what was punched counts as used. */
static void without_memory_it_is_zeroed(const struct shape *shape)
{
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	write_new(&d, 10 * d.cluster, 2 * d.cluster);
	settle(&d);
	first = host_of(&d, 10 * d.cluster);
	mutex_lock(&d.img->meta_lock);
	verify_stop();
	d.img->free.nr_zeroes = QCOW2_ZEROES_MAX;
	mutex_unlock(&d.img->meta_lock);
	make_zero(&d, QCOW2_OP_DISCARD, 10 * d.cluster, 2 * d.cluster);
	settle(&d);
	write_in_freed(&d, first, d.cluster - 1024, "too much to remember");
	end(&d);
}

static void what_could_not_be_punched_is_zeroed(const struct shape *shape)
{
	struct memfile_fault always = {
		.ops = 1 << MEMFILE_PUNCH, .error = -EOPNOTSUPP,
	};
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	memfile_fault(d.filp, &always);
	free_two(&d, &first);
	write_in_freed(&d, first, d.cluster - 1024, "not punched");
	end(&d);
}

static void what_must_not_be_punched_is_zeroed(const struct shape *shape)
{
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	set_bit(QCOW2_IMAGE_NO_PASS_DISCARD, &d.img->flags);
	free_two(&d, &first);
	write_in_freed(&d, first, d.cluster - 1024, "not punched");
	end(&d);
}

static void block_device_is_zeroed(const struct shape *shape)
{
	struct disk d = { .options.block_device = true };
	unsigned char *junk;
	u64 first;

	begin(&d, shape);
	free_two(&d, &first);
	write_in_freed(&d, first, d.cluster - 1024, "punched");
	write_new(&d, 11 * d.cluster, d.cluster);
	/* The device becomes larger. */
	junk = must(malloc(d.cluster));
	memset(junk, 0x5a, d.cluster);
	memfile_store(d.filp, memfile_bytes(d.filp), junk, d.cluster);
	free(junk);
	write_costs(&d, 12 * d.cluster, 512,
		    &(struct cost){ .writes = 1, .written = d.cluster },
		    "behind the end");
	read_back(&d, 12 * d.cluster, d.cluster);
	end(&d);
}

static void what_was_written_since_is_zeroed(const struct shape *shape)
{
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	free_two(&d, &first);
	write_new(&d, 10 * d.cluster, d.cluster);
	settle(&d);
	free_without_punch(&d, 10 * d.cluster);
	write_in_freed(&d, first, d.cluster - 1024, "not punched again");
	end(&d);
}

/*
 * A file that lost its tail: what is passed over is in use, and may be written
 * without a look at it when the file has become longer again.
 */
static void what_was_passed_over_in_use_is_zeroed(const struct shape *shape)
{
	struct disk d = { .options.nowait = MEMFILE_NOWAIT_ALWAYS };
	u64 first;

	begin(&d, shape);
	write_new(&d, 10 * d.cluster, 2 * d.cluster);
	first = host_of(&d, 10 * d.cluster);
	expect(!detach(&d), "detach");
	memfile_truncate(d.filp, first);
	memset(d.content + 10 * d.cluster, 0, 2 * d.cluster);
	attach(&d);
	/* The second one vets the slice, so the third goes fast. */
	write_new(&d, 12 * d.cluster, d.cluster);
	write_new(&d, 12 * d.cluster, d.cluster);
	write_new(&d, 10 * d.cluster, d.cluster);
	free_without_punch(&d, 10 * d.cluster);
	write_in_freed(&d, first, d.cluster - 1024, "not punched");
	end(&d);
}

/* Some of what failed may be there. */
static void what_a_failed_write_took_is_zeroed(const struct shape *shape)
{
	struct memfile_fault torn = {
		.ops = 1 << MEMFILE_WRITE, .times = 1, .error = -EIO,
		.torn = true,
	};
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	free_two(&d, &first);
	memfile_fault(d.filp, &torn);
	expect(try_write(&d, 10 * d.cluster, d.cluster) == -EIO,
	       "the write did not fail");
	write_in_freed(&d, first, d.cluster - 1024, "written in vain");
	end(&d);
}

/* ZERO_ALLOC: the host cluster stays, its content is not known. */
static void zero_cluster_is_filled_where_it_is(const struct shape *shape)
{
	struct disk d = {};
	u64 host;

	begin(&d, shape);
	host = host_of(&d, 0);
	keep_as_zeroes(&d, 0, d.cluster);
	write_costs(&d, 1024, 1024,
		    &(struct cost){ .writes = 1, .written = d.cluster },
		    "middle");
	expect(host_of(&d, 0) == host, "the cluster has moved");
	read_back(&d, 0, d.cluster);
	end(&d);
}

static void shared_cluster_is_copied_in_one_write(const struct shape *shape)
{
	struct disk d = {};
	u64 big = 20 << 10;

	begin_shared(&d, shape);
	write_costs(&d, 2 * d.cluster + 1024, 1024,
		    &(struct cost){ .reads = 1, .writes = 1,
				    .written = d.cluster },
		    "a little in the middle");
	write_costs(&d, 3 * d.cluster, 1024,
		    &(struct cost){ .reads = 1, .writes = 1,
				    .written = d.cluster },
		    "at the start");
	write_costs(&d, 5 * d.cluster - 1024, 1024,
		    &(struct cost){ .reads = 1, .writes = 1,
				    .written = d.cluster },
		    "at the end");
	if (d.cluster > big + 1024)
		write_costs(&d, 6 * d.cluster + 1024, big,
			    &(struct cost){ .reads = 2, .writes = 1,
					    .written = d.cluster },
			    "much in the middle");
	end(&d);
}

/* More to copy than a bounce buffer holds. */
static void large_cluster_is_copied_piece_by_piece(const struct shape *shape)
{
	u64 piece = 64 << 10, from = 100 << 10, data = 4096;
	struct disk d = {};
	u64 pieces;

	begin_shared(&d, shape);
	pieces = DIV_ROUND_UP(from, piece) +
		 DIV_ROUND_UP(d.cluster - from - data, piece);
	write_costs(&d, 2 * d.cluster + from, data,
		    &(struct cost){ .reads = pieces, .writes = 1 + pieces,
				    .written = d.cluster }, "middle");
	end(&d);
}

static void flush_writes_each_slice_once(const struct shape *shape)
{
	u64 slice = min(4096U, 1U << shape->base.cluster_bits);
	struct disk d = {};
	struct cost before;
	unsigned int i;

	begin(&d, shape);
	for (i = 0; i < 20; i++)
		write_costs(&d, (10 + i) * d.cluster, d.cluster,
			    &(struct cost){ .writes = 1,
					    .written = d.cluster }, "write");
	before = cost_so_far(&d);
	flush(&d);
	expect_cost(&d, &before,
		    &(struct cost){ .writes = shape->base.lazy ? 1 : 2,
				    .written = slice *
					       (shape->base.lazy ? 1 : 2),
				    .flushes = 2 }, "flush after changes");
	write_new(&d, 10 * d.cluster, d.cluster);
	before = cost_so_far(&d);
	flush(&d);
	expect_cost(&d, &before, &(struct cost){ .flushes = 1 },
		    "flush after writes in place");
	end(&d);
}

static void reads_cost_one_transfer_an_extent(const struct shape *shape)
{
	struct disk d = {};
	struct cost before;

	begin(&d, shape);
	write_new(&d, 10 * d.cluster, 4 * d.cluster);
	before = cost_so_far(&d);
	read_back(&d, 10 * d.cluster + 512, 3 * d.cluster);
	expect_cost(&d, &before, &(struct cost){ .reads = 1 }, "contiguous");
	before = cost_so_far(&d);
	read_back(&d, 20 * d.cluster, 4 * d.cluster);
	expect_cost(&d, &before, &(struct cost){}, "not there");
	end(&d);
}

#define SHAPE(bits, bytes)						\
	{ .cluster_bits = (bits), .refcount_bits = 16, .version = 3,	\
	  .virtual_bytes = (bytes) }

static const struct shape shapes[] = {
	{ "clusters of 4 KiB", SHAPE(12, 512 << 10) },
	{ "clusters of 64 KiB", SHAPE(16, 8 << 20) },
	{}
};

static const struct shape large_shapes[] = {
	{ "clusters of 256 KiB", SHAPE(18, 16 << 20) },
	{ "clusters of 1 MiB", SHAPE(20, 32 << 20) },
	{}
};

/* One L2 table of four slices; several tables; 16 slices. */
static const struct shape slices_shapes[] = {
	{ "clusters of 16 KiB", SHAPE(14, 32 << 20) },
	{}
};

static const struct shape tables_shapes[] = {
	{ "clusters of 4 KiB", SHAPE(12, 8 << 20) },
	{}
};

static const struct shape copy_shapes[] = {
	{ "clusters of 64 KiB", SHAPE(16, 8 << 20) },
	{}
};

static const struct shape flush_shapes[] = {
	{ "clusters of 4 KiB", SHAPE(12, 512 << 10) },
	{ "clusters of 64 KiB", SHAPE(16, 8 << 20) },
	{ "lazy refcounts",
	  { .cluster_bits = 16, .refcount_bits = 16, .version = 3, .lazy = true,
	    .virtual_bytes = 8 << 20 } },
	{}
};

/* What is known to be zero is read by whoever asks, before start() returns. */
static void zeroes_are_read_at_once(const struct shape *shape)
{
	struct disk d = {};
	struct op op = {};

	begin(&d, shape);
	op.buf = get_buffer(d.cluster);
	memset(op.buf, 1, d.cluster);
	start(&d, &op, QCOW2_OP_READ, 4 * d.cluster, d.cluster);
	expect(is_done(&op), "the read went elsewhere");
	expect(!finish(&op), "the read failed");
	expect(!memcmp(op.buf, d.content + 4 * d.cluster, d.cluster), "no zeroes");
	free(op.buf);
	end(&d);
}

static bool is_read_elsewhere(struct disk *d, bool by_worker)
{
	struct op op = { .buf = get_buffer(d->cluster), .by_worker = by_worker };

	start(d, &op, QCOW2_OP_READ, 4 * d->cluster, d->cluster);
	expect(!finish(&op), "the read failed");
	free(op.buf);
	return !pthread_equal(op.wait.done_by, pthread_self());
}

static void who_must_not_sleep_has_a_worker(const struct shape *shape)
{
	struct disk d = {};

	begin(&d, shape);
	settle(&d);
	expect(!is_read_elsewhere(&d, false), "zeroes were read by a worker");
	expect(is_read_elsewhere(&d, true), "no worker, as one must");
	end(&d);
}

/* Tries of so many writes in place. */
static u64 tries_of(struct disk *d, unsigned int writes)
{
	u64 before = memfile_tries(d->filp);

	while (writes--)
		write_new(d, 0, 512);
	return memfile_tries(d->filp) - before;
}

static void expect_tries(struct disk *d, unsigned int writes, u64 want,
			 const char *what)
{
	u64 tries = tries_of(d, writes);

	expect(tries == want, "%s: %llu of %u writes were tried, wanted %llu",
	       what, tries, writes, want);
}

/*
 * Between tries in vain there are 0, 1, 3, 7, 15, 31 and then always 63 writes that
 * are not tried.
 */
static void who_would_always_wait_is_tried_less(const struct shape *shape)
{
	struct disk d = { .options.nowait = MEMFILE_NOWAIT_NO_WRITE };

	begin(&d, shape);
	shim_stop_jiffies(true);
	/* By a worker, as the slice must be vetted. */
	expect_tries(&d, 1, 0, "the first one");
	expect_tries(&d, 100, 100, "in vain, for less than a tick");
	shim_stop_jiffies(false);
	/* A tick takes a millisecond. */
	usleep(5000);
	expect_tries(&d, 1 + 2 + 4 + 8 + 16 + 32, 6, "in vain");
	expect_tries(&d, 1 + 10 * 64, 11, "in vain for long");
	memfile_set_nowait(d.filp, MEMFILE_NOWAIT_ALWAYS);
	expect_tries(&d, 63, 0, "it still looks so");
	expect_tries(&d, 100, 100, "one went through");
	shim_stop_jiffies(true);
	memfile_set_nowait(d.filp, MEMFILE_NOWAIT_NO_WRITE);
	expect_tries(&d, 2, 2, "in vain for a moment, again");
	shim_stop_jiffies(false);
	usleep(5000);
	expect_tries(&d, 1 + 2 + 4 + 8 + 16 + 32, 6, "in vain, again");
	read_back(&d, 0, d.cluster);
	end(&d);
}

static void who_is_limited_has_a_worker(const struct shape *shape)
{
	struct disk d = { .options.nowait = MEMFILE_NOWAIT_ALWAYS };

	begin(&d, shape);
	expect_tries(&d, 1, 0, "the slice is to be vetted");
	expect_tries(&d, 1, 1, "no limit");
	memfile_limit(d.filp, host_of(&d, 0) + 511);
	expect_tries(&d, 1, 0, "over the limit");
	memfile_limit(d.filp, host_of(&d, 0) + 512);
	expect_tries(&d, 1, 1, "within the limit");
	end(&d);
}

static u16 ioprio_of_write(struct disk *d, u64 offset, u16 ioprio)
{
	struct op op = { .buf = new_data(d, offset, 512), .ioprio = ioprio };

	start(d, &op, QCOW2_OP_WRITE, offset, 512);
	expect(!finish(&op), "the write failed");
	memcpy(d->content + offset, op.buf, 512);
	free(op.buf);
	return memfile_ioprio(d->filp);
}

static void transfers_have_the_priority_of_requests(const struct shape *shape)
{
	struct disk d = { .options.nowait = MEMFILE_NOWAIT_ALWAYS };

	begin(&d, shape);
	expect(ioprio_of_write(&d, 0, 7) == 7, "in place, by a worker");
	expect(ioprio_of_write(&d, 0, 6) == 6, "in place, fast");
	expect(ioprio_of_write(&d, 10 * d.cluster, 5) == 0,
	       "new: others may wait for it");
	expect(ioprio_of_write(&d, 0, 0) == 0, "none");
	end(&d);
}

static int cpu_of_new_write(struct disk *d, u64 offset)
{
	write_new(d, offset, 512);
	return shim_chosen_cpu();
}

/* The shim's threads are all on CPU 0 of two. */
static void a_write_alone_stays_on_its_cpu(const struct shape *shape)
{
	struct disk d = { .options.nowait = MEMFILE_NOWAIT_NEVER };
	struct op op = {};
	u64 host;

	begin(&d, shape);
	host = host_of(&d, 0);
	expect(cpu_of_new_write(&d, 10 * d.cluster) == 0, "alone: elsewhere");
	op.buf = new_data(&d, 0, 512);
	memfile_hold(d.filp, 1U << MEMFILE_WRITE, host, host + d.cluster);
	start(&d, &op, QCOW2_OP_WRITE, 0, 512);
	wait_for(memfile_holds(d.filp), "the write does not begin");
	expect(shim_chosen_cpu() == 0, "the first one: elsewhere");
	expect(cpu_of_new_write(&d, 11 * d.cluster) == 1,
	       "the second one: on the CPU of the first one");
	memfile_release(d.filp);
	expect(!finish(&op), "the held write failed");
	memcpy(d.content, op.buf, 512);
	free(op.buf);
	expect(cpu_of_new_write(&d, 12 * d.cluster) == 0,
	       "alone again: elsewhere");
	end(&d);
}

static const struct test_case cases[] = {
	TEST_CASE(a_write_alone_stays_on_its_cpu, shapes),
	TEST_CASE(who_is_limited_has_a_worker, shapes),
	TEST_CASE(transfers_have_the_priority_of_requests, shapes),
	TEST_CASE(who_would_always_wait_is_tried_less, shapes),
	TEST_CASE(who_must_not_sleep_has_a_worker, shapes),
	TEST_CASE(zeroes_are_read_at_once, shapes),
	TEST_CASE(whole_clusters_are_written_without_a_read, shapes),
	TEST_CASE(where_the_file_grows_nothing_is_zeroed, shapes),
	TEST_CASE(what_was_punched_is_not_zeroed, shapes),
	TEST_CASE(parts_of_first_punched_are_zeroed, shapes),
	TEST_CASE(parts_of_last_punched_are_zeroed, shapes),
	TEST_CASE(what_was_passed_over_is_not_zeroed, shapes),
	TEST_CASE(without_memory_it_is_zeroed, shapes),
	TEST_CASE(what_could_not_be_punched_is_zeroed, shapes),
	TEST_CASE(what_must_not_be_punched_is_zeroed, shapes),
	TEST_CASE(block_device_is_zeroed, shapes),
	TEST_CASE(what_was_written_since_is_zeroed, shapes),
	TEST_CASE(what_was_passed_over_in_use_is_zeroed, shapes),
	TEST_CASE(what_a_failed_write_took_is_zeroed, shapes),
	TEST_CASE(zero_cluster_is_filled_where_it_is, shapes),
	TEST_CASE(shared_cluster_is_copied_in_one_write, shapes),
	TEST_CASE(large_cluster_is_copied_piece_by_piece, large_shapes),
	TEST_CASE(flush_writes_each_slice_once, flush_shapes),
	TEST_CASE(neighbouring_slices_are_written_together, slices_shapes),
	TEST_CASE(new_table_is_written_once, tables_shapes),
	TEST_CASE(shared_table_is_copied_at_once, copy_shapes),
	TEST_CASE(reads_cost_one_transfer_an_extent, shapes),
};

int main(int argc, char **argv)
{
	return run_cases("transfers", cases, ARRAY_SIZE(cases), argc, argv);
}
