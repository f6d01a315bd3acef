/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Locks over pthreads that know who holds them.
 */
#ifndef _SHIM_MUTEX_H
#define _SHIM_MUTEX_H

#include <linux/compiler.h>
#include <linux/types.h>
#include <pthread.h>

/**
 * struct shim_lock - what a mutex and a spinlock are made of
 * @lock: the lock
 * @owner: thread that holds it, 0 if none
 */
struct shim_lock {
	pthread_mutex_t lock;
	unsigned long owner;
};

#define SHIM_LOCK_INIT	{ .lock = PTHREAD_MUTEX_INITIALIZER }

struct mutex {
	struct shim_lock base;
};

#define DEFINE_MUTEX(name)	struct mutex name = { .base = SHIM_LOCK_INIT }

void shim_lock_init(struct shim_lock *lock);
void shim_lock_destroy(struct shim_lock *lock);
void shim_assert_held(struct shim_lock *lock, const char *what,
		      const char *file, int line);
bool shim_is_held(struct shim_lock *lock);

void mutex_lock(struct mutex *mutex);
bool mutex_trylock(struct mutex *mutex);
void mutex_unlock(struct mutex *mutex);
bool mutex_is_locked(struct mutex *mutex);

#define mutex_init(m)		shim_lock_init(&(m)->base)
#define mutex_destroy(m)	shim_lock_destroy(&(m)->base)

#define lockdep_assert_held(l) \
	shim_assert_held(&(l)->base, #l, __FILE__, __LINE__)
#define lockdep_is_held(l)	shim_is_held(&(l)->base)
#define lockdep_assert(cond)	((void)WARN_ON(!(cond)))

#include <linux/bug.h>

#endif
