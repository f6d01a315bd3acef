#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""An image that was not closed cleanly is repaired when it is attached for writing,
and left alone when it is attached read-only."""

import signal

from e2e import *

INCOMPATIBLE = 72
DIRTY, CORRUPT = 1, 2
LINE = "not closed cleanly; refcounts rebuilt"


def is_dirty(image):
    return bool(field(image, INCOMPATIBLE, "Q") & DIRTY)


def crash(image, *commands):
    """QEMU opens the image, does this, and dies."""
    words = [word for command in (*commands, "sigraise 9") for word in ("-c", command)]
    run("qemu-io", "-f", "qcow2", *words, image, status=-signal.SIGKILL)


def make_crashed(image, size, cluster, **options):
    """An image with lazy refcounts as a crash of QEMU leaves it; what its disk holds."""
    create(image, size, cluster_size=cluster, lazy_refcounts="on", **options)
    crash(image, f"write -q -P 1 0 {size // 2}", f"write -q -z {size // 4} {size // 8}",
          f"write -q -P 2 {size - 3 * SECTOR} {2 * SECTOR}")
    expect(is_dirty(image), "QEMU has left it clean")
    done = run("qemu-img", "check", "-f", "qcow2", image, status=None)
    expect(done.returncode != 0, "QEMU has left the refcounts right")
    return content(to_raw(image, work("raw"), "-U"))


def lines():
    return kernel_log().count(LINE)


def repair(image, wanted, *options):
    """Attach, look, change something, detach: clean, and right."""
    before = lines()
    data = noise(64 * KIB, 1)
    with Device(image, *options) as device, device.open() as disk:
        expect_equal(lines(), before + 1, "lines in the kernel's log")
        expect_same_bytes(disk.read_all(), wanted, "the disk")
        disk.write(disk.size // 2, data)
    wanted = wanted[:len(wanted) // 2] + data + wanted[len(wanted) // 2 + len(data):]
    expect(not is_dirty(image), "still dirty")
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), wanted, "the disk as QEMU reads it")
    before = lines()
    with Device(image, *options):
        pass
    expect_equal(lines(), before, "lines in the kernel's log after a clean attach")


def crashed(name, cluster, *attach_options, directory=WORK, **options):
    with case(name):
        image = os.path.join(directory, "image")
        repair(image, make_crashed(image, 4 * MIB, cluster, **options), *attach_options)


def read_only():
    with case("read-only: served as it is, and not changed"):
        image = work("image")
        wanted = make_crashed(image, 4 * MIB, 65536)
        before, log = digest(image), lines()
        with Device(image, "-r") as device, device.open(os.O_RDONLY) as disk:
            expect_same_bytes(disk.read_all(), wanted, "the disk")
        expect_equal(digest(image), before, "the image file")
        expect_equal(lines(), log, "lines in the kernel's log")
        repair(image, wanted)


def corrupt():
    with case("dirty and corrupt: refused for writing, read-only works"):
        image = work("image")
        wanted = make_crashed(image, 4 * MIB, 65536)
        patch(image, INCOMPATIBLE, "Q", DIRTY | CORRUPT)
        before = digest(image)
        done = run("qcowctl", "attach", image, status=EXIT_INVALID)
        expect("marked corrupt" in done.stderr, f"the reason is {done.stderr!r}")
        with Device(image, "-r") as device, device.open(os.O_RDONLY) as disk:
            expect_same_bytes(disk.read_all(), wanted, "the disk")
        expect_equal(digest(image), before, "the image file")


def own_crash():
    """What the file holds while the image is attached is what a crash would leave."""
    with case("a crash of this driver, with lazy refcounts"):
        image, copy = work("image"), work("copy")
        create(image, 8 * MIB, cluster_size=4096, lazy_refcounts="on")
        model = bytearray(8 * MIB)
        with Device(image) as device, device.open() as disk:
            for number in range(20):
                data = noise(100 * KIB, number)
                place = number * 311 * KIB
                disk.write(place, data)
                model[place:place + len(data)] = data
            disk.flush()
            shutil.copyfile(image, copy)
        expect(is_dirty(copy), "the copy is clean")
        expect(run("qemu-img", "check", "-f", "qcow2", copy, status=None).returncode,
               "the refcounts of the copy are right")
        repair(copy, bytes(model))


def endless():
    """An image whose references take a long time to be counted: each of the 131072 entries
    of its L1 table but the first leads to an L2 table that is a hole in the file. Also
    returns where the L1 table is."""
    image = create(work("image"), 64 * TIB, cluster_size=65536)
    qemu_io(image, ["write -q -P 5 0 64k"])
    l1_offset, l1_entries = field(image, 40, "Q"), field(image, 36, "I")
    first = 16 * MIB
    with open(image, "r+b") as file:
        file.seek(l1_offset + 8)
        file.write(struct.pack(f">{l1_entries - 1}Q",
                               *(1 << 63 | first + number * 65536
                                 for number in range(l1_entries - 1))))
        file.truncate(first + l1_entries * 65536)
    patch(image, INCOMPATIBLE, "Q", DIRTY)
    return image, l1_offset, l1_entries


def killed():
    """It dies at once, and the next attach begins anew."""
    with case("attach is killed while it repairs"):
        image, l1_offset, l1_entries = endless()
        log = lines()
        tables = field(image, 0, f"{16 * MIB}s")
        with running("qcowctl", "attach", image) as process:
            time.sleep(1)
            process.kill()
            start = time.monotonic()
            output, _ = process.communicate(timeout=60)
            took = time.monotonic() - start
        note(f"it took {took:.2f} s to die")
        expect_equal(process.returncode, -signal.SIGKILL, f"status, with {output!r}")
        expect(took < 10, f"it took {took:.1f} s to die")
        expect_equal(attached(), [], "attached devices")
        expect_equal(field(image, 0, f"{len(tables)}s"), tables, "the tables in the file")
        expect_equal(lines(), log, "lines in the kernel's log")
        with open(image, "r+b") as file:
            file.seek(l1_offset + 8)
            file.write(bytes(8 * (l1_entries - 1)))
        with Device(image) as device, device.open() as disk:
            expect_equal(lines(), log + 1, "lines in the kernel's log")
            expect_same_bytes(disk.read(0, 64 * KIB), b"\5" * 64 * KIB, "the data")
            disk.write(TIB, b"\6" * SECTOR)
        check(image)


for cluster_bytes in (512, 4096, 65536, 2 * MIB):
    crashed(f"clusters of {cluster_bytes} bytes", cluster_bytes)
for bits in (1, 8, 64):
    crashed(f"refcount_bits={bits}", 4096, refcount_bits=bits)
crashed("extended L2 entries", 65536, extended_l2="on")
ram, = ram_disks(1, 256 * MIB)
with ext4_on(ram, "/mnt/ram"):
    crashed("--direct-io", 65536, "--direct-io", directory="/mnt/ram")
read_only()
corrupt()
own_crash()
killed()
finish()
