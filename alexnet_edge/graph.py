"""What an ONNX file says of itself, and what an export stamps into it.

Files that other tools made are read too; what they do not say (preprocessing, classes) is None
here, and must then be given by options.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.checker
import onnx.helper
import onnx.numpy_helper
from onnx.external_data_helper import uses_external_data

from alexnet_edge.artifacts import require_file, sha256_file
from alexnet_edge.bare import open_weight, read_bare, read_weights
from alexnet_edge.errors import GraphError
from alexnet_edge.preprocess import AnyArray, PreprocessSpec
from alexnet_edge.results import TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

STAMP = "alexnet_edge."
"""Prefix of our keys in an ONNX file's metadata."""

_EXPORT_HINT = "make one with: alexnet-edge export alexnet.pt --out alexnet.onnx"


@dataclasses.dataclass(frozen=True)
class GraphInfo:
    """An ONNX file, described.

    Attributes:
        path: the file.
        sha256: of the whole file.
        weights_sha256: of the initializers, whatever their order.
        structure_sha256: of nodes, attributes, inputs and outputs.
        opset: version of the default operator set.
        input, output: the image batch, and the answers (N, classes).
        output_kind: `probabilities` where a softmax comes last, else `logits`.
        quantized: whether it holds Q/DQ nodes or quantized operators.
        preprocess, classes, arch, checkpoint_sha256: as stamped; None in other tools' files.
    """

    path: Path
    sha256: str
    weights_sha256: str
    structure_sha256: str
    opset: int
    input: TensorSpec
    output: TensorSpec
    output_kind: str
    quantized: bool
    preprocess: PreprocessSpec | None = None
    classes: tuple[str, ...] | None = None
    arch: str | None = None
    checkpoint_sha256: str | None = None


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        GraphError: it is missing, truncated or not ONNX.
    """
    require_file(path, hint=_EXPORT_HINT)
    with _naming(path):
        model = onnx.load(path)
        _require_text(model)
        onnx.checker.check_model(_without_weights(model))
    return model


def load_bare(path: Path) -> onnx.ModelProto:
    """Read an ONNX file without its larger weights (see `alexnet_edge.bare`).

    Raises:
        GraphError: it is missing, truncated or not ONNX.
    """
    require_file(path, hint=_EXPORT_HINT)
    with _naming(path):
        model = read_bare(path)
        _require_text(model)
        onnx.checker.check_model(_without_weights(model))
    return model


def weights_folder(path: Path) -> Path:
    """Return where the external data of a bare model lies: beside the file that a link leads to."""
    return path.resolve().parent


def load_weights(model: onnx.ModelProto, path: Path) -> dict[str, AnyArray]:
    """Read the weights that `load_bare` left in the file, by name.

    Raises:
        GraphError: the bytes of one do not fill its shape.
    """
    with _naming(path):
        return read_weights(model, weights_folder(path))


def _require_text(message: Any) -> None:
    """Refuse strings that are no UTF-8: protobuf gives them as bytes, which fail far from here."""
    for field, value in message.ListFields():
        alone = isinstance(value, str | bytes) or hasattr(value, "ListFields")
        values = [value] if alone else value
        if field.type == field.TYPE_MESSAGE:
            for inner in values:
                _require_text(inner)
        elif field.type == field.TYPE_STRING and not all(isinstance(text, str) for text in values):
            raise ValueError(f"{field.full_name} is no UTF-8 text")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file is at fault."""
    try:
        yield
    except Exception as error:  # protobuf's and onnx's errors share no base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise GraphError(
            f"{path}: is not a valid ONNX model ({reason})",
            hint=f"it may be truncated; {_EXPORT_HINT}",
        ) from error


def read_graph(path: Path) -> GraphInfo:
    """Describe an ONNX file.

    Raises:
        GraphError: it is not ONNX, or does not map one image batch to one row of answers each.
    """
    return describe_model(load_onnx(path), path)


def describe_model(model: onnx.ModelProto, path: Path) -> GraphInfo:
    """Describe a model that was read from ``path``.

    Raises:
        GraphError: as `read_graph`.
    """
    return hash_model(outline_model(model, path), model)


def hash_model(graph: GraphInfo, model: onnx.ModelProto) -> GraphInfo:
    """Return the outline of a model, with its hashes.

    Args:
        graph: as `outline_model` gave it.
        model: the same model, whole or bare.

    Raises:
        GraphError: the bytes of a weight do not fill its shape.
    """
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        whole = pool.submit(sha256_file, graph.path)
        weights = pool.submit(_hash_weights, model, graph.path)
        return dataclasses.replace(
            graph,
            sha256=whole.result(),
            weights_sha256=weights.result(),
            structure_sha256=_hash_structure(model),
        )


def outline_model(model: onnx.ModelProto, path: Path) -> GraphInfo:
    """Describe a model as `describe_model` does, but for its hashes, which take longest.

    Raises:
        GraphError: as `read_graph`.
    """
    stamp = {
        entry.key.removeprefix(STAMP): entry.value
        for entry in model.metadata_props
        if entry.key.startswith(STAMP)
    }
    operators = {node.op_type for node in model.graph.node}
    last = {name: node.op_type for node in model.graph.node for name in node.output}
    source, sink = _single_input(model, path), _single_output(model, path)
    stamped = _read_stamp(stamp, path)
    classes, outputs = stamped.get("classes"), sink.shape[1]
    if classes is not None and outputs not in {None, len(classes)}:
        raise GraphError(
            f"{path}: names {len(classes)} classes, and has {outputs} outputs", hint=_EXPORT_HINT
        )
    return GraphInfo(
        path=path,
        sha256="",
        weights_sha256="",
        structure_sha256="",
        opset=opset_of(model),
        input=source,
        output=sink,
        output_kind="probabilities" if last.get(sink.name) == "Softmax" else "logits",
        quantized=bool(
            operators & {"QuantizeLinear", "QLinearConv", "QGemm", "MatMulInteger", "MatMulNBits"}
        ),
        **stamped,
    )


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the default operator set."""
    return next(
        (entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 1
    )


def constant(name: str, array: AnyArray) -> ir.Value:
    """Return an initializer for a graph of onnx-ir."""
    import onnx_ir as ir  # takes longer to import than a file to read

    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name,
        const_value=tensor,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(array.shape),
    )


def stamp_metadata(
    *,
    arch: str,
    checkpoint_sha256: str,
    classes: tuple[str, ...] | None,
    preprocess: PreprocessSpec,
) -> dict[str, str]:
    """Return the metadata entries that `read_graph` reads back."""
    entries = {
        "arch": arch,
        "checkpoint_sha256": checkpoint_sha256,
        "preprocess": json.dumps(preprocess.to_dict()),
    }
    if classes is not None:
        entries["classes"] = json.dumps(list(classes))
    return {STAMP + key: value for key, value in entries.items()}


def _read_stamp(stamp: dict[str, str], path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "arch": stamp.get("arch"),
        "checkpoint_sha256": stamp.get("checkpoint_sha256"),
    }
    try:
        if "preprocess" in stamp:
            fields["preprocess"] = PreprocessSpec.from_dict(
                json.loads(stamp["preprocess"]), source=str(path)
            )
        if "classes" in stamp:
            fields["classes"] = tuple(str(name) for name in json.loads(stamp["classes"]))
    except (ValueError, TypeError) as error:
        raise GraphError(
            f"{path}: its {STAMP}* metadata is damaged ({error})", hint=_EXPORT_HINT
        ) from error
    return fields


def _single_input(model: onnx.ModelProto, path: Path) -> TensorSpec:
    # Before IR version 4 the initializers were listed among the inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise GraphError(
            f"{path}: has {len(inputs)} inputs ({', '.join(value.name for value in inputs)})",
            hint="a classifier of images with one input is expected",
        )
    spec = _tensor_spec(inputs[0], path)
    if len(spec.shape) != 4 or None in spec.shape[1:] or 3 not in (spec.shape[1], spec.shape[3]):
        raise GraphError(
            f"{path}: its input is {spec}",
            hint="N×3×H×W float32 or N×H×W×3 uint8 with fixed H and W is expected",
        )
    return spec


def _single_output(model: onnx.ModelProto, path: Path) -> TensorSpec:
    specs = [_tensor_spec(value, path) for value in model.graph.output]
    if len(specs) != 1 or len(specs[0].shape) != 2:
        raise GraphError(
            f"{path}: its outputs are {'; '.join(map(str, specs))}",
            hint="one output of N×classes is expected",
        )
    return specs[0]


def _tensor_spec(value: onnx.ValueInfoProto, path: Path) -> TensorSpec:
    tensor = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    except KeyError:  # a sequence, a map, or a type that this onnx does not know
        raise GraphError(
            f"{path}: '{value.name}' is no tensor of a known type",
            hint="a classifier of one batch of images is expected",
        ) from None
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
        for axis in tensor.shape.dim
    )
    return TensorSpec(value.name, str(dtype), shape)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its weights as inputs: the checker copies what it sees."""
    skeleton = onnx.ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
    )
    graph = skeleton.graph
    graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, field).extend(getattr(model.graph, field))
    listed = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        inside = not uses_external_data(tensor) and len(tensor.dims) < 2
        if inside or tensor.data_type == onnx.TensorProto.STRING:
            graph.initializer.append(tensor)
            continue
        if tensor.name not in listed:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return skeleton


def _hash_weights(model: onnx.ModelProto, path: Path) -> str:
    digest = hashlib.sha256()
    with _naming(path):
        for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
            digest.update(f"{tensor.name}|{tensor.data_type}|{list(tensor.dims)}|".encode())
            if uses_external_data(tensor):
                with open_weight(tensor, weights_folder(path)) as view:
                    digest.update(view)
            else:
                array = onnx.numpy_helper.to_array(tensor)
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _hash_structure(model: onnx.ModelProto) -> str:
    digest = hashlib.sha256(str(opset_of(model)).encode())
    for message in (*model.graph.node, *model.graph.input, *model.graph.output):
        digest.update(message.SerializeToString(deterministic=True))
    return digest.hexdigest()
