/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_SCHED_PRIO_H
#define _SHIM_SCHED_PRIO_H

#define MAX_RT_PRIO	100
#define DEFAULT_PRIO	120

#endif
