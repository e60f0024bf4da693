"""What each address of the camera's page answers.

    /              the page                     /healthz   200 while answers come, else 503
    /stream.mjpg   the live picture             /metrics   for Prometheus
    /snapshot.jpg  one picture                  /api/state the state as JSON
    /events        the state, as server-sent events, at most ten a second

A client that does not read holds one picture in this process and a bounded socket buffer in the
kernel, is given the newest picture when it reads on, and is cut off after `WRITE_TIMEOUT_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, TypeAlias

from aiohttp import web

from alexnet_edge.camera.frames import Answer, Event, Frame, LoopStats, StatsReader
from alexnet_edge.camera.web.feed import Feed
from alexnet_edge.camera.web.guard import Access, add_headers, make_guard
from alexnet_edge.camera.web.metrics import Clients, render_metrics
from alexnet_edge.camera.web.newest import Newest
from alexnet_edge.camera.web.picture import encode_picture
from alexnet_edge.camera.web.state import describe_state, since_last_frame_s

PICTURES_PER_S = 15
STATES_PER_S = 10
MAX_STREAMS = 16
"""Clients that watch the picture at once."""

WRITE_TIMEOUT_S = 10.0
REPEAT_S = 5.0
"""The same picture again after it, so that a client which is gone is noticed."""

STALE_S = 60.0
"""Without a new answer for so long the loop is not healthy, whatever it says of itself."""

SEND_BUFFER_BYTES = 128 * 1024
"""Of the kernel, for a stream: what lies there is old when it arrives."""

_POLL_S = 0.02
_STATS_FRESH_S = 0.1
_BOUNDARY = "alexnet-edge-5b0c4a1e7f2d"  # not to be found in a JPEG
_FILES = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_Handler: TypeAlias = Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]


class CameraApp:
    """The handlers, and what they share.

    Args:
        newest: the loop's last answer and events.
        stats: reads the loop's state.
        executor: where pictures are encoded and the state is read.
    """

    connections: Callable[[], list[web.RequestHandler]]
    """Returns the open ones; set by the server once it listens."""

    def __init__(self, newest: Newest, stats: StatsReader, executor: ThreadPoolExecutor) -> None:
        self._newest = newest
        self._read_stats = stats
        self._executor = executor
        self._stats: LoopStats | None = None
        self._stats_at_s = 0.0
        self._stats_lock = asyncio.Lock()
        self._streams = 0
        self._slow = 0
        self.pictures = Feed(self._newest_frame, encode_picture, PICTURES_PER_S, executor)
        self.states = Feed(self._state_key, self._make_state, STATES_PER_S, executor)

    def build(self, access: Access) -> web.Application:
        """Return the application."""
        app = web.Application(middlewares=[make_guard(access)])
        app.on_response_prepare.append(add_headers)
        for path, (name, content_type) in _FILES.items():
            app.router.add_get(path, _serve_file(read_static(name), content_type))
        app.router.add_get("/stream.mjpg", self.stream, allow_head=False)
        app.router.add_get("/events", self.events, allow_head=False)
        app.router.add_get("/snapshot.jpg", self.snapshot)
        app.router.add_get("/healthz", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/api/state", self.state)
        return app

    def close(self) -> None:
        """End streams and events."""
        self.pictures.close()
        self.states.close()

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Send the newest picture, again and again, as multipart/x-mixed-replace."""
        if self._streams >= MAX_STREAMS:
            return _unavailable(f"{MAX_STREAMS} clients watch already")
        self._streams += 1  # before anything is awaited, or several pass at once
        try:
            response = web.StreamResponse()
            response.content_type = f"multipart/x-mixed-replace; boundary={_BOUNDARY}"
            return await self._send_all(request, response, self._parts())
        finally:
            self._streams -= 1

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        """Yield pictures as parts, each with the next one's head, which has no length therefore.

        Chromium shows a picture when it has read the head of the next.
        """
        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\n".encode()
        yield head
        async with contextlib.aclosing(self.pictures.follow(REPEAT_S)) as pictures:
            async for picture in pictures:
                yield b"".join((picture, b"\r\n", head))

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Send the state whenever it is new."""
        response = web.StreamResponse()
        response.content_type = "text/event-stream"
        return await self._send_all(request, response, self._messages())

    async def _messages(self) -> AsyncGenerator[bytes, None]:
        yield b"retry: 2000\n\n"
        async with contextlib.aclosing(self.states.follow(REPEAT_S)) as states:
            async for state in states:
                yield b"data: " + state + b"\n\n"

    async def _send_all(
        self, request: web.Request, response: web.StreamResponse, parts: AsyncGenerator[bytes, None]
    ) -> web.StreamResponse:
        """Send parts, each when the one before has left, until either side ends it."""
        transport = request.transport
        if transport is None:
            return response
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        try:
            await response.prepare(request)
            async for part in parts:
                await asyncio.wait_for(_send(response, transport, part), WRITE_TIMEOUT_S)
        except ConnectionError:  # it went away
            transport.abort()
        except asyncio.TimeoutError:
            self._slow += 1
            transport.abort()
        finally:
            await parts.aclose()
        return response

    async def snapshot(self, _request: web.Request) -> web.StreamResponse:
        """Answer with the newest picture."""
        picture = await self.pictures.newest()
        if picture is None:
            return _unavailable("no picture yet")
        return web.Response(body=picture, content_type="image/jpeg")

    async def health(self, _request: web.Request) -> web.StreamResponse:
        """Answer 200 while answers come, else 503; with the state either way."""
        stats = await self._snapshot_stats()
        since_s = since_last_frame_s(stats)
        # An engine that hangs holds the loop, which then says nothing of it.
        healthy = stats.state == "running" and since_s is not None and since_s < STALE_S
        body = {"state": stats.state, "since_last_frame_s": since_s}
        return web.json_response(body, status=200 if healthy else 503)

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer with the loop's counters for Prometheus."""
        connections = self.connections()
        transports = (connection.transport for connection in connections)
        queued = sum(each.get_write_buffer_size() for each in transports if each is not None)
        clients = Clients(len(connections), queued, self._streams, self.pictures.made, self._slow)
        stats = await self._snapshot_stats()
        body, content_type = render_metrics(stats, clients, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def state(self, _request: web.Request) -> web.StreamResponse:
        """Answer with the state as JSON."""
        body = await self.states.newest()
        return web.Response(body=body, content_type="application/json")

    async def _snapshot_stats(self) -> LoopStats:
        """Read the loop's state at most every `_STATS_FRESH_S`, whoever asks and how often."""
        async with self._stats_lock:
            if self._stats is None or time.monotonic() - self._stats_at_s > _STATS_FRESH_S:
                loop = asyncio.get_running_loop()
                self._stats = await loop.run_in_executor(self._executor, self._read_stats)
                self._stats_at_s = time.monotonic()
            return self._stats

    def _newest_frame(self) -> Frame | None:
        answer = self._newest.answer
        return None if answer is None else answer.frame

    def _state_key(self) -> tuple[Answer | None, tuple[Event, ...], int]:
        """Tell states apart: by the second too, so that a stall shows."""
        return self._newest.answer, self._newest.events[-1:], int(time.monotonic())

    def _make_state(self, _key: object) -> bytes:
        state = describe_state(self._read_stats(), self._newest.events)
        return json.dumps(state, allow_nan=False, separators=(",", ":")).encode("ascii")


async def _send(response: web.StreamResponse, transport: asyncio.Transport, part: bytes) -> None:
    await response.write(part)
    while transport.get_write_buffer_size() and not transport.is_closing():
        await asyncio.sleep(_POLL_S)


def _unavailable(reason: str) -> web.Response:
    return web.Response(status=503, text=f"{reason}\n", headers={"Retry-After": "5"})


def _serve_file(body: bytes, content_type: str) -> _Handler:
    async def serve(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    return serve


def read_static(name: str) -> bytes:
    """Return a file of the page."""
    return resources.files("alexnet_edge.camera.web").joinpath("static").joinpath(name).read_bytes()
