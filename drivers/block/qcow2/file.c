// SPDX-License-Identifier: GPL-2.0-only
/*
 * The image file in the kernel: a struct file, used with kiocbs.
 */

/**
 * DOC: image file
 *
 * A transfer is one kiocb, with direct I/O asynchronous, else completed by the
 * time that it was submitted.  File systems may transfer less than asked; the
 * rest is then submitted by the image's workqueue, because completion runs in
 * any context.  What a read finds past the end of the file is zeroes: an image
 * need not be as long as its last cluster.
 *
 * Everything that calls into the file system runs without __GFP_IO, since the
 * file system may otherwise wait for writeback to the very device that is
 * being served, and with PF_LOCAL_THROTTLE, so that buffered writes are not
 * throttled for the dirty pages of that device.
 *
 * A direct write behind the end of a file has it to itself until it is done.
 * So the file of an image that allocates is made longer in large steps, ahead of
 * the writes, by a hole, and is cut to where they ended when it is closed.  To
 * everybody else it ends there all the time.  After a crash it stays too long,
 * which costs nothing but that what is taken there later is not known to be zero.
 */

#include <linux/atomic.h>
#include <linux/blkdev.h>
#include <linux/cache.h>
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/stat.h>
#include <linux/string.h>

#include "image.h"

/* Less than this is written as zeroes rather than left to the file system. */
#define ZERO_RANGE_MIN	SZ_128K

/* A file that is made longer gets this much ahead of the write, or up to twice that. */
#define AHEAD_BYTES	SZ_64M

/**
 * struct qcow2_file - an open image file
 * @filp: the file
 * @inode: that of its page cache
 * @wq: where the rest of a short transfer is submitted
 * @flags: enum qcow2_file_flags
 * @wb_err: state of the page cache's errors when the file was opened
 * @flush_failed: what was written may be lost; each flush fails from then on
 * @align: offset, length and memory of a transfer are multiples of this
 * @cannot_punch: its file system has no holes
 * @cannot_zero: its file system cannot zero a range
 * @can_nowait: a transfer may be asked not to wait
 * @ahead: with %QCOW2_FILE_AHEAD: the file may be longer than what was written
 * @end: if @ahead: where the file would end if it were not, or will when the
 *	writes that run are done; only grows.  Apart from the members that are only
 *	read.
 * @ahead_lock: protects the members below; outside the locks of the
 *	file system, not taken by who holds back a freeze of it
 * @ahead_bytes: length that the file was given in advance, 0 if none
 * @cannot_grow: that was refused; set once
 * @ends_with_a_block: its length was made a multiple of the file system's block, or
 *	that was refused; set once
 */
struct qcow2_file {
	struct file *filp;
	struct inode *inode;
	struct workqueue_struct *wq;
	unsigned int flags;
	errseq_t wb_err;
	bool flush_failed;
	unsigned int align;
	bool cannot_punch;
	bool cannot_zero;
	bool can_nowait;
	bool ahead;
	atomic64_t end ____cacheline_aligned_in_smp;
	struct mutex ahead_lock;
	u64 ahead_bytes;
	bool cannot_grow;
	bool ends_with_a_block;
};

/*
 * Calling into the file system.
 */

#define IO_TASK_FLAGS	(PF_LOCAL_THROTTLE | PF_MEMALLOC_NOIO)

/*
 * struct saved_task - what was changed in the task
 * @flags: those of IO_TASK_FLAGS that it had
 * @bios: its list of bios, if it submits one to the device that we serve: those
 *	that the file system submits meanwhile would lie there until that is done,
 *	and it may wait for one (of its own metadata, also with IOCB_NOWAIT)
 */
struct saved_task {
	unsigned int flags;
	struct bio_list *bios;
};

/* Of IO_TASK_FLAGS, those in @flags are to be set, and the others not. */
static void set_task_flags(unsigned int flags)
{
	/*
	 * Only the task changes its flags. An interrupt may read others of them
	 * meanwhile, or change one and change it back.
	 */
	data_race(current->flags = (current->flags & ~IO_TASK_FLAGS) | flags);
}

static struct saved_task enter_fs(void)
{
	struct saved_task old = {
		/* See set_task_flags(). */
		.flags = data_race(current->flags) & IO_TASK_FLAGS,
		.bios = current->bio_list,
	};

	set_task_flags(IO_TASK_FLAGS);
	current->bio_list = NULL;
	return old;
}

static void leave_fs(struct saved_task old)
{
	current->bio_list = old.bios;
	set_task_flags(old.flags);
}

/*
 * The file's length.
 */

/* With the rights of whoever opened it, as the transfers. */
static int set_length(struct qcow2_file *file, u64 bytes)
{
	const struct cred *cred = override_creds(file->filp->f_cred);
	struct saved_task old = enter_fs();
	int ret = vfs_truncate(&file->filp->f_path, bytes);

	leave_fs(old);
	revert_creds(cred);
	return ret;
}

/*
 * That it cannot be done costs time only: then each write makes the file longer, and
 * may have it end within a block, so it stays that way (see end_with_a_block()).
 * A process that must not write files so long would be sent a signal.  A file system
 * without holes may have taken space before it failed.
 */
static void set_length_ahead(struct qcow2_file *file, u64 bytes)
{
	u64 before = i_size_read(file->inode);

	lockdep_assert_held(&file->ahead_lock);
	if (bytes <= rlimit(RLIMIT_FSIZE) && !set_length(file, bytes)) {
		file->ahead_bytes = bytes;
		return;
	}
	file->cannot_grow = true;
	if (i_size_read(file->inode) > before && set_length(file, before))
		file->ahead_bytes = i_size_read(file->inode);
}

/*
 * Where a file ends in the middle of a block, making it longer has the file system
 * zero the rest of that in the page cache, while others may write to the block
 * directly.  So that is done before anything is written to the file.
 */
static void end_with_a_block(struct qcow2_file *file)
{
	u64 bytes, aligned;

	mutex_lock(&file->ahead_lock);
	if (!file->ends_with_a_block) {
		bytes = i_size_read(file->inode);
		aligned = round_up(bytes, i_blocksize(file->inode));
		if (aligned > bytes)
			set_length_ahead(file, aligned);
		/* Pairs with reach() and qcow2_file_has(): who sees it sees the length. */
		smp_store_release(&file->ends_with_a_block, true);
	}
	mutex_unlock(&file->ahead_lock);
}

static void grow_ahead(struct qcow2_file *file, u64 end)
{
	u64 bytes = min(round_up(end, AHEAD_BYTES) + AHEAD_BYTES,
			qcow2_file_max_bytes(file));

	mutex_lock(&file->ahead_lock);
	if (end > i_size_read(file->inode) && !file->cannot_grow)
		set_length_ahead(file, bytes);
	mutex_unlock(&file->ahead_lock);
}

/*
 * A transfer is about to write up to there.  Only when the file is as long as it is
 * going to be may others trust that it is.
 */
static void reach(struct qcow2_file *file, u64 end)
{
	s64 old = atomic64_read(&file->end);

	/* Pairs with that of end_with_a_block(). */
	if (!smp_load_acquire(&file->ends_with_a_block))
		end_with_a_block(file);
	if (end > i_size_read(file->inode))
		grow_ahead(file, end);
	while (end > old && !atomic64_try_cmpxchg(&file->end, &old, end))
		;
}

/* If somebody else has changed the length since, it is not ours to change. */
static void cut_ahead(struct qcow2_file *file)
{
	u64 end = atomic64_read(&file->end);

	if (file->ahead_bytes > end &&
	    file->ahead_bytes == i_size_read(file->inode))
		set_length(file, end);
}

/*
 * One transfer.
 */

/*
 * Some errors mean something of ours to those who get them: that an operation
 * goes on elsewhere, that a step is to be taken again, that the image is
 * damaged.  From the file they are I/O errors like others.
 */
static int plain_error(int error)
{
	switch (error) {
	case -EINPROGRESS:
	case -EAGAIN:
	case -EUCLEAN:
		return -EIO;
	case -EDQUOT:
		return -ENOSPC;
	default:
		return error;
	}
}

/*
 * What fails for who must not wait need not fail for a worker, whatever it is: the task
 * that submitted the request may be about to be killed, say, and get no memory; or what
 * lies below became a device that always waits (-EOPNOTSUPP).
 */
static void finish(struct qcow2_fio *fio, int error)
{
	fio->error = error && fio->nowait ? -EAGAIN : plain_error(error);
	fio->done(fio);
}

static void zero_rest(struct qcow2_fio *fio)
{
	struct iov_iter rest = fio->iter;

	iov_iter_advance(&rest, fio->transferred);
	iov_iter_zero(iov_iter_count(&rest), &rest);
	finish(fio, 0);
}

/* Lets the workqueue submit what is left; false if nothing new was moved. */
static bool continue_later(struct qcow2_fio *fio, size_t moved)
{
	size_t before = fio->transferred - moved;

	fio->transferred = round_down(fio->transferred, fio->file->align);
	if (fio->transferred <= before)
		return false;
	queue_work(fio->file->wq, &fio->work);
	return true;
}

/* The file ended there; it may have grown since, by what others wrote. */
static bool read_to_end(const struct qcow2_fio *fio, long moved)
{
	return !moved || fio->offset + fio->transferred >=
			 i_size_read(fio->file->inode);
}

static void transfer_done(struct qcow2_fio *fio, long ret)
{
	if (ret < 0) {
		finish(fio, ret);
		return;
	}
	fio->transferred += ret;
	if (fio->transferred == iov_iter_count(&fio->iter))
		finish(fio, 0);
	else if (!fio->write && read_to_end(fio, ret))
		zero_rest(fio);
	else if (!continue_later(fio, ret))
		finish(fio, fio->write ? -ENOSPC : -EIO);
}

static bool takes_part_in_freezing(const struct qcow2_fio *fio)
{
	return fio->write && S_ISREG(fio->file->inode->i_mode);
}

/*
 * File systems look at the kiocb after they have submitted its bio (ext4 for the
 * file whose access time is due), so it has to last until they return, too.
 */
static void put_transfer(struct qcow2_fio *fio)
{
	if (atomic_dec_and_test(&fio->users))
		transfer_done(fio, fio->result);
}

static void kiocb_done(struct kiocb *iocb, long ret)
{
	struct qcow2_fio *fio = container_of(iocb, struct qcow2_fio, iocb);

	if (takes_part_in_freezing(fio))
		kiocb_end_write(iocb);
	fio->result = ret;
	put_transfer(fio);
}

static void init_kiocb(struct qcow2_fio *fio)
{
	struct kiocb *iocb = &fio->iocb;

	memset(iocb, 0, sizeof(*iocb));
	iocb->ki_filp = fio->file->filp;
	iocb->ki_pos = fio->offset + fio->transferred;
	iocb->ki_ioprio = fio->ioprio;
	if (fio->file->flags & QCOW2_FILE_DIRECT) {
		iocb->ki_flags |= IOCB_DIRECT;
		iocb->ki_complete = kiocb_done;
	}
	if (fio->dsync)
		iocb->ki_flags |= IOCB_DSYNC;
	if (fio->nowait)
		iocb->ki_flags |= IOCB_NOWAIT;
}

/* As kiocb_start_write(), which waits for a file system that is frozen. */
static bool start_write(struct qcow2_fio *fio)
{
	struct super_block *sb = fio->file->inode->i_sb;

	if (!takes_part_in_freezing(fio))
		return true;
	if (!fio->nowait) {
		kiocb_start_write(&fio->iocb);
		return true;
	}
	if (!sb_start_write_trylock(sb))
		return false;
	/* Whoever completes the transfer lets go. */
	__sb_writers_release(sb, SB_FREEZE_WRITE);
	return true;
}

/* What an image says may be no offset that a file can have. */
static bool offset_is_sane(const struct qcow2_fio *fio)
{
	u64 bytes = iov_iter_count(&fio->iter);

	return fio->offset < QCOW2_MAX_HOST_OFFSET &&
	       bytes <= QCOW2_MAX_HOST_OFFSET - fio->offset;
}

static void issue(struct qcow2_fio *fio)
{
	const struct file_operations *fop = fio->file->filp->f_op;
	struct saved_task old;
	ssize_t ret;

	fio->rest = fio->iter;
	iov_iter_advance(&fio->rest, fio->transferred);
	init_kiocb(fio);
	if (fio->write && !fio->nowait && fio->file->ahead)
		reach(fio->file, fio->offset + iov_iter_count(&fio->iter));
	if (!start_write(fio)) {
		finish(fio, -EAGAIN);
		return;
	}
	/* This function and the transfer. */
	atomic_set(&fio->users, 2);
	old = enter_fs();
	if (fio->write)
		ret = fop->write_iter(&fio->iocb, &fio->rest);
	else
		ret = fop->read_iter(&fio->iocb, &fio->rest);
	leave_fs(old);
	if (ret != -EIOCBQUEUED)
		kiocb_done(&fio->iocb, ret);
	put_transfer(fio);
}

static void issue_work(struct work_struct *work)
{
	struct qcow2_fio *fio = container_of(work, struct qcow2_fio, work);

	fio->nowait = false;
	issue(fio);
}

/**
 * qcow2_file_submit() - start a transfer
 * @fio: filled in by the caller as the structure says; must stay until done
 *
 * Context: may sleep (page cache, allocations of the file system).
 */
void qcow2_file_submit(struct qcow2_fio *fio)
{
	INIT_WORK(&fio->work, issue_work);
	fio->transferred = 0;
	if (offset_is_sane(fio))
		issue(fio);
	else
		finish(fio, -EIO);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_file_submit);

struct sync_fio {
	struct qcow2_fio fio;
	struct completion done;
};

static void sync_done(struct qcow2_fio *fio)
{
	complete(&container_of(fio, struct sync_fio, fio)->done);
}

/**
 * qcow2_file_rw() - transfer and wait
 * @file: the file
 * @write: direction
 * @offset: byte offset in the file
 * @iter: bvecs; not changed
 *
 * Context: sleeps.
 * Return: 0 or a negative errno.
 */
int qcow2_file_rw(struct qcow2_file *file, bool write, u64 offset,
		  struct iov_iter *iter)
{
	struct sync_fio sync = {
		.fio = {
			.file = file,
			.offset = offset,
			.iter = *iter,
			.write = write,
			.done = sync_done,
		},
		.done = COMPLETION_INITIALIZER_ONSTACK(sync.done),
	};

	if (!offset_is_sane(&sync.fio))
		return -EIO;
	INIT_WORK_ONSTACK(&sync.fio.work, issue_work);
	issue(&sync.fio);
	wait_for_completion(&sync.done);
	destroy_work_on_stack(&sync.fio.work);
	return sync.fio.error;
}

static int allocate(struct qcow2_file *file, int mode, u64 offset, u64 bytes)
{
	struct saved_task old = enter_fs();
	int ret = vfs_fallocate(file->filp, mode | FALLOC_FL_KEEP_SIZE, offset,
				bytes);

	leave_fs(old);
	return ret;
}

/**
 * qcow2_file_make_zero() - have a part of the file read as zeroes
 * @file: the file
 * @offset: byte offset, aligned
 * @bytes: length, aligned
 *
 * By a call to the file system for what is long enough to be worth it, since
 * that waits for all transfers of the file; by writing for the rest.
 *
 * Context: sleeps; allocates nothing of its own.
 * Return: 0 or a negative errno.
 */
int qcow2_file_make_zero(struct qcow2_file *file, u64 offset, u64 bytes)
{
	u64 start = ALIGN(offset, (u64)PAGE_SIZE);
	u64 end = ALIGN_DOWN(offset + bytes, (u64)PAGE_SIZE);
	int ret;

	if (READ_ONCE(file->cannot_zero) || end < start + ZERO_RANGE_MIN)
		return qcow2_file_write_zeroes(file, offset, bytes);
	ret = allocate(file, FALLOC_FL_ZERO_RANGE, start, end - start);
	if (ret == -EOPNOTSUPP)
		WRITE_ONCE(file->cannot_zero, true);
	if (ret)
		return qcow2_file_write_zeroes(file, offset, bytes);
	ret = qcow2_file_write_zeroes(file, offset, start - offset);
	return ret ?: qcow2_file_write_zeroes(file, end, offset + bytes - end);
}

/**
 * qcow2_file_punch() - give the space of a part of the file back
 * @file: the file
 * @offset: byte offset, aligned
 * @bytes: length, aligned
 *
 * The part reads as zeroes afterwards, or as before if this fails.
 *
 * Context: sleeps.
 * Return: 0 or a negative errno; -EOPNOTSUPP then is said at once each time.
 */
int qcow2_file_punch(struct qcow2_file *file, u64 offset, u64 bytes)
{
	int ret;

	if (READ_ONCE(file->cannot_punch))
		return -EOPNOTSUPP;
	ret = allocate(file, FALLOC_FL_PUNCH_HOLE, offset, bytes);
	if (ret == -EOPNOTSUPP)
		WRITE_ONCE(file->cannot_punch, true);
	return ret;
}

/**
 * qcow2_file_flush() - make all completed writes durable
 * @file: the file
 *
 * An error is told once: to one of several flushes that run at once, and not
 * again by the next.  But what is lost stays lost, so once a flush or the
 * writeback of the page cache has failed, every flush fails.
 *
 * Context: sleeps.
 * Return: 0 or a negative errno.
 */
int qcow2_file_flush(struct qcow2_file *file)
{
	struct saved_task old = enter_fs();
	int ret = vfs_fsync(file->filp, 1);

	leave_fs(old);
	ret = ret ?: filemap_check_wb_err(file->filp->f_mapping, file->wb_err);
	if (ret)
		WRITE_ONCE(file->flush_failed, true);
	return READ_ONCE(file->flush_failed) ? -EIO : 0;
}

/*
 * Opening, and what the file is like.
 */

static int check_type(struct file *filp, unsigned int flags,
		      struct qcow2_reason *why)
{
	umode_t mode = filp->f_mapping->host->i_mode;

	if (!S_ISREG(mode) && !S_ISBLK(mode))
		return qcow2_refuse(why, -EINVAL,
				    "neither a regular file nor a block device");
	if (!(filp->f_mode & FMODE_READ) || !filp->f_op->read_iter)
		return qcow2_refuse(why, -EACCES, "not open for reading");
	if (!(flags & QCOW2_FILE_WRITABLE))
		return 0;
	if (!(filp->f_mode & FMODE_WRITE) || !filp->f_op->write_iter)
		return qcow2_refuse(why, -EACCES,
				    "not open for writing; attach read-only");
	if (filp->f_flags & O_APPEND)
		return qcow2_refuse(why, -EINVAL, "open for appending");
	if (S_ISREG(mode) && IS_SWAPFILE(filp->f_mapping->host))
		return qcow2_refuse(why, -EBUSY, "in use as swap");
	return 0;
}

/* Alignment that direct I/O on the file wants, for offsets and for memory. */
static unsigned int direct_align(struct file *filp)
{
	struct block_device *bdev = filp->f_mapping->host->i_sb->s_bdev;
	struct kstat stat;

	if (S_ISBLK(filp->f_mapping->host->i_mode))
		return bdev_logical_block_size(I_BDEV(filp->f_mapping->host));
	if (!vfs_getattr(&filp->f_path, &stat, STATX_DIOALIGN, 0) &&
	    (stat.result_mask & STATX_DIOALIGN) && stat.dio_offset_align)
		return max(stat.dio_offset_align, stat.dio_mem_align);
	return bdev ? bdev_logical_block_size(bdev) : SECTOR_SIZE;
}

static int choose_align(struct qcow2_file *file, struct qcow2_reason *why)
{
	file->align = SECTOR_SIZE;
	if (!(file->flags & QCOW2_FILE_DIRECT))
		return 0;
	if (!(file->filp->f_mode & FMODE_CAN_ODIRECT))
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "its file system has no direct I/O; attach without --direct-io");
	file->align = max_t(unsigned int, direct_align(file->filp),
			    SECTOR_SIZE);
	if (file->align > PAGE_SIZE || !is_power_of_2(file->align))
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "direct I/O on it needs blocks of %u bytes; attach without --direct-io",
				    file->align);
	return 0;
}

/*
 * What others have written before is not ours to lose: have it durable, and
 * look only for errors that come later.
 */
static int begin_flushes(struct qcow2_file *file, struct qcow2_reason *why)
{
	int ret = 0;

	if (file->flags & QCOW2_FILE_WRITABLE)
		ret = vfs_fsync(file->filp, 1);
	if (ret)
		return qcow2_refuse(why, -EIO,
				    "cannot be flushed (error %d), so what was written to it before may be lost",
				    ret);
	file->wb_err = filemap_sample_wb_err(file->filp->f_mapping);
	return 0;
}

static bool is_written_directly(const struct qcow2_file *file)
{
	const unsigned int wanted = QCOW2_FILE_WRITABLE | QCOW2_FILE_DIRECT;

	return (file->flags & wanted) == wanted && S_ISREG(file->inode->i_mode);
}

/*
 * While the page cache has a page of the file, whichever it is, file systems end each
 * direct write in a worker; without one, in the disk's completion.  Programs that made,
 * copied or read the image have left pages.  One that is dirty again stays.
 */
static void drop_page_cache(struct qcow2_file *file)
{
	if (is_written_directly(file))
		invalidate_inode_pages2(file->filp->f_mapping);
}

/* The device that the file is or lies on; NULL if that is not just one. */
static struct block_device *device_below(const struct qcow2_file *file)
{
	if (S_ISBLK(file->inode->i_mode))
		return I_BDEV(file->inode);
	return file->inode->i_sb->s_bdev;
}

/* Through the page cache a transfer waits as a rule. */
static bool can_nowait(const struct qcow2_file *file)
{
	struct block_device *bdev = device_below(file);

	return (file->flags & QCOW2_FILE_DIRECT) &&
	       (file->filp->f_mode & FMODE_NOWAIT) &&
	       bdev && bdev_nowait(bdev);
}

/**
 * qcow2_file_needs_pages() - must the memory of a transfer be pages of its own?
 * @file: the file
 *
 * A file system that is on no block device (NFS), and FUSE, may take references to the
 * pages of a direct transfer.  The pages of kmalloc() have none to be taken.  Who writes
 * to a block device takes none: XFS does its own I/O from such memory.
 *
 * Context: any.
 * Return: false if kmalloc()'s memory will do; never changes.
 */
bool qcow2_file_needs_pages(const struct qcow2_file *file)
{
	return (file->flags & QCOW2_FILE_DIRECT) &&
	       (!device_below(file) ||
		file->inode->i_sb->s_magic == FUSE_SUPER_MAGIC);
}

static void init_ahead(struct qcow2_file *file)
{
	mutex_init(&file->ahead_lock);
	file->ahead = is_written_directly(file) &&
		      (file->flags & QCOW2_FILE_AHEAD);
	atomic64_set(&file->end, i_size_read(file->inode));
}

/**
 * qcow2_file_open() - use an open file as image file
 * @filp: the file; a reference is taken
 * @flags: enum qcow2_file_flags
 * @wq: for the rest of short transfers; must outlive the file
 * @why: filled in on failure
 *
 * Context: sleeps.
 * Return: the file or an ERR_PTR.
 */
struct qcow2_file *qcow2_file_open(struct file *filp, unsigned int flags,
				   struct workqueue_struct *wq,
				   struct qcow2_reason *why)
{
	struct qcow2_file *file;
	int ret;

	ret = check_type(filp, flags, why);
	if (ret)
		return ERR_PTR(ret);
	file = kzalloc_obj(*file);
	if (!file)
		return ERR_PTR(qcow2_refuse(why, -ENOMEM, "out of memory"));
	file->filp = filp;
	file->inode = filp->f_mapping->host;
	file->flags = flags;
	file->wq = wq;
	ret = choose_align(file, why);
	ret = ret ?: begin_flushes(file, why);
	if (ret) {
		kfree(file);
		return ERR_PTR(ret);
	}
	drop_page_cache(file);
	file->can_nowait = can_nowait(file);
	init_ahead(file);
	get_file(filp);
	return file;
}

/**
 * qcow2_file_close() - give the file back
 * @file: from qcow2_file_open(); no transfer may be running
 */
void qcow2_file_close(struct qcow2_file *file)
{
	cut_ahead(file);
	mutex_destroy(&file->ahead_lock);
	fput(file->filp);
	kfree(file);
}

/**
 * qcow2_file_holes_are_zero() - does it read as zeroes where it has nothing?
 * @file: the file
 *
 * Return: true for a regular file; what a block device has, where it was punched
 * or has become larger, is its own affair.
 */
bool qcow2_file_holes_are_zero(const struct qcow2_file *file)
{
	return S_ISREG(file->inode->i_mode);
}

/**
 * qcow2_file_bytes() - current size
 * @file: the file
 *
 * Return: size in bytes, without what it was made longer by in advance.
 */
u64 qcow2_file_bytes(const struct qcow2_file *file)
{
	if (file->ahead)
		return atomic64_read(&file->end);
	return i_size_read(file->inode);
}

/**
 * qcow2_file_can_nowait() - may a transfer be submitted here that does not wait?
 * @file: the file
 *
 * Not from within a transaction of a file system on the device: the one below
 * would take it for its own.  Nor where much of the stack may be used already: in
 * reclaim, and when a file system serves a transfer of another image.
 *
 * Context: any.
 * Return: true if it may.
 */
bool qcow2_file_can_nowait(const struct qcow2_file *file)
{
	return file->can_nowait && !current->journal_info &&
	       !(current->flags & (PF_LOCAL_THROTTLE | PF_MEMALLOC));
}

/**
 * qcow2_file_has() - may be written up to there without a change of the length?
 * @file: the file
 * @bytes: how far from its beginning
 *
 * Not before the length was looked at once, by a transfer that may wait: to make
 * it a multiple of a block is no good beside a write (see end_with_a_block()).
 *
 * Context: any.
 * Return: true if the file has @bytes bytes at least, and its length stays as it is
 * however many writes end there at most.
 */
bool qcow2_file_has(const struct qcow2_file *file, u64 bytes)
{
	/* Pairs with that of end_with_a_block(). */
	if (file->ahead && !smp_load_acquire(&file->ends_with_a_block))
		return false;
	return bytes <= qcow2_file_bytes(file);
}

/**
 * qcow2_file_is_limited() - must whoever runs not write that far?
 * @file: the file
 * @bytes: how far from its beginning
 *
 * The limit on the size of files is that of each process, which has nothing to do with
 * where its data lies in an image; and who exceeds it is sent a signal.
 *
 * Context: a task.
 * Return: true if a write that ends there is not to be submitted here.
 */
bool qcow2_file_is_limited(const struct qcow2_file *file, u64 bytes)
{
	return S_ISREG(file->inode->i_mode) && bytes > rlimit(RLIMIT_FSIZE);
}

/**
 * qcow2_file_max_bytes() - size that the file can grow to
 * @file: the file
 *
 * Return: size in bytes; that of a block device is fixed.
 */
u64 qcow2_file_max_bytes(const struct qcow2_file *file)
{
	if (S_ISBLK(file->inode->i_mode))
		return i_size_read(file->inode);
	return file->inode->i_sb->s_maxbytes;
}

/**
 * qcow2_file_align() - alignment of transfers
 * @file: the file
 *
 * Return: what offset, length and memory address of a transfer must be
 * multiples of, in bytes; at least 512.
 */
unsigned int qcow2_file_align(const struct qcow2_file *file)
{
	return file->align;
}

/**
 * qcow2_file_same() - is this the same file on disk?
 * @file: the file
 * @filp: another open file
 *
 * Return: true if both name one inode or one block device.
 */
bool qcow2_file_same(const struct qcow2_file *file, struct file *filp)
{
	return file->inode == filp->f_mapping->host;
}

/**
 * qcow2_path_of() - path of an open file as the calling process sees it
 * @filp: the open file
 * @buf: for the zero-terminated path
 * @bytes: size of @buf
 *
 * Return: 0 or -ENAMETOOLONG.
 */
int qcow2_path_of(struct file *filp, char *buf, size_t bytes)
{
	char *path = file_path(filp, buf, bytes);

	if (IS_ERR(path))
		return PTR_ERR(path);
	memmove(buf, path, strlen(path) + 1);
	return 0;
}

/**
 * qcow2_file_path() - likewise
 * @file: the file
 * @buf: for the zero-terminated path
 * @bytes: size of @buf
 *
 * Return: 0 or -ENAMETOOLONG.
 */
int qcow2_file_path(const struct qcow2_file *file, char *buf, size_t bytes)
{
	return qcow2_path_of(file->filp, buf, bytes);
}
