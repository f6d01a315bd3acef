// SPDX-License-Identifier: GPL-2.0-only
/*
 * Inputs: from bytes, to bytes, and the image that they describe.
 */

#include <linux/kernel.h>
#include <string.h>

#include "recipe.h"

#define HEADER_BYTES	8	/* magic and seed */
#define MAX_DATA	0xffffU

/* Bytes that follow the type of a record, but for data. */
static const u8 fixed_bytes[RECORD_NR_TYPES] = {
	[RECORD_DATA] = 10,
	[RECORD_FILL] = 20,
	[RECORD_SIZE] = 8,
	[RECORD_OP] = 14,
	[RECORD_OPTIONS] = 2,
	[RECORD_FILE] = 1,
	[RECORD_FAULT] = 4,
};

static u64 get_le(const u8 *from, unsigned int bytes)
{
	u64 v = 0;

	while (bytes--)
		v = v << 8 | from[bytes];
	return v;
}

static u8 *put_le(u8 *to, u64 v, unsigned int bytes)
{
	for (; bytes; bytes--, v >>= 8)
		*to++ = v;
	return to;
}

static void decode(struct record *rec, const u8 *from)
{
	switch (rec->type) {
	case RECORD_DATA:
		rec->offset = get_le(from, 8);
		rec->bytes = get_le(from + 8, 2);
		break;
	case RECORD_FILL:
		rec->offset = get_le(from, 8);
		rec->bytes = get_le(from + 8, 4);
		rec->word = get_le(from + 12, 8);
		break;
	case RECORD_SIZE:
		rec->offset = get_le(from, 8);
		break;
	case RECORD_OP:
		rec->what = from[0] % RECIPE_NR_OPS;
		rec->flags = from[1];
		rec->offset = get_le(from + 2, 8);
		rec->bytes = get_le(from + 10, 4);
		break;
	case RECORD_OPTIONS:
		rec->offset = get_le(from, 2) & RECIPE_ALL_OPTIONS;
		break;
	case RECORD_FILE:
		rec->what = from[0] % RECIPE_NR_FILES;
		break;
	case RECORD_FAULT:
		rec->what = from[0] % RECIPE_NR_FAULTS;
		rec->offset = get_le(from + 1, 2);
		rec->flags = from[3];
		break;
	}
}

static u8 *encode(u8 *to, const struct record *rec)
{
	*to++ = rec->type;
	switch (rec->type) {
	case RECORD_DATA:
		to = put_le(to, rec->offset, 8);
		to = put_le(to, rec->bytes, 2);
		memcpy(to, rec->data, rec->bytes);
		return to + rec->bytes;
	case RECORD_FILL:
		to = put_le(to, rec->offset, 8);
		to = put_le(to, rec->bytes, 4);
		return put_le(to, rec->word, 8);
	case RECORD_SIZE:
		return put_le(to, rec->offset, 8);
	case RECORD_OP:
		*to++ = rec->what;
		*to++ = rec->flags;
		to = put_le(to, rec->offset, 8);
		return put_le(to, rec->bytes, 4);
	case RECORD_OPTIONS:
		return put_le(to, rec->offset, 2);
	case RECORD_FILE:
		*to++ = rec->what;
		return to;
	case RECORD_FAULT:
		*to++ = rec->what;
		to = put_le(to, rec->offset, 2);
		*to++ = rec->flags;
		return to;
	}
	return to;
}

static struct record *add_record(struct recipe *r, enum record_type type)
{
	struct record *rec;

	if (r->nr == RECIPE_MAX_RECORDS)
		return NULL;
	rec = &r->records[r->nr++];
	memset(rec, 0, sizeof(*rec));
	rec->type = type;
	return rec;
}

/* Of an image the pages that are not empty. */
static bool parse_image(struct recipe *r, u8 *buf, size_t bytes)
{
	size_t pos, n;
	struct record *rec;

	r->raw = true;
	rec = add_record(r, RECORD_SIZE);
	rec->offset = bytes;
	for (pos = 0; pos < bytes; pos += n) {
		n = min(bytes - pos, (size_t)32768);
		if (!buf[pos] && !memcmp(buf + pos, buf + pos + 1, n - 1))
			continue;
		rec = add_record(r, RECORD_DATA);
		if (!rec)
			break;
		rec->offset = pos;
		rec->bytes = n;
		rec->data = buf + pos;
	}
	return true;
}

bool recipe_parse(struct recipe *r, u8 *buf, size_t bytes)
{
	size_t pos = HEADER_BYTES;

	r->nr = 0;
	r->seed = 1;
	r->raw = false;
	if (bytes >= 4 && !memcmp(buf, "QFI\xfb", 4))
		return parse_image(r, buf, bytes);
	if (bytes < HEADER_BYTES || memcmp(buf, RECIPE_MAGIC, 4))
		return false;
	r->seed = get_le(buf + 4, 4);
	while (pos < bytes && buf[pos] && buf[pos] < RECORD_NR_TYPES) {
		enum record_type type = buf[pos++];
		struct record *rec;

		if (bytes - pos < fixed_bytes[type])
			break;
		rec = add_record(r, type);
		if (!rec)
			break;
		decode(rec, buf + pos);
		pos += fixed_bytes[type];
		if (type != RECORD_DATA)
			continue;
		rec->data = buf + pos;
		rec->bytes = min_t(size_t, rec->bytes, bytes - pos);
		pos += rec->bytes;
	}
	return true;
}

size_t recipe_print(const struct recipe *r, u8 *to, size_t bytes)
{
	u8 *pos = to, *end = to + bytes;
	unsigned int i;

	if (bytes < HEADER_BYTES)
		return 0;
	memcpy(pos, RECIPE_MAGIC, 4);
	pos = put_le(pos + 4, r->seed, 4);
	for (i = 0; i < r->nr; i++) {
		const struct record *rec = &r->records[i];
		size_t n = 1 + fixed_bytes[rec->type] +
			   (rec->type == RECORD_DATA ? rec->bytes : 0);

		if (rec->type && n <= end - pos)
			pos = encode(pos, rec);
	}
	return pos - to;
}

/*
 * The image.
 */

static void take_data(const struct record *rec, u64 offset, u8 *to,
		      size_t bytes)
{
	u64 from = max(rec->offset, offset);
	u64 end = min(rec->offset + rec->bytes, offset + bytes);
	u64 pos;

	if (from >= end)
		return;
	if (rec->type == RECORD_DATA) {
		memcpy(to + (from - offset), rec->data + (from - rec->offset),
		       end - from);
		return;
	}
	for (pos = from; pos < end; pos++)
		to[pos - offset] = rec->word >> (pos - rec->offset) % 8 * 8;
}

void recipe_read(const struct recipe *r, unsigned int file, u64 offset,
		 void *to, size_t bytes)
{
	unsigned int i, now = 0;

	memset(to, 0, bytes);
	if (offset + bytes < offset)
		return;
	for (i = 0; i < r->nr; i++) {
		const struct record *rec = &r->records[i];

		if (rec->type == RECORD_FILE)
			now++;
		if (now == file && (rec->type == RECORD_DATA ||
				    rec->type == RECORD_FILL) &&
		    rec->offset + rec->bytes >= rec->offset)
			take_data(rec, offset, to, bytes);
	}
}

u64 recipe_get(const struct recipe *r, unsigned int file, u64 offset,
	       unsigned int bytes)
{
	u8 buf[8];
	u64 v = 0;
	unsigned int i;

	recipe_read(r, file, offset, buf, bytes);
	for (i = 0; i < bytes; i++)
		v = v << 8 | buf[i];
	return v;
}

u64 recipe_file_bytes(const struct recipe *r, unsigned int file)
{
	unsigned int i, now = 0;
	u64 bytes = 0;

	for (i = 0; i < r->nr; i++) {
		const struct record *rec = &r->records[i];
		u64 end = rec->offset;

		if (rec->type == RECORD_FILE)
			now++;
		if (now != file || rec->type == RECORD_END ||
		    rec->type > RECORD_SIZE)
			continue;
		if (rec->type != RECORD_SIZE)
			end += rec->bytes;
		if (end >= rec->offset)
			bytes = max(bytes, end);
	}
	return bytes;
}

unsigned int recipe_nr_files(const struct recipe *r)
{
	unsigned int i, nr = 1;

	for (i = 0; i < r->nr; i++)
		nr += r->records[i].type == RECORD_FILE;
	return min(nr, (unsigned int)RECIPE_MAX_FILES);
}

enum recipe_file recipe_file_kind(const struct recipe *r, unsigned int file)
{
	unsigned int i, now = 0;

	for (i = 0; i < r->nr; i++)
		if (r->records[i].type == RECORD_FILE && ++now == file)
			break;
	return i < r->nr ? r->records[i].what : RECIPE_NR_FILES;
}

void recipe_layout(const struct recipe *r, unsigned int file,
		   struct layout *l)
{
	bool v3 = recipe_get(r, file, 4, 4) != 2;

	l->file_bytes = recipe_file_bytes(r, file);
	l->cluster_bits = clamp(recipe_get(r, file, 20, 4), 9U, 21U);
	l->virtual_bytes = recipe_get(r, file, 24, 8);
	l->l1_entries = recipe_get(r, file, 36, 4);
	l->l1_offset = recipe_get(r, file, 40, 8);
	l->reftable_offset = recipe_get(r, file, 48, 8);
	l->reftable_entries = recipe_get(r, file, 56, 4) <<
			      (l->cluster_bits - 3);
	l->nb_snapshots = recipe_get(r, file, 60, 4);
	l->snapshots_offset = recipe_get(r, file, 64, 8);
	l->entry_bytes = v3 && recipe_get(r, file, 72, 8) & 16 ? 16 : 8;
	l->refcount_order = v3 ? recipe_get(r, file, 96, 4) : 4;
	l->refcount_order = min(l->refcount_order, 6U);
	l->header_bytes = v3 ? recipe_get(r, file, 100, 4) : 72;
	l->header_bytes = clamp(l->header_bytes, 72U, 1U << l->cluster_bits);
}
