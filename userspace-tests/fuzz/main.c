// SPDX-License-Identifier: GPL-2.0-only
/*
 * What libFuzzer calls.
 *
 * With QCOW2_FUZZ_VERBOSE in the environment it is said what is done; the image of
 * an input is written to the file that QCOW2_FUZZ_IMAGE names, and what became of
 * it to that of QCOW2_FUZZ_RESULT.
 */

#include <stdio.h>
#include <stdlib.h>

#include "fuzz.h"
#include "shim.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const u8 *data, size_t bytes);
size_t LLVMFuzzerCustomMutator(u8 *data, size_t bytes, size_t room,
			       unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const u8 *one, size_t one_bytes,
				 const u8 *two, size_t two_bytes, u8 *to,
				 size_t room, unsigned int seed);

const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

/* What was freed is used again soon: fresh memory would take most of the time. */
const char *__asan_default_options(void)
{
	return "quarantine_size_mb=16:allocator_release_to_os_interval_ms=-1:"
	       "malloc_context_size=8";
}

const char *__ubsan_default_options(void)
{
	return "print_stacktrace=1";
}

static void print_stats(void)
{
	fprintf(stderr,
		"fuzz: %llu inputs: %llu refused, %llu read-only, %llu read-write (%llu of them sound, %llu failed in use); %llu operations, of which %llu succeeded\n",
		fuzz_stats.runs, fuzz_stats.refused, fuzz_stats.read_only,
		fuzz_stats.read_write, fuzz_stats.sound, fuzz_stats.failed,
		fuzz_stats.operations, fuzz_stats.operations_ok);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_init();
	fuzz_verbose = getenv("QCOW2_FUZZ_VERBOSE");
	fuzz_image_path = getenv("QCOW2_FUZZ_IMAGE");
	fuzz_result_path = getenv("QCOW2_FUZZ_RESULT");
	shim_log_to_stderr(fuzz_verbose);
	atexit(print_stats);
	return 0;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t bytes)
{
	fuzz_one(data, bytes);
	return 0;
}

size_t LLVMFuzzerCustomMutator(u8 *data, size_t bytes, size_t room,
			       unsigned int seed)
{
	return fuzz_mutate(data, bytes, room, seed);
}

size_t LLVMFuzzerCustomCrossOver(const u8 *one, size_t one_bytes,
				 const u8 *two, size_t two_bytes, u8 *to,
				 size_t room, unsigned int seed)
{
	return fuzz_cross(one, one_bytes, two, two_bytes, to, room, seed);
}
