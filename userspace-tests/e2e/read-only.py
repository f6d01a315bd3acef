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


def written_by_the_kernel():
    """Device mapper opens the disk for writing whatever it says of itself, and the block
    layer lets its writes through."""
    image = make_image(65536)
    disk, = ram_disks(1, 64 * MIB)
    run("mkfs.ext4", "-q", "-F", disk)
    with mounted(disk, "/mnt/direct"):
        path = "/mnt/direct/image"
        run("cp", image, path)
        before = fingerprint(path)
        with Device(path, "-r", "--direct-io") as device:
            run("dmsetup", "create", "over", "--table", f"0 8192 linear {device.path} 0")
            try:
                for direction in ("iflag=direct of=/dev/null if=", "oflag=direct if=/dev/zero of="):
                    options = f"{direction}/dev/mapper/over".split()
                    run("dd", "bs=4k", "count=16", *options,
                        status=1 if "if=/dev/zero" in options else 0)
            finally:
                run("dmsetup", "remove", "--retry", "over")
            expect_equal(device.state(), "read-only", "state")
        expect_equal(fingerprint(path), before, "the image file")


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


def two_names_of_one_file():
    """One layer for both devices, but each tells its own name, and the larger cache is had."""
    image, other = make_image(65536), work("other-name")
    os.link(image, other)
    first = Device(image, "-r")
    with Device(other, "-r", "--cache-size=64M") as second:
        expect_equal({entry["name"]: entry["image"] for entry in attached()},
                     {first.path: image, second.path: other}, "the names")
        for device in (first, second):
            with open(f"/sys/block/{device.name}/qcow2/cache_size", encoding="ascii") as file:
                expect_equal(int(file.read()), 64 * MIB, "size of the cache")
        first.detach()
        expect_equal([entry["image"] for entry in attached()], [other], "the name")
        with second.open(os.O_RDONLY) as disk:
            disk.read_all()
    os.unlink(other)


def damage_in_a_base():
    """Is an error of what it holds, and none of the overlay, whose check finds nothing."""
    base, image = make_image(65536), work("overlay")
    with open(base, "r+b") as file:
        file.seek(40)
        file.seek(int.from_bytes(file.read(8), "big"))
        file.seek(int.from_bytes(file.read(8), "big") & 0xfffffffffffe00)
        at = file.tell()
        entry = int.from_bytes(file.read(8), "big")
        file.seek(at)
        file.write((entry | 512).to_bytes(8, "big"))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", base, "-F", "qcow2", image, "1M")
    for options in ([], ["-r"]):
        device = Device(image, *options)
        with device.open(os.O_RDONLY) as disk:
            try:
                disk.read(0, SECTOR)
                raise Failure("what is damaged was read")
            except OSError as error:
                expect_equal(error.errno, errno.EIO, "error")
        expect_equal(device.state(), "read-only" if options else "ok", "state")
        run("qcowctl", "detach", device.path)
    check(image)


for cluster_bytes in (512, 65536, 2 * MIB):
    with case(f"read-only, clusters of {cluster_bytes} bytes"):
        read_only(cluster_bytes)
with case("written by device mapper"):
    written_by_the_kernel()
with case("ext4 mounted from a read-only device"):
    mount_read_only()
with case("only read"):
    not_written_is_not_changed()
with case("two names of one file"):
    two_names_of_one_file()
with case("damage in a base"):
    damage_in_a_base()
finish()
