"""Engines of ONNX Runtime: an optimized graph whose operators show what runs in which precision.

Optimization stops before layouts that depend on the processor: those are chosen when the engine is
opened, so a file that was built on one CPU is right on another.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir

from alexnet_edge import machine
from alexnet_edge.engine.pixel_columns import fold_columns
from alexnet_edge.engine.vendor import BuiltEngine, EngineJob
from alexnet_edge.engine.zero_skipping import skip_zeros
from alexnet_edge.errors import BuildError, GraphError
from alexnet_edge.manifest import LayerPrecision
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session, import_onnxruntime, session_options

if TYPE_CHECKING:
    import onnxruntime

_INTEGER = frozenset(
    ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat")
)


def build_onnxruntime(job: EngineJob, out: Path) -> BuiltEngine:
    """Write the optimized graph.

    Raises:
        BuildError: FP16 was asked for, for which the CPU provider has no kernels; or the engine
            does not run.
        GraphError: ONNX Runtime refuses the graph.
        OSError: the engine could not be written.
    """
    ort = import_onnxruntime("building for onnxruntime")
    if job.precision == "fp16":
        raise BuildError(
            f"{job.source}: onnxruntime has no FP16 kernels on the CPU",
            hint="build --fp32 or --int8, or --runtime tensorrt-rtx --fp16",
        )
    settings = session_options(RuntimeOptions())
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.optimized_model_filepath = str(out)
    skipping = skip_zeros(job.model, job.zero_skipping, machine.usable_cores())
    if machine.is_x86():
        fold_columns(job.model)
    serialized = ir.to_proto(job.model).SerializeToString()
    try:
        session = create_session(serialized, RuntimeOptions(), settings)
    except GraphError:
        _require_room(out, len(serialized))
        raise
    _try_out(session, job)
    return BuiltEngine(
        runtime_version=ort.__version__,
        layers=tuple(_read_layers(out, job.layers)),
        device={"kind": "cpu", "name": machine.cpu_name(), "vnni": machine.has_vnni()},
        options={"zero_skipping": list(skipping)} if job.precision == "int8" else {},
    )


def _require_room(out: Path, size_bytes: int) -> None:
    """Write where ONNX Runtime could not: it says that the graph is at fault when a disk is full.

    Args:
        out: what it began to write; where it did not, something else was wrong.
        size_bytes: more than what was left to write.

    Raises:
        OSError: there is no room for it.
    """
    if not out.exists():
        return
    with out.open("ab") as file:
        file.write(bytes(size_bytes))
        file.flush()
        os.fsync(file.fileno())


def _try_out(session: onnxruntime.InferenceSession, job: EngineJob) -> None:
    """Run the engine once: what only fails when it runs shall not be written."""
    image = [size or 1 for size in job.input.shape]
    try:
        answers = session.run(None, {job.input.name: np.zeros(image, job.input.dtype)})[0]
    except Exception as error:  # onnxruntime raises classes of its C extension, without a base
        reason = str(error).strip().splitlines()[0]
        raise BuildError(
            f"{job.source}: the engine does not run ({reason})", hint="check the graph's shapes"
        ) from error
    if not np.isfinite(np.asarray(answers)).all():
        raise BuildError(
            f"{job.source}: the engine answers NaN or infinity", hint="check the weights"
        )


def _read_layers(engine: Path, names: tuple[str, ...]) -> list[LayerPrecision]:
    """Return what each weighted layer became; fused nodes keep the layer's name."""
    nodes = {node.name.removeprefix("fused "): node for node in onnx.load(engine).graph.node}
    layers = []
    for name in names:
        node = nodes.get(name) or next(
            (node for key, node in nodes.items() if key.startswith(f"{name}_")), None
        )
        if node is None:
            layers.append(LayerPrecision(name, "unknown", "unknown"))
            continue
        layers.append(LayerPrecision(name, node.op_type, _precision(node)))
    return layers


def _precision(node: onnx.NodeProto) -> str:
    if node.op_type == "MatMulNBits":
        bits = next(item.i for item in node.attribute if item.name == "bits")
        return f"int{bits}"
    branches = [item.g for item in node.attribute if item.HasField("g")]
    if branches:  # a layer that skips zeros
        kinds = [{_precision(inner) for inner in branch.node} for branch in branches]
        return "int8" if all("int8" in kind for kind in kinds) else "fp32"
    return "int8" if node.op_type in _INTEGER else "fp32"
