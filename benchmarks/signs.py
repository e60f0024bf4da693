"""The chain at full size on camera photos of hand signs, and what it must reach.

    python benchmarks/signs.py                 # about 15 minutes on two cores, most of it training
    python benchmarks/signs.py --keep-training # with the checkpoint of the last run

Every step is a command of alexnet-edge in its own process. The photos are `signs/{train,val}` under
ALEXNET_EDGE_DATA (default ../shared/data). Results go to benchmarks/results/signs.json and the
README's table; the last lines compare them with the targets, and the exit code is 1 if one is
missed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measuring import DATA, ROOT, conclude

SIGNS = DATA / "signs"
PARITY_PASSES = (0, 3)


def run(workdir: Path, *arguments: str, allowed: tuple[int, ...] = (0,)) -> tuple[Any, float]:
    """Run a command with its JSON result; return the result and the seconds it took."""
    report = workdir / "result.json"
    command = [sys.executable, "-c", "from alexnet_edge.cli import main; main()", *arguments]
    print("$ alexnet-edge", " ".join(arguments), flush=True)
    started = time.monotonic()
    done = subprocess.run([*command, "--json", str(report)], cwd=workdir, check=False)
    if done.returncode not in allowed:
        sys.exit(done.returncode)
    return json.loads(report.read_text()), round(time.monotonic() - started, 1)


def measure(workdir: Path, *, keep_training: bool) -> dict[str, Any]:
    train, val = str(SIGNS / "train"), str(SIGNS / "val")
    seconds: dict[str, float] = {}
    kept = workdir / "train.json"
    if keep_training and kept.exists() and (workdir / "alexnet.pt").exists():
        training = json.loads(kept.read_text())
    else:
        training, seconds["train"] = run(workdir, "train", "--data", str(SIGNS))
        kept.write_text(json.dumps(training))
    exported, seconds["export"] = run(workdir, "export")
    table, seconds["calibrate"] = run(
        workdir, "calibrate", "--images", train, "--max-images", "256"
    )
    builds = {}
    for precision, runtime in (
        ("fp32", "onnxruntime"),
        ("int8", "onnxruntime"),
        ("fp16", "tensorrt-rtx"),
        ("int8", "tensorrt-rtx"),
    ):
        key = f"{runtime} {precision}"
        manifest, seconds[f"build {key}"] = run(
            workdir, "build", f"--{precision}", "--runtime", runtime
        )
        suffix = "onnx" if runtime == "onnxruntime" else "rtx.engine"
        builds[key] = {
            "size_bytes": (workdir / f"alexnet.{precision}.{suffix}").stat().st_size,
            "layers": [layer["precision"] for layer in manifest["layers"]],
        }
    parity, seconds["parity"] = run(
        workdir, "parity", "alexnet.int8.onnx", "--reference", "alexnet.onnx",
        "--images", val, "--margin", "1.0", allowed=PARITY_PASSES,
    )  # fmt: skip
    bench, seconds["bench"] = run(
        workdir, "bench", "alexnet.fp32.onnx", "alexnet.int8.onnx", "--duration", "10",
        "--images", val,
    )  # fmt: skip
    return {
        "environment": bench["environment"],
        "seconds": seconds,
        "train": {key: training[key] for key in ("best", "images", "seconds", "settings")},
        "export_relative_error": exported["relative_error"],
        "calibration_images": table["images"]["count"],
        "builds": builds,
        "parity": parity,
        "bench": bench["engines"],
    }


def judge(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return each target: what it is, the figure seen, whether it is reached."""
    parity, (fp32, int8) = result["parity"], result["bench"]
    speed = fp32["latency_ms"]["p50"] / int8["latency_ms"]["p50"]
    size = fp32["size_bytes"] / int8["size_bytes"]
    int8_layers = {
        key: build["layers"].count("int8")
        for key, build in result["builds"].items()
        if "int8" in key
    }
    validation = result["train"]["best"]["validation"]
    return [
        ("validation top-1 at least 94 %", f"{validation:.2%}", validation >= 0.94),
        ("calibrated on 256 images", str(result["calibration_images"]),
         result["calibration_images"] == 256),
        ("8 INT8 layers on each runtime", str(int8_layers), set(int8_layers.values()) == {8}),
        ("parity on 418 images: pass at 1.0 pp", f"{parity['verdict']}, {parity['images']} images",
         parity["verdict"] == "pass" and parity["images"] == 418),
        ("agreement at least 99 %", f"{parity['agreement']:.2%}", parity["agreement"] >= 0.99),
        ("INT8 at least 2× faster", f"{speed:.2f}×", speed >= 2),
        ("INT8 at least 3.9× smaller", f"{size:.2f}×", size >= 3.9),
    ]  # fmt: skip


def render(result: dict[str, Any]) -> str:
    """Return the README's table."""
    parity, where = result["parity"], result["environment"]
    fp32, int8 = result["bench"]
    lines = ["| engine | size | p50 (95 % interval) | images/s | top-1 of "
             f"{parity['images']} |", "|---|---|---|---|---|"]  # fmt: skip
    for row, side in ((fp32, "reference"), (int8, "engine")):
        low, high = row["latency_ms"]["ci95_p50"]
        lines.append(
            f"| {row['precision'].upper()} | {row['size_bytes'] / 1e6:.1f} MB "
            f"| {row['latency_ms']['p50']:.2f} ms ({low:.2f}–{high:.2f}) "
            f"| {row['throughput_ips']:.1f} | {parity[side]['top1']:.2%} |"
        )
    low, high = parity["drop_ci95_pp"]
    lines += [
        "",
        f"INT8 is {fp32['latency_ms']['p50'] / int8['latency_ms']['p50']:.2f}× faster and "
        f"{fp32['size_bytes'] / int8['size_bytes']:.2f}× smaller; it agrees with FP32 on "
        f"{parity['agreement']:.2%} of the images, the drop is {parity['drop_pp']:+.2f} pp "
        f"({low:+.2f} to {high:+.2f}), verdict `{parity['verdict']}` at "
        f"{parity['margin_pp']:g} pp. {where['cpu']}, {where['cores']} cores, batch 1 on "
        f"{int8['input_images']} images in turn, ONNX Runtime "
        f"{where['packages']['onnxruntime']}; {where['date'][:10]}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=ROOT / "build/signs")
    parser.add_argument("--keep-training", action="store_true")
    options = parser.parse_args()
    if not SIGNS.is_dir():
        sys.exit(f"{SIGNS}: no such folder; set ALEXNET_EDGE_DATA to the folder that holds signs/")
    options.workdir.mkdir(parents=True, exist_ok=True)
    workdir = options.workdir.resolve()
    result = measure(workdir, keep_training=options.keep_training)
    # Where the data and the working folder are is no part of a result.
    text = json.dumps(result).replace(str(SIGNS), "signs").replace(f"{workdir}/", "")
    result = json.loads(text)
    conclude("signs", result, judge(result), render(result))


if __name__ == "__main__":
    main()
