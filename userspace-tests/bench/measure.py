# SPDX-License-Identifier: GPL-2.0-only
"""One fio run, and what it says."""

from stage import *

JOBS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "jobs")


def fio_jobs(job, target, seconds, seed, **more):
    """What fio says of each job in a file; `more` are variables of the file."""
    for left in glob.glob(work("*.p*.txt")):
        os.unlink(left)
    variables = {"BENCH_TARGET": target, "BENCH_RUNTIME": f"{round(seconds * 1000)}ms",
                 "BENCH_SEED": str(seed), **more}
    output = run("fio", "--output-format=json", os.path.join(JOBS, f"{job}.fio"), cwd=WORK,
                 env={**os.environ, **variables}).stdout
    # Notes of fio may come in front.
    found = json.loads(output[output.index("{\n"):])["jobs"]
    for entry in found:
        expect_equal(entry["error"], 0, f"error of {job} on {target}")
    return found


def fio(job, target, seconds, seed, **more):
    """The result as numbers. Of several jobs the first one is what the row is about, and
    of the others only the speed is kept."""
    entry, *others = fio_jobs(job, target, seconds, seed, **more)
    if not others:
        return numbers(entry) | cpu_time(entry)
    return numbers(entry) | {f"{other['jobname']}_iops": numbers(other)["iops"]
                             for other in others}


def warm_up(target):
    """A program that was just started, as qemu-nbd was, has pages to fault in."""
    run("dd", f"if={target}", "of=/dev/null", "bs=4k", "count=1000", "iflag=direct")


def numbers(entry):
    """Reads and writes together; times in microseconds."""
    sides = [entry[side] for side in ("read", "write") if entry[side]["total_ios"]]
    expect(sides, "fio did no I/O at all")
    slowest = max(sides, key=lambda side: side["lat_ns"]["mean"])
    return {
        "ios": sum(side["total_ios"] for side in sides),
        "bytes": sum(side["io_bytes"] for side in sides),
        "seconds": max(side["runtime"] for side in sides) / 1000,
        "iops": sum(side["iops"] for side in sides),
        "latency_us": slowest["lat_ns"]["mean"] / 1000,
        "latency_p50_us": slowest["lat_ns"]["percentile"]["50.000000"] / 1000,
        "latency_p99_us": slowest["lat_ns"]["percentile"]["99.000000"] / 1000,
    }


def busy(path):
    """CPU seconds that are not idle, of all CPUs."""
    with open(path, encoding="ascii") as file:
        user, nice, system, _idle, _iowait, *interrupts = map(int, file.readline().split()[1:8])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def cpu_time(entry):
    """Of the whole guest for each I/O. Jobs that are several begin and end at
    different times, so for them there is none."""
    if int(entry["job options"].get("numjobs", 1)) > 1:
        return {}
    before, after = (work(f"{entry['jobname']}.{when}.txt") for when in ("prerun", "postrun"))
    ios = sum(entry[side]["total_ios"] for side in ("read", "write"))
    return {"cpu_us": (busy(after) - busy(before)) * 1e6 / ios}
