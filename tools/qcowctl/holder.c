// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who has a lock on a file.  The kernel does not tell for locks of open file
 * descriptions, but /proc/PID/fdinfo/FD has those of processes.  Those of a device
 * nobody has but the driver: a device that has the file in its chain has them.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"
#include "holder.h"
#include "image.h"
#include "member.h"

/* A command's name has at most 15 bytes. */
#define COMMAND_MAX	32

static bool is_number(const char *name)
{
	return *name && !name[strspn(name, "0123456789")];
}

/*
 * A line such as "lock:	1: OFDLCK  ADVISORY  READ -1 08:02:1234 100 101":
 * the last two are the first and the last byte, or EOF.
 */
static bool line_has_byte(const char *line, off_t byte)
{
	long long first, last;
	char end[24];

	if (sscanf(line, "lock: %*d: %*s %*s %*s %*d %*s %lld %23s", &first,
		   end) != 2)
		return false;
	last = strcmp(end, "EOF") ? atoll(end) : LLONG_MAX;
	return first <= byte && byte <= last;
}

static bool fdinfo_has_byte(int fdinfo, const char *name, off_t byte)
{
	char line[256];
	bool found = false;
	FILE *file;
	int fd;

	fd = openat(fdinfo, name, O_RDONLY | O_CLOEXEC);
	file = fd < 0 ? NULL : fdopen(fd, "r");
	if (!file) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while (!found && fgets(line, sizeof(line), file))
		found = line_has_byte(line, byte);
	fclose(file);
	return found;
}

static bool is_file(int process, const char *fd_name, const struct stat *file)
{
	char path[NAME_MAX + sizeof("fd/")];
	struct stat st;

	snprintf(path, sizeof(path), "fd/%s", fd_name);
	return !fstatat(process, path, &st, 0) && image_same(&st, file);
}

/* Look at all that a process has open; @process is its directory in /proc. */
static bool process_has_byte(int process, const struct stat *file, off_t byte)
{
	int fdinfo = openat(process, "fdinfo",
			    O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fdinfo < 0 ? NULL : fdopendir(fdinfo);
	struct dirent *entry;
	bool found = false;

	if (!dir) {
		if (fdinfo >= 0)
			close(fdinfo);
		return false;
	}
	while (!found && (entry = readdir(dir)))
		found = is_number(entry->d_name) &&
			is_file(process, entry->d_name, file) &&
			fdinfo_has_byte(fdinfo, entry->d_name, byte);
	closedir(dir);
	return found;
}

static void read_command(int process, char command[COMMAND_MAX])
{
	int fd = openat(process, "comm", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? 0 : read(fd, command, COMMAND_MAX - 1);

	if (fd >= 0)
		close(fd);
	command[len > 0 ? len : 0] = '\0';
	command[strcspn(command, "\n")] = '\0';
}

/* Say who it is if the process PID is the one. */
static bool try_process(int proc, const char *pid, const struct stat *file,
			off_t byte, char text[HOLDER_MAX])
{
	char command[COMMAND_MAX];
	bool found;
	int process;

	process = openat(proc, pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (process < 0)
		return false;
	found = process_has_byte(process, file, byte);
	if (found) {
		read_command(process, command);
		snprintf(text, HOLDER_MAX, "%s, process %.10s", command, pid);
	}
	close(process);
	return found;
}

static bool is_self(const char *pid)
{
	return atol(pid) == getpid();
}

static bool find_process(const struct stat *file, off_t byte,
			 char text[HOLDER_MAX])
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	bool found = false;

	if (!proc)
		return false;
	while (!found && (entry = readdir(proc)))
		found = is_number(entry->d_name) && !is_self(entry->d_name) &&
			try_process(dirfd(proc), entry->d_name, file, byte,
				    text);
	closedir(proc);
	return found;
}

/*
 * Say which device it is.  That it has the byte locked need not be looked up:
 * whatever the conflict is about, who uses a file in its chain has a part in it.
 */
static bool find_device(const struct stat *file, char text[HOLDER_MAX])
{
	char path[DEVICE_PATH_MAX];
	enum member_role role;
	int index = member_find(file, &role);

	if (index < 0)
		return false;
	snprintf(text, HOLDER_MAX, "%s, as a %s", device_path(index, path),
		 role == MEMBER_DATA ? "data file" : "backing file");
	return true;
}

const char *holder_find(int fd, off_t byte, char text[HOLDER_MAX])
{
	struct stat file;

	if (fstat(fd, &file) || (!find_device(&file, text) &&
				 !find_process(&file, byte, text)))
		strcpy(text, "another QEMU process or qcow2 device");
	return text;
}
