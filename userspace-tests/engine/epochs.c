// SPDX-License-Identifier: GPL-2.0-only
/*
 * Epochs by themselves: some threads use what they find, another one or some of them take
 * it away again and again, and destroy it when they are told that nobody uses it any
 * more. Threads are held up where an interrupt or a slow CPU may hold
 * them up: when they have found an epoch and are about to count in it, likewise when
 * they leave one, and in the middle of adding up the counts.
 */

#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

#include <linux/cpumask.h>
#include <linux/kernel.h>
#include <linux/percpu.h>
#include <linux/workqueue.h>

#include "cases.h"
#include "image.h"

enum { MANY = 8, FEW = 2, ROUNDS = 1000, SHORT_US = 200, LONG_US = 10000 };
enum { CALLERS = 4, ROUNDS_OF_A_CALLER = 100 };

/**
 * struct thing - what the users find, one of them at a time
 * @current: the number of the round, which is what is found
 * @destroyed: those that nobody may use any more
 */
struct thing {
	unsigned int current;
	bool destroyed[ROUNDS + 2];
};

static struct {
	struct qcow2_image img;
	struct thing things[CALLERS];
	unsigned int nr_things;
	unsigned int draining;
	bool ended;
	sem_t released;
	struct qcow2_epoch_wait wait;
} play;

static u64 random_of_thread(u64 n)
{
	static u64 threads;
	static __thread struct shim_random random;

	if (!random.state)
		random.state = __atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED) << 32;
	return shim_random(&random) % n;
}

/* Often for a moment, so that some look at once, and now and then for some rounds. */
static void be_held_up(void)
{
	u64 dice = random_of_thread(256);

	if (!dice)
		usleep(random_of_thread(LONG_US));
	else if (dice < 8)
		usleep(random_of_thread(SHORT_US));
}

/* Who is told that an epoch is empty finds it as it was when it was new. */
static void expect_as_new(const struct qcow2_epoch *epoch)
{
	unsigned int cpu;

	expect(!READ_ONCE(epoch->drains), "an epoch is empty, and drains on");
	expect(!atomic_read(&epoch->left), "%d are left in an empty epoch",
	       atomic_read(&epoch->left));
	for_each_possible_cpu(cpu)
		expect(!atomic_read(shim_cpu_ptr(epoch->users, cpu)),
		       "an epoch is empty, and a CPU counts");
}

static void release(struct qcow2_epoch_wait *wait)
{
	unsigned int old = __atomic_exchange_n(&play.draining, 0, __ATOMIC_SEQ_CST);

	expect(old, "an epoch is told to be empty that does not drain");
	expect_as_new(&play.img.epochs[!READ_ONCE(play.img.epoch)]);
	__atomic_store_n(&play.things[0].destroyed[old], true, __ATOMIC_SEQ_CST);
	sem_post(&play.released);
}

static void look_at(struct thing *thing, unsigned int found)
{
	expect(!__atomic_load_n(&thing->destroyed[found], __ATOMIC_SEQ_CST),
	       "round %u is over, but not for all who use it", found);
}

static void use_once(void)
{
	struct thing *thing = &play.things[random_of_thread(play.nr_things)];
	struct qcow2_epoch *epoch = qcow2_epoch_enter(&play.img);
	unsigned int found = __atomic_load_n(&thing->current, __ATOMIC_ACQUIRE);

	look_at(thing, found);
	if (!random_of_thread(16))
		usleep(random_of_thread(300));
	look_at(thing, found);
	qcow2_epoch_exit(epoch);
}

static void *use(void *unused)
{
	while (!__atomic_load_n(&play.ended, __ATOMIC_RELAXED))
		use_once();
	return unused;
}

static void next_round(unsigned int round)
{
	__atomic_store_n(&play.draining, round, __ATOMIC_SEQ_CST);
	__atomic_store_n(&play.things[0].current, round + 1, __ATOMIC_RELEASE);
	mutex_lock(&play.img.meta_lock);
	qcow2_epoch_call(&play.img, &play.wait);
	mutex_unlock(&play.img.meta_lock);
	wait_for(!sem_trywait(&play.released),
		 "nobody says that round %u is over", round);
	flush_workqueue(play.img.wq);
}

static void play_alone(void)
{
	unsigned int i;

	play.wait.done = release;
	sem_init(&play.released, 0, 0);
	for (i = 1; i <= ROUNDS; i++)
		next_round(i);
}

/* Replaces a thing of its own, and waits for itself. */
static void *call(void *arg)
{
	struct thing *thing = arg;
	unsigned int i;

	for (i = 1; i <= ROUNDS_OF_A_CALLER; i++) {
		__atomic_store_n(&thing->current, i + 1, __ATOMIC_RELEASE);
		qcow2_epoch_synchronize(&play.img);
		__atomic_store_n(&thing->destroyed[i], true, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void play_together(void)
{
	pthread_t threads[CALLERS];
	unsigned int i;

	for (i = 0; i < CALLERS; i++)
		expect(!pthread_create(&threads[i], NULL, call, &play.things[i]),
		       "no thread");
	for (i = 0; i < CALLERS; i++)
		pthread_join(threads[i], NULL);
}

static void play_with(unsigned int users, unsigned int callers)
{
	struct qcow2_image *img = &play.img;
	pthread_t threads[MANY];
	unsigned int i;

	img->wq = alloc_workqueue("epochs", 0, 1);
	expect(img->wq && !qcow2_epoch_init(img), "no memory");
	mutex_init(&img->meta_lock);
	play.nr_things = callers;
	for (i = 0; i < callers; i++)
		play.things[i].current = 1;
	shim_set_stall(be_held_up);
	for (i = 0; i < users; i++)
		expect(!pthread_create(&threads[i], NULL, use, NULL), "no thread");
	if (callers > 1)
		play_together();
	else
		play_alone();
	__atomic_store_n(&play.ended, true, __ATOMIC_RELAXED);
	for (i = 0; i < users; i++)
		pthread_join(threads[i], NULL);
	shim_set_stall(NULL);
	qcow2_epoch_settle(img);
	destroy_workqueue(img->wq);
	qcow2_epoch_destroy(img);
}

static void nobody_of_a_few_loses_what_is_used(const struct shape *shape)
{
	play_with(FEW, 1);
}

static void nobody_of_many_loses_what_is_used(const struct shape *shape)
{
	play_with(MANY, 1);
}

static void callers_share_what_they_wait_for(const struct shape *shape)
{
	play_with(MANY, CALLERS);
}

static const struct shape shapes[] = { { "no image" }, {} };

static const struct test_case cases[] = {
	TEST_CASE(nobody_of_a_few_loses_what_is_used, shapes),
	TEST_CASE(nobody_of_many_loses_what_is_used, shapes),
	TEST_CASE(callers_share_what_they_wait_for, shapes),
};

int main(int argc, char **argv)
{
	return run_cases("epochs", cases, ARRAY_SIZE(cases), argc, argv);
}
