/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_PRINTK_H
#define _SHIM_PRINTK_H

#include <linux/bug.h>
#include <linux/compiler.h>
#include <linux/types.h>
#include <stdarg.h>
#include <stdio.h>

struct va_format {
	const char *fmt;
	va_list *va;
};

__printf(1, 2)
int shim_printk(const char *fmt, ...);
int vscnprintf(char *buf, size_t bytes, const char *fmt, va_list args);
__printf(3, 4)
int scnprintf(char *buf, size_t bytes, const char *fmt, ...);

#define pr_err(fmt, ...)	shim_printk(fmt, ##__VA_ARGS__)
#define pr_warn(fmt, ...)	shim_printk(fmt, ##__VA_ARGS__)
#define pr_notice(fmt, ...)	shim_printk(fmt, ##__VA_ARGS__)
#define pr_info(fmt, ...)	shim_printk(fmt, ##__VA_ARGS__)
#define pr_debug(fmt, ...)	((void)0)
#define pr_err_once		pr_err
#define pr_warn_once		pr_warn
#define pr_err_ratelimited	pr_err
#define pr_warn_ratelimited	pr_warn
#define pr_info_ratelimited	pr_info

#endif
