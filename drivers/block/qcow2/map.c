// SPDX-License-Identifier: GPL-2.0-only
/*
 * From guest offset to host offset.
 */

/**
 * DOC: cluster mapping
 *
 * A guest offset is split, from the top, into an index in the L1 table, an
 * index in an L2 table, and an offset in the cluster.  L2 entries are read and
 * written through one pair of accessors, qcow2_get_l2_entry() and
 * qcow2_set_l2_entry(); one pair of functions says what an entry means,
 * qcow2_get_cluster_type() and qcow2_get_subcluster_type(), and
 * qcow2_check_l2_entry() whether it may be trusted.  Without extended L2
 * entries a cluster is one subcluster, so all that follows needs to know
 * subclusters only.
 *
 * qcow2_map() is what reads use.  It takes no lock: an entry changes, with one
 * store or under the slice's sequence count, only after the data that it will
 * refer to is in the file, so a reader gets the old extent or the new one.
 */

#include <linux/bitops.h>
#include <linux/bits.h>
#include <linux/bug.h>
#include <linux/compiler.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/minmax.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <asm/byteorder.h>

#include "image.h"

/*
 * Index arithmetic.
 */

/**
 * qcow2_l1_index() - index in the L1 table
 * @geo: geometry
 * @guest_offset: in bytes
 *
 * Return: the index; the table may be too short for it.
 */
u32 qcow2_l1_index(const struct qcow2_geometry *geo, u64 guest_offset)
{
	return guest_offset >> (geo->l2_bits + geo->cluster_bits);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_l1_index);

/**
 * qcow2_l2_index() - index in the L2 table
 * @geo: geometry
 * @guest_offset: in bytes
 *
 * Return: the index.
 */
u32 qcow2_l2_index(const struct qcow2_geometry *geo, u64 guest_offset)
{
	return (guest_offset >> geo->cluster_bits) & (BIT(geo->l2_bits) - 1);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_l2_index);

/**
 * qcow2_l2_slice_index() - index in the slice of the L2 table
 * @geo: geometry
 * @guest_offset: in bytes
 *
 * Return: the index.
 */
u32 qcow2_l2_slice_index(const struct qcow2_geometry *geo, u64 guest_offset)
{
	return qcow2_l2_index(geo, guest_offset) &
	       (BIT(geo->l2_slice_bits) - 1);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_l2_slice_index);

/**
 * qcow2_l2_slice_offset() - host offset of the slice with a guest offset's entry
 * @geo: geometry
 * @l2_offset: host offset of the L2 table
 * @guest_offset: in bytes
 *
 * Return: the host offset in bytes.
 */
u64 qcow2_l2_slice_offset(const struct qcow2_geometry *geo, u64 l2_offset,
			  u64 guest_offset)
{
	u32 slice = qcow2_l2_index(geo, guest_offset) >> geo->l2_slice_bits;

	return l2_offset + ((u64)slice << geo->slice_bits);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_l2_slice_offset);

/**
 * qcow2_to_slice_end() - guest bytes up to the end of the L2 slice
 * @geo: geometry
 * @guest_offset: in bytes
 *
 * Return: bytes from @guest_offset to the end of what its slice maps.
 */
u64 qcow2_to_slice_end(const struct qcow2_geometry *geo, u64 guest_offset)
{
	u64 span = BIT_ULL(geo->l2_slice_bits + geo->cluster_bits);

	return span - (guest_offset & (span - 1));
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_to_slice_end);

/*
 * Entries.
 */

/**
 * qcow2_get_l2_entry() - read an entry
 * @geo: geometry
 * @slice: L2 slice
 * @index: index in the slice
 *
 * Return: the entry; all zero (unallocated) if @index is not in the slice,
 * which is a bug of ours.
 */
struct qcow2_l2_entry qcow2_get_l2_entry(const struct qcow2_geometry *geo,
					 const struct qcow2_slice *slice,
					 u32 index)
{
	const __be64 *words = slice->data + index * geo->l2_entry_words;
	struct qcow2_l2_entry entry = {};
	unsigned int seq;

	if (WARN_ON_ONCE(index >> geo->l2_slice_bits))
		return entry;
	entry.word = be64_to_cpu(READ_ONCE(words[0]));
	if (!qcow2_has_extl2(geo))
		return entry;
	do {
		seq = read_seqcount_begin(&slice->seq);
		entry.word = be64_to_cpu(READ_ONCE(words[0]));
		entry.bitmap = be64_to_cpu(READ_ONCE(words[1]));
	} while (read_seqcount_retry(&slice->seq, seq));
	return entry;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_get_l2_entry);

/**
 * qcow2_set_l2_entry() - write an entry
 * @geo: geometry
 * @slice: L2 slice
 * @index: index in the slice
 * @entry: the entry
 *
 * Context: meta_lock held.  The caller marks the slice dirty.
 * Return: 0; -EIO if @index is not in the slice, which is a bug of ours: nothing
 * has changed then, so the caller gives up nothing that the entry refers to.
 */
int qcow2_set_l2_entry(const struct qcow2_geometry *geo,
		       struct qcow2_slice *slice, u32 index,
		       struct qcow2_l2_entry entry)
{
	__be64 *words = slice->data + index * geo->l2_entry_words;

	if (WARN_ON_ONCE(index >> geo->l2_slice_bits))
		return -EIO;
	if (!qcow2_has_extl2(geo)) {
		WRITE_ONCE(words[0], cpu_to_be64(entry.word));
		return 0;
	}
	preempt_disable();
	write_seqcount_begin(&slice->seq);
	WRITE_ONCE(words[0], cpu_to_be64(entry.word));
	WRITE_ONCE(words[1], cpu_to_be64(entry.bitmap));
	write_seqcount_end(&slice->seq);
	preempt_enable();
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_set_l2_entry);

/**
 * qcow2_get_cluster_type() - what an L2 entry says of its cluster
 * @geo: geometry
 * @word: the entry without its bitmap
 *
 * QEMU: qcow2_get_cluster_type().
 *
 * Return: the type.
 */
enum qcow2_cluster_type
qcow2_get_cluster_type(const struct qcow2_geometry *geo, u64 word)
{
	bool zero = !qcow2_has_extl2(geo) && (word & QCOW2_OFLAG_ZERO);
	u64 offset = word & QCOW2_OFFSET_MASK;

	if (word & QCOW2_OFLAG_COMPRESSED)
		return QCOW2_CLUSTER_COMPRESSED;
	if (zero)
		return offset ? QCOW2_CLUSTER_ZERO_ALLOC :
				QCOW2_CLUSTER_ZERO_PLAIN;
	/* In a data file there is nothing special about the first cluster. */
	if (geo->has_data_file && (word & QCOW2_OFLAG_COPIED))
		return QCOW2_CLUSTER_NORMAL;
	return offset ? QCOW2_CLUSTER_NORMAL : QCOW2_CLUSTER_UNALLOCATED;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_get_cluster_type);

static enum qcow2_subcluster_type
type_of_whole_cluster(enum qcow2_cluster_type type)
{
	switch (type) {
	case QCOW2_CLUSTER_UNALLOCATED:
		return QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN;
	case QCOW2_CLUSTER_ZERO_PLAIN:
		return QCOW2_SUBCLUSTER_ZERO_PLAIN;
	case QCOW2_CLUSTER_ZERO_ALLOC:
		return QCOW2_SUBCLUSTER_ZERO_ALLOC;
	case QCOW2_CLUSTER_NORMAL:
		return QCOW2_SUBCLUSTER_NORMAL;
	case QCOW2_CLUSTER_COMPRESSED:
		return QCOW2_SUBCLUSTER_COMPRESSED;
	}
	return QCOW2_SUBCLUSTER_INVALID;
}

/**
 * qcow2_get_subcluster_type() - what an L2 entry says of one subcluster
 * @geo: geometry
 * @entry: the entry
 * @subcluster: index in the cluster
 *
 * QEMU: qcow2_get_subcluster_type().
 *
 * Return: the type.
 */
enum qcow2_subcluster_type
qcow2_get_subcluster_type(const struct qcow2_geometry *geo,
			  struct qcow2_l2_entry entry, u32 subcluster)
{
	enum qcow2_cluster_type type = qcow2_get_cluster_type(geo, entry.word);
	bool alloc = entry.bitmap & QCOW2_SUB_ALLOC(subcluster);
	bool zero = entry.bitmap & QCOW2_SUB_ZERO(subcluster);

	if (!qcow2_has_extl2(geo) || type == QCOW2_CLUSTER_COMPRESSED)
		return type_of_whole_cluster(type);
	if (type == QCOW2_CLUSTER_NORMAL) {
		if (alloc && zero)
			return QCOW2_SUBCLUSTER_INVALID;
		if (zero)
			return QCOW2_SUBCLUSTER_ZERO_ALLOC;
		return alloc ? QCOW2_SUBCLUSTER_NORMAL :
			       QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC;
	}
	if (alloc)
		return QCOW2_SUBCLUSTER_INVALID;
	return zero ? QCOW2_SUBCLUSTER_ZERO_PLAIN :
		      QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_get_subcluster_type);

static bool bitmap_contradicts(const struct qcow2_geometry *geo,
			       struct qcow2_l2_entry entry)
{
	u32 alloc = entry.bitmap, zero = entry.bitmap >> 32;

	if (qcow2_get_cluster_type(geo, entry.word) != QCOW2_CLUSTER_NORMAL)
		return alloc;
	return alloc & zero;
}

/**
 * qcow2_check_l2_entry() - may an L2 entry be trusted?
 * @geo: geometry
 * @entry: the entry
 *
 * Return: 0, or -EUCLEAN if the entry is damaged.
 */
int qcow2_check_l2_entry(const struct qcow2_geometry *geo,
			 struct qcow2_l2_entry entry)
{
	if (entry.word & QCOW2_OFLAG_COMPRESSED)
		return entry.bitmap || geo->has_data_file ? -EUCLEAN : 0;
	if (qcow2_into_cluster(geo, entry.word & QCOW2_OFFSET_MASK))
		return -EUCLEAN;
	if (qcow2_has_extl2(geo))
		return bitmap_contradicts(geo, entry) ? -EUCLEAN : 0;
	if (geo->version == 2 && (entry.word & QCOW2_OFLAG_ZERO))
		return -EUCLEAN;
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_check_l2_entry);

/* In an external data file a cluster lies at its guest offset. */
static bool is_misplaced(const struct qcow2_geometry *geo,
			 struct qcow2_l2_entry entry, u64 guest_offset)
{
	u64 offset = entry.word & QCOW2_OFFSET_MASK;

	if (!geo->has_data_file)
		return false;
	switch (qcow2_get_cluster_type(geo, entry.word)) {
	case QCOW2_CLUSTER_NORMAL:
	case QCOW2_CLUSTER_ZERO_ALLOC:
		return offset != qcow2_cluster_start(geo, guest_offset);
	default:
		return false;
	}
}

/**
 * qcow2_vet_l2_entry() - check an L2 entry before it is used
 * @img: the image, which fails if the entry is damaged
 * @entry: the entry
 * @guest_offset: in bytes, in its cluster
 *
 * Context: any.
 * Return: 0 or -EUCLEAN.
 */
int qcow2_vet_l2_entry(struct qcow2_image *img, struct qcow2_l2_entry entry,
		       u64 guest_offset)
{
	if (!qcow2_check_l2_entry(&img->geo, entry) &&
	    !is_misplaced(&img->geo, entry, guest_offset))
		return 0;
	return qcow2_image_fail(img, -EUCLEAN,
				"damaged L2 entry 0x%016llx of guest offset 0x%llx",
				entry.word, guest_offset);
}

/**
 * qcow2_check_l1_entry() - may an L1 entry be trusted?
 * @geo: geometry
 * @entry: the entry
 *
 * QEMU ignores the reserved bits, so this does too.
 *
 * Return: 0, or -EUCLEAN if the entry is damaged.
 */
int qcow2_check_l1_entry(const struct qcow2_geometry *geo, u64 entry)
{
	return qcow2_into_cluster(geo, entry & QCOW2_OFFSET_MASK) ?
		-EUCLEAN : 0;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_check_l1_entry);

/**
 * qcow2_own_l2_slice() - find the slice with an entry that is to be changed
 * @img: the image
 * @guest_offset: in bytes
 * @need: says what is missing after -EAGAIN, maybe the L2 table itself, or room
 *	for it in the L1 table
 * @slice: the slice, with a reference; its table has no other users, and
 *	nothing else lies there
 *
 * QEMU: get_cluster_table().
 *
 * Context: meta_lock held.
 * Return: 0, -EAGAIN, or -EUCLEAN.
 */
int qcow2_own_l2_slice(struct qcow2_image *img, u64 guest_offset,
		       struct qcow2_need *need, struct qcow2_slice **slice)
{
	u32 l1_index = qcow2_l1_index(&img->geo, guest_offset);
	u64 l1 = qcow2_l1_entry(img, l1_index);
	u64 offset;

	lockdep_assert_held(&img->meta_lock);
	if (l1_index >= img->geo.l1_entries)
		return qcow2_need_growth(need, QCOW2_NEED_L1, l1_index);
	if (!(l1 & QCOW2_OFLAG_COPIED))
		return qcow2_need_growth(need, QCOW2_NEED_L2_TABLE, l1_index);
	if (qcow2_check_l1_entry(&img->geo, l1) || !(l1 & QCOW2_OFFSET_MASK))
		return qcow2_image_fail(img, -EUCLEAN,
					"damaged L1 entry %u: 0x%016llx",
					l1_index, l1);
	offset = qcow2_l2_slice_offset(&img->geo, l1 & QCOW2_OFFSET_MASK,
				       guest_offset);
	if (qcow2_pre_write_overlap_check(img, offset,
					  qcow2_slice_bytes(&img->geo),
					  QCOW2_METADATA_L2))
		return -EUCLEAN;
	*slice = qcow2_slice_find(img, QCOW2_SLICE_L2, offset);
	if (!*slice)
		return qcow2_need_slice(need, QCOW2_SLICE_L2, offset);
	return PTR_ERR_OR_ZERO(*slice);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_own_l2_slice);

/**
 * qcow2_compressed_range() - where a compressed cluster lies
 * @geo: geometry
 * @word: its L2 entry
 * @offset: set to the host offset of its first byte
 * @bytes: set to the length of the sectors that it is in, from there on: what
 *	it may take, and what it keeps in use
 *
 * Section "Cluster mapping" (compressed clusters descriptor).
 */
void qcow2_compressed_range(const struct qcow2_geometry *geo, u64 word,
			    u64 *offset, u32 *bytes)
{
	u32 offset_bits = 62 - (geo->cluster_bits - 8);
	u64 sectors = ((word & ~QCOW2_OFLAG_COMPRESSED &
			~QCOW2_OFLAG_COPIED) >> offset_bits) + 1;

	*offset = word & (BIT_ULL(offset_bits) - 1);
	*bytes = sectors * QCOW2_SECTOR_BYTES -
		 (*offset & (QCOW2_SECTOR_BYTES - 1));
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_compressed_range);

/*
 * Extents.
 */

static bool has_host_data(enum qcow2_subcluster_type type)
{
	return type == QCOW2_SUBCLUSTER_NORMAL;
}

/*
 * How many subclusters, from this one on, the entry says the same of.
 * QEMU: qcow2_get_subcluster_range_type().
 */
static u32 count_alike(const struct qcow2_geometry *geo,
		       struct qcow2_l2_entry entry, u32 subcluster)
{
	u64 mine = entry.bitmap >> subcluster;
	u32 alloc = mine, zero = mine >> 32;
	u32 other;

	if (!qcow2_has_extl2(geo))
		return 1;
	other = (alloc & 1 ? ~alloc : alloc) | (zero & 1 ? ~zero : zero);
	other &= U32_MAX >> subcluster;
	return other ? __ffs(other) : QCOW2_SUBCLUSTERS_EXTL2 - subcluster;
}

/*
 * The subclusters of one kind that begin there, or the compressed cluster, as an
 * extent that ends where they end, at the latest with the cluster.
 */
static int map_in_cluster(struct qcow2_image *img,
			  const struct qcow2_slice *slice, u64 guest_offset,
			  struct qcow2_extent *extent)
{
	const struct qcow2_geometry *geo = &img->geo;
	u32 into_cluster = qcow2_into_cluster(geo, guest_offset);
	u32 subcluster = into_cluster >> geo->subcluster_bits;
	struct qcow2_l2_entry entry;
	u32 end;
	int ret;

	entry = qcow2_get_l2_entry(geo, slice,
				   qcow2_l2_slice_index(geo, guest_offset));
	ret = qcow2_vet_l2_entry(img, entry, guest_offset);
	if (ret)
		return ret;
	extent->img = img;
	extent->type = qcow2_get_subcluster_type(geo, entry, subcluster);
	if (extent->type == QCOW2_SUBCLUSTER_COMPRESSED) {
		extent->word = entry.word;
		extent->bytes = geo->cluster_bytes - into_cluster;
		return 0;
	}
	extent->host_offset = (entry.word & QCOW2_OFFSET_MASK) + into_cluster;
	extent->own = (entry.word & QCOW2_OFLAG_COPIED) || geo->has_data_file;
	end = (subcluster + count_alike(geo, entry, subcluster)) <<
	      geo->subcluster_bits;
	extent->bytes = end - into_cluster;
	return 0;
}

static bool continues(const struct qcow2_extent *extent,
		      const struct qcow2_extent *next)
{
	if (extent->type != next->type)
		return false;
	if (extent->type == QCOW2_SUBCLUSTER_COMPRESSED)
		return false;
	return !has_host_data(extent->type) ||
	       extent->host_offset + extent->bytes == next->host_offset;
}

static int map_in_slice(struct qcow2_image *img,
			const struct qcow2_slice *slice, u64 guest_offset,
			u64 bytes, struct qcow2_extent *extent)
{
	struct qcow2_extent next;
	int ret;

	ret = map_in_cluster(img, slice, guest_offset, extent);
	while (!ret && extent->bytes < bytes) {
		ret = map_in_cluster(img, slice, guest_offset + extent->bytes,
				     &next);
		if (ret || !continues(extent, &next))
			break;
		extent->own &= next.own;
		extent->bytes += next.bytes;
	}
	extent->bytes = min(extent->bytes, bytes);
	return ret;
}

static void map_raw(struct qcow2_image *img, u64 guest_offset, u64 bytes,
		    struct qcow2_extent *extent)
{
	*extent = (struct qcow2_extent) {
		.type = QCOW2_SUBCLUSTER_NORMAL,
		.img = img,
		.host_offset = guest_offset,
		.bytes = bytes,
	};
}

static void map_no_table(struct qcow2_image *img, u64 bytes,
			 struct qcow2_extent *extent)
{
	*extent = (struct qcow2_extent) {
		.type = QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN,
		.img = img,
		.bytes = bytes,
	};
}

/*
 * Maps what no L2 entry is needed for.  False if one is: in the table of L1 entry
 * *@l1, whose slice has at most the first *@bytes bytes.
 */
static bool map_without_slice(struct qcow2_image *img, u64 guest_offset,
			      u64 *bytes, u64 *l1, struct qcow2_extent *extent)
{
	const struct qcow2_geometry *geo = &img->geo;

	if (test_bit(QCOW2_IMAGE_RAW, &img->flags)) {
		map_raw(img, guest_offset, *bytes, extent);
		return true;
	}
	*l1 = qcow2_l1_entry(img, qcow2_l1_index(geo, guest_offset));
	*bytes = min(*bytes, qcow2_to_slice_end(geo, guest_offset));
	if (*l1 & QCOW2_OFFSET_MASK)
		return false;
	map_no_table(img, *bytes, extent);
	return true;
}

/**
 * qcow2_map() - find out how an image itself stores guest data
 * @img: the image
 * @guest_offset: first byte, inside of the virtual disk's clusters
 * @bytes: how many bytes are of interest
 * @extent: filled in: the run at @guest_offset, at most @bytes long and at
 *	least one byte; a compressed one ends with its cluster
 *
 * The host clusters may be freed by others unless the caller is in an epoch,
 * which it entered before.  QEMU: qcow2_get_host_offset().
 *
 * Context: may sleep and do I/O, for the L2 slice; meta_lock must not be held.
 * Return: 0; -EUCLEAN if the metadata is damaged; or what reading it gave.
 */
int qcow2_map(struct qcow2_image *img, u64 guest_offset, u64 bytes,
	      struct qcow2_extent *extent)
{
	const struct qcow2_geometry *geo = &img->geo;
	struct qcow2_slice *slice;
	u64 l1;
	int ret;

	if (map_without_slice(img, guest_offset, &bytes, &l1, extent))
		return 0;
	if (qcow2_check_l1_entry(geo, l1))
		return qcow2_image_fail(img, -EUCLEAN,
					"damaged L1 entry 0x%016llx of guest offset 0x%llx",
					l1, guest_offset);
	slice = qcow2_slice_get(img, QCOW2_SLICE_L2,
				qcow2_l2_slice_offset(geo,
						      l1 & QCOW2_OFFSET_MASK,
						      guest_offset));
	if (IS_ERR(slice))
		return PTR_ERR(slice);
	ret = map_in_slice(img, slice, guest_offset, bytes, extent);
	qcow2_slice_put(slice);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_map);

/* With RCU held: the slice that maps a guest offset, if it is cached. */
static struct qcow2_slice *peek(struct qcow2_image *img, u64 l1,
				u64 guest_offset)
{
	const struct qcow2_geometry *geo = &img->geo;

	if (qcow2_check_l1_entry(geo, l1))
		return NULL;
	return qcow2_slice_peek(img, QCOW2_SLICE_L2,
				qcow2_l2_slice_offset(geo,
						      l1 & QCOW2_OFFSET_MASK,
						      guest_offset));
}

/**
 * qcow2_map_cached() - as qcow2_map(), if that takes no I/O
 * @img: the image
 * @guest_offset: first byte, inside of the virtual disk's clusters
 * @bytes: how many bytes are of interest
 * @extent: filled in as by qcow2_map()
 *
 * Context: any, in an epoch, which keeps the L2 table in its place too; writes
 * nothing that other CPUs read.
 * Return: 0; -EUCLEAN; or -EAGAIN if qcow2_map() is to be asked.
 */
int qcow2_map_cached(struct qcow2_image *img, u64 guest_offset, u64 bytes,
		     struct qcow2_extent *extent)
{
	struct qcow2_slice *slice;
	int ret = -EAGAIN;
	u64 l1;

	if (map_without_slice(img, guest_offset, &bytes, &l1, extent))
		return 0;
	rcu_read_lock();
	slice = peek(img, l1, guest_offset);
	if (slice)
		ret = map_in_slice(img, slice, guest_offset, bytes, extent);
	rcu_read_unlock();
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_map_cached);

/**
 * qcow2_map_own_cached() - likewise, of data that may be written where it is
 * @img: the image
 * @guest_offset: first byte
 * @bytes: how many bytes are of interest
 * @extent: filled in
 *
 * Context: as qcow2_map_cached().
 * Return: 0 if the extent's clusters are data, nobody else's and no metadata; else
 * -EAGAIN or -EUCLEAN.
 */
int qcow2_map_own_cached(struct qcow2_image *img, u64 guest_offset, u64 bytes,
			 struct qcow2_extent *extent)
{
	const struct qcow2_geometry *geo = &img->geo;
	u64 l1 = qcow2_l1_entry(img, qcow2_l1_index(geo, guest_offset));
	struct qcow2_slice *slice;
	int ret = -EAGAIN;

	if (!(l1 & QCOW2_OFLAG_COPIED) || !(l1 & QCOW2_OFFSET_MASK))
		return -EAGAIN;
	bytes = min(bytes, qcow2_to_slice_end(geo, guest_offset));
	rcu_read_lock();
	slice = peek(img, l1, guest_offset);
	if (slice && qcow2_slice_is_vetted(img, slice))
		ret = map_in_slice(img, slice, guest_offset, bytes, extent);
	rcu_read_unlock();
	if (!ret && (extent->type != QCOW2_SUBCLUSTER_NORMAL || !extent->own))
		ret = -EAGAIN;
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_map_own_cached);
