/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Is struct qcow2_free true? Compares it with refcounts, entries and the file.
 */
#ifndef _VERIFY_H
#define _VERIFY_H

#include <linux/types.h>

#include "image.h"

/* The build with ASan looks after every step, others where a test asks for it. */
#ifndef VERIFY_STEPS
#define VERIFY_STEPS	0
#endif

/*
 * Ends the process with the number of the sentence that is not true. meta_lock is
 * held; what else goes on does not matter.
 */
void qcow2_free_verify(struct qcow2_image *img);
/* Likewise, and takes meta_lock. */
void verify_now(struct qcow2_image *img);

/*
 * The image was opened just now, and nothing is in flight. Sentence 9 is looked at
 * from then on, for the one that was opened last.
 */
void verify_opened(struct qcow2_image *img);
/* It is about to be closed. */
void verify_closing(struct qcow2_image *img);

/* From now on no step is looked at: the test tells the image what is not true. */
void verify_stop(void);

extern bool verify_stopped;

/* Likewise unless looks take too much of the test's time. */
void verify_if_cheap(struct qcow2_image *img);

/* After every step. */
static inline void verify_step(struct qcow2_image *img)
{
	if (VERIFY_STEPS && !verify_stopped)
		verify_if_cheap(img);
}

#endif
