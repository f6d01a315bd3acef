/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How the data of compressed clusters is decompressed.
 */
#ifndef _QCOW2_CODEC_H
#define _QCOW2_CODEC_H

#include <linux/types.h>

/**
 * struct qcow2_codec - a compression type
 * @name: for messages
 * @workspace_bytes: size of the memory that @decompress works in
 * @decompress: makes @dst_bytes bytes of the stream at @src, no more and no
 *	less; what follows the stream, up to @src_bytes, is not looked at.  0,
 *	or -EIO for any other stream.  Allocates nothing, does not trust the
 *	stream in anything.
 */
struct qcow2_codec {
	const char *name;
	size_t (*workspace_bytes)(void);
	int (*decompress)(void *workspace, const void *src, size_t src_bytes,
			  void *dst, size_t dst_bytes);
};

extern const struct qcow2_codec qcow2_codec_zlib;
extern const struct qcow2_codec qcow2_codec_zstd;

#endif /* _QCOW2_CODEC_H */
