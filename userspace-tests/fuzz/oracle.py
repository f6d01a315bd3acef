#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Does an image that qemu-img calls clean stay clean?

usage: oracle.py PROGRAM NUMBER DIRECTORY…

Run NUMBER of the inputs in each DIRECTORY, evenly spread, and have `qemu-img check` look
at the image before and after. An image without errors and leaks must have neither
afterwards, and QEMU must read the same from both where nothing was to be written.
Inputs that ask for errors are left out. Prints what was found; exits with 1 if an
image did not stay clean, or none was clean.
"""

import json
import os
import subprocess
import sys
import tempfile


def check(path, leaks_allowed):
    """True if QEMU finds nothing wrong, False if it does, None if it cannot look."""
    try:
        done = subprocess.run(["qemu-img", "check", "-f", "qcow2", "--output=json", path],
                              capture_output=True, text=True, timeout=60, check=False)
        found = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return None, "cannot be checked"
    problems = {name: found.get(name, 0) for name in ("check-errors", "corruptions", "leaks")}
    if leaks_allowed or "bitmaps are now considered inconsistent" in done.stderr:
        problems["leaks"] = 0
    return not any(problems.values()), f"{problems} {done.stderr[:400]}"


def run_input(program, path, before, after):
    for file in (before, after):
        if os.path.exists(file):
            os.unlink(file)
    environment = dict(os.environ, QCOW2_FUZZ_IMAGE=before, QCOW2_FUZZ_RESULT=after,
                       QCOW2_FUZZ_VERBOSE="1")
    return subprocess.run([program, path], env=environment, capture_output=True,
                          errors="replace", text=True, timeout=600, check=False)


def main():
    program, number = sys.argv[1], int(sys.argv[2])
    chosen = []
    for directory, is_seeds in ((sys.argv[3], True), (sys.argv[4], False)):
        paths = sorted(os.path.join(directory, name) for name in os.listdir(directory))
        chosen += [(path, is_seeds) for path in paths[::max(1, len(paths) // number)]]
    clean = looked_at = 0
    failed = []
    with tempfile.TemporaryDirectory() as work:
        before, after = os.path.join(work, "before"), os.path.join(work, "after")
        for path, is_seed in chosen:
            done = run_input(program, path, before, after)
            if done.returncode:
                failed.append(f"{path}: status {done.returncode}")
                continue
            looked_at += 1
            small = os.path.exists(after) and os.stat(after).st_blocks < 65536
            if not small or ", with faults" in done.stderr or not check(before, False)[0]:
                continue
            clean += 1
            still, why = check(after, not is_seed)
            if not still:
                failed.append(f"{path}: {why}")
    print(f"{looked_at} inputs, of which {clean} were clean before")
    for line in failed:
        print(line)
    sys.exit(1 if failed or not clean else 0)


if __name__ == "__main__":
    main()
