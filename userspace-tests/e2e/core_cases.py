# SPDX-License-Identifier: GPL-2.0-only
"""Something of each kind, in a minute where CPUs are emulated. All of it the other scenarios
do at length. The files of each case are in HERE, which is some file system."""

import signal

import blkmodel
from e2e import *

HERE = "/mnt/core"
SIZE = 8 * MIB
SOON = 30 * SLOWNESS

# What the devices take at least: their files' direct I/O does not take less.
unit = SECTOR


def here(name):
    return os.path.join(HERE, name)


def write_noise(device, offset, length, seed):
    with device.open() as disk:
        disk.write(offset, noise(length, seed))
        disk.flush()


def expect_contents(device, wanted):
    drop_caches()
    with device.open(os.O_RDONLY) as disk:
        expect_same_bytes(disk.read_all(), bytes(wanted), "contents")


def same_in_qemu(image, wanted):
    check(image)
    expect_same_bytes(content(to_raw(image, here("raw"))), bytes(wanted), "what QEMU reads")


def file_system():
    image = create(here("image"), 64 * MIB)
    with Device(image, "--direct-io") as device:
        run("mkfs.ext4", "-q", device.path)
        with mounted(device.path, "/mnt/guest") as where:
            for number in range(20):
                with open(os.path.join(where, f"file{number}"), "wb") as file:
                    file.write(noise(300 * KIB, number))
            busy = run("qcowctl", "detach", device.path, status=None)
            expect_equal(busy.returncode, EXIT_BUSY, "status of a detach while mounted")
            os.unlink(os.path.join(where, "file3"))
            run("fstrim", where)
        run("e2fsck", "-f", "-n", device.path)
    check(image)
    with Device(image, "-r") as device, mounted(device.path, "/mnt/guest", "-o", "ro") as where:
        expect_equal(len(os.listdir(where)), 20, "files and lost+found")
        for number in (0, 7, 19):
            expect_same_bytes(content(os.path.join(where, f"file{number}")),
                              noise(300 * KIB, number), f"file{number}")


def chain():
    """Three layers with clusters of different sizes, the lowest one raw."""
    model = bytearray(noise(SIZE, 1))
    with open(here("base.raw"), "wb") as file:
        file.write(model)
    for name, base, form, cluster in (("middle", "base.raw", "raw", 4 * KIB),
                                      ("image", "middle", "qcow2", 64 * KIB)):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", form,
            "-o", f"cluster_size={cluster}", here(name))
        with Device(here(name), "--direct-io") as device:
            for offset in (0, 100 * KIB + unit, 3 * MIB - unit, 6 * MIB):
                seed = cluster + offset
                write_noise(device, offset, 28 * KIB, seed)
                model[offset:offset + 28 * KIB] = noise(28 * KIB, seed)
            expect_contents(device, model)
    same_in_qemu(here("image"), model)


def compressed(kind):
    """Read, and written over in parts."""
    text = b"".join(b"%d\n" % number for number in range(600000))
    model = bytearray(text[:3 * MIB])
    with open(here("raw"), "wb") as file:
        file.write(model)
    image = here("image")
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2",
        "-o", f"compression_type={kind}", here("raw"), image)
    with Device(image, "--direct-io") as device:
        expect_contents(device, model)
        for offset in (0, MIB + 5 * unit, 2 * MIB + 60 * KIB):
            write_noise(device, offset, 20 * KIB, offset)
            model[offset:offset + 20 * KIB] = noise(20 * KIB, offset)
        expect_contents(device, model)
    same_in_qemu(image, model)


def discards(holes=True):
    """Discarded clusters read as zeroes and are given back, where files have holes; zeroes
    are zeroes."""
    image, model = create(here("image"), SIZE), bytearray(noise(SIZE, 3))
    with Device(image, "--direct-io") as device:
        write_noise(device, 0, SIZE, 3)
        os.sync()
        full = os.stat(image).st_blocks * SECTOR
        run("blkdiscard", "-o", MIB, "-l", 4 * MIB, device.path)
        run("blkdiscard", "-z", "-o", 6 * MIB + unit, "-l", MIB, device.path)
        model[MIB:5 * MIB] = bytes(4 * MIB)
        model[6 * MIB + unit:7 * MIB + unit] = bytes(MIB)
        expect_contents(device, model)
        with device.open() as disk:
            disk.flush()
    os.sync()
    left = os.stat(image).st_blocks * SECTOR
    expect(not holes or left <= full - 4 * MIB, f"{full} bytes were allocated, {left} are")
    same_in_qemu(image, model)


def requests(device):
    """Reads and writes that have ended."""
    counts = content(f"/sys/block/{device.name}/stat").split()
    return int(counts[0]), int(counts[4])


def detach_under_load():
    image = create(here("image"), 32 * MIB)
    with Device(image, "--direct-io") as device:
        before = requests(device)
        with running("fio", "--name=load", f"--filename={device.path}", "--thread",
                     "--direct=1", "--rw=randrw", f"--bsrange={unit}-64k",
                     f"--blockalign={unit}", "--fsync=16", "--numjobs=4", "--iodepth=8",
                     "--ioengine=io_uring", "--time_based", "--runtime=600") as fio:
            wait_until(lambda: all(now > then + 10 for now, then in
                                   zip(requests(device), before)), SOON, "fio reads and writes")
            for _ in range(10):
                run("qcowctl", "detach", device.path, status=EXIT_BUSY)
            expect_stopped_without_error(fio)
        # Its rings are taken down after it has ended.
        wait_until(lambda: not attached()[0]["used"], SOON, "the device is not used any more")
    check(image)


def expect_stopped_without_error(fio):
    """An error would have ended it before, with another status."""
    expect(fio.poll() is None, "fio has ended")
    fio.send_signal(signal.SIGINT)
    output, _ = fio.communicate(timeout=100)
    expect_equal(fio.returncode, 128, f"status of fio, with {output}")
    expect_equal(set(re.findall(r"err= *(\d+)", output)), {"0"}, f"errors of its jobs: {output}")


def locks():
    image = create(here("image"), SIZE)
    with Device(image) as device:
        done = run("qcowctl", "attach", image, status=EXIT_BUSY)
        expect("in use" in done.stderr or device.path in done.stderr, done.stderr)
        done = run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", image, status=None)
        said = done.stdout + done.stderr
        expect('Failed to get "write" lock' in said, f"qemu-io says {said}")
        qemu_reads = run("qemu-img", "info", "-U", image).stdout
        expect("file format: qcow2" in qemu_reads, qemu_reads)
    qemu_io(image, ["write -P 5 0 64k"])
    with Device(image) as device:
        expect_contents(device, b"\5" * (64 * KIB) + bytes(SIZE - 64 * KIB))


def sysfs():
    image = create(here("image"), SIZE, cluster_size=32 * KIB)
    with Device(image) as device:
        where = f"/sys/block/{device.name}/qcow2"
        found = {name: content(os.path.join(where, name)).decode().strip()
                 for name in os.listdir(where)}
        for name, wanted in (("state", "ok"), ("version", "3"), ("cluster_size", "32768")):
            expect_equal(found.get(name), wanted, name)
        put(os.path.join(where, "cache_size"), MIB)
        expect_equal(content(os.path.join(where, "cache_size")), b"1048576\n", "cache_size")
        expect(image.encode() in content(os.path.join(where, "chain")), "the chain's image")
    expect(not os.path.exists(where), "sysfs still has it")


def random_operations(seed, **create_options):
    """Its operations are of 512 bytes: without direct I/O that goes anywhere."""
    how = ["--direct-io"] if unit == SECTOR else []
    blkmodel.Model(100).run(seed, *how, directory=HERE, **create_options)


def run_on(device, make, holes=True, name="", sector=SECTOR):
    """The cases, with their files on the device."""
    global unit
    unit = sector
    run(*make, device)
    for title, function, *arguments in (
            ("a file system", file_system),
            ("a chain of three", chain),
            ("compressed, zlib", compressed, "zlib"),
            ("compressed, zstd", compressed, "zstd"),
            ("discards and zeroes", discards, holes),
            ("detach under load", detach_under_load),
            ("locks", locks),
            ("sysfs", sysfs)):
        with case(name + title), mounted(device, HERE):
            function(*arguments)
            empty_directory()
    for number, options in enumerate(({"extended_l2": "on"}, {"cluster_size": 512})):
        with case(f"{name}random operations, {options}"), mounted(device, HERE):
            random_operations(number, **options)
            empty_directory()


def empty_directory():
    for left in os.listdir(HERE):
        if os.path.isfile(here(left)):
            os.unlink(here(left))
