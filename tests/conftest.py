"""Data and small artifacts that all tests share; each is made once, by the package itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# A shell starts what runs in its background with Ctrl-C ignored, and so would be every command that
# these tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is loaded: its threads shall not spin for work on cores that others need.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import hypothesis
import pytest

from alexnet_edge.dataset import open_images
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.train import TrainSettings, train

# A deadline measures the machine's load rather than the code.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

DIGITS_SPEC = PreprocessSpec(resize=227, crop=227)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Real photos (`photos/`) and hand signs (`signs/{train,val}/{0..9}`)."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ALEXNET_EDGE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}; set ALEXNET_EDGE_DATA to have these tests")
    return folder


@pytest.fixture(scope="session")
def digits_folders(tmp_path_factory) -> Path:
    """Digits as PNG class folders: `train/0…9` with 200 images, `val/0…9` with 100 others."""
    root = tmp_path_factory.mktemp("digits")
    for part, count in (("train", 200), ("val", 100)):
        images = open_images(f"digits:{part}").sample(count)
        for item in images.items:
            folder = root / part / images.classes[item.label]
            folder.mkdir(parents=True, exist_ok=True)
            item.load().save(folder / f"{Path(item.name).name}.png")
    return root


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A narrow `alexnet` that tells digits apart: about 87 % of the validation images."""
    out = tmp_path_factory.mktemp("tiny") / "tiny.pt"
    settings = TrainSettings(width=0.125, epochs=2, batch_size=32, flip=False, bf16=False)
    result = train(
        open_images("digits:train"), open_images("digits:val"), DIGITS_SPEC, settings, out
    )
    assert result.best.validation > 0.7, "the fixture has to classify, or tests mean little"
    return out


@pytest.fixture(scope="session")
def tiny_onnx(tiny_checkpoint) -> Path:
    """`tiny_checkpoint` as FP32 ONNX: dynamic batch, float32 input, softmax."""
    out = tiny_checkpoint.with_suffix(".onnx")
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(), out)
    return out


@pytest.fixture(scope="session")
def tiny_table(tiny_onnx) -> Path:
    """`tiny_onnx` calibrated on 64 digits."""
    out = tiny_onnx.with_suffix(".table.json")
    images = open_images("digits:train")
    calibrate(tiny_onnx, images, CalibrationSettings(max_images=64)).save(out)
    return out
