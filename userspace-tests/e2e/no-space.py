#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Images on a block device, and what happens when there is no room left: an
error for the write, a line in the log, and nothing lost."""

import errno
import functools

from e2e import *

CHUNK = 256 * KIB
SMALL = "/mnt/small"


@functools.cache
def chunk(number):
    return noise(CHUNK, number)


def fill(disk, first, limit):
    """Write chunk after chunk until it fails; how many went well."""
    for number in range(first, limit):
        try:
            disk.write(number * CHUNK, chunk(number))
        except OSError as error:
            expect(error.errno in (errno.EIO, errno.ENOSPC), f"write failed with {error}")
            return number
    raise Failure(f"all of {limit} chunks could be written")


def expect_chunks(disk, count):
    for number in range(count):
        expect_same_bytes(disk.read(number * CHUNK, CHUNK), chunk(number),
                          f"chunk {number}")


def expect_chunks_in_image(image, count):
    expect_same_bytes(content(to_raw(image, work("raw")))[:count * CHUNK],
                      b"".join(chunk(n) for n in range(count)), "as QEMU reads it")


def complaints(device):
    """What the log has on space, of writes to all devices of that name."""
    return [line for line in kernel_log().splitlines()
            if f"qcow2: {device.name}: a write failed: no space" in line]


@contextlib.contextmanager
def complaint(device, image, more=""):
    """In here it is said where there is no space: once, or again after a while."""
    before, began = len(complaints(device)), time.monotonic()
    yield
    seconds = time.monotonic() - began
    for _ in range(50):
        found = complaints(device)[before:]
        if found:
            break
        time.sleep(0.1)
    wanted = f"no space left where the image {image}{more} lies"
    expect(found, "the log does not say that there is no space")
    for line in found:
        expect(line.endswith(wanted), f"the log says {line!r}, wanted {wanted!r}")
    expect(len(found) <= 2 + seconds / 5, f"{len(found)} lines in {seconds:.1f} s")


def block_device(backing, *options):
    """Room enough: all that is written arrives."""
    create(backing, 4 * MIB)
    with Device(backing, *options) as device, device.open() as disk:
        before = complaints(device)
        for number in range(16):
            disk.write(number * CHUNK, chunk(number))
        expect_chunks(disk, 16)
        expect_equal(complaints(device), before, "what the log says")
    check(backing)
    expect_chunks_in_image(backing, 16)
    with Device(backing, "-r", *options) as device, device.open(os.O_RDONLY) as disk:
        expect_chunks(disk, 16)


def full_device(backing, size, cluster, *options):
    """An image that is larger inside than the block device that it is on."""
    create(backing, 2 * size, cluster_size=cluster)
    with Device(backing, *options) as device, device.open() as disk:
        with complaint(device, backing):
            count = fill(disk, 0, 2 * size // CHUNK)
        expect(count >= size // CHUNK // 2, f"only {count} chunks fit")
        disk.write(0, chunk(0))
        disk.flush()
        expect_chunks(disk, count)
        expect_equal(device.state(), "ok", "state")
    check(backing)
    expect_chunks_in_image(backing, count)


def full_file_system(cluster, make_room, *options):
    """Full; reads and writes in place still work; after making room all does."""
    image = create(os.path.join(SMALL, "image"), 24 * MIB, cluster_size=cluster)
    limit = 24 * MIB // CHUNK
    with Device(image, *options) as device, device.open() as disk:
        with complaint(device, image):
            count = fill(disk, 0, limit)
            for _ in range(50):
                expect_equal(fill(disk, count, limit), count, "chunks, when tried again")
        expect(count >= 4, f"only {count} chunks fit")
        expect_chunks(disk, count)
        disk.write(CHUNK, chunk(1))
        expect_equal(fill(disk, count, limit), count, "chunks, when tried once more")
        expect_chunks(disk, count)
        expect_equal(device.state(), "ok", "state when full")
        make_room()
        for number in range(count, limit):
            disk.write(number * CHUNK, chunk(number))
        disk.flush()
        expect_chunks(disk, limit)
        expect_equal(device.state(), "ok", "state in the end")
    check(image)
    expect_chunks_in_image(image, limit)


def strange_name():
    """A name that would make two lines of one, and a data file."""
    image, data = os.path.join(SMALL, "a\nb \x1b"), os.path.join(SMALL, "data")
    create(work("image"), 24 * MIB, data_file=data, preallocation="off")
    shutil.move(work("image"), image)
    with Device(image) as device, device.open() as disk:
        with complaint(device, f"{SMALL}/a\\nb \\e", " or its data file"):
            fill(disk, 0, 24 * MIB // CHUNK)


def full_until_detached(cluster):
    """No room is made: what was accepted before is there in the end."""
    image = create(os.path.join(SMALL, "image"), 24 * MIB, cluster_size=cluster)
    with Device(image) as device, device.open() as disk:
        count = fill(disk, 0, 24 * MIB // CHUNK)
        disk.flush()
    check(image)
    expect_chunks_in_image(image, count)


def small_tmpfs():
    return mounted("tmpfs", SMALL, "-t", "tmpfs", "-o", "size=17M")


def enlarge():
    run("mount", "-o", "remount,size=64M", SMALL)


@contextlib.contextmanager
def small_ext4(device):
    with ext4_on(device, SMALL):
        run("fallocate", "-l", "44M", os.path.join(SMALL, "ballast"))
        yield


def remove_ballast():
    os.unlink(os.path.join(SMALL, "ballast"))
    os.sync()


@contextlib.contextmanager
def loop_device(size):
    with open(work("loop.img"), "wb") as file:
        file.truncate(size)
    device = run("losetup", "-f", "--show", file.name).stdout.strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


run("modprobe", "loop")
ram, = ram_disks(1, 64 * MIB)
for title, flags in (("buffered", ()), ("--direct-io", ("--direct-io",))):
    with case(f"image on a RAM disk, {title}"):
        block_device(ram, *flags)
    with case(f"image on a loop device, {title}"), loop_device(8 * MIB) as loop:
        block_device(loop, *flags)
    for cluster_bytes in (512, 65536, MIB):
        with case(f"full loop device, clusters of {cluster_bytes} bytes, {title}"):
            with loop_device(12 * MIB) as loop:
                full_device(loop, 12 * MIB, cluster_bytes, *flags)
with case("full RAM disk"):
    full_device(ram, 64 * MIB, 65536)
for cluster_bytes in (512, 4096, 65536, 2 * MIB):
    with case(f"full tmpfs, clusters of {cluster_bytes} bytes"), small_tmpfs():
        full_file_system(cluster_bytes, enlarge)
    with case(f"full tmpfs until detached, clusters of {cluster_bytes} bytes"), small_tmpfs():
        full_until_detached(cluster_bytes)
with case("full tmpfs, an image with a strange name and a data file"), small_tmpfs():
    strange_name()
for title, flags in (("buffered", ()), ("--direct-io", ("--direct-io",))):
    with case(f"full ext4, {title}"), small_ext4(ram):
        full_file_system(65536, remove_ballast, *flags)
finish()
