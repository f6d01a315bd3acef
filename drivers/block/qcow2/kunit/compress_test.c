// SPDX-License-Identifier: GPL-2.0-only
/*
 * compress.c and the codecs: which streams make a cluster, what is kept of it,
 * and when it is forgotten.
 */

#include <linux/bvec.h>
#include <linux/errno.h>
#include <linux/hex.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "codec.h"
#include "fixture.h"

#define COMPRESSED	QCOW2_OFLAG_COMPRESSED

/* Clusters of 512 bytes: an entry has 61 bits for the offset, 1 for sectors. */
static const struct test_layout layout = { 9, 4, false };

#define CLUSTER		512
#define TWO_SECTORS	BIT_ULL(61)

/*
 * Streams, written by hand, in hexadecimal.  Those that are right make 512 times
 * 'a'.
 */

#define DEFLATE_512	"4b4c1c0523190000"
#define DEFLATE_511	"4b4c1c0523180000"
/* A stored block of one byte, which others follow. */
#define DEFLATE_STORED	"000100feff61"

/* Content of 512 bytes, which is its window too: one byte, repeated. */
#define ZSTD_512	"28b52ffd60000103100061"
/* The same without a length, and a window of 1 KiB. */
#define ZSTD_UNSIZED	"28b52ffd000003100061"
#define ZSTD_256	"28b52ffd60000003080061"
#define ZSTD_SKIPPED	"5a2a4d1803000000616263"

#define MAX_STREAM	64

static const struct codec_row {
	const char *name;
	const struct qcow2_codec *codec;
	const char *hex;
	int error;
	size_t cut;
} codec_rows[] = {
	{ "zlib", &qcow2_codec_zlib, DEFLATE_512, 0 },
	{ "zlib, something behind it", &qcow2_codec_zlib,
	  DEFLATE_512 "ffffffff", 0 },
	{ "zlib, a byte too short", &qcow2_codec_zlib, DEFLATE_511, -EIO },
	{ "zlib, a byte too long", &qcow2_codec_zlib,
	  DEFLATE_STORED DEFLATE_512, 0 },
	{ "zlib, two blocks", &qcow2_codec_zlib, DEFLATE_STORED DEFLATE_511,
	  0 },
	{ "zlib, the end is missing", &qcow2_codec_zlib, DEFLATE_512, -EIO, 2 },
	{ "zlib, the mark of the end is missing", &qcow2_codec_zlib,
	  DEFLATE_512, 0, 1 },
	{ "zlib, block of an unknown type", &qcow2_codec_zlib, "07000000",
	  -EIO },
	{ "zlib, stored length contradicts itself", &qcow2_codec_zlib,
	  "010002ffff61616161", -EIO },
	{ "zlib, distance in front of the cluster", &qcow2_codec_zlib,
	  "0302000000", -EIO },
	{ "zlib with a header", &qcow2_codec_zlib, "78da" DEFLATE_512, -EIO },
	{ "zlib, nothing", &qcow2_codec_zlib, "", -EIO },

	{ "zstd", &qcow2_codec_zstd, ZSTD_512, 0 },
	{ "zstd without a length", &qcow2_codec_zstd, ZSTD_UNSIZED, 0 },
	{ "zstd, something behind it", &qcow2_codec_zstd,
	  ZSTD_512 "ffffffff", 0 },
	{ "zstd, two frames", &qcow2_codec_zstd, ZSTD_256 ZSTD_256, 0 },
	{ "zstd, a frame to be skipped", &qcow2_codec_zstd,
	  ZSTD_SKIPPED ZSTD_512, 0 },
	{ "zstd, one frame too few", &qcow2_codec_zstd, ZSTD_256, -EIO },
	{ "zstd, the last frame too long", &qcow2_codec_zstd,
	  ZSTD_256 ZSTD_512, -EIO },
	{ "zstd, last frame too long, without a length", &qcow2_codec_zstd,
	  ZSTD_256 ZSTD_UNSIZED, -EIO },
	{ "zstd, only frames to be skipped", &qcow2_codec_zstd,
	  ZSTD_SKIPPED ZSTD_SKIPPED, -EIO },
	{ "zstd, the end is missing", &qcow2_codec_zstd, ZSTD_512, -EIO, 1 },
	{ "zstd, block of an unknown type", &qcow2_codec_zstd,
	  "28b52ffd60000107100061", -EIO },
	{ "zstd, no magic", &qcow2_codec_zstd, DEFLATE_512, -EIO },
	{ "zstd, nothing", &qcow2_codec_zstd, "", -EIO },
};

KUNIT_ARRAY_PARAM_DESC(codec, codec_rows, name);

static size_t stream_of(struct kunit *test, const char *hex, u8 *stream)
{
	size_t bytes = strlen(hex) / 2;

	KUNIT_ASSERT_LE(test, bytes, MAX_STREAM);
	KUNIT_ASSERT_EQ(test, 0, hex2bin(stream, hex, bytes));
	return bytes;
}

/* Stream and cluster end where their memory does, for KASAN to see. */
static void stream_makes_a_cluster_or_none(struct kunit *test)
{
	const struct codec_row *row = test->param_value;
	void *workspace = kunit_kmalloc(test, row->codec->workspace_bytes(),
					GFP_KERNEL);
	char *cluster = kunit_kzalloc(test, CLUSTER, GFP_KERNEL);
	u8 buf[MAX_STREAM];
	size_t bytes = stream_of(test, row->hex, buf) - row->cut;
	u8 *stream = kunit_kmalloc(test, bytes + 1, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, workspace);
	KUNIT_ASSERT_NOT_NULL(test, cluster);
	KUNIT_ASSERT_NOT_NULL(test, stream);
	memcpy(stream, buf, bytes);
	KUNIT_EXPECT_EQ(test, row->error,
			row->codec->decompress(workspace, stream, bytes,
					       cluster, CLUSTER));
	if (!row->error)
		KUNIT_EXPECT_NULL(test, memchr_inv(cluster, 'a', CLUSTER));
}

/*
 * An image with one compressed cluster.
 */

static u64 put_stream(struct kunit *test, struct test_image *ti)
{
	/* It crosses the end of a cluster. */
	u64 offset = test_cluster_offset(ti, TEST_FREE + 1) - 4;
	u8 stream[MAX_STREAM];

	test_image_write(test, ti, offset, stream,
			 stream_of(test, DEFLATE_512, stream));
	return offset;
}

/* Expects @error, or 'a' wherever it reads. */
static void expect_read(struct kunit *test, struct test_image *ti, u64 word,
			u32 into, u32 bytes, int error)
{
	char *page = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	struct iov_iter iter;
	struct bio_vec bv;

	KUNIT_ASSERT_NOT_NULL(test, page);
	bvec_set_virt(&bv, page, bytes);
	iov_iter_bvec(&iter, ITER_DEST, &bv, 1, bytes);
	KUNIT_EXPECT_EQ(test, error, qcow2_compressed_read(ti->img, word, into,
							   &iter));
	if (!error)
		KUNIT_EXPECT_NULL(test, memchr_inv(page, 'a', bytes));
	KUNIT_EXPECT_NULL(test, memchr_inv(page + bytes, 0, PAGE_SIZE - bytes));
}

static void parts_of_a_cluster_cost_one_transfer(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u64 word = COMPRESSED | TWO_SECTORS | put_stream(test, ti);

	KUNIT_EXPECT_EQ(test, 0, ti->img->compress.clusters.nr);
	expect_read(test, ti, word, 0, 1, 0);
	expect_read(test, ti, word, 511, 1, 0);
	expect_read(test, ti, word, 0, 512, 0);
	KUNIT_EXPECT_EQ(test, 1, ti->reads);
}

/* One sector has but the first 4 bytes of the stream. */
static void length_of_the_stream_counts(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);

	expect_read(test, ti, COMPRESSED | put_stream(test, ti), 0, 512, -EIO);
	KUNIT_EXPECT_FALSE(test, qcow2_image_needs_check(ti->img));
}

static void error_is_not_kept(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u64 word = COMPRESSED | TWO_SECTORS | put_stream(test, ti);

	ti->read_error = -ENOMEM;
	expect_read(test, ti, word, 0, 512, -EIO);
	ti->read_error = 0;
	expect_read(test, ti, word, 0, 512, 0);
	KUNIT_EXPECT_FALSE(test, qcow2_image_needs_check(ti->img));
}

static void nothing_is_read_behind_the_file(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u64 end = test_cluster_offset(ti, TEST_FREE);

	expect_read(test, ti, COMPRESSED | end, 0, 512, -EIO);
	expect_read(test, ti, COMPRESSED | (BIT_ULL(61) - 1), 0, 512, -EIO);
	KUNIT_EXPECT_EQ(test, 0, ti->reads);
}

static void cluster_is_forgotten_with_any_of_its_bytes(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u64 offset = put_stream(test, ti);
	u64 word = COMPRESSED | TWO_SECTORS | offset;
	u64 first = offset & ~511ULL;

	expect_read(test, ti, word, 0, 512, 0);
	qcow2_compress_forget(ti->img, first - 512, 512);
	qcow2_compress_forget(ti->img, first + 1024, 512);
	expect_read(test, ti, word, 0, 512, 0);
	KUNIT_EXPECT_EQ(test, 1, ti->reads);
	qcow2_compress_forget(ti->img, first, 512);
	expect_read(test, ti, word, 0, 512, 0);
	KUNIT_EXPECT_EQ(test, 2, ti->reads);
	qcow2_compress_forget(ti->img, first + 512, 512);
	expect_read(test, ti, word, 0, 512, 0);
	KUNIT_EXPECT_EQ(test, 3, ti->reads);
}

static void drop_reference(struct kunit *test, struct test_image *ti,
			   struct qcow2_slice *slice)
{
	mutex_lock(&ti->img->meta_lock);
	KUNIT_EXPECT_EQ(test, 0, qcow2_refcount_dec(ti->img, TEST_FREE, slice));
	mutex_unlock(&ti->img->meta_lock);
}

static void freed_cluster_is_forgotten(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	u64 word = COMPRESSED | TWO_SECTORS | put_stream(test, ti);
	struct qcow2_slice *slice;
	unsigned int reads;

	slice = test_slice(test, ti, QCOW2_SLICE_REFBLOCK,
			   test_cluster_offset(ti, TEST_REFBLOCK));
	qcow2_set_refcount(slice->data, 4, TEST_FREE, 2);
	expect_read(test, ti, word, 0, 512, 0);
	reads = ti->reads;
	drop_reference(test, ti, slice);
	expect_read(test, ti, word, 0, 512, 0);
	KUNIT_EXPECT_EQ_MSG(test, reads, ti->reads, "others use it still");
	drop_reference(test, ti, slice);
	expect_read(test, ti, word, 0, 512, 0);
	KUNIT_EXPECT_EQ_MSG(test, reads + 1, ti->reads, "nobody uses it");
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(stream_makes_a_cluster_or_none, codec_gen_params),
	KUNIT_CASE(parts_of_a_cluster_cost_one_transfer),
	KUNIT_CASE(length_of_the_stream_counts),
	KUNIT_CASE(error_is_not_kept),
	KUNIT_CASE(nothing_is_read_behind_the_file),
	KUNIT_CASE(cluster_is_forgotten_with_any_of_its_bytes),
	KUNIT_CASE(freed_cluster_is_forgotten),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_compress",
	.test_cases = cases,
};

kunit_test_suite(suite);
