"""Threads that help with a piece of work of a few milliseconds, and are awake in time.

A thread that slept begins late: with a core that had come to rest, by up to a millisecond, which is
as long as its share of the work. So work is cut into strips, which go to whoever is free; who knows
that work is coming rouses the others; and each has a core of its own, because Linux may otherwise
wake it on the caller's and leave it there until the work is over.
"""

from __future__ import annotations

import collections
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from alexnet_edge.machine import core_numbers, kept_to

_AWAKE_S = 0.01
"""How long roused threads wait for work without sleeping."""


class _Job:
    """Strips of work, handed out one by one."""

    def __init__(self, work: Callable[[int], None], strips: int) -> None:
        self._work = work
        self._strips = strips
        self._lock = threading.Lock()
        self._next = 0
        self._left = strips
        self.error: Exception | None = None

    @property
    def is_handed_out(self) -> bool:
        """Whether no strip is left to begin."""
        return self._next >= self._strips

    @property
    def is_done(self) -> bool:
        """Whether every strip is done."""
        return self._left == 0

    def help(self) -> None:
        """Do strips until none is left."""
        while True:
            with self._lock:
                if self.is_handed_out:
                    return
                strip, self._next = self._next, self._next + 1
            try:
                self._work(strip)
            except Exception as error:  # raised again where the work was given
                self.error = error
            with self._lock:
                self._left -= 1


class _Board:
    """Where helpers look for work."""

    def __init__(self) -> None:
        self._cond = threading.Condition()
        self._jobs: collections.deque[_Job] = collections.deque()
        self._awake_until_s = 0.0
        self._closed = False

    def post(self, job: _Job) -> None:
        with self._cond:
            self._jobs.append(job)
            self._cond.notify_all()

    def rouse(self) -> None:
        with self._cond:
            self._awake_until_s = time.monotonic() + _AWAKE_S
            self._cond.notify_all()

    def close(self) -> None:
        with self._cond:
            self._closed = True
            self._cond.notify_all()

    def serve(self, cores: Sequence[int]) -> None:
        """Do what is posted until closed, on these cores."""
        with kept_to(cores):
            while (job := self._wait()) is not None:
                job.help()

    def _wait(self) -> _Job | None:
        while True:
            with self._cond:
                while self._jobs and self._jobs[0].is_handed_out:
                    self._jobs.popleft()
                    self._awake_until_s = 0.0  # what they were roused for has come
                if self._closed:
                    return None
                if self._jobs:
                    return self._jobs[0]
                if time.monotonic() >= self._awake_until_s:
                    self._cond.wait()
                    continue
            time.sleep(0)  # lets other threads have the interpreter


class Crew:
    """Helping threads, which start with the first work. Thread-safe.

    Args:
        helpers: besides the caller.
        name: of the threads.
    """

    def __init__(self, helpers: int, name: str) -> None:
        self._helpers = helpers
        self._name = name
        # The first core is left to the caller, as ONNX Runtime's threads leave it. Asked for here,
        # for the caller may keep to one core when the work comes.
        self._cores = core_numbers()[1:]
        self._starting = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._board = _Board()
        self._finalizer = weakref.finalize(self, self._board.close)

    def rouse(self) -> None:
        """Wake the helpers: work is about to come. Without any, they sleep again soon."""
        if self._helpers:
            self._start()
            self._board.rouse()

    def share(self, work: Callable[[int], None], strips: int) -> None:
        """Call ``work`` with each of 0 to ``strips`` - 1, on this thread and the helpers'.

        Raises:
            Exception: what a call raised, once all are done; the last, if there are several.
        """
        job = _Job(work, strips)
        if self._helpers and strips > 1:
            self._start()
            self._board.post(job)
        job.help()
        while not job.is_done:  # a strip at most: sleeping would take longer
            time.sleep(0)
        if job.error is not None:
            raise job.error

    def close(self) -> None:
        """End the threads."""
        self._finalizer()
        for thread in self._threads:
            thread.join()

    def _start(self) -> None:
        with self._starting:
            if self._threads:
                return
            self._threads = [
                threading.Thread(
                    target=self._board.serve,
                    args=(self._cores[index : index + 1],),
                    name=f"{self._name}-{index}", daemon=True,
                )
                for index in range(self._helpers)
            ]  # fmt: skip
            for thread in self._threads:
                thread.start()
