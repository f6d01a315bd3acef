// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads and writes that need no worker.
 */

/**
 * DOC: fast path
 *
 * An operation that is one extent of data in the file, as far as the caches know,
 * goes to the file in the context of who submitted it.  That takes no lock, no
 * memory, and no reference but to the epoch, which is counted for each CPU.  A read
 * of one extent of zeroes is done there and then.
 *
 * The mapping is looked up under RCU, without a reference to the slice.  The
 * slice may be dropped from the cache meanwhile, and the same table may be read
 * anew and changed there: then this operation runs beside the one that changed
 * it, and the clusters that it found are pinned by its epoch (invariant I4).
 *
 * A write must not change a mapping, so all its clusters have to be NORMAL and
 * COPIED.  Nobody who has a struct qcow2_l2_meta in flight copies to or zeroes
 * subclusters that are NORMAL, so there is nobody to wait for.  That no metadata
 * lies there (invariant I8) was seen for all of the slice by qcow2_vet_slice(),
 * and no metadata has got a new place since.  The write that had it done has
 * also done what comes before the first change of an image, but for what its file
 * needs before it is written to: qcow2_file_has() tells whether that is over.
 *
 * Metadata that moves after that look is a matter of damaged images only: it moves
 * to a free cluster, and what an entry refers to is none.
 *
 * Whatever is not that simple runs on the workqueue; so does a transfer for
 * which the file system would have to wait, as it would for its journal with FUA.
 *
 * Where the file system has to find space first, in holes and in what it holds as
 * unwritten, each write would be tried in vain, and the tries take the locks that
 * those who find the space need.  So when writes have to wait one after the other,
 * more and more are not tried, until one of those that are goes through.  Not so in the
 * tick in which that begins, for it may be a matter of a moment: ext4 has to wait, say,
 * to note the time of a write, once a tick.
 */

#include <linux/atomic.h>
#include <linux/errno.h>
#include <linux/jiffies.h>
#include <linux/minmax.h>
#include <linux/uio.h>

#include "image.h"

/* No more writes than these are not tried before one is. */
#define MOST_UNTRIED	63U

static void went_through(struct qcow2_image *img)
{
	if (!READ_ONCE(img->waits_since))
		return;
	WRITE_ONCE(img->waits_since, 0);
	WRITE_ONCE(img->next_untried, 0);
	atomic_set(&img->untried, 0);
}

static void would_wait(struct qcow2_image *img)
{
	unsigned int next = READ_ONCE(img->next_untried);
	unsigned long since = READ_ONCE(img->waits_since);

	if (!since)
		WRITE_ONCE(img->waits_since, jiffies);
	if (!since || !time_after(jiffies, since))
		return;
	atomic_set(&img->untried, next);
	WRITE_ONCE(img->next_untried, min(2 * next + 1, MOST_UNTRIED));
}

/* Counts are for all CPUs and may be off by some; nothing depends on them but speed. */
static bool is_worth_a_try(struct qcow2_image *img)
{
	return !atomic_read(&img->untried) ||
	       atomic_dec_if_positive(&img->untried) < 0;
}

static void fast_done(struct qcow2_fio *fio)
{
	struct qcow2_part *part = container_of(fio, struct qcow2_part, fio);
	struct qcow2_io *io = part->io;

	qcow2_epoch_exit(part->epoch);
	if (fio->error == -EAGAIN) {
		if (fio->write)
			would_wait(io->img);
		qcow2_io_queue(io);
		return;
	}
	if (fio->write)
		went_through(io->img);
	io->error = fio->error;
	io->done(io);
}

static bool may_write(const struct qcow2_io *io)
{
	return !io->fua && !qcow2_image_read_only(io->img) &&
	       !qcow2_image_needs_check(io->img);
}

static bool may_be_fast(const struct qcow2_io *io)
{
	if (!qcow2_file_can_nowait(qcow2_data_file(io->img)))
		return false;
	return io->op == QCOW2_OP_READ ||
	       (io->op == QCOW2_OP_WRITE && may_write(io));
}

static int find_extent(const struct qcow2_io *io, struct qcow2_extent *extent)
{
	u64 bytes = iov_iter_count(&io->iter);
	int ret;

	if (!bytes)
		return -EAGAIN;
	if (io->op == QCOW2_OP_READ)
		ret = qcow2_resolve_cached(io->img, io->offset, bytes, extent);
	else
		ret = qcow2_map_own_cached(io->img, io->offset, bytes, extent);
	if (ret)
		return ret;
	return extent->bytes < bytes ? -EAGAIN : 0;
}

/* The extent may be in a layer's file. */
static bool file_is_ready(const struct qcow2_io *io,
			  const struct qcow2_extent *extent)
{
	struct qcow2_file *file = qcow2_data_file(extent->img);
	u64 end = extent->host_offset + extent->bytes;

	if (!qcow2_file_can_nowait(file))
		return false;
	/*
	 * To make the file longer takes locks, and is for those who also see to
	 * it that the cluster never counts as fresh again.
	 */
	return io->op == QCOW2_OP_READ ||
	       (qcow2_file_has(file, end) && !qcow2_file_is_limited(file, end));
}

static void submit(struct qcow2_io *io, struct qcow2_epoch *epoch,
		   const struct qcow2_extent *extent)
{
	struct qcow2_part *part = &io->part;

	part->io = io;
	part->epoch = epoch;
	part->fio.ioprio = io->ioprio;
	part->fio.dsync = false;
	part->fio.nowait = true;
	qcow2_part_start(part, qcow2_data_file(extent->img),
			 extent->host_offset, &io->iter, fast_done);
}

/* Takes over operation and epoch, or does nothing and returns false. */
static bool carry_out(struct qcow2_io *io, struct qcow2_epoch *epoch,
		      const struct qcow2_extent *extent)
{
	if (qcow2_reads_zero(extent)) {
		qcow2_epoch_exit(epoch);
		qcow2_io_zero(io, iov_iter_count(&io->iter));
		io->done(io);
		return true;
	}
	if (extent->type != QCOW2_SUBCLUSTER_NORMAL ||
	    !file_is_ready(io, extent))
		return false;
	if (io->op == QCOW2_OP_WRITE && !is_worth_a_try(io->img))
		return false;
	submit(io, epoch, extent);
	return true;
}

/**
 * qcow2_fast_submit() - start an operation without a worker, if that can be
 * @io: the operation
 *
 * Context: may sleep as the file system does with IOCB_NOWAIT: for memory, for its
 * metadata, and for its journal when it notes the time of a read.
 * Return: true if @io is not the caller's any more; false if nothing was done.
 */
bool qcow2_fast_submit(struct qcow2_io *io)
{
	struct qcow2_extent extent;
	struct qcow2_epoch *epoch;

	if (!may_be_fast(io))
		return false;
	epoch = qcow2_epoch_enter(io->img);
	if (!find_extent(io, &extent) && carry_out(io, epoch, &extent))
		return true;
	qcow2_epoch_exit(epoch);
	return false;
}
