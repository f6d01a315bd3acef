/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the suites share: a valid header, a geometry, and a small image that is
 * open, in a file in memory.
 */
#ifndef _QCOW2_KUNIT_FIXTURE_H
#define _QCOW2_KUNIT_FIXTURE_H

#include <kunit/test.h>

#include "image.h"

/*
 * Host clusters of the image that qcow2_test_image() makes. Those in front of
 * TEST_FREE have a refcount of 1, the others are free.
 */
enum test_cluster {
	TEST_HEADER,
	TEST_REFTABLE,
	TEST_REFBLOCK,
	TEST_L1,
	TEST_L2,
	TEST_FREE,
};

/**
 * struct test_layout - what sort of image is wanted
 * @cluster_bits: log2 of the cluster size
 * @refcount_order: log2 of the width of a refcount in bits
 * @extl2: with extended L2 entries
 */
struct test_layout {
	u32 cluster_bits;
	u32 refcount_order;
	bool extl2;
};

/**
 * struct test_fault - an operation on the file that shall fail
 * @write: which write since the image was opened, from 1; 0 for none
 * @sync: which flush likewise
 * @error: what it gives
 */
struct test_fault {
	unsigned int write;
	unsigned int sync;
	int error;
};

/**
 * struct test_image - an open image, closed when the test ends
 * @img: the image
 * @filp: the file
 * @reads: how often the file was read since the image was opened
 * @writes: how often it was written since then
 * @syncs: how often it was flushed since then
 * @read_error: what the next reads of it give, 0 to let them through
 * @fault: what else shall fail
 */
struct test_image {
	struct qcow2_image *img;
	struct file *filp;
	unsigned int reads;
	unsigned int writes;
	unsigned int syncs;
	int read_error;
	struct test_fault fault;
};

/**
 * struct test_size - a row for what must hold at every cluster size
 * @name: of the row
 * @cluster_bits: log2 of the size
 */
struct test_size {
	const char *name;
	u32 cluster_bits;
};

/* All of them, smallest first. */
extern const struct test_size test_sizes[QCOW2_MAX_CLUSTER_BITS -
					 QCOW2_MIN_CLUSTER_BITS + 1];

void test_header(struct qcow2_disk_header *h, u32 version, u32 cluster_bits);
void test_geometry(struct kunit *test, struct qcow2_geometry *geo,
		   const struct test_layout *layout);
struct test_image *test_image(struct kunit *test,
			      const struct test_layout *layout);
void test_image_write(struct kunit *test, struct test_image *ti, u64 offset,
		      const void *buf, size_t bytes);
u64 test_cluster_offset(const struct test_image *ti, u64 cluster);
struct qcow2_slice *test_slice(struct kunit *test, struct test_image *ti,
			       enum qcow2_slice_kind kind, u64 offset);
void test_mark_dirty(struct test_image *ti, struct qcow2_slice *slice);
bool test_is_cached(struct test_image *ti, enum qcow2_slice_kind kind,
		    u64 offset);

#endif /* _QCOW2_KUNIT_FIXTURE_H */
