#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""What hangs or breaks a block device that a daemon serves: users and helpers that
are killed, images that are renamed or removed, a root file system on the device."""

import ctypes
import fcntl
import signal

from e2e import *

# What must end ends within this many seconds.
SOON = 10 * SLOWNESS

ATTACH = 0xbc << 8
NO_INDEX = -1


# ---------------------------------------------------------------------------
# Users that are killed.


def users(device):
    return next(entry["used"] for entry in attached() if entry["name"] == device)


def load(device, engine):
    return running("fio", "--name=load", f"--filename={device}", "--thread", "--direct=1",
                   "--rw=randrw", "--bsrange=512-64k", "--blockalign=512", "--size=64M",
                   "--time_based", "--runtime=60", "--fsync=32", "--numjobs=4",
                   f"--ioengine={engine}", "--iodepth=16")


def killed_under_io(engine, rounds=3):
    """Its I/O in flight ends, the device is free soon and can be detached."""
    image = create(work("image"), 64 * MIB)
    for number in range(rounds):
        device = Device(image)
        with load(device.path, engine) as process:
            wait_until(lambda: users(device.path), SOON, "nobody opens the device")
            time.sleep(0.2 + number / 5)
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=SOON)
        wait_until(lambda: not users(device.path), SOON, "a killed process keeps the device")
        began = time.monotonic()
        device.detach()
        expect(time.monotonic() - began < SOON, "detach took too long")
        check(image)


def expect_copy_holds(image, wanted):
    """A copy of the image, as a crash would leave it: if it is dirty, its refcounts may
    be wrong, else it is sound. It has all that was flushed."""
    copy = shutil.copy(image, work("copy"))
    if field(copy, 72, "Q") & 1:
        run("qemu-img", "check", "-q", "-r", "all", copy, status=None)
    check(copy, leaks_allowed=True)
    found = content(to_raw(copy, work("raw")))
    for offset, data in wanted.items():
        expect_same_bytes(found[offset:offset + len(data)], data, f"copy, at {offset}")


def other_opener_closes(**options):
    """Who closes the device first must not end anything for the others."""
    image = create(work("image"), 8 * MIB, **options)
    wanted = {}

    def write(disk, offset):
        wanted[offset] = noise(MIB, offset + len(wanted))
        disk.write(offset, wanted[offset])
        disk.flush()

    with Device(image) as device, device.open() as one:
        with device.open() as other:
            write(other, 0)
            write(one, 4 * MIB)
        expect_copy_holds(image, wanted)
        write(one, 4 * MIB)
        expect_copy_holds(image, wanted)
        write(one, 2 * MIB)
        expect_copy_holds(image, wanted)
    check(image)
    expect(not field(image, 72, "Q") & 1, "the image is dirty though it was detached")


# ---------------------------------------------------------------------------
# The image file while it is attached.


def attach_by_ioctl(fd):
    """The number of the device; as a program does that closes its descriptor."""
    files = ctypes.create_string_buffer(struct.pack("=iIQ", fd, 0, 0))
    reason = ctypes.create_string_buffer(256)
    request = bytearray(struct.pack("=IIiIQQII", 40, 0, NO_INDEX, 1, ctypes.addressof(files),
                                    ctypes.addressof(reason), len(reason), 0))
    control = os.open("/dev/qcow-control", os.O_RDWR)
    try:
        fcntl.ioctl(control, ATTACH, request)
    except OSError as error:
        raise Failure(f"attach: {error}, {reason.value}") from None
    finally:
        os.close(control)
    return struct.unpack_from("=i", request, 8)[0]


def write_and_read(device, seed):
    data = noise(MIB, seed)
    with Disk(device, os.O_RDWR) as disk:
        disk.write(seed * MIB, data)
        disk.flush()
        expect_same_bytes(disk.read(seed * MIB, MIB), data, "read back")
    return data


def descriptor_is_closed():
    image = create(work("image"), 8 * MIB)
    fd = os.open(image, os.O_RDWR)
    device = f"/dev/qcow{attach_by_ioctl(fd)}"
    os.close(fd)
    data = write_and_read(device, 1)
    run("qcowctl", "detach", device)
    check(image)
    found = content(to_raw(image, work("raw")))
    expect_same_bytes(found[MIB:2 * MIB], data, "the image")


def free_blocks():
    return os.statvfs(WORK).f_bfree


def image_is_removed():
    """It lives as long as the device, and its space is free after that."""
    before = free_blocks()
    device = Device(create(work("image"), 8 * MIB))
    os.unlink(work("image"))
    for seed in range(3):
        write_and_read(device.path, seed)
    expect_equal(device.state(), "ok", "state")
    expect(free_blocks() < before, "nothing was written")
    run("qcowctl", "detach", device.path)
    wait_until(lambda: free_blocks() == before, SOON, "the space of a removed image is not free")


def image_is_renamed():
    """The old name may be given to another image, the new one is attached."""
    image, renamed = create(work("image"), 8 * MIB), work("renamed")
    with Device(image) as device:
        first = write_and_read(device.path, 1)
        os.rename(image, renamed)
        second = write_and_read(device.path, 2)
        expect_equal([entry["image"] for entry in attached()], [renamed], "name of the image")
        run("qcowctl", "attach", renamed, status=EXIT_BUSY)
        create(image, MIB)
        with Device(image):
            expect_equal(len(attached()), 2, "devices")
        run("qcowctl", "detach", device.path)
        check(renamed)
        found = content(to_raw(renamed, work("raw")))
        expect_same_bytes(found[MIB:3 * MIB], first + second, "the renamed image")
        device = Device(renamed)
    check(image)


def no_errors_at_attach(rounds=15):
    """A device can be read at once, and nothing complains when it goes."""
    image = create(work("image"), 8 * MIB)
    before = kernel_log().count("I/O error")
    for _ in range(rounds):
        with Device(image) as device, device.open() as disk:
            for offset in (0, disk.size - 4096):
                expect(not any(disk.read(offset, 4096)), "no zeroes")
    expect_equal(kernel_log().count("I/O error"), before, "I/O errors in the kernel log")


# ---------------------------------------------------------------------------
# A root file system on the device.

PROGRAMS = ("sh", "chroot", "cat", "mount", "umount", "sync", "sha256sum", "dd")

INIT = """\
set -e
mount -t proc proc /proc
umount -l /old
echo 3 >/proc/sys/vm/drop_caches
sha256sum -c /sums
dd if=/dev/zero of=/written bs=64k count=64 conv=fsync 2>/dev/null
cat /usr/share/data >>/written
sync
echo 3 >/proc/sys/vm/drop_caches
sha256sum /written >/sum-of-written
umount /proc
mount -o remount,ro /
echo done
"""


def copy_into(root, path):
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    shutil.copy(os.path.realpath(path), root + path)


def libraries(program):
    words = run("ldd", program).stdout.split()
    return {word for word in words if word.startswith("/")}


def fill_root(root):
    for directory in ("proc", "old", "tmp", "usr/share", "dev"):
        os.makedirs(os.path.join(root, directory))
    os.mknod(os.path.join(root, "dev/null"), 0o666 | 0o020000, os.makedev(1, 3))
    os.mknod(os.path.join(root, "dev/zero"), 0o666 | 0o020000, os.makedev(1, 5))
    programs = [shutil.which(name) for name in PROGRAMS if shutil.which(name)]
    for path in set(programs).union(*map(libraries, programs)):
        copy_into(root, path)
    with open(os.path.join(root, "usr/share/data"), "wb") as file:
        file.write(noise(8 * MIB, 5))
    with open(os.path.join(root, "init"), "w", encoding="ascii") as file:
        file.write(INIT)
    names = [path for path in programs] + ["/usr/share/data"]
    with open(os.path.join(root, "sums"), "w", encoding="ascii") as file:
        for name in names:
            file.write(f"{digest(root + name)}  {name}\n")


def holders(path):
    """Processes that have the file open."""
    found = []
    for link in glob.glob("/proc/[0-9]*/fd/*"):
        try:
            if os.readlink(link) == path:
                found.append(link)
        except OSError:
            pass
    return found


def root_on_device(*options):
    """A program and all that it needs is on the device, which nobody serves: there
    is no process that a switch of the root could kill."""
    image = create(work("image"), 256 * MIB)
    device = Device(image, *options)
    with ext4_on(device.path, "/mnt/root"):
        fill_root("/mnt/root")
    expect_equal(holders(image), [], "processes with the image file")
    script = (f"mount {device.path} /mnt/root && cd /mnt/root && pivot_root . old && "
              "exec chroot . sh /init")
    done = run("unshare", "--mount", "sh", "-c", script)
    expect(done.stdout.endswith("done\n"), f"{done.stdout}{done.stderr}")
    wait_until(lambda: not users(device.path), SOON, "the root is still in use")
    device.detach()
    check(image)
    with Device(image, *options) as device, mounted(device.path, "/mnt/root", "-o", "ro"):
        wanted = bytes(4 * MIB) + noise(8 * MIB, 5)
        expect_same_bytes(content("/mnt/root/written"), wanted, "what was written there")
        expect_equal(content("/mnt/root/sum-of-written").split()[0].decode(),
                     hashlib.sha256(wanted).hexdigest(), "what was read there")


for io_engine in ("io_uring", "libaio", "psync"):
    with case(f"killed under I/O, {io_engine}: detached at once"):
        killed_under_io(io_engine)
for image_options in ({}, {"lazy_refcounts": "on"}):
    with case(f"one opener closes while another writes {image_options or ''}"):
        other_opener_closes(**image_options)
with case("the descriptor that was attached is closed"):
    descriptor_is_closed()
with case("the image is removed while it is attached"):
    image_is_removed()
with case("the image is renamed while it is attached"):
    image_is_renamed()
with case("no I/O errors at attach and detach"):
    no_errors_at_attach()
with case("root file system on the device"):
    root_on_device()
finish()
