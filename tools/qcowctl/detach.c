// SPDX-License-Identifier: GPL-2.0-only
/*
 * qcowctl detach
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <unistd.h>

#include "command.h"
#include "control.h"
#include "device.h"
#include "exitcode.h"
#include "refusal.h"
#include "report.h"
#include "usage.h"

#define LETTERS	":h"

static const struct option options[] = {
	{ "help", no_argument, NULL, 'h' },
	{ }
};

static int help(void)
{
	command_head(&detach_command);
	puts("Returns when all that the device accepted is safe in the image file.\n"
	     "DEV is qcowN, or the path of the device's node.\n"
	     "\n"
	     "Options:\n"
	     " -h, --help  show this help");
	command_exit_codes();
	return finish_stdout();
}

/* The device may be gone all the same, but not with all that was written. */
static int failed(const char *dev, int err, const struct control_reason *reason)
{
	int exit_code;

	/* The driver says no more than that it is not there. */
	exit_code = refused(dev, err, err == -ENODEV ? NULL : reason);
	return err == -EIO || err == -EUCLEAN ? EXIT_LOST : exit_code;
}

static int detach(const char *dev)
{
	struct control_reason reason;
	int index, ctl, err;

	index = device_find(dev);
	if (index < 0)
		return -index;
	ctl = control_open();
	if (ctl < 0)
		return -ctl;
	err = control_detach(ctl, index, &reason);
	close(ctl);
	return err ? failed(dev, err, &reason) : EXIT_DONE;
}

static int run(int argc, char **argv)
{
	int opt, err;

	while ((opt = getopt_long(argc, argv, LETTERS, options, NULL)) != -1) {
		if (opt == 'h')
			return help();
		return usage_bad_option(argv[0], opt, argv, LETTERS);
	}
	err = usage_operands(argv[0], argc, argv, 1, 1, "DEV");
	return err ? err : detach(argv[optind]);
}

const struct command detach_command = {
	.name = "detach",
	.synopsis = "DEV",
	.summary = "remove a device, its image is then up to date",
	.run = run,
};
