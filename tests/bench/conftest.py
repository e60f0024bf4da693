"""Engines that the tests of `bench` share."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_edge.engine.build import build_engine
from alexnet_edge.engine.settings import BuildSettings
from alexnet_edge.quantize.table import load_table


@pytest.fixture(scope="session")
def tiny_int8(tiny_onnx, tiny_table) -> Path:
    """`tiny_onnx` as an INT8 engine of ONNX Runtime."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    out = tiny_onnx.with_suffix(".int8.onnx")
    settings = BuildSettings(precision="int8", method="minmax")
    build_engine(tiny_onnx, out, settings, table=load_table(tiny_table))
    return out


@pytest.fixture(scope="session")
def tiny_fp32(tiny_onnx) -> Path:
    """`tiny_onnx` as an FP32 engine of ONNX Runtime."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    out = tiny_onnx.with_suffix(".fp32.onnx")
    build_engine(tiny_onnx, out, BuildSettings())
    return out
