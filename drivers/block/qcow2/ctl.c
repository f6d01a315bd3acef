// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/qcow-control: attach, detach, query.
 */

/**
 * DOC: control
 *
 * All devices are in one xarray under one mutex.  Attaching and detaching do
 * I/O, for which the mutex is not held: a device is in it from the first
 * moment, which reserves its number and its files, in a state that says who
 * owns it.
 */

#include <linux/capability.h>
#include <linux/err.h>
#include <linux/errno.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/minmax.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <uapi/linux/qcow2.h>

#include "blk.h"
#include "ctl.h"
#include "image.h"

/* Highest number of a device: its name must fit, and so must its minors. */
#define MAX_INDEX	((1 << 20) - 1)

#define KNOWN_FLAGS	(QCOW2_ATTACH_READ_ONLY | QCOW2_ATTACH_DIRECT_IO | \
			 QCOW2_ATTACH_NO_PASS_DISCARD | \
			 QCOW2_ATTACH_DISCARD_NO_UNREF)

/**
 * enum device_state - who owns a device
 * @DEVICE_ATTACHING: the attach that made it; nobody else may look at more
 *	than its files
 * @DEVICE_LIVE: nobody; it may be queried, and detached under devices_lock
 * @DEVICE_DETACHING: the detach that said so; nobody else may look at it
 */
enum device_state {
	DEVICE_ATTACHING,
	DEVICE_LIVE,
	DEVICE_DETACHING,
};

/**
 * struct used_file - a file that a device uses
 * @filp: with a reference
 * @format: enum qcow2_file_format
 * @role: enum qcow2_file_role
 * @writable: the device writes it
 * @snapshot: only an internal snapshot of it is read, which does not change
 */
struct used_file {
	struct file *filp;
	u32 format;
	u32 role;
	bool writable;
	bool snapshot;
};

/**
 * struct qcow2_device - an attached image
 * @state: enum device_state, under devices_lock
 * @index: its number
 * @flags: enum qcow2_attach_flags
 * @cache_size: as asked for, in bytes
 * @snapshot: ID or name of the snapshot that it shows, or NULL
 * @img: the image
 * @disk: its block device
 * @nr_files: number of files
 * @files: the image's chain, in the order of struct qcow2_ctl_attach
 */
struct qcow2_device {
	enum device_state state;
	int index;
	u32 flags;
	u64 cache_size;
	char *snapshot;
	struct qcow2_image *img;
	struct qcow2_disk *disk;
	u32 nr_files;
	struct used_file files[];
};

/* Protects devices and the state of each; no I/O is done under it. */
static DEFINE_MUTEX(devices_lock);
static DEFINE_XARRAY_ALLOC(devices);

/*
 * Attach.
 */

/*
 * What is written by one device nobody else may use, for the metadata would not
 * be as the others remember it.  But a snapshot stays as it is.
 */
static bool conflict(const struct used_file *a, const struct used_file *b)
{
	if (a->filp->f_mapping->host != b->filp->f_mapping->host)
		return false;
	if (!a->writable && !b->writable)
		return false;
	return !a->snapshot && !b->snapshot;
}

static int check_against(const struct qcow2_device *dev,
			 const struct used_file *file,
			 struct qcow2_reason *why)
{
	const struct used_file *other;

	for (other = dev->files; other < dev->files + dev->nr_files; other++) {
		if (!conflict(file, other))
			continue;
		if (other == dev->files)
			return qcow2_refuse(why, -EBUSY,
					    "image is attached already, as /dev/qcow%d",
					    dev->index);
		return qcow2_refuse(why, -EBUSY,
				    "image is in use already, in the chain of /dev/qcow%d",
				    dev->index);
	}
	return 0;
}

static int check_file(const struct qcow2_device *new, u32 i,
		      struct qcow2_reason *why)
{
	const struct used_file *file = &new->files[i];
	struct qcow2_device *dev;
	unsigned long index;
	u32 j;
	int ret;

	lockdep_assert_held(&devices_lock);
	for (j = 0; j < i; j++)
		if (conflict(file, &new->files[j]))
			return qcow2_refuse(why, -ELOOP, "is in the chain twice");
	xa_for_each(&devices, index, dev) {
		ret = check_against(dev, file, why);
		if (ret)
			return ret;
	}
	return 0;
}

/* Has the name of the file in front of a reason that is not about the image. */
static int name_file(const struct used_file *file, int error,
		     struct qcow2_reason *why)
{
	struct qcow2_reason rule = *why;

	return qcow2_refuse(why, error, "%pD: %s", file->filp, rule.text);
}

static int check_files(const struct qcow2_device *dev, struct qcow2_reason *why)
{
	int ret;
	u32 i;

	for (i = 0; i < dev->nr_files; i++) {
		ret = check_file(dev, i, why);
		if (ret)
			return i ? name_file(&dev->files[i], ret, why) : ret;
	}
	return 0;
}

static int choose_index(struct qcow2_device *dev, int wanted,
			struct qcow2_reason *why)
{
	u32 index = wanted;
	int ret;

	lockdep_assert_held(&devices_lock);
	if (wanted < 0)
		ret = xa_alloc(&devices, &index, dev, XA_LIMIT(0, MAX_INDEX),
			       GFP_KERNEL);
	else
		ret = xa_insert(&devices, wanted, dev, GFP_KERNEL);
	if (ret == -ENOMEM)
		return qcow2_refuse(why, ret, "out of memory");
	if (ret && wanted < 0)
		return qcow2_refuse(why, -EBUSY,
				    "all device numbers are in use");
	if (ret)
		return qcow2_refuse(why, -EBUSY, "/dev/qcow%d is in use",
				    wanted);
	dev->index = index;
	return 0;
}

static int reserve(struct qcow2_device *dev, int wanted,
		   struct qcow2_reason *why)
{
	int ret;

	mutex_lock(&devices_lock);
	ret = check_files(dev, why);
	ret = ret ?: choose_index(dev, wanted, why);
	mutex_unlock(&devices_lock);
	return ret;
}

static void forget(struct qcow2_device *dev)
{
	mutex_lock(&devices_lock);
	xa_erase(&devices, dev->index);
	mutex_unlock(&devices_lock);
}

static unsigned int file_flags(u32 attach_flags)
{
	unsigned int flags = 0;

	if (!(attach_flags & QCOW2_ATTACH_READ_ONLY))
		flags |= QCOW2_FILE_WRITABLE;
	if (attach_flags & QCOW2_ATTACH_DIRECT_IO)
		flags |= QCOW2_FILE_DIRECT;
	return flags;
}

/* The external data file of a layer's file, or NULL. */
static struct file *data_file_of(const struct qcow2_device *dev,
				 const struct used_file *file)
{
	file++;
	if (file == dev->files + dev->nr_files || file->role != QCOW2_ROLE_DATA)
		return NULL;
	return file->filp;
}

/* Opens the layer of a file. */
static struct qcow2_image *get_layer(const struct qcow2_device *dev,
				     const struct used_file *file,
				     struct qcow2_reason *why)
{
	bool first = file == dev->files;
	char name[DISK_NAME_LEN];
	const struct qcow2_layer_spec spec = {
		.filp = file->filp,
		.data_filp = data_file_of(dev, file),
		.name = name,
		.raw = file->format == QCOW2_FILE_RAW,
		.direct = dev->flags & QCOW2_ATTACH_DIRECT_IO,
		.snapshot = first ? dev->snapshot : NULL,
		.cache_bytes = first ? dev->cache_size : 0,
	};
	struct qcow2_image *layer;

	snprintf(name, sizeof(name), "%pD", file->filp);
	layer = qcow2_layer_get(&spec, why);
	if (IS_ERR(layer) && !first)
		name_file(file, PTR_ERR(layer), why);
	return layer;
}

/* Opens the layers from @file on; *@nr counts those that are open. */
static int get_layers(const struct qcow2_device *dev,
		      const struct used_file *file, struct qcow2_image **layers,
		      u32 *nr, struct qcow2_reason *why)
{
	for (; file < dev->files + dev->nr_files; file++) {
		struct qcow2_image *layer;

		if (file->role == QCOW2_ROLE_DATA)
			continue;
		layer = get_layer(dev, file, why);
		if (IS_ERR(layer))
			return PTR_ERR(layer);
		layers[(*nr)++] = layer;
	}
	return 0;
}

static int open_on_layers(struct qcow2_device *dev,
			  struct qcow2_options *options, const char *name,
			  struct qcow2_reason *why)
{
	bool view = dev->flags & QCOW2_ATTACH_READ_ONLY;
	int ret;

	ret = get_layers(dev, view ? dev->files : dev->files + 1,
			 options->layers, &options->nr_layers, why);
	if (ret)
		return ret;
	if (view)
		dev->img = qcow2_view_open(name, options, why);
	else
		dev->img = qcow2_image_open(dev->files[0].filp, name, options,
					    why);
	return PTR_ERR_OR_ZERO(dev->img);
}

static int open_image(struct qcow2_device *dev, struct qcow2_reason *why)
{
	struct qcow2_options options = {
		.file_flags = file_flags(dev->flags),
		.no_pass_discard = dev->flags & QCOW2_ATTACH_NO_PASS_DISCARD,
		.discard_no_unref = dev->flags & QCOW2_ATTACH_DISCARD_NO_UNREF,
		.cache_bytes = dev->cache_size,
		.data_filp = data_file_of(dev, dev->files),
	};
	char name[DISK_NAME_LEN];
	int ret;

	snprintf(name, sizeof(name), "qcow%d", dev->index);
	options.layers = kvcalloc(dev->nr_files, sizeof(*options.layers),
				  GFP_KERNEL);
	if (!options.layers)
		return qcow2_refuse(why, -ENOMEM, "out of memory");
	ret = open_on_layers(dev, &options, name, why);
	while (ret && options.nr_layers)
		qcow2_layer_put(options.layers[--options.nr_layers]);
	kvfree(options.layers);
	return ret;
}

static int bring_up(struct qcow2_device *dev, struct qcow2_reason *why)
{
	int ret = open_image(dev, why);

	if (ret)
		return ret;
	dev->disk = qcow2_disk_add(dev->img, dev->index, why);
	if (IS_ERR(dev->disk)) {
		qcow2_image_close(dev->img);
		return PTR_ERR(dev->disk);
	}
	mutex_lock(&devices_lock);
	dev->state = DEVICE_LIVE;
	mutex_unlock(&devices_lock);
	return 0;
}

static int attach_device(struct qcow2_device *dev, struct qcow2_ctl_attach *arg,
			 struct qcow2_reason *why)
{
	int ret = reserve(dev, arg->index, why);

	if (ret)
		return ret;
	arg->index = dev->index;
	ret = bring_up(dev, why);
	if (ret)
		forget(dev);
	return ret;
}

/*
 * What the caller asks for.
 */

static void free_device(struct qcow2_device *dev)
{
	u32 i;

	for (i = 0; i < dev->nr_files; i++)
		if (dev->files[i].filp)
			fput(dev->files[i].filp);
	kfree(dev->snapshot);
	kvfree(dev);
}

static int check_data_role(const struct qcow2_device *dev,
			   const struct qcow2_ctl_file *file, u32 i,
			   struct qcow2_reason *why)
{
	const struct used_file *owner = i ? &dev->files[i - 1] : NULL;

	if (!owner || owner->role == QCOW2_ROLE_DATA ||
	    owner->format != QCOW2_FILE_QCOW2)
		return qcow2_refuse(why, -EINVAL,
				    "file %u of the chain is a data file, but there is no image in front of it",
				    i);
	if (file->format != QCOW2_FILE_RAW)
		return qcow2_refuse(why, -EINVAL,
				    "format of a data file is %u, wanted %u",
				    file->format, QCOW2_FILE_RAW);
	return 0;
}

/* What a file can be follows from what is in front of it. */
static int check_role(const struct qcow2_device *dev,
		      const struct qcow2_ctl_file *file, u32 i,
		      struct qcow2_reason *why)
{
	if (file->format > QCOW2_FILE_RAW || file->reserved)
		return qcow2_refuse(why, -EINVAL, "unknown file format %u",
				    file->format);
	if (file->role > QCOW2_ROLE_DATA)
		return qcow2_refuse(why, -EINVAL, "unknown file role %u",
				    file->role);
	if (file->role == QCOW2_ROLE_DATA)
		return check_data_role(dev, file, i, why);
	if (!i && file->format != QCOW2_FILE_QCOW2)
		return qcow2_refuse(why, -EINVAL,
				    "format of the image is %u, wanted %u",
				    file->format, QCOW2_FILE_QCOW2);
	return 0;
}

static int get_device_file(struct qcow2_device *dev, u32 i, u64 files,
			   struct qcow2_reason *why)
{
	struct used_file *used = &dev->files[i];
	struct qcow2_ctl_file file;
	int ret;

	if (copy_from_user(&file, u64_to_user_ptr(files) + i * sizeof(file),
			   sizeof(file)))
		return -EFAULT;
	ret = check_role(dev, &file, i, why);
	if (ret)
		return ret;
	used->format = file.format;
	used->role = file.role;
	used->writable = (!i || (i == 1 && file.role == QCOW2_ROLE_DATA)) &&
			 !(dev->flags & QCOW2_ATTACH_READ_ONLY);
	used->snapshot = !i && dev->snapshot;
	used->filp = fget(file.fd);
	if (!used->filp)
		return qcow2_refuse(why, -EBADF, "descriptor %d is not open",
				    file.fd);
	return 0;
}

static int get_snapshot(struct qcow2_device *dev, u64 user,
			struct qcow2_reason *why)
{
	char *name;

	if (!user)
		return 0;
	name = strndup_user(u64_to_user_ptr(user), QCOW2_SNAPSHOT_NAME_MAX);
	if (!IS_ERR(name)) {
		dev->snapshot = name;
		return 0;
	}
	if (PTR_ERR(name) == -EINVAL)
		return qcow2_refuse(why, -EINVAL,
				    "name of the snapshot is longer than %u bytes",
				    QCOW2_SNAPSHOT_NAME_MAX - 1);
	return PTR_ERR(name);
}

static struct qcow2_device *new_device(const struct qcow2_ctl_attach *arg,
				       struct qcow2_reason *why)
{
	struct qcow2_device *dev;
	int ret;
	u32 i;

	dev = kvzalloc(struct_size(dev, files, arg->nr_files), GFP_KERNEL);
	if (!dev)
		return ERR_PTR(qcow2_refuse(why, -ENOMEM, "out of memory"));
	dev->nr_files = arg->nr_files;
	dev->flags = arg->flags;
	dev->cache_size = arg->cache_size;
	ret = get_snapshot(dev, arg->snapshot, why);
	for (i = 0; i < arg->nr_files && !ret; i++)
		ret = get_device_file(dev, i, arg->files, why);
	if (!ret)
		return dev;
	free_device(dev);
	return ERR_PTR(ret);
}

static int check_attach(const struct qcow2_ctl_attach *arg,
			struct qcow2_reason *why)
{
	if (arg->flags & ~KNOWN_FLAGS)
		return qcow2_refuse(why, -EINVAL, "unknown flags 0x%x",
				    arg->flags);
	if (arg->reserved)
		return qcow2_refuse(why, -EINVAL,
				    "a reserved member is not zero");
	if (arg->cache_size &&
	    (arg->cache_size < QCOW2_CACHE_MIN_BYTES ||
	     arg->cache_size > QCOW2_CACHE_MAX_BYTES))
		return qcow2_refuse(why, -EINVAL,
				    "cache size is %llu bytes, wanted %u to %llu",
				    arg->cache_size, QCOW2_CACHE_MIN_BYTES,
				    QCOW2_CACHE_MAX_BYTES);
	if (arg->index < -1 || arg->index > MAX_INDEX)
		return qcow2_refuse(why, -EINVAL,
				    "device number is %d, wanted -1 to %d",
				    arg->index, MAX_INDEX);
	if (!arg->nr_files || arg->nr_files > QCOW2_FILES_MAX)
		return qcow2_refuse(why, -EINVAL, "%u files given, wanted 1 to %u",
				    arg->nr_files, QCOW2_FILES_MAX);
	if (arg->snapshot && !(arg->flags & QCOW2_ATTACH_READ_ONLY))
		return qcow2_refuse(why, -EINVAL,
				    "a snapshot can only be attached read-only");
	return 0;
}

static int ctl_attach(struct qcow2_ctl_attach *arg, struct qcow2_reason *why)
{
	struct qcow2_device *dev;
	int ret;

	ret = check_attach(arg, why);
	if (ret)
		return ret;
	dev = new_device(arg, why);
	if (IS_ERR(dev))
		return PTR_ERR(dev);
	/* Each device keeps the module; the ioctl itself is covered by fops. */
	__module_get(THIS_MODULE);
	ret = attach_device(dev, arg, why);
	if (!ret)
		return 0;
	module_put(THIS_MODULE);
	free_device(dev);
	return ret;
}

/*
 * Detach.
 */

static struct qcow2_device *find_live(int index)
{
	struct qcow2_device *dev = xa_load(&devices, index);

	lockdep_assert_held(&devices_lock);
	return dev && dev->state == DEVICE_LIVE ? dev : NULL;
}

static int begin_detach(int index, struct qcow2_device **found,
			struct qcow2_reason *why)
{
	struct qcow2_device *dev;
	unsigned int openers;
	int ret = 0;

	mutex_lock(&devices_lock);
	dev = find_live(index);
	if (!dev)
		ret = qcow2_refuse(why, -ENODEV, "no such device");
	else if (qcow2_disk_begin_close(dev->disk, &openers))
		ret = qcow2_refuse(why, -EBUSY,
				   "in use (%u open); unmount or close it first",
				   openers);
	else
		dev->state = DEVICE_DETACHING;
	mutex_unlock(&devices_lock);
	*found = dev;
	return ret;
}

/*
 * With the device still there: what does not fit into the file, or could not be
 * written for want of memory, would be lost.
 */
static int commit_first(struct qcow2_device *dev, struct qcow2_reason *why)
{
	int ret = qcow2_commit_settle(dev->img);

	if (ret != -ENOSPC && ret != -ENOMEM)
		return 0;
	mutex_lock(&devices_lock);
	qcow2_disk_cancel_close(dev->disk);
	dev->state = DEVICE_LIVE;
	mutex_unlock(&devices_lock);
	if (ret == -ENOMEM)
		return qcow2_refuse(why, ret,
				    "out of memory, the last changes could not be written; try again");
	return qcow2_refuse(why, ret,
			    "no space left for the last changes in the image's file system; free some and try again");
}

static int take_down(struct qcow2_device *dev, struct qcow2_reason *why)
{
	bool damaged;
	int ret;

	qcow2_disk_del(dev->disk);
	damaged = qcow2_image_needs_check(dev->img);
	ret = qcow2_image_close(dev->img);
	dev->img = NULL;
	if (ret)
		return qcow2_refuse(why, -EIO,
				    "detached, but the last changes could not be written (error %d); run 'qemu-img check -r all' on the image (%pD)",
				    ret, dev->files[0].filp);
	if (damaged)
		return qcow2_refuse(why, -EUCLEAN,
				    "detached, but its metadata was found damaged; run 'qemu-img check -r all' on the image (%pD)",
				    dev->files[0].filp);
	return 0;
}

/**
 * struct detach - what a detach does in a kernel thread
 * @work: the work
 * @dev: the device
 * @why: filled in on failure
 * @gone: the device has lost its disk and its image; else it is live again, and
 *	may be anybody's to detach
 * @ret: the result
 */
struct detach {
	struct work_struct work;
	struct qcow2_device *dev;
	struct qcow2_reason *why;
	bool gone;
	int ret;
};

static void detach_work(struct work_struct *work)
{
	struct detach *d = container_of(work, struct detach, work);

	d->ret = commit_first(d->dev, d->why);
	if (d->ret)
		return;
	d->ret = take_down(d->dev, d->why);
	d->gone = true;
}

/*
 * The caller may be killed, or have limits for the size of files: the last
 * changes must not be lost by that.
 */
static void detach_in_kthread(struct detach *d)
{
	INIT_WORK_ONSTACK(&d->work, detach_work);
	queue_work(system_long_wq, &d->work);
	flush_work(&d->work);
	destroy_work_on_stack(&d->work);
}

static int ctl_detach(struct qcow2_ctl_detach *arg, struct qcow2_reason *why)
{
	struct detach d = { .why = why };
	int ret;

	if (arg->flags || arg->reserved || arg->reserved2)
		return qcow2_refuse(why, -EINVAL,
				    "a reserved member is not zero");
	ret = begin_detach(arg->index, &d.dev, why);
	if (ret)
		return ret;
	detach_in_kthread(&d);
	if (!d.gone)
		return d.ret;
	/*
	 * The last references, here: the files are released when we return.  But
	 * the file of a shared layer may be that of a device that went before;
	 * its last reference went in the work item, which leaves it to another.
	 */
	forget(d.dev);
	free_device(d.dev);
	flush_delayed_fput();
	module_put(THIS_MODULE);
	return d.ret;
}

/*
 * Query.
 */

static u32 query_state(const struct qcow2_device *dev)
{
	u32 state = 0;

	if (dev->flags & QCOW2_ATTACH_READ_ONLY)
		state |= QCOW2_STATE_READ_ONLY;
	if (dev->flags & QCOW2_ATTACH_DIRECT_IO)
		state |= QCOW2_STATE_DIRECT_IO;
	if (dev->flags & QCOW2_ATTACH_NO_PASS_DISCARD)
		state |= QCOW2_STATE_NO_PASS_DISCARD;
	if (dev->flags & QCOW2_ATTACH_DISCARD_NO_UNREF)
		state |= QCOW2_STATE_DISCARD_NO_UNREF;
	if (qcow2_image_needs_check(dev->img))
		state |= QCOW2_STATE_NEEDS_CHECK;
	if (dev->snapshot)
		state |= QCOW2_STATE_SNAPSHOT;
	return state;
}

static void describe(const struct qcow2_device *dev,
		     struct qcow2_ctl_query *arg)
{
	arg->index = dev->index;
	arg->state = query_state(dev);
	arg->virtual_size = qcow2_virtual_bytes(dev->img);
	arg->cluster_size = dev->img->geo.cluster_bytes;
	arg->version = dev->img->geo.version;
	arg->openers = qcow2_disk_openers(dev->disk);
}

static struct qcow2_device *next_live(int start)
{
	struct qcow2_device *dev;
	unsigned long index;

	lockdep_assert_held(&devices_lock);
	xa_for_each_start(&devices, index, dev, start)
		if (dev->state == DEVICE_LIVE)
			return dev;
	return NULL;
}

/**
 * struct query_texts - what is told of a device in words
 * @path: of its image's file
 * @snapshot_id: of the snapshot that it shows, empty if it shows none
 * @snapshot_name: likewise
 */
struct query_texts {
	char path[PATH_MAX];
	char snapshot_id[QCOW2_SNAPSHOT_NAME_MAX];
	char snapshot_name[QCOW2_SNAPSHOT_NAME_MAX];
};

static void tell_snapshot(struct qcow2_device *dev, struct query_texts *texts)
{
	const struct qcow2_image *shown = qcow2_image_shown(dev->img);

	strscpy(texts->snapshot_id, shown->snapshot_id ?: "",
		sizeof(texts->snapshot_id));
	strscpy(texts->snapshot_name, shown->snapshot_name ?: "",
		sizeof(texts->snapshot_name));
}

static int query_locked(struct qcow2_ctl_query *arg, struct query_texts *texts)
{
	struct qcow2_device *dev = next_live(arg->index);

	if (!dev)
		return -ENODEV;
	describe(dev, arg);
	tell_snapshot(dev, texts);
	if (!arg->path)
		return 0;
	/* A layer's file may be that of another device, which shares it. */
	return qcow2_path_of(dev->files[0].filp, texts->path,
			     sizeof(texts->path));
}

static int give_text(u64 to, u32 room, const char *text)
{
	size_t bytes = strlen(text) + 1;

	if (!to)
		return 0;
	if (bytes > room)
		return -ENAMETOOLONG;
	return copy_to_user(u64_to_user_ptr(to), text, bytes) ? -EFAULT : 0;
}

/* With no lock held: the caller's memory may be anything. */
static int give_texts(const struct qcow2_ctl_query *arg,
		      const struct query_texts *texts)
{
	int ret = give_text(arg->path, arg->path_size, texts->path);

	ret = ret ?: give_text(arg->snapshot_id, arg->snapshot_size,
			       texts->snapshot_id);
	return ret ?: give_text(arg->snapshot_name, arg->snapshot_size,
				texts->snapshot_name);
}

static int ctl_query(struct qcow2_ctl_query *arg)
{
	struct query_texts *texts;
	int ret;

	if (arg->flags || arg->reserved || arg->index < 0)
		return -EINVAL;
	texts = kzalloc_obj(*texts);
	if (!texts)
		return -ENOMEM;
	mutex_lock(&devices_lock);
	ret = query_locked(arg, texts);
	mutex_unlock(&devices_lock);
	ret = ret ?: give_texts(arg, texts);
	kfree(texts);
	return ret;
}

/*
 * The node.
 */

/* Copies the caller's struct, whose first member is its size, into @arg. */
static int get_arg(void *arg, size_t bytes, void __user *from)
{
	u32 user_bytes;

	if (get_user(user_bytes, (u32 __user *)from))
		return -EFAULT;
	if (user_bytes < sizeof(u32) || user_bytes > PAGE_SIZE)
		return -EINVAL;
	return copy_struct_from_user(arg, bytes, from, user_bytes);
}

/* Copies back what fits into the caller's struct. */
static int put_arg(void __user *to, const void *arg, size_t bytes)
{
	u32 user_bytes = *(const u32 *)arg;

	return copy_to_user(to, arg, min_t(size_t, bytes, user_bytes)) ?
		-EFAULT : 0;
}

static void give_reason(u64 to, u32 bytes, const struct qcow2_reason *why)
{
	size_t n = min_t(size_t, bytes, strlen(why->text) + 1);
	char __user *buf = u64_to_user_ptr(to);

	if (!to || !n || !why->text[0])
		return;
	/* The errno tells what it can if this does not work. */
	if (copy_to_user(buf, why->text, n) || put_user('\0', buf + n - 1))
		return;
}

static long ioctl_attach(void __user *user)
{
	struct qcow2_reason why = {};
	struct qcow2_ctl_attach arg;
	int ret;

	ret = get_arg(&arg, sizeof(arg), user);
	if (ret)
		return ret;
	ret = ctl_attach(&arg, &why);
	if (!ret)
		return put_arg(user, &arg, sizeof(arg));
	give_reason(arg.reason, arg.reason_size, &why);
	return ret;
}

static long ioctl_detach(void __user *user)
{
	struct qcow2_reason why = {};
	struct qcow2_ctl_detach arg;
	int ret;

	ret = get_arg(&arg, sizeof(arg), user);
	if (ret)
		return ret;
	ret = ctl_detach(&arg, &why);
	if (ret)
		give_reason(arg.reason, arg.reason_size, &why);
	return ret;
}

static long ioctl_query(void __user *user)
{
	struct qcow2_ctl_query arg;
	int ret;

	ret = get_arg(&arg, sizeof(arg), user);
	ret = ret ?: ctl_query(&arg);
	return ret ?: put_arg(user, &arg, sizeof(arg));
}

static long ctl_ioctl(struct file *filp, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;

	if (!capable(CAP_SYS_ADMIN))
		return -EPERM;
	switch (cmd) {
	case QCOW2_CTL_ATTACH:
		return ioctl_attach(user);
	case QCOW2_CTL_DETACH:
		return ioctl_detach(user);
	case QCOW2_CTL_QUERY:
		return ioctl_query(user);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations ctl_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = ctl_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
};

static struct miscdevice ctl_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = QCOW2_CONTROL_NAME,
	.fops = &ctl_fops,
	.mode = 0600,
};

/**
 * qcow2_ctl_init() - at load: make the control node
 *
 * Return: 0 or a negative errno.
 */
int __init qcow2_ctl_init(void)
{
	return misc_register(&ctl_device);
}

/**
 * qcow2_ctl_exit() - at unload: take it away; no device is attached
 */
void qcow2_ctl_exit(void)
{
	misc_deregister(&ctl_device);
	xa_destroy(&devices);
}
