// SPDX-License-Identifier: GPL-2.0-only
/*
 * qcowctl: attach qcow2 images as block devices, detach and list them.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "exitcode.h"
#include "report.h"
#include "usage.h"

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

#define LETTERS	"+:hV"

static const struct option options[] = {
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ }
};

static const struct command *const commands[] = {
	&attach_command,
	&detach_command,
	&list_command,
};

static const char *const exit_codes[] = {
	[EXIT_DONE]		 = "done",
	[EXIT_OTHER]		 = "any other failure: of the system, in reading and writing, or there is no such snapshot",
	[EXIT_USAGE]		 = "wrong usage",
	[EXIT_IMAGE_OPEN]	 = "the image, or a file that it refers to, cannot be opened",
	[EXIT_IMAGE_INVALID]	 = "not a valid qcow2 image, damaged, or not closed cleanly; or it refers to files in a way that makes no sense",
	[EXIT_IMAGE_UNSUPPORTED] = "the image, or a file that it refers to, needs a feature that the driver lacks or has no named format",
	[EXIT_BUSY]		 = "the device is in use, or the image is attached already or used by QEMU",
	[EXIT_NO_DEVICE]	 = "no such device",
	[EXIT_NO_DRIVER]	 = "the driver is not there, or no permission to control it",
	[EXIT_LOST]		 = "detached, but the image must be checked: something was lost or damaged",
};

void command_head(const struct command *command)
{
	printf("Usage: qcowctl %s %s\n\n%c%s.\n", command->name,
	       command->synopsis, command->summary[0] - 'a' + 'A',
	       command->summary + 1);
}

void command_exit_codes(void)
{
	size_t i;

	puts("\nExit codes:");
	for (i = 0; i < ARRAY_SIZE(exit_codes); i++)
		printf(" %zu  %s\n", i, exit_codes[i]);
}

static int help(void)
{
	size_t i;

	puts("Usage: qcowctl COMMAND [OPTION...] [OPERAND]\n"
	     "\n"
	     "Control the block devices of qcow2 images.\n"
	     "\n"
	     "Commands:");
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		printf(" %-6s %-31s %s\n", commands[i]->name,
		       commands[i]->synopsis, commands[i]->summary);
	puts("\n"
	     "Options:\n"
	     " -h, --help     show this help; after a command, show that command's help\n"
	     " -V, --version  show the version");
	command_exit_codes();
	return finish_stdout();
}

static int version(void)
{
	puts("qcowctl " QCOWCTL_VERSION);
	return finish_stdout();
}

static int run_command(int argc, char **argv)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(argv[0], commands[i]->name))
			continue;
		/* Zero makes getopt start afresh, at the new argv[1]. */
		optind = 0;
		return commands[i]->run(argc, argv);
	}
	return usage_error(NULL, "unknown command '%s'", argv[0]);
}

/*
 * If a standard descriptor is closed, the image would get its number, and the
 * device's name would be printed into the image.  Fill the gaps with something
 * that can be neither read nor written.
 */
static int fill_standard_descriptors(void)
{
	int fd;

	for (fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
			continue;
		if (open("/", O_RDONLY | O_DIRECTORY) != fd)
			return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int opt;

	if (fill_standard_descriptors())
		return EXIT_OTHER;
	/* Widths of characters; messages and numbers stay as scripts know them. */
	setlocale(LC_CTYPE, "");
	opterr = 0;

	opt = getopt_long(argc, argv, LETTERS, options, NULL);
	if (opt == 'h')
		return help();
	if (opt == 'V')
		return version();
	if (opt != -1)
		return usage_bad_option(NULL, opt, argv, LETTERS);
	if (optind >= argc)
		return usage_error(NULL, "a command is missing");
	return run_command(argc - optind, argv + optind);
}
