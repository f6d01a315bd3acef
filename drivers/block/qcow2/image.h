/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the engine's files share: the image object, one guest operation, and
 * the functions that they call in each other.
 */
#ifndef _QCOW2_IMAGE_H
#define _QCOW2_IMAGE_H

#include <linux/atomic.h>
#include <linux/bug.h>
#include <linux/cache.h>
#include <linux/completion.h>
#include <linux/list.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/seqlock.h>
#include <linux/spinlock.h>
#include <linux/uio.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <kunit/visibility.h>
#include <uapi/linux/qcow2.h>

#include "file.h"
#include "format.h"
#include "free.h"

/* A metadata cache of this size serves most disks whole (DESIGN §6). */
#define QCOW2_CACHE_DEFAULT_BYTES	SZ_32M

/* With less some writers at once could not have their slices together. */
#define QCOW2_CACHE_MIN_BYTES	SZ_256K

/* Tables of the largest image that there can be in practice. */
#define QCOW2_CACHE_MAX_BYTES	((u64)SZ_1G << 6)

/* With more clusters than this about to be freed, changes have to wait. */
#define QCOW2_MAX_DROPS	SZ_64K

/* Metadata changes reach the file after this time at the latest. */
#define QCOW2_COMMIT_SECONDS	5

/**
 * struct qcow2_reason - why an image or a call was refused
 * @text: one line for the administrator, empty if nothing was refused
 */
struct qcow2_reason {
	char text[QCOW2_REASON_MAX];
};

__printf(3, 4)
int qcow2_refuse(struct qcow2_reason *why, int error, const char *fmt, ...);

/**
 * struct qcow2_geometry - the header, decoded and checked
 * @virtual_bytes: size of the virtual disk; of an attached image see
 *	qcow2_virtual_bytes()
 * @version: 2 or 3
 * @cluster_bits: log2 of @cluster_bytes
 * @cluster_bytes: cluster size
 * @subcluster_bits: log2 of the subcluster size in bytes; a subcluster is the
 *	cluster without extended L2 entries
 * @subclusters: subclusters in a cluster, 1 or 32
 * @l2_entry_words: 64-bit words of an L2 entry, 1 or 2 (extended)
 * @l2_bits: log2 of the number of entries of an L2 table
 * @slice_bits: log2 of the size in bytes of a slice, the piece in which L2
 *	tables and refcount blocks are cached: the cluster, at most a page
 * @l2_slice_bits: log2 of the number of L2 entries in a slice
 * @refcount_order: log2 of the width of a refcount in bits
 * @refblock_bits: log2 of the number of refcounts in a refcount block
 * @refslice_bits: log2 of the number of refcounts in a slice
 * @l1_entries: entries of the active L1 table
 * @reftable_clusters: length of the refcount table
 * @l1_offset: host offset of the active L1 table
 * @reftable_offset: host offset of the refcount table
 * @nb_snapshots: number of internal snapshots when the image was opened
 * @snapshots_offset: host offset of the snapshot table, likewise
 * @nb_bitmaps: number of persistent bitmaps that mean something
 * @bitmaps_bytes: length of the bitmap directory, likewise
 * @bitmaps_offset: host offset of the bitmap directory, likewise
 * @header_bytes: length of the header
 * @has_backing: a backing file is named
 * @has_data_file: guest data lies in a file of its own, at its guest offset
 * @raw_data: that file reads as the disk does
 * @compression_type: of compressed clusters, as in the header
 * @incompatible: feature bits; follows the header in the file
 * @compatible: feature bits
 * @autoclear: feature bits; follows the header in the file
 */
struct qcow2_geometry {
	u64 virtual_bytes;
	u32 version;
	u32 cluster_bits;
	u32 cluster_bytes;
	u32 subcluster_bits;
	u32 subclusters;
	u32 l2_entry_words;
	u32 l2_bits;
	u32 slice_bits;
	u32 l2_slice_bits;
	u32 refcount_order;
	u32 refblock_bits;
	u32 refslice_bits;
	u32 l1_entries;
	u32 reftable_clusters;
	u64 l1_offset;
	u64 reftable_offset;
	u32 nb_snapshots;
	u32 header_bytes;
	u32 compression_type;
	u64 snapshots_offset;
	u32 nb_bitmaps;
	u64 bitmaps_bytes;
	u64 bitmaps_offset;
	u64 incompatible;
	u64 compatible;
	u64 autoclear;
	bool has_backing;
	bool has_data_file;
	bool raw_data;
};

static inline bool qcow2_has_extl2(const struct qcow2_geometry *geo)
{
	return geo->l2_entry_words == 2;
}

/* The autoclear features that stay true when we write. */
static inline u64 qcow2_kept_autoclear(const struct qcow2_geometry *geo)
{
	return geo->raw_data ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0;
}

static inline u32 qcow2_into_cluster(const struct qcow2_geometry *geo, u64 off)
{
	return off & (geo->cluster_bytes - 1);
}

static inline u64 qcow2_cluster_start(const struct qcow2_geometry *geo, u64 off)
{
	return off & ~(u64)(geo->cluster_bytes - 1);
}

/* Clusters that @bytes bytes need when they start at a cluster's start. */
static inline u64 qcow2_clusters_of(const struct qcow2_geometry *geo, u64 bytes)
{
	return (bytes + geo->cluster_bytes - 1) >> geo->cluster_bits;
}

/* Of a cluster's refcount in the slice that has it. */
static inline u32 qcow2_refslice_index(const struct qcow2_geometry *geo,
				       u64 cluster)
{
	return cluster & ((1ULL << geo->refslice_bits) - 1);
}

static inline u32 qcow2_slice_bytes(const struct qcow2_geometry *geo)
{
	return 1U << geo->slice_bits;
}

/* ---- header.c ---- */

int qcow2_header_decode(const void *buf, size_t bytes, bool read_only,
			struct qcow2_geometry *geo, struct qcow2_reason *why);
int qcow2_check_virtual_size(const struct qcow2_geometry *geo, u64 *l1_entries,
			     struct qcow2_reason *why);
int qcow2_check_table(const struct qcow2_geometry *geo, const char *what,
		      u64 offset, u64 entries, u32 entry_bytes, u64 max_bytes,
		      struct qcow2_reason *why);

/* ---- cache.c: slices of tables ---- */

/**
 * enum qcow2_slice_kind - what a slice is cut from
 * @QCOW2_SLICE_L1: the active L1 table.  It is there to be written: who reads the
 *	table does so in struct qcow2_l1.
 * @QCOW2_SLICE_L2: an L2 table
 * @QCOW2_SLICE_REFBLOCK: a refcount block
 */
enum qcow2_slice_kind {
	QCOW2_SLICE_L1,
	QCOW2_SLICE_L2,
	QCOW2_SLICE_REFBLOCK,
};

/**
 * enum qcow2_slice_flags - bits of struct qcow2_slice's flags
 * @QCOW2_SLICE_DIRTY: differs from the file; the slice is on a dirty list,
 *	which holds a reference.  Changed under meta_lock.
 * @QCOW2_SLICE_COMMITTING: a copy of it is on its way to the file; the commit
 *	holds a reference.  Changed under meta_lock.
 * @QCOW2_SLICE_USED: looked up since the LRU last passed it
 * @QCOW2_SLICE_LOADED: the data is valid; set once
 */
enum qcow2_slice_flags {
	QCOW2_SLICE_DIRTY,
	QCOW2_SLICE_COMMITTING,
	QCOW2_SLICE_USED,
	QCOW2_SLICE_LOADED,
};

/**
 * struct qcow2_slice - a cached piece of a metadata table
 * @data: from qcow2_slice_data_alloc(), as on disk; changed under meta_lock, read
 *	with READ_ONCE by anyone with a reference or under RCU
 * @flags: enum qcow2_slice_flags
 * @vetted: of an L2 slice: the image's metadata generation when none of its
 *	COPIED clusters was metadata; 0 if nobody has looked.  READ_ONCE, changed
 *	under meta_lock
 * @offset: host offset in bytes, multiple of the slice size
 * @cache: from whose pool it is, never changes
 * @kind: never changes
 * @seq: written under meta_lock; lets readers see both words of an extended L2
 *	entry at one moment.  Not tied to that lock, which a reader under RCU would
 *	take on a real-time kernel when it finds a writer
 * @error: set before @loaded completes: why it could not be read
 * @refs: the cache's own, each user's, the dirty list's, the commit's
 * @lru: under the cache's lock
 * @dirty: under meta_lock, in the list of its kind
 * @loaded: completes when @data or @error is valid
 * @rcu: readers without a reference are done when this has passed
 */
struct qcow2_slice {
	/* What a look-up reads, apart from what changes with each user. */
	__be64 *data;
	unsigned long flags;
	u64 vetted;
	u64 offset;
	struct qcow2_cache *cache;
	enum qcow2_slice_kind kind;
	seqcount_t seq;
	int error;
	refcount_t refs ____cacheline_aligned_in_smp;
	struct list_head lru;
	struct list_head dirty;
	struct completion loaded;
	struct rcu_head rcu;
};

/**
 * struct qcow2_cache - slices by host offset
 * @slices: by offset >> %QCOW2_MIN_CLUSTER_BITS
 * @lock: protects @lru, @nr, @max and @loads; innermost, nothing is taken or
 *	allocated inside
 * @lru: least recently inserted or used first
 * @nr: slices in @lru; READ_ONCE
 * @max: more than this and clean ones are dropped; READ_ONCE
 * @loads: slices that were ever read from the file; READ_ONCE
 * @freed_any: a slice was given to RCU to be freed
 * @pool: memory for slices when the system has none
 * @shrinker: by which the system asks for memory back
 */
struct qcow2_cache {
	struct xarray slices;
	/* What follows changes with each slice that comes or goes. */
	spinlock_t lock ____cacheline_aligned_in_smp;
	struct list_head lru;
	unsigned int nr;
	unsigned int max;
	u64 loads;
	bool freed_any;
	mempool_t *pool;
	struct shrinker *shrinker;
};

/* ---- compress.c: decompressed clusters ---- */

#define QCOW2_COMPRESS_BUCKETS	64

/**
 * struct qcow2_stock - objects that are made when needed, up to a limit
 * @idle: those that nobody uses; the first one is the next to be taken
 * @nr_idle: length of @idle; READ_ONCE
 * @nr: all that there are, or are being made; 0 again if none could be made.
 *	READ_ONCE
 * @max: no more than this
 * @wait: for something idle; one waiter is woken for each
 */
struct qcow2_stock {
	struct list_head idle;
	unsigned int nr_idle;
	unsigned int nr;
	unsigned int max;
	wait_queue_head_t wait;
};

/* ---- copies.c: dirty slices on their way to the file ---- */

/* Copies that each image has for sure, for tables and for refcount slices. */
#define QCOW2_COPIES_MIN	16

struct qcow2_image;

/**
 * struct qcow2_copies - memory for copies of slices
 * @img: the image
 * @free: struct qcow2_copy
 * @nr: how many there are, free or taken
 * @bvs: for transfers of several, or NULL
 * @nr_bvs: length of @bvs
 *
 * All under commit_lock.
 */
struct qcow2_copies {
	const struct qcow2_image *img;
	struct list_head free;
	unsigned int nr;
	struct bio_vec *bvs;
	unsigned int nr_bvs;
};

int qcow2_copies_init(struct qcow2_copies *copies,
		      const struct qcow2_image *img);
void qcow2_copies_stock(struct qcow2_copies *copies, unsigned int nr);
void qcow2_copies_trim(struct qcow2_copies *copies, unsigned int nr);
void qcow2_copies_destroy(struct qcow2_copies *copies);
void qcow2_copies_take(struct qcow2_image *img, struct qcow2_copies *copies,
		       struct list_head *dirty, struct list_head *taken);
int qcow2_copies_write(struct qcow2_image *img, struct qcow2_copies *copies,
		       struct list_head *taken);
void qcow2_copies_put(struct qcow2_image *img, struct qcow2_copies *copies,
		      struct list_head *taken, int error);

struct qcow2_codec;

/**
 * struct qcow2_compress - decompressed clusters, and what making them takes
 * @codec: the image's compression type
 * @lock: protects the members below but @shrinker; innermost,
 *	nothing is taken or allocated inside
 * @buckets: clusters by L2 entry
 * @clusters: all of them, with data or not; coldest first
 * @jobs: what is needed to decompress one
 * @loads: clusters that were ever read from the file; READ_ONCE
 * @shrinker: by which the system asks for memory back
 * @rescue_lock: one at a time reads without memory; held across I/O
 * @rescue: pages for its stream, made when they are needed first, and kept; under
 *	@rescue_lock
 * @reserved: qcow2_reserve_put() is due
 */
struct qcow2_compress {
	const struct qcow2_codec *codec;
	spinlock_t lock;
	struct list_head buckets[QCOW2_COMPRESS_BUCKETS];
	struct qcow2_stock clusters;
	struct qcow2_stock jobs;
	u64 loads;
	struct shrinker *shrinker;
	struct mutex rescue_lock;
	struct bio_vec *rescue;
	bool reserved;
};

/* ---- reserve.c: for all images ---- */

/**
 * struct qcow2_reserve - memory to decompress one cluster in
 * @stream: the stream, with the whole blocks that it lies in
 * @stream_bytes: room for it
 * @workspace: for the codec
 * @workspace_bytes: its size
 * @cluster: the cluster
 * @cluster_bytes: room for it
 */
struct qcow2_reserve {
	void *stream;
	size_t stream_bytes;
	void *workspace;
	size_t workspace_bytes;
	void *cluster;
	size_t cluster_bytes;
};

int qcow2_reserve_get(const struct qcow2_reserve *wanted);
void qcow2_reserve_put(void);
const struct qcow2_reserve *qcow2_reserve_begin(void);
void qcow2_reserve_end(void);

/* ---- overlap.c: where metadata lies ---- */

/**
 * enum qcow2_metadata - what is about to be written
 * @QCOW2_METADATA_NONE: guest data, or what takes new clusters
 * @QCOW2_METADATA_L1: the L1 table
 * @QCOW2_METADATA_L2: an L2 table
 * @QCOW2_METADATA_REFBLOCK: a refcount block
 */
enum qcow2_metadata {
	QCOW2_METADATA_NONE,
	QCOW2_METADATA_L1,
	QCOW2_METADATA_L2,
	QCOW2_METADATA_REFBLOCK,
};

/**
 * struct qcow2_offsets - a sorted set of host offsets of clusters
 * @offsets: in bytes
 * @nr: number of them
 * @room: how many fit
 */
struct qcow2_offsets {
	u64 *offsets;
	u32 nr;
	u32 room;
};

struct qcow2_image;

int qcow2_offsets_fill(struct qcow2_offsets *set, const u64 *table,
		       u32 entries, u64 mask, u32 room);
u64 qcow2_offsets_twice(const struct qcow2_offsets *set);
void qcow2_offsets_free(struct qcow2_offsets *set);
int qcow2_offsets_reserve(struct qcow2_image *img, struct qcow2_offsets *set,
			  u32 more);
void qcow2_offsets_add(struct qcow2_image *img, struct qcow2_offsets *set,
		       u64 offset);
void qcow2_offsets_remove(struct qcow2_image *img, struct qcow2_offsets *set,
			  u64 offset);
int qcow2_pre_write_overlap_check(struct qcow2_image *img, u64 offset,
				  u64 bytes, enum qcow2_metadata own);
void qcow2_metadata_moved(struct qcow2_image *img);
bool qcow2_slice_is_vetted(struct qcow2_image *img,
			   const struct qcow2_slice *slice);
void qcow2_vet_slice(struct qcow2_image *img, struct qcow2_slice *slice);
int qcow2_check_data_write(struct qcow2_image *img, u64 offset, u64 bytes);

/* ---- snapshot.c ---- */

/**
 * struct qcow2_l1_place - where an inactive L1 table lies, in a sorted array
 * @offset: of its first byte
 * @entries: its length
 * @max_end: where this one or one in front of it ends, whichever is greater
 */
struct qcow2_l1_place {
	u64 offset;
	u32 entries;
	u64 max_end;
};

/**
 * struct qcow2_snapshots - where internal snapshots have their metadata
 * @table_offset: host offset of the snapshot table
 * @table_bytes: its length
 * @nr: length of @l1_tables; 0 when the image is open read-only
 * @room: how many fit
 * @l1_tables: the inactive L1 tables, sorted by offset
 *
 * All of it is true of one moment: no write may hit the table or one of the L1 tables.
 * So it never changes once it is the image's; others are another object, see
 * qcow2_snapshots_replace().  Who looks at it holds meta_lock, or is the only one who
 * knows the image.
 */
struct qcow2_snapshots {
	u64 table_offset;
	u64 table_bytes;
	u32 nr;
	u32 room;
	struct qcow2_l1_place l1_tables[];
};

struct qcow2_snapshots *qcow2_snapshots_alloc(u32 room);
void qcow2_snapshots_add_l1(struct qcow2_snapshots *snapshots, u64 offset,
			    u32 entries);
void qcow2_snapshots_sort(struct qcow2_snapshots *snapshots);
int qcow2_snapshots_read(struct qcow2_image *img, struct qcow2_reason *why);
struct qcow2_snapshots *
qcow2_snapshots_replace(struct qcow2_image *img,
			struct qcow2_snapshots *snapshots);
int qcow2_snapshot_find(struct qcow2_image *img, const char *wanted,
			struct qcow2_reason *why);
bool qcow2_is_inactive_l1(const struct qcow2_snapshots *snapshots, u64 start,
			  u64 end);

/* ---- cache.c again ---- */

unsigned int qcow2_slice_data_bits(const struct qcow2_image *img);
void *qcow2_slice_data_alloc(const struct qcow2_image *img, gfp_t gfp);
void qcow2_slice_data_free(const struct qcow2_image *img, void *data);
int qcow2_cache_init(struct qcow2_image *img, u64 bytes);
void qcow2_cache_destroy(struct qcow2_image *img);
void qcow2_cache_set_max(struct qcow2_image *img, u64 bytes);
void qcow2_cache_raise_max(struct qcow2_image *img, u64 bytes);
struct qcow2_slice *qcow2_slice_peek(struct qcow2_image *img,
				     enum qcow2_slice_kind kind, u64 offset);
struct qcow2_slice *qcow2_slice_find(struct qcow2_image *img,
				     enum qcow2_slice_kind kind, u64 offset);
struct qcow2_slice *qcow2_slice_get(struct qcow2_image *img,
				    enum qcow2_slice_kind kind, u64 offset);
struct qcow2_slice *qcow2_slice_get_now(struct qcow2_image *img,
					enum qcow2_slice_kind kind, u64 offset);
void qcow2_slice_put(struct qcow2_slice *slice);
void qcow2_slice_mark_dirty(struct qcow2_image *img, struct qcow2_slice *slice);
void qcow2_slice_not_written(struct qcow2_image *img,
			     struct qcow2_slice *slice);
void qcow2_slice_committing(struct qcow2_image *img, struct qcow2_slice *slice);
void qcow2_cache_forget(struct qcow2_image *img, u64 offset, u64 bytes);

/* ---- compress.c again ---- */

int qcow2_compress_init(struct qcow2_image *img);
void qcow2_compress_exit(struct qcow2_image *img);
int qcow2_compressed_read(struct qcow2_image *img, u64 word, u32 into,
			  struct iov_iter *to);
void qcow2_compress_forget(struct qcow2_image *img, u64 offset, u64 bytes);

/* ---- the image ---- */

/**
 * enum qcow2_image_flags - bits of struct qcow2_image's flags
 * @QCOW2_IMAGE_READ_ONLY: attached so; never changes
 * @QCOW2_IMAGE_NEEDS_CHECK: metadata could not be written or is damaged; no
 *	more guest writes.  Set once, never cleared.
 * @QCOW2_IMAGE_NO_PASS_DISCARD: freed clusters are not punched; never changes
 * @QCOW2_IMAGE_DISCARD_NO_UNREF: discarded clusters keep their place in the
 *	file; never changes
 * @QCOW2_IMAGE_LAZY: refcounts may be wrong in the file while the dirty bit is
 *	set; never changes
 * @QCOW2_IMAGE_MARKED_DIRTY: the dirty bit is set in the file, durably.
 *	Changed under grow_lock.
 * @QCOW2_IMAGE_WRITTEN: the header is prepared for writes of ours (autoclear
 *	features).  Set once under grow_lock.
 * @QCOW2_IMAGE_LAYER: takes no operations, but is read through the images
 *	whose chain it is in; shared, never written.  Never changes.
 * @QCOW2_IMAGE_RAW: a layer that is the bytes of the disk; never changes
 * @QCOW2_IMAGE_VIEW: takes operations, but has nothing of its own: it reads as
 *	its first layer.  Never changes.
 */
enum qcow2_image_flags {
	QCOW2_IMAGE_READ_ONLY,
	QCOW2_IMAGE_NEEDS_CHECK,
	QCOW2_IMAGE_NO_PASS_DISCARD,
	QCOW2_IMAGE_DISCARD_NO_UNREF,
	QCOW2_IMAGE_LAZY,
	QCOW2_IMAGE_MARKED_DIRTY,
	QCOW2_IMAGE_WRITTEN,
	QCOW2_IMAGE_LAYER,
	QCOW2_IMAGE_RAW,
	QCOW2_IMAGE_VIEW,
};

/**
 * struct qcow2_chain - what lies beneath an image
 * @img: the image; never changes
 * @nr: number of @layers, never 0; never changes
 * @depths: struct depths_page: where the search begins, see backing.c
 * @lock: protects @nr_pages and @hand; nothing is taken inside
 * @nr_pages: number of pages in @depths
 * @hand: where to look for a page in @depths that can go
 * @layers: the first is next to the image; each is a reference.  Never changes
 *
 * Other layers, or more or less of them, are another chain.
 */
struct qcow2_chain {
	struct qcow2_image *img;
	u32 nr;
	struct xarray depths;
	struct mutex lock;
	unsigned int nr_pages;
	unsigned long hand;
	struct qcow2_image *layers[];
};

/**
 * struct qcow2_epoch - guest I/O that was mapped in one span of time
 * @img: the image
 * @users: of each CPU: how many more came than went there
 * @drains: it is not the current one any more, and who leaves counts in @left;
 *	READ_ONCE
 * @left: less those who left since it drains; with those who were in it, once nobody
 *	enters any more
 * @rcu: to know when that is
 */
struct qcow2_epoch {
	struct qcow2_image *img;
	atomic_t __percpu *users;
	bool drains;
	atomic_t left;
	struct rcu_head rcu;
};

/**
 * struct qcow2_epoch_wait - who waits until guest I/O mapped before has ended
 * @link: in one of the image's lists of them
 * @done: called once, on the image's workqueue, without a lock; the object is the
 *	owner's again then.  Others are told after it, so it does no I/O, and waits for
 *	nothing that takes long.
 */
struct qcow2_epoch_wait {
	struct list_head link;
	void (*done)(struct qcow2_epoch_wait *wait);
};

/**
 * struct qcow2_drop - references to host clusters that no table has any more
 * @link: in one of the image's lists of drops
 * @nr: number of entries in @offsets
 * @room: how many fit
 * @pooled: from the image's drop_pool
 * @offsets: host offset of each cluster
 *
 * Travels through the lists of struct qcow2_image: unlinked (its removal is
 * in memory only), durable (the removal is durable), draining (guest I/O
 * mapped before the removal is being waited for); then the refcounts drop.
 */
struct qcow2_drop {
	struct list_head link;
	unsigned int nr;
	unsigned int room : 31;
	unsigned int pooled : 1;
	u64 offsets[];
};

/* What fits in one page.  A step that gives up more clusters at a time is cut shorter. */
#define QCOW2_DROP_ROOM	((PAGE_SIZE - sizeof(struct qcow2_drop)) / sizeof(u64))

/*
 * An error within the engine: there is no memory for a record of references.  Who has
 * left its epoch then tries again after qcow2_record_wait().
 */
#define QCOW2_NO_RECORD	1024

/**
 * struct qcow2_l1 - the active L1 table
 * @entries: length; a longer table is another object
 * @entry: CPU byte order.  Changed under grow_lock and meta_lock, with one
 *	store; read with qcow2_l1_entry().
 */
struct qcow2_l1 {
	u32 entries;
	u64 entry[];
};

/**
 * struct qcow2_image - an attached image
 * @name: for messages
 * @flags: enum qcow2_image_flags
 * @file: where it lies; of a view, where its first layer lies
 * @data_file: the external data file, or NULL; of a view, that of its first
 *	layer
 * @geo: the header; its L1 and refcount table members follow growth.  Of a raw
 *	layer only the size.
 * @block_bytes: what guest offsets and lengths are multiples of
 * @chain: the layers beneath, NULL if there are none.  Changed under meta_lock; read in
 *	an epoch or under RCU
 * @shared: how a layer is shared, see backing.c
 * @wq: what may sleep runs here, but for most writes; a layer has none
 * @write_wq: writes, see qcow2_io_queue()
 * @file_wq: the rest of short transfers, for which what runs on @wq waits
 * @link_wq: what ends writes that change mappings: who waits for memory in a
 *	write may wait for that
 * @cache: slices of the L1 table, L2 tables and refcount blocks
 * @compress: decompressed clusters
 * @part_pool: struct qcow2_part
 * @meta_pool: struct qcow2_l2_meta
 * @bounce_pool: buffers of COW
 * @drop_pool: struct qcow2_drop of a page, for when there is no memory
 * @l1: active L1 table; changed under grow_lock and meta_lock
 * @metadata_moves: how often metadata got a place where there was none; READ_ONCE,
 *	changed under meta_lock
 * @reftable: refcount table, CPU byte order, under meta_lock
 * @reftable_entries: length of @reftable, under meta_lock
 * @l2_tables: offsets of the active L2 tables, under meta_lock
 * @refblocks: offsets of the refcount blocks, under meta_lock
 * @snapshots: where internal snapshots lie, NULL if there are none; under meta_lock
 * @snapshot_id: of a layer that is opened as an internal snapshot: its ID, no
 *	more of it than %QCOW2_SNAPSHOT_NAME_MAX bytes; else NULL
 * @snapshot_name: likewise its name
 * @free: what is known of free clusters, under meta_lock
 * @clusters_allocated: how many, ever; READ_ONCE, changed under meta_lock
 * @clusters_freed: likewise
 * @in_flight: all struct qcow2_l2_meta of running writes, by the guest bytes that
 *	they change; under meta_lock
 * @metas_launched: how many ever came there, under meta_lock
 * @dirty_l1: dirty slices of the L1 table, but for those that a commit has taken;
 *	under meta_lock
 * @dirty_l2: likewise of L2 tables
 * @dirty_refblocks: likewise of refcount blocks
 * @nr_dirty: number of dirty slices; READ_ONCE, changed under meta_lock
 * @nr_dirty_refblocks: of them, those of refcount blocks; under meta_lock
 * @max_dirty: with more than this nothing more is made dirty before a commit; from half
 *	of it on one begins; READ_ONCE
 * @meta_lock: see below
 * @turn_lock: see below
 * @grow_lock: see below
 * @grow_page: memory for what is written under grow_lock, and for that alone: a piece
 *	of a table, or of the header
 * @commit_lock: see below
 * @commits_begun: number of commits that were begun; changed under commit_lock
 * @commit_error: why a commit failed so that no other is tried; under
 *	commit_lock
 * @commit_result: what the last commit gave; under commit_lock
 * @table_copies: of slices of the L1 table and of L2 tables
 * @refblock_copies: of slices of refcount blocks
 * @commit_work: commits by the clock
 * @corrupt_work: sets the corrupt bit in the header
 * @watch_lock: protects @watch, held while it is called; outside of all others
 * @watch: called once when the image has failed, or NULL
 * @watch_data: for @watch
 * @watch_work: calls @watch
 * @unlinked: drops, see struct qcow2_drop; under meta_lock
 * @nr_drops: clusters in all drops; READ_ONCE, changed under meta_lock
 * @too_early: operations that wait for drops to be applied; under meta_lock
 * @durable: drops; under meta_lock
 * @draining: drops; under meta_lock
 * @punches: struct qcow2_punch that are not in @punching yet; under meta_lock
 * @punching: those that wait for guest I/O that was mapped before; under
 *	meta_lock
 * @release_wait: for the guest I/O that may use what is in @draining and @punching
 * @release_work: applies these then
 * @releasing: there are drops behind @unlinked, or punches; READ_ONCE, changed
 *	under meta_lock
 * @released: woken when these were applied
 * @epochs: the current and the previous epoch of guest I/O
 * @epoch: index of the current one; changed under meta_lock
 * @epoch_waits: struct qcow2_epoch_wait that wait for the next drain, since one runs;
 *	under meta_lock
 * @epoch_draining: those that the drain that runs is for, empty if none does; under
 *	meta_lock
 * @epoch_work: tells these that it has ended
 * @queued_writes: writes that a worker has, or had and that are not done but for a
 *	commit
 * @untried: writes that are left to workers before one may be fast again, see fast.c
 * @next_untried: how many that will be if that one has to wait; READ_ONCE
 * @waits_since: when a write that was tried had to wait, if none has gone through
 *	since, in jiffies; else 0.  READ_ONCE
 *
 * Lock order::
 *
 *	turn_lock	one at a time waits for memory for a slice while it has others
 *	  |		pinned; taken only when there is none
 *	grow_lock	one at a time changes L1 or refcount table entries, and
 *	  |		does the I/O for it; only requests that need growth wait
 *	commit_lock	one at a time writes slices; held across that I/O
 *	  |
 *	meta_lock	all metadata in memory; NEVER held across I/O
 *	  |
 *	cache.lock	spinlock, LRU only
 *	compress.lock	spinlock, likewise
 *
 * Who reads a compressed cluster without memory holds compress.rescue_lock across
 * that I/O, and none of the locks above; inside it the reserve's lock (reserve.c),
 * under which is no I/O.
 *
 * Whoever does I/O may take the file's ahead_lock (file.c) on the way, so that is
 * inside grow_lock and commit_lock too, and outside the file system's locks.
 *
 * Whoever needs something that is not in memory while holding meta_lock backs
 * out, brings it (struct qcow2_need) and starts over.
 */
struct qcow2_image {
	char name[32];
	unsigned long flags;
	struct qcow2_file *file;
	struct qcow2_file *data_file;
	struct qcow2_geometry geo;
	u32 block_bytes;
	struct qcow2_chain __rcu *chain;
	struct qcow2_shared *shared;
	struct workqueue_struct *wq;
	struct workqueue_struct *write_wq;
	struct workqueue_struct *file_wq;
	struct workqueue_struct *link_wq;
	struct qcow2_cache cache;
	struct qcow2_compress compress;

	/* Of its own: its file may lie on another image, which needs its own. */
	mempool_t *part_pool;
	mempool_t *meta_pool;
	mempool_t *bounce_pool;
	mempool_t *drop_pool;

	struct qcow2_l1 __rcu *l1;
	u64 metadata_moves;

	/* So far what the fast path reads, from here on what writes change. */
	u64 *reftable ____cacheline_aligned_in_smp;
	u32 reftable_entries;
	struct qcow2_offsets l2_tables;
	struct qcow2_offsets refblocks;
	struct qcow2_snapshots *snapshots;
	char *snapshot_id;
	char *snapshot_name;
	struct qcow2_free free;
	u64 clusters_allocated;
	u64 clusters_freed;
	struct rb_root_cached in_flight;
	u64 metas_launched;
	struct list_head dirty_l1;
	struct list_head dirty_l2;
	struct list_head dirty_refblocks;
	unsigned int nr_dirty;
	unsigned int nr_dirty_refblocks;
	unsigned int max_dirty;

	struct mutex meta_lock;
	struct mutex turn_lock;
	struct mutex grow_lock;
	void *grow_page;
	struct mutex commit_lock;

	atomic64_t commits_begun;
	int commit_error;
	int commit_result;
	struct qcow2_copies table_copies;
	struct qcow2_copies refblock_copies;
	struct delayed_work commit_work;
	struct work_struct corrupt_work;
	struct mutex watch_lock;
	void (*watch)(void *data);
	void *watch_data;
	struct work_struct watch_work;

	struct list_head unlinked;
	unsigned int nr_drops;
	struct list_head too_early;
	struct list_head durable;
	struct list_head draining;
	struct list_head punches;
	struct list_head punching;
	struct qcow2_epoch_wait release_wait;
	struct work_struct release_work;
	bool releasing;
	wait_queue_head_t released;
	struct list_head epoch_waits;
	struct list_head epoch_draining;
	struct work_struct epoch_work;
	struct qcow2_epoch epochs[2] ____cacheline_aligned_in_smp;
	unsigned int epoch;
	atomic_t queued_writes ____cacheline_aligned_in_smp;
	atomic_t untried ____cacheline_aligned_in_smp;
	unsigned int next_untried;
	unsigned long waits_since;
};

static inline bool qcow2_image_read_only(const struct qcow2_image *img)
{
	return test_bit(QCOW2_IMAGE_READ_ONLY, &img->flags);
}

/**
 * qcow2_virtual_bytes() - the size of the virtual disk
 * @img: the image
 *
 * It is one word, and the driver is for CPUs that load 64 bits at once.  Who looks needs
 * no more than one size, old or new: what lies in the tables and layers is found by
 * guest offset, whatever the size.  So there is no object and no lock; but who looks
 * twice may find two sizes, and who acts by one does so in an epoch, see
 * qcow2_set_virtual_bytes().
 *
 * Context: any.
 * Return: the size in bytes.
 */
static inline u64 qcow2_virtual_bytes(const struct qcow2_image *img)
{
	return READ_ONCE(img->geo.virtual_bytes);
}

/* May more slices become dirty? */
static inline bool qcow2_has_room(const struct qcow2_image *img)
{
	return READ_ONCE(img->nr_dirty) <= READ_ONCE(img->max_dirty);
}

static inline bool qcow2_image_is_view(const struct qcow2_image *img)
{
	return test_bit(QCOW2_IMAGE_VIEW, &img->flags);
}

/* Where guest data lies. */
static inline struct qcow2_file *qcow2_data_file(const struct qcow2_image *img)
{
	return img->data_file ?: img->file;
}

static inline bool qcow2_image_needs_check(const struct qcow2_image *img)
{
	return test_bit(QCOW2_IMAGE_NEEDS_CHECK, &img->flags);
}

/**
 * struct qcow2_options - how an image shall be used
 * @file_flags: enum qcow2_file_flags; without %QCOW2_FILE_WRITABLE the image
 *	is never written
 * @no_pass_discard: clusters that become free are not punched (QEMU:
 *	pass-discard-request=off)
 * @discard_no_unref: clusters that are discarded or zeroed keep their place in
 *	the file (QEMU: discard-no-unref=on)
 * @cache_bytes: cap of the metadata cache; 0 for the default
 * @data_filp: the external data file, or NULL; a reference is taken
 * @layers: array of the layers beneath; the references are handed over on
 *	success, the array is not
 * @nr_layers: its length
 */
struct qcow2_options {
	unsigned int file_flags;
	bool no_pass_discard;
	bool discard_no_unref;
	u64 cache_bytes;
	struct file *data_filp;
	struct qcow2_image **layers;
	u32 nr_layers;
};

struct qcow2_image *qcow2_image_open(struct file *filp, const char *name,
				     const struct qcow2_options *options,
				     struct qcow2_reason *why);
struct qcow2_image *qcow2_view_open(const char *name,
				    const struct qcow2_options *options,
				    struct qcow2_reason *why);
int qcow2_image_close(struct qcow2_image *img);
struct qcow2_image *qcow2_image_shown(struct qcow2_image *img);
void qcow2_set_virtual_bytes(struct qcow2_image *img, u64 bytes);
int qcow2_image_prepare_write(struct qcow2_image *img);
int qcow2_mark_dirty(struct qcow2_image *img);
int qcow2_mark_clean(struct qcow2_image *img);
void qcow2_image_watch(struct qcow2_image *img, void (*watch)(void *data),
		       void *data);
__printf(3, 4)
int qcow2_image_fail(struct qcow2_image *img, int error, const char *fmt, ...);
/**
 * qcow2_assert() - fail the image, not the kernel, if there is a bug of ours
 * @img: the image
 * @condition: what must be so, whatever the image and the guest do
 *
 * Context: any.
 * Return: 0; -EIO if it is not so.
 */
#define qcow2_assert(img, condition)					\
	(WARN_ON_ONCE(!(condition)) ?					\
	 qcow2_image_fail(img, -EIO, "a bug: not so: %s", #condition) : 0)

int qcow2_flush_file(struct qcow2_image *img);
int qcow2_header_update(struct qcow2_image *img, u32 pos, const void *field,
			u32 bytes);
int qcow2_write_table(struct qcow2_image *img, u64 offset, const u64 *table,
		      u32 entries);
int qcow2_header_switch(struct qcow2_image *img, u32 pos, const void *field,
			u32 bytes);
int qcow2_write_table_entry(struct qcow2_image *img, u64 table_offset,
			    const u64 *table, u32 entries, u32 index,
			    u64 value);

/* ---- backing.c: the layers beneath an image ---- */

/**
 * struct qcow2_layer_spec - a file to be opened as a layer
 * @filp: the file
 * @data_filp: its external data file, or NULL
 * @name: for messages
 * @raw: it holds the bytes of the disk, else an image
 * @direct: bypass its page cache
 * @snapshot: ID or name of the internal snapshot to be shown, NULL for the
 *	active state
 * @cache_bytes: cap of its metadata cache; 0 for the default
 */
struct qcow2_layer_spec {
	struct file *filp;
	struct file *data_filp;
	const char *name;
	bool raw;
	bool direct;
	const char *snapshot;
	u64 cache_bytes;
};

int __init qcow2_layers_init(void);
void qcow2_layers_exit(void);
struct qcow2_image *qcow2_layer_get(const struct qcow2_layer_spec *spec,
				    struct qcow2_reason *why);
void qcow2_layer_put(struct qcow2_image *layer);
int qcow2_chain_init(struct qcow2_image *img,
		     const struct qcow2_options *options,
		     struct qcow2_reason *why);
void qcow2_chain_exit(struct qcow2_image *img);
struct qcow2_chain *qcow2_chain_prepare(struct qcow2_image *img,
					struct qcow2_image **layers, u32 nr,
					struct qcow2_reason *why);
struct qcow2_chain *qcow2_chain_replace(struct qcow2_image *img,
					struct qcow2_chain *chain);
void qcow2_chain_put(struct qcow2_chain *chain);
int qcow2_check_blocks(const struct qcow2_image *img, u32 block,
		       struct qcow2_reason *why);
struct qcow2_image *qcow2_chain_layer(struct qcow2_image *img, u32 depth);
bool qcow2_shows_backing(const struct qcow2_image *img, u64 guest_offset);
struct qcow2_extent;
int qcow2_resolve(struct qcow2_image *img, u64 guest_offset, u64 bytes,
		  struct qcow2_extent *extent);
int qcow2_resolve_cached(struct qcow2_image *img, u64 guest_offset, u64 bytes,
			 struct qcow2_extent *extent);

struct qcow2_image *qcow2_layer_open(const struct qcow2_layer_spec *spec,
				     struct workqueue_struct *wq,
				     struct qcow2_reason *why);
void qcow2_layer_close(struct qcow2_image *layer);

/* ---- one guest operation (the upper seam) ---- */

/**
 * enum qcow2_op - what a guest operation does
 * @QCOW2_OP_READ: read
 * @QCOW2_OP_WRITE: write
 * @QCOW2_OP_DISCARD: the guest does not need the bytes any more; what of them
 *	fills subclusters reads as zeroes afterwards
 * @QCOW2_OP_WRITE_ZEROES: the bytes read as zeroes afterwards
 * @QCOW2_OP_FLUSH: make all completed writes durable
 */
enum qcow2_op {
	QCOW2_OP_READ,
	QCOW2_OP_WRITE,
	QCOW2_OP_DISCARD,
	QCOW2_OP_WRITE_ZEROES,
	QCOW2_OP_FLUSH,
};

/**
 * struct qcow2_part - a piece of a guest operation that is one file transfer
 * @fio: the transfer
 * @io: the operation
 * @epoch: pins the host clusters of the transfer
 * @meta: what will change when the transfer has ended; not set in other parts
 */
struct qcow2_part {
	struct qcow2_fio fio;
	struct qcow2_io *io;
	struct qcow2_epoch *epoch;
	struct qcow2_l2_meta *meta;
};

/**
 * struct qcow2_io - one guest operation
 * @img: the image
 * @op: what to do
 * @ioprio: as in a bio; of the transfers that only this operation waits for
 * @fua: for writes: durable when it completes
 * @unmap: for a write zeroes: the host clusters may be freed
 * @by_worker: qcow2_io_submit() must not sleep, so that a worker does it all
 * @offset: guest offset in bytes; moves forward as the operation proceeds
 * @bytes: for a discard or write zeroes: its length; becomes what is left
 * @iter: for a read or write: bvecs of the guest's data, whose count is the
 *	length; likewise
 * @done: called once, in any context; must not sleep.  @error has the result.
 * @error: 0 or a negative errno
 *
 * The caller sets the members above and calls qcow2_io_submit(); the object
 * is the engine's until @done.  The other members belong to the engine.
 */
struct qcow2_io {
	struct qcow2_image *img;
	enum qcow2_op op;
	u16 ioprio;
	bool fua;
	bool unmap;
	bool by_worker;
	u64 offset;
	u64 bytes;
	struct iov_iter iter;
	void (*done)(struct qcow2_io *io);
	int error;

	/* private: */
	bool must_commit;
	bool part_taken;
	bool queued;
	bool lacks_space;
	u8 gave_way;
	atomic_t pending;
	struct work_struct work;
	struct list_head wait;
	struct qcow2_part part;
};

void qcow2_io_submit(struct qcow2_io *io);
bool qcow2_fast_submit(struct qcow2_io *io);

int qcow2_io_init(struct qcow2_image *img);
void qcow2_io_exit(struct qcow2_image *img);
struct qcow2_part *qcow2_part_alloc(struct qcow2_io *io);
void qcow2_part_free(struct qcow2_part *part);
void qcow2_part_start(struct qcow2_part *part, struct qcow2_file *file,
		      u64 host_offset, const struct iov_iter *data,
		      void (*done)(struct qcow2_fio *fio));
void qcow2_part_submit(struct qcow2_part *part, struct qcow2_file *file,
		       u64 host_offset, size_t bytes);
void qcow2_io_get(struct qcow2_io *io);
void qcow2_io_put(struct qcow2_io *io);
void qcow2_io_set_error(struct qcow2_io *io, int error);
void qcow2_io_queue(struct qcow2_io *io);
void qcow2_io_zero(const struct qcow2_io *io, size_t bytes);
void qcow2_io_advance(struct qcow2_io *io, size_t bytes);
void qcow2_io_slice_iter(const struct qcow2_io *io, size_t bytes,
			 struct iov_iter *iter);

/* ---- map.c: guest offset to host offset ---- */

/**
 * enum qcow2_cluster_type - what an L2 entry says of its cluster
 * @QCOW2_CLUSTER_UNALLOCATED: reads from the backing file, or zero
 * @QCOW2_CLUSTER_ZERO_PLAIN: reads zero, no host cluster
 * @QCOW2_CLUSTER_ZERO_ALLOC: reads zero, with a host cluster whose content
 *	is not known
 * @QCOW2_CLUSTER_NORMAL: reads from its host cluster
 * @QCOW2_CLUSTER_COMPRESSED: reads from compressed data
 */
enum qcow2_cluster_type {
	QCOW2_CLUSTER_UNALLOCATED,
	QCOW2_CLUSTER_ZERO_PLAIN,
	QCOW2_CLUSTER_ZERO_ALLOC,
	QCOW2_CLUSTER_NORMAL,
	QCOW2_CLUSTER_COMPRESSED,
};

/**
 * enum qcow2_subcluster_type - what an L2 entry says of one subcluster
 * @QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN: as the cluster type, no host cluster
 * @QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC: reads from the backing file, in a
 *	cluster that has a host cluster (extended L2 only)
 * @QCOW2_SUBCLUSTER_ZERO_PLAIN: reads zero, no host cluster
 * @QCOW2_SUBCLUSTER_ZERO_ALLOC: reads zero, with a host cluster
 * @QCOW2_SUBCLUSTER_NORMAL: reads from its host cluster
 * @QCOW2_SUBCLUSTER_COMPRESSED: part of a compressed cluster
 * @QCOW2_SUBCLUSTER_INVALID: the entry contradicts itself: corruption
 */
enum qcow2_subcluster_type {
	QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN,
	QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC,
	QCOW2_SUBCLUSTER_ZERO_PLAIN,
	QCOW2_SUBCLUSTER_ZERO_ALLOC,
	QCOW2_SUBCLUSTER_NORMAL,
	QCOW2_SUBCLUSTER_COMPRESSED,
	QCOW2_SUBCLUSTER_INVALID,
};

/**
 * struct qcow2_l2_entry - an L2 entry in CPU byte order
 * @word: the entry
 * @bitmap: the subcluster bitmap; 0 without extended L2
 */
struct qcow2_l2_entry {
	u64 word;
	u64 bitmap;
};

/**
 * struct qcow2_extent - a run of guest bytes that is stored in one way
 * @type: how
 * @img: the image or layer that says so
 * @host_offset: for %QCOW2_SUBCLUSTER_NORMAL: of the first byte
 * @word: for %QCOW2_SUBCLUSTER_COMPRESSED: the L2 entry
 * @own: for %QCOW2_SUBCLUSTER_NORMAL: its clusters have no other users, by what
 *	the same look at the entries found
 * @bytes: length of the run
 */
struct qcow2_extent {
	enum qcow2_subcluster_type type;
	struct qcow2_image *img;
	union {
		u64 host_offset;
		u64 word;
	};
	bool own;
	u64 bytes;
};

/**
 * qcow2_reads_zero() - does the guest read zeroes there, without a look at a file?
 * @extent: as qcow2_resolve() found it
 *
 * Return: true if it does.
 */
static inline bool qcow2_reads_zero(const struct qcow2_extent *extent)
{
	switch (extent->type) {
	case QCOW2_SUBCLUSTER_UNALLOCATED_PLAIN:
	case QCOW2_SUBCLUSTER_UNALLOCATED_ALLOC:
	case QCOW2_SUBCLUSTER_ZERO_PLAIN:
	case QCOW2_SUBCLUSTER_ZERO_ALLOC:
		return true;
	case QCOW2_SUBCLUSTER_NORMAL:
	case QCOW2_SUBCLUSTER_COMPRESSED:
	case QCOW2_SUBCLUSTER_INVALID:
		break;
	}
	return false;
}

u32 qcow2_l1_index(const struct qcow2_geometry *geo, u64 guest_offset);
u32 qcow2_l2_index(const struct qcow2_geometry *geo, u64 guest_offset);
u32 qcow2_l2_slice_index(const struct qcow2_geometry *geo, u64 guest_offset);
u64 qcow2_l2_slice_offset(const struct qcow2_geometry *geo, u64 l2_offset,
			  u64 guest_offset);
u64 qcow2_to_slice_end(const struct qcow2_geometry *geo, u64 guest_offset);
struct qcow2_l2_entry qcow2_get_l2_entry(const struct qcow2_geometry *geo,
					 const struct qcow2_slice *slice,
					 u32 index);
int __must_check qcow2_set_l2_entry(const struct qcow2_geometry *geo,
				    struct qcow2_slice *slice, u32 index,
				    struct qcow2_l2_entry entry);
enum qcow2_cluster_type
qcow2_get_cluster_type(const struct qcow2_geometry *geo, u64 word);
enum qcow2_subcluster_type
qcow2_get_subcluster_type(const struct qcow2_geometry *geo,
			  struct qcow2_l2_entry entry, u32 subcluster);
int qcow2_check_l2_entry(const struct qcow2_geometry *geo,
			 struct qcow2_l2_entry entry);
int qcow2_vet_l2_entry(struct qcow2_image *img, struct qcow2_l2_entry entry,
		       u64 guest_offset);
int qcow2_check_l1_entry(const struct qcow2_geometry *geo, u64 entry);
struct qcow2_need;
int qcow2_own_l2_slice(struct qcow2_image *img, u64 guest_offset,
		       struct qcow2_need *need, struct qcow2_slice **slice);
void qcow2_compressed_range(const struct qcow2_geometry *geo, u64 word,
			    u64 *offset, u32 *bytes);
int qcow2_map(struct qcow2_image *img, u64 guest_offset, u64 bytes,
	      struct qcow2_extent *extent);
int qcow2_map_cached(struct qcow2_image *img, u64 guest_offset, u64 bytes,
		     struct qcow2_extent *extent);
int qcow2_map_own_cached(struct qcow2_image *img, u64 guest_offset, u64 bytes,
			 struct qcow2_extent *extent);

/* ---- read.c ---- */

void qcow2_read(struct qcow2_io *io);

/* ---- write.c, cow.c: the write path ---- */

/**
 * struct qcow2_cow_region - bytes around the written ones to be copied too
 * @offset: from the guest offset of the meta's first cluster
 * @bytes: length, may be 0
 */
struct qcow2_cow_region {
	u32 offset;
	u32 bytes;
};

/**
 * struct qcow2_l2_meta - a run of clusters whose L2 entries will change when
 *	the data of a running write is in the file (QEMU's QCowL2Meta)
 * @node: in the image's tree of metas in flight, under meta_lock
 * @subtree_last: of that tree: the last byte that a meta there changes
 * @number: the later it came there, the greater
 * @waiters: struct qcow2_io to be queued again when this one is gone, under
 *	meta_lock
 * @guest_offset: of the first cluster
 * @host_offset: of the first cluster; the run is contiguous there
 * @nb_clusters: length of the run, which lies in one L2 slice
 * @keep_old: the clusters stay where they are; else they are new
 * @fresh: the clusters are new, and the first and the last, where the COW regions
 *	lie, read as zeroes in the file
 * @cow_start: bytes to be copied in front of the written ones
 * @cow_end: bytes to be copied behind the written ones
 * @l2: pinned slice with the entries
 * @l2_index: of the first entry in the slice
 * @refblock: for new clusters: pinned slice with their refcounts
 * @drop: the clusters that the entries lose, or NULL
 * @bounce: memory of the COW regions in the transfer, or NULL
 * @part: the transfer, if nobody waits for it
 * @pending: the transfer, and who started it
 * @work: links it when the transfer has ended
 */
struct qcow2_l2_meta {
	struct rb_node node;
	u64 subtree_last;
	u64 number;
	struct list_head waiters;
	u64 guest_offset;
	u64 host_offset;
	u32 nb_clusters;
	bool keep_old;
	bool fresh;
	struct qcow2_cow_region cow_start;
	struct qcow2_cow_region cow_end;
	struct qcow2_slice *l2;
	u32 l2_index;
	struct qcow2_slice *refblock;
	struct qcow2_drop *drop;
	struct qcow2_bounce *bounce;
	struct qcow2_part *part;
	atomic_t pending;
	struct work_struct work;
};

int __init qcow2_write_init_cache(void);
void qcow2_write_exit_cache(void);
int qcow2_write_init(struct qcow2_image *img);
void qcow2_write_exit(struct qcow2_image *img);
void qcow2_write(struct qcow2_io *io);
void qcow2_launch_meta(struct qcow2_image *img, struct qcow2_l2_meta *meta);
void qcow2_land_meta(struct qcow2_image *img, struct qcow2_l2_meta *meta,
		     struct list_head *waiters);
void qcow2_requeue_waiters(struct list_head *waiters);

int qcow2_cow_init(struct qcow2_image *img);
void qcow2_cow_exit(struct qcow2_image *img);
int qcow2_cow_one_transfer(struct qcow2_image *img, struct qcow2_l2_meta *meta,
			   u64 *host_offset, struct iov_iter *data, bool *rest);
int qcow2_cow_regions(struct qcow2_image *img, const struct qcow2_l2_meta *meta);
void qcow2_cow_done(struct qcow2_image *img, struct qcow2_l2_meta *meta);

/* ---- discard.c ---- */

/**
 * struct qcow2_range - bytes of the file
 * @offset: host offset
 * @bytes: length
 */
struct qcow2_range {
	u64 offset;
	u64 bytes;
};

/**
 * struct qcow2_punch - space to be given back of clusters that keep their place
 * @link: in the image's list of punches or of those that wait for an epoch
 * @meta: in flight, so that nobody writes to the clusters meanwhile; the
 *	discard waits for it too
 * @room: how many ranges fit
 * @nr: number of ranges
 * @ranges: what to punch
 */
struct qcow2_punch {
	struct list_head link;
	struct qcow2_l2_meta meta;
	unsigned int room;
	unsigned int nr;
	struct qcow2_range ranges[];
};

bool qcow2_can_discard(const struct qcow2_image *img);
void qcow2_discard(struct qcow2_io *io);
void qcow2_write_zeroes(struct qcow2_io *io);

/* ---- alloc.c: allocation, and what one lacks ---- */

/**
 * enum qcow2_need_kind - what must be brought before a step can be taken
 * @QCOW2_NEED_NOTHING: nothing
 * @QCOW2_NEED_A_BREAK: others must get meta_lock for a while
 * @QCOW2_NEED_ROOM: too many slices are dirty
 * @QCOW2_NEED_SLICE: a slice must be loaded
 * @QCOW2_NEED_L1: the L1 table is too short
 * @QCOW2_NEED_L2_TABLE: the L1 entry has no L2 table of its own
 * @QCOW2_NEED_REFBLOCK: the refcount table entry has no refcount block
 * @QCOW2_NEED_REFTABLE: the refcount table is too short
 */
enum qcow2_need_kind {
	QCOW2_NEED_NOTHING,
	QCOW2_NEED_A_BREAK,
	QCOW2_NEED_ROOM,
	QCOW2_NEED_SLICE,
	QCOW2_NEED_L1,
	QCOW2_NEED_L2_TABLE,
	QCOW2_NEED_REFBLOCK,
	QCOW2_NEED_REFTABLE,
};

/*
 * The refcount slices that a step may need at a time: one to take clusters from, and
 * two that count what a compressed cluster lets go.
 */
#define QCOW2_NEED_REFBLOCKS	3

/**
 * struct qcow2_need - what a step under meta_lock backed out for
 * @kind: what
 * @slice_kind: for %QCOW2_NEED_SLICE
 * @offset: for %QCOW2_NEED_SLICE: its host offset
 * @index: for the others: index in the L1 or refcount table
 * @search: for %QCOW2_NEED_SLICE: index of the cluster from which on a free one is
 *	looked for, and all in front of it are in use; 0 if the slice is for something
 *	else
 * @searched: a slice was brought for a search, and there was none
 * @made_room: there was a commit for it already; that is enough
 * @turn: the image's turn_lock, if it is held, until qcow2_need_done(); or NULL
 * @l2: L2 slice that was brought, pinned until the step was taken
 * @refblocks: refcount block slices likewise
 * @next: the one of them that is replaced next
 *
 * A step that returns -EAGAIN has said here what it lacks.
 */
struct qcow2_need {
	enum qcow2_need_kind kind;
	enum qcow2_slice_kind slice_kind;
	u64 offset;
	u64 index;
	u64 search;
	bool searched;
	bool made_room;
	struct mutex *turn;
	struct qcow2_slice *l2;
	struct qcow2_slice *refblocks[QCOW2_NEED_REFBLOCKS];
	u32 next;
};

int qcow2_need_slice(struct qcow2_need *need, enum qcow2_slice_kind kind,
		     u64 offset);
int qcow2_need_growth(struct qcow2_need *need, enum qcow2_need_kind kind,
		      u64 index);
int qcow2_need_room(struct qcow2_image *img, struct qcow2_need *need);
int qcow2_need_meet(struct qcow2_image *img, struct qcow2_need *need);
void qcow2_need_done(struct qcow2_need *need);

/**
 * struct qcow2_run - newly allocated clusters, contiguous in the file
 * @host_offset: of the first
 * @nb_clusters: number of them
 * @fresh: the first and the last of them read as zeroes in the file
 * @refblock: pinned slice with all their refcounts
 */
struct qcow2_run {
	u64 host_offset;
	u32 nb_clusters;
	bool fresh;
	struct qcow2_slice *refblock;
};

void qcow2_clusters_in_use(struct qcow2_image *img, u64 host_offset, u32 nr);
void qcow2_alloc_in_data_file(struct qcow2_image *img, u64 guest_offset,
			      u32 want, struct qcow2_run *run);
int qcow2_alloc_clusters(struct qcow2_image *img, u64 at, u32 want,
			 struct qcow2_need *need, struct qcow2_run *run);
void qcow2_alloc_undo(struct qcow2_image *img, struct qcow2_run *run);
int qcow2_alloc_table_cluster(struct qcow2_image *img, struct qcow2_run *run);
int qcow2_alloc_area(struct qcow2_image *img, u64 nr, u64 *offset);

/* ---- stream.c: clusters reserved for writers one after the other ---- */

bool qcow2_streams_give_up(struct qcow2_image *img);
int qcow2_alloc_for_guest(struct qcow2_image *img, u64 guest_offset, u64 at,
			  u32 want, struct qcow2_need *need,
			  struct qcow2_run *run);

/* ---- l1.c: the L1 table and the L2 tables that it points to ---- */

u64 qcow2_l1_entry(struct qcow2_image *img, u32 index);
int qcow2_alloc_l2_table(struct qcow2_image *img, u32 index);
int qcow2_grow_l1(struct qcow2_image *img, u64 min_entries);

/* ---- refcount.c ---- */

u64 qcow2_get_refcount(const void *data, u32 order, u32 index);
void qcow2_set_refcount(void *data, u32 order, u32 index, u64 value);
u64 qcow2_max_refcount(u32 order);
int qcow2_refcount_slice(struct qcow2_image *img, u64 cluster,
			 struct qcow2_need *need, struct qcow2_slice **slice);
int qcow2_used_refcount_slice(struct qcow2_image *img, u64 cluster,
			      struct qcow2_need *need,
			      struct qcow2_slice **slice);
int qcow2_refcount_is_zero(struct qcow2_image *img, u64 cluster);
int qcow2_refcount_dec(struct qcow2_image *img, u64 cluster,
		       struct qcow2_slice *slice);
int qcow2_refcount_inc(struct qcow2_image *img, u64 cluster,
		       struct qcow2_slice *slice);
typedef int qcow2_refcount_fn(struct qcow2_image *img, u64 cluster,
			      struct qcow2_slice *slice);
int qcow2_with_refcount(struct qcow2_image *img, u64 cluster,
			qcow2_refcount_fn *what);
int qcow2_refcounts_raise(struct qcow2_image *img, const u64 *offsets, u32 nr);
int qcow2_alloc_refblock(struct qcow2_image *img, u32 index);
int qcow2_grow_reftable(struct qcow2_image *img, u64 min_entries);
int qcow2_refcount_area(struct qcow2_image *img, u64 nr, u64 *offset);

int qcow2_switch_reftable(struct qcow2_image *img, u64 offset, u32 clusters);

/* ---- rebuild.c: an image that was not closed cleanly ---- */

int qcow2_repair(struct qcow2_image *img, struct qcow2_reason *why);

/* ---- commit.c ---- */

int qcow2_commit(struct qcow2_image *img);
int qcow2_commit_refcounts(struct qcow2_image *img);
int qcow2_commit_all(struct qcow2_image *img);
int qcow2_commit_for_room(struct qcow2_image *img);
int qcow2_commit_init(struct qcow2_image *img);
int qcow2_commit_settle(struct qcow2_image *img);
int qcow2_commit_stop(struct qcow2_image *img);
void qcow2_commit_destroy(struct qcow2_image *img);
void qcow2_commit_later(struct qcow2_image *img);
void qcow2_commit_soon(struct qcow2_image *img);
void qcow2_commit_now(struct qcow2_image *img);
struct qcow2_drop *qcow2_drop_alloc(struct qcow2_image *img, unsigned int nr);
void qcow2_drop_free(struct qcow2_image *img, struct qcow2_drop *drop);
/* Compressed data takes at most two clusters, which begin anywhere. */
#define QCOW2_ENTRY_CLUSTERS_MAX	3

u32 qcow2_entry_clusters(const struct qcow2_geometry *geo, u64 word,
			 u64 *first);
void qcow2_drop_add_entry(const struct qcow2_geometry *geo,
			  struct qcow2_drop *drop, u64 word);
int qcow2_check_entry_counted(struct qcow2_image *img, u64 word,
			      struct qcow2_need *need);
int qcow2_check_table_counted(struct qcow2_image *img, u64 offset);
struct qcow2_drop *qcow2_drop_alloc_area(struct qcow2_image *img, u64 offset,
					 unsigned int nr);
void qcow2_drop_later(struct qcow2_image *img, struct qcow2_drop *drop);
int qcow2_drops_wait(struct qcow2_image *img, struct qcow2_io *io);
int qcow2_space_wait(struct qcow2_image *img, struct qcow2_io *io);
int qcow2_record_wait(struct qcow2_image *img, struct qcow2_io *io);
void qcow2_punch_later(struct qcow2_image *img, struct qcow2_punch *punch);

/* ---- epoch.c: who may use a mapping that was removed ---- */

struct qcow2_epoch *qcow2_epoch_enter(struct qcow2_image *img);
void qcow2_epoch_exit(struct qcow2_epoch *epoch);
void qcow2_epoch_call(struct qcow2_image *img, struct qcow2_epoch_wait *wait);
void qcow2_epoch_synchronize(struct qcow2_image *img);
void qcow2_epoch_settle(struct qcow2_image *img);
int qcow2_epoch_init(struct qcow2_image *img);
void qcow2_epoch_destroy(struct qcow2_image *img);

#endif /* _QCOW2_IMAGE_H */
