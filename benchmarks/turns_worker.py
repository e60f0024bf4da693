"""One contender of `turns.py`: loads a network, then runs it when asked.

    python benchmarks/turns_worker.py RUNTIME FILE THREADS float32|uint8

Each line of standard input is a request, each line of standard output its answer, both JSON:
`{"batch": 1, "seconds": 0.5}` gives the nanoseconds of each inference on random input,
`{"images": "inputs.npy"}` the top-1 of each prepared image.
"""

from __future__ import annotations

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


def run_for(infer: Infer, batch: Any, seconds: float) -> list[int]:
    taken = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while True:
        started = time.perf_counter_ns()
        infer(batch)
        finished = time.perf_counter_ns()
        taken.append(finished - started)
        if finished >= end:
            return taken


def make_batch(kind: str, count: int) -> Any:
    rng = np.random.default_rng(0)
    if kind == "uint8":
        return rng.integers(0, 256, (count, 227, 227, 3), np.uint8)
    return rng.standard_normal((count, 3, 227, 227), np.float32)


def classify(infer: Infer, images: Any) -> list[int]:
    answers = [infer(images[start : start + 1]) for start in range(len(images))]
    return [int(row.argmax()) for row in np.concatenate(answers)]


def main() -> None:
    runtime, path, threads, kind = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        infer = load(runtime, path, threads)
        infer(make_batch(kind, 1))
        found: dict[str, Any] = {"ready": True}
    except Exception as error:  # whatever a library raises is the answer
        found = {"error": f"{type(error).__name__}: {error}"[:2000]}
    print(json.dumps(found), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "images" in request:
            found = {"top1": classify(infer, np.load(request["images"]))}
        else:
            batch = make_batch(kind, request["batch"])
            found = {"ns": run_for(infer, batch, request["seconds"])}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
