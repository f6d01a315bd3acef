/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What an image knows of its free clusters.
 */
#ifndef _QCOW2_FREE_H
#define _QCOW2_FREE_H

#include <linux/bits.h>
#include <linux/types.h>
#include <linux/xarray.h>

struct qcow2_geometry;
struct qcow2_image;
struct qcow2_run;
struct qcow2_slice;

/* Writers that are told apart. */
#define QCOW2_STREAMS		16

/* Entries of @zeroes at most: for those that lie apart 10 MiB, for a dense map 160 KiB. */
#define QCOW2_ZEROES_MAX	16384

/* Clusters in an entry of @zeroes. */
#define QCOW2_ZEROES_BITS	(BITS_PER_LONG > 32 ? 5 : 4)

/**
 * struct qcow2_stream - a writer that goes on where it was, so far
 * @guest: index of the guest cluster where its run begins
 * @host: index of the host cluster where that has its place
 * @nr: length of the run
 * @ahead: it has gone on, and the run's free clusters are reserved
 * @used: @clock of struct qcow2_free when it came here last, 0 if there is no stream
 *
 * Who gets one is decided in stream.c.
 */
struct qcow2_stream {
	u64 guest;
	u64 host;
	u32 nr;
	bool ahead;
	u64 used;
};

/**
 * struct qcow2_free - what is known of free clusters
 * @hint: below this index first fit looks only where @freed says
 * @freed: by number of the refcount slice: index in it from which on first fit has
 *	to look at its clusters below @hint again
 * @streams: writers for whom clusters are reserved
 * @clock: number of allocations that could have been a stream's
 * @fresh_from: index behind the last cluster that the file ever had, as far as it
 *	is known
 * @data_fresh_from: likewise of the external data file
 * @zeroes: bits of clusters that read as zeroes in the file, by their index >>
 *	%QCOW2_ZEROES_BITS
 * @nr_zeroes: number of entries in @zeroes
 *
 * All of it is under meta_lock, and changed by the functions of free.c alone.
 *
 * A cluster is free if its refcount is 0, in the cached slice if there is one, or if
 * no refcount block counts it.  Whenever nobody holds meta_lock this is true:
 *
 * 1. A free cluster has no user: no entry of an active L2 table refers to it, no
 *    entry of the L1 table or of the refcount table, and no write in flight was
 *    given it.
 * 2. A free cluster below @hint is reserved, or @freed has an entry for its slice
 *    that is not greater than its index there.  Without that it is lost until the
 *    image is attached again.
 * 3. An entry of @freed is an index in the slice.
 * 4. A run lies in one refcount slice, so that its slice says of all its clusters
 *    which are free.
 * 5. No cluster lies in two runs of which the free clusters are reserved.
 * 6. A place in @streams without a stream is all zero, and no stream was used later
 *    than now (@clock).
 * 7. Bits in @zeroes are those of clusters below @fresh_from.
 * 8. No entry of @zeroes is 0, and @nr_zeroes is their number, which is bounded.
 * 9. A cluster that is in use has no bit and lies below @fresh_from, but for those
 *    that lay behind the file's end when it was opened.  Those lose it when they
 *    become free.
 * 10. A free cluster that has its bit, or lies from @fresh_from on, reads as zeroes in
 *     the file.  Without that a guest sees foreign bytes.
 * 11. From @data_fresh_from on the external data file reads as zeroes.
 *
 * 10 and 11 are not claimed, nor made use of, where holes need not be zero.  After
 * damage was found nothing of this is claimed.  userspace-tests/engine/verify.c has
 * a check for each sentence, by its number.
 */
struct qcow2_free {
	u64 hint;
	struct xarray freed;
	struct qcow2_stream streams[QCOW2_STREAMS];
	u64 clock;
	u64 fresh_from;
	u64 data_fresh_from;
	struct xarray zeroes;
	unsigned int nr_zeroes;
};

void qcow2_free_init(struct qcow2_free *free);
void qcow2_free_destroy(struct qcow2_free *free);
void qcow2_free_opened(struct qcow2_image *img);
u64 qcow2_max_clusters(struct qcow2_image *img);

/* ---- hints ---- */

u32 qcow2_count_run(const struct qcow2_geometry *geo,
		    const struct qcow2_slice *slice, u64 cluster, u64 max,
		    bool free);
u64 qcow2_first_candidate(struct qcow2_image *img);
void qcow2_cluster_freed(struct qcow2_image *img, u64 cluster);
void qcow2_free_pass(struct qcow2_image *img, u64 start, u32 nr);

/* ---- reservations ---- */

const struct qcow2_stream *qcow2_next_reserved(struct qcow2_image *img,
					       u64 cluster);
u32 qcow2_count_unreserved(struct qcow2_image *img,
			   const struct qcow2_slice *slice, u64 cluster, u64 max);
void qcow2_free_tick(struct qcow2_image *img);
void qcow2_free_leave(struct qcow2_image *img, struct qcow2_stream *s, u32 nr);
void qcow2_free_forget(struct qcow2_image *img, struct qcow2_stream *s);
void qcow2_free_note(struct qcow2_image *img, struct qcow2_stream *s, u64 guest,
		     const struct qcow2_run *run);
bool qcow2_free_set_ahead(struct qcow2_image *img, struct qcow2_stream *s,
			  bool ahead);
void qcow2_free_reserve(struct qcow2_image *img, struct qcow2_stream *s,
			const struct qcow2_slice *slice, u32 max);

/* ---- known zeroes ---- */

bool qcow2_is_fresh(struct qcow2_image *img, u64 cluster);
void qcow2_fresh_gone(struct qcow2_image *img, u64 cluster, u64 nr);
void qcow2_fresh_taken(struct qcow2_image *img, u64 cluster, u64 nr);
void qcow2_fresh_again(struct qcow2_image *img, u64 cluster);
bool qcow2_data_is_fresh(struct qcow2_image *img, u64 cluster);
void qcow2_data_gone(struct qcow2_image *img, u64 cluster, u32 nr);

#endif /* _QCOW2_FREE_H */
