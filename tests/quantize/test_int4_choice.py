"""How 4-bit weights are rounded: each way, by what it does to the answers of a real network."""

from __future__ import annotations

import numpy as np
import pytest

from alexnet_edge.dataset import open_images
from alexnet_edge.errors import BuildError
from alexnet_edge.quantize.gptq import round_nearest
from alexnet_edge.quantize.int4 import Int4Settings, scale_search
from alexnet_edge.quantize.int4_choice import Int4Images, choose_int4
from alexnet_edge.quantize.layerwise import FLOAT, Layerwise
from alexnet_edge.quantize.scales import CPU, TENSORRT
from alexnet_edge.quantize.table import load_table
from tests.conftest import DIGITS_SPEC
from tests.foreign import SPEC, write_foreign

FCS = ("classifier.1", "classifier.4", "classifier.6")


@pytest.fixture(scope="module")
def images() -> Int4Images:
    return Int4Images.of_set(open_images("digits:train").sample(128), DIGITS_SPEC)


@pytest.fixture(scope="module")
def network(tiny_onnx) -> Layerwise:
    return Layerwise(tiny_onnx, CPU)


def choose(network, images, layers=FCS, others=None, **options):
    others = others or [FLOAT] * len(network.layers)
    return choose_int4(network, others, layers, Int4Settings(**options), images)


def test_images_are_divided_as_a_calibration_divides_them(images, tiny_table):
    assert len(images.held_out) == 32
    assert len(images.fit) == 96
    names = [{item.name for item in part.items} for part in (images.held_out, images.fit)]
    assert not names[0] & names[1]
    table = load_table(tiny_table)
    found = Int4Images.of_table(table, None, tiny_table.parent)
    assert [item.name for item in found.held_out.items] == table.images["held_out"]
    assert len(found.fit) == table.images["count"] - len(found.held_out)


def test_one_image_is_its_own_judge(network):
    images = Int4Images.of_set(open_images("digits:train").sample(1), DIGITS_SPEC)
    assert (len(images.held_out), len(images.fit)) == (1, 1)
    assert choose(network, images).images == 1


@pytest.mark.parametrize("rounding", ["nearest", "mse"])
def test_ways_without_images_round_each_weight_by_itself(network, rounding):
    found = choose(network, None, rounding=rounding, block=64)
    assert (found.rounding, found.images, found.trials) == (rounding, 0, ())
    assert list(found.weights) == list(FCS)
    grid = Int4Settings(64).grid("classifier.1")
    search, weight = scale_search(rounding, grid, signed=True), network.weight(5)
    expected = round_nearest(weight, grid, search)
    assert np.array_equal(found.weights["classifier.1"].integers, expected.integers)


@pytest.mark.parametrize("rounding", ["gptq", "auto"])
def test_other_ways_need_images(network, rounding):
    with pytest.raises(BuildError, match="needs images") as refused:
        choose(network, None, rounding=rounding)
    assert "--int4-rounding nearest" in refused.value.hint


def test_the_way_with_the_least_noise_on_held_out_images_is_kept(network, images):
    found = choose(network, images)
    by_way = {trial.candidate: trial for trial in found.trials}
    assert list(by_way) == ["nearest", "mse", "gptq"]
    assert by_way["gptq"].logit_sqnr_db > by_way["nearest"].logit_sqnr_db + 2
    assert found.rounding == "gptq"
    assert [trial.kept for trial in found.trials] == [False, False, True]
    assert (found.images, found.fit_images) == (32, 96)
    alone = choose(network, images, rounding="gptq")
    for name in FCS:
        assert np.array_equal(alone.weights[name].integers, found.weights[name].integers)


def test_layers_are_rounded_on_what_the_quantized_network_gives_them(network, images, tiny_table):
    """INT8 convolutions shift what the first linear layer reads, and so its rounding."""
    ranges = load_table(tiny_table).ranges("percentile-99.9")
    others = network.settings(ranges, spared=frozenset(FCS))
    quantized = choose(network, images, others=others, rounding="gptq")
    floating = choose(network, images, rounding="gptq")
    names = ("classifier.1", "classifier.6")
    changed = [
        (quantized.weights[name].integers != floating.weights[name].integers).mean()
        for name in names
    ]
    assert min(changed) > 0.001


def test_layers_that_are_not_named_stay_as_they_are(network, images):
    found = choose(network, images, layers=("classifier.4",))
    assert list(found.weights) == ["classifier.4"]
    assert found.trials[0].logit_sqnr_db > choose(network, images).trials[0].logit_sqnr_db


def test_scales_are_positive_for_tensorrt(tiny_onnx, network, images):
    positive = choose(Layerwise(tiny_onnx, TENSORRT), images, rounding="gptq")
    assert all((rounded.scales > 0).all() for rounded in positive.weights.values())
    signed = choose(network, images, rounding="gptq")
    assert any((rounded.scales < 0).any() for rounded in signed.weights.values())


def test_a_graph_of_a_fixed_batch_is_rounded_too(tmp_path):
    path = write_foreign(tmp_path / "zoo.onnx")
    network = Layerwise(path, CPU)
    images = Int4Images.of_set(open_images("digits:train").sample(9), SPEC)
    found = choose(network, images, layers=tuple(network.layers[5:]))
    assert len(found.weights) == 3
    assert found.fit_images + found.images == 9


def test_progress_names_the_way_and_the_layer(network, images):
    told = []
    choose_int4(
        network, [FLOAT] * 8, FCS, Int4Settings(), images,
        on_progress=lambda what, done, total: told.append((what, done, total)),
    )  # fmt: skip
    assert told[0] == ("4-bit nearest: classifier.1", 0, 9)
    assert told[-1] == ("4-bit gptq: classifier.6", 8, 9)
