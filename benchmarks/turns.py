"""Several programs' inference in turns, each in a process of its own.

A process is asked to run one network for a moment and answers with what each inference took; then
the next one's turn comes, in the order A B … B A. Processes rather than sessions in one, since the
thread pools of other libraries go on spinning when their turn is over; between turns is a pause in
which they come to rest.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import COMMAND, run_process

WORKER = Path(__file__).with_name("turns_worker.py")
PAUSE_S = 0.3


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


def take_turns(
    workers: Sequence[Worker], *, batch: int, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Return for each contender the median latency in milliseconds of each of its turns."""
    found: dict[str, list[float]] = {worker.contender.name: [] for worker in workers}
    for worker in workers:  # warm up
        worker.ask(batch=batch, seconds=seconds)
    for turn in range(rounds):
        for worker in workers[:: -1 if turn % 2 else 1]:
            time.sleep(PAUSE_S)
            taken = worker.ask(batch=batch, seconds=seconds)["ns"]
            found[worker.contender.name].append(float(np.median(taken)) / 1e6)
    return found


def measure_turns(
    workers: Sequence[Worker], batches: Sequence[int], rounds: int
) -> dict[str, dict[str, Any]]:
    """Return for each contender its size, and the latency at each batch size."""
    rows: dict[str, dict[str, Any]] = {
        worker.contender.name: {"size_bytes": worker.contender.size_bytes, "latency": {}}
        for worker in workers
    }
    for batch in batches:
        turns = take_turns(workers, batch=batch, rounds=rounds, seconds=0.5)
        for name, values in turns.items():
            rows[name]["latency"][str(batch)] = summarize(values)
            print(f"batch {batch}, {name}: {rows[name]['latency'][str(batch)]}", flush=True)
    return rows


def find_floors(folder: Path, found: Sequence[Contender]) -> dict[str, Any]:
    """Return what `bench` says that this machine could do for each of our engines, by name."""
    report = folder / "floor.json"
    engines = [one.path.name for one in found]
    run_process([*COMMAND, "bench", *engines, "--json", str(report)], folder=folder)
    rows = json.loads(report.read_text())["engines"]
    return {one.name: row["floor"] for one, row in zip(found, rows, strict=True)}


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
