/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Backing chains to start from, made by QEMU's tools and kept for the next run.
 */
#ifndef _CHAINS_H
#define _CHAINS_H

#include <linux/types.h>

#include "base.h"

#define CHAIN_MAX_LAYERS	8

/**
 * struct chain_layer - an image of a chain
 * @raw: it is the bytes of a disk; only the lowest one
 * @base: how it is made; of a raw one only the size matters, which may be any
 * @path: its file
 */
struct chain_layer {
	bool raw;
	struct base_options base;
	char path[600];
};

/**
 * struct chain - an image and what lies beneath it
 * @seed: of all that is in it
 * @aligned: nothing in it is finer than 4096 bytes
 * @nr: number of layers beneath the image
 * @images: the image, then its layers from the top to the bottom
 */
struct chain {
	u64 seed;
	bool aligned;
	unsigned int nr;
	struct chain_layer images[1 + CHAIN_MAX_LAYERS];
};

/* Random one. */
void chain_choose(struct chain *chain, u64 seed);
/* Makes its files in @dir unless they are there. 0, or it has said why not. */
int chain_make(struct chain *chain, const char *dir);
/*
 * What `qemu-img convert` read from image @i when the chain was made, or from its
 * snapshot; free() it.
 */
unsigned char *chain_content(const struct chain *chain, unsigned int i,
			     bool snapshot, size_t *bytes);
/* Has the names by which the images refer to each other in @dir too. */
int chain_link(const struct chain *chain, const char *dir);
void chain_unlink(const struct chain *chain, const char *dir);
/* One line. */
void chain_describe(const struct chain *chain, char *text, size_t bytes);

#endif
