// SPDX-License-Identifier: GPL-2.0-only
/*
 * Fibers over ucontext.
 */

#include "fiber.h"

#undef __thread

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "shim.h"

#define MAX_FIBERS	256
#define STACK_BYTES	(256UL << 10)
#define GUARD_BYTES	4096UL
#define OWN_BYTES	64

/* ASan has to know on which stack it is. */
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
void __sanitizer_start_switch_fiber(void **fake, const void *bottom,
				    size_t size);
void __sanitizer_finish_switch_fiber(void *fake, const void **bottom,
				     size_t *size);
void __asan_unpoison_memory_region(const volatile void *addr, size_t size);
#else
static void __sanitizer_start_switch_fiber(void **fake, const void *bottom,
					   size_t size)
{
}

static void __sanitizer_finish_switch_fiber(void *fake, const void **bottom,
					    size_t *size)
{
}

static void __asan_unpoison_memory_region(const volatile void *addr,
					  size_t size)
{
}
#endif

enum state {
	UNUSED,
	READY,
	WAITS,
	ENDED,
};

/**
 * struct fiber - a thread
 * @state: what it does
 * @waits_for: address of what it waits for
 * @timed: it may go on without that when nobody else can
 * @timed_out: it did
 * @context: where it goes on
 * @stack: its stack, NULL for the thread that called first
 * @stack_bytes: length of it
 * @fake: ASan's
 * @own: content of the section of its own variables
 * @run: what it does
 * @arg: for @run
 */
struct fiber {
	enum state state;
	const void *waits_for;
	bool timed;
	bool timed_out;
	ucontext_t context;
	const void *stack;
	size_t stack_bytes;
	void *fake;
	unsigned char own[OWN_BYTES];
	void *(*run)(void *arg);
	void *arg;
};

/* Number 0 is nobody, number 1 is the first. */
static struct fiber fibers[MAX_FIBERS] = { [1] = { .state = READY } };
static unsigned int current = 1;
static unsigned int highest = 1;
static struct shim_random random_state;
static unsigned int yields;

extern unsigned char __start_fiber_own[], __stop_fiber_own[];

static size_t own_bytes(void)
{
	size_t n = __stop_fiber_own - __start_fiber_own;

	if (n > OWN_BYTES)
		shim_die("fiber: %zu bytes of own variables", n);
	return n;
}

static void arrive(struct fiber *from)
{
	struct fiber *me = &fibers[current];
	const void *bottom;
	size_t bytes;

	__sanitizer_finish_switch_fiber(me->fake, &bottom, &bytes);
	/* The first one's stack is the process's, which nobody has told us. */
	if (from == &fibers[1] && !from->stack) {
		from->stack = bottom;
		from->stack_bytes = bytes;
	}
	memcpy(__start_fiber_own, me->own, own_bytes());
}

static struct fiber *came_from;

/* Not with swapcontext(), in place of which ASan has one that takes very long. */
static void switch_to(unsigned int next)
{
	struct fiber *from = &fibers[current], *to = &fibers[next];
	volatile bool gone = false;

	if (from == to)
		return;
	memcpy(from->own, __start_fiber_own, own_bytes());
	came_from = from;
	current = next;
	__sanitizer_start_switch_fiber(&from->fake, to->stack, to->stack_bytes);
	getcontext(&from->context);
	if (!gone) {
		gone = true;
		setcontext(&to->context);
	}
	arrive(came_from);
}

/* The @n-th that is ready, from 0; without so many the number of those. */
static unsigned int find_ready(unsigned int n, unsigned int *id)
{
	unsigned int i, nr = 0;

	for (i = 1; i <= highest; i++)
		if (fibers[i].state == READY && nr++ == n) {
			*id = i;
			return nr;
		}
	return nr;
}

static void say_who_waits(void)
{
	unsigned int i;

	for (i = 1; i <= highest; i++)
		if (fibers[i].state == WAITS)
			fprintf(stderr, "fiber %u%s waits for %p\n", i,
				i == current ? " (this one)" : "",
				fibers[i].waits_for);
}

static bool let_time_pass(void)
{
	unsigned int i;

	for (i = 1; i <= highest; i++)
		if (fibers[i].state == WAITS && fibers[i].timed) {
			fibers[i].state = READY;
			fibers[i].timed_out = true;
			return true;
		}
	return false;
}

/* Lets one that is ready go on, which may be the caller. */
static void schedule(void)
{
	unsigned int nr, id = 0;

	nr = find_ready(~0U, &id);
	if (!nr && let_time_pass())
		nr = 1;
	if (!nr) {
		say_who_waits();
		shim_die("nobody can go on: a deadlock, or a wake-up is lost");
	}
	find_ready(nr > 1 ? shim_below(&random_state, nr) : 0, &id);
	switch_to(id);
}

static void wait_for(const void *what)
{
	fibers[current].state = WAITS;
	fibers[current].waits_for = what;
	schedule();
}

static void wake(const void *what)
{
	unsigned int i;

	for (i = 1; i <= highest; i++)
		if (fibers[i].state == WAITS && fibers[i].waits_for == what)
			fibers[i].state = READY;
}

void fiber_begin(unsigned long long seed, unsigned int yield_percent)
{
	random_state.state = seed;
	yields = yield_percent;
}

void fiber_yield(void)
{
	if (yields && shim_below(&random_state, 100) < yields)
		schedule();
}

void fiber_relax(void)
{
	schedule();
}

void fiber_settle(void)
{
	unsigned int id;

	while (find_ready(1, &id) > 1)
		switch_to(id);
}

unsigned int fiber_count(void)
{
	unsigned int i, nr = 0;

	for (i = 1; i <= highest; i++)
		nr += fibers[i].state != UNUSED;
	return nr;
}

unsigned int fiber_self(void)
{
	return current;
}

/*
 * Beginning and end.
 */

static void begin(void)
{
	struct fiber *me;

	arrive(came_from);
	me = &fibers[current];
	me->run(me->arg);
	me = &fibers[current];
	me->state = ENDED;
	wake(me);
	schedule();
	abort();
}

static void make_stack(struct fiber *f)
{
	char *stack;

	if (f->stack)
		return;
	stack = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (stack == MAP_FAILED || mprotect(stack, GUARD_BYTES, PROT_NONE))
		shim_die("fiber: no stack");
	f->stack = stack + GUARD_BYTES;
	f->stack_bytes = STACK_BYTES;
}

int fiber_create(unsigned int *id, void *(*run)(void *arg), void *arg)
{
	struct fiber *f;

	for (*id = 2; *id < MAX_FIBERS; ++*id)
		if (fibers[*id].state == UNUSED)
			break;
	if (*id == MAX_FIBERS)
		return -1;
	if (*id > highest)
		highest = *id;
	f = &fibers[*id];
	make_stack(f);
	/* Whoever had it before did not return from its functions. */
	__asan_unpoison_memory_region(f->stack, f->stack_bytes);
	memset(f->own, 0, sizeof(f->own));
	f->fake = NULL;
	f->timed = false;
	f->run = run;
	f->arg = arg;
	if (getcontext(&f->context))
		return -1;
	f->context.uc_stack.ss_sp = (void *)f->stack;
	f->context.uc_stack.ss_size = f->stack_bytes;
	f->context.uc_link = NULL;
	makecontext(&f->context, begin, 0);
	f->state = READY;
	return 0;
}

int fiber_join(unsigned int id)
{
	while (fibers[id].state != ENDED)
		wait_for(&fibers[id]);
	fibers[id].state = UNUSED;
	return 0;
}

int fiber_once(int *once, void (*init)(void))
{
	if (!*once) {
		*once = 1;
		init();
	}
	return 0;
}

/*
 * Waiting.
 */

int fiber_mutex_trylock(struct fiber_mutex *mutex)
{
	if (mutex->owner)
		return EBUSY;
	mutex->owner = current;
	return 0;
}

int fiber_mutex_lock(struct fiber_mutex *mutex)
{
	while (fiber_mutex_trylock(mutex))
		wait_for(mutex);
	return 0;
}

int fiber_mutex_unlock(struct fiber_mutex *mutex)
{
	mutex->owner = 0;
	wake(mutex);
	return 0;
}

int fiber_cond_wait(struct fiber_cond *cond, struct fiber_mutex *mutex)
{
	fiber_mutex_unlock(mutex);
	wait_for(cond);
	return fiber_mutex_lock(mutex);
}

int fiber_cond_timedwait(struct fiber_cond *cond, struct fiber_mutex *mutex)
{
	struct fiber *me = &fibers[current];

	me->timed = true;
	me->timed_out = false;
	fiber_cond_wait(cond, mutex);
	me->timed = false;
	return me->timed_out ? ETIMEDOUT : 0;
}

int fiber_cond_signal(struct fiber_cond *cond)
{
	wake(cond);
	return 0;
}

int fiber_sem_wait(struct fiber_sem *sem)
{
	while (!sem->value)
		wait_for(sem);
	sem->value--;
	return 0;
}

int fiber_sem_post(struct fiber_sem *sem)
{
	sem->value++;
	wake(sem);
	return 0;
}
