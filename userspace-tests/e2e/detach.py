#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Detach while the device is in use, and all that may race with it."""

import threading

from e2e import *


def one_line(text):
    return text.endswith("\n") and text.count("\n") == 1 and text.strip() != ""


def expect_busy(device):
    done = run("qcowctl", "detach", device, status=EXIT_BUSY)
    expect(one_line(done.stderr) and not done.stdout,
           f"not one line on stderr: {done.stderr!r}, {done.stdout!r}")


def load(device):
    return running("fio", "--name=load", f"--filename={device}", "--thread", "--direct=1",
                   "--rw=randrw", "--bsrange=512-64k", "--blockalign=512", "--size=64M",
                   "--time_based", f"--runtime={4 * SLOWNESS}", "--fsync=32", "--numjobs=4",
                   "--ioengine=io_uring", "--iodepth=16")


def wait_until_open(device):
    for _ in range(200):
        if next(e["used"] for e in attached() if e["name"] == device) > 0:
            return
        time.sleep(0.02)
    raise Failure(f"nobody opens {device}")


def detach_under_load():
    """A load of 4 s sees as many tries as the machine makes in 3 of them; there are as many
    loads as it takes."""
    image = create(work("image"), 64 * MIB)
    with Device(image) as device:
        tries = 0
        while tries < 10:
            with load(device.path) as fio:
                wait_until_open(device.path)
                end = time.monotonic() + 3
                while time.monotonic() < end:
                    expect_busy(device.path)
                    tries += 1
                expect_good_end(fio)
    check(image)


def held_open():
    image = create(work("image"), MIB)
    device = Device(image)
    with device.open(os.O_RDONLY):
        expect_busy(device.path)
        expect_equal(device.state(), "ok", "state")
    device.detach()
    expect(not os.path.exists(device.path), f"{device.path} is still there")
    done = run("qcowctl", "detach", device.path, status=EXIT_NO_DEVICE)
    expect(one_line(done.stderr), f"not one line: {done.stderr!r}")
    check(image)


class Race:
    """Loops in threads, for some seconds, and until each of them has succeeded, however
    long that takes: in a few seconds one may lose each time by chance. What one of them
    raises is kept."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds
        self.counts = {}
        self.errors = []

    def goes_on(self, names):
        now = time.monotonic()
        return not self.errors and (now < self.end or
                                    any(name not in self.counts for name in names))

    def loop(self, name, step, names):
        try:
            while self.goes_on(names):
                if step():
                    self.counts[name] = self.counts.get(name, 0) + 1
        except Exception as error:
            self.errors.append(f"{name}: {error}")

    def run(self, **steps):
        threads = [threading.Thread(target=self.loop, args=(*step, list(steps)))
                   for step in steps.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expect(not self.errors, "\n".join(self.errors))
        for name in steps:
            expect(self.counts.get(name), f"{name} never succeeded: {self.counts}")


def attach_and_detach(image):
    """Others may hold the device open for a moment, which is the point."""
    def step():
        device = run("qcowctl", "attach", image).stdout.strip()
        while (done := run("qcowctl", "detach", device, status=None)).returncode:
            expect_equal(done.returncode, EXIT_BUSY, f"status of detach, {done.stderr}")
        return True
    return step


def open_and_write(device):
    def step():
        try:
            with Disk(device, os.O_RDWR) as disk:
                disk.write(0, bytes(64 * KIB))
                disk.write(random.randrange(0, 30) * MIB, noise(64 * KIB, 0))
                return True
        except OSError:
            return False
    return step


def list_devices():
    for entry in attached():
        expect(entry["name"].startswith("/dev/qcow"), f"name {entry['name']!r}")
    return True


def race():
    images = [create(work(f"image{number}"), 32 * MIB) for number in range(2)]
    Race(12).run(attach1=attach_and_detach(images[0]), attach2=attach_and_detach(images[1]),
                 open1=open_and_write("/dev/qcow0"), open2=open_and_write("/dev/qcow1"),
                 list=list_devices)
    expect_equal(attached(), [], "devices left")
    for image in images:
        check(image)


def same_image():
    """Who attaches the same image at the same time: one wins, the others are told."""
    image = create(work("image"), MIB)

    def step():
        done = run("qcowctl", "attach", image, status=None)
        if done.returncode:
            expect_equal(done.returncode, EXIT_BUSY, f"status of attach, {done.stderr}")
            return False
        expect_equal(len(attached()), 1, "devices of one image")
        run("qcowctl", "detach", done.stdout.strip())
        return True

    Race(5).run(one=step, two=step, three=step)
    expect_equal(attached(), [], "devices left")
    check(image)


with case("held open"):
    held_open()
with case("detach under load"):
    detach_under_load()
with case("attach and detach race with open, write and list"):
    race()
with case("attach of the same image races with itself"):
    same_image()
finish()
