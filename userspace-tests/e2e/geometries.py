#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --timeout 900
"""Geometries at their limits beyond those of sizes.py: 64 TiB discarded as a whole,
the longest L1 table, tiny and huge overlays, and storage with sectors of 512 and
4096 bytes, buffered or not, also beneath each other in one chain."""

from e2e import *


def overlay(path, base, size, form="raw", **options):
    words = [f"{name}={value}" for name, value in options.items()]
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", form,
        *(["-o", ",".join(words)] if words else []), path, size)
    return path


def raw_file(path, size, seed=1):
    with open(path, "wb") as file:
        file.write(noise(size, seed))
    return path


def window(image, offset, length):
    """What QEMU reads there."""
    run("qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"if={image}", f"of={work('window')}",
        "bs=512", f"skip={offset // SECTOR}", f"count={(offset + length) // SECTOR}")
    found = content(work("window"))
    os.unlink(work("window"))
    return found


# ---------------------------------------------------------------------------
# Huge.


def both_ends(size, *base, **options):
    """Write at both ends, and discard everything."""
    image = overlay(work("image"), *base, size, **options) if base else \
        create(work("image"), size, **options)
    tail = size - 5 * SECTOR
    with Device(image) as device, device.open() as disk:
        expect_equal(disk.size, size, "size of the device")
        disk.write(3 * SECTOR, noise(7 * SECTOR, 1))
        disk.write(tail, noise(5 * SECTOR, 2))
        disk.flush()
    check(image)
    expect_same_bytes(window(image, 3 * SECTOR, 7 * SECTOR), noise(7 * SECTOR, 1), "the begin")
    expect_same_bytes(window(image, tail, 5 * SECTOR), noise(5 * SECTOR, 2), "the end")
    with Device(image) as device, device.open() as disk:
        expect_same_bytes(disk.read(tail, 5 * SECTOR), noise(5 * SECTOR, 2), "the end again")
        began = time.monotonic()
        run("blkdiscard", device.path, timeout=280)
        note(f"discard of {size // GIB} GiB: {time.monotonic() - began:.1f} s")
        for offset in (0, tail - MIB, size // 2):
            length = min(MIB, size - offset) // SECTOR * SECTOR
            expect(not any(disk.read(offset, length)), f"data at {offset}")
        expect(not any(disk.read(tail, 5 * SECTOR)), "data at the end")
        disk.flush()
    check(image)
    for offset in (0, tail):
        expect(not any(window(image, offset, 5 * SECTOR)), f"as QEMU reads it: data at {offset}")
    with open(image, "rb") as file:
        os.fsync(file.fileno())
        note(f"the file has {os.fstat(file.fileno()).st_blocks * SECTOR // KIB} KiB then")


def huge():
    for size, options in ((64 * TIB, {}), (64 * TIB, {"cluster_size": 2 * MIB}),
                          (16 * TIB, {"extended_l2": "on", "cluster_size": 131072})):
        with case(f"{size // TIB} TiB, both ends, all of it discarded, {options}"):
            both_ends(size, **options)
    with case("64 TiB on a backing file of 1 MiB"):
        base = raw_file(work("base"), MIB + SECTOR)
        both_ends(64 * TIB, base)
        expect_same_bytes(content(base), noise(MIB + SECTOR, 1), "the base")
    # 32 MiB of L1 table, which is the most. qemu-img counts its 65536 clusters in small
    # writes, of which refcounts of 16 bits need 15 times as many as those of one bit:
    # minutes in a guest.
    with case("the longest L1 table"):
        both_ends(128 * GIB, cluster_size=512, refcount_bits=1)


# ---------------------------------------------------------------------------
# Tiny.


def tiny_overlays():
    for size in (0, SECTOR, 3 * SECTOR):
        for options in ({"cluster_size": 512}, {}, {"cluster_size": 2 * MIB},
                        {"extended_l2": "on"}, {"compat": "0.10"}):
            with case(f"overlay of {size} bytes on a longer file, {options}"):
                base = raw_file(work("base"), MIB)
                image = overlay(work("image"), base, size, **options)
                wanted = bytearray(noise(MIB, 1)[:size])
                with Device(image) as device, device.open() as disk:
                    expect_equal(disk.size, size, "size of the device")
                    expect_same_bytes(disk.read_all(), bytes(wanted), "contents")
                    if size:
                        disk.write(size - SECTOR, noise(SECTOR, 3))
                        wanted[size - SECTOR:] = noise(SECTOR, 3)
                    expect_same_bytes(disk.read_all(), bytes(wanted), "written")
                check(image)
                expect_same_bytes(content(to_raw(image, work("raw"))), bytes(wanted),
                                  "as QEMU reads it")
    for cluster in (512, 65536, 2 * MIB):
        with case(f"1 MiB and a sector on an empty file, clusters of {cluster}"):
            raw_file(work("base"), 0)
            image = overlay(work("image"), work("base"), MIB + SECTOR, cluster_size=cluster)
            with Device(image) as device, device.open() as disk:
                disk.write(MIB, noise(SECTOR, 3))
                expect_same_bytes(disk.read_all(), bytes(MIB) + noise(SECTOR, 3), "contents")
            check(image)


# ---------------------------------------------------------------------------
# Storage with sectors of 512 and 4096 bytes.


@contextlib.contextmanager
def loop_device(name, sector):
    with open(work(name), "wb") as file:
        file.truncate(96 * MIB)
    device = run("losetup", "-f", "--show", "-b", sector, file.name).stdout.strip()
    try:
        with open(f"/sys/block/{os.path.basename(device)}/queue/logical_block_size",
                  encoding="ascii") as file:
            expect_equal(int(file.read()), sector, "sector size of the storage")
        yield device
    finally:
        run("losetup", "-d", device)


@contextlib.contextmanager
def storage(sector):
    """A file system on such a device."""
    name = f"storage-{sector}"
    with loop_device(name, sector) as device, ext4_on(device, f"/mnt/{name}") as where:
        yield where


def logical_block_size(device):
    with open(f"/sys/block/{device.name}/queue/logical_block_size", encoding="ascii") as file:
        return int(file.read())


def use(image, block, *flags, seed=1):
    """Whole blocks of the device, all over, against a model; then QEMU looks."""
    model = bytearray(content(to_raw(image, work("raw"))))
    dice = random.Random(seed)
    with Device(image, *flags) as device, device.open() as disk:
        expect_equal(logical_block_size(device), block, "block size of the device")
        expect_same_bytes(disk.read_all(), bytes(model), "at first")
        for number in range(40):
            length = min(dice.choice((1, 3, 16, 50)) * block, len(model))
            offset = dice.randrange((len(model) - length) // block + 1) * block
            if dice.random() < 0.7:
                data = noise(length, number)
                disk.write(offset, data)
                model[offset:offset + length] = data
            else:
                run("blkdiscard", "-z", "-o", offset, "-l", length, device.path)
                model[offset:offset + length] = bytes(length)
        expect_same_bytes(disk.read_all(), bytes(model), "contents")
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), bytes(model), "as QEMU reads it")


SIZE = 4 * MIB
KINDS = ({"cluster_size": 512}, {"cluster_size": 4096}, {}, {"cluster_size": 2 * MIB},
         {"extended_l2": "on"}, {"extended_l2": "on", "cluster_size": 131072})


def finest(options):
    """The smallest piece that a table of such an image stands for."""
    cluster = options.get("cluster_size", 65536)
    return cluster // 32 if "extended_l2" in options else cluster


def direct_refused(image, status=EXIT_UNSUPPORTED):
    done = run("qcowctl", "attach", "--direct-io", image, status=status)
    expect("direct" in done.stderr, f"said {done.stderr!r}")


def on_storage():
    for sector in (512, 4096):
        for options in KINDS:
            with case(f"sectors of {sector} bytes, {options}"), storage(sector) as where:
                image = create(os.path.join(where, "image"), SIZE, **options)
                use(image, 512)
                if finest(options) < sector:
                    direct_refused(image)
                else:
                    use(image, sector, "--direct-io")
        with case(f"sectors of {sector} bytes, image on the device itself"):
            with loop_device("loop", sector) as device:
                create(device, SIZE)
                use(device, 512)
                create(device, SIZE)
                use(device, sector, "--direct-io")
        with case(f"sectors of {sector} bytes, a size that is no multiple of 4096"):
            with storage(sector) as where:
                image = create(os.path.join(where, "image"), SIZE - 3 * SECTOR)
                use(image, 512)
                if sector == 512:
                    use(image, 512, "--direct-io")
                else:
                    direct_refused(image)


def null_devices():
    """Another driver of such storage, which keeps data in memory."""
    run("modprobe", "null_blk", "nr_devices=1", "gb=1", "memory_backed=1", "bs=4096",
        "discard=1")
    for options in ({}, {"cluster_size": 4096}):
        with case(f"a null device with sectors of 4096 bytes, {options}"):
            create("/dev/nullb0", SIZE, **options)
            use("/dev/nullb0", 4096, "--direct-io")
            use("/dev/nullb0", 512)


def chains_over_both():
    for upper, lower in ((512, 4096), (4096, 512)):
        for options in ({}, {"cluster_size": 4096}, {"extended_l2": "on",
                                                     "cluster_size": 131072}):
            with case(f"sectors of {upper} bytes over those of {lower}, {options}"), \
                    storage(upper) as top, storage(lower) as bottom:
                base = raw_file(os.path.join(bottom, "base"), SIZE // 2)
                was = content(base)
                middle = overlay(os.path.join(bottom, "middle"), base, SIZE // 4 * 3)
                qemu_io(middle, ["write -P 5 1M 100k", "write -z 1200k 64k"])
                image = overlay(os.path.join(top, "image"), middle, SIZE, "qcow2", **options)
                use(image, 512)
                use(image, 4096, "--direct-io", seed=2)
                expect_same_bytes(content(base), was, "the base")
        with case(f"sectors of {upper} bytes over those of {lower}, fine layer"), \
                storage(upper) as top, storage(lower) as bottom:
            middle = create(os.path.join(bottom, "middle"), SIZE, cluster_size=512)
            qemu_io(middle, ["write -P 5 1M 100k"])
            image = overlay(os.path.join(top, "image"), middle, SIZE, "qcow2")
            use(image, 512)
            direct_refused(image)


run("modprobe", "loop")
huge()
tiny_overlays()
on_storage()
null_devices()
chains_over_both()
finish()
