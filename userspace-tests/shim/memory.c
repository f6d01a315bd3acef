// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory: what may fail can be made to fail, and is filled with garbage.
 */

#include <linux/atomic.h>
#include <linux/limits.h>
#include <linux/log2.h>
#include <linux/mempool.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "internal.h"

#define GARBAGE		0xa5
#define GARBAGE_MAX	4096

struct page shim_zero_page __aligned(4096);

static unsigned int fail_one_in;
static u64 fail_state;
static u64 nr_failed;

static u64 counted;
static u64 first_to_fail = U64_MAX, end_to_fail;
static long long nr_live;
static long long bytes_live, bytes_peak;

void shim_fail_allocations(unsigned int one_in, u64 seed)
{
	__atomic_store_n(&fail_state, seed, __ATOMIC_RELAXED);
	__atomic_store_n(&fail_one_in, one_in, __ATOMIC_RELAXED);
}

u64 shim_failed_allocations(void)
{
	return __atomic_load_n(&nr_failed, __ATOMIC_RELAXED);
}

void shim_fail_nth_allocation(u64 skip, u64 times)
{
	__atomic_store_n(&counted, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&end_to_fail, times ? skip + times : U64_MAX,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&first_to_fail, skip, __ATOMIC_RELAXED);
}

u64 shim_counted_allocations(void)
{
	return __atomic_load_n(&counted, __ATOMIC_RELAXED);
}

long long shim_live_allocations(void)
{
	return __atomic_load_n(&nr_live, __ATOMIC_RELAXED);
}

void shim_clear_peak(void)
{
	__atomic_store_n(&bytes_peak,
			 __atomic_load_n(&bytes_live, __ATOMIC_RELAXED),
			 __ATOMIC_RELAXED);
}

long long shim_live_bytes(void)
{
	return __atomic_load_n(&bytes_live, __ATOMIC_RELAXED);
}

long long shim_peak_bytes(void)
{
	return __atomic_load_n(&bytes_peak, __ATOMIC_RELAXED);
}

static void add_bytes(long long bytes)
{
	long long now = __atomic_add_fetch(&bytes_live, bytes,
					   __ATOMIC_RELAXED);
	long long peak = shim_peak_bytes();

	while (now > peak &&
	       !__atomic_compare_exchange_n(&bytes_peak, &peak, now, true,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

static bool is_in_turn(void)
{
	u64 n = __atomic_fetch_add(&counted, 1, __ATOMIC_RELAXED);

	if (n < __atomic_load_n(&first_to_fail, __ATOMIC_RELAXED) ||
	    n >= __atomic_load_n(&end_to_fail, __ATOMIC_RELAXED))
		return false;
	__atomic_fetch_add(&nr_failed, 1, __ATOMIC_RELAXED);
	return true;
}

static bool is_chosen(gfp_t gfp)
{
	unsigned int one_in = __atomic_load_n(&fail_one_in, __ATOMIC_RELAXED);
	struct shim_random r;

	if (gfp & __GFP_NOFAIL)
		return false;
	if (is_in_turn())
		return true;
	if (!one_in)
		return false;
	r.state = __atomic_fetch_add(&fail_state, 1, __ATOMIC_RELAXED);
	if (shim_below(&r, one_in))
		return false;
	__atomic_fetch_add(&nr_failed, 1, __ATOMIC_RELAXED);
	return true;
}

static void *fill(void *ptr, size_t bytes, gfp_t gfp)
{
	if (!ptr)
		shim_die("out of memory (%zu bytes)", bytes);
	__atomic_fetch_add(&nr_live, 1, __ATOMIC_RELAXED);
	add_bytes(malloc_usable_size(ptr));
	if (gfp & __GFP_ZERO)
		memset(ptr, 0, bytes);
	else
		memset(ptr, GARBAGE, bytes < GARBAGE_MAX ? bytes : GARBAGE_MAX);
	return ptr;
}

static bool shall_fail(gfp_t gfp)
{
	bool fails = is_chosen(gfp);

	if (fails)
		shim_stall();
	return fails;
}

/* Of what cannot fail the kernel promises single pages only. */
static void check_gfp(gfp_t gfp, size_t bytes)
{
	if ((gfp & __GFP_NOFAIL) && bytes > PAGE_SIZE)
		shim_die("%zu bytes are wanted that cannot fail", bytes);
	if (gfp & __GFP_DIRECT_RECLAIM)
		might_sleep();
}

void *shim_alloc(size_t bytes, gfp_t gfp)
{
	check_gfp(gfp, bytes);
	if (shall_fail(gfp) || bytes > SIZE_MAX / 2)
		return NULL;
	/* As in the kernel, where I/O may go to such memory. */
	if (is_power_of_2(bytes) && bytes >= 64 && bytes <= PAGE_SIZE)
		return fill(aligned_alloc(bytes, bytes), bytes, gfp);
	return fill(malloc(bytes), bytes, gfp);
}

void kfree(const void *ptr)
{
	if (ptr) {
		__atomic_fetch_sub(&nr_live, 1, __ATOMIC_RELAXED);
		add_bytes(-(long long)malloc_usable_size((void *)ptr));
	}
	free((void *)ptr);
}

char *kstrdup(const char *text, gfp_t gfp)
{
	return kmemdup(text, strlen(text) + 1, gfp);
}

void *kmemdup(const void *from, size_t bytes, gfp_t gfp)
{
	void *to = shim_alloc(bytes, gfp);

	return to ? memcpy(to, from, bytes) : NULL;
}

unsigned long shim_get_pages(gfp_t gfp, unsigned int order)
{
	size_t bytes = PAGE_SIZE << order;

	check_gfp(gfp, bytes);
	if (shall_fail(gfp))
		return 0;
	return (unsigned long)fill(aligned_alloc(PAGE_SIZE, bytes), bytes, gfp);
}

void *__vmalloc(size_t bytes, gfp_t gfp)
{
	size_t whole = (bytes + PAGE_SIZE - 1) & PAGE_MASK;

	check_gfp(gfp, whole);
	if (shall_fail(gfp))
		return NULL;
	return fill(aligned_alloc(PAGE_SIZE, whole), whole, gfp);
}

void *memchr_inv(const void *from, int c, size_t bytes)
{
	const unsigned char *p = from;

	for (; bytes; bytes--, p++)
		if (*p != (unsigned char)c)
			return (void *)p;
	return NULL;
}

ssize_t strscpy(char *to, const char *from, size_t bytes)
{
	size_t n = strnlen(from, bytes);

	if (!bytes)
		return -7;	/* -E2BIG */
	if (n == bytes) {
		memcpy(to, from, bytes - 1);
		to[bytes - 1] = 0;
		return -7;
	}
	memcpy(to, from, n + 1);
	return n;
}

/*
 * Caches of objects.
 */

struct kmem_cache {
	size_t bytes;
};

struct kmem_cache *kmem_cache_create(const char *name, size_t bytes,
				     size_t align, unsigned int flags,
				     void (*ctor)(void *object))
{
	struct kmem_cache *cache = kmalloc(sizeof(*cache), GFP_KERNEL);

	if (ctor)
		shim_die("constructors of %s are not served", name);
	if (cache)
		cache->bytes = (bytes + align - 1) / align * align;
	(void)flags;
	return cache;
}

void kmem_cache_destroy(struct kmem_cache *cache)
{
	kfree(cache);
}

void *kmem_cache_alloc(struct kmem_cache *cache, gfp_t gfp)
{
	return shim_alloc(cache->bytes, gfp);
}

void kmem_cache_free(struct kmem_cache *cache, void *object)
{
	(void)cache;
	kfree(object);
}

/*
 * Pools.
 */

struct mempool {
	pthread_mutex_t lock;
	pthread_cond_t freed;
	mempool_alloc_t *alloc;
	mempool_free_t *free;
	void *data;
	int min_nr;
	int nr;
	void *elements[];
};

mempool_t *mempool_create(int min_nr, mempool_alloc_t *alloc,
			  mempool_free_t *free_element, void *data)
{
	mempool_t *pool;

	pool = kzalloc(struct_size(pool, elements, min_nr), GFP_KERNEL);
	if (!pool)
		return NULL;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->freed, NULL);
	pool->alloc = alloc;
	pool->free = free_element;
	pool->data = data;
	pool->min_nr = min_nr;
	for (; pool->nr < min_nr; pool->nr++) {
		pool->elements[pool->nr] = alloc(GFP_KERNEL, data);
		if (!pool->elements[pool->nr]) {
			mempool_destroy(pool);
			return NULL;
		}
	}
	return pool;
}

void mempool_destroy(mempool_t *pool)
{
	if (!pool)
		return;
	while (pool->nr)
		pool->free(pool->elements[--pool->nr], pool->data);
	pthread_mutex_destroy(&pool->lock);
	pthread_cond_destroy(&pool->freed);
	kfree(pool);
}

/* One of the reserve; without @wait_ms NULL if there is none just now. */
static void *take_reserve(mempool_t *pool, unsigned int wait_ms)
{
	struct timespec until;
	void *element = NULL;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += wait_ms * 1000000L;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_mutex_lock(&pool->lock);
	if (!pool->nr && wait_ms)
		pthread_cond_timedwait(&pool->freed, &pool->lock, &until);
	if (pool->nr)
		element = pool->elements[--pool->nr];
	pthread_mutex_unlock(&pool->lock);
	return element;
}

/* As in the kernel: the allocator, then the reserve, and again after a wait. */
void *mempool_alloc(mempool_t *pool, gfp_t gfp)
{
	gfp_t careful = gfp & ~(__GFP_DIRECT_RECLAIM | __GFP_IO);
	bool may_wait = gfp & __GFP_DIRECT_RECLAIM;
	void *element;

	check_gfp(gfp, 0);
	element = pool->alloc(careful | __GFP_NORETRY | __GFP_NOWARN,
			      pool->data);
	if (!element)
		element = take_reserve(pool, 0);
	while (!element && may_wait) {
		element = pool->alloc(gfp, pool->data);
		if (!element)
			element = take_reserve(pool, 2);
	}
	return element;
}

void mempool_free(void *element, mempool_t *pool)
{
	if (!element)
		return;
	pthread_mutex_lock(&pool->lock);
	if (pool->nr < pool->min_nr) {
		pool->elements[pool->nr++] = element;
		pthread_cond_signal(&pool->freed);
		element = NULL;
	}
	pthread_mutex_unlock(&pool->lock);
	if (element)
		pool->free(element, pool->data);
}

static void *alloc_bytes(gfp_t gfp, void *data)
{
	return shim_alloc((size_t)data, gfp);
}

static void free_bytes(void *element, void *data)
{
	(void)data;
	kfree(element);
}

mempool_t *mempool_create_kmalloc_pool(int min_nr, size_t bytes)
{
	return mempool_create(min_nr, alloc_bytes, free_bytes, (void *)bytes);
}

static void *alloc_object(gfp_t gfp, void *data)
{
	return kmem_cache_alloc(data, gfp);
}

static void free_object(void *element, void *data)
{
	kmem_cache_free(data, element);
}

mempool_t *mempool_create_slab_pool(int min_nr, struct kmem_cache *cache)
{
	return mempool_create(min_nr, alloc_object, free_object, cache);
}

static void *alloc_order(gfp_t gfp, void *data)
{
	return (void *)shim_get_pages(gfp, (unsigned long)data);
}

mempool_t *mempool_create_page_pool(int min_nr, int order)
{
	return mempool_create(min_nr, alloc_order, free_bytes,
			      (void *)(unsigned long)order);
}
