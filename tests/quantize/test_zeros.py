"""Which layers are to skip zeros: shares as NumPy counts them, and what is worth it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize import zeros
from alexnet_edge.quantize.choose import Choice, choose, decide, read_evidence
from alexnet_edge.quantize.damage import settings_of
from alexnet_edge.quantize.layerwise import BLOCKS, Layerwise
from alexnet_edge.quantize.scales import CPU, Dialect
from alexnet_edge.quantize.table import Range, load_table
from alexnet_edge.quantize.zeros import (
    choose_zero_skipping,
    count_saved,
    find_hot,
    measure_frequencies,
)
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session
from tests.conftest import DIGITS_SPEC

IN_BLOCKS = Dialect("cpu", fc_block=64)
LINEAR = {"classifier.1": "flatten.out", "classifier.4": "classifier.2.out",
          "classifier.6": "classifier.5.out"}  # fmt: skip


@pytest.fixture(scope="module")
def network(tiny_onnx):
    return Layerwise(tiny_onnx, IN_BLOCKS)


@pytest.fixture(scope="module")
def images():
    reader = ImageReader(open_images("digits:train").sample(20), DIGITS_SPEC, batch_size=20)
    return next(iter(reader)).tensor


@pytest.fixture(scope="module")
def frequencies(tiny_onnx, images):
    """The share of the images in which NumPy finds each input of the linear layers not to be 0."""
    proto = onnx.load(tiny_onnx)
    proto.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in LINEAR.values())
    session = create_session(proto.SerializeToString(), RuntimeOptions())
    found = session.run(list(LINEAR.values()), {"input": images})
    return {name: np.mean(values != 0, axis=0) for name, values in zip(LINEAR, found, strict=True)}


@pytest.fixture
def table(tiny_table):
    return load_table(tiny_table)


@pytest.fixture
def any_is_worth_it(monkeypatch):
    monkeypatch.setattr(zeros, "GATHER_COST", 1.0)
    monkeypatch.setattr(zeros, "WORTH_BYTES", 1)


def test_frequencies_are_those_that_numpy_counts(network, images, frequencies):
    found = measure_frequencies(network, images, [network.layers.index(name) for name in LINEAR])
    assert found.keys() == frequencies.keys()
    for name, wanted in frequencies.items():
        # A value that is almost 0 may be it in one of two sessions.
        assert np.mean(np.abs(found[name] - wanted)) < 1e-3
    assert measure_frequencies(network, images, []) == {}


def test_small_layers_skip_nothing(network, table, images):
    assert choose_zero_skipping(network, table, images) == {}


@pytest.mark.parametrize("cost", [1.5, 3.0])
@pytest.mark.parametrize("margin", [-1, 1], ids=["too little", "enough"])
def test_what_is_saved_has_to_be_worth_it(
    network, table, images, frequencies, monkeypatch, margin, cost
):
    name = "classifier.1"
    weight = network.weight(network.layers.index(name))
    monkeypatch.setattr(zeros, "GATHER_COST", cost)
    often = frequencies[name]
    outputs = weight.size // len(often)
    hot = find_hot(often, IN_BLOCKS.fc_block)
    read = len(hot) + cost * np.delete(often, hot).sum()
    saved = (len(often) - read) * outputs
    assert saved == pytest.approx(outputs * count_saved(often, hot), rel=1e-4)
    monkeypatch.setattr(zeros, "WORTH_BYTES", saved - margin * 0.02 * weight.size)
    found = choose_zero_skipping(network, table, images)
    assert (name in found) == (margin > 0)


def test_hot_inputs_are_whole_blocks_of_the_most_frequent(monkeypatch):
    monkeypatch.setattr(zeros, "GATHER_COST", 2.0)
    often = np.array([0.1, 0.9, 0.4, 0.8, 0.0, 0.55, 0.45, 0.5], np.float32)
    assert list(find_hot(often, 1)) == [1, 3, 5]
    assert list(find_hot(often, 4)) == [1, 3, 5, 7]
    assert list(find_hot(often, 6)) == [1, 2, 3, 5, 6, 7]
    assert list(find_hot(often, 16)) == list(range(8))
    assert list(find_hot(often / 2, 4)) == []


def test_what_is_read_always_saves_nothing():
    often = np.full(8, 0.9, np.float32)
    assert count_saved(often, np.arange(8)) == 0
    assert count_saved(np.zeros(8, np.float32), np.arange(0)) == 8


@pytest.mark.usefixtures("any_is_worth_it")
def test_layers_that_have_no_blocks_are_not_asked(tiny_onnx, network, table, images):
    assert tuple(choose_zero_skipping(network, table, images)) == tuple(LINEAR)
    assert choose_zero_skipping(Layerwise(tiny_onnx, CPU), table, images) == {}


@pytest.mark.usefixtures("any_is_worth_it")
@pytest.mark.parametrize("part", ["tensors", "tensors_without_held_out"])
def test_an_input_whose_zero_is_no_integer_zero_is_not_skipped(network, table, images, part):
    ranges = {name: dict(methods) for name, methods in getattr(table, part).items()}
    ranges["flatten.out"]["mse"] = Range(2.0, low=-1.0, high=2.0)
    moved = dataclasses.replace(table, **{part: ranges})
    assert tuple(choose_zero_skipping(network, moved, images)) == tuple(LINEAR)[1:]


@pytest.mark.usefixtures("any_is_worth_it")
@pytest.mark.parametrize(("batch", "layers"), [(1, tuple(LINEAR)), (2, ())])
def test_a_graph_of_several_images_skips_none(tiny_checkpoint, table, images, tmp_path, batch,
                                              layers):  # fmt: skip
    path = tmp_path / "fixed.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(batch=batch), path)
    assert tuple(choose_zero_skipping(Layerwise(path, IN_BLOCKS), table, images[:4])) == layers


@pytest.mark.usefixtures("any_is_worth_it")
def test_a_choice_names_them_and_is_judged_with_them(tiny_onnx, tiny_table, table):
    evidence = read_evidence(table, None, tiny_table.parent)
    choice = choose(tiny_onnx, table, evidence, IN_BLOCKS)
    assert tuple(choice.zero_skipping) == tuple(LINEAR)
    assert not choice.fitted.keys() & LINEAR.keys(), "which are too large for that"
    stored = Choice.from_dict(choice.to_dict())
    assert stored.zero_skipping == choice.zero_skipping
    network = Layerwise(tiny_onnx, IN_BLOCKS)
    found = settings_of(network, table, choice, frozenset())
    assert BLOCKS not in {setting.weights for setting in found}
    assert all(setting.activation is not None for setting in found)
    plain = dataclasses.replace(choice, zero_skipping={})
    assert [s.weights for s in settings_of(network, table, plain, frozenset())][5:] == [BLOCKS] * 3


@pytest.mark.usefixtures("any_is_worth_it")
def test_without_evidence_none_skips(tiny_onnx, table):
    assert decide(tiny_onnx, table, IN_BLOCKS, "minmax").zero_skipping == {}


def test_a_choice_that_was_stored_before_reads_as_none():
    stored = Choice({"x": "minmax"}).to_dict()
    del stored["zero_skipping"]
    assert Choice.from_dict(stored).zero_skipping == {}


def test_hot_inputs_are_stored_with_a_choice():
    choice = Choice({"x": "minmax"}, zero_skipping={"classifier.1": (0, 7, 130)})
    stored = json.loads(json.dumps(choice.to_dict()))
    assert Choice.from_dict(stored).zero_skipping == choice.zero_skipping
    stored["zero_skipping"] = ["classifier.1"]
    with pytest.raises(ValueError, match="sequence"):
        Choice.from_dict(stored)
