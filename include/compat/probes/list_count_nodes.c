// SPDX-License-Identifier: GPL-2.0-only
/* 6.3 brought it. */
#include <linux/list.h>

size_t probe(struct list_head *head)
{
	return list_count_nodes(head);
}
