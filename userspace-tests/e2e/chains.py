#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# guest: --timeout 900
"""Backing chains: any depth and mixture, shared bases, snapshots, missing files,
verified by fio, and a full file system. qemu-img is the oracle."""

import errno

from e2e import *

SIZE = 4 * MIB


def sysfs(name, attribute):
    with open(f"/sys/block/{name}/qcow2/{attribute}", encoding="ascii") as file:
        return int(file.read())


def overlay(path, base, form="qcow2", size=SIZE, **options):
    """An empty image; the base is named as given, and not looked at."""
    words = [f"{name}={value}" for name, value in options.items()]
    run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", base, "-F", form,
        *(["-o", ",".join(words)] if words else []), path, size)
    return path


def raw_file(path, size, seed=1):
    with open(path, "wb") as file:
        file.write(noise(size, seed))
    return path


def seen_by_qemu(image):
    return bytearray(content(to_raw(image, work("as-qemu-sees-it"))))


def change(device, model, seed, rounds=40):
    """Writes, write zeroes and discards; the model follows."""
    dice = random.Random(seed)
    with device.open() as disk:
        for number in range(rounds):
            length = dice.choice((1, 2, 7, 100, 128, 300, 1000)) * SECTOR
            length = min(length, len(model))
            offset = dice.randrange((len(model) - length) // SECTOR + 1) * SECTOR
            what = dice.random()
            if what < 0.6:
                data = noise(length, seed * 1000 + number)
                disk.write(offset, data)
                model[offset:offset + length] = data
            elif what < 0.8:
                run("blkdiscard", "-z", "-o", offset, "-l", length, device.path)
                model[offset:offset + length] = bytes(length)
            else:
                discard(device, disk, model, offset, length)
        expect_same_bytes(disk.read_all(), bytes(model), "contents")


def discard(device, disk, model, offset, length):
    """What is not zeroes then is what it was, and not what lies beneath."""
    if sysfs(device.name, "version") == 2:
        return      # refused: what lies beneath would show
    run("blkdiscard", "-o", offset, "-l", length, device.path)
    found = disk.read(offset, length)
    for start in range(0, length, SECTOR):
        part = found[start:start + SECTOR]
        if any(part):
            expect_same_bytes(part, bytes(model[offset + start:offset + start + SECTOR]),
                              f"after a discard, at {offset + start}")
    model[offset:offset + length] = found


def write_and_compare(image, *options, seed=1, bases=()):
    """Read-only, read-write, and then as QEMU sees it; the bases stay as they are."""
    before = {base: digest(base) for base in bases}
    model = seen_by_qemu(image)
    with Device(image, "-r", *options) as device, device.open(os.O_RDONLY) as disk:
        expect_same_bytes(disk.read_all(), bytes(model), "read-only")
    with Device(image, *options) as device:
        with device.open() as disk:
            expect_same_bytes(disk.read_all(), bytes(model), "at first")
        change(device, model, seed)
    check(image)
    expect_same_bytes(bytes(seen_by_qemu(image)), bytes(model), "as QEMU reads it")
    for base, was in before.items():
        expect_equal(digest(base), was, f"the base {base}")


# ---------------------------------------------------------------------------
# Depth and mixture.


LAYER_SORTS = ({}, {"cluster_size": 4096}, {"compat": "0.10", "cluster_size": 512},
               {"extended_l2": "on"}, {"cluster_size": 2 * MIB, "refcount_bits": 1},
               {"compression_type": "zstd"})


def templates():
    """An empty overlay of each sort, whose backing file's name can be patched."""
    return [content(overlay(work(f"template{number}"), "000", size=SIZE, **options))
            for number, options in enumerate(LAYER_SORTS)]


def deep_chain(depth):
    """Some of the layers have a piece of their own; qemu-img is not run for each."""
    made = templates()
    names = [work("000")]
    create(names[0], SIZE)
    qemu_io(names[0], [f"write -P {n + 1} {n * 256}k {(n + 1) * 16}k" for n in range(16)])
    for number in range(1, depth + 1):
        name = work(f"{number:03}")
        with open(name, "wb") as file:
            file.write(made[number % 7 % len(made)])
        place = field(name, 8, "Q")
        for index, letter in enumerate(f"{number - 1:03}"):
            patch(name, place + index, "B", ord(letter))
        # qemu-io opens the whole chain.
        if number % max(1, depth // 6) == 0 and number < depth:
            place = number * 7919 * SECTOR % (SIZE - 9 * SECTOR)
            qemu_io(name, [f"write -P {number % 250 + 1} {place} {9 * SECTOR}",
                           f"write -z {place // 4096 * 4096} 4096"])
        names.append(name)
    return names


def depths():
    for depth in (1, 2, 10, 200):
        with case(f"{depth} layers"):
            names = deep_chain(depth)
            write_and_compare(names[-1], bases=names[:-1:max(1, depth // 10)])


SORTS = {
    "raw": None,
    "plain": {},
    "512 B": {"cluster_size": 512, "refcount_bits": 64},
    "2 MiB": {"cluster_size": 2 * MIB},
    "version 2": {"compat": "0.10", "cluster_size": 4096},
    "subclusters": {"extended_l2": "on", "cluster_size": 16384},
    "zlib": {"cluster_size": 65536},
    "zstd": {"cluster_size": 32768, "compression_type": "zstd"},
}


def base_of_sort(sort, size):
    source = raw_file(work("source"), size)
    if SORTS[sort] is None:
        return source, "raw"
    words = [f"{name}={value}" for name, value in SORTS[sort].items()]
    run("qemu-img", "convert", *(["-c"] if sort in ("zlib", "zstd") else []), "-f", "raw",
        "-O", "qcow2", *(["-o", ",".join(words)] if words else []), source, work("base"))
    return work("base"), "qcow2"


def mixtures():
    """Every sort on two others, one of which is shorter and one longer."""
    names = list(SORTS)
    for number, sort in enumerate(names[1:], 1):
        for step, size in ((3, SIZE - 5 * SECTOR), (4, SIZE + 96 * KIB + SECTOR)):
            lower = names[(number + step) % len(names)]
            with case(f"{sort} on {lower}, {'longer' if size > SIZE else 'shorter'}"):
                base, form = base_of_sort(lower, size)
                overlay(work("image"), base, form, **SORTS[sort])
                write_and_compare(work("image"), seed=number, bases=[base])


def odd_raw_base():
    with case("raw base that is no multiple of a sector"):
        base = raw_file(work("base"), SIZE // 2 + 100)
        write_and_compare(overlay(work("image"), base, "raw"), bases=[base])


def regrown():
    """Of a short layer between two long ones the end hides what lies beneath."""
    with case("short layer between long ones"):
        raw_file(work("base"), SIZE)
        overlay(work("middle"), "base", "raw", size=MIB + SECTOR)
        overlay(work("image"), "middle", size=SIZE)
        expect(not any(seen_by_qemu(work("image"))[MIB + SECTOR:]), "QEMU sees the base")
        write_and_compare(work("image"), bases=[work("base"), work("middle")])


# ---------------------------------------------------------------------------
# Block devices beneath.


@contextlib.contextmanager
def loop_device(path, *options):
    device = run("losetup", "-f", "--show", *options, path).stdout.strip()
    try:
        yield device
    finally:
        run("losetup", "-d", device)


def block_devices(ram):
    for flags in ((), ("--direct-io",)):
        title = " ".join(flags) or "buffered"
        with case(f"raw RAM disk beneath, {title}"), ext4_on(ram[1], "/mnt/ram"):
            with open(ram[0], "r+b") as file:
                file.write(noise(SIZE, 5))
            image = overlay("/mnt/ram/image", ram[0], "raw")
            write_and_compare(image, *flags, bases=[ram[0]])
        with case(f"qcow2 on a loop device beneath, {title}"), ext4_on(ram[1], "/mnt/ram"):
            create(work("file"), SIZE)
            qemu_io(work("file"), ["write -P 7 1M 100k"])
            os.truncate(work("file"), 8 * MIB)
            with loop_device(work("file")) as loop:
                image = overlay("/mnt/ram/image", loop)
                write_and_compare(image, *flags, bases=[loop])
    with case("an attached image beneath"):
        base = create(work("base"), SIZE)
        qemu_io(base, ["write -P 7 1M 100k"])
        with Device(base, "-r") as device:
            write_and_compare(overlay(work("image"), device.path, "raw"), bases=[device.path])


# ---------------------------------------------------------------------------
# Shared bases.

OVERLAYS = 50


def metadata_base(tables):
    """An image with so many L2 slices; its clusters lie far from each other."""
    base = create(work("base"), tables * 4096 // 8 * 4096, cluster_size=4096)
    qemu_io(base, [f"write -P {number % 255 + 1} {number * 2 * MIB} 4k"
                   for number in range(tables)])
    return base


def read_places(device, tables, form):
    with device.open(os.O_RDONLY) as disk:
        for number in range(tables):
            found = disk.read(number * 2 * MIB, 4096)
            expect_same_bytes(found, bytes([number % 255 + 1]) * 4096, f"{form}, {number}")


def shared_base():
    """What the base's metadata takes is counted by the base itself: it is read once."""
    tables, dice = 64, random.Random(3)
    with case(f"{OVERLAYS} overlays on one base"):
        base = metadata_base(tables)
        was = digest(base)
        with Device(base, "-r") as shown:
            devices = [Device(overlay(work(f"image{i}"), "base", size=tables * 2 * MIB))
                       for i in range(OVERLAYS)]
            read_places(devices[0], tables, "first overlay")
            loaded = sysfs(shown.name, "slices_loaded")
            expect(loaded >= tables, f"only {loaded} slices of the base were loaded")
            used = sysfs(shown.name, "cache_used")
            for device in devices[1:]:
                read_places(device, tables, device.name)
            read_places(shown, tables, "base")
            expect_equal(sysfs(shown.name, "slices_loaded"), loaded,
                         "slices of the base that were read from the file")
            expect_equal(sysfs(shown.name, "cache_used"), used, "memory for the base")
            for device in devices:
                expect(sysfs(device.name, "cache_used") <= 2 * 4096,
                       f"{device.name} has {sysfs(device.name, 'cache_used')} bytes of metadata")
            dice.shuffle(devices)
            for number, device in enumerate(devices):
                device.detach()
                if number % 10 == 0 and number + 1 < len(devices):
                    read_places(devices[-1], tables, "after others were detached")
            read_places(shown, tables, "base in the end")
        expect_equal(digest(base), was, "the base")


def random_order():
    with case("attached and detached in random order, written at the same time"):
        dice, base = random.Random(11), create(work("base"), SIZE)
        qemu_io(base, [f"write -P {n + 1} {n * 512}k 300k" for n in range(8)])
        middle = overlay(work("middle"), "base", cluster_size=4096)
        qemu_io(middle, ["write -P 99 700k 20k"])
        was = digest(base), digest(middle)
        models, devices = {}, {}
        for number in range(6):
            image = overlay(work(f"image{number}"), "middle" if number % 2 else "base")
            models[image] = seen_by_qemu(image)
        for turn in range(30):
            image = dice.choice(sorted(models))
            if image in devices:
                change(devices[image], models[image], turn, rounds=5)
                if dice.random() < 0.6:
                    devices.pop(image).detach()
            else:
                devices[image] = Device(image)
        for device in devices.values():
            device.detach()
        for image, model in models.items():
            check(image)
            expect_same_bytes(bytes(seen_by_qemu(image)), bytes(model), image)
        expect_equal((digest(base), digest(middle)), was, "the layers")


def same_file_twice():
    with case("who may use a file that is in use"):
        base = create(work("base"), SIZE)
        one, other = (overlay(work(name), "base") for name in ("one", "other"))
        with Device(one), Device(other):
            done = run("qcowctl", "attach", base, status=EXIT_BUSY)
            expect("base" in done.stderr, f"said {done.stderr!r}")
            run("qcowctl", "attach", one, status=EXIT_BUSY)
            run("qcowctl", "attach", "-r", one, status=EXIT_BUSY)
            with Device(base, "-r"), Device(base, "-r"):
                pass
        with Device(one, "-r"), Device(one, "-r") as again:
            run("qcowctl", "attach", one, status=EXIT_BUSY)
            with again.open(os.O_RDONLY) as disk:
                expect(not any(disk.read_all()), "contents")
        with Device(base):
            run("qcowctl", "attach", one, status=EXIT_BUSY)
            run("qcowctl", "attach", "-r", one, status=EXIT_BUSY)
        with Device(base):
            pass


# ---------------------------------------------------------------------------
# Snapshots.


def with_snapshots(path, names, *base):
    overlay(path, *base) if base else create(path, SIZE)
    contents = {}
    for number, name in enumerate(names):
        qemu_io(path, [f"write -P {number + 1} {number * 300}k 500k",
                       f"write -z {number * 500 + 64}k 100k"])
        run("qemu-img", "snapshot", "-c", name, path)
        contents[name] = content(to_raw(path, work("raw"), "-l", f"snapshot.name={name}"))
    return contents


def snapshots_beside(image, contents):
    """Attached before the image is, while it is, and left after it was detached."""
    names = sorted(contents)
    model = seen_by_qemu(image)
    early = Device(image, f"--snapshot={names[0]}")
    with Device(image) as device:
        late = [Device(image, f"--snapshot={name}") for name in names]
        for seed in range(3):
            change(device, model, seed, rounds=20)
            for name, shown in zip([names[0], *names], [early, *late]):
                with shown.open(os.O_RDONLY) as disk:
                    expect_same_bytes(disk.read_all(), contents[name], f"snapshot {name}")
        run("qcowctl", "attach", "-r", image, status=EXIT_BUSY)
    for name, shown in zip(names, late):
        with shown.open(os.O_RDONLY) as disk:
            expect_same_bytes(disk.read_all(), contents[name], f"snapshot {name}, later")
        shown.detach()
    early.detach()
    check(image)
    expect_same_bytes(bytes(seen_by_qemu(image)), bytes(model), "the image")
    for name, wanted in contents.items():
        found = content(to_raw(image, work("raw"), "-l", f"snapshot.name={name}"))
        expect_same_bytes(found, wanted, f"snapshot {name} as QEMU reads it")


def snapshots():
    with case("snapshots while the image is written"):
        snapshots_beside(work("image"), with_snapshots(work("image"), ("a", "b", "c")))
    with case("snapshots of an overlay while it is written"):
        raw_file(work("base"), SIZE)
        contents = with_snapshots(work("image"), ("a", "b"), "base", "raw")
        snapshots_beside(work("image"), contents)
    with case("a snapshot that is not there"):
        with_snapshots(work("image"), ("a",))
        done = run("qcowctl", "attach", "--snapshot=b", work("image"), status=None)
        expect(done.returncode, "it was attached")
        expect("b" in done.stderr, f"said {done.stderr!r}")


# ---------------------------------------------------------------------------
# What cannot be opened.


def refused(image, *words, status=None):
    done = run("qcowctl", "attach", image, status=None)
    expect(done.returncode, f"{image} was attached")
    if status is not None:
        expect_equal(done.returncode, status, "exit status")
    expect_equal(done.stderr.count("\n"), 1, f"lines of {done.stderr!r}")
    for word in words:
        expect(word in done.stderr, f"no {word!r} in {done.stderr!r}")


def not_there():
    with case("missing files and loops are named"):
        overlay(work("image"), "gone")
        refused(work("image"), "gone", "image", status=EXIT_FILE)
        overlay(work("top"), "image")
        refused(work("top"), "gone", "image", status=EXIT_FILE)
        overlay(work("image"), "top")
        refused(work("top"), "image")
        overlay(work("image"), "image")
        refused(work("image"), "image")
    with case("a layer that is no image"):
        raw_file(work("base"), SIZE)
        overlay(work("middle"), "base", "qcow2")
        overlay(work("image"), "middle")
        refused(work("image"), "base")
        # Nobody holds anything now.
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", "base", "-F", "raw", work("middle"))
        write_and_compare(work("image"))


# ---------------------------------------------------------------------------
# Load.


def fio(device, jobs, size, *options):
    share = (size // jobs // SECTOR - 1 | 1) * SECTOR
    run("fio", "--name=overlay", f"--filename={device}", "--thread", "--direct=1",
        f"--numjobs={jobs}", "--group_reporting", "--verify=crc32c", "--verify_fatal=1",
        "--do_verify=1", "--verify_state_save=0", "--ioengine=libaio", "--iodepth=16",
        "--rw=randwrite", "--bsrange=512-64k", "--blockalign=512", "--verify_backlog=64",
        f"--size={share}", f"--offset_increment={share}", *options, timeout=300)


def verified_by_fio():
    size = 16 * MIB
    for jobs, options in ((4, {}), (8, {"cluster_size": 4096}), (16, {"cluster_size": 2 * MIB}),
                          (16, {"extended_l2": "on", "cluster_size": 131072}),
                          (8, {"compat": "0.10"})):
        with case(f"fio with {jobs} jobs on an overlay, {options}"):
            raw_file(work("base"), size - 7 * SECTOR)
            run("qemu-img", "convert", "-c", "-O", "qcow2", "-f", "raw", work("base"),
                work("packed"))
            overlay(work("middle"), "packed", size=size, cluster_size=1024)
            image = overlay(work("image"), "middle", size=size, **options)
            was = digest(work("packed")), digest(work("middle"))
            with Device(image) as device:
                fio(device.path, jobs, size)
                before = digest(device.path)
            check(image)
            expect_equal(digest(to_raw(image, work("raw"))), before, "as QEMU reads it")
            expect_equal((digest(work("packed")), digest(work("middle"))), was, "the layers")


def no_space():
    """What could not be copied is as it was; with room again all can be written."""
    small, size = "/mnt/small", 24 * MIB
    for options in ({}, {"cluster_size": 4096}, {"extended_l2": "on"}):
        with case(f"no space for an overlay, {options}"), \
                mounted("tmpfs", small, "-t", "tmpfs", "-o", "size=10M"):
            base = raw_file(work("base"), size)
            image = overlay(f"{small}/image", base, "raw", size=size, **options)
            model, failed = bytearray(content(base)), 0
            with Device(image) as device, device.open() as disk:
                for place in range(0, size, 96 * KIB):
                    data = noise(3 * SECTOR, place)
                    try:
                        disk.write(place + SECTOR, data)
                    except OSError as error:
                        expect(error.errno in (errno.EIO, errno.ENOSPC), f"said {error}")
                        failed += 1
                        continue
                    model[place + SECTOR:place + 4 * SECTOR] = data
                expect(failed or "extended_l2" in options or "cluster_size" in options,
                       "there was room for all")
                expect_same_bytes(disk.read_all(), bytes(model), "contents when full")
                expect_equal(device.state(), "ok", "state when full")
                run("mount", "-o", "remount,size=64M", small)
                data = noise(MIB + SECTOR, 5)
                disk.write(size // 2 + SECTOR, data)
                model[size // 2 + SECTOR:size // 2 + SECTOR + len(data)] = data
                disk.flush()
                expect_same_bytes(disk.read_all(), bytes(model), "contents in the end")
            check(image)
            expect_same_bytes(bytes(seen_by_qemu(image)), bytes(model), "as QEMU reads it")


run("modprobe", "loop")
DISKS = ram_disks(2, 64 * MIB)
depths()
mixtures()
odd_raw_base()
regrown()
block_devices(DISKS)
shared_base()
random_order()
same_file_twice()
snapshots()
not_there()
verified_by_fio()
no_space()
finish()
