/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _QCOW2_CTL_H
#define _QCOW2_CTL_H

int __init qcow2_ctl_init(void);
void qcow2_ctl_exit(void);

#endif /* _QCOW2_CTL_H */
