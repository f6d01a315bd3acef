// SPDX-License-Identifier: GPL-2.0-only
/*
 * What online snapshots, resize and rebase are going to stand on: refcounts that rise,
 * and fall again when one of them cannot; waiting for guest I/O that was there before;
 * a virtual size and a list of snapshots that change while I/O runs. For layers see
 * layers.c.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "cases.h"
#include "disk.h"
#include "memfile.h"
#include "shim.h"

/*
 * Refcounts.
 */

/* So many clusters have their refcounts in more than one slice. */
#define MANY	200U

/* What the next one finds, or sets. */
static u64 refcount;

static u32 index_of(struct qcow2_image *img, u64 cluster)
{
	return cluster & ((1ULL << img->geo.refslice_bits) - 1);
}

static int get(struct qcow2_image *img, u64 cluster, struct qcow2_slice *slice)
{
	refcount = qcow2_get_refcount(slice->data, img->geo.refcount_order,
				      index_of(img, cluster));
	return 0;
}

static int set(struct qcow2_image *img, u64 cluster, struct qcow2_slice *slice)
{
	qcow2_set_refcount(slice->data, img->geo.refcount_order,
			   index_of(img, cluster), refcount);
	qcow2_slice_mark_dirty(img, slice);
	return 0;
}

static u64 refcount_of(struct disk *d, u64 host)
{
	expect(!qcow2_with_refcount(d->img, host / d->cluster, get),
	       "no refcount at %llu", host);
	return refcount;
}

static void set_refcount(struct disk *d, u64 host, u64 value)
{
	refcount = value;
	expect(!qcow2_with_refcount(d->img, host / d->cluster, set),
	       "no refcount at %llu", host);
}

static void lower(struct disk *d, u64 host)
{
	expect(!qcow2_with_refcount(d->img, host / d->cluster,
				    qcow2_refcount_dec), "cannot be lowered");
}

/* Attached, with so many clusters of data, whose places are told. */
static void make_clusters(struct disk *d, const struct shape *shape, u64 *hosts)
{
	unsigned int i;

	make_disk(d, shape);
	attach(d);
	for (i = 0; i < MANY; i++) {
		write_new(d, i * d->cluster, d->cluster);
		hosts[i] = host_of(d, i * d->cluster);
	}
	flush(d);
}

static void expect_refcounts(struct disk *d, const u64 *hosts, unsigned int nr,
			     u64 wanted, const char *when)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		expect(refcount_of(d, hosts[i]) == wanted,
		       "%s: the refcount of cluster %u is %llu, wanted %llu",
		       when, i, refcount, wanted);
}

static u64 most_of(struct disk *d)
{
	return qcow2_max_refcount(d->img->geo.refcount_order);
}

static void refcounts_rise_together(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];
	unsigned int i;
	int error;

	make_clusters(&d, shape, hosts);
	error = qcow2_refcounts_raise(d.img, hosts, MANY);
	if (most_of(&d) == 1) {
		expect(error == -EOVERFLOW, "1 was raised with one bit: %d",
		       error);
		expect_refcounts(&d, hosts, MANY, 1, "without room");
		detach_and_look(&d);
		destroy(&d);
		return;
	}
	expect(!error, "cannot raise: %d", error);
	expect_refcounts(&d, hosts, MANY, 2, "raised");
	for (i = 0; i < MANY; i++)
		lower(&d, hosts[i]);
	expect_refcounts(&d, hosts, MANY, 1, "lowered");
	detach_and_look(&d);
	destroy(&d);
}

/* What nothing refers to is a leak. A snapshot has taken the COPIED flags away. */
static void raised_refcounts_reach_the_file(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];
	unsigned int i;

	make_clusters(&d, shape, hosts);
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach(&d);
	expect(!qcow2_refcounts_raise(d.img, hosts, MANY), "cannot raise");
	flush(&d);
	i = check_file(&d, "with the new counts").leaks;
	expect(i == MANY, "%u leaks, wanted %u", i, MANY);
	for (i = 0; i < MANY; i++)
		lower(&d, hosts[i]);
	expect_refcounts(&d, hosts, MANY, 2, "lowered");
	detach_and_look(&d);
	destroy(&d);
}

/* Raises all clusters, of which the one in the middle cannot be raised. */
static void fail_in_the_middle(struct disk *d, const u64 *hosts, u64 value,
			       int wanted)
{
	u32 middle = MANY / 2;
	int error;

	set_refcount(d, hosts[middle], value);
	error = qcow2_refcounts_raise(d->img, hosts, MANY);
	expect(error == wanted, "raised with %llu: %d", value, error);
	expect(refcount_of(d, hosts[middle]) == value, "%llu became %llu", value,
	       refcount);
	set_refcount(d, hosts[middle], 1);
	expect_refcounts(d, hosts, MANY, 1, "after an error");
}

static void full_refcount_leaves_the_others(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];
	u64 most;

	make_clusters(&d, shape, hosts);
	most = most_of(&d);
	fail_in_the_middle(&d, hosts, most, -EOVERFLOW);
	expect(!qcow2_image_needs_check(d.img), "a full count is no damage");
	if (most > 1) {
		/* There is room for one. */
		set_refcount(&d, hosts[0], most - 1);
		expect(!qcow2_refcounts_raise(d.img, hosts, 1),
		       "%llu cannot be raised", most - 1);
		expect(refcount_of(&d, hosts[0]) == most, "%llu became %llu",
		       most - 1, refcount);
		set_refcount(&d, hosts[0], 1);
	}
	expect_refcounts(&d, hosts, MANY, 1, "in the end");
	detach_and_look(&d);
	destroy(&d);
}

static void free_cluster_is_not_referred_to(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];

	make_clusters(&d, shape, hosts);
	if (most_of(&d) > 1)
		fail_in_the_middle(&d, hosts, 0, -EUCLEAN);
	else
		expect(qcow2_refcounts_raise(d.img, hosts, 1) == -EOVERFLOW,
		       "1 was raised with one bit");
	expect(qcow2_image_needs_check(d.img) == (most_of(&d) > 1),
	       "damage is told from a full count");
	detach(&d);
	destroy(&d);
}

static void same_cluster_rises_twice(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY], twice[2], most;

	make_clusters(&d, shape, hosts);
	most = most_of(&d);
	twice[0] = hosts[0];
	twice[1] = hosts[0];
	if (most > 3) {
		expect(!qcow2_refcounts_raise(d.img, twice, 2), "cannot raise");
		expect_refcounts(&d, hosts, 1, 3, "raised twice");
	}
	set_refcount(&d, hosts[0], most - 1);
	expect(qcow2_refcounts_raise(d.img, twice, 2) ==
	       (most == 1 ? -EUCLEAN : -EOVERFLOW), "raised too far");
	expect_refcounts(&d, hosts, 1, most - 1, "raised too far");
	set_refcount(&d, hosts[0], 1);
	if (most > 1)
		detach_and_look(&d);
	else
		detach(&d);
	destroy(&d);
}

/* Slices that wait to be written have a bound here too. */
static void raised_refcounts_need_little_memory(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];
	unsigned int most;

	make_clusters(&d, shape, hosts);
	settle(&d);
	d.img->max_dirty = 0;
	expect(!qcow2_refcounts_raise(d.img, hosts, MANY), "cannot raise");
	most = READ_ONCE(d.img->nr_dirty);
	expect(most <= 1, "%u slices are dirty", most);
	expect_refcounts(&d, hosts, MANY, 2, "raised");
	detach(&d);
	destroy(&d);
}

/*
 * All of them.
 */

#define ORDER(bits)						\
	{ .cluster_bits = 9, .refcount_bits = bits, .version = 3, \
	  .virtual_bytes = 1 << 20 }

static const struct shape widths[] = {
	{ "refcounts of 1 bit", ORDER(1) },
	{ "refcounts of 2 bits", ORDER(2) },
	{ "refcounts of 4 bits", ORDER(4) },
	{ "refcounts of 8 bits", ORDER(8) },
	{ "refcounts of 16 bits", ORDER(16) },
	{ "refcounts of 32 bits", ORDER(32) },
	{ "refcounts of 64 bits", ORDER(64) },
	{}
};

static const struct shape wide[] = {
	{ "refcounts of 64 bits", ORDER(64) },
	{}
};

static const struct test_case cases[] = {
	TEST_CASE(refcounts_rise_together, widths),
	TEST_CASE(raised_refcounts_reach_the_file, widths + 1),
	TEST_CASE(full_refcount_leaves_the_others, widths),
	TEST_CASE(free_cluster_is_not_referred_to, widths),
	TEST_CASE(same_cluster_rises_twice, widths),
	TEST_CASE(raised_refcounts_need_little_memory, wide),
};

int main(int argc, char **argv)
{
	return run_cases("foundations", cases, ARRAY_SIZE(cases), argc, argv);
}
