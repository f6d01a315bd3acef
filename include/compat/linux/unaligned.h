/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_UNALIGNED_H
#define _QCOW2_COMPAT_LINUX_UNALIGNED_H

#include <linux/version.h>

/* 6.12 moved this header from asm/. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#include <asm/unaligned.h>
#else
#include_next <linux/unaligned.h>
#endif

#endif /* _QCOW2_COMPAT_LINUX_UNALIGNED_H */
