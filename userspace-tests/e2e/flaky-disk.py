#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Errors of the disk below the image, for reads, writes, flushes, everywhere or in
places. A guest's data that cannot be written is the guest's error and changes
nothing; after metadata that cannot be written there are no more writes, and the
device says so; what was flushed is there when the disk is well again."""

import errno
import random
import threading
import time

from e2e import *
from mapper import Mapped
from promises import Promises, traffic
from tagged import Marks, Options, expect_allowed, join_jobs, start_jobs

MOUNT = "/mnt/guest"
DISK_BYTES = 64 * MIB
CHUNK = 64 * KIB
ALL_SECTORS = DISK_BYTES // SECTOR
# So long the driver keeps changed metadata in memory (QCOW2_COMMIT_SECONDS).
COMMIT_SECONDS = 5


# ---------------------------------------------------------------------------
# The disk, and what is wrong with it.


def cached_disk(name, size):
    """One that has a write cache, so that flushes go all the way down to it."""
    directory = os.path.join("/sys/kernel/config/nullb", name)
    os.mkdir(directory)
    for option, value in (("size", size // MIB), ("memory_backed", 1), ("blocksize", SECTOR),
                          ("cache_size", 4), ("discard", 1), ("power", 1)):
        with open(os.path.join(directory, option), "w", encoding="ascii") as file:
            file.write(str(value))
    return os.path.join("/dev", name)


def healthy():
    return [(ALL_SECTORS, f"linear {below} 0")]


def failing(*what):
    """error_reads, error_writes (flushes with them) or both, everywhere."""
    return [(ALL_SECTORS, f"flakey {below} 0 0 1000 {len(what)} {' '.join(what)}")]


def dead():
    return [(ALL_SECTORS, "error")]


def dead_part(begin, end):
    """Neither read nor written from byte to byte; flushes go through."""
    begin, end = begin // SECTOR, min(end, DISK_BYTES) // SECTOR
    table = [(begin, f"linear {below} 0"), (end - begin, "error"),
             (ALL_SECTORS - end, f"linear {below} {end}")]
    return [part for part in table if part[0]]


@contextlib.contextmanager
def image_on_disk(size=16 * MIB, **options):
    run("blkdiscard", below)
    with Mapped("flaky", healthy()) as mapped:
        create(mapped.path, size, **options)
        os.sync()
        try:
            yield mapped
        except BaseException:
            # What is attached would hold the disk, which the next case needs.
            mapped.reload(healthy())
            for entry in attached():
                run("qcowctl", "detach", entry["name"], status=None)
            raise


def expect_error(what, name, *wanted):
    try:
        what()
    except OSError as error:
        expect(error.errno in (wanted or (errno.EIO,)), f"{name}: {error}")
    else:
        raise Failure(f"{name} went well")


def expect_state(device, wanted):
    expect_equal(device.state(), wanted, "state")


def expect_lost(device):
    """The state is there to see; no write is taken; a detach says it."""
    expect_state(device, "needs-check")
    with device.open() as disk:
        # EPERM is what the kernel says of a device that has become read-only.
        expect_error(lambda: disk.write(0, noise(CHUNK, 99)), "a write after it",
                     errno.EPERM, errno.EIO)
        expect_error(disk.flush, "a flush after it")
    done = run("qcowctl", "detach", device.path, status=EXIT_LOST)
    expect("qemu-img check" in done.stderr, f"detach says {done.stderr!r}")
    sabotage(device.image)


def end_of_image(image):
    return json.loads(run("qemu-img", "check", "-f", "qcow2", "--output=json",
                          image).stdout)["image-end-offset"]


def host_offset(image, guest):
    """Where the guest's bytes are, as QEMU says."""
    extents = json.loads(run("qemu-img", "map", "-f", "qcow2", "--output=json", image).stdout)
    return next(extent["offset"] + guest - extent["start"] for extent in extents
                if extent["start"] <= guest < extent["start"] + extent["length"])


def pattern(number):
    return noise(CHUNK, number)


def write_chunks(disk, *numbers, what=0):
    for number in numbers:
        disk.write(number * CHUNK, pattern(number + what))


def expect_chunks(disk, *numbers, what=0):
    for number in numbers:
        expect_same_bytes(disk.read(number * CHUNK, CHUNK), pattern(number + what),
                          f"chunk {number}")


def expect_holes(disk, *numbers):
    for number in numbers:
        expect(not any(disk.read(number * CHUNK, CHUNK)), f"chunk {number} is not empty")


# ---------------------------------------------------------------------------
# Data.


def new_data_fails(**options):
    """No cluster can be written that is new: nothing is mapped, nothing leaks."""
    with image_on_disk(**options) as mapped:
        with Device(mapped.path, "--direct-io") as device, device.open() as disk:
            write_chunks(disk, 0, 1, 2, 3)
        end = end_of_image(mapped.path)
        with Device(mapped.path, "--direct-io") as device, device.open() as disk:
            expect_chunks(disk, 0)
            mapped.reload(dead_part(end, DISK_BYTES))
            for number in (8, 9, 10):
                expect_error(lambda at=number: write_chunks(disk, at), "a write to a new cluster")
            expect_error(lambda: disk.write(12 * CHUNK + SECTOR, noise(SECTOR, 1)),
                         "a write to a part of a new cluster")
            expect_holes(disk, 8, 9, 10, 12)
            write_chunks(disk, 0, 1, what=50)
            disk.flush()
            expect_chunks(disk, 0, 1, what=50)
            expect_state(device, "ok")
            mapped.reload(healthy())
            expect_holes(disk, 8, 9, 10, 12)
            write_chunks(disk, 8, 9)
            disk.flush()
            expect_state(device, "ok")
        check(mapped.path)
        expect_data(mapped.path, {0: 50, 1: 51, 2: 2, 3: 3, 8: 8, 9: 9}, (10, 12))


def data_in_place_fails(**options):
    """Where data is it cannot be written: the cluster stays where it is."""
    with image_on_disk(**options) as mapped:
        with Device(mapped.path, "--direct-io") as device, device.open() as disk:
            write_chunks(disk, *range(8))
        place = host_offset(mapped.path, 4 * CHUNK)
        with Device(mapped.path, "--direct-io") as device, device.open() as disk:
            expect_chunks(disk, 0, 7)
            mapped.reload(dead_part(place, place + CHUNK))
            expect_error(lambda: write_chunks(disk, 4, what=50), "a write in place")
            expect_error(lambda: disk.read(4 * CHUNK, CHUNK), "a read")
            write_chunks(disk, 5, 20, what=50)
            disk.flush()
            expect_state(device, "ok")
            mapped.reload(healthy())
            expect_chunks(disk, 4)
            write_chunks(disk, 4, what=50)
        check(mapped.path)
        expect_equal(host_offset(mapped.path, 4 * CHUNK), place, "host offset")
        expect_data(mapped.path, {3: 3, 4: 54, 5: 55, 6: 6, 20: 70})


def reads_fail(*flags):
    """Of data, and of tables that are not in memory. Later they are read."""
    with image_on_disk(size=256 * MIB, cluster_size=4096) as mapped:
        # Each of these has an L2 table of its own.
        numbers = [32 * index for index in range(8)]
        with Device(mapped.path, *flags) as device, device.open() as disk:
            write_chunks(disk, *numbers)
        drop_caches()
        with Device(mapped.path, *flags) as device, device.open() as disk:
            expect_chunks(disk, 0)
            drop_caches()
            mapped.reload(failing("error_reads"))
            for number in numbers:
                expect_error(lambda at=number: disk.read(at * CHUNK, CHUNK), "a read")
            expect_error(lambda: disk.write(numbers[5] * CHUNK + SECTOR, noise(SECTOR, 1)),
                         "a write where the table cannot be read")
            mapped.reload(healthy())
            expect_state(device, "ok")
            expect_chunks(disk, *numbers)
            write_chunks(disk, numbers[5], what=50)
        check(mapped.path)
        expect_data(mapped.path, {**{number: number for number in numbers},
                                  numbers[5]: numbers[5] + 50})


def copy_on_write_fails(kind, *flags):
    """What is to be copied cannot be read, or not be written."""
    with image_on_disk() as mapped:
        with Device(mapped.path) as device, device.open() as disk:
            write_chunks(disk, 0, 1)
        run("qemu-img", "snapshot", "-c", "before", mapped.path)
        end = end_of_image(mapped.path)
        drop_caches()
        with Device(mapped.path, *flags) as device, device.open() as disk:
            # So that the tables for it are there and in memory.
            disk.write(CHUNK + SECTOR, noise(SECTOR, 1))
            disk.flush()
            end += CHUNK
            drop_caches()
            mapped.reload(failing("error_reads") if kind == "read" else
                          dead_part(end + 2 * CHUNK, DISK_BYTES))
            expect_error(lambda: disk.write(2 * SECTOR, noise(SECTOR, 2)) or
                         [disk.write((number + 4) * CHUNK, pattern(1)) for number in range(4)],
                         "a write that needs a copy")
            mapped.reload(healthy())
            expect_state(device, "ok")
            found = disk.read(0, CHUNK)
            whole = bytearray(pattern(0))
            if kind == "write":
                whole[2 * SECTOR:3 * SECTOR] = found[2 * SECTOR:3 * SECTOR]
            expect_same_bytes(found, bytes(whole), "the cluster")
        check(mapped.path)
        raw = content(to_raw(mapped.path, work("raw"), "-l", "snapshot.name=before"))
        expect_same_bytes(raw[:2 * CHUNK], pattern(0) + pattern(1), "the snapshot")


def expect_data(image, chunks, holes=()):
    """As QEMU reads the image, and as the driver does."""
    raw = content(to_raw(image, work("raw")))
    for number, seed in chunks.items():
        expect_same_bytes(raw[number * CHUNK:(number + 1) * CHUNK], pattern(seed),
                          f"chunk {number}, as QEMU reads it")
    with Device(image, "-r") as device, device.open(os.O_RDONLY) as disk:
        for number, seed in chunks.items():
            expect_chunks(disk, number, what=seed - number)
        expect_holes(disk, *holes)


# ---------------------------------------------------------------------------
# Metadata and flushes.


def flush_fails(*flags):
    """Data is written in place; only that it is durable cannot be had."""
    with image_on_disk() as mapped:
        device = Device(mapped.path, *flags)
        with device.open() as disk:
            write_chunks(disk, 0, 1)
            disk.flush()
            write_chunks(disk, 1, what=50)
            mapped.reload(failing("error_writes"))
            expect_error(disk.flush, "the flush")
            mapped.reload(healthy())
            expect_chunks(disk, 0)
        expect_lost(device)
        check(mapped.path)
        expect_data(mapped.path, {0: 0})


def changes_not_written(disk, mapped, table):
    """Changes metadata in memory, which then cannot be written; False if the
    driver may have written it before, as it does some seconds after a change."""
    begun = time.monotonic()
    write_chunks(disk, 2, 3)
    mapped.reload(table)
    if time.monotonic() < begun + COMMIT_SECONDS - 1:
        return True
    mapped.reload(healthy())
    return False


def metadata_fails(begin, end, *flags):
    """A part of the image's beginning cannot be written, when there are changes."""
    for _ in range(10):
        if try_metadata_fails(begin, end, *flags):
            return
    raise Failure("this machine is too slow: the driver always writes before the disk fails")


def try_metadata_fails(begin, end, *flags):
    with image_on_disk(cluster_size=CHUNK) as mapped:
        device = Device(mapped.path, *flags)
        with device.open() as disk:
            write_chunks(disk, 0, 1)
            disk.flush()
            set_up = changes_not_written(disk, mapped,
                                         dead_part(begin * CHUNK, end * CHUNK))
            if set_up:
                expect_error(disk.flush, "the flush")
                expect_state(device, "needs-check")
                expect_chunks(disk, 0, 1)
                mapped.reload(healthy())
                expect_chunks(disk, 0, 1)
        if not set_up:
            device.detach()
            return False
        expect_lost(device)
        check(mapped.path, leaks_allowed=True)
        expect_data(mapped.path, {0: 0, 1: 1})
        with Device(mapped.path, *flags) as device, device.open() as disk:
            write_chunks(disk, 2, 3)
        check(mapped.path, leaks_allowed=True)
        expect_data(mapped.path, {0: 0, 1: 1, 2: 2, 3: 3})
    return True


def last_commit_fails(*flags):
    """Nobody flushed, and the disk dies: the detach has to tell."""
    with image_on_disk() as mapped:
        device = Device(mapped.path, *flags)
        with device.open() as disk:
            write_chunks(disk, 0)
            disk.flush()
            write_chunks(disk, 1)
        mapped.reload(dead())
        run("qcowctl", "detach", device.path, status=EXIT_LOST)
        mapped.reload(healthy())
        check(mapped.path, leaks_allowed=True)
        expect_data(mapped.path, {0: 0})


# ---------------------------------------------------------------------------
# Anything, at any time.


def bad_disk(choice, data_only):
    """Some part that is broken, or all of it."""
    draw = choice.random()
    if not data_only and draw < 0.5:
        return choice.choice((failing("error_reads"), failing("error_writes"), dead()))
    # The image takes about 9 MiB, tables in front.
    begin = choice.randrange(MIB if data_only else 0, 9 * MIB, 4 * KIB)
    return dead_part(begin, begin + choice.choice((4 * KIB, 64 * KIB, 2 * MIB)))


def break_and_mend(device, mapped, choice, data_only):
    """Until the device has given up, or for some rounds."""
    for _ in range(60 if LONG else 10):
        time.sleep(choice.random() / 10)
        mapped.reload(bad_disk(choice, data_only))
        time.sleep(choice.random() / 20)
        mapped.reload(healthy())
        if device.state() != "ok":
            return


def errors_at_any_time(seed, *flags, data_only=False, **options):
    choice, stop = random.Random(seed), threading.Event()
    with image_on_disk(size=8 * MIB, **options) as mapped:
        device, marks = Device(mapped.path, *flags), Marks()
        jobs = start_jobs(device, 4, marks, Options(seed, lambda done: stop.is_set(), True))
        try:
            break_and_mend(device, mapped, choice, data_only)
        finally:
            stop.set()
            join_jobs(jobs)
        lost = device.state() != "ok"
        if lost:
            expect_lost(device)
        else:
            device.detach()
        note(f"{sum(len(job.history) for job in jobs)} operations, "
             f"{sum(job.errors for job in jobs)} errors, "
             f"{sum(job.synced for job in jobs)} flushes, {'lost' if lost else 'went on'}")
        expect(sum(job.errors for job in jobs), "there was no error")
        expect(not (lost and data_only), "lost, though only data was not written")
        expect_sound(mapped.path, jobs, marks, flags)


def expect_sound(image, jobs, marks, flags):
    drop_caches()
    check(image, leaks_allowed=True)
    expect_allowed(content(to_raw(image, work("raw"))), jobs, marks.last)
    with Device(image, *flags) as device, device.open() as disk:
        expect_allowed(disk.read_all(), jobs, marks.last)
        write_chunks(disk, 3)
        disk.flush()
        expect_chunks(disk, 3)
    check(image, leaks_allowed=True)


def file_system_on_it(*flags):
    """The disk dies below a mounted ext4."""
    with image_on_disk(size=32 * MIB, cluster_size=4096) as mapped:
        device, promises = Device(mapped.path, *flags), Promises(Marks())
        run("mkfs.ext4", "-q", "-F", device.path)
        with mounted(device.path, MOUNT):
            traffic(MOUNT, promises, 1, 8)
            mapped.reload(failing("error_writes"))
            try:
                traffic(MOUNT, promises, 2, 8)
            except (OSError, Failure) as error:
                note(f"ext4: {str(error).splitlines()[0]}")
            else:
                raise Failure("ext4 saw no error")
        mapped.reload(healthy())
        # ext4 may have given up after data, before it asked for a flush.
        if device.state() == "ok":
            device.detach()
        else:
            expect_lost(device)
        drop_caches()
        check(mapped.path, leaks_allowed=True)
        with Device(mapped.path, *flags) as device:
            with mounted(device.path, MOUNT):
                promises.expect_kept(MOUNT, promises.marks.last)
            run("e2fsck", "-f", "-n", device.path)
        check(mapped.path, leaks_allowed=True)


for module in ("ext4", "dm-flakey", "null_blk nr_devices=0"):
    run("modprobe", *module.split())
below = cached_disk("below", DISK_BYTES)
DIRECT = "--direct-io"
for title, settings in (("", {}), (", clusters of 4096 bytes", {"cluster_size": 4096}),
                        (", extended L2", {"extended_l2": "on"})):
    with case(f"data cannot be written to new clusters{title}"):
        new_data_fails(**settings)
    with case(f"data cannot be written in place{title}"):
        data_in_place_fails(**settings)
with case("reads fail, --direct-io"):
    reads_fail(DIRECT)
with case("reads fail, buffered"):
    reads_fail()
for direction in ("read", "write"):
    with case(f"copy on write, {direction} fails, --direct-io"):
        copy_on_write_fails(direction, DIRECT)
for title, how in (("--direct-io", (DIRECT,)), ("buffered", ())):
    with case(f"a flush fails, {title}"):
        flush_fails(*how)
    with case(f"refcounts cannot be written, {title}"):
        metadata_fails(2, 3, *how)
    with case(f"an L2 table cannot be written, {title}"):
        metadata_fails(4, 5, *how)
    with case(f"the last commit fails, {title}"):
        last_commit_fails(*how)
    with case(f"the disk dies under ext4, {title}"):
        file_system_on_it(*how)
for number, (title, how, settings) in enumerate((
        ("--direct-io", (DIRECT,), {}),
        ("clusters of 512 bytes, --direct-io", (DIRECT,), {"cluster_size": 512}),
        ("extended L2, --direct-io", (DIRECT,), {"extended_l2": "on", "cluster_size": 16 * KIB}),
        ("clusters of 4096 bytes, buffered", (), {"cluster_size": 4096}))):
    with case(f"any error at any time, {title}"):
        for repetition in range(20 if LONG else 2):
            errors_at_any_time(number + 100 * repetition, *how, **settings)
with case("errors for data, under load, --direct-io"):
    errors_at_any_time(10, DIRECT, data_only=True, preallocation="metadata")
finish()
