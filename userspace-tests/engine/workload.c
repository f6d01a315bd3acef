// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random guest operations.
 */

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>
#include <linux/shrinker.h>

#include "memfile.h"
#include "verify.h"
#include "workload.h"

#define TAG_MAGIC	0x5eed7a65ec70a115ULL
#define WORDS		(WL_SECTOR / 8)

/* Of one operation at most: more only makes the test slow. */
#define MAX_BYTES	(3U << 20)

/* Likewise more looks at what is known of free clusters than after so many. */
#define STEPS_TO_VERIFY	8

/*
 * The end.
 */

static volatile u64 current_seed;
static const char *doing = "";

void wl_say(const char *what)
{
	doing = what;
}

void wl_fail(u64 seed, const char *fmt, ...)
{
	va_list args;

	fflush(stdout);
	fprintf(stderr, "FAILED with --seed %llu: %s", seed, doing);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\n%s", shim_log());
	fflush(stderr);
	_exit(1);
}

static void say_seed(int sig)
{
	char text[300];
	int n = snprintf(text, sizeof(text), "FAILED with --seed %llu: %s%s\n",
			 (unsigned long long)current_seed, doing,
			 sig == SIGALRM ? "hangs" : "crashed");

	if (write(2, text, n) < 0)
		_exit(1);
	signal(SIGABRT, SIG_DFL);
	abort();
}

void wl_name_seed(u64 seed, unsigned int seconds)
{
	current_seed = seed;
	signal(SIGABRT, say_seed);
	signal(SIGALRM, say_seed);
	alarm(seconds);
}

/*
 * Tags.
 */

void wl_fill_sector(u64 seed, u64 seq, u64 sector, void *to)
{
	u64 *words = to;
	struct shim_random r = { .state = seed ^ seq << 32 ^ sector };
	u64 x = shim_random(&r);
	unsigned int i;

	words[0] = TAG_MAGIC;
	words[1] = seed;
	words[2] = seq;
	words[3] = sector;
	for (i = 4; i < WORDS; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[i] = x;
	}
}

u64 wl_sector_seq(u64 seed, const void *sector)
{
	const u64 *words = sector;

	return words[0] == TAG_MAGIC && words[1] == seed ? words[2] : 0;
}

/*
 * Ranges in use.
 */

static bool is_busy(const struct workload *w, u64 first, u64 nr)
{
	return memchr(w->busy + first, 1, nr);
}

static void take_range(struct workload *w, u64 first, u64 nr)
{
	pthread_mutex_lock(&w->lock);
	while (is_busy(w, first, nr))
		pthread_cond_wait(&w->changed, &w->lock);
	memset(w->busy + first, 1, nr);
	pthread_mutex_unlock(&w->lock);
}

static void release_range(struct workload *w, u64 first, u64 nr)
{
	pthread_mutex_lock(&w->lock);
	memset(w->busy + first, 0, nr);
	pthread_cond_broadcast(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

/*
 * One operation.
 */

static void io_done(struct qcow2_io *io)
{
	struct waiting_io *wait = container_of(io, struct waiting_io, io);

	wait->done_by = pthread_self();
	sem_post(&wait->done);
}

void wl_start(struct qcow2_image *img, struct waiting_io *wait)
{
	sem_init(&wait->done, 0, 0);
	wait->io.img = img;
	wait->io.done = io_done;
	qcow2_io_submit(&wait->io);
}

int wl_finish(struct waiting_io *wait)
{
	while (sem_wait(&wait->done))
		;
	sem_destroy(&wait->done);
	return wait->io.error;
}

int wl_submit(struct qcow2_image *img, struct waiting_io *wait)
{
	wl_start(img, wait);
	return wl_finish(wait);
}

/* As wl_finish(), for one that may not fail unless errors are expected. */
static int finish(struct workload *w, struct waiting_io *wait)
{
	int error = wl_finish(wait);

	if (error)
		__atomic_fetch_add(&w->failed[wait->io.op], 1,
				   __ATOMIC_RELAXED);
	if (error && !w->errors_ok)
		wl_fail(w->seed, "operation %d at %llu failed: %d",
			wait->io.op, wait->io.offset, error);
	return error;
}

static int submit(struct workload *w, struct waiting_io *wait)
{
	wl_start(w->img, wait);
	return finish(w, wait);
}

/* Pieces of random length; the last one may be longer than needed. */
static unsigned int cut(struct bio_vec *bv, char *buf, u64 bytes,
			unsigned int align, struct shim_random *r)
{
	unsigned int n = 0;

	while (bytes) {
		u64 len = align * (1 + shim_below(r, 1ULL << shim_below(r, 8)));

		len = min(len, bytes);
		bvec_set_virt(&bv[n++], buf, len);
		buf += len;
		bytes -= len;
	}
	return n;
}

static void start_rw(struct workload *w, struct waiting_io *wait,
		     struct bio_vec **bv, void *buf, u64 bytes,
		     struct shim_random *r)
{
	*bv = must(calloc(bytes / w->align, sizeof(**bv)));
	iov_iter_bvec(&wait->io.iter, wait->io.op == QCOW2_OP_WRITE ?
		      ITER_SOURCE : ITER_DEST, *bv,
		      cut(*bv, buf, bytes, w->align, r), bytes);
	wl_start(w->img, wait);
}

int wl_rw(struct workload *w, enum qcow2_op op, u64 offset, void *buf,
	  u64 bytes, bool fua, struct shim_random *r)
{
	struct waiting_io wait = {
		.io = { .op = op, .offset = offset, .fua = fua },
	};
	struct bio_vec *bv;
	int error;

	start_rw(w, &wait, &bv, buf, bytes, r);
	error = finish(w, &wait);
	free(bv);
	return error;
}

static void note_flush(struct workload *w, u64 begun, u64 done)
{
	pthread_mutex_lock(&w->lock);
	if (w->nr_flushes == w->flushes_room) {
		w->flushes_room = max(2 * w->flushes_room, (size_t)256);
		w->flushes = must(realloc(w->flushes, w->flushes_room *
					  sizeof(*w->flushes)));
	}
	w->flushes[w->nr_flushes++] = (struct wl_flush) {
		.begun = begun,
		.done = done,
	};
	pthread_mutex_unlock(&w->lock);
}

int wl_flush(struct workload *w)
{
	struct waiting_io wait = { .io = { .op = QCOW2_OP_FLUSH } };
	u64 begun = memfile_now(w->filp);
	int error = submit(w, &wait);

	if (!error && w->history)
		note_flush(w, begun, memfile_now(w->filp));
	return error;
}

/* Notes that a write begins; its index in the history, if there is one. */
static size_t note_write(struct workload *w, const struct wl_write *write)
{
	size_t index = 0;

	pthread_mutex_lock(&w->lock);
	if (w->history) {
		if (w->nr_writes == w->writes_room) {
			w->writes_room = max(2 * w->writes_room, (size_t)1024);
			w->writes = must(realloc(w->writes, w->writes_room *
						 sizeof(*w->writes)));
		}
		index = w->nr_writes++;
		w->writes[index] = *write;
	}
	pthread_mutex_unlock(&w->lock);
	return index;
}

static void note_written(struct workload *w, size_t index)
{
	u64 now = memfile_now(w->filp);

	pthread_mutex_lock(&w->lock);
	if (w->history)
		w->writes[index].done = now;
	pthread_mutex_unlock(&w->lock);
}

/*
 * What a thread does.
 */

struct range {
	u64 offset;
	u64 bytes;
};

static u64 choose_length(struct workload *w, struct shim_random *r)
{
	u64 cluster = w->img->geo.cluster_bytes;
	u64 bytes;

	switch (shim_below(r, 16)) {
	case 0:
		bytes = shim_below(r, w->bytes);
		break;
	case 1 ... 3:
		bytes = shim_below(r, 4 * cluster);
		break;
	case 4 ... 7:
		bytes = shim_below(r, cluster);
		break;
	default:
		bytes = shim_below(r, 16 * WL_SECTOR);
		break;
	}
	if (shim_below(r, 8))
		bytes = min(bytes, w->max_op_bytes);
	return min_t(u64, bytes, MAX_BYTES);
}

static struct range choose_range(struct workload *w, struct shim_random *r)
{
	u64 cluster = w->img->geo.cluster_bytes;
	u64 unit = shim_below(r, 4) ? w->align : cluster;
	struct range range = { .bytes = choose_length(w, r) };
	u64 near = min_t(u64, 4 * cluster, 256 << 10);

	if (shim_below(r, 3))
		range.offset = w->hot[shim_below(r, 4)] + shim_below(r, near);
	else
		range.offset = shim_below(r, w->bytes);
	range.offset = round_down(min(range.offset, w->bytes - 1), unit);
	range.bytes = max(round_down(range.bytes, unit), (u64)w->align);
	range.bytes = min(range.bytes, w->bytes - range.offset);
	return range;
}

/* Memory that begins anywhere in a page; @base is to be freed. */
static unsigned char *get_buffer(struct workload *w, u64 bytes,
				 struct shim_random *r, void **base)
{
	size_t lead = shim_below(r, PAGE_SIZE / w->align) * w->align;

	*base = must(aligned_alloc(PAGE_SIZE,
				   round_up(lead + bytes, PAGE_SIZE)));
	return *base + lead;
}

static void compare(struct workload *w, const struct range *range,
		    const unsigned char *buf)
{
	u64 pos;

	for (pos = 0; pos < range->bytes; pos += WL_SECTOR) {
		u64 at = range->offset + pos;

		if (w->unknown[at / WL_SECTOR] ||
		    !memcmp(buf + pos, w->content + at, WL_SECTOR))
			continue;
		wl_fail(w->seed,
			"sector %llu reads wrong, in a read of %llu bytes at %llu: it has tag %llu, wanted %llu; it begins with %02x %02x, wanted %02x %02x",
			at / WL_SECTOR, range->bytes, range->offset,
			wl_sector_seq(w->seed, buf + pos),
			wl_sector_seq(w->seed, w->content + at), buf[pos],
			buf[pos + 1], w->content[at], w->content[at + 1]);
	}
}

static void do_read(struct workload *w, const struct range *range,
		    struct shim_random *r)
{
	void *base;
	unsigned char *buf = get_buffer(w, range->bytes, r, &base);

	memset(buf, 0x5a, range->bytes);
	if (!wl_rw(w, QCOW2_OP_READ, range->offset, buf, range->bytes, false,
		   r))
		compare(w, range, buf);
	free(base);
}

/* After a write failed: each of its sectors is old or new, see which. */
static void settle(struct workload *w, const struct range *range,
		   const unsigned char *new, struct shim_random *r)
{
	void *base;
	unsigned char *buf = get_buffer(w, range->bytes, r, &base);
	u64 pos, first = range->offset / WL_SECTOR;
	int error;

	error = wl_rw(w, QCOW2_OP_READ, range->offset, buf, range->bytes,
		      false, r);
	for (pos = 0; pos < range->bytes; pos += WL_SECTOR) {
		unsigned char *old = w->content + range->offset + pos;
		unsigned char *unknown = w->unknown + first + pos / WL_SECTOR;

		if (error) {
			*unknown = 1;
			continue;
		}
		if (!*unknown && memcmp(buf + pos, old, WL_SECTOR) &&
		    memcmp(buf + pos, new + pos, WL_SECTOR))
			wl_fail(w->seed, "sector %llu is neither old nor new after a write that failed",
				first + pos / WL_SECTOR);
		memcpy(old, buf + pos, WL_SECTOR);
		*unknown = 0;
	}
	free(base);
}

static void wrote(struct workload *w, const struct range *range,
		  const unsigned char *data)
{
	memcpy(w->content + range->offset, data, range->bytes);
	memset(w->unknown + range->offset / WL_SECTOR, 0,
	       range->bytes / WL_SECTOR);
}

static void fill_data(struct workload *w, const struct range *range, u64 seq,
		      bool zeroes, unsigned char *buf)
{
	u64 pos;

	if (zeroes)
		memset(buf, 0, range->bytes);
	else
		for (pos = 0; pos < range->bytes; pos += WL_SECTOR)
			wl_fill_sector(w->seed, seq,
				       (range->offset + pos) / WL_SECTOR,
				       buf + pos);
}

static void do_write(struct workload *w, const struct range *range, bool zeroes,
		     bool fua, struct shim_random *r)
{
	u64 seq = __atomic_add_fetch(&w->next_seq, 1, __ATOMIC_RELAXED);
	struct wl_write write = {
		.seq = seq,
		.sector = range->offset / WL_SECTOR,
		.nr = range->bytes / WL_SECTOR,
		.zeroes = zeroes,
		.fua = fua,
		.begun = memfile_now(w->filp),
	};
	size_t index = note_write(w, &write);
	void *base;
	unsigned char *buf = get_buffer(w, range->bytes, r, &base);

	fill_data(w, range, seq, zeroes, buf);
	if (wl_rw(w, QCOW2_OP_WRITE, range->offset, buf, range->bytes, fua,
		  r)) {
		__atomic_fetch_add(&w->errors, 1, __ATOMIC_RELAXED);
		settle(w, range, buf, r);
	} else {
		note_written(w, index);
		wrote(w, range, buf);
	}
	free(base);
}

static bool is_compressed(const struct workload *w, u64 offset)
{
	struct qcow2_extent extent;

	return qcow2_map(w->img, offset, WL_SECTOR, &extent) ||
	       extent.type == QCOW2_SUBCLUSTER_COMPRESSED;
}

/*
 * Parts of a compressed cluster a discard leaves alone, and whether a cluster is
 * compressed still another thread may change at any time: only whole ones are
 * discarded.  What is not compressed does not become so.
 */
static struct range discardable(const struct workload *w,
				const struct range *range)
{
	u64 cluster = w->img->geo.cluster_bytes;
	u64 start = range->offset, end = start + range->bytes;

	if (start & (cluster - 1) && is_compressed(w, start))
		start = round_up(start, cluster);
	if (end & (cluster - 1) && end < w->bytes && is_compressed(w, end))
		end = round_down(end, cluster);
	return (struct range) {
		.offset = start,
		.bytes = end > start ? end - start : 0,
	};
}

/* What of a range a discard makes zeroes: its whole subclusters. */
static struct range discarded(const struct workload *w,
			      const struct range *range)
{
	u64 unit = 1ULL << w->img->geo.subcluster_bits;
	u64 start = round_up(range->offset, unit);
	u64 end = range->offset + range->bytes;

	/* It has no entry for what hides a backing file. */
	if (w->img->geo.version < 3 && w->img->chain)
		end = 0;
	if (end && end < w->bytes)
		end = round_down(end, unit);
	return (struct range) {
		.offset = start,
		.bytes = end > start ? end - start : 0,
	};
}

static size_t note_zeroes(struct workload *w, const struct range *range,
			  bool fua)
{
	struct wl_write write = {
		.seq = __atomic_add_fetch(&w->next_seq, 1, __ATOMIC_RELAXED),
		.sector = range->offset / WL_SECTOR,
		.nr = range->bytes / WL_SECTOR,
		.zeroes = true,
		.fua = fua,
		.begun = memfile_now(w->filp),
	};

	return note_write(w, &write);
}

static void became_zero(struct workload *w, const struct range *range)
{
	memset(w->content + range->offset, 0, range->bytes);
	memset(w->unknown + range->offset / WL_SECTOR, 0,
	       range->bytes / WL_SECTOR);
}

static void do_zeroing(struct workload *w, const struct range *range,
		       enum qcow2_op op, struct shim_random *r)
{
	struct range whole = op == QCOW2_OP_DISCARD ? discardable(w, range) :
						      *range;
	struct waiting_io wait = {
		.io = {
			.op = op,
			.offset = whole.offset,
			.bytes = whole.bytes,
			.fua = op == QCOW2_OP_WRITE_ZEROES && !shim_below(r, 8),
			.unmap = shim_below(r, 2),
		},
	};
	struct range zeroed = op == QCOW2_OP_DISCARD ? discarded(w, &whole) :
						       whole;
	size_t index = note_zeroes(w, &zeroed, wait.io.fua);
	void *zeroes;

	if (!submit(w, &wait)) {
		note_written(w, index);
		became_zero(w, &zeroed);
		return;
	}
	__atomic_fetch_add(&w->errors, 1, __ATOMIC_RELAXED);
	if (!zeroed.bytes)
		return;
	zeroes = must(calloc(1, zeroed.bytes));
	settle(w, &zeroed, zeroes, r);
	free(zeroes);
}

/* What the write left, or zeroes, sector by sector: look. */
static void settle_race(struct workload *w, const struct range *range,
			const unsigned char *data, struct shim_random *r)
{
	static const unsigned char zeroes[WL_SECTOR];
	void *base;
	unsigned char *buf = get_buffer(w, range->bytes, r, &base);
	u64 pos;
	int error = wl_rw(w, QCOW2_OP_READ, range->offset, buf, range->bytes,
			  false, r);

	for (pos = 0; pos < range->bytes; pos += WL_SECTOR) {
		u64 s = (range->offset + pos) / WL_SECTOR;

		w->unknown[s] |= !!error;
		if (w->unknown[s])
			continue;
		if (memcmp(buf + pos, data + pos, WL_SECTOR) &&
		    memcmp(buf + pos, zeroes, WL_SECTOR))
			wl_fail(w->seed, "sector %llu has tag %llu after a write and a discard at once",
				s, wl_sector_seq(w->seed, buf + pos));
		memcpy(w->content + s * WL_SECTOR, buf + pos, WL_SECTOR);
	}
	free(base);
}

/*
 * A transfer meets a discard of the same bytes (invariant I4). What it finds or
 * leaves there may be data or zeroes, but nobody else's data may suffer: the
 * host clusters may not be used again before it is done.
 */
static void do_race(struct workload *w, const struct range *chosen,
		    struct shim_random *r)
{
	const struct range whole = discardable(w, chosen), *range = &whole;
	bool write = shim_below(r, 3);
	struct waiting_io rw = {
		.io = {
			.op = write ? QCOW2_OP_WRITE : QCOW2_OP_READ,
			.offset = range->offset,
		},
	};
	struct waiting_io discard = {
		.io = {
			.op = QCOW2_OP_DISCARD,
			.offset = range->offset,
			.bytes = range->bytes,
		},
	};
	struct wl_write note = {
		.seq = __atomic_add_fetch(&w->next_seq, 1, __ATOMIC_RELAXED),
		.sector = range->offset / WL_SECTOR,
		.nr = range->bytes / WL_SECTOR,
		.begun = memfile_now(w->filp),
	};
	void *base;
	unsigned char *buf = get_buffer(w, range->bytes, r, &base);
	size_t index = write ? note_write(w, &note) : 0;
	struct range zeroed = discarded(w, range);
	struct bio_vec *bv;
	int error;

	note_zeroes(w, &zeroed, false);	/* done, or not: it may say */
	if (write)
		fill_data(w, range, note.seq, false, buf);
	start_rw(w, &rw, &bv, buf, range->bytes, r);
	/* The transfer shall have found its clusters before they go. */
	if (shim_below(r, 4))
		usleep(shim_below(r, 200));
	wl_start(w->img, &discard);
	error = finish(w, &discard);
	error = finish(w, &rw) || error;
	free(bv);
	if (error)
		memset(w->unknown + note.sector, 1, note.nr);
	else if (write)
		note_written(w, index);
	if (!error && !write)
		memcpy(buf, w->content + range->offset, range->bytes);
	settle_race(w, range, buf, r);
	free(base);
}

/* Longer than the longest that one refcount block of 64 entries could count. */
#define MAX_L1_ENTRIES	12000

static u64 choose_l1_entries(u32 now, struct shim_random *r)
{
	switch (shim_below(r, 4)) {
	case 0:
		return now + 1;
	case 1:
		return now + shim_below(r, MAX_L1_ENTRIES);
	default:
		return now + shim_below(r, 2 * now + 100);
	}
}

static void do_grow(struct workload *w, struct shim_random *r)
{
	struct qcow2_image *img = w->img;
	u64 old_offset, min_entries;
	u32 old_entries;
	int error;

	mutex_lock(&img->grow_lock);
	old_offset = img->geo.l1_offset;
	old_entries = img->geo.l1_entries;
	min_entries = choose_l1_entries(old_entries, r);
	if (qcow2_image_needs_check(img) || old_entries > MAX_L1_ENTRIES)
		min_entries = 0;
	error = qcow2_grow_l1(img, min_entries);
	if (error && !w->errors_ok)
		wl_fail(w->seed, "growth of the L1 table failed: %d", error);
	if (error && (img->geo.l1_offset != old_offset ||
		      img->geo.l1_entries != old_entries))
		wl_fail(w->seed, "the L1 table has grown, with error %d", error);
	if (!error && img->geo.l1_entries < min_entries)
		wl_fail(w->seed, "the L1 table has not grown");
	mutex_unlock(&img->grow_lock);
}

void wl_random_op(struct workload *w, struct shim_random *r)
{
	const struct wl_mix *m = &w->mix;
	const unsigned int weights[] = {
		m->flush, m->read, m->write_of_zeroes, m->fua, m->discard,
		m->zeroes, m->race, m->grow, m->write,
	};
	struct range range = choose_range(w, r);
	u64 first = range.offset / WL_SECTOR, nr = range.bytes / WL_SECTOR;
	unsigned int i, sum = 0, at;

	for (i = 0; i < ARRAY_SIZE(weights); i++)
		sum += weights[i];
	at = shim_below(r, sum);
	for (i = 0; at >= weights[i]; i++)
		at -= weights[i];

	__atomic_fetch_add(&w->ops_done, 1, __ATOMIC_RELAXED);
	if (!i) {
		wl_flush(w);
		return;
	}
	if (i == 7) {
		do_grow(w, r);
		return;
	}
	__atomic_fetch_add(&w->bytes_done, range.bytes, __ATOMIC_RELAXED);
	take_range(w, first, nr);
	switch (i) {
	case 1:
		do_read(w, &range, r);
		break;
	case 2:
		do_write(w, &range, true, !shim_below(r, 4), r);
		break;
	case 3:
		do_write(w, &range, false, true, r);
		break;
	case 4:
		do_zeroing(w, &range, QCOW2_OP_DISCARD, r);
		break;
	case 5:
		do_zeroing(w, &range, QCOW2_OP_WRITE_ZEROES, r);
		break;
	case 6:
		if (shim_below(r, 2))
			do_write(w, &range, false, false, r);
		do_race(w, &range, r);
		break;
	default:
		do_write(w, &range, false, false, r);
		break;
	}
	release_range(w, first, nr);
}

struct job {
	struct workload *w;
	unsigned int ops;
	struct shim_random r;
	pthread_t thread;
};

static void *job_thread(void *arg)
{
	struct job *job = arg;

	while (job->ops--) {
		/* With some seeds the system is short of memory all the time. */
		if (job->w->seed % 3 == 0 && job->ops % 8 == 0)
			shim_shrink(1 + job->ops % 64);
		wl_random_op(job->w, &job->r);
		if (job->ops % STEPS_TO_VERIFY == 0)
			verify_step(job->w->img);
	}
	return NULL;
}

void wl_choose_places(struct workload *w, struct shim_random *r)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(w->hot); i++)
		w->hot[i] = shim_below(r, w->bytes);
}

void wl_run(struct workload *w, unsigned int threads, unsigned int ops,
	    u64 seed)
{
	struct job *jobs = must(calloc(threads, sizeof(*jobs)));
	struct shim_random r = { .state = seed };
	unsigned int i;

	wl_choose_places(w, &r);
	for (i = 0; i < threads; i++) {
		jobs[i].w = w;
		jobs[i].ops = ops / threads;
		jobs[i].r.state = shim_random(&r);
		if (threads == 1)
			job_thread(&jobs[i]);
		else if (pthread_create(&jobs[i].thread, NULL, job_thread,
					&jobs[i]))
			wl_fail(w->seed, "no thread");
	}
	for (i = 0; threads > 1 && i < threads; i++)
		pthread_join(jobs[i].thread, NULL);
	free(jobs);
}

void wl_init(struct workload *w, unsigned char *content, u64 bytes)
{
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->changed, NULL);
	w->bytes = bytes;
	w->content = content;
	w->busy = must(calloc(1, bytes / WL_SECTOR + 1));
	w->unknown = must(calloc(1, bytes / WL_SECTOR + 1));
}

void wl_destroy(struct workload *w)
{
	free(w->content);
	free(w->busy);
	free(w->unknown);
	free(w->writes);
	free(w->flushes);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->changed);
}

/*
 * What the module does when it is loaded; the engine's part of main.c.
 */

static const struct {
	int (*init)(void);
	void (*exit)(void);
} pools[] = {
	{ qcow2_write_init_cache, qcow2_write_exit_cache },
	{ qcow2_file_zeroes_init, NULL },
	{ qcow2_layers_init, qcow2_layers_exit },
};

int wl_init_pools(void)
{
	unsigned int i;
	int ret = 0;

	for (i = 0; !ret && i < ARRAY_SIZE(pools); i++)
		ret = pools[i].init();
	return ret;
}

void wl_exit_pools(void)
{
	unsigned int i = ARRAY_SIZE(pools);

	while (i--)
		if (pools[i].exit)
			pools[i].exit();
}
