// SPDX-License-Identifier: GPL-2.0-only
/*
 * Messages, warnings, and the end.
 */

#include <linux/printk.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "internal.h"

#define LOG_BYTES	(64 << 10)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char log_text[LOG_BYTES];
static size_t log_used;
static bool to_stderr;
static bool warn_goes_on;
static unsigned int nr_warnings;

/*
 * The kernel's own conversion %pV takes a format with its arguments. A format
 * is gone through conversion by conversion, each given to vsnprintf() with the
 * one argument that belongs to it.
 */

struct out {
	char *buf;
	size_t bytes, used;
};

static void put(struct out *out, const char *text, size_t n)
{
	for (; n && out->used + 1 < out->bytes; n--)
		out->buf[out->used++] = *text++;
}

static void format(struct out *out, const char *fmt, va_list *args);

/* Length of the conversion at @spec, of which @letter is the last. */
static size_t spec_length(const char *spec, char *letter)
{
	size_t n = 1 + strspn(spec + 1, "-+ #0123456789.*hlzjt");

	*letter = spec[n];
	return n + 1;
}

#define PRINT_AS(type) \
	(nr_stars == 0 ? snprintf(text, sizeof(text), one, va_arg(*args, type)) : \
	 snprintf(text, sizeof(text), one, star, va_arg(*args, type)))

#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"

static void format_one(struct out *out, const char *spec, size_t n, char letter,
		       va_list *args)
{
	char one[32] = "", text[1024] = "";
	int nr_stars, star = 0;

	if (n >= sizeof(one))
		shim_die("conversion '%s' is too long", spec);
	memcpy(one, spec, n);
	nr_stars = strchr(one, '*') != NULL;
	if (nr_stars)
		star = va_arg(*args, int);
	if (letter == 's')
		PRINT_AS(char *);
	else if (letter == 'p')
		PRINT_AS(void *);
	else if (strstr(one, "ll") || strchr(one, 'l') || strchr(one, 'z') ||
		 strchr(one, 'j') || strchr(one, 't'))
		PRINT_AS(unsigned long long);
	else
		PRINT_AS(unsigned int);
	put(out, text, strlen(text));
}

static void format(struct out *out, const char *fmt, va_list *args)
{
	while (*fmt) {
		size_t n = strcspn(fmt, "%");
		char letter;

		put(out, fmt, n);
		fmt += n;
		if (!*fmt)
			break;
		if (fmt[1] == '%') {
			put(out, fmt, 1);
			fmt += 2;
		} else if (fmt[1] == 'p' && fmt[2] == 'V') {
			struct va_format *vaf = va_arg(*args, struct va_format *);

			format(out, vaf->fmt, vaf->va);
			fmt += 3;
		} else {
			n = spec_length(fmt, &letter);
			format_one(out, fmt, n, letter, args);
			fmt += n;
		}
	}
}

int shim_printk(const char *fmt, ...)
{
	char text[2048];
	struct out out = { .buf = text, .bytes = sizeof(text) };
	va_list args;

	va_start(args, fmt);
	format(&out, fmt, &args);
	va_end(args);
	text[out.used] = 0;
	pthread_mutex_lock(&lock);
	if (log_used + out.used < LOG_BYTES) {
		memcpy(log_text + log_used, text, out.used + 1);
		log_used += out.used;
	}
	if (to_stderr)
		fputs(text, stderr);
	pthread_mutex_unlock(&lock);
	return out.used;
}

int vscnprintf(char *buf, size_t bytes, const char *fmt, va_list args)
{
	int n = vsnprintf(buf, bytes, fmt, args);

	if (n < 0 || !bytes)
		return 0;
	return (size_t)n < bytes ? n : (int)bytes - 1;
}

int scnprintf(char *buf, size_t bytes, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vscnprintf(buf, bytes, fmt, args);
	va_end(args);
	return n;
}

void shim_log_to_stderr(bool on)
{
	to_stderr = on;
}

const char *shim_log(void)
{
	return log_text;
}

void shim_log_clear(void)
{
	pthread_mutex_lock(&lock);
	log_used = 0;
	log_text[0] = 0;
	pthread_mutex_unlock(&lock);
}

void shim_die(const char *fmt, ...)
{
	va_list args;

	fputs("shim: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\n%s", log_text);
	abort();
}

void shim_warn_aborts(bool on)
{
	warn_goes_on = !on;
}

unsigned int shim_warnings(void)
{
	return __atomic_load_n(&nr_warnings, __ATOMIC_RELAXED);
}

void shim_forget_warnings(void)
{
	__atomic_store_n(&nr_warnings, 0, __ATOMIC_RELAXED);
}

bool shim_warn(bool condition, const char *what, const char *file, int line)
{
	if (!condition)
		return false;
	__atomic_fetch_add(&nr_warnings, 1, __ATOMIC_RELAXED);
	if (!warn_goes_on)
		shim_die("%s:%d: WARN_ON(%s)", file, line, what);
	shim_printk("%s:%d: WARN_ON(%s)\n", file, line, what);
	return true;
}

u64 shim_now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}
