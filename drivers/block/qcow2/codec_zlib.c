// SPDX-License-Identifier: GPL-2.0-only
/*
 * Clusters that are raw deflate streams, which the format calls zlib.
 */

#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/zlib.h>
#include <kunit/visibility.h>

#include "codec.h"

static size_t workspace_bytes(void)
{
	return zlib_inflate_workspacesize();
}

static int decompress(void *workspace, const void *src, size_t src_bytes,
		      void *dst, size_t dst_bytes)
{
	z_stream stream = {
		.workspace = workspace,
		.next_in = src,
		.avail_in = src_bytes,
		.next_out = dst,
		.avail_out = dst_bytes,
	};
	int ret;

	/* QEMU's window is smaller, but other writers need not have that one. */
	if (zlib_inflateInit2(&stream, -MAX_WBITS) != Z_OK)
		return -EIO;
	ret = zlib_inflate(&stream, Z_FINISH);
	zlib_inflateEnd(&stream);
	/* As in QEMU a cluster is whole when it is full, even if the stream goes on. */
	if (ret != Z_STREAM_END && ret != Z_BUF_ERROR)
		return -EIO;
	return stream.avail_out ? -EIO : 0;
}

const struct qcow2_codec qcow2_codec_zlib = {
	.name = "zlib",
	.workspace_bytes = workspace_bytes,
	.decompress = decompress,
};
EXPORT_SYMBOL_IF_KUNIT(qcow2_codec_zlib);
