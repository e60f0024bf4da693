"""Stand-ins for TensorRT's module: the attributes of a version, and a record of what was called.

They have what the table of versions says a version has, and lack what it lacks. They compile
nothing: an engine is a few bytes, and its description is made from the graph and the flags. So they
prove which calls a version gets, and nothing of what the real library makes of them.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from typing import Any

import onnx

from alexnet_edge.machine import Gpu

ORIN = Gpu(0, "Orin", "8.7", integrated=True, memory_bytes=8 << 30)
PLAN = b"ftrt stand-in"

_ALWAYS = ("SPARSE_WEIGHTS", "GPU_FALLBACK", "TF32", "REFIT")
_WEAK = ("FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS")


@dataclasses.dataclass(frozen=True)
class Version:
    """What a version has."""

    flags: tuple[str, ...]
    explicit_batch: bool = True
    strong_typing: bool = True
    monitor: bool = True
    calibrator: bool = True
    level: bool = True


VERSIONS = {
    "8.5.2.2": Version((*_ALWAYS, *_WEAK), strong_typing=False, monitor=False, level=False),
    "8.6.1.6": Version(
        (*_ALWAYS, *_WEAK, "FP8", "VERSION_COMPATIBLE"), strong_typing=False, monitor=False
    ),
    "10.3.0.26": Version((*_ALWAYS, *_WEAK, "FP8", "BF16", "INT4", "VERSION_COMPATIBLE")),
    "10.13.0.35": Version((*_ALWAYS, *_WEAK, "FP8", "BF16", "INT4", "FP4", "VERSION_COMPATIBLE")),
    "11.0.0.1": Version((*_ALWAYS, "VERSION_COMPATIBLE"), explicit_batch=False, calibrator=False),
}


@dataclasses.dataclass
class Record:
    """What was called."""

    network_flags: int | None = None
    flags: list[str] = dataclasses.field(default_factory=list)
    pools: dict[str, int] = dataclasses.field(default_factory=dict)
    shapes: list[tuple[str, tuple[tuple[int, ...], ...]]] = dataclasses.field(default_factory=list)
    profiles: int = 0
    graph: onnx.GraphProto | None = None
    opset: int = 0
    served: bytes | None = None
    config: Any = None
    network: Any = None
    runtime: Any = None
    timing: list[tuple[bytes, bool]] = dataclasses.field(default_factory=list)


class StandIn(types.ModuleType):
    """A module that passes for `tensorrt`.

    Attributes:
        record: what was called.
        errors: what the parser shall complain of.
        dla_cores: how many the board has.
        on_gpu: names of layers that a DLA cannot run.
        stale_cache: whether a timing cache is of another GPU.
        falls_back: names of layers that stay FP32 whatever is asked for.
    """

    def __init__(self, version: str) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.has = VERSIONS[version]
        self.record = Record()
        self.errors: list[Any] = []
        self.dla_cores = 0
        self.on_gpu: set[str] = set()
        self.falls_back: set[str] = set()
        self.stale_cache = False
        self.major = int(version.split(".", maxsplit=1)[0])
        known = ["EXPLICIT_BATCH"] * self.has.explicit_batch
        self.NetworkDefinitionCreationFlag = _enum(
            "Creation", known + ["STRONGLY_TYPED"] * self.has.strong_typing
        )
        self.BuilderFlag = _enum("BuilderFlag", self.has.flags)
        self.LayerType = _enum("LayerType", ["CONVOLUTION", "LRN", "SOFTMAX", "OTHER"])
        types_of = ["FLOAT", "HALF"] + ["INT4"] * (self.major >= 10)
        self.DataType = _enum("DataType", types_of)
        self.DeviceType = _enum("DeviceType", ["GPU", "DLA"])
        self.MemoryPoolType = _enum("MemoryPoolType", ["WORKSPACE"])
        self.ProfilingVerbosity = _enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED"])
        self.LayerInformationFormat = _enum("LayerInformationFormat", ["JSON"])
        self.Dims = tuple
        self.ILogger = _Base
        if self.has.monitor:
            self.IProgressMonitor = _Base
        if self.has.calibrator:
            self.IInt8EntropyCalibrator2 = _Base
        self.IBuilderConfig = _ConfigWithLevel if self.has.level else _Config
        self.Builder = lambda logger: _Builder(self)
        self.OnnxParser = lambda network, logger: _Parser(self, network)
        self.Runtime = lambda logger: _Runtime(self)


def _enum(name: str, members: Any) -> Any:
    return enum.IntEnum(name, {member: value for value, member in enumerate(members)})


class _Base:
    """Any class that the vendor lets one derive from; it insists on being initialized."""

    def __init__(self) -> None:
        self.initialized = True


class _Config:
    def __init__(self, vendor: StandIn) -> None:
        self._vendor = vendor
        self.int8_calibrator: Any = None
        self.progress_monitor: Any = None

    def set_flag(self, flag: Any) -> None:
        self._vendor.record.flags.append(flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._vendor.record.pools[pool.name] = size

    def add_optimization_profile(self, profile: Any) -> int:
        self._vendor.record.profiles += 1
        return 0

    def can_run_on_DLA(self, layer: Any) -> bool:
        return layer.name not in self._vendor.on_gpu

    def create_timing_cache(self, stored: bytes) -> bytes | None:
        return None if stored == b"damaged" else stored

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        self._vendor.record.timing.append((cache, ignore_mismatch))
        return not self._vendor.stale_cache

    def get_timing_cache(self) -> Any:
        return types.SimpleNamespace(serialize=lambda: b"measured")


class _ConfigWithLevel(_Config):
    builder_optimization_level = 3


class _Builder:
    def __init__(self, vendor: StandIn) -> None:
        self._vendor = vendor
        self.num_DLA_cores = vendor.dla_cores

    def create_network(self, flags: int) -> Any:
        self._vendor.record.network_flags = flags
        self._vendor.record.network = _Network()
        return self._vendor.record.network

    def create_builder_config(self) -> Any:
        self._vendor.record.config = self._vendor.IBuilderConfig(self._vendor)
        return self._vendor.record.config

    def create_optimization_profile(self) -> Any:
        shapes = self._vendor.record.shapes
        return types.SimpleNamespace(
            set_shape=lambda name, *sizes: shapes.append((name, tuple(map(tuple, sizes))))
        )

    def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
        if config.int8_calibrator is not None:
            calibrator = config.int8_calibrator
            assert calibrator.initialized
            assert calibrator.get_batch_size() == 1
            self._vendor.record.served = calibrator.read_calibration_cache()
            assert calibrator.get_batch(["input"]) is None
        if config.progress_monitor is None:
            return PLAN
        monitor = config.progress_monitor
        assert monitor.initialized
        monitor.phase_start("Building Engine", None, 2)
        for step in range(2):
            monitor.phase_start("Timing", "Building Engine", 4)
            if not all(monitor.step_complete("Timing", inner) for inner in range(4)):
                return None
            monitor.phase_finish("Timing")
            monitor.step_complete("Building Engine", step)
        monitor.phase_finish("Building Engine")
        return PLAN


class _Network:
    def __init__(self) -> None:
        self.layers: list[Any] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Any:
        return self.layers[index]


class _Parser:
    def __init__(self, vendor: StandIn, network: _Network) -> None:
        self._vendor, self._network = vendor, network
        self.num_errors = len(vendor.errors)

    def parse(self, serialized: bytes) -> bool:
        model = onnx.load_from_string(serialized)
        self._vendor.record.graph = model.graph
        self._vendor.record.opset = model.opset_import[0].version
        kinds = self._vendor.LayerType
        types_of = {"Conv": kinds.CONVOLUTION, "LRN": kinds.LRN, "Softmax": kinds.SOFTMAX}
        for node in model.graph.node:
            kind = types_of.get(node.op_type, kinds.OTHER)
            self._network.layers.append(
                types.SimpleNamespace(name=node.name, type=kind, precision=None)
            )
        return not self._vendor.errors

    def get_error(self, index: int) -> Any:
        return self._vendor.errors[index]


class _Runtime:
    engine_host_code_allowed = False

    def __init__(self, vendor: StandIn) -> None:
        self._vendor = vendor
        vendor.record.runtime = self

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        if plan != PLAN:
            return None
        return types.SimpleNamespace(
            create_engine_inspector=lambda: _Inspector(self._vendor),
            create_execution_context=_Context,
        )


class _Context:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True


class _Inspector:
    execution_context: _Context | None = None

    def __init__(self, vendor: StandIn) -> None:
        self._vendor = vendor

    def get_engine_information(self, kind: Any) -> str:
        """Describe an engine that did as the graph and the flags say."""
        assert self._vendor.record.config.profiling_verbosity.name == "DETAILED"
        graph = self._vendor.record.graph
        assert graph is not None
        quantized = {
            output
            for node in graph.node
            if node.op_type == "DequantizeLinear"
            for output in node.output
        }
        weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
        layers = []
        for node in graph.node:
            if node.op_type not in {"Conv", "Gemm", "MatMul"}:
                continue
            kind_of = self._kind(node, quantized, weights)
            values = "Half" if kind_of == "Int4" else kind_of
            layers.append(
                {
                    "Name": f"{node.name} + relu",
                    "LayerType": "CaskConvolution",
                    "Inputs": [self._tensor(node.input[0], values)],
                    "Outputs": [self._tensor(node.output[0], values)],
                    "Weights": {"Type": kind_of, "Count": 1},
                    "Metadata": f"[ONNX Layer: {node.name}]\x1e[ONNX Layer: relu]",
                }
            )
        ends = "I/O Tensors" if self._vendor.major >= 11 else "Bindings"
        return json.dumps({"Layers": layers, ends: []})

    def _kind(self, node: Any, quantized: set[str], weights: dict[str, int]) -> str:
        record = self._vendor.record
        if node.name in self._vendor.falls_back:
            return "Float"
        weight = node.input[1]
        if weight in self._four_bit():
            return "Int4"
        strong = self._vendor.has.strong_typing and record.network_flags is not None
        named = self._vendor.NetworkDefinitionCreationFlag
        if strong and record.network_flags & 1 << named.STRONGLY_TYPED:
            if weight in quantized:
                return "Int8"
            return "Half" if weights[weight] == onnx.TensorProto.FLOAT16 else "Float"
        if "INT8" in record.flags and (weight in quantized or record.served is not None):
            return "Int8"
        return "Half" if "FP16" in record.flags else "Float"

    def _four_bit(self) -> set[str]:
        """Return what comes out of 4-bit constants."""
        graph = self._vendor.record.graph
        assert graph is not None
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        return {
            output
            for node in graph.node
            if kinds.get(node.input[0]) == onnx.TensorProto.INT4
            for output in node.output
        }

    def _tensor(self, name: str, kind: str) -> dict[str, Any]:
        if self._vendor.record.profiles and self.execution_context is None:
            text = "N/A due to dynamic shapes"
            return {"Name": name, "Format/Datatype": text, "DataType": text}
        if self._vendor.major >= 11:
            return {"Name": name, "DataType": kind, "Format": "Row major linear"}
        formats = {
            "Int8": "Thirty-two wide channel vectorized row major Int8 format",
            "Half": "Row major linear FP16 format",
            "Float": "Row major linear FP32",
        }
        return {"Name": name, "Format/Datatype": formats[kind]}
