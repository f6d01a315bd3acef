#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# not on uml uml-debug kcsan: their kernels lack btrfs and dm-crypt
"""The cases of core_cases.py with the image on other file systems and disks."""

import core_cases
from e2e import *

EXT4 = ("mkfs.ext4", "-q", "-F", "-E", "nodiscard")
XFS = ("mkfs.xfs", "-q", "-f", "-K")
BTRFS = ("mkfs.btrfs", "-q", "-f", "-K")
VFAT = ("mkfs.vfat", "-F", "32")
KEY = "0123456789abcdef" * 8


@contextlib.contextmanager
def encrypted(disk):
    """dm-crypt, without the headers of LUKS."""
    sectors = int(run("blockdev", "--getsz", disk).stdout)
    run("dmsetup", "create", "crypt", "--table",
        f"0 {sectors} crypt aes-xts-plain64 {KEY} 0 {disk} 0")
    yield "/dev/mapper/crypt"
    run("dmsetup", "remove", "crypt")


for module in ("loop", "ext4", "xfs", "btrfs", "vfat", "dm-crypt"):
    run("modprobe", module)
ram, = ram_disks(1, 640 * MIB)
core_cases.run_on(ram, XFS, name="XFS: ")
core_cases.run_on(ram, BTRFS, name="btrfs: ")
core_cases.run_on(ram, VFAT, holes=False, name="vfat: ")
with encrypted(ram) as disk:
    core_cases.run_on(disk, EXT4, name="dm-crypt: ")
with loop_on(ram, "--direct-io=on", "--sector-size", 4096) as disk:
    core_cases.run_on(disk, EXT4, name="sectors of 4096 bytes: ", sector=4096)
finish()
