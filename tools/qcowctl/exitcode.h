/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_EXITCODE_H
#define QCOWCTL_EXITCODE_H

/**
 * enum exit_code - how qcowctl ends; scripts depend on the numbers
 * @EXIT_DONE: it did what was asked
 * @EXIT_OTHER: any other failure, of the system or in reading and writing; a
 *	detach that failed so can be tried again, the device is still there
 * @EXIT_USAGE: the command line is wrong
 * @EXIT_IMAGE_OPEN: the image, or a file that it refers to, cannot be opened
 * @EXIT_IMAGE_INVALID: the file is not a valid qcow2 image, or it is damaged
 * @EXIT_IMAGE_UNSUPPORTED: the image needs a feature that the driver lacks
 * @EXIT_BUSY: the device is in use, or the image is attached already or used
 *	by QEMU
 * @EXIT_NO_DEVICE: there is no such device
 * @EXIT_NO_DRIVER: the driver is not there, or may not be controlled
 * @EXIT_LOST: the device is detached, but its image must be checked
 *
 * qcowctl.8 and the table of main.c explain the same numbers to the user.
 */
enum exit_code {
	EXIT_DONE		= 0,
	EXIT_OTHER		= 1,
	EXIT_USAGE		= 2,
	EXIT_IMAGE_OPEN		= 3,
	EXIT_IMAGE_INVALID	= 4,
	EXIT_IMAGE_UNSUPPORTED	= 5,
	EXIT_BUSY		= 6,
	EXIT_NO_DEVICE		= 7,
	EXIT_NO_DRIVER		= 8,
	EXIT_LOST		= 9,
};

#endif /* QCOWCTL_EXITCODE_H */
