// SPDX-License-Identifier: GPL-2.0-only
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exitcode.h"
#include "report.h"
#include "usage.h"

int usage_error(const char *command, const char *format, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, format);
	len = vasprintf(&text, format, args);
	va_end(args);
	if (len < 0)
		return EXIT_OTHER;
	if (command)
		complain(command, "%s; see 'qcowctl %s --help'", text, command);
	else
		complain("usage", "%s; see 'qcowctl --help'", text);
	free(text);
	return EXIT_USAGE;
}

/*
 * A letter that getopt knows and yet complains about came from a long option
 * that was given an argument; the long option is the argument before.
 */
int usage_bad_option(const char *command, int result, char **argv,
		     const char *letters)
{
	const char *option = argv[optind - 1];

	if (result == ':')
		return usage_error(command, "option '%s' needs an argument",
				   option);
	if (optopt > 0 && optopt < 256 && !strchr(letters, optopt))
		return usage_error(command, "unknown option '-%c'", optopt);
	if (optopt)
		return usage_error(command, "option takes no argument: '%s'",
				   option);
	return usage_error(command, "unknown option '%s'", option);
}

int usage_operands(const char *command, int argc, char **argv,
		   int min, int max, const char *name)
{
	int count = argc - optind;

	if (count < min)
		return usage_error(command, "%s is missing", name);
	if (count > max)
		return usage_error(command, "one %s is enough, '%s' is too much",
				   name, argv[optind + max]);
	return EXIT_DONE;
}
