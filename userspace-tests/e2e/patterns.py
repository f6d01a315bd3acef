#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The same writes through /dev/qcowN, by qemu-io to a copy of the image, and to
a plain array of bytes: all three must agree, byte by byte."""

from e2e import *

COMPATS = ("0.10", "1.1")


def virtual_size(cluster):
    return max(256 * KIB, 16 * cluster) + 5 * SECTOR


class Preparation:
    """An image with clusters of every kind, made by qemu-io, and its contents."""

    def __init__(self, path, cluster, **options):
        self.path = path
        self.cluster = cluster
        self.size = virtual_size(cluster)
        self.model = bytearray(self.size)
        create(path, self.size, cluster_size=cluster, **options)

    def lay_out(self):
        """In turn: normal, unallocated, zero without a cluster, zero with one."""
        commands = []
        for index in range(12):
            offset = index * self.cluster
            kind = ("normal", "unallocated", "zero plain", "zero alloc")[index % 4]
            if kind == "unallocated":
                continue
            commands.append(f"write -P {index + 1} {offset} {self.cluster}")
            if kind == "normal":
                self.model[offset:offset + self.cluster] = bytes([index + 1]) * self.cluster
            else:
                unmap = "-u " if kind == "zero plain" else ""
                commands.append(f"write -z {unmap}{offset} {self.cluster}")
        qemu_io(self.path, commands)
        return self


def writes(cluster, size):
    """(offset, length) of writes: edges of clusters first, then at random."""
    chosen = random.Random(cluster)
    places = [(0, SECTOR), (cluster - SECTOR, 2 * SECTOR), (size - SECTOR, SECTOR),
              (2 * cluster, cluster), (3 * cluster - SECTOR, 3 * cluster + 2 * SECTOR)]
    for _ in range(14):
        length = chosen.randint(1, 5 * cluster // 2 // SECTOR) * SECTOR
        length = min(length, MIB)
        places.append((chosen.randint(0, (size - length) // SECTOR) * SECTOR, length))
    return [(o, n) for o, n in places if 0 <= o and o + n <= size]


def apply_to_device(disk, places, model):
    for number, (offset, length) in enumerate(places):
        data = noise(length, number)
        disk.write(offset, data)
        model[offset:offset + length] = data


def apply_by_qemu(image, places):
    commands = []
    for number, (offset, length) in enumerate(places):
        with open(work(f"pattern.{number}"), "wb") as file:
            file.write(noise(length, number))
        commands.append(f"write -s {file.name} {offset} {length}")
    qemu_io(image, commands)


def compare_all(image, other, model):
    check(image)
    same_contents(image, other)
    with open(work("model"), "wb") as file:
        file.write(model)
    same_contents(image, file.name, "raw")


def run_patterns(prepared, *options):
    """Write to the device, and the same to a copy by qemu-io; compare."""
    copy = shutil.copy(prepared.path, work("copy"))
    places = writes(prepared.cluster, prepared.size)
    with Device(prepared.path, *options) as device, device.open() as disk:
        expect_same_bytes(disk.read_all(), bytes(prepared.model), "before writing")
        apply_to_device(disk, places, prepared.model)
        expect_same_bytes(disk.read_all(), bytes(prepared.model), "after writing")
        disk.flush()
        drop_caches()
        expect_same_bytes(disk.read_all(), bytes(prepared.model), "after a flush")
    apply_by_qemu(copy, places)
    compare_all(prepared.path, copy, prepared.model)


def kinds_of_clusters():
    for compat in COMPATS:
        for cluster in (512, 1024, 4096, 8192, 65536, 2 * MIB):
            with case(f"all kinds of clusters, compat={compat}, {cluster} bytes"):
                run_patterns(Preparation(work("image"), cluster, compat=compat).lay_out())


def refcount_widths():
    for bits in (1, 2, 4, 8, 16, 32, 64):
        for cluster in (512, 65536):
            with case(f"refcount_bits={bits}, {cluster} bytes"):
                run_patterns(Preparation(work("image"), cluster, refcount_bits=bits).lay_out())


def lazy_refcounts():
    for cluster in (512, 65536):
        with case(f"lazy_refcounts=on, {cluster} bytes"):
            run_patterns(Preparation(work("image"), cluster, lazy_refcounts="on").lay_out())


def preallocations():
    for compat in COMPATS:
        for mode, cluster in (("metadata", 4096), ("metadata", 65536), ("falloc", 4096),
                              ("full", 65536)):
            with case(f"preallocation={mode}, compat={compat}, {cluster} bytes"):
                run_patterns(Preparation(work("image"), cluster, compat=compat,
                                         preallocation=mode))


def direct_io(directory):
    for cluster in (512, 4096, 65536, 2 * MIB):
        with case(f"all kinds of clusters, {cluster} bytes, --direct-io"):
            image = os.path.join(directory, "image")
            run_patterns(Preparation(image, cluster).lay_out(), "--direct-io")


kinds_of_clusters()
refcount_widths()
lazy_refcounts()
preallocations()
ram, = ram_disks(1, 256 * MIB)
with ext4_on(ram, "/mnt/ram"):
    direct_io("/mnt/ram")
finish()
