/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_SLAB_H
#define _QCOW2_COMPAT_LINUX_SLAB_H

#include "compat_probed.h"
#include_next <linux/slab.h>

/*
 * 7.0 brought the kzalloc_obj() family, and some updates of older series did, a few of
 * them without flags that may be left out.
 */
#ifndef COMPAT_HAS_KZALLOC_OBJ
#undef kzalloc_obj
#define __compat_second(first, second, ...) second
/* With one argument the flags are GFP_KERNEL. */
#define kzalloc_obj(obj, ...) \
	kzalloc(sizeof(obj), __compat_second(obj, ##__VA_ARGS__, GFP_KERNEL))
#endif

#endif /* _QCOW2_COMPAT_LINUX_SLAB_H */
