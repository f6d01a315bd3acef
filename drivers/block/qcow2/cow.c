// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copy on write: what surrounds written bytes in clusters that were not there,
 * or not theirs.
 */

/**
 * DOC: copy on write
 *
 * The COW regions of a meta are filled with what the guest reads there, which
 * the L2 entries still say, as the meta is not linked yet.  For what reads as
 * zeroes nothing need be done in clusters that the file grew by, for the file
 * reads as zeroes there too; in others it is made zero, without a read (QEMU:
 * handle_alloc_space()).  The rest goes through a bounce buffer from a mempool,
 * so that a COW needs no memory to proceed.
 */

#include <linux/bvec.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/minmax.h>
#include <linux/slab.h>

#include "image.h"

#define BOUNCE_PAGES	16
#define BOUNCE_BYTES	(BOUNCE_PAGES * PAGE_SIZE)
#define BOUNCE_POOL_MIN	4

/**
 * struct bounce - memory for COW data on its way
 * @bv: its pages
 */
struct bounce {
	struct bio_vec bv[BOUNCE_PAGES];
};

static mempool_t *bounce_pool;

static void bounce_free(void *element, void *unused)
{
	struct bounce *bounce = element;
	int i;

	for (i = 0; i < BOUNCE_PAGES; i++)
		if (bounce->bv[i].bv_page)
			__free_page(bounce->bv[i].bv_page);
	kfree(bounce);
}

static void *bounce_alloc(gfp_t gfp, void *unused)
{
	struct bounce *bounce = kzalloc_obj(*bounce, gfp);
	int i;

	if (!bounce)
		return NULL;
	for (i = 0; i < BOUNCE_PAGES; i++) {
		struct page *page = alloc_page(gfp);

		if (!page) {
			bounce_free(bounce, NULL);
			return NULL;
		}
		bvec_set_page(&bounce->bv[i], page, PAGE_SIZE, 0);
	}
	return bounce;
}

/**
 * qcow2_cow_init_pool() - at load: reserve memory for COW
 *
 * Return: 0 or -ENOMEM.
 */
int __init qcow2_cow_init_pool(void)
{
	bounce_pool = mempool_create(BOUNCE_POOL_MIN, bounce_alloc,
				     bounce_free, NULL);
	return bounce_pool ? 0 : -ENOMEM;
}

/**
 * qcow2_cow_exit_pool() - at unload: give that memory back
 */
void qcow2_cow_exit_pool(void)
{
	mempool_destroy(bounce_pool);
}

static int bounce_rw(struct qcow2_image *img, struct bounce *bounce, bool write,
		     u64 offset, size_t bytes)
{
	struct iov_iter iter;

	iov_iter_bvec(&iter, write ? ITER_SOURCE : ITER_DEST, bounce->bv,
		      BOUNCE_PAGES, bytes);
	return qcow2_file_rw(img->file, write, offset, &iter);
}

static int copy_bytes(struct qcow2_image *img, u64 from, u64 to, u64 bytes)
{
	struct bounce *bounce = mempool_alloc(bounce_pool, GFP_NOIO);
	int ret = 0;

	while (bytes && !ret) {
		size_t n = min_t(u64, bytes, BOUNCE_BYTES);

		ret = bounce_rw(img, bounce, false, from, n);
		ret = ret ?: bounce_rw(img, bounce, true, to, n);
		from += n;
		to += n;
		bytes -= n;
	}
	mempool_free(bounce, bounce_pool);
	return ret;
}

static int copy_extent(struct qcow2_image *img,
		       const struct qcow2_l2_meta *meta, u64 guest_offset,
		       const struct qcow2_extent *extent, u64 to)
{
	switch (extent->type) {
	case QCOW2_SUBCLUSTER_NORMAL:
		return copy_bytes(img, extent->host_offset, to, extent->bytes);
	case QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN:
	case QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC:
	case QCOW2_SUBCLUSTER_ZERO_PLAIN:
	case QCOW2_SUBCLUSTER_ZERO_ALLOC:
		if (meta->fresh)
			return 0;
		return qcow2_file_make_zero(img->file, to, extent->bytes);
	case QCOW2_SUBCLUSTER_COMPRESSED:
		return qcow2_refuse_compressed(img, guest_offset);
	case QCOW2_SUBCLUSTER_INVALID:
		break;
	}
	return -EUCLEAN;
}

static int copy_region(struct qcow2_image *img,
		       const struct qcow2_l2_meta *meta,
		       const struct qcow2_cow_region *region)
{
	u64 guest_offset = meta->guest_offset + region->offset;
	u64 to = meta->host_offset + region->offset;
	u64 left = region->bytes;
	struct qcow2_extent extent;
	int ret;

	for (; left; left -= extent.bytes) {
		ret = qcow2_map(img, guest_offset, left, &extent);
		ret = ret ?: copy_extent(img, meta, guest_offset, &extent,
					to);
		if (ret)
			return ret;
		guest_offset += extent.bytes;
		to += extent.bytes;
	}
	return 0;
}

/**
 * qcow2_perform_cow() - fill the COW regions of a meta
 * @img: the image
 * @meta: in flight; the caller is in an epoch
 *
 * QEMU: perform_cow().
 *
 * Context: sleeps, does I/O.
 * Return: 0 or a negative errno.
 */
int qcow2_perform_cow(struct qcow2_image *img,
		      const struct qcow2_l2_meta *meta)
{
	int ret = copy_region(img, meta, &meta->cow_start);

	return ret ?: copy_region(img, meta, &meta->cow_end);
}
