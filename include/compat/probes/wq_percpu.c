// SPDX-License-Identifier: GPL-2.0-only
/* 6.17: a name for a workqueue without WQ_UNBOUND. */
#include <linux/workqueue.h>

unsigned int probe = WQ_PERCPU;
