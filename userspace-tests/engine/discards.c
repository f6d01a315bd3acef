// SPDX-License-Identifier: GPL-2.0-only
/*
 * Discards of a disk as large as they come, nearly all of which no table maps: how
 * many steps they take, and that they find what there is.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <asm/byteorder.h>
#include <linux/kernel.h>
#include <linux/list.h>

#include "cases.h"
#include "disk.h"
#include "memfile.h"
#include "shim.h"

#define CLUSTER_BITS	16
#define CLUSTER		(1ULL << CLUSTER_BITS)
/* What an L2 table maps. */
#define TABLE_MAPS	(CLUSTER / 8 * CLUSTER)
#define DISK_BYTES	(64ULL << 40)
#define L1_ENTRIES	(DISK_BYTES / TABLE_MAPS)

/* Where things lie, in clusters. */
#define REFTABLE	1
#define REFBLOCK	2
#define L1_TABLE	3
#define NR_USED		(L1_TABLE + L1_ENTRIES * 8 / CLUSTER)

/* L1 entries that one hold of the lock may look at. */
#define STEP_TABLES	1024

static const struct shape shapes[] = { { "64 TiB" }, {} };

static void put_header(struct file *filp)
{
	const struct qcow2_disk_header h = {
		.magic = cpu_to_be32(QCOW2_MAGIC),
		.version = cpu_to_be32(3),
		.cluster_bits = cpu_to_be32(CLUSTER_BITS),
		.size = cpu_to_be64(DISK_BYTES),
		.l1_size = cpu_to_be32(L1_ENTRIES),
		.l1_table_offset = cpu_to_be64(L1_TABLE * CLUSTER),
		.refcount_table_offset = cpu_to_be64(REFTABLE * CLUSTER),
		.refcount_table_clusters = cpu_to_be32(1),
		.refcount_order = cpu_to_be32(4),
		.header_length = cpu_to_be32(QCOW2_HEADER_V3_BYTES),
	};

	memfile_store(filp, 0, &h, sizeof(h));
}

/* An image without data; nobody keeps what such a disk holds. */
static void attach_empty(struct disk *d)
{
	const __be64 block = cpu_to_be64(REFBLOCK * CLUSTER);
	const __be16 one = cpu_to_be16(1);
	unsigned char *zeroes = must(calloc(1, CLUSTER));
	u64 i;

	shim_set_delay(SHIM_DELAY_NEVER);
	d->bytes = DISK_BYTES;
	d->cluster = CLUSTER;
	d->filp = memfile_create(&d->options);
	for (i = 0; i < NR_USED; i++)
		memfile_store(d->filp, i * CLUSTER, zeroes, CLUSTER);
	put_header(d->filp);
	memfile_store(d->filp, REFTABLE * CLUSTER, &block, sizeof(block));
	for (i = 0; i < NR_USED; i++)
		memfile_store(d->filp, REFBLOCK * CLUSTER + i * sizeof(one),
			      &one, sizeof(one));
	attach(d);
	free(zeroes);
}

static void detach_and_destroy(struct disk *d)
{
	struct qcheck check;

	expect(!detach(d), "detach");
	check = check_file(d, "closed image");
	expect(!check.leaks, "closed image: %u leaks", check.leaks);
	memfile_destroy(d->filp);
}

/* Each step takes memory once, and does nothing else that takes any. */
static void expect_steps(struct disk *d, enum qcow2_op what, bool keep)
{
	struct op op = { .keep = keep };
	const u64 least = L1_ENTRIES / STEP_TABLES;
	u64 steps;

	shim_fail_nth_allocation(U64_MAX, 0);
	start(d, &op, what, 0, d->bytes);
	expect(!finish(&op), "discard or write zeroes of all");
	steps = shim_counted_allocations();
	expect(steps >= least && steps < least + 8,
	       "%llu steps; it takes %llu", steps, least);
}

static void empty_disk_takes_few_steps(const struct shape *shape)
{
	struct disk d = {};

	attach_empty(&d);
	/* The first change of an image takes memory too. */
	expect(!run_op(&d, QCOW2_OP_DISCARD, 0, CLUSTER), "discard");
	expect_steps(&d, QCOW2_OP_DISCARD, false);
	expect_steps(&d, QCOW2_OP_WRITE_ZEROES, false);
	expect_steps(&d, QCOW2_OP_WRITE_ZEROES, true);
	expect(!d.img->nr_dirty, "%u dirty slices", d.img->nr_dirty);
	detach_and_destroy(&d);
}

/* A cluster at which a test looks. */
struct place {
	u64 offset;
	unsigned char *data;
};

static void put_data(struct disk *d, struct place *p)
{
	struct op op = { .buf = new_data(d, p->offset, CLUSTER) };

	start(d, &op, QCOW2_OP_WRITE, p->offset, CLUSTER);
	expect(!finish(&op), "write at %llu", p->offset);
	p->data = op.buf;
}

/* Zeroes from @from bytes into it to @to, data else. */
static void expect_at(struct disk *d, const struct place *p, u64 from, u64 to)
{
	struct op op = { .buf = get_buffer(CLUSTER) };

	memset(p->data + from, 0, to - from);
	start(d, &op, QCOW2_OP_READ, p->offset, CLUSTER);
	expect(!finish(&op), "read at %llu", p->offset);
	compare(op.buf, p->data, p->data, p->offset, CLUSTER, "read");
	free(op.buf);
	expect(!host_of(d, p->offset) == (to - from == CLUSTER),
	       "the cluster at %llu: is it mapped?", p->offset);
}

/*
 * From in front of a table to behind the last but one, over runs of L1 entries that are
 * shorter and longer than a step.
 */
static void tables_between_are_found(const struct shape *shape)
{
	const u64 from = 5 * TABLE_MAPS + 3 * CLUSTER;
	const u64 to = DISK_BYTES - 2 * CLUSTER;
	struct place places[] = {
		{ from - CLUSTER },
		{ from },
		{ 7 * TABLE_MAPS },
		{ 9 * TABLE_MAPS - CLUSTER },
		{ (STEP_TABLES + 5) * TABLE_MAPS },
		{ (STEP_TABLES * 70ULL) * TABLE_MAPS + 300 * CLUSTER },
		{ to - CLUSTER },
		{ to },
		{ DISK_BYTES - CLUSTER },
	};
	struct disk d = {};
	unsigned int i;

	attach_empty(&d);
	for (i = 0; i < ARRAY_SIZE(places); i++)
		put_data(&d, &places[i]);
	expect(!run_op(&d, QCOW2_OP_DISCARD, from, to - from), "discard");
	for (i = 0; i < ARRAY_SIZE(places); i++) {
		bool goes = places[i].offset >= from && places[i].offset < to;

		expect_at(&d, &places[i], 0, goes ? CLUSTER : 0);
		free(places[i].data);
	}
	settle(&d);
	detach_and_destroy(&d);
}

static void zero_up_to(struct disk *d, enum qcow2_op what, u64 from, u64 to)
{
	struct op op = {};

	start(d, &op, what, from, to - from);
	expect(!finish(&op), "discard or write zeroes from %llu to %llu", from,
	       to);
	expect(op.wait.io.offset == to, "it went to %llu, not to %llu",
	       op.wait.io.offset, to);
}

/* A discard that ends within what no table maps leaves what is behind alone. */
static void ends_where_it_shall(const struct shape *shape)
{
	struct place places[] = { { 2 * TABLE_MAPS }, { 4 * TABLE_MAPS } };
	struct disk d = {};

	attach_empty(&d);
	put_data(&d, &places[0]);
	put_data(&d, &places[1]);
	zero_up_to(&d, QCOW2_OP_DISCARD, 0, TABLE_MAPS + CLUSTER);
	zero_up_to(&d, QCOW2_OP_WRITE_ZEROES, 3 * TABLE_MAPS,
		   4 * TABLE_MAPS + CLUSTER / 2);
	expect_at(&d, &places[0], 0, 0);
	expect_at(&d, &places[1], 0, CLUSTER / 2);
	free(places[0].data);
	free(places[1].data);
	settle(&d);
	detach_and_destroy(&d);
}

static bool is_waited_for(struct disk *d, struct qcow2_l2_meta *meta)
{
	bool ret;

	mutex_lock(&d->img->meta_lock);
	ret = !list_empty(&meta->waiters);
	mutex_unlock(&d->img->meta_lock);
	return ret;
}

static void land(struct disk *d, struct qcow2_l2_meta *meta)
{
	LIST_HEAD(waiters);

	mutex_lock(&d->img->meta_lock);
	qcow2_land_meta(d->img, meta, &waiters);
	mutex_unlock(&d->img->meta_lock);
	qcow2_requeue_waiters(&waiters);
}

/* Whatever is in flight there, and whether or not there will be a table for it. */
static void waits_for_what_is_in_flight(const struct shape *shape)
{
	struct qcow2_l2_meta meta = {
		.guest_offset = 3 * STEP_TABLES * TABLE_MAPS + 5 * CLUSTER,
		.nb_clusters = 1,
		.cow_end = { .bytes = CLUSTER },
	};
	struct disk d = {};
	struct op op = {};

	attach_empty(&d);
	mutex_lock(&d.img->meta_lock);
	qcow2_launch_meta(d.img, &meta);
	mutex_unlock(&d.img->meta_lock);
	start(&d, &op, QCOW2_OP_DISCARD, 0, d.bytes);
	wait_for(is_waited_for(&d, &meta), "nobody waits for a meta in flight");
	expect(!is_done(&op), "a discard is done, and waits for a meta");
	expect(op.wait.io.offset == meta.guest_offset,
	       "it waits at %llu for what is in flight at %llu",
	       op.wait.io.offset, meta.guest_offset);
	land(&d, &meta);
	expect(!finish(&op), "discard");
	detach_and_destroy(&d);
}

static const struct test_case cases[] = {
	TEST_CASE(empty_disk_takes_few_steps, shapes),
	TEST_CASE(tables_between_are_found, shapes),
	TEST_CASE(ends_where_it_shall, shapes),
	TEST_CASE(waits_for_what_is_in_flight, shapes),
};

int main(int argc, char **argv)
{
	return run_cases("discards", cases, ARRAY_SIZE(cases), argc, argv);
}
