/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_BVEC_H
#define _QCOW2_COMPAT_LINUX_BVEC_H

#include "compat_probed.h"
#include_next <linux/bvec.h>

#ifndef COMPAT_HAS_BVEC_SET_VIRT
/* 6.3 brought bvec_set_virt(). */
static inline void compat_bvec_set_virt(struct bio_vec *bv, void *vaddr,
					unsigned int len)
{
	bv->bv_page = virt_to_page(vaddr);
	bv->bv_len = len;
	bv->bv_offset = offset_in_page(vaddr);
}

#define bvec_set_virt compat_bvec_set_virt
#endif

#ifndef COMPAT_HAS_BVEC_ITER_BI_OFFSET
/* 7.3 gave the member of struct bvec_iter this name; it always meant this. */
#define bi_offset bi_bvec_done
#endif

#endif /* _QCOW2_COMPAT_LINUX_BVEC_H */
