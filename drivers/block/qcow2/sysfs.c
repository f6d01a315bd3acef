// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/block/qcow<N>/qcow2/: what Documentation/ABI/testing/sysfs-block-qcow2
 * describes.
 */

#include <linux/blkdev.h>
#include <linux/compiler.h>
#include <linux/device.h>
#include <linux/errno.h>
#include <linux/kernel.h>
#include <linux/kstrtox.h>
#include <linux/limits.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/string_helpers.h>
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
	const struct qcow2_image *img = shown_by(dev);

	return sysfs_emit(buf, "%llu\n",
			  (u64)READ_ONCE(img->cache.max) << qcow2_slice_data_bits(img));
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
CACHE_ATTR(cache_used, (u64)READ_ONCE(img->cache.nr) << qcow2_slice_data_bits(img));
NUMBER_ATTR(cache_dirty, (u64)READ_ONCE(img->nr_dirty) << qcow2_slice_data_bits(img));
CACHE_ATTR(slices_loaded, READ_ONCE(img->cache.loads));
NUMBER_ATTR(commits, atomic64_read(&img->commits_begun));
NUMBER_ATTR(clusters_allocated, READ_ONCE(img->clusters_allocated));
NUMBER_ATTR(clusters_freed, READ_ONCE(img->clusters_freed));

/*
 * The chain.  It may have thousands of files, so that its text does not fit into
 * a page, and a binary attribute, which is read page by page, holds it.
 */

/* What would end a field or a line, or move the cursor of a terminal. */
#define ESCAPED "\001\002\003\004\005\006\007\010\011\012\013\014\015\016\017" \
		"\020\021\022\023\024\025\026\027\030\031\032\033\034\035\036\037" \
		" \\\177"

/* A role, a format, and a path whose bytes are all escaped. */
#define CHAIN_LINE_BYTES	(32 + 4 * PATH_MAX)

/**
 * struct chain_text - the part of the chain's text that is read
 * @skip: bytes in front of it that are still to come
 * @buf: where it goes
 * @room: bytes that fit
 * @done: bytes that are there
 * @path: for a path
 * @line: for a line, without a zero byte
 */
struct chain_text {
	u64 skip;
	char *buf;
	size_t room;
	size_t done;
	char path[PATH_MAX];
	char line[CHAIN_LINE_BYTES];
};

static void add_line(struct chain_text *text, size_t bytes)
{
	size_t skip = min_t(u64, text->skip, bytes);
	size_t n = min(bytes - skip, text->room - text->done);

	memcpy(text->buf + text->done, text->line + skip, n);
	text->skip -= skip;
	text->done += n;
}

static void add_file(struct chain_text *text, const char *role,
		     const char *format, const struct qcow2_file *file)
{
	size_t n = scnprintf(text->line, sizeof(text->line), "%s %s ", role,
			     format);

	/* No path is like this, for all begin with a slash. */
	if (qcow2_file_path(file, text->path, sizeof(text->path)))
		strscpy(text->path, "-", sizeof(text->path));
	n += string_escape_mem(text->path, strlen(text->path), text->line + n,
			       sizeof(text->line) - n, ESCAPE_OCTAL, ESCAPED);
	text->line[n++] = '\n';
	add_line(text, n);
}

static void add_layers(struct chain_text *text, struct qcow2_image *img)
{
	struct qcow2_epoch *epoch = qcow2_epoch_enter(img);
	const struct qcow2_image *layer;
	u32 depth;

	for (depth = 0; text->done < text->room; depth++) {
		layer = qcow2_chain_layer(img, depth);
		if (!layer)
			break;
		add_file(text, depth ? "backing" : "image",
			 test_bit(QCOW2_IMAGE_RAW, &layer->flags) ? "raw" :
								    "qcow2",
			 layer->file);
		if (layer->data_file)
			add_file(text, "data", "raw", layer->data_file);
	}
	qcow2_epoch_exit(epoch);
}

static ssize_t chain_read(struct file *filp, struct kobject *kobj,
			  const struct bin_attribute *attr, char *buf,
			  loff_t offset, size_t bytes)
{
	struct chain_text *text = kvmalloc(sizeof(*text), GFP_KERNEL);
	ssize_t done;

	if (!text)
		return -ENOMEM;
	text->skip = offset;
	text->buf = buf;
	text->room = bytes;
	text->done = 0;
	add_layers(text, image_of(kobj_to_dev(kobj)));
	done = text->done;
	kvfree(text);
	return done;
}
static BIN_ATTR_RO(chain, 0);

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

static const struct bin_attribute *const bin_attrs[] = {
	&bin_attr_chain,
	NULL
};

static const struct attribute_group group = {
	.name = QCOW2_SYSFS_GROUP,
	.attrs = attrs,
	.bin_attrs = bin_attrs,
};

const struct attribute_group *qcow2_disk_groups[] = {
	&group,
	NULL
};
