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
 * A reservation is in memory only, and is advice: the refcount alone says whether a
 * cluster is free.  First fit passes over the free ones of a run, and moves its hints
 * as if they were in use; given up, they are on record as those that became free.
 * That happens, of all streams, before the file's tables grow and before an
 * allocation fails; of one, when it is unused for long, or the one unused for longest
 * of too many; of the begin of a run, when its writer is far ahead of it, or when
 * a cluster that was taken becomes free there: that one is nobody's.  Nor does a
 * run become longer while clusters are free in front of it, so that the file does
 * not grow for what would have had room inside.
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

	for (s = img->streams; s < img->streams + QCOW2_STREAMS; s++)
		if (s->ahead && cluster < s->host + s->nr &&
		    (!next || s->host < next->host))
			next = s;
	return next;
}

/* The first clusters of a run are nobody's from now on. */
static void leave(struct qcow2_image *img, struct qcow2_stream *s, u32 nr)
{
	if (s->ahead)
		qcow2_unreserve(img, s->host, nr);
	s->guest += nr;
	s->host += nr;
	s->nr -= nr;
}

/**
 * qcow2_stream_freed() - a cluster became free that was in use
 * @img: the image
 * @cluster: index of the host cluster
 *
 * Context: meta_lock held; does not sleep.
 */
void qcow2_stream_freed(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_stream *s;

	lockdep_assert_held(&img->meta_lock);
	for (s = img->streams; s < img->streams + QCOW2_STREAMS; s++)
		if (cluster - s->host < s->nr)
			leave(img, s, cluster - s->host + 1);
}

static void give_up(struct qcow2_image *img, struct qcow2_stream *s)
{
	leave(img, s, s->nr);
	*s = (struct qcow2_stream) {};
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
	for (s = img->streams; s < img->streams + QCOW2_STREAMS; s++) {
		ret |= s->ahead;
		give_up(img, s);
	}
	return ret;
}

static void give_up_idle(struct qcow2_image *img)
{
	struct qcow2_stream *s;

	for (s = img->streams; s < img->streams + QCOW2_STREAMS; s++)
		if (s->ahead && img->stream_clock - s->used > IDLE)
			give_up(img, s);
}

static struct qcow2_stream *replace_oldest(struct qcow2_image *img)
{
	struct qcow2_stream *s, *oldest = img->streams;

	for (s = img->streams; s < img->streams + QCOW2_STREAMS; s++)
		if (s->used < oldest->used)
			oldest = s;
	give_up(img, oldest);
	return oldest;
}

/* The stream whose run has the guest cluster, or else one that ends before it. */
static struct qcow2_stream *find(struct qcow2_image *img, u64 guest)
{
	struct qcow2_stream *s, *ends = NULL;

	for (s = img->streams; s < img->streams + QCOW2_STREAMS; s++) {
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
	bool ahead = s->ahead;
	int ret;

	s->ahead = false;
	ret = qcow2_alloc_clusters(img, cluster << img->geo.cluster_bits, want,
				   need, run);
	s->ahead = ahead;
	return ret;
}

/* Clusters were taken for the guest's clusters from @guest on. */
static void note(struct qcow2_image *img, struct qcow2_stream *s, u64 guest,
		 const struct qcow2_run *run)
{
	u64 host = run->host_offset >> img->geo.cluster_bits;

	if (!s->used || host - s->host != guest - s->guest ||
	    (host ^ s->host) >> img->geo.refslice_bits) {
		give_up(img, s);
		s->guest = guest;
		s->host = host;
	}
	s->nr = max_t(u64, s->nr, guest - s->guest + run->nb_clusters);
	s->used = img->stream_clock;
}

static void reserve_ahead(struct qcow2_image *img, struct qcow2_stream *s,
			  u64 guest, const struct qcow2_run *run)
{
	u32 nr = step(&img->geo, run->nb_clusters);
	u64 end = guest + run->nb_clusters;

	s->ahead = true;
	if (end + nr / 2 <= s->guest + s->nr ||
	    qcow2_first_candidate(img) < s->host)
		return;
	give_up_idle(img);
	/* What is far behind is left to others. */
	if (end - s->guest > 2 * nr)
		leave(img, s, end - s->guest - nr);
	s->nr += qcow2_reserve(img, run->refblock, s->host + s->nr, nr);
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
	img->stream_clock++;
	run->nb_clusters = 0;
	if (cluster)
		ret = take_own(img, s, cluster, want, need, run);
	if (!ret && !run->nb_clusters && !at)
		ret = qcow2_alloc_clusters(img, 0, want, need, run);
	if (ret || !run->nb_clusters)
		return ret;
	if (!s)
		s = replace_oldest(img);
	note(img, s, guest, run);
	if (goes_on)
		reserve_ahead(img, s, guest, run);
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_alloc_for_guest);
