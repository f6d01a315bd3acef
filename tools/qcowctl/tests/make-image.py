#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Make the first cluster of a qcow2 image, as good or as bad as the test wants it.

usage: make-image.py IMAGE [KEY=VALUE…]

  backing=NAME, format=NAME    the backing file and what its format is called
  data=NAME                    an external data file
  ext=TYPE:LENGTH:TEXT         a header extension; the length need not be true
  magic=, version=, cluster_bits=, incompatible=, header_length=,
  backing_offset=, backing_size=    fields of the header, instead of the right values
  file_size=N                  cut the file off there
"""

import struct
import sys

BACKING_FORMAT, DATA_FILE = 0xe2792aca, 0x44415441


def extension(kind, text, length=None):
    text = text.encode("utf-8", "surrogateescape")
    return (struct.pack(">II", kind, len(text) if length is None else length) +
            text + bytes(-len(text) % 8))


def all_extensions(pairs):
    for key, value in pairs:
        if key == "format":
            yield extension(BACKING_FORMAT, value)
        elif key == "data":
            yield extension(DATA_FILE, value)
        elif key == "ext":
            kind, length, text = value.split(":", 2)
            yield extension(int(kind, 0), text, int(length, 0))


def main():
    path, *words = sys.argv[1:]
    pairs = [word.split("=", 1) for word in words]
    fields = dict(pairs)

    def number(key, default):
        return int(fields.get(key, str(default)), 0)

    version = number("version", 3)
    length = number("header_length", 104)
    begin = 72 if version == 2 else 104
    extensions = b"".join(all_extensions(pairs)) + bytes(8)
    backing = fields.get("backing", "").encode("utf-8", "surrogateescape")
    offset = number("backing_offset", begin + len(extensions) if backing else 0)
    incompatible = number("incompatible", 4 if "data" in fields else 0)
    cluster = 1 << min(number("cluster_bits", 16), 21)

    head = struct.pack(">IIQIIQIIQQIIQ", number("magic", 0x514649fb), version, offset,
                       number("backing_size", len(backing)), number("cluster_bits", 16),
                       1 << 20, 0, 0, 0, 0, 0, 0, 0)
    if version != 2:
        head += struct.pack(">QQQII", incompatible, 0, 0, 4, length)
    data = bytearray(head + extensions)
    if backing and offset < cluster:
        data[offset:] = bytes(max(0, offset - len(data))) + backing
    data += bytes(max(0, cluster - len(data)))
    with open(path, "wb") as file:
        file.write(data[:number("file_size", len(data))])


main()
