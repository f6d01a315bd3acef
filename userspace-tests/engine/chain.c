// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random programs of guest operations on images that lie on backing chains,
 * against a plain byte array.
 *
 * A seed decides the chain (see chains.h), how its files behave, the caches and
 * the operations. While they run others read the same layers. At the end
 * `qemu-img check` looks at the image and `qemu-img convert` reads it, through
 * the chain on disk, and the layers must be as they were.
 *
 * With several threads the order of events is the scheduler's, so a seed
 * reproduces a failure with some luck, not for sure: --repeat helps.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "args.h"
#include "chains.h"
#include "memfile.h"
#include "qcheck.h"
#include "workload.h"

#define HANG_SECONDS	60

static u64 nr_chains = 60;
static u64 scale = 100;

static struct {
	u64 seeds, ops, bytes, images, layers, views;
} total;

/**
 * struct program - one seed
 * @seed: the seed
 * @r: source of all that it decides
 * @chain: the image and its layers
 * @files: their files, in the same order
 * @direct: how the layers are opened
 * @w: the disk
 */
struct program {
	u64 seed;
	struct shim_random r;
	struct chain chain;
	struct file *files[1 + CHAIN_MAX_LAYERS];
	bool direct;
	struct workload w;
};

/**
 * struct view - others that read a part of the chain
 * @p: the program
 * @first: index of the image that they see
 * @w: their disk
 * @thread: who reads
 * @r: source of what is decided
 */
struct view {
	struct program *p;
	unsigned int first;
	struct workload w;
	pthread_t thread;
	struct shim_random r;
};

/*
 * Opening and closing.
 */

static void shrink_cache(struct qcow2_image *img, struct shim_random *r)
{
	if (shim_below(r, 3))
		return;
	img->cache.max = 2 + shim_below(r, 16);
	img->max_dirty = 1 + shim_below(r, img->cache.max);
}

/* Others may be reading it. */
static void shrink_layer(struct qcow2_image *layer, struct shim_random *r)
{
	if (!test_bit(QCOW2_IMAGE_RAW, &layer->flags) && !shim_below(r, 3))
		qcow2_cache_set_max(layer, shim_below(r, 16) * PAGE_SIZE);
}

static void get_layers(struct program *p, unsigned int first,
		       struct qcow2_options *options)
{
	struct qcow2_reason why = {};
	unsigned int i;

	options->layers = must(calloc(p->chain.nr + 1,
				      sizeof(*options->layers)));
	for (i = first; i <= p->chain.nr; i++) {
		const struct qcow2_layer_spec spec = {
			.filp = p->files[i],
			.name = "layer",
			.raw = p->chain.images[i].raw,
			.direct = p->direct,
		};
		struct qcow2_image *layer = qcow2_layer_get(&spec, &why);

		if (IS_ERR(layer))
			wl_fail(p->seed, "layer %u: %s (%ld)", i, why.text,
				PTR_ERR(layer));
		options->layers[options->nr_layers++] = layer;
	}
}

static void open_image(struct program *p)
{
	static const long long delays[] = {
		SHIM_DELAY_REAL, SHIM_DELAY_NEVER, 200000, 2000000, 20000000,
	};
	struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
		.no_pass_discard = !shim_below(&p->r, 8),
		.discard_no_unref = p->chain.images[0].base.version > 2 &&
				    !shim_below(&p->r, 4),
	};
	struct qcow2_reason why = {};
	unsigned int i;

	shim_set_delay(delays[shim_below(&p->r, ARRAY_SIZE(delays))]);
	get_layers(p, 1, &options);
	p->w.img = qcow2_image_open(p->files[0], "test", &options, &why);
	if (IS_ERR(p->w.img))
		wl_fail(p->seed, "open: %s (%ld)", why.text,
			PTR_ERR(p->w.img));
	if (p->w.img->geo.virtual_bytes != p->w.bytes)
		wl_fail(p->seed, "open: wrong size");
	shrink_cache(p->w.img, &p->r);
	for (i = 0; i < options.nr_layers; i++)
		shrink_layer(options.layers[i], &p->r);
	free(options.layers);
}

static void close_image(struct workload *w)
{
	int ret = qcow2_image_close(w->img);

	w->img = NULL;
	if (ret)
		wl_fail(w->seed, "close: %d", ret);
}

/*
 * Others that read.
 */

static void open_view(struct view *v, struct program *p, unsigned int first)
{
	struct qcow2_options options = {};
	struct qcow2_reason why = {};

	v->first = first;
	v->p = p;
	get_layers(p, first, &options);
	v->w.img = qcow2_view_open("view", &options, &why);
	if (IS_ERR(v->w.img))
		wl_fail(p->seed, "view of %u: %s (%ld)", first, why.text,
			PTR_ERR(v->w.img));
	free(options.layers);
}

/* The disk ends with a block, where a file of a raw layer may not. */
static void expect_content(struct view *v)
{
	struct workload *w = &v->w;
	size_t bytes = 0;
	unsigned char *content = chain_content(&v->p->chain, v->first, false,
					       &bytes);
	u64 size = v->w.img->geo.virtual_bytes;

	if (!content || bytes > size || size - bytes >= v->w.img->block_bytes)
		wl_fail(v->p->seed, "view of %u: wrong size", v->first);
	content = must(realloc(content, size));
	memset(content + bytes, 0, size - bytes);
	w->seed = v->p->seed;
	w->align = v->p->w.align;
	w->filp = v->p->files[v->first];
	w->mix = (struct wl_mix) { .read = 20, .flush = 1 };
	w->max_op_bytes = SZ_256K;
	wl_init(w, content, size);
}

static void *read_view(void *arg)
{
	struct view *v = arg;
	unsigned int i = 10 + shim_below(&v->r, 60);

	wl_choose_places(&v->w, &v->r);
	while (i--)
		wl_random_op(&v->w, &v->r);
	return NULL;
}

/* Nobody can attach a raw file. */
static unsigned int nr_viewable(const struct program *p)
{
	return p->chain.nr - p->chain.images[p->chain.nr].raw;
}

static void start_view(struct view *v, struct program *p)
{
	memset(v, 0, sizeof(*v));
	open_view(v, p, 1 + shim_below(&p->r, nr_viewable(p)));
	expect_content(v);
	v->r.state = shim_random(&p->r);
	if (pthread_create(&v->thread, NULL, read_view, v))
		wl_fail(p->seed, "no thread");
}

static void stop_view(struct view *v)
{
	close_image(&v->w);
	wl_destroy(&v->w);
	total.views++;
}

/* The image itself, read-only, is what was written. */
static void look_through_view(struct program *p)
{
	struct view v = {};
	unsigned char *content = must(malloc(p->w.bytes));

	open_view(&v, p, 0);
	memcpy(content, p->w.content, p->w.bytes);
	v.w.seed = p->seed;
	v.w.align = p->w.align;
	v.w.filp = p->files[0];
	v.w.mix.read = 1;
	v.w.max_op_bytes = SZ_1M;
	wl_init(&v.w, content, p->w.bytes);
	memcpy(v.w.unknown, p->w.unknown, p->w.bytes / WL_SECTOR);
	v.r.state = shim_random(&p->r);
	read_view(&v);
	stop_view(&v);
}

/*
 * Looking at the closed image.
 */

static void compare_disk(struct program *p, const unsigned char *disk,
			 const unsigned char *wanted, const char *reader)
{
	u64 pos;

	for (pos = 0; pos < p->w.bytes; pos += WL_SECTOR)
		if (memcmp(disk + pos, wanted + pos, WL_SECTOR))
			wl_fail(p->seed,
				"%s: sector %llu of the closed image has tag %llu, wanted %llu",
				reader, pos / WL_SECTOR,
				wl_sector_seq(p->seed, disk + pos),
				wl_sector_seq(p->seed, wanted + pos));
}

static void look_ourselves(struct program *p)
{
	size_t bytes;
	unsigned char *file = memfile_flatten(p->files[0], &bytes);
	struct qcheck check;
	const char *why;
	struct qimg q;

	/* The checker need not know that there is something beneath. */
	memset(file + 8, 0, 8);
	why = qimg_open(&q, file, bytes);
	if (why)
		wl_fail(p->seed, "closed image: %s", why);
	qimg_check(&q, &check);
	if (check.corruptions || check.leaks || check.dirty)
		wl_fail(p->seed, "closed image: %u corruptions, %u leaks%s; %s",
			check.corruptions, check.leaks,
			check.dirty ? ", dirty" : "", check.first);
	free(file);
}

static void convert_and_compare(struct program *p, const char *path,
				bool snapshot)
{
	char raw[640];
	const char *kind = snapshot ? "-l" : "-f";
	const char *which = snapshot ? "snapshot.name=first" : "qcow2";
	const char * const convert[] = {
		"qemu-img", "convert", kind, which, "-O", "raw", path, raw, NULL
	};
	unsigned char *disk = NULL, *wanted = p->w.content;
	size_t bytes = 0;
	int status;

	snprintf(raw, sizeof(raw), "%s.raw", path);
	status = run_program(convert, false);
	if (!status)
		disk = read_file(raw, &bytes);
	if (!disk || bytes != p->w.bytes)
		wl_fail(p->seed, "qemu-img convert: exit status %d", status);
	if (snapshot)
		wanted = must(chain_content(&p->chain, 0, true, &bytes));
	compare_disk(p, disk, wanted, snapshot ? "the snapshot" :
						 "qemu-img convert");
	if (snapshot)
		free(wanted);
	free(disk);
	unlink(raw);
}

static void ask_qemu(struct program *p)
{
	char dir[500], path[600];
	const char * const check[] = {
		"qemu-img", "check", "-q", "-f", "qcow2", path, NULL
	};
	int status;

	snprintf(dir, sizeof(dir), "%s/chain-%d", args.work, getpid());
	snprintf(path, sizeof(path), "%s/0.img", dir);
	if (mkdir(dir, 0777) || chain_link(&p->chain, dir) ||
	    memfile_dump(p->files[0], path))
		wl_fail(p->seed, "cannot write %s", path);
	status = run_program(check, false);
	if (status)
		wl_fail(p->seed, "qemu-img check %s: exit status %d", path,
			status);
	convert_and_compare(p, path, false);
	if (p->chain.images[0].base.snapshot)
		convert_and_compare(p, path, true);
	unlink(path);
	chain_unlink(&p->chain, dir);
	rmdir(dir);
	total.images++;
}

/* Nobody may even try to change a layer. */
static void look_at_layers(struct program *p)
{
	static const enum memfile_op ops[] = {
		MEMFILE_WRITE, MEMFILE_ZERO, MEMFILE_PUNCH, MEMFILE_TRUNCATE,
	};
	unsigned int i, j;

	for (i = 1; i <= p->chain.nr; i++) {
		size_t was_bytes, bytes;
		unsigned char *was = must(read_file(p->chain.images[i].path,
						    &was_bytes));
		unsigned char *is = memfile_flatten(p->files[i], &bytes);

		for (j = 0; j < ARRAY_SIZE(ops); j++)
			if (memfile_count(p->files[i], ops[j]))
				wl_fail(p->seed, "layer %u was written", i);
		if (bytes != was_bytes || memcmp(is, was, bytes))
			wl_fail(p->seed, "layer %u has changed", i);
		free(was);
		free(is);
		total.layers++;
	}
}

/*
 * A program.
 */

static void make_file(struct program *p, unsigned int i)
{
	const struct chain_layer *layer = &p->chain.images[i];
	struct memfile_options options = {
		.seed = shim_random(&p->r),
		.threads = shim_below(&p->r, 4),
		.inline_percent = shim_below(&p->r, 2) ? 0 : 30,
		.delay_ns = shim_below(&p->r, 4) ? 0 : 100000,
		.slow_percent = 1,
		.align = p->w.align,
	};

	/* Files of a chain may differ in this; the coarsest one rules. */
	if (i && !layer->raw && shim_below(&p->r, 2))
		options.align = 512;
	p->files[i] = memfile_create(&options);
	if (memfile_load(p->files[i], layer->path))
		wl_fail(p->seed, "cannot load %s", layer->path);
}

static void make_chain(struct program *p)
{
	unsigned char *content;
	size_t bytes = 0;
	unsigned int i;

	if (chain_make(&p->chain, args.images))
		exit(2);
	p->w.align = p->chain.aligned && shim_below(&p->r, 2) ? 4096 : 512;
	for (i = 0; i <= p->chain.nr; i++)
		make_file(p, i);
	p->w.filp = p->files[0];
	content = chain_content(&p->chain, 0, false, &bytes);
	if (!content || bytes != p->chain.images[0].base.virtual_bytes)
		wl_fail(p->seed, "nobody knows what the image holds");
	wl_init(&p->w, content, bytes);
}

static void choose_mix(struct program *p)
{
	p->w.mix = (struct wl_mix) {
		.read = 10 + shim_below(&p->r, 40),
		.write = 20 + shim_below(&p->r, 50),
		.fua = shim_below(&p->r, 2) * shim_below(&p->r, 10),
		.write_of_zeroes = shim_below(&p->r, 5),
		.flush = shim_below(&p->r, 6),
		.discard = shim_below(&p->r, 3) * shim_below(&p->r, 15),
		.zeroes = shim_below(&p->r, 3) * shim_below(&p->r, 15),
		.race = shim_below(&p->r, 2) * shim_below(&p->r, 10),
		.grow = !shim_below(&p->r, 4),
	};
	p->w.max_op_bytes = 65536ULL << shim_below(&p->r, 3);
}

/* The layers are let go of by one and kept by the other, in any order. */
static void run_beside_view(struct program *p, unsigned int threads,
			    unsigned int ops)
{
	bool first = shim_below(&p->r, 2), last = shim_below(&p->r, 2);
	struct view v;

	if (first)
		start_view(&v, p);
	open_image(p);
	if (!first)
		start_view(&v, p);
	wl_run(&p->w, threads, ops, shim_random(&p->r));
	pthread_join(v.thread, NULL);
	if (!last)
		stop_view(&v);
	close_image(&p->w);
	if (last) {
		read_view(&v);
		stop_view(&v);
	}
}

static void run_rounds(struct program *p)
{
	unsigned int threads = 1 + shim_below(&p->r, 8);
	unsigned int rounds = 1 + shim_below(&p->r, 2);
	unsigned int ops = (40 + shim_below(&p->r, 200)) * scale / 100;

	ops = max(ops / rounds, threads);
	while (rounds--) {
		if (nr_viewable(p) && shim_below(&p->r, 2)) {
			run_beside_view(p, threads, ops);
		} else {
			open_image(p);
			wl_run(&p->w, threads, ops, shim_random(&p->r));
			close_image(&p->w);
		}
		look_ourselves(p);
		look_through_view(p);
	}
	look_at_layers(p);
	ask_qemu(p);
}

static void run_seed(u64 seed)
{
	struct program *p = must(calloc(1, sizeof(*p)));
	char text[2000];
	unsigned int i;

	wl_name_seed(seed, HANG_SECONDS);
	shim_log_clear();
	p->seed = seed;
	p->w.seed = seed;
	p->r.state = seed;
	chain_choose(&p->chain, shim_random(&p->r) % nr_chains);
	if (args.verbose) {
		chain_describe(&p->chain, text, sizeof(text));
		fprintf(stderr, "seed %llu: %s\n", seed, text);
	}
	make_chain(p);
	p->direct = shim_below(&p->r, 2);
	choose_mix(p);
	run_rounds(p);
	if (shim_warnings())
		wl_fail(seed, "the engine warned");
	total.seeds++;
	total.ops += p->w.ops_done;
	total.bytes += p->w.bytes_done;
	for (i = 0; i <= p->chain.nr; i++)
		memfile_destroy(p->files[i]);
	wl_destroy(&p->w);
	free(p);
}

/*
 * Command line.
 */

int main(int argc, char **argv)
{
	const struct own_option own[] = {
		{ "scale", "with N percent of the operations", &scale },
		{ "chains", "number of different chains", &nr_chains },
		{}
	};
	const struct command command = { "chain", own, .endless = true };
	u64 seed;

	args_read(&command, argc, argv);
	if (wl_init_pools())
		wl_fail(args.from, "cannot make the pools");
	while (args_next(&seed))
		run_seed(seed);
	alarm(0);
	wl_exit_pools();
	printf("chain: %llu seeds, %llu operations, %llu MiB, %llu views, %llu images checked by qemu-img, %llu layers as they were\n",
	       total.seeds, total.ops, total.bytes >> 20, total.views,
	       total.images, total.layers);
	return total.seeds ? 0 : 1;
}
