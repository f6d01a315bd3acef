// SPDX-License-Identifier: GPL-2.0-only
/* 6.13: a list of requests is a structure. */
#include <linux/blk-mq.h>

void probe(struct rq_list *list)
{
	rq_list_add_tail(list, rq_list_pop(list));
}
