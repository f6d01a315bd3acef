// SPDX-License-Identifier: GPL-2.0-only
/*
 * Images to start from.
 */

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/unaligned.h>

#include "base.h"
#include "shim.h"
#include "workload.h"

extern char **environ;

/* Percentage of images with extended L2 entries, where they can be. */
#define BASE_EXTL2_PERCENT	50

/* Percentage of images that begin with compressed clusters, if they can. */
#define BASE_COMPRESSED_PERCENT	30

#define MIN_CLUSTER_BITS_EXTL2	14
#define MAX_COMMANDS		64

/* The tag of what a backing file holds: no write has so high a number. */
#define BACKING_SEQ		BIT_ULL(40)

int run_program(const char * const argv[], bool quiet)
{
	posix_spawn_file_actions_t actions;
	int status, error;
	pid_t pid;

	posix_spawn_file_actions_init(&actions);
	if (quiet) {
		posix_spawn_file_actions_addopen(&actions, 1, "/dev/null",
						 O_WRONLY, 0);
		posix_spawn_file_actions_adddup2(&actions, 1, 2);
	}
	error = posix_spawnp(&pid, argv[0], &actions, NULL,
			     (char * const *)argv, environ);
	posix_spawn_file_actions_destroy(&actions);
	if (error)
		return -1;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

unsigned char *read_file(const char *path, size_t *bytes)
{
	int fd = open(path, O_RDONLY);
	unsigned char *buf;
	struct stat st;
	size_t done = 0;
	ssize_t n = 1;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) || !(buf = malloc(st.st_size + 1))) {
		close(fd);
		return NULL;
	}
	while (done < (size_t)st.st_size && n > 0) {
		n = read(fd, buf + done, st.st_size - done);
		done += n > 0 ? n : 0;
	}
	close(fd);
	*bytes = done;
	return buf;
}

static u64 choose_size(struct shim_random *r, unsigned int cluster_bits)
{
	u64 max = cluster_bits < 20 ? 4 << 20 : 12 << 20;
	u64 bytes = (max >> 2) + shim_below(r, max - (max >> 2));

	/* Mostly not a whole number of clusters. */
	if (shim_below(r, 3))
		return bytes & ~4095ULL;
	return bytes & ~511ULL;
}

void base_choose(struct base_options *o, u64 seed)
{
	struct shim_random r = { .state = seed };

	memset(o, 0, sizeof(*o));
	o->seed = seed;
	o->cluster_bits = 9 + shim_below(&r, 13);
	o->version = shim_below(&r, 5) ? 3 : 2;
	o->refcount_bits = o->version == 3 ? 1U << shim_below(&r, 7) : 16;
	o->lazy = o->version == 3 && !shim_below(&r, 4);
	o->metadata = !shim_below(&r, 4);
	o->filled = shim_below(&r, 4);
	o->snapshot = o->refcount_bits > 1 && !shim_below(&r, 3);
	o->virtual_bytes = choose_size(&r, o->cluster_bits);
	o->extl2 = o->version == 3 &&
		   o->cluster_bits >= MIN_CLUSTER_BITS_EXTL2 &&
		   shim_below(&r, 100) < BASE_EXTL2_PERCENT;
	o->compressed = !o->metadata &&
			shim_below(&r, 100) < BASE_COMPRESSED_PERCENT;
	/* A snapshot adds one for each cluster that is packed into another. */
	if (o->compressed && o->refcount_bits < 16)
		o->snapshot = false;
	o->zstd = o->compressed && o->version == 3 && shim_below(&r, 2);
}

void base_describe(const struct base_options *o, char *text, size_t bytes)
{
	snprintf(text, bytes, "v%u-c%u-r%u-%llu%s%s%s%s%s%s%s%s-%llu", o->version,
		 o->cluster_bits, o->refcount_bits, o->virtual_bytes,
		 o->extl2 ? "-extl2" : "", o->lazy ? "-lazy" : "",
		 o->metadata ? "-meta" : "", o->snapshot ? "-snap" : "",
		 o->filled ? "-filled" : "", o->compressed ? "-compressed" : "",
		 o->zstd ? "-zstd" : "",
		 o->raw ? "-raw" : o->data_file ? "-data" : "", o->seed);
}

void base_format_options(const struct base_options *o, char *text, size_t bytes)
{
	snprintf(text, bytes, "compat=%s,cluster_size=%u,preallocation=%s%s%s",
		 o->version == 3 ? "1.1" : "0.10", 1U << o->cluster_bits,
		 o->metadata ? "metadata" : "off",
		 o->extl2 ? ",extended_l2=on" : "",
		 o->zstd ? ",compression_type=zstd" : "");
	if (o->version == 3)
		snprintf(text + strlen(text), bytes - strlen(text),
			 ",refcount_bits=%u,lazy_refcounts=%s",
			 o->refcount_bits, o->lazy ? "on" : "off");
}

void base_data_path(const char *path, char *data_path, size_t bytes)
{
	snprintf(data_path, bytes, "%s.data", path);
}

static int create(const struct base_options *o, const char *path)
{
	char options[1000], data[700], size[32];
	const char * const argv[] = {
		"qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path,
		size, NULL
	};

	base_format_options(o, options, sizeof(options));
	base_data_path(path, data, sizeof(data));
	if (o->data_file)
		snprintf(options + strlen(options),
			 sizeof(options) - strlen(options),
			 ",data_file=%s,data_file_raw=%s", data,
			 o->raw ? "on" : "off");
	snprintf(size, sizeof(size), "%llu", o->virtual_bytes);
	return run_program(argv, false);
}

/* From what cannot be compressed to what hardly takes a byte. */
static void make_data(struct shim_random *r, unsigned char *buf, u64 bytes)
{
	unsigned int alphabet = 1 + shim_below(r, 256), repeat = 0;
	u64 pos;

	if (shim_below(r, 2))
		repeat = 1 + shim_below(r, 40000);
	for (pos = 0; pos < bytes; pos++)
		buf[pos] = repeat && pos >= repeat ? buf[pos - repeat] :
						     shim_below(r, alphabet);
}

static int write_raw(const struct base_options *o, struct shim_random *r,
		     const char *path)
{
	u64 cluster = 1ULL << o->cluster_bits, pos, n;
	unsigned char *disk = must(calloc(1, o->virtual_bytes));
	FILE *file = fopen(path, "wb");
	int error = !file;

	for (pos = 0; pos < o->virtual_bytes; pos += n) {
		n = cluster * (1 + shim_below(r, 3)) / (1 + shim_below(r, 3));
		n = n > o->virtual_bytes - pos ? o->virtual_bytes - pos : n;
		if (shim_below(r, 8))
			make_data(r, disk + pos, n);
	}
	if (file) {
		error = fwrite(disk, 1, o->virtual_bytes, file) !=
			o->virtual_bytes;
		error |= fclose(file);
	}
	free(disk);
	return error ? -1 : 0;
}

static int create_compressed(const struct base_options *o,
			     struct shim_random *r, const char *path)
{
	char options[256], raw[700];
	const char * const argv[] = {
		"qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
		options, raw, path, NULL
	};
	int error;

	snprintf(raw, sizeof(raw), "%s.raw", path);
	base_format_options(o, options, sizeof(options));
	error = write_raw(o, r, raw);
	error = error ? error : run_program(argv, false);
	unlink(raw);
	return error;
}

/* A range for qemu-io: most of them whole clusters, some not. */
static void choose_range(const struct base_options *o, struct shim_random *r,
			 u64 *offset, u64 *bytes)
{
	u64 unit = shim_below(r, 4) ? 1ULL << o->cluster_bits : 512;

	if (unit > o->virtual_bytes / 2)
		unit = 512;
	*offset = shim_below(r, o->virtual_bytes / unit) * unit;
	*bytes = unit * (1 + shim_below(r, unit == 512 ? 64 : 6));
	if (*bytes > 2 << 20)
		*bytes = unit;
	if (*bytes > o->virtual_bytes - *offset)
		*bytes = o->virtual_bytes - *offset;
}

static int fill(const struct base_options *o, struct shim_random *r,
		const char *path)
{
	static char text[MAX_COMMANDS][64];
	const char *argv[5 + 2 * MAX_COMMANDS];
	unsigned int i, n = 0, nr = 8 + shim_below(r, 24);

	argv[n++] = "qemu-io";
	argv[n++] = "-f";
	argv[n++] = "qcow2";
	for (i = 0; i < nr; i++) {
		unsigned int what = shim_below(r, 5);
		u64 offset, bytes;

		choose_range(o, r, &offset, &bytes);
		if (what < 2)
			snprintf(text[i], sizeof(text[i]),
				 "write -q -P %u %llu %llu",
				 (unsigned int)(1 + shim_below(r, 255)), offset,
				 bytes);
		else
			snprintf(text[i], sizeof(text[i]),
				 "write -q -z %s %llu %llu",
				 what == 2 ? "-u" : "", offset, bytes);
		argv[n++] = "-c";
		argv[n++] = text[i];
	}
	argv[n++] = path;
	argv[n++] = NULL;
	return run_program(argv, false);
}

static int compare_reader(const struct base_options *o, const char *path)
{
	char raw[700], data_path[700];
	const char * const argv[] = {
		"qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw, NULL
	};
	unsigned char *image, *want, *got = NULL, *data = NULL;
	size_t image_bytes, bytes, data_bytes;
	struct qcheck check;
	struct qimg q;
	const char *why = "qemu-img convert failed";

	snprintf(raw, sizeof(raw), "%s.raw", path);
	if (run_program(argv, false))
		goto out;
	image = read_file(path, &image_bytes);
	want = read_file(raw, &bytes);
	unlink(raw);
	why = qimg_open(&q, image, image_bytes);
	base_data_path(path, data_path, sizeof(data_path));
	if (!why && o->data_file) {
		data = must(read_file(data_path, &data_bytes));
		qimg_data_file(&q, data, data_bytes);
	}
	if (!why) {
		got = malloc(bytes + 1);
		why = qimg_read(&q, 0, bytes, got);
		qimg_check(&q, &check);
	}
	if (!why && (bytes != q.virtual_bytes || memcmp(want, got, bytes)))
		why = "our reader reads something else than qemu-img";
	if (!why && (check.corruptions || check.leaks))
		why = check.corruptions ? check.first : "leaks";
	free(image);
	free(data);
	free(want);
	free(got);
out:
	if (why)
		fprintf(stderr, "%s: %s\n", path, why);
	return why ? -1 : 0;
}

static int make(const struct base_options *o, const char *path)
{
	struct shim_random r = { .state = o->seed ^ 0x6261736564617461ULL };
	const char * const snapshot[] = {
		"qemu-img", "snapshot", "-c", "first", path, NULL
	};

	if (o->compressed ? create_compressed(o, &r, path) : create(o, path))
		return -1;
	if (o->filled && fill(o, &r, path))
		return -1;
	if (o->snapshot && run_program(snapshot, false))
		return -1;
	if (o->snapshot && o->filled && fill(o, &r, path))
		return -1;
	return compare_reader(o, path);
}

bool base_snapshot_is_kept(const char *path, const struct qimg *now)
{
	struct qimg q, old, new;
	size_t bytes;
	unsigned char *file, *was, *is;
	bool kept;

	if (!qimg_snapshot(now, &new))
		return true;
	file = read_file(path, &bytes);
	was = calloc(1, now->virtual_bytes);
	is = calloc(1, now->virtual_bytes);
	kept = file && was && is && !qimg_open(&q, file, bytes) &&
	       qimg_snapshot(&q, &old) &&
	       !qimg_read(&old, 0, now->virtual_bytes, was) &&
	       !qimg_read(&new, 0, now->virtual_bytes, is) &&
	       !memcmp(was, is, now->virtual_bytes);
	free(file);
	free(was);
	free(is);
	return kept;
}

void base_put_on_backing(unsigned char *file, unsigned int cluster_bits,
			 unsigned char *backing, u64 bytes, u64 seed)
{
	/* The name stands in the last byte of the header's cluster. */
	u64 name = (1ULL << cluster_bits) - 1, pos;

	put_unaligned_be64(name, file + 8);
	put_unaligned_be32(1, file + 16);
	file[name] = 'b';
	for (pos = 0; pos < bytes; pos += WL_SECTOR)
		wl_fill_sector(seed, BACKING_SEQ, pos / WL_SECTOR,
			       backing + pos);
}

int base_make(const struct base_options *o, const char *dir, char *path,
	      size_t bytes)
{
	char name[200], work[600], data[700], work_data[700];

	base_describe(o, name, sizeof(name));
	snprintf(path, bytes, "%s/%s.qcow2", dir, name);
	if (!access(path, R_OK))
		return 0;
	snprintf(work, sizeof(work), "%s.%d", path, getpid());
	base_data_path(path, data, sizeof(data));
	base_data_path(work, work_data, sizeof(work_data));
	/* The image last, by which it is seen that both are there. */
	if (make(o, work) || (o->data_file && rename(work_data, data)) ||
	    rename(work, path)) {
		fprintf(stderr, "cannot make %s\n", work);
		return -1;
	}
	return 0;
}
