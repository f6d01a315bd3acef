#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# alone: it counts the memory of its guest
"""Attach and detach 200 times: no memory, slab cache or node is left; the module
can be removed and loaded again."""

import threading

from e2e import *

ROUNDS = 200
AT_ONCE = 4

# A leak of one object or page a round shows ROUNDS of them; about a hundred objects
# come and go in some caches, and 60 pages, whatever happens.
ALLOWED_OBJECTS = ROUNDS * 3 // 4
ALLOWED_BYTES = ROUNDS * 3 // 4 * os.sysconf("SC_PAGE_SIZE")


def slabs():
    """Objects in use per slab cache of the kernel, by name. The driver's own may
    be merged with others of the same size; then those are counted with them."""
    with open("/proc/slabinfo", encoding="ascii") as file:
        rows = [line.split() for line in file.readlines()[2:]]
    found = {row[0]: int(row[1]) for row in rows}
    for objects in glob.glob("/sys/kernel/slab/qcow2*/objects"):
        found[objects.split("/")[4]] = int(content(objects).split()[0])
    return found


def slab_directories():
    return len(os.listdir("/sys/kernel/slab"))


def free():
    """Bytes that are free, those in the lists that each CPU keeps as well: these are several
    MiB more or less from one moment to the next, and MemFree is without them."""
    with open("/proc/zoneinfo", encoding="ascii") as file:
        text = file.read()
    pages = re.findall(r"^ *(?:pages free|count:) +(\d+)$", text, re.MULTILINE)
    return sum(map(int, pages)) * os.sysconf("SC_PAGE_SIZE")


def available():
    """Memory that can be had, and that of the images and of the programs, in bytes."""
    shm = os.statvfs(WORK)
    images = (shm.f_blocks - shm.f_bfree) * shm.f_frsize
    with open("/proc/sys/vm/stat_refresh", "w", encoding="ascii") as knob:
        knob.write("1")
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in file)}
    others = sum(kib[name] for name in ("Buffers", "Cached", "SReclaimable", "AnonPages",
                                        "PageTables")) - kib["Shmem"]
    return free() + others * KIB + images


def settled():
    """Memory and slabs after what can be freed was freed."""
    for _ in range(2):
        drop_caches(inodes=True)
        time.sleep(0.3)
    for cache in os.listdir("/sys/kernel/slab"):
        if is_ours(cache):
            with open(f"/sys/kernel/slab/{cache}/shrink", "w", encoding="ascii") as knob:
                knob.write("1")
    return available(), slabs(), slab_directories()


def use(device):
    """Some allocating writes, each one with all that comes with it."""
    with device.open() as disk:
        for _ in range(20):
            disk.write(random.randrange(0, 15 * MIB, SECTOR), noise(8 * KIB, 1))
        disk.read(0, MIB)


def rounds(image, count, errors):
    try:
        for number in range(count):
            with Device(image) as device:
                if number % 4 == 0:
                    use(device)
    except Exception as error:
        errors.append(f"{image}: {error}")


def attach_and_detach(images, count):
    """Several images at once, as a detach mostly waits."""
    errors = []
    threads = [threading.Thread(target=rounds, args=(image, count // len(images), errors))
               for image in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expect(not errors, "\n".join(errors))


def make_images():
    return [create(work(f"image{number}"), 16 * MIB, cluster_size=4096 << number)
            for number in range(AT_ONCE)]


def fail_to_attach(image, count):
    for _ in range(count):
        run("qcowctl", "attach", image, status=EXIT_INVALID)


def expect_no_growth(before, after):
    expect("qcow2_l2_meta" in after[1], "no slab cache qcow2_l2_meta to look at")
    memory = before[0] - after[0]
    expect(memory < ALLOWED_BYTES, f"{memory // KIB} KiB of memory are gone")
    print(f"# {memory // KIB} KiB of memory are gone")
    grown = {name: (before[1].get(name, 0), count) for name, count in after[1].items()
             if count - before[1].get(name, 0) > ALLOWED_OBJECTS and is_ours(name)}
    expect(not grown, f"slab caches that grew: {grown}")
    expect(after[2] <= before[2], f"slab caches: {before[2]}, then {after[2]}")


def is_ours(name):
    """Caches of any object that a driver allocates, by itself or by what it calls;
    not those of the programs that run."""
    return name.startswith(("kmalloc", "qcow2", "bdev", "bio", "blk", "request", "radix",
                            "xa", "pool_workqueue", "kernfs", "workqueue"))


def no_leak():
    images = make_images()
    # As often as it is measured, so that this program's threads have what they keep.
    attach_and_detach(images, ROUNDS)
    settled()
    before = settled()
    attach_and_detach(images, ROUNDS)
    after = settled()
    expect_no_growth(before, after)
    for image in images:
        check(image)


def no_leak_of_refusals():
    image = create(work("image"), MIB)
    patch(image, 20, "I", 30)
    fail_to_attach(image, 40)
    settled()
    before = settled()
    fail_to_attach(image, ROUNDS)
    expect_no_growth(before, settled())


def reload_module():
    path = os.path.join(os.environ["QCOW2_BUILD"], "drivers/block/qcow2/qcow2.ko")
    for _ in range(3):
        run("rmmod", "qcow2")
        expect(not os.path.exists("/dev/qcow-control"), "/dev/qcow-control is still there")
        expect("qcow2" not in content("/proc/modules").decode(), "the module is still there")
        run("insmod", path)
        attach_and_detach([create(work("image"), 16 * MIB)], 1)


def no_removal_in_use():
    with Device(create(work("image"), MIB)):
        expect(run("rmmod", "qcow2", status=None).returncode, "rmmod with a device attached")


with case(f"attach and detach {ROUNDS} times"):
    no_leak()
with case(f"refused images, {ROUNDS} times"):
    no_leak_of_refusals()
with case("the module is not removed while a device is attached"):
    no_removal_in_use()
with case("remove and load the module"):
    reload_module()
finish()
