// SPDX-License-Identifier: GPL-2.0-only
/*
 * Power cuts.
 *
 * A run of guest operations is recorded, with all that the engine did to the
 * image file. Then for every stretch between two flushes of the file, images
 * are built that a power cut in it could leave behind: what a completed flush
 * covers is there (writes that had ended before the flush began, and writes
 * with dsync); of all else that had begun, any 512-byte sector may be there or
 * not. Each image must satisfy invariant I6:
 *
 * - the checker finds no corruption, at most leaks;
 * - a sector that the guest had flushed, or written with FUA, has that content
 *   or that of a later write;
 * - any other sector has the content of some write to this very sector that had
 *   been submitted, or what it had at the start.
 *
 * Some of the images are given to `qemu-img check` too, and some are opened and
 * written by the engine again.
 *
 * With --data-file the guest's data lies in a file of its own. Each of the two
 * has its own flushes, which make nothing durable in the other, and what is there
 * of one says nothing of the other. A raw data file must keep the rules for the
 * guest's sectors by itself, too.
 *
 * With --faults each run meets trouble as well (invariant I7): an operation on
 * the file fails, once or from then on; the file system has no space for a
 * while; memory is short. A write to the file that failed may have changed any of
 * its sectors, and what was not durable when a flush failed may be lost even if
 * a later flush succeeds, as on Linux. The rules above stay the same.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/unaligned.h>

#include "args.h"
#include "base.h"
#include "medium.h"
#include "memfile.h"
#include "qcheck.h"
#include "verify.h"
#include "workload.h"

#define HANG_SECONDS	60

/* Of the autoclear features in the header. */
#define AUTOCLEAR_POS	88

static u64 qemu_every = 200;
static u64 reopen_every = 250;
static u64 subsets = 8;
static bool with_faults;
static bool with_data_file;
static u64 max_images = ~0ULL;

static struct {
	u64 runs, flushes, data_flushes, images, leaky, by_qemu, reopened, struck;
} total;

/**
 * struct run - what was recorded
 * @seed: the seed
 * @r: source of all that it decides
 * @w: the disk, with the history of the guest
 * @initial: the disk at the start
 * @image: the image file
 * @data: the external data file, if there is one
 * @raw: it reads as the disk does
 * @by_seq: index of each guest write
 * @first: for each sector of the disk: where its part of @history begins
 * @history: indices of the guest writes to each sector, in order
 */
struct run {
	u64 seed;
	struct shim_random r;
	struct workload w;
	unsigned char *initial;
	struct medium image;
	struct medium data;
	bool raw;

	u32 *by_seq;
	u32 *first;
	u32 *history;
};

/**
 * struct cut - a power cut
 * @time: when
 * @flushed: guest writes that were done before this are durable
 * @how: what became of what was not flushed, for messages
 * @data_how: likewise of the external data file
 */
struct cut {
	u64 time;
	u64 flushed;
	const char *how;
	const char *data_how;
};

/**
 * struct left - what a power cut left
 * @file: the image file
 * @bytes: its length
 * @data: the external data file
 * @data_bytes: its length
 */
struct left {
	unsigned char *file;
	u64 bytes;
	unsigned char *data;
	u64 data_bytes;
};

/*
 * Recording.
 */

static void choose_mix(struct run *run)
{
	run->w.mix = (struct wl_mix) {
		.read = 5,
		.write = 60,
		.fua = shim_below(&run->r, 8),
		.write_of_zeroes = 4,
		.flush = 2 + shim_below(&run->r, 12),
		.discard = shim_below(&run->r, 2) * shim_below(&run->r, 30),
		.zeroes = shim_below(&run->r, 2) * shim_below(&run->r, 20),
		.race = shim_below(&run->r, 2) * shim_below(&run->r, 10),
		.grow = shim_below(&run->r, 3) ? 0 : 3,
	};
	/* FUA writes that meet commits. */
	if (shim_below(&run->r, 4) == 0) {
		run->w.mix.fua = 60;
		run->w.mix.flush = 30;
	}
}

/*
 * The refcount table of such an image, a cluster, counts 2 MiB, and the image is
 * nearly that long; its clusters are shared with a snapshot, so that writing
 * takes new ones: the table must grow soon.
 */
static void choose_full_base(struct shim_random *r, struct base_options *o)
{
	o->cluster_bits = 9;
	o->version = 3;
	o->refcount_bits = 64;
	o->metadata = true;
	o->snapshot = true;
	o->virtual_bytes = 512 * (3600 + shim_below(r, 200));
}

/* Small clusters, so that every structure grows in a small image. */
static void choose_base(struct run *run, struct base_options *o)
{
	struct shim_random r = { .state = shim_random(&run->r) % 60 };

	memset(o, 0, sizeof(*o));
	o->seed = 1000 + shim_below(&r, 4);
	if (!shim_below(&r, 5)) {
		choose_full_base(&r, o);
		return;
	}
	o->cluster_bits = 9 + shim_below(&r, 2) * shim_below(&r, 8);
	o->version = shim_below(&r, 6) ? 3 : 2;
	o->refcount_bits = o->version == 3 ? 1U << shim_below(&r, 7) : 16;
	if (shim_below(&r, 3) == 0 && o->version == 3)
		o->refcount_bits = 64;
	o->lazy = o->version == 3 && !shim_below(&r, 6);
	o->metadata = !shim_below(&r, 6);
	o->filled = shim_below(&r, 3);
	o->snapshot = o->refcount_bits > 1 && shim_below(&r, 3) == 0;
	o->virtual_bytes = 512 * (400 + shim_below(&r, 1600));
	o->extl2 = o->version == 3 && !shim_below(&r, 4);
	if (o->extl2)
		o->cluster_bits = 14 + shim_below(&r, 2);
}

/*
 * Such images have no snapshots, as QEMU makes none.  Half of the raw ones are as
 * its old versions made them: nothing was allocated at first.
 */
static void choose_data_file(struct run *run, struct base_options *o)
{
	struct shim_random r = { .state = shim_random(&run->r) % 60 };

	choose_base(run, o);
	if (o->version < 3 || o->snapshot) {
		o->version = 3;
		o->metadata = false;
		o->refcount_bits = 1U << shim_below(&r, 7);
		o->virtual_bytes = 512 * (400 + shim_below(&r, 1600));
	}
	o->snapshot = false;
	o->data_file = true;
	run->raw = shim_below(&r, 2);
	o->raw = run->raw && shim_below(&r, 2);
	if (run->raw && !o->raw) {
		o->filled = false;
		o->metadata = false;
	}
}

/* What nobody reads may be anything: it must not be seen later. */
static void put_junk(struct run *run, struct qimg *q, unsigned char *data,
		     const unsigned char *content)
{
	unsigned char was[WL_SECTOR], now[WL_SECTOR];
	u64 pos;

	for (pos = 0; pos < run->w.bytes; pos += WL_SECTOR) {
		memcpy(was, data + pos, WL_SECTOR);
		memset(data + pos, 0xa5, WL_SECTOR);
		if (qimg_read(q, pos, WL_SECTOR, now) ||
		    memcmp(now, content + pos, WL_SECTOR))
			memcpy(data + pos, was, WL_SECTOR);
	}
}

/* Zeroes at its end a file need not have. */
static size_t choose_data_bytes(struct run *run, const unsigned char *data)
{
	size_t used = run->w.bytes;

	while (used && !memchr_inv(data + used - WL_SECTOR, 0, WL_SECTOR))
		used -= WL_SECTOR;
	used += shim_below(&run->r, (run->w.bytes - used) / WL_SECTOR + 1) *
		WL_SECTOR;
	return used;
}

static void make_data_file(struct run *run, const char *path, struct qimg *q,
			   const struct memfile_options *options)
{
	struct memfile_options data_options = *options;
	unsigned char *data = must(calloc(1, run->w.bytes)), *found;
	size_t bytes;
	char data_path[700];

	base_data_path(path, data_path, sizeof(data_path));
	found = must(read_file(data_path, &bytes));
	memcpy(data, found, min_t(u64, bytes, run->w.bytes));
	free(found);
	qimg_data_file(q, data, run->w.bytes);
	if (qimg_read(q, 0, run->w.bytes, run->initial))
		wl_fail(run->seed, "the base image cannot be read");
	if (run->raw && memcmp(run->initial, data, run->w.bytes))
		wl_fail(run->seed, "the data file of the base is not its disk");
	if (!run->raw && shim_below(&run->r, 4))
		put_junk(run, q, data, run->initial);
	bytes = choose_data_bytes(run, data);
	data_options.seed = shim_random(&run->r);
	data_options.clock = run->w.filp;
	data_options.guest_punches = run->raw;
	run->w.data_filp = memfile_create(&data_options);
	memfile_load_buf(run->w.data_filp, data, bytes);
	medium_init(&run->data, run->w.data_filp, data, bytes);
}

static void mark_raw(unsigned char *image)
{
	put_unaligned_be64(get_unaligned_be64(image + AUTOCLEAR_POS) |
			   QCOW2_AUTOCLEAR_DATA_FILE_RAW,
			   image + AUTOCLEAR_POS);
}

static void make_disk(struct run *run, const char *path,
		      const struct base_options *base,
		      const struct memfile_options *options)
{
	u64 bytes = base->virtual_bytes;
	unsigned char *content = must(malloc(bytes)), *image;
	size_t image_bytes;
	struct qimg q;

	run->w.filp = memfile_create(options);
	image = must(read_file(path, &image_bytes));
	if (run->raw)
		mark_raw(image);
	if (qimg_open(&q, image, image_bytes))
		wl_fail(run->seed, "the base image cannot be read");
	run->initial = must(malloc(bytes));
	run->w.bytes = bytes;
	if (with_data_file)
		make_data_file(run, path, &q, options);
	else if (qimg_read(&q, 0, bytes, run->initial))
		wl_fail(run->seed, "the base image cannot be read");
	memcpy(content, run->initial, bytes);
	wl_init(&run->w, content, bytes);
	memfile_load_buf(run->w.filp, image, image_bytes);
	medium_init(&run->image, run->w.filp, image, image_bytes);
}

static void open_image(struct workload *w)
{
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
		.data_filp = w->data_filp,
		.discard_no_unref = w->no_unref,
	};
	struct qcow2_reason why = {};

	w->img = qcow2_image_open(w->filp, "test", &options, &why);
	if (IS_ERR(w->img))
		wl_fail(w->seed, "open: %s (%ld)", why.text, PTR_ERR(w->img));
	verify_opened(w->img);
}

/* True if a table may not be read, so that clusters may leak. */
static bool fail_one_operation(struct run *run)
{
	static const int errors[] = { -EIO, -EIO, -ENOSPC, -ENOMEM };
	struct memfile_fault fault = {
		.ops = 1U << shim_below(&run->r, 3),
		.skip = shim_below(&run->r, 2) ? shim_below(&run->r, 20) :
						 shim_below(&run->r, 400),
		.times = shim_below(&run->r, 3) ? 1 + shim_below(&run->r, 3) : 0,
		.error = errors[shim_below(&run->r, ARRAY_SIZE(errors))],
		.torn = shim_below(&run->r, 2),
	};

	run->w.errors_ok = true;
	if (with_data_file && shim_below(&run->r, 2))
		memfile_fault(run->w.data_filp, &fault);
	else
		memfile_fault(run->w.filp, &fault);
	return fault.ops == 1U << MEMFILE_READ;
}

/* Afterwards everything must work again. */
static void run_short_of_space(struct run *run, unsigned int threads,
			       unsigned int ops)
{
	struct file *filp = with_data_file && shim_below(&run->r, 2) ?
			    run->w.data_filp : run->w.filp;

	run->w.errors_ok = true;
	memfile_set_space(filp, memfile_space_used(filp) +
			  shim_below(&run->r, 200000));
	wl_run(&run->w, threads, ops, shim_random(&run->r));
	wl_flush(&run->w);
	memfile_set_space(filp, 0);
	run->w.errors_ok = false;
	wl_flush(&run->w);
	wl_run(&run->w, threads, ops, shim_random(&run->r));
}

static void run_short_of_memory(struct run *run, unsigned int threads,
				unsigned int ops)
{
	run->w.errors_ok = true;
	shim_fail_allocations(2 + shim_below(&run->r, 60),
			      shim_random(&run->r));
	wl_run(&run->w, threads, ops, shim_random(&run->r));
	shim_fail_allocations(0, 0);
	run->w.errors_ok = false;
	wl_run(&run->w, threads, ops / 4 + threads, shim_random(&run->r));
}

/* Whoever reads the data file without the image sees the disk. */
static void expect_raw(struct run *run, const unsigned char *data, u64 bytes)
{
	if (bytes > run->w.bytes ||
	    memcmp(data, run->w.content, bytes) ||
	    memchr_inv(run->w.content + bytes, 0, run->w.bytes - bytes))
		wl_fail(run->seed, "the raw data file of the closed image is not the disk");
}

/*
 * An image that was closed well after trouble is whole, and holds what was
 * written. Clusters may leak where a table could not be read, or there was no
 * memory for it, when references were to be dropped.
 */
static void look_at_closed(struct run *run, bool leaks_ok)
{
	size_t bytes, data_bytes = 0;
	unsigned char *file = memfile_flatten(run->w.filp, &bytes);
	unsigned char *disk = must(malloc(run->w.bytes)), *data = NULL;
	struct qcheck check;
	const char *why;
	struct qimg q;
	u64 s;

	if (with_data_file)
		data = memfile_flatten(run->w.data_filp, &data_bytes);
	why = qimg_open(&q, file, bytes);
	qimg_data_file(&q, data, data_bytes);
	if (!why)
		why = qimg_read(&q, 0, run->w.bytes, disk);
	if (why)
		wl_fail(run->seed, "closed image: %s", why);
	qimg_check(&q, &check);
	if (check.corruptions || (check.leaks && !leaks_ok))
		wl_fail(run->seed, "closed image: %u corruptions, %u leaks; %s",
			check.corruptions, check.leaks, check.first);
	for (s = 0; s < run->w.bytes / WL_SECTOR; s++)
		if (!run->w.unknown[s] &&
		    memcmp(disk + s * WL_SECTOR,
			   run->w.content + s * WL_SECTOR, WL_SECTOR))
			wl_fail(run->seed, "sector %llu of the closed image has tag %llu, wanted %llu",
				s, wl_sector_seq(run->seed, disk + s * WL_SECTOR),
				wl_sector_seq(run->seed, run->w.content +
					      s * WL_SECTOR));
	if (run->raw != q.raw_data)
		wl_fail(run->seed, "closed image: it is not marked as raw");
	if (run->raw && !run->w.errors)
		expect_raw(run, data, data_bytes);
	free(disk);
	free(file);
	free(data);
}

/* Runs the operations, with trouble if asked, and closes the image. */
static void run_and_close(struct run *run, unsigned int threads,
			  unsigned int ops)
{
	unsigned int trouble = with_faults ? shim_below(&run->r, 5) : 5;
	u64 before = shim_failed_allocations();
	bool leaks_ok = trouble == 1;
	bool whole;
	int ret;

	if (args.verbose && with_faults)
		fprintf(stderr, "trouble: %s\n",
			trouble == 0 ? "no space" : trouble == 1 ? "no memory" :
			trouble < 5 ? "failing file operations" : "none");

	if (trouble == 0) {
		run_short_of_space(run, threads, ops);
	} else if (trouble == 1) {
		run_short_of_memory(run, threads, ops);
	} else {
		if (trouble < 5)
			leaks_ok = fail_one_operation(run);
		wl_run(&run->w, threads, ops, shim_random(&run->r));
	}
	whole = !qcow2_image_needs_check(run->w.img);
	verify_closing(run->w.img);
	ret = qcow2_image_close(run->w.img);
	if ((ret || !whole) && !run->w.errors_ok)
		wl_fail(run->seed, "close: %d", ret);
	if (whole && !ret)
		look_at_closed(run, leaks_ok);
	total.struck += memfile_faults(run->w.filp) ||
			(with_data_file && memfile_faults(run->w.data_filp)) ||
			shim_failed_allocations() > before || run->w.errors;
}

static void record(struct run *run)
{
	bool repeatable = !shim_below(&run->r, 3);
	struct memfile_options options = {
		.seed = shim_random(&run->r),
		.threads = repeatable ? 0 : 1 + shim_below(&run->r, 4),
		.record = true,
		.slow_percent = 1,
	};
	unsigned int threads = repeatable ? 1 : 1 + shim_below(&run->r, 5);
	unsigned int ops = 40 + shim_below(&run->r, 160);
	struct base_options base;
	char path[600], name[200];

	if (with_data_file)
		choose_data_file(run, &base);
	else
		choose_base(run, &base);
	base_describe(&base, name, sizeof(name));
	if (args.verbose)
		fprintf(stderr, "seed %llu: %s, %u threads, %u operations\n",
			run->seed, name, threads, ops);
	if (base_make(&base, args.images, path, sizeof(path)))
		exit(2);
	run->w.seed = run->seed;
	run->w.history = true;
	run->w.no_unref = base.version > 2 && !shim_below(&run->r, 4);
	run->w.align = WL_SECTOR;
	run->w.max_op_bytes = 4096ULL << shim_below(&run->r, 4);
	choose_mix(run);
	if (!repeatable && shim_below(&run->r, 2))
		options.delay_ns = 100000;
	make_disk(run, path, &base, &options);
	shim_set_delay(repeatable || shim_below(&run->r, 2) ?
		       SHIM_DELAY_NEVER :
		       (long long)shim_below(&run->r, 3000000));
	open_image(&run->w);
	if (!shim_below(&run->r, 3)) {
		run->w.img->cache.max = 3 + shim_below(&run->r, 20);
		run->w.img->max_dirty = 2 + shim_below(&run->r, 10);
	}
	run_and_close(run, threads, ops);
}

/*
 * The history of the guest, by sector.
 */

static void index_history(struct run *run)
{
	u64 sectors = run->w.bytes / WL_SECTOR, s, n = 0;
	u32 *fill;
	size_t i;

	run->by_seq = must(calloc(run->w.next_seq + 1, sizeof(u32)));
	run->first = must(calloc(sectors + 2, sizeof(u32)));
	for (i = 0; i < run->w.nr_writes; i++) {
		const struct wl_write *write = &run->w.writes[i];

		run->by_seq[write->seq] = i;
		for (s = 0; s < write->nr; s++)
			run->first[write->sector + s + 1]++;
		n += write->nr;
	}
	for (s = 0; s < sectors; s++)
		run->first[s + 1] += run->first[s];
	run->history = must(calloc(n + 1, sizeof(u32)));
	fill = must(calloc(sectors + 1, sizeof(u32)));
	for (i = 0; i < run->w.nr_writes; i++) {
		const struct wl_write *write = &run->w.writes[i];

		for (s = write->sector; s < write->sector + write->nr; s++)
			run->history[run->first[s] + fill[s]++] = i;
	}
	free(fill);
}

static bool is_durable(const struct wl_write *write, const struct cut *cut)
{
	if (!write->done)
		return false;
	return write->done < cut->flushed ||
	       (write->fua && write->done <= cut->time);
}

static u64 flushed_at(const struct run *run, u64 time)
{
	u64 flushed = 0;
	size_t i;

	for (i = 0; i < run->w.nr_flushes; i++)
		if (run->w.flushes[i].done <= time)
			flushed = max(flushed, run->w.flushes[i].begun);
	return flushed;
}

static bool is_zero(const unsigned char *sector)
{
	return !sector[0] && !memcmp(sector, sector + 1, WL_SECTOR - 1);
}

/* May write @index have left @content in sector @s? */
static bool explains(const struct run *run, u32 index, u64 s,
		     const unsigned char *content)
{
	const struct wl_write *write = &run->w.writes[index];
	u64 want[WL_SECTOR / 8];

	if (write->zeroes)
		return is_zero(content);
	wl_fill_sector(run->seed, write->seq, s, want);
	return !memcmp(want, content, WL_SECTOR);
}

static bool sector_is_right(const struct run *run, const struct cut *cut, u64 s,
			    const unsigned char *content)
{
	u32 i = run->first[s + 1];

	while (i > run->first[s]) {
		u32 index = run->history[--i];
		const struct wl_write *write = &run->w.writes[index];

		if (write->begun > cut->time)
			continue;
		if (explains(run, index, s, content))
			return true;
		if (is_durable(write, cut))
			return false;
	}
	return !memcmp(content, run->initial + s * WL_SECTOR, WL_SECTOR);
}

/*
 * Looking at an image.
 */

/**
 * struct kept - files that were kept, for QEMU's tools or whoever looks
 * @path: of the image
 * @data_path: of the external data file
 * @what: as these tools name an image: the header has another data file's name
 */
struct kept {
	char path[600];
	char data_path[700];
	char what[1500];
};

static void keep_file(struct run *run, const unsigned char *file, u64 bytes,
		      const char *path)
{
	FILE *out = fopen(path, "w");

	if (!out || fwrite(file, 1, bytes, out) != bytes || fclose(out))
		wl_fail(run->seed, "cannot write %s", path);
}

static void keep(struct run *run, const struct left *left, struct kept *kept)
{
	snprintf(kept->path, sizeof(kept->path), "%s/powercut-%llu-%d.qcow2",
		 args.work, run->seed, getpid());
	keep_file(run, left->file, left->bytes, kept->path);
	base_data_path(kept->path, kept->data_path, sizeof(kept->data_path));
	snprintf(kept->what, sizeof(kept->what), "driver=qcow2,file.filename=%s",
		 kept->path);
	if (!with_data_file)
		return;
	keep_file(run, left->data, left->data_bytes, kept->data_path);
	snprintf(kept->what + strlen(kept->what),
		 sizeof(kept->what) - strlen(kept->what),
		 ",data-file.driver=file,data-file.filename=%s",
		 kept->data_path);
}

static void remove_kept(const struct kept *kept)
{
	unlink(kept->path);
	if (with_data_file)
		unlink(kept->data_path);
}

static int qemu_check(struct run *run, const struct left *left)
{
	struct kept kept;
	const char * const argv[] = {
		"qemu-img", "check", "-q", "--image-opts", kept.what, NULL
	};
	int status;

	keep(run, left, &kept);
	status = run_program(argv, true);
	if (!status || status == 3)
		remove_kept(&kept);
	return status;
}

/* NULL, or why not. */
static const char *read_left(const struct run *run, const struct left *left,
			     struct qimg *q, unsigned char *disk)
{
	const char *why = qimg_open(q, left->file, left->bytes);

	qimg_data_file(q, left->data, left->data_bytes);
	return why ? why : qimg_read(q, 0, run->w.bytes, disk);
}

/*
 * With the dirty bit set the refcounts may be wrong, which `qemu-img check -r`
 * has to mend, and the disk must be as it was then.
 */
static int qemu_repair(struct run *run, const struct left *left,
		       const unsigned char *disk)
{
	struct kept kept;
	const char * const repair[] = {
		"qemu-img", "check", "-q", "-r", "all", "--image-opts",
		kept.what, NULL
	};
	const char * const check[] = {
		"qemu-img", "check", "-q", "--image-opts", kept.what, NULL
	};
	struct left repaired = *left;
	unsigned char *after = must(malloc(run->w.bytes));
	size_t bytes;
	struct qimg q;
	int status;

	keep(run, left, &kept);
	run_program(repair, true);
	status = run_program(check, true);
	repaired.file = must(read_file(kept.path, &bytes));
	repaired.bytes = bytes;
	if (!status && (read_left(run, &repaired, &q, after) ||
			memcmp(disk, after, run->w.bytes)))
		status = -1;
	if (!status)
		remove_kept(&kept);
	free(repaired.file);
	free(after);
	return status;
}

static void tell_file(struct file *filp, const struct cut *cut,
		      const char *name)
{
	static const char * const names[MEMFILE_NR_OPS] = {
		"read", "write", "flush", "zero", "punch", "truncate"
	};
	size_t i, nr;
	const struct memfile_record *log = memfile_log(filp, &nr);

	for (i = 0; i < nr && log[i].begun <= cut->time; i++)
		fprintf(stderr, "%s: %llu-%llu-%llu %s 0x%llx+0x%llx%s error %d\n",
			name, log[i].begun, log[i].applied, log[i].ended,
			names[log[i].op], log[i].offset, log[i].bytes,
			log[i].dsync ? " dsync" : "", log[i].error);
}

/* What happened up to the cut, and what the guest did to sector @s. */
static void tell(const struct run *run, const struct cut *cut, u64 s)
{
	size_t i;
	u32 h;

	tell_file(run->w.filp, cut, "file");
	if (with_data_file)
		tell_file(run->w.data_filp, cut, "data file");
	for (i = 0; i < run->w.nr_flushes; i++)
		fprintf(stderr, "guest flush: %llu-%llu\n",
			run->w.flushes[i].begun, run->w.flushes[i].done);
	for (h = run->first[s]; h < run->first[s + 1]; h++) {
		const struct wl_write *write =
			&run->w.writes[run->history[h]];

		fprintf(stderr, "guest write %llu: %llu-%llu sectors %u+%u%s%s\n",
			write->seq, write->begun, write->done, write->sector,
			write->nr, write->fua ? " FUA" : "",
			write->zeroes ? " zeroes" : "");
	}
}

static void bad_image(struct run *run, const struct cut *cut,
		      const struct left *left, const char *what)
{
	int status = qemu_check(run, left);
	struct kept kept;

	keep(run, left, &kept);
	wl_fail(run->seed,
		"power cut at %llu (%s%s%s): %s; qemu-img check gives %d; see %s",
		cut->time, cut->how, with_data_file ? "; of the data file " : "",
		with_data_file ? cut->data_how : "", what, status, kept.path);
}

static void bad_sector(struct run *run, const struct cut *cut,
		       const struct left *left, u64 s,
		       const unsigned char *content, const char *where)
{
	u64 seq = wl_sector_seq(run->seed, content);
	char what[300], durable[100] = "nothing was durable";
	u32 i;

	for (i = run->first[s]; i < run->first[s + 1]; i++)
		if (is_durable(&run->w.writes[run->history[i]], cut))
			snprintf(durable, sizeof(durable),
				 "write %llu was durable",
				 run->w.writes[run->history[i]].seq);
	if (args.verbose)
		tell(run, cut, s);
	snprintf(what, sizeof(what),
		 "sector %llu of %s has tag %llu (of sector %llu%s), %s", s,
		 where, seq,
		 seq ? ((u64 *)content)[3] : 0,
		 is_zero(content) ? ", all zero" : "", durable);
	bad_image(run, cut, left, what);
}

/*
 * A crash is followed by use: the engine must get along with what it left, and
 * mend it if it is dirty, so that nothing leaks then.
 */
static void use_again(struct run *run, const struct cut *cut,
		      const struct left *left, unsigned char *disk, bool dirty)
{
	struct memfile_options options = { .seed = run->seed };
	struct workload w = {
		.seed = run->seed ^ 0x616761696eULL,
		.align = WL_SECTOR,
		.mix = { .read = 10, .write = 50, .flush = 5 },
		.max_op_bytes = 16384,
	};
	struct qcheck check;
	struct left after = {};
	struct qimg q;
	size_t bytes;

	shim_set_delay(SHIM_DELAY_NEVER);
	w.filp = memfile_create(&options);
	memfile_load_buf(w.filp, left->file, left->bytes);
	if (with_data_file) {
		options.clock = w.filp;
		options.guest_punches = run->raw;
		w.data_filp = memfile_create(&options);
		memfile_load_buf(w.data_filp, left->data, left->data_bytes);
	}
	wl_init(&w, disk, run->w.bytes);
	open_image(&w);
	wl_run(&w, 1, 20, shim_random(&run->r));
	verify_closing(w.img);
	if (qcow2_image_close(w.img))
		wl_fail(run->seed, "close after a power cut failed");
	after.file = memfile_flatten(w.filp, &bytes);
	after.bytes = bytes;
	qimg_open(&q, after.file, after.bytes);
	qimg_check(&q, &check);
	if (check.corruptions)
		bad_image(run, cut, &after,
			  "used again after the cut, the image is corrupt");
	if (dirty && (check.dirty || check.leaks))
		bad_image(run, cut, &after,
			  "used again after the cut, the image is not mended");
	free(after.file);
	if (w.data_filp)
		memfile_destroy(w.data_filp);
	memfile_destroy(w.filp);
	wl_destroy(&w);
	total.reopened++;
}

/* The same rules hold for who reads the raw data file without the image. */
static void look_at_raw(struct run *run, const struct cut *cut,
			const struct left *left)
{
	unsigned char sector[WL_SECTOR];
	u64 s;

	if (left->data_bytes > run->w.bytes)
		bad_image(run, cut, left, "the raw data file is longer than the disk");
	for (s = 0; s < run->w.bytes / WL_SECTOR; s++) {
		memset(sector, 0, sizeof(sector));
		if (s < left->data_bytes / WL_SECTOR)
			memcpy(sector, left->data + s * WL_SECTOR, WL_SECTOR);
		if (!sector_is_right(run, cut, s, sector))
			bad_sector(run, cut, left, s, sector,
				   "the raw data file");
	}
}

static void look_at(struct run *run, const struct cut *cut,
		    const struct left *left)
{
	unsigned char *disk = must(malloc(run->w.bytes));
	struct qcheck check;
	struct qimg q;
	const char *why = read_left(run, left, &q, disk);
	u64 s;

	total.images++;
	if (why)
		bad_image(run, cut, left, why);
	qimg_check(&q, &check);
	if (check.corruptions)
		bad_image(run, cut, left, check.first);
	total.leaky += check.leaks != 0;
	for (s = 0; s < run->w.bytes / WL_SECTOR; s++)
		if (!sector_is_right(run, cut, s, disk + s * WL_SECTOR))
			bad_sector(run, cut, left, s, disk + s * WL_SECTOR,
				   "the disk");
	if (run->raw)
		look_at_raw(run, cut, left);
	if (qemu_every && !shim_below(&run->r, qemu_every)) {
		int status = check.dirty ? qemu_repair(run, left, disk) :
					   qemu_check(run, left);

		if (status && status != 3)
			bad_image(run, cut, left,
				  "qemu-img check finds what we do not");
		total.by_qemu++;
	}
	if (reopen_every && !shim_below(&run->r, check.dirty ?
					DIV_ROUND_UP(reopen_every, 10) :
					reopen_every))
		use_again(run, cut, left, disk, check.dirty);
	else
		free(disk);
}

/*
 * Building images.
 */

/* As apart as they are on disks: what of one is there says nothing of the other. */
static void cut_at(struct run *run, u64 time, const struct luck *luck,
		   const struct luck *data_luck, struct left *left)
{
	struct cut cut = {
		.time = time,
		.flushed = flushed_at(run, time),
		.how = luck->how,
		.data_how = data_luck->how,
	};

	if (total.images >= max_images)
		return;
	left->bytes = medium_cut(&run->image, time, luck, &run->r, left->file);
	if (with_data_file)
		left->data_bytes = medium_cut(&run->data, time, data_luck,
					      &run->r, left->data);
	look_at(run, &cut, left);
}

static bool is_pending(const struct run *run, u64 time)
{
	return medium_is_pending(&run->image, time) ||
	       medium_is_pending(&run->data, time);
}

/* All cuts from @from, when a flush had ended, to just before @to. */
static void cut_between(struct run *run, u64 from, u64 to, struct left *left)
{
	unsigned int i;

	cut_at(run, from, &luck_none, &luck_none, left);
	if (!is_pending(run, to - 1))
		return;
	cut_at(run, to - 1, &luck_all, &luck_all, left);
	if (with_data_file) {
		cut_at(run, to - 1, &luck_all, &luck_none, left);
		cut_at(run, to - 1, &luck_none, &luck_all, left);
	}
	for (i = 0; i < subsets; i++) {
		const struct luck *luck = luck_choose(&run->r);
		const struct luck *data_luck = luck;
		u64 time = to - 1;

		if (with_data_file)
			data_luck = luck_choose(&run->r);
		/* dsync writes that end in between must stay durable. */
		if (shim_below(&run->r, 2))
			time = from + shim_below(&run->r, to - from);
		cut_at(run, time, luck, data_luck, left);
	}
}

static int by_time(const void *a, const void *b)
{
	u64 x = *(u64 *)a, y = *(u64 *)b;

	return x < y ? -1 : x > y;
}

/* The points in time at which something becomes durable, in either file. */
static u64 *durable_points(struct run *run, size_t *nr)
{
	u64 *points = must(calloc(medium_nr_points(&run->image) +
				  medium_nr_points(&run->data) + 2,
				  sizeof(u64)));

	points[0] = 1;
	*nr = 1 + medium_points(&run->image, points + 1);
	*nr += medium_points(&run->data, points + *nr);
	points[(*nr)++] = memfile_now(run->w.filp) + 1;
	qsort(points, *nr, sizeof(u64), by_time);
	return points;
}

static void cut_everywhere(struct run *run)
{
	struct left left = {};
	size_t nr, i;
	u64 *points;

	medium_read_log(&run->image);
	medium_read_log(&run->data);
	points = durable_points(run, &nr);
	left.file = must(calloc(1, run->image.room + 1));
	left.data = must(calloc(1, run->data.room + 1));
	for (i = 0; i + 1 < nr; i++) {
		medium_advance(&run->image, points[i]);
		medium_advance(&run->data, points[i]);
		cut_between(run, points[i], points[i + 1], &left);
	}
	total.flushes += run->image.nr_flushes;
	total.data_flushes += run->data.nr_flushes;
	free(left.file);
	free(left.data);
	free(points);
}

/*
 * A run.
 */

static void run_seed(u64 seed)
{
	struct run *run = must(calloc(1, sizeof(*run)));

	wl_name_seed(seed, HANG_SECONDS);
	shim_log_clear();
	run->seed = seed;
	run->r.state = seed;
	record(run);
	index_history(run);
	cut_everywhere(run);
	total.runs++;
	if (run->data.filp)
		memfile_destroy(run->data.filp);
	memfile_destroy(run->w.filp);
	wl_destroy(&run->w);
	medium_destroy(&run->image);
	medium_destroy(&run->data);
	free(run->initial);
	free(run->by_seq);
	free(run->first);
	free(run->history);
	free(run);
}

int main(int argc, char **argv)
{
	const struct own_option own[] = {
		{ "limit", "until there were so many images", &max_images,
		  .bounds = true },
		{ "subsets", "random images of each stretch between flushes (8)",
		  &subsets },
		{ "qemu", "every Nth image goes to qemu-img check (200; 0: none)",
		  &qemu_every },
		{ "reopen", "every Nth image is used again (250; 0: none)",
		  &reopen_every },
		{ "faults", "with errors of the file, and of memory",
		  .flag = &with_faults },
		{ "data-file", "of images with an external data file",
		  .flag = &with_data_file },
		{}
	};
	const struct command command = { "powercut", own, .endless = true };
	u64 seed;

	args_read(&command, argc, argv);
	if (wl_init_pools())
		wl_fail(args.from, "cannot make the pools");
	while (total.images < max_images && args_next(&seed))
		run_seed(seed);
	alarm(0);
	wl_exit_pools();
	printf("powercut: %llu images from %llu runs (%llu met errors) with %llu flushes of the file and %llu of its data file; %llu with leaks, %llu seen by qemu-img, %llu used again\n",
	       total.images, total.runs, total.struck, total.flushes,
	       total.data_flushes, total.leaky, total.by_qemu, total.reopened);
	return total.images ? 0 : 1;
}
