// SPDX-License-Identifier: GPL-2.0-only
/*
 * The requests of /dev/qcow-control as functions.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "control.h"
#include "exitcode.h"
#include "node.h"
#include "report.h"

int control_open(void)
{
	int ctl = node_open_control();

	if (ctl >= 0)
		return ctl;

	switch (errno) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		complain(CONTROL_PATH, "the qcow2 module is not loaded; try 'modprobe qcow2' or 'insmod qcow2.ko'");
		return -EXIT_NO_DRIVER;
	case EACCES:
	case EPERM:
		complain(CONTROL_PATH, "no permission to control qcow2 devices; try again as root");
		return -EXIT_NO_DRIVER;
	default:
		complain(CONTROL_PATH, "cannot open: %s", strerror(errno));
		return -EXIT_OTHER;
	}
}

static uint64_t user_pointer(const void *pointer)
{
	return (uintptr_t)pointer;
}

/* The kernel leaves the buffer alone when it has nothing to say. */
static void reason_init(struct control_reason *reason)
{
	memset(reason, 0, sizeof(*reason));
}

static int request(int ctl, unsigned long number, void *arg)
{
	return node_ioctl(ctl, number, arg) < 0 ? -errno : 0;
}

int control_attach(int ctl, const struct qcow2_ctl_file *files,
		   unsigned int nr_files,
		   const struct control_options *options,
		   struct control_reason *reason)
{
	struct qcow2_ctl_attach arg = {
		.size = sizeof(arg),
		.flags = options->flags,
		.index = -1,
		.nr_files = nr_files,
		.files = user_pointer(files),
		.reason = user_pointer(reason->text),
		.reason_size = sizeof(reason->text),
		.cache_size = options->cache_size,
		.snapshot = user_pointer(options->snapshot),
	};
	int err;

	reason_init(reason);
	err = request(ctl, QCOW2_CTL_ATTACH, &arg);
	return err ? err : arg.index;
}

int control_detach(int ctl, int index, struct control_reason *reason)
{
	struct qcow2_ctl_detach arg = {
		.size = sizeof(arg),
		.index = index,
		.reason = user_pointer(reason->text),
		.reason_size = sizeof(reason->text),
	};

	reason_init(reason);
	return request(ctl, QCOW2_CTL_DETACH, &arg);
}

/**
 * struct texts - what to ask for beside numbers
 * @path: the path of the image
 * @snapshot: the snapshot that is shown
 */
struct texts {
	bool path;
	bool snapshot;
};

static int query(int ctl, int index, struct control_device *device,
		 struct qcow2_ctl_query *arg, const struct texts *texts)
{
	*arg = (struct qcow2_ctl_query) {
		.size = sizeof(*arg),
		.index = index,
	};
	if (texts->path) {
		arg->path = user_pointer(device->image);
		arg->path_size = sizeof(device->image);
	}
	if (texts->snapshot) {
		arg->snapshot_id = user_pointer(device->snapshot_id);
		arg->snapshot_name = user_pointer(device->snapshot_name);
		arg->snapshot_size = sizeof(device->snapshot_id);
	}
	device->image[0] = '\0';
	device->snapshot_id[0] = '\0';
	device->snapshot_name[0] = '\0';
	return request(ctl, QCOW2_CTL_QUERY, arg);
}

int control_query(int ctl, int index, struct control_device *device)
{
	struct texts texts = { .path = true, .snapshot = true };
	struct qcow2_ctl_query arg;
	int err;

	err = query(ctl, index, device, &arg, &texts);
	/* A driver that is older than this question. */
	if (err == -E2BIG) {
		texts.snapshot = false;
		err = query(ctl, index, device, &arg, &texts);
	}
	/* A device with a path beyond all bounds is a device all the same. */
	if (err == -ENAMETOOLONG) {
		texts.path = false;
		err = query(ctl, index, device, &arg, &texts);
	}
	if (err)
		return err;
	/* Going back would list the same devices for ever. */
	if (arg.index < index)
		return -EPROTO;

	device->index = arg.index;
	device->state = arg.state;
	device->openers = arg.openers;
	device->version = arg.version;
	device->cluster_size = arg.cluster_size;
	device->virtual_size = arg.virtual_size;
	return 0;
}
