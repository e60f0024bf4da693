"""One turn of an engine: queries for a while, each timed.

`run_closed` sends a query when the last was answered. `run_back_to_back` does so from as many
threads as the engine serves. `run_server` sends them when they are due, and counts their latency
from then on: a slow answer that delays the queries behind it delays them in the figures as well,
which a loop that waits for answers hides (coordinated omission).
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
Query = Callable[[], object]

_SPIN_NS = 150_000
"""A sleep ends some 60 µs late; the last part of a wait for an arrival is spent awake."""


@dataclasses.dataclass(frozen=True)
class Turn:
    """What was measured in a row.

    Attributes:
        start_s, end_s: of `time.monotonic()`.
        latency_ns: of each query.
        elapsed_ns: that throughput is reckoned with: the timed part of the turn.
        queue_ns, service_ns: of a server: the wait before each query ran, and its run.
        unserved: of a server: queries that were given up, because the queue grew.
    """

    start_s: float
    end_s: float
    latency_ns: Sequence[int]
    elapsed_ns: int
    queue_ns: Sequence[int] = ()
    service_ns: Sequence[int] = ()
    unserved: int = 0


def run_closed(query: Query, seconds: float, flush: Callable[[], None] | None = None) -> Turn:
    """Run one query after the other; one at least.

    Args:
        query: it.
        seconds: how long, flushing included.
        flush: is called before each query, untimed.
    """
    now = time.perf_counter_ns
    taken: list[int] = []
    start_s = time.monotonic()
    end = now() + int(seconds * 1e9)
    while True:
        if flush is not None:
            flush()
        started = now()
        query()
        finished = now()
        taken.append(finished - started)
        if finished >= end:
            return Turn(start_s, time.monotonic(), taken, sum(taken))


def run_back_to_back(query: Query, seconds: float, callers: int) -> Turn:
    """Keep as many callers busy as the engine serves; each runs one query at least."""
    now = time.perf_counter_ns
    start_s, begin = time.monotonic(), now()
    end = begin + int(seconds * 1e9)

    def work() -> list[int]:
        taken = []
        started = now()
        while True:
            query()
            finished = now()
            taken.append(finished - started)
            if finished >= end:
                return taken
            started = finished

    taken = list(itertools.chain.from_iterable(_call_from(callers, work)))
    return Turn(start_s, time.monotonic(), taken, now() - begin)


def run_server(
    query: Query, arrivals_ns: Sequence[int], callers: int, patience_s: float, seconds: float = 0
) -> Turn:
    """Run queries that arrive at given times, first come, first served.

    Args:
        query: one of them.
        arrivals_ns: when each arrives, after the start.
        callers: how many the engine serves at a time.
        patience_s: how long after the last arrival queries may still wait; what has not begun then
            is given up.
        seconds: how long the turn lasts at least: also after the last arrival none came.
    """
    now = time.perf_counter_ns
    lock, pending = threading.Lock(), iter(arrivals_ns)
    start_s, begin = time.monotonic(), now()
    give_up = begin + (arrivals_ns[-1] if arrivals_ns else 0) + int(patience_s * 1e9)

    def work() -> list[tuple[int, int]]:
        served: list[tuple[int, int]] = []
        while True:
            with lock:
                offset = next(pending, None)
            if offset is None:
                return served
            due = begin + offset
            _wait_until(due)
            started = now()
            if started >= give_up:
                return served
            query()
            served.append((started - due, now() - started))

    served = list(itertools.chain.from_iterable(_call_from(callers, work)))
    queue, service = [pair[0] for pair in served], [pair[1] for pair in served]
    return Turn(
        start_s=start_s,
        end_s=time.monotonic(),
        latency_ns=[wait + run for wait, run in served],
        elapsed_ns=max(now() - begin, int(seconds * 1e9)),
        queue_ns=queue,
        service_ns=service,
        unserved=len(arrivals_ns) - len(served),
    )


def _wait_until(due_ns: int) -> None:
    while (left := due_ns - time.perf_counter_ns()) > 0:
        if left > _SPIN_NS:
            time.sleep((left - _SPIN_NS) / 1e9)


def _call_from(callers: int, work: Callable[[], list[T]]) -> list[list[T]]:
    """Return what each of some threads made; one caller needs no thread."""
    if callers == 1:
        return [work()]
    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        return [future.result() for future in [pool.submit(work) for _ in range(callers)]]
