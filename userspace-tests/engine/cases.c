// SPDX-License-Identifier: GPL-2.0-only
/*
 * Runs named test cases.
 */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "args.h"
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

static bool is_wanted(const char *name, char **names)
{
	if (!*names)
		return true;
	while (*names && strcmp(*names, name))
		names++;
	return *names;
}

/**
 * struct tally - how the tests went
 * @number: of the one that was last seen
 * @done: how many of them were run
 * @failed: how many of those failed
 */
struct tally {
	u64 number, done, failed;
};

/* With a step: beginning at @args.from, and once around. */
static bool is_ours(u64 number)
{
	if (args.one)
		return number == args.from;
	return number % args.step == args.from % args.step;
}

static void run_case(struct tally *t, const struct test_case *c)
{
	const struct shape *shape;
	bool ok;

	for (shape = c->shapes; shape->text; shape++) {
		if (!is_ours(++t->number))
			continue;
		ok = passes(c, shape);
		t->done++;
		t->failed += !ok;
		printf("%sok %llu - %s, %s\n", ok ? "" : "not ", t->done,
		       c->name, shape->text);
	}
}

int run_cases(const char *name, const struct test_case *cases, unsigned int nr,
	      int argc, char **argv)
{
	const struct command command = { name, .names = true };
	char **names = args_read(&command, argc, argv);
	struct tally t = {};
	unsigned int i;

	for (i = 0; i < nr; i++)
		if (is_wanted(cases[i].name, names))
			run_case(&t, &cases[i]);
	printf("1..%llu\n", t.done);
	printf("%s: %llu passed, %llu failed\n", name, t.done - t.failed, t.failed);
	return t.done && !t.failed ? 0 : 1;
}
