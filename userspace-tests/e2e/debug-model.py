#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --kernel uml-debug --timeout 1800
"""The random model in the kernel that looks for what no result shows: memory used
after it was freed or never freed, locks taken in two orders, sleep where none may be."""

import blkmodel
from e2e import *

KMEMLEAK = "/sys/kernel/debug/kmemleak"


def expect_debug_kernel():
    """Else the rest would look for nothing. (Both are there in such a kernel only.)"""
    expect(os.path.exists(KMEMLEAK), "no kmemleak")
    expect(os.path.exists("/proc/lockdep_stats"), "no lockdep")
    symbols = content("/proc/kallsyms")
    expect(b" kasan_report\n" in symbols, "no KASAN")
    state = next(line for line in content("/proc/lockdep_stats").decode().splitlines()
                 if "debug_locks" in line)
    expect_equal(state.split()[-1], "1", "debug_locks: has lockdep given up?")


def scan():
    """Younger objects are not looked at. A leak whose address is still on some stack or
    in a cache of free objects is not found: of many of a kind most are, of few none."""
    time.sleep(6)
    for _ in range(2):
        with open(KMEMLEAK, "w", encoding="ascii") as file:
            file.write("scan")
    return content(KMEMLEAK).decode(errors="replace")


def unload_and_load():
    run("rmmod", "qcow2")
    leaks = scan()
    expect(not leaks, f"kmemleak:\n{leaks[:4000]}")
    run("insmod", os.path.join(os.environ["QCOW2_BUILD"], "drivers/block/qcow2/qcow2.ko"))


def chain(directory):
    """An overlay on one that keeps its data elsewhere, on one with compressed clusters,
    on a raw file; each sector of them says one number over and over, as the model
    wants. Its name, and that of a file with what the disk holds."""
    size = blkmodel.SIZE
    bottom, packed, split, image, holds = (os.path.join(directory, name) for name in (
        "bottom", "packed", "split", "image", "holds"))
    with open(bottom, "wb") as file:
        for number in range(8 * MIB // SECTOR):
            file.write((0xb0000000 | number).to_bytes(4, "little") * (SECTOR // 4))
    create(packed, size, backing_file=bottom, backing_fmt="raw")
    qemu_io(packed, [f"write -c -P {17 + n} {n * 448 * KIB} 64k" for n in range(25)] +
            ["write -z 3M 200k"])
    create(split, size, backing_file=packed, backing_fmt="qcow2", data_file=f"{split}.data")
    qemu_io(split, [f"write -P {64 + n} {n * 640 * KIB + 512} 100k" for n in range(18)] +
            ["write -z 5M 300k"])
    create(image, size, backing_file=split, backing_fmt="qcow2")
    return image, to_raw(image, holds)


def chain_case(title, seed, *options, directory=WORK):
    with case(f"random operations on a chain{title}"):
        image, holds = chain(directory)
        below = [os.path.join(directory, name)
                 for name in ("bottom", "packed", "split", "split.data")]
        was = [digest(path) for path in below]
        model.use(image, seed, *options, holds=holds)
        expect_equal([digest(path) for path in below], was, "the files below")


def scattered(directory):
    """Clusters that lie in the file in the reverse order, and are no larger than its
    file system's blocks: a read has as many transfers, and each is over while the file
    system still looks at what asked for it."""
    image = create(os.path.join(directory, "scattered"), MIB, cluster_size=512)
    qemu_io(image, [f"write -P {n} {n * 512} 512" for n in reversed(range(1, 64))])
    expected = to_raw(image, os.path.join(directory, "scattered.raw"))
    with Device(image, "--direct-io") as device:
        expect_same_bytes(content(device.path), content(expected), "what the disk holds")


def model_case(title, *arguments, **options):
    with case(f"random operations, {title}"):
        model.run(*arguments, **options)


# What the kernel said of itself at its boot is none of the driver's.
booted = len(kernel_log().splitlines())
with case("the kernel can see it"):
    expect_debug_kernel()
# A boot takes a minute there or more, and each process that is started a second.
model = blkmodel.Model(1500 if LONG else 60, timeout=400)
model_case("extended L2", 100, extended_l2="on", cluster_size=16 * KIB)
chain_case("", 105)
ram, = ram_disks(1, 128 * MIB)
with ext4_on(ram, "/mnt/ram"):
    model_case("--direct-io", 101, "--direct-io", directory="/mnt/ram", cluster_size=4096)
    with case("one read, many transfers, --direct-io"):
        scattered("/mnt/ram")
    if LONG:
        chain_case(", --direct-io", 106, "--direct-io", directory="/mnt/ram")
        model_case("clusters of 512 bytes", 102, cluster_size=512)
        model_case("clusters of 65536 bytes", 103)
        model_case("--direct-io, extended L2", 104, "--direct-io", directory="/mnt/ram",
                   extended_l2="on")
with case("an attach that is refused"):
    image = create(work("image"), MIB)
    patch(image, 48, "Q", 1)
    run("qcowctl", "attach", image, status=EXIT_INVALID)
with case("rmmod leaves no memory behind"):
    unload_and_load()
with case("lockdep is still awake, and the log is quiet"):
    expect_debug_kernel()
    expect_quiet_log(booted)
finish()
