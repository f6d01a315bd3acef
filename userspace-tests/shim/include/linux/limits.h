/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_LIMITS_H
#define _SHIM_LIMITS_H

#include_next <linux/limits.h>
#include <limits.h>

#define U8_MAX		((__UINT8_TYPE__)~0U)
#define U16_MAX		((__UINT16_TYPE__)~0U)
#define U32_MAX		(~0U)
#define U64_MAX		(~0ULL)
#define S32_MAX		((int)(~0U >> 1))
#define S64_MAX		((long long)(~0ULL >> 1))

#endif
