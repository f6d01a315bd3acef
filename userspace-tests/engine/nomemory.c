// SPDX-License-Identifier: GPL-2.0-only
/*
 * No memory at all: from some point on each allocation fails that may. Every kind of
 * guest operation works all the same.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "cases.h"

#define SHAPE(bits, order, bytes)					\
	{ .cluster_bits = (bits), .refcount_bits = (order), .version = 3, \
	  .virtual_bytes = (bytes) }

/* More L2 tables and refcount blocks than there is spare room for at the attach. */
static const struct shape wide[] = {
	{ "many L2 tables, many refcount blocks", SHAPE(12, 64, 160 << 20) },
	{ "many L2 tables, few refcount blocks", SHAPE(12, 16, 160 << 20) },
	{}
};

static const struct shape blocks[] = {
	{ "refcount blocks of 64 clusters", SHAPE(9, 64, 3 << 18) },
	{ "refcount blocks of 512 clusters", SHAPE(12, 64, 160 << 20) },
	{}
};

static const struct shape usual[] = {
	{ "clusters of 512", SHAPE(9, 16, 1 << 20) },
	{ "clusters of 4 KiB", SHAPE(12, 16, 8 << 20) },
	{ "clusters of 64 KiB", SHAPE(16, 16, 8 << 20) },
	{ "clusters of 64 KiB, extended L2",
	  { .cluster_bits = 16, .refcount_bits = 16, .version = 3,
	    .extl2 = true, .virtual_bytes = 8 << 20 } },
	{ "version 2",
	  { .cluster_bits = 12, .refcount_bits = 16, .version = 2,
	    .virtual_bytes = 8 << 20 } },
	{}
};

static const struct shape lazy[] = {
	{ "lazy refcounts",
	  { .cluster_bits = 12, .refcount_bits = 16, .version = 3,
	    .lazy = true, .virtual_bytes = 8 << 20 } },
	{}
};

/* A slice of 512 entries, which are more than one record has room for. */
static const struct shape slices[] = {
	{ "clusters of 4 KiB", SHAPE(12, 16, 8 << 20) },
	{ "clusters of 64 KiB", SHAPE(16, 16, 64 << 20) },
	{}
};

static const struct shape many[] = {
	{ "more tables than slices", SHAPE(12, 64, 192 << 20) },
	{}
};

static const struct shape compressed[] = {
	{ "compressed clusters",
	  { .cluster_bits = 12, .refcount_bits = 16, .version = 3,
	    .compressed = true, .virtual_bytes = 4 << 20 } },
	{}
};

/* Who waits for what cannot come need not be waited for as long as others. */
#define HANG_SECONDS	45

static u64 failed_before;

static void no_memory(void)
{
	alarm(HANG_SECONDS);
	failed_before = shim_failed_allocations();
	shim_fail_allocations(1, SEED);
}

static void memory_again(void)
{
	shim_fail_allocations(0, 0);
	expect(shim_failed_allocations() > failed_before,
	       "nobody has asked for memory");
}

/* Attached with nothing in memory but what is there from the attach on. */
static void attach_without_memory(struct disk *d)
{
	attach(d);
	no_memory();
}

static void end(struct disk *d)
{
	memory_again();
	read_back(d, 0, d->bytes);
	detach_and_look(d);
	destroy(d);
}

static u64 span_of(struct disk *d)
{
	return d->cluster << d->img->geo.l2_bits;
}

static void write_in_place(const struct shape *shape)
{
	struct disk d = {};
	u64 pos;

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach");
	attach_without_memory(&d);
	for (pos = 0; pos < d.bytes; pos += 16 * d.cluster) {
		struct op op = { .by_worker = true };

		op.buf = new_data(&d, pos, WL_SECTOR);
		start(&d, &op, QCOW2_OP_WRITE, pos, WL_SECTOR);
		expect(!finish(&op), "a write in place failed");
		memcpy(d.content + pos, op.buf, WL_SECTOR);
		free(op.buf);
		read_back(&d, pos, WL_SECTOR);
	}
	flush(&d);
	end(&d);
}

static void write_to_new_tables(const struct shape *shape)
{
	struct disk d = {};
	u64 pos;

	make_disk(&d, shape);
	attach_without_memory(&d);
	for (pos = 0; pos < d.bytes; pos += span_of(&d))
		write_new(&d, pos, d.cluster + WL_SECTOR);
	flush(&d);
	expect(d.img->l2_tables.nr == d.bytes / span_of(&d), "%u L2 tables",
	       d.img->l2_tables.nr);
	end(&d);
}

/* Whatever was known of them at the attach, and whatever there was room for. */
static void look_for_refblocks(struct disk *d)
{
	struct qcow2_image *img = d->img;
	u32 i, nr = 0;

	mutex_lock(&img->meta_lock);
	for (i = 0; i < img->reftable_entries; i++) {
		u64 offset = img->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;

		if (!offset)
			continue;
		nr++;
		expect(qcow2_pre_write_overlap_check(img, offset, WL_SECTOR,
						     QCOW2_METADATA_NONE) ==
		       -EUCLEAN, "nobody knows of refcount block %u", i);
		expect(!qcow2_pre_write_overlap_check(img, offset, WL_SECTOR,
						      QCOW2_METADATA_REFBLOCK),
		       "refcount block %u cannot be written", i);
	}
	mutex_unlock(&img->meta_lock);
	expect(nr > img->refblocks.nr || nr < 64, "%u of %u blocks",
	       img->refblocks.nr, nr);
}

static void write_with_new_refcount_blocks(const struct shape *shape)
{
	struct disk d = {};
	u64 pos, chunk;

	make_disk(&d, shape);
	attach_without_memory(&d);
	chunk = 64 * d.cluster;
	for (pos = 0; pos < d.bytes; pos += chunk)
		write_new(&d, pos, chunk);
	flush(&d);
	end(&d);
}

static void new_refcount_blocks_are_known(const struct shape *shape)
{
	struct disk d = {};
	u64 pos, chunk;

	make_disk(&d, shape);
	attach_without_memory(&d);
	chunk = 64 * d.cluster;
	for (pos = 0; pos < d.bytes; pos += chunk)
		write_new(&d, pos, chunk);
	memory_again();
	look_for_refblocks(&d);
	detach(&d);
	destroy(&d);
}

/* Overwrites what a snapshot has; each cluster loses its reference. */
static void write_after_a_snapshot(const struct shape *shape)
{
	struct disk d = {};
	u64 pos;

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach_without_memory(&d);
	/* The first half by small writes, the other by long ones. */
	for (pos = 0; pos < d.bytes / 2; pos += max(d.cluster, 4096ULL))
		write_new(&d, pos + WL_SECTOR, WL_SECTOR);
	for (; pos < d.bytes; pos += SZ_2M)
		write_new(&d, pos, min_t(u64, SZ_2M, d.bytes - pos));
	flush(&d);
	end(&d);
}

static void slice_of_shared_clusters_at_once(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach_without_memory(&d);
	write_new(&d, 0, min(d.cluster * 512, d.bytes));
	flush(&d);
	end(&d);
}

static void discard_all(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach");
	attach_without_memory(&d);
	make_zero(&d, QCOW2_OP_DISCARD, 0, d.bytes);
	settle(&d);
	end(&d);
}

static void discard_after_a_snapshot(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach_without_memory(&d);
	make_zero(&d, QCOW2_OP_DISCARD, d.cluster, d.bytes - d.cluster);
	settle(&d);
	end(&d);
}

static void zeroes(const struct shape *shape)
{
	struct disk d = {};
	u64 pos;

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach");
	attach_without_memory(&d);
	for (pos = 0; pos < d.bytes; pos += d.bytes / 8) {
		make_zero(&d, QCOW2_OP_WRITE_ZEROES, pos + WL_SECTOR,
			  2 * d.cluster);
		keep_as_zeroes(&d, pos + 4 * d.cluster, 2 * d.cluster);
	}
	flush(&d);
	end(&d);
}

static void first_write_with_lazy_refcounts(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	attach_without_memory(&d);
	write_new(&d, 0, WL_SECTOR);
	expect(test_bit(QCOW2_IMAGE_MARKED_DIRTY, &d.img->flags),
	       "the dirty bit is not set");
	flush(&d);
	end(&d);
}

/* What begins as compressed data; all of it is overwritten, and given up. */
static void write_over_compressed(const struct shape *shape)
{
	struct disk d = {};
	u64 pos;

	make_disk(&d, shape);
	free(d.content);
	d.content = disk_of_file(&d, false);
	attach_without_memory(&d);
	for (pos = 0; pos < d.bytes; pos += d.cluster)
		write_new(&d, pos + WL_SECTOR, WL_SECTOR);
	flush(&d);
	end(&d);
}

/* Writers that hold what others wait for, so many that there is not enough for all. */
enum { MAX_WRITERS = 48 };

struct writer {
	struct disk *d;
	unsigned int nr, of, ops;
	pthread_t thread;
};

static void *write_some_pieces(void *arg)
{
	struct writer *w = arg;
	struct disk *d = w->d;
	struct shim_random r = { .state = SEED + w->nr };
	u64 share = d->bytes / w->of;
	unsigned int i;

	for (i = 0; i < w->ops; i++) {
		u64 pos = w->nr * share + shim_below(&r, share / d->cluster) *
					  d->cluster;
		struct op op = {};
		bool discard = !shim_below(&r, 4);

		op.buf = get_buffer(WL_SECTOR);
		memset(op.buf, i, WL_SECTOR);
		start(d, &op, discard ? QCOW2_OP_DISCARD : QCOW2_OP_WRITE, pos,
		      discard ? d->cluster : WL_SECTOR);
		expect(!finish(&op), "an operation failed");
		if (discard)
			memset(d->content + pos, 0, d->cluster);
		else
			memcpy(d->content + pos, op.buf, WL_SECTOR);
		free(op.buf);
	}
	return NULL;
}

static void write_at_once(const struct shape *shape, unsigned int nr,
			  unsigned int ops)
{
	struct disk d = { .options = { .threads = 2, .delay_ns = 50000 } };
	struct writer writers[MAX_WRITERS];
	unsigned int i;

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach_without_memory(&d);
	for (i = 0; i < nr; i++) {
		writers[i] = (struct writer) {
			.d = &d, .nr = i, .of = nr, .ops = ops,
		};
		expect(!pthread_create(&writers[i].thread, NULL,
				       write_some_pieces, &writers[i]),
		       "no thread");
	}
	for (i = 0; i < nr; i++)
		pthread_join(writers[i].thread, NULL);
	flush(&d);
	end(&d);
}

static void some_at_once(const struct shape *shape)
{
	write_at_once(shape, 4, 200);
}

static void many_at_once(const struct shape *shape)
{
	write_at_once(shape, MAX_WRITERS, 8);
}

/* References to the first slice of the first L2 table, 0 if it is not in memory. */
static unsigned int refs_of_l2_slice(struct disk *d)
{
	u64 table = qcow2_l1_entry(d->img, 0) & QCOW2_OFFSET_MASK;
	struct qcow2_slice *slice;
	unsigned int refs = 0;

	rcu_read_lock();
	slice = qcow2_slice_peek(d->img, QCOW2_SLICE_L2, table);
	if (slice)
		refs = refcount_read(&slice->refs);
	rcu_read_unlock();
	return refs;
}

/* Pins slices of other L2 tables until there is no memory for one more, but for one. */
static unsigned int pin_slices(struct disk *d, struct qcow2_slice **slices)
{
	unsigned int nr = 0;
	u64 pos;

	for (pos = span_of(d); pos < d->bytes; pos += span_of(d)) {
		u64 table = qcow2_l1_entry(d->img, qcow2_l1_index(&d->img->geo, pos));

		slices[nr] = qcow2_slice_get_now(d->img, QCOW2_SLICE_L2,
						 table & QCOW2_OFFSET_MASK);
		if (IS_ERR(slices[nr]))
			break;
		nr++;
	}
	expect(pos < d->bytes && nr > 1, "there are more than %u slices", nr);
	qcow2_slice_put(slices[--nr]);
	return nr;
}

/* Else all could have some, and none gets the one that it lacks. */
static void who_waits_for_a_slice_has_none(const struct shape *shape)
{
	struct qcow2_slice *slices[128];
	struct disk d = {};
	struct op op = { .by_worker = true };
	unsigned int nr;
	u64 pos, loads;

	make_disk(&d, shape);
	attach(&d);
	for (pos = 0; pos < d.bytes; pos += span_of(&d))
		write_new(&d, pos, d.cluster);
	expect(!detach(&d), "detach");
	attach_without_memory(&d);
	nr = pin_slices(&d, slices);
	loads = READ_ONCE(d.img->cache.loads);
	/* Takes the one for the L2 table, and needs another one for refcounts. */
	op.buf = new_data(&d, d.cluster, d.cluster);
	start(&d, &op, QCOW2_OP_WRITE, d.cluster, d.cluster);
	wait_for(READ_ONCE(d.img->cache.loads) > loads, "the L2 table is not read");
	wait_for(refs_of_l2_slice(&d) < 2, "who waits for a slice has another one");
	expect(!is_done(&op), "nothing is lacking");
	while (nr)
		qcow2_slice_put(slices[--nr]);
	expect(!finish(&op), "the write failed");
	memcpy(d.content + d.cluster, op.buf, d.cluster);
	free(op.buf);
	end(&d);
}

/* Else those who wait could have all slices, and who grows wait for one of them. */
static void who_waits_to_grow_has_no_slice(const struct shape *shape)
{
	struct disk d = {};
	struct op op = { .by_worker = true };
	u64 offset;

	make_disk(&d, shape);
	offset = 100 * d.cluster;
	attach(&d);
	write_new(&d, 0, d.cluster);
	flush(&d);
	/* Where there is no refcount block. */
	d.img->free.hint = BIT_ULL(d.img->geo.refblock_bits);
	qcow2_cache_set_max(d.img, 1);
	expect(!refs_of_l2_slice(&d), "the L2 slice is in memory");
	op.buf = new_data(&d, offset, d.cluster);
	mutex_lock(&d.img->grow_lock);
	start(&d, &op, QCOW2_OP_WRITE, offset, d.cluster);
	/* The cache's own. */
	wait_for(refs_of_l2_slice(&d) == 1, "who waits for growth has %u references",
		 refs_of_l2_slice(&d));
	expect(!is_done(&op), "nothing grows");
	mutex_unlock(&d.img->grow_lock);
	expect(!finish(&op), "the write failed");
	memcpy(d.content + offset, op.buf, d.cluster);
	free(op.buf);
	expect(host_of(&d, offset) >= d.cluster << d.img->geo.refblock_bits,
	       "nothing has grown");
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	destroy(&d);
}

int main(int argc, char **argv)
{
	static const struct test_case cases[] = {
		TEST_CASE(write_in_place, usual),
		TEST_CASE(write_to_new_tables, wide),
		TEST_CASE(write_with_new_refcount_blocks, blocks),
		TEST_CASE(new_refcount_blocks_are_known, blocks),
		TEST_CASE(write_after_a_snapshot, usual),
		TEST_CASE(slice_of_shared_clusters_at_once, slices),
		TEST_CASE(discard_all, usual),
		TEST_CASE(discard_after_a_snapshot, usual),
		TEST_CASE(zeroes, usual),
		TEST_CASE(first_write_with_lazy_refcounts, lazy),
		TEST_CASE(write_over_compressed, compressed),
		TEST_CASE(some_at_once, usual),
		TEST_CASE(many_at_once, many),
		TEST_CASE(who_waits_for_a_slice_has_none, many),
		TEST_CASE(who_waits_to_grow_has_no_slice, many),
	};

	return run_cases("nomemory", cases, ARRAY_SIZE(cases), argc, argv);
}
