// SPDX-License-Identifier: GPL-2.0-only
/*
 * Values of options.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "value.h"

bool value_switch(const char *text, bool *on)
{
	if (strcmp(text, "on") && strcmp(text, "off"))
		return false;
	*on = !strcmp(text, "on");
	return true;
}

/* How far a suffix shifts a number, or -1 if it is none. */
static int suffix_shift(const char *suffix)
{
	static const char letters[] = "KMGT";
	const char *letter;

	if (!suffix[0])
		return 0;
	letter = strchr(letters, toupper((unsigned char)suffix[0]));
	if (!letter || suffix[1])
		return -1;
	return 10 * (letter - letters + 1);
}

bool value_size(const char *text, uint64_t *bytes)
{
	unsigned long long number;
	char *end;
	int shift;

	/* strtoull() would take blanks and signs, too. */
	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	number = strtoull(text, &end, 10);
	shift = suffix_shift(end);
	if (errno || shift < 0 || number > UINT64_MAX >> shift)
		return false;
	*bytes = number << shift;
	return true;
}
