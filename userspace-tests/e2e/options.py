#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""The options of attach: pass-discard, discard-no-unref and the size of the cache do
what they say, show in the list, and wrong ones are refused."""

import array
import errno
import fcntl

from e2e import *

EXIT_USAGE = 2
ROOT = "/mnt/options"

# From linux/qcow2.h: struct qcow2_ctl_attach, and its length before cache_size.
QCOW2_CTL_ATTACH = 0xbc00
ATTACH_FORM, ATTACH_OLD_BYTES = "=IIiIQQIIQ", 40
FILE_FORM = "=iIQ"
REASON_BYTES = 256


def one_line(text):
    return text.endswith("\n") and text.count("\n") == 1 and text.strip() != ""


def space(path):
    """What the file takes in its file system, in bytes."""
    return os.stat(path).st_blocks * SECTOR



# ---------------------------------------------------------------------------
# What the list shows.


def listed(device):
    entry = next(e for e in attached() if e["name"] == device.path)
    return entry["ro"], entry["dio"], entry["pass"], entry["nounref"], entry["state"]


def listing():
    default = (False, False, True, False, "ok")
    for options, wanted in (
            ((), default),
            (("--pass-discard=on", "--discard-no-unref=off", "--cache-size=default"), default),
            (("--pass-discard=off",), (False, False, False, False, "ok")),
            (("--discard-no-unref",), (False, False, True, True, "ok")),
            (("--pass-discard=off", "--discard-no-unref=on"), (False, False, False, True, "ok")),
            (("-r", "--pass-discard=off"), (True, False, False, False, "read-only")),
            (("-r", "--discard-no-unref"), (True, False, True, True, "read-only")),
            (("--cache-size=256K",), default),
            (("--cache-size=64G",), default)):
        with case(f"list, attached with {' '.join(options) or 'no option'}"):
            image = create(work("image"), MIB)
            with Device(image, *options) as device:
                expect_equal(listed(device), wanted, "ro, dio, pass, nounref, state")
            with Device(image) as device:
                expect_equal(listed(device), default, "attached again without options")


# ---------------------------------------------------------------------------
# What is refused, by the tool and by the driver.


def expect_refused(status, words, image, *options):
    before = content(image)
    done = run("qcowctl", "attach", *options, image, status=status)
    expect(one_line(done.stderr) and not done.stdout,
           f"not one line on stderr: {done.stderr!r}, {done.stdout!r}")
    for word in words:
        expect(word in done.stderr, f"no {word!r} in {done.stderr!r}")
    expect_equal(attached(), [], "attached devices")
    expect_same_bytes(content(image), before, "the image file")


def wrong_values():
    for option, words in (("--pass-discard=maybe", ["--pass-discard", "maybe"]),
                          ("--pass-discard=", ["--pass-discard"]),
                          ("--discard-no-unref=1", ["--discard-no-unref", "'1'"]),
                          ("--cache-size=255K", ["--cache-size", "255K", "256K", "64G"]),
                          ("--cache-size=65G", ["--cache-size", "65G", "256K", "64G"]),
                          ("--cache-size=much", ["--cache-size", "much"]),
                          ("--cache-size=-1M", ["--cache-size", "-1M"])):
        with case(f"refused: {option}"):
            expect_refused(EXIT_USAGE, words, create(work("image"), MIB), option)


def version_2():
    with case("discard-no-unref: refused for version 2, allowed when amended"):
        image = create(work("image"), MIB, compat="0.10")
        expect_refused(EXIT_SYSTEM, ["discard-no-unref", "version 3", "qemu-img amend",
                                     "compat=1.1"], image, "--discard-no-unref")
        with Device(image, "--pass-discard=off", "--discard-no-unref=off"):
            pass
        run("qemu-img", "amend", "-f", "qcow2", "-o", "compat=1.1", image)
        with Device(image, "--discard-no-unref") as device:
            expect_equal(listed(device)[3], True, "nounref")
        check(image)


def attach_raw(image, flags=0, cache_size=0, length=struct.calcsize(ATTACH_FORM), tail=b""):
    """The ioctl itself: (errno, reason), or (0, name of the device)."""
    reason = array.array("B", bytes(REASON_BYTES))
    with open(image, "r+b") as file, open("/dev/qcow-control", "r+b", buffering=0) as control:
        files = array.array("B", struct.pack(FILE_FORM, file.fileno(), 0, 0))
        request = struct.pack(ATTACH_FORM, length + len(tail), flags, -1, 1,
                              files.buffer_info()[0], reason.buffer_info()[0],
                              REASON_BYTES, 0, cache_size)[:length] + tail
        argument = bytearray(request)
        try:
            fcntl.ioctl(control, QCOW2_CTL_ATTACH, argument)
        except OSError as error:
            return error.errno, reason.tobytes().split(b"\0")[0].decode()
    return 0, f"/dev/qcow{struct.unpack_from('=i', argument, 8)[0]}"


def expect_attached_raw(image, **options):
    error, name = attach_raw(image, **options)
    expect_equal((error, name), (0, "/dev/qcow0"), "attach")
    run("qcowctl", "detach", name)


def interface():
    for size in (1, 256 * KIB - 1, 64 * GIB + 1, (1 << 64) - 1):
        with case(f"the driver refuses a cache of {size} bytes"):
            error, reason = attach_raw(create(work("image"), MIB), cache_size=size)
            expect_equal(error, errno.EINVAL, f"errno, with {reason!r}")
            expect(str(size) in reason and str(256 * KIB) in reason and str(64 * GIB) in reason,
                   f"reason: {reason!r}")
    with case("the driver refuses a flag that is none"):
        error, reason = attach_raw(create(work("image"), MIB), flags=1 << 4)
        expect_equal(error, errno.EINVAL, f"errno, with {reason!r}")
        expect("0x10" in reason, f"reason: {reason!r}")
    with case("callers that know less, or more, than the driver"):
        image = create(work("image"), MIB)
        expect_attached_raw(image, length=ATTACH_OLD_BYTES)
        expect_attached_raw(image, cache_size=256 * KIB)
        expect_attached_raw(image, cache_size=64 * GIB, tail=bytes(16))
        error, _ = attach_raw(image, tail=bytes(15) + b"\1")
        expect_equal(error, errno.E2BIG, "errno for a member that the driver does not know")
        check(image)


# ---------------------------------------------------------------------------
# pass-discard.

USED = 8 * MIB


def discard(device, offset, length):
    run("blkdiscard", "-o", offset, "-l", length, device.path)


def expect_space(path, least, most, what):
    found = space(path)
    expect(least <= found <= most,
           f"{what}: the file takes {found // KIB} KiB, wanted {least // KIB} to {most // KIB}")


def space_given_back(cluster):
    """Some seconds after the discard, not only when the image is detached."""
    image = create(work("image"), 4 * USED, cluster_size=cluster)
    with Device(image, "--pass-discard=on") as device, device.open() as disk:
        disk.write(0, noise(USED, 1))
        disk.flush()
        full = space(image)
        discard(device, 0, USED)
        wait_until(lambda: space(image) <= full - USED, 20, "space comes back")
        expect(not any(disk.read(0, USED)), "data where it was discarded")
    check(image)


def space_kept(cluster, *options):
    """Space stays, and what was freed is used before the file grows."""
    image = create(work("image"), 4 * USED, cluster_size=cluster)
    with Device(image, "--pass-discard=off", *options) as device, device.open() as disk:
        disk.write(0, noise(USED, 1))
        disk.flush()
        full, size = space(image), os.path.getsize(image)
        for turn in range(2):
            discard(device, 0, USED)
            disk.flush()
            expect(not any(disk.read(0, USED)), "data where it was discarded")
            # Long enough for holes to be made, and for the clusters to be free.
            time.sleep(1)
            expect_space(image, full, full + MIB, f"turn {turn}, discarded")
            disk.write(0, noise(USED, turn))
            disk.flush()
            expect(os.path.getsize(image) <= size + MIB,
                   f"turn {turn}: the file grew from {size} to {os.path.getsize(image)}")
        discard(device, 0, USED)
    expect_space(image, full, full + MIB, "detached")
    check(image)
    return image, full


def reused_elsewhere(cluster):
    """What another part of the disk gets is what was freed."""
    image, full = space_kept(cluster)
    size = os.path.getsize(image)
    wanted = noise(USED, 9)
    with Device(image, "--pass-discard=off") as device, device.open() as disk:
        disk.write(2 * USED, wanted)
        expect_same_bytes(disk.read(2 * USED, USED), wanted, "written")
        expect(not any(disk.read(0, USED)), "data where it was discarded")
    expect(os.path.getsize(image) <= size + MIB,
           f"the file grew from {size} to {os.path.getsize(image)}")
    expect_space(image, full, full + MIB, "written again")
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw")))[2 * USED:3 * USED], wanted,
                      "as QEMU reads it")


def trim_file_system(*options):
    """How much space of the image file fstrim gives back after a file was removed."""
    image = create(work("image"), 64 * MIB)
    with Device(image, *options) as device, ext4_on(device.path, "/mnt/trim"):
        path = "/mnt/trim/file"
        with open(path, "wb") as file:
            file.write(noise(USED, 3))
        os.sync()
        os.unlink(path)
        os.sync()
        before = space(image)
        expect(before >= USED, "the file takes no space")
        run("fstrim", "/mnt/trim")
        os.sync()
    freed = before - space(image)
    check(image)
    run("e2fsck", "-f", "-n", to_raw(image, work("raw")))
    return freed


def part_of_clusters(keeps_space, *options):
    """Subclusters: their cluster stays in place, and so may be given back in part."""
    image = create(work("image"), 4 * USED, cluster_size=2 * MIB, extended_l2="on")
    data = noise(USED, 1)
    with Device(image, *options) as device, device.open() as disk:
        disk.write(0, data)
        disk.flush()
        full, size = space(image), os.path.getsize(image)
        for start in range(0, USED, 2 * MIB):
            discard(device, start, MIB)
        disk.flush()
        if not keeps_space:
            wait_until(lambda: space(image) <= full - USED // 2, 20, "space comes back")
        for start in range(0, USED, 2 * MIB):
            expect(not any(disk.read(start, MIB)), "data where it was discarded")
            expect_same_bytes(disk.read(start + MIB, MIB), data[start + MIB:start + 2 * MIB],
                              "the rest")
    expect_space(image, full if keeps_space else 0, full if keeps_space else full - USED // 2,
                 "detached")
    expect_equal(os.path.getsize(image), size, "size of the file")
    check(image)


def passing():
    for cluster in (4096, 65536, 2 * MIB):
        with case(f"pass-discard=on: space goes back, clusters of {cluster} bytes"):
            space_given_back(cluster)
        with case(f"pass-discard=off: space stays and is used again, clusters of {cluster} bytes"):
            reused_elsewhere(cluster)
    with case("pass-discard=on: parts of clusters"):
        part_of_clusters(False)
    with case("pass-discard=off: parts of clusters"):
        part_of_clusters(True, "--pass-discard=off")
    with case("pass-discard=on: fstrim"):
        freed = trim_file_system("--pass-discard=on")
        expect(freed >= USED * 3 // 4, f"{freed // KIB} KiB came back")
    with case("pass-discard=off: fstrim"):
        freed = trim_file_system("--pass-discard=off")
        expect(freed <= 0, f"{freed // KIB} KiB came back")


# ---------------------------------------------------------------------------
# discard-no-unref.


def places(image, cluster):
    """Host offset of each cluster that has one, by guest offset."""
    found = json.loads(run("qemu-img", "map", "-f", "qcow2", "--output=json", image).stdout)
    return {extent["start"] + at: extent["offset"] + at
            for extent in found if "offset" in extent
            for at in range(0, extent["length"], cluster)}


def data_places(image):
    found = json.loads(run("qemu-img", "map", "-f", "qcow2", "--output=json", image).stdout)
    return sum(extent["length"] for extent in found if extent["data"])


def expect_kept(image, cluster, before, size):
    """All clusters where they were, none freed and none lost."""
    check(image)
    after = places(image, cluster)
    expect(after == before, f"{len(before)} clusters had a place, {len(after)} have one, "
           f"{len(before.items() & after.items())} the same")
    expect_equal(os.path.getsize(image), size, "size of the file")


def zero(device, offset, length):
    """Write zeroes that may give up the space."""
    run("fallocate", "-p", "-o", offset, "-l", length, device.path)


def place_kept(options, keeps_space, **create_options):
    """Half discarded and a quarter zeroed, then all of it written again."""
    image = create(work("image"), 2 * USED, **create_options)
    cluster = create_options["cluster_size"]
    old, new = noise(USED, 1), noise(USED, 2)
    gone = USED * 3 // 4
    with Device(image) as device, device.open() as disk:
        disk.write(0, old)
    before, size, full = places(image, cluster), os.path.getsize(image), space(image)
    expect_equal(len(before), USED // cluster, "clusters")
    with Device(image, "--discard-no-unref", *options) as device, device.open() as disk:
        discard(device, 0, USED // 2)
        zero(device, USED // 2, USED // 4)
        disk.flush()
        expect(not any(disk.read(0, gone)), "data where it was discarded")
        if not keeps_space:
            wait_until(lambda: space(image) <= full - gone, 20, "space comes back")
    expect_kept(image, cluster, before, size)
    expect_equal(data_places(image), USED - gone, "bytes of data")
    if keeps_space:
        expect_space(image, full, full, "discarded")
    expect_same_bytes(content(to_raw(image, work("raw")))[:USED], bytes(gone) + old[gone:],
                      "as QEMU reads it, discarded")
    with Device(image, "--discard-no-unref", *options) as device, device.open() as disk:
        disk.write(0, new)
        expect_same_bytes(disk.read(0, USED), new, "written again")
    expect_kept(image, cluster, before, size)
    expect_same_bytes(content(to_raw(image, work("raw")))[:USED], new,
                      "as QEMU reads it, written again")


def place_given_up(*options):
    """The counter-test: without the option the places go."""
    image = create(work("image"), 2 * USED)
    with Device(image, *options) as device, device.open() as disk:
        disk.write(0, noise(USED, 1))
        discard(device, 0, USED)
        disk.flush()
    check(image)
    expect_equal(places(image, 65536), {}, "places of the clusters")


def shared_places():
    """What a snapshot shares stays the snapshot's, and what is written is elsewhere."""
    image = create(work("image"), 2 * USED)
    old, new = noise(USED, 1), noise(USED, 2)
    with Device(image) as device, device.open() as disk:
        disk.write(0, old)
    run("qemu-img", "snapshot", "-c", "kept", image)
    with Device(image, "--discard-no-unref") as device, device.open() as disk:
        discard(device, 0, USED)
        disk.flush()
        expect(not any(disk.read(0, USED)), "data where it was discarded")
        disk.write(0, new)
        expect_same_bytes(disk.read(0, USED), new, "written again")
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw")))[:USED], new, "as QEMU reads it")
    expect_same_bytes(content(to_raw(image, work("raw"), "-l", "kept"))[:USED], old,
                      "the snapshot, as QEMU reads it")


def keeping_places():
    for title, layout in (("clusters of 4 KiB", {"cluster_size": 4096}),
                          ("clusters of 64 KiB", {"cluster_size": 65536}),
                          ("clusters of 64 KiB with subclusters",
                           {"cluster_size": 65536, "extended_l2": "on"})):
        with case(f"discard-no-unref: places stay, space goes, {title}"):
            place_kept((), False, **layout)
        with case(f"discard-no-unref, pass-discard=off: places and space stay, {title}"):
            place_kept(("--pass-discard=off",), True, **layout)
    with case("discard-no-unref: what a snapshot shares"):
        shared_places()
    with case("discard-no-unref=off: places go"):
        place_given_up("--discard-no-unref=off")


# ---------------------------------------------------------------------------
# The size of the cache: how often a table must be read once more.

# More than fit into 32 MiB at 4 KiB each. A table is a cluster, and a slice.
TABLES = 10240
L1_OFFSET = 40


def covered(cluster):
    """Bytes of the disk that one table maps."""
    return cluster * (cluster // 8)


def empty_tables(path, cluster):
    """An image with all of its L2 tables, and nothing in them; good for reading only,
    as their clusters are not counted."""
    create(path, TABLES * covered(cluster), cluster_size=cluster)
    end = -os.path.getsize(path) // cluster * -cluster
    os.truncate(path, end + TABLES * cluster)
    with open(path, "r+b") as file:
        file.seek(field(path, L1_OFFSET, "Q"))
        file.write(struct.pack(f">{TABLES}Q",
                               *range(end, end + TABLES * cluster, cluster)))
    return path


@contextlib.contextmanager
def loop_device(path):
    device = run("losetup", "-f", "--show", path).stdout.strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


def reads(device):
    with open(f"/sys/block/{os.path.basename(device)}/stat", encoding="ascii") as file:
        return int(file.read().split()[0])


def tables_read(loop, cluster, count, *options):
    """How many tables are read when each of the first ones is used a second time."""
    with Device(loop, "-r", "--direct-io", *options) as device:
        with device.open(os.O_RDONLY) as disk:
            before = reads(loop)
            for number in range(count):
                disk.read(number * covered(cluster), SECTOR)
            middle = reads(loop)
            # The first one was read already, when partitions were looked for.
            expect(0 <= count - (middle - before) <= 1,
                   f"{middle - before} tables read the first time, wanted {count}")
            for number in range(count):
                disk.read(number * covered(cluster), SECTOR)
            return reads(loop) - middle


# How many tables, and how many of them are read again, with which options.
PAGES = (
    (("--cache-size=256K",), 48, "none"),
    (("--cache-size=256K",), 512, "most"),
    (("--cache-size=1M",), 200, "none"),
    (("--cache-size=1M",), 1024, "most"),
    ((), 1024, "none"),
    ((), TABLES, "some"),
    (("--cache-size=32M",), TABLES, "some"),
    (("--cache-size=64M",), TABLES, "none"))
# Eight in a page.
SMALL = (
    (("--cache-size=256K",), 400, "none"),
    (("--cache-size=256K",), 4096, "most"),
    ((), TABLES, "none"))


def cache_sizes(loop, cluster, cases):
    for options, count, wanted in cases:
        with case(f"{' '.join(options) or 'cache of the default size'}: {wanted} of {count} "
                  f"tables of {cluster} bytes are read again"):
            found = tables_read(loop, cluster, count, *options)
            least, most = {"none": (0, 0), "some": (count // 8, count),
                           "most": (count * 3 // 4, count)}[wanted]
            expect(least <= found <= most, f"{found} tables, wanted {least} to {most}")


def writes_with_a_small_cache():
    """More changes under way than the smallest cache holds."""
    with case("--cache-size=256K: writes all over the disk"):
        image = create(work("image"), 512 * MIB, cluster_size=4096)
        wanted = {offset: noise(SECTOR, offset) for offset in range(0, 512 * MIB, MIB // 2)}
        with Device(image, "--cache-size=256K") as device, device.open() as disk:
            for offset, data in wanted.items():
                disk.write(offset, data)
            for offset, data in wanted.items():
                expect_same_bytes(disk.read(offset, SECTOR), data, f"at {offset}")
            expect_equal(device.state(), "ok", "state")
        check(image)
        with open(to_raw(image, work("raw")), "rb") as raw:
            for offset, data in wanted.items():
                raw.seek(offset)
                expect_same_bytes(raw.read(SECTOR), data, f"as QEMU reads it, at {offset}")


def caching():
    for cluster, cases in ((4096, PAGES), (512, SMALL)):
        # Not in WORK, which each case empties.
        path = empty_tables("/dev/shm/e2e-tables", cluster)
        with loop_device(path) as loop:
            cache_sizes(loop, cluster, cases)
        os.unlink(path)
    writes_with_a_small_cache()


def access_time():
    """To note it costs more than the read: not on behalf of who reads the device."""
    run("mount", "-o", "remount,strictatime", ROOT)
    image = create(os.path.join(ROOT, "image"), MIB)
    with Device(image, "--direct-io") as device, device.open() as open_disk:
        open_disk.write(0, noise(SECTOR, 1))
        before = os.stat(image).st_atime_ns
        time.sleep(0.05)
        open_disk.read(0, SECTOR)
        expect_equal(os.stat(image).st_atime_ns, before, "access time")
    with open(image, "rb") as file:
        file.read(1)
    expect(os.stat(image).st_atime_ns > before, "it is noted for nobody")


def cached_pages(path):
    return int(run("fincore", "--noheadings", "--output", "PAGES", path).stdout)


def page_cache():
    """One page of a file would have the file system end each direct write in a worker."""
    data = os.path.join(ROOT, "data")
    image = create(os.path.join(ROOT, "split"), 4 * MIB, data_file=data)
    files = image, data
    with Device(image) as device, device.open() as open_disk:
        open_disk.write(0, noise(MIB, 1))
    for path in files:
        expect(cached_pages(path), f"{path} has no pages in the page cache to begin with")
    with Device(image, "--direct-io") as device, device.open() as open_disk:
        open_disk.write(MIB, noise(MIB, 2))
        open_disk.flush()
        for path in files:
            expect_equal(cached_pages(path), 0, f"pages of {path} in the page cache")
        expect_same_bytes(open_disk.read(0, 2 * MIB), noise(MIB, 1) + noise(MIB, 2),
                          "what both attachments wrote")
    check(image)


def in_a_file():
    disk, = ram_disks(1, 64 * MIB)
    with ext4_on(disk, ROOT):
        with case("the image's access time stays"):
            access_time()
        with case("direct I/O leaves no pages of the image in the page cache"):
            page_cache()


run("modprobe", "loop")
in_a_file()
listing()
wrong_values()
version_2()
interface()
passing()
keeping_places()
caching()
finish()
