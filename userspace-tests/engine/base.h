/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Images to start from, made by QEMU's tools and kept for the next run.
 */
#ifndef _BASE_H
#define _BASE_H

#include <linux/types.h>

#include "qcheck.h"

/**
 * struct base_options - how an image is made
 * @cluster_bits: log2 of the cluster size
 * @refcount_bits: width of a refcount
 * @version: 2 or 3
 * @extl2: extended L2 entries
 * @lazy: lazy_refcounts=on
 * @metadata: preallocation=metadata
 * @snapshot: has an internal snapshot
 * @filled: has data, and zero clusters with and without a host cluster
 * @virtual_bytes: size of the disk
 * @compressed: begins as `qemu-img convert -c` of data of all sorts
 * @zstd: compressed clusters are zstd frames; zlib otherwise
 * @data_file: guest data lies in a file of its own, see base_data_path()
 * @raw: that is one with data_file_raw=on; implies @data_file and @metadata
 * @seed: of what it is filled with
 */
struct base_options {
	unsigned int cluster_bits;
	unsigned int refcount_bits;
	unsigned int version;
	bool extl2;
	bool lazy;
	bool metadata;
	bool snapshot;
	bool filled;
	bool compressed;
	bool zstd;
	bool data_file;
	bool raw;
	u64 virtual_bytes;
	u64 seed;
};

/* Random ones, of all that the engine serves. */
void base_choose(struct base_options *options, u64 seed);
void base_describe(const struct base_options *options, char *text,
		   size_t bytes);
/* As `qemu-img create -o` takes them. */
void base_format_options(const struct base_options *options, char *text,
			 size_t bytes);
/* The name of the data file of the image at @path. */
void base_data_path(const char *path, char *data_path, size_t bytes);
/*
 * Makes the image in @dir unless it is there. @path gets its name. At that time
 * our reader is compared with `qemu-img convert`. 0, or it has said why not.
 */
int base_make(const struct base_options *options, const char *dir, char *path,
	      size_t bytes);

/*
 * Does the first snapshot of an image hold what it holds in the image at @path,
 * which this one began as? True if there is none.
 */
bool base_snapshot_is_kept(const char *path, const struct qimg *now);

/*
 * Has the image in @file, whose disk is larger, lie on a raw backing file: its
 * header says so afterwards. Fills @backing with sectors that name themselves.
 */
void base_put_on_backing(unsigned char *file, unsigned int cluster_bits,
			 unsigned char *backing, u64 bytes, u64 seed);

/*
 * Runs a program without a shell; its exit status, -1 if it did not exit.
 * @quiet: throws away what it prints.
 */
int run_program(const char * const argv[], bool quiet);
/* A whole file; free() it. NULL if it cannot be read. */
unsigned char *read_file(const char *path, size_t *bytes);

#endif
