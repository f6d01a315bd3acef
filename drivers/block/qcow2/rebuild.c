// SPDX-License-Identifier: GPL-2.0-only
/*
 * Repair of an image that was not closed cleanly: its refcounts made anew.
 */

/**
 * DOC: repair
 *
 * While the dirty bit is set in the header, the refcounts in the file may be
 * wrong: too low, if lazy refcounts were on when the machine crashed.  The
 * tables are sound all the same.  So before such an image is written, its
 * refcounts are made anew from what check.c counted:
 *
 * 1. count all references, and decide where refcount blocks that are missing
 *    go, and a longer refcount table if the present one is too short: into
 *    clusters to which nothing refers, whatever the old refcounts say of them.
 *    All that this driver cannot repair is refused here, with nothing written.
 * 2. write the refcount blocks that differ, and the new ones; set the COPIED
 *    flags of the active tables right where the refcounts have another opinion;
 *    write the longer table; flush
 * 3. make the refcount table point to the new blocks, or the header to the
 *    longer table; flush
 * 4. clear the dirty bit; flush
 *
 * If there's a crash, then: before 4 the bit is still set, refcounts may be
 * wrong as they were, and the next repair counts again, from tables that say
 * the same.  COPIED flags are only set where the count is 1, and only cleared
 * where others use the cluster too, so each of them is right at once, and in
 * none of these states may the image be written before another repair.  Before
 * 3 the new blocks lie where nothing is in use; after it they are whole.  The
 * clusters of the old table count as free only in the new blocks; nothing is
 * put there before 4.
 *
 * An I/O error or a fatal signal has the same result as a crash.
 */

#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/limits.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/printk.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <asm/byteorder.h>

#include "check.h"

/**
 * struct repair - one repair
 * @counts: what refers to the host clusters
 * @table: the refcount table as it is to be, CPU byte order
 * @entries: its length
 * @table_offset: where the longer table goes, 0 if it stays where it is
 * @refblocks: the offsets in @table
 * @hint: no cluster before this one is without references
 * @page: content of a slice
 * @corrected: refcounts of clusters in use that were wrong
 * @leaked: refcounts of clusters that are not in use
 */
struct repair {
	struct qcow2_counts counts;
	u64 *table;
	u32 entries;
	u64 table_offset;
	struct qcow2_offsets refblocks;
	u64 hint;
	void *page;
	u64 corrected;
	u64 leaked;
};

static struct qcow2_image *image_of(const struct repair *rep)
{
	return rep->counts.img;
}

static int no_memory(struct repair *rep)
{
	return qcow2_check_io_failed(rep->counts.why, -ENOMEM,
				     "get memory for", 0);
}

/*
 * Where new refcount blocks and a longer table go.
 */

static u64 max_clusters(struct qcow2_image *img)
{
	u64 bytes = min(qcow2_file_max_bytes(img->file), QCOW2_MAX_HOST_OFFSET);

	return bytes >> img->geo.cluster_bits;
}

static int check_fits(struct repair *rep, u64 end)
{
	if (end <= max_clusters(image_of(rep)))
		return 0;
	return qcow2_refuse(rep->counts.why, -ENOSPC,
			    "image was not closed cleanly, and for its repair the file would become too long; attach read-only");
}

/* First cluster from @from on, in its slice, to which nothing refers. */
static u64 skip_used(struct repair *rep, u64 from)
{
	u64 mask = BIT_ULL(image_of(rep)->geo.refslice_bits) - 1;
	u64 cluster = from;

	while (qcow2_count_of(&rep->counts, cluster)) {
		cluster++;
		if (!(cluster & mask))
			break;
	}
	return cluster;
}

static int take_cluster(struct repair *rep, u64 *offset)
{
	u64 cluster = rep->hint;
	int ret;

	while (qcow2_count_of(&rep->counts, cluster)) {
		ret = qcow2_check_interrupted(rep->counts.why);
		if (ret)
			return ret;
		cluster = skip_used(rep, cluster);
	}
	rep->hint = cluster + 1;
	ret = check_fits(rep, cluster + 1);
	ret = ret ?: qcow2_count_cluster(&rep->counts, cluster,
					 QCOW2_MARK_META, "a refcount block");
	*offset = cluster << image_of(rep)->geo.cluster_bits;
	return ret;
}

/*
 * Gives each entry a block whose range has references.  The new blocks count
 * themselves, and so may make another entry want one.
 */
static int plan_refblocks(struct repair *rep)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u32 shift = geo->refblock_bits - geo->refslice_bits;
	unsigned long nr = 0;
	bool again = false;
	int ret;

	for (;;) {
		u64 index;

		ret = qcow2_check_interrupted(rep->counts.why);
		if (ret)
			return ret;
		if (!xa_find(&rep->counts.slices, &nr, ULONG_MAX, XA_PRESENT)) {
			if (!again)
				return 0;
			again = false;
			nr = 0;
			continue;
		}
		index = nr >> shift;
		if (WARN_ON_ONCE(index >= rep->entries))
			return -EIO;
		if (!(rep->table[index] & QCOW2_REFTABLE_OFFSET_MASK)) {
			ret = take_cluster(rep, &rep->table[index]);
			if (ret)
				return ret;
			again = true;
		}
		nr = (index + 1) << shift;
	}
}

static u64 index_of(const struct qcow2_geometry *geo, u64 cluster)
{
	return cluster >> geo->refblock_bits;
}

/*
 * How long a table must be that lies behind all else, and may have as many new
 * blocks behind it as it has entries.
 */
static u64 plan_entries(struct repair *rep, u64 entries)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u64 clusters, wanted = entries;

	do {
		entries = wanted;
		clusters = qcow2_clusters_of(geo, entries * sizeof(u64));
		entries = (clusters << geo->cluster_bits) / sizeof(u64);
		wanted = index_of(geo, rep->counts.end + clusters + entries) + 1;
	} while (wanted > entries &&
		 wanted <= QCOW2_MAX_REFTABLE_BYTES / sizeof(u64));
	return max(entries, wanted);
}

static int plan_longer_table(struct repair *rep, u64 entries)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u64 first = rep->counts.end, clusters, i;
	int ret;

	entries = plan_entries(rep, entries);
	clusters = qcow2_clusters_of(geo, entries * sizeof(u64));
	if (entries > QCOW2_MAX_REFTABLE_BYTES / sizeof(u64))
		return qcow2_check_refuse(rep->counts.why,
					  "no refcount table can be long enough for the cluster at offset 0x%llx",
					  (first - 1) << geo->cluster_bits);
	ret = check_fits(rep, first + clusters);
	for (i = 0; i < clusters && !ret; i++)
		ret = qcow2_count_cluster(&rep->counts, first + i,
					  QCOW2_MARK_META,
					  "the refcount table");
	rep->entries = entries;
	rep->table_offset = first << geo->cluster_bits;
	return ret;
}

/* The old table's clusters are free in the end, but are not taken before. */
static void forget_old_table(struct repair *rep)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u64 first = geo->reftable_offset >> geo->cluster_bits;
	u32 i;

	for (i = 0; i < geo->reftable_clusters; i++)
		qcow2_count_forget(&rep->counts, first + i);
}

static bool has_block(struct qcow2_image *img, u64 index)
{
	return index < img->reftable_entries &&
	       (img->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK);
}

/* Are there references in a range that has no block? */
static bool lacks_blocks(struct repair *rep)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u32 shift = geo->refblock_bits - geo->refslice_bits;
	unsigned long nr = 0;

	while (xa_find(&rep->counts.slices, &nr, ULONG_MAX, XA_PRESENT)) {
		u64 index = nr >> shift;

		if (!has_block(image_of(rep), index))
			return true;
		nr = (index + 1) << shift;
	}
	return false;
}

/* Entries that the table must have, if each empty one may want a new block. */
static u64 wanted_entries(struct repair *rep)
{
	struct qcow2_image *img = image_of(rep);
	u64 last = rep->counts.end - 1;
	u32 i;

	if (lacks_blocks(rep))
		for (i = 0; i < img->reftable_entries; i++)
			last += !has_block(img, i);
	return index_of(&img->geo, last) + 1;
}

static int plan(struct repair *rep)
{
	struct qcow2_image *img = image_of(rep);
	u64 wanted = wanted_entries(rep);
	int ret = 0;

	rep->entries = img->reftable_entries;
	if (wanted > rep->entries)
		ret = plan_longer_table(rep, wanted);
	if (ret)
		return ret;
	rep->table = kvcalloc(rep->entries, sizeof(u64), GFP_KERNEL);
	rep->page = (void *)__get_free_page(GFP_KERNEL);
	if (!rep->table || !rep->page)
		return no_memory(rep);
	memcpy(rep->table, img->reftable,
	       img->reftable_entries * sizeof(u64));
	ret = plan_refblocks(rep);
	if (ret)
		return ret;
	if (rep->table_offset)
		forget_old_table(rep);
	if (qcow2_offsets_fill(&rep->refblocks, rep->table, rep->entries,
			       QCOW2_REFTABLE_OFFSET_MASK, 0))
		return no_memory(rep);
	return 0;
}

/*
 * Writing.
 */

static int transfer(struct repair *rep, bool write, u64 offset)
{
	struct qcow2_image *img = image_of(rep);
	int ret;

	ret = qcow2_check_interrupted(rep->counts.why);
	if (ret)
		return ret;
	ret = qcow2_file_rw_page(img->file, write, offset, rep->page,
				 qcow2_slice_bytes(&img->geo));
	if (ret)
		return qcow2_check_io_failed(rep->counts.why, ret,
					     write ? "write" : "read", offset);
	return 0;
}

static int flush(struct repair *rep)
{
	int ret = qcow2_file_flush(image_of(rep)->file);

	if (ret)
		return qcow2_check_io_failed(rep->counts.why, ret, "flush", 0);
	return 0;
}

/* Compares the slice in @page with @right; NULL: with no references at all. */
static void compare(struct repair *rep, const struct qcow2_count_slice *right)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u32 order = geo->refcount_order;
	u32 i;

	for (i = 0; i < BIT(geo->refslice_bits); i++) {
		u64 was = qcow2_get_refcount(rep->page, order, i);
		u64 is = right ? qcow2_get_refcount(right->refcounts, order, i) :
				 0;

		rep->corrected += is && was != is;
		rep->leaked += !is && was;
	}
}

static bool differs(struct repair *rep, const struct qcow2_count_slice *right)
{
	u32 bytes = qcow2_slice_bytes(&image_of(rep)->geo);

	if (right)
		return memcmp(rep->page, right->refcounts, bytes);
	return memchr_inv(rep->page, 0, bytes);
}

/* Do COPIED flags say the same as the counts? */
static void compare_flags(struct repair *rep,
			  const struct qcow2_count_slice *right)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u32 i;

	for (i = 0; i < BIT(geo->refslice_bits); i++) {
		u8 marks = qcow2_count_marks(right, i);
		u8 wrong = QCOW2_MARK_COPIED;

		if (qcow2_get_refcount(right->refcounts, geo->refcount_order,
				       i) == 1)
			wrong = QCOW2_MARK_NOT_COPIED;
		if (marks & wrong)
			rep->counts.wrong_flags = true;
	}
}

static int write_refslice(struct repair *rep, unsigned long nr, u64 offset,
			  bool new)
{
	u32 bytes = qcow2_slice_bytes(&image_of(rep)->geo);
	struct qcow2_count_slice *right = qcow2_count_slice(&rep->counts, nr);
	int ret = 0;

	memset(rep->page, 0, bytes);
	if (!new)
		ret = transfer(rep, false, offset);
	if (ret)
		return ret;
	if (right)
		compare_flags(rep, right);
	if (!new && !differs(rep, right))
		return 0;
	compare(rep, right);
	if (right)
		memcpy(rep->page, right->refcounts, bytes);
	else
		memset(rep->page, 0, bytes);
	return transfer(rep, true, offset);
}

static int write_refblocks(struct repair *rep)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u32 slices = BIT(geo->refblock_bits - geo->refslice_bits);
	int ret = 0;
	u32 i, j;

	for (i = 0; i < rep->entries && !ret; i++) {
		u64 offset = rep->table[i] & QCOW2_REFTABLE_OFFSET_MASK;

		if (!offset)
			continue;
		for (j = 0; j < slices && !ret; j++)
			ret = write_refslice(rep, (unsigned long)i * slices + j,
					     offset + ((u64)j << geo->slice_bits),
					     !has_block(image_of(rep), i));
	}
	return ret;
}

/* The COPIED flag that an entry should have; never with a bit of @without. */
static u64 right_flag(struct repair *rep, u64 entry, u64 without)
{
	u64 offset = entry & QCOW2_OFFSET_MASK;

	if ((entry & without) || !offset)
		return 0;
	return qcow2_count_of(&rep->counts, offset >>
			      image_of(rep)->geo.cluster_bits) == 1 ?
		QCOW2_OFLAG_COPIED : 0;
}

/* Puts the flags of a piece of a table right; false if they were. */
static bool correct_flags(struct repair *rep, __be64 *words, u32 nr, u32 step,
			  u64 without)
{
	bool changed = false;
	u32 i;

	for (i = 0; i < nr; i += step) {
		u64 was = be64_to_cpu(words[i]);
		u64 is = (was & ~QCOW2_OFLAG_COPIED) |
			 right_flag(rep, was, without);

		if (is == was)
			continue;
		words[i] = cpu_to_be64(is);
		changed = true;
	}
	return changed;
}

static int correct_l2(struct repair *rep, u64 offset)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u32 bytes = qcow2_slice_bytes(geo);
	u64 end = offset + geo->cluster_bytes;
	int ret = 0;

	if (geo->has_data_file)
		return 0;
	for (; offset < end && !ret; offset += bytes) {
		ret = transfer(rep, false, offset);
		if (!ret && correct_flags(rep, rep->page, bytes / sizeof(u64),
					  geo->l2_entry_words,
					  QCOW2_OFLAG_COMPRESSED))
			ret = transfer(rep, true, offset);
	}
	return ret;
}

/* One slice's length of the L1 table, in the file and in memory. */
static int correct_l1(struct repair *rep, struct qcow2_l1 *l1, u32 first)
{
	const struct qcow2_geometry *geo = &image_of(rep)->geo;
	u32 nr = min_t(u32, qcow2_slice_bytes(geo) / sizeof(u64),
		       l1->entries - first);
	u64 offset = geo->l1_offset + first * sizeof(u64);
	__be64 *words = rep->page;
	int ret;
	u32 i;

	ret = transfer(rep, false, offset);
	if (ret || !correct_flags(rep, words, nr, 1, 0))
		return ret;
	ret = transfer(rep, true, offset);
	for (i = 0; i < nr && !ret; i++)
		l1->entry[first + i] = be64_to_cpu(words[i]);
	return ret;
}

static int correct_tables(struct repair *rep)
{
	struct qcow2_image *img = image_of(rep);
	struct qcow2_l1 *l1 = rcu_dereference_protected(img->l1,
						lockdep_is_held(&img->grow_lock));
	u32 per_slice = qcow2_slice_bytes(&img->geo) / sizeof(u64);
	int ret = 0;
	u32 i;

	for (i = 0; i < l1->entries && !ret; i++) {
		if (i % per_slice == 0)
			ret = correct_l1(rep, l1, i);
		if (!ret && (l1->entry[i] & QCOW2_OFFSET_MASK))
			ret = correct_l2(rep, l1->entry[i] & QCOW2_OFFSET_MASK);
	}
	return ret;
}

/* The entries of one block of the refcount table, if one of them is new. */
static int link_refblocks(struct repair *rep, u32 first, u32 nr)
{
	struct qcow2_image *img = image_of(rep);
	int ret;
	u32 i;

	for (i = first; i < first + nr; i++)
		if (rep->table[i] != img->reftable[i])
			break;
	if (i == first + nr)
		return 0;
	ret = qcow2_write_table_entry(img, img->geo.reftable_offset, rep->table,
				      rep->entries, i, rep->table[i]);
	if (ret)
		return qcow2_check_io_failed(rep->counts.why, ret, "write",
					     img->geo.reftable_offset);
	return 0;
}

static int link_all_refblocks(struct repair *rep)
{
	u32 per_block = qcow2_file_align(image_of(rep)->file) / sizeof(u64);
	int ret = 0;
	u32 i;

	for (i = 0; i < rep->entries && !ret; i += per_block)
		ret = link_refblocks(rep, i, per_block);
	return ret;
}

static int write_longer_table(struct repair *rep)
{
	int ret;

	ret = qcow2_write_table(image_of(rep), rep->table_offset, rep->table,
				rep->entries);
	if (ret)
		return qcow2_check_io_failed(rep->counts.why, ret, "write",
					     rep->table_offset);
	return 0;
}

static int switch_table(struct repair *rep)
{
	struct qcow2_image *img = image_of(rep);
	u32 clusters = qcow2_clusters_of(&img->geo,
					 (u64)rep->entries * sizeof(u64));
	int ret;

	ret = qcow2_switch_reftable(img, rep->table_offset, clusters);
	if (ret)
		return qcow2_check_io_failed(rep->counts.why, ret, "write", 0);
	img->geo.reftable_offset = rep->table_offset;
	img->geo.reftable_clusters = clusters;
	return 0;
}

/* What was written rules from now on, in memory too. */
static void use_table(struct repair *rep)
{
	struct qcow2_image *img = image_of(rep);

	mutex_lock(&img->meta_lock);
	swap(img->reftable, rep->table);
	img->reftable_entries = rep->entries;
	swap(img->refblocks, rep->refblocks);
	qcow2_fresh_gone(img, 0, rep->counts.end);
	mutex_unlock(&img->meta_lock);
}

static int write_all(struct repair *rep)
{
	int ret;

	lockdep_assert_held(&image_of(rep)->grow_lock);
	ret = write_refblocks(rep);
	if (!ret && rep->counts.wrong_flags)
		ret = correct_tables(rep);
	if (!ret && rep->table_offset)
		ret = write_longer_table(rep);
	ret = ret ?: flush(rep);
	if (ret)
		return ret;
	ret = rep->table_offset ? switch_table(rep) : link_all_refblocks(rep);
	return ret ?: flush(rep);
}

/* Autoclear bits that stand for what this driver does not know, and so frees. */
static int clear_unknown(struct repair *rep)
{
	struct qcow2_image *img = image_of(rep);
	int ret = 0;

	if (qcow2_unknown_autoclear(&img->geo))
		ret = qcow2_image_prepare_write(img);
	if (ret)
		return qcow2_check_io_failed(rep->counts.why, ret, "write", 0);
	return 0;
}

static int mark_clean(struct repair *rep)
{
	struct qcow2_image *img = image_of(rep);
	int ret;

	set_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags);
	ret = qcow2_mark_clean(img);
	if (ret)
		return qcow2_check_io_failed(rep->counts.why, ret, "write", 0);
	pr_notice("qcow2: %s: image was not closed cleanly; refcounts rebuilt: %llu corrected, %llu clusters leaked and freed\n",
		  img->name, rep->corrected, rep->leaked);
	return 0;
}

static int rebuild(struct repair *rep)
{
	struct qcow2_image *img = image_of(rep);
	int ret;

	ret = qcow2_count_references(&rep->counts);
	ret = ret ?: plan(rep);
	ret = ret ?: clear_unknown(rep);
	if (ret)
		return ret;
	mutex_lock(&img->grow_lock);
	ret = write_all(rep);
	mutex_unlock(&img->grow_lock);
	if (ret)
		return ret;
	use_table(rep);
	return mark_clean(rep);
}

/**
 * qcow2_repair() - make the refcounts of a dirty image anew
 * @img: the image, with its tables and its snapshots read, and nothing cached
 * @why: filled in on failure
 *
 * Does nothing if the image is not dirty or will only be read.
 *
 * Context: sleeps, does I/O, for as long as it takes to read all tables; no
 * operation runs.
 * Return: 0; -EUCLEAN if more is wrong than refcounts, with nothing written; or
 * another negative errno, after which it can be tried again.
 */
int qcow2_repair(struct qcow2_image *img, struct qcow2_reason *why)
{
	struct repair *rep;
	int ret;

	if (qcow2_image_read_only(img) ||
	    !(img->geo.incompatible & QCOW2_INCOMPAT_DIRTY))
		return 0;
	rep = kzalloc_obj(*rep);
	if (!rep)
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	ret = qcow2_counts_init(&rep->counts, img, why);
	ret = ret ?: rebuild(rep);
	qcow2_counts_exit(&rep->counts);
	qcow2_offsets_free(&rep->refblocks);
	free_page((unsigned long)rep->page);
	kvfree(rep->table);
	kfree(rep);
	return ret;
}
