// SPDX-License-Identifier: GPL-2.0-only
/* What the driver cannot do without: the oldest kernel in ../kernels has it. */
#include <linux/blk-mq.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <linux/uio.h>

static blk_status_t probe_queue_rq(struct blk_mq_hw_ctx *hctx,
				   const struct blk_mq_queue_data *bd)
{
	return BLK_STS_OK;
}

/* The type of a list of requests is asked for by rq_list_struct.c. */
const struct blk_mq_ops probe_ops = {
	.queue_rq = probe_queue_rq,
	.queue_rqs = NULL,
};

bool probe_file(struct file *filp, struct iov_iter *iter, struct bio_vec *bv,
		struct block_device *bdev)
{
	iov_iter_bvec(iter, ITER_SOURCE, bv, 1, 1);
	return (filp->f_mode & FMODE_CAN_ODIRECT) && bdev_nowait(bdev) &&
	       STATX_DIOALIGN;
}
