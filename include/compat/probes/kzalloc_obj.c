// SPDX-License-Identifier: GPL-2.0-only
/* 7.0: allocation by type, whose flags may be left out. */
#include <linux/slab.h>

void probe(int **one, int **two)
{
	*one = kzalloc_obj(**one);
	*two = kzalloc_obj(**two, GFP_NOIO);
}
