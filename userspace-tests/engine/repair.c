// SPDX-License-Identifier: GPL-2.0-only
/*
 * Repair of images that were not closed cleanly.
 *
 * A seed decides an image (one that QEMU left when it crashed, or one that it
 * closed), and what is done to its refcounts, to its refcount table and to its
 * COPIED flags: all of which may be wrong while the dirty bit is set. Attaching
 * it must repair it. Then the checker finds nothing to complain about, not even
 * a leak, and everything that can be seen is what it was: the disk, the
 * snapshots, the tables but for their flags. Some go to `qemu-img check` and
 * `qemu-img convert` too.
 *
 * The repair is recorded, and cut by power failures as in powercut.c: what is
 * left is either repaired and clean, or dirty, and then the next repair does it.
 * It is also run with an error of the file, with too little memory and with a
 * fatal signal at each place; the image is not attached then, says why, and the
 * next repair does it.
 *
 * Fixed cases are images that must be refused untouched, and some that need a
 * look of their own.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/rcupdate.h>
#include <linux/unaligned.h>

#include "args.h"
#include "base.h"
#include "memfile.h"
#include "qcheck.h"
#include "workload.h"

#define HANG_SECONDS	60

/* Images that QEMU's crash left, and those that it closed. */
#define NR_CRASHED	60
#define NR_CLOSED	100
/* Of these: full up to the end of what their refcount table counts. */
#define NR_FULL		30

/* Random cuts of each stretch between two flushes; errors of a kind tried. */
#define NR_CUTS		3
#define NR_FAULTS	4

#define COPIED		(1ULL << 63)
#define COMPRESSED	(1ULL << 62)
#define OFFSET		0x00fffffffffffe00ULL
#define HEADER_SIZE	24
#define HEADER_L1_SIZE	36
#define HEADER_L1	40
#define HEADER_REFTABLE	48
#define HEADER_SNAPSHOTS 60
#define HEADER_INCOMPAT	72
#define HEADER_AUTOCLEAR 88
#define DIRTY		1

static u64 qemu_every = 10;

static struct {
	u64 images, cuts, faults, refused, by_qemu, longer, blocks;
} total;

/**
 * struct bytes - an image in memory
 * @buf: its bytes
 * @nr: how many
 */
struct bytes {
	unsigned char *buf;
	size_t nr;
};

/**
 * struct run - what a seed decides
 * @seed: the seed
 * @r: source of all that it decides
 * @name: what it is about, for messages
 * @dirty: the image before the repair
 * @q: the same for the reader
 * @no_blocks: refcount blocks are missing, or the table is too short
 */
struct run {
	u64 seed;
	struct shim_random r;
	char name[300];
	struct bytes dirty;
	struct qimg q;
	bool no_blocks;
};

static struct bytes copy_of(const struct bytes *from, size_t room)
{
	struct bytes to = { .nr = from->nr };

	to.buf = must(calloc(1, max(room, from->nr) + 1));
	memcpy(to.buf, from->buf, from->nr);
	return to;
}

static void keep(const struct run *run, const struct bytes *image,
		 const char *what, char *path, size_t size)
{
	FILE *out;

	snprintf(path, size, "%s/repair-%llu-%d-%s.qcow2", args.work, run->seed,
		 getpid(), what);
	out = fopen(path, "w");
	if (!out || fwrite(image->buf, 1, image->nr, out) != image->nr ||
	    fclose(out))
		wl_fail(run->seed, "cannot write %s", path);
}

__attribute__((noreturn, format(printf, 4, 5)))
static void bad(const struct run *run, const struct bytes *image,
		const char *when, const char *fmt, ...)
{
	char path[600], text[400];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	keep(run, &run->dirty, "before", path, sizeof(path));
	if (image)
		keep(run, image, "after", path, sizeof(path));
	wl_fail(run->seed, "%s, %s: %s; see %s", run->name, when, text, path);
}

/*
 * Entries and refcounts in memory.
 */

static u64 get64(const struct bytes *image, u64 pos)
{
	return pos + 8 <= image->nr ? get_unaligned_be64(image->buf + pos) : 0;
}

static void put64(struct bytes *image, u64 pos, u64 value)
{
	if (pos + 8 > image->nr)
		shim_die("repair: a change behind the end of the image");
	put_unaligned_be64(value, image->buf + pos);
}

static u64 reftable_entries(const struct qimg *q)
{
	return q->reftable_clusters * q->cluster_bytes / 8;
}

/*
 * Is everything what it was?
 */

static const void *bytes_at(const struct bytes *image, u64 pos, u64 nr,
			    unsigned char *room)
{
	u64 there = pos < image->nr ? min_t(u64, nr, image->nr - pos) : 0;

	if (there == nr)
		return image->buf + pos;
	memcpy(room, image->buf + (there ? pos : 0), there);
	memset(room + there, 0, nr - there);
	return room;
}

static bool same_bytes(const struct bytes *a, const struct bytes *b, u64 pos,
		       u64 nr)
{
	unsigned char *x = must(malloc(nr + 1)), *y = must(malloc(nr + 1));
	bool same = !memcmp(bytes_at(a, pos, nr, x), bytes_at(b, pos, nr, y),
			    nr);

	free(x);
	free(y);
	return same;
}

static void data_range(const struct qimg *q, u64 entry, u64 *pos, u64 *nr)
{
	unsigned int x = 62 - (q->cluster_bits - 8);

	*pos = entry & OFFSET;
	*nr = *pos ? q->cluster_bytes : 0;
	if (!(entry & COMPRESSED))
		return;
	*pos = entry & ((1ULL << x) - 1);
	*nr = (((entry & ~(COPIED | COMPRESSED)) >> x) + 1) * 512 -
	      (*pos & 511);
}

static const char *l2_differs(const struct qimg *q, const struct bytes *was,
			      const struct bytes *is, u64 table)
{
	u64 pos, data, nr;

	for (pos = table; pos < table + q->cluster_bytes;
	     pos += q->entry_bytes) {
		u64 entry = get64(was, pos);

		if ((entry ^ get64(is, pos)) & ~COPIED)
			return "an L2 entry";
		if (q->extl2 && get64(was, pos + 8) != get64(is, pos + 8))
			return "an L2 bitmap";
		data_range(q, entry, &data, &nr);
		if (nr && !same_bytes(was, is, data, nr))
			return "data";
	}
	return NULL;
}

static const char *l1_differs(const struct qimg *q, const struct bytes *was,
			      const struct bytes *is, u64 table, u64 entries)
{
	const char *what = NULL;
	u64 i;

	for (i = 0; i < entries && !what; i++) {
		u64 entry = get64(was, table + i * 8);

		if ((entry ^ get64(is, table + i * 8)) & ~COPIED)
			return "an L1 entry";
		if (entry & OFFSET)
			what = l2_differs(q, was, is, entry & OFFSET);
	}
	return what;
}

static const char *snapshots_differ(const struct qimg *q,
				    const struct bytes *was,
				    const struct bytes *is)
{
	u64 pos = q->snapshots_offset;
	const char *what = NULL;
	unsigned int i;

	for (i = 0; i < q->nb_snapshots && !what; i++) {
		const unsigned char *head = was->buf + pos;

		what = l1_differs(q, was, is, get_unaligned_be64(head),
				  get_unaligned_be32(head + 8));
		pos += 40 + get_unaligned_be32(head + 36) +
		       get_unaligned_be16(head + 12) +
		       get_unaligned_be16(head + 14);
		pos = (pos + 7) & ~7ULL;
	}
	if (!what && !same_bytes(was, is, q->snapshots_offset,
				 pos - q->snapshots_offset))
		what = "the snapshot table";
	return what;
}

/* The header but for what may change: the refcount table and feature bits. */
static const char *header_differs(const struct qimg *q,
				  const struct bytes *was,
				  const struct bytes *is)
{
	if (!same_bytes(was, is, 0, HEADER_REFTABLE) ||
	    !same_bytes(was, is, HEADER_REFTABLE + 12,
			HEADER_INCOMPAT - HEADER_REFTABLE - 12) ||
	    ((get64(was, HEADER_INCOMPAT) ^ get64(is, HEADER_INCOMPAT)) &
	     ~(u64)DIRTY) ||
	    !same_bytes(was, is, HEADER_INCOMPAT + 8, 8) ||
	    !same_bytes(was, is, HEADER_AUTOCLEAR + 8,
			q->cluster_bytes - HEADER_AUTOCLEAR - 8))
		return "the header";
	return NULL;
}

static const char *view_differs(const struct run *run, const struct bytes *is)
{
	const struct bytes *was = &run->dirty;
	const struct qimg *q = &run->q;

	return header_differs(q, was, is) ?:
	       l1_differs(q, was, is, q->l1_offset, q->l1_entries) ?:
	       snapshots_differ(q, was, is);
}

/*
 * Is it repaired?
 */

static void look_at_clean(const struct run *run, const struct bytes *image,
			  const char *when)
{
	struct qcheck check;
	struct qimg q;
	const char *why = qimg_open(&q, image->buf, image->nr);

	if (why)
		bad(run, image, when, "%s", why);
	qimg_check(&q, &check);
	if (check.dirty || check.corrupt || check.corruptions || check.leaks ||
	    check.low)
		bad(run, image, when,
		    "dirty %d, corrupt %d, %u corruptions, %u leaks, %u refcounts too low; %s",
		    check.dirty, check.corrupt, check.corruptions, check.leaks,
		    check.low, check.first);
	why = view_differs(run, image);
	if (why)
		bad(run, image, when, "%s differs", why);
}

static int qemu_convert(const char *from, const char *to)
{
	const char * const argv[] = {
		"qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", from,
		to, NULL
	};

	return run_program(argv, false);
}

static void compare_files(const struct run *run, const char *a, const char *b)
{
	struct bytes x, y;

	x.buf = must(read_file(a, &x.nr));
	y.buf = must(read_file(b, &y.nr));
	if (x.nr != y.nr || memcmp(x.buf, y.buf, x.nr))
		wl_fail(run->seed, "%s: qemu-img reads another disk after the repair",
			run->name);
	free(x.buf);
	free(y.buf);
}

/* The dirty image as QEMU reads it, and the repaired one. */
static void ask_qemu(const struct run *run, const struct bytes *image)
{
	char before[600], after[600], raw_before[620], raw_after[620];
	const char * const check[] = {
		"qemu-img", "check", "-q", "-f", "qcow2", after, NULL
	};
	int status;

	keep(run, &run->dirty, "qemu-before", before, sizeof(before));
	keep(run, image, "qemu-after", after, sizeof(after));
	status = run_program(check, false);
	if (status)
		wl_fail(run->seed, "%s: qemu-img check: %d; see %s", run->name,
			status, after);
	snprintf(raw_before, sizeof(raw_before), "%s.raw", before);
	snprintf(raw_after, sizeof(raw_after), "%s.raw", after);
	if (qemu_convert(before, raw_before) || qemu_convert(after, raw_after))
		wl_fail(run->seed, "%s: qemu-img convert failed; see %s",
			run->name, after);
	compare_files(run, raw_before, raw_after);
	unlink(before);
	unlink(after);
	unlink(raw_before);
	unlink(raw_after);
	total.by_qemu++;
}

/*
 * Repairs.
 */

static struct file *file_of(const struct run *run, const struct bytes *image,
			    bool record)
{
	struct memfile_options options = { .seed = run->seed, .record = record };
	struct file *filp = memfile_create(&options);

	memfile_load_buf(filp, image->buf, image->nr);
	return filp;
}

/* The external data file of the image, NULL for none. */
static struct file *data_filp;

/* The most memory that the engine took in attach(), in bytes. */
static u64 attach_peak;

static int attach(struct file *filp, bool writable, struct qcow2_reason *why)
{
	long long before = shim_live_bytes();
	const struct qcow2_options options = {
		.file_flags = writable ? QCOW2_FILE_WRITABLE : 0,
		.data_filp = data_filp,
	};
	struct qcow2_image *img;
	int ret;

	memset(why, 0, sizeof(*why));
	shim_clear_peak();
	img = qcow2_image_open(filp, "test", &options, why);
	attach_peak = shim_peak_bytes() - before;
	if (IS_ERR(img))
		return PTR_ERR(img);
	ret = qcow2_image_close(img);
	if (ret)
		qcow2_refuse(why, ret, "attached, but not closed");
	return ret;
}

static struct bytes content_of(struct file *filp)
{
	struct bytes image;

	image.buf = memfile_flatten(filp, &image.nr);
	return image;
}

/* Does it say once what was done, and that as many were wrong? */
static void look_at_log(const struct run *run, const struct bytes *image)
{
	const char *line = strstr(shim_log(), "not closed cleanly");
	unsigned long long corrected, leaked;
	struct qcheck check;

	if (!line || strstr(line + 1, "not closed cleanly") ||
	    sscanf(line, "not closed cleanly; refcounts rebuilt: %llu corrected, %llu clusters leaked and freed",
		   &corrected, &leaked) != 2)
		bad(run, image, "the log", "%s", shim_log());
	qimg_check(&run->q, &check);
	if (!run->no_blocks && corrected + leaked != check.low + check.leaks)
		bad(run, image, "the log",
		    "%llu corrected and %llu freed, but %u too low and %u too high",
		    corrected, leaked, check.low, check.leaks);
	if (!run->no_blocks && corrected < check.low)
		bad(run, image, "the log", "%llu corrected, but %u too low",
		    corrected, check.low);
}

static void repair_again(const struct run *run, const struct bytes *image,
			 const char *when)
{
	struct file *filp = file_of(run, image, false);
	struct qcow2_reason why;
	struct bytes after;
	int ret = attach(filp, true, &why);

	if (ret)
		bad(run, image, when, "the next repair: %s (%d)", why.text, ret);
	after = content_of(filp);
	look_at_clean(run, &after, when);
	free(after.buf);
	memfile_destroy(filp);
}

/*
 * Power cuts.
 */

/* What a cut, or an error, left: clean, or to be repaired. */
static void look_at_left(const struct run *run, const struct bytes *image,
			 const char *when)
{
	if (get64(image, HEADER_INCOMPAT) & DIRTY)
		repair_again(run, image, when);
	else
		look_at_clean(run, image, when);
}

static void apply_some(struct run *run, struct bytes *image,
		       const struct memfile_record *r, unsigned int of_16)
{
	u64 pos;

	for (pos = 0; pos < r->bytes; pos += WL_SECTOR) {
		if (of_16 < 16 && shim_below(&run->r, 16) >= of_16)
			continue;
		if (r->data)
			memcpy(image->buf + r->offset + pos, r->data + pos,
			       WL_SECTOR);
		else
			memset(image->buf + r->offset + pos, 0, WL_SECTOR);
		image->nr = max_t(u64, image->nr, r->offset + pos + WL_SECTOR);
	}
}

/* Operations @from up to @to had begun, and none of them was flushed. */
static void cut(struct run *run, const struct bytes *durable, size_t room,
		const struct memfile_record *log, size_t from, size_t to,
		unsigned int of_16)
{
	struct bytes image = copy_of(durable, room);
	char when[80];
	size_t i;

	wl_name_seed(run->seed, HANG_SECONDS);
	for (i = from; i < to; i++)
		apply_some(run, &image, &log[i], of_16);
	snprintf(when, sizeof(when), "cut after operation %zu, %u of 16", to,
		 of_16);
	look_at_left(run, &image, when);
	free(image.buf);
	total.cuts++;
}

static void cut_stretch(struct run *run, const struct bytes *durable,
			size_t room, const struct memfile_record *log,
			size_t from, size_t to)
{
	static const unsigned int lucks[] = { 16, 8, 2, 14 };
	unsigned int i;

	cut(run, durable, room, log, from, from, 0);
	if (to > from)
		cut(run, durable, room, log, from, to, 16);
	/* At its end each time, and somewhere in it. */
	for (i = 0; to > from && i < NR_CUTS; i++) {
		cut(run, durable, room, log, from, to, lucks[1 + i % 3]);
		cut(run, durable, room, log, from,
		    from + 1 + shim_below(&run->r, to - from),
		    lucks[shim_below(&run->r, ARRAY_SIZE(lucks))]);
	}
}

static size_t room_for(const struct run *run, const struct memfile_record *log,
		       size_t nr)
{
	size_t room = run->dirty.nr, i;

	for (i = 0; i < nr; i++)
		room = max_t(size_t, room, log[i].offset + log[i].bytes);
	return room;
}

static void cut_everywhere(struct run *run, struct file *filp)
{
	size_t nr, i, from = 0;
	const struct memfile_record *log = memfile_log(filp, &nr);
	size_t room = room_for(run, log, nr);
	struct bytes durable = copy_of(&run->dirty, room);

	for (i = 0; i <= nr; i++) {
		if (i < nr && log[i].op != MEMFILE_FLUSH)
			continue;
		cut_stretch(run, &durable, room, log, from, i);
		for (; from < i; from++)
			apply_some(run, &durable, &log[from], 16);
		from = i + 1;
	}
	free(durable.buf);
}

/*
 * Errors.
 */

/* With something wrong: it is not attached, or it is and all is well. */
static void look_at_try(struct run *run, struct file *filp, const char *when,
			int only_error)
{
	struct qcow2_reason why;
	struct bytes image;
	int ret;

	wl_name_seed(run->seed, HANG_SECONDS);
	ret = attach(filp, true, &why);
	memfile_fault(filp, NULL);
	shim_fail_nth_allocation(U64_MAX, 1);
	shim_kill_after(U64_MAX);
	image = content_of(filp);
	if (ret && !why.text[0])
		bad(run, &image, when, "no reason is given (%d)", ret);
	if (ret && only_error && ret != only_error)
		bad(run, &image, when, "%s (%d)", why.text, ret);
	look_at_left(run, &image, when);
	free(image.buf);
	total.faults++;
}

static void try_fault(struct run *run, enum memfile_op op, int error,
		      bool torn, u64 skip)
{
	struct file *filp = file_of(run, &run->dirty, false);
	struct memfile_fault fault = {
		.ops = 1U << op,
		.skip = skip,
		.times = 1,
		.error = error,
		.torn = torn,
	};
	char when[80];

	snprintf(when, sizeof(when), "operation of kind %d, number %llu gives %d",
		 op, skip, error);
	memfile_fault(filp, &fault);
	look_at_try(run, filp, when, 0);
	memfile_destroy(filp);
}

static void try_no_memory(struct run *run, u64 skip, u64 times)
{
	struct file *filp = file_of(run, &run->dirty, false);
	long long live;
	char when[80];

	rcu_barrier();
	live = shim_live_allocations();
	snprintf(when, sizeof(when), "allocation %llu and %llu more fail",
		 skip, times - 1);
	shim_fail_nth_allocation(skip, times);
	look_at_try(run, filp, when, -ENOMEM);
	rcu_barrier();
	if (shim_live_allocations() != live)
		bad(run, NULL, when, "%lld pieces of memory were not freed",
		    shim_live_allocations() - live);
	memfile_destroy(filp);
}

static void try_kill(struct run *run, u64 after)
{
	struct file *filp = file_of(run, &run->dirty, false);
	char when[80];

	snprintf(when, sizeof(when), "killed after %llu looks", after);
	shim_kill_after(after);
	look_at_try(run, filp, when, -EINTR);
	memfile_destroy(filp);
}

/* Each of a few, else @NR_FAULTS of them at random and the last ones. */
static bool next_index(struct run *run, u64 nr, u64 *i, unsigned int tries)
{
	if (nr <= 2 * NR_FAULTS)
		*i = tries;
	else if (tries < NR_FAULTS)
		*i = shim_below(&run->r, nr);
	else
		*i = nr - 1 - (tries - NR_FAULTS);
	return tries < min_t(u64, nr, 2 * NR_FAULTS);
}

/* @counts: how often the repair and the close after it did each. */
static void fail_everywhere(struct run *run, const u64 *counts, u64 allocations)
{
	static const struct {
		enum memfile_op op;
		int error;
		bool torn;
	} rows[] = {
		{ MEMFILE_READ, -EIO, false },
		{ MEMFILE_WRITE, -EIO, false },
		{ MEMFILE_WRITE, -EIO, true },
		{ MEMFILE_WRITE, -ENOSPC, true },
		{ MEMFILE_FLUSH, -EIO, false },
	};
	unsigned int i, tries;
	u64 index;

	for (i = 0; i < ARRAY_SIZE(rows); i++)
		for (tries = 0; next_index(run, counts[rows[i].op], &index,
					   tries); tries++)
			try_fault(run, rows[i].op, rows[i].error, rows[i].torn,
				  index);
	for (tries = 0; next_index(run, allocations, &index, tries); tries++)
		try_no_memory(run, index, 1 + 19 * shim_below(&run->r, 2));
	for (tries = 0; next_index(run, counts[MEMFILE_READ], &index, tries);
	     tries++)
		try_kill(run, index);
}

/*
 * Images.
 */

struct crash {
	unsigned int cluster_bits;
	unsigned int refcount_bits;
	bool extl2;
	bool snapshot;
	bool compressed;
	u64 virtual_bytes;
};

static void choose_crash(struct crash *c, struct shim_random *r)
{
	c->cluster_bits = 9 + shim_below(r, 13);
	c->extl2 = c->cluster_bits >= 14 && shim_below(r, 2);
	c->refcount_bits = 1U << shim_below(r, 7);
	c->snapshot = c->refcount_bits > 1 && shim_below(r, 2);
	/* Several of them in a cluster are several references. */
	c->compressed = c->refcount_bits > 4 && shim_below(r, 2);
	c->virtual_bytes = (512 + shim_below(r, 4096)) * 1024;
}

/* Compressed data cannot be written twice: some of it fails. */
static void qemu_io(const char *path, const struct crash *c,
		    struct shim_random *r, bool crash)
{
	static char text[32][64];
	const char *argv[80];
	unsigned int i, n = 0, nr = 4 + shim_below(r, 24);

	argv[n++] = "qemu-io";
	argv[n++] = "-f";
	argv[n++] = "qcow2";
	for (i = 0; i < nr; i++) {
		u64 cluster = 1ULL << c->cluster_bits;
		u64 unit = shim_below(r, 4) ? cluster : 512;
		bool compress = c->compressed && unit == cluster &&
				shim_below(r, 2);
		u64 offset, bytes;

		if (unit > c->virtual_bytes)
			continue;
		offset = shim_below(r, c->virtual_bytes / unit) * unit;
		bytes = min(c->virtual_bytes - offset,
			    compress ? unit : unit * (1 + shim_below(r, 20)));
		snprintf(text[i], sizeof(text[i]), "%s %llu %llu",
			 compress ? "write -q -c -P 7" :
			 shim_below(r, 5) ? "write -q -P 5" :
			 shim_below(r, 2) ? "write -q -z" : "discard -q",
			 offset, bytes);
		argv[n++] = "-c";
		argv[n++] = text[i];
	}
	if (crash) {
		argv[n++] = "-c";
		argv[n++] = "sigraise 9";
	}
	argv[n++] = path;
	argv[n++] = NULL;
	run_program(argv, true);
}

static int create(const struct crash *c, const char *path)
{
	char options[256], size[32];
	const char * const argv[] = {
		"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path,
		size, NULL
	};

	snprintf(options, sizeof(options),
		 "cluster_size=%u,refcount_bits=%u,lazy_refcounts=on%s",
		 1U << c->cluster_bits, c->refcount_bits,
		 c->extl2 ? ",extended_l2=on" : "");
	snprintf(size, sizeof(size), "%llu", c->virtual_bytes);
	return run_program(argv, false);
}

static int make_crashed(const struct crash *c, const char *path, u64 number)
{
	struct shim_random r = { .state = number };
	const char * const snapshot[] = {
		"qemu-img", "snapshot", "-c", "first", path, NULL
	};

	if (create(c, path))
		return -1;
	if (c->snapshot) {
		qemu_io(path, c, &r, false);
		if (run_program(snapshot, false))
			return -1;
	}
	qemu_io(path, c, &r, true);
	return 0;
}

/* QEMU is killed while it has an image open whose refcounts are lazy. */
static void get_crashed(struct run *run, u64 number, char *path, size_t bytes)
{
	struct shim_random r = { .state = number ^ 0x6372617368ULL };
	struct crash c;
	char work[620];

	choose_crash(&c, &r);
	snprintf(run->name, sizeof(run->name),
		 "crashed %llu (c%u r%u%s%s%s)", number, c.cluster_bits,
		 c.refcount_bits, c.extl2 ? " extl2" : "",
		 c.snapshot ? " snapshot" : "",
		 c.compressed ? " compressed" : "");
	snprintf(path, bytes, "%s/crashed-%llu.qcow2", args.images, number);
	if (!access(path, R_OK))
		return;
	snprintf(work, sizeof(work), "%s.%d", path, getpid());
	if (make_crashed(&c, work, number) || rename(work, path))
		wl_fail(run->seed, "cannot make %s", work);
}

/* One or two clusters of the refcount table count all of it, nearly. */
static void choose_full(struct base_options *base, u64 number)
{
	*base = (struct base_options) {
		.cluster_bits = 9, .refcount_bits = 64, .version = 3,
		.metadata = true, .snapshot = number & 1,
		.virtual_bytes = 512 * (number % 3 ? 5000 : 3900),
		.seed = number,
	};
	if (number % 5 == 1) {
		base->refcount_bits = 16;
		base->virtual_bytes = 512 * 17000;
	}
}

static void get_closed(struct run *run, u64 number, char *path, size_t bytes)
{
	struct base_options base;

	if (number < NR_FULL)
		choose_full(&base, number);
	else
		do
			base_choose(&base, number);
		while (base.version < 3 && (number += NR_CLOSED));
	base_describe(&base, run->name, sizeof(run->name));
	if (base_make(&base, args.images, path, bytes))
		exit(2);
}

/*
 * What a crash may have left undone, and more.
 */

enum damage {
	NO_BLOCKS	= 1 << 0,	/* some blocks are missing */
	SHORT_TABLE	= 1 << 1,	/* the refcount table is cut short */
	FLAGS		= 1 << 2,	/* COPIED is set or cleared at random */
	FEW_COUNTS	= 1 << 3,	/* some refcounts are random */
	ALL_COUNTS	= 1 << 4,	/* all are */
	ZERO_COUNTS	= 1 << 5,	/* all are 0 */
	MAX_COUNTS	= 1 << 6,	/* all are as high as can be */
	ALL_BLOCKS	= 1 << 7,	/* all blocks are missing */
};

static void spoil_block(struct run *run, u64 block, unsigned int damage)
{
	unsigned char *buf = run->dirty.buf + block;
	u64 i;

	for (i = 0; i < run->q.cluster_bytes; i++) {
		if ((damage & FEW_COUNTS) && !shim_below(&run->r, 64))
			buf[i] = shim_random(&run->r);
		if (damage & ALL_COUNTS)
			buf[i] = shim_random(&run->r);
		if (damage & ZERO_COUNTS)
			buf[i] = 0;
		if (damage & MAX_COUNTS)
			buf[i] = 0xff;
	}
}

static void spoil_refcounts(struct run *run, unsigned int damage)
{
	const struct qimg *q = &run->q;
	u64 i;

	for (i = 0; i < reftable_entries(q); i++) {
		u64 pos = q->reftable_offset + i * 8;
		u64 block = get64(&run->dirty, pos);

		if (!block)
			continue;
		spoil_block(run, block, damage);
		if (!(damage & ALL_BLOCKS) &&
		    (!(damage & NO_BLOCKS) || shim_below(&run->r, 2)))
			continue;
		put64(&run->dirty, pos, 0);
		run->no_blocks = true;
	}
}

static void spoil_flag(struct run *run, u64 pos)
{
	u64 entry = get64(&run->dirty, pos);

	if ((entry & OFFSET) && !(entry & COMPRESSED) &&
	    !shim_below(&run->r, 4))
		put64(&run->dirty, pos, entry ^ COPIED);
}

static void spoil_flags(struct run *run)
{
	const struct qimg *q = &run->q;
	u64 i, pos;

	for (i = 0; i < q->l1_entries; i++) {
		u64 l2 = get64(&run->dirty, q->l1_offset + i * 8) & OFFSET;

		spoil_flag(run, q->l1_offset + i * 8);
		for (pos = l2; l2 && pos < l2 + q->cluster_bytes;
		     pos += q->entry_bytes)
			spoil_flag(run, pos);
	}
}

static void shorten_table(struct run *run)
{
	if (run->q.reftable_clusters < 2)
		return;
	put_unaligned_be32(1 + shim_below(&run->r,
					  run->q.reftable_clusters - 1),
			   run->dirty.buf + HEADER_REFTABLE + 8);
	run->no_blocks = true;
}

static unsigned int choose_damage(struct run *run)
{
	unsigned int damage = 0;

	if (!shim_below(&run->r, 3))
		damage |= NO_BLOCKS;
	if (!shim_below(&run->r, 3))
		damage |= SHORT_TABLE;
	if (!shim_below(&run->r, 3))
		damage |= FLAGS;
	return damage | (FEW_COUNTS << shim_below(&run->r, 5) &
			 (FEW_COUNTS | ALL_COUNTS | ZERO_COUNTS | MAX_COUNTS));
}

static void damage_image(struct run *run, unsigned int damage)
{
	put64(&run->dirty, HEADER_INCOMPAT,
	      get64(&run->dirty, HEADER_INCOMPAT) | DIRTY);
	spoil_refcounts(run, damage);
	if (damage & FLAGS)
		spoil_flags(run);
	if (damage & SHORT_TABLE)
		shorten_table(run);
	snprintf(run->name + strlen(run->name),
		 sizeof(run->name) - strlen(run->name), ", damage 0x%x",
		 damage);
}

static void open_q(struct run *run)
{
	const char *why = qimg_open(&run->q, run->dirty.buf, run->dirty.nr);

	if (why)
		wl_fail(run->seed, "%s: %s", run->name, why);
}

static void load(struct run *run, const char *path)
{
	struct bytes file;

	file.buf = must(read_file(path, &file.nr));
	run->dirty = file;
	open_q(run);
	/* The last cluster may be there in part; refcount blocks never are. */
	run->dirty = copy_of(&file, round_up(file.nr, run->q.cluster_bytes));
	free(file.buf);
	open_q(run);
}

/*
 * A run.
 */

/* A read-only attach leaves it as it is. */
static void look_at_read_only(const struct run *run)
{
	struct file *filp = file_of(run, &run->dirty, true);
	struct qcow2_reason why;
	size_t nr;
	int ret = attach(filp, false, &why);

	if (ret)
		bad(run, NULL, "read-only", "%s (%d)", why.text, ret);
	memfile_log(filp, &nr);
	if (nr)
		bad(run, NULL, "read-only", "the file was written");
	memfile_destroy(filp);
}

static void note_what(const struct run *run, const struct bytes *after)
{
	total.images++;
	total.longer += get64(&run->dirty, HEADER_REFTABLE) !=
			get64(after, HEADER_REFTABLE);
	total.blocks += run->no_blocks;
}

static void repair_whole(struct run *run)
{
	struct file *filp = file_of(run, &run->dirty, true);
	struct qcow2_reason why;
	u64 counts[MEMFILE_NR_OPS], allocations;
	struct bytes after;
	int op, ret;

	shim_log_clear();
	shim_fail_nth_allocation(U64_MAX, 1);
	ret = attach(filp, true, &why);
	if (ret)
		bad(run, NULL, "the repair", "%s (%d)", why.text, ret);
	allocations = shim_counted_allocations();
	for (op = 0; op < MEMFILE_NR_OPS; op++)
		counts[op] = memfile_count(filp, op);
	after = content_of(filp);
	look_at_clean(run, &after, "the repair");
	look_at_log(run, &after);
	note_what(run, &after);
	if (qemu_every && !shim_below(&run->r, qemu_every))
		ask_qemu(run, &after);
	free(after.buf);
	cut_everywhere(run, filp);
	memfile_destroy(filp);
	fail_everywhere(run, counts, allocations);
}

/* What the disk holds; false if our reader does not know its compression. */
static bool read_disk(const struct run *run, unsigned char **content)
{
	*content = must(calloc(1, run->q.virtual_bytes));
	return !qimg_read(&run->q, 0, run->q.virtual_bytes, *content);
}

/*
 * The engine goes on with what it has in memory: what it allocates next must be
 * free, and what it counts must be counted.
 */
static void use_after_repair(struct run *run)
{
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
	};
	struct workload w = {
		.seed = run->seed,
		.align = WL_SECTOR,
		.mix = { .write = 50, .flush = 5, .discard = 20 },
		.max_op_bytes = 65536,
		.filp = file_of(run, &run->dirty, false),
	};
	struct qcow2_reason why = {};
	unsigned char *content;
	struct qcheck check;
	struct bytes after;
	struct qimg q;

	if (read_disk(run, &content))
		w.mix.read = 50;
	wl_init(&w, content, run->q.virtual_bytes);
	w.img = qcow2_image_open(w.filp, "test", &options, &why);
	if (IS_ERR(w.img))
		bad(run, NULL, "used after the repair", "%s", why.text);
	wl_run(&w, 1, 60, shim_random(&run->r));
	if (qcow2_image_needs_check(w.img) || qcow2_image_close(w.img))
		bad(run, NULL, "used after the repair", "the image failed: %s",
		    shim_log());
	after = content_of(w.filp);
	if (qimg_open(&q, after.buf, after.nr))
		bad(run, &after, "used after the repair", "it is no image");
	qimg_check(&q, &check);
	if (check.dirty || check.corruptions || check.leaks)
		bad(run, &after, "used after the repair",
		    "dirty %d, %u corruptions, %u leaks; %s", check.dirty,
		    check.corruptions, check.leaks, check.first);
	free(after.buf);
	memfile_destroy(w.filp);
	wl_destroy(&w);
}

/* With the image that was loaded, and all that is tried. */
static void run_image(struct run *run, unsigned int damage)
{
	damage_image(run, damage);
	open_q(run);
	if (args.verbose)
		fprintf(stderr, "seed %llu: %s, %zu bytes\n", run->seed,
			run->name, run->dirty.nr);
	look_at_read_only(run);
	repair_whole(run);
	use_after_repair(run);
	free(run->dirty.buf);
	free(run);
}

static struct run *new_run(u64 seed)
{
	struct run *run = must(calloc(1, sizeof(*run)));

	wl_name_seed(seed, HANG_SECONDS);
	run->seed = seed;
	run->r.state = seed;
	return run;
}

static void run_seed(u64 seed)
{
	struct run *run = new_run(seed);
	unsigned int damage = 0;
	char path[600];

	if (shim_below(&run->r, 2)) {
		get_crashed(run, shim_below(&run->r, NR_CRASHED), path,
			    sizeof(path));
		/* As QEMU left it, or worse. */
		if (shim_below(&run->r, 3))
			damage = choose_damage(run);
	} else {
		get_closed(run, shim_below(&run->r, NR_CLOSED), path,
			   sizeof(path));
		damage = choose_damage(run);
	}
	load(run, path);
	run_image(run, damage);
}

/*
 * Fixed cases: what is refused, and what is not.
 */

/**
 * struct victim - an image with one thing wrong, and where things are
 * @run: for messages; has the image
 * @l1: position of the first L1 entry
 * @l2: the first L2 table
 * @entry: position of its first entry that has a cluster
 * @next: of the second
 */
struct victim {
	struct run run;
	u64 l1;
	u64 l2;
	u64 entry;
	u64 next;
};

static void set(struct victim *v, u64 pos, u64 value)
{
	put64(&v->run.dirty, pos, value);
}

static u64 get(const struct victim *v, u64 pos)
{
	return get64(&v->run.dirty, pos);
}

/* Somewhere else, and with the same flags. */
static void point(struct victim *v, u64 pos, u64 to)
{
	set(v, pos, (get(v, pos) & ~OFFSET) | to);
}

static u64 far(const struct victim *v)
{
	return v->run.dirty.nr + v->run.q.cluster_bytes;
}

static u64 first_block(const struct victim *v)
{
	return get(v, v->run.q.reftable_offset);
}

static void data_far(struct victim *v)
{
	point(v, v->entry, far(v));
}

static void data_very_far(struct victim *v)
{
	point(v, v->entry, OFFSET & ~(v->run.q.cluster_bytes - 1));
}

static void data_unaligned(struct victim *v)
{
	point(v, v->entry, (get(v, v->entry) & OFFSET) + 512);
}

static void data_on_header(struct victim *v)
{
	set(v, v->entry, COMPRESSED | 512);
}

static void data_on_l1(struct victim *v)
{
	point(v, v->entry, v->run.q.l1_offset);
}

static void data_on_reftable(struct victim *v)
{
	point(v, v->entry, v->run.q.reftable_offset);
}

static void data_on_refblock(struct victim *v)
{
	point(v, v->entry, first_block(v));
}

static void data_on_snapshots(struct victim *v)
{
	point(v, v->entry, v->run.q.snapshots_offset);
}

static void data_on_inactive_l1(struct victim *v)
{
	point(v, v->entry, get(v, v->run.q.snapshots_offset));
}

static void data_on_l2(struct victim *v)
{
	point(v, v->entry, v->l2);
}

static void l2_on_data(struct victim *v)
{
	point(v, v->l1 + 8, get(v, v->entry) & OFFSET);
}

static void l2_on_refblock(struct victim *v)
{
	point(v, v->l1, first_block(v));
}

static void l2_twice(struct victim *v)
{
	set(v, v->l1 + 8, get(v, v->l1));
}

static void l2_far(struct victim *v)
{
	point(v, v->l1, far(v));
}

static void l2_unaligned(struct victim *v)
{
	point(v, v->l1, v->l2 + 512);
}

static void inactive_l2_far(struct victim *v)
{
	point(v, get(v, v->run.q.snapshots_offset), far(v));
}

static void inactive_l1_on_l1(struct victim *v)
{
	set(v, v->run.q.snapshots_offset, v->run.q.l1_offset);
}

static void refblock_twice(struct victim *v)
{
	set(v, v->run.q.reftable_offset + 8, first_block(v));
}

static void refblock_far(struct victim *v)
{
	set(v, v->run.q.reftable_offset + 8, far(v));
}

static void refblock_unaligned(struct victim *v)
{
	set(v, v->run.q.reftable_offset, first_block(v) + 512);
}

static void refblock_on_l2(struct victim *v)
{
	set(v, v->run.q.reftable_offset + 8, v->l2);
}

static void compressed_far(struct victim *v)
{
	set(v, v->entry, COMPRESSED | (far(v) + 1000));
}

static void zero_flag_and_more(struct victim *v)
{
	set(v, v->entry + 8, 1ULL << 32 | 1);
}

static void too_many_users(struct victim *v)
{
	point(v, v->next, get(v, v->entry) & OFFSET);
}

static const struct base_options sound = {
	.cluster_bits = 12, .refcount_bits = 16, .version = 3, .metadata = true,
	.snapshot = true, .virtual_bytes = 4 << 20, .seed = 1,
};

static const struct base_options wide = {
	.cluster_bits = 12, .refcount_bits = 64, .version = 3, .metadata = true,
	.virtual_bytes = 4 << 20, .seed = 1,
};

static const struct base_options one_bit = {
	.cluster_bits = 12, .refcount_bits = 1, .version = 3, .metadata = true,
	.virtual_bytes = 4 << 20, .seed = 1,
};

static const struct base_options extended = {
	.cluster_bits = 14, .refcount_bits = 16, .version = 3, .metadata = true,
	.extl2 = true, .virtual_bytes = 16 << 20, .seed = 1,
};

/**
 * struct refusal - an image that must not be touched
 * @name: of the row
 * @base: the image
 * @make: what is wrong
 * @says: words of the reason
 */
static const struct refusal {
	const char *name;
	const struct base_options *base;
	void (*make)(struct victim *v);
	const char *says[2];
} refusals[] = {
	{ "data behind the file", &sound, data_far, { "data at", "end of the file" } },
	{ "data at 2^56", &sound, data_very_far, { "data at", "end of the file" } },
	{ "data unaligned", &sound, data_unaligned, { "L2 entry", "damaged" } },
	{ "data on the header", &sound, data_on_header, { "compressed", "offset 0x0" } },
	{ "data on the L1 table", &sound, data_on_l1, { "data and other metadata" } },
	{ "data on the refcount table", &sound, data_on_reftable, { "data and other metadata" } },
	{ "data on a refcount block", &sound, data_on_refblock, { "data and other metadata" } },
	{ "data on the snapshot table", &sound, data_on_snapshots, { "data and other metadata" } },
	{ "data on an inactive L1 table", &sound, data_on_inactive_l1, { "data and other metadata" } },
	{ "data on an L2 table", &sound, data_on_l2, { "data and an L2 table" } },
	{ "L2 table on data", &sound, l2_on_data, { "data and an L2 table" } },
	{ "L2 table on a refcount block", &sound, l2_on_refblock, { "an L2 table and other metadata" } },
	{ "L2 table twice", &wide, l2_twice, { "the L2 table at", "several entries" } },
	{ "L2 table behind the file", &sound, l2_far, { "an L2 table at", "end of the file" } },
	{ "L2 table unaligned", &sound, l2_unaligned, { "L1 entry", "damaged" } },
	{ "L2 table of a snapshot behind the file", &sound, inactive_l2_far, { "an L2 table at", "end of the file" } },
	{ "two L1 tables in one place", &sound, inactive_l1_on_l1, { "a snapshot's L1 table and other metadata" } },
	{ "refcount block twice", &sound, refblock_twice, { "refcount table has the block", "twice" } },
	{ "refcount block behind the file", &sound, refblock_far, { "a refcount block at", "end of the file" } },
	{ "refcount block unaligned", &sound, refblock_unaligned, { "refcount table entry 0", "damaged" } },
	{ "refcount block on an L2 table", &sound, refblock_on_l2, { "an L2 table and other metadata" } },
	{ "compressed data behind the file", &sound, compressed_far, { "a compressed cluster at", "end of the file" } },
	{ "subcluster in two states", &extended, zero_flag_and_more, { "L2 entry", "damaged" } },
	{ "more users than a refcount can say", &one_bit, too_many_users, { "more than 1 users", "1 bits" } },
};

static void find_places(struct victim *v)
{
	const struct qimg *q = &v->run.q;
	u64 pos;

	v->l1 = q->l1_offset;
	v->l2 = get(v, v->l1) & OFFSET;
	for (pos = v->l2; v->l2 && pos < v->l2 + q->cluster_bytes;
	     pos += q->entry_bytes) {
		if (!(get(v, pos) & OFFSET))
			continue;
		if (v->entry) {
			v->next = pos;
			return;
		}
		v->entry = pos;
	}
	wl_fail(v->run.seed, "%s: no two clusters in the first L2 table",
		v->run.name);
}

static void make_victim(struct victim *v, const char *name,
			const struct base_options *base)
{
	char path[600];

	memset(v, 0, sizeof(*v));
	wl_name_seed(0, HANG_SECONDS);
	snprintf(v->run.name, sizeof(v->run.name), "%s", name);
	if (base_make(base, args.images, path, sizeof(path)))
		exit(2);
	load(&v->run, path);
	find_places(v);
	put64(&v->run.dirty, HEADER_INCOMPAT,
	      get64(&v->run.dirty, HEADER_INCOMPAT) | DIRTY);
}

/* What refusing a small image may take. */
#define REFUSAL_BYTES	(1 << 20)

static void must_refuse(struct victim *v, const char * const says[2])
{
	struct file *filp = file_of(&v->run, &v->run.dirty, true);
	struct qcow2_reason why;
	size_t nr;
	int i, ret = attach(filp, true, &why);

	if (ret != -EUCLEAN)
		bad(&v->run, NULL, "the repair", "%d (%s)", ret, why.text);
	for (i = 0; i < 2 && says[i]; i++)
		if (!strstr(why.text, says[i]))
			bad(&v->run, NULL, "the repair", "no '%s' in '%s'",
			    says[i], why.text);
	if (!strstr(why.text, "qemu-img check -r all") ||
	    strchr(why.text, '\n'))
		bad(&v->run, NULL, "the repair", "the reason is '%s'", why.text);
	memfile_log(filp, &nr);
	if (nr)
		bad(&v->run, NULL, "the repair", "the file was written");
	if (attach_peak > REFUSAL_BYTES)
		bad(&v->run, NULL, "the repair", "it took %llu bytes of memory",
		    attach_peak);
	memfile_destroy(filp);
	total.refused++;
}

static void refuse(const struct refusal *row)
{
	struct victim v;

	make_victim(&v, row->name, row->base);
	row->make(&v);
	must_refuse(&v, row->says);
	free(v.run.dirty.buf);
}

static struct bytes repair_it(struct run *run, const struct bytes *image)
{
	struct file *filp = file_of(run, image, false);
	struct qcow2_reason why;
	struct bytes after;
	int ret = attach(filp, true, &why);

	if (ret)
		bad(run, NULL, "the repair", "%s (%d)", why.text, ret);
	after = content_of(filp);
	memfile_destroy(filp);
	total.images++;
	return after;
}

/* Both keep it, and neither may be written in place. */
static void data_with_two_users(void)
{
	struct victim v;
	struct bytes after;

	make_victim(&v, "data with two users", &sound);
	point(&v, v.next, get(&v, v.entry) & OFFSET);
	set(&v, v.entry, get(&v, v.entry) | COPIED);
	set(&v, v.next, get(&v, v.next) | COPIED);
	after = repair_it(&v.run, &v.run.dirty);
	if ((get64(&after, v.entry) | get64(&after, v.next)) & COPIED)
		bad(&v.run, &after, "the repair", "COPIED with several users");
	ask_qemu(&v.run, &after);
	free(after.buf);
	free(v.run.dirty.buf);
}

/* An entry without a cluster of its own is never COPIED. */
static void copied_without_cluster(void)
{
	struct victim v;
	struct bytes after;

	make_victim(&v, "COPIED without a cluster", &one_bit);
	set(&v, v.entry, COPIED | 1);
	set(&v, v.next, COPIED | (get(&v, v.next) & OFFSET) | COMPRESSED);
	after = repair_it(&v.run, &v.run.dirty);
	if ((get64(&after, v.entry) | get64(&after, v.next)) & COPIED)
		bad(&v.run, &after, "the repair", "COPIED without a cluster");
	free(after.buf);
	free(v.run.dirty.buf);
}

/* Each cluster of a very long file has a page of counts to itself. */
static void scattered_thinly(void)
{
	static const char * const says[2] = { "scattered" };
	struct base_options base = sound;
	struct victim v;
	u64 pos, end, to;

	base.cluster_bits = 21;
	base.virtual_bytes = 8 << 20;
	base.snapshot = false;
	make_victim(&v, "scattered thinly", &base);
	end = v.l2 + v.run.q.cluster_bytes;
	for (pos = v.l2, to = 1ULL << 40; pos < end; pos += 8, to += 1ULL << 32)
		set(&v, pos, to);
	{
		struct file *filp = file_of(&v.run, &v.run.dirty, false);
		struct qcow2_reason why;
		int ret;

		memfile_truncate(filp, 1ULL << 55);
		ret = attach(filp, true, &why);
		if (ret != -EUCLEAN || !strstr(why.text, says[0]))
			bad(&v.run, NULL, "the repair", "%d (%s)", ret,
			    why.text);
		memfile_destroy(filp);
	}
	total.refused++;
	free(v.run.dirty.buf);
}

/*
 * Images that mention something very often. They are made of a small one, whose
 * clusters have refcounts of 64 bits, by adding clusters and a snapshot table.
 */

/* A snapshot of the least length: no name, no extra data but what QEMU wants. */
#define SNAPSHOT_BYTES	64

/* Gives the image @nr clusters more, at its end; where they are. */
static u64 add_clusters(struct victim *v, u64 nr)
{
	u64 start = round_up(v->run.dirty.nr, v->run.q.cluster_bytes);
	struct bytes image;

	image = copy_of(&v->run.dirty, start + nr * v->run.q.cluster_bytes);
	image.nr = start + nr * v->run.q.cluster_bytes;
	free(v->run.dirty.buf);
	v->run.dirty = image;
	return start;
}

/* @nr snapshots, whose L1 tables of @entries lie at @l1 and each @step bytes on. */
static void add_snapshots(struct victim *v, u64 nr, u64 l1, u64 step,
			  u64 entries)
{
	u64 bytes = nr * SNAPSHOT_BYTES, pos, i;

	pos = add_clusters(v, DIV_ROUND_UP(bytes, v->run.q.cluster_bytes));
	set(v, HEADER_SNAPSHOTS, nr << 32);
	set(v, HEADER_SNAPSHOTS + 4, pos);
	for (i = 0; i < nr; i++, pos += SNAPSHOT_BYTES) {
		unsigned char *head = v->run.dirty.buf + pos;
		char id[24];

		put_unaligned_be64(l1 + i * step, head);
		put_unaligned_be32(entries, head + 8);
		put_unaligned_be16(8, head + 12);
		put_unaligned_be32(16, head + 36);
		put_unaligned_be64(v->run.q.virtual_bytes, head + 48);
		snprintf(id, sizeof(id), "%08llu", i + 1);
		memcpy(head + 56, id, 8);
	}
	open_q(&v->run);
}

/* @nr L1 tables, of which each has the same entry. */
static u64 add_l1_tables(struct victim *v, u64 nr, u64 entry)
{
	u64 start = add_clusters(v, nr), i;

	for (i = 0; i < nr; i++)
		set(v, start + i * v->run.q.cluster_bytes, entry);
	return start;
}

/* All of them keep it, and nothing of it may be written in place. */
static void table_with_many_users(void)
{
	const u64 nr = 500;
	struct qcow2_reason why;
	struct bytes after;
	struct victim v;
	struct file *filp;
	u64 l1, reads;
	int ret;

	make_victim(&v, "an L2 table with many users", &wide);
	l1 = add_l1_tables(&v, nr, v.l2);
	add_snapshots(&v, nr, l1, v.run.q.cluster_bytes, 1);
	filp = file_of(&v.run, &v.run.dirty, false);
	ret = attach(filp, true, &why);
	if (ret)
		bad(&v.run, NULL, "the repair", "%s (%d)", why.text, ret);
	after = content_of(filp);
	look_at_clean(&v.run, &after, "the repair");
	if ((get64(&after, v.l1) | get64(&after, v.entry)) & COPIED)
		bad(&v.run, &after, "the repair", "COPIED with several users");
	/* A read of each L1 table, and some for all the others. */
	reads = memfile_count(filp, MEMFILE_READ);
	if (reads > nr + nr / 2)
		bad(&v.run, &after, "the repair", "%llu reads", reads);
	if (attach_peak > REFUSAL_BYTES)
		bad(&v.run, &after, "the repair", "it took %llu bytes of memory",
		    attach_peak);
	ask_qemu(&v.run, &after);
	total.images++;
	memfile_destroy(filp);
	free(after.buf);
	free(v.run.dirty.buf);
}

/* One entry more than a refcount can say. */
static void table_with_too_many_users(void)
{
	static const char * const says[2] = { "more than 255 users", "8 bits" };
	struct base_options base = wide;
	struct victim v;
	u64 l1;

	base.refcount_bits = 8;
	make_victim(&v, "an L2 table with too many users", &base);
	l1 = add_l1_tables(&v, 128, v.l2);
	set(&v, v.next, get(&v, v.entry));
	add_snapshots(&v, 128, l1, v.run.q.cluster_bytes, 1);
	must_refuse(&v, says);
	free(v.run.dirty.buf);
}

/* Each of them needs one of its own, however many there are. */
static void l1_table_with_many_users(void)
{
	static const char * const says[2] = {
		"a snapshot's L1 table and other metadata"
	};
	struct victim v;
	u64 l1;

	make_victim(&v, "a snapshot's L1 table with many users", &wide);
	l1 = add_l1_tables(&v, 1, v.l2);
	add_snapshots(&v, 1000, l1, 0, 1);
	must_refuse(&v, says);
	free(v.run.dirty.buf);
}

/* A longer disk, with an L1 table of one cluster. */
static void enlarge(struct victim *v)
{
	u64 cluster = v->run.q.cluster_bytes, l1 = add_clusters(v, 1);

	memcpy(v->run.dirty.buf + l1, v->run.dirty.buf + v->l1,
	       8 * v->run.q.l1_entries);
	set(v, HEADER_SIZE, cluster / 8 * cluster / 8 * cluster);
	put_unaligned_be32(cluster / 8, v->run.dirty.buf + HEADER_L1_SIZE);
	set(v, HEADER_L1, l1);
	open_q(&v->run);
	v->l1 = l1;
}

/* L2 tables whose entries need more counts than what is always allowed. */
#define NR_SCATTERED	200

/* L2 tables, whose entries point so far apart that each needs its own counts. */
static void add_scattered(struct victim *v)
{
	u64 cluster = v->run.q.cluster_bytes;
	u64 table = add_clusters(v, NR_SCATTERED), to = 1ULL << 32, i;

	for (i = 0; i < NR_SCATTERED; i++)
		set(v, v->l1 + 8 * (i + 1), table + i * cluster);
	for (i = 0; i < NR_SCATTERED * cluster; i += 8) {
		set(v, table + i, to);
		to += 1ULL << 22;
	}
}

/* An L2 table full of references to one cluster. */
static u64 add_mentions(struct victim *v)
{
	u64 table = add_clusters(v, 1), pos;

	for (pos = table; pos < table + v->run.q.cluster_bytes; pos += 8)
		set(v, pos, get(v, v->entry));
	return table;
}

/*
 * Many snapshots have such a table: as many references as entries times users.
 * They are not a reason to take more memory for clusters that are scattered,
 * whose tables lie far before or far @behind that table: whatever is counted
 * first.
 */
static void mention_often(bool behind)
{
	const u64 nr = 4000, free_bytes = 256 << 20, each = 16 * 68 / 8;
	u64 cluster, table, l1, limit, i;
	struct qcow2_reason why;
	struct victim v;
	struct file *filp;
	int ret;

	make_victim(&v, "mentions buy no memory", &wide);
	enlarge(&v);
	cluster = v.run.q.cluster_bytes;
	table = behind ? add_mentions(&v) : 0;
	if (!behind)
		add_scattered(&v);
	l1 = add_l1_tables(&v, nr, table);
	table = behind ? table : add_mentions(&v);
	for (i = 0; i < nr; i++)
		set(&v, l1 + i * cluster, table);
	if (behind)
		add_scattered(&v);
	add_snapshots(&v, nr, l1, cluster, 1);
	filp = file_of(&v.run, &v.run.dirty, false);
	memfile_truncate(filp, 1ULL << 40);
	ret = attach(filp, true, &why);
	if (ret != -EUCLEAN || !strstr(why.text, "scattered"))
		bad(&v.run, NULL, "the repair", "%d (%s)", ret, why.text);
	limit = free_bytes + (nr + NR_SCATTERED * cluster / 8) * each +
		(8 << 20);
	if (attach_peak > limit || attach_peak < free_bytes / 2)
		bad(&v.run, NULL, "the repair",
		    "it took %llu bytes of memory, and may take %llu",
		    attach_peak, limit);
	total.refused++;
	memfile_destroy(filp);
	free(v.run.dirty.buf);
}

static void mentions_buy_no_memory(void)
{
	mention_often(false);
	mention_often(true);
}

/* Compressed data that does not fit in what is left of a host cluster. */
static void make_compressed(const char *path)
{
	char raw[620];
	const char * const convert[] = {
		"qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
		"cluster_size=4096", raw, path, NULL
	};
	struct shim_random r = { .state = 1 };
	FILE *out;
	int i;

	snprintf(raw, sizeof(raw), "%s.raw", path);
	out = must(fopen(raw, "w"));
	for (i = 0; i < 1 << 18; i++)
		fprintf(out, "%02llx  ", shim_below(&r, 256));
	fclose(out);
	if (run_program(convert, false))
		wl_fail(0, "cannot make %s", path);
	unlink(raw);
}

static u64 count_crossing(const struct run *run)
{
	u64 l2 = get64(&run->dirty, run->q.l1_offset) & OFFSET, pos, data, nr;
	u64 crossing = 0;

	for (pos = l2; pos < l2 + run->q.cluster_bytes; pos += 8) {
		data_range(&run->q, get64(&run->dirty, pos), &data, &nr);
		crossing += nr && data / run->q.cluster_bytes !=
				  (data + nr - 1) / run->q.cluster_bytes;
	}
	return crossing;
}

static void compressed(void)
{
	struct run run = {};
	struct bytes after;
	char path[600];

	wl_name_seed(0, HANG_SECONDS);
	snprintf(path, sizeof(path), "%s/repair-%d-compressed.qcow2", args.work,
		 getpid());
	make_compressed(path);
	snprintf(run.name, sizeof(run.name), "compressed");
	load(&run, path);
	unlink(path);
	if (count_crossing(&run) < 10)
		wl_fail(0, "compressed clusters do not cross host clusters");
	put64(&run.dirty, HEADER_INCOMPAT, DIRTY);
	spoil_refcounts(&run, ALL_COUNTS);
	after = repair_it(&run, &run.dirty);
	look_at_clean(&run, &after, "the repair");
	ask_qemu(&run, &after);
	free(after.buf);
	free(run.dirty.buf);
}

/*
 * Bitmaps, which our checker does not know.
 */

static int qemu_img_check(const struct run *run, const struct bytes *image)
{
	char path[600];
	const char * const check[] = {
		"qemu-img", "check", "-q", "-f", "qcow2", path, NULL
	};
	int status;

	keep(run, image, "bitmaps", path, sizeof(path));
	status = run_program(check, true);
	if (!status)
		unlink(path);
	return status;
}

static void make_bitmaps(const char *path)
{
	const char * const create[] = {
		"qemu-img", "create", "-q", "-f", "qcow2", "-o",
		"cluster_size=4096", path, "4M", NULL
	};
	const char * const add[] = {
		"qemu-img", "bitmap", "--add", "-g", "4096", path, "first", NULL
	};
	const char * const second[] = {
		"qemu-img", "bitmap", "--add", "-g", "512", path,
		"a-second-one-with-a-longer-name", NULL
	};
	const char * const write[] = {
		"qemu-io", "-f", "qcow2", "-c", "write -q -P 3 100k 300k", path,
		NULL
	};

	if (run_program(create, false) || run_program(add, false) ||
	    run_program(second, false) || run_program(write, false))
		wl_fail(0, "cannot make %s", path);
}

static void try_bitmaps(const char *path, const char *name, u64 autoclear,
			u64 wanted)
{
	struct run run = {};
	struct bytes after;

	wl_name_seed(0, HANG_SECONDS);
	snprintf(run.name, sizeof(run.name), "%s", name);
	load(&run, path);
	if (get64(&run.dirty, HEADER_AUTOCLEAR) != 1)
		bad(&run, NULL, "bitmaps", "QEMU made none");
	put64(&run.dirty, HEADER_INCOMPAT, DIRTY);
	put64(&run.dirty, HEADER_AUTOCLEAR, autoclear);
	spoil_refcounts(&run, ALL_COUNTS);
	after = repair_it(&run, &run.dirty);
	if (get64(&after, HEADER_AUTOCLEAR) != wanted)
		bad(&run, &after, "bitmaps", "autoclear bits 0x%llx",
		    get64(&after, HEADER_AUTOCLEAR));
	if (qemu_img_check(&run, &after))
		bad(&run, &after, "bitmaps", "qemu-img check complains");
	free(after.buf);
	free(run.dirty.buf);
}

/* Those that mean something are kept; what is stale is free, as QEMU has it. */
static void bitmaps(void)
{
	char path[600];

	snprintf(path, sizeof(path), "%s/repair-%d-with-bitmaps.qcow2",
		 args.work, getpid());
	make_bitmaps(path);
	try_bitmaps(path, "bitmaps", 1, 1);
	try_bitmaps(path, "stale bitmaps", 0, 0);
	try_bitmaps(path, "bitmaps and an unknown feature", 1 | 1 << 5, 0);
	unlink(path);
}

/*
 * The first cluster of the refcount table goes where QEMU had it at first, which
 * is the lowest place that a new block could take.
 */
static void move_table_to_front(struct run *run)
{
	const struct qimg *q = &run->q;
	size_t nr;
	unsigned char *kinds = qimg_kinds(q, &nr);

	if (kinds[1] != QKIND_FREE)
		wl_fail(run->seed, "%s: the second cluster is in use",
			run->name);
	free(kinds);
	memcpy(run->dirty.buf + q->cluster_bytes,
	       run->dirty.buf + q->reftable_offset, q->cluster_bytes);
	put64(&run->dirty, HEADER_REFTABLE, q->cluster_bytes);
	put_unaligned_be32(1, run->dirty.buf + HEADER_REFTABLE + 8);
	run->no_blocks = true;
	open_q(run);
}

/* A full image, of whose refcount table the first cluster is left. */
static void full_image(const char *name, u64 number, unsigned int damage)
{
	struct run *run = new_run(number);
	u64 longer = total.longer;
	char path[600];

	get_closed(run, number, path, sizeof(path));
	snprintf(run->name, sizeof(run->name), "%s", name);
	load(run, path);
	if (damage & SHORT_TABLE)
		move_table_to_front(run);
	run_image(run, damage);
	if ((damage & SHORT_TABLE) && total.longer == longer)
		wl_fail(number, "%s: the table is not longer", name);
}

static void longer_table(void)
{
	full_image("a longer table", 1, SHORT_TABLE);
}

static void longer_table_and_no_blocks(void)
{
	full_image("a longer table, and no blocks", 4,
		   SHORT_TABLE | ALL_BLOCKS | ALL_COUNTS);
}

static void no_blocks_at_all(void)
{
	full_image("no blocks", 12, ALL_BLOCKS | FLAGS);
}

/* What lies behind the first range of refcounts goes to the sixth. */
static void move_data(struct victim *v)
{
	const struct qimg *q = &v->run.q;
	u64 range = 64 * q->cluster_bytes, to = 5 * range, pos;
	struct bytes image = copy_of(&v->run.dirty, 6 * range);

	free(v->run.dirty.buf);
	v->run.dirty = image;
	for (pos = v->l2; pos < v->l2 + q->cluster_bytes; pos += 8) {
		u64 from = get(v, pos) & OFFSET;

		if (from < range)
			continue;
		memcpy(image.buf + to, image.buf + from, q->cluster_bytes);
		point(v, pos, to);
		to += q->cluster_bytes;
	}
	v->run.dirty.nr = to;
	open_q(&v->run);
}

/*
 * The first range is full when it has its block again. Then there is nothing up
 * to some data in the sixth, whose block goes to the second: that wants one too.
 */
static void block_wants_a_block(void)
{
	static const struct base_options base = {
		.cluster_bits = 9, .refcount_bits = 64, .version = 3,
		.metadata = true, .virtual_bytes = 512 * 61, .seed = 1,
	};
	struct victim v;
	struct bytes after;
	u64 i, second;

	make_victim(&v, "a block that wants a block", &base);
	move_data(&v);
	for (i = 0; i < reftable_entries(&v.run.q); i++)
		set(&v, v.run.q.reftable_offset + i * 8, 0);
	after = repair_it(&v.run, &v.run.dirty);
	look_at_clean(&v.run, &after, "the repair");
	second = get64(&after, get64(&after, HEADER_REFTABLE) + 8);
	if (!second)
		bad(&v.run, &after, "the repair",
		    "the second range has no block");
	free(after.buf);
	free(v.run.dirty.buf);
}

static void make_with_data_file(const char *path, const char *data)
{
	char options[700];
	const char * const create[] = {
		"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path,
		"4M", NULL
	};
	const char * const write[] = {
		"qemu-io", "-f", "qcow2", "-c", "write -q -P 3 100k 300k", path,
		NULL
	};

	snprintf(options, sizeof(options),
		 "cluster_size=4096,data_file=%s,data_file_raw=on", data);
	if (run_program(create, false) || run_program(write, false))
		wl_fail(0, "cannot make %s", path);
}

/* Its clusters are nobody's in the image; and that it is raw stays true. */
static void data_file(void)
{
	struct memfile_options options = { .seed = 1 };
	char path[600], data[620];
	struct run run = {};
	struct bytes after;

	wl_name_seed(0, HANG_SECONDS);
	snprintf(run.name, sizeof(run.name), "data file");
	snprintf(path, sizeof(path), "%s/repair-%d-with-data.qcow2", args.work,
		 getpid());
	snprintf(data, sizeof(data), "%s.data", path);
	make_with_data_file(path, data);
	run.dirty.buf = must(read_file(path, &run.dirty.nr));
	/* The reader does not serve it, but decodes what is needed here. */
	qimg_open(&run.q, run.dirty.buf, run.dirty.nr);
	put64(&run.dirty, HEADER_INCOMPAT,
	      get64(&run.dirty, HEADER_INCOMPAT) | DIRTY);
	spoil_refcounts(&run, ALL_COUNTS);
	data_filp = memfile_create(&options);
	if (memfile_load(data_filp, data))
		wl_fail(0, "cannot load %s", data);
	after = repair_it(&run, &run.dirty);
	memfile_destroy(data_filp);
	data_filp = NULL;
	if (get64(&after, HEADER_AUTOCLEAR) !=
	    get64(&run.dirty, HEADER_AUTOCLEAR))
		bad(&run, &after, "data file", "autoclear bits 0x%llx",
		    get64(&after, HEADER_AUTOCLEAR));
	if (qemu_img_check(&run, &after))
		bad(&run, &after, "data file", "qemu-img check complains");
	free(after.buf);
	free(run.dirty.buf);
	unlink(path);
	unlink(data);
}

static void (* const others[])(void) = {
	data_file,
	block_wants_a_block,
	longer_table,
	longer_table_and_no_blocks,
	no_blocks_at_all,
	data_with_two_users,
	copied_without_cluster,
	scattered_thinly,
	table_with_many_users,
	table_with_too_many_users,
	l1_table_with_many_users,
	mentions_buy_no_memory,
	compressed,
	bitmaps,
};

static void run_cases(u64 from, u64 step)
{
	u64 i;

	for (i = from % step; i < ARRAY_SIZE(refusals) + ARRAY_SIZE(others);
	     i += step)
		if (i < ARRAY_SIZE(refusals))
			refuse(&refusals[i]);
		else
			others[i - ARRAY_SIZE(refusals)]();
}

int main(int argc, char **argv)
{
	const struct own_option own[] = {
		{ "qemu", "every Nth image goes to qemu-img (10; 0: none)",
		  &qemu_every },
		{}
	};
	const struct command command = { "repair", own, .endless = true };
	u64 seed;

	args_read(&command, argc, argv);
	shim_set_delay(SHIM_DELAY_NEVER);
	if (wl_init_pools())
		wl_fail(args.from, "cannot make the pools");
	if (!args.one)
		run_cases(args.from, args.step);
	while (args_next(&seed))
		run_seed(seed);
	alarm(0);
	wl_exit_pools();
	if (shim_warnings())
		wl_fail(args.from, "the engine warned");
	printf("repair: %llu images repaired, of which %llu lacked refcount blocks and %llu got a longer table; %llu power cuts, %llu errors; %llu images refused; %llu seen by qemu-img\n",
	       total.images, total.blocks, total.longer, total.cuts,
	       total.faults, total.refused, total.by_qemu);
	return total.images ? 0 : 1;
}
