/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_INTERRUPT_H
#define QCOWCTL_INTERRUPT_H

#include <stdbool.h>

/*
 * Between attaching a device and telling its name nothing may end the
 * program: the device would stay and nobody would know of it.
 *
 * interrupts_hold() puts off the signals that people and service managers end
 * programs with (a signal that is ignored stays ignored), and makes failing
 * writes return an error instead of raising a signal.  interrupts_waiting()
 * tells if a signal came since.  interrupts_release() lets it have its effect.
 */
void interrupts_hold(void);
bool interrupts_waiting(void);
void interrupts_release(void);

#endif /* QCOWCTL_INTERRUPT_H */
