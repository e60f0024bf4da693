"""Interrupted runs that go on, and those that must not."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from alexnet_edge.dataset import open_images
from alexnet_edge.errors import InputError, StaleArtifactError
from alexnet_edge.parity import ParitySettings, compare_engines
from alexnet_edge.runtimes.loader import open_engine

SETTINGS = ParitySettings(save_every=8)


def compare(engine, reference, images, state=None, *, stop_at=None, settings=SETTINGS):
    """Compare, interrupting after ``stop_at`` images; return the result and the images run."""
    ran = []

    def watch(progress):
        ran.append(progress)
        if stop_at is not None and progress.done >= stop_at:
            raise KeyboardInterrupt

    with open_engine(engine) as ours, open_engine(reference) as theirs:
        found = compare_engines(
            [ours], theirs, open_images(images), settings, state=state, on_progress=watch
        )
    return found[0], ran


def without_time(result):
    return dataclasses.replace(result, seconds=0.0, environment={})


@pytest.fixture
def spoiled(val, tmp_path):
    """`val` with files that are no images, at the front, in the middle and at the end."""
    folder = tmp_path / "spoiled"
    shutil.copytree(val, folder)
    for name in ("0/0.png", "4/zz.png", "9/y.png", "9/z.png"):
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("stop_at", [8, 40, 96, 100])
def test_an_interrupted_run_goes_on_to_the_same_result(
    int8_engine, tiny_onnx, spoiled, tmp_path, stop_at
):
    settings = dataclasses.replace(SETTINGS, max_bad=0.05)
    expected, _ = compare(int8_engine, tiny_onnx, spoiled, settings=settings)
    state = tmp_path / "run.state"
    with pytest.raises(KeyboardInterrupt):
        compare(int8_engine, tiny_onnx, spoiled, state, stop_at=stop_at, settings=settings)
    result, ran = compare(int8_engine, tiny_onnx, spoiled, state, settings=settings)
    assert without_time(result) == without_time(expected)
    assert len(result.skipped) == 4
    assert len(ran) <= 13 - stop_at // 8 + 1, "at most one batch is run again"
    assert ran[-1].done == 100


def test_a_run_may_be_interrupted_more_than_once(int8_engine, tiny_onnx, val, tmp_path):
    expected, _ = compare(int8_engine, tiny_onnx, val)
    state = tmp_path / "run.state"
    for stop_at in (24, 56, 57, 80):
        with pytest.raises(KeyboardInterrupt):
            compare(int8_engine, tiny_onnx, val, state, stop_at=stop_at)
    result, _ = compare(int8_engine, tiny_onnx, val, state)
    assert without_time(result) == without_time(expected)


def test_a_killed_run_goes_on_from_its_last_save(int8_engine, tiny_onnx, val, tmp_path):
    state = tmp_path / "run.state"

    class Killed(BaseException):
        """Nothing is written on the way out, as after SIGKILL."""

    def kill(progress):
        if progress.done >= 64:
            raise Killed

    settings = dataclasses.replace(SETTINGS, save_every=24)
    with (
        open_engine(int8_engine) as ours,
        open_engine(tiny_onnx) as theirs,
        pytest.raises(Killed),
    ):
        compare_engines([ours], theirs, open_images(val), settings, state=state, on_progress=kill)
    result, ran = compare(int8_engine, tiny_onnx, val, state)
    assert result.images == 100
    assert ran[0].done == 48, "the last save was at 48, whose last batch is run again"


def test_bad_images_are_counted_over_all_parts_of_a_run(int8_engine, tiny_onnx, spoiled, tmp_path):
    settings = dataclasses.replace(SETTINGS, max_bad=0.03)
    state = tmp_path / "run.state"
    with pytest.raises(KeyboardInterrupt):
        compare(int8_engine, tiny_onnx, spoiled, state, stop_at=64, settings=settings)
    with pytest.raises(InputError, match="could not be read"):
        compare(int8_engine, tiny_onnx, spoiled, state, settings=settings)


def change_image(folder):
    (folder / "3" / "new.png").write_bytes((next((folder / "3").glob("*.png"))).read_bytes())


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, None),
        (change_image, "images_sha256"),
        ({"margin_pp": 2.0}, "margin_pp"),
        ({"batch_size": 4}, "batch_size"),
        ({"max_images": 90}, "max_images"),
        ("engine", "engine_sha256"),
        ("reference", "reference_sha256"),
    ],
)
def test_a_state_is_refused_by_another_run_with_the_field_named(
    int8_engine, tiny_onnx, val, tmp_path, change, field
):
    folder = tmp_path / "images"
    shutil.copytree(val, folder)
    state = tmp_path / "run.state"
    with pytest.raises(KeyboardInterrupt):
        compare(int8_engine, tiny_onnx, folder, state, stop_at=40)
    before = state.read_bytes()
    engine, reference, settings = int8_engine, tiny_onnx, SETTINGS
    if callable(change):
        change(folder)
    elif change == "engine":
        engine = tiny_onnx
    elif change == "reference":
        reference = int8_engine
    else:
        settings = dataclasses.replace(SETTINGS, **change)
    if field is None:
        assert compare(engine, reference, folder, state, settings=settings)[0].images == 100
        return
    with pytest.raises(StaleArtifactError, match="state of another run") as refused:
        compare(engine, reference, folder, state, settings=settings)
    assert field in refused.value.differences
    assert state.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"a table of mine\n"])
def test_a_file_that_is_no_state_is_refused_and_kept(
    int8_engine, tiny_onnx, val, tmp_path, content
):
    state = tmp_path / "precious"
    state.write_bytes(content)
    with pytest.raises(InputError, match="is not the state of a comparison") as refused:
        compare(int8_engine, tiny_onnx, val, state)
    assert "--resume" in refused.value.hint
    assert state.read_bytes() == content


def change_known(**fields):
    def change(arrays):
        known = json.loads(arrays["known"].tobytes()) | fields
        arrays["known"] = np.frombuffer(json.dumps(known).encode(), np.uint8)

    return change


def change_array(name, make):
    def change(arrays):
        arrays[name] = make(arrays[name])

    return change


DAMAGE = [
    change_known(identity=5),
    change_known(identity=None),
    change_known(position=10**6),
    change_known(position="many"),
    change_known(classes=0),
    change_known(seconds=None),
    change_known(skipped=7),
    change_array("engine0", lambda rows: rows["rank"]),
    change_array("engine0", lambda rows: rows[:8]),
    change_array("reference", lambda rows: rows["answer"].astype(object)),
    change_array("status", lambda rows: rows.astype(np.float64)),
    change_array("status", np.zeros_like),
    change_array("known", lambda known: known[:-5]),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_is_refused(int8_engine, tiny_onnx, val, tmp_path, damage):
    state = tmp_path / "run.state"
    with pytest.raises(KeyboardInterrupt):
        compare(int8_engine, tiny_onnx, val, state, stop_at=24)
    with np.load(state) as saved:
        arrays = dict(saved)
    damage(arrays)
    with state.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(InputError, match="is not the state of a comparison") as refused:
        compare(int8_engine, tiny_onnx, val, state)
    assert "pickle" not in refused.value.message + refused.value.hint
    assert "remove this one" in refused.value.hint


def test_a_model_or_json_as_the_state_is_refused_and_kept(int8_engine, tiny_onnx, val, tmp_path):
    array = tmp_path / "array.npy"
    np.save(array, np.zeros(3))
    text = tmp_path / "result.json"
    text.write_text('{"kind": "parity"}')
    for state in (shutil.copy(tiny_onnx, tmp_path / "copy.onnx"), array, text):
        before = state.read_bytes()
        with pytest.raises(InputError, match="is not the state of a comparison") as refused:
            compare(int8_engine, tiny_onnx, val, state)
        assert "pickle" not in refused.value.message
        assert state.read_bytes() == before


def test_a_state_that_can_no_longer_be_saved_does_not_lose_the_result(
    int8_engine, tiny_onnx, val, tmp_path
):
    folder = tmp_path / "gone"
    folder.mkdir()
    with open_engine(int8_engine) as ours, open_engine(tiny_onnx) as theirs:
        found = compare_engines(
            [ours], theirs, open_images(val), SETTINGS, state=folder / "run.state",
            on_progress=lambda at: shutil.rmtree(folder, ignore_errors=True),
        )  # fmt: skip
    assert found[0].images == 100
    assert "the state could not be saved" in found[0].warnings[-1]
    expected, _ = compare(int8_engine, tiny_onnx, val)
    assert without_time(found[0]) == dataclasses.replace(
        without_time(expected), warnings=found[0].warnings
    )


def test_a_state_must_be_a_file_that_can_be_written(int8_engine, tiny_onnx, val, tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        compare(int8_engine, tiny_onnx, val, tmp_path, stop_at=1)


def test_a_missing_folder_is_told_before_the_first_image(int8_engine, tiny_onnx, val, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        compare(int8_engine, tiny_onnx, val, tmp_path / "none" / "run.state", stop_at=1)
