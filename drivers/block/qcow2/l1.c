// SPDX-License-Identifier: GPL-2.0-only
/*
 * The L1 table, and the L2 tables that it points to.
 */

/**
 * DOC: L1 table
 *
 * The active L1 table is in memory as a whole: one object behind an RCU
 * pointer, so that readers need no lock to look at it.  Who holds grow_lock may
 * change an entry, or put a longer table in its place, and takes meta_lock for
 * the moment of the change.
 *
 * An entry that changes is also written to the slice of the L1 table that it lies in,
 * from where the commit takes it to the file as it does with L2 slices.  So a new L2 table
 * waits for no flush:
 *
 * 1. allocate a cluster; write zeroes there, or in place of a table that others share
 *    a copy of that
 * 2. change the entry in memory; its slice of the L1 table is dirty then
 * 3. drop the reference to the old table, if there was one, as any other drop
 *
 * If there's a crash, then: before the entry has reached the file the cluster is a leak.
 * When it has, the first flush of that commit came before it, and has made durable the
 * cluster's refcount and what was written to the cluster in step 1.  So the table
 * maps what the old one did, and what else of it has reached the file since, which
 * refers to data that the same flush has covered.
 *
 * A longer L1 table:
 *
 * 1. allocate contiguous clusters; write their refcounts and the table; flush
 * 2. write its length and place in the header; flush
 * 3. drop the references to the old table's clusters, as any other drop
 *
 * If there's a crash, then: before 2 the old table rules and the new one is a
 * leak; after 2 the new one rules, which says what the old one did, and the old
 * one is a leak.  Step 2 changes one sector, and entries in memory only change in the
 * table that rules, so there is nothing in between.  A commit that runs meanwhile may still
 * write slices of the old table, whose clusters are in use until a later commit.
 *
 * If step 1 fails, or step 2 without a write, all is as it was but for the new
 * clusters, which are dropped.
 */

#include <linux/build_bug.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/stddef.h>
#include <linux/string.h>
#include <asm/byteorder.h>

#include "image.h"

/*
 * The table in memory.
 */

/**
 * qcow2_l1_entry() - read an entry of the active L1 table
 * @img: the image
 * @index: which one
 *
 * Context: any.
 * Return: the entry; 0 behind the end of the table.
 */
u64 qcow2_l1_entry(struct qcow2_image *img, u32 index)
{
	const struct qcow2_l1 *l1;
	u64 entry = 0;

	rcu_read_lock();
	l1 = rcu_dereference(img->l1);
	if (index < l1->entries)
		entry = READ_ONCE(l1->entry[index]);
	rcu_read_unlock();
	return entry;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_l1_entry);

/* The table, for who may change it. */
static struct qcow2_l1 *own_l1(struct qcow2_image *img)
{
	return rcu_dereference_protected(img->l1,
					 lockdep_is_held(&img->grow_lock));
}

/*
 * L2 tables.
 */

/*
 * What the new table says before its entry is in use.  The old one is shared, so it
 * does not change, and the file has what the cache has.
 */
static int write_new_l2_table(struct qcow2_image *img, u64 old, u64 new)
{
	u32 bytes = img->geo.cluster_bytes;

	if (old)
		return qcow2_file_copy(img->file, old, new, bytes,
				       img->grow_page);
	return qcow2_file_write_zeroes(img->file, new, bytes);
}

/**
 * struct new_l2 - an L2 table that is about to be used
 * @index: of its L1 entry
 * @entry: the entry
 * @l1: the slice of the L1 table with the entry
 * @drop: the old table's cluster; NULL if there is none
 */
struct new_l2 {
	u32 index;
	u64 entry;
	struct qcow2_slice *l1;
	struct qcow2_drop *drop;
};

static void free_new_l2(struct qcow2_image *img, struct new_l2 *new)
{
	if (!IS_ERR(new->l1))
		qcow2_slice_put(new->l1);
	qcow2_drop_free(img, new->drop);
}

/* The slice of the L1 table with an entry. */
static struct qcow2_slice *get_l1_slice(struct qcow2_image *img, u32 index)
{
	u64 pos = round_down((u64)index * sizeof(u64),
			     qcow2_slice_bytes(&img->geo));

	return qcow2_slice_get(img, QCOW2_SLICE_L1, img->geo.l1_offset + pos);
}

static int check_l1_slice(struct qcow2_image *img, u64 offset)
{
	int ret;

	mutex_lock(&img->meta_lock);
	ret = qcow2_pre_write_overlap_check(img, offset,
					    qcow2_slice_bytes(&img->geo),
					    QCOW2_METADATA_L1);
	mutex_unlock(&img->meta_lock);
	return ret;
}

static int prepare_drop(struct qcow2_image *img, u64 old, struct new_l2 *new)
{
	int ret = qcow2_check_table_counted(img, old);

	if (ret)
		return ret;
	new->drop = qcow2_drop_alloc(img, 1);
	if (!new->drop)
		return -QCOW2_NO_RECORD;
	new->drop->offsets[0] = old;
	return 0;
}

/* All that may fail. */
static int prepare_l2_table(struct qcow2_image *img, const struct qcow2_run *run,
			    struct new_l2 *new)
{
	u64 old = qcow2_l1_entry(img, new->index) & QCOW2_OFFSET_MASK;
	int ret = 0;

	new->entry = run->host_offset | QCOW2_OFLAG_COPIED;
	if (old)
		ret = prepare_drop(img, old, new);
	ret = ret ?: write_new_l2_table(img, old, run->host_offset);
	if (ret)
		return ret;
	new->l1 = get_l1_slice(img, new->index);
	return IS_ERR(new->l1) ? PTR_ERR(new->l1) :
				 check_l1_slice(img, new->l1->offset);
}

static void set_l1_entry(struct qcow2_image *img, const struct new_l2 *new)
{
	u32 per_slice = qcow2_slice_bytes(&img->geo) / sizeof(u64);
	struct qcow2_l1 *l1 = own_l1(img);

	lockdep_assert_held(&img->meta_lock);
	WRITE_ONCE(l1->entry[new->index], new->entry);
	new->l1->data[new->index & (per_slice - 1)] = cpu_to_be64(new->entry);
	qcow2_slice_mark_dirty(img, new->l1);
}

static void use_l2_table(struct qcow2_image *img, struct new_l2 *new)
{
	u64 old = qcow2_l1_entry(img, new->index) & QCOW2_OFFSET_MASK;

	mutex_lock(&img->meta_lock);
	qcow2_offsets_remove(img, &img->l2_tables, old);
	qcow2_offsets_add(img, &img->l2_tables, new->entry & QCOW2_OFFSET_MASK);
	set_l1_entry(img, new);
	if (new->drop)
		qcow2_drop_later(img, new->drop);
	new->drop = NULL;
	mutex_unlock(&img->meta_lock);
}

static void give_cluster_back(struct qcow2_image *img, struct qcow2_run *run)
{
	mutex_lock(&img->meta_lock);
	qcow2_alloc_undo(img, run);
	mutex_unlock(&img->meta_lock);
}

static int replace_l2_table(struct qcow2_image *img, u32 index)
{
	struct new_l2 new = { .index = index };
	struct qcow2_run run;
	int ret = qcow2_alloc_table_cluster(img, &run);

	if (ret)
		return ret;
	ret = prepare_l2_table(img, &run, &new);
	if (!ret) {
		use_l2_table(img, &new);
		qcow2_slice_put(run.refblock);
	} else {
		give_cluster_back(img, &run);
	}
	free_new_l2(img, &new);
	return ret;
}

/**
 * qcow2_alloc_l2_table() - give an L1 entry an L2 table of its own
 * @img: the image
 * @index: of the entry
 *
 * QEMU: l2_allocate().  Does nothing if somebody was faster.
 *
 * Needs no memory but what the image keeps for it.
 *
 * Context: grow_lock held; sleeps, does I/O, but no flush.
 * Return: 0; -%QCOW2_NO_RECORD; or another negative errno.
 */
int qcow2_alloc_l2_table(struct qcow2_image *img, u32 index)
{
	u64 old = qcow2_l1_entry(img, index);

	lockdep_assert_held(&img->grow_lock);
	if (old & QCOW2_OFLAG_COPIED)
		return 0;
	/* Nobody knows whether the file still has this L1 table. */
	if (qcow2_image_needs_check(img))
		return -EIO;
	if (qcow2_check_l1_entry(&img->geo, old))
		return qcow2_image_fail(img, -EUCLEAN,
					"damaged L1 entry %u: 0x%016llx", index,
					old);
	return replace_l2_table(img, index);
}

/*
 * Growth.
 */

/**
 * struct new_l1 - a longer L1 table and where it goes
 * @offset: host offset of its first cluster in bytes
 * @clusters: number of clusters
 * @l1: its content
 * @drop: its clusters, in case it comes to nothing
 * @old: the clusters of the present table
 */
struct new_l1 {
	u64 offset;
	u32 clusters;
	struct qcow2_l1 *l1;
	struct qcow2_drop *drop;
	struct qcow2_drop *old;
};

static struct qcow2_l1 *copy_l1(const struct qcow2_l1 *old, u32 entries)
{
	unsigned int noio = memalloc_noio_save();
	struct qcow2_l1 *l1;

	l1 = kvzalloc(struct_size(l1, entry, entries), GFP_KERNEL);
	memalloc_noio_restore(noio);
	if (!l1)
		return NULL;
	l1->entries = entries;
	memcpy(l1->entry, old->entry, old->entries * sizeof(u64));
	return l1;
}

static u32 clusters_of(const struct qcow2_geometry *geo, u32 entries)
{
	return qcow2_clusters_of(geo, (u64)entries * sizeof(u64));
}

/*
 * Gets all the memory, so that what may be half done later can be undone.  It is as much
 * as the table is long, so there is no reserve for it: without memory the table does not
 * grow.  No write wants that of an image whose table maps the whole disk.
 */
static int prepare_l1(struct qcow2_image *img, u32 entries, struct new_l1 *new)
{
	const struct qcow2_geometry *geo = &img->geo;
	u32 more = entries - img->l2_tables.nr;

	new->clusters = clusters_of(geo, entries);
	new->l1 = copy_l1(own_l1(img), entries);
	new->drop = qcow2_drop_alloc(img, new->clusters);
	new->old = qcow2_drop_alloc_area(img, geo->l1_offset,
					 clusters_of(geo, geo->l1_entries));
	if (!new->l1 || !new->drop || !new->old)
		return -ENOMEM;
	return qcow2_offsets_reserve(img, &img->l2_tables, more);
}

static void free_new_l1(struct qcow2_image *img, struct new_l1 *new)
{
	kvfree(new->l1);
	qcow2_drop_free(img, new->drop);
	qcow2_drop_free(img, new->old);
}

static int alloc_l1(struct qcow2_image *img, struct new_l1 *new)
{
	int ret = qcow2_alloc_area(img, new->clusters, &new->offset);
	u32 i;

	for (i = 0; i < new->clusters && !ret; i++)
		new->drop->offsets[i] = new->offset +
					((u64)i << img->geo.cluster_bits);
	return ret;
}

static int point_header_to(struct qcow2_image *img, const struct new_l1 *new)
{
	struct {
		__be32 entries;
		__be64 offset;
	} __packed field = {
		.entries = cpu_to_be32(new->l1->entries),
		.offset = cpu_to_be64(new->offset),
	};

	static_assert(offsetof(struct qcow2_disk_header, l1_table_offset) -
		      offsetof(struct qcow2_disk_header, l1_size) ==
		      sizeof(field.entries));
	return qcow2_header_switch(img, offsetof(struct qcow2_disk_header,
						 l1_size),
				   &field, sizeof(field));
}

static int write_new_l1(struct qcow2_image *img, const struct new_l1 *new)
{
	int ret;

	ret = qcow2_write_table(img, new->offset, new->l1->entry,
				new->l1->entries);
	ret = ret ?: qcow2_commit_refcounts(img);
	/* I1, and the table: before what refers to it. */
	ret = ret ?: qcow2_flush_file(img);
	return ret ?: point_header_to(img, new);
}

/* Leaves the present table and its clusters' record in @new's place. */
static void use_l1(struct qcow2_image *img, struct new_l1 *new)
{
	struct qcow2_l1 *old = own_l1(img);

	mutex_lock(&img->meta_lock);
	rcu_assign_pointer(img->l1, new->l1);
	img->geo.l1_entries = new->l1->entries;
	img->geo.l1_offset = new->offset;
	qcow2_metadata_moved(img);
	qcow2_drop_later(img, new->old);
	mutex_unlock(&img->meta_lock);
	synchronize_rcu();
	new->l1 = old;
	new->old = NULL;
}

static void give_back(struct qcow2_image *img, struct new_l1 *new)
{
	/* Then nobody knows whether the header has the new table: a leak. */
	if (qcow2_image_needs_check(img))
		return;
	mutex_lock(&img->meta_lock);
	qcow2_drop_later(img, new->drop);
	mutex_unlock(&img->meta_lock);
	new->drop = NULL;
}

/**
 * qcow2_grow_l1() - make the L1 table longer
 * @img: the image
 * @min_entries: number of entries that it shall have at least
 *
 * It becomes longer by half at least, so that it need not grow often.
 *
 * QEMU: qcow2_grow_l1_table().  Does nothing if somebody was faster.
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: 0; -EFBIG if no L1 table may be so long; -ENOSPC if the file must not
 * become so long; or another negative errno.
 */
int qcow2_grow_l1(struct qcow2_image *img, u64 min_entries)
{
	const u32 max_entries = QCOW2_MAX_L1_BYTES / sizeof(u64);
	u32 old = img->geo.l1_entries;
	struct new_l1 new = {};
	int ret;

	lockdep_assert_held(&img->grow_lock);
	if (min_entries <= old)
		return 0;
	if (min_entries > max_entries)
		return -EFBIG;
	ret = prepare_l1(img, clamp(old + old / 2, (u32)min_entries,
				    max_entries), &new);
	ret = ret ?: alloc_l1(img, &new);
	if (!ret) {
		ret = write_new_l1(img, &new);
		if (ret)
			give_back(img, &new);
		else
			use_l1(img, &new);
	}
	free_new_l1(img, &new);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_grow_l1);
