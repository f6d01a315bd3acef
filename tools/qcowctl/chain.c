// SPDX-License-Identifier: GPL-2.0-only
/*
 * From an image to its backing file, the backing file of that, and so on to the
 * end.  Each file is locked before its header is read: what it refers to does
 * not change after that.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chain.h"
#include "claim.h"
#include "exitcode.h"
#include "header.h"
#include "image.h"
#include "source.h"

/**
 * struct reference - a file that the user or an image refers to
 * @source: where it is; without a path if there is none after all
 * @name: what to call it in complaints
 * @text: what @name has of its own, to be freed
 */
struct reference {
	struct source source;
	struct image_name name;
	char *text;
};

/**
 * struct layer - the layer that is being looked at
 * @ref: how it came into the chain, as its last file
 * @path: where it is; the chain's
 * @header: what it refers to
 */
struct layer {
	struct reference ref;
	const char *path;
	struct header header;
};

static void forget(struct reference *ref)
{
	source_free(&ref->source);
	free(ref->text);
	*ref = (struct reference) {};
}

static void leave(struct layer *layer)
{
	forget(&layer->ref);
	header_free(&layer->header);
}

static int out_of_memory(const struct image_name *name)
{
	return image_refuse(name, EXIT_OTHER, "out of memory");
}

/*
 * Room.
 */

static int grow(struct chain *chain)
{
	unsigned int room = chain->room ? 2 * chain->room : 8;
	void *files, *identities, *paths;

	files = reallocarray(chain->files, room, sizeof(*chain->files));
	if (files)
		chain->files = files;
	identities = reallocarray(chain->identities, room,
				  sizeof(*chain->identities));
	if (identities)
		chain->identities = identities;
	paths = reallocarray(chain->paths, room, sizeof(*chain->paths));
	if (paths)
		chain->paths = paths;
	if (!files || !identities || !paths)
		return -ENOMEM;
	chain->room = room;
	return 0;
}

static int make_room(struct chain *chain, const struct image_name *name)
{
	if (chain->nr == QCOW2_FILES_MAX)
		return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
				    "the chain is longer than %u files",
				    QCOW2_FILES_MAX);
	if (chain->nr < chain->room || !grow(chain))
		return 0;
	return out_of_memory(name);
}

/*
 * Files.
 */

static uint32_t format_of(enum source_format format)
{
	return format == SOURCE_RAW ? QCOW2_FILE_RAW : QCOW2_FILE_QCOW2;
}

/* A file that is there twice: a chain without end, or one that eats itself. */
static int check_new(const struct chain *chain, const struct image_name *name,
		     const struct stat *identity)
{
	for (unsigned int i = 0; i < chain->nr; i++) {
		if (image_same(&chain->identities[i], identity))
			return image_refuse(name, EXIT_IMAGE_INVALID,
					    "is in the chain already, as '%s'",
					    chain->paths[i]);
	}
	return 0;
}

static enum claim claim_for(const struct chain *chain, uint32_t role,
			    const struct chain_options *options)
{
	/* The image and its data file come first. */
	if (chain->nr > 1 || (chain->nr == 1 && role != QCOW2_ROLE_DATA))
		return CLAIM_READ;
	if (options->snapshot)
		return CLAIM_SNAPSHOT;
	return options->writable ? CLAIM_WRITE : CLAIM_READ;
}

static int append(struct chain *chain, int fd, const struct source *source,
		  uint32_t role, const struct image_name *name)
{
	char *path = strdup(source->path);

	if (!path)
		return out_of_memory(name);
	chain->paths[chain->nr] = path;
	chain->files[chain->nr] = (struct qcow2_ctl_file) {
		.fd = fd,
		.format = format_of(source->format),
		.role = role,
	};
	chain->nr++;
	return 0;
}

static int add_open_file(struct chain *chain, int fd,
			 const struct source *source, uint32_t role,
			 const struct image_name *name, enum claim claim)
{
	struct stat *identity = &chain->identities[chain->nr];
	int err;

	if (fstat(fd, identity))
		return image_refuse_errno(name, false, errno);
	err = check_new(chain, name, identity);
	/* The first entry is the image: its own data file goes with it. */
	err = err ? err : claim_file(fd, claim, name, &chain->identities[0]);
	return err ? err : append(chain, fd, source, role, name);
}

/* Open and lock a file and append it to the chain. */
static int add_file(struct chain *chain, const struct source *source,
		    uint32_t role, const struct image_name *name,
		    const struct chain_options *options)
{
	enum claim claim = claim_for(chain, role, options);
	int fd, err;

	err = make_room(chain, name);
	if (err)
		return err;
	fd = image_open(name, source->path, claim == CLAIM_WRITE);
	if (fd < 0)
		return fd;
	err = add_open_file(chain, fd, source, role, name, claim);
	if (err)
		close(fd);
	return err;
}

/*
 * Layers.
 */

static int read_header(struct header *header, const struct image_name *name,
		       int fd)
{
	const char *why = NULL;
	int err;

	err = header_read(fd, header, &why);
	if (err == -EUCLEAN)
		return image_refuse(name, EXIT_IMAGE_INVALID, "%s", why);
	if (err)
		return image_refuse(name, EXIT_OTHER, "cannot be read: %s",
				    strerror(-err));
	return 0;
}

/* The kernel has words for an image that is none, but not for its name. */
static int check_kind(const struct layer *layer)
{
	if (layer->header.kind == HEADER_QCOW2 || !layer->ref.name.referrer)
		return 0;
	return image_refuse(&layer->ref.name, EXIT_IMAGE_INVALID, "%s",
			    layer->header.kind == HEADER_FOREIGN ?
			    "is no qcow2 image, although it should be one" :
			    "has no valid qcow2 header");
}

static char *json_name(const struct source *image, const char *option)
{
	const int style = JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
	struct json_object *node;
	char *name;

	json_object_object_get_ex(image->node, option, &node);
	if (asprintf(&name, "json:%s",
		     json_object_to_json_string_ext(node, style)) < 0)
		return NULL;
	return name;
}

/*
 * A file that a layer's header calls @text, if it names one, and QEMU's
 * description of the layer may call otherwise.
 */
static int refer(struct reference *ref, const struct layer *layer,
		 const char *what, const char *option, const char *text)
{
	bool overridden = source_overrides(&layer->ref.source, option);

	*ref = (struct reference) {
		.name.what = what,
		.name.referrer = layer->path,
	};
	if (overridden)
		ref->text = json_name(&layer->ref.source, option);
	else
		ref->text = strdup(text ? text : "");
	ref->name.name = ref->text;
	if (!ref->text)
		return out_of_memory(&layer->ref.name);
	if (!overridden)
		return 0;
	return source_of_override(&ref->source, &ref->name, &layer->ref.source,
				  option);
}

static int find_data_file(struct reference *ref, const struct layer *layer)
{
	int err;

	err = refer(ref, layer, "data file", "data-file",
		    layer->header.data_file);
	if (err || ref->source.path)
		return err;
	if (!ref->text[0] || source_overrides(&layer->ref.source, "data-file"))
		return image_refuse(&layer->ref.name, EXIT_IMAGE_INVALID,
				    "its data is in another file, but no such file is named");
	ref->name.missing = "no such file in the current directory, where QEMU looks for it too";
	if (ref->text[0] == '/')
		ref->name.missing = NULL;
	return source_of_data(&ref->source, &ref->name);
}

static int add_data_file(struct chain *chain, const struct layer *layer,
			 const struct chain_options *options)
{
	struct reference ref;
	int err;

	if (!layer->header.has_data_file)
		return 0;
	err = find_data_file(&ref, layer);
	err = err ? err : add_file(chain, &ref.source, QCOW2_ROLE_DATA,
				   &ref.name, options);
	forget(&ref);
	return err;
}

/* The kernel takes another backing file than is named, but not one or none. */
static int check_override(const struct reference *ref,
			  const struct layer *layer)
{
	if (!ref->source.path == !layer->header.backing)
		return 0;
	return image_refuse(&layer->ref.name, EXIT_IMAGE_UNSUPPORTED,
			    ref->source.path ?
			    "is described with a backing file, but has none" :
			    "is described without a backing file, but has one");
}

/* No path and no error: there is no backing file. */
static int find_backing(struct reference *ref, const struct layer *layer)
{
	int err;

	err = refer(ref, layer, "backing file", "backing",
		    layer->header.backing);
	if (err)
		return err;
	if (source_overrides(&layer->ref.source, "backing"))
		return check_override(ref, layer);
	if (!layer->header.backing)
		return 0;
	ref->name.missing = "no such file; put it there, or name another with 'qemu-img rebase -u -F FORMAT -b BACKING IMAGE'";
	return source_of_backing(&ref->source, &ref->name,
				 layer->header.backing_format,
				 layer->path);
}

static int refuse_unknown_format(const struct image_name *name)
{
	return image_refuse(name, EXIT_IMAGE_UNSUPPORTED,
			    "its format is not named; name it with 'qemu-img rebase -u -F FORMAT -b BACKING IMAGE', or use --probe-backing if you trust whoever could write to it");
}

/* Let the file say what it is, which the user has allowed. */
static int probe(struct source *source, const struct image_name *name)
{
	struct header header;
	int fd, err;

	fd = image_open(name, source->path, false);
	if (fd < 0)
		return fd;
	err = read_header(&header, name, fd);
	close(fd);
	source->format = header.kind == HEADER_FOREIGN ? SOURCE_RAW
						       : SOURCE_QCOW2;
	header_free(&header);
	return err;
}

static int add_backing(struct chain *chain, struct reference *ref,
		       const struct chain_options *options)
{
	int err = 0;

	if (ref->source.format == SOURCE_UNKNOWN)
		err = options->probe ? probe(&ref->source, &ref->name)
				     : refuse_unknown_format(&ref->name);
	return err ? err : add_file(chain, &ref->source, QCOW2_ROLE_LAYER,
				    &ref->name, options);
}

/*
 * Go from a layer, the last file of the chain, to its backing file.  Returns 1
 * if there is one, 0 at the end of the chain.
 */
static int step(struct chain *chain, struct layer *layer,
		struct reference *next, const struct chain_options *options)
{
	int fd = chain->files[chain->nr - 1].fd;
	int err;

	layer->path = chain->paths[chain->nr - 1];
	if (layer->ref.source.format != SOURCE_QCOW2)
		return 0;
	err = read_header(&layer->header, &layer->ref.name, fd);
	err = err ? err : check_kind(layer);
	if (err || layer->header.kind != HEADER_QCOW2)
		return err;
	err = add_data_file(chain, layer, options);
	err = err ? err : find_backing(next, layer);
	if (err || !next->source.path)
		return err;
	err = add_backing(chain, next, options);
	return err ? err : 1;
}

/* Go to the end; takes over @layer, the image, which is in the chain. */
static int follow(struct chain *chain, struct layer *layer,
		  const struct chain_options *options)
{
	struct reference next = {};
	int more;

	while ((more = step(chain, layer, &next, options)) > 0) {
		leave(layer);
		layer->ref = next;
		next = (struct reference) {};
	}
	forget(&next);
	leave(layer);
	return more;
}

int chain_open(struct chain *chain, const char *image,
	       const struct chain_options *options)
{
	struct layer layer = {
		.ref.source = { .path = strdup(image), .format = SOURCE_QCOW2 },
		.ref.name = { .name = image },
	};
	int err;

	*chain = (struct chain) {};
	if (!layer.ref.source.path)
		return out_of_memory(&layer.ref.name);
	err = add_file(chain, &layer.ref.source, QCOW2_ROLE_LAYER,
		       &layer.ref.name, options);
	if (!err)
		return follow(chain, &layer, options);
	leave(&layer);
	return err;
}

void chain_close(struct chain *chain)
{
	for (unsigned int i = 0; i < chain->nr; i++) {
		close(chain->files[i].fd);
		free(chain->paths[i]);
	}
	free(chain->files);
	free(chain->identities);
	free(chain->paths);
	*chain = (struct chain) {};
}
