"""Run engines and their reference over the same images, and judge.

Images stream through in batches; the reference answers each batch once, whatever the number of
engines. On labelled images the question is whether an engine loses more accuracy than a margin; the
verdict is `pass` or `fail` only where the interval lies wholly on one side of it, and
`inconclusive` where there are too few images to tell.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.dataset import ImageReader, ImageSet
from alexnet_edge.errors import AlexnetEdgeError, InputError
from alexnet_edge.machine import environment
from alexnet_edge.parity.common import (
    describe_renaming,
    find_preprocess,
    find_warnings,
    hash_images,
    label_images,
)
from alexnet_edge.parity.results import ParityResult
from alexnet_edge.parity.settings import ParityProgress, ParitySettings
from alexnet_edge.parity.state import RunState
from alexnet_edge.parity.statistics import (
    INCONCLUSIVE,
    Flips,
    Interval,
    bootstrap_interval,
    drop_interval,
    images_needed,
    judge,
    mcnemar_exact,
    minimum_detectable_drop_pp,
    noninferiority_p,
)
from alexnet_edge.parity.summary import Summary
from alexnet_edge.parity.tally import AnsweredBatch, Tally
from alexnet_edge.preprocess import AnyArray, PreprocessSpec, UInt8Array
from alexnet_edge.runtimes.base import Runtime

OnProgress = Callable[[ParityProgress], None]


def compare_answers(
    engine: Runtime,
    reference: Runtime,
    images: ImageSet,
    settings: ParitySettings,
    *,
    classes: tuple[str, ...] | None = None,
    on_progress: OnProgress = lambda _: None,
) -> ParityResult:
    """Compare one engine; see `compare_engines`."""
    found = compare_engines(
        [engine], reference, images, settings, classes=classes, on_progress=on_progress
    )
    return found[0]


def compare_engines(
    engines: Sequence[Runtime],
    reference: Runtime,
    images: ImageSet,
    settings: ParitySettings,
    *,
    classes: tuple[str, ...] | None = None,
    state: Path | None = None,
    on_progress: OnProgress = lambda _: None,
) -> tuple[ParityResult, ...]:
    """Run all over the images and judge each engine.

    Args:
        engines, reference: opened.
        images: with labels (class folders) for accuracy, without for agreement only.
        settings: margin and batch size.
        classes: names in label order, for models that name none, or whose folders are named
            otherwise; the result then warns of it.
        state: a file to go on from where it exists; it is written as the run goes and when it is
            interrupted, and stays when it is done: remove it once the result is safe.
        on_progress: called after every batch.

    Raises:
        DatasetError: class folders, and neither model nor argument names the classes; too many
            images cannot be decoded.
        InputError: an answer is not a number; ``classes`` contradict a model's; ``state`` is no
            state, or cannot be written.
        StaleArtifactError: two of the networks prepare images differently, or answer other
            classes; ``state`` is that of another run.
    """
    if not engines:
        raise InputError("there is no engine to compare", hint="name one or more")
    infos = [runtime.info for runtime in engines]
    spec = find_preprocess(infos, reference.info)
    chosen = images.sample(settings.max_images, seed=settings.seed)
    chosen = label_images(chosen, infos, reference.info, classes)
    run = _Run(engines, reference, chosen, spec, settings)
    run.note(describe_renaming(classes, [reference.info, *infos]))
    if state is not None:
        run.open_state(state)
    run.finish(on_progress)
    return run.results()


class _Run:
    """One pass over the images."""

    def __init__(
        self,
        engines: Sequence[Runtime],
        reference: Runtime,
        images: ImageSet,
        spec: PreprocessSpec,
        settings: ParitySettings,
    ) -> None:
        self._engines, self._reference = engines, reference
        self._images, self._spec, self._settings = images, spec, settings
        self._tally = Tally(images, reference.info, [runtime.info for runtime in engines])
        self._state: RunState | None = None
        self._notes: list[str] = []
        self._seconds = 0.0
        self._started = time.monotonic()
        self._engine_sha256 = [sha256_file(runtime.info.path) for runtime in engines]
        self._reference_sha256 = sha256_file(reference.info.path)
        self._images_sha256 = hash_images(images)

    def note(self, warning: str | None) -> None:
        """Add a warning to the results, once."""
        if warning is not None and warning not in self._notes:
            self._notes.append(warning)

    def open_state(self, path: Path) -> None:
        """Take up a run, or begin one that can be."""
        values = dataclasses.asdict(self._settings)
        del values["save_every"]  # says when to write, not what
        identity: dict[str, Any] = {
            "engine_sha256": self._engine_sha256,
            "reference_sha256": self._reference_sha256,
            "images_sha256": self._images_sha256,
            "preprocess_sha256": self._spec.sha256,
            "classes": self._images.classes,
            "runs_on": [
                [runtime.name, runtime.describe().get("provider", runtime.describe().get("device"))]
                for runtime in (self._reference, *self._engines)
            ],
            **values,
        }
        self._state = RunState(path, identity)
        self._seconds = self._state.restore(self._tally)

    def finish(self, on_progress: OnProgress) -> None:
        """Compare the images that are left."""
        tally, every = self._tally, self._settings.save_every
        begin, before, skipped = tally.position, tally.done, tuple(tally.skipped)
        reader = self._open_reader(begin, len(skipped))
        restart = saved = begin
        try:
            for batch in reader:
                restart = tally.position
                tally.skipped = [*skipped, *reader.skipped]
                tally.add(AnsweredBatch(batch.items, *self._answer(list(batch.tensor))))
                on_progress(self._progress(tally.done - before))
                if tally.position - saved >= every:
                    self._save(restart)
                    saved = tally.position
        except KeyboardInterrupt:
            if restart > begin:
                self._save(restart)
            raise
        tally.skipped = [*skipped, *reader.skipped]
        tally.finish()
        self._save(restart)
        self._seconds = self._elapsed()

    def results(self) -> tuple[ParityResult, ...]:
        """Judge each engine."""
        machine = environment()
        return tuple(self._judge(index, machine) for index in range(len(self._engines)))

    def _open_reader(self, begin: int, skipped: int) -> ImageReader:
        """Read from an image on; as many may fail as would have in one go."""
        rest = dataclasses.replace(self._images, items=self._images.items[begin:])
        max_bad = self._settings.max_bad
        if begin:
            left = math.floor(max_bad * len(self._images)) - skipped
            max_bad = min(1.0, max(0.0, (left + 0.5) / len(rest)))
        spec = self._spec.with_input("uint8")
        return ImageReader(rest, spec, batch_size=self._settings.batch_size, max_bad=max_bad)

    def _answer(self, crops: list[UInt8Array]) -> tuple[AnyArray, list[AnyArray]]:
        """Return what the reference and each engine answer; a tensor is made once for each kind."""
        runtimes = (self._reference, *self._engines)
        inputs = {
            dtype: self._spec.with_input(dtype).to_input(crops)
            for dtype in {runtime.info.input.dtype for runtime in runtimes}
        }
        reference, *answers = (
            runtime.infer_any(inputs[runtime.info.input.dtype]) for runtime in runtimes
        )
        return reference, answers

    def _save(self, restart: int) -> None:
        """Save the state; where that fails the run goes on, for its result is worth more."""
        if self._state is None:
            return
        try:
            self._state.save(self._tally, restart, self._elapsed())
        except (OSError, AlexnetEdgeError) as error:
            reason = getattr(error, "strerror", None) or error
            self.note(
                f"{self._state.path}: the state could not be saved ({reason}): the run cannot be "
                "gone on with from there"
            )

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._started

    def _progress(self, done: int) -> ParityProgress:
        pace = done / max(time.monotonic() - self._started, 1e-9)
        tally, total = self._tally, len(self._images)
        left = total - len(tally.skipped) - tally.done
        return ParityProgress(tally.done, total, left / pace, pace)

    def _judge(self, index: int, machine: dict[str, Any]) -> ParityResult:
        summary = Summary(self._tally, index)
        margin = self._settings.margin_pp
        engine, reference = self._engines[index].info, self._reference.info
        kinds = {engine.output_kind, reference.output_kind}
        is_labelled = summary.labelled > 0
        # Without labels every changed answer may be a broken one.
        flips = summary.flips if is_labelled else Flips(fixed=0, broken=summary.changed)
        count = summary.labelled if is_labelled else summary.count
        interval = drop_interval(flips, count)
        # A share of changed answers is never negative.
        basis_interval = interval if is_labelled else (max(0.0, interval[0]), interval[1])
        verdict = judge(interval, margin)
        is_open = verdict == INCONCLUSIVE
        return ParityResult(
            images=summary.count,
            labelled=summary.labelled,
            agreement=summary.agreement,
            sqnr_db=summary.sqnr_db(),
            logit_sqnr_db=summary.sqnr_db("logit_"),
            max_abs=summary.max_abs,
            output_kind=kinds.pop() if len(kinds) == 1 else "logits",
            margin_pp=margin,
            verdict=verdict,
            images_needed=images_needed(flips, count, margin) if is_open else None,
            minimum_detectable_drop_pp=minimum_detectable_drop_pp(flips, count),
            basis="top1" if is_labelled else "agreement",
            per_class=summary.per_class(),
            flipped=summary.flipped(),
            flipped_total=summary.changed,
            worst=summary.worst(),
            skipped=tuple(self._tally.skipped),
            engine_path=str(engine.path),
            reference_path=str(reference.path),
            engine_sha256=self._engine_sha256[index],
            reference_sha256=self._reference_sha256,
            model_sha256=engine.model_sha256,
            images_name=self._images.name,
            images_sha256=self._images_sha256,
            seconds=self._seconds,
            environment=machine,
            verdict_ci95_pp=basis_interval,
            warnings=(*find_warnings(engine, reference), *self._notes),
            **(self._labelled_figures(summary, interval) if is_labelled else _NO_LABELS),
        )

    def _labelled_figures(self, summary: Summary, interval: Interval) -> dict[str, Any]:
        """Return what only labels can tell."""
        reference, engine = summary.accuracies()
        flips, count, margin = summary.flips, summary.labelled, self._settings.margin_pp
        return {
            "reference": reference,
            "engine": engine,
            "drop_pp": 100 * (flips.broken - flips.fixed) / count,
            "drop_ci95_pp": interval,
            "drop_bootstrap95_pp": bootstrap_interval(flips, count, seed=self._settings.seed),
            "flips": flips,
            "mcnemar_p": mcnemar_exact(flips),
            "noninferiority_p": noninferiority_p(flips, count, margin),
        }


_NO_LABELS = dict.fromkeys(
    ("reference", "engine", "drop_pp", "drop_ci95_pp", "drop_bootstrap95_pp", "flips",
     "mcnemar_p", "noninferiority_p")
)  # fmt: skip
