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
 * A percpu_ref works like that too.  But where a CPU has no instruction to add to a
 * variable of its own, it turns interrupts off and on, which in User-Mode Linux
 * are two system calls, and a tenth of what a small read takes (see
 * Documentation/design/index.rst, "What a request costs").
 */

#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/lockdep.h>
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
	/* Pairs with qcow2_epoch_next(). */
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
	queue_work(img->wq, &img->release_work);
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

/**
 * qcow2_epoch_next() - begin the next epoch, and wait for the I/O of this one
 * @img: the image; its release_work is queued when that is done, and must be before
 *	this is called again
 *
 * Context: meta_lock held.
 */
void qcow2_epoch_next(struct qcow2_image *img)
{
	struct qcow2_epoch *old = &img->epochs[img->epoch];

	lockdep_assert_held(&img->meta_lock);
	/* Seen by all who leave after nobody_enters(). */
	WRITE_ONCE(old->drains, true);
	/* Who sees the new epoch sees the removals that came before. */
	smp_store_release(&img->epoch, !img->epoch);
	call_rcu_hurry(&old->rcu, nobody_enters);
}

/**
 * qcow2_epoch_init() - prepare an image's epochs
 * @img: the image
 *
 * Return: 0 or -ENOMEM; qcow2_epoch_destroy() is due in both cases.
 */
int qcow2_epoch_init(struct qcow2_image *img)
{
	int i;

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
 * @img: the image; no operation runs, and nothing is being released
 *
 * An epoch that drained has been said to be empty, so none of its callbacks will run;
 * one that still does has nothing more to do with it.
 */
void qcow2_epoch_destroy(struct qcow2_image *img)
{
	int i;

	for (i = 0; i < 2; i++)
		free_percpu(img->epochs[i].users);
}
