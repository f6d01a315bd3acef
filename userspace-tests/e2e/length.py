#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The length of the image's file: made longer ahead of the writes while it is attached
with direct I/O, and as long as what was written to it afterwards."""

import threading

from e2e import *
from mapper import Mapped
from writelog import through_loop

ROOT = "/mnt/length"
STEP = 64 * MIB
CLUSTER = 64 * KIB
PLACES = [n * 3 * MIB + n * CLUSTER for n in range(8)]


def place(name):
    return os.path.join(ROOT, name)


def length(path):
    return os.stat(path).st_size


def pieces():
    return {offset: noise(CLUSTER + 8 * KIB, offset + 1) for offset in PLACES}


def write_pieces(device):
    with Disk(device.path, os.O_RDWR) as disk:
        for offset, data in pieces().items():
            disk.write(offset, data)
        disk.flush()


def expect_pieces(image):
    raw = to_raw(image, work("raw"))
    data = bytearray(content(raw))
    for offset, piece in pieces().items():
        expect_same_bytes(data[offset:offset + len(piece)], piece, f"data at {offset}")
        data[offset:offset + len(piece)] = bytes(len(piece))
    expect(not any(data), "something is not zero where nothing was written")


def new_image(name):
    return create(place(name), 64 * MIB, cluster_size=CLUSTER)


def longest(image):
    """What QEMU says of the clusters in use."""
    return json.loads(run("qemu-img", "check", "--output=json", image).stdout)["image-end-offset"]


def ahead():
    image = new_image("ahead")
    with Device(image, "--direct-io") as device:
        write_pieces(device)
        expect(length(image) >= STEP and length(image) % STEP == 0,
               f"{length(image)} bytes long while it is attached")
        expect(os.stat(image).st_blocks * SECTOR < STEP // 4, "space is taken in advance")
    expect(length(image) <= longest(image),
           f"{length(image)} bytes long, and in use up to {longest(image)}")
    check(image)
    expect_pieces(image)


def again():
    """What was taken and given back is not zero, wherever the file ended."""
    image = new_image("again")
    for _ in range(3):
        with Device(image, "--direct-io", "--pass-discard=off") as device:
            write_pieces(device)
            run("blkdiscard", device.path)
            with Disk(device.path, os.O_RDWR) as disk:
                disk.flush()
            write_pieces(device)
        check(image)
        expect_pieces(image)


def left_long():
    """As after a crash: an attach takes the file as it is."""
    image = new_image("left-long")
    with Device(image, "--direct-io") as device:
        write_pieces(device)
        copy = place("copy")
        run("cp", "--sparse=always", image, copy)
    expect(length(copy) % STEP == 0, f"the copy has {length(copy)} bytes")
    check(copy, leaks_allowed=True)
    with Device(copy, "--direct-io") as device:
        write_pieces(device)
    check(copy)
    expect_pieces(copy)


def wait_until_freed(device):
    path = f"/sys/block/{os.path.basename(device.path)}/qcow2/clusters_freed"
    for _ in range(200):
        if int(content(path)) > 0:
            return
        time.sleep(0.02)
    raise Failure("the cluster was not given back")


def lost_tail():
    """An L2 entry refers to what the file lost. Written there again, and given back, the
    cluster must not count as one that the file never had, though the file only seems
    to end behind it."""
    image = new_image("lost-tail")
    data = noise(4 * CLUSTER, 1)
    with Device(image, "--direct-io") as device, Disk(device.path, os.O_RDWR) as disk:
        disk.write(0, data)
        disk.flush()
    os.truncate(image, longest(image) - 2 * CLUSTER)
    with Device(image, "--direct-io", "--pass-discard=off") as device:
        with Disk(device.path, os.O_RDWR) as disk:
            for cluster in (2, 3):
                disk.write(cluster * CLUSTER, data[:8 * KIB])
            run("blkdiscard", "--offset", 3 * CLUSTER, "--length", CLUSTER, device.path)
            disk.flush()
            wait_until_freed(device)
            disk.write(MIB, bytes(SECTOR))
            expect(not any(disk.read(MIB, CLUSTER)), "bytes of a cluster that was given back")
    check(image)


def in_the_middle_of_a_block():
    """A file that ends within a block is made longer while that block is written."""
    image = create(place("middle"), 64 * MIB, cluster_size=CLUSTER)
    with Device(image, "--direct-io") as device, Disk(device.path, os.O_RDWR) as disk:
        disk.write(0, noise(SECTOR, 1))
        disk.flush()
    expect(length(image) % (4 * KIB) != 0, f"the file has {length(image)} bytes")
    at = 0
    for round_ in range(1, 31):
        data, following = noise(SECTOR, 100 + round_), 2 * round_ * MIB
        with Device(image, "--direct-io") as device:
            with Disk(device.path, os.O_RDWR) as disk, Disk(device.path, os.O_RDWR) as other:
                thread = threading.Thread(
                    target=other.write, args=(following, noise(SECTOR, round_)))
                thread.start()
                for _ in range(10):
                    disk.write(at, data)
                thread.join()
                disk.flush()
            expect_equal(device.state(), "ok", "state")
        expect(length(image) % (4 * KIB) != 0, f"the file has {length(image)} bytes")
        drop_caches()
        with Device(image, "--direct-io") as device, Disk(device.path, os.O_RDONLY) as disk:
            expect_same_bytes(disk.read(at, SECTOR), data, "the sector at the file's end")
        at = following
    check(image)


READS, WRITES = 400, 1200


def delays(disk, reads, writes):
    """A table for device mapper: milliseconds."""
    return [(512 * MIB // SECTOR, f"delay {disk} 0 {reads} {disk} 0 {writes}")]


@contextlib.contextmanager
def slow_ext4_on(disk, where):
    """Slow when told to; above loop, as device mapper's delay says that it always waits."""
    run("modprobe", "loop")
    with Mapped("slow", delays(disk, 0, 0)) as slow, through_loop(slow.path) as loop, \
            ext4_on(loop, where):
        try:
            yield slow
        finally:
            slow.reload(delays(disk, 0, 0))


def fast_before(slow, disk, image, copying, data):
    errors = []

    def write_first(first):
        try:
            first.write(copying, noise(SECTOR, 2))
        except OSError as error:
            errors.append(str(error))

    with Device(image, "--direct-io") as device, device.open() as guest, device.open() as first:
        for cluster in range(2):
            guest.read(cluster * CLUSTER, SECTOR)
        # What qcowctl has read, for a write that would have to drop it waits.
        drop_caches()
        slow.reload(delays(disk, READS, WRITES))
        thread = threading.Thread(target=write_first, args=(first,))
        thread.start()
        time.sleep(READS / 4 / 1000)
        expect(thread.is_alive(), "the first write does not wait")
        expect(length(image) % (4 * KIB) != 0, f"the file has {length(image)} bytes already")
        # A write must wait to note another time than the file has: the next tick's.
        os.utime(image)
        guest.write(CLUSTER, data)
        thread.join()
        expect(not errors, f"the first write: {errors}")
        slow.reload(delays(disk, 0, 0))
        guest.flush()
        drop_caches()
        expect_same_bytes(guest.read(CLUSTER, SECTOR), data, "the sector at the file's end")


def fast_before_the_first(slow, disk):
    """A write that is fast, in the block in which the file ends, comes while the first write
    of all waits to copy: nothing may make the file longer beneath it."""
    base, image = place("slow/base"), place("slow/image")
    with open(base, "wb") as file:
        file.write(noise(MIB, 1))
    create(image, MIB, cluster_size=CLUSTER, extended_l2="on", backing_file=base,
           backing_fmt="raw")
    with Device(image, "--direct-io") as device, device.open() as guest:
        for cluster in range(2):
            guest.write(cluster * CLUSTER, noise(2 * KIB, 2))
        guest.flush()
    expect(length(image) % (4 * KIB) != 0, f"the file has {length(image)} bytes")
    for round_ in range(3):
        fast_before(slow, disk, image, CLUSTER // 2 + round_ * 4 * KIB,
                    noise(SECTOR, 3 + round_))
    check(image)


def of_others():
    """A length that somebody else gave the file is not ours to change."""
    image = new_image("of-others")
    with Device(image, "--direct-io") as device:
        write_pieces(device)
        os.truncate(image, 5 * STEP)
    expect_equal(length(image), 5 * STEP, "length")
    check(image)
    expect_pieces(image)


def data_file(raw):
    """A raw data file is the disk, which must not seem to be longer."""
    data = place(f"data-{raw}")
    image = create(place(f"of-{raw}"), 64 * MIB, cluster_size=CLUSTER, data_file=data,
                   data_file_raw=raw)
    if raw == "off":
        os.truncate(data, 0)
    with Device(image, "--direct-io") as device:
        write_pieces(device)
        attached = length(data)
        if raw == "off":
            expect(attached >= STEP and attached % STEP == 0, f"{attached} bytes while attached")
    end = max(PLACES) + CLUSTER + 8 * KIB if raw == "off" else 64 * MIB
    expect_equal(length(data), end, "length of the data file")
    if raw == "on":
        expect_equal(attached, end, "length of the raw data file while attached")
    check(image)
    expect_pieces(image)


def limited():
    """Of whoever attaches and detaches, which is not who writes."""
    image = new_image("limited")
    limit = ["prlimit", f"--fsize={MIB}"]
    device = run(*limit, "qcowctl", "attach", "--direct-io", image).stdout.strip()
    try:
        with Disk(device, os.O_RDWR) as disk:
            for offset, data in pieces().items():
                disk.write(offset, data)
    finally:
        run(*limit, "qcowctl", "detach", device)
    expect(length(image) <= longest(image), f"{length(image)} bytes long")
    check(image)
    expect_pieces(image)


def limited_writer():
    """Of who writes: where its data lies in the image is no business of its limit."""
    image, data, source = new_image("limited-writer"), noise(CLUSTER, 1), work("source")
    with open(source, "wb") as file:
        file.write(data)
    with Device(image, "--direct-io") as device:
        write_pieces(device)
        for offset in PLACES:
            run("prlimit", f"--fsize={CLUSTER}", "dd", f"if={source}", f"of={device.path}",
                "bs=4k", f"seek={offset // (4 * KIB)}", "conv=notrunc", "oflag=direct")
        with Disk(device.path, os.O_RDONLY) as disk:
            for offset in PLACES:
                expect_same_bytes(disk.read(offset, CLUSTER), data, f"data at {offset}")
        expect_equal(device.state(), "ok", "state")
    check(image)


def without():
    """Read-only, or through the page cache, or only read."""
    image = new_image("without")
    before = length(image)
    for options in (["--direct-io", "--read-only"], ["--direct-io"], []):
        with Device(image, *options) as device:
            with Disk(device.path, os.O_RDONLY) as disk:
                expect(not any(disk.read(0, MIB)), "an empty image is not zero")
            expect_equal(length(image), before, f"length, {options}")
    with Device(image) as device:
        write_pieces(device)
        expect(length(image) < STEP, f"{length(image)} bytes through the page cache")
    check(image)


disk, other = ram_disks(2, 512 * MIB)
with ext4_on(disk, ROOT):
    with case("the file is made longer ahead, by a hole, and cut at detach"):
        ahead()
    with case("clusters that were given back are not taken for zero"):
        again()
    with case("a file that a crash left too long"):
        left_long()
    with case("a file that lost its tail"):
        lost_tail()
    with case("a file that ends in the middle of a block"):
        in_the_middle_of_a_block()
    with case("a file that ends in the middle of a block, and a write that is fast"):
        with slow_ext4_on(other, place("slow")) as slow:
            fast_before_the_first(slow, other)
    with case("a length that others gave the file stays"):
        of_others()
    with case("an external data file"):
        data_file("off")
    with case("a raw data file is as long as the disk"):
        data_file("on")
    with case("limits of who attaches"):
        limited()
    with case("limits of who writes"):
        limited_writer()
    with case("what is not written, or through the page cache, keeps its length"):
        without()

finish()
