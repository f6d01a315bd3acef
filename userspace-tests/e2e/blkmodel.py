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
        image = create(os.path.join(directory, "image"), size, **create_options)
        with Device(image, *options) as device:
            run(self.program, device.path, seed, self.operations, JOBS,
                timeout=self.timeout)
            found = digest(device.path)
        check(image)
        expect_equal(digest(to_raw(image, work("raw"))), found, "what QEMU reads")
