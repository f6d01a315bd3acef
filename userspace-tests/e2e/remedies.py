#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --timeout 900
"""Every remedy that Documentation/admin-guide/refusals.rst names, carried out on an
image that is refused with that line.

scripts/check-refusals sees to it that each line of that page that names something
to do is here: as the argument of @remedy, or in ELSEWHERE with the reason why not."""

import array
import fcntl

from e2e import *

# Offsets of fields of the header.
VERSION = 4
BACKING_OFFSET, BACKING_SIZE = 8, 16
SIZE, L1_OFFSET = 24, 40
REFTABLE_OFFSET, NB_SNAPSHOTS, SNAPSHOTS_OFFSET = 48, 60, 64
INCOMPATIBLE = 72

DIRTY, CORRUPT, DATA_FILE = 1, 2, 4
COPIED = 1 << 63
CLUSTER = 64 * KIB
FAR = 1 << 40
# An L2 table maps so much; so what is damaged in one is not needed for the other.
COVERED = 512 * MIB
DATA = b"\x05" * CLUSTER

ROOT = "/mnt/remedies"

# What nothing here is tried for, and why.
ELSEWHERE = {
    "neither a regular file nor a block device": "qcowctl says it first: refusals",
    "in use as swap": "the kernel of the tests has no swap",
    "direct I/O on it needs blocks of %u bytes; attach without --direct-io":
        "no storage has such blocks; the remedy is tried for its neighbours",
    "image needs the feature '%.*s' (incompatible bit %u), which this driver does not know":
        "nothing knows such a feature yet",
    "image needs an unknown feature (incompatible bit %u)": "nothing knows such a feature yet",
    "image is encrypted (LUKS), which this driver does not serve yet":
        "engine/opens: qemu-img cannot make one in User-Mode Linux, which counts no CPU time",
    "compression type %u is unknown, wanted %u (zlib) or %u (zstd)":
        "nothing knows such a type yet",
    "image was not closed cleanly, and its repair cannot %s metadata at offset 0x%llx "
    "(error %d); it can be tried again": "engine/repair: tries it again after each error",
    "image was not closed cleanly, and there is not enough memory to repair it":
        "engine/repair: tries it again after each error",
    "image was not closed cleanly, and its repair was interrupted; it can be tried again":
        "engine/repair: tries it again after each error",
    "image was not closed cleanly, and for its repair the file would become too long; "
    "attach read-only": "no file system here has such short files",
    "its clusters are scattered so thinly that counting them takes too much memory":
        "the image alone takes more than the guest has; engine/repair: scattered thinly",
    "no refcount table can be long enough for the cluster at offset 0x%llx":
        "no file system here has such long files; engine/repair",
    "what the device shows cannot be replaced": "nothing asks for that yet",
    "direct I/O on a file of the chain needs blocks of %u bytes, but the device has blocks of %u":
        "nothing asks for that yet",
    "is in the chain twice": "qcowctl says it first: chains, refusals",
    "all device numbers are in use": "there are a million",
    "no such device": "qcowctl says it first: detach",
    "out of memory, the last changes could not be written; try again": "engine/faults",
    "no space left for the last changes in the image's file system; free some and try again":
        "no-space: full tmpfs until detached",
    "detached, but the last changes could not be written (error %d); run 'qemu-img check -r all' "
    "on the image (%pD)": "flaky-disk",
}

PLACES = re.compile(r"%(?:[-.*0-9]*)(?:ll|z)?([a-zA-Z])D?")
FOUND = {"u": r"\d+", "d": r"-?\d+", "x": r"[0-9a-f]+", "s": r".+", "p": r".+"}

_remedies = []


def remedy(line, beside=""):
    """A case, in which an image is refused with this line of the driver."""
    def add(function):
        _remedies.append((line, beside, function))
        return function
    return add


def pattern(line):
    """What the line looks like with numbers and names in their places."""
    parts, end = [], 0
    for place in PLACES.finditer(line):
        parts += [re.escape(line[end:place.start()]), FOUND[place[1]]]
        end = place.end()
    return "".join([*parts, re.escape(line[end:])])


def expect_said(line, said):
    expect(re.search(pattern(line), said), f"said {said!r}, wanted {line!r}")


def refused(line, image, *options):
    done = run("qcowctl", "attach", *options, image, status=None)
    expect(done.returncode != 0 and not done.stdout, f"{image} is attached with {options}")
    expect_equal(done.stderr.count("\n"), 1, f"lines of {done.stderr!r}")
    expect_said(line, done.stderr)


def attaches(image, *options, data=DATA):
    """And what is sound can be read: the first cluster."""
    read_only = "-r" in options or any(option.startswith("--snapshot") for option in options)
    flags = os.O_RDONLY if read_only else os.O_RDWR
    with Device(image, *options) as device, device.open(flags) as disk:
        expect_same_bytes(disk.read(0, len(data)), data, "the first cluster")
        if not read_only:
            disk.write(len(data), b"\x06" * len(data))
            disk.flush()
            expect_same_bytes(disk.read(len(data), len(data)), b"\x06" * len(data),
                              "what is written")


def with_data(path=None, size=2 * COVERED, **options):
    """Data in the first cluster, and where another L2 table maps it."""
    image = create(path or work("image"), size, **options)
    writes = [f"write -P 5 0 {CLUSTER}"]
    if size > COVERED:
        writes.append(f"write -P 7 {COVERED} {CLUSTER}")
    qemu_io(image, writes)
    return image


def convert(image, *options):
    """To a new image that takes its place."""
    new = work("converted")
    run("qemu-img", "convert", *(options or ("-f", "qcow2", image)), "-O", "qcow2", new)
    os.replace(new, image)


def check_all(image):
    """qemu-img check -r all, which may leave errors that no refcount mends."""
    done = run("qemu-img", "check", "-f", "qcow2", "-r", "all", image, status=None)
    expect(done.returncode in (0, 2, 3), f"status {done.returncode}: {done.stdout}{done.stderr}")


# ---------------------------------------------------------------------------
# The calls themselves, for what qcowctl does right.

QCOW2_CTL_ATTACH = 0xbc00
ATTACH_FORM, FILE_FORM = "=IIiIQQIIQQ", "=iIII"
REASON_BYTES = 256
RAW, ROLE_DATA = 1, 1


def attach_raw(*files, number=-1):
    """Attaches these, (descriptor, format, role) each; the reason of a refusal."""
    packed = array.array("B", b"".join(struct.pack(FILE_FORM, *file, 0) for file in files))
    reason = array.array("B", bytes(REASON_BYTES))
    argument = bytearray(struct.pack(ATTACH_FORM, struct.calcsize(ATTACH_FORM), 0, number,
                                     len(files),
                                     packed.buffer_info()[0], reason.buffer_info()[0],
                                     REASON_BYTES, 0, 0, 0))
    with open("/dev/qcow-control", "r+b", buffering=0) as control:
        try:
            fcntl.ioctl(control, QCOW2_CTL_ATTACH, argument)
        except OSError:
            return reason.tobytes().split(b"\0")[0].decode()
    run("qcowctl", "detach", f"/dev/qcow{struct.unpack_from('=i', argument, 8)[0]}")
    return "attached"


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR):
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def refused_raw(line, *files):
    """Each is (path, flags of open, format, role)."""
    with contextlib.ExitStack() as stack:
        expect_said(line, attach_raw(*(
            (stack.enter_context(opened(path, flags)), form, role)
            for path, flags, form, role in files)))


@remedy("not open for reading")
def write_only(line):
    image = with_data()
    refused_raw(line, (image, os.O_WRONLY, 0, 0))
    refused_raw("attached", (image, os.O_RDWR, 0, 0))


@remedy("not open for writing; attach read-only")
def not_for_writing(line):
    image = with_data()
    refused_raw(line, (image, os.O_RDONLY, 0, 0))
    refused_raw("attached", (image, os.O_RDWR, 0, 0))
    attaches(image, "-r")


@remedy("open for appending")
def appending(line):
    image = with_data()
    refused_raw(line, (image, os.O_RDWR | os.O_APPEND, 0, 0))
    refused_raw("attached", (image, os.O_RDWR, 0, 0))


def overlay(base_format="qcow2"):
    base = with_data(work("base"))
    image = work("image")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", base_format, image)
    return image, base


@remedy("image names a backing file, which was not given")
def no_backing(line):
    image, _ = overlay()
    refused_raw(line, (image, os.O_RDWR, 0, 0))
    attaches(image)


@remedy("image names no backing file, but one was given")
def too_much_backing(line):
    image, base = with_data(), with_data(work("base"))
    refused_raw(line, (image, os.O_RDWR, 0, 0), (base, os.O_RDONLY, 0, 0))
    attaches(image)


@remedy("image has an external data file, which was not given")
def no_data_file(line):
    image = with_data(data_file=work("data"))
    refused_raw(line, (image, os.O_RDWR, 0, 0))
    attaches(image)


@remedy("image has no external data file, but one was given")
def too_much_data(line):
    image, data = with_data(), with_data(work("data"))
    refused_raw(line, (image, os.O_RDWR, 0, 0), (data, os.O_RDWR, RAW, ROLE_DATA))
    attaches(image)


@remedy("is raw, but a backing file was given for it")
def raw_on_something(line):
    """A base that has a base itself, and is said to be raw."""
    image, base = overlay("raw")
    refused_raw(line, (image, os.O_RDWR, 0, 0), (base, os.O_RDONLY, RAW, 0),
                (with_data(work("bottom")), os.O_RDONLY, 0, 0))
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", image)
    attaches(image)


# ---------------------------------------------------------------------------
# The file, and what is no image.


@remedy("its file system has no direct I/O; attach without --direct-io")
def no_direct_io(line):
    with mounted("ramfs", ROOT, "-t", "ramfs"):
        image = with_data(os.path.join(ROOT, "image"))
        refused(line, image, "--direct-io")
        attaches(image)


@contextlib.contextmanager
def loop_of_4k(image):
    """A block device with blocks of 4 KiB that holds the image."""
    os.truncate(image, (os.path.getsize(image) + 4 * MIB) // MIB * MIB)
    loop = run("losetup", "-f", "--show", "-b", 4096, image).stdout.strip()
    try:
        yield loop
    finally:
        run("losetup", "-d", loop)


@remedy("direct I/O on it needs blocks of %u bytes, but its (sub)clusters have %u; "
        "attach without --direct-io")
def blocks_larger_than_clusters(line):
    with loop_of_4k(with_data(size=MIB, cluster_size=512)) as loop:
        refused(line, loop, "--direct-io")
        attaches(loop)


@remedy("virtual size of %llu bytes is not a multiple of %u, which direct I/O on it needs; "
        "attach without --direct-io")
def size_of_another_block(line):
    with loop_of_4k(with_data(size=MIB + SECTOR)) as loop:
        refused(line, loop, "--direct-io")
        attaches(loop)
        run("qemu-img", "resize", "-f", "qcow2", loop, 2 * MIB)
        attaches(loop, "--direct-io")


@remedy("not a qcow2 image: magic number is 0x%08x, wanted 0x%08x; "
        "'qemu-img info' tells what it is")
def raw_file(line):
    with open(work("image"), "wb") as file:
        file.write(DATA * 16)
    refused(line, file.name)
    loop = run("losetup", "-f", "--show", file.name).stdout.strip()
    try:
        expect_same_bytes(content(loop)[:CLUSTER], DATA, "the file on a loop device")
    finally:
        run("losetup", "-d", loop)


@remedy("version %u of the format is unknown, wanted 2 or 3")
def version_1(line):
    image = work("image")
    run("qemu-img", "create", "-q", "-f", "qcow", image, MIB)
    run("qemu-io", "-f", "qcow", "-c", f"write -P 5 0 {CLUSTER}", image)
    refused(line, image)
    convert(image, "-f", "qcow", image)
    attaches(image)


@remedy("image has a backing file, though its external data file is raw")
def raw_data_on_something(line):
    base = with_data(work("base"))
    image = with_data(data_file=work("data"), data_file_raw="on")
    patch(image, BACKING_OFFSET, "Q", 8192)
    patch(image, BACKING_SIZE, "I", len(base))
    with open(image, "r+b") as file:
        file.seek(8192)
        file.write(base.encode())
    refused(line, image, "--probe-backing")
    run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "", image)
    attaches(image)


@remedy("image has internal snapshots, though its data lies in an external file; "
        "attach read-only")
def snapshots_of_other_data(line):
    image = with_data(data_file=work("data"))
    table = (os.path.getsize(image) + CLUSTER - 1) // CLUSTER * CLUSTER
    os.truncate(image, table + CLUSTER)
    patch(image, SNAPSHOTS_OFFSET, "Q", table)
    patch(image, NB_SNAPSHOTS, "I", 1)
    refused(line, image)
    attaches(image, "-r")


@remedy("image is encrypted (AES), which this driver does not serve yet")
def encrypted(line):
    image, secret = work("image"), ("--object", "secret,id=key,data=word")
    run("qemu-img", "create", "-q", *secret, "-f", "qcow2", "-o",
        "encrypt.format=aes,encrypt.key-secret=key", image, MIB)
    opened_so = f"driver=qcow2,file.filename={image},encrypt.key-secret=key"
    run("qemu-io", *secret, "--image-opts", "-c", f"write -P 5 0 {CLUSTER}", opened_so)
    refused(line, image)
    convert(image, *secret, "--image-opts", opened_so)
    attaches(image)


@remedy("virtual size of %llu bytes is not a multiple of %u")
def size_of_no_sector(line):
    image = with_data(size=MIB)
    patch(image, SIZE, "Q", MIB - 1)
    refused(line, image)
    run("qemu-img", "resize", "-f", "qcow2", image, MIB)
    attaches(image)


@remedy("discard-no-unref needs version 3 of the format; 'qemu-img amend -o compat=1.1' the image")
def version_2(line):
    image = with_data(compat="0.10")
    refused(line, image, "--discard-no-unref")
    attaches(image)
    run("qemu-img", "amend", "-f", "qcow2", "-o", "compat=1.1", image)
    attaches(image, "--discard-no-unref")


@remedy("image is marked corrupt; 'qemu-img check -r all' it or attach read-only")
def corrupt(line):
    image = with_data()
    patch(image, INCOMPATIBLE, "Q", CORRUPT)
    refused(line, image)
    attaches(image, "-r")
    check_all(image)
    attaches(image)
    check(image)


# ---------------------------------------------------------------------------
# Damaged tables.

LOST_TABLE = ("%s at offset 0x%llx (%llu bytes) lies behind the end of the file (%llu bytes): "
              "image is truncated; attach read-only")


@remedy(LOST_TABLE, "the L1 table")
def lost_l1(line):
    image = with_data()
    sound = content(image)
    patch(image, L1_OFFSET, "Q", FAR)
    refused(line, image)
    attaches(image, "-r", data=bytes(CLUSTER))
    convert(image)
    attaches(image, data=bytes(CLUSTER))
    with open(image, "wb") as file:
        file.write(sound)
    attaches(image)


@remedy(LOST_TABLE, "the refcount table")
def lost_reftable(line):
    image = with_data()
    patch(image, REFTABLE_OFFSET, "Q", (os.path.getsize(image) + CLUSTER) // CLUSTER * CLUSTER)
    refused(line, image)
    attaches(image, "-r")
    check_all(image)
    attaches(image)
    check(image)


@remedy("refcount table has the block at offset 0x%llx twice; 'qemu-img check -r all' the image "
        "or attach read-only")
def refblock_twice(line):
    image = with_data()
    table = field(image, REFTABLE_OFFSET, "Q")
    patch(image, table + 8, "Q", field(image, table, "Q"))
    refused(line, image)
    attaches(image, "-r")
    check_all(image)
    attaches(image)
    check(image)


def with_snapshots(count=2):
    """An image, and where its snapshot table is."""
    image = with_data(size=MIB)
    for number in range(count):
        run("qemu-img", "snapshot", "-c", f"s{number}", image)
    return image, field(image, SNAPSHOTS_OFFSET, "Q")


@remedy("snapshot table entry %u has %u bytes of extra data, wanted at most %u; "
        "'qemu-img check -r all' drops them")
def extra_data(line):
    image, table = with_snapshots()
    patch(image, table + 36, "I", 1025)
    refused(line, image)
    refused(line, image, "-r")
    check_all(image)
    attaches(image)


@remedy("snapshot table is more than %u bytes long, at entry %u of %u; 'qemu-img check -r all' "
        "drops those from there on")
def long_table(line):
    """Heads only, with names of the greatest length between them."""
    image, table = with_snapshots(1)
    with open(image, "rb") as file:
        file.seek(table)
        head = bytearray(file.read(40))
    place = table + 40 + sum(struct.unpack_from(">HH", head, 12)) + \
        struct.unpack_from(">I", head, 36)[0]
    struct.pack_into(">HH", head, 12, 65535, 65535)
    struct.pack_into(">I", head, 36, 1024)
    count = 520
    with open(image, "r+b") as file:
        for _ in range(count - 1):
            place = (place + 7) // 8 * 8
            file.seek(place)
            file.write(head)
            place += 40 + 1024 + 2 * 65535
        file.truncate(place)
    patch(image, NB_SNAPSHOTS, "I", count)
    refused(line, image)
    refused(line, image, "-r")
    check_all(image)
    attaches(image)


@remedy("snapshot table entry %u at offset 0x%llx lies behind the end of the file (%llu bytes): "
        "image is truncated; attach read-only")
def cut_table(line):
    image, table = with_snapshots()
    sound = content(image)
    os.truncate(image, table + 90)
    refused(line, image)
    attaches(image, "-r")
    check_all(image)
    attaches(image)
    with open(image, "wb") as file:
        file.write(sound)
    attaches(image)


def bad_snapshot():
    """The first of two has its L1 table at an offset that is none."""
    image, table = with_snapshots()
    patch(image, table, "Q", 7 * CLUSTER + 512)
    return image


@remedy("snapshot table entry %u: %s; attach read-only, or 'qemu-img convert' it without its "
        "snapshots")
def bad_snapshot_l1(line):
    image = bad_snapshot()
    refused(line, image)
    attaches(image, "-r")
    convert(image)
    attaches(image)


@remedy("the snapshot: %s; it is lost, 'qemu-img snapshot -l' lists the others")
def lost_snapshot(line):
    image = bad_snapshot()
    refused(line, image, "--snapshot=s0")
    expect("s1" in run("qemu-img", "snapshot", "-l", image).stdout, "s1 is not listed")
    attaches(image, "--snapshot=s1")
    attaches(image, "-r")


@remedy("image has no snapshot '%.64s'; 'qemu-img snapshot -l' lists them")
def no_such_snapshot(line):
    image, _ = with_snapshots()
    refused(line, image, "--snapshot=s2")
    expect("s1" in run("qemu-img", "snapshot", "-l", image).stdout, "s1 is not listed")
    attaches(image, "--snapshot=s1")


# ---------------------------------------------------------------------------
# Images that were not closed cleanly, of which more is damaged than refcounts.

NOT_REPAIRED = ("image was not closed cleanly, and cannot be repaired here: %s; "
                "'qemu-img check -r all' it or attach read-only")


def second_l1_entry(image):
    return field(image, L1_OFFSET, "Q") + 8


def second_l2(image):
    return field(image, second_l1_entry(image), "Q") & ~COPIED


def data_on_the_l1_table(image):
    patch(image, second_l2(image), "Q", field(image, L1_OFFSET, "Q") | COPIED)


def data_of_two(image):
    entry = field(image, second_l2(image), "Q")
    patch(image, second_l2(image) + 8, "Q", entry)


def l2_far_behind(image):
    patch(image, second_l1_entry(image), "Q", FAR)


def l1_entry_not_aligned(image):
    patch(image, second_l1_entry(image), "Q", second_l2(image) + 512 | COPIED)


def l2_entry_not_aligned(image):
    patch(image, second_l2(image), "Q",
          field(image, second_l2(image), "Q") + 512)


def l2_of_two(image):
    patch(image, second_l1_entry(image), "Q", field(image, second_l1_entry(image) - 8, "Q"))


def reftable_entry_not_aligned(image):
    patch(image, field(image, REFTABLE_OFFSET, "Q") + 8, "Q", 5 * CLUSTER + 512)


def dirty(damage, **options):
    image = with_data(**options)
    damage(image)
    patch(image, INCOMPATIBLE, "Q", DIRTY)
    return image


def not_repaired(line, damage, **options):
    """Both remedies; the second on a copy, for the first is no way back."""
    image = dirty(damage, **options)
    refused(line, image)
    attaches(image, "-r")
    check_all(image)
    attaches(image)


@remedy(NOT_REPAIRED)
def dirty_and_damaged(line):
    not_repaired(line, data_on_the_l1_table)


@remedy("%s and %s share the cluster at offset 0x%llx")
def shared(line):
    not_repaired(line, data_on_the_l1_table)


@remedy("the cluster at offset 0x%llx has more than %llu users, which refcounts of %u bits "
        "cannot say")
def too_many_users(line):
    not_repaired(line, data_of_two, refcount_bits=1)


@remedy("%s at offset 0x%llx lies behind the end of the file (%llu bytes)")
def behind_the_end(line):
    not_repaired(line, l2_far_behind)


@remedy("the L1 entry 0x%016llx at offset 0x%llx is damaged")
def damaged_l1(line):
    not_repaired(line, l1_entry_not_aligned)


@remedy("the L2 table at offset 0x%llx has several entries in an L1 table")
def several_entries(line):
    not_repaired(line, l2_of_two)


@remedy("the L2 entry 0x%016llx at offset 0x%llx is damaged")
def damaged_l2(line):
    not_repaired(line, l2_entry_not_aligned)


@remedy("the refcount table entry %u, 0x%016llx, is damaged")
def damaged_reftable(line):
    image = dirty(reftable_entry_not_aligned)
    refused(line, image)
    attaches(image, "-r")
    convert(image)
    attaches(image)


def bitmaps_extension(image):
    """Where its data begins."""
    run("qemu-img", "bitmap", "-f", "qcow2", "--add", image, "b")
    qemu_io(image, [f"write -P 5 0 {CLUSTER}"])
    return content(image)[:CLUSTER].index(struct.pack(">II", 0x23852875, 24)) + 8


def bitmap_directory(image):
    return field(image, bitmaps_extension(image) + 16, "Q")


def bitmap_table_entry(image):
    patch(image, field(image, bitmap_directory(image), "Q"), "Q", 5 * CLUSTER + 512)


def bitmap_place(image):
    directory = bitmap_directory(image)
    patch(image, directory, "Q", field(image, directory, "Q") + 512)


def bitmap_directory_bytes(image):
    patch(image, bitmaps_extension(image) + 8, "Q", 24)


def read_only_and_copied(line, damage):
    """qemu-img refuses it; from the device it can be had."""
    image = dirty(damage, size=MIB)
    refused(line, image)
    attaches(image, "-r")
    with Device(image, "-r") as device:
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", device.path, work("copy"))
    attaches(work("copy"))


@remedy("the bitmap table entry 0x%016llx at offset 0x%llx is damaged")
def damaged_bitmap_table(line):
    read_only_and_copied(line, bitmap_table_entry)


@remedy("bitmap %u: %s")
def damaged_bitmap(line):
    read_only_and_copied(line, bitmap_place)


@remedy("the bitmap directory ends in its entry %u")
def damaged_directory(line):
    read_only_and_copied(line, bitmap_directory_bytes)


# ---------------------------------------------------------------------------
# What is in use.


@remedy("image is attached already, as /dev/qcow%d")
def attached_already(line):
    image = with_data()
    with Device(image) as device:
        refused_raw(line, (image, os.O_RDWR, 0, 0))
        with device.open() as disk:
            expect_same_bytes(disk.read(0, CLUSTER), DATA, "the device that is there")
    attaches(image)


@remedy("image is in use already, in the chain of /dev/qcow%d")
def in_a_chain(line):
    image, base = overlay()
    with Device(image):
        refused_raw(line, (base, os.O_RDWR, 0, 0))
        attaches(base, "-r")
    attaches(base)


@remedy("/dev/qcow%d is in use")
def number_in_use(line):
    """qcowctl leaves the number to the driver."""
    image, other = with_data(), with_data(work("other"))
    with Device(image) as device:
        with opened(other) as descriptor:
            expect_said(line, attach_raw((descriptor, 0, 0), number=int(device.name[4:])))
        attaches(other)


@remedy("in use (%u open); unmount or close it first")
def still_open(line):
    device = Device(with_data())
    with device.open():
        done = run("qcowctl", "detach", device.path, status=EXIT_BUSY)
        expect_said(line, done.stderr)
        if shutil.which("fuser"):
            found = run("fuser", device.path).stdout.split()
            expect(str(os.getpid()) in found, f"fuser tells {found}")
    device.detach()


@remedy("detached, but its metadata was found damaged; run 'qemu-img check -r all' on the image "
        "(%pD)")
def found_damaged(line):
    image = with_data()
    data_on_the_l1_table(image)
    device = Device(image)
    with device.open() as disk:
        try:
            disk.write(COVERED, DATA)
            raise Failure("the L1 table was overwritten")
        except OSError:
            pass
    done = run("qcowctl", "detach", device.path, status=EXIT_LOST)
    expect_said(line, done.stderr)
    check_all(image)
    attaches(image)


def main():
    run("modprobe", "loop")
    for line, beside, function in _remedies:
        with case(f"{line}{', ' if beside else ''}{beside}"):
            function(line)
    finish()


if __name__ == "__main__":
    main()
