/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_LIST_H
#define _QCOW2_COMPAT_LINUX_LIST_H

#include <linux/version.h>
#include_next <linux/list.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
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
