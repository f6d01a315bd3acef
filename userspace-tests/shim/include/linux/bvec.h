/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_BVEC_H
#define _SHIM_BVEC_H

#include <linux/slab.h>

/**
 * struct bio_vec - a piece of memory
 * @bv_page: its first page
 * @bv_len: length in bytes, which may go beyond that page
 * @bv_offset: from the start of that page
 */
struct bio_vec {
	struct page *bv_page;
	unsigned int bv_len;
	unsigned int bv_offset;
};

static inline void bvec_set_page(struct bio_vec *bv, struct page *page,
				 unsigned int len, unsigned int offset)
{
	bv->bv_page = page;
	bv->bv_len = len;
	bv->bv_offset = offset;
}

static inline void bvec_set_virt(struct bio_vec *bv, void *addr,
				 unsigned int len)
{
	bvec_set_page(bv, virt_to_page(addr), len, offset_in_page(addr));
}

static inline void *bvec_virt(const struct bio_vec *bv)
{
	return (char *)page_address(bv->bv_page) + bv->bv_offset;
}

#define bvec_kmap_local(bv)	bvec_virt(bv)

#endif
