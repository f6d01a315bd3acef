/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_IMAGE_H
#define QCOWCTL_IMAGE_H

#include <stdbool.h>

/*
 * Open an image, a regular file or a block device.  Returns a descriptor; or,
 * after a complaint, an exit code as a negative number.
 */
int image_open(const char *path, bool read_only);

#endif /* QCOWCTL_IMAGE_H */
