// SPDX-License-Identifier: GPL-2.0-only
/*
 * The xarray as a hash table: changes under its lock, lookups without.
 */

#include <linux/err.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/xarray.h>
#include <stdlib.h>

#include "internal.h"

#define NR_BUCKETS	4096

struct shim_xa_node {
	struct rcu_head rcu;
	struct shim_xa_node *next;
	unsigned long index;
	void *entry;
};

static unsigned int hash(unsigned long index)
{
	return (index * 0x9e3779b97f4a7c15ULL) >> 52;
}

void xa_init(struct xarray *xa)
{
	spin_lock_init(&xa->xa_lock);
	xa->buckets = calloc(NR_BUCKETS, sizeof(*xa->buckets));
	if (!xa->buckets)
		shim_die("out of memory");
}

void xa_destroy(struct xarray *xa)
{
	unsigned int i;

	for (i = 0; i < NR_BUCKETS; i++)
		while (xa->buckets[i]) {
			struct shim_xa_node *node = xa->buckets[i];

			xa->buckets[i] = node->next;
			kfree(node);
		}
	free(xa->buckets);
	xa->buckets = NULL;
}

/* The pointer to the node of @index, or to the end of its chain. */
static struct shim_xa_node **find(struct xarray *xa, unsigned long index)
{
	struct shim_xa_node **link = &xa->buckets[hash(index)];

	while (*link && (*link)->index != index)
		link = &(*link)->next;
	return link;
}

void *xa_load(struct xarray *xa, unsigned long index)
{
	struct shim_xa_node *node;
	void *entry = NULL;

	rcu_read_lock();
	node = rcu_dereference(xa->buckets[hash(index)]);
	while (node && node->index != index)
		node = rcu_dereference(node->next);
	if (node)
		entry = rcu_dereference(node->entry);
	rcu_read_unlock();
	return entry;
}

static struct shim_xa_node *new_node(unsigned long index, void *entry,
				     gfp_t gfp)
{
	struct shim_xa_node *node = kzalloc(sizeof(*node), gfp);

	if (node) {
		node->index = index;
		node->entry = entry;
	}
	return node;
}

int xa_insert(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp)
{
	struct shim_xa_node *node = new_node(index, entry, gfp), **link;
	int ret = node ? 0 : -ENOMEM;

	spin_lock(&xa->xa_lock);
	link = find(xa, index);
	if (*link)
		ret = -EBUSY;
	else if (node)
		rcu_assign_pointer(*link, node);
	spin_unlock(&xa->xa_lock);
	if (ret)
		kfree(node);
	return ret;
}

void *xa_store(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp)
{
	struct shim_xa_node *node = new_node(index, entry, gfp), **link;
	void *old = NULL;

	spin_lock(&xa->xa_lock);
	link = find(xa, index);
	if (*link) {
		/* There is memory for it. */
		old = (*link)->entry;
		rcu_assign_pointer((*link)->entry, entry);
	} else if (node) {
		rcu_assign_pointer(*link, node);
		node = NULL;
	} else {
		old = ERR_PTR(-ENOMEM);
	}
	spin_unlock(&xa->xa_lock);
	kfree(node);
	return old;
}

static void free_node(struct rcu_head *rcu)
{
	kfree(container_of(rcu, struct shim_xa_node, rcu));
}

void *xa_erase(struct xarray *xa, unsigned long index)
{
	struct shim_xa_node **link, *node;
	void *old = NULL;

	spin_lock(&xa->xa_lock);
	link = find(xa, index);
	node = *link;
	if (node) {
		old = node->entry;
		rcu_assign_pointer(*link, node->next);
	}
	spin_unlock(&xa->xa_lock);
	if (node)
		call_rcu(&node->rcu, free_node);
	return old;
}

bool xa_empty(struct xarray *xa)
{
	unsigned int i;

	for (i = 0; i < NR_BUCKETS; i++)
		if (rcu_access_pointer(xa->buckets[i]))
			return false;
	return true;
}

/* Looks at all of them: the arrays in which the engine searches are small. */
void *xa_find(struct xarray *xa, unsigned long *index, unsigned long max,
	      unsigned int filter)
{
	struct shim_xa_node *node, *first = NULL;
	unsigned int i;

	spin_lock(&xa->xa_lock);
	for (i = 0; i < NR_BUCKETS; i++)
		for (node = xa->buckets[i]; node; node = node->next)
			if (node->index >= *index && node->index <= max &&
			    (!first || node->index < first->index))
				first = node;
	spin_unlock(&xa->xa_lock);
	if (!first)
		return NULL;
	*index = first->index;
	return first->entry;
}
