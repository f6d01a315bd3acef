// SPDX-License-Identifier: GPL-2.0-only
/*
 * Counting references: what a sound image would have as refcounts.
 */

/**
 * DOC: counting references
 *
 * Everything in an image that refers to a host cluster is walked, and counts
 * one for each cluster that it touches: the header, the L1 tables (the active
 * one and one for each internal snapshot), through each of them its L2 tables,
 * and through these the data, compressed or not; the refcount table and its
 * blocks; the snapshot table; and persistent bitmaps, as long as the autoclear
 * bit says that they mean something.
 *
 * Memory.  The counts are kept as refcounts of the image's own width, in slices
 * as the refcount blocks have them, and only for slices in which something is
 * referred to.  So the memory follows what is in use, not the length of the
 * file.  A cluster alone in its slice costs the whole slice.  An image with
 * many such clusters is scattered thinly over a very long file, as only a
 * contrived one is, and is refused: beyond what is always allowed, counts take
 * at most %MAX_SCATTER times what the clusters in use would take side by side.
 * Each cluster is one in that sum, however many references it has.  A reference
 * costs eight bytes of a table or less, since tables can be shared; so a sum of
 * references would let a small image have as much memory as it likes.  No more
 * clusters can be in use than the file is long.
 *
 * Work.  An L2 table that several L1 tables share is read once, when the
 * entries of all L1 tables were counted and it is known how many users it has.
 * Each of its entries then counts for that many references.  So each table is
 * read once, and no place of the file is read as two tables: the length of the
 * file bounds the work.  Tables are read in pieces, and a fatal signal ends the
 * walk.
 *
 * Nothing is mended that could be meant in two ways.  The walk fails, with a
 * reason that names the place, at a table entry that is damaged or leads out of
 * the file; at a cluster that is metadata and something else (L2 tables may
 * have a user in each L1 table, other metadata has one); and where the
 * references are more than a refcount can hold.
 */

#include <linux/bits.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/stdarg.h>
#include <linux/string.h>
#include <linux/xarray.h>
#include <asm/byteorder.h>

#include "check.h"

/*
 * Counts take this much memory without a question, which is enough for files of
 * 4 TiB in clusters of 64 KiB; and beyond it so many times what they would take
 * without gaps.
 */
#define FREE_BYTES	SZ_256M
#define MAX_SCATTER	16

/*
 * What finding a slice takes at worst: so many nodes of the xarray that no other
 * slice uses.  Numbers of slices have at most 41 bits, which are 7 levels; there
 * are but a few nodes of the upper three.
 */
#define INDEX_BYTES	(4 * 576)

/*
 * Giving up.
 */

/**
 * qcow2_check_refuse() - an image cannot be repaired by this driver
 * @why: filled in
 * @fmt: what is wrong, without a newline
 *
 * Return: -EUCLEAN.
 */
int qcow2_check_refuse(struct qcow2_reason *why, const char *fmt, ...)
{
	struct qcow2_reason what;
	va_list args;

	va_start(args, fmt);
	vscnprintf(what.text, sizeof(what.text), fmt, args);
	va_end(args);
	return qcow2_refuse(why, -EUCLEAN,
			    "image was not closed cleanly, and cannot be repaired here: %s; 'qemu-img check -r all' it or attach read-only",
			    what.text);
}

/**
 * qcow2_check_io_failed() - metadata could not be read or written
 * @why: filled in
 * @error: negative errno
 * @what: "read" or the like
 * @offset: where, in bytes
 *
 * Return: -ENOMEM, -ENOSPC or -EIO.
 */
int qcow2_check_io_failed(struct qcow2_reason *why, int error,
			  const char *what, u64 offset)
{
	/* Keep errors of the file apart from what we say of the image. */
	if (error != -ENOMEM && error != -ENOSPC)
		error = -EIO;
	return qcow2_refuse(why, error,
			    "image was not closed cleanly, and its repair cannot %s metadata at offset 0x%llx (error %d); it can be tried again",
			    what, offset, error);
}

static int out_of_memory(struct qcow2_reason *why)
{
	return qcow2_refuse(why, -ENOMEM,
			    "image was not closed cleanly, and there is not enough memory to repair it");
}

/**
 * qcow2_check_interrupted() - shall the work that takes long go on?
 * @why: filled in if not
 *
 * Context: may sleep.
 * Return: 0 or -EINTR.
 */
int qcow2_check_interrupted(struct qcow2_reason *why)
{
	cond_resched();
	if (!fatal_signal_pending(current))
		return 0;
	return qcow2_refuse(why, -EINTR,
			    "image was not closed cleanly, and its repair was interrupted; it can be tried again");
}

/*
 * Counts.
 */

static u32 clusters_per_slice(const struct qcow2_geometry *geo)
{
	return BIT(geo->refslice_bits);
}

static u32 marks_bytes(const struct qcow2_geometry *geo)
{
	return clusters_per_slice(geo) >> (3 - QCOW2_MARKS_ORDER);
}

static u32 index_in_slice(const struct qcow2_geometry *geo, u64 cluster)
{
	return cluster & (clusters_per_slice(geo) - 1);
}

/* Memory that a cluster costs where all are in use, in bits. */
static u32 bits_per_cluster(const struct qcow2_geometry *geo)
{
	return BIT(geo->refcount_order) + BIT(QCOW2_MARKS_ORDER);
}

static int check_memory(struct qcow2_counts *counts, u64 more)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	u64 dense = counts->clusters * bits_per_cluster(geo) / 8;

	if (counts->bytes + more <= FREE_BYTES + dense * MAX_SCATTER)
		return 0;
	return qcow2_check_refuse(counts->why,
				  "its clusters are scattered so thinly that counting them takes too much memory");
}

static struct qcow2_count_slice *alloc_slice(const struct qcow2_geometry *geo)
{
	const gfp_t gfp = GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN;
	struct qcow2_count_slice *slice;

	slice = kzalloc(struct_size(slice, marks, marks_bytes(geo)), gfp);
	if (!slice)
		return NULL;
	slice->refcounts = kzalloc(qcow2_slice_bytes(geo), gfp);
	if (slice->refcounts)
		return slice;
	kfree(slice);
	return NULL;
}

static void free_slice(struct qcow2_count_slice *slice)
{
	kfree(slice->refcounts);
	kfree(slice);
}

static int add_slice(struct qcow2_counts *counts, unsigned long nr)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	struct qcow2_count_slice *slice;
	u64 bytes = INDEX_BYTES + qcow2_slice_bytes(geo) +
		    struct_size(slice, marks, marks_bytes(geo));
	int ret;

	ret = check_memory(counts, bytes);
	if (ret)
		return ret;
	slice = alloc_slice(geo);
	if (!slice)
		return out_of_memory(counts->why);
	if (xa_insert(&counts->slices, nr, slice, GFP_KERNEL)) {
		free_slice(slice);
		return out_of_memory(counts->why);
	}
	counts->bytes += bytes;
	slice->nr = nr;
	slice->next = counts->all;
	counts->all = slice;
	counts->last = slice;
	counts->last_nr = nr;
	return 0;
}

/**
 * qcow2_count_slice() - the counts of a refcount slice
 * @counts: the counts
 * @nr: number of the slice
 *
 * Return: they, or NULL if nothing refers to its clusters.
 */
struct qcow2_count_slice *qcow2_count_slice(struct qcow2_counts *counts,
					    unsigned long nr)
{
	if (!counts->last || counts->last_nr != nr) {
		counts->last = xa_load(&counts->slices, nr);
		counts->last_nr = nr;
	}
	return counts->last;
}

/**
 * qcow2_count_of() - how many references there are to a cluster
 * @counts: the counts
 * @cluster: index of the host cluster
 *
 * Return: the number.
 */
u64 qcow2_count_of(struct qcow2_counts *counts, u64 cluster)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	struct qcow2_count_slice *slice =
		qcow2_count_slice(counts, cluster >> geo->refslice_bits);

	if (!slice)
		return 0;
	return qcow2_get_refcount(slice->refcounts, geo->refcount_order,
				  index_in_slice(geo, cluster));
}

/**
 * qcow2_count_marks() - what is known of a cluster
 * @slice: the slice with its counts
 * @index: index in the slice
 *
 * Return: enum qcow2_marks.
 */
u8 qcow2_count_marks(const struct qcow2_count_slice *slice, u32 index)
{
	return qcow2_get_refcount(slice->marks, QCOW2_MARKS_ORDER, index);
}

/* May a cluster that has @count references already have another one? */
static int check_kinds(struct qcow2_counts *counts, u64 cluster, u64 count,
		       u8 was, u8 marks, const char *what)
{
	static const char * const names[] = {
		[QCOW2_MARK_DATA] = "data",
		[QCOW2_MARK_L2] = "an L2 table",
		[QCOW2_MARK_META] = "other metadata",
	};
	const struct qcow2_geometry *geo = &counts->img->geo;
	u64 offset = cluster << geo->cluster_bits;
	u8 kind = was & QCOW2_MARK_KIND;

	if (!count)
		return 0;
	if (kind != (marks & QCOW2_MARK_KIND) || kind == QCOW2_MARK_META)
		return qcow2_check_refuse(counts->why,
					  "%s and %s share the cluster at offset 0x%llx",
					  what, names[kind], offset);
	return 0;
}

static int check_overflow(struct qcow2_counts *counts, u64 cluster, u64 count)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	u64 max = qcow2_max_refcount(geo->refcount_order);

	if (count <= max && counts->times <= max - count)
		return 0;
	return qcow2_check_refuse(counts->why,
				  "the cluster at offset 0x%llx has more than %llu users, which refcounts of %u bits cannot say",
				  cluster << geo->cluster_bits, max,
				  1U << geo->refcount_order);
}

/**
 * qcow2_count_cluster() - count a reference, as often as @counts->times says
 * @counts: the counts
 * @cluster: index of the host cluster
 * @marks: enum qcow2_marks to be added
 * @what: what the cluster is used for, for messages
 *
 * Context: may sleep.
 * Return: 0, -EUCLEAN or -ENOMEM.
 */
int qcow2_count_cluster(struct qcow2_counts *counts, u64 cluster, u8 marks,
			const char *what)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	unsigned long nr = cluster >> geo->refslice_bits;
	u32 order = geo->refcount_order;
	u32 index = index_in_slice(geo, cluster);
	struct qcow2_count_slice *slice;
	u64 count;
	int ret;

	if (!qcow2_count_slice(counts, nr)) {
		ret = add_slice(counts, nr);
		if (ret)
			return ret;
	}
	slice = counts->last;
	count = qcow2_get_refcount(slice->refcounts, order, index);
	ret = check_kinds(counts, cluster, count,
			  qcow2_count_marks(slice, index), marks, what);
	ret = ret ?: check_overflow(counts, cluster, count);
	if (ret)
		return ret;
	qcow2_set_refcount(slice->refcounts, order, index,
			   count + counts->times);
	qcow2_set_refcount(slice->marks, QCOW2_MARKS_ORDER, index,
			   qcow2_count_marks(slice, index) | marks);
	counts->clusters += !count;
	counts->end = max(counts->end, cluster + 1);
	return 0;
}

/**
 * qcow2_count_forget() - nothing refers to a cluster any more
 * @counts: the counts
 * @cluster: index of the host cluster, which had references
 */
void qcow2_count_forget(struct qcow2_counts *counts, u64 cluster)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	struct qcow2_count_slice *slice =
		qcow2_count_slice(counts, cluster >> geo->refslice_bits);

	qcow2_set_refcount(slice->refcounts, geo->refcount_order,
			   index_in_slice(geo, cluster), 0);
	counts->clusters--;
}

/* The last cluster of a file may be there in part (as QEMU has it). */
static int check_range(struct qcow2_counts *counts, u64 offset, u64 bytes,
		       const char *what)
{
	u64 file_bytes = qcow2_file_bytes(counts->img->file);
	u64 end;

	if (!check_add_overflow(offset, bytes, &end) &&
	    end < file_bytes + counts->img->geo.cluster_bytes)
		return 0;
	return qcow2_check_refuse(counts->why,
				  "%s at offset 0x%llx lies behind the end of the file (%llu bytes)",
				  what, offset, file_bytes);
}

/* Counts one for each cluster that the bytes touch. */
static int count_range(struct qcow2_counts *counts, u64 offset, u64 bytes,
		       u8 marks, const char *what)
{
	u32 bits = counts->img->geo.cluster_bits;
	u64 cluster;
	int ret;

	if (!bytes)
		return 0;
	ret = check_range(counts, offset, bytes, what);
	for (cluster = offset >> bits;
	     !ret && cluster <= (offset + bytes - 1) >> bits; cluster++)
		ret = qcow2_count_cluster(counts, cluster, marks, what);
	return ret;
}

static int count_one(struct qcow2_counts *counts, u64 offset, u8 marks,
		     const char *what)
{
	return count_range(counts, offset, counts->img->geo.cluster_bytes,
			   marks, what);
}

/*
 * Reading tables.
 */

static u8 copied_mark(u64 entry, bool active)
{
	if (!active)
		return 0;
	return entry & QCOW2_OFLAG_COPIED ? QCOW2_MARK_COPIED :
					    QCOW2_MARK_NOT_COPIED;
}

/* An entry without a cluster of its own must not be COPIED. */
static void check_not_copied(struct qcow2_counts *counts, u64 entry,
			     bool active)
{
	if (active && (entry & QCOW2_OFLAG_COPIED))
		counts->wrong_flags = true;
}

static int read_page(struct qcow2_counts *counts, u64 offset, u32 bytes)
{
	u32 align = qcow2_file_align(counts->img->file);
	int ret;

	ret = qcow2_check_interrupted(counts->why);
	if (ret)
		return ret;
	ret = qcow2_file_rw_page(counts->img->file, false, offset,
				 counts->page, round_up(bytes, align));
	if (ret)
		return qcow2_check_io_failed(counts->why, ret, "read", offset);
	return 0;
}

static int read_piece(struct qcow2_counts *counts, u64 offset, u32 bytes)
{
	struct bio_vec bv[QCOW2_PIECE_PAGES];
	struct iov_iter iter;
	u32 i, nr = DIV_ROUND_UP(bytes, PAGE_SIZE);
	int ret;

	ret = qcow2_check_interrupted(counts->why);
	if (ret)
		return ret;
	for (i = 0; i < nr; i++)
		bvec_set_virt(&bv[i], counts->piece[i],
			      min_t(u32, bytes - i * PAGE_SIZE, PAGE_SIZE));
	iov_iter_bvec(&iter, ITER_DEST, bv, nr, bytes);
	ret = qcow2_file_rw(counts->img->file, false, offset, &iter);
	if (ret)
		return qcow2_check_io_failed(counts->why, ret, "read", offset);
	return 0;
}

/*
 * L1 and L2 tables.
 */

static int count_compressed(struct qcow2_counts *counts, u64 word, bool active)
{
	u64 offset;
	u32 bytes;

	check_not_copied(counts, word, active);
	qcow2_compressed_range(&counts->img->geo, word, &offset, &bytes);
	return count_range(counts, offset, bytes, QCOW2_MARK_DATA,
			   "a compressed cluster");
}

static int count_l2_entry(struct qcow2_counts *counts,
			  struct qcow2_l2_entry entry, u64 pos, bool active)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	u64 offset = entry.word & QCOW2_OFFSET_MASK;

	if (qcow2_check_l2_entry(geo, entry))
		return qcow2_check_refuse(counts->why,
					  "the L2 entry 0x%016llx at offset 0x%llx is damaged",
					  entry.word, pos);
	/* Nothing counts references to clusters of an external data file. */
	if (geo->has_data_file)
		return 0;
	if (entry.word & QCOW2_OFLAG_COMPRESSED)
		return count_compressed(counts, entry.word, active);
	if (offset)
		return count_one(counts, offset, QCOW2_MARK_DATA |
				 copied_mark(entry.word, active), "data");
	check_not_copied(counts, entry.word, active);
	return 0;
}

/* Counts for a page of the piece, which lies at @pos in the file. */
static int count_l2_page(struct qcow2_counts *counts, const __be64 *words,
			 u64 pos, u32 bytes, bool active)
{
	u32 step = counts->img->geo.l2_entry_words;
	int ret = 0;
	u32 i;

	for (i = 0; i < bytes / sizeof(u64) && !ret; i += step) {
		struct qcow2_l2_entry entry = {
			.word = be64_to_cpu(words[i]),
			.bitmap = step > 1 ? be64_to_cpu(words[i + 1]) : 0,
		};

		if (entry.word | entry.bitmap)
			ret = count_l2_entry(counts, entry,
					     pos + i * sizeof(u64), active);
	}
	return ret;
}

static int count_l2(struct qcow2_counts *counts, u64 offset, bool active)
{
	u64 end = offset + counts->img->geo.cluster_bytes;
	int ret = 0;
	u32 i;

	while (offset < end && !ret) {
		u32 left = min_t(u64, end - offset, QCOW2_PIECE_PAGES * PAGE_SIZE);

		ret = read_piece(counts, offset, left);
		for (i = 0; left && !ret; i++) {
			u32 bytes = min_t(u32, left, PAGE_SIZE);

			ret = count_l2_page(counts, counts->piece[i], offset,
					    bytes, active);
			offset += bytes;
			left -= bytes;
		}
	}
	return ret;
}

/* What the L2 table in a cluster leads to, if there is one: for all its users. */
static int count_if_l2(struct qcow2_counts *counts,
		       const struct qcow2_count_slice *slice, u32 index)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	u64 cluster = (slice->nr << geo->refslice_bits) + index;
	u8 marks = qcow2_count_marks(slice, index);
	int ret;

	if ((marks & QCOW2_MARK_KIND) != QCOW2_MARK_L2)
		return 0;
	/* Only an active L1 entry says something about COPIED. */
	counts->times = qcow2_get_refcount(slice->refcounts,
					   geo->refcount_order, index);
	ret = count_l2(counts, cluster << geo->cluster_bits,
		       marks & (QCOW2_MARK_COPIED | QCOW2_MARK_NOT_COPIED));
	counts->times = 1;
	return ret;
}

/*
 * All L2 tables, which were counted; each once.  The slices that this adds come
 * before @all as it is now, and have no L2 tables.
 */
static int count_l2_tables(struct qcow2_counts *counts)
{
	const struct qcow2_count_slice *slice;
	int ret = 0;
	u32 i;

	for (slice = counts->all; slice && !ret; slice = slice->next) {
		ret = qcow2_check_interrupted(counts->why);
		for (i = 0; i < clusters_per_slice(&counts->img->geo) && !ret;
		     i++)
			ret = count_if_l2(counts, slice, i);
	}
	return ret;
}

/*
 * An L2 table has at most one entry in each L1 table: no program makes others,
 * and nobody knows which of the entries is meant.
 */
static int check_l2_users(struct qcow2_counts *counts, u64 offset)
{
	u64 users = qcow2_count_of(counts, offset >>
				   counts->img->geo.cluster_bits);

	if (users <= counts->trees)
		return 0;
	return qcow2_check_refuse(counts->why,
				  "the L2 table at offset 0x%llx has several entries in an L1 table",
				  offset);
}

/* An entry of an L1 table; what its L2 table leads to is counted later. */
static int count_l1_entry(struct qcow2_counts *counts, u64 entry, u64 pos,
			  bool active)
{
	u64 offset = entry & QCOW2_OFFSET_MASK;
	int ret;

	if (qcow2_check_l1_entry(&counts->img->geo, entry))
		return qcow2_check_refuse(counts->why,
					  "the L1 entry 0x%016llx at offset 0x%llx is damaged",
					  entry, pos);
	if (!offset) {
		check_not_copied(counts, entry, active);
		return 0;
	}
	ret = count_one(counts, offset,
			QCOW2_MARK_L2 | copied_mark(entry, active),
			"an L2 table");
	return ret ?: check_l2_users(counts, offset);
}

static int count_l1(struct qcow2_counts *counts, u64 offset, u32 entries,
		    bool active)
{
	const u32 per_page = PAGE_SIZE / sizeof(u64);
	const __be64 *words = counts->page;
	int ret = 0;
	u32 i;

	counts->trees++;
	for (i = 0; i < entries && !ret; i++) {
		u32 left = min(entries - i, per_page);
		u64 pos = offset + (u64)i * sizeof(u64);

		if (i % per_page == 0)
			ret = read_page(counts, pos, left * sizeof(u64));
		if (!ret && words[i % per_page])
			ret = count_l1_entry(counts,
					     be64_to_cpu(words[i % per_page]),
					     pos, active);
	}
	return ret;
}

static int count_l1_trees(struct qcow2_counts *counts)
{
	const struct qcow2_snapshots *snapshots = counts->img->snapshots;
	const struct qcow2_geometry *geo = &counts->img->geo;
	u32 i;
	int ret;

	ret = count_l1(counts, geo->l1_offset, geo->l1_entries, true);
	for (i = 0; snapshots && i < snapshots->nr && !ret; i++)
		ret = count_l1(counts, snapshots->l1_tables[i].offset,
			       snapshots->l1_tables[i].entries, false);
	return ret ?: count_l2_tables(counts);
}

/*
 * Bitmaps, section "Bitmaps" of the specification.
 */

static bool bitmaps_count(const struct qcow2_geometry *geo)
{
	return geo->nb_bitmaps && !qcow2_unknown_autoclear(geo);
}

static int count_bitmap_table(struct qcow2_counts *counts, u64 offset,
			      u32 entries)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	const u32 per_page = PAGE_SIZE / sizeof(u64);
	const __be64 *words = counts->page;
	int ret;
	u32 i;

	ret = count_range(counts, offset, (u64)entries * sizeof(u64),
			  QCOW2_MARK_META, "a bitmap table");
	for (i = 0; i < entries && !ret; i++) {
		u64 pos = offset + (u64)i * sizeof(u64), entry, data;

		if (i % per_page == 0)
			ret = read_page(counts, pos, min(entries - i, per_page) *
						     sizeof(u64));
		if (ret)
			break;
		entry = be64_to_cpu(words[i % per_page]);
		data = entry & QCOW2_OFFSET_MASK;
		if ((entry & QCOW2_BITMAP_RESERVED_MASK) ||
		    qcow2_into_cluster(geo, data))
			ret = qcow2_check_refuse(counts->why,
						 "the bitmap table entry 0x%016llx at offset 0x%llx is damaged",
						 entry, pos);
		else if (data)
			ret = count_one(counts, data, QCOW2_MARK_META,
					"a bitmap");
	}
	return ret;
}

/* An entry of the directory may begin at any multiple of 8. */
static int read_bitmap(struct qcow2_counts *counts, u64 offset,
		       struct qcow2_disk_bitmap *head)
{
	u32 into = offset & (qcow2_file_align(counts->img->file) - 1);
	void *buf = kmalloc(into + sizeof(*head), GFP_KERNEL);
	int ret;

	if (!buf)
		return out_of_memory(counts->why);
	ret = qcow2_check_interrupted(counts->why);
	if (ret)
		goto out;
	ret = qcow2_file_read_buf(counts->img->file, offset - into, buf,
				  into + sizeof(*head));
	if (ret)
		ret = qcow2_check_io_failed(counts->why, ret, "read", offset);
	else
		memcpy(head, buf + into, sizeof(*head));
out:
	kfree(buf);
	return ret;
}

static u64 bitmap_entry_bytes(const struct qcow2_disk_bitmap *head)
{
	return sizeof(*head) + be32_to_cpu(head->extra_data_size) +
	       be16_to_cpu(head->name_size);
}

static int count_bitmap(struct qcow2_counts *counts, u32 index,
			const struct qcow2_disk_bitmap *head)
{
	u64 offset = be64_to_cpu(head->bitmap_table_offset);
	u32 entries = be32_to_cpu(head->bitmap_table_size);
	struct qcow2_reason rule;

	if (qcow2_check_table(&counts->img->geo, "table", offset, entries,
			      sizeof(u64), QCOW2_MAX_BITMAP_TABLE_BYTES, &rule))
		return qcow2_check_refuse(counts->why, "bitmap %u: %s", index,
					  rule.text);
	return count_bitmap_table(counts, offset, entries);
}

static int count_bitmaps(struct qcow2_counts *counts)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	u64 pos = geo->bitmaps_offset, left = geo->bitmaps_bytes;
	struct qcow2_disk_bitmap head = {};
	int ret;
	u32 i;

	ret = count_range(counts, pos, left, QCOW2_MARK_META,
			  "the bitmap directory");
	for (i = 0; i < geo->nb_bitmaps && !ret; i++) {
		u64 bytes;

		if (left >= sizeof(head))
			ret = read_bitmap(counts, pos, &head);
		if (ret)
			break;
		bytes = ALIGN(bitmap_entry_bytes(&head), 8);
		if (bytes > left)
			return qcow2_check_refuse(counts->why,
						  "the bitmap directory ends in its entry %u",
						  i);
		ret = count_bitmap(counts, i, &head);
		pos += bytes;
		left -= bytes;
	}
	return ret;
}

/*
 * All of it.
 */

static int count_refblocks(struct qcow2_counts *counts)
{
	struct qcow2_image *img = counts->img;
	int ret = 0;
	u32 i;

	for (i = 0; i < img->reftable_entries && !ret; i++) {
		u64 entry = img->reftable[i];
		u64 offset = entry & QCOW2_REFTABLE_OFFSET_MASK;

		if (qcow2_into_cluster(&img->geo, offset))
			ret = qcow2_check_refuse(counts->why,
						 "the refcount table entry %u, 0x%016llx, is damaged",
						 i, entry);
		else if (offset)
			ret = count_one(counts, offset, QCOW2_MARK_META,
					"a refcount block");
	}
	return ret;
}

static int count_snapshot_table(struct qcow2_counts *counts)
{
	const struct qcow2_snapshots *snapshots = counts->img->snapshots;

	if (!snapshots)
		return 0;
	return count_range(counts, snapshots->table_offset,
			   snapshots->table_bytes, QCOW2_MARK_META,
			   "the snapshot table");
}

static int count_inactive_l1(struct qcow2_counts *counts)
{
	const struct qcow2_snapshots *snapshots = counts->img->snapshots;
	int ret = 0;
	u32 i;

	for (i = 0; snapshots && i < snapshots->nr && !ret; i++)
		ret = count_range(counts, snapshots->l1_tables[i].offset,
				  snapshots->l1_tables[i].entries * sizeof(u64),
				  QCOW2_MARK_META, "a snapshot's L1 table");
	return ret;
}

/* What has one user, so that what lies on it is found later. */
static int count_meta(struct qcow2_counts *counts)
{
	const struct qcow2_geometry *geo = &counts->img->geo;
	int ret;

	ret = count_one(counts, 0, QCOW2_MARK_META, "the header");
	ret = ret ?: count_range(counts, geo->reftable_offset,
				 (u64)geo->reftable_clusters <<
				 geo->cluster_bits,
				 QCOW2_MARK_META, "the refcount table");
	ret = ret ?: count_refblocks(counts);
	ret = ret ?: count_range(counts, geo->l1_offset,
				 geo->l1_entries * sizeof(u64),
				 QCOW2_MARK_META, "the L1 table");
	ret = ret ?: count_snapshot_table(counts);
	ret = ret ?: count_inactive_l1(counts);
	if (!ret && bitmaps_count(geo))
		ret = count_bitmaps(counts);
	return ret;
}

/**
 * qcow2_count_references() - count all references to host clusters
 * @counts: empty
 *
 * Context: sleeps, does I/O; nobody changes the image meanwhile.
 * Return: 0; -EUCLEAN if the tables are not sound; -EINTR after a fatal signal;
 * or another negative errno.
 */
int qcow2_count_references(struct qcow2_counts *counts)
{
	return count_meta(counts) ?: count_l1_trees(counts);
}

/**
 * qcow2_counts_init() - prepare counting
 * @counts: filled in
 * @img: the image, with its tables and its snapshots read
 * @why: filled in on failure, now and later
 *
 * Context: sleeps.
 * Return: 0 or -ENOMEM; qcow2_counts_exit() is due in both cases.
 */
int qcow2_counts_init(struct qcow2_counts *counts, struct qcow2_image *img,
		      struct qcow2_reason *why)
{
	u32 i;

	memset(counts, 0, sizeof(*counts));
	counts->img = img;
	counts->why = why;
	counts->times = 1;
	xa_init(&counts->slices);
	counts->page = (void *)__get_free_page(GFP_KERNEL);
	if (!counts->page)
		return out_of_memory(why);
	for (i = 0; i < QCOW2_PIECE_PAGES; i++) {
		counts->piece[i] = (void *)__get_free_page(GFP_KERNEL);
		if (!counts->piece[i])
			return out_of_memory(why);
	}
	return 0;
}

/**
 * qcow2_counts_exit() - free all counts
 * @counts: the counts
 */
void qcow2_counts_exit(struct qcow2_counts *counts)
{
	struct qcow2_count_slice *slice;
	u32 i;

	while (counts->all) {
		slice = counts->all;
		counts->all = slice->next;
		free_slice(slice);
		cond_resched();
	}
	xa_destroy(&counts->slices);
	for (i = 0; i < QCOW2_PIECE_PAGES; i++)
		free_page((unsigned long)counts->piece[i]);
	free_page((unsigned long)counts->page);
}
