"""An engine with its input, ready to answer queries."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

from alexnet_edge.bench.inputs import Inputs, InputSummary
from alexnet_edge.bench.results import WarmUp
from alexnet_edge.bench.settings import MULTI_STREAM, OFFLINE, BenchSettings
from alexnet_edge.bench.turns import Turn
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import Runtime

_OFFLINE_BATCHES = 8
"""Of random values that the offline scenario goes through."""


@dataclasses.dataclass
class Contender:
    """An engine at a batch size, and what was measured of it so far.

    Attributes:
        engine: it.
        batch: the images of one inference, the first of those that are fed.
        input: what all of them are.
        query: answers one query; several threads may call it, as many as the engine has contexts.
        parts: images of each inference that one query takes.
        images: that one query answers; fewer than its parts, where a fixed batch is padded.
        flush: empties the caches before a query, untimed; None to leave them warm.
        warmup: None before it.
        turns: what was measured.
    """

    engine: Runtime
    batch: AnyArray
    input: InputSummary
    query: Callable[[], object]
    parts: tuple[int, ...]
    images: int
    flush: Callable[[], None] | None = None
    warmup: WarmUp | None = None
    turns: list[Turn] = dataclasses.field(default_factory=list)

    @property
    def label(self) -> str:
        """The engine's file, and the batch size."""
        return f"{Path(self.engine.info.path).name} at batch {len(self.batch)}"

    @property
    def samples(self) -> int:
        """Timed queries so far."""
        return sum(len(turn.latency_ns) for turn in self.turns)

    @property
    def elapsed_s(self) -> float:
        """Timed seconds so far."""
        return sum(turn.elapsed_ns for turn in self.turns) / 1e9

    @property
    def is_overloaded(self) -> bool:
        """Whether queries had to be given up."""
        return any(turn.unserved for turn in self.turns)

    def is_enough(self, settings: BenchSettings) -> bool:
        """Whether it was measured for long enough; an overloaded engine will not recover."""
        enough = self.samples >= settings.min_samples and self.elapsed_s >= settings.duration_s
        return enough or self.is_overloaded


def make_contender(
    engine: Runtime,
    settings: BenchSettings,
    size: int | None,
    inputs: Inputs,
    flush: Callable[[], None] | None,
) -> Contender:
    """Prepare the queries of a scenario; one after the other goes through all batches there are.

    Args:
        engine: opened.
        settings: the scenario.
        size: images per inference; None for the engine's fixed batch size, or the scenario's.
        inputs: makes the batches.
        flush: empties the caches.

    Raises:
        DatasetError: images cannot be read.
        InputError: the batch size is not one that the engine takes, or it does not say how images
            are prepared.
    """
    scenario, spec = settings.scenario, engine.info.input
    if scenario.name == MULTI_STREAM and size is None:
        size = spec.batch or scenario.images_per_query
    of_random = _OFFLINE_BATCHES if scenario.name == OFFLINE else 1
    batches = inputs.make(engine.info, size, of_random=of_random)
    engine.check(batches[0])
    images = len(batches[0])
    if scenario.name == MULTI_STREAM:
        images = scenario.images_per_query
    sizes = _split(images, len(batches[0]), spec.batch)
    following = itertools.cycle(batches)
    query = functools.partial(_infer_next, engine, following, sizes)
    return Contender(engine, batches[0], inputs.summary, query, sizes, images, flush)


def _split(images: int, batch: int, fixed: int | None) -> tuple[int, ...]:
    """Return the sizes of a query's inferences; a fixed batch runs in full for the rest as well."""
    rest = images % batch
    return (batch,) * (images // batch) + ((rest if fixed is None else batch,) if rest else ())


def _infer_next(engine: Runtime, following: Iterator[AnyArray], sizes: tuple[int, ...]) -> None:
    for size in sizes:
        engine.infer(next(following)[:size])
