// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where the clusters of writers go that write one after the other, beside each
 * other, and at random; and that nobody lacks what is reserved for another.
 */

#include <errno.h>
#include <stdlib.h>

#include <linux/kernel.h>

#include "cases.h"
#include "verify.h"

#define SHAPE(bits, bytes)						\
	{ .cluster_bits = (bits), .refcount_bits = 16, .version = 3,	\
	  .virtual_bytes = (bytes) }

static const struct shape shapes[] = {
	{ "clusters of 4 KiB", SHAPE(12, 2 << 20) },
	{ "clusters of 64 KiB", SHAPE(16, 32 << 20) },
	{}
};

/* With the only L2 table that there will be. */
static void begin(struct disk *d, const struct shape *shape)
{
	make_disk(d, shape);
	attach(d);
	write_new(d, d->bytes - d->cluster, d->cluster);
}

static void end(struct disk *d)
{
	read_back(d, 0, d->bytes);
	detach_and_look(d);
	destroy(d);
}

static void write_cluster(struct disk *d, u64 guest)
{
	write_new(d, guest * d->cluster, d->cluster);
}

static u64 host_cluster(struct disk *d, u64 guest)
{
	return host_of(d, guest * d->cluster) / d->cluster;
}

/* The guest's clusters follow each other in the file. */
static void expect_one_run(struct disk *d, u64 guest, u64 nr)
{
	u64 i, first = host_cluster(d, guest);

	for (i = 1; i < nr; i++)
		expect(host_cluster(d, guest + i) == first + i,
		       "guest cluster %llu at %llu, though %llu is at %llu",
		       guest + i, host_cluster(d, guest + i), guest, first);
}

static void writers_do_not_mix(const struct shape *shape)
{
	struct disk d = {};
	unsigned int i, w;
	u64 reads;

	begin(&d, shape);
	for (i = 0; i < 16; i++)
		for (w = 0; w < 3; w++)
			write_cluster(&d, w * 100 + i);
	/* Two show that it goes on, 16 are reserved then. */
	for (w = 0; w < 3; w++)
		expect_one_run(&d, w * 100 + 1, 15);
	reads = memfile_count(d.filp, MEMFILE_READ);
	read_back(&d, 101 * d.cluster, 15 * d.cluster);
	reads = memfile_count(d.filp, MEMFILE_READ) - reads;
	expect(reads == 1, "%llu reads for one extent", reads);
	end(&d);
}

static void one_writer_has_one_run(const struct shape *shape)
{
	struct disk d = {};
	unsigned int i;

	begin(&d, shape);
	for (i = 0; i < 200; i++)
		write_cluster(&d, i);
	expect_one_run(&d, 0, 200);
	end(&d);
}

/* As they come when the requests of one large write run in parallel. */
static void order_of_requests_does_not_matter(const struct shape *shape)
{
	static const u8 order[] = { 0, 1, 4, 2, 3, 6, 5, 9, 8, 7, 12, 11, 10 };
	struct disk d = {};
	unsigned int i;

	begin(&d, shape);
	for (i = 0; i < ARRAY_SIZE(order); i++)
		write_new(&d, order[i] * 2 * d.cluster, 2 * d.cluster);
	expect_one_run(&d, 0, 2 * ARRAY_SIZE(order));
	end(&d);
}

static void who_writes_at_random_leaves_no_gaps(const struct shape *shape)
{
	struct disk d = {};
	u64 i, first;

	begin(&d, shape);
	write_new(&d, 0, 512);
	first = host_cluster(&d, 0);
	for (i = 1; i < 100; i++) {
		write_new(&d, (i * 37 % 101) * 3 * d.cluster, 512);
		expect(host_cluster(&d, (i * 37 % 101) * 3) == first + i,
		       "write %llu went elsewhere", i);
	}
	end(&d);
}

/* The writers at random must not drive out the one that is not. */
static void one_among_random_writers_keeps_its_run(const struct shape *shape)
{
	struct disk d = {};
	unsigned int i, k;

	begin(&d, shape);
	write_cluster(&d, 0);
	for (i = 1; i < 17; i++) {
		write_cluster(&d, i);
		for (k = 0; k < 10; k++)
			write_cluster(&d, 100 + (i * 10 + k) * 2);
	}
	expect_one_run(&d, 1, 16);
	end(&d);
}

/* What they had reserved is used when they do not come for it. */
static void who_stays_away_loses_its_run(const struct shape *shape)
{
	struct disk d = {};
	u64 i, first, last = 0;

	begin(&d, shape);
	write_cluster(&d, 0);
	write_cluster(&d, 1);
	first = host_cluster(&d, 0);
	for (i = 0; i < 400; i++) {
		write_cluster(&d, 100 + i);
		last = max(last, host_cluster(&d, 100 + i));
	}
	expect(last == first + 401, "cluster %llu used, %llu would do", last,
	       first + 401);
	end(&d);
}

/* First fit comes first: what is free in front is used before the file grows. */
static void the_file_does_not_grow_for_a_run(const struct shape *shape)
{
	struct disk d = {};
	u64 i, last = 0;

	begin(&d, shape);
	write_new(&d, 0, 200 * d.cluster);
	settle(&d);
	make_zero(&d, QCOW2_OP_DISCARD, 0, 100 * d.cluster);
	settle(&d);
	for (i = 200; i < 300; i++) {
		write_cluster(&d, i);
		last = max(last, host_cluster(&d, i));
	}
	expect(last <= host_cluster(&d, 199), "cluster %llu used", last);
	end(&d);
}

/* Nor do clusters stay free that the writer did not come for. */
static void what_was_left_out_is_used(const struct shape *shape)
{
	struct disk d = {};
	u64 i, first, last = 0;

	begin(&d, shape);
	write_cluster(&d, 0);
	write_cluster(&d, 1);
	first = host_cluster(&d, 0);
	for (i = 3; i < 100; i++) {
		write_cluster(&d, i);
		last = max(last, host_cluster(&d, i));
	}
	expect(last == first + 98, "cluster %llu used, %llu would do", last,
	       first + 98);
	end(&d);
}

/* Free clusters in front of a run lead others past it, not into it. */
static void others_pass_over_a_run(const struct shape *shape)
{
	struct disk d = {};
	u64 first;

	begin(&d, shape);
	write_cluster(&d, 0);
	write_cluster(&d, 1);
	first = host_cluster(&d, 0);
	make_zero(&d, QCOW2_OP_DISCARD, 0, 2 * d.cluster);
	settle(&d);
	write_new(&d, 100 * d.cluster, 4 * d.cluster);
	write_new(&d, 200 * d.cluster, 4 * d.cluster);
	expect(host_cluster(&d, 100) == first, "what became free is not used");
	write_new(&d, 2 * d.cluster, 14 * d.cluster);
	expect(host_cluster(&d, 2) == first + 2, "others took its place");
	expect_one_run(&d, 2, 14);
	end(&d);
}

/* Takes clusters for metadata until that gives @want, then gives them back. */
static u64 count_left(struct disk *d, int want)
{
	struct qcow2_run runs[100];
	struct qcow2_need need = {};
	u64 i, nr = 0;
	int error;

	mutex_lock(&d->img->meta_lock);
	do {
		error = qcow2_alloc_clusters(d->img, 0, 1, &need, &runs[nr]);
	} while (!error && ++nr < ARRAY_SIZE(runs));
	expect(error == want && !qcow2_streams_give_up(d->img),
	       "%d, though some are reserved", error);
	for (i = 0; i < nr; i++)
		qcow2_alloc_undo(d->img, &runs[i]);
	mutex_unlock(&d->img->meta_lock);
	return nr;
}

/* All clusters of a file of bounded length are used, whoever has reserved them. */
static void fill(const struct shape *shape, u64 max_clusters)
{
	struct disk d = {};
	u64 i, used, left;
	int error = 0;

	d.options.max_bytes = max_clusters << shape->base.cluster_bits;
	begin(&d, shape);
	/* The last table is in front of it. */
	used = host_of(&d, d.bytes - d.cluster) / d.cluster - 1;
	for (i = 0; i < 8; i++)
		write_cluster(&d, 200 + i / 4 * 100 + i % 4);
	left = count_left(&d, -ENOSPC);
	expect(used + d.img->clusters_allocated - d.img->clusters_freed + left ==
	       max_clusters, "%llu clusters are found", left);
	for (i = 0; !error; i++)
		error = try_write(&d, i * 2 * d.cluster, d.cluster);
	expect(error == -ENOSPC, "a write without space gives %d", error);
	used += d.img->clusters_allocated - d.img->clusters_freed;
	expect(used == max_clusters, "%llu clusters of %llu are used", used,
	       max_clusters);
	expect(!qcow2_image_needs_check(d.img), "the image has failed");
	end(&d);
}

static void nobody_lacks_what_is_reserved(const struct shape *shape)
{
	u64 max_clusters;

	for (max_clusters = 20; max_clusters < 80; max_clusters += 3)
		fill(shape, max_clusters);
}

/* Likewise if it is the file system that is full: what was in use has its space. */
static void nobody_lacks_space_that_is_reserved(const struct shape *shape)
{
	struct disk d = {};
	u64 i;

	begin(&d, shape);
	write_new(&d, 0, 30 * d.cluster);
	settle(&d);
	set_bit(QCOW2_IMAGE_NO_PASS_DISCARD, &d.img->flags);
	make_zero(&d, QCOW2_OP_DISCARD, 0, 25 * d.cluster);
	settle(&d);
	memfile_set_space(d.filp, memfile_space_used(d.filp));
	write_cluster(&d, 100);
	write_cluster(&d, 101);
	for (i = 0; i < 23; i++)
		write_cluster(&d, 200 + 2 * i);
	expect(try_write(&d, 300 * d.cluster, d.cluster) == -ENOSPC,
	       "there is space");
	memfile_set_space(d.filp, 0);
	end(&d);
}

/* Many that go on where another one is lack space all at once: each gives up soon. */
static void all_give_up_on_a_full_file(const struct shape *shape)
{
	struct disk d = {};
	struct op ops[32];
	unsigned int round, i;

	begin(&d, shape);
	write_new(&d, 0, 30 * d.cluster);
	settle(&d);
	memfile_set_space(d.filp, memfile_space_used(d.filp));
	for (round = 0; round < 20; round++) {
		for (i = 0; i < ARRAY_SIZE(ops); i++) {
			ops[i] = (struct op){ .buf = get_buffer(d.cluster) };
			start(&d, &ops[i], QCOW2_OP_WRITE,
			      (100 + i) * d.cluster, d.cluster);
		}
		for (i = 0; i < ARRAY_SIZE(ops); i++) {
			expect(finish(&ops[i]) == -ENOSPC, "there is space");
			free(ops[i].buf);
		}
	}
	expect(!qcow2_image_needs_check(d.img), "the image has failed");
	memfile_set_space(d.filp, 0);
	end(&d);
}

static const struct shape small_shapes[] = {
	{ "clusters of 512 bytes", { .cluster_bits = 9, .refcount_bits = 64,
	  .version = 3, .virtual_bytes = 32 << 10 } },
	{}
};

/* The first refcount block has 64 of its clusters in use before there is another. */
static void tables_do_not_grow_for_it(const struct shape *shape)
{
	struct disk d = {};

	begin(&d, shape);
	write_cluster(&d, 0);
	write_cluster(&d, 1);
	count_left(&d, -EAGAIN);
	end(&d);
}

/* Of 512 clusters. */
static const struct shape slices_shapes[] = {
	{ "clusters of 8 KiB", { .cluster_bits = 13, .refcount_bits = 64,
	  .version = 3, .virtual_bytes = 8 << 20 } },
	{}
};

/* It begins anew where the next refcount slice does, on the cluster behind. */
static void a_run_ends_with_its_slice(const struct shape *shape)
{
	struct disk d = {};
	u64 i;

	begin(&d, shape);
	for (i = 0; i < 600; i++) {
		write_cluster(&d, i);
		verify_now(d.img);
	}
	expect_one_run(&d, 0, 600);
	end(&d);
}

static const struct test_case cases[] = {
	TEST_CASE(writers_do_not_mix, shapes),
	TEST_CASE(one_writer_has_one_run, shapes),
	TEST_CASE(order_of_requests_does_not_matter, shapes),
	TEST_CASE(who_writes_at_random_leaves_no_gaps, shapes),
	TEST_CASE(one_among_random_writers_keeps_its_run, shapes),
	TEST_CASE(who_stays_away_loses_its_run, shapes),
	TEST_CASE(the_file_does_not_grow_for_a_run, shapes),
	TEST_CASE(what_was_left_out_is_used, shapes),
	TEST_CASE(others_pass_over_a_run, shapes),
	TEST_CASE(nobody_lacks_what_is_reserved, shapes),
	TEST_CASE(nobody_lacks_space_that_is_reserved, shapes),
	TEST_CASE(all_give_up_on_a_full_file, shapes),
	TEST_CASE(tables_do_not_grow_for_it, small_shapes),
	TEST_CASE(a_run_ends_with_its_slice, slices_shapes),
};

int main(int argc, char **argv)
{
	return run_cases("streams", cases, ARRAY_SIZE(cases), argc, argv);
}
