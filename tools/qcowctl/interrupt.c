// SPDX-License-Identifier: GPL-2.0-only
#include <signal.h>
#include <stddef.h>

#include "interrupt.h"

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

static const int ending[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };

static sigset_t held;

/*
 * The kernel keeps a blocked signal pending even if it is ignored: those must
 * stay out of the set, or nohup would not work.
 */
static bool is_ignored(int sig)
{
	struct sigaction action;

	return !sigaction(sig, NULL, &action) && action.sa_handler == SIG_IGN;
}

void interrupts_hold(void)
{
	size_t i;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);

	sigemptyset(&held);
	for (i = 0; i < ARRAY_SIZE(ending); i++) {
		if (!is_ignored(ending[i]))
			sigaddset(&held, ending[i]);
	}
	sigprocmask(SIG_BLOCK, &held, NULL);
}

bool interrupts_waiting(void)
{
	sigset_t pending;
	size_t i;

	sigemptyset(&pending);
	sigpending(&pending);
	for (i = 0; i < ARRAY_SIZE(ending); i++) {
		if (sigismember(&held, ending[i]) == 1 &&
		    sigismember(&pending, ending[i]) == 1)
			return true;
	}
	return false;
}

void interrupts_release(void)
{
	sigprocmask(SIG_UNBLOCK, &held, NULL);
}
