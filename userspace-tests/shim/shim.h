/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a test may ask of the shim, beyond the kernel's own functions.
 */
#ifndef _SHIM_H
#define _SHIM_H

#include <linux/types.h>

/* ---- time ---- */

/* Values of shim_set_delay(). */
#define SHIM_DELAY_REAL		(-1LL)	/* as the engine asks */
#define SHIM_DELAY_NEVER	(-2LL)	/* until it is cancelled or flushed */

/* From now on delayed work comes after this many nanoseconds. */
void shim_set_delay(long long ns);
u64 shim_now_ns(void);
/* While it stands still, jiffies is what it is now. */
void shim_stop_jiffies(bool stop);

/* ---- memory ---- */

/*
 * Let allocations fail that may: one of @one_in at random (0: none), seeded.
 * What comes from a mempool's reserve does not fail.
 */
void shim_fail_allocations(unsigned int one_in, u64 seed);
u64 shim_failed_allocations(void);

/*
 * Counts from 0 again, and lets the allocations behind the first @skip fail,
 * @times of them (0: all); U64_MAX as @skip: none.
 */
void shim_fail_nth_allocation(u64 skip, u64 times);
/* Those that could have failed, since the counting began. */
u64 shim_counted_allocations(void);
/* Pieces of memory that were not freed yet. */
long long shim_live_allocations(void);
/* Their bytes, and the most that these ever were since shim_clear_peak(). */
long long shim_live_bytes(void);
long long shim_peak_bytes(void);
void shim_clear_peak(void);

/* ---- messages and warnings ---- */

/* Messages go to stderr too. Off at the start. */
void shim_log_to_stderr(bool on);
/* The messages since the last clearing, one a line. */
const char *shim_log(void);
void shim_log_clear(void);
/* With false a WARN is counted and logged, and the test goes on. */
void shim_warn_aborts(bool on);
unsigned int shim_warnings(void);
/* Those so far were wanted. */
void shim_forget_warnings(void);

/* Ends the process with a message; for misuse of what the shim provides. */
void shim_die(const char *fmt, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* @ptr, which is not NULL: of memory that a test itself cannot do without. */
static inline void *must(void *ptr)
{
	if (!ptr)
		shim_die("out of memory");
	return ptr;
}

/* ---- context ---- */

/*
 * Between these the thread must not sleep, as in an interrupt: mutex_lock() and
 * everything else that may sleep ends the test.
 */
void shim_atomic_begin(void);
void shim_atomic_end(void);

/*
 * Calls @hook where a thread of the engine is about to take a mutex or an RCU
 * read lock, or to use the file, and may sleep: there another thread could come
 * in between. NULL for none.
 */
void shim_set_hook(void (*hook)(void));
/* How many works this thread has begun: tells one that it runs from the next. */
u64 shim_works_begun(void);
/* Where the last queue_work_on() would have had its work done. */
int shim_chosen_cpu(void);
/* Such a place, for what is not in the shim. */
void shim_point(void);

/*
 * Calls @stall where a thread is about to exchange an atomic variable, or to use that
 * of a CPU, and before it hears that there is no memory: also in atomic context, so all
 * that it may do is take its time.
 */
void shim_set_stall(void (*stall)(void));

/*
 * From the call behind @calls more on fatal_signal_pending() is true; U64_MAX:
 * never, as at the start.
 */
void shim_kill_after(u64 calls);

/* ---- random numbers: small, seeded, one state for each user ---- */

struct shim_random {
	u64 state;
};

static inline u64 shim_random(struct shim_random *r)
{
	u64 z = (r->state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* 0 to @n - 1 */
static inline u64 shim_below(struct shim_random *r, u64 n)
{
	return shim_random(r) % n;
}

/*
 * ---- what TSan is told ----
 *
 * The shim's own locks (of a workqueue's lists, of a file in memory) would
 * order the engine's accesses by accident, and so hide its races. Between
 * shim_hide_begin() and shim_hide_end() TSan looks at neither synchronization
 * nor memory accesses; what really is an order by contract (work is queued
 * before it runs, I/O is submitted before it is carried out) is said with
 * shim_hb_before() and shim_hb_after(). Nothing of this suppresses a report
 * about memory of the engine: it is only touched outside.
 */
#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreSyncBegin(const char *file, int line);
void AnnotateIgnoreSyncEnd(const char *file, int line);
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
void AnnotateIgnoreWritesBegin(const char *file, int line);
void AnnotateIgnoreWritesEnd(const char *file, int line);
void __tsan_acquire(void *addr);
void __tsan_release(void *addr);

static inline void shim_hide_begin(void)
{
	AnnotateIgnoreSyncBegin(__FILE__, __LINE__);
	AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
	AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}

static inline void shim_hide_end(void)
{
	AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
	AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
	AnnotateIgnoreSyncEnd(__FILE__, __LINE__);
}

static inline void shim_hb_before(const void *token)
{
	__tsan_release((void *)token);
}

static inline void shim_hb_after(const void *token)
{
	__tsan_acquire((void *)token);
}
#else
static inline void shim_hide_begin(void) { }
static inline void shim_hide_end(void) { }
static inline void shim_hb_before(const void *token) { (void)token; }
static inline void shim_hb_after(const void *token) { (void)token; }
#endif

#endif
