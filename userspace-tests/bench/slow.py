# SPDX-License-Identifier: GPL-2.0-only
"""Disks that take time, with an ext4 for the image or file of one run, and what is done on
them (see rows.py). All is made anew for each run but the memory of the disks, which is
taken once.

	delay	dm-delay that delays only flushes, over a loop device on a file in memory. A
		RAM disk would not do: it has no write cache, so no flush reaches it.
	null	null_blk, in memory, with a write cache; each request ends by a timer.
"""

import statistics

import rows
from measure import *

SLOW_ROOT = "/mnt/slow"
FLUSHER = os.path.join(os.path.dirname(os.path.realpath(__file__)), "flusher.py")
VIRTUAL_SIZE = 64 * GIB
BLOCK = 4 * KIB
# What one L2 table maps.
TABLE_REACH = CLUSTER // 8 * CLUSTER
TABLES = VIRTUAL_SIZE // TABLE_REACH
# Not in WORK, which is emptied after each case of a test.
DELAY_FILE = "/dev/shm/slow.disk"
NULL = "bench-null"
NULL_DIRECTORY = f"/sys/kernel/config/nullb/{NULL}"
# In MiB; a disk without one is never flushed.
NULL_CACHE = 4
# What the file's own flush takes is the median of so many.
FLUSHES_OF_FILE = 5


def slow_disk_size(size):
    """Room for what a run writes (see most_bytes()), an image's tables, and the file
    system's own."""
    return size * 5 // 4 + 128 * MIB


# ---------------------------------------------------------------------------
# The disks.


@contextlib.contextmanager
def delaying(path, ms):
    """The disk, and the one beneath, which counts its flushes."""
    below = run("losetup", "--find", "--show", path).stdout.strip()
    try:
        table = f"0 {sectors(below)} delay {below} 0 0 {below} 0 0 {below} 0 {ms}"
        with mapped("bench-slow", table) as disk:
            yield disk, below
    finally:
        run("losetup", "--detach", below)


def null_attribute(name, value):
    with open(os.path.join(NULL_DIRECTORY, name), "w", encoding="ascii") as file:
        file.write(str(value))


def make_null(size):
    """It keeps its data while it is without power."""
    os.mkdir(NULL_DIRECTORY)
    for name, value in {"size": size // MIB, "memory_backed": 1, "cache_size": NULL_CACHE,
                        "queue_mode": 2, "irqmode": 2, "submit_queues": 2}.items():
        null_attribute(name, value)


@contextlib.contextmanager
def null(ms):
    null_attribute("completion_nsec", round(ms * 1e6))
    null_attribute("power", 1)
    try:
        yield f"/dev/{NULL}", f"/dev/{NULL}"
    finally:
        null_attribute("power", 0)


def take_memory(path, size):
    run("dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={size // MIB}",
        "conv=notrunc", "oflag=direct", timeout=600)


class SlowStage:
    """The disks, and what is on them."""

    def __init__(self, size):
        self.size = size

    def prepare(self, kinds):
        """Those of these kinds."""
        if "delay" in kinds:
            take_memory(DELAY_FILE, slow_disk_size(self.size))
        if "null" in kinds:
            run("modprobe", "null_blk", "nr_devices=0")
            make_null(slow_disk_size(self.size))
            with null(0) as (disk, _):
                take_memory(disk, slow_disk_size(self.size))

    @contextlib.contextmanager
    def disk(self, disk, *options):
        """With a new file system; yields the device that counts flushes."""
        opened = delaying(DELAY_FILE, disk.ms) if disk.kind == "delay" else null(disk.ms)
        with opened as (path, below):
            run("mkfs.ext4", "-q", "-F", "-E",
                "nodiscard,lazy_itable_init=0,lazy_journal_init=0", *options, path)
            with mounted(path, SLOW_ROOT):
                yield below

    def make(self, device, state):
        """An image, or a file for loop, on the disk."""
        path = os.path.join(SLOW_ROOT, f"fresh.{device}")
        size = VIRTUAL_SIZE if state == "empty" else self.size // 2
        preallocation = "off" if state == "empty" else "full"
        if device == rows.DRIVER:
            create(path, size, cluster_size=CLUSTER, preallocation=preallocation)
        else:
            run("qemu-img", "create", "-q", "-f", "raw", "-o",
                f"preallocation={preallocation}", path, size)
        if device == rows.DRIVER and state == "snapshot":
            run("qemu-img", "snapshot", "-c", "before", path)
        drop_caches()
        return path

    def most_bytes(self, load):
        """What all jobs write at most; the image grows by about as much. After a snapshot a
        cluster is copied for each block, but no more than there are."""
        if load.job == "slow-touch":
            return TABLES * BLOCK
        return self.size if load.job == "slow-sequential" else self.size // 2

    def variables(self, load):
        """What the job's file asks for."""
        return {"BENCH_JOBS": str(load.jobs), "BENCH_RATE": str(load.rate // load.jobs),
                "BENCH_BYTES": str(self.most_bytes(load) // load.jobs),
                "BENCH_PART": str(VIRTUAL_SIZE // load.jobs)}


# ---------------------------------------------------------------------------
# What is measured.


def flush_of_file(path):
    """What a flush takes here that has nothing to write, in ms."""
    took = []
    with open(path, "r+b") as file:
        for _ in range(FLUSHES_OF_FILE):
            began = time.monotonic()
            os.fdatasync(file.fileno())
            took.append((time.monotonic() - began) * 1000)
    return statistics.median(took)


@contextlib.contextmanager
def flushed(*devices):
    """Yields a list, which has what flusher.py says once the block has ended."""
    with subprocess.Popen([sys.executable, FLUSHER, *devices], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        found = []
        try:
            expect_equal(process.stdout.readline(), "ready\n", "what the flusher says")
            yield found
        except BaseException:
            process.kill()
            raise
        found += json.loads(process.communicate(timeout=100)[0])
    expect(found, "nothing was flushed")


def run_load(stage, load, target, seconds, seed, *counted):
    """The numbers of one run on a device, and its flushes."""
    with flushed(target, *counted) as flushes:
        entry, = fio_jobs(load.job, target, seconds, seed, **stage.variables(load))
    return numbers(entry) | {"write_worst_ms": entry["write"]["lat_ns"]["max"] / 1e6}, flushes


def tables_in_use(image):
    """Entries of the L1 table that are not 0."""
    count, offset = field(image, 36, "I"), field(image, 40, "Q")
    return sum(field(image, offset + 8 * number, "Q") != 0 for number in range(count))


def check_image(path, load):
    """It is sound, and the load did what it is for."""
    check(path)
    if load.job == "slow-touch":
        expect_equal(tables_in_use(path), TABLES, "L2 tables after all were touched")


def measure_slow(stage, row, device, seconds, seed):
    """One run of a row."""
    with stage.disk(row.disk):
        path = stage.make(device, row.load.state)
        file_flush = flush_of_file(path)
        with (qcow2 if device == rows.DRIVER else loop)(path) as target:
            result, flushes = run_load(stage, row.load, target, seconds, seed)
        if device == rows.DRIVER:
            check_image(path, row.load)
    took = [flush["ms"] for flush in flushes]
    return result | {"flush_ms": statistics.median(took), "flush_worst_ms": max(took),
                     "flushes": len(took), "file_flush_ms": file_flush}


def count_flushes(stage, disk, seconds, seed):
    """How many flushes of the file one of the guest costs. Without a journal each flush of
    a file is one of the disk."""
    result = {}
    with stage.disk(disk, "-O", "^has_journal") as below:
        path = stage.make(rows.DRIVER, "empty")
        with qcow2(path) as target:
            for count in rows.FLUSH_COUNTS:
                found, flushes = run_load(stage, count.load, target, seconds, seed, below)
                counts = [flush["disk_flushes"] for flush in flushes]
                result |= {count.key: statistics.median(counts),
                           f"{count.key}_worst": max(counts), "iops": found["iops"]}
                expect(result[count.key] >= 1, f"no flush came to {below}: {counts}")
        check_image(path, rows.FLUSH_COUNTS[0].load)
    return result
