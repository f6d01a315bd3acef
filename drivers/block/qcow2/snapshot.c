// SPDX-License-Identifier: GPL-2.0-only
/*
 * Internal snapshots: what must be known of them to leave them alone.
 */

/**
 * DOC: internal snapshots
 *
 * The snapshot table is a list of entries of different lengths, each of which
 * names a copy of the L1 table as it once was: an inactive L1 table.  A guest
 * write must not touch any of this, so an image is opened with its snapshot
 * table read, and the place of each inactive L1 table is kept: in one object, which
 * is replaced as a whole under meta_lock.
 *
 * Refused are the tables that QEMU refuses when it opens an image: an entry
 * with too much extra data, and a table that is too large or cannot be read.
 * An image that is going to be written must also have the head of each entry
 * within the file, and inactive L1 tables in places that QEMU would accept when
 * it uses the snapshot; for where something else is said nobody knows what has to
 * be protected.  What lies behind the end of the file otherwise, names and L1
 * tables, reads as zeroes.
 *
 * A layer can be opened as a snapshot: with the snapshot's L1 table in the place
 * of the active one.  What a snapshot refers to is never written, since none of
 * it has the COPIED flag in an active table, so such a layer stays true while the
 * image itself is written by another device.
 */

#include <linux/align.h>
#include <linux/bug.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/lockdep.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>
#include <asm/byteorder.h>

#include "image.h"

/* An entry's head fits in, wherever it begins in the first page. */
#define WINDOW_BYTES	(2 * PAGE_SIZE)

/**
 * struct table_window - the piece of the snapshot table that is in memory
 * @file: the file
 * @offset: of the piece, U64_MAX when there is none yet
 * @data: %WINDOW_BYTES of it
 */
struct table_window {
	struct qcow2_file *file;
	u64 offset;
	void *data;
};

/* Has @bytes bytes, at most a page, of any place in the window. */
static const void *read_at(struct table_window *win, u64 offset, size_t bytes)
{
	u64 into = offset - win->offset;
	int ret;

	if (offset >= win->offset && into <= WINDOW_BYTES - bytes)
		return win->data + into;
	into = offset & (qcow2_file_align(win->file) - 1);
	if (offset - into > QCOW2_MAX_HOST_OFFSET - WINDOW_BYTES)
		return ERR_PTR(-EUCLEAN);
	win->offset = offset - into;
	ret = qcow2_file_read_buf(win->file, win->offset, win->data,
				  WINDOW_BYTES);
	return ret ? ERR_PTR(ret) : win->data + into;
}

static int read_head(struct table_window *win, u64 offset,
		     struct qcow2_disk_snapshot *head)
{
	const void *found = read_at(win, offset, sizeof(*head));

	if (IS_ERR(found))
		return PTR_ERR(found);
	memcpy(head, found, sizeof(*head));
	return 0;
}

static u64 entry_bytes(const struct qcow2_disk_snapshot *head)
{
	return sizeof(*head) + be32_to_cpu(head->extra_data_size) +
	       be16_to_cpu(head->id_str_size) + be16_to_cpu(head->name_size);
}

/* What QEMU wants of any entry; @end is where the entry ends. */
static int check_entry(const struct qcow2_geometry *geo,
		       const struct qcow2_disk_snapshot *head, u32 index,
		       u64 end, struct qcow2_reason *why)
{
	u32 extra_bytes = be32_to_cpu(head->extra_data_size);

	if (extra_bytes > QCOW2_MAX_SNAPSHOT_EXTRA_BYTES)
		return qcow2_refuse(why, -EUCLEAN,
				    "snapshot table entry %u has %u bytes of extra data, wanted at most %u; 'qemu-img check -r all' drops them",
				    index, extra_bytes,
				    QCOW2_MAX_SNAPSHOT_EXTRA_BYTES);
	if (end - geo->snapshots_offset > QCOW2_MAX_SNAPSHOT_TABLE_BYTES)
		return qcow2_refuse(why, -EUCLEAN,
				    "snapshot table is more than %u bytes long, at entry %u of %u; 'qemu-img check -r all' drops those from there on",
				    QCOW2_MAX_SNAPSHOT_TABLE_BYTES, index,
				    geo->nb_snapshots);
	return 0;
}

/* What an entry must say of its L1 table before the image may be written. */
static int check_entry_l1(struct qcow2_image *img,
			  const struct qcow2_disk_snapshot *head, u32 index,
			  u64 offset, struct qcow2_reason *why)
{
	u64 file_bytes = qcow2_file_bytes(img->file);
	struct qcow2_reason rule;
	int ret;

	if (offset + sizeof(*head) > file_bytes)
		return qcow2_refuse(why, -EUCLEAN,
				    "snapshot table entry %u at offset 0x%llx lies behind the end of the file (%llu bytes): image is truncated; attach read-only",
				    index, offset, file_bytes);
	ret = qcow2_check_table(&img->geo, "L1 table",
				be64_to_cpu(head->l1_table_offset),
				be32_to_cpu(head->l1_size), sizeof(u64),
				QCOW2_MAX_L1_BYTES, &rule);
	if (ret)
		return qcow2_refuse(why, ret,
				    "snapshot table entry %u: %s; attach read-only, or 'qemu-img convert' it without its snapshots",
				    index, rule.text);
	return 0;
}

static int table_unreadable(struct qcow2_reason *why, int error)
{
	if (error == -EUCLEAN)
		return qcow2_refuse(why, error,
				    "snapshot table is outside of any file");
	return qcow2_refuse(why, error == -ENOMEM ? error : -EIO,
			    "cannot read the snapshot table (error %d)", error);
}

/* Reads and checks entry @index, which is at @offset and ends at *@end. */
static int read_entry(const struct qcow2_geometry *geo,
		      struct table_window *win, u64 offset, u32 index,
		      struct qcow2_disk_snapshot *head, u64 *end,
		      struct qcow2_reason *why)
{
	int ret = read_head(win, offset, head);

	if (ret)
		return table_unreadable(why, ret);
	*end = offset + entry_bytes(head);
	return check_entry(geo, head, index, *end, why);
}

/**
 * qcow2_snapshots_alloc() - begin to say where internal snapshots lie
 * @room: how many inactive L1 tables there may be
 *
 * Context: may sleep.
 * Return: the object, without any, to be freed with kvfree(); or NULL.
 */
struct qcow2_snapshots *qcow2_snapshots_alloc(u32 room)
{
	struct qcow2_snapshots *snapshots;

	snapshots = kvzalloc(struct_size(snapshots, l1_tables, room),
			     GFP_KERNEL);
	if (snapshots)
		snapshots->room = room;
	return snapshots;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_snapshots_alloc);

/**
 * qcow2_snapshots_add_l1() - say where an inactive L1 table lies
 * @snapshots: from qcow2_snapshots_alloc(), with room for it
 * @offset: host offset in bytes
 * @entries: its length; nothing is to be protected of one without entries
 */
void qcow2_snapshots_add_l1(struct qcow2_snapshots *snapshots, u64 offset,
			    u32 entries)
{
	if (!entries || WARN_ON_ONCE(snapshots->nr == snapshots->room))
		return;
	snapshots->l1_tables[snapshots->nr++] = (struct qcow2_l1_place){
		.offset = offset,
		.entries = entries,
		.max_end = offset + (u64)entries * sizeof(u64),
	};
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_snapshots_add_l1);

static int read_entries(struct qcow2_image *img, struct table_window *win,
			struct qcow2_snapshots *snapshots,
			struct qcow2_reason *why)
{
	struct qcow2_geometry *geo = &img->geo;
	u64 end = geo->snapshots_offset;
	int ret = 0;
	u32 i;

	for (i = 0; i < geo->nb_snapshots; i++) {
		struct qcow2_disk_snapshot head;
		u64 offset = ALIGN(end, 8);

		ret = read_entry(geo, win, offset, i, &head, &end, why);
		if (ret)
			return ret;
		if (qcow2_image_read_only(img))
			continue;
		ret = check_entry_l1(img, &head, i, offset, why);
		if (ret)
			return ret;
		qcow2_snapshots_add_l1(snapshots,
				       be64_to_cpu(head.l1_table_offset),
				       be32_to_cpu(head.l1_size));
	}
	snapshots->table_offset = geo->snapshots_offset;
	snapshots->table_bytes = end - geo->snapshots_offset;
	return 0;
}

static int compare_places(const void *a, const void *b)
{
	u64 x = ((const struct qcow2_l1_place *)a)->offset;
	u64 y = ((const struct qcow2_l1_place *)b)->offset;

	return x < y ? -1 : x > y;
}

/**
 * qcow2_snapshots_sort() - all inactive L1 tables were added
 * @snapshots: brought into the order that qcow2_is_inactive_l1() wants
 */
void qcow2_snapshots_sort(struct qcow2_snapshots *snapshots)
{
	struct qcow2_l1_place *place = snapshots->l1_tables;
	u32 i;

	sort(place, snapshots->nr, sizeof(*place), compare_places, NULL);
	for (i = 1; i < snapshots->nr; i++)
		place[i].max_end = max(place[i].max_end, place[i - 1].max_end);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_snapshots_sort);

/**
 * qcow2_snapshots_read() - read and check the snapshot table
 * @img: the image, whose header is decoded
 * @why: filled in on failure
 *
 * Makes the image's @snapshots, which the caller frees even on failure.
 *
 * Context: sleeps, does I/O.
 * Return: 0, -EUCLEAN, -EIO or -ENOMEM.
 */
int qcow2_snapshots_read(struct qcow2_image *img, struct qcow2_reason *why)
{
	struct table_window win = { .file = img->file, .offset = U64_MAX };
	u32 nr = img->geo.nb_snapshots;
	int ret = -ENOMEM;

	if (!nr)
		return 0;
	win.data = kvmalloc(WINDOW_BYTES, GFP_KERNEL);
	img->snapshots = qcow2_snapshots_alloc(nr);
	if (win.data && img->snapshots)
		ret = read_entries(img, &win, img->snapshots, why);
	else
		qcow2_refuse(why, ret, "out of memory");
	kvfree(win.data);
	if (!ret)
		qcow2_snapshots_sort(img->snapshots);
	return ret;
}

/**
 * qcow2_snapshots_replace() - the internal snapshots of an image are others now
 * @img: the image
 * @snapshots: where they lie, sorted; the image's from now on.  NULL if there are none.
 *
 * What lies where nothing was before is protected from here on, also against writes
 * that need no look at it as a rule.  The caller has allocated it, so no entry leads
 * there.  What is in none of them any more is given up later than this.
 *
 * Context: meta_lock held.
 * Return: the old ones, which nobody uses; to be freed with kvfree().
 */
struct qcow2_snapshots *
qcow2_snapshots_replace(struct qcow2_image *img,
			struct qcow2_snapshots *snapshots)
{
	lockdep_assert_held(&img->meta_lock);
	swap(img->snapshots, snapshots);
	qcow2_metadata_moved(img);
	return snapshots;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_snapshots_replace);

/*
 * One snapshot as the active state.
 */

/**
 * struct found_snapshot - where a snapshot is described
 * @head: of its entry
 * @offset: of the entry in the file
 * @by_id: the ID is the one that was wanted, not only the name
 */
struct found_snapshot {
	struct qcow2_disk_snapshot head;
	u64 offset;
	bool by_id;
};

/* 1 if a string of the entry, of @bytes bytes at @offset, is @wanted. */
static int is_called(struct table_window *win, u64 offset, u32 bytes,
		     const char *wanted)
{
	const void *found;

	if (bytes != strlen(wanted) || bytes >= QCOW2_SNAPSHOT_NAME_MAX)
		return 0;
	found = read_at(win, offset, bytes);
	if (IS_ERR(found))
		return PTR_ERR(found);
	return !memcmp(found, wanted, bytes);
}

/* Looks at one entry; an ID goes before a name, the first before others. */
static int match_entry(struct table_window *win,
		       const struct qcow2_disk_snapshot *head, u64 offset,
		       const char *wanted, struct found_snapshot *found)
{
	u64 id = offset + sizeof(*head) + be32_to_cpu(head->extra_data_size);
	u32 id_bytes = be16_to_cpu(head->id_str_size);
	bool by_id = true;
	int ret;

	ret = is_called(win, id, id_bytes, wanted);
	if (!ret && !found->offset) {
		by_id = false;
		ret = is_called(win, id + id_bytes,
				be16_to_cpu(head->name_size), wanted);
	}
	if (ret <= 0)
		return ret;
	*found = (struct found_snapshot) {
		.head = *head,
		.offset = offset,
		.by_id = by_id,
	};
	return 0;
}

static int search_entries(const struct qcow2_geometry *geo,
			  struct table_window *win, const char *wanted,
			  struct found_snapshot *found,
			  struct qcow2_reason *why)
{
	u64 offset, end = geo->snapshots_offset;
	int ret = 0;
	u32 i;

	for (i = 0; i < geo->nb_snapshots && !found->by_id; i++) {
		struct qcow2_disk_snapshot head;

		offset = ALIGN(end, 8);
		ret = read_entry(geo, win, offset, i, &head, &end, why);
		if (ret)
			return ret;
		ret = match_entry(win, &head, offset, wanted, found);
		if (ret)
			return table_unreadable(why, ret);
	}
	return 0;
}

/* The size of the disk then, which old entries do not have. */
static int take_size(struct qcow2_geometry *geo, struct table_window *win,
		     const struct found_snapshot *found)
{
	const struct qcow2_disk_snapshot_extra *extra;

	if (be32_to_cpu(found->head.extra_data_size) < sizeof(*extra))
		return 0;
	extra = read_at(win, found->offset + sizeof(found->head),
			sizeof(*extra));
	if (IS_ERR(extra))
		return PTR_ERR(extra);
	geo->virtual_bytes = be64_to_cpu(extra->disk_size);
	return 0;
}

static int take_snapshot(struct qcow2_geometry *geo, struct table_window *win,
			 const struct found_snapshot *found,
			 struct qcow2_reason *why)
{
	struct qcow2_reason rule;
	u64 wanted;
	int ret;

	geo->l1_offset = be64_to_cpu(found->head.l1_table_offset);
	geo->l1_entries = be32_to_cpu(found->head.l1_size);
	ret = qcow2_check_table(geo, "L1 table", geo->l1_offset,
				geo->l1_entries, sizeof(u64),
				QCOW2_MAX_L1_BYTES, &rule);
	if (ret)
		return qcow2_refuse(why, ret,
				    "the snapshot: %s; it is lost, 'qemu-img snapshot -l' lists the others",
				    rule.text);
	ret = take_size(geo, win, found);
	if (ret)
		return table_unreadable(why, ret);
	/* What a table that is too short does not cover was not allocated. */
	return qcow2_check_virtual_size(geo, &wanted, why);
}

/* A string of an entry as far as it is told. */
static int copy_string(struct table_window *win, u64 offset, u32 bytes,
		       char **copy)
{
	u32 n = min_t(u32, bytes, QCOW2_SNAPSHOT_NAME_MAX - 1);
	const void *found = read_at(win, offset, n);

	if (IS_ERR(found))
		return PTR_ERR(found);
	*copy = kzalloc(n + 1, GFP_KERNEL);
	if (!*copy)
		return -ENOMEM;
	memcpy(*copy, found, n);
	return 0;
}

static int copy_names(struct qcow2_image *img, struct table_window *win,
		      const struct found_snapshot *found,
		      struct qcow2_reason *why)
{
	const struct qcow2_disk_snapshot *head = &found->head;
	u64 id = found->offset + sizeof(*head) +
		 be32_to_cpu(head->extra_data_size);
	u32 id_bytes = be16_to_cpu(head->id_str_size);
	int ret;

	ret = copy_string(win, id, id_bytes, &img->snapshot_id);
	ret = ret ?: copy_string(win, id + id_bytes,
				 be16_to_cpu(head->name_size),
				 &img->snapshot_name);
	return ret ? table_unreadable(why, ret) : 0;
}

/**
 * qcow2_snapshot_find() - have an image read as one of its snapshots
 * @img: the image, whose header is decoded, and whose tables were not read yet
 * @wanted: ID or name; an ID goes before a name
 * @why: filled in on failure
 *
 * QEMU: qcow2_snapshot_load_tmp(), but here the disk has the size that it had.
 * What a snapshot refers to does not change, even while the image is written.
 * Its ID and name are kept with the image, which frees them even on failure.
 *
 * Context: sleeps, does I/O.
 * Return: 0, -ENOENT, -EUCLEAN, -EIO or -ENOMEM.
 */
int qcow2_snapshot_find(struct qcow2_image *img, const char *wanted,
			struct qcow2_reason *why)
{
	struct table_window win = { .file = img->file, .offset = U64_MAX };
	struct found_snapshot found = {};
	int ret;

	win.data = kvmalloc(WINDOW_BYTES, GFP_KERNEL);
	if (!win.data)
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	ret = search_entries(&img->geo, &win, wanted, &found, why);
	if (!ret && !found.offset)
		ret = qcow2_refuse(why, -ENOENT,
				   "image has no snapshot '%.64s'; 'qemu-img snapshot -l' lists them",
				   wanted);
	ret = ret ?: take_snapshot(&img->geo, &win, &found, why);
	ret = ret ?: copy_names(img, &win, &found, why);
	kvfree(win.data);
	return ret;
}

/**
 * qcow2_is_inactive_l1() - is the L1 table of a snapshot there?
 * @snapshots: of an image that is open for writing
 * @start: host offset in bytes
 * @end: host offset of the first byte behind
 *
 * Tables may overlap each other in a damaged image.  Of those that begin in
 * front of @end the last one knows how far they reach.
 *
 * Context: any.
 * Return: true if a byte of such a table lies in [@start, @end).
 */
bool qcow2_is_inactive_l1(const struct qcow2_snapshots *snapshots, u64 start,
			  u64 end)
{
	u32 low = 0, high = snapshots->nr;

	while (low < high) {
		u32 middle = low + (high - low) / 2;

		if (snapshots->l1_tables[middle].offset < end)
			low = middle + 1;
		else
			high = middle;
	}
	return low && snapshots->l1_tables[low - 1].max_end > start;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_is_inactive_l1);
