/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_CLAIM_H
#define QCOWCTL_CLAIM_H

#include "image.h"

/**
 * enum claim - what a file is locked for
 * @CLAIM_READ: to be read, and not to be written by anybody
 * @CLAIM_WRITE: to be written, by nobody else
 * @CLAIM_SNAPSHOT: to read an internal snapshot of it, which nobody but the
 *	driver itself may write around
 */
enum claim {
	CLAIM_READ,
	CLAIM_WRITE,
	CLAIM_SNAPSHOT,
};

/**
 * claim_file - take QEMU's image locks on a file
 * @fd: descriptor of the file, which keeps the locks
 * @claim: for what
 * @name: the file, for complaints
 * @image: the image that a claim of a device of ours would be about: the file
 *	itself, or the one that it is the data file of
 *
 * Return: 0; or, after a complaint, an exit code as a negative number.
 */
int claim_file(int fd, enum claim claim, const struct image_name *name,
	       const struct stat *image);

#endif /* QCOWCTL_CLAIM_H */
