"""The camera's loop beside the bare engine, and a soak.

    make bench-camera                            # a few minutes; needs make signs
    python benchmarks/camera.py --soak 100000    # memory, descriptors and threads, minutes too

Bare engine and loop take turns, so that drift of the machine falls on both: what is compared are
medians over the rounds. The bare engine is `Runtime.infer` of batch 1 in a closed loop, as `bench`
measures it, on the same frames. The loop runs on 720p frames: raw ones, H.264, and H.264 played at
30 frames a second as from a camera. Added latency is the age of an answer, less decoding and
conversion to RGB, less the bare engine's latency. The engine is the signs network in INT8 on raw
pixels (`export --input uint8`), made from the checkpoint that `make signs` trained.

Results go to benchmarks/results/camera.json and the README's table; the last lines compare them
with the targets, and the exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from measuring import COMMAND, DATA, LIST, ROOT, conclude, run_process

from alexnet_edge.camera.loop import CameraLoop, LoopOptions, LoopResult
from alexnet_edge.camera.sinks import JsonLines
from alexnet_edge.camera.sources import make_source
from alexnet_edge.camera.stats import rss_bytes
from alexnet_edge.classifier import Classifier
from alexnet_edge.machine import environment, usable_cores
from alexnet_edge.runtimes.base import Runtime, RuntimeOptions
from alexnet_edge.runtimes.loader import open_engine

RESULTS = ROOT / "benchmarks/results/camera.json"
WIDTH, HEIGHT, FPS, FRAMES = 1280, 720, 30, 60


@dataclasses.dataclass(frozen=True)
class Mode:
    """How the loop is run: with `camera --throughput`, or without."""

    source: str
    throughput: bool = False


MODES = {
    "live": Mode("live"),
    "raw": Mode("raw"),
    "raw, --throughput": Mode("raw", throughput=True),
    "H.264": Mode("h264"),
    "H.264, --throughput": Mode("h264", throughput=True),
}


class Collector:
    """Keeps the age of each answer, less decoding and conversion."""

    name = "collector"

    def __init__(self) -> None:
        self.handled_ms: list[float] = []

    def write(self, answer: Any) -> None:
        """Keep the time."""
        self.handled_ms.append(answer.age_ms - answer.stages_ms["capture"])

    def note(self, event: Any) -> None:
        """Nothing is kept of events."""

    def close(self) -> None:
        """Nothing is held."""


def make_scene(index: int, width: int, height: int) -> np.ndarray:
    """A frame with structure that moves: gradients and a disc over a little noise."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    noise = np.random.default_rng(index).integers(0, 12, (height, width, 3), np.uint8)
    disc = (x - (8 * index) % width) ** 2 + (y - height / 2) ** 2 < (height / 5) ** 2
    base = np.stack([x * (200 / width), y * (200 / height), 200 - x * (150 / width)], axis=2)
    base[disc] = (230, 40, 60)
    return base.astype(np.uint8) + noise


def write_sources(folder: Path) -> dict[str, str]:
    """Write the same frames raw and as H.264; return source names."""
    import av

    raw, video = folder / "frames.raw", folder / "frames.mp4"
    with raw.open("wb") as file, av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(FRAMES):
            pixels = make_scene(index, WIDTH, HEIGHT)
            file.write(pixels.tobytes())
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))
    return {
        "raw": f"raw://{raw}?width={WIDTH}&height={HEIGHT}&loop=1",
        "h264": f"file://{video}?loop=1",
        "live": f"file://{video}?loop=1&live=1",
    }


def prepare_scenes(engine: Runtime) -> Iterator[np.ndarray]:
    """Return the frames of the sources as the engine takes them, over and over.

    What an engine takes that skips zeros depends on what it sees.
    """
    spec = engine.info.preprocess
    assert spec is not None
    crops = [spec.from_rgb(make_scene(index, WIDTH, HEIGHT)) for index in range(FRAMES)]
    return itertools.cycle([spec.to_input([crop]) for crop in crops])


def run_bare(
    engine: Runtime, scenes: Iterator[np.ndarray], seconds: float
) -> tuple[list[float], float]:
    """Return each latency in ms, and images a second."""
    taken, end = [], time.perf_counter() + seconds
    started = time.perf_counter()
    while (before := time.perf_counter()) < end:
        engine.infer(next(scenes))
        taken.append((time.perf_counter() - before) * 1e3)
    return taken, len(taken) / (time.perf_counter() - started)


def run_loop(
    classifier: Classifier, source: str, seconds: float, **options: Any
) -> tuple[LoopResult, list[float]]:
    collector = Collector()
    loop = CameraLoop(
        classifier, make_source(source), LoopOptions(duration_s=seconds, **options), [collector]
    )
    return loop.run(), collector.handled_ms


def measure(engine_path: Path, *, rounds: int, seconds: float) -> dict[str, Any]:
    bare_ms: list[float] = []
    bare_ips: list[float] = []
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in MODES}
    with (
        tempfile.TemporaryDirectory() as folder,
        open_engine(engine_path) as engine,
        Classifier(engine_path) as classifier,
        Classifier(engine_path, RuntimeOptions(contexts=usable_cores())) as side_by_side,
    ):
        sources = write_sources(Path(folder))
        scenes = prepare_scenes(engine)
        run_bare(engine, scenes, 0.5)
        for turn in range(rounds):
            for name, mode in MODES.items():
                latencies, ips = run_bare(engine, scenes, seconds / 2)
                result, handled = run_loop(
                    side_by_side if mode.throughput else classifier, sources[mode.source], seconds,
                    throughput=mode.throughput,
                )  # fmt: skip
                after, ips_after = run_bare(engine, scenes, seconds / 2)
                around_ms = statistics.median(latencies + after)
                around_ips = statistics.median([ips, ips_after])
                bare_ms += latencies + after
                bare_ips += [ips, ips_after]
                seen[name].append(
                    {
                        "fps": result.fps,
                        "throughput_ratio": result.fps / around_ips,
                        "handled_ms": statistics.median(handled),
                        "added_ms": statistics.median(handled) - around_ms,
                        **{f"{k}_ms": v.p50 for k, v in result.stages_ms.items()},
                        "dropped": result.stats.dropped,
                        "cpu_percent": result.cpu_percent,
                    }
                )
            print(f"round {turn + 1} of {rounds}", flush=True)
        info = classifier.info
    return {
        "environment": environment(),
        "engine": {"runtime": info.runtime, "precision": info.precision, "batch": 1,
                   "latency_ms_p50": statistics.median(bare_ms),
                   "throughput_ips": statistics.median(bare_ips)},
        "source": {"width": WIDTH, "height": HEIGHT, "fps": FPS},
        "rounds": rounds,
        "seconds": seconds,
        "loop": {
            name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            for name, rows in seen.items()
        },
    }  # fmt: skip


def judge(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each target: what it is, the figure seen, whether it is reached."""
    loop = result["loop"]
    targets = []
    for name in ("raw, --throughput", "H.264, --throughput"):
        ratio = loop[name]["throughput_ratio"]
        targets.append(
            (f"at least 90 % of the bare engine's throughput: {name}", f"{ratio:.1%}", ratio >= 0.9)
        )
    added = loop["live"]["added_ms"]
    targets.append(("at most 3 ms added to its latency", f"{added:.2f} ms", added <= 3))
    if "soak" in result:
        soak = result["soak"]
        growth = soak["rss_growth"]
        gained = soak["threads_gained"] + soak["descriptors_gained"]
        targets += [
            (f"less than 2 % more memory over {soak['frames']:,} frames", f"{growth:+.2%}",
             growth < 0.02),
            ("no threads or descriptors gained", str(gained), gained <= 0),
        ]  # fmt: skip
    return targets


def soak(frames: int) -> dict[str, Any]:
    """Answer ``frames`` frames of a looping video with a small engine; watch the process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine, video = make_small_engine(folder), folder / "soak.mp4"
        write_small_video(video)
        with Classifier(engine, RuntimeOptions(contexts=usable_cores())) as classifier:
            loop = CameraLoop(
                classifier, make_source(f"file://{video}?loop=1"),
                LoopOptions(max_frames=frames, throughput=True), [JsonLines(Path("/dev/null"))],
            )  # fmt: skip
            thread = threading.Thread(target=loop.run)
            thread.start()
            first = None
            started = time.monotonic()
            while thread.is_alive():
                time.sleep(0.05)
                answered = loop.stats().answered
                if first is None and answered >= min(1000, frames // 2):
                    first = observe(answered)
                    last = first
                if first is not None and answered >= last["frames"] + max(1, frames // 50):
                    last = observe(answered)
                    print(json.dumps(last), flush=True)
            stats = loop.stats()
    if first is None:
        sys.exit("the soak was too short to observe")
    return {
        "frames": stats.answered,
        "lost": stats.captured - stats.answered - stats.dropped,
        "seconds": round(time.monotonic() - started, 1),
        "first": first,
        "last": last,
        "rss_growth": last["rss_bytes"] / first["rss_bytes"] - 1,
        "threads_gained": last["threads"] - first["threads"],
        "descriptors_gained": last["descriptors"] - first["descriptors"],
    }


def observe(frames: int) -> dict[str, int]:
    gc.collect()
    # The looping file may be open or about to be: the most of a few looks is what counts.
    descriptors = max(len(list(Path("/proc/self/fd").iterdir())) for _ in range(20))
    return {"frames": frames, "rss_bytes": rss_bytes(), "threads": threading.active_count(),
            "descriptors": descriptors}  # fmt: skip


def make_small_engine(folder: Path) -> Path:
    """Train a narrow network on digits for an epoch and export it."""
    from alexnet_edge.dataset import open_images
    from alexnet_edge.export import ExportSettings, export_onnx
    from alexnet_edge.model import load_checkpoint
    from alexnet_edge.preprocess import PreprocessSpec
    from alexnet_edge.train import TrainSettings, train

    spec = PreprocessSpec(resize=227, crop=227)
    checkpoint, engine = folder / "small.pt", folder / "small.onnx"
    settings = TrainSettings(width=0.05, epochs=1, flip=False, bf16=False)
    images = open_images("digits:train").sample(200)
    train(images, open_images("digits:val").sample(50), spec, settings, checkpoint)
    export_onnx(load_checkpoint(checkpoint), spec, ExportSettings(), engine)
    return engine


def write_small_video(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for index in range(300):
            frame = av.VideoFrame.from_ndarray(make_scene(index, 160, 120), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def render(result: dict[str, Any]) -> str:
    """Return the README's table."""
    engine, where = result["engine"], result["environment"]
    lines = [
        "| 720p | answers/s | of the bare engine | added, ms | preprocessing | inference | CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in result["loop"].items():
        live = MODES[name].source == "live"
        share = "–" if live else f"{row['throughput_ratio']:.1%}"
        added = f"{row['added_ms']:.2f}" if live else "–"
        lines.append(
            f"| {name} | {row['fps']:.1f} | {share} | {added} | {row['preprocess_ms']:.2f} "
            f"| {row['inference_ms']:.2f} | {row['cpu_percent']:.0f} % |"
        )
    lines += [
        "",
        f"The bare engine, INT8 on raw pixels, takes {engine['latency_ms_p50']:.2f} ms and gives "
        f"{engine['throughput_ips']:.0f} images a second at batch 1. Medians of {result['rounds']} "
        f"rounds of {result['seconds']:g} s. {where['cpu']}, {where['cores']} cores; "
        f"{where['date'][:10]}.",
    ]
    return "\n".join(lines)


def build_engine(folder: Path, checkpoint: Path) -> Path:
    """Build the trained network in INT8 on raw pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    images = ["--images", str(DATA / "signs/train")]
    for command in (
        ["export", str(checkpoint), "--input", "uint8", "--out", "alexnet.onnx"],
        ["calibrate", *images, "--image-list", str(LIST)],
        ["build", "--int8"],
    ):
        run_process([*COMMAND, *command], folder=folder)
    return folder / "alexnet.int8.onnx"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=ROOT / "build/camera")
    parser.add_argument("--signs", type=Path, default=ROOT / "build/signs")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--soak", type=int, metavar="FRAMES", help="only the soak")
    options = parser.parse_args()
    result: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.soak:
        result["soak"] = {**soak(options.soak), "environment": environment()}
        print(json.dumps(result["soak"], indent=2))
    if "loop" not in result or not options.soak:
        checkpoint = (options.signs / "alexnet.pt").resolve()
        if not checkpoint.exists():
            sys.exit(f"{checkpoint}: no such file; train it first: make signs")
        engine = build_engine(options.workdir.resolve(), checkpoint)
        result |= measure(engine, rounds=options.rounds, seconds=options.seconds)
    conclude("camera", result, judge(result), render(result))


if __name__ == "__main__":
    main()
