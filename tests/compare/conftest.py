"""What the tests of comparisons share."""

from __future__ import annotations

import pytest

from alexnet_edge.compare import compare_files
from tests.results_files import samples


@pytest.fixture
def compare(tmp_path):
    """Compare two JSON values."""

    def compare_values(first, second, bounds=None, **options):
        paths = [samples.write(tmp_path / f"{name}.json", value)
                 for name, value in (("a", first), ("b", second))]  # fmt: skip
        return compare_files(*paths, bounds, **options)

    return compare_values
