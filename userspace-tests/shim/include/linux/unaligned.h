/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_UNALIGNED_H
#define _SHIM_UNALIGNED_H

#include <asm/byteorder.h>
#include <string.h>

#define SHIM_UNALIGNED(order, width) \
static inline u##width get_unaligned_##order##width(const void *from) \
{ \
	u##width v; \
	memcpy(&v, from, sizeof(v)); \
	return order##width##_to_cpu(v); \
} \
static inline void put_unaligned_##order##width(u##width value, void *to) \
{ \
	value = cpu_to_##order##width(value); \
	memcpy(to, &value, sizeof(value)); \
}

SHIM_UNALIGNED(be, 16)
SHIM_UNALIGNED(be, 32)
SHIM_UNALIGNED(be, 64)
SHIM_UNALIGNED(le, 16)
SHIM_UNALIGNED(le, 32)
SHIM_UNALIGNED(le, 64)

#endif
