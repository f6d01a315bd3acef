// SPDX-License-Identifier: GPL-2.0-only
/*
 * refcount.c: packing at every width, and where a cluster's refcount is.
 */

#include <linux/errno.h>
#include <linux/hash.h>
#include <linux/limits.h>
#include <linux/string.h>

#include "fixture.h"

#define BLOCK_BYTES	512

/*
 * Packing.
 */

static const struct width {
	const char *name;
	u32 order;
	u64 max;
} widths[] = {
	{ "1 bit", 0, 1 },
	{ "2 bits", 1, 3 },
	{ "4 bits", 2, 15 },
	{ "8 bits", 3, 255 },
	{ "16 bits", 4, 65535 },
	{ "32 bits", 5, 4294967295ULL },
	{ "64 bits", 6, 18446744073709551615ULL },
};

KUNIT_ARRAY_PARAM_DESC(widths, widths, name);

static u32 refcounts_in_block(const struct width *row)
{
	return BLOCK_BYTES * 8 >> row->order;
}

static u8 *new_block(struct kunit *test, u8 fill)
{
	u8 *block = kunit_kzalloc(test, BLOCK_BYTES, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, block);
	memset(block, fill, BLOCK_BYTES);
	return block;
}

static void greatest_refcount(struct kunit *test)
{
	const struct width *row = test->param_value;

	KUNIT_EXPECT_EQ(test, row->max, qcow2_max_refcount(row->order));
}

static void what_was_set_is_got(struct kunit *test)
{
	const struct width *row = test->param_value;
	u8 *block = new_block(test, 0);
	u32 i, nr = refcounts_in_block(row);

	for (i = 0; i < nr; i++)
		qcow2_set_refcount(block, row->order, i,
				   hash_64(i, 64) & row->max);
	for (i = 0; i < nr; i++)
		KUNIT_EXPECT_EQ_MSG(test, hash_64(i, 64) & row->max,
				    qcow2_get_refcount(block, row->order, i),
				    "index %u", i);
}

/* Only the bits of refcount @index differ from @fill. */
static void expect_neighbours(struct kunit *test, const struct width *row,
			      const u8 *block, u8 fill, u32 index)
{
	u32 first_bit = index << row->order;
	u32 bits = 1U << row->order;
	u32 i;

	for (i = 0; i < BLOCK_BYTES; i++) {
		u8 mine = 0;
		u32 bit;

		for (bit = 0; bit < 8; bit++)
			if (i * 8 + bit - first_bit < bits)
				mine |= BIT(bit);
		KUNIT_EXPECT_EQ_MSG(test, fill & ~mine, block[i] & ~mine,
				    "byte %u, after a change of index %u",
				    i, index);
	}
}

static void expect_only_changes(struct kunit *test, const struct width *row,
				u8 fill, u32 index, u64 value)
{
	u8 *block = new_block(test, fill);

	qcow2_set_refcount(block, row->order, index, value);
	KUNIT_EXPECT_EQ_MSG(test, value,
			    qcow2_get_refcount(block, row->order, index),
			    "index %u", index);
	expect_neighbours(test, row, block, fill, index);
	kunit_kfree(test, block);
}

static void neighbours_are_left_alone(struct kunit *test)
{
	const struct width *row = test->param_value;
	u32 i, nr = refcounts_in_block(row);

	for (i = 0; i < nr; i += i < 9 || i > nr - 10 ? 1 : nr / 16) {
		expect_only_changes(test, row, 0x00, i, row->max);
		expect_only_changes(test, row, 0xff, i, 0);
		expect_only_changes(test, row, 0x5a, i, row->max);
		expect_only_changes(test, row, 0x5a, i, 0);
	}
	expect_only_changes(test, row, 0x5a, nr - 1, row->max);
}

static const struct packed {
	const char *name;
	u32 order;
	u32 index;
	u64 value;
	u32 pos;
	u32 bytes;
	u8 disk[8];
} packed_rows[] = {
	{ "1 bit, first", 0, 0, 1, 0, 1, { 0x01 } },
	{ "1 bit, second", 0, 1, 1, 0, 1, { 0x02 } },
	{ "1 bit, last of the byte", 0, 7, 1, 0, 1, { 0x80 } },
	{ "1 bit, next byte", 0, 8, 1, 1, 1, { 0x01 } },
	{ "2 bits, first", 1, 0, 1, 0, 1, { 0x01 } },
	{ "2 bits, second", 1, 1, 2, 0, 1, { 0x08 } },
	{ "2 bits, last of the byte", 1, 3, 3, 0, 1, { 0xc0 } },
	{ "2 bits, next byte", 1, 4, 1, 1, 1, { 0x01 } },
	{ "4 bits, first", 2, 0, 0xa, 0, 1, { 0x0a } },
	{ "4 bits, second", 2, 1, 0xa, 0, 1, { 0xa0 } },
	{ "4 bits, next byte", 2, 2, 0xf, 1, 1, { 0x0f } },
	{ "8 bits", 3, 2, 0xfe, 2, 1, { 0xfe } },
	{ "16 bits", 4, 1, 0x1234, 2, 2, { 0x12, 0x34 } },
	{ "32 bits", 5, 1, 0x12345678, 4, 4, { 0x12, 0x34, 0x56, 0x78 } },
	{ "64 bits", 6, 1, 0x0123456789abcdef, 8, 8,
	  { 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef } },
};

KUNIT_ARRAY_PARAM_DESC(packed, packed_rows, name);

static void bytes_on_disk(struct kunit *test)
{
	const struct packed *row = test->param_value;
	u8 *block = new_block(test, 0);
	u8 *want = new_block(test, 0);

	memcpy(want + row->pos, row->disk, row->bytes);
	KUNIT_EXPECT_EQ(test, row->value,
			qcow2_get_refcount(want, row->order, row->index));
	qcow2_set_refcount(block, row->order, row->index, row->value);
	KUNIT_EXPECT_MEMEQ(test, want, block, BLOCK_BYTES);
}

/*
 * Finding a refcount: blocks of 1024 refcounts in two slices of 512.
 */

static const struct test_layout layout = { 13, 6, false };

static int find(struct test_image *ti, u64 cluster, struct qcow2_need *need,
		struct qcow2_slice **slice)
{
	int ret;

	mutex_lock(&ti->img->meta_lock);
	ret = qcow2_refcount_slice(ti->img, cluster, need, slice);
	mutex_unlock(&ti->img->meta_lock);
	return ret;
}

static const struct find_row {
	const char *name;
	u64 cluster;
	u64 reftable_1;		/* second entry of the refcount table */
	bool load;
	int ret;
	enum qcow2_need_kind need;
	u64 where;		/* offset of the slice, or index of what lacks */
} find_rows[] = {
	{ "first cluster", 0, 0, true, 0, 0, TEST_REFBLOCK << 13 },
	{ "last cluster of a slice", 511, 0, true, 0, 0, TEST_REFBLOCK << 13 },
	{ "first cluster of the next slice", 512, 0, true, 0, 0,
	  (TEST_REFBLOCK << 13) + 4096 },
	{ "last cluster of the block", 1023, 0, true, 0, 0,
	  (TEST_REFBLOCK << 13) + 4096 },
	{ "next block", 1024, 9 << 13, true, 0, 0, 9 << 13 },
	{ "slice that is not cached", 512, 0, false, -EAGAIN, QCOW2_NEED_SLICE,
	  (TEST_REFBLOCK << 13) + 4096 },
	{ "no block", 1024, 0, false, -EAGAIN, QCOW2_NEED_REFBLOCK, 1 },
	{ "reserved bits are no block", 1024, 0x1ff, false, -EAGAIN,
	  QCOW2_NEED_REFBLOCK, 1 },
	{ "last entry of the table", 1024 * 1024 - 1, 0, false, -EAGAIN,
	  QCOW2_NEED_REFBLOCK, 1023 },
	{ "table too short", 1024 * 1024, 0, false, -EAGAIN,
	  QCOW2_NEED_REFTABLE, 1024 },
	{ "unaligned block", 1024, 9 << 13 | 512, false, -EUCLEAN },
};

KUNIT_ARRAY_PARAM_DESC(find, find_rows, name);

static void refcount_is_found(struct kunit *test)
{
	const struct find_row *row = test->param_value;
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_need need = {};
	struct qcow2_slice *slice;
	int ret;

	ti->img->reftable[1] = row->reftable_1;
	if (row->load)
		test_slice(test, ti, QCOW2_SLICE_REFBLOCK, row->where);
	ret = find(ti, row->cluster, &need, &slice);
	KUNIT_EXPECT_EQ(test, row->ret, ret);
	KUNIT_EXPECT_EQ(test, row->need, need.kind);
	KUNIT_EXPECT_EQ(test, row->ret == -EUCLEAN,
			qcow2_image_needs_check(ti->img));
	if (!ret) {
		KUNIT_EXPECT_EQ(test, row->where, slice->offset);
		KUNIT_EXPECT_EQ(test, QCOW2_SLICE_REFBLOCK, slice->kind);
		qcow2_slice_put(slice);
	} else if (need.kind == QCOW2_NEED_SLICE) {
		KUNIT_EXPECT_EQ(test, row->where, need.offset);
		KUNIT_EXPECT_EQ(test, QCOW2_SLICE_REFBLOCK, need.slice_kind);
	} else if (need.kind) {
		KUNIT_EXPECT_EQ(test, row->where, need.index);
	}
}

static void an_l2_table_is_no_refcount_block(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_need need = {};
	struct qcow2_slice *slice;

	test_slice(test, ti, QCOW2_SLICE_L2, test_cluster_offset(ti, TEST_L2));
	ti->img->reftable[1] = test_cluster_offset(ti, TEST_L2);
	KUNIT_EXPECT_EQ(test, -EUCLEAN, find(ti, 1024, &need, &slice));
	KUNIT_EXPECT_TRUE(test, qcow2_image_needs_check(ti->img));
}

/*
 * Lowering a refcount.
 */

static const struct dec_row {
	const char *name;
	u64 before;
	u64 hint;
	int ret;
	u64 after;
	u64 hint_after;
	bool forgotten;
} dec_rows[] = {
	{ "2 to 1", 2, 900, 0, 1, 900, false },
	{ "1 to 0 lowers the hint", 1, 900, 0, 0, 600, true },
	{ "1 to 0 behind the hint", 1, 10, 0, 0, 10, true },
	{ "the greatest", U64_MAX, 900, 0, U64_MAX - 1, 900, false },
	{ "0", 0, 900, -EUCLEAN, 0, 900, false },
};

KUNIT_ARRAY_PARAM_DESC(dec, dec_rows, name);

static void refcount_is_lowered(struct kunit *test)
{
	const struct dec_row *row = test->param_value;
	struct test_image *ti = test_image(test, &layout);
	u64 table = test_cluster_offset(ti, 600);
	struct qcow2_slice *slice;
	int ret;

	/* The cluster held an L2 table, of which the second slice is cached. */
	qcow2_slice_put(qcow2_slice_get(ti->img, QCOW2_SLICE_L2, table + 4096));
	slice = test_slice(test, ti, QCOW2_SLICE_REFBLOCK,
			   test_cluster_offset(ti, TEST_REFBLOCK) + 4096);
	ti->img->free.hint = row->hint;

	mutex_lock(&ti->img->meta_lock);
	qcow2_set_refcount(slice->data, 6, 600 - 512, row->before);
	ret = qcow2_refcount_dec(ti->img, 600, slice);
	mutex_unlock(&ti->img->meta_lock);

	KUNIT_EXPECT_EQ(test, row->ret, ret);
	KUNIT_EXPECT_EQ(test, row->after,
			qcow2_get_refcount(slice->data, 6, 600 - 512));
	KUNIT_EXPECT_EQ(test, row->hint_after,
			qcow2_first_candidate(ti->img));
	KUNIT_EXPECT_EQ(test, !row->ret,
			test_bit(QCOW2_SLICE_DIRTY, &slice->flags));
	KUNIT_EXPECT_EQ(test, !!row->ret, qcow2_image_needs_check(ti->img));
	KUNIT_EXPECT_EQ_MSG(test, !row->forgotten,
			    test_is_cached(ti, QCOW2_SLICE_L2, table + 4096),
			    "slice of the cluster that was freed");
}

/*
 * Raising a refcount.
 */

static const struct inc_row {
	const char *name;
	u32 order;
	u64 before;
	int ret;
	u64 after;
} inc_rows[] = {
	{ "1 to 2", 6, 1, 0, 2 },
	{ "1 bit is full", 0, 1, -EOVERFLOW, 1 },
	{ "2 bits become full", 1, 2, 0, 3 },
	{ "2 bits are full", 1, 3, -EOVERFLOW, 3 },
	{ "16 bits become full", 4, 65534, 0, 65535 },
	{ "16 bits are full", 4, 65535, -EOVERFLOW, 65535 },
	{ "64 bits become full", 6, U64_MAX - 1, 0, U64_MAX },
	{ "64 bits are full", 6, U64_MAX, -EOVERFLOW, U64_MAX },
	{ "0 of 1 bit", 0, 0, -EUCLEAN, 0 },
	{ "0 of 64 bits", 6, 0, -EUCLEAN, 0 },
};

KUNIT_ARRAY_PARAM_DESC(inc, inc_rows, name);

static void refcount_is_raised(struct kunit *test)
{
	const struct inc_row *row = test->param_value;
	const struct test_layout wanted = { 13, row->order, false };
	struct test_image *ti = test_image(test, &wanted);
	struct qcow2_slice *slice;
	int ret;

	slice = test_slice(test, ti, QCOW2_SLICE_REFBLOCK,
			   test_cluster_offset(ti, TEST_REFBLOCK));
	mutex_lock(&ti->img->meta_lock);
	qcow2_set_refcount(slice->data, row->order, 100, row->before);
	ret = qcow2_refcount_inc(ti->img, 100, slice);
	mutex_unlock(&ti->img->meta_lock);

	KUNIT_EXPECT_EQ(test, row->ret, ret);
	KUNIT_EXPECT_EQ(test, row->after,
			qcow2_get_refcount(slice->data, row->order, 100));
	KUNIT_EXPECT_EQ(test, !row->ret,
			test_bit(QCOW2_SLICE_DIRTY, &slice->flags));
	KUNIT_EXPECT_EQ(test, row->ret == -EUCLEAN,
			qcow2_image_needs_check(ti->img));
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(greatest_refcount, widths_gen_params),
	KUNIT_CASE_PARAM(what_was_set_is_got, widths_gen_params),
	KUNIT_CASE_PARAM(neighbours_are_left_alone, widths_gen_params),
	KUNIT_CASE_PARAM(bytes_on_disk, packed_gen_params),
	KUNIT_CASE_PARAM(refcount_is_found, find_gen_params),
	KUNIT_CASE(an_l2_table_is_no_refcount_block),
	KUNIT_CASE_PARAM(refcount_is_lowered, dec_gen_params),
	KUNIT_CASE_PARAM(refcount_is_raised, inc_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_refcount",
	.test_cases = cases,
};

kunit_test_suite(suite);
