/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Memory. All of it can be made to fail but what says that it cannot (shim.h).
 */
#ifndef _SHIM_SLAB_H
#define _SHIM_SLAB_H

#include <linux/compiler.h>
#include <linux/err.h>
#include <linux/overflow.h>
#include <linux/string.h>
#include <linux/types.h>

#define PAGE_SHIFT		12
#define PAGE_SIZE		(1UL << PAGE_SHIFT)
#define PAGE_MASK		(~(PAGE_SIZE - 1))
#define SECTOR_SHIFT		9
#define SECTOR_SIZE		(1 << SECTOR_SHIFT)

#define __GFP_ZERO		0x01U
#define __GFP_DIRECT_RECLAIM	0x02U
#define __GFP_KSWAPD_RECLAIM	0x04U
#define __GFP_IO		0x08U
#define __GFP_FS		0x10U
#define __GFP_NORETRY		0x20U
#define __GFP_NOWARN		0x40U
#define __GFP_NOFAIL		0x80U
#define __GFP_RETRY_MAYFAIL	0x100U
#define __GFP_NOMEMALLOC	0x200U
#define __GFP_RECLAIM		(__GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
#define GFP_KERNEL		(__GFP_RECLAIM | __GFP_IO | __GFP_FS)
#define GFP_NOFS		(__GFP_RECLAIM | __GFP_IO)
#define GFP_NOIO		__GFP_RECLAIM
#define GFP_NOWAIT		__GFP_KSWAPD_RECLAIM
#define GFP_ATOMIC		__GFP_KSWAPD_RECLAIM

struct kmem_cache;

void *shim_alloc(size_t bytes, gfp_t gfp);
void kfree(const void *ptr);

#define kmalloc(bytes, gfp)		shim_alloc(bytes, gfp)
#define kzalloc(bytes, gfp)		shim_alloc(bytes, (gfp) | __GFP_ZERO)
#define kmalloc_array(n, bytes, gfp)	shim_alloc(size_mul(n, bytes), gfp)
#define kcalloc(n, bytes, gfp)		kzalloc(size_mul(n, bytes), gfp)
#define kvmalloc(bytes, gfp)		shim_alloc(bytes, gfp)
#define kvzalloc(bytes, gfp)		kzalloc(bytes, gfp)
#define kvmalloc_array(n, bytes, gfp)	shim_alloc(size_mul(n, bytes), gfp)
#define kvcalloc(n, bytes, gfp)		kzalloc(size_mul(n, bytes), gfp)
#define kvfree(ptr)			kfree(ptr)
#define vmalloc(bytes)			shim_alloc(bytes, GFP_KERNEL)
#define vzalloc(bytes)			kzalloc(bytes, GFP_KERNEL)
#define vfree(ptr)			kfree(ptr)

/* By type; the flags are GFP_KERNEL unless they are given. */
#define shim_gfp(unused, gfp, ...)	(gfp)
#define kmalloc_obj(obj, ...) \
	kmalloc(sizeof(obj), shim_gfp(0, ##__VA_ARGS__, GFP_KERNEL))
#define kzalloc_obj(obj, ...) \
	kzalloc(sizeof(obj), shim_gfp(0, ##__VA_ARGS__, GFP_KERNEL))
#define kmalloc_objs(obj, n, ...) \
	kmalloc_array(n, sizeof(obj), shim_gfp(0, ##__VA_ARGS__, GFP_KERNEL))
#define kzalloc_objs(obj, n, ...) \
	kcalloc(n, sizeof(obj), shim_gfp(0, ##__VA_ARGS__, GFP_KERNEL))

char *kstrdup(const char *text, gfp_t gfp);
void *kmemdup(const void *from, size_t bytes, gfp_t gfp);

struct kmem_cache *kmem_cache_create(const char *name, size_t bytes,
				     size_t align, unsigned int flags,
				     void (*ctor)(void *object));
void kmem_cache_destroy(struct kmem_cache *cache);
void *kmem_cache_alloc(struct kmem_cache *cache, gfp_t gfp);
void kmem_cache_free(struct kmem_cache *cache, void *object);
#define KMEM_CACHE(type, flags) \
	kmem_cache_create(#type, sizeof(struct type), \
			  __alignof__(struct type), flags, NULL)

/* A page's descriptor is the page itself. */
struct page {
	unsigned char data[PAGE_SIZE];
};

unsigned long shim_get_pages(gfp_t gfp, unsigned int order);

#define __get_free_pages(gfp, order)	shim_get_pages(gfp, order)
#define __get_free_page(gfp)		shim_get_pages(gfp, 0)
#define get_zeroed_page(gfp)		shim_get_pages((gfp) | __GFP_ZERO, 0)
#define alloc_pages(gfp, order)		((struct page *)shim_get_pages(gfp, order))
#define alloc_page(gfp)			alloc_pages(gfp, 0)
#define free_pages(addr, order)		kfree((void *)(addr))
#define free_page(addr)			kfree((void *)(addr))
#define __free_pages(page, order)	kfree(page)
#define __free_page(page)		kfree(page)

static inline void *page_address(const struct page *page)
{
	return (void *)page;
}

static inline struct page *virt_to_page(const void *addr)
{
	return (struct page *)((unsigned long)addr & PAGE_MASK);
}

extern struct page shim_zero_page;
#define ZERO_PAGE(vaddr)	(&shim_zero_page)

#define offset_in_page(p)	((unsigned long)(p) & ~PAGE_MASK)
#define kmap_local_page(page)	page_address(page)
#define kunmap_local(addr)	((void)(addr))

static inline unsigned int memalloc_noio_save(void)
{
	return 0;
}

static inline void memalloc_noio_restore(unsigned int flags)
{
	(void)flags;
}

#endif
