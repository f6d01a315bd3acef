// SPDX-License-Identifier: GPL-2.0-only
/*
 * Free clusters that read as zeroes in the file.
 */

/**
 * DOC: fresh clusters
 *
 * A new cluster of which a write fills only a part must read as zeroes in the rest.
 * Where the file does so already nothing needs to be written there.  That is
 * known of the clusters from img->fresh_from on, where the file never had anything,
 * and of those that have their bit in img->zeroes: they were punched with success
 * when they became free, or the allocator passed over them on its way to
 * one behind them.
 *
 * Both are knowledge, never a promise to keep: a bit may be lost at any time, and
 * is, when there is no memory for it.  It goes when its cluster is taken, or
 * written, or freed, so what failed half-way leaves none behind.  It comes under
 * the hold of meta_lock that frees the cluster, after the punch: before, the
 * refcount kept others off, and the epochs saw to it that nobody was writing there.
 *
 * If there's a crash, then: the punch may not be durable, but neither is an entry
 * that refers to the cluster again, since the flush that has to come before such an
 * entry is written comes after the punch too.
 *
 * A block device need not read as zeroes behind the place where it ended, if it was
 * made larger; nothing of this is believed of one.
 */

#include <linux/bits.h>
#include <linux/minmax.h>
#include <linux/xarray.h>

#include "image.h"

/* Clusters in an entry of img->zeroes. */
#define ENTRY_BITS	(BITS_PER_LONG > 32 ? 5 : 4)
#define PER_ENTRY	BIT(ENTRY_BITS)

/* Entries at most: for those that lie apart 10 MiB, for a dense map 160 KiB. */
#define MAX_ENTRIES	16384

/* More clusters than this are forgotten when the allocator passes over them. */
#define MAX_PASSED	16384

static u32 bits_of(struct qcow2_image *img, u64 cluster)
{
	void *entry = xa_load(&img->zeroes, cluster >> ENTRY_BITS);

	return entry ? xa_to_value(entry) : 0;
}

/* Only a new entry takes memory, so to clear bits always succeeds. */
static void set_bits(struct qcow2_image *img, u64 cluster, u32 old, u32 bits)
{
	unsigned long nr = cluster >> ENTRY_BITS;

	if (bits == old)
		return;
	if (!bits) {
		xa_erase(&img->zeroes, nr);
		img->nr_zeroes--;
		return;
	}
	if (!old && img->nr_zeroes == MAX_ENTRIES)
		return;
	if (!xa_is_err(xa_store(&img->zeroes, nr, xa_mk_value(bits),
				GFP_NOWAIT | __GFP_NOWARN)))
		img->nr_zeroes += !old;
}

static void change(struct qcow2_image *img, u64 cluster, u64 end, bool zero)
{
	while (cluster < end) {
		u32 first = cluster & (PER_ENTRY - 1);
		u32 nr = min_t(u64, PER_ENTRY - first, end - cluster);
		u32 mask = GENMASK(first + nr - 1, first);
		u32 old = bits_of(img, cluster);

		set_bits(img, cluster, old, zero ? old | mask : old & ~mask);
		cluster += nr;
	}
}

/**
 * qcow2_is_fresh() - does a cluster read as zeroes in the file?
 * @img: the image
 * @cluster: index of a free host cluster
 *
 * Context: meta_lock held.
 * Return: true if that is known.
 */
bool qcow2_is_fresh(struct qcow2_image *img, u64 cluster)
{
	lockdep_assert_held(&img->meta_lock);
	if (!qcow2_file_holes_are_zero(img->file))
		return false;
	return cluster >= img->fresh_from ||
	       bits_of(img, cluster) & BIT(cluster & (PER_ENTRY - 1));
}

/**
 * qcow2_fresh_gone() - clusters do not read as zeroes any more, or soon
 * @img: the image
 * @cluster: index of the first host cluster
 * @nr: how many
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_fresh_gone(struct qcow2_image *img, u64 cluster, u64 nr)
{
	u64 end = cluster + nr;

	lockdep_assert_held(&img->meta_lock);
	if (!xa_empty(&img->zeroes))
		change(img, cluster, min(end, img->fresh_from), false);
	img->fresh_from = max(img->fresh_from, end);
}

/**
 * qcow2_fresh_taken() - likewise when they were free
 * @img: the image
 * @cluster: index of the first host cluster
 * @nr: how many
 *
 * What lies in front of them and is fresh stays so.
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_fresh_taken(struct qcow2_image *img, u64 cluster, u64 nr)
{
	u64 passed = img->fresh_from;

	qcow2_fresh_gone(img, cluster, nr);
	if (cluster > passed && cluster - passed <= MAX_PASSED)
		change(img, passed, cluster, true);
}

/**
 * qcow2_fresh_again() - a cluster was punched with success
 * @img: the image
 * @cluster: index of the host cluster, which became free under the same hold of
 *	meta_lock
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_fresh_again(struct qcow2_image *img, u64 cluster)
{
	lockdep_assert_held(&img->meta_lock);
	if (qcow2_file_holes_are_zero(img->file))
		change(img, cluster, cluster + 1, true);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_fresh_again);
