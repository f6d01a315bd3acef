// SPDX-License-Identifier: GPL-2.0-only
/*
 * l1.c: growth of the L1 table.
 */

#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/limits.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <asm/byteorder.h>

#include "fixture.h"

#define MAX_ENTRIES	(SZ_32M / 8)

static int grow(struct test_image *ti, u64 min_entries)
{
	int ret;

	mutex_lock(&ti->img->grow_lock);
	ret = qcow2_grow_l1(ti->img, min_entries);
	mutex_unlock(&ti->img->grow_lock);
	return ret;
}

static void read_file(struct kunit *test, struct test_image *ti, u64 offset,
		      void *buf, size_t bytes)
{
	loff_t pos = offset;

	KUNIT_ASSERT_EQ(test, bytes, kernel_read(ti->filp, buf, bytes, &pos));
}

static u64 refcount(struct kunit *test, struct test_image *ti, u64 cluster)
{
	u32 order = ti->img->geo.refcount_order;
	u64 in_slice = cluster & ((1ULL << ti->img->geo.refslice_bits) - 1);
	struct qcow2_need need = {};
	struct qcow2_slice *slice;
	u64 value;
	int ret;

	do {
		mutex_lock(&ti->img->meta_lock);
		ret = qcow2_refcount_slice(ti->img, cluster, &need, &slice);
		mutex_unlock(&ti->img->meta_lock);
	} while (ret == -EAGAIN && !qcow2_need_meet(ti->img, &need));
	KUNIT_ASSERT_EQ(test, 0, ret);
	value = qcow2_get_refcount(slice->data, order, in_slice);
	qcow2_slice_put(slice);
	qcow2_need_done(&need);
	return value;
}

static bool nothing_waits(struct qcow2_image *img)
{
	bool ret;

	mutex_lock(&img->meta_lock);
	ret = list_empty(&img->unlinked) && list_empty(&img->durable) &&
	      list_empty(&img->draining);
	mutex_unlock(&img->meta_lock);
	return ret;
}

/* Commits until dropped references are gone. */
static void settle(struct kunit *test, struct test_image *ti)
{
	int i;

	KUNIT_ASSERT_EQ(test, 0, qcow2_commit(ti->img));
	for (i = 0; i < 2000 && !nothing_waits(ti->img); i++)
		fsleep(1000);
	KUNIT_ASSERT_TRUE(test, nothing_waits(ti->img));
	KUNIT_ASSERT_EQ(test, 0, qcow2_commit(ti->img));
}

static u64 first_entry(const struct test_image *ti)
{
	return test_cluster_offset(ti, TEST_L2) | QCOW2_OFLAG_COPIED;
}

/*
 * What comes of it.
 */

static const struct grow_row {
	const char *name;
	struct test_layout layout;
	u64 first;		/* grow to so many before */
	u64 min_entries;
	u32 entries;
	u64 cluster;		/* where the new table lies */
} grow_rows[] = {
	{ "one entry more", { 16, 4 }, 0, 3, 3, TEST_FREE },
	{ "by half at least", { 16, 4 }, 100, 101, 150, TEST_FREE + 1 },
	{ "by more if wanted", { 16, 4 }, 100, 160, 160, TEST_FREE + 1 },
	{ "all of a cluster", { 16, 4 }, 0, 8192, 8192, TEST_FREE },
	{ "two clusters", { 16, 4 }, 0, 8193, 8193, TEST_FREE },
	{ "by half up to the limit", { 21, 4 }, MAX_ENTRIES - 9,
	  MAX_ENTRIES - 8, MAX_ENTRIES, TEST_FREE + 16 },
	{ "across refcount slices", { 13, 6 }, 0, 600 * 1024, 600 * 1024,
	  TEST_FREE },
	{ "what is left of the refcount block", { 9, 6 }, 0, 59 * 64, 59 * 64,
	  TEST_FREE },
	/* The block lies in front of it. */
	{ "more than is left of the refcount block", { 9, 6 }, 0, 60 * 64,
	  60 * 64, 64 + 1 },
	{ "all that a refcount block leaves", { 9, 6 }, 0, 63 * 64, 63 * 64,
	  64 + 1 },
	/* Two blocks and a refcount table lie in front of it. */
	{ "longer than a refcount block's range", { 9, 6 }, 0, 64 * 64,
	  64 * 64, 64 + 3 },
	/* 131 blocks for 131 + 3 + 8192 clusters, refcounts of them all. */
	{ "with a longer refcount table", { 9, 6 }, 0, 8192 * 64, 8192 * 64,
	  64 + 131 + 3 },
};

KUNIT_ARRAY_PARAM_DESC(grow, grow_rows, name);

static struct test_image *begin(struct kunit *test, const struct grow_row *row)
{
	struct test_image *ti = test_image(test, &row->layout);

	if (row->first)
		KUNIT_ASSERT_EQ(test, 0, grow(ti, row->first));
	return ti;
}

static void expect_table(struct kunit *test, struct test_image *ti, u32 entries)
{
	struct qcow2_image *img = ti->img;
	u32 i;

	KUNIT_EXPECT_EQ(test, entries, img->geo.l1_entries);
	KUNIT_EXPECT_EQ(test, first_entry(ti), qcow2_l1_entry(img, 0));
	for (i = 1; i < entries; i++)
		if (qcow2_l1_entry(img, i))
			break;
	KUNIT_EXPECT_EQ(test, entries, i);
	KUNIT_EXPECT_EQ(test, 0, qcow2_l1_entry(img, entries));
	KUNIT_EXPECT_EQ(test, 0, qcow2_l1_entry(img, U32_MAX));
}

static void expect_file(struct kunit *test, struct test_image *ti, u32 entries)
{
	struct qcow2_disk_header h;
	__be64 *table;
	u32 i;

	read_file(test, ti, 0, &h, sizeof(h));
	KUNIT_EXPECT_EQ(test, entries, be32_to_cpu(h.l1_size));
	KUNIT_ASSERT_EQ(test, ti->img->geo.l1_offset,
			be64_to_cpu(h.l1_table_offset));
	table = kvmalloc_array(entries, sizeof(*table), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, table);
	read_file(test, ti, ti->img->geo.l1_offset, table,
		  entries * sizeof(*table));
	for (i = 1; i < entries; i++)
		if (table[i])
			break;
	KUNIT_EXPECT_EQ(test, entries, i);
	KUNIT_EXPECT_EQ(test, first_entry(ti), be64_to_cpu(table[0]));
	kvfree(table);
}

static void expect_refcounts(struct kunit *test, struct test_image *ti,
			     u64 first, u64 nr, u64 value)
{
	u64 i;

	for (i = first; i < first + nr; i++)
		if (refcount(test, ti, i) != value)
			break;
	KUNIT_EXPECT_EQ(test, first + nr, i);
}

static void table_grows(struct kunit *test)
{
	const struct grow_row *row = test->param_value;
	struct test_image *ti = begin(test, row);
	const struct qcow2_geometry *geo = &ti->img->geo;
	u32 bits = geo->cluster_bits;
	u64 old = geo->l1_offset >> bits;
	u64 old_nr = qcow2_clusters_of(geo, geo->l1_entries * sizeof(u64));
	u64 new, new_nr = qcow2_clusters_of(geo, row->entries * sizeof(u64));

	KUNIT_ASSERT_EQ(test, 0, grow(ti, row->min_entries));
	new = geo->l1_offset >> bits;
	KUNIT_EXPECT_EQ(test, row->cluster, new);
	expect_table(test, ti, row->entries);
	expect_file(test, ti, row->entries);
	expect_refcounts(test, ti, old, old_nr, 1);
	settle(test, ti);
	expect_refcounts(test, ti, old, old_nr, 0);
	expect_refcounts(test, ti, new, new_nr, 1);
	expect_file(test, ti, row->entries);
	KUNIT_EXPECT_FALSE(test, qcow2_image_needs_check(ti->img));
}

static void others_can_open_it(struct kunit *test)
{
	const struct grow_row *row = test->param_value;
	struct test_image *ti = begin(test, row);
	const struct qcow2_options options = {};
	struct qcow2_reason why = {};
	struct qcow2_image *img;

	KUNIT_ASSERT_EQ(test, 0, grow(ti, row->min_entries));
	img = qcow2_image_open(ti->filp, "again", &options, &why);
	KUNIT_ASSERT_FALSE_MSG(test, IS_ERR(img), "%s", why.text);
	KUNIT_EXPECT_EQ(test, row->entries, img->geo.l1_entries);
	KUNIT_EXPECT_EQ(test, ti->img->geo.l1_offset, img->geo.l1_offset);
	KUNIT_EXPECT_EQ(test, first_entry(ti), qcow2_l1_entry(img, 0));
	KUNIT_EXPECT_EQ(test, ti->img->geo.reftable_offset,
			img->geo.reftable_offset);
	qcow2_image_close(img);
}

static const struct test_layout layout = { 16, 4 };

static void long_enough(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u64 min_entries;

	for (min_entries = 0; min_entries <= 2; min_entries++)
		KUNIT_EXPECT_EQ(test, 0, grow(ti, min_entries));
	KUNIT_EXPECT_EQ(test, 0, ti->writes);
	expect_table(test, ti, 2);
}

static int overlap(struct test_image *ti, u64 offset)
{
	int ret;

	mutex_lock(&ti->img->meta_lock);
	ret = qcow2_pre_write_overlap_check(ti->img, offset, 512,
					    QCOW2_METADATA_NONE);
	mutex_unlock(&ti->img->meta_lock);
	return ret;
}

static void new_place_is_protected(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	KUNIT_ASSERT_EQ(test, 0, grow(ti, 8193));
	KUNIT_EXPECT_EQ(test, 0,
			overlap(ti, test_cluster_offset(ti, TEST_L1)));
	/* The second of its clusters. */
	KUNIT_EXPECT_EQ(test, -EUCLEAN,
			overlap(ti, test_cluster_offset(ti, TEST_FREE + 1)));
}

/*
 * Who needs it.
 */

static int own_slice(struct test_image *ti, u64 guest_offset,
		     struct qcow2_need *need)
{
	struct qcow2_slice *slice;
	int ret;

	mutex_lock(&ti->img->meta_lock);
	ret = qcow2_own_l2_slice(ti->img, guest_offset, need, &slice);
	mutex_unlock(&ti->img->meta_lock);
	if (!ret)
		qcow2_slice_put(slice);
	return ret;
}

static void table_is_needed_behind_its_end(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u64 guest_offset = 7ULL << (13 + 16);
	struct qcow2_need need = {};
	struct qcow2_extent extent;

	KUNIT_ASSERT_EQ(test, 0, qcow2_map(ti->img, guest_offset, 512,
					   &extent));
	KUNIT_EXPECT_EQ(test, QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN, extent.type);
	KUNIT_EXPECT_EQ(test, -EAGAIN, own_slice(ti, guest_offset, &need));
	KUNIT_EXPECT_EQ(test, QCOW2_NEED_L1, need.kind);
	KUNIT_EXPECT_EQ(test, 7, need.index);
	KUNIT_EXPECT_EQ(test, 0, qcow2_need_meet(ti->img, &need));
	KUNIT_EXPECT_EQ(test, 8, ti->img->geo.l1_entries);
	KUNIT_EXPECT_EQ(test, -EAGAIN, own_slice(ti, guest_offset, &need));
	KUNIT_EXPECT_EQ(test, QCOW2_NEED_L2_TABLE, need.kind);
	KUNIT_EXPECT_EQ(test, 0, qcow2_need_meet(ti->img, &need));
	KUNIT_EXPECT_NE(test, 0, qcow2_l1_entry(ti->img, 7));
	while (own_slice(ti, guest_offset, &need) == -EAGAIN) {
		KUNIT_ASSERT_EQ(test, QCOW2_NEED_SLICE, need.kind);
		KUNIT_ASSERT_EQ(test, 0, qcow2_need_meet(ti->img, &need));
	}
	qcow2_need_done(&need);
}

/*
 * When it does not work.
 */

static const struct limit_row {
	const char *name;
	u64 min_entries;
	u64 file_bytes;		/* that the file may have, 0 for enough */
	int ret;
} limit_rows[] = {
	{ "the longest that there is", MAX_ENTRIES, 0, 0 },
	{ "longer than any", MAX_ENTRIES + 1, 0, -EFBIG },
	{ "number of 33 bits", BIT_ULL(32) + 3, 0, -EFBIG },
	{ "the greatest number", U64_MAX, 0, -EFBIG },
	{ "just fits into the file", 8193, (TEST_FREE + 2) << 16, 0 },
	{ "does not fit into the file", 8193, ((TEST_FREE + 2) << 16) - 1,
	  -ENOSPC },
	{ "is too long for any file", MAX_ENTRIES, SZ_16M, -ENOSPC },
};

KUNIT_ARRAY_PARAM_DESC(limit, limit_rows, name);

static struct {
	struct super_block *sb;
	loff_t max_bytes;
} limited;

static void restore_limit(void *unused)
{
	limited.sb->s_maxbytes = limited.max_bytes;
}

static void expect_old(struct kunit *test, struct test_image *ti)
{
	expect_table(test, ti, 2);
	KUNIT_EXPECT_EQ(test, test_cluster_offset(ti, TEST_L1),
			ti->img->geo.l1_offset);
}

static void there_are_limits(struct kunit *test)
{
	const struct limit_row *row = test->param_value;
	struct test_image *ti = test_image(test, &layout);

	limited.sb = file_inode(ti->filp)->i_sb;
	limited.max_bytes = limited.sb->s_maxbytes;
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, restore_limit, NULL));
	if (row->file_bytes)
		limited.sb->s_maxbytes = row->file_bytes;
	KUNIT_EXPECT_EQ(test, row->ret, grow(ti, row->min_entries));
	if (!row->ret)
		return;
	expect_old(test, ti);
	expect_file(test, ti, 2);
	KUNIT_EXPECT_EQ(test, 0, ti->writes);
	settle(test, ti);
	expect_refcounts(test, ti, 0, TEST_FREE, 1);
	expect_refcounts(test, ti, TEST_FREE, 600, 0);
}

/**
 * struct error_row - an operation on the file that fails
 * @name: which
 * @big: with a table that needs refcount blocks of its own
 * @read_error: what reads of the file give
 * @fault: what else to do to the file
 * @blocks: refcount blocks that there are afterwards all the same
 * @ret: what growth gives
 * @fatal: nobody knows what the file holds then, so the image is not used more
 */
static const struct error_row {
	const char *name;
	bool big;
	int read_error;
	struct test_fault fault;
	int ret;
	bool fatal;
	u32 blocks;
} error_rows[] = {
	{ "read of the refcounts", false, -EIO, {}, -EIO },
	{ "write of the table", false, 0, { .write = 1, .error = -EIO }, -EIO },
	{ "write of its second part", false, 0, { .write = 2, .error = -EIO },
	  -EIO },
	{ "no space for the table", false, 0, { .write = 1, .error = -ENOSPC },
	  -ENOSPC },
	{ "no space for the refcounts", false, 0,
	  { .write = 3, .error = -ENOSPC }, -ENOSPC },
	{ "write of the refcounts", false, 0, { .write = 3, .error = -EIO },
	  -EIO, true },
	{ "flush of the table", false, 0, { .sync = 1, .error = -EIO }, -EIO,
	  true },
	{ "write of the header", false, 0, { .write = 4, .error = -EIO }, -EIO,
	  true },
	{ "flush of the header", false, 0, { .sync = 2, .error = -EIO }, -EIO,
	  true },

	{ "area: write of the refcount blocks", true, 0,
	  { .write = 1, .error = -EIO }, -EIO },
	{ "area: write of the refcount table", true, 0,
	  { .write = 2, .error = -ENOSPC }, -ENOSPC },
	{ "area: first flush", true, 0, { .sync = 1, .error = -EIO }, -EIO,
	  true },
	{ "area: first write of the header", true, 0,
	  { .write = 3, .error = -EIO }, -EIO, true },
	{ "area: write of the table", true, 0, { .write = 4, .error = -EIO },
	  -EIO, .blocks = 2 },
	{ "area: no space for the table", true, 0,
	  { .write = 4, .error = -ENOSPC }, -ENOSPC, .blocks = 2 },
	{ "area: second write of the header", true, 0,
	  { .write = 5, .error = -EIO }, -EIO, true },
};

KUNIT_ARRAY_PARAM_DESC(error, error_rows, name);

static u64 sum_of_refcounts(struct kunit *test, struct test_image *ti, u64 nr)
{
	u64 i, sum = 0;

	for (i = 0; i < nr; i++)
		sum += refcount(test, ti, i);
	return sum;
}

static void file_fails(struct kunit *test)
{
	static const struct test_layout small = { 9, 6 };
	const struct error_row *row = test->param_value;
	struct test_image *ti = test_image(test, row->big ? &small : &layout);
	/* 65 pages and a bit, in two writes; or 64 clusters, in one. */
	u64 min_entries = row->big ? 64 * 64 : 65 * 512 + 1;

	ti->read_error = row->read_error;
	ti->fault = row->fault;
	KUNIT_EXPECT_EQ(test, row->ret, grow(ti, min_entries));
	KUNIT_EXPECT_EQ(test, row->fatal, qcow2_image_needs_check(ti->img));
	ti->read_error = 0;
	memset(&ti->fault, 0, sizeof(ti->fault));
	expect_old(test, ti);
	if (row->fatal)
		return;
	expect_file(test, ti, 2);
	settle(test, ti);
	/* The refcount table may have moved, but no cluster may be lost. */
	KUNIT_EXPECT_EQ(test, row->blocks + TEST_FREE,
			sum_of_refcounts(test, ti, row->blocks ? 192 : 64));

	KUNIT_EXPECT_EQ(test, 0, grow(ti, min_entries));
	expect_table(test, ti, min_entries);
	expect_file(test, ti, min_entries);
	settle(test, ti);
	if (!row->big)
		KUNIT_EXPECT_EQ(test, TEST_FREE + 4,
				sum_of_refcounts(test, ti, 64));
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(table_grows, grow_gen_params),
	KUNIT_CASE_PARAM(others_can_open_it, grow_gen_params),
	KUNIT_CASE(long_enough),
	KUNIT_CASE(new_place_is_protected),
	KUNIT_CASE(table_is_needed_behind_its_end),
	KUNIT_CASE_PARAM(there_are_limits, limit_gen_params),
	KUNIT_CASE_PARAM(file_fails, error_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_l1",
	.test_cases = cases,
};

kunit_test_suite(suite);
