"""Who may ask: hosts and origins on loopback, the token elsewhere."""

from __future__ import annotations

import http.client
import http.cookies
import urllib.parse

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed; it comes with the extra camera")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

from alexnet_edge.camera.web.guard import is_loopback_name
from tests.camera.web.conftest import TOKEN
from tests.camera.web.test_server import ask


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:80", "LocalHost:9000", "127.0.0.1", "127.8.9.1:1", "[::1]", "[::1]:5"],
)
def test_names_of_this_machine(camera, host):
    assert is_loopback_name(host)
    assert camera.get("/healthz", Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["", "attacker.example", "attacker.example:80", "localhost.attacker.example", "192.0.2.1",
     "127.0.0.1.attacker.example", "user@localhost", "localhost/x", "0.0.0.0", "[::2]", "[::1",
     "2130706433"],
)  # fmt: skip
def test_other_names_may_be_rebound_to_this_machine(camera, host):
    """What a page of another site, whose name now resolves to 127.0.0.1, would send."""
    assert not is_loopback_name(host)
    for path in ("/", "/stream.mjpg", "/events", "/healthz"):
        assert camera.get(path, Host=host).status == 421


def test_a_request_without_a_host_is_misdirected(camera):
    assert b"421" in ask(camera, b"GET /healthz HTTP/1.0\r\n\r\n").split(b"\r\n")[0]


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "image"},
     {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "empty"},
     {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"},
     {"Origin": "https://attacker.example"}, {"Origin": "null"},
     {"Origin": "http://localhost:1"}],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/stream.mjpg", "/events", "/api/state"])
def test_pages_of_other_sites_are_refused(camera, path, headers):
    assert camera.get(path, **headers).status == 403


def test_the_page_itself_and_links_to_it_are_not(camera):
    own = {"Origin": camera.url, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"}
    assert camera.get("/api/state", **own).status == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"}
    assert camera.get("/", **link).status == 200


PATHS = ["/", "/app.js", "/stream.mjpg", "/snapshot.jpg", "/events", "/metrics", "/api/state"]


@pytest.mark.parametrize("path", [*PATHS, "/no/such/page"])
def test_without_the_token_nothing_is_told(guarded, path):
    reply = guarded.get(path)
    assert reply.status == 401
    assert reply.headers["www-authenticate"].startswith("Bearer")
    assert b'type="password"' in reply.body
    assert b"script" not in reply.body and b"tiny" not in reply.body


def bearer(token):
    return {"Authorization": b"Bearer " + token.encode()}


@pytest.mark.parametrize(
    "headers",
    [bearer("wrong"), bearer(""), bearer(TOKEN + "x"), bearer(TOKEN[:-1]), {"Authorization": "x"},
     {"Authorization": f"Basic {TOKEN[:8]}"}, {"Cookie": "alexnet_edge=x"},
     {"Authorization": b"Bearer \xff\xfe"}],
)  # fmt: skip
def test_a_wrong_token_is_as_good_as_none(guarded, headers):
    assert guarded.get("/api/state", **headers).status == 401
    query = urllib.parse.urlencode({"token": TOKEN[:-1]})
    reply = guarded.get(f"/?{query}", **headers)
    assert reply.status == 401
    assert "set-cookie" not in reply.headers


@pytest.mark.parametrize("path", ["/", "/snapshot.jpg", "/metrics", "/api/state", "/healthz"])
def test_a_program_sends_the_token_as_a_header(guarded, path):
    assert guarded.get(path, **bearer(TOKEN)).status == 200
    assert guarded.get(path, Authorization=b"bearer  " + TOKEN.encode()).status == 200


def test_a_browser_trades_the_token_for_a_cookie(guarded):
    query = urllib.parse.urlencode({"view": "1 2", "token": TOKEN})
    reply = guarded.get(f"/api/state?{query}")
    assert (reply.status, reply.headers["location"]) == (303, "/api/state?view=1+2")
    cookie = http.cookies.SimpleCookie(reply.headers["set-cookie"])
    ((name, morsel),) = cookie.items()
    assert morsel["httponly"] and morsel["samesite"] == "Strict" and morsel["path"] == "/"
    assert str(guarded.port) in name
    assert TOKEN not in morsel.value
    assert guarded.get("/api/state", Cookie=f"{name}={morsel.value}").status == 200
    assert guarded.get("/api/state", Cookie=f"{name}={morsel.value[:-1]}0").status == 401


@pytest.mark.parametrize("path", ["//attacker.example/x", "/%2f%2fattacker.example", "/\\x"])
def test_the_redirection_stays_here(guarded, path):
    reply = guarded.get(f"{path}?{urllib.parse.urlencode({'token': TOKEN})}")
    location = urllib.parse.urlsplit(reply.headers["location"])
    assert (location.scheme, location.netloc) == ("", "")
    assert not reply.headers["location"].startswith(("//", "/\\"))


def test_health_is_told_to_this_machine_without_the_token(guarded):
    """The health check of a container; what it says is no secret."""
    reply = guarded.get("/healthz")
    assert reply.status == 200
    assert set(reply.json) == {"state", "since_last_frame_s"}


def test_health_is_told_to_no_other_machine_without_it(guarded):
    """By another address of this machine, where it has one."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: the route is looked up
        except OSError as error:
            pytest.skip(f"this machine has no other address: {error}")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no other address")
    connection = http.client.HTTPConnection(address, guarded.port, timeout=20)
    connection.request("GET", "/healthz")
    assert connection.getresponse().status == 401
    connection.close()


def test_with_a_token_any_host_name_will_do(guarded):
    headers = {**bearer(TOKEN), "Host": "board.example:8080"}
    assert guarded.get("/api/state", **headers).status == 200
    assert guarded.get("/api/state", Origin="https://attacker.example", **headers).status == 403


def test_what_the_token_page_is_made_of_needs_none(guarded):
    assert guarded.get("/style.css").status == guarded.get("/icon.svg").status == 200
