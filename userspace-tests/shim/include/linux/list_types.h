/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_LIST_TYPES_H
#define _SHIM_LIST_TYPES_H

struct list_head {
	struct list_head *next, *prev;
};

#endif
