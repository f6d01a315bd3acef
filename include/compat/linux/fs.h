/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_FS_H
#define _QCOW2_COMPAT_LINUX_FS_H

#include_next <linux/fs.h>

/* For shrinker.h, which old kernels include from within. */
#define COMPAT_FS_IS_COMPLETE

#endif /* _QCOW2_COMPAT_LINUX_FS_H */
