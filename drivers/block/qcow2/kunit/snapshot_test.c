// SPDX-License-Identifier: GPL-2.0-only
/*
 * snapshot.c: which snapshot tables are refused, and what is kept of the others.
 */

#include <linux/errno.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/byteorder.h>

#include "fixture.h"

static const struct test_layout layout = { 12, 4, false };

#define CLUSTER		4096ULL
#define TABLE		(8 * CLUSTER)	/* where the tests put the table */
#define L1(cluster)	((cluster) * CLUSTER)

/*
 * Images with a snapshot table.
 */

struct entry {
	u64 l1_offset;
	u32 l1_entries;
	u32 extra_bytes;
	u16 id_bytes;
	u16 name_bytes;
};

static u64 entry_end(const struct entry *entry, u64 offset)
{
	return offset + sizeof(struct qcow2_disk_snapshot) +
	       entry->extra_bytes + entry->id_bytes + entry->name_bytes;
}

static void encode(struct qcow2_disk_snapshot *head, const struct entry *entry)
{
	memset(head, 0, sizeof(*head));
	head->l1_table_offset = cpu_to_be64(entry->l1_offset);
	head->l1_size = cpu_to_be32(entry->l1_entries);
	head->id_str_size = cpu_to_be16(entry->id_bytes);
	head->name_size = cpu_to_be16(entry->name_bytes);
	head->extra_data_size = cpu_to_be32(entry->extra_bytes);
}

/* The file's last byte is the one in front of @end. */
static void extend_file(struct kunit *test, struct test_image *ti, u64 end)
{
	test_image_write(test, ti, end - 1, "", 1);
}

static void point_to_table(struct kunit *test, struct test_image *ti,
			   u64 offset, u32 nr)
{
	__be64 disk_offset = cpu_to_be64(offset);
	__be32 disk_nr = cpu_to_be32(nr);

	test_image_write(test, ti,
			 offsetof(struct qcow2_disk_header, snapshots_offset),
			 &disk_offset, sizeof(disk_offset));
	test_image_write(test, ti,
			 offsetof(struct qcow2_disk_header, nb_snapshots),
			 &disk_nr, sizeof(disk_nr));
}

/*
 * Writes heads only: what is between them reads as zero.  The caller has to
 * extend the file if the table shall end within it.  Returns where it ends.
 */
static u64 write_table(struct kunit *test, struct test_image *ti,
		       const struct entry *entries, u32 nr)
{
	u64 end = TABLE;
	u32 i;

	point_to_table(test, ti, TABLE, nr);
	for (i = 0; i < nr; i++) {
		struct qcow2_disk_snapshot head;
		u64 offset = ALIGN(end, 8);

		encode(&head, &entries[i]);
		test_image_write(test, ti, offset, &head, sizeof(head));
		end = entry_end(&entries[i], offset);
	}
	return end;
}

static struct qcow2_image *open_again(struct test_image *ti, unsigned int flags,
				      struct qcow2_reason *why)
{
	const struct qcow2_options options = { .file_flags = flags };

	return qcow2_image_open(ti->filp, "again", &options, why);
}

static struct qcow2_image *must_open(struct kunit *test, struct test_image *ti)
{
	struct qcow2_reason why = {};
	struct qcow2_image *img = open_again(ti, QCOW2_FILE_WRITABLE, &why);

	KUNIT_ASSERT_FALSE_MSG(test, IS_ERR(img), "%s", why.text);
	return img;
}

static void expect_open(struct kunit *test, struct test_image *ti,
			unsigned int flags, int error, const char *words)
{
	struct qcow2_reason why = {};
	struct qcow2_image *img = open_again(ti, flags, &why);

	KUNIT_EXPECT_EQ_MSG(test, error, PTR_ERR_OR_ZERO(img), "%s", why.text);
	if (!IS_ERR(img)) {
		qcow2_image_close(img);
		return;
	}
	KUNIT_EXPECT_NOT_NULL_MSG(test, strstr(why.text, words), "%s",
				  why.text);
	KUNIT_EXPECT_NULL(test, strchr(why.text, '\n'));
	KUNIT_EXPECT_LT(test, strlen(why.text), sizeof(why.text) - 1);
}

/*
 * What is refused.  A sound entry comes first, and one behind, so that a row is
 * not taken for the beginning or the end of the table.
 */

static const struct table_row {
	const char *name;
	struct entry entry;
	int writable, read_only;	/* results */
	const char *words;
} table_rows[] = {
	{ "sound", { L1(20), 2, 16, 1, 5 }, 0, 0 },
	{ "sound, version 2", { L1(20), 2, 0, 1, 0 }, 0, 0 },
	{ "all zero", { 0, 0, 0, 0, 0 }, 0, 0 },
	{ "empty L1 table", { L1(20), 0, 16, 1, 1 }, 0, 0 },
	{ "L1 table of the greatest length", { L1(20), SZ_32M / 8, 16, 1, 1 },
	  0, 0 },
	{ "L1 table too long", { L1(20), SZ_32M / 8 + 1, 16, 1, 1 },
	  -EUCLEAN, 0, "entry 1: L1 table has 4194305 entries" },
	{ "L1 table of the greatest number", { L1(20), U32_MAX, 16, 1, 1 },
	  -EUCLEAN, 0, "entry 1: L1 table has 4294967295 entries" },
	{ "L1 table not at a cluster", { L1(20) + 512, 2, 16, 1, 1 },
	  -EUCLEAN, 0, "entry 1: L1 table offset 0x14200 is not a multiple" },
	{ "L1 table far behind the end of the file", { 1ULL << 40, 2, 16, 1, 1 },
	  0, 0 },
	{ "L1 table up to what a file can have",
	  { QCOW2_MAX_HOST_OFFSET - CLUSTER, CLUSTER / 8, 16, 1, 1 }, 0, 0 },
	{ "L1 table one entry further",
	  { QCOW2_MAX_HOST_OFFSET - CLUSTER, CLUSTER / 8 + 1, 16, 1, 1 },
	  -EUCLEAN, 0, "outside of any file" },
	{ "L1 table whose end overflows", { -CLUSTER, CLUSTER / 8, 16, 1, 1 },
	  -EUCLEAN, 0, "outside of any file" },
	{ "most extra data", { L1(20), 2, 1024, 1, 1 }, 0, 0 },
	{ "too much extra data", { L1(20), 2, 1025, 1, 1 },
	  -EUCLEAN, -EUCLEAN, "entry 1 has 1025 bytes of extra data" },
	{ "longest ID and name", { L1(20), 2, 16, U16_MAX, U16_MAX }, 0, 0 },
};

KUNIT_ARRAY_PARAM_DESC(table, table_rows, name);

static void snapshot_table_is_checked(struct kunit *test)
{
	const struct table_row *row = test->param_value;
	struct test_image *ti = test_image(test, &layout);
	const struct entry sound = { L1(40), 2, 16, 1, 3 };
	struct entry entries[3] = { sound, row->entry, sound };

	extend_file(test, ti, write_table(test, ti, entries, 3));
	expect_open(test, ti, QCOW2_FILE_WRITABLE, row->writable,
		    row->words ?: "");
	expect_open(test, ti, 0, row->read_only, row->words ?: "");
}

/* It would end where no file of the tests can. */
static void most_extra_data_that_can_be_said(struct kunit *test)
{
	const struct entry entry = { L1(20), 2, U32_MAX, U16_MAX, U16_MAX };
	struct test_image *ti = test_image(test, &layout);

	write_table(test, ti, &entry, 1);
	expect_open(test, ti, QCOW2_FILE_WRITABLE, -EUCLEAN,
		    "entry 0 has 4294967295 bytes of extra data");
	expect_open(test, ti, 0, -EUCLEAN, "4294967295 bytes of extra data");
}

static const struct entry two[] = {
	{ L1(20), 2, 16, 1, 3 }, { L1(21), 2, 16, 1, 4 },
};

/* qemu-img leaves a file that ends with the last byte of the last name. */
static void table_may_end_with_the_file(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	const u64 head = sizeof(struct qcow2_disk_snapshot);
	struct qcow2_image *img;
	u64 end;

	/* The last head must be there, but what is behind it need not. */
	write_table(test, ti, two, 1);
	point_to_table(test, ti, TABLE, 2);
	extend_file(test, ti, TABLE + 64 + head - 1);
	expect_open(test, ti, QCOW2_FILE_WRITABLE, -EUCLEAN, "truncated");
	expect_open(test, ti, 0, 0, "");
	end = write_table(test, ti, two, 2);
	expect_open(test, ti, QCOW2_FILE_WRITABLE, 0, "");
	extend_file(test, ti, end);
	img = must_open(test, ti);
	KUNIT_EXPECT_EQ(test, img->snapshots->table_bytes, end - TABLE);
	KUNIT_EXPECT_EQ(test, end - TABLE, 64 + 61);
	qcow2_image_close(img);
}

static void table_behind_the_file(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	point_to_table(test, ti, 1ULL << 40, 2);
	expect_open(test, ti, QCOW2_FILE_WRITABLE, -EUCLEAN, "truncated");
	expect_open(test, ti, 0, 0, "");
	point_to_table(test, ti, QCOW2_MAX_HOST_OFFSET, 1);
	expect_open(test, ti, 0, -EUCLEAN, "outside of any file");
	point_to_table(test, ti, QCOW2_MAX_HOST_OFFSET - SZ_64K, 1);
	expect_open(test, ti, 0, 0, "");
	/* All of it is there for the header, but not what is read at once. */
	point_to_table(test, ti, QCOW2_MAX_HOST_OFFSET - SZ_64K,
		       SZ_64K / sizeof(struct qcow2_disk_snapshot));
	expect_open(test, ti, 0, -EUCLEAN, "outside of any file");
}

/* 513 entries, of which the last can be made as long as one likes. */
static void table_of_the_greatest_length(struct kunit *test)
{
	const u32 nr = 513;
	struct test_image *ti = test_image(test, &layout);
	struct entry *entries = kunit_kcalloc(test, nr, sizeof(*entries),
					      GFP_KERNEL);
	struct qcow2_image *img;
	u64 end = TABLE;
	u32 i;

	KUNIT_ASSERT_NOT_NULL(test, entries);
	for (i = 0; i < nr - 1; i++) {
		entries[i] = (struct entry){ L1(i), 1, 0, U16_MAX, 65400 };
		end = ALIGN(entry_end(&entries[i], end), 8);
	}
	KUNIT_ASSERT_LT(test, end, TABLE + SZ_64M);
	entries[i].extra_bytes = 1024;
	entries[i].name_bytes = TABLE + SZ_64M - entry_end(&entries[i], end);
	KUNIT_ASSERT_EQ(test, TABLE + SZ_64M, entry_end(&entries[i], end));

	extend_file(test, ti, write_table(test, ti, entries, nr));
	img = must_open(test, ti);
	KUNIT_EXPECT_EQ(test, img->snapshots->table_bytes, SZ_64M);
	qcow2_image_close(img);

	entries[i].name_bytes++;
	extend_file(test, ti, write_table(test, ti, entries, nr));
	expect_open(test, ti, QCOW2_FILE_WRITABLE, -EUCLEAN,
		    "more than 67108864 bytes long, at entry 512 of 513");
	expect_open(test, ti, 0, -EUCLEAN, "more than 67108864 bytes");
}

/*
 * What is found.
 */

static bool in(struct qcow2_image *img, u64 cluster)
{
	return qcow2_is_inactive_l1(img->snapshots, L1(cluster),
				    L1(cluster + 1));
}

static void nothing_without_snapshots(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_snapshots *none = qcow2_snapshots_alloc(0);

	KUNIT_EXPECT_NULL(test, ti->img->snapshots);
	KUNIT_ASSERT_NOT_NULL(test, none);
	KUNIT_EXPECT_FALSE(test, qcow2_is_inactive_l1(none, 0, U64_MAX));
	kvfree(none);
}

static void read_only_keeps_nothing(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_reason why = {};
	struct qcow2_image *img;

	extend_file(test, ti, write_table(test, ti, two, 2));
	img = open_again(ti, 0, &why);
	KUNIT_ASSERT_FALSE_MSG(test, IS_ERR(img), "%s", why.text);
	KUNIT_EXPECT_EQ(test, img->snapshots->nr, 0);
	qcow2_image_close(img);
}

/* The edges of a range count to the byte. */
static void edges_of_a_table(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	const struct qcow2_snapshots *set;
	struct qcow2_image *img;
	u64 start = L1(20), end = L1(20) + 2 * sizeof(u64);

	extend_file(test, ti, write_table(test, ti, two, 1));
	img = must_open(test, ti);
	set = img->snapshots;
	KUNIT_EXPECT_FALSE(test, qcow2_is_inactive_l1(set, 0, start));
	KUNIT_EXPECT_TRUE(test, qcow2_is_inactive_l1(set, 0, start + 1));
	KUNIT_EXPECT_TRUE(test, qcow2_is_inactive_l1(set, end - 1, end));
	KUNIT_EXPECT_TRUE(test, qcow2_is_inactive_l1(set, end - 1, U64_MAX));
	KUNIT_EXPECT_FALSE(test, qcow2_is_inactive_l1(set, end, end + 1));
	KUNIT_EXPECT_FALSE(test, qcow2_is_inactive_l1(set, end, U64_MAX));
	qcow2_image_close(img);
}

/* One table covers others, which a search for the nearest start alone misses. */
static void tables_that_overlap(struct kunit *test)
{
	const struct entry entries[] = {
		{ L1(70), 512, 16, 1, 1 },
		{ L1(30), 512, 16, 1, 1 },
		{ L1(20), 20 * 512, 16, 1, 1 },
		{ L1(30), 2 * 512, 16, 1, 1 },
		{ L1(20), 512, 16, 1, 1 },
		{ L1(50), 0, 16, 1, 1 },
	};
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_image *img;
	u32 i;

	extend_file(test, ti,
		    write_table(test, ti, entries, ARRAY_SIZE(entries)));
	img = must_open(test, ti);
	for (i = 0; i < 80; i++)
		KUNIT_EXPECT_EQ_MSG(test, (i >= 20 && i < 40) || i == 70,
				    in(img, i), "cluster %u", i);
	/* The one without entries is nowhere. */
	KUNIT_EXPECT_FALSE(test, qcow2_is_inactive_l1(img->snapshots, L1(45),
						      L1(60)));
	qcow2_image_close(img);
}

/* Every other cluster from 1000 on, in an order that is none. */
static u64 scattered(u32 i)
{
	return 1000 + 2 * ((i * 40503U) % QCOW2_MAX_SNAPSHOTS);
}

static void as_many_snapshots_as_can_be(struct kunit *test)
{
	const u32 nr = QCOW2_MAX_SNAPSHOTS;
	struct test_image *ti = test_image(test, &layout);
	struct qcow2_disk_snapshot *heads;
	struct qcow2_image *img;
	u32 i, wrong = 0;

	heads = kvmalloc_array(nr, sizeof(*heads), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, heads);
	for (i = 0; i < nr; i++)
		encode(&heads[i], &(struct entry){ L1(scattered(i)), 512 });
	test_image_write(test, ti, TABLE, heads, nr * sizeof(*heads));
	kvfree(heads);
	point_to_table(test, ti, TABLE, nr);
	img = must_open(test, ti);
	KUNIT_EXPECT_EQ(test, img->snapshots->nr, nr);
	KUNIT_EXPECT_EQ(test, img->snapshots->table_bytes,
			nr * sizeof(struct qcow2_disk_snapshot));
	for (i = 0; i < 1000 + 2 * nr + 10; i++)
		wrong += in(img, i) !=
			 (i >= 1000 && i < 1000 + 2 * nr && i % 2 == 0);
	KUNIT_EXPECT_EQ(test, wrong, 0);
	qcow2_image_close(img);
}

static struct kunit_case snapshot_cases[] = {
	KUNIT_CASE_PARAM(snapshot_table_is_checked, table_gen_params),
	KUNIT_CASE(most_extra_data_that_can_be_said),
	KUNIT_CASE(table_may_end_with_the_file),
	KUNIT_CASE(table_behind_the_file),
	KUNIT_CASE(table_of_the_greatest_length),
	KUNIT_CASE(nothing_without_snapshots),
	KUNIT_CASE(read_only_keeps_nothing),
	KUNIT_CASE(edges_of_a_table),
	KUNIT_CASE(tables_that_overlap),
	KUNIT_CASE(as_many_snapshots_as_can_be),
	{ }
};

static struct kunit_suite snapshot_suite = {
	.name = "qcow2_snapshot",
	.test_cases = snapshot_cases,
};

kunit_test_suite(snapshot_suite);
