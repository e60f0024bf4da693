"""Calibration: true ranges, whatever the batches and threads, of real and of foreign graphs."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import pytest

from alexnet_edge.dataset import open_images
from alexnet_edge.errors import DatasetError, GraphError, InputError, StaleArtifactError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.graph import load_onnx, read_graph
from alexnet_edge.model import load_checkpoint
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.layers import prepare, weighted_layers
from alexnet_edge.quantize.qdq import insert_qdq, ir
from alexnet_edge.quantize.scales import TENSORRT
from alexnet_edge.quantize.table import load_table
from alexnet_edge.quantize.thresholds import METHODS
from tests.foreign import INPUT, SPEC, WEIGHTED, write_foreign

SPEC_OF_DIGITS = PreprocessSpec(227, 227)


@pytest.fixture(scope="module")
def images():
    return open_images("digits:val").sample(13)


@pytest.fixture(scope="module")
def reference(tiny_onnx, images):
    return calibrate(tiny_onnx, images, CalibrationSettings())


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return write_foreign(tmp_path_factory.mktemp("foreign") / "foreign.onnx")


def tensors_of_file(path, names, images):
    """Return tensors of a graph, by a session of our own."""
    model = onnx.load(path)
    describe = onnx.helper.make_tensor_value_info
    model.graph.output.extend(describe(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = SPEC_OF_DIGITS.to_input([SPEC_OF_DIGITS.from_rgb(i.source) for i in images.items])
    values = dict(zip(names, session.run(names, {"input": batch}), strict=True))
    return {"input": batch, **values}


def assert_same_table(found, expected):
    assert found.images == expected.images
    assert found.tensors.keys() == expected.tensors.keys()
    for name, methods in expected.tensors.items():
        for method, ranged in methods.items():
            assert dataclasses.astuple(found.tensors[name][method]) == pytest.approx(
                dataclasses.astuple(ranged), rel=1e-5
            ), (name, method)


def test_ranges_are_the_true_extremes(reference, tiny_onnx, images):
    names = [name for name in reference.tensors if name != "input"]
    values = tensors_of_file(tiny_onnx, names, images)
    for name, methods in reference.tensors.items():
        ranged = methods["minmax"]
        assert ranged.amax == pytest.approx(np.abs(values[name]).max(), rel=1e-5), name
        assert ranged.low == pytest.approx(values[name].min(), rel=1e-5), name
        assert ranged.high == pytest.approx(values[name].max(), rel=1e-5), name


def test_percentiles_are_those_of_all_values(reference, tiny_onnx, images):
    values = tensors_of_file(tiny_onnx, ["features.2.out", "classifier.2.out"], images)
    for name, array in values.items():
        found = reference.tensors[name]["percentile-99.9"].amax
        expected = np.percentile(np.abs(array), 99.9, method="inverted_cdf")
        assert found == pytest.approx(expected, abs=float(np.abs(array).max()) / 1000), name


def test_every_tensor_that_is_quantized_has_every_method(reference, tiny_onnx):
    layers = weighted_layers(prepare(load_onnx(tiny_onnx), tiny_onnx), tiny_onnx)
    assert {layer.activation.name for layer in layers} <= reference.tensors.keys()
    assert reference.methods == tuple(METHODS)


def test_ranges_lie_within_the_extremes(reference):
    for methods in reference.tensors.values():
        whole = methods["minmax"]
        for ranged in methods.values():
            assert 0 < ranged.amax <= whole.amax
            assert whole.low <= ranged.low <= ranged.high <= whole.high


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (5, 3), (13, 2)])
def test_the_table_does_not_depend_on_batches_or_threads(
    reference, tiny_onnx, images, batch_size, workers
):
    settings = CalibrationSettings(batch_size=batch_size, workers=workers)
    assert_same_table(calibrate(tiny_onnx, images, settings), reference)


def test_the_same_calibration_is_the_same_file(reference, tiny_onnx, images, tmp_path):
    reference.save(tmp_path / "a.json")
    calibrate(tiny_onnx, images, CalibrationSettings()).save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert load_table(tmp_path / "a.json").tensors == reference.tensors


def test_the_table_says_what_it_was_made_from(reference, tiny_onnx):
    graph = read_graph(tiny_onnx)
    assert reference.model_sha256 == graph.sha256
    assert reference.preprocess == graph.preprocess
    assert (reference.images["count"], reference.images["source"]) == (13, "digits:val")
    assert reference.images["skipped"] == []
    assert {"alexnet-edge", "onnxruntime"} <= reference.tool.keys()
    reference.require_match(graph, graph.preprocess)


def test_other_images_have_another_hash(reference, tiny_onnx, images):
    fewer = calibrate(tiny_onnx, images, CalibrationSettings(max_images=3))
    others = calibrate(tiny_onnx, open_images("digits:train"), CalibrationSettings(max_images=3))
    assert (fewer.images["count"], others.images["count"]) == (3, 3)
    assert len({table.images["sha256"] for table in (reference, fewer, others)}) == 3
    assert fewer.tensors != others.tensors


def test_a_folder_needs_no_labels_and_says_which_images_it_left_out(
    tiny_onnx, digits_folders, tmp_path
):
    for path in sorted((digits_folders / "val" / "3").iterdir()):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    count = len(list(tmp_path.iterdir())) - 1
    seen = []
    table = calibrate(
        tiny_onnx, open_images(tmp_path), CalibrationSettings(max_bad=0.2, batch_size=4),
        on_progress=seen.append,
    )  # fmt: skip
    assert table.images["count"] == count
    assert [skipped["name"] for skipped in table.images["skipped"]] == ["bad.png"]
    assert (seen[-1].done, seen[-1].seconds_left) == (count, 0)
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


def test_images_that_cannot_be_read_are_refused(tiny_onnx, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DatasetError, match=r"1 of 1 files"):
        calibrate(tiny_onnx, open_images(tmp_path), CalibrationSettings(max_bad=1.0))


@pytest.mark.parametrize("batch", [1, 4])
def test_a_fixed_batch_observes_each_image_once(
    reference, tiny_checkpoint, images, tmp_path, batch
):
    path = tmp_path / "fixed.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), SPEC_OF_DIGITS, ExportSettings(batch=batch), path)
    assert_same_table(calibrate(path, images, CalibrationSettings()), reference)


def test_frames_that_the_graph_normalizes_give_the_same_ranges(
    reference, tiny_checkpoint, images, tmp_path
):
    path, spec = tmp_path / "uint8.onnx", SPEC_OF_DIGITS.with_input("uint8")
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), path)
    table = calibrate(path, images, CalibrationSettings())
    names = {"preprocess.add.out": "input"}
    tensors = {names.get(name, name): methods for name, methods in table.tensors.items()}
    assert_same_table(dataclasses.replace(table, tensors=tensors), reference)


def test_a_foreign_graph_is_calibrated_with_the_preprocessing_that_is_given(foreign, images):
    table = calibrate(foreign, images, CalibrationSettings(max_images=5), preprocess=SPEC)
    assert table.preprocess == SPEC
    assert INPUT in table.tensors
    assert len(table.tensors) >= WEIGHTED
    table.require_match(read_graph(foreign), SPEC)
    with pytest.raises(StaleArtifactError, match=r"preprocess\.color"):
        table.require_match(read_graph(foreign), dataclasses.replace(SPEC, color="RGB"))


def test_a_foreign_graph_is_refused_without_preprocessing(foreign, images):
    with pytest.raises(GraphError, match="does not say how images are prepared") as caught:
        calibrate(foreign, images, CalibrationSettings())
    assert "--resize" in caught.value.hint


def test_a_foreign_graph_is_refused_with_another_crop(foreign, images):
    spec = dataclasses.replace(SPEC, crop=224)
    with pytest.raises(GraphError, match="the preprocessing gives 3×224×224 float32"):
        calibrate(foreign, images, CalibrationSettings(), preprocess=spec)


def test_preprocessing_that_contradicts_the_metadata_is_refused(tiny_onnx, images):
    spec = dataclasses.replace(SPEC_OF_DIGITS, resize=256, color="BGR")
    with pytest.raises(GraphError, match=r"preprocess\.resize 227 → 256") as caught:
        calibrate(tiny_onnx, images, CalibrationSettings(), preprocess=spec)
    assert "preprocess.color RGB → BGR" in caught.value.message


def test_a_quantized_graph_is_refused(tiny_onnx, tiny_table, images, tmp_path):
    model = prepare(load_onnx(tiny_onnx), tiny_onnx)
    insert_qdq(model, load_table(tiny_table).ranges("minmax"), TENSORRT, tiny_onnx)
    onnx.save(ir.to_proto(model), tmp_path / "int8.onnx")
    with pytest.raises(GraphError, match="quantized already"):
        calibrate(tmp_path / "int8.onnx", images, CalibrationSettings())


def test_a_graph_that_gives_nan_is_refused_naming_the_tensor(tiny_onnx, images, tmp_path):
    model = onnx.load(tiny_onnx)
    tensor = next(t for t in model.graph.initializer if t.name == "features.6.bias")
    array = np.full_like(onnx.numpy_helper.to_array(tensor), np.nan)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(GraphError, match=r"tensor 'features\.7\.out' holds NaN"):
        calibrate(tmp_path / "nan.onnx", images, CalibrationSettings())


@pytest.mark.parametrize("name", ["max_images", "batch_size", "workers"])
def test_impossible_settings_are_refused(name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        CalibrationSettings(**{name: 0})


@pytest.mark.parametrize(
    "values", [{"seed": -1}, {"max_bad": -0.1}, {"max_bad": float("nan")}, {"batch_size": 0}]
)
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(InputError):
        CalibrationSettings(**values)
