#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Something of each kind, in a minute or two where CPUs are emulated: make check runs this on
each kernel of Debian's."""

import core_cases
from e2e import *


def module_is_unloaded():
    run("rmmod", "qcow2")
    expect(not os.path.exists("/sys/module/qcow2"), "it is still there")
    run("insmod", os.path.join(os.environ["QCOW2_BUILD"], "drivers/block/qcow2/qcow2.ko"))


# A RAM disk's file system: tmpfs only pretends to do direct I/O.
core_cases.run_on(ram_disks(1, 128 * MIB)[0], ("mkfs.ext4", "-q", "-F", "-E", "nodiscard"))
with case("the module is unloaded, and loaded again"):
    module_is_unloaded()
finish()
