// SPDX-License-Identifier: GPL-2.0-only
/*
 * exercise DEVICE MODEL SEED OPERATIONS [ALIGNMENT]
 *
 * Operations on a block device by all the ways that programs have, at random, one after the
 * other, each compared with a copy of all bytes in memory: reads and writes through
 * the page cache, direct, by mmap, by AIO and io_uring; punched holes, zeroed ranges,
 * syncs. MODEL is a file with the copy: the device must be the same at the start, and the
 * file is left as the device is at the end. Each place is used by several ways in turn, so
 * what one of them leaves behind meets the next.
 *
 * Exits with 1, and says where, as soon as anything differs.
 */

// libraries: -luring -laio

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_BYTES	(256 * 1024)
#define MAX_VECTOR	8

static struct {
	const char *name;
	int cached;		/* file descriptors */
	int direct;
	uint8_t *map;
	uint8_t *model;
	uint64_t bytes;
	uint32_t align;		/* of what goes around the page cache */
	uint8_t *buffer;
	uint64_t random;
	unsigned long operation;
	const char *what;
	io_context_t aio;
	struct io_uring ring;
} the;

/* A place, the way that leads there, and what is done. */
struct step {
	uint64_t offset;
	uint32_t bytes;
};

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	fprintf(stderr, "exercise: %s: operation %lu, %s: ", the.name, the.operation,
		the.what);
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
	exit(1);
}

/* xorshift64*: the same for the same seed on every machine. */
static uint64_t next_random(void)
{
	the.random ^= the.random >> 12;
	the.random ^= the.random << 25;
	the.random ^= the.random >> 27;
	return the.random * 0x2545f4914f6cdd1dull;
}

static uint64_t below(uint64_t limit)
{
	return (next_random() >> 16) % limit;
}

/* Small ones are the most, and some places are used far more than others. */
static struct step place(uint32_t align)
{
	uint64_t range = below(4) ? the.bytes / 16 : the.bytes;
	uint32_t most = below(8) ? 16 * 1024 : MAX_BYTES;
	struct step step;

	step.offset = below(range) / align * align;
	step.bytes = (1 + below(most) / align) * align;
	if (step.bytes > the.bytes - step.offset)
		step.bytes = (the.bytes - step.offset) / align * align;
	return step;
}

static void fill(uint8_t *to, uint32_t bytes)
{
	uint32_t i;

	for (i = 0; i < bytes; i++)
		to[i] = next_random() >> 56;
}

static void compare(const uint8_t *found, struct step step)
{
	uint32_t i;

	if (!memcmp(found, the.model + step.offset, step.bytes))
		return;
	for (i = 0; found[i] == the.model[step.offset + i]; i++)
		;
	fail("byte %#llx is %02x, should be %02x (of %u from %#llx on)",
	     (unsigned long long)step.offset + i, found[i],
	     the.model[step.offset + i], step.bytes,
	     (unsigned long long)step.offset);
}

static void expect_all(ssize_t done, struct step step)
{
	if (done < 0)
		fail("%s (%u bytes at %#llx)", strerror(errno), step.bytes,
		     (unsigned long long)step.offset);
	if (done != step.bytes)
		fail("%zd of %u bytes at %#llx", done, step.bytes,
		     (unsigned long long)step.offset);
}

static void write_by(int fd, uint32_t align)
{
	struct step step = place(align);

	fill(the.buffer, step.bytes);
	expect_all(pwrite(fd, the.buffer, step.bytes, step.offset), step);
	memcpy(the.model + step.offset, the.buffer, step.bytes);
}

static void read_by(int fd, uint32_t align)
{
	struct step step = place(align);

	expect_all(pread(fd, the.buffer, step.bytes, step.offset), step);
	compare(the.buffer, step);
}

static void write_cached(void)
{
	write_by(the.cached, 1);
}

static void read_cached(void)
{
	read_by(the.cached, 1);
}

static void write_direct(void)
{
	write_by(the.direct, the.align);
}

static void read_direct(void)
{
	read_by(the.direct, the.align);
}

static void write_mapped(void)
{
	struct step step = place(1);

	fill(the.model + step.offset, step.bytes);
	memcpy(the.map + step.offset, the.model + step.offset, step.bytes);
	if (!below(4) && msync(the.map, the.bytes, MS_SYNC))
		fail("msync: %s", strerror(errno));
}

static void read_mapped(void)
{
	struct step step = place(1);

	compare(the.map + step.offset, step);
}

/* Several at once, which do not overlap: each has a part of the buffer and of the device. */
static int places_apart(struct step *steps)
{
	uint64_t part = the.bytes / MAX_VECTOR / the.align * the.align;
	int i, count = 1 + below(MAX_VECTOR);

	for (i = 0; i < count; i++) {
		steps[i] = place(the.align);
		steps[i].offset = i * part + steps[i].offset % part / the.align * the.align;
		if (steps[i].bytes > MAX_BYTES / MAX_VECTOR)
			steps[i].bytes = MAX_BYTES / MAX_VECTOR;
		if (steps[i].bytes > (i + 1) * part - steps[i].offset)
			steps[i].bytes = the.align;
	}
	return count;
}

static uint8_t *part_of_buffer(int i)
{
	return the.buffer + i * (MAX_BYTES / MAX_VECTOR);
}

static void prepare(const struct step *steps, int count, bool write)
{
	int i;

	for (i = 0; write && i < count; i++) {
		fill(part_of_buffer(i), steps[i].bytes);
		memcpy(the.model + steps[i].offset, part_of_buffer(i), steps[i].bytes);
	}
}

static void judge(const struct step *steps, int count, bool write)
{
	int i;

	for (i = 0; !write && i < count; i++)
		compare(part_of_buffer(i), steps[i]);
}

/* What io_uring leaves to be done in this task counts as a signal, which ends a wait early. */
static void get_events(struct io_event *events, int count)
{
	int i, done;

	for (i = 0; i < count; i += done) {
		done = io_getevents(the.aio, count - i, count - i, events + i, NULL);
		if (done == -EINTR)
			done = 0;
		if (done < 0)
			fail("io_getevents: %s", strerror(-done));
	}
}

static void by_aio(bool write)
{
	struct iocb iocbs[MAX_VECTOR], *list[MAX_VECTOR];
	struct io_event events[MAX_VECTOR];
	struct step steps[MAX_VECTOR];
	int i, done, count = places_apart(steps);

	prepare(steps, count, write);
	for (i = 0; i < count; i++) {
		list[i] = &iocbs[i];
		(write ? io_prep_pwrite : io_prep_pread)(list[i], the.direct, part_of_buffer(i),
							 steps[i].bytes, steps[i].offset);
	}
	for (i = 0; i < count; i += done) {
		done = io_submit(the.aio, count - i, list + i);
		if (done <= 0)
			fail("io_submit: %s", strerror(-done));
	}
	get_events(events, count);
	for (i = 0; i < count; i++) {
		struct step *step = &steps[events[i].obj - iocbs];

		if ((long)events[i].res < 0)
			errno = -(long)events[i].res;
		expect_all((long)events[i].res < 0 ? -1 : (long)events[i].res, *step);
	}
	judge(steps, count, write);
}

static void write_by_aio(void)
{
	by_aio(true);
}

static void read_by_aio(void)
{
	by_aio(false);
}

static void by_uring(bool write)
{
	struct step steps[MAX_VECTOR];
	int i, ret, count = places_apart(steps);

	prepare(steps, count, write);
	for (i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&the.ring);

		if (write)
			io_uring_prep_write(sqe, the.direct, part_of_buffer(i), steps[i].bytes,
					    steps[i].offset);
		else
			io_uring_prep_read(sqe, the.direct, part_of_buffer(i), steps[i].bytes,
					   steps[i].offset);
		io_uring_sqe_set_data64(sqe, i);
	}
	ret = io_uring_submit_and_wait(&the.ring, count);
	if (ret != count)
		fail("io_uring_submit_and_wait: %d of %d", ret, count);
	for (i = 0; i < count; i++) {
		struct io_uring_cqe *cqe;

		ret = io_uring_wait_cqe(&the.ring, &cqe);
		if (ret)
			fail("io_uring_wait_cqe: %s", strerror(-ret));
		if (cqe->res < 0)
			errno = -cqe->res;
		expect_all(cqe->res < 0 ? -1 : cqe->res, steps[io_uring_cqe_get_data64(cqe)]);
		io_uring_cqe_seen(&the.ring, cqe);
	}
	judge(steps, count, write);
}

static void write_by_uring(void)
{
	by_uring(true);
}

static void read_by_uring(void)
{
	by_uring(false);
}

static void zero_by(int mode)
{
	struct step step = place(the.align);

	if (fallocate(the.cached, mode | FALLOC_FL_KEEP_SIZE, step.offset, step.bytes))
		fail("fallocate: %s (%u bytes at %#llx)", strerror(errno), step.bytes,
		     (unsigned long long)step.offset);
	memset(the.model + step.offset, 0, step.bytes);
}

static void punch(void)
{
	zero_by(FALLOC_FL_PUNCH_HOLE);
}

static void zero(void)
{
	zero_by(FALLOC_FL_ZERO_RANGE);
}

static void sync_all(void)
{
	if (below(2) ? fsync(the.cached) : fdatasync(the.direct))
		fail("%s", strerror(errno));
}

static void forget_pages(void)
{
	int ret = posix_fadvise(the.cached, 0, 0, POSIX_FADV_DONTNEED);

	if (ret)
		fail("%s", strerror(ret));
}

static const struct {
	const char *name;
	void (*run)(void);
	unsigned int weight;
} kinds[] = {
	{ "write", write_cached, 4 },
	{ "read", read_cached, 4 },
	{ "direct write", write_direct, 4 },
	{ "direct read", read_direct, 4 },
	{ "mapped write", write_mapped, 2 },
	{ "mapped read", read_mapped, 2 },
	{ "AIO write", write_by_aio, 2 },
	{ "AIO read", read_by_aio, 2 },
	{ "io_uring write", write_by_uring, 2 },
	{ "io_uring read", read_by_uring, 2 },
	{ "punch", punch, 2 },
	{ "zero", zero, 2 },
	{ "sync", sync_all, 1 },
	{ "forget pages", forget_pages, 1 },
};

#define KINDS	(sizeof(kinds) / sizeof(kinds[0]))

static void one_operation(void)
{
	unsigned int i, total = 0;
	uint64_t choice;

	for (i = 0; i < KINDS; i++)
		total += kinds[i].weight;
	choice = below(total);
	for (i = 0; choice >= kinds[i].weight; i++)
		choice -= kinds[i].weight;
	the.what = kinds[i].name;
	kinds[i].run();
}

static void compare_all(const char *when)
{
	struct step step = { .bytes = MAX_BYTES };

	the.what = when;
	for (; step.offset < the.bytes; step.offset += step.bytes) {
		if (step.bytes > the.bytes - step.offset)
			step.bytes = the.bytes - step.offset;
		expect_all(pread(the.direct, the.buffer, step.bytes, step.offset), step);
		compare(the.buffer, step);
	}
}

static void open_all(const char *device, const char *model)
{
	int fd, ret;

	the.name = device;
	the.what = "open";
	the.cached = open(device, O_RDWR);
	the.direct = open(device, O_RDWR | O_DIRECT);
	if (the.cached < 0 || the.direct < 0)
		fail("%s", strerror(errno));
	the.bytes = lseek(the.cached, 0, SEEK_END);
	the.map = mmap(NULL, the.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, the.cached, 0);
	fd = open(model, O_RDWR);
	if (fd < 0 || (uint64_t)lseek(fd, 0, SEEK_END) != the.bytes)
		fail("%s is not as long as the device", model);
	the.model = mmap(NULL, the.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	the.buffer = aligned_alloc(4096, MAX_BYTES + 4096);
	if (the.map == MAP_FAILED || the.model == MAP_FAILED || !the.buffer)
		fail("no memory");
	ret = io_setup(MAX_VECTOR, &the.aio);
	if (ret)
		fail("io_setup: %s", strerror(-ret));
	ret = io_uring_queue_init(MAX_VECTOR, &the.ring, 0);
	if (ret)
		fail("io_uring: %s", strerror(-ret));
}

int main(int argc, char **argv)
{
	unsigned long operations;

	if (argc < 5 || argc > 6) {
		fprintf(stderr, "usage: exercise DEVICE MODEL SEED OPERATIONS [ALIGNMENT]\n");
		return 2;
	}
	the.random = strtoull(argv[3], NULL, 0) * 2654435761u + 88172645463325252ull;
	operations = strtoul(argv[4], NULL, 0);
	the.align = argc > 5 ? strtoul(argv[5], NULL, 0) : 512;
	open_all(argv[1], argv[2]);
	compare_all("at the start");
	for (the.operation = 1; the.operation <= operations; the.operation++)
		one_operation();
	compare_all("at the end");
	the.what = "sync at the end";
	if (fsync(the.cached))
		fail("%s", strerror(errno));
	return 0;
}
