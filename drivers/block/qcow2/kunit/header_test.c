// SPDX-License-Identifier: GPL-2.0-only
/*
 * header.c: what is accepted, and what each refusal says.
 */

#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/string.h>
#include <asm/byteorder.h>
#include <linux/unaligned.h>

#include "fixture.h"

/**
 * struct patch - a number that is written over a valid header
 * @pos: byte offset
 * @bytes: width, 0 for no patch
 * @value: the number
 */
struct patch {
	u32 pos;
	u32 bytes;
	u64 value;
};

#define FIELD(member, width, to) { \
	.pos = offsetof(struct qcow2_disk_header, member), \
	.bytes = (width), \
	.value = (to), \
}

#define BYTE(member, to)	FIELD(member, 1, to)
#define BE32(member, to)	FIELD(member, 4, to)
#define BE64(member, to)	FIELD(member, 8, to)

/* The first header extension of a version 3 image. */
#define EXT(n, to) { .pos = QCOW2_HEADER_V3_BYTES + (n), .bytes = 4, .value = (to) }
#define EXT_BYTE(n, to) \
	{ .pos = QCOW2_HEADER_V3_BYTES + (n), .bytes = 1, .value = (to) }

static void apply(void *buf, const struct patch *patch)
{
	if (patch->bytes == 1)
		*(u8 *)(buf + patch->pos) = patch->value;
	else if (patch->bytes == 4)
		put_unaligned_be32(patch->value, buf + patch->pos);
	else if (patch->bytes == 8)
		put_unaligned_be64(patch->value, buf + patch->pos);
}

/* A cluster of its own length, so that KASAN sees what is read behind it. */
static void *first_cluster(struct kunit *test, u32 version, u32 cluster_bits)
{
	void *buf = kunit_kzalloc(test, 1U << cluster_bits, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, buf);
	test_header(buf, version, cluster_bits);
	return buf;
}

/*
 * Valid headers, at every cluster size.
 */

KUNIT_ARRAY_PARAM_DESC(sizes, test_sizes, name);

static void expect_geometry(struct kunit *test, const struct qcow2_geometry *geo,
			    u32 version, u32 bits)
{
	u64 cluster_bytes = 1ULL << bits;
	u64 slice_bytes = min(cluster_bytes, PAGE_SIZE);

	KUNIT_EXPECT_EQ(test, geo->version, version);
	KUNIT_EXPECT_EQ(test, geo->header_bytes, version == 2 ? 72 : 104);
	KUNIT_EXPECT_EQ(test, geo->virtual_bytes,
			cluster_bytes * cluster_bytes / 4);
	KUNIT_EXPECT_EQ(test, geo->cluster_bits, bits);
	KUNIT_EXPECT_EQ(test, geo->cluster_bytes, cluster_bytes);
	KUNIT_EXPECT_EQ(test, geo->subcluster_bits, bits);
	KUNIT_EXPECT_EQ(test, geo->subclusters, 1);
	KUNIT_EXPECT_EQ(test, geo->l2_entry_words, 1);
	KUNIT_EXPECT_EQ(test, 8ULL << geo->l2_bits, cluster_bytes);
	KUNIT_EXPECT_EQ(test, 1ULL << geo->slice_bits, slice_bytes);
	KUNIT_EXPECT_EQ(test, 8ULL << geo->l2_slice_bits, slice_bytes);
	KUNIT_EXPECT_EQ(test, geo->refcount_order, 4);
	KUNIT_EXPECT_EQ(test, 2ULL << geo->refblock_bits, cluster_bytes);
	KUNIT_EXPECT_EQ(test, 2ULL << geo->refslice_bits, slice_bytes);
	KUNIT_EXPECT_EQ(test, geo->l1_entries, 2);
	KUNIT_EXPECT_EQ(test, geo->l1_offset, 3 * cluster_bytes);
	KUNIT_EXPECT_EQ(test, geo->reftable_clusters, 1);
	KUNIT_EXPECT_EQ(test, geo->reftable_offset, cluster_bytes);
	KUNIT_EXPECT_EQ(test, geo->nb_snapshots, 0);
}

static void valid_header_is_decoded(struct kunit *test)
{
	const struct test_size *row = test->param_value;
	u32 version;

	for (version = 2; version <= 3; version++) {
		void *buf = first_cluster(test, version, row->cluster_bits);
		struct qcow2_geometry geo;
		struct qcow2_reason why = {};

		KUNIT_EXPECT_EQ_MSG(test, 0,
				    qcow2_header_decode(buf,
							1U << row->cluster_bits,
							false, &geo, &why),
				    "%s", why.text);
		expect_geometry(test, &geo, version, row->cluster_bits);
		kunit_kfree(test, buf);
	}
}

/* The caller has read 512 bytes and does not know yet how many it needs. */
static void part_of_a_cluster_is_not_enough(struct kunit *test)
{
	const struct test_size *row = test->param_value;
	void *buf = first_cluster(test, 3, row->cluster_bits);
	struct qcow2_geometry geo;
	struct qcow2_reason why = {};

	KUNIT_EXPECT_EQ(test, -EAGAIN,
			qcow2_header_decode(buf, (1U << row->cluster_bits) - 1,
					    false, &geo, &why));
	KUNIT_EXPECT_EQ(test, geo.cluster_bytes, 1U << row->cluster_bits);
	KUNIT_EXPECT_STREQ(test, why.text, "");
}

/*
 * What else is accepted: a valid header with a few changes.
 */

static const struct accepted {
	const char *name;
	u32 version;
	bool read_only;
	struct patch patch[3];
} accepted[] = {
	{ "version 2 ignores what version 3 has there", 2, false,
	  { BE64(autoclear_features, ~0ULL), BE32(refcount_order, 99),
	    BE32(header_length, 1) } },
	{ "refcounts of 1 bit", 3, false, { BE32(refcount_order, 0) } },
	{ "refcounts of 64 bits", 3, false, { BE32(refcount_order, 6) } },
	{ "unknown compatible features", 3, false,
	  { BE64(compatible_features, ~0ULL) } },
	{ "unknown autoclear features", 3, false,
	  { BE64(autoclear_features, ~QCOW2_AUTOCLEAR_DATA_FILE_RAW) } },
	{ "dirty image", 3, false,
	  { BE64(incompatible_features, QCOW2_INCOMPAT_DIRTY) } },
	{ "dirty image, read-only", 3, true,
	  { BE64(incompatible_features, QCOW2_INCOMPAT_DIRTY) } },
	{ "corrupt image, read-only", 3, true,
	  { BE64(incompatible_features, QCOW2_INCOMPAT_CORRUPT) } },
	{ "external data file", 3, false,
	  { BE64(incompatible_features, QCOW2_INCOMPAT_DATA_FILE) } },
	{ "header with a compression type of 0", 3, false,
	  { BE32(header_length, 112) } },
	{ "compression type 1", 3, false,
	  { BE64(incompatible_features, QCOW2_INCOMPAT_COMPRESSION),
	    BE32(header_length, 112), BYTE(compression_type, 1) } },
	{ "header as long as the cluster", 3, false,
	  { BE32(header_length, 65536) } },
	{ "virtual size 0 without L1 table", 3, false,
	  { BE64(size, 0), BE32(l1_size, 0), BE64(l1_table_offset, 0) } },
	{ "L1 table longer than needed", 3, false, { BE32(l1_size, 3) } },
	{ "L1 table of the greatest length", 3, false,
	  { BE32(l1_size, SZ_32M / 8) } },
	{ "refcount table of the greatest length", 3, false,
	  { BE32(refcount_table_clusters, SZ_8M / SZ_64K) } },
	{ "65536 snapshots", 3, false,
	  { BE32(nb_snapshots, 65536), BE64(snapshots_offset, 65536 * 9) } },
	{ "unknown header extension", 3, false,
	  { EXT(0, 0x12345678), EXT(4, 5) } },
	{ "header extension up to the cluster's end", 3, false,
	  { EXT(0, 0x12345678), EXT(4, 65536 - 112) } },
	{ "bitmaps that mean nothing are not looked at", 3, false,
	  { EXT(0, 0x23852875), EXT(4, 24), EXT(12, U32_MAX) } },
	{ "name of a backing file's format of 15 bytes", 3, false,
	  { EXT(0, 0xe2792aca), EXT(4, 15) } },
	{ "extension up to the backing file's name", 3, false,
	  { EXT(0, 0x12345678), EXT(4, 5), BE64(backing_file_offset, 117) } },
	{ "end mark that has something behind it", 3, false,
	  { EXT(4, 65536 - 112) } },
	{ "nothing is read behind the end of the extensions", 3, false,
	  { EXT(8, 0x12345678), EXT(12, 0xffffffff) } },
};

KUNIT_ARRAY_PARAM_DESC(accepted, accepted, name);

static void is_accepted(struct kunit *test)
{
	const struct accepted *row = test->param_value;
	void *buf = first_cluster(test, row->version, 16);
	struct qcow2_geometry geo;
	struct qcow2_reason why = {};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(row->patch); i++)
		apply(buf, &row->patch[i]);
	KUNIT_EXPECT_EQ_MSG(test, 0,
			    qcow2_header_decode(buf, SZ_64K, row->read_only,
						&geo, &why),
			    "%s", why.text);
}

/*
 * Refusals: a valid version 3 header with clusters of 64 KiB and a few changes.
 * The reason names what was found and what is wanted.
 */

static const struct refused {
	const char *name;
	struct patch patch[5];
	bool read_only;
	int error;
	const char *says[3];
	const char *text;	/* of the first extension, from its data on */
} refused[] = {
	/* What it is. */
	{ "another format", { BE32(magic, 0x51464900) }, false, -EUCLEAN,
	  { "0x51464900", "0x514649fb" } },
	{ "version 1", { BE32(version, 1) }, false, -EOPNOTSUPP,
	  { "version 1", "2 or 3" } },
	{ "version 4", { BE32(version, 4) }, false, -EOPNOTSUPP,
	  { "version 4", "2 or 3" } },
	{ "clusters of 256 bytes", { BE32(cluster_bits, 8) }, false, -EUCLEAN,
	  { "cluster_bits is 8", "9 to 21" } },
	{ "clusters of 4 MiB", { BE32(cluster_bits, 22) }, false, -EUCLEAN,
	  { "cluster_bits is 22", "9 to 21" } },
	{ "cluster_bits of 32", { BE32(cluster_bits, 32) }, false, -EUCLEAN,
	  { "cluster_bits is 32", "9 to 21" } },
	{ "cluster_bits of 2^32 - 1", { BE32(cluster_bits, U32_MAX) }, false,
	  -EUCLEAN, { "cluster_bits is 4294967295", "9 to 21" } },

	/* Its length. */
	{ "header shorter than version 3 has it", { BE32(header_length, 96) },
	  false, -EUCLEAN, { "96 bytes", "104" } },
	{ "header of 0 bytes", { BE32(header_length, 0) }, false, -EUCLEAN,
	  { "0 bytes", "104" } },
	{ "header longer than a cluster", { BE32(header_length, 65544) },
	  false, -EUCLEAN, { "65544 bytes", "65536" } },
	{ "header length of 2^32 - 8", { BE32(header_length, 0xfffffff8) },
	  false, -EUCLEAN, { "4294967288 bytes", "65536" } },
	{ "header length that is no multiple of 8",
	  { BE32(header_length, 108) }, false, -EUCLEAN,
	  { "108 bytes", "multiple of 8" } },
	{ "refcounts of 128 bits", { BE32(refcount_order, 7) }, false,
	  -EUCLEAN, { "refcount_order is 7", "at most 6" } },
	{ "refcount_order of 2^32 - 1", { BE32(refcount_order, U32_MAX) },
	  false, -EUCLEAN, { "refcount_order is 4294967295", "at most 6" } },

	/* Extensions. */
	{ "extension one byte past the cluster",
	  { EXT(0, 0x12345678), EXT(4, 65536 - 112 + 1) }, false, -EUCLEAN,
	  { "0x12345678", "65425 bytes", "only 65424" } },
	{ "extension of 2^32 - 1 bytes",
	  { EXT(0, 0x12345678), EXT(4, U32_MAX) }, false, -EUCLEAN,
	  { "0x12345678", "4294967295 bytes", "only 65424" } },
	{ "second extension past the cluster",
	  { EXT(0, 0x12345678), EXT(4, 1), EXT(16, 0x9abcdef0),
	    EXT(20, 65536) },
	  false, -EUCLEAN, { "0x9abcdef0", "65536 bytes", "only 65408" } },
	{ "extension into the backing file's name",
	  { EXT(0, 0x12345678), EXT(4, 17), BE64(backing_file_offset, 128),
	    BE32(backing_file_size, 4) },
	  false, -EUCLEAN, { "0x12345678", "17 bytes", "only 16" } },

	{ "end mark that would go past the cluster",
	  { EXT(4, 65536 - 112 + 1) }, true, -EUCLEAN,
	  { "0x00000000", "65425 bytes", "only 65424" } },
	{ "no room for the head of an extension",
	  { BE64(backing_file_offset, 108) }, true, -EUCLEAN,
	  { "end at offset 108", "at offset 104" } },
	{ "no room for the head of another extension",
	  { EXT(0, 0x12345678), EXT(4, 1), BE64(backing_file_offset, 127) },
	  true, -EUCLEAN, { "end at offset 127", "at offset 120" } },
	{ "name of a backing file's format of 16 bytes",
	  { EXT(0, 0xe2792aca), EXT(4, 16) }, true, -EUCLEAN,
	  { "format is 16 bytes", "at most 15" } },
	{ "LUKS header without LUKS", { EXT(0, 0x0537be77), EXT(4, 16) },
	  true, -EUCLEAN, { "LUKS header", "method is 0", "wanted 2" } },

	/* Features. */
	{ "raw external data without a data file",
	  { BE64(autoclear_features, QCOW2_AUTOCLEAR_DATA_FILE_RAW) }, false,
	  -EUCLEAN, { "autoclear bit 1", "incompatible bit 2" } },
	{ "raw external data without a data file, read-only",
	  { BE64(autoclear_features, QCOW2_AUTOCLEAR_DATA_FILE_RAW) }, true,
	  -EUCLEAN, { "autoclear bit 1", "incompatible bit 2" } },
	{ "corrupt image that is dirty too",
	  { BE64(incompatible_features, BIT_ULL(0) | BIT_ULL(1)) }, false,
	  -EUCLEAN, { "corrupt", "qemu-img check", "read-only" } },
	{ "corrupt image", { BE64(incompatible_features, BIT_ULL(1)) }, false,
	  -EUCLEAN, { "corrupt", "qemu-img check", "read-only" } },
	{ "unknown feature", { BE64(incompatible_features, BIT_ULL(5)) },
	  true, -EOPNOTSUPP, { "unknown feature", "bit 5" } },
	{ "unknown feature of the highest bit",
	  { BE64(incompatible_features, BIT_ULL(63)) }, false, -EOPNOTSUPP,
	  { "unknown feature", "bit 63" } },
	{ "unknown feature beside a known one",
	  { BE64(incompatible_features, BIT_ULL(0) | BIT_ULL(40)) }, true,
	  -EOPNOTSUPP, { "unknown feature", "bit 40" } },
	{ "unknown feature with its name in the table",
	  { BE64(incompatible_features, BIT_ULL(7)),
	    EXT(0, 0x6803f857), EXT(4, 48) }, false,
	  -EOPNOTSUPP, { "'time travel'", "bit 7" }, "\0\7time travel" },
	{ "a compatible feature's name is not used for it",
	  { BE64(incompatible_features, BIT_ULL(7)),
	    EXT(0, 0x6803f857), EXT(4, 48), EXT_BYTE(8, 1) }, false,
	  -EOPNOTSUPP, { "unknown feature", "bit 7" }, "\0\7time travel" },
	{ "a name that the extension cuts off is not used",
	  { BE64(incompatible_features, BIT_ULL(7)),
	    EXT(0, 0x6803f857), EXT(4, 47) }, false,
	  -EOPNOTSUPP, { "unknown feature", "bit 7" }, "\0\7time travel" },
	{ "compression type without its feature bit",
	  { BE32(header_length, 112), BYTE(compression_type, 1) }, false,
	  -EUCLEAN, { "compression type is 1", "clear" } },
	{ "compression's feature bit without a type",
	  { BE64(incompatible_features, QCOW2_INCOMPAT_COMPRESSION) }, true,
	  -EUCLEAN, { "compression type is 0", "set" } },
	{ "compression type 2",
	  { BE64(incompatible_features, QCOW2_INCOMPAT_COMPRESSION),
	    BE32(header_length, 112), BYTE(compression_type, 2) }, true,
	  -EOPNOTSUPP, { "compression type 2", "zlib", "zstd" } },

	/* Encryption and backing file. */
	{ "AES", { BE32(crypt_method, 1) }, true, -EOPNOTSUPP, { "AES" } },
	{ "unknown encryption", { BE32(crypt_method, 3) }, true, -EUCLEAN,
	  { "method is 3", "0 to 2" } },
	{ "backing file's name behind the first cluster",
	  { BE64(backing_file_offset, 65537), BE32(backing_file_size, 1) },
	  true, -EUCLEAN, { "offset 65537", "65536 bytes" } },
	{ "backing file's name at 2^64 - 1",
	  { BE64(backing_file_offset, U64_MAX), BE32(backing_file_size, 1) },
	  true, -EUCLEAN, { "offset 18446744073709551615", "65536 bytes" } },
	{ "backing file's name out of the first cluster",
	  { BE64(backing_file_offset, 65530), BE32(backing_file_size, 7) },
	  true, -EUCLEAN, { "7 bytes", "at most 6" } },
	{ "backing file's name of 1024 bytes",
	  { BE64(backing_file_offset, 120), BE32(backing_file_size, 1024) },
	  true, -EUCLEAN, { "1024 bytes", "at most 1023" } },

	/* Refcount table. */
	{ "no refcount table", { BE32(refcount_table_clusters, 0) }, false,
	  -EUCLEAN, { "no refcount table" } },
	{ "refcount table of 8 MiB and a cluster",
	  { BE32(refcount_table_clusters, 129) }, false, -EUCLEAN,
	  { "refcount table", "129", "at most 128" } },
	{ "refcount table of 2^32 - 1 clusters",
	  { BE32(refcount_table_clusters, U32_MAX) }, false, -EUCLEAN,
	  { "refcount table", "4294967295", "at most 128" } },
	{ "refcount table that is not aligned",
	  { BE64(refcount_table_offset, 65536 + 512) }, false, -EUCLEAN,
	  { "refcount table", "0x10200", "multiple of the cluster size" } },
	{ "refcount table across 2^64",
	  { BE64(refcount_table_offset, 0xffffffffffff0000) }, false,
	  -EUCLEAN, { "refcount table", "0xffffffffffff0000", "outside" } },
	{ "refcount table across 2^63",
	  { BE64(refcount_table_offset, 0x7fffffffffff0000) }, false,
	  -EUCLEAN, { "refcount table", "0x7fffffffffff0000", "outside" } },
	{ "refcount table on the header", { BE64(refcount_table_offset, 0) },
	  false, -EUCLEAN, { "refcount table", "on the header" } },

	/* Snapshots. */
	{ "65537 snapshots", { BE32(nb_snapshots, 65537) }, false, -EUCLEAN,
	  { "65537", "at most 65536" } },
	{ "snapshot table that is not aligned",
	  { BE32(nb_snapshots, 1), BE64(snapshots_offset, 65536 + 8) },
	  false, -EUCLEAN,
	  { "snapshot table", "0x10008", "multiple of the cluster size" } },
	{ "snapshot table across 2^64",
	  { BE32(nb_snapshots, 65536),
	    BE64(snapshots_offset, 0xffffffffffff0000) },
	  false, -EUCLEAN, { "snapshot table", "outside" } },

	/* Bitmaps. */
	{ "bitmaps extension of 16 bytes",
	  { BE64(autoclear_features, 1), EXT(0, 0x23852875), EXT(4, 16) },
	  false, -EUCLEAN, { "bitmaps", "16 bytes", "wanted 24" } },
	{ "bitmaps extension of 16 bytes that means nothing",
	  { EXT(0, 0x23852875), EXT(4, 16) },
	  true, -EUCLEAN, { "bitmaps", "16 bytes", "wanted 24" } },
	{ "bitmaps extension with something in its reserved member",
	  { BE64(autoclear_features, 1), EXT(0, 0x23852875), EXT(4, 24),
	    EXT(12, 7) },
	  true, -EUCLEAN, { "0x00000007", "reserved", "wanted 0" } },
	{ "bitmaps extension without bitmaps",
	  { BE64(autoclear_features, 1), EXT(0, 0x23852875), EXT(4, 24) },
	  true, -EUCLEAN, { "0 persistent bitmaps", "wanted 1 to 65535" } },
	{ "65536 bitmaps",
	  { BE64(autoclear_features, 1), EXT(0, 0x23852875), EXT(4, 24),
	    EXT(8, 65536) },
	  false, -EUCLEAN, { "65536 persistent bitmaps", "1 to 65535" } },
	{ "bitmap directory of 64 MiB and a byte",
	  { BE64(autoclear_features, 1), EXT(0, 0x23852875), EXT(4, 24),
	    EXT(8, 1), EXT(20, SZ_64M + 1) },
	  false, -EUCLEAN, { "bitmap directory", "67108865" } },
	{ "bitmap directory that is not aligned",
	  { BE64(autoclear_features, 1), EXT(0, 0x23852875), EXT(4, 24),
	    EXT(8, 1), EXT(28, 512) },
	  false, -EUCLEAN,
	  { "bitmap directory", "0x200", "multiple of the cluster size" } },

	/* L1 table and virtual size. */
	{ "L1 table too short for the virtual size",
	  { BE64(size, (2ULL << 29) + 512) }, false, -EUCLEAN,
	  { "2 entries", "wanted 3" } },
	{ "L1 table of 32 MiB and an entry",
	  { BE32(l1_size, SZ_32M / 8 + 1) }, false, -EUCLEAN,
	  { "L1 table", "4194305", "at most 4194304" } },
	{ "L1 table of 2^32 - 1 entries", { BE32(l1_size, U32_MAX) }, false,
	  -EUCLEAN, { "L1 table", "4294967295", "at most 4194304" } },
	{ "L1 table that is not aligned",
	  { BE64(l1_table_offset, 3 * 65536 + 8) }, false, -EUCLEAN,
	  { "L1 table", "0x30008", "multiple of the cluster size" } },
	{ "L1 table across 2^64",
	  { BE64(l1_table_offset, 0xffffffffffff0000),
	    BE32(l1_size, SZ_32M / 8) },
	  false, -EUCLEAN, { "L1 table", "0xffffffffffff0000", "outside" } },
	{ "L1 table across 2^63",
	  { BE64(l1_table_offset, 0x7fffffffffff0000),
	    BE32(l1_size, SZ_32M / 8) },
	  false, -EUCLEAN, { "L1 table", "0x7fffffffffff0000", "outside" } },
	{ "L1 table on the header", { BE64(l1_table_offset, 0) }, false,
	  -EUCLEAN, { "L1 table", "on the header" } },
	{ "virtual size of 2^63 bytes", { BE64(size, BIT_ULL(63)) }, false,
	  -EUCLEAN, { "9223372036854775808", "too large" } },
	{ "virtual size of 2^64 - 1 bytes", { BE64(size, U64_MAX) }, false,
	  -EUCLEAN, { "18446744073709551615", "too large" } },
	{ "virtual size that needs 2^31 L1 entries",
	  { BE64(size, BIT_ULL(31 + 29)) }, false, -EUCLEAN,
	  { "1152921504606846976", "too large" } },
};

KUNIT_ARRAY_PARAM_DESC(refused, refused, name);

static void is_refused(struct kunit *test)
{
	const struct refused *row = test->param_value;
	void *buf = first_cluster(test, 3, 16);
	struct qcow2_geometry geo;
	struct qcow2_reason why = {};
	size_t i;

	if (row->text)
		memcpy(buf + QCOW2_HEADER_V3_BYTES + 8, row->text,
		       2 + strlen(row->text + 2));
	for (i = 0; i < ARRAY_SIZE(row->patch); i++)
		apply(buf, &row->patch[i]);
	KUNIT_EXPECT_EQ(test, row->error,
			qcow2_header_decode(buf, SZ_64K, row->read_only, &geo,
					    &why));
	for (i = 0; i < ARRAY_SIZE(row->says) && row->says[i]; i++)
		KUNIT_EXPECT_NOT_NULL_MSG(test,
					  strstr(why.text, row->says[i]),
					  "'%s' lacks '%s'", why.text,
					  row->says[i]);
	KUNIT_EXPECT_NULL(test, strchr(why.text, '\n'));
}

static void a_raw_data_file_takes_two_bits(struct kunit *test)
{
	void *buf = first_cluster(test, 3, 16);
	struct patch has_one = BE64(incompatible_features,
				    QCOW2_INCOMPAT_DATA_FILE);
	struct patch is_raw = BE64(autoclear_features,
				   QCOW2_AUTOCLEAR_DATA_FILE_RAW);
	struct qcow2_geometry geo;

	apply(buf, &is_raw);
	KUNIT_EXPECT_EQ(test, -EUCLEAN,
			qcow2_header_decode(buf, SZ_64K, false, &geo, NULL));
	KUNIT_EXPECT_FALSE(test, geo.has_data_file);
	KUNIT_EXPECT_FALSE(test, geo.raw_data);
	apply(buf, &has_one);
	KUNIT_EXPECT_EQ(test, 0, qcow2_header_decode(buf, SZ_64K, false, &geo,
						     NULL));
	KUNIT_EXPECT_TRUE(test, geo.has_data_file);
	KUNIT_EXPECT_TRUE(test, geo.raw_data);
}

static void a_file_without_a_whole_header_is_refused(struct kunit *test)
{
	void *buf = first_cluster(test, 3, 16);
	struct qcow2_geometry geo;
	struct qcow2_reason why = {};

	KUNIT_EXPECT_EQ(test, -EUCLEAN,
			qcow2_header_decode(buf, 111, false, &geo, &why));
	KUNIT_EXPECT_NOT_NULL(test, strstr(why.text, "111 bytes"));
}

static void a_feature_name_may_fill_its_row(struct kunit *test)
{
	void *buf = first_cluster(test, 3, 16);
	struct patch head[] = { EXT(0, 0x6803f857), EXT(4, 96), EXT_BYTE(9, 7) };
	struct patch bit = BE64(incompatible_features, BIT_ULL(7));
	char name[46 + 2 + 1] = "'";
	struct qcow2_geometry geo;
	struct qcow2_reason why = {};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(head); i++)
		apply(buf, &head[i]);
	apply(buf, &bit);
	/* 46 letters without an end, and the next row right behind them */
	memset(buf + 114, 'x', 46);
	memset(buf + 160, 'y', 48);
	memset(name + 1, 'x', 46);
	name[47] = '\'';
	KUNIT_EXPECT_EQ(test, -EOPNOTSUPP,
			qcow2_header_decode(buf, SZ_64K, false, &geo, &why));
	KUNIT_EXPECT_NOT_NULL_MSG(test, strstr(why.text, name), "%s", why.text);
}

static void without_a_place_for_the_reason_the_error_is_the_same(struct kunit *test)
{
	void *buf = first_cluster(test, 3, 16);
	struct patch magic = BE32(magic, 0);
	struct qcow2_geometry geo;

	apply(buf, &magic);
	KUNIT_EXPECT_EQ(test, -EUCLEAN,
			qcow2_header_decode(buf, SZ_64K, false, &geo, NULL));
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(valid_header_is_decoded, sizes_gen_params),
	KUNIT_CASE_PARAM(part_of_a_cluster_is_not_enough, sizes_gen_params),
	KUNIT_CASE_PARAM(is_accepted, accepted_gen_params),
	KUNIT_CASE_PARAM(is_refused, refused_gen_params),
	KUNIT_CASE(a_raw_data_file_takes_two_bits),
	KUNIT_CASE(a_file_without_a_whole_header_is_refused),
	KUNIT_CASE(a_feature_name_may_fill_its_row),
	KUNIT_CASE(without_a_place_for_the_reason_the_error_is_the_same),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_header",
	.test_cases = cases,
};

kunit_test_suite(suite);
