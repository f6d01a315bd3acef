// SPDX-License-Identifier: GPL-2.0-only
/*
 * What must be so whatever an image says and a guest does: if it is not, the engine has
 * a bug, and the image fails, with nothing taken and nothing given up.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/interval_tree_generic.h>
#include <linux/kernel.h>

#include "cases.h"
#include "disk.h"
#include "memfile.h"
#include "shim.h"
#include "write.h"

#define CLUSTER		4096ULL
/* What a slice maps. */
#define SLICE_MAPS	(512 * CLUSTER)

static const struct shape shapes[] = {
	{ "clusters of 4 KiB", { .cluster_bits = 12, .refcount_bits = 16,
				 .version = 3, .virtual_bytes = 4 << 20 } },
	{}
};

/*
 * Parts of a pass, which are called with what they never should get; DAMAGED is COPIED,
 * of an entry that somebody else has to find damaged before.
 */
enum part { COPIED, DAMAGED, ALLOC, CALCULATE };

static void damage_entry(const struct qcow2_image *img,
			 struct qcow2_slice *slice, u64 offset)
{
	const struct qcow2_l2_entry entry = {
		.word = QCOW2_OFLAG_COPIED | (16 * CLUSTER + 512),
	};
	u32 index = qcow2_l2_slice_index(&img->geo, offset);

	expect(!qcow2_set_l2_entry(&img->geo, slice, index, entry),
	       "there is no entry %u", index);
}

static int call_part(struct qcow2_pass *pass, enum part part, u64 offset,
		     u64 bytes)
{
	struct qcow2_slice *slice;
	int ret;

	ret = qcow2_own_l2_slice(pass->img, offset, &pass->need, &slice);
	if (ret)
		return ret;
	if (part == DAMAGED)
		damage_entry(pass->img, slice, offset);
	if (part == COPIED || part == DAMAGED)
		ret = handle_copied(pass, slice, offset, &bytes);
	else if (part == ALLOC)
		ret = handle_alloc(pass, slice, offset, &bytes);
	else
		ret = calculate_l2_meta(pass, slice, 16 * CLUSTER, offset,
					bytes, false);
	qcow2_slice_put(slice);
	return ret;
}

/* What is missing is brought. */
static int try_part(struct disk *d, enum part part, u64 offset, u64 bytes)
{
	struct qcow2_pass pass = {
		.img = d->img,
		.spare = must(calloc(1, sizeof(*pass.spare))),
	};
	int ret;

	do {
		mutex_lock(&d->img->meta_lock);
		ret = call_part(&pass, part, offset, bytes);
		mutex_unlock(&d->img->meta_lock);
	} while (ret == -EAGAIN && !qcow2_need_meet(d->img, &pass.need));
	qcow2_need_done(&pass.need);
	expect(pass.spare && !pass.meta && !pass.bytes, "the pass took a run");
	free(pass.spare);
	return ret;
}

static s64 in_use(struct disk *d)
{
	return READ_ONCE(d->img->clusters_allocated) -
	       READ_ONCE(d->img->clusters_freed);
}

/* The image has failed, and warned; it goes on for nobody. */
static void end_failed(struct disk *d)
{
	expect(shim_warnings(), "nobody warned");
	shim_forget_warnings();
	shim_warn_aborts(true);
	expect(qcow2_image_needs_check(d->img), "the image has not failed");
	expect(run_op(d, QCOW2_OP_DISCARD, 0, CLUSTER) == -EIO,
	       "the image goes on");
	detach(d);
	check_file(d, "closed image");
	destroy(d);
}

static void expect_failure(const struct shape *shape, enum part part,
			   u64 offset, u64 bytes)
{
	struct disk d = {};
	s64 before;
	int ret;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, CLUSTER);
	settle(&d);
	before = in_use(&d);
	shim_warn_aborts(false);
	ret = try_part(&d, part, offset, bytes);
	expect(ret == -EIO, "%d is returned", ret);
	expect(in_use(&d) == before, "%lld clusters were taken",
	       in_use(&d) - before);
	expect(RB_EMPTY_ROOT(&d.img->in_flight.rb_root),
	       "something is left in flight");
	end_failed(&d);
}

static void nothing_is_written_in_place(const struct shape *shape)
{
	expect_failure(shape, COPIED, 0, 0);
}

static void no_cluster_is_written_in_place(const struct shape *shape)
{
	expect_failure(shape, DAMAGED, CLUSTER / 2, CLUSTER / 2);
}

static void nothing_is_written_into_a_cluster(const struct shape *shape)
{
	expect_failure(shape, COPIED, CLUSTER / 2, 0);
}

static void nothing_is_allocated(const struct shape *shape)
{
	expect_failure(shape, ALLOC, 2 * CLUSTER, 0);
}

static void a_cluster_is_allocated_for_nothing(const struct shape *shape)
{
	expect_failure(shape, ALLOC, 2 * CLUSTER + CLUSTER / 2, 0);
}

static void a_run_leaves_its_slice(const struct shape *shape)
{
	expect_failure(shape, CALCULATE, SLICE_MAPS - CLUSTER, CLUSTER + 1);
}

static void a_run_begins_too_late(const struct shape *shape)
{
	expect_failure(shape, CALCULATE, 3 * CLUSTER, SLICE_MAPS);
}

/* A write to a cluster that a snapshot has too, and so to a new one; it is held. */
static void start_new_cluster(struct disk *d, struct op *op)
{
	memfile_hold(d->filp, 1U << MEMFILE_WRITE, 0, 1ULL << 40);
	op->buf = new_data(d, 0, CLUSTER);
	start(d, op, QCOW2_OP_WRITE, 0, CLUSTER);
	wait_for(memfile_holds(d->filp), "the write does not begin");
}

static void let_index_be_wrong(struct disk *d)
{
	struct rb_node *node;

	mutex_lock(&d->img->meta_lock);
	node = d->img->in_flight.rb_root.rb_node;
	expect(node, "nothing is in flight");
	container_of(node, struct qcow2_l2_meta, node)->l2_index +=
		BIT(d->img->geo.l2_slice_bits);
	mutex_unlock(&d->img->meta_lock);
}

static void an_entry_is_linked_out_of_range(const struct shape *shape)
{
	struct disk d = { .options.threads = 2 };
	struct op op = {};
	u64 host;
	int ret;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, 2 * CLUSTER);
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach(&d);
	write_new(&d, CLUSTER, CLUSTER);
	settle(&d);
	host = host_of(&d, 0);
	start_new_cluster(&d, &op);
	let_index_be_wrong(&d);
	shim_warn_aborts(false);
	memfile_release(d.filp);
	ret = finish(&op);
	expect(ret == -EIO, "the write returns %d", ret);
	expect(host_of(&d, 0) == host, "the cluster has a new place");
	expect(!d.img->nr_drops, "%u clusters are given up", d.img->nr_drops);
	read_back(&d, 0, 2 * CLUSTER);
	free(op.buf);
	end_failed(&d);
}

static void an_entry_is_set_out_of_range(const struct shape *shape)
{
	static const struct qcow2_geometry geos[] = {
		{ .l2_slice_bits = 9, .l2_entry_words = 1 },
		{ .l2_slice_bits = 8, .l2_entry_words = 2 },
	};
	const struct qcow2_l2_entry entry = { .word = 1, .bitmap = 1 };
	unsigned char *data = get_buffer(4 * PAGE_SIZE);
	struct qcow2_slice slice = { .data = (__be64 *)data };
	unsigned int i;
	u32 nr, pos;

	memset(data, 0, 4 * PAGE_SIZE);
	shim_warn_aborts(false);
	for (i = 0; i < ARRAY_SIZE(geos); i++) {
		nr = 1U << geos[i].l2_slice_bits;
		expect(qcow2_set_l2_entry(&geos[i], &slice, nr, entry) == -EIO,
		       "an entry behind the slice is set");
		expect(qcow2_set_l2_entry(&geos[i], &slice, nr + 3, entry) ==
		       -EIO, "an entry far behind the slice is set");
	}
	for (pos = 0; pos < 4 * PAGE_SIZE; pos++)
		expect(!data[pos], "byte %u has changed", pos);
	expect(shim_warnings() == 4, "%u warnings", shim_warnings());
	shim_forget_warnings();
	free(data);
}

static const struct test_case cases[] = {
	TEST_CASE(nothing_is_written_in_place, shapes),
	TEST_CASE(no_cluster_is_written_in_place, shapes),
	TEST_CASE(nothing_is_written_into_a_cluster, shapes),
	TEST_CASE(nothing_is_allocated, shapes),
	TEST_CASE(a_cluster_is_allocated_for_nothing, shapes),
	TEST_CASE(a_run_leaves_its_slice, shapes),
	TEST_CASE(a_run_begins_too_late, shapes),
	TEST_CASE(an_entry_is_linked_out_of_range, shapes),
	TEST_CASE(an_entry_is_set_out_of_range, shapes),
};

int main(int argc, char **argv)
{
	return run_cases("asserts", cases, ARRAY_SIZE(cases), argc, argv);
}
