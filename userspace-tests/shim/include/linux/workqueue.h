/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Workqueues: a pool of threads for each (workqueue.c).
 */
#ifndef _SHIM_WORKQUEUE_H
#define _SHIM_WORKQUEUE_H

#include <linux/compiler.h>
#include <linux/container_of.h>
#include <linux/jiffies.h>
#include <linux/types.h>

struct workqueue_struct;
struct work_struct;
typedef void (*work_func_t)(struct work_struct *work);

/**
 * struct work_struct - something to be done
 * @link: in a list of its workqueue or of one of its threads, if @pending
 * @func: does it
 * @wq: where it was queued last
 * @ticket: when, counted in works
 * @pending: queued, or waiting for its time, and not begun
 * @canceling: may not be queued now
 */
struct work_struct {
	struct list_head link;
	work_func_t func;
	struct workqueue_struct *wq;
	u64 ticket;
	bool pending;
	unsigned int canceling;
};

/**
 * struct delayed_work - something to be done later
 * @work: the work
 * @timer: in the list of what is waiting for its time
 * @due: that time in nanoseconds, U64_MAX for never
 * @timer_set: is in that list
 */
struct delayed_work {
	struct work_struct work;
	struct list_head timer;
	u64 due;
	bool timer_set;
};

enum {
	WQ_UNBOUND	= 1 << 1,
	WQ_FREEZABLE	= 1 << 2,
	WQ_MEM_RECLAIM	= 1 << 3,
	WQ_HIGHPRI	= 1 << 4,
	WQ_CPU_INTENSIVE = 1 << 5,
	WQ_SYSFS	= 1 << 6,
	WQ_PERCPU	= 1 << 8,
};

void shim_init_work(struct work_struct *work, work_func_t func);
void shim_init_delayed_work(struct delayed_work *dwork, work_func_t func);
#define INIT_WORK(work, func)		shim_init_work(work, func)
#define INIT_WORK_ONSTACK(work, func)	shim_init_work(work, func)
#define INIT_DELAYED_WORK(dwork, func)	shim_init_delayed_work(dwork, func)
#define destroy_work_on_stack(work)	((void)(work))

static inline struct delayed_work *to_delayed_work(struct work_struct *work)
{
	return container_of(work, struct delayed_work, work);
}

/* @max_active of 1 means one thread; else there are a few. */
__printf(1, 4)
struct workqueue_struct *alloc_workqueue(const char *fmt, unsigned int flags,
					 int max_active, ...);
#define alloc_ordered_workqueue(fmt, flags, ...) \
	alloc_workqueue(fmt, flags, 1, ##__VA_ARGS__)
void destroy_workqueue(struct workqueue_struct *wq);
bool queue_work(struct workqueue_struct *wq, struct work_struct *work);
/* Runs anywhere, as queue_work(); see shim_chosen_cpu(). */
bool queue_work_on(int cpu, struct workqueue_struct *wq,
		   struct work_struct *work);
bool queue_delayed_work(struct workqueue_struct *wq,
			struct delayed_work *dwork, unsigned long delay);
bool mod_delayed_work(struct workqueue_struct *wq, struct delayed_work *dwork,
		      unsigned long delay);
bool cancel_work_sync(struct work_struct *work);
bool cancel_delayed_work_sync(struct delayed_work *dwork);
bool flush_work(struct work_struct *work);
bool flush_delayed_work(struct delayed_work *dwork);
void flush_workqueue(struct workqueue_struct *wq);
void drain_workqueue(struct workqueue_struct *wq);
bool work_pending(struct work_struct *work);
#define delayed_work_pending(dwork)	work_pending(&(dwork)->work)

#endif
