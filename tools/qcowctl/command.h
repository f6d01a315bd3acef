/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_COMMAND_H
#define QCOWCTL_COMMAND_H

/**
 * struct command - a command of qcowctl
 * @name: as the user gives it
 * @synopsis: its options and operands
 * @summary: what it does, in a few words
 * @run: do it; gets its own command line from its name on and returns the
 *	exit code
 */
struct command {
	const char *name;
	const char *synopsis;
	const char *summary;
	int (*run)(int argc, char **argv);
};

extern const struct command attach_command;
extern const struct command detach_command;
extern const struct command list_command;

/* Print the head of a command's help. */
void command_head(const struct command *command);

/* Print the exit codes. */
void command_exit_codes(void);

#endif /* QCOWCTL_COMMAND_H */
