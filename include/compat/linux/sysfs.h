/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_SYSFS_H
#define _QCOW2_COMPAT_LINUX_SYSFS_H

#include "compat_probed.h"

#ifndef COMPAT_HAS_BIN_ATTRS_CONST
/*
 * 6.16 made binary attributes of a group const. Here the kernel's own definition of the
 * group gets an empty array of the old type in front of the member that it has, and
 * that gets the new type.
 */
#define bin_attrs compat_old_bin_attrs[0]; const struct bin_attribute *const *bin_attrs
#include_next <linux/sysfs.h>
#undef bin_attrs
#else
#include_next <linux/sysfs.h>
#endif

#ifndef COMPAT_HAS_BIN_ATTR_READ_CONST
/* 6.16 made the attribute const that read() gets, too. */
#undef BIN_ATTR_RO
#define BIN_ATTR_RO(_name, _bytes)					\
ssize_t compat_##_name##_read(struct file *filp, struct kobject *kobj,	\
			      struct bin_attribute *attr, char *buf,	\
			      loff_t offset, size_t bytes)		\
{									\
	return _name##_read(filp, kobj, attr, buf, offset, bytes);	\
}									\
static struct bin_attribute bin_attr_##_name =				\
	__BIN_ATTR(_name, 0444, compat_##_name##_read, NULL, _bytes)
#endif

#endif /* _QCOW2_COMPAT_LINUX_SYSFS_H */
