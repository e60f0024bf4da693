"""Graphs that engines are built from, besides the shared ones."""

from __future__ import annotations

import pytest

from alexnet_edge.dataset import open_images
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.table import load_table
from tests import foreign
from tests.conftest import DIGITS_SPEC


@pytest.fixture
def table(tiny_table):
    """The table of `tiny_onnx`."""
    return load_table(tiny_table)


@pytest.fixture(scope="session")
def uint8_onnx(tiny_checkpoint):
    """`tiny_checkpoint` with the normalization in its graph."""
    out = tiny_checkpoint.with_name("uint8.onnx")
    spec = DIGITS_SPEC.with_input("uint8")
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), out)
    return out


@pytest.fixture(scope="session")
def uint8_table(uint8_onnx):
    """The table of `uint8_onnx`."""
    return calibrate_digits(uint8_onnx)


@pytest.fixture(scope="session")
def foreign_onnx(tmp_path_factory):
    """Another tool's graph: grouped convolutions, LRN, Dropout, batch 1, opset 9, no metadata."""
    return foreign.write_foreign(tmp_path_factory.mktemp("foreign") / "foreign.onnx")


@pytest.fixture(scope="session")
def foreign_table(foreign_onnx):
    """The table of `foreign_onnx`."""
    return calibrate_digits(foreign_onnx, preprocess=foreign.SPEC)


def calibrate_digits(model, **options):
    """Calibrate ``model`` on 8 digits, beside it."""
    out = model.with_suffix(".table.json")
    images = open_images("digits:train")
    calibrate(model, images, CalibrationSettings(max_images=8), **options).save(out)
    return load_table(out)
