/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * RCU, from liburcu (rcu.c).
 */
#ifndef _SHIM_RCUPDATE_H
#define _SHIM_RCUPDATE_H

#include <linux/container_of.h>
#include <linux/types.h>

void rcu_read_lock(void);
void rcu_read_unlock(void);
void call_rcu(struct rcu_head *head, void (*func)(struct rcu_head *head));
#define call_rcu_hurry(head, func)	call_rcu(head, func)
void rcu_barrier(void);
void synchronize_rcu(void);
void kfree_rcu_mightsleep(void *ptr);

#define rcu_dereference(p)		smp_load_acquire(&(p))
#define rcu_dereference_check(p, c)	rcu_dereference(p)
#define rcu_dereference_protected(p, c)	READ_ONCE(p)
#define rcu_access_pointer(p)		READ_ONCE(p)
#define rcu_assign_pointer(p, v)	smp_store_release(&(p), v)
#define RCU_INIT_POINTER(p, v)		WRITE_ONCE(p, v)
#define rcu_replace_pointer(p, v, c) ({					\
	__typeof__(p) _old = rcu_dereference_protected(p, c);		\
									\
	rcu_assign_pointer(p, v);					\
	_old;								\
})

#endif
