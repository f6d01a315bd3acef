// SPDX-License-Identifier: GPL-2.0-only
/*
 * Where metadata lies, so that nothing else is written there.
 */

/**
 * DOC: overlap checks
 *
 * In a sound image no two things share a cluster.  In a damaged one a cluster
 * of guest data may be the header, a table, or a refcount block, and writing
 * the data would finish the image.  So each write of data or of a slice is
 * checked first against all metadata that is in use (invariant I8): the header,
 * the L1 table, the refcount table and the snapshot table, which are single
 * ranges, all L2 tables and refcount blocks, whose offsets are kept in one
 * sorted array each, and the L1 tables of internal snapshots (snapshot.c).
 * The arrays are as long as the tables that the offsets come from; they change
 * only when a table grows.
 *
 * A write that needs a table must not fail for want of memory to know it.  So for L2
 * tables there is room for as many as the L1 table has entries.  Refcount blocks can
 * be many more than there are; but a new one lies on the first cluster of the range
 * that it describes, where the refcount table itself says whether there is one.  It
 * goes into the array too if that has room.
 *
 * The L2 tables that only snapshots use are not known:
 * their refcounts alone protect them, as in QEMU.
 */

#include <linux/bits.h>
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>

#include "image.h"

/* Room for tables to come is made for so many at a time. */
#define RESERVE_STEP	64

static int compare_offsets(const void *a, const void *b)
{
	u64 x = *(const u64 *)a, y = *(const u64 *)b;

	return x < y ? -1 : x > y;
}

/* Number of offsets that are less than @offset. */
static u32 count_below(const struct qcow2_offsets *set, u64 offset)
{
	u32 low = 0, high = set->nr;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (set->offsets[middle] < offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Does a cluster of the set start in [@start, @end), both cluster aligned? */
static bool any_in(const struct qcow2_offsets *set, u64 start, u64 end)
{
	u32 i = count_below(set, start);

	return i < set->nr && set->offsets[i] < end;
}

/**
 * qcow2_offsets_fill() - collect the offsets that a table's entries hold
 * @set: the set, empty
 * @table: entries in CPU byte order
 * @entries: their number
 * @mask: the bits of an entry that are the offset
 * @room: for how many there shall be room at least
 *
 * Context: sleeps.
 * Return: 0 or -ENOMEM.
 */
int qcow2_offsets_fill(struct qcow2_offsets *set, const u64 *table,
		       u32 entries, u64 mask, u32 room)
{
	u32 i, nr = 0;

	for (i = 0; i < entries; i++)
		nr += !!(table[i] & mask);
	set->room = max(nr + RESERVE_STEP, room);
	set->offsets = kvmalloc_array(set->room, sizeof(u64), GFP_KERNEL);
	if (!set->offsets)
		return -ENOMEM;
	for (i = 0; i < entries; i++)
		if (table[i] & mask)
			set->offsets[set->nr++] = table[i] & mask;
	sort(set->offsets, set->nr, sizeof(u64), compare_offsets, NULL);
	return 0;
}

/**
 * qcow2_offsets_twice() - is an offset in a set more than once?
 * @set: the set
 *
 * Context: any.
 * Return: the first such offset, or 0.
 */
u64 qcow2_offsets_twice(const struct qcow2_offsets *set)
{
	u32 i;

	for (i = 1; i < set->nr; i++)
		if (set->offsets[i] == set->offsets[i - 1])
			return set->offsets[i];
	return 0;
}

/**
 * qcow2_offsets_free() - free a set's memory
 * @set: the set
 */
void qcow2_offsets_free(struct qcow2_offsets *set)
{
	kvfree(set->offsets);
}

/**
 * qcow2_offsets_reserve() - make room for some more offsets
 * @img: the image
 * @set: one of its sets
 * @more: how many
 *
 * Context: grow_lock held, meta_lock not; sleeps.
 * Return: 0 or -ENOMEM.
 */
int qcow2_offsets_reserve(struct qcow2_image *img, struct qcow2_offsets *set,
			  u32 more)
{
	unsigned int noio;
	u32 room;
	u64 *new;

	lockdep_assert_held(&img->grow_lock);
	if (set->room - set->nr >= more)
		return 0;
	room = set->nr + set->nr / 2 + more + RESERVE_STEP;
	noio = memalloc_noio_save();
	new = kvmalloc_array(room, sizeof(u64), GFP_KERNEL);
	memalloc_noio_restore(noio);
	if (!new)
		return -ENOMEM;
	mutex_lock(&img->meta_lock);
	memcpy(new, set->offsets, set->nr * sizeof(u64));
	swap(set->offsets, new);
	set->room = room;
	mutex_unlock(&img->meta_lock);
	kvfree(new);
	return 0;
}

/**
 * qcow2_offsets_add() - a cluster became metadata
 * @img: the image
 * @set: one of its sets, in which room was reserved
 * @offset: host offset of the cluster
 *
 * Context: meta_lock held.
 */
void qcow2_offsets_add(struct qcow2_image *img, struct qcow2_offsets *set,
		       u64 offset)
{
	u32 i = count_below(set, offset);

	lockdep_assert_held(&img->meta_lock);
	if (WARN_ON_ONCE(set->nr == set->room))
		return;
	memmove(&set->offsets[i + 1], &set->offsets[i],
		(set->nr - i) * sizeof(u64));
	set->offsets[i] = offset;
	set->nr++;
	qcow2_metadata_moved(img);
}

/**
 * qcow2_offsets_remove() - a cluster is no metadata any more
 * @img: the image
 * @set: one of its sets
 * @offset: host offset of the cluster
 *
 * Context: meta_lock held.
 */
void qcow2_offsets_remove(struct qcow2_image *img, struct qcow2_offsets *set,
			  u64 offset)
{
	u32 i = count_below(set, offset);

	lockdep_assert_held(&img->meta_lock);
	if (i == set->nr || set->offsets[i] != offset)
		return;
	set->nr--;
	memmove(&set->offsets[i], &set->offsets[i + 1],
		(set->nr - i) * sizeof(u64));
}

static bool overlaps(u64 start, u64 end, u64 offset, u64 bytes)
{
	return bytes && start < offset + bytes && offset < end;
}

/*
 * Likewise of the refcount blocks that lie where qcow2_alloc_refblock() puts them, which
 * may have had no memory to add one to the set.
 */
static bool any_refblock_in(struct qcow2_image *img, u64 start, u64 end)
{
	u32 bits = img->geo.refblock_bits + img->geo.cluster_bits;
	u64 index = (start + BIT_ULL(bits) - 1) >> bits;

	for (; index < img->reftable_entries && index << bits < end; index++)
		if ((img->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK) ==
		    index << bits)
			return true;
	return any_in(&img->refblocks, start, end);
}

/* What of the metadata, except @own, has a byte in these clusters? */
static const char *find_overlap(struct qcow2_image *img, u64 start, u64 end,
				enum qcow2_metadata own)
{
	const struct qcow2_snapshots *snapshots = img->snapshots;
	const struct qcow2_geometry *geo = &img->geo;

	lockdep_assert_held(&img->meta_lock);
	if (overlaps(start, end, 0, geo->cluster_bytes))
		return "the header";
	if (own != QCOW2_METADATA_L1 &&
	    overlaps(start, end, geo->l1_offset,
		     (u64)geo->l1_entries * sizeof(u64)))
		return "the L1 table";
	if (overlaps(start, end, geo->reftable_offset,
		     (u64)geo->reftable_clusters << geo->cluster_bits))
		return "the refcount table";
	if (own != QCOW2_METADATA_L2 && any_in(&img->l2_tables, start, end))
		return "an L2 table";
	if (own != QCOW2_METADATA_REFBLOCK &&
	    any_refblock_in(img, start, end))
		return "a refcount block";
	if (!snapshots)
		return NULL;
	if (overlaps(start, end, snapshots->table_offset,
		     snapshots->table_bytes))
		return "the snapshot table";
	if (qcow2_is_inactive_l1(snapshots, start, end))
		return "an inactive L1 table";
	return NULL;
}

/**
 * qcow2_pre_write_overlap_check() - would a write destroy metadata?
 * @img: the image
 * @offset: host offset of what is to be written, in bytes
 * @bytes: its length, not 0
 * @own: what it is
 *
 * QEMU: qcow2_pre_write_overlap_check().
 *
 * Context: meta_lock held.
 * Return: 0, or -EUCLEAN after the image was marked corrupt.
 */
int qcow2_pre_write_overlap_check(struct qcow2_image *img, u64 offset,
				  u64 bytes, enum qcow2_metadata own)
{
	u64 start = qcow2_cluster_start(&img->geo, offset);
	u64 end = offset + bytes;
	const char *what;

	lockdep_assert_held(&img->meta_lock);
	what = find_overlap(img, start, end, own);
	if (!what)
		return 0;
	return qcow2_image_fail(img, -EUCLEAN,
				"writing %llu bytes at offset 0x%llx would overlap %s",
				bytes, offset, what);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_pre_write_overlap_check);

/**
 * qcow2_check_data_write() - may guest data be written there, or be punched?
 * @img: the image
 * @offset: host offset in bytes
 * @bytes: length
 *
 * There is nothing else in an external data file.
 *
 * Context: meta_lock held.
 * Return: as qcow2_pre_write_overlap_check().
 */
int qcow2_check_data_write(struct qcow2_image *img, u64 offset, u64 bytes)
{
	if (img->geo.has_data_file)
		return 0;
	return qcow2_pre_write_overlap_check(img, offset, bytes,
					     QCOW2_METADATA_NONE);
}

/**
 * qcow2_metadata_moved() - metadata is where it was not before
 * @img: the image
 *
 * Context: meta_lock held.
 */
void qcow2_metadata_moved(struct qcow2_image *img)
{
	lockdep_assert_held(&img->meta_lock);
	WRITE_ONCE(img->metadata_moves, img->metadata_moves + 1);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_metadata_moved);

/**
 * qcow2_slice_is_vetted() - is no COPIED cluster of an L2 slice metadata?
 * @img: the image
 * @slice: the slice
 *
 * An entry that came later refers to a cluster that was checked when it was
 * allocated.
 *
 * Context: any.
 * Return: false if nobody has looked since metadata moved.
 */
bool qcow2_slice_is_vetted(struct qcow2_image *img,
			   const struct qcow2_slice *slice)
{
	return READ_ONCE(slice->vetted) == READ_ONCE(img->metadata_moves) + 1;
}

/**
 * qcow2_vet_slice() - look whether that is so, for writes to come
 * @img: the image
 * @slice: an L2 slice
 *
 * An overlap is for the write to find that would do harm.
 *
 * Context: meta_lock held.
 */
void qcow2_vet_slice(struct qcow2_image *img, struct qcow2_slice *slice)
{
	const struct qcow2_geometry *geo = &img->geo;
	u32 i;

	lockdep_assert_held(&img->meta_lock);
	if (qcow2_slice_is_vetted(img, slice))
		return;
	for (i = 0; !geo->has_data_file && i < BIT(geo->l2_slice_bits); i++) {
		u64 word = qcow2_get_l2_entry(geo, slice, i).word;
		u64 start = word & QCOW2_OFFSET_MASK;

		if ((word & QCOW2_OFLAG_COMPRESSED) ||
		    !(word & QCOW2_OFLAG_COPIED))
			continue;
		if (find_overlap(img, start, start + geo->cluster_bytes,
				 QCOW2_METADATA_NONE))
			return;
	}
	WRITE_ONCE(slice->vetted, img->metadata_moves + 1);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_vet_slice);
