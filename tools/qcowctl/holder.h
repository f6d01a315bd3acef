/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_HOLDER_H
#define QCOWCTL_HOLDER_H

#include <sys/types.h>

#define HOLDER_MAX	128

/*
 * Say in @text, which is returned, who has a lock on @byte of the file that is
 * open as @fd: a device that has it in its chain, or else a process, if one can
 * be found.  The caller has looked for devices of the file itself.
 */
const char *holder_find(int fd, off_t byte, char text[HOLDER_MAX]);

#endif /* QCOWCTL_HOLDER_H */
