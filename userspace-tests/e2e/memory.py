#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# alone: it gives its guest little memory, and counts it
"""Memory of the metadata cache: it stays under its cap while tables many times as
large are read or written at random, and goes back to the system when that asks."""

import threading

from e2e import *

PAGE = mmap.PAGESIZE
CLUSTER = 64 * KIB
# Guest bytes that one slice (a page of an L2 table) maps.
SLICE = PAGE // 8 * CLUSTER
THREADS = 4
# Slices that a request may hold: of the L2 table, and two that count clusters.
IN_FLIGHT = THREADS * 3 * PAGE
# What the big image is made in: kept from case to case, unlike WORK.
BIG = "/dev/shm/memory"


def attribute(device, name):
    return f"/sys/block/{device.name}/qcow2/{name}"


def number(device, name):
    with open(attribute(device, name), encoding="ascii") as file:
        return int(file.read())


def set_cap(device, bytes_):
    with open(attribute(device, "cache_size"), "w", encoding="ascii") as file:
        file.write(str(bytes_))


class Sampler(threading.Thread):
    """Looks at cache_used all the time; keeps the highest."""

    def __init__(self, device):
        super().__init__()
        self.device = device
        self.peak = self.samples = 0
        self.stop = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def run(self):
        with open(attribute(self.device, "cache_used"), "rb", buffering=0) as file:
            while not self.stop.wait(0.002):
                self.peak = max(self.peak, int(os.pread(file.fileno(), 32, 0)))
                self.samples += 1

    def __exit__(self, *_):
        self.stop.set()
        self.join()


def in_threads(device, places, step):
    """Calls step(disk, place) for all of them; raises what the first one raised."""
    errors = []

    def loop(part):
        try:
            with device.open() as disk:
                for place in part:
                    step(disk, place)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=loop, args=(places[n::THREADS],))
               for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def expect_under_cap(sampler, cap):
    expect(sampler.samples >= 10, f"only {sampler.samples} samples")
    expect(sampler.peak <= cap + IN_FLIGHT,
           f"cache_used rose to {sampler.peak}, with a cap of {cap}")
    expect(sampler.peak >= cap * 9 // 10,
           f"cache_used was never above {sampler.peak}, with a cap of {cap}")


# ---------------------------------------------------------------------------
# An image with 1 TiB of mapped clusters, of which few hold data.


def data_places():
    """Clusters that hold noise, no two of them mapped by the same slice."""
    chosen = random.Random(1).sample(range(TIB // SLICE), 64)
    return {n * SLICE + random.Random(n).randrange(SLICE // CLUSTER) * CLUSTER: n
            for n in chosen}


def make_big(path):
    create(path, TIB, preallocation="metadata")
    with Device(path) as device, device.open() as disk:
        for place, seed in data_places().items():
            disk.write(place, noise(CLUSTER, seed))
    expect(os.stat(path).st_blocks * SECTOR < GIB, "the image is not sparse")


def sweep(device, slices, seed):
    """Reads a cluster's first block in each of so many slices, and all data."""
    rng = random.Random(seed)
    data = data_places()
    places = [n * SLICE + rng.randrange(SLICE // CLUSTER) * CLUSTER
              for n in rng.sample(range(TIB // SLICE), slices)]
    places += list(data)
    rng.shuffle(places)
    wanted = {place: noise(CLUSTER, seed)[:PAGE] for place, seed in data.items()}

    def step(disk, place):
        expect_same_bytes(disk.read(place, PAGE), wanted.get(place, bytes(PAGE)),
                          f"read at {place:#x}")

    before = number(device, "slices_loaded")
    with Sampler(device) as sampler:
        in_threads(device, places, step)
    print(f"# {len(places)} reads, {number(device, 'slices_loaded') - before} slices "
          f"loaded, peak {sampler.peak} bytes in {sampler.samples} samples")
    return sampler


def expect_loads(device, least):
    loads = number(device, "slices_loaded")
    expect(loads >= least, f"{loads} slices were loaded, wanted {least} or more")


def sweep_with_default(image):
    with Device(image) as device:
        cap = number(device, "cache_size")
        expect_equal(cap, 32 * MIB, "default cap")
        expect_under_cap(sweep(device, 24000, 1), cap)
        expect_loads(device, 20000)


def sweep_with_cap_from_attach(image):
    with Device(image, "--cache-size=1M") as device:
        expect_equal(number(device, "cache_size"), MIB, "cap")
        expect_under_cap(sweep(device, 4000, 2), MIB)
        expect_loads(device, 3900)


def cap_at_run_time(image):
    with Device(image) as device:
        sweep(device, 2000, 3)
        used = number(device, "cache_used")
        expect(used >= 2000 * PAGE, f"only {used} bytes are used")
        set_cap(device, MIB)
        used = number(device, "cache_used")
        expect(used <= MIB, f"{used} bytes are used after the cap became 1 MiB")
        expect_under_cap(sweep(device, 2000, 4), MIB)
        set_cap(device, 2 * MIB)
        expect_under_cap(sweep(device, 2000, 5), 2 * MIB)


def cap_while_read(image):
    """The cap goes up and down under load; every read is right."""
    with Device(image) as device:
        stop = threading.Event()
        caps = []

        def change():
            rng = random.Random(6)
            while not stop.is_set():
                caps.append(rng.choice((256 * KIB, MIB, 8 * MIB, 64 * MIB)))
                set_cap(device, caps[-1])
                stop.wait(0.001)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            sweep(device, 4000, 7)
        finally:
            stop.set()
            thread.join()
        expect(len(caps) >= 10, f"the cap was changed only {len(caps)} times")
        set_cap(device, 256 * KIB)
        used = number(device, "cache_used")
        expect(used <= 256 * KIB, f"{used} bytes are used in the end")


# ---------------------------------------------------------------------------
# Memory that is asked for.


def shrink():
    """Ask all caches of the kernel for memory."""
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as knob:
        knob.write("2")


def clean_goes(image):
    with Device(image) as device:
        sweep(device, 2000, 8)
        before = number(device, "cache_used")
        expect(before >= 2000 * PAGE, f"only {before} bytes are used")
        shrink()
        after = number(device, "cache_used")
        expect(after <= before // 10, f"{after} of {before} bytes are used after all")
        sweep(device, 500, 8)


def dirty_stays():
    """What is not in the file yet is not dropped, and gets there."""
    image = create(work("image"), 4 * GIB)
    with Device(image) as device, device.open() as disk:
        for n in range(4 * GIB // SLICE):
            disk.write(n * SLICE, noise(CLUSTER, n))
        dirty = number(device, "cache_dirty")
        for _ in range(3):
            shrink()
        expect(dirty >= 100 * PAGE, f"only {dirty} bytes are dirty")
        for n in range(4 * GIB // SLICE):
            expect_same_bytes(disk.read(n * SLICE, CLUSTER), noise(CLUSTER, n), f"slice {n}")
    check(image)
    with Device(image) as device, device.open() as disk:
        for n in range(4 * GIB // SLICE):
            expect_same_bytes(disk.read(n * SLICE, CLUSTER), noise(CLUSTER, n), f"slice {n}")


def asked_all_the_time():
    """Reads and writes while others take the memory away."""
    image = create(work("image"), 64 * GIB)
    stop = threading.Event()
    places = list(range(64 * GIB // SLICE)) * 2
    asked = []

    def ask():
        while not stop.is_set():
            shrink()
            asked.append(1)

    def step(disk, n):
        disk.write(n * SLICE + n * CLUSTER % SLICE, noise(PAGE, n))
        expect_same_bytes(disk.read(n * SLICE + n * CLUSTER % SLICE, PAGE),
                          noise(PAGE, n), f"slice {n}")

    with Device(image) as device:
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            in_threads(device, places, step)
        finally:
            stop.set()
            thread.join()
        expect(len(asked) >= 20, f"asked for memory only {len(asked)} times")
    check(image)


# ---------------------------------------------------------------------------
# Writes.


def writes_stay_under_cap():
    """New clusters all over a large disk: tables become dirty all the time."""
    image = create(work("image"), 256 * GIB)
    places = random.Random(9).sample(range(256 * GIB // SLICE), 1500)
    with Device(image, "--cache-size=1M") as device:
        with Sampler(device) as sampler:
            in_threads(device, places,
                       lambda disk, n: disk.write(n * SLICE, noise(PAGE, n)))
        expect_under_cap(sampler, MIB)
        in_threads(device, places, lambda disk, n: expect_same_bytes(
            disk.read(n * SLICE, PAGE), noise(PAGE, n), f"slice {n}"))
    check(image)


def whole_disk_fits():
    """With the default cap of a disk that is not huge no table is read twice."""
    image = create(work("image"), 16 * GIB, preallocation="metadata")
    places = [n * SLICE for n in range(16 * GIB // SLICE)]
    with Device(image) as device:
        in_threads(device, places, lambda disk, place: disk.read(place, PAGE))
        loads = number(device, "slices_loaded")
        expect(loads >= len(places), f"only {loads} slices were loaded")
        in_threads(device, places, lambda disk, place: disk.read(place, PAGE))
        expect_equal(number(device, "slices_loaded"), loads, "loads after a second sweep")


# The sampler shall have its turn often.
sys.setswitchinterval(0.0005)
os.makedirs(BIG)
big = os.path.join(BIG, "image")
with case("1 TiB of mapped clusters"):
    make_big(big)
with case("random reads of 1 TiB, default cap"):
    sweep_with_default(big)
with case("random reads of 1 TiB, cap of 1 MiB at attach"):
    sweep_with_cap_from_attach(big)
with case("random reads of 1 TiB, cap changed at run time"):
    cap_at_run_time(big)
with case("cap changed all the time"):
    cap_while_read(big)
with case("memory asked for: what is clean goes"):
    clean_goes(big)
shutil.rmtree(BIG)
with case("memory asked for: what is dirty stays"):
    dirty_stays()
with case("memory asked for all the time"):
    asked_all_the_time()
with case("random writes, cap of 1 MiB"):
    writes_stay_under_cap()
with case("the default cap is enough for a disk of 16 GiB"):
    whole_disk_fits()
finish()
