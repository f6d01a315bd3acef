// SPDX-License-Identifier: GPL-2.0-only
/*
 * The refcount table at the length that is the most, and no space behind what it
 * counts.
 */

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "args.h"
#include "cases.h"
#include "verify.h"

#define MAX_ENTRIES	(QCOW2_MAX_REFTABLE_BYTES / sizeof(u64))

/* Clusters that are left when the rest counts as taken. */
#define LEFT		300

/* The table has to count only 32 GiB then, of a file that is nearly all holes. */
static const struct shape shapes[] = {
	{ .text = "512 bytes", .base = { .cluster_bits = 9, .version = 3,
	  .refcount_bits = 64, .virtual_bytes = 1 << 20 } },
	{}
};

static int grow_table(struct disk *d, u64 entries)
{
	int error;

	mutex_lock(&d->img->grow_lock);
	error = qcow2_grow_reftable(d->img, entries);
	mutex_unlock(&d->img->grow_lock);
	return error;
}

static void make_longest(struct disk *d, const struct shape *shape)
{
	int error;

	make_disk(d, shape);
	attach(d);
	error = grow_table(d, MAX_ENTRIES);
	expect(!error, "growth to the limit: %d", error);
	expect(d->img->reftable_entries == MAX_ENTRIES, "%u entries",
	       d->img->reftable_entries);
}

static void expect_fit(struct disk *d)
{
	expect(!qcow2_image_needs_check(d->img), "the image has failed");
}

static void qemu_looks(struct disk *d)
{
	char path[600];
	const char * const argv[] = {
		"qemu-img", "check", "-q", "-f", "qcow2", path, NULL
	};
	int status;

	snprintf(path, sizeof(path), "%s/limits-%d.qcow2", args.work,
		 getpid());
	expect(!memfile_dump(d->filp, path), "cannot write %s", path);
	status = run_program(argv, false);
	unlink(path);
	expect(!status, "qemu-img check: %d", status);
}

static void longest_table(const struct shape *shape)
{
	struct disk d = {};
	u32 entries;
	int error;

	make_longest(&d, shape);
	error = grow_table(&d, MAX_ENTRIES + 1);
	expect(error == -ENOSPC, "growth beyond the limit: %d", error);
	expect_fit(&d);
	write_new(&d, 0, d.bytes / 2);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	qemu_looks(&d);
	attach(&d);
	entries = d.img->reftable_entries;
	expect(entries == MAX_ENTRIES, "attached with %u entries", entries);
	read_back(&d, 0, d.bytes);
	write_all(&d);
	make_zero(&d, QCOW2_OP_DISCARD, d.bytes / 4, d.bytes / 4);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	qemu_looks(&d);
	destroy(&d);
}

/* As if all clusters but the last that the table counts were in use. */
static void take_nearly_all(struct disk *d)
{
	mutex_lock(&d->img->meta_lock);
	verify_stop();
	d->img->free.hint = (MAX_ENTRIES << d->img->geo.refblock_bits) - LEFT;
	mutex_unlock(&d->img->meta_lock);
}

/* Offset of the first write that found no space. */
static u64 write_until_full(struct disk *d)
{
	u64 offset;
	int error;

	for (offset = 0; offset < d->bytes; offset += d->cluster) {
		error = try_write(d, offset, d->cluster);
		if (error)
			break;
	}
	expect(offset < d->bytes, "there is space behind the table's end");
	expect(error == -ENOSPC, "a write without space gives %d", error);
	return offset;
}

static void no_space_behind(const struct shape *shape)
{
	struct disk d = {};
	u64 end;
	int error;

	make_longest(&d, shape);
	take_nearly_all(&d);
	end = write_until_full(&d);
	expect(end >= 100 * d.cluster, "full after %llu bytes", end);
	expect_fit(&d);
	read_back(&d, 0, d.bytes);
	flush(&d);
	/* Nothing is lost, nor stuck: what has clusters takes writes ... */
	write_new(&d, 0, end);
	error = try_write(&d, end, d.cluster);
	expect(error == -ENOSPC, "a write without space gives %d then", error);
	/* ... and what is given back is space again. */
	make_zero(&d, QCOW2_OP_DISCARD, 0, round_down(end / 2, d.cluster));
	settle(&d);
	write_new(&d, end, 10 * d.cluster);
	read_back(&d, 0, d.bytes);
	expect_fit(&d);
	error = detach(&d);
	expect(!error, "detach: %d", error);
	attach(&d);
	read_back(&d, 0, d.bytes);
	write_all(&d);
	read_back(&d, 0, d.bytes);
	error = detach(&d);
	expect(!error, "detach: %d", error);
	destroy(&d);
}

static const struct test_case cases[] = {
	TEST_CASE(longest_table, shapes),
	TEST_CASE(no_space_behind, shapes),
};

int main(int argc, char **argv)
{
	return run_cases("limits", cases, ARRAY_SIZE(cases), argc, argv);
}
