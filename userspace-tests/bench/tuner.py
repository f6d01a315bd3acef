#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Measure what tuning.py lists, in a guest (see scripts/bench --tuning)."""

import tuning
from misses import ENTRY, PAGE, attribute, mapped_image
from runner import *


def fill_cache(target):
    """Read a block of what each page of L2 entries maps."""
    mapped_by_page = PAGE // ENTRY * CLUSTER
    run("fio", "--name=fill", f"--filename={target}", f"--rw=read:{mapped_by_page - PAGE}",
        f"--bs={PAGE}", f"--number_ios={sectors(target) * SECTOR // mapped_by_page}",
        "--direct=1", "--ioengine=io_uring", "--iodepth=32")


def read_all(target):
    run("dd", f"if={target}", "of=/dev/null", "bs=1M", "iflag=direct")


class Tuner(Runner):
    """results: topic -> load -> variant -> runs."""

    def prepare(self, names):
        states = {load.state for topic in tuning.TOPICS if topic.name in names
                  for load in topic.loads}
        # What dm-thin and dm-snapshot have is not needed.
        self.stage.make_raw()
        if states & {"full", "overlay"}:
            self.stage.make_full()
        if "mapped" in states:
            mapped_image(self.mapped_size)
        drop_caches()

    def image(self, load, variant):
        if load.state == "mapped":
            return mapped_image(self.mapped_size)
        return self.stage.image(load.state, **(variant.create | load.create))

    def measure_variant(self, topic, load, variant, seed):
        """One run; its numbers are kept and returned."""
        self.stage.clean_up()
        image = self.image(load, variant)
        before = os.stat(image).st_blocks
        with Device(image, *variant.attach) as device:
            self.warm_up(load, device.path)
            loaded = attribute(device.path, "slices_loaded")
            result = fio(load.job, device.path, self.seconds, seed,
                         BENCH_DEPTH=str(variant.depth))
            result["table_reads"] = attribute(device.path, "slices_loaded") - loaded
        check(image)
        result["round"] = seed
        if load.state in ("empty", "overlay"):
            result["file_bytes"] = (os.stat(image).st_blocks - before) * SECTOR
        self.results.setdefault(topic.name, {}).setdefault(load.title, {}).setdefault(
            variant.title, []).append(result)
        return result

    def warm_up(self, load, target):
        if load.warm:
            read_all(target)
        elif load.state == "mapped":
            fill_cache(target)

    def runs_in_round(self, names):
        return sum(len(runs) for topic in tuning.TOPICS if topic.name in names
                   for runs in tuning.runs_of(topic))

    def round(self, names, number):
        for topic in tuning.TOPICS:
            for runs in tuning.runs_of(topic) if topic.name in names else []:
                for load, variant in shuffled(runs, f"{topic.name} {number}"):
                    self.run_of_round(
                        number + 1, f"{topic.name}, {load.title}, {variant.title}",
                        lambda: self.measure_variant(topic, load, variant, number + 1))

    def results_found(self):
        return {"topics": self.results}


if __name__ == "__main__":
    sys.exit(main(Tuner))
