/* SPDX-License-Identifier: GPL-2.0-only */
/* Tests in user space see what KUnit sees (CONFIG_KUNIT is 1). */
#ifndef _SHIM_VISIBILITY_H
#define _SHIM_VISIBILITY_H

#define VISIBLE_IF_KUNIT
#define EXPORT_SYMBOL_IF_KUNIT(symbol)	struct shim_nothing

#endif
