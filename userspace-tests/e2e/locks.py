#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --timeout 600
"""Who may use an image at the same time: QEMU's programs respect attached images,
and images that they use are not attached for writing.

The files are on a RAM disk with ext4, or are RAM disks themselves: the guest's
own tree might not know locks of this kind.
"""

import fcntl
import signal

from e2e import *

F_OFD_GETLK = 36
FLOCK = "hhqqi4x"

DISKS = ram_disks(2, 64 * MIB)
HERE = "/mnt/locks"
SIZE = 4 * MIB
WRITE, SHARED_WRITE, RESIZE = '"write"', 'shared "write"', '"resize"'


def here(name):
    return os.path.join(HERE, name)


def on_ext4(name, function, *arguments):
    with case(name), ext4_on(DISKS[0], HERE):
        function(*arguments)


# ---------------------------------------------------------------------------
# QEMU's programs.


def qemu_refuses(lock, *command):
    """QEMU cannot get a lock: it says so in its own words, and does nothing."""
    done = run(*command, status=None)
    said = done.stdout + done.stderr
    expect(done.returncode, f"{' '.join(command)} works: {said}")
    expect(f"Failed to get {lock} lock" in said, f"{' '.join(command)} says {said!r}")


def write_with_qemu(image, form="qcow2", place="2M"):
    return ("qemu-io", "-f", form, "-c", f"write -P 9 {place} 64k", image)


def read_with_qemu(image, pattern=0):
    return ("qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {pattern} 0 64k", image)


def qemu_reads(image, pattern=0):
    done = run(*read_with_qemu(image, pattern))
    expect("ailed" not in done.stdout, done.stdout)


@contextlib.contextmanager
def qemu_io_open(image, *options):
    """qemu-io has the image open, and waits for commands."""
    with subprocess.Popen(["qemu-io", *options, "-f", "qcow2", image], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as process:
        try:
            process.stdin.write("read 0 512\n")
            process.stdin.flush()
            line = process.stdout.readline()
            expect("read 512/512" in line, f"qemu-io says {line!r}")
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def qemu_nbd_open(image, *options):
    """qemu-nbd serves the image."""
    socket = work("socket")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    with running("qemu-nbd", *options, "-f", "qcow2", "-t", "-k", socket, image) as process:
        for _ in range(1000):
            if os.path.exists(socket):
                break
            expect(process.poll() is None, "qemu-nbd ended")
            time.sleep(0.02)
        # The socket is there before the image is open.
        run("qemu-img", "info", f"nbd+unix:///?socket={socket}")
        yield process


def locked_bytes(path):
    """Where somebody has locks, of the bytes that QEMU uses."""
    found = []
    with open(path, "rb") as file:
        for byte in [*range(100, 105), *range(200, 205)]:
            asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
            kind, *_ = struct.unpack(FLOCK, fcntl.fcntl(file, F_OFD_GETLK, asked))
            if kind != fcntl.F_UNLCK:
                found.append(byte)
    return found


def attach_refused(words, image, *options):
    done = run("qcowctl", "attach", *options, image, status=EXIT_BUSY)
    expect_equal(done.stdout, "", "output")
    expect(done.stderr.count("\n") == 1, f"not one line: {done.stderr!r}")
    for word in words:
        expect(word in done.stderr, f"no {word!r} in {done.stderr!r}")


def others_change_nothing(image, lock):
    """All that QEMU's programs could do to an image that is attached."""
    qemu_refuses(lock, "qemu-img", "resize", "-f", "qcow2", image, "8M")
    qemu_refuses(lock, *write_with_qemu(image))
    qemu_refuses(lock, "qemu-img", "snapshot", "-c", "new", image)
    qemu_refuses(lock, "qemu-img", "check", "-r", "all", image)
    qemu_refuses(lock, "qemu-img", "amend", "-o", "lazy_refcounts=on", image)
    qemu_refuses(lock, "qemu-nbd", "-f", "qcow2", "-k", work("socket"), image)


# ---------------------------------------------------------------------------


def attached_for_writing(image):
    create(image, SIZE)
    with Device(image) as device, device.open() as disk:
        others_change_nothing(image, WRITE)
        qemu_refuses(SHARED_WRITE, *read_with_qemu(image))
        qemu_refuses(SHARED_WRITE, "qemu-img", "info", image)
        qemu_refuses(SHARED_WRITE, "qemu-img", "check", image)
        run("qemu-img", "info", "-U", image)
        disk.write(0, b"\x05" * 64 * KIB)
        expect_same_bytes(disk.read(0, 64 * KIB), b"\x05" * 64 * KIB, "the device goes on")
        # A block device is claimed before it is locked: that error has no name.
        attach_refused(["attached already"], image)
        attach_refused([f"is attached already, as {device.path}"], image, "-r")
    check(image)
    qemu_reads(image, 5)


def attached_for_reading(image):
    qemu_io_write = write_with_qemu(image, place="0")
    create(image, SIZE)
    run(*qemu_io_write)
    with Device(image, "-r"):
        others_change_nothing(image, WRITE)
        qemu_reads(image, 9)
        run("qemu-img", "check", image)
        attach_refused(["is attached already"], image)
        with qemu_io_open(image, "-r"), Device(image, "-r") as second:
            with second.open(os.O_RDONLY) as disk:
                expect_same_bytes(disk.read(0, 64 * KIB), b"\x09" * 64 * KIB, "contents")
        others_change_nothing(image, WRITE)
    run(*qemu_io_write)


def locks_end_with_the_device(image):
    """At once, and also if nothing comes of the device."""
    create(image, SIZE, compat="0.10")
    for _ in range(20):
        Device(image).detach()
        run(*write_with_qemu(image))
    for _ in range(20):
        # This option needs version 3: the kernel refuses.
        run("qcowctl", "attach", "--discard-no-unref", image, status=EXIT_SYSTEM)
        run(*write_with_qemu(image))


def locks_outlive_the_tool(image):
    """They belong to the open file, which only the driver has."""
    create(image, SIZE)
    with Device(image):
        expect("qcowctl" not in run("ps", "-A").stdout, "qcowctl is still there")
        with open("/proc/locks", encoding="ascii") as file:
            inode = os.stat(image).st_ino
            rows = [line.split() for line in file if f":{inode} " in line]
        found = sorted(byte for row in rows if row[1] == "OFDLCK"
                       for byte in range(int(row[6]), int(row[7]) + 1))
        expect_equal(found, [100, 101, 103, 201, 203], "locked bytes")
        expect_equal({row[3] for row in rows}, {"READ"}, "kinds of locks")


def qemu_writes(opener, who):
    image, over = create(here("image"), SIZE), here("over")
    create(over, SIZE, backing_file=image, backing_fmt="qcow2")
    with opener(image) as process:
        words = [f"is in use by {who}, process {process.pid}", "it holds the lock for 'write'"]
        attach_refused([f"{image}: {words[0]}", words[1]], image)
        attach_refused([f"{image}: {words[0]}", words[1]], image, "-r")
        attach_refused([f"{image}: {words[0]}", words[1]], image, "--snapshot", "s")
        attach_refused([f"{over}: its backing file '{image}': {words[0]}", words[1]], over)
        expect(process.poll() is None, f"{who} is disturbed")
    with Device(image):
        pass


def qemu_only_reads(opener, who):
    image = create(here("image"), SIZE)
    with opener(image, "-r") as process:
        attach_refused([f"{image}: is in use by {who}, process {process.pid}",
                        "it does not share 'write'"], image)
        with Device(image, "-r") as device, device.open(os.O_RDONLY) as disk:
            expect(not any(disk.read_all()), "data in an empty image")
    with Device(image):
        pass


def killed_holder():
    """What a killed process had locked is free."""
    image = create(here("image"), SIZE)
    with qemu_io_open(image) as process:
        attach_refused(["qemu-io"], image)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with Device(image):
            pass


def at_once(count=8, rounds=5):
    """Of many who attach the same image for writing at most one has it, and if
    they stood in each other's way it can be had afterwards."""
    image = create(here("image"), SIZE)
    for _ in range(rounds):
        tools = [subprocess.Popen(["qcowctl", "attach", image], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                 for _ in range(count)]
        outputs = [tool.communicate(timeout=100) for tool in tools]
        for tool, (out, err) in zip(tools, outputs):
            expect(tool.returncode in (0, EXIT_BUSY), f"{tool.returncode}: {out}{err}")
        devices = attached()
        expect(len(devices) <= 1, f"{len(devices)} devices of one image")
        expect_equal([tool.returncode for tool in tools].count(0), len(devices), "successes")
        for device in devices:
            run("qcowctl", "detach", device["name"])
        with Device(image):
            pass


def against_qemu(rounds=20):
    """QEMU and the tool come at the same time: never do both get it."""
    image = create(here("image"), SIZE)
    won = {"qemu": 0, "tool": 0, "nobody": 0}
    for _ in range(rounds):
        with subprocess.Popen(["qemu-io", "-f", "qcow2", image], text=True,
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as process:
            tool = run("qcowctl", "attach", image, status=None)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("read 0 512\n")
                process.stdin.close()
            qemu = "read 512/512" in process.stdout.readline()
            process.kill()
        expect(tool.returncode in (0, EXIT_BUSY), tool.stderr)
        expect(not (qemu and tool.returncode == 0), "both have the image open")
        winner = "qemu" if qemu else "tool" if tool.returncode == 0 else "nobody"
        won[winner] += 1
        if tool.returncode == 0:
            run("qcowctl", "detach", tool.stdout.strip())
    note(f"QEMU {won['qemu']}, qcowctl {won['tool']}, nobody {won['nobody']}")


# ---------------------------------------------------------------------------
# Chains.


def chain():
    """base.raw, mid, and two overlays of that."""
    with open(here("base.raw"), "wb") as file:
        file.write(b"\x03" * SIZE)
    create(here("mid"), SIZE, backing_file="base.raw", backing_fmt="raw")
    for name in ("one", "two"):
        create(here(name), SIZE, backing_file="mid", backing_fmt="qcow2")


def base_is_named(device):
    """Who wants to write to what is in a chain is told whose."""
    words = [f"is in use by {device.path}, as a backing file (it does not share 'write')"]
    attach_refused([f"{here('mid')}: {words[0]}"], here("mid"))
    data = here("with-base-as-data")
    shutil.copy(here("external"), data)
    attach_refused([f"{data}: its data file '{here('base.raw')}': {words[0]}"], data)


def shared_bases():
    """Backing files are only read: by many, among them QEMU, but never written."""
    create(here("external"), SIZE, data_file=here("base.raw"))
    chain()
    with Device(here("one")), Device(here("two")) as two, Device(here("mid"), "-r"):
        qemu_refuses(WRITE, *write_with_qemu(here("mid")))
        qemu_refuses(WRITE, *write_with_qemu(here("base.raw"), "raw"))
        qemu_refuses(WRITE, "qemu-img", "resize", "-f", "raw", here("base.raw"), "8M")
        qemu_refuses(SHARED_WRITE, "qemu-img", "info", here("one"))
        qemu_reads(here("mid"), 3)
        create(here("three"), SIZE, backing_file="mid", backing_fmt="qcow2")
        with qemu_io_open(here("three")), two.open() as disk:
            disk.write(0, b"\x04" * 64 * KIB)
            expect_same_bytes(disk.read(0, 128 * KIB),
                              b"\x04" * 64 * KIB + b"\x03" * 64 * KIB, "contents")
        attach_refused(["is attached already"], here("mid"))
        qemu_refuses(WRITE, "qemu-img", "commit", here("three"))
    with Device(here("one")) as one:
        with Device(here("two")):
            base_is_named(one)
        base_is_named(one)
    with Device(here("three")) as three:
        base_is_named(three)
    with Device(here("mid")):
        attach_refused([f"{here('one')}: its backing file 'mid': is attached already"],
                       here("one"))
    for name in ("one", "two", "three", "mid"):
        check(here(name))
    run("qemu-img", "commit", "-q", here("two"))


def orders_of_detaching():
    """Whoever goes first, a base is locked until the last has gone, no longer."""
    chain()
    for first, second in ((0, 1), (1, 0)) * 10:
        devices = [Device(here("one")), Device(here("two"))]
        devices[first].detach()
        for name in ("mid", "base.raw"):
            expect_equal(locked_bytes(here(name)), [100, 201, 203], f"locks of {name}")
        devices[second].detach()
        for name in ("mid", "base.raw", "one", "two"):
            expect_equal(locked_bytes(here(name)), [], f"locks of {name} afterwards")
    run(*write_with_qemu(here("base.raw"), "raw"))
    run(*write_with_qemu(here("mid")))


def deep(depth):
    """Relative names, from another directory; all files are locked."""
    def name(number):
        return f"{number:03}"

    with open(here(name(0)), "wb") as file:
        file.write(b"\x07" * MIB)
    create(here(name(1)), MIB, backing_file=name(0), backing_fmt="raw", cluster_size=4096)
    create(here(name(2)), MIB, backing_file=name(1), backing_fmt="qcow2", cluster_size=4096)
    layer, place = content(here(name(2))), field(here(name(2)), 8, "Q")
    for number in range(3, depth):
        with open(here(name(number)), "wb") as file:
            file.write(layer)
            file.seek(place)
            file.write(name(number - 1).encode())
    top = here(name(depth - 1))
    with Device(top) as device, device.open() as disk:
        expect_same_bytes(disk.read_all(), b"\x07" * MIB, "contents")
        for number in (0, 1, depth // 2):
            form = "raw" if number == 0 else "qcow2"
            qemu_refuses(WRITE, *write_with_qemu(here(name(number)), form, "0"))
        attach_refused([f"{here(name(1))}: is in use by {device.path}, as a backing file "],
                       here(name(1)))
        disk.write(4096, b"\x08" * 4096)
    check(top)
    expect_same_bytes(content(to_raw(top, work("raw"))),
                      b"\x07" * 4096 + b"\x08" * 4096 + b"\x07" * (MIB - 8192), "as QEMU reads it")


def data_file():
    image, data = here("image"), here("data")
    create(image, SIZE, data_file=data)
    with Device(image) as device, device.open() as disk:
        disk.write(0, b"\x06" * 64 * KIB)
        qemu_refuses(WRITE, *write_with_qemu(data, "raw"))
        qemu_refuses(WRITE, "qemu-img", "resize", "-f", "raw", data, "8M")
        others_change_nothing(image, WRITE)
    with Device(image, "-r"), Device(image, "-r"):
        qemu_refuses(WRITE, *write_with_qemu(data, "raw"))
        qemu_reads(image, 6)
    check(image)
    shutil.copy(image, here("copy"))
    with Device(image) as device:
        attach_refused([f"{here('copy')}: its data file '{data}': is in use by {device.path}, "
                        "as a data file (it holds the lock for 'write')"], here("copy"))


# ---------------------------------------------------------------------------
# Snapshots.


def with_snapshot(path):
    create(path, SIZE)
    qemu_io(path, [f"write -P 1 0 {SIZE}"])
    run("qemu-img", "snapshot", "-c", "before", path)
    return path


def expect_before(device):
    with device.open(os.O_RDONLY) as disk:
        expect_same_bytes(disk.read_all(), b"\x01" * SIZE, "the snapshot")


def snapshot_beside_image(image):
    with_snapshot(image)
    with Device(image) as device, device.open() as disk:
        disk.write(0, b"\x02" * MIB)
        with Device(image, "--snapshot", "before") as snapshot:
            expect_before(snapshot)
            disk.write(MIB, b"\x02" * MIB)
            disk.flush()
            drop_caches()
            expect_before(snapshot)
            others_change_nothing(image, WRITE)
            qemu_refuses(WRITE, "qemu-img", "snapshot", "-d", "before", image)
        disk.write(2 * MIB, b"\x02" * MIB)
    check(image)
    expect_same_bytes(content(to_raw(image, work("raw"))), b"\x02" * 3 * MIB + b"\x01" * MIB,
                      "as QEMU reads it")
    expect_same_bytes(content(to_raw(image, work("raw"), "-l", "before")), b"\x01" * SIZE,
                      "the snapshot, as QEMU reads it")


def image_beside_snapshot(image):
    with_snapshot(image)
    with Device(image, "--snapshot", "1") as snapshot:
        expect_before(snapshot)
        others_change_nothing(image, RESIZE)
        qemu_refuses(RESIZE, "qemu-img", "snapshot", "-d", "before", image)
        qemu_reads(image, 1)
        with Device(image) as device, device.open() as disk:
            disk.write(0, b"\x02" * SIZE)
            attach_refused(["attached already"], image)
        expect_before(snapshot)
        others_change_nothing(image, RESIZE)
        with qemu_io_open(image, "-r"):
            attach_refused(["is attached already"], image)
        with Device(image, "-r"):
            attach_refused(["is attached already"], image)
    check(image)


def no_such_snapshot(image):
    with_snapshot(image)
    done = run("qcowctl", "attach", "--snapshot", "after", image, status=EXIT_SYSTEM)
    expect("after" in done.stderr and done.stderr.count("\n") == 1, done.stderr)
    run(*write_with_qemu(image))


# ---------------------------------------------------------------------------


on_ext4("attached for writing", attached_for_writing, here("image"))
on_ext4("attached for reading", attached_for_reading, here("image"))
on_ext4("locks end with the device", locks_end_with_the_device, here("image"))
on_ext4("locks outlive the tool", locks_outlive_the_tool, here("image"))
with case("block device: attached for writing"):
    attached_for_writing(DISKS[1])
with case("block device: attached for reading"):
    attached_for_reading(DISKS[1])
for command, open_it in (("qemu-io", qemu_io_open), ("qemu-nbd", qemu_nbd_open)):
    on_ext4(f"{command} writes", qemu_writes, open_it, command)
    on_ext4(f"{command} reads", qemu_only_reads, open_it, command)
on_ext4("a process that is killed", killed_holder)
on_ext4("many at once", at_once)
on_ext4("at once with QEMU", against_qemu)
on_ext4("shared bases", shared_bases)
on_ext4("bases, in any order", orders_of_detaching)
for layers in (3, 10, 200):
    on_ext4(f"{layers} layers", deep, layers)
on_ext4("data file", data_file)
on_ext4("a snapshot beside its image", snapshot_beside_image, here("image"))
on_ext4("an image beside its snapshot", image_beside_snapshot, here("image"))
with case("block device: a snapshot beside its image"):
    snapshot_beside_image(DISKS[1])
with case("block device: an image beside its snapshot"):
    image_beside_snapshot(DISKS[1])
on_ext4("no such snapshot", no_such_snapshot, here("image"))
finish()
