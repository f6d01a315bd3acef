// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads, extent by extent.
 */

#include <linux/errno.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>

#include "image.h"

static void read_from_file(struct qcow2_io *io, struct qcow2_epoch *epoch,
			   const struct qcow2_extent *extent)
{
	struct qcow2_part *part = qcow2_part_alloc(io);

	part->epoch = epoch;
	qcow2_part_submit(part, qcow2_data_file(extent->img),
			  extent->host_offset, extent->bytes);
}

static int read_compressed(struct qcow2_io *io,
			   const struct qcow2_extent *extent)
{
	struct iov_iter iter;

	qcow2_io_slice_iter(io, extent->bytes, &iter);
	return qcow2_compressed_read(extent->img, extent->word,
				     qcow2_into_cluster(&extent->img->geo,
							io->offset), &iter);
}

/* Starts to read an extent; takes over the epoch. */
static int read_extent(struct qcow2_io *io, struct qcow2_epoch *epoch,
		       const struct qcow2_extent *extent)
{
	int ret = 0;

	switch (extent->type) {
	case QCOW2_SUBCLUSTER_NORMAL:
		read_from_file(io, epoch, extent);
		return 0;
	case QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN:
	case QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC:
	case QCOW2_SUBCLUSTER_ZERO_PLAIN:
	case QCOW2_SUBCLUSTER_ZERO_ALLOC:
		qcow2_io_zero(io, extent->bytes);
		break;
	case QCOW2_SUBCLUSTER_COMPRESSED:
		ret = read_compressed(io, extent);
		break;
	case QCOW2_SUBCLUSTER_INVALID:
		ret = -EUCLEAN;
		break;
	}
	qcow2_epoch_exit(epoch);
	return ret;
}

static int read_next(struct qcow2_io *io)
{
	struct qcow2_epoch *epoch = qcow2_epoch_enter(io->img);
	struct qcow2_extent extent;
	int ret;

	ret = qcow2_resolve(io->img, io->offset, iov_iter_count(&io->iter),
			    &extent);
	if (ret) {
		qcow2_epoch_exit(epoch);
		return ret;
	}
	ret = read_extent(io, epoch, &extent);
	if (!ret)
		qcow2_io_advance(io, extent.bytes);
	return ret;
}

/**
 * qcow2_read() - carry out a read
 * @io: the operation
 *
 * QEMU: qcow2_co_preadv_part().
 *
 * Context: on the image's workqueue.
 */
void qcow2_read(struct qcow2_io *io)
{
	int ret = 0;

	while (!ret && iov_iter_count(&io->iter))
		ret = read_next(io);
	qcow2_io_set_error(io, ret);
	qcow2_io_put(io);
}
