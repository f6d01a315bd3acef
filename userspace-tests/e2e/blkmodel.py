# SPDX-License-Identifier: GPL-2.0-only
"""Runs blkmodel.c on an image."""

from e2e import *

JOBS = 8
# Jobs' parts end inside of clusters.
SIZE = 12 * MIB + 3 * SECTOR


class Model:
    """The program, with a number of operations for each of its jobs."""

    def __init__(self, operations, timeout=150):
        """timeout: seconds for a run, many times that in make check-long."""
        self.operations = operations
        self.timeout = timeout * 20 if LONG else timeout
        # Compiled by scripts/check-e2e: in a guest with KASAN it takes minutes.
        self.program = os.path.join(TOP, "build", "e2e", "blkmodel")

    def run(self, seed, *options, directory=WORK, size=SIZE, **create_options):
        self.use(create(os.path.join(directory, "image"), size, **create_options),
                 seed, *options)

    def use(self, image, seed, *options, holds=None):
        """holds: file with what the disk holds, by sectors of one 32-bit number each."""
        given = [] if holds is None else [holds]
        with Device(image, *options) as device:
            if holds:
                expect_equal(digest(device.path), digest(holds), "what it holds at first")
            run(self.program, device.path, seed, self.operations, JOBS, *given,
                timeout=self.timeout)
            found = digest(device.path)
        check(image)
        expect_equal(digest(to_raw(image, work("raw"))), found, "what QEMU reads")
