/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_CONTROL_H
#define QCOWCTL_CONTROL_H

#include <limits.h>
#include <linux/qcow2.h>
#include <stdint.h>

#define CONTROL_PATH	"/dev/" QCOW2_CONTROL_NAME

/**
 * struct control_reason - why the kernel refused a request
 * @text: its words, empty if it gave none
 */
struct control_reason {
	char text[QCOW2_REASON_MAX];
};

/**
 * struct control_options - how to attach an image
 * @flags: set of enum qcow2_attach_flags
 * @cache_size: cap of the metadata cache in bytes, 0 for the kernel's default
 * @snapshot: ID or name of the internal snapshot to attach, or NULL
 */
struct control_options {
	unsigned int flags;
	uint64_t cache_size;
	const char *snapshot;
};

/**
 * struct control_device - an attached device
 * @index: N of /dev/qcowN
 * @state: set of enum qcow2_query_state
 * @openers: how often it is open
 * @version: version of the image's format
 * @cluster_size: in bytes
 * @virtual_size: in bytes
 * @image: path of the image file, empty if the kernel could not tell
 * @snapshot_id: ID of the internal snapshot that it shows, empty if it shows
 *	none, or if the driver is too old to tell
 * @snapshot_name: likewise its name
 */
struct control_device {
	int index;
	unsigned int state;
	unsigned int openers;
	unsigned int version;
	uint32_t cluster_size;
	uint64_t virtual_size;
	char image[2 * PATH_MAX];
	char snapshot_id[QCOW2_SNAPSHOT_NAME_MAX];
	char snapshot_name[QCOW2_SNAPSHOT_NAME_MAX];
};

/*
 * Open the control node.  Returns a descriptor; or, after a complaint, the
 * exit code as a negative number.
 */
int control_open(void);

/**
 * control_attach - attach an open image to the lowest free device
 * @ctl: descriptor of the control node
 * @files: the image and the files that it needs
 * @nr_files: how many
 * @options: how
 * @reason: out: words of the kernel if it refuses
 *
 * Return: the number of the device, or a negative errno; -E2BIG from a driver
 * that is too old to know the size of the cache or snapshots, if it is asked
 * for them.
 */
int control_attach(int ctl, const struct qcow2_ctl_file *files,
		   unsigned int nr_files,
		   const struct control_options *options,
		   struct control_reason *reason);

/* Detach device @index.  Returns 0 or a negative errno. */
int control_detach(int ctl, int index, struct control_reason *reason);

/*
 * Look for the first device that is not below @index.  Returns 0 or a negative
 * errno, -ENODEV if there is none.
 */
int control_query(int ctl, int index, struct control_device *device);

#endif /* QCOWCTL_CONTROL_H */
