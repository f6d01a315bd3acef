// SPDX-License-Identifier: GPL-2.0-only
/*
 * qcow2 - attaches qcow2 disk images as block devices
 */

#include <linux/init.h>
#include <linux/module.h>

#include "ctl.h"
#include "image.h"

/**
 * struct stage - a step of loading the module
 * @init: does it
 * @exit: undoes it, NULL if there is nothing to undo
 */
struct stage {
	int (*init)(void);
	void (*exit)(void);
};

static const struct stage stages[] __initconst = {
	{ qcow2_write_init_cache, qcow2_write_exit_cache },
	{ qcow2_file_zeroes_init, NULL },
	{ qcow2_layers_init, qcow2_layers_exit },
	{ qcow2_ctl_init, qcow2_ctl_exit },
};

static int __init qcow2_init(void)
{
	int i, ret = 0;

	for (i = 0; i < ARRAY_SIZE(stages); i++) {
		ret = stages[i].init();
		if (ret)
			break;
	}
	if (!ret)
		return 0;
	while (--i >= 0)
		if (stages[i].exit)
			stages[i].exit();
	return ret;
}

static void __exit qcow2_exit(void)
{
	qcow2_ctl_exit();
	qcow2_layers_exit();
	qcow2_write_exit_cache();
}

module_init(qcow2_init);
module_exit(qcow2_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("qcow2 disk images as block devices");
