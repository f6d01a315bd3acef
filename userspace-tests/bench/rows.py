# SPDX-License-Identifier: GPL-2.0-only
"""The rows of the benchmark: what is done, on which devices, with which targets.

A row runs one fio job (jobs/JOB.fio), or what files.py does, on disks that are all in
the same state, which stage.py can make. The driver under test is always the first device.

	raw		the file itself
	loop		loop, --direct-io=on, on a raw file
	thin		dm-thin on RAM disks of its own, blocks of 64 KiB
	snapshot	dm-snapshot on RAM disks of its own, chunks of 64 KiB
	nbd		qemu-nbd, of the image
	chain-1		the driver, on one image instead of a chain

Other rows are on disks that take time, made by slow.py: the driver beside loop only, while
the device is flushed again and again, with 50 ms between. Each has four lines: speed, median and worst flush, and the
worst write. What is counted on such a disk has rows of its own.
"""

from typing import NamedTuple

DRIVER = "qcow2"
# No job of fio: see files.py.
FILES = "files"
ALL = ("loop", "raw", "thin", "nbd")


class Row(NamedTuple):
    """targets: device -> the ratio that the driver is to reach to it."""
    name: str
    title: str
    job: str
    state: str
    peers: tuple
    targets: dict

    @property
    def devices(self):
        return (DRIVER, *self.peers)


ROWS = (
    Row("randread-qd1", "4K randread, QD1", "randread-qd1", "full", ALL,
        {"loop": 1.6, "raw": 0.85, "nbd": 8}),
    Row("randread-qd32", "4K randread, QD32", "randread-qd32", "full", ALL,
        {"loop": 1.25, "raw": 0.85, "nbd": 4.5}),
    Row("randwrite-qd1", "4K randwrite, QD1", "randwrite-qd1", "full", ALL,
        {"loop": 1.6, "raw": 0.85, "nbd": 8}),
    Row("randwrite-qd32", "4K randwrite, QD32", "randwrite-qd32", "full", ALL,
        {"loop": 1.2, "raw": 0.75, "nbd": 4}),
    Row("read", "128K sequential read, QD16", "read", "full", ALL,
        {"loop": 1.05, "raw": 0.95, "nbd": 2}),
    Row("write", "128K sequential write, QD16", "write", "full", ALL,
        {"loop": 1.0, "raw": 0.95, "nbd": 2}),
    Row("randread-jobs", "4K randread, 4 jobs, QD8 each", "randread-jobs", "full", ALL,
        {"loop": 1.4, "raw": 0.85, "nbd": 4}),
    Row("write-empty", "128K sequential write, empty image", "write-empty", "empty", ALL,
        {"loop": 0.9, "nbd": 3}),
    Row("randwrite-empty", "4K randwrite, empty image", "randwrite-empty", "empty", ALL,
        {"loop": 0.8, "nbd": 8}),
    Row("overlay-extended", "4K randwrite, empty overlay, extended L2",
        "randwrite-overlay", "overlay-extended", ("loop", "nbd"), {"loop": 0.6, "nbd": 5}),
    Row("overlay", "4K randwrite, empty overlay, standard L2", "randwrite-overlay",
        "overlay", ("snapshot", "thin", "nbd"), {"snapshot": 3, "nbd": 5}),
    Row("chain", "4K randread, chain of 10", "randread-qd32", "chain", ("chain-1",),
        {"chain-1": 0.95}),
    Row("fsync", "4K randwrite, fsync=1, 4 jobs", "fsync", "full", ("loop", "raw", "nbd"),
        {"loop": 0.95}),
    Row("zlib", "4K randread, zlib base", "randread-qd32", "zlib", ("nbd",), {"nbd": 2}),
    Row("zstd", "4K randread, zstd base", "randread-qd32", "zstd", ("nbd",), {"nbd": 2}),
    Row("mixed", "4K 70/30, QD32", "mixed", "full", ("loop", "raw", "nbd"), {}),
    Row("randread-16k", "16K randread, QD32", "randread-16k", "full",
        ("loop", "raw", "nbd"), {}),
    Row("randread-qd128", "4K randread, QD128", "randread-qd128", "full",
        ("loop", "raw", "nbd"), {}),
    Row("randwrite-16k", "16K randwrite, QD32", "randwrite-16k", "full",
        ("loop", "raw", "nbd"), {}),
    Row("randwrite-qd128", "4K randwrite, QD128", "randwrite-qd128", "full",
        ("loop", "raw", "nbd"), {}),
    Row("randread-lists", "4K randread, QD32, 16 at a time", "randread-lists", "full",
        ("loop", "raw", "nbd"), {}),
    Row("randwrite-lists", "4K randwrite, QD32, 16 at a time", "randwrite-lists", "full",
        ("loop", "raw", "nbd"), {}),
    Row("files", "ext4, many small files", FILES, "full", ("loop", "nbd"), {}),
    Row("files-empty", "ext4, many small files, empty image", FILES, "empty",
        ("loop", "nbd"), {}),
    Row("database", "database: 16K 70/30, QD8", "database", "full",
        ("loop", "raw", "nbd"), {}),
    Row("database-empty", "database, empty image: 16K 70/30, QD8", "database", "empty",
        ("loop", "raw", "nbd"), {}),
)


class PartRow(NamedTuple):
    """Another number of the runs of a row."""
    name: str
    title: str
    row: str
    targets: dict


# What the database's log did meanwhile.
LOG_ROWS = (
    PartRow("database-log", "database: 8K log, each write synced", "database", {}),
    PartRow("database-empty-log", "database, empty image: 8K log, each write synced",
            "database-empty", {}),
)


# CPU time per I/O; the targets are upper limits.
CPU_ROWS = (
    PartRow("cpu-randread", "CPU time per 4K randread, QD32", "randread-qd32",
            {"loop": 0.8, "nbd": 0.25}),
    PartRow("cpu-randwrite", "CPU time per 4K randwrite, QD32", "randwrite-qd32",
            {"loop": 0.8, "nbd": 0.25}),
)

# Not a ratio: metadata reads are counted, see misses.py.
MISSES = "misses"
MISSES_TITLE = "4K randread, cache of 1/8 of the tables"
# The same row's other half: who does not miss does not wait for those who do.
WAITING = "waiting"
WAITING_TITLE = "a hit beside misses, disk of 100 ms"


class SlowDisk(NamedTuple):
    """kind: "delay" delays flushes only, by `ms`; "null" ends each request that late."""
    name: str
    title: str
    kind: str
    ms: float


class SlowLoad(NamedTuple):
    """jobs: how many processes write, all together `rate` times a second, or as fast as can
    be; speed: the ratio to loop that is to be reached."""
    name: str
    title: str
    job: str
    state: str
    jobs: int
    rate: int = 0
    speed: float = 1.0


class SlowRow(NamedTuple):
    disk: SlowDisk
    load: SlowLoad

    devices = (DRIVER, "loop")

    @property
    def name(self):
        return f"{self.disk.name}-{self.load.name}"

    @property
    def title(self):
        return f"{self.disk.title}: {self.load.title}"


SLOW_DISKS = (
    SlowDisk("flush5", "flush 5 ms", "delay", 5),
    SlowDisk("flush20", "flush 20 ms", "delay", 20),
    SlowDisk("null20", "all 20 us", "null", 0.02),
    SlowDisk("null100", "all 100 us", "null", 0.1),
)

# In empty images of 64 GiB, but after a snapshot: there all clusters are allocated. 128
# tables touched as fast as can be would be over before the first flush.
STEADY = SlowLoad("2000", "4K randwrite, 2000/s", "slow-random", "empty", 2, 2000)
TOUCH = SlowLoad("touch", "each L2 table once, 500/s", "slow-touch", "empty", 2, 500)
SLOW_LOADS = (
    STEADY,
    SlowLoad("8000", "4K randwrite, 8000/s", "slow-random", "empty", 2, 8000),
    SlowLoad("max", "4K randwrite", "slow-random", "empty", 2),
    TOUCH,
    SlowLoad("snapshot", "4K after a snapshot, 2000/s", "slow-random", "snapshot", 2, 2000),
    SlowLoad("write", "128K write", "slow-sequential", "empty", 1, speed=0.95),
    SlowLoad("max-4", "4K randwrite, 4 jobs", "slow-random", "empty", 4),
    SlowLoad("touch-4", "each L2 table once, 500/s, 4 jobs", "slow-touch", "empty", 4, 500),
    SlowLoad("snapshot-4", "4K after a snapshot, 2000/s, 4 jobs", "slow-random", "snapshot",
             4, 2000),
    SlowLoad("write-4", "128K write, 4 jobs", "slow-sequential", "empty", 4, speed=0.95),
)

SLOW_ROWS = tuple(SlowRow(disk, load) for disk in SLOW_DISKS for load in SLOW_LOADS)


class SlowMeasure(NamedTuple):
    """A number of a run in a row on a slow disk, and what is allowed: so many times what it
    is with loop, or as long as so many flushes of the file take, if that is more."""
    title: str
    key: str
    digits: int
    times: float
    flushes: int = 0


# Beside speed, which has its target from the load.
SLOW_MEASURES = (
    SlowMeasure("median flush, ms", "flush_ms", 1, 2.5),
    SlowMeasure("worst flush, ms", "flush_worst_ms", 1, 3, 8),
    SlowMeasure("worst write, ms", "write_worst_ms", 1, 3, 6),
)


class Count(NamedTuple):
    """Flushes of the file that one flush of the guest costs, counted on the disk beneath:
    the median, with writers running, and the limit."""
    key: str
    title: str
    load: SlowLoad
    limit: int


COUNTS = "counts"
# In this order, on one image.
FLUSH_COUNTS = (
    Count("new", "flushes for one, new L2 tables", TOUCH._replace(rate=100), 3),
    Count("old", "flushes for one, old L2 tables", STEADY, 2),
)
COUNT_ROWS = {f"{disk.name}-count": disk for disk in SLOW_DISKS if disk.kind == "delay"}

RAM_NAMES = tuple(row.name for row in ROWS) + (MISSES,)
SLOW_NAMES = tuple(row.name for row in SLOW_ROWS) + tuple(COUNT_ROWS)
NAMES = RAM_NAMES + SLOW_NAMES
TITLES = {row.name: row.title for row in ROWS + SLOW_ROWS} | {MISSES: MISSES_TITLE} | {
    name: f"{disk.title}: flushes of the file for one flush" for name, disk in COUNT_ROWS.items()}

# Names for many rows.
GROUPS = {"ram": RAM_NAMES, "slow": SLOW_NAMES} | {
    disk.name: tuple(name for name in SLOW_NAMES if name.startswith(f"{disk.name}-"))
    for disk in SLOW_DISKS}


def by_name(name):
    return next(row for row in ROWS if row.name == name)
