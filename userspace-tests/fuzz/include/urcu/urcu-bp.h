/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What rcu.c needs of liburcu where one fiber runs at a time: nobody is stopped
 * within a read section, so a grace period has always passed.
 */
#ifndef _FUZZ_URCU_BP_H
#define _FUZZ_URCU_BP_H

static inline void urcu_bp_read_lock(void) { }
static inline void urcu_bp_read_unlock(void) { }
static inline void urcu_bp_synchronize_rcu(void) { }

#endif
