// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exitcode.h"
#include "report.h"
#include "text.h"

static void print_line(const char *object, const char *text)
{
	char *safe_object = text_printable(*object ? object : "''");
	char *safe_text = text_printable(text);

	if (safe_object && safe_text)
		fprintf(stderr, "qcowctl: %s: %s\n", safe_object, safe_text);
	else
		fputs("qcowctl: out of memory\n", stderr);
	free(safe_object);
	free(safe_text);
}

void complain(const char *object, const char *format, ...)
{
	va_list args;
	char *text;
	int len;

	va_start(args, format);
	len = vasprintf(&text, format, args);
	va_end(args);
	print_line(object, len < 0 ? "out of memory" : text);
	if (len >= 0)
		free(text);
}

int finish_stdout(void)
{
	/* An earlier failure that left no errno is most likely a full disk. */
	int failed = ferror(stdout);

	errno = failed ? ENOSPC : 0;
	if (fclose(stdout))
		failed = 1;
	if (!failed)
		return EXIT_DONE;
	complain("standard output", "cannot write: %s", strerror(errno));
	return EXIT_OTHER;
}
