#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Make of what the runner measured the table, as text and as reStructuredText, and
the plots. Disks that take time have a second table as reStructuredText.

A ratio is taken in each round, of two runs that were made shortly after each other;
what counts is the median over the rounds. A target is only called reached ("pass")
or not ("FAIL") when there were 5 rounds; from fewer, "would pass" or "would miss" says
where the median lies. What is counted, and not timed, is the same in each round: one is
enough. What was not measured in every round has no verdict at all.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import NamedTuple

import rows

ROUNDS = 5
NOT_MEASURED = "not measured"
WOULD_PASS, WOULD_MISS = "would pass", "would miss"


class Line(NamedTuple):
    """The driver beside one device in one row; text, and the numbers that
    the plot takes."""
    name: str
    title: str
    peer: str
    driver: str
    other: str
    ratio: str
    target: str
    verdict: str
    ratios: tuple = ()
    goal: float | None = None
    upper_limit: bool = False


HEADINGS = ("workload", "beside", "qcow2 (min-max)", "other (min-max)",
            "ratio (min-max)", "target", "")


def spread(values, digits):
    """The median, with the least and the most when there are several."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return (f"{statistics.median(values):.{digits}f} "
            f"({min(values):.{digits}f}-{max(values):.{digits}f})")


def verdict(value, limit, kind, rounds):
    reached = value <= limit if kind.upper_limit else value >= limit
    if rounds < ROUNDS:
        return WOULD_PASS if reached else WOULD_MISS
    return "pass" if reached else "FAIL"


def by_round(found, row, device, number):
    """Round -> the number, of the runs that went well."""
    return {run["round"]: number(run) for run in found["rows"].get(row, {}).get(device, [])
            if run.get("iops", 0) > 0}


class Kind(NamedTuple):
    """What a row compares: how it is taken from a run, and shown."""
    number: object
    unit: str
    digits: int
    upper_limit: bool


SPEED = Kind(lambda run: run["iops"] / 1000, "k/s", 2, False)
LOG = Kind(lambda run: run["log_iops"] / 1000, "k/s", 2, False)
CPU = Kind(lambda run: run["cpu_us"], "us", 1, True)
WAITING = Kind(lambda run: run["hot_us"] / 1000, "ms", 1, True)


def compare(found, kind, row, source, peer):
    """The line of a row's driver and one other device."""
    limit = row.targets.get(peer)
    sign = "<=" if kind.upper_limit else ">="
    target = "" if limit is None else f"{sign} {limit:g}"
    title = f"{row.title}, {kind.unit}"
    driver = by_round(found, source, rows.DRIVER, kind.number)
    other = by_round(found, source, peer, kind.number)
    rounds = sorted(set(driver) & set(other))
    if not rounds or len(rounds) < found["rounds"]:
        return Line(row.name, title, peer, "", "", f"{len(rounds)} of {found['rounds']} rounds",
                    target, NOT_MEASURED)
    ratios = [driver[n] / other[n] for n in rounds]
    mark = "" if limit is None else verdict(statistics.median(ratios), limit, kind, len(rounds))
    return Line(row.name, title, peer, spread([driver[n] for n in rounds], kind.digits),
                spread([other[n] for n in rounds], kind.digits), spread(ratios, 2), target,
                mark, tuple(ratios), limit, kind.upper_limit)


def misses_line(found):
    """The row that counts: exact, so it needs no rounds."""
    runs = found[rows.MISSES]
    if not runs or len(runs) < found["rounds"]:
        return Line(rows.MISSES, rows.MISSES_TITLE, "", "", "",
                    f"{len(runs)} of {found['rounds']} rounds", MISSES_TARGET, NOT_MEASURED)
    misses, reads, size = (sum(run[name] for run in runs) for name in (
        "misses", "metadata_reads", "metadata_bytes"))
    speed = spread([run["iops"] / 1000 for run in runs], 2)
    return Line(rows.MISSES, f"{rows.MISSES_TITLE}, k/s", "", speed, "",
                f"{reads} of {size / max(reads, 1):g} bytes for {misses} misses",
                MISSES_TARGET, "pass" if all(map(misses_as_wanted, runs)) else "FAIL")


MISSES_TARGET = "1 read, <= 4096 bytes"


def misses_as_wanted(run):
    """With an eighth cached 7 of 8 requests miss; far fewer, and nothing was shown."""
    return (run["metadata_reads"] == run["misses"] and
            run["metadata_bytes"] <= 4096 * run["misses"] and
            run["cache_used"] <= run["cache_bytes"] and
            run["misses"] > run["requests"] * 3 / 4)


def waiting_line(found):
    """Requests that hit, beside others that miss, on a slow disk."""
    runs = [run for run in found[rows.MISSES] if run["cold_us"] > 1.8 * run["delay_us"]]
    target = "<= 1.4"
    if not runs or len(runs) < found["rounds"]:
        return Line(rows.WAITING, rows.WAITING_TITLE, "", "", "",
                    f"{len(runs)} of {found['rounds']} rounds", target, NOT_MEASURED)
    ratios = [run["hot_us"] / run["delay_us"] for run in runs]
    mark = verdict(statistics.median(ratios), 1.4, WAITING, len(runs))
    return Line(rows.WAITING, f"{rows.WAITING_TITLE}, ms", "a read of it",
                spread(list(map(WAITING.number, runs)), WAITING.digits),
                spread([run["delay_us"] / 1000 for run in runs], 0), spread(ratios, 2), target,
                mark)


# ---------------------------------------------------------------------------
# Disks that take time.


def allowed(measure, there):
    """What a run with loop allows the driver in the same round."""
    return max(measure.times * there[measure.key],
               measure.flushes * there.get("file_flush_ms", 0))


def slow_target(measure, kind):
    sign = "<=" if kind.upper_limit else ">="
    flushes = f", or {measure.flushes} flushes" if measure.flushes else ""
    return f"{sign} {measure.times:g}{flushes}"


def slow_line(found, row, measure, kind):
    """One number of a row. What is compared with the target is the part of what is allowed,
    to two digits: a speed that was asked for is never reached to the last write."""
    here, there = (by_round(found, row.name, device, lambda run: run)
                   for device in row.devices)
    rounds = sorted(set(here) & set(there))
    line = Line(row.name, f"{row.title}: {measure.title}", row.devices[1], "", "",
                f"{len(rounds)} of {found['rounds']} rounds", slow_target(measure, kind),
                NOT_MEASURED, upper_limit=kind.upper_limit)
    if not rounds or len(rounds) < found["rounds"]:
        return line
    values = [[kind.number(runs[n][measure.key]) for n in rounds] for runs in (here, there)]
    ratios = [one / other for one, other in zip(*values)]
    parts = [here[n][measure.key] / allowed(measure, there[n]) for n in rounds]
    return line._replace(
        driver=spread(values[0], measure.digits), other=spread(values[1], measure.digits),
        ratio=spread(ratios, 2), ratios=tuple(ratios),
        verdict=verdict(round(statistics.median(parts), 2), 1, kind, len(rounds)))


SLOW_SPEED = Kind(lambda iops: iops / 1000, "k/s", 2, False)
SLOW_TIME = Kind(lambda ms: ms, "ms", 1, True)


def slow_lines(found, row):
    """All of a row."""
    speed = rows.SlowMeasure(SLOW_SPEED.unit, "iops", SLOW_SPEED.digits, row.load.speed)
    return [slow_line(found, row, speed, SLOW_SPEED)] + [
        slow_line(found, row, measure, SLOW_TIME) for measure in rows.SLOW_MEASURES]


def count_line(found, name, count):
    """What was counted on a disk: the median of the rounds' medians, and the worst of all."""
    runs = found[rows.COUNTS].get(name, [])
    line = Line(name, f"{rows.COUNT_ROWS[name].title}: {count.title}", "", "", "",
                f"{len(runs)} of {found['rounds']} rounds", f"<= {count.limit}", NOT_MEASURED,
                upper_limit=True)
    if not runs or len(runs) < found["rounds"]:
        return line
    values = [run[count.key] for run in runs]
    return line._replace(
        driver=spread(values, 1), ratio=f"at most {max(run[count.key + '_worst'] for run in runs)}",
        verdict=verdict(statistics.median(values), count.limit, SLOW_TIME, len(runs)))


def all_slow_lines(found):
    asked = found["asked"]
    return [line for row in rows.SLOW_ROWS if row.name in asked
            for line in slow_lines(found, row)] + [
                count_line(found, name, count) for name in rows.COUNT_ROWS if name in asked
                for count in rows.FLUSH_COUNTS]


# ---------------------------------------------------------------------------


def lines_of(found):
    """All of the rows that were asked for, measured or not."""
    asked = found["asked"]
    lines = [compare(found, SPEED, row, row.name, peer)
             for row in rows.ROWS if row.name in asked for peer in row.peers]
    lines += [compare(found, LOG, row, row.row, peer)
              for row in rows.LOG_ROWS if row.row in asked
              for peer in rows.by_name(row.row).peers]
    lines += [compare(found, CPU, row, row.row, peer)
              for row in rows.CPU_ROWS if row.row in asked for peer in row.targets]
    lines += [misses_line(found), waiting_line(found)] if rows.MISSES in asked else []
    return lines + all_slow_lines(found)


def is_slow(line):
    return line.name in rows.SLOW_NAMES


def cells(line):
    return (line.title, line.peer, line.driver, line.other, line.ratio, line.target,
            line.verdict)


def kernel_line(found):
    guest = found["guest"]
    return (f"{'Debian' if found.get('emulated') else 'User-Mode'} {guest['kernel']}, "
            f"{guest['guest_cpus']} CPUs, {guest['guest_memory'] / (1 << 30):.1f} GiB")


# Of figures from QEMU.
EMULATED = ("QEMU emulates the CPUs in software: speeds are those of no machine; ratios to "
            "qemu-nbd are not flattered by costly system calls, as in User-Mode Linux")


def origin(found):
    """How the figures came about, in lines."""
    host, guest = found["host"], found["guest"]
    changed = ", changed" if found["changed"] else ""
    rounds = "1 round" if found["rounds"] == 1 else f"{found['rounds']} rounds"
    slow = set(found["asked"]) & set(rows.SLOW_NAMES)
    longer = f" ({found['slow_seconds']:g} s on disks that take time)" if slow else ""
    return [
        f"{found['date']}, commit {found['commit']}{changed}",
        f"{host['cpu']}, {host['cpus']} CPUs, {host['memory'] >> 30} GiB, load "
        f"{host['load_before']:.1f} before and {host['load_after']:.1f} after, "
        f"{'kept awake' if found['awake'] else 'CPUs that may sleep'}",
        kernel_line(found),
        f"{guest['fio']}, {guest['qemu']}",
        f"{rounds} of {found['seconds']:g} s for each run{longer}, disks of "
        f"{found['size'] >> 20} MiB, {found['duration']} s in all",
        *([EMULATED] if found.get("emulated") else []),
    ]


def summary(found, lines):
    wanted = [line for line in lines if line.target]
    count = {mark: sum(line.verdict == mark for line in wanted)
             for mark in ("pass", "FAIL", NOT_MEASURED)}
    targets = "1 target" if len(wanted) == 1 else f"{len(wanted)} targets"
    text = (f"{targets}: {count['pass']} pass, {count['FAIL']} FAIL, "
            f"{count[NOT_MEASURED]} not measured")
    would = {mark: sum(line.verdict == mark for line in wanted)
             for mark in (WOULD_PASS, WOULD_MISS)}
    open_ones = sum(would.values())
    if open_ones:
        text += (f", {open_ones} without a verdict, as that takes {ROUNDS} rounds: "
                 f"{would[WOULD_PASS]} {WOULD_PASS}, {would[WOULD_MISS]} {WOULD_MISS}")
    failures = found["failures"]
    return text + (f"; {failures} run{'s' if failures > 1 else ''} failed" if failures else "")


def text_table_of(table):
    """Rows of cells, the first one the headings."""
    widths = [max(map(len, column)) for column in zip(*table)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
                     for row in table) + "\n"


def rst_table(found, lines):
    """A list-table; the lines without anything measured are left out."""
    out = [".. SPDX-License-Identifier: GPL-2.0-only", "..",
           "   Written by userspace-tests/bench/report.py: run scripts/bench --document", ""]
    out += [f"* {line}" for line in origin(found)] + ["", summary(found, lines) + ".", "",
            ".. list-table::", "   :header-rows: 1", ""]
    for row in [HEADINGS, *(cells(line) for line in lines if line.verdict != NOT_MEASURED)]:
        out += [f"   {'*' if not i else ' '} - {cell}".rstrip() for i, cell in enumerate(row)]
    return "\n".join(out) + "\n"


# ---------------------------------------------------------------------------
# Plots: ratios to loop, to the raw file and to qemu-nbd, with the targets.

PLOTS = {"loop": "loop, direct I/O", "raw": "the raw file", "nbd": "qemu-nbd"}

PLOT_SCRIPT = """
set terminal {terminal} size {width},{height}
set output '{output}'
set label "qcow2 in relation to {title} ({rounds} x {seconds:g} s, {commit})" \\
    at screen 0.5,graph 1 center offset 0,1 noenhanced
set tmargin 3
set style fill solid 0.8
set yrange [-0.6:{top}]
set xrange [0:*]
set ytics ({tics}) noenhanced
set grid xtics
set bmargin 4
set key at screen 0.98,0.02 right bottom horizontal
set arrow from 1,graph 0 to 1,graph 1 nohead lw 1.5 dt 2
$data << EOD
{data}
EOD
plot $data using ($2/2):1:($2/2):(0.35) with boxxyerror lc rgb '#4477aa' title 'median', \\
     $data using 2:1:3:4 with xerrorbars pt 0 lw 1.5 lc rgb '#222222' title 'least and most', \\
     $data using 5:1 with points pt 9 ps 1.4 lc rgb '#cc3311' title 'target'
"""


def plot(found, lines, peer, directory):
    """One picture for each device that the driver is compared with."""
    chosen = [line for line in reversed(lines)
              if line.peer == peer and line.ratios and not line.upper_limit and
              not is_slow(line)]
    if not chosen:
        return []
    data, tics = [], []
    for place, line in enumerate(chosen):
        goal = "NaN" if line.goal is None else line.goal
        data.append(f"{place} {statistics.median(line.ratios)} {min(line.ratios)} "
                    f"{max(line.ratios)} {goal}")
        tics.append(f'"{line.title.removesuffix(", k/s")}" {place}')
    paths = []
    for terminal, ending in (("svg noenhanced", "svg"), ("pngcairo noenhanced", "png")):
        paths.append(os.path.join(directory, f"{peer}.{ending}"))
        script = PLOT_SCRIPT.format(
            terminal=terminal, width=900, height=120 + 32 * len(chosen), output=paths[-1],
            title=PLOTS[peer], rounds=found["rounds"], seconds=found["seconds"],
            commit=found["commit"][:8], top=len(chosen) - 0.4, tics=", ".join(tics),
            data="\n".join(data))
        subprocess.run(["gnuplot"], input=script, text=True, check=True)
    return paths


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def parse_arguments():
    parser = argparse.ArgumentParser(prog="report.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="JSON, as scripts/bench leaves it")
    parser.add_argument("directory", help="where table.txt, table.rst, slow-table.rst and the "
                        "plots go")
    return parser.parse_args()


def main():
    options = parse_arguments()
    with open(options.results, encoding="utf-8") as file:
        found = json.load(file)
    lines = lines_of(found)
    table = text_table_of([HEADINGS, *map(cells, lines)])
    text = "\n".join([*origin(found), "", table, summary(found, lines)]) + "\n"
    write(os.path.join(options.directory, "table.txt"), text)
    for name, chosen in (("table.rst", [line for line in lines if not is_slow(line)]),
                         ("slow-table.rst", list(filter(is_slow, lines)))):
        if chosen:
            write(os.path.join(options.directory, name), rst_table(found, chosen))
    sys.stdout.write(text)
    for peer in PLOTS:
        for path in plot(found, lines, peer, options.directory):
            print(path)


if __name__ == "__main__":
    main()
