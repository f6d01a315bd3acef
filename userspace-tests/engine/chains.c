// SPDX-License-Identifier: GPL-2.0-only
/*
 * Backing chains to start from.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "chains.h"
#include "shim.h"

/* Part of the name: to be changed with anything that changes what is made. */
#define GENERATION	1

#define MAX_WRITES	14
#define MAX_WRITE	(1U << 20)

/*
 * What a chain is like.
 */

static u64 choose_size(const struct chain *c, struct shim_random *r, u64 like)
{
	u64 unit = c->aligned ? 4096 : 512;
	u64 bytes = like / 4 + shim_below(r, like + like / 4);

	if (!shim_below(r, 4))
		bytes = like;
	return max(bytes / unit, 1ULL) * unit;
}

static unsigned int choose_cluster_bits(const struct chain *c,
					struct shim_random *r)
{
	unsigned int least = c->aligned ? 12 : 9;

	/* Fewer of the largest ones: there is not much to see. */
	if (shim_below(r, 4))
		return least + shim_below(r, 18 - least);
	return least + shim_below(r, 22 - least);
}

static void choose_layer(struct chain *c, struct shim_random *r, unsigned int i)
{
	struct chain_layer *layer = &c->images[i];
	struct base_options *o = &layer->base;

	layer->raw = i && i == c->nr && shim_below(r, 2);
	o->cluster_bits = choose_cluster_bits(c, r);
	o->version = shim_below(r, 4) ? 3 : 2;
	o->refcount_bits = o->version == 3 ? 1U << shim_below(r, 7) : 16;
	o->extl2 = o->version == 3 && shim_below(r, 2) &&
		   o->cluster_bits >= (c->aligned ? 17 : 14);
	o->lazy = o->version == 3 && !shim_below(r, 4);
	/* qemu-img has the one with a backing file only with the other. */
	o->metadata = o->extl2 && !shim_below(r, 4);
	o->filled = i || shim_below(r, 2);
	o->snapshot = !i && o->refcount_bits > 1 && !shim_below(r, 3);
	/* Parts of compressed clusters are what a discard leaves alone. */
	o->compressed = shim_below(r, 2) && (i || !o->extl2);
	o->zstd = o->compressed && o->version == 3 && shim_below(r, 2);
	if (i)
		o->virtual_bytes = choose_size(c, r,
					       c->images[0].base.virtual_bytes);
	if (layer->raw && !shim_below(r, 3))
		o->virtual_bytes -= shim_below(r, 512);
}

void chain_choose(struct chain *c, u64 seed)
{
	struct shim_random r = { .state = seed ^ 0xc4a1ULL << 40 };
	unsigned int i;

	memset(c, 0, sizeof(*c));
	c->seed = seed;
	c->aligned = !shim_below(&r, 4);
	c->nr = 1 + shim_below(&r, shim_below(&r, 2) ? 3 : CHAIN_MAX_LAYERS);
	c->images[0].base.virtual_bytes =
		choose_size(c, &r, (u64)SZ_256K << shim_below(&r, 4));
	for (i = 0; i <= c->nr; i++)
		choose_layer(c, &r, i);
}

void chain_describe(const struct chain *c, char *text, size_t bytes)
{
	char *end = text + bytes;
	unsigned int i;

	text += snprintf(text, bytes, "chain %llu%s:", c->seed,
			 c->aligned ? ", aligned" : "");
	for (i = 0; i <= c->nr && text < end; i++) {
		const struct base_options *o = &c->images[i].base;
		char name[200];

		base_describe(o, name, sizeof(name));
		if (c->images[i].raw)
			snprintf(name, sizeof(name), "raw-%llu",
				 o->virtual_bytes);
		text += snprintf(text, end - text, " %s", name);
	}
}

/*
 * Making it.
 */

/* Compressible or not, but nowhere the same. */
static int write_noise(struct shim_random *r, const char *path, u64 bytes)
{
	unsigned int alphabet = 2 + shim_below(r, 254);
	unsigned char *buf = must(malloc(bytes + 1));
	FILE *file = fopen(path, "wb");
	int error = !file;
	u64 i;

	for (i = 0; i < bytes; i++)
		buf[i] = 1 + shim_below(r, alphabet);
	if (file) {
		error = fwrite(buf, 1, bytes, file) != bytes;
		error |= !!fclose(file);
	}
	free(buf);
	return error ? -1 : 0;
}

static int create(const struct chain *c, unsigned int i, const char *path)
{
	const struct chain_layer *layer = &c->images[i];
	char options[256], size[32], backing[64];
	const char *argv[20] = { "qemu-img", "create", "-q", "-u", "-f", "qcow2" };
	unsigned int n = 6;

	base_format_options(&layer->base, options, sizeof(options));
	snprintf(size, sizeof(size), "%llu", layer->base.virtual_bytes);
	argv[n++] = "-o";
	argv[n++] = options;
	if (i < c->nr) {
		snprintf(backing, sizeof(backing), "%u.img", i + 1);
		argv[n++] = "-b";
		argv[n++] = backing;
		argv[n++] = "-F";
		argv[n++] = c->images[i + 1].raw ? "raw" : "qcow2";
	}
	argv[n++] = path;
	argv[n++] = size;
	argv[n] = NULL;
	return run_program(argv, false);
}

static void choose_range(const struct base_options *o, struct shim_random *r,
			 bool whole, u64 *offset, u64 *bytes)
{
	u64 unit = whole || shim_below(r, 3) ? 1ULL << o->cluster_bits : 512;

	/* The disk's end counts as a cluster's, also for what is compressed. */
	*offset = shim_below(r, o->virtual_bytes / unit + 1) * unit;
	if (*offset >= o->virtual_bytes)
		*offset = 0;
	*bytes = unit * (1 + shim_below(r, unit == 512 ? 300 : 5));
	if (*bytes > MAX_WRITE)
		*bytes = max(unit, (u64)MAX_WRITE / unit * unit);
	*bytes = min(*bytes, o->virtual_bytes - *offset);
}

/* A command of qemu-io, with a file of data at @data; free() it. */
static char *make_write(const struct base_options *o, struct shim_random *r,
			const char *data)
{
	unsigned int what = shim_below(r, 6);
	bool compressed = o->compressed && what > 2;
	u64 offset, bytes;
	char *text = NULL;
	int n;

	choose_range(o, r, compressed, &offset, &bytes);
	if (what < 2)
		n = asprintf(&text, "write -q -z %s %llu %llu",
			     what ? "-u" : "", offset, bytes);
	else if (write_noise(r, data, bytes))
		return NULL;
	else
		n = asprintf(&text, "write -q %s -s %s %llu %llu",
			     compressed ? "-c" : "", data, offset, bytes);
	return n < 0 ? NULL : text;
}

static int fill(const struct chain_layer *layer, struct shim_random *r,
		const char *path)
{
	const char *argv[5 + 2 * MAX_WRITES] = { "qemu-io", "-f", "qcow2" };
	char *text[MAX_WRITES], data[MAX_WRITES][700];
	unsigned int i, n = 3, nr = 3 + shim_below(r, MAX_WRITES - 3);
	int status;

	for (i = 0; i < nr; i++) {
		snprintf(data[i], sizeof(data[i]), "%s.data%u", path, i);
		text[i] = must(make_write(&layer->base, r, data[i]));
		argv[n++] = "-c";
		argv[n++] = text[i];
	}
	argv[n++] = path;
	argv[n] = NULL;
	/* QEMU does not compress where something is already. */
	status = run_program(argv, layer->base.compressed);
	if (layer->base.compressed && status == 1)
		status = 0;
	for (i = 0; i < nr; i++) {
		unlink(data[i]);
		free(text[i]);
	}
	return status;
}

static int take_snapshot(const char *path)
{
	const char * const argv[] = {
		"qemu-img", "snapshot", "-c", "first", path, NULL
	};

	return run_program(argv, false);
}

static int convert(const struct chain *c, unsigned int i, bool snapshot)
{
	const struct chain_layer *layer = &c->images[i];
	char to[620];
	const char *argv[12] = { "qemu-img", "convert" };
	unsigned int n = 2;

	snprintf(to, sizeof(to), "%s.%s", layer->path,
		 snapshot ? "snapshot" : "content");
	argv[n++] = snapshot ? "-l" : "-f";
	argv[n++] = snapshot ? "snapshot.name=first" :
			       layer->raw ? "raw" : "qcow2";
	argv[n++] = "-O";
	argv[n++] = "raw";
	argv[n++] = layer->path;
	argv[n++] = to;
	argv[n] = NULL;
	return run_program(argv, false);
}

static int make_layer(const struct chain *c, unsigned int i)
{
	const struct chain_layer *layer = &c->images[i];
	struct shim_random r = { .state = c->seed << 8 ^ i ^ 0xf111ULL << 44 };
	const char *path = layer->path;

	if (layer->raw)
		return write_noise(&r, path, layer->base.virtual_bytes) ?:
		       convert(c, i, false);
	if (create(c, i, path) ||
	    (layer->base.filled && fill(layer, &r, path)))
		return -1;
	if (layer->base.snapshot &&
	    (take_snapshot(path) || fill(layer, &r, path) ||
	     convert(c, i, true)))
		return -1;
	return convert(c, i, false);
}

static void name_files(struct chain *c, const char *dir)
{
	unsigned int i;

	for (i = 0; i <= c->nr; i++)
		snprintf(c->images[i].path, sizeof(c->images[i].path),
			 "%s/%u.img", dir, i);
}

static void remove_directory(const char *dir)
{
	const char * const argv[] = { "rm", "-rf", dir, NULL };

	run_program(argv, true);
}

static int make_all(struct chain *c, const char *dir)
{
	unsigned int i = c->nr + 1;

	name_files(c, dir);
	if (mkdir(dir, 0777))
		return -1;
	while (i--)
		if (make_layer(c, i))
			return -1;
	return 0;
}

int chain_make(struct chain *c, const char *dir)
{
	char name[500], made[540];
	int error = 0;

	snprintf(name, sizeof(name), "%s/chain%u-%llu", dir, GENERATION,
		 c->seed);
	snprintf(made, sizeof(made), "%s.%d", name, getpid());
	if (access(name, R_OK)) {
		error = make_all(c, made);
		/* Somebody else may have been faster. */
		if (!error && rename(made, name))
			error = access(name, R_OK);
		remove_directory(made);
	}
	if (error)
		fprintf(stderr, "cannot make %s\n", name);
	name_files(c, name);
	return error;
}

unsigned char *chain_content(const struct chain *c, unsigned int i,
			     bool snapshot, size_t *bytes)
{
	char path[620];

	snprintf(path, sizeof(path), "%s.%s", c->images[i].path,
		 snapshot ? "snapshot" : "content");
	return read_file(path, bytes);
}

int chain_link(const struct chain *c, const char *dir)
{
	char path[600];
	unsigned int i;

	for (i = 1; i <= c->nr; i++) {
		char *target = realpath(c->images[i].path, NULL);
		int error;

		snprintf(path, sizeof(path), "%s/%u.img", dir, i);
		error = !target || symlink(target, path);
		free(target);
		if (error)
			return -1;
	}
	return 0;
}

void chain_unlink(const struct chain *c, const char *dir)
{
	char path[600];
	unsigned int i;

	for (i = 1; i <= c->nr; i++) {
		snprintf(path, sizeof(path), "%s/%u.img", dir, i);
		unlink(path);
	}
}
