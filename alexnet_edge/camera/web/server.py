"""The sink that serves the loop in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from alexnet_edge.camera.frames import Answer, Event, StatsReader
from alexnet_edge.camera.web.newest import Newest
from alexnet_edge.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from aiohttp import web

MAX_CONNECTIONS = 256
"""Open ones, idle ones included; beyond it 503."""

KEEP_ALIVE_S = 15.0
"""A connection that asks nothing for so long is closed; so is one that never finishes asking."""

MIN_TOKEN_LENGTH = 16
_MAX_LINE_BYTES = 4096  # of the request line and of each header
_STOP_S = 5.0
_LOGGER = logging.getLogger("alexnet_edge.camera.web")
_LOGGER.addHandler(logging.NullHandler())  # a library leaves it to the program what is shown


class WebServer:
    """Serves the page, the picture, the state and the metrics from a thread of its own.

    `write` stores a reference and nothing else: whatever clients do, the loop does not wait.

    Args:
        host: name or address to bind to.
        port: 0 for a free one.
        stats: reads the loop's state.
        token: what clients must know; needed unless ``host`` is loopback.
    """

    name = "web"

    def __init__(self, host: str, port: int, stats: StatsReader, token: str | None = None) -> None:
        self._host = host
        self._port = port
        self._stats = stats
        self._token = token
        self._newest = Newest()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def start(self) -> tuple[str, int]:
        """Bind, serve, and return the address and port.

        Raises:
            InputError: the address is taken, is not this machine's, or is not loopback and there is
                no token; or the token is too short.
            MissingDependencyError: aiohttp or prometheus-client is not installed.
        """
        try:
            import aiohttp  # noqa: F401
            import prometheus_client  # noqa: F401
        except ModuleNotFoundError as error:
            package = {"prometheus_client": "prometheus-client"}.get(str(error.name), "aiohttp")
            raise MissingDependencyError(package, needed_for="serving", extra="camera") from None
        listener, loopback = bind(self._host, self._port, self._token)
        host, port = listener.getsockname()[:2]
        self._thread = threading.Thread(
            target=self._run, args=(listener, loopback), name="camera-web", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return host, port

    def write(self, answer: Answer) -> None:
        """Remember the newest answer."""
        self._newest.answer = answer

    def note(self, event: Event) -> None:
        """Remember the last events."""
        self._newest.add(event)

    def close(self) -> None:
        """Stop serving; clients are cut off."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        with contextlib.suppress(RuntimeError):  # its loop has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_S)

    def _run(self, listener: socket.socket, loopback: bool) -> None:
        try:
            asyncio.run(self._serve(listener, loopback))
        except Exception as error:
            _LOGGER.exception("the server ended")
            self._failure = error
        finally:
            listener.close()
            self._ready.set()

    async def _serve(self, listener: socket.socket, loopback: bool) -> None:
        from aiohttp import web

        from alexnet_edge.camera.web.app import CameraApp, read_static
        from alexnet_edge.camera.web.guard import Access

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(_log_exception)
        access = Access(loopback, listener.getsockname()[1], self._token, read_static("login.html"))
        with ThreadPoolExecutor(2, thread_name_prefix="camera-web") as executor:
            app = CameraApp(self._newest, self._stats, executor)
            runner = web.AppRunner(
                app.build(access),
                handler_cancellation=True,  # of clients that went away
                shutdown_timeout=1.0,
                keepalive_timeout=KEEP_ALIVE_S,
                lingering_time=0,  # a body that nobody asked for is not read
                max_line_size=_MAX_LINE_BYTES,
                max_field_size=_MAX_LINE_BYTES,
                access_log=None,
                logger=_LOGGER,
            )
            await runner.setup()
            handlers = cast("web.Server", runner.server)
            app.connections = lambda: handlers.connections
            server = await self._loop.create_server(
                lambda: _admit(handlers), sock=listener, backlog=MAX_CONNECTIONS
            )
            self._ready.set()
            await self._stop.wait()
            server.close()
            app.close()
            await runner.cleanup()


def bind(host: str, port: int, token: str | None) -> tuple[socket.socket, bool]:
    """Return a bound socket, and whether it is loopback.

    Raises:
        InputError: as for `WebServer.start`.
    """
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise InputError(
            f"the token has {len(token)} characters, and at least {MIN_TOKEN_LENGTH} are needed",
            hint=f"make one with: {_MAKE_TOKEN}",
        )
    family, address = _resolve(host, port)
    loopback = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    if not loopback and token is None:
        raise InputError(
            f"{host} can be reached from other machines, and there is no token",
            hint=f"serve on 127.0.0.1, or make a token with: {_MAKE_TOKEN}",
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Before the port is reported: who binds without listening does not own it yet.
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise _explain(host, port, error) from error
    return listener, loopback


_MAKE_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe())'"  # noqa: S105


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the address to bind to: IPv4 where a name has both."""
    hint = "as in --serve 127.0.0.1:8080"
    if not 0 <= port <= 65535:  # getaddrinfo would take it modulo 65536
        raise InputError(f"{host}:{port}: a port is from 0 to 65535", hint=hint)
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise InputError(f"{host}:{port}: is no address ({error})", hint=hint) from error
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _explain(host: str, port: int, error: OSError) -> InputError:
    hint = {
        errno.EADDRINUSE: f"another port, as {host}:{port + 1}, or {host}:0 for any that is free",
        errno.EACCES: "ports below 1024 belong to root; take one above",
        errno.EADDRNOTAVAIL: "it is no address of this machine; `ip addr` lists them",
    }.get(error.errno or 0, "try another address or port")
    reason = error.strerror or str(error)
    return InputError(f"cannot serve on {host}:{port}: {reason}", hint=hint)


def _admit(server: web.Server) -> asyncio.Protocol:
    """Return what handles a new connection."""
    from alexnet_edge.camera.web.guard import Refusal

    return Refusal() if len(server.connections) >= MAX_CONNECTIONS else server()


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what no handler caught, instead of printing it over the terminal view."""
    _LOGGER.warning("%s", context.get("message"), exc_info=context.get("exception"))
