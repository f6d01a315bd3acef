// SPDX-License-Identifier: GPL-2.0-only
/*
 * RCU over liburcu.
 *
 * liburcu's "bp" flavour needs no registration of threads. Its call_rcu()
 * waits 10 ms for callbacks to gather, which would be most of the time that a
 * small image is open, so callbacks run on a thread of ours, in atomic context
 * as in the kernel. liburcu itself is not seen by TSan; the two orders that RCU
 * promises are told to it here: readers that ended come before the callback,
 * and so does what preceded call_rcu().
 */

/* Its rcu_head is not ours, and its names are reached by their prefix. */
#define rcu_head urcu_head
#include <urcu/urcu-bp.h>
#undef rcu_head
#undef rcu_read_lock
#undef rcu_read_unlock
#undef call_rcu
#undef rcu_barrier
#undef synchronize_rcu
#undef rcu_dereference
#undef rcu_assign_pointer

#include <linux/bug.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <pthread.h>
#include <stdlib.h>

#include "internal.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct shim_callback *queue_head, **queue_tail = &queue_head;
static u64 queued, done;

/* Tokens: all read sections that ended, all callbacks that ran. */
static char readers, callbacks;

struct shim_callback {
	struct shim_callback *next;
	void (*func)(struct rcu_head *head);
};

static_assert(sizeof(struct shim_callback) <=
	      offsetof(struct rcu_head, func));

void rcu_read_lock(void)
{
	shim_point();
	shim_atomic_begin();
	urcu_bp_read_lock();
}

void rcu_read_unlock(void)
{
	shim_hb_before(&readers);
	urcu_bp_read_unlock();
	shim_atomic_end();
}

void synchronize_rcu(void)
{
	might_sleep();
	urcu_bp_synchronize_rcu();
	shim_hb_after(&readers);
}

static void run_callbacks(struct shim_callback *list)
{
	while (list) {
		struct shim_callback *next = list->next;
		struct rcu_head *head = (struct rcu_head *)list;

		shim_hide_end();
		shim_hb_after(&readers);
		shim_hb_after(head);
		shim_atomic_begin();
		head->func(head);
		shim_atomic_end();
		shim_hb_before(&callbacks);
		shim_hide_begin();
		pthread_mutex_lock(&lock);
		done++;
		pthread_cond_broadcast(&changed);
		pthread_mutex_unlock(&lock);
		list = next;
	}
}

static void *callback_thread(void *unused)
{
	shim_hide_begin();
	for (;;) {
		struct shim_callback *list;

		pthread_mutex_lock(&lock);
		while (!queue_head)
			pthread_cond_wait(&changed, &lock);
		list = queue_head;
		queue_head = NULL;
		queue_tail = &queue_head;
		pthread_mutex_unlock(&lock);
		urcu_bp_synchronize_rcu();
		run_callbacks(list);
	}
	return unused;
}

static void start_thread(void)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &attr, callback_thread, NULL))
		shim_die("no thread for RCU callbacks");
}

void call_rcu(struct rcu_head *head, void (*func)(struct rcu_head *head))
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct shim_callback *cb = (struct shim_callback *)head;

	pthread_once(&once, start_thread);
	head->func = func;
	shim_hb_before(head);
	shim_hide_begin();
	cb->next = NULL;
	pthread_mutex_lock(&lock);
	*queue_tail = cb;
	queue_tail = &cb->next;
	queued++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	shim_hide_end();
}

void rcu_barrier(void)
{
	u64 target;

	might_sleep();
	shim_hide_begin();
	pthread_mutex_lock(&lock);
	target = queued;
	while (done < target)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	shim_hide_end();
	shim_hb_after(&callbacks);
}

void kfree_rcu_mightsleep(void *ptr)
{
	synchronize_rcu();
	kfree(ptr);
}
