#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
# not on uml uml-debug: its CPUs cannot be taken off line, and it has no swap
# not on kcsan: its kernel has one scheduler
"""What an administrator changes while a device is in use: CPUs are taken off line and come
back, the queue gets another scheduler and another depth, swap is on the device, other devices
come and go. fio verifies what it wrote all the time."""

import ctypes
import mmap

from e2e import *

ROOT = "/mnt/changes"
CPUS = "/sys/devices/system/cpu"
ROUNDS = 60 if LONG else 6
MADV_PAGEOUT = 21


def verifying(device, size):
    """Eight jobs with a part of the disk each, until they have been all over it."""
    share = (size // 8 // SECTOR - 1 | 1) * SECTOR
    return running("fio", "--name=verify", f"--filename={device}", "--thread", "--direct=1",
                   "--numjobs=8", "--group_reporting", "--verify=crc32c", "--verify_fatal=1",
                   "--do_verify=1", "--verify_state_save=0", "--ioengine=io_uring",
                   "--iodepth=8", "--rw=randwrite", "--bsrange=512-64k", "--blockalign=512",
                   "--verify_backlog=64", "--fsync=256", f"--size={share}",
                   f"--offset_increment={share}")


def beside(change, counts_as):
    """Verified I/O for as long as it takes to make the change a number of times."""
    size = 32 * MIB
    image = create(os.path.join(ROOT, "image"), size)
    done = 0
    with Device(image, "--direct-io") as device:
        while done < ROUNDS:
            with verifying(device.path, size) as fio:
                while fio.poll() is None and done < ROUNDS:
                    change(device, done)
                    done += 1
                output, _ = fio.communicate(timeout=250 * SLOWNESS)
                expect_equal(fio.returncode, 0, f"status of fio, with {output}")
    check(image)
    note(f"{counts_as}: {done}")


def cpus():
    """But the first one, which some machines cannot do without."""
    return sorted(name for name in os.listdir(CPUS)
                  if os.path.exists(os.path.join(CPUS, name, "online")) and name != "cpu0")


def off_line_and_back(_device, number):
    name = cpus()[number % len(cpus())]
    for state in (0, 1):
        put(os.path.join(CPUS, name, "online"), state)
        time.sleep(0.1 * SLOWNESS)


def queue(device, name):
    return os.path.join("/sys/block", os.path.basename(device.path), "queue", name)


def another_scheduler(device, number):
    found = re.findall(r"\w[\w-]*", content(queue(device, "scheduler")).decode())
    put(queue(device, "scheduler"), found[number % len(found)])
    put(queue(device, "nr_requests"), (16, 64, 128)[number % 3])
    time.sleep(0.1 * SLOWNESS)


def others(_device, number):
    """One with a file system, that is gone again."""
    image = create(work("other"), 16 * MIB)
    with Device(image) as other:
        with other.open() as disk:
            disk.write(0, noise(MIB, number))
            disk.flush()
    check(image)
    os.unlink(image)


def swapped():
    with open("/proc/swaps", encoding="ascii") as file:
        return sum(int(line.split()[3]) for line in file.readlines()[1:]) * KIB


def swap():
    """Pages that are put out come back as they were."""
    image = create(os.path.join(ROOT, "swap"), 64 * MIB)
    libc = ctypes.CDLL(None, use_errno=True)
    with Device(image, "--direct-io") as device:
        run("mkswap", device.path)
        run("swapon", device.path)
        try:
            with mmap.mmap(-1, 32 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
                for number in range(ROUNDS):
                    data = noise(MIB, number) * 32
                    memory[:] = data
                    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
                    if libc.madvise(ctypes.c_void_p(address), len(memory), MADV_PAGEOUT):
                        raise OSError(ctypes.get_errno(), "madvise")
                    expect(swapped() > 8 * MIB, f"only {swapped()} bytes are in swap")
                    expect(memory[:] == data, "what was put out came back as something else")
        finally:
            run("swapoff", device.path)
    check(image)


disk, = ram_disks(1, 256 * MIB)
with ext4_on(disk, ROOT):
    with case("CPUs go off line and come back"):
        expect(cpus(), "there is one CPU only")
        beside(off_line_and_back, "CPUs taken off line and back")
    with case("another scheduler, another depth"):
        beside(another_scheduler, "schedulers and depths")
    with case("other devices come and go"):
        beside(others, "devices that came and went")
    with case("swap on the device"):
        swap()
finish()
