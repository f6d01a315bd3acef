#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Make tables of what tuner.py measured, as text and as reStructuredText, which
Documentation/admin-guide/tuning.rst includes in parts.

As in report.py a ratio is taken in each round, to the first variant, and the median over
the rounds is shown, with the least and the most.
"""

import json
import os
import statistics
import sys

import tuning
from report import origin, parse_arguments, spread, text_table_of, write


def speed(run):
    return run["iops"] / 1000


def headings(topic):
    found = ("load", "variant", "k/s (min-max)", "to the first (min-max)")
    return (*found, topic.extra.heading) if topic.extra else found


def extra_cell(topic, runs):
    """The median of the topic's own number, if it has one in all runs."""
    if not topic.extra:
        return ()
    values = [topic.extra.number(run) for run in runs]
    if not values or None in values:
        return ("",)
    return (f"{statistics.median(values):.{topic.extra.digits}f}",)


def line(found, topic, load, variant, first):
    """The cells of one variant under one load."""
    by_variant = found["topics"].get(topic.name, {}).get(load.title, {})
    runs = by_variant.get(variant.title, [])
    here = {run["round"]: speed(run) for run in runs}
    there = {run["round"]: speed(run) for run in by_variant.get(first.title, [])}
    rounds = sorted(set(here) & set(there))
    if len(rounds) < found["rounds"]:
        return (load.title, variant.title, f"{len(rounds)} of {found['rounds']} rounds", "",
                *(("",) if topic.extra else ()))
    ratios = [here[number] / there[number] for number in rounds]
    return (load.title, variant.title, spread([here[number] for number in rounds], 2),
            "1" if variant is first else spread(ratios, 2), *extra_cell(topic, runs))


def table(found, topic):
    return [headings(topic)] + [line(found, topic, load, variant, runs[0][1])
                                for runs in tuning.runs_of(topic) for load, variant in runs]


def measured(found):
    return [topic for topic in tuning.TOPICS if topic.name in found["topics"]]


def text_of(found):
    out = [*origin(found), ""]
    for topic in measured(found):
        out += [f"{topic.name}:", "", text_table_of(table(found, topic))]
    if found["failures"]:
        out.append(f"{found['failures']} runs failed")
    return "\n".join(out)


def rst_of(found):
    """A part for each topic, between two comments."""
    out = [".. SPDX-License-Identifier: GPL-2.0-only", "..",
           "   Written by userspace-tests/bench/tuning_report.py: run scripts/bench --tuning "
           "--document", "", ".. origin", ""]
    out += [f"* {text}" for text in origin(found)]
    if found["failures"]:
        out.append(f"* {found['failures']} runs failed")
    out += ["", ".. end of origin", ""]
    for topic in measured(found):
        out += [f".. {topic.name}", "", ".. list-table::", "   :header-rows: 1", ""]
        for row in table(found, topic):
            out += [f"   {'*' if not i else ' '} - {cell}".rstrip()
                    for i, cell in enumerate(row)]
        out += ["", f".. end of {topic.name}", ""]
    return "\n".join(out)


def main():
    options = parse_arguments()
    with open(options.results, encoding="utf-8") as file:
        found = json.load(file)
    text = text_of(found)
    write(os.path.join(options.directory, "table.txt"), text)
    write(os.path.join(options.directory, "table.rst"), rst_of(found))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
