// SPDX-License-Identifier: GPL-2.0-only
/*
 * Clusters that are zstd frames.
 */

#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/zstd.h>
#include <kunit/visibility.h>

#include "codec.h"

static size_t workspace_bytes(void)
{
	return zstd_dctx_workspace_bound();
}

/*
 * A cluster is one frame or several, and nothing says where the last one ends
 * in its sector; but each frame can be measured before it is decompressed.  The
 * window is the cluster itself, so none is allocated, whatever a frame says.
 */
static int decompress(void *workspace, const void *src, size_t src_bytes,
		      void *dst, size_t dst_bytes)
{
	zstd_dctx *dctx = zstd_init_dctx(workspace, workspace_bytes());
	size_t frame, made;

	if (!dctx)
		return -EIO;
	while (dst_bytes) {
		frame = zstd_find_frame_compressed_size(src, src_bytes);
		if (zstd_is_error(frame))
			return -EIO;
		made = zstd_decompress_dctx(dctx, dst, dst_bytes, src, frame);
		if (zstd_is_error(made))
			return -EIO;
		src += frame;
		src_bytes -= frame;
		dst += made;
		dst_bytes -= made;
		cond_resched();
	}
	return 0;
}

const struct qcow2_codec qcow2_codec_zstd = {
	.name = "zstd",
	.workspace_bytes = workspace_bytes,
	.decompress = decompress,
};
EXPORT_SYMBOL_IF_KUNIT(qcow2_codec_zstd);
