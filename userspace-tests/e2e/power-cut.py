#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The power goes at any flush of the disk below the image: what dm-log-writes has
recorded is replayed, and the image attached and looked at as it was then."""

import random

from e2e import *
from mapper import Mapped
from promises import Promises, traffic
from tagged import Marks, Options, expect_allowed, join_jobs, start_jobs
from writelog import Replay, split, through_loop

MOUNT, OUTER, COPY = "/mnt/guest", "/mnt/outer", "/mnt/copy"
DISK_BYTES, LOG_BYTES = 56 * MIB, 512 * MIB
# Epochs that are looked at in each case, but for make check-long: all.
EPOCHS = 8


@contextlib.contextmanager
def logged_disk():
    """An empty disk whose writes are recorded, and how to tell the log a number."""
    for device in (below, log):
        run("blkdiscard", device)
    table = [(DISK_BYTES // SECTOR, f"log-writes {below} {log}")]
    with Mapped("logged", table) as mapped, through_loop(mapped.path) as disk:
        yield disk, Marks(lambda number: mapped.message(f"mark {number}"))


def states(epochs, seed):
    """(epoch, choice of its writes or None), which are to be looked at."""
    chosen = epochs
    if not LONG:
        count = min(EPOCHS, len(epochs))
        chosen = sorted(random.Random(seed).sample(epochs[:-1], count - 1), key=epochs.index)
        chosen.append(epochs[-1])
    for number, epoch in enumerate(chosen):
        yield epoch, None
        yield epoch, random.Random(seed * 10000 + number)


def look_at_states(verify, seed, tear):
    """Call verify(path, last mark) for each state of the disk."""
    with Replay(log, work("replayed"), DISK_BYTES) as replay:
        epochs = split(replay.entries)
        expect(len(epochs) > EPOCHS, f"only {len(epochs)} epochs")
        count = 0
        for epoch, choice in states(epochs, seed):
            seen = max((int(mark) for mark in epoch.seen if mark.isdigit()), default=0)
            path = replay.cut(epoch, work("state"), choice, tear)
            try:
                verify(path, seen)
            except Failure as failure:
                raise Failure(f"log entries 0 to {epoch.first}, {'some' if choice else 'none'} "
                              f"up to {epoch.end}, mark {seen}: {failure}") from None
            count += 1
        note(f"{count} states, {len(epochs)} epochs, {len(replay.entries)} log entries")


# ---------------------------------------------------------------------------
# Tagged sectors on the device.


def tagged_traffic(image, flags, marks, seed):
    with Device(image, *flags) as device:
        jobs = start_jobs(device, 4, marks, Options(seed, lambda done: done >= 350))
        join_jobs(jobs)
    expect(sum(job.synced for job in jobs) > 20, "too few flushes")
    return jobs


def look_at_tags(image, jobs, seen, flags):
    check(image, leaks_allowed=True)
    with Device(image, *flags) as device, device.open(os.O_RDONLY) as opened:
        expect_allowed(opened.read_all(), jobs, seen)
    check(image, leaks_allowed=True)


def tags_on_disk(seed, *flags, **options):
    with logged_disk() as (disk, marks):
        create(disk, 8 * MIB, **options)
        os.sync()
        created = marks.make()
        jobs = tagged_traffic(disk, flags, marks, seed)

    def verify(path, seen):
        if seen >= created:
            look_at_tags(path, jobs, seen, flags)
    look_at_states(verify, seed, tear=True)


# ---------------------------------------------------------------------------
# A file system on the device.


def file_system_traffic(image, flags, marks, seed):
    with Device(image, *flags) as device:
        run("mkfs.ext4", "-q", "-F", "-J", "size=4", "-E",
            "lazy_itable_init=0,lazy_journal_init=0", device.path)
        promises = Promises(marks)
        with mounted(device.path, MOUNT):
            run("sync", "-f", MOUNT)
            promises.formatted = marks.make()
            traffic(MOUNT, promises, seed, 30 if LONG else 14)
    return promises


def look_at_file_system(image, promises, seen, flags):
    """The journal mends it all, and what was promised is there."""
    check(image, leaks_allowed=True)
    with Device(image, *flags) as device:
        if seen >= promises.formatted:
            with mounted(device.path, MOUNT):
                promises.expect_kept(MOUNT, seen)
            run("e2fsck", "-f", "-n", device.path)
    check(image, leaks_allowed=True)


def file_system_on_disk(seed, *flags, **options):
    """The image is the disk: the log has the driver's own writes and flushes."""
    with logged_disk() as (disk, marks):
        create(disk, 32 * MIB, **options)
        os.sync()
        created = marks.make()
        promises = file_system_traffic(disk, flags, marks, seed)

    def verify(path, seen):
        if seen >= created:
            look_at_file_system(path, promises, seen, flags)
    look_at_states(verify, seed, tear=True)


def file_system_on_file(seed, *flags, **options):
    """The image is a file on a file system on the disk."""
    with logged_disk() as (disk, marks):
        with ext4_on(disk, OUTER):
            image = create(os.path.join(OUTER, "image"), 32 * MIB, **options)
            os.sync()
            created = marks.make()
            promises = file_system_traffic(image, flags, marks, seed)

    def verify(path, seen):
        if seen >= created:
            with mounted(path, COPY, "-o", "loop"):
                look_at_file_system(os.path.join(COPY, "image"), promises, seen, flags)
    # Torn blocks are for the image; what ext4 makes of them is not asked here.
    look_at_states(verify, seed, tear=False)


for module in ("loop", "ext4", "dm-log-writes"):
    run("modprobe", module)
below, log = ram_disks(2, LOG_BYTES)
for number, (title, flags, options) in enumerate((
        ("clusters of 512 bytes", (), {"cluster_size": 512}),
        ("--direct-io", ("--direct-io",), {}),
        ("extended L2, --direct-io", ("--direct-io",),
         {"cluster_size": 16 * KIB, "extended_l2": "on"}))):
    with case(f"tagged sectors, {title}"):
        tags_on_disk(number, *flags, **options)
with case("ext4 on the device, clusters of 4096 bytes"):
    file_system_on_disk(10, cluster_size=4096)
with case("ext4 on the device, --direct-io"):
    file_system_on_disk(11, "--direct-io")
with case("ext4 on the device, image file on ext4"):
    file_system_on_file(20, cluster_size=4096)
with case("ext4 on the device, extended L2, image file on ext4, --direct-io"):
    file_system_on_file(21, "--direct-io", extended_l2="on")
finish()
