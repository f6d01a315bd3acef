/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Compressed clusters as QEMU reads them: what it takes, and what it refuses.
 * Shares nothing with the engine.
 */
#ifndef _QCODEC_H
#define _QCODEC_H

#include <stdbool.h>
#include <stddef.h>

/*
 * @src_bytes may be more than the stream has. False if QEMU gives an error.
 */
bool qcodec_decompress(bool zstd, const void *src, size_t src_bytes, void *dst,
		       size_t dst_bytes);

#endif
