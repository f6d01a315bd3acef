# SPDX-License-Identifier: GPL-2.0-only
"""Random operations on a device, each sector tagged with the operation that wrote
it, and what a sector may hold after a crash or after errors."""

import ctypes
import errno
import random
import struct
import threading

from e2e import *

TAG = struct.Struct("<IIQ")
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
ZEROES = bytes(SECTOR)

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]


class Marks:
    """Moments in the order of their numbers; `tell` takes each number elsewhere."""

    def __init__(self, tell=lambda number: None):
        self.last, self.tell = 0, tell
        self.lock = threading.Lock()

    def make(self):
        with self.lock:
            self.tell(self.last + 1)
            self.last += 1
            return self.last


class Operation:
    """What was written where.

    after	no effect of it is seen before this mark
    certain	it has succeeded: nothing older is left there
    durable	the first mark at which it was known to be durable, or None
    """

    def __init__(self, number, first, count, zero, after):
        self.number, self.first, self.count, self.zero = number, first, count, zero
        self.after, self.certain, self.durable = after, False, None


class Job(threading.Thread):
    """Random operations, one after the other, on sectors that no other job uses."""

    def __init__(self, path, number, sectors, marks, options):
        super().__init__()
        self.path, self.number, self.marks = path, number, marks
        self.first, self.end = sectors
        self.options = options
        self.random = random.Random(options.seed * 100 + number)
        self.history = []
        self.errors = self.synced = 0
        self.problem = None

    def run(self):
        try:
            with Disk(self.path, os.O_RDWR) as disk:
                while not self.options.enough(len(self.history)):
                    self.step(disk)
        except Exception:
            self.problem = traceback.format_exc()

    def step(self, disk):
        draw = self.random.random()
        if draw < 0.15:
            self.attempt(lambda: self.sync(disk))
        elif draw < 0.65 or draw < 0.75 and not self.options.fua:
            self.write(disk, 0)
        elif draw < 0.75:
            self.write(disk, os.RWF_DSYNC)
        else:
            self.zero(disk)

    def attempt(self, what):
        """True if it went well; errors are counted where they may come."""
        try:
            what()
            return True
        except OSError as error:
            if not self.options.errors_allowed:
                raise
            # EPERM: the device has become read-only.
            expect(error.errno in (errno.EIO, errno.ENOSPC, errno.EPERM),
                   f"failed with {error}")
            self.errors += 1
            return False

    def sync(self, disk):
        disk.flush()
        number = self.marks.make()
        self.synced += 1
        for operation in self.history:
            operation.durable = operation.durable or number

    def begin(self, zero, alignment=1):
        first = self.random.randrange(self.first, self.end)
        count = min(self.random.choice((1, 1, 4, 8, 16, 64, 200)), self.end - first)
        begin = -(-first // alignment) * alignment
        count = (first + count) // alignment * alignment - begin
        if count <= 0:
            return None
        operation = Operation(len(self.history) + 1, begin, count, zero, self.marks.last)
        self.history.append(operation)
        return operation

    def write(self, disk, flags):
        operation = self.begin(False)
        data = b"".join(tag(self.number, operation.number, operation.first + index)
                        for index in range(operation.count))
        operation.certain = self.attempt(
            lambda: disk.write(operation.first * SECTOR, data, flags))
        if flags and operation.certain:
            operation.durable = self.marks.make()

    def zero(self, disk):
        how = self.random.choice((zero_range, punch, discard))
        alignment = self.options.discard_sectors if how is discard else 1
        operation = self.begin(True, alignment)
        if operation:
            operation.certain = self.attempt(
                lambda: how(disk.fd, operation.first * SECTOR, operation.count * SECTOR))

    def allowed(self, seen):
        """For each sector what it may hold, when the marks up to this were seen."""
        sets = [{ZEROES} for _ in range(self.end - self.first)]
        for operation in self.history:
            if operation.after > seen:
                break
            durable = operation.durable is not None and operation.durable <= seen
            for sector in range(operation.first, operation.first + operation.count):
                value = ZEROES if operation.zero else tag(self.number, operation.number, sector)
                if durable and operation.certain:
                    sets[sector - self.first] = {value}
                else:
                    sets[sector - self.first].add(value)
        return sets


class Options:
    """How jobs work: the seed, when they have done enough, if errors may come, if
    some writes are to be durable at once (FUA)."""

    def __init__(self, seed, enough, errors_allowed=False, fua=True):
        self.seed, self.enough = seed, enough
        self.errors_allowed, self.fua = errors_allowed, fua
        self.discard_sectors = None


def tag(job, operation, sector):
    return TAG.pack(job + 1, operation, sector) * (SECTOR // TAG.size)


def call_fallocate(fd, mode, offset, length):
    if _fallocate(fd, mode | FALLOC_KEEP_SIZE, offset, length):
        raise OSError(ctypes.get_errno(), "fallocate")


def zero_range(fd, offset, length):
    call_fallocate(fd, FALLOC_ZERO_RANGE, offset, length)


def punch(fd, offset, length):
    call_fallocate(fd, FALLOC_PUNCH_HOLE, offset, length)


def discard(fd, offset, length):
    range_ioctl(fd, BLKDISCARD, offset, length)


def granularity(path):
    name = os.path.basename(path)
    with open(f"/sys/block/{name}/queue/discard_granularity", encoding="ascii") as file:
        return int(file.read())


def start_jobs(device, count, marks, options):
    """Jobs, running, with a share of the device each; borders are no clusters'."""
    with device.open(os.O_RDONLY) as disk:
        sectors = disk.size // SECTOR
    options.discard_sectors = granularity(device.path) // SECTOR
    share = sectors // count | 1
    jobs = [Job(device.path, number, (number * share, min((number + 1) * share, sectors)),
                marks, options) for number in range(count)]
    for job in jobs:
        job.start()
    return jobs


def join_jobs(jobs):
    for job in jobs:
        job.join()
    for job in jobs:
        expect(not job.problem, f"job {job.number}: {job.problem}")


def expect_allowed(content, jobs, seen):
    """Each sector holds what it may."""
    for job in jobs:
        for sector, allowed in enumerate(job.allowed(seen), job.first):
            found = content[sector * SECTOR:(sector + 1) * SECTOR]
            if found not in allowed:
                raise Failure(story(job, sector, found, allowed, seen))


def story(job, sector, found, allowed, seen):
    lines = [f"sector {sector} of job {job.number} after mark {seen} holds {name_of(found)}, "
             f"allowed are {', '.join(sorted(map(name_of, allowed)))}"]
    for operation in job.history:
        if operation.first <= sector < operation.first + operation.count:
            lines.append(f"  operation {operation.number}: sectors {operation.first} + "
                         f"{operation.count}{', zeroes' if operation.zero else ''}, after mark "
                         f"{operation.after}, certain {operation.certain}, durable at "
                         f"{operation.durable}")
    return "\n".join(lines)


def name_of(sector):
    if sector == ZEROES:
        return "zeroes"
    job, operation, place = TAG.unpack_from(sector)
    torn = "" if sector == sector[:TAG.size] * (SECTOR // TAG.size) else ", torn"
    return f"(job {job - 1}, operation {operation}, sector {place}{torn})"
