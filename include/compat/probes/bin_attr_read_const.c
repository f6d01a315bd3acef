// SPDX-License-Identifier: GPL-2.0-only
/* 6.16: read() of a binary attribute gets a const one. */
#include <linux/sysfs.h>

static ssize_t probe_read(struct file *filp, struct kobject *kobj,
			  const struct bin_attribute *attr, char *buf,
			  loff_t offset, size_t bytes)
{
	return 0;
}

static BIN_ATTR_RO(probe, 0);
const void *probe = &bin_attr_probe;
