// SPDX-License-Identifier: GPL-2.0-only
/*
 * The image header: decoded once, checked whole.
 */

/**
 * DOC: header
 *
 * The first cluster of an image is decoded into a struct qcow2_geometry here
 * and nowhere else.  Nothing that it says is believed before it was checked,
 * by the rules that QEMU applies when it opens an image (qcow2_do_open() and
 * qcow2_validate_table()), and each refusal says what was found and what is
 * wanted.  The functions are pure, so KUnit and the fuzzer call them directly.
 */

#include <linux/align.h>
#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/limits.h>
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/string.h>
#include <asm/byteorder.h>

#include "image.h"

/* The bits that this driver serves; CORRUPT when read-only. */
#define INCOMPAT_SERVED		(QCOW2_INCOMPAT_DIRTY | \
				 QCOW2_INCOMPAT_DATA_FILE | \
				 QCOW2_INCOMPAT_COMPRESSION | \
				 QCOW2_INCOMPAT_EXTL2)
#define INCOMPAT_SERVED_RO	QCOW2_INCOMPAT_CORRUPT

struct known_feature {
	u64 bit;
	int error;
	const char *what;
};

static const struct known_feature known_features[] = {
	{ QCOW2_INCOMPAT_CORRUPT, -EUCLEAN,
	  "image is marked corrupt; 'qemu-img check -r all' it or attach read-only" },
};

static int check_magic(const struct qcow2_disk_header *h,
		       struct qcow2_reason *why)
{
	u32 magic = be32_to_cpu(h->magic);
	u32 version = be32_to_cpu(h->version);

	if (magic != QCOW2_MAGIC)
		return qcow2_refuse(why, -EUCLEAN,
				    "not a qcow2 image: magic number is 0x%08x, wanted 0x%08x; 'qemu-img info' tells what it is",
				    magic, QCOW2_MAGIC);
	if (version != 2 && version != 3)
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "version %u of the format is unknown, wanted 2 or 3",
				    version);
	return 0;
}

static int decode_clusters(const struct qcow2_disk_header *h,
			   struct qcow2_geometry *geo,
			   struct qcow2_reason *why)
{
	u32 bits = be32_to_cpu(h->cluster_bits);

	if (bits < QCOW2_MIN_CLUSTER_BITS || bits > QCOW2_MAX_CLUSTER_BITS)
		return qcow2_refuse(why, -EUCLEAN,
				    "cluster_bits is %u, wanted %u to %u", bits,
				    QCOW2_MIN_CLUSTER_BITS,
				    QCOW2_MAX_CLUSTER_BITS);
	geo->cluster_bits = bits;
	geo->cluster_bytes = 1U << bits;
	return 0;
}

/* The members that version 2 lacks, with the values that it implies. */
static int decode_v3(const struct qcow2_disk_header *h,
		     struct qcow2_geometry *geo, struct qcow2_reason *why)
{
	geo->version = be32_to_cpu(h->version);
	if (geo->version == 2) {
		geo->refcount_order = 4;
		geo->header_bytes = QCOW2_HEADER_V2_BYTES;
		return 0;
	}
	geo->incompatible = be64_to_cpu(h->incompatible_features);
	geo->compatible = be64_to_cpu(h->compatible_features);
	geo->autoclear = be64_to_cpu(h->autoclear_features);
	geo->refcount_order = be32_to_cpu(h->refcount_order);
	geo->header_bytes = be32_to_cpu(h->header_length);
	geo->has_data_file = geo->incompatible & QCOW2_INCOMPAT_DATA_FILE;
	geo->raw_data = geo->has_data_file &&
			(geo->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW);
	if (geo->header_bytes < QCOW2_HEADER_V3_BYTES)
		return qcow2_refuse(why, -EUCLEAN,
				    "header is %u bytes long, wanted at least %u",
				    geo->header_bytes, QCOW2_HEADER_V3_BYTES);
	if (geo->header_bytes > geo->cluster_bytes)
		return qcow2_refuse(why, -EUCLEAN,
				    "header is %u bytes long, more than a cluster of %u",
				    geo->header_bytes, geo->cluster_bytes);
	if (!IS_ALIGNED(geo->header_bytes, 8))
		return qcow2_refuse(why, -EUCLEAN,
				    "header is %u bytes long, not a multiple of 8",
				    geo->header_bytes);
	if (geo->refcount_order > QCOW2_MAX_REFCOUNT_ORDER)
		return qcow2_refuse(why, -EUCLEAN,
				    "refcount_order is %u, wanted at most %u",
				    geo->refcount_order,
				    QCOW2_MAX_REFCOUNT_ORDER);
	return 0;
}

/* Where the extensions end: at the backing file's name or the cluster's end. */
static int extensions_end(const struct qcow2_disk_header *h,
			  const struct qcow2_geometry *geo, u32 *end,
			  struct qcow2_reason *why)
{
	u64 backing = be64_to_cpu(h->backing_file_offset);

	*end = geo->cluster_bytes;
	if (!backing)
		return 0;
	if (backing > geo->cluster_bytes)
		return qcow2_refuse(why, -EUCLEAN,
				    "backing file name at offset %llu is outside of the first cluster (%u bytes)",
				    backing, geo->cluster_bytes);
	*end = backing;
	return 0;
}

/**
 * struct extensions - what was found in the header extensions
 * @names: feature name table, NULL if there is none
 * @nr_names: its number of rows
 * @bitmaps: persistent bitmaps, NULL if there are none
 * @bitmaps_bytes: length of that extension
 * @format_bytes: length of the longest name of a backing file's format
 * @has_luks: there is one for a LUKS header
 */
struct extensions {
	const struct qcow2_disk_feature_name *names;
	u32 nr_names;
	const struct qcow2_disk_bitmaps *bitmaps;
	u32 bitmaps_bytes;
	u32 format_bytes;
	bool has_luks;
};

static void take_extension(struct extensions *ext, u32 type, const void *data,
			   u32 bytes)
{
	switch (type) {
	case QCOW2_EXT_FEATURE_NAMES:
		ext->names = data;
		ext->nr_names = bytes / sizeof(*ext->names);
		break;
	case QCOW2_EXT_BITMAPS:
		ext->bitmaps = data;
		ext->bitmaps_bytes = bytes;
		break;
	case QCOW2_EXT_BACKING_FORMAT:
		ext->format_bytes = max(ext->format_bytes, bytes);
		break;
	case QCOW2_EXT_LUKS:
		ext->has_luks = true;
		break;
	}
}

/* The end mark too has a length, which must not lie. */
static int find_extensions(const void *buf, u32 pos, u32 end,
			   struct extensions *ext, struct qcow2_reason *why)
{
	while (pos < end) {
		const struct qcow2_disk_extension *head = buf + pos;
		u32 type, bytes;

		if (end - pos < sizeof(*head))
			return qcow2_refuse(why, -EUCLEAN,
					    "header extensions end at offset %u, in the head of one at offset %u",
					    end, pos);
		type = be32_to_cpu(head->type);
		bytes = be32_to_cpu(head->length);
		pos += sizeof(*head);
		if (bytes > end - pos)
			return qcow2_refuse(why, -EUCLEAN,
					    "header extension 0x%08x is %u bytes long, but only %u are left for it",
					    type, bytes, end - pos);
		if (type == QCOW2_EXT_END)
			return 0;
		take_extension(ext, type, buf + pos, bytes);
		pos += min(ALIGN(bytes, 8), end - pos);
	}
	return 0;
}

static int refuse_unknown_feature(u32 bit, const struct extensions *ext,
				  struct qcow2_reason *why)
{
	u32 i;

	for (i = 0; i < ext->nr_names; i++) {
		const struct qcow2_disk_feature_name *row = &ext->names[i];

		if (row->kind == 0 && row->bit == bit)
			return qcow2_refuse(why, -EOPNOTSUPP,
					    "image needs the feature '%.*s' (incompatible bit %u), which this driver does not know",
					    (int)sizeof(row->name), row->name,
					    bit);
	}
	return qcow2_refuse(why, -EOPNOTSUPP,
			    "image needs an unknown feature (incompatible bit %u)",
			    bit);
}

static int check_features(const struct qcow2_geometry *geo, bool read_only,
			  const struct extensions *ext,
			  struct qcow2_reason *why)
{
	u64 served = INCOMPAT_SERVED | (read_only ? INCOMPAT_SERVED_RO : 0);
	u64 refused = geo->incompatible & ~served;
	unsigned int i;

	if (!refused)
		return 0;
	for (i = 0; i < ARRAY_SIZE(known_features); i++)
		refused &= ~known_features[i].bit;
	if (refused)
		return refuse_unknown_feature(__ffs64(refused), ext, why);
	refused = geo->incompatible & ~served;
	for (i = 0; i < ARRAY_SIZE(known_features); i++)
		if (refused & known_features[i].bit)
			return qcow2_refuse(why, known_features[i].error, "%s",
					    known_features[i].what);
	return 0;
}

/* The image says that a file is raw which it does not have. */
static int check_raw_data(const struct qcow2_geometry *geo,
			  struct qcow2_reason *why)
{
	if (geo->has_data_file ||
	    !(geo->autoclear & QCOW2_AUTOCLEAR_DATA_FILE_RAW))
		return 0;
	return qcow2_refuse(why, -EUCLEAN,
			    "autoclear bit 1 (raw external data) is set, but incompatible bit 2 (external data file) is clear");
}

/* An image says twice whether its compression is zlib; both must agree. */
static int decode_compression(const struct qcow2_disk_header *h,
			      struct qcow2_geometry *geo,
			      struct qcow2_reason *why)
{
	bool bit = geo->incompatible & QCOW2_INCOMPAT_COMPRESSION;
	u8 type = QCOW2_COMPRESSION_ZLIB;

	if (geo->header_bytes > offsetof(struct qcow2_disk_header,
					 compression_type))
		type = h->compression_type;
	if (type == QCOW2_COMPRESSION_ZLIB ? bit : !bit)
		return qcow2_refuse(why, -EUCLEAN,
				    "compression type is %u, but incompatible bit 3 is %s",
				    type, bit ? "set" : "clear");
	if (type > QCOW2_COMPRESSION_ZSTD)
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "compression type %u is unknown, wanted %u (zlib) or %u (zstd)",
				    type, QCOW2_COMPRESSION_ZLIB,
				    QCOW2_COMPRESSION_ZSTD);
	geo->compression_type = type;
	return 0;
}

static int check_encryption(const struct qcow2_disk_header *h,
			    const struct extensions *ext,
			    struct qcow2_reason *why)
{
	u32 method = be32_to_cpu(h->crypt_method);

	if (ext->has_luks && method != QCOW2_CRYPT_LUKS)
		return qcow2_refuse(why, -EUCLEAN,
				    "image has a LUKS header, but its encryption method is %u, wanted %u",
				    method, QCOW2_CRYPT_LUKS);
	switch (method) {
	case QCOW2_CRYPT_NONE:
		return 0;
	case QCOW2_CRYPT_AES:
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "image is encrypted (AES), which this driver does not serve yet");
	case QCOW2_CRYPT_LUKS:
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "image is encrypted (LUKS), which this driver does not serve yet");
	default:
		return qcow2_refuse(why, -EUCLEAN,
				    "encryption method is %u, wanted 0 to 2",
				    method);
	}
}

static int decode_backing(const struct qcow2_disk_header *h,
			  const struct extensions *ext,
			  struct qcow2_geometry *geo, struct qcow2_reason *why)
{
	u64 offset = be64_to_cpu(h->backing_file_offset);
	u32 bytes = be32_to_cpu(h->backing_file_size);
	u32 max;

	if (ext->format_bytes > QCOW2_MAX_BACKING_FORMAT_BYTES)
		return qcow2_refuse(why, -EUCLEAN,
				    "name of the backing file's format is %u bytes long, wanted at most %u",
				    ext->format_bytes,
				    QCOW2_MAX_BACKING_FORMAT_BYTES);
	if (!offset)
		return 0;
	max = min_t(u32, QCOW2_MAX_BACKING_NAME_BYTES,
		    geo->cluster_bytes - offset);
	if (bytes > max)
		return qcow2_refuse(why, -EUCLEAN,
				    "backing file name is %u bytes long, wanted at most %u",
				    bytes, max);
	geo->has_backing = bytes;
	return 0;
}

static void decode_l2(struct qcow2_geometry *geo)
{
	bool extl2 = geo->incompatible & QCOW2_INCOMPAT_EXTL2;
	u32 entry_bits = extl2 ? 4 : 3;

	geo->l2_entry_words = extl2 ? 2 : 1;
	geo->subclusters = extl2 ? QCOW2_SUBCLUSTERS_EXTL2 : 1;
	geo->subcluster_bits = geo->cluster_bits - ilog2(geo->subclusters);
	geo->slice_bits = min_t(u32, geo->cluster_bits, PAGE_SHIFT);
	geo->l2_bits = geo->cluster_bits - entry_bits;
	geo->l2_slice_bits = geo->slice_bits - entry_bits;
	geo->refblock_bits = geo->cluster_bits + 3 - geo->refcount_order;
	geo->refslice_bits = geo->slice_bits + 3 - geo->refcount_order;
}

static int check_extl2(const struct qcow2_geometry *geo,
		       struct qcow2_reason *why)
{
	if (qcow2_has_extl2(geo) &&
	    geo->cluster_bits < QCOW2_MIN_CLUSTER_BITS_EXTL2)
		return qcow2_refuse(why, -EUCLEAN,
				    "extended L2 entries with clusters of %u bytes, wanted at least %u",
				    geo->cluster_bytes,
				    1U << QCOW2_MIN_CLUSTER_BITS_EXTL2);
	return 0;
}

/**
 * qcow2_check_table() - can a table be where the image says?
 * @geo: the geometry
 * @what: what it is, for @why
 * @offset: host offset in bytes
 * @entries: number of entries
 * @entry_bytes: length of an entry, of the shortest if they differ
 * @max_bytes: greatest length of the table
 * @why: filled in on failure
 *
 * QEMU: qcow2_validate_table().
 *
 * Context: any.
 * Return: 0 or -EUCLEAN.
 */
int qcow2_check_table(const struct qcow2_geometry *geo, const char *what,
		      u64 offset, u64 entries, u32 entry_bytes, u64 max_bytes,
		      struct qcow2_reason *why)
{
	u64 bytes, end;

	if (entries > max_bytes / entry_bytes)
		return qcow2_refuse(why, -EUCLEAN,
				    "%s has %llu entries, wanted at most %llu",
				    what, entries, max_bytes / entry_bytes);
	bytes = entries * entry_bytes;
	if (check_add_overflow(offset, bytes, &end) ||
	    end > QCOW2_MAX_HOST_OFFSET)
		return qcow2_refuse(why, -EUCLEAN,
				    "%s at offset 0x%llx is outside of any file",
				    what, offset);
	if (qcow2_into_cluster(geo, offset))
		return qcow2_refuse(why, -EUCLEAN,
				    "%s offset 0x%llx is not a multiple of the cluster size",
				    what, offset);
	return 0;
}

static int decode_refcounts(const struct qcow2_disk_header *h,
			    struct qcow2_geometry *geo,
			    struct qcow2_reason *why)
{
	geo->reftable_offset = be64_to_cpu(h->refcount_table_offset);
	geo->reftable_clusters = be32_to_cpu(h->refcount_table_clusters);
	if (geo->reftable_clusters == 0)
		return qcow2_refuse(why, -EUCLEAN,
				    "image has no refcount table");
	return qcow2_check_table(geo, "refcount table", geo->reftable_offset,
				 geo->reftable_clusters, geo->cluster_bytes,
				 QCOW2_MAX_REFTABLE_BYTES, why);
}

static int decode_snapshots(const struct qcow2_disk_header *h,
			    struct qcow2_geometry *geo,
			    struct qcow2_reason *why)
{
	const u32 entry_bytes = sizeof(struct qcow2_disk_snapshot);

	geo->snapshots_offset = be64_to_cpu(h->snapshots_offset);
	geo->nb_snapshots = be32_to_cpu(h->nb_snapshots);
	if (geo->nb_snapshots > QCOW2_MAX_SNAPSHOTS)
		return qcow2_refuse(why, -EUCLEAN,
				    "image has %u internal snapshots, wanted at most %u",
				    geo->nb_snapshots, QCOW2_MAX_SNAPSHOTS);
	return qcow2_check_table(geo, "snapshot table", geo->snapshots_offset,
				 geo->nb_snapshots, entry_bytes,
				 QCOW2_MAX_SNAPSHOT_TABLE_BYTES, why);
}

/**
 * qcow2_check_virtual_size() - is there an L1 table for a disk of this size?
 * @geo: the geometry
 * @l1_entries: set to how many entries it wants
 * @why: filled in on failure
 *
 * Context: any.
 * Return: 0 or -EUCLEAN.
 */
int qcow2_check_virtual_size(const struct qcow2_geometry *geo, u64 *l1_entries,
			     struct qcow2_reason *why)
{
	u32 shift = geo->l2_bits + geo->cluster_bits;

	*l1_entries = (geo->virtual_bytes >> shift) +
		      !!(geo->virtual_bytes & (BIT_ULL(shift) - 1));
	if (geo->virtual_bytes <= S64_MAX && *l1_entries <= INT_MAX)
		return 0;
	return qcow2_refuse(why, -EUCLEAN,
			    "virtual size of %llu bytes is too large",
			    geo->virtual_bytes);
}

static int decode_l1(const struct qcow2_disk_header *h,
		     struct qcow2_geometry *geo, struct qcow2_reason *why)
{
	u64 wanted;
	int ret;

	geo->virtual_bytes = be64_to_cpu(h->size);
	geo->l1_entries = be32_to_cpu(h->l1_size);
	geo->l1_offset = be64_to_cpu(h->l1_table_offset);
	ret = qcow2_check_virtual_size(geo, &wanted, why);
	if (ret)
		return ret;
	if (geo->l1_entries < wanted)
		return qcow2_refuse(why, -EUCLEAN,
				    "L1 table has %u entries, wanted %llu for the virtual size",
				    geo->l1_entries, wanted);
	return qcow2_check_table(geo, "L1 table", geo->l1_offset,
				 geo->l1_entries, sizeof(u64),
				 QCOW2_MAX_L1_BYTES, why);
}

/*
 * Where persistent bitmaps are.  Without the autoclear bit they mean nothing, and
 * their clusters may be in use for something else.  What is in their directory
 * matters to a repair only: nobody here reads a bitmap.
 */
static int decode_bitmaps(const struct extensions *ext,
			  struct qcow2_geometry *geo, struct qcow2_reason *why)
{
	const struct qcow2_disk_bitmaps *disk = ext->bitmaps;

	if (!disk)
		return 0;
	if (ext->bitmaps_bytes != sizeof(*disk))
		return qcow2_refuse(why, -EUCLEAN,
				    "bitmaps extension is %u bytes long, wanted %zu",
				    ext->bitmaps_bytes, sizeof(*disk));
	if (!(geo->autoclear & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	if (disk->reserved)
		return qcow2_refuse(why, -EUCLEAN,
				    "bitmaps extension has 0x%08x in its reserved member, wanted 0",
				    be32_to_cpu(disk->reserved));
	geo->nb_bitmaps = be32_to_cpu(disk->nb_bitmaps);
	geo->bitmaps_bytes = be64_to_cpu(disk->bitmap_directory_size);
	geo->bitmaps_offset = be64_to_cpu(disk->bitmap_directory_offset);
	if (!geo->nb_bitmaps || geo->nb_bitmaps > QCOW2_MAX_BITMAPS)
		return qcow2_refuse(why, -EUCLEAN,
				    "image has %u persistent bitmaps, wanted 1 to %u",
				    geo->nb_bitmaps, QCOW2_MAX_BITMAPS);
	return qcow2_check_table(geo, "bitmap directory", geo->bitmaps_offset,
				 geo->bitmaps_bytes, 1,
				 QCOW2_MAX_BITMAP_DIRECTORY_BYTES, why);
}

/* Tables must not lie on the header, which a write to them would destroy. */
static int check_not_header(const struct qcow2_geometry *geo,
			    struct qcow2_reason *why)
{
	if (!geo->reftable_offset)
		return qcow2_refuse(why, -EUCLEAN,
				    "refcount table lies on the header");
	if (geo->l1_entries && !geo->l1_offset)
		return qcow2_refuse(why, -EUCLEAN,
				    "L1 table lies on the header");
	return 0;
}

/**
 * qcow2_header_decode() - decode and check an image's first cluster
 * @buf: first bytes of the image
 * @bytes: number of them: a header's size at least; to have the extensions
 *	checked too, the first cluster
 * @read_only: the image will only be read
 * @geo: filled in
 * @why: filled in on failure
 *
 * When @bytes is less than the cluster size only @geo's cluster size is sure
 * to be right; call again with the whole first cluster.
 *
 * Context: any.
 * Return: 0; -EUCLEAN if this is no valid qcow2 image; -EOPNOTSUPP if it is,
 * but needs what this driver lacks; -EAGAIN if @bytes is less than a cluster.
 */
int qcow2_header_decode(const void *buf, size_t bytes, bool read_only,
			struct qcow2_geometry *geo, struct qcow2_reason *why)
{
	const struct qcow2_disk_header *h = buf;
	struct extensions ext = {};
	u32 end;
	int ret;

	memset(geo, 0, sizeof(*geo));
	if (bytes < sizeof(*h))
		return qcow2_refuse(why, -EUCLEAN,
				    "not a qcow2 image: only %zu bytes long; 'qemu-img info' tells what it is",
				    bytes);
	ret = check_magic(h, why);
	ret = ret ?: decode_clusters(h, geo, why);
	if (ret)
		return ret;
	if (bytes < geo->cluster_bytes)
		return -EAGAIN;
	ret = decode_v3(h, geo, why);
	ret = ret ?: extensions_end(h, geo, &end, why);
	if (ret)
		return ret;
	if (end > geo->header_bytes)
		ret = find_extensions(buf, geo->header_bytes, end, &ext, why);
	ret = ret ?: decode_compression(h, geo, why);
	ret = ret ?: check_features(geo, read_only, &ext, why);
	ret = ret ?: check_raw_data(geo, why);
	ret = ret ?: check_encryption(h, &ext, why);
	if (ret)
		return ret;
	decode_l2(geo);
	ret = check_extl2(geo, why);
	ret = ret ?: decode_refcounts(h, geo, why);
	ret = ret ?: decode_snapshots(h, geo, why);
	ret = ret ?: decode_l1(h, geo, why);
	ret = ret ?: check_not_header(geo, why);
	ret = ret ?: decode_bitmaps(&ext, geo, why);
	ret = ret ?: decode_backing(h, &ext, geo, why);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_header_decode);
