// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compressed clusters.
 */

#include <linux/errno.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>

#include "image.h"

/**
 * qcow2_compressed_read() - read of a compressed cluster
 * @img: the image or layer
 * @word: the L2 entry
 * @into: first byte in the cluster
 * @to: where to
 *
 * Return: -EOPNOTSUPP.
 */
int qcow2_compressed_read(struct qcow2_image *img, u64 word, u32 into,
			  struct iov_iter *to)
{
	pr_err_ratelimited("qcow2: %s: there are compressed clusters, which this driver does not serve yet; 'qemu-img convert' the image\n",
			   img->name);
	return -EOPNOTSUPP;
}
