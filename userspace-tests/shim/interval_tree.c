// SPDX-License-Identifier: GPL-2.0-only
/*
 * A treap of intervals: by start a search tree, by priorities, which are random, a
 * heap, and so about as low as it can be. Whoever has it locked keeps others off it.
 */

#include <linux/interval_tree_generic.h>
#include <linux/kernel.h>
#include <linux/stddef.h>

#include "shim.h"

static u64 numbers, visited;

u64 shim_intervals_visited(void)
{
	return __atomic_load_n(&visited, __ATOMIC_RELAXED);
}

static bool is_behind(const struct rb_node *node, const struct rb_node *other)
{
	return node->start != other->start ? node->start > other->start :
					     node->number > other->number;
}

static void update(struct rb_node *node)
{
	node->max_last = node->last;
	if (node->left && node->left->max_last > node->max_last)
		node->max_last = node->left->max_last;
	if (node->right && node->right->max_last > node->max_last)
		node->max_last = node->right->max_last;
}

/* The two halves of a tree: what is in front of @at, and what is behind it. */
static void split(struct rb_node *tree, const struct rb_node *at,
		  struct rb_node **front, struct rb_node **behind)
{
	if (!tree) {
		*front = NULL;
		*behind = NULL;
		return;
	}
	if (is_behind(tree, at)) {
		*behind = tree;
		split(tree->left, at, front, &tree->left);
	} else {
		*front = tree;
		split(tree->right, at, &tree->right, behind);
	}
	update(tree);
}

/* One tree of two, all of the second of which is behind the first. */
static struct rb_node *join(struct rb_node *front, struct rb_node *behind)
{
	if (!front || !behind)
		return front ?: behind;
	if (front->priority > behind->priority) {
		front->right = join(front->right, behind);
		update(front);
		return front;
	}
	behind->left = join(front, behind->left);
	update(behind);
	return behind;
}

void shim_interval_insert(struct rb_root *root, struct rb_node *node)
{
	struct shim_random random;
	struct rb_node *front, *behind;

	node->number = __atomic_fetch_add(&numbers, 1, __ATOMIC_RELAXED);
	random.state = node->number;
	node->priority = shim_random(&random);
	node->left = NULL;
	node->right = NULL;
	update(node);
	split(root->rb_node, node, &front, &behind);
	root->rb_node = join(join(front, node), behind);
}

static struct rb_node *without(struct rb_node *tree, const struct rb_node *node)
{
	if (!tree)
		shim_die("what is removed from a tree is not in it");
	if (tree == node)
		return join(tree->left, tree->right);
	if (is_behind(node, tree))
		tree->right = without(tree->right, node);
	else
		tree->left = without(tree->left, node);
	update(tree);
	return tree;
}

void shim_interval_remove(struct rb_root *root, struct rb_node *node)
{
	root->rb_node = without(root->rb_node, node);
}

static struct rb_node *find(struct rb_node *tree, const struct rb_node *after,
			    u64 start, u64 last)
{
	struct rb_node *found;

	if (!tree || tree->max_last < start)
		return NULL;
	__atomic_fetch_add(&visited, 1, __ATOMIC_RELAXED);
	if (!after || is_behind(tree, after)) {
		found = find(tree->left, after, start, last);
		if (found)
			return found;
		if (tree->start > last)
			return NULL;
		if (tree->last >= start)
			return tree;
	}
	return find(tree->right, after, start, last);
}

struct rb_node *shim_interval_find(const struct rb_root *root,
				   const struct rb_node *after, u64 start,
				   u64 last)
{
	return find(root->rb_node, after, start, last);
}
