/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_BUG_H
#define _SHIM_BUG_H

#include <linux/compiler.h>
#include <linux/types.h>

/* A warning means a bug of ours: the test ends. See shim.h to go on instead. */
bool shim_warn(bool condition, const char *what, const char *file, int line);

#define WARN_ON(cond)		shim_warn(!!(cond), #cond, __FILE__, __LINE__)
#define WARN_ON_ONCE(cond)	WARN_ON(cond)
#define WARN(cond, ...)		WARN_ON(cond)
#define WARN_ONCE(cond, ...)	WARN_ON(cond)

#endif
