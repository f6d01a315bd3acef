// SPDX-License-Identifier: GPL-2.0-only
/*
 * External data files step by step: what must be durable before what, errors,
 * what the file held before, entries out of place, and raw ones.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/unaligned.h>

#include "cases.h"

#define INCOMPAT_POS	72
#define AUTOCLEAR_POS	88

static const struct shape shapes[] = {
	{ .text = "4 KiB", .base = { .cluster_bits = 12, .version = 3,
	  .refcount_bits = 16, .virtual_bytes = 1 << 20 } },
	{ .text = "64 KiB", .base = { .cluster_bits = 16, .version = 3,
	  .refcount_bits = 16, .virtual_bytes = 4 << 20 } },
	{ .text = "64 KiB with subclusters",
	  .base = { .cluster_bits = 16, .version = 3, .extl2 = true,
	  .refcount_bits = 16, .virtual_bytes = 4 << 20 } },
	{}
};

static const struct shape with_a_tail[] = {
	{ .text = "64 KiB", .base = { .cluster_bits = 16, .version = 3,
	  .refcount_bits = 16, .virtual_bytes = (1 << 20) + 1536 } },
	{}
};

/**
 * struct split - an image whose data lies elsewhere
 * @d: its disk; the file has the metadata only
 * @data: the data file
 * @no_pass_discard: it is attached so: nothing is punched
 */
struct split {
	struct disk d;
	struct file *data;
	bool no_pass_discard;
};

static u64 get_be64(struct file *filp, u64 offset)
{
	unsigned char be[8];

	memfile_fetch(filp, offset, be, sizeof(be));
	return get_unaligned_be64(be);
}

static void put_be64(struct file *filp, u64 offset, u64 value)
{
	unsigned char be[8];

	put_unaligned_be64(value, be);
	memfile_store(filp, offset, be, sizeof(be));
}

static void make_split(struct split *s, const struct shape *shape)
{
	u64 bits;

	make_disk(&s->d, shape);
	bits = get_be64(s->d.filp, INCOMPAT_POS);
	put_be64(s->d.filp, INCOMPAT_POS, bits | QCOW2_INCOMPAT_DATA_FILE);
	s->data = must(memfile_create(&(struct memfile_options){ .threads = 0 }));
}

static void open_split(struct split *s)
{
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
		.data_filp = s->data,
		.no_pass_discard = s->no_pass_discard,
	};
	struct qcow2_reason why = {};

	s->d.img = qcow2_image_open(s->d.filp, "test", &options, &why);
	expect(!IS_ERR(s->d.img), "attach: %s", why.text);
}

static void close_split(struct split *s)
{
	int error = detach(&s->d);

	expect(!error, "detach: %d", error);
}

static void destroy_split(struct split *s)
{
	memfile_destroy(s->data);
	destroy(&s->d);
}

/* Host offset of the L2 entry of guest offset 0. */
static u64 first_entry(struct split *s)
{
	u64 l1 = get_be64(s->d.filp, 40);

	return get_be64(s->d.filp, l1) & QCOW2_OFFSET_MASK;
}

/* I2: an entry must not be durable before what it refers to. */
static void data_is_durable_first(const struct shape *shape)
{
	struct split s = {};
	int error;

	make_split(&s, shape);
	open_split(&s);
	write_new(&s.d, 0, s.d.cluster);
	memfile_fault(s.data, &(struct memfile_fault){
		      .ops = 1 << MEMFILE_FLUSH, .error = -EIO });
	error = run_op(&s.d, QCOW2_OP_FLUSH, 0, 0);
	expect(error == -EIO, "a flush that could not flush the data gives %d",
	       error);
	expect(memfile_faults(s.data), "the data file was not flushed");
	detach(&s.d);
	expect(!first_entry(&s) || !get_be64(s.d.filp, first_entry(&s)),
	       "the entry is in the file, though its data is not durable");
	memfile_fault(s.data, NULL);
	destroy_split(&s);
}

/* I7: the mapping is as it was, and it can be tried again. */
static void data_write_fails(const struct shape *shape)
{
	struct split s = {};
	int error;

	make_split(&s, shape);
	open_split(&s);
	memfile_fault(s.data, &(struct memfile_fault){
		      .ops = 1 << MEMFILE_WRITE, .error = -EIO });
	error = try_write(&s.d, 512, 512);
	expect(error == -EIO, "a write that fails gives %d", error);
	memfile_fault(s.data, NULL);
	read_back(&s.d, 0, s.d.cluster);
	write_new(&s.d, 512, 512);
	read_back(&s.d, 0, s.d.bytes);
	flush(&s.d);
	close_split(&s);
	open_split(&s);
	read_back(&s.d, 0, s.d.bytes);
	close_split(&s);
	destroy_split(&s);
}

/* The guest must not see what was in the file before. */
static void stale_data_is_hidden(const struct shape *shape)
{
	struct split s = {};
	unsigned char *junk;

	make_split(&s, shape);
	junk = must(malloc(s.d.bytes / 2));
	memset(junk, 0x5a, s.d.bytes / 2);
	memfile_store(s.data, 0, junk, s.d.bytes / 2);
	free(junk);
	open_split(&s);
	write_new(&s.d, s.d.cluster + 1024, 512);
	write_new(&s.d, s.d.bytes - s.d.cluster + 512, 512);
	read_back(&s.d, 0, s.d.bytes);
	close_split(&s);
	destroy_split(&s);
}

/* Nor what is behind the place where a block device ended when it was attached. */
static void longer_device_is_hidden(const struct shape *shape)
{
	struct split s = {};
	unsigned char *junk;

	make_split(&s, shape);
	memfile_destroy(s.data);
	s.data = must(memfile_create(&(struct memfile_options){
		.block_device = true }));
	open_split(&s);
	junk = must(malloc(s.d.bytes / 2));
	memset(junk, 0x5a, s.d.bytes / 2);
	memfile_store(s.data, 0, junk, s.d.bytes / 2);
	free(junk);
	write_new(&s.d, s.d.cluster + 1024, 512);
	read_back(&s.d, 0, s.d.bytes);
	close_split(&s);
	destroy_split(&s);
}

/* Nor what it gave up, which is there still. */
static void discarded_data_is_hidden(const struct shape *shape)
{
	struct split s = { .no_pass_discard = true };

	make_split(&s, shape);
	open_split(&s);
	write_new(&s.d, 2 * s.d.cluster, s.d.cluster);
	make_zero(&s.d, QCOW2_OP_DISCARD, 2 * s.d.cluster, s.d.cluster);
	write_new(&s.d, 2 * s.d.cluster + 512, 512);
	read_back(&s.d, 0, s.d.bytes);
	close_split(&s);
	destroy_split(&s);
}

/* What lies at another place than its guest offset is damage. */
static void misplaced_entry_is_damage(const struct shape *shape)
{
	struct split s = {};
	u64 entry;

	make_split(&s, shape);
	open_split(&s);
	write_new(&s.d, 0, 2 * s.d.cluster);
	close_split(&s);
	entry = first_entry(&s);
	put_be64(s.d.filp, entry, get_be64(s.d.filp, entry) + s.d.cluster);
	open_split(&s);
	expect(try_read(&s.d, 0, 512), "a cluster out of place is read");
	expect(qcow2_image_needs_check(s.d.img), "and is no damage");
	detach(&s.d);
	destroy_split(&s);
}

/*
 * Nobody else has its clusters, whatever the entry says: what is not written is
 * not copied either, which could undo what is zeroed at the same time.
 */
static void nothing_is_copied_without_the_flag(const struct shape *shape)
{
	struct split s = {};
	u64 entry, reads;

	make_split(&s, shape);
	open_split(&s);
	write_new(&s.d, 0, 2 * s.d.cluster);
	close_split(&s);
	/* That of the second cluster, for one at offset 0 would be none at all. */
	entry = first_entry(&s) + (shape->base.extl2 ? 16 : 8);
	put_be64(s.d.filp, entry,
		 get_be64(s.d.filp, entry) & ~QCOW2_OFLAG_COPIED);
	open_split(&s);
	reads = memfile_count(s.data, MEMFILE_READ);
	write_new(&s.d, s.d.cluster + 512, 512);
	expect(memfile_count(s.data, MEMFILE_READ) == reads,
	       "the rest of the cluster is read");
	read_back(&s.d, 0, s.d.bytes);
	close_split(&s);
	destroy_split(&s);
}

/* It reads as the disk does; and it stays raw when other features are cleared. */
static void use_raw_file(const struct shape *shape, bool no_pass_discard)
{
	struct split s = { .no_pass_discard = no_pass_discard };
	const u64 unknown = 1ULL << 63;
	unsigned char *found;
	size_t bytes;

	make_split(&s, shape);
	put_be64(s.d.filp, AUTOCLEAR_POS,
		 QCOW2_AUTOCLEAR_DATA_FILE_RAW | unknown);
	open_split(&s);
	write_all(&s.d);
	make_zero(&s.d, QCOW2_OP_DISCARD, s.d.cluster, 2 * s.d.cluster);
	make_zero(&s.d, QCOW2_OP_WRITE_ZEROES, 512, 1024);
	keep_as_zeroes(&s.d, 5 * s.d.cluster, s.d.cluster + 512);
	read_back(&s.d, 0, s.d.bytes);
	close_split(&s);
	expect(get_be64(s.d.filp, AUTOCLEAR_POS) ==
	       QCOW2_AUTOCLEAR_DATA_FILE_RAW, "autoclear features: 0x%llx",
	       get_be64(s.d.filp, AUTOCLEAR_POS));
	found = memfile_flatten(s.data, &bytes);
	expect(bytes == s.d.bytes, "the data file is %zu bytes long", bytes);
	expect(!memcmp(found, s.d.content, bytes), "the data file is not the disk");
	free(found);
	destroy_split(&s);
}

static void raw_file_is_the_disk(const struct shape *shape)
{
	use_raw_file(shape, false);
	use_raw_file(shape, true);
}

/* A raw data file that ends where the disk does, and reads as zeroes there. */
static void open_raw(struct split *s, const struct shape *shape)
{
	static const unsigned char zeroes[512];

	make_split(s, shape);
	put_be64(s->d.filp, AUTOCLEAR_POS, QCOW2_AUTOCLEAR_DATA_FILE_RAW);
	memfile_store(s->data, s->d.bytes - 512, zeroes, 512);
	open_split(s);
}

static void close_raw(struct split *s)
{
	read_back(&s->d, 0, s->d.bytes);
	close_split(s);
	expect(memfile_bytes(s->data) == s->d.bytes,
	       "the data file of a disk of %llu bytes has %llu", s->d.bytes,
	       memfile_bytes(s->data));
	destroy_split(s);
}

/* Without holes a raw file is zeroed; where the disk ends that ends. */
static void discard_ends_with_the_disk(const struct shape *shape)
{
	struct split s = { .no_pass_discard = true };

	open_raw(&s, shape);
	write_new(&s.d, s.d.bytes - 1024, 512);
	make_zero(&s.d, QCOW2_OP_DISCARD, s.d.bytes - 1536, 1536);
	close_raw(&s);
}

/* The file lost its tail, gets it back by writes where they are, and loses it again. */
static void discarded_data_stays_away(const struct shape *shape)
{
	struct split s = { .no_pass_discard = true };
	struct file *old;

	make_split(&s, shape);
	open_split(&s);
	write_new(&s.d, s.d.cluster, 2 * s.d.cluster);
	close_split(&s);
	old = s.data;
	s.data = must(memfile_create(&(struct memfile_options){
		.nowait = MEMFILE_NOWAIT_ALWAYS }));
	memset(s.d.content, 0, s.d.bytes);
	open_split(&s);
	read_back(&s.d, 0, s.d.bytes);
	/* After the first one the second could go fast, were it not so far. */
	write_new(&s.d, s.d.cluster, 512);
	write_new(&s.d, 2 * s.d.cluster, s.d.cluster);
	make_zero(&s.d, QCOW2_OP_DISCARD, 2 * s.d.cluster, s.d.cluster);
	read_back(&s.d, 0, s.d.bytes);
	write_new(&s.d, 2 * s.d.cluster + 512, 512);
	read_back(&s.d, 0, s.d.bytes);
	close_split(&s);
	memfile_destroy(old);
	destroy_split(&s);
}

/* Copying on write, too, ends where the disk ends. */
static void raw_file_grows_no_longer(const struct shape *shape)
{
	struct split s = {};

	open_raw(&s, shape);
	write_new(&s.d, s.d.bytes - 1024, 512);
	close_raw(&s);
}

static const struct test_case cases[] = {
	TEST_CASE(data_is_durable_first, shapes),
	TEST_CASE(data_write_fails, shapes),
	TEST_CASE(stale_data_is_hidden, shapes),
	TEST_CASE(longer_device_is_hidden, shapes),
	TEST_CASE(discarded_data_is_hidden, shapes),
	TEST_CASE(misplaced_entry_is_damage, shapes),
	TEST_CASE(nothing_is_copied_without_the_flag, shapes),
	TEST_CASE(raw_file_is_the_disk, shapes),
	TEST_CASE(raw_file_grows_no_longer, with_a_tail),
	TEST_CASE(discard_ends_with_the_disk, with_a_tail),
	TEST_CASE(discarded_data_stays_away, shapes),
};

int main(int argc, char **argv)
{
	return run_cases("datafile", cases, ARRAY_SIZE(cases), argc, argv);
}
