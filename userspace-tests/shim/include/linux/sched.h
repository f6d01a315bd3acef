/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_SCHED_H
#define _SHIM_SCHED_H

#include <linux/compiler.h>

/* Sleeps for so many ticks of jiffies.h. */
long schedule_timeout_uninterruptible(long ticks);

#endif
