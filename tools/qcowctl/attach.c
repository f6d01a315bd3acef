// SPDX-License-Identifier: GPL-2.0-only
/*
 * qcowctl attach
 *
 * The device belongs to the one who learns its name.  From the moment the
 * kernel has made it until its name is out, each failure and each signal that
 * would end us leads to take_back().
 */
#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "command.h"
#include "control.h"
#include "device.h"
#include "exitcode.h"
#include "image.h"
#include "interrupt.h"
#include "node.h"
#include "refusal.h"
#include "report.h"
#include "usage.h"

/* How long to leave a busy device alone, in milliseconds. */
#define BUSY_PAUSE_MS	20

#define LETTERS		":hr"

enum { OPT_DIRECT_IO = 256 };

static const struct option options[] = {
	{ "direct-io", no_argument, NULL, OPT_DIRECT_IO },
	{ "help", no_argument, NULL, 'h' },
	{ "read-only", no_argument, NULL, 'r' },
	{ }
};

static int help(void)
{
	command_head(&attach_command);
	puts("Prints the name of the device.\n"
	     "\n"
	     "Options:\n"
	     " -r, --read-only  refuse writes, and never write to the image\n"
	     "     --direct-io  bypass the page cache of the image file\n"
	     " -h, --help       show this help");
	command_exit_codes();
	return finish_stdout();
}

/*
 * Something like udev may have the new device open to see what it holds: try
 * again for a while.
 */
static int detach_patiently(int ctl, int index, struct control_reason *reason)
{
	const struct timespec pause = { .tv_nsec = BUSY_PAUSE_MS * 1000000L };
	unsigned int waited_ms = 0;
	int err;

	for (;;) {
		err = control_detach(ctl, index, reason);
		if (err != -EBUSY || waited_ms >= node_patience_ms)
			return err;
		nanosleep(&pause, NULL);
		waited_ms += BUSY_PAUSE_MS;
	}
}

static int take_back(int ctl, int index, const char *image, const char *why)
{
	struct control_reason reason;
	char path[DEVICE_PATH_MAX];
	int err = detach_patiently(ctl, index, &reason);

	device_path(index, path);
	if (!err || err == -ENODEV)
		complain(image, "%s; %s is detached again", why, path);
	else
		complain(image, "%s; detaching %s failed too, see 'qcowctl list': %s",
			 why, path, refusal_words(err, &reason));
	return EXIT_OTHER;
}

static int write_all(int fd, const char *text, size_t len)
{
	ssize_t written;

	while (len) {
		written = write(fd, text, len);
		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return -errno;
		text += written;
		len -= written;
	}
	return 0;
}

/* Closing is part of it: some file systems tell only then that it failed. */
static int print_device(int index)
{
	char line[DEVICE_PATH_MAX + 1];
	int err;

	device_path(index, line);
	strcat(line, "\n");
	err = write_all(STDOUT_FILENO, line, strlen(line));
	if (err)
		return err;
	return close(STDOUT_FILENO) ? -errno : 0;
}

static int hand_over(int ctl, int index, const char *image)
{
	char why[128];
	int err;

	err = device_wait(index);
	if (err == -EINTR)
		return take_back(ctl, index, image, "interrupted");
	if (err)
		return take_back(ctl, index, image,
				 "the node of the device does not appear, is /dev a devtmpfs?");
	err = print_device(index);
	if (!err)
		return EXIT_DONE;
	snprintf(why, sizeof(why), "cannot print the name of the device: %s",
		 strerror(-err));
	return take_back(ctl, index, image, why);
}

static int attach_open_image(int ctl, int fd, const char *image,
			     unsigned int flags)
{
	struct control_reason reason;
	int index, ret;

	interrupts_hold();
	index = control_attach(ctl, fd, flags, &reason);
	ret = index < 0 ? refused(image, index, &reason)
			: hand_over(ctl, index, image);
	interrupts_release();
	return ret;
}

static int attach(const char *image, unsigned int flags)
{
	int fd, ctl, ret;

	fd = image_open(image, flags & QCOW2_ATTACH_READ_ONLY);
	if (fd < 0)
		return -fd;
	ctl = control_open();
	if (ctl < 0) {
		ret = -ctl;
		goto close_image;
	}
	ret = attach_open_image(ctl, fd, image, flags);
	close(ctl);
close_image:
	close(fd);
	return ret;
}

static int run(int argc, char **argv)
{
	unsigned int flags = 0;
	int opt, err;

	while ((opt = getopt_long(argc, argv, LETTERS, options, NULL)) != -1) {
		switch (opt) {
		case 'r':
			flags |= QCOW2_ATTACH_READ_ONLY;
			break;
		case OPT_DIRECT_IO:
			flags |= QCOW2_ATTACH_DIRECT_IO;
			break;
		case 'h':
			return help();
		default:
			return usage_bad_option(argv[0], opt, argv, LETTERS);
		}
	}
	err = usage_operands(argv[0], argc, argv, 1, 1, "IMAGE");
	return err ? err : attach(argv[optind], flags);
}

const struct command attach_command = {
	.name = "attach",
	.synopsis = "[-r] [--direct-io] IMAGE",
	.summary = "make a block device of a qcow2 image",
	.run = run,
};
