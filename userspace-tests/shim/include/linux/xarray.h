/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pointers by index; lookups need RCU only (xarray.c has a hash table).
 */
#ifndef _SHIM_XARRAY_H
#define _SHIM_XARRAY_H

#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/types.h>

struct shim_xa_node;

struct xarray {
	spinlock_t xa_lock;
	struct shim_xa_node **buckets;
};

void xa_init(struct xarray *xa);
void xa_destroy(struct xarray *xa);
void *xa_load(struct xarray *xa, unsigned long index);
int xa_insert(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp);
void *xa_store(struct xarray *xa, unsigned long index, void *entry, gfp_t gfp);
void *xa_erase(struct xarray *xa, unsigned long index);
bool xa_empty(struct xarray *xa);

/* Of all filters only "any entry". */
#define XA_PRESENT	8U
void *xa_find(struct xarray *xa, unsigned long *index, unsigned long max,
	      unsigned int filter);

static inline void *xa_mk_value(unsigned long value)
{
	return (void *)(value << 1 | 1);
}

static inline unsigned long xa_to_value(const void *entry)
{
	return (unsigned long)entry >> 1;
}

static inline bool xa_is_err(const void *entry)
{
	return (unsigned long)entry >= (unsigned long)-4095;
}

static inline int xa_err(void *entry)
{
	return xa_is_err(entry) ? (int)(long)entry : 0;
}

#define xa_for_each(xa, index, entry)					\
	for ((index) = 0,						\
	     (entry) = xa_find(xa, &(index), ULONG_MAX, XA_PRESENT);	\
	     entry;							\
	     (index)++,							\
	     (entry) = xa_find(xa, &(index), ULONG_MAX, XA_PRESENT))

#endif
