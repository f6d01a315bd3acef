/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Threads of one process that take turns: what stands for pthreads in the fuzzer.
 *
 * Every source file is compiled with this header in front, so that the shim's
 * workqueues, locks and RCU, and the image file in memory, run on fibers without
 * a change. One fiber runs at a time, and another one goes on only where the
 * first one waits or calls fiber_yield(); which one, a seed decides. So a run of
 * an input is the same every time, starting a thread costs nearly nothing, and
 * when nobody can go on that is seen at once.
 */
#ifndef _FIBER_H
#define _FIBER_H

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <time.h>
#include <unistd.h>

struct fiber_mutex {
	unsigned int owner;
};

struct fiber_cond {
	char unused;
};

struct fiber_sem {
	unsigned int value;
};

/*
 * From here on the run is decided by @seed. @yield_percent: how often of 100 times
 * another fiber goes on at a place where that is possible.
 */
void fiber_begin(unsigned long long seed, unsigned int yield_percent);
/* Lets all others go on until they wait for something. For the first one only. */
void fiber_settle(void);
/* How many fibers there are that have not ended, this one too. */
unsigned int fiber_count(void);

/* Maybe another one goes on; where the caller waits for one, it does. */
void fiber_yield(void);
void fiber_relax(void);
unsigned int fiber_self(void);
int fiber_create(unsigned int *id, void *(*run)(void *arg), void *arg);
int fiber_join(unsigned int id);
int fiber_once(int *once, void (*init)(void));
int fiber_mutex_lock(struct fiber_mutex *mutex);
int fiber_mutex_trylock(struct fiber_mutex *mutex);
int fiber_mutex_unlock(struct fiber_mutex *mutex);
int fiber_cond_wait(struct fiber_cond *cond, struct fiber_mutex *mutex);
/* Time passes when nobody can go on: then, and only then, a wait ends by it. */
int fiber_cond_timedwait(struct fiber_cond *cond, struct fiber_mutex *mutex);
int fiber_cond_signal(struct fiber_cond *cond);
int fiber_sem_wait(struct fiber_sem *sem);
int fiber_sem_post(struct fiber_sem *sem);

/*
 * What was a thread's own is a fiber's own: the variables are in a section that
 * is exchanged when another fiber goes on.
 */
#define __thread	__attribute__((section("fiber_own")))

#define pthread_t			unsigned int
#define pthread_mutex_t			struct fiber_mutex
#define pthread_cond_t			struct fiber_cond
#define pthread_once_t			int
#define sem_t				struct fiber_sem

#undef PTHREAD_MUTEX_INITIALIZER
#define PTHREAD_MUTEX_INITIALIZER	{ 0 }
#undef PTHREAD_COND_INITIALIZER
#define PTHREAD_COND_INITIALIZER	{ 0 }
#undef PTHREAD_ONCE_INIT
#define PTHREAD_ONCE_INIT		0

#define pthread_self()			fiber_self()
#define pthread_create(id, attr, run, arg) \
	((void)(attr), fiber_create(id, run, arg))
#define pthread_join(id, result)	fiber_join(id)
#define pthread_once(once, init)	fiber_once(once, init)
#define pthread_attr_init(attr)		((void)(attr))
#define pthread_attr_setdetachstate(attr, state) ((void)(attr))
#define pthread_condattr_init(attr)	((void)(attr))
#define pthread_condattr_setclock(attr, clock) ((void)(attr))

#define pthread_mutex_init(mutex, attr)	((void)((mutex)->owner = 0))
#define pthread_mutex_destroy(mutex)	((void)(mutex))
#define pthread_mutex_lock(mutex)	fiber_mutex_lock(mutex)
#define pthread_mutex_trylock(mutex)	fiber_mutex_trylock(mutex)
#define pthread_mutex_unlock(mutex)	fiber_mutex_unlock(mutex)

#define pthread_cond_init(cond, attr)	((void)(cond))
#define pthread_cond_destroy(cond)	((void)(cond))
#define pthread_cond_wait(cond, mutex)	fiber_cond_wait(cond, mutex)
#define pthread_cond_timedwait(cond, mutex, until) \
	((void)(until), fiber_cond_timedwait(cond, mutex))
#define pthread_cond_signal(cond)	fiber_cond_signal(cond)
#define pthread_cond_broadcast(cond)	fiber_cond_signal(cond)

#define sem_init(sem, shared, n)	((void)((sem)->value = (n)))
#define sem_destroy(sem)		((void)(sem))
#define sem_wait(sem)			fiber_sem_wait(sem)
#define sem_post(sem)			fiber_sem_post(sem)

#define sched_yield()			fiber_relax()
#define usleep(us)			((void)(us), fiber_relax())
#define nanosleep(time, left)		((void)(time), fiber_relax())

#endif
