// SPDX-License-Identifier: GPL-2.0-only
/*
 * What online snapshots, resize and rebase are going to stand on: refcounts that rise,
 * and fall again when one of them cannot; waiting for guest I/O that was there before;
 * a virtual size and a list of snapshots that change while I/O runs. For layers see
 * layers.c.
 */

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/kernel.h>

#include "cases.h"
#include "disk.h"
#include "memfile.h"
#include "shim.h"

/*
 * Refcounts.
 */

/* So many clusters have their refcounts in more than one slice. */
#define MANY	200U

/* What the next one finds, or sets. */
static u64 refcount;

static u32 index_of(struct qcow2_image *img, u64 cluster)
{
	return cluster & ((1ULL << img->geo.refslice_bits) - 1);
}

static int get(struct qcow2_image *img, u64 cluster, struct qcow2_slice *slice)
{
	refcount = qcow2_get_refcount(slice->data, img->geo.refcount_order,
				      index_of(img, cluster));
	return 0;
}

static int set(struct qcow2_image *img, u64 cluster, struct qcow2_slice *slice)
{
	qcow2_set_refcount(slice->data, img->geo.refcount_order,
			   index_of(img, cluster), refcount);
	qcow2_slice_mark_dirty(img, slice);
	return 0;
}

static u64 refcount_of(struct disk *d, u64 host)
{
	expect(!qcow2_with_refcount(d->img, host / d->cluster, get),
	       "no refcount at %llu", host);
	return refcount;
}

static void set_refcount(struct disk *d, u64 host, u64 value)
{
	refcount = value;
	expect(!qcow2_with_refcount(d->img, host / d->cluster, set),
	       "no refcount at %llu", host);
}

static void lower(struct disk *d, u64 host)
{
	expect(!qcow2_with_refcount(d->img, host / d->cluster,
				    qcow2_refcount_dec), "cannot be lowered");
}

/* Attached, with so many clusters of data, whose places are told. */
static void make_clusters(struct disk *d, const struct shape *shape, u64 *hosts)
{
	unsigned int i;

	make_disk(d, shape);
	attach(d);
	for (i = 0; i < MANY; i++) {
		write_new(d, i * d->cluster, d->cluster);
		hosts[i] = host_of(d, i * d->cluster);
	}
	flush(d);
}

static void expect_refcounts(struct disk *d, const u64 *hosts, unsigned int nr,
			     u64 wanted, const char *when)
{
	unsigned int i;

	for (i = 0; i < nr; i++)
		expect(refcount_of(d, hosts[i]) == wanted,
		       "%s: the refcount of cluster %u is %llu, wanted %llu",
		       when, i, refcount, wanted);
}

static u64 most_of(struct disk *d)
{
	return qcow2_max_refcount(d->img->geo.refcount_order);
}

static void refcounts_rise_together(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];
	unsigned int i;
	int error;

	make_clusters(&d, shape, hosts);
	error = qcow2_refcounts_raise(d.img, hosts, MANY);
	if (most_of(&d) == 1) {
		expect(error == -EOVERFLOW, "1 was raised with one bit: %d",
		       error);
		expect_refcounts(&d, hosts, MANY, 1, "without room");
		detach_and_look(&d);
		destroy(&d);
		return;
	}
	expect(!error, "cannot raise: %d", error);
	expect_refcounts(&d, hosts, MANY, 2, "raised");
	for (i = 0; i < MANY; i++)
		lower(&d, hosts[i]);
	expect_refcounts(&d, hosts, MANY, 1, "lowered");
	detach_and_look(&d);
	destroy(&d);
}

/* What nothing refers to is a leak. A snapshot has taken the COPIED flags away. */
static void raised_refcounts_reach_the_file(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];
	unsigned int i;

	make_clusters(&d, shape, hosts);
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach(&d);
	expect(!qcow2_refcounts_raise(d.img, hosts, MANY), "cannot raise");
	flush(&d);
	i = check_file(&d, "with the new counts").leaks;
	expect(i == MANY, "%u leaks, wanted %u", i, MANY);
	for (i = 0; i < MANY; i++)
		lower(&d, hosts[i]);
	expect_refcounts(&d, hosts, MANY, 2, "lowered");
	detach_and_look(&d);
	destroy(&d);
}

/* Raises all clusters, of which the one in the middle cannot be raised. */
static void fail_in_the_middle(struct disk *d, const u64 *hosts, u64 value,
			       int wanted)
{
	u32 middle = MANY / 2;
	int error;

	set_refcount(d, hosts[middle], value);
	error = qcow2_refcounts_raise(d->img, hosts, MANY);
	expect(error == wanted, "raised with %llu: %d", value, error);
	expect(refcount_of(d, hosts[middle]) == value, "%llu became %llu", value,
	       refcount);
	set_refcount(d, hosts[middle], 1);
	expect_refcounts(d, hosts, MANY, 1, "after an error");
}

static void full_refcount_leaves_the_others(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];
	u64 most;

	make_clusters(&d, shape, hosts);
	most = most_of(&d);
	fail_in_the_middle(&d, hosts, most, -EOVERFLOW);
	expect(!qcow2_image_needs_check(d.img), "a full count is no damage");
	if (most > 1) {
		/* There is room for one. */
		set_refcount(&d, hosts[0], most - 1);
		expect(!qcow2_refcounts_raise(d.img, hosts, 1),
		       "%llu cannot be raised", most - 1);
		expect(refcount_of(&d, hosts[0]) == most, "%llu became %llu",
		       most - 1, refcount);
		set_refcount(&d, hosts[0], 1);
	}
	expect_refcounts(&d, hosts, MANY, 1, "in the end");
	detach_and_look(&d);
	destroy(&d);
}

static void free_cluster_is_not_referred_to(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];

	make_clusters(&d, shape, hosts);
	if (most_of(&d) > 1)
		fail_in_the_middle(&d, hosts, 0, -EUCLEAN);
	else
		expect(qcow2_refcounts_raise(d.img, hosts, 1) == -EOVERFLOW,
		       "1 was raised with one bit");
	expect(qcow2_image_needs_check(d.img) == (most_of(&d) > 1),
	       "damage is told from a full count");
	detach(&d);
	destroy(&d);
}

static void same_cluster_rises_twice(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY], twice[2], most;

	make_clusters(&d, shape, hosts);
	most = most_of(&d);
	twice[0] = hosts[0];
	twice[1] = hosts[0];
	if (most > 3) {
		expect(!qcow2_refcounts_raise(d.img, twice, 2), "cannot raise");
		expect_refcounts(&d, hosts, 1, 3, "raised twice");
	}
	set_refcount(&d, hosts[0], most - 1);
	expect(qcow2_refcounts_raise(d.img, twice, 2) ==
	       (most == 1 ? -EUCLEAN : -EOVERFLOW), "raised too far");
	expect_refcounts(&d, hosts, 1, most - 1, "raised too far");
	set_refcount(&d, hosts[0], 1);
	if (most > 1)
		detach_and_look(&d);
	else
		detach(&d);
	destroy(&d);
}

/* Slices that wait to be written have a bound here too. */
static void raised_refcounts_need_little_memory(const struct shape *shape)
{
	struct disk d = {};
	u64 hosts[MANY];
	unsigned int most;

	make_clusters(&d, shape, hosts);
	settle(&d);
	d.img->max_dirty = 0;
	expect(!qcow2_refcounts_raise(d.img, hosts, MANY), "cannot raise");
	most = READ_ONCE(d.img->nr_dirty);
	expect(most <= 1, "%u slices are dirty", most);
	expect_refcounts(&d, hosts, MANY, 2, "raised");
	detach(&d);
	destroy(&d);
}

/*
 * Waiting for guest I/O that was there before.
 */

/**
 * struct caller - one who waits
 * @wait: what for
 * @img: the image
 * @told: how often it was told
 * @again: how many times it waits once more when it is told
 * @other: whom it looks at then, or NULL
 * @other_waited: how often it was told while the other one waited
 */
struct caller {
	struct qcow2_epoch_wait wait;
	struct qcow2_image *img;
	unsigned int told;
	unsigned int again;
	struct caller *other;
	unsigned int other_waited;
};

static unsigned int told(struct caller *c)
{
	return __atomic_load_n(&c->told, __ATOMIC_ACQUIRE);
}

static void tell(struct qcow2_epoch_wait *wait);

/* One after the other; @second may be NULL. */
static void call_both(struct qcow2_image *img, struct caller *first,
		      struct caller *second)
{
	mutex_lock(&img->meta_lock);
	for (; first; first = second, second = NULL) {
		first->img = img;
		first->wait.done = tell;
		qcow2_epoch_call(img, &first->wait);
	}
	mutex_unlock(&img->meta_lock);
}

static void call(struct disk *d, struct caller *c)
{
	call_both(d->img, c, NULL);
}

static void tell(struct qcow2_epoch_wait *wait)
{
	struct caller *c = container_of(wait, struct caller, wait);

	if (c->other && !told(c->other))
		c->other_waited++;
	if (c->again) {
		c->again--;
		call_both(c->img, c, NULL);
	}
	__atomic_add_fetch(&c->told, 1, __ATOMIC_RELEASE);
}

/* Time for somebody to be told too early. */
static void let_pass(void)
{
	rcu_barrier();
	usleep(20000);
}

static void waiters_share_a_drain(const struct shape *shape)
{
	struct disk d = {};
	struct caller one = {}, two = {}, late = {}, later = {};
	struct qcow2_epoch *first, *second;
	unsigned int epoch;

	make_disk(&d, shape);
	attach(&d);
	first = qcow2_epoch_enter(d.img);
	epoch = d.img->epoch;
	call(&d, &one);
	expect(d.img->epoch == !epoch, "no epoch begins");
	/* These come while a drain runs. */
	call(&d, &two);
	second = qcow2_epoch_enter(d.img);
	call(&d, &late);
	let_pass();
	expect(!told(&one) && !told(&two) && !told(&late),
	       "I/O that goes on was not waited for");
	qcow2_epoch_exit(first);
	wait_for(told(&one), "the first one is not told");
	let_pass();
	expect(!told(&two) && !told(&late),
	       "I/O that came before was not waited for");
	/* One drain for both, which ends the epoch that the other one began. */
	mutex_lock(&d.img->meta_lock);
	expect(list_empty(&d.img->epoch_waits), "they wait for another drain");
	mutex_unlock(&d.img->meta_lock);
	expect(d.img->epoch == epoch, "the next drain does not begin");
	call(&d, &later);
	qcow2_epoch_exit(second);
	wait_for(told(&two) && told(&late) && told(&later), "nobody tells them");
	let_pass();
	expect(told(&one) == 1 && told(&two) == 1 && told(&late) == 1,
	       "they are told twice");
	detach_and_look(&d);
	destroy(&d);
}

/* As the fast path and as a worker read. */
static void held_read_is_waited_for(const struct shape *shape)
{
	struct disk d = { .options.threads = 2 };
	struct op op = { .buf = get_buffer(WL_SECTOR) };
	unsigned int i;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, d.cluster);
	for (i = 0; i < 2; i++) {
		struct caller c = {};

		op.by_worker = i;
		memfile_hold(d.filp, 1U << MEMFILE_READ, host_of(&d, 0),
			     host_of(&d, 0) + d.cluster);
		start(&d, &op, QCOW2_OP_READ, 0, WL_SECTOR);
		wait_for(memfile_holds(d.filp), "the read does not begin");
		call(&d, &c);
		let_pass();
		expect(!told(&c), "the read was not waited for");
		/* Who comes later is not. */
		read_back(&d, d.cluster, d.cluster);
		memfile_release(d.filp);
		expect(!finish(&op), "the read failed");
		wait_for(told(&c), "nobody is told");
	}
	detach_and_look(&d);
	free(op.buf);
	destroy(&d);
}

static void nobody_waits_for_who_comes_again(const struct shape *shape)
{
	struct disk d = {};
	struct caller other = {}, c = { .again = 200, .other = &other };
	u64 freed;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, 4 * d.cluster);
	flush(&d);
	freed = READ_ONCE(d.img->clusters_freed);
	call_both(d.img, &c, &other);
	wait_for(told(&other), "it waits for ever");
	expect(c.other_waited <= 1, "another one was told %u times meanwhile",
	       c.other_waited);
	/* Nor do clusters that are given up. */
	make_zero(&d, QCOW2_OP_DISCARD, 0, 4 * d.cluster);
	settle(&d);
	expect(READ_ONCE(d.img->clusters_freed) > freed, "nothing was freed");
	wait_for(told(&c) == 201, "it does not come again");
	detach_and_look(&d);
	destroy(&d);
}

static void take_time(void)
{
	usleep(20000);
}

/* Nothing is in flight any more, but nobody has looked so far. */
static void waiters_are_told_before_the_end(const struct shape *shape)
{
	struct disk d = {};
	struct caller one = {}, two = {};

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, d.cluster);
	flush(&d);
	shim_set_stall(take_time);
	call(&d, &one);
	call(&d, &two);
	expect(!detach(&d), "detach");
	shim_set_stall(NULL);
	expect(told(&one) == 1 && told(&two) == 1, "they were not told");
	destroy(&d);
}

/*
 * The virtual size.
 */

static void resize(struct disk *d, u64 bytes)
{
	mutex_lock(&d->img->meta_lock);
	qcow2_set_virtual_bytes(d->img, bytes);
	mutex_unlock(&d->img->meta_lock);
	expect(qcow2_virtual_bytes(d->img) == bytes, "it has another size");
}

/* The last cluster is the discard's no more, so the guest may use all of it. */
static void discard_goes_by_the_size_of_its_epoch(const struct shape *shape)
{
	struct disk d = { .options.threads = 2 };
	struct op op = {};
	u64 tail;

	make_disk(&d, shape);
	attach(&d);
	tail = round_down(d.bytes, d.cluster);
	write_new(&d, tail, d.bytes - tail);
	expect(!detach(&d), "detach");
	attach(&d);
	/* It is to set the dirty bit, and is in no epoch so far. */
	memfile_hold(d.filp, 1U << MEMFILE_WRITE, 0, d.cluster);
	start(&d, &op, QCOW2_OP_DISCARD, tail, d.bytes - tail);
	wait_for(memfile_holds(d.filp), "the discard does not begin");
	resize(&d, d.bytes + WL_SECTOR);
	qcow2_epoch_synchronize(d.img);
	memfile_release(d.filp);
	expect(!finish(&op), "the discard failed");
	read_back(&d, tail, d.bytes - tail);
	resize(&d, d.bytes);
	make_zero(&d, QCOW2_OP_DISCARD, tail, d.bytes - tail);
	read_back(&d, tail, d.bytes - tail);
	detach_and_look(&d);
	destroy(&d);
}

/* In each round the guest gets the last sector, while a discard ends in front of it. */
static void grow_under_a_discard(struct disk *d)
{
	u64 small = d->bytes - WL_SECTOR, at = small - WL_SECTOR;
	struct op op = {};

	write_new(d, at, WL_SECTOR);
	resize(d, small);
	start(d, &op, QCOW2_OP_DISCARD, at, WL_SECTOR);
	resize(d, d->bytes);
	qcow2_epoch_synchronize(d->img);
	write_new(d, small, WL_SECTOR);
	expect(!finish(&op), "the discard failed");
	read_back(d, small, WL_SECTOR);
	/* Whichever size it found. */
	make_zero(d, QCOW2_OP_WRITE_ZEROES, at, WL_SECTOR);
}

/**
 * struct user - a thread that writes and reads what nobody else does
 * @d: the disk, with a count of writes of its own
 * @from: where
 * @to: where that ends
 * @stop: the end
 * @thread: the thread
 */
struct user {
	struct disk d;
	u64 from;
	u64 to;
	bool stop;
	pthread_t thread;
};

static void *use(void *arg)
{
	struct user *u = arg;
	struct shim_random r = { .state = u->from };
	u64 sectors = (u->to - u->from) / WL_SECTOR;

	while (!__atomic_load_n(&u->stop, __ATOMIC_RELAXED)) {
		u64 sector = shim_below(&r, sectors), at, bytes;

		at = u->from + sector * WL_SECTOR;
		bytes = min(sectors - sector, 1 + shim_below(&r, 16)) *
			WL_SECTOR;
		if (shim_below(&r, 2))
			write_new(&u->d, at, bytes);
		else
			read_back(&u->d, at, bytes);
	}
	return NULL;
}

static void begin_to_use(struct user *u, struct disk *d, u64 from, u64 to)
{
	*u = (struct user) { .d = *d, .from = from, .to = to };
	expect(!pthread_create(&u->thread, NULL, use, u), "no thread");
}

static void end_to_use(struct user *u)
{
	__atomic_store_n(&u->stop, true, __ATOMIC_RELAXED);
	pthread_join(u->thread, NULL);
}

static void disk_grows_while_io_runs(const struct shape *shape)
{
	struct disk d = { .options = { .threads = 2, .delay_ns = 100000 } };
	struct user users[2];
	unsigned int i;

	make_disk(&d, shape);
	attach(&d);
	begin_to_use(&users[0], &d, 0, SZ_64K);
	begin_to_use(&users[1], &d, SZ_64K, SZ_128K);
	for (i = 0; i < 100; i++)
		grow_under_a_discard(&d);
	end_to_use(&users[0]);
	end_to_use(&users[1]);
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	destroy(&d);
}

/*
 * Internal snapshots.
 */

static void replace_snapshots(struct disk *d, struct qcow2_snapshots *snapshots)
{
	mutex_lock(&d->img->meta_lock);
	snapshots = qcow2_snapshots_replace(d->img, snapshots);
	mutex_unlock(&d->img->meta_lock);
	kvfree(snapshots);
}

static struct qcow2_snapshots *alloc_snapshots(u32 room)
{
	struct qcow2_snapshots *snapshots = qcow2_snapshots_alloc(room);

	expect(snapshots, "no memory");
	return snapshots;
}

/* As they are. */
static struct qcow2_snapshots *copy_snapshots(struct disk *d)
{
	const struct qcow2_snapshots *old = d->img->snapshots;
	struct qcow2_snapshots *new = alloc_snapshots(old->nr);
	u32 i;

	new->table_offset = old->table_offset;
	new->table_bytes = old->table_bytes;
	for (i = 0; i < old->nr; i++)
		qcow2_snapshots_add_l1(new, old->l1_tables[i].offset,
				       old->l1_tables[i].entries);
	qcow2_snapshots_sort(new);
	return new;
}

static void snapshots_are_replaced(const struct shape *shape)
{
	struct disk d = { .options = { .threads = 2, .delay_ns = 50000 } };
	struct user users[2];
	unsigned int i;

	make_disk(&d, shape);
	attach(&d);
	write_new(&d, 0, SZ_128K);
	expect(!d.img->snapshots, "there are snapshots");
	expect(!detach(&d), "detach");
	take_snapshot(&d);
	attach(&d);
	expect(d.img->snapshots && d.img->snapshots->nr == 1, "no snapshot");
	begin_to_use(&users[0], &d, 0, SZ_64K);
	begin_to_use(&users[1], &d, SZ_64K, SZ_128K);
	for (i = 0; i < 300; i++) {
		replace_snapshots(&d, copy_snapshots(&d));
		usleep(300);
	}
	end_to_use(&users[0]);
	end_to_use(&users[1]);
	expect(!qcow2_image_needs_check(d.img), "a write hit a snapshot");
	read_back(&d, 0, d.bytes);
	detach_and_look(&d);
	destroy(&d);
}

/* A snapshot whose table, or L1 table, lies at @host. */
static struct qcow2_snapshots *snapshot_at(u64 host, bool table)
{
	struct qcow2_snapshots *snapshots = alloc_snapshots(2);

	if (table) {
		snapshots->table_offset = host;
		snapshots->table_bytes = 100;
	} else {
		qcow2_snapshots_add_l1(snapshots, host, 7);
		qcow2_snapshots_add_l1(snapshots, host / 2, 0);
	}
	qcow2_snapshots_sort(snapshots);
	return snapshots;
}

/* It is where an entry leads, so the image is damaged, but as if by others. */
static void new_snapshot_is_protected(const struct shape *shape)
{
	struct disk d = {};
	unsigned int i;

	for (i = 0; i < 2; i++) {
		make_disk(&d, shape);
		attach(&d);
		write_new(&d, 0, d.cluster);
		write_new(&d, d.cluster, d.cluster);
		replace_snapshots(&d, snapshot_at(host_of(&d, 0), i));
		write_new(&d, d.cluster, d.cluster);
		replace_snapshots(&d, NULL);
		write_new(&d, 0, d.cluster);
		/* From here on the fast path is sure of the cluster. */
		write_new(&d, 0, d.cluster);
		replace_snapshots(&d, snapshot_at(host_of(&d, 0), i));
		expect(try_write(&d, 0, d.cluster),
		       "a snapshot's metadata was written over");
		expect(qcow2_image_needs_check(d.img), "nobody has seen it");
		detach(&d);
		destroy(&d);
	}
}

/*
 * All of them.
 */

#define ORDER(bits)						\
	{ .cluster_bits = 9, .refcount_bits = bits, .version = 3, \
	  .virtual_bytes = 1 << 20 }

static const struct shape widths[] = {
	{ "refcounts of 1 bit", ORDER(1) },
	{ "refcounts of 2 bits", ORDER(2) },
	{ "refcounts of 4 bits", ORDER(4) },
	{ "refcounts of 8 bits", ORDER(8) },
	{ "refcounts of 16 bits", ORDER(16) },
	{ "refcounts of 32 bits", ORDER(32) },
	{ "refcounts of 64 bits", ORDER(64) },
	{}
};

static const struct shape wide[] = {
	{ "refcounts of 64 bits", ORDER(64) },
	{}
};

static const struct shape one_shape[] = {
	{ "clusters of 4 KiB", { .cluster_bits = 12, .refcount_bits = 16,
				 .version = 3, .virtual_bytes = 1 << 20 } },
	{}
};

/* Of the last cluster a part is there. */
static const struct shape odd_shapes[] = {
	{ "clusters of 4 KiB", { .cluster_bits = 12, .refcount_bits = 16,
				 .version = 3, .lazy = true,
				 .virtual_bytes = (1 << 20) + 1024 } },
	{ "extended L2, clusters of 64 KiB",
	  { .cluster_bits = 16, .refcount_bits = 16, .version = 3, .lazy = true,
	    .extl2 = true, .virtual_bytes = (1 << 20) + 1024 } },
	{}
};

static const struct test_case cases[] = {
	TEST_CASE(refcounts_rise_together, widths),
	TEST_CASE(raised_refcounts_reach_the_file, widths + 1),
	TEST_CASE(full_refcount_leaves_the_others, widths),
	TEST_CASE(free_cluster_is_not_referred_to, widths),
	TEST_CASE(same_cluster_rises_twice, widths),
	TEST_CASE(raised_refcounts_need_little_memory, wide),
	TEST_CASE(waiters_share_a_drain, one_shape),
	TEST_CASE(held_read_is_waited_for, one_shape),
	TEST_CASE(nobody_waits_for_who_comes_again, one_shape),
	TEST_CASE(waiters_are_told_before_the_end, one_shape),
	TEST_CASE(discard_goes_by_the_size_of_its_epoch, odd_shapes),
	TEST_CASE(disk_grows_while_io_runs, odd_shapes),
	TEST_CASE(snapshots_are_replaced, one_shape),
	TEST_CASE(new_snapshot_is_protected, one_shape),
};

int main(int argc, char **argv)
{
	return run_cases("foundations", cases, ARRAY_SIZE(cases), argc, argv);
}
