#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""16 jobs write blocks of random sizes to an empty image, over several hardware
queues, and verify them: state that queues share by mistake shows as bad data."""

from e2e import *
from mapper import Mapped
from writelog import through_loop

JOBS = 16
SIZE = 32 * MIB
MOUNT = "/mnt/ram"


def fio(device, name, seed, *options, jobs=JOBS):
    run("fio", f"--name={name}", f"--filename={device}", "--thread", "--direct=1",
        f"--numjobs={jobs}", f"--randseed={seed}", "--group_reporting",
        "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0",
        *options)


def write_and_verify(device, seed):
    """Ranges that begin and end inside of a cluster, so that two jobs allocate it;
    each is read back while the others still write."""
    share = (SIZE // JOBS // SECTOR - 1 | 1) * SECTOR
    fio(device, "multi-queue", seed, "--ioengine=io_uring", "--iodepth=8", "--rw=randwrite",
        "--bsrange=512-192k", "--blockalign=512", "--verify_backlog=32",
        f"--size={share}", f"--offset_increment={share}")


def write_shares_of_clusters(device, seed):
    """Every 16th block is a job's: all of them allocate in all clusters."""
    fio(device, "shares", seed, "--ioengine=libaio", "--iodepth=4", "--rw=write",
        "--bs=4k", "--zonemode=strided", "--zonesize=4k", f"--zonerange={JOBS * 4}k",
        "--offset_increment=4k", f"--size={8 * MIB - JOBS * 4 * KIB}",
        f"--io_size={8 * MIB // JOBS - 4 * KIB}")


def write_in_batches(device, seed):
    """Requests that come to the driver as a list."""
    share = SIZE // JOBS
    fio(device, "batches", seed, "--ioengine=io_uring", "--iodepth=32",
        "--iodepth_batch_submit=16", "--iodepth_batch_complete_min=8", "--rw=randwrite",
        "--bs=4k", "--verify_backlog=64", f"--size={share}", f"--offset_increment={share}")


def write_to_both(devices, seed):
    """Requests of two disks on one list, of which each disk is given its own."""
    fio(":".join(devices), "both", seed, "--ioengine=io_uring", "--iodepth=32",
        "--iodepth_batch_submit=16", "--iodepth_batch_complete_min=8", "--rw=randwrite",
        "--bs=4k", "--file_service_type=roundrobin", f"--filesize={SIZE // 2}",
        f"--size={SIZE}", jobs=1)


def queues(device):
    return len(os.listdir(f"/sys/block/{os.path.basename(device)}/mq"))


@contextlib.contextmanager
def disk_of_another_driver():
    """A file system whose disk gets its requests as lists too, while the driver above
    works its own list off: one must not get into the other."""
    backing = work("backing")
    with open(backing, "wb") as file:
        file.truncate(4 * SIZE)
    with loop_on(backing) as loop:
        run("mkfs.ext4", "-q", "-F", loop)
        with mounted(loop, MOUNT):
            yield os.path.join(MOUNT, "image")


@contextlib.contextmanager
def slow_disk(disk):
    """Every transfer takes a while, so that many are under way at once; in memory most
    are over before the next begins."""
    with Mapped("slow", [(sectors(disk), f"delay {disk} 0 1")]) as slow:
        yield slow.path


def sectors(disk):
    return int(run("blockdev", "--getsz", disk).stdout)


CLUSTER, READS = 64 * KIB, 8


def make_scattered(image):
    """Every second cluster is in the file, in more pieces than one block of the file system
    tells of; the last clusters are in no table's way to them."""
    create(image, 2 * SIZE - MIB, cluster_size=CLUSTER, preallocation="metadata")
    run("qemu-img", "resize", "-q", "-f", "qcow2", image, 2 * SIZE)
    with Device(image, "--direct-io") as device, device.open() as guest:
        for offset in range(0, 2 * SIZE - MIB, 2 * CLUSTER):
            guest.write(offset, noise(4 * KIB, offset + 1))


def wait_until_started(device):
    for _ in range(200):
        started = int(content(f"/sys/block/{device.name}/inflight").split()[0])
        if started == READS:
            return
        time.sleep(0.05)
    raise Failure(f"{started} of {READS} reads were started while the first one sleeps")


def sleeps(process):
    """Does a thread of it wait for a disk?"""
    return any(content(path).rsplit(b")", 1)[1].split()[0] == b"D"
               for path in glob.glob(f"/proc/{process.pid}/task/*/stat"))


def read_a_list(device, first):
    return running("fio", "--name=list", "--thread", f"--filename={device.path}", "--direct=1",
                   "--ioengine=libaio", f"--iodepth={READS}", f"--iodepth_batch_submit={READS}",
                   f"--rw=read:{2 * CLUSTER - 4 * KIB}", "--bs=4k", f"--offset={first}",
                   f"--number_ios={READS}", "--invalidate=0")


def first_sleeps(disk):
    """The file system sleeps for the block that tells where the data lies."""
    with Mapped("held", [(sectors(disk), f"linear {disk} 0")]) as mapped, \
            through_loop(mapped.path) as loop:
        run("mkfs.ext4", "-q", "-F", loop)
        image = os.path.join(MOUNT, "image")
        with mounted(loop, MOUNT):
            make_scattered(image)
        with mounted(loop, MOUNT), Device(image, "--direct-io") as device:
            with device.open() as guest, contextlib.ExitStack() as stack:
                guest.read(2 * SIZE - CLUSTER, SECTOR)
                with mapped.held():
                    reader = stack.enter_context(read_a_list(device, 3 * SIZE // 2))
                    wait_until_started(device)
                    expect(sleeps(reader), "nothing sleeps")
                expect_good_end(reader)


def check_for_qemu(image, content):
    check(image)
    expect_equal(digest(to_raw(image, work("raw"))), content, "contents as QEMU reads them")


def test(seed, work_on, image, *attach_options, **options):
    create(image, SIZE, **options)
    with Device(image, *attach_options) as device:
        expect(queues(device.path) > 1, "the device has one queue only")
        work_on(device.path, seed)
        before = digest(device.path)
    check_for_qemu(image, before)


def test_two(seed, images, **options):
    for image in images:
        create(image, SIZE, **options)
    with Device(images[0], "--direct-io") as first, Device(images[1], "--direct-io") as second:
        devices = [first.path, second.path]
        write_to_both(devices, seed)
        before = [digest(device) for device in devices]
    for image, content in zip(images, before):
        check_for_qemu(image, content)


def settings(options):
    return ", ".join(f"{key}={value}" for key, value in options.items())


def describe(function, options):
    return f"16 jobs {function.__name__.replace('_', ' ')}, {settings(options)}"


LARGE, SMALL = {"cluster_size": 2 * MIB}, {"cluster_size": 4 * KIB}
USUAL, EXTENDED = {"cluster_size": 64 * KIB}, {"cluster_size": 64 * KIB, "extended_l2": "on"}

for number, (test_of, image_options) in enumerate((
        (write_and_verify, SMALL), (write_and_verify, LARGE),
        (write_shares_of_clusters, USUAL))):
    with case(describe(test_of, image_options)):
        test(7660 + number, test_of, work("image"), **image_options)
run("modprobe", "loop")
for number, image_options in enumerate((USUAL, USUAL | {"preallocation": "metadata"})):
    with case(f"{describe(write_in_batches, image_options)}, above loop"), \
            disk_of_another_driver() as path:
        test(7690 + number, write_in_batches, path, "--direct-io", **image_options)
for number, image_options in enumerate((USUAL, USUAL | {"preallocation": "metadata"})):
    with case(f"one job writes to two images, {settings(image_options)}, above loop"), \
            disk_of_another_driver() as path:
        test_two(7700 + number, (path, f"{path}-2"), **image_options)
ram, larger = ram_disks(2, 4 * SIZE)
with case("who submits a list sleeps for the first one of it: the others are started"):
    first_sleeps(larger)
for number, (test_of, image_options) in enumerate((
        (write_and_verify, USUAL), (write_shares_of_clusters, USUAL),
        (write_and_verify, EXTENDED), (write_shares_of_clusters, EXTENDED))):
    with case(f"{describe(test_of, image_options)}, slow disk"), slow_disk(ram) as slow:
        test(7670 + number, test_of, slow, "--direct-io", **image_options)
finish()
