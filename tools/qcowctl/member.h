/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_MEMBER_H
#define QCOWCTL_MEMBER_H

#include <sys/stat.h>

/**
 * enum member_role - what a file is to a device
 * @MEMBER_BACKING: a backing file
 * @MEMBER_DATA: the external data file of the image, or of a backing file
 */
enum member_role {
	MEMBER_BACKING,
	MEMBER_DATA,
};

/**
 * member_find - find a device that has a file in its chain
 * @file: the file; that it is the image itself does not count
 * @role: out: what it is there
 *
 * Return: the number of the device with the lowest one; or -1 if there is none,
 * or if the driver is too old to tell.
 */
int member_find(const struct stat *file, enum member_role *role);

#endif /* QCOWCTL_MEMBER_H */
