/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_SYSFS_H
#define _QCOW2_COMPAT_LINUX_SYSFS_H

#include <linux/version.h>
#include_next <linux/sysfs.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
/* 6.16 made binary attributes const, for who reads them and in a group. */
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
#define COMPAT_BIN_ATTRS(attrs)	((struct bin_attribute **)(attrs))
#else
#define COMPAT_BIN_ATTRS(attrs)	(attrs)
#endif

#endif /* _QCOW2_COMPAT_LINUX_SYSFS_H */
