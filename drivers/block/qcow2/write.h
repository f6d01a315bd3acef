/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The decisions of the write path, as KUnit sees them.
 */
#ifndef _QCOW2_WRITE_H
#define _QCOW2_WRITE_H

#include "image.h"

/**
 * struct qcow2_pass - a part of a write that is contiguous in the file
 * @img: the image
 * @bytes: length, so far
 * @host_offset: of the first byte, once there is one
 * @exclusive: no write at all may be in flight in its clusters, not even one
 *	whose COW regions are disjoint: their host clusters may go
 * @durable: the mapping that was found is durable
 * @meta: what is in flight for it, NULL if no L2 entry will change; only the
 *	last run of a pass can have one
 * @spare: memory for @meta
 * @blocker: what the write has to wait for
 * @need: what is missing
 */
struct qcow2_pass {
	struct qcow2_image *img;
	u64 bytes;
	u64 host_offset;
	bool exclusive;
	bool durable;
	struct qcow2_l2_meta *meta;
	struct qcow2_l2_meta *spare;
	struct qcow2_l2_meta *blocker;
	struct qcow2_need need;
};

/**
 * struct qcow2_zeroing - a run of subclusters of a cluster that become zeroes
 * @first: first subcluster
 * @end: behind the last
 * @keep: the host cluster is to be kept
 */
struct qcow2_zeroing {
	u32 first;
	u32 end;
	bool keep;
};

int handle_dependencies(struct qcow2_pass *pass, u64 guest_offset, u64 *bytes);
int qcow2_may_write(struct qcow2_io *io);
int qcow2_write_some(struct qcow2_io *io);

#if IS_ENABLED(CONFIG_KUNIT)
struct qcow2_l2_entry zeroed_entry(const struct qcow2_geometry *geo,
				   struct qcow2_l2_entry old,
				   const struct qcow2_zeroing *z);
bool cluster_needs_new_alloc(const struct qcow2_geometry *geo, u64 word);
u32 count_single_write_clusters(const struct qcow2_geometry *geo,
				const struct qcow2_slice *slice, u32 index,
				u32 nb_clusters, bool new_alloc);
int calculate_l2_meta(struct qcow2_pass *pass, struct qcow2_slice *slice,
		      u64 host_offset, u64 guest_offset, u64 bytes,
		      bool keep_old);
int handle_copied(struct qcow2_pass *pass, struct qcow2_slice *slice,
		  u64 guest_offset, u64 *bytes);
int handle_alloc(struct qcow2_pass *pass, struct qcow2_slice *slice,
		 u64 guest_offset, u64 *bytes);
struct qcow2_l2_entry linked_entry(const struct qcow2_geometry *geo,
				   const struct qcow2_l2_meta *meta, u32 i,
				   struct qcow2_l2_entry old);
#endif

#endif /* _QCOW2_WRITE_H */
