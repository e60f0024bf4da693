"""The loop on real sources: every frame accounted for, and answered as parity answers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from alexnet_edge.camera.loop import CameraLoop, LoopOptions
from alexnet_edge.camera.smoothing import make_smoother
from alexnet_edge.camera.sources import make_source
from alexnet_edge.camera.sources.base import SourceLostError
from alexnet_edge.classifier import Classifier
from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.errors import InputError
from alexnet_edge.machine import core_numbers
from alexnet_edge.parity import ParitySettings, compare_answers
from alexnet_edge.runtimes.loader import open_engine
from tests.camera.scenes import number_of, numbered, wait_until, write_video


@pytest.fixture(scope="session")
def photos_video(tmp_path_factory, digits_folders):
    """A lossless video of the labelled images, in the order in which parity reads them."""
    images = open_images(digits_folders / "val")
    frames = [np.asarray(item.load().resize((160, 120))) for item in images.items]
    path = write_video(
        tmp_path_factory.mktemp("video") / "photos.mkv", frames, "ffv1", pix_fmt="bgr0"
    )
    return path, frames


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """120 numbered frames."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, map(numbered, range(120)), "libx264", preset="ultrafast")


@pytest.mark.parametrize("throughput", [False, True])
def test_a_videos_answers_are_those_of_parity(
    run_loop, tiny_onnx, photos_video, tmp_path, throughput
):
    """The same frames as image files, judged by parity; the loop gives the same answers."""
    from PIL import Image

    path, frames = photos_video
    for index, pixels in enumerate(frames):
        Image.fromarray(pixels).save(tmp_path / f"{index:04d}.png")
    images = open_images(tmp_path)
    with open_engine(tiny_onnx) as engine:
        expected = np.concatenate(
            [engine.infer_any(b.tensor) for b in ImageReader(images, engine.info.preprocess)]
        )
        judged = compare_answers(engine, engine, images, ParitySettings())
    result, seen = run_loop(str(path), top_k=10, throughput=throughput)
    assert result.reason == "ended"
    assert judged.images == len(seen.answers) == len(frames) == 100
    for answer, row in zip(seen.answers, expected, strict=True):
        assert answer.top[0].label == row.argmax()
        ours = {p.label: p.probability for p in answer.top}
        assert [ours[label] for label in range(10)] == pytest.approx(row.tolist(), abs=1e-6)


def test_a_folders_accuracy_is_that_of_parity(run_loop, tiny_onnx, digits_folders):
    with open_engine(tiny_onnx) as engine:
        images = open_images(digits_folders / "val")
        judged = compare_answers(engine, engine, images, ParitySettings())
    result, seen = run_loop(str(digits_folders / "val"))
    right = [answer.frame.name.split("/")[0] == answer.top[0].name for answer in seen.answers]
    assert result.stats.answered == judged.images
    assert np.mean(right) == pytest.approx(judged.engine.top1)


@pytest.mark.parametrize("input_kind", ["float32", "uint8"])
def test_the_same_pixels_give_the_same_tensor(tmp_path, tiny_checkpoint, input_kind):
    """Frames of a camera's size, through the loop's preparation and through parity's reader."""
    import dataclasses

    from PIL import Image

    from alexnet_edge.dataset import ImageItem, ImageSet
    from alexnet_edge.export import ExportSettings, export_onnx
    from alexnet_edge.model import load_checkpoint
    from alexnet_edge.preprocess import PreprocessSpec

    rng = np.random.default_rng(0)
    spec = PreprocessSpec(resize=256, crop=227, input=input_kind)
    checkpoint = dataclasses.replace(load_checkpoint(tiny_checkpoint), preprocess=spec)
    path = tmp_path / "engine.onnx"
    export_onnx(checkpoint, spec, ExportSettings(), path)
    sizes = [(720, 1280), (1080, 1920), (480, 640), (227, 227), (100, 99), (31, 640), (1280, 720)]
    with Classifier(path) as classifier:
        assert classifier.info.input.dtype == input_kind
        for size in sizes:
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "x.png")
            item = ImageItem("x.png", tmp_path / "x.png")
            (batch,) = ImageReader(ImageSet("x", (item,)), classifier.spec)
            ours = classifier.prepare(pixels)
            assert ours.dtype == batch.tensor.dtype == input_kind
            assert np.array_equal(ours, batch.tensor), size


def test_every_frame_of_a_file_is_answered_in_order(run_loop, clip):
    result, seen = run_loop(str(clip))
    assert [number_of(a.frame.pixels) for a in seen.answers] == list(range(120))
    assert [a.frame.index for a in seen.answers] == list(range(120))
    assert [a.answered for a in seen.answers] == list(range(1, 121))
    stats = result.stats
    assert (stats.captured, stats.answered, stats.dropped, stats.corrupt) == (120, 120, 0, 0)
    assert seen.kinds == ["connected", "ended"]
    assert seen.closed == 1
    assert stats.state == "stopped"


def test_the_age_is_that_of_all_stages_and_the_waiting_between(run_loop, clip):
    result, seen = run_loop(str(clip))
    for answer in seen.answers:
        assert answer.stages_ms.keys() == {"capture", "preprocess", "inference"}
        assert min(answer.stages_ms.values()) > 0
        assert answer.age_ms >= answer.stages_ms["preprocess"] + answer.stages_ms["inference"]
    assert result.age_ms.count == 120
    assert result.age_ms.p50 == pytest.approx(np.median([a.age_ms for a in seen.answers]))
    assert result.stages_ms["output"].count == 120
    assert result.cpu_percent > 0
    assert result.fps == pytest.approx(120 / result.seconds)


class SlowSink:
    name = "slow"

    def write(self, answer):
        time.sleep(0.15)

    def note(self, event):
        pass

    def close(self):
        pass


def test_a_live_source_gives_the_newest_frame_and_counts_the_dropped(run_loop, clip):
    result, seen = run_loop(f"file://{clip}?live=1", sinks=[SlowSink()])
    stats = result.stats
    assert stats.captured == 120
    assert stats.dropped > 60, "30 frames a second come, fewer than 7 are answered"
    assert stats.captured == stats.answered + stats.dropped
    numbers = [number_of(a.frame.pixels) for a in seen.answers]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 119
    assert [a.frame.index for a in seen.answers] == numbers
    ages = sorted(a.age_ms for a in seen.answers)
    assert ages[len(ages) // 2] < 1000, "no queue builds up"


class CoreSink:
    """Keeps the cores that the loop's thread, and one that it starts, may use."""

    name = "cores"

    def __init__(self):
        self.seen = set()

    def write(self, answer):
        thread = threading.Thread(target=self._look)
        thread.start()
        thread.join()

    def _look(self):
        self.seen.add(frozenset(os.sched_getaffinity(0)))

    def note(self, event):
        pass

    def close(self):
        pass


@pytest.mark.skipif(len(core_numbers()) < 2, reason="needs two cores")
@pytest.mark.parametrize("live", [False, True])
def test_a_live_loop_keeps_to_one_core_and_what_it_starts_to_none(start_loop, clip, live):
    cores = frozenset(core_numbers())
    sink = CoreSink()
    running = start_loop(f"file://{clip}?live={int(live)}&loop=1", sinks=[sink])
    wait_until(lambda: sink.seen)
    (capture,) = [thread for thread in threading.enumerate() if thread.name == "capture"]
    assert os.sched_getaffinity(capture.native_id) == cores, "decoding takes all cores"
    own = running.thread.native_id
    if live:
        wait_until(lambda: os.sched_getaffinity(own) == {min(cores)})
    else:
        assert {frozenset(os.sched_getaffinity(own)) for _ in range(1000)} == {cores}
    running.stop()
    assert sink.seen == {cores}, "encoding a video, say"


@pytest.mark.parametrize("throughput", [False, True])
def test_frames_are_accounted_for_when_it_ends_early(run_loop, clip, throughput):
    result, seen = run_loop(str(clip), max_frames=7, throughput=throughput)
    assert result.reason == "limit"
    assert len(seen.answers) == result.stats.answered == 7
    assert result.stats.captured == 7 + result.stats.dropped


def test_a_duration_ends_it(run_loop, clip):
    started = time.monotonic()
    result, _ = run_loop(f"file://{clip}?live=1&loop=1", duration_s=1.0)
    assert result.reason == "limit"
    assert 1 <= result.seconds < 5
    assert time.monotonic() - started < 20


def test_a_stop_finishes_the_frame_and_closes_the_outputs(start_loop, clip):
    running = start_loop(f"file://{clip}?live=1&loop=1")
    wait_until(lambda: len(running.collector.answers) > 3)
    result = running.stop()
    assert result.reason == "stopped"
    assert running.collector.closed == 1
    assert result.stats.captured == result.stats.answered + result.stats.dropped
    assert not [t for t in threading.enumerate() if t.name in {"capture", "prepare"}]


class FullDisk:
    name = "recording"

    def __init__(self, answers):
        self.left, self.closed, self.notes = answers, 0, []

    def write(self, answer):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def note(self, event):
        self.notes.append(event)

    def close(self):
        self.closed += 1


def test_an_output_that_fails_is_left_out_and_the_loop_goes_on(run_loop, clip):
    disk = FullDisk(5)
    result, seen = run_loop(str(clip), sinks=[disk])
    assert len(seen.answers) == 120
    assert disk.closed == 1
    failed = [event for event in seen.events if event.kind == "sink-failed"]
    assert len(failed) == 1
    assert "No space left" in failed[0].message
    assert result.failed_sinks == {"recording": "recording: No space left on device"}


def test_an_output_that_fails_when_it_is_closed_is_told(run_loop, clip):
    class Closing(FullDisk):
        def close(self):
            super().close()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = Closing(1000)
    result, _ = run_loop(str(clip), sinks=[sink], max_frames=2)
    assert sink.closed == 1
    assert "recording" in result.failed_sinks


def test_a_source_without_frames_trips_the_watchdog(run_loop, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    result, seen = run_loop(f"raw://{pipe}?width=4&height=4", stall_timeout_s=0.7)
    assert result.reason == "stalled"
    assert seen.events[-1].kind == "stalled"
    assert seen.closed == 1


def test_a_file_that_cannot_be_opened_is_an_error(run_loop, tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"nothing")
    with pytest.raises(SourceLostError, match=r"x.mp4: cannot be opened"):
        run_loop(str(tmp_path / "x.mp4"))


def test_frames_of_another_size_are_answered_too(run_loop, tmp_path):
    from PIL import Image

    for index, size in enumerate([(160, 120), (640, 480), (90, 300)]):
        Image.fromarray(numbered(index, *size)).save(tmp_path / f"{index}.png")
    _, seen = run_loop(str(tmp_path))
    assert [a.frame.pixels.shape[:2] for a in seen.answers] == [(120, 160), (480, 640), (300, 90)]


def test_the_threshold_marks_what_is_unsure(run_loop, digits_folders):
    _, seen = run_loop(str(digits_folders / "val"), threshold=0.9)
    sure = [a for a in seen.answers if a.accepted]
    assert 0 < len(sure) < len(seen.answers)
    assert all((a.top[0].probability >= 0.9) == a.accepted for a in seen.answers)


def test_smoothing_averages_over_frames(run_loop, digits_folders):
    _, plain = run_loop(str(digits_folders / "val"), top_k=10)
    _, smooth = run_loop(str(digits_folders / "val"), top_k=10, smooth=4)

    def rows(seen):
        return np.array(
            [[{p.label: p.probability for p in a.top}[i] for i in range(10)] for a in seen.answers]
        )

    expected = np.array([rows(plain)[max(0, i - 3) : i + 1].mean(axis=0) for i in range(100)])
    assert np.allclose(rows(smooth), expected)


def test_exponential_smoothing_is_a_moving_average():
    smoother = make_smoother(0.25)
    assert smoother.add(np.array([1.0, 0.0])).tolist() == [1, 0]
    assert smoother.add(np.array([0.0, 1.0])).tolist() == [0.75, 0.25]
    assert smoother.add(np.array([0.0, 1.0])).tolist() == [0.5625, 0.4375]
    smoother.reset()
    assert smoother.add(np.array([0.0, 1.0])).tolist() == [0, 1]


@pytest.mark.parametrize(
    "options",
    [{"top_k": 0}, {"threshold": 2}, {"max_frames": 0}, {"duration_s": 0}, {"smooth": 0},
     {"smooth": 2.5}, {"smooth": float("nan")}, {"stall_timeout_s": float("inf")}],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(InputError):
        LoopOptions(**options)


def test_the_state_can_be_read_from_other_threads(start_loop, clip):
    running = start_loop(f"file://{clip}?live=1&loop=1")
    wait_until(lambda: running.loop.stats().answered > 5)
    stats = running.loop.stats()
    assert stats.state == "running"
    assert stats.source.endswith("?live=1&loop=1")
    assert stats.engine == "tiny.onnx"
    assert stats.fps > 0
    assert stats.recent["age"].count > 5
    assert stats.histograms["age"].count == stats.recent["age"].count
    assert stats.last_answer.frame.pixels.shape == (120, 160, 3)
    assert stats.last_event.kind == "connected"
    assert stats.rss_bytes > 10 << 20


def test_raw_frames_on_standard_input_are_all_answered(tiny_onnx):
    """As a user pipes them: from another process, through a pipe."""
    program = f"""
from alexnet_edge.camera.loop import CameraLoop, LoopOptions
from alexnet_edge.camera.sources import make_source
from alexnet_edge.classifier import Classifier
with Classifier({str(tiny_onnx)!r}) as classifier:
    stats = CameraLoop(
        classifier, make_source("-?width=160&height=120"), LoopOptions()
    ).run().stats
print(stats.captured, stats.answered, stats.dropped, stats.corrupt)
"""
    frames = b"".join(numbered(index).tobytes() for index in range(30))
    done = subprocess.run(
        [sys.executable, "-c", program], input=frames + b"rest", capture_output=True, check=True
    )
    assert done.stdout.split() == [b"30", b"30", b"0", b"1"]


def test_a_loop_takes_an_engine_that_stays_open(classifier, clip):
    CameraLoop(classifier, make_source(str(clip)), LoopOptions(max_frames=2)).run()
    assert classifier.classify(numbered(3))
