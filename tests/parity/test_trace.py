"""Faults put in at one stage are found at that stage, and in that layer."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from PIL import Image, ImageOps

from alexnet_edge import dataset
from alexnet_edge.artifacts import sha256_file
from alexnet_edge.dataset import open_images
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.errors import DatasetError, StaleArtifactError, TableError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.graph import load_onnx
from alexnet_edge.manifest import manifest_path, read_manifest
from alexnet_edge.model import load_checkpoint
from alexnet_edge.parity import TraceSettings, trace_stages
from alexnet_edge.parity import trace as tracing
from alexnet_edge.parity.layers import LayerSqnr
from alexnet_edge.parity.qdq import rebuild_qdq
from alexnet_edge.parity.stages import Stage, find_divergence, first_worse
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.qdq import insert_qdq
from alexnet_edge.quantize.scales import TENSORRT
from alexnet_edge.quantize.table import Range, load_table
from alexnet_edge.results import to_json
from alexnet_edge.runtimes.loader import availability, open_engine
from tests import foreign
from tests.conftest import DIGITS_SPEC

LAYERS = [
    "features.0", "features.3", "features.6", "features.8", "features.10",
    "classifier.1", "classifier.4", "classifier.6",
]  # fmt: skip
STAGES = ["bytes", "decode", "preprocessing", "PyTorch", "FP32 ONNX", "Q/DQ graph", "engine"]


def follow(engine, reference, images, *, table=None, checkpoint=None, count=8):
    """Trace, with the checkpoint opened where one is given."""
    with open_engine(engine) as ours, open_engine(reference) as theirs:
        if checkpoint is None:
            return trace_stages(
                ours, theirs, open_images(images), TraceSettings(count, table=table)
            )
        with open_engine(checkpoint) as origin:
            settings = TraceSettings(count, table=table, checkpoint=origin)
            return trace_stages(ours, theirs, open_images(images), settings)


def stage(found, name):
    return next(stage for stage in found.divergence.stages if stage.name == name)


def change_engine(source, out, change):
    """Copy an engine with its initializers changed, and a manifest that vouches for it."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        array = change(tensor.name, onnx.numpy_helper.to_array(tensor))
        if array is not None:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    onnx.save(model, out)
    if manifest_path(source).exists():
        manifest = read_manifest(manifest_path(source))
        dataclasses.replace(manifest, engine_sha256=sha256_file(out)).save(manifest_path(out))
    return out


def disturb(name):
    """Return a change that adds noise to the weights of one layer."""

    def change(tensor, array):
        if not tensor.startswith(f"{name}.weight") or array.ndim < 2:
            return None
        rng = np.random.default_rng(0)
        spread = array.astype(np.float64).std()
        noisy = array + rng.normal(0, spread, array.shape)
        low, high = (-63, 63) if array.dtype == np.int8 else (-np.inf, np.inf)
        return np.clip(noisy, low, high).astype(array.dtype)

    return change


@pytest.fixture(scope="module")
def uint8_onnx(tiny_checkpoint, tmp_path_factory):
    """`tiny_checkpoint` as a graph that takes raw frames."""
    out = tmp_path_factory.mktemp("uint8") / "frames.onnx"
    spec = DIGITS_SPEC.with_input("uint8")
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), out)
    return out


def test_a_sound_chain_is_within_tolerance_at_every_stage(
    int8_engine, tiny_onnx, tiny_table, tiny_checkpoint, val
):
    found = follow(int8_engine, tiny_onnx, val, table=tiny_table, checkpoint=tiny_checkpoint)
    assert [stage.name for stage in found.divergence.stages] == STAGES
    within = {stage.name: stage.within for stage in found.divergence.stages}
    assert within == {**dict.fromkeys(STAGES, True), "PyTorch": None}
    assert (found.divergence.first, found.divergence.layer) == (None, None)
    assert found.divergence.images == 8
    compared = {stage.name: stage.compared_with for stage in found.divergence.stages}
    assert compared["FP32 ONNX"] == "PyTorch"
    assert compared["Q/DQ graph"] == "FP32 ONNX"
    assert compared["engine"] == "Q/DQ graph"
    quantized, integer = stage(found, "Q/DQ graph"), stage(found, "engine")
    assert 20 < quantized.sqnr_db < integer.sqnr_db, "kernels add less noise than quantization"
    assert all(
        stage.tolerance and stage.reason for stage in found.divergence.stages if stage.within
    )


def test_each_layer_is_measured_against_fp32(int8_engine, tiny_onnx, tiny_table, val):
    found = follow(int8_engine, tiny_onnx, val, table=tiny_table)
    assert [layer.name for layer in found.layers] == LAYERS
    assert all(20 < layer.sqnr_db < 60 for layer in found.layers)
    assert found.layers[0].sqnr_db > found.layers[4].sqnr_db, "noise adds up"
    assert found.layers_note == "engine against FP32 ONNX"
    value = to_json(found.layers)
    assert value[0] == {"name": "features.0", "sqnr_db": found.layers[0].sqnr_db}


def test_the_last_layers_sqnr_is_that_of_the_answers(int8_engine, tiny_onnx, val):
    found = follow(int8_engine, tiny_onnx, val)
    files = sorted(val.glob("*/*.png"))
    names = {item.name for item in open_images(val).sample(8).items}
    crops = [DIGITS_SPEC.decode(f) for f in files if f"{f.parent.name}/{f.name}" in names]
    batch = DIGITS_SPEC.to_input(crops)
    with open_engine(int8_engine) as ours, open_engine(tiny_onnx) as theirs:
        answers = [np.log(runtime.infer_any(batch).astype(float)) for runtime in (theirs, ours)]
    wanted, got = (values - values.mean(1, keepdims=True) for values in answers)
    of_answers = 10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum())
    assert stage(found, "engine").sqnr_db == pytest.approx(of_answers, abs=0.01)
    assert found.layers[-1].sqnr_db == pytest.approx(of_answers, abs=2.0)


@pytest.mark.parametrize("layer", ["features.0", "features.6", "classifier.6"])
def test_disturbed_weights_of_an_engine_are_found_in_their_layer(
    int8_engine, tiny_onnx, tiny_table, val, tmp_path, layer
):
    engine = change_engine(int8_engine, tmp_path / "engine.onnx", disturb(layer))
    found = follow(engine, tiny_onnx, val, table=tiny_table).divergence
    assert (found.first, found.layer) == ("engine", layer)
    assert layer in found.hint
    assert ("colour channels" in found.hint) == (layer == "features.0")
    if layer == "features.6":
        without_table = follow(engine, tiny_onnx, val).divergence
        assert (without_table.first, without_table.layer) == ("engine", layer)


@pytest.mark.parametrize(
    ("scale", "layer"), [("features.7.out.scale", "features.6"), ("input.scale", "features.0")]
)
def test_a_wrong_scale_of_an_engine_is_found_in_its_layer(
    int8_engine, tiny_onnx, tiny_table, val, tmp_path, scale, layer
):
    engine = change_engine(
        int8_engine, tmp_path / "engine.onnx",
        lambda name, array: np.asarray(array * np.float32(0.2)) if name == scale else None,
    )  # fmt: skip
    found = follow(engine, tiny_onnx, val, table=tiny_table).divergence
    assert (found.first, found.layer) == ("engine", layer)


def test_swapped_channels_in_an_engine_are_found_in_the_first_layer(
    int8_engine, tiny_onnx, tiny_table, data_dir, tmp_path
):
    def swap(name, array):
        first = name.startswith("features.0.weight") and array.ndim == 4
        return np.ascontiguousarray(array[:, ::-1]) if first else None

    engine = change_engine(int8_engine, tmp_path / "engine.onnx", swap)
    photos = data_dir / "signs" / "val"
    found = follow(engine, tiny_onnx, photos, table=tiny_table).divergence
    assert (found.first, found.layer) == ("engine", "features.0")
    assert "colour channels" in found.hint


def test_clipping_ranges_are_found_in_the_qdq_graph(tiny_onnx, tiny_table, val, tmp_path):
    table = load_table(tiny_table)
    ranges = {
        name: {
            method: Range(r.amax / 30, r.low / 30, r.high / 30) if name == "features.9.out" else r
            for method, r in by_method.items()
        }
        for name, by_method in table.tensors.items()
    }
    spoiled = tmp_path / "spoiled.table.json"
    dataclasses.replace(table, tensors=ranges).save(spoiled)
    engine = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", method="minmax", weight_bits=7)
    build_engine(tiny_onnx, engine, settings, table=load_table(spoiled))
    found = follow(engine, tiny_onnx, val, table=spoiled).divergence
    assert (found.first, found.layer) == ("Q/DQ graph", "features.8")
    assert stage(follow(engine, tiny_onnx, val, table=spoiled), "engine").within is True
    assert "calibrate" in found.hint


def test_a_graph_of_other_weights_is_found_against_pytorch(
    tiny_onnx, tiny_checkpoint, val, tmp_path
):
    other = change_engine(tiny_onnx, tmp_path / "other.onnx", disturb("features.3"))
    engine = tmp_path / "fp32.onnx"
    build_engine(other, engine, BuildSettings())
    found = follow(engine, other, val, checkpoint=tiny_checkpoint)
    assert found.divergence.first == "FP32 ONNX"
    assert "export" in found.divergence.hint
    assert stage(found, "engine").within is True
    assert follow(engine, other, val).divergence.first is None, "then the graph is taken as right"


def test_another_preprocessing_is_found_though_a_comparison_refuses_it(
    tiny_checkpoint, tiny_onnx, val, tmp_path
):
    other = tmp_path / "bgr.onnx"
    spec = dataclasses.replace(DIGITS_SPEC, color="BGR")
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), other)
    engine = tmp_path / "bgr.fp32.onnx"
    build_engine(other, engine, BuildSettings())
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        pixels = np.zeros((240, 240, 3), np.uint8) + rng.integers(0, 256, 3, np.uint8)
        Image.fromarray(pixels).save(photos / f"{index}.png")
    found = follow(engine, tiny_onnx, photos)
    assert found.divergence.first == "preprocessing"
    assert "preprocess.color: RGB and BGR" in stage(found, "preprocessing").reason


def test_another_crop_is_found(tiny_onnx, val, int8_engine, tmp_path):
    engine = tmp_path / "engine.onnx"
    shutil.copy(int8_engine, engine)
    manifest = read_manifest(manifest_path(int8_engine))
    spec = dataclasses.replace(DIGITS_SPEC, resize=300)
    dataclasses.replace(manifest, preprocess=spec).save(manifest_path(engine))
    found = follow(engine, tiny_onnx, val)
    assert found.divergence.first == "preprocessing"
    assert "preprocess.resize: 227 and 300" in stage(found, "preprocessing").reason


def test_normalization_in_the_graph_is_compared_with_the_float_tensor(
    uint8_onnx, tiny_onnx, val, tmp_path
):
    images = open_images("digits:train")
    table = calibrate(uint8_onnx, images, CalibrationSettings(max_images=32))
    engines = {}
    for precision in ("fp32", "int8"):
        engine = engines[precision] = tmp_path / f"{precision}.onnx"
        settings = BuildSettings(precision, method="minmax", weight_bits=7)
        build_engine(uint8_onnx, engine, settings, table=table)
        sound = follow(engine, tiny_onnx, val)
        assert stage(sound, "preprocessing").within is True
        assert sound.divergence.first is None
    swapped = change_engine(
        engines["fp32"], tmp_path / "swapped.onnx",
        lambda name, array: np.ascontiguousarray(array[:, ::-1]) if "preprocess.s" in name
        else None,
    )  # fmt: skip
    found = follow(swapped, tiny_onnx, val)
    assert found.divergence.first == "preprocessing"
    assert "normalizes in the graph" in stage(found, "preprocessing").compared_with
    # INT8 normalizes in its first layer, which is then the one that is wrong.
    swapped = change_engine(
        engines["int8"], tmp_path / "swapped.onnx",
        lambda name, array: -array if name.startswith("features.0.w") and array.ndim == 4 else None,
    )  # fmt: skip
    found = follow(swapped, tiny_onnx, val)
    assert found.divergence.first == "engine"
    assert stage(found, "engine").layer == "features.0"


def test_a_decoder_that_differs_is_found(int8_engine, tiny_onnx, val, monkeypatch):
    load = dataset.load_rgb
    monkeypatch.setattr(dataset, "load_rgb", lambda source: ImageOps.mirror(load(source)))
    found = follow(int8_engine, tiny_onnx, val)
    assert found.divergence.first == "decode"
    assert "Pillow" in found.divergence.hint


def test_files_that_change_meanwhile_are_found(int8_engine, tiny_onnx, val, tmp_path, monkeypatch):
    folder = tmp_path / "images"
    shutil.copytree(val, folder)
    read = tracing._read_bytes

    def read_and_change(item):
        data = read(item)
        item.source.write_bytes(data + b"more")
        return data

    monkeypatch.setattr(tracing, "_read_bytes", read_and_change)
    found = follow(int8_engine, tiny_onnx, folder)
    assert found.divergence.first == "bytes"
    assert stage(found, "bytes").max_abs == 8


def test_hashes_tell_machines_apart(int8_engine, tiny_onnx, val, tmp_path):
    """The same images give the same hashes; one pixel in one of them does not."""
    copy = tmp_path / "val"
    shutil.copytree(val, copy)
    first, again = (follow(int8_engine, tiny_onnx, folder).divergence for folder in (val, copy))
    assert [s.sha256 for s in first.stages] == [s.sha256 for s in again.stages]
    assert [s.sha256 is not None for s in first.stages] == [True] * 3 + [False] * 4
    victim = copy / next(iter(open_images(copy).sample(8).items)).name
    image = Image.open(victim).convert("RGB")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(victim)
    other = follow(int8_engine, tiny_onnx, copy).divergence
    assert all(
        a.sha256 != b.sha256 for a, b in zip(first.stages[:3], other.stages[:3], strict=True)
    )


@pytest.mark.parametrize("case", ["no table", "another table", "fp32 engine", "checkpoint"])
def test_what_cannot_be_traced_says_why(
    int8_engine, tiny_onnx, tiny_table, tiny_checkpoint, val, tmp_path, case
):
    engine, reference, table = int8_engine, tiny_onnx, tiny_table
    if case == "no table":
        table, reason = None, "--table"
    elif case == "another table":
        raw = json.loads(tiny_table.read_text())
        raw["tool"]["numpy"] = "0"
        table = tmp_path / "other.table.json"
        table.write_text(json.dumps(raw))
        reason = "table_sha256"
    elif case == "fp32 engine":
        engine, reason = tmp_path / "fp32.onnx", "the engine is FP32"
        build_engine(tiny_onnx, engine, BuildSettings())
    else:
        reference, reason = tiny_checkpoint, "the reference is a checkpoint"
    found = follow(engine, reference, val, table=table)
    left_out = stage(found, "Q/DQ graph")
    assert left_out.within is left_out.compared_with is left_out.max_abs is None
    assert left_out.reason.startswith("not traced: ")
    assert reason in left_out.reason
    assert stage(found, "engine").within is True
    if case == "checkpoint":
        assert stage(found, "engine").compared_with == "PyTorch"
        assert found.layers is None
        assert "FP32 ONNX graph" in found.layers_note


def test_an_engine_as_reference_is_a_stage_of_its_own(int8_engine, tiny_onnx, val, tmp_path):
    reference = tmp_path / "fp32.onnx"
    build_engine(tiny_onnx, reference, BuildSettings())
    found = follow(int8_engine, reference, val)
    names = [stage.name for stage in found.divergence.stages]
    assert names == [*STAGES[:5], "reference", *STAGES[5:]]
    assert stage(found, "engine").compared_with == "reference"
    assert found.layers is None


@pytest.mark.parametrize(
    ("method", "spared"),
    [("auto", ()), ("entropy", ()), ("mse", ("features.0", "classifier.6"))],
)
def test_the_qdq_graph_is_made_again_as_it_was_built(tiny_onnx, tiny_table, val, method, spared,
                                                     tmp_path):  # fmt: skip
    engine = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", method=method, spared=spared, weight_bits=7)
    build_engine(tiny_onnx, engine, settings, table=load_table(tiny_table))
    found = follow(engine, tiny_onnx, val, table=tiny_table)
    assert found.divergence.first is None
    sqnr_db = stage(found, "engine").sqnr_db
    assert sqnr_db is None or sqnr_db > 40, "nothing is left but rounding"
    assert all(layer.sqnr_db > 15 for layer in found.layers)


def test_the_qdq_graph_of_tensorrt_is_made_again(tiny_onnx, tiny_table, tmp_path):
    if not availability("tensorrt-rtx").builds:
        pytest.skip("tensorrt-rtx is not installed")
    import onnx_ir as ir

    engine = tmp_path / "engine"
    table = load_table(tiny_table)
    build_engine(
        tiny_onnx, engine, BuildSettings("int8", "tensorrt-rtx", method="minmax"), table=table
    )
    manifest = read_manifest(manifest_path(engine))
    found = rebuild_qdq(manifest, tiny_onnx, tiny_table)
    expected = prepare(load_onnx(tiny_onnx), tiny_onnx)
    insert_qdq(expected, table.ranges("minmax"), TENSORRT, tiny_onnx)
    proto = ir.to_proto(expected)
    assert [node.SerializeToString() for node in found.graph.node] == [
        node.SerializeToString() for node in proto.graph.node
    ]
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in found.graph.initializer}
    for tensor in proto.graph.initializer:
        assert np.array_equal(arrays[tensor.name], onnx.numpy_helper.to_array(tensor))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cache"}, "calibration cache"),
        ({"quantization": "calibration cache", "methods": {}}, "calibration cache"),
        ({"methods": None}, "how the table was used"),
    ],
)
def test_a_qdq_graph_that_cannot_be_made_again_says_why(
    int8_engine, tiny_onnx, tiny_table, options, message
):
    manifest = read_manifest(manifest_path(int8_engine))
    changed = {**manifest.options, **options}
    changed = {key: value for key, value in changed.items() if value is not None}
    manifest = dataclasses.replace(manifest, options=changed)
    with pytest.raises(TableError, match=message):
        rebuild_qdq(manifest, tiny_onnx, tiny_table)


def test_another_choice_than_the_engine_was_built_with_is_refused(
    int8_engine, tiny_onnx, tiny_table
):
    manifest = read_manifest(manifest_path(int8_engine))
    methods = dict.fromkeys(manifest.options["methods"], "percentile-99.9")
    options = {**manifest.options, "bias_correction": True, "methods": methods}
    with pytest.raises(StaleArtifactError, match="used otherwise") as refused:
        rebuild_qdq(dataclasses.replace(manifest, options=options), tiny_onnx, tiny_table)
    assert "methods" in refused.value.differences


def test_weights_rounded_to_images_need_these_images(tiny_onnx, digits_folders, val, tmp_path):
    images = tmp_path / "train"
    shutil.copytree(digits_folders / "train", images)
    table, engine = tmp_path / "table.json", tmp_path / "engine.onnx"
    calibrate(tiny_onnx, open_images(images), CalibrationSettings(max_images=32)).save(table)
    settings = BuildSettings("int8", method="minmax", weight_bits=7)
    build_engine(tiny_onnx, engine, settings, table=load_table(table))
    manifest = read_manifest(manifest_path(engine))
    fitted = {**manifest.options, "rounding": "gptq"}
    dataclasses.replace(manifest, options=fitted).save(manifest_path(engine))
    assert stage(follow(engine, tiny_onnx, val, table=table), "Q/DQ graph").within is True
    shutil.rmtree(images)
    left_out = stage(follow(engine, tiny_onnx, val, table=table), "Q/DQ graph")
    assert left_out.within is None
    assert "not where they were" in left_out.reason


def test_a_graph_of_another_tool_is_traced(digits_folders, tmp_path):
    """Nodes without names, a fixed batch of 1, opset 9."""
    path = foreign.write_foreign(tmp_path / "zoo.onnx")
    images = open_images(digits_folders / "train")
    table = calibrate(path, images, CalibrationSettings(max_images=32), preprocess=foreign.SPEC)
    table.save(tmp_path / "table.json")
    engine = tmp_path / "engine.onnx"
    settings = BuildSettings("int8", method="minmax", weight_bits=7)
    build_engine(path, engine, settings, table=load_table(tmp_path / "table.json"))
    found = follow(engine, path, digits_folders / "val", table=tmp_path / "table.json", count=3)
    assert len(found.layers) == foreign.WEIGHTED
    assert stage(found, "Q/DQ graph").within is not None
    assert stage(found, "engine").within is True


def test_images_that_cannot_be_decoded_are_passed_over(int8_engine, tiny_onnx, tmp_path, val):
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="no image to trace can be decoded"):
        follow(int8_engine, tiny_onnx, tmp_path)
    shutil.copy(next(val.glob("3/*.png")), tmp_path / "c.png")
    assert follow(int8_engine, tiny_onnx, tmp_path).divergence.images == 1


def test_the_first_stage_beyond_is_named_even_if_later_ones_are_within():
    stages = [Stage("decode", within=True), Stage("FP32 ONNX", within=False),
              Stage("engine", within=False, layer="x")]  # fmt: skip
    found = find_divergence(stages, 1, ["x"])
    assert (found.first, found.layer) == ("FP32 ONNX", None)


def test_the_layer_that_differs_is_the_first_below_or_the_steepest_fall():
    layers = [LayerSqnr("a", 60.0), LayerSqnr("b", 28.0), LayerSqnr("c", 26.0)]
    assert first_worse(layers, 30.0) == "b"
    assert first_worse([LayerSqnr("z", None), *layers], 20.0) == "a"
    assert first_worse([LayerSqnr("z", 140.0), LayerSqnr("a", 130.0), *layers[1:]], 20.0) == "b"
    assert first_worse([], 20.0) is None
