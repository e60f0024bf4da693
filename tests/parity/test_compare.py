"""Verdicts on real engines, and the figures behind them."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from PIL import Image

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.dataset import open_images
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.errors import DatasetError, InputError, StaleArtifactError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.parity import (
    Accuracy,
    Flips,
    ParitySettings,
    compare_answers,
    compare_engines,
    drop_interval,
)
from alexnet_edge.results import to_json
from alexnet_edge.runtimes.loader import open_engine
from tests import foreign
from tests.conftest import DIGITS_SPEC

JSON_KEYS = {
    "images", "labelled", "reference", "engine", "agreement", "sqnr_db", "max_abs", "drop_pp",
    "drop_ci95_pp", "flips", "mcnemar_p", "margin_pp", "verdict", "kind", "basis",
    "logit_sqnr_db", "output_kind", "skipped", "engine_path", "reference_path", "images_needed",
    "minimum_detectable_drop_pp", "per_class", "flipped", "flipped_total", "worst", "layers",
    "divergence", "engine_sha256", "model_sha256", "images_sha256", "images_name", "environment",
    "seconds", "noninferiority_p", "drop_bootstrap95_pp", "verdict_ci95_pp", "warnings",
}  # fmt: skip


def compare(engine, reference, images, *, classes=None, **settings):
    with open_engine(engine) as ours, open_engine(reference) as theirs:
        return compare_answers(
            ours, theirs, open_images(images), ParitySettings(**settings), classes=classes
        )


def change_onnx(source, out, *, metadata=None, scale=None):
    """Copy a graph with metadata entries removed, or the last weights scaled."""
    model = onnx.load(source)
    kept = [entry for entry in model.metadata_props if entry.key != f"alexnet_edge.{metadata}"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    if scale is not None:
        weight = next(t for t in model.graph.initializer if t.name == "classifier.6.weight")
        array = onnx.numpy_helper.to_array(weight) * np.float32(scale)
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
    onnx.save(model, out)
    return out


def answers_of(path, files):
    """What a file answers to images, one by one."""
    with open_engine(path) as opened:
        crops = [DIGITS_SPEC.to_input([DIGITS_SPEC.decode(file)]) for file in files]
        return np.concatenate([opened.infer_any(crop) for crop in crops]).astype(np.float64)


@pytest.mark.parametrize("margin", [0, -1, 100, float("nan")])
def test_margin_must_be_percentage_points(margin):
    with pytest.raises(InputError, match="margin is"):
        ParitySettings(margin_pp=margin)


@pytest.mark.parametrize(("setting", "value"), [("batch_size", 0), ("max_images", 0), ("seed", -1)])
def test_counts_and_seeds_out_of_range_are_refused(setting, value):
    with pytest.raises(InputError, match=f"{setting} is {value}"):
        ParitySettings(**{setting: value})


def test_model_passes_against_itself_with_enough_images(tiny_onnx):
    result = compare(tiny_onnx, tiny_onnx, "digits", max_images=800)
    assert result.images == result.labelled == 800
    assert result.agreement == 1
    assert result.sqnr_db is None
    assert result.logit_sqnr_db is None
    assert result.max_abs == 0
    assert result.engine == result.reference
    assert result.flips == Flips(0, 0)
    assert (result.drop_pp, result.mcnemar_p) == (0, 1)
    assert (result.verdict, result.basis) == ("pass", "top1")
    assert result.images_needed is None
    assert result.flipped == result.worst == ()


def test_ten_images_settle_nothing(tiny_onnx, val):
    result = compare(tiny_onnx, tiny_onnx, val, max_images=10)
    assert (result.images, result.agreement) == (10, 1)
    assert result.verdict == "inconclusive"
    assert result.images_needed == 765
    assert 45 < result.minimum_detectable_drop_pp < 50


def test_figures_are_those_of_the_raw_answers(int8_engine, tiny_onnx, val):
    result = compare(int8_engine, tiny_onnx, val)
    files = sorted(val.glob("*/*.png"))
    labels = np.array([int(file.parent.name) for file in files])
    ours, theirs = answers_of(int8_engine, files), answers_of(tiny_onnx, files)
    correct, was_correct = ours.argmax(1) == labels, theirs.argmax(1) == labels
    signal, noise = (theirs**2).sum(), ((theirs - ours) ** 2).sum()

    def top5(answers):
        return float((np.argsort(-answers, axis=1)[:, :5] == labels[:, None]).any(1).mean())

    assert result.images == result.labelled == len(files)
    assert result.engine == Accuracy(correct.mean(), pytest.approx(top5(ours)))
    assert result.reference == Accuracy(was_correct.mean(), pytest.approx(top5(theirs)))
    assert result.reference.top1 > 0.7
    assert result.agreement == (ours.argmax(1) == theirs.argmax(1)).mean()
    assert result.sqnr_db == pytest.approx(10 * np.log10(signal / noise), abs=1e-4)
    assert result.max_abs == pytest.approx(np.abs(ours - theirs).max(), rel=1e-4)
    assert result.drop_pp == pytest.approx(100 * (was_correct.mean() - correct.mean()))
    assert result.flips == Flips(
        fixed=int((correct & ~was_correct).sum()), broken=int((was_correct & ~correct).sum())
    )
    low, high = result.drop_ci95_pp
    assert low <= result.drop_pp <= high


def test_each_class_is_accounted_for(int8_engine, tiny_onnx, val, tmp_path):
    broken = change_onnx(tiny_onnx, tmp_path / "broken.onnx", scale=-1)
    result = compare(broken, tiny_onnx, val)
    files = sorted(val.glob("*/*.png"))
    labels = np.array([int(file.parent.name) for file in files])
    before = answers_of(tiny_onnx, files).argmax(1) == labels
    after = answers_of(broken, files).argmax(1) == labels
    assert [row["class"] for row in result.per_class] == list("0123456789")
    for digit, row in enumerate(result.per_class):
        mine = labels == digit
        assert row["images"] == mine.sum()
        assert row["reference_top1"] == pytest.approx(before[mine].mean())
        assert row["engine_top1"] == pytest.approx(after[mine].mean())
        assert row["drop_pp"] == pytest.approx(100 * (before[mine].mean() - after[mine].mean()))
        assert row["broken"] == (before & ~after)[mine].sum()
        assert row["fixed"] == (after & ~before)[mine].sum()


def test_changed_answers_are_named_broken_ones_first(tiny_onnx, val, tmp_path):
    broken = change_onnx(tiny_onnx, tmp_path / "broken.onnx", scale=-1)
    result = compare(broken, tiny_onnx, val)
    kinds = [flip.kind for flip in result.flipped]
    assert kinds == sorted(kinds, key=["broken", "fixed", "changed"].index)
    assert len(kinds) == result.flipped_total == round(100 * (1 - result.agreement))
    assert kinds.count("broken") == result.flips.broken > 0
    assert kinds.count("fixed") == result.flips.fixed
    first = result.flipped[0]
    theirs, ours = (answers_of(path, [val / first.image])[0] for path in (tiny_onnx, broken))
    assert first.label == first.reference == first.image.partition("/")[0]
    assert (str(theirs.argmax()), str(ours.argmax())) == (first.reference, first.engine)
    assert first.reference_confidence == pytest.approx(theirs.max(), rel=1e-4)
    assert first.confidence == pytest.approx(ours.max(), rel=1e-4)


def test_worst_images_are_those_whose_outputs_differ_most(int8_engine, tiny_onnx, val):
    result = compare(int8_engine, tiny_onnx, val)
    files = sorted(val.glob("*/*.png"))
    largest = np.abs(answers_of(int8_engine, files) - answers_of(tiny_onnx, files)).max(1)
    order = np.argsort(-largest)[:12]
    expected = [f"{files[i].parent.name}/{files[i].name}" for i in order]
    assert [item.image for item in result.worst] == expected
    assert result.worst[0].max_abs == pytest.approx(result.max_abs) == pytest.approx(largest.max())


def test_several_engines_in_one_pass_are_judged_as_if_alone(int8_engine, tiny_onnx, val):
    alone = [compare(path, tiny_onnx, val, max_images=30) for path in (int8_engine, tiny_onnx)]
    asked = []
    with (
        open_engine(int8_engine) as one,
        open_engine(tiny_onnx) as two,
        open_engine(tiny_onnx) as reference,
    ):
        execute = reference._execute
        reference._execute = lambda batch: (asked.append(len(batch)), execute(batch))[1]
        together = compare_engines(
            [one, two], reference, open_images(val), ParitySettings(max_images=30)
        )
    assert sum(asked) == 30
    for ours, expected in zip(together, alone, strict=True):
        same = {"seconds": 0.0, "environment": {}}
        assert dataclasses.replace(ours, **same) == dataclasses.replace(expected, **same)


def test_engines_that_answer_nan_are_refused(tiny_onnx, val, tmp_path):
    broken = change_onnx(tiny_onnx, tmp_path / "nan.onnx", scale=float("nan"))
    with pytest.raises(InputError, match=r"answers NaN or infinity to 0/") as refused:
        compare(broken, tiny_onnx, val)
    assert "nan.onnx" in refused.value.message


def test_logit_sqnr_is_that_of_the_centred_logits(
    int8_engine, tiny_checkpoint, tiny_onnx, val, tmp_path
):
    logits = tmp_path / "logits.onnx"
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(logits=True), logits)
    softmaxed = compare(int8_engine, tiny_onnx, val, max_images=20)
    mixed = compare(int8_engine, logits, val, max_images=20)
    assert mixed.output_kind == "logits"
    assert softmaxed.output_kind == "probabilities"
    assert mixed.sqnr_db == mixed.logit_sqnr_db
    assert mixed.logit_sqnr_db == pytest.approx(softmaxed.logit_sqnr_db, abs=0.05)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_result_does_not_depend_on_the_batch_size(int8_engine, tiny_onnx, val, batch_size):
    expected = compare(int8_engine, tiny_onnx, val, batch_size=8, max_images=30)
    result = compare(int8_engine, tiny_onnx, val, batch_size=batch_size, max_images=30)
    assert result.flips == expected.flips
    assert (result.engine, result.reference) == (expected.engine, expected.reference)
    assert result.drop_ci95_pp == expected.drop_ci95_pp
    assert result.sqnr_db == pytest.approx(expected.sqnr_db, abs=1e-3)
    assert result.max_abs == pytest.approx(expected.max_abs, abs=1e-5)


def test_json_has_the_keys_that_tools_rely_on(int8_engine, tiny_onnx, val):
    value = to_json(compare(int8_engine, tiny_onnx, val, max_images=10))
    assert value.keys() >= JSON_KEYS
    assert value["kind"] == "parity"
    assert value["engine_sha256"] == sha256_file(int8_engine)
    assert value["model_sha256"] == value["reference_sha256"] == sha256_file(tiny_onnx)
    assert value["images_name"] == str(val)
    assert value["layers"] is value["divergence"] is None
    assert value["reference"].keys() == value["engine"].keys() == {"top1", "top5"}
    assert value["flips"].keys() == {"fixed", "broken"}
    assert len(value["drop_ci95_pp"]) == 2


def test_broken_engine_fails(tiny_onnx, val, tmp_path):
    broken = change_onnx(tiny_onnx, tmp_path / "broken.onnx", scale=0)
    result = compare(broken, tiny_onnx, val)
    assert result.verdict == "fail"
    assert result.drop_pp > 50
    assert result.mcnemar_p < 1e-6


def test_improvement_is_no_failure(tiny_onnx, val, tmp_path):
    broken = change_onnx(tiny_onnx, tmp_path / "broken.onnx", scale=0)
    result = compare(tiny_onnx, broken, val)
    assert result.verdict == "pass"
    assert result.drop_pp < -50
    assert result.flips.fixed > result.flips.broken


def test_checkpoint_is_a_reference(tiny_checkpoint, tiny_onnx, val):
    result = compare(tiny_onnx, tiny_checkpoint, val, max_images=20)
    assert result.agreement == 1
    assert result.max_abs < 1e-5


def test_uint8_engine_compares_with_its_float_reference(tiny_checkpoint, tiny_onnx, val, tmp_path):
    frames = tmp_path / "uint8.onnx"
    spec = DIGITS_SPEC.with_input("uint8")
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), frames)
    result = compare(frames, tiny_onnx, val, max_images=20)
    assert result.agreement == 1
    assert result.max_abs < 1e-4


def test_unlabelled_folder_is_judged_by_agreement(tiny_onnx, val, tmp_path):
    for file in sorted(val.glob("*/*.png"))[::9]:
        shutil.copy(file, tmp_path / f"{file.parent.name}-{file.name}")
    result = compare(tiny_onnx, tiny_onnx, tmp_path)
    assert result.basis == "agreement"
    assert (result.labelled, result.agreement) == (0, 1)
    assert result.reference is result.engine is result.flips is result.drop_pp is None
    assert result.drop_ci95_pp is result.mcnemar_p is result.noninferiority_p is None
    assert result.per_class == ()
    assert result.verdict == "inconclusive"
    low, high = result.verdict_ci95_pp
    assert (low, high) == (0, drop_interval(Flips(0, 0), result.images)[1])
    assert compare(tiny_onnx, tiny_onnx, val).verdict_ci95_pp[0] < 0, "a drop may be negative"


def test_labels_go_by_the_folders_names_and_not_by_their_order(tiny_onnx, val, tmp_path):
    for digit in ("7", "9"):
        shutil.copytree(val / digit, tmp_path / digit)
    some, every = compare(tiny_onnx, tiny_onnx, tmp_path), compare(tiny_onnx, tiny_onnx, val)
    assert some.labelled == sum(1 for _ in tmp_path.glob("*/*.png"))
    assert some.reference.top1 > 0.5
    assert every.reference.top1 > 0.7


def test_given_classes_name_the_outputs_of_a_model_that_names_none(tiny_onnx, val, tmp_path):
    nameless = change_onnx(tiny_onnx, tmp_path / "nameless.onnx", metadata="classes")
    expected = compare(tiny_onnx, tiny_onnx, val)
    result = compare(nameless, nameless, val, classes=tuple("0123456789"))
    assert result.reference == expected.reference
    shuffled = compare(nameless, nameless, val, classes=tuple("1234567890"))
    assert shuffled.reference.top1 < 0.2


def test_class_folders_need_class_names(tiny_onnx, val, tmp_path):
    nameless = change_onnx(tiny_onnx, tmp_path / "nameless.onnx", metadata="classes")
    with pytest.raises(DatasetError, match="neither model names its classes") as refused:
        compare(nameless, nameless, val)
    assert "--classes" in refused.value.hint


def test_as_many_classes_as_outputs_must_be_given(tiny_onnx, val, tmp_path):
    nameless = change_onnx(tiny_onnx, tmp_path / "nameless.onnx", metadata="classes")
    with pytest.raises(InputError, match="has 10 outputs, 11 classes are named"):
        compare(nameless, nameless, val, classes=(*"0123456789", "ten"))


def test_given_classes_name_folders_otherwise_than_the_model_does(tiny_onnx, val, tmp_path):
    names = tuple(f"n{digit:04d}" for digit in range(10))
    for digit, name in enumerate(names):
        shutil.copytree(val / str(digit), tmp_path / name)
    result = compare(tiny_onnx, tiny_onnx, tmp_path, classes=names)
    assert result.reference == compare(tiny_onnx, tiny_onnx, val).reference
    assert f"--classes calls output 0 'n0000', {tiny_onnx} '0'" in result.warnings


def test_the_models_own_names_given_in_another_order_are_refused(tiny_onnx, val):
    with pytest.raises(InputError, match="names output 3 '3', --classes names it '4'") as refused:
        compare(tiny_onnx, tiny_onnx, val, classes=tuple("0124356789"))
    assert "leave --classes out" in refused.value.hint
    same = compare(tiny_onnx, tiny_onnx, val, classes=tuple("0123456789"), max_images=10)
    assert not any("--classes" in warning for warning in same.warnings)


def test_an_engine_of_another_model_is_warned_of(
    int8_engine, tiny_checkpoint, tiny_onnx, val, tmp_path
):
    other = change_onnx(tiny_onnx, tmp_path / "other.onnx", scale=0.5)
    unstamped = change_onnx(other, tmp_path / "unstamped.onnx", metadata="checkpoint_sha256")
    (warning,) = compare(int8_engine, unstamped, val, max_images=8).warnings
    assert warning.startswith(f"{int8_engine}: was made from another model")
    assert sha256_file(tiny_onnx)[:12] in warning
    assert sha256_file(unstamped)[:12] in warning
    for reference in (tiny_onnx, tiny_checkpoint):
        assert compare(int8_engine, reference, val, max_images=8).warnings == ()


def test_a_quantized_reference_is_warned_of(int8_engine, tiny_onnx, val):
    (warning,) = compare(tiny_onnx, int8_engine, val, max_images=8).warnings
    assert warning.startswith(f"{int8_engine}: the reference is INT8, not FP32")


def test_folder_of_an_unknown_class_is_named(tiny_onnx, val, tmp_path):
    shutil.copytree(val / "3", tmp_path / "three")
    with pytest.raises(DatasetError, match="class folder 'three'"):
        compare(tiny_onnx, tiny_onnx, tmp_path)


def test_differing_preprocessing_is_refused(tiny_checkpoint, tiny_onnx, val, tmp_path):
    other = tmp_path / "other.onnx"
    spec = dataclasses.replace(DIGITS_SPEC, resize=256)
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), other)
    with pytest.raises(StaleArtifactError, match="prepare images differently") as refused:
        compare(other, tiny_onnx, val)
    assert refused.value.differences.keys() == {"preprocess.resize"}


def test_preprocessing_must_be_known(tiny_onnx, val, tmp_path):
    silent = change_onnx(tiny_onnx, tmp_path / "silent.onnx", metadata="preprocess")
    with pytest.raises(InputError, match="how images are prepared"):
        compare(silent, silent, val)
    assert compare(silent, tiny_onnx, val, max_images=5).images == 5


def test_models_of_other_classes_are_refused(tiny_onnx, val, tmp_path):
    few = foreign.write_foreign(tmp_path / "few.onnx", classes=7)
    with pytest.raises(StaleArtifactError, match="answer differently") as refused:
        compare(few, tiny_onnx, val)
    assert refused.value.differences == {"classes": (10, 7)}


def test_images_that_cannot_be_decoded_are_listed(tiny_onnx, val, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(val, folder)
    (folder / "3" / "bad.png").write_bytes(b"no image")
    result = compare(tiny_onnx, tiny_onnx, folder, max_bad=0.05)
    assert [skipped.name for skipped in result.skipped] == ["3/bad.png"]
    assert result.images == result.labelled == 100
    with pytest.raises(DatasetError, match="could not be read"):
        compare(tiny_onnx, tiny_onnx, folder, max_bad=0)


def test_progress_ends_at_the_number_of_images(tiny_onnx, val):
    seen = []
    with open_engine(tiny_onnx) as engine:
        settings = ParitySettings(max_images=20)
        compare_answers(engine, engine, open_images(val), settings, on_progress=seen.append)
    assert [progress.done for progress in seen] == [8, 16, 20]
    assert {progress.total for progress in seen} == {20}
    assert seen[-1].seconds_left == pytest.approx(0, abs=1e-6)
    assert all(progress.images_per_second > 0 for progress in seen)


def test_fewer_than_six_classes_have_no_top5(tmp_path):
    few = foreign.write_foreign(tmp_path / "few.onnx", classes=5)
    engine = tmp_path / "engine.onnx"
    names = tuple("abcde")
    build_engine(few, engine, BuildSettings(), preprocess=foreign.SPEC, classes=names)
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (300, 300), "gray").save(tmp_path / "images" / name / "1.png")
    result = compare(engine, engine, tmp_path / "images")
    assert result.reference == Accuracy(0.2, None)
