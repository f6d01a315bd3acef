// SPDX-License-Identifier: GPL-2.0-only
/*
 * Refcounts: their packing, and the growth of the tables that hold them.
 */

/**
 * DOC: refcounts
 *
 * The refcount table points to refcount blocks, which hold one refcount of 1
 * to 64 bits for each host cluster.  Counts are changed in cached slices only;
 * commit.c brings those to the file.
 *
 * Growth is made durable on its own, in this order:
 *
 * A new refcount block lies on the first cluster of the range that it
 * describes.  That cluster is free, since nothing can have been allocated in a
 * range without a block, and the block counts itself.
 *
 * 1. write the block; flush
 * 2. write the refcount table entry
 * 3. allocate from it
 *
 * If there's a crash, then: before 2 the block is garbage in a free cluster;
 * between 2 and 3 it is a block that counts itself.  Step 2 needs no flush of
 * its own: what is allocated in step 3 is referred to only after a commit,
 * whose first flush covers the entry.
 *
 * A longer refcount table lies behind all that blocks describe, together with
 * the blocks that count both, and more clusters if a table of another kind needs
 * so many that they would not fit between two blocks:
 *
 * 1. write the blocks and the table; flush
 * 2. write the header; flush
 * 3. drop the references to the old table's clusters, as any other drop
 *
 * If there's a crash, then: before 2 the old table rules and the new one lies
 * where it has no blocks, so nothing is in use; after 2 the new one rules, and
 * the old one is a leak, as are the other clusters until something refers to
 * them.
 */

#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/unaligned.h>

#include "image.h"

/*
 * Packing, section "Refcounts" of the specification.
 */

static u32 sub_byte_shift(u32 order, u32 index)
{
	u32 per_byte_bits = 3 - order;

	return (index & (BIT(per_byte_bits) - 1)) << order;
}

/**
 * qcow2_get_refcount() - read a refcount
 * @data: refcounts as on disk
 * @order: log2 of their width in bits, 0 to 6
 * @index: which one
 *
 * Return: the refcount.
 */
u64 qcow2_get_refcount(const void *data, u32 order, u32 index)
{
	const u8 *bytes = data;

	switch (order) {
	case 0:
	case 1:
	case 2:
		return (bytes[index >> (3 - order)] >>
			sub_byte_shift(order, index)) &
		       qcow2_max_refcount(order);
	case 3:
		return bytes[index];
	case 4:
		return get_unaligned_be16(bytes + index * 2);
	case 5:
		return get_unaligned_be32(bytes + index * 4);
	default:
		return get_unaligned_be64(bytes + index * 8);
	}
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_get_refcount);

static void set_sub_byte(u8 *byte, u32 shift, u8 mask, u8 value)
{
	*byte = (*byte & ~(mask << shift)) | (value << shift);
}

/**
 * qcow2_set_refcount() - write a refcount
 * @data: refcounts as on disk
 * @order: log2 of their width in bits, 0 to 6
 * @index: which one
 * @value: at most qcow2_max_refcount()
 */
void qcow2_set_refcount(void *data, u32 order, u32 index, u64 value)
{
	u8 *bytes = data;

	switch (order) {
	case 0:
	case 1:
	case 2:
		set_sub_byte(&bytes[index >> (3 - order)],
			     sub_byte_shift(order, index),
			     qcow2_max_refcount(order), value);
		break;
	case 3:
		bytes[index] = value;
		break;
	case 4:
		put_unaligned_be16(value, bytes + index * 2);
		break;
	case 5:
		put_unaligned_be32(value, bytes + index * 4);
		break;
	default:
		put_unaligned_be64(value, bytes + index * 8);
	}
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_set_refcount);

/**
 * qcow2_max_refcount() - the largest refcount of a width
 * @order: log2 of the width in bits, 0 to 6
 *
 * Return: that refcount.
 */
u64 qcow2_max_refcount(u32 order)
{
	return GENMASK_ULL((1U << order) - 1, 0);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_max_refcount);

/*
 * Finding, lowering and raising a refcount.
 */

static int refblock_offset(struct qcow2_image *img, u32 index, u64 *offset)
{
	u64 entry = img->reftable[index];

	*offset = entry & QCOW2_REFTABLE_OFFSET_MASK;
	if (qcow2_into_cluster(&img->geo, *offset))
		return qcow2_image_fail(img, -EUCLEAN,
					"damaged refcount table entry %u: 0x%016llx",
					index, entry);
	return 0;
}

/**
 * qcow2_refcount_slice() - find the slice with a cluster's refcount
 * @img: the image
 * @cluster: index of the host cluster
 * @need: says what is missing after -EAGAIN
 * @slice: the slice, with a reference
 *
 * Context: meta_lock held.
 * Return: 0, -EAGAIN, or -EUCLEAN.
 */
int qcow2_refcount_slice(struct qcow2_image *img, u64 cluster,
			 struct qcow2_need *need, struct qcow2_slice **slice)
{
	const struct qcow2_geometry *geo = &img->geo;
	u64 index = cluster >> geo->refblock_bits;
	u64 in_block = cluster & (BIT_ULL(geo->refblock_bits) - 1);
	u64 offset;
	int ret;

	lockdep_assert_held(&img->meta_lock);
	if (index >= img->reftable_entries)
		return qcow2_need_growth(need, QCOW2_NEED_REFTABLE, index);
	ret = refblock_offset(img, index, &offset);
	if (ret)
		return ret;
	if (!offset)
		return qcow2_need_growth(need, QCOW2_NEED_REFBLOCK, index);
	offset += (in_block >> geo->refslice_bits) << geo->slice_bits;
	if (qcow2_pre_write_overlap_check(img, offset, qcow2_slice_bytes(geo),
					  QCOW2_METADATA_REFBLOCK))
		return -EUCLEAN;
	*slice = qcow2_slice_find(img, QCOW2_SLICE_REFBLOCK, offset);
	if (!*slice)
		return qcow2_need_slice(need, QCOW2_SLICE_REFBLOCK, offset);
	return PTR_ERR_OR_ZERO(*slice);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_refcount_slice);

/**
 * qcow2_used_refcount_slice() - likewise, of a cluster that something refers to
 * @img: the image
 * @cluster: index of the host cluster
 * @need: a slice, after -EAGAIN; never that a table must grow
 * @slice: the slice, with a reference
 *
 * Context: meta_lock held.
 * Return: 0, -EAGAIN, or -EUCLEAN.
 */
int qcow2_used_refcount_slice(struct qcow2_image *img, u64 cluster,
			      struct qcow2_need *need,
			      struct qcow2_slice **slice)
{
	int ret = qcow2_refcount_slice(img, cluster, need, slice);

	if (ret != -EAGAIN || need->kind == QCOW2_NEED_SLICE)
		return ret;
	return qcow2_image_fail(img, -EUCLEAN,
				"no refcount block counts the cluster at offset 0x%llx, though it is in use",
				cluster << img->geo.cluster_bits);
}

/**
 * qcow2_refcount_is_zero() - a cluster is in use, and counts as free
 * @img: the image
 * @cluster: index of the host cluster
 *
 * Return: -EUCLEAN after the image was marked corrupt.
 */
int qcow2_refcount_is_zero(struct qcow2_image *img, u64 cluster)
{
	return qcow2_image_fail(img, -EUCLEAN,
				"the refcount of the cluster at offset 0x%llx is 0, though it is in use",
				cluster << img->geo.cluster_bits);
}

/**
 * qcow2_refcount_dec() - lower a cluster's refcount
 * @img: the image
 * @cluster: index of the host cluster
 * @slice: the slice with its refcount
 *
 * A cluster whose refcount becomes 0 may be allocated at once, so its
 * reference must be durably gone (invariant I3) or never have been.
 *
 * Context: meta_lock held.
 * Return: 0, or -EUCLEAN if it was 0 already.
 */
int qcow2_refcount_dec(struct qcow2_image *img, u64 cluster,
		       struct qcow2_slice *slice)
{
	const struct qcow2_geometry *geo = &img->geo;
	u32 index = cluster & (BIT_ULL(geo->refslice_bits) - 1);
	u64 value = qcow2_get_refcount(slice->data, geo->refcount_order, index);

	lockdep_assert_held(&img->meta_lock);
	if (!value)
		return qcow2_refcount_is_zero(img, cluster);
	qcow2_set_refcount(slice->data, geo->refcount_order, index, value - 1);
	qcow2_slice_mark_dirty(img, slice);
	if (value == 1) {
		qcow2_cache_forget(img, cluster << geo->cluster_bits,
				   geo->cluster_bytes);
		qcow2_compress_forget(img, cluster << geo->cluster_bits,
				      geo->cluster_bytes);
		qcow2_fresh_gone(img, cluster, 1);
		qcow2_cluster_freed(img, cluster);
		WRITE_ONCE(img->clusters_freed, img->clusters_freed + 1);
	}
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_refcount_dec);

/**
 * qcow2_refcount_inc() - raise the refcount of a cluster that is in use
 * @img: the image
 * @cluster: index of the host cluster
 * @slice: the slice with its refcount
 *
 * The new count may reach the file at any time, and is there before what then refers
 * to the cluster, if that goes by a commit (invariant I1); after a crash in between it
 * is a leak.  COPIED flags are the caller's business (invariant I5): entries that are
 * not the only ones any more lose it under the same hold of meta_lock, if the cluster
 * may be written meanwhile.  As these entries reach the file behind the count, a crash
 * leaves flags that are wrong, unless the dirty bit is set there that has them
 * repaired, or the cluster had two users before.
 *
 * The caller has called qcow2_mark_dirty().  It raises no count of an external data
 * file's cluster, for there are none.
 *
 * QEMU says -EINVAL when a count is full, as it does for damage.  Here the two are
 * told apart: a full count is a limit of a sound image, which stays usable.
 *
 * Context: meta_lock held.
 * Return: 0; -EOVERFLOW if it is as large as its width allows; or -EUCLEAN if it was 0,
 * after the image was marked corrupt.  It is as before then.
 */
int qcow2_refcount_inc(struct qcow2_image *img, u64 cluster,
		       struct qcow2_slice *slice)
{
	const struct qcow2_geometry *geo = &img->geo;
	u32 index = cluster & (BIT_ULL(geo->refslice_bits) - 1);
	u64 value = qcow2_get_refcount(slice->data, geo->refcount_order, index);

	lockdep_assert_held(&img->meta_lock);
	if (!value)
		return qcow2_refcount_is_zero(img, cluster);
	if (value == qcow2_max_refcount(geo->refcount_order))
		return -EOVERFLOW;
	qcow2_set_refcount(slice->data, geo->refcount_order, index, value + 1);
	qcow2_slice_mark_dirty(img, slice);
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_refcount_inc);

/**
 * qcow2_with_refcount() - change a cluster's refcount, loading what that needs
 * @img: the image
 * @cluster: index of the host cluster, which something refers to
 * @what: changes it, or only looks at it; called under meta_lock with the slice that
 *	has it
 *
 * Context: sleeps, does I/O; takes meta_lock.
 * Return: what @what returned, or why it was not called: a negative errno.
 */
int qcow2_with_refcount(struct qcow2_image *img, u64 cluster,
			qcow2_refcount_fn *what)
{
	struct qcow2_need need = {};
	struct qcow2_slice *slice;
	int ret;

	for (;;) {
		mutex_lock(&img->meta_lock);
		ret = qcow2_used_refcount_slice(img, cluster, &need, &slice);
		if (!ret) {
			ret = what(img, cluster, slice);
			qcow2_slice_put(slice);
		}
		mutex_unlock(&img->meta_lock);
		if (ret != -EAGAIN)
			break;
		ret = qcow2_need_meet(img, &need);
		if (ret)
			break;
	}
	qcow2_need_done(&need);
	return ret;
}

/* A count that stays too high is a leak, no more. */
static void lower_again(struct qcow2_image *img, const u64 *offsets, u32 nr)
{
	while (nr--) {
		int ret = qcow2_with_refcount(img, offsets[nr] >>
					      img->geo.cluster_bits,
					      qcow2_refcount_dec);

		if (ret)
			pr_warn_ratelimited("qcow2: %s: the refcount of the cluster at offset 0x%llx stays too high (error %d) until 'qemu-img check -r leaks'\n",
					    img->name, offsets[nr], ret);
	}
}

/* The changed slices must not fill the memory. */
static int raise_one(struct qcow2_image *img, u64 offset)
{
	int ret = 0;

	if (!qcow2_has_room(img))
		ret = qcow2_commit_refcounts(img);
	return ret ?: qcow2_with_refcount(img, offset >> img->geo.cluster_bits,
					  qcow2_refcount_inc);
}

/**
 * qcow2_refcounts_raise() - raise the refcounts of some clusters, or of none
 * @img: the image
 * @offsets: host offset of each cluster in bytes; one that is there twice is raised
 *	by two
 * @nr: number of clusters
 *
 * Each count changes under a hold of meta_lock of its own.  In between others see some
 * raised and some not; that keeps a cluster in use, and does no more.  If one cannot
 * be raised those that were are lowered again: nothing refers to the clusters by
 * these counts, so a cluster that others let go meanwhile is free then
 * (invariant I3).  Apart from that the rules are those of qcow2_refcount_inc().
 *
 * Context: sleeps, does I/O; takes commit_lock and meta_lock.
 * Return: 0; as qcow2_refcount_inc(); or another negative errno.
 */
int qcow2_refcounts_raise(struct qcow2_image *img, const u64 *offsets, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++) {
		int ret = raise_one(img, offsets[i]);

		if (ret) {
			lower_again(img, offsets, i);
			return ret;
		}
	}
	return 0;
}

/*
 * Growth.
 */

/**
 * struct ones - refcounts of which the first are 1 and the others 0
 * @order: log2 of their width in bits
 * @nr: how many are 1
 */
struct ones {
	u32 order;
	u64 nr;
};

static void fill_ones(void *buf, u64 pos, u32 bytes, const void *arg)
{
	const struct ones *ones = arg;
	u64 first = (pos * 8) >> ones->order;
	u32 nr = (bytes * 8) >> ones->order;
	u32 i;

	memset(buf, 0, bytes);
	for (i = 0; i < nr && first + i < ones->nr; i++)
		qcow2_set_refcount(buf, ones->order, i, 1);
}

/*
 * Writes @nr refcount blocks that start at host cluster @first and describe the
 * range that starts there, in which @first to @end - 1 are in use.
 */
static int write_refblocks_at(struct qcow2_image *img, u64 first, u64 nr,
			      u64 end)
{
	const struct qcow2_geometry *geo = &img->geo;
	const struct ones ones = {
		.order = geo->refcount_order,
		.nr = end - first,
	};

	return qcow2_file_write_filled(img->file, first << geo->cluster_bits,
				       nr << geo->cluster_bits, fill_ones,
				       &ones, img->grow_page);
}

static bool fits_file(struct qcow2_image *img, u64 end_cluster)
{
	u64 max = min(qcow2_file_max_bytes(img->file), QCOW2_MAX_HOST_OFFSET);

	return end_cluster <= max >> img->geo.cluster_bits;
}

/*
 * Clusters that no refcount block describes must not be in use for all that;
 * they will be written now.
 */
static int take_area(struct qcow2_image *img, u64 first, u64 nr)
{
	u32 bits = img->geo.cluster_bits;
	int ret;

	mutex_lock(&img->meta_lock);
	ret = qcow2_pre_write_overlap_check(img, first << bits, nr << bits,
					    QCOW2_METADATA_NONE);
	qcow2_fresh_taken(img, first, nr);
	mutex_unlock(&img->meta_lock);
	return ret;
}

/**
 * qcow2_alloc_refblock() - make a refcount block
 * @img: the image
 * @index: of the refcount table entry that has none
 *
 * QEMU: alloc_refcount_block().  Does nothing if somebody was faster.  Needs no memory
 * but what the image keeps for it.
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: 0 or a negative errno.
 */
int qcow2_alloc_refblock(struct qcow2_image *img, u32 index)
{
	const struct qcow2_geometry *geo = &img->geo;
	u64 first = (u64)index << geo->refblock_bits;
	u64 offset = first << geo->cluster_bits;
	bool has_room;
	int ret;

	lockdep_assert_held(&img->grow_lock);
	/* The bits that are no offset mean nothing, here as in QEMU. */
	if (img->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK)
		return 0;
	if (!index)
		return qcow2_image_fail(img, -EUCLEAN,
					"the first refcount block is missing");
	if (!fits_file(img, first + 1))
		return -ENOSPC;
	/* It is known without, see DOC: overlap checks. */
	has_room = !qcow2_offsets_reserve(img, &img->refblocks, 1);
	ret = take_area(img, first, 1);
	ret = ret ?: write_refblocks_at(img, first, 1, first + 1);
	ret = ret ?: qcow2_flush_file(img);
	if (ret)
		return ret;
	ret = qcow2_write_table_entry(img, geo->reftable_offset, img->reftable,
				      img->reftable_entries, index, offset);
	if (ret)
		return ret;
	mutex_lock(&img->meta_lock);
	img->reftable[index] = offset;
	if (has_room)
		qcow2_offsets_add(img, &img->refblocks, offset);
	else
		qcow2_metadata_moved(img);
	mutex_unlock(&img->meta_lock);
	return 0;
}

/**
 * struct new_reftable - a longer refcount table and where it goes
 * @index: of the first entry that has no block, and none behind it has one
 * @first: host cluster where its range starts, and new blocks do; the table
 *	follows them
 * @blocks: number of those blocks, in clusters
 * @clusters: length of the table
 * @extra: clusters that are in use behind the table
 * @entries: length of the table
 * @table: its content, CPU byte order
 */
struct new_reftable {
	u32 index;
	u64 first;
	u64 blocks;
	u64 clusters;
	u64 extra;
	u32 entries;
	u64 *table;
};

static u64 reftable_offset(const struct qcow2_geometry *geo,
			   const struct new_reftable *new)
{
	return (new->first + new->blocks) << geo->cluster_bits;
}

static u64 extra_offset(const struct qcow2_geometry *geo,
			const struct new_reftable *new)
{
	return reftable_offset(geo, new) + (new->clusters << geo->cluster_bits);
}

/* All of it: blocks, table and what follows. */
static u64 area_clusters(const struct new_reftable *new)
{
	return new->blocks + new->clusters + new->extra;
}

static u32 index_behind_blocks(struct qcow2_image *img)
{
	u32 index = img->reftable_entries;

	while (index && !(img->reftable[index - 1] & QCOW2_REFTABLE_OFFSET_MASK))
		index--;
	return index;
}

/* A table that gets too short becomes longer by half at least. */
static u64 plan_entries(struct qcow2_image *img, u64 min_entries)
{
	if (min_entries <= img->reftable_entries)
		return img->reftable_entries;
	return max(min_entries, min(img->reftable_entries * 3ULL / 2,
				    QCOW2_MAX_REFTABLE_BYTES / sizeof(u64)));
}

/* How long the table becomes, and how many blocks count it and themselves. */
static int plan_reftable(struct qcow2_image *img, u64 min_entries,
			 struct new_reftable *new)
{
	const struct qcow2_geometry *geo = &img->geo;
	u64 per_block = BIT_ULL(geo->refblock_bits);
	u64 entries, blocks = 1;

	new->index = index_behind_blocks(img);
	new->first = (u64)new->index << geo->refblock_bits;
	do {
		new->blocks = blocks;
		entries = plan_entries(img, max(min_entries,
						new->index + blocks));
		new->clusters = qcow2_clusters_of(geo, entries * sizeof(u64));
		blocks = DIV_ROUND_UP_ULL(area_clusters(new), per_block);
	} while (blocks > new->blocks);
	entries = (new->clusters << geo->cluster_bits) / sizeof(u64);
	if (entries > QCOW2_MAX_REFTABLE_BYTES / sizeof(u64) ||
	    !fits_file(img, new->first + area_clusters(new)))
		return -ENOSPC;
	new->entries = entries;
	return 0;
}

/*
 * The memory is as much as the table is long, so there is no reserve for it: without it
 * the table does not grow.  One cluster of table counts terabytes, so that is rare.
 */
static int fill_reftable(struct qcow2_image *img, struct new_reftable *new)
{
	const struct qcow2_geometry *geo = &img->geo;
	unsigned int noio = memalloc_noio_save();
	u64 i;

	new->table = kvcalloc(new->entries, sizeof(u64), GFP_KERNEL);
	memalloc_noio_restore(noio);
	if (!new->table)
		return -ENOMEM;
	memcpy(new->table, img->reftable,
	       img->reftable_entries * sizeof(u64));
	for (i = 0; i < new->blocks; i++)
		new->table[new->index + i] =
			(new->first + i) << geo->cluster_bits;
	return 0;
}

/**
 * qcow2_switch_reftable() - have the header point to another refcount table
 * @img: the image
 * @offset: host offset of the table, which is durable
 * @clusters: its length
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: as qcow2_header_switch().
 */
int qcow2_switch_reftable(struct qcow2_image *img, u64 offset, u32 clusters)
{
	struct {
		__be64 offset;
		__be32 clusters;
	} __packed field = {
		.offset = cpu_to_be64(offset),
		.clusters = cpu_to_be32(clusters),
	};

	static_assert(offsetof(struct qcow2_disk_header,
			       refcount_table_clusters) -
		      offsetof(struct qcow2_disk_header,
			       refcount_table_offset) == sizeof(field.offset));
	return qcow2_header_switch(img, offsetof(struct qcow2_disk_header,
						 refcount_table_offset),
				   &field, sizeof(field));
}

static void use_reftable(struct qcow2_image *img, struct new_reftable *new,
			 struct qcow2_drop *drop)
{
	u64 i;

	mutex_lock(&img->meta_lock);
	for (i = 0; i < new->blocks; i++)
		qcow2_offsets_add(img, &img->refblocks,
				  (new->first + i) << img->geo.cluster_bits);
	swap(img->reftable, new->table);
	img->reftable_entries = new->entries;
	img->geo.reftable_offset = reftable_offset(&img->geo, new);
	img->geo.reftable_clusters = new->clusters;
	qcow2_metadata_moved(img);
	qcow2_drop_later(img, drop);
	mutex_unlock(&img->meta_lock);
}

/* QEMU: qcow2_refcount_area() */
static int replace_reftable(struct qcow2_image *img, u64 min_entries,
			    struct new_reftable *new)
{
	const struct qcow2_geometry *geo = &img->geo;
	struct qcow2_drop *drop;
	int ret;

	ret = plan_reftable(img, min_entries, new);
	if (ret)
		return ret;
	ret = qcow2_offsets_reserve(img, &img->refblocks, new->blocks);
	ret = ret ?: take_area(img, new->first, area_clusters(new));
	if (ret)
		return ret;
	drop = qcow2_drop_alloc_area(img, geo->reftable_offset,
				     geo->reftable_clusters);
	ret = drop ? fill_reftable(img, new) : -ENOMEM;
	ret = ret ?: write_refblocks_at(img, new->first, new->blocks,
					new->first + area_clusters(new));
	ret = ret ?: qcow2_write_table(img, reftable_offset(geo, new),
				       new->table, new->entries);
	ret = ret ?: qcow2_flush_file(img);
	ret = ret ?: qcow2_switch_reftable(img, reftable_offset(geo, new),
					   new->clusters);
	if (ret)
		qcow2_drop_free(img, drop);
	else
		use_reftable(img, new, drop);
	kvfree(new->table);
	return ret;
}

/**
 * qcow2_grow_reftable() - make the refcount table longer
 * @img: the image
 * @min_entries: number of entries that it shall have at least
 *
 * Does nothing if somebody was faster.
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: 0 or a negative errno.
 */
int qcow2_grow_reftable(struct qcow2_image *img, u64 min_entries)
{
	struct new_reftable new = {};

	lockdep_assert_held(&img->grow_lock);
	if (min_entries <= img->reftable_entries)
		return 0;
	return replace_reftable(img, min_entries, &new);
}

/**
 * qcow2_refcount_area() - take contiguous clusters where no refcount block is
 * @img: the image
 * @nr: number of clusters
 * @offset: filled in: host offset of the first in bytes
 *
 * Their refcounts are durable, with the blocks that hold them and a refcount
 * table that is written anew.
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: 0 or a negative errno; then nothing was taken.
 */
int qcow2_refcount_area(struct qcow2_image *img, u64 nr, u64 *offset)
{
	struct new_reftable new = { .extra = nr };
	int ret;

	lockdep_assert_held(&img->grow_lock);
	ret = replace_reftable(img, 0, &new);
	*offset = extra_offset(&img->geo, &new);
	return ret;
}
