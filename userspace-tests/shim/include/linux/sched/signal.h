/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_SCHED_SIGNAL_H
#define _SHIM_SCHED_SIGNAL_H

#include <linux/types.h>

#include <linux/sched.h>

/* See shim_kill_after(). */
bool fatal_signal_pending(const void *task);

#endif
