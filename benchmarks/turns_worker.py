"""One contender of `turns.py`: loads a network, then runs it when asked.

    python benchmarks/turns_worker.py RUNTIME FILE THREADS float32|uint8

Each line of standard input is a request, each line of standard output its answer, both JSON:
`{"batch": 1, "seconds": 0.5, "images": "inputs.npy"}` gives the nanoseconds of each inference, over
32 of the prepared images in turn; `{"images": "inputs.npy"}` the top-1 of each of them.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Threads of torch that wait shall not take the cores from whoever has its turn.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

Infer = Callable[[Any], Any]
MOST_IMAGES = 32


def load_torch(path: Path, threads: int, *, compiled: bool) -> Infer:
    import torch

    from alexnet_edge.model import build_module, load_checkpoint

    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(path)
    module = build_module(checkpoint.architecture)
    module.load_state_dict(checkpoint.state_dict)
    module.eval()
    run = torch.compile(module) if compiled else module

    def infer(batch: Any) -> Any:
        with torch.inference_mode():
            return run(torch.from_numpy(batch)).numpy()

    return infer


def load_onnxruntime(path: Path, threads: int) -> Infer:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def load_openvino(path: Path, threads: int) -> Infer:
    import openvino

    compiled = openvino.Core().compile_model(
        str(path), "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    )
    request = compiled.create_infer_request()
    return lambda batch: request.infer([batch], share_inputs=True)[0]


def load_ours(path: Path, threads: int) -> Infer:
    from alexnet_edge.runtimes.base import RuntimeOptions
    from alexnet_edge.runtimes.loader import open_engine

    return open_engine(path, RuntimeOptions(threads=threads, spin=True)).infer


def load(runtime: str, path: Path, threads: int) -> Infer:
    if runtime.startswith("torch"):
        return load_torch(path, threads, compiled=runtime == "torch-compile")
    return {"onnxruntime": load_onnxruntime, "openvino": load_openvino, "alexnet-edge": load_ours}[
        runtime
    ](path, threads)


def run_for(infer: Infer, batches: list[Any], seconds: float) -> list[int]:
    taken = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    for batch in itertools.cycle(batches):
        started = time.perf_counter_ns()
        infer(batch)
        finished = time.perf_counter_ns()
        taken.append(finished - started)
        if finished >= end:
            break
    return taken


def make_batches(images: Any, size: int) -> list[Any]:
    """Return batches of images from all over an array, so that every class is among them."""
    chosen = images[np.linspace(0, len(images) - 1, MOST_IMAGES).astype(int)]
    return [chosen[start : start + size] for start in range(0, MOST_IMAGES, size)]


def classify(infer: Infer, images: Any) -> list[int]:
    answers = [infer(images[start : start + 1]) for start in range(len(images))]
    return [int(row.argmax()) for row in np.concatenate(answers)]


def main() -> None:
    runtime, path, threads, kind = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        infer = load(runtime, path, threads)
        shape = (1, 227, 227, 3) if kind == "uint8" else (1, 3, 227, 227)
        infer(np.zeros(shape, kind))
        found: dict[str, Any] = {"ready": True}
    except Exception as error:  # whatever a library raises is the answer
        found = {"error": f"{type(error).__name__}: {error}"[:2000]}
    print(json.dumps(found), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        images = np.load(request["images"], mmap_mode="c")  # torch warns of what is read-only
        if "seconds" in request:
            batches = make_batches(images, request["batch"])
            found = {"ns": run_for(infer, batches, request["seconds"])}
        else:
            found = {"top1": classify(infer, images)}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
