"""Damage: shared layers change no figure, and the layer that is broken is the one to spare."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.errors import DatasetError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.choose import Choice
from alexnet_edge.quantize.damage import choose_spared, measure, settings_of
from alexnet_edge.quantize.layerwise import FLOAT, Layerwise
from alexnet_edge.quantize.scales import CPU, TENSORRT
from alexnet_edge.quantize.table import Range, load_table
from alexnet_edge.similarity import centred_logits, mean_kl, sqnr_db
from tests.conftest import DIGITS_SPEC

BATCH = 16


@pytest.fixture(scope="module")
def table(tiny_table):
    return load_table(tiny_table)


@pytest.fixture(scope="module")
def choice(table):
    return Choice(dict.fromkeys(table.tensors, "minmax"))


@pytest.fixture(scope="module")
def network(tiny_onnx):
    return Layerwise(tiny_onnx, TENSORRT)


@pytest.fixture(scope="module")
def images():
    return open_images("digits:val").sample(40)


def read(network, images):
    return list(ImageReader(images, network.graph.preprocess, batch_size=BATCH))


@pytest.fixture(scope="module")
def batches(network, images):
    return read(network, images)


def broken(table, *tensors, factor=300):
    """Return the table with ranges of some tensors so wide that nothing is left of them."""
    wide = {}
    for name in tensors:
        found = dataclasses.astuple(table.tensors[name]["minmax"])
        wide[name] = {"minmax": Range(*(factor * end for end in found))}
    return dataclasses.replace(table, tensors={**table.tensors, **wide})


def candidates(network, table, choice):
    layers = network.layers
    quantized = settings_of(network, table, choice, frozenset())
    return {
        "all": quantized,
        "float": [FLOAT] * len(layers),
        "first": [quantized[0], *[FLOAT] * 7],
        "last": [*[FLOAT] * 7, quantized[7]],
        "activations": [dataclasses.replace(layer, weights="float32") for layer in quantized],
        "but fc6": settings_of(network, table, choice, frozenset({"classifier.1"})),
    }


def test_figures_are_those_of_each_candidate_alone(network, table, choice, batches):
    wanted = candidates(network, table, choice)
    found = measure(network, batches, wanted)

    def answers(settings):
        parts = [network.finish(0, network.begin(batch.tensor), settings) for batch in batches]
        return np.concatenate(parts)

    reference = answers([FLOAT] * 8)
    labels = np.array([item.label for batch in batches for item in batch.items])
    centred = centred_logits(reference)
    for name, settings in wanted.items():
        logits, damage = answers(settings), found[name]
        right = logits.argmax(1) == labels
        assert (damage.images, damage.labelled) == (40, 40), name
        assert damage.agreement == (logits.argmax(1) == reference.argmax(1)).mean(), name
        assert damage.top1 == right.mean(), name
        lost = (reference.argmax(1) == labels).mean() - right.mean()
        assert damage.drop_pp == pytest.approx(100 * lost), name
        assert damage.kl == pytest.approx(mean_kl(reference, logits), abs=1e-9), name
        noise = ((centred_logits(logits) - centred) ** 2).sum()
        assert damage.logit_sqnr_db == pytest.approx(sqnr_db((centred**2).sum(), noise)), name


def test_the_float_network_takes_no_damage(network, table, choice, batches):
    damage = measure(network, batches, candidates(network, table, choice))["float"]
    assert (damage.logit_sqnr_db, damage.kl, damage.agreement, damage.drop_pp) == (None, 0, 1, 0)


def test_batches_do_not_show(network, table, choice, images):
    found = [
        measure(
            network, ImageReader(images, network.graph.preprocess, batch_size=size),
            candidates(network, table, choice),
        )
        for size in (7, 40)
    ]  # fmt: skip
    for name, damage in found[0].items():
        other = found[1][name]
        assert damage.kl == pytest.approx(other.kl, rel=1e-3, abs=1e-9)
        assert damage.agreement == other.agreement


def test_settings_that_differ_in_a_correction_alone_are_told_apart(network, table, choice, batches):
    quantized = settings_of(network, table, choice, frozenset())
    shifted = [
        *quantized[:7],
        dataclasses.replace(quantized[7], correction=np.arange(10, dtype=np.float32)),
    ]
    further = [
        *quantized[:7],
        dataclasses.replace(quantized[7], correction=10 * np.arange(10, dtype=np.float32)),
    ]
    found = measure(network, batches, {"plain": quantized, "shifted": shifted, "more": further})
    assert found["plain"].kl < found["shifted"].kl < found["more"].kl


def test_without_labels_the_drop_is_the_share_that_changed(network, table, choice, images):
    unlabelled = dataclasses.replace(
        images, classes=None, items=tuple(dataclasses.replace(i, label=None) for i in images.items)
    )
    spoiled = broken(table, "flatten.out")
    found = measure(
        network, read(network, unlabelled), candidates(network, spoiled, choice)
    )["all"]  # fmt: skip
    assert (found.labelled, found.top1) == (0, None)
    assert found.agreement < 1
    assert found.drop_pp == pytest.approx(100 * (1 - found.agreement))


def test_images_without_a_label_are_left_out_of_top1_alone(network, table, choice, images):
    items = tuple(
        dataclasses.replace(item, label=item.label if index % 4 == 0 else None)
        for index, item in enumerate(images.items)
    )
    wanted = candidates(network, broken(table, "flatten.out"), choice)
    partly = measure(network, read(network, dataclasses.replace(images, items=items)), wanted)
    labelled = measure(
        network, read(network, dataclasses.replace(images, items=items[::4])), wanted
    )
    whole = measure(network, read(network, images), wanted)
    for name, damage in partly.items():
        assert (damage.images, damage.labelled) == (40, 10)
        assert damage.agreement == whole[name].agreement
        assert (damage.top1, damage.drop_pp) == (labelled[name].top1, labelled[name].drop_pp)


def test_the_fill_of_a_fixed_batch_is_not_counted(
    tiny_checkpoint, network, table, choice, batches, tmp_path
):
    path = tmp_path / "fixed.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(batch=3), path)
    fixed = Layerwise(path, TENSORRT)
    expected = measure(network, batches, candidates(network, table, choice))["all"]
    found = measure(fixed, batches, candidates(fixed, table, choice))["all"]
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(expected), rel=1e-3)


def test_no_image_is_an_error(network, table, choice):
    with pytest.raises(DatasetError, match="no image to measure on"):
        measure(network, [], candidates(network, table, choice))


def test_progress_counts_images(network, table, choice, batches):
    seen = []
    measure(network, batches, candidates(network, table, choice), on_progress=seen.append)
    assert seen == [16, 32, 40]


def test_nothing_is_spared_where_the_bound_holds(network, table, choice, batches):
    spared, damage = choose_spared(network, table, choice, lambda: batches, 2.5)
    assert spared == ()
    assert damage.drop_pp <= 2.5


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [("input", "features.0"), ("features.7.out", "features.8"), ("flatten.out", "classifier.1")],
)
def test_the_one_broken_layer_is_spared(network, table, choice, batches, tensor, layer):
    spared, damage = choose_spared(network, broken(table, tensor), choice, lambda: batches, 2.5)
    assert spared == (layer,)
    assert damage.drop_pp <= 2.5


def test_two_broken_layers_are_both_spared_in_the_networks_order(network, table, choice, batches):
    steps = []
    spoiled = broken(table, "classifier.2.out", "features.2.out")
    spared, damage = choose_spared(
        network, spoiled, choice, lambda: batches, 2.5, on_progress=lambda *at: steps.append(at)
    )
    assert spared == ("features.3", "classifier.4")
    assert damage.drop_pp <= 2.5
    assert steps[:4] == [(0, 16), (0, 32), (0, 40), (1, 16)]


def test_in_the_cpu_dialect_a_layer_behind_an_integer_one_reads_rounded_values(
    tiny_onnx, table, choice, batches
):
    network = Layerwise(tiny_onnx, CPU)
    spoiled = broken(table, "features.7.out")
    spared, _ = choose_spared(network, spoiled, choice, lambda: batches, 2.5)
    # features.6 writes what features.8 reads: sparing one of them alone does not help.
    assert set(spared) == {"features.6", "features.8"}


def test_a_bound_that_cannot_be_kept_is_refused_with_what_is_left(network, table, choice, batches):
    every = broken(table, *table.tensors)
    with pytest.raises(DatasetError, match=r"all but one layer spared, top-1 still falls") as error:
        choose_spared(network, every, choice, lambda: batches, 0.1)
    assert "--max-drop" in error.value.hint
