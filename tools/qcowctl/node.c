// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <linux/qcow2.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "node.h"

/*
 * Long enough for a slow udev to create a node or to close a device that it
 * looks at; short enough that a script does not seem to hang.
 */
const unsigned int node_patience_ms = 5000;

int node_open_control(void)
{
	return open("/dev/" QCOW2_CONTROL_NAME, O_RDWR | O_CLOEXEC);
}

int node_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

int node_stat(const char *path, struct stat *st)
{
	return stat(path, st);
}

int node_open_sysfs(const char *path)
{
	return open(path, O_RDONLY | O_CLOEXEC);
}

int node_lock(int fd, int command, struct flock *lock)
{
	return fcntl(fd, command, lock);
}

int node_readlink(const char *path, char *target, size_t size)
{
	ssize_t len = readlink(path, target, size);

	if (len < 0)
		return -1;
	if ((size_t)len == size) {
		errno = ENAMETOOLONG;
		return -1;
	}
	target[len] = '\0';
	return 0;
}
