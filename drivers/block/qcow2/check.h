/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counting what refers to each host cluster.
 */
#ifndef _QCOW2_CHECK_H
#define _QCOW2_CHECK_H

#include <linux/xarray.h>

#include "image.h"

/**
 * enum qcow2_marks - what is known of a host cluster that is referred to
 * @QCOW2_MARK_DATA: it has data, compressed or not
 * @QCOW2_MARK_L2: it is an L2 table, which snapshots may share
 * @QCOW2_MARK_META: it is metadata that has one user
 * @QCOW2_MARK_KIND: the bits that say one of these
 * @QCOW2_MARK_COPIED: an active L1 or L2 entry refers to it with COPIED set
 * @QCOW2_MARK_NOT_COPIED: likewise without
 */
enum qcow2_marks {
	QCOW2_MARK_DATA		= 0,
	QCOW2_MARK_L2		= 1,
	QCOW2_MARK_META		= 2,
	QCOW2_MARK_KIND		= 3,
	QCOW2_MARK_COPIED	= 1 << 2,
	QCOW2_MARK_NOT_COPIED	= 1 << 3,
};

/* L2 tables are read in pieces of so many pages. */
#define QCOW2_PIECE_PAGES	16

/* log2 of the bits that the marks of a cluster take. */
#define QCOW2_MARKS_ORDER	2

/**
 * struct qcow2_count_slice - counted references to the clusters of a refcount
 *	slice
 * @next: in the list of all
 * @nr: number of the refcount slice
 * @refcounts: as they should be on disk
 * @marks: enum qcow2_marks of each, packed as refcounts of four bits
 */
struct qcow2_count_slice {
	struct qcow2_count_slice *next;
	u64 nr;
	void *refcounts;
	u8 marks[];
};

/**
 * struct qcow2_counts - the references to all host clusters
 * @img: the image
 * @why: filled in on failure
 * @slices: struct qcow2_count_slice by number of the refcount slice; what is
 *	not there has no references
 * @all: the same as a list, the newest first
 * @last: the slice that was used last, NULL for none
 * @last_nr: its number
 * @clusters: how many have references
 * @bytes: memory for @slices
 * @end: behind the highest cluster that is referred to
 * @times: how many references one that is counted now stands for: more than one
 *	if it stands in an L2 table that is shared
 * @trees: L1 tables whose entries were counted, or are being
 * @wrong_flags: a COPIED flag of the active tables is set where no refcount
 *	could justify it
 * @piece: pages for a piece of an L2 table
 * @page: for a piece of any other table
 */
struct qcow2_counts {
	struct qcow2_image *img;
	struct qcow2_reason *why;
	struct xarray slices;
	struct qcow2_count_slice *all;
	struct qcow2_count_slice *last;
	unsigned long last_nr;
	u64 clusters;
	u64 bytes;
	u64 end;
	u64 times;
	u32 trees;
	bool wrong_flags;
	void *piece[QCOW2_PIECE_PAGES];
	void *page;
};

/*
 * Autoclear bits for what is neither kept up by this driver nor counted.  They
 * are cleared before the first write, and with them goes all that bitmaps say.
 */
static inline u64 qcow2_unknown_autoclear(const struct qcow2_geometry *geo)
{
	return geo->autoclear & ~(QCOW2_AUTOCLEAR_BITMAPS |
				  qcow2_kept_autoclear(geo));
}

int qcow2_counts_init(struct qcow2_counts *counts, struct qcow2_image *img,
		      struct qcow2_reason *why);
void qcow2_counts_exit(struct qcow2_counts *counts);
int qcow2_count_references(struct qcow2_counts *counts);
int qcow2_count_cluster(struct qcow2_counts *counts, u64 cluster, u8 marks,
			const char *what);
void qcow2_count_forget(struct qcow2_counts *counts, u64 cluster);
struct qcow2_count_slice *qcow2_count_slice(struct qcow2_counts *counts,
					    unsigned long nr);
u64 qcow2_count_of(struct qcow2_counts *counts, u64 cluster);
u8 qcow2_count_marks(const struct qcow2_count_slice *slice, u32 index);

int qcow2_check_interrupted(struct qcow2_reason *why);
int qcow2_check_io_failed(struct qcow2_reason *why, int error,
			  const char *what, u64 offset);
__printf(2, 3)
int qcow2_check_refuse(struct qcow2_reason *why, const char *fmt, ...);

#endif /* _QCOW2_CHECK_H */
