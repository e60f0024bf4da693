"""A run: engines take turns, in the order A B … B A, while sensors are read."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from alexnet_edge.bench.caches import CacheFlusher
from alexnet_edge.bench.contenders import Contender, make_contender
from alexnet_edge.bench.floors import add_floor, require_target
from alexnet_edge.bench.inputs import Inputs
from alexnet_edge.bench.interference import CoreWatch, measure_idle_cores
from alexnet_edge.bench.results import BenchProgress, BenchResult, EngineBench, LayerShare
from alexnet_edge.bench.settings import METRICS, MULTI_STREAM, OFFLINE, SERVER, BenchSettings
from alexnet_edge.bench.summary import summarize_engine
from alexnet_edge.bench.turns import Turn, run_back_to_back, run_closed, run_server
from alexnet_edge.bench.validity import judge_extras, judge_run
from alexnet_edge.bench.warmup import warm_up
from alexnet_edge.errors import AlexnetEdgeError
from alexnet_edge.machine import environment
from alexnet_edge.naming import short_names
from alexnet_edge.runtimes.base import Runtime

SLICE_S = 0.25
"""How long an engine runs before the next one takes its turn."""

_SERVER_TURNS, _SERVER_ARRIVALS = 4, 25
"""A server's turn begins with an empty queue, so it lasts longer: a quarter of the run, and as many
arrivals, at least."""

_PATIENCE_S = 2.0
_PROFILE_RUNS, _PROFILE_WARMUP = 20, 5

Progress = Callable[[BenchProgress], None]


def bench(
    engines: Sequence[Runtime],
    settings: BenchSettings,
    *,
    inputs: Inputs | None = None,
    on_progress: Progress = lambda _: None,
) -> BenchResult:
    """Measure engines side by side.

    Args:
        engines: opened.
        settings: what to measure, and for how long.
        inputs: to feed them; None for random values by the seed of the settings.
        on_progress: is told how far the run is.

    Raises:
        DatasetError: images cannot be read.
        InputError: the batch size is not one that an engine takes; it does not say how images are
            prepared; the profile of `settings.target` is unknown or names no bandwidth.
        UnavailableError: an engine cannot flush its GPU's cache.
    """
    from alexnet_edge.sensors import SensorSampler

    if settings.target is not None:
        require_target(settings.target)
    with contextlib.ExitStack() as stack:
        inputs = inputs or Inputs(None, settings.seed)
        rounds, flushing = _plan(engines, settings, inputs, stack)
        measured = [contender for together in rounds for contender in together]
        clock = _Clock(on_progress, settings.duration_s * len(measured))
        sampler = stack.enter_context(SensorSampler())
        idle_cores = 0.0
        watch = CoreWatch()
        for together in rounds:
            idle_cores = max(idle_cores, _measure_together(together, settings, clock))
        other_share = watch.other_share()
        log = sampler.log()
    run_reasons = judge_run(log.throttled(), idle_cores, other_share, settings.bounds)
    rows = [summarize_engine(contender, settings, log, run_reasons) for contender in measured]
    rows = [
        _add_extras(row, contender, settings, clock)
        for row, contender in zip(rows, measured, strict=True)
    ]
    reasons = [*run_reasons, *_engine_reasons(rows, run_reasons)]
    return BenchResult(
        engines=tuple(rows),
        environment=environment(),
        scenario=_describe_scenario(settings, rounds)
        | flushing
        | {"images_name": inputs.summary.name}
        | {"idle_cores": round(idle_cores, 3), "other_share": other_share},
        valid=not reasons,
        invalid_because=tuple(reasons),
        sensors=log.to_dict(),
    )


def _plan(
    engines: Sequence[Runtime],
    settings: BenchSettings,
    inputs: Inputs,
    stack: contextlib.ExitStack,
) -> tuple[list[list[Contender]], dict[str, object]]:
    """Return which engines are measured together at which batch size, and how caches are flushed.

    In a sweep an engine of a fixed batch takes part at its own size only.
    """
    flushers: dict[int, Callable[[], None]] = {}
    flushing: dict[str, object] = {}
    if settings.cache == "flushed":
        on_cpu = [engine for engine in engines if not engine.on_gpu]
        if on_cpu:
            flusher = stack.enter_context(CacheFlusher())
            flushers |= {id(engine): flusher for engine in on_cpu}
            flushing = {"flush_bytes": flusher.buffer_bytes}
        for engine in engines:
            if engine.on_gpu:
                engine.flush_device_cache()
                flushers[id(engine)] = engine.flush_device_cache
    if not settings.sweep:
        sizes: list[int | None] = [settings.batch]
    else:
        fixed = {engine.info.input.batch for engine in engines} - {None, *settings.sweep}
        sizes = [*settings.sweep, *sorted(size for size in fixed if size is not None)]
    rounds = [
        [
            make_contender(engine, settings, size, inputs, flushers.get(id(engine)))
            for engine in engines
            if _takes_part(engine, size, settings)
        ]
        for size in sizes
    ]
    return [together for together in rounds if together], flushing


def _takes_part(engine: Runtime, size: int | None, settings: BenchSettings) -> bool:
    fixed = engine.info.input.batch
    if not settings.sweep:
        return True
    return size == fixed if fixed is not None else size in settings.sweep


@dataclasses.dataclass
class _Clock:
    """Tells how far a run is."""

    on_progress: Progress
    total_s: float
    done_s: float = 0.0

    def tell(self, stage: str, done_s: float = 0.0) -> None:
        self.on_progress(
            BenchProgress(min(self.total_s, self.done_s + done_s), self.total_s, stage)
        )


def _measure_together(
    together: Sequence[Contender], settings: BenchSettings, clock: _Clock
) -> float:
    """Warm engines up, and let them take turns; return the cores that they keep busy while idle."""
    for contender in together:
        clock.tell(f"warming up {contender.label}")
        contender.warmup = warm_up(
            contender.query, settings.warmup_s, settings.duration_s, contender.flush
        )
    idle_cores = measure_idle_cores()
    order = list(together)
    index = 0
    while not all(contender.is_enough(settings) for contender in together):
        for contender in order:
            if contender.is_enough(settings):
                continue
            if len(together) > 1:
                contender.query()  # what the others left in the caches is not its own doing
            contender.turns.append(_run_turn(contender, settings, index))
        order.reverse()
        index += 1
        done = (min(contender.elapsed_s, settings.duration_s) for contender in together)
        clock.tell("measuring", sum(done))
    clock.done_s += settings.duration_s * len(together)
    clock.tell("measured")
    return idle_cores


def _run_turn(contender: Contender, settings: BenchSettings, index: int) -> Turn:
    name, rate = settings.scenario.name, settings.scenario.rate_qps
    callers = contender.engine.contexts
    if name == SERVER and rate is not None:
        seconds = max(SLICE_S, settings.duration_s / _SERVER_TURNS, _SERVER_ARRIVALS / rate)
        arrivals = draw_arrivals(rate, seconds, seed=(settings.seed, index))
        patience_s = max(_PATIENCE_S, seconds / 2)
        return run_server(contender.query, arrivals, callers, patience_s, seconds)
    if name == OFFLINE:
        return run_back_to_back(contender.query, SLICE_S, callers)
    return run_closed(contender.query, SLICE_S, contender.flush)


def draw_arrivals(rate_qps: float, seconds: float, *, seed: tuple[int, int]) -> list[int]:
    """Return the arrivals of a Poisson process in nanoseconds, at least one, ascending."""
    rng = np.random.default_rng(seed)
    drawn: list[float] = []
    at = float(rng.exponential(1 / rate_qps))
    while at < seconds or not drawn:
        drawn.append(at)
        at += float(rng.exponential(1 / rate_qps))
    return [int(arrival * 1e9) for arrival in drawn]


def _add_extras(
    row: EngineBench, contender: Contender, settings: BenchSettings, clock: _Clock
) -> EngineBench:
    """Add what is measured after the latencies, so as not to disturb them, and judge it."""
    watch = CoreWatch()
    if settings.layers:
        clock.tell(f"timing the layers of {contender.label}")
        row = _add_layers(row, contender)
    if settings.floor:
        clock.tell("measuring what this machine can do")
        row = add_floor(row, contender, settings)
    else:
        row = dataclasses.replace(row, floor_reason="it was not asked for")
    reasons = judge_extras(row, watch.other_share(), settings.bounds)
    return dataclasses.replace(
        row,
        valid=row.valid and not reasons,
        invalid_because=(*row.invalid_because, *reasons),
    )


def _add_layers(row: EngineBench, contender: Contender) -> EngineBench:
    """Return a row with what its layers take, or with why that is not known.

    An error would throw away what took minutes to measure.
    """
    try:
        times = contender.engine.profile(
            contender.batch, runs=_PROFILE_RUNS, warmup=_PROFILE_WARMUP
        )
    except AlexnetEdgeError as error:
        return dataclasses.replace(row, layers_reason=error.message)
    return dataclasses.replace(row, layers=LayerShare.of(times))


def _engine_reasons(rows: Sequence[EngineBench], run_reasons: Sequence[str]) -> list[str]:
    """Return what single engines are invalid for, naming them."""
    names = short_names(row.engine for row in rows)
    return [
        f"{names[row.engine]} at batch {row.batch}: {reason}"
        for row in rows
        for reason in row.invalid_because
        if reason not in run_reasons
    ]


def _describe_scenario(
    settings: BenchSettings, rounds: Sequence[Sequence[Contender]]
) -> dict[str, object]:
    scenario = settings.scenario
    described: dict[str, object] = {
        "name": scenario.name,
        "metric": METRICS[scenario.name],
        "loop": "open" if scenario.name == SERVER else "closed",
        "timed": "infer, host to host",
        "interleaved": any(len(together) > 1 for together in rounds),
        "order": "A B … B A",
        "slice_s": SLICE_S,
    }
    if scenario.name == SERVER:
        described |= {"arrivals": "Poisson", "rate_qps": scenario.rate_qps}
        described["timed"] = "infer, host to host, from the scheduled arrival"
        described["slice_s"] = None
    if scenario.name == MULTI_STREAM:
        described["images_per_query"] = scenario.images_per_query
    values = dataclasses.asdict(settings)
    del values["scenario"]
    return described | values
