/* SPDX-License-Identifier: GPL-2.0-only */
/* There is no block layer that holds anything back. */
#ifndef _SHIM_BLKDEV_H
#define _SHIM_BLKDEV_H

struct blk_plug {
	int unused;
};

static inline void blk_start_plug(struct blk_plug *plug)
{
	(void)plug;
}

static inline void blk_finish_plug(struct blk_plug *plug)
{
	(void)plug;
}

#endif
