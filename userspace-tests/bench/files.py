# SPDX-License-Identifier: GPL-2.0-only
"""Many small files in an ext4 on a device: made, written, looked at, renamed and removed,
with an fsync now and then."""

from measure import *

MOUNT_POINT = "/mnt/files"
DIRECTORIES = 16
# Files that are there at a time, and how many are made between two calls of fsync.
KEPT, SYNC_EVERY = 512, 8


def make_file_system(target):
    """Nothing is discarded or zeroed, which would take away what is allocated; mount is
    not to do it in the background either (noinit_itable)."""
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
        target)


def write_file(path, data, synced):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        os.write(fd, data)
        if synced:
            os.fsync(fd)
    finally:
        os.close(fd)


class Files:
    """Each step is some operations on one new file and on old ones."""

    def __init__(self, root, seed):
        self.root, self.choose = root, random.Random(seed)
        self.data = noise(32 * KIB, seed)
        self.names, self.made, self.operations = [], 0, 0
        for number in range(DIRECTORIES):
            os.mkdir(self.path(number, ""))

    def path(self, directory, name):
        return os.path.join(self.root, f"directory-{directory}", name)

    def somewhere(self):
        self.made += 1
        return self.path(self.choose.randrange(DIRECTORIES), f"file-{self.made}")

    def step(self):
        new = self.somewhere()
        synced = self.made % SYNC_EVERY == 0
        write_file(new, self.data[:self.choose.randrange(1, len(self.data))], synced)
        old = self.choose.randrange(len(self.names) + 1)
        self.names.append(new)
        os.stat(self.names[old])
        moved = self.somewhere()
        os.rename(self.names[old], moved)
        self.names[old] = moved
        # Made, written, looked at, renamed.
        self.operations += 4 + synced
        if len(self.names) > KEPT:
            old = self.choose.randrange(len(self.names))
            os.unlink(self.names[old])
            self.names[old] = self.names[-1]
            self.names.pop()
            self.operations += 1


def use_files(target, seconds, seed):
    """Operations for each second, until all is written and the file system unmounted."""
    make_file_system(target)
    with mounted(target, MOUNT_POINT, "-o", "noinit_itable"):
        files = Files(MOUNT_POINT, seed)
        before, began = busy("/proc/stat"), time.monotonic()
        while time.monotonic() < began + seconds:
            files.step()
    took, used = time.monotonic() - began, busy("/proc/stat") - before
    return {"ios": files.operations, "seconds": took, "iops": files.operations / took,
            "cpu_us": used * 1e6 / files.operations}
