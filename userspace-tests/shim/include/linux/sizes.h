/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _SHIM_SIZES_H
#define _SHIM_SIZES_H

#define SZ_512		(1 << 9)
#define SZ_1K		(1 << 10)
#define SZ_4K		(1 << 12)
#define SZ_8K		(1 << 13)
#define SZ_16K		(1 << 14)
#define SZ_32K		(1 << 15)
#define SZ_64K		(1 << 16)
#define SZ_128K		(1 << 17)
#define SZ_256K		(1 << 18)
#define SZ_512K		(1 << 19)
#define SZ_1M		(1 << 20)
#define SZ_2M		(1 << 21)
#define SZ_4M		(1 << 22)
#define SZ_8M		(1 << 23)
#define SZ_16M		(1 << 24)
#define SZ_32M		(1 << 25)
#define SZ_64M		(1 << 26)
#define SZ_128M		(1 << 27)
#define SZ_256M		(1 << 28)
#define SZ_512M		(1 << 29)
#define SZ_1G		(1 << 30)

#endif
