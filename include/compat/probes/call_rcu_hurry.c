// SPDX-License-Identifier: GPL-2.0-only
/* 6.2: for callbacks that are waited for. */
#include <linux/rcupdate.h>

void probe(struct rcu_head *head, rcu_callback_t func)
{
	call_rcu_hurry(head, func);
}
