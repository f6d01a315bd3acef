// SPDX-License-Identifier: GPL-2.0-only
/*
 * Names of files in images, understood as QEMU understands them:
 *
 *   NAME                   below the directory of the image that has the name
 *   /NAME                  a path
 *   file:NAME              a path, relative to the current directory
 *   json:{...}             a description; so are the paths in it
 *   PROTOCOL:...           something that is no local file: refused
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "description.h"
#include "exitcode.h"
#include "source.h"

#define ARRAY_SIZE(array)	(sizeof(array) / sizeof((array)[0]))

#define JSON_PREFIX	"json:"

/**
 * struct driver - a driver of QEMU that can be done without
 * @name: its name
 * @format: what a file has that it is told to be the format of
 * @is_protocol: it opens a file, and is not on top of another one
 */
struct driver {
	const char *name;
	enum source_format format;
	bool is_protocol;
};

static const struct driver drivers[] = {
	{ "qcow2", SOURCE_QCOW2, false },
	{ "raw", SOURCE_RAW, false },
	{ "file", SOURCE_RAW, true },
	{ "host_device", SOURCE_RAW, true },
};

/* Options that do not change what is read from a file that is only read. */
static const char *const any_options[] = {
	"driver", "node-name", "read-only", "auto-read-only", "discard",
	"detect-zeroes", "force-share", "cache", NULL
};

static const char *const file_options[] = {
	"filename", "aio", "aio-max-batch", "locking", "drop-cache",
	"x-check-cache-dropped", NULL
};

static const char *const raw_options[] = {
	"file", "offset", NULL
};

static const char *const qcow2_options[] = {
	"file", "backing", "data-file", "lazy-refcounts",
	"pass-discard-request", "pass-discard-snapshot",
	"pass-discard-other", "discard-no-unref", "overlap-check",
	"cache-size", "l2-cache-size", "l2-cache-entry-size",
	"refcount-cache-size", "cache-clean-interval", NULL
};

static const struct driver *find_driver(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(drivers); i++) {
		if (!strcmp(drivers[i].name, name))
			return &drivers[i];
	}
	return NULL;
}

static int out_of_memory(const struct image_name *name)
{
	return image_refuse(name, EXIT_OTHER, "out of memory");
}

/*
 * Descriptions.
 */

static int check_options(const struct image_name *name,
			 struct json_object *node,
			 const char *const options[])
{
	const char *unknown = description_unknown(node, any_options, options);

	if (!unknown)
		return 0;
	if (!strcmp(unknown, "encrypt"))
		return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
				    "is encrypted; encryption is not served");
	return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
			    "the description in this name has the option '%s', which is not served",
			    unknown);
}

static bool is_zero(struct json_object *value)
{
	return (json_object_is_type(value, json_type_int) &&
		!json_object_get_int64(value)) ||
	       (json_object_is_type(value, json_type_string) &&
		!strcmp(json_object_get_string(value), "0"));
}

static int check_raw(const struct image_name *name, struct json_object *node)
{
	struct json_object *value;

	if (json_object_object_get_ex(node, "size", &value) ||
	    (json_object_object_get_ex(node, "offset", &value) &&
	     !is_zero(value)))
		return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
				    "is a part of a raw file, given by 'offset' and 'size'; only whole files are served");
	return check_options(name, node, raw_options);
}

/* What a driver is called that a description names, NULL if it names none. */
static int driver_of(const struct image_name *name, struct json_object *node,
		     const char **driver)
{
	struct json_object *value;

	*driver = description_text(node, "driver");
	if (!*driver && json_object_object_get_ex(node, "driver", &value))
		return image_refuse(name, EXIT_IMAGE_INVALID,
				    "the 'driver' in this name is no text");
	return 0;
}

static int refuse_driver(const struct image_name *name, const char *driver)
{
	return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
			    "needs QEMU's driver '%s'; only qcow2 and raw images in local files and block devices are served",
			    driver);
}

/* The description of the file that a format is in. */
static int file_below(const struct image_name *name, struct json_object **node)
{
	*node = description_object(*node, "file");
	if (*node)
		return 0;
	return image_refuse(name, EXIT_IMAGE_INVALID,
			    "the description in this name has no 'file'");
}

/* Find the path at the bottom: raw on raw is the same as raw. */
static int path_below(const struct image_name *name, struct json_object *node,
		      const char **path)
{
	const char *driver;
	int err;

	for (;;) {
		err = driver_of(name, node, &driver);
		if (err || !driver || strcmp(driver, "raw"))
			break;
		err = check_raw(name, node);
		err = err ? err : file_below(name, &node);
		if (err)
			return err;
	}
	if (err)
		return err;
	if (driver && (!find_driver(driver) || !find_driver(driver)->is_protocol))
		return refuse_driver(name, driver);
	err = check_options(name, node, file_options);
	if (err)
		return err;
	*path = description_text(node, "filename");
	return *path ? 0 : image_refuse(name, EXIT_IMAGE_INVALID,
					"the description in this name has no 'filename'");
}

static int path_of_format(const struct image_name *name,
			  struct json_object *node, enum source_format format,
			  const char **path)
{
	int err;

	if (format == SOURCE_RAW)
		err = check_raw(name, node);
	else
		err = check_options(name, node, qcow2_options);
	err = err ? err : file_below(name, &node);
	return err ? err : path_below(name, node, path);
}

/*
 * What the overlay says about the format counts more than what the name says,
 * as in QEMU.
 */
static int take_description(struct source *source,
			    const struct image_name *name, const char *format,
			    struct json_object *node)
{
	const struct driver *driver = NULL;
	const char *said, *path;
	int err;

	err = driver_of(name, node, &said);
	if (err)
		return err;
	if (format)
		said = format;
	if (said)
		driver = find_driver(said);
	if (said && !driver)
		return refuse_driver(name, said);
	source->format = driver ? driver->format : SOURCE_UNKNOWN;
	if (driver && driver->is_protocol)
		err = path_below(name, node, &path);
	else
		err = path_of_format(name, node, source->format, &path);
	if (err)
		return err;
	source->node = json_object_get(node);
	source->path = strdup(path);
	return source->path ? 0 : out_of_memory(name);
}

static int take_json(struct source *source, const struct image_name *name,
		     const char *format, const char *text)
{
	struct json_object *node;
	const char *why;
	int err;

	node = description_parse(text, &why);
	if (!node)
		return image_refuse(name, EXIT_IMAGE_INVALID, "%s", why);
	err = take_description(source, name, format, node);
	json_object_put(node);
	return err;
}

/*
 * Plain names.
 */

/* The text behind a prefix, or NULL. */
static const char *behind(const char *text, const char *prefix)
{
	size_t len = strlen(prefix);

	return strncmp(text, prefix, len) ? NULL : text + len;
}

/* As QEMU sees it: a colon before the first slash ends a protocol's name. */
static int protocol_length(const char *name)
{
	size_t len = strcspn(name, ":/");

	return name[len] == ':' ? len : 0;
}

/* Below the directory in which @image is, by its name: links stay links. */
static char *join(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	char *path;
	int dir_len = slash ? slash + 1 - image : 0;

	if (name[0] == '/')
		dir_len = 0;
	if (asprintf(&path, "%.*s%s", dir_len, image, name) < 0)
		return NULL;
	return path;
}

static int take_name(struct source *source, const struct image_name *name,
		     const char *image)
{
	const char *path = behind(name->name, "file:");
	int len;

	if (!path)
		path = behind(name->name, "host_device:");
	len = protocol_length(name->name);
	if (!path && len)
		return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
				    "is reached by the protocol '%.*s'; only local files and block devices are served",
				    len, name->name);
	source->path = path ? strdup(path) : join(image, name->name);
	return source->path ? 0 : out_of_memory(name);
}

static int take_format(struct source *source, const struct image_name *name,
		       const char *format)
{
	const struct driver *driver = format ? find_driver(format) : NULL;

	if (format && !driver)
		return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
				    "has the format '%s'; only qcow2 and raw are served ('qemu-img convert' makes one of the other)",
				    format);
	source->format = driver ? driver->format : SOURCE_UNKNOWN;
	return 0;
}

int source_of_backing(struct source *source, const struct image_name *name,
		      const char *format, const char *overlay)
{
	const char *json = behind(name->name, JSON_PREFIX);
	int err;

	*source = (struct source) {};
	/* An empty name of a format is none. */
	if (format && !format[0])
		format = NULL;
	err = take_format(source, name, format);
	if (err)
		return err;
	if (json)
		return take_json(source, name, format, json);
	return take_name(source, name, overlay);
}

/* A data file has no format: it must not be anything but raw. */
static int force_raw(struct source *source, const struct image_name *name)
{
	if (source->format == SOURCE_QCOW2)
		return refuse_driver(name, "qcow2");
	source->format = SOURCE_RAW;
	return 0;
}

/* Without a driver the description of a data file is that of a plain file. */
static int take_data_description(struct source *source,
				 const struct image_name *name,
				 struct json_object *node)
{
	const char *driver;
	int err;

	err = driver_of(name, node, &driver);
	err = err ? err : take_description(source, name,
					   driver ? NULL : "file", node);
	return err ? err : force_raw(source, name);
}

static int take_data_json(struct source *source, const struct image_name *name,
			  const char *text)
{
	struct json_object *node;
	const char *why;
	int err;

	node = description_parse(text, &why);
	if (!node)
		return image_refuse(name, EXIT_IMAGE_INVALID, "%s", why);
	err = take_data_description(source, name, node);
	json_object_put(node);
	return err;
}

int source_of_data(struct source *source, const struct image_name *name)
{
	const char *json = behind(name->name, JSON_PREFIX);

	*source = (struct source) { .format = SOURCE_RAW };
	if (json)
		return take_data_json(source, name, json);
	return take_name(source, name, "");
}

/*
 * Overrides.
 */

bool source_overrides(const struct source *image, const char *option)
{
	return image->node && image->format == SOURCE_QCOW2 &&
	       json_object_object_get_ex(image->node, option, NULL);
}

int source_of_override(struct source *source, const struct image_name *name,
		       const struct source *image, const char *option)
{
	struct json_object *node;

	*source = (struct source) {};
	json_object_object_get_ex(image->node, option, &node);
	if (!node)
		return 0;
	if (!json_object_is_type(node, json_type_object))
		return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
				    "is a node of a running QEMU; only files are served");
	if (!strcmp(option, "data-file"))
		return take_data_description(source, name, node);
	return take_description(source, name, NULL, node);
}

void source_free(struct source *source)
{
	json_object_put(source->node);
	free(source->path);
	*source = (struct source) {};
}
