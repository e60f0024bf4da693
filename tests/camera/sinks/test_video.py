"""Recordings: read back frame by frame; what is left when the disk is full or the process dies."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys

import numpy as np
import pytest

from alexnet_edge.camera.sinks import VideoRecorder
from alexnet_edge.camera.sinks.caption import draw_caption
from alexnet_edge.camera.sinks.segment import Segments
from alexnet_edge.camera.sinks.video import Timeline
from alexnet_edge.errors import InputError
from tests.camera.answers import HOSTILE, make_answer
from tests.camera.scenes import number_of, wait_until

av = pytest.importorskip("av", reason="PyAV is not installed; it comes with the extra camera")


def read(path):
    """Return each frame's time and pixels; up to the first that is damaged."""
    frames = []
    with av.open(str(path)) as container:
        try:
            for frame in container.decode(video=0):
                frames.append((float(frame.time), frame.to_ndarray(format="rgb24")))
        except av.FFmpegError:
            pass
    return frames


def record(path, answers, fps=30):
    recorder = VideoRecorder(path, fps)
    for answer in answers:
        recorder.write(answer)
    recorder.close()
    return recorder


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_every_frame_is_there_at_its_time(tmp_path, suffix):
    times = [index / 10 + (0.02 if index % 3 else 0) for index in range(45)]
    answers = [make_answer(i, timestamp_s=100 + at) for i, at in enumerate(times)]
    recorder = record(tmp_path / f"out{suffix}", answers)
    assert recorder.paths == (tmp_path / f"out{suffix}",)
    frames = read(recorder.paths[0])
    assert [number_of(pixels) for _, pixels in frames] == list(range(45))
    assert [at for at, _ in frames] == pytest.approx(times, abs=0.002)
    assert frames[0][1].shape == (120, 160, 3)
    with av.open(str(recorder.paths[0])) as container:
        assert container.duration / av.time_base == pytest.approx(4.5, abs=0.15)
        assert container.streams.video[0].codec_context.name == "h264"


def test_without_x264_it_is_mpeg4(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
    recorder = record(tmp_path / "out.mp4", [make_answer(i, timestamp_s=i / 30) for i in range(9)])
    assert recorder.codec == "mpeg4"
    assert [number_of(pixels) for _, pixels in read(recorder.paths[0])] == list(range(9))


def test_the_answer_is_drawn_onto_the_foot(tmp_path):
    answer = make_answer(3, width=320, height=240)
    plain = answer.frame.pixels
    drawn = np.asarray(draw_caption(answer, 29.97))
    assert np.array_equal(drawn[:180], plain[:180]), "the picture above is left alone"
    assert (drawn[200:] > 200).any(), "letters"
    assert drawn[239, 319].max() < plain[239, 319].max(), "the band"
    other = np.asarray(draw_caption(make_answer(3, width=320, height=240, top=(("b", 0.5),)), 1.0))
    assert not np.array_equal(drawn, other)


@pytest.mark.parametrize("size", [(16, 16), (33, 17), (640, 37), (2000, 40)])
@pytest.mark.parametrize("name", ["x", "a name that is much too long " * 8, HOSTILE, ""])
def test_any_name_fits_any_frame(size, name):
    answer = make_answer(width=size[0], height=size[1], top=((name, 0.5),))
    assert draw_caption(answer, 30.0).size == size


def test_a_change_of_size_begins_another_file(tmp_path):
    answers = [make_answer(i, timestamp_s=i / 10) for i in range(5)]
    answers += [make_answer(i, timestamp_s=i / 10, width=321, height=241) for i in range(5, 12)]
    recorder = record(tmp_path / "out.mp4", answers)
    assert [path.name for path in recorder.paths] == ["out.mp4", "out-2.mp4"]
    first, second = map(read, recorder.paths)
    assert (len(first), len(second)) == (5, 7)
    assert second[0][0] == 0
    assert second[0][1].shape == (240, 320, 3), "an odd row and column are left out"


def test_a_recording_is_never_overwritten(tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"an earlier one")
    recorder = record(tmp_path / "out.mp4", [make_answer(0)])
    assert [path.name for path in recorder.paths] == ["out-2.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"an earlier one"


def test_nothing_is_left_where_no_frame_came(tmp_path):
    assert record(tmp_path / "out.mp4", []).paths == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "fps"), [("out.gif", 30), ("out", 30), ("no/such/out.mp4", 30), ("out.mp4", 0)]
)
def test_what_cannot_be_recorded_is_an_error_at_once(tmp_path, path, fps):
    with pytest.raises(InputError) as caught:
        VideoRecorder(tmp_path / path, fps)
    assert caught.value.hint


def place_all(frames, fps=10):
    timeline = Timeline(fps)
    return [timeline.place(answer.frame) for answer in frames]


def test_a_source_without_times_goes_by_capture():
    assert place_all([make_answer(captured_s=50 + t) for t in (0, 0.5, 0.6)]) == pytest.approx(
        [0, 0.5, 0.6]
    )


def test_time_that_runs_backwards_is_joined():
    times = [5, 5.1, 0, 0.1, 0.1, 9]
    placed = place_all([make_answer(timestamp_s=t) for t in times])
    assert placed == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 9.3])


def test_a_folders_files_follow_at_the_rate_at_most():
    captured = (0, 0.01, 0.02, 0.5)
    placed = place_all([make_answer(captured_s=7 + t, name="a.png") for t in captured])
    assert placed == pytest.approx([0, 0.1, 0.2, 0.68])


DISK_SCRIPT = """
import resource, sys, time
from pathlib import Path
from alexnet_edge.camera.sinks import VideoRecorder
from tests.camera.answers import make_answer

path, limit, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
recorder = VideoRecorder(path, 30)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
failure = "none"
for index in range(count):
    try:
        recorder.write(make_answer(index, timestamp_s=index / 10))
    except OSError as error:
        failure = f"write {error.errno}"
        break
if not limit:
    print("ready", flush=True)
    time.sleep(60)
try:
    recorder.close()
except OSError as error:
    failure = f"close {error.errno}"
print(failure, len(recorder.paths))
"""


def run_on_disk(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", DISK_SCRIPT, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_an_os_error_and_what_was_written_plays(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    where, number, files = run_on_disk(path, 60_000, 400)
    assert (where, int(number), files) == ("write", errno.EFBIG, "1")
    numbers = [number_of(pixels) for _, pixels in read(path)]
    assert len(numbers) >= 20
    assert numbers[:20] == list(range(20))


FIXED_SCRIPT = """
import resource, sys
from pathlib import Path
from PIL import Image
from alexnet_edge.camera.sinks.segment import Segments, choose_codec

path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
segments = Segments(path, 10, choose_codec())
image = Image.linear_gradient("L").convert("RGB")
try:
    for index in range(1000):
        segments.add(image.rotate(index), index / 10)
except OSError:
    segments.abandon()
    print(len(segments.paths))
"""


def boxes_of(data):
    """Return where each top-level box of an MP4 begins, its size and its kind."""
    at, found = 0, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((at, size, data[at + 4 : at + 8]))
        at += size
    return found


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_a_disk_that_is_full_within_a_fragments_description_keeps_those_before(tmp_path, suffix):
    def record(path, limit):
        command = [sys.executable, "-c", FIXED_SCRIPT, str(path), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    longer = tmp_path / f"longer{suffix}"
    assert record(longer, 200_000) == "1"
    moofs = [(at, size) for at, size, kind in boxes_of(longer.read_bytes()) if kind == b"moof"]
    assert len(moofs) >= 2
    at, size = moofs[1]
    for within in (4, 12, size // 2, size - 1):
        path = tmp_path / f"{within}{suffix}"
        assert record(path, at + within) == "1"
        assert len(list(read(path))) >= 40, f"cut {within} bytes within the second description"


def test_a_disk_that_was_full_before_leaves_no_file(tmp_path):
    where, number, files = run_on_disk(tmp_path / "out.mp4", 10, 400)
    assert (where, int(number), files) == ("write", errno.EFBIG, "0")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_end_is_said_on_closing(tmp_path):
    where, number, _ = run_on_disk(tmp_path / "out.mkv", 600, 3)
    assert (where, int(number)) == ("close", errno.EFBIG)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_process_that_is_killed_leaves_what_plays(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    process = subprocess.Popen(
        [sys.executable, "-c", DISK_SCRIPT, path, "0", "70"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    wait_until(lambda: len(read_or_nothing(path)) >= 60, what="fragments on disk")
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert [number_of(pixels) for _, pixels in read(path)][:60] == list(range(60))


def read_or_nothing(path):
    try:
        return read(path)
    except (OSError, av.FFmpegError):
        return []


def test_a_disk_that_hangs_ends_the_recording(tmp_path, monkeypatch):
    """The encoder's thread waits for a disk; the loop does not wait with it for ever."""
    import threading

    hanging = threading.Event()
    monkeypatch.setattr("alexnet_edge.camera.sinks.video.PATIENCE_S", 0.2)
    monkeypatch.setattr(Segments, "add", lambda *_: hanging.wait(30))
    recorder = VideoRecorder(tmp_path / "out.mp4", 30)
    with pytest.raises(OSError) as caught:
        for index in range(100):
            recorder.write(make_answer(index))
    assert caught.value.errno == errno.ETIMEDOUT
    assert index < 20, "few frames wait in memory"
    recorder.close()
    hanging.set()
