"""One value for many readers: made once, when it is new and someone asks.

A reader is given the newest value, never those that it missed, so nothing queues up for a slow one.
All of it runs on one event loop; only ``make`` runs on another thread.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import AsyncGenerator, Callable
from typing import Generic, TypeVar

_POLL_S = 0.01  # well below a frame; polling costs the camera's thread nothing at all

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)


class Feed(Generic[T]):
    """The newest value of a source, as bytes.

    Args:
        read: returns what the newest value is made of; None where there is nothing yet. Quick: it
            is called on the event loop.
        make: makes the value of it. Slow: it is called on a thread of ``executor``.
        per_s: how many values are made a second at most.
        executor: where they are made.
    """

    def __init__(
        self,
        read: Callable[[], T | None],
        make: Callable[[T], bytes],
        per_s: float,
        executor: concurrent.futures.Executor,
    ) -> None:
        self.made = 0
        self.readers = 0
        self._read = read
        self._make = make
        self._interval_s = 1 / per_s
        self._executor = executor
        self._made_of: T | None = None
        self._made_at_s = -self._interval_s
        self._value: bytes | None = None
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._producer: asyncio.Task[None] | None = None
        self._closed = False

    async def newest(self) -> bytes | None:
        """Return the newest value, or None where the source has none yet."""
        async with self._lock:
            source = self._read()
            now_s = time.monotonic()
            due = now_s - self._made_at_s >= self._interval_s
            if source is not None and due and source != self._made_of:
                loop = asyncio.get_running_loop()
                self._value = await loop.run_in_executor(self._executor, self._make, source)
                self._made_of, self._made_at_s = source, now_s
                self.made += 1
                self._wake()
            return self._value

    async def follow(self, repeat_s: float) -> AsyncGenerator[bytes, None]:
        """Yield each new value until `close`; the same one again after ``repeat_s``.

        The repetition finds out readers that are gone without a word.
        """
        self.readers += 1
        if self._producer is None:
            self._producer = asyncio.create_task(self._produce())
        try:
            await self.newest()  # what was made for the last reader may be old
            seen = 0
            while not self._closed:
                if self._value is None or seen == self.made:
                    await _wait(self._changed, repeat_s)
                if self._value is not None and not self._closed:
                    seen = self.made
                    yield self._value
        finally:
            self.readers -= 1
            if self.readers == 0 and self._producer is not None:
                self._producer.cancel()
                self._producer = None

    def close(self) -> None:
        """End what follows."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _produce(self) -> None:
        while True:
            try:
                await self.newest()
                await asyncio.sleep(_POLL_S)
            except Exception:
                _LOGGER.exception("a value could not be made")
                await asyncio.sleep(1)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except asyncio.TimeoutError:
        return
