// SPDX-License-Identifier: GPL-2.0-only
/*
 * Discards and write zeroes that meet a write which copies what is around its
 * bytes: one of the two is held at a point of its life, then the other comes.
 *
 * Where both want the same bytes, those are of the one or of the other; of the
 * second one if the first was done. What only one of them wants is what that one
 * makes it, and all else is as it was. A meeting takes place in two clusters that
 * no other has touched.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "cases.h"
#include "zeroing.h"

/* How long the second one may take, or has to wait for the first. */
#define PATIENCE_US	1000

/* How long to wait for a hole that there may be no need of. */
#define PUNCH_US	2000

/**
 * enum old - what is in the two clusters before
 * @OLD_NOTHING: what the disk began with
 * @OLD_DATA: all of it is data, in a place of its own
 * @OLD_PART: the first half of either is, or all without subclusters
 * @OLD_ZERO: zeroes, with a place in the file
 */
enum old {
	OLD_NOTHING,
	OLD_DATA,
	OLD_PART,
	OLD_ZERO,
	NR_OLD
};

/**
 * enum point - where the first one is held
 * @AT_READ: it reads what it is to copy
 * @AT_DATA: it writes to the file
 * @AT_REFCOUNTS: it is done, and a commit is about to write: nothing is flushed
 * @AT_ENTRIES: it is done, and a commit writes L2 entries, between two flushes
 * @AT_PUNCH: a hole is made
 */
enum point {
	AT_READ,
	AT_DATA,
	AT_REFCOUNTS,
	AT_ENTRIES,
	AT_PUNCH,
	NR_POINTS
};

/**
 * struct turn - who comes first, and how far
 * @write_first: the write does
 * @point: where it is held
 */
struct turn {
	bool write_first;
	enum point point;
};

static const struct turn turns[] = {
	{ true, AT_READ }, { true, AT_DATA }, { true, AT_REFCOUNTS },
	{ true, AT_ENTRIES }, { false, AT_DATA }, { false, AT_ENTRIES },
	{ false, AT_PUNCH },
};

/**
 * struct range - bytes of the two clusters
 * @from: in eighths of a cluster
 * @to: where it ends, likewise
 * @more: it begins so many sectors later
 * @further: it ends so many sectors later
 */
struct range {
	unsigned int from, to, more, further;
};

/* A part of a subcluster, if there are any. */
#define ONE_SECTOR	{ 4, 4, 1, 2 }
/* The end of a cluster and the beginning of the next. */
#define BOTH_CLUSTERS	{ 4, 10, 1, 0 }

/**
 * struct ranges - who wants what
 * @write: the write
 * @zero: the removal
 */
static const struct ranges {
	struct range write, zero;
} ranges[] = {
	/* The whole of the cluster; of both; one of the two. */
	{ ONE_SECTOR, { 0, 8 } },
	{ BOTH_CLUSTERS, { 0, 16 } },
	{ BOTH_CLUSTERS, { 8, 16 } },
	/* Other subclusters; some around that of the write; that of the write. */
	{ ONE_SECTOR, { 0, 4 } },
	{ ONE_SECTOR, { 2, 6 } },
	{ ONE_SECTOR, { 4, 5 } },
	/* Head and tail in the middle of subclusters, the tail in the write's. */
	{ ONE_SECTOR, { 1, 4, 1, 1 } },
	{ { 2, 4 }, { 5, 15, 1, 1 } },
};

static const struct {
	enum qcow2_op op;
	bool keep;
} removals[] = {
	{ QCOW2_OP_DISCARD }, { QCOW2_OP_WRITE_ZEROES },
	{ QCOW2_OP_WRITE_ZEROES, .keep = true },
};

/**
 * struct meeting - of a write and a removal
 * @d: the disk
 * @base: guest offset of the two clusters
 * @turn: who comes first
 * @write: the write, with its data
 * @offset: where it is
 * @bytes: how many
 * @removal: the other one
 * @what: what that is
 * @zero: where it is
 * @zero_bytes: how many
 * @flush: a flush
 * @flushes: it was started
 */
struct meeting {
	struct disk *d;
	u64 base;
	const struct turn *turn;
	struct op write;
	u64 offset, bytes;
	struct op removal;
	enum qcow2_op what;
	u64 zero, zero_bytes;
	struct op flush;
	bool flushes;
};

/* How often somebody was held at a point, and how often the other had to wait. */
static unsigned int held[NR_POINTS], waited[NR_POINTS];

/*
 * A meeting.
 */

static struct file *held_file(const struct meeting *m)
{
	return m->turn->point == AT_READ && m->d->layer ? m->d->layer :
							 m->d->filp;
}

static bool is_held(const struct meeting *m)
{
	return memfile_holds(held_file(m));
}

static void hold(const struct meeting *m)
{
	static const unsigned int ops[] = {
		[AT_READ] = MEMFILE_READ,
		[AT_DATA] = MEMFILE_WRITE,
		[AT_REFCOUNTS] = MEMFILE_WRITE,
		[AT_ENTRIES] = MEMFILE_WRITE,
		[AT_PUNCH] = MEMFILE_PUNCH,
	};
	const struct qcow2_geometry *geo = &m->d->img->geo;
	u64 from = 0, to = U64_MAX;

	if (m->turn->point == AT_ENTRIES) {
		from = qcow2_l1_entry(m->d->img, qcow2_l1_index(geo, m->base)) &
		       QCOW2_OFFSET_MASK;
		to = from + m->d->cluster;
	}
	memfile_hold(held_file(m), 1U << ops[m->turn->point], from, to);
}

/* Waits until @op is done, or is held, or for so long. */
static void watch(const struct meeting *m, struct op *op, unsigned int us)
{
	u64 until = shim_now_ns() + us * 1000ULL;

	while (!is_done(op) && !is_held(m) && shim_now_ns() < until)
		usleep(20);
}

static void start_one(struct meeting *m, bool write)
{
	if (write)
		start(m->d, &m->write, QCOW2_OP_WRITE, m->offset, m->bytes);
	else
		start(m->d, &m->removal, m->what, m->zero, m->zero_bytes);
}

/* The first one, up to where it is held, if it comes there. */
static void begin(struct meeting *m, struct op *first)
{
	bool behind = m->turn->point == AT_REFCOUNTS ||
		      m->turn->point == AT_ENTRIES;
	u64 until = shim_now_ns() + PUNCH_US * 1000ULL;

	if (!behind)
		hold(m);
	start_one(m, m->turn->write_first);
	watch(m, first, 10000000);
	if (is_held(m) || (!behind && m->turn->point != AT_PUNCH))
		return;
	expect(is_done(first), "the first one neither ends nor is it held");
	if (behind)
		hold(m);
	m->flushes = true;
	start(m->d, &m->flush, QCOW2_OP_FLUSH, 0, 0);
	watch(m, &m->flush, 10000000);
	while (!behind && !is_held(m) && has_drops(m->d) &&
	       shim_now_ns() < until)
		usleep(20);
}

static void overwrite(const struct meeting *m, unsigned char *content,
		      bool write)
{
	if (write)
		memcpy(content + m->offset - m->base, m->write.buf, m->bytes);
	else
		memset(content + m->zero - m->base, 0, m->zero_bytes);
}

/* The two clusters may be as if the one had come last, or as if the other. */
static void look(struct meeting *m, bool first_was_done, const char *what)
{
	bool write_first = m->turn->write_first;
	u64 bytes = 2 * m->d->cluster;
	unsigned char *now = m->d->content + m->base;
	unsigned char *one = must(malloc(bytes));
	unsigned char *other = must(malloc(bytes));
	struct op op = { .buf = get_buffer(bytes) };

	memcpy(one, now, bytes);
	overwrite(m, one, write_first);
	overwrite(m, one, !write_first);
	memcpy(other, now, bytes);
	overwrite(m, other, !write_first);
	overwrite(m, other, write_first);
	start(m->d, &op, QCOW2_OP_READ, m->base, bytes);
	expect(!finish(&op), "read");
	compare(op.buf, one, first_was_done ? one : other, m->base, bytes,
		what);
	memcpy(now, op.buf, bytes);
	free(op.buf);
	free(one);
	free(other);
}

static void meet(struct meeting *m, const char *what)
{
	bool write_first = m->turn->write_first;
	struct op *first = write_first ? &m->write : &m->removal;
	struct op *second = write_first ? &m->removal : &m->write;
	bool was_held, was_done;

	begin(m, first);
	was_held = is_held(m);
	was_done = is_done(first);
	held[m->turn->point] += was_held;
	if (!was_held)
		memfile_release(held_file(m));
	start_one(m, !write_first);
	if (was_held) {
		u64 until = shim_now_ns() + PATIENCE_US * 1000ULL;

		while (!is_done(second) && shim_now_ns() < until)
			usleep(20);
		waited[m->turn->point] += !is_done(second);
	}
	memfile_release(held_file(m));
	expect(!finish(&m->write), "%s: the write failed", what);
	expect(!finish(&m->removal), "%s: the removal failed", what);
	if (m->flushes)
		expect(!finish(&m->flush), "%s: the flush failed", what);
	look(m, was_done, what);
}

/*
 * Many of them.
 */

static const char * const point_names[] = {
	[AT_READ] = "a read of what is to be copied",
	[AT_DATA] = "a write to the file",
	[AT_REFCOUNTS] = "the first write of a commit",
	[AT_ENTRIES] = "the L2 entries of a commit",
	[AT_PUNCH] = "a hole",
};

static void make_old(struct disk *d, u64 base, enum old old)
{
	u64 bytes = 2 * d->cluster;

	/* What the disk began with may read as zeroes anyway. */
	if (old == OLD_DATA || old == OLD_ZERO)
		write_new(d, base, bytes);
	if (old == OLD_ZERO)
		keep_as_zeroes(d, base, bytes);
	if (old == OLD_PART) {
		write_new(d, base, d->cluster / 2);
		write_new(d, base + d->cluster, d->cluster / 2);
	}
}

/* A discard leaves alone what does not fill a subcluster. */
static bool is_for(const struct disk *d, const struct meeting *m)
{
	u64 subcluster = BIT_ULL(d->img->geo.subcluster_bits);

	return m->what != QCOW2_OP_DISCARD ||
	       !((m->zero | m->zero_bytes) & (subcluster - 1));
}

static u64 start_of(const struct disk *d, const struct range *r)
{
	return r->from * (d->cluster / 8) + r->more * WL_SECTOR;
}

static u64 bytes_of(const struct disk *d, const struct range *r)
{
	return r->to * (d->cluster / 8) + r->further * WL_SECTOR -
	       start_of(d, r);
}

static void meet_in(struct disk *d, u64 base, const struct turn *turn,
		    unsigned int old, unsigned int range, unsigned int removal)
{
	const struct ranges *r = &ranges[range];
	struct meeting m = {
		.d = d,
		.base = base,
		.turn = turn,
		.offset = base + start_of(d, &r->write),
		.bytes = bytes_of(d, &r->write),
		.what = removals[removal].op,
		.zero = base + start_of(d, &r->zero),
		.zero_bytes = bytes_of(d, &r->zero),
		.removal.keep = removals[removal].keep,
	};
	char text[200];

	if (!is_for(d, &m))
		return;
	make_old(d, base, old);
	m.write.buf = new_data(d, m.offset, m.bytes);
	snprintf(text, sizeof(text), "old %u, ranges %u, removal %u, %s first, held at %s",
		 old, range, removal, turn->write_first ? "write" : "removal",
		 point_names[turn->point]);
	meet(&m, text);
	free(m.write.buf);
}

/* Everything with everything, in that many kinds of clusters. */
static void meet_everywhere(struct disk *d, enum old last)
{
	unsigned int old, t, range, removal;
	u64 base = 0;

	for (old = 0; old <= last; old++) {
		for (t = 0; t < ARRAY_SIZE(turns); t++)
			for (range = 0; range < ARRAY_SIZE(ranges); range++)
				for (removal = 0; removal < ARRAY_SIZE(removals);
				     removal++, base += 2 * d->cluster)
					meet_in(d, base, &turns[t], old, range,
						removal);
		settle(d);
		check_file(d, "after many meetings");
	}
	expect(base <= d->bytes, "the disk is too small");
}

static void say(unsigned int points)
{
	unsigned int i;

	for (i = 0; i < NR_POINTS; i++) {
		printf("# held at %s: %u, of which the other waited for %u\n",
		       point_names[i], held[i], waited[i]);
		expect(!(points & 1U << i) || held[i],
		       "nobody was ever held at %s", point_names[i]);
	}
}

void zeroing_meets_copy_of_backing_file(const struct shape *shape)
{
	struct disk d = { .options = { .threads = 2 } };

	make_overlay(&d, shape);
	attach(&d);
	meet_everywhere(&d, OLD_ZERO);
	say((1U << NR_POINTS) - 1);
	detach_and_look(&d);
	destroy(&d);
}

void zeroing_meets_copy_with_discard_no_unref(const struct shape *shape)
{
	struct disk d = { .options = { .threads = 2 }, .no_unref = true };

	make_disk(&d, shape);
	attach(&d);
	meet_everywhere(&d, OLD_ZERO);
	say((1U << NR_POINTS) - 1 - (1U << AT_READ));
	detach_and_look(&d);
	destroy(&d);
}

void zeroing_meets_copy_of_shared_cluster(const struct shape *shape)
{
	struct disk d = { .options = { .threads = 2 } };
	unsigned char *before, *disk;

	make_disk(&d, shape);
	attach(&d);
	write_all(&d);
	detach_and_look(&d);
	take_snapshot(&d);
	before = must(malloc(d.bytes));
	memcpy(before, d.content, d.bytes);
	attach(&d);
	meet_everywhere(&d, OLD_NOTHING);
	say(1U << AT_READ | 1U << AT_DATA | 1U << AT_REFCOUNTS |
	    1U << AT_ENTRIES);
	detach_and_look(&d);
	disk = disk_of_file(&d, true);
	compare(disk, before, before, 0, d.bytes, "snapshot");
	free(disk);
	free(before);
	destroy(&d);
}

void zeroing_meets_copy_of_compressed_cluster(const struct shape *shape)
{
	struct disk d = { .options = { .threads = 2 } };
	unsigned char *disk;

	make_disk(&d, shape);
	disk = disk_of_file(&d, false);
	memcpy(d.content, disk, d.bytes);
	free(disk);
	attach(&d);
	meet_everywhere(&d, OLD_NOTHING);
	say(1U << AT_READ | 1U << AT_DATA | 1U << AT_REFCOUNTS |
	    1U << AT_ENTRIES);
	detach_and_look(&d);
	destroy(&d);
}
