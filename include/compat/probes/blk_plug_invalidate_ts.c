// SPDX-License-Identifier: GPL-2.0-only
/* 6.9: a plug notes the time; later: and this takes no task. */
#include <linux/blkdev.h>

void probe(void)
{
	blk_plug_invalidate_ts();
}
