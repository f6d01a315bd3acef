// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of a guest operation: from the front to the code that carries it
 * out, through its file transfers, and back.
 */

/**
 * DOC: guest operations
 *
 * The front embeds a struct qcow2_io in its request and submits it.  An
 * operation that is simple goes to the file at once, see DOC: fast path.  Any
 * other runs on a workqueue of the image, where it is cut into parts that are
 * one file transfer each.  Parts are submitted without waiting for them; the
 * operation holds a count of them, and one for whoever still adds parts, and
 * is done when the count drops to zero.  The first part is embedded in the
 * operation, further ones come from a mempool, to which every part returns
 * without help of that workqueue.
 */

#include <linux/atomic.h>
#include <linux/bug.h>
#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/sched/isolation.h>
#include <linux/sched/mm.h>
#include <linux/sched/prio.h>
#include <linux/slab.h>
#include <linux/smp.h>

#include "image.h"

#define PART_POOL_MIN	64

/**
 * qcow2_io_init() - reserve memory for an image's parts
 * @img: the image
 *
 * Return: 0 or -ENOMEM; qcow2_io_exit() is due in both cases.
 */
int qcow2_io_init(struct qcow2_image *img)
{
	img->part_pool = mempool_create_kmalloc_pool(PART_POOL_MIN,
						     sizeof(struct qcow2_part));
	return img->part_pool ? 0 : -ENOMEM;
}

/**
 * qcow2_io_exit() - give that memory back
 * @img: the image; no operation runs
 */
void qcow2_io_exit(struct qcow2_image *img)
{
	WARN_ON_ONCE(atomic_read(&img->queued_writes));
	mempool_destroy(img->part_pool);
}

/**
 * qcow2_io_set_error() - note that an operation failed
 * @io: the operation
 * @error: negative errno; the first one stays
 *
 * Context: any.
 */
void qcow2_io_set_error(struct qcow2_io *io, int error)
{
	if (error)
		cmpxchg(&io->error, 0, error);
}

/**
 * qcow2_io_get() - one thing more to wait for
 * @io: the operation
 */
void qcow2_io_get(struct qcow2_io *io)
{
	atomic_inc(&io->pending);
}

static void commit_io(struct work_struct *work)
{
	struct qcow2_io *io = container_of(work, struct qcow2_io, work);

	qcow2_io_set_error(io, qcow2_commit(io->img));
	io->done(io);
}

/**
 * qcow2_io_put() - one thing less to wait for
 * @io: the operation, which may be gone after this
 *
 * Context: any.
 */
void qcow2_io_put(struct qcow2_io *io)
{
	if (!atomic_dec_and_test(&io->pending))
		return;
	if (io->queued)
		atomic_dec(&io->img->queued_writes);
	if (io->must_commit && !io->error) {
		INIT_WORK(&io->work, commit_io);
		queue_work(io->img->wq, &io->work);
	} else {
		io->done(io);
	}
}

/**
 * qcow2_part_alloc() - get a part for an operation
 * @io: the operation
 *
 * Context: may sleep until other parts are done.
 * Return: the part; set are its operation, whose priority its transfer has, and that
 * this may wait and need not be durable.
 */
struct qcow2_part *qcow2_part_alloc(struct qcow2_io *io)
{
	struct qcow2_part *part = &io->part;

	if (io->part_taken)
		part = mempool_alloc(io->img->part_pool, GFP_NOIO);
	io->part_taken = true;
	part->io = io;
	part->fio.ioprio = io->ioprio;
	part->fio.dsync = false;
	part->fio.nowait = false;
	return part;
}

/**
 * qcow2_part_free() - give a part back
 * @part: from qcow2_part_alloc(); its transfer has ended
 *
 * Context: any.
 */
void qcow2_part_free(struct qcow2_part *part)
{
	struct qcow2_io *io = part->io;

	if (part != &io->part)
		mempool_free(part, io->img->part_pool);
}

static void part_done(struct qcow2_fio *fio)
{
	struct qcow2_part *part = container_of(fio, struct qcow2_part, fio);
	struct qcow2_io *io = part->io;

	qcow2_io_set_error(io, fio->error);
	qcow2_epoch_exit(part->epoch);
	qcow2_part_free(part);
	qcow2_io_put(io);
}

/**
 * qcow2_part_start() - start a part's transfer
 * @part: with its operation, its epoch, fio.ioprio, fio.dsync and fio.nowait set
 * @file: the file
 * @host_offset: byte offset in it
 * @data: bvecs to read into or to write from, as the operation says
 * @done: as that of struct qcow2_fio; the part may be gone when this returns
 *
 * Context: may sleep, see qcow2_file_submit().
 */
void qcow2_part_start(struct qcow2_part *part, struct qcow2_file *file,
		      u64 host_offset, const struct iov_iter *data,
		      void (*done)(struct qcow2_fio *fio))
{
	part->fio.file = file;
	part->fio.offset = host_offset;
	part->fio.iter = *data;
	part->fio.write = part->io->op != QCOW2_OP_READ;
	part->fio.done = done;
	qcow2_file_submit(&part->fio);
}

/**
 * qcow2_part_submit() - transfer the next bytes of an operation
 * @part: from qcow2_part_alloc(), with its epoch set
 * @file: the file
 * @host_offset: where they are in the file
 * @bytes: how many
 *
 * Does not advance the operation.
 *
 * Context: may sleep.
 */
void qcow2_part_submit(struct qcow2_part *part, struct qcow2_file *file,
		       u64 host_offset, size_t bytes)
{
	struct iov_iter data;

	qcow2_io_slice_iter(part->io, bytes, &data);
	qcow2_io_get(part->io);
	qcow2_part_start(part, file, host_offset, &data, part_done);
}

/**
 * qcow2_io_slice_iter() - the next bytes of an operation's data
 * @io: the operation
 * @bytes: how many
 * @iter: set to them
 */
void qcow2_io_slice_iter(const struct qcow2_io *io, size_t bytes,
			 struct iov_iter *iter)
{
	*iter = io->iter;
	iov_iter_truncate(iter, bytes);
}

/**
 * qcow2_io_zero() - the next bytes of a read's data are zeroes
 * @io: the operation, which is not advanced
 * @bytes: how many
 */
void qcow2_io_zero(const struct qcow2_io *io, size_t bytes)
{
	struct iov_iter iter;

	qcow2_io_slice_iter(io, bytes, &iter);
	iov_iter_zero(bytes, &iter);
}

/**
 * qcow2_io_advance() - go on behind bytes that are taken care of
 * @io: the operation
 * @bytes: how many
 */
void qcow2_io_advance(struct qcow2_io *io, size_t bytes)
{
	io->offset += bytes;
	iov_iter_advance(&io->iter, bytes);
}

static void run_io(struct work_struct *work)
{
	struct qcow2_io *io = container_of(work, struct qcow2_io, work);
	unsigned int noio = memalloc_noio_save();

	switch (io->op) {
	case QCOW2_OP_READ:
		qcow2_read(io);
		break;
	case QCOW2_OP_WRITE:
		qcow2_write(io);
		break;
	case QCOW2_OP_DISCARD:
		qcow2_discard(io);
		break;
	case QCOW2_OP_WRITE_ZEROES:
		qcow2_write_zeroes(io);
		break;
	case QCOW2_OP_FLUSH:
		qcow2_io_set_error(io, qcow2_commit(io->img));
		qcow2_io_put(io);
		break;
	}
	memalloc_noio_restore(noio);
}

/*
 * Such may wait without sleep: io_uring's thread that polls, and who runs before others,
 * be it by priority or by a deadline.
 */
static bool may_keep_cpu(void)
{
	return in_task() && (current->prio < MAX_RT_PRIO ||
			     (current->flags & PF_IO_WORKER));
}

/*
 * Who submits one write after the other sleeps meanwhile, so it may as well run here.
 * For several another CPU is found, if there is one.
 */
static unsigned int cpu_of_write(const struct qcow2_image *img)
{
	unsigned int here = raw_smp_processor_id(), next;

	if (atomic_read(&img->queued_writes) <= 1 && !may_keep_cpu())
		return here;
	next = cpumask_next(here, cpu_online_mask);
	return next < nr_cpu_ids ? next : cpumask_first(cpu_online_mask);
}

static void queue_write(struct qcow2_io *io)
{
	struct qcow2_image *img = io->img;
	unsigned int cpu;

	if (!io->queued)
		atomic_inc(&img->queued_writes);
	io->queued = true;
	cpu = cpu_of_write(img);
	if (housekeeping_cpu(cpu, HK_TYPE_DOMAIN))
		queue_work_on(cpu, img->write_wq, &io->work);
	else
		queue_work(img->wq, &io->work);
}

/**
 * qcow2_io_queue() - run an operation (again) on a workqueue
 * @io: the operation
 *
 * Writes that change mappings meet in the locks of the image and of the file
 * system.  One after the other they take half the time that they take side by
 * side, and one worker that is awake is cheaper than many that are woken.  So they
 * go to a workqueue that runs one at a time on a CPU, as long as that one does not
 * sleep: another CPU than that of who submits more of them meanwhile, unless it is
 * kept free of such work (isolcpus).  A write that is alone stays where it is, as no
 * CPU has to be woken for it then.
 *
 * Context: any.
 */
void qcow2_io_queue(struct qcow2_io *io)
{
	if (io->op == QCOW2_OP_WRITE)
		queue_write(io);
	else
		queue_work(io->img->wq, &io->work);
}

/**
 * qcow2_io_submit() - start an operation
 * @io: filled in by the caller as the structure says
 *
 * Context: may sleep, see qcow2_fast_submit(); not with @io->by_worker.
 */
void qcow2_io_submit(struct qcow2_io *io)
{
	io->error = 0;
	io->must_commit = false;
	io->part_taken = false;
	io->queued = false;
	io->lacks_space = false;
	io->gave_way = 0;
	atomic_set(&io->pending, 1);
	INIT_LIST_HEAD(&io->wait);
	INIT_WORK(&io->work, run_io);
	if (io->by_worker || !qcow2_fast_submit(io))
		qcow2_io_queue(io);
}
