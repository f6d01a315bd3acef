// SPDX-License-Identifier: GPL-2.0-only
/* 6.12: it was asm/unaligned.h. */
#include <linux/unaligned.h>
