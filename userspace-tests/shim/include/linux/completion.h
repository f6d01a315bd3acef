/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_COMPLETION_H
#define _SHIM_COMPLETION_H

#include <linux/types.h>
#include <pthread.h>

struct completion {
	pthread_mutex_t lock;
	pthread_cond_t wait;
	unsigned int done;
};

#define COMPLETION_INITIALIZER(name) { \
	.lock = PTHREAD_MUTEX_INITIALIZER, \
	.wait = PTHREAD_COND_INITIALIZER, \
}
#define COMPLETION_INITIALIZER_ONSTACK(name) \
	((struct completion)COMPLETION_INITIALIZER(name))
#define DECLARE_COMPLETION_ONSTACK(name) \
	struct completion name = COMPLETION_INITIALIZER(name)

void init_completion(struct completion *c);
void reinit_completion(struct completion *c);
void complete(struct completion *c);
void complete_all(struct completion *c);
void wait_for_completion(struct completion *c);
bool completion_done(struct completion *c);

#endif
