"""INT8 beside the peers': one checkpoint, the same images and threads, interleaved in one run.

    make bench-peers                        # about 15 minutes on two cores; needs `make signs`
    python benchmarks/peers.py --rounds 8

PyTorch eager and compiled; ONNX Runtime with its own `quantize_static`, at its defaults and with
UINT8 activations and weights per channel; OpenVINO with NNCF; ours. Each is used as its
documentation says (`calibration_peers.py` quantizes, `turns_worker.py` runs), on the network that
`make signs` trained. Latency is of turns of half a second over validation images, taken in the
order A B … B A by processes that sleep meanwhile; the floor, and how near ours comes to it, is what
`alexnet-edge bench` finds for this machine (`--floors`: only that, again). Ours is measured on the
same normalized floats as the peers', and on raw pixels (`export --input uint8`), which it
normalizes itself; the others' time leaves normalization out. The targets are judged on raw pixels,
as a camera's loop runs it.

Results go to benchmarks/results/peers.json and the README's table; the last lines compare them with
the targets, and the exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import COMMAND, DATA, ROOT, Process, conclude, link_listed, run_process
from turns import FLOORS, Contender, Worker, find_floors, measure_turns, ratio_of, save_inputs

from alexnet_edge.dataset import open_images
from alexnet_edge.machine import environment, usable_cores

QUANTIZERS = str(ROOT / "benchmarks/calibration_peers.py")
OURS_FP32, EAGER = "alexnet-edge FP32", "PyTorch eager FP32"
OURS, OURS_PIXELS = "alexnet-edge INT8", "alexnet-edge INT8, raw pixels"
BATCHES = (1, 8)
FLOOR_ROUNDS = 5
VALIDATION = DATA / "signs/val"
RESULTS = ROOT / "benchmarks/results/peers.json"


def contenders(folder: Path, checkpoint: Path) -> list[Contender]:
    return [
        Contender(EAGER, "torch", checkpoint),
        Contender("torch.compile FP32", "torch-compile", checkpoint),
        Contender("ONNX Runtime FP32", "onnxruntime", folder / "alexnet.onnx"),
        Contender("OpenVINO FP32", "openvino", folder / "alexnet.onnx"),
        Contender(OURS_FP32, "alexnet-edge", folder / "alexnet.fp32.onnx"),
        Contender("ONNX Runtime INT8", "onnxruntime", folder / "ort-minmax.onnx"),
        Contender(
            "ONNX Runtime INT8, UINT8 and per channel", "onnxruntime", folder / "ort-minmax-u8.onnx"
        ),
        Contender("OpenVINO and NNCF INT8", "openvino", folder / "nncf-openvino.xml"),
        Contender(OURS, "alexnet-edge", folder / "alexnet.int8.onnx"),
        Contender(OURS_PIXELS, "alexnet-edge", folder / "pixels.int8.onnx", "uint8"),
    ]


def prepare(folder: Path, checkpoint: Path) -> dict[str, Process]:
    """Export, and quantize by everyone's means; return what quantizing took."""
    # Logits: ONNX Runtime quantizes a softmax too, and 8 bits of probabilities have no logarithm.
    export = [*COMMAND, "export", str(checkpoint), "--logits"]
    run_process([*export, "--out", "alexnet.onnx"], folder=folder)
    run_process([*export, "--out", "pixels.onnx", "--input", "uint8"], folder=folder)
    images = link_listed(folder / "images")
    run_process([*COMMAND, "build", "--fp32"], folder=folder)
    found = {
        name: run_process(
            [*COMMAND, "build", graph, "--int8", "--images", str(images)], folder=folder
        )
        for name, graph in ((OURS, "alexnet.onnx"), (OURS_PIXELS, "pixels.onnx"))
    }
    for name, method in (
        ("ONNX Runtime INT8", "ort-minmax"),
        ("ONNX Runtime INT8, UINT8 and per channel", "ort-minmax-u8"),
        ("OpenVINO and NNCF INT8", "nncf-openvino"),
    ):
        out = folder / f"{method}.onnx"
        found[name] = run_process(
            [sys.executable, QUANTIZERS, method, str(folder / "alexnet.onnx"), str(images),
             str(out)], folder=folder,
        )  # fmt: skip
        print(f"{name}: {found[name]}", flush=True)
    return found


def measure(
    found: Sequence[Contender], inputs: Mapping[str, Path], labels: Sequence[int], rounds: int
) -> dict[str, dict[str, Any]]:
    workers = [Worker(one, usable_cores()) for one in found]
    top1 = {}
    for worker in workers:
        answers = worker.ask(images=str(inputs[worker.contender.input]))["top1"]
        right = [answer == label for answer, label in zip(answers, labels, strict=True)]
        top1[worker.contender.name] = statistics.mean(right)
    rows = measure_turns(workers, inputs, BATCHES, rounds)
    for name, row in rows.items():
        row["top1"] = top1[name]
    for worker in workers:
        worker.close()
    return rows


def judge(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each target: what it is, the figure seen, whether it is reached."""
    rows = result["contenders"]

    def turns(name: str) -> list[float]:
        values: list[float] = rows[name]["latency"]["1"]["turns_ms"]
        return values

    others = [name for name in rows if "INT8" in name and not name.startswith(OURS)]
    best = min(others, key=lambda name: statistics.median(turns(name)))
    mine = turns(OURS_PIXELS)
    beside_best, beside_eager = (ratio_of(mine, turns(name)) for name in (best, EAGER))
    top1, best_top1 = rows[OURS_PIXELS]["top1"], max(rows[name]["top1"] for name in others)
    return [
        (f"batch-1 INT8 at most 0.97 of the best peer's ({best})",
         f"{beside_best:.2f}", beside_best <= 0.97),
        ("batch-1 INT8 at most 0.30 of PyTorch eager", f"{beside_eager:.2f}", beside_eager <= 0.3),
        *[(f"batch-1 INT8 within 1.15 of this machine's floor, {FLOORS[cache]}",
           f"{floor['ratio']:.2f}", floor["ratio"] <= 1.15)
          for cache, floor in result["floors"].items()],
        ("top-1 no lower than any peer's INT8",
         f"{top1:.2%}, {best_top1:.2%}", top1 >= best_top1),
    ]  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """Return the README's table."""
    rows, where = result["contenders"], result["environment"]
    lines = ["| | batch 1, ms | images/s at 8 | MB | top-1 | quantizing, s | its peak RSS |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, row in rows.items():
        one, eight = row["latency"]["1"], row["latency"]["8"]
        low, high = one["quartiles_ms"]
        took = result["quantizing"].get(name)
        cells = [f"{took['seconds']:.0f}", f"{took['peak_rss_bytes'] / 1e9:.1f} GB"] if took else (
            ["–", "–"])  # fmt: skip
        lines.append(
            f"| {name} | {one['p50_ms']:.2f} ({low:.2f}–{high:.2f}) "
            f"| {8000 / eight['p50_ms']:.0f} | {row['size_bytes'] / 1e6:.1f} | {row['top1']:.2%} "
            f"| {' | '.join(cells)} |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        "",
        f"Medians of {result['rounds']} turns of each (in brackets the middle half of them). "
        "Our INT8 on raw pixels at batch 1 takes "
        + " and ".join(
            f"{floor['ratio']:.2f} of the floor of this machine with {FLOORS[cache]} "
            f"({floor['floor_ms']:.2f} ms)"
            for cache, floor in result["floors"].items()
        )
        + f". {where['cpu']}, {where['cores']} cores; {versions}; {where['date'][:10]}.",
    ]
    return "\n".join(lines)


def measure_floors(folder: Path, found: Sequence[Contender]) -> dict[str, dict[str, float]]:
    ours = [one for one in found if one.name == OURS_PIXELS]
    floors = find_floors(folder, ours, str(VALIDATION), rounds=FLOOR_ROUNDS)
    return floors[OURS_PIXELS]


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "onnxruntime", "nncf", "openvino")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=ROOT / "build/peers")
    parser.add_argument("--signs", type=Path, default=ROOT / "build/signs")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--floors", action="store_true", help="only the floors, again")
    options = parser.parse_args()
    if options.floors:
        result: dict[str, Any] = json.loads(RESULTS.read_text())
        found = contenders(options.workdir.resolve(), options.signs / "alexnet.pt")
        result["floors"] = measure_floors(options.workdir.resolve(), found)
        conclude("peers", result, judge(result), render(result))
    checkpoint = (options.signs / "alexnet.pt").resolve()
    if not checkpoint.exists():
        sys.exit(f"{checkpoint}: no such file; train it first: make signs")
    folder = options.workdir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    quantizing = prepare(folder, checkpoint)
    images = open_images(VALIDATION)
    inputs = save_inputs(folder, folder / "alexnet.onnx", images)
    labels = [int(item.label or 0) for item in images.items]
    found = contenders(folder, checkpoint)
    result = {
        "environment": environment(),
        "versions": versions(),
        "rounds": options.rounds,
        "quantizing": {
            name: {"seconds": one.seconds, "peak_rss_bytes": one.peak_rss_bytes}
            for name, one in quantizing.items()
        },
        "contenders": measure(found, inputs, labels, options.rounds),
        "floors": measure_floors(folder, found),
    }
    conclude("peers", result, judge(result), render(result))


if __name__ == "__main__":
    main()
