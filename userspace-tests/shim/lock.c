// SPDX-License-Identifier: GPL-2.0-only
/*
 * Locks, and waiting.
 */

#include <linux/atomic.h>
#include <linux/completion.h>
#include <linux/jiffies.h>
#include <linux/limits.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <sched.h>
#include <unistd.h>

#include "internal.h"
#include "shim.h"

int shim_fence;

/* How many reasons this thread has not to sleep, and mutexes it holds. */
static __thread int atomic_depth;
static __thread int mutexes_held;

static unsigned long self(void)
{
	return (unsigned long)pthread_self();
}

/*
 * Context.
 */

void shim_atomic_begin(void)
{
	atomic_depth++;
}

void shim_atomic_end(void)
{
	if (--atomic_depth < 0)
		shim_die("more unlocks than locks");
}

void might_sleep(void)
{
	if (atomic_depth)
		shim_die("sleeps in atomic context (spinlock, RCU or completion callback)");
}

void shim_check_context(const char *who)
{
	if (atomic_depth || mutexes_held)
		shim_die("%s left %d mutexes and %d atomic sections behind",
			 who, mutexes_held, atomic_depth);
}

static void (*hook)(void);

void shim_set_hook(void (*new)(void))
{
	__atomic_store_n(&hook, new, __ATOMIC_SEQ_CST);
}

void shim_point(void)
{
	void (*now)(void) = __atomic_load_n(&hook, __ATOMIC_RELAXED);

	if (now && !atomic_depth)
		now();
}

static void (*stall)(void);

void shim_set_stall(void (*new)(void))
{
	__atomic_store_n(&stall, new, __ATOMIC_SEQ_CST);
}

void shim_stall(void)
{
	void (*now)(void) = __atomic_load_n(&stall, __ATOMIC_RELAXED);

	if (now)
		now();
}

void cpu_relax(void)
{
	sched_yield();
}

void cond_resched(void)
{
	might_sleep();
}

static u64 calls_to_live = U64_MAX;

void shim_kill_after(u64 calls)
{
	__atomic_store_n(&calls_to_live, calls, __ATOMIC_RELAXED);
}

bool fatal_signal_pending(const void *task)
{
	u64 left = __atomic_load_n(&calls_to_live, __ATOMIC_RELAXED);

	(void)task;
	if (left && left != U64_MAX)
		shim_kill_after(left - 1);
	return !left;
}

long schedule_timeout_uninterruptible(long ticks)
{
	might_sleep();
	usleep(ticks * (1000000 / HZ));
	return 0;
}

/*
 * Mutexes and spinlocks.
 */

void shim_lock_init(struct shim_lock *lock)
{
	pthread_mutex_init(&lock->lock, NULL);
	lock->owner = 0;
}

void shim_lock_destroy(struct shim_lock *lock)
{
	if (READ_ONCE(lock->owner))
		shim_die("a lock that is held is destroyed");
	pthread_mutex_destroy(&lock->lock);
}

bool shim_is_held(struct shim_lock *lock)
{
	return READ_ONCE(lock->owner) == self();
}

void shim_assert_held(struct shim_lock *lock, const char *what,
		      const char *file, int line)
{
	if (!shim_is_held(lock))
		shim_die("%s:%d: %s is not held", file, line, what);
}

static void take(struct shim_lock *lock)
{
	if (shim_is_held(lock))
		shim_die("a lock is taken twice");
	pthread_mutex_lock(&lock->lock);
	WRITE_ONCE(lock->owner, self());
}

static void release(struct shim_lock *lock)
{
	if (!shim_is_held(lock))
		shim_die("a lock is released by who does not hold it");
	WRITE_ONCE(lock->owner, 0);
	pthread_mutex_unlock(&lock->lock);
}

void mutex_lock(struct mutex *mutex)
{
	might_sleep();
	shim_point();
	take(&mutex->base);
	mutexes_held++;
}

bool mutex_trylock(struct mutex *mutex)
{
	if (pthread_mutex_trylock(&mutex->base.lock))
		return false;
	WRITE_ONCE(mutex->base.owner, self());
	mutexes_held++;
	return true;
}

void mutex_unlock(struct mutex *mutex)
{
	mutexes_held--;
	release(&mutex->base);
}

bool mutex_is_locked(struct mutex *mutex)
{
	return READ_ONCE(mutex->base.owner);
}

void spin_lock(spinlock_t *lock)
{
	shim_atomic_begin();
	take(&lock->base);
}

void spin_unlock(spinlock_t *lock)
{
	release(&lock->base);
	shim_atomic_end();
}

/*
 * Completions.
 */

#define DONE_FOR_ALL	(~0U / 2)

void init_completion(struct completion *c)
{
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->wait, NULL);
	c->done = 0;
}

void reinit_completion(struct completion *c)
{
	c->done = 0;
}

void complete(struct completion *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->done != DONE_FOR_ALL)
		c->done++;
	pthread_cond_broadcast(&c->wait);
	pthread_mutex_unlock(&c->lock);
}

void complete_all(struct completion *c)
{
	pthread_mutex_lock(&c->lock);
	c->done = DONE_FOR_ALL;
	pthread_cond_broadcast(&c->wait);
	pthread_mutex_unlock(&c->lock);
}

void wait_for_completion(struct completion *c)
{
	might_sleep();
	pthread_mutex_lock(&c->lock);
	while (!c->done)
		pthread_cond_wait(&c->wait, &c->lock);
	if (c->done != DONE_FOR_ALL)
		c->done--;
	pthread_mutex_unlock(&c->lock);
}

bool completion_done(struct completion *c)
{
	bool done;

	pthread_mutex_lock(&c->lock);
	done = c->done;
	pthread_mutex_unlock(&c->lock);
	return done;
}

/*
 * Wait queues. A waiter notes the number of wake-ups, looks at its condition,
 * and sleeps only if there was none since: so no lock is held while the
 * condition is looked at.
 */

void init_waitqueue_head(wait_queue_head_t *wq)
{
	pthread_mutex_init(&wq->lock, NULL);
	pthread_cond_init(&wq->wait, NULL);
	wq->wakeups = 0;
}

unsigned long shim_wait_begin(wait_queue_head_t *wq)
{
	unsigned long seen;

	might_sleep();
	pthread_mutex_lock(&wq->lock);
	seen = wq->wakeups;
	pthread_mutex_unlock(&wq->lock);
	return seen;
}

void shim_wait_change(wait_queue_head_t *wq, unsigned long seen)
{
	pthread_mutex_lock(&wq->lock);
	while (wq->wakeups == seen)
		pthread_cond_wait(&wq->wait, &wq->lock);
	pthread_mutex_unlock(&wq->lock);
}

void wake_up_all(wait_queue_head_t *wq)
{
	pthread_mutex_lock(&wq->lock);
	wq->wakeups++;
	pthread_cond_broadcast(&wq->wait);
	pthread_mutex_unlock(&wq->lock);
}

/*
 * Reference counts.
 */

void refcount_inc(refcount_t *r)
{
	if (__atomic_fetch_add(&r->refs.counter, 1, __ATOMIC_RELAXED) <= 0)
		shim_die("refcount_inc() of an object that is gone");
}

bool refcount_inc_not_zero(refcount_t *r)
{
	int now = READ_ONCE(r->refs.counter);

	while (now > 0)
		if (__atomic_compare_exchange_n(&r->refs.counter, &now, now + 1,
						false, __ATOMIC_ACQUIRE,
						__ATOMIC_RELAXED))
			return true;
	if (now < 0)
		shim_die("refcount_inc_not_zero() of a damaged count");
	return false;
}

bool refcount_dec_and_test(refcount_t *r)
{
	int before = __atomic_fetch_sub(&r->refs.counter, 1, __ATOMIC_ACQ_REL);

	if (before <= 0)
		shim_die("refcount_dec_and_test() below zero");
	return before == 1;
}

void refcount_dec(refcount_t *r)
{
	if (refcount_dec_and_test(r))
		shim_die("refcount_dec() to zero leaks the object");
}

bool refcount_dec_if_one(refcount_t *r)
{
	int one = 1;

	return __atomic_compare_exchange_n(&r->refs.counter, &one, 0, false,
					   __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
