#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""/sys/block/qcowN/qcow2: what the attributes say, who may write them, and what
they, the block device and file systems say after a metadata error. And what
qcowctl list says of the same."""

import errno
import re
import select
import socket
import stat

from e2e import *

EXIT_LOST = 9
CLUSTER = 64 * KIB
COPIED = 1 << 63
CACHE_MIN, CACHE_MAX = 256 * KIB, 64 * GIB
PAGE = mmap.PAGESIZE
WRITABLE = {"cache_size"}
TEXTS = {"state", "chain"}
DESCRIBED = os.path.join(TOP, "Documentation/ABI/testing/sysfs-block-qcow2")
NETLINK_KOBJECT_UEVENT = 15


def directory(device):
    return f"/sys/block/{device.name}/qcow2"


def show(device, name):
    with open(os.path.join(directory(device), name), encoding="ascii") as file:
        text = file.read()
    expect(re.fullmatch(r"[a-z0-9-]+\n", text), f"{name} holds {text!r}")
    return text.strip()


def number(device, name):
    return int(show(device, name))


def store(device, name, text):
    """0 or the errno."""
    fd = os.open(os.path.join(directory(device), name), os.O_WRONLY)
    try:
        os.write(fd, str(text).encode())
        return 0
    except OSError as error:
        return error.errno
    finally:
        os.close(fd)


def described():
    with open(DESCRIBED, encoding="ascii") as file:
        return set(re.findall(r"^What:\t\t/sys/block/qcow<N>/qcow2/(\w+)$", file.read(),
                              re.MULTILINE))


# ---------------------------------------------------------------------------
# Attributes.


def attributes():
    image = create(work("image"), 8 * MIB, cluster_size=32 * KIB)
    with Device(image) as device:
        names = set(os.listdir(directory(device)))
        expect_equal(names, described(), "attributes, and those of the ABI document")
        for name in names:
            mode = stat.S_IMODE(os.stat(os.path.join(directory(device), name)).st_mode)
            expect_equal(mode, 0o644 if name in WRITABLE else 0o444, f"mode of {name}")
            if name != "chain":
                show(device, name)
        expect_equal(show(device, "state"), "ok", "state")
        expect_equal(device.state(), "ok", "state that qcowctl tells")
        expect_equal(number(device, "version"), 3, "version")
        expect_equal(number(device, "cluster_size"), 32 * KIB, "cluster_size")
    check(image)


def read_only(version):
    image = create(work("image"), MIB, compat=version)
    with Device(image, "-r") as device:
        expect_equal(show(device, "state"), "read-only", "state")
        expect_equal(device.state(), "read-only", "state that qcowctl tells")
        expect_equal(number(device, "version"), 2 if version == "0.10" else 3, "version")


def default_cap(size, low, high):
    image = create(work("image"), size)
    with Device(image) as device:
        found = number(device, "cache_size")
        expect(low <= found <= high, f"cache_size is {found}, wanted {low} to {high}")


def limits():
    image = create(work("image"), GIB)
    with Device(image) as device:
        for good in (CACHE_MIN, MIB, CACHE_MAX, hex(2 * MIB)):
            expect_equal(store(device, "cache_size", good), 0, f"write of {good}")
            expect_equal(number(device, "cache_size"), int(str(good), 0), "cache_size")
        expect_equal(store(device, "cache_size", MIB + PAGE - 1), 0, "write")
        expect_equal(number(device, "cache_size"), MIB, "cache_size, rounded")
        for bad in (0, 1, CACHE_MIN - 1, CACHE_MAX + 1, 1 << 64, -1, "much", "1M"):
            wanted = errno.ERANGE if bad == 1 << 64 else errno.EINVAL
            expect_equal(store(device, "cache_size", bad), wanted, f"write of {bad!r}")
            expect_equal(number(device, "cache_size"), MIB, "cache_size")


def others_may_not_write():
    image = create(work("image"), MIB)
    with Device(image) as device:
        where = os.path.join(directory(device), "cache_size")
        before = number(device, "cache_size")
        script = f"echo {2 * MIB} >{where}; cat {where}"
        done = run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--",
                   "sh", "-c", script, cwd="/")
        expect("ermission denied" in done.stderr, f"the shell says {done.stderr!r}")
        expect_equal(int(done.stdout), before, "cache_size")


def wait_for(what, condition):
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    raise Failure(f"{what} does not come")


def counters():
    image = create(work("image"), 64 * MIB)
    with Device(image) as device, device.open() as disk:
        before = {name: number(device, name) for name in described() - TEXTS}
        for place in range(8):
            disk.write(place * 4 * CLUSTER, noise(CLUSTER, place))
        # The data and the L2 table.
        expect_equal(number(device, "clusters_allocated") - before["clusters_allocated"],
                     9, "clusters allocated")
        expect(number(device, "cache_dirty") > 0, "nothing is dirty")
        expect(number(device, "cache_used") >= number(device, "cache_dirty"),
               "more is dirty than used")
        expect(number(device, "slices_loaded") > before["slices_loaded"], "slices loaded")
        disk.flush()
        expect(number(device, "commits") > before["commits"], "no commit")
        expect_equal(number(device, "cache_dirty"), 0, "cache_dirty after a flush")
        run("blkdiscard", device.path, cwd="/")
        disk.flush()
        wait_for("8 clusters freed", lambda: number(device, "clusters_freed") -
                 before["clusters_freed"] == 8)
    check(image)


# ---------------------------------------------------------------------------
# The chain.


def chain_path(device):
    return os.path.join(directory(device), "chain")


def chain(device):
    """Its lines as (role, format, path), with the path as bytes."""
    text = content(chain_path(device))
    expect(text.endswith(b"\n"), f"chain ends with {text[-20:]!r}")
    found = []
    for line in text[:-1].split(b"\n"):
        expect(re.fullmatch(rb"[a-z]+ [a-z0-9]+ [^ \x00-\x1f\x7f]+", line), f"a line {line!r}")
        role, form, path = line.split(b" ")
        path = re.sub(rb"\\([0-3][0-7]{2})", lambda match: bytes([int(match[1], 8)]), path)
        found.append((role.decode(), form.decode(), path))
    return found


def expect_chain(device, *wanted):
    expect_equal(chain(device), [(role, form, os.fsencode(path)) for role, form, path in wanted],
                 "chain")


def every_kind():
    """Raw and qcow2, with data files, from the image down; read-only it is the same."""
    with open(work("base"), "wb") as file:
        file.truncate(MIB)
    create(work("low"), MIB, backing_file="base", backing_fmt="raw")
    create(work("mid"), MIB, backing_file="low", backing_fmt="qcow2", data_file=work("data1"))
    create(work("image"), MIB, backing_file="mid", backing_fmt="qcow2", data_file=work("data2"))
    files = (("image", "qcow2", work("image")), ("data", "raw", work("data2")),
             ("backing", "qcow2", work("mid")), ("data", "raw", work("data1")),
             ("backing", "qcow2", work("low")), ("backing", "raw", work("base")))
    for options in ((), ("-r",)):
        with Device(work("image"), *options) as device:
            expect_chain(device, *files)
    with Device(work("mid"), "-r") as mid, Device(work("image")) as device:
        expect_chain(device, *files)
        expect_chain(mid, ("image", "qcow2", work("mid")), *files[3:])
    with Device(work("low")) as device:
        expect_chain(device, ("image", "qcow2", work("low")), ("backing", "raw", work("base")))


def image_alone():
    image = create(work("image"), MIB)
    run("qemu-img", "snapshot", "-c", "before", image)
    with Device(image) as device:
        expect_chain(device, ("image", "qcow2", image))
        with Device(image, "--snapshot", "before") as snapshot:
            expect_chain(snapshot, ("image", "qcow2", image))


def strange_names():
    """Any byte but zero and slash, in a name as long as can be."""
    usual = bytes(byte for byte in range(1, 256) if byte not in b"/")
    names = [b"a b", b"\\040", b"\\\n\\", "\u00e9\u20ac".encode(), usual, b"\n" * 255, b"-"]
    for name in names:
        path = os.path.join(os.fsencode(WORK), name)
        create(work("image"), MIB)
        os.rename(work("image"), path)
        with Device(os.fsdecode(path)) as device:
            expect_chain(device, ("image", "qcow2", path))
            expect_equal(content(chain_path(device)).count(b"\n"), 1, "lines")
        os.unlink(path)


def other_names():
    """A file that is renamed has its new name, one that is deleted its last."""
    image = create(work("image"), MIB)
    with Device(image) as device:
        os.rename(image, work("other"))
        expect_chain(device, ("image", "qcow2", work("other")))
        os.unlink(work("other"))
        expect_chain(device, ("image", "qcow2", work("other (deleted)")))
        # For Device, which may damage what it was detached from.
        create(image, MIB)


def long_path():
    """Longer than the system can tell: the device and the rest of the chain work."""
    create(work("base"), MIB)
    os.chdir(WORK)
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    create(work("image"), MIB, backing_file=work("base"), backing_fmt="qcow2")
    os.rename(work("image"), "image")
    try:
        output = run("qcowctl", "attach", "image", cwd=os.curdir).stdout
        device = type("", (), {"name": os.path.basename(output.strip())})
        expect_chain(device, ("image", "qcow2", "-"), ("backing", "qcow2", work("base")))
        entry, = attached()
        expect_equal(entry["image"], None, "image that qcowctl tells")
        run("qcowctl", "detach", device.name)
    finally:
        os.chdir("/")


def read_in_pieces(path, size):
    pieces = []
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(size):
            pieces.append(piece)
    return b"".join(pieces)


def many_files(count):
    """Far more than a page, read in pieces of any size and from any place."""
    where = work("d" * 200)
    os.mkdir(where)

    def name(number):
        return os.path.join(where, f"{number:04}")

    create(name(0), MIB, cluster_size=512)
    create(name(1), MIB, cluster_size=512, backing_file=name(0), backing_fmt="qcow2")
    layer, place = content(name(1)), field(name(1), 8, "Q")
    for number in range(2, count):
        with open(name(number), "wb") as file:
            file.write(layer)
            file.seek(place)
            file.write(os.fsencode(name(number - 1)))
    with Device(name(count - 1)) as device:
        wanted = [("backing", "qcow2", name(number)) for number in range(count - 2, -1, -1)]
        expect_chain(device, ("image", "qcow2", name(count - 1)), *wanted)
        path = chain_path(device)
        text = content(path)
        expect(len(text) > 16 * PAGE, f"only {len(text)} bytes")
        for size in (977, PAGE - 1, PAGE, PAGE + 1, MIB):
            expect_same_bytes(read_in_pieces(path, size), text, f"read by {size} bytes")
        with open(path, "rb", buffering=0) as file:
            for start in (0, 1, PAGE - 1, PAGE, 5 * PAGE + 17, len(text) - 1, len(text),
                          len(text) + 1, 1 << 40):
                expect_equal(os.pread(file.fileno(), 100, start), text[start:start + 100],
                             f"100 bytes at {start}")


# ---------------------------------------------------------------------------
# Errors.


class Uevents:
    """What the kernel says of devices, from now on."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW,
                                    NETLINK_KOBJECT_UEVENT)
        self.socket.bind((0, 1))
        self.socket.settimeout(5)

    def wait(self, device, wanted):
        while True:
            try:
                words = self.socket.recv(65536).decode().split("\0")
            except TimeoutError:
                raise Failure(f"no change event of {device.name} with {wanted}") from None
            if words[0].startswith("change@") and f"DEVNAME={device.name}" in words \
                    and wanted in words:
                return


class Watcher:
    """Waits for the attribute `state` to change."""

    def __init__(self, device):
        self.file = open(os.path.join(directory(device), "state"), encoding="ascii")
        self.file.read()
        self.poll = select.poll()
        self.poll.register(self.file, select.POLLPRI)

    def has_changed(self, milliseconds):
        found = self.poll.poll(milliseconds)
        if found:
            self.file.seek(0)
            self.file.read()
        return bool(found)


def l2_table(image):
    return field(image, field(image, 40, "Q"), "Q") & ~COPIED


def refcount_block(image):
    return field(image, field(image, 48, "Q"), "Q")


def expect_failed(device):
    """As it is when the image has failed, for all who look."""
    expect_equal(show(device, "state"), "needs-check", "state")
    expect_equal(device.state(), "needs-check", "state that qcowctl tells")
    expect_equal(run("blockdev", "--getro", device.path).stdout, "1\n", "blockdev --getro")


def expect_no_writes(disk):
    try:
        disk.write(0, bytes(SECTOR))
    except OSError as error:
        expect(error.errno in (errno.EIO, errno.EPERM, errno.EROFS), f"{error}")
        return
    raise Failure("a write after the error went through")


def detach_failed(device):
    done = run("qcowctl", "detach", device.path, status=EXIT_LOST)
    expect("qemu-img check" in done.stderr, f"detach says {done.stderr}")


def metadata_error(cause, *options):
    """Somebody finds the image damaged: `cause` has it happen."""
    image = create(work("image"), 16 * CLUSTER)
    qemu_io(image, [f"write -P 5 0 {2 * CLUSTER}"])
    patch(image, l2_table(image) + 8, "Q", COPIED | refcount_block(image))
    patch(image, l2_table(image) + 16, "Q", COPIED | 512)
    device = Device(image, *options)
    with device.open(os.O_RDONLY if options else os.O_RDWR) as disk:
        watcher, uevents = Watcher(device), Uevents()
        expect(not watcher.has_changed(0), "the state has changed before")
        expect_equal(show(device, "state"), "read-only" if options else "ok", "state")
        try:
            cause(disk)
            raise Failure("no error")
        except OSError as error:
            expect_equal(error.errno, errno.EIO, "error")
        expect(watcher.has_changed(5000), "who polls the state is not told")
        uevents.wait(device, "QCOW2_STATE=needs-check")
        expect_failed(device)
        expect(not watcher.has_changed(200), "the state changes once more")
        if not options:
            expect_no_writes(disk)
        expect_same_bytes(disk.read(0, SECTOR), b"\x05" * SECTOR, "what is sound")
        run("blockdev", "--setrw", device.path)
        expect_equal(run("blockdev", "--getro", device.path).stdout, "1\n", "--getro")
    detach_failed(device)


@contextlib.contextmanager
def flaky_device(ram):
    """Yields its path, and what has all writes to it fail."""
    sectors = int(run("blockdev", "--getsz", ram).stdout)
    run("dmsetup", "create", "flaky", "--table", f"0 {sectors} linear {ram} 0")

    def break_it():
        run("dmsetup", "load", "flaky", "--table",
            f"0 {sectors} flakey {ram} 0 0 3600 1 error_writes")
        run("dmsetup", "suspend", "--noflush", "flaky")
        run("dmsetup", "resume", "flaky")

    try:
        yield "/dev/mapper/flaky", break_it
    finally:
        run("dmsetup", "remove", "--retry", "flaky")


def write_error(ram, *options):
    with flaky_device(ram) as (path, break_it):
        create(path, 16 * CLUSTER)
        device = Device(path, *options)
        with device.open() as disk:
            watcher = Watcher(device)
            disk.write(0, noise(CLUSTER, 0))
            disk.flush()
            disk.write(2 * CLUSTER, noise(CLUSTER, 2))
            break_it()
            try:
                disk.flush()
                raise Failure("no error from the flush")
            except OSError as error:
                expect_equal(error.errno, errno.EIO, "error of the flush")
            expect(watcher.has_changed(5000), "who polls the state is not told")
            expect_failed(device)
            expect_no_writes(disk)
            expect_same_bytes(disk.read(0, CLUSTER), noise(CLUSTER, 0), "what was flushed")
        detach_failed(device)


def damage_free_space(image):
    """The guest clusters that nothing was written to are said to lie on metadata."""
    table, entries = l2_table(image), CLUSTER // 8
    with open(image, "rb") as file:
        file.seek(table)
        words = struct.unpack(f">{entries}Q", file.read(CLUSTER))
    for index, word in enumerate(words[:1024]):
        if not word:
            patch(image, table + 8 * index, "Q", COPIED | refcount_block(image))


def ext4_shuts_down():
    """From 6.12 to 6.14 ext4 takes an error for a shutdown, after which it fails all reads
    by itself; since 6.15 it only writes no more."""
    major, minor = os.uname().release.split(".")[:2]
    return (6, 12) <= (int(major), int(minor)) < (6, 15)


def expect_kept(may_fail=False):
    try:
        found = content("/mnt/ext4/kept")
    except OSError as error:
        expect(may_fail and error.errno == errno.EIO, f"what was there before: {error}")
        note(f"ext4 of {os.uname().release} has shut down, and does not read")
        return
    expect_same_bytes(found, noise(MIB, 1), "what was there before")


def file_system_stops():
    """ext4: an error for who writes, then read-only; what was there is read."""
    image = create(work("image"), 64 * MIB)
    with Device(image) as device:
        run("mkfs.ext4", "-q", "-E", "nodiscard", "-O", "^64bit", device.path)
        with mounted(device.path, "/mnt/ext4"):
            with open("/mnt/ext4/kept", "wb") as file:
                file.write(noise(MIB, 1))
    damage_free_space(image)
    device = Device(image)
    with mounted(device.path, "/mnt/ext4"):
        try:
            with open("/mnt/ext4/lost", "wb", buffering=0) as file:
                for _ in range(24):
                    file.write(noise(MIB, 2))
                os.fsync(file.fileno())
            raise Failure("no error from fsync")
        except OSError as error:
            expect(error.errno in (errno.EIO, errno.EROFS), f"fsync fails with {error}")
        wait_for("needs-check", lambda: show(device, "state") == "needs-check")
        expect_failed(device)
        try:
            for name in range(100):
                with open(f"/mnt/ext4/{name}", "wb") as file:
                    file.write(b"new")
                    file.flush()
                    os.fsync(file.fileno())
            raise Failure("files can still be created")
        except OSError as error:
            expect(error.errno in (errno.EIO, errno.EROFS), f"a new file fails with {error}")
        drop_caches()
        expect_kept(may_fail=ext4_shuts_down())
    # Without ext4's journal, which cannot be written.
    with mounted(device.path, "/mnt/ext4", "-o", "ro,noload"):
        expect_kept()
    detach_failed(device)


def in_use_when_detached():
    """Attributes that are read and written while the device goes."""
    image = create(work("image"), MIB)
    script = ("while :; do for f in /sys/block/qcow0/qcow2/*; do cat $f; done; "
              f"echo {MIB} >/sys/block/qcow0/qcow2/cache_size; done 2>/dev/null >/dev/null")
    with running("sh", "-c", script):
        for _ in range(20):
            with Device(image) as device:
                expect_equal(device.name, "qcow0", "name")
                time.sleep(0.05)
    check(image)


with case("attributes"):
    attributes()
for compat in ("0.10", "1.1"):
    with case(f"read-only, compat={compat}"):
        read_only(compat)
for title, size, low, high in (("64 MiB", 64 * MIB, CACHE_MIN, CACHE_MIN),
                               ("64 GiB", 64 * GIB, 10 * MIB, 11 * MIB),
                               ("1 TiB", TIB, 32 * MIB, 32 * MIB)):
    with case(f"default cap of the cache, disk of {title}"):
        default_cap(size, low, high)
with case("limits of cache_size"):
    limits()
with case("others may not write cache_size"):
    others_may_not_write()
with case("counters"):
    counters()
with case("chain of an image alone, and of its snapshot"):
    image_alone()
with case("chain with every kind of file"):
    every_kind()
with case("chain of files with strange names"):
    strange_names()
with case("chain of files that are renamed and deleted"):
    other_names()
with case("chain with a path that is too long"):
    long_path()
with case("chain of 400 files"):
    many_files(400)
with case("attributes in use when the device goes"):
    in_use_when_detached()
with case("a write to what is damaged"):
    metadata_error(lambda disk: disk.write(CLUSTER, bytes(SECTOR)))
with case("a read of what is damaged"):
    metadata_error(lambda disk: disk.read(2 * CLUSTER, SECTOR))
with case("a read of what is damaged, attached read-only"):
    metadata_error(lambda disk: disk.read(2 * CLUSTER, SECTOR), "-r")
ram_disk, = ram_disks(1, 64 * MIB)
run("modprobe", "dm-flakey")
for title, flags in (("buffered", ()), ("--direct-io", ("--direct-io",))):
    with case(f"metadata cannot be written, {title}"):
        write_error(ram_disk, *flags)
with case("ext4 on a device that fails"):
    file_system_stops()
finish()
