/* SPDX-License-Identifier: GPL-2.0-only */
#include "compat_probed.h"
#include_next <linux/shrinker.h>

/*
 * Before 6.7 the header of file systems has a shrinker within a structure, and
 * must not be given another one: it comes first, and on the way nothing here.
 */
#if !defined(COMPAT_HAS_SHRINKER_ALLOC) && \
	(!defined(_LINUX_FS_H) || defined(COMPAT_FS_IS_COMPLETE)) && \
	!defined(_QCOW2_COMPAT_LINUX_SHRINKER_H)
#define _QCOW2_COMPAT_LINUX_SHRINKER_H

#include <linux/fs.h>
#include <linux/slab.h>

/*
 * 6.7 brought shrinkers that the kernel allocates, with private data; before,
 * there was none, and they were part of something.  Modules cannot prepare one,
 * so it is registered at once, where that can fail, and idle until it is ready.
 * Members are those that cache.c uses.
 */
struct compat_shrinker {
	unsigned long (*count_objects)(struct compat_shrinker *shrinker,
				       struct shrink_control *sc);
	unsigned long (*scan_objects)(struct compat_shrinker *shrinker,
				      struct shrink_control *sc);
	void *private_data;
	bool ready;
	struct shrinker old;
};

static inline unsigned long compat_count_objects(struct shrinker *old,
						 struct shrink_control *sc)
{
	struct compat_shrinker *new;

	new = container_of(old, struct compat_shrinker, old);
	/* Pairs with shrinker_register(). */
	return smp_load_acquire(&new->ready) ? new->count_objects(new, sc) : 0;
}

static inline unsigned long compat_scan_objects(struct shrinker *old,
						struct shrink_control *sc)
{
	struct compat_shrinker *new;

	new = container_of(old, struct compat_shrinker, old);
	return new->scan_objects(new, sc);
}

static inline void compat_shrinker_free(struct compat_shrinker *new)
{
	if (!new)
		return;
	unregister_shrinker(&new->old);
	kfree(new);
}

#define shrinker_alloc(flags_, fmt, ...)				\
({									\
	struct compat_shrinker *__new;					\
									\
	__new = kzalloc(sizeof(*__new), GFP_KERNEL);			\
	if (__new) {							\
		__new->old.count_objects = compat_count_objects;	\
		__new->old.scan_objects = compat_scan_objects;		\
		__new->old.seeks = DEFAULT_SEEKS;			\
		__new->old.flags = flags_;				\
		if (register_shrinker(&__new->old, fmt, ##__VA_ARGS__)) { \
			kfree(__new);					\
			__new = NULL;					\
		}							\
	}								\
	__new;								\
})

/* Pairs with compat_count_objects(). */
#define shrinker_register(new)	smp_store_release(&(new)->ready, true)
#define shrinker_free		compat_shrinker_free
#define shrinker		compat_shrinker

#endif
