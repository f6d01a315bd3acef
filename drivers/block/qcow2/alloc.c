// SPDX-License-Identifier: GPL-2.0-only
/*
 * Free clusters, and what an allocation lacks.
 */

/**
 * DOC: allocation
 *
 * All decisions about clusters are made under meta_lock, in memory, and no I/O
 * is done under it.  A step that finds something missing (a slice that is not
 * cached, a table that does not exist yet) writes it down in a struct
 * qcow2_need and returns -EAGAIN.  Its caller lets go of meta_lock, has
 * qcow2_need_meet() bring it, and starts over with everything looked up again.
 * What was brought stays pinned until the step is done, so some rounds of this
 * for one step are enough, however small the cache, unless other writers come
 * between.
 *
 * Without memory, slices are as many as the cache has in reserve.  If all writers had some
 * of them pinned and waited for another one, none would get it.  So who gets none at once
 * lets go of all that it has, and takes the image's turn_lock until its step is done: only
 * one with that waits with slices pinned, and one with grow_lock, for which nobody waits
 * with slices pinned.
 *
 * Clusters are taken in runs that lie in one refcount slice, which the run
 * pins: giving it back then needs neither I/O nor memory.  Where free ones are is
 * known by struct qcow2_free (see DOC: free clusters), which leads to the first.
 *
 * When an image that is full was attached, all its refcounts must be looked at once.  To
 * bring slice after slice would be a short read for each, and would push out of the cache
 * what is of use there.  So from the second slice on that a search wants, it looks at the
 * rest of the refcount block in a buffer, and moves the hint over what is in use there.
 * Only a slice in which there is a free cluster comes into the cache.
 *
 * Clusters that streams have reserved (see DOC: streams) are passed over as if they
 * were in use, until there is nothing else.
 */

#include <linux/bits.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "image.h"

/* Slices without a free cluster that one hold of meta_lock looks at. */
#define MAX_SCAN	64

/* Looks at a slice, to find a place for contiguous clusters in one way. */
#define MAX_GATHER	1024

/* How much of a refcount block is looked at in one go. */
#define AHEAD_BYTES	SZ_256K

/*
 * Needs.
 */

/**
 * qcow2_need_slice() - back out for a slice
 * @need: what to write it down in
 * @kind: kind of the slice
 * @offset: its host offset in bytes
 *
 * Return: -EAGAIN.
 */
int qcow2_need_slice(struct qcow2_need *need, enum qcow2_slice_kind kind,
		     u64 offset)
{
	need->kind = QCOW2_NEED_SLICE;
	need->slice_kind = kind;
	need->offset = offset;
	need->search = 0;
	return -EAGAIN;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_need_slice);

/**
 * qcow2_need_growth() - back out for a table
 * @need: what to write it down in
 * @kind: which table
 * @index: entry that shall exist, or point to it
 *
 * Return: -EAGAIN.
 */
int qcow2_need_growth(struct qcow2_need *need, enum qcow2_need_kind kind,
		      u64 index)
{
	need->kind = kind;
	need->index = index;
	return -EAGAIN;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_need_growth);

/**
 * qcow2_need_room() - back out if too many slices are dirty already
 * @img: the image
 * @need: what to write that down in; one commit for it is enough, however many
 *	others have made dirty again since
 *
 * Due before a step that makes more of them dirty.
 *
 * Context: any.
 * Return: 0 or -EAGAIN.
 */
int qcow2_need_room(struct qcow2_image *img, struct qcow2_need *need)
{
	if (need->made_room || qcow2_has_room(img))
		return 0;
	need->kind = QCOW2_NEED_ROOM;
	return -EAGAIN;
}

/* Where a slice is pinned that is brought now, in place of one brought long ago. */
static struct qcow2_slice **pin_for(struct qcow2_need *need)
{
	if (need->slice_kind == QCOW2_SLICE_L2)
		return &need->l2;
	need->next = (need->next + 1) % QCOW2_NEED_REFBLOCKS;
	return &need->refblocks[need->next];
}

/*
 * Looking ahead.
 */

/**
 * struct ahead - refcounts that are looked at in a buffer
 * @geo: geometry
 * @start: index of the first cluster
 * @used: number of clusters from there on that are in use
 * @found: there is a free one behind them
 */
struct ahead {
	const struct qcow2_geometry *geo;
	u64 start;
	u64 used;
	bool found;
};

/* Goes on in the next slice, if all of this one is in use. */
static bool count_used(const void *buf, u32 bytes, void *arg)
{
	struct ahead *ahead = arg;
	const struct qcow2_geometry *geo = ahead->geo;
	u64 mask = BIT_ULL(geo->refslice_bits) - 1;
	u32 i;

	for (i = (ahead->start + ahead->used) & mask; i <= mask; i++) {
		if (!qcow2_get_refcount(buf, geo->refcount_order, i)) {
			ahead->found = true;
			return false;
		}
		ahead->used++;
	}
	return true;
}

/*
 * How much from a slice on can be looked at in the file: the rest of its block, up to a
 * slice that is in memory, for that may say something else.
 */
static u32 bytes_ahead(struct qcow2_image *img, u64 offset)
{
	const struct qcow2_geometry *geo = &img->geo;
	u32 max = min_t(u32, geo->cluster_bytes - qcow2_into_cluster(geo, offset),
			AHEAD_BYTES);
	u32 bytes;

	lockdep_assert_held(&img->meta_lock);
	rcu_read_lock();
	for (bytes = 0; bytes < max; bytes += qcow2_slice_bytes(geo))
		if (qcow2_slice_peek(img, QCOW2_SLICE_REFBLOCK, offset + bytes))
			break;
	rcu_read_unlock();
	return bytes;
}

/*
 * Moves the hint over what is in use, and says whether there is no need for the slice.
 * What the file says is right when bytes_ahead() looks, but for what others change since:
 * clusters that they take are no harm, but if one became free, what was seen is of no use.
 */
static bool look_ahead(struct qcow2_image *img, struct qcow2_need *need)
{
	struct ahead ahead = { .geo = &img->geo, .start = need->search };
	u64 freed;
	u32 bytes;
	bool ret;

	mutex_lock(&img->meta_lock);
	freed = img->clusters_freed;
	bytes = bytes_ahead(img, need->offset);
	mutex_unlock(&img->meta_lock);
	if (bytes <= qcow2_slice_bytes(&img->geo) ||
	    qcow2_file_look_through(img->file, need->offset, bytes, count_used,
				    &ahead))
		return false;
	mutex_lock(&img->meta_lock);
	ret = ahead.used && img->free.hint == ahead.start &&
	      img->clusters_freed == freed;
	if (ret)
		qcow2_free_pass(img, ahead.start, ahead.used);
	mutex_unlock(&img->meta_lock);
	need->searched = !ahead.found;
	return ret;
}

static bool has_pinned(const struct qcow2_need *need)
{
	bool ret = need->l2;
	int i;

	for (i = 0; i < QCOW2_NEED_REFBLOCKS; i++)
		ret |= !!need->refblocks[i];
	return ret;
}

static void unpin(struct qcow2_need *need)
{
	int i;

	qcow2_slice_put(need->l2);
	need->l2 = NULL;
	for (i = 0; i < QCOW2_NEED_REFBLOCKS; i++) {
		qcow2_slice_put(need->refblocks[i]);
		need->refblocks[i] = NULL;
	}
}

/* Waits for memory with nothing pinned until it is its turn. */
static struct qcow2_slice *get_in_turn(struct qcow2_image *img,
				       struct qcow2_need *need)
{
	struct qcow2_slice *slice = qcow2_slice_get_now(img, need->slice_kind,
							need->offset);

	if (!IS_ERR(slice) || PTR_ERR(slice) != -ENOMEM)
		return slice;
	if (has_pinned(need) && !need->turn) {
		unpin(need);
		mutex_lock(&img->turn_lock);
		need->turn = &img->turn_lock;
	}
	return qcow2_slice_get(img, need->slice_kind, need->offset);
}

static int bring_slice(struct qcow2_image *img, struct qcow2_need *need,
		       bool growing)
{
	struct qcow2_slice **pin = pin_for(need);
	struct qcow2_slice *slice;

	if (need->search && need->searched && look_ahead(img, need))
		return 0;
	need->searched |= !!need->search;
	qcow2_slice_put(*pin);
	*pin = NULL;
	slice = growing ? qcow2_slice_get(img, need->slice_kind, need->offset) :
			  get_in_turn(img, need);
	if (IS_ERR(slice))
		return PTR_ERR(slice);
	*pin = slice;
	return 0;
}

/**
 * qcow2_need_done() - let go of what was pinned
 * @need: the need
 */
void qcow2_need_done(struct qcow2_need *need)
{
	unpin(need);
	if (need->turn)
		mutex_unlock(need->turn);
	need->turn = NULL;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_need_done);

/*
 * Clusters.
 */

static void take(struct qcow2_image *img, struct qcow2_slice *slice,
		 u64 cluster, u32 nr, struct qcow2_run *run)
{
	const struct qcow2_geometry *geo = &img->geo;
	u32 index = qcow2_refslice_index(geo, cluster);
	u32 i;

	for (i = 0; i < nr; i++)
		qcow2_set_refcount(slice->data, geo->refcount_order, index + i,
				   1);
	qcow2_slice_mark_dirty(img, slice);
	qcow2_free_pass(img, cluster, nr);
	run->host_offset = cluster << geo->cluster_bits;
	run->nb_clusters = nr;
	run->fresh = qcow2_is_fresh(img, cluster) &&
		     qcow2_is_fresh(img, cluster + nr - 1);
	run->refblock = slice;
	qcow2_fresh_taken(img, cluster, nr);
}

/* Something other than a slice: reservations are to be given up before that. */
static bool needs_growth(const struct qcow2_need *need)
{
	return need->kind == QCOW2_NEED_REFBLOCK ||
	       need->kind == QCOW2_NEED_REFTABLE;
}

/* Moves the hints behind a run that has the free cluster reserved, if one has. */
static bool pass_over(struct qcow2_image *img, u64 cluster)
{
	const struct qcow2_stream *next = qcow2_next_reserved(img, cluster);

	if (!next || cluster < next->host)
		return false;
	qcow2_free_pass(img, cluster, next->host + next->nr - cluster);
	return true;
}

/* Finds the first free cluster, and the slice that counts it. */
static int find_free(struct qcow2_image *img, struct qcow2_need *need,
		     u64 *cluster, struct qcow2_slice **slice)
{
	u64 per_slice = BIT_ULL(img->geo.refslice_bits);
	int scanned;

	for (scanned = 0; scanned < MAX_SCAN; scanned++) {
		u64 start = qcow2_first_candidate(img);
		u32 left = per_slice - qcow2_refslice_index(&img->geo, start);
		u32 used;
		int ret;

		if (start >= qcow2_max_clusters(img))
			return -ENOSPC;
		ret = qcow2_refcount_slice(img, start, need, slice);
		if (ret == -EAGAIN && needs_growth(need) &&
		    qcow2_streams_give_up(img))
			continue;
		if (ret == -EAGAIN && need->kind == QCOW2_NEED_SLICE &&
		    start == img->free.hint)
			need->search = start;
		if (ret)
			return ret;
		used = qcow2_count_run(&img->geo, *slice, start, left, false);
		if (used)
			qcow2_free_pass(img, start, used);
		*cluster = start + used;
		if (used < left && !pass_over(img, *cluster))
			return 0;
		qcow2_slice_put(*slice);
	}
	return qcow2_need_growth(need, QCOW2_NEED_A_BREAK, 0);
}

static int alloc_anywhere(struct qcow2_image *img, u32 want,
			  struct qcow2_need *need, struct qcow2_run *run)
{
	struct qcow2_slice *slice;
	u64 cluster;
	int ret;

	ret = find_free(img, need, &cluster, &slice);
	if (ret)
		return ret;
	if (!cluster || cluster >= qcow2_max_clusters(img)) {
		qcow2_slice_put(slice);
		return cluster ? -ENOSPC :
		       qcow2_image_fail(img, -EUCLEAN,
					"the refcount of the header is 0");
	}
	take(img, slice, cluster,
	     qcow2_count_unreserved(img, slice, cluster, want), run);
	return 0;
}

static int alloc_at(struct qcow2_image *img, u64 cluster, u32 want,
		    struct qcow2_need *need, struct qcow2_run *run)
{
	struct qcow2_slice *slice;
	u32 nr;

	if (cluster >= qcow2_max_clusters(img) ||
	    qcow2_refcount_slice(img, cluster, need, &slice))
		return 0;
	nr = qcow2_count_unreserved(img, slice, cluster, want);
	if (nr)
		take(img, slice, cluster, nr, run);
	else
		qcow2_slice_put(slice);
	return 0;
}

/**
 * qcow2_alloc_in_data_file() - take clusters of the external data file
 * @img: the image
 * @guest_offset: of the first cluster
 * @want: how many
 * @run: filled in; nothing counts references to them
 *
 * Context: meta_lock held.
 */
void qcow2_alloc_in_data_file(struct qcow2_image *img, u64 guest_offset,
			      u32 want, struct qcow2_run *run)
{
	u64 cluster = guest_offset >> img->geo.cluster_bits;

	lockdep_assert_held(&img->meta_lock);
	*run = (struct qcow2_run) {
		.host_offset = cluster << img->geo.cluster_bits,
		.nb_clusters = want,
		.fresh = qcow2_data_is_fresh(img, cluster),
	};
	qcow2_data_gone(img, cluster, want);
}

/**
 * qcow2_clusters_in_use() - clusters are about to be written where they are
 * @img: the image
 * @host_offset: of the first
 * @nr: how many
 *
 * They may lie behind the end of a file that lost its tail: when they were
 * written, discarded and taken again they must not count as never written.
 *
 * Context: meta_lock held.
 */
void qcow2_clusters_in_use(struct qcow2_image *img, u64 host_offset, u32 nr)
{
	u64 cluster = host_offset >> img->geo.cluster_bits;

	lockdep_assert_held(&img->meta_lock);
	if (img->geo.has_data_file)
		qcow2_data_gone(img, cluster, nr);
	else
		qcow2_fresh_gone(img, cluster, nr);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_clusters_in_use);

/**
 * qcow2_alloc_clusters() - allocate contiguous clusters
 * @img: the image
 * @at: host offset in bytes where they must be, or 0 for anywhere
 * @want: number of clusters wanted
 * @need: says what is missing after -EAGAIN
 * @run: filled in; 1 to @want clusters, or with @at maybe none.  The caller
 *	owns the reference to its slice.
 *
 * QEMU: qcow2_alloc_clusters(), qcow2_alloc_clusters_at().
 *
 * Context: meta_lock held.
 * Return: 0, -EAGAIN, -ENOSPC, or -EUCLEAN.
 */
int qcow2_alloc_clusters(struct qcow2_image *img, u64 at, u32 want,
			 struct qcow2_need *need, struct qcow2_run *run)
{
	int ret;

	lockdep_assert_held(&img->meta_lock);
	memset(run, 0, sizeof(*run));
	if (at)
		ret = alloc_at(img, at >> img->geo.cluster_bits, want, need,
			       run);
	else
		ret = alloc_anywhere(img, want, need, run);
	if (ret == -ENOSPC && qcow2_streams_give_up(img))
		ret = alloc_anywhere(img, want, need, run);
	if (ret || !run->nb_clusters)
		return ret;
	ret = qcow2_pre_write_overlap_check(img, run->host_offset,
					    (u64)run->nb_clusters <<
					    img->geo.cluster_bits,
					    QCOW2_METADATA_NONE);
	/* The refcounts are wrong; what they say now does no more harm. */
	if (ret)
		qcow2_slice_put(run->refblock);
	else
		WRITE_ONCE(img->clusters_allocated,
			   img->clusters_allocated + run->nb_clusters);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_alloc_clusters);

/**
 * qcow2_alloc_undo() - give clusters back that nothing refers to
 * @img: the image
 * @run: from qcow2_alloc_clusters(); its slice's reference is dropped
 *
 * Context: meta_lock held.
 */
void qcow2_alloc_undo(struct qcow2_image *img, struct qcow2_run *run)
{
	u64 cluster = run->host_offset >> img->geo.cluster_bits;
	u32 i;

	lockdep_assert_held(&img->meta_lock);
	for (i = 0; i < run->nb_clusters; i++)
		qcow2_refcount_dec(img, cluster + i, run->refblock);
	qcow2_slice_put(run->refblock);
	run->refblock = NULL;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_alloc_undo);

/*
 * Clusters for tables, taken by who holds grow_lock.
 */

static int meet_growing(struct qcow2_image *img, struct qcow2_need *need)
{
	lockdep_assert_held(&img->grow_lock);
	switch (need->kind) {
	case QCOW2_NEED_A_BREAK:
		cond_resched();
		return 0;
	case QCOW2_NEED_SLICE:
		return bring_slice(img, need, true);
	case QCOW2_NEED_REFBLOCK:
		return qcow2_alloc_refblock(img, need->index);
	case QCOW2_NEED_REFTABLE:
		return qcow2_grow_reftable(img, need->index + 1);
	default:
		WARN_ON_ONCE(1);
		return -EIO;
	}
}

/**
 * qcow2_alloc_table_cluster() - allocate a cluster for a table
 * @img: the image
 * @run: filled in; the caller owns the reference to its slice
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: 0 or a negative errno.
 */
int qcow2_alloc_table_cluster(struct qcow2_image *img, struct qcow2_run *run)
{
	struct qcow2_need need = {};
	int ret;

	for (;;) {
		mutex_lock(&img->meta_lock);
		ret = qcow2_alloc_clusters(img, 0, 1, &need, run);
		mutex_unlock(&img->meta_lock);
		if (ret != -EAGAIN)
			break;
		ret = meet_growing(img, &need);
		if (ret)
			break;
	}
	qcow2_need_done(&need);
	return ret;
}

/**
 * struct area - contiguous clusters that are being gathered
 * @first: host cluster where they begin
 * @nr: number of clusters that were taken, from @first on
 * @want: number wanted
 * @runs: the pieces in which they were taken, one for each refcount slice
 * @nr_runs: number of pieces
 */
struct area {
	u64 first;
	u64 nr;
	u64 want;
	struct qcow2_run *runs;
	u32 nr_runs;
};

static void undo_area(struct qcow2_image *img, struct area *area)
{
	while (area->nr_runs)
		qcow2_alloc_undo(img, &area->runs[--area->nr_runs]);
	area->nr = 0;
}

/*
 * Takes what the next slice has of the area, or, if a cluster of it is in use,
 * gives back what there is and moves the area behind that cluster.
 */
static int gather_more(struct qcow2_image *img, struct area *area,
		       struct qcow2_need *need)
{
	const struct qcow2_geometry *geo = &img->geo;
	u64 at = area->first + area->nr;
	u32 left = BIT(geo->refslice_bits) - qcow2_refslice_index(geo, at);
	struct qcow2_slice *slice;
	u32 want, nr;
	int ret;

	lockdep_assert_held(&img->meta_lock);
	if (area->first + area->want > qcow2_max_clusters(img))
		return -ENOSPC;
	ret = qcow2_refcount_slice(img, at, need, &slice);
	if (ret)
		return ret;
	want = min_t(u64, left, area->want - area->nr);
	nr = qcow2_count_run(geo, slice, at, want, true);
	if (nr == want) {
		take(img, slice, at, nr, &area->runs[area->nr_runs++]);
		area->nr += nr;
		return 0;
	}
	nr += qcow2_count_run(geo, slice, at + nr, left - nr, false);
	qcow2_slice_put(slice);
	undo_area(img, area);
	area->first = at + nr;
	return 0;
}

/* One hold of meta_lock. */
static int gather_step(struct qcow2_image *img, struct area *area,
		       struct qcow2_need *need)
{
	u32 bits = img->geo.cluster_bits;
	int ret;

	mutex_lock(&img->meta_lock);
	ret = gather_more(img, area, need);
	/* The refcounts may be wrong; what they say now does no more harm. */
	if (area->nr == area->want)
		ret = qcow2_pre_write_overlap_check(img, area->first << bits,
						    area->nr << bits,
						    QCOW2_METADATA_NONE);
	mutex_unlock(&img->meta_lock);
	return ret;
}

/* Leaves the area empty after an error, or if many steps found no place. */
static int gather(struct qcow2_image *img, struct area *area)
{
	struct qcow2_need need = {};
	int steps, ret = 0;

	for (steps = 0; !ret && area->nr < area->want; steps++) {
		if (steps == MAX_GATHER)
			break;
		ret = gather_step(img, area, &need);
		if (ret == -EAGAIN)
			ret = meet_growing(img, &need);
	}
	qcow2_need_done(&need);
	if (area->nr < area->want) {
		mutex_lock(&img->meta_lock);
		undo_area(img, area);
		mutex_unlock(&img->meta_lock);
	}
	while (area->nr_runs)
		qcow2_slice_put(area->runs[--area->nr_runs].refblock);
	return ret;
}

/* The lowest free cluster; once that did not do, where no gaps are known. */
static u64 next_start(struct qcow2_image *img, u64 tried)
{
	u64 start;

	mutex_lock(&img->meta_lock);
	qcow2_streams_give_up(img);
	start = tried ? max(tried, img->free.hint) : qcow2_first_candidate(img);
	mutex_unlock(&img->meta_lock);
	return start;
}

/**
 * qcow2_alloc_area() - allocate contiguous clusters, many if need be
 * @img: the image
 * @nr: number of clusters, not 0
 * @offset: filled in: host offset of the first in bytes
 *
 * First fit; but among many small gaps there would be no end of looking, so
 * that goes on behind the hint after a while, and at last the clusters are
 * taken where no refcount block is yet.  That is done at once if there are too
 * many to lie between two blocks, which are the first clusters of their ranges.
 *
 * To give them back pass them to qcow2_drop_later().
 *
 * Context: grow_lock held; sleeps, does I/O.
 * Return: 0, -ENOSPC if the file must not become so long, or another negative
 * errno.
 */
int qcow2_alloc_area(struct qcow2_image *img, u64 nr, u64 *offset)
{
	const struct qcow2_geometry *geo = &img->geo;
	struct area area = { .want = nr };
	int tries, ret = 0;

	lockdep_assert_held(&img->grow_lock);
	if (nr >> geo->refblock_bits)
		return qcow2_refcount_area(img, nr, offset);
	area.runs = kmalloc_array((nr >> geo->refslice_bits) + 2,
				  sizeof(*area.runs), GFP_NOIO);
	if (!area.runs)
		return -ENOMEM;
	for (tries = 0; tries < 2 && !ret && !area.nr; tries++) {
		area.first = next_start(img, area.first);
		ret = gather(img, &area);
	}
	kfree(area.runs);
	if (ret)
		return ret;
	if (!area.nr)
		return qcow2_refcount_area(img, nr, offset);
	*offset = area.first << geo->cluster_bits;
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_alloc_area);

/*
 * Meeting needs.
 */

/**
 * qcow2_need_meet() - bring what a step backed out for
 * @img: the image
 * @need: what; slices that it brings stay pinned until qcow2_need_done()
 *
 * Context: sleeps, does I/O; takes grow_lock for growth.
 * Return: 0, then take the step again; or a negative errno.
 */
int qcow2_need_meet(struct qcow2_image *img, struct qcow2_need *need)
{
	int ret;

	if (need->kind == QCOW2_NEED_SLICE)
		return bring_slice(img, need, false);
	if (need->kind == QCOW2_NEED_ROOM) {
		need->made_room = true;
		return qcow2_commit_for_room(img);
	}
	if (need->kind == QCOW2_NEED_A_BREAK) {
		cond_resched();
		return 0;
	}
	unpin(need);
	mutex_lock(&img->grow_lock);
	if (need->kind == QCOW2_NEED_L2_TABLE)
		ret = qcow2_alloc_l2_table(img, need->index);
	else if (need->kind == QCOW2_NEED_L1)
		ret = qcow2_grow_l1(img, need->index + 1);
	else
		ret = meet_growing(img, need);
	mutex_unlock(&img->grow_lock);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_need_meet);
