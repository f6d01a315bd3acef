#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""fio writes and verifies with 8 jobs on an empty image, for every cluster size."""

from e2e import *

JOBS = 8
ENGINES = ("io_uring", "libaio")


def fio(device, name, *options):
    run("fio", f"--name={name}", f"--filename={device}", "--thread", "--direct=1",
        f"--numjobs={JOBS}", "--group_reporting", "--verify=crc32c",
        "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", *options)


def write_at_random(device, size, engine):
    """Each job has its own range, which begins and ends inside of a cluster."""
    share = (size // JOBS // SECTOR - 1 | 1) * SECTOR
    fio(device, "random", f"--ioengine={engine}", "--iodepth=16", "--rw=randwrite",
        "--bsrange=512-256k", "--blockalign=512", "--verify_backlog=64",
        f"--size={share}", f"--offset_increment={share}")


def write_as_neighbours(device, offset, size, engine):
    """The jobs' sectors alternate: all of them allocate in the same clusters."""
    fio(device, "neighbours", f"--ioengine={engine}", "--iodepth=4", "--rw=write",
        "--bs=512", "--zonemode=strided", f"--zonesize={SECTOR}",
        f"--zonerange={JOBS * SECTOR}", f"--offset={offset}",
        f"--offset_increment={SECTOR}", f"--size={size - JOBS * SECTOR}",
        f"--io_size={size // JOBS - SECTOR}")


def virtual_size(cluster):
    return max(8 * MIB, min(32 * MIB, cluster * 512)) * (4 if LONG else 1)


def verify(image, cluster, engine, *options):
    size = virtual_size(cluster)
    create(image, size, cluster_size=cluster)
    with Device(image, *options) as device:
        write_at_random(device.path, size - 2 * MIB, engine)
        write_as_neighbours(device.path, size - 2 * MIB, 2 * MIB, engine)
        before = digest(device.path)
    check(image)
    raw = to_raw(image, work("raw"))
    expect_equal(digest(raw), before, "contents as QEMU reads them")
    with Device(image, "-r", *options) as device:
        expect_equal(digest(device.path), before, "contents when attached again")
    os.unlink(image)


for bits in range(9, 22):
    with case(f"clusters of {1 << bits} bytes"):
        verify(work("image"), 1 << bits, ENGINES[bits % 2])

disk, = ram_disks(1, (1024 if LONG else 256) * MIB)
with ext4_on(disk, "/mnt/ram"):
    for bits in (9, 12, 13, 16, 21):
        with case(f"clusters of {1 << bits} bytes, --direct-io"):
            verify("/mnt/ram/image", 1 << bits, ENGINES[bits % 2], "--direct-io")
finish()
