// SPDX-License-Identifier: GPL-2.0-only
/*
 * Is struct qcow2_free true?
 *
 * The numbers are those of the sentences in free.h. Refcounts and entries are
 * taken from the cache where they are there, else from the file: what is not
 * cached is not dirty. Nothing is loaded, pinned or marked as used by that.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/bitops.h>
#include <linux/bits.h>
#include <linux/kernel.h>
#include <linux/unaligned.h>

#include "memfile.h"
#include "shim.h"
#include "verify.h"

bool verify_stopped;

/**
 * struct look - one look at an image
 * @img: the image
 * @filp: its file
 * @end: clusters from here on are not in @state
 * @state: of each cluster in front: bits
 * @offset: of the slice that was read last; 0: none
 * @slice: that slice
 */
struct look {
	struct qcow2_image *img;
	struct file *filp;
	u64 end;
	unsigned char *state;
	u64 offset;
	unsigned char slice[PAGE_SIZE];
};

enum { IS_FREE = 1, IS_RESERVED = 2, IS_ZERO = 4 };

/* Of the image that was opened last: did anything lie behind the file's end? */
static struct {
	struct qcow2_image *img;
	bool lost_tail;
} opened;

static void untrue(unsigned int sentence, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 2, 3)));

static void untrue(unsigned int sentence, const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "shim: free clusters, sentence %u: ", sentence);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n%s", shim_log());
	fflush(stderr);
	abort();
}

void verify_stop(void)
{
	verify_stopped = true;
}

/*
 * Refcounts and entries.
 */

/* As it is in memory, or else in the file. */
static void get_slice(struct look *l, enum qcow2_slice_kind kind, u64 offset)
{
	struct qcow2_image *img = l->img;
	u32 bytes = qcow2_slice_bytes(&img->geo);
	struct qcow2_slice *slice;

	if (l->offset == offset)
		return;
	l->offset = offset;
	rcu_read_lock();
	slice = xa_load(&img->cache.slices, offset >> QCOW2_MIN_CLUSTER_BITS);
	if (slice && slice->kind == kind &&
	    test_bit(QCOW2_SLICE_LOADED, &slice->flags))
		memcpy(l->slice, slice->data, bytes);
	else
		memfile_fetch(l->filp, offset, l->slice, bytes);
	rcu_read_unlock();
}

/* The slice with a cluster's refcount; false if no block counts it. */
static bool get_refcounts(struct look *l, u64 cluster)
{
	const struct qcow2_geometry *geo = &l->img->geo;
	u64 index = cluster >> geo->refblock_bits;
	u64 in_block = cluster & (BIT_ULL(geo->refblock_bits) - 1);
	u64 offset = 0;

	if (index < l->img->reftable_entries)
		offset = l->img->reftable[index] & QCOW2_REFTABLE_OFFSET_MASK;
	if (!offset)
		return false;
	offset += (in_block >> geo->refslice_bits) << geo->slice_bits;
	get_slice(l, QCOW2_SLICE_REFBLOCK, offset);
	return true;
}

static bool counts_as_free(const struct look *l, u64 cluster)
{
	const struct qcow2_geometry *geo = &l->img->geo;

	return !qcow2_get_refcount(l->slice, geo->refcount_order,
				   qcow2_refslice_index(geo, cluster));
}

static bool is_free(struct look *l, u64 cluster)
{
	if (cluster < l->end)
		return l->state[cluster] & IS_FREE;
	return !get_refcounts(l, cluster) || counts_as_free(l, cluster);
}

static void note_free(struct look *l)
{
	u64 first, i, per_slice = BIT_ULL(l->img->geo.refslice_bits);

	for (first = 0; first < l->end; first += per_slice) {
		bool counted = get_refcounts(l, first);

		for (i = first; i < first + per_slice; i++)
			if (!counted || counts_as_free(l, i))
				l->state[i] |= IS_FREE;
	}
}

/*
 * 1: users.
 */

static void expect_used(struct look *l, u64 offset, u64 bytes, const char *user)
{
	const struct qcow2_geometry *geo = &l->img->geo;
	u64 cluster = offset >> geo->cluster_bits;
	u64 nr = qcow2_clusters_of(geo, bytes);

	for (; nr--; cluster++)
		if (is_free(l, cluster))
			untrue(1, "cluster %llu is free, and in use for %s",
			       cluster, user);
}

/* What the entries name may take @l->slice, so this has a copy. */
static void look_at_l2_slice(struct look *l, u64 offset, u64 max)
{
	const struct qcow2_geometry *geo = &l->img->geo;
	u64 words[PAGE_SIZE / sizeof(u64)], first;
	u32 i, nr;

	get_slice(l, QCOW2_SLICE_L2, offset);
	memcpy(words, l->slice, qcow2_slice_bytes(geo));
	for (i = 0; i < min_t(u64, max, BIT(geo->l2_slice_bits)); i++) {
		u64 word = get_unaligned_be64(&words[i * geo->l2_entry_words]);

		nr = qcow2_entry_clusters(geo, word, &first);
		if (nr)
			expect_used(l, first, (u64)nr << geo->cluster_bits,
				    "an L2 entry");
	}
}

/* Of @clusters guest clusters; the rest is behind the end of the disk. */
static void look_at_l2_table(struct look *l, u64 table, u64 clusters)
{
	const struct qcow2_geometry *geo = &l->img->geo;
	u64 first, per_slice = BIT_ULL(geo->l2_slice_bits);

	expect_used(l, table, geo->cluster_bytes, "an L2 table");
	for (first = 0; first < clusters; first += per_slice) {
		look_at_l2_slice(l, table, clusters - first);
		table += qcow2_slice_bytes(geo);
	}
}

static void look_at_l2_tables(struct look *l)
{
	const struct qcow2_geometry *geo = &l->img->geo;
	u64 left = qcow2_clusters_of(geo, geo->virtual_bytes);
	u64 table, nr;
	u32 i;

	for (i = 0; left; i++, left -= nr) {
		nr = min(left, BIT_ULL(geo->l2_bits));
		table = qcow2_l1_entry(l->img, i) & QCOW2_OFFSET_MASK;
		if (table)
			look_at_l2_table(l, table, nr);
	}
}

static void look_at_refcount_tables(struct look *l)
{
	const struct qcow2_geometry *geo = &l->img->geo;
	u64 offset;
	u32 i;

	expect_used(l, 0, 1, "the header");
	expect_used(l, geo->l1_offset, (u64)geo->l1_entries * sizeof(u64),
		    "the L1 table");
	expect_used(l, geo->reftable_offset,
		    (u64)geo->reftable_clusters << geo->cluster_bits,
		    "the refcount table");
	for (i = 0; i < l->img->reftable_entries; i++) {
		offset = l->img->reftable[i] & QCOW2_REFTABLE_OFFSET_MASK;
		if (offset)
			expect_used(l, offset, 1, "a refcount block");
	}
}

static void look_at_metas(struct look *l, const struct rb_node *node)
{
	const struct qcow2_l2_meta *meta;

	if (!node)
		return;
	meta = container_of(node, struct qcow2_l2_meta, node);
	if (meta->refblock)
		expect_used(l, meta->host_offset,
			    (u64)meta->nb_clusters << l->img->geo.cluster_bits,
			    "a write in flight");
	look_at_metas(l, node->left);
	look_at_metas(l, node->right);
}

static void look_at_users(struct look *l)
{
	look_at_refcount_tables(l);
	look_at_l2_tables(l);
	look_at_metas(l, l->img->in_flight.rb_root.rb_node);
}

/*
 * 2 and 3: hints.
 */

static bool is_on_record(const struct look *l, u64 cluster)
{
	const struct qcow2_geometry *geo = &l->img->geo;
	void *entry = xa_load(&l->img->free.freed, cluster >> geo->refslice_bits);

	return entry && xa_to_value(entry) <= qcow2_refslice_index(geo, cluster);
}

static void look_at_hints(struct look *l)
{
	u64 nr, cluster, slices = l->end >> l->img->geo.refslice_bits;
	struct qcow2_free *free = &l->img->free;

	for (cluster = 0; cluster < free->hint; cluster++)
		if ((l->state[cluster] & (IS_FREE | IS_RESERVED)) == IS_FREE &&
		    !is_on_record(l, cluster))
			untrue(2, "cluster %llu is lost; the hint is %llu",
			       cluster, free->hint);
	for (nr = 0; nr < slices; nr++) {
		void *entry = xa_load(&free->freed, nr);

		if (entry && xa_to_value(entry) >> l->img->geo.refslice_bits)
			untrue(3, "slice %llu has index %lu on record", nr,
			       xa_to_value(entry));
	}
}

/*
 * 4 to 6: reservations.
 */

static void look_at_run(struct look *l, const struct qcow2_stream *s)
{
	u64 bits = l->img->geo.refslice_bits;
	u64 cluster;

	if (s->nr && s->host >> bits != (s->host + s->nr - 1) >> bits)
		untrue(4, "the run of %u clusters from %llu on lies in two slices",
		       s->nr, s->host);
	for (cluster = s->host; s->ahead && cluster < s->host + s->nr; cluster++) {
		if (l->state[cluster] & IS_RESERVED)
			untrue(5, "cluster %llu is reserved twice", cluster);
		l->state[cluster] |= IS_RESERVED;
	}
}

static void look_at_streams(struct look *l)
{
	const struct qcow2_free *free = &l->img->free;
	const struct qcow2_stream *s;

	for (s = free->streams; s < free->streams + QCOW2_STREAMS; s++) {
		look_at_run(l, s);
		if (!s->used && (s->guest || s->host || s->nr || s->ahead))
			untrue(6, "%u clusters from %llu on are nobody's run",
			       s->nr, s->host);
		if (s->used > free->clock)
			untrue(6, "a stream was used at %llu, and it is %llu",
			       s->used, free->clock);
	}
}

/*
 * 7 to 11: known zeroes.
 */

/* Notes which clusters have a bit. */
static void note_bits(struct look *l, u64 first, unsigned long bits)
{
	const struct qcow2_free *free = &l->img->free;
	u64 cluster;

	if (!bits)
		untrue(8, "the entry of cluster %llu is 0", first);
	for (; bits; bits &= bits - 1) {
		cluster = first + __builtin_ctzl(bits);
		if (cluster >= free->fresh_from)
			untrue(7, "cluster %llu has a bit, and lies behind %llu",
			       cluster, free->fresh_from);
		l->state[cluster] |= IS_ZERO;
	}
}

/* Those behind @l->end are missing in their number. */
static void look_at_bits(struct look *l)
{
	struct qcow2_free *free = &l->img->free;
	unsigned int nr = 0;
	u64 index;

	for (index = 0; index < l->end >> QCOW2_ZEROES_BITS; index++) {
		void *entry = xa_load(&free->zeroes, index);

		if (!entry)
			continue;
		note_bits(l, index << QCOW2_ZEROES_BITS, xa_to_value(entry));
		nr++;
	}
	if (nr != free->nr_zeroes || nr > QCOW2_ZEROES_MAX)
		untrue(8, "there are %u entries, counted as %u", nr,
		       free->nr_zeroes);
}

static void look_at_used(struct look *l)
{
	u64 cluster;

	if (opened.img != l->img || opened.lost_tail)
		return;
	for (cluster = 0; cluster < l->end; cluster++)
		if (!(l->state[cluster] & IS_FREE) &&
		    (l->state[cluster] & IS_ZERO ||
		     cluster >= l->img->free.fresh_from))
			untrue(9, "cluster %llu is in use, and counts as zero",
			       cluster);
}

static void look_at_zeroes(struct look *l)
{
	const struct qcow2_geometry *geo = &l->img->geo;
	u64 cluster, end = min(l->end, qcow2_clusters_of(geo, memfile_bytes(l->filp)));

	if (!qcow2_file_holes_are_zero(l->img->file))
		return;
	for (cluster = 0; cluster < end; cluster++)
		if (l->state[cluster] & IS_FREE &&
		    (l->state[cluster] & IS_ZERO ||
		     cluster >= l->img->free.fresh_from) &&
		    !memfile_is_zero(l->filp, cluster << geo->cluster_bits,
				     geo->cluster_bytes))
			untrue(10, "cluster %llu does not read as zeroes",
			       cluster);
}

static void look_at_data_file(struct look *l)
{
	const struct qcow2_file *file = l->img->data_file;
	u64 from = l->img->free.data_fresh_from << l->img->geo.cluster_bits;
	u64 end;

	if (!file || !qcow2_file_holes_are_zero(file))
		return;
	end = memfile_bytes(memfile_of(file));
	if (from < end && !memfile_is_zero(memfile_of(file), from, end - from))
		untrue(11, "the data file is not zero behind %llu", from);
}

/*
 * All of it.
 */

static u64 end_of_interest(const struct qcow2_image *img)
{
	const struct qcow2_free *free = &img->free;
	const struct qcow2_stream *s;
	u64 end = max(free->hint, free->fresh_from);

	for (s = free->streams; s < free->streams + QCOW2_STREAMS; s++)
		end = max(end, s->host + s->nr);
	end = max(end, qcow2_file_bytes(img->file) >> img->geo.cluster_bits);
	return round_up(end + 1, max(BIT_ULL(img->geo.refslice_bits), 64ULL));
}

static void begin_look(struct look *l, struct qcow2_image *img)
{
	*l = (struct look) {
		.img = img,
		.filp = memfile_of(img->file),
		.end = end_of_interest(img),
	};
	l->state = must(calloc(1, l->end));
	note_free(l);
}

void qcow2_free_verify(struct qcow2_image *img)
{
	struct look l;

	if (qcow2_image_needs_check(img) || qcow2_image_read_only(img) ||
	    !img->reftable)
		return;
	begin_look(&l, img);
	look_at_users(&l);
	look_at_streams(&l);
	look_at_hints(&l);
	look_at_bits(&l);
	look_at_used(&l);
	look_at_zeroes(&l);
	look_at_data_file(&l);
	free(l.state);
}

void verify_now(struct qcow2_image *img)
{
	mutex_lock(&img->meta_lock);
	qcow2_free_verify(img);
	mutex_unlock(&img->meta_lock);
}

/* All looks of this process may take so long ... */
#define ALLOWANCE_NS	50000000ULL

/* ... and one part in so many of its time. */
#define SHARE		8

void verify_if_cheap(struct qcow2_image *img)
{
	static u64 began, spent;
	u64 now = shim_now_ns(), first = 0;

	__atomic_compare_exchange_n(&began, &first, now, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
	if (__atomic_load_n(&spent, __ATOMIC_RELAXED) >
	    ALLOWANCE_NS + (now - (first ?: now)) / SHARE)
		return;
	verify_now(img);
	__atomic_fetch_add(&spent, shim_now_ns() - now, __ATOMIC_RELAXED);
}

/* Is any cluster of a refcount block's range in use, from @cluster on? */
static bool any_used(struct look *l, u64 cluster, u64 end)
{
	for (; cluster < end; cluster++)
		if (!is_free(l, cluster))
			return true;
	return false;
}

void verify_opened(struct qcow2_image *img)
{
	struct look l = { .img = img, .filp = memfile_of(img->file) };
	u64 per_block = BIT_ULL(img->geo.refblock_bits);
	u64 i, begin = img->free.fresh_from;

	opened.img = img;
	opened.lost_tail = false;
	mutex_lock(&img->meta_lock);
	for (i = begin / per_block; i < img->reftable_entries; i++)
		if (img->reftable[i])
			opened.lost_tail |= any_used(&l, max(begin, i * per_block),
						     (i + 1) * per_block);
	mutex_unlock(&img->meta_lock);
}

void verify_closing(struct qcow2_image *img)
{
	verify_step(img);
	if (opened.img == img)
		opened.img = NULL;
}
