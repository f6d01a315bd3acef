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

#include "chain.h"
#include "command.h"
#include "control.h"
#include "device.h"
#include "exitcode.h"
#include "interrupt.h"
#include "node.h"
#include "refusal.h"
#include "report.h"
#include "usage.h"
#include "value.h"

/* How long to leave a busy device alone, in milliseconds. */
#define BUSY_PAUSE_MS	20

/* What the kernel takes, see <linux/qcow2.h>. */
#define CACHE_SIZE_MIN	(256ULL << 10)
#define CACHE_SIZE_MAX	(64ULL << 30)

#define LETTERS		":hr"

enum {
	OPT_DIRECT_IO = 256,
	OPT_PASS_DISCARD,
	OPT_DISCARD_NO_UNREF,
	OPT_CACHE_SIZE,
	OPT_PROBE_BACKING,
	OPT_SNAPSHOT,
};

static const struct option options[] = {
	{ "cache-size", required_argument, NULL, OPT_CACHE_SIZE },
	{ "direct-io", no_argument, NULL, OPT_DIRECT_IO },
	{ "discard-no-unref", optional_argument, NULL, OPT_DISCARD_NO_UNREF },
	{ "help", no_argument, NULL, 'h' },
	{ "pass-discard", required_argument, NULL, OPT_PASS_DISCARD },
	{ "probe-backing", no_argument, NULL, OPT_PROBE_BACKING },
	{ "read-only", no_argument, NULL, 'r' },
	{ "snapshot", required_argument, NULL, OPT_SNAPSHOT },
	{ }
};

/**
 * struct attach_options - how to attach an image
 * @control: what the kernel does
 * @probe: open backing files whose format is not named
 */
struct attach_options {
	struct control_options control;
	bool probe;
};

static int help(void)
{
	command_head(&attach_command);
	puts("Prints the name of the device.\n"
	     "\n"
	     "Options:\n"
	     " -r, --read-only                  refuse writes, and never write to the image\n"
	     "     --direct-io                  bypass the page cache of the image file\n"
	     "     --pass-discard=on|off        give the space of freed clusters back to the\n"
	     "                                  file system (default: on)\n"
	     "     --discard-no-unref[=on|off]  let discarded clusters keep their place in the\n"
	     "                                  image (default: off)\n"
	     "     --cache-size=SIZE            cap of the cache of metadata: 256K to 64G, or\n"
	     "                                  'default' (enough, up to 32M)\n"
	     "     --snapshot=NAME|ID           show an internal snapshot of the image, read-only\n"
	     "     --probe-backing              look into a backing file for its format if the\n"
	     "                                  overlay does not name it\n"
	     " -h, --help                       show this help");
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
				 "the node of the device does not appear: something else has its name, or /dev is no devtmpfs");
	err = print_device(index);
	if (!err)
		return EXIT_DONE;
	snprintf(why, sizeof(why), "cannot print the name of the device: %s",
		 strerror(-err));
	return take_back(ctl, index, image, why);
}

/* The option that a driver may be too old for, NULL if none is used. */
static const char *new_option(const struct control_options *how)
{
	if (how->cache_size && how->snapshot)
		return "--cache-size or --snapshot";
	if (how->snapshot)
		return "--snapshot";
	return how->cache_size ? "--cache-size" : NULL;
}

/*
 * A driver that is too old for an option refuses the request as a whole, and
 * cannot say what is the matter.
 */
static int attach_refused(const char *image, int err,
			  const struct control_options *how,
			  const struct control_reason *reason)
{
	if (err == -ENOENT && how->snapshot && !reason->text[0]) {
		complain(image, "has no snapshot '%s'; see 'qemu-img snapshot -l'",
			 how->snapshot);
		return EXIT_OTHER;
	}
	if (err != -E2BIG || !new_option(how))
		return refused(image, err, reason);
	complain(image, "the loaded qcow2 module does not know %s; leave it out, or load the module that belongs to this qcowctl",
		 new_option(how));
	return EXIT_NO_DRIVER;
}

static int attach_chain(int ctl, const struct chain *chain, const char *image,
			const struct control_options *how)
{
	struct control_reason reason;
	int index, ret;

	interrupts_hold();
	index = control_attach(ctl, chain->files, chain->nr, how, &reason);
	ret = index < 0 ? attach_refused(image, index, how, &reason)
			: hand_over(ctl, index, image);
	interrupts_release();
	return ret;
}

static int attach(const char *image, const struct attach_options *how)
{
	const struct chain_options open_how = {
		.writable = !(how->control.flags & QCOW2_ATTACH_READ_ONLY),
		.snapshot = how->control.snapshot,
		.probe = how->probe,
	};
	struct chain chain;
	int err, ctl, ret;

	err = chain_open(&chain, image, &open_how);
	if (err) {
		ret = -err;
		goto close_chain;
	}
	ctl = control_open();
	if (ctl < 0) {
		ret = -ctl;
		goto close_chain;
	}
	ret = attach_chain(ctl, &chain, image, &how->control);
	close(ctl);
close_chain:
	chain_close(&chain);
	return ret;
}

static void set_flag(struct control_options *how, unsigned int flag, bool set)
{
	if (set)
		how->flags |= flag;
	else
		how->flags &= ~flag;
}

/* Set @flag when the switch @name is @set_when.  EXIT_DONE, or a complaint. */
static int take_switch(struct control_options *how, const char *name,
		       unsigned int flag, bool set_when)
{
	bool on = true;

	if (optarg && !value_switch(optarg, &on))
		return usage_error("attach", "%s is on or off, not '%s'", name,
				   optarg);
	set_flag(how, flag, on == set_when);
	return EXIT_DONE;
}

static int take_cache_size(struct control_options *how)
{
	uint64_t bytes = 0;

	if (strcmp(optarg, "default") && !value_size(optarg, &bytes))
		return usage_error("attach", "--cache-size is a size such as 64M, or 'default', not '%s'",
				   optarg);
	if (bytes && (bytes < CACHE_SIZE_MIN || bytes > CACHE_SIZE_MAX))
		return usage_error("attach", "--cache-size is from 256K to 64G, not %s",
				   optarg);
	how->cache_size = bytes;
	return EXIT_DONE;
}

static int take_snapshot(struct control_options *how)
{
	if (!optarg[0] || strlen(optarg) >= QCOW2_SNAPSHOT_NAME_MAX)
		return usage_error("attach", "--snapshot is the ID or the name of a snapshot, of 1 to %d bytes",
				   QCOW2_SNAPSHOT_NAME_MAX - 1);
	how->snapshot = optarg;
	return EXIT_DONE;
}

/* Take one option.  EXIT_DONE, or what to end with. */
static int take_option(struct attach_options *how, int opt, char **argv)
{
	struct control_options *control = &how->control;

	switch (opt) {
	case 'r':
		set_flag(control, QCOW2_ATTACH_READ_ONLY, true);
		return EXIT_DONE;
	case OPT_DIRECT_IO:
		set_flag(control, QCOW2_ATTACH_DIRECT_IO, true);
		return EXIT_DONE;
	case OPT_PASS_DISCARD:
		return take_switch(control, "--pass-discard",
				   QCOW2_ATTACH_NO_PASS_DISCARD, false);
	case OPT_DISCARD_NO_UNREF:
		return take_switch(control, "--discard-no-unref",
				   QCOW2_ATTACH_DISCARD_NO_UNREF, true);
	case OPT_CACHE_SIZE:
		return take_cache_size(control);
	case OPT_SNAPSHOT:
		return take_snapshot(control);
	case OPT_PROBE_BACKING:
		how->probe = true;
		return EXIT_DONE;
	default:
		return usage_bad_option(argv[0], opt, argv, LETTERS);
	}
}

static int run(int argc, char **argv)
{
	struct attach_options how = { .probe = false };
	int opt, err;

	while ((opt = getopt_long(argc, argv, LETTERS, options, NULL)) != -1) {
		if (opt == 'h')
			return help();
		err = take_option(&how, opt, argv);
		if (err)
			return err;
	}
	/* A snapshot is never written. */
	if (how.control.snapshot)
		set_flag(&how.control, QCOW2_ATTACH_READ_ONLY, true);
	err = usage_operands(argv[0], argc, argv, 1, 1, "IMAGE");
	return err ? err : attach(argv[optind], &how);
}

const struct command attach_command = {
	.name = "attach",
	.synopsis = "[OPTION...] IMAGE",
	.summary = "make a block device of a qcow2 image",
	.run = run,
};
