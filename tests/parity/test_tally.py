"""Rows of images: what they hold, and how little memory they take."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from alexnet_edge.dataset import ImageItem, ImageSet
from alexnet_edge.parity.state import RunState
from alexnet_edge.parity.summary import Summary
from alexnet_edge.parity.tally import AnsweredBatch, Tally, rank_labels
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.base import EngineInfo

CLASSES = 1000


def info(path, kind="probabilities"):
    return EngineInfo(
        path=path, runtime="onnxruntime", precision="int8",
        input=TensorSpec("input", "float32", (None, 3, 227, 227)),
        output=TensorSpec("answers", "float32", (None, CLASSES)),
        output_kind=kind, model_sha256="",
    )  # fmt: skip


def image_set(count, labelled=True):
    pixels = np.zeros((1, 1, 3), np.uint8)
    items = tuple(
        ImageItem(f"{index}", pixels, index % CLASSES if labelled else None)
        for index in range(count)
    )
    return ImageSet("synthetic", items, tuple(map(str, range(CLASSES))) if labelled else None)


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def test_50000_images_of_1000_classes_take_a_few_megabytes(tmp_path):
    images = image_set(50_000)
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (1000, CLASSES)).astype(np.float32)
    answers = [softmax(logits), softmax(logits + rng.normal(0, 0.05, logits.shape))]
    state = RunState(tmp_path / "state", {"images": "x"})
    tracemalloc.start()
    tally = Tally(images, info(tmp_path / "a"), [info(tmp_path / "b")])
    tally.add(AnsweredBatch(images.items[:1000], answers[0], [answers[1]]))
    first = tracemalloc.get_traced_memory()[0]
    for start in range(1000, 50_000, 1000):
        tally.add(AnsweredBatch(images.items[start : start + 1000], answers[0], [answers[1]]))
    last, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    state.save(tally, 50_000, 1.0)
    assert last < 4e6, "all rows"
    assert last - first < 0.2e6, "nothing grows with the images that have been seen"
    assert state.path.stat().st_size < 4e6
    summary = Summary(tally, 0)
    assert summary.count == summary.labelled == 50_000
    assert summary.agreement == (answers[0].argmax(1) == answers[1].argmax(1)).mean()
    assert len(summary.per_class()) == CLASSES
    assert len(summary.flipped()) == min(1000, summary.changed)


def test_lists_of_images_are_bounded(tmp_path):
    images = image_set(3000, labelled=False)
    rng = np.random.default_rng(0)
    ours, theirs = (softmax(rng.normal(0, 1, (3000, CLASSES))) for _ in range(2))
    tally = Tally(images, info(tmp_path / "a"), [info(tmp_path / "b")])
    tally.add(AnsweredBatch(images.items, theirs, [ours]))
    summary = Summary(tally, 0)
    assert summary.changed > 2900
    assert len(summary.flipped()) == 1000
    assert len(summary.worst()) == 12
    assert {flip.kind for flip in summary.flipped()} == {"changed"}


def test_ranks_are_those_of_a_stable_sort():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 4, (500, 12)).astype(np.float32)  # many are equal
    labels = rng.integers(0, 12, 500).astype(np.int32)
    order = np.argsort(-answers, axis=1, kind="stable")
    expected = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    assert rank_labels(answers, labels).tolist() == expected


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_confidence_is_the_probability_of_the_answer(tmp_path, kind):
    images = image_set(20)
    logits = np.random.default_rng(0).normal(0, 5, (20, CLASSES)).astype(np.float32)
    answers = logits if kind == "logits" else softmax(logits)
    tally = Tally(images, info(tmp_path / "a", kind), [info(tmp_path / "b", kind)])
    tally.add(AnsweredBatch(images.items, answers, [answers]))
    assert tally.reference["confidence"] == pytest.approx(softmax(logits).max(1), rel=1e-4)
