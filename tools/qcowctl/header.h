/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_HEADER_H
#define QCOWCTL_HEADER_H

#include <stdbool.h>

/* The longest name of a backing file that the format allows, in bytes. */
#define HEADER_BACKING_MAX	1023

/* The longest name of a data file that is of use: no path is longer. */
#define HEADER_DATA_FILE_MAX	4095

/**
 * enum header_kind - what was found where a header should be
 * @HEADER_QCOW2: a header of version 2 or 3
 * @HEADER_FOREIGN: no qcow2 magic number
 * @HEADER_INVALID: the magic number, but not a header that says more
 */
enum header_kind {
	HEADER_QCOW2,
	HEADER_FOREIGN,
	HEADER_INVALID,
};

/**
 * struct header - to which files an image refers
 * @kind: if not %HEADER_QCOW2, nothing else is set
 * @version: 2 or 3
 * @has_data_file: the guest's data is in another file
 * @backing: name of the backing file, or NULL
 * @backing_format: what the image calls its format, or NULL
 * @data_file: name of the external data file, or NULL
 */
struct header {
	enum header_kind kind;
	unsigned int version;
	bool has_data_file;
	char *backing;
	char *backing_format;
	char *data_file;
};

/**
 * header_read - find out what a file refers to
 * @fd: descriptor of the file
 * @header: filled in, free it with header_free(); also on failure
 * @why: out: on -EUCLEAN, the defect in words, not to be freed
 *
 * Only what leads to other files is judged: the kernel judges the rest.
 *
 * Return: 0; -EUCLEAN when the references cannot be told; or what reading the
 * file gave.
 */
int header_read(int fd, struct header *header, const char **why);

void header_free(struct header *header);

#endif /* QCOWCTL_HEADER_H */
