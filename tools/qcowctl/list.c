// SPDX-License-Identifier: GPL-2.0-only
/*
 * qcowctl list
 */
#include <errno.h>
#include <getopt.h>
#include <libsmartcols.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "command.h"
#include "control.h"
#include "device.h"
#include "exitcode.h"
#include "refusal.h"
#include "report.h"
#include "text.h"
#include "usage.h"

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

#define LETTERS		":bhHJno:"

enum { OPT_RAW = 256 };

static const struct option options[] = {
	{ "bytes", no_argument, NULL, 'b' },
	{ "help", no_argument, NULL, 'h' },
	{ "json", no_argument, NULL, 'J' },
	{ "list-columns", no_argument, NULL, 'H' },
	{ "noheadings", no_argument, NULL, 'n' },
	{ "output", required_argument, NULL, 'o' },
	{ "raw", no_argument, NULL, OPT_RAW },
	{ }
};

/*
 * The columns.  A function returns the text of a cell as a new string, or NULL
 * with errno set to 0 (an empty cell) or ENOMEM.
 */
static char *cell_name(const struct control_device *device)
{
	char path[DEVICE_PATH_MAX];

	return strdup(device_path(device->index, path));
}

static char *cell_number(uint64_t number)
{
	char *text;

	return asprintf(&text, "%ju", (uintmax_t)number) < 0 ? NULL : text;
}

static char *cell_state_bit(const struct control_device *device,
			    unsigned int bit)
{
	return strdup(device->state & bit ? "1" : "0");
}

static char *cell_read_only(const struct control_device *device)
{
	return cell_state_bit(device, QCOW2_STATE_READ_ONLY);
}

static char *cell_direct_io(const struct control_device *device)
{
	return cell_state_bit(device, QCOW2_STATE_DIRECT_IO);
}

static char *cell_pass_discard(const struct control_device *device)
{
	bool off = device->state & QCOW2_STATE_NO_PASS_DISCARD;

	return strdup(off ? "0" : "1");
}

static char *cell_no_unref(const struct control_device *device)
{
	return cell_state_bit(device, QCOW2_STATE_DISCARD_NO_UNREF);
}

/* The words of the attribute "state" in sysfs. */
static char *cell_state(const struct control_device *device)
{
	if (device->state & QCOW2_STATE_NEEDS_CHECK)
		return strdup("needs-check");
	return strdup(device->state & QCOW2_STATE_READ_ONLY ? "read-only"
							    : "ok");
}

static char *cell_version(const struct control_device *device)
{
	return cell_number(device->version);
}

static char *cell_openers(const struct control_device *device)
{
	return cell_number(device->openers);
}

static char *cell_text(const char *text)
{
	return *text ? strdup(text) : NULL;
}

static char *cell_snapshot_id(const struct control_device *device)
{
	return cell_text(device->snapshot_id);
}

static char *cell_snapshot(const struct control_device *device)
{
	return cell_text(device->snapshot_name);
}

static char *cell_image(const struct control_device *device)
{
	return cell_text(device->image);
}

static uint64_t size_of_device(const struct control_device *device)
{
	return device->virtual_size;
}

static uint64_t size_of_cluster(const struct control_device *device)
{
	return device->cluster_size;
}

/**
 * struct column - a column of the list
 * @name: as in -o, in the heading and, in small letters, in JSON
 * @help: what it shows
 * @flags: of libsmartcols
 * @json_type: of libsmartcols; what has a @size is a number with --bytes
 * @cell: makes the text
 * @size: or gives a size in bytes
 */
struct column {
	const char *name;
	const char *help;
	int flags;
	int json_type;
	char *(*cell)(const struct control_device *device);
	uint64_t (*size)(const struct control_device *device);
};

static const struct column columns[] = {
	{ .name = "NAME", .cell = cell_name,
	  .help = "device" },
	{ .name = "SIZE", .size = size_of_device, .flags = SCOLS_FL_RIGHT,
	  .help = "size of the device" },
	{ .name = "CLUSTER", .size = size_of_cluster, .flags = SCOLS_FL_RIGHT,
	  .help = "cluster size of the image" },
	{ .name = "RO", .cell = cell_read_only, .flags = SCOLS_FL_RIGHT,
	  .json_type = SCOLS_JSON_BOOLEAN,
	  .help = "attached read-only" },
	{ .name = "DIO", .cell = cell_direct_io, .flags = SCOLS_FL_RIGHT,
	  .json_type = SCOLS_JSON_BOOLEAN,
	  .help = "the image file is used with direct I/O" },
	{ .name = "PASS", .cell = cell_pass_discard, .flags = SCOLS_FL_RIGHT,
	  .json_type = SCOLS_JSON_BOOLEAN,
	  .help = "pass-discard: space of freed clusters is given back" },
	{ .name = "NOUNREF", .cell = cell_no_unref, .flags = SCOLS_FL_RIGHT,
	  .json_type = SCOLS_JSON_BOOLEAN,
	  .help = "discard-no-unref: discarded clusters keep their place" },
	{ .name = "STATE", .cell = cell_state,
	  .help = "ok, read-only, or needs-check: no writes until the image was checked" },
	{ .name = "VERSION", .cell = cell_version, .flags = SCOLS_FL_RIGHT,
	  .json_type = SCOLS_JSON_NUMBER,
	  .help = "version of the image's format" },
	{ .name = "USED", .cell = cell_openers, .flags = SCOLS_FL_RIGHT,
	  .json_type = SCOLS_JSON_NUMBER,
	  .help = "how often the device is open" },
	{ .name = "SNAPID", .cell = cell_snapshot_id,
	  .help = "internal snapshot that it shows, its ID" },
	{ .name = "SNAPSHOT", .cell = cell_snapshot,
	  .help = "name of that snapshot" },
	{ .name = "IMAGE", .cell = cell_image,
	  .help = "path of the image file" },
};

/**
 * struct list - what to list and how
 * @columns: the columns to show, in their order
 * @nr_columns: how many
 * @bytes: show sizes in bytes
 * @json: write JSON
 * @raw: write without alignment
 * @no_headings: write no line of headings
 */
struct list {
	const struct column *columns[ARRAY_SIZE(columns)];
	size_t nr_columns;
	bool bytes;
	bool json;
	bool raw;
	bool no_headings;
};

static int help(void)
{
	size_t i;

	command_head(&list_command);
	puts("DEV is qcowN, or the path of the device's node; without it all are listed.\n"
	     "\n"
	     "Options:\n"
	     " -b, --bytes         show sizes in bytes\n"
	     " -J, --json          write JSON\n"
	     " -n, --noheadings    write no headings\n"
	     " -o, --output COLS   the columns to show, separated by commas\n"
	     "     --raw           write fields with one blank between, unaligned\n"
	     " -H, --list-columns  show the names of the columns, one a line\n"
	     " -h, --help          show this help\n"
	     "\n"
	     "Columns:");
	for (i = 0; i < ARRAY_SIZE(columns); i++)
		printf(" %-8s %s\n", columns[i].name, columns[i].help);
	command_exit_codes();
	return finish_stdout();
}

static int list_columns(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(columns); i++)
		puts(columns[i].name);
	return finish_stdout();
}

static const struct column *find_column(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(columns); i++) {
		if (!strcasecmp(columns[i].name, name))
			return &columns[i];
	}
	return NULL;
}

static bool has_column(const struct list *list, const struct column *column)
{
	size_t i;

	for (i = 0; i < list->nr_columns; i++) {
		if (list->columns[i] == column)
			return true;
	}
	return false;
}

static int add_column(struct list *list, const char *name)
{
	const struct column *column = find_column(name);

	if (!column)
		return usage_error("list", "unknown column '%s'", name);
	if (has_column(list, column))
		return usage_error("list", "column '%s' is named twice", name);
	list->columns[list->nr_columns++] = column;
	return EXIT_DONE;
}

/* Take @names apart in place; a later -o replaces an earlier one. */
static int parse_columns(struct list *list, char *names)
{
	char *name;
	int err;

	list->nr_columns = 0;
	while ((name = strsep(&names, ","))) {
		err = add_column(list, name);
		if (err)
			return err;
	}
	return EXIT_DONE;
}

static void choose_all_columns(struct list *list)
{
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++)
		list->columns[i] = &columns[i];
	list->nr_columns = ARRAY_SIZE(columns);
}

static int json_type(const struct list *list, const struct column *column)
{
	if (column->size)
		return list->bytes ? SCOLS_JSON_NUMBER : SCOLS_JSON_STRING;
	return column->json_type;
}

static int set_up_table(struct libscols_table *table, const struct list *list)
{
	struct libscols_column *added;
	size_t i;
	int err;

	err = scols_table_set_name(table, "qcowdevices");
	if (!err)
		err = scols_table_enable_json(table, list->json);
	if (!err)
		err = scols_table_enable_raw(table, list->raw);
	if (!err)
		err = scols_table_enable_noheadings(table, list->no_headings);
	for (i = 0; i < list->nr_columns && !err; i++) {
		added = scols_table_new_column(table, list->columns[i]->name, 0,
					       list->columns[i]->flags);
		if (!added)
			return -ENOMEM;
		err = scols_column_set_json_type(added,
				json_type(list, list->columns[i]));
	}
	return err;
}

static char *make_cell(const struct list *list, const struct column *column,
		       const struct control_device *device)
{
	char *cell, *utf8;

	errno = 0;
	if (column->size && list->bytes)
		return cell_number(column->size(device));
	if (column->size)
		return text_size(column->size(device));
	cell = column->cell(device);
	if (!cell || !list->json)
		return cell;
	/* JSON is UTF-8; a path is any bytes. */
	utf8 = text_utf8(cell);
	free(cell);
	return utf8;
}

static int add_line(struct libscols_table *table, const struct list *list,
		    const struct control_device *device)
{
	struct libscols_line *line = scols_table_new_line(table, NULL);
	char *cell;
	size_t i;
	int err = line ? 0 : -ENOMEM;

	for (i = 0; i < list->nr_columns && !err; i++) {
		cell = make_cell(list, list->columns[i], device);
		if (cell)
			err = scols_line_refer_data(line, i, cell);
		else
			err = -errno;
	}
	return err;
}

/* List device @only, or all devices if it is negative. */
static int add_lines(struct libscols_table *table, const struct list *list,
		     int ctl, int only)
{
	struct control_device device;
	int index = only < 0 ? 0 : only;
	int err;

	do {
		err = control_query(ctl, index, &device);
		if (err)
			return err == -ENODEV && only < 0 ? 0 : err;
		if (only >= 0 && device.index != only)
			return -ENODEV;
		err = add_line(table, list, &device);
		index = device.index + 1;
	} while (!err && only < 0);
	return err;
}

/* JSON of nothing is an empty array: who reads it wants a document. */
static int print_table(struct libscols_table *table, const struct list *list)
{
	if (!list->json && scols_table_is_empty(table))
		return EXIT_DONE;
	if (scols_print_table(table)) {
		complain("list", "cannot write the list");
		return EXIT_OTHER;
	}
	return finish_stdout();
}

static int list_devices(const struct list *list, int ctl, int only,
			const char *object)
{
	struct libscols_table *table = scols_new_table();
	int err, ret;

	err = table ? set_up_table(table, list) : -ENOMEM;
	if (!err)
		err = add_lines(table, list, ctl, only);
	ret = err ? refused(object, err, NULL) : print_table(table, list);
	scols_unref_table(table);
	return ret;
}

static int list_operand(const struct list *list, const char *dev)
{
	int only = -1, ctl, ret;

	if (dev) {
		only = device_find(dev);
		if (only < 0)
			return -only;
	}
	ctl = control_open();
	if (ctl < 0)
		return -ctl;
	ret = list_devices(list, ctl, only, dev ? dev : CONTROL_PATH);
	close(ctl);
	return ret;
}

/* Take one option.  EXIT_DONE, or what to end with. */
static int take_option(struct list *list, int opt, char **argv)
{
	switch (opt) {
	case 'b':
		list->bytes = true;
		return EXIT_DONE;
	case 'J':
		list->json = true;
		return EXIT_DONE;
	case 'n':
		list->no_headings = true;
		return EXIT_DONE;
	case 'o':
		return parse_columns(list, optarg);
	case OPT_RAW:
		list->raw = true;
		return EXIT_DONE;
	default:
		return usage_bad_option(argv[0], opt, argv, LETTERS);
	}
}

static int run(int argc, char **argv)
{
	struct list list = { .nr_columns = 0 };
	int opt, err;

	while ((opt = getopt_long(argc, argv, LETTERS, options, NULL)) != -1) {
		if (opt == 'h')
			return help();
		if (opt == 'H')
			return list_columns();
		err = take_option(&list, opt, argv);
		if (err)
			return err;
	}
	if (list.json && list.raw)
		return usage_error(argv[0], "--json and --raw exclude each other");
	err = usage_operands(argv[0], argc, argv, 0, 1, "DEV");
	if (err)
		return err;
	if (!list.nr_columns)
		choose_all_columns(&list);
	return list_operand(&list, argv[optind]);
}

const struct command list_command = {
	.name = "list",
	.synopsis = "[-bJn] [--raw] [-o COLS] [DEV]",
	.summary = "show attached devices",
	.run = run,
};
