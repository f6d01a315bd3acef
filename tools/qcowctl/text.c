// SPDX-License-Identifier: GPL-2.0-only
/*
 * Text that comes from outside (file names, reasons of the kernel), made safe
 * to print.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

/* The longest replacement of one byte is \xNN. */
#define ESCAPED_MAX	4

/*
 * How many bytes a character has that starts with @lead, or 0 if none does;
 * *@min is the smallest code that may take so many, *@bits what @lead holds.
 */
static size_t utf8_lead(unsigned char lead, uint32_t *min, uint32_t *bits)
{
	if (lead < 0x80) {
		*min = 0;
		*bits = lead;
		return 1;
	}
	if ((lead & 0xe0) == 0xc0) {
		*min = 0x80;
		*bits = lead & 0x1f;
		return 2;
	}
	if ((lead & 0xf0) == 0xe0) {
		*min = 0x800;
		*bits = lead & 0x0f;
		return 3;
	}
	if ((lead & 0xf8) == 0xf0) {
		*min = 0x10000;
		*bits = lead & 0x07;
		return 4;
	}
	return 0;
}

/* Length of the UTF-8 character at @text, its code in *@code; 0 if invalid. */
static size_t utf8_decode(const char *text, uint32_t *code)
{
	const unsigned char *byte = (const unsigned char *)text;
	uint32_t min;
	size_t len, i;

	len = utf8_lead(byte[0], &min, code);
	if (!len)
		return 0;
	/* The zero byte at the end of the text is no continuation byte. */
	for (i = 1; i < len; i++) {
		if ((byte[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (byte[i] & 0x3f);
	}
	if (*code < min || *code > 0x10ffff)
		return 0;
	if (*code >= 0xd800 && *code <= 0xdfff)
		return 0;
	return len;
}

static bool is_control(uint32_t code)
{
	return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

static char *put_escaped(char *out, char byte)
{
	switch (byte) {
	case '\n':
		return stpcpy(out, "\\n");
	case '\t':
		return stpcpy(out, "\\t");
	case '\\':
		return stpcpy(out, "\\\\");
	default:
		return out + sprintf(out, "\\x%02x", (unsigned char)byte);
	}
}

static char *escape(const char *text, bool (*unsafe)(uint32_t code))
{
	char *escaped = malloc(strlen(text) * ESCAPED_MAX + 1);
	char *out = escaped;
	uint32_t code;
	size_t len;

	if (!escaped)
		return NULL;
	while (*text) {
		len = utf8_decode(text, &code);
		if (len && !unsafe(code)) {
			out = mempcpy(out, text, len);
			text += len;
			continue;
		}
		/* All bytes of an unsafe character, one byte of no character */
		do {
			out = put_escaped(out, *text++);
		} while (len && --len);
	}
	*out = '\0';
	return escaped;
}

static bool unsafe_on_terminal(uint32_t code)
{
	return is_control(code) || code == '\\';
}

static bool never_unsafe(uint32_t code)
{
	(void)code;
	return false;
}

char *text_printable(const char *text)
{
	return escape(text, unsafe_on_terminal);
}

char *text_utf8(const char *text)
{
	return escape(text, never_unsafe);
}

char *text_size(uint64_t bytes)
{
	static const char units[] = "BKMGTPE";
	unsigned int unit = 0;
	uint64_t rest = 0, tenths;
	char *text;
	int len;

	while (bytes >= 1024 && units[unit + 1]) {
		rest = bytes % 1024;
		bytes /= 1024;
		unit++;
	}
	tenths = (rest * 10 + 512) / 1024;
	if (tenths == 10) {
		bytes++;
		tenths = 0;
	}
	if (bytes == 1024 && units[unit + 1]) {
		bytes = 1;
		unit++;
	}
	if (tenths)
		len = asprintf(&text, "%ju.%ju%c", (uintmax_t)bytes,
			       (uintmax_t)tenths, units[unit]);
	else
		len = asprintf(&text, "%ju%c", (uintmax_t)bytes, units[unit]);
	return len < 0 ? NULL : text;
}

static bool is_octal(char c)
{
	return c >= '0' && c <= '7';
}

void text_unescape(char *text)
{
	char *to = text;

	while (*text) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' &&
		    is_octal(text[2]) && is_octal(text[3])) {
			*to++ = (text[1] - '0') << 6 | (text[2] - '0') << 3 |
				(text[3] - '0');
			text += 4;
		} else {
			*to++ = *text++;
		}
	}
	*to = '\0';
}
