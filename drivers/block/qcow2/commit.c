// SPDX-License-Identifier: GPL-2.0-only
/*
 * The commit: how metadata changes become durable, and freed clusters free.
 */

/**
 * DOC: commit
 *
 * Metadata changes gather in dirty slices.  A commit brings those to the file that
 * are dirty when it begins, and no others, so that it ends however fast others write:
 *
 * 1. copy the dirty slices of the L1 table, then those of L2 tables; take note of the
 *    dirty refcount slices
 * 2. write the refcount slices; flush.  Guest data, COW data, refcounts and what new L2
 *    tables start with are durable now: an L2 entry changes in memory only when the data
 *    that it refers to has been written, an L1 entry when its new table has been, and
 *    a refcount is raised before both.
 * 3. write the copies; flush.
 * 4. references that were removed from tables before step 1 are durably gone.
 *    When all guest I/O that was mapped before is done, their refcounts drop.
 *
 * If there's a crash, then:
 *
 * - before or in 2: some refcounts are too high, which is a leak.  Refcounts
 *   only drop in step 4 of an earlier commit, so none is too low.
 * - in 3: some slices are new and some old.  Each entry of either refers to
 *   a cluster that is counted and has its data: those of the old ones were not
 *   freed, because that waits for 4.  An L1 entry may be there before the slices of its
 *   new table.  That is no harm: in step 2 the table became durable as zeroes, or as a copy
 *   of the table in whose place it comes (see DOC: L1 table).
 * - after 3, before the drop of refcounts has reached the file: a leak.
 *
 * So a flush of the device costs two flushes of the file, or one if no mapping
 * changed.  There may be more dirty slices than there is memory for copies;
 * then the commit goes in batches, each by the steps above, and step 4 waits
 * for the last batch.  Slices of the L1 table are in the first ones, so that a crash
 * between two batches makes no leak of the tables whose slices were written.
 *
 * A slice that changes when a commit has copied it is dirty again, for the next commit.
 * One that changes before is written as it is when it is copied: what its new entries
 * refer to is covered by the flush that follows.  For this it makes no difference that
 * slices are not copied at one moment.
 *
 * Flushes that come while a commit runs share the next one.
 *
 * With lazy refcounts the dirty bit is set in the header, durably, before the
 * first L2 entry changes.  From then on a commit leaves the refcounts out: after
 * a crash they are made anew from the tables.  They are written when they are
 * too many to keep, and at the end, before the bit is cleared.
 *
 * If writing metadata fails for want of space or memory, all that was to be
 * written is dirty again and the next commit tries again: none of the orders
 * above is broken by having written a part of it.  After any other error the image takes
 * no more writes and no more commits; what was flushed before is durable.
 */

#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/minmax.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "image.h"

/*
 * Copies that stay for the next commit until the clock finds nothing to commit: when
 * memory is short there should be many of them just then.
 */
#define COPIES_KEPT	256

/*
 * Records of references when there is no memory: one that the small ones are put
 * together in, and one that an operation has in hand meanwhile.
 */
#define DROP_POOL_MIN	2

/*
 * The commit.
 */

/* An upper bound of how many slices are in @dirty: all refcount slices that are dirty now. */
static unsigned int count_refblocks(struct qcow2_image *img,
				    struct list_head *dirty)
{
	unsigned int nr;

	mutex_lock(&img->meta_lock);
	nr = list_empty(dirty) ? 0 : img->nr_dirty_refblocks;
	mutex_unlock(&img->meta_lock);
	return nr;
}

/* Writes the refcount slices of @dirty as they are now. */
static int write_refblocks(struct qcow2_image *img, struct list_head *dirty)
{
	struct qcow2_copies *copies = &img->refblock_copies;
	LIST_HEAD(taken);
	int ret = 0;

	lockdep_assert_held(&img->commit_lock);
	qcow2_copies_stock(copies, count_refblocks(img, dirty));
	while (!ret) {
		qcow2_copies_take(img, copies, dirty, &taken);
		if (list_empty(&taken))
			break;
		ret = qcow2_copies_write(img, copies, &taken);
		qcow2_copies_put(img, copies, &taken, ret);
	}
	return ret;
}

/*
 * Notes why metadata could not be written.  Without space in the file system,
 * or memory for it, nothing is lost: what was to be written is still dirty, and
 * the next commit tries again.  After any other error nobody knows what the file
 * holds.
 */
static int commit_failed(struct qcow2_image *img, int error)
{
	lockdep_assert_held(&img->commit_lock);
	if (error == -ENOSPC || error == -ENOMEM)
		pr_err_ratelimited("qcow2: %s: no space or memory to write metadata (error %d); what was not flushed is kept in memory\n",
				   img->name, error);
	else
		img->commit_error =
			qcow2_image_fail(img, error,
					 "cannot write metadata; what was not flushed is lost");
	return error;
}

static void release_kick(struct qcow2_image *img);

/**
 * struct commit - what a commit covers
 * @l1: slices of the L1 table that were dirty when it began, and were not copied yet.
 *	Under meta_lock.
 * @l2: likewise, of L2 tables
 * @drops: references that were removed before it began
 */
struct commit {
	struct list_head l1;
	struct list_head l2;
	struct list_head drops;
};

static void begin_commit(struct qcow2_image *img, struct commit *commit)
{
	unsigned int nr;

	INIT_LIST_HEAD(&commit->l1);
	INIT_LIST_HEAD(&commit->l2);
	INIT_LIST_HEAD(&commit->drops);
	mutex_lock(&img->meta_lock);
	list_splice_init(&img->dirty_l1, &commit->l1);
	list_splice_init(&img->dirty_l2, &commit->l2);
	list_splice_init(&img->unlinked, &commit->drops);
	nr = img->nr_dirty - img->nr_dirty_refblocks;
	mutex_unlock(&img->meta_lock);
	qcow2_copies_stock(&img->table_copies, nr);
}

/* What a failed commit did not come to write stays to be written. */
static void abort_commit(struct qcow2_image *img, struct commit *commit)
{
	mutex_lock(&img->meta_lock);
	list_splice_init(&commit->l1, &img->dirty_l1);
	list_splice_init(&commit->l2, &img->dirty_l2);
	list_splice_init(&commit->drops, &img->unlinked);
	qcow2_commit_later(img);
	mutex_unlock(&img->meta_lock);
}

/* All that it covers is durable. */
static void finish_commit(struct qcow2_image *img, struct commit *commit)
{
	if (list_empty(&commit->drops))
		return;
	mutex_lock(&img->meta_lock);
	list_splice_tail_init(&commit->drops, &img->durable);
	release_kick(img);
	mutex_unlock(&img->meta_lock);
}

static void take_refblocks(struct qcow2_image *img, struct list_head *refblocks)
{
	mutex_lock(&img->meta_lock);
	list_splice_init(&img->dirty_refblocks, refblocks);
	mutex_unlock(&img->meta_lock);
}

static void give_back_refblocks(struct qcow2_image *img,
				struct list_head *refblocks)
{
	mutex_lock(&img->meta_lock);
	list_splice_init(refblocks, &img->dirty_refblocks);
	qcow2_commit_later(img);
	mutex_unlock(&img->meta_lock);
}

static int commit_batch(struct qcow2_image *img, struct commit *commit)
{
	struct qcow2_copies *copies = &img->table_copies;
	LIST_HEAD(refblocks);
	LIST_HEAD(taken);
	int ret;

	qcow2_copies_take(img, copies, &commit->l1, &taken);
	qcow2_copies_take(img, copies, &commit->l2, &taken);
	/* Behind the copies: these refcounts cover all references in them. */
	if (!test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags))
		take_refblocks(img, &refblocks);

	ret = write_refblocks(img, &refblocks);
	/* I1, I2: refcounts, data and COW data before what refers to them. */
	ret = ret ?: qcow2_flush_file(img);
	if (!ret && !list_empty(&taken)) {
		ret = qcow2_copies_write(img, copies, &taken);
		/* I3: removals before the drop of refcounts. */
		ret = ret ?: qcow2_flush_file(img);
	}
	qcow2_copies_put(img, copies, &taken, ret);
	if (ret)
		give_back_refblocks(img, &refblocks);
	return ret;
}

static bool is_done(struct qcow2_image *img, struct commit *commit)
{
	bool ret;

	mutex_lock(&img->meta_lock);
	ret = list_empty(&commit->l1) && list_empty(&commit->l2);
	mutex_unlock(&img->meta_lock);
	return ret;
}

static void trim_copies(struct qcow2_image *img, unsigned int nr)
{
	lockdep_assert_held(&img->commit_lock);
	qcow2_copies_trim(&img->table_copies, nr);
	qcow2_copies_trim(&img->refblock_copies, nr);
}

/* The clock gives those back. */
static bool has_spare_copies(struct qcow2_image *img)
{
	return img->table_copies.nr > QCOW2_COPIES_MIN ||
	       img->refblock_copies.nr > QCOW2_COPIES_MIN;
}

static int run_commit(struct qcow2_image *img)
{
	struct commit commit;
	int ret = img->commit_error;

	lockdep_assert_held(&img->commit_lock);
	if (ret)
		return ret;
	begin_commit(img, &commit);
	do {
		ret = commit_batch(img, &commit);
	} while (!ret && !is_done(img, &commit));
	if (ret)
		abort_commit(img, &commit);
	else
		finish_commit(img, &commit);
	trim_copies(img, COPIES_KEPT);
	if (has_spare_copies(img))
		qcow2_commit_later(img);
	img->commit_result = ret;
	return ret ? commit_failed(img, ret) : 0;
}

/**
 * qcow2_commit() - make everything completed so far durable
 * @img: the image
 *
 * Context: sleeps, does I/O; takes commit_lock.
 * Return: 0; -ENOSPC or -ENOMEM, then it can be tried again; or another negative
 * errno, which then stays.
 */
int qcow2_commit(struct qcow2_image *img)
{
	s64 seen;
	int ret;

	if (qcow2_image_read_only(img))
		return 0;
	/* What the caller completed comes before what a new commit copies. */
	smp_mb();
	seen = atomic64_read(&img->commits_begun);
	mutex_lock(&img->commit_lock);
	/* One that began since is done now, and had all of it. */
	if (atomic64_read(&img->commits_begun) == seen) {
		atomic64_inc(&img->commits_begun);
		ret = run_commit(img);
	} else {
		ret = img->commit_error ?: img->commit_result;
	}
	mutex_unlock(&img->commit_lock);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_commit);

static int commit_refcounts(struct qcow2_image *img)
{
	LIST_HEAD(refblocks);
	int ret = img->commit_error;

	lockdep_assert_held(&img->commit_lock);
	if (ret)
		return ret;
	take_refblocks(img, &refblocks);
	ret = write_refblocks(img, &refblocks);
	if (!ret)
		return 0;
	give_back_refblocks(img, &refblocks);
	return commit_failed(img, ret);
}

/**
 * qcow2_commit_refcounts() - write all dirty refcounts, without a flush
 * @img: the image
 *
 * May be done at any time: a refcount in memory is never lower than what the
 * tables in the file need.
 *
 * Context: sleeps, does I/O; takes commit_lock.
 * Return: 0 or a negative errno.
 */
int qcow2_commit_refcounts(struct qcow2_image *img)
{
	int ret;

	mutex_lock(&img->commit_lock);
	ret = commit_refcounts(img);
	mutex_unlock(&img->commit_lock);
	return ret;
}

/**
 * qcow2_commit_all() - as qcow2_commit(), and have all refcounts in the file
 * @img: the image
 *
 * That makes no difference but with lazy refcounts.
 *
 * Context: sleeps, does I/O; takes commit_lock.
 * Return: as qcow2_commit().
 */
int qcow2_commit_all(struct qcow2_image *img)
{
	int ret = qcow2_commit(img);

	if (!ret && test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags))
		ret = qcow2_commit_refcounts(img);
	return ret;
}

/**
 * qcow2_commit_for_room() - have fewer dirty slices than there may be
 * @img: the image
 *
 * Waits for the commit that runs, which may do already.
 *
 * Context: sleeps, does I/O; takes commit_lock.
 * Return: as qcow2_commit().
 */
int qcow2_commit_for_room(struct qcow2_image *img)
{
	int ret = 0;

	mutex_lock(&img->commit_lock);
	if (!qcow2_has_room(img)) {
		atomic64_inc(&img->commits_begun);
		ret = run_commit(img);
		if (!ret && test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags))
			ret = commit_refcounts(img);
	}
	mutex_unlock(&img->commit_lock);
	return ret;
}

/* But for refcounts that are left out of it. */
static bool nothing_to_commit(struct qcow2_image *img)
{
	bool ret;

	mutex_lock(&img->meta_lock);
	ret = list_empty(&img->dirty_l1) && list_empty(&img->dirty_l2) &&
	      list_empty(&img->unlinked) &&
	      (list_empty(&img->dirty_refblocks) ||
	       test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags));
	mutex_unlock(&img->meta_lock);
	return ret;
}

static bool is_clean(struct qcow2_image *img)
{
	bool ret;

	mutex_lock(&img->meta_lock);
	ret = !img->nr_dirty && list_empty(&img->unlinked);
	mutex_unlock(&img->meta_lock);
	return ret;
}

static void commit_by_clock(struct work_struct *work)
{
	struct qcow2_image *img = container_of(to_delayed_work(work),
					       struct qcow2_image, commit_work);

	if (READ_ONCE(img->nr_dirty) > READ_ONCE(img->max_dirty) / 2) {
		qcow2_commit_all(img);
	} else if (!nothing_to_commit(img)) {
		qcow2_commit(img);
	} else {
		mutex_lock(&img->commit_lock);
		trim_copies(img, QCOW2_COPIES_MIN);
		mutex_unlock(&img->commit_lock);
	}
}

/**
 * qcow2_commit_soon() - have a commit begin now
 * @img: the image
 *
 * Context: any.
 */
void qcow2_commit_soon(struct qcow2_image *img)
{
	mod_delayed_work(img->wq, &img->commit_work, 0);
}

/**
 * qcow2_commit_later() - have a commit some seconds from now
 * @img: the image
 *
 * Context: any.
 */
void qcow2_commit_later(struct qcow2_image *img)
{
	queue_delayed_work(img->wq, &img->commit_work,
			   QCOW2_COMMIT_SECONDS * HZ);
}

/**
 * qcow2_commit_now() - have the commit by the clock now, and wait for it
 * @img: the image
 *
 * Context: sleeps; not on the image's workqueue.
 */
void qcow2_commit_now(struct qcow2_image *img)
{
	qcow2_commit_soon(img);
	flush_delayed_work(&img->commit_work);
}

/*
 * The release of dropped references.
 */

/* Starts to wait for the I/O that may use clusters that go or are punched. */
static void release_kick(struct qcow2_image *img)
{
	bool busy, more;

	lockdep_assert_held(&img->meta_lock);
	busy = !list_empty(&img->draining) || !list_empty(&img->punching);
	more = !list_empty(&img->durable) || !list_empty(&img->punches);
	WRITE_ONCE(img->releasing, busy || more);
	if (busy || !more)
		return;
	list_splice_init(&img->durable, &img->draining);
	list_splice_init(&img->punches, &img->punching);
	qcow2_epoch_call(img, &img->release_wait);
}

/* A damaged entry may have named metadata, which must not go. */
static int check_drop(struct qcow2_image *img, u64 cluster)
{
	return qcow2_pre_write_overlap_check(img,
					     cluster << img->geo.cluster_bits,
					     img->geo.cluster_bytes,
					     QCOW2_METADATA_NONE);
}

static u64 refcount_of(const struct qcow2_geometry *geo, u64 cluster,
		       const struct qcow2_slice *slice)
{
	u32 index = cluster & (BIT_ULL(geo->refslice_bits) - 1);

	return qcow2_get_refcount(slice->data, geo->refcount_order, index);
}

static int check_counted(struct qcow2_image *img, u64 cluster,
			 struct qcow2_slice *slice)
{
	if (refcount_of(&img->geo, cluster, slice))
		return 0;
	return qcow2_refcount_is_zero(img, cluster);
}

static int refcount_is_one(struct qcow2_image *img, u64 cluster,
			   struct qcow2_slice *slice)
{
	if (refcount_of(&img->geo, cluster, slice) != 1)
		return 0;
	return check_drop(img, cluster) ?: 1;
}

/* What others refer to still does not go, metadata or not. */
static int drop_reference(struct qcow2_image *img, u64 cluster,
			  struct qcow2_slice *slice)
{
	int ret = 0;

	if (refcount_of(&img->geo, cluster, slice) <= 1)
		ret = check_drop(img, cluster);
	return ret ?: qcow2_refcount_dec(img, cluster, slice);
}

/* Likewise when the cluster was punched because this reference was the last. */
static int drop_punched(struct qcow2_image *img, u64 cluster,
			struct qcow2_slice *slice)
{
	int ret = drop_reference(img, cluster, slice);

	if (!ret)
		qcow2_fresh_again(img, cluster);
	return ret;
}

/* How many clusters from the first on follow each other and have one user. */
static u32 count_last_users(struct qcow2_image *img, const u64 *offsets,
			    u32 nr)
{
	u32 i;

	if (test_bit(QCOW2_IMAGE_NO_PASS_DISCARD, &img->flags))
		return 0;
	for (i = 0; i < nr; i++) {
		u64 expected = offsets[0] + ((u64)i << img->geo.cluster_bits);

		if (offsets[i] != expected ||
		    qcow2_with_refcount(img, expected >> img->geo.cluster_bits,
					refcount_is_one) != 1)
			break;
	}
	return i;
}

/*
 * Drops some references, and says how many.  What is about to become free is
 * punched first, while its refcount still keeps others from taking it: a hole
 * can then never hit data that was written later.  That a hole could not be
 * made costs space, and zeroes around a small write that comes to lie there.
 */
static u32 drop_references(struct qcow2_image *img, const u64 *offsets, u32 nr)
{
	u32 cluster_bits = img->geo.cluster_bits;
	u32 i, last_users = count_last_users(img, offsets, nr);
	bool punched;

	punched = last_users &&
		  !qcow2_file_punch(img->file, offsets[0],
				    (u64)last_users << cluster_bits);
	nr = max(last_users, 1U);
	for (i = 0; i < nr; i++) {
		int ret = qcow2_with_refcount(img, offsets[i] >> cluster_bits,
					      punched ? drop_punched :
							drop_reference);

		if (ret)
			pr_warn_ratelimited("qcow2: %s: the cluster at offset 0x%llx could not be freed (error %d) and is lost until 'qemu-img check -r leaks'\n",
					    img->name, offsets[i], ret);
	}
	return nr;
}

static void free_drops(struct qcow2_image *img, struct list_head *list)
{
	struct qcow2_drop *drop, *next;

	list_for_each_entry_safe(drop, next, list, link)
		qcow2_drop_free(img, drop);
	INIT_LIST_HEAD(list);
}

/*
 * In a damaged image another entry may refer to a cluster although this reference
 * was the last by its count.  So nothing is freed or punched any more: it is a leak.
 */
static bool may_release(struct qcow2_image *img)
{
	return !qcow2_image_needs_check(img);
}

/*
 * The changed refcounts must not fill the memory; they may reach the file at any
 * time from now on, since the references are durably gone.
 */
static void apply_drops(struct qcow2_image *img)
{
	struct qcow2_drop *drop;
	u32 i;

	list_for_each_entry(drop, &img->draining, link) {
		for (i = 0; i < drop->nr && may_release(img);)
			i += drop_references(img, &drop->offsets[i],
					     drop->nr - i);
		if (READ_ONCE(img->nr_dirty) > READ_ONCE(img->max_dirty))
			qcow2_commit_refcounts(img);
	}
}

/* That a hole could not be made costs space only. */
static void apply_punches(struct qcow2_image *img)
{
	struct qcow2_punch *punch;
	u32 i;

	list_for_each_entry(punch, &img->punching, link)
		for (i = 0; i < punch->nr && may_release(img); i++)
			qcow2_file_punch(qcow2_data_file(img),
					 punch->ranges[i].offset,
					 punch->ranges[i].bytes);
}

static void land_punches(struct qcow2_image *img, struct list_head *waiters)
{
	struct qcow2_punch *punch, *next;

	lockdep_assert_held(&img->meta_lock);
	list_for_each_entry_safe(punch, next, &img->punching, link) {
		qcow2_land_meta(img, &punch->meta, waiters);
		list_del(&punch->link);
		kvfree(punch);
	}
}

/* That takes its time. */
static void release_later(struct qcow2_epoch_wait *wait)
{
	struct qcow2_image *img = container_of(wait, struct qcow2_image,
					       release_wait);

	queue_work(img->wq, &img->release_work);
}

/* Runs when the old epoch's I/O is done; the lists are nobody else's until then. */
static void release_work(struct work_struct *work)
{
	struct qcow2_image *img = container_of(work, struct qcow2_image,
					       release_work);
	struct qcow2_drop *drop;
	LIST_HEAD(applied);
	LIST_HEAD(waiters);

	apply_drops(img);
	apply_punches(img);
	mutex_lock(&img->meta_lock);
	list_splice_init(&img->draining, &applied);
	list_for_each_entry(drop, &applied, link)
		WRITE_ONCE(img->nr_drops, img->nr_drops - drop->nr);
	land_punches(img, &waiters);
	list_splice_tail_init(&img->too_early, &waiters);
	release_kick(img);
	mutex_unlock(&img->meta_lock);
	free_drops(img, &applied);
	qcow2_requeue_waiters(&waiters);
	wake_up_all(&img->released);
}

/**
 * qcow2_punch_later() - give space back when nobody uses it any more
 * @img: the image
 * @punch: its meta is in flight; gone when that has landed
 *
 * The clusters read as zeroes since the same hold of meta_lock.  This need not
 * be durable: what the guest zeroed may be zero after a crash.
 *
 * Context: meta_lock held.
 */
void qcow2_punch_later(struct qcow2_image *img, struct qcow2_punch *punch)
{
	lockdep_assert_held(&img->meta_lock);
	list_add_tail(&punch->link, &img->punches);
	release_kick(img);
}

/**
 * qcow2_drop_alloc() - get a record of references to drop
 * @img: the image
 * @nr: number of clusters
 *
 * The reserve is not waited for.  It comes back when the drops in it were applied, which
 * wait for all I/O that was mapped before, and the caller may be a part of that.
 *
 * Context: may sleep.
 * Return: the record, whose offsets the caller fills in, or NULL.  Free it with
 * qcow2_drop_free() if it is not passed to qcow2_drop_later().  NULL for
 * %QCOW2_DROP_ROOM clusters or less: there will be one after qcow2_record_wait().
 */
struct qcow2_drop *qcow2_drop_alloc(struct qcow2_image *img, unsigned int nr)
{
	struct qcow2_drop *drop;
	bool pooled;

	drop = kvmalloc(struct_size(drop, offsets, nr),
			GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
	pooled = !drop && nr <= QCOW2_DROP_ROOM;
	if (pooled)
		drop = mempool_alloc(img->drop_pool, GFP_NOWAIT | __GFP_NOWARN);
	if (!drop)
		return NULL;
	drop->nr = nr;
	drop->room = pooled ? QCOW2_DROP_ROOM : nr;
	drop->pooled = pooled;
	return drop;
}

/**
 * qcow2_drop_free() - free a record of references
 * @img: the image
 * @drop: from qcow2_drop_alloc(), or NULL
 *
 * Context: may sleep.
 */
void qcow2_drop_free(struct qcow2_image *img, struct qcow2_drop *drop)
{
	if (drop && drop->pooled)
		mempool_free(drop, img->drop_pool);
	else
		kvfree(drop);
}

/**
 * qcow2_entry_clusters() - the host clusters that an L2 entry keeps in use
 * @geo: geometry
 * @word: the entry
 * @first: set to the host offset of the first one
 *
 * Return: how many, at most %QCOW2_ENTRY_CLUSTERS_MAX; none of an external data
 * file, where references are not counted.
 */
u32 qcow2_entry_clusters(const struct qcow2_geometry *geo, u64 word, u64 *first)
{
	u64 offset;
	u32 bytes;

	if (geo->has_data_file)
		return 0;
	if (!(word & QCOW2_OFLAG_COMPRESSED)) {
		*first = word & QCOW2_OFFSET_MASK;
		return *first ? 1 : 0;
	}
	qcow2_compressed_range(geo, word, &offset, &bytes);
	*first = qcow2_cluster_start(geo, offset);
	return qcow2_clusters_of(geo, qcow2_into_cluster(geo, offset) + bytes);
}

/**
 * qcow2_drop_add_entry() - put an L2 entry's references on record
 * @geo: geometry
 * @drop: the record, with room for them
 * @word: the entry
 */
void qcow2_drop_add_entry(const struct qcow2_geometry *geo,
			  struct qcow2_drop *drop, u64 word)
{
	u64 first;
	u32 i, nr = qcow2_entry_clusters(geo, word, &first);

	if (WARN_ON_ONCE(nr > drop->room - drop->nr))
		return;
	for (i = 0; i < nr; i++)
		drop->offsets[drop->nr++] = first +
					    ((u64)i << geo->cluster_bits);
}

/**
 * qcow2_check_entry_counted() - does each cluster of an L2 entry count as used?
 * @img: the image
 * @word: the entry, which is about to lose its clusters
 * @need: says what is missing after -EAGAIN
 *
 * In a damaged image the allocator may take a cluster whose refcount is 0
 * although an entry refers to it.  If the entry went then, the drop of its
 * reference would free, and punch, what was written there since.
 *
 * Context: meta_lock held.
 * Return: 0; -EAGAIN; or -EUCLEAN after the image was marked corrupt.
 */
int qcow2_check_entry_counted(struct qcow2_image *img, u64 word,
			      struct qcow2_need *need)
{
	u64 first;
	u32 i, nr = qcow2_entry_clusters(&img->geo, word, &first);
	int ret = 0;

	for (i = 0; i < nr && !ret; i++) {
		u64 cluster = (first >> img->geo.cluster_bits) + i;
		struct qcow2_slice *slice;

		ret = qcow2_used_refcount_slice(img, cluster, need, &slice);
		if (ret)
			return ret;
		ret = check_counted(img, cluster, slice);
		qcow2_slice_put(slice);
	}
	return ret;
}

/**
 * qcow2_check_table_counted() - likewise for the cluster of an L2 table
 * @img: the image
 * @offset: its host offset in bytes
 *
 * Context: sleeps, does I/O; takes meta_lock.
 * Return: 0 or a negative errno.
 */
int qcow2_check_table_counted(struct qcow2_image *img, u64 offset)
{
	return qcow2_with_refcount(img, offset >> img->geo.cluster_bits,
				   check_counted);
}

/**
 * qcow2_drop_alloc_area() - get a record of contiguous clusters to drop
 * @img: the image
 * @offset: host offset of the first in bytes
 * @nr: number of clusters
 *
 * Context: may sleep.
 * Return: as qcow2_drop_alloc(), filled in.
 */
struct qcow2_drop *qcow2_drop_alloc_area(struct qcow2_image *img, u64 offset,
					 unsigned int nr)
{
	struct qcow2_drop *drop = qcow2_drop_alloc(img, nr);
	unsigned int i;

	for (i = 0; drop && i < nr; i++)
		drop->offsets[i] = offset + ((u64)i << img->geo.cluster_bits);
	return drop;
}

/* Many small records in large memory become few. */
static bool merge_drop(struct list_head *list, const struct qcow2_drop *drop)
{
	struct qcow2_drop *last;

	if (list_empty(list))
		return false;
	last = list_last_entry(list, struct qcow2_drop, link);
	if (last->room - last->nr < drop->nr)
		return false;
	memcpy(last->offsets + last->nr, drop->offsets,
	       drop->nr * sizeof(u64));
	last->nr += drop->nr;
	return true;
}

/**
 * qcow2_drop_later() - drop references when their removal is durable
 * @img: the image
 * @drop: clusters to which a table had a reference that was removed under the
 *	same hold of meta_lock; not the caller's any more
 *
 * Context: meta_lock held.
 */
void qcow2_drop_later(struct qcow2_image *img, struct qcow2_drop *drop)
{
	lockdep_assert_held(&img->meta_lock);
	WRITE_ONCE(img->nr_drops, img->nr_drops + drop->nr);
	if (merge_drop(&img->unlinked, drop))
		qcow2_drop_free(img, drop);
	else
		list_add_tail(&drop->link, &img->unlinked);
	qcow2_commit_later(img);
}

/* Parks an operation until drops were applied, if there are more than @max. */
static int wait_for_drops(struct qcow2_image *img, struct qcow2_io *io,
			  unsigned int max)
{
	int ret = qcow2_commit(img);

	if (ret)
		return ret;
	mutex_lock(&img->meta_lock);
	/* Only if release_work() will come. */
	if (img->nr_drops > max && img->releasing) {
		list_add_tail(&io->wait, &img->too_early);
		ret = -EINPROGRESS;
	}
	mutex_unlock(&img->meta_lock);
	return ret;
}

/**
 * qcow2_drops_wait() - have an operation wait if too much is to be freed
 * @img: the image
 * @io: the operation, which holds nothing; queued again when some was freed
 *
 * Context: sleeps, does I/O.
 * Return: 0; -EINPROGRESS, then @io is not the caller's any more; or another
 * negative errno.
 */
int qcow2_drops_wait(struct qcow2_image *img, struct qcow2_io *io)
{
	if (READ_ONCE(img->nr_drops) <= QCOW2_MAX_DROPS)
		return 0;
	return wait_for_drops(img, io, QCOW2_MAX_DROPS);
}

/*
 * Others may reserve again what was given up for an operation, before it tries
 * again: they must not keep each other busy for ever.
 */
#define MAX_GIVE_WAY	8

static bool streams_give_way(struct qcow2_image *img, struct qcow2_io *io)
{
	bool ret;

	if (io->gave_way == MAX_GIVE_WAY)
		return false;
	mutex_lock(&img->meta_lock);
	ret = qcow2_streams_give_up(img);
	mutex_unlock(&img->meta_lock);
	io->gave_way += ret;
	return ret;
}

/**
 * qcow2_space_wait() - after -ENOSPC: is there space that is about to be free?
 * @img: the image
 * @io: the operation, which holds nothing; queued again when some was freed
 *
 * Context: sleeps, does I/O.
 * Return: 0 if some was freed, or is not reserved any more, then try again;
 * -EINPROGRESS, then @io is not the caller's any more; -ENOSPC if nothing is about
 * to be free; or another negative errno.
 */
int qcow2_space_wait(struct qcow2_image *img, struct qcow2_io *io)
{
	if (streams_give_way(img, io))
		return 0;
	if (!READ_ONCE(img->nr_drops))
		return -ENOSPC;
	return wait_for_drops(img, io, 0);
}

/**
 * qcow2_record_wait() - after -%QCOW2_NO_RECORD: wait until there may be one
 * @img: the image
 * @io: the operation, which holds nothing; queued again when drops were applied
 *
 * Context: sleeps, does I/O.
 * Return: 0, then try again; -EINPROGRESS, then @io is not the caller's any more; or
 * another negative errno.
 */
int qcow2_record_wait(struct qcow2_image *img, struct qcow2_io *io)
{
	if (READ_ONCE(img->nr_drops))
		return wait_for_drops(img, io, 0);
	/* Others have them in hand.  They wait for nothing that we have. */
	schedule_timeout_uninterruptible(1);
	return 0;
}

/*
 * Start and end.
 */

/**
 * qcow2_commit_init() - prepare an image for commits
 * @img: the image; its workqueue exists
 *
 * Return: 0 or -ENOMEM; qcow2_commit_destroy() is due in both cases.
 */
int qcow2_commit_init(struct qcow2_image *img)
{
	int ret;

	mutex_init(&img->commit_lock);
	INIT_LIST_HEAD(&img->dirty_l1);
	INIT_LIST_HEAD(&img->dirty_l2);
	INIT_LIST_HEAD(&img->dirty_refblocks);
	INIT_LIST_HEAD(&img->unlinked);
	INIT_LIST_HEAD(&img->durable);
	INIT_LIST_HEAD(&img->draining);
	INIT_LIST_HEAD(&img->too_early);
	INIT_LIST_HEAD(&img->punches);
	INIT_LIST_HEAD(&img->punching);
	INIT_DELAYED_WORK(&img->commit_work, commit_by_clock);
	INIT_WORK(&img->release_work, release_work);
	img->release_wait.done = release_later;
	init_waitqueue_head(&img->released);
	/* All of them, for qcow2_commit_destroy() undoes them all. */
	ret = qcow2_copies_init(&img->table_copies, img);
	ret = qcow2_copies_init(&img->refblock_copies, img) ?: ret;
	img->drop_pool = mempool_create_kmalloc_pool(DROP_POOL_MIN, PAGE_SIZE);
	if (!img->drop_pool)
		ret = -ENOMEM;
	return qcow2_epoch_init(img) ?: ret;
}

/**
 * qcow2_commit_settle() - commit until nothing is left to commit
 * @img: the image; no guest operation runs or comes meanwhile
 *
 * A commit lets references drop, which changes refcounts, which want a commit:
 * it takes two rounds.
 *
 * Context: sleeps, does I/O.
 * Return: as qcow2_commit().
 */
int qcow2_commit_settle(struct qcow2_image *img)
{
	int ret;

	do {
		ret = qcow2_commit_all(img);
		wait_event(img->released, !READ_ONCE(img->releasing));
	} while (!ret && !is_clean(img));
	return ret;
}

/**
 * qcow2_commit_stop() - commit all, and have no other commit come
 * @img: the image; no guest operation runs or will come
 *
 * Context: sleeps, does I/O.
 * Return: 0 or a negative errno.
 */
int qcow2_commit_stop(struct qcow2_image *img)
{
	int ret;

	do {
		ret = qcow2_commit_settle(img);
		/*
		 * One by the clock may have come between, and have failed, or have
		 * let references drop.
		 */
		cancel_delayed_work_sync(&img->commit_work);
		wait_event(img->released, !READ_ONCE(img->releasing));
	} while (!ret && !is_clean(img));
	/* Who dropped references wanted another one. */
	cancel_delayed_work_sync(&img->commit_work);
	if (!ret && test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags) &&
	    !qcow2_image_needs_check(img))
		ret = qcow2_flush_file(img) ?: qcow2_mark_clean(img);
	return ret;
}

static void drop_dirty(struct list_head *dirty)
{
	struct qcow2_slice *slice, *next;

	list_for_each_entry_safe(slice, next, dirty, dirty) {
		list_del_init(&slice->dirty);
		qcow2_slice_put(slice);
	}
}

/**
 * qcow2_commit_destroy() - free what qcow2_commit_init() and later use took
 * @img: the image, stopped; what is dirty still, after an error, is lost
 */
void qcow2_commit_destroy(struct qcow2_image *img)
{
	qcow2_epoch_destroy(img);
	drop_dirty(&img->dirty_l1);
	drop_dirty(&img->dirty_l2);
	drop_dirty(&img->dirty_refblocks);
	free_drops(img, &img->unlinked);
	mempool_destroy(img->drop_pool);
	qcow2_copies_destroy(&img->table_copies);
	qcow2_copies_destroy(&img->refblock_copies);
	mutex_destroy(&img->commit_lock);
}
