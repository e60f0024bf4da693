"""Pruning to 2:4: the pattern, the layers it is done in, and what it is said to cost."""

from __future__ import annotations

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import onnx_ir as ir
import pytest

from alexnet_edge.dataset import Batch, ImageItem
from alexnet_edge.errors import DatasetError
from alexnet_edge.export import ExportSettings, build_graph
from alexnet_edge.graph import describe_model, load_onnx
from alexnet_edge.model import Architecture, Checkpoint, build_module
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.layers import prepare, weighted_layers
from alexnet_edge.quantize.sparsity import (
    PrunedLayer,
    PruningLoss,
    keep_largest,
    measure_loss,
    prune_weights,
)
from tests import foreign


def export(folder, arch, *, logits=True, batch=None):
    """Write a narrow network with random weights."""
    import torch

    torch.manual_seed(0)
    architecture = Architecture(arch, classes=10, width=0.125)
    checkpoint = Checkpoint(architecture, build_module(architecture).state_dict())
    spec = PreprocessSpec(crop=architecture.input_size)
    path = folder / f"{arch}.onnx"
    ir.save(build_graph(checkpoint, spec, ExportSettings(logits=logits, batch=batch)), path)
    return path


@pytest.fixture(scope="module", params=["alexnet", "torchvision", "caffe"])
def pruned(request, tmp_path_factory):
    """A network's weights by layer, before and after; and what was told."""
    path = export(tmp_path_factory.mktemp("sparse"), request.param)
    prepared = prepare(load_onnx(path), path)
    before = {
        layer.name: layer.weight.const_value.numpy() for layer in weighted_layers(prepared, path)
    }
    told = prune_weights(prepared, path)
    after = {
        layer.name: layer.weight.const_value.numpy() for layer in weighted_layers(prepared, path)
    }
    return before, after, told


def groups_of_input_channels(weight):
    """Every four neighbouring input channels, for each output channel and place of the kernel."""
    return np.moveaxis(weight, 1, -1).reshape(-1, 4)


def test_no_four_input_channels_keep_more_than_two(pruned):
    before, after, told = pruned
    sparse = [layer.name for layer in told if not layer.dense]
    assert sparse
    for name in sparse:
        assert (np.count_nonzero(groups_of_input_channels(after[name]), axis=1) <= 2).all()
        kept = after[name] != 0
        assert (after[name][kept] == before[name][kept]).all()


def test_the_error_told_is_the_error_made(pruned):
    before, after, told = pruned
    assert [layer.name for layer in told] == list(before)
    for layer in told:
        cut = np.linalg.norm(before[layer.name] - after[layer.name])
        assert layer.relative_error == pytest.approx(cut / np.linalg.norm(before[layer.name]))
        assert (layer.relative_error == 0) == bool(layer.dense)


def test_layers_that_no_sparse_kernel_takes_stay_as_they_were(pruned):
    before, after, told = pruned
    for layer in told:
        if layer.dense:
            assert (after[layer.name] == before[layer.name]).all()
    reasons = {layer.name: layer.dense for layer in told if layer.dense}
    assert reasons["features.0"] == "3 input channels are no multiple of 4"
    assert set(reasons) - {"features.0"} == {
        name for name in reasons if reasons[name] == "grouped convolution"
    }


def test_grouped_convolutions_of_another_tool_stay_dense(tmp_path):
    path = foreign.write_foreign(tmp_path / "foreign.onnx")
    told = prune_weights(prepare(load_onnx(path), path), path)
    assert [layer.dense for layer in told].count("grouped convolution") == 3
    assert [bool(layer.dense) for layer in told[-3:]] == [False] * 3


WEIGHTS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.sampled_from([4, 8, 12]), st.integers(1, 3)),
    elements=st.floats(-8, 8, width=32),
)


@hypothesis.given(WEIGHTS)
def test_what_is_kept_has_the_least_error_of_all_patterns(weight):
    kept = keep_largest(weight, 1)
    assert kept.shape == weight.shape
    assert ((kept == weight) | (kept == 0)).all()
    cut = groups_of_input_channels(weight - kept)
    magnitudes = np.sort(np.abs(groups_of_input_channels(weight)), axis=1)
    assert (np.sort(np.abs(cut), axis=1)[:, 2:] == magnitudes[:, :2]).all()


@hypothesis.given(WEIGHTS)
def test_pruning_again_changes_nothing(weight):
    once = keep_largest(weight, 1)
    assert (keep_largest(once, 1) == once).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_can_be_that_of_input_channels(axis):
    weight = np.random.default_rng(0).standard_normal((4, 4, 4)).astype(np.float32)
    kept = keep_largest(weight, axis)
    assert (np.count_nonzero(kept, axis=axis) == 2).all()


def test_a_layer_of_zeros_has_no_error(tmp_path):
    path = export(tmp_path, "alexnet")
    prepared = prepare(load_onnx(path), path)
    value = prepared.graph.initializers["classifier.4.weight"]
    value.const_value = ir.tensor(np.zeros(value.shape.numpy(), np.float32))
    told = {layer.name: layer for layer in prune_weights(prepared, path)}
    assert told["classifier.4"] == PrunedLayer("classifier.4", 0.0)


def batches(size, count, sizes=(4, 3)):
    rng = np.random.default_rng(0)
    for number in sizes[:count]:
        items = tuple(
            ImageItem(str(index), np.zeros((1, 1, 3), np.uint8)) for index in range(number)
        )
        yield Batch(items, rng.standard_normal((number, 3, size, size)).astype(np.float32))


@pytest.mark.parametrize(("logits", "batch"), [(True, None), (False, None), (True, 4)])
def test_loss_is_measured_on_the_answers(tmp_path, logits, batch):
    path = export(tmp_path, "alexnet", logits=logits, batch=batch)
    model = load_onnx(path)
    prepared = prepare(model, path)
    prune_weights(prepared, path)
    graph = describe_model(model, path)
    done = []
    loss = measure_loss(
        graph, model, ir.to_proto(prepared), batches(227, 2), on_progress=done.append
    )
    assert loss.images == 7
    assert done == [4, 7]
    assert 0 <= loss.agreement <= 1
    assert 0 < loss.logit_sqnr_db < 40
    same = measure_loss(graph, model, model, batches(227, 2))
    assert same == PruningLoss(7, 1.0, None)


def test_loss_without_images_is_an_error(tmp_path):
    path = export(tmp_path, "alexnet")
    model = load_onnx(path)
    with pytest.raises(DatasetError, match="no image"):
        measure_loss(describe_model(model, path), model, model, [])
