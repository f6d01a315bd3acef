#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --kernel uml-debug --kernel-arg kmemleak=off --timeout 900
"""Images that were made to do harm, in the kernel that sees memory that is misused.

Sound images of several kinds are changed, in places that mean something and to values
that point somewhere, and then attached, read, and in part written and discarded. The
driver may refuse, with one line that says why, or give errors; nothing else.

kmemleak is off: half of the time would go into the stack traces of its records.

What is done to which image follows from the seed, which is printed. Image 17 of those
made from "extended" alone: QCOW2_HOSTILE="SEED extended 17".
"""

import array
import errno
import fcntl
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

from e2e import *

SECONDS = 3600 if LONG else 75
SEED = os.environ.get("QCOW2_SEED") or (str(time.time_ns()) if LONG else "1")

ATTACH, DETACH = 0xbc00, 0xbc01
READ_ONLY, NO_PASS_DISCARD, NO_UNREF = 1, 4, 8
REASON_BYTES = 256

REFUSALS = {errno.EUCLEAN, errno.EOPNOTSUPP, errno.EINVAL}
COPIED, COMPRESSED = 1 << 63, 1 << 62
OFFSET = 0x00fffffffffffe00

MAX_READ = 256 * KIB
# An attach and a detach wait for RCU most of the time.
THREADS = 4
KEPT = os.path.abspath("hostile-images")


# ---------------------------------------------------------------------------
# The image that is changed.


class Image:
    """The bytes of an image, and what its header says."""

    def __init__(self, data, rng):
        self.data = bytearray(data)
        self.rng = rng
        self.cluster = 1 << min(21, max(9, self.get(20, 4)))
        self.l1, self.l1_entries = self.get(40, 8), self.get(36, 4)
        self.reftable = self.get(48, 8)
        self.snapshots, self.nr_snapshots = self.get(64, 8), self.get(60, 4)
        version3 = self.get(4, 4) == 3
        self.entry = 16 if version3 and self.get(72, 8) & 16 else 8
        self.order = min(6, self.get(96, 4)) if version3 else 4
        self.header = self.get(100, 4) if version3 else 72

    def get(self, offset, length):
        return int.from_bytes(self.data[offset:offset + length].ljust(length, b"\0"), "big")

    def put(self, offset, value, length):
        if offset + length > 1 << 22:
            return
        if offset + length > len(self.data):
            self.data.extend(bytes(offset + length - len(self.data)))
        mask = (1 << 8 * length) - 1
        self.data[offset:offset + length] = (value & mask).to_bytes(length, "big")

    def choose_in(self, table, entries, length):
        """Where an entry is, mostly one that is set."""
        index = 0
        for _ in range(8):
            index = self.rng.randrange(max(1, min(entries, self.rng.choice((4, 64, 4096)))))
            if self.get(table + index * length, 8):
                break
        return table + index * length

    def l1_entry(self):
        return self.choose_in(self.l1, self.l1_entries, 8)

    def l2_table(self):
        return self.get(self.l1_entry(), 8) & OFFSET

    def l2_entry(self):
        return self.choose_in(self.l2_table(), self.cluster // self.entry, self.entry)

    def reftable_entry(self):
        return self.choose_in(self.reftable, self.cluster // 8, 8)

    def place(self):
        """Where something is, or could be."""
        rng, end = self.rng, len(self.data) // self.cluster * self.cluster
        return rng.choice((
            lambda: 0, lambda: self.l1, lambda: self.reftable, lambda: self.snapshots,
            self.l2_table, self.l2_table,
            lambda: self.get(self.reftable_entry(), 8) & OFFSET,
            lambda: self.get(self.l2_entry(), 8) & OFFSET,
            lambda: end, lambda: end + self.cluster * rng.randrange(64),
            lambda: 1 << rng.randrange(9, 64),
            lambda: self.cluster * rng.randrange(len(self.data) // self.cluster + 1),
        ))()

    def number(self, now, length):
        rng, top = self.rng, (1 << 8 * length) - 1
        return rng.choice((rng.randrange(4), now + rng.choice((-8, -1, 1, 8)),
                           now ^ 1 << rng.randrange(8 * length),
                           top >> rng.randrange(8 * length), 1 << rng.randrange(8 * length)))

    def pointer(self, now):
        rng, place = self.rng, self.place()
        return rng.choice((now ^ COPIED, now ^ 1 << rng.randrange(64), place | COPIED,
                           place | COPIED, place, place | COPIED | 512 << rng.randrange(8),
                           place | COPIED | 1, 0, COPIED, 1))

    def compressed(self):
        """A descriptor of compressed data, of sensible length or as long as can be."""
        bits = 62 - (self.cluster.bit_length() - 9)
        sectors = self.rng.choice((0, 1, self.cluster // 512, (1 << 62 - bits) - 1))
        return COMPRESSED | sectors << bits | \
            (self.place() + self.rng.choice((0, 1, 511, 513))) & ((1 << bits) - 1)


def change_header(image):
    offset, length = image.rng.choice((
        (4, 4), (8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8), (56, 4),
        (60, 4), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 4), (104, 1)))
    now = image.get(offset, length)
    if offset in (40, 48, 64) and image.rng.randrange(4):
        image.put(offset, image.place(), length)
    elif offset in (72, 80, 88):
        image.put(offset, now ^ 1 << image.rng.randrange(5), length)
    else:
        image.put(offset, image.number(now, length), length)


def change_extension(image):
    offset = image.header + image.rng.choice((0, 4, 8, 16, 48, 56))
    image.put(offset, image.rng.choice((
        0, 0xe2792aca, 0x6803f857, 0x23852875, 0x0537be77, 0x44415441,
        image.number(image.get(offset, 4), 4))), 4)


def change_backing_name(image):
    """Also to one with which a terminal would do something."""
    name = image.rng.choice((b"base", b"a\nb", b"\033[2J\033[1m", b"\xff\xfe", b"x" * 1023))
    offset = image.rng.choice((image.header + 64, image.cluster - len(name), image.cluster))
    image.put(8, offset, 8)
    image.put(16, image.rng.choice((len(name), 0, 1024, 0xffffffff)), 4)
    image.data[offset:offset + len(name)] = name


def change_l1(image):
    where = image.l1_entry()
    image.put(where, image.pointer(image.get(where, 8)), 8)


def change_l2(image):
    where = image.l2_entry()
    image.put(where, image.compressed() if image.rng.randrange(4) == 0 else
              image.pointer(image.get(where, 8)), 8)


def change_bitmap(image):
    where = image.l2_entry() + 8
    bit = image.rng.randrange(32)
    image.put(where, image.rng.choice((image.get(where, 8) ^ 1 << image.rng.randrange(64),
                                       1 << bit | 1 << bit + 32, image.rng.getrandbits(64),
                                       0xffffffff)), 8)


def change_reftable(image):
    where = image.reftable_entry()
    image.put(where, image.pointer(image.get(where, 8)) & ~COPIED, 8)


def change_refcount(image):
    cluster = image.place() // image.cluster
    per_block = image.cluster * 8 >> image.order
    block = image.get(image.reftable + cluster // per_block * 8, 8) & OFFSET
    length = max(1, (1 << image.order) // 8)
    where = block + (cluster % per_block << image.order) // 8
    image.put(where, image.rng.choice((0, 1, 2, image.number(image.get(where, length), length))),
              length)


def change_snapshot(image):
    offset, length = image.rng.choice(((0, 8), (8, 4), (12, 2), (14, 2), (36, 4), (40, 8)))
    where = image.snapshots + offset
    image.put(where, image.place() if offset == 0 and image.rng.randrange(4) else
              image.number(image.get(where, length), length), length)


def copy_entry(image):
    one, other = (image.rng.choice((image.l1_entry, image.l2_entry))() for _ in range(2))
    image.put(one, image.get(other, 8), 8)


def change_length(image):
    length = len(image.data)
    if image.rng.randrange(2):
        del image.data[image.rng.randrange(length):]
    else:
        image.data.extend(bytes(image.rng.randrange(1, 1 << 17)))


def change_bytes(image):
    """Of what was written: of a compressed cluster a damaged stream."""
    where = image.place()
    for _ in range(image.rng.randrange(1, 8)):
        image.put(where + image.rng.randrange(image.cluster), image.rng.randrange(256), 1)


CHANGES = [change_header] * 4 + [change_extension] + [change_backing_name] + \
    [change_l1] * 4 + [change_l2] * 7 + [change_bitmap] * 2 + [change_reftable] * 3 + \
    [change_refcount] * 5 + [change_snapshot] * 2 + [copy_entry] * 3 + [change_length] + \
    [change_bytes] * 3


# ---------------------------------------------------------------------------
# Sound images.


KINDS = {
    "small": dict(cluster_size=512, snapshot=True),
    "old": dict(cluster_size=4 * KIB, compat="0.10", compressed=True),
    "usual": dict(cluster_size=64 * KIB, snapshot=True),
    "extended": dict(cluster_size=16 * KIB, extended_l2="on", compressed=True),
    "zstd": dict(cluster_size=4 * KIB, compression_type="zstd", compressed=True,
                 refcount_bits=1),
    "lazy": dict(cluster_size=4 * KIB, lazy_refcounts="on", refcount_bits=64),
}


def fill(path, cluster, compressed=False):
    commands = [f"write -q -P {i + 1} {place * cluster} {cluster}"
                for i, place in enumerate((0, 1, 3, 4))]
    commands += [f"write -q -P 77 {5 * cluster + 512} 512", f"write -q -z {6 * cluster} {cluster}",
                 f"write -q -z -u {1 * cluster} {cluster}"]
    if compressed:
        commands += [f"write -q -c -P {place} {place * cluster} {cluster}"
                     for place in (8, 9, 10)]
    qemu_io(path, commands)


def make_sound(path, snapshot=False, compressed=False, **options):
    cluster = options["cluster_size"]
    create(path, max(MIB // 4, 12 * cluster), **options)
    fill(path, cluster, compressed)
    if snapshot:
        run("qemu-img", "snapshot", "-c", "first", path)
        fill(path, cluster)


def sound(kind):
    """Kept in the directory that the guest shares: starting a process takes long here."""
    digits = hashlib.sha256(repr(KINDS[kind]).encode()).hexdigest()[:8]
    path = os.path.join(KEPT, f"{kind}-{digits}")
    if not os.path.exists(path):
        os.makedirs(KEPT, exist_ok=True)
        make_sound(f"{path}.{os.getpid()}", **KINDS[kind])
        os.rename(f"{path}.{os.getpid()}", path)
    return content(path)


# ---------------------------------------------------------------------------
# Use.


class Control:
    """/dev/qcow-control without a process for each call, which takes a second there."""

    def __init__(self):
        self.fd = os.open("/dev/qcow-control", os.O_RDWR)
        self.reason = array.array("B", bytes(REASON_BYTES))

    def call(self, number, argument):
        """0 or an errno, and the reason."""
        self.reason[0] = 0
        try:
            fcntl.ioctl(self.fd, number, argument)
        except OSError as error:
            return error.errno, self.reason.tobytes().split(b"\0")[0]
        return 0, b""

    def attach(self, paths, flags):
        """Errno, reason, index."""
        mode = os.O_RDONLY if flags & READ_ONLY else os.O_RDWR
        files = [os.open(path, os.O_RDONLY if i else mode) for i, path in enumerate(paths)]
        table = array.array("B", b"".join(struct.pack("=iIQ", fd, 0, 0) for fd in files))
        argument = bytearray(struct.pack("=IIiIQQIIQQ", 56, flags, -1, len(files),
                                         table.buffer_info()[0], self.reason.buffer_info()[0],
                                         REASON_BYTES, 0, 0, 0))
        error, reason = self.call(ATTACH, argument)
        for fd in files:
            os.close(fd)
        return error, reason, struct.unpack_from("=i", argument, 8)[0]

    def detach(self, index):
        argument = bytearray(struct.pack("=IIiIQII", 32, 0, index, 0,
                                         self.reason.buffer_info()[0], REASON_BYTES, 0))
        return self.call(DETACH, argument)


def expect_line(error, reason):
    text = reason.decode(errors="replace")
    expect(error in REFUSALS, f"refused with errno {error}: {text!r}")
    expect(text and text.isprintable() or "\ufffd" in text, f"no line of text: {text!r}")
    expect(len(text) > 15 and " " in text, f"says too little: {text!r}")
    expect(not any(byte < 32 or byte == 127 for byte in reason), f"not printable: {text!r}")


def try_io(function, *arguments):
    """True if it worked; errors of the device are what a bad image gives."""
    try:
        function(*arguments)
    except OSError as error:
        expect(error.errno in (errno.EIO, errno.EROFS, errno.ENOSPC, errno.EOPNOTSUPP,
                               errno.EPERM, errno.EUCLEAN, errno.ENODATA, errno.EREMOTEIO),
               f"{function.__name__}: {error}")
        return False
    return True


def use(path, rng, writable):
    """Read all, or the front, the end and what is between; write and discard some."""
    tally = [0, 0]
    with Disk(path, os.O_RDWR if writable else os.O_RDONLY) as disk:
        if disk.size < SECTOR:
            return tally
        def place():
            near = min(disk.size, rng.choice((64 * KIB, MIB, disk.size)))
            return rng.randrange(near // SECTOR) * SECTOR
        def reads():
            for offset in (0, place(), disk.size // 2 // SECTOR * SECTOR,
                           max(0, disk.size - 64 * KIB) // SECTOR * SECTOR):
                length = min(MAX_READ if not offset else 64 * KIB, disk.size - offset)
                tally[try_io(disk.read, offset, length)] += 1
        reads()
        for _ in range(rng.randrange(1, 6) if writable else 0):
            offset = place()
            length = min(rng.choice((SECTOR, 4 * KIB, 64 * KIB)), disk.size - offset)
            what = rng.randrange(5)
            if what < 2:
                tally[try_io(disk.write, offset, b"\x5a" * length)] += 1
            elif what == 2:
                tally[try_io(range_ioctl, disk.fd, BLKDISCARD, offset, length)] += 1
            elif what == 3:
                tally[try_io(range_ioctl, disk.fd, BLKZEROOUT, offset, length)] += 1
            else:
                tally[try_io(disk.flush)] += 1
        if writable:
            try_io(disk.flush)
            reads()
    return tally


class Count:
    def __init__(self):
        self.images = self.refused = self.read_only = self.read_write = 0
        self.failed = self.worked = 0

    def add(self, other):
        for name, number in vars(other).items():
            setattr(self, name, getattr(self, name) + number)

    def __str__(self):
        return (f"{self.images} images: {self.refused} refused, {self.read_only} read-only, "
                f"{self.read_write} read-write; {self.worked} operations worked, "
                f"{self.failed} failed")


def try_one(control, path, data, rng, count):
    image = Image(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(CHANGES)(image)
    with open(path, "wb") as file:
        file.write(image.data)
    count.images += 1
    flags = rng.choice((0, 0, 0, NO_UNREF, NO_PASS_DISCARD, READ_ONLY))
    paths = [path]
    error, reason, index = control.attach(paths, flags)
    if error:
        expect_line(error, reason)
        flags = READ_ONLY
        if "not given" in reason.decode(errors="replace"):
            # Any sound image will do.
            paths.append(os.path.join(KEPT, sorted(os.listdir(KEPT))[0]))
        error, reason, index = control.attach(paths, flags)
    if error:
        expect_line(error, reason)
        count.refused += 1
        return
    writable = not flags & READ_ONLY
    count.read_write += writable
    count.read_only += not writable
    try:
        failed, worked = use(f"/dev/qcow{index}", rng, writable)
    finally:
        error, reason = control.detach(index)
    expect(error in (0, errno.EIO, errno.EUCLEAN), f"detach: errno {error}: {reason!r}")
    count.failed += failed
    count.worked += worked


def try_numbers(kind, data, numbers, until):
    """In a thread: images until the time is over, or there are no more."""
    control, count = Control(), Count()
    for number in numbers:
        if time.monotonic() > until:
            break
        if number % 100 == 0:
            note(f"{kind} {number}")
        path = work(f"hostile-{number}")
        try:
            try_one(control, path, data, random.Random(f"{SEED} {kind} {number}"), count)
        except Failure as failure:
            raise Failure(f"QCOW2_HOSTILE='{SEED} {kind} {number}': {failure}") from None
        os.unlink(path)
    os.close(control.fd)
    return count


def try_kind(kind, numbers, seconds):
    data, until, count = sound(kind), time.monotonic() + seconds, Count()
    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(try_numbers, kind, data, numbers, until)
                     for _ in range(THREADS)]:
            count.add(done.result())
    note(f"{kind}: {count}")
    return count


chosen = os.environ.get("QCOW2_HOSTILE")
note(f"seed {SEED}")
if chosen:
    SEED, kind, number = chosen.split()
    with case(f"image {number} made from {kind}"):
        try_kind(kind, iter([int(number)]), 60)
    finish()
total = Count()
for kind in KINDS:
    with case(f"images made from {kind}"):
        total.add(try_kind(kind, itertools.count(), SECONDS / len(KINDS)))
note(f"all: {total}")
with case("some were refused, some were served, and some of these had errors"):
    expect(total.images >= len(KINDS) and total.worked, f"nothing was tried: {total}")
    # What is tried in the time differs; of some tens the seed has all kinds.
    expect(total.images < 100 or total.refused and total.read_only and total.read_write and
           total.failed, f"not all was tried: {total}")
with case("a sound image is served after all that"):
    image = create(work("image"), MIB)
    with Device(image) as device, device.open() as disk:
        disk.write(0, b"\x11" * 4096)
        expect_same_bytes(disk.read(0, 4096), b"\x11" * 4096, "data")
    check(image)
finish()
