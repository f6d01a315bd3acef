// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which device has a file in its chain.  The driver lists the files of each in
 * /sys/block/qcowN/qcow2/chain, a line "ROLE FORMAT PATH" for one.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control.h"
#include "device.h"
#include "image.h"
#include "member.h"
#include "node.h"
#include "text.h"

static bool parse_role(const char *word, enum member_role *role)
{
	if (!strcmp(word, "backing"))
		*role = MEMBER_BACKING;
	else if (!strcmp(word, "data"))
		*role = MEMBER_DATA;
	else
		return false;
	return true;
}

/* Paths are as this process sees them; one that leads elsewhere is no match. */
static bool is_line_of(char *line, const struct stat *file,
		       enum member_role *role)
{
	const char *word = strsep(&line, " ");
	const char *format = strsep(&line, " ");
	struct stat st;

	if (!format || !line || !parse_role(word, role))
		return false;
	line[strcspn(line, "\n")] = '\0';
	text_unescape(line);
	return !node_stat(line, &st) && image_same(&st, file);
}

static bool is_in_lines(FILE *lines, const struct stat *file,
			enum member_role *role)
{
	char *line = NULL;
	bool found = false;
	size_t room = 0;

	while (!found && getline(&line, &room, lines) > 0)
		found = is_line_of(line, file, role);
	free(line);
	return found;
}

static bool is_in_chain(int index, const struct stat *file,
			enum member_role *role)
{
	char path[sizeof("/sys/block/qcow2147483647/qcow2/chain")];
	FILE *lines;
	bool found;
	int fd;

	snprintf(path, sizeof(path), "/sys/block/qcow%d/qcow2/chain", index);
	fd = node_open_sysfs(path);
	lines = fd < 0 ? NULL : fdopen(fd, "r");
	if (!lines) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	found = is_in_lines(lines, file, role);
	fclose(lines);
	return found;
}

/**
 * struct search - for what file, and what it was found to be
 * @file: the file
 * @role: set when it is found
 */
struct search {
	const struct stat *file;
	enum member_role *role;
};

static bool has_in_chain(const struct control_device *device, void *arg)
{
	const struct search *search = arg;

	return is_in_chain(device->index, search->file, search->role);
}

int member_find(const struct stat *file, enum member_role *role)
{
	struct search search = { .file = file, .role = role };

	return device_search(has_in_chain, &search);
}
