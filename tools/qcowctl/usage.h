/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_USAGE_H
#define QCOWCTL_USAGE_H

/*
 * All complain about the command line of @command (NULL: of qcowctl itself),
 * point to its help, and return EXIT_USAGE.
 */
__attribute__((format(printf, 2, 3)))
int usage_error(const char *command, const char *format, ...);

/*
 * About the option that getopt_long() just returned @result for, '?' or ':';
 * @letters is its list of short options.
 */
int usage_bad_option(const char *command, int result, char **argv,
		     const char *letters);

/* Tell if there are from @min to @max operands: EXIT_DONE if so. */
int usage_operands(const char *command, int argc, char **argv,
		   int min, int max, const char *name);

#endif /* QCOWCTL_USAGE_H */
