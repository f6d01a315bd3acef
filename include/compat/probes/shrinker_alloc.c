// SPDX-License-Identifier: GPL-2.0-only
/* 6.7: shrinkers that the kernel allocates. */
#include <linux/shrinker.h>

void probe(void)
{
	struct shrinker *shrinker = shrinker_alloc(0, "probe");

	shrinker->private_data = NULL;
	shrinker_register(shrinker);
	shrinker_free(shrinker);
}
