// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the suites share.
 *
 * The image is opened by the driver itself, so a suite has a real cache, real
 * locks and a real file below it. Only extended L2 entries are put into the
 * geometry afterwards, whether the driver serves such images yet or not.
 */

#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/shmem_fs.h>
#include <linux/string.h>
#include <asm/byteorder.h>

#include "fixture.h"

const struct test_size test_sizes[] = {
	{ "512 B", 9 },
	{ "1 KiB", 10 },
	{ "2 KiB", 11 },
	{ "4 KiB", 12 },
	{ "8 KiB", 13 },
	{ "16 KiB", 14 },
	{ "32 KiB", 15 },
	{ "64 KiB", 16 },
	{ "128 KiB", 17 },
	{ "256 KiB", 18 },
	{ "512 KiB", 19 },
	{ "1 MiB", 20 },
	{ "2 MiB", 21 },
};

/* Suites run one after the other, so there is one image at a time. */
static struct test_image *current_image;
static const struct file_operations *shmem_fops;

/*
 * Headers.
 */

/* A disk that two L2 tables map, or that one and a half extended ones would. */
void test_header(struct qcow2_disk_header *h, u32 version, u32 cluster_bits)
{
	u64 cluster_bytes = 1ULL << cluster_bits;

	memset(h, 0, sizeof(*h));
	h->magic = cpu_to_be32(QCOW2_MAGIC);
	h->version = cpu_to_be32(version);
	h->cluster_bits = cpu_to_be32(cluster_bits);
	h->size = cpu_to_be64(2 * cluster_bytes * (cluster_bytes / 8));
	h->l1_size = cpu_to_be32(2);
	h->l1_table_offset = cpu_to_be64(TEST_L1 * cluster_bytes);
	h->refcount_table_offset = cpu_to_be64(TEST_REFTABLE * cluster_bytes);
	h->refcount_table_clusters = cpu_to_be32(1);
	if (version == 2)
		return;
	h->refcount_order = cpu_to_be32(4);
	h->header_length = cpu_to_be32(QCOW2_HEADER_V3_BYTES);
}

static void make_extended(struct qcow2_geometry *geo)
{
	geo->incompatible |= QCOW2_INCOMPAT_EXTL2;
	geo->subclusters = 32;
	geo->subcluster_bits = geo->cluster_bits - 5;
	geo->l2_entry_words = 2;
	geo->l2_bits = geo->cluster_bits - 4;
	geo->l2_slice_bits = geo->slice_bits - 4;
}

void test_geometry(struct kunit *test, struct qcow2_geometry *geo,
		   const struct test_layout *layout)
{
	size_t bytes = 1U << layout->cluster_bits;
	struct qcow2_reason why = {};
	void *buf = kunit_kzalloc(test, bytes, GFP_KERNEL);
	struct qcow2_disk_header *h = buf;

	KUNIT_ASSERT_NOT_NULL(test, buf);
	test_header(h, 3, layout->cluster_bits);
	h->refcount_order = cpu_to_be32(layout->refcount_order);
	KUNIT_ASSERT_EQ_MSG(test, 0,
			    qcow2_header_decode(buf, bytes, false, geo, &why),
			    "%s", why.text);
	kunit_kfree(test, buf);
	if (layout->extl2)
		make_extended(geo);
}

/*
 * The file.
 */

static ssize_t counting_read(struct kiocb *iocb, struct iov_iter *to)
{
	current_image->reads++;
	if (current_image->read_error)
		return current_image->read_error;
	return shmem_fops->read_iter(iocb, to);
}

static ssize_t counting_write(struct kiocb *iocb, struct iov_iter *from)
{
	struct test_image *ti = current_image;

	if (++ti->writes == ti->fault.write)
		return ti->fault.error;
	return shmem_fops->write_iter(iocb, from);
}

static int counting_fsync(struct file *filp, loff_t start, loff_t end,
			  int datasync)
{
	struct test_image *ti = current_image;

	return ++ti->syncs == ti->fault.sync ? ti->fault.error : 0;
}

static const struct file_operations counting_fops = {
	.read_iter = counting_read,
	.write_iter = counting_write,
	.fsync = counting_fsync,
};

static void open_file(struct kunit *test, struct test_image *ti, u64 bytes)
{
	ti->filp = shmem_file_setup("qcow2-kunit", bytes, (vma_flags_t){});
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, ti->filp);
	shmem_fops = ti->filp->f_op;
	ti->filp->f_op = &counting_fops;
	current_image = ti;
}

static void close_file(void *context)
{
	struct test_image *ti = context;

	/* The last fput() may come after this module is gone. */
	ti->filp->f_op = shmem_fops;
	fput(ti->filp);
	current_image = NULL;
}

void test_image_write(struct kunit *test, struct test_image *ti, u64 offset,
		      const void *buf, size_t bytes)
{
	loff_t pos = offset;

	KUNIT_ASSERT_EQ(test, bytes, kernel_write(ti->filp, buf, bytes, &pos));
}

static void fill_file(struct kunit *test, struct test_image *ti,
		      const struct test_layout *layout)
{
	u32 bits = layout->cluster_bits;
	u8 refcounts[TEST_FREE * sizeof(u64)] = {};
	struct qcow2_disk_header h;
	__be64 entry;
	u32 i;

	test_header(&h, 3, bits);
	h.refcount_order = cpu_to_be32(layout->refcount_order);
	test_image_write(test, ti, TEST_HEADER, &h, sizeof(h));

	entry = cpu_to_be64((u64)TEST_REFBLOCK << bits);
	test_image_write(test, ti, (u64)TEST_REFTABLE << bits, &entry,
			 sizeof(entry));

	for (i = 0; i < TEST_FREE; i++)
		qcow2_set_refcount(refcounts, layout->refcount_order, i, 1);
	test_image_write(test, ti, (u64)TEST_REFBLOCK << bits, refcounts,
			 sizeof(refcounts));

	entry = cpu_to_be64(((u64)TEST_L2 << bits) | QCOW2_OFLAG_COPIED);
	test_image_write(test, ti, (u64)TEST_L1 << bits, &entry, sizeof(entry));
}

/*
 * The image.
 */

static void close_image(void *context)
{
	struct test_image *ti = context;

	/* A test's metas have gone before, with the test's other memory. */
	ti->img->in_flight = RB_ROOT_CACHED;
	qcow2_image_close(ti->img);
}

struct test_image *test_image(struct kunit *test,
			      const struct test_layout *layout)
{
	struct test_image *ti = kunit_kzalloc(test, sizeof(*ti), GFP_KERNEL);
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
	};
	struct qcow2_reason why = {};

	KUNIT_ASSERT_NOT_NULL(test, ti);
	open_file(test, ti, (u64)TEST_FREE << layout->cluster_bits);
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, close_file, ti));
	fill_file(test, ti, layout);
	ti->img = qcow2_image_open(ti->filp, "kunit", &options, &why);
	KUNIT_ASSERT_FALSE_MSG(test, IS_ERR(ti->img), "%s", why.text);
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, close_image, ti));
	if (layout->extl2)
		make_extended(&ti->img->geo);
	ti->reads = 0;
	ti->writes = 0;
	ti->syncs = 0;
	return ti;
}

u64 test_cluster_offset(const struct test_image *ti, u64 cluster)
{
	return cluster << ti->img->geo.cluster_bits;
}

static void put_slice(void *slice)
{
	qcow2_slice_put(slice);
}

/* Loads a slice; it stays pinned until the test ends. */
struct qcow2_slice *test_slice(struct kunit *test, struct test_image *ti,
			       enum qcow2_slice_kind kind, u64 offset)
{
	struct qcow2_slice *slice = qcow2_slice_get(ti->img, kind, offset);

	KUNIT_ASSERT_FALSE(test, IS_ERR(slice));
	KUNIT_ASSERT_EQ(test, 0,
			kunit_add_action_or_reset(test, put_slice, slice));
	return slice;
}

void test_mark_dirty(struct test_image *ti, struct qcow2_slice *slice)
{
	mutex_lock(&ti->img->meta_lock);
	qcow2_slice_mark_dirty(ti->img, slice);
	mutex_unlock(&ti->img->meta_lock);
}

bool test_is_cached(struct test_image *ti, enum qcow2_slice_kind kind,
		    u64 offset)
{
	struct qcow2_slice *slice = qcow2_slice_find(ti->img, kind, offset);

	if (IS_ERR_OR_NULL(slice))
		return false;
	qcow2_slice_put(slice);
	return true;
}

MODULE_DESCRIPTION("KUnit tests of the qcow2 block driver");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS("EXPORTED_FOR_KUNIT_TESTING");
