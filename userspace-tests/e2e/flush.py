#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""What was flushed is in the image file while it is attached: a copy of the file,
as a crash of the machine would leave it, is sound and holds the data."""

from e2e import *


def expect_copy_holds(image, model, what):
    """Leaks are allowed after a crash, nothing else is."""
    copy = shutil.copy(image, work("crashed"))
    sabotage(copy)
    check(copy, leaks_allowed=True)
    found = content(to_raw(copy, work("raw")))
    expect_same_bytes(found, bytes(model), what)
    os.unlink(copy)


class Writer:
    """Writes at random to a device and keeps in mind what it must hold."""

    def __init__(self, disk, seed):
        self.disk = disk
        self.model = bytearray(disk.size)
        self.random = random.Random(seed)

    def write(self, count, longest=256 * KIB):
        for _ in range(count):
            length = self.random.randint(1, longest // SECTOR) * SECTOR
            offset = self.random.randint(0, (self.disk.size - length) // SECTOR) * SECTOR
            data = self.random.randbytes(length)
            self.disk.write(offset, data)
            self.model[offset:offset + length] = data


def after_fsync(cluster, *options, directory=WORK):
    image = create(os.path.join(directory, "image"), 8 * MIB, cluster_size=cluster)
    with Device(image, *options) as device, device.open() as disk:
        writer = Writer(disk, cluster)
        for number in range(4):
            writer.write(8)
            disk.flush()
            expect_copy_holds(image, writer.model, f"copy number {number}")
    check(image)


def after_dsync(cluster):
    """Each write is on its own durable when it returns (FUA), also in place."""
    image = create(work("image"), 4 * MIB, cluster_size=cluster)
    with Device(image) as device:
        with Disk(device.path, os.O_RDWR | os.O_DSYNC) as disk:
            writer = Writer(disk, cluster)
            for number in range(6):
                writer.write(1)
                expect_copy_holds(image, writer.model, f"copy number {number}")
    check(image)


def dd_dsync():
    image = create(work("image"), 4 * MIB)
    with Device(image) as device:
        with open(work("data"), "wb") as file:
            file.write(noise(2 * MIB, 1))
        run("dd", f"if={work('data')}", f"of={device.path}", "bs=4k", "seek=100",
            "oflag=direct,dsync")
        model = bytes(100 * 4 * KIB) + noise(2 * MIB, 1)
        expect_copy_holds(image, model.ljust(4 * MIB, b"\0"), "copy")
    check(image)


def load(device, *options):
    return running("fio", "--name=load", f"--filename={device}", "--thread", "--direct=1",
                   "--rw=randwrite", "--bsrange=512-64k", "--blockalign=512", "--numjobs=2",
                   "--ioengine=libaio", "--iodepth=8", *options)


def beside_a_load():
    """Flushed before, not written since: it stays while others write and flush."""
    image = create(work("image"), 32 * MIB)
    data = noise(4 * MIB, 2)
    with Device(image) as device, device.open() as disk:
        disk.write(0, data)
        disk.flush()
        with load(device.path, "--offset=4M", "--size=28M", "--fsync=8", "--time_based",
                  "--runtime=2") as fio:
            expect_same_bytes(disk.read(0, len(data)), data, "on the device, under load")
            expect_good_end(fio)
        disk.flush()
        model = disk.read_all()
        expect_same_bytes(model[:len(data)], data, "on the device")
        expect_copy_holds(image, model, "copy")
    check(image)


def timed_commit():
    """Nobody flushes: what was written reaches the file by itself in the end."""
    image = create(work("image"), 4 * MIB)
    with Device(image) as device, device.open() as disk:
        writer = Writer(disk, 5)
        writer.write(8)
        time.sleep(12)
        expect_copy_holds(image, writer.model, "copy")
    check(image)


def crash_points(cluster, scratch):
    """Atomic snapshots of the image's block device, taken while fio writes and
    flushes: each must be an image without corruption."""
    origin, store = scratch
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}", origin, "48M")
    sectors = size_of(origin) // SECTOR
    run("dmsetup", "create", "origin", "--table", f"0 {sectors} snapshot-origin {origin}")
    try:
        with Device("/dev/mapper/origin") as device:
            with load(device.path, "--size=48M", "--fsync=16", "--rate=8M,8M,8M") as fio:
                for _ in range(4):
                    time.sleep(0.3)
                    check_snapshot(origin, store, sectors)
                expect_good_end(fio)
    finally:
        run("dmsetup", "remove", "--retry", "origin")
    check(origin)


def size_of(device):
    return int(run("blockdev", "--getsize64", device).stdout)


def check_snapshot(origin, store, sectors):
    """Suspending the origin makes the snapshot a single point in time."""
    run("dd", "if=/dev/zero", f"of={store}", "bs=4k", "count=1", "conv=notrunc")
    run("dmsetup", "suspend", "--noflush", "origin")
    try:
        run("dmsetup", "create", "crash", "--table",
            f"0 {sectors} snapshot {origin} {store} N 8")
    finally:
        run("dmsetup", "resume", "origin")
    try:
        sabotage("/dev/mapper/crash")
        check("/dev/mapper/crash", leaks_allowed=True)
    finally:
        run("dmsetup", "remove", "--retry", "crash")


for cluster_bytes in (512, 4096, 65536, 2 * MIB):
    with case(f"fsync, clusters of {cluster_bytes} bytes"):
        after_fsync(cluster_bytes)
for cluster_bytes in (4096, 65536):
    with case(f"O_DSYNC, clusters of {cluster_bytes} bytes"):
        after_dsync(cluster_bytes)
with case("dd oflag=direct,dsync"):
    dd_dsync()
with case("fsync beside a load"):
    beside_a_load()
with case("without any flush"):
    timed_commit()
ram, *snapshot_disks = ram_disks(3, 96 * MIB)
with ext4_on(ram, "/mnt/ram"):
    with case("fsync, --direct-io"):
        after_fsync(65536, "--direct-io", directory="/mnt/ram")
for cluster_bytes in (512, 65536):
    with case(f"snapshots of a device under load, clusters of {cluster_bytes} bytes"):
        crash_points(cluster_bytes, snapshot_disks)
finish()
