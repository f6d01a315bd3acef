#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --kernel uml-debug --kernel-arg kmemleak=off --timeout 900
"""A file system on a device whose image lies on the same kind of file system, in the
kernel that watches locks. What the upper one asks for in the middle of its own work is
done by the lower one in the same task: neither may take the other's for its own."""

from e2e import *

IMAGE_FS, MOUNT = "/mnt/ram", "/mnt/guest"
SIZE = 96 * MIB


def fragment(path):
    """A file of so many extents that the tree of them has levels."""
    with open(path, "wb") as file:
        for block in range(0, 600, 2):
            file.seek(block * 4 * KIB)
            file.write(noise(4 * KIB, block))
    os.sync()


def read_again(path):
    drop_caches(inodes=True)
    data = content(path)
    for block in range(0, 600, 2):
        expect_same_bytes(data[block * 4 * KIB:(block + 1) * 4 * KIB], noise(4 * KIB, block),
                          f"block {block}")


def churn():
    """Transactions that have to read bitmaps, inodes and directories first."""
    for directory in range(4):
        where = os.path.join(MOUNT, f"d{directory}")
        os.makedirs(where, exist_ok=True)
        drop_caches(inodes=True)
        for name in range(12):
            with open(os.path.join(where, str(name)), "wb") as file:
                file.write(noise(20000, directory * 100 + name))
        drop_caches(inodes=True)
        for name in range(0, 12, 2):
            os.unlink(os.path.join(where, str(name)))
        drop_caches(inodes=True)
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
    expect_quiet_log(first)


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
