# SPDX-License-Identifier: GPL-2.0-only
"""What scripts/bench --tuning measures: the driver beside itself, with other options.

A topic has variants, which are compared, and loads, which run on each of them. The first
variant is what the others are related to. A load runs a fio job (jobs/JOB.fio) on a state
of the disk (see stage.py); "mapped" is a disk of MAPPED_SIZE whose clusters are all
mapped, and read as zeroes.
"""

from typing import NamedTuple

GIB = 1 << 30
MAPPED_SIZE = 256 * GIB
# Of its L2 tables, for clusters of 64 KiB.
MAPPED_TABLES = MAPPED_SIZE // 65536 * 8
DIRECT = "--direct-io"


class Variant(NamedTuple):
    """create: options of qemu-img; attach: of qcowctl; depth: of a job that asks for it."""
    title: str
    create: dict = {}
    attach: tuple = (DIRECT,)
    depth: int = 32


class Load(NamedTuple):
    """create: options for all variants but `without`; warm: read everything before."""
    title: str
    job: str
    state: str
    create: dict = {}
    without: tuple = ()
    warm: bool = False


class Extra(NamedTuple):
    """A column more: a number of a run, or None."""
    heading: str
    number: object
    digits: int


class Topic(NamedTuple):
    name: str
    variants: tuple
    loads: tuple
    extra: Extra | None = None


def table_reads(run):
    return run["table_reads"] / run["ios"]


def space(run):
    """Room that the image's file takes, for what was written to an empty disk."""
    return run.get("file_bytes") and run["file_bytes"] / run["bytes"]


LATENCY = Extra("99 % within, us", lambda run: run.get("latency_p99_us"), 0)
CPU = Extra("CPU time, us", lambda run: run.get("cpu_us"), 0)
SPACE = Extra("space for a byte", space, 1)
TABLE_READS = Extra("table reads for a read", table_reads, 2)


def cache(part):
    return (DIRECT, f"--cache-size={MAPPED_TABLES // part}")


TOPICS = (
    Topic("cache",
          (Variant("all tables", attach=cache(1)), Variant("1/2", attach=cache(2)),
           Variant("1/8", attach=cache(8)), Variant("1/64", attach=cache(64))),
          (Load("4K randread, QD32", "misses", "mapped"),),
          TABLE_READS),
    Topic("depth",
          tuple(Variant(str(depth), depth=depth) for depth in (1, 4, 16, 32, 128)),
          (Load("4K randread", "depth-read", "full"), Load("4K randwrite", "depth-write", "full")),
          LATENCY),
    Topic("clusters",
          tuple(Variant(size, create={"cluster_size": size})
                for size in ("64K", "4K", "16K", "256K", "2M")),
          (Load("4K randwrite, empty image", "randwrite-empty", "empty"),
           Load("4K randwrite, empty overlay", "randwrite-overlay", "overlay"),
           Load("4K randwrite, empty overlay, extended L2", "randwrite-overlay", "overlay",
                create={"extended_l2": "on"}, without=("4K",)),
           Load("128K write, empty image", "write-empty", "empty")),
          SPACE),
    Topic("direct",
          (Variant("direct"), Variant("buffered", attach=())),
          (Load("4K randread, read before", "randread-qd32", "full", warm=True),
           Load("128K read, read before", "read", "full", warm=True),
           Load("4K randwrite", "randwrite-qd32", "full"),
           Load("128K write", "write", "full"),
           Load("4K randwrite, fsync=1, 4 jobs", "fsync", "full")),
          CPU),
    Topic("lazy",
          (Variant("off"), Variant("on", create={"lazy_refcounts": "on"})),
          (Load("4K randwrite, fsync=1, 4 jobs", "fsync", "empty"),
           Load("4K randwrite, fsync=1", "fsync-one", "empty"))),
    Topic("preallocation",
          tuple(Variant(how, create={"preallocation": how})
                for how in ("off", "metadata", "falloc", "full")),
          (Load("4K randwrite", "randwrite-overlay", "fresh"),
           Load("128K write", "write-once", "fresh"),
           Load("4K randwrite, fsync=1, 4 jobs", "fsync", "fresh"))),
)

NAMES = tuple(topic.name for topic in TOPICS)


def runs_of(topic):
    """What is measured, load by load, so that variants follow each other."""
    return [[(load, variant) for variant in topic.variants if variant.title not in load.without]
            for load in topic.loads]
