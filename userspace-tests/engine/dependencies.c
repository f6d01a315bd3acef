// SPDX-License-Identifier: GPL-2.0-only
/*
 * handle_dependencies() by itself: it must find what a walk along all metas in flight,
 * the newest first, would find, and must not walk along all of them.
 */

#include <errno.h>
#include <stdlib.h>

#include <linux/interval_tree_generic.h>
#include <linux/kernel.h>
#include <linux/list.h>

#include "cases.h"
#include "image.h"
#include "shim.h"
#include "write.h"

#define CLUSTER_BITS	12
#define CLUSTER		(1ULL << CLUSTER_BITS)
#define SECTOR		512ULL

/* A small disk, so that metas and passes meet; the lengths are up to so many sectors. */
enum { ROUNDS = 400000, FEW = 24, DISK_SECTORS = 200, LONGEST = 40 };

/* What 64 queues of 128 can have in flight. */
enum { MANY = 8192, LOOKS = 20000, MOST_VISITED = 200 };

/**
 * struct play - an image with nothing but metas in flight
 * @img: the image
 * @metas: those in flight, in the order in which they came
 * @nr: number of them
 * @random: what happens next
 */
static struct {
	struct qcow2_image img;
	struct qcow2_l2_meta *metas[MANY];
	unsigned int nr;
	struct shim_random random;
} play;

/**
 * struct answer - what a look gave
 * @ret: what it returned
 * @bytes: how far the pass can go
 * @blocker: what it has to wait for
 */
struct answer {
	int ret;
	u64 bytes;
	struct qcow2_l2_meta *blocker;
};

static u64 below(u64 n)
{
	return shim_below(&play.random, n);
}

static void begin(void)
{
	play.random.state = SEED;
	play.img.geo.cluster_bits = CLUSTER_BITS;
	play.img.geo.cluster_bytes = CLUSTER;
	play.img.in_flight = RB_ROOT_CACHED;
	mutex_init(&play.img.meta_lock);
}

static void launch(u64 start, u64 end, bool keep_old)
{
	struct qcow2_l2_meta *meta = must(calloc(1, sizeof(*meta)));
	u64 third = (end - start) / 3;

	meta->guest_offset = round_down(start, CLUSTER);
	meta->keep_old = keep_old;
	meta->cow_start.offset = start - meta->guest_offset;
	meta->cow_start.bytes = third;
	meta->cow_end.offset = end - third - meta->guest_offset;
	meta->cow_end.bytes = third;
	mutex_lock(&play.img.meta_lock);
	qcow2_launch_meta(&play.img, meta);
	mutex_unlock(&play.img.meta_lock);
	play.metas[play.nr++] = meta;
}

static void land(unsigned int i)
{
	LIST_HEAD(waiters);

	mutex_lock(&play.img.meta_lock);
	qcow2_land_meta(&play.img, play.metas[i], &waiters);
	mutex_unlock(&play.img.meta_lock);
	expect(list_empty(&waiters), "somebody waits for a meta");
	free(play.metas[i]);
	play.nr--;
	for (; i < play.nr; i++)
		play.metas[i] = play.metas[i + 1];
}

static void land_all(void)
{
	while (play.nr)
		land(play.nr - 1);
	expect(RB_EMPTY_ROOT(&play.img.in_flight.rb_root),
	       "something is left in flight");
}

static struct answer look(struct qcow2_pass pass, u64 offset, u64 bytes)
{
	struct answer a = { .bytes = bytes };

	pass.img = &play.img;
	mutex_lock(&play.img.meta_lock);
	a.ret = handle_dependencies(&pass, offset, &a.bytes);
	mutex_unlock(&play.img.meta_lock);
	a.blocker = pass.blocker;
	return a;
}

/* True if it ends the walk. */
static bool meets(const struct qcow2_pass *pass, struct qcow2_l2_meta *meta,
		  u64 offset, struct answer *a)
{
	u64 end = offset + a->bytes;
	u64 cow_start = meta->guest_offset + meta->cow_start.offset;
	u64 cow_end = meta->guest_offset + meta->cow_end.offset +
		      meta->cow_end.bytes;

	if (end <= meta->guest_offset || offset >= round_up(cow_end, CLUSTER))
		return false;
	if (meta->keep_old && !pass->exclusive &&
	    (end <= cow_start || offset >= cow_end))
		return false;
	if (offset < meta->guest_offset) {
		a->bytes = meta->guest_offset - offset;
		return false;
	}
	a->bytes = 0;
	if (pass->bytes)
		return true;
	a->ret = -EINPROGRESS;
	a->blocker = meta;
	return true;
}

static struct answer walk(const struct qcow2_pass *pass, u64 offset, u64 bytes)
{
	struct answer a = { .bytes = bytes };
	unsigned int i = play.nr;

	while (i--)
		if (meets(pass, play.metas[i], offset, &a))
			break;
	return a;
}

static void look_somewhere(unsigned int *found)
{
	const struct qcow2_pass pass = {
		.bytes = below(4) ? 0 : SECTOR,
		.exclusive = !below(4),
	};
	u64 offset = below(DISK_SECTORS) * SECTOR;
	u64 bytes = (1 + below(LONGEST)) * SECTOR;
	struct answer is = look(pass, offset, bytes);
	struct answer shall = walk(&pass, offset, bytes);

	expect(is.ret == shall.ret && is.bytes == shall.bytes &&
	       is.blocker == shall.blocker,
	       "%llu bytes at %llu: %d, %llu bytes, %p; it shall be %d, %llu, %p",
	       bytes, offset, is.ret, is.bytes, is.blocker, shall.ret,
	       shall.bytes, shall.blocker);
	found[0] += !is.ret && is.bytes == bytes;
	found[1] += !is.ret && is.bytes && is.bytes < bytes;
	found[2] += !is.ret && !is.bytes;
	found[3] += is.ret;
}

static void finds_what_a_walk_finds(const struct shape *shape)
{
	unsigned int found[4] = {}, i;

	begin();
	for (i = 0; i < ROUNDS; i++) {
		u64 start = below(DISK_SECTORS) * SECTOR;

		if (play.nr < below(FEW))
			launch(start, start + (1 + below(LONGEST)) * SECTOR,
			       below(2));
		else if (play.nr && below(2))
			land(below(play.nr));
		look_somewhere(found);
	}
	for (i = 0; i < ARRAY_SIZE(found); i++)
		expect(found[i] > ROUNDS / 100, "answer %u came %u times", i,
		       found[i]);
	land_all();
}

/* One after the other, in an order that is none. */
static void launch_many(void)
{
	unsigned int i;

	for (i = 0; i < MANY; i++) {
		u64 start = (i * 5ULL) % MANY * CLUSTER;

		launch(start, start + CLUSTER, below(2));
	}
}

static void few_of_many_are_visited(const struct shape *shape)
{
	unsigned int i;

	begin();
	launch_many();
	for (i = 0; i < LOOKS; i++) {
		const struct qcow2_pass pass = { .exclusive = below(2) };
		u64 offset = below(MANY * CLUSTER / SECTOR) * SECTOR;
		u64 bytes = (1 + below(2048)) * SECTOR;
		u64 before = shim_intervals_visited(), visited;
		struct answer a = look(pass, offset, bytes);

		visited = shim_intervals_visited() - before;
		expect(a.ret == -EINPROGRESS, "nothing is waited for");
		expect(visited <= MOST_VISITED,
		       "%llu visited of %u in flight", visited, MANY);
	}
	land_all();
}

static const struct shape shapes[] = { { "no image" }, {} };

static const struct test_case cases[] = {
	TEST_CASE(finds_what_a_walk_finds, shapes),
	TEST_CASE(few_of_many_are_visited, shapes),
};

int main(int argc, char **argv)
{
	return run_cases("dependencies", cases, ARRAY_SIZE(cases), argc, argv);
}
