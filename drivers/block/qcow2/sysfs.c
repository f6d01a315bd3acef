// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/block/qcow<N>/qcow2/: what Documentation/ABI/testing/sysfs-block-qcow2
 * describes.
 */

#include <linux/blkdev.h>
#include <linux/compiler.h>
#include <linux/device.h>
#include <linux/errno.h>
#include <linux/kstrtox.h>
#include <linux/mm.h>
#include <linux/sysfs.h>

#include "blk.h"
#include "image.h"

/* The disk outlives its attributes, the image the disk. */
static struct qcow2_image *image_of(struct device *dev)
{
	struct qcow2_disk *disk = dev_to_disk(dev)->private_data;

	return disk->img;
}

/* The image with the metadata and the cache of it. */
static struct qcow2_image *shown_by(struct device *dev)
{
	return qcow2_image_shown(image_of(dev));
}

static ssize_t state_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	const struct qcow2_image *img = image_of(dev);
	const char *state = "ok";

	if (qcow2_image_needs_check(img))
		state = "needs-check";
	else if (qcow2_image_read_only(img))
		state = "read-only";
	return sysfs_emit(buf, "%s\n", state);
}
static DEVICE_ATTR_RO(state);

static ssize_t cache_size_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n",
			  (u64)READ_ONCE(shown_by(dev)->cache.max) * PAGE_SIZE);
}

static ssize_t cache_size_store(struct device *dev,
				struct device_attribute *attr, const char *buf,
				size_t count)
{
	u64 bytes;
	int ret = kstrtou64(buf, 0, &bytes);

	if (ret)
		return ret;
	if (bytes < QCOW2_CACHE_MIN_BYTES || bytes > QCOW2_CACHE_MAX_BYTES)
		return -EINVAL;
	qcow2_cache_set_max(shown_by(dev), bytes);
	return count;
}
static DEVICE_ATTR_RW(cache_size);

/* An attribute that is a number: @expr of img, which @of finds. */
#define IMAGE_ATTR(name, of, expr)					\
static ssize_t name##_show(struct device *dev,				\
			   struct device_attribute *attr, char *buf)	\
{									\
	const struct qcow2_image *img = of(dev);			\
									\
	return sysfs_emit(buf, "%llu\n", (u64)(expr));			\
}									\
static DEVICE_ATTR_RO(name)

#define NUMBER_ATTR(name, expr)	IMAGE_ATTR(name, image_of, expr)
#define CACHE_ATTR(name, expr)	IMAGE_ATTR(name, shown_by, expr)

NUMBER_ATTR(version, img->geo.version);
NUMBER_ATTR(cluster_size, img->geo.cluster_bytes);
CACHE_ATTR(cache_used, (u64)READ_ONCE(img->cache.nr) * PAGE_SIZE);
NUMBER_ATTR(cache_dirty, (u64)READ_ONCE(img->nr_dirty) * PAGE_SIZE);
CACHE_ATTR(slices_loaded, READ_ONCE(img->cache.loads));
NUMBER_ATTR(commits, atomic64_read(&img->commits_begun));
NUMBER_ATTR(clusters_allocated, READ_ONCE(img->clusters_allocated));
NUMBER_ATTR(clusters_freed, READ_ONCE(img->clusters_freed));

static struct attribute *attrs[] = {
	&dev_attr_state.attr,
	&dev_attr_version.attr,
	&dev_attr_cluster_size.attr,
	&dev_attr_cache_size.attr,
	&dev_attr_cache_used.attr,
	&dev_attr_cache_dirty.attr,
	&dev_attr_slices_loaded.attr,
	&dev_attr_commits.attr,
	&dev_attr_clusters_allocated.attr,
	&dev_attr_clusters_freed.attr,
	NULL
};

static const struct attribute_group group = {
	.name = QCOW2_SYSFS_GROUP,
	.attrs = attrs,
};

const struct attribute_group *qcow2_disk_groups[] = {
	&group,
	NULL
};
