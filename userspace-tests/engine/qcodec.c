// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compressed clusters as QEMU reads them.
 */

#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "qcodec.h"

/* The window that QEMU chooses when it writes; it reads with the same. */
#define WINDOW_BITS	12

/* A stream that goes on behind the cluster is not refused. */
static bool decompress_zlib(const void *src, size_t src_bytes, void *dst,
			    size_t dst_bytes)
{
	z_stream z = {
		.next_in = (unsigned char *)src,
		.avail_in = src_bytes,
		.next_out = dst,
		.avail_out = dst_bytes,
	};
	int ret;

	if (inflateInit2(&z, -WINDOW_BITS) != Z_OK)
		return false;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out;
}

/* Frames until the cluster is full, which must end with it. */
static bool decompress_zstd(const void *src, size_t src_bytes, void *dst,
			    size_t dst_bytes)
{
	ZSTD_inBuffer in = { .src = src, .size = src_bytes };
	ZSTD_outBuffer out = { .dst = dst, .size = dst_bytes };
	ZSTD_DCtx *dctx = ZSTD_createDCtx();
	size_t ret = 0;

	while (dctx && out.pos < out.size) {
		size_t done = in.pos + out.pos;

		ret = ZSTD_decompressStream(dctx, &out, &in);
		if (ZSTD_isError(ret) || in.pos + out.pos == done)
			break;
	}
	ZSTD_freeDCtx(dctx);
	return out.pos == out.size && !ret;
}

bool qcodec_decompress(bool zstd, const void *src, size_t src_bytes, void *dst,
		       size_t dst_bytes)
{
	return zstd ? decompress_zstd(src, src_bytes, dst, dst_bytes) :
		      decompress_zlib(src, src_bytes, dst, dst_bytes);
}
