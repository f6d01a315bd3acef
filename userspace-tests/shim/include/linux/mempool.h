/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_MEMPOOL_H
#define _SHIM_MEMPOOL_H

#include <linux/slab.h>

typedef void *(mempool_alloc_t)(gfp_t gfp, void *data);
typedef void (mempool_free_t)(void *element, void *data);
typedef struct mempool mempool_t;

mempool_t *mempool_create(int min_nr, mempool_alloc_t *alloc,
			  mempool_free_t *free, void *data);
mempool_t *mempool_create_kmalloc_pool(int min_nr, size_t bytes);
mempool_t *mempool_create_slab_pool(int min_nr, struct kmem_cache *cache);
mempool_t *mempool_create_page_pool(int min_nr, int order);
void mempool_destroy(mempool_t *pool);
void *mempool_alloc(mempool_t *pool, gfp_t gfp);
void mempool_free(void *element, mempool_t *pool);

#endif
