"""Figures of one engine, made of the rows of its images."""

from __future__ import annotations

from typing import Any

import numpy as np

from alexnet_edge.parity.results import (
    BROKEN,
    CHANGED,
    FIXED,
    MOST_FLIPPED,
    MOST_WORST,
    Accuracy,
    ClassParity,
    FlippedImage,
    WorstImage,
)
from alexnet_edge.parity.statistics import Flips
from alexnet_edge.parity.tally import DONE, UNLABELLED, Tally
from alexnet_edge.similarity import sqnr_db

_TOP5 = 5


class Summary:
    """Figures of one engine.

    Args:
        tally: of all.
        engine: which.
    """

    def __init__(self, tally: Tally, engine: int) -> None:
        self._images, self._classes = tally.images, tally.classes
        self._places = np.flatnonzero(tally.status == DONE)
        self._labels = tally.labels[self._places]
        self._reference = tally.reference[self._places]
        self._engine = tally.engines[engine][self._places]
        self._labelled = self._labels != UNLABELLED
        self._was_right = self._labelled & (self._reference["rank"] == 0)
        self._is_right = self._labelled & (self._engine["rank"] == 0)
        self._changed = self._engine["answer"] != self._reference["answer"]

    @property
    def count(self) -> int:
        """Images that were compared."""
        return len(self._places)

    @property
    def labelled(self) -> int:
        """Images of these that have a label."""
        return int(self._labelled.sum())

    @property
    def agreement(self) -> float:
        """Share of the images with the same top-1."""
        return 1 - self.changed / self.count

    @property
    def changed(self) -> int:
        """Images with another top-1."""
        return int(self._changed.sum())

    @property
    def flips(self) -> Flips:
        """Labelled images whose correctness changed."""
        return Flips(
            fixed=int((self._is_right & ~self._was_right).sum()),
            broken=int((self._was_right & ~self._is_right).sum()),
        )

    @property
    def max_abs(self) -> float:
        """The largest difference of any output."""
        return float(self._engine["max_abs"].max())

    def sqnr_db(self, prefix: str = "") -> float | None:
        """Return the SQNR over all images, of the outputs or, with `logit_`, of the logits."""
        rows = self._engine
        return sqnr_db(float(rows[f"{prefix}signal"].sum()), float(rows[f"{prefix}noise"].sum()))

    def accuracies(self) -> tuple[Accuracy, Accuracy]:
        """Return the reference's and the engine's, of labelled images."""
        found = []
        for rows in (self._reference, self._engine):
            ranks = rows["rank"][self._labelled]
            top5 = float((ranks < _TOP5).mean()) if self._classes > _TOP5 else None
            found.append(Accuracy(float((ranks == 0).mean()), top5))
        return found[0], found[1]

    def per_class(self) -> tuple[ClassParity, ...]:
        """Return the classes that have images, in label order."""
        found = []
        for label in np.unique(self._labels[self._labelled]):
            of_class = self._labels == label
            count = int(of_class.sum())
            before, after = self._was_right[of_class], self._is_right[of_class]
            found.append(
                ClassParity({
                    "class": self._name(int(label)),
                    "images": count,
                    "reference_top1": float(before.mean()),
                    "engine_top1": float(after.mean()),
                    "drop_pp": 100 * (int(before.sum()) - int(after.sum())) / count,
                    "fixed": int((after & ~before).sum()),
                    "broken": int((before & ~after).sum()),
                })
            )  # fmt: skip
        return tuple(found)

    def flipped(self) -> tuple[FlippedImage, ...]:
        """Return images whose answer changed: broken, fixed, others; the surest of each first."""
        kinds = np.full(self.count, 2)
        kinds[self._was_right & ~self._is_right] = 0
        kinds[self._is_right & ~self._was_right] = 1
        rows = np.flatnonzero(self._changed)
        order = np.lexsort((rows, -self._engine["confidence"][rows], kinds[rows]))
        return tuple(
            FlippedImage(
                **self._answers(row),
                kind=(BROKEN, FIXED, CHANGED)[kinds[row]],
                confidence=float(self._engine["confidence"][row]),
                reference_confidence=float(self._reference["confidence"][row]),
            )
            for row in rows[order][:MOST_FLIPPED]
        )

    def worst(self) -> tuple[WorstImage, ...]:
        """Return the images on which the outputs differ most."""
        differing = np.flatnonzero(self._engine["max_abs"])
        order = np.argsort(-self._engine["max_abs"][differing], kind="stable")[:MOST_WORST]
        return tuple(
            WorstImage(
                **self._answers(row),
                max_abs=float(self._engine["max_abs"][row]),
                sqnr_db=sqnr_db(
                    float(self._engine["logit_signal"][row]),
                    float(self._engine["logit_noise"][row]),
                ),
            )
            for row in differing[order]
        )

    def _answers(self, row: int) -> dict[str, Any]:
        label = int(self._labels[row])
        return {
            "image": self._images.items[int(self._places[row])].name,
            "label": None if label == UNLABELLED else self._name(label),
            "reference": self._name(int(self._reference["answer"][row])),
            "engine": self._name(int(self._engine["answer"][row])),
        }

    def _name(self, index: int) -> str:
        classes = self._images.classes
        return str(index) if classes is None else classes[index]
