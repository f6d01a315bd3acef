/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The command line of the programs here: what they have in common, and what each has
 * of its own.
 */
#ifndef _ARGS_H
#define _ARGS_H

#include <linux/types.h>

/**
 * struct args - what all programs take
 * @images: where the images to start from are kept
 * @work: for files of a moment, and for what failed
 * @from: the first seed or case
 * @step: from one to the next, to share them among processes
 * @count: how many of them
 * @until: begin no other one then, as of shim_now_ns()
 * @one: a certain one was asked for
 * @verbose: say more; what the engine logs is shown
 */
struct args {
	const char *images;
	const char *work;
	u64 from;
	u64 step;
	u64 count;
	u64 until;
	bool one;
	bool verbose;
};

extern struct args args;

/**
 * struct own_option - an option of one program
 * @name: without the hyphens
 * @text: what it means, for those who ask
 * @number: gets its value
 * @flag: set, for one that has no value; then @number is NULL
 * @bounds: it makes the program end
 */
struct own_option {
	const char *name;
	const char *text;
	u64 *number;
	bool *flag;
	bool bounds;
};

/**
 * struct command - what may stand on a program's command line
 * @name: the program's name
 * @own: options, behind the last of which is one without a name
 * @endless: it must be told when to end
 * @names: other arguments are names
 */
struct command {
	const char *name;
	const struct own_option *own;
	bool endless;
	bool names;
};

/*
 * Fills in @args, whose values so far are what holds if nothing is said. Returns the
 * names, behind the last of which is NULL; ends the process if anything is wrong.
 */
char **args_read(const struct command *command, int argc, char **argv);
/* The next seed or case that was asked for; false if there is none. */
bool args_next(u64 *next);

#endif
