// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs of clusters, reserved for writers that write one after the other.
 */

/**
 * DOC: streams
 *
 * First fit would mix the clusters of writers beside each other, and shuffle those
 * of one writer whose requests run in parallel.  So an allocation that goes on where
 * another one ended, in the guest and in the file, makes that a stream: the free
 * clusters behind it are reserved, and each guest cluster of the run that they
 * form has its place there, in whatever order the requests come.  Who writes here
 * and there reserves nothing.
 *
 * A reservation is advice (see DOC: free clusters).  It is given up, of all
 * streams, before the file's tables grow and before an allocation fails; of one,
 * when it is unused for long, or the one unused for longest of too many; of the
 * begin of a run, when its writer is far ahead of it, or when a cluster that was
 * taken becomes free there: that one is nobody's.  Nor does a run become longer
 * while clusters are free in front of it, so that the file does not grow for what
 * would have had room inside.
 */

#include <linux/minmax.h>
#include <linux/sizes.h>

#include "image.h"

/* Allocations after which a stream that had none of them is given up. */
#define IDLE	256

/* How many clusters are reserved at a time for requests of @nr: eight, or 1 MiB. */
static u32 step(const struct qcow2_geometry *geo, u32 nr)
{
	u32 most = max(SZ_1M >> geo->cluster_bits, 2);

	return clamp(8 * nr, min(most, 16U), most);
}

/**
 * qcow2_streams_give_up() - reserve nothing
 * @img: the image
 *
 * Context: meta_lock held; does not sleep.
 * Return: true if clusters may have become free for others by that.
 */
bool qcow2_streams_give_up(struct qcow2_image *img)
{
	struct qcow2_stream *s;
	bool ret = false;

	lockdep_assert_held(&img->meta_lock);
	for (s = img->free.streams; s < img->free.streams + QCOW2_STREAMS; s++) {
		ret |= s->ahead;
		qcow2_free_forget(img, s);
	}
	return ret;
}

static void give_up_idle(struct qcow2_image *img)
{
	struct qcow2_stream *s;

	for (s = img->free.streams; s < img->free.streams + QCOW2_STREAMS; s++)
		if (s->ahead && img->free.clock - s->used > IDLE)
			qcow2_free_forget(img, s);
}

static struct qcow2_stream *replace_oldest(struct qcow2_image *img)
{
	struct qcow2_stream *s, *oldest = img->free.streams;

	for (s = img->free.streams; s < img->free.streams + QCOW2_STREAMS; s++)
		if (s->used < oldest->used)
			oldest = s;
	qcow2_free_forget(img, oldest);
	return oldest;
}

/* The stream whose run has the guest cluster, or else one that ends before it. */
static struct qcow2_stream *find(struct qcow2_image *img, u64 guest)
{
	struct qcow2_stream *s, *ends = NULL;

	for (s = img->free.streams; s < img->free.streams + QCOW2_STREAMS; s++) {
		if (s->ahead && guest - s->guest < s->nr)
			return s;
		if (s->used && guest - s->guest == s->nr)
			ends = s;
	}
	return ends;
}

/* Host cluster for a guest cluster of the stream; 0 if first fit knows better. */
static u64 place(struct qcow2_image *img, const struct qcow2_stream *s,
		 u64 guest)
{
	if (guest - s->guest == s->nr && qcow2_first_candidate(img) < s->host)
		return 0;
	return s->host + (guest - s->guest);
}

static int take_own(struct qcow2_image *img, struct qcow2_stream *s, u64 cluster,
		    u32 want, struct qcow2_need *need, struct qcow2_run *run)
{
	bool ahead = qcow2_free_set_ahead(img, s, false);
	int ret;

	ret = qcow2_alloc_clusters(img, cluster << img->geo.cluster_bits, want,
				   need, run);
	qcow2_free_set_ahead(img, s, ahead);
	return ret;
}

static void reserve_ahead(struct qcow2_image *img, struct qcow2_stream *s,
			  u64 guest, const struct qcow2_run *run)
{
	u32 nr = step(&img->geo, run->nb_clusters);
	u64 end = guest + run->nb_clusters;

	qcow2_free_set_ahead(img, s, true);
	if (end + nr / 2 <= s->guest + s->nr ||
	    qcow2_first_candidate(img) < s->host)
		return;
	give_up_idle(img);
	/* What is far behind is left to others. */
	if (end - s->guest > 2 * nr)
		qcow2_free_leave(img, s, end - s->guest - nr);
	qcow2_free_reserve(img, s, run->refblock, nr);
}

/**
 * qcow2_alloc_for_guest() - allocate contiguous clusters for data
 * @img: the image
 * @guest_offset: where the guest has it
 * @at: as for qcow2_alloc_clusters()
 * @want: likewise
 * @need: likewise
 * @run: likewise
 *
 * Context: meta_lock held.
 * Return: as qcow2_alloc_clusters().
 */
int qcow2_alloc_for_guest(struct qcow2_image *img, u64 guest_offset, u64 at,
			  u32 want, struct qcow2_need *need,
			  struct qcow2_run *run)
{
	u64 guest = guest_offset >> img->geo.cluster_bits;
	struct qcow2_stream *s = find(img, guest);
	u64 cluster = s ? place(img, s, guest) : 0;
	bool goes_on = s;
	int ret = 0;

	lockdep_assert_held(&img->meta_lock);
	if (at && at != cluster << img->geo.cluster_bits)
		return qcow2_alloc_clusters(img, at, want, need, run);
	qcow2_free_tick(img);
	run->nb_clusters = 0;
	if (cluster)
		ret = take_own(img, s, cluster, want, need, run);
	if (!ret && !run->nb_clusters && !at)
		ret = qcow2_alloc_clusters(img, 0, want, need, run);
	if (ret || !run->nb_clusters)
		return ret;
	if (!s)
		s = replace_oldest(img);
	qcow2_free_note(img, s, guest, run);
	if (goes_on)
		reserve_ahead(img, s, guest, run);
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_alloc_for_guest);
