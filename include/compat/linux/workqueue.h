/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_WORKQUEUE_H
#define _QCOW2_COMPAT_LINUX_WORKQUEUE_H

#include <linux/version.h>
#include_next <linux/workqueue.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 17, 0)
/* 6.17 brought a name for what a workqueue is without WQ_UNBOUND: bound to CPUs. */
#define WQ_PERCPU	0
#endif

#endif
