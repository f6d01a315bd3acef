// SPDX-License-Identifier: GPL-2.0-only
/*
 * The part of a qcow2 header that says which other files belong to an image.
 *
 * Images come from strangers: each length is checked before it is used, and no
 * more than one cluster, the largest being 2 MiB, is ever read.
 */
#include <endian.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "header.h"

#define MAGIC			0x514649fb

#define CLUSTER_BITS_MIN	9
#define CLUSTER_BITS_MAX	21

/* Offsets of fields of the header. */
#define AT_VERSION		4
#define AT_BACKING_OFFSET	8
#define AT_BACKING_SIZE		16
#define AT_CLUSTER_BITS		20
#define AT_INCOMPATIBLE		72
#define AT_HEADER_LENGTH	100

/* What version 2 always has, and version 3 at least. */
#define V2_BYTES		72
#define V3_BYTES		104

#define INCOMPATIBLE_DATA_FILE	(1ULL << 2)

#define EXT_END			0
#define EXT_BACKING_FORMAT	0xe2792aca
#define EXT_DATA_FILE		0x44415441
#define EXT_HEAD_BYTES		8

/* As QEMU has it. */
#define BACKING_FORMAT_MAX	15

/**
 * struct area - the first cluster of an image
 * @bytes: what is in it; zeroes behind the end of the file
 * @size: how many
 */
struct area {
	unsigned char *bytes;
	size_t size;
};

static uint32_t get32(const unsigned char *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return be32toh(value);
}

static uint64_t get64(const unsigned char *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return be64toh(value);
}

/* Read from the start of a file; what lies behind its end stays as it is. */
static int read_start(int fd, unsigned char *bytes, size_t size)
{
	size_t done = 0;
	ssize_t got;

	while (done < size) {
		got = pread(fd, bytes + done, size - done, done);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (!got)
			break;
		done += got;
	}
	return 0;
}

static enum header_kind classify(const unsigned char *head)
{
	uint32_t version = get32(head + AT_VERSION);
	uint32_t cluster_bits = get32(head + AT_CLUSTER_BITS);
	uint32_t length = get32(head + AT_HEADER_LENGTH);

	if (get32(head) != MAGIC)
		return HEADER_FOREIGN;
	if (version != 2 && version != 3)
		return HEADER_INVALID;
	if (cluster_bits < CLUSTER_BITS_MIN || cluster_bits > CLUSTER_BITS_MAX)
		return HEADER_INVALID;
	if (version == 3 && (length < V3_BYTES || length > 1U << cluster_bits))
		return HEADER_INVALID;
	return HEADER_QCOW2;
}

/* The name ends at its first zero byte, if it has one. */
static int copy_text(const unsigned char *bytes, size_t size, char **text)
{
	free(*text);
	*text = strndup((const char *)bytes, size);
	return *text ? 0 : -ENOMEM;
}

static int take_extension(struct header *header, uint32_t type,
			  const unsigned char *bytes, uint32_t size,
			  const char **why)
{
	switch (type) {
	case EXT_BACKING_FORMAT:
		if (size > BACKING_FORMAT_MAX) {
			*why = "the header extension with the format of the backing file is too long";
			return -EUCLEAN;
		}
		return copy_text(bytes, size, &header->backing_format);
	case EXT_DATA_FILE:
		if (size > HEADER_DATA_FILE_MAX) {
			*why = "the header extension with the name of the data file is too long";
			return -EUCLEAN;
		}
		return copy_text(bytes, size, &header->data_file);
	default:
		return 0;
	}
}

static int take_extensions(struct header *header, const struct area *area,
			   size_t pos, size_t end, const char **why)
{
	uint32_t type, size;
	int err;

	while (pos < end && end - pos >= EXT_HEAD_BYTES) {
		type = get32(area->bytes + pos);
		size = get32(area->bytes + pos + 4);
		pos += EXT_HEAD_BYTES;
		if (type == EXT_END)
			break;
		if (size > end - pos) {
			*why = "a header extension is longer than the room for it";
			return -EUCLEAN;
		}
		err = take_extension(header, type, area->bytes + pos, size, why);
		if (err)
			return err;
		/* At most 7 bytes more than what is known to be there. */
		pos += ((size_t)size + 7) & ~(size_t)7;
	}
	return 0;
}

static int take_backing(struct header *header, const struct area *area,
			const char **why)
{
	uint64_t offset = get64(area->bytes + AT_BACKING_OFFSET);
	uint32_t size = get32(area->bytes + AT_BACKING_SIZE);

	if (!offset)
		return 0;
	if (offset > area->size || size > area->size - offset) {
		*why = "the name of the backing file is outside of the first cluster";
		return -EUCLEAN;
	}
	if (size > HEADER_BACKING_MAX) {
		*why = "the name of the backing file is too long, 1024 bytes or more";
		return -EUCLEAN;
	}
	/* A name without letters is none. */
	if (!size || !area->bytes[offset])
		return 0;
	return copy_text(area->bytes + offset, size, &header->backing);
}

/* The extensions end where the backing file's name begins. */
static size_t extensions_end(const struct area *area)
{
	uint64_t backing = get64(area->bytes + AT_BACKING_OFFSET);

	return backing ? backing : area->size;
}

static int take_references(struct header *header, const struct area *area,
			   const char **why)
{
	size_t begin = V2_BYTES;
	int err;

	header->version = get32(area->bytes + AT_VERSION);
	if (header->version >= 3) {
		begin = get32(area->bytes + AT_HEADER_LENGTH);
		header->has_data_file = get64(area->bytes + AT_INCOMPATIBLE) &
					INCOMPATIBLE_DATA_FILE;
	}
	err = take_backing(header, area, why);
	if (err)
		return err;
	return take_extensions(header, area, begin, extensions_end(area), why);
}

int header_read(int fd, struct header *header, const char **why)
{
	unsigned char head[V3_BYTES] = {};
	struct area area;
	int err;

	*header = (struct header) {};
	err = read_start(fd, head, sizeof(head));
	if (err)
		return err;
	header->kind = classify(head);
	if (header->kind != HEADER_QCOW2)
		return 0;

	area.size = (size_t)1 << get32(head + AT_CLUSTER_BITS);
	area.bytes = calloc(1, area.size);
	if (!area.bytes)
		return -ENOMEM;
	err = read_start(fd, area.bytes, area.size);
	/* Somebody may have written to it since the first look. */
	if (!err && (classify(area.bytes) != HEADER_QCOW2 ||
		     get32(area.bytes + AT_CLUSTER_BITS) !=
		     get32(head + AT_CLUSTER_BITS)))
		err = -EAGAIN;
	if (!err)
		err = take_references(header, &area, why);
	free(area.bytes);
	return err;
}

void header_free(struct header *header)
{
	free(header->backing);
	free(header->backing_format);
	free(header->data_file);
	*header = (struct header) {};
}
