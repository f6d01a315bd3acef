#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --kernel uml-debug --kernel-arg kmemleak=off --timeout 900
"""A file system on a device whose image lies on the same kind of file system, in the
kernel that watches locks. What the upper one asks for in the middle of its own work is
done by the lower one in the same task: neither may take the other's for its own."""

import re

from e2e import *

IMAGE_FS, MOUNT = "/mnt/ram", "/mnt/guest"
SIZE = 96 * MIB
FAULT = re.compile(r"WARNING|BUG|KASAN|DEBUG_LOCKS|possible (?:circular|recursive|irq lock)|"
                   r"inconsistent lock state|suspicious RCU|sleeping function|held lock|"
                   r"EXT4-fs (?:error|warning)|XFS .*(?:Corruption|Internal error)|Call Trace")


def forget():
    """What is read again comes from the device."""
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def fragment(path):
    """A file of so many extents that the tree of them has levels."""
    with open(path, "wb") as file:
        for block in range(0, 600, 2):
            file.seek(block * 4 * KIB)
            file.write(noise(4 * KIB, block))
    os.sync()


def read_again(path):
    forget()
    data = content(path)
    for block in range(0, 600, 2):
        expect_same_bytes(data[block * 4 * KIB:(block + 1) * 4 * KIB], noise(4 * KIB, block),
                          f"block {block}")


def churn():
    """Transactions that have to read bitmaps, inodes and directories first."""
    for directory in range(4):
        where = os.path.join(MOUNT, f"d{directory}")
        os.makedirs(where, exist_ok=True)
        forget()
        for name in range(12):
            with open(os.path.join(where, str(name)), "wb") as file:
                file.write(noise(20000, directory * 100 + name))
        forget()
        for name in range(0, 12, 2):
            os.unlink(os.path.join(where, str(name)))
        forget()
        for name in range(1, 12, 2):
            expect_same_bytes(content(os.path.join(where, str(name))),
                              noise(20000, directory * 100 + name), "a file")


def test(make, repair):
    first = len(kernel_log().splitlines())
    image = create(os.path.join(IMAGE_FS, "image"), SIZE, preallocation="metadata")
    with Device(image, "--direct-io") as device:
        run(*make, device.path)
        with mounted(device.path, MOUNT):
            fragment(os.path.join(MOUNT, "fragmented"))
            churn()
            read_again(os.path.join(MOUNT, "fragmented"))
        run(*repair, device.path)
    check(image)
    os.unlink(image)
    found = [line for line in kernel_log().splitlines()[first:] if FAULT.search(line)]
    expect(not found, "in the kernel log:\n" + "\n".join(found[:20]))


run("modprobe", "brd", "rd_nr=1", f"rd_size={3 * SIZE // KIB}")
run("modprobe", "ext4")
run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", "/dev/ram0")
# Each read notes its time, in a transaction.
with mounted("/dev/ram0", IMAGE_FS, "-o", "strictatime"):
    with case("ext4 on an image on ext4"):
        test(("mkfs.ext4", "-q", "-F", "-b", "4096"), ("e2fsck", "-f", "-n"))
    with case("ext4 with small blocks on an image on ext4"):
        test(("mkfs.ext4", "-q", "-F", "-b", "1024"), ("e2fsck", "-f", "-n"))
finish()
