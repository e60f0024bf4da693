"""Latency on a GPU: our engines, ONNX Runtime and PyTorch side by side, and memory's floor below.

One interleaved run (see `alexnet_edge.bench`), batch 1, host memory to host memory. FP32 of PyTorch
and ONNX Runtime is without TF32; TensorRT's builders allow it by default. A loop over weights that
fit into the GPU's L2 cache can beat the floor, which is that of reading them from memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpu_items import (
    PRECISIONS,
    SUFFIXES,
    WORKDIR,
    Done,
    Item,
    ItemError,
    NothingToTryError,
    build,
    make_network,
    measure_bandwidth,
)

from alexnet_edge.bench import BenchSettings, bench, synthetic_input
from alexnet_edge.results import to_json
from alexnet_edge.runtimes.base import Runtime, RuntimeOptions
from alexnet_edge.runtimes.loader import open_engine

WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


def floor_ms(parameters: int, precision: str, bandwidth_gbs: float) -> float:
    """Return the least time of a batch of 1: every weight is read once from memory."""
    return parameters * WEIGHT_BYTES[precision] / (bandwidth_gbs * 1e9) * 1e3


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something to measure: its name, what it needs, and how it is opened."""

    name: str
    precision: str
    needs: tuple[str, ...]
    open: Callable[[], Runtime]


def list_candidates() -> list[Candidate]:
    """Return our engines, launched as one graph and plainly, and the peers."""
    from gpu_torch import TorchVariant

    def ours(runtime: str, precision: str, cuda_graph: str) -> Callable[[], Runtime]:
        options = RuntimeOptions(cuda_graph=cuda_graph)
        return lambda: open_engine(build(runtime, precision), options)

    def torch(precision: str, *, compiled: bool) -> Callable[[], Runtime]:
        return lambda: TorchVariant(WORKDIR / "alexnet.pt", precision, compiled=compiled)

    engines = [
        Candidate(f"{runtime} {precision}{note}", precision, ("pycuda", runtime),
                  ours(runtime, precision, graph))
        for runtime in SUFFIXES
        for precision in PRECISIONS
        for graph, note in (("auto", ""), ("off", ", plain launches"))
        if graph == "auto" or precision == "int8"
    ]  # fmt: skip
    peers = [
        Candidate(f"torch {kind} {precision}", precision, ("torch-cuda",),
                  torch(precision, compiled=kind == "compile"))
        for kind in ("eager", "compile")
        for precision in ("fp32", "fp16")
    ]  # fmt: skip
    onnxruntime = Candidate(
        "onnxruntime CUDA fp32", "fp32", ("CUDA",),
        lambda: open_engine(WORKDIR / "alexnet.onnx", RuntimeOptions(device="cuda")),
    )  # fmt: skip
    return [*engines, onnxruntime, *peers]


def measure_latency(lacking: Mapping[str, str], seconds: float) -> Item:
    """Measure all candidates that can be opened here."""

    def run() -> Done:
        make_network()
        return measure_candidates(list_candidates(), lacking, seconds)

    return run


def measure_candidates(
    candidates: Sequence[Candidate], lacking: Mapping[str, str], seconds: float
) -> Done:
    """Open what can be opened, and measure it side by side.

    Raises:
        ItemError: a candidate that should run here did not.
        NothingToTryError: what each of them needs is not here.
    """
    left_out: dict[str, str] = {}
    failed: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        opened: list[tuple[Candidate, Runtime]] = []
        for candidate in candidates:
            if reasons := [lacking[need] for need in candidate.needs if lacking.get(need)]:
                left_out[candidate.name] = "; ".join(reasons)
                continue
            try:
                engine = stack.enter_context(candidate.open())
                engine.infer(synthetic_input(engine.info.input, 1, seed=0))
            except Exception as error:
                failed[candidate.name] = (str(error).splitlines() or [type(error).__name__])[0]
            else:
                opened.append((candidate, engine))
        if not opened and not failed:
            raise NothingToTryError("; ".join(dict.fromkeys(left_out.values())))
        settings = BenchSettings(batch=1, warmup_s=2, duration_s=seconds)
        rows = bench([engine for _, engine in opened], settings).engines if opened else ()
    named = list(zip([candidate for candidate, _ in opened], rows, strict=True))
    return judge_latency(summarize_latency(named, bandwidth_gbs()), left_out, failed)


def bandwidth_gbs() -> float | None:
    """Return the copy bandwidth; None where it cannot be measured, which has an item of its own."""
    try:
        return float(measure_bandwidth().figures["bandwidth_gbs"])
    except Exception:
        return None


def summarize_latency(
    rows: Sequence[tuple[Candidate, Any]], bandwidth: float | None
) -> dict[str, Any]:
    """Return the median of each candidate with its interval, beside the bandwidth's floor."""
    from alexnet_edge.model import Architecture

    parameters = Architecture().parameters
    figures = {}
    for candidate, row in rows:
        figures[candidate.name] = {
            "precision": candidate.precision,
            "p50_ms": row.latency_ms.p50,
            "ci95_p50_ms": list(row.latency_ms.ci95_p50),
            "p99_ms": row.latency_ms.p99,
            "samples": row.samples,
            "floor_ms": bandwidth and floor_ms(parameters, candidate.precision, bandwidth),
            "settings": row.settings,
        }
    return {"bandwidth_gbs": bandwidth, "batch": 1, "engines": to_json(figures)}


def judge_latency(
    figures: Mapping[str, Any], left_out: Mapping[str, str], failed: Mapping[str, str]
) -> Done:
    """Say what was measured, what was left out, and why.

    Raises:
        ItemError: a candidate that should run here did not.
    """
    said = []
    for name, row in figures["engines"].items():
        floor = f" (floor {row['floor_ms']:.3f})" if row["floor_ms"] else ""
        said.append(f"{name} {row['p50_ms']:.3f} ms{floor}")
    said += [f"left out {name}: {reason}" for name, reason in left_out.items()]
    kept = {**figures, "left_out": dict(left_out), "failed": dict(failed)}
    if failed:
        broken = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise ItemError(f"{broken}; measured: {'; '.join(said)}", kept)
    return Done("; ".join(said), kept)
