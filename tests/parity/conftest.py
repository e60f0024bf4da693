"""An INT8 engine of the tiny network, and images to judge it on."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.quantize.table import load_table


@pytest.fixture(scope="session")
def int8_engine(tiny_onnx, tiny_table, tmp_path_factory) -> Path:
    """`tiny_onnx` in INT8."""
    out = tmp_path_factory.mktemp("parity") / "int8.onnx"
    settings = BuildSettings("int8", weight_bits=7)
    build_engine(tiny_onnx, out, settings, table=load_table(tiny_table))
    return out


@pytest.fixture(scope="session")
def val(digits_folders) -> Path:
    """100 digits in class folders."""
    return digits_folders / "val"
