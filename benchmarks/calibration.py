"""Calibration beside the peers': whole processes, same model, same images, taking turns.

    make bench-calibration                  # about 25 minutes on two cores; needs `make signs`
    python benchmarks/calibration.py --rounds 1

Speed and memory: 512 JPEG photos through AlexNet at full size, against `onnxruntime.quantization`
and `nncf.quantize` (see `calibration_peers.py`), and the floor of starting, loading the model and
running the FP32 inferences. Accuracy: the network that `make signs` trained, 256 training images,
judged on the validation images by `alexnet-edge parity`.

The photos are `photos` and `signs` under ALEXNET_EDGE_DATA (default ../shared/data); 512 and 5,000
files are links to the 96 that there are. Results go to benchmarks/results/calibration.json and the
README's table; the last lines compare them with the targets, and the exit code is 1 if one is
missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from measuring import (
    COMMAND,
    DATA,
    LIST,
    ROOT,
    Process,
    conclude,
    link_listed,
    median_of,
    run_process,
)

from alexnet_edge.machine import environment

EXIT_VERDICT = 3
RESULTS = ROOT / "benchmarks/results/calibration.json"
PEERS = str(ROOT / "benchmarks/calibration_peers.py")
OURS = "alexnet-edge calibrate"
NAMES = {
    OURS: "`alexnet-edge calibrate` (all methods)",
    "alexnet-edge calibrate + build": "`alexnet-edge calibrate` and `build --int8`",
    "ort-minmax": "ONNX Runtime `quantize_static`, MinMax",
    "ort-entropy-ranges": "ONNX Runtime Entropy, ranges alone",
    "ort-entropy": "ONNX Runtime `quantize_static`, Entropy",
    "nncf-onnx": "`nncf.quantize`, ONNX",
    "nncf-openvino": "`nncf.quantize`, OpenVINO",
    "floor": "floor: start, load, FP32 inferences",
}
METHODS = ("minmax", "entropy", "percentile")
ACCURACY_PEERS = tuple(f"ort-{method}{kind}" for method in METHODS for kind in ("", "-u8"))


def make_model(path: Path, kind: str = "float32") -> None:
    """Export AlexNet with 1,000 classes and random weights; ``kind`` of input."""
    import torch

    from alexnet_edge.export import ExportSettings, export_onnx
    from alexnet_edge.model import Architecture, Checkpoint, build_module
    from alexnet_edge.preprocess import PreprocessSpec

    torch.manual_seed(0)
    architecture = Architecture()
    module = build_module(architecture)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    checkpoint = Checkpoint(architecture, module.state_dict())
    export_onnx(checkpoint, PreprocessSpec(input=kind), ExportSettings(), path)


def link_photos(folder: Path, count: int) -> Path:
    """Make a folder of ``count`` photos, links to those that there are."""
    photos = sorted((DATA / "photos").iterdir())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index:05d}.jpg").symlink_to(photos[index % len(photos)].resolve())
    return folder


def run_ours(model: Path, images: Path, folder: Path) -> Process:
    return run_process(
        [*COMMAND, "calibrate", str(model), "--images", str(images), "--recipe", "full"],
        folder=folder,
    )


def run_one(name: str, model: Path, images: Path, folder: Path) -> Process:
    if name == OURS:
        return run_ours(model, images, folder)
    if name == "alexnet-edge calibrate + build":
        first = run_ours(model, images, folder)
        second = run_process([*COMMAND, "build", str(model), "--int8"], folder=folder)
        return Process(
            first.seconds + second.seconds,
            first.cpu_seconds + second.cpu_seconds,
            max(first.peak_rss_bytes, second.peak_rss_bytes),
        )
    out = folder / f"{name}.onnx"
    return run_process(
        [sys.executable, PEERS, name, str(model), str(images), str(out)], folder=folder
    )


def measure_speed(workdir: Path, rounds: int) -> dict[str, Any]:
    model = workdir / "alexnet.onnx"
    if not model.exists():
        # A child's peak memory is counted from its parent's, which must stay small.
        run_process([sys.executable, __file__, "--make-model", str(model)], folder=workdir)
    images = link_photos(workdir / "512", 512)
    runs: dict[str, list[Process]] = {name: [] for name in NAMES}
    run_ours(model, images, workdir)  # so that files are in memory for whoever is first
    for turn in range(rounds):
        for name in list(NAMES)[:: -1 if turn % 2 else 1]:
            runs[name].append(run_one(name, model, images, workdir))
            print(f"{NAMES[name]}: {runs[name][-1]}", flush=True)
    return {
        name: {
            **dataclasses.asdict(median_of(found)),
            "runs": [dataclasses.asdict(one) for one in found],
        }
        for name, found in runs.items()
    }


def measure_memory(workdir: Path) -> dict[str, Any]:
    found = {}
    for count in (64, 5000):
        images = link_photos(workdir / str(count), count)
        found[str(count)] = dataclasses.asdict(run_ours(workdir / "alexnet.onnx", images, workdir))
        print(f"{count} images: {found[str(count)]}", flush=True)
    return found


def measure_accuracy(workdir: Path, signs: Path) -> dict[str, Any]:
    """Quantize the trained network on the same 256 images by every method; judge each."""
    checkpoint = signs / "alexnet.pt"
    if not checkpoint.exists():
        sys.exit(f"{checkpoint}: no such file; train it first: make signs")
    folder = workdir / "signs"
    folder.mkdir(exist_ok=True)
    # Logits: ONNX Runtime quantizes a softmax too, and 8 bits of probabilities have no logarithm.
    run_process(
        [*COMMAND, "export", str(checkpoint), "--logits", "--out", "alexnet.onnx"], folder=folder
    )
    train = DATA / "signs/train"
    run_process(
        [*COMMAND, "calibrate", "--images", str(train), "--image-list", str(LIST)], folder=folder
    )
    run_process([*COMMAND, "build", "--int8"], folder=folder)
    images = link_listed(folder / "images")
    found = {"alexnet-edge": judge_engine(folder, "alexnet.int8.onnx")}
    manifest = json.loads((folder / "alexnet.int8.onnx.json").read_text())
    found["alexnet-edge"]["method"] = manifest["options"]["method"]
    for name in ACCURACY_PEERS:
        run_one(name, folder / "alexnet.onnx", images, folder)
        found[name] = judge_engine(folder, f"{name}.onnx")
    return found


def judge_engine(folder: Path, engine: str) -> dict[str, Any]:
    report = folder / f"{engine}.parity.json"
    run_process(
        [*COMMAND, "parity", engine, "--reference", "alexnet.onnx", "--images",
         str(DATA / "signs/val"), "--json", str(report)],
        folder=folder, allowed=(0, EXIT_VERDICT),
    )  # fmt: skip
    parity = json.loads(report.read_text())
    keys = ("images", "reference", "engine", "agreement", "logit_sqnr_db", "drop_pp", "verdict")
    row = {key: parity[key] for key in keys}
    print(f"{engine}: {row}", flush=True)
    return row


def judge(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each target: what it is, the figure seen, whether it is reached."""
    speed, memory, accuracy = result["speed"], result["memory"], result["accuracy"]
    ours = speed[OURS]["seconds"]
    ratio = {name: row["seconds"] / ours for name, row in speed.items()}
    rss = {name: row["peak_rss_bytes"] for name, row in memory.items()}
    largest = max(speed[OURS]["peak_rss_bytes"], *rss.values())
    spread = max(rss.values()) / min(rss.values()) - 1
    mine = accuracy["alexnet-edge"]
    others = [row for name, row in accuracy.items() if name != "alexnet-edge"]
    best_sqnr = max(row["logit_sqnr_db"] for row in others)
    best_agreement = max(row["agreement"] for row in others)
    return [
        ("3.5× faster than ONNX Runtime Entropy, ranges alone",
         f"{ratio['ort-entropy-ranges']:.2f}×", ratio["ort-entropy-ranges"] >= 3.5),
        ("3.5× faster than ONNX Runtime quantize_static Entropy",
         f"{ratio['ort-entropy']:.2f}×", ratio["ort-entropy"] >= 3.5),
        ("6× faster than nncf.quantize on the ONNX model",
         f"{ratio['nncf-onnx']:.2f}×", ratio["nncf-onnx"] >= 6),
        ("within 1.3× of the floor", f"{1 / ratio['floor']:.2f}×", 1 / ratio["floor"] <= 1.3),
        ("peak RSS at most 1 GiB", f"{largest / 2**30:.3f} GiB", largest <= 2**30),
        ("peak RSS of 64 and of 5,000 images within 5 %", f"{spread:.1%}", spread <= 0.05),
        ("logit SQNR above ONNX Runtime's best",
         f"{mine['logit_sqnr_db']:.1f} dB, {best_sqnr:.1f} dB", mine["logit_sqnr_db"] > best_sqnr),
        ("logit SQNR above 40 dB", f"{mine['logit_sqnr_db']:.1f} dB", mine["logit_sqnr_db"] > 40),
        ("agreement no lower than ONNX Runtime's best",
         f"{mine['agreement']:.2%}, {best_agreement:.2%}", mine["agreement"] >= best_agreement),
        ("top-1 loss at most 0.25 pp", f"{mine['drop_pp']:+.2f} pp", mine["drop_pp"] <= 0.25),
    ]  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """Return the README's tables."""
    where = result["environment"]
    speed, accuracy = result["speed"], result["accuracy"]
    ours = speed[OURS]["seconds"]
    lines = ["| 512 JPEG photos, AlexNet at full size | seconds | beside ours | peak RSS |",
             "|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {title} | {speed[name]['seconds']:.1f} | {speed[name]['seconds'] / ours:.2f}× "
        f"| {speed[name]['peak_rss_bytes'] / 1e9:.2f} GB |"
        for name, title in NAMES.items()
    ]
    images = accuracy["alexnet-edge"]["images"]
    lines += ["", f"| trained on signs, 256 images, judged on {images} | logit SQNR | agreement "
              "| top-1 drop |", "|---|---|---|---|"]  # fmt: skip
    for name, row in accuracy.items():
        title = f"ONNX Runtime {name.removeprefix('ort-')}" if name != "alexnet-edge" else name
        title = title.replace("-u8", ", UINT8 and per channel")
        lines.append(
            f"| {title} | {row['logit_sqnr_db']:.1f} dB | {row['agreement']:.2%} "
            f"| {row['drop_pp']:+.2f} pp |"
        )
    memory = {name: row["peak_rss_bytes"] / 1e9 for name, row in result["memory"].items()}
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += [
        "",
        f"Medians of {result['rounds']} runs of whole processes that took turns; peak RSS of "
        f"64 images is {memory['64']:.2f} GB, of 5,000 {memory['5000']:.2f} GB. "
        f"{where['cpu']}, {where['cores']} cores; {versions}; {where['date'][:10]}.",
    ]
    return "\n".join(lines)


def peer_versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("onnxruntime", "nncf", "openvino")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=ROOT / "build/calibration")
    parser.add_argument("--signs", type=Path, default=ROOT / "build/signs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only", choices=("speed", "memory", "accuracy"), help="measure this again, keep the rest"
    )
    parser.add_argument("--make-model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make_model:
        return make_model(options.make_model)
    if not (DATA / "photos").is_dir():
        sys.exit(f"{DATA}: has no photos; set ALEXNET_EDGE_DATA to the folder that holds them")
    options.workdir.mkdir(parents=True, exist_ok=True)
    workdir = options.workdir.resolve()
    result: dict[str, Any] = {
        "environment": environment(),
        "versions": peer_versions(),
        "rounds": options.rounds,
    }
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if options.only else {}
    for part, measure in {
        "speed": lambda: measure_speed(workdir, options.rounds),
        "memory": lambda: measure_memory(workdir),
        "accuracy": lambda: measure_accuracy(workdir, options.signs.resolve()),
    }.items():
        result[part] = measure() if options.only in {None, part} else kept[part]
    return conclude("calibration", result, judge(result), render(result))


if __name__ == "__main__":
    main()
