/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lists that are added to without a lock, and emptied at once.
 */
#ifndef _SHIM_LLIST_H
#define _SHIM_LLIST_H

#include <linux/container_of.h>
#include <linux/stddef.h>
#include <linux/types.h>

struct llist_node {
	struct llist_node *next;
};

struct llist_head {
	struct llist_node *first;
};

static inline void init_llist_head(struct llist_head *list)
{
	list->first = NULL;
}

/* True if the list was empty. */
static inline bool llist_add(struct llist_node *node, struct llist_head *list)
{
	struct llist_node *first = __atomic_load_n(&list->first,
						   __ATOMIC_RELAXED);

	do {
		node->next = first;
	} while (!__atomic_compare_exchange_n(&list->first, &first, node, false,
					      __ATOMIC_ACQ_REL,
					      __ATOMIC_RELAXED));
	return !first;
}

static inline struct llist_node *llist_del_all(struct llist_head *list)
{
	return __atomic_exchange_n(&list->first, NULL, __ATOMIC_ACQ_REL);
}

static inline struct llist_node *llist_reverse_order(struct llist_node *node)
{
	struct llist_node *reversed = NULL;

	while (node) {
		struct llist_node *next = node->next;

		node->next = reversed;
		reversed = node;
		node = next;
	}
	return reversed;
}

/* The entry of a node; NULL if there is no node. */
#define shim_llist_entry(node, type, member) \
	((node) ? container_of(node, type, member) : NULL)

#define llist_for_each_entry_safe(pos, n, node, member)			\
	for (pos = shim_llist_entry(node, typeof(*pos), member);	\
	     pos && (n = shim_llist_entry(pos->member.next,		\
					  typeof(*pos), member), true);	\
	     pos = n)

#endif /* _SHIM_LLIST_H */
