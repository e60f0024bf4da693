"""4-bit fully connected layers beside INT8, ours and the peers', interleaved in one run.

    make bench-below-int8                   # about 20 minutes on two cores; needs `make signs`
    python benchmarks/below_int8.py --rounds 8

Size and latency: AlexNet at full size (62,378,344 parameters, 1,000 classes, random weights) as
INT8 by ONNX Runtime's `quantize_static` and by OpenVINO with NNCF, and ours as INT8, as INT8 with
4-bit fully connected layers, and with two of these in 2 bits; in turns of half a second, by
processes that sleep meanwhile (see `turns.py`). Ours take raw pixels (`export --input uint8`) and
normalize them; the peers take floats that are normalized already, as their quantizers leave the
graph. All see photos. The floor, and how near ours come to it, is what `alexnet-edge bench` finds
for the machine (`--floors`: only that, again). Accuracy: the network that `make signs` trained, 256
training images, judged on the validation images by `alexnet-edge parity`. The same graph is built
for TensorRT-RTX, and its manifest read.

Results go to benchmarks/results/below_int8.json and the README's table; the last lines compare them
with the targets, and the exit code is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from measuring import COMMAND, DATA, LIST, ROOT, conclude, run_process
from turns import FLOORS, Contender, Worker, find_floors, measure_turns, ratio_of, save_inputs

from alexnet_edge.dataset import open_images
from alexnet_edge.machine import environment, usable_cores
from calibration import judge_engine, link_photos, make_model

QUANTIZERS = str(ROOT / "benchmarks/calibration_peers.py")
INT8, W4 = "alexnet-edge INT8", "alexnet-edge INT8, 4-bit FC"
W2 = "alexnet-edge INT8, 2-bit fc6 and fc7, 4-bit fc8"
PEERS = {
    "ONNX Runtime INT8": ("ort-minmax", "onnxruntime", ".onnx"),
    "ONNX Runtime INT8, UINT8 and per channel": ("ort-minmax-u8", "onnxruntime", ".onnx"),
    "OpenVINO and NNCF INT8": ("nncf-openvino", "openvino", ".xml"),
}
BATCHES = (1, 8)
RESULTS = ROOT / "benchmarks/results/below_int8.json"
FLOOR_ROUNDS = 3
FC = ("classifier.1", "classifier.4", "classifier.6")
BUILDS = {
    INT8: (["--int8"], "int8.onnx"),
    W4: (["--int8", "--int4-fc"], "int8-int4fc.onnx"),
    W2: (["--int8", "--int4-fc", "--int2", FC[0], "--int2", FC[1]], "int8-int2fc.onnx"),
}


def build_all(folder: Path) -> list[Contender]:
    """Build every contender of the full-size network on 64 photos."""
    model, pixels = folder / "alexnet.onnx", folder / "pixels.onnx"
    for path, kind in ((model, "float32"), (pixels, "uint8")):
        if not path.exists():
            make_model(path, kind)
    images = link_photos(folder / "photos", 64)
    run_process([*COMMAND, "calibrate", pixels.name, "--images", str(images)], folder=folder)
    for asked, _ in BUILDS.values():
        run_process([*COMMAND, "build", pixels.name, *asked], folder=folder)
    found = []
    for name, (method, runtime, suffix) in PEERS.items():
        out = folder / f"{method}.onnx"
        run_process(
            [sys.executable, QUANTIZERS, method, str(model), str(images), str(out)], folder=folder
        )
        found.append(Contender(name, runtime, out.with_suffix(suffix)))
    return [
        *found,
        *our_contenders(folder),
    ]


def our_contenders(folder: Path) -> list[Contender]:
    return [
        Contender(name, "alexnet-edge", folder / f"pixels.{suffix}", "uint8")
        for name, (_, suffix) in BUILDS.items()
    ]


def measure_latency(folder: Path, found: list[Contender], rounds: int) -> dict[str, dict[str, Any]]:
    inputs = save_inputs(folder, folder / "alexnet.onnx", open_images(folder / "photos"))
    workers = [Worker(one, usable_cores()) for one in found]
    rows = measure_turns(workers, inputs, BATCHES, rounds)
    for worker in workers:
        worker.close()
    return rows


def measure_floors(folder: Path) -> dict[str, Any]:
    return find_floors(folder, our_contenders(folder), "photos", rounds=FLOOR_ROUNDS)


def measure_accuracy(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """Build the trained network in each way, and judge it on the validation images."""
    folder.mkdir(exist_ok=True)
    run_process(
        [*COMMAND, "export", str(checkpoint), "--input", "uint8", "--out", "alexnet.onnx"],
        folder=folder,
    )
    images = str(DATA / "signs/train")
    run_process(
        [*COMMAND, "calibrate", "--images", images, "--image-list", str(LIST)], folder=folder
    )
    found = {}
    for name, (asked, suffix) in BUILDS.items():
        engine = f"alexnet.{suffix}"
        run_process([*COMMAND, "build", *asked], folder=folder)
        found[name] = judge_engine(folder, engine)
        found[name]["size_bytes"] = (folder / engine).stat().st_size
        options = json.loads((folder / f"{engine}.json").read_text())["options"]
        found[name]["options"] = {key: value for key, value in options.items() if "int4" in key}
    return found


def build_rtx(folder: Path) -> dict[str, Any]:
    """Build the full-size network for TensorRT-RTX; return size and the layers it has."""
    out = "pixels.int8-int4fc.rtx.engine"
    run_process(
        [*COMMAND, "build", "pixels.onnx", "--int8", "--int4-fc", "--runtime", "tensorrt-rtx",
         "--out", out],
        folder=folder,
    )  # fmt: skip
    manifest = json.loads((folder / f"{out}.json").read_text())
    return {"size_bytes": (folder / out).stat().st_size, "layers": manifest["layers"]}


def judge(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each target: what it is, the figure seen, whether it is reached."""
    rows = result["contenders"]

    def turns(name: str) -> list[float]:
        values: list[float] = rows[name]["latency"]["1"]["turns_ms"]
        return values

    best = min(PEERS, key=lambda name: statistics.median(turns(name)))
    targets = []
    for name in (W4, W2):
        beside = ratio_of(turns(name), turns(best))
        floors = result["floors"][name]
        size, mine = rows[name]["size_bytes"], result["accuracy"][name]
        which = name.rpartition("INT8, ")[2]
        targets += [
            (f"{which}: at most 36 MB", f"{size / 1e6:.1f} MB", size <= 36e6),
            (f"{which}: batch 1 at most 0.75 of the best peer's INT8 ({best})",
             f"{beside:.2f}", beside <= 0.75),
            *[(f"{which}: batch 1 within 1.2 of its own floor, {FLOORS[cache]}",
               f"{floor['ratio']:.2f}", floor["ratio"] <= 1.2)
              for cache, floor in floors.items()],
            (f"{which}: top-1 loss at most 0.25 pp",
             f"{mine['drop_pp']:+.2f} pp", mine["drop_pp"] <= 0.25),
            (f"{which}: agreement at least 98.5 %",
             f"{mine['agreement']:.2%}", mine["agreement"] >= 0.985),
        ]  # fmt: skip
    layers = {layer["name"]: layer["precision"] for layer in result["rtx"]["layers"]}
    in_four = [name for name in FC if layers.get(name) == "int4"]
    return [
        *targets,
        ("TensorRT-RTX's fully connected layers in 4 bits",
         f"{len(in_four)} of {len(FC)}", len(in_four) == len(FC)),
    ]  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """Return the README's tables."""
    rows, where = result["contenders"], result["environment"]
    lines = ["| AlexNet at full size | MB | batch 1, ms | images/s at 8 |", "|---|---|---|---|"]
    for name, row in rows.items():
        one, eight = row["latency"]["1"], row["latency"]["8"]
        low, high = one["quartiles_ms"]
        lines.append(
            f"| {name} | {row['size_bytes'] / 1e6:.1f} | {one['p50_ms']:.2f} ({low:.2f}–{high:.2f})"
            f" | {8000 / eight['p50_ms']:.0f} |"
        )
    accuracy = result["accuracy"]
    lines += ["", f"| trained on signs, judged on {accuracy[W4]['images']} | MB | logit SQNR "
              "| agreement | top-1 drop |", "|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {name} | {row['size_bytes'] / 1e6:.1f} | {row['logit_sqnr_db']:.1f} dB "
        f"| {row['agreement']:.2%} | {row['drop_pp']:+.2f} pp |"
        for name, row in accuracy.items()
    ]
    floors = "; ".join(
        f"{name} {floors['flushed']['ratio']:.2f} and {floors['warm']['ratio']:.2f} "
        f"({floors['flushed']['floor_ms']:.2f} and {floors['warm']['floor_ms']:.2f} ms)"
        for name, floors in result["floors"].items()
    )
    lines += [
        "",
        f"Medians of {result['rounds']} turns of each (in brackets the middle half of them). Of "
        f"this machine's floor with {FLOORS['flushed']}, and of that with {FLOORS['warm']}, they "
        f"take at batch 1: {floors}. For TensorRT-RTX the same graph is "
        f"{result['rtx']['size_bytes'] / 1e6:.1f} MB. {where['cpu']}, {where['cores']} cores; "
        f"{where['date'][:10]}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=ROOT / "build/below-int8")
    parser.add_argument("--signs", type=Path, default=ROOT / "build/signs")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--floors", action="store_true", help="only the floors, again")
    options = parser.parse_args()
    if options.floors:
        result: dict[str, Any] = json.loads(RESULTS.read_text())
        result["floors"] = measure_floors(options.workdir.resolve())
        conclude("below_int8", result, judge(result), render(result))
    checkpoint = (options.signs / "alexnet.pt").resolve()
    if not checkpoint.exists():
        sys.exit(f"{checkpoint}: no such file; train it first: make signs")
    folder = options.workdir.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = build_all(folder)
    result = {
        "environment": environment(),
        "rounds": options.rounds,
        "contenders": measure_latency(folder, found, options.rounds),
        "floors": measure_floors(folder),
        "accuracy": measure_accuracy(folder / "signs", checkpoint),
        "rtx": build_rtx(folder),
    }
    conclude("below_int8", result, judge(result), render(result))


if __name__ == "__main__":
    main()
