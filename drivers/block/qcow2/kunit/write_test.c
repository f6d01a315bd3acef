// SPDX-License-Identifier: GPL-2.0-only
/*
 * write.c: where a write goes, what is copied with it, and what is linked then.
 *
 * Clusters have 64 KiB, and extended ones subclusters of 2 KiB.
 */

#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/prandom.h>
#include <linux/string.h>

#include "fixture.h"
#include "write.h"

#define CLUSTER		SZ_64K
#define SUBCLUSTER	SZ_2K
#define CLUSTERS(n)	((u64)(n) << 16)
#define SUBCLUSTERS(n)	((n) * SUBCLUSTER)
#define L2_PER_SLICE	512	/* entries; half as many extended ones */

/* L2 entries that refer to host cluster @n. */
#define SHARED(n)	CLUSTERS(n)
#define NORMAL(n)	(CLUSTERS(n) | QCOW2_OFLAG_COPIED)
#define ZERO_SHARED(n)	(SHARED(n) | QCOW2_OFLAG_ZERO)
#define ZERO_ALLOC(n)	(NORMAL(n) | QCOW2_OFLAG_ZERO)
#define ZERO_PLAIN	QCOW2_OFLAG_ZERO
#define UNALLOCATED	0
#define COMPRESSED	(QCOW2_OFLAG_COMPRESSED | 0x2345678)
#define COMPRESSED_HOST	0x234
#define DAMAGED(n)	(NORMAL(n) | BIT(12))

/* Bits of subclusters @first to @last of an extended entry. */
#define ALLOC(first, last)	GENMASK_ULL(last, first)
#define ZERO(first, last)	GENMASK_ULL((last) + 32, (first) + 32)

static const struct test_layout standard = { 16, 4, false };
static const struct test_layout extended = { 16, 4, true };

/**
 * struct write_test - a pass over a small image
 * @ti: the image
 * @l2: first slice of its L2 table
 * @refblock: first slice of its refcount block, if loaded
 * @pass: the pass
 * @spare: memory for its meta
 */
struct write_test {
	struct test_image *ti;
	struct qcow2_slice *l2;
	struct qcow2_slice *refblock;
	struct qcow2_pass pass;
	struct qcow2_l2_meta spare;
};

static void put_meta(void *context)
{
	struct write_test *wt = context;

	if (!wt->pass.meta)
		return;
	qcow2_slice_put(wt->pass.meta->l2);
	qcow2_slice_put(wt->pass.meta->refblock);
}

static struct write_test *begin(struct kunit *test, bool extl2)
{
	struct write_test *wt = kunit_kzalloc(test, sizeof(*wt), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, wt);
	wt->ti = test_image(test, extl2 ? &extended : &standard);
	wt->l2 = test_slice(test, wt->ti, QCOW2_SLICE_L2,
			    test_cluster_offset(wt->ti, TEST_L2));
	wt->pass.img = wt->ti->img;
	wt->pass.spare = &wt->spare;
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, put_meta, wt));
	return wt;
}

static const struct qcow2_geometry *geo_of(const struct write_test *wt)
{
	return &wt->ti->img->geo;
}

/* The entries that are in the slice; the row may have more of them. */
static void set_entries(struct write_test *wt, u32 index,
			const struct qcow2_l2_entry *entries, u32 nr)
{
	u32 per_slice = L2_PER_SLICE / geo_of(wt)->l2_entry_words;
	u32 i;

	for (i = 0; i < nr && index + i < per_slice; i++)
		WARN_ON(qcow2_set_l2_entry(geo_of(wt), wt->l2, index + i,
					   entries[i]));
}

/* Makes the pass one that has to go on at host offset @at, unless that is 0. */
static void go_on_at(struct write_test *wt, u64 at)
{
	if (!at)
		return;
	wt->pass.bytes = CLUSTER;
	wt->pass.host_offset = at - CLUSTER;
}

/*
 * cluster_needs_new_alloc()
 */

static const struct new_alloc_row {
	const char *name;
	bool extl2;
	u64 word;
	bool needs;
} new_alloc_rows[] = {
	{ "unallocated", false, UNALLOCATED, true },
	{ "normal", false, NORMAL(7), false },
	{ "normal, shared", false, SHARED(7), true },
	{ "zero", false, ZERO_PLAIN, true },
	{ "zero, COPIED without offset", false,
	  ZERO_PLAIN | QCOW2_OFLAG_COPIED, true },
	{ "zero with host cluster", false, ZERO_ALLOC(7), false },
	{ "zero with host cluster, shared", false, ZERO_SHARED(7), true },
	{ "compressed", false, COMPRESSED, true },
	{ "compressed, COPIED", false, COMPRESSED | QCOW2_OFLAG_COPIED, true },
	{ "COPIED without offset", false, QCOW2_OFLAG_COPIED, true },
	{ "extended: unallocated", true, UNALLOCATED, true },
	{ "extended: normal", true, NORMAL(7), false },
	{ "extended: normal, shared", true, SHARED(7), true },
	{ "extended: compressed", true, COMPRESSED, true },
	{ "extended: bit 0 without offset", true,
	  ZERO_PLAIN | QCOW2_OFLAG_COPIED, true },
};

KUNIT_ARRAY_PARAM_DESC(new_alloc, new_alloc_rows, name);

static void cluster_needs_new_one(struct kunit *test)
{
	const struct new_alloc_row *row = test->param_value;
	struct qcow2_geometry geo;

	test_geometry(test, &geo, row->extl2 ? &extended : &standard);
	KUNIT_EXPECT_EQ(test, row->needs,
			cluster_needs_new_alloc(&geo, row->word));
}

/*
 * count_single_write_clusters()
 */

static const struct count_row {
	const char *name;
	bool extl2;
	struct qcow2_l2_entry entries[4];
	u32 nr;
	u32 in_place;
	u32 new_alloc;
} count_rows[] = {
	{ "consecutive normal clusters", false,
	  { { NORMAL(7) }, { NORMAL(8) }, { NORMAL(9) }, { NORMAL(10) } }, 4,
	  4, 0 },
	{ "no more than asked for", false,
	  { { NORMAL(7) }, { NORMAL(8) }, { NORMAL(9) }, { NORMAL(10) } }, 3,
	  3, 0 },
	{ "none asked for", false, { { NORMAL(7) } }, 0, 0, 0 },
	{ "gap in the file", false,
	  { { NORMAL(7) }, { NORMAL(8) }, { NORMAL(10) } }, 3, 2, 0 },
	{ "backwards in the file", false, { { NORMAL(7) }, { NORMAL(6) } }, 2,
	  1, 0 },
	{ "normal and zero clusters in place are one run", false,
	  { { NORMAL(7) }, { ZERO_ALLOC(8) }, { NORMAL(9) },
	    { ZERO_ALLOC(10) } }, 4, 4, 0 },
	{ "gap between normal and zero", false,
	  { { NORMAL(7) }, { ZERO_ALLOC(9) } }, 2, 1, 0 },
	{ "shared one ends the run in place", false,
	  { { NORMAL(7) }, { SHARED(8) }, { NORMAL(9) } }, 3, 1, 0 },
	{ "unallocated one ends the run in place", false,
	  { { NORMAL(7) }, { UNALLOCATED } }, 2, 1, 0 },
	{ "compressed one ends the run in place", false,
	  { { NORMAL(7) }, { COMPRESSED } }, 2, 1, 0 },
	{ "damaged one ends the run in place", false,
	  { { NORMAL(7) }, { DAMAGED(8) } }, 2, 1, 0 },
	{ "all that need a new cluster are one run", false,
	  { { UNALLOCATED }, { ZERO_PLAIN }, { SHARED(9) },
	    { ZERO_SHARED(3) } }, 4, 0, 4 },
	{ "no more new ones than asked for", false,
	  { { UNALLOCATED }, { UNALLOCATED }, { UNALLOCATED } }, 2, 0, 2 },
	{ "one in place ends the run of new ones", false,
	  { { UNALLOCATED }, { NORMAL(7) }, { UNALLOCATED } }, 3, 0, 1 },
	{ "zero one in place ends the run of new ones", false,
	  { { UNALLOCATED }, { ZERO_ALLOC(7) } }, 2, 0, 1 },
	{ "damaged one ends the run of new ones", false,
	  { { UNALLOCATED }, { SHARED(7) | BIT(12) } }, 2, 0, 1 },

	{ "extended: consecutive", true,
	  { { NORMAL(7), ALLOC(0, 31) }, { NORMAL(8), 0 },
	    { NORMAL(9), ZERO(0, 31) } }, 3, 3, 0 },
	{ "extended: gap in the file", true,
	  { { NORMAL(7), ALLOC(0, 31) }, { NORMAL(9), ALLOC(0, 31) } }, 2,
	  1, 0 },
	{ "extended: new ones", true,
	  { { UNALLOCATED }, { 0, ZERO(3, 5) }, { SHARED(9), ALLOC(1, 2) } },
	  3, 0, 3 },
	{ "extended: contradicting bits end the run", true,
	  { { NORMAL(7), ALLOC(0, 31) }, { NORMAL(8), ALLOC(4, 4) | ZERO(4, 4) }
	  }, 2, 1, 0 },
};

KUNIT_ARRAY_PARAM_DESC(count, count_rows, name);

static void clusters_in_one_write(struct kunit *test)
{
	const struct count_row *row = test->param_value;
	struct write_test *wt = begin(test, row->extl2);
	u32 index;

	for (index = 0; index < 20; index += 19) {
		set_entries(wt, index, row->entries, ARRAY_SIZE(row->entries));
		KUNIT_EXPECT_EQ_MSG(test, row->in_place,
				    count_single_write_clusters(geo_of(wt),
								wt->l2, index,
								row->nr, false),
				    "in place, index %u", index);
		KUNIT_EXPECT_EQ_MSG(test, row->new_alloc,
				    count_single_write_clusters(geo_of(wt),
								wt->l2, index,
								row->nr, true),
				    "new, index %u", index);
	}
}

static void compressed_cluster_goes_with_new_ones(struct kunit *test)
{
	static const struct qcow2_l2_entry entries[] = {
		{ UNALLOCATED }, { ZERO_PLAIN }, { COMPRESSED }, { UNALLOCATED },
	};
	struct write_test *wt = begin(test, false);

	set_entries(wt, 0, entries, ARRAY_SIZE(entries));
	KUNIT_EXPECT_EQ(test, 4, count_single_write_clusters(geo_of(wt), wt->l2,
							     0, 4, true));
}

/*
 * handle_dependencies()
 */

/**
 * struct flight - a meta in flight
 * @guest_offset: of its first cluster
 * @keep_old: its clusters stay where they are
 * @cow_from: first byte that it changes, from @guest_offset on
 * @cow_to: behind the last such byte, 0 for no meta
 */
struct flight {
	u64 guest_offset;
	bool keep_old;
	u32 cow_from;
	u32 cow_to;
};

#define NO_BLOCKER	-1

static const struct dependency_row {
	const char *name;
	struct flight flights[3];
	u64 offset;
	u64 bytes;
	u64 pass_bytes;
	int ret;
	u64 bytes_after;
	int blocker;
} dependency_rows[] = {
	{ "nothing in flight", { }, CLUSTERS(4), CLUSTERS(2), 0,
	  0, CLUSTERS(2), NO_BLOCKER },
	{ "up to a meta", { { CLUSTERS(6), false, 0, CLUSTER } },
	  CLUSTERS(4), CLUSTERS(2), 0, 0, CLUSTERS(2), NO_BLOCKER },
	{ "from behind a meta", { { CLUSTERS(3), false, 0, CLUSTER } },
	  CLUSTERS(4), CLUSTERS(2), 0, 0, CLUSTERS(2), NO_BLOCKER },
	{ "a byte into a meta", { { CLUSTERS(6), false, 0, CLUSTER } },
	  CLUSTERS(4), CLUSTERS(2) + 1, 0, 0, CLUSTERS(2), NO_BLOCKER },
	{ "shortened to where a meta begins",
	  { { CLUSTERS(6), false, 0, CLUSTER } },
	  CLUSTERS(4) + 512, CLUSTERS(9), 0, 0, CLUSTERS(2) - 512, NO_BLOCKER },
	{ "to the start of the meta's cluster, not of its bytes",
	  { { CLUSTERS(6), false, 0x8000, 0x9000 } },
	  CLUSTERS(5), CLUSTERS(2), 0, 0, CLUSTERS(1), NO_BLOCKER },
	{ "the same cluster, other bytes",
	  { { CLUSTERS(4), false, 0x8000, 0x9000 } },
	  CLUSTERS(4), 512, 0, -EINPROGRESS, 0, 0 },
	{ "the same cluster behind its bytes",
	  { { CLUSTERS(4), false, 0, 0x1000 } },
	  CLUSTERS(4) + 0x8000, 512, 0, -EINPROGRESS, 0, 0 },
	{ "starts in the meta's last cluster",
	  { { CLUSTERS(2), false, 0x8000, CLUSTERS(2) + 1 } },
	  CLUSTERS(4) + 0x8000, CLUSTERS(2), 0, -EINPROGRESS, 0, 0 },
	{ "starts behind the meta's last cluster",
	  { { CLUSTERS(2), false, 0x8000, CLUSTERS(2) } },
	  CLUSTERS(4), CLUSTERS(2), 0, 0, CLUSTERS(2), NO_BLOCKER },
	{ "nothing is waited for with a part of the pass in hand",
	  { { CLUSTERS(4), false, 0, CLUSTER } },
	  CLUSTERS(4), CLUSTERS(2), CLUSTERS(1), 0, 0, NO_BLOCKER },
	{ "shortened with a part of the pass in hand",
	  { { CLUSTERS(5), false, 0, CLUSTER } },
	  CLUSTERS(4), CLUSTERS(2), CLUSTERS(1), 0, CLUSTERS(1), NO_BLOCKER },

	{ "in place, bytes in front", { { CLUSTERS(4), true, 0x8000, 0x9000 } },
	  CLUSTERS(4), 0x8000, 0, 0, 0x8000, NO_BLOCKER },
	{ "in place, bytes behind", { { CLUSTERS(4), true, 0x8000, 0x9000 } },
	  CLUSTERS(4) + 0x9000, 0x1000, 0, 0, 0x1000, NO_BLOCKER },
	{ "in place, last byte in common",
	  { { CLUSTERS(4), true, 0x8000, 0x9000 } },
	  CLUSTERS(4) + 0x8fff, 0x1000, 0, -EINPROGRESS, 0, 0 },
	{ "in place, first byte in common",
	  { { CLUSTERS(4), true, 0x8000, 0x9000 } },
	  CLUSTERS(4), 0x8001, 0, -EINPROGRESS, 0, 0 },
	{ "in place, from an earlier cluster on",
	  { { CLUSTERS(5), true, 0x8000, 0x9000 } },
	  CLUSTERS(4), CLUSTERS(2), 0, 0, CLUSTERS(1), NO_BLOCKER },
	{ "in place, from an earlier cluster up to its bytes",
	  { { CLUSTERS(5), true, 0x8000, 0x9000 } },
	  CLUSTERS(4), CLUSTERS(1) + 0x8000, 0, 0, CLUSTERS(1) + 0x8000,
	  NO_BLOCKER },

	{ "shortened by the nearest of several",
	  { { CLUSTERS(9), false, 0, CLUSTER }, { CLUSTERS(6), false, 0, 512 },
	    { CLUSTERS(7), false, 0, CLUSTER } },
	  CLUSTERS(4), CLUSTERS(9), 0, 0, CLUSTERS(2), NO_BLOCKER },
	{ "shortened by one, then out of reach of the next",
	  { { CLUSTERS(6), false, 0, CLUSTER },
	    { CLUSTERS(6), true, 0x8000, 0x9000 } },
	  CLUSTERS(4), CLUSTERS(9), 0, 0, CLUSTERS(2), NO_BLOCKER },
	{ "shortened by one, stopped by the next",
	  { { CLUSTERS(6), false, 0, CLUSTER },
	    { CLUSTERS(4), false, 0, CLUSTER } },
	  CLUSTERS(4), CLUSTERS(9), 0, -EINPROGRESS, 0, 1 },
	{ "passes one in place, stopped by the next",
	  { { CLUSTERS(4), true, 0x8000, 0x9000 },
	    { CLUSTERS(3), true, 0, CLUSTER + 512 } },
	  CLUSTERS(4), 512, 0, -EINPROGRESS, 0, 1 },
	{ "several in other clusters",
	  { { CLUSTERS(1), false, 0, CLUSTER }, { CLUSTERS(3), false, 0, 1 },
	    { CLUSTERS(9), false, 0, CLUSTER } },
	  CLUSTERS(4), CLUSTERS(5), 0, 0, CLUSTERS(5), NO_BLOCKER },
};

KUNIT_ARRAY_PARAM_DESC(dependency, dependency_rows, name);

/* Its written bytes are the middle third of what it changes. */
static void set_flight(struct qcow2_l2_meta *meta, const struct flight *flight)
{
	u32 third = (flight->cow_to - flight->cow_from) / 3;

	meta->guest_offset = flight->guest_offset;
	meta->keep_old = flight->keep_old;
	meta->cow_start.offset = flight->cow_from;
	meta->cow_start.bytes = third;
	meta->cow_end.offset = flight->cow_to - third;
	meta->cow_end.bytes = third;
}

static void launch(struct write_test *wt, struct qcow2_l2_meta *meta)
{
	struct qcow2_image *img = wt->ti->img;

	mutex_lock(&img->meta_lock);
	qcow2_launch_meta(img, meta);
	mutex_unlock(&img->meta_lock);
}

static void land(struct write_test *wt, struct qcow2_l2_meta *meta)
{
	struct qcow2_image *img = wt->ti->img;
	LIST_HEAD(waiters);

	mutex_lock(&img->meta_lock);
	qcow2_land_meta(img, meta, &waiters);
	mutex_unlock(&img->meta_lock);
}

static void dependencies(struct kunit *test)
{
	const struct dependency_row *row = test->param_value;
	struct write_test *wt = begin(test, false);
	struct qcow2_image *img = wt->ti->img;
	struct qcow2_l2_meta *metas;
	u64 bytes = row->bytes;
	size_t i;
	int ret;

	metas = kunit_kcalloc(test, ARRAY_SIZE(row->flights), sizeof(*metas),
			      GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, metas);
	for (i = 0; i < ARRAY_SIZE(row->flights) && row->flights[i].cow_to; i++) {
		set_flight(&metas[i], &row->flights[i]);
		launch(wt, &metas[i]);
	}
	wt->pass.bytes = row->pass_bytes;
	mutex_lock(&img->meta_lock);
	ret = handle_dependencies(&wt->pass, row->offset, &bytes);
	mutex_unlock(&img->meta_lock);
	KUNIT_EXPECT_EQ(test, row->ret, ret);
	KUNIT_EXPECT_EQ(test, row->bytes_after, bytes);
	if (row->blocker == NO_BLOCKER)
		KUNIT_EXPECT_NULL(test, wt->pass.blocker);
	else
		KUNIT_EXPECT_PTR_EQ(test, &metas[row->blocker],
				    wt->pass.blocker);
}

/*
 * Another write may mark subclusters as data that a discard sees as unused, so
 * the discard must not take the cluster away before that is done.
 */
static void exclusive_pass_waits(struct kunit *test)
{
	const struct flight flight = { CLUSTERS(4), true, 0x8000, 0x9000 };
	struct write_test *wt = begin(test, true);
	struct qcow2_l2_meta *meta;
	u64 bytes = 0x8000;

	meta = kunit_kzalloc(test, sizeof(*meta), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, meta);
	set_flight(meta, &flight);
	launch(wt, meta);
	wt->pass.exclusive = true;
	mutex_lock(&wt->ti->img->meta_lock);
	KUNIT_EXPECT_EQ(test, -EINPROGRESS,
			handle_dependencies(&wt->pass, CLUSTERS(4), &bytes));
	mutex_unlock(&wt->ti->img->meta_lock);
	KUNIT_EXPECT_PTR_EQ(test, meta, wt->pass.blocker);
}

/*
 * calculate_l2_meta()
 */

#define NO_META	.none = true

static const struct meta_row {
	const char *name;
	bool extl2;
	bool keep_old;
	struct qcow2_l2_entry entries[3];
	u32 offset;	/* into the first cluster */
	u32 bytes;
	u32 cow_from;	/* likewise: first byte that changes */
	u32 cow_to;	/* behind the last one */
	bool none;	/* no meta */
} meta_rows[] = {
	/* Standard entries, new clusters: first and last cluster as a whole. */
	{ "new: compressed", false, false, { { COMPRESSED } },
	  0x1800, 0x200, 0, CLUSTER },
	{ "new: normal", false, false, { { SHARED(7) } },
	  0x1800, 0x200, 0, CLUSTER },
	{ "new: zero with host cluster", false, false, { { ZERO_SHARED(7) } },
	  0x1800, 0x200, 0, CLUSTER },
	{ "new: zero", false, false, { { ZERO_PLAIN } },
	  0x1800, 0x200, 0, CLUSTER },
	{ "new: unallocated", false, false, { { UNALLOCATED } },
	  0x1800, 0x200, 0, CLUSTER },
	{ "new: from the cluster's start", false, false, { { UNALLOCATED } },
	  0, 0x200, 0, CLUSTER },
	{ "new: up to the cluster's end", false, false, { { UNALLOCATED } },
	  0x1800, CLUSTER - 0x1800, 0, CLUSTER },
	{ "new: the whole cluster", false, false, { { UNALLOCATED } },
	  0, CLUSTER, 0, CLUSTER },
	{ "new: three clusters", false, false,
	  { { UNALLOCATED }, { SHARED(7) }, { ZERO_PLAIN } },
	  0x1800, CLUSTERS(2), 0, CLUSTERS(3) },
	{ "new: two clusters, to the end of the last", false, false,
	  { { SHARED(7) }, { UNALLOCATED } },
	  0x1800, CLUSTERS(2) - 0x1800, 0, CLUSTERS(2) },

	/* Standard entries, in place. */
	{ "in place: normal", false, true, { { NORMAL(7) } },
	  0x1800, 0x200, NO_META },
	{ "in place: three normal ones", false, true,
	  { { NORMAL(7) }, { NORMAL(8) }, { NORMAL(9) } },
	  0x1800, CLUSTERS(2), NO_META },
	{ "in place: zero", false, true, { { ZERO_ALLOC(7) } },
	  0x1800, 0x200, 0, CLUSTER },
	{ "in place: zero, from the cluster's start", false, true,
	  { { ZERO_ALLOC(7) } }, 0, 0x200, 0, CLUSTER },
	{ "in place: zero, up to the cluster's end", false, true,
	  { { ZERO_ALLOC(7) } }, 0x1800, CLUSTER - 0x1800, 0, CLUSTER },
	{ "in place: zero, the whole cluster", false, true,
	  { { ZERO_ALLOC(7) } }, 0, CLUSTER, 0, CLUSTER },
	{ "in place: first normal, last zero", false, true,
	  { { NORMAL(7) }, { ZERO_ALLOC(8) } },
	  0x1800, CLUSTER, 0x1800, CLUSTERS(2) },
	{ "in place: first zero, last normal", false, true,
	  { { ZERO_ALLOC(7) }, { NORMAL(8) } },
	  0x1800, CLUSTER, 0, CLUSTER + 0x1800 },
	{ "in place: zero between normal ones", false, true,
	  { { NORMAL(7) }, { ZERO_ALLOC(8) }, { NORMAL(9) } },
	  0x1800, CLUSTERS(2), 0x1800, CLUSTERS(2) + 0x1800 },
	{ "in place: a zero cluster that is not written does not count", false,
	  true, { { NORMAL(7) }, { ZERO_ALLOC(8) } },
	  0x1800, CLUSTER - 0x1800, NO_META },

	/* Extended entries, new clusters. Written is (part of) subcluster 5. */
	{ "extended, new: compressed", true, false, { { COMPRESSED } },
	  0x2900, 0x200, 0, CLUSTER },
	{ "extended, new: normal, all", true, false,
	  { { SHARED(7), ALLOC(0, 31) } }, 0x2900, 0x200, 0, CLUSTER },
	{ "extended, new: normal, some on both sides", true, false,
	  { { SHARED(7), ALLOC(3, 9) } },
	  0x2900, 0x200, SUBCLUSTERS(3), SUBCLUSTERS(10) },
	{ "extended, new: normal, alone", true, false,
	  { { SHARED(7), ALLOC(5, 5) } },
	  0x2900, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended, new: normal, none in front", true, false,
	  { { SHARED(7), ALLOC(5, 31) } },
	  0x2900, 0x200, SUBCLUSTERS(5), CLUSTER },
	{ "extended, new: normal, none behind", true, false,
	  { { SHARED(7), ALLOC(0, 5) } }, 0x2900, 0x200, 0, SUBCLUSTERS(6) },
	{ "extended, new: normal, holes inside are copied", true, false,
	  { { SHARED(7), ALLOC(1, 1) | ALLOC(5, 5) | ALLOC(20, 20) |
	      ZERO(2, 4) } },
	  0x2900, 0x200, SUBCLUSTERS(1), SUBCLUSTERS(21) },
	{ "extended, new: zero with host cluster, some on both sides", true,
	  false, { { SHARED(7), ALLOC(3, 3) | ALLOC(9, 9) | ZERO(5, 5) } },
	  0x2900, 0x200, SUBCLUSTERS(3), SUBCLUSTERS(10) },
	{ "extended, new: zero with host cluster, some in front", true, false,
	  { { SHARED(7), ALLOC(2, 2) | ZERO(5, 5) } },
	  0x2900, 0x200, SUBCLUSTERS(2), SUBCLUSTERS(6) },
	{ "extended, new: zero with host cluster, some behind", true, false,
	  { { SHARED(7), ALLOC(8, 8) | ZERO(5, 5) } },
	  0x2900, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(9) },
	{ "extended, new: zero with host cluster, none", true, false,
	  { { SHARED(7), ZERO(0, 31) } },
	  0x2900, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended, new: unallocated with host cluster, some on both sides",
	  true, false, { { SHARED(7), ALLOC(3, 3) | ALLOC(9, 9) } },
	  0x2900, 0x200, SUBCLUSTERS(3), SUBCLUSTERS(10) },
	{ "extended, new: unallocated with host cluster, some in front", true,
	  false, { { SHARED(7), ALLOC(0, 0) } },
	  0x2900, 0x200, 0, SUBCLUSTERS(6) },
	{ "extended, new: unallocated with host cluster, some behind", true,
	  false, { { SHARED(7), ALLOC(31, 31) } },
	  0x2900, 0x200, SUBCLUSTERS(5), CLUSTER },
	{ "extended, new: unallocated with host cluster, none", true, false,
	  { { SHARED(7), 0 } },
	  0x2900, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended, new: zero", true, false, { { 0, ZERO(0, 31) } },
	  0x2900, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended, new: unallocated", true, false, { { UNALLOCATED } },
	  0x2900, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended, new: unallocated, first subcluster", true, false,
	  { { UNALLOCATED } }, 0x100, 0x200, 0, SUBCLUSTERS(1) },
	{ "extended, new: unallocated, last subcluster", true, false,
	  { { UNALLOCATED } }, CLUSTER - 0x300, 0x200, SUBCLUSTERS(31),
	  CLUSTER },
	{ "extended, new: normal, up to the cluster's end", true, false,
	  { { SHARED(7), ALLOC(3, 9) } },
	  0x2900, CLUSTER - 0x2900, SUBCLUSTERS(3), CLUSTER },
	{ "extended, new: normal, from the cluster's start", true, false,
	  { { SHARED(7), ALLOC(3, 9) } }, 0, 0x100, 0, SUBCLUSTERS(10) },
	{ "extended, new: whole subclusters", true, false, { { UNALLOCATED } },
	  SUBCLUSTERS(5), SUBCLUSTERS(2), SUBCLUSTERS(5), SUBCLUSTERS(7) },
	{ "extended, new: each end by its own cluster", true, false,
	  { { UNALLOCATED }, { SHARED(9), ALLOC(0, 7) } },
	  0x2900, CLUSTER, SUBCLUSTERS(5), CLUSTER + SUBCLUSTERS(8) },
	{ "extended, new: each end by its own cluster, the other way", true,
	  false, { { SHARED(9), ALLOC(2, 7) }, { 0, ZERO(3, 9) } },
	  0x2900, CLUSTER, SUBCLUSTERS(2), CLUSTER + SUBCLUSTERS(6) },

	/* Extended entries, in place. */
	{ "extended, in place: normal", true, true,
	  { { NORMAL(7), ALLOC(5, 5) } }, 0x2900, 0x200, NO_META },
	{ "extended, in place: normal across clusters", true, true,
	  { { NORMAL(7), ALLOC(5, 31) }, { NORMAL(8), ALLOC(0, 5) } },
	  0x2900, CLUSTER, NO_META },
	{ "extended, in place: zero", true, true,
	  { { NORMAL(7), ALLOC(3, 4) | ZERO(5, 5) | ALLOC(6, 9) } },
	  0x2900, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended, in place: unallocated", true, true,
	  { { NORMAL(7), ALLOC(3, 4) | ALLOC(6, 9) } },
	  0x2900, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended, in place: first normal, last zero", true, true,
	  { { NORMAL(7), ALLOC(5, 5) | ZERO(6, 6) } },
	  0x2900, 0x800, 0x2900, SUBCLUSTERS(7) },
	{ "extended, in place: first unallocated, last normal", true, true,
	  { { NORMAL(7), ALLOC(6, 6) } },
	  0x2900, 0x800, SUBCLUSTERS(5), 0x3100 },
	{ "extended, in place: unallocated between normal ones", true, true,
	  { { NORMAL(7), ALLOC(5, 5) | ALLOC(7, 7) } },
	  0x2900, 0x1000, 0x2900, 0x3900 },
	{ "extended, in place: unallocated in the next cluster", true, true,
	  { { NORMAL(7), ALLOC(5, 31) }, { NORMAL(8), ALLOC(1, 5) } },
	  0x2900, CLUSTER, 0x2900, CLUSTER + 0x2900 },
	{ "extended, in place: whole zero subcluster", true, true,
	  { { NORMAL(7), ZERO(0, 31) } }, SUBCLUSTERS(5), SUBCLUSTER,
	  SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended, in place: last subcluster", true, true,
	  { { NORMAL(7), 0 } }, CLUSTER - 0x200, 0x200,
	  SUBCLUSTERS(31), CLUSTER },
};

KUNIT_ARRAY_PARAM_DESC(meta, meta_rows, name);

static void calculate(struct write_test *wt, u64 host_offset, u64 guest_offset,
		      u64 bytes, bool keep_old)
{
	mutex_lock(&wt->ti->img->meta_lock);
	WARN_ON(calculate_l2_meta(&wt->pass, wt->l2, host_offset, guest_offset,
				  bytes, keep_old));
	mutex_unlock(&wt->ti->img->meta_lock);
}

static void expect_no_meta(struct kunit *test, struct write_test *wt)
{
	KUNIT_EXPECT_NULL(test, wt->pass.meta);
	KUNIT_EXPECT_PTR_EQ(test, &wt->spare, wt->pass.spare);
	KUNIT_EXPECT_TRUE(test,
			  RB_EMPTY_ROOT(&wt->ti->img->in_flight.rb_root));
}

static void expect_cow(struct kunit *test, const struct qcow2_l2_meta *meta,
		       u32 offset, u32 bytes, u32 cow_from, u32 cow_to)
{
	u32 end = offset + bytes;

	KUNIT_EXPECT_EQ(test, cow_from, meta->cow_start.offset);
	KUNIT_EXPECT_EQ(test, offset - cow_from, meta->cow_start.bytes);
	KUNIT_EXPECT_EQ(test, end, meta->cow_end.offset);
	KUNIT_EXPECT_EQ(test, cow_to - end, meta->cow_end.bytes);
}

/* In flight too, in a cluster that the rows do not use. */
static void launch_older(struct write_test *wt, struct qcow2_l2_meta *older)
{
	older->guest_offset = 0;
	older->cow_end.bytes = CLUSTER;
	launch(wt, older);
}

static struct qcow2_l2_meta *last_in_flight(const struct write_test *wt)
{
	return rb_entry_safe(rb_last(&wt->ti->img->in_flight.rb_root),
			     struct qcow2_l2_meta, node);
}

static void meta_is_calculated(struct kunit *test)
{
	const struct meta_row *row = test->param_value;
	struct write_test *wt = begin(test, row->extl2);
	u32 refs = refcount_read(&wt->l2->refs);
	struct qcow2_l2_meta older = {};
	const struct qcow2_l2_meta *meta;
	const u32 index = 19;

	set_entries(wt, index, row->entries, ARRAY_SIZE(row->entries));
	if (!row->none)
		launch_older(wt, &older);
	calculate(wt, CLUSTERS(40), CLUSTERS(index) + row->offset, row->bytes,
		  row->keep_old);
	if (row->none) {
		expect_no_meta(test, wt);
		return;
	}
	meta = wt->pass.meta;
	KUNIT_ASSERT_PTR_EQ(test, meta, &wt->spare);
	KUNIT_EXPECT_NULL(test, wt->pass.spare);
	KUNIT_EXPECT_PTR_EQ(test, meta, last_in_flight(wt));
	KUNIT_EXPECT_PTR_EQ(test, &older.node, rb_prev(&meta->node));
	KUNIT_EXPECT_GT(test, meta->number, older.number);
	KUNIT_EXPECT_TRUE(test, list_empty(&meta->waiters));
	KUNIT_EXPECT_EQ(test, CLUSTERS(index), meta->guest_offset);
	KUNIT_EXPECT_EQ(test, CLUSTERS(40), meta->host_offset);
	KUNIT_EXPECT_EQ(test, (row->offset + row->bytes + CLUSTER - 1) / CLUSTER,
			meta->nb_clusters);
	KUNIT_EXPECT_EQ(test, row->keep_old, meta->keep_old);
	KUNIT_EXPECT_PTR_EQ(test, wt->l2, meta->l2);
	KUNIT_EXPECT_EQ(test, refs + 1, refcount_read(&wt->l2->refs));
	KUNIT_EXPECT_EQ(test, index, meta->l2_index);
	KUNIT_EXPECT_NULL(test, meta->refblock);
	expect_cow(test, meta, row->offset, row->bytes, row->cow_from,
		   row->cow_to);
}

/*
 * What is copied in front and behind is as little as possible, but all data
 * that the old cluster has: else the new entry would claim what was not copied,
 * or lose what it had.
 */
static void new_cluster_gets_all_data_of_the_old(struct kunit *test)
{
	struct write_test *wt = begin(test, true);
	struct rnd_state rnd;
	int i;

	prandom_seed_state(&rnd, 1);
	for (i = 0; i < 2000; i++) {
		u32 alloc = prandom_u32_state(&rnd) & prandom_u32_state(&rnd) &
			    prandom_u32_state(&rnd);
		u32 zero = prandom_u32_state(&rnd) & ~alloc;
		struct qcow2_l2_entry old = {
			.word = SHARED(7), .bitmap = (u64)zero << 32 | alloc,
		};
		u32 offset = prandom_u32_state(&rnd) % CLUSTER;
		u32 bytes = prandom_u32_state(&rnd) % (CLUSTER - offset) + 1;
		u32 first = offset / SUBCLUSTER;
		u32 last = (offset + bytes - 1) / SUBCLUSTER;
		u32 data = alloc | GENMASK(last, first), span;
		struct qcow2_l2_entry new;

		set_entries(wt, 0, &old, 1);
		calculate(wt, CLUSTERS(40), offset, bytes, false);
		KUNIT_ASSERT_NOT_NULL(test, wt->pass.meta);
		span = GENMASK(fls(data) - 1, __ffs(data));
		expect_cow(test, wt->pass.meta, offset, bytes,
			   __ffs(data) * SUBCLUSTER, fls(data) * SUBCLUSTER);
		new = linked_entry(geo_of(wt), wt->pass.meta, 0, old);
		KUNIT_ASSERT_EQ_MSG(test, (u64)(zero & ~span) << 32 | span,
				    new.bitmap,
				    "old bitmap 0x%llx, %u bytes at %u",
				    old.bitmap, bytes, offset);

		land(wt, &wt->spare);
		qcow2_slice_put(wt->l2);
		wt->pass.spare = &wt->spare;
		wt->pass.meta = NULL;
	}
}

/*
 * handle_copied()
 */

static const struct copied_row {
	const char *name;
	bool extl2;
	u32 index;
	struct qcow2_l2_entry entries[3];
	u32 offset;	/* into the first cluster */
	u64 bytes;
	u64 at;		/* where the pass must go on, 0 for anywhere */
	int ret;
	u64 bytes_after;
	u64 cow_from;	/* both 0: no meta */
	u64 cow_to;
} copied_rows[] = {
	/* Not for handle_copied(). */
	{ "unallocated", false, 19, { { UNALLOCATED } }, 0x1200, CLUSTERS(2),
	  0, 0, CLUSTERS(2) },
	{ "shared", false, 19, { { SHARED(7) } }, 0x1200, CLUSTERS(2), 0,
	  0, CLUSTERS(2) },
	{ "zero, shared", false, 19, { { ZERO_SHARED(7) } }, 0x1200,
	  CLUSTERS(2), 0, 0, CLUSTERS(2) },
	{ "zero", false, 19, { { ZERO_PLAIN } }, 0x1200, CLUSTERS(2), 0,
	  0, CLUSTERS(2) },
	{ "compressed", false, 19, { { COMPRESSED } }, 0x1200, CLUSTERS(2), 0,
	  0, CLUSTERS(2) },
	{ "unallocated where the pass must go on elsewhere", false, 19,
	  { { UNALLOCATED } }, 0, CLUSTERS(2), CLUSTERS(30), 0, CLUSTERS(2) },

	/* In place. */
	{ "normal", false, 19, { { NORMAL(7) } }, 0x1200, 0x600, 0,
	  1, 0x600 },
	{ "normal, up to the cluster's end", false, 19, { { NORMAL(7) } },
	  0x1200, CLUSTER - 0x1200, 0, 1, CLUSTER - 0x1200 },
	{ "run of normal ones", false, 19,
	  { { NORMAL(7) }, { NORMAL(8) }, { NORMAL(9) } }, 0x1200,
	  CLUSTERS(2), 0, 1, CLUSTERS(2) },
	{ "clipped where host clusters are not consecutive", false, 19,
	  { { NORMAL(7) }, { NORMAL(9) } }, 0x1200, CLUSTERS(2), 0,
	  1, CLUSTER - 0x1200 },
	{ "clipped where a new cluster is needed", false, 19,
	  { { NORMAL(7) }, { NORMAL(8) }, { UNALLOCATED } }, 0x1200,
	  CLUSTERS(3), 0, 1, CLUSTERS(2) - 0x1200 },
	{ "clipped at a damaged entry", false, 19,
	  { { NORMAL(7) }, { DAMAGED(8) } }, 0x1200, CLUSTERS(3), 0,
	  1, CLUSTER - 0x1200 },
	{ "clipped at the slice's end", false, L2_PER_SLICE - 2,
	  { { NORMAL(7) }, { NORMAL(8) }, { NORMAL(9) } }, 0x1200,
	  CLUSTERS(9), 0, 1, CLUSTERS(2) - 0x1200 },
	{ "slice's last cluster", false, L2_PER_SLICE - 1,
	  { { NORMAL(7) }, { NORMAL(8) } }, 0x1200, CLUSTERS(2), 0,
	  1, CLUSTER - 0x1200 },
	{ "slice's last cluster has a meta", false, L2_PER_SLICE - 1,
	  { { ZERO_ALLOC(7) }, { ZERO_ALLOC(8) } }, 0x1200, CLUSTERS(2), 0,
	  1, CLUSTER - 0x1200, 0, CLUSTER },
	{ "zero with host cluster", false, 19, { { ZERO_ALLOC(7) } }, 0x1200,
	  0x600, 0, 1, 0x600, 0, CLUSTER },
	{ "normal and zero ones", false, 19,
	  { { NORMAL(7) }, { ZERO_ALLOC(8) } }, 0x1200, CLUSTER, 0,
	  1, CLUSTER, 0x1200, CLUSTERS(2) },
	{ "zero one that the run does not reach", false, 19,
	  { { NORMAL(7) }, { ZERO_ALLOC(9) } }, 0x1200, CLUSTER, 0,
	  1, CLUSTER - 0x1200 },

	/* Where the pass must go on. */
	{ "goes on there", false, 19, { { NORMAL(30) }, { NORMAL(31) } }, 0,
	  CLUSTERS(2), CLUSTERS(30), 1, CLUSTERS(2) },
	{ "does not go on there", false, 19, { { NORMAL(7) } }, 0,
	  CLUSTERS(1), CLUSTERS(30), 0, 0 },
	{ "a cluster too far", false, 19, { { NORMAL(31) } }, 0,
	  CLUSTERS(1), CLUSTERS(30), 0, 0 },
	{ "zero one goes on there", false, 19, { { ZERO_ALLOC(30) } }, 0,
	  0x600, CLUSTERS(30), 1, 0x600, 0, CLUSTER },
	{ "zero one does not go on there", false, 19, { { ZERO_ALLOC(7) } }, 0,
	  0x600, CLUSTERS(30), 0, 0 },

	/* Extended entries. */
	{ "extended: unallocated", true, 19, { { 0, ZERO(0, 31) } }, 0x2900,
	  0x200, 0, 0, 0x200 },
	{ "extended: shared", true, 19, { { SHARED(7), ALLOC(0, 31) } }, 0x2900,
	  0x200, 0, 0, 0x200 },
	{ "extended: normal", true, 19, { { NORMAL(7), ALLOC(5, 5) } }, 0x2900,
	  0x200, 0, 1, 0x200 },
	{ "extended: zero subcluster", true, 19, { { NORMAL(7), ZERO(5, 5) } },
	  0x2900, 0x200, 0, 1, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended: unallocated subcluster", true, 19, { { NORMAL(7), 0 } },
	  0x2900, 0x200, 0, 1, 0x200, SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended: run", true, 19,
	  { { NORMAL(7), ALLOC(0, 31) }, { NORMAL(8), ALLOC(0, 31) } },
	  0x2900, CLUSTER, 0, 1, CLUSTER },
	{ "extended: clipped at contradicting bits", true, 19,
	  { { NORMAL(7), ALLOC(0, 31) },
	    { NORMAL(8), ALLOC(0, 31) | ZERO(31, 31) } },
	  0x2900, CLUSTER, 0, 1, CLUSTER - 0x2900 },
	{ "extended: clipped at the slice's end", true, L2_PER_SLICE / 2 - 2,
	  { { NORMAL(7), ALLOC(0, 31) }, { NORMAL(8), ALLOC(0, 31) },
	    { NORMAL(9), ALLOC(0, 31) } },
	  0x2900, CLUSTERS(9), 0, 1, CLUSTERS(2) - 0x2900 },
};

KUNIT_ARRAY_PARAM_DESC(copied, copied_rows, name);

static int copied(struct write_test *wt, u64 guest_offset, u64 *bytes)
{
	int ret;

	mutex_lock(&wt->ti->img->meta_lock);
	ret = handle_copied(&wt->pass, wt->l2, guest_offset, bytes);
	mutex_unlock(&wt->ti->img->meta_lock);
	return ret;
}

static void expect_meta(struct kunit *test, struct write_test *wt, u32 index,
			u64 host_offset, bool keep_old)
{
	const struct qcow2_l2_meta *meta = wt->pass.meta;

	KUNIT_ASSERT_NOT_NULL(test, meta);
	KUNIT_EXPECT_PTR_EQ(test, meta, last_in_flight(wt));
	KUNIT_EXPECT_EQ(test, CLUSTERS(index), meta->guest_offset);
	KUNIT_EXPECT_EQ(test, host_offset, meta->host_offset);
	KUNIT_EXPECT_EQ(test, keep_old, meta->keep_old);
	KUNIT_EXPECT_PTR_EQ(test, wt->l2, meta->l2);
	KUNIT_EXPECT_EQ(test, index, meta->l2_index);
}

static void clusters_are_written_in_place(struct kunit *test)
{
	const struct copied_row *row = test->param_value;
	struct write_test *wt = begin(test, row->extl2);
	u64 cluster = row->entries[0].word & QCOW2_OFFSET_MASK;
	u64 host = row->at ? row->at - CLUSTER : 0;
	u64 bytes = row->bytes;

	set_entries(wt, row->index, row->entries, ARRAY_SIZE(row->entries));
	go_on_at(wt, row->at);
	KUNIT_ASSERT_EQ(test, row->ret,
			copied(wt, CLUSTERS(row->index) + row->offset, &bytes));
	KUNIT_EXPECT_EQ(test, row->bytes_after, bytes);
	if (row->ret && !row->at)
		host = cluster + row->offset;
	KUNIT_EXPECT_EQ_MSG(test, host, wt->pass.host_offset,
			    "where the pass starts");
	if (!row->cow_to) {
		expect_no_meta(test, wt);
		return;
	}
	expect_meta(test, wt, row->index, cluster, true);
	KUNIT_EXPECT_NULL(test, wt->pass.meta->refblock);
	expect_cow(test, wt->pass.meta, row->offset, bytes, row->cow_from,
		   row->cow_to);
}

/*
 * handle_alloc()
 */

/* Refcounts of 16 bits, of which a slice has 2048. */
#define REFCOUNTS	2048

static const struct alloc_row {
	const char *name;
	bool extl2;
	u32 index;
	struct qcow2_l2_entry entries[4];
	u32 free[4];	/* host clusters; all others are in use */
	u32 offset;	/* into the first cluster */
	u64 bytes;
	u64 at;		/* where the pass must go on, 0 for anywhere */
	int ret;
	u64 bytes_after;
	u64 host_offset;	/* of the first new cluster */
	u32 nb_clusters;
	u64 cow_from;
	u64 cow_to;
} alloc_rows[] = {
	{ "part of a cluster", false, 19, { { UNALLOCATED } },
	  { 9, 10 }, 0x1200, 0x600, 0, 1, 0x600, CLUSTERS(9), 1, 0, CLUSTER },
	{ "part of two clusters", false, 19, { { UNALLOCATED } },
	  { 9, 10 }, 0x1200, CLUSTER, 0, 1, CLUSTER, CLUSTERS(9), 2, 0,
	  CLUSTERS(2) },
	{ "whole clusters", false, 19, { { UNALLOCATED } },
	  { 9, 10, 11 }, 0, CLUSTERS(2), 0, 1, CLUSTERS(2), CLUSTERS(9), 2, 0,
	  CLUSTERS(2) },
	{ "shared cluster", false, 19, { { SHARED(7) } },
	  { 9, 10 }, 0x1200, 0x600, 0, 1, 0x600, CLUSTERS(9), 1, 0, CLUSTER },
	{ "clipped to the free run", false, 19, { { UNALLOCATED } },
	  { 9, 10, 12 }, 0x1200, CLUSTERS(3), 0, 1, CLUSTERS(2) - 0x1200,
	  CLUSTERS(9), 2, 0, CLUSTERS(2) },
	{ "clipped at a cluster that is written in place", false, 19,
	  { { UNALLOCATED }, { ZERO_PLAIN }, { NORMAL(7) } },
	  { 9, 10, 11, 12 }, 0x1200, CLUSTERS(4), 0, 1, CLUSTERS(2) - 0x1200,
	  CLUSTERS(9), 2, 0, CLUSTERS(2) },
	{ "clipped at the slice's end", false, L2_PER_SLICE - 2,
	  { { UNALLOCATED } }, { 9, 10, 11, 12 }, 0x1200, CLUSTERS(9), 0,
	  1, CLUSTERS(2) - 0x1200, CLUSTERS(9), 2, 0, CLUSTERS(2) },
	{ "slice's last cluster", false, L2_PER_SLICE - 1,
	  { { UNALLOCATED } }, { 9, 10, 11, 12 }, 0x1200, CLUSTERS(2), 0,
	  1, CLUSTER - 0x1200, CLUSTERS(9), 1, 0, CLUSTER },

	{ "goes on where it must", false, 19, { { UNALLOCATED } },
	  { 9, 30, 31, 32 }, 0, CLUSTERS(2), CLUSTERS(30), 1, CLUSTERS(2),
	  CLUSTERS(30), 2, 0, CLUSTERS(2) },
	{ "goes on where it must, as far as that is free", false, 19,
	  { { UNALLOCATED } }, { 9, 30, 32 }, 0, CLUSTERS(2), CLUSTERS(30),
	  1, CLUSTERS(1), CLUSTERS(30), 1, 0, CLUSTERS(1) },
	{ "cannot go on where it must", false, 19, { { UNALLOCATED } },
	  { 9, 29, 31 }, 0, CLUSTERS(2), CLUSTERS(30), 0, 0 },

	{ "extended: unallocated", true, 19, { { UNALLOCATED } },
	  { 9, 10 }, 0x2900, 0x200, 0, 1, 0x200, CLUSTERS(9), 1,
	  SUBCLUSTERS(5), SUBCLUSTERS(6) },
	{ "extended: shared", true, 19, { { SHARED(7), ALLOC(3, 9) } },
	  { 9, 10 }, 0x2900, 0x200, 0, 1, 0x200, CLUSTERS(9), 1,
	  SUBCLUSTERS(3), SUBCLUSTERS(10) },
	{ "extended: run that the free one clips in the middle", true, 19,
	  { { UNALLOCATED }, { SHARED(7), ALLOC(3, 9) } },
	  { 9, 11 }, 0x2900, CLUSTER, 0, 1, CLUSTER - 0x2900, CLUSTERS(9), 1,
	  SUBCLUSTERS(5), CLUSTER },
	{ "extended: clipped at the slice's end", true, L2_PER_SLICE / 2 - 1,
	  { { UNALLOCATED } }, { 9, 10, 11 }, 0x2900, CLUSTERS(2), 0,
	  1, CLUSTER - 0x2900, CLUSTERS(9), 1, SUBCLUSTERS(5), CLUSTER },
};

KUNIT_ARRAY_PARAM_DESC(alloc, alloc_rows, name);

static void load_refcounts(struct kunit *test, struct write_test *wt)
{
	wt->refblock = test_slice(test, wt->ti, QCOW2_SLICE_REFBLOCK,
				  test_cluster_offset(wt->ti, TEST_REFBLOCK));
}

static u64 refcount(struct write_test *wt, u32 cluster)
{
	return qcow2_get_refcount(wt->refblock->data, 4, cluster);
}

static void set_free(struct write_test *wt, const u32 *free, size_t nr)
{
	u32 i;

	for (i = 0; i < REFCOUNTS; i++)
		qcow2_set_refcount(wt->refblock->data, 4, i, 1);
	for (i = 0; i < nr && free[i]; i++)
		qcow2_set_refcount(wt->refblock->data, 4, free[i], 0);
}

static int alloc(struct write_test *wt, u64 guest_offset, u64 *bytes)
{
	int ret;

	mutex_lock(&wt->ti->img->meta_lock);
	ret = handle_alloc(&wt->pass, wt->l2, guest_offset, bytes);
	mutex_unlock(&wt->ti->img->meta_lock);
	return ret;
}

static void expect_allocated(struct kunit *test, struct write_test *wt,
			     const struct alloc_row *row, u32 refs)
{
	const struct qcow2_l2_meta *meta = wt->pass.meta;
	u32 i;

	expect_meta(test, wt, row->index, row->host_offset, false);
	KUNIT_EXPECT_EQ(test, row->nb_clusters, meta->nb_clusters);
	expect_cow(test, meta, row->offset, row->bytes_after, row->cow_from,
		   row->cow_to);
	KUNIT_EXPECT_PTR_EQ(test, wt->refblock, meta->refblock);
	KUNIT_EXPECT_EQ_MSG(test, refs + 2, refcount_read(&wt->refblock->refs),
			    "one for the meta, one as it is dirty");
	for (i = 0; i < row->nb_clusters; i++)
		KUNIT_EXPECT_EQ_MSG(test, 1,
				    refcount(wt, (row->host_offset >> 16) + i),
				    "refcount of new cluster %u", i);
}

static void expect_nothing_taken(struct kunit *test, struct write_test *wt,
				 const u32 *free, size_t nr, u32 refs)
{
	size_t i;

	expect_no_meta(test, wt);
	KUNIT_EXPECT_EQ(test, refs, refcount_read(&wt->refblock->refs));
	for (i = 0; i < nr && free[i]; i++)
		KUNIT_EXPECT_EQ_MSG(test, 0, refcount(wt, free[i]),
				    "refcount of cluster %u", free[i]);
}

static void clusters_are_allocated(struct kunit *test)
{
	const struct alloc_row *row = test->param_value;
	struct write_test *wt = begin(test, row->extl2);
	u64 host = row->host_offset + row->offset;
	u64 bytes = row->bytes;
	u32 refs;

	set_entries(wt, row->index, row->entries, ARRAY_SIZE(row->entries));
	load_refcounts(test, wt);
	set_free(wt, row->free, ARRAY_SIZE(row->free));
	go_on_at(wt, row->at);
	refs = refcount_read(&wt->refblock->refs);
	KUNIT_ASSERT_EQ(test, row->ret,
			alloc(wt, CLUSTERS(row->index) + row->offset, &bytes));
	KUNIT_EXPECT_EQ(test, row->bytes_after, bytes);
	if (row->at)
		host = row->at - CLUSTER;
	KUNIT_EXPECT_EQ_MSG(test, host, wt->pass.host_offset,
			    "where the pass starts");
	if (row->ret)
		expect_allocated(test, wt, row, refs);
	else
		expect_nothing_taken(test, wt, row->free, ARRAY_SIZE(row->free),
				     refs);
}

static void refcounts_that_are_not_cached_are_needed(struct kunit *test)
{
	struct write_test *wt = begin(test, false);
	u64 bytes = CLUSTERS(2);

	KUNIT_EXPECT_EQ(test, -EAGAIN, alloc(wt, 0x1200, &bytes));
	KUNIT_EXPECT_EQ(test, CLUSTERS(2), bytes);
	KUNIT_EXPECT_EQ(test, QCOW2_NEED_SLICE, wt->pass.need.kind);
	KUNIT_EXPECT_EQ(test, QCOW2_SLICE_REFBLOCK, wt->pass.need.slice_kind);
	KUNIT_EXPECT_EQ(test, test_cluster_offset(wt->ti, TEST_REFBLOCK),
			wt->pass.need.offset);
	expect_no_meta(test, wt);
}

static void pass_ends_where_its_next_refcount_is_not_cached(struct kunit *test)
{
	struct write_test *wt = begin(test, false);
	u64 bytes = CLUSTERS(2);

	go_on_at(wt, CLUSTERS(30));
	KUNIT_EXPECT_EQ(test, 0, alloc(wt, CLUSTERS(1), &bytes));
	KUNIT_EXPECT_EQ(test, 0, bytes);
	expect_no_meta(test, wt);
}

static void cluster_that_goes_must_count_as_used(struct kunit *test)
{
	static const struct qcow2_l2_entry entry = { COMPRESSED };
	struct write_test *wt = begin(test, false);
	u64 bytes = SZ_512;

	load_refcounts(test, wt);
	qcow2_set_refcount(wt->refblock->data, 4, COMPRESSED_HOST, 0);
	set_entries(wt, 0, &entry, 1);
	KUNIT_EXPECT_EQ(test, -EUCLEAN, alloc(wt, 0x1200, &bytes));
	expect_no_meta(test, wt);
	KUNIT_EXPECT_TRUE(test, qcow2_image_needs_check(wt->ti->img));
}

static void compressed_cluster_is_copied_whole(struct kunit *test)
{
	static const struct qcow2_l2_entry entry = { COMPRESSED };
	struct write_test *wt = begin(test, false);
	u64 bytes = SZ_512;

	load_refcounts(test, wt);
	qcow2_set_refcount(wt->refblock->data, 4, COMPRESSED_HOST, 1);
	set_entries(wt, 0, &entry, 1);
	KUNIT_EXPECT_EQ(test, 1, alloc(wt, 0x1200, &bytes));
	KUNIT_ASSERT_NOT_NULL(test, wt->pass.meta);
	KUNIT_EXPECT_EQ(test, 0, wt->pass.meta->cow_start.offset);
	KUNIT_EXPECT_EQ(test, 0x1200, wt->pass.meta->cow_start.bytes);
	KUNIT_EXPECT_EQ(test, 0x1400, wt->pass.meta->cow_end.offset);
	KUNIT_EXPECT_EQ(test, CLUSTER - 0x1400, wt->pass.meta->cow_end.bytes);
}

static void no_space_is_an_error(struct kunit *test)
{
	struct write_test *wt = begin(test, false);
	u64 bytes = CLUSTERS(2);

	wt->ti->img->free.hint = BIT_ULL(56 - 16);
	KUNIT_EXPECT_EQ(test, -ENOSPC, alloc(wt, 0x1200, &bytes));
	expect_no_meta(test, wt);
}

/*
 * linked_entry()
 */

static const struct link_row {
	const char *name;
	bool extl2;
	u32 cow_from;	/* from the start of the run's first cluster on */
	u32 cow_to;
	u32 i;
	struct qcow2_l2_entry old;
	struct qcow2_l2_entry new;
} link_rows[] = {
	{ "unallocated", false, 0, CLUSTER, 0, { UNALLOCATED },
	  { NORMAL(40) } },
	{ "second cluster", false, 0, CLUSTERS(3), 1, { UNALLOCATED },
	  { NORMAL(41) } },
	{ "third cluster", false, 0, CLUSTERS(3), 2, { UNALLOCATED },
	  { NORMAL(42) } },
	{ "zero", false, 0, CLUSTER, 0, { ZERO_PLAIN }, { NORMAL(40) } },
	{ "zero in place", false, 0, CLUSTER, 0, { ZERO_ALLOC(40) },
	  { NORMAL(40) } },
	{ "normal in a run in place", false, 0x200, CLUSTERS(2), 0,
	  { NORMAL(40) }, { NORMAL(40) } },
	{ "shared", false, 0, CLUSTER, 0, { SHARED(7) }, { NORMAL(40) } },
	{ "compressed", false, 0, CLUSTER, 0, { COMPRESSED }, { NORMAL(40) } },

	{ "extended: unallocated", true, SUBCLUSTERS(5), SUBCLUSTERS(6), 0,
	  { UNALLOCATED }, { NORMAL(40), ALLOC(5, 5) } },
	{ "extended: zero bits are cleared where data is", true,
	  SUBCLUSTERS(5), SUBCLUSTERS(8), 0, { 0, ZERO(0, 31) },
	  { NORMAL(40), ALLOC(5, 7) | ZERO(0, 4) | ZERO(8, 31) } },
	{ "extended: others keep their bits", true, SUBCLUSTERS(5),
	  SUBCLUSTERS(6), 0,
	  { NORMAL(40), ALLOC(0, 1) | ZERO(2, 3) | ZERO(30, 30) | ALLOC(31, 31) },
	  { NORMAL(40), ALLOC(0, 1) | ZERO(2, 3) | ALLOC(5, 5) | ZERO(30, 30) |
	    ALLOC(31, 31) } },
	{ "extended: first subcluster", true, 0, SUBCLUSTERS(1), 0,
	  { 0, ZERO(0, 31) }, { NORMAL(40), ALLOC(0, 0) | ZERO(1, 31) } },
	{ "extended: last subcluster", true, SUBCLUSTERS(31), CLUSTER, 0,
	  { 0, ZERO(0, 31) }, { NORMAL(40), ALLOC(31, 31) | ZERO(0, 30) } },
	{ "extended: whole cluster", true, 0, CLUSTER, 0,
	  { SHARED(7), ALLOC(0, 4) | ZERO(5, 31) },
	  { NORMAL(40), ALLOC(0, 31) } },
	{ "extended: the copied span is all there is of a shared one", true,
	  SUBCLUSTERS(3), SUBCLUSTERS(10), 0,
	  { SHARED(7), ALLOC(3, 4) | ZERO(5, 6) | ALLOC(9, 9) | ZERO(20, 31) },
	  { NORMAL(40), ALLOC(3, 9) | ZERO(20, 31) } },
	{ "extended: starts and ends inside of normal subclusters", true,
	  SUBCLUSTERS(5) + 0x100, SUBCLUSTERS(7) + 0x100, 0,
	  { NORMAL(40), ALLOC(5, 5) | ZERO(6, 6) | ALLOC(7, 7) },
	  { NORMAL(40), ALLOC(5, 7) } },
	{ "extended: compressed", true, 0, CLUSTER, 0, { COMPRESSED },
	  { NORMAL(40), ALLOC(0, 31) } },
	{ "extended: first of three", true, SUBCLUSTERS(30),
	  CLUSTERS(2) + SUBCLUSTERS(2), 0, { 0, ZERO(0, 31) },
	  { NORMAL(40), ALLOC(30, 31) | ZERO(0, 29) } },
	{ "extended: second of three", true, SUBCLUSTERS(30),
	  CLUSTERS(2) + SUBCLUSTERS(2), 1, { 0, ZERO(0, 31) },
	  { NORMAL(41), ALLOC(0, 31) } },
	{ "extended: third of three", true, SUBCLUSTERS(30),
	  CLUSTERS(2) + SUBCLUSTERS(2), 2, { 0, ZERO(0, 31) },
	  { NORMAL(42), ALLOC(0, 1) | ZERO(2, 31) } },
};

KUNIT_ARRAY_PARAM_DESC(link, link_rows, name);

static void entry_after_a_write(struct kunit *test)
{
	const struct link_row *row = test->param_value;
	struct flight span = { .cow_from = row->cow_from, .cow_to = row->cow_to };
	struct qcow2_l2_meta meta = { .host_offset = CLUSTERS(40) };
	struct qcow2_geometry geo;
	struct qcow2_l2_entry new;

	test_geometry(test, &geo, row->extl2 ? &extended : &standard);
	set_flight(&meta, &span);
	meta.nb_clusters = qcow2_clusters_of(&geo, row->cow_to);
	new = linked_entry(&geo, &meta, row->i, row->old);
	KUNIT_EXPECT_EQ(test, row->new.word, new.word);
	KUNIT_EXPECT_EQ_MSG(test, row->new.bitmap, new.bitmap,
			    "wanted 0x%llx, got 0x%llx", row->new.bitmap,
			    new.bitmap);
	KUNIT_EXPECT_EQ(test, 0, qcow2_check_l2_entry(&geo, new));
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(cluster_needs_new_one, new_alloc_gen_params),
	KUNIT_CASE_PARAM(clusters_in_one_write, count_gen_params),
	KUNIT_CASE(compressed_cluster_goes_with_new_ones),
	KUNIT_CASE(exclusive_pass_waits),
	KUNIT_CASE_PARAM(dependencies, dependency_gen_params),
	KUNIT_CASE_PARAM(meta_is_calculated, meta_gen_params),
	KUNIT_CASE(new_cluster_gets_all_data_of_the_old),
	KUNIT_CASE_PARAM(clusters_are_written_in_place, copied_gen_params),
	KUNIT_CASE_PARAM(clusters_are_allocated, alloc_gen_params),
	KUNIT_CASE(refcounts_that_are_not_cached_are_needed),
	KUNIT_CASE(pass_ends_where_its_next_refcount_is_not_cached),
	KUNIT_CASE(cluster_that_goes_must_count_as_used),
	KUNIT_CASE(compressed_cluster_is_copied_whole),
	KUNIT_CASE(no_space_is_an_error),
	KUNIT_CASE_PARAM(entry_after_a_write, link_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_write",
	.test_cases = cases,
};

kunit_test_suite(suite);
