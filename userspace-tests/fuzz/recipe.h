/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The fuzzer's input: how to make an image, and what to do with it.
 *
 * An image is mostly holes, so an input does not hold its bytes but a list of
 * pieces of it. That keeps inputs small where clusters are large, and lets an
 * image be as long as 2^62 bytes. A file that begins like a qcow2 image is taken
 * for one, and used in a default way.
 */
#ifndef _RECIPE_H
#define _RECIPE_H

#include <linux/types.h>

#define RECIPE_MAGIC		"QFZ1"
#define RECIPE_MAX_RECORDS	1024
#define RECIPE_MAX_FILES	4

/**
 * enum record_type - what a record of an input is, with what follows its type
 * @RECORD_END: no more records
 * @RECORD_DATA: bytes of the file: u64 offset, u16 length, the bytes
 * @RECORD_FILL: a word again and again: u64 offset, u32 length, u64 word
 * @RECORD_SIZE: length of the file, at least: u64
 * @RECORD_OP: an operation: u8 enum recipe_op, u8 flags, u64 offset, u32 sectors
 * @RECORD_OPTIONS: how to use it: u16 enum recipe_options
 * @RECORD_FILE: from here on another file: u8 enum recipe_file
 * @RECORD_FAULT: an error: u8 enum recipe_fault, u16 how many go well first, u8
 *	how many fail then, 0 for all
 *
 * Numbers are little endian. Later pieces lie over earlier ones.
 */
enum record_type {
	RECORD_END,
	RECORD_DATA,
	RECORD_FILL,
	RECORD_SIZE,
	RECORD_OP,
	RECORD_OPTIONS,
	RECORD_FILE,
	RECORD_FAULT,
	RECORD_NR_TYPES
};

enum recipe_op {
	RECIPE_READ,
	RECIPE_WRITE,
	RECIPE_DISCARD,
	RECIPE_ZEROES,
	RECIPE_FLUSH,
	RECIPE_NR_OPS
};

/* Flags of an operation. */
#define RECIPE_FUA	0x01	/* write: durable when it is done */
#define RECIPE_UNMAP	0x02	/* write zeroes: clusters may be freed */
#define RECIPE_BESIDE	0x04	/* the next one need not wait for it */

enum recipe_options {
	RECIPE_READ_ONLY	= 1 << 0,
	RECIPE_NO_PASS_DISCARD	= 1 << 1,
	RECIPE_NO_UNREF		= 1 << 2,
	RECIPE_SMALL_CACHE	= 1 << 3,
	RECIPE_YIELDS		= 1 << 4,
	RECIPE_ALIGN_4K		= 1 << 5,
	RECIPE_SMALL_FILE	= 1 << 6,	/* no space for growth */
	RECIPE_SNAPSHOT		= 1 << 7,	/* when it is read only */
	RECIPE_ALL_OPTIONS	= 0xff,
};

/**
 * enum recipe_file - what a file is to the one in front of it
 * @RECIPE_BACKING_QCOW2: its backing file
 * @RECIPE_BACKING_RAW: likewise, raw
 * @RECIPE_DATA_FILE: its external data file
 */
enum recipe_file {
	RECIPE_BACKING_QCOW2,
	RECIPE_BACKING_RAW,
	RECIPE_DATA_FILE,
	RECIPE_NR_FILES
};

enum recipe_fault {
	RECIPE_FAULT_READ,
	RECIPE_FAULT_WRITE,
	RECIPE_FAULT_FLUSH,
	RECIPE_FAULT_NO_SPACE,
	RECIPE_FAULT_MEMORY,
	RECIPE_NR_FAULTS
};

/**
 * struct record - a record, decoded
 * @type: enum record_type
 * @what: of an operation, a file or a fault: which one
 * @flags: of an operation; the number that fails of a fault
 * @offset: in bytes; length of a file; how many go well of a fault; options
 * @bytes: length; of an operation in sectors
 * @word: of a fill
 * @data: bytes
 */
struct record {
	u8 type;
	u8 what;
	u8 flags;
	u32 bytes;
	u64 offset;
	u64 word;
	u8 *data;
};

/**
 * struct recipe - an input, decoded
 * @seed: decides what the input leaves open
 * @raw: it was an image, not a list of records
 * @nr: number of records
 * @records: in order
 */
struct recipe {
	u32 seed;
	bool raw;
	unsigned int nr;
	struct record records[RECIPE_MAX_RECORDS];
};

/* Records' data lies in @buf afterwards. False if it is no input. */
bool recipe_parse(struct recipe *r, u8 *buf, size_t bytes);
/* How many bytes of @to were used; what does not fit is left out. */
size_t recipe_print(const struct recipe *r, u8 *to, size_t bytes);

/*
 * A file of a recipe, by its number from 0, as it is in the beginning.
 */

/* A number of @bytes bytes, big endian; holes and what is behind are zeroes. */
u64 recipe_get(const struct recipe *r, unsigned int file, u64 offset,
	       unsigned int bytes);
void recipe_read(const struct recipe *r, unsigned int file, u64 offset,
		 void *to, size_t bytes);
u64 recipe_file_bytes(const struct recipe *r, unsigned int file);
unsigned int recipe_nr_files(const struct recipe *r);
/* Of a file but the first. */
enum recipe_file recipe_file_kind(const struct recipe *r, unsigned int file);

/**
 * struct layout - what a header says, as far as it makes sense
 * @file_bytes: length of the file
 * @virtual_bytes: of the disk
 * @l1_offset: of the active L1 table
 * @reftable_offset: of the refcount table
 * @snapshots_offset: of the snapshot table
 * @cluster_bits: 9 to 21, whatever the header says
 * @entry_bytes: of an L2 entry
 * @refcount_order: 0 to 6, likewise
 * @l1_entries: of the active L1 table
 * @reftable_entries: of the refcount table
 * @nb_snapshots: number of snapshots
 * @header_bytes: length of the header, 72 at least
 */
struct layout {
	u64 file_bytes;
	u64 virtual_bytes;
	u64 l1_offset;
	u64 reftable_offset;
	u64 snapshots_offset;
	u64 reftable_entries;
	u32 cluster_bits;
	u32 entry_bytes;
	u32 refcount_order;
	u32 l1_entries;
	u32 nb_snapshots;
	u32 header_bytes;
};

void recipe_layout(const struct recipe *r, unsigned int file,
		   struct layout *layout);

#endif
