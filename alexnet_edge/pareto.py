"""What size and speed cost in accuracy: every way to build a network, measured in one run.

    found = measure_pareto(model, ranges, images, ParetoSettings(BuildSettings("int8")))
    choose_point(found, max_drop_pp=0.25, by="size").name

Each candidate is built for real. All engines answer the same images beside the FP32 graph, and take
turns while they are timed, so their figures can be compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alexnet_edge.bench import BenchSettings, Inputs, bench
from alexnet_edge.dataset import ImageSet
from alexnet_edge.engine.build import BuildSettings, build_engine, default_out
from alexnet_edge.errors import AlexnetEdgeError, BuildError, InputError
from alexnet_edge.machine import environment
from alexnet_edge.parity import ParityResult, ParitySettings, compare_engines
from alexnet_edge.quantize.int4 import BLOCKS, DEFAULT_BLOCK, Int4Settings
from alexnet_edge.runtimes.base import Runtime, RuntimeOptions
from alexnet_edge.runtimes.loader import availability, open_engine

BY = ("size", "latency")
"""What a point can be chosen by."""

Progress = Callable[[str, int, int], None]

_WARMUP_S = 0.5
"""At least so long, or as long as is measured, where that is less."""


@dataclasses.dataclass(frozen=True)
class ParetoSettings:
    """What to compare, and how.

    Attributes:
        build: the target; its precision is that of the candidates' convolutions in turn.
        batches: sizes that latency is measured at.
        duration_s: of timing, for each engine and batch; 0 for no timing.
        threads: of the CPU; None for all.
        parity: how answers are compared.
    """

    build: BuildSettings
    batches: tuple[int, ...] = (1, 8)
    duration_s: float = 2.0
    threads: int | None = None
    parity: ParitySettings = dataclasses.field(default_factory=ParitySettings)

    def __post_init__(self) -> None:
        if not self.batches or self.duration_s < 0:
            raise InputError(
                f"batches are {self.batches}, the duration is {self.duration_s}",
                hint="give at least one batch size, and 0 seconds or more",
            )


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to build the network."""

    name: str
    settings: BuildSettings


@dataclasses.dataclass(frozen=True)
class ParetoPoint:
    """A candidate and what it is worth.

    Attributes:
        name: of the candidate.
        size_bytes: of its engine.
        latency_ms: batch size to the median latency; empty where it was not measured.
        top1: share of the labelled images that are right; None without labels, or where the engine
            does not run here.
        drop_pp: top-1 lost against FP32 in percentage points; without labels the share of answers
            that changed.
        drop_ci95_pp: its interval; None without labels.
        agreement, logit_sqnr_db: beside FP32; no SQNR where nothing differs.
        on_front: no other is as good in size, latency and SQNR and better in one of them.
    """

    name: str
    size_bytes: int
    latency_ms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    top1: float | None = None
    drop_pp: float | None = None
    drop_ci95_pp: tuple[float, float] | None = None
    agreement: float | None = None
    logit_sqnr_db: float | None = None
    on_front: bool = False


@dataclasses.dataclass(frozen=True)
class SkippedCandidate:
    """A candidate that could not be built for the target, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Pareto:
    """All candidates, the smallest first.

    Attributes:
        model, runtime: what was built, for what.
        images, labelled: how many were judged on, and how many of them have a label.
        measured: what latency and accuracy are of, or why they are missing.
        valid, invalid_because: of the timing; see `bench`.
    """

    model: str
    runtime: str
    images: int
    labelled: int
    measured: str
    points: tuple[ParetoPoint, ...]
    skipped: tuple[SkippedCandidate, ...]
    environment: dict[str, Any]
    valid: bool = True
    invalid_because: tuple[str, ...] = ()
    kind: str = "pareto"


def list_candidates(
    build: BuildSettings, layers: Sequence[str], linear: Sequence[str] = ()
) -> list[Candidate]:
    """Return the ways to build for a target.

    Args:
        build: the target.
        layers: names of the network's weighted layers in order; the first and the last are those
            that are spared from INT8 most often.
        linear: names of the fully connected ones among them. All but the last, which is small and
            decides, may have 2 bits where there is a kernel for that.
    """
    four_bits = {block: Int4Settings(block) for block in (DEFAULT_BLOCK, min(BLOCKS))}
    plain = dataclasses.replace(build, int4=None, spared=(), judgement=None)

    def one(name: str, precision: str, **changes: Any) -> Candidate:
        return Candidate(name, dataclasses.replace(plain, precision=precision, **changes))

    found = [one("fp32", "fp32"), one("int8", "int8")]
    found += [one(f"int8, {name} in float", "int8", spared=(name,))
              for name in dict.fromkeys((layers[0], layers[-1]))]  # fmt: skip
    found += [one(f"int8 + int4-fc/{block}", "int8", int4=int4)
              for block, int4 in four_bits.items()]  # fmt: skip
    found.append(one(f"int4-fc/{DEFAULT_BLOCK}", "fp32", int4=four_bits[DEFAULT_BLOCK]))
    if build.runtime != "onnxruntime":
        found.insert(1, one("fp16", "fp16"))
        return found
    for count in range(1, len(linear)):
        fewer = Int4Settings(DEFAULT_BLOCK, two_bit=tuple(linear[:count]))
        with contextlib.suppress(BuildError):  # this version of the runtime has no kernel for it
            found.append(one(f"int8 + int2-fc/{count} of {len(linear)}", "int8", int4=fewer))
    return found


def measure_pareto(
    model: Path,
    ranges: Mapping[str, Any],
    images: ImageSet,
    settings: ParetoSettings,
    candidates: Sequence[Candidate],
    *,
    int4_images: Any = None,
    on_progress: Progress = lambda *_: None,
) -> Pareto:
    """Build, compare and time every candidate.

    Args:
        model: the FP32 graph.
        ranges: `build_engine`'s ``table`` and ``choice``.
        images: to judge by, labelled by the model's classes or not at all.
        settings: how.
        candidates: as `list_candidates` gives them.
        int4_images: to round 4-bit weights to; see `build_engine`.
        on_progress: told what is done, and how many of how many are.

    Raises:
        BuildError: no candidate can be built.
        DatasetError: there is no image, or too many cannot be read.
    """
    found = availability(settings.build.runtime)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="alexnet-edge-")))
        builder = _Builder(model, ranges, int4_images, folder)
        for index, candidate in enumerate(candidates):
            on_progress(f"building {candidate.name}", index, len(candidates))
            builder.build(candidate)
        if not builder.engines:
            raise BuildError(
                f"{model}: nothing can be built for {settings.build.runtime} "
                f"({builder.skipped[0].reason})",
                hint="see what this machine has: alexnet-edge doctor",
            )
        points = [ParetoPoint(name, path.stat().st_size) for name, path in builder.engines.items()]
        result = Pareto(
            str(model), settings.build.runtime, 0, 0, f"sizes alone: {found.reason}",
            tuple(points), tuple(builder.skipped), environment(),
        )  # fmt: skip
        if found.runs:
            options = RuntimeOptions(threads=settings.threads)
            opened = [
                stack.enter_context(open_engine(path, options)) for path in builder.engines.values()
            ]
            judged = compare_engines(
                opened, stack.enter_context(open_engine(model, options)), images, settings.parity,
                on_progress=lambda at: on_progress("comparing answers", at.done, at.total),
            )  # fmt: skip
            result = _judge(result, judged)
            result = _time(result, opened, images, settings, on_progress)
    return dataclasses.replace(result, points=mark_front(result.points))


def choose_point(found: Pareto, *, max_drop_pp: float, by: str) -> ParetoPoint:
    """Return the smallest or the fastest candidate that loses at most so much.

    Args:
        found: measured where the engines run.
        max_drop_pp: of top-1, in percentage points.
        by: `size`, or `latency` at the first batch size.

    Raises:
        InputError: ``by`` is neither, or was not measured; or no candidate loses so little.
    """
    if by not in BY:
        raise InputError(f"a point is not chosen by '{by}'", hint=f"one of {', '.join(BY)}")
    judged = [point for point in found.points if point.drop_pp is not None]
    if not judged or (by == "latency" and not judged[0].latency_ms):
        raise InputError(
            f"{found.runtime}: {found.measured}", hint="choose where the engines run, and with time"
        )
    good = [point for point in judged if (point.drop_pp or 0.0) <= max_drop_pp]
    if not good:
        least = min(point.drop_pp or 0.0 for point in judged)
        raise InputError(
            f"every candidate loses more than {max_drop_pp:g} pp of top-1, the best {least:.2f}",
            hint="allow more with --max-drop",
        )
    if by == "size":
        return min(good, key=lambda point: point.size_bytes)
    return min(good, key=lambda point: next(iter(point.latency_ms.values())))


def mark_front(points: Sequence[ParetoPoint]) -> tuple[ParetoPoint, ...]:
    """Return the points, the smallest first, each with whether it is on the Pareto front."""
    costs = [_costs(point) for point in points]
    marked = [
        dataclasses.replace(
            point,
            on_front=not any(
                other != own and all(a <= b for a, b in zip(other, own, strict=True))
                for other in costs
            ),
        )
        for point, own in zip(points, costs, strict=True)
    ]
    return tuple(sorted(marked, key=lambda point: point.size_bytes))


def _costs(point: ParetoPoint) -> tuple[float, ...]:
    """Return what is better the smaller it is; what was not measured is alike for all."""
    noise = 0.0
    if point.agreement is not None:
        noise = -float("inf") if point.logit_sqnr_db is None else -point.logit_sqnr_db
    return (float(point.size_bytes), noise, *point.latency_ms.values())


class _Builder:
    """Builds into a folder, and keeps what could not be built with its reason."""

    def __init__(
        self, model: Path, ranges: Mapping[str, Any], int4_images: Any, folder: Path
    ) -> None:
        self._model, self._ranges, self._images = model, ranges, int4_images
        self._folder = folder
        self.engines: dict[str, Path] = {}
        self.skipped: list[SkippedCandidate] = []

    def build(self, candidate: Candidate) -> None:
        name = default_out(Path("network.onnx"), candidate.settings).name
        out = self._folder / f"{len(self.engines) + len(self.skipped)}.{name}"
        table = self._ranges.get("table")
        given = self._ranges if candidate.settings.precision == "int8" else {}
        try:
            build_engine(
                self._model, out, candidate.settings, **given,
                preprocess=None if table is None else table.preprocess,
                int4_images=self._images if candidate.settings.int4 is not None else None,
            )  # fmt: skip
        except AlexnetEdgeError as error:
            self.skipped.append(SkippedCandidate(candidate.name, error.message))
            return
        self.engines[candidate.name] = out


def _judge(result: Pareto, judged: Sequence[ParityResult]) -> Pareto:
    points = tuple(
        _with_accuracy(point, parity) for point, parity in zip(result.points, judged, strict=True)
    )
    return dataclasses.replace(
        result, images=judged[0].images, labelled=judged[0].labelled, points=points
    )


def _with_accuracy(point: ParetoPoint, parity: ParityResult) -> ParetoPoint:
    changed = 100 * (1 - parity.agreement)
    return dataclasses.replace(
        point,
        top1=None if parity.engine is None else parity.engine.top1,
        drop_pp=changed if parity.drop_pp is None else parity.drop_pp,
        drop_ci95_pp=parity.drop_ci95_pp,
        agreement=parity.agreement,
        logit_sqnr_db=parity.logit_sqnr_db,
    )


def _time(
    result: Pareto,
    opened: Sequence[Runtime],
    images: ImageSet,
    settings: ParetoSettings,
    on_progress: Progress,
) -> Pareto:
    if not settings.duration_s:
        return dataclasses.replace(result, measured="accuracy alone: no timing was asked for")
    timed = bench(
        opened,
        BenchSettings(
            warmup_s=min(_WARMUP_S, settings.duration_s),
            duration_s=settings.duration_s,
            min_samples=20,
            sweep=settings.batches,
        ),
        inputs=Inputs(images),
        on_progress=lambda at: on_progress("taking turns", int(at.done_s), int(at.total_s)),
    )
    latencies: dict[str, dict[str, float]] = {}
    for row in timed.engines:
        latencies.setdefault(row.engine, {})[str(row.batch)] = round(row.latency_ms.p50, 4)
    points = tuple(
        dataclasses.replace(point, latency_ms=latencies[str(engine.info.path)])
        for point, engine in zip(result.points, opened, strict=True)
    )
    return dataclasses.replace(
        result,
        measured=f"{result.runtime}, engines in turns",
        points=points,
        valid=timed.valid,
        invalid_because=timed.invalid_because,
    )
