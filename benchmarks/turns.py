"""Several programs' inference in turns, each in a process of its own.

A process is asked to run one network for a moment and answers with what each inference took; then
the next one's turn comes, in the order A B … B A. Processes rather than sessions in one, since the
thread pools of other libraries go on spinning when their turn is over; between turns is a pause in
which they come to rest.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import COMMAND, run_process

from alexnet_edge.dataset import ImageReader, ImageSet
from alexnet_edge.graph import read_graph

WORKER = Path(__file__).with_name("turns_worker.py")
PAUSE_S = 0.3
FLOORS = {"flushed": "weights from memory", "warm": "weights in the cache as far as they fit"}
"""States of the caches that `bench` measures in, and what that means for the floor."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """A network and what runs it.

    Attributes:
        name: as tables have it.
        runtime: `torch`, `torch-compile`, `onnxruntime`, `openvino` or `alexnet-edge`.
        path: its file.
        input: `float32` (N, 3, 227, 227), or `uint8` (N, 227, 227, 3).
    """

    name: str
    runtime: str
    path: Path
    input: str = "float32"

    @property
    def size_bytes(self) -> int:
        """Of its file, and of the weights beside it where they are apart."""
        size = self.path.stat().st_size
        weights = self.path.with_suffix(".bin")
        return size + (weights.stat().st_size if self.path.suffix == ".xml" else 0)


class Worker:
    """A contender's process, from its start to `close`."""

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender = contender
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), contender.runtime, str(contender.path), str(threads),
             contender.input],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.loaded: dict[str, Any] = self._read()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request; return what came back.

        Raises:
            SystemExit: the process ended, or said why it cannot.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.contender.name}: its process ended with {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            sys.exit(f"{self.contender.name}: {found['error']}")
        return found


def save_inputs(folder: Path, graph: Path, images: ImageSet) -> dict[str, Path]:
    """Prepare images once as a graph says; return their files by type of input."""
    spec = read_graph(graph).preprocess
    assert spec is not None
    paths = {kind: folder / f"inputs.{kind}.npy" for kind in ("float32", "uint8")}
    for kind, path in paths.items():
        reader = ImageReader(images, spec.with_input(kind), batch_size=64)
        np.save(path, np.concatenate([batch.tensor for batch in reader]))
    return paths


def take_turns(
    workers: Sequence[Worker],
    inputs: Mapping[str, Path],
    *,
    batch: int,
    rounds: int,
    seconds: float,
) -> dict[str, list[float]]:
    """Return for each contender the median latency in milliseconds of each of its turns."""

    def ask(worker: Worker) -> list[int]:
        images = str(inputs[worker.contender.input])
        taken: list[int] = worker.ask(batch=batch, seconds=seconds, images=images)["ns"]
        return taken

    found: dict[str, list[float]] = {worker.contender.name: [] for worker in workers}
    for worker in workers:  # warm up
        ask(worker)
    for turn in range(rounds):
        for worker in workers[:: -1 if turn % 2 else 1]:
            time.sleep(PAUSE_S)
            found[worker.contender.name].append(float(np.median(ask(worker))) / 1e6)
    return found


def measure_turns(
    workers: Sequence[Worker], inputs: Mapping[str, Path], batches: Sequence[int], rounds: int
) -> dict[str, dict[str, Any]]:
    """Return for each contender its size, and the latency at each batch size.

    Args:
        workers: of the contenders.
        inputs: prepared images by type, as `save_inputs` gives them.
        batches: sizes.
        rounds: turns of each.
    """
    rows: dict[str, dict[str, Any]] = {
        worker.contender.name: {"size_bytes": worker.contender.size_bytes, "latency": {}}
        for worker in workers
    }
    for batch in batches:
        turns = take_turns(workers, inputs, batch=batch, rounds=rounds, seconds=0.5)
        for name, values in turns.items():
            rows[name]["latency"][str(batch)] = summarize(values)
            print(f"batch {batch}, {name}: {rows[name]['latency'][str(batch)]}", flush=True)
    return rows


def find_floors(
    folder: Path, found: Sequence[Contender], images: str, *, rounds: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Return how near our engines come to the floor, by name and state of the caches.

    Floor and latency are measured by one run of `bench`, for memory is faster in some minutes than
    in others.

    Args:
        folder: where the engines are.
        found: the engines.
        images: to feed them.
        rounds: runs of each, of which the medians are taken.
    """
    report = folder / "floor.json"
    seen: dict[tuple[str, str], list[dict[str, float]]] = {
        (one.name, cache): [] for one in found for cache in FLOORS
    }
    paths = {one.name: one.path.name for one in found}
    for _ in range(rounds):
        for (name, cache), rows in seen.items():
            run_process(
                [*COMMAND, "bench", paths[name], "--images", images, "--cache", cache,
                 "--json", str(report)],
                folder=folder,
            )  # fmt: skip
            (row,) = json.loads(report.read_text())["engines"]
            rows.append(
                {
                    "floor_ms": row["floor"]["floor_ms"],
                    "bandwidth_gb_s": row["floor"]["bandwidth_gb_s"],
                    "compute_gmac_s": row["floor"]["compute_gmac_s"],
                    "latency_ms": row["latency_ms"]["p50"],
                    "ratio": 1 / row["floor"]["efficiency"],
                }
            )
    floors: dict[str, dict[str, dict[str, float]]] = {name: {} for name in paths}
    for (name, cache), rows in seen.items():
        floors[name][cache] = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    return floors


def summarize(turns: Sequence[float]) -> dict[str, Any]:
    """Return the median of turns, and the spread of the middle half of them."""
    low, middle, high = np.percentile(turns, (25, 50, 75))
    return {
        "p50_ms": round(float(middle), 4),
        "quartiles_ms": [round(float(low), 4), round(float(high), 4)],
        "turns_ms": [round(value, 4) for value in turns],
    }


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over rounds of one contender's turn beside the other's."""
    return float(np.median(np.array(ours) / np.array(theirs)))
