/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_LOCK_H
#define QCOWCTL_LOCK_H

/*
 * QEMU's image locks.
 *
 * QEMU has a list of things that one may do with an image. Who does one of
 * them has a read lock on a byte of the image file for it; who does not want
 * others to do it has a read lock on another byte. Each takes its own locks
 * first and looks for those of others then, so that of two who come at the
 * same time at least one sees the other. The locks are those of an open file
 * description: the driver keeps it, so they live as long as the device.
 */

/**
 * enum lock_permission - what can be done with an image; bits of a set
 * @PERM_CONSISTENT_READ: read it, and find what one expects
 * @PERM_WRITE: write to it
 * @PERM_WRITE_UNCHANGED: write what is there already
 * @PERM_RESIZE: change the length of the file
 * @PERM_GRAPH_MOD: change what it is used for
 */
enum lock_permission {
	PERM_CONSISTENT_READ	= 1 << 0,
	PERM_WRITE		= 1 << 1,
	PERM_WRITE_UNCHANGED	= 1 << 2,
	PERM_RESIZE		= 1 << 3,
	PERM_GRAPH_MOD		= 1 << 4,
};

#define NR_PERMISSIONS	5

/**
 * struct lock_set - what to do with an image
 * @used: set of permissions to use
 * @unshared: set of permissions that nobody else may use meanwhile
 * @unwanted: set of permissions that nobody else may use now
 */
struct lock_set {
	unsigned int used;
	unsigned int unshared;
	unsigned int unwanted;
};

/* The bytes whose lock says that permission @bit is used, or is unshared. */
#define LOCK_USED_BYTE(bit)	(100 + (bit))
#define LOCK_UNSHARED_BYTE(bit)	(200 + (bit))

/**
 * lock_take - take locks, and look for those of others
 * @fd: descriptor of the image
 * @wanted: what to do with it
 * @others: out: what is in the way of that: permissions in @wanted->unshared or
 *	@wanted->unwanted that others use, and ones in @wanted->used that
 *	others do not share
 *
 * On a file system without locks none are taken and nobody is in the way.
 *
 * Return: 0, -EAGAIN if somebody has locks that QEMU would not take, or
 * another negative errno.
 */
int lock_take(int fd, const struct lock_set *wanted, struct lock_set *others);

/**
 * lock_give_back - give back what lock_take() took
 * @fd: as it was called with
 * @wanted: likewise
 */
void lock_give_back(int fd, const struct lock_set *wanted);

/* QEMU's word for a permission. */
const char *lock_name(unsigned int bit);

#endif /* QCOWCTL_LOCK_H */
