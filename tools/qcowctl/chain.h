/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_CHAIN_H
#define QCOWCTL_CHAIN_H

#include <linux/qcow2.h>
#include <stdbool.h>
#include <sys/stat.h>

/**
 * struct chain_options - how to open the files of an image
 * @writable: the image and its data file for writing
 * @snapshot: only an internal snapshot of the image is wanted
 * @probe: what an overlay does not name the format of is looked at
 */
struct chain_options {
	bool writable;
	bool snapshot;
	bool probe;
};

/**
 * struct chain - the open and locked files of an image
 * @files: as the kernel wants them
 * @identities: what tells each from other files
 * @paths: of each, as it was opened
 * @nr: how many
 * @room: for how many there is room
 */
struct chain {
	struct qcow2_ctl_file *files;
	struct stat *identities;
	char **paths;
	unsigned int nr;
	unsigned int room;
};

/**
 * chain_open - open an image and all files that it needs
 * @chain: filled in, to be closed with chain_close(); also on failure
 * @image: path of the image
 * @options: how
 *
 * What is no qcow2 image at all is a chain of one file: the kernel has words
 * for what is wrong with it.
 *
 * Return: 0; or, after a complaint, an exit code as a negative number.
 */
int chain_open(struct chain *chain, const char *image,
	       const struct chain_options *options);

void chain_close(struct chain *chain);

#endif /* QCOWCTL_CHAIN_H */
