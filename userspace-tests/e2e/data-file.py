#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Images whose guest data lies in a file of its own."""

import blkmodel
from e2e import *

DIRECTORY = "/mnt/ram"
IMAGE = os.path.join(DIRECTORY, "image")
DATA = os.path.join(DIRECTORY, "data")
VARIANTS = ({}, {"data_file_raw": "on"}, {"extended_l2": "on"},
            {"data_file_raw": "on", "extended_l2": "on"},
            {"preallocation": "metadata"}, {"cluster_size": 512},
            {"data_file_raw": "on", "lazy_refcounts": "on", "cluster_size": "2M"})
WAYS = ((), ("--direct-io",), ("--pass-discard=off", "--discard-no-unref"))


def remove(*paths):
    for path in paths:
        if os.path.exists(path):
            os.unlink(path)


def create_split(size, **options):
    remove(IMAGE, DATA)
    return create(IMAGE, size, data_file=DATA, **options)


def expect_raw():
    """A raw data file is the disk, for who knows nothing of the image; qemu-img
    makes it a multiple of the cluster long."""
    disk, data = content(to_raw(IMAGE, work("raw"))), content(DATA)
    expect_same_bytes(data[:len(disk)], disk, "the raw data file")
    expect(not any(data[len(disk):]), "something behind the disk's end")


def test_model(seed, *way, **variant):
    remove(IMAGE, DATA)
    model.run(seed, *way, directory=DIRECTORY, data_file=DATA, **variant)
    if "data_file_raw" in variant:
        expect_raw()
    with Device(IMAGE, "--read-only") as device:
        found = digest(device.path)
    expect_equal(digest(to_raw(IMAGE, work("raw"))), found, "what a read-only device reads")


def test_place():
    """A cluster lies at its guest offset, the first one too."""
    create_split(4 * MIB)
    data = noise(MIB, 1)
    with Device(IMAGE) as device, device.open() as disk:
        disk.write(0, data)
        disk.write(3 * MIB, data)
        disk.flush()
        expect_same_bytes(content(DATA)[:MIB], data, "the begin of the data file")
        expect_same_bytes(content(DATA)[3 * MIB:], data, "the end of the data file")
        expect(os.path.getsize(IMAGE) < MIB, "guest data is in the image")
    check(IMAGE)


def test_stale_data():
    """What the data file held before nobody may see."""
    for variant in ({}, {"extended_l2": "on"}):
        create_split(4 * MIB, **variant)
        with open(DATA, "r+b") as file:
            file.write(noise(2 * MIB, 2))
        with Device(IMAGE) as device, device.open() as disk:
            disk.write(64 * KIB + 5 * SECTOR, noise(SECTOR, 3))
            found = disk.read_all()
        wanted = bytes(64 * KIB + 5 * SECTOR) + noise(SECTOR, 3)
        expect_same_bytes(found, wanted.ljust(4 * MIB, b"\0"), "what was not written")
        check(IMAGE)


def test_discard(**variant):
    create_split(8 * MIB, **variant)
    with Device(IMAGE) as device:
        with device.open() as disk:
            disk.write(0, noise(8 * MIB, 4))
            disk.flush()
        before = os.stat(DATA).st_blocks
        run("blkdiscard", "-o", MIB, "-l", 4 * MIB, device.path)
        with device.open() as disk:
            disk.flush()
            expect(not any(disk.read(MIB, 4 * MIB)), "data after a discard")
            freed = (before - os.stat(DATA).st_blocks) * SECTOR
    expect(freed >= 4 * MIB, f"{freed} bytes of the data file were given back")
    check(IMAGE)


def test_backing():
    base = create(os.path.join(DIRECTORY, "base"), 8 * MIB)
    qemu_io(base, ["write -P 5 0 8M"])
    create_split(8 * MIB, backing_file=base, backing_fmt="qcow2")
    wanted = bytearray(b"\x05" * (8 * MIB))
    with Device(IMAGE) as device:
        with device.open() as disk:
            disk.write(MIB + 7 * SECTOR, noise(SECTOR, 6))
            wanted[MIB + 7 * SECTOR:MIB + 8 * SECTOR] = noise(SECTOR, 6)
        run("blkdiscard", "-o", 2 * MIB, "-l", MIB, device.path)
        wanted[2 * MIB:3 * MIB] = bytes(MIB)
        with device.open() as disk:
            expect_same_bytes(disk.read_all(), bytes(wanted), "the overlay")
    check(IMAGE)
    expect_same_bytes(content(to_raw(IMAGE, work("raw"))), bytes(wanted), "what QEMU reads")
    overlay = create(os.path.join(DIRECTORY, "overlay"), 8 * MIB, backing_file=IMAGE,
                     backing_fmt="qcow2")
    with Device(overlay) as device, device.open() as disk:
        expect_same_bytes(disk.read_all(), bytes(wanted), "an overlay over it")


def test_damage():
    """An entry that puts a cluster elsewhere is damage, and read as such."""
    create_split(4 * MIB, data_file_raw="on")
    qemu_io(IMAGE, ["write -P 1 0 4M"])
    l1 = field(IMAGE, 40, "Q")
    l2 = field(IMAGE, l1, "Q") & ~(1 << 63)
    entry = field(IMAGE, l2 + 8, "Q")
    patch(IMAGE, l2 + 8, "Q", entry + 128 * KIB)
    device = Device(IMAGE, "--read-only")
    with device.open(os.O_RDONLY) as disk:
        expect_same_bytes(disk.read(0, 64 * KIB), b"\x01" * (64 * KIB), "a sound cluster")
        try:
            disk.read(64 * KIB, SECTOR)
            refused = False
        except OSError:
            refused = True
    run("qcowctl", "detach", device.path, status=EXIT_LOST)
    expect(refused, "a cluster in a wrong place was read")


def test_released():
    """Nothing keeps the files once the device has gone."""
    create_split(4 * MIB)
    with Device(IMAGE) as device, device.open() as disk:
        disk.write(0, noise(MIB, 7))
    run("qemu-img", "resize", "-q", IMAGE, "5M")


ram, = ram_disks(1, 300 * MIB)
model = blkmodel.Model(4000 if LONG else 100)
with ext4_on(ram, DIRECTORY):
    with case("clusters lie at their guest offsets"):
        test_place()
    with case("what was in the data file before is not seen"):
        test_stale_data()
    for options in VARIANTS[:4]:
        with case(f"discarded space is given back {options or ''}"):
            test_discard(**options)
    with case("backing files"):
        test_backing()
    with case("an entry that puts a cluster elsewhere"):
        test_damage()
    with case("the files are released"):
        test_released()
    for number, options in enumerate(VARIANTS):
        for step, ways in enumerate(WAYS):
            with case(f"random operations {options or ''} {' '.join(ways)}"):
                test_model(50 + 3 * number + step, *ways, **options)
finish()
