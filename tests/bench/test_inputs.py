"""What engines are fed."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from alexnet_edge.artifacts import sha256_json
from alexnet_edge.bench import BenchSettings, Scenario, bench
from alexnet_edge.bench.inputs import MOST_IMAGES, Inputs, depends_on_input, synthetic_input
from alexnet_edge.dataset import open_images
from alexnet_edge.errors import DatasetError, InputError
from alexnet_edge.manifest import manifest_path, read_manifest
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.loader import open_engine
from tests.bench.engines import Sleeper

QUICK = BenchSettings(warmup_s=0, duration_s=0.02, min_samples=7)


@pytest.fixture
def digits():
    return open_images("digits:val")


@pytest.fixture
def graph(tiny_onnx):
    with open_engine(tiny_onnx) as opened:
        yield opened


@pytest.mark.parametrize(
    ("spec", "batch", "shape", "dtype"),
    [
        (TensorSpec("x", "float32", (None, 3, 8, 8)), None, (1, 3, 8, 8), np.float32),
        (TensorSpec("x", "float32", (None, 3, 8, 8)), 5, (5, 3, 8, 8), np.float32),
        (TensorSpec("x", "uint8", (4, 8, 8, 3)), None, (4, 8, 8, 3), np.uint8),
    ],
)
def test_synthetic_input_is_of_the_networks_type_and_batch(spec, batch, shape, dtype):
    made = synthetic_input(spec, batch, seed=0)
    assert made.shape == shape
    assert made.dtype == dtype
    assert (made == synthetic_input(spec, batch, seed=0)).all()


def test_images_are_prepared_as_the_engine_says(graph, digits):
    inputs = Inputs(digits, seed=3)
    made = inputs.make(graph.info, 8)
    chosen = digits.sample(MOST_IMAGES, seed=3)
    spec = graph.info.preprocess
    expected = spec.to_input(
        [spec.crop_center(spec.resize_shorter(i.load())) for i in chosen.items]
    )
    assert np.concatenate(made).tobytes() == expected.tobytes()
    assert inputs.summary.images == MOST_IMAGES == len(chosen)
    assert inputs.summary.sha256 == sha256_json([item.sha256 for item in chosen.items])


@pytest.mark.parametrize("size", [1, 3, 32, 50])
def test_every_image_comes_up_whatever_the_batch(graph, digits, size):
    made = Inputs(digits, seed=0).make(graph.info, size)
    assert len(made) == math.ceil(MOST_IMAGES / size)
    assert {len(batch) for batch in made} == {size}
    assert len({image.tobytes() for batch in made for image in batch}) == MOST_IMAGES


def test_large_batches_are_held_within_bounds(graph):
    info = dataclasses.replace(graph.info, input=TensorSpec("x", "float32", (None, 3, 227, 227)))
    made = Inputs(None, seed=0).make(info, 64, of_random=8)
    assert len(made) == 1


def test_an_unreadable_image_is_left_out_and_named(graph, digits_folders, tmp_path):
    for path in sorted((digits_folders / "val/3").iterdir())[:5]:
        shutil.copy(path, tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    inputs = Inputs(open_images(tmp_path), seed=0)
    made = inputs.make(graph.info, 1)
    assert inputs.summary.skipped == ("broken.jpg",)
    assert inputs.summary.images == len(made) == 5


def test_images_of_which_none_can_be_read_are_refused(graph, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(DatasetError, match="could not be read") as caught:
        Inputs(open_images(tmp_path), seed=0).make(graph.info, 1)
    assert "--max-bad" not in caught.value.hint
    assert "more than" not in caught.value.message


def test_an_engine_that_says_nothing_of_images_is_refused(tmp_path, digits):
    with pytest.raises(InputError, match="does not say how images are prepared"):
        bench([Sleeper(tmp_path / "a.engine")], QUICK, inputs=Inputs(digits))


@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "offline", "server"])
def test_every_scenario_goes_through_the_images(graph, digits, monkeypatch, scenario):
    seen = []
    monkeypatch.setattr(
        graph, "_execute",
        lambda batch: (seen.extend(i.tobytes() for i in batch), np.zeros((len(batch), 10)))[1],
    )  # fmt: skip
    rate = 2000 if scenario == "server" else None
    settings = dataclasses.replace(
        QUICK, scenario=Scenario(scenario, rate, images_per_query=5), min_samples=40
    )
    (row,) = bench([graph], settings, inputs=Inputs(digits)).engines
    assert len(set(seen)) == MOST_IMAGES
    assert (row.input, row.input_images) == ("images", MOST_IMAGES)


def test_whether_latency_depends_on_the_input_is_the_manifests_word(tiny_int8, tmp_path):
    engine = Path(shutil.copy(tiny_int8, tmp_path))
    manifest = read_manifest(manifest_path(tiny_int8))
    manifest.save(manifest_path(engine))
    with open_engine(engine) as opened:
        assert not depends_on_input(opened.info)
    options = {**manifest.options, "zero_skipping": ["classifier.1"]}
    dataclasses.replace(manifest, options=options).save(manifest_path(engine))
    with open_engine(engine) as opened:
        assert depends_on_input(opened.info)
