"""An engine with its input, ready to answer queries."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from alexnet_edge.bench.results import WarmUp
from alexnet_edge.bench.settings import MULTI_STREAM, OFFLINE, BenchSettings
from alexnet_edge.bench.turns import Turn
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.base import Runtime

_POOL_BYTES = 64 << 20
"""Of different input batches that the offline scenario goes through."""


@dataclasses.dataclass
class Contender:
    """An engine at a batch size, and what was measured of it so far.

    Attributes:
        engine: it.
        batch: the images of one inference.
        query: answers one query; several threads may call it, as many as the engine has contexts.
        parts: images of each inference that one query takes.
        images: that one query answers; fewer than its parts, where a fixed batch is padded.
        flush: empties the caches before a query, untimed; None to leave them warm.
        warmup: None before it.
        turns: what was measured.
    """

    engine: Runtime
    batch: AnyArray
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
    flush: Callable[[], None] | None,
) -> Contender:
    """Prepare the queries of a scenario.

    Args:
        engine: opened.
        settings: the scenario, and the seed of the input.
        size: images per inference; None for the engine's fixed batch size, or the scenario's.
        flush: empties the caches.

    Raises:
        InputError: the batch size is not one that the engine takes.
    """
    scenario, spec = settings.scenario, engine.info.input
    if scenario.name == MULTI_STREAM and size is None:
        size = spec.batch or scenario.images_per_query
    batch = synthetic_input(spec, size, seed=settings.seed)
    engine.check(batch)
    query: Callable[[], object]
    if scenario.name == MULTI_STREAM:
        wanted = scenario.images_per_query
        parts = [batch] * (wanted // len(batch))
        if rest := wanted % len(batch):
            # A fixed batch runs in full for the rest of the query as well.
            parts.append(batch[:rest] if spec.batch is None else batch)
        query = functools.partial(_infer_each, engine, parts)
        sizes = tuple(map(len, parts))
        return Contender(engine, batch, query, sizes, wanted, flush)
    if scenario.name == OFFLINE:
        count = max(1, min(8, _POOL_BYTES // batch.nbytes))
        pool = [
            synthetic_input(spec, len(batch), seed=settings.seed + index) for index in range(count)
        ]
        chosen = itertools.cycle(pool)
        query = functools.partial(_infer_next, engine, chosen)
    else:
        query = functools.partial(engine.infer, batch)
    return Contender(engine, batch, query, (len(batch),), len(batch), flush)


def synthetic_input(spec: TensorSpec, batch: int | None, *, seed: int) -> AnyArray:
    """Return a random batch: uniform bytes, or standard normal floats as normalized images are."""
    rng = np.random.default_rng(seed)
    shape = (batch or spec.batch or 1, *(size or 1 for size in spec.shape[1:]))
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32)


def _infer_each(engine: Runtime, parts: list[AnyArray]) -> None:
    for part in parts:
        engine.infer(part)


def _infer_next(engine: Runtime, batches: Iterator[AnyArray]) -> None:
    engine.infer(next(batches))
