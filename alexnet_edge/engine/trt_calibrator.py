"""Implicit INT8: ranges served as a calibration cache, for a DLA, which takes no Q/DQ.

The builder asks the calibrator for a cache before it asks for images. What it gets here holds our
ranges under the first line of the version that asks, so it never calibrates by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

import onnx_ir as ir

from alexnet_edge.quantize.trt_cache import ALGORITHMS, CalibrationCache, parse_version

if TYPE_CHECKING:
    import tensorrt as trt

_KEEPS_RANGE = frozenset(
    ("Relu", "MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
)
"""Operators whose input and output one range serves: they choose, move or cut values at 0."""


def spread_ranges(model: ir.Model, amax: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Return a range for every tensor that one can be told for, and the names of the others.

    Implicit INT8 needs a range at both ends of a layer. A table has those of the layers' inputs;
    pooling and ReLU hand them on.

    Args:
        model: in normal form, FP32.
        amax: by tensor name.
    """
    known = dict(amax)
    nodes = [node for node in model.graph if node.op_type in _KEEPS_RANGE]
    for ordered in (reversed(nodes), nodes):
        for node in ordered:
            ends = [value.name or "" for value in (node.inputs[0], node.outputs[0]) if value]
            found = [known[name] for name in ends if name in known]
            for name in ends:
                if found:
                    known.setdefault(name, found[0])
    every = [
        *(v.name for v in model.graph.inputs),
        *(v.name for n in model.graph for v in n.outputs),
    ]
    names = [name or "" for name in every]
    return (
        {name: known[name] for name in names if name in known},
        [name for name in names if name not in known],
    )


def make_calibrator(vendor: ModuleType, amax: Mapping[str, float]) -> trt.IInt8EntropyCalibrator2:
    """Return the vendor's calibrator that serves ``amax`` and has no images.

    Args:
        vendor: a module that has `IInt8EntropyCalibrator2`.
        amax: tensor name to the largest magnitude that is represented.
    """
    version = parse_version(vendor.__version__)
    cache = CalibrationCache(version, ALGORITHMS[0], amax).to_text().encode()

    class Calibrator(vendor.IInt8EntropyCalibrator2):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            vendor.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            """Say that there are no images."""

        def read_calibration_cache(self) -> bytes:
            return cache

        def write_calibration_cache(self, written: bytes) -> None:
            """Keep nothing: the ranges are in the table."""

    calibrator: trt.IInt8EntropyCalibrator2 = Calibrator()
    return calibrator
