"""ONNX Runtime on NVIDIA GPUs: its providers, which nodes they really ran, and device memory.

`get_available_providers` says what was compiled in, `get_providers` what a session was given;
neither says where a node runs. Nodes without a kernel on the GPU go to the CPU with a log line, or
without one. The session's own profile of a first run names the provider of every node that ran.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.errors import UnavailableError
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import EngineInfo

if TYPE_CHECKING:
    import onnxruntime

CPU, CUDA, TENSORRT = (
    "CPUExecutionProvider",
    "CUDAExecutionProvider",
    "TensorrtExecutionProvider",
)
PROVIDERS = {
    "cpu": (CPU,),
    "cuda": (CUDA,),
    "tensorrt": (TENSORRT,),
    "tensorrt,cuda": (TENSORRT, CUDA),
}
"""Kind of device to the providers that may run nodes, the preferred one first."""

_SHAPE_TYPES = frozenset(("int32", "int64", "bool"))
_SHAPE_ELEMENTS = 64
"""More than any shape has: an integer tensor beyond that is data."""


def provider_settings(kind: str, index: int, precision: str) -> list[tuple[str, dict[str, str]]]:
    """Return the providers of a device with their options, as a session takes them.

    FP32 is FP32: without TF32, which would round the factors to 10 bits. TensorRT keeps no engine
    in a cache, where a stale one would go unseen.

    Args:
        kind: a key of `PROVIDERS`.
        index: CUDA's number of the GPU.
        precision: of the graph; TensorRT must be told that it may run INT8.
    """
    options = {
        CPU: {},
        CUDA: {"device_id": str(index), "use_tf32": "0"},
        TENSORRT: {
            "device_id": str(index),
            "trt_engine_cache_enable": "False",
            "trt_int8_enable": str(precision == "int8"),
        },
    }
    return [(provider, options[provider]) for provider in PROVIDERS[kind]]


@dataclasses.dataclass(frozen=True)
class RanNode:
    """A node of a profiled run.

    Attributes:
        name, op: as ONNX Runtime has them after its optimizations.
        provider: that ran it.
        shape_work: whether all that it gives is small integers, as the sizes of tensors are;
            ONNX Runtime keeps those on the CPU by design, beside the values they are read from.
    """

    name: str
    op: str
    provider: str
    shape_work: bool = False


def preload_libraries(ort: Any) -> None:
    """Load the CUDA libraries that pip installed beside onnxruntime, where there are any.

    What is missing is no error yet: the provider may find it elsewhere, or says so itself.
    """
    if hasattr(ort, "preload_dlls"):  # from 1.21 on; it prints what it does not find
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def enable_profiling(settings: onnxruntime.SessionOptions, folder: Path) -> None:
    """Let a session write a profile into a folder, for `profile_nodes`."""
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / "profile")


def profile_nodes(session: onnxruntime.InferenceSession, info: EngineInfo) -> tuple[RanNode, ...]:
    """Run a session once on zeros and return what ran where.

    Args:
        session: opened with `enable_profiling`; its profiling ends here.
        info: of its graph.

    Raises:
        UnavailableError: the run fails.
    """
    image = [size or 1 for size in info.input.shape]
    try:
        session.run(None, {info.input.name: np.zeros(image, info.input.dtype)})
    except Exception as error:  # onnxruntime raises classes of its C extension, without a base
        reason = str(error).strip().splitlines()[0]
        raise UnavailableError(
            f"{info.path}: does not run on this device ({reason})",
            hint="use --device cpu, or see: alexnet-edge doctor",
        ) from error
    finally:
        profile = Path(session.end_profiling())
    return read_profile(json.loads(profile.read_text(encoding="utf-8")))


def read_profile(events: Iterable[Mapping[str, Any]]) -> tuple[RanNode, ...]:
    """Return the nodes of a profile, as ONNX Runtime writes it (a list of trace events)."""
    nodes: dict[tuple[str, str], RanNode] = {}
    for event in events:
        details = event.get("args") or {}
        if event.get("cat") != "Node" or "provider" not in details:
            continue
        name = str(event.get("name", "")).removesuffix("_kernel_time")
        shapes = details.get("output_type_shape") or []
        nodes[name, str(details.get("node_index"))] = RanNode(
            name=name,
            op=str(details.get("op_name", "")),
            provider=str(details["provider"]),
            shape_work=bool(shapes) and all(map(_is_shape, shapes)),
        )
    return tuple(nodes.values())


def _is_shape(tensor: Mapping[str, Sequence[int]]) -> bool:
    """Whether a tensor of a profile, `{"int64": [4]}`, can only be sizes."""
    return all(
        kind in _SHAPE_TYPES and len(sizes) <= 1 and int(np.prod(sizes)) <= _SHAPE_ELEMENTS
        for kind, sizes in tensor.items()
    )


def require_providers(
    path: Path, device: str, nodes: Sequence[RanNode], wanted: Sequence[str]
) -> dict[str, int]:
    """Refuse a run that did not happen where it was asked for.

    Args:
        path: the graph, for errors.
        device: as asked for, for errors.
        nodes: what ran.
        wanted: the providers that may run nodes; the first must run some.

    Returns:
        How many nodes each provider ran.

    Raises:
        UnavailableError: naming the nodes that ran elsewhere.
    """
    strays = [node for node in nodes if node.provider not in wanted and not node.shape_work]
    hint = (
        f"run the ONNX graph that it was built from: engines of onnxruntime are optimized for the "
        f"CPU; for INT8 build --runtime tensorrt-rtx or tensorrt; or use --device {_wider(device)}"
    )
    if strays:
        named = ", ".join(f"{node.name} ({node.op})" for node in strays[:5])
        more = f" and {len(strays) - 5} more" if len(strays) > 5 else ""
        raise UnavailableError(
            f"{path}: device {device}: {len(strays)} of {len(nodes)} nodes ran on "
            f"{', '.join(sorted({node.provider for node in strays}))}: {named}{more}",
            hint=hint,
        )
    counts = Counter(node.provider for node in nodes)
    if not counts[wanted[0]]:
        raise UnavailableError(
            f"{path}: device {device}: {wanted[0]} ran none of {len(nodes)} nodes", hint=hint
        )
    return dict(counts)


def _wider(device: str) -> str:
    return "tensorrt,cuda" if device.partition(":")[0] == "tensorrt" else "cpu"


class DeviceBinding:
    """A session's input and output in device memory.

    A batch is copied to the device once, into memory that is kept for its shape; the answers are
    fetched from where the last node left them.

    Args:
        session: opened on the device's provider.
        info: of its graph.
        device: `cuda`; `cpu` works as well.
        index: its number.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        info: EngineInfo,
        device: str,
        index: int,
    ) -> None:
        import onnxruntime

        self._values = onnxruntime.OrtValue
        self._session, self._info = session, info
        self._device, self._index = device, index
        self._binding = session.io_binding()
        self._source: Any = None
        self._shape: tuple[int, ...] | None = None

    def run(self, batch: AnyArray) -> AnyArray:
        """Run a batch that was checked; return float32 answers."""
        if batch.shape != self._shape:
            self._bind(batch.shape)
        self._source.update_inplace(np.ascontiguousarray(batch))
        self._session.run_with_iobinding(self._binding)
        # A copy: the device's memory, where that is the host's, is written again by the next run.
        return np.array(self._binding.get_outputs()[0].numpy(), np.float32)

    def _bind(self, shape: tuple[int, ...]) -> None:
        source, sink = self._info.input, self._info.output
        self._source = self._values.ortvalue_from_shape_and_type(
            shape, np.dtype(source.dtype).type, self._device, self._index
        )
        self._binding.bind_ortvalue_input(source.name, self._source)
        # Bound anew for each shape: ONNX Runtime keeps the memory of the last answers for the next.
        self._binding.bind_output(sink.name, self._device, self._index)
        self._shape = shape
