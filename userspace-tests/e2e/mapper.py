# SPDX-License-Identifier: GPL-2.0-only
"""Device mapper: devices whose table changes under their users, and messages."""

import fcntl
import struct

from e2e import *

# struct dm_ioctl, and the ioctl number of DM_TARGET_MSG, of <linux/dm-ioctl.h>.
DM_HEADER = struct.Struct("=3I2I I i 2I I Q 128s 129s 7x")
DM_TARGET_MSG = 3 << 30 | DM_HEADER.size << 16 | 0xfd << 8 | 14
DM_CONTROL = "/dev/mapper/control"


class Mapped:
    """A device of the device mapper; its table is a list of (sectors, target)."""

    def __init__(self, name, table):
        self.name, self.path = name, f"/dev/mapper/{name}"
        run("dmsetup", "create", name, input=text_of(table))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def reload(self, table):
        """What is in flight goes by the old table or by the new one."""
        run("dmsetup", "load", self.name, input=text_of(table))
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)
        run("dmsetup", "resume", self.name)

    @contextlib.contextmanager
    def held(self):
        """What comes waits until the block ends."""
        run("dmsetup", "suspend", "--noflush", "--nolockfs", self.name)
        try:
            yield
        finally:
            run("dmsetup", "resume", self.name)

    def message(self, text):
        """As `dmsetup message`, which would be a process for each."""
        payload = struct.pack("=Q", 0) + text.encode() + b"\0"
        header = DM_HEADER.pack(4, 0, 0, DM_HEADER.size + len(payload), DM_HEADER.size,
                                0, 0, 0, 0, 0, 0, self.name.encode(), b"")
        control = os.open(DM_CONTROL, os.O_RDWR)
        try:
            fcntl.ioctl(control, DM_TARGET_MSG, bytearray(header + payload))
        finally:
            os.close(control)

    def remove(self):
        run("dmsetup", "remove", "--retry", self.name)


def text_of(table):
    lines, start = [], 0
    for sectors, target in table:
        lines.append(f"{start} {sectors} {target}\n")
        start += sectors
    return "".join(lines)
