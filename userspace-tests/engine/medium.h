/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a power cut can leave of a file: from the record of all that was done to
 * it, what completed flushes guarantee at a point in time, and of all else that
 * had begun any 512-byte sectors.
 */
#ifndef _MEDIUM_H
#define _MEDIUM_H

#include <linux/types.h>

#include "memfile.h"
#include "shim.h"

/**
 * struct medium - a file, and what of it is durable
 * @filp: the file, which records; NULL if there is none
 * @log: its changes, in their order
 * @nr: length of @log
 * @flushes: begin and end of each flush that succeeded
 * @nr_flushes: length of @flushes
 * @merged: for each change: it is in @durable
 * @lost: for each change: a flush failed before it was durable
 * @durable: the file as the flushes so far guarantee it
 * @version: for each sector of @durable: the point in time of its change
 * @room: size of @durable
 * @bytes: length of the file in @durable
 */
struct medium {
	struct file *filp;
	struct memfile_record *log;
	size_t nr;
	u64 (*flushes)[2];
	size_t nr_flushes;
	bool *merged;
	bool *lost;
	unsigned char *durable;
	u64 *version;
	size_t room;
	size_t bytes;
};

/**
 * struct luck - which of the sectors that were not flushed are there
 * @how: for messages
 * @per_write: out of 16, for a whole write
 * @per_sector: out of 16, for each of its sectors
 */
struct luck {
	const char *how;
	unsigned int per_write;
	unsigned int per_sector;
};

/* Nothing, and all of it; and any but nothing, which may be all. */
extern const struct luck luck_none, luck_all;
const struct luck *luck_choose(struct shim_random *r);

/* @content is what the file holds at first; it becomes the medium's. */
void medium_init(struct medium *m, struct file *filp, unsigned char *content,
		 size_t bytes);
void medium_destroy(struct medium *m);
/* When all operations on the file are done. */
void medium_read_log(struct medium *m);

/* How many points in time there are at which something becomes durable. */
size_t medium_nr_points(const struct medium *m);
/* Adds them; how many. */
size_t medium_points(const struct medium *m, u64 *points);

/* What is durable then; times only go up. */
void medium_advance(struct medium *m, u64 time);
/* Is there anything that is not, though it had begun? */
bool medium_is_pending(const struct medium *m, u64 time);
/*
 * The file as a cut at @time leaves it, with some of what was pending. @to has
 * room for m->room bytes. The length of the file.
 */
u64 medium_cut(const struct medium *m, u64 time, const struct luck *luck,
	       struct shim_random *r, unsigned char *to);

#endif
