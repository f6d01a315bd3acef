/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cases of bugs.c: discards and write zeroes that meet a write which copies what
 * is around its bytes. All end the process if something is wrong.
 */
#ifndef _ZEROING_H
#define _ZEROING_H

struct shape;

void zeroing_meets_copy_of_backing_file(const struct shape *shape);
void zeroing_meets_copy_with_discard_no_unref(const struct shape *shape);
void zeroing_meets_copy_of_shared_cluster(const struct shape *shape);
void zeroing_meets_copy_of_compressed_cluster(const struct shape *shape);

#endif
