/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cache lines: where things lie is of no matter here.
 */
#ifndef _SHIM_CACHE_H
#define _SHIM_CACHE_H

#define ____cacheline_aligned_in_smp

#endif
