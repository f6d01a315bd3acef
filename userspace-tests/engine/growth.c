// SPDX-License-Identifier: GPL-2.0-only
/*
 * Growth of the L1 table, which no guest can ask for yet: with memory that is
 * short at every place, and under a reader's eyes. What a power cut leaves of
 * it is looked at in powercut.c.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/rcupdate.h>

#include "args.h"
#include "base.h"
#include "memfile.h"
#include "qcheck.h"
#include "workload.h"

#define HANG_SECONDS	60

/* Tries with memory that is short, until one works. */
#define MAX_TRIES	1000

static struct {
	u64 tests, failures;
} total;

/**
 * struct growth_row - where a table comes to lie
 * @name: of the row
 * @cluster_bits: log2 of the cluster size
 * @refcount_bits: width of a refcount
 * @min_entries: grow to so many
 */
static const struct growth_row {
	const char *name;
	unsigned int cluster_bits;
	unsigned int refcount_bits;
	u64 min_entries;
} rows[] = {
	{ "one cluster", 16, 16, 100 },
	{ "two clusters", 16, 16, 8193 },
	{ "many clusters", 9, 16, 6400 },
	{ "behind a refcount block", 9, 64, 62 * 64 },
	{ "with refcount blocks of its own", 9, 64, 64 * 64 },
	{ "with a longer refcount table", 9, 64, 4096 * 64 },
};

struct disk {
	const struct growth_row *row;
	u64 seed;
	struct file *filp;
	struct qcow2_image *img;
	unsigned char *content;
	u64 bytes;
};

__attribute__((format(printf, 3, 4)))
static void expect(bool ok, const struct disk *d, const char *fmt, ...)
{
	char text[300];
	va_list args;

	if (ok)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	wl_fail(d->seed, "%s: %s", d->row->name, text);
}

static unsigned char *read_disk(struct disk *d, struct qimg *q, void *file,
				size_t bytes)
{
	unsigned char *content;

	expect(!qimg_open(q, file, bytes), d, "the image cannot be opened");
	content = must(malloc(q->virtual_bytes));
	expect(!qimg_read(q, 0, q->virtual_bytes, content), d,
	       "the image cannot be read");
	return content;
}

static void open_disk(struct disk *d)
{
	const struct base_options base = {
		.cluster_bits = d->row->cluster_bits,
		.refcount_bits = d->row->refcount_bits,
		.version = 3,
		.filled = true,
		.virtual_bytes = 1 << 20,
		.seed = 1,
	};
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
	};
	struct memfile_options file = { .seed = d->seed };
	struct qcow2_reason why = {};
	struct qimg q;
	char path[600];
	size_t bytes;
	void *buf;

	wl_name_seed(d->seed, HANG_SECONDS);
	shim_log_clear();
	if (base_make(&base, args.images, path, sizeof(path)))
		exit(2);
	buf = must(read_file(path, &bytes));
	d->content = read_disk(d, &q, buf, bytes);
	d->bytes = q.virtual_bytes;
	d->filp = memfile_create(&file);
	memfile_load_buf(d->filp, buf, bytes);
	free(buf);
	shim_set_delay(SHIM_DELAY_NEVER);
	d->img = qcow2_image_open(d->filp, "test", &options, &why);
	expect(!IS_ERR(d->img), d, "open: %s", why.text);
}

/* The closed image has the longer table, and nothing is lost of it. */
static void close_disk(struct disk *d)
{
	unsigned char *file, *content;
	struct qcheck check;
	struct qimg q;
	size_t bytes;
	int ret = qcow2_image_close(d->img);

	expect(!ret, d, "close: %d", ret);
	file = memfile_flatten(d->filp, &bytes);
	content = read_disk(d, &q, file, bytes);
	qimg_check(&q, &check);
	expect(!check.corruptions && !check.leaks, d,
	       "closed image: %u corruptions, %u leaks; %s", check.corruptions,
	       check.leaks, check.first);
	expect(q.l1_entries == d->row->min_entries, d, "%u entries",
	       q.l1_entries);
	expect(!memcmp(content, d->content, d->bytes), d, "the disk changed");
	free(content);
	free(file);
	memfile_destroy(d->filp);
	free(d->content);
}

static int grow(struct disk *d)
{
	struct qcow2_image *img = d->img;
	u64 offset, first = qcow2_l1_entry(img, 0);
	u32 entries;
	int ret;

	mutex_lock(&img->grow_lock);
	offset = img->geo.l1_offset;
	entries = img->geo.l1_entries;
	ret = qcow2_grow_l1(img, d->row->min_entries);
	expect(!ret || (img->geo.l1_offset == offset &&
			img->geo.l1_entries == entries), d,
	       "the table has grown, with error %d", ret);
	mutex_unlock(&img->grow_lock);
	expect(qcow2_l1_entry(img, 0) == first, d, "an entry has changed");
	return ret;
}

/*
 * Now and then there is no memory. Each try comes a bit further or not; when
 * there is memory again it must be as if they had not been.
 */
static void memory_is_short(const struct growth_row *row, u64 seed)
{
	struct disk d = { .row = row, .seed = seed };
	struct shim_random r = { .state = seed };
	u64 before = shim_failed_allocations();
	int ret = -ENOMEM, tries;

	open_disk(&d);
	/* Long tables need thousands of transfers, which need none. */
	shim_fail_allocations(2 + shim_below(&r, 12), shim_random(&r));
	for (tries = 0; ret && tries < MAX_TRIES; tries++) {
		ret = grow(&d);
		expect(!ret || ret == -ENOMEM, &d, "error %d", ret);
	}
	shim_fail_allocations(0, 0);
	expect(!qcow2_image_needs_check(d.img), &d, "the image has failed");
	expect(!grow(&d), &d, "does not grow with memory");
	total.failures += shim_failed_allocations() - before;
	close_disk(&d);
}

/*
 * A reader that looked at the table before keeps it until it is done.
 */

struct reader {
	struct disk *d;
	pthread_t thread;
	bool has_table;
	bool grown;
};

static void *read_slowly(void *arg)
{
	struct reader *reader = arg;
	struct disk *d = reader->d;
	const struct qcow2_l1 *l1;
	u64 first;

	rcu_read_lock();
	l1 = rcu_dereference(d->img->l1);
	first = READ_ONCE(l1->entry[0]);
	__atomic_store_n(&reader->has_table, true, __ATOMIC_RELEASE);
	while (rcu_access_pointer(d->img->l1) == l1)
		usleep(100);
	usleep(20000);
	expect(!__atomic_load_n(&reader->grown, __ATOMIC_RELAXED), d,
	       "growth does not wait for a reader");
	expect(READ_ONCE(l1->entry[0]) == first, d, "the table has changed");
	rcu_read_unlock();
	return NULL;
}

static void reader_keeps_its_table(const struct growth_row *row)
{
	struct disk d = { .row = row };
	struct reader reader = { .d = &d };

	open_disk(&d);
	if (pthread_create(&reader.thread, NULL, read_slowly, &reader))
		wl_fail(0, "no thread");
	while (!__atomic_load_n(&reader.has_table, __ATOMIC_ACQUIRE))
		usleep(100);
	expect(!grow(&d), &d, "does not grow");
	__atomic_store_n(&reader.grown, true, __ATOMIC_RELAXED);
	pthread_join(reader.thread, NULL);
	close_disk(&d);
}

int main(int argc, char **argv)
{
	const struct command command = { "growth" };
	unsigned int i;
	u64 seed;

	args.count = 40;
	args_read(&command, argc, argv);
	if (wl_init_pools())
		wl_fail(args.from, "cannot make the pools");
	for (i = 0; i < ARRAY_SIZE(rows); i++, total.tests++)
		reader_keeps_its_table(&rows[i]);
	while (args_next(&seed))
		for (i = 0; i < ARRAY_SIZE(rows); i++, total.tests++)
			memory_is_short(&rows[i], seed);
	alarm(0);
	wl_exit_pools();
	printf("growth: %llu tests, %llu failed allocations\n", total.tests,
	       total.failures);
	return total.failures ? 0 : 1;
}
