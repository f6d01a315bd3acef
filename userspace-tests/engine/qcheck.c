// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads and checks a qcow2 image, by the specification (QEMU's
 * docs/interop/qcow2). What is an error and what is a leak follows what
 * `qemu-img check` of QEMU 7.2 says; overlaps of different structures are
 * errors here even where the refcount happens to cover them.
 *
 * COPIED: QEMU takes a flag that differs from "the refcount is 1" for an error
 * in both directions, in the active L1 table and its L2 tables only.
 */

#include "qcheck.h"
#include "qcodec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COPIED		(1ULL << 63)
#define COMPRESSED	(1ULL << 62)
#define ZERO		1ULL
#define OFFSET		0x00fffffffffffe00ULL
#define L1_RESERVED	0x7f000000000001ffULL
#define L2_RESERVED	0x3f000000000001feULL
#define REFTABLE_RESERVED 0x1ffULL

#define INCOMPAT_DIRTY		(1ULL << 0)
#define INCOMPAT_CORRUPT	(1ULL << 1)
#define INCOMPAT_DATA_FILE	(1ULL << 2)
#define INCOMPAT_COMPRESSION	(1ULL << 3)
#define INCOMPAT_EXTL2		(1ULL << 4)

#define AUTOCLEAR_DATA_FILE_RAW	(1ULL << 1)

#define COMPRESSION_ZSTD	1

/*
 * Bytes of the file.
 */

static uint64_t get_be(const struct qimg *q, uint64_t offset, unsigned int n)
{
	uint64_t v = 0;

	for (; n; n--, offset++)
		v = v << 8 | (offset < q->bytes ? q->buf[offset] : 0);
	return v;
}

static uint64_t get64(const struct qimg *q, uint64_t offset)
{
	return get_be(q, offset, 8);
}

static uint64_t into_cluster(const struct qimg *q, uint64_t offset)
{
	return offset & (q->cluster_bytes - 1);
}

/*
 * The header.
 */

static const char *check_header(const struct qimg *q)
{
	if (q->version != 2 && q->version != 3)
		return "unknown version";
	if (q->cluster_bits < 9 || q->cluster_bits > 21)
		return "cluster_bits out of range";
	if (q->incompatible & ~(INCOMPAT_DIRTY | INCOMPAT_CORRUPT |
				INCOMPAT_DATA_FILE | INCOMPAT_COMPRESSION |
				INCOMPAT_EXTL2))
		return "incompatible feature that the checker does not know";
	if (q->incompatible & INCOMPAT_COMPRESSION &&
	    get_be(q, 104, 1) != COMPRESSION_ZSTD)
		return "compression type that the checker does not know";
	if (q->refcount_bits > 64)
		return "refcount_order out of range";
	if (into_cluster(q, q->l1_offset) ||
	    into_cluster(q, q->reftable_offset) ||
	    into_cluster(q, q->snapshots_offset))
		return "a table is not aligned";
	if (q->reftable_offset + q->reftable_clusters * q->cluster_bytes >
	    (q->bytes + q->cluster_bytes - 1) / q->cluster_bytes *
	    q->cluster_bytes)
		return "the refcount table is behind the end of the file";
	if (q->l1_offset + q->l1_entries * 8ULL > q->bytes)
		return "the L1 table is behind the end of the file";
	return NULL;
}

const char *qimg_open_on(struct qimg *q, const void *buf, size_t bytes,
			 const void *backing, size_t backing_bytes)
{
	memset(q, 0, sizeof(*q));
	q->buf = buf;
	q->bytes = bytes;
	q->backing = backing;
	q->backing_bytes = backing_bytes;
	if (get_be(q, 0, 4) != 0x514649fb)
		return "no qcow2 magic";
	q->version = get_be(q, 4, 4);
	if (get64(q, 8) && !backing)
		return "backing files are not known to the checker";
	q->cluster_bits = get_be(q, 20, 4);
	q->cluster_bytes = 1ULL << (q->cluster_bits & 31);
	q->virtual_bytes = get64(q, 24);
	if (get_be(q, 32, 4))
		return "encryption is not known to the checker";
	q->l1_entries = get_be(q, 36, 4);
	q->l1_offset = get64(q, 40);
	q->reftable_offset = get64(q, 48);
	q->reftable_clusters = get_be(q, 56, 4);
	q->nb_snapshots = get_be(q, 60, 4);
	q->snapshots_offset = get64(q, 64);
	q->refcount_bits = 16;
	if (q->version == 3) {
		q->incompatible = get64(q, 72);
		q->refcount_bits = 1U << (get_be(q, 96, 4) & 7);
	}
	q->has_data_file = q->incompatible & INCOMPAT_DATA_FILE;
	q->raw_data = q->has_data_file && get64(q, 88) & AUTOCLEAR_DATA_FILE_RAW;
	q->extl2 = q->incompatible & INCOMPAT_EXTL2;
	q->zstd = q->incompatible & INCOMPAT_COMPRESSION;
	q->entry_bytes = q->extl2 ? 16 : 8;
	return check_header(q);
}

const char *qimg_open(struct qimg *q, const void *buf, size_t bytes)
{
	return qimg_open_on(q, buf, bytes, NULL, 0);
}

void qimg_data_file(struct qimg *q, const void *data, size_t bytes)
{
	q->data = data;
	q->data_bytes = bytes;
}

/* In a data file the cluster of guest offset 0 is at 0, which COPIED tells. */
static bool has_cluster(const struct qimg *q, uint64_t entry)
{
	return entry & OFFSET || (q->has_data_file && entry & COPIED);
}

void qimg_compressed_range(const struct qimg *q, uint64_t entry,
			   uint64_t *offset, size_t *bytes)
{
	unsigned int x = 62 - (q->cluster_bits - 8);
	uint64_t sectors = (entry & ~(COPIED | COMPRESSED)) >> x;

	*offset = entry & ((1ULL << x) - 1);
	*bytes = (sectors + 1) * 512 - (*offset & 511);
}

/*
 * Checking.
 */

enum kind {
	KIND_NONE,
	KIND_HEADER,
	KIND_L1,
	KIND_REFTABLE,
	KIND_REFBLOCK,
	KIND_SNAPSHOTS,
	KIND_L2,
	KIND_DATA,
	KIND_COMPRESSED,
};

static const char * const kind_names[] = {
	"nothing", "the header", "an L1 table", "the refcount table",
	"a refcount block", "the snapshot table", "an L2 table", "data",
	"compressed data",
};

/**
 * struct cluster - what refers to a host cluster
 * @refs: how often
 * @kind: as what
 * @tree: number of the L1 table through which it was reached last, from 1
 */
struct cluster {
	uint32_t refs;
	uint8_t kind;
	uint8_t tree;
};

struct checker {
	const struct qimg *q;
	struct qcheck *result;
	struct cluster *clusters;
	uint64_t nr;
	unsigned int tree;
};

__attribute__((format(printf, 2, 3)))
static void corruption(struct checker *c, const char *fmt, ...)
{
	va_list args;

	if (c->result->corruptions++)
		return;
	va_start(args, fmt);
	vsnprintf(c->result->first, sizeof(c->result->first), fmt, args);
	va_end(args);
}

static void refer_cluster(struct checker *c, uint64_t index, enum kind kind)
{
	struct cluster *cl;

	if (index >= c->nr) {
		c->result->outside++;
		corruption(c, "%s at 0x%llx is behind the end of the file",
			   kind_names[kind],
			   (unsigned long long)index << c->q->cluster_bits);
		return;
	}
	cl = &c->clusters[index];
	if (cl->refs && cl->kind != kind)
		corruption(c, "cluster 0x%llx is %s and %s",
			   (unsigned long long)index << c->q->cluster_bits,
			   kind_names[cl->kind], kind_names[kind]);
	else if (cl->refs && (kind < KIND_L2 ||
			      (kind < KIND_COMPRESSED && cl->tree == c->tree)))
		corruption(c, "cluster 0x%llx is %s twice",
			   (unsigned long long)index << c->q->cluster_bits,
			   kind_names[kind]);
	cl->refs++;
	cl->kind = kind;
	cl->tree = c->tree;
}

static void refer(struct checker *c, uint64_t offset, uint64_t bytes,
		  enum kind kind)
{
	uint64_t i, last;

	if (!bytes)
		return;
	last = (offset + bytes - 1) >> c->q->cluster_bits;
	for (i = offset >> c->q->cluster_bits; i <= last; i++)
		refer_cluster(c, i, kind);
}

static uint64_t stored_refcount(const struct qimg *q, uint64_t index)
{
	uint64_t per_block = q->cluster_bytes * 8 / q->refcount_bits;
	uint64_t table_index = index / per_block, i = index % per_block, block;

	if (table_index >= q->reftable_clusters * q->cluster_bytes / 8)
		return 0;
	block = get64(q, q->reftable_offset + table_index * 8) &
		~REFTABLE_RESERVED;
	if (!block)
		return 0;
	if (q->refcount_bits < 8)
		return get_be(q, block + i * q->refcount_bits / 8, 1) >>
		       (i * q->refcount_bits % 8) &
		       ((1U << q->refcount_bits) - 1);
	return get_be(q, block + i * q->refcount_bits / 8,
		      q->refcount_bits / 8);
}

static void check_copied(struct checker *c, const char *what, uint64_t entry)
{
	uint64_t offset = entry & OFFSET;
	uint64_t refcount = stored_refcount(c->q, offset >> c->q->cluster_bits);

	if (c->tree != 1 || c->result->dirty)
		return;
	if ((refcount == 1) != !!(entry & COPIED))
		corruption(c, "%s entry 0x%llx: COPIED with a refcount of %llu",
			   what, (unsigned long long)entry,
			   (unsigned long long)refcount);
}

static void check_compressed(struct checker *c, uint64_t entry)
{
	uint64_t offset;
	size_t bytes;

	if (entry & COPIED)
		corruption(c, "compressed entry 0x%llx is COPIED",
			   (unsigned long long)entry);
	qimg_compressed_range(c->q, entry, &offset, &bytes);
	refer(c, offset, bytes, KIND_COMPRESSED);
}

static void check_bitmap(struct checker *c, uint64_t entry, uint64_t bitmap)
{
	if ((uint32_t)bitmap & (bitmap >> 32))
		corruption(c, "L2 bitmap 0x%llx contradicts itself",
			   (unsigned long long)bitmap);
	if (!has_cluster(c->q, entry) && (uint32_t)bitmap)
		corruption(c, "L2 bitmap 0x%llx without a cluster",
			   (unsigned long long)bitmap);
	if (entry & ZERO)
		corruption(c, "extended L2 entry 0x%llx has the zero bit",
			   (unsigned long long)entry);
}

/* Nothing counts references there, and the place is given. */
static void check_data_file_entry(struct checker *c, uint64_t entry,
				  uint64_t guest)
{
	if ((entry & OFFSET) != guest || !(entry & COPIED))
		corruption(c, "L2 entry 0x%llx of guest offset 0x%llx, with a data file",
			   (unsigned long long)entry,
			   (unsigned long long)guest);
}

static void check_l2_entry(struct checker *c, uint64_t pos, uint64_t guest)
{
	const struct qimg *q = c->q;
	uint64_t entry = get64(q, pos);
	uint64_t bitmap = q->extl2 ? get64(q, pos + 8) : 0;

	if (entry & COMPRESSED) {
		if (bitmap || q->has_data_file)
			corruption(c, "compressed entry with a bitmap or a data file");
		check_compressed(c, entry);
		return;
	}
	if ((entry & L2_RESERVED) || (q->version == 2 && (entry & ZERO)))
		corruption(c, "L2 entry 0x%llx has reserved bits",
			   (unsigned long long)entry);
	if (q->extl2)
		check_bitmap(c, entry, bitmap);
	if (!has_cluster(q, entry))
		return;
	if (q->has_data_file) {
		check_data_file_entry(c, entry, guest);
		return;
	}
	if (into_cluster(q, entry & OFFSET)) {
		corruption(c, "L2 entry 0x%llx is not aligned",
			   (unsigned long long)entry);
		return;
	}
	refer(c, entry & OFFSET, q->cluster_bytes, KIND_DATA);
	check_copied(c, "L2", entry);
}

static void check_l1_entry(struct checker *c, uint64_t entry, uint64_t guest)
{
	const struct qimg *q = c->q;
	uint64_t pos;

	if (!entry)
		return;
	if (entry & L1_RESERVED)
		corruption(c, "L1 entry 0x%llx has reserved bits",
			   (unsigned long long)entry);
	if (!(entry & OFFSET) || into_cluster(q, entry & OFFSET)) {
		corruption(c, "L1 entry 0x%llx is not aligned",
			   (unsigned long long)entry);
		return;
	}
	refer(c, entry & OFFSET, q->cluster_bytes, KIND_L2);
	check_copied(c, "L1", entry);
	for (pos = 0; pos < q->cluster_bytes; pos += q->entry_bytes)
		check_l2_entry(c, (entry & OFFSET) + pos,
			       guest + pos / q->entry_bytes * q->cluster_bytes);
}

static void check_l1(struct checker *c, uint64_t offset, unsigned int entries)
{
	uint64_t covered = c->q->cluster_bytes / c->q->entry_bytes *
			   c->q->cluster_bytes;
	unsigned int i;

	c->tree++;
	refer(c, offset, entries * 8ULL, KIND_L1);
	for (i = 0; i < entries; i++)
		check_l1_entry(c, get64(c->q, offset + i * 8ULL), i * covered);
}

static void check_snapshots(struct checker *c)
{
	const struct qimg *q = c->q;
	uint64_t pos = q->snapshots_offset;
	unsigned int i;

	for (i = 0; i < q->nb_snapshots && pos < q->bytes; i++) {
		check_l1(c, get64(q, pos), get_be(q, pos + 8, 4));
		pos += 40 + get_be(q, pos + 36, 4) + get_be(q, pos + 12, 2) +
		       get_be(q, pos + 14, 2);
		pos = (pos + 7) & ~7ULL;
	}
	refer(c, q->snapshots_offset, pos - q->snapshots_offset,
	      KIND_SNAPSHOTS);
}

static void check_reftable(struct checker *c)
{
	const struct qimg *q = c->q;
	uint64_t i, n = q->reftable_clusters * q->cluster_bytes / 8;

	refer(c, q->reftable_offset, q->reftable_clusters * q->cluster_bytes,
	      KIND_REFTABLE);
	for (i = 0; i < n; i++) {
		uint64_t entry = get64(q, q->reftable_offset + i * 8);

		if (!entry)
			continue;
		if ((entry & REFTABLE_RESERVED) || into_cluster(q, entry))
			corruption(c, "refcount table entry 0x%llx is not aligned",
				   (unsigned long long)entry);
		else
			refer(c, entry, q->cluster_bytes, KIND_REFBLOCK);
	}
}

static void compare_one(struct checker *c, uint64_t index)
{
	uint64_t stored = stored_refcount(c->q, index);
	uint64_t refs = index < c->nr ? c->clusters[index].refs : 0;

	if (stored > refs)
		c->result->leaks++;
	if (stored >= refs)
		return;
	c->result->low++;
	c->result->low_shared += refs > 1;
	if (!c->result->dirty)
		corruption(c, "cluster 0x%llx (%s) has refcount %llu and %llu references",
			   (unsigned long long)index << c->q->cluster_bits,
			   kind_names[c->clusters[index].kind],
			   (unsigned long long)stored,
			   (unsigned long long)refs);
}

static void compare_refcounts(struct checker *c)
{
	const struct qimg *q = c->q;
	uint64_t per_block = q->cluster_bytes * 8 / q->refcount_bits;
	uint64_t i, j, n = q->reftable_clusters * q->cluster_bytes / 8;

	for (i = 0; i < n; i++) {
		if (!get64(q, q->reftable_offset + i * 8))
			continue;
		for (j = 0; j < per_block; j++)
			if (i * per_block + j >= c->nr)
				compare_one(c, i * per_block + j);
	}
	for (i = 0; i < c->nr; i++)
		compare_one(c, i);
}

static void walk(struct checker *c)
{
	const struct qimg *q = c->q;

	memset(c->result, 0, sizeof(*c->result));
	c->result->dirty = q->incompatible & INCOMPAT_DIRTY;
	c->result->corrupt = q->incompatible & INCOMPAT_CORRUPT;
	c->nr = (q->bytes + q->cluster_bytes - 1) >> q->cluster_bits;
	c->clusters = calloc(c->nr + 1, sizeof(*c->clusters));
	if (!c->clusters)
		abort();
	refer(c, 0, q->cluster_bytes, KIND_HEADER);
	check_reftable(c);
	check_l1(c, q->l1_offset, q->l1_entries);
	check_snapshots(c);
}

void qimg_check(const struct qimg *q, struct qcheck *result)
{
	struct checker c = { .q = q, .result = result };

	walk(&c);
	compare_refcounts(&c);
	free(c.clusters);
}

unsigned char *qimg_kinds(const struct qimg *q, size_t *nr)
{
	struct qcheck result;
	struct checker c = { .q = q, .result = &result };
	unsigned char *kinds;
	size_t i;

	walk(&c);
	kinds = calloc(c.nr + 1, 1);
	if (!kinds)
		abort();
	for (i = 0; i < c.nr; i++)
		kinds[i] = c.clusters[i].kind == KIND_NONE ? QKIND_FREE :
			   c.clusters[i].kind < KIND_DATA ? QKIND_META :
							    QKIND_DATA;
	free(c.clusters);
	*nr = c.nr;
	return kinds;
}

/*
 * Reading.
 */

bool qimg_snapshot(const struct qimg *q, struct qimg *snapshot)
{
	*snapshot = *q;
	if (!q->nb_snapshots)
		return false;
	snapshot->l1_offset = get64(q, q->snapshots_offset);
	snapshot->l1_entries = get_be(q, q->snapshots_offset + 8, 4);
	return true;
}

static void copy_out(const unsigned char *buf, size_t buf_bytes,
		     uint64_t offset, size_t bytes, unsigned char *to)
{
	size_t n = offset >= buf_bytes ? 0 : buf_bytes - offset;

	if (n > bytes)
		n = bytes;
	if (n)
		memcpy(to, buf + offset, n);
	memset(to + n, 0, bytes - n);
}

static void get_bytes(const struct qimg *q, uint64_t offset, size_t bytes,
		      unsigned char *to)
{
	copy_out(q->buf, q->bytes, offset, bytes, to);
}

static void get_data(const struct qimg *q, uint64_t offset, size_t bytes,
		     unsigned char *to)
{
	if (q->has_data_file)
		copy_out(q->data, q->data_bytes, offset, bytes, to);
	else
		get_bytes(q, offset, bytes, to);
}

static const char *read_compressed(const struct qimg *q, uint64_t entry,
				   uint64_t in, size_t bytes, unsigned char *to)
{
	unsigned char *stream, *cluster = malloc(q->cluster_bytes);
	uint64_t offset;
	size_t length;
	bool ok;

	qimg_compressed_range(q, entry, &offset, &length);
	stream = malloc(length);
	if (!stream || !cluster)
		abort();
	get_bytes(q, offset, length, stream);
	ok = qcodec_decompress(q->zstd, stream, length, cluster,
			       q->cluster_bytes);
	memcpy(to, cluster + in, bytes);
	free(stream);
	free(cluster);
	return ok ? NULL : "damaged compressed cluster";
}

/* What has neither data nor zeroes. */
static void get_backing(const struct qimg *q, uint64_t offset, size_t bytes,
			unsigned char *to)
{
	if (q->backing)
		copy_out(q->backing, q->backing_bytes, offset, bytes, to);
	else
		memset(to, 0, bytes);
}

static const char *read_mapped(const struct qimg *q, uint64_t entry,
			       uint64_t bitmap, uint64_t offset, size_t bytes,
			       unsigned char *to)
{
	uint64_t in = into_cluster(q, offset);
	uint64_t sub = in / (q->cluster_bytes / 32);
	bool zero = q->extl2 ? bitmap >> (32 + sub) & 1 : entry & ZERO;
	bool alloc = q->extl2 ? bitmap >> sub & 1 :
				has_cluster(q, entry) && !zero;

	if (entry & COMPRESSED)
		return read_compressed(q, entry, in, bytes, to);
	if (alloc && zero)
		return "subcluster is allocated and zero";
	if (alloc && into_cluster(q, entry & OFFSET))
		return "unaligned L2 entry";
	if (alloc)
		get_data(q, (entry & OFFSET) + in, bytes, to);
	else if (zero)
		memset(to, 0, bytes);
	else
		get_backing(q, offset, bytes, to);
	return NULL;
}

uint64_t qimg_l2_entry(const struct qimg *q, uint64_t offset)
{
	uint64_t entries = q->cluster_bytes / q->entry_bytes;
	uint64_t cluster = offset >> q->cluster_bits;
	uint64_t l1 = get64(q, q->l1_offset + cluster / entries * 8) & OFFSET;

	return l1 ? l1 + cluster % entries * q->entry_bytes : 0;
}

static const char *read_piece(const struct qimg *q, uint64_t offset,
			      size_t bytes, unsigned char *to)
{
	uint64_t entries = q->cluster_bytes / q->entry_bytes;
	uint64_t pos;

	if ((offset >> q->cluster_bits) / entries >= q->l1_entries)
		return "the L1 table is too short";
	pos = qimg_l2_entry(q, offset);
	if (!pos) {
		get_backing(q, offset, bytes, to);
		return NULL;
	}
	return read_mapped(q, get64(q, pos), q->extl2 ? get64(q, pos + 8) : 0,
			   offset, bytes, to);
}

const char *qimg_read(const struct qimg *q, uint64_t offset, size_t bytes,
		      void *to)
{
	uint64_t unit = q->extl2 ? q->cluster_bytes / 32 : q->cluster_bytes;
	unsigned char *pos = to;

	while (bytes) {
		size_t n = unit - (offset & (unit - 1));
		const char *why;

		if (n > bytes)
			n = bytes;
		why = read_piece(q, offset, n, pos);
		if (why)
			return why;
		offset += n;
		pos += n;
		bytes -= n;
	}
	return NULL;
}
