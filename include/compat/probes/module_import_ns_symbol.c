// SPDX-License-Identifier: GPL-2.0-only
/* Up to 6.12 a namespace is given as a symbol. */
#include <linux/module.h>

MODULE_IMPORT_NS(PROBE);
