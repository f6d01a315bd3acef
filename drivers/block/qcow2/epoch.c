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
 * The sum is of use only when it cannot grow any more: when a grace period of RCU
 * has passed since the next epoch began.  Counts that only sink, looked at one after
 * the other, do not add up to 0 before they do at one time.  From then on
 * whoever leaves looks, and the last one has to notice.
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

/* The counts may have wrapped; their sum has not. */
static bool is_empty(const struct qcow2_epoch *epoch)
{
	unsigned int cpu, sum = 0;

	for_each_possible_cpu(cpu)
		sum += atomic_read_acquire(per_cpu_ptr(epoch->users, cpu));
	return !sum;
}

/*
 * Some may find it empty at the same time; one of them says so.  Who looks has left,
 * and is held up by nothing; but it drains once more only after a grace period, so
 * what was seen here is not taken for what is so then.
 */
static void look(struct qcow2_epoch *epoch)
{
	struct qcow2_image *img = epoch->img;

	rcu_read_lock();
	/* The counts are those since it drains. */
	if (atomic_read_acquire(&epoch->drains) && is_empty(epoch) &&
	    atomic_cmpxchg(&epoch->drains, 1, 0) == 1)
		queue_work(img->wq, &img->release_work);
	rcu_read_unlock();
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
	/* Fully ordered: either this sees that it drains, or who says so sees this. */
	atomic_dec_return(raw_cpu_ptr(epoch->users));
	if (atomic_read(&epoch->drains))
		look(epoch);
}

static void nobody_enters(struct rcu_head *rcu)
{
	struct qcow2_epoch *epoch = container_of(rcu, struct qcow2_epoch, rcu);

	/* Who sees that sees what is to be released. */
	atomic_set_release(&epoch->drains, 1);
	/* Pairs with qcow2_epoch_exit(). */
	smp_mb();
	look(epoch);
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
 * Context: sleeps.
 */
void qcow2_epoch_destroy(struct qcow2_image *img)
{
	int i;

	/* Somebody who left may have been faster than nobody_enters(), which looks too. */
	rcu_barrier();
	for (i = 0; i < 2; i++)
		free_percpu(img->epochs[i].users);
}
