# SPDX-License-Identifier: GPL-2.0-only
"""What the scenarios share: cases and their TAP lines, commands, images, devices.

A scenario runs as root in a guest (see scripts/check-e2e). Each of its cases is
a `with case(name):` block, which fails by any exception. Images live in WORK,
a directory in memory that is emptied after each case, or on a RAM disk.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import mmap
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
import traceback

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
SECTOR = 512
TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
WORK = "/dev/shm/e2e"

# qcowctl's exit statuses.
EXIT_SYSTEM = 1
EXIT_FILE = 3
EXIT_INVALID = 4
EXIT_UNSUPPORTED = 5
EXIT_BUSY = 6
EXIT_NO_DEVICE = 7
EXIT_LOST = 9

# make check-long: scenarios that can take more rounds do.
LONG = os.environ.get("QCOW2_LONG") == "1"

# Where CPUs are emulated (scripts/check-e2e --kernel) what must end soon may take so many
# times as long.
SLOWNESS = int(os.environ.get("QCOW2_SLOWNESS", "1"))


class Failure(Exception):
    """What is wrong, for the diagnostics of the case."""


# ---------------------------------------------------------------------------
# Cases.

_cases = []


@contextlib.contextmanager
def case(name):
    """One line of TAP: ok unless the block raises or leaves a device attached."""
    os.makedirs(WORK, exist_ok=True)
    problems = []
    try:
        yield
    except Failure as failure:
        problems.append(str(failure))
    except Exception:
        problems.append(traceback.format_exc())
    problems += tidy_up(bool(problems))
    _cases.append(not problems)
    print(f"{'not ok' if problems else 'ok'} {len(_cases)} - {name}")
    for line in "\n".join(problems).splitlines():
        print(f"# {line}")
    sys.stdout.flush()


def tidy_up(failed):
    """Make room for the next case; returns what should not have been left."""
    problems = []
    done = run("qcowctl", "list", "--json", "--bytes", status=None)
    if done.returncode:
        return [done.stderr]
    for entry in json.loads(done.stdout)["qcowdevices"]:
        left = f"left attached: {entry['name']}, {entry['image']}"
        done = run("qcowctl", "detach", entry["name"], status=None)
        if done.returncode != 0:
            problems.append(f"{left}, cannot detach: {done.stderr}")
        elif not failed:
            problems.append(left)
    shutil.rmtree(WORK, ignore_errors=True)
    return problems


def finish():
    """Print the plan, without which a scenario counts as failed; exit."""
    print(f"1..{len(_cases)}")
    sys.exit(0 if all(_cases) else 1)


def note(text):
    """A line beside the results."""
    print(f"# {text}", flush=True)


def expect(condition, what):
    if not condition:
        raise Failure(what)


def expect_equal(found, wanted, what):
    expect(found == wanted, f"{what}: found {found!r}, wanted {wanted!r}")


def expect_same_bytes(found, wanted, what):
    """Compare two byte strings; tells the first place that differs."""
    expect_equal(len(found), len(wanted), f"{what}: length")
    if found == wanted:
        return
    place = next(i for i in range(0, len(wanted), SECTOR)
                 if found[i:i + SECTOR] != wanted[i:i + SECTOR])
    place = next(i for i in range(place, len(wanted)) if found[i] != wanted[i])
    raise Failure(f"{what}: differs at byte {place:#x}: found "
                  f"{found[place:place + 8].hex()}, wanted {wanted[place:place + 8].hex()}")


# ---------------------------------------------------------------------------
# Commands.


def run(*command, status=0, timeout=150, **options):
    """Run a command; a status other than `status` fails (None: any will do)."""
    command = [str(word) for word in command]
    options.setdefault("cwd", WORK if os.path.isdir(WORK) else "/")
    options.setdefault("stdin", None if "input" in options else subprocess.DEVNULL)
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(command)}: no end after {timeout} s") from None
    if status is not None and done.returncode != status:
        raise Failure(f"{' '.join(command)}: status {done.returncode}, wanted "
                      f"{status}\n{done.stdout}{done.stderr}")
    return done


@contextlib.contextmanager
def running(*command):
    """A command that runs beside; it is killed when the block ends before it."""
    process = subprocess.Popen([str(word) for word in command], cwd=WORK, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, f"{what}: not within {seconds} s")
        time.sleep(0.02)


def expect_good_end(process):
    output, _ = process.communicate(timeout=100)
    expect_equal(process.returncode, 0, f"status of {process.args[0]}, with {output}")


def drop_caches(inodes=False):
    """Have what is read next come from below the page cache; inodes and names too."""
    os.sync()
    put("/proc/sys/vm/drop_caches", 3 if inodes else 1)


def put(path, value):
    """Into a file of sysfs, say."""
    with open(path, "w", encoding="ascii") as knob:
        knob.write(str(value))


def kernel_log():
    return run("dmesg").stdout


FAULT = re.compile(r"WARNING|BUG|KASAN|UBSAN|DEBUG_LOCKS|possible (?:circular|recursive|irq lock)|"
                   r"inconsistent lock state|suspicious RCU|sleeping function|scheduling while|"
                   r"held lock|kmemleak: \d+ new|INFO: (?:task|lockdep|rcu|trying)|"
                   r"refcount_t|corruption|Call Trace|"
                   r"EXT4-fs (?:error|warning)|XFS .*(?:Corruption|Internal error)")


def expect_quiet_log(first):
    """From that line on; scripts/guest looks at the whole log, by a list of its own."""
    found = [line for line in kernel_log().splitlines()[first:] if FAULT.search(line)]
    expect(not found, "in the kernel log:\n" + "\n".join(found[:20]))


# ---------------------------------------------------------------------------
# Images.


def work(name):
    return os.path.join(WORK, name)


def create(path, size, **options):
    """qemu-img create; options such as cluster_size=4096, compat="0.10"."""
    words = [f"{name}={value}" for name, value in options.items()]
    run("qemu-img", "create", "-q", "-f", "qcow2",
        *(["-o", ",".join(words)] if words else []), path, size)
    return path


def qemu_io(image, commands):
    """Give qemu-io's commands, one a line."""
    done = run("qemu-io", "-f", "qcow2", image, input="".join(f"{c}\n" for c in commands))
    for line in (done.stdout + done.stderr).splitlines():
        expect("rror" not in line and "failed" not in line, f"qemu-io: {line}")


def check(image, leaks_allowed=False):
    """qemu-img check: no corruption, no leaks (unless allowed), no failed checks."""
    done = run("qemu-img", "check", "-f", "qcow2", "--output=json", image, status=None)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise Failure(f"qemu-img check: {done.stderr}") from None
    for problem in ("check-errors", "corruptions", "leaks"):
        if problem == "leaks" and leaks_allowed:
            continue
        expect(not found.get(problem),
               f"qemu-img check: {problem}: {found.get(problem)}\n" +
               "\n".join(done.stderr.splitlines()[:8]))


def same_contents(one, other, other_format="qcow2"):
    run("qemu-img", "compare", "-f", "qcow2", "-F", other_format, one, other)


def to_raw(image, raw, *options):
    """What QEMU reads from the image."""
    source = [] if "-l" in options else ["-f", "qcow2"]
    run("qemu-img", "convert", *source, *options, "-O", "raw", image, raw)
    return raw


def content(path):
    with open(path, "rb") as file:
        return file.read()


def digest(path):
    """SHA-256 of a file, or of what a device has on its medium."""
    drop_caches()
    hasher = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(MIB):
            hasher.update(block)
    return hasher.hexdigest()


def patch(path, offset, form, value):
    """Overwrite a big-endian field of an image, given as struct's format."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(">" + form, value))


def field(path, offset, form):
    with open(path, "rb") as file:
        file.seek(offset)
        return struct.unpack(">" + form, file.read(struct.calcsize(form)))[0]


# ---------------------------------------------------------------------------
# Devices.


def attached():
    return json.loads(run("qcowctl", "list", "--json", "--bytes").stdout)["qcowdevices"]


class Device:
    """An attached image; as a context manager detached at the end."""

    def __init__(self, image, *options):
        self.image = image
        output = run("qcowctl", "attach", *options, image).stdout
        self.path = output.strip()
        expect(output == f"{self.path}\n" and self.path.startswith("/dev/qcow"),
               f"qcowctl attach printed {output!r}")
        self.name = os.path.basename(self.path)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.detach()
        else:
            run("qcowctl", "detach", self.path, status=None)

    def detach(self):
        run("qcowctl", "detach", self.path)
        sabotage(self.image)

    def open(self, flags=os.O_RDWR):
        return Disk(self.path, flags)

    def state(self):
        return next(e["state"] for e in attached() if e["name"] == self.path)


class Disk:
    """A device opened with O_DIRECT: what is read and written really is."""

    def __init__(self, path, flags):
        self.fd = os.open(path, flags | os.O_DIRECT)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        self.buffer = mmap.mmap(-1, MIB)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)
        self.buffer.close()

    def write(self, offset, data, flags=0):
        """Requests of at most 1 MiB; raises OSError."""
        for start_at in range(0, len(data), MIB):
            part = data[start_at:start_at + MIB]
            self.buffer[:len(part)] = part
            with memoryview(self.buffer) as view, view[:len(part)] as piece:
                done = os.pwritev(self.fd, [piece], offset + start_at, flags)
            expect_equal(done, len(part), "bytes written")

    def read(self, offset, length):
        """Raises OSError."""
        result = bytearray()
        while length:
            part = min(length, MIB)
            with memoryview(self.buffer) as view, view[:part] as piece:
                done = os.preadv(self.fd, [piece], offset)
            expect_equal(done, part, "bytes read")
            result += self.buffer[:part]
            offset += part
            length -= part
        return bytes(result)

    def read_all(self):
        return self.read(0, self.size)

    def flush(self):
        os.fsync(self.fd)


BLKDISCARD, BLKZEROOUT = 0x1277, 0x127f


def range_ioctl(fd, number, offset, length):
    """One of these two; raises OSError."""
    fcntl.ioctl(fd, number, struct.pack("=QQ", offset, length))


# ---------------------------------------------------------------------------
# RAM disks and file systems.


def ram_disks(count, size):
    """Load the RAM disk driver with devices of `size` bytes."""
    run("modprobe", "brd", f"rd_nr={count}", f"rd_size={size // KIB}")
    return [f"/dev/ram{i}" for i in range(count)]


@contextlib.contextmanager
def mounted(what, where, *options):
    os.makedirs(where, exist_ok=True)
    run("mount", *options, what, where)
    try:
        yield where
    except BaseException:
        run("umount", "-l", where, status=None)
        raise
    run("umount", where)


def ext4_on(device, where):
    """A file system that carries O_DIRECT, which tmpfs only pretends to."""
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", device)
    return mounted(device, where)


@contextlib.contextmanager
def loop_on(path, *options):
    loop = run("losetup", "--find", "--show", *options, path).stdout.strip()
    try:
        yield loop
    finally:
        run("losetup", "--detach", loop)


def noise(size, seed):
    """Bytes that do not repeat, the same for the same seed."""
    return random.Random(seed).randbytes(size)


# ---------------------------------------------------------------------------
# Do the checks see anything? QCOW2_E2E_SABOTAGE damages each image that is detached:
# data		a byte in the middle of each run of guest data
# refcount	the count of the header's cluster, which is 0 then
# leak		the same, which is 3 then
# replay	(power-cut only) writes that the disk should have made durable
# Cases that look at the data, or at the image, must fail.


def sabotage(image):
    how = os.environ.get("QCOW2_E2E_SABOTAGE")
    if how == "data":
        for place in data_bytes(image):
            flip(image, place, 0x01)
    elif how in ("refcount", "leak"):
        flip(image, first_refcount(image), {"refcount": 0x01, "leak": 0x02}[how])


def flip(image, place, bits):
    patch(image, place, "B", field(image, place, "B") ^ bits)


def data_bytes(image):
    found = json.loads(run("qemu-img", "map", "-f", "qcow2", "--output=json", image).stdout)
    return [extent["offset"] + extent["length"] // 2 for extent in found
            if extent["data"] and "offset" in extent]


def first_refcount(image):
    """Of its bytes the lowest."""
    first_block = field(image, field(image, 48, "Q"), "Q")
    order = 4 if field(image, 4, "I") == 2 else field(image, 96, "I")
    return first_block + max(1, (1 << order) // 8) - 1
