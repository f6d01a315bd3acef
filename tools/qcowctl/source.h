/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_SOURCE_H
#define QCOWCTL_SOURCE_H

#include <stdbool.h>

#include "image.h"

struct json_object;

/**
 * enum source_format - what a file holds, as its name or its overlay says
 * @SOURCE_UNKNOWN: nobody says
 * @SOURCE_QCOW2: a qcow2 image
 * @SOURCE_RAW: the bytes of the disk
 */
enum source_format {
	SOURCE_UNKNOWN,
	SOURCE_QCOW2,
	SOURCE_RAW,
};

/**
 * struct source - where a file of a chain is and how to use it
 * @path: what to open
 * @format: what it holds
 * @node: QEMU's description of it, if its name is one; else NULL
 */
struct source {
	char *path;
	enum source_format format;
	struct json_object *node;
};

/**
 * source_of_backing - find out where a backing file is
 * @source: filled in, free it with source_free(); also on failure
 * @name: the backing file's name, as the overlay has it, and the overlay
 * @format: what the overlay calls its format, or NULL
 * @overlay: path of the overlay, to whose directory plain names are relative
 *
 * Return: 0; or, after a complaint, an exit code as a negative number.
 */
int source_of_backing(struct source *source, const struct image_name *name,
		      const char *format, const char *overlay);

/*
 * The same for an external data file.  As QEMU has it, relative names are
 * relative to the current directory.
 */
int source_of_data(struct source *source, const struct image_name *name);

/*
 * What the description of an image says about its backing file (@option is
 * "backing") or its data file ("data-file").
 *
 * source_overrides() tells if it says anything at all; it may say that there
 * is no such file: then source_of_override() leaves @source->path NULL.
 */
bool source_overrides(const struct source *image, const char *option);
int source_of_override(struct source *source, const struct image_name *name,
		       const struct source *image, const char *option);

void source_free(struct source *source);

#endif /* QCOWCTL_SOURCE_H */
