// SPDX-License-Identifier: GPL-2.0-only
/* 6.11: the limits of a queue tell of its cache. */
#include <linux/blkdev.h>

struct queue_limits probe = { .features = BLK_FEAT_WRITE_CACHE | BLK_FEAT_FUA };
