// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compressed clusters: reading them.
 */

/**
 * DOC: compressed clusters
 *
 * A compressed cluster is read and decompressed as a whole, into one of a few
 * buffers, in which it stays for those who want another part of it.  Whoever
 * comes first puts the empty buffer where others find it; they wait for that
 * one, and only for it.  No lock is held across I/O or decompression, so as
 * many clusters are decompressed at once as there are CPUs.
 *
 * That takes two sorts of memory, neither of which there is before the first
 * compressed cluster is read, for most images have none: clusters, and jobs
 * (room for a stream, and what the codec works in).  No allocation of these is
 * one that may not fail, for the system may need this read to get memory.
 * Without memory a read waits for one of those that there are, and whoever has
 * one waits for nothing but I/O.  Clusters are reused when there are enough of
 * them, the coldest first; the system may ask for all but one.
 *
 * When there is none at all, the read is a rescue.  Rescues of an image go one
 * after the other:
 *
 * 1. the stream is read into single pages of the image's own, which the first
 *    rescue has made and which stay.  These may not fail: they are pages, as
 *    many as a stream takes and no more, for an image once.
 * 2. it is copied to the reserve (reserve.c) and decompressed there.  The reserve
 *    is one for all images, and so small that it is always there.
 *
 * Each of the two ends by itself.  In 1 an image holds nothing that another one
 * waits for, so it does not matter if its file lies on that one's device, which
 * may need a rescue to read it.  In 2 the reserve is held, but there is no I/O
 * and no allocation.  If the reserve was held while a stream is read, the upper
 * one of two stacked images would wait for the lower one, and that for the
 * reserve.  Nothing of a rescue is kept for other reads, and each read tries
 * first to get memory.
 *
 * A cluster is found by its L2 entry, without the flags.  The entry may come to
 * mean other bytes when its host clusters were freed, so whoever frees them
 * calls qcow2_compress_forget() before they can be used again.  Nobody who
 * began to read before does so still, for readers are in an epoch.
 *
 * Nothing that an image says decides how much memory is taken or how long it
 * takes, but its cluster size: no stream that is much longer than a cluster is
 * read to its end, and no codec writes more than a cluster.  A stream that is
 * damaged is an error of its cluster; the image does not fail for it, which no
 * metadata depends on.
 */

#include <linux/bvec.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/math.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/printk.h>
#include <linux/ratelimit.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/vmalloc.h>

#include "codec.h"
#include "image.h"

/* Decompressed clusters of an image take so much, if these are 4 or more. */
#define CACHE_BYTES	SZ_4M
#define MIN_CLUSTERS	4U
#define MAX_CLUSTERS	256U

/* While one waits for I/O, another one can use its CPU. */
#define JOBS_PER_CPU	2U

/*
 * With no memory to be had easily, one rather waits for what there is, or is
 * content with a rescue.  Only that needs memory that cannot fail, and only
 * single pages of it.
 */
#define GFP_MORE	(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN)
#define GFP_RESCUE	(GFP_NOIO | __GFP_NOFAIL)

/**
 * struct cluster - a decompressed cluster, or one that is about to be
 * @hash: in its bucket; empty if nobody is to find it
 * @idle: in the list of clusters that nobody uses
 * @users: those who read it
 * @word: its L2 entry, without flags
 * @error: set before @loaded completes: why it cannot be read
 * @loaded: completes when @data or @error is valid
 * @data: the cluster
 */
struct cluster {
	struct list_head hash;
	struct list_head idle;
	unsigned int users;
	u64 word;
	int error;
	struct completion loaded;
	void *data;
};

/**
 * struct job - what it takes to decompress a cluster
 * @idle: in the list of jobs that nobody uses
 * @stream: room for the sectors of a stream
 * @bv: the pages of @stream
 * @workspace: for the codec
 */
struct job {
	struct list_head idle;
	void *stream;
	struct bio_vec *bv;
	void *workspace;
};

/*
 * Memory.
 */

/*
 * What is read of a stream.  Data that cannot be compressed grows by far less in
 * any codec; what is longer was made to be.
 */
static u32 max_stream_bytes(const struct qcow2_geometry *geo)
{
	return geo->cluster_bytes + geo->cluster_bytes / 4;
}

/* The blocks that a stream of that length may touch, in pages. */
static unsigned int stream_pages(struct qcow2_image *img)
{
	return DIV_ROUND_UP(max_stream_bytes(&img->geo) +
			    2 * qcow2_file_align(img->file), PAGE_SIZE);
}

static void free_job(struct job *job)
{
	kvfree(job->workspace);
	kvfree(job->bv);
	vfree(job->stream);
	kfree(job);
}

static struct job *alloc_job(struct qcow2_image *img)
{
	unsigned int i, pages = stream_pages(img);
	struct job *job = kzalloc_obj(*job, GFP_MORE);

	if (!job)
		return NULL;
	job->stream = __vmalloc(pages * PAGE_SIZE, GFP_MORE);
	job->bv = kvmalloc_array(pages, sizeof(*job->bv), GFP_MORE);
	job->workspace = kvmalloc(img->compress.codec->workspace_bytes(),
				  GFP_MORE);
	if (!job->stream || !job->bv || !job->workspace) {
		free_job(job);
		return NULL;
	}
	for (i = 0; i < pages; i++)
		bvec_set_page(&job->bv[i],
			      vmalloc_to_page(job->stream + i * PAGE_SIZE),
			      PAGE_SIZE, 0);
	return job;
}

static void free_cluster(struct cluster *cluster)
{
	kvfree(cluster->data);
	kfree(cluster);
}

static struct cluster *alloc_cluster(struct qcow2_image *img)
{
	struct cluster *cluster = kzalloc_obj(*cluster, GFP_MORE);

	if (!cluster)
		return NULL;
	cluster->data = kvmalloc(img->geo.cluster_bytes, GFP_MORE);
	if (!cluster->data) {
		kfree(cluster);
		return NULL;
	}
	INIT_LIST_HEAD(&cluster->hash);
	INIT_LIST_HEAD(&cluster->idle);
	init_completion(&cluster->loaded);
	return cluster;
}

/*
 * A stock: all jobs of an image, or all its clusters.  Its users take what is
 * idle, make another one while there are not too many, or wait; if there is none
 * and none can be made, they do without.
 */

static void stock_init(struct qcow2_stock *stock, unsigned int max)
{
	INIT_LIST_HEAD(&stock->idle);
	init_waitqueue_head(&stock->wait);
	stock->max = max;
}

static bool stock_has_room(const struct qcow2_stock *stock)
{
	return stock->nr < stock->max;
}

/* The caller will make one. */
static void stock_begin(struct qcow2_compress *comp, struct qcow2_stock *stock)
{
	lockdep_assert_held(&comp->lock);
	WRITE_ONCE(stock->nr, stock->nr + 1);
}

/*
 * It could not be made, or is no more.  When it was the only one, those who wait
 * for it wait for nothing.
 */
static void stock_remove(struct qcow2_compress *comp, struct qcow2_stock *stock)
{
	lockdep_assert_held(&comp->lock);
	WRITE_ONCE(stock->nr, stock->nr - 1);
	if (!stock->nr)
		wake_up_all(&stock->wait);
}

static bool stock_is_empty(const struct qcow2_stock *stock)
{
	return !READ_ONCE(stock->nr);
}

static struct list_head *stock_take(struct qcow2_compress *comp,
				    struct qcow2_stock *stock)
{
	struct list_head *idle = stock->idle.next;

	lockdep_assert_held(&comp->lock);
	if (list_empty(&stock->idle))
		return NULL;
	list_del_init(idle);
	WRITE_ONCE(stock->nr_idle, stock->nr_idle - 1);
	return idle;
}

/* Gives back what stock_wait() waits for; @cold is taken before others. */
static void stock_give(struct qcow2_compress *comp, struct qcow2_stock *stock,
		       struct list_head *idle, bool cold)
{
	lockdep_assert_held(&comp->lock);
	if (cold)
		list_add(idle, &stock->idle);
	else
		list_add_tail(idle, &stock->idle);
	WRITE_ONCE(stock->nr_idle, stock->nr_idle + 1);
	wake_up(&stock->wait);
}

/*
 * Until one is idle, or the only one could not be made.  Whoever was woken and
 * does not take what is idle has to pass it on.
 */
static void stock_wait(struct qcow2_stock *stock)
{
	wait_event_idle_exclusive(stock->wait, READ_ONCE(stock->nr_idle) ||
				  stock_is_empty(stock));
}

static void stock_pass_on(struct qcow2_stock *stock)
{
	if (READ_ONCE(stock->nr_idle))
		wake_up(&stock->wait);
}

/*
 * Jobs.
 */

static struct job *take_job(struct qcow2_compress *comp, bool *make)
{
	struct list_head *idle;

	spin_lock(&comp->lock);
	idle = stock_take(comp, &comp->jobs);
	*make = !idle && stock_has_room(&comp->jobs);
	if (*make)
		stock_begin(comp, &comp->jobs);
	spin_unlock(&comp->lock);
	return idle ? list_entry(idle, struct job, idle) : NULL;
}

static struct job *make_job(struct qcow2_image *img)
{
	struct qcow2_compress *comp = &img->compress;
	struct job *job = alloc_job(img);

	if (job)
		return job;
	spin_lock(&comp->lock);
	stock_remove(comp, &comp->jobs);
	spin_unlock(&comp->lock);
	return NULL;
}

/* NULL if there is none and none can be made. */
static struct job *get_job(struct qcow2_image *img)
{
	struct qcow2_compress *comp = &img->compress;
	struct job *job;
	bool make;

	for (;;) {
		job = take_job(comp, &make);
		if (make)
			job = make_job(img);
		if (job || (make && stock_is_empty(&comp->jobs)))
			return job;
		stock_wait(&comp->jobs);
	}
}

static void put_job(struct qcow2_compress *comp, struct job *job)
{
	spin_lock(&comp->lock);
	/* The one whose memory is in the CPU's cache is the next to be used. */
	stock_give(comp, &comp->jobs, &job->idle, true);
	spin_unlock(&comp->lock);
}

/*
 * Clusters.
 */

static struct list_head *bucket_of(struct qcow2_compress *comp, u64 word)
{
	return &comp->buckets[(word >> 9) % QCOW2_COMPRESS_BUCKETS];
}

static struct cluster *find_cluster(struct qcow2_compress *comp, u64 word)
{
	struct cluster *cluster;

	lockdep_assert_held(&comp->lock);
	list_for_each_entry(cluster, bucket_of(comp, word), hash) {
		if (cluster->word != word)
			continue;
		if (!cluster->users++) {
			list_del_init(&cluster->idle);
			WRITE_ONCE(comp->clusters.nr_idle,
				   comp->clusters.nr_idle - 1);
		}
		return cluster;
	}
	return NULL;
}

/* Has @cluster found by @word; its user has to load it. */
static void insert_cluster(struct qcow2_compress *comp, struct cluster *cluster,
			   u64 word)
{
	lockdep_assert_held(&comp->lock);
	list_del(&cluster->hash);
	list_add(&cluster->hash, bucket_of(comp, word));
	cluster->word = word;
	cluster->users = 1;
	cluster->error = 0;
	reinit_completion(&cluster->loaded);
}

/**
 * struct wanted - a cluster that is looked for
 * @word: its L2 entry, without flags
 * @fresh: memory for it, of which the stock knows, or NULL
 * @mine: the caller has to load it
 * @make: there is no cluster to be had, but the caller may make one
 */
struct wanted {
	u64 word;
	struct cluster *fresh;
	bool mine;
	bool make;
};

/* The cluster, or memory for it, if it is there. */
static struct cluster *take_cluster(struct qcow2_compress *comp,
				    struct wanted *wanted, bool make)
{
	struct list_head *idle = NULL;
	struct cluster *cluster;

	lockdep_assert_held(&comp->lock);
	wanted->make = false;
	cluster = find_cluster(comp, wanted->word);
	if (cluster)
		return cluster;
	if (wanted->fresh) {
		cluster = wanted->fresh;
		wanted->fresh = NULL;
	} else {
		wanted->make = make && stock_has_room(&comp->clusters);
		if (wanted->make)
			stock_begin(comp, &comp->clusters);
		else
			idle = stock_take(comp, &comp->clusters);
		if (!idle)
			return NULL;
		cluster = list_entry(idle, struct cluster, idle);
	}
	insert_cluster(comp, cluster, wanted->word);
	wanted->mine = true;
	return cluster;
}

/* Takes or makes a cluster for @wanted; NULL if all are in use. */
static struct cluster *try_cluster(struct qcow2_image *img,
				   struct wanted *wanted)
{
	struct qcow2_compress *comp = &img->compress;
	struct cluster *cluster;

	spin_lock(&comp->lock);
	cluster = take_cluster(comp, wanted, true);
	spin_unlock(&comp->lock);
	if (!wanted->make)
		return cluster;
	wanted->fresh = alloc_cluster(img);
	spin_lock(&comp->lock);
	if (!wanted->fresh)
		stock_remove(comp, &comp->clusters);
	cluster = take_cluster(comp, wanted, false);
	/* Another one has come first. */
	if (wanted->fresh)
		stock_give(comp, &comp->clusters, &wanted->fresh->idle, true);
	spin_unlock(&comp->lock);
	return cluster;
}

/* NULL if there is none and none can be made. */
static struct cluster *get_cluster(struct qcow2_image *img, u64 word,
				   bool *mine)
{
	struct qcow2_stock *stock = &img->compress.clusters;
	struct wanted wanted = { .word = word };
	struct cluster *cluster;

	cluster = try_cluster(img, &wanted);
	while (!cluster && !stock_is_empty(stock)) {
		stock_wait(stock);
		cluster = try_cluster(img, &wanted);
		/* Another one may have made it meanwhile. */
		stock_pass_on(stock);
	}
	*mine = wanted.mine;
	return cluster;
}

static void put_cluster(struct qcow2_compress *comp, struct cluster *cluster)
{
	spin_lock(&comp->lock);
	if (!--cluster->users)
		stock_give(comp, &comp->clusters, &cluster->idle,
			   list_empty(&cluster->hash));
	spin_unlock(&comp->lock);
}

/*
 * Loading.
 */

/* Says once for all who wait for a cluster why they do not get it. */
static int cannot_read(struct qcow2_image *img, u64 offset, u32 bytes,
		       const char *why)
{
	pr_err_ratelimited("qcow2: %s: the compressed cluster at host offset 0x%llx (up to %u bytes) cannot be read: %s\n",
			   img->name, offset, bytes, why);
	return -EIO;
}

/**
 * struct place - where a stream is, and what of the file is read for it
 * @offset: host offset of the stream
 * @bytes: length of the stream, or more
 * @start: host offset of the first block that it is in
 * @length: of the blocks
 */
struct place {
	u64 offset;
	u32 bytes;
	u64 start;
	size_t length;
};

static int find_stream(struct qcow2_image *img, u64 word, struct place *place)
{
	u32 align = qcow2_file_align(img->file);
	u64 offset;
	u32 bytes;

	qcow2_compressed_range(&img->geo, word, &offset, &bytes);
	bytes = min(bytes, max_stream_bytes(&img->geo));
	place->offset = offset;
	place->bytes = bytes;
	place->start = round_down(offset, (u64)align);
	place->length = round_up(offset + bytes, (u64)align) - place->start;
	if (offset >= qcow2_file_bytes(img->file))
		return cannot_read(img, offset, bytes,
				   "it lies behind the end of the file");
	return 0;
}

static void iter_of(struct iov_iter *iter, unsigned int direction,
		    const struct bio_vec *bv, const struct place *place)
{
	iov_iter_bvec(iter, direction, bv,
		      DIV_ROUND_UP(place->length, PAGE_SIZE), place->length);
}

static int read_stream(struct qcow2_image *img, const struct bio_vec *bv,
		       const struct place *place)
{
	struct iov_iter iter;

	iter_of(&iter, ITER_DEST, bv, place);
	if (qcow2_file_rw(img->file, false, place->start, &iter))
		return cannot_read(img, place->offset, place->bytes,
				   "I/O error");
	return 0;
}

/* @stream begins with the first block. */
static int run_codec(struct qcow2_image *img, void *workspace,
		     const void *stream, const struct place *place, void *data)
{
	const struct qcow2_codec *codec = img->compress.codec;
	u32 into = place->offset - place->start;

	if (codec->decompress(workspace, stream + into, place->bytes, data,
			      img->geo.cluster_bytes))
		return cannot_read(img, place->offset, place->bytes,
				   "it is damaged, which 'qemu-img check' does not see; restore it or overwrite all of it");
	return 0;
}

static int decompress(struct qcow2_image *img, struct job *job, u64 word,
		      void *data)
{
	struct place place;
	int ret;

	ret = find_stream(img, word, &place);
	ret = ret ?: read_stream(img, job->bv, &place);
	return ret ?: run_codec(img, job->workspace, job->stream, &place, data);
}

static void count_load(struct qcow2_compress *comp)
{
	lockdep_assert_held(&comp->lock);
	WRITE_ONCE(comp->loads, comp->loads + 1);
}

/*
 * Rescues: reading without memory.
 */

/**
 * struct aim - what a rescue is for
 * @data: memory for all of the cluster, or NULL
 * @into: without it: first byte that is wanted
 * @to: where that and what follows go
 */
struct aim {
	void *data;
	u32 into;
	struct iov_iter *to;
};

/* As many pages as the place needs; those that are there stay for the next. */
static void make_rescue_pages(struct qcow2_compress *comp,
			      const struct place *place)
{
	size_t i;

	lockdep_assert_held(&comp->rescue_lock);
	for (i = 0; i < DIV_ROUND_UP(place->length, PAGE_SIZE); i++)
		if (!comp->rescue[i].bv_page)
			bvec_set_page(&comp->rescue[i], alloc_page(GFP_RESCUE),
				      PAGE_SIZE, 0);
}

/* With the reserve: no I/O, no allocation. */
static int fill_aim(struct qcow2_image *img, const struct qcow2_reserve *reserve,
		    const struct place *place, const struct aim *aim)
{
	struct qcow2_compress *comp = &img->compress;
	void *data = aim->data ?: reserve->cluster;
	struct iov_iter iter;
	size_t bytes;
	int ret;

	lockdep_assert_held(&comp->rescue_lock);
	iter_of(&iter, ITER_SOURCE, comp->rescue, place);
	if (copy_from_iter(reserve->stream, place->length, &iter) !=
	    place->length)
		return -EIO;
	ret = run_codec(img, reserve->workspace, reserve->stream, place, data);
	if (ret || aim->data)
		return ret;
	bytes = iov_iter_count(aim->to);
	return copy_to_iter(data + aim->into, bytes, aim->to) == bytes ?
		0 : -EIO;
}

static int rescue(struct qcow2_image *img, u64 word, const struct aim *aim)
{
	struct qcow2_compress *comp = &img->compress;
	const struct qcow2_reserve *reserve;
	struct place place;
	int ret;

	mutex_lock(&comp->rescue_lock);
	ret = find_stream(img, word, &place);
	if (ret)
		goto out;
	make_rescue_pages(comp, &place);
	ret = read_stream(img, comp->rescue, &place);
	if (ret)
		goto out;
	reserve = qcow2_reserve_begin();
	ret = fill_aim(img, reserve, &place, aim);
	qcow2_reserve_end();
out:
	mutex_unlock(&comp->rescue_lock);
	return ret;
}

/* There is no cluster to be had. */
static int rescue_read(struct qcow2_image *img, u64 word, u32 into,
		       struct iov_iter *to)
{
	struct qcow2_compress *comp = &img->compress;
	int ret = rescue(img, word, &(struct aim){ .into = into, .to = to });

	spin_lock(&comp->lock);
	count_load(comp);
	spin_unlock(&comp->lock);
	return ret;
}

static void load(struct qcow2_image *img, struct cluster *cluster)
{
	struct qcow2_compress *comp = &img->compress;
	struct job *job = get_job(img);
	int error;

	if (job) {
		error = decompress(img, job, cluster->word, cluster->data);
		put_job(comp, job);
	} else {
		error = rescue(img, cluster->word,
			       &(struct aim){ .data = cluster->data });
	}
	spin_lock(&comp->lock);
	cluster->error = error;
	/* The next one to come shall try again. */
	if (error)
		list_del_init(&cluster->hash);
	count_load(comp);
	spin_unlock(&comp->lock);
	complete_all(&cluster->loaded);
}

/**
 * qcow2_compressed_read() - read a part of a compressed cluster
 * @img: the image
 * @word: L2 entry of the cluster
 * @into: first byte, from the start of the cluster
 * @to: bvecs to be filled; its count is the number of bytes, which are all in
 *	the cluster.  Advanced.
 *
 * QEMU: qcow2_co_preadv_compressed().
 *
 * Context: sleeps, does I/O; needs no memory to proceed.  In an epoch, which
 * was entered before @word was looked up.
 * Return: 0, or -EIO if the cluster cannot be read, which was logged then.
 */
int qcow2_compressed_read(struct qcow2_image *img, u64 word, u32 into,
			  struct iov_iter *to)
{
	size_t bytes = iov_iter_count(to);
	struct cluster *cluster;
	bool mine;
	int ret;

	if (WARN_ON_ONCE(into > img->geo.cluster_bytes ||
			 bytes > img->geo.cluster_bytes - into))
		return -EIO;
	word &= ~(QCOW2_OFLAG_COPIED | QCOW2_OFLAG_COMPRESSED);
	cluster = get_cluster(img, word, &mine);
	if (!cluster)
		return rescue_read(img, word, into, to);
	if (mine)
		load(img, cluster);
	wait_for_completion(&cluster->loaded);
	ret = cluster->error;
	if (!ret && copy_to_iter(cluster->data + into, bytes, to) != bytes)
		ret = -EIO;
	put_cluster(&img->compress, cluster);
	return ret;
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_compressed_read);

/*
 * Forgetting.
 */

static bool lies_in(const struct qcow2_geometry *geo,
		    const struct cluster *cluster, u64 offset, u64 bytes)
{
	u64 start;
	u32 length;

	qcow2_compressed_range(geo, cluster->word, &start, &length);
	return start < offset + bytes && offset < start + length;
}

static void forget_in_bucket(struct qcow2_image *img, struct list_head *bucket,
			     u64 offset, u64 bytes)
{
	struct cluster *cluster, *next;

	list_for_each_entry_safe(cluster, next, bucket, hash)
		if (lies_in(&img->geo, cluster, offset, bytes))
			list_del_init(&cluster->hash);
}

/**
 * qcow2_compress_forget() - host clusters become free
 * @img: the image
 * @offset: host offset of the first in bytes
 * @bytes: length
 *
 * Context: any that may spin; meta_lock may be held.
 */
void qcow2_compress_forget(struct qcow2_image *img, u64 offset, u64 bytes)
{
	struct qcow2_compress *comp = &img->compress;
	unsigned int i;

	if (!READ_ONCE(comp->clusters.nr))
		return;
	spin_lock(&comp->lock);
	for (i = 0; i < QCOW2_COMPRESS_BUCKETS; i++)
		forget_in_bucket(img, &comp->buckets[i], offset, bytes);
	spin_unlock(&comp->lock);
}
EXPORT_SYMBOL_IF_KUNIT(qcow2_compress_forget);

/*
 * Giving memory back when the system asks for it, which counts in pages.  The
 * last one of each stays, which is what reads proceed with.
 */

static unsigned long cluster_pages(struct qcow2_image *img)
{
	return DIV_ROUND_UP(img->geo.cluster_bytes, PAGE_SIZE);
}

static unsigned long spare(const struct qcow2_stock *stock)
{
	unsigned long nr = READ_ONCE(stock->nr);

	return min_t(unsigned long, READ_ONCE(stock->nr_idle),
		     nr ? nr - 1 : 0);
}

static unsigned long count_idle(struct shrinker *shrinker,
				struct shrink_control *sc)
{
	struct qcow2_image *img = shrinker->private_data;

	return spare(&img->compress.clusters) * cluster_pages(img) +
	       spare(&img->compress.jobs) * stream_pages(img) ?: SHRINK_EMPTY;
}

/* Takes one that is not needed out of a stock. */
static struct list_head *discharge(struct qcow2_compress *comp,
				   struct qcow2_stock *stock)
{
	struct list_head *idle;

	lockdep_assert_held(&comp->lock);
	if (!spare(stock))
		return NULL;
	idle = stock_take(comp, stock);
	stock_remove(comp, stock);
	return idle;
}

static bool drop_cluster(struct qcow2_image *img)
{
	struct qcow2_compress *comp = &img->compress;
	struct list_head *idle;
	struct cluster *cluster;

	spin_lock(&comp->lock);
	idle = discharge(comp, &comp->clusters);
	cluster = idle ? list_entry(idle, struct cluster, idle) : NULL;
	if (cluster)
		list_del(&cluster->hash);
	spin_unlock(&comp->lock);
	if (cluster)
		free_cluster(cluster);
	return cluster;
}

static bool drop_job(struct qcow2_image *img)
{
	struct qcow2_compress *comp = &img->compress;
	struct list_head *idle;

	spin_lock(&comp->lock);
	idle = discharge(comp, &comp->jobs);
	spin_unlock(&comp->lock);
	if (idle)
		free_job(list_entry(idle, struct job, idle));
	return idle;
}

static unsigned long drop_idle(struct shrinker *shrinker,
			       struct shrink_control *sc)
{
	struct qcow2_image *img = shrinker->private_data;
	unsigned long dropped = 0;

	while (dropped < sc->nr_to_scan && drop_cluster(img))
		dropped += cluster_pages(img);
	while (dropped < sc->nr_to_scan && drop_job(img))
		dropped += stream_pages(img);
	sc->nr_scanned = max(dropped, sc->nr_to_scan);
	return dropped ?: SHRINK_STOP;
}

/* What a rescue needs and cannot get when it needs it. */
static int prepare_rescue(struct qcow2_image *img)
{
	const struct qcow2_reserve wanted = {
		.stream_bytes = stream_pages(img) * PAGE_SIZE,
		.workspace_bytes = img->compress.codec->workspace_bytes(),
		.cluster_bytes = img->geo.cluster_bytes,
	};
	struct qcow2_compress *comp = &img->compress;

	mutex_init(&comp->rescue_lock);
	comp->rescue = kvcalloc(stream_pages(img), sizeof(*comp->rescue),
				GFP_KERNEL);
	if (!comp->rescue || qcow2_reserve_get(&wanted))
		return -ENOMEM;
	comp->reserved = true;
	return 0;
}

static void exit_rescue(struct qcow2_image *img)
{
	struct qcow2_compress *comp = &img->compress;
	unsigned int i;

	if (comp->reserved)
		qcow2_reserve_put();
	for (i = 0; comp->rescue && i < stream_pages(img); i++)
		if (comp->rescue[i].bv_page)
			__free_page(comp->rescue[i].bv_page);
	kvfree(comp->rescue);
	mutex_destroy(&comp->rescue_lock);
}

static int add_shrinker(struct qcow2_image *img)
{
	struct shrinker *shrinker = shrinker_alloc(0, "qcow2-%s-compressed",
						   img->name);

	if (!shrinker)
		return -ENOMEM;
	shrinker->count_objects = count_idle;
	shrinker->scan_objects = drop_idle;
	shrinker->private_data = img;
	shrinker_register(shrinker);
	img->compress.shrinker = shrinker;
	return 0;
}

/**
 * qcow2_compress_init() - prepare to read compressed clusters
 * @img: the image, whose header was decoded
 *
 * Return: 0 or -ENOMEM; qcow2_compress_exit() is due in both cases.
 */
int qcow2_compress_init(struct qcow2_image *img)
{
	struct qcow2_compress *comp = &img->compress;
	unsigned int clusters, i;

	clusters = clamp(CACHE_BYTES / img->geo.cluster_bytes, MIN_CLUSTERS,
			 MAX_CLUSTERS);
	comp->codec = img->geo.compression_type == QCOW2_COMPRESSION_ZSTD ?
		&qcow2_codec_zstd : &qcow2_codec_zlib;
	spin_lock_init(&comp->lock);
	stock_init(&comp->clusters, clusters);
	stock_init(&comp->jobs, min(clusters,
				    JOBS_PER_CPU * num_online_cpus()));
	for (i = 0; i < QCOW2_COMPRESS_BUCKETS; i++)
		INIT_LIST_HEAD(&comp->buckets[i]);
	return prepare_rescue(img) ?: add_shrinker(img);
}

/**
 * qcow2_compress_exit() - drop all decompressed clusters
 * @img: the image; nobody reads it any more
 */
void qcow2_compress_exit(struct qcow2_image *img)
{
	struct qcow2_compress *comp = &img->compress;
	struct cluster *cluster, *next_cluster;
	struct job *job, *next_job;

	shrinker_free(comp->shrinker);
	list_for_each_entry_safe(cluster, next_cluster, &comp->clusters.idle,
				 idle)
		free_cluster(cluster);
	list_for_each_entry_safe(job, next_job, &comp->jobs.idle, idle)
		free_job(job);
	exit_rescue(img);
}
