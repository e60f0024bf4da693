"""What is kept of every image: a row of numbers for each network, and nothing of its outputs.

Rows lie in arrays, so 50,000 images with one engine take 3 MB; figures are made of them at the end.
So a run can be saved and taken up again, and gives the same figures in whatever pieces it was done.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from alexnet_edge.dataset import ImageItem, ImageSet, SkippedImage
from alexnet_edge.errors import InputError, StaleArtifactError
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import EngineInfo
from alexnet_edge.similarity import centred_logits

PENDING, DONE, SKIPPED = 0, 1, 2

REFERENCE_ROW = np.dtype([("answer", "<i4"), ("rank", "<i4"), ("confidence", "<f4")])
"""Top-1, how many classes come before the label, and the probability of top-1."""

ENGINE_ROW = np.dtype(
    [
        *((name, REFERENCE_ROW[name]) for name in REFERENCE_ROW.names or ()),
        ("max_abs", "<f4"), ("signal", "<f8"), ("noise", "<f8"),
        ("logit_signal", "<f8"), ("logit_noise", "<f8"),
    ]
)  # fmt: skip
"""The same, and how the outputs differ from the reference's: as they are, and as logits."""

Rows = npt.NDArray[np.void]

UNLABELLED = -1


@dataclasses.dataclass(frozen=True)
class AnsweredBatch:
    """What the networks answered to some images.

    Attributes:
        items: the images.
        reference: (N, classes).
        engines: likewise, of each.
    """

    items: Sequence[ImageItem]
    reference: AnyArray
    engines: Sequence[AnyArray]


class Tally:
    """Rows of every image.

    Args:
        images: what is compared, in order.
        reference, engines: what is known of the networks.

    Attributes:
        images: as given.
        labels: (N,) indices of classes, or `UNLABELLED`.
        classes: how many outputs the networks have; 0 before the first batch.
        status: of each image: `PENDING`, `DONE` or `SKIPPED`.
        reference: rows of `REFERENCE_ROW`.
        engines: rows of `ENGINE_ROW`, of each engine.
        skipped: images that could not be decoded, in order.
        position: how many images have been seen.
    """

    def __init__(
        self, images: ImageSet, reference: EngineInfo, engines: Sequence[EngineInfo]
    ) -> None:
        count = len(images)
        self.images = images
        self._reference, self._engines = reference, engines
        self.labels = np.fromiter(
            (UNLABELLED if item.label is None else item.label for item in images.items),
            np.int32, count,
        )  # fmt: skip
        self.classes = 0
        self.position = 0
        self.skipped: list[SkippedImage] = []
        self.status = np.zeros(count, np.uint8)
        self.reference: Rows = np.zeros(count, REFERENCE_ROW)
        self.engines: list[Rows] = [np.zeros(count, ENGINE_ROW) for _ in engines]

    @property
    def done(self) -> int:
        """How many images were compared."""
        return int((self.status == DONE).sum())

    def add(self, batch: AnsweredBatch) -> None:
        """Count a batch that follows on those before it; images left out have been skipped.

        Raises:
            InputError: an answer is not a number.
            StaleArtifactError: the networks have other numbers of classes.
        """
        infos = (self._reference, *self._engines)
        for info, answers in zip(infos, (batch.reference, *batch.engines), strict=True):
            self._require_sane(info, answers, batch)
        self.classes = batch.reference.shape[1]
        places = self._place(batch.items)
        labels = self.labels[places]
        self.reference[places] = _describe(batch.reference, labels, self._reference, REFERENCE_ROW)
        kind = self._reference.output_kind
        theirs = centred_logits(batch.reference, probabilities=kind == "probabilities")
        for rows, info, answers in zip(self.engines, self._engines, batch.engines, strict=True):
            found = _describe(answers, labels, info, ENGINE_ROW)
            ours = centred_logits(answers, probabilities=info.output_kind == "probabilities")
            found["logit_signal"], found["logit_noise"], _ = _difference(ours, theirs)
            if info.output_kind == kind:
                pair = answers.astype(np.float64), batch.reference.astype(np.float64)
            else:
                pair = ours, theirs
            found["signal"], found["noise"], found["max_abs"] = _difference(*pair)
            rows[places] = found

    def _place(self, items: Sequence[ImageItem]) -> npt.NDArray[np.intp]:
        """Return where the images of a batch are; those passed over were skipped."""
        places = []
        at = self.position
        for item in items:
            while self.images.items[at] is not item:
                self.status[at] = SKIPPED
                at += 1
            places.append(at)
            self.status[at] = DONE
            at += 1
        self.position = at
        return np.array(places, np.intp)

    def finish(self) -> None:
        """Note that all images have been seen: what is still pending was skipped."""
        self.status[self.status == PENDING] = SKIPPED
        self.position = len(self.images)

    def rewind(self, position: int) -> None:
        """Forget what comes at ``position`` and after it."""
        self.skipped = self.skipped[: int((self.status[:position] == SKIPPED).sum())]
        self.status[position:] = PENDING
        self.position = position

    def _require_sane(self, info: EngineInfo, answers: AnyArray, batch: AnsweredBatch) -> None:
        if answers.shape != batch.reference.shape:
            raise StaleArtifactError(
                "the engine and the reference answer differently",
                {"classes": (batch.reference.shape[1], answers.shape[1])},
                hint="build the engine from the reference",
            )
        wrong = np.flatnonzero(~np.isfinite(answers).all(axis=1))
        if len(wrong):
            raise InputError(
                f"{info.path}: answers NaN or infinity to {batch.items[int(wrong[0])].name}",
                hint="FP16 overflows above 65504: build --fp32, or --int8 with an FP32 rest",
            )


def _describe(
    answers: AnyArray, labels: npt.NDArray[np.int32], info: EngineInfo, row: np.dtype[np.void]
) -> Rows:
    """Return a network's rows for a batch, without how it differs."""
    rows = np.zeros(len(answers), row)
    rows["answer"] = answers.argmax(axis=1)
    rows["rank"] = rank_labels(answers, labels)
    highest = answers.max(axis=1).astype(np.float64)
    if info.output_kind != "probabilities":
        shifted = answers.astype(np.float64) - highest[:, None]
        highest = 1 / np.exp(shifted).sum(axis=1)
    rows["confidence"] = highest
    return rows


def rank_labels(answers: AnyArray, labels: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Return how many classes come before each label; equal answers count by position.

    Args:
        answers: (N, classes).
        labels: (N,); those below 0 are ranked as if they were 0.
    """
    at = np.maximum(labels, 0).astype(np.intp)
    values = answers[np.arange(len(answers)), at][:, None]
    earlier = np.arange(answers.shape[1])[None, :] < at[:, None]
    ranks: npt.NDArray[np.int64] = ((answers > values) | ((answers == values) & earlier)).sum(1)
    return ranks


def _difference(ours: AnyArray, theirs: AnyArray) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Return each row's sum of squares, that of the difference, and the largest difference."""
    noise = ours - theirs
    return (theirs**2).sum(axis=1), (noise**2).sum(axis=1), np.abs(noise).max(axis=1)
