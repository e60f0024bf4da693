"""Who may ask: hosts, origins, the token, and how many at once.

On loopback the danger is a page of another site in the browser of the same machine: it must neither
embed the picture nor, through DNS rebinding, read the state. So the host that the browser believes
to talk to has to be this machine, and requests that a page of another site makes are refused.
Elsewhere it is anyone who reaches the port, and a token is asked for.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import ipaddress
import urllib.parse
from typing import TYPE_CHECKING, cast

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

COOKIE_AGE_S = 7 * 24 * 3600

OPEN_PATHS = frozenset(("/style.css", "/icon.svg"))
"""Served without the token: the page that asks for it is made of them."""

_POLICY = (
    "default-src 'none'; img-src 'self'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclasses.dataclass(frozen=True)
class Access:
    """What is asked of a request.

    Attributes:
        loopback: the server is bound to loopback, so only its names are valid hosts.
        port: the server's; part of the cookie's name, for cookies do not tell ports apart.
        token: None where none is needed.
        login_page: what a browser without the token is shown.
    """

    loopback: bool
    port: int
    token: str | None
    login_page: bytes

    @property
    def cookie_name(self) -> str:
        """Name of the cookie that stands for the token."""
        return f"alexnet_edge_{self.port}"

    @property
    def cookie_value(self) -> str:
        """Derived from the token, which itself is stored nowhere in the browser."""
        key = (self.token or "").encode()
        return hmac.new(key, b"alexnet-edge cookie", hashlib.sha256).hexdigest()


def make_guard(access: Access) -> Middleware:
    """Return the middleware that lets a request through, or answers 403, 421 or 401."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if access.loopback and not is_loopback_name(request.headers.get("Host", "")):
            text = "this server answers to localhost only; name it so, or serve with a token\n"
            return web.Response(status=421, text=text)
        if is_foreign(request):
            return web.Response(status=403, text="requests of other sites are refused\n")
        if access.token is None or request.path in OPEN_PATHS or _is_own_probe(request):
            return await handler(request)
        given = request.query.get("token")
        if given is not None and request.method == "GET":
            return _take_token(access, request, given)
        if not _is_known(access, request):
            return _ask_for_token(access)
        return await handler(request)

    return guard


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Add to every response what holds a browser to this page; a signal of aiohttp."""
    for name, value in _HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Server"] = "alexnet-edge"


def is_loopback_name(host: str) -> bool:
    """Say whether a Host header names this machine, at any port: a tunnel may have its own."""
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        if "@" in host or "/" in host:
            return False
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_foreign(request: web.Request) -> bool:
    """Say whether a page of another site makes this request; a link to the page itself may."""
    origin = request.headers.get("Origin")
    if origin is not None and urllib.parse.urlsplit(origin).netloc != request.headers.get("Host"):
        return True
    site = request.headers.get("Sec-Fetch-Site", "none")
    is_link = request.headers.get("Sec-Fetch-Dest") == "document"
    return site not in {"none", "same-origin"} and not is_link


def _is_own_probe(request: web.Request) -> bool:
    """Say whether it is a health check from this machine or container, which tells no secret."""
    if request.path != "/healthz" or request.transport is None:
        return False
    peer = request.transport.get_extra_info("peername")
    try:
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except (TypeError, IndexError, ValueError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_known(access: Access, request: web.Request) -> bool:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and is_same(given.strip(), access.token or ""):
        return True
    return is_same(request.cookies.get(access.cookie_name, ""), access.cookie_value)


def is_same(given: str, expected: str) -> bool:
    """Compare secrets without telling by the time how much of them fits."""
    return hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape")
    )


def _take_token(access: Access, request: web.Request, given: str) -> web.Response:
    """Turn `?token=` into a cookie, so that it stays in no address bar."""
    if not is_same(given, access.token or ""):
        return _ask_for_token(access)
    rest = {name: value for name, value in request.query.items() if name != "token"}
    # Only path and query of this very server: nothing that a link could lead elsewhere.
    path = "/" + request.path.lstrip("/")
    location = f"{path}?{urllib.parse.urlencode(rest)}" if rest else urllib.parse.quote(path)
    response = web.Response(status=303, headers={"Location": location})
    response.set_cookie(
        access.cookie_name, access.cookie_value,
        max_age=COOKIE_AGE_S, path="/", httponly=True, samesite="Strict",
    )  # fmt: skip
    return response


def _ask_for_token(access: Access) -> web.Response:
    return web.Response(
        status=401, body=access.login_page, content_type="text/html", charset="utf-8",
        headers={"WWW-Authenticate": 'Bearer realm="alexnet-edge"'},
    )  # fmt: skip


class Refusal(asyncio.Protocol):
    """Answers a connection beyond the limit with 503, and ends it."""

    LINGER_S = 1.0
    TEXT = (
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n"
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say so, and read on a little: closing with unread data would take the answer back."""
        connection = cast("asyncio.Transport", transport)
        connection.write(self.TEXT)
        connection.write_eof()
        asyncio.get_running_loop().call_later(self.LINGER_S, connection.abort)
