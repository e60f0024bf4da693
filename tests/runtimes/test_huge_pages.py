"""Huge pages: which memory is worth them, and that asking changes nothing but speed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.huge_pages import (
    Region,
    aligned,
    is_worth,
    read_regions,
    use_huge_pages,
)
from alexnet_edge.runtimes.loader import open_engine

SMAPS = """\
55d0e0000000-55d0e2600000 rw-p 00000000 00:00 0                          [heap]
Size:              38912 kB
Rss:               38912 kB
VmFlags: rd wr mr mw me ac
7f0000000000-7f0004000000 rw-p 00000000 00:00 0
Size:              65536 kB
Rss:                 132 kB
7f1000000000-7f1002000000 r--p 00000000 08:01 123                        /usr/lib/libx.so
Rss:               32768 kB
7f2000000000-7f2002000000 rw-s 00000000 00:05 99                         /dev/shm/x
Rss:               32768 kB
7ffd00000000-7ffd00800000 rw-p 00000000 00:00 0                          [stack]
Rss:                8192 kB
"""


def test_regions_are_read_with_what_they_use():
    regions = list(read_regions(SMAPS.splitlines()))
    assert [region.private for region in regions] == [True, True, False, False, False]
    assert regions[0] == Region(0x55D0E0000000, 0x55D0E2600000, True, 38912 << 10)
    assert [is_worth(region) for region in regions] == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0x200000, 0x600000, (0x200000, 0x600000)), (0x200001, 0x5FFFFF, (0x400000, 0x400000)),
     (0x1FF000, 0x601000, (0x200000, 0x600000))],
)  # fmt: skip
def test_only_whole_pages_are_asked_for(start, end, expected):
    assert aligned(Region(start, end, True)) == expected


def test_no_map_means_no_pages(tmp_path):
    assert use_huge_pages(tmp_path / "none") == 0


def test_memory_keeps_its_values():
    program = """
import numpy as np
from alexnet_edge.runtimes.huge_pages import use_huge_pages
values = np.arange(8 << 20, dtype=np.int64)
total = int(values.sum())
given = use_huge_pages()
assert int(values.sum()) == total and given >= 0
print(given)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if setting.exists() and "[never]" not in setting.read_text():
        assert int(done.stdout) % (2 << 20) == 0


def test_an_engine_says_how_much_it_has_and_answers_the_same(tiny_onnx):
    batch = np.random.default_rng(0).standard_normal((1, 3, 227, 227), np.float32)
    answers = []
    for huge in (False, True):
        with open_engine(tiny_onnx, RuntimeOptions(huge_pages=huge)) as engine:
            answers.append(engine.infer(batch))
            assert isinstance(engine.describe()["huge_page_bytes"], int)
            assert huge or engine.describe()["huge_page_bytes"] == 0
    np.testing.assert_array_equal(*answers)
