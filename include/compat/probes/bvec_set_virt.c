// SPDX-License-Identifier: GPL-2.0-only
/* 6.3 brought it. */
#include <linux/bvec.h>

void probe(struct bio_vec *bv, void *data)
{
	bvec_set_virt(bv, data, 1);
}
