// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is attached, and what is refused: tables of which the file has only a part,
 * and headers that are changed in one place, each of which QEMU is asked about too.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/unaligned.h>

#include "args.h"
#include "cases.h"
#include "verify.h"

#define COPIED			(1ULL << 63)
#define FAR			(1ULL << 40)

/* Offsets of members of the header. */
#define VERSION			4
#define BACKING_OFFSET		8
#define BACKING_BYTES		16
#define CLUSTER_BITS		20
#define SIZE			24
#define CRYPT_METHOD		32
#define L1_ENTRIES		36
#define L1_OFFSET		40
#define REFTABLE_OFFSET		48
#define REFTABLE_CLUSTERS	56
#define NB_SNAPSHOTS		60
#define SNAPSHOTS_OFFSET	64
#define INCOMPATIBLE		72
#define COMPATIBLE		80
#define AUTOCLEAR		88
#define REFCOUNT_ORDER		96
#define HEADER_BYTES		100
#define COMPRESSION_TYPE	104
/* Of what qemu-img makes. */
#define EXTENSIONS		112

#define SHAPE(name, bits, size, ...)					\
	{ .text = name, .base = { .cluster_bits = bits, .version = 3,	\
				  .refcount_bits = 16,			\
				  .virtual_bytes = size, __VA_ARGS__ } }

static const struct shape shapes[] = {
	SHAPE("512 B", 9, 4 << 20),
	SHAPE("4 KiB", 12, 8 << 20),
	SHAPE("64 KiB", 16, 4 << 20),
	SHAPE("64 KiB with subclusters", 16, 4 << 20, .extl2 = true),
	SHAPE("2 MiB", 21, 16 << 20),
	{}
};

static const struct shape once[] = {
	SHAPE("64 KiB", 16, 1 << 20),
	{}
};

static const struct shape preallocated[] = {
	SHAPE("4 KiB", 12, 4 << 20, .metadata = true),
	SHAPE("64 KiB", 16, 4 << 20, .metadata = true),
	{}
};

static const struct shape two_tables[] = {
	SHAPE("4 KiB, two L2 tables", 12, 4 << 20),
	{}
};

static const struct shape with_snapshot[] = {
	SHAPE("4 KiB", 12, 1 << 20, .metadata = true, .snapshot = true),
	SHAPE("64 KiB", 16, 1 << 20, .metadata = true, .snapshot = true),
	{}
};

static u64 get_be64(struct disk *d, u64 offset)
{
	unsigned char be[8];

	memfile_fetch(d->filp, offset, be, sizeof(be));
	return get_unaligned_be64(be);
}

static void put_be64(struct disk *d, u64 offset, u64 value)
{
	unsigned char be[8];

	put_unaligned_be64(value, be);
	memfile_store(d->filp, offset, be, sizeof(be));
}

static void put_be32(struct disk *d, u64 offset, u32 value)
{
	unsigned char be[4];

	put_unaligned_be32(value, be);
	memfile_store(d->filp, offset, be, sizeof(be));
}

static void put_be16(struct disk *d, u64 offset, u32 value)
{
	const unsigned char be[2] = { value >> 8, value };

	memfile_store(d->filp, offset, be, sizeof(be));
}

static void cut(struct disk *d, u64 bytes)
{
	expect(bytes < memfile_bytes(d->filp), "the file has %llu bytes only",
	       memfile_bytes(d->filp));
	expect(!memfile_truncate(d->filp, bytes), "the file cannot be cut");
}

static u64 next_cluster(struct disk *d)
{
	return round_up(memfile_bytes(d->filp), d->cluster);
}

static struct qcow2_image *try_open(struct disk *d, bool writable,
				    struct qcow2_reason *why)
{
	const struct qcow2_options options = {
		.file_flags = writable ? QCOW2_FILE_WRITABLE : 0,
	};

	return qcow2_image_open(d->filp, "test", &options, why);
}

static void attach_read_only(struct disk *d)
{
	struct qcow2_reason why = {};

	d->img = try_open(d, false, &why);
	expect(!IS_ERR(d->img), "read-only: %s", why.text);
}

/* For writing only, with a line that has these words; it stays as it is. */
static void must_refuse(struct disk *d, const char *what, const char *words)
{
	u64 writes = memfile_count(d->filp, MEMFILE_WRITE);
	struct qcow2_reason why = {};

	d->img = try_open(d, true, &why);
	expect(IS_ERR(d->img), "%s: it is attached for writing", what);
	expect(PTR_ERR(d->img) == -EUCLEAN && strstr(why.text, words) &&
	       strstr(why.text, "truncated; attach read-only"),
	       "%s: %s (%ld)", what, why.text, PTR_ERR(d->img));
	expect(memfile_count(d->filp, MEMFILE_WRITE) == writes,
	       "%s: it was written", what);
	attach_read_only(d);
	read_back(d, 0, min(d->bytes, (u64)SZ_64K));
	expect(!detach(d), "%s: detach", what);
}

/*
 * Tables of which the file has a part.
 */

static void use_cut_image(struct disk *d)
{
	attach_read_only(d);
	read_back(d, 0, d->bytes);
	expect(!detach(d), "detach");
	attach(d);
	read_back(d, 0, d->bytes);
	write_all(d);
	flush(d);
	read_back(d, 0, d->bytes);
	detach_and_look(d);
	attach(d);
	read_back(d, 0, d->bytes);
	expect(!detach(d), "detach");
}

/* qemu-img makes the L1 table last, as long as its entries are, or one entry is. */
static void an_l1_table_may_lack_its_tail(const struct shape *shape)
{
	const unsigned int tails[] = { 1, 7, 8, 9 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(tails); i++) {
		struct disk d = {};

		make_disk(&d, shape);
		cut(&d, memfile_bytes(d.filp) - tails[i]);
		use_cut_image(&d);
		destroy(&d);
	}
}

static void an_l1_table_may_lack_all(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	cut(&d, get_be64(&d, L1_OFFSET));
	use_cut_image(&d);
	destroy(&d);
}

/* What it had is lost, but the clusters of that are not taken again. */
static void an_l1_table_that_had_entries_may_lack_all(const struct shape *shape)
{
	struct disk d = {};
	u64 l1, used;
	int error;

	make_disk(&d, shape);
	l1 = get_be64(&d, L1_OFFSET);
	used = memfile_bytes(d.filp);
	cut(&d, l1);
	attach(&d);
	read_back(&d, 0, d.bytes);
	write_new(&d, 0, d.cluster);
	expect(host_of(&d, 0) >= round_up(used, d.cluster),
	       "the cluster at 0x%llx is taken again", host_of(&d, 0));
	error = detach(&d);
	expect(!error, "detach: %d", error);
	check_file(&d, "closed image");
	destroy(&d);
}

static void an_l1_table_far_behind_is_only_read(const struct shape *shape)
{
	struct disk d = {};
	u64 end;

	make_disk(&d, shape);
	end = next_cluster(&d);
	/* Where the file would end if it had all of its last cluster. */
	memfile_truncate(d.filp, end);
	put_be64(&d, L1_OFFSET, end);
	attach(&d);
	expect(!detach(&d), "detach");
	put_be64(&d, L1_OFFSET, end + d.cluster);
	must_refuse(&d, "a cluster further", "L1 table at offset");
	put_be64(&d, L1_OFFSET, FAR);
	must_refuse(&d, "1 TiB further", "L1 table at offset");
	put_be64(&d, L1_OFFSET, (1ULL << 56) - SZ_64M);
	must_refuse(&d, "as far as can be", "L1 table at offset");
	expect(memfile_bytes(d.filp) == end, "the file has become longer");
	destroy(&d);
}

/* As a block device that is too small for the image. */
static void an_l1_table_that_cannot_be_written_is_only_read(const struct shape *shape)
{
	struct disk d = {};
	u64 l1;

	make_disk(&d, shape);
	l1 = get_be64(&d, L1_OFFSET);
	destroy(&d);
	d = (struct disk) { .options = { .max_bytes = SZ_64M } };
	make_disk(&d, shape);
	cut(&d, l1);
	attach(&d);
	expect(!detach(&d), "detach");
	/* The file's limit is in front of the table's end, wherever that is. */
	put_be64(&d, L1_OFFSET, SZ_64M);
	memfile_truncate(d.filp, SZ_64M);
	must_refuse(&d, "no room", "L1 table at offset");
	destroy(&d);
}

/* Moves the refcount table to the end of the file; its offset. */
static u64 move_reftable(struct disk *d)
{
	u64 old = get_be64(d, REFTABLE_OFFSET), new = next_cluster(d);
	u64 block = get_be64(d, old);

	put_be64(d, new, block);
	memfile_truncate(d->filp, new + d->cluster);
	put_be64(d, old, 0);
	put_be64(d, REFTABLE_OFFSET, new);
	put_be16(d, block + old / d->cluster * 2, 0);
	put_be16(d, block + new / d->cluster * 2, 1);
	return new;
}

static void a_refcount_table_may_lack_its_tail(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	cut(&d, move_reftable(&d) + 8);
	use_cut_image(&d);
	destroy(&d);
}

static void a_refcount_table_may_lack_its_tail_in_a_dirty_image(const struct shape *shape)
{
	struct disk d = {};

	make_disk(&d, shape);
	put_be64(&d, INCOMPATIBLE, get_be64(&d, INCOMPATIBLE) |
		 QCOW2_INCOMPAT_DIRTY);
	cut(&d, move_reftable(&d) + 8);
	use_cut_image(&d);
	destroy(&d);
}

/* Nothing counts what is in use, so a writer would take it again. */
static void a_refcount_table_must_count_the_file(const struct shape *shape)
{
	const unsigned int left[] = { 7, 1, 0 };
	struct disk d = {};
	unsigned int i;
	u64 table;

	make_disk(&d, shape);
	table = move_reftable(&d);
	for (i = 0; i < ARRAY_SIZE(left); i++) {
		cut(&d, table + left[i]);
		must_refuse(&d, "cut off", "refcount table at offset");
	}
	put_be64(&d, REFTABLE_OFFSET, FAR);
	must_refuse(&d, "far behind", "refcount table at offset");
	destroy(&d);
}

/* An error of the storage is not called damage. */
static void cannot_count(struct disk *d, u64 l2)
{
	const struct memfile_fault fault = {
		.ops = 1 << MEMFILE_READ, .error = -EIO, .from = l2, .to = l2 + 8,
	};
	struct qcow2_reason why = {};

	memfile_fault(d->filp, &fault);
	d->img = try_open(d, true, &why);
	expect(PTR_ERR_OR_ZERO(d->img) == -EIO && strstr(why.text, "cannot read"),
	       "an L2 table cannot be read: %s (%d)", why.text,
	       PTR_ERR_OR_ZERO(d->img));
	memfile_fault(d->filp, NULL);
}

/* A reference out of the file may lead to where lost entries counted. */
static void a_refcount_table_must_count_what_is_in_use(const struct shape *shape)
{
	struct disk d = {};
	u64 table, l2, entry;

	make_disk(&d, shape);
	l2 = get_be64(&d, get_be64(&d, L1_OFFSET)) & QCOW2_OFFSET_MASK;
	entry = get_be64(&d, l2);
	table = move_reftable(&d);
	put_be64(&d, l2, FAR | COPIED);
	attach(&d);
	expect(!detach(&d), "detach");
	cut(&d, table + 8);
	must_refuse(&d, "data far behind", "refcount table at offset");
	put_be64(&d, l2, entry);
	cannot_count(&d, l2);
	attach(&d);
	expect(!detach(&d), "detach");
	destroy(&d);
}

/* The longest tables that a header may have, in a file of a kilobyte. */
static void a_table_takes_memory_by_its_header(const struct shape *shape)
{
	const u64 bound = QCOW2_MAX_L1_BYTES + QCOW2_MAX_REFTABLE_BYTES;
	struct disk d = {};

	make_disk(&d, shape);
	cut(&d, SZ_1K);
	put_be64(&d, REFTABLE_OFFSET, d.cluster);
	put_be32(&d, REFTABLE_CLUSTERS, QCOW2_MAX_REFTABLE_BYTES / d.cluster);
	put_be32(&d, L1_ENTRIES, QCOW2_MAX_L1_BYTES / 8);
	attach_read_only(&d);
	expect(d.img->l1->entries * 8ULL + d.img->reftable_entries * 8ULL == bound,
	       "tables of %u and %u entries", d.img->l1->entries,
	       d.img->reftable_entries);
	expect(!d.img->l2_tables.nr && !d.img->refblocks.nr,
	       "entries from nowhere");
	read_back(&d, 0, d.bytes);
	expect(!detach(&d), "detach");
	/* One entry more than that is refused, whatever the file's length. */
	put_be32(&d, L1_ENTRIES, QCOW2_MAX_L1_BYTES / 8 + 1);
	d.img = try_open(&d, false, NULL);
	expect(PTR_ERR(d.img) == -EUCLEAN, "a longer L1 table: %d",
	       PTR_ERR_OR_ZERO(d.img));
	destroy(&d);
}

/* Moves the snapshot table, of one entry, to the end of the file; its offset. */
static u64 move_snapshots(struct disk *d)
{
	u64 old = get_be64(d, SNAPSHOTS_OFFSET), new = next_cluster(d);
	unsigned char entry[256];

	memfile_fetch(d->filp, old, entry, sizeof(entry));
	memfile_store(d->filp, new, entry, sizeof(entry));
	put_be64(d, SNAPSHOTS_OFFSET, new);
	return new;
}

static void a_snapshot_needs_its_head_only(const struct shape *shape)
{
	const u64 head = sizeof(struct qcow2_disk_snapshot);
	struct disk d = {};
	u64 table;

	make_disk(&d, shape);
	table = move_snapshots(&d);
	cut(&d, table + head + 1);
	attach(&d);
	expect(!detach(&d), "detach");
	cut(&d, table + head);
	attach(&d);
	expect(d.img->snapshots->nr == 1, "%u L1 tables", d.img->snapshots->nr);
	expect(!detach(&d), "detach");
	cut(&d, table + head - 1);
	must_refuse(&d, "cut off", "snapshot table entry 0 at offset");
	put_be64(&d, SNAPSHOTS_OFFSET, FAR);
	must_refuse(&d, "far behind", "snapshot table entry 0 at offset");
	destroy(&d);
}

/*
 * Headers. Whatever QEMU refuses is refused here, or stands here with the reason
 * why it is not.
 */

/**
 * enum verdict - what becomes of an image
 * @REFUSED: nobody gets at it
 * @READ_ONLY: it is refused for writing
 * @TAKEN: it is attached
 */
enum verdict {
	REFUSED,
	READ_ONLY,
	TAKEN,
};

static const char * const verdicts[] = { "refused", "read-only", "taken" };

/**
 * struct change - a number or bytes that are written over a header
 * @pos: byte offset
 * @bytes: width of the number; 0 for no change
 * @value: the number
 */
struct change {
	u32 pos;
	u32 bytes;
	u64 value;
};

/* An extension, the first or one behind it, @n bytes into their place. */
#define EXT(n, type, bytes)	{ EXTENSIONS + (n), 8, (u64)(type) << 32 | (bytes) }
#define EXT_BE32(n, value)	{ EXTENSIONS + (n), 4, value }
#define EXT_BE64(n, value)	{ EXTENSIONS + (n), 8, value }

/* Three members of the bitmaps extension, and its head. */
#define BITMAPS(nr, reserved, size, offset)				\
	EXT(0, 0x23852875, 24), EXT_BE64(8, (u64)(nr) << 32 | (reserved)), \
	EXT_BE64(16, size), EXT_BE64(24, offset), EXT(32, 0, 0)

#define CLUSTER			65536ULL

/**
 * struct row - an image that is changed in one place
 * @name: what is wrong with it
 * @ours: what becomes of it here
 * @qemu: and in QEMU
 * @words: of our refusal
 * @why: the reason if both are not the same
 * @changes: to what qemu-img makes, with clusters of 64 KiB
 */
struct row {
	const char *name;
	enum verdict ours;
	enum verdict qemu;
	const char *words;
	const char *why;
	struct change changes[8];
};

static const struct row members[] = {
	{ "as it is", TAKEN, TAKEN },
	{ "version 1", REFUSED, REFUSED, "version 1", NULL,
	  { { VERSION, 4, 1 } } },
	{ "version 4", REFUSED, REFUSED, "version 4", NULL,
	  { { VERSION, 4, 4 } } },
	{ "version 2", TAKEN, TAKEN, NULL, NULL, { { VERSION, 4, 2 } } },
	{ "cluster_bits 8", REFUSED, REFUSED, "cluster_bits is 8", NULL,
	  { { CLUSTER_BITS, 4, 8 } } },
	{ "cluster_bits 22", REFUSED, REFUSED, "cluster_bits is 22", NULL,
	  { { CLUSTER_BITS, 4, 22 } } },
	{ "header of 96 bytes", REFUSED, REFUSED, "header is 96", NULL,
	  { { HEADER_BYTES, 4, 96 } } },
	{ "header of 104 bytes", TAKEN, TAKEN, NULL, NULL,
	  { { HEADER_BYTES, 4, 104 }, { 104, 8, 0 } } },
	{ "header of 105 bytes", REFUSED, TAKEN, "not a multiple of 8",
	  "the specification wants a multiple of 8",
	  { { HEADER_BYTES, 4, 105 } } },
	{ "header of 120 bytes, with something in it", TAKEN, TAKEN, NULL, NULL,
	  { { HEADER_BYTES, 4, 120 }, { 112, 8, 85 }, { 120, 8, 0 } } },
	{ "header as long as a cluster", TAKEN, TAKEN, NULL, NULL,
	  { { HEADER_BYTES, 4, CLUSTER } } },
	{ "header longer than a cluster", REFUSED, REFUSED, "more than a cluster",
	  NULL, { { HEADER_BYTES, 4, CLUSTER + 8 } } },
	{ "refcount_order 7", REFUSED, REFUSED, "refcount_order is 7", NULL,
	  { { REFCOUNT_ORDER, 4, 7 } } },
	{ "AES", REFUSED, REFUSED, "AES", NULL, { { CRYPT_METHOD, 4, 1 } } },
	{ "LUKS", REFUSED, REFUSED, "LUKS", NULL, { { CRYPT_METHOD, 4, 2 } } },
	{ "encryption 3", REFUSED, REFUSED, "method is 3", NULL,
	  { { CRYPT_METHOD, 4, 3 } } },
	{ "backing file's name behind the cluster", REFUSED, REFUSED,
	  "outside of the first cluster", NULL,
	  { { BACKING_OFFSET, 8, CLUSTER + 1 } } },
	{ "no backing file's name at the cluster's end", TAKEN, TAKEN, NULL, NULL,
	  { { BACKING_OFFSET, 8, CLUSTER } } },
	{ "backing file's name of 1024 bytes", REFUSED, REFUSED, "1024 bytes",
	  NULL, { { BACKING_OFFSET, 8, 4096 }, { BACKING_BYTES, 4, 1024 } } },
	{ "backing file's name across the cluster's end", REFUSED, REFUSED,
	  "7 bytes", NULL,
	  { { BACKING_OFFSET, 8, CLUSTER - 6 }, { BACKING_BYTES, 4, 7 } } },
	{ "backing file's name without a place", TAKEN, TAKEN, NULL, NULL,
	  { { BACKING_BYTES, 4, 5 } } },
};

static const struct row features[] = {
	{ "raw data without a data file", REFUSED, REFUSED,
	  "autoclear bit 1", NULL, { { AUTOCLEAR, 8, 2 } } },
	{ "raw data without a data file, and bitmaps", REFUSED, REFUSED,
	  "autoclear bit 1", NULL, { { AUTOCLEAR, 8, 3 } } },
	{ "a data file that is not there", REFUSED, REFUSED, "was not given",
	  NULL, { { INCOMPATIBLE, 8, 4 } } },
	{ "unknown incompatible bit", REFUSED, REFUSED, "bit 5", NULL,
	  { { INCOMPATIBLE, 8, 32 } } },
	{ "unknown autoclear bits", TAKEN, TAKEN, NULL, NULL,
	  { { AUTOCLEAR, 8, ~3ULL } } },
	{ "unknown compatible bits", TAKEN, TAKEN, NULL, NULL,
	  { { COMPATIBLE, 8, ~0ULL } } },
	{ "corrupt", READ_ONLY, READ_ONLY, "corrupt", NULL,
	  { { INCOMPATIBLE, 8, 2 } } },
	{ "dirty", TAKEN, TAKEN, NULL, NULL, { { INCOMPATIBLE, 8, 1 } } },
	{ "compression bit without a type", REFUSED, REFUSED,
	  "compression type is 0", NULL, { { INCOMPATIBLE, 8, 8 } } },
	{ "compression type without the bit", REFUSED, REFUSED,
	  "compression type is 1", NULL, { { COMPRESSION_TYPE, 1, 1 } } },
	{ "compression type 2", REFUSED, REFUSED, "compression type 2", NULL,
	  { { INCOMPATIBLE, 8, 8 }, { COMPRESSION_TYPE, 1, 2 } } },
	{ "something beside the compression type", TAKEN, TAKEN, NULL, NULL,
	  { { COMPRESSION_TYPE + 1, 1, 1 } } },
};

static const struct row extensions[] = {
	{ "longer than the cluster", REFUSED, REFUSED, "65536 bytes", NULL,
	  { EXT(0, 0x12345678, CLUSTER) } },
	{ "end mark longer than the cluster", REFUSED, REFUSED, "0x00000000",
	  NULL, { EXT(0, 0, U32_MAX) } },
	{ "end mark with a length", TAKEN, TAKEN, NULL, NULL, { EXT(0, 0, 8) } },
	{ "4 bytes in front of the backing file's name", REFUSED, REFUSED,
	  "end at offset 116", NULL,
	  { EXT_BE64(0, 0), { BACKING_OFFSET, 8, EXTENSIONS + 4 } } },
	{ "4 bytes behind an extension", REFUSED, REFUSED, "end at offset 132",
	  NULL, { EXT(0, 0x1234, 8), { BACKING_OFFSET, 8, EXTENSIONS + 20 } } },
	{ "up to the backing file's name", TAKEN, TAKEN, NULL, NULL,
	  { EXT(0, 0x1234, 5), { BACKING_OFFSET, 8, EXTENSIONS + 13 } } },
	{ "into the backing file's name", REFUSED, REFUSED, "only 5", NULL,
	  { EXT(0, 0x1234, 6), { BACKING_OFFSET, 8, EXTENSIONS + 13 } } },
	{ "format of 15 bytes", TAKEN, TAKEN, NULL, NULL,
	  { EXT(0, 0xe2792aca, 15), EXT_BE64(24, 0) } },
	{ "format of 16 bytes", REFUSED, REFUSED, "format is 16 bytes", NULL,
	  { EXT(0, 0xe2792aca, 16), EXT_BE64(24, 0) } },
	{ "format of 16 bytes and another one", REFUSED, REFUSED,
	  "format is 16 bytes", NULL,
	  { EXT(0, 0xe2792aca, 16), EXT(24, 0xe2792aca, 3), EXT_BE64(40, 0) } },
	{ "LUKS header", REFUSED, REFUSED, "LUKS header", NULL,
	  { EXT(0, 0x0537be77, 16), EXT_BE64(24, 0) } },
	{ "LUKS header, version 2", REFUSED, REFUSED, "LUKS header", NULL,
	  { { VERSION, 4, 2 }, { 72, 8, 0x0537be7700000010 }, { 96, 8, 0 } } },
	{ "a data file's name without a data file", TAKEN, TAKEN, NULL, NULL,
	  { EXT(0, 0x44415441, 8), EXT_BE64(8, 0x6161616161616161),
	    EXT_BE64(16, 0) } },
	{ "feature names of 50 bytes", TAKEN, TAKEN, NULL, NULL,
	  { EXT(0, 0x6803f857, 50), EXT_BE64(64, 0) } },
};

/* Only bitmaps themselves are behind these, and nobody reads them here. */
#define DIRECTORY "the first write has them dropped, and QEMU takes the image again"

static const struct row bitmaps[] = {
	{ "bitmaps that mean nothing", TAKEN, TAKEN, NULL, NULL,
	  { BITMAPS(0, 7, FAR, 513) } },
	{ "16 bytes that mean nothing", REFUSED, REFUSED, "16 bytes long", NULL,
	  { EXT(0, 0x23852875, 16), EXT_BE64(24, 0) } },
	{ "16 bytes", REFUSED, REFUSED, "16 bytes long", NULL,
	  { { AUTOCLEAR, 8, 1 }, EXT(0, 0x23852875, 16), EXT_BE64(24, 0) } },
	{ "autoclear bit without bitmaps", TAKEN, TAKEN, NULL, NULL,
	  { { AUTOCLEAR, 8, 1 } } },
	{ "reserved member", REFUSED, REFUSED, "reserved", NULL,
	  { { AUTOCLEAR, 8, 1 }, BITMAPS(1, 7, 32, 5 * CLUSTER) } },
	{ "no bitmaps", REFUSED, REFUSED, "0 persistent bitmaps", NULL,
	  { { AUTOCLEAR, 8, 1 }, BITMAPS(0, 0, 32, 5 * CLUSTER) } },
	{ "65536 bitmaps", REFUSED, REFUSED, "65536 persistent bitmaps", NULL,
	  { { AUTOCLEAR, 8, 1 }, BITMAPS(65536, 0, 32, 5 * CLUSTER) } },
	{ "directory that is not aligned", REFUSED, REFUSED, "bitmap directory",
	  NULL, { { AUTOCLEAR, 8, 1 }, BITMAPS(1, 0, 32, 5 * CLUSTER + 512) } },
	{ "directory of more than 64 MiB", REFUSED, REFUSED, "bitmap directory",
	  NULL, { { AUTOCLEAR, 8, 1 },
		  BITMAPS(1, 0, SZ_64M + 1, 5 * CLUSTER) } },
	{ "directory of 0 bytes", TAKEN, REFUSED, NULL, DIRECTORY,
	  { { AUTOCLEAR, 8, 1 }, BITMAPS(1, 0, 0, 5 * CLUSTER) } },
	{ "directory that is shorter than its entries", TAKEN, REFUSED, NULL,
	  DIRECTORY, { { AUTOCLEAR, 8, 1 },
		       BITMAPS(65535, 0, 24, 5 * CLUSTER) } },
	{ "directory of zeroes", TAKEN, REFUSED, NULL, DIRECTORY,
	  { { AUTOCLEAR, 8, 1 }, BITMAPS(1, 0, 32, 5 * CLUSTER) } },
	{ "directory on the header", TAKEN, REFUSED, NULL, DIRECTORY,
	  { { AUTOCLEAR, 8, 1 }, BITMAPS(1, 0, 32, 0) } },
};

#define NOT_WRITTEN	"a write to it would destroy what is there"
#define NO_SUCH_FILE	"no entry can name what lies behind 2^56"

static const struct row tables[] = {
	{ "no refcount table", REFUSED, REFUSED, "no refcount table", NULL,
	  { { REFTABLE_CLUSTERS, 4, 0 } } },
	{ "refcount table of 128 clusters", READ_ONLY, TAKEN, "truncated",
	  "'qemu-img check' calls it an error",
	  { { REFTABLE_CLUSTERS, 4, 128 } } },
	{ "refcount table of 129 clusters", REFUSED, REFUSED, "refcount table has",
	  NULL, { { REFTABLE_CLUSTERS, 4, 129 } } },
	{ "refcount table that is not aligned", REFUSED, REFUSED,
	  "refcount table offset", NULL,
	  { { REFTABLE_OFFSET, 8, CLUSTER + 512 } } },
	{ "refcount table on the header", REFUSED, TAKEN,
	  "refcount table lies on the header", NOT_WRITTEN,
	  { { REFTABLE_OFFSET, 8, 0 } } },
	{ "refcount table behind the end", READ_ONLY, TAKEN, "truncated",
	  "QEMU marks the image corrupt at its first allocation",
	  { { REFTABLE_OFFSET, 8, 5 * CLUSTER } } },
	{ "refcount table at 2^56", REFUSED, TAKEN, "outside of any file",
	  NO_SUCH_FILE, { { REFTABLE_OFFSET, 8, 1ULL << 56 } } },
	{ "refcount table across 2^63", REFUSED, REFUSED, "outside of any file",
	  NULL, { { REFTABLE_OFFSET, 8, (1ULL << 63) - CLUSTER } } },
	{ "L1 table without entries", REFUSED, REFUSED, "L1 table has 0", NULL,
	  { { L1_ENTRIES, 4, 0 } } },
	{ "L1 table of the greatest length", TAKEN, TAKEN, NULL, NULL,
	  { { L1_ENTRIES, 4, 4 << 20 } } },
	{ "L1 table that is longer", REFUSED, REFUSED, "L1 table has", NULL,
	  { { L1_ENTRIES, 4, (4 << 20) + 1 } } },
	{ "L1 table that is not aligned", REFUSED, REFUSED, "L1 table offset",
	  NULL, { { L1_OFFSET, 8, 3 * CLUSTER + 512 } } },
	{ "L1 table on the header", REFUSED, TAKEN, "L1 table lies on the header",
	  NOT_WRITTEN, { { L1_OFFSET, 8, 0 } } },
	{ "L1 table far behind the end", READ_ONLY, TAKEN, "truncated",
	  "'qemu-img check' calls it an error",
	  { { L1_OFFSET, 8, FAR } } },
	{ "L1 table at 2^56", REFUSED, TAKEN, "outside of any file", NO_SUCH_FILE,
	  { { L1_OFFSET, 8, 1ULL << 56 } } },
	{ "virtual size 0", TAKEN, TAKEN, NULL, NULL, { { SIZE, 8, 0 } } },
	{ "virtual size 2^63", REFUSED, REFUSED, "too large", NULL,
	  { { SIZE, 8, 1ULL << 63 } } },
	{ "virtual size 2^64 - 1", REFUSED, REFUSED, "too large", NULL,
	  { { SIZE, 8, ~0ULL } } },
	{ "virtual size of a byte more than the L1 table", REFUSED, REFUSED,
	  "L1 table has 1", NULL, { { SIZE, 8, (512ULL << 20) + 1 } } },
	{ "65537 snapshots", REFUSED, REFUSED, "65537 internal snapshots", NULL,
	  { { NB_SNAPSHOTS, 4, 65537 }, { SNAPSHOTS_OFFSET, 8, 5 * CLUSTER } } },
	{ "snapshot table that is not aligned", REFUSED, REFUSED,
	  "snapshot table offset", NULL,
	  { { NB_SNAPSHOTS, 4, 1 }, { SNAPSHOTS_OFFSET, 8, 513 } } },
	{ "snapshot table that is not aligned, without snapshots", REFUSED,
	  REFUSED, "snapshot table offset", NULL,
	  { { SNAPSHOTS_OFFSET, 8, 513 } } },
	{ "snapshot table behind the end", READ_ONLY, TAKEN, "truncated",
	  "nobody knows where their L1 tables are",
	  { { NB_SNAPSHOTS, 4, 1 }, { SNAPSHOTS_OFFSET, 8, 9 * CLUSTER } } },
	{ "snapshot table at 2^56", REFUSED, TAKEN, "outside of any file",
	  NO_SUCH_FILE,
	  { { NB_SNAPSHOTS, 4, 1 }, { SNAPSHOTS_OFFSET, 8, 1ULL << 56 } } },
};

static void apply(struct disk *d, const struct row *row)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(row->changes); i++) {
		const struct change *c = &row->changes[i];
		unsigned char be[8];

		put_unaligned_be64(c->value, be);
		memfile_store(d->filp, c->pos, be + 8 - c->bytes, c->bytes);
	}
}

static bool qemu_opens(struct disk *d, const char *path, bool writable)
{
	const char * const rw[] = {
		"qemu-io", "-f", "qcow2", "-c", "length", path, NULL
	};
	const char * const ro[] = {
		"qemu-io", "-r", "-f", "qcow2", "-c", "length", path, NULL
	};
	int status;

	expect(!memfile_dump(d->filp, path), "cannot write %s", path);
	status = run_program(writable ? rw : ro, true);
	expect(status == 0 || status == 1, "qemu-io: exit status %d", status);
	return !status;
}

static enum verdict ask_qemu(struct disk *d)
{
	enum verdict verdict = REFUSED;
	char path[600];

	snprintf(path, sizeof(path), "%s/opens-%d.qcow2", args.work, getpid());
	if (qemu_opens(d, path, false))
		verdict = qemu_opens(d, path, true) ? TAKEN : READ_ONLY;
	unlink(path);
	return verdict;
}

static bool we_open(struct disk *d, bool writable, struct qcow2_reason *why)
{
	d->img = try_open(d, writable, why);
	if (IS_ERR(d->img))
		return false;
	expect(!detach(d), "detach");
	return true;
}

/* Opening for writing comes last, for it may repair what is dirty. */
static enum verdict ask_us(struct disk *d, struct qcow2_reason *why)
{
	if (!we_open(d, false, why))
		return REFUSED;
	return we_open(d, true, why) ? TAKEN : READ_ONLY;
}

static void try_row(const struct shape *shape, const struct row *row)
{
	struct qcow2_reason why = {};
	enum verdict qemu, ours;
	struct disk d = {};

	make_disk(&d, shape);
	apply(&d, row);
	qemu = ask_qemu(&d);
	ours = ask_us(&d, &why);
	expect(qemu == row->qemu, "%s: QEMU: %s, wanted %s", row->name,
	       verdicts[qemu], verdicts[row->qemu]);
	expect(ours == row->ours, "%s: %s (%s), wanted %s", row->name,
	       verdicts[ours], why.text, verdicts[row->ours]);
	expect((ours == qemu) == !row->why, "%s: %s", row->name,
	       row->why ?: "no reason");
	expect(ours == TAKEN || strstr(why.text, row->words), "%s: %s",
	       row->name, why.text);
	destroy(&d);
}

static void try_rows(const struct shape *shape, const struct row *rows,
		     size_t nr)
{
	size_t i;

	for (i = 0; i < nr; i++)
		try_row(shape, &rows[i]);
}

static void members_are_as_qemu_wants(const struct shape *shape)
{
	try_rows(shape, members, ARRAY_SIZE(members));
}

static void features_are_as_qemu_wants(const struct shape *shape)
{
	try_rows(shape, features, ARRAY_SIZE(features));
}

static void extensions_are_as_qemu_wants(const struct shape *shape)
{
	try_rows(shape, extensions, ARRAY_SIZE(extensions));
}

/* What is said of those rows: a write makes QEMU take the image. */
static void drop_bitmaps(const struct shape *shape, const struct row *row)
{
	struct disk d = {};

	make_disk(&d, shape);
	apply(&d, row);
	attach(&d);
	write_new(&d, 0, d.cluster);
	expect(!detach(&d), "detach");
	expect(ask_qemu(&d) == TAKEN, "%s: QEMU still refuses it", row->name);
	destroy(&d);
}

static void bitmaps_are_as_qemu_wants(const struct shape *shape)
{
	size_t i;

	try_rows(shape, bitmaps, ARRAY_SIZE(bitmaps));
	for (i = 0; i < ARRAY_SIZE(bitmaps); i++)
		if (bitmaps[i].why)
			drop_bitmaps(shape, &bitmaps[i]);
}

static void tables_are_as_qemu_wants(const struct shape *shape)
{
	try_rows(shape, tables, ARRAY_SIZE(tables));
}

/*
 * A remedy that cannot be tried in User-Mode Linux, where qemu-img finds no CPU time to
 * measure its key derivation by.
 */

static void run_qemu_img(const char * const *argv)
{
	int status = run_program(argv, true);

	expect(!status, "qemu-img %s: exit status %d", argv[1], status);
}

#define SECRET	"--object", "secret,id=key,data=word"

static void load_and_remove(struct disk *d, const char *path)
{
	int error = memfile_load(d->filp, path);

	expect(!error, "cannot load %s: %d", path, error);
	unlink(path);
}

static void a_luks_image_is_converted(const struct shape *shape)
{
	struct disk d = {};
	struct qcow2_reason why = {};
	char path[600], plain[620], opts[700];
	unsigned int tries;
	const char * const create[] = {
		"qemu-img", "create", "-q", SECRET, "-f", "qcow2", "-o",
		"encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
		path, "1M", NULL
	};
	const char * const convert[] = {
		"qemu-img", "convert", SECRET, "--image-opts", opts, "-O",
		"qcow2", plain, NULL
	};

	snprintf(path, sizeof(path), "%s/luks-%d.qcow2", args.work, getpid());
	snprintf(plain, sizeof(plain), "%s.plain", path);
	snprintf(opts, sizeof(opts),
		 "driver=qcow2,file.filename=%s,encrypt.key-secret=key", path);
	make_disk(&d, shape);
	/*
	 * qemu-img measures the CPU time of a hash and gives up when that is 0, as it is
	 * now and then where CPU time goes by ticks.
	 */
	for (tries = 1; run_program(create, true); tries++) {
		expect(tries < 50, "qemu-img create fails each time");
		usleep(1000);
	}
	run_qemu_img(convert);
	load_and_remove(&d, path);
	expect(ask_us(&d, &why) == REFUSED && strstr(why.text, "LUKS"),
	       "an encrypted image: %s", why.text);
	load_and_remove(&d, plain);
	expect(ask_us(&d, &why) == TAKEN, "converted: %s", why.text);
	destroy(&d);
}

/* QEMU's check counts the table twice, which is sound: each half of the disk has its data. */
static void a_table_of_two_entries_is_used_after_a_check(const struct shape *shape)
{
	struct disk d = {};
	char path[600];
	const char * const check[] = {
		"qemu-img", "check", "-q", "-r", "all", "-f", "qcow2", path,
		NULL
	};
	u64 l1, half;

	make_disk(&d, shape);
	attach(&d);
	half = d.cluster << d.img->geo.l2_bits;
	expect(half < d.bytes, "the disk has one table only");
	write_new(&d, 0, 2 * d.cluster);
	expect(!detach(&d), "detach");
	l1 = get_be64(&d, L1_OFFSET);
	put_be64(&d, l1 + 8, get_be64(&d, l1));
	snprintf(path, sizeof(path), "%s/two-%d.qcow2", args.work, getpid());
	expect(!memfile_dump(d.filp, path), "cannot write %s", path);
	run_program(check, true);
	load_and_remove(&d, path);
	memcpy(d.content + half, d.content, 2 * d.cluster);

	attach(&d);
	read_back(&d, 0, d.bytes);
	write_new(&d, 0, d.cluster);
	settle(&d);
	expect(!qcow2_image_needs_check(d.img), "%s", shim_log());
	write_new(&d, half + d.cluster, d.cluster);
	settle(&d);
	expect(!qcow2_image_needs_check(d.img), "%s", shim_log());
	/* Entries whose clusters have one user now lack COPIED, as with QEMU. */
	expect(!detach(&d), "detach");
	attach(&d);
	read_back(&d, 0, d.bytes);
	expect(!detach(&d), "detach");
	destroy(&d);
}

static const struct test_case cases[] = {
	TEST_CASE(a_table_of_two_entries_is_used_after_a_check, two_tables),
	TEST_CASE(a_luks_image_is_converted, once),
	TEST_CASE(an_l1_table_may_lack_its_tail, shapes),
	TEST_CASE(an_l1_table_may_lack_all, shapes),
	TEST_CASE(an_l1_table_that_had_entries_may_lack_all, preallocated),
	TEST_CASE(an_l1_table_far_behind_is_only_read, shapes),
	TEST_CASE(an_l1_table_that_cannot_be_written_is_only_read, once),
	TEST_CASE(a_refcount_table_may_lack_its_tail, shapes),
	TEST_CASE(a_refcount_table_may_lack_its_tail_in_a_dirty_image, once),
	TEST_CASE(a_refcount_table_must_count_the_file, shapes),
	TEST_CASE(a_refcount_table_must_count_what_is_in_use, preallocated),
	TEST_CASE(a_table_takes_memory_by_its_header, once),
	TEST_CASE(a_snapshot_needs_its_head_only, with_snapshot),
	TEST_CASE(members_are_as_qemu_wants, once),
	TEST_CASE(features_are_as_qemu_wants, once),
	TEST_CASE(extensions_are_as_qemu_wants, once),
	TEST_CASE(bitmaps_are_as_qemu_wants, once),
	TEST_CASE(tables_are_as_qemu_wants, once),
};

int main(int argc, char **argv)
{
	/* Most of its images are not sound. */
	verify_stop();
	return run_cases("opens", cases, ARRAY_SIZE(cases), argc, argv);
}
