#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Writes to an image that has internal snapshots leave the snapshots alone."""

from e2e import *

SNAPSHOTS = ("first", "second")


def make_image(path, cluster, **options):
    """An image with two snapshots and newer data; what each of them holds."""
    size = 16 * cluster + 64 * KIB
    create(path, size, cluster_size=cluster, **options)
    contents = {}
    for number, name in enumerate(SNAPSHOTS):
        qemu_io(path, [f"write -P {10 + number} {number * cluster} {12 * cluster}",
                       f"write -z {(4 + number) * cluster} {cluster}"])
        run("qemu-img", "snapshot", "-c", name, path)
        contents[name] = digest(to_raw(path, work("raw")))
    qemu_io(path, [f"write -P 20 {3 * cluster} {cluster}"])
    return contents


def places(cluster):
    """A head, a tail, whole clusters, some of them twice, and new ones."""
    middle = 6 * cluster + cluster // 2 // SECTOR * SECTOR
    return [(0, SECTOR), (2 * cluster - SECTOR, SECTOR), (2 * cluster, 3 * cluster),
            (middle, cluster), (middle, SECTOR),
            (11 * cluster, 4 * cluster), (3 * cluster, SECTOR)]


def overwrite(image, cluster, model, *options):
    with Device(image, *options) as device, device.open() as disk:
        for number, (offset, length) in enumerate(places(cluster)):
            data = noise(length, number)
            disk.write(offset, data)
            model[offset:offset + length] = data
        expect_same_bytes(disk.read_all(), bytes(model), "the active view")


def expect_snapshots(image, contents):
    for name, wanted in contents.items():
        raw = to_raw(image, work("raw"), "-l", f"snapshot.name={name}")
        expect_equal(digest(raw), wanted, f"contents of the snapshot {name}")


def delete_snapshots(image, model):
    """Every reference that a write dropped or kept must be counted right."""
    for name in SNAPSHOTS:
        run("qemu-img", "snapshot", "-d", name, image)
        check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), bytes(model),
                      "the active view without snapshots")


def test(cluster, *options, directory=WORK, **create_options):
    image = os.path.join(directory, "image")
    contents = make_image(image, cluster, **create_options)
    model = bytearray(content(to_raw(image, work("raw"))))
    for _ in range(2):
        overwrite(image, cluster, model, *options)
        check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), bytes(model),
                      "the active view as QEMU reads it")
    expect_snapshots(image, contents)
    delete_snapshots(image, model)


for cluster_bytes in (512, 1024, 4096, 65536, 2 * MIB):
    with case(f"clusters of {cluster_bytes} bytes"):
        test(cluster_bytes)
with case("compat=0.10"):
    test(65536, compat="0.10")
for bits in (2, 4, 8, 32, 64):
    with case(f"refcount_bits={bits}"):
        test(4096, refcount_bits=bits)
ram, = ram_disks(1, 256 * MIB)
with ext4_on(ram, "/mnt/ram"):
    with case("--direct-io"):
        test(65536, "--direct-io", directory="/mnt/ram")
finish()
