#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Flush a device again and again, 50 ms after the last flush, while others write to it:
flusher.py DEVICE [DISK].

The 50 ms begin when a flush ends. A tick of UML is 10 ms, so flushes that begin each 50 ms would
all begin at the same point of a tick. dm-delay ends a flush with a tick. Each would take the same
part of a tick then, which part is chance.

Begins when it has said "ready". Ends with its standard input, after a last flush, and then
says what each flush took, as JSON: ms, and with DISK how many flushes that one did
meanwhile. A flush that had nothing to flush, as no write ended since the last one began,
is left out: it says nothing of how long a write takes to be durable.
"""

import json
import os
import select
import sys
import time

PAUSE = 0.05
# Fields of /sys/block/DISK/stat.
WRITES, FLUSHES = 4, 15


def counter(device, number):
    with open(f"/sys/block/{os.path.basename(os.path.realpath(device))}/stat",
              encoding="ascii") as file:
        return int(file.read().split()[number])


class Flusher:
    """A device that is open, and what its flushes took."""

    def __init__(self, device, disk=None):
        self.device, self.disk = device, disk
        self.fd = os.open(device, os.O_RDWR)
        self.written = counter(device, WRITES)
        self.found = []

    def flushes_of_disk(self):
        return {"disk_flushes": counter(self.disk, FLUSHES)} if self.disk else {}

    def flush(self):
        written, before = counter(self.device, WRITES), self.flushes_of_disk()
        began = time.monotonic()
        os.fdatasync(self.fd)
        took = time.monotonic() - began
        if written > self.written:
            self.found.append({"ms": took * 1000} | {
                name: count - before[name] for name, count in self.flushes_of_disk().items()})
        self.written = written


def main():
    flusher = Flusher(*sys.argv[1:])
    print("ready", flush=True)
    ended = False
    while not ended:
        ended = bool(select.select([sys.stdin], [], [], PAUSE)[0])
        flusher.flush()
    json.dump(flusher.found, sys.stdout)


if __name__ == "__main__":
    main()
