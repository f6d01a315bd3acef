// SPDX-License-Identifier: GPL-2.0-only
/*
 * Epochs of guest I/O.
 */

/**
 * DOC: epochs
 *
 * Guest I/O that uses a mapping holds the epoch that was current before it looked
 * the mapping up.  To know that nobody uses mappings any more that were removed,
 * the next epoch begins and the I/O of the old one is waited for: who enters the
 * new one sees the removal (invariant I4).
 *
 * Each CPU counts apart, up and down, so that I/O writes no cache line of another
 * CPU; one that begins here and ends there leaves both wrong, but not their sum.
 * To notice when an epoch is empty, though, one count is needed.  So from when the
 * next epoch begins, whoever leaves the old one counts in @left, down from 0, and a
 * grace period of RCU later the counts of the CPUs are added to that, once.
 *
 * Both entering and leaving are RCU read sections, so after the grace period two things
 * are over: nobody enters the old epoch any more, and nobody who did not see that it
 * drains is about to count down on a CPU.  The counts of the CPUs do not change any more,
 * then: they say who had come, less who had left by them.  All others who left are
 * in @left, which only sinks before the sum is added, so that leaving does not bring it
 * to 0 too early.  From then on it is the number of those who are in the epoch.  It
 * becomes 0 once: with the sum, or when the last one leaves.  To leave takes the same
 * few steps at any time, however many CPUs there are.
 *
 * Whoever makes it 0 says so, and is the last one to touch the epoch until it is the
 * current one again.  Who does not make it 0 does not touch it any more.
 *
 * There are two epochs, so one can drain at a time.  Who wants to wait says so with a
 * struct qcow2_epoch_wait.  All who do while none drains, or while one does, share the
 * next drain: it begins with the first of them, or when the other one has ended.  By
 * then the I/O of the epoch before has ended too, so what they wait for is all that
 * was mapped before.  None of them can keep another one waiting by coming again.
 *
 * The grace period lies between the wait's begin and its end.  So it waits for RCU
 * read sections as well: who only looks at an object that is about to be replaced
 * needs no epoch.
 *
 * A percpu_ref works like that too.  But where a CPU has no instruction to add to a
 * variable of its own, it turns interrupts off and on, which in User-Mode Linux
 * are two system calls, and a tenth of what a small read takes (see
 * Documentation/design/index.rst, "What a request costs").
 */

#include <linux/atomic.h>
#include <linux/bug.h>
#include <linux/completion.h>
#include <linux/container_of.h>
#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/list.h>
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/workqueue.h>

#include "image.h"

/**
 * qcow2_epoch_enter() - pin all host clusters that a lookup finds from now on
 * @img: the image
 *
 * Context: any.
 * Return: what to give to qcow2_epoch_exit().
 */
struct qcow2_epoch *qcow2_epoch_enter(struct qcow2_image *img)
{
	struct qcow2_epoch *epoch;

	rcu_read_lock();
	/* Pairs with next_epoch(). */
	epoch = &img->epochs[smp_load_acquire(&img->epoch)];
	atomic_inc(raw_cpu_ptr(epoch->users));
	rcu_read_unlock();
	return epoch;
}

/* Nobody is in it.  It may be in use again as soon as that is said. */
static void say_empty(struct qcow2_epoch *epoch)
{
	struct qcow2_image *img = epoch->img;

	WRITE_ONCE(epoch->drains, false);
	queue_work(img->wq, &img->epoch_work);
}

/**
 * qcow2_epoch_exit() - the I/O is done
 * @epoch: from qcow2_epoch_enter()
 *
 * The operation that the I/O is of must not be done before this returns.
 *
 * Context: any.
 */
void qcow2_epoch_exit(struct qcow2_epoch *epoch)
{
	rcu_read_lock();
	/* Not after nobody_enters(), which thus sees the I/O as done. */
	if (!READ_ONCE(epoch->drains))
		atomic_dec(raw_cpu_ptr(epoch->users));
	else if (atomic_dec_and_test(&epoch->left))
		say_empty(epoch);
	rcu_read_unlock();
}

/* The counts may have wrapped; their sum has not. */
static int take_counts(struct qcow2_epoch *epoch)
{
	unsigned int cpu, sum = 0;

	for_each_possible_cpu(cpu)
		sum += atomic_xchg(per_cpu_ptr(epoch->users, cpu), 0);
	return sum;
}

static void nobody_enters(struct rcu_head *rcu)
{
	struct qcow2_epoch *epoch = container_of(rcu, struct qcow2_epoch, rcu);
	int users = take_counts(epoch);

	/* Fully ordered, as the last one's leaving is. */
	if (!atomic_add_return(users, &epoch->left))
		say_empty(epoch);
}

/* Begins the next epoch, and waits for the I/O of this one. */
static void next_epoch(struct qcow2_image *img)
{
	struct qcow2_epoch *old = &img->epochs[img->epoch];

	lockdep_assert_held(&img->meta_lock);
	/* Seen by all who leave after nobody_enters(). */
	WRITE_ONCE(old->drains, true);
	/* Who sees the new epoch sees the removals that came before. */
	smp_store_release(&img->epoch, !img->epoch);
	call_rcu_hurry(&old->rcu, nobody_enters);
}

/*
 * Those who wait.
 */

/* Has who waits wait for a drain, unless one runs. */
static void drain(struct qcow2_image *img)
{
	lockdep_assert_held(&img->meta_lock);
	if (!list_empty(&img->epoch_draining) || list_empty(&img->epoch_waits))
		return;
	list_splice_init(&img->epoch_waits, &img->epoch_draining);
	next_epoch(img);
}

/* The next drain does not wait for what these do now. */
static void epoch_work(struct work_struct *work)
{
	struct qcow2_image *img = container_of(work, struct qcow2_image,
					       epoch_work);
	struct qcow2_epoch_wait *wait;
	LIST_HEAD(done);

	mutex_lock(&img->meta_lock);
	WARN_ON_ONCE(list_empty(&img->epoch_draining));
	list_splice_init(&img->epoch_draining, &done);
	drain(img);
	mutex_unlock(&img->meta_lock);
	while (!list_empty(&done)) {
		wait = list_first_entry(&done, struct qcow2_epoch_wait, link);
		list_del(&wait->link);
		wait->done(wait);
	}
}

/**
 * qcow2_epoch_call() - be told when all guest I/O that was mapped before has ended
 * @img: the image, which is no layer
 * @wait: filled in by the caller as the structure says; must stay until it is told
 *
 * What the caller has removed or replaced, whether under this hold of meta_lock or
 * before, nobody uses then who found it in an epoch or under RCU.
 *
 * Context: meta_lock held.
 */
void qcow2_epoch_call(struct qcow2_image *img, struct qcow2_epoch_wait *wait)
{
	lockdep_assert_held(&img->meta_lock);
	list_add_tail(&wait->link, &img->epoch_waits);
	drain(img);
}

/**
 * struct sync_wait - a thread that waits
 * @wait: what it waits for
 * @done: that it came
 */
struct sync_wait {
	struct qcow2_epoch_wait wait;
	struct completion done;
};

static void sync_done(struct qcow2_epoch_wait *wait)
{
	complete(&container_of(wait, struct sync_wait, wait)->done);
}

/**
 * qcow2_epoch_synchronize() - wait until all guest I/O that was mapped before has ended
 * @img: the image, which is no layer
 *
 * Context: sleeps; takes meta_lock.  Neither in an epoch nor on the image's workqueue
 * @wq, which could not go on without this.
 */
void qcow2_epoch_synchronize(struct qcow2_image *img)
{
	struct sync_wait sync = {
		.wait.done = sync_done,
		.done = COMPLETION_INITIALIZER_ONSTACK(sync.done),
	};

	mutex_lock(&img->meta_lock);
	qcow2_epoch_call(img, &sync.wait);
	mutex_unlock(&img->meta_lock);
	wait_for_completion(&sync.done);
}

/**
 * qcow2_epoch_settle() - wait until all who wait have been told
 * @img: the image; no guest operation runs, and nobody comes to wait any more
 *
 * Context: sleeps; takes meta_lock.
 */
void qcow2_epoch_settle(struct qcow2_image *img)
{
	bool busy;

	mutex_lock(&img->meta_lock);
	busy = !list_empty(&img->epoch_draining);
	mutex_unlock(&img->meta_lock);
	/* They are told in the order in which they came. */
	if (busy)
		qcow2_epoch_synchronize(img);
	flush_work(&img->epoch_work);
}

/*
 * Start and end.
 */

/**
 * qcow2_epoch_init() - prepare an image's epochs
 * @img: the image
 *
 * Return: 0 or -ENOMEM; qcow2_epoch_destroy() is due in both cases.
 */
int qcow2_epoch_init(struct qcow2_image *img)
{
	int i;

	INIT_LIST_HEAD(&img->epoch_waits);
	INIT_LIST_HEAD(&img->epoch_draining);
	INIT_WORK(&img->epoch_work, epoch_work);
	for (i = 0; i < 2; i++) {
		img->epochs[i].img = img;
		img->epochs[i].users = alloc_percpu(atomic_t);
		if (!img->epochs[i].users)
			return -ENOMEM;
	}
	return 0;
}

/**
 * qcow2_epoch_destroy() - undo that
 * @img: the image; no operation runs, and nobody waits
 *
 * An epoch that drained has been said to be empty, so none of its callbacks will run;
 * one that still does has nothing more to do with it.
 */
void qcow2_epoch_destroy(struct qcow2_image *img)
{
	int i;

	WARN_ON_ONCE(!list_empty(&img->epoch_draining));
	for (i = 0; i < 2; i++)
		free_percpu(img->epochs[i].users);
}
