// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <unistd.h>

#include "lock.h"
#include "node.h"

static const char *const names[NR_PERMISSIONS] = {
	"consistent read", "write", "write unchanged", "resize",
	"change children",
};

const char *lock_name(unsigned int bit)
{
	return names[bit];
}

static bool is_without_locks(int err)
{
	return err == -ENOLCK || err == -EOPNOTSUPP || err == -ENOSYS ||
	       err == -EINVAL;
}

static int lock_call(int fd, int command, struct flock *lock)
{
	while (node_lock(fd, command, lock)) {
		if (errno == EACCES)
			return -EAGAIN;
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static int set_byte(int fd, off_t byte, short type)
{
	struct flock lock = {
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};

	return lock_call(fd, F_OFD_SETLK, &lock);
}

/* Add @bit to *@found if somebody else has a lock on @byte. */
static int test_byte(int fd, off_t byte, unsigned int bit, unsigned int *found)
{
	struct flock lock = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};
	int err;

	err = lock_call(fd, F_OFD_GETLK, &lock);
	if (!err && lock.l_type != F_UNLCK)
		*found |= 1 << bit;
	return err;
}

static int set_bytes(int fd, const struct lock_set *wanted, short type)
{
	unsigned int bit;
	int err = 0;

	for (bit = 0; bit < NR_PERMISSIONS && !err; bit++) {
		if (wanted->used & 1 << bit)
			err = set_byte(fd, LOCK_USED_BYTE(bit), type);
		if (!err && wanted->unshared & 1 << bit)
			err = set_byte(fd, LOCK_UNSHARED_BYTE(bit), type);
	}
	return err;
}

static int test_bytes(int fd, const struct lock_set *wanted,
		      struct lock_set *others)
{
	unsigned int avoided = wanted->unshared | wanted->unwanted;
	unsigned int bit;
	int err = 0;

	for (bit = 0; bit < NR_PERMISSIONS && !err; bit++) {
		if (wanted->used & 1 << bit)
			err = test_byte(fd, LOCK_UNSHARED_BYTE(bit), bit,
					&others->unshared);
		if (!err && avoided & 1 << bit)
			err = test_byte(fd, LOCK_USED_BYTE(bit), bit,
					&others->used);
	}
	return err;
}

int lock_take(int fd, const struct lock_set *wanted, struct lock_set *others)
{
	int err;

	*others = (struct lock_set) {};
	err = set_bytes(fd, wanted, F_RDLCK);
	if (!err)
		err = test_bytes(fd, wanted, others);
	return is_without_locks(err) ? 0 : err;
}

void lock_give_back(int fd, const struct lock_set *wanted)
{
	set_bytes(fd, wanted, F_UNLCK);
}
