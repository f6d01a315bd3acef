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
 * With --faults each run meets trouble as well (invariant I7): an operation on
 * the file fails, once or from then on; the file system has no space for a
 * while; memory is short. A write to the file that failed may have changed any of
 * its sectors, and what was not durable when a flush failed may be lost even if
 * a later flush succeeds, as on Linux. The rules above stay the same.
 */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "base.h"
#include "memfile.h"
#include "qcheck.h"
#include "workload.h"

#define HANG_SECONDS	60

static const char *image_dir = "build/engine/images";
static const char *work_dir = "/tmp";
static unsigned int qemu_every = 200;
static unsigned int reopen_every = 250;
static unsigned int subsets = 8;
static bool with_faults;
static u64 max_images = ~0ULL;
static bool verbose;

static struct {
	u64 runs, flushes, images, leaky, by_qemu, reopened, struck;
} total;

/**
 * struct run - what was recorded
 * @seed: the seed
 * @r: source of all that it decides
 * @w: the disk, with the history of the guest
 * @initial: the disk at the start
 * @log: the history of the file, in the order of changes
 * @nr: length of @log
 * @merged: for each record: it is in @durable
 * @lost: for each record: a flush failed before it was durable
 * @durable: the file as the flushes so far guarantee it
 * @version: for each sector of @durable: the point in time of its change
 * @room: size of @durable
 * @bytes: length of the file in @durable
 * @by_seq: index of each guest write
 * @first: for each sector of the disk: where its part of @history begins
 * @history: indices of the guest writes to each sector, in order
 */
struct run {
	u64 seed;
	struct shim_random r;
	struct workload w;
	unsigned char *initial;

	struct memfile_record *log;
	size_t nr;
	bool *merged;
	bool *lost;
	unsigned char *durable;
	u64 *version;
	size_t room;
	size_t bytes;

	u32 *by_seq;
	u32 *first;
	u32 *history;
};

/**
 * struct cut - a power cut
 * @time: when
 * @flushed: guest writes that were done before this are durable
 * @how: what became of what was not flushed, for messages
 */
struct cut {
	u64 time;
	u64 flushed;
	const char *how;
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

static void make_disk(struct run *run, const char *path,
		      const struct base_options *base)
{
	u64 bytes = base->virtual_bytes;
	unsigned char *content = must(malloc(bytes));
	struct qimg q;

	run->durable = read_file(path, &run->bytes);
	if (!run->durable || qimg_open(&q, run->durable, run->bytes) ||
	    qimg_read(&q, 0, bytes, content))
		wl_fail(run->seed, "the base image cannot be read");
	run->initial = must(malloc(bytes));
	memcpy(run->initial, content, bytes);
	wl_init(&run->w, content, bytes);
	memfile_load_buf(run->w.filp, run->durable, run->bytes);
}

static void open_image(struct workload *w)
{
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
		.discard_no_unref = w->no_unref,
	};
	struct qcow2_reason why = {};

	w->img = qcow2_image_open(w->filp, "test", &options, &why);
	if (IS_ERR(w->img))
		wl_fail(w->seed, "open: %s (%ld)", why.text, PTR_ERR(w->img));
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
	memfile_fault(run->w.filp, &fault);
	return fault.ops == 1U << MEMFILE_READ;
}

/* Afterwards everything must work again. */
static void run_short_of_space(struct run *run, unsigned int threads,
			       unsigned int ops)
{
	run->w.errors_ok = true;
	memfile_set_space(run->w.filp, memfile_space_used(run->w.filp) +
			  shim_below(&run->r, 200000));
	wl_run(&run->w, threads, ops, shim_random(&run->r));
	wl_flush(&run->w);
	memfile_set_space(run->w.filp, 0);
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

/*
 * An image that was closed well after trouble is whole, and holds what was
 * written. Clusters may leak where a table could not be read, or there was no
 * memory for it, when references were to be dropped.
 */
static void look_at_closed(struct run *run, bool leaks_ok)
{
	size_t bytes;
	unsigned char *file = memfile_flatten(run->w.filp, &bytes);
	unsigned char *disk = must(malloc(run->w.bytes));
	struct qcheck check;
	const char *why;
	struct qimg q;
	u64 s;

	why = qimg_open(&q, file, bytes);
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
	free(disk);
	free(file);
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

	if (verbose && with_faults)
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
	ret = qcow2_image_close(run->w.img);
	if ((ret || !whole) && !run->w.errors_ok)
		wl_fail(run->seed, "close: %d", ret);
	if (whole && !ret)
		look_at_closed(run, leaks_ok);
	total.struck += memfile_faults(run->w.filp) ||
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

	choose_base(run, &base);
	base_describe(&base, name, sizeof(name));
	if (verbose)
		fprintf(stderr, "seed %llu: %s, %u threads, %u operations\n",
			run->seed, name, threads, ops);
	if (base_make(&base, image_dir, path, sizeof(path)))
		exit(2);
	run->w.seed = run->seed;
	run->w.history = true;
	run->w.no_unref = base.version > 2 && !shim_below(&run->r, 4);
	run->w.align = WL_SECTOR;
	run->w.max_op_bytes = 4096ULL << shim_below(&run->r, 4);
	choose_mix(run);
	if (!repeatable && shim_below(&run->r, 2))
		options.delay_ns = 100000;
	run->w.filp = memfile_create(&options);
	make_disk(run, path, &base);
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

static void keep(struct run *run, const unsigned char *file, u64 bytes,
		 char *path, size_t size)
{
	FILE *out;

	snprintf(path, size, "%s/powercut-%llu-%d.qcow2", work_dir, run->seed,
		 getpid());
	out = fopen(path, "w");
	if (!out || fwrite(file, 1, bytes, out) != bytes || fclose(out))
		wl_fail(run->seed, "cannot write %s", path);
}

static int qemu_check(struct run *run, const unsigned char *file, u64 bytes)
{
	char path[600];
	const char * const argv[] = {
		"qemu-img", "check", "-q", "-f", "qcow2", path, NULL
	};
	int status;

	keep(run, file, bytes, path, sizeof(path));
	status = run_program(argv, true);
	if (!status || status == 3)
		unlink(path);
	return status;
}

/*
 * With the dirty bit set the refcounts may be wrong, which `qemu-img check -r`
 * has to mend, and the disk must be as it was then.
 */
static int qemu_repair(struct run *run, const unsigned char *file, u64 bytes,
		       const unsigned char *disk)
{
	char path[600];
	const char * const repair[] = {
		"qemu-img", "check", "-q", "-r", "all", "-f", "qcow2", path, NULL
	};
	const char * const check[] = {
		"qemu-img", "check", "-q", "-f", "qcow2", path, NULL
	};
	unsigned char *repaired, *after = must(malloc(run->w.bytes));
	size_t repaired_bytes;
	struct qimg q;
	int status;

	keep(run, file, bytes, path, sizeof(path));
	run_program(repair, true);
	status = run_program(check, true);
	repaired = must(read_file(path, &repaired_bytes));
	if (!status && (qimg_open(&q, repaired, repaired_bytes) ||
			qimg_read(&q, 0, run->w.bytes, after) ||
			memcmp(disk, after, run->w.bytes)))
		status = -1;
	if (!status)
		unlink(path);
	free(repaired);
	free(after);
	return status;
}

/* What happened up to the cut, and what the guest did to sector @s. */
static void tell(const struct run *run, const struct cut *cut, u64 s)
{
	static const char * const names[MEMFILE_NR_OPS] = {
		"read", "write", "flush", "zero", "punch", "truncate"
	};
	size_t i, nr;
	const struct memfile_record *log = memfile_log(run->w.filp, &nr);
	u32 h;

	for (i = 0; i < nr && log[i].begun <= cut->time; i++)
		fprintf(stderr, "file: %llu-%llu-%llu %s 0x%llx+0x%llx%s error %d\n",
			log[i].begun, log[i].applied, log[i].ended,
			names[log[i].op], log[i].offset, log[i].bytes,
			log[i].dsync ? " dsync" : "", log[i].error);
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
		      const unsigned char *file, u64 bytes, const char *what)
{
	int status = qemu_check(run, file, bytes);
	char path[600];

	keep(run, file, bytes, path, sizeof(path));
	wl_fail(run->seed,
		"power cut at %llu (%s): %s; qemu-img check gives %d; see %s",
		cut->time, cut->how, what, status, path);
}

static void bad_sector(struct run *run, const struct cut *cut,
		       const unsigned char *file, u64 bytes, u64 s,
		       const unsigned char *content)
{
	u64 seq = wl_sector_seq(run->seed, content);
	char what[300], durable[100] = "nothing was durable";
	u32 i;

	for (i = run->first[s]; i < run->first[s + 1]; i++)
		if (is_durable(&run->w.writes[run->history[i]], cut))
			snprintf(durable, sizeof(durable),
				 "write %llu was durable",
				 run->w.writes[run->history[i]].seq);
	if (verbose)
		tell(run, cut, s);
	snprintf(what, sizeof(what),
		 "sector %llu has tag %llu (of sector %llu%s), %s", s, seq,
		 seq ? ((u64 *)content)[3] : 0,
		 is_zero(content) ? ", all zero" : "", durable);
	bad_image(run, cut, file, bytes, what);
}

/*
 * A crash is followed by use: the engine must get along with what it left, and
 * mend it if it is dirty, so that nothing leaks then.
 */
static void use_again(struct run *run, const struct cut *cut,
		      const unsigned char *file, u64 bytes, unsigned char *disk,
		      bool dirty)
{
	struct memfile_options options = { .seed = run->seed };
	struct workload w = {
		.seed = run->seed ^ 0x616761696eULL,
		.align = WL_SECTOR,
		.mix = { .read = 10, .write = 50, .flush = 5 },
		.max_op_bytes = 16384,
	};
	struct qcheck check;
	unsigned char *after;
	struct qimg q;
	size_t after_bytes;

	shim_set_delay(SHIM_DELAY_NEVER);
	w.filp = memfile_create(&options);
	memfile_load_buf(w.filp, file, bytes);
	wl_init(&w, disk, run->w.bytes);
	open_image(&w);
	wl_run(&w, 1, 20, shim_random(&run->r));
	if (qcow2_image_close(w.img))
		wl_fail(run->seed, "close after a power cut failed");
	after = memfile_flatten(w.filp, &after_bytes);
	qimg_open(&q, after, after_bytes);
	qimg_check(&q, &check);
	if (check.corruptions)
		bad_image(run, cut, after, after_bytes,
			  "used again after the cut, the image is corrupt");
	if (dirty && (check.dirty || check.leaks))
		bad_image(run, cut, after, after_bytes,
			  "used again after the cut, the image is not mended");
	free(after);
	memfile_destroy(w.filp);
	wl_destroy(&w);
	total.reopened++;
}

static void look_at(struct run *run, const struct cut *cut,
		    const unsigned char *file, u64 bytes)
{
	unsigned char *disk = must(malloc(run->w.bytes));
	struct qcheck check;
	const char *why;
	struct qimg q;
	u64 s;

	total.images++;
	why = qimg_open(&q, file, bytes);
	if (!why)
		why = qimg_read(&q, 0, run->w.bytes, disk);
	if (why)
		bad_image(run, cut, file, bytes, why);
	qimg_check(&q, &check);
	if (check.corruptions)
		bad_image(run, cut, file, bytes, check.first);
	total.leaky += check.leaks != 0;
	for (s = 0; s < run->w.bytes / WL_SECTOR; s++)
		if (!sector_is_right(run, cut, s, disk + s * WL_SECTOR))
			bad_sector(run, cut, file, bytes, s,
				   disk + s * WL_SECTOR);
	if (qemu_every && !shim_below(&run->r, qemu_every)) {
		int status = check.dirty ?
			     qemu_repair(run, file, bytes, disk) :
			     qemu_check(run, file, bytes);

		if (status && status != 3)
			bad_image(run, cut, file, bytes,
				  "qemu-img check finds what we do not");
		total.by_qemu++;
	}
	if (reopen_every && !shim_below(&run->r, check.dirty ?
					DIV_ROUND_UP(reopen_every, 10) :
					reopen_every))
		use_again(run, cut, file, bytes, disk, check.dirty);
	else
		free(disk);
}

/*
 * Building images.
 */

static int by_applied(const void *a, const void *b)
{
	const struct memfile_record *x = a, *y = b;

	return x->applied < y->applied ? -1 : x->applied > y->applied;
}

/* The changes in their order, and the flushes, of which @nr are given back. */
static u64 (*sort_log(struct run *run, size_t *nr))[2]
{
	const struct memfile_record *log = memfile_log(run->w.filp, &run->nr);
	u64 (*flushes)[2] = must(calloc(run->nr + 1, sizeof(*flushes)));
	size_t i, n = 0;

	run->log = must(calloc(run->nr + 1, sizeof(*log)));
	*nr = 0;
	run->room = run->bytes;
	for (i = 0; i < run->nr; i++) {
		if (log[i].op == MEMFILE_TRUNCATE)
			shim_die("powercut: truncation is not modelled");
		if (log[i].op != MEMFILE_FLUSH) {
			run->room = max_t(u64, run->room,
					  log[i].offset + log[i].bytes);
			run->log[n++] = log[i];
		} else if (!log[i].error) {
			flushes[*nr][0] = log[i].begun;
			flushes[(*nr)++][1] = log[i].ended;
		}
	}
	run->nr = n;
	qsort(run->log, n, sizeof(*run->log), by_applied);
	return flushes;
}

static bool grows_file(const struct memfile_record *r)
{
	return r->op == MEMFILE_WRITE || r->op == MEMFILE_ZERO;
}

static void put_sector(unsigned char *to, const struct memfile_record *r,
		       u64 pos)
{
	if (r->data)
		memcpy(to + r->offset + pos, r->data + pos, WL_SECTOR);
	else
		memset(to + r->offset + pos, 0, WL_SECTOR);
}

/* Of overlapping writes the one that changed the file last stays. */
static void merge(struct run *run, const struct memfile_record *r)
{
	u64 pos;

	for (pos = 0; pos < r->bytes; pos += WL_SECTOR) {
		u64 *version = &run->version[(r->offset + pos) / WL_SECTOR];

		if (*version > r->applied)
			continue;
		*version = r->applied;
		put_sector(run->durable, r, pos);
	}
	if (grows_file(r))
		run->bytes = max_t(u64, run->bytes, r->offset + r->bytes);
}

/* Puts what is durable at @time, by flushes that began before @covered. */
static void merge_covered(struct run *run, u64 covered, u64 time)
{
	size_t i;

	for (i = 0; i < run->nr; i++) {
		const struct memfile_record *r = &run->log[i];

		if (run->merged[i] || run->lost[i] || r->error)
			continue;
		if (r->ended < covered || (r->dsync && r->ended <= time)) {
			merge(run, r);
			run->merged[i] = true;
		}
	}
}

/**
 * struct luck - which of the sectors that were not flushed are there
 * @how: for messages
 * @per_write: out of 16, for a whole write
 * @per_sector: out of 16, for each of its sectors
 */
struct luck {
	const char *how;
	unsigned int per_write;
	unsigned int per_sector;
};

static const struct luck lucks[] = {
	{ "none", 0, 0 },
	{ "all", 16, 16 },
	{ "half of the sectors", 16, 8 },
	{ "half of the writes", 8, 16 },
	{ "few writes", 2, 16 },
	{ "most writes", 14, 16 },
	{ "most sectors", 16, 14 },
	{ "few torn writes", 4, 8 },
};

static bool lucky(struct run *run, unsigned int of_16)
{
	return of_16 == 16 || (of_16 && shim_below(&run->r, 16) < of_16);
}

/* Applies some of what was pending; the length of the file then. */
static u64 apply_pending(struct run *run, const struct cut *cut,
			 const struct luck *luck, unsigned char *file)
{
	u64 pos, bytes = run->bytes;
	size_t i;

	for (i = 0; i < run->nr; i++) {
		const struct memfile_record *r = &run->log[i];

		if (run->merged[i] || r->begun > cut->time ||
		    !lucky(run, luck->per_write))
			continue;
		for (pos = 0; pos < r->bytes; pos += WL_SECTOR) {
			u64 s = (r->offset + pos) / WL_SECTOR;

			if (run->version[s] > r->applied ||
			    !lucky(run, luck->per_sector))
				continue;
			put_sector(file, r, pos);
			if (grows_file(r))
				bytes = max(bytes, r->offset + pos + WL_SECTOR);
		}
	}
	return bytes;
}

static bool anything_pending(const struct run *run, u64 time)
{
	size_t i;

	for (i = 0; i < run->nr; i++)
		if (!run->merged[i] && run->log[i].begun <= time)
			return true;
	return false;
}

static void cut_at(struct run *run, u64 time, const struct luck *luck,
		   unsigned char *file)
{
	struct cut cut = {
		.time = time,
		.flushed = flushed_at(run, time),
		.how = luck->how,
	};
	u64 bytes;

	if (total.images >= max_images)
		return;
	memcpy(file, run->durable, run->room);
	bytes = apply_pending(run, &cut, luck, file);
	look_at(run, &cut, file, bytes);
}

/* All cuts from @from, when a flush had ended, to just before @to. */
static void cut_between(struct run *run, u64 from, u64 to, unsigned char *file)
{
	unsigned int i;

	cut_at(run, from, &lucks[0], file);
	if (!anything_pending(run, to - 1))
		return;
	cut_at(run, to - 1, &lucks[1], file);
	for (i = 0; i < subsets; i++) {
		const struct luck *luck = &lucks[1 + shim_below(&run->r,
						ARRAY_SIZE(lucks) - 1)];
		u64 time = to - 1;

		/* dsync writes that end in between must stay durable. */
		if (shim_below(&run->r, 2))
			time = from + shim_below(&run->r, to - from);
		cut_at(run, time, luck, file);
	}
}

static int by_time(const void *a, const void *b)
{
	u64 x = *(u64 *)a, y = *(u64 *)b;

	return x < y ? -1 : x > y;
}

/*
 * The points in time at which something becomes durable: flushes end, and
 * writes with dsync do.
 */
static u64 *durable_points(struct run *run, u64 (*flushes)[2],
			   size_t nr_flushes, size_t *nr)
{
	u64 *points = must(calloc(run->nr + nr_flushes + 2, sizeof(u64)));
	size_t i;

	*nr = 0;
	points[(*nr)++] = 1;
	for (i = 0; i < nr_flushes; i++)
		points[(*nr)++] = flushes[i][1];
	for (i = 0; i < run->nr; i++)
		if (run->log[i].dsync && !run->log[i].error)
			points[(*nr)++] = run->log[i].ended;
	points[(*nr)++] = memfile_now(run->w.filp) + 1;
	qsort(points, *nr, sizeof(u64), by_time);
	return points;
}

/*
 * What had begun when a flush failed, unless a flush covered it that began
 * before that end: one that succeeds keeps its promise, whatever runs beside it.
 */
static void mark_lost(struct run *run, u64 (*flushes)[2], size_t nr_flushes)
{
	size_t all, i, j, f;
	const struct memfile_record *log = memfile_log(run->w.filp, &all);

	for (j = 0; j < all; j++) {
		u64 covered = 0;

		if (log[j].op != MEMFILE_FLUSH || !log[j].error)
			continue;
		for (f = 0; f < nr_flushes; f++)
			if (flushes[f][0] < log[j].ended)
				covered = max(covered, flushes[f][0]);
		for (i = 0; i < run->nr; i++)
			if (run->log[i].begun < log[j].ended &&
			    run->log[i].ended >= covered &&
			    !run->log[i].dsync)
				run->lost[i] = true;
	}
}

static void cut_everywhere(struct run *run)
{
	size_t nr_flushes, nr, i, f;
	u64 (*flushes)[2] = sort_log(run, &nr_flushes);
	u64 *points = durable_points(run, flushes, nr_flushes, &nr);
	unsigned char *file = must(calloc(1, run->room));

	run->durable = must(realloc(run->durable, run->room));
	memset(run->durable + run->bytes, 0, run->room - run->bytes);
	run->version = must(calloc(run->room / WL_SECTOR + 1, sizeof(u64)));
	run->merged = must(calloc(run->nr + 1, sizeof(bool)));
	run->lost = must(calloc(run->nr + 1, sizeof(bool)));
	mark_lost(run, flushes, nr_flushes);
	for (i = 0; i + 1 < nr; i++) {
		u64 covered = 0;

		for (f = 0; f < nr_flushes; f++)
			if (flushes[f][1] <= points[i])
				covered = max(covered, flushes[f][0]);
		merge_covered(run, covered, points[i]);
		cut_between(run, points[i], points[i + 1], file);
	}
	total.flushes += nr_flushes;
	free(file);
	free(points);
	free(flushes);
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
	memfile_destroy(run->w.filp);
	wl_destroy(&run->w);
	free(run->initial);
	free(run->log);
	free(run->merged);
	free(run->lost);
	free(run->durable);
	free(run->version);
	free(run->by_seq);
	free(run->first);
	free(run->history);
	free(run);
}

static void usage(void)
{
	fputs("usage: powercut [--seed N] | [--from N] [--count RUNS] [--limit IMAGES] [--seconds T]\n"
	      "  --seed N     one run, with all its images\n"
	      "  --from N     runs from this seed on (1)\n"
	      "  --step N     every Nth seed, to share seeds among processes\n"
	      "  --count N    so many runs\n"
	      "  --limit N    until there were so many images\n"
	      "  --seconds T  until so much time has passed\n"
	      "  --subsets N  random images of each stretch between flushes (8)\n"
	      "  --qemu N     every Nth image goes to qemu-img check (200; 0: none)\n"
	      "  --reopen N   every Nth image is used again (250; 0: none)\n"
	      "  --faults     with errors of the file, and of memory\n"
	      "  --images DIR where the images to start from are kept (build/engine/images)\n"
	      "  --work DIR   for files of a moment, and for what failed (/tmp)\n"
	      "  --verbose\n", stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", 1, NULL, 's' }, { "from", 1, NULL, 'f' },
		{ "step", 1, NULL, 'n' }, { "count", 1, NULL, 'c' },
		{ "limit", 1, NULL, 'l' }, { "seconds", 1, NULL, 't' },
		{ "subsets", 1, NULL, 'm' }, { "qemu", 1, NULL, 'q' },
		{ "reopen", 1, NULL, 'o' }, { "images", 1, NULL, 'i' },
		{ "work", 1, NULL, 'w' }, { "verbose", 0, NULL, 'v' },
		{ "faults", 0, NULL, 'x' }, { NULL, 0, NULL, 0 }
	};
	u64 seed = 1, step = 1, count = ~0ULL, seconds = ~0ULL, start;
	bool bounded = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		u64 n = optarg ? strtoull(optarg, NULL, 0) : 0;

		switch (c) {
		case 's': seed = n; count = 1; bounded = true; break;
		case 'f': seed = n; break;
		case 'n': step = n; break;
		case 'c': count = n; bounded = true; break;
		case 'l': max_images = n; bounded = true; break;
		case 't': seconds = n; bounded = true; break;
		case 'm': subsets = n; break;
		case 'q': qemu_every = n; break;
		case 'o': reopen_every = n; break;
		case 'i': image_dir = optarg; break;
		case 'w': work_dir = optarg; break;
		case 'x': with_faults = true; break;
		case 'v': verbose = true; shim_log_to_stderr(true); break;
		default: usage();
		}
	}
	if (optind < argc || !bounded)
		usage();
	if (wl_init_pools())
		wl_fail(seed, "cannot make the pools");
	start = shim_now_ns();
	for (; count && total.images < max_images &&
	       (shim_now_ns() - start) / 1000000000 < seconds;
	     count--, seed += step)
		run_seed(seed);
	alarm(0);
	wl_exit_pools();
	printf("powercut: %llu images from %llu runs (%llu met errors) with %llu flushes of the file; %llu with leaks, %llu seen by qemu-img, %llu used again\n",
	       total.images, total.runs, total.struck, total.flushes,
	       total.leaky, total.by_qemu, total.reopened);
	return total.images ? 0 : 1;
}
