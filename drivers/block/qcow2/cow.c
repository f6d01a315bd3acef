// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copy on write: what surrounds written bytes in clusters that were not there,
 * or not theirs.
 */

/**
 * DOC: copy on write
 *
 * The COW regions of a meta are filled with what the guest reads there, maybe
 * from the backing chain: the L2 entries still say so, as the meta is not linked
 * yet.  For what reads as
 * zeroes nothing need be done in clusters that the file grew by, for the file
 * reads as zeroes there too.  What is left goes to the file in one transfer
 * with the written data between it, if it is short enough for one bounce
 * buffer: that is what qcow2_cow_one_transfer() makes ready, for the caller to
 * submit.  Else it goes there after the data, piece by piece, and what reads as
 * zeroes is made zero by the file system if that can (QEMU:
 * handle_alloc_space()).
 *
 * The bounce buffers come from a mempool, so that a COW needs no memory to
 * proceed.
 */

#include <linux/bvec.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/minmax.h>
#include <linux/slab.h>
#include <linux/uio.h>

#include "image.h"

#define BOUNCE_PAGES	16
#define BOUNCE_BYTES	(BOUNCE_PAGES * PAGE_SIZE)
#define BOUNCE_POOL_MIN	2

/* Written data in more pieces than this is a transfer of its own. */
#define DATA_BVECS	94

/* A region may begin and end in the middle of a page. */
#define MERGED_BVECS	(DATA_BVECS + BOUNCE_PAGES + 2)

/* Both regions are read at once when no more than this lies between. */
#define READ_THROUGH	SZ_16K

/**
 * struct qcow2_bounce - memory for COW data on its way
 * @pages: the memory
 * @bv: room for the bvecs of a transfer
 */
struct qcow2_bounce {
	struct page *pages[BOUNCE_PAGES];
	struct bio_vec bv[MERGED_BVECS];
};

static void bounce_free(void *element, void *unused)
{
	struct qcow2_bounce *bounce = element;
	int i;

	for (i = 0; i < BOUNCE_PAGES; i++)
		if (bounce->pages[i])
			__free_page(bounce->pages[i]);
	kfree(bounce);
}

static void *bounce_alloc(gfp_t gfp, void *unused)
{
	struct qcow2_bounce *bounce = kzalloc_obj(*bounce, gfp);
	int i;

	if (!bounce)
		return NULL;
	for (i = 0; i < BOUNCE_PAGES; i++) {
		bounce->pages[i] = alloc_page(gfp);
		if (!bounce->pages[i]) {
			bounce_free(bounce, NULL);
			return NULL;
		}
	}
	return bounce;
}

/**
 * qcow2_cow_init() - reserve memory for an image's COW
 * @img: the image
 *
 * Return: 0 or -ENOMEM; qcow2_cow_exit() is due in both cases.
 */
int qcow2_cow_init(struct qcow2_image *img)
{
	img->bounce_pool = mempool_create(BOUNCE_POOL_MIN, bounce_alloc,
					  bounce_free, NULL);
	return img->bounce_pool ? 0 : -ENOMEM;
}

/**
 * qcow2_cow_exit() - give that memory back
 * @img: the image; no operation runs
 */
void qcow2_cow_exit(struct qcow2_image *img)
{
	mempool_destroy(img->bounce_pool);
}

/*
 * Bytes in a bounce buffer.
 */

/* Appends bvecs for @bytes bytes from @pos on; their number then. */
static unsigned int add_bounce(struct qcow2_bounce *bounce, unsigned int nr,
			       size_t pos, size_t bytes)
{
	while (bytes) {
		size_t n = min_t(size_t, bytes,
				 PAGE_SIZE - offset_in_page(pos));

		bvec_set_page(&bounce->bv[nr++],
			      bounce->pages[pos >> PAGE_SHIFT], n,
			      offset_in_page(pos));
		pos += n;
		bytes -= n;
	}
	return nr;
}

/* The bytes of an extent that begins at @guest_offset. */
static int bounce_read(struct qcow2_bounce *bounce, size_t pos,
		       u64 guest_offset, const struct qcow2_extent *extent)
{
	unsigned int nr = add_bounce(bounce, 0, pos, extent->bytes);
	struct qcow2_image *img = extent->img;
	struct iov_iter iter;

	iov_iter_bvec(&iter, ITER_DEST, bounce->bv, nr, extent->bytes);
	switch (extent->type) {
	case QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN:
	case QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC:
	case QCOW2_SUBCLUSTER_ZERO_PLAIN:
	case QCOW2_SUBCLUSTER_ZERO_ALLOC:
		iov_iter_zero(extent->bytes, &iter);
		return 0;
	case QCOW2_SUBCLUSTER_NORMAL:
		return qcow2_file_rw(qcow2_data_file(img), false,
				     extent->host_offset, &iter);
	case QCOW2_SUBCLUSTER_COMPRESSED:
		return qcow2_compressed_read(img, extent->word,
					     qcow2_into_cluster(&img->geo,
								guest_offset),
					     &iter);
	case QCOW2_SUBCLUSTER_INVALID:
		break;
	}
	return -EUCLEAN;
}

static int bounce_write(struct qcow2_bounce *bounce, struct qcow2_image *img,
			u64 offset, size_t bytes)
{
	unsigned int nr = add_bounce(bounce, 0, 0, bytes);
	struct iov_iter iter;

	iov_iter_bvec(&iter, ITER_SOURCE, bounce->bv, nr, bytes);
	return qcow2_file_rw(qcow2_data_file(img), true, offset, &iter);
}

/*
 * A region on its own, of any length.
 */

/* Copies what an extent has, of which no more than fits in a buffer. */
static int copy_bytes(struct qcow2_image *img, u64 guest_offset,
		      const struct qcow2_extent *extent, u64 to)
{
	struct qcow2_bounce *bounce = mempool_alloc(img->bounce_pool, GFP_NOIO);
	int ret;

	ret = bounce_read(bounce, 0, guest_offset, extent);
	ret = ret ?: bounce_write(bounce, img, to, extent->bytes);
	mempool_free(bounce, img->bounce_pool);
	return ret;
}

/* Copies an extent or the begin of it, and shortens it to that. */
static int copy_extent(struct qcow2_image *img,
		       const struct qcow2_l2_meta *meta, u64 guest_offset,
		       struct qcow2_extent *extent, u64 to)
{
	if (!qcow2_reads_zero(extent)) {
		extent->bytes = min_t(u64, extent->bytes, BOUNCE_BYTES);
		return copy_bytes(img, guest_offset, extent, to);
	}
	if (meta->fresh)
		return 0;
	return qcow2_file_make_zero(qcow2_data_file(img), to, extent->bytes);
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
		ret = qcow2_resolve(img, guest_offset, left, &extent);
		ret = ret ?: copy_extent(img, meta, guest_offset, &extent, to);
		if (ret)
			return ret;
		guest_offset += extent.bytes;
		to += extent.bytes;
	}
	return 0;
}

/*
 * Both regions with the data between them.
 */

/**
 * struct merged - a write of data and COW regions in one transfer
 * @img: the image
 * @meta: the meta
 * @bounce: memory for the regions
 * @end_pos: where the end region is in @bounce; the start region is at 0
 */
struct merged {
	struct qcow2_image *img;
	const struct qcow2_l2_meta *meta;
	struct qcow2_bounce *bounce;
	size_t end_pos;
};

/* Reads a region into the bounce buffer. */
static int fill_region(struct merged *m, const struct qcow2_cow_region *region,
		       size_t pos)
{
	u64 guest_offset = m->meta->guest_offset + region->offset;
	u64 left = region->bytes;
	struct qcow2_extent extent;
	int ret;

	for (; left; left -= extent.bytes) {
		ret = qcow2_resolve(m->img, guest_offset, left, &extent);
		ret = ret ?: bounce_read(m->bounce, pos, guest_offset, &extent);
		if (ret)
			return ret;
		guest_offset += extent.bytes;
		pos += extent.bytes;
	}
	return 0;
}

/* One read for both, if they and what is between come from one place. */
static bool read_through(struct merged *m, int *ret)
{
	const struct qcow2_cow_region *start = &m->meta->cow_start;
	const struct qcow2_cow_region *end = &m->meta->cow_end;
	u32 middle = end->offset - start->offset - start->bytes;
	u32 bytes = start->bytes + middle + end->bytes;
	u64 guest_offset = m->meta->guest_offset + start->offset;
	struct qcow2_extent extent;

	if (!start->bytes || !end->bytes || middle > READ_THROUGH ||
	    bytes > BOUNCE_BYTES)
		return false;
	*ret = qcow2_resolve(m->img, guest_offset, bytes, &extent);
	if (*ret)
		return true;
	if (qcow2_reads_zero(&extent) || extent.bytes < bytes)
		return false;
	m->end_pos = start->bytes + middle;
	*ret = bounce_read(m->bounce, 0, guest_offset, &extent);
	return true;
}

static int fill_regions(struct merged *m)
{
	int ret;

	if (read_through(m, &ret))
		return ret;
	m->end_pos = m->meta->cow_start.bytes;
	ret = fill_region(m, &m->meta->cow_start, 0);
	return ret ?: fill_region(m, &m->meta->cow_end, m->end_pos);
}

/* Appends the bvecs of the written data; their number then. */
static unsigned int add_data(struct qcow2_bounce *bounce, unsigned int nr,
			     const struct iov_iter *data)
{
	const struct bio_vec *bv = data->bvec;
	size_t skip = data->iov_offset, left = iov_iter_count(data);

	for (; left; bv++) {
		size_t n = min_t(size_t, left, bv->bv_len - skip);

		if (n)
			bvec_set_page(&bounce->bv[nr++], bv->bv_page, n,
				      bv->bv_offset + skip);
		left -= n;
		skip = 0;
	}
	return nr;
}

/* Makes @data the data with both regions around it. */
static void surround(struct merged *m, struct iov_iter *data)
{
	const struct qcow2_cow_region *start = &m->meta->cow_start;
	const struct qcow2_cow_region *end = &m->meta->cow_end;
	unsigned int nr;

	nr = add_bounce(m->bounce, 0, 0, start->bytes);
	nr = add_data(m->bounce, nr, data);
	nr = add_bounce(m->bounce, nr, m->end_pos, end->bytes);
	iov_iter_bvec(data, ITER_SOURCE, m->bounce->bv, nr,
		      start->bytes + iov_iter_count(data) + end->bytes);
}

static int merge_cow(struct qcow2_image *img, struct qcow2_l2_meta *meta,
		     u64 *host_offset, struct iov_iter *data)
{
	struct merged m = {
		.img = img,
		.meta = meta,
		.bounce = mempool_alloc(img->bounce_pool, GFP_NOIO),
	};
	int ret;

	meta->bounce = m.bounce;
	ret = fill_regions(&m);
	if (ret)
		return ret;
	surround(&m, data);
	*host_offset -= meta->cow_start.bytes;
	return 0;
}

static bool can_merge(const struct qcow2_l2_meta *meta,
		      const struct iov_iter *data)
{
	u64 cow_bytes = (u64)meta->cow_start.bytes + meta->cow_end.bytes;

	return cow_bytes <= BOUNCE_BYTES && data->nr_segs <= DATA_BVECS;
}

/*
 * What has to be copied at all.
 */

/* True if the file reads as zeroes in a region where the guest does. */
static int is_right_already(struct qcow2_image *img,
			    const struct qcow2_l2_meta *meta,
			    const struct qcow2_cow_region *region)
{
	u64 guest_offset = meta->guest_offset + region->offset;
	u64 left = region->bytes;
	struct qcow2_extent extent;
	int ret;

	if (left && !meta->fresh)
		return 0;
	for (; left; left -= extent.bytes) {
		ret = qcow2_resolve(img, guest_offset, left, &extent);
		if (ret)
			return ret;
		if (!qcow2_reads_zero(&extent))
			return 0;
		guest_offset += extent.bytes;
	}
	return 1;
}

/**
 * qcow2_cow_one_transfer() - have one transfer for data and its COW regions
 * @img: the image
 * @meta: in flight; the caller is in an epoch, and calls qcow2_cow_done() when
 *	the transfer is done, also after an error
 * @host_offset: where the data goes to; a run of clusters that are written where
 *	they are may lie in front of those of @meta.  Changed to where the transfer
 *	begins.
 * @data: bvecs of the data; changed to those of the transfer
 * @rest: set if the regions are too long for that: then qcow2_cow_regions() is
 *	due after the transfer
 *
 * QEMU: perform_cow(), merge_cow().
 *
 * Context: sleeps, may do I/O to read what is to be copied.
 * Return: 0 or a negative errno.
 */
int qcow2_cow_one_transfer(struct qcow2_image *img, struct qcow2_l2_meta *meta,
			   u64 *host_offset, struct iov_iter *data, bool *rest)
{
	int ret;

	*rest = false;
	ret = is_right_already(img, meta, &meta->cow_start);
	if (ret == 1)
		ret = is_right_already(img, meta, &meta->cow_end);
	if (ret)
		return min(ret, 0);
	if (can_merge(meta, data))
		return merge_cow(img, meta, host_offset, data);
	*rest = true;
	return 0;
}

/**
 * qcow2_cow_regions() - fill COW regions that are no part of the data's transfer
 * @img: the image
 * @meta: in flight; the caller is in an epoch
 *
 * QEMU: perform_cow(), handle_alloc_space().
 *
 * Context: sleeps, does I/O.
 * Return: 0 or a negative errno.
 */
int qcow2_cow_regions(struct qcow2_image *img, const struct qcow2_l2_meta *meta)
{
	int ret = copy_region(img, meta, &meta->cow_start);

	return ret ?: copy_region(img, meta, &meta->cow_end);
}

/**
 * qcow2_cow_done() - the transfer with the COW regions has ended
 * @img: the image
 * @meta: its meta
 *
 * Context: any.
 */
void qcow2_cow_done(struct qcow2_image *img, struct qcow2_l2_meta *meta)
{
	if (meta->bounce)
		mempool_free(meta->bounce, img->bounce_pool);
	meta->bounce = NULL;
}
