/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_WORKQUEUE_H
#define _QCOW2_COMPAT_LINUX_WORKQUEUE_H

#include <linux/version.h>
#include_next <linux/workqueue.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
/*
 * 6.17 brought a flag for workqueues that are bound to CPUs; before, those were
 * without the one for unbound.  (Where 6.17's was brought back it is defined in
 * an enum, which this hides: without a flag it is bound all the same.)
 */
#define WQ_PERCPU	0
#endif

#endif
