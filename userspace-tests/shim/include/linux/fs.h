/* SPDX-License-Identifier: GPL-2.0-only */
/* What drivers/block/qcow2/file.h needs to be read; memfile.c has a file. */
#ifndef _SHIM_FS_H
#define _SHIM_FS_H

struct file;

struct kiocb {
	void *unused;
};

#endif
