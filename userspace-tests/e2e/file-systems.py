#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""File systems on the device: a real tree goes in, and is there after everything."""

from e2e import *

MOUNT = "/mnt/guest"
TREES = ("drivers", "include", "Documentation", "scripts", "tools", "userspace-tests")


class FileSystem:
    def __init__(self, make, repair, size):
        self.make, self.repair, self.size = make, repair, size


EXT4 = FileSystem(("mkfs.ext4", "-q", "-F"), ("e2fsck", "-f", "-n"), 64 * MIB)
XFS = FileSystem(("mkfs.xfs", "-q", "-f"), ("xfs_repair", "-n"), 320 * MIB)


def source_trees():
    return [path for path in (os.path.join(TOP, name) for name in TREES)
            if os.path.isdir(path)]


def checksums(root):
    """Name and SHA-256 of each file below the root."""
    found = {}
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                found[os.path.relpath(path, root)] = os.readlink(path)
            elif os.path.isfile(path):
                found[os.path.relpath(path, root)] = hashlib.sha256(content(path)).hexdigest()
    return found


def copy_trees(where):
    """Copy the sources, remove a part, copy it again: blocks are reused."""
    for tree in source_trees():
        run("cp", "-a", tree, where)
    shutil.rmtree(os.path.join(where, "drivers"))
    os.sync()
    run("cp", "-a", os.path.join(TOP, "drivers"), where)
    with open(os.path.join(where, "large"), "wb") as file:
        file.write(noise(12 * MIB, 1))
    return checksums(where)


def test(kind, *options, directory=WORK, part="", **create_options):
    image = create(os.path.join(directory, "image"), kind.size, **create_options)
    with Device(image, *options) as device:
        if part:
            make_partitions(device.path)
        run(*kind.make, device.path + part)
        with mounted(device.path + part, MOUNT):
            wanted = copy_trees(MOUNT)
            expect_equal(run("qcowctl", "detach", device.path, status=None).returncode,
                         EXIT_BUSY, "status of a detach while mounted")
        run(*kind.repair, device.path + part)
    expect(len(wanted) > 20, f"only {len(wanted)} files were copied")
    check(image)
    with Device(image, "-r", *options) as device:
        run(*kind.repair, device.path + part)
        with mounted(device.path + part, MOUNT, "-o", "ro"):
            found = checksums(MOUNT)
    expect_equal(found.keys(), wanted.keys(), "names of files")
    differ = [name for name in wanted if found[name] != wanted[name]]
    expect(not differ, f"files that differ: {differ[:10]}")
    os.unlink(image)


def make_partitions(device):
    run("sfdisk", "-q", device, input="label: gpt\n,200M\n,\n")
    for number in (1, 2):
        expect(os.path.exists(f"{device}p{number}"), f"no {device}p{number}")


run("modprobe", "ext4")
run("modprobe", "xfs")
for cluster_bytes in (4096, 65536):
    with case(f"ext4, clusters of {cluster_bytes} bytes"):
        test(EXT4, cluster_size=cluster_bytes)
for cluster_bytes in (512, 65536):
    with case(f"xfs, clusters of {cluster_bytes} bytes"):
        test(XFS, cluster_size=cluster_bytes)
with case("ext4 on a partition"):
    test(FileSystem(EXT4.make, EXT4.repair, 320 * MIB), part="p1")
ram, = ram_disks(1, 384 * MIB)
with ext4_on(ram, "/mnt/ram"):
    with case("ext4, --direct-io"):
        test(EXT4, "--direct-io", directory="/mnt/ram")
    with case("xfs, --direct-io, lazy_refcounts=on"):
        test(XFS, "--direct-io", directory="/mnt/ram", lazy_refcounts="on")
finish()
