// SPDX-License-Identifier: GPL-2.0-only
/*
 * Backing chains step by step: who shares which layer, what is left of a chain
 * that could not be opened, what an error in a layer does, what is remembered of
 * a search, and what a discard may not show.
 *
 * The images are composed here, one cluster at a time.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/rcupdate.h>
#include <linux/shrinker.h>
#include <linux/unaligned.h>

#include "cases.h"

#define COPIED		(1ULL << 63)
#define MAX_IMAGES	10
#define HEADER_V3	112

static const struct shape once[] = {
	{ .text = "64 KiB", .base = { .cluster_bits = 16, .version = 3 } },
	{}
};

static const struct shape shapes[] = {
	{ .text = "512 B", .base = { .cluster_bits = 9, .version = 3 } },
	{ .text = "4 KiB", .base = { .cluster_bits = 12, .version = 3 } },
	{ .text = "64 KiB", .base = { .cluster_bits = 16, .version = 3 } },
	{ .text = "64 KiB with subclusters",
	  .base = { .cluster_bits = 16, .version = 3, .extl2 = true } },
	{ .text = "2 MiB", .base = { .cluster_bits = 21, .version = 3 } },
	{}
};

static const struct shape version_2[] = {
	{ .text = "4 KiB", .base = { .cluster_bits = 12, .version = 2 } },
	{ .text = "64 KiB", .base = { .cluster_bits = 16, .version = 2 } },
	{}
};

/*
 * Composing an image: header, refcount table, a refcount block, L1 table, L2
 * tables, data.
 */

/**
 * struct sketch - an image
 * @base: its cluster size, version, and whether it has subclusters
 * @map: a letter for each of its first clusters: 'd' for data, 'z' for zeroes,
 *	anything else for nothing; NULL for a raw file, all of which is data
 * @bytes: its size; 0: that of the clusters in @map
 * @bottom: it names no backing file
 */
struct sketch {
	struct base_options base;
	const char *map;
	u64 bytes;
	bool bottom;
};

/* The sector at @offset as image @i has it. */
static void fill_data(unsigned int i, u64 offset, void *to, u64 bytes)
{
	u64 pos;

	for (pos = 0; pos < bytes; pos += WL_SECTOR)
		wl_fill_sector(SEED, 1000 + i, (offset + pos) / WL_SECTOR,
			       to + pos);
}

static void store_header(struct file *filp, const struct sketch *s, u64 bytes,
			 u32 l1_entries)
{
	u32 version = s->base.version, bits = s->base.cluster_bits;
	unsigned char h[HEADER_V3 + 16] = {};

	memcpy(h, "QFI\xfb", 4);
	put_unaligned_be32(version, h + 4);
	if (!s->bottom) {
		put_unaligned_be64(HEADER_V3 + 8, h + 8);
		put_unaligned_be32(1, h + 16);
		h[HEADER_V3 + 8] = 'b';
	}
	put_unaligned_be32(bits, h + 20);
	put_unaligned_be64(bytes, h + 24);
	put_unaligned_be32(l1_entries, h + 36);
	put_unaligned_be64(3ULL << bits, h + 40);
	put_unaligned_be64(1ULL << bits, h + 48);
	put_unaligned_be32(1, h + 56);
	if (version == 3) {
		put_unaligned_be64(s->base.extl2 ? 1 << 4 : 0, h + 72);
		put_unaligned_be32(4, h + 96);
		put_unaligned_be32(HEADER_V3, h + 100);
	}
	memfile_store(filp, 0, h, sizeof(h));
}

static void store_be64(struct file *filp, u64 offset, u64 value)
{
	unsigned char be[8];

	put_unaligned_be64(value, be);
	memfile_store(filp, offset, be, sizeof(be));
}

/* The L2 entry at @at for letter @what, with data of image @i at cluster @to. */
static bool store_cluster(struct file *filp, const struct sketch *s, u64 at,
			  char what, unsigned int i, u64 guest, u64 to)
{
	u64 cluster = 1ULL << s->base.cluster_bits;
	unsigned char *data;

	if (what == 'z' && s->base.extl2)
		store_be64(filp, at + 8, ~0ULL << 32);
	else if (what == 'z')
		store_be64(filp, at, 1);
	if (what != 'd')
		return false;
	store_be64(filp, at, to | COPIED);
	if (s->base.extl2)
		store_be64(filp, at + 8, 0xffffffff);
	data = must(malloc(cluster));
	fill_data(i, guest, data, cluster);
	memfile_store(filp, to, data, cluster);
	free(data);
	return true;
}

static void compose(struct file *filp, const struct sketch *s, u64 bytes,
		    unsigned int i)
{
	u32 bits = s->base.cluster_bits, entry = s->base.extl2 ? 16 : 8;
	u64 cluster = 1ULL << bits, per_table = cluster / entry;
	u64 clusters = (bytes + cluster - 1) >> bits;
	u32 l1_entries = max((clusters + per_table - 1) / per_table, 1ULL);
	u64 next = 3 + (l1_entries * 8ULL + cluster - 1) / cluster, table = 0;
	u64 n, nr = strlen(s->map);

	store_header(filp, s, bytes, l1_entries);
	for (n = 0; n < nr; n++) {
		if (!(n % per_table)) {
			table = next++;
			store_be64(filp, (3ULL << bits) + n / per_table * 8,
				   table << bits | COPIED);
		}
		next += store_cluster(filp, s, (table << bits) +
				      n % per_table * entry, s->map[n], i,
				      n << bits, next << bits);
	}
	store_be64(filp, 1ULL << bits, 2ULL << bits);
	/* One block: with more clusters the image is good for reading only. */
	for (n = 0; n < next && n < cluster / 2; n++) {
		static const unsigned char one[2] = { 0, 1 };

		memfile_store(filp, (2ULL << bits) + 2 * n, one, 2);
	}
	/* As long as it is. */
	expect(!memfile_truncate(filp, max(next << bits, memfile_bytes(filp))),
	       "the file cannot be made longer");
}

/**
 * struct stack - images that lie on each other, the first is the uppermost
 * @nr: number of them
 * @sketches: what they are
 * @files: their files
 */
struct stack {
	unsigned int nr;
	struct sketch sketches[MAX_IMAGES];
	struct file *files[MAX_IMAGES];
};

static u64 bytes_of(const struct sketch *s)
{
	return s->bytes ?: (u64)strlen(s->map) << s->base.cluster_bits;
}

static void make_stack(struct stack *st)
{
	const struct memfile_options options = {};
	unsigned int i;

	shim_set_delay(SHIM_DELAY_NEVER);
	for (i = 0; i < st->nr; i++) {
		const struct sketch *s = &st->sketches[i];
		u64 bytes = bytes_of(s);

		st->files[i] = memfile_create(&options);
		if (!s->map) {
			unsigned char *data = must(malloc(round_up(bytes, 512)));

			fill_data(i, 0, data, bytes);
			memfile_store(st->files[i], 0, data, bytes);
			free(data);
			continue;
		}
		compose(st->files[i], s, bytes, i);
	}
}

static void destroy_stack(struct stack *st)
{
	unsigned int i;

	for (i = 0; i < st->nr; i++)
		memfile_destroy(st->files[i]);
}

/* What a disk that begins with image @first holds. */
static void read_sketches(const struct stack *st, unsigned int first,
			  unsigned char *content, u64 bytes)
{
	unsigned int i;
	u64 pos;

	memset(content, 0, bytes);
	for (pos = 0; pos < bytes; pos += WL_SECTOR)
		for (i = first; i < st->nr; i++) {
			const struct sketch *s = &st->sketches[i];
			u64 n = pos >> s->base.cluster_bits;
			char what = !s->map ? 'd' : n < strlen(s->map) ?
				    s->map[n] : '.';

			if (pos >= bytes_of(s) || what == 'z')
				break;
			if (what != 'd')
				continue;
			fill_data(i, pos, content + pos, WL_SECTOR);
			break;
		}
}

static struct qcow2_image *get_layer(const struct stack *st, unsigned int i,
				     struct qcow2_reason *why)
{
	const struct qcow2_layer_spec spec = {
		.filp = st->files[i],
		.name = "layer",
		.raw = !st->sketches[i].map,
	};

	return qcow2_layer_get(&spec, why);
}

/* The image @first on all that is beneath it, or a view of it. */
static struct qcow2_image *try_open(const struct stack *st, unsigned int first,
				    bool view, struct qcow2_reason *why)
{
	struct qcow2_image *layers[MAX_IMAGES], *img = NULL;
	struct qcow2_options options = { .layers = layers };
	unsigned int i;

	if (!view)
		options.file_flags = QCOW2_FILE_WRITABLE;
	for (i = first + !view; i < st->nr; i++) {
		struct qcow2_image *layer = get_layer(st, i, why);

		if (IS_ERR(layer)) {
			img = layer;
			break;
		}
		layers[options.nr_layers++] = layer;
	}
	if (!img && view)
		img = qcow2_view_open("view", &options, why);
	else if (!img)
		img = qcow2_image_open(st->files[first], "test", &options, why);
	if (IS_ERR(img))
		while (options.nr_layers)
			qcow2_layer_put(layers[--options.nr_layers]);
	return img;
}

/* As a disk, with what it must hold. */
static void open_disk(struct disk *d, const struct stack *st,
		      unsigned int first, bool view)
{
	struct qcow2_reason why = {};

	d->img = try_open(st, first, view, &why);
	expect(!IS_ERR(d->img), "open: %s (%ld)", why.text, PTR_ERR(d->img));
	d->filp = st->files[first];
	d->cluster = d->img->geo.cluster_bytes;
	d->bytes = d->img->geo.virtual_bytes;
	d->content = must(malloc(d->bytes));
	read_sketches(st, first, d->content, d->bytes);
}

static void close_disk(struct disk *d)
{
	int error = detach(d);

	expect(!error, "close: %d", error);
	free(d->content);
}

static void read_all(struct disk *d)
{
	u64 pos;

	for (pos = 0; pos < d->bytes; pos += SZ_1M)
		read_back(d, pos, min(d->bytes - pos, (u64)SZ_1M));
}

static u64 loads_of(const struct qcow2_image *img)
{
	u64 sum = 0;
	u32 i;

	for (i = 0; i < img->chain->nr; i++)
		sum += img->chain->layers[i]->cache.loads;
	return sum;
}

/* Image 0 and 1 lie on 2, 2 on 3 and 3 on a raw file. */
static struct stack common(const struct shape *shape)
{
	return (struct stack) {
		.nr = 5,
		.sketches = {
			{ .base = shape->base, .map = ".d......" },
			{ .base = shape->base, .map = "..z....." },
			{ .base = { .cluster_bits = 12, .version = 3 },
			  .map = "..d..z.d.dzd...d" },
			{ .base = { .cluster_bits = 9, .version = 3 },
			  .map = "dddzz..dddd.....zzz.d.d.d.d.d",
			  .bytes = 40960 },
			{ .bytes = 5 * 4096 + 1536 },
		},
	};
}

/*
 * Sharing.
 */

static void layers_are_shared(const struct shape *shape)
{
	struct stack st = common(shape);
	static const unsigned int orders[6][3] = {
		{ 0, 1, 2 }, { 0, 2, 1 }, { 1, 0, 2 },
		{ 1, 2, 0 }, { 2, 0, 1 }, { 2, 1, 0 },
	};
	unsigned int order, i, j;

	make_stack(&st);
	for (order = 0; order < 6; order++) {
		long long live = shim_live_allocations();
		struct disk d[3] = {};
		u64 loads;

		open_disk(&d[0], &st, 1, false);
		read_all(&d[0]);
		loads = loads_of(d[0].img);
		open_disk(&d[1], &st, 1, true);
		open_disk(&d[2], &st, 2, true);
		expect(d[1].img->chain->layers[1] == d[0].img->chain->layers[0],
		       "a layer is there twice");
		expect(d[2].img->chain->layers[0] == d[0].img->chain->layers[0],
		       "the layer that is shown is there twice");
		read_all(&d[1]);
		read_all(&d[2]);
		expect(loads_of(d[0].img) == loads,
		       "metadata of shared layers was read again");
		for (i = 0; i < 3; i++) {
			close_disk(&d[orders[order][i]]);
			for (j = i + 1; j < 3; j++)
				read_all(&d[orders[order][j]]);
		}
		rcu_barrier();
		expect(shim_live_allocations() == live,
		       "%lld allocations are left",
		       shim_live_allocations() - live);
	}
	destroy_stack(&st);
}

/* The same file is another layer if it is read in another way. */
static void ways_are_told_apart(const struct shape *shape)
{
	struct stack st = common(shape);
	struct qcow2_layer_spec spec = { .name = "layer" };
	struct qcow2_image *layers[4];
	struct qcow2_reason why = {};
	unsigned int i, j;

	make_stack(&st);
	spec.filp = st.files[2];
	for (i = 0; i < 4; i++) {
		spec.raw = i & 1;
		spec.direct = i & 2;
		layers[i] = qcow2_layer_get(&spec, &why);
		expect(!IS_ERR(layers[i]), "layer: %s", why.text);
		for (j = 0; j < i; j++)
			expect(layers[i] != layers[j], "%u is %u", i, j);
		expect(qcow2_layer_get(&spec, &why) == layers[i],
		       "%u is not shared", i);
		qcow2_layer_put(layers[i]);
	}
	while (i--)
		qcow2_layer_put(layers[i]);
	destroy_stack(&st);
}

/**
 * struct visitor - a thread that opens, reads and closes
 * @st: what it opens
 * @number: its number
 * @thread: the thread
 */
struct visitor {
	const struct stack *st;
	unsigned int number;
	pthread_t thread;
};

static void *visit(void *arg)
{
	struct visitor *v = arg;
	struct shim_random r = { .state = v->number };
	unsigned int i;

	for (i = 0; i < 40; i++) {
		unsigned int first = 1 + shim_below(&r, 3);
		struct disk d = {};

		open_disk(&d, v->st, first, true);
		read_back(&d, 0, min(d.bytes, 16384ULL));
		close_disk(&d);
	}
	return NULL;
}

/* Many open and close the same layers at the same time. */
static void layers_come_and_go(const struct shape *shape)
{
	struct stack st = common(shape);
	struct visitor visitors[4];
	long long live;
	unsigned int i;

	make_stack(&st);
	live = shim_live_allocations();
	for (i = 0; i < ARRAY_SIZE(visitors); i++) {
		visitors[i] = (struct visitor) { .st = &st, .number = i };
		expect(!pthread_create(&visitors[i].thread, NULL, visit,
				       &visitors[i]), "no thread");
	}
	for (i = 0; i < ARRAY_SIZE(visitors); i++)
		pthread_join(visitors[i].thread, NULL);
	rcu_barrier();
	expect(shim_live_allocations() == live, "%lld allocations are left",
	       shim_live_allocations() - live);
	destroy_stack(&st);
}

/*
 * Chains that cannot be opened.
 */

static void expect_refusal(const struct stack *st, bool view, int error,
			   const char *text)
{
	long long live = shim_live_allocations();
	struct qcow2_reason why = {};
	struct qcow2_image *img = try_open(st, 0, view, &why);

	expect(IS_ERR(img), "it was opened, wanted: %s", text);
	expect(PTR_ERR(img) == error, "%ld, wanted %d: %s", PTR_ERR(img), error,
	       why.text);
	expect(strstr(why.text, text), "said: %s, wanted: %s", why.text, text);
	rcu_barrier();
	expect(shim_live_allocations() == live, "%lld allocations are left: %s",
	       shim_live_allocations() - live, text);
}

static void bad_layer_leaves_nothing(const struct shape *shape)
{
	struct stack st = common(shape);
	struct disk d = {};
	unsigned int i;
	char magic[4];

	make_stack(&st);
	for (i = 2; i < 4; i++) {
		memfile_fetch(st.files[i], 0, magic, 4);
		memfile_store(st.files[i], 0, "QFI", 4);
		expect_refusal(&st, false, -EUCLEAN, "not a qcow2 image");
		expect_refusal(&st, true, -EUCLEAN, "not a qcow2 image");
		memfile_store(st.files[i], 0, magic, 4);
	}
	open_disk(&d, &st, 1, false);
	read_all(&d);
	close_disk(&d);
	destroy_stack(&st);
}

static void chains_are_checked(const struct shape *shape)
{
	struct stack st = common(shape);
	struct file *raw;

	make_stack(&st);
	/* Without what it lies on. */
	st.nr = 1;
	expect_refusal(&st, false, -EINVAL, "names a backing file, which");
	expect_refusal(&st, true, -EINVAL, "names a backing file, which");
	st.nr = 3;
	expect_refusal(&st, false, -EINVAL, "names a backing file, which");
	st.nr = 5;
	/* A raw file in the middle. */
	raw = st.files[3];
	st.sketches[3].map = NULL;
	expect_refusal(&st, false, -EINVAL, "is raw, but");
	destroy_stack(&st);

	/* On something although it names nothing. */
	st = common(shape);
	st.sketches[3].bottom = true;
	make_stack(&st);
	expect_refusal(&st, false, -EINVAL, "names no backing file, but");
	expect_refusal(&st, true, -EINVAL, "names no backing file, but");
	destroy_stack(&st);
	(void)raw;
}

/* What the coarsest file of a chain cannot do. */
static void blocks_are_checked(const struct shape *shape)
{
	const struct memfile_options coarse = { .align = 4096 };
	struct stack st = common(shape);
	unsigned char *data;
	size_t bytes;

	make_stack(&st);
	data = memfile_flatten(st.files[4], &bytes);
	memfile_destroy(st.files[4]);
	st.files[4] = memfile_create(&coarse);
	memfile_load_buf(st.files[4], data, bytes);
	free(data);
	/* Layer 3 has clusters of 512 bytes. */
	expect_refusal(&st, false, -EOPNOTSUPP, "needs blocks of 4096 bytes");
	expect_refusal(&st, true, -EOPNOTSUPP, "needs blocks of 4096 bytes");
	destroy_stack(&st);
}

/* The block layer lets writes through to a disk that is read-only. */
static void views_are_not_written(const struct shape *shape)
{
	struct stack st = common(shape);
	struct disk d = { .options.nowait = MEMFILE_NOWAIT_ALWAYS };
	unsigned int i;

	make_stack(&st);
	open_disk(&d, &st, 1, true);
	for (i = 0; i < d.bytes / d.cluster; i++) {
		int error = try_write(&d, i * d.cluster, 512);

		expect(error == -EROFS, "write to cluster %u: %d", i, error);
	}
	read_all(&d);
	close_disk(&d);
	destroy_stack(&st);
}

/* Each allocation in turn. */
static void open_without_memory(const struct shape *shape)
{
	struct stack st = common(shape);
	unsigned int n, failed = 0;
	int view;

	make_stack(&st);
	for (view = 0; view < 2; view++)
		for (n = 0;; n++) {
			long long live = shim_live_allocations();
			u64 before = shim_failed_allocations();
			struct qcow2_reason why = {};
			struct qcow2_image *img;
			bool struck;

			shim_fail_nth_allocation(n, 1);
			img = try_open(&st, 1, view, &why);
			struck = shim_failed_allocations() != before;
			shim_fail_nth_allocation(U64_MAX, 1);
			if (IS_ERR(img)) {
				failed++;
				expect(struck && PTR_ERR(img) == -ENOMEM,
				       "allocation %u: %ld, %s", n,
				       PTR_ERR(img), why.text);
			} else {
				expect(!qcow2_image_close(img), "close");
			}
			rcu_barrier();
			expect(shim_live_allocations() == live,
			       "allocation %u: %lld allocations are left", n,
			       shim_live_allocations() - live);
			if (!struck)
				break;
		}
	expect(failed > 20, "only %u times no memory", failed);
	destroy_stack(&st);
}

/*
 * Errors of layers.
 */

static void fail_read(struct file *filp, u64 n)
{
	const struct memfile_fault fault = {
		.ops = 1U << MEMFILE_READ,
		.skip = n,
		.times = 1,
		.error = -EIO,
	};

	memfile_fault(filp, &fault);
}

/*
 * Each read of a layer fails in turn: the guest's read that it was for may fail,
 * and no other. A search that fails ahead of what is asked for may go unnoticed.
 */
static void read_errors(const struct shape *shape)
{
	struct stack st = common(shape);
	unsigned int i, failed = 0;
	u64 n, pos;

	make_stack(&st);
	for (i = 2; i < st.nr; i++)
		for (n = 0;; n++) {
			struct disk d = {};
			bool struck;

			open_disk(&d, &st, 1, false);
			fail_read(st.files[i], n);
			for (pos = 0; pos < d.bytes && pos < SZ_64K;
			     pos += 2048) {
				u64 before = memfile_faults(st.files[i]);
				u64 bytes = min(d.bytes - pos, 2048ULL);
				int error = try_read(&d, pos, bytes);

				struck = memfile_faults(st.files[i]) != before;
				expect(!error || (struck && error == -EIO),
				       "read at %llu: %d", pos, error);
				failed += !!error;
				if (struck)
					read_back(&d, pos, bytes);
			}
			struck = memfile_faults(st.files[i]);
			memfile_fault(st.files[i], NULL);
			expect(!qcow2_image_needs_check(d.img),
			       "the image has failed");
			close_disk(&d);
			if (!struck)
				break;
		}
	expect(failed > 2, "only %u errors", failed);
	destroy_stack(&st);
}

/* A layer that cannot be read at all: what others have is there all the same. */
static void lost_layer(const struct shape *shape)
{
	struct stack st = common(shape);
	unsigned int i;

	for (i = 2; i < 5; i++) {
		const struct memfile_fault fault = {
			.ops = 1U << MEMFILE_READ,
			.error = -EIO,
		};
		struct disk d = {};
		u64 pos, failed = 0, good = 0;
		int error;

		make_stack(&st);
		open_disk(&d, &st, 1, false);
		write_new(&d, d.bytes - 512, 512);
		memfile_fault(st.files[i], &fault);
		for (pos = 0; pos < min(d.bytes, (u64)SZ_64K); pos += 512) {
			error = try_read(&d, pos, 512);
			expect(!error || error == -EIO, "read: %d", error);
			failed += !!error;
			good += !error;
		}
		read_back(&d, d.bytes - 512, 512);
		read_back(&d, 2 * d.cluster, d.cluster);
		expect(good || d.cluster > 4096, "nothing could be read");
		/* With smaller clusters the image hides much of them. */
		expect(failed || d.cluster <= 4096, "nothing failed");
		expect(!qcow2_image_needs_check(d.img), "the image has failed");
		memfile_fault(st.files[i], NULL);
		read_all(&d);
		close_disk(&d);
		destroy_stack(&st);
	}
}

/* Each read fails in turn while a write copies: nothing has changed then. */
static void copy_errors(const struct shape *shape)
{
	unsigned int i, failed = 0;
	u64 n;

	for (i = 2; i < 5; i++)
		for (n = 0;; n++) {
			struct stack st = common(shape);
			struct disk d = {};
			u64 at = shape->base.cluster_bits > 12 ? 2560 : 512;
			bool struck;
			int error;

			make_stack(&st);
			open_disk(&d, &st, 1, false);
			fail_read(st.files[i], n);
			error = try_write(&d, at, 512);
			struck = memfile_faults(st.files[i]);
			memfile_fault(st.files[i], NULL);
			expect(!error || (struck && error == -EIO), "write: %d",
			       error);
			expect(!error || !host_of(&d, at),
			       "the cluster was mapped");
			expect(!qcow2_image_needs_check(d.img),
			       "the image has failed");
			read_all(&d);
			write_new(&d, at, 512);
			read_all(&d);
			close_disk(&d);
			destroy_stack(&st);
			failed += !!error;
			if (!struck)
				break;
		}
	if (shape->base.cluster_bits > 9)
		expect(failed > 2, "only %u errors", failed);
}

/* A damaged entry of a layer: what it stands for cannot be read, all else can. */
static void damaged_layer(const struct shape *shape)
{
	struct stack st = common(shape);
	struct disk d = {}, other = {};
	struct qimg q;
	size_t bytes;
	unsigned char *file;
	u64 entry;

	make_stack(&st);
	file = memfile_flatten(st.files[2], &bytes);
	memset(file + 8, 0, 8);
	expect(!qimg_open(&q, file, bytes), "the layer cannot be opened");
	entry = qimg_l2_entry(&q, 2 * 4096);
	free(file);
	store_be64(st.files[2], entry, 512 | COPIED);	/* not aligned */
	open_disk(&d, &st, 1, false);
	open_disk(&other, &st, 2, true);
	expect(try_read(&other, 2 * 4096, 512), "damage was read");
	if (d.cluster <= 4096)
		read_back(&d, 0, 512);
	if (d.cluster == 4096)
		read_back(&d, 3 * 4096, 4096);
	read_back(&other, 0, 4096);
	read_back(&other, 3 * 4096, 5 * 4096);
	expect(!qcow2_image_needs_check(d.img), "the image has failed too");
	write_new(&d, d.bytes - d.cluster, d.cluster);
	write_new(&d, 0, d.bytes);
	read_all(&d);
	close_disk(&d);
	close_disk(&other);
	expect(!memfile_count(st.files[2], MEMFILE_WRITE), "the layer was written");
	destroy_stack(&st);
}

/* A layer ends inside of a cluster, behind which is data all the same. */
static void layer_ends_in_a_cluster(const struct shape *shape)
{
	struct stack st = common(shape);
	struct disk d = {};

	st.sketches[2].map = "dddddd";
	st.sketches[2].bytes = 5 * 4096 + 512;
	make_stack(&st);
	open_disk(&d, &st, 1, false);
	read_all(&d);
	write_new(&d, 0, 512);
	read_all(&d);
	close_disk(&d);
	open_disk(&d, &st, 2, true);
	read_all(&d);
	close_disk(&d);
	destroy_stack(&st);
}

/*
 * What is remembered.
 */

/* Layers lose what they had in memory. */
static void forget_tables(struct qcow2_image **layers, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		qcow2_cache_set_max(layers[i], 0);
	shim_shrink(1000);
	shim_shrink(1000);
	rcu_barrier();
}

/* With the place known, layers above it are not looked at again. */
static void place_is_remembered(const struct shape *shape)
{
	struct stack st = { .nr = 9 };
	struct disk d = {};
	struct qcow2_image **layers;
	unsigned int i, pass;
	u64 loads[MAX_IMAGES];

	for (i = 0; i < st.nr; i++)
		st.sketches[i] = (struct sketch) {
			.base = shape->base,
			.map = i < 6 ? "........" : "d.d.d.d.",
			.bottom = i == 8,
		};
	make_stack(&st);
	open_disk(&d, &st, 0, false);
	layers = d.img->chain->layers;
	for (pass = 0; pass < 2; pass++) {
		for (i = 0; i < 8; i++)
			loads[i] = layers[i]->cache.loads;
		read_back(&d, 4 * d.cluster, d.cluster);
		for (i = 0; i < 8; i++) {
			bool loaded = layers[i]->cache.loads != loads[i];

			expect(loaded == (pass ? i == 5 : i <= 5),
			       "pass %u: layer %u was %slooked at", pass, i,
			       loaded ? "" : "not ");
		}
		read_all(&d);
		forget_tables(layers, 8);
	}
	close_disk(&d);
	destroy_stack(&st);
}

/* With all in memory, a search finds the layers of neighbours too. */
static void neighbours_are_remembered(const struct shape *shape)
{
	struct stack st = { .nr = 9 };
	struct disk d = {};
	struct qcow2_image **layers;
	u64 loads[MAX_IMAGES];
	unsigned int i;

	for (i = 0; i < st.nr; i++)
		st.sketches[i] = (struct sketch) {
			.base = shape->base,
			.map = i < 6 ? "........" : i < 8 ? "d.dzd.d." :
			       "dddddddd",
			.bottom = i == 8,
		};
	make_stack(&st);
	open_disk(&d, &st, 0, false);
	layers = d.img->chain->layers;
	/* A worker reads all tables, and then there is no need for one. */
	read_back(&d, d.cluster, d.cluster);
	read_back(&d, 4 * d.cluster, d.cluster);
	forget_tables(layers, 8);
	for (i = 0; i < 8; i++)
		loads[i] = layers[i]->cache.loads;
	read_back(&d, 6 * d.cluster, d.cluster);
	for (i = 0; i < 8; i++) {
		bool loaded = layers[i]->cache.loads != loads[i];
		/* So large ones are looked for alone. */
		bool alone = d.cluster > SZ_1M;

		expect(loaded == (alone ? i <= 5 : i == 5),
		       "layer %u was %slooked at", i, loaded ? "" : "not ");
	}
	read_all(&d);
	close_disk(&d);
	destroy_stack(&st);
}

/* A cluster is read without a worker. */
static void read_at_once(struct disk *d, u32 nr)
{
	struct op op = { .buf = get_buffer(d->cluster) };

	memset(op.buf, 1, d->cluster);
	start(d, &op, QCOW2_OP_READ, nr * d->cluster, d->cluster);
	expect(is_done(&op), "the read went elsewhere");
	expect(!finish(&op), "the read failed");
	expect(!memcmp(op.buf, d->content + nr * d->cluster, d->cluster),
	       "other data");
	free(op.buf);
}

/* With all in memory, a search in an area where one was before needs no worker. */
static void search_needs_no_worker(const struct shape *shape)
{
	struct stack st = { .nr = 5 };
	struct disk d = {};
	unsigned int i;

	for (i = 0; i < st.nr; i++)
		st.sketches[i] = (struct sketch) {
			.base = shape->base,
			.map = i < 3 ? "........" : "d.....d.",
			.bottom = i == 4,
		};
	make_stack(&st);
	open_disk(&d, &st, 0, false);
	read_back(&d, 2 * d.cluster, d.cluster);
	read_at_once(&d, 4);
	read_all(&d);
	close_disk(&d);
	destroy_stack(&st);
}

/* Nor when neighbours have theirs in layers whose tables nobody has read yet. */
static void neighbours_are_not_in_memory(const struct shape *shape)
{
	struct stack st = { .nr = 5 };
	struct disk d = {};
	unsigned int i;

	for (i = 0; i < st.nr; i++)
		st.sketches[i] = (struct sketch) {
			.base = shape->base,
			.map = !i ? "........" : i < 4 ? "....d.d." :
			       "dddddddd",
			.bottom = i == 4,
		};
	make_stack(&st);
	open_disk(&d, &st, 0, false);
	read_back(&d, 6 * d.cluster, d.cluster);
	read_at_once(&d, 4);
	read_all(&d);
	close_disk(&d);
	destroy_stack(&st);
}

/* More clusters than there may be pages for: the oldest go, and all is right. */
static void memory_is_bounded(const struct shape *shape)
{
	struct stack st = {
		.nr = 3,
		.sketches = {
			{ .base = { .cluster_bits = 9, .version = 3 },
			  .map = "d", .bytes = 5ULL << 30 },
			{ .base = { .cluster_bits = 12, .version = 3 },
			  .map = ".d", .bytes = 3ULL << 30 },
			{ .base = { .cluster_bits = 16, .version = 3 },
			  .map = "ddd", .bytes = 4ULL << 30, .bottom = true },
		},
	};
	const u64 page = 1008 * 512;
	struct qcow2_reason why = {};
	struct disk d = { .bytes = 4 << 16 };
	long long live;
	unsigned int n;
	u64 most = 0;

	(void)shape;
	make_stack(&st);
	live = shim_live_allocations();
	d.img = try_open(&st, 0, true, &why);
	expect(!IS_ERR(d.img), "open: %s", why.text);
	d.content = must(calloc(1, SZ_1M));
	read_sketches(&st, 0, d.content, SZ_1M);
	for (n = 0; n < 10000; n++) {
		struct op op = { .buf = get_buffer(512) };
		u64 at = n * page % ((5ULL << 30) - page) / 512 * 512;

		start(&d, &op, QCOW2_OP_READ, at, 512);
		expect(!finish(&op), "read at %llu", at);
		if (at >= SZ_1M)
			expect(!op.buf[0] && !memcmp(op.buf, op.buf + 1, 511),
			       "data at %llu", at);
		free(op.buf);
		most = max(most, (u64)d.img->chain->nr_pages);
		if (!(n % 1000))
			read_back(&d, 0, 4 << 16);
	}
	expect(most == 4096, "%llu pages at most", most);
	read_back(&d, 0, 4 << 16);
	expect(!detach(&d), "close");
	rcu_barrier();
	expect(shim_live_allocations() == live, "%lld allocations are left",
	       shim_live_allocations() - live);
	free(d.content);
	destroy_stack(&st);
}

/*
 * What may not show through.
 */

/*
 * Eight clusters on a backing file that ends in the middle of one (and of one of
 * its subclusters).
 */
static struct stack short_backing(const struct shape *shape)
{
	u64 cluster = 1ULL << shape->base.cluster_bits;
	struct stack st = {
		.nr = 2,
		.sketches = {
			{ .base = shape->base, .map = ".d......" },
			{ .bytes = 5 * cluster + round_up(cluster / 3, 512) },
		},
	};

	return st;
}

/* All ranges of subclusters of a few places, one after the other. */
static void discard_shows_nothing(const struct shape *shape)
{
	static const enum qcow2_op ops[] = {
		QCOW2_OP_DISCARD, QCOW2_OP_WRITE_ZEROES,
	};
	struct stack st = short_backing(shape);
	u64 sub, cluster = 1ULL << shape->base.cluster_bits, at;
	unsigned int i, keep;

	sub = cluster / (shape->base.extl2 ? 32 : 1);
	for (i = 0; i < ARRAY_SIZE(ops); i++)
		for (keep = 0; keep < 2; keep++) {
			struct disk d = {};

			make_stack(&st);
			d.no_unref = false;
			open_disk(&d, &st, 0, false);
			/* Some of it written before, some not. */
			write_new(&d, 3 * cluster, 512);
			write_new(&d, 5 * cluster, sub);
			for (at = 0; at < d.bytes; at += 3 * sub) {
				u64 bytes = min(2 * sub, d.bytes - at);

				if (ops[i] == QCOW2_OP_WRITE_ZEROES && keep)
					keep_as_zeroes(&d, at, bytes);
				else
					make_zero(&d, ops[i], at, bytes);
				read_back(&d, at, bytes);
			}
			read_all(&d);
			settle(&d);
			make_zero(&d, ops[i], 0, d.bytes);
			read_all(&d);
			/* And again, with nothing in memory. */
			expect(!detach(&d), "close");
			{
				struct qcow2_reason why = {};

				d.img = try_open(&st, 0, false, &why);
				expect(!IS_ERR(d.img), "open: %s", why.text);
			}
			read_all(&d);
			close_disk(&d);
			destroy_stack(&st);
		}
}

/* Of what cannot show through nothing has to be said in any table. */
static void nothing_to_hide(const struct shape *shape)
{
	struct stack st = short_backing(shape);
	struct disk d = {};
	u64 allocated, cluster = 1ULL << shape->base.cluster_bits;

	st.sketches[0].map = "";
	st.sketches[0].bytes = 8 * cluster;
	make_stack(&st);
	open_disk(&d, &st, 0, false);
	allocated = d.img->clusters_allocated;
	make_zero(&d, QCOW2_OP_DISCARD, 6 * cluster, 2 * cluster);
	flush(&d);
	expect(d.img->clusters_allocated == allocated,
	       "a table was made for what is behind the backing file");
	make_zero(&d, QCOW2_OP_DISCARD, 5 * cluster, cluster);
	expect(d.img->clusters_allocated > allocated,
	       "nothing hides the end of the backing file");
	read_all(&d);
	close_disk(&d);
	destroy_stack(&st);
}

/* Version 2 cannot say that there are zeroes. */
static void version_2_hides_by_writing(const struct shape *shape)
{
	struct stack st = short_backing(shape);
	struct disk d = {};
	int error;

	make_stack(&st);
	open_disk(&d, &st, 0, false);
	error = run_op(&d, QCOW2_OP_DISCARD, 0, d.bytes);
	expect(!error, "discard: %d", error);
	read_all(&d);
	make_zero(&d, QCOW2_OP_WRITE_ZEROES, 0, 3 * d.cluster);
	keep_as_zeroes(&d, 3 * d.cluster + 512, d.bytes - 3 * d.cluster - 512);
	read_all(&d);
	error = run_op(&d, QCOW2_OP_DISCARD, 0, d.bytes);
	expect(!error, "discard: %d", error);
	read_all(&d);
	close_disk(&d);
	destroy_stack(&st);
}

/*
 * Other layers beneath an attached image.
 */

/* The files @which as layers. */
static void get_layers(const struct stack *st, const unsigned int *which,
		       unsigned int nr, struct qcow2_image **layers)
{
	struct qcow2_reason why = {};
	unsigned int i;

	for (i = 0; i < nr; i++) {
		layers[i] = get_layer(st, which[i], &why);
		expect(!IS_ERR(layers[i]), "layer: %s", why.text);
	}
}

/* Has the disk lie on these; the old chain is still to be given back. */
static struct qcow2_chain *replace_layers(struct disk *d, const struct stack *st,
					  const unsigned int *which,
					  unsigned int nr)
{
	struct qcow2_image *layers[MAX_IMAGES];
	struct qcow2_reason why = {};
	struct qcow2_chain *chain;

	get_layers(st, which, nr, layers);
	chain = qcow2_chain_prepare(d->img, layers, nr, &why);
	expect(!IS_ERR(chain), "chain: %s", why.text);
	mutex_lock(&d->img->meta_lock);
	chain = qcow2_chain_replace(d->img, chain);
	mutex_unlock(&d->img->meta_lock);
	return chain;
}

/**
 * struct guest - a thread that reads, or writes, while layers are replaced
 * @d: the disk, with a count of writes of its own
 * @writes: it writes to the last cluster, where nobody else is
 * @stop: the end
 * @thread: the thread
 */
struct guest {
	struct disk d;
	bool writes;
	bool stop;
	pthread_t thread;
};

static void *be_guest(void *arg)
{
	struct guest *g = arg;
	struct disk *d = &g->d;
	struct shim_random r = { .state = g->writes };
	u64 last = d->bytes - d->cluster;

	while (!__atomic_load_n(&g->stop, __ATOMIC_RELAXED)) {
		u64 at = shim_below(&r, d->cluster / WL_SECTOR) * WL_SECTOR;

		if (!g->writes) {
			at = shim_below(&r, last / WL_SECTOR) * WL_SECTOR;
			read_back(d, at, min(last - at, d->cluster));
			continue;
		}
		write_new(d, last + at, WL_SECTOR);
		if (!shim_below(&r, 4))
			make_zero(d, QCOW2_OP_DISCARD, last, d->cluster);
		read_back(d, last, d->cluster);
	}
	return NULL;
}

static void begin_guest(struct guest *g, struct disk *d, bool writes)
{
	*g = (struct guest) { .d = *d, .writes = writes };
	expect(!pthread_create(&g->thread, NULL, be_guest, g), "no thread");
}

static void end_guest(struct guest *g)
{
	__atomic_store_n(&g->stop, true, __ATOMIC_RELAXED);
	pthread_join(g->thread, NULL);
}

static void layers_are_replaced(const struct shape *shape)
{
	static const unsigned int same[] = { 2, 3, 4 };
	struct stack st = common(shape);
	struct guest guests[3];
	struct disk d = {};
	long long live;
	unsigned int i;

	make_stack(&st);
	live = shim_live_allocations();
	open_disk(&d, &st, 1, false);
	for (i = 0; i < ARRAY_SIZE(guests); i++)
		begin_guest(&guests[i], &d, !i);
	for (i = 0; i < 200; i++) {
		struct qcow2_chain *old = replace_layers(&d, &st, same, 3);

		qcow2_epoch_synchronize(d.img);
		qcow2_chain_put(old);
	}
	for (i = 0; i < ARRAY_SIZE(guests); i++)
		end_guest(&guests[i]);
	read_all(&d);
	close_disk(&d);
	rcu_barrier();
	expect(shim_live_allocations() == live, "%lld allocations are left",
	       shim_live_allocations() - live);
	destroy_stack(&st);
}

/* File @to becomes as file @from is. */
static void copy_file(struct stack *st, unsigned int from, unsigned int to)
{
	size_t bytes;
	unsigned char *data = memfile_flatten(st->files[from], &bytes);

	memfile_load_buf(st->files[to], data, bytes);
	free(data);
}

/**
 * struct told - who waits for guest I/O
 * @wait: for that
 * @told: it has ended
 */
struct told {
	struct qcow2_epoch_wait wait;
	bool told;
};

static void tell(struct qcow2_epoch_wait *wait)
{
	struct told *told = container_of(wait, struct told, wait);

	__atomic_store_n(&told->told, true, __ATOMIC_RELEASE);
}

static void begin_to_wait(struct disk *d, struct told *told)
{
	told->wait.done = tell;
	mutex_lock(&d->img->meta_lock);
	qcow2_epoch_call(d->img, &told->wait);
	mutex_unlock(&d->img->meta_lock);
}

static bool is_told(struct told *told)
{
	return __atomic_load_n(&told->told, __ATOMIC_ACQUIRE);
}

/* Its file is gone before the image is closed. */
static void dropped_layer_outlives_its_reads(const struct shape *shape)
{
	static const unsigned int other[] = { 2 };
	u64 cluster = 1ULL << shape->base.cluster_bits;
	struct stack st = {
		.nr = 3,
		.sketches = {
			{ .base = shape->base, .map = "........" },
			{ .bytes = 8 * cluster },
			{ .bytes = 8 * cluster },
		},
	};
	struct op op = { .by_worker = true, .buf = get_buffer(512) };
	struct told told = {};
	struct qcow2_chain *old;
	struct disk d = {};
	u64 reads;

	make_stack(&st);
	copy_file(&st, 1, 2);
	st.nr = 2;
	open_disk(&d, &st, 0, false);
	memfile_hold(st.files[1], 1U << MEMFILE_READ, 0, cluster);
	start(&d, &op, QCOW2_OP_READ, 0, 512);
	wait_for(memfile_holds(st.files[1]), "the read does not begin");
	old = replace_layers(&d, &st, other, 1);
	begin_to_wait(&d, &told);
	reads = memfile_count(st.files[1], MEMFILE_READ);
	read_all(&d);
	rcu_barrier();
	usleep(20000);
	expect(!is_told(&told), "a layer is read, and nobody uses it");
	expect(memfile_count(st.files[1], MEMFILE_READ) == reads,
	       "the old layer is read still");
	memfile_release(st.files[1]);
	expect(!finish(&op), "the read failed");
	expect(!memcmp(op.buf, d.content, 512), "other data");
	wait_for(is_told(&told), "nobody is told");
	qcow2_chain_put(old);
	memfile_destroy(st.files[1]);
	read_all(&d);
	close_disk(&d);
	free(op.buf);
	memfile_destroy(st.files[0]);
	memfile_destroy(st.files[2]);
}

/* What the old chain had in its second layer the new one has in its first. */
static void places_are_found_anew(const struct shape *shape)
{
	static const unsigned int other[] = { 3, 4 };
	u64 cluster = 1ULL << shape->base.cluster_bits;
	struct stack st = {
		.nr = 5,
		.sketches = {
			{ .base = shape->base, .map = "........" },
			{ .base = shape->base, .map = "........" },
			{ .base = shape->base, .map = "dddddddd",
			  .bottom = true },
			{ .base = shape->base, .map = "dddddddd" },
			{ .bytes = 8 * cluster },
		},
	};
	struct qcow2_chain *old;
	struct disk d = {};

	make_stack(&st);
	/* The same, but it names a backing file. */
	copy_file(&st, 2, 3);
	store_header(st.files[3], &st.sketches[3], 8 * cluster, 1);
	st.nr = 3;
	open_disk(&d, &st, 0, false);
	read_all(&d);
	old = replace_layers(&d, &st, other, 2);
	qcow2_epoch_synchronize(d.img);
	qcow2_chain_put(old);
	read_all(&d);
	close_disk(&d);
	st.nr = 5;
	destroy_stack(&st);
}

static void expect_no_chain(struct disk *d, const struct stack *st,
			    const unsigned int *which, unsigned int nr,
			    int error)
{
	struct qcow2_image *layers[MAX_IMAGES];
	struct qcow2_reason why = {};
	struct qcow2_chain *chain;

	get_layers(st, which, nr, layers);
	chain = qcow2_chain_prepare(d->img, layers, nr, &why);
	expect(IS_ERR(chain), "%u layers were taken", nr);
	expect(PTR_ERR(chain) == error && why.text[0], "%ld, wanted %d: %s",
	       PTR_ERR(chain), error, why.text);
	while (nr)
		qcow2_layer_put(layers[--nr]);
}

static void other_chains_are_checked(const struct shape *shape)
{
	const struct memfile_options coarse = { .align = 4096 };
	static const unsigned int upside_down[] = { 4, 3 }, short_one[] = { 2 };
	static const unsigned int on_coarse[] = { 2, 3, 5 };
	static const unsigned int beneath[] = { 3, 4 }, shown[] = { 2, 3, 4 };
	struct stack st = common(shape);
	struct disk d = {}, view = {};
	struct qcow2_chain *old;
	long long live;

	make_stack(&st);
	st.files[5] = memfile_create(&coarse);
	copy_file(&st, 4, 5);
	live = shim_live_allocations();
	open_disk(&d, &st, 1, false);
	open_disk(&view, &st, 2, true);
	expect_no_chain(&d, &st, NULL, 0, -EINVAL);
	expect_no_chain(&d, &st, short_one, 1, -EINVAL);
	expect_no_chain(&d, &st, upside_down, 2, -EINVAL);
	expect_no_chain(&d, &st, on_coarse, 3, -EOPNOTSUPP);
	expect_no_chain(&view, &st, beneath, 2, -EINVAL);
	old = replace_layers(&view, &st, shown, 3);
	qcow2_epoch_synchronize(view.img);
	qcow2_chain_put(old);
	read_all(&d);
	read_all(&view);
	close_disk(&view);
	close_disk(&d);
	rcu_barrier();
	expect(shim_live_allocations() == live, "%lld allocations are left",
	       shim_live_allocations() - live);
	memfile_destroy(st.files[5]);
	destroy_stack(&st);
}

static const struct test_case cases[] = {
	TEST_CASE(layers_are_shared, shapes),
	TEST_CASE(ways_are_told_apart, once),
	TEST_CASE(layers_come_and_go, shapes),
	TEST_CASE(bad_layer_leaves_nothing, shapes),
	TEST_CASE(chains_are_checked, once),
	TEST_CASE(blocks_are_checked, once),
	TEST_CASE(views_are_not_written, shapes),
	TEST_CASE(open_without_memory, shapes),
	TEST_CASE(read_errors, shapes),
	TEST_CASE(lost_layer, shapes),
	TEST_CASE(copy_errors, shapes),
	TEST_CASE(damaged_layer, shapes),
	TEST_CASE(layer_ends_in_a_cluster, shapes),
	TEST_CASE(neighbours_are_remembered, shapes),
	TEST_CASE(search_needs_no_worker, shapes),
	TEST_CASE(neighbours_are_not_in_memory, shapes),
	TEST_CASE(place_is_remembered, shapes),
	TEST_CASE(memory_is_bounded, once),
	TEST_CASE(discard_shows_nothing, shapes),
	TEST_CASE(nothing_to_hide, shapes),
	TEST_CASE(version_2_hides_by_writing, version_2),
	TEST_CASE(layers_are_replaced, shapes),
	TEST_CASE(dropped_layer_outlives_its_reads, shapes),
	TEST_CASE(places_are_found_anew, shapes),
	TEST_CASE(other_chains_are_checked, once),
};

int main(int argc, char **argv)
{
	return run_cases("layers", cases, ARRAY_SIZE(cases), argc, argv);
}
