/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_SCHED_H
#define _SHIM_SCHED_H

#include <linux/compiler.h>
#include <linux/sched/prio.h>

/* All threads are as one another. */
struct task_struct {
	unsigned int flags;
	int prio;
};

#define PF_IO_WORKER	0x10
#define current		(&(struct task_struct) { .prio = DEFAULT_PRIO })

/* Sleeps for so many ticks of jiffies.h. */
long schedule_timeout_uninterruptible(long ticks);

#endif
