/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_UNALIGNED_H
#define _QCOW2_COMPAT_LINUX_UNALIGNED_H

#include "compat_probed.h"

/* 6.12 moved this header from asm/. */
#ifdef COMPAT_HAS_UNALIGNED_HEADER
#include_next <linux/unaligned.h>
#else
#include <asm/unaligned.h>
#endif

#endif /* _QCOW2_COMPAT_LINUX_UNALIGNED_H */
