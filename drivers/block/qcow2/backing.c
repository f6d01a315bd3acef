// SPDX-License-Identifier: GPL-2.0-only
/*
 * The layers beneath an image.
 */

/**
 * DOC: backing chain
 *
 * What an image has not allocated is read from its backing file, which may have
 * one of its own, and so on: the layers of the image's chain.  A layer is only
 * read.  It knows nothing of what lies beneath it, so one object with one cache
 * serves all chains that the same file is in, and all devices: layers are found
 * again by their file, as long as somebody holds them.
 *
 * A device that is attached read-only is a view: an image with nothing of its
 * own, whose first layer is the file that was asked for.
 *
 * qcow2_resolve() is what reads use.  It looks at the image, then at layer after
 * layer.  A layer never changes, so what was found stays true: for each cluster
 * of the image a chain of several layers remembers the first layer that has
 * anything of it, and the next search begins there.  That takes two bytes for a
 * cluster, in pages that are made when something is remembered and dropped,
 * one by one, when there are too many.  With all tables cached a search is one
 * for the clusters around too.
 *
 * A chain is an object behind an RCU pointer, and so can be replaced while I/O runs.
 * It never changes but for what is remembered, which goes with it: another chain has
 * to be searched anew.  An operation finds it once for each look-up, in its epoch, and
 * uses its layers until it leaves that; who only looks at it may do so under RCU.  So
 * the old one and its layers are nobody's any more when the epoch has been waited for.
 */

#include <linux/container_of.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/math64.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/rcupdate.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "image.h"

/**
 * struct qcow2_shared - how a layer is shared
 * @link: in the list of all layers, under layers_lock
 * @layer: the layer
 * @users: chains that it is in, under layers_lock
 * @raw: as it was opened
 * @direct: likewise
 * @snapshot: likewise
 */
struct qcow2_shared {
	struct list_head link;
	struct qcow2_image *layer;
	unsigned int users;
	bool raw;
	bool direct;
	char *snapshot;
};

/* Protects the list and the users of each; no I/O is done under it. */
static DEFINE_MUTEX(layers_lock);
static LIST_HEAD(layers);

/* The rest of short transfers, of all layers. */
static struct workqueue_struct *layers_wq;

/**
 * qcow2_layers_init() - at load: prepare to open layers
 *
 * Return: 0 or -ENOMEM.
 */
int __init qcow2_layers_init(void)
{
	layers_wq = alloc_workqueue("qcow2-layers",
				    WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	return layers_wq ? 0 : -ENOMEM;
}

/**
 * qcow2_layers_exit() - at unload: undo that
 */
void qcow2_layers_exit(void)
{
	rcu_barrier();	/* for free_page_rcu() */
	destroy_workqueue(layers_wq);
}

/*
 * Sharing.
 */

static bool same_snapshot(const char *a, const char *b)
{
	if (!a || !b)
		return a == b;
	return !strcmp(a, b);
}

static bool same_data_file(const struct qcow2_file *file, struct file *filp)
{
	if (!file || !filp)
		return !file && !filp;
	return qcow2_file_same(file, filp);
}

/* One that is shared has the largest cache that any of its users asked for. */
static struct qcow2_image *find_layer(const struct qcow2_layer_spec *spec)
{
	struct qcow2_shared *shared;

	lockdep_assert_held(&layers_lock);
	list_for_each_entry(shared, &layers, link) {
		struct qcow2_image *layer = shared->layer;

		if (shared->raw == spec->raw &&
		    shared->direct == spec->direct &&
		    same_snapshot(shared->snapshot, spec->snapshot) &&
		    qcow2_file_same(layer->file, spec->filp) &&
		    same_data_file(layer->data_file, spec->data_filp)) {
			shared->users++;
			if (!shared->raw)
				qcow2_cache_raise_max(layer, spec->cache_bytes);
			return layer;
		}
	}
	return NULL;
}

static struct qcow2_image *find_layer_unlocked(const struct qcow2_layer_spec *s)
{
	struct qcow2_image *layer;

	mutex_lock(&layers_lock);
	layer = find_layer(s);
	mutex_unlock(&layers_lock);
	return layer;
}

static void free_shared(struct qcow2_shared *shared)
{
	if (shared)
		kfree(shared->snapshot);
	kfree(shared);
}

static struct qcow2_shared *alloc_shared(const struct qcow2_layer_spec *spec)
{
	struct qcow2_shared *shared = kzalloc_obj(*shared);

	if (!shared)
		return NULL;
	shared->users = 1;
	shared->raw = spec->raw;
	shared->direct = spec->direct;
	if (!spec->snapshot)
		return shared;
	shared->snapshot = kstrdup(spec->snapshot, GFP_KERNEL);
	if (shared->snapshot)
		return shared;
	kfree(shared);
	return NULL;
}

static void close_layer(struct qcow2_image *layer)
{
	struct qcow2_shared *shared = layer->shared;

	qcow2_layer_close(layer);
	free_shared(shared);
}

static struct qcow2_image *open_layer(const struct qcow2_layer_spec *spec,
				      struct qcow2_reason *why)
{
	struct qcow2_shared *shared = alloc_shared(spec);
	struct qcow2_image *layer;

	if (!shared)
		return ERR_PTR(qcow2_refuse(why, -ENOMEM, "out of memory"));
	layer = qcow2_layer_open(spec, layers_wq, why);
	if (IS_ERR(layer)) {
		free_shared(shared);
		return layer;
	}
	shared->layer = layer;
	layer->shared = shared;
	return layer;
}

/* Shares a layer, unless somebody else was faster: then his is used. */
static struct qcow2_image *share_layer(const struct qcow2_layer_spec *spec,
				       struct qcow2_image *layer)
{
	struct qcow2_image *other;

	mutex_lock(&layers_lock);
	other = find_layer(spec);
	if (!other)
		list_add(&layer->shared->link, &layers);
	mutex_unlock(&layers_lock);
	if (!other)
		return layer;
	close_layer(layer);
	return other;
}

/**
 * qcow2_layer_get() - open a layer, or share the one that is open
 * @spec: the file, and how it is to be read
 * @why: filled in on failure
 *
 * Context: sleeps, does I/O.
 * Return: the layer, to be given back with qcow2_layer_put(), or an ERR_PTR.
 */
struct qcow2_image *qcow2_layer_get(const struct qcow2_layer_spec *spec,
				    struct qcow2_reason *why)
{
	struct qcow2_image *layer = find_layer_unlocked(spec);

	if (layer)
		return layer;
	layer = open_layer(spec, why);
	return IS_ERR(layer) ? layer : share_layer(spec, layer);
}

/**
 * qcow2_layer_put() - a layer is not used here any more
 * @layer: from qcow2_layer_get(); nothing reads it through this chain
 *
 * Context: sleeps.
 */
void qcow2_layer_put(struct qcow2_image *layer)
{
	bool last;

	mutex_lock(&layers_lock);
	last = !--layer->shared->users;
	if (last)
		list_del(&layer->shared->link);
	mutex_unlock(&layers_lock);
	if (last)
		close_layer(layer);
}

/*
 * A chain.
 */

static bool is_raw(const struct qcow2_image *layer)
{
	return test_bit(QCOW2_IMAGE_RAW, &layer->flags);
}

/* Whether an image names a backing file must be whether it has got one. */
static int check_backing(const struct qcow2_image *img, bool given,
			 struct qcow2_reason *why)
{
	if (given && is_raw(img))
		return qcow2_refuse(why, -EINVAL,
				    "is raw, but a backing file was given for it");
	if (given && !img->geo.has_backing)
		return qcow2_refuse(why, -EINVAL,
				    "image names no backing file, but one was given");
	if (!given && img->geo.has_backing)
		return qcow2_refuse(why, -EINVAL,
				    "image names a backing file, which was not given");
	return 0;
}

static int check_size(const struct qcow2_image *img, u32 block,
		      struct qcow2_reason *why)
{
	u64 rest;

	div64_u64_rem(img->geo.virtual_bytes, block, &rest);
	if (!rest)
		return 0;
	if (block == QCOW2_SECTOR_BYTES)
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "virtual size of %llu bytes is not a multiple of %u",
				    img->geo.virtual_bytes, block);
	return qcow2_refuse(why, -EOPNOTSUPP,
			    "virtual size of %llu bytes is not a multiple of %u, which direct I/O on it needs; attach without --direct-io",
			    img->geo.virtual_bytes, block);
}

/**
 * qcow2_check_blocks() - can a file be read and written in blocks of a size?
 * @img: the image or layer, with its geometry known
 * @block: the size, which the block device has too
 * @why: filled in on failure
 *
 * What direct I/O cannot do: its blocks are those of the storage.
 *
 * Context: any.
 * Return: 0 or -EOPNOTSUPP.
 */
int qcow2_check_blocks(const struct qcow2_image *img, u32 block,
		       struct qcow2_reason *why)
{
	u32 subcluster = 1U << img->geo.subcluster_bits;

	if (!is_raw(img) && subcluster < block)
		return qcow2_refuse(why, -EOPNOTSUPP,
				    "direct I/O on it needs blocks of %u bytes, but its (sub)clusters have %u; attach without --direct-io",
				    block, subcluster);
	return check_size(img, block, why);
}

/* What both files of an image want. */
static u32 own_block(const struct qcow2_image *img)
{
	return max(qcow2_file_align(img->file),
		   qcow2_file_align(qcow2_data_file(img)));
}

/* The largest that one of its files needs, for all. */
static u32 chain_block(const struct qcow2_image *img,
		       const struct qcow2_chain *chain)
{
	u32 block = own_block(img);
	u32 i;

	for (i = 0; chain && i < chain->nr; i++)
		block = max(block, own_block(chain->layers[i]));
	return block;
}

static int check_chain(const struct qcow2_image *img,
		       const struct qcow2_chain *chain, u32 block,
		       struct qcow2_reason *why)
{
	struct qcow2_reason rule = {};
	int ret = 0;
	u32 i;

	if (!qcow2_image_is_view(img))
		ret = check_backing(img, chain, why) ?:
		      qcow2_check_blocks(img, block, why);
	for (i = 0; chain && i < chain->nr && !ret; i++) {
		const struct qcow2_image *layer = chain->layers[i];

		ret = check_backing(layer, i + 1 < chain->nr, &rule) ?:
		      qcow2_check_blocks(layer, block, &rule);
		if (ret)
			qcow2_refuse(why, ret, "%s: %s", layer->name,
				     rule.text);
	}
	return ret;
}

/* NULL without layers. */
static struct qcow2_chain *alloc_chain(struct qcow2_image *img,
				       struct qcow2_image **layers, u32 nr)
{
	struct qcow2_chain *chain;

	if (!nr)
		return NULL;
	chain = kvzalloc(struct_size(chain, layers, nr), GFP_KERNEL);
	if (!chain)
		return ERR_PTR(-ENOMEM);
	chain->img = img;
	chain->nr = nr;
	memcpy(chain->layers, layers, nr * sizeof(*layers));
	xa_init(&chain->depths);
	mutex_init(&chain->lock);
	return chain;
}

/**
 * qcow2_chain_init() - have an image lie on its layers
 * @img: the image; its file is open and its geometry known
 * @options: has the layers
 * @why: filled in on failure
 *
 * On failure too qcow2_chain_exit() is due, and the references to the layers are
 * the caller's still.
 *
 * Return: 0 or a negative errno.
 */
int qcow2_chain_init(struct qcow2_image *img,
		     const struct qcow2_options *options,
		     struct qcow2_reason *why)
{
	struct qcow2_chain *chain;

	chain = alloc_chain(img, options->layers, options->nr_layers);
	if (IS_ERR(chain))
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	RCU_INIT_POINTER(img->chain, chain);
	img->block_bytes = chain_block(img, chain);
	return check_chain(img, chain, img->block_bytes, why);
}

/*
 * Clusters that are searched for at the same time, if all tables are cached: a
 * layer's slice is found once for them.  No more than so many bytes of them, as
 * a layer may have far smaller clusters.
 */
#define NEIGHBOURS		16
#define NEIGHBOURS_BYTES	SZ_1M

/**
 * struct depths_page - where the search begins, for some clusters of an image
 * @rcu: readers are done when this has passed
 * @depth: one more than the index of the first layer that has anything of the
 *	cluster, 0 if that is not known
 */
struct depths_page {
	struct rcu_head rcu;
	u16 depth[63 * NEIGHBOURS];
};

/* Pages of an image: 8 MiB, for 256 GiB with clusters of 64 KiB. */
#define MAX_DEPTHS_PAGES	4096

static void free_chain(struct qcow2_chain *chain)
{
	struct depths_page *page;
	unsigned long index;

	if (!chain)
		return;
	xa_for_each(&chain->depths, index, page)
		kfree(page);
	xa_destroy(&chain->depths);
	mutex_destroy(&chain->lock);
	kvfree(chain);
}

/**
 * qcow2_chain_exit() - forget what qcow2_chain_init() made of layers
 * @img: the image; nothing reads it any more.  The references to its layers are
 *	the caller's.
 */
void qcow2_chain_exit(struct qcow2_image *img)
{
	free_chain(rcu_dereference_protected(img->chain, true));
	RCU_INIT_POINTER(img->chain, NULL);
}

/**
 * qcow2_chain_prepare() - make another chain for an attached image
 * @img: the image
 * @layers: those of the new chain, one at least; the references are handed over on
 *	success, the array is not
 * @nr: number of them
 * @why: filled in on failure
 *
 * An image with layers keeps having some, and one without has none.  Of a view the
 * first one stays, which is what it shows.  No file may need larger blocks than the
 * device has.
 *
 * Context: sleeps.
 * Return: the chain, for qcow2_chain_replace() or qcow2_chain_put(), or an ERR_PTR.
 */
struct qcow2_chain *qcow2_chain_prepare(struct qcow2_image *img,
					struct qcow2_image **layers, u32 nr,
					struct qcow2_reason *why)
{
	struct qcow2_chain *chain;
	int ret;

	if (!nr || (qcow2_image_is_view(img) &&
		    layers[0] != qcow2_image_shown(img)))
		return ERR_PTR(qcow2_refuse(why, -EINVAL,
					    "what the device shows cannot be replaced"));
	chain = alloc_chain(img, layers, nr);
	if (IS_ERR(chain))
		return ERR_PTR(qcow2_refuse(why, -ENOMEM, "out of memory"));
	if (chain_block(img, chain) > img->block_bytes)
		ret = qcow2_refuse(why, -EOPNOTSUPP,
				   "direct I/O on a file of the chain needs blocks of %u bytes, but the device has blocks of %u",
				   chain_block(img, chain), img->block_bytes);
	else
		ret = check_chain(img, chain, img->block_bytes, why);
	if (!ret)
		return chain;
	free_chain(chain);
	return ERR_PTR(ret);
}

/**
 * qcow2_chain_replace() - have an attached image lie on other layers
 * @img: the image
 * @chain: from qcow2_chain_prepare(); the image's from now on
 *
 * The guest must find the same in both chains, as some operations go by the old one
 * until qcow2_epoch_call() says that they have ended; then, and not before, the old
 * one is given back.  With a mutex held that everybody takes who replaces it.
 *
 * Context: meta_lock held.
 * Return: the old chain, for qcow2_chain_put().
 */
struct qcow2_chain *qcow2_chain_replace(struct qcow2_image *img,
					struct qcow2_chain *chain)
{
	lockdep_assert_held(&img->meta_lock);
	return rcu_replace_pointer(img->chain, chain,
				   lockdep_is_held(&img->meta_lock));
}

/**
 * qcow2_chain_put() - give a chain and its layers back
 * @chain: nobody uses it any more; or NULL
 *
 * Context: sleeps, may do I/O.
 */
void qcow2_chain_put(struct qcow2_chain *chain)
{
	u32 i;

	for (i = 0; chain && i < chain->nr; i++)
		qcow2_layer_put(chain->layers[i]);
	free_chain(chain);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_chain_put);

/* In an epoch of the image's, or under RCU; NULL without layers. */
static struct qcow2_chain *chain_of(const struct qcow2_image *img)
{
	return rcu_dereference_check(img->chain, true);
}

/**
 * qcow2_chain_layer() - what lies at a depth of a chain
 * @img: the image
 * @depth: 0 for what the image shows, 1 for its backing file, and so on
 *
 * Context: any, in an epoch of the image's, in which the layer may be used.
 * Return: the image or layer; NULL behind the last.
 */
struct qcow2_image *qcow2_chain_layer(struct qcow2_image *img, u32 depth)
{
	const struct qcow2_chain *chain = chain_of(img);

	/* A view has what it shows among its layers. */
	if (!qcow2_image_is_view(img) && !depth--)
		return img;
	return chain && depth < chain->nr ? chain->layers[depth] : NULL;
}

/**
 * qcow2_shows_backing() - can something beneath show through?
 * @img: the image
 * @guest_offset: in bytes
 *
 * Context: any, in an epoch of the image's.
 * Return: true unless what is not allocated there reads as zeroes for sure.
 */
bool qcow2_shows_backing(const struct qcow2_image *img, u64 guest_offset)
{
	const struct qcow2_chain *chain = chain_of(img);

	return chain &&
	       guest_offset < qcow2_virtual_bytes(chain->layers[0]);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_shows_backing);

/*
 * Searching.
 */

static bool is_unallocated(const struct qcow2_extent *extent)
{
	return extent->type == QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN ||
	       extent->type == QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC;
}

typedef int map_fn(struct qcow2_image *layer, u64 guest_offset, u64 bytes,
		   struct qcow2_extent *extent);

/* Behind the end of a layer are zeroes, whatever lies beneath it. */
static int map_in_layer(struct qcow2_image *layer, u64 guest_offset, u64 bytes,
			struct qcow2_extent *extent, map_fn *map)
{
	u64 end = qcow2_virtual_bytes(layer);

	if (guest_offset < end)
		return map(layer, guest_offset, min(bytes, end - guest_offset),
			   extent);
	*extent = (struct qcow2_extent) {
		.type = QCOW2_SUBCLUSTER_ZERO_PLAIN,
		.img = layer,
		.bytes = bytes,
	};
	return 0;
}

static u32 known_depth(struct qcow2_chain *chain, u64 cluster)
{
	struct depths_page *page;
	u32 index, depth = 0;
	u64 nr = div_u64_rem(cluster, ARRAY_SIZE(page->depth), &index);

	rcu_read_lock();
	page = xa_load(&chain->depths, nr);
	if (page)
		depth = READ_ONCE(page->depth[index]);
	rcu_read_unlock();
	return depth;
}

/* Of clusters that share a page.  False if there is none for them. */
static bool store_depths(struct qcow2_chain *chain, u64 cluster, u32 nr,
			 const u16 *depths)
{
	struct depths_page *page;
	u32 index, i;
	u64 page_nr = div_u64_rem(cluster, ARRAY_SIZE(page->depth), &index);

	rcu_read_lock();
	page = xa_load(&chain->depths, page_nr);
	for (i = 0; page && i < nr; i++)
		WRITE_ONCE(page->depth[index + i], depths[i]);
	rcu_read_unlock();
	return page;
}

static void free_page_rcu(struct rcu_head *rcu)
{
	kfree(container_of(rcu, struct depths_page, rcu));
}

static void drop_a_page(struct qcow2_chain *chain)
{
	struct depths_page *page;

	lockdep_assert_held(&chain->lock);
	page = xa_find(&chain->depths, &chain->hand, ULONG_MAX, XA_PRESENT);
	if (!page) {
		chain->hand = 0;
		page = xa_find(&chain->depths, &chain->hand, ULONG_MAX,
			       XA_PRESENT);
	}
	if (!page)
		return;
	xa_erase(&chain->depths, chain->hand++);
	call_rcu(&page->rcu, free_page_rcu);
	chain->nr_pages--;
}

/* That there is no memory for it costs another search, no more. */
static void add_page(struct qcow2_chain *chain, u64 cluster)
{
	const gfp_t gfp = GFP_NOIO | __GFP_NOWARN | __GFP_NORETRY;
	struct depths_page *page = kzalloc_obj(*page, gfp);
	u64 nr = div_u64(cluster, ARRAY_SIZE(page->depth));

	if (!page)
		return;
	mutex_lock(&chain->lock);
	if (chain->nr_pages >= MAX_DEPTHS_PAGES)
		drop_a_page(chain);
	if (xa_insert(&chain->depths, nr, page, gfp))
		kfree(page);
	else
		chain->nr_pages++;
	mutex_unlock(&chain->lock);
}

static void remember_depth(struct qcow2_chain *chain, u64 cluster, u16 depth)
{
	if (store_depths(chain, cluster, 1, &depth))
		return;
	add_page(chain, cluster);
	store_depths(chain, cluster, 1, &depth);
}

/**
 * struct depth_search - clusters next to each other, looked for in all layers
 * @cluster: the first one
 * @nr: how many
 * @unknown: how many of them no layer so far has anything of
 * @depth: as in struct depths_page
 */
struct depth_search {
	u64 cluster;
	u32 nr;
	u32 unknown;
	u16 depth[NEIGHBOURS];
};

/* A layer has something of a range. */
static void found_at_depth(const struct qcow2_geometry *geo,
			   struct depth_search *s, u64 start, u64 bytes,
			   u32 depth)
{
	u32 i = (start >> geo->cluster_bits) - s->cluster;
	u32 last = ((start + bytes - 1) >> geo->cluster_bits) - s->cluster;

	for (; i <= last; i++) {
		if (s->depth[i])
			continue;
		s->depth[i] = depth;
		s->unknown--;
	}
}

static int search_layer(struct qcow2_chain *chain, u32 i,
			struct depth_search *s, map_fn *map)
{
	const struct qcow2_geometry *geo = &chain->img->geo;
	u64 start = s->cluster << geo->cluster_bits;
	u64 end = (s->cluster + s->nr) << geo->cluster_bits;
	struct qcow2_extent extent;
	int ret;

	for (; start < end && s->unknown; start += extent.bytes) {
		ret = map_in_layer(chain->layers[i], start, end - start,
				   &extent, map);
		if (ret)
			return ret;
		if (!is_unallocated(&extent))
			found_at_depth(geo, s, start, extent.bytes, i + 1);
	}
	return 0;
}

static int search_layers(struct qcow2_chain *chain, struct depth_search *s,
			 map_fn *map)
{
	const struct qcow2_geometry *geo = &chain->img->geo;
	u64 clusters = (u64)s->nr << geo->cluster_bits;
	int ret;
	u32 i;

	s->unknown = s->nr;
	for (i = 0; i < chain->nr && s->unknown; i++) {
		ret = search_layer(chain, i, s, map);
		if (ret)
			return ret;
	}
	/* Nothing anywhere: a search may begin behind the last one. */
	found_at_depth(geo, s, s->cluster << geo->cluster_bits, clusters,
		       chain->nr + 1);
	return 0;
}

static int find_depth(struct qcow2_chain *chain, u64 cluster, u32 *depth)
{
	struct depth_search s = { .cluster = cluster, .nr = 1 };
	int ret;

	*depth = known_depth(chain, cluster);
	if (*depth)
		return 0;
	ret = search_layers(chain, &s, qcow2_map);
	if (ret)
		return ret;
	*depth = s.depth[0];
	remember_depth(chain, cluster, *depth);
	return 0;
}

/*
 * For the group of @nr clusters that one is in.  The first one to look in an area
 * needs a worker, which has memory for the page.
 */
static int search_cached(struct qcow2_chain *chain, u64 cluster, u32 nr,
			 u32 *depth)
{
	struct depth_search s = {
		.cluster = round_down(cluster, nr),
		.nr = nr,
	};
	int ret = search_layers(chain, &s, qcow2_map_cached);

	if (ret)
		return ret;
	if (!store_depths(chain, s.cluster, nr, s.depth))
		return -EAGAIN;
	*depth = s.depth[cluster - s.cluster];
	return 0;
}

static int find_depth_cached(struct qcow2_chain *chain, u64 cluster,
			     u32 *depth)
{
	u32 nr = clamp(NEIGHBOURS_BYTES >> chain->img->geo.cluster_bits, 1,
		       NEIGHBOURS);
	int ret;

	*depth = known_depth(chain, cluster);
	if (*depth)
		return 0;
	ret = search_cached(chain, cluster, nr, depth);
	/* What is not cached may be that of neighbours only. */
	if (ret && nr > 1)
		ret = search_cached(chain, cluster, 1, depth);
	return ret;
}

/*
 * Where to begin, counted from 1; *@bytes is shortened to clusters with the same
 * answer.  What cannot be read is found again by the search itself.
 */
static u32 begin_at(struct qcow2_chain *chain, u64 guest_offset, u64 *bytes)
{
	const struct qcow2_geometry *geo = &chain->img->geo;
	u64 cluster = guest_offset >> geo->cluster_bits;
	u64 covered = geo->cluster_bytes - qcow2_into_cluster(geo, guest_offset);
	u32 depth, next;

	if (find_depth(chain, cluster, &depth))
		depth = 1;
	while (covered < *bytes && !find_depth(chain, ++cluster, &next) &&
	       next == depth)
		covered += geo->cluster_bytes;
	*bytes = min(*bytes, covered);
	return depth;
}

/* From layer @i on, counted from 0. */
static int search(struct qcow2_chain *chain, u32 i, u64 guest_offset, u64 bytes,
		  struct qcow2_extent *extent, map_fn *map)
{
	int ret;

	for (; i < chain->nr; i++) {
		ret = map_in_layer(chain->layers[i], guest_offset, bytes,
				   extent, map);
		if (ret || !is_unallocated(extent))
			return ret;
		bytes = extent->bytes;
	}
	*extent = (struct qcow2_extent) {
		.type = QCOW2_SUBCLUSTER_ZERO_PLAIN,
		.img = chain->img,
		.bytes = bytes,
	};
	return 0;
}

static int resolve_beneath(struct qcow2_chain *chain, u64 guest_offset,
			   u64 bytes, struct qcow2_extent *extent)
{
	u32 i = 0;

	if (chain->nr > 1)
		i = begin_at(chain, guest_offset, &bytes) - 1;
	return search(chain, i, guest_offset, bytes, extent, qcow2_map);
}

/*
 * A view's first layer is the image that it shows.  What is damaged beneath that is
 * another's damage, which was told when it was found.
 */
static int resolve_view(struct qcow2_image *img, u64 guest_offset, u64 bytes,
			struct qcow2_extent *extent)
{
	struct qcow2_chain *chain = chain_of(img);
	int ret = resolve_beneath(chain, guest_offset, bytes, extent);

	if (ret != -EUCLEAN || !qcow2_image_needs_check(chain->layers[0]))
		return ret;
	return qcow2_image_fail(img, ret,
				"damaged metadata for guest offset 0x%llx",
				guest_offset);
}

/**
 * qcow2_resolve() - find out where guest data comes from
 * @img: the image
 * @guest_offset: first byte, inside of the virtual disk's clusters
 * @bytes: how many bytes are of interest
 * @extent: filled in as by qcow2_map(); what is unallocated here is so in the
 *	whole chain, and reads as zeroes
 *
 * Context: as qcow2_map(); in an epoch of the image's, in which what was found in a
 * layer may be used.
 * Return: as qcow2_map().
 */
int qcow2_resolve(struct qcow2_image *img, u64 guest_offset, u64 bytes,
		  struct qcow2_extent *extent)
{
	struct qcow2_chain *chain;
	int ret;

	if (qcow2_image_is_view(img))
		return resolve_view(img, guest_offset, bytes, extent);
	ret = qcow2_map(img, guest_offset, bytes, extent);
	if (ret || !is_unallocated(extent))
		return ret;
	chain = chain_of(img);
	if (!chain)
		return 0;
	return resolve_beneath(chain, guest_offset, extent->bytes, extent);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_resolve);

/* In one cluster. */
static int resolve_beneath_cached(struct qcow2_chain *chain, u64 guest_offset,
				  u64 bytes, struct qcow2_extent *extent)
{
	const struct qcow2_geometry *geo = &chain->img->geo;
	u32 depth = 1;
	int ret;

	if (chain->nr > 1) {
		ret = find_depth_cached(chain,
					guest_offset >> geo->cluster_bits,
					&depth);
		if (ret)
			return ret;
		bytes = min_t(u64, bytes, geo->cluster_bytes -
			      qcow2_into_cluster(geo, guest_offset));
	}
	return search(chain, depth - 1, guest_offset, bytes, extent,
		      qcow2_map_cached);
}

/**
 * qcow2_resolve_cached() - as qcow2_resolve(), if that takes no I/O
 * @img: the image
 * @guest_offset: first byte, inside of the virtual disk's clusters
 * @bytes: how many bytes are of interest
 * @extent: filled in as by qcow2_resolve()
 *
 * Context: as qcow2_map_cached().
 * Return: as qcow2_map_cached(); what is damaged qcow2_resolve() is to tell.
 */
int qcow2_resolve_cached(struct qcow2_image *img, u64 guest_offset, u64 bytes,
			 struct qcow2_extent *extent)
{
	struct qcow2_chain *chain;
	int ret;

	if (qcow2_image_is_view(img))
		return resolve_beneath_cached(chain_of(img), guest_offset,
					      bytes, extent);
	ret = qcow2_map_cached(img, guest_offset, bytes, extent);
	if (ret || !is_unallocated(extent))
		return ret;
	chain = chain_of(img);
	if (!chain)
		return 0;
	return resolve_beneath_cached(chain, guest_offset, extent->bytes,
				      extent);
}
