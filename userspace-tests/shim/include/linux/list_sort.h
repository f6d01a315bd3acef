/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_LIST_SORT_H
#define _SHIM_LIST_SORT_H

#include <linux/list.h>

/* Moves the lesser of two heads to the end of @to; one of the lists is not empty. */
static inline void shim_list_merge_one(void *priv, struct list_head *a,
				       struct list_head *b, struct list_head *to,
				       int (*cmp)(void *priv,
						  const struct list_head *a,
						  const struct list_head *b))
{
	if (list_empty(b) ||
	    (!list_empty(a) && cmp(priv, a->next, b->next) <= 0))
		list_move_tail(a->next, to);
	else
		list_move_tail(b->next, to);
}

/* Equal ones stay in their order, as in the kernel. */
static inline void list_sort(void *priv, struct list_head *head,
			     int (*cmp)(void *priv, const struct list_head *a,
					const struct list_head *b))
{
	size_t nr = list_count_nodes(head), i;
	LIST_HEAD(left);

	if (nr < 2)
		return;
	for (i = 0; i < nr / 2; i++)
		list_move_tail(head->next, &left);
	list_sort(priv, &left, cmp);
	list_sort(priv, head, cmp);
	{
		LIST_HEAD(right);

		list_splice_init(head, &right);
		for (i = 0; i < nr; i++)
			shim_list_merge_one(priv, &left, &right, head, cmp);
	}
}

#endif
