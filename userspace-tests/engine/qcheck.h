/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A reader and checker of qcow2 images in memory, written from the
 * specification, which shares nothing with the engine.
 */
#ifndef _QCHECK_H
#define _QCHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * struct qimg - an image
 * @buf: the file
 * @bytes: its length; what is behind reads as zeroes
 * @data: the external data file, see qimg_data_file()
 * @data_bytes: its length, likewise
 * @backing: the bytes of a backing file, or NULL
 * @backing_bytes: its length, likewise
 */
struct qimg {
	const unsigned char *buf;
	size_t bytes;
	const unsigned char *data;
	size_t data_bytes;
	const unsigned char *backing;
	size_t backing_bytes;

	unsigned int version;
	unsigned int cluster_bits;
	uint64_t cluster_bytes;
	unsigned int refcount_bits;
	bool extl2;
	bool zstd;
	bool has_data_file;
	bool raw_data;
	unsigned int entry_bytes;
	uint64_t virtual_bytes;
	uint64_t l1_offset;
	unsigned int l1_entries;
	uint64_t reftable_offset;
	unsigned int reftable_clusters;
	unsigned int nb_snapshots;
	uint64_t snapshots_offset;
	uint64_t incompatible;
};

/**
 * struct qcheck - what qimg_check() found
 * @corruptions: rules broken that `qemu-img check` calls an error
 * @leaks: clusters whose refcount is too high
 * @low: clusters whose refcount is too low; corruptions too unless @dirty
 * @low_shared: those of them that have several references
 * @outside: references to clusters behind the end of the file; corruptions too
 * @dirty: the header says that refcounts may be wrong
 * @corrupt: the header says that the image is corrupt
 * @first: the first corruption, in words
 */
struct qcheck {
	unsigned int corruptions;
	unsigned int leaks;
	unsigned int low;
	unsigned int low_shared;
	unsigned int outside;
	bool dirty;
	bool corrupt;
	char first[256];
};

/* NULL, or why this is no image that the reader knows. */
const char *qimg_open(struct qimg *q, const void *buf, size_t bytes);
/* Likewise of one that lies on a raw backing file, of which these are the bytes. */
const char *qimg_open_on(struct qimg *q, const void *buf, size_t bytes,
			 const void *backing, size_t backing_bytes);
/* Where guest data is read from then, of an image that has it in another file. */
void qimg_data_file(struct qimg *q, const void *data, size_t bytes);
void qimg_check(const struct qimg *q, struct qcheck *result);
/**
 * enum qkind - what a host cluster is used for
 * @QKIND_FREE: nothing
 * @QKIND_DATA: data
 * @QKIND_META: anything else
 */
enum qkind {
	QKIND_FREE,
	QKIND_DATA,
	QKIND_META,
};

/* For each host cluster of the file an enum qkind; free() it. */
unsigned char *qimg_kinds(const struct qimg *q, size_t *nr);
/* The image as the first internal snapshot is; false if there is none. */
bool qimg_snapshot(const struct qimg *q, struct qimg *snapshot);
/* Where in the file the L2 entry of a guest offset is, 0 if nowhere. */
uint64_t qimg_l2_entry(const struct qimg *q, uint64_t offset);
/* Where the cluster is of which an L2 entry says that it is compressed. */
void qimg_compressed_range(const struct qimg *q, uint64_t entry,
			   uint64_t *offset, size_t *bytes);
/* NULL, or why it cannot be read. Within the virtual size. */
const char *qimg_read(const struct qimg *q, uint64_t offset, size_t bytes,
		      void *to);

#endif
