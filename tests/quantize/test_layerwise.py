"""The network layer by layer: every setting answers as the graph that it stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.errors import GraphError, TableError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.graph import load_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.layerwise import FLOAT, Layerwise
from alexnet_edge.quantize.qdq import QdqOptions, insert_qdq
from alexnet_edge.quantize.scales import CPU, TENSORRT, Dialect, round_weight
from alexnet_edge.quantize.table import Range
from tests.conftest import DIGITS_SPEC
from tests.foreign import SPEC, write_foreign

CPU7, CPU4 = Dialect("cpu", weight_bits=7), Dialect("cpu", weight_bits=4)
EVERY = pytest.mark.parametrize("dialect", [TENSORRT, CPU, CPU7], ids=["tensorrt", "cpu", "cpu7"])
EITHER = pytest.mark.parametrize("dialect", [TENSORRT, CPU], ids=["tensorrt", "cpu"])
SAME = 0.02


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, images, the ranges of each method, and the logits of its file."""

    path: Path
    batch: np.ndarray
    ranges: Mapping[str, Mapping[str, Range]]
    logits: np.ndarray

    def quantized(self, method: str, dialect: Dialect, **options) -> np.ndarray:
        """Return the logits of the graph with Q and DQ."""
        model = prepare(load_onnx(self.path), self.path)
        insert_qdq(model, self.ranges[method], dialect, self.path, QdqOptions(**options))
        return run(ir.to_proto(model), self.batch)

    def simulated(self, method: str, dialect: Dialect, **options) -> np.ndarray:
        network = Layerwise(self.path, dialect)
        settings = network.settings(self.ranges[method], **options)
        return network.finish(0, network.begin(self.batch), settings)


def expose(model: onnx.ModelProto, tensors: list[str]) -> None:
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, 1, None) for n in tensors)


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    """Return the logits of a graph as it is written, nothing fused."""
    expose(model, [node.input[0] for node in model.graph.node if node.op_type == "Softmax"])
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings)
    given = session.get_inputs()[0]
    size = given.shape[0] if isinstance(given.shape[0], int) else len(batch)
    parts = [batch[start : start + size] for start in range(0, len(batch), size)]
    return np.concatenate([session.run(None, {given.name: part})[-1] for part in parts])


def parse(graph: str, **constants: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {graph}')
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    model.graph.initializer.extend(tensors)
    return model


def digits(spec: PreprocessSpec, count: int) -> np.ndarray:
    reader = ImageReader(open_images("digits:val").sample(count), spec, batch_size=count)
    return next(iter(reader)).tensor


def mismatch(found: np.ndarray, expected: np.ndarray, reference: np.ndarray) -> float:
    """Return how far answers are from the expected, as a share of what those changed.

    The median of the images: in a few, a value lies halfway between two steps, and the last digit
    of a sum decides.
    """
    off, changed = (np.linalg.norm(x - expected, axis=1) for x in (found, reference))
    return float(np.median(off / changed))


def drop_biases(path: Path) -> None:
    """Set all biases to 0, which INT32 holds exactly, so that no sum differs by a digit."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 1 and tensor.data_type == onnx.TensorProto.FLOAT:
            zeros = np.zeros(tensor.dims, np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(zeros, tensor.name))
    onnx.save(model, path)


@pytest.fixture(scope="module", params=["ours", "uint8", "foreign"])
def case(request, tiny_checkpoint, tiny_onnx, tmp_path_factory) -> Case:
    """Our export; that with `uint8` input; or a graph of a fixed batch, opset 9, LRN and groups."""
    path = tmp_path_factory.mktemp("case") / f"{request.param}.onnx"
    spec = {"ours": DIGITS_SPEC, "uint8": DIGITS_SPEC.with_input("uint8"), "foreign": SPEC}[
        request.param
    ]
    if request.param == "ours":
        path.write_bytes(tiny_onnx.read_bytes())
    elif request.param == "uint8":
        export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), path)
    else:
        write_foreign(path)
    drop_biases(path)
    images, batch = open_images("digits:val").sample(8), digits(spec, 8)
    table = calibrate(path, images, CalibrationSettings(), preprocess=spec)
    ranges = {method: table.ranges(method) for method in table.methods}
    return Case(path, batch, ranges, run(onnx.load(path), batch))


@pytest.mark.parametrize("options", [{}, {"logits": True}, {"batch": 3}, {"input": "uint8"}])
def test_float_settings_give_the_logits_of_the_file(tiny_checkpoint, tmp_path, options):
    path, kept = tmp_path / "net.onnx", {k: v for k, v in options.items() if k != "input"}
    spec = DIGITS_SPEC.with_input(options.get("input", "float32"))
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(**kept), path)
    network, batch = Layerwise(path, CPU), digits(spec, 6)
    found = network.finish(0, network.begin(batch), [FLOAT] * 8)
    np.testing.assert_allclose(found, run(onnx.load(path), batch), atol=1e-4)


def test_float_settings_give_the_logits_of_a_foreign_file(tmp_path):
    path, batch = write_foreign(tmp_path / "zoo.onnx"), digits(SPEC, 4)
    network = Layerwise(path, TENSORRT)
    found = network.finish(0, network.begin(batch), [FLOAT] * 8)
    np.testing.assert_allclose(found, run(onnx.load(path), batch), atol=1e-4)


@EVERY
@pytest.mark.parametrize(
    ("method", "spared"),
    [
        ("minmax", []),
        ("percentile-99.9", []),
        ("percentile-99.9", [0]),
        ("percentile-99.9", [4]),
        ("minmax", [1, 2, 5, 7]),
        ("mse", list(range(7))),
    ],
    ids=str,
)
def test_settings_answer_as_the_graph_with_q_and_dq(case, method, spared, dialect):
    names = frozenset(Layerwise(case.path, dialect).layers[index] for index in spared)
    expected = case.quantized(method, dialect, spared=names)
    found = case.simulated(method, dialect, spared=names)
    assert mismatch(found, expected, case.logits) < SAME


@pytest.mark.parametrize("dialect", [TENSORRT, CPU, CPU7, CPU4], ids=str)
def test_weights_of_least_error_are_those_of_the_graph(case, dialect):
    expected = case.quantized("minmax", dialect, weight_ranges="mse")
    found = case.simulated("minmax", dialect, weights="mse")
    assert mismatch(found, expected, case.logits) < SAME


def test_weights_that_are_clipped_are_rounded_as_a_q_of_the_graph_rounds_them():
    weight, scales = np.float32([[-2, -1.005, 0.5, 2]]), np.float32([1 / 127])
    body = "(float[1,4] w) => (int8[1,4] q) { q = QuantizeLinear <axis=0> (w, s, z) }"
    model = parse(body, s=scales, z=np.zeros(1, np.int8))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {"w": weight})[0]
    assert np.array_equal(round_weight(weight, scales, 0, TENSORRT), expected)


@EITHER
def test_corrections_are_added_to_the_biases_of_layers_that_are_quantized(case, dialect):
    network, rng = Layerwise(case.path, dialect), np.random.default_rng(0)
    corrections, activations = {}, network.begin(case.batch)
    for index, name in enumerate(network.layers):
        activations, means = network.step(index, activations, FLOAT)
        corrections[name] = rng.normal(0, 0.2, means[0].shape[1]).astype(np.float32)
    spared = frozenset(network.layers[2:3])
    plain = case.quantized("minmax", dialect, spared=spared)
    expected = case.quantized("minmax", dialect, spared=spared, bias_corrections=corrections)
    found = case.simulated("minmax", dialect, spared=spared, corrections=corrections)
    assert mismatch(found, expected, plain) < 10 * SAME, "INT32 rounds these biases"


@EITHER
def test_a_run_that_begins_in_the_middle_answers_as_the_whole(case, dialect):
    network = Layerwise(case.path, dialect)
    settings = network.settings(case.ranges["mse"], spared=frozenset(network.layers[3:4]))
    activations = network.begin(case.batch)
    whole = network.finish(0, activations, settings)
    for index in range(7):
        activations, _ = network.step(index, activations, settings[index])
        assert np.array_equal(network.finish(index + 1, activations, settings), whole)


def test_a_step_gives_each_image_s_mean_of_the_layer_before_its_relu(tiny_onnx):
    network, model, batch = Layerwise(tiny_onnx, CPU), onnx.load(tiny_onnx), digits(DIGITS_SPEC, 4)
    outputs = [node.output[0] for node in model.graph.node if node.name in network.layers]
    expose(model, outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    activations = network.begin(batch)
    for index, wanted in enumerate(session.run(outputs, {"input": batch})):
        activations, means = network.step(index, activations, FLOAT)
        expected = wanted.reshape(*wanted.shape[:2], -1).mean(axis=2)
        np.testing.assert_allclose(np.concatenate(means), expected, atol=1e-4)


def test_a_last_chunk_is_filled_up_to_a_fixed_batch(tiny_checkpoint, tmp_path):
    path, batch = tmp_path / "fixed.onnx", digits(DIGITS_SPEC, 5)
    export_onnx(load_checkpoint(tiny_checkpoint), DIGITS_SPEC, ExportSettings(batch=3), path)
    network = Layerwise(path, CPU)
    chunks = network.begin(batch)
    assert [len(chunk) for chunk in chunks] == [3, 3]
    logits = network.finish(0, chunks, [FLOAT] * 8)
    alone = Layerwise(path, CPU).finish(0, network.begin(batch[3:]), [FLOAT] * 8)
    assert np.array_equal(logits[3:], alone)
    assert np.array_equal(logits[5], logits[3]), "with images of the chunk itself"


def test_a_convolution_that_lrn_reads_has_a_range_of_its_own_on_the_cpu(tmp_path):
    path = write_foreign(tmp_path / "zoo.onnx")
    found = {dialect: Layerwise(path, dialect).results for dialect in (CPU, TENSORRT)}
    assert found == {CPU: ["conv1_2", "conv2_2", *[None] * 6], TENSORRT: [None] * 8}


def test_a_tensor_without_a_range_is_named(case):
    network = Layerwise(case.path, CPU)
    few = {k: v for k, v in case.ranges["minmax"].items() if k != network.activations[2]}
    with pytest.raises(TableError, match=f"no range for tensor '{network.activations[2]}'"):
        network.settings(few)


def write_small(path: Path, body: str, **weights: np.ndarray) -> Case:
    """Write a network from `x` (N, 3, 8, 8) to `y` (N, 4) in ONNX's text format."""
    graph = f"(float[N,3,8,8] x) => (float[N,4] y) {{ {body} }}"
    model = parse(graph, **{name: np.float32(array) for name, array in weights.items()})
    onnx.save(model, path)
    batch = np.random.default_rng(1).normal(0, 1, (16, 3, 8, 8)).astype(np.float32)
    names = ["x", *(name for node in model.graph.node for name in node.output)]
    ranges = {name: Range(4.0, -4.0, 4.0) for name in names}
    return Case(path, batch, {"minmax": ranges}, run(model, batch))


def weight(*shape: int) -> np.ndarray:
    deviation = np.prod(shape[1:]) ** -0.5
    return np.random.default_rng(sum(shape)).normal(0, deviation, shape)


CONVS = {"u": weight(6, 3, 1, 1), "v": weight(6, 6, 1, 1), "w": weight(6, 4)}
HEAD = " p = GlobalAveragePool(s) f = Flatten(p) y = Gemm(f, w)"
AROUND_ONE_LAYER = "a = Conv(x, u) r = Relu(a) b = Conv(r, v) s = Add(b, r)" + HEAD
SUMS = {"u": weight(192, 6) / 5, "p": np.ones(6), "v": weight(6, 4), "q": np.ones(4)}
BIASES_ADDED = (
    "f = Flatten(x) a = MatMul(f, u) s = Add(a, p) r = Relu(s) b = MatMul(r, v) y = Add(b, q)"
)


@EITHER
@pytest.mark.parametrize("spared", [[], [0], [1]], ids=str)
@pytest.mark.parametrize(
    ("body", "weights"),
    [(AROUND_ONE_LAYER, CONVS), (BIASES_ADDED, SUMS)],
    ids=["residual", "matmul-add"],
)
def test_other_chains_answer_as_their_graphs(tmp_path, body, weights, spared, dialect):
    case = write_small(tmp_path / "net.onnx", body, **weights)
    names = frozenset(Layerwise(case.path, dialect).layers[index] for index in spared)
    expected = case.quantized("minmax", dialect, spared=names)
    assert mismatch(case.simulated("minmax", dialect, spared=names), expected, case.logits) < SAME


@pytest.mark.parametrize(
    "body",
    [
        "a = Conv(x, u) b = Conv(a, v) c = Conv(b, v) s = Add(a, c)",
        "a = Conv(x, u) b = Conv(x, u) s = Add(a, b)",
    ],
    ids=["residual", "branches"],
)
def test_a_graph_that_is_no_chain_of_layers_is_refused(tmp_path, body):
    case = write_small(tmp_path / "net.onnx", body + HEAD, **CONVS)
    with pytest.raises(GraphError, match="depend") as refused:
        Layerwise(case.path, CPU)
    assert "--method" in refused.value.hint


@EITHER
@pytest.mark.parametrize("shape", [None, (), (1, 1), (4,), (1, 4)], ids=str)
def test_a_bias_can_be_corrected_where_each_channel_has_one(tmp_path, shape, dialect):
    bias = {} if shape is None else {"b": np.full(shape, 0.5)}
    body = f"f = Flatten(x) y = Gemm({', '.join(['f', 'w', *bias])})"
    case = write_small(tmp_path / "net.onnx", body, w=weight(192, 4), **bias)
    network, correction = Layerwise(case.path, dialect), np.float32([1, -2, 3, -4])
    assert network.has_bias(0) == (shape in {(4,), (1, 4)})
    corrections = {network.layers[0]: correction}
    plain = case.simulated("minmax", dialect)
    found = case.simulated("minmax", dialect, corrections=corrections)
    expected = case.quantized("minmax", dialect, bias_corrections=corrections)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(found, plain + network.has_bias(0) * correction, atol=1e-3)
