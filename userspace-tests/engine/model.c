// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random programs of guest operations against a plain byte array.
 *
 * A seed decides the image, the file's behaviour, the size of the cache, the
 * clock of the background commit and the operations. The image is closed in
 * between and at the end; then our checker and reader look at it, and
 * `qemu-img check` and `qemu-img convert`.
 *
 * With several threads the order of events is the scheduler's, so a seed
 * reproduces a failure with some luck, not for sure: --repeat helps.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "args.h"
#include "base.h"
#include "memfile.h"
#include "qcheck.h"
#include "verify.h"
#include "workload.h"

#define HANG_SECONDS	60

static u64 nr_bases = 200;
static u64 scale = 100;

static struct {
	u64 seeds, ops, bytes, images;
} total;

/**
 * struct program - one seed
 * @seed: the seed
 * @r: source of all that it decides
 * @base: the image
 * @path: its file
 * @churn: clusters are freed and taken again all the time, while transfers are
 *	slow and commits frequent (invariants I3 and I4)
 * @w: the disk
 */
struct program {
	u64 seed;
	bool churn;
	struct shim_random r;
	struct base_options base;
	char path[600];
	struct workload w;
};

/*
 * Opening and closing.
 */

static void choose_cache(struct program *p)
{
	struct qcow2_image *img = p->w.img;

	switch (shim_below(&p->r, 3)) {
	case 0:
		img->cache.max = 2 + shim_below(&p->r, 16);
		img->max_dirty = 1 + shim_below(&p->r, img->cache.max);
		break;
	case 1:
		img->max_dirty = 1 + shim_below(&p->r, 200);
		break;
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
		.discard_no_unref = p->base.version > 2 &&
				    !shim_below(&p->r, 4),
	};
	struct qcow2_reason why = {};

	shim_set_delay(p->churn ? 100000 :
		       delays[shim_below(&p->r, ARRAY_SIZE(delays))]);
	p->w.img = qcow2_image_open(p->w.filp, "test", &options, &why);
	if (IS_ERR(p->w.img))
		wl_fail(p->seed, "open: %s (%ld)", why.text,
			PTR_ERR(p->w.img));
	if (p->w.img->geo.virtual_bytes != p->w.bytes)
		wl_fail(p->seed, "open: wrong size");
	verify_opened(p->w.img);
	choose_cache(p);
}

static void close_image(struct program *p)
{
	int ret;

	verify_closing(p->w.img);
	ret = qcow2_image_close(p->w.img);
	p->w.img = NULL;
	if (ret)
		wl_fail(p->seed, "close: %d", ret);
}

/*
 * Looking at the closed image.
 */

static void compare_disk(struct program *p, const unsigned char *disk,
			 const char *reader)
{
	u64 pos;

	for (pos = 0; pos < p->w.bytes; pos += WL_SECTOR)
		if (memcmp(disk + pos, p->w.content + pos, WL_SECTOR))
			wl_fail(p->seed,
				"%s: sector %llu of the closed image has tag %llu, wanted %llu",
				reader, pos / WL_SECTOR,
				wl_sector_seq(p->seed, disk + pos),
				wl_sector_seq(p->seed, p->w.content + pos));
}

static void look_ourselves(struct program *p)
{
	size_t bytes;
	unsigned char *file = memfile_flatten(p->w.filp, &bytes);
	unsigned char *disk = malloc(p->w.bytes);
	struct qcheck check;
	const char *why;
	struct qimg q;

	why = qimg_open(&q, file, bytes);
	if (!why)
		why = qimg_read(&q, 0, p->w.bytes, disk);
	if (why)
		wl_fail(p->seed, "closed image: %s", why);
	qimg_check(&q, &check);
	if (check.corruptions || check.leaks || check.dirty)
		wl_fail(p->seed, "closed image: %u corruptions, %u leaks%s; %s",
			check.corruptions, check.leaks,
			check.dirty ? ", dirty" : "", check.first);
	if (!base_snapshot_is_kept(p->path, &q))
		wl_fail(p->seed, "closed image: the snapshot has changed");
	compare_disk(p, disk, "our reader");
	free(disk);
	free(file);
}

static void ask_qemu(struct program *p)
{
	char path[600], raw[620];
	const char * const check[] = {
		"qemu-img", "check", "-q", "-f", "qcow2", path, NULL
	};
	const char * const convert[] = {
		"qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw, NULL
	};
	unsigned char *disk;
	size_t bytes;
	int status;

	snprintf(path, sizeof(path), "%s/model-%d.qcow2", args.work, getpid());
	snprintf(raw, sizeof(raw), "%s.raw", path);
	if (memfile_dump(p->w.filp, path))
		wl_fail(p->seed, "cannot write %s", path);
	status = run_program(check, false);
	if (status)
		wl_fail(p->seed, "qemu-img check %s: exit status %d", path,
			status);
	status = run_program(convert, false);
	disk = status ? NULL : read_file(raw, &bytes);
	if (!disk || bytes != p->w.bytes)
		wl_fail(p->seed, "qemu-img convert: exit status %d", status);
	compare_disk(p, disk, "qemu-img convert");
	free(disk);
	unlink(path);
	unlink(raw);
	total.images++;
}

/*
 * A program.
 */

static bool may_align(const struct base_options *base, unsigned int align)
{
	unsigned int unit = 1U << (base->cluster_bits - (base->extl2 ? 5 : 0));

	return unit >= align &&
	       !(base->virtual_bytes % align);
}

static void make_file(struct program *p, const char *path)
{
	struct memfile_options options = {
		.seed = shim_random(&p->r),
		.threads = shim_below(&p->r, 5),
		.inline_percent = shim_below(&p->r, 2) ? 0 : 30,
		.delay_ns = shim_below(&p->r, 4) ? 0 : 100000,
		.slow_percent = 1,
		.align = shim_below(&p->r, 3) ? 512 : 4096,
	};

	if (!may_align(&p->base, options.align))
		options.align = 512;
	if (p->churn) {
		options.threads = 8;
		options.delay_ns = 80000;
		options.slow_percent = 15;
	}
	p->w.align = options.align;
	p->w.filp = memfile_create(&options);
	if (memfile_load(p->w.filp, path))
		wl_fail(p->seed, "cannot load %s", path);
}

static void make_disk(struct program *p)
{
	size_t bytes;
	unsigned char *file = memfile_flatten(p->w.filp, &bytes);
	unsigned char *content = malloc(p->base.virtual_bytes);
	struct qimg q;

	if (qimg_open(&q, file, bytes) ||
	    qimg_read(&q, 0, p->base.virtual_bytes, content))
		wl_fail(p->seed, "the base image cannot be read");
	free(file);
	wl_init(&p->w, content, p->base.virtual_bytes);
}

static void choose_mix(struct program *p)
{
	p->w.mix = (struct wl_mix) {
		.read = 10 + shim_below(&p->r, 30),
		.write = 20 + shim_below(&p->r, 60),
		.fua = shim_below(&p->r, 2) * shim_below(&p->r, 10),
		.write_of_zeroes = shim_below(&p->r, 5),
		.flush = shim_below(&p->r, 6),
		.discard = shim_below(&p->r, 2) * shim_below(&p->r, 20),
		.zeroes = shim_below(&p->r, 2) * shim_below(&p->r, 20),
		.race = shim_below(&p->r, 2) * shim_below(&p->r, 10),
		.grow = !shim_below(&p->r, 4),
	};
	p->w.max_op_bytes = 65536ULL << shim_below(&p->r, 3);
	if (!p->churn)
		return;
	p->w.mix = (struct wl_mix) {
		.read = 15, .write = 40, .flush = 8, .discard = 20, .race = 30,
		.grow = 1,
	};
	p->w.max_op_bytes = 4ULL << p->base.cluster_bits;
}

static void run_rounds(struct program *p)
{
	unsigned int threads = 1 + shim_below(&p->r, 8);
	unsigned int ops = 40 + shim_below(&p->r, p->base.cluster_bits > 18 ?
					   100 : 500);
	unsigned int rounds = 1 + shim_below(&p->r, 3);

	if (p->churn)
		threads = 8;
	ops = max(ops * scale / 100 / rounds, threads);
	while (rounds--) {
		open_image(p);
		wl_run(&p->w, threads, ops, shim_random(&p->r));
		close_image(p);
		look_ourselves(p);
	}
	if (scale)
		ask_qemu(p);
}

static void run_seed(u64 seed)
{
	struct program *p = calloc(1, sizeof(*p));
	char name[200];

	wl_name_seed(seed, HANG_SECONDS);
	shim_log_clear();
	p->seed = seed;
	p->w.seed = seed;
	p->r.state = seed;
	base_choose(&p->base, shim_random(&p->r) % nr_bases);
	p->churn = p->base.cluster_bits < 17 && !shim_below(&p->r, 3);
	if (args.verbose) {
		base_describe(&p->base, name, sizeof(name));
		fprintf(stderr, "seed %llu: %s\n", seed, name);
	}
	if (base_make(&p->base, args.images, p->path, sizeof(p->path)))
		exit(2);
	make_file(p, p->path);
	make_disk(p);
	choose_mix(p);
	run_rounds(p);
	total.seeds++;
	total.ops += p->w.ops_done;
	total.bytes += p->w.bytes_done;
	memfile_destroy(p->w.filp);
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
		{ "bases", "number of different images", &nr_bases },
		{}
	};
	const struct command command = { "model", own, .endless = true };
	u64 seed;

	args_read(&command, argc, argv);
	if (wl_init_pools())
		wl_fail(args.from, "cannot make the pools");
	while (args_next(&seed))
		run_seed(seed);
	alarm(0);
	wl_exit_pools();
	printf("model: %llu seeds, %llu operations, %llu MiB, %llu images checked by qemu-img\n",
	       total.seeds, total.ops, total.bytes >> 20, total.images);
	return total.seeds ? 0 : 1;
}
