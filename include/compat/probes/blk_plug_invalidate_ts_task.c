// SPDX-License-Identifier: GPL-2.0-only
/* 6.9: a plug notes the time. */
#include <linux/blkdev.h>

void probe(void)
{
	blk_plug_invalidate_ts(current);
}
