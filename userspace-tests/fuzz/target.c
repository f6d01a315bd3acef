// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the fuzzer does with an input: makes its image, opens it (to be written, or
 * else to be read), reads what is mapped, does the input's operations, flushes,
 * reads again and closes it.
 *
 * Whatever the image says, nothing may crash, warn, hang or leak; a refusal has one
 * line that can be printed; what is read does not depend on what was in the memory
 * before; a write that succeeds can be read back; and the fields of the header that
 * nobody changes stay. Of an image that is sound before (qcheck.c) more is known:
 * it never fails, it reads as our own reader reads it and as it was written, and it
 * is sound afterwards.
 */

#include <errno.h>
#include <linux/completion.h>
#include <linux/kernel.h>
#include <linux/rcupdate.h>
#include <linux/sizes.h>
#include <linux/workqueue.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "image.h"
#include "memfile.h"
#include "qcheck.h"
#include "recipe.h"
#include "shim.h"
#include "workload.h"

#define MAX_OPS		64
#define MAX_PLACES	24
#define MAX_BESIDE	8
#define MAX_FILL_BYTES	SZ_4M
#define MAX_RW_BYTES	SZ_128K
#define MAX_CLUSTERS	4096	/* that an operation without data goes over */
#define MAX_FILE_END	(1ULL << 60)


/* Of images up to this size everything is compared. */
#define MODEL_FILE_BYTES	SZ_2M
#define MODEL_BYTES		SZ_1M
#define MODEL_ENTRIES		4096
#define MODEL_REFCOUNTS		(1U << 20)

struct fuzz_stats fuzz_stats;
bool fuzz_verbose;
const char *fuzz_image_path, *fuzz_result_path;

/* Large memory that is got anew each time would take most of the time. */
static u8 model_file[2 * MODEL_FILE_BYTES], model_content[MODEL_BYTES];
static u8 model_is[MODEL_BYTES], model_unknown[MODEL_BYTES / 512 + 1];

/**
 * struct operation - one that was submitted
 * @io: for the engine
 * @done: completes
 * @bv: the data
 * @buf: likewise
 * @offset: in bytes
 * @bytes: length
 */
struct operation {
	struct qcow2_io io;
	struct completion done;
	struct bio_vec bv;
	u8 *buf;
	u64 offset;
	u64 bytes;
};

/**
 * struct run - an input that is being run
 * @recipe: the input
 * @layout: of its image
 * @filps: the files, the image's first
 * @nr_files: number of them
 * @img: the image, while it is open
 * @options: enum recipe_options
 * @faults: errors were asked for
 * @align: of guest operations
 * @places: guest offsets that are mapped, and some others
 * @nr_places: number of them
 * @beside: operations in flight
 * @nr_beside: number of them
 * @counted: no cluster has more users than its refcount says, but for one that
 *	has one and counts as free
 * @content: what the disk holds, or NULL if nobody knows
 * @unknown: for each sector: an operation failed on it
 * @writes: number of writes so far
 */
struct run {
	const struct recipe *recipe;
	struct layout layout;
	struct file *filps[RECIPE_MAX_FILES];
	unsigned int nr_files;
	struct qcow2_image *img;
	unsigned int options;
	bool faults;
	unsigned int align;
	u64 places[MAX_PLACES];
	unsigned int nr_places;
	struct operation *beside[MAX_BESIDE];
	unsigned int nr_beside;
	bool counted;
	u8 *content;
	u8 *unknown;
	unsigned int writes;
};

__attribute__((format(printf, 1, 2)))
static void say(const char *fmt, ...)
{
	va_list args;

	if (!fuzz_verbose)
		return;
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

/*
 * The file.
 */

static void store_fill(struct file *filp, const struct record *rec,
		       u64 *budget)
{
	u64 bytes = min_t(u64, rec->bytes, *budget);
	u8 *buf = must(malloc(bytes + 8));
	u64 i;

	*budget -= bytes;
	for (i = 0; i < bytes; i += 8)
		memcpy(buf + i, &rec->word, 8);
	memfile_store(filp, rec->offset, buf, bytes);
	free(buf);
}

static void store_file(struct file *filp, const struct recipe *r,
		       unsigned int file)
{
	u64 budget = MAX_FILL_BYTES, bytes = recipe_file_bytes(r, file);
	unsigned int i, now = 0;

	for (i = 0; i < r->nr; i++) {
		const struct record *rec = &r->records[i];

		if (rec->type == RECORD_FILE)
			now++;
		if (now != file || rec->offset > MAX_FILE_END)
			continue;
		if (rec->type == RECORD_DATA)
			memfile_store(filp, rec->offset, rec->data, rec->bytes);
		else if (rec->type == RECORD_FILL)
			store_fill(filp, rec, &budget);
	}
	if (bytes <= MAX_FILE_END && bytes > memfile_bytes(filp))
		memfile_truncate(filp, bytes);
}

static void set_faults(struct run *run)
{
	static const unsigned int ops[] = {
		[RECIPE_FAULT_READ] = 1 << MEMFILE_READ,
		[RECIPE_FAULT_WRITE] = 1 << MEMFILE_WRITE,
		[RECIPE_FAULT_FLUSH] = 1 << MEMFILE_FLUSH,
		[RECIPE_FAULT_NO_SPACE] = 1 << MEMFILE_WRITE,
	};
	unsigned int i;

	for (i = 0; i < run->recipe->nr; i++) {
		const struct record *rec = &run->recipe->records[i];
		struct memfile_fault fault = {
			.skip = rec->offset,
			.times = rec->flags,
			.error = rec->what == RECIPE_FAULT_NO_SPACE ?
				 -ENOSPC : -EIO,
		};

		if (rec->type != RECORD_FAULT)
			continue;
		run->faults = true;
		if (rec->what == RECIPE_FAULT_MEMORY) {
			shim_fail_nth_allocation(rec->offset,
						 rec->flags ?: 1);
			continue;
		}
		fault.ops = ops[rec->what];
		memfile_fault(run->filps[0], &fault);
	}
}

/*
 * Places in the disk.
 */

static void add_place(struct run *run, u64 offset)
{
	if (run->nr_places < MAX_PLACES &&
	    offset < run->layout.virtual_bytes)
		run->places[run->nr_places++] = offset;
}

/* Of an L2 table the entries that are set, some from the front and the last. */
static void add_places_of_table(struct run *run, u64 table, u64 guest_offset)
{
	const struct layout *l = &run->layout;
	unsigned int i, per_table, found = 0;
	u64 last = 0;
	u8 buf[4096];

	recipe_read(run->recipe, 0, table, buf, sizeof(buf));
	per_table = min(1U << l->cluster_bits, (unsigned int)sizeof(buf)) /
		    l->entry_bytes;
	for (i = 0; i < per_table; i++) {
		if (!memchr_inv(buf + i * l->entry_bytes, 0, l->entry_bytes))
			continue;
		last = guest_offset + ((u64)i << l->cluster_bits);
		if (found++ < 4)
			add_place(run, last);
	}
	if (found > 4)
		add_place(run, last);
}

static void find_places(struct run *run)
{
	const struct layout *l = &run->layout;
	u64 span = ((1ULL << l->cluster_bits) / l->entry_bytes)
		   << l->cluster_bits;
	unsigned int i, tables = 0;
	u8 l1[2048];

	add_place(run, 0);
	add_place(run, l->virtual_bytes - 1);
	recipe_read(run->recipe, 0, l->l1_offset, l1, sizeof(l1));
	for (i = 0; i < sizeof(l1) / 8 && i < l->l1_entries; i++) {
		u64 entry = recipe_get(run->recipe, 0, l->l1_offset + i * 8, 8);

		if (!memchr_inv(l1 + i * 8, 0, 8))
			continue;
		if (tables++ == 6)
			break;
		add_places_of_table(run, entry & 0x00fffffffffffe00ULL,
				    i * span);
	}
	add_place(run, l->virtual_bytes / 2);
	add_place(run, span);
}

/*
 * Operations.
 */

static void op_done(struct qcow2_io *io)
{
	complete(&container_of(io, struct operation, io)->done);
}

static struct operation *start(struct run *run, enum qcow2_op what, u64 offset,
			       u64 bytes, unsigned int flags, u8 fill)
{
	struct operation *op = must(calloc(1, sizeof(*op)));
	u64 i;

	op->io.img = run->img;
	op->io.op = what;
	op->io.offset = offset;
	op->io.done = op_done;
	op->offset = offset;
	op->bytes = bytes;
	init_completion(&op->done);
	if (what == QCOW2_OP_READ || what == QCOW2_OP_WRITE) {
		op->buf = must(aligned_alloc(4096, round_up(bytes, 4096)));
		for (i = 0; i < bytes; i += 512)
			memset(op->buf + i, fill + i / 512, 512);
		bvec_set_virt(&op->bv, op->buf, bytes);
		iov_iter_bvec(&op->io.iter, what == QCOW2_OP_READ ? ITER_DEST :
			      ITER_SOURCE, &op->bv, 1, bytes);
		op->io.fua = flags & RECIPE_FUA;
	} else {
		op->io.bytes = bytes;
		op->io.unmap = flags & RECIPE_UNMAP;
	}
	fuzz_stats.operations++;
	qcow2_io_submit(&op->io);
	return op;
}

static int finish(struct operation *op)
{
	static const char * const names[] = {
		[QCOW2_OP_READ] = "read",
		[QCOW2_OP_WRITE] = "write",
		[QCOW2_OP_DISCARD] = "discard",
		[QCOW2_OP_WRITE_ZEROES] = "write zeroes",
		[QCOW2_OP_FLUSH] = "flush",
	};

	wait_for_completion(&op->done);
	say("%s%s%s: %llu bytes at %llu: %d", names[op->io.op],
	    op->io.fua ? " with FUA" : "", op->io.unmap ? " with unmap" : "",
	    op->bytes, op->offset, op->io.error);
	if (!op->io.error)
		fuzz_stats.operations_ok++;
	return op->io.error;
}

static void free_op(struct operation *op)
{
	free(op->buf);
	free(op);
}

/* What the operation made of the disk, where that is known. */
static void note_content(struct run *run, const struct operation *op)
{
	u64 unit = 512, first = op->offset, end = op->offset + op->bytes;
	bool failed = op->io.error;

	if (!run->content || op->io.op == QCOW2_OP_READ ||
	    op->io.op == QCOW2_OP_FLUSH)
		return;
	if (op->io.op == QCOW2_OP_DISCARD) {
		unit = run->layout.entry_bytes == 16 ?
		       1U << (run->layout.cluster_bits - 5) :
		       1U << run->layout.cluster_bits;
		first = round_up(first, unit);
		if (end != run->layout.virtual_bytes)
			end = round_down(end, unit);
	}
	if (first >= end)
		return;
	memset(run->unknown + first / 512, failed, (end - first) / 512);
	if (failed)
		return;
	if (op->io.op == QCOW2_OP_WRITE)
		memcpy(run->content + first, op->buf, end - first);
	else
		memset(run->content + first, 0, end - first);
}

static void compare_content(struct run *run, const struct operation *op)
{
	u64 i;

	if (!run->content || op->io.error)
		return;
	for (i = 0; i < op->bytes; i += 512)
		if (!run->unknown[(op->offset + i) / 512] &&
		    memcmp(op->buf + i, run->content + op->offset + i, 512))
			shim_die("the disk reads wrong at %llu",
				 op->offset + i);
}

static void finish_beside(struct run *run)
{
	unsigned int i;

	for (i = 0; i < run->nr_beside; i++) {
		struct operation *op = run->beside[i];

		finish(op);
		note_content(run, op);
		free_op(op);
	}
	run->nr_beside = 0;
}

/*
 * Two reads of the same, into memory with different garbage.  Nothing else may go
 * on: what is freed by one may still be in use by another in such an image.
 */
static void read_twice(struct run *run, u64 offset, u64 bytes)
{
	struct operation *one, *other;

	one = start(run, QCOW2_OP_READ, offset, bytes, 0, 0x55);
	finish(one);
	other = start(run, QCOW2_OP_READ, offset, bytes, 0, 0xaa);
	finish(other);
	if (!one->io.error && !other->io.error &&
	    memcmp(one->buf, other->buf, bytes))
		shim_die("two reads of %llu bytes at %llu differ", bytes,
			 offset);
	compare_content(run, other);
	free_op(one);
	free_op(other);
}

static void read_back(struct run *run, const struct operation *write)
{
	struct operation *read;

	read = start(run, QCOW2_OP_READ, write->offset, write->bytes, 0, 0x55);
	if (!finish(read) && memcmp(read->buf, write->buf, write->bytes))
		shim_die("a write of %llu bytes at %llu does not read back",
			 write->bytes, write->offset);
	free_op(read);
}

static void read_places(struct run *run)
{
	u64 cluster = 1ULL << run->layout.cluster_bits;
	u64 bytes = clamp(cluster, 4096ULL, 1ULL * SZ_64K);
	unsigned int i;

	for (i = 0; i < run->nr_places; i++) {
		u64 from = round_down(run->places[i], run->align);

		read_twice(run, from,
			   min(bytes, run->layout.virtual_bytes - from));
	}
}

/* Goes over the whole disk, where that is short. */
static void read_disk(struct run *run)
{
	u64 pos, bytes;

	if (run->layout.virtual_bytes > MODEL_BYTES)
		return;
	for (pos = 0; pos < run->layout.virtual_bytes; pos += bytes) {
		struct operation *op;

		bytes = min_t(u64, run->layout.virtual_bytes - pos, SZ_64K);
		op = start(run, QCOW2_OP_READ, pos, bytes, 0, 0x33);
		finish(op);
		compare_content(run, op);
		free_op(op);
	}
}

static u64 limit_bytes(const struct run *run, enum recipe_op what, u64 offset,
		       u32 sectors)
{
	u64 most = run->layout.virtual_bytes - offset;
	u64 bytes = (u64)sectors * 512;

	if (what == RECIPE_READ || what == RECIPE_WRITE)
		most = min_t(u64, most, MAX_RW_BYTES);
	else
		most = min(most, (u64)MAX_CLUSTERS << run->layout.cluster_bits);
	return clamp(round_down(bytes, run->align), (u64)run->align, most);
}

/*
 * One that is alone and in one cluster, for two guest clusters may be one in the
 * file; then the first of them to go may free it, too, under the other's feet.
 */
static bool can_read_back(const struct run *run, const struct operation *op)
{
	u32 bits = run->layout.cluster_bits;

	return op->io.op == QCOW2_OP_WRITE && !run->nr_beside &&
	       !op->io.error && run->counted &&
	       op->offset >> bits == (op->offset + op->bytes - 1) >> bits;
}

static void do_op(struct run *run, enum recipe_op what, unsigned int flags,
		  u64 offset, u32 sectors)
{
	static const enum qcow2_op ops[] = {
		[RECIPE_READ] = QCOW2_OP_READ,
		[RECIPE_WRITE] = QCOW2_OP_WRITE,
		[RECIPE_DISCARD] = QCOW2_OP_DISCARD,
		[RECIPE_ZEROES] = QCOW2_OP_WRITE_ZEROES,
		[RECIPE_FLUSH] = QCOW2_OP_FLUSH,
	};
	struct operation *op;
	u64 bytes;

	if (!run->layout.virtual_bytes)
		return;
	if ((run->options & RECIPE_READ_ONLY) && what != RECIPE_READ)
		return;
	offset = round_down(offset % run->layout.virtual_bytes, run->align);
	bytes = what == RECIPE_FLUSH ? 0 :
		limit_bytes(run, what, offset, sectors);
	if (what == RECIPE_FLUSH)
		offset = 0;
	/* Of two at once that overlap nobody knows which one is last. */
	if (run->content)
		finish_beside(run);
	op = start(run, ops[what], offset, bytes, flags,
		   ++run->writes * 37 | 1);
	if ((flags & RECIPE_BESIDE) && run->nr_beside < MAX_BESIDE) {
		run->beside[run->nr_beside++] = op;
		return;
	}
	finish(op);
	note_content(run, op);
	if (can_read_back(run, op))
		read_back(run, op);
	free_op(op);
	finish_beside(run);
}

/* An input that says nothing of operations: some where the image is mapped. */
static void do_default_ops(struct run *run)
{
	struct shim_random random = { .state = run->recipe->seed };
	u32 per_cluster = 1U << (run->layout.cluster_bits - 9);
	unsigned int i;

	for (i = 0; i < 16 && run->nr_places; i++) {
		u64 place = run->places[shim_below(&random, run->nr_places)];
		u32 sectors = shim_below(&random, 2) ? per_cluster :
			      1 + shim_below(&random, 2 * per_cluster);

		do_op(run, 1 + shim_below(&random, 4), shim_below(&random, 8),
		      place + 512 * shim_below(&random, per_cluster), sectors);
	}
}

static void do_ops(struct run *run)
{
	unsigned int i, nr = 0;

	for (i = 0; i < run->recipe->nr && nr < MAX_OPS; i++) {
		const struct record *rec = &run->recipe->records[i];

		if (rec->type != RECORD_OP)
			continue;
		nr++;
		do_op(run, rec->what, rec->flags, rec->offset, rec->bytes);
	}
	if (!nr)
		do_default_ops(run);
	finish_beside(run);
}

/*
 * Is the image sound?
 */

/* In all blocks that there are. */
static u64 count_refcounts(const struct run *run)
{
	const struct layout *l = &run->layout;
	u64 i, nr = 0, entries[MODEL_ENTRIES];

	recipe_read(run->recipe, 0, l->reftable_offset, entries,
		    sizeof(entries));
	for (i = 0; i < l->reftable_entries; i++)
		nr += entries[i] != 0;
	return nr << (l->cluster_bits + 3 - l->refcount_order);
}

/* The checker believes what it reads, so it gets nothing that takes it long. */
static bool is_small(const struct run *run)
{
	const struct recipe *r = run->recipe;
	const struct layout *l = &run->layout;
	u64 pos = l->snapshots_offset;
	unsigned int i;

	if (l->file_bytes > MODEL_FILE_BYTES ||
	    l->virtual_bytes > MODEL_BYTES || l->virtual_bytes % 512 ||
	    l->l1_entries > MODEL_ENTRIES || l->nb_snapshots > 4 ||
	    l->reftable_entries > MODEL_ENTRIES ||
	    count_refcounts(run) > MODEL_REFCOUNTS)
		return false;
	for (i = 0; i < l->nb_snapshots; i++) {
		u64 extra = recipe_get(r, 0, pos + 36, 4);

		if (recipe_get(r, 0, pos + 8, 4) > MODEL_ENTRIES ||
		    extra > 1024)
			return false;
		pos += 40 + extra + recipe_get(r, 0, pos + 12, 2) +
		       recipe_get(r, 0, pos + 14, 2);
		pos = round_up(pos, 8);
	}
	return true;
}

/* One that is dirty is, if its refcounts are all that is wrong. */
static bool is_sound(const struct qcheck *check)
{
	return !check->corruptions && !check->corrupt &&
	       (!check->leaks || check->dirty);
}

/* Sets what the disk must hold, if that is known. */
static void learn_content(struct run *run)
{
	u64 bytes = run->layout.virtual_bytes;
	u64 n = memfile_bytes(run->filps[0]);
	struct qcheck check;
	struct qimg q;

	if (run->faults || !is_small(run))
		return;
	/* The checker looks at every refcount that there could be. */
	if (run->layout.cluster_bits > 12 && run->recipe->seed % 8)
		return;
	memfile_fetch(run->filps[0], 0, model_file, n);
	/* What is in another file than this one is not looked at. */
	if (qimg_open(&q, model_file, n) || q.has_data_file)
		return;
	qimg_check(&q, &check);
	run->counted = !check.low_shared && !check.outside;
	if (!is_sound(&check) || qimg_read(&q, 0, bytes, model_content))
		return;
	run->content = model_content;
	run->unknown = model_unknown;
	memset(model_unknown, 0, sizeof(model_unknown));
	fuzz_stats.sound++;
}

/* After it was closed. */
static void check_sound(struct run *run)
{
	u64 bytes = run->layout.virtual_bytes;
	struct qcheck check;
	struct qimg q;
	u64 i, n = memfile_bytes(run->filps[0]);
	const char *why;

	if (n > sizeof(model_file))
		shim_die("an image that was sound has grown to %llu bytes", n);
	memfile_fetch(run->filps[0], 0, model_file, n);
	why = qimg_open(&q, model_file, n);
	if (!why) {
		qimg_check(&q, &check);
		/* What was only read is as it was. */
		if (check.dirty && run->options & RECIPE_READ_ONLY)
			return;
		if (check.corruptions)
			why = check.first;
		else if (check.leaks && !(run->options & RECIPE_SMALL_FILE))
			why = "leaks";
		else if (check.dirty || check.corrupt)
			why = "is marked dirty or corrupt";
	}
	why = why ?: qimg_read(&q, 0, bytes, model_is);
	for (i = 0; !why && i < bytes; i += 512)
		if (!run->unknown[i / 512] &&
		    memcmp(model_is + i, run->content + i, 512))
			why = "does not hold what was written";
	if (why)
		shim_die("an image that was sound: %s", why);
}

/* No change of ours touches what is in the header up to the features but tables. */
static void check_header(struct run *run)
{
	static const struct {
		u32 from, to;
	} fixed[] = { { 0, 36 }, { 60, 72 }, { 96, 104 } };
	u32 i, n = run->layout.header_bytes;
	u64 bytes = memfile_bytes(run->filps[0]);
	u8 before[104], now[104];

	recipe_read(run->recipe, 0, 0, before, sizeof(before));
	memfile_fetch(run->filps[0], 0, now, sizeof(now));
	for (i = 0; i < ARRAY_SIZE(fixed); i++)
		if (fixed[i].to <= n && fixed[i].to <= bytes &&
		    memcmp(before + fixed[i].from, now + fixed[i].from,
			   fixed[i].to - fixed[i].from))
			shim_die("the header changed in bytes %u to %u",
				 fixed[i].from, fixed[i].to - 1);
}

/*
 * Opening and closing.
 */

static void check_refusal(int error, const struct qcow2_reason *why)
{
	const char *c;

	if (error != -EUCLEAN && error != -EOPNOTSUPP && error != -EINVAL &&
	    error != -EIO && error != -ENOMEM && error != -ENOENT &&
	    error != -ENOSPC)
		shim_die("an image is refused with error %d", error);
	if (!why->text[0])
		shim_die("an image is refused without a reason");
	for (c = why->text; *c; c++)
		if ((u8)*c < 32 || *c == 127)
			shim_die("a reason has the character 0x%02x: %s",
				 (u8)*c, why->text);
}

static void put_layers(struct qcow2_image **layers, u32 nr)
{
	while (nr--)
		qcow2_layer_put(layers[nr]);
}

/* The external data file of a file, NULL if there is none. */
static struct file *data_file(const struct run *run, unsigned int i)
{
	if (i + 1 == run->nr_files ||
	    recipe_file_kind(run->recipe, i + 1) != RECIPE_DATA_FILE)
		return NULL;
	return run->filps[i + 1];
}

/* Of the files from the @first on; 0 or a negative errno. */
static int get_layers(struct run *run, unsigned int first,
		      struct qcow2_image **layers, u32 *nr,
		      struct qcow2_reason *why)
{
	unsigned int i;

	*nr = 0;
	for (i = first; i < run->nr_files; i++) {
		enum recipe_file kind = i ? recipe_file_kind(run->recipe, i) :
					RECIPE_BACKING_QCOW2;
		const struct qcow2_layer_spec spec = {
			.filp = run->filps[i],
			.data_filp = data_file(run, i),
			.name = "layer",
			.raw = kind == RECIPE_BACKING_RAW,
			.snapshot = !i && run->options & RECIPE_SNAPSHOT ?
				    "1" : NULL,
		};

		if (kind == RECIPE_DATA_FILE)
			continue;
		layers[*nr] = qcow2_layer_get(&spec, why);
		if (IS_ERR(layers[*nr])) {
			put_layers(layers, *nr);
			return PTR_ERR(layers[*nr]);
		}
		++*nr;
	}
	return 0;
}

static struct qcow2_image *open_on_layers(struct run *run,
					  struct qcow2_reason *why)
{
	bool read_only = run->options & RECIPE_READ_ONLY;
	struct qcow2_image *img, *layers[RECIPE_MAX_FILES];
	struct qcow2_options options = {
		.file_flags = read_only ? 0 : QCOW2_FILE_WRITABLE,
		.no_pass_discard = run->options & RECIPE_NO_PASS_DISCARD,
		.discard_no_unref = run->options & RECIPE_NO_UNREF,
		.cache_bytes = run->options & RECIPE_SMALL_CACHE ?
			       QCOW2_CACHE_MIN_BYTES : 0,
		.data_filp = read_only ? NULL : data_file(run, 0),
		.layers = layers,
	};
	int ret = get_layers(run, !read_only, layers, &options.nr_layers, why);

	if (ret)
		return ERR_PTR(ret);
	img = read_only ? qcow2_view_open("fuzz", &options, why) :
			  qcow2_image_open(run->filps[0], "fuzz", &options,
					   why);
	if (IS_ERR(img))
		put_layers(layers, options.nr_layers);
	return img;
}

static struct qcow2_image *open_one(struct run *run)
{
	struct qcow2_reason why = {};
	struct qcow2_image *img = open_on_layers(run, &why);

	say("open, options 0x%x: %s (%d)", run->options,
	    IS_ERR(img) ? why.text : "done", PTR_ERR_OR_ZERO(img));
	if (IS_ERR(img))
		check_refusal(PTR_ERR(img), &why);
	return img;
}

static bool open_image(struct run *run)
{
	run->img = open_one(run);
	if (IS_ERR(run->img) && !(run->options & RECIPE_READ_ONLY)) {
		run->options |= RECIPE_READ_ONLY;
		run->img = open_one(run);
	}
	if (IS_ERR(run->img)) {
		fuzz_stats.refused++;
		return false;
	}
	/* What is known is what the active disk holds. */
	if (run->options & RECIPE_READ_ONLY && run->options & RECIPE_SNAPSHOT)
		run->content = NULL;
	if (run->options & RECIPE_READ_ONLY)
		fuzz_stats.read_only++;
	else
		fuzz_stats.read_write++;
	return true;
}

static int flush(struct run *run)
{
	struct operation *op = start(run, QCOW2_OP_FLUSH, 0, 0, 0, 0);
	int ret = finish(op);

	free_op(op);
	return ret;
}

static void settle(struct run *run)
{
	wait_event(run->img->released, !READ_ONCE(run->img->releasing));
	flush_workqueue(run->img->wq);
}

static void use_image(struct run *run)
{
	bool failed;
	int ret;

	run->layout.virtual_bytes = run->img->geo.virtual_bytes;
	run->align = run->img->block_bytes;
	find_places(run);
	if (run->layout.virtual_bytes) {
		read_places(run);
		do_ops(run);
		flush(run);
		settle(run);
		read_places(run);
		read_disk(run);
	}
	failed = qcow2_image_needs_check(run->img);
	if (failed)
		fuzz_stats.failed++;
	if (failed && run->content)
		shim_die("an image that was sound has failed");
	ret = qcow2_image_close(run->img);
	say("close: %d", ret);
	if (ret && run->content && !(run->options & RECIPE_SMALL_FILE))
		shim_die("closing an image that was sound fails: %d", ret);
}

/* No file if it is longer than a file can be there. */
static void dump(struct run *run, const char *path)
{
	if (path && memfile_dump(run->filps[0], path))
		unlink(path);
}

static void set_up(struct run *run, struct recipe *recipe)
{
	struct memfile_options options = { .seed = recipe->seed };
	unsigned int i;

	run->recipe = recipe;
	for (i = 0; i < recipe->nr; i++)
		if (recipe->records[i].type == RECORD_OPTIONS)
			run->options = recipe->records[i].offset;
	options.align = run->options & RECIPE_ALIGN_4K ? 4096 : 512;
	recipe_layout(recipe, 0, &run->layout);
	run->nr_files = recipe_nr_files(recipe);
	for (i = 0; i < run->nr_files; i++) {
		run->filps[i] = memfile_create(&options);
		store_file(run->filps[i], recipe, i);
	}
	if (run->options & RECIPE_SMALL_FILE)
		memfile_set_space(run->filps[0], memfile_space_used(run->filps[0]) +
					     SZ_64K);
	dump(run, fuzz_image_path);
	fiber_begin(recipe->seed, run->options & RECIPE_YIELDS ? 30 : 0);
	set_faults(run);
	learn_content(run);
	say("%llu bytes of file, %llu of disk, clusters of %u%s%s",
	    run->layout.file_bytes, run->layout.virtual_bytes,
	    1U << run->layout.cluster_bits, run->content ? ", sound" : "",
	    run->faults ? ", with faults" : "");
}

static void run_recipe(struct recipe *recipe)
{
	struct run run = {};

	set_up(&run, recipe);
	if (open_image(&run)) {
		use_image(&run);
		dump(&run, fuzz_result_path);
		check_header(&run);
		if (run.content)
			check_sound(&run);
	}
	shim_fail_nth_allocation(U64_MAX, 0);
	while (run.nr_files)
		memfile_destroy(run.filps[--run.nr_files]);
}

/*
 * For libFuzzer.
 */

static void nothing(struct work_struct *work)
{
}

static void nothing_rcu(struct rcu_head *head)
{
}

/* What is started once is started now, so that all runs are alike. */
static void warm_up(void)
{
	struct workqueue_struct *wq = alloc_workqueue("warm-up", 0, 0);
	struct delayed_work work;
	static struct rcu_head head;

	call_rcu(&head, nothing_rcu);
	rcu_barrier();
	INIT_DELAYED_WORK(&work, nothing);
	queue_delayed_work(wq, &work, 1);
	cancel_delayed_work_sync(&work);
	destroy_workqueue(wq);
}

void fuzz_init(void)
{
	shim_set_delay(SHIM_DELAY_NEVER);
	if (wl_init_pools())
		shim_die("no pools");
	warm_up();
	shim_set_hook(fiber_yield);
}

void fuzz_one(const u8 *data, size_t bytes)
{
	static struct recipe recipe;
	long long live = shim_live_allocations();
	unsigned int fibers = fiber_count();
	u8 *buf = must(malloc(bytes + 1));

	memcpy(buf, data, bytes);
	shim_log_clear();
	fuzz_stats.runs++;
	if (recipe_parse(&recipe, buf, bytes))
		run_recipe(&recipe);
	free(buf);
	rcu_barrier();
	fiber_settle();
	if (shim_live_allocations() != live)
		shim_die("%lld pieces of memory were not freed",
			 shim_live_allocations() - live);
	if (fiber_count() != fibers)
		shim_die("%u threads did not end", fiber_count() - fibers);
}
