# SPDX-License-Identifier: GPL-2.0-only
"""Reads what dm-log-writes wrote, and makes of it what a power cut would leave.

The log has the writes in the order in which they became durable at the latest:
those that were complete when a flush began come in front of that flush, FUA
writes when they were done. So the log is a row of epochs, each a flush and what
follows it. When the power goes in an epoch, all before it is on the disk, and its
FUA writes are; of its other writes any may be, or parts of them.

Two things are lost in the log: that a FUA write came after an older write to the same
place, which is logged by the next flush, and the order of writes whose flushes ran at
once. So what writes has to come through a loop device (see through_loop), which
makes of FUA a write and a flush, and has one flush at a time.
"""

import random
import struct

from e2e import *

SUPER = struct.Struct("<QQQI")
ENTRY = struct.Struct("<QQQQ")
MAGIC = 0x6a736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
LAST_MARK = "dm-log-writes-end"


@contextlib.contextmanager
def through_loop(device):
    loop = run("losetup", "-f", "--show", "--direct-io=on", device).stdout.strip()
    try:
        yield loop
    finally:
        run("losetup", "-d", loop)


class Entry:
    """One of the log: sectors of 512 bytes; where its data is in the log."""

    def __init__(self, sector, count, flags, data_at, mark):
        self.sector, self.count, self.flags = sector, count, flags
        self.data_at, self.mark = data_at, mark

    @property
    def at_will(self):
        """Before the next flush it may be on the disk or not."""
        return bool(self.count) and not self.flags & (FUA | MARK)


def read_log(path):
    """The entries, all of which must be there."""
    entries = []
    with open(path, "rb") as log:
        magic, version, count, sector_size = SUPER.unpack(log.read(SUPER.size))
        expect_equal((magic, version), (MAGIC, 1), "magic and version of the log")
        scale, place = sector_size // SECTOR, sector_size
        for _ in range(count):
            log.seek(place)
            sector, sectors, flags, length = ENTRY.unpack(log.read(ENTRY.size))
            mark = log.read(length).decode() if flags & MARK else None
            place += sector_size
            entries.append(Entry(sector * scale, sectors * scale, flags, place, mark))
            if not flags & DISCARD:
                place += sectors * sector_size
    expect(entries and entries[-1].mark == LAST_MARK, "the log is not whole: too small?")
    return entries


class Epoch:
    """Entries behind a flush, up to the next one; the marks up to its end."""

    def __init__(self, first):
        self.first = self.end = first
        self.seen = []

    def __len__(self):
        return self.end - self.first


def split(entries):
    """The epochs in which a write or a mark came."""
    epochs, marks, epoch = [], [], Epoch(0)
    for index, entry in enumerate(entries):
        if entry.mark:
            marks.append(entry.mark)
        if entry.flags & FLUSH or index == len(entries) - 1:
            epoch.end, epoch.seen = index, len(marks)
            if len(epoch):
                epochs.append(epoch)
            epoch = Epoch(index)
    for epoch in epochs:
        epoch.seen = marks[:epoch.seen]
    return epochs


class Replay:
    """A file that becomes what the disk was, epoch after epoch."""

    def __init__(self, log, path, size):
        self.entries = read_log(log)
        self.log = open(log, "rb")
        self.path, self.done = path, 0
        self.disk = open(path, "w+b", buffering=0)
        self.disk.truncate(size)
        self.skipping = os.environ.get("QCOW2_E2E_SABOTAGE") == "replay"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.log.close()
        self.disk.close()
        os.unlink(self.path)

    def advance(self, end):
        """All entries before the end."""
        for entry in self.entries[self.done:end]:
            if not (self.skipping and self.lost(entry)):
                self.put(self.disk, entry)
        self.done = max(self.done, end)

    def lost(self, entry):
        """Sabotage: the disk loses a part of what it was to make durable."""
        return entry.at_will and entry.data_at // SECTOR % 3 == 0

    def put(self, disk, entry, chosen=None):
        """An entry, or of its sectors those chosen."""
        if entry.mark or not entry.count:
            return
        if entry.flags & DISCARD:
            data = bytes(entry.count * SECTOR)
        else:
            self.log.seek(entry.data_at)
            data = self.log.read(entry.count * SECTOR)
        if chosen is None:
            os.pwrite(disk.fileno(), data, entry.sector * SECTOR)
            return
        for index in chosen:
            os.pwrite(disk.fileno(), data[index * SECTOR:(index + 1) * SECTOR],
                      (entry.sector + index) * SECTOR)

    def cut(self, epoch, path, choice=None, tear=True):
        """The disk, as a file, when the power goes at the end of an epoch: without
        the writes that no flush followed, or with some, chosen by a Random."""
        self.advance(epoch.first)
        shutil.copyfile(self.path, path)
        with open(path, "r+b", buffering=0) as disk:
            for entry in self.entries[epoch.first:epoch.end + 1]:
                if not entry.at_will:
                    self.put(disk, entry)
                elif choice:
                    self.put_some(disk, entry, choice, tear)
        return path

    def put_some(self, disk, entry, choice, tear):
        fate = choice.random()
        if fate < 0.35:
            self.put(disk, entry)
        elif fate < 0.65 and tear:
            some = choice.sample(range(entry.count), choice.randrange(entry.count + 1))
            self.put(disk, entry, some)
