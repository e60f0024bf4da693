"""The pass that puts 4-bit weights into a graph, in both dialects."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from alexnet_edge.errors import BuildError, GraphError
from alexnet_edge.quantize.gptq import Grid, RoundedRows, round_nearest
from alexnet_edge.quantize.int4 import scale_search
from alexnet_edge.quantize.int4_graph import fully_connected, insert_int4, require_blocks
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.scales import CPU, TENSORRT

EITHER = pytest.mark.parametrize("dialect", [CPU, TENSORRT], ids=["cpu", "tensorrt"])
BODIES = {
    "gemm": "y = Gemm<transB=1>(x, w, b)",
    "gemm turned": "y = Gemm(x, v, b)",
    "gemm with a row of biases": "y = Gemm<transB=1>(x, w, c)",
    "gemm with one bias": "y = Gemm<transB=1>(x, w, d)",
    "gemm without a bias": "y = Gemm<transB=1>(x, w)",
    "matmul": "y = MatMul(x, v)",
    "matmul and add": "m = MatMul(x, v) y = Add(m, b)",
    "two layers": "g = Gemm<transB=1>(x, w, b) r = Relu(g) y = Gemm<transB=1>(r, u, e)",
}


def constants() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    weight = rng.normal(0, 0.1, (64, 128)).astype(np.float32)
    bias = rng.normal(0, 0.1, 64).astype(np.float32)
    return {
        "w": weight, "v": np.ascontiguousarray(weight.T), "b": bias, "c": bias[None],
        "d": bias[:1], "u": rng.normal(0, 0.1, (10, 64)).astype(np.float32), "e": bias[:10],
    }  # fmt: skip


def parse(body: str, opset: int = 17) -> onnx.ModelProto:
    header = f'<ir_version: 8, opset_import: ["": {opset}]> g (float[N,128] x) => (float[N,M] y) '
    model = onnx.parser.parse_model(f"{header}{{ {body} }}")
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name)
        for name, array in constants().items()
        if name in used
    )
    return model


def round_layers(model: ir.Model, path, block=32, *, signed=False) -> dict[str, RoundedRows]:
    found = {}
    for layer in fully_connected(model, path):
        weight = layer.weight.const_value.numpy()
        rows = weight if layer.axis == 0 else np.ascontiguousarray(weight.T)
        grid = Grid(-8, 7, block)
        search = scale_search("nearest", grid, signed=signed)
        found[layer.name] = round_nearest(rows, grid, search)
    return found


def run(model: onnx.ModelProto, given: np.ndarray) -> np.ndarray:
    settings = onnxruntime.SessionOptions()
    # Else it makes a MatMulNBits, which rounds its input, of what is written for TensorRT too.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    return session.run(None, {"x": given})[0]


@EITHER
@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_answers_are_those_of_the_rounded_weights(tmp_path, body, dialect):
    given = np.random.default_rng(1).normal(0, 1, (5, 128)).astype(np.float32)
    expected = parse(body)
    model = prepare(parse(body), tmp_path)
    weights = round_layers(model, tmp_path, signed=dialect == CPU)
    for stored in (item for item in expected.graph.initializer if item.name in {"w", "v", "u"}):
        rounded = next(
            item.weights()
            for item in weights.values()
            if sorted(item.integers.shape) == sorted(stored.dims)
        )
        turned = rounded if list(rounded.shape) == list(stored.dims) else rounded.T
        stored.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(turned), stored.name))
    insert_int4(model, weights, dialect, tmp_path)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    found, wanted = run(proto, given), run(expected, given)
    # On the CPU the operator rounds its input to 8 bits by itself.
    off = np.linalg.norm(found - wanted) / np.linalg.norm(wanted)
    assert off < (0.02 if dialect == CPU else 1e-5)


@EITHER
def test_only_the_layers_that_are_given_change(tmp_path, dialect):
    model = prepare(parse(BODIES["two layers"]), tmp_path)
    names = [layer.name for layer in fully_connected(model, tmp_path)]
    weights = round_layers(model, tmp_path)
    insert_int4(model, {names[1]: weights[names[1]]}, dialect, tmp_path)
    kept = [layer.name for layer in fully_connected(model, tmp_path)]
    assert kept == names[:1]


@EITHER
def test_float_weights_are_gone(tmp_path, dialect):
    model = prepare(parse(BODIES["two layers"]), tmp_path)
    insert_int4(model, round_layers(model, tmp_path), dialect, tmp_path)
    assert not {"w", "u"} & set(model.graph.initializers)
    stored = sum(tensor.ByteSize() for tensor in ir.to_proto(model).graph.initializer)
    assert stored < (64 * 128 + 640) * 4 / 3


def test_tensorrt_gets_int4_in_blocks_at_opset_21(tmp_path):
    model = prepare(parse(BODIES["gemm turned"], opset=13), tmp_path)
    insert_int4(model, round_layers(model, tmp_path), TENSORRT, tmp_path)
    proto = ir.to_proto(model)
    assert proto.opset_import[0].version == 21
    assert proto.ir_version >= 10
    node = next(node for node in proto.graph.node if node.op_type == "DequantizeLinear")
    stored = {tensor.name: tensor for tensor in proto.graph.initializer}
    integers, scales, zeros = (stored[name] for name in node.input)
    assert integers.data_type == zeros.data_type == onnx.TensorProto.INT4
    assert list(integers.dims) == [128, 64]
    assert list(scales.dims) == list(zeros.dims) == [4, 64]
    assert {item.name: item.i for item in node.attribute} == {"axis": 0, "block_size": 32}
    assert (onnx.numpy_helper.to_array(scales) > 0).all()


def test_onnx_runtime_gets_its_operator_under_the_layer_s_name(tmp_path):
    model = prepare(parse(BODIES["gemm"]), tmp_path)
    name = fully_connected(model, tmp_path)[0].name
    insert_int4(model, round_layers(model, tmp_path), CPU, tmp_path)
    (node,) = ir.to_proto(model).graph.node
    assert (node.op_type, node.domain, node.name) == ("MatMulNBits", "com.microsoft", name)
    assert node.output[0] == "y"


def test_a_block_that_is_short_is_for_the_cpu_alone(tmp_path):
    given = np.random.default_rng(1).normal(0, 1, (5, 128)).astype(np.float32)
    model = prepare(parse(BODIES["two layers"]), tmp_path)
    layers = fully_connected(model, tmp_path)
    weights = round_layers(model, tmp_path, block=128)
    require_blocks(layers, 128, CPU)
    with pytest.raises(BuildError, match="has 64 inputs, which are no whole blocks of 128") as it:
        require_blocks(layers, 128, TENSORRT)
    assert it.value.hint == "give --int4-block 32 or 64"
    insert_int4(model, weights, CPU, tmp_path)
    assert np.isfinite(run(ir.to_proto(model), given)).all()


def test_a_graph_without_such_layers_is_refused(tmp_path):
    header = '<ir_version: 8, opset_import: ["": 17]> g (float[N,3,8,8] x) => (float y) '
    model = onnx.parser.parse_model(header + "{ y = Conv(x, k) }")
    kernel = np.zeros((4, 3, 3, 3), np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "k"))
    with pytest.raises(GraphError, match="no fully connected layer"):
        fully_connected(prepare(model, tmp_path), tmp_path)


def test_an_operator_that_means_something_else_at_opset_21_is_named(tmp_path):
    body = "g = Gemm<transB=1>(x, w, b) y = ReduceMean<axes=[1]>(g)"
    model = prepare(parse(body), tmp_path)
    with pytest.raises(GraphError, match=r"INT4 in blocks needs opset 21.*ReduceMean"):
        insert_int4(model, round_layers(model, tmp_path), TENSORRT, tmp_path)
