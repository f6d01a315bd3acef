/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Programs of named test cases, each of which runs in a process of its own, once
 * for each shape of image that matters to it. The output is TAP.
 */
#ifndef _CASES_H
#define _CASES_H

#include "disk.h"

/**
 * struct test_case - a test
 * @name: its name
 * @run: ends the process if something is wrong
 * @shapes: of images, behind the last of which is one without a text
 */
struct test_case {
	const char *name;
	void (*run)(const struct shape *shape);
	const struct shape *shapes;
};

#define TEST_CASE(function, shapes)	{ #function, function, shapes }

/* What main() of the program @name does; its exit status. */
int run_cases(const char *name, const struct test_case *cases,
	      unsigned int nr, int argc, char **argv);

#endif
