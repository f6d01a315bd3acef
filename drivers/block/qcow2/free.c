// SPDX-License-Identifier: GPL-2.0-only
/*
 * struct qcow2_free: where free clusters are found, for whom they are reserved,
 * and which of them read as zeroes in the file.
 */

/**
 * DOC: free clusters
 *
 * What is known of free clusters lies in one structure, with its invariant: see
 * struct qcow2_free.  Only the functions here change it.  What is taken is decided in
 * alloc.c, and who gets a reservation in stream.c.
 *
 * To find a free cluster costs no look at used ones that were looked at before,
 * however full the image is: the hint moves up over what was found in use, and what
 * becomes free below it is on record, by refcount slice.  The lowest of these is
 * used up first, then the hint moves on.  Both are hints in so far as the refcount
 * decides; but a free cluster that neither leads to is lost until the image is
 * attached again, so memory that lacks for the record moves the hint back instead.
 *
 * A reservation is in memory only, and is advice: the refcount alone says whether a
 * cluster is free.  First fit passes over the free ones of a run, and moves its hints
 * as if they were in use; given up, they are on record as those that became free.
 *
 * A new cluster of which a write fills only a part must read as zeroes in the rest.
 * Where the file does so already nothing needs to be written there.  That is
 * known of the clusters where the file never had anything, and of those that have
 * their bit: they were punched with success when they became free, or the allocator
 * passed over them on its way to one behind them.
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

#define PER_ENTRY	BIT(QCOW2_ZEROES_BITS)

/* More clusters than this are forgotten when the allocator passes over them. */
#define MAX_PASSED	16384

/**
 * qcow2_free_init() - nothing is known
 * @free: of an image that is all zero
 */
void qcow2_free_init(struct qcow2_free *free)
{
	xa_init(&free->freed);
	xa_init(&free->zeroes);
}

/**
 * qcow2_free_destroy() - free the memory
 * @free: the structure
 */
void qcow2_free_destroy(struct qcow2_free *free)
{
	xa_destroy(&free->freed);
	xa_destroy(&free->zeroes);
}

/**
 * qcow2_free_opened() - the files are as long as they are
 * @img: an image that is being opened, with its files and geometry
 */
void qcow2_free_opened(struct qcow2_image *img)
{
	img->free.fresh_from = qcow2_clusters_of(&img->geo,
						 qcow2_file_bytes(img->file));
	if (img->data_file)
		img->free.data_fresh_from =
			qcow2_clusters_of(&img->geo,
					  qcow2_file_bytes(img->data_file));
}

/**
 * qcow2_max_clusters() - how long the file can become
 * @img: the image
 *
 * Return: that in clusters.
 */
u64 qcow2_max_clusters(struct qcow2_image *img)
{
	u64 bytes = min(qcow2_file_max_bytes(img->file), QCOW2_MAX_HOST_OFFSET);

	return bytes >> img->geo.cluster_bits;
}

/*
 * Hints.
 */

/**
 * qcow2_count_run() - count clusters that are free, or that are not
 * @geo: geometry
 * @slice: the slice with the refcount of the first
 * @cluster: index of the first host cluster
 * @max: how many at most
 * @free: count free ones
 *
 * Context: meta_lock held.
 * Return: how many from @cluster on, in its slice, are so.
 */
u32 qcow2_count_run(const struct qcow2_geometry *geo,
		    const struct qcow2_slice *slice, u64 cluster, u64 max,
		    bool free)
{
	u32 index = qcow2_refslice_index(geo, cluster);
	u32 n, left = BIT(geo->refslice_bits) - index;

	for (n = 0; n < min_t(u64, left, max); n++)
		if (!qcow2_get_refcount(slice->data, geo->refcount_order,
					index + n) != free)
			break;
	return n;
}

/**
 * qcow2_first_candidate() - where to look for a free cluster
 * @img: the image
 *
 * Context: meta_lock held.
 * Return: a cluster; all before it are in use.
 */
u64 qcow2_first_candidate(struct qcow2_image *img)
{
	unsigned long nr = 0;
	void *entry = xa_find(&img->free.freed, &nr, ULONG_MAX, XA_PRESENT);

	if (!entry)
		return img->free.hint;
	return min(((u64)nr << img->geo.refslice_bits) + xa_to_value(entry),
		   img->free.hint);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_first_candidate);

/* Puts on record that first fit has to look at a cluster again. */
static void record_free(struct qcow2_image *img, u64 cluster)
{
	unsigned long nr = cluster >> img->geo.refslice_bits;
	u32 index = qcow2_refslice_index(&img->geo, cluster);
	void *entry;

	lockdep_assert_held(&img->meta_lock);
	if (cluster >= img->free.hint)
		return;
	entry = xa_load(&img->free.freed, nr);
	if (entry && xa_to_value(entry) <= index)
		return;
	entry = xa_store(&img->free.freed, nr, xa_mk_value(index),
			 GFP_NOWAIT | __GFP_NOWARN);
	if (xa_is_err(entry))
		img->free.hint = cluster;
}

/**
 * qcow2_free_pass() - first fit need not look at clusters any more
 * @img: the image
 * @start: index of the first host cluster; first fit has come up to here
 * @nr: how many; they are in use, or reserved, and lie in one slice, unless @start is
 *	the hint
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_free_pass(struct qcow2_image *img, u64 start, u32 nr)
{
	unsigned long slice = start >> img->geo.refslice_bits;
	void *entry = xa_load(&img->free.freed, slice);
	u32 index;

	if (img->free.hint == start)
		img->free.hint += nr;
	if (!entry ||
	    xa_to_value(entry) != qcow2_refslice_index(&img->geo, start))
		return;
	index = qcow2_refslice_index(&img->geo, start + nr);
	if (!index || start + nr == img->free.hint)
		xa_erase(&img->free.freed, slice);
	else	/* Replaces an entry, for which there is memory. */
		xa_store(&img->free.freed, slice, xa_mk_value(index),
			 GFP_NOWAIT);
}

/*
 * Reservations.
 */

/**
 * qcow2_next_reserved() - find clusters that first fit must not take
 * @img: the image
 * @cluster: index of a host cluster
 *
 * Context: meta_lock held.
 * Return: the stream whose run has the cluster, or begins as the first one behind
 * it; NULL if there is none.
 */
const struct qcow2_stream *qcow2_next_reserved(struct qcow2_image *img,
					       u64 cluster)
{
	const struct qcow2_stream *s, *next = NULL;

	for (s = img->free.streams; s < img->free.streams + QCOW2_STREAMS; s++)
		if (s->ahead && cluster < s->host + s->nr &&
		    (!next || s->host < next->host))
			next = s;
	return next;
}

/**
 * qcow2_count_unreserved() - count clusters that may be taken
 * @img: the image
 * @slice: the slice with the refcount of the first
 * @cluster: index of the first host cluster
 * @max: how many at most
 *
 * Context: meta_lock held.
 * Return: how many from @cluster on, in its slice, are free and not reserved.
 */
u32 qcow2_count_unreserved(struct qcow2_image *img,
			   const struct qcow2_slice *slice, u64 cluster, u64 max)
{
	const struct qcow2_stream *next = qcow2_next_reserved(img, cluster);

	max = min(max, qcow2_max_clusters(img) - cluster);
	if (next)
		max = next->host <= cluster ? 0 : min(max, next->host - cluster);
	return qcow2_count_run(&img->geo, slice, cluster, max, true);
}

/**
 * qcow2_free_tick() - an allocation begins that could be a stream's
 * @img: the image
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_free_tick(struct qcow2_image *img)
{
	lockdep_assert_held(&img->meta_lock);
	img->free.clock++;
}

/* Some free clusters of a slice, and maybe some in use, were reserved up to now. */
static void unreserve(struct qcow2_image *img, u64 cluster, u32 nr)
{
	struct qcow2_need need;
	struct qcow2_slice *slice;
	u32 used = 0;

	if (!qcow2_refcount_slice(img, cluster, &need, &slice)) {
		used = qcow2_count_run(&img->geo, slice, cluster, nr, false);
		qcow2_slice_put(slice);
	}
	if (used < nr)
		record_free(img, cluster + used);
}

/**
 * qcow2_free_leave() - the first clusters of a run are nobody's from now on
 * @img: the image
 * @s: the stream
 * @nr: how many, at most all
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_free_leave(struct qcow2_image *img, struct qcow2_stream *s, u32 nr)
{
	if (s->ahead)
		unreserve(img, s->host, nr);
	s->guest += nr;
	s->host += nr;
	s->nr -= nr;
}

/**
 * qcow2_free_forget() - there is no such stream any more
 * @img: the image
 * @s: the stream, if it is one
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_free_forget(struct qcow2_image *img, struct qcow2_stream *s)
{
	lockdep_assert_held(&img->meta_lock);
	qcow2_free_leave(img, s, s->nr);
	*s = (struct qcow2_stream) {};
}

/**
 * qcow2_cluster_freed() - a cluster can be allocated again
 * @img: the image
 * @cluster: index of the host cluster, whose refcount became 0
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_cluster_freed(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_stream *s;

	for (s = img->free.streams; s < img->free.streams + QCOW2_STREAMS; s++)
		if (cluster - s->host < s->nr)
			qcow2_free_leave(img, s, cluster - s->host + 1);
	record_free(img, cluster);
}

/**
 * qcow2_free_note() - clusters were taken for a stream
 * @img: the image
 * @s: the stream, or a place for one
 * @guest: index of the first guest cluster
 * @run: the clusters
 *
 * If they do not lie where the run has its place for them, the stream begins anew.
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_free_note(struct qcow2_image *img, struct qcow2_stream *s, u64 guest,
		     const struct qcow2_run *run)
{
	u64 host = run->host_offset >> img->geo.cluster_bits;

	if (!s->used || host - s->host != guest - s->guest ||
	    (host ^ s->host) >> img->geo.refslice_bits) {
		qcow2_free_forget(img, s);
		s->guest = guest;
		s->host = host;
	}
	s->nr = max_t(u64, s->nr, guest - s->guest + run->nb_clusters);
	s->used = img->free.clock;
}

/**
 * qcow2_free_set_ahead() - are the free clusters of a run reserved?
 * @img: the image
 * @s: the stream
 * @ahead: what shall be
 *
 * Cleared under one hold of meta_lock only, for the stream's own allocation.
 *
 * Context: meta_lock held; does not sleep.
 * Return: what was.
 */
bool qcow2_free_set_ahead(struct qcow2_image *img, struct qcow2_stream *s,
			  bool ahead)
{
	bool was = s->ahead;

	lockdep_assert_held(&img->meta_lock);
	s->ahead = ahead;
	return was;
}

/* How many free clusters there are to make a run longer, in the slice it lies in. */
static u32 count_behind(struct qcow2_image *img,
			const struct qcow2_slice *slice, u64 cluster, u32 max)
{
	if (!qcow2_refslice_index(&img->geo, cluster) ||
	    cluster >= qcow2_max_clusters(img))
		return 0;
	return qcow2_count_unreserved(img, slice, cluster, max);
}

/**
 * qcow2_free_reserve() - have others pass over the free clusters behind a run
 * @img: the image
 * @s: the stream, which is ahead
 * @slice: the slice that the run lies in
 * @max: how many at most
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_free_reserve(struct qcow2_image *img, struct qcow2_stream *s,
			const struct qcow2_slice *slice, u32 max)
{
	u64 cluster = s->host + s->nr;
	u32 nr = count_behind(img, slice, cluster, max);

	if (nr)
		qcow2_free_pass(img, cluster, nr);
	s->nr += nr;
}

/*
 * Known zeroes.
 */

static u32 bits_of(struct qcow2_image *img, u64 cluster)
{
	void *entry = xa_load(&img->free.zeroes, cluster >> QCOW2_ZEROES_BITS);

	return entry ? xa_to_value(entry) : 0;
}

/* Only a new entry takes memory, so to clear bits always succeeds. */
static void set_bits(struct qcow2_image *img, u64 cluster, u32 old, u32 bits)
{
	unsigned long nr = cluster >> QCOW2_ZEROES_BITS;

	if (bits == old)
		return;
	if (!bits) {
		xa_erase(&img->free.zeroes, nr);
		img->free.nr_zeroes--;
		return;
	}
	if (!old && img->free.nr_zeroes == QCOW2_ZEROES_MAX)
		return;
	if (!xa_is_err(xa_store(&img->free.zeroes, nr, xa_mk_value(bits),
				GFP_NOWAIT | __GFP_NOWARN)))
		img->free.nr_zeroes += !old;
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
	return cluster >= img->free.fresh_from ||
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
	if (!xa_empty(&img->free.zeroes))
		change(img, cluster, min(end, img->free.fresh_from), false);
	img->free.fresh_from = max(img->free.fresh_from, end);
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
	u64 passed = img->free.fresh_from;

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

/**
 * qcow2_data_is_fresh() - does a cluster read as zeroes in the external data file?
 * @img: the image
 * @cluster: index of a cluster that is not in use there
 *
 * Context: meta_lock held.
 * Return: true if that is known.
 */
bool qcow2_data_is_fresh(struct qcow2_image *img, u64 cluster)
{
	lockdep_assert_held(&img->meta_lock);
	return cluster >= img->free.data_fresh_from &&
	       qcow2_file_holes_are_zero(img->data_file);
}

/**
 * qcow2_data_gone() - clusters of the external data file are about to be written
 * @img: the image
 * @cluster: index of the first
 * @nr: how many
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_data_gone(struct qcow2_image *img, u64 cluster, u32 nr)
{
	lockdep_assert_held(&img->meta_lock);
	img->free.data_fresh_from = max(img->free.data_fresh_from, cluster + nr);
}
