#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --mem 2G --timeout 600
"""The benchmark's runner: every workload once on the driver, for a fraction of a second,
every other device in each state, each load on a disk that takes time, and each load and variant of scripts/bench --tuning,
with results that are whole and images that stay sound. No timing decides."""

import sys

sys.dont_write_bytecode = True
from e2e import *

sys.path.insert(0, os.path.join(TOP, "userspace-tests", "bench"))
import report
import rows
import tuning
import tuning_report
from runner import Runner
from tuner import Tuner

SECONDS = 0.1
SIZE = 32 * MIB
# What the cache cannot be capped below, times 8, in L2 tables for clusters of 64 KiB.
MAPPED = 16 * GIB
NUMBERS = {"ios", "seconds", "iops", "round"}
FIO = {"bytes", "latency_us", "latency_p50_us", "latency_p99_us"}
SLOW = {"flush_ms", "flush_worst_ms", "flushes", "file_flush_ms", "write_worst_ms"}


def numbers_of(job):
    if job == rows.FILES:
        return NUMBERS | {"cpu_us"}
    if job == "database":
        return NUMBERS | FIO | {"log_iops"}
    return NUMBERS | FIO | (set() if job in ("randread-jobs", "fsync") else {"cpu_us"})


def expect_sane(result, job):
    expect_equal(set(result), numbers_of(job), "names of the numbers")
    expect_plausible(result)


def expect_plausible(result):
    expect(result["ios"] > 0 and result["iops"] > 0, f"I/O was done: {result}")
    expect(0 < result["seconds"] < 60, f"it took a while: {result}")
    expect(all(value >= 0 for value in result.values()), f"no number is negative: {result}")
    # Both are rounded: seconds to thousandths.
    expect(0.5 < result["ios"] / result["seconds"] / result["iops"] < 2,
           f"the numbers fit: {result}")


def expect_allocated(row, device):
    """A fresh image, which was checked after the run, is there until the next run."""
    fresh = os.path.join("/mnt/bench", "fresh.qcow2")
    if device == rows.DRIVER and row.state in ("empty", "overlay", "overlay-extended"):
        found = run("qemu-img", "map", "--output=json", fresh).stdout
        expect(any(extent["depth"] == 0 and extent["data"] for extent in json.loads(found)),
               "the image has nothing that was written")


def first_rows():
    """Each other device with the first row that has it in a state, and with each job that
    is none of fio's or has several parts."""
    seen = set()
    for row in rows.ROWS:
        for device in row.peers:
            kind = (device, row.job if row.job in (rows.FILES, "database") else None,
                    row.state if device in ("thin", "snapshot") else None)
            if kind not in seen:
                seen.add(kind)
                yield row, device


def slow_rows():
    """Each load, each disk, and of both kinds of disk a row for the driver and loop."""
    few = [rows.SlowRow(rows.SLOW_DISKS[number % len(rows.SLOW_DISKS)], load)
           for number, load in enumerate(rows.SLOW_LOADS)]
    beside = [next(row for row in few if row.disk.kind == kind and row.load.state == state)
              for kind, state in (("delay", "empty"), ("null", "empty"), ("delay", "snapshot"))]
    return [(row, rows.DRIVER) for row in few] + [(row, "loop") for row in beside]


def expect_slow(result, row):
    """The disk took its time, and each number is there."""
    expect_equal(set(result), NUMBERS | FIO | SLOW, "names of the numbers")
    expect_plausible(result)
    # A kernel's clock may end it before its time.
    expect(result["file_flush_ms"] >= row.disk.ms / 2, f"a flush takes time: {result}")
    expect(result["flush_worst_ms"] >= result["flush_ms"] > 0, f"flushes took time: {result}")
    expect(result["write_worst_ms"] * 1000 >= result["latency_us"] > 0,
           f"writes took time: {result}")


def marks_of(speed, flush_worst, flush):
    """The verdicts on a row on a slow disk, beside loop with 2000 a second, flushes of 10 ms,
    20 at worst, writes of 20 ms, on a file whose flush takes `flush`."""
    row = rows.SLOW_ROWS[0]
    other = {"iops": 2000, "flush_ms": 10, "flush_worst_ms": 20, "write_worst_ms": 20,
             "file_flush_ms": flush}
    driver = other | {"iops": speed, "flush_worst_ms": flush_worst}
    runs = {device: [run | {"round": number} for number in range(report.ROUNDS)]
            for device, run in zip(row.devices, (driver, other))}
    return [line.verdict for line in report.slow_lines(
        {"rounds": report.ROUNDS, "rows": {row.name: runs}}, row)]


def expect_counts(result):
    """A flush that has something to do costs at least one of the file."""
    for count in rows.FLUSH_COUNTS:
        expect(1 <= result[count.key] <= result[f"{count.key}_worst"], f"{count.key}: {result}")


def was_measured(line):
    """By what was run here."""
    if line.name in rows.COUNT_ROWS:
        return line.name in runner.counts
    source = {row.name: row.row for row in rows.CPU_ROWS + rows.LOG_ROWS}
    return (line.name in (rows.MISSES, rows.WAITING) or
            line.peer in runner.results.get(source.get(line.name, line.name), {}))


def few_variants(topic):
    """Each load with its first variant, and each variant with the first load."""
    first, *others = tuning.runs_of(topic)
    return first + [runs[0] for runs in others]


def expect_tuned(result, load, variant):
    """The option had an effect, or there is nothing that would tell."""
    expect_equal(set(result) - numbers_of(load.job) - {"file_bytes"}, {"table_reads"},
                 "what is told beside the numbers of each row")
    if load.state == "mapped":
        limit = int(variant.attach[-1].removeprefix("--cache-size="))
        expect_equal(result["table_reads"] == 0, limit >= MAPPED // (64 * KIB) * 8,
                     f"all is in a cache of {limit} bytes: {result}")
    if load.state in ("empty", "overlay"):
        expect(result["file_bytes"] >= result["bytes"] / 2, f"space was taken: {result}")


runner = Runner(SIZE, MAPPED, SECONDS, SECONDS)
tuner = Tuner(SIZE, MAPPED, SECONDS, SECONDS)
with runner.stage.set_up(24 * SIZE):
    with case("the files"):
        runner.prepare(rows.NAMES)
    for row_, device_ in [(row, rows.DRIVER) for row in rows.ROWS] + list(first_rows()):
        with case(f"{row_.title}, {device_}"):
            expect_sane(runner.measure(row_, device_, 1), row_.job)
            expect_allocated(row_, device_)
    for row_, device_ in slow_rows():
        with case(f"{row_.title}, {device_}"):
            expect_slow(runner.measure_slow(row_, device_, 1), row_)
    with case("flushes of the file, counted"):
        expect_counts(runner.count_flushes(next(iter(rows.COUNT_ROWS)), 1))
    with case("metadata reads of a cache that is too small"):
        result_ = runner.count(1)
        expect(result_["misses"] > 0, "no miss at all")
        expect_equal(result_["metadata_reads"], result_["misses"], "metadata reads")
        expect_equal(result_["metadata_bytes"], 4096 * result_["misses"], "their bytes")
        expect(result_["hot_us"] > 0 and result_["cold_us"] > result_["delay_us"],
               f"reads of a slow disk take their time: {result_}")
    for topic_ in tuning.TOPICS:
        for load_, variant_ in few_variants(topic_):
            with case(f"tuning, {topic_.name}: {load_.title}, {variant_.title}"):
                result_ = tuner.measure_variant(topic_, load_, variant_, 1)
                expect_tuned(result_, load_, variant_)
                expect_sane({name: value for name, value in result_.items()
                             if name in numbers_of(load_.job)}, load_.job)
    with case("the full image still is full, as ext4 was made on it without zeroing"):
        found = run("qemu-img", "map", "--output=json", "/mnt/bench/full.qcow2").stdout
        expect(all(extent["data"] and not extent["zero"] for extent in json.loads(found)),
               "clusters read as zeroes")
    with case("the images at the end"):
        runner.stage.check_all()
with case("no verdict from one round, none on what was not measured"):
    lines = report.lines_of({"rounds": 1, "asked": rows.NAMES, "rows": runner.results,
                             "misses": runner.misses, "counts": runner.counts})
    marks = {line.verdict for line in lines if line.name != rows.MISSES}
    expect(marks <= {"", report.WOULD_PASS, report.WOULD_MISS, report.NOT_MEASURED},
           f"verdicts: {marks}")
    for kind, ratio, wanted in ((report.SPEED, 0.9, report.WOULD_PASS),
                                (report.SPEED, 0.7, report.WOULD_MISS),
                                (report.CPU, 0.9, report.WOULD_MISS),
                                (report.CPU, 0.7, report.WOULD_PASS)):
        expect_equal(report.verdict(ratio, 0.8, kind, 1), wanted, f"{ratio} of 0.8")
    for line_ in lines:
        expect_equal(line_.verdict != report.NOT_MEASURED, was_measured(line_),
                     f"{line_.title} was measured")
with case("verdicts on disks that take time: speed to two digits, more if a flush takes longer"):
    for speed_, worst_, flush_, wanted in ((1994, 60, 5, "pass pass pass pass"),
                                           (1980, 62, 5, "FAIL pass FAIL pass"),
                                           (2000, 119, 15, "pass pass pass pass"),
                                           (2000, 123, 15, "pass pass FAIL pass")):
        expect_equal(" ".join(marks_of(speed_, worst_, flush_)), wanted,
                     f"{speed_}/s, worst flush {worst_} ms, of the file {flush_} ms")
with case("the tables of the tuning, which say what was not measured"):
    for topic_ in tuning.TOPICS:
        ran = {(load.title, variant.title) for load, variant in few_variants(topic_)}
        for cells in tuning_report.table({"rounds": 1, **tuner.results_found()}, topic_)[1:]:
            expect_equal("of 1 rounds" not in cells[2], cells[:2] in ran, f"{cells}")
finish()
