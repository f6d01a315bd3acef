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


def count_misses(size, seconds, seed):
    """fio's numbers of one run, with the counts."""
    tables = size // CLUSTER * ENTRY
    image = create(place("mapped.qcow2"), size, cluster_size=CLUSTER,
                   preallocation="metadata")
    with loop(image) as disk, qcow2(disk, f"--cache-size={tables // 8}") as device:
        # Fill the cache, then measure.
        fio("misses", device, seconds, seed)
        before = counters(disk, device)
        result = fio("misses", device, seconds, seed + 1)
        after = counters(disk, device)
        used = attribute(device, "cache_used")
    check(image)
    os.unlink(image)
    counts = {name: after[name] - before[name] for name in after}
    return result | counts | {
        "table_bytes": tables, "cache_bytes": tables // 8, "cache_used": used,
        "metadata_reads": counts["file_reads"] - counts["requests"],
        "metadata_bytes": (counts["file_sectors"] * SECTOR - counts["requests"] * PAGE),
    }
