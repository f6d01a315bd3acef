# SPDX-License-Identifier: GPL-2.0-only
"""Random reads with a cache that has room for an eighth of the L2 tables: what each
miss costs, counted where the image lies.

The image is on a loop device, whose counters show every read that the driver makes:
one for the data of each request, and those of metadata. The clusters' data is a hole
in the file, which costs the loop device a read all the same.
"""

from measure import *

PAGE = mmap.PAGESIZE
ENTRY = 8
DELAY_MS = 100


def reads(device):
    """Read requests that a block device has done, and their sectors."""
    with open(f"/sys/block/{os.path.basename(device)}/stat", encoding="ascii") as file:
        words = file.read().split()
    return int(words[0]), int(words[2])


def attribute(device, name):
    with open(f"/sys/block/{os.path.basename(device)}/qcow2/{name}", encoding="ascii") as file:
        return int(file.read())


def counters(disk, device):
    done, count = reads(disk)
    return {"requests": reads(device)[0], "misses": attribute(device, "slices_loaded"),
            "file_reads": done, "file_sectors": count}


def count(image, cache, seconds, seed):
    """fio's numbers of one run, with the counts."""
    with loop(image) as disk, qcow2(disk, f"--cache-size={cache}") as device:
        # Fill the cache, then measure.
        fio("misses", device, seconds, seed)
        before = counters(disk, device)
        result = fio("misses", device, seconds, seed + 1000)
        after = counters(disk, device)
        used = attribute(device, "cache_used")
    counts = {name: after[name] - before[name] for name in after}
    return result | counts | {
        "cache_bytes": cache, "cache_used": used,
        "metadata_reads": counts["file_reads"] - counts["requests"],
        "metadata_bytes": counts["file_sectors"] * SECTOR - counts["requests"] * PAGE,
    }


def wait(image, cache, seconds, seed):
    """How long a request that hits takes beside others that miss, on a disk that takes
    DELAY_MS for each read. To wait for a miss would cost it as much again."""
    with loop(image) as disk:
        table = f"0 {sectors(disk)} delay {disk} 0 {DELAY_MS}"
        with mapped("bench-delay", table) as slow, qcow2(slow, f"--cache-size={cache}") as device:
            hot, cold = fio_jobs("waiting", device, max(seconds, 10 * DELAY_MS / 1000), seed)
    return {f"{name}_us": numbers(entry)["latency_p50_us"]
            for name, entry in (("hot", hot), ("cold", cold))} | {"delay_us": DELAY_MS * 1000}


def mapped_image(size):
    """All clusters are mapped. It is only read, so it serves all runs."""
    image = place("mapped.qcow2")
    if not os.path.exists(image):
        create(image, size, cluster_size=CLUSTER, preallocation="metadata")
    return image


def count_misses(size, seconds, seed):
    """All numbers of one round."""
    tables = size // CLUSTER * ENTRY
    image = mapped_image(size)
    result = count(image, tables // 8, seconds, seed) | wait(image, tables // 8, seconds, seed)
    return result | {"table_bytes": tables}
