// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copies of dirty slices on their way to the file.
 */

/**
 * DOC: copies
 *
 * A commit writes a slice as it was at one moment, while others go on to change it.
 * So it copies the slice under meta_lock and writes the copy.  The memory for some
 * copies is always there, so that a commit needs none to go on; for more of them it is
 * got when a commit begins, as far as there is any.
 *
 * The copies are written in the order of their offsets, and those that are neighbours
 * in the file in one transfer.  All are submitted behind a plug, so that the disk below gets
 * them as lists: on null_blk with 20 us a flush takes 5.4 ms instead of 8.6 (bench
 * null20-2000, some 100 slices each time).
 */

#include <linux/atomic.h>
#include <linux/blkdev.h>
#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/gfp.h>
#include <linux/list_sort.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "image.h"

/* Slices that one transfer writes at most: 1 MiB with slices of 4 KiB. */
#define MAX_RUN		256

/* Slices that are copied under one hold of meta_lock: at most 256 KiB of them. */
#define MAX_HOLD	64

/*
 * Memory for copies at most: for 4096 slices of 4 KiB.  A commit of more slices goes in
 * batches, each of which costs two flushes of the file.
 */
#define MAX_BYTES	(18 * SZ_1M)

/* More copies than there are for sure are a convenience: no reason to search for memory. */
#define GFP_MORE	(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN)

/**
 * struct copy_batch - transfers that are waited for together
 * @pending: transfers, and one for the waiter
 * @error: of one that failed
 * @done: completes when none is pending
 */
struct copy_batch {
	atomic_t pending;
	int error;
	struct completion done;
};

/**
 * struct qcow2_copy - a slice as it was
 * @link: in a list of free copies or of those that were taken
 * @slice: the slice, with a reference
 * @data: its content
 * @fio: the transfer, of this copy and those behind it in the file
 * @bv: @data, for a transfer of this copy alone
 * @batch: whom to tell
 */
struct qcow2_copy {
	struct list_head link;
	struct qcow2_slice *slice;
	void *data;
	struct qcow2_fio fio;
	struct bio_vec bv;
	struct copy_batch *batch;
};

/*
 * Memory.
 */

static void copy_free(struct qcow2_copies *copies, struct qcow2_copy *copy)
{
	qcow2_slice_data_free(copies->img, copy->data);
	kfree(copy);
}

static struct qcow2_copy *copy_alloc(struct qcow2_copies *copies, gfp_t gfp)
{
	struct qcow2_copy *copy = kzalloc_obj(*copy, gfp);

	if (!copy)
		return NULL;
	copy->data = qcow2_slice_data_alloc(copies->img, gfp);
	if (copy->data)
		return copy;
	kfree(copy);
	return NULL;
}

static int copies_grow(struct qcow2_copies *copies, unsigned int nr, gfp_t gfp)
{
	while (copies->nr < nr) {
		struct qcow2_copy *copy = copy_alloc(copies, gfp);

		if (!copy)
			return -ENOMEM;
		list_add(&copy->link, &copies->free);
		copies->nr++;
		cond_resched();
	}
	return 0;
}

/**
 * qcow2_copies_init() - get the copies that an image has for sure
 * @copies: filled in
 * @img: the image
 *
 * Context: sleeps.
 * Return: 0 or -ENOMEM; qcow2_copies_destroy() is due in both cases.
 */
int qcow2_copies_init(struct qcow2_copies *copies,
		      const struct qcow2_image *img)
{
	*copies = (struct qcow2_copies) { .img = img };
	INIT_LIST_HEAD(&copies->free);
	return copies_grow(copies, QCOW2_COPIES_MIN, GFP_KERNEL);
}

/**
 * qcow2_copies_stock() - get more copies, as far as there is memory for them
 * @copies: where to; none of them is taken
 * @nr: how many are wanted
 *
 * With fewer there is more than one batch, and without memory for their array of
 * bvecs each copy is a transfer of its own.
 *
 * Context: sleeps; commit_lock held.
 */
void qcow2_copies_stock(struct qcow2_copies *copies, unsigned int nr)
{
	size_t each = BIT(qcow2_slice_data_bits(copies->img)) +
		      sizeof(struct qcow2_copy) + sizeof(struct bio_vec);

	copies_grow(copies, min_t(size_t, nr, MAX_BYTES / each), GFP_MORE);
	if (copies->nr <= copies->nr_bvs)
		return;
	kvfree(copies->bvs);
	copies->bvs = kvmalloc_array(copies->nr, sizeof(*copies->bvs),
				     GFP_MORE);
	copies->nr_bvs = copies->bvs ? copies->nr : 0;
}

/**
 * qcow2_copies_trim() - give memory back
 * @copies: of which; none of them is taken
 * @nr: how many may stay, at least %QCOW2_COPIES_MIN
 *
 * Context: commit_lock held.
 */
void qcow2_copies_trim(struct qcow2_copies *copies, unsigned int nr)
{
	if (copies->nr <= nr)
		return;
	kvfree(copies->bvs);
	copies->bvs = NULL;
	copies->nr_bvs = 0;
	for (; copies->nr > nr; copies->nr--) {
		struct qcow2_copy *copy = list_first_entry(&copies->free,
						struct qcow2_copy, link);

		list_del(&copy->link);
		copy_free(copies, copy);
	}
}

/**
 * qcow2_copies_destroy() - free all
 * @copies: from qcow2_copies_init(); none of them is taken
 */
void qcow2_copies_destroy(struct qcow2_copies *copies)
{
	qcow2_copies_trim(copies, 0);
	kvfree(copies->bvs);
}

/*
 * Taking copies.
 */

static void copy_take(struct qcow2_image *img, struct qcow2_copy *copy,
		      struct qcow2_slice *slice)
{
	qcow2_slice_committing(img, slice);
	copy->slice = slice;	/* with the dirty list's reference */
	memcpy(copy->data, slice->data, qcow2_slice_bytes(&img->geo));
}

/* False when one of both lists is empty. */
static bool copies_take_some(struct qcow2_image *img, struct qcow2_copies *copies,
			     struct list_head *dirty, struct list_head *taken)
{
	int i;

	lockdep_assert_held(&img->meta_lock);
	for (i = 0; i < MAX_HOLD; i++) {
		struct qcow2_copy *copy;

		if (list_empty(dirty) || list_empty(&copies->free))
			return false;
		copy = list_first_entry(&copies->free, struct qcow2_copy, link);
		copy_take(img, copy,
			  list_first_entry(dirty, struct qcow2_slice, dirty));
		list_move_tail(&copy->link, taken);
	}
	return true;
}

/**
 * qcow2_copies_take() - copy dirty slices, which are clean then
 * @img: the image
 * @copies: where to
 * @dirty: slices, from the first on
 * @taken: the copies are added here
 *
 * Takes all of @dirty, or as many as there are copies.  They are not copied at one moment,
 * but each at one, in the order of the list.
 *
 * Context: sleeps for meta_lock; commit_lock held.
 */
void qcow2_copies_take(struct qcow2_image *img, struct qcow2_copies *copies,
		       struct list_head *dirty, struct list_head *taken)
{
	bool more = true;

	lockdep_assert_held(&img->commit_lock);
	while (more) {
		mutex_lock(&img->meta_lock);
		more = copies_take_some(img, copies, dirty, taken);
		mutex_unlock(&img->meta_lock);
	}
}

static void copy_put(struct qcow2_image *img, struct qcow2_copy *copy, int error)
{
	clear_bit(QCOW2_SLICE_COMMITTING, &copy->slice->flags);
	if (error)
		qcow2_slice_not_written(img, copy->slice);
	qcow2_slice_put(copy->slice);
	copy->slice = NULL;
}

static void copies_put_some(struct qcow2_image *img, struct qcow2_copies *copies,
			    struct list_head *taken, int error)
{
	int i;

	lockdep_assert_held(&img->meta_lock);
	for (i = 0; i < MAX_HOLD && !list_empty(taken); i++) {
		struct qcow2_copy *copy = list_first_entry(taken,
						struct qcow2_copy, link);

		copy_put(img, copy, error);
		list_move(&copy->link, &copies->free);
	}
}

/**
 * qcow2_copies_put() - let go of copies that were written, or could not be
 * @img: the image
 * @copies: where they came from
 * @taken: the copies; empty afterwards
 * @error: if not 0 the slices are still different from the file
 *
 * Context: sleeps for meta_lock; commit_lock held.
 */
void qcow2_copies_put(struct qcow2_image *img, struct qcow2_copies *copies,
		      struct list_head *taken, int error)
{
	while (!list_empty(taken)) {
		mutex_lock(&img->meta_lock);
		copies_put_some(img, copies, taken, error);
		mutex_unlock(&img->meta_lock);
	}
}

/*
 * Writing them.
 */

static void copy_batch_put(struct copy_batch *batch)
{
	if (atomic_dec_and_test(&batch->pending))
		complete(&batch->done);
}

static void copy_written(struct qcow2_fio *fio)
{
	struct qcow2_copy *copy = container_of(fio, struct qcow2_copy, fio);

	if (fio->error)
		WRITE_ONCE(copy->batch->error, fio->error);
	copy_batch_put(copy->batch);
}

static void copy_submit(struct qcow2_image *img, struct qcow2_copy *copy,
			const struct bio_vec *bvs, unsigned int nr,
			struct copy_batch *batch)
{
	copy->batch = batch;
	copy->fio.file = img->file;
	copy->fio.offset = copy->slice->offset;
	copy->fio.write = true;
	copy->fio.done = copy_written;
	iov_iter_bvec(&copy->fio.iter, ITER_SOURCE, bvs, nr,
		      (size_t)nr << img->geo.slice_bits);
	atomic_inc(&batch->pending);
	qcow2_file_submit(&copy->fio);
}

static int copy_compare(void *unused, const struct list_head *a,
			const struct list_head *b)
{
	u64 x = list_entry(a, struct qcow2_copy, link)->slice->offset;
	u64 y = list_entry(b, struct qcow2_copy, link)->slice->offset;

	return x > y ? 1 : -(x < y);
}

/* How many copies from the first on follow each other in the file; fills in their bvecs. */
static unsigned int copies_find_run(struct qcow2_image *img,
				    struct qcow2_copy *copy,
				    const struct list_head *taken,
				    struct bio_vec *bvs, unsigned int max)
{
	u32 bytes = qcow2_slice_bytes(&img->geo);
	u64 next = copy->slice->offset;
	unsigned int nr = 0;

	list_for_each_entry_from(copy, taken, link) {
		if (nr == max || copy->slice->offset != next)
			break;
		bvec_set_virt(&bvs[nr++], copy->data, bytes);
		next += bytes;
	}
	return nr;
}

static void copies_submit(struct qcow2_image *img, struct qcow2_copies *copies,
			  struct list_head *taken, struct copy_batch *batch)
{
	bool merge = copies->nr_bvs >= copies->nr;
	struct bio_vec *bvs = copies->bvs;
	struct qcow2_copy *copy, *first;
	unsigned int nr, left = 0;

	list_for_each_entry(copy, taken, link) {
		if (!left) {
			first = copy;
			if (!merge)
				bvs = &copy->bv;
			nr = copies_find_run(img, copy, taken, bvs,
					     merge ? MAX_RUN : 1);
			left = nr;
		}
		if (--left)
			continue;
		copy_submit(img, first, bvs, nr, batch);
		bvs += nr;
		cond_resched();
	}
}

/**
 * qcow2_copies_write() - write copies to the file, and wait for that
 * @img: the image
 * @copies: where they came from
 * @taken: the copies; sorted by this
 *
 * Context: sleeps, does I/O; commit_lock held.
 * Return: 0 or a negative errno.
 */
int qcow2_copies_write(struct qcow2_image *img, struct qcow2_copies *copies,
		       struct list_head *taken)
{
	struct copy_batch batch = {
		.pending = ATOMIC_INIT(1),
		.done = COMPLETION_INITIALIZER_ONSTACK(batch.done),
	};
	struct blk_plug plug;

	lockdep_assert_held(&img->commit_lock);
	list_sort(NULL, taken, copy_compare);
	blk_start_plug(&plug);
	copies_submit(img, copies, taken, &batch);
	blk_finish_plug(&plug);
	copy_batch_put(&batch);
	wait_for_completion(&batch.done);
	return batch.error;
}
