/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_PERCPU_REFCOUNT_H
#define _SHIM_PERCPU_REFCOUNT_H

#include <linux/types.h>

struct percpu_ref;
typedef void (percpu_ref_func_t)(struct percpu_ref *ref);

enum {
	PERCPU_REF_INIT_ATOMIC	= 1 << 0,
	PERCPU_REF_INIT_DEAD	= 1 << 1,
	PERCPU_REF_ALLOW_REINIT	= 1 << 2,
};

/**
 * struct percpu_ref - references whose end is waited for
 * @state: twice their number, and 1 when killed
 * @release: told when the last one is gone
 * @rcu: drops the initial reference after a kill
 */
struct percpu_ref {
	u64 state;
	percpu_ref_func_t *release;
	struct rcu_head rcu;
};

int percpu_ref_init(struct percpu_ref *ref, percpu_ref_func_t *release,
		    unsigned int flags, gfp_t gfp);
void percpu_ref_exit(struct percpu_ref *ref);
void percpu_ref_get(struct percpu_ref *ref);
bool percpu_ref_tryget(struct percpu_ref *ref);
bool percpu_ref_tryget_live(struct percpu_ref *ref);
void percpu_ref_put(struct percpu_ref *ref);
void percpu_ref_kill(struct percpu_ref *ref);
void percpu_ref_reinit(struct percpu_ref *ref);
bool percpu_ref_is_zero(struct percpu_ref *ref);
bool percpu_ref_is_dying(struct percpu_ref *ref);

#endif
