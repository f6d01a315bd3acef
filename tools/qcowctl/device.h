/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_DEVICE_H
#define QCOWCTL_DEVICE_H

#include <stdbool.h>

/* Room for "/dev/qcow" and any number. */
#define DEVICE_PATH_MAX	24

/* Write the path of device @index to @path and return it. */
const char *device_path(int index, char path[DEVICE_PATH_MAX]);

/**
 * device_find - find the device that the user means
 * @arg: "qcowN", or the path of a block device node, symbolic links followed
 *
 * The number of a node decides, not its name; a name of the form /dev/qcowN is
 * taken at its word only if there is nothing to look at.
 *
 * Return: N; or, after a complaint, an exit code as a negative number.
 */
int device_find(const char *arg);

struct control_device;

/* Does @match hold for a device?  Returns the number of the first, or -1. */
int device_search(bool (*match)(const struct control_device *device, void *arg),
		  void *arg);

/*
 * Wait for the node of device @index.  Returns 0 once it is there, or a
 * negative errno: -EINTR if a signal waits, -ENOENT if it does not come.
 */
int device_wait(int index);

#endif /* QCOWCTL_DEVICE_H */
