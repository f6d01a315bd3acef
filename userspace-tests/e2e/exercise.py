#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""All ways of reading and writing that programs have, in turn on the same places (see
exercise.c): page cache, direct, mmap, AIO, io_uring, holes, zeroes, syncs; against a copy,
which the device must be the same as when it is attached again."""

from e2e import *

ROOT = "/mnt/exercise"
SIZE = 24 * MIB + 3 * SECTOR
PROGRAM = os.path.join(TOP, "build", "e2e", "exercise")
OPERATIONS = 20000 if LONG else 1000
ATTACHMENTS = 3


def expect_model(image, model):
    """QEMU reads what the copy says."""
    raw = to_raw(image, work("raw"))
    expect_same_bytes(content(raw), content(model), "what QEMU reads")
    os.unlink(raw)


def exercise(seed, image, model, *options):
    for number in range(ATTACHMENTS):
        with Device(image, *options) as device:
            run(PROGRAM, device.path, model, ATTACHMENTS * seed + number, OPERATIONS,
                timeout=250 * SLOWNESS * (20 if LONG else 1))
        check(image)
        expect_model(image, model)


def zeroes(name):
    path = work(name)
    with open(path, "wb") as file:
        file.truncate(SIZE)
    return path


def overlay():
    """Its base has data all over, a part of it compressed."""
    data = bytes(MIB).join(noise(MIB, seed) for seed in range(8))
    model = work("model")
    with open(model, "wb") as file:
        file.write(data)
        file.truncate(SIZE)
    run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", model, work("base"))
    return create(work("image"), SIZE, backing_file=work("base"), backing_fmt="qcow2"), model


VARIANTS = {
    "standard": {},
    "extended L2": {"extended_l2": "on"},
    "clusters of 512 bytes": {"cluster_size": 512},
    "clusters of 2 MiB": {"cluster_size": 2 * MIB},
}

for seed, (name, create_options) in enumerate(VARIANTS.items()):
    with case(f"{name}, buffered"):
        exercise(seed, create(work("image"), SIZE, **create_options), zeroes("model"))
with case("overlay, buffered"):
    exercise(10, *overlay())
disk, = ram_disks(1, 256 * MIB)
with ext4_on(disk, ROOT):
    for seed, (name, create_options) in enumerate(VARIANTS.items()):
        with case(f"{name}, direct"):
            image = create(os.path.join(ROOT, "image"), SIZE, **create_options)
            exercise(20 + seed, image, zeroes("model"),
                     *(() if create_options.get("cluster_size") == 512 else ("--direct-io",)))
finish()
