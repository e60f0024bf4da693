"""Lint of 4-bit weights: a graph as a build writes it, and every way of spoiling it."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest

from alexnet_edge.engine.lint import lint_model
from alexnet_edge.engine.profile import load_profile
from alexnet_edge.engine.versions import parse_range
from alexnet_edge.graph import load_onnx
from alexnet_edge.quantize.gptq import round_nearest
from alexnet_edge.quantize.int4 import Int4Settings, scale_search
from alexnet_edge.quantize.int4_graph import fully_connected, insert_int4
from alexnet_edge.quantize.layers import prepare
from alexnet_edge.quantize.scales import CPU, TENSORRT
from tests.engine.graphs import node_named, set_attribute, set_constant, set_opset

ORIN, RTX, THOR, ON_CPU, DLA = map(
    load_profile, ("orin-nano", "rtx-desktop", "thor", "cpu", "orin-nx-dla")
)
NEWER = dataclasses.replace(ORIN, name="newer", tensorrt=parse_range(">=10.3,<11"))
DEQUANTIZE = "classifier.4.weight.dequantize"
SCALE, INTEGERS = "classifier.4.weight.scale", "classifier.4.weight.int4"


def four_bit(path, dialect):
    model = prepare(load_onnx(path), path)
    grid = Int4Settings(64).grid("any")
    search = scale_search("nearest", grid, signed=dialect == CPU)
    weights = {
        layer.name: round_nearest(layer.weight.const_value.numpy(), grid, search)
        for layer in fully_connected(model, path)
    }
    insert_int4(model, weights, dialect, path)
    return ir.to_proto(model)


@pytest.fixture
def model(tiny_onnx):
    return four_bit(tiny_onnx, TENSORRT)


def found(model, profile):
    return {(item.rule, item.node) for item in lint_model(model, profile)}


@pytest.mark.parametrize("profile", [RTX, THOR, NEWER], ids=lambda profile: profile.name)
def test_a_graph_as_built_has_nothing_to_find(model, profile):
    unquantized = {item for item in found(model, profile) if item[0] != "float-layer"}
    assert unquantized == set()
    assert "classifier.4" not in {node for _, node in found(model, profile)}


@pytest.mark.parametrize("profile", [ORIN, DLA], ids=lambda profile: profile.name)
def test_4_bit_weights_are_refused_where_there_are_none(model, profile):
    layers = {node for rule, node in found(model, profile) if rule == "int4"}
    assert layers == {"classifier.1", "classifier.4", "classifier.6"}


def test_uint4_is_not_taken(model):
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == INTEGERS)
    stored.data_type = onnx.TensorProto.UINT4
    assert ("int4", "classifier.4") in found(model, RTX)


def test_blocks_before_opset_21(model):
    set_opset(model, 20)
    assert ("block-opset", DEQUANTIZE) in found(model, RTX)


def test_blocks_along_the_outputs(model):
    set_attribute(node_named(model, DEQUANTIZE), "axis", 0)
    assert ("block-shape", DEQUANTIZE) in found(model, RTX)


def test_blocks_that_are_not_whole(model):
    set_attribute(node_named(model, DEQUANTIZE), "block_size", 96)
    assert ("block-shape", DEQUANTIZE) in found(model, RTX)


def test_scales_of_other_blocks(model):
    set_constant(model, SCALE, np.ones((512, 4), np.float32))
    assert ("block-shape", DEQUANTIZE) in found(model, RTX)


def test_zero_points_that_are_not_0(model):
    zeros = np.zeros((512, 8), np.int8)
    zeros[3, 2] = 1
    set_constant(model, "classifier.4.weight.zero_point", zeros.astype(ml_dtypes.int4))
    assert ("zero-point-value", DEQUANTIZE) in found(model, RTX)


def test_scales_that_are_negative(model):
    set_constant(model, SCALE, np.full((512, 8), -0.1, np.float32))
    assert ("scale-value", DEQUANTIZE) in found(model, RTX)


def test_4_bit_activations_are_taken_by_no_profile(model):
    graph = model.graph
    given = graph.input[0].name
    for reader in graph.node:
        reader.input[:] = ["x4" if name == given else name for name in reader.input]
    parameters = [
        onnx.numpy_helper.from_array(np.float32(0.1), "s4"),
        onnx.numpy_helper.from_array(np.zeros((), ml_dtypes.int4), "z4"),
    ]
    graph.initializer.extend(parameters)
    pair = [
        onnx.helper.make_node("QuantizeLinear", [given, "s4", "z4"], ["q4"], name="q4"),
        onnx.helper.make_node("DequantizeLinear", ["q4", "s4", "z4"], ["x4"], name="dq4"),
    ]
    nodes = [*pair, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    assert ("precision", "q4") in found(model, RTX)


def test_onnx_runtime_s_operator_is_for_the_cpu(tiny_onnx):
    model = four_bit(tiny_onnx, CPU)
    assert ("integer-operator", "classifier.4") in found(model, RTX)
    assert found(model, ON_CPU) == set()
