"""The last-level cache as the kernel describes it, and what empties it."""

from __future__ import annotations

import os

import pytest

from alexnet_edge.bench.caches import CacheFlusher, read_last_level_cache

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def sysfs(tmp_path):
    """Write caches as (level, type, size, shared_cpu_list) of every core that is usable."""

    def write(*caches):
        for core in os.sched_getaffinity(0):
            for index, values in enumerate(caches):
                folder = tmp_path / f"cpu{core}/cache/index{index}"
                folder.mkdir(parents=True)
                for name, text in zip(
                    ("level", "type", "size", "shared_cpu_list"), values, strict=True
                ):
                    (folder / name).write_text(f"{text}\n")
        return tmp_path

    return write


def first_core():
    return min(os.sched_getaffinity(0))


def test_the_highest_level_counts_and_instructions_do_not(sysfs):
    core = first_core()
    found = read_last_level_cache(
        core,
        sysfs(
            (1, "Data", "32K", core), (3, "Unified", "36M", "0-4095"),
            (2, "Unified", "1024K", core), (4, "Instruction", "1G", "0-4095"),
        ),
    )  # fmt: skip
    assert found.size_bytes == 36 * MIB
    assert found.cores == len(os.sched_getaffinity(0))


def test_only_cores_that_may_be_used_share_it(sysfs):
    core = first_core()
    found = read_last_level_cache(core, sysfs((2, "Unified", "512K", f"{core},4000-4007")))
    assert (found.size_bytes, found.cores) == (512 * KIB, 1)


def test_a_kernel_that_tells_nothing_is_no_cache(tmp_path):
    assert read_last_level_cache(0, tmp_path) is None


def test_a_damaged_entry_is_passed_over(sysfs):
    core = first_core()
    root = sysfs((2, "Unified", "?", core), (1, "Data", "32K", core))
    assert read_last_level_cache(core, root).size_bytes == 32 * KIB


def test_twice_the_cache_is_walked_through_by_its_cores_together(sysfs):
    with CacheFlusher(sysfs((3, "Unified", "2M", "0-4095"))) as flush:
        assert flush.buffer_bytes == pytest.approx(4 * MIB, rel=0.01)
        before = [int(part.sum()) for part in flush._parts]
        flush()
        after = [int(part.sum()) for part in flush._parts]
        grown = [new - old for old, new in zip(before, after, strict=True)]
        assert grown == list(map(len, flush._parts)), "all of it is written"


def test_each_core_walks_for_itself(sysfs):
    with CacheFlusher(sysfs((3, "Unified", "1M", "0-4095"))) as flush:
        at = [pool.submit(os.sched_getaffinity, 0).result() for pool in flush._pools]
    assert at == [{core} for core in sorted(os.sched_getaffinity(0))]
