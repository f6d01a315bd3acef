/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_WORKQUEUE_H
#define _QCOW2_COMPAT_LINUX_WORKQUEUE_H

#include "compat_probed.h"
#include_next <linux/workqueue.h>

#ifndef COMPAT_HAS_WQ_PERCPU
/* 6.17 brought a name for what a workqueue is without WQ_UNBOUND: bound to CPUs. */
#define WQ_PERCPU	0
#endif

#endif
