#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Random reads, writes, zeroes and discards by eight jobs, against a model; and
what discards are for: freed clusters are given back and used again."""

import blkmodel
from e2e import *

def allocated(path):
    return os.stat(path).st_blocks * SECTOR


def test_reuse(**create_options):
    """The file must not grow by writing and discarding the same range."""
    image = create(work("image"), 64 * MIB, **create_options)
    with Device(image) as device:
        for round_number in range(12):
            with device.open() as disk:
                disk.write(0, noise(16 * MIB, round_number))
                disk.flush()
            run("blkdiscard", device.path)
            with device.open() as disk:
                disk.flush()
                expect(not any(disk.read(0, MIB)), "data after a discard")
    check(image)
    # Two rounds' worth may be in the file while one waits for its release.
    expect(os.path.getsize(image) < 40 * MIB,
           f"the file grew to {os.path.getsize(image)} bytes")
    expect(allocated(image) < 4 * MIB,
           f"{allocated(image)} bytes are still allocated")


def test_snapshot_survives_discard():
    image = create(work("image"), 8 * MIB)
    qemu_io(image, ["write -P 7 0 8M"])
    run("qemu-img", "snapshot", "-c", "before", image)
    with Device(image) as device:
        run("blkdiscard", device.path)
        with device.open() as disk:
            expect(not any(disk.read_all()), "data after a discard")
    check(image)
    raw = to_raw(image, work("raw"), "-l", "snapshot.name=before")
    expect_same_bytes(content(raw), b"\x07" * (8 * MIB), "the snapshot")
    run("qemu-img", "snapshot", "-d", "before", image)
    check(image)


def test_partial_discard():
    """What does not fill a subcluster stays; what does reads as zeroes."""
    image = create(work("image"), MIB, extended_l2="on", cluster_size=64 * KIB)
    data = noise(128 * KIB, 1)
    with Device(image) as device:
        with device.open() as disk:
            disk.write(0, data)
        run("blkdiscard", "-o", 3 * SECTOR, "-l", 70 * KIB, device.path)
        with device.open() as disk:
            found = disk.read(0, len(data))
    first, end = 2 * KIB, 70 * KIB
    expect_same_bytes(found[:first], data[:first], "in front of the discard")
    expect(not any(found[first:end]), "the discarded bytes are no zeroes")
    expect_same_bytes(found[end:], data[end:], "behind the discard")
    check(image)


OPERATIONS = 15000 if LONG else 700
model = blkmodel.Model(OPERATIONS)
for number, bits in enumerate((9, 10, 12, 14, 16, 18, 21)):
    with case(f"random operations, clusters of {1 << bits} bytes"):
        model.run(number, cluster_size=1 << bits)
for number, bits in enumerate((14, 16, 21)):
    with case(f"random operations, extended L2, clusters of {1 << bits} bytes"):
        model.run(20 + number, cluster_size=1 << bits, extended_l2="on")
with case("random operations, extended L2, preallocated"):
    model.run(30, cluster_size=64 * KIB, extended_l2="on", preallocation="metadata")
with case("random operations, compat=0.10"):
    model.run(31, compat="0.10")
with case("random operations, refcount_bits=1"):
    model.run(32, refcount_bits=1, cluster_size=4096)
for number, options in enumerate(({}, {"extended_l2": "on"})):
    with case(f"discard and write again, the file stays small {options or ''}"):
        test_reuse(**options)
with case("a discard does not reach a snapshot"):
    test_snapshot_survives_discard()
with case("a discard of parts of clusters, extended L2"):
    test_partial_discard()
ram, = ram_disks(1, 256 * MIB)
with ext4_on(ram, "/mnt/ram"):
    with case("random operations, --direct-io"):
        model.run(40, "--direct-io", directory="/mnt/ram")
    with case("random operations, --direct-io, extended L2"):
        model.run(41, "--direct-io", directory="/mnt/ram", extended_l2="on")
finish()
