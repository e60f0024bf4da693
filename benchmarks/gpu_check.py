"""What this package does on an NVIDIA GPU, item by item, and what could not be tried here.

    make gpu-check                              # some minutes with a GPU, seconds without
    python benchmarks/gpu_check.py --duration 10

One line an item: `ran`, `failed: why` or `could not run: why`. The last line is JSON. Where
anything was measured on a GPU, all of it goes to benchmarks/results/gpu.json. The exit code is 1 if
an item failed; what could not be tried here is no failure, and no success. The items themselves are
in `gpu_items.py` and `gpu_latency.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu_items as items
import gpu_latency
from gpu_items import SUFFIXES, ItemError
from measuring import ROOT

from alexnet_edge.errors import AlexnetEdgeError
from alexnet_edge.machine import Gpu, environment, nvidia_gpus

RESULTS = ROOT / "benchmarks/results/gpu.json"
RAN, FAILED, COULD_NOT = "ran", "failed", "could not run"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an item: its status, one line on it, and figures if there are any."""

    item: str
    status: str
    detail: str
    figures: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        detail = " ".join(self.detail.split())
        return f"{self.item}: {self.status}{f': {detail}' if detail else ''}"


@dataclasses.dataclass(frozen=True)
class Item:
    """Something to try, and what it needs: keys of `find_lacking`."""

    name: str
    needs: tuple[str, ...]
    run: items.Item


def attempt(item: Item, lacking: Mapping[str, str]) -> Outcome:
    """Run an item if all that it needs is here; whatever it raises is its failure."""
    reasons = [lacking[need] for need in item.needs if lacking.get(need)]
    if reasons:
        return Outcome(item.name, COULD_NOT, "; ".join(dict.fromkeys(reasons)))
    try:
        done = item.run()
    except items.NothingToTryError as error:
        return Outcome(item.name, COULD_NOT, str(error))
    except ItemError as error:
        return Outcome(item.name, FAILED, str(error), error.figures)
    except AlexnetEdgeError as error:
        return Outcome(item.name, FAILED, f"{error.message} ({error.hint})")
    except Exception as error:
        return Outcome(item.name, FAILED, f"{type(error).__name__}: {error}")
    return Outcome(item.name, RAN, done.detail, done.figures)


def find_lacking(gpus: Sequence[Gpu]) -> dict[str, str]:
    """Return what items may need, each with the reason why it is not here, or nothing."""
    if not gpus:
        return {"gpu": "no NVIDIA GPU or driver"}  # what else lacks is no news then
    vendors = {runtime: _lacks_vendor(runtime) for runtime in SUFFIXES}
    return {
        "gpu": "",
        "pycuda": _lacks_package("pycuda", "pip install pycuda (needs the CUDA toolkit)"),
        **vendors,
        "tensorrt of either kind": "; ".join(vendors.values()) if all(vendors.values()) else "",
        "torch": _lacks_package("torch", "pip install torch"),
        "torch-cuda": _lacks_torch_cuda(),
        **{name: _lacks_provider(name) for name in ("CUDA", "TensorRT")},
    }


def _lacks_package(name: str, hint: str) -> str:
    return "" if importlib.util.find_spec(name) else f"{name} is not installed: {hint}"


def _lacks_vendor(runtime: str) -> str:
    from alexnet_edge.runtimes.trt import import_vendor

    try:
        import_vendor(runtime)
    except AlexnetEdgeError as error:
        return f"{runtime} is not installed: {error.hint}"
    return ""


def _lacks_torch_cuda() -> str:
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install torch"
    import torch

    return "" if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU"


def _lacks_provider(name: str) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install onnxruntime-gpu"
    import onnxruntime

    provider = {"CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider"}[name]
    if provider in onnxruntime.get_available_providers():
        return ""
    return f"onnxruntime {onnxruntime.__version__} has no {provider}: pip install onnxruntime-gpu"


def summarize(outcomes: Iterable[Outcome]) -> dict[str, int]:
    statuses = [outcome.status for outcome in outcomes]
    return {status.replace(" ", "_"): statuses.count(status) for status in (RAN, FAILED, COULD_NOT)}


def to_results(outcomes: Sequence[Outcome], where: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what is worth keeping; None where nothing was measured on a GPU."""
    if not any(outcome.figures for outcome in outcomes):
        return None
    return {"environment": dict(where), "items": [dataclasses.asdict(o) for o in outcomes]}


def without_paths(text: str) -> str:
    """Return text that does not tell where the tree and the home folder are."""
    home = Path.home()
    text = text.replace(f"{ROOT}/", "")
    return text if home == Path(home.root) else text.replace(str(home), "~")


def list_items(gpus: Sequence[Gpu], lacking: Mapping[str, str], duration: float) -> list[Item]:
    """Return what there is to try, in order."""
    engine_needs = ("gpu", "pycuda", "torch")
    return [
        Item("GPU", ("gpu",), lambda: items.describe_gpus(gpus)),
        Item("pycuda", ("gpu", "pycuda"), items.try_pycuda),
        Item("copy bandwidth", ("gpu", "pycuda"), items.measure_bandwidth),
        *(
            Item(f"{runtime} engines", (*engine_needs, runtime), items.try_engines(runtime, gpus))
            for runtime in SUFFIXES
        ),
        *(
            Item(f"{runtime} graphs, mapped memory, contexts", (*engine_needs, runtime),
                 items.try_options(runtime))
            for runtime in SUFFIXES
        ),
        Item("contract suite", ("gpu", "pycuda", "tensorrt of either kind"), items.run_contract),
        Item("ONNX Runtime, CUDA", ("gpu", "torch", "CUDA"), items.try_onnxruntime("cuda")),
        Item("ONNX Runtime, TensorRT", ("gpu", "torch", "TensorRT"),
             items.try_onnxruntime("tensorrt")),
        Item("latency", ("gpu", "torch"), gpu_latency.measure_latency(lacking, duration)),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--duration", type=float, default=3.0, metavar="S", help="seconds of inferences each"
    )
    options = parser.parse_args()
    gpus = nvidia_gpus()
    lacking = find_lacking(gpus)
    outcomes = []
    for item in list_items(gpus, lacking, options.duration):
        outcomes.append(attempt(item, lacking))
        print(without_paths(str(outcomes[-1])), flush=True)
    results = to_results(outcomes, environment())
    if results is not None:
        RESULTS.write_text(without_paths(json.dumps(results, indent=2)) + "\n")
    summary = summarize(outcomes)
    print(json.dumps(summary))
    sys.exit(1 if summary[FAILED] else 0)


if __name__ == "__main__":
    main()
