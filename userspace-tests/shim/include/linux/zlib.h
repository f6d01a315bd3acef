/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's inflate, over libz (zlib.c): all memory is the caller's.
 */
#ifndef _SHIM_ZLIB_H
#define _SHIM_ZLIB_H

#include <linux/types.h>

#define Z_OK		0
#define Z_STREAM_END	1
#define Z_BUF_ERROR	(-5)
#define Z_FINISH	4
#define MAX_WBITS	15

/**
 * struct kernel_z_stream - a stream, with the members that the kernel's has
 * @next_in: next byte to be read
 * @avail_in: how many there are
 * @next_out: where the next byte goes
 * @avail_out: how many there is room for
 * @workspace: of zlib_inflate_workspacesize() bytes
 */
struct kernel_z_stream {
	const unsigned char *next_in;
	unsigned long avail_in;
	unsigned char *next_out;
	unsigned long avail_out;
	void *workspace;
};

typedef struct kernel_z_stream kernel_z_stream;
#define z_stream kernel_z_stream

int zlib_inflate_workspacesize(void);
int zlib_inflateInit2(struct kernel_z_stream *stream, int window_bits);
int zlib_inflate(struct kernel_z_stream *stream, int flush);
int zlib_inflateEnd(struct kernel_z_stream *stream);

#endif
