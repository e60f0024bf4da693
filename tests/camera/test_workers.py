"""Frames that several threads answer side by side come out in order, and all are accounted for."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from alexnet_edge.camera import workers
from alexnet_edge.camera.capture import Capture, CaptureOptions
from alexnet_edge.camera.loop import WORKER_BATCH
from alexnet_edge.camera.sources import make_source
from alexnet_edge.camera.workers import WorkerFeed
from alexnet_edge.errors import InputError
from tests.camera.scenes import number_of, numbered, write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """100 numbered frames: no multiple of the batch."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, map(numbered, range(100)), "libx264", preset="ultrafast")


def test_answers_are_those_of_one_thread_in_the_same_order(run_loop, side_by_side, clip):
    _, alone = run_loop(str(clip))
    result, beside = run_loop(str(clip), engine=side_by_side, throughput=True)
    assert [number_of(a.frame.pixels) for a in beside.answers] == list(range(100))
    assert [a.answered for a in beside.answers] == list(range(1, 101))
    for one, other in zip(alone.answers, beside.answers, strict=True):
        assert [p.label for p in one.top] == [p.label for p in other.top]
        np.testing.assert_allclose(
            [p.probability for p in one.top], [p.probability for p in other.top], atol=1e-5
        )
    stats = result.stats
    assert (stats.captured, stats.answered, stats.dropped) == (100, 100, 0)
    assert min(a.stages_ms["inference"] for a in beside.answers) > 0
    assert all(a.age_ms >= a.stages_ms["inference"] for a in beside.answers)


@pytest.mark.parametrize("frames", [1, 7, 30])
def test_frames_are_accounted_for_when_it_ends_early(run_loop, side_by_side, clip, frames):
    result, seen = run_loop(str(clip), engine=side_by_side, throughput=True, max_frames=frames)
    assert result.reason == "limit"
    assert [a.frame.index for a in seen.answers] == list(range(frames))
    assert result.stats.captured == frames + result.stats.dropped


@pytest.mark.parametrize(("frames", "most"), [(100, 16), (5.5, 5), (0.5, 1)])
def test_a_batch_holds_so_many_frames_and_bytes_at_most(
    side_by_side, clip, monkeypatch, frames, most
):
    sizes, infer = [], side_by_side.infer

    def count(batch):
        sizes.append(len(batch))
        return infer(batch)

    monkeypatch.setattr(side_by_side, "infer", count)
    monkeypatch.setattr(workers, "_BATCH_BYTES", int(frames * numbered(0).nbytes))
    capture = Capture(make_source(str(clip)), CaptureOptions())
    capture.start()
    feed = WorkerFeed(capture, side_by_side, WORKER_BATCH)
    while not feed.ended:
        feed.take(0.1, 100)
    feed.close()
    assert max(sizes) == most
    assert sum(sizes) == 100


def test_a_live_source_is_not_waited_for_until_a_batch_is_full(run_loop, side_by_side, clip):
    result, seen = run_loop(
        f"file://{clip}?live=1", engine=side_by_side, throughput=True, max_frames=40
    )
    assert result.reason == "limit"
    indices = [a.frame.index for a in seen.answers]
    assert indices == sorted(set(indices))
    ages = sorted(a.age_ms for a in seen.answers)
    assert ages[len(ages) // 2] < 200, "sixteen frames take 533 ms to come"


def test_a_stop_ends_it_and_threads_end(start_loop, side_by_side, clip):
    running = start_loop(f"file://{clip}?loop=1", engine=side_by_side, throughput=True)
    time.sleep(0.5)
    assert running.stop().reason == "stopped"
    assert not [t for t in threading.enumerate() if t.name.startswith("answer-")]
    stats = running.result.stats
    assert stats.captured == stats.answered + stats.dropped


class FailingClassifier:
    """Fails at its third batch."""

    callers = 2

    def __init__(self, classifier):
        self._classifier = classifier
        self._batches = 0
        self._lock = threading.Lock()

    def prepare(self, frame, *, threads=None):
        return self._classifier.prepare(frame, threads=threads)

    def infer(self, batch):
        with self._lock:
            self._batches += 1
            if self._batches == 3:
                raise InputError("the engine broke", hint="")
        return self._classifier.infer(batch)


def test_a_failure_of_the_engine_reaches_the_loop(classifier, clip):
    capture = Capture(make_source(str(clip)), CaptureOptions())
    capture.start()
    feed = WorkerFeed(capture, FailingClassifier(classifier), 8)
    taken = []
    with pytest.raises(InputError, match="the engine broke"):
        while not feed.ended:
            taken += feed.take(0.1, 8)
    feed.close()
    capture.stop()
    assert [item.frame.index for item in taken] == list(range(len(taken)))
    assert len(taken) <= 40
    counts = capture.counts()
    assert counts.captured == len(taken) + counts.dropped
