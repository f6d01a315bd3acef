/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_WAIT_H
#define _SHIM_WAIT_H

#include <linux/types.h>
#include <pthread.h>

/**
 * struct wait_queue_head - where threads wait for a condition to change
 * @lock: protects @wakeups; nothing is taken inside
 * @wait: the waiters
 * @wakeups: number of wake-ups so far
 */
struct wait_queue_head {
	pthread_mutex_t lock;
	pthread_cond_t wait;
	unsigned long wakeups;
};

typedef struct wait_queue_head wait_queue_head_t;

void init_waitqueue_head(wait_queue_head_t *wq);
unsigned long shim_wait_begin(wait_queue_head_t *wq);
void shim_wait_change(wait_queue_head_t *wq, unsigned long seen);
void wake_up_all(wait_queue_head_t *wq);
#define wake_up(wq)	wake_up_all(wq)

#define wait_event_idle_exclusive(wq, condition)	wait_event(wq, condition)
#define wait_event(wq, condition) \
	do { \
		for (;;) { \
			unsigned long _seen = shim_wait_begin(&(wq)); \
			if (condition) \
				break; \
			shim_wait_change(&(wq), _seen); \
		} \
	} while (0)

#endif
