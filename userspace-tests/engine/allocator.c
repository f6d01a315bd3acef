// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random allocations, for writers one after the other and at random, for tables and
 * for areas, with frees between them, on files with and without a limit, and where
 * memory fails. Nothing may be taken twice; all that is known of free clusters must
 * be true, so that they are found; and where no space is left, none is free.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <asm/byteorder.h>
#include <linux/err.h>
#include <linux/kernel.h>

#include "cases.h"
#include "verify.h"

#define SHAPE(bits, order, bytes)					\
	{ .cluster_bits = (bits), .refcount_bits = (order), .version = 3, \
	  .virtual_bytes = (bytes) }

/* With refcount slices of 64 clusters and more. */
static const struct shape shapes[] = {
	{ "clusters of 512, 64 bit", SHAPE(9, 64, 4 << 20) },
	{ "clusters of 512, 16 bit", SHAPE(9, 16, 4 << 20) },
	{ "clusters of 4 KiB, 64 bit", SHAPE(12, 64, 16 << 20) },
	{ "clusters of 64 KiB, 64 bit", SHAPE(16, 64, 256 << 20) },
	{}
};

enum { SEEDS = 9, STEPS = 2000, WRITERS = 24, MAX_CLUSTERS = 1 << 16, TRIES = 1000 };

/**
 * struct play - one image, and what was allocated in it
 * @d: the image
 * @limit: of the file in clusters; 0: none
 * @random: state of the generator
 * @step: how many there were
 * @ours: a byte for each cluster that was allocated here
 * @list: the same clusters
 * @nr: length of @list
 * @next: where each writer is in the guest, in clusters
 * @last: the cluster behind the last run
 */
struct play {
	struct disk d;
	u64 limit;
	u64 random;
	u64 step;
	unsigned char ours[MAX_CLUSTERS];
	u32 list[MAX_CLUSTERS];
	u32 nr;
	u64 next[WRITERS];
	u64 last;
};

static u32 below(struct play *p, u32 n)
{
	p->random ^= p->random << 13;
	p->random ^= p->random >> 7;
	p->random ^= p->random << 17;
	return (p->random >> 11) % n;
}

static u64 cluster_bytes(const struct play *p)
{
	return p->d.cluster;
}

/*
 * What the image says.
 */

/* What is not cached is not known: no harm, since all is cached most of the time. */
static bool is_known(struct qcow2_image *img, u64 cluster, bool *free)
{
	struct qcow2_need need = {};
	struct qcow2_slice *slice;

	if (qcow2_refcount_slice(img, cluster, &need, &slice))
		return false;
	*free = !qcow2_get_refcount(slice->data, img->geo.refcount_order,
				    cluster & (BIT_ULL(img->geo.refslice_bits) - 1));
	qcow2_slice_put(slice);
	return true;
}

static void look(struct play *p)
{
	struct qcow2_image *img = p->d.img;
	u64 cluster;
	bool free;

	qcow2_free_verify(img);
	for (cluster = 0; cluster < img->free.hint; cluster++) {
		if (!is_known(img, cluster, &free))
			continue;
		expect(!free || !p->ours[cluster], "step %llu: %llu is free, and in use",
		       p->step, cluster);
	}
}

/*
 * What is done.
 */

static void note_taken(struct play *p, u64 cluster, u64 nr)
{
	for (; nr--; cluster++) {
		expect(cluster < MAX_CLUSTERS, "cluster %llu is far away", cluster);
		expect(!p->ours[cluster], "cluster %llu is taken twice", cluster);
		p->ours[cluster] = 1;
		p->list[p->nr++] = cluster;
	}
}

static void take_run(struct play *p, struct qcow2_run *run)
{
	u64 cluster = run->host_offset / cluster_bytes(p);

	note_taken(p, cluster, run->nb_clusters);
	p->last = cluster + run->nb_clusters;
	qcow2_slice_put(run->refblock);
}

static int meet(struct play *p, struct qcow2_need *need)
{
	struct qcow2_image *img = p->d.img;
	int ret;

	shim_fail_allocations(0, 0);
	mutex_unlock(&img->meta_lock);
	ret = qcow2_need_meet(img, need);
	mutex_lock(&img->meta_lock);
	return ret;
}

static void release(struct play *p, u32 place)
{
	struct qcow2_image *img = p->d.img;
	struct qcow2_need need = {};
	u32 cluster = p->list[place];
	struct qcow2_slice *slice;

	p->list[place] = p->list[--p->nr];
	p->ours[cluster] = 0;
	while (qcow2_used_refcount_slice(img, cluster, &need, &slice) == -EAGAIN)
		expect(!meet(p, &need), "the slice of cluster %u", cluster);
	expect(!qcow2_refcount_dec(img, cluster, slice), "cluster %u", cluster);
	qcow2_slice_put(slice);
	qcow2_need_done(&need);
}

static void release_until(struct play *p, u32 nr)
{
	while (p->nr > nr)
		release(p, below(p, p->nr));
}

/* Those of late more often than others. */
static void release_some(struct play *p)
{
	u32 nr = 1 + below(p, 2);

	for (; nr && p->nr; nr--)
		release(p, below(p, 2) && p->nr > 20 ? p->nr - 1 - below(p, 20) :
						       below(p, p->nr));
}

static int alloc(struct play *p, u64 guest, u64 at, u32 want)
{
	struct qcow2_image *img = p->d.img;
	struct qcow2_need need = {};
	struct qcow2_run run = {};
	unsigned int tries = 0;
	int ret;

	do {
		ret = guest == U64_MAX ?
		      qcow2_alloc_clusters(img, at, want, &need, &run) :
		      qcow2_alloc_for_guest(img, guest * cluster_bytes(p), at,
					    want, &need, &run);
		if (ret == -EAGAIN)
			ret = meet(p, &need) ?: -EAGAIN;
		expect(++tries < TRIES, "step %llu does not end", p->step);
	} while (ret == -EAGAIN);
	qcow2_need_done(&need);
	if (ret)
		return ret;
	expect(run.nb_clusters || at, "step %llu gave nothing", p->step);
	if (run.nb_clusters)
		take_run(p, &run);
	return run.nb_clusters;
}

static int write_somewhere(struct play *p)
{
	u64 *next = &p->next[below(p, WRITERS)];
	u64 guest = *next + (below(p, 4) ? 0 : below(p, 12));
	u32 want = 1 + (below(p, 3) ? 0 : below(p, 9));
	u64 at = below(p, 8) ? 0 : p->last * cluster_bytes(p);
	int ret = alloc(p, below(p, 10) ? guest : below(p, 1 << 20), at, want);

	if (ret > 0)
		*next = guest + ret;
	return min(ret, 0);
}

static int take_table(struct play *p)
{
	return min(alloc(p, U64_MAX, 0, 1 + below(p, 3)), 0);
}

static int take_area(struct play *p)
{
	struct qcow2_image *img = p->d.img;
	u64 offset, nr = 2 + below(p, 20);
	int ret;

	shim_fail_allocations(0, 0);
	mutex_unlock(&img->meta_lock);
	mutex_lock(&img->grow_lock);
	ret = qcow2_alloc_area(img, nr, &offset);
	mutex_unlock(&img->grow_lock);
	mutex_lock(&img->meta_lock);
	if (!ret)
		note_taken(p, offset / cluster_bytes(p), nr);
	return ret;
}

/* An area has to be in one piece; for all else one cluster would have done. */
static void look_for_space(struct play *p)
{
	u64 cluster;
	bool free;

	for (cluster = 0; cluster < p->limit; cluster++)
		expect(!is_known(p->d.img, cluster, &free) || !free,
		       "step %llu: no space, though cluster %llu is free", p->step,
		       cluster);
}

static void do_step(struct play *p)
{
	u32 what = below(p, 100);
	int ret = 0;

	shim_fail_allocations(below(p, 10) ? 0 : 2, p->random);
	if (what < 55)
		ret = write_somewhere(p);
	else if (what < 62)
		ret = take_table(p);
	else if (what < 64)
		ret = take_area(p);
	else if (what < 65)
		qcow2_streams_give_up(p->d.img);
	else if (what < 97)
		release_some(p);
	else if (!below(p, 12))
		release_until(p, 40);
	if (ret == -ENOSPC) {
		expect(p->limit, "step %llu: no space in an endless file", p->step);
		if (what < 62)
			look_for_space(p);
		release_until(p, p->limit / 2);
	} else {
		expect(!ret || ret == -ENOMEM, "step %llu gave %d", p->step, ret);
	}
}

static void play(struct play *p, const struct shape *shape, u64 seed)
{
	struct qcow2_image *img;
	unsigned int i;

	memset(p, 0, sizeof(*p));
	p->random = seed * 0x9e3779b97f4a7c15ULL + 1;
	p->limit = seed % 3 ? 0 : 150 + seed;
	p->d.options.max_bytes = p->limit << shape->base.cluster_bits;
	make_disk(&p->d, shape);
	attach(&p->d);
	/* The only L2 table, which fixes the clusters of the image's own. */
	write_new(&p->d, p->d.bytes - p->d.cluster, p->d.cluster);
	for (i = 0; i < WRITERS; i++)
		p->next[i] = below(p, 1 << 20);
	img = p->d.img;
	mutex_lock(&img->meta_lock);
	for (p->step = 0; p->step < STEPS; p->step++) {
		do_step(p);
		if (!(p->step % 7))
			look(p);
	}
	shim_fail_allocations(0, 0);
	look(p);
	release_until(p, 0);
	look(p);
	qcow2_streams_give_up(img);
	look(p);
	mutex_unlock(&img->meta_lock);
	read_back(&p->d, 0, p->d.bytes);
	detach_and_look(&p->d);
	destroy(&p->d);
}

static void nothing_is_lost_and_nothing_taken_twice(const struct shape *shape)
{
	static struct play p;
	u64 seed;

	for (seed = 1; seed <= SEEDS; seed++)
		play(&p, shape, seed);
}

/*
 * An image that is full, so that all its refcounts are looked at for the first cluster
 * that is to be found.
 */

/* Blocks of 64 KiB and 16 slices, each of which counts 512 clusters. */
static const struct shape full_shapes[] = {
	{ "clusters of 64 KiB, 64 bit", SHAPE(16, 64, 512 << 20) },
	{}
};

enum {
	FULL_BLOCKS = 32,
	BLOCK_CLUSTERS = 8192,
	BLOCK_SLICES = 16,
	SLICE_CLUSTERS = 512,
	TABLE_SLICES = 16,
};

/* As many of the clusters count as used that have a block, which are 16 GiB. */
static void fill_up(struct disk *d)
{
	__be64 *ones = must(malloc(d->cluster));
	u64 table, at, end = round_up(memfile_bytes(d->filp), d->cluster);
	__be64 entry;
	u32 i;

	for (i = 0; i < BLOCK_CLUSTERS; i++)
		ones[i] = cpu_to_be64(1);
	memfile_fetch(d->filp, offsetof(struct qcow2_disk_header,
					refcount_table_offset),
		      &entry, sizeof(entry));
	table = be64_to_cpu(entry);
	memfile_fetch(d->filp, table, &entry, sizeof(entry));
	at = be64_to_cpu(entry);
	for (i = 0; i < FULL_BLOCKS; i++) {
		memfile_store(d->filp, at, ones, d->cluster);
		entry = cpu_to_be64(at);
		memfile_store(d->filp, table + i * sizeof(entry), &entry,
			      sizeof(entry));
		at = end + i * d->cluster;
	}
	free(ones);
}

/* With an L2 table of 16 slices, of which each has a cluster. */
static void make_full(struct disk *d, const struct shape *shape)
{
	u32 i;

	d->options.threads = 2;
	make_disk(d, shape);
	attach(d);
	for (i = 0; i < TABLE_SLICES; i++)
		write_new(d, i * (d->bytes / TABLE_SLICES), WL_SECTOR);
	expect(!detach(d), "detach");
	fill_up(d);
	attach(d);
	d->img->cache.max = QCOW2_CACHE_MIN_BYTES / PAGE_SIZE;
}

/* It counts more clusters than the disk has, and may be as long as those. */
static void end_full(struct disk *d)
{
	u32 i;

	for (i = 0; i < TABLE_SLICES; i++)
		read_back(d, i * (d->bytes / TABLE_SLICES), 16 * d->cluster);
	expect(!detach(d), "detach");
	destroy(d);
}

static u32 l2_slices_in_memory(struct disk *d)
{
	u64 table = qcow2_l1_entry(d->img, 0) & QCOW2_OFFSET_MASK;
	u32 i, nr = 0;

	rcu_read_lock();
	for (i = 0; i < TABLE_SLICES; i++)
		nr += !!qcow2_slice_peek(d->img, QCOW2_SLICE_L2,
					 table + i * PAGE_SIZE);
	rcu_read_unlock();
	return nr;
}

static void full_image_is_looked_through_by_blocks(const struct shape *shape)
{
	struct disk d = {};
	u64 reads;
	u32 i, nr;

	make_full(&d, shape);
	for (i = 0; i < TABLE_SLICES; i++)
		read_back(&d, i * (d.bytes / TABLE_SLICES), WL_SECTOR);
	expect(l2_slices_in_memory(&d) == TABLE_SLICES, "L2 slices are missing");
	reads = memfile_count(d.filp, MEMFILE_READ);
	write_new(&d, 8 * d.cluster, d.cluster);
	reads = memfile_count(d.filp, MEMFILE_READ) - reads;
	nr = l2_slices_in_memory(&d);
	printf("# %llu reads for %u slices in %u blocks\n", reads,
	       FULL_BLOCKS * BLOCK_SLICES, FULL_BLOCKS);
	/* A new block comes behind them. */
	expect(host_of(&d, 8 * d.cluster) >
	       FULL_BLOCKS * BLOCK_CLUSTERS * d.cluster, "the image is not full");
	expect(nr == TABLE_SLICES, "%u L2 slices are left", nr);
	expect(reads <= FULL_BLOCKS + 8, "%llu reads", reads);
	end_full(&d);
}

/* A cluster in the middle of the first block, which nothing refers to. */
static void set_free(struct disk *d, u64 cluster)
{
	u64 offset = d->img->reftable[cluster / BLOCK_CLUSTERS] +
		     cluster % BLOCK_CLUSTERS / SLICE_CLUSTERS * PAGE_SIZE;
	struct qcow2_slice *slice = qcow2_slice_get(d->img,
						    QCOW2_SLICE_REFBLOCK, offset);

	expect(!IS_ERR(slice), "no slice");
	mutex_lock(&d->img->meta_lock);
	expect(!qcow2_refcount_dec(d->img, cluster, slice), "refcount");
	mutex_unlock(&d->img->meta_lock);
	qcow2_slice_put(slice);
}

enum { FREE_CLUSTER = 5 * SLICE_CLUSTERS + 7 };

/* The file does not know yet. */
static void what_is_in_memory_counts(const struct shape *shape)
{
	struct disk d = {};

	make_full(&d, shape);
	set_free(&d, FREE_CLUSTER);
	write_new(&d, 8 * d.cluster, d.cluster);
	expect(host_of(&d, 8 * d.cluster) == FREE_CLUSTER * d.cluster,
	       "the free cluster was not found");
	end_full(&d);
}

/* While the file is looked through. */
static void what_becomes_free_is_found(const struct shape *shape)
{
	struct disk d = {};
	struct op op = {};
	u64 at;

	make_full(&d, shape);
	at = d.img->reftable[0] + 5 * PAGE_SIZE;
	op.buf = new_data(&d, 8 * d.cluster, d.cluster);
	memfile_hold(d.filp, 1U << MEMFILE_READ, at, at + PAGE_SIZE);
	start(&d, &op, QCOW2_OP_WRITE, 8 * d.cluster, d.cluster);
	wait_for(memfile_holds(d.filp), "the block is not read");
	/* What is read then says that it is in use. */
	set_free(&d, FREE_CLUSTER);
	memfile_release(d.filp);
	expect(!finish(&op), "the write failed");
	memcpy(d.content + 8 * d.cluster, op.buf, d.cluster);
	free(op.buf);
	expect(host_of(&d, 8 * d.cluster) == FREE_CLUSTER * d.cluster,
	       "the free cluster was not found");
	end_full(&d);
}

/* Two that are free in the file, in a block that is looked through. */
static void first_free_cluster_is_taken(const struct shape *shape)
{
	struct disk d = {};
	u64 first = 3 * BLOCK_CLUSTERS + FREE_CLUSTER;

	make_full(&d, shape);
	set_free(&d, first);
	set_free(&d, first + SLICE_CLUSTERS);
	expect(!detach(&d), "detach");
	attach(&d);
	write_new(&d, 8 * d.cluster, d.cluster);
	write_new(&d, d.bytes / 2 + 8 * d.cluster, d.cluster);
	expect(host_of(&d, 8 * d.cluster) == first * d.cluster,
	       "not the first free cluster");
	expect(host_of(&d, d.bytes / 2 + 8 * d.cluster) ==
	       (first + SLICE_CLUSTERS) * d.cluster, "not the second free cluster");
	end_full(&d);
}

static const struct test_case cases[] = {
	TEST_CASE(nothing_is_lost_and_nothing_taken_twice, shapes),
	TEST_CASE(full_image_is_looked_through_by_blocks, full_shapes),
	TEST_CASE(what_is_in_memory_counts, full_shapes),
	TEST_CASE(what_becomes_free_is_found, full_shapes),
	TEST_CASE(first_free_cluster_is_taken, full_shapes),
};

int main(int argc, char **argv)
{
	return run_cases("allocator", cases, ARRAY_SIZE(cases), argc, argv);
}
