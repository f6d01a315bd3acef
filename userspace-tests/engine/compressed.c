// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compressed clusters: what is read of them, at once by many, with streams that
 * are damaged, with memory that is short, and what is kept of them.
 *
 * What a stream holds is asked of libz and libzstd, used in QEMU's way
 * (qcodec.c).
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <linux/kernel.h>
#include <linux/rcupdate.h>
#include <linux/shrinker.h>

#include "cases.h"
#include "codec.h"
#include "disk.h"
#include "qcodec.h"

#define THREADS		4
#define GUARD		64
#define K		1024ULL

#define COMPRESSED	(1ULL << 62)

/*
 * Images. The seed is one for which no cluster size has all its clusters of one
 * sort.
 */
#define SHAPE(text, number, bits, size, ...) \
	{ text, { .cluster_bits = bits, .refcount_bits = 16, \
		  .version = number, \
		  .compressed = true, .virtual_bytes = size, .seed = 1, \
		  __VA_ARGS__ } }

static const struct shape shapes[] = {
	SHAPE("zlib, 512 B", 3, 9, 400 * K),
	SHAPE("zlib, 4 KiB", 3, 12, 1024 * K + 512),
	SHAPE("zlib, 64 KiB", 3, 16, 6000 * K),
	SHAPE("zlib, 64 KiB, version 2", 2, 16, 6000 * K),
	SHAPE("zlib, 2 MiB", 3, 21, 19000 * K),
	SHAPE("zlib, 16 KiB with subclusters", 3, 14, 2000 * K, .extl2 = true),
	SHAPE("zlib, 64 KiB with subclusters", 3, 16, 6000 * K, .extl2 = true),
	SHAPE("zstd, 512 B", 3, 9, 400 * K, .zstd = true),
	SHAPE("zstd, 4 KiB", 3, 12, 1024 * K + 512, .zstd = true),
	SHAPE("zstd, 64 KiB", 3, 16, 6000 * K, .zstd = true),
	SHAPE("zstd, 2 MiB", 3, 21, 19000 * K, .zstd = true),
	SHAPE("zstd, 64 KiB with subclusters", 3, 16, 6000 * K, .zstd = true,
	      .extl2 = true),
	{}
};

/* What can be in a file with blocks of 4 KiB. */
static const struct shape direct_shapes[] = {
	SHAPE("zlib, 4 KiB", 3, 12, 1024 * K),
	SHAPE("zlib, 64 KiB", 3, 16, 6000 * K),
	SHAPE("zlib, 2 MiB", 3, 21, 19000 * K),
	SHAPE("zstd, 64 KiB", 3, 16, 6000 * K, .zstd = true),
	{}
};

/* Where one test is enough of each codec. */
static const struct shape two_shapes[] = {
	SHAPE("zlib, 64 KiB", 3, 16, 6000 * K),
	SHAPE("zstd, 64 KiB", 3, 16, 6000 * K, .zstd = true),
	{}
};

/**
 * struct clusters - the compressed clusters of an image
 * @nr: number of them
 * @guest: guest offset of each
 * @word: its L2 entry
 */
struct clusters {
	unsigned int nr;
	u64 *guest;
	u64 *word;
};

static struct clusters find_clusters(struct disk *d)
{
	struct clusters c = {};
	unsigned char *file;
	struct qimg q;
	size_t bytes;
	u64 guest;

	file = memfile_flatten(d->filp, &bytes);
	expect(!qimg_open(&q, file, bytes), "the image cannot be opened");
	c.guest = must(calloc(d->bytes / d->cluster + 1, sizeof(u64)));
	c.word = must(calloc(d->bytes / d->cluster + 1, sizeof(u64)));
	for (guest = 0; guest < d->bytes; guest += d->cluster) {
		u64 pos = qimg_l2_entry(&q, guest), word = 0;
		int i;

		for (i = 0; pos && i < 8; i++)
			word = word << 8 | file[pos + i];
		if (!(word & COMPRESSED))
			continue;
		c.guest[c.nr] = guest;
		c.word[c.nr++] = word;
	}
	free(file);
	expect(c.nr >= 3, "only %u compressed clusters", c.nr);
	return c;
}

static void range_of(struct disk *d, u64 word, u64 *offset, size_t *bytes)
{
	const struct qimg q = {
		.cluster_bits = d->shape->base.cluster_bits,
	};

	uint64_t start;

	qimg_compressed_range(&q, word, &start, bytes);
	*offset = start;
}

static void begin(struct disk *d, struct clusters *c, const struct shape *shape)
{
	unsigned char *content;

	make_disk(d, shape);
	content = disk_of_file(d, false);
	free(d->content);
	/* The last cluster is a whole one too. */
	d->content = must(calloc(1, d->bytes + d->cluster));
	memcpy(d->content, content, d->bytes);
	free(content);
	*c = find_clusters(d);
	attach(d);
}

static void end(struct disk *d, struct clusters *c)
{
	expect(!qcow2_image_needs_check(d->img), "the image has failed");
	expect(!detach(d), "detach");
	destroy(d);
	free(c->guest);
	free(c->word);
}

/* Into two pieces, wherever they may lie in their pages. */
static int read_into(struct disk *d, u64 word, u32 into, unsigned char *buf,
		     u32 bytes)
{
	struct qcow2_epoch *epoch = qcow2_epoch_enter(d->img);
	u32 first = bytes / 3;
	struct bio_vec bv[2];
	struct iov_iter iter;
	int error;

	bvec_set_virt(&bv[0], buf, first);
	bvec_set_virt(&bv[1], buf + first, bytes - first);
	iov_iter_bvec(&iter, ITER_DEST, bv, 2, bytes);
	error = qcow2_compressed_read(d->img, word, into, &iter);
	expect(error || !iov_iter_count(&iter), "not all was filled");
	qcow2_epoch_exit(epoch);
	return error;
}

/* Reads a part of a cluster; 0, and it is what it shall be, or the error. */
static int try_part(struct disk *d, struct clusters *c, unsigned int i,
		    u32 into, u32 bytes)
{
	unsigned char *buf = must(malloc(bytes + 1));
	int error = read_into(d, c->word[i], into, buf, bytes);

	expect(error || !memcmp(buf, d->content + c->guest[i] + into, bytes),
	       "%u bytes at %u of the cluster at %llu are wrong", bytes, into,
	       c->guest[i]);
	free(buf);
	return error;
}

static void read_part(struct disk *d, struct clusters *c, unsigned int i,
		      u32 into, u32 bytes)
{
	int error = try_part(d, c, i, into, bytes);

	expect(!error, "%u bytes at %u of the cluster at %llu: %d", bytes, into,
	       c->guest[i], error);
}

static void read_random_part(struct disk *d, struct clusters *c,
			     unsigned int i, struct shim_random *r)
{
	u32 into = shim_below(r, d->cluster);

	read_part(d, c, i, into, 1 + shim_below(r, d->cluster - into));
}

static void read_all(struct disk *d, struct clusters *c)
{
	unsigned int i;

	for (i = 0; i < c->nr; i++)
		read_part(d, c, i, 0, d->cluster);
}

static u64 reads_of(struct disk *d)
{
	return memfile_count(d->filp, MEMFILE_READ);
}

/*
 * What is read, and what it costs.
 */

static void every_part_is_what_qemu_reads(const struct shape *shape)
{
	struct shim_random r = { .state = 1 };
	struct clusters c;
	struct disk d = {};
	unsigned int i;

	begin(&d, &c, shape);
	read_all(&d, &c);
	for (i = 0; i < 300; i++)
		read_random_part(&d, &c, shim_below(&r, c.nr), &r);
	end(&d, &c);
}

/* The stream begins and ends within the blocks of direct I/O. */
static void direct_io_has_larger_blocks(const struct shape *shape)
{
	struct disk d = { .options.align = 4096 };
	struct clusters c;

	begin(&d, &c, shape);
	read_all(&d, &c);
	end(&d, &c);
}

static void parts_of_one_cluster_cost_one_transfer(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};
	u64 before;

	begin(&d, &c, shape);
	before = reads_of(&d);
	read_part(&d, &c, 0, 0, 10);
	read_part(&d, &c, 0, 10, d.cluster - 10);
	read_part(&d, &c, 0, 0, d.cluster);
	expect(reads_of(&d) == before + 1, "%llu transfers",
	       reads_of(&d) - before);
	end(&d, &c);
}

static void coldest_cluster_goes(const struct shape *shape)
{
	unsigned int i, max;
	struct clusters c;
	struct disk d = {};
	u64 before;

	begin(&d, &c, shape);
	max = d.img->compress.clusters.max;
	expect(c.nr > max, "the image has only %u clusters", c.nr);
	for (i = 0; i < max; i++)
		read_part(&d, &c, i, 0, 10);
	before = reads_of(&d);
	read_part(&d, &c, 0, 0, 10);
	expect(reads_of(&d) == before, "the oldest has gone too early");
	read_part(&d, &c, max, 0, 10);
	read_part(&d, &c, 0, 0, 10);
	expect(reads_of(&d) == before + 1, "a hot one has gone");
	read_part(&d, &c, 1, 0, 10);
	expect(reads_of(&d) == before + 2, "the coldest is still there");
	end(&d, &c);
}

static void memory_is_bounded_and_taken_late(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};
	u64 bytes;

	begin(&d, &c, shape);
	expect(!d.img->compress.clusters.nr && !d.img->compress.jobs.nr,
	       "memory was taken before it was needed");
	read_all(&d, &c);
	bytes = d.img->compress.clusters.nr * d.cluster;
	expect(bytes <= max(4 << 20, 4 * d.cluster), "%llu bytes of clusters",
	       bytes);
	expect(d.img->compress.jobs.nr == 1, "%u jobs for one reader",
	       d.img->compress.jobs.nr);
	end(&d, &c);
}

/*
 * At once.
 */

struct reader {
	struct disk *d;
	struct clusters *c;
	pthread_t thread;
	u64 seed;
	unsigned int count;
	unsigned int cluster;
	int error;
};

static void *read_at_random(void *data)
{
	struct reader *reader = data;
	struct shim_random r = { .state = reader->seed };
	unsigned int i;

	for (i = 0; i < reader->count; i++)
		read_random_part(reader->d, reader->c,
				 shim_below(&r, reader->c->nr), &r);
	return NULL;
}

static void *read_one(void *data)
{
	struct reader *reader = data;

	reader->error = try_part(reader->d, reader->c, reader->cluster, 0,
				 reader->d->cluster);
	return NULL;
}

static void start_readers(struct reader *readers, unsigned int nr,
			  const struct reader *like, void *(*run)(void *data))
{
	unsigned int i;

	for (i = 0; i < nr; i++) {
		readers[i] = *like;
		readers[i].seed = i;
		expect(!pthread_create(&readers[i].thread, NULL, run,
				       &readers[i]), "no thread");
	}
}

static void join_readers(struct reader *readers, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		pthread_join(readers[i].thread, NULL);
}

static void set_delays(struct disk *d)
{
	d->options = (struct memfile_options) {
		.seed = 1,
		.threads = 3,
		.inline_percent = 30,
		.delay_ns = 20000,
	};
}

static void many_read_at_once(const struct shape *shape)
{
	struct reader readers[THREADS];
	struct clusters c;
	struct disk d = {};

	set_delays(&d);
	begin(&d, &c, shape);
	start_readers(readers, THREADS, &(struct reader){
		      .d = &d, .c = &c, .count = 150 }, read_at_random);
	join_readers(readers, THREADS);
	end(&d, &c);
}

/* The transfer is held until all of them want it. */
static void one_cluster_is_decompressed_once(const struct shape *shape)
{
	struct reader readers[THREADS];
	struct clusters c;
	struct disk d = { .options.threads = 2 };
	size_t bytes;
	u64 offset;
	int i;

	begin(&d, &c, shape);
	range_of(&d, c.word[1], &offset, &bytes);
	memfile_hold(d.filp, 1 << MEMFILE_READ, offset, offset + bytes);
	start_readers(readers, THREADS, &(struct reader){
		      .d = &d, .c = &c, .cluster = 1 }, read_one);
	wait_for(memfile_holds(d.filp), "nobody reads");
	usleep(20000);
	memfile_release(d.filp);
	join_readers(readers, THREADS);
	for (i = 0; i < THREADS; i++)
		expect(!readers[i].error, "error %d", readers[i].error);
	expect(d.img->compress.loads == 1, "decompressed %llu times",
	       d.img->compress.loads);
	end(&d, &c);
}

/* While one waits for the file, all others go on. */
static void slow_cluster_stops_nobody(const struct shape *shape)
{
	struct reader reader[1];
	struct clusters c;
	struct disk d = { .options.threads = 2 };
	size_t bytes;
	u64 offset;
	unsigned int i;

	begin(&d, &c, shape);
	range_of(&d, c.word[0], &offset, &bytes);
	memfile_hold(d.filp, 1 << MEMFILE_READ, offset, offset + 1);
	start_readers(reader, 1, &(struct reader){ .d = &d, .c = &c },
		      read_one);
	wait_for(memfile_holds(d.filp), "nobody reads");
	for (i = 1; i < c.nr; i++)
		read_part(&d, &c, i, 0, d.cluster);
	memfile_release(d.filp);
	join_readers(reader, 1);
	expect(!reader[0].error, "error %d", reader[0].error);
	end(&d, &c);
}

/*
 * Memory.
 */

/* The pages of the longest stream that is read, and what lies around it. */
static long long rescue_bytes(struct disk *d)
{
	return round_up(d->cluster + d->cluster / 4 +
			2 * max(512u, d->options.align), PAGE_SIZE);
}

static void expect_stocks(struct disk *d, unsigned int clusters,
			  unsigned int jobs)
{
	expect(d->img->compress.clusters.nr == clusters &&
	       d->img->compress.jobs.nr == jobs, "%u clusters, %u jobs",
	       d->img->compress.clusters.nr, d->img->compress.jobs.nr);
}

/* Each read may decompress a whole cluster, so these are few of large ones. */
static void read_by_many(struct disk *d, struct clusters *c)
{
	unsigned int count = d->cluster > 65536 ? 10 : 100;
	struct reader readers[THREADS];

	start_readers(readers, THREADS, &(struct reader){
		      .d = d, .c = c, .count = count }, read_at_random);
	join_readers(readers, THREADS);
}

static void expect_error(struct disk *d, struct clusters *c, unsigned int i)
{
	char where[64];
	size_t bytes;
	u64 offset;
	int error;

	shim_log_clear();
	error = try_part(d, c, i, 0, 10);
	expect(error == -EIO, "error %d", error);
	range_of(d, c->word[i], &offset, &bytes);
	snprintf(where, sizeof(where), "test: the compressed cluster at host offset 0x%llx",
		 offset);
	expect(strstr(shim_log(), where), "the log does not say: %s", where);
}

/* From the first one on, with nothing but single pages, and few of these. */
static void reads_go_on_without_memory(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};
	long long before;

	set_delays(&d);
	begin(&d, &c, shape);
	before = shim_live_bytes();
	shim_fail_allocations(1, 1);
	shim_clear_peak();
	read_all(&d, &c);
	read_by_many(&d, &c);
	expect_stocks(&d, 0, 0);
	expect(shim_peak_bytes() - before <= rescue_bytes(&d) + 4096,
	       "%lld bytes were taken", shim_peak_bytes() - before);
	shim_fail_allocations(0, 0);
	/* As soon as there is memory, it is taken. */
	read_all(&d, &c);
	expect(d.img->compress.clusters.nr > 1, "one cluster only");
	end(&d, &c);
}

/* Whoever waits for what another one tries to make waits for nothing. */
static void take_time(void)
{
	usleep(200);
}

static void all_notice_that_there_is_no_memory(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};

	begin(&d, &c, shape);
	shim_fail_allocations(1, 1);
	shim_set_stall(take_time);
	read_by_many(&d, &c);
	shim_set_stall(NULL);
	expect_stocks(&d, 0, 0);
	shim_fail_allocations(0, 0);
	end(&d, &c);
}

static void reads_without_memory_have_larger_blocks(const struct shape *shape)
{
	struct disk d = { .options.align = 4096 };
	struct clusters c;

	begin(&d, &c, shape);
	shim_fail_allocations(1, 1);
	read_all(&d, &c);
	shim_fail_allocations(0, 0);
	end(&d, &c);
}

/* With what one read has got, which must be enough for all of them. */
static void reads_go_on_with_little_memory(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};

	set_delays(&d);
	begin(&d, &c, shape);
	read_part(&d, &c, 0, 0, 10);
	shim_fail_allocations(1, 1);
	read_by_many(&d, &c);
	expect_stocks(&d, 1, 1);
	shim_fail_allocations(0, 0);
	end(&d, &c);
}

/* A cluster is to be had, and then no memory to decompress in. */
static void reads_go_on_without_a_job(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};

	set_delays(&d);
	begin(&d, &c, shape);
	/* What a cluster is, and its data: both of one read, which is alone therefore. */
	shim_fail_nth_allocation(2, 0);
	read_part(&d, &c, 0, 0, 10);
	read_by_many(&d, &c);
	shim_fail_nth_allocation(U64_MAX, 0);
	expect_stocks(&d, 1, 0);
	read_all(&d, &c);
	end(&d, &c);
}

/* While one waits for the file it has nothing that another one needs. */
static void slow_rescue_stops_no_other_image(const struct shape *shape)
{
	struct disk upper = { .options.threads = 2 }, lower = {};
	struct clusters c, other;
	struct reader reader[1];
	size_t bytes;
	u64 offset;

	begin(&upper, &c, shape);
	begin(&lower, &other, shape);
	range_of(&upper, c.word[0], &offset, &bytes);
	memfile_hold(upper.filp, 1 << MEMFILE_READ, offset, offset + 1);
	shim_fail_allocations(1, 1);
	start_readers(reader, 1, &(struct reader){ .d = &upper, .c = &c },
		      read_one);
	wait_for(memfile_holds(upper.filp), "nobody reads");
	read_all(&lower, &other);
	expect_stocks(&lower, 0, 0);
	memfile_release(upper.filp);
	join_readers(reader, 1);
	expect(!reader[0].error, "error %d", reader[0].error);
	expect_stocks(&upper, 0, 0);
	shim_fail_allocations(0, 0);
	end(&upper, &c);
	end(&lower, &other);
}

/* They take turns with the reserve. */
static void two_images_are_rescued_at_once(const struct shape *shape)
{
	struct reader readers[2 * THREADS];
	struct clusters c, other;
	struct disk a = {}, b = {};

	begin(&a, &c, shape);
	begin(&b, &other, shape);
	shim_fail_allocations(1, 1);
	start_readers(readers, THREADS, &(struct reader){
		      .d = &a, .c = &c, .count = 100 }, read_at_random);
	start_readers(readers + THREADS, THREADS, &(struct reader){
		      .d = &b, .c = &other, .count = 100 }, read_at_random);
	join_readers(readers, 2 * THREADS);
	expect_stocks(&a, 0, 0);
	expect_stocks(&b, 0, 0);
	shim_fail_allocations(0, 0);
	end(&a, &c);
	end(&b, &other);
}

static const struct shape small_shape =
	SHAPE("zlib, 4 KiB", 3, 12, 1024 * K);

/* Whoever comes last may need most, and the first one may stay longest. */
static void reserve_is_enough_for_all_images(const struct shape *shape)
{
	struct disk small = {}, large = {};
	struct clusters few, many;

	begin(&small, &few, &small_shape);
	begin(&large, &many, shape);
	shim_fail_allocations(1, 1);
	read_all(&large, &many);
	read_all(&small, &few);
	end(&small, &few);
	read_all(&large, &many);
	shim_fail_allocations(0, 0);
	begin(&small, &few, &small_shape);
	end(&large, &many);
	shim_fail_allocations(1, 1);
	read_all(&small, &few);
	shim_fail_allocations(0, 0);
	end(&small, &few);
}

/* The images that are there share it, and the last one takes it along. */
static void reserve_is_there_once(const struct shape *shape)
{
	long long before = shim_live_bytes(), first, second;
	struct disk a = {}, b = {};
	struct clusters c, other;

	begin(&a, &c, shape);
	first = shim_live_bytes() - before;
	begin(&b, &other, shape);
	second = shim_live_bytes() - before - first;
	expect(first - second > (long long)a.cluster,
	       "the first image takes %lld bytes, and the second %lld", first,
	       second);
	end(&a, &c);
	end(&b, &other);
	rcu_barrier();
	expect(shim_live_bytes() == before, "%lld bytes stay",
	       shim_live_bytes() - before);
}

/* Errors of a rescue are those of other reads. */
static void failed_rescue_is_an_error_of_its_cluster(const struct shape *shape)
{
	unsigned char bad[16], good[16], *file;
	struct clusters c;
	struct disk d = {};
	size_t bytes;
	u64 offset;

	begin(&d, &c, shape);
	range_of(&d, c.word[1], &offset, &bytes);
	file = memfile_flatten(d.filp, &bytes);
	memcpy(good, file + offset, sizeof(good));
	free(file);
	memset(bad, 0xff, sizeof(bad));
	shim_fail_allocations(1, 1);
	memfile_store(d.filp, offset, bad, sizeof(bad));
	expect_error(&d, &c, 1);
	memfile_store(d.filp, offset, good, sizeof(good));
	memfile_fault(d.filp, &(struct memfile_fault){
		      .ops = 1 << MEMFILE_READ, .error = -EIO });
	expect_error(&d, &c, 1);
	memfile_fault(d.filp, NULL);
	read_all(&d, &c);
	expect_stocks(&d, 0, 0);
	shim_fail_allocations(0, 0);
	end(&d, &c);
}

/* From the first read on, and with the system taking memory back. */
static void memory_comes_and_goes(const struct shape *shape)
{
	struct reader readers[THREADS];
	u64 failed = shim_failed_allocations();
	struct clusters c;
	struct disk d = {};
	int i;

	set_delays(&d);
	begin(&d, &c, shape);
	shim_fail_allocations(3, 1);
	start_readers(readers, THREADS, &(struct reader){
		      .d = &d, .c = &c, .count = 100 }, read_at_random);
	for (i = 0; i < 200; i++) {
		shim_shrink(64);
		usleep(200);
	}
	join_readers(readers, THREADS);
	shim_fail_allocations(0, 0);
	expect(shim_failed_allocations() > failed, "no allocation failed");
	end(&d, &c);
}

static void system_gets_its_memory_back(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};
	long long before;

	begin(&d, &c, shape);
	read_part(&d, &c, 0, 0, 10);
	before = shim_live_allocations();
	read_all(&d, &c);
	expect(d.img->compress.clusters.nr > 1, "one cluster only");
	shim_shrink(1 << 20);
	expect(d.img->compress.clusters.nr == 1 && d.img->compress.jobs.nr == 1,
	       "%u clusters, %u jobs", d.img->compress.clusters.nr,
	       d.img->compress.jobs.nr);
	expect(shim_live_allocations() <= before, "memory is still in use");
	read_all(&d, &c);
	end(&d, &c);
}

/*
 * What cannot be read.
 */

static void damaged_stream_is_an_error_of_its_cluster(const struct shape *shape)
{
	unsigned char bad[16], good[16], *file;
	struct clusters c;
	struct disk d = {};
	size_t bytes;
	u64 offset;

	begin(&d, &c, shape);
	range_of(&d, c.word[1], &offset, &bytes);
	file = memfile_flatten(d.filp, &bytes);
	memcpy(good, file + offset, sizeof(good));
	free(file);
	memset(bad, 0xff, sizeof(bad));
	memfile_store(d.filp, offset, bad, sizeof(bad));
	expect_error(&d, &c, 1);
	expect_error(&d, &c, 1);
	read_part(&d, &c, 0, 0, d.cluster);
	read_part(&d, &c, 2, 0, d.cluster);
	/* Not for ever: it may have been the disk. */
	memfile_store(d.filp, offset, good, sizeof(good));
	read_all(&d, &c);
	end(&d, &c);
}

static void failed_transfer_is_told_to_all(const struct shape *shape)
{
	struct reader readers[THREADS];
	struct clusters c;
	struct disk d = { .options.threads = 2 };
	size_t bytes;
	u64 offset;
	int i;

	begin(&d, &c, shape);
	range_of(&d, c.word[1], &offset, &bytes);
	memfile_hold(d.filp, 1 << MEMFILE_READ, offset, offset + bytes);
	memfile_fault(d.filp, &(struct memfile_fault){
		      .ops = 1 << MEMFILE_READ, .error = -EIO });
	start_readers(readers, THREADS, &(struct reader){
		      .d = &d, .c = &c, .cluster = 1 }, read_one);
	wait_for(memfile_holds(d.filp), "nobody reads");
	usleep(20000);
	memfile_release(d.filp);
	join_readers(readers, THREADS);
	for (i = 0; i < THREADS; i++)
		expect(readers[i].error == -EIO, "error %d", readers[i].error);
	memfile_fault(d.filp, NULL);
	read_all(&d, &c);
	end(&d, &c);
}

/* Any bytes, anywhere in a stream: what QEMU makes of it, or an error. */
static void random_damage_is_never_worse(const struct shape *shape)
{
	unsigned char *file, *stream, *want, *got;
	struct shim_random r = { .state = 1 };
	unsigned int round, errors = 0;
	struct clusters c;
	struct disk d = {};
	size_t total;

	begin(&d, &c, shape);
	file = memfile_flatten(d.filp, &total);
	want = must(malloc(d.cluster));
	got = must(malloc(d.cluster));
	for (round = 0; round < (d.cluster > 65536 ? 60 : 400); round++) {
		unsigned int i = shim_below(&r, c.nr);
		unsigned int flips = 1 + shim_below(&r, 3);
		size_t bytes;
		u64 offset;
		int error;

		range_of(&d, c.word[i], &offset, &bytes);
		stream = must(calloc(1, bytes));
		memcpy(stream, file + offset, min(bytes, total - offset));
		while (flips--)
			stream[shim_below(&r, shim_below(&r, 2) ?
					  bytes : min(bytes, 20))] =
				shim_random(&r);
		memfile_store(d.filp, offset, stream, bytes);
		error = read_into(&d, c.word[i], 0, got, d.cluster);
		if (!error) {
			expect(qcodec_decompress(shape->base.zstd, stream,
						 bytes, want, d.cluster),
			       "QEMU would give an error");
			expect(!memcmp(want, got, d.cluster),
			       "QEMU would read something else");
		} else {
			expect(error == -EIO, "error %d", error);
			errors++;
		}
		memcpy(stream, file + offset, min(bytes, total - offset));
		memfile_store(d.filp, offset, stream, bytes);
		free(stream);
		qcow2_compress_forget(d.img, offset, bytes);
	}
	expect(errors > 10, "only %u errors", errors);
	free(want);
	free(got);
	free(file);
	end(&d, &c);
}

/* Entries of no sense at all, with all lengths that they can say. */
static void random_entries_do_no_harm(const struct shape *shape)
{
	struct shim_random r = { .state = 1 };
	struct clusters c;
	struct disk d = {};
	unsigned char *got;
	int i, error;

	begin(&d, &c, shape);
	got = must(malloc(d.cluster));
	for (i = 0; i < 500; i++) {
		u64 word = shim_random(&r);

		if (shim_below(&r, 2))
			word = c.word[shim_below(&r, c.nr)] ^
			       1ULL << shim_below(&r, 62);
		error = read_into(&d, word | COMPRESSED, 0, got, d.cluster);
		expect(!error || error == -EIO, "error %d", error);
	}
	free(got);
	read_all(&d, &c);
	end(&d, &c);
}

static unsigned int last_of(struct disk *d, const struct clusters *c)
{
	u64 end = 0, offset;
	unsigned int i, last = 0;
	size_t bytes;

	for (i = 0; i < c->nr; i++) {
		range_of(d, c->word[i], &offset, &bytes);
		if (offset + bytes > end)
			last = i;
		end = max(end, offset + bytes);
	}
	return last;
}

/* QEMU does not fill the last sector of a file. */
static void file_may_end_with_the_stream(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};
	unsigned int last;
	unsigned char *file;
	size_t bytes, total;
	u64 offset;

	begin(&d, &c, shape);
	last = last_of(&d, &c);
	range_of(&d, c.word[last], &offset, &bytes);
	file = memfile_flatten(d.filp, &total);
	while (total > offset && !file[total - 1])
		total--;
	free(file);
	expect(total > offset && total < offset + bytes, "the file is not as it was wanted");
	/* zlib may end with a byte of zeroes; they are there behind the end. */
	expect(!memfile_truncate(d.filp, total), "truncate");
	read_part(&d, &c, last, 0, d.cluster);
	expect(!memfile_truncate(d.filp, offset), "truncate");
	qcow2_compress_forget(d.img, offset, bytes);
	expect_error(&d, &c, last);
	expect(strstr(shim_log(), "behind the end of the file"), "the log does not say why");
	end(&d, &c);
}

/*
 * Freed clusters.
 */

static void freed_cluster_is_forgotten(const struct shape *shape)
{
	struct clusters c;
	struct disk d = {};
	size_t bytes, other;
	u64 offset, start;

	begin(&d, &c, shape);
	read_part(&d, &c, 0, 0, 10);
	read_part(&d, &c, 1, 0, 10);
	expect(d.img->compress.loads == 2, "%llu loads", d.img->compress.loads);
	range_of(&d, c.word[1], &offset, &bytes);
	qcow2_compress_forget(d.img, offset + bytes, 512);
	qcow2_compress_forget(d.img, offset - 1, 1);
	range_of(&d, c.word[0], &start, &other);
	/* They may share a sector. */
	if (start + other <= offset - 1) {
		read_part(&d, &c, 1, 0, 10);
		expect(d.img->compress.loads == 2, "what is not freed is gone");
	}
	qcow2_compress_forget(d.img, offset + bytes - 1, 1);
	read_part(&d, &c, 1, 0, 10);
	qcow2_compress_forget(d.img, 0, offset + 1);
	read_part(&d, &c, 1, 0, 10);
	expect(d.img->compress.loads >= 4, "%llu loads", d.img->compress.loads);
	end(&d, &c);
}

/* By the release of its host clusters, which only comes when all have gone. */
static void overwritten_cluster_is_forgotten(const struct shape *shape)
{
	unsigned char *buf;
	struct clusters c;
	struct disk d = {};
	unsigned int i;
	u64 before;

	begin(&d, &c, shape);
	buf = must(malloc(d.cluster));
	read_part(&d, &c, 1, 0, 10);
	for (i = 0; i < c.nr; i++)
		write_new(&d, c.guest[i], min(d.cluster, d.bytes - c.guest[i]));
	settle(&d);
	before = d.img->compress.loads;
	/* Other data by now, or none. */
	read_into(&d, c.word[1], 0, buf, d.cluster);
	expect(d.img->compress.loads == before + 1, "it is still there");
	free(buf);
	detach_and_look(&d);
	destroy(&d);
	free(c.guest);
	free(c.word);
}

/*
 * Codecs, on streams that QEMU did not make.
 */

struct stream {
	unsigned char bytes[64 << 10];
	size_t length;
};

static const struct qcow2_codec *codec_of(const struct shape *shape)
{
	return shape->base.zstd ? &qcow2_codec_zstd : &qcow2_codec_zlib;
}

static int decompress(const struct shape *shape, const void *src,
		      size_t src_bytes, void *dst, size_t dst_bytes)
{
	const struct qcow2_codec *codec = codec_of(shape);
	void *copy = must(malloc(src_bytes + 1));	/* ASan sees its end */
	void *workspace = must(malloc(codec->workspace_bytes()));
	int error;

	memcpy(copy, src, src_bytes);
	error = codec->decompress(workspace, copy, src_bytes, dst, dst_bytes);
	free(workspace);
	free(copy);
	return error;
}

static void add_zlib(struct stream *s, const void *data, size_t bytes)
{
	z_stream z = {
		.next_in = (unsigned char *)data,
		.avail_in = bytes,
		.next_out = s->bytes + s->length,
		.avail_out = sizeof(s->bytes) - s->length,
	};

	/* With the largest window, which QEMU would not write but reads. */
	expect(deflateInit2(&z, 9, Z_DEFLATED, -15, 9, 0) == Z_OK &&
	       deflate(&z, Z_FINISH) == Z_STREAM_END, "deflate");
	deflateEnd(&z);
	s->length = sizeof(s->bytes) - z.avail_out;
}

/* With a checksum, and with the length in the frame or not. */
static void add_zstd(struct stream *s, const void *data, size_t bytes,
		     bool sized)
{
	ZSTD_CCtx *cctx = ZSTD_createCCtx();
	size_t n;

	ZSTD_CCtx_setParameter(cctx, ZSTD_c_checksumFlag, 1);
	ZSTD_CCtx_setParameter(cctx, ZSTD_c_contentSizeFlag, sized);
	ZSTD_CCtx_setParameter(cctx, ZSTD_c_windowLog, 24);
	n = ZSTD_compress2(cctx, s->bytes + s->length,
			   sizeof(s->bytes) - s->length, data, bytes);
	expect(!ZSTD_isError(n), "ZSTD_compress2");
	s->length += n;
	ZSTD_freeCCtx(cctx);
}

static void add(const struct shape *shape, struct stream *s, const void *data,
		size_t bytes)
{
	if (shape->base.zstd)
		add_zstd(s, data, bytes, true);
	else
		add_zlib(s, data, bytes);
}

/* Of 48 KiB, the end of which is a copy of the start. */
#define TEXT_BYTES	(48 * K)

static unsigned char *some_text(void)
{
	unsigned char *text = must(malloc(TEXT_BYTES));
	struct shim_random r = { .state = 1 };
	unsigned int i;

	for (i = 0; i < TEXT_BYTES; i++)
		text[i] = i < 32000 ? 'a' + shim_below(&r, 16) :
				      text[i - 32000];
	return text;
}

static void stream_must_have_the_right_length(const struct shape *shape)
{
	unsigned char *text = some_text();
	unsigned char *got = must(malloc(TEXT_BYTES + GUARD));
	struct stream s = {};
	size_t n;

	add(shape, &s, text, TEXT_BYTES);
	expect(!decompress(shape, s.bytes, s.length, got, TEXT_BYTES) &&
	       !memcmp(got, text, TEXT_BYTES), "the stream itself");
	expect(!decompress(shape, s.bytes, s.length + 500, got, TEXT_BYTES),
	       "with something behind it");
	memset(got, 1, TEXT_BYTES + GUARD);
	/* QEMU reads those of zlib. */
	expect(decompress(shape, s.bytes, s.length, got, TEXT_BYTES - 1) ==
	       (shape->base.zstd ? -EIO : 0), "longer than a cluster");
	for (n = 0; n < GUARD; n++)
		expect(got[TEXT_BYTES - 1 + n] == 1, "written behind the end");
	expect(decompress(shape, s.bytes, s.length, got, TEXT_BYTES + 1) == -EIO,
	       "shorter than a cluster");
	/* A zlib stream may lack its end, but nothing of the cluster. */
	for (n = 0; n < s.length; n++) {
		memset(got, 0, TEXT_BYTES);
		if (decompress(shape, s.bytes, n, got, TEXT_BYTES))
			continue;
		expect(!shape->base.zstd && n > s.length - 4 &&
		       !memcmp(got, text, TEXT_BYTES),
		       "only %zu bytes of %zu", n, s.length);
	}
	free(text);
	free(got);
}

/* A cluster of nothing but zeroes takes the least that a stream can. */
/* A stored block that fills the cluster, and one of a type that there is not. */
static void damage_behind_the_last_byte_is_damage(const struct shape *shape)
{
	unsigned char stream[5 + 512 + 1] = { 0, 0, 2, 0xff, 0xfd };
	unsigned char got[512];

	stream[5 + 512] = 7;
	expect(!decompress(shape, stream, 5 + 512, got, 512),
	       "without what is behind it");
	expect(decompress(shape, stream, sizeof(stream), got, 512) == -EIO &&
	       !qcodec_decompress(false, stream, sizeof(stream), got, 512),
	       "with what is behind it");
}

static void short_streams_can_be_long_clusters(const struct shape *shape)
{
	size_t bytes = 2 << 20;
	unsigned char *zeroes = must(calloc(1, bytes));
	unsigned char *got = must(malloc(bytes));
	struct stream s = {};

	add(shape, &s, zeroes, bytes);
	expect(!decompress(shape, s.bytes, s.length, got, bytes) &&
	       !memcmp(got, zeroes, bytes), "2 MiB of zeroes");
	expect(decompress(shape, s.bytes, s.length, got, 65536) ==
	       (shape->base.zstd ? -EIO : 0), "in a cluster of 64 KiB");
	free(zeroes);
	free(got);
}

static void add_skippable(struct stream *s, unsigned int bytes)
{
	static const unsigned char magic[4] = { 0x50, 0x2a, 0x4d, 0x18 };
	unsigned char length[4] = { bytes, bytes >> 8 };

	memcpy(s->bytes + s->length, magic, 4);
	memcpy(s->bytes + s->length + 4, length, 4);
	s->length += 8 + bytes;
}

static void cluster_may_be_several_frames(const struct shape *shape)
{
	unsigned char *text = some_text();
	unsigned char *got = must(malloc(TEXT_BYTES));
	struct stream s = {};

	add_zstd(&s, text, 10000, false);
	add_skippable(&s, 100);
	add_zstd(&s, text, 0, true);
	add_zstd(&s, text + 10000, 20000, true);
	add_zstd(&s, text + 30000, TEXT_BYTES - 30000, false);
	expect(qcodec_decompress(true, s.bytes, s.length, got, TEXT_BYTES),
	       "QEMU does not read it");
	memset(got, 0, TEXT_BYTES);
	expect(!decompress(shape, s.bytes, s.length, got, TEXT_BYTES) &&
	       !memcmp(got, text, TEXT_BYTES), "five frames");
	expect(!decompress(shape, s.bytes, s.length + 512, got, TEXT_BYTES),
	       "with something behind them");
	expect(decompress(shape, s.bytes, s.length, got, TEXT_BYTES - 1) == -EIO,
	       "the last one longer than the cluster");
	expect(decompress(shape, s.bytes, s.length, got, TEXT_BYTES + 1) == -EIO,
	       "one too few");
	s.bytes[s.length - 1] ^= 1;
	expect(decompress(shape, s.bytes, s.length, got, TEXT_BYTES) == -EIO,
	       "a wrong checksum");
	free(text);
	free(got);
}

/* Frames that make nothing, as many as fit. */
static void empty_frames_come_to_an_end(const struct shape *shape)
{
	struct stream s = {};
	unsigned char got[512];

	while (s.length + 8 <= sizeof(s.bytes))
		add_skippable(&s, 0);
	expect(decompress(shape, s.bytes, s.length, got, sizeof(got)) == -EIO,
	       "skippable frames");
	s.length = 0;
	while (s.length + 64 <= sizeof(s.bytes))
		add_zstd(&s, "", 0, true);
	expect(decompress(shape, s.bytes, s.length, got, sizeof(got)) == -EIO,
	       "empty frames");
}

/* What the codec takes QEMU takes too, and makes the same of it. */
static void random_streams_are_read_like_qemu(const struct shape *shape)
{
	unsigned char *want = must(malloc(TEXT_BYTES));
	unsigned char *got = must(malloc(TEXT_BYTES));
	unsigned char *text = some_text();
	struct shim_random r = { .state = 1 };
	struct stream s = {}, t;
	unsigned int i, n;
	bool ok;

	add(shape, &s, text, TEXT_BYTES);
	for (i = 0; i < 3000; i++) {
		t = s;
		for (n = 1 + shim_below(&r, 3); n; n--)
			t.bytes[shim_below(&r, s.length)] ^=
				1 << shim_below(&r, 8);
		ok = qcodec_decompress(shape->base.zstd, t.bytes, t.length,
				       want, TEXT_BYTES);
		if (decompress(shape, t.bytes, t.length, got, TEXT_BYTES))
			expect(!ok, "round %u: QEMU reads it", i);
		else
			expect(ok && !memcmp(got, want, TEXT_BYTES),
			       "round %u: QEMU reads something else", i);
	}
	free(want);
	free(got);
	free(text);
}

static const struct shape zstd_codec[] = {
	{ "zstd", { .zstd = true } }, {}
};

static const struct shape zlib_codec[] = {
	{ "zlib", {} }, {}
};

static const struct shape codecs[] = {
	{ "zlib", {} }, { "zstd", { .zstd = true } }, {}
};

static const struct test_case cases[] = {
	TEST_CASE(every_part_is_what_qemu_reads, shapes),
	TEST_CASE(direct_io_has_larger_blocks, direct_shapes),
	TEST_CASE(parts_of_one_cluster_cost_one_transfer, shapes),
	TEST_CASE(coldest_cluster_goes, two_shapes),
	TEST_CASE(memory_is_bounded_and_taken_late, shapes),
	TEST_CASE(many_read_at_once, shapes),
	TEST_CASE(one_cluster_is_decompressed_once, two_shapes),
	TEST_CASE(slow_cluster_stops_nobody, two_shapes),
	TEST_CASE(reads_go_on_without_memory, shapes),
	TEST_CASE(reads_without_memory_have_larger_blocks, direct_shapes),
	TEST_CASE(all_notice_that_there_is_no_memory, two_shapes),
	TEST_CASE(two_images_are_rescued_at_once, two_shapes),
	TEST_CASE(reads_go_on_with_little_memory, shapes),
	TEST_CASE(reads_go_on_without_a_job, direct_shapes),
	TEST_CASE(slow_rescue_stops_no_other_image, two_shapes),
	TEST_CASE(reserve_is_enough_for_all_images, direct_shapes),
	TEST_CASE(reserve_is_there_once, two_shapes),
	TEST_CASE(failed_rescue_is_an_error_of_its_cluster, two_shapes),
	TEST_CASE(memory_comes_and_goes, shapes),
	TEST_CASE(system_gets_its_memory_back, shapes),
	TEST_CASE(damaged_stream_is_an_error_of_its_cluster, shapes),
	TEST_CASE(failed_transfer_is_told_to_all, two_shapes),
	TEST_CASE(random_damage_is_never_worse, shapes),
	TEST_CASE(random_entries_do_no_harm, shapes),
	TEST_CASE(file_may_end_with_the_stream, shapes),
	TEST_CASE(freed_cluster_is_forgotten, shapes),
	TEST_CASE(overwritten_cluster_is_forgotten, two_shapes),
	TEST_CASE(stream_must_have_the_right_length, codecs),
	TEST_CASE(damage_behind_the_last_byte_is_damage, zlib_codec),
	TEST_CASE(short_streams_can_be_long_clusters, codecs),
	TEST_CASE(cluster_may_be_several_frames, zstd_codec),
	TEST_CASE(empty_frames_come_to_an_end, zstd_codec),
	TEST_CASE(random_streams_are_read_like_qemu, codecs),
};

int main(int argc, char **argv)
{
	return run_cases("compressed", cases, ARRAY_SIZE(cases), argc, argv);
}
