/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_COMPAT_LINUX_FS_H
#define _QCOW2_COMPAT_LINUX_FS_H

#include "compat_probed.h"
#include_next <linux/fs.h>

/* For shrinker.h, which old kernels include from within. */
#define COMPAT_FS_IS_COMPLETE

#ifndef COMPAT_HAS_KIOCB_START_WRITE
/* 6.6 brought these, and some updates of older series. */
static inline void compat_kiocb_start_write(struct kiocb *iocb)
{
	struct super_block *sb = file_inode(iocb->ki_filp)->i_sb;

	sb_start_write(sb);
	/* Whoever completes the write lets go. */
	__sb_writers_release(sb, SB_FREEZE_WRITE);
}

static inline void compat_kiocb_end_write(struct kiocb *iocb)
{
	struct super_block *sb = file_inode(iocb->ki_filp)->i_sb;

	__sb_writers_acquired(sb, SB_FREEZE_WRITE);
	sb_end_write(sb);
}

#define kiocb_start_write	compat_kiocb_start_write
#define kiocb_end_write		compat_kiocb_end_write
#endif

#endif /* _QCOW2_COMPAT_LINUX_FS_H */
