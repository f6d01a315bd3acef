// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the errors of the control interface mean to the user.
 */
#include <errno.h>
#include <string.h>

#include "exitcode.h"
#include "refusal.h"
#include "report.h"

#define OTHER_DRIVER \
	"the loaded qcow2 module does not know this request; load the module that belongs to this qcowctl"

/**
 * struct refusal - meaning of an error
 * @err: errno
 * @exit_code: what qcowctl ends with
 * @words: what to say when the kernel gave no reason, NULL for strerror
 */
struct refusal {
	int err;
	int exit_code;
	const char *words;
};

static const struct refusal refusals[] = {
	{ EPERM, EXIT_NO_DRIVER,
	  "no permission to control qcow2 devices; try again as root" },
	{ ENOTTY, EXIT_NO_DRIVER, OTHER_DRIVER },
	{ E2BIG, EXIT_NO_DRIVER, OTHER_DRIVER },
	{ EACCES, EXIT_IMAGE_OPEN, NULL },
	{ EUCLEAN, EXIT_IMAGE_INVALID,
	  "not a valid qcow2 image, or damaged; see 'qemu-img check'" },
	{ EOPNOTSUPP, EXIT_IMAGE_UNSUPPORTED,
	  "the image needs a feature that the driver lacks; see 'qemu-img info'" },
	{ EBUSY, EXIT_BUSY,
	  "in use; see 'qcowctl list' and what is mounted" },
	{ ENODEV, EXIT_NO_DEVICE,
	  "no such device; see 'qcowctl list'" },
};

static const struct refusal *find_refusal(int err)
{
	static const struct refusal other = { 0, EXIT_OTHER, NULL };
	size_t i;

	for (i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		if (refusals[i].err == -err)
			return &refusals[i];
	}
	return &other;
}

const char *refusal_words(int err, const struct control_reason *reason)
{
	const char *words = find_refusal(err)->words;

	if (reason && reason->text[0])
		return reason->text;
	return words ? words : strerror(-err);
}

int refused(const char *object, int err, const struct control_reason *reason)
{
	complain(object, "%s", refusal_words(err, reason));
	return find_refusal(err)->exit_code;
}
