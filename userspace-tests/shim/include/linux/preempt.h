/* SPDX-License-Identifier: GPL-2.0-only */
/* A thread may be switched from at any time here, which only makes readers spin longer. */
#ifndef _SHIM_PREEMPT_H
#define _SHIM_PREEMPT_H

#define preempt_disable()	barrier()
#define preempt_enable()	barrier()
#define in_task()		true

#endif
