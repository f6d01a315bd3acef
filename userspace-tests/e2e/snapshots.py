#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Writes to an image that has internal snapshots leave the snapshots alone; and it
is told which device shows which snapshot."""

import array
import errno
import fcntl

from e2e import *

SNAPSHOTS = ("first", "second")


def make_image(path, cluster, **options):
    """An image with two snapshots and newer data; what each of them holds."""
    size = 16 * cluster + 64 * KIB
    create(path, size, cluster_size=cluster, **options)
    contents = {}
    for number, name in enumerate(SNAPSHOTS):
        qemu_io(path, [f"write -P {10 + number} {number * cluster} {12 * cluster}",
                       f"write -z {(4 + number) * cluster} {cluster}"])
        run("qemu-img", "snapshot", "-c", name, path)
        contents[name] = digest(to_raw(path, work("raw")))
    qemu_io(path, [f"write -P 20 {3 * cluster} {cluster}"])
    return contents


def places(cluster):
    """A head, a tail, whole clusters, some of them twice, and new ones."""
    middle = 6 * cluster + cluster // 2 // SECTOR * SECTOR
    return [(0, SECTOR), (2 * cluster - SECTOR, SECTOR), (2 * cluster, 3 * cluster),
            (middle, cluster), (middle, SECTOR),
            (11 * cluster, 4 * cluster), (3 * cluster, SECTOR)]


def overwrite(image, cluster, model, *options):
    with Device(image, *options) as device, device.open() as disk:
        for number, (offset, length) in enumerate(places(cluster)):
            data = noise(length, number)
            disk.write(offset, data)
            model[offset:offset + length] = data
        expect_same_bytes(disk.read_all(), bytes(model), "the active view")


def expect_snapshots(image, contents):
    for name, wanted in contents.items():
        raw = to_raw(image, work("raw"), "-l", f"snapshot.name={name}")
        expect_equal(digest(raw), wanted, f"contents of the snapshot {name}")


def delete_snapshots(image, model):
    """Every reference that a write dropped or kept must be counted right."""
    for name in SNAPSHOTS:
        run("qemu-img", "snapshot", "-d", name, image)
        check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), bytes(model),
                      "the active view without snapshots")


def test(cluster, *options, directory=WORK, **create_options):
    image = os.path.join(directory, "image")
    contents = make_image(image, cluster, **create_options)
    model = bytearray(content(to_raw(image, work("raw"))))
    for _ in range(2):
        overwrite(image, cluster, model, *options)
        check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), bytes(model),
                      "the active view as QEMU reads it")
    expect_snapshots(image, contents)
    delete_snapshots(image, model)


# ---------------------------------------------------------------------------
# Which device shows what.

QCOW2_CTL_QUERY = 0xbc02
# Up to `openers`, and what came later.
QUERY_FORM, QUERY_OLD_BYTES = "=IIiIQIIQIIQQII", 48
QUERY_BYTES = struct.calcsize(QUERY_FORM)
STATE_READ_ONLY, STATE_SNAPSHOT = 1 << 0, 1 << 5
NAME_MAX = 1024
UNTOUCHED = b"?" * 2 * NAME_MAX


def told(device):
    entry = next(e for e in attached() if e["name"] == device.path)
    return entry["snapid"], entry["snapshot"], entry["ro"], entry["state"]


def expect_told(device, *wanted):
    expect_equal(told(device), (*wanted, True, "read-only"), f"{device.name}: what list tells")


def listed(image):
    """By ID and by name, while the image is attached; names as QEMU allows them."""
    create(image, MIB)
    names = ["first", "2", "a b", "\u00e9", "1"]
    for name in names:
        run("qemu-img", "snapshot", "-c", name, image)
    with Device(image) as device:
        for number, name in enumerate(names, 1):
            with Device(image, "--snapshot", str(number)) as by_id:
                expect_told(by_id, str(number), name)
        # An ID goes before a name, so "1" and "2" are not these.
        for number, name in ((1, "first"), (3, "a b"), (4, "\u00e9")):
            with Device(image, "--snapshot", name) as one, Device(image, "--snapshot", "2") as two:
                expect_told(one, str(number), name)
                expect_told(two, "2", "2")
                expect_equal(told(device), (None, None, False, "ok"), "what list tells")
    with Device(image, "-r") as device:
        expect_told(device, None, None)
    text = run("qcowctl", "list", "--list-columns").stdout.split()
    expect_equal(text[-3:], ["SNAPID", "SNAPSHOT", "IMAGE"], "columns")


def beneath_others(image):
    """An image's snapshot is its own, not that of one that stands on it."""
    create(image, MIB)
    run("qemu-img", "snapshot", "-c", "of the base", image)
    create(work("over"), MIB, backing_file=image, backing_fmt="qcow2")
    with Device(image, "--snapshot", "1") as base, Device(work("over"), "-r") as over:
        expect_told(base, "1", "of the base")
        expect_told(over, None, None)


def snapshot_entry(image, identity, name):
    """Has the only entry of the table another ID and name, of any length."""
    table = field(image, 64, "Q")
    extra = field(image, table + 36, "I")
    patch(image, table + 12, "H", len(identity))
    patch(image, table + 14, "H", len(name))
    patch(image, table + 40 + extra, f"{len(identity + name)}s", identity + name)


def query(length=QUERY_BYTES, tail=b"", size=NAME_MAX, reserved=0, buffers=(True, True)):
    """The ioctl itself, for device 0: errno, state, ID and name."""
    texts = [array.array("B", UNTOUCHED) for _ in range(2)]
    places = [text.buffer_info()[0] if wanted else 0 for text, wanted in zip(texts, buffers)]
    request = struct.pack(QUERY_FORM, length + len(tail), 0, 0, 0, 0, 0, 0, 0, 0, 0,
                          *places, size, reserved)[:length] + tail
    argument = bytearray(request) + UNTOUCHED
    error = 0
    with open("/dev/qcow-control", "r+b", buffering=0) as control:
        try:
            fcntl.ioctl(control, QCOW2_CTL_QUERY, argument)
        except OSError as failure:
            error = failure.errno
    expect(argument[len(request):] == UNTOUCHED, "the kernel writes behind the struct")
    for text in texts:
        used = text.tobytes().split(b"\0")[0] if 0 in text else b""
        expect(text.tobytes()[min(len(used) + 1, size):] == UNTOUCHED[min(len(used) + 1, size):]
               or text.tobytes() == UNTOUCHED, "the kernel writes behind a text")
    found = [None if text.tobytes() == UNTOUCHED else text.tobytes().split(b"\0")[0]
             for text in texts]
    return error, struct.unpack_from("=I", argument, 12)[0], *found


def interface():
    """Callers that are older or newer than the driver, and buffers of all sizes."""
    image = create(work("image"), MIB)
    with Device(image):
        expect_equal(query(), (0, 0, b"", b""), "no snapshot")
    run("qemu-img", "snapshot", "-c", "before", image)
    both = STATE_READ_ONLY | STATE_SNAPSHOT
    with Device(image, "--snapshot", "1"):
        for title, found, wanted in (
                ("all", query(), (0, both, b"1", b"before")),
                ("an old caller", query(QUERY_OLD_BYTES), (0, both, None, None)),
                ("a newer caller", query(tail=bytes(16)), (0, both, b"1", b"before")),
                ("more than is known", query(tail=b"\1"), (errno.E2BIG, 0, None, None)),
                ("a reserved member", query(reserved=1), (errno.EINVAL, 0, None, None)),
                ("only the ID", query(buffers=(True, False)), (0, both, b"1", None)),
                ("only the name", query(buffers=(False, True)), (0, both, None, b"before")),
                ("neither", query(buffers=(False, False), size=0), (0, both, None, None)),
                ("just enough room", query(size=7), (0, both, b"1", b"before")),
                ("too little room", query(size=6)[0], errno.ENAMETOOLONG),
                ("no room", query(size=0), (errno.ENAMETOOLONG, 0, None, None))):
            expect_equal(found, wanted, title)


def any_names():
    """What other programs, or hostile ones, may have put into the table."""
    image = create(work("image"), MIB)
    run("qemu-img", "snapshot", "-c", "x", image)
    for identity, name, told_name in (
            (b"id", b"n" * 1023, b"n" * 1023), (b"id", b"n" * 1024, b"n" * 1023),
            (b"id", b"n" * 30000, b"n" * 1023), (b"id", b"", b""),
            (b"id", b"a\nb\x1b\xff", b"a\nb\x1b\xff"), (b"id", b"a\0b", b"a")):
        snapshot_entry(image, identity, name)
        with Device(image, "--snapshot", "id") as device:
            expect_equal(query(), (0, STATE_READ_ONLY | STATE_SNAPSHOT, b"id", told_name),
                         f"a name of {len(name)} bytes")
            expect_equal(told(device)[0], "id", "snapid")
            line = run("qcowctl", "list", "-n", "-o", "SNAPSHOT").stdout
            expect(line.count("\n") == 1 and line.strip("\n").isprintable(),
                   f"list shows {line!r}")
    snapshot_entry(image, b"i" * 3000, b"name")
    with Device(image, "--snapshot", "name") as device:
        expect_equal(query()[2:], (b"i" * 1023, b"name"), "a long ID")
        expect_equal(told(device)[:2], ("i" * 1023, "name"), "a long ID, as list tells it")


with case("list tells the snapshot"):
    listed(work("image"))
with case("list tells the snapshot beneath other images"):
    beneath_others(work("image"))
with case("query: callers of all ages"):
    interface()
with case("query: names of all kinds"):
    any_names()
for cluster_bytes in (512, 1024, 4096, 65536, 2 * MIB):
    with case(f"clusters of {cluster_bytes} bytes"):
        test(cluster_bytes)
with case("compat=0.10"):
    test(65536, compat="0.10")
for bits in (2, 4, 8, 32, 64):
    with case(f"refcount_bits={bits}"):
        test(4096, refcount_bits=bits)
ram, = ram_disks(1, 256 * MIB)
with ext4_on(ram, "/mnt/ram"):
    with case("--direct-io"):
        test(65536, "--direct-io", directory="/mnt/ram")
finish()
