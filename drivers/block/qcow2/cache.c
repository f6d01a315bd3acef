// SPDX-License-Identifier: GPL-2.0-only
/*
 * The metadata cache: slices of the L1 table, L2 tables and refcount blocks.
 */

/**
 * DOC: metadata cache
 *
 * Tables are cached in slices of a cluster or a page, whichever is smaller, in an
 * xarray by host offset.  The slices of small clusters share pages, unless the file needs
 * pages of their own.  A slice that is not there is put in empty by whoever comes first, who
 * then reads it, while all others that want the same slice, and only they, wait for its
 * completion.
 *
 * A slice lives as long as somebody holds a reference: the cache itself, users,
 * the dirty list, a running commit.  The cache gives up its reference, from
 * the cold end of the LRU, when it holds more than its cap, and only if it is
 * the last one; so neither a dirty slice nor one in use can be dropped and
 * read back in an older state.  A lookup costs no write to a shared cache line
 * but the reference: the LRU is a clock that looks at a bit.
 *
 * A slice must not outlive its table: whoever frees a cluster calls
 * qcow2_cache_forget() before the cluster can be used again.
 */

#include <linux/build_bug.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/minmax.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/shrinker.h>
#include <linux/slab.h>

#include "image.h"

/* Enough for some writers, or readers, to make progress when there is no memory. */
#define SLICE_POOL_MIN		32
#define LAYER_SLICE_POOL_MIN	4

/*
 * Slices that one insertion looks at to drop one; of the first it spares those
 * that were looked up, but the cap comes before that.
 */
#define SHRINK_SPARE	16
#define SHRINK_SCAN	128

/* Slices that go at once when there is no memory for another one. */
#define EVICT_SLICES	16U
#define EVICT_SCAN	4096

/*
 * Allocation.
 */

/**
 * qcow2_slice_data_bits() - memory that the data of a slice takes
 * @img: the image
 *
 * Context: any.
 * Return: the logarithm of the bytes; never changes.
 */
unsigned int qcow2_slice_data_bits(const struct qcow2_image *img)
{
	return qcow2_file_needs_pages(img->file) ? PAGE_SHIFT :
						   img->geo.slice_bits;
}

/**
 * qcow2_slice_data_alloc() - memory for the data of a slice
 * @img: the image
 * @gfp: as for kmalloc()
 *
 * It can be read from the file and written there: kmalloc() aligns a power of two to its
 * size.  A whole page comes from the page allocator, to which it goes back at once when
 * it is freed.
 *
 * Context: as kmalloc().
 * Return: the memory, not zeroed; or NULL.
 */
void *qcow2_slice_data_alloc(const struct qcow2_image *img, gfp_t gfp)
{
	if (qcow2_slice_data_bits(img) == PAGE_SHIFT)
		return (void *)__get_free_page(gfp);
	return kmalloc(qcow2_slice_bytes(&img->geo), gfp);
}

/**
 * qcow2_slice_data_free() - free what qcow2_slice_data_alloc() gave
 * @img: the image
 * @data: it, or NULL
 *
 * Context: any.
 */
void qcow2_slice_data_free(const struct qcow2_image *img, void *data)
{
	if (qcow2_slice_data_bits(img) == PAGE_SHIFT)
		free_page((unsigned long)data);
	else
		kfree(data);
}

static void *slice_pool_alloc(gfp_t gfp, void *img)
{
	struct qcow2_slice *slice = kzalloc_obj(*slice, gfp);

	if (!slice)
		return NULL;
	slice->data = qcow2_slice_data_alloc(img, gfp);
	if (slice->data)
		return slice;
	kfree(slice);
	return NULL;
}

static void slice_pool_free(void *element, void *img)
{
	struct qcow2_slice *slice = element;

	qcow2_slice_data_free(img, slice->data);
	kfree(slice);
}

static void slice_free_rcu(struct rcu_head *rcu)
{
	struct qcow2_slice *slice = container_of(rcu, struct qcow2_slice, rcu);

	mempool_free(slice, slice->cache->pool);
}

/* Lookups under RCU may see it still. */
static void free_later(struct qcow2_slice *slice)
{
	WRITE_ONCE(slice->cache->freed_any, true);
	call_rcu(&slice->rcu, slice_free_rcu);
}

/**
 * qcow2_slice_put() - drop a reference
 * @slice: from qcow2_slice_find() or qcow2_slice_get(), or NULL
 *
 * Context: any.
 */
void qcow2_slice_put(struct qcow2_slice *slice)
{
	if (slice && refcount_dec_and_test(&slice->refs))
		free_later(slice);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_slice_put);

/*
 * LRU.
 */

static_assert(BITS_PER_LONG == 64);	/* else offsets would share keys */

static unsigned long slice_key(u64 offset)
{
	return offset >> QCOW2_MIN_CLUSTER_BITS;
}

/* Takes a slice out of the cache, whose reference is the caller's now. */
static void take_out(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
	lockdep_assert_held(&cache->lock);
	xa_erase(&cache->slices, slice_key(slice->offset));
	list_del_init(&slice->lru);
	WRITE_ONCE(cache->nr, cache->nr - 1);
}

/*
 * Takes a slice out of the cache if nobody else holds it.  A lookup that finds
 * it in the xarray before the erasure sees a reference count of 0 and retries.
 */
static bool drop_if_unused(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
	lockdep_assert_held(&cache->lock);
	if (!refcount_dec_if_one(&slice->refs))
		return false;
	take_out(cache, slice);
	free_later(slice);
	return true;
}

/*
 * Turns the clock by @scan slices or until @keep are left, and says how many
 * were dropped.  Of the first @spare those stay that were looked up.
 */
static unsigned int shrink(struct qcow2_cache *cache, unsigned int keep,
			   unsigned long spare, unsigned long scan)
{
	unsigned int before = cache->nr;
	struct qcow2_slice *slice;
	unsigned long i;

	lockdep_assert_held(&cache->lock);
	for (i = 0; i < scan && cache->nr > keep; i++) {
		slice = list_first_entry(&cache->lru, struct qcow2_slice, lru);
		if ((test_and_clear_bit(QCOW2_SLICE_USED, &slice->flags) &&
		     i < spare) || !drop_if_unused(cache, slice))
			list_move_tail(&slice->lru, &cache->lru);
	}
	return before - cache->nr;
}

/* Drops some slices that nobody uses; false if there were none to be seen. */
static bool evict(struct qcow2_cache *cache)
{
	unsigned int keep, dropped;

	spin_lock(&cache->lock);
	keep = cache->nr - min(cache->nr, EVICT_SLICES);
	dropped = shrink(cache, keep, 0, EVICT_SCAN);
	spin_unlock(&cache->lock);
	return dropped;
}

static void lru_insert(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
	spin_lock(&cache->lock);
	list_add_tail(&slice->lru, &cache->lru);
	WRITE_ONCE(cache->nr, cache->nr + 1);
	WRITE_ONCE(cache->loads, cache->loads + 1);
	shrink(cache, cache->max, SHRINK_SPARE, SHRINK_SCAN);
	spin_unlock(&cache->lock);
}

/*
 * Memory for a slice.  When the system has none left, the cache must not sit on
 * the reserve: it drops what is clean, whatever its cap, and if all of it is
 * dirty a commit, which has memory of its own, makes it clean.  What a commit
 * cannot make clean stays, so there is no use in waiting for it.
 */
static struct qcow2_slice *get_memory(struct qcow2_image *img, bool wait)
{
	struct qcow2_slice *slice;
	int ret;

	for (;;) {
		slice = slice_pool_alloc(GFP_NOIO | __GFP_NORETRY |
					 __GFP_NOWARN, img);
		if (!slice)
			slice = mempool_alloc(img->cache.pool,
					      GFP_NOWAIT | __GFP_NOWARN);
		if (slice)
			return slice;
		if (!wait)
			return ERR_PTR(-ENOMEM);
		ret = evict(&img->cache) ? 0 : qcow2_commit_all(img);
		if (ret)
			return ERR_PTR(ret);
		/* What was dropped comes back after a grace period. */
		schedule_timeout_uninterruptible(1);
	}
}

static struct qcow2_slice *slice_alloc(struct qcow2_image *img,
				       enum qcow2_slice_kind kind, u64 offset,
				       bool wait)
{
	struct qcow2_slice *slice = get_memory(img, wait);

	if (IS_ERR(slice))
		return slice;
	refcount_set(&slice->refs, 2);	/* the cache's and the caller's */
	slice->cache = &img->cache;
	slice->flags = 0;
	slice->kind = kind;
	slice->offset = offset;
	slice->error = 0;
	slice->vetted = 0;
	init_completion(&slice->loaded);
	INIT_LIST_HEAD(&slice->lru);
	INIT_LIST_HEAD(&slice->dirty);
	seqcount_init(&slice->seq);
	return slice;
}

/*
 * Lookup.
 */

/* Finds a slice, loaded or not, and takes a reference. */
static struct qcow2_slice *lookup(struct qcow2_cache *cache, u64 offset)
{
	struct qcow2_slice *slice;

	rcu_read_lock();
	for (;;) {
		slice = xa_load(&cache->slices, slice_key(offset));
		if (!slice || refcount_inc_not_zero(&slice->refs))
			break;
		cpu_relax();	/* being erased by shrink() right now */
	}
	rcu_read_unlock();
	return slice;
}

static const char *name_of_kind(enum qcow2_slice_kind kind)
{
	switch (kind) {
	case QCOW2_SLICE_L1:
		return "the L1 table";
	case QCOW2_SLICE_L2:
		return "an L2 table";
	case QCOW2_SLICE_REFBLOCK:
		break;
	}
	return "a refcount block";
}

/* One host cluster cannot be two tables of different kinds. */
static int check_kind(struct qcow2_image *img, struct qcow2_slice *slice,
		      enum qcow2_slice_kind kind)
{
	if (slice->kind == kind)
		return 0;
	return qcow2_image_fail(img, -EUCLEAN,
				"the table at offset 0x%llx is %s and %s at once",
				slice->offset, name_of_kind(slice->kind),
				name_of_kind(kind));
}

static void mark_used(struct qcow2_slice *slice)
{
	if (!test_bit(QCOW2_SLICE_USED, &slice->flags))
		set_bit(QCOW2_SLICE_USED, &slice->flags);
}

/**
 * qcow2_slice_peek() - look a slice up that may be cached, without a reference
 * @img: the image
 * @kind: what it must be
 * @offset: host offset of the slice in bytes
 *
 * It may leave the cache, but its memory stays as long as RCU is held.
 *
 * Context: RCU held.
 * Return: the slice; NULL if it is not loaded, or of another kind.
 */
struct qcow2_slice *qcow2_slice_peek(struct qcow2_image *img,
				     enum qcow2_slice_kind kind, u64 offset)
{
	struct qcow2_slice *slice = xa_load(&img->cache.slices,
					    slice_key(offset));

	if (!slice || slice->kind != kind ||
	    !test_bit(QCOW2_SLICE_LOADED, &slice->flags))
		return NULL;
	/* Pairs with load(). */
	smp_rmb();
	mark_used(slice);
	return slice;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_slice_peek);

/**
 * qcow2_slice_find() - look a slice up that may be cached
 * @img: the image
 * @kind: what it must be
 * @offset: host offset of the slice in bytes
 *
 * Context: does not sleep; meta_lock may be held.
 * Return: the slice with a reference; NULL if it is not loaded; an ERR_PTR
 * if it is of another kind.
 */
struct qcow2_slice *qcow2_slice_find(struct qcow2_image *img,
				     enum qcow2_slice_kind kind, u64 offset)
{
	struct qcow2_slice *slice = lookup(&img->cache, offset);
	int ret;

	if (!slice)
		return NULL;
	if (!completion_done(&slice->loaded) || slice->error) {
		qcow2_slice_put(slice);
		return NULL;
	}
	ret = check_kind(img, slice, kind);
	if (ret) {
		qcow2_slice_put(slice);
		return ERR_PTR(ret);
	}
	mark_used(slice);
	return slice;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_slice_find);

/* Reads a slice that the caller has put into the xarray. */
static void load(struct qcow2_image *img, struct qcow2_slice *slice)
{
	struct qcow2_cache *cache = &img->cache;

	slice->error = qcow2_file_rw_page(img->file, false, slice->offset,
					  slice->data,
					  qcow2_slice_bytes(&img->geo));
	if (slice->error) {
		/* The next one to come shall try again. */
		xa_erase(&cache->slices, slice_key(slice->offset));
		qcow2_slice_put(slice);
	} else {
		/* Pairs with qcow2_slice_peek(). */
		smp_mb__before_atomic();
		set_bit(QCOW2_SLICE_LOADED, &slice->flags);
		lru_insert(cache, slice);
	}
	complete_all(&slice->loaded);
}

/*
 * Now and then the xarray takes a node for another slice.  That is memory of its own, which
 * no pool of ours can give it.  So when there is none, the cache lets some of its slices
 * go, and then this is one that may not fail.  That is in the kernel's rules for so little:
 * the node, of 576 bytes, comes from a page of order 0 when there is no larger piece.  The
 * page allocator does not give up on such a page anyway, but while the task is killed by
 * who frees memory, or errors are injected; with the flag it does not then either, and may
 * go further into the system's own reserve.  No lock of ours is held here that others need
 * to write what is in the cache.
 */
static int put_in(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
	unsigned long key = slice_key(slice->offset);
	int ret = xa_insert(&cache->slices, key, slice,
			    GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN);

	if (ret != -ENOMEM)
		return ret;
	evict(cache);
	return xa_insert(&cache->slices, key, slice, GFP_NOIO | __GFP_NOFAIL);
}

/* Gives the slice at @offset; *@mine says that the caller has to load it. */
static struct qcow2_slice *insert(struct qcow2_image *img,
				  enum qcow2_slice_kind kind, u64 offset,
				  bool wait, bool *mine)
{
	struct qcow2_slice *slice, *new = slice_alloc(img, kind, offset, wait);
	struct qcow2_cache *cache = &img->cache;
	int ret;

	if (IS_ERR(new))
		return new;
	for (;;) {
		ret = put_in(cache, new);
		*mine = !ret;
		if (!ret)
			return new;
		slice = ret == -EBUSY ? lookup(cache, offset) : ERR_PTR(ret);
		if (slice)
			break;
	}
	slice_free_rcu(&new->rcu);
	return slice;
}

static struct qcow2_slice *get(struct qcow2_image *img,
			       enum qcow2_slice_kind kind, u64 offset,
			       bool wait)
{
	struct qcow2_slice *slice = lookup(&img->cache, offset);
	bool mine = false;
	int ret;

	if (!slice)
		slice = insert(img, kind, offset, wait, &mine);
	if (IS_ERR(slice))
		return slice;
	if (mine)
		load(img, slice);
	wait_for_completion(&slice->loaded);
	ret = slice->error ?: check_kind(img, slice, kind);
	if (ret) {
		qcow2_slice_put(slice);
		return ERR_PTR(ret);
	}
	mark_used(slice);
	return slice;
}

/**
 * qcow2_slice_get() - get a slice, reading it if need be
 * @img: the image
 * @kind: what it must be
 * @offset: host offset of the slice in bytes, checked by the caller
 *
 * Context: sleeps, does I/O; meta_lock must not be held.
 * Return: the slice with a reference, or an ERR_PTR: what reading gave, or
 * -EUCLEAN.
 */
struct qcow2_slice *qcow2_slice_get(struct qcow2_image *img,
				    enum qcow2_slice_kind kind, u64 offset)
{
	return get(img, kind, offset, true);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_slice_get);

/**
 * qcow2_slice_get_now() - likewise, but do not wait for memory
 * @img: the image
 * @kind: what it must be
 * @offset: host offset of the slice in bytes, checked by the caller
 *
 * For who has other slices, for which somebody may wait.
 *
 * Context: sleeps, does I/O; meta_lock must not be held.
 * Return: as qcow2_slice_get(); -ENOMEM if there is none at once.
 */
struct qcow2_slice *qcow2_slice_get_now(struct qcow2_image *img,
					enum qcow2_slice_kind kind, u64 offset)
{
	return get(img, kind, offset, false);
}

static struct list_head *dirty_list(struct qcow2_image *img,
				    enum qcow2_slice_kind kind)
{
	switch (kind) {
	case QCOW2_SLICE_L1:
		return &img->dirty_l1;
	case QCOW2_SLICE_L2:
		return &img->dirty_l2;
	case QCOW2_SLICE_REFBLOCK:
		break;
	}
	return &img->dirty_refblocks;
}

static void count_dirty(struct qcow2_image *img, struct qcow2_slice *slice,
			int more)
{
	lockdep_assert_held(&img->meta_lock);
	WRITE_ONCE(img->nr_dirty, img->nr_dirty + more);
	if (slice->kind == QCOW2_SLICE_REFBLOCK)
		img->nr_dirty_refblocks += more;
}

static bool set_dirty(struct qcow2_image *img, struct qcow2_slice *slice)
{
	lockdep_assert_held(&img->meta_lock);
	if (test_and_set_bit(QCOW2_SLICE_DIRTY, &slice->flags))
		return false;
	refcount_inc(&slice->refs);
	list_add_tail(&slice->dirty, dirty_list(img, slice->kind));
	count_dirty(img, slice, 1);
	return true;
}

/**
 * qcow2_slice_mark_dirty() - a slice was changed
 * @img: the image
 * @slice: the slice
 *
 * From half of max_dirty on a commit begins at once, so that writers need not wait
 * for one as a rule.
 *
 * Context: meta_lock held.
 */
void qcow2_slice_mark_dirty(struct qcow2_image *img, struct qcow2_slice *slice)
{
	if (!set_dirty(img, slice))
		return;
	if (img->nr_dirty > READ_ONCE(img->max_dirty) / 2)
		qcow2_commit_soon(img);
	else
		qcow2_commit_later(img);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_slice_mark_dirty);

/**
 * qcow2_slice_not_written() - a commit could not write a slice that it has copied
 * @img: the image
 * @slice: the slice, which may have become dirty since
 *
 * The next try comes by the clock, or when something else becomes dirty: what failed once
 * would fail at once again.
 *
 * Context: meta_lock held.
 */
void qcow2_slice_not_written(struct qcow2_image *img, struct qcow2_slice *slice)
{
	set_dirty(img, slice);
	qcow2_commit_later(img);
}

/**
 * qcow2_slice_committing() - a commit copies a dirty slice
 * @img: the image
 * @slice: the slice, whose dirty list's reference is the commit's now
 *
 * Context: meta_lock held.
 */
void qcow2_slice_committing(struct qcow2_image *img, struct qcow2_slice *slice)
{
	lockdep_assert_held(&img->meta_lock);
	list_del_init(&slice->dirty);
	count_dirty(img, slice, -1);
	clear_bit(QCOW2_SLICE_DIRTY, &slice->flags);
	set_bit(QCOW2_SLICE_COMMITTING, &slice->flags);
}

/* A dirty slice of a table that is gone need not reach the file. */
static void undirty(struct qcow2_image *img, struct qcow2_slice *slice)
{
	if (!test_and_clear_bit(QCOW2_SLICE_DIRTY, &slice->flags))
		return;
	list_del_init(&slice->dirty);
	count_dirty(img, slice, -1);
	qcow2_slice_put(slice);
}

/**
 * qcow2_cache_forget() - drop the slices of clusters that become free
 * @img: the image
 * @offset: host offset of the first cluster
 * @bytes: length
 *
 * Context: meta_lock held.
 */
void qcow2_cache_forget(struct qcow2_image *img, u64 offset, u64 bytes)
{
	struct qcow2_cache *cache = &img->cache;
	u64 end = offset + bytes;

	lockdep_assert_held(&img->meta_lock);
	for (; offset < end; offset += qcow2_slice_bytes(&img->geo)) {
		struct qcow2_slice *slice = lookup(cache, offset);

		if (!slice)
			continue;
		undirty(img, slice);
		spin_lock(&cache->lock);
		if (!list_empty(&slice->lru)) {
			take_out(cache, slice);
			qcow2_slice_put(slice);	/* the cache's */
		}
		spin_unlock(&cache->lock);
		qcow2_slice_put(slice);
	}
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_cache_forget);

/*
 * Giving memory back when the system asks for it.  That may be on behalf of an
 * allocation under any of our locks but cache.lock, under which there is none.
 */

static unsigned long count_clean(struct shrinker *shrinker,
				 struct shrink_control *sc)
{
	struct qcow2_image *img = shrinker->private_data;
	unsigned long nr = READ_ONCE(img->cache.nr);
	unsigned long dirty = READ_ONCE(img->nr_dirty);

	return nr > dirty ? nr - dirty : SHRINK_EMPTY;
}

static unsigned long drop_clean(struct shrinker *shrinker,
				struct shrink_control *sc)
{
	struct qcow2_image *img = shrinker->private_data;
	struct qcow2_cache *cache = &img->cache;
	unsigned long dropped;

	spin_lock(&cache->lock);
	dropped = shrink(cache, 0, sc->nr_to_scan, sc->nr_to_scan);
	spin_unlock(&cache->lock);
	return dropped;
}

static int add_shrinker(struct qcow2_image *img)
{
	struct shrinker *shrinker = shrinker_alloc(0, "qcow2-%s", img->name);

	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = count_clean;
	shrinker->scan_objects = drop_clean;
	shrinker->private_data = img;
	shrinker_register(shrinker);
	img->cache.shrinker = shrinker;
	return 0;
}

/*
 * The cap.
 */

/* Slices of all tables and refcount blocks of a disk that is full of data. */
static u64 slices_of_disk(const struct qcow2_geometry *geo)
{
	u64 clusters = qcow2_clusters_of(geo, READ_ONCE(geo->virtual_bytes));
	u64 tables = (clusters >> geo->l2_bits) +
		     (clusters >> geo->refblock_bits) + geo->l1_entries;
	u64 l1_bytes = (u64)geo->l1_entries * sizeof(u64);

	return (clusters >> geo->l2_slice_bits) + 1 +
	       ((clusters + tables) >> geo->refslice_bits) + 1 +
	       (l1_bytes >> geo->slice_bits) + 1;
}

static u64 default_bytes(const struct qcow2_image *img)
{
	u64 bytes = slices_of_disk(&img->geo) << qcow2_slice_data_bits(img);

	return clamp_t(u64, bytes, QCOW2_CACHE_MIN_BYTES,
		       QCOW2_CACHE_DEFAULT_BYTES);
}

/*
 * Where not all tables fit, half of the cache stays clean, so that there is
 * something to drop without a commit.  Where they do, all of them may be dirty, so no
 * commit begins for their number (which it does from half of max_dirty on).
 */
static void set_max(struct qcow2_image *img, u64 bytes)
{
	unsigned int max = bytes >> qcow2_slice_data_bits(img);
	bool fits = slices_of_disk(&img->geo) <= max;

	spin_lock(&img->cache.lock);
	WRITE_ONCE(img->cache.max, max);
	spin_unlock(&img->cache.lock);
	WRITE_ONCE(img->max_dirty, fits ? 2 * max : max / 2);
}

/* Drops what nobody uses, in pieces, down to the cap; false if some is left. */
static bool trim(struct qcow2_cache *cache)
{
	unsigned int left = READ_ONCE(cache->nr);
	bool over = true;

	for (;;) {
		spin_lock(&cache->lock);
		shrink(cache, cache->max, 0, SHRINK_SCAN);
		over = cache->nr > cache->max;
		spin_unlock(&cache->lock);
		if (!over || left <= SHRINK_SCAN)
			return !over;
		left -= SHRINK_SCAN;
		cond_resched();
	}
}

/**
 * qcow2_cache_set_max() - change the cap of an image's cache
 * @img: the image
 * @bytes: the cap, 0 for the default, which is enough for the whole disk, at
 *	most %QCOW2_CACHE_DEFAULT_BYTES
 *
 * What is more is dropped at once; only slices in use stay until later.
 *
 * Context: sleeps, may do I/O.
 */
void qcow2_cache_set_max(struct qcow2_image *img, u64 bytes)
{
	set_max(img, bytes ?: default_bytes(img));
	if (trim(&img->cache) || qcow2_image_read_only(img))
		return;
	/*
	 * Not by the caller, who may be killed and take the last changes along.
	 * An error of it is for those to see who wrote.
	 */
	qcow2_commit_now(img);
	trim(&img->cache);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_cache_set_max);

/**
 * qcow2_cache_raise_max() - let the cap of an image's cache be no lower than this
 * @img: the image
 * @bytes: the cap
 *
 * Context: does not sleep.
 */
void qcow2_cache_raise_max(struct qcow2_image *img, u64 bytes)
{
	if (bytes >> qcow2_slice_data_bits(img) > READ_ONCE(img->cache.max))
		set_max(img, bytes);
}

/*
 * The cache of an image.
 */

/**
 * qcow2_cache_init() - make an empty cache
 * @img: the image, whose header was decoded
 * @bytes: its cap, as for qcow2_cache_set_max()
 *
 * Return: 0 or -ENOMEM; qcow2_cache_destroy() is due in both cases.
 */
int qcow2_cache_init(struct qcow2_image *img, u64 bytes)
{
	struct qcow2_cache *cache = &img->cache;

	xa_init(&cache->slices);
	spin_lock_init(&cache->lock);
	INIT_LIST_HEAD(&cache->lru);
	set_max(img, bytes ?: default_bytes(img));
	cache->pool = mempool_create(test_bit(QCOW2_IMAGE_LAYER, &img->flags) ?
				     LAYER_SLICE_POOL_MIN : SLICE_POOL_MIN,
				     slice_pool_alloc,
				     slice_pool_free, img);
	return cache->pool ? add_shrinker(img) : -ENOMEM;
}

/**
 * qcow2_cache_destroy() - drop all slices
 * @img: the image; nobody uses its cache any more
 */
void qcow2_cache_destroy(struct qcow2_image *img)
{
	struct qcow2_cache *cache = &img->cache;
	struct qcow2_slice *slice, *next;

	shrinker_free(cache->shrinker);
	/* Nobody looks them up any more: no need to wait for RCU. */
	list_for_each_entry_safe(slice, next, &cache->lru, lru) {
		list_del_init(&slice->lru);
		if (!WARN_ON_ONCE(!refcount_dec_and_test(&slice->refs)))
			mempool_free(slice, cache->pool);
		cond_resched();
	}
	xa_destroy(&cache->slices);
	if (cache->freed_any)
		rcu_barrier();	/* for slice_free_rcu() */
	mempool_destroy(cache->pool);
}
