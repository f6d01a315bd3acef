// SPDX-License-Identifier: GPL-2.0-only
/* Must compile everywhere: says that the flags are right. */
#include <linux/blk-mq.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/slab.h>
