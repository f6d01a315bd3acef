// SPDX-License-Identifier: GPL-2.0-only
/*
 * Two operations, and every place where one can come in between the other.
 *
 * A scene has an operation A and some steps B. It is played again and again: A
 * is stopped where it is about to take a lock or to use the file, at its first
 * such place, then at its second, and so on; meanwhile B runs until it is done,
 * or for a while if it has to wait for A; then A goes on. So what a stress test
 * finds with luck, if a thread sleeps in a gap of a few instructions, is found
 * every time.
 *
 * At each stop, at each later place of A, and whenever a flush or a FUA write
 * ends, the file is looked at as a power cut would leave it, with all and with
 * nothing of what was not flushed: it must have no corruption, and what was
 * flushed. At the end each sector must have what some operation left that no
 * later one has overwritten.
 */

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "args.h"
#include "base.h"
#include "memfile.h"
#include "qcheck.h"
#include "verify.h"
#include "workload.h"

#define HANG_SECONDS	20
#define SEED		1
#define MAX_STEPS	12
#define MAX_DIRTY	4
#define MAX_WRITES	128
#define K		1024U

/* What a backing file has. */
#define BACKING_BYTES	(128 * K)

/* B has to wait for A if for so long nobody comes to a place. */
#define PATIENCE_MS	20

/* How long freed clusters may take to become free. */
#define RELEASE_MS	15

static struct {
	u64 scenes, plays, looks;
} total;

/*
 * Scenes.
 */

enum what {
	END,
	READ,
	WRITE,
	WRITE_FUA,
	MIDDLES,	/* write a sector in the middle of each 128 KiB */
	DISCARD,
	ZERO,		/* clusters stay */
	ZERO_UNMAP,
	FLUSH,
	RELEASE,	/* wait a while for freed clusters to become free */
	RELEASED,	/* for A: what a flush, or a discard, sets going */
	NO_MEMORY,	/* from now on, as far as allocations may fail */
	MEMORY,
	NO_SPACE_ONCE,	/* the next write to the file gives ENOSPC */
	EIO_ONCE,	/* the next write to the file gives EIO */
	EIO_READ_ONCE,	/* the next read from the file gives EIO */
	REOPEN,		/* with an empty cache */
	SIZE_STAYS,	/* from now on the file must not become longer */
	FEW_DIRTY,	/* few changed slices may be in memory */
	ARE_FEW,	/* are there few? */
};

/**
 * struct step - a step of a scene
 * @what: what to do
 * @offset: of guest bytes
 * @bytes: how many
 */
struct step {
	enum what what;
	u32 offset;
	u32 bytes;
};

/**
 * enum image - what a scene is played on
 * @PLAIN: clusters of 4 KiB
 * @NO_UNREF: as @PLAIN, with discard-no-unref
 * @SMALL: clusters of 512 bytes, refcounts of 64 bits: many slices
 * @EXTENDED: clusters of 16 KiB with subclusters of 512 bytes
 * @SHARED: clusters of 4 KiB that a snapshot has too; there is data in those
 *	from 108 KiB to 124 KiB
 * @SHARED_EXTENDED: clusters of 128 KiB with subclusters of 4 KiB, the first of
 *	which is full of data, and in a snapshot too
 * @NOT_COPIED: clusters of 512 bytes, preallocated, but no L1 entry has its
 *	COPIED flag
 * @BACKED: as @PLAIN, on a backing file with 128 KiB of data
 * @BACKED_EXTENDED: clusters of 64 KiB with subclusters of 2 KiB, likewise
 * @COMPRESSED: clusters of 4 KiB, which are compressed from 0 to 16 KiB
 * @EXTENDED_NO_UNREF: as @EXTENDED, with discard-no-unref
 */
enum image {
	PLAIN,
	NO_UNREF,
	SMALL,
	EXTENDED,
	SHARED,
	SHARED_EXTENDED,
	NOT_COPIED,
	BACKED,
	BACKED_EXTENDED,
	COMPRESSED,
	EXTENDED_NO_UNREF,
};

/**
 * struct scene - operations that meet
 * @name: what for
 * @image: where
 * @before: steps to be done first
 * @a: the operation that is stopped
 * @b: what comes in between
 */
struct scene {
	const char *name;
	enum image image;
	struct step before[MAX_STEPS];
	struct step a;
	struct step b[MAX_STEPS];
};

static const struct scene scenes[] = {
	{ "a read, and its clusters are freed and reused", PLAIN,
	  { { WRITE, 0, 16 * K }, { FLUSH } },
	  { READ, 0, 16 * K },
	  { { DISCARD, 0, 16 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K } } },
	{ "a read in an empty cache, and its clusters are freed and reused",
	  PLAIN,
	  { { WRITE, 0, 16 * K }, { REOPEN } },
	  { READ, 4 * K, 8 * K },
	  { { DISCARD, 0, 16 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K } } },
	{ "a read, and its slice is wanted by another", PLAIN,
	  { { WRITE, 0, 16 * K }, { REOPEN } },
	  { READ, 0, 4 * K },
	  { { READ, 8 * K, 4 * K }, { WRITE, 4 * K, 4 * K } } },
	{ "a write in place, and its clusters are freed and reused", PLAIN,
	  { { WRITE, 0, 16 * K }, { FLUSH } },
	  { WRITE, 0, 16 * K },
	  { { DISCARD, 0, 16 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K } } },
	{ "a write in place and to a new cluster, and the first one is reused",
	  PLAIN,
	  { { WRITE, 0, 4 * K }, { FLUSH } },
	  { WRITE, 0, 8 * K },
	  { { DISCARD, 0, 4 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 4 * K } } },
	{ "a discard that keeps its clusters, and a write to them", NO_UNREF,
	  { { WRITE, 0, 16 * K }, { FLUSH } },
	  { DISCARD, 0, 16 * K },
	  { { WRITE, 5 * K, 1 * K }, { WRITE, 8 * K, 4 * K }, { FLUSH } } },
	{ "a write in place, and a discard that keeps its clusters", NO_UNREF,
	  { { WRITE, 0, 16 * K }, { FLUSH } },
	  { WRITE, 0, 16 * K },
	  { { DISCARD, 0, 16 * K }, { WRITE, 5 * K, 1 * K }, { FLUSH } } },
	{ "clusters that are kept and about to be punched, and writes", NO_UNREF,
	  { { WRITE, 0, 16 * K }, { FLUSH } },
	  { RELEASED, 0, 8 * K },
	  { { WRITE, 1 * K, 1 * K }, { DISCARD, 8 * K, 8 * K },
	    { WRITE, 9 * K, 1 * K } } },
	{ "a write in place, and its clusters are written zeroes", PLAIN,
	  { { WRITE, 0, 16 * K }, { FLUSH } },
	  { WRITE, 1 * K, 10 * K },
	  { { ZERO_UNMAP, 0, 16 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a write to new clusters, and a neighbour in one of them", PLAIN,
	  { { FLUSH } },
	  { WRITE, 1 * K, 6 * K },
	  { { WRITE, 7 * K, 5 * K }, { WRITE, 0, 1 * K }, { FLUSH } } },
	{ "a write to new clusters, and one that begins in front of them", PLAIN,
	  { { FLUSH } },
	  { WRITE, 5 * K, 2 * K },
	  { { WRITE, 0, 5 * K }, { FLUSH } } },
	{ "a write to a zero cluster, and a neighbour in it", PLAIN,
	  { { WRITE, 0, 8 * K }, { ZERO, 0, 8 * K }, { FLUSH } },
	  { WRITE, 1 * K, 1 * K },
	  { { WRITE, 2 * K, 1 * K }, { WRITE, 5 * K, 1 * K }, { FLUSH } } },
	{ "a write to new clusters, and they are discarded", PLAIN,
	  { { FLUSH } },
	  { WRITE, 0, 12 * K },
	  { { DISCARD, 4 * K, 4 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a write that copies from clusters that are freed and reused",
	  SHARED,
	  { { WRITE, 0, 8 * K }, { FLUSH } },
	  { WRITE, 65 * K, 6 * K },
	  { { DISCARD, 0, 256 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K } } },
	{ "a write into shared data, and one behind it", SHARED,
	  { { FLUSH } },
	  { WRITE, 109 * K, 1 * K },
	  { { WRITE, 113 * K, 512 }, { WRITE, 120 * K, 2 * K }, { FLUSH } } },
	{ "a discard, and a write to its clusters", PLAIN,
	  { { WRITE, 0, 16 * K }, { FLUSH } },
	  { DISCARD, 0, 16 * K },
	  { { WRITE, 4 * K, 4 * K }, { WRITE, 9 * K, 1 * K }, { FLUSH },
	    { RELEASE }, { WRITE, 512 * K, 16 * K } } },
	{ "a write to subclusters, and a discard of all others", EXTENDED,
	  { { WRITE, 0, 1 * K }, { FLUSH } },
	  { WRITE, 2 * K, 1 * K },
	  { { DISCARD, 0, 1 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a write to subclusters, and one to others", EXTENDED,
	  { { WRITE, 0, 1 * K }, { FLUSH } },
	  { WRITE, 2 * K + 512, 1 * K },
	  { { WRITE, 3 * K + 512, 1 * K }, { WRITE, 8 * K, 4 * K },
	    { ZERO, 1 * K, 512 }, { FLUSH } } },
	{ "shared subclusters, written in the middle of their clusters",
	  SHARED_EXTENDED,
	  { { FLUSH } },
	  { WRITE, 64 * K, 512 },
	  { { MIDDLES, 128 * K, 896 * K }, { FLUSH } } },
	{ "shared subclusters, some of which are discarded", SHARED_EXTENDED,
	  { { DISCARD, 0, 64 * K }, { DISCARD, 128 * K, 64 * K },
	    { DISCARD, 256 * K, 64 * K }, { DISCARD, 384 * K, 64 * K },
	    { DISCARD, 512 * K, 64 * K }, { DISCARD, 640 * K, 64 * K } },
	  { DISCARD, 768 * K, 64 * K },
	  { { DISCARD, 896 * K, 64 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 64 * K, 8 * K } } },
	{ "shared subclusters that cannot be read, and a write that waits",
	  SHARED_EXTENDED,
	  { { WRITE, 512 * K, 512 }, { FLUSH }, { EIO_READ_ONCE } },
	  { WRITE, 64 * K, 512 },
	  { { WRITE, 32 * K, 512 } } },
	{ "write zeroes of subclusters, and a write to others", EXTENDED,
	  { { WRITE, 0, 16 * K }, { FLUSH } },
	  { ZERO_UNMAP, 0, 14 * K },
	  { { WRITE, 15 * K, 512 }, { DISCARD, 14 * K, 2 * K }, { FLUSH },
	    { RELEASE }, { WRITE, 512 * K, 16 * K } } },
	{ "a commit, and FUA where it has not been yet", PLAIN,
	  { { WRITE, 0, 16 * K } },
	  { FLUSH },
	  { { WRITE_FUA, 0, 4 * K }, { WRITE_FUA, 7 * K, 1 * K } } },
	{ "a commit, and a write and a flush", PLAIN,
	  { { WRITE, 0, 16 * K } },
	  { FLUSH },
	  { { WRITE, 32 * K, 8 * K }, { FLUSH }, { WRITE, 0, 4 * K },
	    { FLUSH } } },
	{ "a commit, and a write to another L2 table", SMALL,
	  { { WRITE, 0, 16 * K } },
	  { FLUSH },
	  { { WRITE, 100 * K, 8 * K }, { DISCARD, 0, 8 * K }, { FLUSH },
	    { RELEASE }, { WRITE, 200 * K, 8 * K } } },
	{ "a commit of discards, and writes that want clusters", PLAIN,
	  { { WRITE, 0, 64 * K }, { FLUSH }, { DISCARD, 0, 32 * K } },
	  { FLUSH },
	  { { WRITE, 256 * K, 64 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 64 * K } } },
	{ "a commit in batches, with discards in the last", SMALL,
	  { { WRITE, 0, 1024 * K }, { FLUSH }, { RELEASE },
	    { DISCARD, 0, 4 * K }, { DISCARD, 64 * K, 4 * K },
	    { WRITE, 128 * K, 300 * K }, { DISCARD, 128 * K, 800 * K },
	    { DISCARD, 1000 * K, 8 * K }, { NO_MEMORY } },
	  { FLUSH },
	  { { RELEASE }, { MEMORY } } },
	{ "refcounts that a commit without space did not write", SMALL,
	  { { WRITE, 0, 1024 * K }, { DISCARD, 0, 1024 * K }, { FLUSH },
	    { RELEASE }, { FLUSH }, { WRITE, 0, 1024 * K },
	    { NO_SPACE_ONCE } },
	  { FLUSH },
	  { { RELEASE } } },
	{ "discards that a commit without space did not apply", SMALL,
	  { { WRITE, 0, 64 * K }, { FLUSH }, { DISCARD, 0, 16 * K },
	    { NO_SPACE_ONCE } },
	  { FLUSH },
	  { { RELEASE } } },
	{ "clusters that became free without memory to note it, and a write",
	  PLAIN,
	  { { WRITE, 0, 32 * K }, { FLUSH }, { DISCARD, 0, 32 * K },
	    { NO_MEMORY }, { FLUSH }, { RELEASED }, { MEMORY },
	    { SIZE_STAYS } },
	  { WRITE, 256 * K, 16 * K },
	  { { WRITE, 512 * K, 16 * K } } },
	{ "much that becomes free, and little memory for it", SMALL,
	  { { WRITE, 0, 1024 * K }, { FLUSH }, { FEW_DIRTY },
	    { DISCARD, 0, 1024 * K }, { FLUSH }, { RELEASED }, { ARE_FEW } },
	  { WRITE, 0, 1 * K },
	  { { WRITE, 512 * K, 1 * K } } },
	{ "an L2 table that moves, and its place is reused", NOT_COPIED,
	  { { WRITE, 0, 16 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 32 * K, 1 * K }, { FLUSH } },
	  { READ, 32 * K, 16 * K },
	  { { WRITE, 64 * K, 1 * K }, { READ, 40 * K, 32 * K }, { FLUSH } } },
	{ "a write that fails, and one that waits for it", PLAIN,
	  { { WRITE, 64 * K, 4 * K }, { FLUSH }, { EIO_ONCE } },
	  { WRITE, 1 * K, 1 * K },
	  { { WRITE, 2 * K, 1 * K }, { WRITE, 0, 8 * K } } },
	{ "clusters that are about to become free, and who wants some", PLAIN,
	  { { WRITE, 0, 16 * K }, { FLUSH }, { DISCARD, 0, 16 * K } },
	  { RELEASED },
	  { { WRITE, 256 * K, 16 * K }, { WRITE, 512 * K, 64 * K } } },
	{ "clusters that a snapshot keeps, and who wants some", SHARED,
	  { { WRITE, 0, 16 * K }, { FLUSH }, { DISCARD, 0, 32 * K } },
	  { RELEASED },
	  { { WRITE, 256 * K, 16 * K }, { WRITE, 512 * K, 64 * K } } },
	{ "an L2 table that moves, and a write of its own", SHARED,
	  { { FLUSH } },
	  { WRITE, 0, 4 * K },
	  { { WRITE, 8 * K, 4 * K }, { FLUSH }, { READ, 0, 64 * K } } },
	{ "a new L2 table, and another", SMALL,
	  { { FLUSH } },
	  { WRITE, 0, 4 * K },
	  { { WRITE, 32 * K, 4 * K }, { WRITE, 8 * K, 4 * K }, { FLUSH } } },
	{ "a write that copies from a backing file, and discards around it",
	  BACKED,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { WRITE, 3 * K, 6 * K },
	  { { DISCARD, 4 * K, 8 * K }, { ZERO_UNMAP, 512, 1 * K }, { FLUSH },
	    { RELEASE }, { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a write that copies from a backing file, and zeroes that stay",
	  BACKED,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { WRITE, 1 * K, 1 * K },
	  { { ZERO, 0, 8 * K }, { WRITE, 5 * K, 1 * K }, { FLUSH } } },
	{ "a discard of what a backing file shows, and writes", BACKED,
	  { { WRITE, 1 * K, 1 * K }, { FLUSH } },
	  { DISCARD, 0, 12 * K },
	  { { WRITE, 2 * K, 1 * K }, { WRITE, 6 * K, 8 * K }, { FLUSH },
	    { RELEASE }, { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a commit of copies from a backing file, and their discard", BACKED,
	  { { WRITE, 1 * K, 1 * K }, { WRITE, 6 * K, 4 * K } },
	  { FLUSH },
	  { { DISCARD, 0, 8 * K }, { WRITE, 5 * K, 512 }, { FLUSH },
	    { RELEASE }, { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a commit of zeroes before a backing file, and writes to parts",
	  BACKED,
	  { { WRITE, 0, 8 * K }, { FLUSH }, { ZERO_UNMAP, 0, 8 * K } },
	  { FLUSH },
	  { { WRITE, 1 * K, 1 * K }, { FLUSH }, { READ, 0, 8 * K },
	    { RELEASE }, { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "clusters in front of a backing file become free, and writes", BACKED,
	  { { WRITE, 1 * K, 4 * K }, { FLUSH }, { DISCARD, 0, 8 * K } },
	  { RELEASED },
	  { { WRITE, 1 * K, 1 * K }, { ZERO_UNMAP, 4 * K, 4 * K },
	    { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "write zeroes of parts of clusters, and writes to others", BACKED,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { ZERO_UNMAP, 2 * K, 6 * K },
	  { { WRITE, 1 * K, 1 * K }, { WRITE, 5 * K, 1 * K }, { FLUSH } } },
	{ "a write, and write zeroes of what is zero beside it", PLAIN,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { WRITE, 1 * K, 1 * K },
	  { { ZERO_UNMAP, 2 * K, 7 * K }, { ZERO, 0, 1 * K }, { FLUSH } } },
	{ "write zeroes of what is zero, and writes beside it", PLAIN,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { ZERO_UNMAP, 2 * K, 7 * K },
	  { { WRITE, 1 * K, 1 * K }, { WRITE, 9 * K, 1 * K }, { FLUSH } } },
	{ "write zeroes that stay, and writes to their clusters", PLAIN,
	  { { WRITE, 0, 12 * K }, { FLUSH } },
	  { ZERO, 0, 12 * K },
	  { { WRITE, 1 * K, 1 * K }, { WRITE, 8 * K, 4 * K }, { FLUSH } } },
	{ "a write to a zero cluster that has its place, and a discard", PLAIN,
	  { { WRITE, 0, 8 * K }, { ZERO, 0, 8 * K }, { FLUSH } },
	  { WRITE, 1 * K, 4 * K },
	  { { DISCARD, 0, 8 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a write to a zero cluster that is kept, and discards", NO_UNREF,
	  { { WRITE, 0, 8 * K }, { DISCARD, 0, 8 * K }, { FLUSH } },
	  { WRITE, 1 * K, 4 * K },
	  { { DISCARD, 0, 4 * K }, { ZERO_UNMAP, 4 * K, 4 * K },
	    { WRITE, 2 * K, 1 * K }, { FLUSH } } },
	{ "a write into shared data, and its discard", SHARED,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { WRITE, 109 * K, 1 * K },
	  { { DISCARD, 108 * K, 8 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a write into compressed data, and zeroes around it", COMPRESSED,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { WRITE, 3 * K, 2 * K },
	  { { ZERO_UNMAP, 512, 1 * K }, { DISCARD, 4 * K, 8 * K }, { FLUSH },
	    { RELEASE }, { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "zeroes written into compressed data, and writes", COMPRESSED,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { ZERO_UNMAP, 1 * K, 7 * K },
	  { { WRITE, 512, 512 }, { WRITE, 6 * K, 1 * K }, { FLUSH },
	    { RELEASE }, { WRITE, 512 * K, 16 * K }, { FLUSH } } },
	{ "a write to new subclusters, and discards of others",
	  BACKED_EXTENDED,
	  { { WRITE, 768 * K, 4 * K }, { FLUSH } },
	  { WRITE, 8 * K + 512, 512 },
	  { { DISCARD, 10 * K, 4 * K }, { ZERO_UNMAP, 9 * K + 512, 2 * K },
	    { DISCARD, 8 * K, 2 * K }, { FLUSH } } },
	{ "a write to more subclusters, and discards of those with data",
	  BACKED_EXTENDED,
	  { { WRITE, 4 * K, 2 * K }, { FLUSH } },
	  { WRITE, 8 * K + 512, 512 },
	  { { DISCARD, 0, 8 * K }, { FLUSH }, { RELEASE },
	    { WRITE, 512 * K, 64 * K }, { ZERO, 8 * K, 1 * K }, { FLUSH } } },
	{ "a discard of subclusters, and writes to them and others",
	  BACKED_EXTENDED,
	  { { WRITE, 4 * K, 6 * K }, { FLUSH } },
	  { DISCARD, 4 * K, 6 * K },
	  { { WRITE, 8 * K + 512, 512 }, { WRITE, 20 * K, 1 * K }, { FLUSH },
	    { RELEASE }, { WRITE, 512 * K, 64 * K }, { FLUSH } } },
	{ "a write to subclusters that are kept, and discards",
	  EXTENDED_NO_UNREF,
	  { { WRITE, 0, 4 * K }, { DISCARD, 0, 4 * K }, { FLUSH } },
	  { WRITE, 2 * K, 1 * K },
	  { { DISCARD, 0, 16 * K }, { WRITE, 4 * K, 512 }, { FLUSH } } },
};

/*
 * A play.
 */

struct write {
	u64 seq;
	u64 begun, done;	/* points in time; 0: not done */
	u32 first, nr;		/* sectors */
	bool zeroes;
	bool fua;
};

/**
 * struct sight - all that decides what a look finds, and what may be there
 * @records: in the file's log
 * @points: the sum of the points in time at which they were applied and ended
 * @flushed: what was done before this is durable
 * @fua: so many FUA writes are done
 */
struct sight {
	size_t records;
	u64 points, flushed, fua;
};

/**
 * struct play - a scene with A stopped at one place
 * @scene: the scene
 * @nowait: do transfers go without a worker where they can?
 * @stop_at: number of the place, from 0
 * @w: the file, the image, the disk
 * @path: name of the file at the start
 * @file: its content
 * @file_bytes: its length
 * @layer: the backing file, or NULL
 * @backing: its content
 * @disk: the disk at the start
 * @seen: at the last look; only while the file pauses
 * @lock: protects what follows
 * @writes: in the order of their beginnings
 * @nr_writes: their number
 * @flushed: what was done before this is durable
 * @space_ran_out: a flush may fail
 * @may_fail: a write may fail
 * @max_bytes: the file may not be longer; 0: it may
 */
struct play {
	const struct scene *scene;
	enum memfile_nowait nowait;
	unsigned int stop_at;
	struct workload w;
	char path[600];
	unsigned char *file;
	size_t file_bytes;
	struct file *layer;
	unsigned char *backing;
	unsigned char *disk;
	struct sight seen;

	pthread_mutex_t lock;
	struct write writes[MAX_WRITES];
	unsigned int nr_writes;
	u64 flushed;
	bool space_ran_out;
	bool may_fail;
	u64 max_bytes;
};

/*
 * Stopping A.
 */

static struct {
	pthread_t owner, first;
	bool armed, owned, behind;
	u64 first_work, places;
	unsigned int seen, stop_at;
	bool stopped;
	struct play *play;
	sem_t reached, go;
} stop;

static void look_at_power_cut(struct play *p, const char *where);

/* This thread only looks. */
static __thread bool watching;

/*
 * For A that is what a flush or a discard sets going: its own work comes by
 * first, and then another, maybe in the same thread.
 */
static bool is_behind(void)
{
	if (!stop.behind)
		return true;
	if (!stop.seen) {
		stop.seen = 1;
		stop.first = pthread_self();
		stop.first_work = shim_works_begun();
	}
	if (pthread_equal(stop.first, pthread_self()) &&
	    stop.first_work == shim_works_begun())
		return false;
	stop.seen = 0;
	return true;
}

/* The first thread that comes by is A's; B is not there yet. */
static void stop_here(void)
{
	__atomic_fetch_add(&stop.places, 1, __ATOMIC_RELAXED);
	if (watching || !__atomic_load_n(&stop.armed, __ATOMIC_ACQUIRE))
		return;
	if (!stop.owned && !is_behind())
		return;
	if (!stop.owned) {
		stop.owner = pthread_self();
		stop.owned = true;
	}
	if (!pthread_equal(stop.owner, pthread_self()))
		return;
	if (stop.seen++ > stop.stop_at)
		look_at_power_cut(stop.play, "later on");
	if (stop.stopped || stop.seen <= stop.stop_at)
		return;
	stop.stopped = true;
	sem_post(&stop.reached);
	while (sem_wait(&stop.go))
		;
}

static void arm(struct play *p, bool behind)
{
	sem_init(&stop.reached, 0, 0);
	sem_init(&stop.go, 0, 0);
	stop.owned = false;
	stop.behind = behind;
	stop.stopped = false;
	stop.seen = 0;
	stop.stop_at = p->stop_at;
	stop.play = p;
	__atomic_store_n(&stop.armed, true, __ATOMIC_RELEASE);
}

static void disarm(void)
{
	__atomic_store_n(&stop.armed, false, __ATOMIC_RELEASE);
}

static bool wait_ms(sem_t *sem, unsigned int ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += ms % 1000 * 1000000L;
	until.tv_sec += ms / 1000 + until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (sem_timedwait(sem, &until))
		if (errno == ETIMEDOUT)
			return false;
	return true;
}

/*
 * What may be where.
 */

static bool covers(const struct write *write, u64 s)
{
	return s >= write->first && s < write->first + write->nr;
}

static bool is_zero(const unsigned char *sector)
{
	return !sector[0] && !memcmp(sector, sector + 1, WL_SECTOR - 1);
}

static bool explains(const struct write *write, u64 s,
		     const unsigned char *content)
{
	u64 want[WL_SECTOR / 8];

	if (write->zeroes)
		return is_zero(content);
	wl_fill_sector(SEED, write->seq, s, want);
	return !memcmp(want, content, WL_SECTOR);
}

/**
 * struct view - when somebody looked
 * @time: what was done before may not be missing
 * @flushed: unless it was done after this, and is no FUA write
 */
struct view {
	u64 time;
	u64 flushed;
};

/* Did a write that may not be missing come after all of @old? */
static bool is_overwritten(const struct play *p, const struct write *old,
			   u64 s, const struct view *view)
{
	unsigned int i;

	for (i = 0; i < p->nr_writes; i++) {
		const struct write *new = &p->writes[i];
		u64 limit = new->fua ? view->time : view->flushed;

		if (new != old && covers(new, s) && new->done &&
		    new->done < limit &&
		    (!old || (old->done && old->done < new->begun)))
			return true;
	}
	return false;
}

/* May sector @s have this content? */
static bool is_right(const struct play *p, u64 s, const unsigned char *content,
		     const struct view *view)
{
	unsigned int i;

	for (i = 0; i < p->nr_writes; i++)
		if (covers(&p->writes[i], s) &&
		    explains(&p->writes[i], s, content) &&
		    !is_overwritten(p, &p->writes[i], s, view))
			return true;
	return !memcmp(content, p->disk + s * WL_SECTOR, WL_SECTOR) &&
	       !is_overwritten(p, NULL, s, view);
}

static void compare(struct play *p, u64 offset, u64 bytes,
		    const unsigned char *buf, const struct view *view,
		    const char *where)
{
	u64 pos;

	pthread_mutex_lock(&p->lock);
	for (pos = 0; pos < bytes; pos += WL_SECTOR)
		if (!is_right(p, (offset + pos) / WL_SECTOR, buf + pos,
			      view))
			wl_fail(SEED, "%s: sector %llu has tag %llu (of sector %llu)",
				where, (offset + pos) / WL_SECTOR,
				wl_sector_seq(SEED, buf + pos),
				((u64 *)(buf + pos))[3]);
	pthread_mutex_unlock(&p->lock);
}

/*
 * Looking at the file.
 */

static const char *open_file(const struct play *p, struct qimg *q,
			     const unsigned char *file, size_t bytes)
{
	return qimg_open_on(q, file, bytes, p->backing, BACKING_BYTES);
}

static void look_at(struct play *p, const unsigned char *file, size_t bytes,
		    const struct view *view, const char *where)
{
	unsigned char *disk = must(malloc(p->w.bytes));
	struct qcheck check;
	const char *why;
	struct qimg q;

	why = open_file(p, &q, file, bytes);
	if (!why)
		why = qimg_read(&q, 0, p->w.bytes, disk);
	if (why)
		wl_fail(SEED, "%s: %s", where, why);
	qimg_check(&q, &check);
	/* So the image was made; nothing of ours is to be held against it. */
	if (check.corruptions && p->scene->image != NOT_COPIED)
		wl_fail(SEED, "%s: %s", where, check.first);
	compare(p, 0, p->w.bytes, disk, view, where);
	free(disk);
	total.looks++;
}

/* The file with nothing but what flushes and dsync guarantee. */
static unsigned char *durable_file(struct play *p, size_t *bytes)
{
	size_t nr, i;
	const struct memfile_record *log = memfile_log(p->w.filp, &nr);
	u64 covered = 0;
	unsigned char *file;

	*bytes = p->file_bytes;
	for (i = 0; i < nr; i++) {
		if (log[i].op == MEMFILE_FLUSH && log[i].ended && !log[i].error)
			covered = max(covered, log[i].begun);
		*bytes = max_t(u64, *bytes, log[i].offset + log[i].bytes);
	}
	file = must(calloc(1, *bytes));
	memcpy(file, p->file, p->file_bytes);
	for (i = 0; i < nr; i++) {
		const struct memfile_record *r = &log[i];

		if (r->op == MEMFILE_FLUSH || r->error || !r->ended ||
		    !(r->dsync || r->ended < covered))
			continue;
		if (r->data)
			memcpy(file + r->offset, r->data, r->bytes);
		else
			memset(file + r->offset, 0, r->bytes);
	}
	return file;
}

static u64 fua_done(const struct play *p)
{
	unsigned int i;
	u64 nr = 0;

	for (i = 0; i < p->nr_writes; i++)
		nr += p->writes[i].fua && p->writes[i].done;
	return nr;
}

/* Is there anything to be seen that was not there at the last look? */
static bool is_new(struct play *p, struct sight *now)
{
	const struct memfile_record *log;
	bool same;
	size_t i;

	log = memfile_log(p->w.filp, &now->records);
	for (i = 0; i < now->records; i++)
		now->points += log[i].applied + log[i].ended;
	same = !memcmp(now, &p->seen, sizeof(*now));
	p->seen = *now;
	return !same;
}

/* As a power cut leaves it, with nothing and with all of what was not flushed. */
static void look_at_power_cut(struct play *p, const char *where)
{
	struct sight now = {};
	struct view view;
	char text[100];
	unsigned char *file;
	size_t bytes;

	pthread_mutex_lock(&p->lock);
	now.flushed = p->flushed;
	now.fua = fua_done(p);
	pthread_mutex_unlock(&p->lock);
	view.flushed = now.flushed;
	view.time = memfile_now(p->w.filp);
	memfile_pause(p->w.filp);
	if (!is_new(p, &now)) {
		memfile_go_on(p->w.filp);
		return;
	}
	file = durable_file(p, &bytes);
	memfile_go_on(p->w.filp);
	snprintf(text, sizeof(text), "%s, only what was flushed", where);
	look_at(p, file, bytes, &view, text);
	free(file);

	file = memfile_flatten(p->w.filp, &bytes);
	snprintf(text, sizeof(text), "%s, all that was written", where);
	look_at(p, file, bytes, &view, text);
	free(file);
}

/*
 * Steps.
 */

static struct write *note_begin(struct play *p, const struct step *step,
				bool zeroes)
{
	struct write *write;

	pthread_mutex_lock(&p->lock);
	if (p->nr_writes == MAX_WRITES)
		shim_die("interleave: too many writes");
	write = &p->writes[p->nr_writes];
	*write = (struct write) {
		.seq = ++p->nr_writes,
		.begun = memfile_now(p->w.filp),
		.first = step->offset / WL_SECTOR,
		.nr = step->bytes / WL_SECTOR,
		.zeroes = zeroes,
		.fua = step->what == WRITE_FUA,
	};
	pthread_mutex_unlock(&p->lock);
	return write;
}

static void note_end(struct play *p, struct write *write)
{
	pthread_mutex_lock(&p->lock);
	write->done = memfile_now(p->w.filp);
	pthread_mutex_unlock(&p->lock);
}

static void transfer(struct play *p, const struct step *step)
{
	unsigned char *buf = must(aligned_alloc(4096, round_up(step->bytes,
							       4096U)));
	bool read = step->what == READ;
	struct waiting_io wait = {
		.io = {
			.op = read ? QCOW2_OP_READ : QCOW2_OP_WRITE,
			.offset = step->offset,
			.fua = step->what == WRITE_FUA,
		},
	};
	u64 begun = memfile_now(p->w.filp);
	struct view view = { .time = begun, .flushed = begun };
	struct write *write = read ? NULL : note_begin(p, step, false);
	struct bio_vec bv;
	u32 s;

	for (s = 0; write && s < write->nr; s++)
		wl_fill_sector(SEED, write->seq, write->first + s,
			       buf + s * WL_SECTOR);
	bvec_set_virt(&bv, buf, step->bytes);
	iov_iter_bvec(&wait.io.iter, read ? ITER_DEST : ITER_SOURCE, &bv, 1,
		      step->bytes);
	wl_submit(p->w.img, &wait);
	if (wait.io.error && (read || !p->may_fail))
		wl_fail(SEED, "a transfer at %u failed: %d", step->offset,
			wait.io.error);
	if (wait.io.error) {
		p->may_fail = false;
		free(buf);
		return;
	}
	if (read)
		compare(p, step->offset, step->bytes, buf, &view, "a read");
	else
		note_end(p, write);
	free(buf);
	if (step->what == WRITE_FUA)
		look_at_power_cut(p, "after FUA");
}

static void write_middles(struct play *p, const struct step *step)
{
	struct step one = { WRITE, step->offset + 64 * K, WL_SECTOR };

	for (; one.offset < step->offset + step->bytes; one.offset += 128 * K)
		transfer(p, &one);
}

static void zero(struct play *p, const struct step *step)
{
	struct waiting_io wait = {
		.io = {
			.op = step->what == DISCARD ? QCOW2_OP_DISCARD :
						      QCOW2_OP_WRITE_ZEROES,
			.offset = step->offset,
			.bytes = step->bytes,
			.unmap = step->what == ZERO_UNMAP,
		},
	};
	struct write *write = note_begin(p, step, true);

	if (wl_submit(p->w.img, &wait))
		wl_fail(SEED, "zeroing at %u failed: %d", step->offset,
			wait.io.error);
	note_end(p, write);
}

static void flush(struct play *p)
{
	struct waiting_io wait = { .io = { .op = QCOW2_OP_FLUSH } };
	u64 begun = memfile_now(p->w.filp);
	int ret = wl_submit(p->w.img, &wait);

	if (ret && !p->space_ran_out)
		wl_fail(SEED, "a flush failed: %d", ret);
	if (ret) {
		p->space_ran_out = false;
		return;
	}
	pthread_mutex_lock(&p->lock);
	p->flushed = max(p->flushed, begun);
	pthread_mutex_unlock(&p->lock);
	look_at_power_cut(p, "after a flush");
}

static void wait_for_release(struct play *p, unsigned int ms)
{
	unsigned int i;

	watching = true;
	for (i = 0; i < ms * 4 && READ_ONCE(p->w.img->releasing); i++)
		usleep(250);
	watching = false;
}

static struct qcow2_image *get_layer(struct play *p)
{
	const struct qcow2_layer_spec spec = {
		.filp = p->layer,
		.name = "layer",
		.raw = true,
	};
	struct qcow2_reason why = {};
	struct qcow2_image *layer = qcow2_layer_get(&spec, &why);

	if (IS_ERR(layer))
		wl_fail(SEED, "layer: %s (%ld)", why.text, PTR_ERR(layer));
	return layer;
}

static void open_image(struct play *p)
{
	struct qcow2_image *layers[1];
	const struct qcow2_options options = {
		.file_flags = QCOW2_FILE_WRITABLE,
		.discard_no_unref = p->scene->image == NO_UNREF ||
				    p->scene->image == EXTENDED_NO_UNREF,
		.layers = layers,
		.nr_layers = !!p->layer,
	};
	struct qcow2_reason why = {};

	if (p->layer)
		layers[0] = get_layer(p);
	p->w.img = qcow2_image_open(p->w.filp, "test", &options, &why);
	if (IS_ERR(p->w.img))
		wl_fail(SEED, "open: %s (%ld)", why.text, PTR_ERR(p->w.img));
	verify_opened(p->w.img);
}

static void close_image(struct play *p)
{
	int ret;

	verify_closing(p->w.img);
	ret = qcow2_image_close(p->w.img);
	if (ret)
		wl_fail(SEED, "close: %d", ret);
	p->flushed = memfile_now(p->w.filp);
}

static void take_step(struct play *p, const struct step *step)
{
	struct memfile_fault once = {
		.ops = 1U << MEMFILE_WRITE,
		.times = 1,
		.error = step->what == NO_SPACE_ONCE ? -ENOSPC : -EIO,
	};

	if (step->what == EIO_READ_ONCE)
		once.ops = 1U << MEMFILE_READ;

	switch (step->what) {
	case READ:
	case WRITE:
	case WRITE_FUA:
		transfer(p, step);
		break;
	case MIDDLES:
		write_middles(p, step);
		break;
	case DISCARD:
	case ZERO:
	case ZERO_UNMAP:
		zero(p, step);
		break;
	case FLUSH:
		flush(p);
		break;
	case RELEASE:
		wait_for_release(p, RELEASE_MS);
		break;
	case RELEASED:
		wait_for_release(p, HANG_SECONDS * 1000);
		break;
	case NO_MEMORY:
		shim_fail_nth_allocation(0, 0);
		break;
	case MEMORY:
		shim_fail_nth_allocation(U64_MAX, 1);
		break;
	case NO_SPACE_ONCE:
		p->space_ran_out = true;
		memfile_fault(p->w.filp, &once);
		break;
	case EIO_ONCE:
	case EIO_READ_ONCE:
		p->may_fail = true;
		memfile_fault(p->w.filp, &once);
		break;
	case REOPEN:
		close_image(p);
		open_image(p);
		break;
	case SIZE_STAYS:
		p->max_bytes = memfile_bytes(p->w.filp);
		break;
	case FEW_DIRTY:
		p->w.img->max_dirty = MAX_DIRTY;
		break;
	case ARE_FEW:
		if (READ_ONCE(p->w.img->nr_dirty) > 2 * MAX_DIRTY)
			wl_fail(SEED, "%u slices are changed",
				p->w.img->nr_dirty);
		break;
	case END:
		break;
	}
}

static void take_steps(struct play *p, const struct step *steps)
{
	unsigned int i;

	for (i = 0; i < MAX_STEPS && steps[i].what != END; i++)
		take_step(p, &steps[i]);
}

/*
 * The stage.
 */

static const struct base_options images[] = {
	[PLAIN] = { .cluster_bits = 12, .refcount_bits = 16 },
	[NO_UNREF] = { .cluster_bits = 12, .refcount_bits = 16 },
	[SMALL] = { .cluster_bits = 9, .refcount_bits = 64 },
	[EXTENDED] = { .cluster_bits = 14, .refcount_bits = 16, .extl2 = true },
	[SHARED] = { .cluster_bits = 12, .refcount_bits = 16, .metadata = true,
		     .snapshot = true, .filled = true },
	[SHARED_EXTENDED] = { .cluster_bits = 17, .refcount_bits = 16,
			      .extl2 = true, .filled = true, .snapshot = true,
			      .seed = 2020 },
	[NOT_COPIED] = { .cluster_bits = 9, .refcount_bits = 16,
			 .metadata = true },
	[BACKED] = { .cluster_bits = 12, .refcount_bits = 16 },
	[BACKED_EXTENDED] = { .cluster_bits = 16, .refcount_bits = 16,
			      .extl2 = true },
	[COMPRESSED] = { .cluster_bits = 12, .refcount_bits = 16,
			 .compressed = true, .seed = 1 },
	[EXTENDED_NO_UNREF] = { .cluster_bits = 14, .refcount_bits = 16,
				.extl2 = true },
};

static void put_on_backing(struct play *p,
			   const struct memfile_options *options)
{
	p->backing = must(malloc(BACKING_BYTES));
	base_put_on_backing(p->file, images[p->scene->image].cluster_bits,
			    p->backing, BACKING_BYTES, SEED);
	p->layer = memfile_create(options);
	memfile_load_buf(p->layer, p->backing, BACKING_BYTES);
}

static void forget_copied(unsigned char *file, size_t bytes)
{
	struct qimg q;
	u32 i;

	if (qimg_open(&q, file, bytes))
		shim_die("interleave: no image");
	for (i = 0; i < q.l1_entries; i++)
		file[q.l1_offset + i * 8] &= 0x7f;
}

static void set_stage(struct play *p)
{
	const struct memfile_options options = {
		.seed = SEED,
		.record = true,
		.nowait = p->nowait,
	};
	struct base_options base = images[p->scene->image];
	struct qimg q;
	unsigned char *content;

	base.version = 3;
	base.virtual_bytes = 1024 * K;
	base.seed = base.seed ?: 2000;
	if (base_make(&base, args.images, p->path, sizeof(p->path)))
		exit(2);
	p->file = must(read_file(p->path, &p->file_bytes));
	if (p->scene->image == NOT_COPIED)
		forget_copied(p->file, p->file_bytes);
	if (p->scene->image == BACKED || p->scene->image == BACKED_EXTENDED)
		put_on_backing(p, &options);
	p->disk = must(malloc(base.virtual_bytes));
	content = must(malloc(base.virtual_bytes));
	if (open_file(p, &q, p->file, p->file_bytes) ||
	    qimg_read(&q, 0, base.virtual_bytes, p->disk))
		wl_fail(SEED, "the base image cannot be read");
	p->w.filp = memfile_create(&options);
	memfile_load_buf(p->w.filp, p->file, p->file_bytes);
	wl_init(&p->w, content, base.virtual_bytes);
	pthread_mutex_init(&p->lock, NULL);
	open_image(p);
}

static void look_at_end(struct play *p)
{
	struct step whole = { READ, 0, p->w.bytes };
	struct step end = { FLUSH };
	struct view view;
	unsigned char *file;
	struct qcheck check;
	struct qimg q;
	size_t bytes;

	take_step(p, &whole);
	if (p->max_bytes && memfile_bytes(p->w.filp) > p->max_bytes)
		wl_fail(SEED, "the file has grown");
	p->space_ran_out = false;
	take_step(p, &end);
	close_image(p);
	file = memfile_flatten(p->w.filp, &bytes);
	view.time = memfile_now(p->w.filp);
	view.flushed = view.time;
	look_at(p, file, bytes, &view, "at the end");
	open_file(p, &q, file, bytes);
	qimg_check(&q, &check);
	if (!base_snapshot_is_kept(p->path, &q))
		wl_fail(SEED, "at the end: the snapshot has changed");
	if (check.leaks && p->scene->image != NOT_COPIED)
		wl_fail(SEED, "at the end: %u leaks", check.leaks);
	free(file);
}

static void clear_stage(struct play *p)
{
	memfile_destroy(p->w.filp);
	if (p->layer)
		memfile_destroy(p->layer);
	wl_destroy(&p->w);
	pthread_mutex_destroy(&p->lock);
	free(p->file);
	free(p->backing);
	free(p->disk);
}

/*
 * Playing.
 */

struct actor {
	struct play *p;
	const struct step *steps;
	pthread_t thread;
	sem_t done;
};

static void *act(void *arg)
{
	struct actor *actor = arg;

	take_steps(actor->p, actor->steps);
	sem_post(&actor->done);
	return NULL;
}

static void enter(struct actor *actor, struct play *p, const struct step *steps)
{
	actor->p = p;
	actor->steps = steps;
	sem_init(&actor->done, 0, 0);
	if (pthread_create(&actor->thread, NULL, act, actor))
		shim_die("no thread");
}

static void leave(struct actor *actor)
{
	pthread_join(actor->thread, NULL);
	sem_destroy(&actor->done);
}

/* False if A was done before it came to this place. */
static bool act_both(struct play *p)
{
	const struct step *what = &p->scene->a;
	bool behind = what->what == RELEASED;
	const struct step a_steps[3] = {
		{ !behind ? what->what : what->bytes ? DISCARD : FLUSH,
		  what->offset, what->bytes },
		{ behind ? RELEASED : END },
	};
	struct actor a, b;
	u64 places;

	arm(p, behind);
	enter(&a, p, a_steps);
	while (!wait_ms(&stop.reached, 1) && !wait_ms(&a.done, 1))
		;
	if (!stop.stopped) {
		disarm();
		leave(&a);
		return false;
	}
	look_at_power_cut(p, "when stopped");
	enter(&b, p, p->scene->b);
	do
		places = __atomic_load_n(&stop.places, __ATOMIC_RELAXED);
	while (!wait_ms(&b.done, PATIENCE_MS) &&
	       places != __atomic_load_n(&stop.places, __ATOMIC_RELAXED));
	look_at_power_cut(p, "before it goes on");
	sem_post(&stop.go);
	leave(&a);
	disarm();
	leave(&b);
	return true;
}

static bool play_scene(const struct scene *scene, enum memfile_nowait nowait,
		       unsigned int stop_at)
{
	struct play *p = must(calloc(1, sizeof(*p)));
	char text[200];
	bool reached;

	snprintf(text, sizeof(text), "%s, %s, stopped at %u: ", scene->name,
		 nowait == MEMFILE_NOWAIT_NEVER ? "by workers" : "fast",
		 stop_at);
	wl_say(text);
	wl_name_seed(SEED, HANG_SECONDS);
	shim_log_clear();
	p->scene = scene;
	p->nowait = nowait;
	p->stop_at = stop_at;
	set_stage(p);
	take_steps(p, scene->before);
	reached = act_both(p);
	shim_fail_nth_allocation(U64_MAX, 1);
	if (!reached)
		take_steps(p, scene->b);
	look_at_end(p);
	clear_stage(p);
	free(p);
	wl_say("");
	total.plays++;
	return reached;
}

static void play_all(const struct scene *scene, enum memfile_nowait nowait,
		     u64 only)
{
	unsigned int i;

	for (i = only == ~0ULL ? 0 : only; play_scene(scene, nowait, i); i++)
		if (only != ~0ULL)
			break;
	if (args.verbose)
		fprintf(stderr, "%u places: %s\n", i, scene->name);
}

int main(int argc, char **argv)
{
	u64 only = U64_MAX, nr;
	const struct own_option own[] = {
		{ "stop", "only with A stopped at its Nth place, from 0", &only },
		{}
	};
	const struct command command = { "interleave", own };

	args_read(&command, argc, argv);
	shim_set_delay(SHIM_DELAY_NEVER);
	if (wl_init_pools())
		wl_fail(SEED, "cannot make the pools");
	shim_set_hook(stop_here);
	while (args_next(&nr) && nr - 1 < ARRAY_SIZE(scenes)) {
		play_all(&scenes[nr - 1], MEMFILE_NOWAIT_NEVER, only);
		play_all(&scenes[nr - 1], MEMFILE_NOWAIT_ALWAYS, only);
		total.scenes++;
	}
	alarm(0);
	wl_exit_pools();
	printf("interleave: %llu scenes, played %llu times, the file looked at %llu times\n",
	       total.scenes, total.plays, total.looks);
	return total.plays ? 0 : 1;
}
