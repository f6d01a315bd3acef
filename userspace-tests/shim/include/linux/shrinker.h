/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shrinkers: they are called when a test asks for memory (shrinker.c).
 */
#ifndef _SHIM_SHRINKER_H
#define _SHIM_SHRINKER_H

#include <linux/compiler.h>
#include <linux/list_types.h>
#include <linux/types.h>

#define SHRINK_STOP	(~0UL)
#define SHRINK_EMPTY	(~0UL - 1)

struct shrink_control {
	gfp_t gfp_mask;
	unsigned long nr_to_scan;
	unsigned long nr_scanned;
};

struct shrinker {
	unsigned long (*count_objects)(struct shrinker *shrinker,
				       struct shrink_control *sc);
	unsigned long (*scan_objects)(struct shrinker *shrinker,
				      struct shrink_control *sc);
	void *private_data;
	struct list_head list;
};

__printf(2, 3)
struct shrinker *shrinker_alloc(unsigned int flags, const char *fmt, ...);
void shrinker_register(struct shrinker *shrinker);
void shrinker_free(struct shrinker *shrinker);

/*
 * For tests: has all shrinkers look at @nr objects each, from a thread that may
 * hold what one holds that allocates memory.  Gives how many they say to have freed.
 */
unsigned long shim_shrink(unsigned long nr);

#endif
