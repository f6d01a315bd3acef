/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_IMAGE_H
#define QCOWCTL_IMAGE_H

#include <stdbool.h>
#include <sys/stat.h>

/**
 * struct image_name - how a file came into play, for complaints
 * @name: the file
 * @what: what it is to the image that refers to it: "backing file"
 * @referrer: that image, or NULL if the user named the file
 * @missing: what to say if there is no such file, NULL for the usual
 */
struct image_name {
	const char *name;
	const char *what;
	const char *referrer;
	const char *missing;
};

/*
 * Complain about a file, in words that follow its name, and about the image
 * that refers to it.  Returns @exit_code as a negative number.
 */
__attribute__((format(printf, 3, 4)))
int image_refuse(const struct image_name *name, int exit_code,
		 const char *format, ...);

/* The same for a file that could not be opened or read: @err is an errno. */
int image_refuse_errno(const struct image_name *name, bool writable, int err);

/*
 * Open @path, a regular file or a block device.  Returns a descriptor; or,
 * after a complaint about @name, an exit code as a negative number.
 */
int image_open(const struct image_name *name, const char *path, bool writable);

/* Tell if two files are the same, by whatever name or device node. */
bool image_same(const struct stat *one, const struct stat *other);

#endif /* QCOWCTL_IMAGE_H */
