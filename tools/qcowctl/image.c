// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "exitcode.h"
#include "image.h"
#include "report.h"

static bool is_shortage(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM || err == EIO;
}

/*
 * Words for an image that cannot be opened, where strerror alone would not
 * tell what to do.  NULL: strerror will do.
 */
static const char *open_words(int err, bool read_only)
{
	switch (err) {
	case ENOENT:
	case ENOTDIR:
		return "no such file; check the name";
	case EACCES:
	case EPERM:
		if (read_only)
			return "no permission to read it; check its owner and mode";
		return "no permission to write it; check its owner and mode, or attach it with --read-only";
	case EROFS:
		return "is on a read-only file system; attach it with --read-only";
	case EBUSY:
		return "is in use: mounted, attached already (see 'qcowctl list'), or held by another driver";
	case ETXTBSY:
		return "is in use as a program or as swap space, and cannot be written";
	default:
		return NULL;
	}
}

static int complain_open(const char *path, bool read_only, int err)
{
	const char *words = open_words(err, read_only);

	if (words)
		complain(path, "%s", words);
	else
		complain(path, "cannot open: %s", strerror(err));
	if (err == EBUSY)
		return -EXIT_BUSY;
	return is_shortage(err) ? -EXIT_OTHER : -EXIT_IMAGE_OPEN;
}

static int check_type(const char *path, const struct stat *st)
{
	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	if (S_ISDIR(st->st_mode))
		complain(path, "is a directory; name an image file");
	else
		complain(path, "is neither a file nor a block device; name an image file");
	return -EXIT_IMAGE_OPEN;
}

/*
 * A block device that is to be written is claimed, so that nobody else mounts
 * it or makes a file system on it.  The claim is the open file's, which the
 * driver keeps as long as the image is attached.
 */
static int open_flags(const struct stat *st, bool read_only)
{
	int flags = O_CLOEXEC | O_NOCTTY;

	if (read_only)
		return flags | O_RDONLY;
	return flags | O_RDWR | (S_ISBLK(st->st_mode) ? O_EXCL : 0);
}

static int open_checked(const char *path, const struct stat *before,
			bool read_only)
{
	struct stat st;
	int fd, err;

	fd = open(path, open_flags(before, read_only));
	if (fd < 0)
		return complain_open(path, read_only, errno);
	err = fstat(fd, &st) ? complain_open(path, read_only, errno)
			     : check_type(path, &st);
	if (!err)
		return fd;
	close(fd);
	return err;
}

int image_open(const char *path, bool read_only)
{
	struct stat st;
	int err;

	/* Opening a pipe can block, and opening some devices does things. */
	if (stat(path, &st))
		return complain_open(path, read_only, errno);
	err = check_type(path, &st);
	return err ? err : open_checked(path, &st, read_only);
}
