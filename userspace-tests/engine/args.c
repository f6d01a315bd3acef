// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reads command lines.
 */

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include <linux/kernel.h>

#include "args.h"
#include "shim.h"

enum { OWN = 256, MAX_OPTIONS = 32 };

struct args args = {
	.images = "build/engine/images",
	.work = "/tmp",
	.from = 1,
	.step = 1,
	.count = U64_MAX,
	.until = U64_MAX,
};

static const struct common {
	const char *name;
	const char *value;
	char key;
	const char *text;
} common[] = {
	{ "seed", "N", 's', "only this one" },
	{ "repeat", "K", 'r', "K times, with --seed" },
	{ "from", "N", 'f', "from this one on" },
	{ "step", "N", 'n', "every Nth, to share them among processes" },
	{ "count", "N", 'c', "so many of them" },
	{ "seconds", "T", 't', "until so much time has passed" },
	{ "images", "DIR", 'i', "where the images to start from are kept" },
	{ "work", "DIR", 'w', "for files of a moment, and for what failed" },
	{ "verbose", NULL, 'v', "say more, and what the engine logs" },
};

static void print_option(const char *name, const char *value, const char *text)
{
	fprintf(stderr, "  --%-9s%-4s %s\n", name, value ?: "", text);
}

static void __attribute__((noreturn)) usage(const struct command *command)
{
	const struct own_option *own;
	size_t i;

	fprintf(stderr, "usage: %s [OPTION]...%s\n", command->name,
		command->names ? " [NAME]..." : "");
	if (command->endless)
		fputs("It goes on for ever, so it must be told when to end.\n", stderr);
	for (i = 0; i < ARRAY_SIZE(common); i++)
		print_option(common[i].name, common[i].value, common[i].text);
	for (own = command->own; own && own->name; own++)
		print_option(own->name, own->number ? "N" : NULL, own->text);
	exit(2);
}

static u64 number_of(const struct command *command, const char *text)
{
	char *end;
	u64 n;

	errno = 0;
	n = strtoull(text, &end, 0);
	if (errno || end == text || *end) {
		fprintf(stderr, "%s: not a number: %s\n", command->name, text);
		usage(command);
	}
	return n;
}

static void make_table(const struct command *command, struct option *table)
{
	const struct own_option *own;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(common); i++)
		*table++ = (struct option){ common[i].name, !!common[i].value,
					    NULL, common[i].key };
	for (own = command->own; own && own->name; own++)
		*table++ = (struct option){ own->name, !!own->number, NULL,
					    OWN + (int)(own - command->own) };
	*table = (struct option){};
}

static void take_own(const struct command *command, const struct own_option *own)
{
	if (own->number)
		*own->number = number_of(command, optarg);
	else
		*own->flag = true;
}

static void take_one(u64 seed, u64 times)
{
	args.one = true;
	args.from = seed;
	args.step = 0;
	args.count = times;
}

/* True if it makes the program end. */
static bool take_common(const struct command *command, int key)
{
	u64 n = optarg && key != 'i' && key != 'w' ? number_of(command, optarg) : 0;

	switch (key) {
	case 's':
		take_one(n, args.one ? args.count : 1);
		return true;
	case 'r':
		take_one(args.from, n);
		return true;
	case 'f':
		args.from = n;
		return false;
	case 'n':
		if (!n)
			usage(command);
		args.step = n;
		return false;
	case 'c':
		args.count = n;
		return true;
	case 't':
		args.until = shim_now_ns() + n * 1000000000;
		return true;
	case 'i':
		args.images = optarg;
		return false;
	case 'w':
		args.work = optarg;
		return false;
	case 'v':
		args.verbose = true;
		shim_log_to_stderr(true);
		return false;
	}
	usage(command);
}

char **args_read(const struct command *command, int argc, char **argv)
{
	struct option table[MAX_OPTIONS];
	bool bounded = false;
	int key;

	make_table(command, table);
	while ((key = getopt_long(argc, argv, "", table, NULL)) != -1) {
		if (key < OWN) {
			bounded |= take_common(command, key);
			continue;
		}
		take_own(command, &command->own[key - OWN]);
		bounded |= command->own[key - OWN].bounds;
	}
	if ((command->endless && !bounded) || (!command->names && optind < argc))
		usage(command);
	return argv + optind;
}

bool args_next(u64 *next)
{
	if (!args.count || shim_now_ns() >= args.until)
		return false;
	*next = args.from;
	args.from += args.step;
	args.count--;
	return true;
}
