/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_BLK_MQ_H
#define _QCOW2_COMPAT_LINUX_BLK_MQ_H

#include <linux/blkdev.h>
#include "compat_probed.h"
#include_next <linux/blk-mq.h>

#ifndef COMPAT_HAS_QUEUE_LIMITS_FEATURES
/*
 * The limits of blkdev.h have features.  blk_mq_alloc_disk() took limits from 6.9 on,
 * but without those up to 6.10.
 */
#ifdef COMPAT_HAS_BLK_MQ_ALLOC_DISK_LIMITS
#define compat_alloc_disk(set, lim, queuedata, key)			\
({									\
	typeof(compat_old_limits(lim)) __old = compat_old_limits(lim);	\
									\
	/* Its header was read with queue_limits as another name. */	\
	__blk_mq_alloc_disk(set, (void *)&__old, queuedata, key);	\
})
#define compat_prepare_disk	compat_set_queue_features
#else
#define compat_alloc_disk(set, lim, queuedata, key)			\
	__blk_mq_alloc_disk(set, queuedata, key)
#define compat_prepare_disk	compat_set_queue_limits
#endif

#undef blk_mq_alloc_disk
#define blk_mq_alloc_disk(set, lim, queuedata)				\
({									\
	static struct lock_class_key __key;				\
	struct gendisk *__disk;						\
									\
	__disk = compat_alloc_disk(set, lim, queuedata, &__key);	\
	if (!IS_ERR(__disk))						\
		compat_prepare_disk(__disk->queue, lim);		\
	__disk;								\
})
#endif

#ifdef COMPAT_HAS_BLK_MQ_F_SHOULD_MERGE
/* 6.14 merges requests of every disk; before, only of one that asked for it. */
static inline int compat_blk_mq_alloc_tag_set(struct blk_mq_tag_set *set)
{
	set->flags |= BLK_MQ_F_SHOULD_MERGE;
	return blk_mq_alloc_tag_set(set);
}

#define blk_mq_alloc_tag_set compat_blk_mq_alloc_tag_set
#endif

#ifndef COMPAT_HAS_RQ_LIST_STRUCT
/*
 * A list of requests was a pointer to the first one, with macros, up to 6.12; some
 * stable releases of that have the new one.  Its names are given to a list of our
 * own, and queue_rqs() in blk.c gets a caller that turns one into the other.
 */
#undef rq_list_pop
#undef rq_list_add_tail
#define cached_rqs cached_rq

struct rq_list {
	struct request *head;
	struct request *tail;
};

static inline struct request *rq_list_pop(struct rq_list *list)
{
	struct request *rq = list->head;

	if (rq) {
		list->head = rq->rq_next;
		rq->rq_next = NULL;
	}
	return rq;
}

static inline void rq_list_add_tail(struct rq_list *list, struct request *rq)
{
	rq->rq_next = NULL;
	if (list->head)
		list->tail->rq_next = rq;
	else
		list->head = rq;
	list->tail = rq;
}

#define queue_rqs(param)						\
	compat_queue_rqs(param);					\
static void queue_rqs(struct request **first)				\
{									\
	struct rq_list list = { .head = *first };			\
									\
	compat_queue_rqs(&list);					\
	*first = list.head;						\
}									\
static void compat_queue_rqs(param)
#endif

#endif /* _QCOW2_COMPAT_LINUX_BLK_MQ_H */
