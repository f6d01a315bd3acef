// SPDX-License-Identifier: GPL-2.0-only
/* 6.16: a group has const binary attributes. */
#include <linux/sysfs.h>

static const struct bin_attribute *const attrs[] = { NULL };
const struct attribute_group probe = { .bin_attrs = attrs };
