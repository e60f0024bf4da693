"""Times of single layers, as each runtime tells them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.errors import UnavailableError
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import EngineInfo, LayerTime

if TYPE_CHECKING:
    import onnxruntime


@dataclasses.dataclass
class LayerClock:
    """Collects what layers took, in the order in which they first ran.

    Args:
        runs: how many inferences will count.
    """

    runs: int

    def __post_init__(self) -> None:
        self._taken_us: dict[tuple[str, str], list[float]] = {}

    def add(self, name: str, op: str, microseconds: float) -> None:
        """Note that a layer ran."""
        self._taken_us.setdefault((name, op), []).append(microseconds)

    def times(self) -> tuple[LayerTime, ...]:
        """Return the layers; of each, only what the last runs took counts."""
        return tuple(
            LayerTime(name, op, sum(taken[-self.runs :]) / min(self.runs, len(taken)))
            for (name, op), taken in self._taken_us.items()
        )


def profile_session(
    session: onnxruntime.InferenceSession,
    info: EngineInfo,
    batch: AnyArray,
    *,
    runs: int,
    warmup: int,
) -> tuple[LayerTime, ...]:
    """Run a session and return what its nodes took.

    Args:
        session: opened with `enable_profiling`; its profiling ends here.
        info: of its graph.
        batch: as it takes it.
        runs, warmup: as `Runtime.profile` takes them.
    """
    try:
        for _ in range(warmup + runs):
            session.run([info.output.name], {info.input.name: np.ascontiguousarray(batch)})
    finally:
        profile = Path(session.end_profiling())
    return read_node_times(json.loads(profile.read_text(encoding="utf-8")), runs=runs)


def read_node_times(events: Iterable[Mapping[str, Any]], *, runs: int) -> tuple[LayerTime, ...]:
    """Return what the nodes of a profile took, as ONNX Runtime writes it (a list of trace events).

    A node's event ends in `_kernel_time`; its `ts` and `dur` are in microseconds. The time of an
    `If` holds that of its branch's nodes, which are left out.
    """
    clock = LayerClock(runs)
    kernels: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") != "Node" or not str(event.get("name", "")).endswith("_kernel_time"):
            continue
        if _operator(event) == "If":
            # Nodes are told of as they end, so those of its branch came before it.
            while kernels and kernels[-1]["ts"] >= event["ts"]:
                kernels.pop()
        kernels.append(event)
    for event in kernels:
        name = str(event["name"]).removesuffix("_kernel_time")
        clock.add(name, _operator(event), float(event["dur"]))
    return clock.times()


def _operator(event: Mapping[str, Any]) -> str:
    return str((event.get("args") or {}).get("op_name", ""))


def make_layer_profiler(vendor: ModuleType, clock: LayerClock) -> Any:
    """Return an `IProfiler` of TensorRT that tells a clock what each layer took.

    TensorRT fuses layers, so a name may stand for several; it names no operators.
    """

    class Profiler(vendor.IProfiler):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            vendor.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            clock.add(str(layer_name), "", ms * 1e3)

    return Profiler()


def require_layers(times: tuple[LayerTime, ...], info: EngineInfo) -> tuple[LayerTime, ...]:
    """Return the layers.

    Raises:
        UnavailableError: the runtime told of none.
    """
    if not times:
        raise UnavailableError(
            f"{info.path}: {info.runtime} told no times of its layers",
            hint="leave the profile out",
        )
    return times
