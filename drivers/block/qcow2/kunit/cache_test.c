// SPDX-License-Identifier: GPL-2.0-only
/*
 * cache.c: what is read, what stays, and what is dropped.
 */

#include <linux/err.h>
#include <linux/errno.h>
#include <linux/shrinker.h>
#include <linux/string.h>
#include <linux/unaligned.h>

#include "fixture.h"

/* Clusters of two slices. */
static const struct test_layout layout = { 13, 4, false };

/* Slice @n of a region of the file that no table of the image lies in. */
static u64 slice_offset(u32 n)
{
	return SZ_1M + n * SZ_4K;
}

static void get_and_put(struct kunit *test, struct test_image *ti, u32 n)
{
	struct qcow2_slice *slice;

	slice = qcow2_slice_get(ti->img, QCOW2_SLICE_L2, slice_offset(n));
	KUNIT_ASSERT_FALSE(test, IS_ERR(slice));
	qcow2_slice_put(slice);
}

static bool is_cached(struct test_image *ti, u32 n)
{
	return test_is_cached(ti, QCOW2_SLICE_L2, slice_offset(n));
}

static void find_does_not_read(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	KUNIT_EXPECT_NULL(test, qcow2_slice_find(ti->img, QCOW2_SLICE_L2,
						 slice_offset(0)));
	KUNIT_EXPECT_EQ(test, 0, ti->reads);
}

static void get_reads_what_is_there(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice;
	u8 data[16];

	memset(data, 0x5a, sizeof(data));
	test_image_write(test, ti, slice_offset(1) - sizeof(data), data,
			 sizeof(data));
	slice = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(0));
	KUNIT_EXPECT_EQ(test, 1, ti->reads);
	KUNIT_EXPECT_EQ(test, QCOW2_SLICE_L2, slice->kind);
	KUNIT_EXPECT_EQ(test, slice_offset(0), slice->offset);
	KUNIT_EXPECT_EQ(test, 0, slice->data[0]);
	KUNIT_EXPECT_MEMEQ(test, (u8 *)slice->data + SZ_4K - sizeof(data), data,
			   sizeof(data));
}

static void slice_behind_the_end_of_the_file_is_zero(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice;

	slice = test_slice(test, ti, QCOW2_SLICE_L2, SZ_1G);
	KUNIT_EXPECT_NULL(test, memchr_inv(slice->data, 0, SZ_4K));
}

static void get_reads_once(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice, *again;
	__be64 word = cpu_to_be64(1);

	slice = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(0));
	test_image_write(test, ti, slice_offset(0), &word, sizeof(word));
	again = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(0));
	KUNIT_EXPECT_PTR_EQ(test, slice, again);
	KUNIT_EXPECT_EQ(test, 0, slice->data[0]);
	KUNIT_EXPECT_EQ(test, 1, ti->reads);
	KUNIT_EXPECT_TRUE(test, is_cached(ti, 0));
	KUNIT_EXPECT_EQ(test, 1, ti->img->cache.nr);
}

static void slices_of_a_cluster_are_apart(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	get_and_put(test, ti, 0);
	KUNIT_EXPECT_FALSE(test, is_cached(ti, 1));
	get_and_put(test, ti, 1);
	KUNIT_EXPECT_EQ(test, 2, ti->reads);
	KUNIT_EXPECT_TRUE(test, is_cached(ti, 0));
}

static void failed_read_is_reported_and_tried_again(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice;

	ti->read_error = -EIO;
	slice = qcow2_slice_get(ti->img, QCOW2_SLICE_L2, slice_offset(0));
	KUNIT_EXPECT_PTR_EQ(test, slice, ERR_PTR(-EIO));
	KUNIT_EXPECT_FALSE(test, is_cached(ti, 0));
	KUNIT_EXPECT_EQ(test, 0, ti->img->cache.nr);
	KUNIT_EXPECT_FALSE_MSG(test, qcow2_image_needs_check(ti->img),
			       "reading may work the next time");
	ti->read_error = 0;
	get_and_put(test, ti, 0);
	KUNIT_EXPECT_TRUE(test, is_cached(ti, 0));
}

static void a_table_of_two_kinds_is_damage(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice, *other;

	slice = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(0));
	other = qcow2_slice_get(ti->img, QCOW2_SLICE_REFBLOCK, slice_offset(0));
	KUNIT_EXPECT_PTR_EQ(test, other, ERR_PTR(-EUCLEAN));
	KUNIT_EXPECT_TRUE(test, qcow2_image_needs_check(ti->img));
	other = qcow2_slice_find(ti->img, QCOW2_SLICE_REFBLOCK,
				 slice_offset(0));
	KUNIT_EXPECT_PTR_EQ(test, other, ERR_PTR(-EUCLEAN));
	KUNIT_EXPECT_EQ_MSG(test, 2, refcount_read(&slice->refs),
			    "the cache's reference and ours");
}

static void dirty_slice_is_listed_once(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *l2, *refblock;

	l2 = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(0));
	refblock = test_slice(test, ti, QCOW2_SLICE_REFBLOCK, slice_offset(1));
	test_mark_dirty(ti, l2);
	test_mark_dirty(ti, l2);
	test_mark_dirty(ti, refblock);
	KUNIT_EXPECT_EQ(test, 2, ti->img->nr_dirty);
	KUNIT_EXPECT_EQ(test, 3, refcount_read(&l2->refs));
	KUNIT_EXPECT_PTR_EQ(test, l2,
			    list_first_entry(&ti->img->dirty_l2,
					     struct qcow2_slice, dirty));
	KUNIT_EXPECT_PTR_EQ(test, refblock,
			    list_first_entry(&ti->img->dirty_refblocks,
					     struct qcow2_slice, dirty));
}

/*
 * Eviction.
 */

static void over_the_cap_clean_unused_slices_go(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u32 n, kept = 0;

	ti->img->cache.max = 4;
	for (n = 0; n < 12; n++) {
		get_and_put(test, ti, n);
		KUNIT_EXPECT_EQ_MSG(test, min(n + 1, 4U), ti->img->cache.nr,
				    "after %u slices", n + 1);
	}
	for (n = 0; n < 12; n++)
		kept += is_cached(ti, n);
	KUNIT_EXPECT_EQ(test, 4, kept);
	KUNIT_EXPECT_TRUE_MSG(test, is_cached(ti, 11), "the latest");
}

static void up_to_the_cap_all_stay(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u32 n;

	ti->img->cache.max = 4;
	for (n = 0; n < 4; n++)
		get_and_put(test, ti, n);
	for (n = 0; n < 4; n++)
		KUNIT_EXPECT_TRUE_MSG(test, is_cached(ti, n), "slice %u", n);
}

/* What was looked up since the clock last passed is spared once. */
static void slice_that_is_looked_up_outlives_others(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u32 n;

	ti->img->cache.max = 4;
	for (n = 0; n < 5; n++)
		get_and_put(test, ti, n);	/* clears all marks, drops 0 */
	KUNIT_ASSERT_TRUE(test, is_cached(ti, 1));	/* marks it */
	get_and_put(test, ti, 5);
	KUNIT_EXPECT_FALSE(test, is_cached(ti, 2));
	KUNIT_EXPECT_TRUE(test, is_cached(ti, 1));
}

static void dirty_slices_are_not_dropped(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice;
	u32 n;

	ti->img->cache.max = 2;
	slice = qcow2_slice_get(ti->img, QCOW2_SLICE_L2, slice_offset(0));
	KUNIT_ASSERT_FALSE(test, IS_ERR(slice));
	slice->data[0] = cpu_to_be64(QCOW2_OFLAG_ZERO);
	test_mark_dirty(ti, slice);
	qcow2_slice_put(slice);
	for (n = 1; n < 12; n++)
		get_and_put(test, ti, n);
	slice = qcow2_slice_find(ti->img, QCOW2_SLICE_L2, slice_offset(0));
	KUNIT_ASSERT_NOT_NULL(test, slice);
	KUNIT_EXPECT_EQ(test, QCOW2_OFLAG_ZERO, be64_to_cpu(slice->data[0]));
	qcow2_slice_put(slice);
}

static void slices_in_use_are_not_dropped(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *used[4];
	u32 n;

	ti->img->cache.max = 2;
	for (n = 0; n < ARRAY_SIZE(used); n++)
		used[n] = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(n));
	KUNIT_EXPECT_EQ_MSG(test, 4, ti->img->cache.nr, "all are in use");
	for (; n < 12; n++)
		get_and_put(test, ti, n);
	for (n = 0; n < ARRAY_SIZE(used); n++) {
		struct qcow2_slice *found;

		found = qcow2_slice_find(ti->img, QCOW2_SLICE_L2,
					 slice_offset(n));
		KUNIT_EXPECT_PTR_EQ_MSG(test, used[n], found, "slice %u", n);
		if (!IS_ERR(found))
			qcow2_slice_put(found);
	}
	KUNIT_EXPECT_LE(test, ti->img->cache.nr, 5);
}

static void dropped_slice_is_read_again(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	__be64 word = cpu_to_be64(1);
	struct qcow2_slice *slice;
	u32 n;

	ti->img->cache.max = 1;
	for (n = 0; n < 4; n++)
		get_and_put(test, ti, n);
	test_image_write(test, ti, slice_offset(0), &word, sizeof(word));
	slice = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(0));
	KUNIT_EXPECT_EQ(test, 1, be64_to_cpu(slice->data[0]));
	KUNIT_EXPECT_EQ(test, 5, ti->reads);
}

/* Looked up again and again, but the cap comes before that. */
static void slices_that_were_looked_up_do_not_raise_the_cap(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u32 n, most = 0;

	ti->img->cache.max = 200;
	for (n = 0; n < 600; n++) {
		get_and_put(test, ti, n);
		get_and_put(test, ti, n);
		most = max(most, ti->img->cache.nr);
	}
	KUNIT_EXPECT_EQ(test, 200, most);
	KUNIT_EXPECT_EQ(test, 600, ti->reads);
	KUNIT_EXPECT_EQ(test, 600, ti->img->cache.loads);
}

/*
 * The cap.
 */

static void get_slices(struct kunit *test, struct test_image *ti, u32 nr)
{
	u32 n;

	for (n = 0; n < nr; n++)
		get_and_put(test, ti, n);
	KUNIT_ASSERT_EQ(test, nr, ti->img->cache.nr);
}

/* Changes the first word of the slice, so that it is @n + 1. */
static void make_dirty(struct kunit *test, struct test_image *ti, u32 n)
{
	struct qcow2_slice *slice;

	slice = qcow2_slice_get(ti->img, QCOW2_SLICE_L2, slice_offset(n));
	KUNIT_ASSERT_FALSE(test, IS_ERR(slice));
	slice->data[0] = cpu_to_be64(n + 1);
	test_mark_dirty(ti, slice);
	qcow2_slice_put(slice);
}

static u64 first_word_in_file(struct kunit *test, struct test_image *ti, u32 n)
{
	loff_t pos = slice_offset(n);
	__be64 word = 0;

	KUNIT_EXPECT_EQ(test, sizeof(word), kernel_read(ti->filp, &word,
							sizeof(word), &pos));
	return be64_to_cpu(word);
}

static const struct {
	const char *name;
	u64 disk_bytes;
	u32 least;
	u32 most;
	bool fits;
} caps[] = {
	/* 4 MiB of the disk for each slice of L2, 16 MiB for one of refcounts. */
	{ "small disk", SZ_16M, SZ_256K / SZ_4K, SZ_256K / SZ_4K, true },
	{ "1 GiB", SZ_1G, 256 + 64, 256 + 64 + 8, true },
	{ "20 GiB", 20ULL * SZ_1G, 20 * 320, 20 * 320 + 64, true },
	{ "1 TiB", 1024ULL * SZ_1G, SZ_32M / SZ_4K, SZ_32M / SZ_4K, false },
};

static void default_cap_is_enough_for_the_disk(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_image *img = ti->img;
	u64 bytes = img->geo.virtual_bytes;
	int i;

	KUNIT_EXPECT_EQ(test, SZ_256K / SZ_4K, img->cache.max);
	for (i = 0; i < ARRAY_SIZE(caps); i++) {
		img->geo.virtual_bytes = caps[i].disk_bytes;
		qcow2_cache_set_max(img, 0);
		KUNIT_EXPECT_LE_MSG(test, caps[i].least, img->cache.max, "%s",
				    caps[i].name);
		KUNIT_EXPECT_GE_MSG(test, caps[i].most, img->cache.max, "%s",
				    caps[i].name);
		KUNIT_EXPECT_EQ_MSG(test, caps[i].fits ? 2 * img->cache.max :
				    img->cache.max / 2, img->max_dirty, "%s",
				    caps[i].name);
	}
	img->geo.virtual_bytes = bytes;
}

static void lower_cap_drops_at_once(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	qcow2_cache_set_max(ti->img, SZ_4M);
	get_slices(test, ti, 1000);
	qcow2_cache_set_max(ti->img, SZ_256K);
	KUNIT_EXPECT_EQ(test, SZ_256K / SZ_4K, ti->img->cache.nr);
	KUNIT_EXPECT_EQ_MSG(test, 1000, ti->reads, "nothing is read for it");
	qcow2_cache_set_max(ti->img, SZ_512K);
	get_and_put(test, ti, 1000);
	KUNIT_EXPECT_EQ(test, SZ_256K / SZ_4K + 1, ti->img->cache.nr);
}

static void lower_cap_writes_what_is_dirty(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u32 n;

	qcow2_cache_set_max(ti->img, SZ_4M);
	for (n = 0; n < 200; n++)
		make_dirty(test, ti, n);
	KUNIT_ASSERT_EQ(test, 200, ti->img->nr_dirty);
	qcow2_cache_set_max(ti->img, SZ_256K);
	KUNIT_EXPECT_EQ(test, SZ_256K / SZ_4K, ti->img->cache.nr);
	KUNIT_EXPECT_EQ(test, 0, ti->img->nr_dirty);
	for (n = 0; n < 200; n++)
		KUNIT_EXPECT_EQ_MSG(test, n + 1,
				    first_word_in_file(test, ti, n),
				    "slice %u", n);
}

/*
 * The shrinker.
 */

static unsigned long count_clean(struct test_image *ti)
{
	struct shrinker *shrinker = ti->img->cache.shrinker;
	struct shrink_control sc = { .gfp_mask = GFP_NOIO };

	return shrinker->count_objects(shrinker, &sc);
}

static unsigned long drop_clean(struct test_image *ti, unsigned long nr)
{
	struct shrinker *shrinker = ti->img->cache.shrinker;
	struct shrink_control sc = {
		.gfp_mask = GFP_NOIO,
		.nr_to_scan = nr,
		.nr_scanned = nr,
	};

	return shrinker->scan_objects(shrinker, &sc);
}

static void shrinker_counts_what_is_clean(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	KUNIT_EXPECT_EQ(test, SHRINK_EMPTY, count_clean(ti));
	make_dirty(test, ti, 0);
	make_dirty(test, ti, 1);
	KUNIT_EXPECT_EQ(test, SHRINK_EMPTY, count_clean(ti));
	get_slices(test, ti, 6);
	KUNIT_EXPECT_EQ(test, 4, count_clean(ti));
	KUNIT_EXPECT_EQ(test, 0, qcow2_commit(ti->img));
	KUNIT_EXPECT_EQ(test, 6, count_clean(ti));
}

static void shrinker_spares_once_what_was_looked_up(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	get_slices(test, ti, 8);
	KUNIT_EXPECT_EQ(test, 0, drop_clean(ti, 8));
	KUNIT_EXPECT_EQ(test, 8, ti->img->cache.nr);
	KUNIT_EXPECT_TRUE(test, is_cached(ti, 1));	/* looked up */
	KUNIT_EXPECT_EQ_MSG(test, 2, drop_clean(ti, 3), "0 and 2");
	KUNIT_EXPECT_EQ(test, 6, ti->img->cache.nr);
	KUNIT_EXPECT_TRUE(test, is_cached(ti, 1));
	KUNIT_EXPECT_FALSE(test, is_cached(ti, 0));
	KUNIT_EXPECT_FALSE(test, is_cached(ti, 2));
	KUNIT_EXPECT_EQ(test, 6, drop_clean(ti, 100));
	KUNIT_EXPECT_EQ(test, 0, ti->img->cache.nr);
	KUNIT_EXPECT_EQ(test, 0, drop_clean(ti, 100));
}

static void shrinker_leaves_what_is_dirty_or_in_use(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *used;

	get_slices(test, ti, 8);
	make_dirty(test, ti, 3);
	used = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(5));
	KUNIT_EXPECT_EQ(test, 6, drop_clean(ti, 100));
	KUNIT_EXPECT_EQ(test, 2, ti->img->cache.nr);
	KUNIT_EXPECT_TRUE(test, is_cached(ti, 3));
	KUNIT_EXPECT_PTR_EQ(test, used, test_slice(test, ti, QCOW2_SLICE_L2,
						   slice_offset(5)));
	KUNIT_EXPECT_EQ(test, 0, qcow2_commit(ti->img));
	KUNIT_EXPECT_EQ(test, 4, first_word_in_file(test, ti, 3));
	KUNIT_EXPECT_EQ(test, 1, drop_clean(ti, 100));
}

/*
 * Forgetting.
 */

static void forget(struct test_image *ti, u64 offset, u64 bytes)
{
	mutex_lock(&ti->img->meta_lock);
	qcow2_cache_forget(ti->img, offset, bytes);
	mutex_unlock(&ti->img->meta_lock);
}

static void forget_drops_a_cluster_and_no_more(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u32 n;

	for (n = 0; n < 6; n++)
		get_and_put(test, ti, n);
	forget(ti, slice_offset(2), SZ_8K);
	for (n = 0; n < 6; n++)
		KUNIT_EXPECT_EQ_MSG(test, n / 2 != 1, is_cached(ti, n),
				    "slice %u", n);
	KUNIT_EXPECT_EQ(test, 4, ti->img->cache.nr);
}

static void forget_drops_dirty_slices_unwritten(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice;
	loff_t pos = slice_offset(0);
	__be64 word;

	slice = qcow2_slice_get(ti->img, QCOW2_SLICE_L2, slice_offset(0));
	KUNIT_ASSERT_FALSE(test, IS_ERR(slice));
	slice->data[0] = cpu_to_be64(1);
	test_mark_dirty(ti, slice);
	qcow2_slice_put(slice);
	forget(ti, slice_offset(0), SZ_8K);
	KUNIT_EXPECT_FALSE(test, is_cached(ti, 0));
	KUNIT_EXPECT_EQ(test, 0, ti->img->nr_dirty);
	KUNIT_EXPECT_TRUE(test, list_empty(&ti->img->dirty_l2));
	KUNIT_EXPECT_EQ(test, 0, qcow2_commit(ti->img));
	word = cpu_to_be64(2);
	KUNIT_EXPECT_LE(test, 0, kernel_read(ti->filp, &word, sizeof(word),
					     &pos));
	KUNIT_EXPECT_NE(test, 1, be64_to_cpu(word));
}

static void forget_leaves_a_slice_to_its_user(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice, *other;

	slice = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(0));
	forget(ti, slice_offset(0), SZ_8K);
	KUNIT_EXPECT_FALSE(test, is_cached(ti, 0));
	KUNIT_EXPECT_EQ_MSG(test, 1, refcount_read(&slice->refs),
			    "our reference");
	other = test_slice(test, ti, QCOW2_SLICE_REFBLOCK, slice_offset(0));
	KUNIT_EXPECT_PTR_NE(test, slice, other);
}

static void what_was_dirty_is_committed(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_slice *slice;
	loff_t pos = slice_offset(0);
	__be64 word = 0;

	slice = test_slice(test, ti, QCOW2_SLICE_L2, slice_offset(0));
	slice->data[0] = cpu_to_be64(0x1234);
	test_mark_dirty(ti, slice);
	KUNIT_EXPECT_EQ(test, 0, qcow2_commit(ti->img));
	KUNIT_EXPECT_EQ(test, 0, ti->img->nr_dirty);
	KUNIT_EXPECT_FALSE(test, test_bit(QCOW2_SLICE_DIRTY, &slice->flags));
	KUNIT_EXPECT_EQ(test, 2, refcount_read(&slice->refs));
	KUNIT_EXPECT_EQ(test, sizeof(word), kernel_read(ti->filp, &word,
							sizeof(word), &pos));
	KUNIT_EXPECT_EQ(test, 0x1234, be64_to_cpu(word));
}

static struct kunit_case cases[] = {
	KUNIT_CASE(find_does_not_read),
	KUNIT_CASE(get_reads_what_is_there),
	KUNIT_CASE(slice_behind_the_end_of_the_file_is_zero),
	KUNIT_CASE(get_reads_once),
	KUNIT_CASE(slices_of_a_cluster_are_apart),
	KUNIT_CASE(failed_read_is_reported_and_tried_again),
	KUNIT_CASE(a_table_of_two_kinds_is_damage),
	KUNIT_CASE(dirty_slice_is_listed_once),
	KUNIT_CASE(over_the_cap_clean_unused_slices_go),
	KUNIT_CASE(up_to_the_cap_all_stay),
	KUNIT_CASE(slice_that_is_looked_up_outlives_others),
	KUNIT_CASE(dirty_slices_are_not_dropped),
	KUNIT_CASE(slices_in_use_are_not_dropped),
	KUNIT_CASE(dropped_slice_is_read_again),
	KUNIT_CASE(slices_that_were_looked_up_do_not_raise_the_cap),
	KUNIT_CASE(default_cap_is_enough_for_the_disk),
	KUNIT_CASE(lower_cap_drops_at_once),
	KUNIT_CASE(lower_cap_writes_what_is_dirty),
	KUNIT_CASE(shrinker_counts_what_is_clean),
	KUNIT_CASE(shrinker_spares_once_what_was_looked_up),
	KUNIT_CASE(shrinker_leaves_what_is_dirty_or_in_use),
	KUNIT_CASE(forget_drops_a_cluster_and_no_more),
	KUNIT_CASE(forget_drops_dirty_slices_unwritten),
	KUNIT_CASE(forget_leaves_a_slice_to_its_user),
	KUNIT_CASE(what_was_dirty_is_committed),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_cache",
	.test_cases = cases,
};

kunit_test_suite(suite);
