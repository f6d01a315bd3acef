// SPDX-License-Identifier: GPL-2.0-only
/*
 * The metadata cache: slices of L2 tables and refcount blocks.
 */

/**
 * DOC: metadata cache
 *
 * Tables are cached in slices of a cluster or a page, whichever is smaller,
 * in an xarray by host offset.  A slice that is not there is put in empty by
 * whoever comes first, who then reads it, while all others that want the same
 * slice, and only they, wait for its completion.
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
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "image.h"

/* Enough for some writers to make progress when there is no memory. */
#define SLICE_POOL_MIN	32

/* Slices that one insertion looks at to drop one. */
#define SHRINK_SCAN	16

static mempool_t *slice_pool;

/*
 * Allocation.
 */

static void *slice_pool_alloc(gfp_t gfp, void *unused)
{
	struct qcow2_slice *slice = kzalloc_obj(*slice, gfp);

	if (!slice)
		return NULL;
	slice->data = (__be64 *)__get_free_page(gfp);
	if (slice->data)
		return slice;
	kfree(slice);
	return NULL;
}

static void slice_pool_free(void *element, void *unused)
{
	struct qcow2_slice *slice = element;

	free_page((unsigned long)slice->data);
	kfree(slice);
}

/**
 * qcow2_cache_init_pool() - at load: reserve memory for slices
 *
 * Return: 0 or -ENOMEM.
 */
int __init qcow2_cache_init_pool(void)
{
	slice_pool = mempool_create(SLICE_POOL_MIN, slice_pool_alloc,
				    slice_pool_free, NULL);
	return slice_pool ? 0 : -ENOMEM;
}

/**
 * qcow2_cache_exit_pool() - at unload: give that memory back
 */
void qcow2_cache_exit_pool(void)
{
	rcu_barrier();	/* for slice_free_rcu() */
	mempool_destroy(slice_pool);
}

static void slice_free_rcu(struct rcu_head *rcu)
{
	mempool_free(container_of(rcu, struct qcow2_slice, rcu), slice_pool);
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
		call_rcu(&slice->rcu, slice_free_rcu);
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

/*
 * Takes a slice out of the cache if nobody else holds it.  A lookup that finds
 * it in the xarray before the erasure sees a reference count of 0 and retries.
 */
static bool drop_if_unused(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
	lockdep_assert_held(&cache->lock);
	if (!refcount_dec_if_one(&slice->refs))
		return false;
	xa_erase(&cache->slices, slice_key(slice->offset));
	list_del_init(&slice->lru);
	cache->nr--;
	call_rcu(&slice->rcu, slice_free_rcu);
	return true;
}

static void shrink(struct qcow2_cache *cache)
{
	struct qcow2_slice *slice;
	int scan;

	lockdep_assert_held(&cache->lock);
	for (scan = 0; scan < SHRINK_SCAN && cache->nr > cache->max; scan++) {
		slice = list_first_entry(&cache->lru, struct qcow2_slice, lru);
		if (test_and_clear_bit(QCOW2_SLICE_USED, &slice->flags) ||
		    !drop_if_unused(cache, slice))
			list_move_tail(&slice->lru, &cache->lru);
	}
}

/* Drops some slices that nobody uses; false if there were none. */
static bool evict(struct qcow2_cache *cache)
{
	struct qcow2_slice *slice, *next;
	unsigned int before;

	spin_lock(&cache->lock);
	before = cache->nr;
	list_for_each_entry_safe(slice, next, &cache->lru, lru)
		if (drop_if_unused(cache, slice) &&
		    before - cache->nr == SHRINK_SCAN)
			break;
	before -= cache->nr;
	spin_unlock(&cache->lock);
	return before;
}

static void lru_insert(struct qcow2_cache *cache, struct qcow2_slice *slice)
{
	spin_lock(&cache->lock);
	list_add_tail(&slice->lru, &cache->lru);
	cache->nr++;
	shrink(cache);
	spin_unlock(&cache->lock);
}

/*
 * Memory for a slice.  When the system has none left, the cache must not sit on
 * the reserve: it drops what is clean, whatever its cap, and if all of it is
 * dirty a commit, which has memory of its own, makes it clean.
 */
static struct qcow2_slice *get_memory(struct qcow2_image *img)
{
	struct qcow2_slice *slice;

	for (;;) {
		slice = slice_pool_alloc(GFP_NOIO | __GFP_NORETRY |
					 __GFP_NOWARN, NULL);
		if (!slice)
			slice = mempool_alloc(slice_pool,
					      GFP_NOWAIT | __GFP_NOWARN);
		if (slice)
			return slice;
		if (!evict(&img->cache))
			qcow2_commit_all(img);
		/* What was dropped comes back after a grace period. */
		schedule_timeout_uninterruptible(1);
	}
}

static struct qcow2_slice *slice_alloc(struct qcow2_image *img,
				       enum qcow2_slice_kind kind, u64 offset)
{
	struct qcow2_slice *slice = get_memory(img);

	refcount_set(&slice->refs, 2);	/* the cache's and the caller's */
	slice->flags = 0;
	slice->kind = kind;
	slice->offset = offset;
	slice->error = 0;
	init_completion(&slice->loaded);
	INIT_LIST_HEAD(&slice->lru);
	INIT_LIST_HEAD(&slice->dirty);
	seqcount_mutex_init(&slice->seq, &img->meta_lock);
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

/* One host cluster cannot be both an L2 table and a refcount block. */
static int check_kind(struct qcow2_image *img, struct qcow2_slice *slice,
		      enum qcow2_slice_kind kind)
{
	if (slice->kind == kind)
		return 0;
	return qcow2_image_fail(img, -EUCLEAN,
				"the table at offset 0x%llx is an L2 table and a refcount block at once",
				slice->offset);
}

static void mark_used(struct qcow2_slice *slice)
{
	if (!test_bit(QCOW2_SLICE_USED, &slice->flags))
		set_bit(QCOW2_SLICE_USED, &slice->flags);
}

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
		lru_insert(cache, slice);
	}
	complete_all(&slice->loaded);
}

/* Gives the slice at @offset; *@mine says that the caller has to load it. */
static struct qcow2_slice *insert(struct qcow2_image *img,
				  enum qcow2_slice_kind kind, u64 offset,
				  bool *mine)
{
	struct qcow2_slice *slice, *new = slice_alloc(img, kind, offset);
	struct qcow2_cache *cache = &img->cache;
	int ret;

	for (;;) {
		ret = xa_insert(&cache->slices, slice_key(offset), new,
				GFP_NOIO);
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
	struct qcow2_slice *slice = lookup(&img->cache, offset);
	bool mine = false;
	int ret;

	if (!slice)
		slice = insert(img, kind, offset, &mine);
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
EXPORT_SYMBOL_IF_KUNIT(qcow2_slice_get);

/**
 * qcow2_slice_mark_dirty() - a slice was changed
 * @img: the image
 * @slice: the slice
 *
 * Context: meta_lock held.
 */
void qcow2_slice_mark_dirty(struct qcow2_image *img, struct qcow2_slice *slice)
{
	lockdep_assert_held(&img->meta_lock);
	if (test_and_set_bit(QCOW2_SLICE_DIRTY, &slice->flags))
		return;
	refcount_inc(&slice->refs);
	list_add_tail(&slice->dirty, slice->kind == QCOW2_SLICE_L2 ?
		      &img->dirty_l2 : &img->dirty_refblocks);
	WRITE_ONCE(img->nr_dirty, img->nr_dirty + 1);
	qcow2_commit_later(img);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_slice_mark_dirty);

/* A dirty slice of a table that is gone need not reach the file. */
static void undirty(struct qcow2_image *img, struct qcow2_slice *slice)
{
	if (!test_and_clear_bit(QCOW2_SLICE_DIRTY, &slice->flags))
		return;
	list_del_init(&slice->dirty);
	WRITE_ONCE(img->nr_dirty, img->nr_dirty - 1);
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
			xa_erase(&cache->slices, slice_key(offset));
			list_del_init(&slice->lru);
			cache->nr--;
			qcow2_slice_put(slice);	/* the cache's */
		}
		spin_unlock(&cache->lock);
		qcow2_slice_put(slice);
	}
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_cache_forget);

/*
 * The cache of an image.
 */

/**
 * qcow2_cache_init() - make an empty cache
 * @cache: the cache
 * @bytes: its cap, 0 for the default
 */
void qcow2_cache_init(struct qcow2_cache *cache, u64 bytes)
{
	xa_init(&cache->slices);
	spin_lock_init(&cache->lock);
	INIT_LIST_HEAD(&cache->lru);
	cache->nr = 0;
	cache->max = (bytes ?: QCOW2_CACHE_MAX_BYTES) / PAGE_SIZE;
}

/**
 * qcow2_cache_destroy() - drop all slices
 * @cache: the cache; nobody uses it any more
 */
void qcow2_cache_destroy(struct qcow2_cache *cache)
{
	struct qcow2_slice *slice, *next;

	list_for_each_entry_safe(slice, next, &cache->lru, lru) {
		list_del_init(&slice->lru);
		qcow2_slice_put(slice);
	}
	xa_destroy(&cache->slices);
}
