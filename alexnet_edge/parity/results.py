"""What a comparison gives; the field names are the keys of its JSON."""

from __future__ import annotations

import dataclasses
from typing import Any, TypedDict

from alexnet_edge.dataset import SkippedImage
from alexnet_edge.parity.layers import LayerSqnr
from alexnet_edge.parity.stages import Divergence
from alexnet_edge.parity.statistics import Flips

MOST_FLIPPED, MOST_WORST = 1000, 12
"""How many images are listed by name; `flipped_total` says of how many."""

BROKEN, FIXED, CHANGED = "broken", "fixed", "changed"


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Fractions of the labelled images; top-5 is None with fewer than 6 classes."""

    top1: float
    top5: float | None


ClassParity = TypedDict(
    "ClassParity",
    {
        "class": str,
        "images": int,
        "reference_top1": float,
        "engine_top1": float,
        "drop_pp": float,
        "fixed": int,
        "broken": int,
    },
)
"""The images with one class as label: how many, the fractions that are right, and what changed."""


@dataclasses.dataclass(frozen=True)
class FlippedImage:
    """An image whose top-1 answer changed.

    Attributes:
        image: its name within the folder.
        label: its class; None without labels.
        reference, engine: the classes that were answered.
        kind: `broken`, `fixed`, or `changed` where both are wrong or nothing says what is right.
        confidence, reference_confidence: probability of each one's answer.
    """

    image: str
    label: str | None
    reference: str
    engine: str
    kind: str
    confidence: float
    reference_confidence: float


@dataclasses.dataclass(frozen=True)
class WorstImage:
    """An image on which the outputs differ most.

    Attributes:
        image, label, reference, engine: as in `FlippedImage`.
        max_abs: the largest difference of the outputs.
        sqnr_db: of the logits; None where they are equal.
    """

    image: str
    label: str | None
    reference: str
    engine: str
    max_abs: float
    sqnr_db: float | None


@dataclasses.dataclass(frozen=True)
class ParityResult:
    """How an engine compares with its reference.

    Attributes:
        images, labelled: compared, and of these with a label.
        reference, engine: accuracies; None without labels.
        agreement: share of images with the same top-1.
        sqnr_db, max_abs: of the engine's outputs against the reference's, as they are
            (probabilities or logits, as ``output_kind`` says); sqnr_db is None for equal outputs.
        logit_sqnr_db: of the logits, less their mean; a softmax only hides that mean.
        drop_pp: top-1 lost, in percentage points; positive when the engine is worse.
        drop_ci95_pp: its 95 % interval, by Tango's score; with labels the verdict rests on it.
        drop_bootstrap95_pp: the same by paired bootstrap.
        flips: fixed and broken answers.
        mcnemar_p: exact two-sided p-value that fixed and broken are equally likely.
        noninferiority_p: one-sided p-value of a drop of the margin or more; below 0.025 passes.
        margin_pp, verdict: the margin, and `pass`, `fail` or `inconclusive`.
        images_needed: how many would decide at the rates seen; None unless inconclusive.
        minimum_detectable_drop_pp: the smallest drop that so many images show, with 80 % power;
            None where they are too few to show any.
        basis: what the verdict rests on: `top1`, or `agreement` without labels.
        verdict_ci95_pp: the interval that the verdict rests on: ``drop_ci95_pp``, or without labels
            that of the share of changed answers, each of which may be a broken one.
        warnings: what makes the comparison another one than it seems; empty as a rule.
        per_class: classes that have images, in label order; empty without labels.
        flipped, flipped_total: images whose answer changed, broken ones first and the surest
            first; at most `MOST_FLIPPED` of them.
        worst: the images with the largest difference of the outputs.
        layers, layers_note: SQNR layer by layer, and whose; None where it was not asked for.
        divergence: stage by stage; None where it was not asked for.
        skipped: images that could not be decoded.
        engine_path, reference_path, engine_sha256, reference_sha256: the files.
        model_sha256: of the FP32 model that the engine was made from.
        images_name, images_sha256: the set as it was given, and the hash of its names, sizes and
            labels in order.
        seconds: what the run took, earlier parts of it included.
        environment: the machine.
    """

    images: int
    labelled: int
    reference: Accuracy | None
    engine: Accuracy | None
    agreement: float
    sqnr_db: float | None
    logit_sqnr_db: float | None
    max_abs: float
    output_kind: str
    drop_pp: float | None
    drop_ci95_pp: tuple[float, float] | None
    drop_bootstrap95_pp: tuple[float, float] | None
    flips: Flips | None
    mcnemar_p: float | None
    noninferiority_p: float | None
    margin_pp: float
    verdict: str
    images_needed: int | None
    minimum_detectable_drop_pp: float | None
    basis: str
    per_class: tuple[ClassParity, ...]
    flipped: tuple[FlippedImage, ...]
    flipped_total: int
    worst: tuple[WorstImage, ...]
    skipped: tuple[SkippedImage, ...]
    engine_path: str
    reference_path: str
    engine_sha256: str
    reference_sha256: str
    model_sha256: str
    images_name: str
    images_sha256: str
    seconds: float
    environment: dict[str, Any]
    layers: tuple[LayerSqnr, ...] | None = None
    layers_note: str | None = None
    divergence: Divergence | None = None
    verdict_ci95_pp: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    kind: str = "parity"
