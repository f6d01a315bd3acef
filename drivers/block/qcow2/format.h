/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The qcow2 format as it lies on disk.
 *
 * Only this file knows big-endian types and bit positions.  The words are
 * those of the specification (QEMU's docs/interop/qcow2), whose section is
 * named at each structure.
 */
#ifndef _QCOW2_FORMAT_H
#define _QCOW2_FORMAT_H

#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/sizes.h>
#include <linux/stddef.h>
#include <linux/types.h>

#define QCOW2_MAGIC			0x514649fbU	/* "QFI\xfb" */

#define QCOW2_SECTOR_BYTES		512

/* What QEMU accepts; an image outside of it was not made by any tool. */
#define QCOW2_MIN_CLUSTER_BITS		9
#define QCOW2_MAX_CLUSTER_BITS		21
#define QCOW2_MIN_CLUSTER_BITS_EXTL2	14
#define QCOW2_MAX_REFCOUNT_ORDER	6
#define QCOW2_MAX_L1_BYTES		SZ_32M
#define QCOW2_MAX_REFTABLE_BYTES	SZ_8M
#define QCOW2_MAX_SNAPSHOTS		65536
#define QCOW2_MAX_SNAPSHOT_TABLE_BYTES	SZ_64M
#define QCOW2_MAX_SNAPSHOT_EXTRA_BYTES	1024
#define QCOW2_MAX_BACKING_NAME_BYTES	1023
#define QCOW2_MAX_BACKING_FORMAT_BYTES	15
#define QCOW2_MAX_BITMAPS		65535
#define QCOW2_MAX_BITMAP_DIRECTORY_BYTES SZ_64M
#define QCOW2_MAX_BITMAP_TABLE_BYTES	SZ_8M

#define QCOW2_SUBCLUSTERS_EXTL2		32

/* Section "Header", incompatible_features. */
#define QCOW2_INCOMPAT_DIRTY		BIT_ULL(0)
#define QCOW2_INCOMPAT_CORRUPT		BIT_ULL(1)
#define QCOW2_INCOMPAT_DATA_FILE	BIT_ULL(2)
#define QCOW2_INCOMPAT_COMPRESSION	BIT_ULL(3)
#define QCOW2_INCOMPAT_EXTL2		BIT_ULL(4)

/* Section "Header", autoclear_features. */
#define QCOW2_AUTOCLEAR_BITMAPS		BIT_ULL(0)
#define QCOW2_AUTOCLEAR_DATA_FILE_RAW	BIT_ULL(1)

/* Section "Header", compatible_features. */
#define QCOW2_COMPAT_LAZY_REFCOUNTS	BIT_ULL(0)

/* Section "Header", crypt_method. */
#define QCOW2_CRYPT_NONE		0
#define QCOW2_CRYPT_AES			1
#define QCOW2_CRYPT_LUKS		2

/* Section "Header", compression_type. */
#define QCOW2_COMPRESSION_ZLIB		0
#define QCOW2_COMPRESSION_ZSTD		1

/* Section "Header extensions". */
#define QCOW2_EXT_END			0x00000000U
#define QCOW2_EXT_BACKING_FORMAT	0xe2792acaU
#define QCOW2_EXT_FEATURE_NAMES		0x6803f857U
#define QCOW2_EXT_BITMAPS		0x23852875U
#define QCOW2_EXT_LUKS			0x0537be77U

/**
 * struct qcow2_disk_header - first bytes of the image, section "Header"
 * @magic: %QCOW2_MAGIC
 * @version: 2 or 3
 * @backing_file_offset: byte offset of the backing file's name, 0 if none
 * @backing_file_size: length of that name in bytes
 * @cluster_bits: log2 of the cluster size in bytes
 * @size: virtual size in bytes
 * @crypt_method: encryption of the guest data
 * @l1_size: number of entries of the active L1 table
 * @l1_table_offset: byte offset of the active L1 table
 * @refcount_table_offset: byte offset of the refcount table
 * @refcount_table_clusters: its length in clusters
 * @nb_snapshots: number of internal snapshots
 * @snapshots_offset: byte offset of the snapshot table
 * @incompatible_features: from here on version 3 only
 * @compatible_features: may be ignored when unknown
 * @autoclear_features: to be cleared by a writer that does not know them
 * @refcount_order: log2 of the width of a refcount in bits
 * @header_length: length of this structure in the image, in bytes
 * @compression_type: only there when @header_length exceeds 104
 * @padding: up to a multiple of 8
 */
struct qcow2_disk_header {
	__be32	magic;
	__be32	version;
	__be64	backing_file_offset;
	__be32	backing_file_size;
	__be32	cluster_bits;
	__be64	size;
	__be32	crypt_method;
	__be32	l1_size;
	__be64	l1_table_offset;
	__be64	refcount_table_offset;
	__be32	refcount_table_clusters;
	__be32	nb_snapshots;
	__be64	snapshots_offset;
	__be64	incompatible_features;
	__be64	compatible_features;
	__be64	autoclear_features;
	__be32	refcount_order;
	__be32	header_length;
	__u8	compression_type;
	__u8	padding[7];
} __packed;

#define QCOW2_HEADER_V2_BYTES	72
#define QCOW2_HEADER_V3_BYTES	104

/**
 * struct qcow2_disk_extension - head of a header extension
 * @type: what follows
 * @length: its length in bytes, padding to a multiple of 8 not counted
 */
struct qcow2_disk_extension {
	__be32	type;
	__be32	length;
} __packed;

/**
 * struct qcow2_disk_feature_name - one row of the feature name table
 * @kind: 0 incompatible, 1 compatible, 2 autoclear
 * @bit: number of the bit
 * @name: padded with zero bytes, without one when it is 46 bytes long
 */
struct qcow2_disk_feature_name {
	__u8	kind;
	__u8	bit;
	char	name[46];
} __packed;

/**
 * struct qcow2_disk_snapshot - head of a snapshot table entry, section
 *	"Snapshots"
 * @l1_table_offset: byte offset of the snapshot's L1 table
 * @l1_size: its number of entries
 * @id_str_size: length of the ID in bytes
 * @name_size: length of the name in bytes
 * @date_sec: when it was taken, in seconds since the epoch
 * @date_nsec: the rest of that time in nanoseconds
 * @vm_clock_nsec: how long the guest had run, in nanoseconds
 * @vm_state_size: length of the saved machine state in bytes
 * @extra_data_size: length of the extra data in bytes
 *
 * The extra data, the ID and the name follow; the next entry begins at the next
 * multiple of 8.
 */
struct qcow2_disk_snapshot {
	__be64	l1_table_offset;
	__be32	l1_size;
	__be16	id_str_size;
	__be16	name_size;
	__be32	date_sec;
	__be32	date_nsec;
	__be64	vm_clock_nsec;
	__be32	vm_state_size;
	__be32	extra_data_size;
} __packed;

/**
 * struct qcow2_disk_snapshot_extra - what the extra data begins with
 * @vm_state_size_large: length of the saved machine state in bytes
 * @disk_size: virtual size in bytes at that time
 */
struct qcow2_disk_snapshot_extra {
	__be64	vm_state_size_large;
	__be64	disk_size;
} __packed;

/**
 * struct qcow2_disk_bitmaps - the header extension of persistent bitmaps
 * @nb_bitmaps: number of entries of the bitmap directory
 * @reserved: 0
 * @bitmap_directory_size: length of the directory in bytes
 * @bitmap_directory_offset: byte offset of the directory
 */
struct qcow2_disk_bitmaps {
	__be32	nb_bitmaps;
	__be32	reserved;
	__be64	bitmap_directory_size;
	__be64	bitmap_directory_offset;
} __packed;

/**
 * struct qcow2_disk_bitmap - head of a bitmap directory entry, section "Bitmaps"
 * @bitmap_table_offset: byte offset of the bitmap's table
 * @bitmap_table_size: its number of entries
 * @flags: in use, auto, extra data compatible
 * @type: 1
 * @granularity_bits: log2 of the bytes that a bit stands for
 * @name_size: length of the name in bytes
 * @extra_data_size: length of the extra data in bytes
 *
 * The extra data and the name follow; the next entry begins at the next
 * multiple of 8.
 */
struct qcow2_disk_bitmap {
	__be64	bitmap_table_offset;
	__be32	bitmap_table_size;
	__be32	flags;
	__u8	type;
	__u8	granularity_bits;
	__be16	name_size;
	__be32	extra_data_size;
} __packed;

/* Section "Cluster mapping": entries of L1 and L2 tables. */
#define QCOW2_OFLAG_COPIED	BIT_ULL(63)
#define QCOW2_OFLAG_COMPRESSED	BIT_ULL(62)
#define QCOW2_OFLAG_ZERO	BIT_ULL(0)
#define QCOW2_OFFSET_MASK	GENMASK_ULL(55, 9)
#define QCOW2_L1_RESERVED_MASK	(GENMASK_ULL(62, 56) | GENMASK_ULL(8, 0))

/* Section "Extended L2 Entries": the second word. */
#define QCOW2_SUB_ALLOC(i)	BIT_ULL(i)
#define QCOW2_SUB_ZERO(i)	BIT_ULL((i) + 32)
/* Bits of subclusters first up to but not including end. */
#define QCOW2_SUB_RANGE(first, end) \
	(GENMASK_ULL(31, 0) & (BIT_ULL(end) - BIT_ULL(first)))

/* Section "Refcounts": a refcount table entry. */
#define QCOW2_REFTABLE_RESERVED_MASK	GENMASK_ULL(8, 0)
#define QCOW2_REFTABLE_OFFSET_MASK	GENMASK_ULL(63, 9)

/* Section "Bitmaps": a bitmap table entry, whose offset is that of an L2 entry. */
#define QCOW2_BITMAP_RESERVED_MASK	(GENMASK_ULL(63, 56) | GENMASK_ULL(8, 1))

/* No host offset reaches this: L1 and L2 entries have 56 bits for it. */
#define QCOW2_MAX_HOST_OFFSET	BIT_ULL(56)

static_assert(sizeof(struct qcow2_disk_header) == 112);
static_assert(offsetof(struct qcow2_disk_header, size) == 24);
static_assert(offsetof(struct qcow2_disk_header, l1_table_offset) == 40);
static_assert(offsetof(struct qcow2_disk_header, refcount_table_offset) == 48);
static_assert(offsetof(struct qcow2_disk_header, incompatible_features) ==
	      QCOW2_HEADER_V2_BYTES);
static_assert(offsetof(struct qcow2_disk_header, autoclear_features) == 88);
static_assert(offsetof(struct qcow2_disk_header, refcount_order) == 96);
static_assert(offsetof(struct qcow2_disk_header, compression_type) ==
	      QCOW2_HEADER_V3_BYTES);
static_assert(sizeof(struct qcow2_disk_extension) == 8);
static_assert(sizeof(struct qcow2_disk_feature_name) == 48);
static_assert(sizeof(struct qcow2_disk_snapshot) == 40);
static_assert(offsetof(struct qcow2_disk_snapshot, name_size) == 14);
static_assert(offsetof(struct qcow2_disk_snapshot, extra_data_size) == 36);
static_assert(sizeof(struct qcow2_disk_bitmaps) == 24);
static_assert(sizeof(struct qcow2_disk_bitmap) == 24);
static_assert(offsetof(struct qcow2_disk_bitmap, name_size) == 18);

#endif /* _QCOW2_FORMAT_H */
