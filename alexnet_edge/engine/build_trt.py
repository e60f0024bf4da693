"""Engines of TensorRT and TensorRT-RTX, from one code path with the vendor's module injected.

Features are detected, not looked up by version. TensorRT-RTX builds ahead of time without a GPU;
TensorRT needs the GPU that the engine is for.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from alexnet_edge.engine.vendor import BuiltEngine, EngineJob, Vendor
from alexnet_edge.errors import BuildError, UnavailableError
from alexnet_edge.manifest import LayerPrecision
from alexnet_edge.runtimes.trt import (
    cuda_device_count,
    first_errors,
    import_vendor,
    make_logger,
)

if TYPE_CHECKING:
    import tensorrt as trt

Messages = list[tuple[int, str]]

_PRECISIONS = {"Int8": "int8", "Half": "fp16", "Float": "fp32", "BFloat16": "bf16"}
_MEMORY_ONLY = frozenset(("kgen", "shape_call"))
"""Generated element-wise kernels; the products are in the others."""

_LAYER_LINE = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<op>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*)\], Outputs: .*Metadata: (?P<metadata>.*)"
)


def tensorrt_vendor(runtime: str, module: ModuleType | None = None) -> Vendor:
    """Return the builder of `tensorrt` or `tensorrt-rtx`.

    Args:
        runtime: its name.
        module: the vendor's module; imported by default.

    Raises:
        MissingDependencyError: it is not installed.
        UnavailableError: TensorRT, and there is no GPU.
    """
    module = module or import_vendor(runtime)
    if runtime == "tensorrt" and cuda_device_count() == 0:
        raise UnavailableError(
            "tensorrt builds on the GPU that the engine is for, and the driver sees none",
            hint="build on the target, or --runtime tensorrt-rtx, which builds ahead of time",
        )
    return functools.partial(_build, module, runtime)


def _build(vendor: ModuleType, runtime: str, job: EngineJob, out: Path) -> BuiltEngine:
    logger, messages = make_logger(vendor)
    builder: trt.Builder = vendor.Builder(logger)
    network = builder.create_network(_network_flags(vendor, job.precision))
    _parse(vendor, network, logger, job)
    config = _configure(vendor, builder, network, job)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"{job.source}: {runtime} {vendor.__version__} cannot build it "
            f"({first_errors(messages)})",
            hint="see what it supports with: alexnet-edge doctor",
        )
    out.write_bytes(memoryview(plan))
    layers = tuple(_read_layers(job.layers, messages))
    if any(layer.op == "unknown" for layer in layers) and cuda_device_count():
        layers = tuple(_inspect_layers(vendor, logger, out, job.layers))
    return BuiltEngine(
        runtime_version=vendor.__version__,
        layers=layers,
        device={
            "kind": "gpu",
            "name": "any supported GPU" if runtime == "tensorrt-rtx" else "cuda:0",
        },
    )


def _network_flags(vendor: ModuleType, precision: str) -> int:
    """Return creation flags: explicit batch where it must be said, strong typing where it exists.

    With weak typing (TensorRT 8, early 10) INT8 comes from Q/DQ and the builder's flag.
    """
    known = vendor.NetworkDefinitionCreationFlag
    flags = 0
    if hasattr(known, "EXPLICIT_BATCH"):
        flags |= 1 << int(known.EXPLICIT_BATCH)
    if _is_strongly_typed(vendor):
        flags |= 1 << int(known.STRONGLY_TYPED)
    return flags


def _is_strongly_typed(vendor: ModuleType) -> bool:
    """Strong typing is used from 10.12 on: earlier versions have gaps in their Q/DQ fusions."""
    if not hasattr(vendor.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return False
    if not hasattr(vendor.BuilderFlag, "INT8"):
        return True
    major, minor = (int(part) for part in vendor.__version__.split(".")[:2])
    return (major, minor) >= (10, 12)


def _parse(
    vendor: ModuleType, network: trt.INetworkDefinition, logger: trt.ILogger, job: EngineJob
) -> None:
    parser: trt.OnnxParser = vendor.OnnxParser(network, logger)
    if parser.parse(ir.to_proto(job.model).SerializeToString()):
        return
    problems = [_describe_error(parser.get_error(index)) for index in range(parser.num_errors)]
    raise BuildError(
        f"{job.source}: the parser refuses it ({'; '.join(problems[:3])})",
        hint="export with --opset 17, and without operators that the node's message names",
    )


def _describe_error(error: Any) -> str:
    """Return a parser's error with the node it is about, where this version tells."""
    node = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
    return f"{node}: {error.desc().strip()}"


def _configure(
    vendor: ModuleType, builder: trt.Builder, network: trt.INetworkDefinition, job: EngineJob
) -> trt.IBuilderConfig:
    config = builder.create_builder_config()
    config.profiling_verbosity = vendor.ProfilingVerbosity.DETAILED
    if job.workspace_mib is not None:
        config.set_memory_pool_limit(vendor.MemoryPoolType.WORKSPACE, job.workspace_mib << 20)
    if not _is_strongly_typed(vendor):
        for flag in ("FP16", "INT8")[: ("fp32", "fp16", "int8").index(job.precision)]:
            config.set_flag(getattr(vendor.BuilderFlag, flag))
    if job.input.batch is None:
        profile = builder.create_optimization_profile()
        image = [size or 1 for size in job.input.shape[1:]]
        sizes = (job.batch.min, job.batch.opt, job.batch.max)
        low, best, high = (vendor.Dims([size, *image]) for size in sizes)
        profile.set_shape(job.input.name, low, best, high)
        config.add_optimization_profile(profile)
    return config


def _read_layers(names: Sequence[str], messages: Messages) -> Iterator[LayerPrecision]:
    """Read each layer's precision from the list of kernels in the build log."""
    listing = next((text for _, text in messages if text.startswith("Layers:")), "")
    kernels = [match for line in listing.splitlines() if (match := _LAYER_LINE.match(line))]
    for name in names:
        tag = f"[ONNX Layer: {name}]"
        kernel = next(
            (k for k in kernels if tag in k["metadata"] and k["op"] not in _MEMORY_ONLY), None
        )
        if kernel is None:
            yield LayerPrecision(name, "unknown", "unknown")
            continue
        types = [_first_type(kernel["inputs"]), _first_type(kernel["constants"])]
        # Integer only if both factors of the products are.
        widest = max(types, key=["Int8", "Half", "BFloat16", "Float"].index)
        yield LayerPrecision(name, kernel["op"], _PRECISIONS[widest])


def _first_type(tensors: str) -> str:
    match = re.search(r"Datatype: (\w+)", tensors)
    return match[1] if match and match[1] in _PRECISIONS else "Float"


def _inspect_layers(
    vendor: ModuleType, logger: trt.ILogger, engine_path: Path, names: Sequence[str]
) -> Iterator[LayerPrecision]:
    """Read each layer's precision from the engine inspector, where a GPU can load the engine."""
    import json

    runtime: trt.Runtime = vendor.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(engine_path.read_bytes())
    inspector = engine.create_engine_inspector()
    raw = json.loads(inspector.get_engine_information(vendor.LayerInformationFormat.JSON))
    kernels = [layer for layer in raw.get("Layers", []) if isinstance(layer, dict)]
    for name in names:
        kernel = next(
            (k for k in kernels if name in (k.get("Metadata") or k.get("Name", ""))), None
        )
        if kernel is None:
            yield LayerPrecision(name, "unknown", "unknown")
            continue
        described = json.dumps(kernel.get("Inputs", []))
        found = next((p for key, p in _PRECISIONS.items() if key in described), "unknown")
        yield LayerPrecision(name, str(kernel.get("LayerType", "unknown")), found)
