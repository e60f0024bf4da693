"""A checkpoint into an FP32 ONNX graph that is checked against PyTorch before it exists.

The graph is written from the same `Architecture` that the PyTorch module is built from, node by
node: every name, the opset and the operators are ours to choose (LRN stays one node, Flatten stays
Flatten, layers keep the module's names), and no exporter's version changes them. That it computes
what PyTorch computes is not assumed but measured, on every export.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.shape_inference
import onnx_ir as ir

from alexnet_edge.artifacts import atomic_path, sha256_file
from alexnet_edge.errors import ExportError, InputError
from alexnet_edge.graph import constant, stamp_metadata
from alexnet_edge.model import (
    LRN_ALPHA,
    LRN_BETA,
    LRN_BIAS,
    Architecture,
    Checkpoint,
    Layer,
    build_module,
    import_torch,
)
from alexnet_edge.preprocess import AnyArray, PreprocessSpec
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session

TOLERANCE = 1e-4
"""Largest error against PyTorch, relative to the largest answer."""

MIN_OPSET, DEFAULT_OPSET, MAX_OPSET = 13, 17, 22
"""13 has per-channel Q/DQ; 17 is what TensorRT 8.5 reads; 22 what was tried."""

_DYNAMIC_CHECK_BATCHES = (1, 2, 5)

_DLA_CHANNELS = 8192
"""The most that DLA takes (TensorRT's documentation, "DLA Supported Layers and Restrictions")."""


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What the graph shall be.

    Attributes:
        batch: a fixed batch size; None for a dynamic axis named `batch`, or for 1 with ``dla``.
        logits: leave the softmax out.
        opset: ONNX operator set.
        dla: write what the Deep Learning Accelerator of a Jetson takes (see `build_graph`).
    """

    batch: int | None = None
    logits: bool = False
    opset: int = DEFAULT_OPSET
    dla: bool = False

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= 1024:
            raise InputError(f"batch is {self.batch}", hint="give 1 to 1024, or leave it dynamic")
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise InputError(
                f"opset is {self.opset}",
                hint=f"give {MIN_OPSET} to {MAX_OPSET}; TensorRT 8.5 reads up to 17",
            )

    @property
    def fixed_batch(self) -> int | None:
        """The batch size; None for a dynamic axis, which DLA does not take."""
        return 1 if self.dla and self.batch is None else self.batch


@dataclasses.dataclass(frozen=True)
class ExportCheck:
    """One comparison of the graph with PyTorch.

    Attributes:
        input: `random` or `images`.
        batch: its size.
        relative_error: largest difference over the largest answer.
    """

    input: str
    batch: int
    relative_error: float


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """What an export gave.

    Attributes:
        onnx: the file.
        onnx_sha256, checkpoint_sha256: of the file and of what it was made from.
        size_bytes: of the file.
        opset: its operator set.
        preprocess: as stamped.
        checks: every comparison with PyTorch.
    """

    onnx: str
    onnx_sha256: str
    checkpoint_sha256: str
    size_bytes: int
    opset: int
    preprocess: dict[str, Any]
    checks: tuple[ExportCheck, ...]

    @property
    def relative_error(self) -> float:
        """The largest of all checks."""
        return max(check.relative_error for check in self.checks)


def export_onnx(
    checkpoint: Checkpoint,
    spec: PreprocessSpec,
    settings: ExportSettings,
    out: Path,
    *,
    crops: AnyArray | None = None,
) -> ExportResult:
    """Write the graph, if it answers as PyTorch does.

    Args:
        checkpoint: the weights.
        spec: the preprocessing to stamp; ``spec.input`` chooses float32 or uint8 input.
        settings: batch, opset, softmax.
        out: the file to write.
        crops: (N, crop, crop, 3) uint8 real images to check on, besides random input; by default
            the checkpoint's own samples.

    Raises:
        ExportError: the relative error exceeds `TOLERANCE`, or the graph is malformed.
        InputError: ``spec.crop`` is not the network's input size, or DLA would not take the graph.
    """
    size = checkpoint.architecture.input_size
    if spec.crop != size:
        raise InputError(
            f"crop is {spec.crop}, {checkpoint.architecture.name} takes {size}×{size}",
            hint=f"give --crop {size}",
        )
    if settings.dla:
        _require_dla(checkpoint.architecture, spec)
    if crops is None and checkpoint.samples is not None:
        crops = checkpoint.samples.numpy()
    if crops is not None and crops.shape[1:] != (size, size, 3):
        crops = None  # samples that were prepared for another crop
    with atomic_path(out) as temporary:
        ir.save(build_graph(checkpoint, spec, settings), temporary)
        _check_well_formed(temporary, out)
        checks = tuple(_compare(checkpoint, spec, settings, temporary, crops))
        digest, size_bytes = sha256_file(temporary), temporary.stat().st_size
    return ExportResult(
        onnx=str(out),
        onnx_sha256=digest,
        checkpoint_sha256=checkpoint.sha256,
        size_bytes=size_bytes,
        opset=settings.opset,
        preprocess=spec.to_dict(),
        checks=checks,
    )


def build_graph(checkpoint: Checkpoint, spec: PreprocessSpec, settings: ExportSettings) -> ir.Model:
    """Return the ONNX graph of a checkpoint.

    The input is named `input`, the output `probabilities` or `logits`, the batch axis `batch`;
    nodes carry the module's names, so that tables and manifests can be read beside the layer
    table.

    For DLA the batch is fixed and the fully connected layers are convolutions over what they read:
    the first spans the 6×6 of the last feature map, which spares a Flatten before it and keeps its
    input at 256 channels (DLA takes 8192, a Flatten gives 9216); the others are 1×1. All that
    computes is thus one run of convolutions, ReLU, pooling and response normalization on (N, C, H,
    W). The step from (N, classes, 1, 1) to (N, classes) is what DLA cannot do: it is one Flatten at
    the very end, with the softmax behind it, so that this tail alone falls back to the GPU, and the
    answers have the shape that every other graph gives.
    """
    writer = _GraphWriter(checkpoint)
    batch: int | str = settings.fixed_batch or "batch"
    kind = ir.DataType.UINT8 if spec.input == "uint8" else ir.DataType.FLOAT
    source = ir.Value(
        name="input", type=ir.TensorType(kind), shape=ir.Shape((batch, *spec.input_shape))
    )
    value = writer.normalize(source, spec) if spec.input == "uint8" else source
    architecture = checkpoint.architecture
    for layer in _dla_layers(architecture) if settings.dla else architecture.layers():
        if layer.op != "dropout":  # identity outside of training
            value = writer.add(layer, value)
    if not settings.logits:
        value = writer.node("Softmax", "softmax", [value], {"axis": 1})
    value.name = "logits" if settings.logits else "probabilities"
    value.type = ir.TensorType(ir.DataType.FLOAT)
    value.shape = ir.Shape((batch, architecture.classes))
    opsets = {"": settings.opset}
    graph = ir.Graph(
        [source], [value], nodes=writer.nodes, initializers=writer.initializers,
        opset_imports=opsets, name=architecture.name,
    )  # fmt: skip
    ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", settings.opset)])
    return ir.Model(
        graph,
        ir_version=ir_version,
        producer_name="alexnet-edge",
        metadata_props=stamp_metadata(
            arch=architecture.name,
            checkpoint_sha256=checkpoint.sha256,
            classes=checkpoint.classes,
            preprocess=spec,
        ),
    )


def _dla_layers(architecture: Architecture) -> Iterator[Layer]:
    """Yield the layers with each linear one as a convolution, and the Flatten last."""
    tail: list[Layer] = []
    side = 1
    for described in architecture.shapes():
        layer = described.layer
        if layer.op == "flatten":
            tail = [layer]
            side = described.input[1]
        elif layer.op == "linear":
            yield dataclasses.replace(layer, op="conv", kernel=side)
            side = 1
        else:
            yield layer
    yield from tail


def _require_dla(architecture: Architecture, spec: PreprocessSpec) -> None:
    if spec.input == "uint8":
        raise InputError(
            "DLA takes FP16 and INT8 images, channels first; raw uint8 frames would be cast, "
            "transposed and normalized on the GPU, which --dla is to leave alone",
            hint="leave --input uint8 out; frames are then prepared on the CPU",
        )
    for layer in architecture.layers():
        if layer.out > _DLA_CHANNELS:
            raise InputError(
                f"{layer.name} has {layer.out} channels, DLA takes {_DLA_CHANNELS}",
                hint="export without --dla, or train a narrower network",
            )


class _GraphWriter:
    """Collects nodes and initializers in execution order."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._state_dict = checkpoint.state_dict
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def node(
        self, op: str, name: str, inputs: Sequence[ir.Value], attributes: dict[str, Any]
    ) -> ir.Value:
        """Append a node; its one output is named as the node."""
        node = ir.node(op, inputs, attributes, name=name)
        node.outputs[0].name = f"{name}.out"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: AnyArray) -> ir.Value:
        """Add an initializer."""
        value = constant(name, array)
        self.initializers.append(value)
        return value

    def normalize(self, frames: ir.Value, spec: PreprocessSpec) -> ir.Value:
        """Turn NHWC uint8 frames into normalized NCHW float32."""
        scale, shift = spec.affine
        value = self.node("Cast", "preprocess.cast", [frames], {"to": ir.DataType.FLOAT})
        value = self.node("Transpose", "preprocess.layout", [value], {"perm": [0, 3, 1, 2]})
        factor = self.constant("preprocess.scale", scale[None])
        value = self.node("Mul", "preprocess.mul", [value, factor], {})
        offset = self.constant("preprocess.shift", shift[None])
        return self.node("Add", "preprocess.add", [value, offset], {})

    def add(self, layer: Layer, value: ir.Value) -> ir.Value:
        """Append one layer of the architecture."""
        window = {
            "kernel_shape": [layer.kernel] * 2,
            "strides": [layer.stride] * 2,
            "pads": [layer.padding] * 4,
        }
        if layer.op == "conv":
            inputs = [value, *self._parameters(layer)]
            return self.node("Conv", layer.name, inputs, {**window, "group": layer.groups})
        if layer.op == "linear":
            return self.node("Gemm", layer.name, [value, *self._parameters(layer)], {"transB": 1})
        if layer.op == "maxpool":
            return self.node("MaxPool", layer.name, [value], window)
        if layer.op == "lrn":
            attributes = {
                "size": layer.size, "alpha": LRN_ALPHA, "beta": LRN_BETA, "bias": LRN_BIAS,
            }  # fmt: skip
            return self.node("LRN", layer.name, [value], attributes)
        operator = {"relu": "Relu", "flatten": "Flatten"}[layer.op]
        return self.node(
            operator, layer.name, [value], {"axis": 1} if layer.op == "flatten" else {}
        )

    def _parameters(self, layer: Layer) -> list[ir.Value]:
        weight = self._state_dict[f"{layer.name}.weight"].numpy()
        if layer.op == "conv":  # a linear layer's rows run over channels, height and width
            weight = weight.reshape(layer.out, -1, layer.kernel, layer.kernel)
        bias = self._state_dict[f"{layer.name}.bias"].numpy()
        return [
            self.constant(f"{layer.name}.weight", weight),
            self.constant(f"{layer.name}.bias", bias),
        ]


def _check_well_formed(path: Path, out: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"{out}: the graph is malformed ({error})", hint="report this with the checkpoint"
        ) from error


def _compare(
    checkpoint: Checkpoint,
    spec: PreprocessSpec,
    settings: ExportSettings,
    path: Path,
    crops: AnyArray | None,
) -> Iterator[ExportCheck]:
    torch = import_torch("checking the export")
    module = build_module(checkpoint.architecture).eval()
    module.load_state_dict(dict(checkpoint.state_dict))
    session = create_session(_with_logits(path), RuntimeOptions())
    rng = np.random.default_rng(0)
    fixed = settings.fixed_batch
    batches = _DYNAMIC_CHECK_BATCHES if fixed is None else (fixed,)
    for size in batches:
        noise = rng.integers(0, 256, (size, spec.crop, spec.crop, 3), np.uint8)
        inputs = {"random": noise}
        if crops is not None and len(crops):
            inputs["images"] = np.resize(crops, (size, *crops.shape[1:]))
        for kind, pixels in inputs.items():
            floats = torch.from_numpy(spec.with_input("float32").to_input(list(pixels)))
            with torch.inference_mode():
                logits = module(floats)
                expected = [logits] if settings.logits else [logits.softmax(1), logits]
            found = session.run(None, {"input": spec.to_input(list(pixels))})
            error = float(np.max([*map(_relative_error, found, expected)]))
            if not error <= TOLERANCE:  # NaN fails too
                raise ExportError(
                    f"the graph differs from PyTorch by {error:.2e} relative on {kind} input of "
                    f"batch {size}; at most {TOLERANCE:.0e} is allowed",
                    hint="nothing was written; check the torch and onnxruntime versions",
                )
            yield ExportCheck(kind, size, error)


def _with_logits(path: Path) -> bytes:
    """Return the graph with the softmax's input as a second output.

    A network that is sure of its answer gives 0 and 1 whatever its weights: its probabilities
    alone would hide an error.
    """
    model = onnx.load(path)
    last = model.graph.node[-1]
    if last.op_type == "Softmax":
        kind = onnx.TensorProto.FLOAT
        model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], kind, None))
    serialized: bytes = model.SerializeToString()
    return serialized


def _relative_error(found: AnyArray, expected: Any) -> float:
    reference = expected.numpy()
    return float(np.abs(found - reference).max() / np.abs(reference).max())
