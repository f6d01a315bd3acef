// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shrinkers in a list under a lock: one that is freed is not running any more.
 */

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/shrinker.h>
#include <linux/slab.h>

static DEFINE_MUTEX(lock);
static LIST_HEAD(shrinkers);

struct shrinker *shrinker_alloc(unsigned int flags, const char *fmt, ...)
{
	struct shrinker *shrinker = kzalloc_obj(*shrinker);

	(void)flags;
	(void)fmt;
	if (shrinker)
		INIT_LIST_HEAD(&shrinker->list);
	return shrinker;
}

void shrinker_register(struct shrinker *shrinker)
{
	mutex_lock(&lock);
	list_add(&shrinker->list, &shrinkers);
	mutex_unlock(&lock);
}

void shrinker_free(struct shrinker *shrinker)
{
	if (!shrinker)
		return;
	mutex_lock(&lock);
	list_del(&shrinker->list);
	mutex_unlock(&lock);
	kfree(shrinker);
}

static unsigned long shrink_one(struct shrinker *shrinker, unsigned long nr)
{
	struct shrink_control sc = { .gfp_mask = GFP_NOIO };
	unsigned long count = shrinker->count_objects(shrinker, &sc);
	unsigned long freed;

	if (!count || count == SHRINK_EMPTY)
		return 0;
	sc.nr_to_scan = nr;
	sc.nr_scanned = nr;
	freed = shrinker->scan_objects(shrinker, &sc);
	return freed == SHRINK_STOP ? 0 : freed;
}

unsigned long shim_shrink(unsigned long nr)
{
	struct shrinker *shrinker;
	unsigned long freed = 0;

	mutex_lock(&lock);
	list_for_each_entry(shrinker, &shrinkers, list)
		freed += shrink_one(shrinker, nr);
	mutex_unlock(&lock);
	return freed;
}
