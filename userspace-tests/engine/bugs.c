// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bugs that other implementations of qcow2 had, each as a test with the name of
 * what must not happen, or of what must.
 *
 * Documentation/design/known-bugs.rst says where each bug was seen. These are the
 * ones that need control over when a transfer of the image file is carried out,
 * or which one fails. Each test runs in a process of its own, once for each
 * shape of image that matters to it. The output is TAP.
 */

#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/rcupdate.h>
#include <linux/unaligned.h>

#include "cases.h"
#include "disk.h"
#include "memfile.h"
#include "qcheck.h"
#include "workload.h"
#include "zeroing.h"

/*
 * Transfers that are held while their cluster goes.
 */

#define NEIGHBOURS	24

/*
 * Allocating writes elsewhere, each with a flush; none may get the cluster at
 * @host. Returns where it went on.
 */
static u64 write_neighbours(struct disk *d, u64 offset, u64 host)
{
	unsigned int i;

	for (i = 0; i < NEIGHBOURS; i++, offset += d->cluster) {
		write_new(d, offset, d->cluster);
		flush(d);
		expect(host_of(d, offset) != host,
		       "a cluster that is in use was given out again");
	}
	return offset;
}

/* That the tests above test something: the cluster is wanted when it is free. */
static void expect_reuse(struct disk *d, u64 offset, u64 host)
{
	unsigned int i;

	settle(d);
	for (i = 0; i < NEIGHBOURS; i++, offset += d->cluster) {
		write_new(d, offset, d->cluster);
		if (host_of(d, offset) == host)
			return;
	}
	fail("the cluster that became free is not used again");
}

/* Two clusters, of which the first is the victim; both durable. */
static u64 prepare_victim(struct disk *d, const struct shape *shape)
{
	d->options.threads = 8;
	make_disk(d, shape);
	attach(d);
	write_new(d, 0, 2 * d->cluster);
	settle(d);
	return host_of(d, 0);
}

static void transfer_meets_removal(const struct shape *shape, bool write,
				   enum qcow2_op removal)
{
	struct disk d = {};
	u64 host = prepare_victim(&d, shape), end, punches;
	u64 bytes = max(d.cluster / 2, (u64)WL_SECTOR);
	unsigned char *old = must(malloc(bytes));
	struct op op = { .buf = write ? new_data(&d, 0, bytes) :
					 get_buffer(bytes) };
	int error;

	memcpy(old, d.content, bytes);
	memfile_hold(d.filp, 1U << (write ? MEMFILE_WRITE : MEMFILE_READ), host,
		     host + d.cluster);
	start(&d, &op, write ? QCOW2_OP_WRITE : QCOW2_OP_READ, 0, bytes);
	wait_for(memfile_holds(d.filp), "the transfer does not begin");
	punches = memfile_count(d.filp, MEMFILE_PUNCH);

	make_zero(&d, removal, 0, d.cluster);
	flush(&d);
	flush(&d);
	/* Time for what must not happen. */
	usleep(20000);
	end = write_neighbours(&d, 2 * d.cluster, host);
	expect(memfile_count(d.filp, MEMFILE_PUNCH) == punches,
	       "a cluster that is in use was punched");
	expect(!is_done(&op), "the held transfer is done");

	memfile_release(d.filp);
	error = finish(&op);
	expect(!error, "the held transfer: %d", error);
	if (!write)
		compare(op.buf, old, d.content, 0, bytes, "the held read");
	read_back(&d, 0, end);
	expect_reuse(&d, end, host);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	free(old);
	free(op.buf);
	destroy(&d);
}

static void write_lands_after_discard_and_reuse(const struct shape *shape)
{
	transfer_meets_removal(shape, true, QCOW2_OP_DISCARD);
}

static void write_lands_after_write_zeroes_and_reuse(const struct shape *shape)
{
	transfer_meets_removal(shape, true, QCOW2_OP_WRITE_ZEROES);
}

static void read_in_flight_sees_data_of_others(const struct shape *shape)
{
	transfer_meets_removal(shape, false, QCOW2_OP_DISCARD);
}

static void queued_punch_comes_after_reuse(const struct shape *shape)
{
	struct disk d = {};
	u64 host = prepare_victim(&d, shape), end;

	memfile_hold(d.filp, 1U << MEMFILE_PUNCH, host, host + d.cluster);
	make_zero(&d, QCOW2_OP_DISCARD, 0, d.cluster);
	flush(&d);
	wait_for(memfile_holds(d.filp), "nothing is punched");
	end = write_neighbours(&d, 2 * d.cluster, host);
	memfile_release(d.filp);
	settle(&d);
	read_back(&d, 0, end);
	expect_reuse(&d, end, host);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	destroy(&d);
}

/*
 * With discard-no-unref the cluster keeps its place, and a hole is made in it when
 * nobody uses it: neither under a write, nor after one that came later.
 */
static void punch_of_a_kept_cluster_meets_writes(const struct shape *shape)
{
	struct disk d = { .no_unref = true };
	u64 host = prepare_victim(&d, shape), punches;
	struct op op = { .buf = new_data(&d, 0, d.cluster) }, discard = {};

	memfile_hold(d.filp, 1U << MEMFILE_WRITE, host, host + d.cluster);
	start(&d, &op, QCOW2_OP_WRITE, 0, d.cluster);
	wait_for(memfile_holds(d.filp), "the write does not begin");
	punches = memfile_count(d.filp, MEMFILE_PUNCH);
	start(&d, &discard, QCOW2_OP_DISCARD, 0, d.cluster);
	flush(&d);
	usleep(20000);
	expect(memfile_count(d.filp, MEMFILE_PUNCH) == punches,
	       "a cluster that is in use was punched");
	memfile_release(d.filp);
	expect(!finish(&op) && !finish(&discard), "write or discard failed");
	memset(d.content, 0, d.cluster);
	read_back(&d, 0, d.bytes);

	write_new(&d, 0, d.cluster);
	memfile_hold(d.filp, 1U << MEMFILE_PUNCH, host, host + d.cluster);
	start(&d, &discard, QCOW2_OP_DISCARD, 0, d.cluster);
	wait_for(memfile_holds(d.filp), "nothing is punched");
	start(&d, &op, QCOW2_OP_WRITE, 0, d.cluster);
	usleep(20000);
	memfile_release(d.filp);
	expect(!finish(&op) && !finish(&discard), "write or discard failed");
	memcpy(d.content, op.buf, d.cluster);
	settle(&d);
	expect(host_of(&d, 0) == host, "the cluster lost its place");
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	free(op.buf);
	destroy(&d);
}

/*
 * L2 tables that a snapshot shares.
 */

/* Every second of so many clusters is discarded. */
#define HOLES	24

/* All clusters are written and then shared with a snapshot. */
static void make_shared_disk(struct disk *d, const struct shape *shape)
{
	make_disk(d, shape);
	attach(d);
	write_all(d);
	detach_and_look(d);
	take_snapshot(d);
}

static void expect_snapshot(struct disk *d, const unsigned char *wanted)
{
	unsigned char *disk = disk_of_file(d, true);

	compare(disk, wanted, wanted, 0, d->bytes, "snapshot");
	free(disk);
}

static bool is_live_table(struct disk *d, u64 host)
{
	unsigned int i;

	for (i = 0; i < d->img->geo.l1_entries; i++)
		if ((qcow2_l1_entry(d->img, i) & QCOW2_OFFSET_MASK) == host)
			return true;
	return false;
}

/*
 * As long as writing works, it gets no cluster that is an L2 table. It need not
 * work when the image said so, or when flushes of the file fail for good.
 */
static void write_without_taking_tables(struct disk *d, bool may_fail)
{
	u64 pos;

	for (pos = 0; pos < d->bytes; pos += d->cluster) {
		int error = try_write(d, pos, d->cluster);

		expect(!error || may_fail || qcow2_image_needs_check(d->img),
		       "write at %llu after the failure: %d", pos, error);
		if (!error)
			expect(!is_live_table(d, host_of(d, pos)),
			       "a live L2 table was given out");
	}
}

static void free_log(struct disk *d, unsigned char *one, unsigned char *other)
{
	free(one);
	free(other);
	destroy(d);
}

/*
 * The first write to a shared table meets a failure. Writing goes on when the image
 * was attached again, with @at_once before that too if it takes it. Returns whether
 * there were as many operations of that kind.
 */
static bool fail_at(const struct disk *shared, struct memfile_fault *fault,
		    bool at_once)
{
	struct disk d = *shared;
	u64 offset = d.cluster / 2 & ~(u64)(WL_SECTOR - 1);
	unsigned char *before = must(malloc(d.bytes));
	unsigned char *disk, *file;
	struct qcheck check;
	struct op op = {};
	size_t bytes;
	bool struck;

	memcpy(before, shared->content, d.bytes);
	d.content = must(malloc(d.bytes));
	memcpy(d.content, before, d.bytes);
	file = memfile_flatten(shared->filp, &bytes);
	d.filp = memfile_create(&d.options);
	memfile_load_buf(d.filp, file, bytes);
	free(file);

	attach(&d);
	memfile_fault(d.filp, fault);
	op.buf = new_data(&d, offset, d.cluster);
	start(&d, &op, QCOW2_OP_WRITE, offset, d.cluster);
	if (!finish(&op))
		run_op(&d, QCOW2_OP_FLUSH, 0, 0);
	/* It may have failed with a part written: old or new. */
	memcpy(d.content + offset, op.buf, d.cluster);
	free(op.buf);
	struck = memfile_faults(d.filp);
	memfile_fault(d.filp, NULL);
	expect(fault->error != -ENOSPC || !qcow2_image_needs_check(d.img),
	       "no space is taken for damage");
	expect(!struck || fault->ops != 1U << MEMFILE_FLUSH ||
	       qcow2_image_needs_check(d.img),
	       "a flush failed, and the image says that it is fit");
	if (at_once)
		write_without_taking_tables(&d,
					    fault->ops == 1U << MEMFILE_FLUSH);
	detach(&d);
	check_file(&d, "detached after the failure");
	disk = disk_of_file(&d, false);
	compare(disk, before, d.content, 0, d.bytes, "after the failure");
	expect_snapshot(&d, before);
	free(disk);

	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach fails when the failure is over");
	check = check_file(&d, "attached again");
	expect(struck || !check.leaks, "leaks without a failure");
	expect_snapshot(&d, before);
	disk = disk_of_file(&d, false);
	compare(disk, d.content, d.content, 0, d.bytes, "attached again");
	free_log(&d, before, disk);
	return struck;
}

static void failed_move_of_a_table_gives_it_out(const struct shape *shape)
{
	static const struct {
		unsigned int op;
		int error;
		bool torn;
	} kinds[] = {
		{ MEMFILE_WRITE, -EIO }, { MEMFILE_WRITE, -EIO, true },
		{ MEMFILE_WRITE, -ENOSPC }, { MEMFILE_READ, -EIO },
		{ MEMFILE_FLUSH, -EIO },
	};
	struct disk shared = {};
	unsigned int i, struck = 0;

	make_shared_disk(&shared, shape);
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct memfile_fault fault = {
			.ops = 1U << kinds[i].op,
			.error = kinds[i].error,
			.torn = kinds[i].torn,
			.times = 1,
		};

		for (; fail_at(&shared, &fault, true); fault.skip++)
			struck += fail_at(&shared, &fault, false);
	}
	printf("# %u times an operation failed\n", struck);
	/* The table, its refcount, the L1 entry, data, COW, two flushes … */
	expect(struck > 10, "only %u operations failed", struck);
	destroy(&shared);
}

static u64 l1_entry_in_file(struct disk *d, unsigned int index)
{
	size_t bytes;
	unsigned char *file = memfile_flatten(d->filp, &bytes);
	u64 entry = get_unaligned_be64(file + d->img->geo.l1_offset +
				       8 * index);

	free(file);
	return entry;
}

static void l1_entry_is_not_copied_after_its_table_moved(const struct shape *shape)
{
	struct disk d = {};
	u64 span, pos;

	make_shared_disk(&d, shape);
	attach(&d);
	span = d.cluster << d.img->geo.l2_bits;
	for (pos = 0; pos < d.bytes; pos += span) {
		u64 before = l1_entry_in_file(&d, pos / span);
		u64 entry;

		expect(before && !(before & QCOW2_OFLAG_COPIED),
		       "L1 entry 0x%llx is not shared", before);
		write_new(&d, pos, WL_SECTOR);
		expect(l1_entry_in_file(&d, pos / span) == before,
		       "the L1 entry did not wait for a flush");
		check_file(&d, "a table was copied, without a flush");
		settle(&d);
		entry = l1_entry_in_file(&d, pos / span);
		expect(entry & QCOW2_OFLAG_COPIED, "L1 entry 0x%llx", entry);
		expect((entry ^ before) & QCOW2_OFFSET_MASK,
		       "the shared L2 table was not copied");
		check_file(&d, "a table was copied, after a flush");
	}
	detach_and_look(&d);
	destroy(&d);
}

static void partial_write_loses_the_rest_or_the_snapshot(const struct shape *shape)
{
	static const unsigned int starts[] = { 0, 1, 2 };
	struct disk d = {};
	unsigned char *before;
	u64 cluster, pos = 0;
	unsigned int i;

	make_shared_disk(&d, shape);
	cluster = max(d.cluster, 4ULL * WL_SECTOR);
	before = must(malloc(d.bytes));
	memcpy(before, d.content, d.bytes);
	attach(&d);
	/* At the start, the end, and the middle of a cluster; over an edge. */
	for (i = 0; i < ARRAY_SIZE(starts) && pos + 8 * cluster < d.bytes; i++) {
		write_new(&d, pos, WL_SECTOR);
		write_new(&d, pos + 2 * cluster - WL_SECTOR, WL_SECTOR);
		write_new(&d, pos + 2 * cluster + cluster / 2, WL_SECTOR);
		write_new(&d, pos + 4 * cluster - WL_SECTOR, 2 * WL_SECTOR);
		write_new(&d, pos, 2 * WL_SECTOR);
		read_back(&d, 0, d.bytes);
		pos += 8 * cluster;
	}
	detach_and_look(&d);
	expect_snapshot(&d, before);
	attach(&d);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	free(before);
	destroy(&d);
}

static u64 guest_at(struct disk *d, u64 host)
{
	u64 pos;

	for (pos = 0; pos < d->bytes; pos += d->cluster)
		if (host_of(d, pos) == host)
			return pos;
	fail("nothing lies at 0x%llx", host);
}

/*
 * Has a cluster that is the disk's own lie in front of one that is shared, and
 * says which: the first hole that is taken is made again, for its neighbour.
 */
static u64 own_before_shared(struct disk *d)
{
	u64 hole, pos;

	write_new(d, d->cluster, d->cluster);
	hole = host_of(d, d->cluster);
	pos = guest_at(d, hole + d->cluster) - d->cluster;
	make_zero(d, QCOW2_OP_DISCARD, d->cluster, d->cluster);
	settle(d);
	write_new(d, pos, d->cluster);
	expect(host_of(d, pos) == hole, "cluster 0x%llx went to 0x%llx", pos,
	       host_of(d, pos));
	return pos;
}

static void write_takes_the_next_cluster_for_its_own(const struct shape *shape)
{
	struct disk d = { .options.nowait = MEMFILE_NOWAIT_ALWAYS };
	unsigned char *before;
	u64 n, pos;

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	for (n = 1; n < HOLES; n += 2)
		make_zero(&d, QCOW2_OP_DISCARD, n * d.cluster, d.cluster);
	detach_and_look(&d);
	take_snapshot(&d);
	before = must(malloc(d.bytes));
	memcpy(before, d.content, d.bytes);
	attach(&d);
	pos = own_before_shared(&d);
	write_new(&d, pos, d.cluster);
	write_new(&d, pos, 2 * d.cluster);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	expect_snapshot(&d, before);
	free(before);
	destroy(&d);
}

/*
 * Allocation.
 */

/* The header's refcount in the file of a detached image becomes 0. */
static void free_the_header(struct disk *d)
{
	size_t bytes;
	unsigned char *file = memfile_flatten(d->filp, &bytes);
	struct qimg q;
	u64 block;

	expect(!qimg_open(&q, file, bytes), "no image");
	block = get_unaligned_be64(file + q.reftable_offset);
	qcow2_set_refcount(file + block, ilog2(q.refcount_bits), 0, 0);
	memfile_load_buf(d->filp, file, bytes);
	free(file);
}

static void hint_is_zero(struct disk *d)
{
	mutex_lock(&d->img->meta_lock);
	d->img->free.hint = 0;
	mutex_unlock(&d->img->meta_lock);
}

/* All of the first cluster but the feature bits, of which one says "corrupt". */
static void expect_header(struct disk *d, const unsigned char *before)
{
	size_t bytes;
	unsigned char *now = memfile_flatten(d->filp, &bytes);

	expect(!memcmp(now, before, 72) &&
	       !memcmp(now + 80, before + 80, d->cluster - 80),
	       "the header was overwritten");
	free(now);
}

/* With @table the L2 table exists, so that data would go to the free cluster. */
static void write_with_a_free_header(const struct shape *shape, bool table)
{
	struct disk d = {};
	unsigned char *before;
	size_t bytes;
	int error;

	make_disk(&d, shape);
	attach(&d);
	if (table)
		write_new(&d, 0, d.cluster);
	detach_and_look(&d);
	free_the_header(&d);
	before = memfile_flatten(d.filp, &bytes);
	attach(&d);
	hint_is_zero(&d);
	error = try_write(&d, 4 * d.cluster, d.cluster);
	expect(error, "the cluster of the header was given out");
	expect(qcow2_image_needs_check(d.img), "the damage was not noticed");
	read_back(&d, 0, d.bytes);
	detach(&d);
	expect_header(&d, before);
	free(before);
	destroy(&d);
}

static void allocator_gives_out_offset_0(const struct shape *shape)
{
	struct disk d = {};
	unsigned char *before;
	size_t bytes;
	u64 pos;

	make_disk(&d, shape);
	before = memfile_flatten(d.filp, &bytes);
	attach(&d);
	for (pos = 0; pos < 8 * d.cluster; pos += d.cluster) {
		hint_is_zero(&d);
		write_new(&d, pos, d.cluster);
		expect(host_of(&d, pos), "a cluster at offset 0");
	}
	detach_and_look(&d);
	expect_header(&d, before);
	free(before);
	destroy(&d);
	write_with_a_free_header(shape, false);
	write_with_a_free_header(shape, true);
}

#define ROUNDS	24

/* Of the clusters that hold tables: what is in use when all data is gone. */
static void discarding_and_rewriting_grows_the_file(const struct shape *shape)
{
	struct disk d = {};
	u64 file[ROUNDS], space[ROUNDS];
	unsigned int i, clusters;

	make_disk(&d, shape);
	attach(&d);
	clusters = d.img->geo.reftable_clusters;
	for (i = 0; i < ROUNDS; i++) {
		write_all(&d);
		read_back(&d, 0, d.bytes);
		if (i & 1)
			flush(&d);
		make_zero(&d, i & 2 ? QCOW2_OP_DISCARD : QCOW2_OP_WRITE_ZEROES,
			  0, d.bytes);
		settle(&d);
		file[i] = memfile_bytes(d.filp);
		space[i] = memfile_space_used(d.filp);
	}
	if (shape->base.refcount_bits == 64)
		expect(d.img->geo.reftable_clusters > clusters,
		       "the refcount table did not grow");
	/* The first rounds make the tables; an old refcount table is reused. */
	expect(file[ROUNDS - 1] <= file[2], "the file grew from %llu to %llu bytes",
	       file[2], file[ROUNDS - 1]);
	expect(space[ROUNDS - 1] <= space[2], "its space grew from %llu to %llu bytes",
	       space[2], space[ROUNDS - 1]);
	expect(file[2] < 2 * d.bytes, "the file has %llu bytes", file[2]);
	expect(space[2] < d.bytes / 2, "%llu bytes in use for nothing", space[2]);
	detach_and_look(&d);
	destroy(&d);
}

static void large_refcount_table_is_refused(const struct shape *shape)
{
	struct disk d = {};
	unsigned char *before;
	unsigned int clusters;

	make_disk(&d, shape);
	attach(&d);
	clusters = d.img->geo.reftable_clusters;
	expect(clusters >= 8, "the refcount table has only %u clusters", clusters);
	write_all(&d);
	detach_and_look(&d);
	take_snapshot(&d);
	before = must(malloc(d.bytes));
	memcpy(before, d.content, d.bytes);
	attach(&d);
	write_all(&d);
	expect(d.img->geo.reftable_clusters > clusters,
	       "the refcount table did not grow");
	detach_and_look(&d);
	expect_snapshot(&d, before);
	attach(&d);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	free(before);
	destroy(&d);
}

/*
 * Flushes.
 */

/**
 * struct order - of what happened for a flush of the device
 * @begun: when it was asked for
 * @done: when it was done
 * @flushes: begin and end of the flushes of the file in between
 * @nr: how many there were
 */
struct order {
	u64 begun;
	u64 done;
	struct {
		u64 begun, ended;
	} flushes[8];
	unsigned int nr;
};

static void watch_flush(struct disk *d, struct order *o)
{
	const struct memfile_record *log;
	size_t i, nr;

	o->nr = 0;
	o->begun = memfile_now(d->filp);
	flush(d);
	o->done = memfile_now(d->filp);
	log = memfile_log(d->filp, &nr);
	for (i = 0; i < nr && o->nr < ARRAY_SIZE(o->flushes); i++) {
		if (log[i].op != MEMFILE_FLUSH || log[i].begun < o->begun)
			continue;
		expect(log[i].ended && log[i].ended < o->done,
		       "the flush was done before that of the file");
		o->flushes[o->nr].begun = log[i].begun;
		o->flushes[o->nr++].ended = log[i].ended;
	}
}

/* When the last write that touches the cluster began, and when it had ended. */
static void last_write(struct disk *d, u64 host, u64 *begun, u64 *ended)
{
	const struct memfile_record *log;
	size_t i, nr;

	*begun = 0;
	log = memfile_log(d->filp, &nr);
	for (i = 0; i < nr; i++) {
		if (log[i].op != MEMFILE_WRITE || log[i].offset >= host +
		    d->cluster || log[i].offset + log[i].bytes <= host)
			continue;
		*begun = log[i].begun;
		*ended = log[i].ended;
	}
	expect(*begun, "nothing was written to the cluster at %llu", host);
}

static void flush_does_nothing(const struct shape *shape)
{
	struct disk d = { .options = { .record = true, .threads = 2 } };
	u64 data, table, block, begun, ended;
	struct order o;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, d.cluster);
	settle(&d);
	memfile_log_clear(d.filp);

	/* A cluster more: data and refcount, flush, L2 entry, flush. */
	write_new(&d, d.cluster, d.cluster);
	data = host_of(&d, d.cluster);
	table = qcow2_l1_entry(d.img, 0) & QCOW2_OFFSET_MASK;
	block = d.img->reftable[(data / d.cluster) >> d.img->geo.refblock_bits] &
		QCOW2_REFTABLE_OFFSET_MASK;
	watch_flush(&d, &o);
	expect(o.nr == 2, "%u flushes of the file for a new cluster", o.nr);
	last_write(&d, data, &begun, &ended);
	expect(ended < o.flushes[0].begun, "data is not flushed");
	last_write(&d, block, &begun, &ended);
	expect(ended < o.flushes[0].begun, "the refcount is not flushed before the L2 entry");
	last_write(&d, table, &begun, &ended);
	expect(begun > o.flushes[0].ended, "the L2 entry was written too early");
	expect(ended < o.flushes[1].begun, "the L2 entry is not flushed");

	/* The same cluster again: only its data. */
	memfile_log_clear(d.filp);
	write_new(&d, d.cluster, d.cluster);
	watch_flush(&d, &o);
	expect(o.nr == 1, "%u flushes of the file for data in place", o.nr);
	last_write(&d, data, &begun, &ended);
	expect(ended < o.flushes[0].begun, "data in place is not flushed");
	detach_and_look(&d);
	destroy(&d);
}

/* Flush number @skip of the file fails: all flushes from then on say so. */
static bool flush_fails_at(const struct shape *shape, u64 skip)
{
	struct memfile_fault fault = {
		.ops = 1U << MEMFILE_FLUSH,
		.skip = skip,
		.times = 1,
		.error = -EIO,
	};
	struct disk d = {};
	unsigned char *before, *disk;
	bool struck;
	int error;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, 4 * d.cluster);
	settle(&d);
	before = must(malloc(d.bytes));
	memcpy(before, d.content, d.bytes);
	memfile_fault(d.filp, &fault);
	write_new(&d, 2 * d.cluster, 4 * d.cluster);
	error = run_op(&d, QCOW2_OP_FLUSH, 0, 0);
	struck = memfile_faults(d.filp);
	memfile_fault(d.filp, NULL);
	if (struck) {
		expect(error, "a flush succeeded though that of the file failed");
		error = run_op(&d, QCOW2_OP_FLUSH, 0, 0);
		expect(error, "a later flush hides that one failed");
		expect(qcow2_image_needs_check(d.img), "the image goes on");
		error = try_write(&d, 0, d.cluster);
		expect(error == -EIO, "a write after that: %d", error);
		read_back(&d, 0, d.bytes);
		expect(detach(&d), "detach hides that a flush failed");
	} else {
		expect(!error, "flush: %d", error);
		expect(!detach(&d), "detach");
	}
	check_file(&d, "after a flush failed");
	disk = disk_of_file(&d, false);
	compare(disk, before, d.content, 0, d.bytes, "after a flush failed");
	free_log(&d, before, disk);
	return struck;
}

static void error_of_a_flush_is_swallowed(const struct shape *shape)
{
	u64 skip = 0;

	while (flush_fails_at(shape, skip))
		skip++;
	expect(skip == 2, "%llu flushes of the file", skip);
}

/* Errors of data go to the guest, and nothing else happens. */
static void error_of_data_ends_the_device(const struct shape *shape)
{
	struct memfile_fault fault = { .error = -EIO };
	struct disk d = {};
	int error;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, 4 * d.cluster);
	fault.from = host_of(&d, 0);
	fault.to = fault.from + d.cluster;
	fault.ops = 1U << MEMFILE_READ;
	memfile_fault(d.filp, &fault);
	error = try_read(&d, 0, 2 * d.cluster);
	expect(error == -EIO, "read: %d", error);
	fault.ops = 1U << MEMFILE_WRITE;
	memfile_fault(d.filp, &fault);
	error = try_write(&d, 0, d.cluster);
	expect(error == -EIO, "write: %d", error);
	write_new(&d, d.cluster, 8 * d.cluster);
	flush(&d);
	memfile_fault(d.filp, NULL);
	read_back(&d, 0, d.bytes);
	write_new(&d, 0, d.cluster);
	detach_and_look(&d);
	destroy(&d);
}

/*
 * Lazy refcounts.
 */

static bool file_is_dirty(struct disk *d)
{
	return check_file(d, "lazy refcounts").dirty;
}

/* A commit for every two writes; at any time the file is sound or marked. */
static void write_lazily(struct disk *d)
{
	unsigned int i;

	for (i = 0; i < 8; i++) {
		write_new(d, 3 * i * d->cluster, 2 * d->cluster);
		file_is_dirty(d);
		if (i & 1)
			flush(d);
		file_is_dirty(d);
	}
	make_zero(d, QCOW2_OP_DISCARD, 0, 4 * d->cluster);
	settle(d);
	expect(file_is_dirty(d), "the refcounts are not lazy");
}

/* All that was written before the bit was cleared had been flushed. */
static void expect_cleared_last(struct disk *d)
{
	const struct memfile_record *log;
	size_t i, nr, header = 0;
	u64 written = 0, flushed = 0;

	log = memfile_log(d->filp, &nr);
	for (i = 0; i < nr; i++)
		if (log[i].op == MEMFILE_WRITE && !log[i].offset)
			header = i;
	expect(header, "the header is not written at the end");
	for (i = 0; i < header; i++) {
		if (log[i].op == MEMFILE_WRITE)
			written = max(written, log[i].ended);
		if (log[i].op == MEMFILE_FLUSH && log[i].begun > written)
			flushed = log[i].ended;
	}
	expect(flushed > written && flushed < log[header].begun,
	       "the bit is cleared before what was written is durable");
	for (; i < nr; i++)
		expect(i == header || log[i].op != MEMFILE_WRITE,
		       "something is written after the bit was cleared");
}

/* When detaching, write number @skip fails, or @times 0: all from then on. */
static bool detach_fails_at(const struct shape *shape, u64 skip, u64 times)
{
	struct memfile_fault fault = {
		.ops = 1U << MEMFILE_WRITE,
		.skip = skip,
		.times = times,
		.error = -EIO,
	};
	struct disk d = {};
	bool struck;

	make_disk(&d, shape);
	attach(&d);
	write_lazily(&d);
	memfile_fault(d.filp, &fault);
	detach(&d);
	struck = memfile_faults(d.filp);
	memfile_fault(d.filp, NULL);
	expect(file_is_dirty(&d) == struck, "%s when detaching %s",
	       struck ? "not dirty" : "dirty", struck ? "failed" : "went well");
	destroy(&d);
	return struck;
}

static void dirty_bit_is_cleared_too_early(const struct shape *shape)
{
	struct disk d = { .options = { .record = true } };
	u64 skip = 0;

	make_disk(&d, shape);
	attach(&d);
	write_lazily(&d);
	memfile_log_clear(d.filp);
	expect(!detach(&d), "detach failed");
	expect(!file_is_dirty(&d), "the bit is not cleared at the end");
	expect_cleared_last(&d);
	attach(&d);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	destroy(&d);
	while (detach_fails_at(shape, skip, 0) &&
	       detach_fails_at(shape, skip, 1))
		skip++;
	expect(skip > 1, "detaching writes only %llu times", skip);
}

/*
 * What it costs.
 */

static void allocating_write_flushes_the_file(const struct shape *shape)
{
	struct shim_random r = { .state = SEED };
	unsigned int i, writes = 1500, tables;
	struct disk d = {};
	u64 flushes;

	make_disk(&d, shape);
	attach(&d);
	flushes = memfile_count(d.filp, MEMFILE_FLUSH);
	for (i = 0; i < writes; i++)
		write_new(&d, shim_below(&r, d.bytes / 4096) * 4096, 4096);
	flushes = memfile_count(d.filp, MEMFILE_FLUSH) - flushes;
	/* A new refcount block is made durable on its own; nothing else is. */
	tables = d.img->refblocks.nr - 1;
	printf("# %u writes, %u new refcount blocks, %llu flushes of the file\n",
	       writes, tables, flushes);
	expect(d.img->l2_tables.nr > tables,
	       "the image is too small for this test");
	expect(flushes <= tables, "%llu flushes of the file for %u writes that made %u refcount blocks",
	       flushes, writes, tables);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	destroy(&d);
}

/**
 * struct watch - the greatest number of slices in a cache
 * @cache: the cache
 * @stop: the end
 * @most: what was seen
 */
struct watch {
	struct qcow2_cache *cache;
	bool stop;
	unsigned int most;
};

static void *watch_cache(void *arg)
{
	struct watch *w = arg;

	while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED)) {
		spin_lock(&w->cache->lock);
		w->most = max(w->most, w->cache->nr);
		spin_unlock(&w->cache->lock);
		usleep(20);
	}
	return NULL;
}

#define CACHE_SLICES	32
#define DIRTY_SLICES	8
#define GUEST_THREADS	8
/* An operation pins an L2 slice and a refcount slice, and what it brought. */
#define PINNED		4

static void metadata_fills_the_memory(const struct shape *shape)
{
	struct disk d = { .options = { .threads = 4, .inline_percent = 50 } };
	struct workload w = {
		.seed = SEED,
		.align = WL_SECTOR,
		.max_op_bytes = 4 * WL_SECTOR,
		.mix = { .read = 50, .write = 50 },
	};
	/* Dirty ones, and as many that a commit is writing. */
	unsigned int bound = CACHE_SLICES + 2 * DIRTY_SLICES +
			     PINNED * GUEST_THREADS;
	struct watch watch = {};
	pthread_t thread;
	u64 tables;

	make_disk(&d, shape);
	attach(&d);
	d.img->cache.max = CACHE_SLICES;
	d.img->max_dirty = DIRTY_SLICES;
	watch.cache = &d.img->cache;
	expect(!pthread_create(&thread, NULL, watch_cache, &watch), "no thread");
	w.filp = d.filp;
	w.img = d.img;
	wl_init(&w, d.content, d.bytes);
	wl_run(&w, GUEST_THREADS, 6000, SEED);
	__atomic_store_n(&watch.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	tables = d.img->l2_tables.nr + d.img->refblocks.nr;
	expect(tables > 4 * bound, "only %llu tables", tables);
	printf("# %llu tables, at most %u in memory, allowed %u\n", tables,
	       watch.most, bound);
	expect(watch.most <= bound, "%u slices in memory, allowed %u",
	       watch.most, bound);
	detach_and_look(&d);
	wl_destroy(&w);
	memfile_destroy(d.filp);
}

/*
 * All of them.
 */

#define BASE(bits, size)					\
	{ .cluster_bits = bits, .refcount_bits = 16, .version = 3, \
	  .virtual_bytes = size }

static const struct shape all_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 256 << 10) },
	{ "clusters of 4 KiB", BASE(12, 4 << 20) },
	{ "clusters of 64 KiB", BASE(16, 8 << 20) },
	{ "extended L2, clusters of 16 KiB",
	  { .cluster_bits = 14, .refcount_bits = 16, .version = 3, .extl2 = true,
	    .virtual_bytes = 4 << 20 } },
	{ "version 2, clusters of 4 KiB",
	  { .cluster_bits = 12, .refcount_bits = 16, .version = 2,
	    .virtual_bytes = 4 << 20 } },
	{}
};

/* With several L2 tables, and small enough for many repetitions. */
static const struct shape shared_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 128 << 10) },
	{ "refcounts of 64 bits",
	  { .cluster_bits = 9, .refcount_bits = 64, .version = 3,
	    .virtual_bytes = 64 << 10 } },
	{ "clusters of 4 KiB", BASE(12, 3 << 20) },
	{ "extended L2, clusters of 16 KiB",
	  { .cluster_bits = 14, .refcount_bits = 16, .version = 3, .extl2 = true,
	    .virtual_bytes = 1 << 20 } },
	{}
};

/* 64 refcounts in a block, 64 blocks in a cluster of the table: 2 MiB. */
static const struct shape bounded_shapes[] = {
	{ "refcounts of 64 bits",
	  { .cluster_bits = 9, .refcount_bits = 64, .version = 3,
	    .virtual_bytes = 5 << 19 } },
	{ "clusters of 4 KiB", BASE(12, 3 << 20) },
	{ "clusters of 64 KiB", BASE(16, 8 << 20) },
	{ "extended L2, clusters of 16 KiB",
	  { .cluster_bits = 14, .refcount_bits = 16, .version = 3, .extl2 = true,
	    .virtual_bytes = 3 << 20 } },
	{}
};

static const struct shape large_shapes[] = {
	{ "refcounts of 64 bits, clusters of 512 bytes",
	  { .cluster_bits = 9, .refcount_bits = 64, .version = 3,
	    .metadata = true, .virtual_bytes = 16 << 20 } },
	{}
};

static const struct shape sparse_shapes[] = {
	{ "clusters of 4 KiB", BASE(12, 32 << 20) },
	{ "clusters of 64 KiB", BASE(16, 64 << 20) },
	{ "extended L2, clusters of 64 KiB",
	  { .cluster_bits = 16, .refcount_bits = 16, .version = 3, .extl2 = true,
	    .virtual_bytes = 64 << 20 } },
	{}
};

static const struct shape lazy_shapes[] = {
	{ "clusters of 512 bytes",
	  { .cluster_bits = 9, .refcount_bits = 16, .version = 3, .lazy = true,
	    .virtual_bytes = 256 << 10 } },
	{ "clusters of 64 KiB",
	  { .cluster_bits = 16, .refcount_bits = 16, .version = 3, .lazy = true,
	    .virtual_bytes = 4 << 20 } },
	{}
};

/* Version 2 has no entry that is zero and keeps its cluster. */
static const struct shape no_unref_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 256 << 10) },
	{ "clusters of 64 KiB", BASE(16, 8 << 20) },
	{ "extended L2, clusters of 16 KiB",
	  { .cluster_bits = 14, .refcount_bits = 16, .version = 3, .extl2 = true,
	    .virtual_bytes = 4 << 20 } },
	{}
};

static const struct shape many_tables_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 24 << 20) },
	{}
};

static void no_space_for_the_header_ends_the_device(const struct shape *shape)
{
	struct memfile_fault fault = {
		.ops = 1U << MEMFILE_WRITE,
		.times = 1,
		.error = -ENOSPC,
		.to = WL_SECTOR,
	};
	struct disk d = {};

	make_disk(&d, shape);
	attach(&d);
	memfile_fault(d.filp, &fault);
	expect(try_write(&d, 0, d.cluster) == -ENOSPC,
	       "a write without the dirty bit");
	memfile_fault(d.filp, NULL);
	expect(!qcow2_image_needs_check(d.img), "no space is no damage");
	write_new(&d, 0, d.cluster);
	detach_and_look(&d);
	destroy(&d);
}

/* Discards of 1 MiB each, until all is discarded or the first that has to wait. */
static unsigned int discard_until_held(struct disk *d, struct op *op)
{
	unsigned int i, nr = d->bytes >> 20;

	for (i = 1; i < nr; i++) {
		start(d, op, QCOW2_OP_DISCARD, (u64)i << 20, 1 << 20);
		usleep(2000);
		if (!is_done(op))
			usleep(500000);
		if (!is_done(op))
			return i;
		expect(!finish(op), "discard");
	}
	return nr;
}

/* What was discarded cannot be freed as long as a hole is not made. */
static void discards_fill_the_memory(const struct shape *shape)
{
	struct disk d = { .options.threads = 4 };
	unsigned int i, most;
	struct op op = {};
	u64 host;

	make_disk(&d, shape);
	attach(&d);
	for (i = 0; i < d.bytes >> 20; i++)
		write_new(&d, (u64)i << 20, 1 << 20);
	flush(&d);
	host = host_of(&d, 0);
	memfile_hold(d.filp, 1U << MEMFILE_PUNCH, host, host + d.cluster);
	make_zero(&d, QCOW2_OP_DISCARD, 0, d.cluster);
	flush(&d);
	wait_for(memfile_holds(d.filp), "nothing is punched");
	i = discard_until_held(&d, &op);
	most = READ_ONCE(d.img->nr_drops);
	expect(i < d.bytes >> 20, "all is discarded, and nothing freed");
	expect(most <= QCOW2_MAX_DROPS + (1 << 20) / d.cluster,
	       "%u clusters wait to be freed", most);
	memfile_release(d.filp);
	expect(!finish(&op), "the discard that waited");
	for (; i < d.bytes >> 20; i++)
		make_zero(&d, QCOW2_OP_DISCARD, (u64)i << 20, 1 << 20);
	make_zero(&d, QCOW2_OP_DISCARD, 0, d.bytes);
	settle(&d);
	expect(!d.img->nr_drops, "drops are miscounted");
	detach_and_look(&d);
	destroy(&d);
}

/* Readers look at slices in the cache before they have a reference. */
static void slice_is_freed_under_a_reader(const struct shape *shape)
{
	struct disk d = {};
	long long live;
	u64 table;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, d.cluster);
	settle(&d);
	rcu_barrier();
	table = qcow2_l1_entry(d.img, 0) & QCOW2_OFFSET_MASK;
	mutex_lock(&d.img->meta_lock);
	rcu_read_lock();
	live = shim_live_allocations();
	qcow2_cache_forget(d.img, table, d.cluster);
	expect(shim_live_allocations() >= live, "a reader may still see it");
	rcu_read_unlock();
	mutex_unlock(&d.img->meta_lock);
	rcu_barrier();
	expect(shim_live_allocations() < live, "there was no slice to free");
	read_back(&d, 0, d.cluster);
	detach_and_look(&d);
	destroy(&d);
}

/* What was discarded is about to be free: a write waits for it rather than fail. */
static void write_finds_no_space_that_is_about_to_be_free(const struct shape *shape)
{
	struct disk d = { .options.threads = 4 };
	u64 half;

	make_disk(&d, shape);
	attach(&d);
	half = d.bytes / 2;
	write_new(&d, 0, half);
	settle(&d);
	memfile_set_space(d.filp, memfile_space_used(d.filp) + (64 << 10));
	expect(try_write(&d, half, half) == -ENOSPC, "there is space");
	make_zero(&d, QCOW2_OP_DISCARD, 0, half);
	/* The last try may have left parts. */
	write_new(&d, half, half / 2);
	expect(!qcow2_image_needs_check(d.img), "no space is no damage");
	memfile_set_space(d.filp, 0);
	write_new(&d, half, half);
	detach_and_look(&d);
	destroy(&d);
}

/* Takes the reserve of records too, while no allocation works. */
static void take_records(struct disk *d, struct list_head *taken)
{
	struct qcow2_drop *drop = qcow2_drop_alloc(d->img, 1);

	for (; drop; drop = qcow2_drop_alloc(d->img, 1))
		list_add(&drop->link, taken);
	expect(!list_empty(taken), "there is no reserve");
}

static void give_records_back(struct disk *d, struct list_head *taken)
{
	struct qcow2_drop *drop, *next;

	list_for_each_entry_safe(drop, next, taken, link)
		qcow2_drop_free(d->img, drop);
}

/*
 * Many writes are linked one after the other when their transfers have ended, and what
 * is in their way may be what frees memory: so they need none.
 */
static void write_needs_memory_when_its_transfer_has_ended(const struct shape *shape)
{
	struct disk d = { .options.threads = 4 };
	struct op op = {};
	LIST_HEAD(taken);
	int error;

	make_shared_disk(&d, shape);
	attach(&d);
	/* Moves the L2 table. */
	write_new(&d, 0, d.cluster);
	settle(&d);
	op.buf = new_data(&d, d.cluster, d.cluster);
	memfile_hold(d.filp, 1U << MEMFILE_WRITE, 0, U64_MAX);
	start(&d, &op, QCOW2_OP_WRITE, d.cluster, d.cluster);
	wait_for(memfile_holds(d.filp), "the write does not begin");
	shim_fail_allocations(1, 0);
	take_records(&d, &taken);
	memfile_release(d.filp);
	error = finish(&op);
	shim_fail_allocations(0, 0);
	give_records_back(&d, &taken);
	expect(!error, "the write needed memory to end: %d", error);
	memcpy(d.content + d.cluster, op.buf, d.cluster);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	free(op.buf);
	destroy(&d);
}

struct reader {
	sem_t inside;
	sem_t may_go;
};

static void *stay_inside(void *arg)
{
	struct reader *r = arg;

	rcu_read_lock();
	sem_post(&r->inside);
	while (sem_wait(&r->may_go))
		;
	rcu_read_unlock();
	return NULL;
}

/* Who has seen which epoch is current, but is not counted in it yet. */
static void release_overtakes_who_is_about_to_enter(const struct shape *shape)
{
	struct disk d = {};
	u64 host = prepare_victim(&d, shape), punches;
	struct reader r;
	pthread_t thread;

	sem_init(&r.inside, 0, 0);
	sem_init(&r.may_go, 0, 0);
	must(!pthread_create(&thread, NULL, stay_inside, &r) ? &r : NULL);
	while (sem_wait(&r.inside))
		;
	punches = memfile_count(d.filp, MEMFILE_PUNCH);
	make_zero(&d, QCOW2_OP_DISCARD, 0, d.cluster);
	flush(&d);
	usleep(20000);
	expect(memfile_count(d.filp, MEMFILE_PUNCH) == punches,
	       "a cluster was punched that somebody may be about to use");
	sem_post(&r.may_go);
	pthread_join(thread, NULL);
	settle(&d);
	expect(memfile_count(d.filp, MEMFILE_PUNCH) > punches,
	       "nothing was punched");
	expect_reuse(&d, 2 * d.cluster, host);
	detach_and_look(&d);
	destroy(&d);
	sem_destroy(&r.inside);
	sem_destroy(&r.may_go);
}

static const struct shape vast_shapes[] = {
	{ "clusters of 512 bytes", BASE(9, 48 << 20) },
	{}
};

/* For meetings in clusters that nobody has touched; see zeroing.c. */
static const struct shape meeting_shapes[] = {
	{ "clusters of 4 KiB", BASE(12, 8 << 20) },
	{ "extended L2, clusters of 32 KiB",
	  { .cluster_bits = 15, .refcount_bits = 16, .version = 3, .extl2 = true,
	    .virtual_bytes = 48 << 20 } },
	{}
};

static const struct shape shared_meeting_shapes[] = {
	{ "clusters of 4 KiB", BASE(12, 2 << 20) },
	{ "extended L2, clusters of 32 KiB",
	  { .cluster_bits = 15, .refcount_bits = 16, .version = 3, .extl2 = true,
	    .virtual_bytes = 12 << 20 } },
	{}
};

static const struct shape compressed_meeting_shapes[] = {
	{ "clusters of 4 KiB",
	  { .cluster_bits = 12, .refcount_bits = 16, .version = 3,
	    .compressed = true, .virtual_bytes = 2 << 20, .seed = 18 } },
	{}
};

static const struct test_case cases[] = {
	TEST_CASE(write_lands_after_discard_and_reuse, all_shapes),
	TEST_CASE(write_lands_after_write_zeroes_and_reuse, all_shapes),
	TEST_CASE(read_in_flight_sees_data_of_others, all_shapes),
	TEST_CASE(queued_punch_comes_after_reuse, all_shapes),
	TEST_CASE(punch_of_a_kept_cluster_meets_writes, no_unref_shapes),
	TEST_CASE(failed_move_of_a_table_gives_it_out, shared_shapes),
	TEST_CASE(l1_entry_is_not_copied_after_its_table_moved, shared_shapes),
	TEST_CASE(partial_write_loses_the_rest_or_the_snapshot, all_shapes),
	TEST_CASE(write_takes_the_next_cluster_for_its_own, all_shapes),
	TEST_CASE(allocator_gives_out_offset_0, all_shapes),
	TEST_CASE(discarding_and_rewriting_grows_the_file, bounded_shapes),
	TEST_CASE(large_refcount_table_is_refused, large_shapes),
	TEST_CASE(flush_does_nothing, all_shapes),
	TEST_CASE(error_of_a_flush_is_swallowed, all_shapes),
	TEST_CASE(error_of_data_ends_the_device, all_shapes),
	TEST_CASE(dirty_bit_is_cleared_too_early, lazy_shapes),
	TEST_CASE(allocating_write_flushes_the_file, sparse_shapes),
	TEST_CASE(no_space_for_the_header_ends_the_device, lazy_shapes),
	TEST_CASE(slice_is_freed_under_a_reader, all_shapes),
	TEST_CASE(discards_fill_the_memory, vast_shapes),
	TEST_CASE(write_finds_no_space_that_is_about_to_be_free, sparse_shapes),
	TEST_CASE(metadata_fills_the_memory, many_tables_shapes),
	TEST_CASE(release_overtakes_who_is_about_to_enter, all_shapes),
	TEST_CASE(write_needs_memory_when_its_transfer_has_ended, shared_shapes),
	TEST_CASE(zeroing_meets_copy_of_backing_file, meeting_shapes),
	TEST_CASE(zeroing_meets_copy_with_discard_no_unref, meeting_shapes),
	TEST_CASE(zeroing_meets_copy_of_shared_cluster, shared_meeting_shapes),
	TEST_CASE(zeroing_meets_copy_of_compressed_cluster,
		  compressed_meeting_shapes),
};

int main(int argc, char **argv)
{
	return run_cases("bugs", cases, ARRAY_SIZE(cases), argc, argv);
}
