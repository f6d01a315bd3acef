/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * Control interface of the qcow2 block driver: ioctls on /dev/qcow-control.
 *
 * Every call takes one struct whose first member is its size as the caller
 * knows it.  The structs grow at the end only.  A kernel that knows more
 * members than the caller takes the missing ones as zero; a kernel that
 * knows fewer refuses the call with E2BIG unless the surplus is zero.
 * Unknown flags and non-zero reserved members are refused with EINVAL.
 *
 * When a call fails and the caller gave a reason buffer, the kernel puts one
 * line of text into it (terminated by a zero byte, no newline) that names the
 * object, what is wrong with it and, where there is one, the remedy.  The
 * buffer is left alone when the call succeeds or when the struct itself
 * cannot be read.
 */
#ifndef _UAPI_LINUX_QCOW2_H
#define _UAPI_LINUX_QCOW2_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Name of the control node in /dev. */
#define QCOW2_CONTROL_NAME	"qcow-control"

/* A reason never needs more bytes than this, its zero byte included. */
#define QCOW2_REASON_MAX	256

/**
 * enum qcow2_attach_flags - how to attach an image
 * @QCOW2_ATTACH_READ_ONLY: the block device refuses writes and the image file
 *	is never written; the descriptors may be open for reading only
 * @QCOW2_ATTACH_DIRECT_IO: bypass the page cache of the image file
 * @QCOW2_ATTACH_NO_PASS_DISCARD: clusters that become free keep their space in
 *	the file system; else a hole is punched there
 * @QCOW2_ATTACH_DISCARD_NO_UNREF: discarded and zeroed clusters keep their
 *	place in the image file, so that it does not fragment; needs version 3
 */
enum qcow2_attach_flags {
	QCOW2_ATTACH_READ_ONLY		= 1 << 0,
	QCOW2_ATTACH_DIRECT_IO		= 1 << 1,
	QCOW2_ATTACH_NO_PASS_DISCARD	= 1 << 2,
	QCOW2_ATTACH_DISCARD_NO_UNREF	= 1 << 3,
};

/* The longest chain, each file of its layers counted. */
#define QCOW2_FILES_MAX	4096

/* Room for the name or the ID of a snapshot, its zero byte included. */
#define QCOW2_SNAPSHOT_NAME_MAX	1024

/**
 * enum qcow2_file_format - what a file of the chain holds
 * @QCOW2_FILE_QCOW2: a qcow2 image, version 2 or 3
 * @QCOW2_FILE_RAW: the bytes of the disk
 */
enum qcow2_file_format {
	QCOW2_FILE_QCOW2	= 0,
	QCOW2_FILE_RAW		= 1,
};

/**
 * enum qcow2_file_role - what a file of the chain is to the others
 * @QCOW2_ROLE_LAYER: the image, or the backing file of the layer that is in
 *	front of it in the array
 * @QCOW2_ROLE_DATA: the external data file of the layer that is directly in
 *	front of it in the array; its format is %QCOW2_FILE_RAW
 */
enum qcow2_file_role {
	QCOW2_ROLE_LAYER	= 0,
	QCOW2_ROLE_DATA		= 1,
};

/**
 * struct qcow2_ctl_file - one file of an image's chain
 * @fd: open descriptor of a regular file or a block device.  For reading; the
 *	image and its data file for writing too, unless
 *	%QCOW2_ATTACH_READ_ONLY is set
 * @format: one of enum qcow2_file_format; the image itself is qcow2
 * @role: one of enum qcow2_file_role
 * @reserved: zero
 */
struct qcow2_ctl_file {
	__s32	fd;
	__u32	format;
	__u32	role;
	__u32	reserved;
};

/**
 * struct qcow2_ctl_attach - argument of QCOW2_CTL_ATTACH
 * @size: size of this struct in bytes
 * @flags: set of enum qcow2_attach_flags
 * @index: in: number that the device shall get, or -1 for the lowest free
 *	one; out: the number it got, /dev/qcow<index>
 * @nr_files: number of entries that @files points to, at most
 *	%QCOW2_FILES_MAX
 * @files: user pointer to an array of struct qcow2_ctl_file: the image, its
 *	data file if it has one, its backing file, the data file of that, and
 *	so on to the end of the chain.  Backing files are only read.
 * @reason: user pointer to a buffer for the reason of a failure, or 0
 * @reason_size: size of that buffer in bytes
 * @reserved: zero
 * @cache_size: cap of the metadata cache in bytes, 256 KiB to 64 GiB, or 0 for
 *	the default: enough for the whole disk, at most 32 MiB
 * @snapshot: user pointer to the ID or the name (zero-terminated, at most
 *	%QCOW2_SNAPSHOT_NAME_MAX bytes) of an internal snapshot, or 0; if given,
 *	the device shows that snapshot.  Needs %QCOW2_ATTACH_READ_ONLY, and can
 *	be done while the image itself is attached.
 *
 * A device that is attached read-write is the only one that uses its image and
 * its data file, but for devices of its snapshots; files that are only read can
 * be shared by any number of devices.
 *
 * Errors: EPERM (no CAP_SYS_ADMIN), EBADF, EACCES (descriptor not open for
 * what the flags ask), EBUSY (a file is in use by another device, or the
 * number is), ENOENT (no such snapshot),
 * EUCLEAN (not a valid qcow2 image, or damaged), EOPNOTSUPP (valid, but needs
 * a feature that this driver lacks), EINVAL, ENOMEM, and what reading the
 * image gave.
 */
struct qcow2_ctl_attach {
	__u32	size;
	__u32	flags;
	__s32	index;
	__u32	nr_files;
	__u64	files;
	__u64	reason;
	__u32	reason_size;
	__u32	reserved;
	__u64	cache_size;
	__u64	snapshot;
};

/**
 * struct qcow2_ctl_detach - argument of QCOW2_CTL_DETACH
 * @size: size of this struct in bytes
 * @flags: zero
 * @index: number of the device
 * @reserved: zero
 * @reason: user pointer to a buffer for the reason of a failure, or 0
 * @reason_size: size of that buffer in bytes
 * @reserved2: zero
 *
 * Returns when everything written is durable in the image file and the file
 * is released.
 * Errors: EPERM, ENODEV (no such device), EBUSY (somebody has it open or
 * mounted), ENOSPC (the last changes do not fit into the image's file system;
 * the device stays), ENOMEM (there was no memory to write them; the device
 * stays, try again), EINVAL, EIO (the device is gone, but the last commit
 * failed), and EUCLEAN (the device is gone, and its image was found damaged).
 */
struct qcow2_ctl_detach {
	__u32	size;
	__u32	flags;
	__s32	index;
	__u32	reserved;
	__u64	reason;
	__u32	reason_size;
	__u32	reserved2;
};

/**
 * enum qcow2_query_state - set of things to know about a device
 * @QCOW2_STATE_READ_ONLY: attached read-only
 * @QCOW2_STATE_DIRECT_IO: the image file is used with direct I/O
 * @QCOW2_STATE_NO_PASS_DISCARD: attached with %QCOW2_ATTACH_NO_PASS_DISCARD
 * @QCOW2_STATE_DISCARD_NO_UNREF: attached with %QCOW2_ATTACH_DISCARD_NO_UNREF
 * @QCOW2_STATE_NEEDS_CHECK: writing metadata failed or the image was found
 *	damaged; writes are refused until it was detached and checked
 * @QCOW2_STATE_SNAPSHOT: it shows an internal snapshot of the image
 *
 * There may be more in time: who asks takes no notice of those that it does
 * not know.
 */
enum qcow2_query_state {
	QCOW2_STATE_READ_ONLY		= 1 << 0,
	QCOW2_STATE_DIRECT_IO		= 1 << 1,
	QCOW2_STATE_NEEDS_CHECK		= 1 << 2,
	QCOW2_STATE_NO_PASS_DISCARD	= 1 << 3,
	QCOW2_STATE_DISCARD_NO_UNREF	= 1 << 4,
	QCOW2_STATE_SNAPSHOT		= 1 << 5,
};

/**
 * struct qcow2_ctl_query - argument of QCOW2_CTL_QUERY
 * @size: size of this struct in bytes
 * @flags: zero
 * @index: in: the device to look for; out: the number of the device that was
 *	found, the lowest one that is not below the number asked for
 * @state: out: set of enum qcow2_query_state
 * @virtual_size: out: size of the block device in bytes
 * @cluster_size: out: cluster size in bytes
 * @version: out: version of the format, 2 or 3
 * @path: user pointer to a buffer for the path of the image file as the
 *	caller sees it (zero-terminated), or 0
 * @path_size: size of that buffer in bytes; a path that does not fit fails
 *	with ENAMETOOLONG
 * @openers: out: how often the block device is open now
 * @snapshot_id: user pointer to a buffer for the ID of the internal snapshot
 *	that the device shows (zero-terminated; empty if it shows none), or 0
 * @snapshot_name: user pointer to another one, for its name, or 0
 * @snapshot_size: size of each of these two buffers in bytes; with
 *	%QCOW2_SNAPSHOT_NAME_MAX what is longer in the image is cut, and with
 *	less what does not fit fails with ENAMETOOLONG
 * @reserved: zero
 *
 * To list all devices start with @index 0 and go on with the number found
 * plus one, until the call fails with ENODEV.
 * Errors: EPERM, ENODEV (none at or above @index), ENAMETOOLONG, EINVAL, ENOMEM.
 */
struct qcow2_ctl_query {
	__u32	size;
	__u32	flags;
	__s32	index;
	__u32	state;
	__u64	virtual_size;
	__u32	cluster_size;
	__u32	version;
	__u64	path;
	__u32	path_size;
	__u32	openers;
	__u64	snapshot_id;
	__u64	snapshot_name;
	__u32	snapshot_size;
	__u32	reserved;
};

#define QCOW2_IOC_MAGIC		0xbc

#define QCOW2_CTL_ATTACH	_IO(QCOW2_IOC_MAGIC, 0x00)
#define QCOW2_CTL_DETACH	_IO(QCOW2_IOC_MAGIC, 0x01)
#define QCOW2_CTL_QUERY		_IO(QCOW2_IOC_MAGIC, 0x02)

#endif /* _UAPI_LINUX_QCOW2_H */
