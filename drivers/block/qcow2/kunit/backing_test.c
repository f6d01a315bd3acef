// SPDX-License-Identifier: GPL-2.0-only
/*
 * backing.c: where guest data comes from, with layers that are made by hand.
 */

#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/unaligned.h>

#include "fixture.h"

#define CLUSTER		65536ULL
#define LAYERS		3

/* Layer 1 and 2 have nothing; layer 3 is raw. */
static const struct test_layout standard = { 16, 4, false };

/**
 * struct stack - an image on layers
 * @ti: the image, which has an empty L2 table for its first clusters
 * @layers: what lies beneath, the first is next to the image
 * @chain: of these
 * @no_tables: the L1 table of those that have nothing
 */
struct stack {
	struct test_image *ti;
	struct qcow2_image layers[LAYERS];
	struct qcow2_chain *chain;
	struct qcow2_l1 no_tables;
};

/* The image must not let go of layers that were never opened. */
static void take_apart(void *context)
{
	struct stack *st = context;

	RCU_INIT_POINTER(st->ti->img->chain, NULL);
	st->chain->nr = 0;
	qcow2_chain_put(st->chain);
}

static struct qcow2_chain *make_chain(struct kunit *test, struct stack *st,
				      u32 nr)
{
	struct qcow2_chain *chain = kvzalloc(struct_size(chain, layers, nr),
					     GFP_KERNEL);
	u32 i;

	KUNIT_ASSERT_NOT_NULL(test, chain);
	chain->img = st->ti->img;
	chain->nr = nr;
	for (i = 0; i < nr; i++)
		chain->layers[i] = &st->layers[i];
	xa_init(&chain->depths);
	mutex_init(&chain->lock);
	return chain;
}

static struct stack *make_stack(struct kunit *test, u32 nr)
{
	struct stack *st = kunit_kzalloc(test, sizeof(*st), GFP_KERNEL);
	u32 i;

	KUNIT_ASSERT_NOT_NULL(test, st);
	st->ti = test_image(test, &standard);
	for (i = 0; i < nr; i++) {
		struct qcow2_image *layer = &st->layers[i];

		set_bit(QCOW2_IMAGE_LAYER, &layer->flags);
		test_geometry(test, &layer->geo, &standard);
		layer->geo.virtual_bytes = 100 * CLUSTER;
		RCU_INIT_POINTER(layer->l1, &st->no_tables);
	}
	set_bit(QCOW2_IMAGE_RAW, &st->layers[nr - 1].flags);
	st->chain = make_chain(test, st, nr);
	RCU_INIT_POINTER(st->ti->img->chain, st->chain);
	KUNIT_ASSERT_EQ(test, 0, kunit_add_action_or_reset(test, take_apart, st));
	return st;
}

static void expect_extent(struct kunit *test, struct stack *st, u64 offset,
			  u64 bytes, const struct qcow2_extent *wanted)
{
	struct qcow2_extent found;

	KUNIT_ASSERT_EQ(test, 0, qcow2_resolve(st->ti->img, offset, bytes,
					       &found));
	KUNIT_EXPECT_EQ_MSG(test, wanted->type, found.type, "at %llu", offset);
	KUNIT_EXPECT_EQ_MSG(test, wanted->bytes, found.bytes, "at %llu", offset);
	if (wanted->type != QCOW2_SUBCLUSTER_NORMAL)
		return;
	KUNIT_EXPECT_PTR_EQ(test, wanted->img, found.img);
	KUNIT_EXPECT_EQ(test, wanted->host_offset, found.host_offset);
}

static void expect_raw(struct kunit *test, struct stack *st, u64 offset,
		       u64 bytes, u64 wanted)
{
	const struct qcow2_extent extent = {
		.type = QCOW2_SUBCLUSTER_NORMAL,
		.img = &st->layers[st->chain->nr - 1],
		.host_offset = offset,
		.bytes = wanted,
	};

	expect_extent(test, st, offset, bytes, &extent);
}

static void expect_zeroes(struct kunit *test, struct stack *st, u64 offset,
			  u64 bytes, u64 wanted)
{
	const struct qcow2_extent extent = {
		.type = QCOW2_SUBCLUSTER_ZERO_PLAIN,
		.bytes = wanted,
	};

	expect_extent(test, st, offset, bytes, &extent);
}

static void set_entry(struct kunit *test, struct stack *st, u32 index, u64 word)
{
	struct test_image *ti = st->ti;
	struct qcow2_slice *slice =
		test_slice(test, ti, QCOW2_SLICE_L2,
			   test_cluster_offset(ti, TEST_L2));

	mutex_lock(&ti->img->meta_lock);
	KUNIT_EXPECT_EQ(test, 0,
			qcow2_set_l2_entry(&ti->img->geo, slice, index,
					   (struct qcow2_l2_entry){
						.word = word }));
	mutex_unlock(&ti->img->meta_lock);
}

/* What nobody above has is in the raw file, where the guest has it. */
static const struct depth_row {
	const char *name;
	u32 nr;
} depth_rows[] = {
	{ "1 layer", 1 },
	{ "2 layers", 2 },
	{ "3 layers", LAYERS },
};

KUNIT_ARRAY_PARAM_DESC(depth, depth_rows, name);

static void found_beneath(struct kunit *test)
{
	const struct depth_row *row = test->param_value;
	struct stack *st = make_stack(test, row->nr);

	expect_raw(test, st, 0, 512, 512);
	expect_raw(test, st, 5 * CLUSTER + 512, CLUSTER, CLUSTER);
	expect_raw(test, st, 7 * CLUSTER + 512, 3 * CLUSTER, 3 * CLUSTER);
}

/* The image's own entries come first, and cut what is found beneath. */
static void image_comes_first(struct kunit *test)
{
	struct stack *st = make_stack(test, LAYERS);
	const struct qcow2_extent own = {
		.type = QCOW2_SUBCLUSTER_NORMAL,
		.img = st->ti->img,
		.host_offset = TEST_FREE * CLUSTER + 1024,
		.bytes = CLUSTER - 1024,
	};

	set_entry(test, st, 2, QCOW2_OFLAG_ZERO);
	set_entry(test, st, 3, TEST_FREE * CLUSTER | QCOW2_OFLAG_COPIED);
	expect_raw(test, st, CLUSTER, 3 * CLUSTER, CLUSTER);
	expect_zeroes(test, st, 2 * CLUSTER + 512, 3 * CLUSTER, CLUSTER - 512);
	expect_extent(test, st, 3 * CLUSTER + 1024, 2 * CLUSTER, &own);
	expect_raw(test, st, 4 * CLUSTER, CLUSTER, CLUSTER);
}

/* Behind the end of a layer are zeroes, though there is data beneath. */
static void end_of_layer(struct kunit *test)
{
	struct stack *st = make_stack(test, LAYERS);

	st->layers[1].geo.virtual_bytes = 4 * CLUSTER + 1536;
	expect_raw(test, st, 4 * CLUSTER, CLUSTER, 1536);
	expect_zeroes(test, st, 4 * CLUSTER + 1536, CLUSTER - 1536,
		      CLUSTER - 1536);
	expect_zeroes(test, st, 9 * CLUSTER, CLUSTER, CLUSTER);
	KUNIT_EXPECT_TRUE(test, qcow2_shows_backing(st->ti->img,
						    9 * CLUSTER));
}

static void end_of_raw_file(struct kunit *test)
{
	struct stack *st = make_stack(test, 1);

	st->layers[0].geo.virtual_bytes = 4 * CLUSTER + 1536;
	expect_raw(test, st, 4 * CLUSTER, CLUSTER, 1536);
	expect_zeroes(test, st, 4 * CLUSTER + 1536, 512, 512);
	KUNIT_EXPECT_TRUE(test, qcow2_shows_backing(st->ti->img,
						    4 * CLUSTER + 1535));
	KUNIT_EXPECT_FALSE(test, qcow2_shows_backing(st->ti->img,
						     4 * CLUSTER + 1536));
}

static void nothing_anywhere(struct kunit *test)
{
	struct stack *st = make_stack(test, LAYERS);

	clear_bit(QCOW2_IMAGE_RAW, &st->layers[LAYERS - 1].flags);
	expect_zeroes(test, st, 512, CLUSTER, CLUSTER);
	expect_zeroes(test, st, 8 * CLUSTER, 512, 512);
}

/* With the place known, what lies above it is not looked at any more. */
static void place_is_remembered(struct kunit *test)
{
	struct stack *st = make_stack(test, LAYERS);

	expect_raw(test, st, 5 * CLUSTER, 512, 512);
	st->layers[0].geo.virtual_bytes = 0;
	expect_raw(test, st, 5 * CLUSTER, CLUSTER, CLUSTER);
	/* That of another cluster is not. */
	expect_zeroes(test, st, 6 * CLUSTER, CLUSTER, CLUSTER);
	expect_raw(test, st, 5 * CLUSTER, 2 * CLUSTER, CLUSTER);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(found_beneath, depth_gen_params),
	KUNIT_CASE(image_comes_first),
	KUNIT_CASE(end_of_layer),
	KUNIT_CASE(end_of_raw_file),
	KUNIT_CASE(nothing_anywhere),
	KUNIT_CASE(place_is_remembered),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_backing",
	.test_cases = cases,
};

kunit_test_suite(suite);
