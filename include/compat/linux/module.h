/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_MODULE_H
#define _QCOW2_COMPAT_LINUX_MODULE_H

#include "compat_probed.h"
#include_next <linux/module.h>

#ifdef COMPAT_HAS_MODULE_IMPORT_NS_SYMBOL
/* 6.13 made the namespace a string; before, it was made one here. */
#undef MODULE_IMPORT_NS
#define MODULE_IMPORT_NS(ns) MODULE_INFO(import_ns, ns)
#endif

#endif /* _QCOW2_COMPAT_LINUX_MODULE_H */
