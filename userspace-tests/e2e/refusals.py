#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""What cannot be attached is refused with one line, its exit status, and nothing
left behind; the image is not touched."""

from e2e import *

# Offsets of fields of the header.
VERSION = 4
BACKING_OFFSET, BACKING_SIZE = 8, 16
CLUSTER_BITS = 20
SIZE = 24
CRYPT_METHOD = 32
L1_ENTRIES, L1_OFFSET = 36, 40
REFTABLE_OFFSET, REFTABLE_CLUSTERS = 48, 56
NB_SNAPSHOTS, SNAPSHOTS_OFFSET = 60, 64
INCOMPATIBLE = 72
AUTOCLEAR = 88
REFCOUNT_ORDER = 96
HEADER_LENGTH = 100
COMPRESSION_TYPE = 104

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTL2 = (1 << bit for bit in range(5))


def expect_refused(image, status, words, *options):
    """One line that says these words; nothing attached, nothing changed."""
    before = fingerprint(image)
    done = run("qcowctl", "attach", *options, image, status=None)
    expect_equal(done.returncode, status, f"status, with {done.stderr!r}")
    expect_equal(done.stdout, "", "output")
    line = done.stderr
    expect(line.count("\n") == 1 and line.endswith("\n"), f"not one line: {line!r}")
    for word in words:
        expect(word.lower() in line.lower(), f"no {word!r} in {line!r}")
    expect_equal(attached(), [], "attached devices")
    expect_equal(fingerprint(image), before, "the image file")


def fingerprint(path):
    if not os.path.isfile(path):
        return None
    info = os.stat(path)
    return info.st_size, info.st_mtime_ns, hashlib.sha256(content(path)).digest()


def refused(name, status, words, make, *options):
    """A case: make() gives the path of what is to be refused."""
    with case(name):
        expect_refused(make(), status, words, *options)


def patched(*changes, size=MIB, **create_options):
    """A maker of an image with fields overwritten: (offset, struct format, value)."""
    def make():
        image = create(work("image"), size, **create_options)
        for offset, form, value in changes:
            patch(image, offset, form, value)
        return image
    return make


def file_with(data):
    def make():
        with open(work("image"), "wb") as file:
            file.write(data)
        return file.name
    return make


# ---------------------------------------------------------------------------


def directory():
    os.mkdir(work("directory"))
    return work("directory")


def fifo():
    os.mkfifo(work("fifo"))
    return work("fifo")


def no_images():
    refused("random bytes", EXIT_INVALID, ["not a qcow2 image"], file_with(noise(MIB, 1)))
    refused("zeroes", EXIT_INVALID, ["not a qcow2 image"], file_with(bytes(MIB)))
    refused("empty file", EXIT_INVALID, ["not a qcow2 image"], file_with(b""))
    refused("only the magic number", EXIT_INVALID, ["not a qcow2 image"],
            file_with(b"QFI\xfb"))
    refused("directory", EXIT_FILE, ["directory"], directory)
    refused("character device", EXIT_FILE, ["/dev/null"], lambda: "/dev/null")
    refused("fifo", EXIT_FILE, ["fifo"], fifo)
    refused("missing file", EXIT_FILE, ["missing"], lambda: work("missing"))


def bad_headers():
    invalid, unsupported = EXIT_INVALID, EXIT_UNSUPPORTED
    for version in (0, 1, 4):
        refused(f"version {version}", unsupported, ["version", str(version)],
                patched((VERSION, "I", version)))
    for bits in (8, 22, 64, 0xffffffff):
        refused(f"cluster_bits {bits}", invalid, ["cluster_bits", str(bits)],
                patched((CLUSTER_BITS, "I", bits)))
    for length in (0, 103, 105, 65544, 0xfffffff8):
        refused(f"header length {length}", invalid, ["header", str(length)],
                patched((HEADER_LENGTH, "I", length)))
    refused("refcount_order 7", invalid, ["refcount_order", "7"],
            patched((REFCOUNT_ORDER, "I", 7)))
    refused("size beyond 2^63", invalid, ["size"], patched((SIZE, "Q", 1 << 63)))
    refused("encryption method 3", invalid, ["encryption", "3"],
            patched((CRYPT_METHOD, "I", 3)))
    refused("backing file name outside of the first cluster", invalid, ["backing"],
            patched((BACKING_OFFSET, "Q", 1 << 20), (BACKING_SIZE, "I", 4)))
    refused("backing file name of 1024 bytes", invalid, ["backing", "1024"],
            patched((BACKING_OFFSET, "Q", 1024), (BACKING_SIZE, "I", 1024)))


def bad_tables():
    far = 1 << 40
    refused("L1 table unaligned", EXIT_INVALID, ["L1"],
            patched((L1_OFFSET, "Q", 3 * 65536 + 512)))
    refused("L1 table too small", EXIT_INVALID, ["L1"],
            patched((SIZE, "Q", TIB)))
    refused("L1 table too large", EXIT_INVALID, ["L1"],
            patched((L1_ENTRIES, "I", 0x7fffffff)))
    refused("L1 table behind the end", EXIT_INVALID, ["L1"], patched((L1_OFFSET, "Q", far)))
    refused("L1 table on the header", EXIT_INVALID, ["L1"], patched((L1_OFFSET, "Q", 0)))
    refused("refcount table unaligned", EXIT_INVALID, ["refcount table"],
            patched((REFTABLE_OFFSET, "Q", 65536 + 8)))
    refused("refcount table without clusters", EXIT_INVALID, ["refcount table"],
            patched((REFTABLE_CLUSTERS, "I", 0)))
    refused("refcount table too large", EXIT_INVALID, ["refcount table"],
            patched((REFTABLE_CLUSTERS, "I", 0x7fffffff)))
    refused("refcount table behind the end", EXIT_INVALID, ["refcount table"],
            patched((REFTABLE_OFFSET, "Q", far)))
    refused("refcount table at an offset beyond 2^63", EXIT_INVALID, ["refcount table"],
            patched((REFTABLE_OFFSET, "Q", (1 << 64) - 65536)))
    refused("too many snapshots", EXIT_INVALID, ["snapshots"],
            patched((NB_SNAPSHOTS, "I", 65537)))
    refused("snapshot table unaligned", EXIT_INVALID, ["snapshot"],
            patched((NB_SNAPSHOTS, "I", 1), (SNAPSHOTS_OFFSET, "Q", 513)))
    refused("header extension too long", EXIT_INVALID, ["extension"],
            patched((header_length(), "Q", 0x12345678_10000000)))


def with_snapshots(damage):
    """A maker of an image with two snapshots; damage(image, offset of the table)."""
    def make():
        image = create(work("image"), MIB)
        for name in ("first", "second"):
            qemu_io(image, ["write -P 5 0 128k"])
            run("qemu-img", "snapshot", "-c", name, image)
        damage(image, field(image, SNAPSHOTS_OFFSET, "Q"))
        return image
    return make


def in_entry(*changes):
    """Overwrite fields of the first entry of the snapshot table."""
    def damage(image, table):
        for offset, form, value in changes:
            patch(image, table + offset, form, value)
    return with_snapshots(damage)


def qemu_opens(image, *options):
    done = run("qemu-io", "-f", "qcow2", *options, "-c", "read 0 512", image, status=None)
    return done.returncode == 0


def bad_snapshots():
    """Read-only what QEMU refuses; read-write also what qemu-img check calls
    corrupt although QEMU would begin to write."""
    def case_of(name, words, make, read_only_too=False):
        with case(f"snapshots: {name}"):
            image = make()
            expect_refused(image, EXIT_INVALID, words)
            expect_equal(qemu_opens(image, "-r"), not read_only_too, "QEMU opens it")
            expect(run("qemu-img", "check", image, status=None).returncode,
                   "qemu-img check finds nothing wrong")
            if read_only_too:
                expect_refused(image, EXIT_INVALID, words, "-r")
                return
            before = fingerprint(image)
            with Device(image, "-r") as device, device.open(os.O_RDONLY) as disk:
                expect_same_bytes(disk.read(0, 4 * KIB), b"\x05" * 4 * KIB, "the data")
            expect_equal(fingerprint(image), before, "the image file")

    l1_offset, l1_entries, id_bytes, name_bytes, extra_bytes = 0, 8, 12, 14, 36
    case_of("L1 table unaligned", ["entry 0", "L1 table", "multiple"],
            in_entry((l1_offset, "Q", 7 * 65536 + 512)))
    for entries in (4194305, 0x7fffffff, 0xffffffff):
        case_of(f"L1 table of {entries} entries", ["entry 0", "L1 table", str(entries)],
                in_entry((l1_entries, "I", entries)))
    for offset in (1 << 63, (1 << 64) - 65536):
        case_of(f"L1 table at {offset:#x}", ["entry 0", "outside of any file"],
                in_entry((l1_offset, "Q", offset)))
    for length in (1025, 0xffffffff):
        case_of(f"{length} bytes of extra data", ["entry 0", str(length)],
                in_entry((extra_bytes, "I", length)), read_only_too=True)
    case_of("name of 65535 bytes", ["truncated"], in_entry((name_bytes, "H", 65535)))
    case_of("ID of 65535 bytes", ["truncated"], in_entry((id_bytes, "H", 65535)))
    case_of("file ends in the second entry", ["entry 1", "truncated"],
            with_snapshots(lambda image, table: os.truncate(image, table + 90)))
    case_of("table behind the end", ["entry 0", "truncated"],
            with_snapshots(lambda image, table: patch(image, SNAPSHOTS_OFFSET, "Q", 1 << 40)))
    case_of("table on the header", ["entry 0", "L1 table"],
            with_snapshots(lambda image, table: patch(image, SNAPSHOTS_OFFSET, "Q", 0)))
    with case("snapshots: 1024 bytes of extra data are allowed, in an image that is sound"):
        image = with_snapshots(lambda image, table: None)()
        stretch_extra_data(image, 1024)
        check(image)
        with Device(image) as device, device.open() as disk:
            disk.write(0, b"\x06" * SECTOR)
        check(image)


def stretch_extra_data(image, length):
    """Have the last entry of the snapshot table say this much, and move its names."""
    table = field(image, SNAPSHOTS_OFFSET, "Q")
    data = content(image)[table:]
    first = 40 + sum(struct.unpack_from(">HH", data, 12)) + struct.unpack_from(">I", data, 36)[0]
    second = (first + 7) // 8 * 8
    old = struct.unpack_from(">I", data, second + 36)[0]
    names = data[second + 40 + old:]
    patch(image, table + second + 36, "I", length)
    with open(image, "r+b") as file:
        file.seek(table + second + 40 + old)
        file.write(bytes(length - old) + names)


def header_length():
    """Where the first extension begins depends on qemu-img."""
    image = create("/dev/shm/probe.qcow2", MIB)
    length = field(image, HEADER_LENGTH, "I")
    os.unlink(image)
    return length


def without_feature_names(*changes):
    """The extensions end at once, so no table names the bits."""
    return patched((header_length(), "Q", 0), *changes)


def with_feature_name(bit, name):
    """A feature name table with this name for an incompatible bit."""
    row = struct.pack(">BB46s", 0, bit, name.encode())
    table = struct.pack(">II", 0x6803f857, len(row)) + row + bytes(8)

    def make():
        image = patched((INCOMPATIBLE, "Q", 1 << bit))()
        with open(image, "r+b") as file:
            file.seek(header_length())
            file.write(table)
        return image
    return make


def features():
    refused("unknown incompatible bit, no name", EXIT_UNSUPPORTED, ["unknown", "bit 40"],
            without_feature_names((INCOMPATIBLE, "Q", 1 << 40)))
    refused("unknown incompatible bit, named in the image", EXIT_UNSUPPORTED,
            ["warp drive", "bit 41"], with_feature_name(41, "warp drive"))
    refused("unknown incompatible bit, also read-only", EXIT_UNSUPPORTED,
            ["warp drive", "bit 41"], with_feature_name(41, "warp drive"), "-r")
    refused("dirty, with an L1 entry behind the end of the file", EXIT_INVALID,
            ["not closed cleanly", "end of the file", "qemu-img check -r all", "read-only"],
            dirty_and_worse)
    refused("corrupt", EXIT_INVALID, ["corrupt", "qemu-img check"],
            patched((INCOMPATIBLE, "Q", CORRUPT)))
    for name, bit in (("dirty", DIRTY), ("corrupt", CORRUPT)):
        with case(f"{name}, read-only: allowed and not changed"):
            image = patched((INCOMPATIBLE, "Q", bit))()
            before = fingerprint(image)
            with Device(image, "-r") as device, device.open(os.O_RDONLY) as disk:
                expect(not any(disk.read_all()), "data in an empty image")
            expect_equal(fingerprint(image), before, "the image file")
    for options in ((), ("-r",)):
        with case(f"raw external data without a data file {' '.join(options)}"):
            image = patched((AUTOCLEAR, "Q", 2))()
            expect_refused(image, EXIT_INVALID, ["autoclear bit 1", "incompatible bit 2"],
                           *options)
            expect(not qemu_opens(image, *options), "QEMU opens it")
    refused("extended L2 entries in clusters of 4 KiB", EXIT_INVALID,
            ["extended L2", "4096", "16384"],
            patched((INCOMPATIBLE, "Q", EXTL2), cluster_size=4096))
    refused("unknown compression type", EXIT_UNSUPPORTED,
            ["compression type 2", "zlib", "zstd"],
            patched((COMPRESSION_TYPE, "B", 2), compression_type="zstd"))
    refused("compression bit without its type", EXIT_INVALID, ["compression type", "0"],
            patched((INCOMPATIBLE, "Q", COMPRESSION)))
    refused("compression type without its bit", EXIT_INVALID, ["compression type", "1"],
            patched((COMPRESSION_TYPE, "B", 1)))
    refused("LUKS encryption", EXIT_UNSUPPORTED, ["encrypt", "LUKS"],
            patched((CRYPT_METHOD, "I", 2)))
    refused("AES encryption", EXIT_UNSUPPORTED, ["encrypt", "AES"],
            patched((CRYPT_METHOD, "I", 1)))


def dirty_and_worse():
    """More than refcounts is wrong, so it cannot be repaired here."""
    image = patched((INCOMPATIBLE, "Q", DIRTY), lazy_refcounts="on")()
    patch(image, field(image, L1_OFFSET, "Q"), "Q", 1 << 40)
    return image


def overlay(name, form="raw", damage=None):
    """A maker of an image with such a backing file, and one that is damaged then."""
    def make():
        base = create(work("base.qcow2"), MIB)
        if damage:
            damage(base)
        image = work("image")
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", form, image, MIB)
        return image
    return make


def without_data_file():
    image = create(work("image"), MIB, data_file=work("data"))
    os.unlink(work("data"))
    return image


def chains():
    refused("backing file is missing", EXIT_FILE, ["backing file 'gone'", "no such file"],
            overlay("gone"))
    refused("backing file is missing, read-only", EXIT_FILE, ["backing file 'gone'"],
            overlay("gone"), "-r")
    refused("data file is missing", EXIT_FILE, [f"data file '{work('data')}'", "no such file"],
            without_data_file)
    refused("backing file is a directory", EXIT_FILE, ["backing file '.'", "directory"],
            overlay("."))
    refused("backing file is the image", EXIT_INVALID, ["backing file 'image'", "already"],
            overlay("image", "qcow2"))
    refused("backing file is vmdk", EXIT_UNSUPPORTED, ["backing file 'base.qcow2'", "vmdk"],
            overlay("base.qcow2", "vmdk"))
    refused("backing file elsewhere", EXIT_UNSUPPORTED, ["nbd://host/x", "protocol 'nbd'"],
            overlay("nbd://host/x"))
    refused("backing file is a part of a file", EXIT_UNSUPPORTED, ["offset"],
            overlay('json:{"driver":"raw","size":512,"file.filename":"base.qcow2"}'))
    refused("backing file is no qcow2 image", EXIT_INVALID,
            ["backing file 'base.qcow2'", "no qcow2 image"],
            overlay("base.qcow2", "qcow2", lambda base: patch(base, 0, "I", 0)))
    for options in ((), ("-r",)):
        refused(f"backing file is damaged {' '.join(options)}", EXIT_INVALID,
                ["base.qcow2", "L1 table"],
                overlay("base.qcow2", "qcow2", lambda base: patch(base, L1_OFFSET, "Q", 512)),
                *options)
    with case("backing file whose format is not named: only with --probe-backing"):
        image = without_format()
        expect_refused(image, EXIT_UNSUPPORTED, ["backing file 'base.qcow2'", "--probe-backing"])
        with Device(image, "--probe-backing") as device, device.open() as disk:
            expect_equal(disk.size, MIB, "size")


def without_format():
    """As older versions of qemu-img made them: the extension becomes one of nobody."""
    image = overlay("base.qcow2", "qcow2")()
    place = content(image).index(struct.pack(">I", 0xe2792aca))
    patch(image, place, "I", 0x12345678)
    return image


# ---------------------------------------------------------------------------


def truncated():
    def make(length):
        def cut():
            image = patched(preallocation="metadata")()
            os.truncate(image, length)
            return image
        return cut
    for length in (71, 103, 511, 512, 65535, 65536, 2 * 65536):
        refused(f"truncated to {length} bytes", EXIT_INVALID, [], make(length))
    with case("truncated to 196608 bytes, which is all but the L1 table: allowed"):
        use_cut_image(make(3 * 65536)(), MIB)


def cut_tails():
    """qemu-img makes the L1 table last, and QEMU reads zeroes where its tail is missing."""
    for options in ({}, {"cluster_size": 4096}, {"cluster_size": 2 * MIB}):
        for missing in (1, 8, 9):
            with case(f"L1 table that lacks {missing} bytes, {options or 'clusters of 64 KiB'}"):
                image = create(work("image"), 20 * GIB, **options)
                os.truncate(image, os.path.getsize(image) - missing)
                expect(qemu_opens(image, "-r"), "QEMU does not open it")
                check(image)
                use_cut_image(image, 20 * GIB)
                check(image)
    with case("L1 table and refcount table far behind the end: allowed read-only"):
        for offset in (L1_OFFSET, REFTABLE_OFFSET):
            image = patched((offset, "Q", 1 << 40))()
            before = fingerprint(image)
            with Device(image, "-r") as device, device.open(os.O_RDONLY) as disk:
                expect(not any(disk.read_all()), "data in an empty image")
            expect_equal(fingerprint(image), before, "the image file")


def use_cut_image(image, size):
    """It reads as zeroes, takes what is written, and has that when it is attached again."""
    with Device(image, "-r") as device, device.open(os.O_RDONLY) as disk:
        expect_equal(disk.size, size, "size")
        expect(not any(disk.read(0, MIB)), "data in an empty image")
    with Device(image) as device, device.open() as disk:
        for offset in (0, size - SECTOR):
            disk.write(offset, b"\x07" * SECTOR)
    with Device(image) as device, device.open() as disk:
        for offset in (0, size - SECTOR):
            expect_same_bytes(disk.read(offset, SECTOR), b"\x07" * SECTOR, f"at {offset}")
    check(image, leaks_allowed=True)


def other_names():
    """The image that is attached, by all names that it has."""
    with case("attached already, also by other names"):
        image = create(work("image"), MIB)
        os.link(image, work("hard"))
        os.symlink(image, work("soft"))
        with Device(image) as device:
            for name in (image, work("hard"), work("soft")):
                for options in ((), ("-r",), ("--direct-io",)):
                    done = run("qcowctl", "attach", *options, name, status=EXIT_BUSY)
                    expect(done.stderr.count("\n") == 1 and not done.stdout,
                           f"not one line: {done.stderr!r}")
            expect_equal([entry["name"] for entry in attached()], [device.path], "attached")


def rights():
    """Root may write anything but what is on a read-only file system."""
    with case("read-only file system: refused for writing, allowed with -r"):
        image = create(work("image"), MIB)
        os.makedirs("/mnt/read-only", exist_ok=True)
        run("mount", "--bind", WORK, "/mnt/read-only")
        run("mount", "-o", "remount,bind,ro", "/mnt/read-only")
        try:
            image = "/mnt/read-only/image"
            expect_refused(image, EXIT_FILE, ["read-only"])
            with Device(image, "-r"):
                pass
        finally:
            run("umount", "/mnt/read-only")
    with case("file with mode 0400 and a user: no permission to control"):
        image = create(work("image"), MIB)
        os.chmod(WORK, 0o755)
        os.chmod(image, 0o400)
        done = run("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                   "qcowctl", "attach", image, status=None)
        expect(done.returncode in (EXIT_FILE, 8), f"status {done.returncode}: {done.stderr}")
        expect(done.stderr.count("\n") == 1, f"not one line: {done.stderr!r}")


def attach_still_works():
    with case("a good image is attached after all that"):
        image = create(work("image"), MIB)
        with Device(image) as device:
            expect_equal(device.path, "/dev/qcow0", "name")
        check(image)


no_images()
bad_headers()
bad_tables()
bad_snapshots()
features()
chains()
truncated()
cut_tails()
other_names()
rights()
attach_still_works()
finish()
