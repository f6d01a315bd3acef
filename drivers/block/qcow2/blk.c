// SPDX-License-Identifier: GPL-2.0-only
/*
 * The front: blk-mq requests become guest operations.
 */

/**
 * DOC: block device
 *
 * Each request carries a struct qcow2_io in its pdu, set up here and handed to
 * the engine.  Data is not copied: the operation's iterator goes over the
 * bvecs of the request's bio, or over an array of them if it has several.
 */

#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/bvec.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/limits.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/workqueue.h>

#include "blk.h"
#include "image.h"

#define QUEUE_DEPTH		128
#define MAX_REQUEST_BYTES	SZ_1M
#define MAX_DISCARD_BYTES	SZ_1G

/* No more than one line in this time says that there is no space. */
#define NO_SPACE_INTERVAL	(5 * HZ)

/**
 * struct qcow2_request - pdu of a request
 * @io: the operation
 * @bvecs: array of its bvecs, NULL if they are those of its bio
 */
struct qcow2_request {
	struct qcow2_io io;
	struct bio_vec *bvecs;
};

/*
 * What the administrator must know of a request that failed.  A file system on
 * the device sees an I/O error, from which nobody can guess that there is a file
 * system beneath that is full, nor which.
 */

/* The path takes locks that not every context may take. */
static void log_no_space(struct work_struct *work)
{
	struct qcow2_disk *disk = container_of(work, struct qcow2_disk,
					       no_space_work);
	const struct qcow2_image *img = disk->img;
	char *path = kmalloc(PATH_MAX, GFP_NOIO | __GFP_NOWARN);

	if (!path || qcow2_file_path(img->file, path, PATH_MAX))
		pr_err("qcow2: %s: a write failed: no space left in the image's file system\n",
		       disk->gendisk->disk_name);
	else
		pr_err("qcow2: %s: a write failed: no space left where the image %*pE%s lies\n",
		       disk->gendisk->disk_name, (int)strlen(path), path,
		       img->data_file ? " or its data file" : "");
	kfree(path);
}

/* That metadata finds no space is said where it is written. */
static void look_at_error(struct qcow2_disk *disk, const struct qcow2_io *io)
{
	if (io->error == -ENOSPC && io->op != QCOW2_OP_FLUSH &&
	    __ratelimit(&disk->no_space_limit))
		schedule_work(&disk->no_space_work);
}

static void init_no_space(struct qcow2_disk *disk)
{
	ratelimit_state_init(&disk->no_space_limit, NO_SPACE_INTERVAL, 1);
	/* How many lines there were not does not matter. */
	ratelimit_set_flags(&disk->no_space_limit, RATELIMIT_MSG_ON_RELEASE);
	INIT_WORK(&disk->no_space_work, log_no_space);
}

/*
 * Lists.
 */

/**
 * struct batch - a list of requests that is being started
 * @plug: for what the image's file system submits meanwhile
 * @cb: has the task look at the batch before it sleeps
 * @list: those that were not started yet
 * @done: requests that were done in the context of the list's submitter
 *
 * To end them together takes statistics, tags and the queue's reference once.  Who
 * is slept for may need what they hold, and what those hold that were not started, so
 * none of them waits for the list then.
 */
struct batch {
	struct blk_plug plug;
	struct blk_plug_cb cb;
	struct rq_list *list;
	struct io_comp_batch done;
};

static void end_requests(struct batch *batch)
{
	if (batch->done.complete)
		batch->done.complete(&batch->done);
	batch->done = (struct io_comp_batch) {};
}

static void before_sleep(struct blk_plug_cb *cb, bool from_schedule);

/* Nobody but the task itself, outside of interrupts, looks at its plug. */
static struct io_comp_batch *open_batch_of_task(void)
{
	struct blk_plug_cb *cb;

	if (!in_task() || !current->plug)
		return NULL;
	list_for_each_entry(cb, &current->plug->cb_list, list)
		if (cb->callback == before_sleep)
			return &container_of(cb, struct batch, cb)->done;
	return NULL;
}

/*
 * Requests.
 */

static void request_done(struct qcow2_io *io)
{
	struct qcow2_request *req = container_of(io, struct qcow2_request, io);
	struct request *rq = blk_mq_rq_from_pdu(req);

	look_at_error(rq->q->queuedata, io);
	kfree(req->bvecs);
	if (blk_mq_add_to_batch(rq, open_batch_of_task(), io->error,
				blk_mq_end_request_batch))
		return;
	blk_mq_end_request(rq, errno_to_blk_status(io->error));
}

static unsigned int count_bvecs(struct request *rq)
{
	struct req_iterator iter;
	struct bio_vec bv;
	unsigned int nr = 0;

	rq_for_each_bvec(bv, rq, iter)
		nr++;
	return nr;
}

/* Several bios: their bvecs in one array. */
static int gather_bvecs(struct qcow2_request *req, unsigned int nr, gfp_t gfp)
{
	struct request *rq = blk_mq_rq_from_pdu(req);
	struct req_iterator iter;
	struct bio_vec bv, *bvecs;
	unsigned int i = 0;

	bvecs = kmalloc_array(nr, sizeof(*bvecs), gfp | __GFP_NOWARN);
	if (!bvecs)
		return -ENOMEM;
	rq_for_each_bvec(bv, rq, iter) {
		bvecs[i] = bv;
		i++;
	}
	req->bvecs = bvecs;
	return 0;
}

static int set_iter(struct qcow2_request *req, unsigned int direction,
		    gfp_t gfp)
{
	struct request *rq = blk_mq_rq_from_pdu(req);
	unsigned int nr = count_bvecs(rq);
	struct bio *bio = rq->bio;

	if (bio != rq->biotail) {
		int ret = gather_bvecs(req, nr, gfp);

		if (ret)
			return ret;
		iov_iter_bvec(&req->io.iter, direction, req->bvecs, nr,
			      blk_rq_bytes(rq));
		return 0;
	}
	iov_iter_bvec(&req->io.iter, direction,
		      __bvec_iter_bvec(bio->bi_io_vec, bio->bi_iter), nr,
		      blk_rq_bytes(rq));
	req->io.iter.iov_offset = bio->bi_iter.bi_offset;
	return 0;
}

static blk_status_t set_io(struct qcow2_request *req, gfp_t gfp)
{
	struct request *rq = blk_mq_rq_from_pdu(req);
	int ret = 0;

	req->io.offset = blk_rq_pos(rq) << SECTOR_SHIFT;
	req->io.fua = rq->cmd_flags & REQ_FUA;
	req->io.ioprio = req_get_ioprio(rq);
	switch (req_op(rq)) {
	case REQ_OP_READ:
		req->io.op = QCOW2_OP_READ;
		ret = set_iter(req, ITER_DEST, gfp);
		break;
	case REQ_OP_WRITE:
		req->io.op = QCOW2_OP_WRITE;
		ret = set_iter(req, ITER_SOURCE, gfp);
		break;
	case REQ_OP_DISCARD:
		req->io.op = QCOW2_OP_DISCARD;
		req->io.bytes = blk_rq_bytes(rq);
		break;
	case REQ_OP_WRITE_ZEROES:
		req->io.op = QCOW2_OP_WRITE_ZEROES;
		req->io.bytes = blk_rq_bytes(rq);
		req->io.unmap = !(rq->cmd_flags & REQ_NOUNMAP);
		break;
	case REQ_OP_FLUSH:
		req->io.op = QCOW2_OP_FLUSH;
		break;
	default:
		return BLK_STS_NOTSUPP;
	}
	return ret ? BLK_STS_RESOURCE : BLK_STS_OK;
}

static blk_status_t start(struct request *rq, bool by_worker, gfp_t gfp)
{
	struct qcow2_disk *disk = rq->q->queuedata;
	struct qcow2_request *req = blk_mq_rq_to_pdu(rq);
	blk_status_t status;

	req->bvecs = NULL;
	req->io.img = disk->img;
	req->io.done = request_done;
	req->io.by_worker = by_worker;
	status = set_io(req, gfp);
	if (status != BLK_STS_OK)
		return status;
	blk_mq_start_request(rq);
	qcow2_io_submit(&req->io);
	return BLK_STS_OK;
}

/* A worker of the block layer gives it to queue_rq(). */
static void start_later(struct request *rq)
{
	INIT_LIST_HEAD(&rq->queuelist);
	blk_mq_requeue_request(rq, true);
}

static void start_list(struct batch *batch, bool by_worker)
{
	struct request *rq;

	while ((rq = rq_list_pop(batch->list)))
		if (start(rq, by_worker, GFP_NOWAIT) != BLK_STS_OK)
			start_later(rq);
}

/*
 * Who is told that a bio is done may go on with it there, unless the context does not
 * allow sleep.  A task that is about to sleep must not sleep for that first.
 */
static void before_sleep(struct blk_plug_cb *cb, bool from_schedule)
{
	struct batch *batch = container_of(cb, struct batch, cb);

	INIT_LIST_HEAD(&cb->list);
	rcu_read_lock();
	end_requests(batch);
	start_list(batch, true);
	rcu_read_unlock();
}

static void init_batch(struct batch *batch, struct rq_list *list)
{
	*batch = (struct batch) {
		.cb.list = LIST_HEAD_INIT(batch->cb.list),
		.cb.callback = before_sleep,
		.list = list,
	};
}

/* Its plug has begun. */
static void start_batch(struct batch *batch, bool by_worker)
{
	list_add(&batch->cb.list, &batch->plug.cb_list);
	start_list(batch, by_worker);
	/* What others have hung on the plug since may sleep, so not at its end. */
	list_del(&batch->cb.list);
	end_requests(batch);
}

/* The block layer takes the count away before it takes requests off the list. */
static bool list_is_worked_off(const struct blk_plug *plug)
{
	return plug && !plug->rq_count;
}

/*
 * While a list is worked off, nobody issues what it has for other disks when the task
 * sleeps. Those requests have tags, which whoever is slept for may need.  Nor does
 * anybody call what others have hung on the plug, as md does with bios that it holds
 * back, which it counts as under way.  A plug that was changed hides the batches of
 * disks above, too; so there is no waiting for memory of ours then: what finds none is
 * tried again from a worker of the block layer, which has no plug.
 */
static bool has_others(const struct blk_plug *plug)
{
	return plug && (plug->multiple_queues || !list_empty(&plug->cb_list));
}

/*
 * What the image's file system submits must not go on the plug of the submitter of
 * the request: its list may be just worked off, and what is added then would be
 * issued as if it were for this disk, and counted when it is gone.  So there is
 * another plug meanwhile, and the file system's disk gets a list too.
 *
 * Requests that the submitter's plug has in store hold their queue, so they have to be
 * given back when the task sleeps. That is done from the plug that the task has then,
 * hence they move to ours; what it still has at its end is given back too.
 */
static struct blk_plug *change_plug(struct blk_plug *plug)
{
	struct blk_plug *submitters = current->plug;

	/* A task that has noted the time must have the plug that it noted it in. */
	blk_plug_invalidate_ts();
	current->plug = NULL;
	blk_start_plug(plug);
	if (submitters)
		swap(plug->cached_rqs, submitters->cached_rqs);
	return submitters;
}

static void change_plug_back(struct blk_plug *plug, struct blk_plug *submitters)
{
	blk_finish_plug(plug);
	current->plug = submitters;
}

static blk_status_t queue_rq(struct blk_mq_hw_ctx *hctx,
			     const struct blk_mq_queue_data *bd)
{
	struct blk_plug plug, *submitters;
	blk_status_t status;
	bool by_worker;

	if (!list_is_worked_off(current->plug))
		return start(bd->rq, false, GFP_NOIO);
	by_worker = has_others(current->plug);
	submitters = change_plug(&plug);
	status = start(bd->rq, by_worker, GFP_NOWAIT);
	change_plug_back(&plug, submitters);
	return status;
}

static void queue_rqs(struct rq_list *rqlist)
{
	bool by_worker = has_others(current->plug);
	struct blk_plug *submitters;
	struct batch batch;

	init_batch(&batch, rqlist);
	submitters = change_plug(&batch.plug);
	start_batch(&batch, by_worker);
	change_plug_back(&batch.plug, submitters);
}

static const struct blk_mq_ops mq_ops = {
	.queue_rq = queue_rq,
	.queue_rqs = queue_rqs,
};

/*
 * Users.
 */

static int disk_open(struct gendisk *gendisk, blk_mode_t mode)
{
	struct qcow2_disk *disk = gendisk->private_data;
	int ret = 0;

	spin_lock(&disk->lock);
	if (disk->closing)
		ret = -ENXIO;
	else
		disk->openers++;
	spin_unlock(&disk->lock);
	return ret;
}

static void disk_release(struct gendisk *gendisk)
{
	struct qcow2_disk *disk = gendisk->private_data;

	spin_lock(&disk->lock);
	disk->openers--;
	spin_unlock(&disk->lock);
}

static const struct block_device_operations disk_ops = {
	.owner = THIS_MODULE,
	.open = disk_open,
	.release = disk_release,
};

/**
 * qcow2_disk_begin_close() - stop a disk from being opened
 * @disk: the disk
 * @openers: set to how often it is open
 *
 * Return: 0, and the disk cannot be opened any more; -EBUSY if it is open.
 */
int qcow2_disk_begin_close(struct qcow2_disk *disk, unsigned int *openers)
{
	int ret = 0;

	spin_lock(&disk->lock);
	*openers = disk->openers;
	if (*openers)
		ret = -EBUSY;
	else
		disk->closing = true;
	spin_unlock(&disk->lock);
	return ret;
}

/**
 * qcow2_disk_cancel_close() - let a disk be opened again
 * @disk: after qcow2_disk_begin_close()
 */
void qcow2_disk_cancel_close(struct qcow2_disk *disk)
{
	spin_lock(&disk->lock);
	disk->closing = false;
	spin_unlock(&disk->lock);
}

/**
 * qcow2_disk_openers() - how often is a disk open?
 * @disk: the disk
 *
 * Return: how often.
 */
unsigned int qcow2_disk_openers(struct qcow2_disk *disk)
{
	return READ_ONCE(disk->openers);
}

/*
 * Coming and going.
 */

static void set_limits(const struct qcow2_image *img, struct queue_limits *lim)
{
	u32 block = img->block_bytes;
	u32 subcluster = 1U << img->geo.subcluster_bits;

	lim->logical_block_size = block;
	/* Not above the subcluster: the discard granularity would follow it. */
	lim->physical_block_size = max_t(u32, block,
					 min_t(u32, subcluster, SZ_4K));
	lim->io_min = lim->physical_block_size;
	lim->io_opt = img->geo.cluster_bytes;
	lim->max_hw_sectors = MAX_REQUEST_BYTES >> SECTOR_SHIFT;
	lim->max_segments = MAX_REQUEST_BYTES / PAGE_SIZE;
	lim->max_segment_size = MAX_REQUEST_BYTES;
	lim->dma_alignment = block - 1;
	lim->discard_granularity = max(block, subcluster);
	if (qcow2_can_discard(img))
		lim->max_hw_discard_sectors = MAX_DISCARD_BYTES >> SECTOR_SHIFT;
	lim->max_write_zeroes_sectors = MAX_DISCARD_BYTES >> SECTOR_SHIFT;
	lim->features = BLK_FEAT_WRITE_CACHE | BLK_FEAT_FUA;
}

static int alloc_tags(struct qcow2_disk *disk)
{
	struct blk_mq_tag_set *tags = &disk->tags;

	tags->ops = &mq_ops;
	tags->nr_hw_queues = num_online_cpus();
	tags->queue_depth = QUEUE_DEPTH;
	tags->numa_node = NUMA_NO_NODE;
	tags->cmd_size = sizeof(struct qcow2_request);
	tags->flags = BLK_MQ_F_BLOCKING | BLK_MQ_F_NO_SCHED_BY_DEFAULT;
	return blk_mq_alloc_tag_set(tags);
}

static int alloc_gendisk(struct qcow2_disk *disk, int index)
{
	struct queue_limits lim = {};
	struct gendisk *gendisk;

	set_limits(disk->img, &lim);
	gendisk = blk_mq_alloc_disk(&disk->tags, &lim, disk);
	if (IS_ERR(gendisk))
		return PTR_ERR(gendisk);
	disk->gendisk = gendisk;
	gendisk->fops = &disk_ops;
	gendisk->private_data = disk;
	snprintf(gendisk->disk_name, DISK_NAME_LEN, "qcow%d", index);
	set_capacity(gendisk, qcow2_virtual_bytes(disk->img) >> SECTOR_SHIFT);
	set_disk_ro(gendisk, qcow2_image_read_only(disk->img));
	return 0;
}

/* From now on the state says so; writes fail as those to a read-only disk. */
static void image_failed(void *data)
{
	struct qcow2_disk *disk = data;
	struct kobject *kobj = &disk_to_dev(disk->gendisk)->kobj;
	char *envp[2] = { "QCOW2_STATE=needs-check" };

	set_disk_ro(disk->gendisk, true);
	sysfs_notify(kobj, QCOW2_SYSFS_GROUP, "state");
	kobject_uevent_env(kobj, KOBJ_CHANGE, envp);
}

/**
 * qcow2_disk_add() - bring up the block device of an image
 * @img: the image, which must outlive the disk
 * @index: number of the device
 * @why: filled in on failure
 *
 * Context: sleeps; the device may be in use when this returns.
 * Return: the disk or an ERR_PTR.
 */
struct qcow2_disk *qcow2_disk_add(struct qcow2_image *img, int index,
				  struct qcow2_reason *why)
{
	struct qcow2_disk *disk = kzalloc_obj(*disk);
	int ret = -ENOMEM;

	if (!disk)
		goto err;
	disk->img = img;
	spin_lock_init(&disk->lock);
	init_no_space(disk);
	ret = alloc_tags(disk);
	if (ret)
		goto err_disk;
	ret = alloc_gendisk(disk, index);
	if (ret)
		goto err_tags;
	ret = device_add_disk(NULL, disk->gendisk, qcow2_disk_groups);
	if (ret)
		goto err_gendisk;
	qcow2_image_watch(img, image_failed, disk);
	return disk;

err_gendisk:
	put_disk(disk->gendisk);
err_tags:
	blk_mq_free_tag_set(&disk->tags);
err_disk:
	kfree(disk);
err:
	return ERR_PTR(qcow2_refuse(why, ret,
				    "cannot create the block device (error %d)",
				    ret));
}

/**
 * qcow2_disk_del() - take a block device away
 * @disk: after qcow2_disk_begin_close(); gone on return, its requests done
 *
 * Context: sleeps.
 */
void qcow2_disk_del(struct qcow2_disk *disk)
{
	qcow2_image_watch(disk->img, NULL, NULL);
	del_gendisk(disk->gendisk);
	/* Who submitted requests that are done may still be in here. */
	blk_mq_quiesce_queue(disk->gendisk->queue);
	flush_work(&disk->no_space_work);
	put_disk(disk->gendisk);
	blk_mq_free_tag_set(&disk->tags);
	kfree(disk);
}
