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

static int open_checked(const char *path, bool read_only)
{
	struct stat st;
	int fd, err;

	fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY);
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
	return err ? err : open_checked(path, read_only);
}
