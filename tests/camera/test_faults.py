"""Faults of real servers, pipes and processes: the loop notices, says so, and goes on."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from alexnet_edge.camera.capture import Capture, CaptureOptions
from alexnet_edge.camera.sources.base import Picture, SourceLostError
from alexnet_edge.camera.stats import rss_bytes
from tests.camera.scenes import HERE, mjpeg_server, number_of, numbered, wait_until, write_video


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_stream_over_http_is_answered(start_loop):
    with mjpeg_server() as server:
        running = start_loop(server.url)
        wait_until(lambda: len(running.collector.answers) >= 10)
        result = running.stop()
    numbers = [number_of(a.frame.pixels) for a in running.collector.answers]
    assert numbers == sorted(set(numbers))
    assert result.stats.corrupt == 0
    assert result.stats.captured == result.stats.answered + result.stats.dropped


def test_a_server_that_is_killed_and_comes_back_is_found_again(start_loop):
    with mjpeg_server() as server:
        port = server.port
        running = start_loop(server.url)
        seen = running.collector
        wait_until(lambda: len(seen.answers) >= 5)
        server.kill()
        wait_until(lambda: "lost" in seen.kinds)
        assert running.loop.stats().state == "connecting"
        wait_until(lambda: seen.kinds.count("retrying") >= 2)
    before = len(seen.answers)
    with mjpeg_server(port=port):
        wait_until(lambda: len(seen.answers) >= before + 5)
        assert running.loop.stats().state == "running"
        result = running.stop()
    assert seen.kinds.count("connected") == 2
    assert result.stats.reconnects >= 2
    assert result.reason == "stopped"


def test_a_stream_that_ends_is_opened_again(start_loop):
    with mjpeg_server("count=4") as server:
        running = start_loop(server.url)
        wait_until(lambda: running.collector.kinds.count("connected") >= 3)
        running.stop()


def test_a_stream_that_breaks_off_is_an_error_without_retry(start_loop):
    with mjpeg_server("count=4") as server:
        running = start_loop(server.url, retry=False)
        with pytest.raises(SourceLostError, match="broke off"):
            running.wait()
    assert 1 <= running.loop.stats().captured <= 4, "those that opening looked at do not count"
    assert running.collector.kinds == ["connected", "lost"]
    assert running.collector.closed == 1


def test_a_stream_that_freezes_is_noticed_and_opened_again(start_loop):
    with mjpeg_server("freeze=5") as server:
        running = start_loop(server.url, read_timeout_s=0.7)
        wait_until(lambda: running.collector.kinds.count("connected") >= 2)
        wait_until(lambda: len(running.collector.answers) >= 6)
        running.stop()
    assert "stalled" in running.collector.kinds


def test_a_stream_that_freezes_for_good_trips_the_watchdog(start_loop):
    with mjpeg_server("freeze=3") as server:
        running = start_loop(server.url, read_timeout_s=60, stall_timeout_s=0.8)
        result = running.wait()
    assert result.reason == "stalled"
    assert 1 <= result.stats.answered <= 3


def test_corrupt_frames_are_counted_and_left_out(start_loop):
    with mjpeg_server("corrupt=3", "fps=60") as server:
        running = start_loop(server.url)
        wait_until(lambda: running.loop.stats().corrupt >= 5)
        result = running.stop()
    numbers = [number_of(a.frame.pixels) for a in running.collector.answers]
    assert not [number for number in numbers if number % 3 == 2]
    assert "corrupt" in running.collector.kinds
    assert result.stats.reconnects == 0


def test_frames_that_change_size_in_mid_stream_are_answered(start_loop):
    with mjpeg_server("resize=8") as server:
        running = start_loop(server.url)
        wait_until(lambda: running.loop.stats().captured >= 14)
        wait_until(lambda: "resized" in running.collector.kinds)
        running.stop()
    sizes = [a.frame.pixels.shape[:2] for a in running.collector.answers]
    assert sizes[0] == (120, 160)
    assert sizes[-1] == (240, 320)
    assert running.loop.stats().reconnects == 0
    (event,) = [e for e in running.collector.events if e.kind == "resized"]
    assert event.message == "frames are 320×240 now, not 160×120"


def test_reconnecting_gains_no_memory_descriptors_or_threads(start_loop):
    with mjpeg_server("count=2", "fps=200") as server:
        running = start_loop(server.url, max_backoff_s=0.02)
        wait_until(lambda: running.loop.stats().reconnects >= 10)
        threads, descriptors, memory = threading.active_count(), open_descriptors(), rss_bytes()
        wait_until(lambda: running.loop.stats().reconnects >= 60, timeout_s=60)
        assert threading.active_count() <= threads
        # One connection may be open at either moment.
        assert open_descriptors() <= descriptors + 2
        assert rss_bytes() < memory + (8 << 20)
        running.stop()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def rtsp_server(port):
    python = "/usr/bin/python3"
    probe = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); "
        "from gi.repository import Gst, GstRtspServer; Gst.init(None); "
        "assert Gst.ElementFactory.find('x264enc')"
    )
    found = (
        shutil.which(python)
        and not subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode
    )
    if not found:
        pytest.skip(
            "no RTSP server: needs gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-ugly"
        )
    process = subprocess.Popen(
        [python, str(HERE / "rtsp_server.py"), str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "listening\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_rtsp_server_that_is_killed_and_comes_back_is_found_again(start_loop):
    port = free_port()
    with rtsp_server(port) as process:
        running = start_loop(f"rtsp://127.0.0.1:{port}/stream", read_timeout_s=2.0)
        seen = running.collector
        wait_until(lambda: len(seen.answers) >= 5)
        assert seen.answers[0].frame.pixels.shape == (240, 320, 3)
        process.kill()
        wait_until(lambda: "retrying" in seen.kinds)
    before = len(seen.answers)
    with rtsp_server(port):
        wait_until(lambda: len(seen.answers) >= before + 5)
        running.stop()


def test_an_rtsp_server_that_freezes_is_noticed(start_loop):
    import signal

    port = free_port()
    with rtsp_server(port) as process:
        running = start_loop(f"rtsp://127.0.0.1:{port}/stream", read_timeout_s=1.0)
        wait_until(lambda: len(running.collector.answers) >= 3)
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: "stalled" in running.collector.kinds)
        process.send_signal(signal.SIGCONT)
        before = len(running.collector.answers)
        wait_until(lambda: len(running.collector.answers) >= before + 3)
        running.stop()


class HangingDriver:
    """A source whose reads hang where nothing can interrupt them, as a driver's may."""

    name, live, reopens, fps = "driver", True, True, None

    def __init__(self, hanging):
        self.hanging, self.opened, self.release = hanging, 0, threading.Event()

    def open(self):
        self.opened += 1
        return HangingStream(self, hangs=self.opened <= self.hanging)

    def describe(self):
        return []


class HangingStream:
    def __init__(self, driver, hangs):
        self.driver, self.hangs, self.count = driver, hangs, 0

    def read(self):
        self.count += 1
        if self.hangs and self.count > 2:
            self.driver.release.wait()
        time.sleep(0.01)
        return Picture(lambda: numbered(self.count), time.monotonic(), time.time())

    def interrupt(self):
        pass

    def close(self):
        pass


def test_a_reader_that_hangs_in_a_driver_is_replaced(start_loop):
    driver = HangingDriver(hanging=1)
    running = start_loop(driver, read_timeout_s=0.2)
    wait_until(lambda: driver.opened == 2)
    wait_until(lambda: len(running.collector.answers) >= 10)
    assert any("hangs and is replaced" in e.message for e in running.collector.events)
    result = running.stop()
    driver.release.set()
    assert result.stats.captured == result.stats.answered + result.stats.dropped


def test_readers_that_hang_are_bounded(monkeypatch):
    monkeypatch.setattr("alexnet_edge.camera.capture._GRACE_S", 0.0)
    driver = HangingDriver(hanging=1000)
    capture = Capture(driver, CaptureOptions(read_timeout_s=0.05))
    capture.start()
    end = time.monotonic() + 3
    while time.monotonic() < end:
        capture.take(0.01)
        capture.supervise()
    hanging = [t for t in threading.enumerate() if t.name == "capture"]
    assert driver.opened == len(hanging) == 5, "four left behind, and the present one"
    capture.stop(0.1)
    driver.release.set()
    for thread in hanging:
        thread.join(5)


def test_attempts_are_spaced_out_and_the_spacing_starts_anew_after_a_frame(monkeypatch):
    class Flaky(HangingDriver):
        def open(self):
            self.opened += 1
            if self.opened == 5:
                return HangingStream(self, hangs=False)
            raise SourceLostError("driver: is not there", hint="")

    monkeypatch.setattr("random.uniform", lambda low, high: high)
    monkeypatch.setattr("alexnet_edge.camera.capture._FIRST_BACKOFF_S", 0.02)
    driver = Flaky(0)
    capture = Capture(driver, CaptureOptions(max_backoff_s=0.1))
    capture.start()
    wait_until(lambda: capture.take(0.1) is not None)
    waits = [float(e.message.split()[-2]) for e in capture.drain_events() if e.kind == "retrying"]
    capture.stop()
    assert capture._backoff_s(1) == 0.02
    assert capture._backoff_s(3) == 0.08
    assert capture._backoff_s(9) == 0.1, "the cap"
    assert len(waits) == 4


def test_a_soak_gains_no_memory_descriptors_or_threads(start_loop, tmp_path):
    """A real video, looping, through a real engine: 3,000 frames after the first 1,000."""
    path = write_video(
        tmp_path / "clip.mp4", map(numbered, range(100)), "libx264", preset="ultrafast"
    )
    running = start_loop(f"file://{path}?loop=1", throughput=True, max_frames=4000)
    running.collector.write = lambda answer: None
    wait_until(lambda: running.loop.stats().answered >= 1000, timeout_s=120)
    gc.collect()
    threads, descriptors, memory = threading.active_count(), open_descriptors(), rss_bytes()
    wait_until(lambda: running.loop.stats().answered >= 3900, timeout_s=120)
    assert threading.active_count() <= threads
    assert open_descriptors() <= descriptors + 1, "the file may be open or about to be"
    assert rss_bytes() < memory * 1.02 + (4 << 20)
    result = running.wait()
    assert result.stats.answered == 4000
    assert result.stats.captured == result.stats.answered + result.stats.dropped


def test_a_child_process_that_is_killed_is_started_again(start_loop, tmp_path, monkeypatch):
    """The pipeline of a CSI camera with a test picture, killed as a crashing daemon would."""
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("gst-launch-1.0 is not installed")
    from alexnet_edge.camera.sources.raw_stream import ProcessSource, RawFormat

    pid_file = tmp_path / "pid"
    pipeline = (
        "exec gst-launch-1.0 -q videotestsrc is-live=true ! "
        "video/x-raw,format=RGB,width=160,height=120,framerate=30/1 ! fdsink fd={fd}"
    )
    command = ["sh", "-c", f"echo $$ > {pid_file}; {pipeline}"]
    source = ProcessSource("csi", command, RawFormat(160, 120))
    running = start_loop(source)
    wait_until(lambda: len(running.collector.answers) >= 3)
    os.kill(int(pid_file.read_text()), 9)
    wait_until(lambda: running.collector.kinds.count("connected") == 2)
    before = len(running.collector.answers)
    wait_until(lambda: len(running.collector.answers) >= before + 3)
    assert any("exit code -9" in e.message for e in running.collector.events)
    running.stop()
    pid = int(pid_file.read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
