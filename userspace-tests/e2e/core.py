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


def right_kernel(wanted):
    """6.12-rt is the real-time one of 6.12."""
    series, _, flavour = wanted.partition("-")
    expect(re.fullmatch(rf"{re.escape(series)}\.\d+.*{'-rt' if flavour == 'rt' else ''}.*-amd64",
                        os.uname().release), f"it is {os.uname().release}")


KERNEL = os.environ.get("QCOW2_KERNEL", "")
if KERNEL[:1].isdigit():
    with case(f"the kernel is Debian's {KERNEL}"):
        right_kernel(KERNEL)
# A RAM disk's file system: tmpfs only pretends to do direct I/O.
core_cases.run_on(ram_disks(1, 128 * MIB)[0], ("mkfs.ext4", "-q", "-F", "-E", "nodiscard"))
with case("the module is unloaded, and loaded again"):
    module_is_unloaded()
finish()
