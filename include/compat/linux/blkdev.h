/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_BLKDEV_H
#define _QCOW2_COMPAT_LINUX_BLKDEV_H

#include "compat_probed.h"
#include_next <linux/blkdev.h>

#ifndef COMPAT_HAS_BLK_MODE_T
/*
 * 6.5 brought blk_mode_t, and open() and release() of a gendisk instead of a
 * block_device and without the mode of the one who closes.  The names are
 * those of the functions in blk.c: where one is defined, it gets a caller with
 * the old parameters, and the caller is what goes into the table.
 */
typedef fmode_t blk_mode_t;

#define disk_open(disk_param, mode_param)				\
	compat_disk_open(disk_param, mode_param);			\
static int disk_open(struct block_device *bdev, fmode_t mode)		\
{									\
	return compat_disk_open(bdev->bd_disk, mode);			\
}									\
static int compat_disk_open(disk_param, mode_param)

#define disk_release(disk_param)					\
	compat_disk_release(disk_param);				\
static void disk_release(struct gendisk *disk, fmode_t mode)		\
{									\
	compat_disk_release(disk);					\
}									\
static void compat_disk_release(disk_param)
#endif

#ifndef COMPAT_HAS_BLK_PLUG_INVALIDATE_TS
/* 6.9 brought plugs that note the time, and this, for any task at first. */
static inline void compat_blk_plug_invalidate_ts(void)
{
#ifdef COMPAT_HAS_BLK_PLUG_INVALIDATE_TS_TASK
	blk_plug_invalidate_ts(current);
#endif
}

#define blk_plug_invalidate_ts compat_blk_plug_invalidate_ts
#endif

#ifndef COMPAT_HAS_QUEUE_LIMITS_FEATURES
/*
 * 6.9 brought limits that are complete when the disk is made, and 6.11 features
 * among them; before, what they lack was set by functions.  Members are
 * those that blk.c sets.  What it leaves alone has the same default in both.
 */
struct compat_queue_limits {
	unsigned int features;
	unsigned int logical_block_size;
	unsigned int physical_block_size;
	unsigned int io_min;
	unsigned int io_opt;
	unsigned int max_hw_sectors;
	unsigned int max_segments;
	unsigned int max_segment_size;
	unsigned int max_hw_discard_sectors;
	unsigned int max_write_zeroes_sectors;
	unsigned int discard_granularity;
	unsigned int dma_alignment;
};

#define BLK_FEAT_WRITE_CACHE	BIT(0)
#define BLK_FEAT_FUA		BIT(1)

static inline void
compat_set_queue_features(struct request_queue *q,
			  const struct compat_queue_limits *lim)
{
	blk_queue_write_cache(q, lim->features & BLK_FEAT_WRITE_CACHE,
			      lim->features & BLK_FEAT_FUA);
	/* Today a disk rotates only if it says so. */
	blk_queue_flag_set(QUEUE_FLAG_NONROT, q);
}

#ifdef COMPAT_HAS_BLK_MQ_ALLOC_DISK_LIMITS
static inline struct queue_limits
compat_old_limits(const struct compat_queue_limits *lim)
{
	return (struct queue_limits) {
		.logical_block_size = lim->logical_block_size,
		.physical_block_size = lim->physical_block_size,
		.io_min = lim->io_min,
		.io_opt = lim->io_opt,
		.max_hw_sectors = lim->max_hw_sectors,
		.max_segments = lim->max_segments,
		.max_segment_size = lim->max_segment_size,
		.max_hw_discard_sectors = lim->max_hw_discard_sectors,
		.max_write_zeroes_sectors = lim->max_write_zeroes_sectors,
		.discard_granularity = lim->discard_granularity,
		.dma_alignment = lim->dma_alignment,
	};
}
#else
static inline void
compat_set_queue_limits(struct request_queue *q,
			const struct compat_queue_limits *lim)
{
	/* Block sizes first: the others are rounded to them. */
	blk_queue_logical_block_size(q, lim->logical_block_size);
	blk_queue_physical_block_size(q, lim->physical_block_size);
	blk_queue_io_min(q, lim->io_min);
	blk_queue_io_opt(q, round_down(lim->io_opt,
				       queue_physical_block_size(q)));
	blk_queue_max_hw_sectors(q, lim->max_hw_sectors);
	blk_queue_max_segments(q, lim->max_segments);
	blk_queue_max_segment_size(q, lim->max_segment_size);
	blk_queue_max_discard_sectors(q, lim->max_hw_discard_sectors);
	blk_queue_max_write_zeroes_sectors(q, lim->max_write_zeroes_sectors);
	q->limits.discard_granularity = lim->discard_granularity;
	blk_queue_dma_alignment(q, lim->dma_alignment);
	compat_set_queue_features(q, lim);
}
#endif

#define queue_limits compat_queue_limits
#endif

#endif /* _QCOW2_COMPAT_LINUX_BLKDEV_H */
