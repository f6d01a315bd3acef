// SPDX-License-Identifier: GPL-2.0-only
/*
 * How many instructions it takes to look a guest offset up that is cached: what the
 * fast path adds of its own to each request. No test: it prints figures.
 *
 * A child makes each look-up once, and then many times; it is run step by step, and
 * the steps are counted. So nothing but the compiler changes the figures.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "args.h"
#include "disk.h"

#define TIMES	50U

/**
 * struct lookup - what is looked up
 * @text: what to call it
 * @write: for a write, else for a read
 * @offset: guest offset in bytes
 * @bytes: how many
 */
struct lookup {
	const char *text;
	bool write;
	u64 offset;
	u64 bytes;
};

static const struct lookup lookups[] = {
	{ "read, 4 KiB", false, SZ_1M, SZ_4K },
	{ "read, 128 KiB, two clusters", false, SZ_1M, SZ_128K },
	{ "read, 1 MiB, 16 clusters", false, SZ_1M, SZ_1M },
	{ "write, 4 KiB", true, SZ_1M, SZ_4K },
	{ "write, 128 KiB, two clusters", true, SZ_1M, SZ_128K },
};

static const struct shape shapes[] = {
	{ "standard L2", { .cluster_bits = 16, .refcount_bits = 16, .version = 3,
			   .virtual_bytes = SZ_4M } },
	{ "extended L2", { .cluster_bits = 16, .refcount_bits = 16, .version = 3,
			   .extl2 = true, .virtual_bytes = SZ_4M } },
};

static void look_up(struct disk *d, const struct lookup *l)
{
	struct qcow2_extent extent;
	int ret;

	if (l->write)
		ret = qcow2_map_own_cached(d->img, l->offset, l->bytes,
					   &extent);
	else
		ret = qcow2_resolve_cached(d->img, l->offset, l->bytes,
					   &extent);
	if (ret || extent.type != QCOW2_SUBCLUSTER_NORMAL ||
	    extent.bytes != l->bytes)
		_exit(1);
}

/* In a child: stops before and after. */
static void look_up_often(struct disk *d, const struct lookup *l,
			  unsigned int times)
{
	unsigned int i;

	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	look_up(d, l);
	raise(SIGSTOP);
	for (i = 0; i < times; i++)
		look_up(d, l);
	raise(SIGSTOP);
	_exit(0);
}

/* The next stop of the child is due to @sig. */
static bool stopped_by(pid_t child, int sig)
{
	int status;

	expect(waitpid(child, &status, 0) == child, "waitpid");
	expect(WIFSTOPPED(status), "a look-up found no such extent in the cache");
	return WSTOPSIG(status) == sig;
}

static u64 count_steps(struct disk *d, const struct lookup *l,
		       unsigned int times)
{
	pid_t child = fork();
	u64 steps = 0;

	expect(child >= 0, "fork");
	if (!child)
		look_up_often(d, l, times);
	expect(stopped_by(child, SIGSTOP), "the child does not stop");
	do {
		expect(!ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), "ptrace");
		steps++;
	} while (!stopped_by(child, SIGSTOP));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return steps;
}

static void measure_one(struct disk *d, const struct lookup *l)
{
	u64 steps = count_steps(d, l, 1 + TIMES) - count_steps(d, l, 1);

	printf("%-12s  %-30s %6.0f instructions\n", d->shape->text, l->text,
	       (double)steps / TIMES);
}

static void measure(const struct shape *shape)
{
	struct disk d = {};
	unsigned int i;

	make_disk(&d, shape);
	attach(&d);
	/* The second one finds clusters that are there, and vets their slice. */
	write_all(&d);
	write_all(&d);
	for (i = 0; i < ARRAY_SIZE(lookups); i++)
		measure_one(&d, &lookups[i]);
	expect(!detach(&d), "detach");
	destroy(&d);
}

/* What the image has nothing of, and a raw file beneath it has. */
static void measure_beneath(const struct shape *shape)
{
	static const struct lookup beneath = {
		"read, 4 KiB, backing file", false, SZ_1M, SZ_4K
	};
	struct disk d = {};

	make_overlay(&d, shape);
	attach(&d);
	measure_one(&d, &beneath);
	expect(!detach(&d), "detach");
	destroy(&d);
}

int main(int argc, char **argv)
{
	unsigned int i;

	if (argc != 3) {
		fprintf(stderr, "usage: lookups DIRECTORY-OF-IMAGES WORK-DIRECTORY\n");
		return 2;
	}
	args.images = argv[1];
	args.work = argv[2];
	if (wl_init_pools())
		wl_fail(0, "cannot make the pools");
	for (i = 0; i < ARRAY_SIZE(shapes); i++) {
		measure(&shapes[i]);
		measure_beneath(&shapes[i]);
	}
	wl_exit_pools();
	return 0;
}
