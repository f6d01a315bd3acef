#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --mem 2G
"""The benchmark's runner: every workload once on the driver, for a fraction of a second,
and every other device once, with results that are whole and images that stay sound.
No timing decides."""

import sys

sys.dont_write_bytecode = True
from e2e import *

sys.path.insert(0, os.path.join(TOP, "userspace-tests", "bench"))
import report
import rows
from runner import Runner

SECONDS = 0.1
SIZE = 32 * MIB
# What the cache cannot be capped below, times 8, in L2 tables for clusters of 64 KiB.
MAPPED = 16 * GIB
NUMBERS = {"ios", "seconds", "iops", "latency_us", "latency_p50_us", "latency_p99_us"}


def expect_sane(result, row):
    wanted = NUMBERS | {"round"} | (set() if row.name in ("randread-jobs", "fsync")
                                    else {"cpu_us"})
    expect_equal(set(result), wanted, "names of the numbers")
    expect(result["ios"] > 0 and result["iops"] > 0, f"I/O was done: {result}")
    expect(0 < result["seconds"] < 60, f"it took a while: {result}")
    expect(all(value >= 0 for value in result.values()), f"no number is negative: {result}")
    # Both are rounded: seconds to thousandths.
    expect(0.5 < result["ios"] / result["seconds"] / result["iops"] < 2,
           f"the numbers fit: {result}")


def expect_allocated(row, device):
    """A fresh image, which was checked after the run, is there until the next run."""
    fresh = os.path.join("/mnt/bench", "fresh.qcow2")
    if device == rows.DRIVER and row.job in ("write-empty", "randwrite-empty",
                                             "randwrite-overlay"):
        found = run("qemu-img", "map", "--output=json", fresh).stdout
        expect(any(extent["depth"] == 0 and extent["data"] for extent in json.loads(found)),
               "the image has nothing that was written")


def first_rows():
    """Each other device with the first row that has it."""
    seen = set()
    for row in rows.ROWS:
        for device in row.peers:
            if device not in seen:
                seen.add(device)
                yield row, device


runner = Runner(SIZE, MAPPED, SECONDS)
with runner.stage.set_up(24 * SIZE):
    with case("the files"):
        runner.stage.prepare({row.state for row in rows.ROWS})
    for row_, device_ in [(row, rows.DRIVER) for row in rows.ROWS] + list(first_rows()):
        with case(f"{row_.title}, {device_}"):
            expect_sane(runner.measure(row_, device_, 1), row_)
            expect_allocated(row_, device_)
    with case("metadata reads of a cache that is too small"):
        result_ = runner.count(1)
        expect(result_["misses"] > 0, "no miss at all")
        expect_equal(result_["metadata_reads"], result_["misses"], "metadata reads")
        expect_equal(result_["metadata_bytes"], 4096 * result_["misses"], "their bytes")
        expect(result_["hot_us"] > 0 and result_["cold_us"] > result_["delay_us"],
               f"reads of a slow disk take their time: {result_}")
    with case("the images at the end"):
        runner.stage.check_all()
with case("no verdict from one round, none on what was not measured"):
    lines = report.lines_of({"rounds": 1, "rows": runner.results, "misses": runner.misses})
    marks = {line.verdict for line in lines if line.name != rows.MISSES}
    expect(marks <= {"", "above", "below", report.NOT_MEASURED}, f"verdicts: {marks}")
    source = {row.name: row.row for row in rows.CPU_ROWS}
    for line_ in lines:
        runs = runner.results.get(source.get(line_.name, line_.name), {})
        expect_equal(line_.verdict != report.NOT_MEASURED,
                     line_.name in (rows.MISSES, rows.WAITING) or line_.peer in runs, f"{line_.title} was measured")
finish()
