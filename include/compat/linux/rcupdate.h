/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_RCUPDATE_H
#define _QCOW2_COMPAT_LINUX_RCUPDATE_H

#include "compat_probed.h"
#include_next <linux/rcupdate.h>

#ifndef COMPAT_HAS_CALL_RCU_HURRY
/* 6.2 brought lazy callbacks, and this for those that are waited for. */
#define call_rcu_hurry	call_rcu
#endif

#endif
