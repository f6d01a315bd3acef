# SPDX-License-Identifier: GPL-2.0-only
"""Where the benchmark plays: a RAM disk with an ext4 that has all images and files,
the devices that are made of them, and RAM disks for device mapper.

A disk under test is a device (see rows.py) and a state:

	full			all clusters are allocated
	empty			none is; four times as large
	fresh			none is; as large as full
	overlay			the same as full, through an empty overlay
	overlay-extended	with subclusters
	chain			a tenth of the clusters in each of 10 images
	zlib, zstd		an empty overlay over a compressed image
"""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "e2e"))
from e2e import *

ROOT = "/mnt/bench"
CLUSTER = 64 * KIB
CLUSTER_SECTORS = CLUSTER // SECTOR
LAYERS = 10
NBD = "/dev/nbd0"
# For dm-thin and dm-snapshot, without a file system or loop beneath: what is only read,
# a pool that is full, and what each run gets. Memory is taken by what is written.
ORIGIN, FULL_METADATA, FULL_DATA, FRESH_METADATA, FRESH_DATA = (
    f"/dev/ram{number}" for number in range(1, 6))


# ---------------------------------------------------------------------------
# Devices, each for the time of a `with` block.


@contextlib.contextmanager
def loop(path):
    """Through direct I/O, or it would be no peer."""
    device = run("losetup", "--find", "--show", "--direct-io=on", path).stdout.strip()
    try:
        with open(f"/sys/block/{os.path.basename(device)}/loop/dio", encoding="ascii") as dio:
            expect_equal(dio.read().strip(), "1", f"direct I/O of {device}")
        yield device
    finally:
        run("losetup", "--detach", device)


@contextlib.contextmanager
def mapped(name, table):
    """A device-mapper device; the table says its kind and what belongs to it."""
    run("dmsetup", "create", name, "--table", table)
    try:
        yield f"/dev/mapper/{name}"
    finally:
        run("dmsetup", "remove", "--retry", name)


def sectors(device):
    return int(run("blockdev", "--getsz", device).stdout)


def snapshot(origin, store, size):
    return mapped("bench-snapshot",
                  f"0 {size // SECTOR} snapshot {origin} {store} P {CLUSTER_SECTORS}")


@contextlib.contextmanager
def thin(metadata, data, size, new, *origin):
    """The only volume of a pool, perhaps over an origin that it does not write to."""
    table = f"0 {sectors(data)} thin-pool {metadata} {data} {CLUSTER_SECTORS} 0"
    with mapped("bench-pool", table) as pool:
        if new:
            run("dmsetup", "message", pool, "0", "create_thin 0")
        table = " ".join([f"0 {size // SECTOR} thin {pool} 0", *origin])
        with mapped("bench-thin", table) as device:
            yield device


def forgotten(disk):
    """What a disk begins with, by which device mapper tells a new one, is zeroed. The rest
    stays, for the disk's memory was taken before: so it is with the files of others,
    which lie where those of earlier runs lay."""
    run("dd", "if=/dev/zero", f"of={disk}", "bs=1M", "count=1", "oflag=direct")
    return disk


def wait_until(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        expect(time.monotonic() < deadline, f"{what}: not within 20 s")
        time.sleep(0.01)


@contextlib.contextmanager
def nbd(image):
    """With what was fastest here: threads gave a fifth, native three quarters.

    qemu-nbd holds the image's lock until it ends, a little after the device."""
    pid_file = work("qemu-nbd.pid")
    run("qemu-nbd", "--connect", NBD, "--format=qcow2", "--cache=none", "--aio=io_uring",
        "--fork", f"--pid-file={pid_file}", image)
    with open(pid_file, encoding="ascii") as file:
        pid = int(file.read())
    try:
        wait_until(lambda: sectors(NBD) > 0, "size of the nbd device")
        yield NBD
    finally:
        run("qemu-nbd", "--disconnect", NBD)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "end of qemu-nbd")


@contextlib.contextmanager
def qcow2(image, *options):
    with Device(image, "--direct-io", *options) as device:
        yield device.path


# ---------------------------------------------------------------------------


def place(name):
    return os.path.join(ROOT, name)


def sparse(name, size):
    with open(place(name), "wb") as file:
        file.truncate(size)
    return place(name)


class Stage:
    """The files, made once; what a run needs fresh is made for each run."""

    def __init__(self, size):
        self.size = size

    @contextlib.contextmanager
    def set_up(self, disk_size):
        os.makedirs(WORK, exist_ok=True)
        for module in ("loop", "nbd", "dm-snapshot", "dm-thin-pool", "dm-delay"):
            run("modprobe", module)
        disk, *_ = ram_disks(6, disk_size)
        run("mkfs.ext4", "-q", "-F", "-E",
            "nodiscard,lazy_itable_init=0,lazy_journal_init=0", disk)
        with mounted(disk, ROOT):
            yield

    # What lasts.

    def prepare(self, states):
        """The files of these states."""
        self.make_raw()
        self.make_full()
        if "full" in states:
            self.make_thin()
        if {"empty", "overlay"} & set(states):
            self.take_memory(FRESH_DATA)
        if "overlay" in states:
            self.copy_raw(ORIGIN)
        if "chain" in states:
            self.make_chain()
        for codec in {"zlib", "zstd"} & set(states):
            self.make_compressed(codec)
        drop_caches()

    def make_raw(self):
        piece = noise(min(self.size, 16 * MIB), 1)
        with open(place("full.raw"), "wb") as file:
            for _ in range(self.size // len(piece)):
                file.write(piece)
            os.fsync(file.fileno())

    def make_full(self):
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o",
            f"cluster_size={CLUSTER},preallocation=metadata", place("full.raw"),
            place("full.qcow2"), timeout=600)

    def copy_raw(self, device):
        run("dd", f"if={place('full.raw')}", f"of={device}", "bs=1M", "oflag=direct",
            timeout=600)

    def take_memory(self, disk):
        """As much as any run writes: data, and 1/16 for device mapper's own."""
        run("dd", "if=/dev/zero", f"of={disk}", "bs=1M", f"count={self.size * 17 // 16 // MIB}",
            "oflag=direct", timeout=600)

    def make_thin(self):
        with thin(FULL_METADATA, FULL_DATA, self.size, True) as device:
            self.copy_raw(device)

    def make_chain(self):
        """Layer n has each cluster whose number ends with n; the lowest has all."""
        below = "full.qcow2"
        for layer in range(1, LAYERS):
            image = self.overlay(f"chain-{layer}.qcow2", below)
            with qcow2(image) as device:
                run("fio", "--name=layer", f"--filename={device}", "--thread", "--direct=1",
                    "--ioengine=io_uring", "--iodepth=8", "--rw=write", f"--bs={CLUSTER}",
                    f"--offset={layer * CLUSTER}", "--zonemode=strided",
                    f"--zonesize={CLUSTER}", f"--zonerange={LAYERS * CLUSTER}")
            below = os.path.basename(image)

    def make_compressed(self, codec):
        """Text of a few thousand words, an eighth of the size of the others."""
        words = [noise(random.Random(n).randrange(3, 12), n).hex().encode() + b" "
                 for n in range(4096)]
        choose = random.Random(2)
        with open(place("text.raw"), "wb") as file:
            piece = b"".join(choose.choices(words, k=MIB // 8))
            while file.tell() < self.size // 8:
                # Never the same cluster twice, at little cost.
                start = choose.randrange(len(piece) // 2)
                file.write(piece[start:start + min(MIB // 2, self.size // 8 - file.tell())])
        run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", "-o",
            f"cluster_size={CLUSTER},compression_type={codec}", place("text.raw"),
            place(f"{codec}.qcow2"), timeout=600)
        os.unlink(place("text.raw"))

    def overlay(self, name, below, **options):
        path = place(name)
        options = {"cluster_size": CLUSTER} | options
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", "-o",
            ",".join(f"{k}={v}" for k, v in options.items()), path)
        return path

    # What a run gets.

    def clean_up(self):
        """Remove what was made for the run before."""
        for path in glob.glob(place("fresh*")):
            os.unlink(path)

    @contextlib.contextmanager
    def open(self, device, state):
        """The path that fio is to use. What was made for this run only is removed, and
        images are checked before."""
        self.clean_up()
        if device in ("qcow2", "nbd", "chain-1"):
            image = self.image("full" if device == "chain-1" else state)
            with (nbd if device == "nbd" else qcow2)(image) as path:
                yield path
            check(image)
        elif device == "thin":
            with thin(*self.thin(state)) as path:
                yield path
        elif device == "snapshot":
            with snapshot(ORIGIN, forgotten(FRESH_DATA), self.size) as path:
                yield path
        elif device == "loop":
            with loop(self.raw(state)) as path:
                yield path
        else:
            expect_equal(device, "raw", "a device")
            yield self.raw(state)

    def image(self, state, **options):
        """The options are qemu-img's, for an image that is made for this run."""
        if state == "full":
            return place("full.qcow2")
        if state in ("empty", "fresh"):
            return create(place("fresh.qcow2"), (4 if state == "empty" else 1) * self.size,
                          **({"cluster_size": CLUSTER} | options))
        if state == "overlay":
            return self.overlay("fresh.qcow2", "full.qcow2", **options)
        if state == "overlay-extended":
            return self.overlay("fresh.qcow2", "full.qcow2", extended_l2="on", **options)
        if state == "chain":
            return place(f"chain-{LAYERS - 1}.qcow2")
        return self.overlay("fresh.qcow2", f"{state}.qcow2")

    def raw(self, state):
        """Where nothing is allocated a sparse file."""
        if state == "full":
            return place("full.raw")
        return sparse("fresh.raw", 4 * self.size if state == "empty" else self.size)

    def thin(self, state):
        """Arguments for thin()."""
        if state == "full":
            return FULL_METADATA, FULL_DATA, self.size, False
        fresh = forgotten(FRESH_METADATA), FRESH_DATA
        if state == "empty":
            return *fresh, 4 * self.size, True
        return *fresh, self.size, True, ORIGIN

    def check_all(self):
        """All images are as sound as they were."""
        for image in sorted(glob.glob(place("*.qcow2"))):
            check(image)
