// SPDX-License-Identifier: GPL-2.0-only
/* Up to 6.13 a disk has requests merged only if it asks for that. */
#include <linux/blk-mq.h>

unsigned int probe = BLK_MQ_F_SHOULD_MERGE;
