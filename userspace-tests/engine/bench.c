// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long an allocation takes in an image that is nearly full, and in an empty
 * one of the same size: 1 TiB in clusters of 64 KiB. No test: it prints figures.
 *
 * Of the full image all clusters have a refcount of 1 but for some, spread at
 * random. What is timed is the search alone, without data and without commits,
 * in CPU time, so that others on the machine do not matter much.
 * The xarray of the shim is a hash table, in which finding the lowest index costs
 * a look at each of its 4096 buckets; the kernel's costs a few loads.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <asm/byteorder.h>
#include <linux/kernel.h>

#include "memfile.h"
#include "shim.h"
#include "workload.h"

#define CLUSTER_BITS	16
#define CLUSTER_BYTES	(1UL << CLUSTER_BITS)
#define DISK_BYTES	(1ULL << 40)
#define NR_CLUSTERS	(DISK_BYTES / CLUSTER_BYTES)
#define PER_BLOCK	(CLUSTER_BYTES / 2)	/* refcounts of 16 bits */
#define NR_BLOCKS	(NR_CLUSTERS / PER_BLOCK)
#define L1_ENTRIES	(DISK_BYTES / (CLUSTER_BYTES / 8 * CLUSTER_BYTES))

/* Where things lie, in clusters. */
#define REFTABLE	1
#define L1_TABLE	2
#define FIRST_BLOCK	3
#define FIRST_FREE	(FIRST_BLOCK + NR_BLOCKS)

#define NR_FREE		1000U
#define NR_CYCLES	200000U
#define COMMIT_EVERY	500U

/**
 * struct times - of some calls, in nanoseconds
 */
struct times {
	u64 nr;
	u64 sum;
	u64 max;
};

static u64 cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void note(struct times *t, u64 ns)
{
	t->nr++;
	t->sum += ns;
	t->max = max(t->max, ns);
}

static void print(const char *what, const struct times *t)
{
	printf("%-46s %8llu times, mean %9.2f us, longest %11.2f us\n", what,
	       t->nr, t->sum / 1000.0 / t->nr, t->max / 1000.0);
}

/*
 * The image.
 */

static void put(struct file *filp, u64 offset, const void *buf, size_t bytes)
{
	memfile_store(filp, offset, buf, bytes);
}

static void put_header(struct file *filp)
{
	struct qcow2_disk_header h = {
		.magic = cpu_to_be32(QCOW2_MAGIC),
		.version = cpu_to_be32(3),
		.cluster_bits = cpu_to_be32(CLUSTER_BITS),
		.size = cpu_to_be64(DISK_BYTES),
		.l1_size = cpu_to_be32(L1_ENTRIES),
		.l1_table_offset = cpu_to_be64(L1_TABLE * CLUSTER_BYTES),
		.refcount_table_offset = cpu_to_be64(REFTABLE * CLUSTER_BYTES),
		.refcount_table_clusters = cpu_to_be32(1),
		.refcount_order = cpu_to_be32(4),
		.header_length = cpu_to_be32(QCOW2_HEADER_V3_BYTES),
	};

	put(filp, 0, &h, sizeof(h));
}

/* Refcounts of 1 up to cluster @used, but for those that @free names. */
static void put_refcounts(struct file *filp, u64 used, const u64 *free_clusters,
			  unsigned int nr_free)
{
	u16 *block = malloc(CLUSTER_BYTES);
	unsigned int f = 0;
	u64 i, j;

	for (i = 0; i < NR_BLOCKS; i++) {
		u64 offset = (FIRST_BLOCK + i) * CLUSTER_BYTES;
		__be64 entry = cpu_to_be64(offset);

		put(filp, REFTABLE * CLUSTER_BYTES + i * 8, &entry, 8);
		for (j = 0; j < PER_BLOCK; j++) {
			u64 cluster = i * PER_BLOCK + j;
			bool is_free = f < nr_free &&
				       free_clusters[f] == cluster;

			f += is_free;
			block[j] = cpu_to_be16(cluster < used && !is_free);
		}
		put(filp, offset, block, CLUSTER_BYTES);
	}
	free(block);
}

static int by_value(const void *a, const void *b)
{
	u64 x = *(u64 *)a, y = *(u64 *)b;

	return x < y ? -1 : x > y;
}

/* One somewhere in each of NR_FREE stretches of equal length. */
static void choose_free(u64 *free_clusters, struct shim_random *r)
{
	u64 stretch = (NR_CLUSTERS - FIRST_FREE) / NR_FREE;
	unsigned int i;

	for (i = 0; i < NR_FREE; i++)
		free_clusters[i] = FIRST_FREE + i * stretch +
				   shim_below(r, stretch);
	qsort(free_clusters, NR_FREE, sizeof(u64), by_value);
}

static struct qcow2_image *open_image(struct file *filp)
{
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
	};
	struct qcow2_reason why = {};
	struct qcow2_image *img;

	memfile_truncate(filp, DISK_BYTES);
	img = qcow2_image_open(filp, "bench", &options, &why);
	if (IS_ERR(img))
		wl_fail(0, "open: %s (%ld)", why.text, PTR_ERR(img));
	return img;
}

/*
 * What is measured.
 */

static u64 allocate(struct qcow2_image *img, struct times *t)
{
	u64 begun = cpu_ns();
	struct qcow2_need need = {};
	struct qcow2_run run;
	int ret;

	for (;;) {
		mutex_lock(&img->meta_lock);
		ret = qcow2_alloc_clusters(img, 0, 1, &need, &run);
		mutex_unlock(&img->meta_lock);
		if (ret != -EAGAIN)
			break;
		ret = qcow2_need_meet(img, &need);
		if (ret)
			break;
	}
	if (ret)
		wl_fail(0, "allocation: %d", ret);
	qcow2_need_done(&need);
	qcow2_slice_put(run.refblock);
	note(t, cpu_ns() - begun);
	if (t->nr % COMMIT_EVERY == 0)
		qcow2_commit(img);
	return run.host_offset >> CLUSTER_BITS;
}

static void release(struct qcow2_image *img, u64 cluster)
{
	struct qcow2_need need = {};
	struct qcow2_slice *slice;
	int ret;

	for (;;) {
		mutex_lock(&img->meta_lock);
		ret = qcow2_refcount_slice(img, cluster, &need, &slice);
		if (!ret) {
			ret = qcow2_refcount_dec(img, cluster, slice);
			qcow2_slice_put(slice);
		}
		mutex_unlock(&img->meta_lock);
		if (ret != -EAGAIN)
			break;
		ret = qcow2_need_meet(img, &need);
		if (ret)
			break;
	}
	if (ret)
		wl_fail(0, "release: %d", ret);
	qcow2_need_done(&need);
}

static void measure_full(struct shim_random *r)
{
	struct memfile_options options = {};
	struct file *filp = memfile_create(&options);
	static u64 free_clusters[NR_FREE];
	struct times first = {}, rest = {}, cycles = {};
	struct qcow2_image *img;
	unsigned int i;

	choose_free(free_clusters, r);
	put_header(filp);
	put_refcounts(filp, NR_CLUSTERS, free_clusters, NR_FREE);
	img = open_image(filp);
	for (i = 0; i < NR_FREE; i++)
		if (allocate(img, i ? &rest : &first) != free_clusters[i])
			wl_fail(0, "cluster %u is not the one that is free", i);
	for (i = 0; i < NR_CYCLES; i++) {
		u64 cluster = free_clusters[shim_below(r, NR_FREE)];

		release(img, cluster);
		if (allocate(img, &cycles) != cluster)
			wl_fail(0, "the cluster that became free is not found");
	}
	print("full: first allocation", &first);
	print("full: the others, each far behind the last", &rest);
	print("full: one of them freed, then allocated again", &cycles);
	qcow2_image_close(img);
	memfile_destroy(filp);
}

static void measure_empty(void)
{
	struct memfile_options options = {};
	struct file *filp = memfile_create(&options);
	struct times times = {};
	struct qcow2_image *img;
	unsigned int i;

	put_header(filp);
	put_refcounts(filp, FIRST_FREE, NULL, 0);
	img = open_image(filp);
	for (i = 0; i < NR_CYCLES; i++)
		allocate(img, &times);
	print("empty: one allocation after the other", &times);
	qcow2_image_close(img);
	memfile_destroy(filp);
}

int main(void)
{
	struct shim_random r = { .state = 1 };

	if (wl_init_pools())
		wl_fail(0, "cannot make the pools");
	printf("1 TiB in clusters of %lu KiB, %u of %llu free:\n",
	       CLUSTER_BYTES >> 10, NR_FREE, NR_CLUSTERS);
	measure_full(&r);
	measure_empty();
	wl_exit_pools();
	return 0;
}
