/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_CONTAINER_OF_H
#define _SHIM_CONTAINER_OF_H

#include <linux/compiler.h>

#define container_of(ptr, type, member) ({ \
	_Static_assert(__builtin_types_compatible_p(__typeof__(*(ptr)), \
				__typeof__(((type *)0)->member)) || \
		       __builtin_types_compatible_p(__typeof__(*(ptr)), void), \
		       "container_of: not a " #type "'s " #member); \
	(type *)((char *)(ptr) - offsetof(type, member)); })

#endif
