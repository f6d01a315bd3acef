/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_JIFFIES_H
#define _SHIM_JIFFIES_H

#define HZ	1000

unsigned long shim_jiffies(void);
#define jiffies			shim_jiffies()
#define msecs_to_jiffies(ms)	((unsigned long)(ms) * HZ / 1000)
#define jiffies_to_msecs(j)	((unsigned int)((j) * 1000 / HZ))
#define time_after(a, b)	((long)((b) - (a)) < 0)
#define time_before(a, b)	time_after(b, a)

#endif
