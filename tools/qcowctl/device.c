// SPDX-License-Identifier: GPL-2.0-only
/*
 * Names and nodes of block devices.
 */
#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "control.h"
#include "device.h"
#include "exitcode.h"
#include "interrupt.h"
#include "node.h"
#include "report.h"

#define DEV_DIR		"/dev/"
#define NAME_PREFIX	"qcow"

/* How often to look for a node, in milliseconds. */
#define POLL_MS		10

const char *device_path(int index, char path[DEVICE_PATH_MAX])
{
	snprintf(path, DEVICE_PATH_MAX, DEV_DIR NAME_PREFIX "%d", index);
	return path;
}

/*
 * Parse the number of "qcowN" as the kernel writes it (no sign, no leading
 * zero, no more than an int holds); *@rest is what follows.  -1 if it is none.
 */
static int parse_name(const char *name, const char **rest)
{
	size_t len = strlen(NAME_PREFIX);
	const char *digits = name + len;
	char *end;
	long number;

	if (strncmp(name, NAME_PREFIX, len) || !isdigit((unsigned char)*digits))
		return -1;
	errno = 0;
	number = strtol(digits, &end, 10);
	if (errno || number > INT_MAX || (*digits == '0' && end > digits + 1))
		return -1;
	*rest = end;
	return number;
}

static int whole_name(const char *name)
{
	const char *rest;
	int index = parse_name(name, &rest);

	return index >= 0 && !*rest ? index : -1;
}

/* The device that "qcowNpM" is a partition of, or -1. */
static int partition_name(const char *name)
{
	const char *rest;
	int index = parse_name(name, &rest);

	if (index < 0 || rest[0] != 'p' || !rest[1])
		return -1;
	return rest[1 + strspn(rest + 1, "0123456789")] ? -1 : index;
}

static int name_below_dev(const char *path)
{
	size_t len = strlen(DEV_DIR);

	return strncmp(path, DEV_DIR, len) ? -1 : whole_name(path + len);
}

static int complain_partition(const char *arg, int index)
{
	char whole[DEVICE_PATH_MAX];

	complain(arg, "is a partition; name the whole device, %s",
		 device_path(index, whole));
	return -EXIT_NO_DEVICE;
}

static int complain_stat(const char *arg, int err)
{
	if (err == ENOENT || err == ENOTDIR) {
		complain(arg, "no such device; see 'qcowctl list'");
		return -EXIT_NO_DEVICE;
	}
	complain(arg, "cannot look at it: %s", strerror(err));
	return -EXIT_OTHER;
}

/* Find the name of a block device in sysfs: the link there ends with it. */
static int sysfs_name(dev_t number, char *link, size_t size, const char **name)
{
	char path[sizeof("/sys/dev/block/4294967295:4294967295")];
	const char *slash;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u",
		 major(number), minor(number));
	if (node_readlink(path, link, size))
		return -1;
	slash = strrchr(link, '/');
	*name = slash ? slash + 1 : link;
	return 0;
}

static int find_by_number(const char *arg, dev_t number)
{
	char link[PATH_MAX];
	const char *name;
	int index;

	if (sysfs_name(number, link, sizeof(link), &name)) {
		index = name_below_dev(arg);
		return index >= 0 ? index : complain_stat(arg, ENOENT);
	}
	index = whole_name(name);
	if (index >= 0)
		return index;
	index = partition_name(name);
	if (index >= 0)
		return complain_partition(arg, index);
	complain(arg, "is not a qcow2 device; see 'qcowctl list'");
	return -EXIT_NO_DEVICE;
}

static int find_by_path(const char *arg)
{
	struct stat st;
	int index, err;

	if (node_stat(arg, &st)) {
		err = errno;
		index = name_below_dev(arg);
		if (err == ENOENT && index >= 0)
			return index;
		return complain_stat(arg, err);
	}
	if (!S_ISBLK(st.st_mode)) {
		complain(arg, "is not a block device; see 'qcowctl list'");
		return -EXIT_NO_DEVICE;
	}
	return find_by_number(arg, st.st_rdev);
}

int device_find(const char *arg)
{
	int index = whole_name(arg);

	if (index >= 0)
		return index;
	index = partition_name(arg);
	if (index >= 0)
		return complain_partition(arg, index);
	return find_by_path(arg);
}

static bool is_there(const char *path)
{
	struct stat st;

	return !node_stat(path, &st) && S_ISBLK(st.st_mode);
}

int device_search(bool (*match)(const struct control_device *device, void *arg),
		  void *arg)
{
	struct control_device device;
	int ctl, index = 0, found = -1;

	ctl = node_open_control();
	if (ctl < 0)
		return -1;
	while (found < 0 && !control_query(ctl, index, &device)) {
		if (match(&device, arg))
			found = device.index;
		index = device.index + 1;
	}
	close(ctl);
	return found;
}

int device_wait(int index)
{
	const struct timespec pause = { .tv_nsec = POLL_MS * 1000000L };
	char path[DEVICE_PATH_MAX];
	unsigned int waited_ms;

	device_path(index, path);
	for (waited_ms = 0; waited_ms <= node_patience_ms; waited_ms += POLL_MS) {
		if (interrupts_waiting())
			return -EINTR;
		if (is_there(path))
			return 0;
		nanosleep(&pause, NULL);
	}
	return -ENOENT;
}
