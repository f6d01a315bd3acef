/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOWCTL_TEXT_H
#define QCOWCTL_TEXT_H

#include <stdint.h>

/*
 * Both return a new string that the caller frees, or NULL when there is no
 * memory for it.
 *
 * text_printable() makes any text safe to show on one line of a terminal:
 * control characters and what is not UTF-8 become \n, \t or \xNN, and a
 * backslash becomes two.
 *
 * text_utf8() changes nothing but the bytes that are not UTF-8, which become
 * \xNN.
 */
char *text_printable(const char *text);
char *text_utf8(const char *text);

/*
 * Undo in place what the kernel does to paths in text files: \\NNN, three octal
 * digits, is a byte.
 */
void text_unescape(char *text);

/*
 * A size for people, in powers of 1024 with at most one decimal: 512B, 64K,
 * 1.5G.  The string is new.
 */
char *text_size(uint64_t bytes);

#endif /* QCOWCTL_TEXT_H */
