"""Training: that it learns, repeats itself, goes on where it stopped, and refuses in time."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.errors import DatasetError, InputError, StaleArtifactError
from alexnet_edge.model import build_module, load_checkpoint
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.train import TrainSettings, last_path, split, train

SPEC = PreprocessSpec(resize=240, crop=227)
SETTINGS = TrainSettings(width=0.03, epochs=3, batch_size=16)


@pytest.fixture(scope="module")
def images():
    return open_images("digits:train").sample(96)


@pytest.fixture(scope="module")
def validation():
    return open_images("digits:val").sample(40)


@pytest.fixture(scope="module")
def run(images, validation, tmp_path_factory):
    """A whole run: its result and its folder."""
    folder = tmp_path_factory.mktemp("run")
    return train(images, validation, SPEC, SETTINGS, folder / "net.pt"), folder


@pytest.fixture
def interrupted(images, validation, tmp_path):
    """The checkpoint of a run that was stopped in its second epoch."""

    def stop(progress):
        if (progress.epoch, progress.step) == (2, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(images, validation, SPEC, SETTINGS, tmp_path / "net.pt", on_progress=stop)
    return tmp_path / "net.pt"


def assert_same_weights(found, expected):
    found, expected = load_checkpoint(found).state_dict, load_checkpoint(expected).state_dict
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def top1(path, images):
    checkpoint = load_checkpoint(path)
    module = build_module(checkpoint.architecture).eval()
    module.load_state_dict(dict(checkpoint.state_dict))
    correct = 0
    for batch in ImageReader(images, checkpoint.preprocess):
        with torch.inference_mode():
            answers = module(torch.from_numpy(batch.tensor)).argmax(1).tolist()
        correct += sum(a == item.label for a, item in zip(answers, batch.items, strict=True))
    return correct / len(images)


def wrongly_labelled(images):
    """Each image labelled as the next class: the better it learns, the worse it scores."""
    items = (dataclasses.replace(i, label=(i.label + 1) % 10) for i in images.items)
    return dataclasses.replace(images, items=tuple(items))


def test_training_learns(tmp_path):
    images, validation = (
        dataclasses.replace(
            whole, items=tuple(i for i in whole.items if i.label < 2)[:count], classes=("0", "1")
        )
        for whole, count in ((open_images("digits:train"), 96), (open_images("digits:val"), 40))
    )
    settings = TrainSettings(width=0.125, epochs=3, batch_size=8, learning_rate=0.002, flip=False)
    result = train(images, validation, SPEC, settings, tmp_path / "net.pt")
    assert result.epochs[-1].loss < 0.8 * result.epochs[0].loss
    assert result.epochs[-1].accuracy > result.epochs[0].accuracy
    assert result.best.validation > 0.8


def test_the_result_says_what_was_trained(run):
    result, folder = run
    assert result.checkpoint == str(folder / "net.pt")
    assert [epoch.epoch for epoch in result.epochs] == [1, 2, 3]
    assert (result.images, result.validation_images) == (96, 40)
    assert result.settings == SETTINGS
    assert {path.name for path in folder.iterdir()} == {"net.pt", "net.last.pt"}


def test_the_checkpoint_says_what_it_was_trained_on(run, validation):
    result, folder = run
    checkpoint = load_checkpoint(folder / "net.pt")
    assert checkpoint.preprocess == SPEC
    assert checkpoint.classes == validation.classes
    assert checkpoint.architecture.parameters == result.parameters
    assert checkpoint.samples.shape[1:] == (227, 227, 3)


def test_progress_counts_every_step_and_validation(images, validation, tmp_path):
    seen = []
    settings = dataclasses.replace(SETTINGS, epochs=1, batch_size=40)
    train(images, validation, SPEC, settings, tmp_path / "net.pt", on_progress=seen.append)
    assert [(p.step, p.steps, p.validation is None) for p in seen] == [
        (1, 3, True), (2, 3, True), (3, 3, True), (3, 3, False),
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_file(run, images, validation, tmp_path):
    result, folder = run
    again = train(images, validation, SPEC, SETTINGS, tmp_path / "net.pt")
    assert again.epochs == result.epochs
    assert (tmp_path / "net.pt").read_bytes() == (folder / "net.pt").read_bytes()


def test_another_seed_gives_other_weights(run, images, validation, tmp_path):
    settings = dataclasses.replace(SETTINGS, seed=1)
    assert train(images, validation, SPEC, settings, tmp_path / "net.pt").epochs != run[0].epochs


def test_an_interrupted_run_resumes_to_the_same_weights(run, images, validation, interrupted):
    epochs = set()
    result = train(
        images, validation, SPEC, SETTINGS, interrupted, resume=True,
        on_progress=lambda progress: epochs.add(progress.epoch),
    )  # fmt: skip
    assert epochs == {2, 3}, "the first epoch is not repeated"
    assert result.epochs == run[0].epochs
    assert_same_weights(interrupted, run[1] / "net.pt")
    assert_same_weights(last_path(interrupted), run[1] / "net.last.pt")


def test_a_finished_run_has_nothing_left_to_resume(run, images, validation, tmp_path):
    shutil.copytree(run[1], tmp_path, dirs_exist_ok=True)
    result = train(images, validation, SPEC, SETTINGS, tmp_path / "net.pt", resume=True)
    assert (result.epochs, result.best) == (run[0].epochs, run[0].best)


def test_a_run_to_safetensors_can_be_resumed(images, validation, tmp_path):
    out, settings = tmp_path / "net.safetensors", dataclasses.replace(SETTINGS, epochs=1)
    first = train(images, validation, SPEC, settings, out)
    assert load_checkpoint(out).preprocess == SPEC
    again = train(images, validation, SPEC, settings, out, resume=True)
    assert again.epochs == first.epochs


@pytest.mark.parametrize(
    "change",
    [{"learning_rate": 0.02}, {"seed": 5}, {"epochs": 4}, {"width": 0.05}, {"flip": False}],
    ids=lambda change: next(iter(change)),
)
def test_resuming_with_other_settings_is_refused_by_name(interrupted, images, validation, change):
    settings = dataclasses.replace(SETTINGS, **change)
    with pytest.raises(StaleArtifactError, match=next(iter(change))) as caught:
        train(images, validation, SPEC, settings, interrupted, resume=True)
    assert set(caught.value.differences) == set(change)
    assert caught.value.hint


def test_resuming_with_other_images_or_preprocessing_is_refused(interrupted, images, validation):
    others = dataclasses.replace(images, items=images.items[:-1])
    with pytest.raises(StaleArtifactError) as caught:
        train(others, validation, SPEC, SETTINGS, interrupted, resume=True)
    assert set(caught.value.differences) == {"images_sha256"}
    with pytest.raises(StaleArtifactError) as caught:
        train(images, validation, PreprocessSpec(227, 227), SETTINGS, interrupted, resume=True)
    assert set(caught.value.differences) == {"preprocess_sha256"}


def test_resuming_nothing_is_refused(run, images, validation, tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        train(images, validation, SPEC, SETTINGS, tmp_path / "net.pt", resume=True)
    shutil.copy(run[1] / "net.pt", last_path(tmp_path / "net.pt"))
    with pytest.raises(InputError, match="no training state"):
        train(images, validation, SPEC, SETTINGS, tmp_path / "net.pt", resume=True)


@pytest.mark.parametrize("relabel", [lambda images: images, wrongly_labelled])
def test_the_checkpoint_is_of_the_best_epoch(images, validation, tmp_path, relabel):
    out, validation = tmp_path / "net.pt", relabel(validation)

    def keep(progress):
        if progress.step == 1 and progress.epoch > 1:
            shutil.copy(last_path(out), tmp_path / f"epoch{progress.epoch - 1}.pt")

    result = train(images, validation, SPEC, SETTINGS, out, on_progress=keep)
    shutil.copy(last_path(out), tmp_path / "epoch3.pt")
    assert result.best.validation == max(epoch.validation for epoch in result.epochs)
    assert top1(out, validation) == pytest.approx(result.best.validation)
    assert_same_weights(out, tmp_path / f"epoch{result.best.epoch}.pt")


def test_images_without_labels_are_refused(images, validation, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    unlabelled = open_images(tmp_path)
    with pytest.raises(DatasetError, match="without class folders"):
        train(unlabelled, validation, SPEC, SETTINGS, tmp_path / "net.pt")
    with pytest.raises(DatasetError, match="without class folders"):
        train(images, unlabelled, SPEC, SETTINGS, tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("folders", "named"),
    [({"cat": 3}, "holds one class"), ({"cat": 3, "dog": 0, "owl": 2}, "'dog' is empty")],
)
def test_classes_that_cannot_be_told_apart_are_refused(validation, tmp_path, folders, named):
    for name, count in folders.items():
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (32, 32), (index, 0, 0)).save(tmp_path / name / f"{index}.png")
    with pytest.raises(DatasetError, match=named) as caught:
        train(open_images(tmp_path), validation, SPEC, SETTINGS, tmp_path / "net.pt")
    assert caught.value.hint


def test_an_empty_validation_set_is_refused(images, tmp_path):
    rest, none = split(images, share=0.001, seed=0)
    assert len(rest) == len(images)
    with pytest.raises(DatasetError, match="holds no images"):
        train(rest, none, SPEC, SETTINGS, tmp_path / "net.pt")


def test_a_crop_other_than_the_networks_input_is_refused(images, validation, tmp_path):
    with pytest.raises(InputError, match="crop is 224, alexnet takes 227"):
        train(images, validation, PreprocessSpec(crop=224), SETTINGS, tmp_path / "net.pt")


def test_a_missing_folder_is_refused_before_the_first_step(images, validation, tmp_path):
    steps = []
    with pytest.raises(InputError, match="no such folder"):
        train(
            images, validation, SPEC, SETTINGS, tmp_path / "missing" / "net.pt",
            on_progress=steps.append,
        )  # fmt: skip
    assert steps == []


def test_a_loss_that_is_not_finite_stops_the_run(images, validation, tmp_path):
    settings = dataclasses.replace(SETTINGS, learning_rate=1e12)
    with pytest.raises(InputError, match="loss is not finite at epoch 1, step") as caught:
        train(images, validation, SPEC, settings, tmp_path / "net.pt")
    assert "--lr" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["epochs", "batch_size", "learning_rate", "clip"])
def test_settings_that_are_not_positive_are_refused(name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        TrainSettings(**{name: 0})


def test_splitting_takes_the_same_share_of_every_class():
    images = open_images("digits:train")
    rest, held_out = split(images, share=0.1, seed=0)
    assert {i.name for i in rest.items}.isdisjoint(i.name for i in held_out.items)
    assert len(rest) + len(held_out) == len(images)
    counts = [sum(i.label == label for i in held_out.items) for label in range(10)]
    assert max(counts) - min(counts) <= 1
    assert split(images, share=0.1, seed=0) == (rest, held_out)


KILLED = """
import os, resource, signal, sys
from pathlib import Path
from alexnet_edge.train import train
from tests.test_train import SETTINGS, SPEC, open_images

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def arm(progress):
    if progress.epoch != 2:
        return
    if sys.argv[2] == "written":
        os.fsync = die
    else:  # the kernel ends the process in the midst of a write
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

images, validation = open_images("digits:train").sample(96), open_images("digits:val").sample(40)
train(images, validation, SPEC, SETTINGS, Path(sys.argv[1]), on_progress=arm)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["half written", "written"])
def test_a_process_killed_during_a_save_leaves_whole_checkpoints(
    run, images, validation, tmp_path, moment
):
    out = tmp_path / "net.pt"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(out), moment], check=False, capture_output=True,
        cwd=__file__.rsplit("tests", 1)[0], text=True,
    )  # fmt: skip
    expected = signal.SIGKILL if moment == "written" else signal.SIGXFSZ
    assert ended.returncode == -expected, ended.stderr
    partial = [path for path in tmp_path.iterdir() if "partial" in path.name]
    assert len(partial) == 1, "it was killed while it was writing"
    for path in (out, last_path(out)):
        assert load_checkpoint(path).preprocess == SPEC
    result = train(images, validation, SPEC, SETTINGS, out, resume=True)
    assert result.epochs == run[0].epochs
    assert_same_weights(out, run[1] / "net.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"net.pt", "net.last.pt"}
