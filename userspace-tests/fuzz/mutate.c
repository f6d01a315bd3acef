// SPDX-License-Identifier: GPL-2.0-only
/*
 * Changes of inputs that know what an image is made of: they put values into its
 * tables that are right, nearly right, or point to where something else is.
 */

#include <linux/kernel.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "recipe.h"
#include "shim.h"

/* libFuzzer's own changes of bytes. */
size_t LLVMFuzzerMutate(u8 *data, size_t bytes, size_t room);

#define COPIED		(1ULL << 63)
#define COMPRESSED	(1ULL << 62)
#define OFFSET		0x00fffffffffffe00ULL

/* With longer tables an input takes so long that the fuzzer gets nowhere. */
#define MAX_TABLE_ENTRIES	65536

static struct recipe recipe, other;
static struct shim_random rnd;
static struct layout lay;
static unsigned int file;

/* New data of records; what does not fit is not changed. */
static u8 arena[SZ_1M];
static size_t arena_used;

static u64 below(u64 n)
{
	return shim_below(&rnd, n);
}

static bool one_in(u64 n)
{
	return !below(n);
}

static u8 *arena_get(size_t bytes)
{
	u8 *p = arena + arena_used;

	if (bytes > sizeof(arena) - arena_used)
		return NULL;
	arena_used += bytes;
	return p;
}

/*
 * Bytes of the image.
 */

static struct record *insert_record(unsigned int at, enum record_type type)
{
	if (recipe.nr == RECIPE_MAX_RECORDS)
		return NULL;
	memmove(&recipe.records[at + 1], &recipe.records[at],
		(recipe.nr++ - at) * sizeof(recipe.records[0]));
	memset(&recipe.records[at], 0, sizeof(recipe.records[0]));
	recipe.records[at].type = type;
	return &recipe.records[at];
}

static void remove_record(unsigned int at)
{
	memmove(&recipe.records[at], &recipe.records[at + 1],
		(--recipe.nr - at) * sizeof(recipe.records[0]));
}

/* Index behind the last record of the file. */
static unsigned int end_of_file(void)
{
	unsigned int i, now = 0;

	for (i = 0; i < recipe.nr; i++)
		if (recipe.records[i].type == RECORD_FILE && now++ == file)
			break;
	return i;
}

/* The last piece that has these bytes, if no other one has part of them. */
static struct record *find_piece(u64 offset, unsigned int bytes)
{
	unsigned int i = end_of_file();

	while (i--) {
		struct record *rec = &recipe.records[i];

		if (rec->type == RECORD_FILE)
			break;
		if ((rec->type != RECORD_DATA && rec->type != RECORD_FILL) ||
		    rec->offset >= offset + bytes ||
		    rec->offset + rec->bytes <= offset)
			continue;
		if (rec->type == RECORD_DATA && rec->offset <= offset &&
		    rec->offset + rec->bytes >= offset + bytes)
			return rec;
		break;
	}
	return NULL;
}

static void put(u64 offset, u64 value, unsigned int bytes)
{
	struct record *rec = find_piece(offset, bytes);
	u8 *to;

	if (!rec) {
		rec = insert_record(end_of_file(), RECORD_DATA);
		if (!rec)
			return;
		rec->offset = offset;
		rec->data = arena_get(bytes);
		if (!rec->data)
			return;
		rec->bytes = bytes;
	}
	to = rec->data + (offset - rec->offset);
	while (bytes--) {
		to[bytes] = value;
		value >>= 8;
	}
}

static u64 get(u64 offset, unsigned int bytes)
{
	return recipe_get(&recipe, file, offset, bytes);
}

/*
 * Values.
 */

static u64 cluster_bytes(void)
{
	return 1ULL << lay.cluster_bits;
}

static u64 l2_entries(void)
{
	return cluster_bytes() / lay.entry_bytes;
}

/* Of the entries one that is set, if one of those looked at is. */
static u64 choose_entry(u64 table, u64 entries, unsigned int entry_bytes)
{
	u64 index = 0;
	int i;

	entries = clamp(entries, 1ULL, 1ULL << 22);
	for (i = 0; i < 12; i++) {
		index = i < 8 ? below(min(entries, 1ULL << below(12))) :
				below(entries);
		if (get(table + index * entry_bytes, 8) && !one_in(4))
			break;
	}
	return table + index * entry_bytes;
}

static u64 choose_l2_table(void)
{
	return get(choose_entry(lay.l1_offset, lay.l1_entries, 8), 8) & OFFSET;
}

static u64 choose_refblock(void)
{
	return get(choose_entry(lay.reftable_offset, lay.reftable_entries, 8),
		   8) & ~511ULL;
}

static u64 choose_l2_entry(void)
{
	return choose_entry(choose_l2_table(), l2_entries(), lay.entry_bytes);
}

/* Where something is, or could be. */
static u64 choose_place(void)
{
	switch (below(14)) {
	case 0:
		return 0;
	case 1:
		return lay.l1_offset;
	case 2:
		return lay.reftable_offset;
	case 3:
		return lay.snapshots_offset;
	case 4:
	case 5:
		return choose_l2_table();
	case 6:
		return choose_refblock();
	case 7:
		return get(choose_l2_entry(), 8) & OFFSET;
	case 8:
		return round_up(lay.file_bytes, cluster_bytes());
	case 9:
		return round_up(lay.file_bytes, cluster_bytes()) +
		       (below(64) << lay.cluster_bits);
	case 10:
		return get(lay.snapshots_offset, 8);
	case 11:
		return (1ULL << (9 + below(55))) - (one_in(2) ?
						    cluster_bytes() : 0);
	case 12:
		/* Where the next refcount block will come to lie. */
		return (1 + below(4)) << (2 * lay.cluster_bits + 3 -
					  lay.refcount_order);
	default:
		return below(lay.file_bytes / cluster_bytes() + 2)
		       << lay.cluster_bits;
	}
}

static u64 choose_number(u64 now, unsigned int bytes)
{
	u64 top = bytes == 8 ? ~0ULL : (1ULL << (8 * bytes)) - 1;

	switch (below(9)) {
	case 0:
		return below(4);
	case 1:
		return now ^ 1ULL << below(8 * bytes);
	case 2:
		return now + 1 + below(8);
	case 3:
		return now - 1 - below(8);
	case 4:
		return top >> below(8 * bytes);
	case 5:
		return 1ULL << below(8 * bytes);
	case 6:
		return below(256);
	case 7:
		return now << below(8);
	default:
		return now >> below(8);
	}
}

static u64 choose_compressed(void)
{
	unsigned int offset_bits = 62 - (lay.cluster_bits - 8);
	u64 offset = choose_place() + (one_in(2) ? below(4096) : 0);
	u64 sectors = one_in(3) ? ~0ULL : below(1 << below(14));

	return COMPRESSED | (sectors << offset_bits & (COMPRESSED - 1)) |
	       (offset & ((1ULL << offset_bits) - 1)) |
	       (one_in(16) ? COPIED : 0);
}

/* An entry of an L1, L2 or refcount table. */
static u64 choose_pointer(u64 now)
{
	u64 place = choose_place();

	switch (below(10)) {
	case 0:
		return now ^ COPIED;
	case 1:
		return now ^ 1ULL << below(64);
	case 2:
		return place | (512 << below(8));
	case 3:
		return place | (now & COPIED) | 1;
	case 4:
		return 0;
	case 5:
		return one_in(2) ? 1 : COPIED;
	case 6:
		return place;
	default:
		return place | COPIED;
	}
}

/*
 * Changes.
 */

static void change_header(void)
{
	static const struct {
		u8 offset, bytes, kind;
	} fields[] = {
		{ 4, 4, 0 }, { 8, 8, 0 }, { 16, 4, 0 }, { 20, 4, 2 },
		{ 24, 8, 0 }, { 32, 4, 0 }, { 36, 4, 0 }, { 40, 8, 1 },
		{ 48, 8, 1 }, { 56, 4, 0 }, { 60, 4, 0 }, { 64, 8, 1 },
		{ 72, 8, 3 }, { 80, 8, 3 }, { 88, 8, 3 }, { 96, 4, 2 },
		{ 100, 4, 0 }, { 104, 1, 2 }, { 105, 1, 0 },
	};
	unsigned int i = below(ARRAY_SIZE(fields));
	u64 now = get(fields[i].offset, fields[i].bytes);
	u64 value;

	if (fields[i].kind == 1 && !one_in(4))
		value = choose_place();
	else if (fields[i].kind == 2 && !one_in(4))
		value = below(23);
	else if (fields[i].kind == 3)
		value = now ^ 1ULL << below(one_in(8) ? 64 : 5);
	else
		value = choose_number(now, fields[i].bytes);
	/* Most of what is too long only takes long. */
	if ((fields[i].offset == 36 || fields[i].offset == 60) &&
	    value > MAX_TABLE_ENTRIES && !one_in(64))
		value %= MAX_TABLE_ENTRIES;
	if (fields[i].offset == 56 && !one_in(64))
		value %= 1 + (MAX_TABLE_ENTRIES * 8 >> lay.cluster_bits);
	put(fields[i].offset, value, fields[i].bytes);
}

static void change_extension(void)
{
	static const u32 types[] = {
		0, 0xe2792aca, 0x6803f857, 0x23852875, 0x0537be77, 0x44415441,
	};
	u64 pos = lay.header_bytes, skip = below(4);
	u64 bytes;

	while (skip-- && pos < cluster_bytes()) {
		bytes = get(pos + 4, 4);
		if (!get(pos, 4) || bytes > cluster_bytes())
			break;
		pos += 8 + round_up(bytes, 8);
	}
	switch (below(4)) {
	case 0:
		put(pos, types[below(ARRAY_SIZE(types))], 4);
		break;
	case 1:
		put(pos + 4, choose_number(get(pos + 4, 4), 4), 4);
		break;
	case 2:
		put(pos + 8 + below(64), below(256), 1);
		break;
	default:
		put(pos, types[below(ARRAY_SIZE(types))], 4);
		put(pos + 4, below(4096), 4);
	}
}

static void change_backing_name(void)
{
	static const char * const names[] = {
		"base", "\033[2J", "a\nb", "json:{", "/dev/zero", "\xff\xfe",
	};
	const char *name = names[below(ARRAY_SIZE(names))];
	u64 offset = one_in(2) ? cluster_bytes() - below(16) :
		     lay.header_bytes + 8 + below(256);
	unsigned int i;

	put(8, offset, 8);
	put(16, one_in(2) ? strlen(name) : below(2048), 4);
	for (i = 0; name[i]; i++)
		put(offset + i, name[i], 1);
}

static void change_l1(void)
{
	u64 pos = choose_entry(lay.l1_offset, lay.l1_entries, 8);

	put(pos, choose_pointer(get(pos, 8)), 8);
}

static void change_l2(void)
{
	u64 pos = choose_l2_entry();

	put(pos, one_in(5) ? choose_compressed() :
			     choose_pointer(get(pos, 8)), 8);
}

static void change_bitmap(void)
{
	u64 pos = choose_l2_entry() + 8;
	u64 now = get(pos, 8), bit = below(32);

	switch (below(4)) {
	case 0:
		now ^= 1ULL << below(64);
		break;
	case 1:
		now |= 1ULL << bit | 1ULL << (bit + 32);
		break;
	case 2:
		now = shim_random(&rnd);
		break;
	default:
		now = one_in(2) ? 0xffffffff : 0xffffffffULL << 32;
	}
	put(pos, now, 8);
}

static void change_reftable(void)
{
	u64 pos = choose_entry(lay.reftable_offset, lay.reftable_entries, 8);

	put(pos, choose_pointer(get(pos, 8)) & ~COPIED, 8);
}

/* Of a cluster that is in use, or another one of the first. */
static void change_refcount(void)
{
	u64 cluster = choose_place() >> lay.cluster_bits;
	u64 per_block = cluster_bytes() * 8 >> lay.refcount_order;
	u64 block = get(lay.reftable_offset + cluster / per_block * 8, 8);
	u64 bit = (cluster % per_block) << lay.refcount_order;
	u64 pos = (block & ~511ULL) + bit / 8;
	unsigned int bytes = max(1U, (1U << lay.refcount_order) / 8);

	put(pos, one_in(2) ? below(3) : choose_number(get(pos, bytes), bytes),
	    bytes);
}

static void change_snapshot(void)
{
	static const struct {
		u8 offset, bytes;
	} fields[] = {
		{ 0, 8 }, { 8, 4 }, { 12, 2 }, { 14, 2 }, { 32, 4 }, { 36, 4 },
		{ 40, 8 }, { 48, 8 },
	};
	u64 pos = lay.snapshots_offset, skip = below(3);
	unsigned int i = below(ARRAY_SIZE(fields));

	while (skip--)
		pos = round_up(pos + 40 + get(pos + 36, 4) +
			       get(pos + 12, 2) + get(pos + 14, 2), 8);
	pos += fields[i].offset;
	put(pos, !i && !one_in(4) ? choose_place() :
	    choose_number(get(pos, fields[i].bytes), fields[i].bytes),
	    fields[i].bytes);
}

/* The same in two places. */
static void copy_entry(void)
{
	u64 from = one_in(2) ? choose_l2_entry() :
		   choose_entry(lay.l1_offset, lay.l1_entries, 8);
	u64 to = one_in(2) ? choose_l2_entry() :
		 choose_entry(lay.l1_offset, lay.l1_entries, 8);

	put(to, get(from, 8), 8);
}

static void change_size(void)
{
	unsigned int i;
	u64 bytes = lay.file_bytes;

	switch (below(4)) {
	case 0:
		bytes = below(bytes + 1);
		break;
	case 1:
		bytes += below(1 << 20);
		break;
	case 2:
		bytes = round_down(bytes, cluster_bytes()) + below(1024);
		break;
	default:
		bytes = 1ULL << below(60);
	}
	for (i = 0; i < recipe.nr; i++)
		if (recipe.records[i].type == RECORD_SIZE && !file) {
			recipe.records[i].offset = bytes;
			return;
		}
}

/* Bytes of data; or a piece is cut, or gone. */
static void change_piece(void)
{
	struct record *rec;
	unsigned int i = below(recipe.nr + 1);
	size_t n;
	u8 *data;

	if (i == recipe.nr)
		return;
	rec = &recipe.records[i];
	if (rec->type == RECORD_FILL) {
		rec->word = choose_number(rec->word, 8);
		return;
	}
	if (rec->type != RECORD_DATA)
		return;
	if (one_in(16)) {
		remove_record(i);
		return;
	}
	n = min(rec->bytes + 64, 0xffffU);
	data = arena_get(n);
	if (!data)
		return;
	memcpy(data, rec->data, rec->bytes);
	rec->bytes = LLVMFuzzerMutate(data, rec->bytes, n);
	rec->data = data;
}

/*
 * Operations.
 */

static u64 choose_guest_offset(void)
{
	u64 span = l2_entries() << lay.cluster_bits;
	u64 offset;

	switch (below(4)) {
	case 0:
		offset = lay.virtual_bytes - below(1 << 16);
		break;
	case 1:
		offset = below(lay.l1_entries + 1ULL) * span;
		break;
	default:
		offset = below(1ULL << below(7)) << lay.cluster_bits;
	}
	return offset + (one_in(2) ? 0 : 512 * below(256));
}

static u32 choose_sectors(void)
{
	u32 per_cluster = 1U << (lay.cluster_bits - 9);

	switch (below(4)) {
	case 0:
		return 1 + below(16);
	case 1:
		return 1 + below(4 * per_cluster);
	case 2:
		return per_cluster << below(8);
	default:
		return per_cluster;
	}
}

static void fill_op(struct record *rec)
{
	rec->what = below(RECIPE_NR_OPS + 1) % RECIPE_NR_OPS;
	if (one_in(3))
		rec->what = RECIPE_WRITE;
	rec->flags = below(8);
	rec->offset = choose_guest_offset();
	rec->bytes = choose_sectors();
}

static void change_ops(void)
{
	struct record *rec;
	unsigned int i, n = 1 + below(4);

	while (n--) {
		i = below(recipe.nr + 1);
		if (i < recipe.nr && recipe.records[i].type == RECORD_OP &&
		    one_in(2)) {
			rec = &recipe.records[i];
			switch (below(4)) {
			case 0:
				remove_record(i);
				break;
			case 1:
				rec->offset = choose_guest_offset();
				break;
			case 2:
				rec->bytes = choose_sectors();
				break;
			default:
				rec->what = below(RECIPE_NR_OPS);
				rec->flags = below(8);
			}
			continue;
		}
		rec = insert_record(recipe.nr, RECORD_OP);
		if (rec)
			fill_op(rec);
	}
}

static struct record *find_record(enum record_type type)
{
	unsigned int i;

	for (i = 0; i < recipe.nr; i++)
		if (recipe.records[i].type == type)
			return &recipe.records[i];
	return insert_record(recipe.nr, type);
}

static void change_options(void)
{
	struct record *rec = find_record(RECORD_OPTIONS);

	if (rec)
		rec->offset ^= 1ULL << below(8);
}

static void change_fault(void)
{
	struct record *rec = find_record(RECORD_FAULT);

	if (!rec)
		return;
	if (one_in(4)) {
		remove_record(rec - recipe.records);
		return;
	}
	rec->what = below(RECIPE_NR_FAULTS);
	rec->offset = below(1ULL << below(12));
	rec->flags = below(1ULL << below(8));
}

static void change_seed(void)
{
	recipe.seed = shim_random(&rnd);
}

static const struct {
	void (*change)(void);
	unsigned int weight;
} changes[] = {
	{ change_header, 8 },
	{ change_extension, 2 },
	{ change_backing_name, 1 },
	{ change_l1, 8 },
	{ change_l2, 14 },
	{ change_bitmap, 5 },
	{ change_reftable, 6 },
	{ change_refcount, 10 },
	{ change_snapshot, 4 },
	{ copy_entry, 6 },
	{ change_size, 3 },
	{ change_piece, 6 },
	{ change_ops, 16 },
	{ change_options, 3 },
	{ change_fault, 2 },
	{ change_seed, 2 },
};

/* Those from here on leave the image as it is. */
#define FIRST_OF_USE	(ARRAY_SIZE(changes) - 4)

static void change_once(unsigned int first)
{
	unsigned int i, n, all = 0;

	for (i = first; i < ARRAY_SIZE(changes); i++)
		all += changes[i].weight;
	n = below(all);
	for (i = first; n >= changes[i].weight; i++)
		n -= changes[i].weight;
	file = below(recipe_nr_files(&recipe));
	recipe_layout(&recipe, file, &lay);
	lay.file_bytes = min(lay.file_bytes, 1ULL << 56);
	changes[i].change();
}

size_t fuzz_mutate(u8 *data, size_t bytes, size_t room, u32 seed)
{
	unsigned int n, first;
	u8 *from;

	rnd.state = seed;
	arena_used = 0;
	from = arena_get(bytes);
	if (!from || bytes < 8)
		return LLVMFuzzerMutate(data, bytes, room);
	memcpy(from, data, bytes);
	if (!recipe_parse(&recipe, from, bytes))
		return LLVMFuzzerMutate(data, bytes, room);
	first = one_in(3) ? FIRST_OF_USE : 0;
	for (n = 1 + below(1 << below(4)); n; n--)
		change_once(first);
	return recipe_print(&recipe, data, room);
}

size_t fuzz_cross(const u8 *image, size_t image_bytes, const u8 *ops,
		  size_t ops_bytes, u8 *to, size_t room, u32 seed)
{
	u8 *one, *two;
	unsigned int i, n = 0;

	rnd.state = seed;
	arena_used = 0;
	one = arena_get(image_bytes);
	two = arena_get(ops_bytes);
	if (!one || !two)
		return 0;
	memcpy(one, image, image_bytes);
	memcpy(two, ops, ops_bytes);
	if (!recipe_parse(&recipe, one, image_bytes) ||
	    !recipe_parse(&other, two, ops_bytes))
		return 0;
	for (i = 0; i < recipe.nr; i++)
		if (recipe.records[i].type != RECORD_OP)
			recipe.records[n++] = recipe.records[i];
	recipe.nr = n;
	for (i = 0; i < other.nr && recipe.nr < RECIPE_MAX_RECORDS; i++)
		if (other.records[i].type == RECORD_OP)
			recipe.records[recipe.nr++] = other.records[i];
	return recipe_print(&recipe, to, room);
}
