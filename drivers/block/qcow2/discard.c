// SPDX-License-Identifier: GPL-2.0-only
/*
 * Discard and write zeroes.
 */

/**
 * DOC: discard and write zeroes
 *
 * Both make whole subclusters read as zeroes by changing their L2 entries; the
 * bytes of a write zeroes that do not fill a subcluster are written, those of
 * a discard are left alone.  Without extended L2 entries a subcluster is the
 * cluster.
 *
 * A write in flight in a cluster may be about to mark another of its subclusters
 * as data, so the entry is changed only when no write is in flight there.
 *
 * A cluster of which nothing is left loses its place in the file, unless the
 * request or the user wants it kept: the entry becomes ZERO without an offset,
 * and the reference is dropped, punched and reused by the steps in DOC: commit.  A
 * cluster that is kept has its entry marked ZERO (its subclusters' zero bits).
 * What was never allocated is marked too if a backing file would show through.
 * Version 2 has no such entries: 0 must do, and with a backing file discards do
 * nothing and zeroes are written.
 *
 * Of a compressed cluster only the whole can be zeroed by its entry; a part of it
 * is left alone by a discard, and written by a write zeroes.
 *
 * Where there is no L2 table, and no backing file, there is nothing to do.  A run of such
 * L1 entries is passed over in one step, however much they map: most of a large disk
 * that is discarded before it is used.
 *
 * What is zeroed of a cluster that keeps its place is punched too: all of it
 * with discard-no-unref, else what is long enough to be worth it.  A write must
 * not get between the change of the entry and the hole, so a meta in flight
 * keeps others off until the hole is there, and that has to wait until nobody
 * reads or writes there by the old entry (invariant I4); the discard waits on
 * that meta as anybody else.
 *
 * If there's a crash, then: an entry that reached the file reads as zeroes, one
 * that did not as before, and the cluster of the latter is untouched, because
 * it is only freed when the change is durable.
 */

#include <linux/align.h>
#include <linux/build_bug.h>
#include <linux/errno.h>
#include <linux/minmax.h>
#include <linux/slab.h>

#include "image.h"
#include "write.h"

/* Clusters whose entries change under one hold of meta_lock. */
#define STEP_CLUSTERS	128
static_assert(STEP_CLUSTERS * QCOW2_ENTRY_CLUSTERS_MAX <= QCOW2_DROP_ROOM);

/* L1 entries that are looked at under one hold of it. */
#define STEP_TABLES	1024

/* Less than this of a cluster that stays is not punched. */
#define PART_PUNCH_MIN	SZ_64K

/* The head or tail of a write zeroes is written. */
static_assert(BIT(QCOW2_MAX_CLUSTER_BITS) <= QCOW2_FILE_ZEROES_MAX);

/*
 * Entries.
 */

static struct qcow2_l2_entry zeroed_plain(const struct qcow2_geometry *geo,
					  struct qcow2_l2_entry old,
					  const struct qcow2_zeroing *z)
{
	struct qcow2_l2_entry new = {};

	if (qcow2_has_extl2(geo))
		new.bitmap = (old.bitmap & ~(u64)U32_MAX) |
			     QCOW2_SUB_RANGE(z->first, z->end) << 32;
	else if (geo->version > 2)
		new.word = QCOW2_OFLAG_ZERO;
	return new;
}

/**
 * zeroed_entry() - an L2 entry as it shall be when subclusters become zeroes
 * @geo: geometry
 * @old: the entry as it is; sound, and not compressed
 * @z: which subclusters, and whether the host cluster is to be kept
 *
 * QEMU: discard_in_l2_slice(), zero_in_l2_slice(), zero_l2_subclusters().
 * With the whole cluster unused the entry loses its offset, unless it is to be
 * kept.  A version 2 entry cannot be kept; the caller does not ask for it.
 *
 * Return: the entry.
 */
VISIBLE_IF_KUNIT struct qcow2_l2_entry
zeroed_entry(const struct qcow2_geometry *geo, struct qcow2_l2_entry old,
	     const struct qcow2_zeroing *z)
{
	struct qcow2_l2_entry new = old;
	u64 range = QCOW2_SUB_RANGE(z->first, z->end);

	if (!qcow2_has_extl2(geo)) {
		if (!z->keep)
			return zeroed_plain(geo, old, z);
		new.word |= QCOW2_OFLAG_ZERO;
		return new;
	}
	new.bitmap = (old.bitmap & ~range) | range << 32;
	if (!z->keep && !(u32)new.bitmap)
		return zeroed_plain(geo, old, z);
	return new;
}
EXPORT_SYMBOL_IF_KUNIT(zeroed_entry);

/* The subclusters of cluster @start that @offset to @end - 1 fill. */
static struct qcow2_zeroing zeroing_of(const struct qcow2_geometry *geo,
				       u64 start, u64 offset, u64 end)
{
	u64 first = max(offset, start) - start;
	u64 last = min(end, start + geo->cluster_bytes) - start;

	return (struct qcow2_zeroing) {
		.first = first >> geo->subcluster_bits,
		.end = last >> geo->subcluster_bits,
	};
}

/*
 * A step: some clusters of one slice.
 */

/**
 * struct step - a run of clusters to be zeroed under one hold of meta_lock
 * @img: the image
 * @offset: guest offset, aligned to a subcluster
 * @end: guest offset behind it, likewise
 * @limit: how far all steps are to go
 * @keep: host clusters shall be kept, with their space
 * @punch: record for space to give back of clusters that stay, or NULL
 * @skip_compressed: leave parts of compressed clusters alone instead of failing
 * @drop: record for the host clusters that lose their reference
 * @pass: to find what is in flight, and what is missing
 */
struct step {
	struct qcow2_image *img;
	u64 offset;
	u64 end;
	u64 limit;
	bool keep;
	bool skip_compressed;
	struct qcow2_punch *punch;
	struct qcow2_drop *drop;
	struct qcow2_pass pass;
};

/* What has no host cluster reads as zeroes, unless a backing file shows. */
static bool is_zero_already(const struct step *step, u64 start,
			    struct qcow2_l2_entry entry)
{
	switch (qcow2_get_cluster_type(&step->img->geo, entry.word)) {
	case QCOW2_CLUSTER_UNALLOCATED:
	case QCOW2_CLUSTER_ZERO_PLAIN:
		return !qcow2_shows_backing(step->img, start);
	default:
		return false;
	}
}

static bool is_whole(const struct qcow2_geometry *geo,
		     const struct qcow2_zeroing *z)
{
	return !z->first && z->end == geo->subclusters;
}

/* With discard-no-unref clusters stay, but for those that others use too. */
static bool keeps_place(const struct step *step, struct qcow2_l2_entry old)
{
	if (old.word & QCOW2_OFLAG_COMPRESSED)
		return false;
	if (step->keep)
		return true;
	return (old.word & QCOW2_OFLAG_COPIED) &&
	       test_bit(QCOW2_IMAGE_DISCARD_NO_UNREF, &step->img->flags);
}

static void add_punch_range(struct qcow2_punch *punch, u64 offset, u64 bytes)
{
	struct qcow2_range *last = punch->nr ? &punch->ranges[punch->nr - 1] :
					       NULL;

	if (last && last->offset + last->bytes == offset)
		last->bytes += bytes;
	else if (!WARN_ON_ONCE(punch->nr == punch->room))
		punch->ranges[punch->nr++] = (struct qcow2_range) {
			.offset = offset,
			.bytes = bytes,
		};
}

/* Subclusters of a cluster that stays became zeroes. */
static void punch_part(struct step *step, u64 cluster,
		       const struct qcow2_zeroing *z)
{
	const struct qcow2_geometry *geo = &step->img->geo;
	u64 start = (u64)z->first << geo->subcluster_bits;
	u64 end = (u64)z->end << geo->subcluster_bits;

	if (step->keep || !step->punch)
		return;
	if (is_whole(geo, z) || end - start >= PART_PUNCH_MIN)
		add_punch_range(step->punch, cluster + start, end - start);
}

/*
 * An entry has changed: gives back what it referred to.  The clusters of a data
 * file are nobody else's, whatever becomes of the entry.
 */
static void give_back(struct step *step, u64 start, u64 old_word, u64 new_word,
		      const struct qcow2_zeroing *z)
{
	const struct qcow2_geometry *geo = &step->img->geo;

	if (geo->has_data_file)
		punch_part(step, start, z);
	else if (!(new_word & QCOW2_OFFSET_MASK))
		qcow2_drop_add_entry(geo, step->drop, old_word);
	else if (old_word & QCOW2_OFLAG_COPIED)
		punch_part(step, old_word & QCOW2_OFFSET_MASK, z);
}

/* What lies there may be punched. */
static int check_old_clusters(struct qcow2_image *img, u64 word)
{
	u64 first;
	u32 nr = qcow2_entry_clusters(&img->geo, word, &first);

	if (!nr)
		return 0;
	return qcow2_check_data_write(img, first,
				      (u64)nr << img->geo.cluster_bits);
}

static int zero_cluster(struct step *step, struct qcow2_slice *slice, u64 start)
{
	const struct qcow2_geometry *geo = &step->img->geo;
	u32 index = qcow2_l2_slice_index(geo, start);
	struct qcow2_l2_entry old = qcow2_get_l2_entry(geo, slice, index);
	struct qcow2_zeroing z = zeroing_of(geo, start, step->offset, step->end);
	struct qcow2_l2_entry new;
	int ret;

	if (qcow2_vet_l2_entry(step->img, old, start))
		return -EUCLEAN;
	if (is_zero_already(step, start, old))
		return 0;
	if ((old.word & QCOW2_OFLAG_COMPRESSED) && !is_whole(geo, &z))
		return step->skip_compressed ? 0 : -EOPNOTSUPP;
	z.keep = keeps_place(step, old);
	new = zeroed_entry(geo, old, &z);
	if (new.word == old.word && new.bitmap == old.bitmap)
		return 0;
	if (check_old_clusters(step->img, old.word))
		return -EUCLEAN;
	if (!(new.word & QCOW2_OFFSET_MASK)) {
		ret = qcow2_check_entry_counted(step->img, old.word,
						&step->pass.need);
		if (ret)
			return ret;
	}
	ret = qcow2_set_l2_entry(geo, slice, index, new);
	if (ret)
		return qcow2_image_fail(step->img, ret,
					"cannot set L2 entry %u", index);
	qcow2_slice_mark_dirty(step->img, slice);
	give_back(step, start, old.word, new.word, &z);
	return 0;
}

/* Ends the step before a cluster for which something is missing. */
static int zero_in_slice(struct step *step, struct qcow2_slice *slice)
{
	const struct qcow2_geometry *geo = &step->img->geo;
	u64 first = qcow2_cluster_start(geo, step->offset);
	u64 start;

	for (start = first; start < step->end; start += geo->cluster_bytes) {
		int ret = zero_cluster(step, slice, start);

		if (ret == -EAGAIN && start > first)
			step->end = start;
		else if (ret)
			return ret;
	}
	return 0;
}

/*
 * How far one hold of meta_lock goes: a part of one cluster, which may have to
 * be written instead, or some whole ones.
 */
static u64 step_end(const struct qcow2_geometry *geo, u64 offset, u64 end)
{
	u64 cluster_end = ALIGN(offset + 1, (u64)geo->cluster_bytes);
	u64 bytes = (u64)STEP_CLUSTERS << geo->cluster_bits;

	if (qcow2_into_cluster(geo, offset) || end < cluster_end)
		return min(end, cluster_end);
	bytes = min(bytes, qcow2_to_slice_end(geo, offset));
	return min(qcow2_cluster_start(geo, end), offset + bytes);
}

/* How much from @step's offset on is in no L2 table and reads as zeroes. */
static u64 bytes_without_table(const struct step *step)
{
	struct qcow2_image *img = step->img;
	const struct qcow2_geometry *geo = &img->geo;
	u64 span = BIT_ULL(geo->l2_bits + geo->cluster_bits);
	u64 pos = step->offset;
	u32 i;

	/* What does not show here does not show behind it either. */
	if (qcow2_shows_backing(img, pos))
		return 0;
	for (i = 0; i < STEP_TABLES && pos < step->limit; i++) {
		u64 l1 = qcow2_l1_entry(img, qcow2_l1_index(geo, pos));

		if (l1 & QCOW2_OFFSET_MASK)
			break;
		pos = ALIGN(pos + 1, span);
	}
	return min(pos, step->limit) - step->offset;
}

static int try_step(struct step *step)
{
	struct qcow2_image *img = step->img;
	u64 without_table = bytes_without_table(step);
	u64 bytes = without_table ?: step->end - step->offset;
	struct qcow2_slice *slice;
	int ret;

	lockdep_assert_held(&img->meta_lock);
	ret = handle_dependencies(&step->pass, step->offset, &bytes);
	if (ret)
		return ret;
	step->end = step->offset + bytes;
	if (without_table)
		return 0;
	ret = qcow2_need_room(img, &step->pass.need);
	ret = ret ?: qcow2_own_l2_slice(img, step->offset, &step->pass.need,
					&slice);
	if (ret)
		return ret;
	ret = zero_in_slice(step, slice);
	qcow2_slice_put(slice);
	if (step->drop->nr) {
		qcow2_drop_later(img, step->drop);
		step->drop = NULL;
	}
	return ret;
}

/* Has the io go on when there are the holes; it is not ours any more then. */
static void wait_for_punch(struct step *step, struct qcow2_io *io)
{
	const struct qcow2_geometry *geo = &step->img->geo;
	struct qcow2_l2_meta *meta = &step->punch->meta;
	u64 start = qcow2_cluster_start(geo, step->offset);

	*meta = (struct qcow2_l2_meta) {
		.guest_offset = start,
		.nb_clusters = qcow2_clusters_of(geo, step->end - start),
	};
	meta->cow_end.bytes = meta->nb_clusters << geo->cluster_bits;
	qcow2_launch_meta(step->img, meta);
	list_add_tail(&io->wait, &meta->waiters);
	qcow2_punch_later(step->img, step->punch);
	step->punch = NULL;
}

static void advance(struct qcow2_io *io, u64 end)
{
	io->bytes -= min(io->bytes, end - io->offset);
	io->offset = end;
}

/* One try under meta_lock. */
static int try_and_advance(struct step *step, struct qcow2_io *io)
{
	int ret = try_step(step);

	if (ret == -EINPROGRESS)
		list_add_tail(&io->wait, &step->pass.blocker->waiters);
	if (ret)
		return ret;
	advance(io, step->end);
	if (!step->punch || !step->punch->nr)
		return 0;
	wait_for_punch(step, io);
	return -EINPROGRESS;
}

/* Zeroes from @step's offset on, as far as it comes, and advances @io. */
static int take_step(struct step *step, struct qcow2_io *io)
{
	struct qcow2_image *img = step->img;
	u64 end = step->end;
	int ret;

	for (;;) {
		step->end = end;
		mutex_lock(&img->meta_lock);
		ret = try_and_advance(step, io);
		mutex_unlock(&img->meta_lock);
		if (ret != -EAGAIN)
			break;
		ret = qcow2_need_meet(img, &step->pass.need);
		if (ret)
			break;
	}
	qcow2_need_done(&step->pass.need);
	return ret;
}

/* Without memory for it no space is given back of clusters that stay. */
static struct qcow2_punch *alloc_punch(const struct step *step, u32 nr)
{
	struct qcow2_image *img = step->img;
	struct qcow2_punch *punch;

	if (step->keep || test_bit(QCOW2_IMAGE_NO_PASS_DISCARD, &img->flags))
		return NULL;
	if (!qcow2_has_extl2(&img->geo) && !img->geo.has_data_file &&
	    !test_bit(QCOW2_IMAGE_DISCARD_NO_UNREF, &img->flags))
		return NULL;
	punch = kvmalloc(struct_size(punch, ranges, nr),
			 GFP_NOIO | __GFP_NOWARN);
	if (!punch)
		return NULL;
	punch->room = nr;
	punch->nr = 0;
	return punch;
}

/* Gets the memory that a step needs, takes it, and frees what it did not use. */
static int do_step(struct step *step, struct qcow2_io *io)
{
	const struct qcow2_geometry *geo = &step->img->geo;
	u64 start = qcow2_cluster_start(geo, step->offset);
	u32 nr = qcow2_clusters_of(geo, step->end - start);
	int ret;

	step->drop = qcow2_drop_alloc(step->img, nr * QCOW2_ENTRY_CLUSTERS_MAX);
	if (!step->drop)
		return -QCOW2_NO_RECORD;
	step->drop->nr = 0;
	step->punch = alloc_punch(step, nr);
	ret = take_step(step, io);
	qcow2_drop_free(step->img, step->drop);
	kvfree(step->punch);
	return ret;
}

/*
 * Where the last whole subcluster of an operation ends on a disk of a size.  The end of
 * the disk counts as the end of its last cluster.
 */
static u64 end_of(const struct qcow2_io *io, u64 virtual_bytes)
{
	const struct qcow2_geometry *geo = &io->img->geo;
	u64 end = io->offset + io->bytes;

	if (end == virtual_bytes)
		end = ALIGN(end, (u64)geo->cluster_bytes);
	return ALIGN_DOWN(end, BIT_ULL(geo->subcluster_bits));
}

/*
 * Zeroes whole subclusters, as many as one step can; none if the disk has become
 * longer, so that the last cluster is not the operation's any more.
 */
static int zero_some(struct qcow2_io *io, bool keep)
{
	struct qcow2_image *img = io->img;
	struct step step = {
		.img = img,
		.offset = io->offset,
		.keep = keep,
		.skip_compressed = io->op == QCOW2_OP_DISCARD,
		.pass = { .img = img, .exclusive = true },
	};
	struct qcow2_epoch *epoch;
	int ret;

	ret = qcow2_may_write(io);
	ret = ret ?: qcow2_mark_dirty(img);
	if (ret)
		return ret;
	epoch = qcow2_epoch_enter(img);
	/* In the epoch, see qcow2_set_virtual_bytes(). */
	step.limit = end_of(io, qcow2_virtual_bytes(img));
	step.end = step_end(&img->geo, io->offset, step.limit);
	if (io->offset < step.limit)
		ret = do_step(&step, io);
	qcow2_epoch_exit(epoch);
	return ret == -QCOW2_NO_RECORD ? qcow2_record_wait(img, io) : ret;
}

/*
 * Operations.
 */

/**
 * qcow2_can_discard() - is there an entry for what reads as zeroes?
 * @img: the image
 *
 * Whether there are layers never changes.
 *
 * Return: false if a backing file would show through instead.
 */
bool qcow2_can_discard(const struct qcow2_image *img)
{
	return img->geo.version > 2 || !rcu_access_pointer(img->chain);
}

static void finish(struct qcow2_io *io, int ret)
{
	if (ret == -EINPROGRESS)
		return;		/* not ours any more */
	qcow2_io_set_error(io, ret);
	qcow2_io_put(io);
}

/*
 * A raw data file must read as the disk does, whatever the entries say; those
 * that say that there is nothing say zero.  So the file itself becomes zero.
 */
static int zero_raw_data(struct qcow2_io *io)
{
	struct qcow2_image *img = io->img;
	bool punch = io->unmap || io->op == QCOW2_OP_DISCARD;
	int ret = qcow2_may_write(io);

	if (ret)
		return ret;
	if (test_bit(QCOW2_IMAGE_NO_PASS_DISCARD, &img->flags))
		punch = false;
	if (punch && !qcow2_file_punch(img->data_file, io->offset, io->bytes))
		return 0;
	return qcow2_file_make_zero(img->data_file, io->offset, io->bytes);
}

/**
 * qcow2_discard() - carry out a discard, or what is left of it
 * @io: the operation
 *
 * QEMU: qcow2_co_pdiscard(), but here the subclusters at both ends count.
 *
 * Context: on the image's workqueue.
 */
void qcow2_discard(struct qcow2_io *io)
{
	const struct qcow2_geometry *geo = &io->img->geo;
	u64 subcluster = BIT_ULL(geo->subcluster_bits);
	u64 virtual_bytes = qcow2_virtual_bytes(io->img);
	u64 end = end_of(io, virtual_bytes);
	u64 skip = ALIGN(io->offset, subcluster) - io->offset;
	int ret = 0;

	io->offset += skip;
	io->bytes -= min(io->bytes, skip);
	/* A raw data file is no longer than the disk. */
	if (geo->raw_data)
		end = min(end, virtual_bytes);
	if (geo->raw_data && io->offset < end) {
		io->bytes = end - io->offset;
		finish(io, zero_raw_data(io));
		return;
	}
	while (!ret && io->bytes && qcow2_can_discard(io->img) &&
	       io->offset < end_of(io, qcow2_virtual_bytes(io->img)))
		ret = zero_some(io, false);
	finish(io, ret);
}

/* Writes up to the next subcluster's start. */
static int write_some(struct qcow2_io *io)
{
	u64 subcluster = BIT_ULL(io->img->geo.subcluster_bits);
	u64 bytes = ALIGN(io->offset + 1, subcluster) - io->offset;
	u64 before = io->offset;
	int ret;

	bytes = min(bytes, io->bytes);
	qcow2_file_zeroes(&io->iter, bytes);
	ret = qcow2_write_some(io);
	if (!ret)
		io->bytes -= io->offset - before;
	return ret;
}

/* Reads as zeroes already, so that a head or tail need not be written? */
static int skip_zeroes(struct qcow2_io *io, u64 *bytes)
{
	struct qcow2_epoch *epoch = qcow2_epoch_enter(io->img);
	struct qcow2_extent extent;
	int ret;

	ret = qcow2_resolve(io->img, io->offset, *bytes, &extent);
	qcow2_epoch_exit(epoch);
	*bytes = 0;
	if (ret)
		return ret;
	if (extent.type != QCOW2_SUBCLUSTER_NORMAL &&
	    extent.type != QCOW2_SUBCLUSTER_COMPRESSED)
		*bytes = extent.bytes;
	return 0;
}

static int zero_next(struct qcow2_io *io)
{
	const struct qcow2_geometry *geo = &io->img->geo;
	u64 subcluster = BIT_ULL(geo->subcluster_bits);
	/* Version 2 has no entry for a cluster that is kept, but zero. */
	bool by_entry = qcow2_can_discard(io->img) &&
			(io->unmap || geo->version > 2);
	u64 bytes = io->bytes;
	int ret;

	if (by_entry && !(io->offset & (subcluster - 1)) &&
	    io->offset < end_of(io, qcow2_virtual_bytes(io->img))) {
		ret = zero_some(io, !io->unmap);
		if (ret != -EOPNOTSUPP)
			return ret;
		/* Part of a compressed cluster, which is to be written. */
	}
	ret = skip_zeroes(io, &bytes);
	if (ret || !bytes)
		return ret ?: write_some(io);
	io->offset += bytes;
	io->bytes -= bytes;
	return 0;
}

/**
 * qcow2_write_zeroes() - carry out a write zeroes, or what is left of it
 * @io: the operation
 *
 * QEMU: qcow2_co_pwrite_zeroes(), but here heads and tails are written.
 *
 * Context: on the image's workqueue.
 */
void qcow2_write_zeroes(struct qcow2_io *io)
{
	int ret = 0;

	io->must_commit |= io->fua;
	if (io->img->geo.raw_data) {
		finish(io, zero_raw_data(io));
		return;
	}
	while (!ret && io->bytes)
		ret = zero_next(io);
	finish(io, ret);
}
