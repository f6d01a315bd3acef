// SPDX-License-Identifier: GPL-2.0-only
/*
 * The room in which a compressed cluster can be decompressed when there is no
 * memory.
 */

/**
 * DOC: decompression reserve
 *
 * All images have one room together: for a stream, for what a codec works in, and
 * for a cluster, each as large as any attached image may need.  It is made when
 * an image is attached, grows when another one needs more, and goes with the
 * last.
 *
 * One at a time is in it.  An image's file may lie on the device of another
 * image, so somebody who did I/O in the room could wait for somebody who waits
 * for the room.  Hence the rule: whoever is in it does no I/O and allocates
 * nothing.  All that happens there takes the time of a decompression, and then
 * it is free again, whatever is stacked upon whatever.
 *
 * Larger parts are allocated outside, and only put in under the lock, since
 * that allocation may wait for a write that needs the room.
 */

#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "image.h"

/* Serialises who comes and goes; taken outside of @room_lock. */
static DEFINE_MUTEX(users_lock);
static unsigned int users;

/* Held by who is in the room: no I/O and no allocation under it. */
static DEFINE_MUTEX(room_lock);
static struct qcow2_reserve room;

/*
 * What is in the room at least as large as asked for.  Changed under both locks,
 * so one of them is enough to look at it.
 */
static int grow(void **part, size_t *bytes, size_t wanted)
{
	void *larger;

	lockdep_assert_held(&users_lock);
	if (*bytes >= wanted)
		return 0;
	larger = kvmalloc(wanted, GFP_KERNEL);
	if (!larger)
		return -ENOMEM;
	mutex_lock(&room_lock);
	swap(*part, larger);
	*bytes = wanted;
	mutex_unlock(&room_lock);
	kvfree(larger);
	return 0;
}

static void empty(void)
{
	lockdep_assert_held(&users_lock);
	mutex_lock(&room_lock);
	kvfree(room.stream);
	kvfree(room.workspace);
	kvfree(room.cluster);
	memset(&room, 0, sizeof(room));
	mutex_unlock(&room_lock);
}

/**
 * qcow2_reserve_get() - an image comes, which may need the reserve
 * @wanted: how much of each its members; their pointers are not looked at
 *
 * Context: sleeps; not in the I/O path.
 * Return: 0, and qcow2_reserve_put() is due; or -ENOMEM.
 */
int qcow2_reserve_get(const struct qcow2_reserve *wanted)
{
	int ret;

	mutex_lock(&users_lock);
	ret = grow(&room.stream, &room.stream_bytes, wanted->stream_bytes);
	ret = ret ?: grow(&room.workspace, &room.workspace_bytes,
			  wanted->workspace_bytes);
	ret = ret ?: grow(&room.cluster, &room.cluster_bytes,
			  wanted->cluster_bytes);
	if (!ret)
		users++;
	else if (!users)
		empty();
	mutex_unlock(&users_lock);
	return ret;
}

/**
 * qcow2_reserve_put() - an image goes
 */
void qcow2_reserve_put(void)
{
	mutex_lock(&users_lock);
	if (!--users)
		empty();
	mutex_unlock(&users_lock);
}

/**
 * qcow2_reserve_begin() - use the reserve
 *
 * Context: sleeps until nobody else is in it, which takes no I/O.  Until
 * qcow2_reserve_end() the caller does no I/O and allocates nothing.
 * Return: it; it is at least as large as any image asked for that is there.
 */
const struct qcow2_reserve *qcow2_reserve_begin(void)
{
	mutex_lock(&room_lock);
	return &room;
}

/**
 * qcow2_reserve_end() - let others use the reserve
 */
void qcow2_reserve_end(void)
{
	mutex_unlock(&room_lock);
}
