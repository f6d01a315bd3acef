/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_LIST_H
#define _QCOW2_COMPAT_LINUX_LIST_H

#include "compat_probed.h"
#include_next <linux/list.h>

#ifndef COMPAT_HAS_LIST_COUNT_NODES
/* 6.3 brought list_count_nodes(). */
static inline size_t compat_list_count_nodes(struct list_head *head)
{
	struct list_head *pos;
	size_t count = 0;

	list_for_each(pos, head)
		count++;
	return count;
}

#define list_count_nodes compat_list_count_nodes
#endif

#endif /* _QCOW2_COMPAT_LINUX_LIST_H */
