"""Layers that read no weights of zeros: the same sums, found in manifests, floors and rebuilt."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel

from alexnet_edge.bench.work import read_work
from alexnet_edge.dataset import ImageReader, open_images
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.engine.plan import plan_build
from alexnet_edge.engine.precision import Given
from alexnet_edge.engine.zero_skipping import skip_zeros
from alexnet_edge.errors import StaleArtifactError
from alexnet_edge.manifest import load_manifest
from alexnet_edge.parity.layers import LayerProbe, LayerTally
from alexnet_edge.parity.qdq import rebuild_qdq
from alexnet_edge.quantize import zeros
from alexnet_edge.quantize.choose import decide
from alexnet_edge.quantize.int4 import Int4Settings
from alexnet_edge.quantize.table import load_table
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.loader import open_engine
from alexnet_edge.runtimes.ort import create_session, session_options
from alexnet_edge.similarity import centred_logits
from tests.conftest import DIGITS_SPEC
from tests.needs import needs_blocks

INPUTS, OUTPUTS = 400, 48


def layer(kind, *, zero_point=0, dtype=np.uint8):
    """Return a Q/DQ graph of one layer, and its integers: weight (K, N), bias and scales."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (INPUTS, OUTPUTS)).astype(np.int8)
    bias = rng.integers(-100_000, 100_000, OUTPUTS).astype(np.int32)
    scales = rng.uniform(0.001, 0.01, OUTPUTS).astype(np.float32)
    step = np.float32(0.05)
    turned = kind == "gemm, transB"
    tensors = {
        "x.scale": step, "x.zero": np.array(zero_point, dtype),
        "w": np.ascontiguousarray(weight.T) if turned else weight,
        "w.scale": scales, "w.zero": np.zeros(OUTPUTS, np.int8),
        "b": bias, "b.scale": step * scales, "b.zero": np.zeros(OUTPUTS, np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x.scale", "x.zero"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "x.scale", "x.zero"], ["xd"], name="dq"),
        helper.make_node(
            "DequantizeLinear", ["w", "w.scale", "w.zero"], ["wd"], name="wdq",
            axis=0 if turned else 1,
        ),
    ]  # fmt: skip
    if kind == "matmul":
        del tensors["b"], tensors["b.scale"], tensors["b.zero"]
        bias = np.zeros_like(bias)
        nodes.append(helper.make_node("MatMul", ["xd", "wd"], ["y"], name="fc"))
    else:
        nodes += [
            helper.make_node(
                "DequantizeLinear", ["b", "b.scale", "b.zero"], ["bd"], name="bdq", axis=0
            ),
            helper.make_node("Gemm", ["xd", "wd", "bd"], ["y"], name="fc", transB=int(turned)),
        ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUTPUTS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto, (weight, bias, scales, step)


def rewrite(proto, names=("fc",), threads=2, hot=()):
    model = ir.from_proto(proto)
    done = skip_zeros(model, dict.fromkeys(names, hot), threads)
    changed = ir.to_proto(model)
    onnx.checker.check_model(changed)
    return changed, done


def run(proto, x, *, plain=False, outputs=None):
    settings = session_options(RuntimeOptions())
    if plain:
        settings.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    session = create_session(proto.SerializeToString(), RuntimeOptions(), settings)
    return session.run(outputs, {"x": x})[0]


def show_sums(proto):
    """Let the graph answer the branches' INT32 sums instead of what they stand for."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    chosen = next(node for node in proto.graph.node if node.op_type == "If")
    for attribute in chosen.attribute:
        branch = attribute.g
        scaled = next(node for node in branch.node if node.op_type == "DequantizeLinear")
        branch.output[0].name = scaled.input[0]
        branch.output[0].type.tensor_type.elem_type = TensorProto.INT32
        branch.node.remove(scaled)
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT32
    return proto


def values(batch, share, most=255):
    """Return floats that are whole steps, of which this share is not 0."""
    rng = np.random.default_rng(1)
    steps = rng.integers(1, most + 1, (batch, INPUTS)) * (rng.random((batch, INPUTS)) < share)
    return (steps * np.float32(0.05)).astype(np.float32), steps


CASES = {"sparse": (1, 0.2), "dense": (1, 1.0), "zeros": (1, 0.0), "several": (3, 0.2)}


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["gemm", "gemm, transB", "matmul"])
def test_both_branches_give_the_sums_of_all_products(kind, case, threads):
    proto, (weight, bias, scales, step) = layer(kind)
    changed, done = rewrite(proto, threads=threads)
    assert done == ("fc",)
    x, steps = values(*CASES[case])
    wanted = steps @ weight.astype(np.int64) + bias
    for _ in range(3):  # memory that is left undefined often holds zeros at first
        np.testing.assert_array_equal(run(show_sums(changed), x), wanted)
    found = run(changed, x)
    np.testing.assert_allclose(found, wanted * (step * scales), rtol=1e-6)
    np.testing.assert_allclose(found, run(proto, x, plain=True), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("case", "ran"), [("sparse", "few"), ("dense", "all"), ("zeros", "all"), ("several", "all")]
)
def test_weights_are_gathered_for_one_image_with_few_values(case, ran):
    changed, _ = rewrite(layer("gemm")[0])
    chosen = next(node for node in changed.graph.node if node.op_type == "If")
    changed.graph.output.append(
        helper.make_tensor_value_info(chosen.input[0], TensorProto.BOOL, [])
    )
    few = run(changed, values(*CASES[case])[0], outputs=[chosen.input[0]])
    assert few == (ran == "few")
    kinds = {
        attribute.name: [node.op_type for node in attribute.g.node]
        for attribute in chosen.attribute
    }
    assert kinds["then_branch"].count("Gather") == 2
    assert "Gather" not in kinds["else_branch"]


HOT = [tuple(range(128)), tuple(range(3, 300, 2)), tuple(range(INPUTS - 256, INPUTS))]


@needs_blocks
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("hot", HOT, ids=["a block", "one and a part", "the last"])
@pytest.mark.parametrize("kind", ["gemm, transB", "matmul"])
def test_hot_inputs_are_multiplied_beside_those_that_are_gathered(kind, hot, case, threads):
    proto, (weight, bias, scales, step) = layer(kind)
    changed, done = rewrite(proto, threads=threads, hot=hot)
    assert done == ("fc",)
    x, steps = values(*CASES[case], most=255 if case == "dense" else 254)
    hot_part = np.zeros_like(steps)
    hot_part[:, hot] = steps[:, hot]
    cold_sums = (steps - hot_part) @ weight.astype(np.int64) + bias
    found = run(changed, x)
    rounded = found / (step * scales) - cold_sums
    wanted = hot_part @ weight.astype(np.int64)
    worst = np.abs(rounded - wanted).max()
    if case == "dense":  # there are blocks with 255 or without 0: half a step for each input
        assert worst <= 0.5 * np.abs(weight[list(hot)].astype(int)).sum(axis=0).max()
    else:
        assert worst <= 4, "but for the rounding of floats: sums are millions"


@needs_blocks
def test_hot_and_cold_weights_are_each_stored_once():
    proto, (weight, *_) = layer("gemm")
    hot = tuple(range(256))
    changed, _ = rewrite(proto, hot=hot)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    (cold,) = (array for array in stored.values() if array.dtype == np.int8 and array.ndim == 2)
    np.testing.assert_array_equal(cold, weight[256:])
    (packed,) = (array for array in stored.values() if array.dtype == np.uint8 and array.ndim == 3)
    np.testing.assert_array_equal(packed.reshape(OUTPUTS, -1).astype(int) - 128, weight[:256].T)
    (product,) = (node for node in changed.graph.node if node.op_type == "MatMulNBits")
    assert product.name == "fc.hot.product"


@needs_blocks
@pytest.mark.parametrize(("count", "few"), [(1, True), (53, True), (54, False)])
def test_three_eighths_of_the_cold_inputs_are_not_few(count, few):
    hot = tuple(range(256))
    changed, _ = rewrite(layer("gemm")[0], hot=hot)
    (chosen,) = (node for node in changed.graph.node if node.op_type == "If")
    x = np.zeros((1, INPUTS), np.float32)
    x[0, : 256 + count] = 1
    changed.graph.output.append(
        helper.make_tensor_value_info(chosen.input[0], TensorProto.BOOL, [])
    )
    assert run(changed, x, outputs=[chosen.input[0]]) == few


@pytest.mark.parametrize("count", range(1, 8))
def test_parts_are_filled_up(count):
    proto, (weight, bias, *_) = layer("gemm")
    changed, _ = rewrite(proto, threads=3)
    x = np.zeros((1, INPUTS), np.float32)
    x[0, -count:] = np.float32(0.05) * np.arange(1, count + 1, dtype=np.float32)
    wanted = np.arange(1, count + 1) @ weight[-count:].astype(np.int64) + bias
    np.testing.assert_array_equal(run(show_sums(changed), x)[0], wanted)


@pytest.mark.parametrize(("count", "few"), [(1, True), (149, True), (150, False)])
def test_three_eighths_are_not_few(count, few):
    changed, _ = rewrite(layer("gemm")[0])
    (chosen,) = (node for node in changed.graph.node if node.op_type == "If")
    x = np.zeros((1, INPUTS), np.float32)
    x[0, :count] = 1
    changed.graph.output.append(
        helper.make_tensor_value_info(chosen.input[0], TensorProto.BOOL, [])
    )
    assert run(changed, x, outputs=[chosen.input[0]]) == few


def test_the_layer_keeps_its_name_and_its_result_and_has_its_weight_once():
    proto, (weight, *_) = layer("gemm, transB")
    changed, _ = rewrite(proto)
    (chosen,) = (node for node in changed.graph.node if node.name == "fc")
    assert (chosen.op_type, list(chosen.output)) == ("If", ["y"])
    stored = [numpy_helper.to_array(tensor) for tensor in changed.graph.initializer]
    matrices = [array for array in stored if array.ndim == 2]
    assert len(matrices) == 1
    np.testing.assert_array_equal(matrices[0], weight)
    assert not [tensor for node in changed.graph.node for a in node.attribute
                for tensor in a.g.initializer]  # fmt: skip
    assert "Gemm" not in {node.op_type for node in changed.graph.node}


@pytest.mark.parametrize(
    ("kind", "options", "names"),
    [
        ("gemm", {"zero_point": 3}, ("fc",)),
        ("gemm", {"dtype": np.int8}, ("fc",)),
        ("gemm", {}, ("another",)),
        ("gemm", {}, ()),
    ],
    ids=["zero point", "int8", "another", "none"],
)
def test_other_layers_are_left_alone(kind, options, names):
    proto, _ = layer(kind, **options)
    changed, done = rewrite(proto, names)
    assert done == ()
    assert [node.op_type for node in changed.graph.node] == [n.op_type for n in proto.graph.node]


def test_a_float_layer_is_left_alone(tiny_onnx):
    model = ir.from_proto(onnx.load(tiny_onnx))
    assert skip_zeros(model, {"classifier.1": ()}, 2) == ()
    assert "If" not in {node.op_type for node in model.graph}


FIRST = "classifier.1"


@pytest.fixture
def one_is_worth_it(monkeypatch):
    """The tiny network's layers are small; here the first fully connected one is large enough."""
    monkeypatch.setattr(zeros, "GATHER_COST", 1.0)  # so that none of its inputs is hot
    monkeypatch.setattr(zeros, "WORTH_BYTES", 270_000)  # more than the others have


@pytest.fixture
def all_are_worth_it(monkeypatch):
    """Every byte that is saved is."""
    monkeypatch.setattr(zeros, "GATHER_COST", 1.0)
    monkeypatch.setattr(zeros, "WORTH_BYTES", 1)


@pytest.fixture
def some_are_hot(monkeypatch):
    """Gathering costs so much that inputs which are not 0 in a fifth of the images are hot."""
    monkeypatch.setattr(zeros, "GATHER_COST", 5.0)
    monkeypatch.setattr(zeros, "WORTH_BYTES", 1)


def build(model, table, out, **settings):
    """Return an INT8 engine's file and manifest."""
    build_engine(model, out, BuildSettings("int8", **settings), table=load_table(table))
    return out, load_manifest(out)


def ops(manifest):
    return {layer.name: layer.op for layer in manifest.layers}


def digits(count):
    reader = ImageReader(open_images("digits:val").sample(count), DIGITS_SPEC, batch_size=count)
    return next(iter(reader)).tensor


def answers(engine, batch):
    """Return the centred logits, image by image and all in one batch."""
    with open_engine(engine) as opened:
        alone = np.concatenate([opened.infer(image[None]) for image in batch])
        return centred_logits(alone, probabilities=True), centred_logits(
            opened.infer(batch), probabilities=True
        )


@needs_blocks
def test_an_engine_skips_zeros_where_it_is_worth_it(
    tiny_onnx, tiny_table, tmp_path, one_is_worth_it
):
    _, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx")
    assert manifest.options["zero_skipping"] == [FIRST]
    assert ops(manifest)[FIRST] == "If"
    assert ops(manifest)["classifier.4"] == "MatMulNBits"
    assert {layer.precision for layer in manifest.layers} == {"int8"}


@needs_blocks
def test_an_engine_skips_no_zeros_where_it_is_not(tiny_onnx, tiny_table, tmp_path):
    _, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx")
    assert manifest.options["zero_skipping"] == []
    assert ops(manifest)[FIRST] == "MatMulNBits"


@needs_blocks
@pytest.mark.parametrize("which", ["one_is_worth_it", "all_are_worth_it", "some_are_hot"])
def test_an_engine_answers_as_the_graph_that_is_made_again(
    tiny_onnx, tiny_table, tmp_path, which, request
):
    request.getfixturevalue(which)
    engine, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx")
    rebuilt = rebuild_qdq(manifest, tiny_onnx, tiny_table)
    (gemm,) = (node for node in rebuilt.graph.node if node.name == FIRST)
    assert gemm.op_type == "Gemm"
    scales = next(t for t in rebuilt.graph.initializer if t.name == f"{FIRST}.weight.scale")
    assert list(scales.dims) == [512], "one for each output"
    batch = digits(12)
    settings = session_options(RuntimeOptions())
    settings.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    session = create_session(rebuilt.SerializeToString(), RuntimeOptions(), settings)
    wanted = centred_logits(session.run(None, {"input": batch})[0], probabilities=True)
    with open_engine(tiny_onnx) as opened:
        exact = centred_logits(opened.infer(batch), probabilities=True)
    noise = ((wanted - exact) ** 2).sum()
    for found in answers(engine, batch):
        # Values that lie halfway between two steps are rounded either way.
        assert ((found - wanted) ** 2).sum() < 0.15 * noise


@needs_blocks
def test_a_floor_counts_the_layer_once(tiny_onnx, tiny_table, tmp_path, one_is_worth_it):
    engine, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx")
    with open_engine(engine) as opened:
        work = read_work(opened.info)
        times = opened.profile(digits(1), runs=3, warmup=1)
    assert [layer.name for layer in work.layers] == [layer.name for layer in manifest.layers]
    (layer,) = (layer for layer in work.layers if layer.name == FIRST)
    assert (layer.precision, layer.macs) == ("int8", 512 * 1152)
    assert layer.weight_bytes == 512 * 1152 + 4 * 512 + 4 * 512, "weights, scales and biases"
    (timed,) = (one for one in times if one.name == FIRST)
    assert (timed.op, timed.mean_us > 0) == ("If", True)
    assert not [one for one in times if one.op in {"Gather", "MatMulInteger"}], "are within the If"


@needs_blocks
def test_a_floor_counts_hot_inputs_with_their_layer(tiny_onnx, tiny_table, tmp_path, some_are_hot):
    engine, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx")
    hot = [node for node in onnx.load(engine).graph.node if node.name == f"{FIRST}.hot.product"]
    assert len(hot) == 1, "the network has inputs that are seldom 0"
    with open_engine(engine) as opened:
        work = read_work(opened.info)
    assert [layer.name for layer in work.layers] == [layer.name for layer in manifest.layers]
    (layer,) = (layer for layer in work.layers if layer.name == FIRST)
    assert (layer.precision, layer.macs) == ("int8", 512 * 1152)
    (inputs,) = (attribute.i for attribute in hot[0].attribute if attribute.name == "K")
    scales = 4 * 512 * (1 + -(-inputs // 128))
    assert layer.weight_bytes == 512 * 1152 + scales + 4 * 512, "weights, scales and biases"


@needs_blocks
def test_layers_are_compared_through_it(tiny_onnx, tiny_table, tmp_path, one_is_worth_it):
    engine, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx")
    names = [layer.name for layer in manifest.layers]
    tally, batch = LayerTally(), digits(4)
    probes = [LayerProbe(onnx.load(path), names, "it") for path in (tiny_onnx, engine)]
    tally.add(*(probe.run(batch) for probe in probes))
    found = {layer.name: layer.sqnr_db for layer in tally.result()}
    assert list(found) == names
    assert found[FIRST] > 20


@needs_blocks
@pytest.mark.parametrize(
    ("settings", "op"),
    [
        ({"spared": (FIRST,)}, "Gemm"),
        ({"int4": Int4Settings(32, rounding="nearest")}, "MatMulNBits"),
        ({"optimize": "throughput"}, "QGemm"),
        ({"method": "minmax"}, "MatMulNBits"),
    ],
    ids=["spared", "4-bit", "throughput", "no evidence"],
)
def test_other_layers_and_other_aims_skip_none(
    tiny_onnx, tiny_table, tmp_path, all_are_worth_it, settings, op
):
    _, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx", **settings)
    assert FIRST not in manifest.options["zero_skipping"]
    assert ops(manifest)[FIRST] == op


@needs_blocks
def test_a_layer_behind_a_spared_one_skips_zeros_still(
    tiny_onnx, tiny_table, tmp_path, all_are_worth_it
):
    spared = ("features.10",)
    engine, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx", spared=spared)
    assert manifest.options["zero_skipping"] == ["classifier.1", "classifier.4", "classifier.6"]
    batch = digits(8)
    with open_engine(tiny_onnx) as opened:
        exact = centred_logits(opened.infer(batch), probabilities=True)
    for found in answers(engine, batch):
        assert ((found - exact) ** 2).sum() < 0.01 * (exact**2).sum()


@needs_blocks
def test_an_engine_of_another_choice_is_not_made_again(
    tiny_onnx, tiny_table, tmp_path, one_is_worth_it
):
    _, manifest = build(tiny_onnx, tiny_table, tmp_path / "engine.onnx")
    options = {**manifest.options, "zero_skipping": [], "bias_correction": True}
    with pytest.raises(StaleArtifactError, match="used otherwise") as refused:
        rebuild_qdq(dataclasses.replace(manifest, options=options), tiny_onnx, tiny_table)
    assert refused.value.differences["zero_skipping"] == ((), (FIRST,))


@needs_blocks
def test_a_plan_tells_what_a_table_holds(tiny_onnx, tiny_table, tmp_path, one_is_worth_it):
    table, settings = load_table(tiny_table), BuildSettings("int8")

    def plan(given):
        out = tmp_path / "engine.onnx"
        return plan_build(tiny_onnx, out, settings, Given(given), ranges="some").quantization

    assert plan(table).endswith("in blocks of 128 or, where that is found to pay, without those of "
                                "zeros")  # fmt: skip
    choice = decide(tiny_onnx, table, settings.dialect, fit=False)
    ranked = dataclasses.replace(table, choices={settings.dialect.key: choice.to_dict()})
    assert plan(ranked).endswith(f"in blocks of 128, but of {FIRST} without those of zeros")
