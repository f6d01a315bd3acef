// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs named test cases.
 */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cases.h"
#include "workload.h"

#define HANG_SECONDS	60

static void __attribute__((noreturn)) run_here(const struct test_case *c,
					       const struct shape *shape)
{
	alarm(HANG_SECONDS);
	expect(!wl_init_pools(), "cannot make the pools");
	c->run(shape);
	expect(!shim_warnings(), "the engine warned");
	wl_exit_pools();
	exit(0);
}

static bool passes(const struct test_case *c, const struct shape *shape)
{
	int status = 0;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid)
		run_here(c, shape);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return false;
	if (WIFSIGNALED(status))
		printf("# %s\n", WTERMSIG(status) == SIGALRM ? "hangs" :
		       strsignal(WTERMSIG(status)));
	return !status;
}

static void usage(const char *program)
{
	fprintf(stderr,
		"usage: %s [NAME]...\n"
		"  --from N     begin with this test (1)\n"
		"  --step N     every Nth test, to share them among processes (1)\n"
		"  --images DIR where images to start from are kept\n"
		"  --work DIR   for files of a moment (/tmp)\n", program);
	exit(2);
}

static bool is_wanted(const char *name, char **names)
{
	if (!*names)
		return true;
	while (*names && strcmp(*names, name))
		names++;
	return *names;
}

/**
 * struct share - which of the tests are ours, and how they went
 */
struct share {
	u64 from, step;
	u64 number, done, failed;
};

static void run_case(struct share *s, const struct test_case *c)
{
	const struct shape *shape;
	bool ok;

	for (shape = c->shapes; shape->text; shape++) {
		if (++s->number % s->step != s->from % s->step)
			continue;
		ok = passes(c, shape);
		s->done++;
		s->failed += !ok;
		printf("%sok %llu - %s, %s\n", ok ? "" : "not ", s->done,
		       c->name, shape->text);
	}
}

int run_cases(const char *program, const struct test_case *cases,
	      unsigned int nr, int argc, char **argv)
{
	static const struct option options[] = {
		{ "from", 1, NULL, 'f' }, { "step", 1, NULL, 'n' },
		{ "images", 1, NULL, 'i' }, { "work", 1, NULL, 'w' },
		{ NULL, 0, NULL, 0 }
	};
	struct share s = { .from = 1, .step = 1 };
	unsigned int i;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'f':
			s.from = strtoull(optarg, NULL, 0);
			break;
		case 'n':
			s.step = strtoull(optarg, NULL, 0);
			break;
		case 'i':
			disk_image_dir = optarg;
			break;
		case 'w':
			disk_work_dir = optarg;
			break;
		default:
			usage(program);
		}
	}
	if (!s.step)
		usage(program);
	for (i = 0; i < nr; i++)
		if (is_wanted(cases[i].name, argv + optind))
			run_case(&s, &cases[i]);
	printf("1..%llu\n", s.done);
	printf("%s: %llu passed, %llu failed\n", program, s.done - s.failed,
	       s.failed);
	return s.done && !s.failed ? 0 : 1;
}
