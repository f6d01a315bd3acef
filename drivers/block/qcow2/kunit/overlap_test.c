// SPDX-License-Identifier: GPL-2.0-only
/*
 * overlap.c: what must not be written over.
 */

#include <linux/errno.h>

#include "fixture.h"

static const struct test_layout layout = { 12, 4, false };

#define CLUSTER	4096

static const struct overlap_row {
	const char *name;
	enum test_cluster cluster;
	s32 offset;	/* from the cluster's start */
	u32 bytes;
	enum qcow2_metadata own;
	int ret;
} overlap_rows[] = {
	{ "data on the header", TEST_HEADER, 0, 512, QCOW2_METADATA_NONE,
	  -EUCLEAN },
	{ "data on the end of the header's cluster", TEST_HEADER, CLUSTER - 512,
	  512, QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data on the refcount table", TEST_REFTABLE, 0, CLUSTER,
	  QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data on a refcount block", TEST_REFBLOCK, 512, 512,
	  QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data on the L1 table", TEST_L1, 0, 512, QCOW2_METADATA_NONE,
	  -EUCLEAN },
	{ "data on an L2 table", TEST_L2, 1024, 512, QCOW2_METADATA_NONE,
	  -EUCLEAN },
	{ "data on the end of an L2 table", TEST_L2, CLUSTER - 512, 512,
	  QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data behind an L2 table", TEST_L2, CLUSTER, CLUSTER,
	  QCOW2_METADATA_NONE, 0 },
	{ "data up to far behind", TEST_FREE, 0, 64 * CLUSTER,
	  QCOW2_METADATA_NONE, 0 },
	{ "a long run that ends in an L2 table", TEST_L1, CLUSTER - 512, 1024,
	  QCOW2_METADATA_NONE, -EUCLEAN },
	{ "an L2 table on itself", TEST_L2, 0, CLUSTER, QCOW2_METADATA_L2, 0 },
	{ "an L2 table on a refcount block", TEST_REFBLOCK, 0, CLUSTER,
	  QCOW2_METADATA_L2, -EUCLEAN },
	{ "an L2 table on the header", TEST_HEADER, 0, CLUSTER,
	  QCOW2_METADATA_L2, -EUCLEAN },
	{ "a refcount block on itself", TEST_REFBLOCK, 0, CLUSTER,
	  QCOW2_METADATA_REFBLOCK, 0 },
	{ "a refcount block on an L2 table", TEST_L2, 0, CLUSTER,
	  QCOW2_METADATA_REFBLOCK, -EUCLEAN },
	{ "a refcount block on the L1 table", TEST_L1, 0, CLUSTER,
	  QCOW2_METADATA_REFBLOCK, -EUCLEAN },
};

KUNIT_ARRAY_PARAM_DESC(overlap, overlap_rows, name);

static int check(struct qcow2_image *img, u64 offset, u64 bytes,
		 enum qcow2_metadata own)
{
	int ret;

	mutex_lock(&img->meta_lock);
	ret = qcow2_pre_write_overlap_check(img, offset, bytes, own);
	mutex_unlock(&img->meta_lock);
	return ret;
}

static void writes_over_metadata(struct kunit *test)
{
	const struct overlap_row *row = test->param_value;
	struct test_image *ti = test_image(test, &layout);
	u64 offset = test_cluster_offset(ti, row->cluster) + row->offset;

	KUNIT_EXPECT_EQ(test, row->ret,
			check(ti->img, offset, row->bytes, row->own));
	KUNIT_EXPECT_EQ(test, row->ret != 0, qcow2_image_needs_check(ti->img));
}

/*
 * Internal snapshots: a table of 100 bytes, and two L1 tables of which the
 * second takes two clusters.
 */

#define SNAPSHOT_TABLE	(8 * CLUSTER)
#define ONE_L1		(16 * CLUSTER)
#define OTHER_L1	(32 * CLUSTER)

static const struct snapshot_row {
	const char *name;
	u64 offset;
	u32 bytes;
	enum qcow2_metadata own;
	int ret;
} snapshot_rows[] = {
	{ "data on the snapshot table", SNAPSHOT_TABLE, CLUSTER,
	  QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data in the snapshot table's cluster", SNAPSHOT_TABLE + 2048, 512,
	  QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data in front of the snapshot table", SNAPSHOT_TABLE - CLUSTER,
	  CLUSTER, QCOW2_METADATA_NONE, 0 },
	{ "data behind the snapshot table", SNAPSHOT_TABLE + CLUSTER, CLUSTER,
	  QCOW2_METADATA_NONE, 0 },
	{ "data on an inactive L1 table", ONE_L1, 512, QCOW2_METADATA_NONE,
	  -EUCLEAN },
	{ "data in an inactive L1 table's cluster", ONE_L1 + 2048, 512,
	  QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data on the second cluster of an inactive L1 table",
	  OTHER_L1 + CLUSTER, CLUSTER, QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data between inactive L1 tables", ONE_L1 + CLUSTER,
	  OTHER_L1 - ONE_L1 - CLUSTER, QCOW2_METADATA_NONE, 0 },
	{ "a long run that ends in an inactive L1 table", OTHER_L1 - CLUSTER,
	  CLUSTER + 512, QCOW2_METADATA_NONE, -EUCLEAN },
	{ "data behind all", OTHER_L1 + 2 * CLUSTER, CLUSTER,
	  QCOW2_METADATA_NONE, 0 },
	{ "an L2 table on an inactive L1 table", ONE_L1, CLUSTER,
	  QCOW2_METADATA_L2, -EUCLEAN },
	{ "a refcount block on the snapshot table", SNAPSHOT_TABLE, CLUSTER,
	  QCOW2_METADATA_REFBLOCK, -EUCLEAN },
};

KUNIT_ARRAY_PARAM_DESC(snapshot, snapshot_rows, name);

static void add_snapshots(struct kunit *test, struct qcow2_image *img)
{
	struct qcow2_snapshots *snapshots = qcow2_snapshots_alloc(2);

	KUNIT_ASSERT_NOT_NULL(test, snapshots);
	qcow2_snapshots_add_l1(snapshots, OTHER_L1, CLUSTER / 8 + 2);
	qcow2_snapshots_add_l1(snapshots, ONE_L1, 2);
	qcow2_snapshots_sort(snapshots);
	snapshots->table_offset = SNAPSHOT_TABLE;
	snapshots->table_bytes = 100;
	mutex_lock(&img->meta_lock);
	snapshots = qcow2_snapshots_replace(img, snapshots);
	mutex_unlock(&img->meta_lock);
	KUNIT_EXPECT_NULL(test, snapshots);
}

static void writes_over_snapshots(struct kunit *test)
{
	const struct snapshot_row *row = test->param_value;
	struct test_image *ti = test_image(test, &layout);

	add_snapshots(test, ti->img);
	KUNIT_EXPECT_EQ(test, row->ret,
			check(ti->img, row->offset, row->bytes, row->own));
	KUNIT_EXPECT_EQ(test, row->ret != 0, qcow2_image_needs_check(ti->img));
}

/* An offset in the header says nothing when there are no snapshots. */
static void no_snapshots_no_table(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	ti->img->geo.snapshots_offset = SNAPSHOT_TABLE;
	KUNIT_EXPECT_EQ(test, 0,
			check(ti->img, SNAPSHOT_TABLE - CLUSTER, 4 * CLUSTER,
			      QCOW2_METADATA_NONE));
}

/* The image is opened again to see that others will refuse it. */
static void image_is_marked_corrupt(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
	};
	struct qcow2_reason why = {};
	struct qcow2_image *img;

	KUNIT_EXPECT_EQ(test, -EUCLEAN,
			check(ti->img, 0, 512, QCOW2_METADATA_NONE));
	flush_workqueue(ti->img->wq);
	img = qcow2_image_open(ti->filp, "again", &options, &why);
	KUNIT_ASSERT_TRUE(test, IS_ERR(img));
	KUNIT_EXPECT_EQ(test, -EUCLEAN, PTR_ERR(img));
	KUNIT_EXPECT_NOT_NULL(test, strstr(why.text, "corrupt"));
}

static struct kunit_case overlap_cases[] = {
	KUNIT_CASE_PARAM(writes_over_metadata, overlap_gen_params),
	KUNIT_CASE_PARAM(writes_over_snapshots, snapshot_gen_params),
	KUNIT_CASE(no_snapshots_no_table),
	KUNIT_CASE(image_is_marked_corrupt),
	{ }
};

static struct kunit_suite overlap_suite = {
	.name = "qcow2_overlap",
	.test_cases = overlap_cases,
};

kunit_test_suite(overlap_suite);
