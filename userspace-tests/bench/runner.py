#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Measure, in a guest (see scripts/bench): writes what every run gave as JSON.

Rounds are outermost, so that what the machine does beside hits all devices alike,
and the order of the devices is another one in each round.
"""

import argparse
import platform

import rows
from files import use_files
from measure import *
from misses import count_misses
from slow import *


def shuffled(things, seed):
    """So that none has always the same before it."""
    return random.Random(seed).sample(things, len(things))


class Runner:
    """The stage and what was measured on it."""

    def __init__(self, size, mapped_size, seconds, slow_seconds):
        self.stage, self.slow_stage = Stage(size), SlowStage(size)
        self.mapped_size, self.seconds = mapped_size, seconds
        self.slow_seconds = slow_seconds
        self.results = {}
        self.misses = []
        self.counts = {}
        self.failures = 0
        self.begun, self.planned = 0, 0

    def measure(self, row, device, seed):
        """One run; its numbers are kept and returned."""
        with self.stage.open(device, row.state) as path:
            warm_up(path)
            result = (use_files(path, self.seconds, seed) if row.job == rows.FILES else
                      fio(row.job, path, self.seconds, seed))
        return self.keep(row, device, seed, result)

    def measure_slow(self, row, device, seed):
        """The same for a row on a slow disk."""
        return self.keep(row, device, seed, measure_slow(
            self.slow_stage, row, device, self.slow_seconds, seed))

    def keep(self, row, device, seed, result):
        result["round"] = seed
        self.results.setdefault(row.name, {}).setdefault(device, []).append(result)
        return result

    def prepare(self, names):
        if set(names) & set(rows.RAM_NAMES):
            self.stage.prepare({row.state for row in rows.ROWS if row.name in names})
        self.slow_stage.prepare(
            {row.disk.kind for row in rows.SLOW_ROWS if row.name in names} |
            {disk.kind for name, disk in rows.COUNT_ROWS.items() if name in names})

    def runs_in_round(self, names):
        """How many there are."""
        return (sum(len(row.devices) for row in rows.ROWS + rows.SLOW_ROWS
                    if row.name in names) +
                sum(name in names for name in (rows.MISSES, *rows.COUNT_ROWS)))

    def plan(self, names, rounds):
        """What is to come, so that each run can say how far it is."""
        self.planned = rounds * self.runs_in_round(names)

    def results_found(self):
        return {"rows": self.results, rows.MISSES: self.misses, rows.COUNTS: self.counts}

    def count(self, seed):
        """One run of the row that counts."""
        result = count_misses(self.mapped_size, self.seconds, seed)
        self.misses.append(result)
        return result

    def count_flushes(self, name, seed):
        """One run of a row that counts flushes."""
        result = count_flushes(self.slow_stage, rows.COUNT_ROWS[name], self.slow_seconds, seed)
        self.counts.setdefault(name, []).append(result)
        return result

    def round(self, names, number):
        """All rows; a run that fails is left out, which the report shows."""
        for kind, measure in ((rows.ROWS, self.measure), (rows.SLOW_ROWS, self.measure_slow)):
            for row in kind:
                for device in (shuffled(row.devices, f"{row.name} {number}")
                               if row.name in names else []):
                    self.run_of_round(number + 1, f"{row.title}, {device}",
                                      lambda: measure(row, device, number + 1))
        if rows.MISSES in names:
            self.run_of_round(number + 1, rows.MISSES_TITLE, lambda: self.count(number + 1))
        for name, disk in rows.COUNT_ROWS.items():
            if name in names:
                self.run_of_round(number + 1, f"{disk.title}: flushes counted",
                                  lambda: self.count_flushes(name, number + 1))

    def run_of_round(self, number, title, what):
        self.begun += 1
        self.attempt(f"{self.begun} of {self.planned}, round {number}, {title}", what)

    def attempt(self, title, what):
        """The results of the other runs are worth keeping when one fails."""
        try:
            result = what()
        except Exception as error:
            self.failures += 1
            note(f"{title}: failed: {error!r}")
        else:
            note(f"{title}: {told(result)}")


def told(result):
    """In a line, while it runs."""
    if not result:
        return "done"
    text = f"{result['iops'] / 1000:.2f} k/s"
    if "flush_ms" in result:
        text += (f", flush {result['flush_ms']:.1f}, worst {result['flush_worst_ms']:.1f} ms, "
                 f"worst write {result['write_worst_ms']:.1f} ms")
    return text


def versions():
    return {"kernel": " ".join(platform.uname()[i] for i in (0, 2, 3)),
            "architecture": platform.machine(),
            "guest_cpus": os.cpu_count(),
            "guest_memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "fio": run("fio", "--version").stdout.strip(),
            "qemu": run("qemu-nbd", "--version").stdout.splitlines()[0].strip()}


def parse_arguments():
    parser = argparse.ArgumentParser(prog="runner.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--slow-seconds", type=float, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--mapped-size", type=int, required=True)
    parser.add_argument("--disk-size", type=int, required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("rows", nargs="+")
    return parser.parse_args()


def main(kind):
    """The kind of runner knows what is measured."""
    options = parse_arguments()
    runner = kind(options.size, options.mapped_size, options.seconds, options.slow_seconds)
    began = time.monotonic()
    with runner.stage.set_up(options.disk_size):
        runner.prepare(options.rows)
        note(f"prepared in {time.monotonic() - began:.0f} s")
        runner.plan(options.rows, options.rounds)
        for number in range(options.rounds):
            runner.round(options.rows, number)
        runner.attempt("qemu-img check of all images", runner.stage.check_all)
    found = {"rounds": options.rounds, "seconds": options.seconds,
             "slow_seconds": options.slow_seconds, "size": options.size,
             "mapped_size": options.mapped_size, "failures": runner.failures,
             "duration": round(time.monotonic() - began), "guest": versions(),
             **runner.results_found()}
    with open(options.output, "w", encoding="ascii") as file:
        json.dump(found, file, indent=1)
    return 1 if runner.failures else 0


if __name__ == "__main__":
    sys.exit(main(Runner))
