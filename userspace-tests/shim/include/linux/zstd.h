/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's names for what libzstd has too.
 */
#ifndef _SHIM_ZSTD_H
#define _SHIM_ZSTD_H

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

typedef ZSTD_DCtx zstd_dctx;

#define zstd_is_error(code)		ZSTD_isError(code)
#define zstd_dctx_workspace_bound()	ZSTD_estimateDCtxSize()
#define zstd_init_dctx(workspace, bytes) ZSTD_initStaticDCtx(workspace, bytes)
#define zstd_decompress_dctx(dctx, dst, dst_bytes, src, src_bytes) \
	ZSTD_decompressDCtx(dctx, dst, dst_bytes, src, src_bytes)
#define zstd_find_frame_compressed_size(src, bytes) \
	ZSTD_findFrameCompressedSize(src, bytes)

#endif
