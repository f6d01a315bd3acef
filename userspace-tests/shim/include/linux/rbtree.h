/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The nodes and the roots of trees; see interval_tree_generic.h.
 */
#ifndef _SHIM_RBTREE_H
#define _SHIM_RBTREE_H

#include <linux/types.h>

struct rb_root;

/**
 * struct rb_node - an interval in a tree
 * @root: of the tree
 * @left: those that begin earlier, or as early and came earlier
 * @right: the others
 * @start: first value in it
 * @last: last value in it
 * @max_last: the greatest @last in the subtree
 * @number: the later it came, the greater
 * @priority: at random; no smaller than those of the nodes below it
 */
struct rb_node {
	struct rb_root *root;
	struct rb_node *left;
	struct rb_node *right;
	u64 start;
	u64 last;
	u64 max_last;
	u64 number;
	u64 priority;
};

struct rb_root {
	struct rb_node *rb_node;
};

struct rb_root_cached {
	struct rb_root rb_root;
};

#define RB_ROOT_CACHED		(struct rb_root_cached) {}
#define RB_EMPTY_ROOT(root)	(!(root)->rb_node)

#endif
