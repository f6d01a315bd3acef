/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Intervals in the order of their starts, to be found by what they overlap. The tree
 * (interval_tree.c) keeps starts and ends in its nodes.
 */
#ifndef _SHIM_INTERVAL_TREE_GENERIC_H
#define _SHIM_INTERVAL_TREE_GENERIC_H

#include <linux/container_of.h>
#include <linux/rbtree.h>

void shim_interval_insert(struct rb_root *root, struct rb_node *node);
void shim_interval_remove(struct rb_root *root, struct rb_node *node);
/* The first one behind @after (NULL: of all) that overlaps @start to @last. */
struct rb_node *shim_interval_find(const struct rb_root *root,
				   const struct rb_node *after, u64 start,
				   u64 last);

/* The nodes that were looked at, ever, to find something. */
u64 shim_intervals_visited(void);

/* The root is not an argument of the kernel's _iter_next(), so it is remembered. */
#define INTERVAL_TREE_DEFINE(ITSTRUCT, ITRB, ITTYPE, ITSUBTREE, ITSTART, ITLAST, \
			     ITSTATIC, ITPREFIX)				\
ITSTATIC void ITPREFIX ## _insert(ITSTRUCT *it, struct rb_root_cached *root)	\
{										\
	it->ITRB.start = ITSTART(it);						\
	it->ITRB.last = ITLAST(it);						\
	it->ITRB.root = &root->rb_root;						\
	shim_interval_insert(&root->rb_root, &it->ITRB);			\
}										\
										\
ITSTATIC void ITPREFIX ## _remove(ITSTRUCT *it, struct rb_root_cached *root)	\
{										\
	shim_interval_remove(&root->rb_root, &it->ITRB);			\
}										\
										\
ITSTATIC ITSTRUCT *ITPREFIX ## _iter_first(struct rb_root_cached *root,		\
					   ITTYPE start, ITTYPE last)		\
{										\
	struct rb_node *node = shim_interval_find(&root->rb_root, NULL,		\
						  start, last);			\
										\
	return node ? container_of(node, ITSTRUCT, ITRB) : NULL;		\
}										\
										\
ITSTATIC ITSTRUCT *ITPREFIX ## _iter_next(ITSTRUCT *it, ITTYPE start,		\
					  ITTYPE last)				\
{										\
	struct rb_node *node = shim_interval_find(it->ITRB.root, &it->ITRB,	\
						  start, last);			\
										\
	return node ? container_of(node, ITSTRUCT, ITRB) : NULL;		\
}

#endif
