"""What takes the cores away: engines that spin while idle, and other programs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from alexnet_edge.machine import usable_cores

_SETTLE_S, _IDLE_S = 0.02, 0.1
_SHORTEST_S = 0.5
"""The kernel counts in ticks of 10 ms: a shorter run says nothing of other programs."""

_IDLE, _IOWAIT = 3, 4
"""Columns of /proc/stat that are not work; the two after `steal` are in the first two already."""


def measure_idle_cores() -> float:
    """Return how many cores this process keeps busy while it does nothing.

    The thread pools of some runtimes spin for a while after a run, in wait for the next. Beside
    another engine they take its cores, and its latencies read two to three times too high.
    """
    time.sleep(_SETTLE_S)
    started, cpu = time.perf_counter(), time.process_time()
    time.sleep(_IDLE_S)
    return (time.process_time() - cpu) / (time.perf_counter() - started)


class CoreWatch:
    """How much of the cores others had since it was made.

    Args:
        path: `/proc/stat`, or a file like it.
    """

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        self._start = (time.monotonic(), time.process_time(), self._busy_s())

    def other_share(self) -> float | None:
        """Return the share of the usable cores that others had; None where that is not known.

        What the hypervisor gave to others (`steal`) counts as well.
        """
        started_s, own_s, busy_s = self._start
        elapsed_s, busy_now_s = time.monotonic() - started_s, self._busy_s()
        if busy_s is None or busy_now_s is None or elapsed_s < _SHORTEST_S:
            return None
        others_s = (busy_now_s - busy_s) - (time.process_time() - own_s)
        return max(0.0, others_s / (elapsed_s * usable_cores()))

    def _busy_s(self) -> float | None:
        """Return the seconds that this process's cores have worked since the machine started."""
        try:
            lines = self._path.read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        ticks = 0
        for line in lines:
            name, *columns = line.split()
            if name in cores:
                counts = [int(column) for column in columns[:8]]
                ticks += sum(counts) - counts[_IDLE] - counts[_IOWAIT]
        return ticks / os.sysconf("SC_CLK_TCK")
