/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_SCHED_RT_H
#define _SHIM_SCHED_RT_H

#define rt_task(task)	((void)(task), false)

#endif
