// SPDX-License-Identifier: GPL-2.0-only
/*
 * The write path.
 */

/**
 * DOC: write path
 *
 * A write is carried out in passes, each of which covers a prefix of what is
 * left that is contiguous in the file and lies in one L2 slice.  A pass has
 * two halves:
 *
 * qcow2_alloc_host_offset() decides, under meta_lock and without I/O, where
 * the bytes go.  handle_dependencies() keeps the pass off clusters whose L2
 * entries another write is about to change.  handle_copied() finds clusters
 * that can be overwritten where they are, handle_alloc() takes new ones for
 * all others.  calculate_l2_meta() says which bytes around the written ones
 * must be copied, and puts a struct qcow2_l2_meta in flight if L2 entries will
 * change.
 *
 * Then the data is written.  Without a meta, that is all, and nothing waits
 * for it.  With one, the COW regions go with it, and when all of it is in the file
 * qcow2_alloc_cluster_link_l2() changes the entries in memory; from there
 * commit.c takes them to the file.  The last pass of a write does not wait for its
 * transfer either, if that is one: link_written() links it when that has ended.  So writes
 * that change mappings go on side by side, and some of them end so.
 *
 * Somebody who has to wait for a meta does not sleep: the operation is put on
 * the meta's list and queued again when the meta is gone.  It holds nothing
 * meanwhile, neither a meta nor an epoch, so writes cannot wait in a circle.
 *
 * If there's a crash, then: before the link reached memory and file, clusters
 * that the pass took are leaks at worst; an entry that reached the file refers
 * to data that is durable (see DOC: commit).  If writing fails, then the
 * mapping is as it was and the new clusters are free again.
 */

#include <linux/align.h>
#include <linux/bitops.h>
#include <linux/errno.h>
#include <linux/interval_tree_generic.h>
#include <linux/minmax.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "image.h"
#include "write.h"

#define META_POOL_MIN	64

static struct kmem_cache *meta_cache;

/**
 * qcow2_write_init_cache() - at load: prepare to allocate metas
 *
 * Return: 0 or -ENOMEM.
 */
int __init qcow2_write_init_cache(void)
{
	meta_cache = KMEM_CACHE(qcow2_l2_meta, 0);
	return meta_cache ? 0 : -ENOMEM;
}

/**
 * qcow2_write_exit_cache() - at unload: undo that
 */
void qcow2_write_exit_cache(void)
{
	kmem_cache_destroy(meta_cache);
}

static void free_meta(struct qcow2_image *img, struct qcow2_l2_meta *meta)
{
	qcow2_slice_put(meta->l2);
	qcow2_slice_put(meta->refblock);
	qcow2_drop_free(img, meta->drop);
	mempool_free(meta, img->meta_pool);
}

/*
 * Metas.
 */

static u64 meta_cow_start(const struct qcow2_l2_meta *meta)
{
	return meta->guest_offset + meta->cow_start.offset;
}

static u64 meta_cow_end(const struct qcow2_l2_meta *meta)
{
	return meta->guest_offset + meta->cow_end.offset + meta->cow_end.bytes;
}

static u64 meta_last(const struct qcow2_l2_meta *meta)
{
	return meta_cow_end(meta) - 1;
}

/* By the first byte that a meta changes. */
INTERVAL_TREE_DEFINE(struct qcow2_l2_meta, node, u64, subtree_last,
		     meta_cow_start, meta_last, static, metas)

/**
 * qcow2_launch_meta() - put a meta in flight
 * @img: the image
 * @meta: what it changes is set, and is at least a byte
 *
 * Context: meta_lock held.
 */
void qcow2_launch_meta(struct qcow2_image *img, struct qcow2_l2_meta *meta)
{
	lockdep_assert_held(&img->meta_lock);
	INIT_LIST_HEAD(&meta->waiters);
	meta->number = img->metas_launched++;
	metas_insert(meta, &img->in_flight);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_launch_meta);

/**
 * qcow2_land_meta() - take a meta out of flight
 * @img: the image
 * @meta: the meta
 * @waiters: gets those who wait for it, for qcow2_requeue_waiters()
 *
 * Context: meta_lock held.
 */
void qcow2_land_meta(struct qcow2_image *img, struct qcow2_l2_meta *meta,
		     struct list_head *waiters)
{
	lockdep_assert_held(&img->meta_lock);
	metas_remove(meta, &img->in_flight);
	list_splice_tail_init(&meta->waiters, waiters);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_land_meta);

/* Of two in the same cluster: must the pass keep off what the meta changes? */
static bool conflicts(const struct qcow2_pass *pass,
		      const struct qcow2_l2_meta *meta, u64 guest_offset,
		      u64 end)
{
	if (!meta->keep_old || pass->exclusive)
		return true;
	return end > meta_cow_start(meta) && guest_offset < meta_cow_end(meta);
}

/*
 * Finds the metas that a pass from @guest_offset to @end - 1 runs into: the newest
 * of those in its first cluster, or else the first one behind that.  The tree has
 * those that begin earlier in front, so nothing behind the latter matters.
 */
static struct qcow2_l2_meta *find_conflict(const struct qcow2_pass *pass,
					   u64 guest_offset, u64 end)
{
	const struct qcow2_geometry *geo = &pass->img->geo;
	u64 first = qcow2_cluster_start(geo, guest_offset);
	u64 first_end = first + geo->cluster_bytes;
	u64 last = ALIGN(end, (u64)geo->cluster_bytes) - 1;
	struct qcow2_l2_meta *found = NULL, *meta;

	for (meta = metas_iter_first(&pass->img->in_flight, first, last);
	     meta; meta = metas_iter_next(meta, first, last)) {
		bool behind = meta_cow_start(meta) >= first_end;

		if (behind && found)
			break;
		if (!conflicts(pass, meta, guest_offset, end))
			continue;
		if (behind)
			return meta;
		if (!found || found->number < meta->number)
			found = meta;
	}
	return found;
}

/**
 * handle_dependencies() - keep off clusters that are about to change
 * @pass: the pass; its blocker is set if it has to wait
 * @guest_offset: where it wants to go on
 * @bytes: how far, at least 1; shortened to where a meta in flight begins
 *
 * QEMU: handle_dependencies().  Clusters that stay where they are can be
 * shared if the COW regions are disjoint, unless the pass is exclusive.
 *
 * What it visits does not grow with what is in flight elsewhere: the metas in the
 * first cluster of the pass and in its last one, where those that do not conflict
 * can be, and one more.  In one cluster there are no more metas than subclusters,
 * because two that change the same byte are never in flight at a time.
 *
 * Of some in the first cluster the newest is waited for: it will often be the last
 * to land.  Whoever waits holds nothing, and looks again afterwards, so it
 * matters to nobody's safety which one it is.
 *
 * Context: meta_lock held.
 * Return: 0, with *@bytes 0 if the pass must end here; -EINPROGRESS if it must
 * wait and has nothing yet.
 */
int handle_dependencies(struct qcow2_pass *pass, u64 guest_offset, u64 *bytes)
{
	const struct qcow2_geometry *geo = &pass->img->geo;
	struct qcow2_l2_meta *meta;
	u64 start;

	lockdep_assert_held(&pass->img->meta_lock);
	meta = find_conflict(pass, guest_offset, guest_offset + *bytes);
	if (!meta)
		return 0;
	start = qcow2_cluster_start(geo, meta_cow_start(meta));
	if (guest_offset < start) {
		*bytes = start - guest_offset;
		return 0;
	}
	*bytes = 0;
	if (pass->bytes)
		return 0;
	pass->blocker = meta;
	return -EINPROGRESS;
}
EXPORT_SYMBOL_IF_KUNIT(handle_dependencies);

/*
 * Which clusters, and what of them must be copied.
 */

/**
 * cluster_needs_new_alloc() - must a write take a new cluster for this one?
 * @geo: geometry
 * @word: L2 entry
 *
 * QEMU: cluster_needs_new_alloc().  A ZERO_ALLOC cluster is written where it
 * is too, though what is not written of it must be zeroed.  The clusters of an
 * external data file are nobody else's, whatever the entry says.
 *
 * Return: true unless it has a host cluster of its own.
 */
VISIBLE_IF_KUNIT bool cluster_needs_new_alloc(const struct qcow2_geometry *geo,
					      u64 word)
{
	switch (qcow2_get_cluster_type(geo, word)) {
	case QCOW2_CLUSTER_NORMAL:
	case QCOW2_CLUSTER_ZERO_ALLOC:
		return !(word & QCOW2_OFLAG_COPIED) && !geo->has_data_file;
	case QCOW2_CLUSTER_UNALLOCATED:
	case QCOW2_CLUSTER_ZERO_PLAIN:
	case QCOW2_CLUSTER_COMPRESSED:
		break;
	}
	return true;
}
EXPORT_SYMBOL_IF_KUNIT(cluster_needs_new_alloc);

/**
 * count_single_write_clusters() - how many clusters go in one write?
 * @geo: geometry
 * @slice: L2 slice
 * @index: first entry
 * @nb_clusters: how many are of interest; the caller has made sure that they
 *	are in the slice
 * @new_alloc: count those that need a new cluster, else those that can be
 *	written where they are and are contiguous there
 *
 * QEMU: count_single_write_clusters().
 *
 * Return: the count.
 */
VISIBLE_IF_KUNIT u32
count_single_write_clusters(const struct qcow2_geometry *geo,
			    const struct qcow2_slice *slice, u32 index,
			    u32 nb_clusters, bool new_alloc)
{
	u64 expected = 0;
	u32 i;

	for (i = 0; i < nb_clusters; i++) {
		struct qcow2_l2_entry entry = qcow2_get_l2_entry(geo, slice,
								 index + i);
		u64 offset = entry.word & QCOW2_OFFSET_MASK;

		if (qcow2_check_l2_entry(geo, entry) ||
		    cluster_needs_new_alloc(geo, entry.word) != new_alloc)
			break;
		if (!new_alloc && i && offset != expected)
			break;
		expected = offset + geo->cluster_bytes;
	}
	return i;
}
EXPORT_SYMBOL_IF_KUNIT(count_single_write_clusters);

/* Guest bytes that a run covers, from the one that is written first. */
static u64 run_bytes(const struct qcow2_geometry *geo, u32 nb_clusters,
		     u64 guest_offset)
{
	return ((u64)nb_clusters << geo->cluster_bits) -
	       qcow2_into_cluster(geo, guest_offset);
}

static u32 subcluster_of(const struct qcow2_geometry *geo, u64 guest_offset)
{
	return qcow2_into_cluster(geo, guest_offset) >> geo->subcluster_bits;
}

static u32 subcluster_bytes(const struct qcow2_geometry *geo)
{
	return 1U << geo->subcluster_bits;
}

static bool all_normal(const struct qcow2_geometry *geo,
		       const struct qcow2_slice *slice, u64 guest_offset,
		       u64 bytes)
{
	u64 end = guest_offset + bytes;
	u32 index = qcow2_l2_slice_index(geo, guest_offset);
	u64 first = qcow2_cluster_start(geo, guest_offset);
	u64 pos = guest_offset;

	while (pos < end) {
		u32 i = index + ((pos - first) >> geo->cluster_bits);

		if (qcow2_get_subcluster_type(geo,
					      qcow2_get_l2_entry(geo, slice, i),
					      subcluster_of(geo, pos)) !=
		    QCOW2_SUBCLUSTER_NORMAL)
			return false;
		pos = ALIGN(pos + 1, (u64)subcluster_bytes(geo));
	}
	return true;
}

/* First subcluster with data in the host cluster, 32 if there is none. */
static u32 first_alloc(struct qcow2_l2_entry entry)
{
	u32 alloc = entry.bitmap;

	return alloc ? __ffs(alloc) : QCOW2_SUBCLUSTERS_EXTL2;
}

/* Behind the last subcluster with data in the host cluster, 0 if none. */
static u32 end_alloc(struct qcow2_l2_entry entry)
{
	return fls((u32)entry.bitmap);
}

/*
 * Where the copying in front of the first written byte, at @start of the first
 * cluster, has to begin.
 */
static u32 cow_start_from(const struct qcow2_geometry *geo,
			  struct qcow2_l2_entry entry, u32 start, bool keep_old)
{
	u32 subcluster = start >> geo->subcluster_bits;
	enum qcow2_subcluster_type type;

	type = qcow2_get_subcluster_type(geo, entry, subcluster);
	switch (type) {
	case QCOW2_SUBCLUSTER_NORMAL:
	case QCOW2_SUBCLUSTER_ZERO_ALLOC:
	case QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC:
		if (keep_old && type == QCOW2_SUBCLUSTER_NORMAL)
			return start;
		if (keep_old)
			break;
		if (!qcow2_has_extl2(geo))
			return 0;
		return min(subcluster, first_alloc(entry)) <<
		       geo->subcluster_bits;
	case QCOW2_SUBCLUSTER_COMPRESSED:
		return 0;
	default:
		break;
	}
	return ALIGN_DOWN(start, subcluster_bytes(geo));
}

/* Likewise where it has to end, behind the last cluster's first @end bytes. */
static u32 cow_end_to(const struct qcow2_geometry *geo,
		      struct qcow2_l2_entry entry, u32 end, bool keep_old)
{
	u32 subcluster = (end - 1) >> geo->subcluster_bits;
	enum qcow2_subcluster_type type;

	type = qcow2_get_subcluster_type(geo, entry, subcluster);
	switch (type) {
	case QCOW2_SUBCLUSTER_NORMAL:
	case QCOW2_SUBCLUSTER_ZERO_ALLOC:
	case QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC:
		if (keep_old && type == QCOW2_SUBCLUSTER_NORMAL)
			return end;
		if (keep_old)
			break;
		if (!qcow2_has_extl2(geo))
			return geo->cluster_bytes;
		return max_t(u32, subcluster + 1, end_alloc(entry)) <<
		       geo->subcluster_bits;
	case QCOW2_SUBCLUSTER_COMPRESSED:
		return geo->cluster_bytes;
	default:
		break;
	}
	return ALIGN(end, subcluster_bytes(geo));
}

/**
 * calculate_l2_meta() - put on record what a run of clusters will need
 * @pass: the pass; its meta is set if L2 entries will change
 * @slice: L2 slice
 * @host_offset: of the run's first cluster
 * @guest_offset: first byte to be written
 * @bytes: how many; the run ends with the last one's cluster
 * @keep_old: the clusters stay where they are
 *
 * QEMU: calculate_l2_meta().  In place and all NORMAL there is nothing to
 * change and nothing to put on record.  The caller has made sure that the run
 * lies in the slice and that there is a spare meta if one is needed; the former is
 * asserted here, for all who use the meta's entries.
 *
 * Context: meta_lock held.
 * Return: 0; -EIO if the run is not in the slice, with nothing on record.
 */
VISIBLE_IF_KUNIT int calculate_l2_meta(struct qcow2_pass *pass,
				       struct qcow2_slice *slice,
				       u64 host_offset, u64 guest_offset,
				       u64 bytes, bool keep_old)
{
	const struct qcow2_geometry *geo = &pass->img->geo;
	u32 index = qcow2_l2_slice_index(geo, guest_offset);
	u32 start = qcow2_into_cluster(geo, guest_offset);
	u32 end = start + bytes;
	u64 nb_clusters = qcow2_clusters_of(geo, start + bytes);
	u32 last = (nb_clusters - 1) << geo->cluster_bits;
	u64 first = qcow2_cluster_start(geo, guest_offset);
	struct qcow2_l2_meta *meta = pass->spare;
	u32 from, to;
	int ret;

	lockdep_assert_held(&pass->img->meta_lock);
	ret = qcow2_assert(pass->img, bytes && index + nb_clusters <=
				      BIT(geo->l2_slice_bits));
	if (ret || (keep_old && all_normal(geo, slice, guest_offset, bytes)))
		return ret;
	from = cow_start_from(geo, qcow2_get_l2_entry(geo, slice, index),
			      start, keep_old);
	to = last + cow_end_to(geo,
			       qcow2_get_l2_entry(geo, slice,
						  index + nb_clusters - 1),
			       end - last, keep_old);
	/* A raw data file is no longer than the disk. */
	if (geo->raw_data)
		to = min_t(u64, to, qcow2_virtual_bytes(pass->img) - first);
	*meta = (struct qcow2_l2_meta) {
		.guest_offset = first,
		.host_offset = host_offset,
		.nb_clusters = nb_clusters,
		.keep_old = keep_old,
		.cow_start = { .offset = from, .bytes = start - from },
		.cow_end = { .offset = end, .bytes = to - end },
		.l2 = slice,
		.l2_index = index,
	};
	refcount_inc(&slice->refs);
	qcow2_launch_meta(pass->img, meta);
	pass->spare = NULL;
	pass->meta = meta;
	return 0;
}
EXPORT_SYMBOL_IF_KUNIT(calculate_l2_meta);

/*
 * Finding host clusters.
 */

/* Host offset at which the pass must go on, 0 if it is free to choose. */
static u64 wanted_offset(const struct qcow2_pass *pass)
{
	return pass->bytes ? pass->host_offset + pass->bytes : 0;
}

static void accept_run(struct qcow2_pass *pass, u64 host_offset)
{
	if (!pass->bytes)
		pass->host_offset = host_offset;
}

/* Clusters that @bytes bytes touch, as far as they are in the slice. */
static u32 clusters_in_slice(const struct qcow2_geometry *geo, u64 guest_offset,
			     u64 bytes)
{
	u32 index = qcow2_l2_slice_index(geo, guest_offset);
	u64 nb = qcow2_clusters_of(geo, qcow2_into_cluster(geo, guest_offset) +
					bytes);

	return min_t(u64, nb, BIT(geo->l2_slice_bits) - index);
}

/**
 * handle_copied() - find clusters that can be overwritten where they are
 * @pass: the pass
 * @slice: L2 slice
 * @guest_offset: first byte
 * @bytes: how many; shortened to the run, or 0 if the pass must end here
 *
 * QEMU: handle_copied().  NORMAL and ZERO_ALLOC clusters with a refcount of 1
 * that follow each other in the file.
 *
 * Context: meta_lock held.
 * Return: 1 if the run is taken; 0 if the first cluster is not of that kind
 * (*@bytes is unchanged then) or not where the pass must go on (*@bytes is 0);
 * -EAGAIN if entries would change and too many slices are dirty; -EUCLEAN if it is
 * metadata; -EIO if there is a bug of ours.
 */
VISIBLE_IF_KUNIT int handle_copied(struct qcow2_pass *pass,
				   struct qcow2_slice *slice, u64 guest_offset,
				   u64 *bytes)
{
	const struct qcow2_geometry *geo = &pass->img->geo;
	u32 index = qcow2_l2_slice_index(geo, guest_offset);
	u64 word = qcow2_get_l2_entry(geo, slice, index).word;
	u64 cluster = word & QCOW2_OFFSET_MASK;
	u64 host = cluster + qcow2_into_cluster(geo, guest_offset);
	u32 nb;
	int ret;

	if (cluster_needs_new_alloc(geo, word))
		return 0;
	if (wanted_offset(pass) && wanted_offset(pass) != host) {
		*bytes = 0;
		return 0;
	}
	nb = count_single_write_clusters(geo, slice, index,
					 clusters_in_slice(geo, guest_offset,
							   *bytes), false);
	ret = qcow2_assert(pass->img, nb > 0);
	if (ret)
		return ret;
	if (qcow2_check_data_write(pass->img, cluster,
				   (u64)nb << geo->cluster_bits))
		return -EUCLEAN;
	*bytes = min(*bytes, run_bytes(geo, nb, guest_offset));
	if (!all_normal(geo, slice, guest_offset, *bytes) &&
	    qcow2_need_room(pass->img, &pass->need))
		return -EAGAIN;
	qcow2_vet_slice(pass->img, slice);
	qcow2_clusters_in_use(pass->img, cluster, nb);
	ret = calculate_l2_meta(pass, slice, cluster, guest_offset, *bytes,
				true);
	if (ret)
		return ret;
	accept_run(pass, host);
	return 1;
}
EXPORT_SYMBOL_IF_KUNIT(handle_copied);

/*
 * A run of clusters whose entries will lose what they refer to: shortens it to
 * those of which that can be told without I/O, and which one record has room for.
 */
static int check_old_counted(struct qcow2_pass *pass,
			     const struct qcow2_slice *slice, u32 index,
			     u32 *nb_clusters)
{
	const struct qcow2_geometry *geo = &pass->img->geo;
	u32 i, nr, room = QCOW2_DROP_ROOM;
	u64 first;

	for (i = 0; i < *nb_clusters; i++, room -= nr) {
		u64 word = qcow2_get_l2_entry(geo, slice, index + i).word;
		int ret = qcow2_check_entry_counted(pass->img, word,
						    &pass->need);

		nr = qcow2_entry_clusters(geo, word, &first);
		if (i && (ret == -EAGAIN || (!ret && nr > room)))
			*nb_clusters = i;
		else if (ret)
			return ret;
	}
	return 0;
}

/* Puts a run of new clusters on record, or gives it back. */
static int use_new_clusters(struct qcow2_pass *pass, struct qcow2_slice *slice,
			    struct qcow2_run *run, u64 guest_offset, u64 bytes)
{
	int ret = calculate_l2_meta(pass, slice, run->host_offset, guest_offset,
				    bytes, false);

	if (!ret) {
		pass->meta->refblock = run->refblock;
		pass->meta->fresh = run->fresh;
	} else if (!pass->img->geo.has_data_file) {
		qcow2_alloc_undo(pass->img, run);
	}
	return ret;
}

/**
 * handle_alloc() - take new clusters
 * @pass: the pass
 * @slice: L2 slice
 * @guest_offset: first byte, in a cluster that handle_copied() does not want
 * @bytes: how many; shortened to the run, or 0 if the pass must end here
 *
 * QEMU: handle_alloc().
 *
 * Context: meta_lock held.
 * Return: 1 if the run is taken; 0 if the pass must end here; -EAGAIN if
 * something is needed first; or another negative errno.
 */
VISIBLE_IF_KUNIT int handle_alloc(struct qcow2_pass *pass,
				  struct qcow2_slice *slice, u64 guest_offset,
				  u64 *bytes)
{
	const struct qcow2_geometry *geo = &pass->img->geo;
	u32 index = qcow2_l2_slice_index(geo, guest_offset);
	u32 nb = count_single_write_clusters(geo, slice, index,
					     clusters_in_slice(geo,
							       guest_offset,
							       *bytes), true);
	struct qcow2_run run;
	int ret = qcow2_assert(pass->img, nb > 0);

	ret = ret ?: qcow2_need_room(pass->img, &pass->need);
	ret = ret ?: check_old_counted(pass, slice, index, &nb);
	if (ret)
		return ret;
	if (geo->has_data_file)
		qcow2_alloc_in_data_file(pass->img, guest_offset, nb, &run);
	else
		ret = qcow2_alloc_for_guest(pass->img, guest_offset,
					    wanted_offset(pass), nb,
					    &pass->need, &run);
	if (ret)
		return ret;
	if (!run.nb_clusters) {
		*bytes = 0;
		return 0;
	}
	*bytes = min(*bytes, run_bytes(geo, run.nb_clusters, guest_offset));
	ret = use_new_clusters(pass, slice, &run, guest_offset, *bytes);
	if (ret)
		return ret;
	accept_run(pass, run.host_offset +
			 qcow2_into_cluster(geo, guest_offset));
	return 1;
}
EXPORT_SYMBOL_IF_KUNIT(handle_alloc);

static int check_first_entry(struct qcow2_pass *pass, struct qcow2_slice *slice,
			     u64 guest_offset)
{
	const struct qcow2_geometry *geo = &pass->img->geo;
	struct qcow2_l2_entry entry;

	entry = qcow2_get_l2_entry(geo, slice,
				   qcow2_l2_slice_index(geo, guest_offset));
	return qcow2_vet_l2_entry(pass->img, entry, guest_offset);
}

/* A durable mapping, so that FUA needs no commit. */
static bool mapping_is_durable(const struct qcow2_slice *slice)
{
	return !test_bit(QCOW2_SLICE_DIRTY, &slice->flags) &&
	       !test_bit(QCOW2_SLICE_COMMITTING, &slice->flags);
}

/* One run more; *@bytes is shortened to it, 0 if the pass must end before. */
static int take_run(struct qcow2_pass *pass, u64 guest_offset, u64 *bytes)
{
	struct qcow2_slice *slice;
	int ret;

	ret = handle_dependencies(pass, guest_offset, bytes);
	if (ret || !*bytes)
		return ret;
	ret = qcow2_own_l2_slice(pass->img, guest_offset, &pass->need, &slice);
	if (ret)
		return ret;
	ret = check_first_entry(pass, slice, guest_offset);
	if (!ret) {
		pass->durable = mapping_is_durable(slice);
		ret = handle_copied(pass, slice, guest_offset, bytes);
	}
	if (!ret && *bytes)
		ret = handle_alloc(pass, slice, guest_offset, bytes);
	qcow2_slice_put(slice);
	return min(ret, 0);
}

/* Extends the pass run by run; ends with what it has when it cannot go on. */
static int take_runs(struct qcow2_pass *pass, u64 guest_offset, u64 bytes)
{
	int ret = 0;

	while (!ret && !pass->meta && pass->bytes < bytes) {
		u64 cur = bytes - pass->bytes;

		ret = take_run(pass, guest_offset + pass->bytes, &cur);
		if (!ret && !cur)
			break;
		if (!ret)
			pass->bytes += cur;
	}
	return pass->bytes ? 0 : ret;
}

/**
 * qcow2_alloc_host_offset() - decide where the next bytes of a write go
 * @pass: zeroed but for its image; filled in
 * @io: the write; put on a meta's list of waiters after -EINPROGRESS, so that
 *	it may be running again before this returns
 * @bytes: how many are left, more than 0
 *
 * QEMU: qcow2_alloc_host_offset().
 *
 * Context: sleeps, may do I/O to bring what is missing.
 * Return: 0 with at least one byte in the pass; -EINPROGRESS; or another
 * negative errno, with nothing taken.
 */
static int qcow2_alloc_host_offset(struct qcow2_pass *pass, struct qcow2_io *io,
				   u64 bytes)
{
	struct qcow2_image *img = pass->img;
	int ret;

	bytes = min(bytes, qcow2_to_slice_end(&img->geo, io->offset));
	pass->spare = mempool_alloc(img->meta_pool, GFP_NOIO);
	for (;;) {
		mutex_lock(&img->meta_lock);
		ret = take_runs(pass, io->offset, bytes);
		if (ret == -EINPROGRESS)
			list_add_tail(&io->wait, &pass->blocker->waiters);
		mutex_unlock(&img->meta_lock);
		if (ret != -EAGAIN)
			break;
		ret = qcow2_need_meet(img, &pass->need);
		if (ret)
			break;
	}
	qcow2_need_done(&pass->need);
	if (pass->spare)
		mempool_free(pass->spare, img->meta_pool);
	return ret;
}

/*
 * Linking.
 */

/**
 * qcow2_requeue_waiters() - let operations go on that waited for metas
 * @waiters: from qcow2_land_meta(); empty afterwards
 *
 * Context: any.
 */
void qcow2_requeue_waiters(struct list_head *waiters)
{
	struct qcow2_io *io, *next;

	list_for_each_entry_safe(io, next, waiters, wait) {
		list_del_init(&io->wait);
		qcow2_io_queue(io);
	}
}

/* The bits of cluster @i of the run whose subclusters hold data now. */
static u64 written_subclusters(const struct qcow2_geometry *geo,
			       const struct qcow2_l2_meta *meta, u32 i)
{
	u64 cluster = (u64)i << geo->cluster_bits;
	u64 from = max_t(u64, meta->cow_start.offset, cluster) - cluster;
	u64 to = min_t(u64, meta->cow_end.offset + meta->cow_end.bytes,
		       cluster + geo->cluster_bytes) - cluster;

	return QCOW2_SUB_RANGE(from >> geo->subcluster_bits,
			       DIV_ROUND_UP(to, subcluster_bytes(geo)));
}

/**
 * linked_entry() - an L2 entry as it shall be after a write
 * @geo: geometry
 * @meta: the meta
 * @i: which cluster of the run
 * @old: the entry as it is
 *
 * Return: the entry.
 */
VISIBLE_IF_KUNIT struct qcow2_l2_entry
linked_entry(const struct qcow2_geometry *geo, const struct qcow2_l2_meta *meta,
	     u32 i, struct qcow2_l2_entry old)
{
	struct qcow2_l2_entry new = {
		.word = (meta->host_offset + ((u64)i << geo->cluster_bits)) |
			QCOW2_OFLAG_COPIED,
	};
	u64 written;

	if (qcow2_has_extl2(geo)) {
		written = written_subclusters(geo, meta, i);
		new.bitmap = (old.bitmap | written) & ~(written << 32);
	}
	return new;
}
EXPORT_SYMBOL_IF_KUNIT(linked_entry);

static u64 old_word(const struct qcow2_geometry *geo,
		    const struct qcow2_l2_meta *meta, u32 i)
{
	return qcow2_get_l2_entry(geo, meta->l2, meta->l2_index + i).word;
}

/* Puts on record the host clusters that the entries of a run refer to now. */
static int record_old_clusters(struct qcow2_image *img,
			       struct qcow2_l2_meta *meta)
{
	const struct qcow2_geometry *geo = &img->geo;
	u32 i, nr = 0;
	u64 first;

	if (meta->keep_old)
		return 0;
	for (i = 0; i < meta->nb_clusters; i++)
		nr += qcow2_entry_clusters(geo, old_word(geo, meta, i), &first);
	if (!nr)
		return 0;
	meta->drop = qcow2_drop_alloc(img, nr);
	if (!meta->drop)
		return -QCOW2_NO_RECORD;
	meta->drop->nr = 0;
	for (i = 0; i < meta->nb_clusters; i++)
		qcow2_drop_add_entry(geo, meta->drop, old_word(geo, meta, i));
	return 0;
}

/*
 * All that linking could have to wait for.  It is done before the transfer, since a few
 * workers link the metas of all writes.  A meta that waited there, maybe for memory that
 * those behind it would set free, would keep them up too.
 */
static int prepare_link(struct qcow2_image *img, struct qcow2_l2_meta *meta)
{
	int ret = qcow2_mark_dirty(img);

	/* In flight, the entries are nobody else's to change. */
	return ret ?: record_old_clusters(img, meta);
}

static int set_entries(struct qcow2_image *img, struct qcow2_l2_meta *meta)
{
	const struct qcow2_geometry *geo = &img->geo;
	int ret = 0;
	u32 i;

	for (i = 0; !ret && i < meta->nb_clusters; i++) {
		u32 index = meta->l2_index + i;
		struct qcow2_l2_entry old = qcow2_get_l2_entry(geo, meta->l2,
							       index);

		ret = qcow2_set_l2_entry(geo, meta->l2, index,
					 linked_entry(geo, meta, i, old));
	}
	if (ret)
		qcow2_image_fail(img, ret, "cannot link %u clusters at L2 entry %u",
				 meta->nb_clusters, meta->l2_index);
	return ret;
}

/**
 * qcow2_alloc_cluster_link_l2() - let the L2 entries refer to what was written
 * @img: the image
 * @meta: the meta after prepare_link(); its data and COW data are in the file.
 *	Gone on return.
 *
 * QEMU: qcow2_alloc_cluster_link_l2(), of which perform_cow() is apart here.
 * Old clusters lose their reference when the change is durable (invariant I3); they
 * keep it if there is a bug of ours, so that not all entries were changed.
 *
 * Context: sleeps for meta_lock; no I/O, no memory.
 * Return: 0; -EIO, with the image failed, if there is such a bug.
 */
static int qcow2_alloc_cluster_link_l2(struct qcow2_image *img,
				       struct qcow2_l2_meta *meta)
{
	LIST_HEAD(waiters);
	int ret;

	mutex_lock(&img->meta_lock);
	ret = set_entries(img, meta);
	qcow2_slice_mark_dirty(img, meta->l2);
	if (meta->drop && !ret) {
		qcow2_drop_later(img, meta->drop);
		meta->drop = NULL;
	}
	qcow2_land_meta(img, meta, &waiters);
	mutex_unlock(&img->meta_lock);
	qcow2_requeue_waiters(&waiters);
	free_meta(img, meta);
	return ret;
}

/**
 * qcow2_alloc_cluster_abort() - the write failed, nothing changes
 * @img: the image
 * @meta: the meta; gone
 *
 * QEMU: qcow2_alloc_cluster_abort().
 *
 * Context: sleeps for meta_lock; no I/O.
 */
static void qcow2_alloc_cluster_abort(struct qcow2_image *img,
				      struct qcow2_l2_meta *meta)
{
	struct qcow2_run run = {
		.host_offset = meta->host_offset,
		.nb_clusters = meta->nb_clusters,
		.refblock = meta->refblock,
	};
	LIST_HEAD(waiters);

	mutex_lock(&img->meta_lock);
	if (!meta->keep_old && !img->geo.has_data_file) {
		qcow2_alloc_undo(img, &run);
		meta->refblock = NULL;
	}
	qcow2_land_meta(img, meta, &waiters);
	mutex_unlock(&img->meta_lock);
	qcow2_requeue_waiters(&waiters);
	free_meta(img, meta);
}

/*
 * One pass.
 */

/* The data is in the file, or could not be written; the meta is gone after this. */
static int finish_meta(struct qcow2_io *io, struct qcow2_l2_meta *meta, int ret)
{
	struct qcow2_image *img = io->img;

	qcow2_cow_done(img, meta);
	if (ret)
		qcow2_alloc_cluster_abort(img, meta);
	else
		ret = qcow2_alloc_cluster_link_l2(img, meta);
	io->must_commit |= io->fua;
	return ret;
}

static void transfer_ended(struct qcow2_l2_meta *meta)
{
	struct qcow2_part *part = meta->part;
	struct qcow2_io *io = part->io;
	int ret = finish_meta(io, meta, part->fio.error);

	qcow2_epoch_exit(part->epoch);
	qcow2_part_free(part);
	if (ret == -ENOSPC) {
		io->lacks_space = true;
		qcow2_io_queue(io);
		return;
	}
	qcow2_io_set_error(io, ret);
	qcow2_io_put(io);
}

static void link_written(struct work_struct *work)
{
	unsigned int noio = memalloc_noio_save();

	transfer_ended(container_of(work, struct qcow2_l2_meta, work));
	memalloc_noio_restore(noio);
}

static void transfer_done(struct qcow2_fio *fio)
{
	struct qcow2_part *part = container_of(fio, struct qcow2_part, fio);

	if (atomic_dec_and_test(&part->meta->pending))
		queue_work(part->io->img->link_wq, &part->meta->work);
}

/* Takes over the operation, the meta and the epoch. */
static void start_transfer(struct qcow2_io *io, struct qcow2_l2_meta *meta,
			   struct qcow2_epoch *epoch, u64 host_offset,
			   const struct iov_iter *data)
{
	struct qcow2_part *part = qcow2_part_alloc(io);

	atomic_set(&meta->pending, 2);
	INIT_WORK(&meta->work, link_written);
	meta->part = part;
	part->meta = meta;
	part->epoch = epoch;
	/* Others may have to wait for the meta, whose priority is higher. */
	part->fio.ioprio = 0;
	qcow2_part_start(part, qcow2_data_file(io->img), host_offset, data,
			 transfer_done);
	/* Often it has ended already; else it is no business of ours any more. */
	if (atomic_dec_and_test(&meta->pending))
		transfer_ended(meta);
}

static int write_with_meta(struct qcow2_io *io, struct qcow2_pass *pass,
			   struct qcow2_epoch *epoch)
{
	bool last = pass->bytes == iov_iter_count(&io->iter);
	struct qcow2_l2_meta *meta = pass->meta;
	struct qcow2_image *img = io->img;
	u64 host_offset = pass->host_offset;
	struct iov_iter iter;
	bool rest;
	int ret;

	qcow2_io_slice_iter(io, pass->bytes, &iter);
	ret = prepare_link(img, meta);
	ret = ret ?: qcow2_cow_one_transfer(img, meta, &host_offset, &iter,
					    &rest);
	if (!ret && !rest && last && io->op == QCOW2_OP_WRITE) {
		start_transfer(io, meta, epoch, host_offset, &iter);
		return -EINPROGRESS;
	}
	ret = ret ?: qcow2_file_rw(qcow2_data_file(img), true, host_offset,
				   &iter);
	if (!ret && rest)
		ret = qcow2_cow_regions(img, meta);
	ret = finish_meta(io, meta, ret);
	qcow2_epoch_exit(epoch);
	return ret;
}

/* Starts a write that changes no mapping; takes over the epoch. */
static void write_in_place(struct qcow2_io *io, struct qcow2_pass *pass,
			   struct qcow2_epoch *epoch)
{
	struct qcow2_part *part = qcow2_part_alloc(io);

	part->epoch = epoch;
	part->fio.dsync = io->fua && pass->durable;
	io->must_commit |= io->fua && !pass->durable;
	qcow2_part_submit(part, qcow2_data_file(io->img), pass->host_offset,
			  pass->bytes);
}

static int write_at(struct qcow2_io *io, struct qcow2_pass *pass,
		    struct qcow2_epoch *epoch)
{
	if (pass->meta)
		return write_with_meta(io, pass, epoch);
	write_in_place(io, pass, epoch);
	return 0;
}

static int write_next(struct qcow2_io *io)
{
	struct qcow2_image *img = io->img;
	struct qcow2_epoch *epoch = qcow2_epoch_enter(img);
	struct qcow2_pass pass = { .img = img };
	int ret;

	ret = qcow2_alloc_host_offset(&pass, io, iov_iter_count(&io->iter));
	if (ret) {
		qcow2_epoch_exit(epoch);
		return ret;
	}
	ret = write_at(io, &pass, epoch);
	if (!ret)
		qcow2_io_advance(io, pass.bytes);
	return ret;
}

/**
 * qcow2_may_write() - is the image fit for changes?
 * @io: the operation that wants to make them, which holds nothing
 *
 * Context: sleeps, may do I/O.
 * Return: 0; -EINPROGRESS, then @io is not the caller's any more; or another
 * negative errno.
 */
int qcow2_may_write(struct qcow2_io *io)
{
	struct qcow2_image *img = io->img;
	int ret;

	if (qcow2_image_read_only(img))
		return -EROFS;
	if (qcow2_image_needs_check(img))
		return -EIO;
	ret = qcow2_image_prepare_write(img);
	return ret ?: qcow2_drops_wait(img, io);
}

/**
 * qcow2_write_some() - write a prefix of an operation's data
 * @io: the operation, which is advanced
 *
 * Context: on the image's workqueue.
 * Return: 0; -EINPROGRESS, then the operation is not the caller's any more;
 * or another negative errno.
 */
int qcow2_write_some(struct qcow2_io *io)
{
	int ret = qcow2_may_write(io);

	ret = ret ?: write_next(io);
	if (ret == -ENOSPC)
		ret = qcow2_space_wait(io->img, io);
	else if (ret == -QCOW2_NO_RECORD)
		ret = qcow2_record_wait(io->img, io);
	return ret;
}

/**
 * qcow2_write() - carry out a write, or what is left of it
 * @io: the operation
 *
 * QEMU: qcow2_co_pwritev_part().
 *
 * Context: on the image's workqueue.
 */
void qcow2_write(struct qcow2_io *io)
{
	int ret = 0;

	if (io->lacks_space) {
		io->lacks_space = false;
		ret = qcow2_space_wait(io->img, io);
	}
	while (!ret && iov_iter_count(&io->iter))
		ret = qcow2_write_some(io);
	if (ret == -EINPROGRESS)
		return;		/* not ours any more */
	qcow2_io_set_error(io, ret);
	qcow2_io_put(io);
}

/**
 * qcow2_write_init() - prepare an image for writes
 * @img: the image
 *
 * Return: 0 or -ENOMEM; qcow2_write_exit() is due in both cases.
 */
int qcow2_write_init(struct qcow2_image *img)
{
	img->meta_pool = mempool_create_slab_pool(META_POOL_MIN, meta_cache);
	return img->meta_pool ? 0 : -ENOMEM;
}

/**
 * qcow2_write_exit() - undo that
 * @img: the image; no operation runs
 */
void qcow2_write_exit(struct qcow2_image *img)
{
	mempool_destroy(img->meta_pool);
}
