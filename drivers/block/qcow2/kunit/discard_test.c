// SPDX-License-Identifier: GPL-2.0-only
/*
 * discard.c: what becomes of an L2 entry.
 */

#include "fixture.h"
#include "write.h"

#define HOST		0x50000ULL
#define COPIED		QCOW2_OFLAG_COPIED
#define ZERO		QCOW2_OFLAG_ZERO
#define ALL		0xffffffffULL
#define ALLOC(bits)	((u64)(bits))
#define ZEROES(bits)	((u64)(bits) << 32)

static const struct zeroed_row {
	const char *name;
	bool extl2;
	u32 version;
	struct qcow2_l2_entry old;
	struct qcow2_zeroing z;
	struct qcow2_l2_entry new;
} zeroed_rows[] = {
	{ "normal cluster", false, 3, { HOST | COPIED }, { 0, 1, false },
	  { ZERO } },
	{ "normal cluster, version 2", false, 2, { HOST | COPIED },
	  { 0, 1, false }, { 0 } },
	{ "shared cluster", false, 3, { HOST }, { 0, 1, false }, { ZERO } },
	{ "zero cluster with a place", false, 3, { HOST | COPIED | ZERO },
	  { 0, 1, false }, { ZERO } },
	{ "normal cluster that is kept", false, 3, { HOST | COPIED },
	  { 0, 1, true }, { HOST | COPIED | ZERO } },
	{ "shared cluster that is kept", false, 3, { HOST }, { 0, 1, true },
	  { HOST | ZERO } },

	{ "extended: all of a full cluster", true, 3,
	  { HOST | COPIED, ALLOC(ALL) }, { 0, 32, false }, { 0, ZEROES(ALL) } },
	{ "extended: all of a full cluster that is kept", true, 3,
	  { HOST | COPIED, ALLOC(ALL) }, { 0, 32, true },
	  { HOST | COPIED, ZEROES(ALL) } },
	{ "extended: first subcluster of a full cluster", true, 3,
	  { HOST | COPIED, ALLOC(ALL) }, { 0, 1, false },
	  { HOST | COPIED, ALLOC(ALL & ~1) | ZEROES(1) } },
	{ "extended: last subcluster of a full cluster", true, 3,
	  { HOST | COPIED, ALLOC(ALL) }, { 31, 32, false },
	  { HOST | COPIED, ALLOC(ALL >> 1) | ZEROES(1U << 31) } },
	{ "extended: all that has data, others unallocated", true, 3,
	  { HOST | COPIED, ALLOC(0xf0) }, { 4, 8, false },
	  { 0, ZEROES(0xf0) } },
	{ "extended: all that has data, others zero", true, 3,
	  { HOST | COPIED, ALLOC(0xf0) | ZEROES(0x0f) }, { 4, 8, false },
	  { 0, ZEROES(0xff) } },
	{ "extended: all that has data, kept", true, 3,
	  { HOST | COPIED, ALLOC(0xf0) }, { 4, 8, true },
	  { HOST | COPIED, ZEROES(0xf0) } },
	{ "extended: part of what has data", true, 3,
	  { HOST | COPIED, ALLOC(0xf0) }, { 0, 6, false },
	  { HOST | COPIED, ALLOC(0xc0) | ZEROES(0x3f) } },
	{ "extended: nothing that has data", true, 3,
	  { HOST | COPIED, ALLOC(0xf0) }, { 16, 24, false },
	  { HOST | COPIED, ALLOC(0xf0) | ZEROES(0xff0000) } },
	{ "extended: a place without data", true, 3, { HOST | COPIED, 0 },
	  { 0, 1, false }, { 0, ZEROES(1) } },
};

KUNIT_ARRAY_PARAM_DESC(zeroed, zeroed_rows, name);

static void entry_of_zeroes(struct kunit *test)
{
	const struct zeroed_row *row = test->param_value;
	struct test_layout layout = { 16, 4, row->extl2 };
	struct qcow2_geometry geo;
	struct qcow2_l2_entry new;

	test_geometry(test, &geo, &layout);
	geo.version = row->version;
	new = zeroed_entry(&geo, row->old, &row->z);
	KUNIT_EXPECT_EQ(test, row->new.word, new.word);
	KUNIT_EXPECT_EQ(test, row->new.bitmap, new.bitmap);
	KUNIT_EXPECT_EQ(test, 0, qcow2_check_l2_entry(&geo, new));
}

static struct kunit_case discard_cases[] = {
	KUNIT_CASE_PARAM(entry_of_zeroes, zeroed_gen_params),
	{ }
};

static struct kunit_suite discard_suite = {
	.name = "qcow2_discard",
	.test_cases = discard_cases,
};

kunit_test_suite(discard_suite);
