/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_NODE_H
#define QCOWCTL_NODE_H

#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>

/*
 * All that touches the driver, /dev and /sys, and locks of files.  node.c is the
 * real thing; the tests link tests/fake-node.c in its place, which plays the
 * kernel.
 *
 * The functions return -1 and set errno on failure, as the system calls do.
 */
int node_open_control(void);
int node_ioctl(int fd, unsigned long request, void *arg);
int node_stat(const char *path, struct stat *st);

/* Open a file in /sys for reading. */
int node_open_sysfs(const char *path);

/* fcntl() with a command for locks. */
int node_lock(int fd, int command, struct flock *lock);

/* The target of a symbolic link, zero-terminated, at most @size bytes. */
int node_readlink(const char *path, char *target, size_t size);

/* How long something that takes a moment may take, in milliseconds. */
extern const unsigned int node_patience_ms;

#endif /* QCOWCTL_NODE_H */
