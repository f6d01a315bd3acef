#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Compressed clusters: read like QEMU reads them, also by many at once and with one
stream damaged; written over, zeroed and discarded."""

import errno
import threading

from e2e import *

L1_OFFSET = 40
COMPRESSED = 1 << 62
TYPES = ("zlib", "zstd")


# ---------------------------------------------------------------------------
# Images.


def mixed_data(size, unit, seed):
    """Units of data that compresses well, or badly, or not at all, and of zeroes."""
    chance = random.Random(seed)
    data = bytearray(size)
    for offset in range(0, size, unit):
        length = min(unit, size - offset)
        kind = chance.randrange(5)
        if kind == 0:
            piece = chance.randbytes(length)
        elif kind < 4:
            words = [chance.randbytes(chance.randint(2, 40)) for _ in range(4 ** kind)]
            piece = b"".join(chance.choices(words, k=length // 2 + 1))[:length]
        else:
            piece = bytes(length)
        data[offset:offset + length] = piece
    return bytes(data)


def make_image(image, size, cluster, seed=1, **options):
    """An image that qemu-img has compressed; what is in it."""
    data = mixed_data(size, max(cluster // 2, 2048), seed)
    raw = work("raw")
    with open(raw, "wb") as file:
        file.write(data)
    words = [f"{name}={value}" for name, value in
             {"cluster_size": cluster, **options}.items()]
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", ",".join(words),
        raw, image)
    return data


def l2_entry(image, cluster_size, guest_offset, entry_bytes=8):
    per_table = cluster_size // entry_bytes
    number = guest_offset // cluster_size
    table = field(image, field(image, L1_OFFSET, "Q") + number // per_table * 8, "Q")
    return field(image, (table & ~(1 << 63)) + number % per_table * entry_bytes, "Q")


def compressed_clusters(image, cluster_size, size):
    """Guest offset of each, and host offset of its stream."""
    mask = (1 << (62 - (cluster_size.bit_length() - 1 - 8))) - 1
    found = {}
    for guest_offset in range(0, size, cluster_size):
        entry = l2_entry(image, cluster_size, guest_offset)
        if entry & COMPRESSED:
            found[guest_offset] = entry & mask
    expect(len(found) > 3, f"only {len(found)} compressed clusters")
    return found


# ---------------------------------------------------------------------------
# Reading.


def read_parts(disk, data, count, seed):
    chance = random.Random(seed)
    for _ in range(count):
        offset = chance.randrange(len(data) // SECTOR) * SECTOR
        length = min(chance.randint(1, 64) * SECTOR, len(data) - offset)
        expect_same_bytes(disk.read(offset, length), data[offset:offset + length],
                          f"{length} bytes at {offset}")


def test_reads(image, data, *options):
    with Device(image, "-r", *options) as device, device.open(os.O_RDONLY) as disk:
        expect_same_bytes(disk.read_all(), data, "the whole disk")
        if not options:
            read_parts(disk, data, 200, 1)


def reads():
    for kind in TYPES:
        for cluster in (512, 4096, 65536, 2 * MIB):
            with case(f"reads, {kind}, clusters of {cluster} bytes"):
                size = max(6 * cluster, MIB) + 3 * SECTOR
                test_reads(work("image"), make_image(work("image"), size, cluster,
                                                     compression_type=kind))
        with case(f"reads, {kind}, subclusters"):
            test_reads(work("image"), make_image(work("image"), 3 * MIB, 65536,
                                                 compression_type=kind, extended_l2="on"))
    with case("reads, compat=0.10"):
        test_reads(work("image"), make_image(work("image"), 3 * MIB, 65536, compat="0.10"))
    with case("reads, qemu-io's own compressed writes"):
        image = create(work("image"), MIB)
        qemu_io(image, [f"write -c -P {n + 1} {n * 65536} 65536" for n in range(12)])
        test_reads(image, content(to_raw(image, work("raw"))))


def direct_reads(where):
    for kind in TYPES:
        with case(f"reads, {kind}, --direct-io"):
            image = os.path.join(where, "image")
            data = make_image(image, 3 * MIB, 65536, compression_type=kind)
            test_reads(image, data, "--direct-io")


def test_many_readers(kind):
    data = make_image(work("image"), 4 * MIB, 65536, compression_type=kind)
    problems = []

    def reader(path, seed):
        try:
            with Disk(path, os.O_RDONLY) as disk:
                read_parts(disk, data, 150, seed)
        except (Failure, OSError) as failure:
            problems.append(str(failure))

    with Device(work("image"), "-r") as device:
        threads = [threading.Thread(target=reader, args=(device.path, seed))
                   for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expect(not problems, "\n".join(problems))


# ---------------------------------------------------------------------------
# Damage.


def expect_eio(disk, offset, length):
    try:
        disk.read(offset, length)
    except OSError as error:
        expect_equal(error.errno, errno.EIO, "error")
        return
    raise Failure(f"{length} bytes at {offset} could be read")


def test_damage(kind):
    image, cluster, size = work("image"), 65536, 3 * MIB
    data = bytearray(make_image(image, size, cluster, compression_type=kind))
    found = compressed_clusters(image, cluster, size)
    bad = list(found)[len(found) // 2]
    for place in range(8):
        patch(image, found[bad] + place, "B", 0xff)
    with Device(image) as device, device.open() as disk:
        expect_eio(disk, bad, cluster)
        expect_eio(disk, bad + 512, 512)
        expect(f"host offset {found[bad]:#x}" in kernel_log(), "the kernel's log does not say where")
        for start, end in ((0, bad), (bad + cluster, size)):
            expect_same_bytes(disk.read(start, end - start), bytes(data[start:end]),
                              "the other clusters")
        expect_equal(device.state(), "ok", "state")
        # What has to be kept of it cannot be; a whole cluster can be replaced.
        try:
            disk.write(bad + 512, noise(512, 1))
            raise Failure("a part of the damaged cluster could be written")
        except OSError as error:
            expect_equal(error.errno, errno.EIO, "error of the write")
        data[bad:bad + cluster] = noise(cluster, 2)
        disk.write(bad, data[bad:bad + cluster])
        expect_same_bytes(disk.read_all(), bytes(data), "the disk")
        expect_equal(device.state(), "ok", "state")
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), bytes(data), "what QEMU reads")


# ---------------------------------------------------------------------------
# Writing.


def places(cluster):
    """A head, a tail, whole clusters, parts of two, and some of them twice."""
    half = max(cluster // 2 // SECTOR, 1) * SECTOR
    return [(0, SECTOR), (2 * cluster - SECTOR, SECTOR), (2 * cluster, 3 * cluster),
            (6 * cluster + half, cluster), (6 * cluster + half, SECTOR),
            (9 * cluster - SECTOR, 2 * SECTOR), (3 * cluster, SECTOR)]


def write_over(device, model, cluster):
    with device.open() as disk:
        for number, (offset, length) in enumerate(places(cluster)):
            data = noise(length, number)
            disk.write(offset, data)
            model[offset:offset + length] = data
        for first, options in ((11, []), (14, ["--zeroout"])):
            offset, length = first * cluster, 2 * cluster
            run("blkdiscard", *options, "-o", offset, "-l", length, device.path)
            model[offset:offset + length] = bytes(length)
        expect_same_bytes(disk.read_all(), bytes(model), "the disk")


def test_writes(cluster, *options, directory=WORK, **create_options):
    image = os.path.join(directory, "image")
    model = bytearray(make_image(image, 24 * cluster, cluster, **create_options))
    for _ in range(2):
        with Device(image, *options) as device:
            write_over(device, model, cluster)
        check(image)
        expect_same_bytes(content(to_raw(image, work("raw"))), bytes(model), "what QEMU reads")


def test_all_written(cluster, **create_options):
    """In the end nothing refers to a stream any more, and nothing leaks."""
    image = work("image")
    size = 40 * cluster
    make_image(image, size, cluster, **create_options)
    model = noise(size, 7)
    order = list(range(0, size, cluster))
    random.Random(1).shuffle(order)
    with Device(image) as device, device.open() as disk:
        for offset in order:
            disk.write(offset, model[offset:offset + cluster])
            if offset % (7 * cluster) == 0:
                disk.flush()
        expect_same_bytes(disk.read_all(), model, "the disk")
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), model, "what QEMU reads")


def test_snapshot(kind):
    """A snapshot keeps the streams that the active view has given up."""
    image, cluster = work("image"), 65536
    data = make_image(image, 24 * cluster, cluster, compression_type=kind)
    run("qemu-img", "snapshot", "-c", "first", image)
    model = bytearray(data)
    for _ in range(2):
        with Device(image) as device:
            write_over(device, model, cluster)
        check(image)
        raw = to_raw(image, work("raw"), "-l", "snapshot.name=first")
        expect_same_bytes(content(raw), data, "the snapshot")
        expect_same_bytes(content(to_raw(image, work("raw"))), bytes(model),
                          "the active view")


def test_overlay(kind):
    """The base's clusters are decompressed for the overlay's reads and its COW."""
    base, image, cluster = work("base"), work("image"), 65536
    data = make_image(base, 24 * cluster, cluster, compression_type=kind)
    before = digest(base)
    create(image, len(data), backing_file=base, backing_fmt="qcow2", cluster_size=4096)
    model = bytearray(data)
    with Device(image) as device:
        write_over(device, model, cluster)
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), bytes(model), "what QEMU reads")
    expect_equal(digest(base), before, "the base")


reads()
for compression in TYPES:
    with case(f"many readers, {compression}"):
        test_many_readers(compression)
for compression in TYPES:
    with case(f"a damaged stream, {compression}"):
        test_damage(compression)
for cluster_bytes in (512, 4096, 65536, MIB):
    with case(f"writes, clusters of {cluster_bytes} bytes"):
        test_writes(cluster_bytes)
with case("writes, zstd"):
    test_writes(65536, compression_type="zstd")
with case("writes, subclusters"):
    test_writes(65536, extended_l2="on")
with case("writes, compat=0.10"):
    test_writes(65536, compat="0.10")
for compression in TYPES:
    with case(f"all written over, {compression}"):
        test_all_written(65536, compression_type=compression)
with case("all written over, refcounts of 64 bits"):
    test_all_written(4096, refcount_bits=64)
for compression in TYPES:
    with case(f"below a snapshot, {compression}"):
        test_snapshot(compression)
for compression in TYPES:
    with case(f"below an overlay, {compression}"):
        test_overlay(compression)
ram, = ram_disks(1, 256 * MIB)
with ext4_on(ram, "/mnt/ram"):
    direct_reads("/mnt/ram")
    with case("writes, --direct-io"):
        test_writes(65536, "--direct-io", directory="/mnt/ram")
finish()
