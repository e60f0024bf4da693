"""The server under load and abuse: the loop goes on, and memory does not grow."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import logging
import re
import socket
import subprocess
import sys
import time

import pytest

pytest.importorskip("aiohttp", reason="aiohttp is not installed; it comes with the extra camera")
pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")

import aiohttp
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from alexnet_edge.camera.frames import Event
from alexnet_edge.camera.web import WebServer, server
from alexnet_edge.camera.web import app as web_app
from alexnet_edge.camera.web.newest import KEPT_EVENTS
from alexnet_edge.errors import InputError
from tests.camera.answers import HOSTILE, make_answer, make_keeper
from tests.camera.scenes import number_of, wait_until
from tests.camera.web.conftest import CLASSES, TOKEN, Camera, request_of, run_apart


@contextlib.contextmanager
def standing(keeper, *answers):
    """Serve a loop that stands still."""
    web = WebServer("127.0.0.1", 0, keeper.snapshot)
    host, port = web.start()
    for answer in answers:
        web.write(answer)
    try:
        yield Camera(None, web, host, port), web
    finally:
        web.close()


class Body:
    """What follows the head of an answer."""

    def __init__(self, file):
        self.head = b"".join(iter(file.readline, b"\r\n"))
        self.readline, self.read1 = file.readline, file.read1


@contextlib.contextmanager
def reading(camera, request):
    """Send a request, as HTTP/1.0 so that nothing is chunked, and yield the answer's body."""
    with camera.connect(request) as connection, connection.makefile("rb") as file:
        yield Body(file)


def read_parts(body, count):
    """Read so many pictures of a stream."""
    boundary = b"--" + re.search(rb"boundary=(\S+)", body.head)[1]
    read = b""
    while read.count(boundary) <= count:
        read += body.read1(65536)
    pictures = []
    for part in read.split(boundary)[1 : count + 1]:
        head, _, picture = part.partition(b"\r\n\r\n")
        assert head.strip() == b"Content-Type: image/jpeg"
        pictures.append(Image.open(io.BytesIO(picture)))
    return pictures


def test_the_page_and_what_it_is_made_of(camera):
    page = camera.get("/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path, kind in (("app.js", "javascript"), ("style.css", "css"), ("icon.svg", "svg")):
        assert path.encode() in page.body
        reply = camera.get(f"/{path}")
        assert reply.status == 200
        assert kind in reply.headers["content-type"]
    assert b"http://" not in page.body and b"https://" not in page.body, "nothing from elsewhere"


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/no/such/page", "/snapshot.jpg"])
def test_every_answer_holds_browsers_to_this_page(camera, path):
    headers = camera.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_the_stream_shows_frame_after_frame(camera):
    with reading(camera, request_of("/stream.mjpg").replace(b"1.1", b"1.0")) as file:
        assert b"multipart/x-mixed-replace" in file.head
        pictures = read_parts(file, 5)
    assert len(pictures) == 5
    assert len({picture.tobytes() for picture in pictures}) > 1


def test_ffmpeg_reads_the_stream(camera):
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(camera.url + "/stream.mjpg", timeout=20) as stream:
        frames = itertools.islice(stream.decode(video=0), 3)
        assert [frame.width > 0 for frame in frames] == [True] * 3


def test_a_snapshot_is_the_newest_frame():
    keeper = make_keeper(make_answer())
    with standing(keeper, make_answer(5, width=1280, height=720)) as (camera, web):
        picture = Image.open(io.BytesIO(camera.get("/snapshot.jpg").body))
        assert picture.size == (640, 360), "scaled down"
        web.write(make_answer(9))
        time.sleep(2 / web_app.PICTURES_PER_S)
        import numpy as np

        small = Image.open(io.BytesIO(camera.get("/snapshot.jpg").body))
        assert number_of(np.asarray(small)) == 9
        assert small.size == (160, 120)


def test_before_the_first_frame_there_is_no_picture():
    with standing(make_keeper(state="connecting")) as (camera, _):
        reply = camera.get("/snapshot.jpg")
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
        assert camera.get("/api/state").json["answer"] is None
        assert b"last_frame_timestamp" not in camera.get("/metrics").body


def test_pictures_are_only_made_while_someone_watches(camera):
    before = camera.metric("alexnet_edge_web_pictures_total")
    camera.let_answer(20)
    assert camera.metric("alexnet_edge_web_pictures_total") == before


def test_many_watchers_cost_one_encoding(camera):
    made = camera.metric("alexnet_edge_web_pictures_total")
    answered = camera.stats.answered
    request = request_of("/stream.mjpg").replace(b"1.1", b"1.0")
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(reading(camera, request)) for _ in range(8)]
        for file in files:
            assert len(read_parts(file, 3)) == 3
    made = camera.metric("alexnet_edge_web_pictures_total") - made
    assert 3 <= made <= camera.stats.answered - answered + 1


def test_the_state_is_the_loops(camera):
    state = camera.get("/api/state").json
    assert state["state"] == "running"
    assert state["engine"] == "tiny.onnx"
    assert state["frames"]["answered"] > 0
    assert state["answer"]["top"][0]["name"] in CLASSES
    assert set(state["stages_ms"]) == {"capture", "preprocess", "inference", "output"}
    assert state["events"][0]["kind"] == "connected"


def read_events(camera, count):
    with reading(camera, request_of("/events").replace(b"1.1", b"1.0")) as file:
        assert b"text/event-stream" in file.head
        found = []
        while len(found) < count:
            line = file.readline()
            assert line.startswith((b"data: ", b"retry: ")) or line == b"\n", line
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
        return found


def test_events_tell_of_new_answers(camera):
    states = read_events(camera, 4)
    answered = [state["frames"]["answered"] for state in states]
    assert answered == sorted(answered)
    assert answered[-1] > answered[0]
    last = states[-1]["answer"]
    assert [item["probability"] for item in last["top"]] == sorted(
        (item["probability"] for item in last["top"]), reverse=True
    )


def test_events_tell_of_a_stall_and_of_what_happened():
    keeper = make_keeper(make_answer())
    with standing(keeper, make_answer()) as (camera, web):
        for index in range(3 * KEPT_EVENTS):
            web.note(Event("retrying", f"{HOSTILE} {index}", time.monotonic()))
        keeper.set_state("stalled")
        (state,) = read_events(camera, 1)
        assert state["state"] == "stalled"
        assert len(state["events"]) == KEPT_EVENTS, "the oldest are forgotten"
        assert state["events"][-1]["message"] == f"{HOSTILE} {3 * KEPT_EVENTS - 1}"


@pytest.mark.parametrize(
    ("state", "status"), [("running", 200), ("connecting", 503), ("stalled", 503), ("stopped", 503)]
)
def test_health(state, status):
    with standing(make_keeper(make_answer(), state=state)) as (camera, _):
        reply = camera.get("/healthz")
        assert reply.status == status
        assert reply.json["state"] == state
        assert 0 <= reply.json["since_last_frame_s"] < 60


def test_an_engine_that_hangs_is_not_healthy():
    old = make_answer(captured_s=time.monotonic() - 2 * web_app.STALE_S)
    with standing(make_keeper(old)) as (camera, _):
        reply = camera.get("/healthz")
        assert reply.status == 503
        assert reply.json["state"] == "running"


def families_of(reply):
    return {f.name: f for f in text_string_to_metric_families(reply.body.decode())}


def test_metrics_are_the_loops_figures():
    ages = [0.4, 3.0, 30.0, 300.0]
    answers = [make_answer(index, age_ms=age) for index, age in enumerate(ages)]
    keeper = make_keeper(*answers, dropped=3, corrupt=2, reconnects=1, source="caf\udce9")
    with standing(keeper, answers[-1]) as (camera, _):
        families = families_of(camera.get("/metrics"))
    values = {
        sample.name: sample.value
        for family in families.values() for sample in family.samples if not sample.labels
    }  # fmt: skip
    assert values["alexnet_edge_frames_captured_total"] == 7
    assert values["alexnet_edge_frames_answered_total"] == 4
    assert values["alexnet_edge_frames_dropped_total"] == 3
    assert values["alexnet_edge_frames_corrupt_total"] == 2
    assert values["alexnet_edge_source_reconnects_total"] == 1
    assert values["alexnet_edge_resident_memory_bytes"] > 1e6
    assert values["alexnet_edge_last_frame_timestamp_seconds"] == 1_795_000_000.25
    assert values["alexnet_edge_frame_age_seconds_count"] == 4
    assert values["alexnet_edge_frame_age_seconds_sum"] == pytest.approx(sum(ages) / 1000)
    buckets = {
        float(sample.labels["le"]): sample.value
        for sample in families["alexnet_edge_frame_age_seconds"].samples if "le" in sample.labels
    }  # fmt: skip
    for bound, count in buckets.items():
        assert count == sum(age / 1000 <= bound for age in ages)
    states = {s.labels["state"]: s.value for s in families["alexnet_edge_state"].samples}
    assert states == {"connecting": 0, "running": 1, "stalled": 0, "stopped": 0}
    stages = {s.labels["stage"] for s in families["alexnet_edge_stage_duration_seconds"].samples}
    assert stages == {"capture", "preprocess", "inference", "output"}
    assert all(family.documentation for family in families.values())
    assert families["alexnet_edge_frames_answered"].type == "counter"
    assert families["alexnet_edge_frame_age_seconds"].type == "histogram"


def test_metrics_come_in_open_metrics_too(camera):
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse

    reply = camera.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse(reply.body.decode())}
    assert "alexnet_edge_frames_answered" in names


def test_scraping_often_reads_the_loop_seldom():
    keeper = make_keeper(make_answer())
    reads = []

    def read():
        reads.append(time.monotonic())
        return keeper.snapshot()

    web = WebServer("127.0.0.1", 0, read)
    host, port = web.start()
    camera = Camera(None, web, host, port)
    with contextlib.closing(web):
        for _ in range(60):
            assert camera.get("/healthz").status == 200
    apart = [later - sooner for sooner, later in itertools.pairwise(reads)]
    assert all(seconds > 0.9 * web_app._STATS_FRESH_S for seconds in apart)


# Abuse.


def test_two_hundred_connections(camera):
    """16 streams and 184 readers of events at once; all are served, and the loop goes on."""
    answered = camera.stats.answered

    async def watch(session):
        async with session.get(camera.url + "/stream.mjpg") as reply:
            assert reply.status == 200
            await reply.content.readexactly(2000)
            return await ready()

    async def listen(session):
        async with session.get(camera.url + "/events") as reply:
            assert reply.status == 200
            states = 0
            async for line in reply.content:
                states += line.startswith(b"data: ")
                if states == 3:
                    return await ready()
        raise AssertionError("the stream ended")

    reached = 0
    everyone = asyncio.Event()

    async def ready():
        """Wait for the last of all, so that they are connected at the same time."""
        nonlocal reached
        reached += 1
        if reached == 200:
            everyone.set()
        await everyone.wait()

    async def scenario():
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            tasks = [watch(session) for _ in range(16)] + [listen(session) for _ in range(184)]
            running = asyncio.gather(*tasks)
            await asyncio.wait({running, asyncio.ensure_future(everyone.wait())},
                               return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
            await running
            async with session.get(camera.url + "/healthz") as reply:
                assert reply.status == 200

    run_apart(scenario())
    assert camera.stats.answered > answered
    wait_until(lambda: camera.metric("alexnet_edge_web_connections") <= 1, what="all are gone")
    assert camera.metric("alexnet_edge_web_streams") == 0
    assert camera.metric("alexnet_edge_web_queued_bytes") == 0


def test_clients_that_never_read_hold_neither_the_loop_nor_memory(camera, monkeypatch):
    monkeypatch.setattr(web_app, "WRITE_TIMEOUT_S", 3.0)
    monkeypatch.setattr(web_app, "SEND_BUFFER_BYTES", 4096)
    cut_before = camera.metric("alexnet_edge_web_slow_clients_total")
    largest = len(camera.get("/snapshot.jpg").body)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(camera.connect(request_of("/stream.mjpg"), receive_bytes=2048))
        wait_until(lambda: camera.metric("alexnet_edge_web_queued_bytes") > 0, what="a queue")
        queued = []
        for _ in range(3):
            camera.let_answer(5)
            queued.append(camera.metric("alexnet_edge_web_queued_bytes"))
        # One picture each at most, whose size differs a little from frame to frame.
        assert max(queued) <= 10 * 3 * largest
        assert camera.get("/healthz").status == 200
        wait_until(
            lambda: camera.metric("alexnet_edge_web_slow_clients_total") == cut_before + 10,
            what="all are cut off",
        )
    assert camera.metric("alexnet_edge_web_streams") == 0
    assert camera.metric("alexnet_edge_web_queued_bytes") == 0


def test_what_the_loop_pays_for_a_slow_client_is_a_reference():
    """`write` neither waits for the server's thread nor keeps what it was given before."""
    import gc
    import weakref

    with standing(make_keeper(make_answer())) as (camera, web):
        first = make_answer(0)
        gone = weakref.ref(first.frame)
        web.write(first)
        del first
        with camera.connect(request_of("/stream.mjpg"), receive_bytes=2048):
            wait_until(lambda: camera.metric("alexnet_edge_web_streams") == 1, what="a stream")
            for index in range(1, 2000):
                web.write(make_answer(index))
            wait_until(lambda: gc.collect() >= 0 and gone() is None, what="the frame is let go")
            assert web._newest.answer.frame.index == 1999


def test_more_than_the_streams_allowed_are_told_to_wait(camera, monkeypatch):
    monkeypatch.setattr(web_app, "MAX_STREAMS", 2)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(camera.connect(request_of("/stream.mjpg"))).recv(10)
        wait_until(lambda: camera.metric("alexnet_edge_web_streams") == 2, what="two streams")
        reply = camera.get("/stream.mjpg")
        assert (reply.status, reply.headers["retry-after"]) == (503, "5")
    wait_until(lambda: camera.metric("alexnet_edge_web_streams") == 0, what="streams end")
    with camera.connect(request_of("/stream.mjpg")) as connection:
        assert b"200 OK" in connection.recv(100)


def test_more_than_the_connections_allowed_are_told_to_wait(camera, monkeypatch):
    wait_until(lambda: camera.metric("alexnet_edge_web_connections") <= 1, what="a quiet server")
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(camera.connect(request_of("/events"))) for _ in range(5)]
        for connection in held:
            assert b"200 OK" in connection.recv(100)
        for _ in range(30):
            with camera.connect(request_of("/healthz")) as refused:
                text = refused.recv(1000)
            assert b"503" in text and b"Retry-After" in text
    wait_until(
        lambda: b"200 OK" in ask(camera, request_of("/healthz").replace(b"1.1", b"1.0")),
        what="there is room again",
    )


def ask(camera, request):
    """Send bytes and return what comes back until the server closes."""
    with camera.connect(request) as connection:
        connection.settimeout(10)
        received = b""
        with contextlib.suppress(ConnectionError):
            while len(received) < 100_000 and (part := connection.recv(65536)):
                received += part
        return received


CLOSING = "Connection: close\r\n\r\n"
MALFORMED = {
    "garbage": (b"\x00\xff\x16\x03\x01garbage\r\n\r\n", {400}),
    "a TLS greeting": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, {400}),
    "no version": (b"GET /healthz\r\n\r\n", {400, 421}),
    "a version that is none": (b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n", {400, 505}),
    "a long line": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 414}),
    "a long header": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", {400, 431},
    ),
    "many headers": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 5000 + b"\r\n", {400, 431},
    ),
    "a header without a colon": (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", {400}),
    "two lengths": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        {400},
    ),
    "a length below 0": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", {400},
    ),
    "a chunk that is none": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
        {200, 400},
    ),
    "a body of gigabytes": (
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n"
        + b"x" * 100_000, {405},
    ),
    "an unknown method": (
        f"BREW / HTTP/1.1\r\nHost: localhost\r\n{CLOSING}".encode(), {400, 405},
    ),
    "a delete": (f"DELETE /healthz HTTP/1.1\r\nHost: localhost\r\n{CLOSING}".encode(), {405}),
    "a way out": (
        f"GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n{CLOSING}".encode(), {404},
    ),
    "an escaped way out": (
        f"GET /%2e%2e/%2e%2e/etc/passwd%00 HTTP/1.1\r\nHost: localhost\r\n{CLOSING}".encode(),
        {400, 404},
    ),
    "a path of bytes": (
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", {400, 404},
    ),
    "an upgrade": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade, close"
        b"\r\n\r\n", {200, 400},
    ),
    "a proxy's request": (
        f"CONNECT example.invalid:443 HTTP/1.1\r\nHost: localhost\r\n{CLOSING}".encode(),
        {400, 403, 404, 405, 421},
    ),
    "a cookie of rubbish": (
        f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: \x01=;;;==\r\n{CLOSING}".encode(),
        {200, 400},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused_and_nothing_else_happens(camera, capfd, name):
    request, statuses = MALFORMED[name]
    answered = camera.stats.answered
    reply = ask(camera, request)
    status = int(reply.split(b" ", 2)[1])
    assert status in statuses
    assert b"Traceback" not in reply and b"root:" not in reply and b'File "' not in reply
    assert camera.get("/healthz").status == 200
    wait_until(lambda: camera.stats.answered > answered, what="the loop goes on")
    assert capfd.readouterr() == ("", ""), "nothing is printed over the terminal's view"


def test_random_bytes_end_in_nothing_worse(camera):
    import random

    generator = random.Random(7)
    for length in (1, 10, 100, 5000, 50_000):
        with camera.connect(generator.randbytes(length)) as connection:
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                connection.recv(1000)
    assert camera.get("/healthz").status == 200


def test_who_never_finishes_asking_is_cut_off(monkeypatch):
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 0.3)
    with standing(make_keeper(make_answer())) as (camera, _):
        for start in (b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nHost: local"):
            with camera.connect(start) as connection:
                assert connection.recv(100) in {b"", connection.recv(0)}


def test_pipelining_behind_a_stream_is_bounded(camera):
    """What comes after a request that never ends is not read on and on."""
    with camera.connect(request_of("/events")) as connection:
        connection.settimeout(3)
        sent = 0
        block = request_of("/healthz") * 2000
        with contextlib.suppress(TimeoutError, socket.timeout, ConnectionError):
            while sent < 100_000_000:
                sent += connection.send(block)
        assert sent < 100_000_000, "the server takes whatever comes"
    assert camera.get("/healthz").status == 200


def test_what_goes_wrong_is_logged_not_printed(caplog, capfd):
    def read():
        raise RuntimeError("no figures")

    web = WebServer("127.0.0.1", 0, read)
    host, port = web.start()
    with contextlib.closing(web), caplog.at_level(logging.ERROR, "alexnet_edge.camera.web"):
        reply = Camera(None, web, host, port).get("/metrics")
    assert reply.status == 500
    assert b"no figures" not in reply.body
    assert "no figures" in caplog.text
    assert "no figures" not in "".join(capfd.readouterr())


# Addresses.


def test_closing_cuts_clients_off_and_frees_the_port():
    keeper = make_keeper(make_answer())
    with standing(keeper, make_answer()) as (camera, web):
        streams = [camera.connect(request_of("/stream.mjpg")) for _ in range(3)]
        for stream in streams:
            stream.recv(100)
        web.close()
        assert not web._thread.is_alive()
        for stream in streams:
            with contextlib.suppress(ConnectionError):
                while stream.recv(65536):
                    pass
            stream.close()
        again = WebServer("127.0.0.1", camera.port, keeper.snapshot)
        assert again.start() == ("127.0.0.1", camera.port)
        again.close()


def test_a_server_that_was_not_started_can_be_closed():
    WebServer("127.0.0.1", 0, make_keeper().snapshot).close()


def start(host, port=0, token=None):
    web = WebServer(host, port, make_keeper().snapshot, token)
    try:
        return web.start()
    finally:
        web.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9"])
def test_loopback_needs_no_token(host):
    assert start(host)[0].startswith("127.")


def test_ipv6_loopback_needs_no_token():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert start("::1")[0] == "::1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
def test_other_addresses_need_a_token(host):
    with pytest.raises(InputError, match="no token") as caught:
        start(host)
    assert "127.0.0.1" in caught.value.hint


def test_with_a_token_they_do():
    assert start("0.0.0.0", token=TOKEN)[0] == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_short_token_is_refused(host):
    with pytest.raises(InputError, match="at least 16") as caught:
        start(host, token="secret")
    assert "secrets.token_urlsafe" in caught.value.hint


def test_a_taken_address_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"127.0.0.1:{port}.*in use") as caught:
            start("127.0.0.1", port)
    assert str(port + 1) in caught.value.hint


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 0), ("127.0.0.1", 70_000), ("127.0.0.1", -1)]
)
def test_an_address_that_is_none_is_an_error(host, port):
    with pytest.raises(InputError) as caught:
        start(host, port)
    assert caught.value.hint


def test_an_address_of_another_machine_is_an_error():
    with pytest.raises(InputError, match=r"192\.0\.2\.1") as caught:
        start("192.0.2.1", token=TOKEN)
    assert "ip addr" in caught.value.hint


def test_without_aiohttp_the_extra_is_named():
    script = """
import sys
sys.modules["aiohttp"] = None
from alexnet_edge.camera.web import WebServer
from alexnet_edge.errors import MissingDependencyError
try:
    WebServer("127.0.0.1", 0, None).start()
except MissingDependencyError as error:
    print(error.hint)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "alexnet-edge[camera]" in done.stdout


def test_importing_it_loads_no_server():
    script = "import sys, alexnet_edge.camera.web; print('aiohttp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
