// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "exitcode.h"
#include "image.h"
#include "report.h"

int image_refuse(const struct image_name *name, int exit_code,
		 const char *format, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, format);
	len = vasprintf(&text, format, args);
	va_end(args);
	if (len < 0) {
		complain(name->name, "out of memory");
		return -EXIT_OTHER;
	}
	if (name->referrer)
		complain(name->referrer, "its %s '%s': %s", name->what,
			 name->name, text);
	else
		complain(name->name, "%s", text);
	free(text);
	return -exit_code;
}

static bool is_shortage(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM || err == EIO;
}

static const char *missing_words(const struct image_name *name)
{
	if (name->missing)
		return name->missing;
	return name->referrer ? "no such file; put it there"
			      : "no such file; check the name";
}

/*
 * Words for an image that cannot be opened, where strerror alone would not
 * tell what to do.  NULL: strerror will do.
 */
static const char *open_words(const struct image_name *name, bool writable,
			      int err)
{
	switch (err) {
	case ENOENT:
	case ENOTDIR:
		return missing_words(name);
	case EACCES:
	case EPERM:
		if (!writable)
			return "no permission to read it; check its owner and mode";
		return "no permission to write it; check its owner and mode, or attach it with --read-only";
	case EROFS:
		return "is on a read-only file system; attach it with --read-only";
	case EBUSY:
		return "is in use: mounted, attached already (see 'qcowctl list'), or held by another driver";
	case EMFILE:
		return "cannot be opened beside so many other files; raise the limit ('ulimit -n')";
	case ETXTBSY:
		return "is in use as a program or as swap space, and cannot be written";
	default:
		return NULL;
	}
}

int image_refuse_errno(const struct image_name *name, bool writable, int err)
{
	const char *words = open_words(name, writable, err);
	int exit_code = EXIT_IMAGE_OPEN;

	if (err == EBUSY)
		exit_code = EXIT_BUSY;
	else if (is_shortage(err))
		exit_code = EXIT_OTHER;
	if (words)
		return image_refuse(name, exit_code, "%s", words);
	return image_refuse(name, exit_code, "cannot open: %s", strerror(err));
}

static int check_type(const struct image_name *name, const struct stat *st)
{
	const char *remedy = name->referrer ? "" : "; name an image file";

	if (S_ISREG(st->st_mode) || S_ISBLK(st->st_mode))
		return 0;
	if (S_ISDIR(st->st_mode))
		return image_refuse(name, EXIT_IMAGE_OPEN, "is a directory%s",
				    remedy);
	return image_refuse(name, EXIT_IMAGE_OPEN,
			    "is neither a file nor a block device%s", remedy);
}

/*
 * A block device that is to be written is claimed, so that nobody else mounts
 * it or makes a file system on it.  The claim is the open file's, which the
 * driver keeps as long as the image is attached.
 */
static int open_flags(const struct stat *st, bool writable)
{
	int flags = O_CLOEXEC | O_NOCTTY;

	if (!writable)
		return flags | O_RDONLY;
	return flags | O_RDWR | (S_ISBLK(st->st_mode) ? O_EXCL : 0);
}

/* A long chain has more files than a program may usually have open. */
static bool raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max)
		return false;
	limit.rlim_cur = limit.rlim_max;
	return !setrlimit(RLIMIT_NOFILE, &limit);
}

static int open_patiently(const char *path, int flags)
{
	int fd = open(path, flags);

	if (fd < 0 && errno == EMFILE) {
		if (raise_file_limit())
			return open(path, flags);
		errno = EMFILE;
	}
	return fd;
}

/*
 * To note when the file was read costs a read of the device a transaction of the file
 * system, after each write.  Only the owner may ask for this, so not with O_RDWR and
 * the rest, which would fail for others.
 */
static void leave_access_time(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NOATIME);
}

static int open_checked(const struct image_name *name, const char *path,
			const struct stat *before, bool writable)
{
	struct stat st;
	int fd, err;

	fd = open_patiently(path, open_flags(before, writable));
	if (fd < 0)
		return image_refuse_errno(name, writable, errno);
	leave_access_time(fd);
	err = fstat(fd, &st) ? image_refuse_errno(name, writable, errno)
			     : check_type(name, &st);
	if (!err)
		return fd;
	close(fd);
	return err;
}

int image_open(const struct image_name *name, const char *path, bool writable)
{
	struct stat st;
	int err;

	/* Opening a pipe can block, and opening some devices does things. */
	if (stat(path, &st))
		return image_refuse_errno(name, writable, errno);
	err = check_type(name, &st);
	return err ? err : open_checked(name, path, &st, writable);
}

bool image_same(const struct stat *one, const struct stat *other)
{
	if (S_ISBLK(one->st_mode) && S_ISBLK(other->st_mode))
		return one->st_rdev == other->st_rdev;
	return one->st_dev == other->st_dev && one->st_ino == other->st_ino;
}
