// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a power cut can leave of a file.
 */

#include <stdlib.h>
#include <string.h>

#include <linux/kernel.h>

#include "medium.h"

#define SECTOR	512U

const struct luck luck_none = { "none", 0, 0 };
const struct luck luck_all = { "all", 16, 16 };

static const struct luck lucks[] = {
	{ "all", 16, 16 },
	{ "half of the sectors", 16, 8 },
	{ "half of the writes", 8, 16 },
	{ "few writes", 2, 16 },
	{ "most writes", 14, 16 },
	{ "most sectors", 16, 14 },
	{ "few torn writes", 4, 8 },
};

const struct luck *luck_choose(struct shim_random *r)
{
	return &lucks[shim_below(r, ARRAY_SIZE(lucks))];
}

void medium_init(struct medium *m, struct file *filp, unsigned char *content,
		 size_t bytes)
{
	m->filp = filp;
	m->durable = content;
	m->bytes = bytes;
}

void medium_destroy(struct medium *m)
{
	free(m->log);
	free(m->flushes);
	free(m->merged);
	free(m->lost);
	free(m->durable);
	free(m->version);
}

/*
 * The log.
 */

static int by_applied(const void *a, const void *b)
{
	const struct memfile_record *x = a, *y = b;

	return x->applied < y->applied ? -1 : x->applied > y->applied;
}

static void sort_log(struct medium *m)
{
	size_t i, all;
	const struct memfile_record *log = memfile_log(m->filp, &all);

	m->log = must(calloc(all + 1, sizeof(*log)));
	m->flushes = must(calloc(all + 1, sizeof(*m->flushes)));
	m->room = m->bytes;
	for (i = 0; i < all; i++) {
		if (log[i].op == MEMFILE_TRUNCATE)
			shim_die("medium: truncation is not modelled");
		if (log[i].op != MEMFILE_FLUSH) {
			m->room = max_t(u64, m->room,
					log[i].offset + log[i].bytes);
			m->log[m->nr++] = log[i];
		} else if (!log[i].error) {
			m->flushes[m->nr_flushes][0] = log[i].begun;
			m->flushes[m->nr_flushes++][1] = log[i].ended;
		}
	}
	qsort(m->log, m->nr, sizeof(*m->log), by_applied);
}

/*
 * What had begun when a flush failed, unless a flush covered it that began
 * before that end: one that succeeds keeps its promise, whatever runs beside it.
 */
static void mark_lost(struct medium *m)
{
	size_t all, i, j, f;
	const struct memfile_record *log = memfile_log(m->filp, &all);

	for (j = 0; j < all; j++) {
		u64 covered = 0;

		if (log[j].op != MEMFILE_FLUSH || !log[j].error)
			continue;
		for (f = 0; f < m->nr_flushes; f++)
			if (m->flushes[f][0] < log[j].ended)
				covered = max(covered, m->flushes[f][0]);
		for (i = 0; i < m->nr; i++)
			if (m->log[i].begun < log[j].ended &&
			    m->log[i].ended >= covered && !m->log[i].dsync)
				m->lost[i] = true;
	}
}

void medium_read_log(struct medium *m)
{
	if (!m->filp)
		return;
	sort_log(m);
	m->durable = must(realloc(m->durable, m->room + 1));
	memset(m->durable + m->bytes, 0, m->room - m->bytes);
	m->version = must(calloc(m->room / SECTOR + 1, sizeof(u64)));
	m->merged = must(calloc(m->nr + 1, sizeof(bool)));
	m->lost = must(calloc(m->nr + 1, sizeof(bool)));
	mark_lost(m);
}

size_t medium_nr_points(const struct medium *m)
{
	return m->nr + m->nr_flushes;
}

/* Flushes end, and writes with dsync do. */
size_t medium_points(const struct medium *m, u64 *points)
{
	size_t i, nr = 0;

	for (i = 0; i < m->nr_flushes; i++)
		points[nr++] = m->flushes[i][1];
	for (i = 0; i < m->nr; i++)
		if (m->log[i].dsync && !m->log[i].error)
			points[nr++] = m->log[i].ended;
	return nr;
}

/*
 * What is there.
 */

static bool grows_file(const struct memfile_record *r)
{
	return r->op == MEMFILE_WRITE || r->op == MEMFILE_ZERO;
}

static void put_sector(unsigned char *to, const struct memfile_record *r,
		       u64 pos)
{
	if (r->data)
		memcpy(to + r->offset + pos, r->data + pos, SECTOR);
	else
		memset(to + r->offset + pos, 0, SECTOR);
}

/* Of overlapping writes the one that changed the file last stays. */
static void merge(struct medium *m, const struct memfile_record *r)
{
	u64 pos;

	for (pos = 0; pos < r->bytes; pos += SECTOR) {
		u64 *version = &m->version[(r->offset + pos) / SECTOR];

		if (*version > r->applied)
			continue;
		*version = r->applied;
		put_sector(m->durable, r, pos);
	}
	if (grows_file(r))
		m->bytes = max_t(u64, m->bytes, r->offset + r->bytes);
}

/* Only a flush of this very file counts. */
void medium_advance(struct medium *m, u64 time)
{
	u64 covered = 0;
	size_t i;

	for (i = 0; i < m->nr_flushes; i++)
		if (m->flushes[i][1] <= time)
			covered = max(covered, m->flushes[i][0]);
	for (i = 0; i < m->nr; i++) {
		const struct memfile_record *r = &m->log[i];

		if (m->merged[i] || m->lost[i] || r->error)
			continue;
		if (r->ended < covered || (r->dsync && r->ended <= time)) {
			merge(m, r);
			m->merged[i] = true;
		}
	}
}

bool medium_is_pending(const struct medium *m, u64 time)
{
	size_t i;

	for (i = 0; i < m->nr; i++)
		if (!m->merged[i] && m->log[i].begun <= time)
			return true;
	return false;
}

static bool lucky(struct shim_random *r, unsigned int of_16)
{
	return of_16 == 16 || (of_16 && shim_below(r, 16) < of_16);
}

u64 medium_cut(const struct medium *m, u64 time, const struct luck *luck,
	       struct shim_random *random, unsigned char *to)
{
	u64 pos, bytes = m->bytes;
	size_t i;

	memcpy(to, m->durable, m->room);
	for (i = 0; i < m->nr; i++) {
		const struct memfile_record *r = &m->log[i];

		if (m->merged[i] || r->begun > time ||
		    !lucky(random, luck->per_write))
			continue;
		for (pos = 0; pos < r->bytes; pos += SECTOR) {
			u64 s = (r->offset + pos) / SECTOR;

			if (m->version[s] > r->applied ||
			    !lucky(random, luck->per_sector))
				continue;
			put_sector(to, r, pos);
			if (grows_file(r))
				bytes = max(bytes, r->offset + pos + SECTOR);
		}
	}
	return bytes;
}
