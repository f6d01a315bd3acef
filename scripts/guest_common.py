# SPDX-License-Identifier: GPL-2.0-only
"""What the kinds of guests of scripts/guest have in common: their output, their
kernel's log, and the scripts that make what they boot."""

import os
import re
import shlex
import socket
import subprocess
import sys
import threading

SCRIPTS = os.path.dirname(os.path.realpath(__file__))
TOP = os.path.dirname(SCRIPTS)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What a kernel says when something is wrong with it, at the start of a message
# (after the time stamp, which tells the kernel's lines from others).
KERNEL_FAULT = re.compile(
    rb"^(?:<\d+>)?\[ *\d+\.\d+\] (?:"
    rb"WARNING:|BUG[: ]|kernel BUG|Oops|Kernel panic|Internal error|"
    rb"KASAN:|UBSAN:|KCSAN:|KFENCE:|ODEBUG:|DEBUG_LOCKS_WARN_ON|"
    rb"INFO: (?:task .* blocked|possible |trying to register non-static key|"
    rb"rcu.* (?:detected|self-detected)|lockdep )|"
    rb"rcu: INFO: |watchdog: BUG|"
    rb"general protection|double fault|Kernel mode |Bad page |"
    rb"refcount_t: |list_(?:add|del) corruption|slab error|"
    rb".*possible (?:recursive|circular|irq lock)|"
    rb".*suspicious RCU usage|.*inconsistent lock state|"
    rb".*sleeping function called from invalid context|"
    rb".*scheduling while atomic|"
    rb"kmemleak: \d+ new suspected|.*unreferenced object 0x"
    rb")"
)

# Where a kernel's own boot ends. A fault that it reports of itself before (7.3
# with kmemleak: RCU used on a CPU not yet online) is none of ours.
BOOTED = re.compile(rb"\[ *\d+\.\d+\] Run .* as init process$")

# Where a guest ends: the emulator takes a moment to stop its CPUs, and has taken the files from
# under what still runs there.
POWERED_DOWN = re.compile(rb"\[ *\d+\.\d+\] reboot: Power down$")

# A report of the race detector has two stacks, and goes up to a line of equals signs. The rest of
# the kernel has races that its authors accept. Ours are those that meet in the driver, or in
# a function of the kernel's libraries that the driver calls with its own data.
RACE = re.compile(rb"^(?:<\d+>)?\[ *\d+\.\d+\] BUG: KCSAN: ")
RACE_END = re.compile(rb"\] ={20,}")
RACE_STACK = re.compile(rb"\] (?:(?:read|write|read-write|assert) .*to 0x|race at unknown origin)")
RACE_FRAME = re.compile(rb"\]  (\S+)\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[(\w+)\])?$")
LIBRARY = re.compile(rb"_*(?:xas?|rb|list|hlist|bitmap|find|memcpy|memset|memmove|memcmp|mempool|"
                     rb"interval_tree|percpu_ref|refcount|sort|crc32)(?:_|$)")
OURS = b"qcow2"
# A task changes its own flags, inline in many functions (memalloc_noio_save()); these read others
# of them, of a task that runs.
READS_FLAGS_OF_TASKS = re.compile(rb" kthread_(?:data|is_per_cpu)(?: |$)")


def default_memory(guests=1):
    """For each of so many: 4 GiB, which the host only gives as they are touched, or so that
    all have half of what it has."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(4 << 30, host // (2 * guests) >> 20 << 20)


def is_race_of_ours(lines, first):
    """Whether a stack of the report that begins there belongs to the driver."""
    if READS_FLAGS_OF_TASKS.search(lines[first]):
        return False
    looked_at = True
    for line in lines[first + 1:]:
        frame = RACE_FRAME.search(line)
        if RACE_END.search(line):
            break
        if RACE_STACK.search(line):
            looked_at = False
        elif frame and not looked_at and not LIBRARY.match(frame[1]):
            if frame[2] == OURS:
                return True
            looked_at = True
    return False


class GuestError(Exception):
    """Why there is no guest, or no status of its command."""


def say(message):
    sys.stderr.write(f"guest: {message}\n")
    sys.stderr.flush()


def write_all(fd, data):
    while data:
        data = data[os.write(fd, data):]


def last_line_of(*command):
    """Run one of the scripts whose result is its last line of output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    lines = os.fsdecode(done.stdout).splitlines()
    if done.returncode != 0 or not lines:
        raise GuestError(f"{shlex.join(command)} failed")
    return lines[-1]


# ---------------------------------------------------------------------------
# Output: a thread for each of the guest's streams.


class Stream:
    """A line of the guest: it writes to one end of a pair of sockets. (A socket,
    as UML watches its lines for input too, and a pipe has no input.)"""

    def __init__(self, consume):
        self.ours, self.theirs = socket.socketpair()
        self.consume = consume
        self.thread = threading.Thread(target=self.pump, daemon=True)

    def started(self):
        """The guest has its end by now."""
        self.theirs.close()
        self.thread.start()

    def pump(self):
        while True:
            data = self.ours.recv(65536)
            if not data:
                return
            self.consume(data)

    def finish(self):
        self.thread.join(10)


def copy_to(fd):
    """A consumer that goes on without a reader, so that the command can end."""
    broken = False

    def consume(data):
        nonlocal broken
        if broken:
            return
        try:
            write_all(fd, data)
        except OSError:
            broken = True

    return consume


class KernelLog:
    """The guest's console: kept whole, and in a file when one is asked for."""

    def __init__(self, path):
        self.data = bytearray()
        self.file = open(path, "wb", buffering=0) if path else None

    def consume(self, data):
        data = data.replace(b"\r", b"")
        self.data += data
        if self.file:
            self.file.write(data)

    def lines(self):
        return bytes(self.data).splitlines()

    def first_fault(self):
        """Index of the first line that reports a fault, or None."""
        lines = self.lines()
        booted = next((index for index, line in enumerate(lines)
                       if BOOTED.match(line)), 0)
        for index in range(booted, len(lines)):
            if POWERED_DOWN.match(lines[index]):
                return None
            if RACE.match(lines[index]) and not is_race_of_ours(lines, index):
                continue
            if KERNEL_FAULT.match(lines[index]):
                return index
        return None

    def has(self, pattern):
        return any(pattern.search(line) for line in self.lines())

    def show(self, first, count):
        for line in self.lines()[first:first + count]:
            sys.stderr.buffer.write(b"guest: | " + line + b"\n")
        sys.stderr.flush()

    def show_tail(self, count=40):
        self.show(max(0, len(self.lines()) - count), count)
