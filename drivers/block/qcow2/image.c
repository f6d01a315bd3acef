// SPDX-License-Identifier: GPL-2.0-only
/*
 * The image object: opening, closing, and what changes its header.
 */

#include <linux/align.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/stdarg.h>
#include <linux/string.h>
#include <asm/byteorder.h>

#include "check.h"
#include "image.h"

/* Writes that end side by side: more would only meet in meta_lock. */
#define LINK_WORKERS	4

/*
 * Saying what is wrong.
 */

/* A name from an image may be anything, and the line will reach a terminal. */
static void make_printable(char *text)
{
	for (; *text; text++)
		if ((u8)*text < ' ' || *text == 0x7f)
			*text = '?';
}

/**
 * qcow2_refuse() - give a reason
 * @why: where to, or NULL
 * @error: negative errno
 * @fmt: one line without a newline
 *
 * Return: @error.
 */
int qcow2_refuse(struct qcow2_reason *why, int error, const char *fmt, ...)
{
	va_list args;

	if (!why)
		return error;
	va_start(args, fmt);
	vscnprintf(why->text, sizeof(why->text), fmt, args);
	va_end(args);
	make_printable(why->text);
	return error;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_refuse);

static bool is_layer(const struct qcow2_image *img)
{
	return test_bit(QCOW2_IMAGE_LAYER, &img->flags);
}

/**
 * qcow2_image_fail() - metadata is damaged or could not be written
 * @img: the image, which takes no guest writes any more
 * @error: negative errno; -EUCLEAN has the header marked corrupt
 * @fmt: what happened, one line without a newline; logged the first time
 *
 * Context: any.
 * Return: @error.
 */
int qcow2_image_fail(struct qcow2_image *img, int error, const char *fmt, ...)
{
	struct va_format vaf = { .fmt = fmt };
	va_list args;

	if (test_and_set_bit(QCOW2_IMAGE_NEEDS_CHECK, &img->flags))
		return error;
	if (!is_layer(img))
		queue_work(img->wq, &img->watch_work);
	/* Version 2 has no bit for it. */
	if (error == -EUCLEAN && img->geo.version > 2 &&
	    !qcow2_image_read_only(img))
		queue_work(img->wq, &img->corrupt_work);
	va_start(args, fmt);
	vaf.va = &args;
	pr_err("qcow2: %s: %pV (error %d); no more writes, detach it and run 'qemu-img check'\n",
	       img->name, &vaf, error);
	va_end(args);
	return error;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_image_fail);

static void call_watch(struct qcow2_image *img)
{
	unsigned int noio = memalloc_noio_save();

	mutex_lock(&img->watch_lock);
	if (img->watch)
		img->watch(img->watch_data);
	img->watch = NULL;
	mutex_unlock(&img->watch_lock);
	memalloc_noio_restore(noio);
}

static void watch_work(struct work_struct *work)
{
	call_watch(container_of(work, struct qcow2_image, watch_work));
}

/**
 * qcow2_image_watch() - have something called when the image fails
 * @img: the image
 * @watch: called once, in a context that may sleep; of an image that has failed
 *	already before this returns.  NULL: nothing will be called, or runs, any more.
 * @data: for @watch
 *
 * Context: sleeps until a call that runs is done.
 */
void qcow2_image_watch(struct qcow2_image *img, void (*watch)(void *data),
		       void *data)
{
	mutex_lock(&img->watch_lock);
	img->watch = watch;
	img->watch_data = data;
	mutex_unlock(&img->watch_lock);
	if (watch && qcow2_image_needs_check(img))
		call_watch(img);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_image_watch);

/*
 * Changing the header and the tables that it points to.
 */

/* Size of the block in which single fields are written. */
static u32 block_bytes(struct qcow2_image *img)
{
	return qcow2_file_align(img->file);
}

/**
 * qcow2_flush_file() - flush the files, on which the order of metadata relies
 * @img: the image, which fails if this fails: what was written may be lost
 *
 * Context: sleeps, does I/O.
 * Return: 0 or -EIO.
 */
int qcow2_flush_file(struct qcow2_image *img)
{
	if (img->data_file && qcow2_file_flush(img->data_file))
		return qcow2_image_fail(img, -EIO,
					"cannot flush the data file");
	if (!qcow2_file_flush(img->file))
		return 0;
	return qcow2_image_fail(img, -EIO, "cannot flush the file");
}

/* Without space or memory a block is as it was or as it shall be, all the same. */
static int block_not_written(struct qcow2_image *img, u64 offset, int error)
{
	if (error != -ENOSPC && error != -ENOMEM)
		return qcow2_image_fail(img, error,
					"cannot write metadata at offset 0x%llx",
					offset);
	pr_err_ratelimited("qcow2: %s: no space or memory to write metadata at offset 0x%llx (error %d)\n",
			   img->name, offset, error);
	return -ENOSPC;
}

static int write_header(struct qcow2_image *img, void *page, u32 bytes)
{
	int ret = qcow2_file_rw_page(img->file, true, 0, page, bytes);

	return ret ? block_not_written(img, 0, ret) : qcow2_flush_file(img);
}

/**
 * qcow2_header_update() - write a field of the header
 * @img: the image
 * @pos: byte offset of the field
 * @field: its new content, as on disk
 * @bytes: its length; it does not cross a multiple of 512
 *
 * Once this returns 0 the change is durable.  After -ENOSPC the file has the old
 * field or the new one; if one of them would be wrong then, the caller has to let
 * the image fail.  After other errors of writing nobody knows what the header
 * says, so the image fails here; those before it leave all as it was.
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: 0 or a negative errno.
 */
int qcow2_header_update(struct qcow2_image *img, u32 pos, const void *field,
			u32 bytes)
{
	u32 block = block_bytes(img);
	void *page = img->grow_page;
	int ret;

	lockdep_assert_held(&img->grow_lock);
	ret = qcow2_file_rw_page(img->file, false, 0, page, block);
	if (ret)
		return ret;
	memcpy(page + pos, field, bytes);
	return write_header(img, page, block);
}

/**
 * qcow2_header_switch() - have the header point to another table
 * @img: the image
 * @pos: byte offset of the field
 * @field: its new content, as on disk
 * @bytes: its length
 *
 * As qcow2_header_update(), but the tables are not the same for long, so that it
 * must be known which of them rules.
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: 0; -ENOMEM with nothing changed; or another negative errno after which
 * the image has failed.
 */
int qcow2_header_switch(struct qcow2_image *img, u32 pos, const void *field,
			u32 bytes)
{
	int ret = qcow2_header_update(img, pos, field, bytes);

	if (ret == -ENOSPC)
		return qcow2_image_fail(img, ret, "cannot write the header");
	return ret;
}

/**
 * qcow2_write_table_entry() - write an entry of the refcount table
 * @img: the image
 * @table_offset: host offset of the table
 * @table: its content in memory, CPU byte order
 * @entries: its length
 * @index: the entry
 * @value: its new content; the caller puts it into @table afterwards
 *
 * After -ENOSPC the file has the old entry or the new one, which must remain valid;
 * it can be tried again.  After any other error nobody knows what the file has, so
 * the image fails.
 *
 * Context: grow_lock held; sleeps, does I/O; no flush.
 * Return: 0 or a negative errno.
 */
int qcow2_write_table_entry(struct qcow2_image *img, u64 table_offset,
			    const u64 *table, u32 entries, u32 index,
			    u64 value)
{
	u32 block = block_bytes(img);
	u32 per_block = block / sizeof(u64);
	u32 first = round_down(index, per_block);
	__be64 *page = img->grow_page;
	int ret;
	u32 i;

	lockdep_assert_held(&img->grow_lock);
	memset(page, 0, block);
	for (i = 0; i < per_block && first + i < entries; i++)
		page[i] = cpu_to_be64(table[first + i]);
	page[index - first] = cpu_to_be64(value);
	ret = qcow2_file_rw_page(img->file, true,
				 table_offset + first * sizeof(u64), page,
				 block);
	return ret ? block_not_written(img, table_offset, ret) : 0;
}

struct table {
	const u64 *entry;
	u32 entries;
};

static void fill_table(void *buf, u64 pos, u32 bytes, const void *arg)
{
	const struct table *table = arg;
	u64 first = pos / sizeof(u64);
	__be64 *to = buf;
	u32 i;

	for (i = 0; i < bytes / sizeof(u64); i++)
		to[i] = first + i < table->entries ?
			cpu_to_be64(table->entry[first + i]) : 0;
}

/**
 * qcow2_write_table() - write an L1 or refcount table that is not in use yet
 * @img: the image
 * @offset: host offset of its first cluster in bytes
 * @table: its content, CPU byte order
 * @entries: its length
 *
 * Zeroes follow the last entry as far as the same slice's size goes.
 *
 * Context: grow_lock held; sleeps, does I/O; no flush.
 * Return: 0 or a negative errno.
 */
int qcow2_write_table(struct qcow2_image *img, u64 offset, const u64 *table,
		      u32 entries)
{
	const struct table source = { .entry = table, .entries = entries };

	lockdep_assert_held(&img->grow_lock);
	return qcow2_file_write_filled(img->file, offset,
				       round_up((u64)entries * sizeof(u64),
						qcow2_slice_bytes(&img->geo)),
				       fill_table, &source, img->grow_page);
}

/* Writes the feature bits, and takes note of them when they are durable. */
static int write_features(struct qcow2_image *img, u64 incompatible,
			  u64 autoclear)
{
	struct {
		__be64 incompatible;
		__be64 compatible;
		__be64 autoclear;
	} field = {
		.incompatible = cpu_to_be64(incompatible),
		.compatible = cpu_to_be64(img->geo.compatible),
		.autoclear = cpu_to_be64(autoclear),
	};
	int ret;

	static_assert(offsetof(struct qcow2_disk_header, autoclear_features) -
		      offsetof(struct qcow2_disk_header,
			       incompatible_features) == 2 * sizeof(__be64));
	lockdep_assert_held(&img->grow_lock);
	ret = qcow2_header_update(img, offsetof(struct qcow2_disk_header,
						incompatible_features),
				  &field, sizeof(field));
	if (ret)
		return ret;
	img->geo.incompatible = incompatible;
	img->geo.autoclear = autoclear;
	return 0;
}

/**
 * qcow2_image_prepare_write() - make the header say that we write
 * @img: the image
 *
 * The first guest write clears the autoclear feature bits, but for that of a raw
 * data file, so that nobody trusts what they stand for.
 *
 * Context: sleeps, does I/O the first time.
 * Return: 0 or a negative errno.
 */
int qcow2_image_prepare_write(struct qcow2_image *img)
{
	u64 kept = qcow2_kept_autoclear(&img->geo);
	u64 cleared;
	int ret = 0;

	if (test_bit(QCOW2_IMAGE_WRITTEN, &img->flags))
		return 0;
	mutex_lock(&img->grow_lock);
	cleared = img->geo.autoclear & ~kept;
	if (cleared)
		ret = write_features(img, img->geo.incompatible, kept);
	if (!ret && (cleared & QCOW2_AUTOCLEAR_BITMAPS))
		pr_warn("qcow2: %s: its persistent bitmaps are not maintained, so this write made them invalid; when it is detached 'qemu-img check -r leaks' gives back their space\n",
			img->name);
	if (!ret)
		set_bit(QCOW2_IMAGE_WRITTEN, &img->flags);
	mutex_unlock(&img->grow_lock);
	return ret;
}

/**
 * qcow2_mark_dirty() - say in the header that refcounts may be wrong
 * @img: the image
 *
 * Due before an L2 entry is changed.  Does nothing unless the image has lazy
 * refcounts.  QEMU: qcow2_mark_dirty().
 *
 * Context: sleeps, does I/O the first time; takes grow_lock.
 * Return: 0, and the bit is durable; or a negative errno.
 */
int qcow2_mark_dirty(struct qcow2_image *img)
{
	int ret = 0;

	if (!test_bit(QCOW2_IMAGE_LAZY, &img->flags) ||
	    test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags))
		return 0;
	mutex_lock(&img->grow_lock);
	if (!test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags))
		ret = write_features(img, img->geo.incompatible |
					  QCOW2_INCOMPAT_DIRTY,
				     img->geo.autoclear);
	if (!ret)
		set_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags);
	mutex_unlock(&img->grow_lock);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_mark_dirty);

/**
 * qcow2_mark_clean() - say in the header that the refcounts are right again
 * @img: the image, of which all metadata is durable
 *
 * QEMU: qcow2_mark_clean().
 *
 * Context: sleeps, does I/O; takes grow_lock.  No operation runs.
 * Return: 0 or a negative errno.
 */
int qcow2_mark_clean(struct qcow2_image *img)
{
	int ret = 0;

	mutex_lock(&img->grow_lock);
	if (test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags))
		ret = write_features(img, img->geo.incompatible &
					  ~QCOW2_INCOMPAT_DIRTY,
				     img->geo.autoclear);
	if (!ret)
		clear_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags);
	mutex_unlock(&img->grow_lock);
	return ret;
}

/*
 * Sets the corrupt bit, so that nobody writes to the image before it was
 * repaired.  QEMU: qcow2_mark_corrupt().
 */
static void mark_corrupt(struct work_struct *work)
{
	struct qcow2_image *img = container_of(work, struct qcow2_image,
					       corrupt_work);
	int ret;

	mutex_lock(&img->grow_lock);
	ret = write_features(img, img->geo.incompatible | QCOW2_INCOMPAT_CORRUPT,
			     img->geo.autoclear);
	mutex_unlock(&img->grow_lock);
	if (ret)
		pr_err("qcow2: %s: cannot mark the image corrupt (error %d)\n",
		       img->name, ret);
}

/*
 * Opening and closing.
 */

static int read_failed(struct qcow2_reason *why, int error, const char *what)
{
	/* Keep errors of the file apart from what we say of the image. */
	if (error != -ENOMEM)
		error = -EIO;
	return qcow2_refuse(why, error, "cannot read %s (error %d)", what,
			    error);
}

static int decode_first_cluster(struct qcow2_image *img, size_t bytes,
				struct qcow2_reason *why)
{
	void *buf = kvmalloc(bytes, GFP_KERNEL);
	int ret;

	if (!buf)
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	ret = qcow2_file_read_buf(img->file, 0, buf, bytes);
	if (ret)
		ret = read_failed(why, ret, "the header");
	else
		ret = qcow2_header_decode(buf, bytes,
					  qcow2_image_read_only(img),
					  &img->geo, why);
	kvfree(buf);
	return ret;
}

static int read_header(struct qcow2_image *img, struct qcow2_reason *why)
{
	u64 file_bytes = qcow2_file_bytes(img->file);
	int ret;

	if (file_bytes < BIT(QCOW2_MIN_CLUSTER_BITS))
		return qcow2_refuse(why, -EUCLEAN,
				    "not a qcow2 image: only %llu bytes long; 'qemu-img info' tells what it is",
				    file_bytes);
	ret = decode_first_cluster(img, 1U << QCOW2_MIN_CLUSTER_BITS, why);
	if (ret == -EAGAIN)
		ret = decode_first_cluster(img, img->geo.cluster_bytes, why);
	return ret;
}

/*
 * Tables behind the end of the file.
 *
 * What lies there reads as zeroes, as any other metadata and data does, and to
 * QEMU too: a tail of entries that say nothing may be cut off.  So a table is
 * read wherever it lies, and only a writer asks for more.
 *
 * The length of a file bounds no memory, since a file with holes has any length
 * for nothing.  The header's limits do: 32 MiB for the L1 table of an image or a
 * layer, 8 MiB for the refcount table of the image.  To count references takes
 * what a repair takes, see check.c, and gives up at the first one that leads out
 * of the file.
 *
 * Clusters there are fresh for as long as nobody takes them, but that concerns
 * free ones only; what is freed after a table was written there is not.
 */

static u64 table_bytes(u32 entries)
{
	return (u64)entries * sizeof(u64);
}

static bool is_behind_end(struct qcow2_image *img, u64 offset, u64 bytes)
{
	return offset + bytes > qcow2_file_bytes(img->file);
}

static int table_is_lost(struct qcow2_image *img, const char *what, u64 offset,
			 u32 entries, struct qcow2_reason *why)
{
	return qcow2_refuse(why, -EUCLEAN,
			    "%s at offset 0x%llx (%llu bytes) lies behind the end of the file (%llu bytes): image is truncated; attach read-only",
			    what, offset, table_bytes(entries),
			    qcow2_file_bytes(img->file));
}

/*
 * An entry that is written makes the file as long as the table reaches.  So it
 * must begin where the file ends at the latest, or in the cluster that begins
 * there, which is what 'qemu-img check' allows.
 */
static int check_l1_place(struct qcow2_image *img, u64 offset, u32 entries,
			  struct qcow2_reason *why)
{
	/* Entries are written by slices. */
	u64 end = round_up(offset + table_bytes(entries),
			   (u64)qcow2_slice_bytes(&img->geo));

	if (qcow2_image_read_only(img))
		return 0;
	if (offset < qcow2_file_bytes(img->file) + img->geo.cluster_bytes &&
	    end <= qcow2_file_max_bytes(img->file))
		return 0;
	return table_is_lost(img, "L1 table", offset, entries, why);
}

static int read_table(struct qcow2_image *img, const char *what, u64 offset,
		      u32 entries, u64 *table, struct qcow2_reason *why)
{
	int ret;
	u32 i;

	ret = qcow2_file_read_buf(img->file, offset, table,
				  (size_t)entries * sizeof(u64));
	if (ret)
		return read_failed(why, ret, what);
	for (i = 0; i < entries; i++)
		table[i] = be64_to_cpu(((__be64 *)table)[i]);
	return 0;
}

static int read_l1(struct qcow2_image *img, struct qcow2_reason *why)
{
	u32 entries = img->geo.l1_entries;
	u64 offset = entries ? img->geo.l1_offset : 0;
	struct qcow2_l1 *l1;
	int ret;

	ret = check_l1_place(img, offset, entries, why);
	if (ret)
		return ret;
	l1 = kvmalloc(struct_size(l1, entry, entries), GFP_KERNEL);
	if (!l1)
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	l1->entries = entries;
	RCU_INIT_POINTER(img->l1, l1);
	ret = read_table(img, "L1 table", offset, entries, l1->entry, why);
	/* Where tables lie matters to who writes. */
	if (ret || is_layer(img))
		return ret;
	/* Then a new L2 table needs no memory to be known. */
	if (qcow2_offsets_fill(&img->l2_tables, l1->entry, entries,
			       QCOW2_OFFSET_MASK,
			       qcow2_image_read_only(img) ? 0 : entries))
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	return 0;
}

/*
 * Each refcount block counts its own clusters.  If one block stood for many, a
 * small file could have more clusters in use than a search for a free one gets
 * past in hours.
 */
static int check_refblocks(struct qcow2_image *img, struct qcow2_reason *why)
{
	u64 offset = qcow2_offsets_twice(&img->refblocks);

	if (!offset || qcow2_image_read_only(img))
		return 0;
	return qcow2_refuse(why, -EUCLEAN,
			    "refcount table has the block at offset 0x%llx twice; 'qemu-img check -r all' the image or attach read-only",
			    offset);
}

static int read_reftable(struct qcow2_image *img, struct qcow2_reason *why)
{
	u32 entries = img->geo.reftable_clusters <<
		      (img->geo.cluster_bits - 3);
	u64 offset = img->geo.reftable_offset;
	int ret;

	img->reftable = kvmalloc_array(entries, sizeof(u64), GFP_KERNEL);
	if (!img->reftable)
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	img->reftable_entries = entries;
	ret = read_table(img, "refcount table", offset, entries, img->reftable,
			 why);
	if (!ret && qcow2_offsets_fill(&img->refblocks, img->reftable, entries,
				       QCOW2_REFTABLE_OFFSET_MASK, 0))
		ret = qcow2_refuse(why, -ENOMEM, "out of memory");
	return ret ?: check_refblocks(img, why);
}

/* How many clusters the entries count that lie in the file. */
static u64 counted_clusters(struct qcow2_image *img)
{
	u64 file_bytes = qcow2_file_bytes(img->file);
	u64 offset = img->geo.reftable_offset;

	if (offset >= file_bytes)
		return 0;
	return (file_bytes - offset) / sizeof(u64) << img->geo.refblock_bits;
}

/* -EUCLEAN if the image refers to a cluster from there on, or out of the file. */
static int check_references(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_counts *counts = kzalloc_obj(*counts);
	struct qcow2_reason ignored;
	int ret;

	if (!counts)
		return -ENOMEM;
	ret = qcow2_counts_init(counts, img, &ignored);
	ret = ret ?: qcow2_count_references(counts);
	if (!ret && counts->end > cluster)
		ret = -EUCLEAN;
	qcow2_counts_exit(counts);
	kfree(counts);
	return ret;
}

/*
 * Where entries of the refcount table lie behind the end of the file the clusters
 * that they count seem to be free.  A writer would take those again that are in
 * use, so none of them may be: neither in the file nor, as an entry that leads out
 * of it may say, behind.
 */
static int check_reftable_tail(struct qcow2_image *img,
			       struct qcow2_reason *why)
{
	u64 offset = img->geo.reftable_offset;
	u32 entries = img->reftable_entries;
	int ret;

	if (is_layer(img) || qcow2_image_read_only(img) ||
	    !is_behind_end(img, offset, table_bytes(entries)))
		return 0;
	ret = check_references(img, counted_clusters(img));
	if (ret == -EUCLEAN)
		return table_is_lost(img, "refcount table", offset, entries,
				     why);
	return ret ? read_failed(why, ret, "all metadata") : 0;
}

static int read_tables(struct qcow2_image *img, struct qcow2_reason *why)
{
	int ret = read_l1(img, why);

	if (ret || is_layer(img))
		return ret;
	qcow2_free_opened(img);
	return read_reftable(img, why);
}

/* What operations need. */
static int init_operations(struct qcow2_image *img)
{
	/* All of them, for exit_operations() undoes them all. */
	bool failed = qcow2_commit_init(img);

	img->grow_page = (void *)__get_free_page(GFP_KERNEL);
	failed |= !img->grow_page;
	failed |= qcow2_io_init(img);
	failed |= qcow2_write_init(img);
	failed |= qcow2_cow_init(img);
	return failed ? -ENOMEM : 0;
}

static void exit_operations(struct qcow2_image *img)
{
	qcow2_commit_destroy(img);
	qcow2_cow_exit(img);
	qcow2_write_exit(img);
	qcow2_io_exit(img);
	free_page((unsigned long)img->grow_page);
}

/* What reading needs, and a view has in its first layer. */
static int init_metadata(struct qcow2_image *img,
			 const struct qcow2_options *options)
{
	bool failed = qcow2_cache_init(img, options->cache_bytes);

	failed |= qcow2_compress_init(img);
	return failed ? -ENOMEM : 0;
}

static void exit_metadata(struct qcow2_image *img)
{
	qcow2_compress_exit(img);
	qcow2_cache_destroy(img);
}

static int init_engine(struct qcow2_image *img,
		       const struct qcow2_options *options,
		       struct qcow2_reason *why)
{
	bool failed = false;

	/* All of them, for free_engine() undoes them all. */
	if (!qcow2_image_is_view(img))
		failed |= !!init_metadata(img, options);
	if (!is_layer(img))
		failed |= !!init_operations(img);
	if (failed)
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	return 0;
}

static void free_engine(struct qcow2_image *img)
{
	if (!is_layer(img))
		exit_operations(img);
	if (!qcow2_image_is_view(img))
		exit_metadata(img);
	qcow2_offsets_free(&img->l2_tables);
	qcow2_offsets_free(&img->refblocks);
	kvfree(img->snapshots);
	kvfree(rcu_dereference_protected(img->l1, true));
	kvfree(img->reftable);
}

static int check_options(struct qcow2_image *img, struct qcow2_reason *why)
{
	if (img->geo.version < 3 &&
	    test_bit(QCOW2_IMAGE_DISCARD_NO_UNREF, &img->flags))
		return qcow2_refuse(why, -EINVAL,
				    "discard-no-unref needs version 3 of the format; 'qemu-img amend -o compat=1.1' the image");
	return 0;
}

/* With the header read: all that is in the image. */
static int open_engine(struct qcow2_image *img,
		       const struct qcow2_options *options,
		       struct qcow2_reason *why)
{
	int ret;

	if (img->geo.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS)
		set_bit(QCOW2_IMAGE_LAZY, &img->flags);
	ret = init_engine(img, options, why);
	ret = ret ?: read_tables(img, why);
	ret = ret ?: qcow2_snapshots_read(img, why);
	ret = ret ?: check_reftable_tail(img, why);
	ret = ret ?: qcow2_repair(img, why);
	if (ret)
		free_engine(img);
	return ret;
}

/* Whether an image names a data file must be whether it has got one. */
static int open_data_file(struct qcow2_image *img, struct file *filp,
			  unsigned int flags, struct qcow2_reason *why)
{
	const struct qcow2_geometry *geo = &img->geo;

	if (filp && !geo->has_data_file)
		return qcow2_refuse(why, -EINVAL,
				    "image has no external data file, but one was given");
	if (!geo->has_data_file)
		return 0;
	if (!filp)
		return qcow2_refuse(why, -EINVAL,
				    "image has an external data file, which was not given");
	if (geo->raw_data && geo->has_backing)
		return qcow2_refuse(why, -EUCLEAN,
				    "image has a backing file, though its external data file is raw");
	if (geo->nb_snapshots && (flags & QCOW2_FILE_WRITABLE))
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "image has internal snapshots, though its data lies in an external file; attach read-only");
	/* A raw one is the disk, and as long as that, to others too. */
	if (!geo->raw_data)
		flags |= QCOW2_FILE_AHEAD;
	img->data_file = qcow2_file_open(filp, flags, img->file_wq, why);
	return PTR_ERR_OR_ZERO(img->data_file);
}

static void close_files(struct qcow2_image *img)
{
	if (!IS_ERR_OR_NULL(img->data_file))
		qcow2_file_close(img->data_file);
	qcow2_file_close(img->file);
}

static int open_with_files(struct qcow2_image *img,
			   const struct qcow2_options *options,
			   struct qcow2_reason *why)
{
	int ret = open_data_file(img, options->data_filp, options->file_flags,
				 why);

	if (ret)
		return ret;
	ret = qcow2_chain_init(img, options, why);
	ret = ret ?: check_options(img, why);
	ret = ret ?: open_engine(img, options, why);
	if (ret)
		qcow2_chain_exit(img);
	return ret;
}

static void set_flags(struct qcow2_image *img,
		      const struct qcow2_options *options)
{
	if (!(options->file_flags & QCOW2_FILE_WRITABLE))
		set_bit(QCOW2_IMAGE_READ_ONLY, &img->flags);
	if (options->no_pass_discard)
		set_bit(QCOW2_IMAGE_NO_PASS_DISCARD, &img->flags);
	if (options->discard_no_unref)
		set_bit(QCOW2_IMAGE_DISCARD_NO_UNREF, &img->flags);
}

/* What all kinds of images have. */
static struct qcow2_image *alloc_image(const char *name)
{
	struct qcow2_image *img = kzalloc_obj(*img);

	if (!img)
		return NULL;
	strscpy(img->name, name, sizeof(img->name));
	mutex_init(&img->meta_lock);
	mutex_init(&img->turn_lock);
	mutex_init(&img->grow_lock);
	mutex_init(&img->watch_lock);
	qcow2_free_init(&img->free);
	img->in_flight = RB_ROOT_CACHED;
	INIT_WORK(&img->corrupt_work, mark_corrupt);
	INIT_WORK(&img->watch_work, watch_work);
	return img;
}

static void free_image(struct qcow2_image *img)
{
	mutex_destroy(&img->meta_lock);
	mutex_destroy(&img->turn_lock);
	mutex_destroy(&img->grow_lock);
	mutex_destroy(&img->watch_lock);
	qcow2_free_destroy(&img->free);
	kfree(img->snapshot_id);
	kfree(img->snapshot_name);
	kfree(img);
}

/* One that takes operations. */
static struct qcow2_image *alloc_serving(const char *name,
					 const struct qcow2_options *options)
{
	struct qcow2_image *img = alloc_image(name);

	if (!img)
		return NULL;
	set_flags(img, options);
	img->wq = alloc_workqueue("qcow2-%s", WQ_MEM_RECLAIM | WQ_UNBOUND, 0,
				  name);
	if (!img->wq)
		goto err_image;
	img->write_wq = alloc_workqueue("qcow2-%s-write",
					WQ_MEM_RECLAIM | WQ_PERCPU, 0, name);
	if (!img->write_wq)
		goto err_wq;
	img->file_wq = alloc_workqueue("qcow2-%s-file",
				       WQ_MEM_RECLAIM | WQ_UNBOUND, 0, name);
	if (!img->file_wq)
		goto err_write_wq;
	/*
	 * Not of a CPU: a task that polls for its write may keep the one where that
	 * completes.
	 */
	img->link_wq = alloc_workqueue("qcow2-%s-link",
				       WQ_MEM_RECLAIM | WQ_UNBOUND,
				       LINK_WORKERS, name);
	if (!img->link_wq)
		goto err_file_wq;
	return img;

err_file_wq:
	destroy_workqueue(img->file_wq);
err_write_wq:
	destroy_workqueue(img->write_wq);
err_wq:
	destroy_workqueue(img->wq);
err_image:
	free_image(img);
	return NULL;
}

static void free_serving(struct qcow2_image *img)
{
	destroy_workqueue(img->wq);
	destroy_workqueue(img->write_wq);
	destroy_workqueue(img->link_wq);
	destroy_workqueue(img->file_wq);
	free_image(img);
}

/**
 * qcow2_image_open() - open an image
 * @filp: its file; a reference is taken
 * @name: of the device, for messages
 * @options: how to use it
 * @why: filled in on failure
 *
 * Context: sleeps, does I/O.
 * Return: the image or an ERR_PTR.
 */
struct qcow2_image *qcow2_image_open(struct file *filp, const char *name,
				     const struct qcow2_options *options,
				     struct qcow2_reason *why)
{
	struct qcow2_image *img;
	int ret;

	img = alloc_serving(name, options);
	if (!img)
		return ERR_PTR(qcow2_refuse(why, -ENOMEM, "out of memory"));
	img->file = qcow2_file_open(filp, options->file_flags | QCOW2_FILE_AHEAD,
				    img->file_wq, why);
	if (IS_ERR(img->file)) {
		ret = PTR_ERR(img->file);
		goto err_image;
	}
	ret = read_header(img, why);
	ret = ret ?: open_with_files(img, options, why);
	if (ret)
		goto err_file;
	return img;

err_file:
	close_files(img);
err_image:
	free_serving(img);
	return ERR_PTR(ret);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_image_open);

/**
 * qcow2_view_open() - have layers served read-only
 * @name: of the device, for messages
 * @options: has the layers, one at least; the first is what is to be seen
 * @why: filled in on failure
 *
 * Context: sleeps.
 * Return: the image or an ERR_PTR.
 */
struct qcow2_image *qcow2_view_open(const char *name,
				    const struct qcow2_options *options,
				    struct qcow2_reason *why)
{
	struct qcow2_image *img = alloc_serving(name, options);
	int ret;

	if (!img)
		return ERR_PTR(qcow2_refuse(why, -ENOMEM, "out of memory"));
	set_bit(QCOW2_IMAGE_VIEW, &img->flags);
	img->file = options->layers[0]->file;
	img->data_file = options->layers[0]->data_file;
	img->geo = options->layers[0]->geo;
	ret = qcow2_chain_init(img, options, why);
	if (ret)
		goto err_chain;
	ret = init_engine(img, options, why);
	if (ret)
		goto err_engine;
	return img;

err_engine:
	free_engine(img);
err_chain:
	qcow2_chain_exit(img);
	free_serving(img);
	return ERR_PTR(ret);
}

/**
 * qcow2_set_virtual_bytes() - give an image's disk another size
 * @img: the image, attached for writing
 * @bytes: the size, a multiple of its @block_bytes
 *
 * For the one at a time that changes the size of an image, which holds grow_lock for
 * all of it.  This changes only what operations go by.  A disk that grows:
 *
 * 1. qcow2_grow_l1(); the size in the header; both durable
 * 2. this
 * 3. qcow2_epoch_synchronize(): a discard up to the old end, which counted as the end
 *    of the last cluster, is done then, so it cannot hit what is written behind it
 * 4. the front's capacity; the cap of the cache if that is the default
 *
 * A disk that shrinks takes these steps the other way round: nobody reaches what is going
 * to lie behind the end before this is called.  A raw data file follows: it is as long
 * as the disk when the disk is told to be.
 *
 * Context: meta_lock held.
 */
void qcow2_set_virtual_bytes(struct qcow2_image *img, u64 bytes)
{
	lockdep_assert_held(&img->meta_lock);
	WRITE_ONCE(img->geo.virtual_bytes, bytes);
}

/**
 * qcow2_image_shown() - whose metadata an image reads
 * @img: the image
 *
 * Return: the first layer of a view, else the image itself.
 */
struct qcow2_image *qcow2_image_shown(struct qcow2_image *img)
{
	struct qcow2_image *shown;

	if (!qcow2_image_is_view(img))
		return img;
	/* The chain may be replaced, but not its first layer. */
	rcu_read_lock();
	shown = rcu_dereference(img->chain)->layers[0];
	rcu_read_unlock();
	return shown;
}

/**
 * qcow2_image_close() - make everything durable and let go of the files
 * @img: the image; no operation runs or will come
 *
 * Context: sleeps, does I/O.
 * Return: 0, or why the last commit failed; the image is gone in any case.
 */
int qcow2_image_close(struct qcow2_image *img)
{
	int ret;

	ret = qcow2_commit_stop(img);
	qcow2_epoch_settle(img);

	/* What has told its submitter that it is done may still be in its worker. */
	flush_workqueue(img->wq);
	flush_workqueue(img->write_wq);
	flush_workqueue(img->link_wq);
	free_engine(img);
	if (!qcow2_image_is_view(img))
		close_files(img);
	qcow2_chain_put(rcu_dereference_protected(img->chain, true));
	free_serving(img);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_image_close);

/*
 * Layers.
 */

/* The bytes of a disk; a file whose size is no multiple of a block ends in zeroes. */
static int open_raw(struct qcow2_image *img)
{
	img->geo.virtual_bytes = ALIGN(qcow2_file_bytes(img->file),
				       (u64)qcow2_file_align(img->file));
	return 0;
}

static unsigned int layer_file_flags(const struct qcow2_layer_spec *spec)
{
	return spec->direct ? QCOW2_FILE_DIRECT : 0;
}

static int open_qcow2(struct qcow2_image *img,
		      const struct qcow2_layer_spec *spec,
		      struct qcow2_reason *why)
{
	const struct qcow2_options options = {
		.cache_bytes = spec->cache_bytes,
	};
	int ret = read_header(img, why);

	ret = ret ?: open_data_file(img, spec->data_filp,
				    layer_file_flags(spec), why);
	if (!ret && spec->snapshot)
		ret = qcow2_snapshot_find(img, spec->snapshot, why);
	/* Sizes count in sectors, here as in QEMU. */
	img->geo.virtual_bytes = ALIGN_DOWN(img->geo.virtual_bytes,
					    QCOW2_SECTOR_BYTES);
	/* Else its tables cannot be read either. */
	ret = ret ?: qcow2_check_blocks(img, qcow2_file_align(img->file), why);
	return ret ?: open_engine(img, &options, why);
}

/**
 * qcow2_layer_open() - open a layer
 * @spec: the file, and how it is to be read
 * @wq: for the rest of short transfers; outlives the layer
 * @why: filled in on failure
 *
 * Context: sleeps, does I/O.
 * Return: the layer or an ERR_PTR.
 */
struct qcow2_image *qcow2_layer_open(const struct qcow2_layer_spec *spec,
				     struct workqueue_struct *wq,
				     struct qcow2_reason *why)
{
	struct qcow2_image *img = alloc_image(spec->name);
	int ret;

	if (!img)
		return ERR_PTR(qcow2_refuse(why, -ENOMEM, "out of memory"));
	set_bit(QCOW2_IMAGE_READ_ONLY, &img->flags);
	set_bit(QCOW2_IMAGE_LAYER, &img->flags);
	if (spec->raw)
		set_bit(QCOW2_IMAGE_RAW, &img->flags);
	img->file_wq = wq;
	img->file = qcow2_file_open(spec->filp, layer_file_flags(spec), wq,
				    why);
	if (IS_ERR(img->file)) {
		ret = PTR_ERR(img->file);
		goto err_image;
	}
	ret = spec->raw ? open_raw(img) : open_qcow2(img, spec, why);
	if (ret)
		goto err_file;
	return img;

err_file:
	close_files(img);
err_image:
	free_image(img);
	return ERR_PTR(ret);
}

/**
 * qcow2_layer_close() - close a layer
 * @layer: from qcow2_layer_open(); nobody reads it
 *
 * Context: sleeps.
 */
void qcow2_layer_close(struct qcow2_image *layer)
{
	if (!test_bit(QCOW2_IMAGE_RAW, &layer->flags))
		free_engine(layer);
	close_files(layer);
	free_image(layer);
}
