/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The block device in front of an image.
 */
#ifndef _QCOW2_BLK_H
#define _QCOW2_BLK_H

#include <linux/blk-mq.h>
#include <linux/ratelimit.h>
#include <linux/types.h>
#include <linux/workqueue.h>

struct qcow2_image;
struct qcow2_reason;

/**
 * struct qcow2_disk - a block device
 * @gendisk: /dev/qcow<N>
 * @tags: its queues
 * @img: what it serves
 * @lock: protects @openers and @closing
 * @openers: how often it is open
 * @closing: it is going away and cannot be opened any more
 * @no_space_limit: how often the log has it that there is no space
 * @no_space_work: writes that to the log
 */
struct qcow2_disk {
	struct gendisk *gendisk;
	struct blk_mq_tag_set tags;
	struct qcow2_image *img;
	spinlock_t lock;
	unsigned int openers;
	bool closing;
	struct ratelimit_state no_space_limit;
	struct work_struct no_space_work;
};

/* Of the attributes, below the disk's directory. */
#define QCOW2_SYSFS_GROUP	"qcow2"

extern const struct attribute_group *qcow2_disk_groups[];

struct qcow2_disk *qcow2_disk_add(struct qcow2_image *img, int index,
				  struct qcow2_reason *why);
int qcow2_disk_begin_close(struct qcow2_disk *disk, unsigned int *openers);
void qcow2_disk_cancel_close(struct qcow2_disk *disk);
void qcow2_disk_del(struct qcow2_disk *disk);
unsigned int qcow2_disk_openers(struct qcow2_disk *disk);

#endif /* _QCOW2_BLK_H */
