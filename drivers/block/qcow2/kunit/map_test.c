// SPDX-License-Identifier: GPL-2.0-only
/*
 * map.c: what entries mean, where they lie, and the extents that reads get.
 */

#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/string.h>
#include <linux/unaligned.h>

#include "fixture.h"

#define COPIED		QCOW2_OFLAG_COPIED
#define COMPRESSED	QCOW2_OFLAG_COMPRESSED
#define ZERO		QCOW2_OFLAG_ZERO
/* Host cluster @n, with clusters of 64 KiB. */
#define HOST(n)		((u64)(n) << 16)

static const struct test_layout standard = { 16, 4, false };
static const struct test_layout extended = { 16, 4, true };

static const struct test_layout *layout_of(bool extl2)
{
	return extl2 ? &extended : &standard;
}

/*
 * Cluster types.
 */

static const struct cluster_row {
	const char *name;
	bool extl2;
	u64 word;
	enum qcow2_cluster_type type;
} cluster_rows[] = {
	{ "nothing", false, 0, QCOW2_CLUSTER_UNALLOCATED },
	{ "offset", false, HOST(7), QCOW2_CLUSTER_NORMAL },
	{ "smallest offset", false, BIT_ULL(9), QCOW2_CLUSTER_NORMAL },
	{ "greatest offset", false, BIT_ULL(55), QCOW2_CLUSTER_NORMAL },
	{ "ZERO", false, ZERO, QCOW2_CLUSTER_ZERO_PLAIN },
	{ "ZERO, offset", false, ZERO | HOST(7), QCOW2_CLUSTER_ZERO_ALLOC },
	{ "COMPRESSED", false, COMPRESSED, QCOW2_CLUSTER_COMPRESSED },
	{ "COMPRESSED, offset", false, COMPRESSED | 0x12345,
	  QCOW2_CLUSTER_COMPRESSED },
	{ "COMPRESSED with an odd offset is not ZERO", false,
	  COMPRESSED | ZERO, QCOW2_CLUSTER_COMPRESSED },
	{ "reserved bits are no offset", false,
	  GENMASK_ULL(61, 56) | GENMASK_ULL(8, 1), QCOW2_CLUSTER_UNALLOCATED },

	{ "extended: nothing", true, 0, QCOW2_CLUSTER_UNALLOCATED },
	{ "extended: offset", true, HOST(7), QCOW2_CLUSTER_NORMAL },
	{ "extended: bit 0 is reserved", true, ZERO,
	  QCOW2_CLUSTER_UNALLOCATED },
	{ "extended: offset, bit 0 is reserved", true, ZERO | HOST(7),
	  QCOW2_CLUSTER_NORMAL },
	{ "extended: COMPRESSED", true, COMPRESSED | 0x12345,
	  QCOW2_CLUSTER_COMPRESSED },
};

KUNIT_ARRAY_PARAM_DESC(cluster, cluster_rows, name);

static void cluster_type(struct kunit *test)
{
	const struct cluster_row *row = test->param_value;
	struct qcow2_geometry geo;

	test_geometry(test, &geo, layout_of(row->extl2));
	KUNIT_EXPECT_EQ(test, row->type,
			qcow2_get_cluster_type(&geo, row->word));
	KUNIT_EXPECT_EQ_MSG(test, row->type,
			    qcow2_get_cluster_type(&geo, row->word | COPIED),
			    "with COPIED");
}

/*
 * Subcluster types.
 */

static const struct subcluster_row {
	const char *name;
	bool extl2;
	u64 word;
	bool alloc;
	bool zero;
	enum qcow2_subcluster_type type;
} subcluster_rows[] = {
	{ "nothing", false, 0, false, false,
	  QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN },
	{ "offset", false, HOST(7), false, false, QCOW2_SUBCLUSTER_NORMAL },
	{ "ZERO", false, ZERO, false, false, QCOW2_SUBCLUSTER_ZERO_PLAIN },
	{ "ZERO, offset", false, ZERO | HOST(7), false, false,
	  QCOW2_SUBCLUSTER_ZERO_ALLOC },
	{ "COMPRESSED", false, COMPRESSED | 0x12345, false, false,
	  QCOW2_SUBCLUSTER_COMPRESSED },

	{ "extended: nothing", true, 0, false, false,
	  QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN },
	{ "extended: zero bit", true, 0, false, true,
	  QCOW2_SUBCLUSTER_ZERO_PLAIN },
	{ "extended: alloc bit without offset", true, 0, true, false,
	  QCOW2_SUBCLUSTER_INVALID },
	{ "extended: both bits without offset", true, 0, true, true,
	  QCOW2_SUBCLUSTER_INVALID },
	{ "extended: offset", true, HOST(7), false, false,
	  QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC },
	{ "extended: offset, zero bit", true, HOST(7), false, true,
	  QCOW2_SUBCLUSTER_ZERO_ALLOC },
	{ "extended: offset, alloc bit", true, HOST(7), true, false,
	  QCOW2_SUBCLUSTER_NORMAL },
	{ "extended: offset, both bits", true, HOST(7), true, true,
	  QCOW2_SUBCLUSTER_INVALID },
	{ "extended: bit 0 of the entry is reserved", true, HOST(7) | ZERO,
	  true, false, QCOW2_SUBCLUSTER_NORMAL },
	{ "extended: COMPRESSED", true, COMPRESSED | 0x12345, false, false,
	  QCOW2_SUBCLUSTER_COMPRESSED },
};

KUNIT_ARRAY_PARAM_DESC(subcluster, subcluster_rows, name);

/* The bits of every other subcluster are what this one's are not. */
static u64 bitmap_of(const struct subcluster_row *row, u32 subcluster)
{
	u64 alloc = BIT_ULL(subcluster), zero = BIT_ULL(subcluster + 32);

	if (!row->extl2 || row->word & COMPRESSED)
		return 0;
	return (row->alloc ? alloc : U32_MAX & ~alloc) |
	       (row->zero ? zero : ~(u64)U32_MAX & ~zero);
}

static void subcluster_type(struct kunit *test)
{
	const struct subcluster_row *row = test->param_value;
	struct qcow2_l2_entry entry = { .word = row->word };
	struct qcow2_geometry geo;
	u32 i;

	test_geometry(test, &geo, layout_of(row->extl2));
	for (i = 0; i < geo.subclusters; i++) {
		entry.bitmap = bitmap_of(row, i);
		entry.word = row->word;
		KUNIT_EXPECT_EQ_MSG(test, row->type,
				    qcow2_get_subcluster_type(&geo, entry, i),
				    "subcluster %u", i);
		entry.word |= COPIED;
		KUNIT_EXPECT_EQ_MSG(test, row->type,
				    qcow2_get_subcluster_type(&geo, entry, i),
				    "subcluster %u with COPIED", i);
	}
}

/*
 * Damaged entries.
 */

static const struct check_row {
	const char *name;
	u32 version;
	bool extl2;
	struct qcow2_l2_entry entry;
	int ret;
} check_rows[] = {
	{ "nothing", 3, false, { 0 }, 0 },
	{ "aligned offset", 3, false, { HOST(7) }, 0 },
	{ "greatest offset", 3, false, { GENMASK_ULL(55, 16) }, 0 },
	{ "offset of half a cluster", 3, false, { HOST(7) | BIT(15) },
	  -EUCLEAN },
	{ "offset of 512", 3, false, { HOST(7) | BIT(9) }, -EUCLEAN },
	{ "ZERO with unaligned offset", 3, false, { ZERO | BIT(9) }, -EUCLEAN },
	{ "ZERO", 3, false, { ZERO }, 0 },
	{ "ZERO, offset", 3, false, { ZERO | HOST(7) }, 0 },
	{ "ZERO in version 2", 2, false, { ZERO }, -EUCLEAN },
	{ "ZERO, offset in version 2", 2, false, { ZERO | HOST(7) }, -EUCLEAN },
	{ "offset in version 2", 2, false, { HOST(7) }, 0 },
	{ "COMPRESSED, unaligned", 3, false, { COMPRESSED | 0x12345 }, 0 },
	{ "COMPRESSED, odd, in version 2", 2, false, { COMPRESSED | 0x12345 },
	  0 },
	{ "reserved bits", 3, false, { GENMASK_ULL(61, 56) | 0x1fe }, 0 },

	{ "extended: nothing", 3, true, { 0, 0 }, 0 },
	{ "extended: all zero bits", 3, true, { 0, GENMASK_ULL(63, 32) }, 0 },
	{ "extended: first alloc bit without offset", 3, true,
	  { 0, BIT_ULL(0) }, -EUCLEAN },
	{ "extended: last alloc bit without offset", 3, true,
	  { 0, BIT_ULL(31) }, -EUCLEAN },
	{ "extended: all alloc bits", 3, true, { HOST(7), U32_MAX }, 0 },
	{ "extended: either bit", 3, true,
	  { HOST(7), 0xaaaaaaaa55555555 }, 0 },
	{ "extended: both first bits", 3, true,
	  { HOST(7), BIT_ULL(0) | BIT_ULL(32) }, -EUCLEAN },
	{ "extended: both last bits", 3, true,
	  { HOST(7), BIT_ULL(31) | BIT_ULL(63) }, -EUCLEAN },
	{ "extended: unaligned offset", 3, true, { HOST(7) | BIT(11), 1 },
	  -EUCLEAN },
	{ "extended: bit 0 of the entry is reserved", 3, true,
	  { HOST(7) | ZERO, 1 }, 0 },
	{ "extended: COMPRESSED", 3, true, { COMPRESSED | 0x12345, 0 }, 0 },
	{ "extended: COMPRESSED with an alloc bit", 3, true,
	  { COMPRESSED | 0x12345, BIT_ULL(3) }, -EUCLEAN },
	{ "extended: COMPRESSED with a zero bit", 3, true,
	  { COMPRESSED | 0x12345, BIT_ULL(35) }, -EUCLEAN },
};

KUNIT_ARRAY_PARAM_DESC(check, check_rows, name);

static void damaged_l2_entry(struct kunit *test)
{
	const struct check_row *row = test->param_value;
	struct qcow2_l2_entry entry = row->entry;
	struct qcow2_geometry geo;

	test_geometry(test, &geo, layout_of(row->extl2));
	geo.version = row->version;
	KUNIT_EXPECT_EQ(test, row->ret, qcow2_check_l2_entry(&geo, entry));
	if (entry.word & COMPRESSED)
		return;
	entry.word |= COPIED;
	KUNIT_EXPECT_EQ_MSG(test, row->ret, qcow2_check_l2_entry(&geo, entry),
			    "with COPIED");
}

static void damaged_l1_entry(struct kunit *test)
{
	struct qcow2_geometry geo;

	test_geometry(test, &geo, &standard);
	KUNIT_EXPECT_EQ(test, 0, qcow2_check_l1_entry(&geo, 0));
	KUNIT_EXPECT_EQ(test, 0, qcow2_check_l1_entry(&geo, HOST(7)));
	KUNIT_EXPECT_EQ(test, 0, qcow2_check_l1_entry(&geo, HOST(7) | COPIED));
	KUNIT_EXPECT_EQ_MSG(test, 0,
			    qcow2_check_l1_entry(&geo, HOST(7) |
						 QCOW2_L1_RESERVED_MASK),
			    "reserved bits");
	KUNIT_EXPECT_EQ(test, -EUCLEAN,
			qcow2_check_l1_entry(&geo, HOST(7) | BIT(9)));
	KUNIT_EXPECT_EQ(test, -EUCLEAN,
			qcow2_check_l1_entry(&geo, HOST(7) | BIT(15)));
}

/*
 * Index arithmetic and entries, at every cluster size.
 */

KUNIT_ARRAY_PARAM_DESC(sizes, test_sizes, name);

static bool has_extended(const struct test_size *row)
{
	return row->cluster_bits >= QCOW2_MIN_CLUSTER_BITS_EXTL2;
}

struct place {
	u64 table;
	u32 entry;
	u32 into;
};

static void expect_place(struct kunit *test, const struct qcow2_geometry *geo,
			 const struct place *place)
{
	u64 cluster = geo->cluster_bytes;
	u32 entry_bytes = 8 * geo->l2_entry_words;
	u64 per_table = cluster / entry_bytes;
	u32 slice_bytes = min(cluster, PAGE_SIZE);
	u32 per_slice = slice_bytes / entry_bytes;
	u64 offset = (place->table * per_table + place->entry) * cluster +
		     place->into;
	u64 l2_offset = 5 * cluster;

	KUNIT_EXPECT_EQ_MSG(test, place->table, qcow2_l1_index(geo, offset),
			    "offset %llu", offset);
	KUNIT_EXPECT_EQ_MSG(test, place->entry, qcow2_l2_index(geo, offset),
			    "offset %llu", offset);
	KUNIT_EXPECT_EQ_MSG(test, place->entry % per_slice,
			    qcow2_l2_slice_index(geo, offset),
			    "offset %llu", offset);
	KUNIT_EXPECT_EQ_MSG(test, l2_offset +
			    place->entry / per_slice * slice_bytes,
			    qcow2_l2_slice_offset(geo, l2_offset, offset),
			    "offset %llu", offset);
	KUNIT_EXPECT_EQ_MSG(test, (per_slice - place->entry % per_slice) *
			    cluster - place->into,
			    qcow2_to_slice_end(geo, offset),
			    "offset %llu", offset);
	KUNIT_EXPECT_EQ_MSG(test, place->into, qcow2_into_cluster(geo, offset),
			    "offset %llu", offset);
	KUNIT_EXPECT_EQ_MSG(test, offset - place->into,
			    qcow2_cluster_start(geo, offset),
			    "offset %llu", offset);
}

static void expect_places(struct kunit *test, const struct qcow2_geometry *geo)
{
	u32 per_table = geo->cluster_bytes / (8 * geo->l2_entry_words);
	u32 per_slice = min_t(u32, geo->cluster_bytes, PAGE_SIZE) /
			(8 * geo->l2_entry_words);
	u64 tables[] = { 0, 1, 2, SZ_32M / 8 - 1 };
	u32 entries[] = { 0, 1, per_slice - 1, per_slice % per_table,
			  per_table - per_slice, per_table - 1 };
	u32 into[] = { 0, 1, geo->cluster_bytes - 1 };
	size_t t, e, i;

	for (t = 0; t < ARRAY_SIZE(tables); t++)
		for (e = 0; e < ARRAY_SIZE(entries); e++)
			for (i = 0; i < ARRAY_SIZE(into); i++)
				expect_place(test, geo, &(struct place) {
						.table = tables[t],
						.entry = entries[e],
						.into = into[i],
					     });
}

static void index_arithmetic(struct kunit *test)
{
	const struct test_size *row = test->param_value;
	struct test_layout layout = { row->cluster_bits, 4, false };
	struct qcow2_geometry geo;

	test_geometry(test, &geo, &layout);
	expect_places(test, &geo);
	if (!has_extended(row))
		return;
	layout.extl2 = true;
	test_geometry(test, &geo, &layout);
	expect_places(test, &geo);
}

static void clusters_that_bytes_need(struct kunit *test)
{
	const struct test_size *row = test->param_value;
	struct test_layout layout = { row->cluster_bits, 4, false };
	struct qcow2_geometry geo;
	u64 cluster = 1ULL << row->cluster_bits;

	test_geometry(test, &geo, &layout);
	KUNIT_EXPECT_EQ(test, 0, qcow2_clusters_of(&geo, 0));
	KUNIT_EXPECT_EQ(test, 1, qcow2_clusters_of(&geo, 1));
	KUNIT_EXPECT_EQ(test, 1, qcow2_clusters_of(&geo, cluster));
	KUNIT_EXPECT_EQ(test, 2, qcow2_clusters_of(&geo, cluster + 1));
	KUNIT_EXPECT_EQ(test, 1000, qcow2_clusters_of(&geo, 1000 * cluster));
}

/* A slice outside of any cache, which the accessors need the data of only. */
static struct qcow2_slice *blank_slice(struct kunit *test)
{
	struct qcow2_slice *slice = kunit_kzalloc(test, sizeof(*slice),
						  GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, slice);
	slice->data = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, slice->data);
	seqcount_init(&slice->seq);
	return slice;
}

static void expect_entry_at(struct kunit *test,
			    const struct qcow2_geometry *geo, u32 index)
{
	const struct qcow2_l2_entry want = {
		.word = 0x8123456789abc000,
		.bitmap = qcow2_has_extl2(geo) ? 0xfedcba9876543210 : 0,
	};
	u32 bytes = 8 * geo->l2_entry_words, pos = index * bytes;
	struct qcow2_slice *slice = blank_slice(test);
	struct qcow2_l2_entry got;
	void *data = slice->data;

	memset(data, 0xa5, PAGE_SIZE);
	KUNIT_EXPECT_EQ(test, 0, qcow2_set_l2_entry(geo, slice, index, want));
	KUNIT_EXPECT_EQ(test, want.word, get_unaligned_be64(data + pos));
	if (qcow2_has_extl2(geo))
		KUNIT_EXPECT_EQ(test, want.bitmap,
				get_unaligned_be64(data + pos + 8));
	KUNIT_EXPECT_NULL_MSG(test, memchr_inv(data, 0xa5, pos),
			      "in front of entry %u", index);
	KUNIT_EXPECT_NULL_MSG(test, memchr_inv(data + pos + bytes, 0xa5,
					       PAGE_SIZE - pos - bytes),
			      "behind entry %u", index);
	got = qcow2_get_l2_entry(geo, slice, index);
	KUNIT_EXPECT_EQ_MSG(test, want.word, got.word, "entry %u", index);
	KUNIT_EXPECT_EQ_MSG(test, want.bitmap, got.bitmap, "entry %u", index);
	kunit_kfree(test, data);
	kunit_kfree(test, slice);
}

static void expect_entries(struct kunit *test, const struct qcow2_geometry *geo)
{
	u32 nr = 1U << geo->l2_slice_bits;
	u32 i;

	for (i = 0; i < nr; i = i * 2 + 1)
		expect_entry_at(test, geo, i);
	expect_entry_at(test, geo, nr - 2);
	expect_entry_at(test, geo, nr - 1);
}

static void entry_is_stored_at_its_index(struct kunit *test)
{
	const struct test_size *row = test->param_value;
	struct test_layout layout = { row->cluster_bits, 4, false };
	struct qcow2_geometry geo;

	test_geometry(test, &geo, &layout);
	expect_entries(test, &geo);
	if (!has_extended(row))
		return;
	layout.extl2 = true;
	test_geometry(test, &geo, &layout);
	expect_entries(test, &geo);
}

/*
 * Extents.
 */

static const struct extent_row {
	const char *name;
	bool extl2;
	u32 index;	/* of the first entry in the L2 table */
	struct qcow2_l2_entry entries[4];
	u64 offset;	/* from that entry's cluster on */
	u64 bytes;
	int ret;
	enum qcow2_subcluster_type type;
	u64 host_offset;	/* of NORMAL only */
	u64 extent_bytes;
} extent_rows[] = {
	{ "part of a cluster", false, 3, { { HOST(7) } }, 0x1200, 0x600, 0,
	  QCOW2_SUBCLUSTER_NORMAL, HOST(7) + 0x1200, 0x600 },
	{ "ends with the cluster", false, 3, { { HOST(7) } }, 0x1200, HOST(2),
	  0, QCOW2_SUBCLUSTER_NORMAL, HOST(7) + 0x1200, 0x10000 - 0x1200 },
	{ "consecutive clusters are one", false, 3,
	  { { HOST(7) }, { HOST(8) | COPIED }, { HOST(9) } }, 0x1200, HOST(3),
	  0, QCOW2_SUBCLUSTER_NORMAL, HOST(7) + 0x1200, HOST(3) - 0x1200 },
	{ "clipped to the request in a later cluster", false, 3,
	  { { HOST(7) }, { HOST(8) } }, 0x1200, HOST(1), 0,
	  QCOW2_SUBCLUSTER_NORMAL, HOST(7) + 0x1200, HOST(1) },
	{ "ends where the host offset jumps", false, 3,
	  { { HOST(7) }, { HOST(9) } }, 0, HOST(2), 0,
	  QCOW2_SUBCLUSTER_NORMAL, HOST(7), HOST(1) },
	{ "ends where the host offset goes back", false, 3,
	  { { HOST(7) }, { HOST(6) } }, 0, HOST(2), 0,
	  QCOW2_SUBCLUSTER_NORMAL, HOST(7), HOST(1) },
	{ "ends where the type changes", false, 3,
	  { { HOST(7) }, { HOST(8) | ZERO } }, 0, HOST(2), 0,
	  QCOW2_SUBCLUSTER_NORMAL, HOST(7), HOST(1) },
	{ "zero clusters", false, 3, { { ZERO }, { ZERO }, { 0 } }, 0x200,
	  HOST(3), 0, QCOW2_SUBCLUSTER_ZERO_PLAIN, 0, HOST(2) - 0x200 },
	{ "zero clusters with host clusters anywhere", false, 3,
	  { { ZERO | HOST(7) }, { ZERO | HOST(3) }, { ZERO } }, 0, HOST(3), 0,
	  QCOW2_SUBCLUSTER_ZERO_ALLOC, 0, HOST(2) },
	{ "unallocated clusters", false, 3, { { 0 }, { 0 }, { HOST(7) } }, 0,
	  HOST(3), 0, QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN, 0, HOST(2) },
	{ "compressed cluster", false, 3, { { COMPRESSED | 0x12345 } }, 0x200,
	  0x200, 0, QCOW2_SUBCLUSTER_COMPRESSED, 0, 0x200 },
	{ "stops at the slice's end", false, 510,
	  { { HOST(7) }, { HOST(8) }, { HOST(9) } }, 0, HOST(4), 0,
	  QCOW2_SUBCLUSTER_NORMAL, HOST(7), HOST(2) },
	{ "damaged entry", false, 3, { { HOST(7) | BIT(10) } }, 0, 0x200,
	  -EUCLEAN },

	{ "extended: subclusters of one type", true, 3,
	  { { HOST(7), 0x000000f0 } }, 0x2100, HOST(1), 0,
	  QCOW2_SUBCLUSTER_NORMAL, HOST(7) + 0x2100, 0x4000 - 0x2100 },
	{ "extended: across clusters", true, 3,
	  { { HOST(7), 0xf0000000 }, { HOST(8), 0x00000003 } }, 0xf000,
	  HOST(2), 0, QCOW2_SUBCLUSTER_NORMAL, HOST(7) + 0xf000, 0x2000 },
	{ "extended: not across a jump", true, 3,
	  { { HOST(7), 0xf0000000 }, { HOST(9), 0x00000003 } }, 0xf000,
	  HOST(2), 0, QCOW2_SUBCLUSTER_NORMAL, HOST(7) + 0xf000, 0x1000 },
	{ "extended: zero bits", true, 3,
	  { { HOST(7), BIT_ULL(32) | BIT_ULL(33) } }, 0x10, HOST(1), 0,
	  QCOW2_SUBCLUSTER_ZERO_ALLOC, 0, 0x1000 - 0x10 },
	{ "extended: no bits", true, 3, { { HOST(7), BIT_ULL(2) } }, 0,
	  HOST(1), 0, QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC, 0, 0x1000 },
	{ "extended: no bits, no host cluster", true, 3,
	  { { 0, BIT_ULL(34) } }, 0, HOST(1), 0,
	  QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN, 0, 0x1000 },
	{ "extended: stops at the slice's end", true, 255,
	  { { HOST(7), U32_MAX }, { HOST(8), U32_MAX } }, 0, HOST(2), 0,
	  QCOW2_SUBCLUSTER_NORMAL, HOST(7), HOST(1) },
	{ "extended: contradicting bits of another subcluster", true, 3,
	  { { HOST(7), 1 | BIT_ULL(5) | BIT_ULL(37) } }, 0, 0x200, -EUCLEAN },
};

KUNIT_ARRAY_PARAM_DESC(extent, extent_rows, name);

/* Entries of the L2 table in the file; they may lie in two slices. */
static void write_entries(struct kunit *test, struct test_image *ti,
			  const struct extent_row *row)
{
	u32 words = ti->img->geo.l2_entry_words;
	__be64 entry[2];
	size_t i;

	for (i = 0; i < ARRAY_SIZE(row->entries); i++) {
		entry[0] = cpu_to_be64(row->entries[i].word);
		entry[1] = cpu_to_be64(row->entries[i].bitmap);
		test_image_write(test, ti, test_cluster_offset(ti, TEST_L2) +
				 (row->index + i) * words * sizeof(u64), entry,
				 words * sizeof(u64));
	}
}

/* The same, now that its slice is in the cache. */
static void expect_cached(struct kunit *test, struct test_image *ti,
			  const struct extent_row *row,
			  const struct qcow2_extent *extent)
{
	struct qcow2_extent cached = {};
	unsigned int reads = ti->reads;

	KUNIT_EXPECT_EQ(test, row->ret,
			qcow2_map_cached(ti->img, HOST(row->index) + row->offset,
					 row->bytes, &cached));
	KUNIT_EXPECT_EQ(test, reads, ti->reads);
	if (row->ret)
		return;
	KUNIT_EXPECT_EQ(test, extent->type, cached.type);
	KUNIT_EXPECT_EQ(test, extent->bytes, cached.bytes);
	KUNIT_EXPECT_EQ(test, extent->host_offset, cached.host_offset);
}

static void extent_is_found(struct kunit *test)
{
	const struct extent_row *row = test->param_value;
	struct test_image *ti = test_image(test, layout_of(row->extl2));
	struct qcow2_extent extent = {};

	write_entries(test, ti, row);
	KUNIT_EXPECT_EQ(test, -EAGAIN,
			qcow2_map_cached(ti->img, HOST(row->index) + row->offset,
					 row->bytes, &extent));
	KUNIT_EXPECT_EQ_MSG(test, 0, ti->reads, "that was to take no I/O");
	KUNIT_ASSERT_EQ(test, row->ret,
			qcow2_map(ti->img, HOST(row->index) + row->offset,
				  row->bytes, &extent));
	KUNIT_EXPECT_EQ(test, !!row->ret, qcow2_image_needs_check(ti->img));
	expect_cached(test, ti, row, &extent);
	if (row->ret)
		return;
	KUNIT_EXPECT_EQ(test, row->type, extent.type);
	KUNIT_EXPECT_EQ(test, row->extent_bytes, extent.bytes);
	if (row->type == QCOW2_SUBCLUSTER_NORMAL)
		KUNIT_EXPECT_EQ(test, row->host_offset, extent.host_offset);
}

/* What a write without a worker may overwrite. */
static const struct own_row {
	const char *name;
	u64 words[2];
	u64 bytes;
	bool metadata_moves;
	int ret;
} own_rows[] = {
	{ "one cluster", { HOST(7) | COPIED }, HOST(1) },
	{ "a shared one behind it", { HOST(7) | COPIED, HOST(8) }, HOST(1) },
	{ "up to a shared one", { HOST(7) | COPIED, HOST(8) }, HOST(2), false,
	  -EAGAIN },
	{ "two", { HOST(7) | COPIED, HOST(8) | COPIED }, HOST(2) },
	{ "a shared one", { HOST(7) }, HOST(1), false, -EAGAIN },
	{ "zeroes with a cluster", { HOST(7) | ZERO | COPIED }, HOST(1), false,
	  -EAGAIN },
	{ "zeroes", { ZERO }, HOST(1), false, -EAGAIN },
	{ "nothing", { 0 }, HOST(1), false, -EAGAIN },
	{ "compressed", { COMPRESSED | HOST(7) }, HOST(1), false, -EAGAIN },
	{ "beside one that is metadata",
	  { HOST(7) | COPIED, HOST(TEST_L2) | COPIED }, HOST(1), false,
	  -EAGAIN },
	{ "beside a shared one that is metadata",
	  { HOST(7) | COPIED, HOST(TEST_L2) }, HOST(1) },
	{ "beside a compressed one, whose word looks so",
	  { HOST(7) | COPIED, HOST(TEST_L2) | COPIED | COMPRESSED }, HOST(1) },
	{ "before metadata got a place", { HOST(7) | COPIED }, HOST(1), true,
	  -EAGAIN },
};

KUNIT_ARRAY_PARAM_DESC(own, own_rows, name);

static void own_extent_is_found(struct kunit *test)
{
	const struct own_row *row = test->param_value;
	struct test_image *ti = test_image(test, &standard);
	__be64 words[] = { cpu_to_be64(row->words[0]),
			   cpu_to_be64(row->words[1]) };
	u64 l2 = test_cluster_offset(ti, TEST_L2);
	struct qcow2_extent extent = {};
	struct qcow2_slice *slice;

	test_image_write(test, ti, l2, words, sizeof(words));
	slice = test_slice(test, ti, QCOW2_SLICE_L2, l2);
	KUNIT_EXPECT_EQ_MSG(test, -EAGAIN,
			    qcow2_map_own_cached(ti->img, 0, row->bytes,
						 &extent),
			    "nobody has vetted it");
	mutex_lock(&ti->img->meta_lock);
	qcow2_vet_slice(ti->img, slice);
	if (row->metadata_moves)
		qcow2_metadata_moved(ti->img);
	mutex_unlock(&ti->img->meta_lock);
	KUNIT_EXPECT_EQ(test, row->ret,
			qcow2_map_own_cached(ti->img, 0, row->bytes, &extent));
	if (!row->ret) {
		KUNIT_EXPECT_EQ(test, HOST(7), extent.host_offset);
		KUNIT_EXPECT_EQ(test, row->bytes, extent.bytes);
	}
}

static void shared_table_has_no_own_extent(struct kunit *test)
{
	struct test_image *ti = test_image(test, &standard);
	__be64 word = cpu_to_be64(HOST(7) | COPIED);
	u64 l2 = test_cluster_offset(ti, TEST_L2);
	struct qcow2_extent extent = {};
	struct qcow2_slice *slice;

	test_image_write(test, ti, l2, &word, sizeof(word));
	slice = test_slice(test, ti, QCOW2_SLICE_L2, l2);
	mutex_lock(&ti->img->meta_lock);
	qcow2_vet_slice(ti->img, slice);
	mutex_unlock(&ti->img->meta_lock);
	rcu_dereference_protected(ti->img->l1, true)->entry[0] = l2;
	KUNIT_EXPECT_EQ(test, -EAGAIN,
			qcow2_map_own_cached(ti->img, 0, HOST(1), &extent));
}

static void without_an_l2_table_all_is_unallocated(struct kunit *test)
{
	struct test_image *ti = test_image(test, &standard);
	struct qcow2_extent extent = {};

	/* L2 tables of 8192 entries, slices of 512 */
	KUNIT_ASSERT_EQ(test, 0, qcow2_map(ti->img, HOST(8192) + 0x200, 0x400,
					   &extent));
	KUNIT_EXPECT_EQ(test, QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN, extent.type);
	KUNIT_EXPECT_EQ(test, 0x400, extent.bytes);
	KUNIT_ASSERT_EQ(test, 0, qcow2_map(ti->img, HOST(8192) + 0x200,
					   HOST(8192), &extent));
	KUNIT_EXPECT_EQ(test, HOST(512) - 0x200, extent.bytes);
	KUNIT_EXPECT_EQ_MSG(test, 0, ti->reads, "there is nothing to read");
}

static void damaged_l1_entry_is_not_followed(struct kunit *test)
{
	struct test_image *ti = test_image(test, &standard);
	struct qcow2_extent extent = {};

	rcu_dereference_protected(ti->img->l1, true)->entry[1] =
		HOST(TEST_L2) | BIT(12) | COPIED;
	KUNIT_EXPECT_EQ(test, -EUCLEAN, qcow2_map(ti->img, HOST(8192), 0x200,
						  &extent));
	KUNIT_EXPECT_TRUE(test, qcow2_image_needs_check(ti->img));
	/* Marking the image corrupt reads the header. */
	flush_workqueue(ti->img->wq);
	KUNIT_EXPECT_EQ(test, 1, ti->reads);
}

/*
 * Compressed clusters.
 */

static const struct range_row {
	const char *name;
	u32 cluster_bits;
	u64 word;
	u64 offset;
	u32 bytes;
} range_rows[] = {
	{ "in one sector", 16, 0x12345, 0x12345, 0xbb },
	{ "last byte of a sector", 16, 0x123ff, 0x123ff, 1 },
	{ "one whole sector", 16, 0x12400, 0x12400, 0x200 },
	{ "three sectors", 16, 2ULL << 54 | 0x12400, 0x12400, 0x600 },
	{ "three sectors, not from their start", 16, 2ULL << 54 | 0x12401,
	  0x12401, 0x5ff },
	{ "flags are no part of it", 16, COPIED | 2ULL << 54 | 0x12400,
	  0x12400, 0x600 },
	{ "512 B: two sectors", 9, 1ULL << 61 | 0x400, 0x400, 0x400 },
	{ "512 B: greatest offset", 9, BIT_ULL(61) - 1, BIT_ULL(61) - 1, 1 },
	{ "2 MiB: as long as can be", 21, GENMASK_ULL(61, 49), 0, SZ_4M },
	{ "2 MiB: greatest offset", 21, BIT_ULL(49) - 512, BIT_ULL(49) - 512,
	  512 },
};

KUNIT_ARRAY_PARAM_DESC(range, range_rows, name);

static void compressed_range(struct kunit *test)
{
	const struct range_row *row = test->param_value;
	struct qcow2_geometry geo = { .cluster_bits = row->cluster_bits };
	u64 offset;
	u32 bytes;

	qcow2_compressed_range(&geo, COMPRESSED | row->word, &offset, &bytes);
	KUNIT_EXPECT_EQ(test, row->offset, offset);
	KUNIT_EXPECT_EQ(test, row->bytes, bytes);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(compressed_range, range_gen_params),
	KUNIT_CASE_PARAM(cluster_type, cluster_gen_params),
	KUNIT_CASE_PARAM(subcluster_type, subcluster_gen_params),
	KUNIT_CASE_PARAM(damaged_l2_entry, check_gen_params),
	KUNIT_CASE(damaged_l1_entry),
	KUNIT_CASE_PARAM(index_arithmetic, sizes_gen_params),
	KUNIT_CASE_PARAM(clusters_that_bytes_need, sizes_gen_params),
	KUNIT_CASE_PARAM(entry_is_stored_at_its_index, sizes_gen_params),
	KUNIT_CASE_PARAM(extent_is_found, extent_gen_params),
	KUNIT_CASE_PARAM(own_extent_is_found, own_gen_params),
	KUNIT_CASE(shared_table_has_no_own_extent),
	KUNIT_CASE(without_an_l2_table_all_is_unallocated),
	KUNIT_CASE(damaged_l1_entry_is_not_followed),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_map",
	.test_cases = cases,
};

kunit_test_suite(suite);
