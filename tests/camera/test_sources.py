"""Each kind of source, on real files, pipes and processes."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_edge.camera.sources import Timeouts, make_source
from alexnet_edge.camera.sources.base import CorruptFrameError, SourceLostError
from alexnet_edge.errors import InputError
from alexnet_edge.preprocess import load_rgb
from tests.camera.scenes import number_of, numbered, write_video


def read_all(source):
    """Every frame's pixels, and how many were corrupt."""
    stream = source.open()
    frames, corrupt = [], 0
    try:
        while True:
            try:
                picture = stream.read()
            except CorruptFrameError:
                corrupt += 1
                assert corrupt < 1000
                continue
            if picture is None:
                return frames, corrupt
            frames.append(picture.convert())
    finally:
        stream.close()


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("mpeg4", "mp4", {}),
        ("libx264", "mp4", {"bf": "2"}),
        ("libx264", "mkv", {"preset": "ultrafast"}),
        ("mjpeg", "avi", {"pix_fmt": "yuvj420p"}),
        ("libx265", "mp4", {"x265-params": "log-level=none"}),
        ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
        ("ffv1", "mkv", {"pix_fmt": "bgr0"}),
    ],
)
def test_every_frame_of_a_video_is_delivered_in_order(tmp_path, codec, suffix, options):
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    path = write_video(tmp_path / f"clip.{suffix}", map(numbered, range(40)), codec, **options)
    frames, corrupt = read_all(make_source(str(path)))
    assert [number_of(pixels) for pixels in frames] == list(range(40))
    assert corrupt == 0
    assert all(pixels.shape == (120, 160, 3) and pixels.dtype == np.uint8 for pixels in frames)


def test_a_lossless_video_gives_its_pixels_back(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(5)]
    path = write_video(tmp_path / "noise.mkv", noise, "ffv1", pix_fmt="bgr0")
    frames, _ = read_all(make_source(str(path)))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(frames, noise, strict=True))


def test_timestamps_are_the_videos_own_and_captures_are_in_order(tmp_path):
    path = write_video(tmp_path / "clip.mp4", map(numbered, range(10)), "libx264", rate=25)
    stream = make_source(str(path)).open()
    pictures = [stream.read() for _ in range(10)]
    stream.close()
    assert [p.timestamp_s for p in pictures] == pytest.approx([i / 25 for i in range(10)])
    now = time.monotonic()
    assert all(now - 60 < p.captured_s <= now for p in pictures)
    assert all(abs(p.wall_time - time.time()) < 60 for p in pictures)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_upright(tmp_path, degrees):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg, which turns a video by its metadata, is not installed")
    flat = write_video(tmp_path / "flat.mp4", [numbered(5)] * 3)
    turned, expected = tmp_path / "turned.mp4", tmp_path / "expected.png"
    ffmpeg = ["ffmpeg", "-loglevel", "error", "-y"]
    done = subprocess.run(
        [*ffmpeg, "-display_rotation", str(degrees), "-i", flat, "-c", "copy", turned],
        check=False, capture_output=True,
    )  # fmt: skip
    if done.returncode:  # before FFmpeg 6
        rotate = ["-metadata:s:v:0", f"rotate={degrees}"]
        subprocess.run([*ffmpeg, "-i", flat, "-c", "copy", *rotate, turned], check=True)
    subprocess.run([*ffmpeg, "-i", turned, "-frames:v", "1", expected], check=True)
    theirs = np.asarray(Image.open(expected).convert("RGB")).astype(int)
    ours = read_all(make_source(str(turned)))[0][0].astype(int)
    assert ours.shape == theirs.shape
    assert not np.array_equal(ours, numbered(5)), "it was turned"
    assert np.abs(ours - theirs).mean() < 3


def test_a_truncated_video_gives_what_it_holds_and_ends(tmp_path):
    whole = write_video(tmp_path / "whole.mkv", map(numbered, range(60)), "mpeg4")
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    frames, _ = read_all(make_source(str(cut)))
    assert 20 < len(frames) < 60
    assert [number_of(pixels) for pixels in frames[:20]] == list(range(20))


def test_a_video_with_a_damaged_middle_goes_on_after_it(tmp_path):
    whole = write_video(
        tmp_path / "whole.avi", map(numbered, range(60)), "mjpeg", pix_fmt="yuvj420p"
    )
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = os.urandom(3000)
    damaged = tmp_path / "damaged.avi"
    damaged.write_bytes(data)
    frames, corrupt = read_all(make_source(str(damaged)))
    assert corrupt > 0
    numbers = [number_of(pixels) for pixels in frames]
    assert numbers[0] == 0
    assert numbers[-1] == 59, "it went on after the damage"


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100])
def test_what_is_no_video_cannot_be_opened(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceLostError, match=r"clip.mp4: cannot be opened"):
        make_source(str(path)).open()


def test_a_video_without_pictures_is_refused(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceLostError, match="holds no video"):
        make_source(str(path)).open()


def test_a_folder_is_decoded_as_parity_decodes_it(digits_folders):
    source = make_source(str(digits_folders / "val"))
    stream = source.open()
    pictures = []
    while (picture := stream.read()) is not None:
        pictures.append(picture)
    paths = sorted((digits_folders / "val").glob("*/*"))
    assert [p.name for p in pictures] == [f"{path.parent.name}/{path.name}" for path in paths]
    assert np.array_equal(pictures[7].convert(), np.asarray(load_rgb(paths[7])))


def test_a_folder_goes_on_after_a_broken_image(tmp_path):
    for index in range(3):
        Image.fromarray(numbered(index)).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes(b"broken")
    frames, corrupt = read_all(make_source(str(tmp_path)))
    assert [number_of(pixels) for pixels in frames] == [0, 2]
    assert corrupt == 1


def test_a_single_image_is_a_source(tmp_path):
    Image.fromarray(numbered(9)).save(tmp_path / "x.png")
    frames, _ = read_all(make_source(str(tmp_path / "x.png")))
    assert [number_of(pixels) for pixels in frames] == [9]


RGB = numbered(77, 96, 64)
BARE = {
    "rgb24": RGB,
    "bgr24": RGB[:, :, ::-1],
    "rgba": np.dstack([RGB, np.full((64, 96), 7, np.uint8)]),
    "bgra": np.dstack([RGB[:, :, ::-1], np.full((64, 96), 7, np.uint8)]),
    "gray": RGB[:, :, :1],
}


@pytest.mark.parametrize("layout", BARE)
def test_raw_frames_of_rgb_layouts_are_exact(tmp_path, layout):
    path = tmp_path / "frames.raw"
    path.write_bytes(np.ascontiguousarray(BARE[layout]).tobytes() * 3)
    frames, corrupt = read_all(make_source(f"raw://{path}?width=96&height=64&format={layout}"))
    assert len(frames) == 3
    assert corrupt == 0
    assert np.array_equal(frames[2], RGB)


@pytest.mark.parametrize("layout", ["nv12", "yuv420p", "yuyv422"])
def test_raw_frames_of_yuv_layouts_are_as_ffmpeg_converts_them(tmp_path, layout):
    av = pytest.importorskip("av")
    frame = av.VideoFrame.from_ndarray(RGB, "rgb24").reformat(format=layout)
    path = tmp_path / "frames.raw"
    path.write_bytes(frame.to_ndarray().tobytes() * 2)
    frames, _ = read_all(make_source(f"raw://{path}?width=96&height=64&format={layout}"))
    assert len(frames) == 2
    assert np.array_equal(frames[1], frame.to_ndarray(format="rgb24"))
    assert number_of(frames[1]) == 77


def test_a_frame_that_is_cut_short_is_corrupt_and_the_end(tmp_path):
    path = tmp_path / "frames.raw"
    path.write_bytes(RGB.tobytes() + RGB.tobytes()[:100])
    frames, corrupt = read_all(make_source(f"raw://{path}?width=96&height=64"))
    assert (len(frames), corrupt) == (1, 1)


def test_a_named_pipe_waits_for_its_writer(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = f"import sys, time; time.sleep(0.5); open({str(pipe)!r}, 'wb').write(bytes(48) * 4)"
    writer = subprocess.Popen([sys.executable, "-c", program])
    frames, corrupt = read_all(make_source(f"raw://{pipe}?width=4&height=4"))
    writer.wait()
    assert (len(frames), corrupt) == (4, 0)


def test_looping_starts_again_and_goes_on(tmp_path):
    path = write_video(tmp_path / "clip.mp4", map(numbered, range(5)))
    stream = make_source(f"file://{path}?loop=1").open()
    numbers = [number_of(stream.read().convert()) for _ in range(12)]
    stream.close()
    assert numbers == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]


def test_a_file_can_play_at_its_own_pace(tmp_path):
    path = write_video(tmp_path / "clip.mp4", map(numbered, range(6)), rate=10)
    source = make_source(f"file://{path}?live=1")
    assert source.live
    stream = source.open()
    times = [stream.read().captured_s for _ in range(6)]
    stream.close()
    assert times[-1] - times[0] > 0.4


STANDIN = """#!{python}
# gst-launch-1.0 without NVIDIA's elements: GStreamer's own in their place.
import os, sys
text = " ".join(sys.argv[1:])
assert "nvarguscamerasrc sensor-id=0" in text and "nvvidconv flip-method=2" in text, text
text = text.replace("nvarguscamerasrc sensor-id=0", "videotestsrc is-live=true num-buffers=30")
text = text.replace("(memory:NVMM)", "").replace("nvvidconv flip-method=2", "videoconvert")
print("GST_ARGUS: Creating output stream", flush=True)
os.execv({gst!r}, [{gst!r}, *text.split(" ")])
"""


def test_csi_runs_the_pipeline_and_says_when_it_ends(tmp_path, monkeypatch):
    """GStreamer's real pipeline, with a test picture where the camera would be."""
    gst = shutil.which("gst-launch-1.0")
    if gst is None:
        pytest.skip("gst-launch-1.0 is not installed")
    program = tmp_path / "gst-launch-1.0"
    program.write_text(STANDIN.format(python=sys.executable, gst=gst))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    source = make_source("csi://0?width=320&height=240&fps=30&flip=2")
    assert source.live
    assert source.reopens
    stream = source.open()
    first = stream.read().convert()
    assert first.shape == (240, 320, 3)
    assert first[100, 0].min() > 180, "the first bar of the test picture is white"
    assert first[100, 60].tolist()[2] < 60, "the second is yellow: red and green, no blue"
    with pytest.raises(SourceLostError, match="ended with exit code 0"):
        for _ in range(40):
            stream.read()
    stream.close()


def test_csi_says_what_gstreamer_complains_of():
    if shutil.which("gst-launch-1.0") is None:
        pytest.skip("gst-launch-1.0 is not installed")
    if shutil.which("nvargus-daemon"):
        pytest.skip("a Jetson has the camera's elements")
    stream = make_source("csi://0").open()
    with pytest.raises(SourceLostError, match="nvarguscamerasrc"):
        stream.read()
    stream.close()


def test_csi_without_gstreamer_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceLostError, match=r"gst-launch-1.0 cannot be started"):
        make_source("csi://0").open()


def test_a_dry_run_shows_the_command_and_the_options(tmp_path):
    (pipeline,) = make_source("csi://1?width=640&height=480&fps=15&flip=2").describe()
    for part in ("sensor-id=1", "width=(int)640", "framerate=(fraction)15/1", "flip-method=2"):
        assert part in pipeline
    assert "{" not in pipeline
    rtsp = "\n".join(make_source("rtsp://me:secret@127.0.0.1/x").describe())
    assert "rtsp_transport=tcp" in rtsp
    assert "secret" not in rtsp


@pytest.mark.parametrize("url", ["rtsp://me:secret@127.0.0.1:9/x", "http://me:secret@127.0.0.1:9/"])
def test_what_is_not_there_is_lost_and_the_password_is_not_told(url):
    with pytest.raises(SourceLostError) as caught:
        make_source(url, Timeouts(2, 1)).open()
    assert "secret" not in caught.value.message
    assert "127.0.0.1:9" in caught.value.message


def test_a_camera_that_is_not_there_is_lost():
    if Path("/dev/video63").exists():
        pytest.skip("there is a camera 63")
    with pytest.raises(SourceLostError, match="63: cannot be opened"):
        make_source("63").open()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.mp4", "no such file"),
        ("ftp://host/x", "ftp:// is unknown"),
        ("csi://x", "names no sensor"),
        ("csi://0?width=0", "width is '0'"),
        ("csi://0?wdth=3", "'wdth' is unknown"),
        ("csi://0?flip=8", "flip is '8'"),
        ("rtsp:///x", "names no host"),
        ("rtsp://host:port/x", "Port could not be cast"),
        ("rtsp://host/x#transport=pigeon", "transport is 'pigeon'"),
        ("v4l2://video0", "names no device"),
        ("-", "need width and height"),
        ("-?width=64&height=48&format=cmyk", "format is 'cmyk'"),
        ("-?width=63&height=48&format=nv12", "even width"),
        ("-?width=64&height=٤٨", "height is"),
    ],
)
def test_names_that_are_no_source_are_refused(name, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        make_source(name)


def test_a_folder_needs_a_rate_to_be_live(digits_folders):
    with pytest.raises(InputError, match="has no frame rate"):
        make_source(f"file://{digits_folders / 'val'}?live=1")
    assert make_source(f"file://{digits_folders / 'val'}?live=1&fps=10").fps == 10
