#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""A device among others: its partitions come and go with it; several attach one image at
once; loop and another image lie on it; what is discarded is gone from the page cache."""

import collections
import socket

import blkmodel
from e2e import *

NETLINK_KOBJECT_UEVENT = 15
RAM, = ram_disks(1, 256 * MIB)
HERE = "/mnt/life"


# ---------------------------------------------------------------------------
# Partitions.


class Events:
    """What the kernel says of block devices, from now on."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        self.socket.bind((0, 1))
        self.socket.setblocking(False)

    def counts(self):
        """By device, how often it was added and removed."""
        found = collections.defaultdict(collections.Counter)
        with contextlib.suppress(BlockingIOError):
            while True:
                words = self.socket.recv(65536).decode().split("\0")
                values = dict(word.split("=", 1) for word in words[1:] if "=" in word)
                if values.get("SUBSYSTEM") == "block":
                    found[values["DEVNAME"]][values["ACTION"]] += 1
        return found


def partitions(device):
    """In sysfs and below /dev."""
    in_sysfs, nodes = ({os.path.basename(path) for path in glob.glob(pattern)} for pattern in
                       (f"/sys/block/{device.name}/{device.name}p*", f"{device.path}p*"))
    expect_equal(nodes, in_sysfs, "nodes of partitions")
    return in_sysfs


def partitions_come_and_go():
    """As many are removed as were added, with a table that was there, and one that is made."""
    image, rounds = create(work("image"), 32 * MIB), 5
    events = Events()
    for number in range(rounds):
        with Device(image) as device:
            if not number:
                run("sfdisk", "-q", device.path, input="label: gpt\n,4M\n,8M\n,\n")
            expect_equal(len(partitions(device)), 3, "partitions")
        expect(not partitions(device), "partitions are left")
    found = events.counts()
    for name in [device.name, *(f"{device.name}p{part}" for part in (1, 2, 3))]:
        expect_equal(found[name]["add"], rounds, f"times that {name} was added")
        expect_equal(found[name]["remove"], rounds, f"times that {name} was removed")
    check(image)


def added_partition():
    """One that is in no table goes with the device, and is not on the next one."""
    one, other = create(work("one"), 8 * MIB), create(work("other"), 8 * MIB)
    with Device(one) as device:
        run("addpart", device.path, 2, 2048, 4096)
        expect_equal(partitions(device), {f"{device.name}p2"}, "partitions")
        with open(f"{device.path}p2", "r+b", buffering=0) as part:
            part.write(noise(MIB, 1))
            os.fsync(part.fileno())
            run("qcowctl", "detach", device.path, status=EXIT_BUSY)
    with Device(other) as device:
        expect(not partitions(device), "the next device has partitions")
    with Device(one) as device, device.open() as disk:
        expect(not partitions(device), "the partition is there again")
        expect_same_bytes(disk.read(MIB, MIB), noise(MIB, 1), "what was written to it")
    check(one)


# ---------------------------------------------------------------------------
# Several, and stacks.


def at_once(image, *options, count=4):
    """Attach it that many times at the same time: the devices, and the others' statuses."""
    processes = [subprocess.Popen(["qcowctl", "attach", *options, image], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for _ in range(count)]
    said = [process.communicate(timeout=100)[0].strip() for process in processes]
    devices = [path for path, process in zip(said, processes) if not process.returncode]
    return devices, [process.returncode for process in processes if process.returncode]


def four_attach_one():
    image = create(work("image"), 4 * MIB)
    for _ in range(10):
        devices, statuses = at_once(image)
        expect_equal(statuses, [EXIT_BUSY] * 3, "statuses of those that lost")
        for path in devices:
            run("qcowctl", "detach", path)
    check(image)


def four_read_one():
    image = create(work("image"), 4 * MIB)
    qemu_io(image, ["write -P 7 0 4M"])
    devices, statuses = at_once(image, "--read-only")
    expect_equal((len(set(devices)), statuses), (4, []), "devices, and failures")
    for path in devices:
        expect_equal(content(path), b"\7" * (4 * MIB), f"what {path} holds")
        run("qcowctl", "detach", path)
    check(image)


def loop_over():
    image = create(work("image"), 64 * MIB)
    with Device(image) as device:
        with loop_on(device.path, "--direct-io=on") as loop:
            run("mkfs.ext4", "-q", loop)
            with mounted(loop, "/mnt/guest") as where:
                for number in range(8):
                    with open(os.path.join(where, str(number)), "wb") as file:
                        file.write(noise(MIB, number))
                run("qcowctl", "detach", device.path, status=EXIT_BUSY)
        run("e2fsck", "-f", "-n", device.path)
        with mounted(device.path, "/mnt/guest", "-o", "ro") as where:
            for number in range(8):
                expect_same_bytes(content(os.path.join(where, str(number))),
                                  noise(MIB, number), f"file {number}")
    check(image)


def image_in_image():
    outer = create(os.path.join(HERE, "outer"), 96 * MIB)
    with Device(outer, "--direct-io") as device:
        run("mkfs.ext4", "-q", device.path)
        with mounted(device.path, "/mnt/guest") as where:
            blkmodel.Model(200).run(5, "--direct-io", directory=where, extended_l2="on")
            os.unlink(os.path.join(where, "image"))
        run("e2fsck", "-f", "-n", device.path)
    check(outer)


# ---------------------------------------------------------------------------
# The page cache.


def dirty_pages(request):
    """A discard of whole clusters, or zeroes, take the place of dirty pages in their range; the
    other pages are written."""
    image, size = create(work("image"), 8 * MIB), 8 * MIB
    unit = 64 * KIB if request == BLKDISCARD else 4 * KIB
    for number in range(4):
        first, length = MIB + number * unit, 3 * MIB + number * 2 * unit
        model = bytearray(noise(size, number))
        with Device(image) as device:
            with open(device.path, "r+b", buffering=0) as file:
                file.write(model)
                range_ioctl(file.fileno(), request, first, length)
                model[first:first + length] = bytes(length)
                file.seek(0)
                expect_same_bytes(file.read(size), bytes(model), "read from the cache")
                os.fsync(file.fileno())
            drop_caches()
            with device.open(os.O_RDONLY) as disk:
                expect_same_bytes(disk.read_all(), bytes(model), "read from the image")
        check(image)


run("modprobe", "loop")
run("modprobe", "ext4")
with case("partitions come and go with their device"):
    partitions_come_and_go()
with case("a partition that was added by hand"):
    added_partition()
with case("four attach one image: one does, the others are told"):
    four_attach_one()
with case("four attach one image to read"):
    four_read_one()
with case("loop over a device"):
    loop_over()
with case("an image in an image"), ext4_on(RAM, HERE):
    image_in_image()
with case("a discard over dirty pages"):
    dirty_pages(BLKDISCARD)
with case("zeroes over dirty pages"):
    dirty_pages(BLKZEROOUT)
finish()
