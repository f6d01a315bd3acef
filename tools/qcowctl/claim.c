// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who may use an image at the same time.
 *
 * What is locked is what a virtual machine of QEMU's locks, with one addition.
 * A device of an internal snapshot reads clusters that do not change while the
 * snapshot is there, and the driver, unlike QEMU, never removes one of an
 * attached image. So both can be attached at once, but no QEMU may write. A
 * snapshot's device therefore lets those who come later write, and not resize:
 * a QEMU that writes to a qcow2 image always asks for both.  (Not so one that
 * is told that the file is raw, and writes within its length.)
 *
 *   in use as            uses                  does not share
 *   read-only, backing   read                  write, resize
 *   read-write           read, write, resize   write, resize
 *   snapshot             read                  resize
 *
 * Then two things in the way are no reason to refuse, if a device of ours is
 * the cause.  A snapshot that finds the image being written: there is a device
 * that writes to it, and that keeps any QEMU away.  An image to be written that
 * finds nothing but resizing unshared: there is a read-only device of it, and
 * that is none of the whole image, as such a one would not share writing
 * either.  In both cases the locks that were taken before keep others from
 * coming in between.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "claim.h"
#include "control.h"
#include "device.h"
#include "exitcode.h"
#include "holder.h"
#include "lock.h"
#include "node.h"

#define MAX_TRIES	5

static const struct lock_set sets[] = {
	[CLAIM_READ] = {
		.used = PERM_CONSISTENT_READ,
		.unshared = PERM_WRITE | PERM_RESIZE,
	},
	[CLAIM_WRITE] = {
		.used = PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE,
		.unshared = PERM_WRITE | PERM_RESIZE,
	},
	[CLAIM_SNAPSHOT] = {
		.used = PERM_CONSISTENT_READ,
		.unshared = PERM_RESIZE,
		.unwanted = PERM_WRITE,
	},
};

/**
 * struct search - for a device of ours
 * @image: that is attached from this image itself
 * @writes: that writes to it, or that does not
 */
struct search {
	const struct stat *image;
	bool writes;
};

static bool is_device_of(const struct control_device *device, void *arg)
{
	const struct search *search = arg;
	struct stat st;

	return search->writes == !(device->state & QCOW2_STATE_READ_ONLY) &&
	       device->image[0] && !node_stat(device->image, &st) &&
	       image_same(&st, search->image);
}

/* Returns its number, or -1. */
static int find_device(const struct stat *image, bool writes)
{
	struct search search = { .image = image, .writes = writes };

	return device_search(is_device_of, &search);
}

static bool may_share(enum claim claim, const struct lock_set *others,
		      const struct stat *image)
{
	switch (claim) {
	case CLAIM_WRITE:
		return !others->used && others->unshared == PERM_RESIZE &&
		       find_device(image, false) >= 0;
	case CLAIM_SNAPSHOT:
		return !others->unshared && find_device(image, true) >= 0;
	default:
		return false;
	}
}

static int refuse_own(const struct image_name *name, int index)
{
	char path[DEVICE_PATH_MAX];

	return image_refuse(name, EXIT_BUSY, "is attached already, as %s",
			    device_path(index, path));
}

/* The lowest permission in a set: one is enough to tell. */
static unsigned int lowest(unsigned int set)
{
	return __builtin_ctz(set);
}

/* Who only reads may do so beside others who do. */
static const char *remedy(enum claim claim, const struct lock_set *others)
{
	if (claim == CLAIM_WRITE && !others->used &&
	    !(others->unshared & PERM_CONSISTENT_READ))
		return "attach it with --read-only, or end that use first";
	return "end that use first";
}

static int refuse_other(const struct image_name *name, int fd,
			enum claim claim, const struct lock_set *others)
{
	unsigned int bit = lowest(others->used ? others->used
					       : others->unshared);
	off_t byte = others->used ? LOCK_USED_BYTE(bit)
				  : LOCK_UNSHARED_BYTE(bit);
	const char *how = others->used ? "it holds the lock for"
				       : "it does not share";
	char who[HOLDER_MAX];

	return image_refuse(name, EXIT_BUSY, "is in use by %s (%s '%s'); %s",
			    holder_find(fd, byte, who), how, lock_name(bit),
			    remedy(claim, others));
}

/* A device of ours that is attached from this image and in the way, or -1. */
static int find_own(int fd, enum claim claim)
{
	struct stat file;
	int index;

	if (fstat(fd, &file))
		return -1;
	index = find_device(&file, true);
	if (index < 0 && claim == CLAIM_WRITE)
		index = find_device(&file, false);
	return index;
}

static int locking_failed(const struct image_name *name, int err)
{
	if (err == -EAGAIN)
		return image_refuse(name, EXIT_BUSY,
				    "is locked by another process");
	return image_refuse(name, EXIT_OTHER, "cannot be locked: %s",
			    strerror(-err));
}

/* Up to 20 ms after the first try, 160 ms after the fourth. */
static void pause_before_next(unsigned int tries)
{
	struct timespec now, pause = {};

	clock_gettime(CLOCK_MONOTONIC, &now);
	pause.tv_nsec = (now.tv_nsec / 1000 + getpid() * 7919L) %
			(10000L << tries) * 1000;
	nanosleep(&pause, NULL);
}

/*
 * Several that come at the same time find each other's locks, and each of them
 * would give up. So one that finds locks gives its own back before it looks for
 * their owner, and unless that is a device of ours it tries again, after a while
 * that is its own.
 */
int claim_file(int fd, enum claim claim, const struct image_name *name,
	       const struct stat *image)
{
	struct lock_set others;
	unsigned int tries;
	int err, own;

	for (tries = 1;; tries++) {
		err = lock_take(fd, &sets[claim], &others);
		if (err)
			return locking_failed(name, err);
		if ((!others.used && !others.unshared) ||
		    may_share(claim, &others, image))
			return 0;
		lock_give_back(fd, &sets[claim]);
		own = find_own(fd, claim);
		if (own >= 0)
			return refuse_own(name, own);
		if (tries == MAX_TRIES)
			return refuse_other(name, fd, claim, &others);
		pause_before_next(tries);
	}
}
