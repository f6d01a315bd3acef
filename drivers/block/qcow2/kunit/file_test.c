// SPDX-License-Identifier: GPL-2.0-only
/*
 * file.c: what becomes of errors.
 */

#include <linux/bvec.h>
#include <linux/errno.h>

#include "fixture.h"

static const struct test_layout layout = { 16, 4, false };

/**
 * struct error_row - an error of the file, and what a transfer makes of it
 * @name: of the row
 * @error: what the file system's function returns
 * @plain: of a transfer that may wait
 */
struct error_row {
	const char *name;
	int error;
	int plain;
};

static const struct error_row error_rows[] = {
	{ "would wait", -EAGAIN, -EIO },
	{ "I/O error", -EIO, -EIO },
	{ "no memory", -ENOMEM, -ENOMEM },
	{ "over a limit", -EFBIG, -EFBIG },
	{ "over the quota", -EDQUOT, -ENOSPC },
	{ "damaged", -EUCLEAN, -EIO },
};

KUNIT_ARRAY_PARAM_DESC(errors, error_rows, name);

static void note_error(struct qcow2_fio *fio)
{
	fio->file = NULL;
}

/* The file's function fails at once, so the transfer is done on return. */
static int error_of_read(struct kunit *test, struct test_image *ti, bool nowait)
{
	struct qcow2_fio *fio = kunit_kzalloc(test, sizeof(*fio), GFP_KERNEL);
	void *buf = kunit_kzalloc(test, SZ_4K, GFP_KERNEL);
	struct bio_vec bv;

	KUNIT_ASSERT_NOT_NULL(test, fio);
	KUNIT_ASSERT_NOT_NULL(test, buf);
	bvec_set_virt(&bv, buf, SZ_4K);
	iov_iter_bvec(&fio->iter, ITER_DEST, &bv, 1, SZ_4K);
	fio->file = ti->img->file;
	fio->nowait = nowait;
	fio->done = note_error;
	qcow2_file_submit(fio);
	KUNIT_ASSERT_NULL(test, fio->file);
	return fio->error;
}

/* What is the task's own, as no memory for one that is killed, is no worker's. */
static void who_does_not_wait_is_told_to_try_elsewhere(struct kunit *test)
{
	const struct error_row *row = test->param_value;
	struct test_image *ti = test_image(test, &layout);

	ti->read_error = row->error;
	KUNIT_EXPECT_EQ(test, -EAGAIN, error_of_read(test, ti, true));
	KUNIT_EXPECT_EQ(test, row->plain, error_of_read(test, ti, false));
	ti->read_error = 0;
	KUNIT_EXPECT_EQ(test, 0, error_of_read(test, ti, false));
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(who_does_not_wait_is_told_to_try_elsewhere,
			 errors_gen_params),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_file",
	.test_cases = cases,
};

kunit_test_suite(suite);
