"""What this machine has and can run."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from typing import Any

from alexnet_edge import machine
from alexnet_edge.runtimes.loader import Availability, availability
from alexnet_edge.sensors import Missing, SensorSampler

RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt-rtx", "torch")


@dataclasses.dataclass(frozen=True)
class Sensors:
    """What tells of clocks, temperatures, power and throttling.

    Attributes:
        sources: the sensors that answer.
        energy_source: what energy would be reckoned from; None where nothing measures power.
        missing: what is here, or is a part of one, and does not answer.
    """

    sources: tuple[str, ...]
    energy_source: str | None
    missing: tuple[Missing, ...]


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The machine, its runtimes, and what to know before relying on them.

    Attributes:
        environment: as `machine.environment`.
        memory_bytes: physical memory.
        gpus: name and driver of each NVIDIA GPU, as `nvidia-smi` tells.
        sensors: what a benchmark can sample here.
        runtimes: what each can do here.
        advice: sentences; empty where all is well.
    """

    environment: dict[str, Any]
    memory_bytes: int
    gpus: tuple[str, ...]
    sensors: Sensors
    runtimes: tuple[Availability, ...]
    advice: tuple[str, ...]


def diagnose() -> Diagnosis:
    """Examine this machine; nothing is built or run."""
    runtimes = tuple(availability(name) for name in RUNTIMES)
    return Diagnosis(
        environment=machine.environment(),
        memory_bytes=machine.total_memory_bytes(),
        gpus=_gpus(),
        sensors=_sensors(),
        runtimes=runtimes,
        advice=tuple(_advise(runtimes)),
    )


def _advise(runtimes: tuple[Availability, ...]) -> list[str]:
    advice = []
    if not any(runtime.runs and runtime.runtime != "torch" for runtime in runtimes):
        advice.append("No engine can run here: pip install 'alexnet-edge[cpu]'.")
    if not machine.has_vnni():
        advice.append(
            "This CPU lacks VNNI: INT8 engines for it get 7-bit weights, and gain less speed."
        )
    if machine.usable_cores() < 2:
        advice.append("One core only: decoding and inference will take turns.")
    return advice


def _sensors() -> Sensors:
    with SensorSampler() as sampler:
        log = sampler.log()
    return Sensors(tuple(track.name for track in log.tracks), log.energy_source, log.missing)


def _gpus() -> tuple[str, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())
