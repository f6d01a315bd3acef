/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The block device in front of an image.
 */
#ifndef _QCOW2_BLK_H
#define _QCOW2_BLK_H

#include <linux/blk-mq.h>
#include <linux/types.h>

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
 */
struct qcow2_disk {
	struct gendisk *gendisk;
	struct blk_mq_tag_set tags;
	struct qcow2_image *img;
	spinlock_t lock;
	unsigned int openers;
	bool closing;
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
