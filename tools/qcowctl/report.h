/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_REPORT_H
#define QCOWCTL_REPORT_H

/*
 * Print "qcowctl: OBJECT: ..." as one line on stderr, whatever characters the
 * name and the text have.
 */
__attribute__((format(printf, 2, 3)))
void complain(const char *object, const char *format, ...);

/*
 * Write out what is left of stdout and close it.  Returns EXIT_DONE, or
 * EXIT_OTHER after a complaint if something of it was lost.
 */
int finish_stdout(void);

#endif /* QCOWCTL_REPORT_H */
