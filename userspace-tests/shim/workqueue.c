// SPDX-License-Identifier: GPL-2.0-only
/*
 * Workqueues over threads.
 *
 * One lock protects all of them; TSan does not see it (shim.h), only what the
 * kernel promises: queueing comes before running, one run of a work before the
 * next, running before what flushing lets go on.
 */

#include <linux/bug.h>
#include <linux/list.h>
#include <linux/workqueue.h>
#include <linux/limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

/* The kernel starts as many as are blocked; nothing of ours needs that many. */
#define MAX_THREADS	64

/**
 * struct worker - a thread of a workqueue
 * @link: in the workqueue's list
 * @wq: the workqueue
 * @thread: the thread
 * @work: what it runs, maybe freed meanwhile; NULL if it is idle
 * @func: likewise
 * @ticket: likewise
 * @after: works to run next: those that it ran when they were taken
 */
struct worker {
	struct list_head link;
	struct workqueue_struct *wq;
	pthread_t thread;
	struct work_struct *work;
	work_func_t func;
	u64 ticket;
	struct list_head after;
};

struct workqueue_struct {
	struct list_head works;
	struct list_head workers;
	unsigned int nr_workers, nr_idle, max_workers;
	bool stop;
	pthread_cond_t more;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER;
static u64 last_ticket;

static LIST_HEAD(timers);
static pthread_cond_t timers_changed;
static long long fixed_delay = SHIM_DELAY_REAL;

static int chosen_cpu;

/* Jiffies, if their clock stands still, else 0. */
static unsigned long stopped_at;

/* Tokens that order the runs of one work, by its address. */
static char runs[1024];

static char *run_token(const struct work_struct *work)
{
	return &runs[((unsigned long)work >> 4) % sizeof(runs)];
}

static void enter(void)
{
	shim_hide_begin();
	pthread_mutex_lock(&lock);
}

static void leave(void)
{
	pthread_mutex_unlock(&lock);
	shim_hide_end();
}

/*
 * Works, under the lock.
 */

static struct worker *running(struct workqueue_struct *wq,
			      const struct work_struct *work, work_func_t func)
{
	struct worker *worker;

	if (!wq)
		return NULL;
	list_for_each_entry(worker, &wq->workers, link)
		if (worker->work == work && worker->func == func)
			return worker;
	return NULL;
}

/* Returns true if the caller shall start a thread, when it has let go. */
static bool put_in_queue(struct workqueue_struct *wq, struct work_struct *work)
{
	work->wq = wq;
	work->ticket = ++last_ticket;
	list_add_tail(&work->link, &wq->works);
	pthread_cond_signal(&wq->more);
	if (wq->nr_idle || wq->nr_workers == wq->max_workers)
		return false;
	wq->nr_workers++;
	return true;
}

/* A work that can run now, or NULL; others go where their like runs. */
static struct work_struct *take_work(struct worker *me)
{
	struct workqueue_struct *wq = me->wq;

	if (!list_empty(&me->after))
		return list_first_entry(&me->after, struct work_struct, link);
	while (!list_empty(&wq->works)) {
		struct work_struct *work = list_first_entry(&wq->works,
						struct work_struct, link);
		struct worker *other = running(wq, work, work->func);

		if (!other)
			return work;
		list_move_tail(&work->link, &other->after);
	}
	return NULL;
}

static __thread u64 works_begun;

u64 shim_works_begun(void)
{
	return works_begun;
}

static void run_work(struct worker *me, struct work_struct *work)
{
	work_func_t func = work->func;

	list_del_init(&work->link);
	work->pending = false;
	me->work = work;
	me->func = func;
	me->ticket = work->ticket;
	leave();

	shim_hb_after(work);
	shim_hb_after(run_token(work));
	works_begun++;
	func(work);
	shim_check_context("a work");
	shim_hb_before(run_token(work));
	shim_hb_before(me->wq);

	enter();
	me->work = NULL;
	pthread_cond_broadcast(&finished);
}

static void *worker_thread(void *arg)
{
	struct worker *me = arg;
	struct workqueue_struct *wq = me->wq;

	me->thread = pthread_self();
	shim_hb_before(wq);	/* for destroy_workqueue() */
	enter();
	list_add_tail(&me->link, &wq->workers);
	for (;;) {
		struct work_struct *work = take_work(me);

		if (work) {
			run_work(me, work);
			continue;
		}
		if (wq->stop)
			break;
		wq->nr_idle++;
		pthread_cond_wait(&wq->more, &lock);
		wq->nr_idle--;
	}
	leave();
	return NULL;
}

static void start_worker(struct workqueue_struct *wq)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	pthread_t thread;

	if (!worker)
		shim_die("out of memory");
	worker->wq = wq;
	INIT_LIST_HEAD(&worker->after);
	if (pthread_create(&thread, NULL, worker_thread, worker))
		shim_die("no thread for a workqueue");
}

/*
 * Time.
 */

static void *timer_thread(void *unused)
{
	enter();
	for (;;) {
		struct delayed_work *dwork, *first = NULL;
		struct timespec until;
		bool start;

		list_for_each_entry(dwork, &timers, timer)
			if (!first || dwork->due < first->due)
				first = dwork;
		if (!first || first->due == U64_MAX) {
			pthread_cond_wait(&timers_changed, &lock);
			continue;
		}
		if (first->due > shim_now_ns()) {
			until.tv_sec = first->due / 1000000000;
			until.tv_nsec = first->due % 1000000000;
			pthread_cond_timedwait(&timers_changed, &lock, &until);
			continue;
		}
		list_del_init(&first->timer);
		first->timer_set = false;
		start = put_in_queue(first->work.wq, &first->work);
		if (start) {
			struct workqueue_struct *wq = first->work.wq;

			leave();
			start_worker(wq);
			enter();
		}
	}
	return unused;
}

static void start_timer_thread(void)
{
	pthread_condattr_t cond;
	pthread_attr_t attr;
	pthread_t thread;

	pthread_condattr_init(&cond);
	pthread_condattr_setclock(&cond, CLOCK_MONOTONIC);
	pthread_cond_init(&timers_changed, &cond);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &attr, timer_thread, NULL))
		shim_die("no thread for timers");
}

void shim_set_delay(long long ns)
{
	__atomic_store_n(&fixed_delay, ns, __ATOMIC_RELAXED);
}

static unsigned long ticks(void)
{
	return shim_now_ns() / (1000000000 / HZ);
}

void shim_stop_jiffies(bool stop)
{
	__atomic_store_n(&stopped_at, stop ? ticks() : 0, __ATOMIC_RELAXED);
}

unsigned long shim_jiffies(void)
{
	return __atomic_load_n(&stopped_at, __ATOMIC_RELAXED) ?: ticks();
}

static u64 due_time(unsigned long delay)
{
	long long ns = __atomic_load_n(&fixed_delay, __ATOMIC_RELAXED);

	if (ns == SHIM_DELAY_NEVER)
		return U64_MAX;
	if (ns == SHIM_DELAY_REAL)
		ns = delay * (1000000000LL / HZ);
	return shim_now_ns() + ns;
}

static void set_timer(struct workqueue_struct *wq, struct delayed_work *dwork,
		      unsigned long delay)
{
	dwork->work.wq = wq;
	dwork->due = due_time(delay);
	dwork->timer_set = true;
	list_add_tail(&dwork->timer, &timers);
	pthread_cond_signal(&timers_changed);
}

/*
 * What the engine calls.
 */

void shim_init_work(struct work_struct *work, work_func_t func)
{
	memset(work, 0, sizeof(*work));
	INIT_LIST_HEAD(&work->link);
	work->func = func;
}

void shim_init_delayed_work(struct delayed_work *dwork, work_func_t func)
{
	shim_init_work(&dwork->work, func);
	INIT_LIST_HEAD(&dwork->timer);
	dwork->timer_set = false;
}

struct workqueue_struct *alloc_workqueue(const char *fmt, unsigned int flags,
					 int max_active, ...)
{
	struct workqueue_struct *wq = calloc(1, sizeof(*wq));

	(void)fmt;
	(void)flags;
	if (!wq)
		return NULL;
	INIT_LIST_HEAD(&wq->works);
	INIT_LIST_HEAD(&wq->workers);
	pthread_cond_init(&wq->more, NULL);
	wq->max_workers = max_active && max_active < MAX_THREADS ? max_active :
								  MAX_THREADS;
	return wq;
}

bool queue_work(struct workqueue_struct *wq, struct work_struct *work)
{
	bool queued, start = false;

	shim_hb_before(work);
	enter();
	if (wq->stop)
		shim_die("queue_work() on a destroyed workqueue");
	queued = !work->pending && !work->canceling;
	if (queued) {
		work->pending = true;
		start = put_in_queue(wq, work);
	}
	leave();
	if (start)
		start_worker(wq);
	return queued;
}

bool queue_work_on(int cpu, struct workqueue_struct *wq,
		   struct work_struct *work)
{
	__atomic_store_n(&chosen_cpu, cpu, __ATOMIC_RELAXED);
	return queue_work(wq, work);
}

int shim_chosen_cpu(void)
{
	return __atomic_load_n(&chosen_cpu, __ATOMIC_RELAXED);
}

bool queue_delayed_work(struct workqueue_struct *wq,
			struct delayed_work *dwork, unsigned long delay)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	bool queued;

	if (!delay)
		return queue_work(wq, &dwork->work);
	pthread_once(&once, start_timer_thread);
	shim_hb_before(&dwork->work);
	enter();
	queued = !dwork->work.pending && !dwork->work.canceling;
	if (queued) {
		dwork->work.pending = true;
		set_timer(wq, dwork, delay);
	}
	leave();
	return queued;
}

/* Takes a work back that has not begun; @dwork if it is a delayed one. */
static bool take_back(struct work_struct *work, struct delayed_work *dwork)
{
	if (!work->pending)
		return false;
	if (dwork && dwork->timer_set) {
		list_del_init(&dwork->timer);
		dwork->timer_set = false;
	} else {
		list_del_init(&work->link);
	}
	work->pending = false;
	pthread_cond_broadcast(&finished);
	return true;
}

bool mod_delayed_work(struct workqueue_struct *wq, struct delayed_work *dwork,
		      unsigned long delay)
{
	bool was;

	enter();
	was = take_back(&dwork->work, dwork);
	leave();
	queue_delayed_work(wq, dwork, delay);
	return was;
}

static bool cancel(struct work_struct *work, struct delayed_work *dwork)
{
	struct workqueue_struct *wq;
	bool was;

	might_sleep();
	enter();
	work->canceling++;
	was = take_back(work, dwork);
	while (running(work->wq, work, work->func))
		pthread_cond_wait(&finished, &lock);
	work->canceling--;
	wq = work->wq;
	leave();
	if (wq)
		shim_hb_after(wq);
	return was;
}

bool cancel_work_sync(struct work_struct *work)
{
	return cancel(work, NULL);
}

bool cancel_delayed_work_sync(struct delayed_work *dwork)
{
	return cancel(&dwork->work, dwork);
}

bool flush_work(struct work_struct *work)
{
	struct workqueue_struct *wq;
	bool waited = false;
	u64 ticket;

	might_sleep();
	enter();
	wq = work->wq;
	ticket = work->ticket;
	while ((work->pending && work->ticket == ticket) ||
	       running(wq, work, work->func)) {
		waited = true;
		pthread_cond_wait(&finished, &lock);
	}
	leave();
	if (wq)
		shim_hb_after(wq);
	return waited;
}

bool flush_delayed_work(struct delayed_work *dwork)
{
	struct workqueue_struct *wq = NULL;
	bool start = false;

	enter();
	if (dwork->timer_set) {
		list_del_init(&dwork->timer);
		dwork->timer_set = false;
		wq = dwork->work.wq;
		start = put_in_queue(wq, &dwork->work);
	}
	leave();
	if (start)
		start_worker(wq);
	return flush_work(&dwork->work);
}

bool work_pending(struct work_struct *work)
{
	bool pending;

	enter();
	pending = work->pending;
	leave();
	return pending;
}

/* Is a work of a ticket up to @ticket queued or running? */
static bool busy_up_to(struct workqueue_struct *wq, u64 ticket)
{
	struct work_struct *work;
	struct worker *worker;

	list_for_each_entry(work, &wq->works, link)
		if (work->ticket <= ticket)
			return true;
	list_for_each_entry(worker, &wq->workers, link) {
		if (worker->work && worker->ticket <= ticket)
			return true;
		list_for_each_entry(work, &worker->after, link)
			if (work->ticket <= ticket)
				return true;
	}
	return false;
}

static void wait_for_works(struct workqueue_struct *wq, bool later_ones_too)
{
	u64 ticket;

	might_sleep();
	enter();
	ticket = later_ones_too ? U64_MAX : last_ticket;
	while (busy_up_to(wq, ticket))
		pthread_cond_wait(&finished, &lock);
	leave();
	shim_hb_after(wq);
}

void flush_workqueue(struct workqueue_struct *wq)
{
	wait_for_works(wq, false);
}

void drain_workqueue(struct workqueue_struct *wq)
{
	wait_for_works(wq, true);
}

static void check_no_timer(struct workqueue_struct *wq)
{
	struct delayed_work *dwork;

	list_for_each_entry(dwork, &timers, timer)
		if (dwork->work.wq == wq)
			shim_die("a workqueue is destroyed while delayed work waits for its time");
}

void destroy_workqueue(struct workqueue_struct *wq)
{
	struct worker *worker, *next;
	unsigned int nr = 0;

	drain_workqueue(wq);
	enter();
	check_no_timer(wq);
	wq->stop = true;
	pthread_cond_broadcast(&wq->more);
	leave();
	/* A thread that was asked for may not have come yet. */
	while (nr < wq->nr_workers) {
		enter();
		nr = 0;
		list_for_each_entry(worker, &wq->workers, link)
			nr++;
		leave();
		if (nr < wq->nr_workers)
			cpu_relax();
	}
	shim_hb_after(wq);
	list_for_each_entry_safe(worker, next, &wq->workers, link) {
		pthread_join(worker->thread, NULL);
		free(worker);
	}
	pthread_cond_destroy(&wq->more);
	free(wq);
}
