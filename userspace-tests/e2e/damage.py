#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Damaged images: nothing is written over metadata, and everybody is told. And
block devices that hold an image are not for others."""

from e2e import *

EXIT_LOST = 9
CLUSTER = 64 * KIB
COPIED = 1 << 63


def l2_table(image):
    return field(image, field(image, 40, "Q"), "Q") & ~COPIED


def damaged_image(target):
    """Guest cluster 1 is said to lie where something else is. There are snapshots,
    and what is active shares no cluster with them."""
    image = create(work("image"), 16 * CLUSTER)
    for name in ("first", "second"):
        qemu_io(image, [f"write -P 4 0 {2 * CLUSTER}"])
        run("qemu-img", "snapshot", "-c", name, image)
    qemu_io(image, [f"write -P 5 0 {2 * CLUSTER}"])
    patch(image, l2_table(image) + 8, "Q", COPIED | target(image))
    return image


def snapshot_l1(image):
    """The L1 table of the first one."""
    return field(image, field(image, 64, "Q"), "Q")


def expect_qemu_refuses(image, what):
    """What QEMU would do with a write to guest cluster 1."""
    copy = shutil.copy(image, work("copy"))
    done = run("qemu-io", "-f", "qcow2", "-c", f"write {CLUSTER} 512", copy, status=1)
    wanted = what.replace("the L1", "active L1").removeprefix("the ") \
        .removeprefix("an ").removeprefix("a ").replace("L2", "active L2")
    expect(f"overlaps with {wanted}" in done.stderr, f"QEMU says {done.stderr}")


def expect_errors(disk, offset):
    try:
        disk.write(offset, b"\x01" * SECTOR)
    except OSError:
        return
    raise Failure("a write over metadata went through")


def test_overlap(target, what):
    image = damaged_image(target)
    expect_qemu_refuses(image, what)
    before = digest(image)
    device = Device(image)
    with device.open() as disk:
        expect_errors(disk, CLUSTER)
        expect_errors(disk, 0)      # no more writes at all
        expect_same_bytes(disk.read(0, SECTOR), b"\x05" * SECTOR, "what is sound")
    expect_equal(device.state(), "needs-check", "the state")
    expect(what in kernel_log(), f"the kernel log does not name {what}")
    done = run("qcowctl", "detach", device.path, status=EXIT_LOST)
    expect("qemu-img check" in done.stderr, f"detach says {done.stderr}")
    expect_equal(field(image, 72, "Q"), 2, "incompatible features: the corrupt bit")
    patch(image, 72, "Q", 0)
    expect_equal(digest(image), before, "all but the corrupt bit")
    patch(image, 72, "Q", 2)
    run("qcowctl", "attach", image, status=EXIT_INVALID)
    with Device(image, "-r") as again, again.open(os.O_RDONLY) as disk:
        disk.read(0, SECTOR)


def test_claimed(device):
    create(device, 16 * MIB)
    with Device(device):
        done = run("mkfs.ext4", "-q", device, status=None)
        expect(done.returncode != 0, "mkfs on the device of an attached image")
        os.makedirs("/mnt/claimed", exist_ok=True)
        done = run("mount", device, "/mnt/claimed", status=None)
        expect(done.returncode != 0, "mount of the device of an attached image")
        run("qcowctl", "attach", device, status=EXIT_BUSY)
    check(device)
    run("mkfs.ext4", "-q", "-F", device)
    with mounted(device, "/mnt/claimed"):
        done = run("qcowctl", "attach", device, status=EXIT_BUSY)
        expect("mounted" in done.stderr, f"attach says {done.stderr}")


TARGETS = {
    "the L1 table": lambda image: field(image, 40, "Q"),
    "the refcount table": lambda image: field(image, 48, "Q"),
    "an L2 table": l2_table,
    "a refcount block": lambda image: field(image, field(image, 48, "Q"), "Q"),
    "the snapshot table": lambda image: field(image, 64, "Q"),
    "an inactive L1 table": snapshot_l1,
}
for name, place in TARGETS.items():
    with case(f"a data cluster on {name}"):
        test_overlap(place, name)
ram, = ram_disks(1, 64 * MIB)
with case("a block device that holds an image is claimed"):
    test_claimed(ram)
finish()
