// SPDX-License-Identifier: GPL-2.0-only
/*
 * image.c: who is told that an image has failed, and how a refusal reads.
 */

#include <linux/errno.h>
#include <linux/workqueue.h>

#include "fixture.h"

static const struct test_layout layout = { 16, 4, false };

static void count_call(void *data)
{
	unsigned int *calls = data;

	(*calls)++;
}

static void fail_image(struct test_image *ti)
{
	qcow2_image_fail(ti->img, -EIO, "a test");
	flush_workqueue(ti->img->wq);
}

static void watch_is_called_once(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	unsigned int calls = 0;

	qcow2_image_watch(ti->img, count_call, &calls);
	flush_workqueue(ti->img->wq);
	KUNIT_EXPECT_EQ(test, 0, calls);
	fail_image(ti);
	KUNIT_EXPECT_EQ(test, 1, calls);
	fail_image(ti);
	KUNIT_EXPECT_EQ(test, 1, calls);
}

static void watch_that_comes_late_is_called(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	unsigned int calls = 0;

	fail_image(ti);
	qcow2_image_watch(ti->img, count_call, &calls);
	KUNIT_EXPECT_EQ(test, 1, calls);
	flush_workqueue(ti->img->wq);
	KUNIT_EXPECT_EQ(test, 1, calls);
}

static void watch_that_is_gone_is_not_called(struct kunit *test)
{
	struct test_image *ti = test_image(test, &layout);
	unsigned int calls = 0;

	qcow2_image_watch(ti->img, count_call, &calls);
	qcow2_image_watch(ti->img, NULL, NULL);
	fail_image(ti);
	KUNIT_EXPECT_EQ(test, 0, calls);
	KUNIT_EXPECT_TRUE(test, qcow2_image_needs_check(ti->img));
}

static void reason_has_no_control_characters(struct kunit *test)
{
	struct qcow2_reason why = {};
	int ret = qcow2_refuse(&why, -EUCLEAN, "file '%s'",
			       "a\nb\t\033[2J\177\xc3\xa9");

	KUNIT_EXPECT_EQ(test, -EUCLEAN, ret);
	KUNIT_EXPECT_STREQ(test, "file 'a?b??[2J?\xc3\xa9'", why.text);
}

static struct kunit_case cases[] = {
	KUNIT_CASE(watch_is_called_once),
	KUNIT_CASE(watch_that_comes_late_is_called),
	KUNIT_CASE(watch_that_is_gone_is_not_called),
	KUNIT_CASE(reason_has_no_control_characters),
	{}
};

static struct kunit_suite suite = {
	.name = "qcow2_image",
	.test_cases = cases,
};

kunit_test_suite(suite);
