"""A vendor's build phases as one number that only grows."""

from __future__ import annotations

import dataclasses
import threading
from types import ModuleType
from typing import TYPE_CHECKING

from alexnet_edge.engine.vendor import OnProgress

if TYPE_CHECKING:
    import tensorrt as trt


@dataclasses.dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """What a progress monitor tells, added up.

    Phases nest: a step of one may be a phase of many steps. What is reported is the share of the
    outermost phase that is done.

    Attributes:
        failure: what the callback raised; the build is stopped then.
    """

    def __init__(self, on_progress: OnProgress) -> None:
        self.failure: BaseException | None = None
        self._on_progress = on_progress
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._most = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Enter a phase."""
        with self._lock:
            if parent is None:
                self._most = 0.0
            self._phases[name] = _Phase(parent, max(1, steps))
        self._tell(name)

    def step(self, name: str, step: int) -> bool:
        """Count a step of a phase; return whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
        self._tell(name)
        return self.failure is None

    def finish(self, name: str) -> None:
        """Leave a phase."""
        with self._lock:
            phase = self._phases.pop(name, None)
            if phase is not None and phase.parent is None:
                self._most = 1.0
        self._tell(name)

    def _tell(self, name: str) -> None:
        """Report, from whichever of the vendor's threads this is."""
        with self._lock:
            roots = [key for key, phase in self._phases.items() if phase.parent not in self._phases]
            share = max((self._share(key) for key in roots), default=self._most)
            self._most = max(self._most, min(share, 1.0))
            most = self._most
        try:
            self._on_progress(name, most, 1.0)
        except BaseException as failure:  # a Ctrl-C must not end in the vendor's code
            self.failure = failure

    def _share(self, name: str) -> float:
        phase = self._phases[name]
        inner = [self._share(key) for key, other in self._phases.items() if other.parent == name]
        return min(1.0, (phase.done + max(inner, default=0.0)) / phase.steps)


def make_monitor(vendor: ModuleType, progress: BuildProgress) -> trt.IProgressMonitor:
    """Return the vendor's monitor that tells ``progress``."""

    class Monitor(vendor.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            vendor.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            progress.start(name, parent or None, steps)

        def step_complete(self, name: str, step: int) -> bool:
            return progress.step(name, step)

        def phase_finish(self, name: str) -> None:
            progress.finish(name)

    monitor: trt.IProgressMonitor = Monitor()
    return monitor
