#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Virtual sizes at the edges: none, tiny, not a multiple of the cluster, huge;
and images that outgrow their refcount table."""

from e2e import *


def fill_small(size, cluster):
    """Write all of it, sector by sector at the end, and read it back."""
    image = create(work("image"), size, cluster_size=cluster)
    wanted = noise(size, size)
    with Device(image) as device, device.open() as disk:
        expect_equal(disk.size, size, "size of the device")
        expect_same_bytes(disk.read_all(), bytes(size), "empty image")
        tail = max(0, size - 2 * SECTOR)
        disk.write(tail, wanted[tail:])
        disk.write(0, wanted[:tail])
        expect_same_bytes(disk.read_all(), wanted, "filled image")
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), wanted, "as QEMU reads it")


def small_sizes():
    for size in (SECTOR, 3 * SECTOR, MIB + SECTOR, MIB - SECTOR):
        for cluster in (512, 65536, 2 * MIB):
            with case(f"{size} bytes in clusters of {cluster}"):
                fill_small(size, cluster)


def beyond_the_end():
    with case("nothing is read or written beyond the end"):
        image = create(work("image"), MIB + SECTOR)
        with Device(image) as device, device.open() as disk:
            for offset in (MIB + SECTOR, 2 * MIB):
                run("dd", "if=/dev/zero", f"of={device.path}", "bs=512", "count=1",
                    f"seek={offset // SECTOR}", "oflag=direct", "conv=notrunc", status=1)
            expect_same_bytes(disk.read_all(), bytes(MIB + SECTOR), "contents")
        check(image)


def no_size():
    with case("0 bytes"):
        image = create(work("image"), 0)
        before = content(image)
        with Device(image) as device, device.open() as disk:
            expect_equal(disk.size, 0, "size of the device")
        check(image)
        expect_same_bytes(content(image), before, "image file")


def far_out(size, cluster):
    """A few writes in a huge and empty image."""
    image = create(work("image"), size, cluster_size=cluster)
    offsets = [0, size // 3 // SECTOR * SECTOR, size // 2 - SECTOR, size - 3 * SECTOR]
    wanted = {offset: noise(3 * SECTOR, offset) for offset in offsets}
    with Device(image) as device, device.open() as disk:
        expect_equal(disk.size, size, "size of the device")
        for offset, data in wanted.items():
            disk.write(offset, data)
        disk.flush()
        for offset, data in wanted.items():
            expect_same_bytes(disk.read(offset, len(data)), data, f"at {offset}")
            expect(not any(disk.read(size // 5 // SECTOR * SECTOR, MIB)), "data where none is")
    check(image)
    for number, (offset, data) in enumerate(wanted.items()):
        with open(work("pattern"), "wb") as file:
            file.write(data)
        # qemu-io reads patterns of one byte only, so have the window converted.
        run("qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"if={image}",
            f"of={work('window')}", "bs=512", f"skip={offset // SECTOR}",
            f"count={offset // SECTOR + 3}")
        expect_same_bytes(content(work("window")), data, f"as QEMU reads it, window {number}")


def sparse():
    for size, cluster in ((TIB, 65536), (TIB, 2 * MIB), (8 * GIB, 4096), (256 * MIB, 512),
                          (64 * TIB, 65536)):
        with case(f"{size // MIB} MiB, sparse, clusters of {cluster} bytes"):
            far_out(size, cluster)


def outgrow(bits, size, *options):
    """With clusters of 512 bytes the refcount table is one cluster at first."""
    image = create(work("image"), size, cluster_size=512, refcount_bits=bits)
    clusters_before = field(image, 56, "I")
    block = noise(MIB, bits)
    with Device(image, *options) as device, device.open() as disk:
        for offset in range(0, size, MIB):
            disk.write(offset, block)
        before = digest(device.path)
    expect(field(image, 56, "I") > clusters_before, "the refcount table did not grow")
    check(image)
    expect_equal(digest(to_raw(image, work("raw"))), before, "contents as QEMU reads them")
    with Device(image) as device:
        expect_equal(digest(device.path), before, "contents when attached again")


def growth():
    for bits, size in ((64, 20 * MIB), (16, 20 * MIB), (1, 136 * MIB)):
        with case(f"outgrows its refcount table, refcount_bits={bits}"):
            outgrow(bits, size)


small_sizes()
beyond_the_end()
no_size()
sparse()
growth()
finish()
