"""An engine and ways to run the loop that the camera's tests share."""

from __future__ import annotations

import threading

import pytest

from alexnet_edge.camera.capture import CaptureOptions
from alexnet_edge.camera.loop import CameraLoop, LoopOptions
from alexnet_edge.camera.sources import Timeouts, make_source
from alexnet_edge.classifier import Classifier
from alexnet_edge.runtimes.base import RuntimeOptions


class Collector:
    """A sink that keeps everything."""

    name = "collector"

    def __init__(self):
        self.answers = []
        self.events = []
        self.closed = 0

    def write(self, answer):
        self.answers.append(answer)

    def note(self, event):
        self.events.append(event)

    def close(self):
        self.closed += 1

    @property
    def kinds(self):
        return [event.kind for event in self.events]


class RunningLoop:
    """A loop on a thread of its own."""

    def __init__(self, loop, collector):
        self.loop, self.collector = loop, collector
        self.result = self.error = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            self.result = self.loop.run()
        except Exception as error:
            self.error = error

    def stop(self):
        self.loop.stop()
        return self.wait()

    def wait(self, timeout_s=30):
        self.thread.join(timeout_s)
        assert not self.thread.is_alive(), "the loop does not end"
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture(scope="session")
def classifier(tiny_onnx):
    with Classifier(tiny_onnx, RuntimeOptions(threads=1)) as opened:
        yield opened


@pytest.fixture(scope="session")
def side_by_side(tiny_onnx):
    """An engine that serves three callers at a time."""
    with Classifier(tiny_onnx, RuntimeOptions(threads=1, contexts=3)) as opened:
        yield opened


@pytest.fixture
def start_loop(classifier):
    """Start a loop over a source's name; it is stopped at the end of the test."""
    started = []

    def start(source, *, sinks=(), read_timeout_s=1.0, max_backoff_s=0.5, retry=True,
              engine=classifier, **options):  # fmt: skip
        capture = CaptureOptions(retry, max_backoff_s, read_timeout_s)
        if isinstance(source, str):
            source = make_source(source, Timeouts(5.0, read_timeout_s))
        collector = Collector()
        loop = CameraLoop(
            engine, source, LoopOptions(capture=capture, **options), [collector, *sinks]
        )
        running = RunningLoop(loop, collector)
        started.append(running)
        return running

    yield start
    for running in started:
        running.loop.stop()
        running.thread.join(10)


@pytest.fixture
def run_loop(start_loop):
    """Run a loop to its end; return its result and what its sink collected."""

    def run(source, **options):
        running = start_loop(source, **options)
        return running.wait(), running.collector

    return run
