"""A real loop behind a real server, and ways to ask it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import json
import socket
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor

import onnx
import pytest

from alexnet_edge.camera.loop import CameraLoop, LoopOptions
from alexnet_edge.camera.sources import make_source
from alexnet_edge.camera.web import WebServer
from alexnet_edge.classifier import Classifier
from alexnet_edge.runtimes.base import RuntimeOptions
from tests.camera.conftest import Collector, RunningLoop
from tests.camera.scenes import wait_until

FPS = 30
TOKEN = "a token of many characters/ü"
CLASSES = [f"<script>alert({label})</script>" for label in range(10)]


def run_apart(scenario: Coroutine[object, object, None]) -> None:
    """Run it in a thread: in this one a browser's loop may be running."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, scenario).result()


@dataclasses.dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclasses.dataclass
class Camera:
    """A running loop and its server."""

    running: RunningLoop
    server: WebServer
    host: str
    port: int

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    @property
    def stats(self):
        return self.running.loop.stats()

    def get(self, path, *, method="GET", **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            reply = connection.getresponse()
            found = {name.lower(): value for name, value in reply.getheaders()}
            return Reply(reply.status, found, reply.read())

    def metric(self, name):
        """Return a metric without labels, by a scrape of its own."""
        from prometheus_client.parser import text_string_to_metric_families

        from alexnet_edge.camera.web import app as web_app

        time.sleep(2 * web_app._STATS_FRESH_S)
        text = self.get("/metrics", **headers_of(self)).body.decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and not sample.labels:
                    return sample.value
        raise KeyError(name)

    def connect(self, request=b"", receive_bytes=None):
        """Return a socket on which a request was sent."""
        connection = socket.socket()
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(request)
        return connection

    def let_answer(self, count):
        """Wait until so many further frames are answered."""
        goal = self.stats.answered + count
        wait_until(lambda: self.stats.answered >= goal, 60, f"{count} more answers")


def headers_of(camera):
    token = camera.server._token
    return {"Authorization": f"Bearer {token}"} if token else {}


def request_of(path, host="localhost"):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


@pytest.fixture(scope="session")
def hostile_classifier(tmp_path_factory, tiny_onnx):
    """The tiny network, whose classes have names that a page must not obey."""
    path = tmp_path_factory.mktemp("hostile") / "tiny.onnx"
    model = onnx.load(tiny_onnx)
    for entry in model.metadata_props:
        if entry.key == "alexnet_edge.classes":
            entry.value = json.dumps(CLASSES)
    onnx.save(model, path)
    with Classifier(path, RuntimeOptions(threads=1)) as opened:
        yield opened


@contextlib.contextmanager
def serving(classifier, folder, host="127.0.0.1", token=None):
    """Run a loop over a folder, as a camera, and serve it; hand out once it answers."""
    source = make_source(f"file://{folder}?loop=1&live=1&fps={FPS}")
    loop = CameraLoop(classifier, source, LoopOptions(), [collector := Counter()])
    server = WebServer(host, 0, loop.stats, token)
    bound, port = server.start()
    loop.add_sink(server)
    running = RunningLoop(loop, collector)
    camera = Camera(running, server, bound, port)
    try:
        wait_until(lambda: camera.stats.answered > 0, 60, "the first answer")
        yield camera
    finally:
        running.stop()


class Counter(Collector):
    """A sink that keeps only the last answer, as the loop runs long."""

    def write(self, answer):
        self.answers = [answer]


@pytest.fixture(scope="package")
def camera(hostile_classifier, digits_folders):
    """On loopback, without a token."""
    with serving(hostile_classifier, digits_folders / "val") as running:
        yield running


@pytest.fixture(scope="package")
def guarded(hostile_classifier, digits_folders):
    """On every address, with a token."""
    folder = digits_folders / "val" / "0"
    with serving(hostile_classifier, folder, "0.0.0.0", TOKEN) as running:
        yield running
