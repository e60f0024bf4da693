"""Methods by evidence: the better one wins, a broken tensor is repaired, luck is not kept."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.errors import DatasetError, StaleArtifactError, TableError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.graph import read_graph
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.choose import AUTO, Choice, Trial, choose, decide, read_evidence
from alexnet_edge.quantize.layerwise import FLOAT, Layerwise
from alexnet_edge.quantize.scales import CPU, TENSORRT, Dialect
from alexnet_edge.quantize.table import Range, load_table
from alexnet_edge.quantize.thresholds import METHODS
from tests.conftest import DIGITS_SPEC
from tests.foreign import SPEC, write_foreign

DIALECTS = pytest.mark.parametrize("dialect", [CPU, TENSORRT], ids=lambda d: d.name)


@pytest.fixture(scope="module")
def table(tiny_table):
    return load_table(tiny_table)


@pytest.fixture(scope="module")
def evidence(table, tiny_onnx):
    return read_evidence(table, None, tiny_onnx.parent)


def scaled(table, factor, *, methods=tuple(METHODS), tensors=None):
    """Return the table with some of its ranges wider or narrower."""

    def change(by_tensor):
        return {
            name: {
                method: Range(*(factor * end for end in dataclasses.astuple(found)))
                if method in methods and name in (tensors or by_tensor)
                else found
                for method, found in by_method.items()
            }
            for name, by_method in by_tensor.items()
        }

    return dataclasses.replace(
        table,
        tensors=change(table.tensors),
        tensors_without_held_out=change(table.tensors_without_held_out),
    )


def sqnr(trial):
    return trial.logit_sqnr_db


def by_candidate(choice):
    return {trial.candidate: trial for trial in choice.trials}


@DIALECTS
def test_every_method_is_tried_and_the_best_is_kept(tiny_onnx, table, evidence, dialect):
    choice = choose(tiny_onnx, table, evidence, dialect)
    trials = [trial for trial in choice.trials if trial.candidate in METHODS]
    assert [trial.candidate for trial in trials] == list(METHODS)
    assert [trial.candidate for trial in trials if trial.kept] == [max(trials, key=sqnr).candidate]
    assert choice.images == len(table.images["held_out"]) == len(evidence.held_out)
    assert choice.methods.keys() == table.tensors.keys()
    assert all(trial.kl >= 0 for trial in choice.trials)


def test_a_choice_is_the_same_each_time(tiny_onnx, table, evidence):
    assert choose(tiny_onnx, table, evidence, CPU) == choose(tiny_onnx, table, evidence, CPU)


@DIALECTS
def test_methods_that_are_spoiled_are_not_chosen(tiny_onnx, table, evidence, dialect):
    spoiled = tuple(name for name in METHODS if name != "percentile-99.99")
    choice = choose(tiny_onnx, scaled(table, 30, methods=spoiled), evidence, dialect)
    assert choice.method == "percentile-99.99"
    kept = by_candidate(choice)["percentile-99.99"]
    assert kept.kept
    assert sqnr(kept) > sqnr(by_candidate(choice)["minmax"]) + 10


@DIALECTS
@pytest.mark.parametrize("tensor", ["input", "features.5.out", "classifier.5.out"])
def test_a_mixture_repairs_the_tensor_that_is_broken(tiny_onnx, table, evidence, dialect, tensor):
    wide = tuple(name for name in METHODS if name != "percentile-99.9")
    # Everywhere else that method clips far too much.
    broken = scaled(table, 0.2, methods=("percentile-99.9",))
    fine = scaled(table, 60, methods=wide, tensors=(tensor,))
    mixed = dataclasses.replace(
        broken,
        **{
            field: {
                name: getattr(broken, field)[name]
                if name != tensor
                else {
                    **getattr(fine, field)[name],
                    "percentile-99.9": getattr(table, field)[name]["percentile-99.9"],
                }
                for name in table.tensors
            }
            for field in ("tensors", "tensors_without_held_out")
        },
    )
    choice = choose(tiny_onnx, mixed, evidence, dialect)
    assert choice.method == "mixture"
    assert choice.methods[tensor] == "percentile-99.9"
    others = {method for name, method in choice.methods.items() if name != tensor}
    assert "percentile-99.9" not in others
    trials = by_candidate(choice)
    assert trials["mixture"].kept
    assert sqnr(trials["mixture"]) > max(sqnr(trials[name]) for name in METHODS) + 3


@DIALECTS
def test_a_bias_correction_is_kept_where_clipping_shifts_the_means(
    tiny_onnx, table, evidence, dialect
):
    clipped = scaled(table, 0.4, tensors=("features.2.out",))
    choice = choose(tiny_onnx, clipped, evidence, dialect)
    trials = by_candidate(choice)
    before = max(trial.logit_sqnr_db for trial in choice.trials[:-1] if trial.kept)
    assert trials["bias correction"].kept
    assert sqnr(trials["bias correction"]) > before + 0.2
    assert choice.bias_corrections.keys() >= {"features.3", "classifier.6"}
    assert np.abs(choice.bias_corrections["classifier.6"]).max() > 0


@DIALECTS
def test_what_does_not_help_is_not_kept(tiny_onnx, table, evidence, dialect):
    choice = choose(tiny_onnx, table, evidence, dialect)
    kept = [trial for trial in choice.trials if trial.kept]
    assert [sqnr(trial) for trial in kept] == sorted(sqnr(trial) for trial in kept)
    trials = by_candidate(choice)
    assert (choice.weight_ranges == "mse") == trials["weights mse"].kept
    assert bool(choice.bias_corrections) == trials["bias correction"].kept


@pytest.mark.parametrize(("block", "first"), [(None, "minmax"), (64, "zeros")])
def test_progress_reaches_its_end(tiny_onnx, table, evidence, block, first):
    seen, dialect = [], Dialect("cpu", fc_block=block)
    choose(tiny_onnx, table, evidence, dialect, on_progress=lambda *step: seen.append(step))
    assert [done for _, done, _ in seen] == list(range(len(seen)))
    assert {total for *_, total in seen} == {len(seen)}
    assert seen[0][0] == first


def test_a_method_by_name_is_taken_without_a_trial(tiny_onnx, table):
    choice = decide(tiny_onnx, table, CPU, "entropy")
    assert (choice.method, choice.trials, choice.weight_ranges) == ("entropy", (), "minmax")
    with pytest.raises(TableError, match="no method 'kl'"):
        decide(tiny_onnx, table, CPU, "kl")


def test_a_stored_choice_is_used_and_survives_the_file(tiny_onnx, table, tmp_path):
    choice = Choice(
        dict.fromkeys(table.tensors, "mse"), "mse", {"features.0": (0.5, -0.25)},
        (Trial("mse", 40.5, 1e-5, kept=True), Trial("minmax", None, 0.0)), 8,
    )  # fmt: skip
    dataclasses.replace(table, choices={"cpu": choice.to_dict()}).save(tmp_path / "t.json")
    stored = load_table(tmp_path / "t.json")
    assert decide(tiny_onnx, stored, CPU, AUTO) == choice


@pytest.mark.parametrize(
    "choice", [{}, [], {"methods": {"input": "mse"}}, {"methods": 3}, "minmax"], ids=str
)
def test_a_malformed_stored_choice_is_refused(tiny_onnx, table, choice):
    malformed = dataclasses.replace(table, choices={"cpu": choice})
    with pytest.raises(TableError, match="choice of methods is malformed"):
        decide(tiny_onnx, malformed, CPU)


def test_a_choice_of_what_the_table_lacks_is_refused(table):
    with pytest.raises(TableError, match="no kl range for 'input'"):
        Choice({"input": "kl"}).ranges(table.tensors)


def test_a_table_of_another_graph_is_refused(tiny_onnx, table, evidence):
    other = dataclasses.replace(table, structure_sha256="0" * 64)
    with pytest.raises(StaleArtifactError, match="structure_sha256"):
        choose(tiny_onnx, other, evidence, CPU)


@pytest.fixture
def photos(tiny_onnx, digits_folders, tmp_path):
    """A folder of photos and the table that was measured on it."""
    folder = shutil.copytree(digits_folders / "val" / "3", tmp_path / "photos")
    return folder, calibrate(tiny_onnx, open_images(folder), CalibrationSettings())


def test_images_are_found_again_where_they_were_moved(tiny_onnx, photos, tmp_path):
    folder, table = photos
    expected = read_evidence(table, None, tmp_path)
    moved = folder.rename(tmp_path / "moved")
    with pytest.raises(DatasetError, match="are not where they were") as caught:
        decide(tiny_onnx, table, CPU)
    assert "--images DIR" in caught.value.hint
    found = read_evidence(table, open_images(moved), tmp_path)
    np.testing.assert_array_equal(found.held_out, expected.held_out)
    np.testing.assert_array_equal(found.fit, expected.fit)


def test_a_relative_source_is_looked_for_beside_the_table(photos, tmp_path):
    folder, table = photos
    relative = dataclasses.replace(table, images={**table.images, "source": folder.name})
    assert len(read_evidence(relative, None, tmp_path).held_out) == len(table.images["held_out"])


def test_an_image_that_changed_is_refused_by_name(tiny_onnx, photos):
    folder, table = photos
    name = table.images["held_out"][0]
    (folder / name).write_bytes(next(p for p in folder.iterdir() if p.name != name).read_bytes())
    with pytest.raises(StaleArtifactError, match=name):
        decide(tiny_onnx, table, CPU)


def test_corrections_are_fitted_on_images_that_are_not_held_out(photos, tmp_path):
    _, table = photos
    evidence = read_evidence(table, None, tmp_path)
    assert len(evidence.held_out) == len(table.images["held_out"]) > 0
    assert len(evidence.fit) == table.images["count"] - len(evidence.held_out)
    pairs = (np.abs(evidence.fit[:, None] - image).max(axis=(1, 2, 3, 4))
             for image in evidence.held_out[None])  # fmt: skip
    assert all(difference.min() > 0 for difference in pairs)


def test_one_image_judges_itself(tiny_onnx):
    table = calibrate(tiny_onnx, open_images("digits:val").sample(1), CalibrationSettings())
    assert table.images["held_out"] == []
    assert decide(tiny_onnx, table, CPU).images == 1


def test_a_graph_of_a_fixed_batch_is_judged_image_by_image(tmp_path):
    path = write_foreign(tmp_path / "foreign.onnx")
    images = open_images("digits:val").sample(16)
    table = calibrate(path, images, CalibrationSettings(), preprocess=SPEC)
    choice = decide(path, table, CPU)
    assert choice.images == len(table.images["held_out"]) > 0
    assert {trial.candidate for trial in choice.trials} >= METHODS.keys()


COARSE = Dialect("cpu", weight_bits=4)


def matching(table, path):
    """Return the table as if it had been measured on another graph."""
    graph = read_graph(path)
    return dataclasses.replace(
        table,
        model_sha256=graph.sha256,
        weights_sha256=graph.weights_sha256,
        structure_sha256=graph.structure_sha256,
    )


def put_on_grid(source, target, bits, *, outlier):
    """Write a graph whose weights are integers already, in one layer beside a huge weight."""
    model, largest = onnx.load(source), 2 ** (bits - 1) - 1
    for tensor in model.graph.initializer:
        weight = onnx.numpy_helper.to_array(tensor).copy()
        if weight.ndim == 1:
            continue
        rows = weight.reshape(len(weight), -1)
        scales = np.abs(rows).max(axis=1, keepdims=True) / largest
        rows[:] = np.rint(rows / scales) * scales
        if tensor.name == "classifier.1.weight":
            rows[0] = -1  # never active, whatever weighs it
        if tensor.name == "classifier.4.weight" and outlier:
            rows[:, 0] = np.abs(rows).max(axis=1) / 0.6
        tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, target)


@pytest.mark.parametrize("outlier", [True, False])
def test_weights_of_least_error_are_kept_where_the_largest_is_an_outlier(
    tiny_onnx, table, evidence, tmp_path, outlier
):
    path = tmp_path / "grid.onnx"
    put_on_grid(tiny_onnx, path, COARSE.weight_bits, outlier=outlier)
    choice = choose(path, matching(table, path), evidence, COARSE)
    assert (choice.weight_ranges == "mse") == outlier
    trials = by_candidate(choice)
    best = max(sqnr(trials[name]) for name in METHODS)
    assert (sqnr(trials["weights mse"]) > best + 3) == outlier


@DIALECTS
def test_a_correction_that_fits_other_images_is_not_kept(tiny_onnx, table, evidence, dialect):
    others = dataclasses.replace(evidence, fit=-2 * evidence.fit)
    choice = choose(tiny_onnx, table, others, dialect)
    assert sqnr(by_candidate(choice)["bias correction"]) < 20 < sqnr(by_candidate(choice)["minmax"])
    assert not choice.bias_corrections


@DIALECTS
def test_corrections_give_every_layer_its_mean_again(tiny_onnx, table, evidence, dialect):
    clipped = scaled(table, 0.4, tensors=("features.2.out",))
    choice = choose(tiny_onnx, clipped, evidence, dialect)
    network = Layerwise(tiny_onnx, dialect)

    def mean_outputs(settings):
        activations = network.begin(evidence.fit)
        for index, setting in enumerate(settings):
            activations, means = network.step(index, activations, setting)
            yield np.concatenate(means).mean(axis=0)

    ranges, weights = choice.ranges(clipped.tensors_without_held_out), choice.weight_ranges
    corrections = {name: np.float32(shift) for name, shift in choice.bias_corrections.items()}
    exact = mean_outputs([FLOAT] * 8)
    plain = mean_outputs(network.settings(ranges, weights=weights))
    corrected = mean_outputs(network.settings(ranges, weights=weights, corrections=corrections))
    for wanted, shifted, found in zip(exact, plain, corrected, strict=True):
        assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(shifted - wanted)


def test_methods_are_judged_by_ranges_that_the_held_out_images_have_not_widened(
    tiny_onnx, table, evidence
):
    spoiled = scaled(table, 30, methods=("minmax",))
    unseen = dataclasses.replace(table, tensors=spoiled.tensors)
    seen = dataclasses.replace(spoiled, tensors=table.tensors)
    choice = choose(tiny_onnx, unseen, evidence, CPU)
    assert choice == choose(tiny_onnx, table, evidence, CPU)
    assert not by_candidate(choose(tiny_onnx, seen, evidence, CPU))["minmax"].kept


def test_corrections_are_fitted_on_every_class(tiny_onnx, digits_folders, tmp_path):
    images = open_images(digits_folders / "val")
    table = calibrate(tiny_onnx, images, CalibrationSettings(max_images=96))
    batch = next(iter(ImageReader(images, table.preprocess, batch_size=len(images))))
    labels = {x.tobytes(): item.label for x, item in zip(batch.tensor, batch.items, strict=True)}
    fit = read_evidence(table, None, tmp_path).fit
    assert len(fit) == 64
    assert {labels[image.tobytes()] for image in fit} == set(range(10))


def test_weights_are_fitted_where_that_helps_and_never_for_a_choice_to_be_stored(
    tiny_onnx, table, evidence
):
    choice = choose(tiny_onnx, table, evidence, CPU)
    trials = by_candidate(choice)
    assert trials["weights gptq"].kept
    assert choice.rounding == "gptq"
    assert sqnr(trials["weights gptq"]) > sqnr(trials[choice.method]) + 1
    stored = choose(tiny_onnx, table, evidence, CPU, fit=False)
    assert "weights gptq" not in by_candidate(stored)
    assert stored.rounding == "nearest"
    assert "fitted" not in choice.to_dict()
    assert Choice.from_dict(choice.to_dict()).rounding == "nearest"


def test_what_helps_one_image_alone_is_not_kept(tiny_onnx, table, evidence):
    held_out = evidence.held_out.copy()
    held_out[0] *= 4
    # A wide input serves that image, and costs the others little; the end of "mse" is broken.
    factors = {("input", "minmax"): 1, ("classifier.5.out", "mse"): 1e-3}
    tensors = {
        name: {
            method: Range(
                *(factors.get((name, method), 4) * e for e in dataclasses.astuple(found["minmax"]))
            )
            for method in ("minmax", "mse")
        }
        for name, found in table.tensors.items()
    }
    wide = dataclasses.replace(table, tensors=tensors, tensors_without_held_out=tensors)
    choice = choose(tiny_onnx, wide, dataclasses.replace(evidence, held_out=held_out), CPU)
    assert choice.methods["input"] == "minmax"
    alone = dataclasses.replace(evidence, held_out=held_out[:1])
    assert choose(tiny_onnx, wide, alone, CPU).methods["input"] == "mse"


def test_a_result_that_lrn_reads_is_mixed_too(tmp_path):
    path = write_foreign(tmp_path / "foreign.onnx")
    images = open_images("digits:val").sample(32)
    table = calibrate(path, images, CalibrationSettings(), preprocess=SPEC)
    others, result = tuple(METHODS)[1:], "conv1_2"
    rest = tuple(name for name in table.tensors if name != result)
    broken = scaled(table, 60, methods=others, tensors=(result,))
    broken = scaled(broken, 60, methods=("minmax",), tensors=rest)
    choice = decide(path, broken, CPU)
    assert choice.methods[result] == "minmax"
    assert "minmax" not in {choice.methods[name] for name in rest}


def test_the_fill_of_a_fixed_batch_is_not_judged(
    tiny_checkpoint, tiny_onnx, table, evidence, tmp_path
):
    path = tmp_path / "fixed.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(batch=3), path)
    two = dataclasses.replace(evidence, held_out=evidence.held_out[:2])
    found = by_candidate(choose(path, matching(table, path), two, CPU))["percentile-99.9"]
    expected = by_candidate(choose(tiny_onnx, table, two, CPU))["percentile-99.9"]
    assert found.kl == pytest.approx(expected.kl, rel=0.01)
    assert sqnr(found) == pytest.approx(sqnr(expected), abs=0.05)


def test_a_choice_for_seven_bits_is_another_one(tiny_onnx, table, tmp_path):
    choices = {
        dialect.key: Choice(dict.fromkeys(table.tensors, method)).to_dict()
        for dialect, method in ((CPU, "mse"), (Dialect("cpu", 7), "entropy"))
    }
    stored = dataclasses.replace(table, choices=choices)
    assert decide(tiny_onnx, stored, CPU).method == "mse"
    assert decide(tiny_onnx, stored, Dialect("cpu", 7)).method == "entropy"


def test_the_one_image_that_can_be_read_is_not_held_out(tiny_onnx, digits_folders, tmp_path):
    for index, source in enumerate(sorted((digits_folders / "val" / "3").iterdir())[:2]):
        (tmp_path / f"{index}.png").write_bytes(source.read_bytes()[: 20 if index == 0 else None])
    table = calibrate(tiny_onnx, open_images(tmp_path), CalibrationSettings(max_bad=0.5))
    assert table.images["held_out"] == []
    assert table.tensors_without_held_out == table.tensors
    assert decide(tiny_onnx, table, CPU).images == 1
