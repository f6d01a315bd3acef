#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Read-only devices."""

import errno

from e2e import *


def fingerprint(path):
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns, hashlib.sha256(content(path)).hexdigest()


def make_image(cluster):
    image = create(work("image"), 4 * MIB, cluster_size=cluster, lazy_refcounts="on")
    qemu_io(image, [f"write -P 7 {SECTOR} 1M", "write -z 2M 1M"])
    return image


def expect_no_write(device):
    expect_equal(run("blockdev", "--getro", device.path).stdout.strip(), "1", "blockdev --getro")
    try:
        with device.open() as disk:
            disk.write(0, bytes(SECTOR))
    except OSError as error:
        expect(error.errno in (errno.EPERM, errno.EACCES, errno.EROFS), f"write failed with {error}")
    else:
        raise Failure("a read-only device was written")
    run("dd", "if=/dev/zero", f"of={device.path}", "bs=4k", "count=1", status=1)


def read_only(cluster):
    image = make_image(cluster)
    wanted = content(to_raw(image, work("raw")))
    before = fingerprint(image)
    with Device(image, "-r") as device:
        entry, = attached()
        expect_equal(entry["ro"], True, "column RO")
        expect_no_write(device)
        run("blockdev", "--setrw", device.path, status=None)
        expect_no_write_whatever_the_block_layer_says(device)
        with device.open(os.O_RDONLY) as disk:
            expect_same_bytes(disk.read_all(), wanted, "contents")
            disk.flush()
    expect_equal(fingerprint(image), before, "the image file")


def expect_no_write_whatever_the_block_layer_says(device):
    try:
        with device.open() as disk:
            disk.write(0, bytes(SECTOR))
            raise Failure("written after blockdev --setrw")
    except OSError:
        pass


def mount_read_only():
    image = create(work("image"), 32 * MIB)
    with Device(image) as device:
        run("mkfs.ext4", "-q", "-F", device.path)
    before = fingerprint(image)
    with Device(image, "-r") as device, mounted(device.path, "/mnt/guest", "-o", "ro"):
        os.listdir("/mnt/guest")
    expect_equal(fingerprint(image), before, "the image file")


def not_written_is_not_changed():
    """Attached for writing, but only read: no reason to change a byte."""
    image = make_image(65536)
    before = content(image)
    with Device(image) as device, device.open() as disk:
        disk.read_all()
        disk.flush()
    expect_same_bytes(content(image), before, "the image file")


for cluster_bytes in (512, 65536, 2 * MIB):
    with case(f"read-only, clusters of {cluster_bytes} bytes"):
        read_only(cluster_bytes)
with case("ext4 mounted from a read-only device"):
    mount_read_only()
with case("only read"):
    not_written_is_not_changed()
finish()
