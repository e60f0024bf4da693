"""Weights fitted to what layers read: less noise of the answers at the same scales."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.choose import Choice
from alexnet_edge.quantize.damage import settings_of
from alexnet_edge.quantize.fitting import fit_weights
from alexnet_edge.quantize.layerwise import FITTED, FLOAT, LayerSetting, Layerwise
from alexnet_edge.quantize.scales import CPU, TENSORRT, Dialect, round_weight, weight_scales
from alexnet_edge.quantize.table import load_table
from alexnet_edge.similarity import centred_logits
from tests.foreign import SPEC, write_foreign

DIALECTS = [CPU, Dialect("cpu", weight_bits=7), TENSORRT]


def read(source, spec, count):
    images = open_images(source).sample(count)
    return next(iter(ImageReader(images, spec, batch_size=count))).tensor


def noise(network, batch, weights):
    begin = network.begin(batch)
    exact = centred_logits(network.finish(0, begin, [FLOAT] * len(network.layers)))
    setting = LayerSetting(weights=weights)
    found = centred_logits(network.finish(0, begin, [setting] * len(network.layers)))
    return float(((found - exact) ** 2).sum())


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.key)
@pytest.mark.parametrize("ranges", ["minmax", "mse"])
def test_fitted_weights_disturb_the_answers_to_other_images_less(tiny_onnx, dialect, ranges):
    network = Layerwise(tiny_onnx, dialect)
    spec = network.graph.preprocess
    fitted = fit_weights(network, read("digits:train", spec, 48), ranges)
    network.use_fitted(fitted, ranges)
    others = read("digits:val", spec, 48)
    assert noise(network, others, FITTED) < 0.5 * noise(network, others, ranges)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.key)
def test_they_are_integers_of_the_dialect_near_the_weights(tiny_onnx, dialect):
    network = Layerwise(tiny_onnx, dialect)
    images = read("digits:train", network.graph.preprocess, 16)
    fitted = fit_weights(network, images, "minmax")
    assert list(fitted) == network.layers
    for index, integers in enumerate(fitted.values()):
        weight, axis = network.weight(index), network.layer(index).axis
        nearest = round_weight(weight, weight_scales(weight, axis, dialect), axis, dialect)
        assert integers.dtype == np.int8
        assert integers.shape == weight.shape
        assert np.abs(integers.astype(int)).max() <= dialect.largest_weight
        assert (integers == nearest).mean() > 0.2, "most are moved by a step at most"
        assert not (integers == nearest).all()


def test_grouped_convolutions_and_matmuls_are_fitted_too(tmp_path, digits_folders):
    path = write_foreign(tmp_path / "foreign.onnx")
    images = open_images(digits_folders / "train")
    table = calibrate(path, images, CalibrationSettings(max_images=16), preprocess=SPEC)
    network = Layerwise(path, CPU)
    batch = next(iter(ImageReader(images.sample(32), SPEC, batch_size=32))).tensor
    choice = Choice(
        dict.fromkeys(table.tensors, "minmax"), fitted=fit_weights(network, batch, "minmax")
    )
    plain = Choice(choice.methods)
    begin = network.begin(batch)
    exact = centred_logits(network.finish(0, begin, [FLOAT] * len(network.layers)))

    def disturbed(by):
        settings = settings_of(network, table, by, frozenset())
        return float(((centred_logits(network.finish(0, begin, settings)) - exact) ** 2).sum())

    assert disturbed(choice) < disturbed(plain)


def test_each_layer_is_announced(tiny_onnx):
    network = Layerwise(tiny_onnx, CPU)
    said = []
    fit_weights(network, read("digits:train", network.graph.preprocess, 2), "minmax",
                on_layer=said.append)  # fmt: skip
    assert said == network.layers


@pytest.mark.parametrize("dialect", [CPU, TENSORRT], ids=lambda dialect: dialect.name)
def test_the_graph_holds_the_fitted_integers(tiny_onnx, tiny_table, tmp_path, dialect):
    """Built through the engine's own path, and read back from the file."""
    import onnx_ir as ir

    from alexnet_edge.graph import load_onnx
    from alexnet_edge.quantize.layers import prepare
    from alexnet_edge.quantize.qdq import QdqOptions, insert_qdq

    network = Layerwise(tiny_onnx, dialect)
    fitted = fit_weights(network, read("digits:train", network.graph.preprocess, 16), "minmax")
    model = prepare(load_onnx(tiny_onnx), tiny_onnx)
    ranges = load_table(tiny_table).ranges("minmax")
    insert_qdq(model, ranges, dialect, tiny_onnx, QdqOptions(fitted=fitted))
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for index, (name, integers) in enumerate(fitted.items()):
        if dialect is CPU:
            found = constants[f"{name}.weight.int8"]
        else:
            axis = network.layer(index).axis
            stored, scales = constants[f"{name}.weight.fitted"], constants[f"{name}.weight.scale"]
            found = round_weight(stored, scales, axis, dialect)
            assert network.layer(index).weight.name not in constants, "nothing is there twice"
        assert (found == integers).all()
