// SPDX-License-Identifier: GPL-2.0-only
/*
 * The commit: how metadata changes become durable, and freed clusters free.
 */

/**
 * DOC: commit
 *
 * Metadata changes gather in dirty slices.  A commit brings them to the file:
 *
 * 1. copy the dirty L2 slices; take note of the dirty refcount slices
 * 2. write the refcount slices; flush.  Guest data, COW data and refcounts are
 *    durable now, for an L2 entry changes in memory only when the data that it
 *    refers to has been written, and a refcount is raised before that.
 * 3. write the copies of the L2 slices; flush.
 * 4. references that were removed from tables before step 1 are durably gone.
 *    When all guest I/O that was mapped before is done, their refcounts drop.
 *
 * If there's a crash, then:
 *
 * - before or in 2: some refcounts are too high, which is a leak.  Refcounts
 *   only drop in step 4 of an earlier commit, so none is too low.
 * - in 3: some L2 slices are new and some old.  Each entry of either refers to
 *   a cluster that is counted and has its data: those of the old ones were not
 *   freed, because that waits for 4.
 * - after 3, before the drop of refcounts has reached the file: a leak.
 *
 * So a flush of the device costs two flushes of the file, or one if no mapping
 * changed.  There may be more dirty L2 slices than there is memory for copies;
 * then the commit goes in batches, each by the steps above, and step 4 waits
 * for the last.
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
#include <linux/slab.h>
#include <linux/string.h>

#include "image.h"

/* Buffers that each image has for sure, for L2 and for refcount slices. */
#define COPIES_MIN	16

/* Buffers of one batch at most: 4 MiB with pages of 4 KiB. */
#define COPIES_MAX	1024

/*
 * Copies of slices on their way to the file.
 */

/**
 * struct batch - transfers that are waited for together
 * @pending: transfers, and one for the waiter
 * @error: of one that failed
 * @done: completes when none is pending
 */
struct batch {
	atomic_t pending;
	int error;
	struct completion done;
};

/**
 * struct copy - a slice as it was
 * @link: in a list of free copies or of those that a batch writes
 * @slice: the slice, with a reference
 * @data: its content
 * @fio: the transfer
 * @bv: @data, for the transfer
 * @batch: whom to tell
 */
struct copy {
	struct list_head link;
	struct qcow2_slice *slice;
	void *data;
	struct qcow2_fio fio;
	struct bio_vec bv;
	struct batch *batch;
};

static void free_copy(struct copy *copy)
{
	free_page((unsigned long)copy->data);
	kfree(copy);
}

static void free_copies(struct list_head *list)
{
	struct copy *copy, *next;

	list_for_each_entry_safe(copy, next, list, link)
		free_copy(copy);
	INIT_LIST_HEAD(list);
}

static struct copy *alloc_copy(gfp_t gfp)
{
	struct copy *copy = kzalloc_obj(*copy, gfp);

	if (!copy)
		return NULL;
	copy->data = (void *)__get_free_page(gfp);
	if (copy->data)
		return copy;
	kfree(copy);
	return NULL;
}

/* Brings @list to @nr copies, as far as there is memory. */
static int stock_copies(struct list_head *list, size_t nr, gfp_t gfp)
{
	size_t have = list_count_nodes(list);

	for (; have < nr; have++) {
		struct copy *copy = alloc_copy(gfp);

		if (!copy)
			return -ENOMEM;
		list_add(&copy->link, list);
	}
	return 0;
}

/* Moves dirty slices into free copies until one of both lists is empty. */
static void take_copies(struct qcow2_image *img, struct list_head *dirty,
			struct list_head *free, struct list_head *taken)
{
	lockdep_assert_held(&img->meta_lock);
	while (!list_empty(dirty) && !list_empty(free)) {
		struct qcow2_slice *slice = list_first_entry(dirty,
						struct qcow2_slice, dirty);
		struct copy *copy = list_first_entry(free, struct copy, link);

		list_del_init(&slice->dirty);
		WRITE_ONCE(img->nr_dirty, img->nr_dirty - 1);
		clear_bit(QCOW2_SLICE_DIRTY, &slice->flags);
		set_bit(QCOW2_SLICE_COMMITTING, &slice->flags);
		copy->slice = slice;	/* with the dirty list's reference */
		memcpy(copy->data, slice->data, qcow2_slice_bytes(&img->geo));
		list_move_tail(&copy->link, taken);
	}
}

/* With @error the slices are still different from the file. */
static void put_copies(struct qcow2_image *img, struct list_head *taken,
		       struct list_head *free, int error)
{
	struct copy *copy;

	mutex_lock(&img->meta_lock);
	list_for_each_entry(copy, taken, link) {
		clear_bit(QCOW2_SLICE_COMMITTING, &copy->slice->flags);
		if (error)
			qcow2_slice_mark_dirty(img, copy->slice);
		qcow2_slice_put(copy->slice);
		copy->slice = NULL;
	}
	mutex_unlock(&img->meta_lock);
	list_splice_init(taken, free);
}

static void batch_put(struct batch *batch)
{
	if (atomic_dec_and_test(&batch->pending))
		complete(&batch->done);
}

static void copy_written(struct qcow2_fio *fio)
{
	struct copy *copy = container_of(fio, struct copy, fio);

	if (fio->error)
		WRITE_ONCE(copy->batch->error, fio->error);
	batch_put(copy->batch);
}

static void submit_copy(struct qcow2_image *img, struct copy *copy,
			struct batch *batch)
{
	u32 bytes = qcow2_slice_bytes(&img->geo);

	copy->batch = batch;
	copy->fio.file = img->file;
	copy->fio.offset = copy->slice->offset;
	copy->fio.write = true;
	copy->fio.done = copy_written;
	bvec_set_virt(&copy->bv, copy->data, bytes);
	iov_iter_bvec(&copy->fio.iter, ITER_SOURCE, &copy->bv, 1, bytes);
	atomic_inc(&batch->pending);
	qcow2_file_submit(&copy->fio);
}

static int write_copies(struct qcow2_image *img, struct list_head *taken)
{
	struct batch batch = {
		.pending = ATOMIC_INIT(1),
		.done = COMPLETION_INITIALIZER_ONSTACK(batch.done),
	};
	struct copy *copy;

	list_for_each_entry(copy, taken, link)
		submit_copy(img, copy, &batch);
	batch_put(&batch);
	wait_for_completion(&batch.done);
	return batch.error;
}

/*
 * The commit.
 */

/* Writes the refcount slices of @dirty as they are now. */
static int write_refblocks(struct qcow2_image *img, struct list_head *dirty)
{
	LIST_HEAD(taken);
	int ret = 0;

	lockdep_assert_held(&img->commit_lock);
	while (!ret) {
		mutex_lock(&img->meta_lock);
		take_copies(img, dirty, &img->refblock_copies, &taken);
		mutex_unlock(&img->meta_lock);
		if (list_empty(&taken))
			break;
		ret = write_copies(img, &taken);
		put_copies(img, &taken, &img->refblock_copies, ret);
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

static void stock_for_batch(struct qcow2_image *img)
{
	size_t nr = clamp(READ_ONCE(img->nr_dirty), COPIES_MIN, COPIES_MAX);

	/* As many as there is memory for: a smaller batch does as well. */
	stock_copies(&img->l2_copies, nr,
		     GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);
}

static void unstock_after_batch(struct qcow2_image *img)
{
	size_t have = list_count_nodes(&img->l2_copies);

	for (; have > COPIES_MIN; have--) {
		struct copy *copy = list_first_entry(&img->l2_copies,
						     struct copy, link);

		list_del(&copy->link);
		free_copy(copy);
	}
}

/* What a failed commit did not come to write stays to be written. */
static void give_back(struct qcow2_image *img, struct list_head *refblocks,
		      struct list_head *drops)
{
	mutex_lock(&img->meta_lock);
	list_splice_init(refblocks, &img->dirty_refblocks);
	list_splice_init(drops, &img->unlinked);
	qcow2_commit_later(img);
	mutex_unlock(&img->meta_lock);
}

static void release_kick(struct qcow2_image *img);

static void drops_are_durable(struct qcow2_image *img, struct list_head *drops)
{
	mutex_lock(&img->meta_lock);
	list_splice_tail_init(drops, &img->durable);
	release_kick(img);
	mutex_unlock(&img->meta_lock);
}

static int commit_batch(struct qcow2_image *img, bool *more)
{
	LIST_HEAD(l2);
	LIST_HEAD(refblocks);
	LIST_HEAD(drops);
	int ret;

	mutex_lock(&img->meta_lock);
	take_copies(img, &img->dirty_l2, &img->l2_copies, &l2);
	if (!test_bit(QCOW2_IMAGE_MARKED_DIRTY, &img->flags))
		list_splice_init(&img->dirty_refblocks, &refblocks);
	*more = !list_empty(&img->dirty_l2);
	if (!*more)
		list_splice_tail_init(&img->unlinked, &drops);
	mutex_unlock(&img->meta_lock);

	ret = write_refblocks(img, &refblocks);
	/* I1, I2: refcounts, data and COW data before what refers to them. */
	ret = ret ?: qcow2_flush_file(img);
	if (!ret && !list_empty(&l2)) {
		ret = write_copies(img, &l2);
		/* I3: removals before the drop of refcounts. */
		ret = ret ?: qcow2_flush_file(img);
	}
	put_copies(img, &l2, &img->l2_copies, ret);
	if (ret)
		give_back(img, &refblocks, &drops);
	else if (!list_empty(&drops))
		drops_are_durable(img, &drops);
	return ret;
}

static int run_commit(struct qcow2_image *img)
{
	bool more = true;
	int ret = img->commit_error;

	lockdep_assert_held(&img->commit_lock);
	if (ret)
		return ret;
	while (more && !ret) {
		stock_for_batch(img);
		ret = commit_batch(img, &more);
		unstock_after_batch(img);
	}
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
	LIST_HEAD(refblocks);
	LIST_HEAD(none);
	int ret;

	mutex_lock(&img->commit_lock);
	mutex_lock(&img->meta_lock);
	list_splice_init(&img->dirty_refblocks, &refblocks);
	mutex_unlock(&img->meta_lock);
	ret = img->commit_error ?: write_refblocks(img, &refblocks);
	if (ret) {
		give_back(img, &refblocks, &none);
		commit_failed(img, ret);
	}
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

static void commit_by_clock(struct work_struct *work)
{
	struct qcow2_image *img = container_of(to_delayed_work(work),
					       struct qcow2_image, commit_work);

	/* Also for qcow2_commit_now(), if the limit is lower than it was. */
	if (READ_ONCE(img->nr_dirty) > READ_ONCE(img->max_dirty))
		qcow2_commit_all(img);
	else
		qcow2_commit(img);
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
	mod_delayed_work(img->wq, &img->commit_work, 0);
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
	qcow2_epoch_next(img);
}

/* Lowers a cluster's refcount, or only looks at it, loading what that needs. */
static int with_refcount(struct qcow2_image *img, u64 cluster,
			 int (*what)(struct qcow2_image *img, u64 cluster,
				     struct qcow2_slice *slice))
{
	struct qcow2_need need = {};
	struct qcow2_slice *slice;
	int ret;

	for (;;) {
		mutex_lock(&img->meta_lock);
		ret = qcow2_used_refcount_slice(img, cluster, &need, &slice);
		if (!ret) {
			ret = what(img, cluster, slice);
			qcow2_slice_put(slice);
		}
		mutex_unlock(&img->meta_lock);
		if (ret != -EAGAIN)
			break;
		ret = qcow2_need_meet(img, &need);
		if (ret)
			break;
	}
	qcow2_need_done(&need);
	return ret;
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
	int ret = check_drop(img, cluster);

	return ret ?: refcount_of(&img->geo, cluster, slice) == 1;
}

static int drop_reference(struct qcow2_image *img, u64 cluster,
			  struct qcow2_slice *slice)
{
	int ret = check_drop(img, cluster);

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
		    with_refcount(img, expected >> img->geo.cluster_bits,
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
		int ret = with_refcount(img, offsets[i] >> cluster_bits,
					punched ? drop_punched :
						  drop_reference);

		if (ret)
			pr_warn_ratelimited("qcow2: %s: the cluster at offset 0x%llx could not be freed (error %d) and is lost until 'qemu-img check -r leaks'\n",
					    img->name, offsets[i], ret);
	}
	return nr;
}

static void free_drops(struct list_head *list)
{
	struct qcow2_drop *drop, *next;

	list_for_each_entry_safe(drop, next, list, link)
		kvfree(drop);
	INIT_LIST_HEAD(list);
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
		for (i = 0; i < drop->nr;)
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
		for (i = 0; i < punch->nr; i++)
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
	free_drops(&applied);
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
 * @nr: number of clusters
 *
 * Context: may sleep.
 * Return: the record, whose offsets the caller fills in, or NULL.  Free it
 * with kvfree() if it is not passed to qcow2_drop_later().
 */
struct qcow2_drop *qcow2_drop_alloc(unsigned int nr)
{
	struct qcow2_drop *drop;

	drop = kvmalloc(struct_size(drop, offsets, nr), GFP_NOIO);
	if (!drop)
		return NULL;
	drop->nr = nr;
	drop->room = nr;
	return drop;
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
	return with_refcount(img, offset >> img->geo.cluster_bits,
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
	struct qcow2_drop *drop = qcow2_drop_alloc(nr);
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
		kvfree(drop);
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
	INIT_LIST_HEAD(&img->dirty_l2);
	INIT_LIST_HEAD(&img->dirty_refblocks);
	INIT_LIST_HEAD(&img->l2_copies);
	INIT_LIST_HEAD(&img->refblock_copies);
	INIT_LIST_HEAD(&img->unlinked);
	INIT_LIST_HEAD(&img->durable);
	INIT_LIST_HEAD(&img->draining);
	INIT_LIST_HEAD(&img->too_early);
	INIT_LIST_HEAD(&img->punches);
	INIT_LIST_HEAD(&img->punching);
	INIT_DELAYED_WORK(&img->commit_work, commit_by_clock);
	INIT_WORK(&img->release_work, release_work);
	init_waitqueue_head(&img->released);
	ret = stock_copies(&img->l2_copies, COPIES_MIN, GFP_KERNEL);
	ret = ret ?: stock_copies(&img->refblock_copies, COPIES_MIN,
				  GFP_KERNEL);
	return ret ?: qcow2_epoch_init(img);
}

static bool is_clean(struct qcow2_image *img)
{
	bool ret;

	mutex_lock(&img->meta_lock);
	ret = !img->nr_dirty && list_empty(&img->unlinked);
	mutex_unlock(&img->meta_lock);
	return ret;
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
	drop_dirty(&img->dirty_l2);
	drop_dirty(&img->dirty_refblocks);
	free_drops(&img->unlinked);
	free_copies(&img->l2_copies);
	free_copies(&img->refblock_copies);
	mutex_destroy(&img->commit_lock);
}
