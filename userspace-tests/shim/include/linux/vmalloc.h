/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_VMALLOC_H
#define _SHIM_VMALLOC_H

#include <linux/slab.h>

/* Whole pages, as vmalloc_to_page() is for. */
void *__vmalloc(size_t bytes, gfp_t gfp);

static inline struct page *vmalloc_to_page(const void *addr)
{
	return virt_to_page(addr);
}

#endif
