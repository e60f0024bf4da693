"""Does the engine still answer as the FP32 model did?

Both see the same images through the same preprocessing. On labelled images the question is whether
the engine loses more accuracy than a margin; the verdict is `pass` or `fail` only where the
interval lies wholly on one side of it, and `inconclusive` where there are too few images to tell.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np

from alexnet_edge.dataset import ImageReader, ImageSet, SkippedImage
from alexnet_edge.errors import DatasetError, InputError, StaleArtifactError
from alexnet_edge.preprocess import AnyArray, PreprocessSpec
from alexnet_edge.runtimes.base import EngineInfo, Runtime
from alexnet_edge.similarity import centred_logits, sqnr_db

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"

_RESAMPLES = 20_000


@dataclasses.dataclass(frozen=True)
class ParitySettings:
    """How to compare.

    Attributes:
        margin_pp: largest acceptable loss of top-1, in percentage points.
        batch_size: images per inference.
        max_images: how many images to take, evenly over the classes; None for all.
        seed: of the choice of images and of the bootstrap.
        max_bad: share of the images that may fail to decode.
    """

    margin_pp: float = 0.5
    batch_size: int = 8
    max_images: int | None = None
    seed: int = 0
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.margin_pp < 100:
            raise InputError(f"margin is {self.margin_pp}", hint="give percentage points, as 0.5")
        for name in ("batch_size", "max_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", hint="give 1 or more")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}", hint="give 0 or more")


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Fractions of the labelled images; top-5 is None with fewer than 6 classes."""

    top1: float
    top5: float | None


@dataclasses.dataclass(frozen=True)
class Flips:
    """Labelled images whose correctness changed."""

    fixed: int
    broken: int


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
        drop_ci95_pp: its 95 % interval by paired bootstrap.
        flips: fixed and broken answers.
        mcnemar_p: exact two-sided p-value that fixed and broken are equally likely.
        margin_pp, verdict: the margin, and `pass`, `fail` or `inconclusive`.
        basis: what the verdict rests on: `top1`, or `agreement` without labels.
        skipped: images that could not be decoded.
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
    flips: Flips | None
    mcnemar_p: float | None
    margin_pp: float
    verdict: str
    basis: str
    skipped: tuple[SkippedImage, ...]
    engine_path: str
    reference_path: str


@dataclasses.dataclass(frozen=True)
class ParityProgress:
    """How far a comparison is."""

    done: int
    total: int
    seconds_left: float


def compare_answers(
    engine: Runtime,
    reference: Runtime,
    images: ImageSet,
    settings: ParitySettings,
    *,
    classes: tuple[str, ...] | None = None,
    on_progress: Callable[[ParityProgress], None] = lambda _: None,
) -> ParityResult:
    """Run both over the images and judge.

    Args:
        engine, reference: opened.
        images: with labels (class folders) for accuracy, without for agreement only.
        settings: margin and batch size.
        classes: names in label order, for models that name none.
        on_progress: called after every batch.

    Raises:
        DatasetError: class folders, and neither model nor argument names the classes.
        StaleArtifactError: the two prepare images differently, or answer other classes.
    """
    spec = _shared_preprocess(engine.info, reference.info)
    chosen = images.sample(settings.max_images, seed=settings.seed)
    chosen = _with_model_classes(chosen, engine.info, reference.info, classes)
    tally = _Tally(engine.info.output_kind, reference.info.output_kind)
    reader = ImageReader(
        chosen, spec.with_input("uint8"), batch_size=settings.batch_size, max_bad=settings.max_bad
    )
    started = time.monotonic()
    for batch in reader:
        crops = list(batch.tensor)
        answers = [
            runtime.infer_any(spec.with_input(runtime.info.input.dtype).to_input(crops))
            for runtime in (engine, reference)
        ]
        tally.add(*answers, labels=[item.label for item in batch.items])
        pace = (time.monotonic() - started) / tally.images
        left = len(chosen) - len(reader.skipped) - tally.images
        on_progress(ParityProgress(tally.images, len(chosen), left * pace))
    return tally.result(settings, engine.info, reference.info, tuple(reader.skipped))


class _Tally:
    """Sums over batches; memory does not grow with the outputs' width."""

    def __init__(self, engine_kind: str, reference_kind: str) -> None:
        self._kinds = (engine_kind, reference_kind)
        self.images = 0
        self._agreed = 0
        self._signal = self._noise = self._logit_signal = self._logit_noise = 0.0
        self._max_abs = 0.0
        # Per labelled image: (engine, reference) correct at top-1, and at top-5.
        self._top1: list[tuple[bool, bool]] = []
        self._top5: list[tuple[bool, bool]] = []
        self._classes = 0

    def add(self, engine: AnyArray, reference: AnyArray, *, labels: list[int | None]) -> None:
        """Count one batch of answers (N, classes)."""
        if engine.shape != reference.shape:
            raise StaleArtifactError(
                "the engine and the reference answer differently",
                {"classes": (reference.shape[1], engine.shape[1])},
                hint="build the engine from the reference",
            )
        self._classes = engine.shape[1]
        self.images += len(engine)
        self._agreed += int((engine.argmax(1) == reference.argmax(1)).sum())
        logits = [
            centred_logits(answers, probabilities=kind == "probabilities")
            for answers, kind in zip((engine, reference), self._kinds, strict=True)
        ]
        self._logit_signal += float((logits[1] ** 2).sum())
        self._logit_noise += float(((logits[1] - logits[0]) ** 2).sum())
        ours, theirs = self._comparable(engine, reference, logits)
        self._signal += float((theirs**2).sum())
        self._noise += float(((theirs - ours) ** 2).sum())
        self._max_abs = max(self._max_abs, float(np.abs(ours - theirs).max()))
        for row, label in enumerate(labels):
            if label is not None:
                answers = (engine[row], reference[row])
                self._top1.append((_ranks(answers[0], label) < 1, _ranks(answers[1], label) < 1))
                self._top5.append((_ranks(answers[0], label) < 5, _ranks(answers[1], label) < 5))

    def _comparable(
        self, engine: AnyArray, reference: AnyArray, logits: list[AnyArray]
    ) -> tuple[AnyArray, AnyArray]:
        """Outputs as they are, where both are of one kind; else as centred logits."""
        if self._kinds[0] != self._kinds[1]:
            return logits[0], logits[1]
        return engine.astype(np.float64), reference.astype(np.float64)

    def result(
        self,
        settings: ParitySettings,
        engine: EngineInfo,
        reference: EngineInfo,
        skipped: tuple[SkippedImage, ...],
    ) -> ParityResult:
        """Judge."""
        agreement = self._agreed / self.images
        accuracies: list[Accuracy | None] = [None, None]
        drop = interval = flips = p_value = None
        if self._top1:
            top1 = np.array(self._top1).mean(axis=0)
            top5 = np.array(self._top5).mean(axis=0)
            accuracies = [
                Accuracy(float(one), float(five) if self._classes > 5 else None)
                for one, five in zip(top1, top5, strict=True)
            ]
            flips = Flips(
                fixed=sum(ours and not theirs for ours, theirs in self._top1),
                broken=sum(theirs and not ours for ours, theirs in self._top1),
            )
            drop = 100 * float(top1[1] - top1[0])
            interval = drop_interval(flips, len(self._top1), seed=settings.seed)
            p_value = mcnemar_exact(flips)
        else:
            changed = Flips(fixed=0, broken=self.images - self._agreed)
            interval = drop_interval(changed, self.images, seed=settings.seed)
        return ParityResult(
            images=self.images,
            labelled=len(self._top1),
            reference=accuracies[1],
            engine=accuracies[0],
            agreement=agreement,
            sqnr_db=sqnr_db(self._signal, self._noise),
            logit_sqnr_db=sqnr_db(self._logit_signal, self._logit_noise),
            max_abs=self._max_abs,
            output_kind=self._kinds[0] if self._kinds[0] == self._kinds[1] else "logits",
            drop_pp=drop,
            drop_ci95_pp=interval if self._top1 else None,
            flips=flips,
            mcnemar_p=p_value,
            margin_pp=settings.margin_pp,
            verdict=judge(interval, settings.margin_pp),
            basis="top1" if self._top1 else "agreement",
            skipped=skipped,
            engine_path=str(engine.path),
            reference_path=str(reference.path),
        )


def judge(interval: tuple[float, float], margin_pp: float) -> str:
    """Return the verdict: on which side of the margin the whole interval lies, if on one."""
    low, high = interval
    if high <= margin_pp:
        return PASS
    return FAIL if low > margin_pp else INCONCLUSIVE


def drop_interval(flips: Flips, count: int, *, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the top-1 drop in percentage points, by paired bootstrap.

    Resampling the images draws the three outcomes (broken, fixed, unchanged) from a multinomial,
    so that is drawn at once. Half a count is added to each of the four cells of the paired table
    first: without it, no flip among ten images would give an interval of no width, and a `pass`
    that nothing supports. (Agresti and Min, Statistics in Medicine 24, 2005.)
    """
    total = count + 2
    broken, fixed = (flips.broken + 0.5) / total, (flips.fixed + 0.5) / total
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(total, [broken, fixed, 1 - broken - fixed], size=_RESAMPLES)
    drops = 100 * (drawn[:, 0] - drawn[:, 1]) / total
    low, high = np.percentile(drops, (2.5, 97.5))
    return float(low), float(high)


def mcnemar_exact(flips: Flips) -> float:
    """Return the exact two-sided p-value of McNemar's test (binomial, p = 1/2)."""
    discordant = flips.fixed + flips.broken
    tail = term = 1  # binomial coefficients, each from the one before: n may be thousands
    for k in range(min(flips.fixed, flips.broken)):
        term = term * (discordant - k) // (k + 1)
        tail += term
    return float(min(1.0, 2 * tail / 2**discordant))


def _ranks(answers: AnyArray, label: int) -> int:
    """Return how many classes come before ``label``; equal answers count by position."""
    value = answers[label]
    return int((answers > value).sum() + (answers[:label] == value).sum())


def _shared_preprocess(engine: EngineInfo, reference: EngineInfo) -> PreprocessSpec:
    spec = engine.preprocess or reference.preprocess
    if spec is None:
        raise InputError(
            f"{engine.path}: neither it nor the reference says how images are prepared",
            hint="build it again with --resize, --crop, --mean and --std",
        )
    differences = spec.differences(reference.preprocess or spec)
    if differences:
        raise StaleArtifactError(
            f"{reference.path} and {engine.path} prepare images differently", differences,
            hint=f"alexnet-edge build {reference.path}",
        )  # fmt: skip
    return spec


def _with_model_classes(
    images: ImageSet,
    engine: EngineInfo,
    reference: EngineInfo,
    given: tuple[str, ...] | None,
) -> ImageSet:
    if engine.classes and reference.classes and engine.classes != reference.classes:
        raise StaleArtifactError(
            f"{reference.path} and {engine.path} name other classes",
            {"classes": (", ".join(reference.classes), ", ".join(engine.classes))},
            hint=f"alexnet-edge build {reference.path}",
        )
    classes = given or engine.classes or reference.classes
    outputs = engine.output.shape[1]
    if given is not None and outputs not in {None, len(given)}:
        raise InputError(
            f"{engine.path}: has {outputs} outputs, {len(given)} classes are named",
            hint="give one name a line for each output, in order",
        )
    if images.classes is not None and classes is None:
        raise DatasetError(
            f"{images.name}: has class folders, but neither model names its classes",
            hint="name them in label order: --classes FILE, one a line",
        )
    return images.with_classes(classes) if classes is not None else images
