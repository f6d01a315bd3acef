/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The fuzzer: running an input, and changing one.
 */
#ifndef _FUZZ_H
#define _FUZZ_H

#include <linux/types.h>

/**
 * struct fuzz_stats - what became of the inputs
 * @runs: how many there were
 * @refused: neither to be written nor to be read
 * @read_only: opened to be read only
 * @read_write: opened to be written
 * @sound: of them those that were sound, and small
 * @failed: that failed while they were used
 * @operations: guest operations
 * @operations_ok: that succeeded
 */
struct fuzz_stats {
	u64 runs;
	u64 refused;
	u64 read_only;
	u64 read_write;
	u64 sound;
	u64 failed;
	u64 operations;
	u64 operations_ok;
};

extern struct fuzz_stats fuzz_stats;
/* Says what is done. */
extern bool fuzz_verbose;
/* Files to which the image is written, as it was and as it became; or NULL. */
extern const char *fuzz_image_path, *fuzz_result_path;

void fuzz_init(void);
/* Ends the process if anything is wrong. */
void fuzz_one(const u8 *data, size_t bytes);

/* Changes an input; returns its new length, at most @room. */
size_t fuzz_mutate(u8 *data, size_t bytes, size_t room, u32 seed);
/* The image of one input, operations of another. */
size_t fuzz_cross(const u8 *image, size_t image_bytes, const u8 *ops,
		  size_t ops_bytes, u8 *to, size_t room, u32 seed);

#endif
