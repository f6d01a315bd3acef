// SPDX-License-Identifier: GPL-2.0-only
/* 7.3: the name of what was bi_bvec_done. */
#include <linux/bvec.h>

struct bvec_iter probe = { .bi_offset = 0 };
