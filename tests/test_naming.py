"""Names of files that are called the same."""

from __future__ import annotations

import pytest

from alexnet_edge.naming import short_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.onnx", "a/y.onnx"], ["x.onnx", "y.onnx"]),
        (["old/x.onnx", "new/x.onnx"], ["old/x.onnx", "new/x.onnx"]),
        (["runs/1/a/x", "runs/2/a/x", "y"], ["1/a/x", "2/a/x", "y"]),
        (["x", "a/x"], ["x", "a/x"]),
        (["/x", "a/x"], ["/x", "a/x"]),
        ([r"C:\old\x.onnx", "new/x.onnx"], ["old/x.onnx", "new/x.onnx"]),
        (["a/x", "a/x"], ["x", "x"]),
        ([""], [""]),
    ],
)
def test_a_name_is_as_much_of_the_path_as_tells_it_apart(paths, names):
    assert [short_names(paths)[path] for path in paths] == names
