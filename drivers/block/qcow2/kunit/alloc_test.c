// SPDX-License-Identifier: GPL-2.0-only
/*
 * alloc.c: which clusters are taken, given back, and what is missing for it.
 */

#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <linux/mm.h>
#include <linux/string.h>

#include "fixture.h"

#define ORDER		6
#define PER_SLICE	512
#define PER_BLOCK	1024

/* Blocks of 1024 refcounts in two slices of 512. */
static const struct test_layout layout = { 13, ORDER, false };

/**
 * struct cluster_run - host clusters
 * @first: the first
 * @nr: number of them
 */
struct cluster_run {
	u32 first;
	u32 nr;
};

struct alloc_test {
	struct test_image *ti;
	struct qcow2_slice *slices[PER_BLOCK / PER_SLICE];
	loff_t file_limit;
	struct qcow2_need need;
	struct qcow2_run run;
};

static void put_run(void *context)
{
	struct alloc_test *at = context;

	qcow2_slice_put(at->run.refblock);
}

/* An image whose first refcount block is not cached. */
static struct alloc_test *begin_cold(struct kunit *test)
{
	struct alloc_test *at = kunit_kzalloc(test, sizeof(*at), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, at);
	at->ti = test_image(test, &layout);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, put_run, at));
	return at;
}

static void load_slice(struct kunit *test, struct alloc_test *at, u32 i)
{
	u64 block = test_cluster_offset(at->ti, TEST_REFBLOCK);

	at->slices[i] = test_slice(test, at->ti, QCOW2_SLICE_REFBLOCK,
				   block + i * PER_SLICE * 8);
}

static u64 refcount(struct alloc_test *at, u32 cluster)
{
	return qcow2_get_refcount(at->slices[cluster / PER_SLICE]->data, ORDER,
				  cluster % PER_SLICE);
}

static void set_refcount(struct alloc_test *at, u32 cluster, u64 value)
{
	qcow2_set_refcount(at->slices[cluster / PER_SLICE]->data, ORDER,
			   cluster % PER_SLICE, value);
}

/* An image in which only some clusters of the first block are free. */
static struct alloc_test *begin(struct kunit *test, const struct cluster_run *free,
				size_t nr_free)
{
	struct alloc_test *at = begin_cold(test);
	u32 i, cluster;

	for (i = 0; i < ARRAY_SIZE(at->slices); i++)
		load_slice(test, at, i);
	for (cluster = 0; cluster < PER_BLOCK; cluster++)
		set_refcount(at, cluster, 1);
	for (i = 0; i < nr_free; i++)
		for (cluster = 0; cluster < free[i].nr; cluster++)
			set_refcount(at, free[i].first + cluster, 0);
	return at;
}

static int allocate(struct alloc_test *at, u64 cluster, u32 want)
{
	struct qcow2_image *img = at->ti->img;
	int ret;

	mutex_lock(&img->meta_lock);
	ret = qcow2_alloc_clusters(img, test_cluster_offset(at->ti, cluster),
				   want, &at->need, &at->run);
	mutex_unlock(&img->meta_lock);
	return ret;
}

static void undo(struct alloc_test *at)
{
	mutex_lock(&at->ti->img->meta_lock);
	qcow2_alloc_undo(at->ti->img, &at->run);
	mutex_unlock(&at->ti->img->meta_lock);
}

/*
 * With all refcounts in memory.
 */

static const struct alloc_row {
	const char *name;
	struct cluster_run free[3];
	u64 hint;
	u32 at;		/* host cluster, 0 for anywhere */
	u32 want;
	struct cluster_run run;
	u64 hint_after;
} alloc_rows[] = {
	{ "first fit", { { 10, 1 }, { 20, 5 } }, 0, 0, 1, { 10, 1 }, 11 },
	{ "first fit, though a longer run comes later",
	  { { 10, 1 }, { 20, 5 } }, 0, 0, 5, { 10, 1 }, 11 },
	{ "stops in front of a used cluster", { { 10, 3 }, { 14, 9 } }, 0, 0, 9,
	  { 10, 3 }, 13 },
	{ "takes no more than is wanted", { { 10, 9 } }, 0, 0, 5, { 10, 5 },
	  15 },
	{ "starts at the hint", { { 10, 9 } }, 12, 0, 2, { 12, 2 }, 14 },
	{ "does not look below the hint", { { 10, 1 }, { 20, 1 } }, 15, 0, 1,
	  { 20, 1 }, 21 },
	{ "the slice's last clusters", { { 500, 12 } }, 0, 0, 12, { 500, 12 },
	  512 },
	{ "stops at the slice's end", { { 510, 9 } }, 0, 0, 9, { 510, 2 },
	  512 },
	{ "the next slice's first cluster", { { 512, 9 } }, 0, 0, 2,
	  { 512, 2 }, 514 },
	{ "hint at a slice's start", { { 512, 9 } }, 512, 0, 2, { 512, 2 },
	  514 },
	{ "the block's last cluster", { { 1023, 1 } }, 0, 0, 2, { 1023, 1 },
	  1024 },

	{ "at: free", { { 20, 5 } }, 9, 20, 3, { 20, 3 }, 9 },
	{ "at: moves the hint when it is there", { { 20, 5 } }, 20, 20, 3,
	  { 20, 3 }, 23 },
	{ "at: in the middle of a free run", { { 20, 5 } }, 20, 22, 1,
	  { 22, 1 }, 20 },
	{ "at: stops in front of a used cluster", { { 20, 5 } }, 9, 23, 9,
	  { 23, 2 }, 9 },
	{ "at: stops at the slice's end", { { 500, 99 } }, 9, 510, 9,
	  { 510, 2 }, 9 },
	{ "at: used", { { 20, 5 } }, 9, 25, 3, { 0, 0 }, 9 },
	{ "at: used, with free ones behind", { { 20, 5 } }, 9, 19, 3, { 0, 0 },
	  9 },
	{ "at: no refcount block", { { 20, 5 } }, 9, 1024, 3, { 0, 0 }, 9 },
	{ "at: behind the refcount table", { { 20, 5 } }, 9, 1024 * 1024, 3,
	  { 0, 0 }, 9 },
};

KUNIT_ARRAY_PARAM_DESC(alloc, alloc_rows, name);

static bool is_in(const struct cluster_run *run, u32 cluster)
{
	return cluster - run->first < run->nr;
}

static bool is_free(const struct alloc_row *row, u32 cluster)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(row->free); i++)
		if (is_in(&row->free[i], cluster))
			return true;
	return false;
}

static void expect_refcounts(struct kunit *test, struct alloc_test *at,
			     const struct alloc_row *row,
			     const struct cluster_run *run)
{
	u32 i;

	for (i = 0; i < PER_BLOCK; i++)
		KUNIT_EXPECT_EQ_MSG(test, is_in(run, i) || !is_free(row, i),
				    refcount(at, i), "cluster %u", i);
}

static void clusters_are_taken(struct kunit *test)
{
	const struct alloc_row *row = test->param_value;
	struct alloc_test *at = begin(test, row->free, ARRAY_SIZE(row->free));
	struct qcow2_image *img = at->ti->img;
	u32 refs[ARRAY_SIZE(at->slices)];
	u32 i;

	for (i = 0; i < ARRAY_SIZE(refs); i++)
		refs[i] = refcount_read(&at->slices[i]->refs);
	img->free.hint = row->hint;
	KUNIT_ASSERT_EQ(test, 0, allocate(at, row->at, row->want));
	KUNIT_EXPECT_EQ(test, row->run.nr, at->run.nb_clusters);
	KUNIT_EXPECT_EQ(test, row->hint_after, img->free.hint);
	expect_refcounts(test, at, row, &row->run);
	if (row->run.nr) {
		i = row->run.first / PER_SLICE;
		KUNIT_EXPECT_EQ(test, (u64)row->run.first << 13,
				at->run.host_offset);
		KUNIT_EXPECT_PTR_EQ(test, at->slices[i], at->run.refblock);
		KUNIT_EXPECT_TRUE(test, test_bit(QCOW2_SLICE_DIRTY,
						 &at->slices[i]->flags));
		refs[i] += 2;	/* the run's and the dirty list's */
	}
	for (i = 0; i < ARRAY_SIZE(refs); i++)
		KUNIT_EXPECT_EQ_MSG(test, refs[i],
				    refcount_read(&at->slices[i]->refs),
				    "references to slice %u", i);
}

static void undo_gives_clusters_back(struct kunit *test)
{
	const struct alloc_row *row = test->param_value;
	struct alloc_test *at = begin(test, row->free, ARRAY_SIZE(row->free));
	static const struct cluster_run none;
	u64 hint;

	at->ti->img->free.hint = row->hint;
	KUNIT_ASSERT_EQ(test, 0, allocate(at, row->at, row->want));
	hint = row->run.nr ? min(row->hint_after, row->run.first) :
			     row->hint_after;
	undo(at);
	expect_refcounts(test, at, row, &none);
	KUNIT_EXPECT_EQ(test, hint, qcow2_first_candidate(at->ti->img));
	KUNIT_EXPECT_NULL(test, at->run.refblock);
	KUNIT_EXPECT_FALSE(test, qcow2_image_needs_check(at->ti->img));
}

static void what_was_taken_is_not_given_again(struct kunit *test)
{
	static const struct cluster_run free[] = { { 10, 3 }, { 20, 2 } };
	static const u32 want[] = { 10, 11, 12, 20, 21 };
	struct alloc_test *at = begin(test, free, ARRAY_SIZE(free));
	size_t i;

	for (i = 0; i < ARRAY_SIZE(want); i++) {
		KUNIT_ASSERT_EQ(test, 0, allocate(at, 0, 1));
		KUNIT_EXPECT_EQ(test, (u64)want[i] << 13, at->run.host_offset);
		qcow2_slice_put(at->run.refblock);
		at->run.refblock = NULL;
	}
	KUNIT_EXPECT_EQ(test, -EAGAIN, allocate(at, 0, 1));
}

/*
 * Clusters that became free below the hint.
 */

static void free_cluster(struct alloc_test *at, u32 cluster)
{
	struct qcow2_image *img = at->ti->img;

	mutex_lock(&img->meta_lock);
	qcow2_refcount_dec(img, cluster, at->slices[cluster / PER_SLICE]);
	mutex_unlock(&img->meta_lock);
}

static void expect_next(struct kunit *test, struct alloc_test *at, u32 want,
			u32 cluster, u32 nr)
{
	KUNIT_ASSERT_EQ(test, 0, allocate(at, 0, want));
	KUNIT_EXPECT_EQ(test, (u64)cluster << 13, at->run.host_offset);
	KUNIT_EXPECT_EQ(test, nr, at->run.nb_clusters);
	qcow2_slice_put(at->run.refblock);
	at->run.refblock = NULL;
}

static void lowest_freed_cluster_comes_first(struct kunit *test)
{
	static const struct cluster_run free[] = { { PER_BLOCK - 1, 1 } };
	struct alloc_test *at = begin(test, free, ARRAY_SIZE(free));

	/* Finds the only free one, having looked at all. */
	expect_next(test, at, 1, PER_BLOCK - 1, 1);
	KUNIT_EXPECT_EQ(test, PER_BLOCK, at->ti->img->free.hint);
	free_cluster(at, PER_SLICE + 7);
	free_cluster(at, PER_SLICE + 8);
	free_cluster(at, 30);
	free_cluster(at, 20);
	KUNIT_EXPECT_EQ(test, 20, qcow2_first_candidate(at->ti->img));
	KUNIT_EXPECT_EQ(test, PER_BLOCK, at->ti->img->free.hint);
	expect_next(test, at, 2, 20, 1);
	expect_next(test, at, 2, 30, 1);
	expect_next(test, at, 3, PER_SLICE + 7, 2);
	KUNIT_EXPECT_EQ(test, -EAGAIN, allocate(at, 0, 1));
	KUNIT_EXPECT_EQ(test, QCOW2_NEED_REFBLOCK, at->need.kind);
	KUNIT_EXPECT_TRUE(test, xa_empty(&at->ti->img->free.freed));
}

static void freed_behind_the_hint_needs_no_record(struct kunit *test)
{
	static const struct cluster_run free[] = { { 10, 1 } };
	struct alloc_test *at = begin(test, free, ARRAY_SIZE(free));

	expect_next(test, at, 1, 10, 1);
	free_cluster(at, PER_SLICE + 1);
	KUNIT_EXPECT_TRUE(test, xa_empty(&at->ti->img->free.freed));
	expect_next(test, at, 1, PER_SLICE + 1, 1);
}

/*
 * Streams. With clusters of 8 KiB, a step is 16 of them for requests of one or two.
 */

/**
 * struct stream_step - a step of a row
 * @guest: guest cluster for which clusters are taken; 0: they are for a table
 * @want: how many are wanted, all of which there are; 0: @host becomes free
 * @host: the first that is taken
 */
struct stream_step {
	u32 guest;
	u32 want;
	u32 host;
};

static const struct stream_row {
	const char *name;
	struct cluster_run free[2];
	struct stream_step steps[8];
} stream_rows[] = {
	{ "one after the other", { { 100, 300 } },
	  { { 10, 1, 100 }, { 11, 2, 101 }, { 13, 1, 103 } } },
	{ "out of order", { { 100, 300 } },
	  { { 10, 1, 100 }, { 11, 1, 101 }, { 14, 2, 104 }, { 13, 1, 103 },
	    { 12, 1, 102 }, { 16, 1, 106 } } },
	{ "beside each other", { { 100, 300 } },
	  { { 10, 1, 100 }, { 11, 1, 101 }, { 500, 1, 118 }, { 501, 1, 119 },
	    { 12, 1, 102 }, { 502, 1, 120 } } },
	{ "here and there, nothing is reserved", { { 100, 300 } },
	  { { 10, 1, 100 }, { 30, 1, 101 }, { 50, 1, 102 }, { 11, 1, 103 } } },
	{ "behind the run", { { 100, 300 } },
	  { { 10, 1, 100 }, { 11, 1, 101 }, { 29, 1, 118 }, { 12, 1, 102 } } },
	{ "a table lies elsewhere", { { 100, 300 } },
	  { { 10, 1, 100 }, { 11, 1, 101 }, { 0, 1, 118 }, { 12, 1, 102 } } },
	{ "a table, and nothing else is free", { { 100, 6 } },
	  { { 10, 1, 100 }, { 11, 1, 101 }, { 0, 4, 102 } } },
	{ "a place that became free is nobody's", { { 100, 300 } },
	  { { 10, 1, 100 }, { 11, 1, 101 }, { 12, 1, 102 }, { 0, 0, 101 },
	    { 0, 1, 101 }, { 13, 1, 103 } } },
	{ "what is free in front comes before what is behind",
	  { { 100, 2 }, { 200, 300 } },
	  { { 10, 1, 100 }, { 11, 1, 101 }, { 12, 1, 200 }, { 0, 0, 101 },
	    { 13, 16, 201 }, { 29, 1, 101 } } },
	{ "a used cluster ends the run", { { 100, 4 }, { 105, 300 } },
	  { { 10, 1, 100 }, { 11, 1, 101 }, { 12, 2, 102 }, { 14, 1, 105 },
	    { 15, 1, 106 } } },
	{ "a slice's end ends the run", { { 509, 300 } },
	  { { 10, 1, 509 }, { 11, 1, 510 }, { 0, 1, 512 }, { 12, 1, 511 },
	    { 13, 1, 513 } } },
};

KUNIT_ARRAY_PARAM_DESC(stream, stream_rows, name);

static int allocate_for_guest(struct alloc_test *at, u32 guest, u32 want)
{
	struct qcow2_image *img = at->ti->img;
	int ret;

	mutex_lock(&img->meta_lock);
	ret = qcow2_alloc_for_guest(img, test_cluster_offset(at->ti, guest), 0,
				    want, &at->need, &at->run);
	mutex_unlock(&img->meta_lock);
	return ret;
}

static void take_step(struct kunit *test, struct alloc_test *at,
		      const struct stream_step *step)
{
	if (!step->want) {
		free_cluster(at, step->host);
		return;
	}
	if (!step->guest) {
		expect_next(test, at, step->want, step->host, step->want);
		return;
	}
	KUNIT_ASSERT_EQ(test, 0, allocate_for_guest(at, step->guest, step->want));
	KUNIT_EXPECT_EQ_MSG(test, (u64)step->host << 13, at->run.host_offset,
			    "guest cluster %u", step->guest);
	KUNIT_EXPECT_EQ(test, step->want, at->run.nb_clusters);
	qcow2_slice_put(at->run.refblock);
	at->run.refblock = NULL;
}

static void streams_have_their_places(struct kunit *test)
{
	const struct stream_row *row = test->param_value;
	struct alloc_test *at = begin(test, row->free, ARRAY_SIZE(row->free));
	size_t i;

	for (i = 0; i < ARRAY_SIZE(row->steps) && row->steps[i].host; i++)
		take_step(test, at, &row->steps[i]);
}

/* Takes clusters there, gives them back, and says whether they were fresh. */
static bool take_fresh(struct kunit *test, struct alloc_test *at, u64 cluster,
		       u32 nr)
{
	KUNIT_EXPECT_EQ(test, 0, allocate(at, cluster, nr));
	KUNIT_EXPECT_EQ(test, nr, at->run.nb_clusters);
	undo(at);
	return at->run.fresh;
}

static void again(struct alloc_test *at, u64 cluster)
{
	mutex_lock(&at->ti->img->meta_lock);
	qcow2_fresh_again(at->ti->img, cluster);
	mutex_unlock(&at->ti->img->meta_lock);
}

/* Over the bounds of entries of the map too, which have 32 clusters. */
static void clusters_are_fresh_once(struct kunit *test)
{
	static const struct cluster_run free[] = { { 20, 300 } };
	struct alloc_test *at = begin(test, free, ARRAY_SIZE(free));
	struct qcow2_image *img = at->ti->img;

	img->free.fresh_from = 30;
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 29, 1));
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 29, 2));
	KUNIT_EXPECT_EQ(test, 31, img->free.fresh_from);
	KUNIT_EXPECT_TRUE(test, take_fresh(test, at, 100, 3));
	KUNIT_EXPECT_EQ(test, 103, img->free.fresh_from);
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 101, 1));
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 30, 1));
	KUNIT_EXPECT_TRUE(test, take_fresh(test, at, 63, 2));
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 63, 1));
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 64, 1));
	KUNIT_EXPECT_TRUE(test, take_fresh(test, at, 31, 32));
	KUNIT_EXPECT_TRUE(test, take_fresh(test, at, 65, 35));
	KUNIT_EXPECT_TRUE(test, xa_empty(&img->free.zeroes));
	KUNIT_EXPECT_EQ(test, 0, img->free.nr_zeroes);
}

static void punched_cluster_is_fresh_once(struct kunit *test)
{
	static const struct cluster_run free[] = { { 20, 300 } };
	struct alloc_test *at = begin(test, free, ARRAY_SIZE(free));

	at->ti->img->free.fresh_from = 400;
	again(at, 100);
	again(at, 102);
	again(at, 102);
	KUNIT_EXPECT_EQ(test, 1, at->ti->img->free.nr_zeroes);
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 101, 1));
	KUNIT_EXPECT_TRUE(test, take_fresh(test, at, 100, 3));
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 100, 1));
	again(at, 100);
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 100, 2));
	again(at, 100);
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 99, 2));
	KUNIT_EXPECT_EQ(test, 0, at->ti->img->free.nr_zeroes);
}

/* What is written where it is was in use, or seemed free in a damaged image. */
static void cluster_in_use_is_not_fresh(struct kunit *test)
{
	static const struct cluster_run free[] = { { 20, 300 } };
	struct alloc_test *at = begin(test, free, ARRAY_SIZE(free));
	struct qcow2_image *img = at->ti->img;

	img->free.fresh_from = 50;
	again(at, 40);
	mutex_lock(&img->meta_lock);
	qcow2_clusters_in_use(img, test_cluster_offset(at->ti, 40), 1);
	qcow2_clusters_in_use(img, test_cluster_offset(at->ti, 60), 1);
	mutex_unlock(&img->meta_lock);
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 40, 1));
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 60, 1));
	KUNIT_EXPECT_FALSE(test, take_fresh(test, at, 55, 1));
	KUNIT_EXPECT_TRUE(test, take_fresh(test, at, 61, 1));
}

/*
 * With something missing.
 */

static void slice_that_is_not_cached_is_needed(struct kunit *test)
{
	struct alloc_test *at = begin_cold(test);

	KUNIT_EXPECT_EQ(test, -EAGAIN, allocate(at, 0, 1));
	KUNIT_EXPECT_EQ(test, QCOW2_NEED_SLICE, at->need.kind);
	KUNIT_EXPECT_EQ(test, QCOW2_SLICE_REFBLOCK, at->need.slice_kind);
	KUNIT_EXPECT_EQ(test, test_cluster_offset(at->ti, TEST_REFBLOCK),
			at->need.offset);
	KUNIT_EXPECT_NULL(test, at->run.refblock);

	load_slice(test, at, 0);
	KUNIT_EXPECT_EQ(test, 0, allocate(at, 0, 1));
	KUNIT_EXPECT_EQ(test, test_cluster_offset(at->ti, TEST_FREE),
			at->run.host_offset);
}

static void next_slice_is_needed_when_one_is_full(struct kunit *test)
{
	struct alloc_test *at = begin_cold(test);
	u32 i;

	load_slice(test, at, 0);
	for (i = 0; i < PER_SLICE; i++)
		set_refcount(at, i, 1);
	KUNIT_EXPECT_EQ(test, -EAGAIN, allocate(at, 0, 1));
	KUNIT_EXPECT_EQ(test, QCOW2_NEED_SLICE, at->need.kind);
	KUNIT_EXPECT_EQ(test, test_cluster_offset(at->ti, TEST_REFBLOCK) + 4096,
			at->need.offset);
	KUNIT_EXPECT_EQ(test, PER_SLICE, at->ti->img->free.hint);
}

static void a_fixed_place_is_not_worth_a_read(struct kunit *test)
{
	struct alloc_test *at = begin_cold(test);

	KUNIT_EXPECT_EQ(test, 0, allocate(at, TEST_FREE, 1));
	KUNIT_EXPECT_EQ(test, 0, at->run.nb_clusters);
	KUNIT_EXPECT_NULL(test, at->run.refblock);
}

static void refcount_block_is_needed_when_all_are_full(struct kunit *test)
{
	struct alloc_test *at = begin(test, NULL, 0);

	KUNIT_EXPECT_EQ(test, -EAGAIN, allocate(at, 0, 1));
	KUNIT_EXPECT_EQ(test, QCOW2_NEED_REFBLOCK, at->need.kind);
	KUNIT_EXPECT_EQ(test, 1, at->need.index);
	KUNIT_EXPECT_EQ(test, PER_BLOCK, at->ti->img->free.hint);
}

static void refcount_table_is_needed_behind_its_end(struct kunit *test)
{
	struct alloc_test *at = begin_cold(test);

	at->ti->img->free.hint = 1024 * PER_BLOCK;
	KUNIT_EXPECT_EQ(test, -EAGAIN, allocate(at, 0, 1));
	KUNIT_EXPECT_EQ(test, QCOW2_NEED_REFTABLE, at->need.kind);
	KUNIT_EXPECT_EQ(test, 1024, at->need.index);
}

static void cluster_0_is_never_given(struct kunit *test)
{
	static const struct cluster_run free[] = { { 0, 1 }, { 20, 1 } };
	struct alloc_test *at = begin(test, free, ARRAY_SIZE(free));
	u32 refs = refcount_read(&at->slices[0]->refs);

	KUNIT_EXPECT_EQ(test, -EUCLEAN, allocate(at, 0, 1));
	KUNIT_EXPECT_TRUE(test, qcow2_image_needs_check(at->ti->img));
	KUNIT_EXPECT_EQ(test, 0, refcount(at, 0));
	KUNIT_EXPECT_EQ(test, refs, refcount_read(&at->slices[0]->refs));
}

/*
 * Contiguous clusters, in front of a refcount block that does not exist yet.
 */

static const struct area_row {
	const char *name;
	struct cluster_run free[3];
	u64 hint;
	u32 nr;
	u32 first;
	bool elsewhere;		/* not in one of the gaps */
} area_rows[] = {
	{ "a single one", { { 10, 1 }, { 20, 5 } }, 0, 1, 10 },
	{ "first gap that is long enough", { { 10, 2 }, { 20, 5 } }, 0, 3,
	  20 },
	{ "just long enough", { { 10, 2 }, { 20, 3 } }, 0, 3, 20 },
	{ "from the hint on", { { 10, 9 }, { 20, 5 } }, 15, 3, 15 },
	{ "not enough behind the hint", { { 10, 9 }, { 20, 5 } }, 17, 3, 20 },
	{ "up to the slice's end", { { 508, 4 } }, 0, 4, 508 },
	{ "in two slices", { { 510, 4 } }, 0, 4, 510 },
	{ "stops in front of a used cluster of the next slice",
	  { { 500, 13 }, { 514, 3 }, { 600, 14 } }, 0, 14, 600 },
	{ "goes on behind the used cluster",
	  { { 511, 2 }, { 514, 3 } }, 0, 3, 514 },
	{ "from the next slice's start", { { 512, 9 } }, 0, 9, 512 },
	{ "the block's last clusters", { { 1000, 24 } }, 0, 24, 1000 },
	{ "behind the next block", { { 1000, 24 } }, 0, 25, 1025, true },
	{ "single, behind the next block", { }, 0, 1, 1025, true },
	{ "all that the next block leaves", { { 10, 1 } }, 0, 1023, 1025,
	  true },
	/* The area begins with two blocks and a refcount table. */
	{ "more than a block leaves", { { 10, 1 } }, 0, 1024, 1024 + 3, true },
};

KUNIT_ARRAY_PARAM_DESC(area, area_rows, name);

static int alloc_area(struct alloc_test *at, u64 nr, u64 *offset)
{
	int ret;

	mutex_lock(&at->ti->img->grow_lock);
	ret = qcow2_alloc_area(at->ti->img, nr, offset);
	mutex_unlock(&at->ti->img->grow_lock);
	return ret;
}

static void expect_gaps(struct kunit *test, struct alloc_test *at,
			const struct cluster_run *free, size_t nr_free,
			const struct cluster_run *taken)
{
	size_t i;
	u32 cluster;

	for (cluster = 0; cluster < PER_BLOCK; cluster++) {
		bool gap = false;

		for (i = 0; i < nr_free; i++)
			gap |= is_in(&free[i], cluster);
		KUNIT_EXPECT_EQ_MSG(test, !gap || is_in(taken, cluster),
				    refcount(at, cluster), "cluster %u",
				    cluster);
	}
}

static void area_is_contiguous(struct kunit *test)
{
	const struct area_row *row = test->param_value;
	struct alloc_test *at = begin(test, row->free, ARRAY_SIZE(row->free));
	const struct cluster_run taken = {
		row->first, row->elsewhere ? 0 : row->nr
	};
	u32 refs[ARRAY_SIZE(at->slices)];
	u64 offset;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(refs); i++)
		refs[i] = refcount_read(&at->slices[i]->refs);
	at->ti->img->free.hint = row->hint;
	KUNIT_ASSERT_EQ(test, 0, alloc_area(at, row->nr, &offset));
	KUNIT_EXPECT_EQ(test, (u64)row->first << 13, offset);
	expect_gaps(test, at, row->free, ARRAY_SIZE(row->free), &taken);
	/* The dirty list may have one each. */
	for (i = 0; i < ARRAY_SIZE(refs); i++)
		KUNIT_EXPECT_EQ_MSG(test, refs[i] +
				    test_bit(QCOW2_SLICE_DIRTY,
					     &at->slices[i]->flags),
				    refcount_read(&at->slices[i]->refs),
				    "references to slice %u", i);
	KUNIT_EXPECT_FALSE(test, qcow2_image_needs_check(at->ti->img));
}

static void area_brings_its_slices(struct kunit *test)
{
	struct alloc_test *at = begin_cold(test);
	u64 offset;

	KUNIT_ASSERT_EQ(test, 0, alloc_area(at, 600, &offset));
	KUNIT_EXPECT_EQ(test, test_cluster_offset(at->ti, TEST_FREE), offset);
	KUNIT_EXPECT_EQ(test, 2, at->ti->reads);
}

static void area_that_fails_gives_back(struct kunit *test)
{
	struct alloc_test *at = begin_cold(test);
	u64 offset;
	u32 i;

	load_slice(test, at, 0);
	at->ti->img->free.hint = 400;
	at->ti->read_error = -EIO;
	KUNIT_EXPECT_EQ(test, -EIO, alloc_area(at, 200, &offset));
	for (i = TEST_FREE; i < PER_SLICE; i++)
		KUNIT_EXPECT_EQ_MSG(test, 0, refcount(at, i), "cluster %u", i);
	KUNIT_EXPECT_EQ(test, 400, qcow2_first_candidate(at->ti->img));
	at->ti->read_error = 0;
	KUNIT_EXPECT_EQ(test, 0, alloc_area(at, 200, &offset));
	KUNIT_EXPECT_EQ(test, 400 << 13, offset);
}

static void area_finds_the_header_in_its_way(struct kunit *test)
{
	static const struct cluster_run free[] = { { 0, 1 }, { 20, 1 } };
	struct alloc_test *at = begin(test, free, ARRAY_SIZE(free));
	u64 offset;

	KUNIT_EXPECT_EQ(test, -EUCLEAN, alloc_area(at, 1, &offset));
	KUNIT_EXPECT_TRUE(test, qcow2_image_needs_check(at->ti->img));
}

/* Gaps of one cluster, so many that there is no end of looking. */
static void area_is_not_looked_for_for_ever(struct kunit *test)
{
	static const struct test_layout many = { 12, 0, false };
	struct alloc_test *at = kunit_kzalloc(test, sizeof(*at), GFP_KERNEL);
	struct qcow2_image *img;
	struct qcow2_slice *slice;
	u64 offset;

	KUNIT_ASSERT_NOT_NULL(test, at);
	at->ti = test_image(test, &many);
	img = at->ti->img;
	slice = test_slice(test, at->ti, QCOW2_SLICE_REFBLOCK,
			   test_cluster_offset(at->ti, TEST_REFBLOCK));
	memset(slice->data, 0x55, 4096);
	KUNIT_EXPECT_EQ(test, 0, alloc_area(at, 2, &offset));
	/* A block and a refcount table lie in front of it. */
	KUNIT_EXPECT_EQ(test, ((1ULL << 15) + 2) << 12, offset);
	KUNIT_EXPECT_EQ(test, 0x55, *(u8 *)slice->data);
	KUNIT_EXPECT_FALSE(test, qcow2_image_needs_check(img));
}

/*
 * Where offsets end: a table of 2048 entries whose last one points to the first
 * block, each of whose 2^24 refcounts of 1 bit counts a cluster of 2 MiB.
 */

#define LAST_ENTRY	2047
#define MAX_CLUSTERS	BIT_ULL(56 - 21)

static const struct test_layout vast = { 21, 0, false };

static const struct max_row {
	const char *name;
	u64 hint;
	u64 at;
	u32 want;
	int ret;
	u32 nb_clusters;
} max_rows[] = {
	{ "last clusters", MAX_CLUSTERS - 2, 0, 2, 0, 2 },
	{ "not past the end", MAX_CLUSTERS - 2, 0, 3, 0, 2 },
	{ "hint at the end", MAX_CLUSTERS, 0, 1, -ENOSPC, 0 },
	{ "hint behind the end", MAX_CLUSTERS + 1, 0, 1, -ENOSPC, 0 },
	{ "at: last clusters", 5, MAX_CLUSTERS - 2, 2, 0, 2 },
	{ "at: not past the end", 5, MAX_CLUSTERS - 2, 3, 0, 2 },
	{ "at: the end", 5, MAX_CLUSTERS, 1, 0, 0 },
};

KUNIT_ARRAY_PARAM_DESC(max, max_rows, name);

static struct alloc_test *begin_vast(struct kunit *test)
{
	struct alloc_test *at = kunit_kzalloc(test, sizeof(*at), GFP_KERNEL);
	struct qcow2_image *img;
	u64 block, *table;

	KUNIT_ASSERT_NOT_NULL(test, at);
	at->ti = test_image(test, &vast);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, put_run, at));
	img = at->ti->img;
	block = img->reftable[0];
	table = kvcalloc(LAST_ENTRY + 1, sizeof(u64), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, table);
	kvfree(img->reftable);
	img->reftable = table;
	img->reftable_entries = LAST_ENTRY + 1;
	table[LAST_ENTRY] = block;
	test_slice(test, at->ti, QCOW2_SLICE_REFBLOCK, block + SZ_2M - SZ_4K);
	return at;
}

static void offsets_end(struct kunit *test)
{
	const struct max_row *row = test->param_value;
	struct alloc_test *at = begin_vast(test);

	at->ti->img->free.hint = row->hint;
	KUNIT_EXPECT_EQ(test, row->ret, allocate(at, row->at, row->want));
	KUNIT_EXPECT_EQ(test, row->nb_clusters, at->run.nb_clusters);
	if (row->nb_clusters)
		KUNIT_EXPECT_EQ(test, (MAX_CLUSTERS - 2) << 21,
				at->run.host_offset);
}

/*
 * Where the file ends, in the middle of a slice: 30 clusters and a bit.
 */

static const struct limit_row {
	const char *name;
	struct cluster_run free;
	u32 at;
	u32 want;
	int ret;
	struct cluster_run run;
} limit_rows[] = {
	{ "last cluster", { 29, 9 }, 0, 1, 0, { 29, 1 } },
	{ "not past the limit", { 28, 9 }, 0, 9, 0, { 28, 2 } },
	{ "free ones behind the limit", { 30, 9 }, 0, 1, -ENOSPC },
	{ "at: not past the limit", { 28, 9 }, 29, 9, 0, { 29, 1 } },
	{ "at: free ones behind the limit", { 28, 9 }, 30, 1, 0 },
};

KUNIT_ARRAY_PARAM_DESC(limit, limit_rows, name);

static void restore_file_limit(void *context)
{
	struct alloc_test *at = context;

	file_inode(at->ti->filp)->i_sb->s_maxbytes = at->file_limit;
}

static void file_has_a_limit(struct kunit *test)
{
	const struct limit_row *row = test->param_value;
	struct alloc_test *at = begin(test, &row->free, 1);
	struct super_block *sb = file_inode(at->ti->filp)->i_sb;

	at->file_limit = sb->s_maxbytes;
	sb->s_maxbytes = (30 << 13) + 4096;
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, restore_file_limit, at));
	KUNIT_EXPECT_EQ(test, row->ret, allocate(at, row->at, row->want));
	KUNIT_EXPECT_EQ(test, row->run.nr, at->run.nb_clusters);
	if (row->run.nr)
		KUNIT_EXPECT_EQ(test, (u64)row->run.first << 13,
				at->run.host_offset);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(clusters_are_taken, alloc_gen_params),
	KUNIT_CASE_PARAM(undo_gives_clusters_back, alloc_gen_params),
	KUNIT_CASE(what_was_taken_is_not_given_again),
	KUNIT_CASE(lowest_freed_cluster_comes_first),
	KUNIT_CASE(freed_behind_the_hint_needs_no_record),
	KUNIT_CASE_PARAM(streams_have_their_places, stream_gen_params),
	KUNIT_CASE(clusters_are_fresh_once),
	KUNIT_CASE(punched_cluster_is_fresh_once),
	KUNIT_CASE(cluster_in_use_is_not_fresh),
	KUNIT_CASE(slice_that_is_not_cached_is_needed),
	KUNIT_CASE(next_slice_is_needed_when_one_is_full),
	KUNIT_CASE(a_fixed_place_is_not_worth_a_read),
	KUNIT_CASE(refcount_block_is_needed_when_all_are_full),
	KUNIT_CASE(refcount_table_is_needed_behind_its_end),
	KUNIT_CASE(cluster_0_is_never_given),
	KUNIT_CASE_PARAM(offsets_end, max_gen_params),
	KUNIT_CASE_PARAM(file_has_a_limit, limit_gen_params),
	KUNIT_CASE_PARAM(area_is_contiguous, area_gen_params),
	KUNIT_CASE(area_brings_its_slices),
	KUNIT_CASE(area_that_fails_gives_back),
	KUNIT_CASE(area_finds_the_header_in_its_way),
	KUNIT_CASE(area_is_not_looked_for_for_ever),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_alloc",
	.test_cases = cases,
};

kunit_test_suite(suite);
