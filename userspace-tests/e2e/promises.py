# SPDX-License-Identifier: GPL-2.0-only
"""Traffic on a file system that fsyncs as careful programs do, and notes what must
be there from then on, whenever the power goes."""

import random
import struct

from e2e import *

RECORD_BYTES, RECORDS = 4 * KIB, 48
RECORD = struct.Struct("<IIII")


class Promises:
    """For each thing the marks at which the set of its allowed values changed."""

    def __init__(self, marks):
        self.marks, self.formatted, self.made = marks, None, {}

    def make(self, thing, *values):
        self.made.setdefault(thing, []).append((self.marks.make(), values))

    def allowed(self, seen):
        """(thing, values) of those of which something was promised by then."""
        for thing, entries in self.made.items():
            values = [values for number, values in entries if number <= seen]
            if values:
                yield thing, values[-1]

    def expect_kept(self, root, seen):
        for thing, values in self.allowed(seen):
            if isinstance(thing, int):
                expect_record(root, thing, values)
            else:
                found = digest_of(os.path.join(root, thing))
                expect(found in values, f"{thing}: found {found}, promised {values}")


def digest_of(path):
    return hashlib.sha256(content(path)).hexdigest() if os.path.exists(path) else None


def fsync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---------------------------------------------------------------------------
# Records, which are overwritten where they are.


def record(number, version):
    return b"".join(RECORD.pack(number, version, sector, 0x7265636f) * (SECTOR // RECORD.size)
                    for sector in range(RECORD_BYTES // SECTOR))


def expect_record(root, number, versions):
    """Each of its sectors is of one of the versions."""
    with open(os.path.join(root, "records"), "rb") as file:
        file.seek(number * RECORD_BYTES)
        found = file.read(RECORD_BYTES)
    wanted = [record(number, version) for version in versions]
    for at in range(0, RECORD_BYTES, SECTOR):
        expect(found[at:at + SECTOR] in [version[at:at + SECTOR] for version in wanted],
               f"record {number}, byte {at}: found {found[at:at + 16].hex()}, "
               f"promised versions {versions}")


# ---------------------------------------------------------------------------


class Traffic:
    def __init__(self, root, promises, seed):
        self.root, self.promises, self.random = root, promises, random.Random(seed)
        self.files = {}
        self.versions = [0] * RECORDS
        self.created = 0
        self.config = None

    def path(self, name):
        return os.path.join(self.root, name)

    def write(self, name, largest):
        data = self.random.randbytes(self.random.randint(1, largest))
        with open(self.path(name), "wb") as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()

    def make_records(self):
        with open(self.path("records"), "wb") as file:
            for number in range(RECORDS):
                file.write(record(number, 0))
        fsync(self.path("records"))
        fsync(self.root)
        for number in range(RECORDS):
            self.promises.make(number, 0)

    def update_record(self):
        number = self.random.randrange(RECORDS)
        old = self.versions[number]
        self.promises.make(number, old, old + 1)
        with Disk(self.path("records"), os.O_RDWR) as file:
            file.write(number * RECORD_BYTES, record(number, old + 1))
            os.fdatasync(file.fd)
        self.promises.make(number, old + 1)
        self.versions[number] = old + 1

    def create(self):
        """Most are made durable; the others are the disorder in which that is done."""
        self.created += 1
        name = f"file-{self.created}"
        found = self.write(name, 200 * KIB)
        if self.random.random() < 0.6:
            fsync(self.path(name))
            self.promises.make(name, found)
            self.files[name] = found

    def delete(self):
        if len(self.files) > 8:
            name = self.random.choice(sorted(self.files))
            self.promises.make(name, self.files.pop(name), None)
            os.unlink(self.path(name))

    def replace(self):
        """The file is the old one or the new one, at any time."""
        new = self.write("config.new", 20 * KIB)
        fsync(self.path("config.new"))
        self.promises.make("config", self.config, new)
        os.rename(self.path("config.new"), self.path("config"))
        fsync(self.root)
        self.promises.make("config", new)
        self.config = new


def traffic(root, promises, seed, rounds):
    """Creates, overwrites, renames, deletes and trims."""
    work_on = Traffic(root, promises, seed)
    work_on.make_records()
    for number in range(rounds):
        work_on.create()
        work_on.create()
        work_on.update_record()
        work_on.delete()
        if number % 3 == 0:
            work_on.replace()
        if number % 5 == 4:
            run("fstrim", root)
    expect(len(work_on.files) > 4, "too few files")
