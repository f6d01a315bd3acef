#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Make the fuzzer's first inputs from images that qemu-img and qemu-io make.

usage: corpus.py DIRECTORY

One input for each row of IMAGES, with some operations. What an input consists of
is described in recipe.h. Inputs that are there already are kept, so that a second
run costs nothing.
"""

import os
import random
import re
import struct
import subprocess
import sys
import tempfile

DATA, FILL, SIZE, OP, OPTIONS, FILE, FAULT = range(1, 8)
BACKING_QCOW2, BACKING_RAW, DATA_FILE = range(3)
K, M, G, T = 1 << 10, 1 << 20, 1 << 30, 1 << 40

# A record of data is at most this long, and fills are worth it from that length on.
MAX_DATA = 0xffff
MIN_FILL = 64


def run(*command):
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL)


def run_patiently(*command):
    """qemu-img measures how fast its key derivation is, and fails when the clock of its
    CPU time has not moved meanwhile: once in some tries."""
    for _ in range(50):
        try:
            return run(*command)
        except subprocess.CalledProcessError as error:
            last = error
    raise last


# ---------------------------------------------------------------------------
# Records.


def data_record(offset, data):
    return b"".join(struct.pack("<BQH", DATA, offset + i, len(data[i:i + MAX_DATA])) +
                    data[i:i + MAX_DATA] for i in range(0, len(data), MAX_DATA))


def fill_record(offset, length, word):
    return struct.pack("<BQI", FILL, offset, length) + word


def pieces(data, base):
    """Records for the parts of `data` that are not zero."""
    result, start, end, zero = b"", None, 0, bytes(8)
    position = 0
    while position < len(data):
        word = data[position:position + 8]
        run_end = position + 8
        while data[run_end:run_end + 8] == word and word == word[:1] * len(word):
            run_end += 8
        length = run_end - position
        if word == zero[:len(word)] or length >= MIN_FILL:
            if start is not None and (word != zero[:len(word)] or length >= 24):
                result += data_record(base + start, data[start:end])
                start = None
            if word != zero[:len(word)]:
                result += fill_record(base + position, min(length, len(data) - position), word)
        else:
            start = position if start is None else start
            end = min(run_end, len(data))
        position = run_end
    if start is not None:
        result += data_record(base + start, data[start:end])
    return result


def image_records(path, most=None):
    """A file, hole by hole; pieces that are longer than `most` are left out."""
    result = b""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            if not most or position - start <= most:
                result += pieces(os.pread(file.fileno(), position - start, start), start)
    return result + struct.pack("<BQ", SIZE, size)


def operation_records(rng, virtual_size, cluster):
    result = b""
    for _ in range(rng.randrange(3, 10)):
        what = rng.choice((0, 1, 1, 1, 2, 3, 4))
        places = max(1, virtual_size // cluster)
        offset = rng.randrange(min(places, rng.choice((4, 32, 1 << 40)))) * cluster
        offset += rng.choice((0, 0, 512 * rng.randrange(max(1, cluster // 512))))
        sectors = rng.choice((1, 8, cluster // 512, 3 * cluster // 512))
        result += struct.pack("<BBBQI", OP, what, rng.randrange(8), offset, sectors)
    return result


# ---------------------------------------------------------------------------
# Images.


def rows():
    """Name and what to make: options of qemu-img create, and more (see make_image)."""
    result = {}
    for bits in (9, 12, 14, 16, 21):
        for compat in ("0.10", "1.1"):
            result[f"plain-{bits}-{compat}"] = dict(cluster_size=1 << bits, compat=compat)
        result[f"metadata-{bits}"] = dict(cluster_size=1 << bits, preallocation="metadata")
        result[f"snapshot-{bits}"] = dict(cluster_size=1 << bits, snapshots=2)
        result[f"compressed-{bits}"] = dict(cluster_size=1 << bits, compressed=True)
        result[f"zstd-{bits}"] = dict(cluster_size=1 << bits, compressed=True,
                                      compression_type="zstd")
    for width in (1, 2, 4, 8, 32, 64):
        result[f"refcounts-{width}"] = dict(cluster_size=512, refcount_bits=width)
        result[f"refcounts-{width}-4k"] = dict(cluster_size=4 * K, refcount_bits=width,
                                               preallocation="metadata")
    for bits in (14, 16, 17):
        result[f"subclusters-{bits}"] = dict(cluster_size=1 << bits, extended_l2="on")
        result[f"subclusters-metadata-{bits}"] = dict(cluster_size=1 << bits,
                                                      extended_l2="on",
                                                      preallocation="metadata")
        result[f"subclusters-snapshot-{bits}"] = dict(cluster_size=1 << bits,
                                                      extended_l2="on", snapshots=1)
        result[f"subclusters-compressed-{bits}"] = dict(cluster_size=1 << bits,
                                                        extended_l2="on", compressed=True)
    result["lazy"] = dict(cluster_size=4 * K, lazy_refcounts="on")
    result["lazy-dirty"] = dict(cluster_size=4 * K, lazy_refcounts="on", incompatible=1)
    result["dirty"] = dict(cluster_size=512, incompatible=1)
    result["corrupt"] = dict(cluster_size=4 * K, incompatible=2)
    result["unknown-feature"] = dict(incompatible=1 << 40)
    result["empty"] = dict(size=0)
    result["one-sector"] = dict(size=512, cluster_size=512)
    result["odd-size"] = dict(size=M + 512, cluster_size=64 * K)
    result["odd-bytes"] = dict(size=M + 17)
    result["64-tib"] = dict(size=64 * T, cluster_size=2 * M)
    result["1-tib-small"] = dict(size=T, cluster_size=64 * K)
    result["l1-of-some-clusters"] = dict(size=64 * M, cluster_size=512)
    result["falloc"] = dict(preallocation="falloc", cluster_size=4 * K)
    result["bitmap"] = dict(bitmap=True, cluster_size=4 * K)
    result["bitmap-64k"] = dict(bitmap=True)
    result["luks"] = dict(luks=True, cluster_size=512)
    result["backing-qcow2"] = dict(backing="qcow2", cluster_size=4 * K)
    result["backing-raw"] = dict(backing="raw", cluster_size=512)
    result["backing-subclusters"] = dict(backing="qcow2", cluster_size=16 * K,
                                         extended_l2="on")
    result["backing-v2"] = dict(backing="raw", cluster_size=4 * K, compat="0.10")
    result["data-file"] = dict(external=True, cluster_size=4 * K)
    result["data-file-raw"] = dict(external=True, cluster_size=64 * K, data_file_raw="on")
    return result


def qemu_io(path, *commands):
    run("qemu-io", "-f", "qcow2", *(word for c in commands for word in ("-c", c)), path)


def fill(path, rng, size, cluster, compressed):
    """Some data, zero clusters with and without a place, and discarded ones."""
    if size < 4 * cluster:
        if size >= 512:
            qemu_io(path, "write -q -P 9 0 512")
        return
    clusters = min(size // cluster, 48)
    low = clusters // 2 if compressed else clusters - 2
    def place():
        return rng.randrange(max(1, low)) * cluster
    commands = [f"write -q -P {rng.randrange(1, 256)} {place()} {rng.choice((512, cluster))}"
                for _ in range(6)]
    commands += [f"write -q -z {place()} {cluster}", f"write -q -z -u {place()} {cluster}",
                 f"discard -q {place()} {cluster}"]
    if compressed:
        where = range(clusters // 2 + 1, clusters - 1)[:6]
        commands += [f"write -q -c -P {rng.randrange(1, 256)} {i * cluster} {cluster}"
                     for i in where]
        commands += [f"discard -q {i * cluster} {cluster}" for i in where[:1]]
    qemu_io(path, *commands)


def make_image(directory, rng, size=M, snapshots=0, compressed=False, incompatible=0,
               bitmap=False, luks=False, backing=None, external=False, **options):
    """The files of an image, the image first, as (kind, path)."""
    path = os.path.join(directory, "image")
    cluster = options.get("cluster_size", 64 * K)
    files, base = [(None, path)], []
    extra = []
    if size == M and cluster != 64 * K:
        size = 8 * M if cluster == 2 * M else 256 * K if cluster < 64 * K else M
    if external:
        options["data_file"] = os.path.join(directory, "data")
        files.append((DATA_FILE, options["data_file"]))
    if backing:
        lower = os.path.join(directory, "base")
        run("qemu-img", "create", "-q", "-f", backing, lower, size // 2)
        run("qemu-io", "-f", backing, "-c", f"write -q -P 7 4096 {cluster}", lower)
        base = ["-b", lower, "-F", backing]
        files.append((BACKING_QCOW2 if backing == "qcow2" else BACKING_RAW, lower))
    if luks:
        secret = ["--object", "secret,id=s,data=abc"]
        options.update({"encrypt.format": "luks", "encrypt.key-secret": "s",
                        "encrypt.iter-time": 10})
        extra = secret
    words = ",".join(f"{name}={value}" for name, value in options.items())
    create = run_patiently if luks else run
    create("qemu-img", "create", "-q", *extra, "-f", "qcow2",
           *(["-o", words] if words else []), *base, path, size)
    if not luks and size <= G:
        fill(path, rng, size, cluster, compressed)
        for number in range(snapshots):
            run("qemu-img", "snapshot", "-c", f"snapshot {number}", path)
            fill(path, rng, size, cluster, False)
    if bitmap:
        run("qemu-img", "bitmap", "--add", path, "b")
        run("qemu-img", "bitmap", "--add", "-g", "65536", path, "other")
        fill(path, rng, size, cluster, False)
    if incompatible:
        with open(path, "r+b") as file:
            file.seek(72)
            old, = struct.unpack(">Q", file.read(8))
            file.seek(72)
            file.write(struct.pack(">Q", old | incompatible))
    return files


def make_input(name, row):
    rng = random.Random(name)
    with tempfile.TemporaryDirectory() as directory:
        files = make_image(directory, rng, **row)
        # The keys are noise, and nothing reads them.
        records = image_records(files[0][1], 16 * K if row.get("luks") else None)
        with open(files[0][1], "rb") as file:
            header = file.read(32)
        size, = struct.unpack(">Q", header[24:32])
        cluster = 1 << struct.unpack(">I", header[20:24])[0]
        for kind, path in files[1:]:
            records += struct.pack("<BB", FILE, kind) + image_records(path)
    records += operation_records(rng, size, cluster)
    options = rng.choice((0, 0, 0, 2, 4, 8, 16, 16, 32, 64))
    return (b"QFZ1" + struct.pack("<I", rng.getrandbits(32)) + records +
            struct.pack("<BH", OPTIONS, options))


def main():
    directory = sys.argv[1]
    os.makedirs(directory, exist_ok=True)
    for name, row in rows().items():
        path = os.path.join(directory, re.sub(r"[^\w.-]", "-", name))
        if os.path.exists(path):
            continue
        data = make_input(name, row)
        with open(path + ".new", "wb") as file:
            file.write(data)
        os.rename(path + ".new", path)


if __name__ == "__main__":
    main()
