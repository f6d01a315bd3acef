// SPDX-License-Identifier: GPL-2.0-only
/*
 * A disk for tests that know what they do step by step.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/unaligned.h>

#include "args.h"
#include "disk.h"
#include "memfile.h"
#include "verify.h"
#include "workload.h"

void fail(const char *fmt, ...)
{
	const char *log = shim_log();
	va_list ap;

	printf("# ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	for (printf("\n"); *log; log += strcspn(log, "\n"), log += !!*log)
		printf("# log: %.*s\n", (int)strcspn(log, "\n"), log);
	fflush(stdout);
	_exit(1);
}

/*
 * Guest operations.
 */

unsigned char *get_buffer(u64 bytes)
{
	return must(aligned_alloc(PAGE_SIZE, round_up(bytes, PAGE_SIZE)));
}

void start(struct disk *d, struct op *op, enum qcow2_op what, u64 offset,
	   u64 bytes)
{
	struct qcow2_io *io = &op->wait.io;

	*io = (struct qcow2_io) {
		.op = what,
		.offset = offset,
		.unmap = !op->keep,
		.by_worker = op->by_worker,
		.ioprio = op->ioprio,
	};
	if (what == QCOW2_OP_READ || what == QCOW2_OP_WRITE) {
		bvec_set_virt(&op->bv, op->buf, bytes);
		iov_iter_bvec(&io->iter, what == QCOW2_OP_WRITE ?
			      ITER_SOURCE : ITER_DEST, &op->bv, 1, bytes);
	} else {
		io->bytes = bytes;
	}
	wl_start(d->img, &op->wait);
}

bool is_done(struct op *op)
{
	int value;

	return !sem_getvalue(&op->wait.done, &value) && value;
}

int finish(struct op *op)
{
	int error = wl_finish(&op->wait);

	verify_step(op->wait.io.img);
	return error;
}

int run_op(struct disk *d, enum qcow2_op what, u64 offset, u64 bytes)
{
	struct op op = {};

	start(d, &op, what, offset, bytes);
	return finish(&op);
}

unsigned char *new_data(struct disk *d, u64 offset, u64 bytes)
{
	unsigned char *buf = get_buffer(bytes);
	u64 pos;

	d->seq++;
	for (pos = 0; pos < bytes; pos += WL_SECTOR)
		wl_fill_sector(SEED, d->seq, (offset + pos) / WL_SECTOR,
			       buf + pos);
	return buf;
}

/* Writes new data; 0, with the disk's content changed, or a negative errno. */
int try_write(struct disk *d, u64 offset, u64 bytes)
{
	struct op op = { .buf = new_data(d, offset, bytes) };
	int error;

	start(d, &op, QCOW2_OP_WRITE, offset, bytes);
	error = finish(&op);
	if (!error)
		memcpy(d->content + offset, op.buf, bytes);
	free(op.buf);
	return error;
}

void write_new(struct disk *d, u64 offset, u64 bytes)
{
	int error = try_write(d, offset, bytes);

	expect(!error, "write of %llu bytes at %llu: %d", bytes, offset, error);
}

void write_all(struct disk *d)
{
	u64 pos, chunk = max(65536ULL, d->cluster);

	for (pos = 0; pos < d->bytes; pos += chunk)
		write_new(d, pos, min(chunk, d->bytes - pos));
}

void make_zero(struct disk *d, enum qcow2_op what, u64 offset, u64 bytes)
{
	int error = run_op(d, what, offset, bytes);

	expect(!error, "discard or write zeroes of %llu bytes at %llu: %d",
	       bytes, offset, error);
	memset(d->content + offset, 0, bytes);
}

void keep_as_zeroes(struct disk *d, u64 offset, u64 bytes)
{
	struct op op = { .keep = true };
	int error;

	start(d, &op, QCOW2_OP_WRITE_ZEROES, offset, bytes);
	error = finish(&op);
	expect(!error, "write zeroes of %llu bytes at %llu: %d", bytes, offset,
	       error);
	memset(d->content + offset, 0, bytes);
}

void flush(struct disk *d)
{
	int error = run_op(d, QCOW2_OP_FLUSH, 0, 0);

	expect(!error, "flush: %d", error);
}

void compare(const unsigned char *buf, const unsigned char *one,
	     const unsigned char *other, u64 offset, u64 bytes,
	     const char *what)
{
	u64 pos;

	for (pos = 0; pos < bytes; pos += WL_SECTOR)
		if (memcmp(buf + pos, one + pos, WL_SECTOR) &&
		    memcmp(buf + pos, other + pos, WL_SECTOR))
			fail("%s: sector %llu is that of write %llu, wanted %llu or %llu",
			     what, (offset + pos) / WL_SECTOR,
			     wl_sector_seq(SEED, buf + pos),
			     wl_sector_seq(SEED, one + pos),
			     wl_sector_seq(SEED, other + pos));
}

/* 0, with what the disk's content says, or a negative errno. */
int try_read(struct disk *d, u64 offset, u64 bytes)
{
	struct op op = { .buf = get_buffer(bytes) };
	int error;

	start(d, &op, QCOW2_OP_READ, offset, bytes);
	error = finish(&op);
	if (!error)
		compare(op.buf, d->content + offset, d->content + offset,
			offset, bytes, "read");
	free(op.buf);
	return error;
}

void read_back(struct disk *d, u64 offset, u64 bytes)
{
	int error = try_read(d, offset, bytes);

	expect(!error, "read of %llu bytes at %llu: %d", bytes, offset, error);
}

/*
 * Looking into an attached image.
 */

u64 host_of(struct disk *d, u64 offset)
{
	struct qcow2_epoch *epoch = qcow2_epoch_enter(d->img);
	struct qcow2_extent extent;
	int error = qcow2_map(d->img, offset, WL_SECTOR, &extent);

	qcow2_epoch_exit(epoch);
	expect(!error, "map of %llu: %d", offset, error);
	return extent.type == QCOW2_SUBCLUSTER_NORMAL ?
	       extent.host_offset - offset % d->cluster : 0;
}

bool has_drops(struct disk *d)
{
	bool ret;

	mutex_lock(&d->img->meta_lock);
	ret = !list_empty(&d->img->unlinked) || d->img->releasing;
	mutex_unlock(&d->img->meta_lock);
	return ret;
}

void settle(struct disk *d)
{
	flush(d);
	wait_for(!has_drops(d), "clusters that were given up do not become free");
}

/*
 * Attaching, detaching, and the file of a detached image.
 */

static void make_file(struct disk *d, const char *path)
{
	int error;

	d->filp = memfile_create(&d->options);
	error = memfile_load(d->filp, path);
	expect(!error, "cannot load %s: %d", path, error);
}

static struct qcow2_image *get_layer(struct disk *d)
{
	const struct qcow2_layer_spec spec = {
		.filp = d->layer,
		.name = "layer",
		.raw = true,
	};
	struct qcow2_reason why = {};
	struct qcow2_image *layer = qcow2_layer_get(&spec, &why);

	expect(!IS_ERR(layer), "layer: %s (%ld)", why.text, PTR_ERR(layer));
	return layer;
}

void attach(struct disk *d)
{
	struct qcow2_image *layers[1];
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
		.discard_no_unref = d->no_unref,
		.layers = layers,
		.nr_layers = !!d->layer,
	};
	struct qcow2_reason why = {};

	if (d->layer)
		layers[0] = get_layer(d);
	d->img = qcow2_image_open(d->filp, "test", &options, &why);
	expect(!IS_ERR(d->img), "attach: %s (%ld)", why.text, PTR_ERR(d->img));
	verify_opened(d->img);
}

int detach(struct disk *d)
{
	int error;

	verify_closing(d->img);
	error = qcow2_image_close(d->img);
	d->img = NULL;
	return error;
}

struct qcheck check_file(struct disk *d, const char *when)
{
	size_t bytes;
	unsigned char *file = memfile_flatten(d->filp, &bytes);
	struct qcheck check;
	struct qimg q;
	const char *why = qimg_open_on(&q, file, bytes, d->backing, d->bytes);

	expect(!why, "%s: %s", when, why);
	qimg_check(&q, &check);
	expect(!check.corruptions, "%s: %u corruptions: %s", when,
	       check.corruptions, check.first);
	free(file);
	return check;
}

unsigned char *disk_of_file(struct disk *d, bool snapshot)
{
	size_t bytes;
	unsigned char *file = memfile_flatten(d->filp, &bytes);
	unsigned char *disk = must(malloc(d->bytes));
	struct qimg q;
	const char *why = qimg_open_on(&q, file, bytes, d->backing, d->bytes);

	if (!why && snapshot) {
		expect(q.nb_snapshots, "the image has no snapshot");
		q.l1_offset = get_unaligned_be64(file + q.snapshots_offset);
		q.l1_entries = get_unaligned_be32(file + q.snapshots_offset +
						  8);
	}
	why = why ?: qimg_read(&q, 0, d->bytes, disk);
	expect(!why, "closed image: %s", why);
	free(file);
	return disk;
}

static void write_to_path(struct disk *d, char *path, size_t room)
{
	snprintf(path, room, "%s/bugs-%d.qcow2", args.work, getpid());
	expect(!memfile_dump(d->filp, path), "cannot write %s", path);
}

static void ask_qemu(struct disk *d)
{
	char path[600];
	const char * const check[] = {
		"qemu-img", "check", "-q", "-f", "qcow2", path, NULL
	};
	int status;

	write_to_path(d, path, sizeof(path));
	status = run_program(check, true);
	expect(!status, "qemu-img check: exit status %d", status);
	unlink(path);
}

void detach_and_look(struct disk *d)
{
	int error = detach(d);
	struct qcheck check = check_file(d, "closed image");
	unsigned char *disk = disk_of_file(d, false);

	expect(!error, "detach: %d", error);
	expect(!check.leaks, "closed image: %u leaks", check.leaks);
	compare(disk, d->content, d->content, 0, d->bytes, "closed image");
	free(disk);
	/* It knows no name of the backing file. */
	if (!d->layer)
		ask_qemu(d);
}

void take_snapshot(struct disk *d)
{
	char path[600];
	const char * const snapshot[] = {
		"qemu-img", "snapshot", "-c", "first", path, NULL
	};

	write_to_path(d, path, sizeof(path));
	expect(!run_program(snapshot, false), "qemu-img snapshot failed");
	memfile_destroy(d->filp);
	make_file(d, path);
	unlink(path);
}

void make_disk(struct disk *d, const struct shape *shape)
{
	char path[600];

	shim_set_delay(SHIM_DELAY_NEVER);
	expect(!base_make(&shape->base, args.images, path, sizeof(path)),
	       "cannot make the image");
	d->shape = shape;
	d->bytes = shape->base.virtual_bytes;
	d->cluster = 1ULL << shape->base.cluster_bits;
	d->content = must(calloc(1, d->bytes));
	make_file(d, path);
}

void make_overlay(struct disk *d, const struct shape *shape)
{
	unsigned char *file;
	size_t bytes;

	make_disk(d, shape);
	d->backing = must(malloc(d->bytes));
	file = memfile_flatten(d->filp, &bytes);
	base_put_on_backing(file, shape->base.cluster_bits, d->backing,
			    d->bytes, SEED);
	memfile_load_buf(d->filp, file, bytes);
	d->layer = memfile_create(&d->options);
	memfile_load_buf(d->layer, d->backing, d->bytes);
	memcpy(d->content, d->backing, d->bytes);
	free(file);
}

void destroy(struct disk *d)
{
	memfile_destroy(d->filp);
	if (d->layer)
		memfile_destroy(d->layer);
	free(d->backing);
	free(d->content);
}
