"""Reading what runs: the inspector's JSON before and from TensorRT 11, and TensorRT-RTX's log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alexnet_edge.engine.trt_layers import layer_precisions, read_inspector, read_log
from alexnet_edge.errors import BuildError
from alexnet_edge.manifest import LayerPrecision

SOURCE = Path("alexnet.onnx")
NODES = ["features.0", "features.1", "features.10", "features.11", "flatten", "classifier.1"]

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP16 = "Channel major FP16 format where channel % 8 == 0"
FP32 = "Row major linear FP32"


def before_11(name, inputs, weights=None, op="CaskConvolution", metadata=""):
    """A layer as TensorRT 8.6 to 10 describes it."""
    layer = {
        "Name": name,
        "LayerType": op,
        "Inputs": [
            {"Name": "x", "Location": "Device", "Dimensions": [1, 3], "Format/Datatype": text}
            for text in inputs
        ],
        "Outputs": [{"Name": "y", "Location": "Device", "Format/Datatype": FP32}],
        "TacticName": "sm80_xmma_fprop_implicit_gemm",
        "StreamId": 0,
        "Metadata": metadata,
    }
    return layer if weights is None else {**layer, "Weights": {"Type": weights, "Count": 9}}


def from_11(name, inputs, weights=None, op="CaskConvolution", metadata=""):
    """A layer as TensorRT 11 describes it."""
    layer = before_11(name, [], weights, op, metadata)
    layer["Inputs"] = [
        {"Name": "x", "DataType": kind, "Format": "Row major linear", "Dimensions": [1, 3]}
        for kind in inputs
    ]
    return layer


def engine(layers, ends):
    return json.dumps({"Layers": layers, **ends})


def read(layers, names, **ends):
    found = layer_precisions(names, read_inspector(engine(layers, ends), SOURCE), NODES)
    return {layer.name: layer.precision for layer in found}


def test_both_shapes_are_read_alike():
    older = [
        before_11("features.0 + features.1", [INT8], "Int8", metadata="[ONNX Layer: features.0]"),
        before_11("features.10", [FP16], "Half", metadata="[ONNX Layer: features.10]"),
        before_11("classifier.1", [FP32], "Float", metadata="[ONNX Layer: classifier.1]"),
    ]
    newer = [
        from_11("features.0 + features.1", ["Int8"], "Int8", metadata="[ONNX Layer: features.0]"),
        from_11("features.10", ["Half"], "Half", metadata="[ONNX Layer: features.10]"),
        from_11("classifier.1", ["Float"], "Float", metadata="[ONNX Layer: classifier.1]"),
    ]
    names = ["features.0", "features.10", "classifier.1"]
    expected = {"features.0": "int8", "features.10": "fp16", "classifier.1": "fp32"}
    assert read(older, names, Bindings=["input", "probabilities"]) == expected
    tensors = [{"Name": "input", "IOMode": "Input", "DataType": "Float"}]
    assert read(newer, names, **{"I/O Tensors": tensors}) == expected


@pytest.mark.parametrize("describe", [before_11, from_11])
@pytest.mark.parametrize(
    ("activation", "weight", "expected"),
    [
        ("Int8", "Int8", "int8"),
        ("Int8", "Half", "fp16"),
        ("Int8", "Float", "fp32"),
        ("Half", "Int8", "fp16"),
        ("BFloat16", "BFloat16", "bf16"),
        ("UInt8", "Int8", "unknown"),
    ],
)
def test_a_layer_is_int8_only_if_both_factors_are(describe, activation, weight, expected):
    layers = [describe("features.0", [activation], weight)]
    assert read(layers, ["features.0"]) == {"features.0": expected}


@pytest.mark.parametrize("describe", [before_11, from_11])
@pytest.mark.parametrize("activation", ["Half", "Float"])
def test_a_layer_with_4_bit_weights_is_int4_whatever_it_reads(describe, activation):
    layers = [describe("classifier.1", [activation], "Int4")]
    assert read(layers, ["classifier.1"]) == {"classifier.1": "int4"}
    fused = describe("classifier.1", [activation], op="runtime_fusion")
    fused["Constants"] = [{"Name": "w", "DataType": "Int4"}, {"Name": "s", "DataType": "Half"}]
    assert read([fused], ["classifier.1"]) == {"classifier.1": "int4"}
    unsigned = [describe("classifier.1", [activation], "UInt4")]
    assert read(unsigned, ["classifier.1"]) == {"classifier.1": "unknown"}


def test_the_second_input_is_the_weight_where_it_is_no_constant():
    layers = [before_11("classifier.1", [INT8, FP16], op="gemm")]
    assert read(layers, ["classifier.1"]) == {"classifier.1": "fp16"}


def test_names_are_told_apart_from_those_that_begin_alike():
    layers = [
        before_11("features.10 + features.11", [FP32], "Float"),
        before_11("features.1", [INT8], "Int8"),
    ]
    assert read(layers, ["features.1", "features.10"]) == {
        "features.1": "int8",
        "features.10": "fp32",
    }


def test_conversions_are_not_taken_for_the_layer():
    layers = [
        before_11("features.0", [FP32], op="Reformat", metadata="[ONNX Layer: features.0]"),
        before_11("features.0", [INT8], "Int8", metadata="[ONNX Layer: features.0]"),
    ]
    assert read(layers, ["features.0"]) == {"features.0": "int8"}


def test_formats_that_depend_on_the_shape_are_not_guessed():
    layers = [before_11("features.0", ["N/A due to dynamic shapes"], "Int8")]
    assert read(layers, ["features.0"]) == {"features.0": "unknown"}


def test_a_dla_node_stands_for_every_layer_between_its_ends():
    layers = [
        before_11("{ForeignNode[features.0...features.11]}", [INT8], op="DLA"),
        before_11("classifier.1", [FP16], "Half"),
    ]
    found = layer_precisions(
        ["features.0", "features.10", "classifier.1"],
        read_inspector(engine(layers, {}), SOURCE),
        NODES,
    )
    assert found == (
        LayerPrecision("features.0", "DLA", "int8"),
        LayerPrecision("features.10", "DLA", "int8"),
        LayerPrecision("classifier.1", "CaskConvolution", "fp16"),
    )


def test_a_layer_that_is_not_listed_is_unknown():
    assert read([before_11("features.0", [INT8])], ["classifier.1"]) == {"classifier.1": "unknown"}


@pytest.mark.parametrize(
    "text", ["", "[]", '{"Layers": 3}', '{"Layers": ["features.0 + features.1"]}', '{"Other": 1}']
)
def test_a_description_that_is_none_is_an_error(text):
    with pytest.raises(BuildError, match=r"alexnet\.onnx: the engine's description") as refused:
        read_inspector(text, SOURCE)
    assert "verbosity" in refused.value.hint


LOG = """Layers:
Name: __mykl, LayerType: kgen, Inputs: [ { Name: input, Datatype: Float }], Constants: [], \
Outputs: [ { Name: q, Datatype: Int8 }], TacticName: a, Metadata: [ONNX Layer: features.0]
Name: conv, LayerType: cask_conv, Inputs: [ { Name: q, Datatype: Int8 }], \
Constants: [ { Name: w, Datatype: Int8 }, { Name: b, Datatype: Float }], \
Outputs: [ { Name: y, Datatype: Half }], TacticName: b, Metadata: [ONNX Layer: features.0]\x1e\
[ONNX Layer: features.1]
Name: fc, LayerType: gemm, Inputs: [ { Name: y, Datatype: Half }], \
Constants: [ { Name: v, Datatype: Half }], \
Outputs: [ { Name: z, Datatype: Half }], TacticName: c, Metadata: [ONNX Layer: classifier.1]
"""


def test_the_log_of_tensorrt_rtx_is_read():
    found = layer_precisions(["features.0", "classifier.1"], read_log([(4, LOG)]), NODES)
    assert found == (
        LayerPrecision("features.0", "cask_conv", "int8"),
        LayerPrecision("classifier.1", "gemm", "fp16"),
    )


def test_a_log_without_a_list_tells_nothing():
    found = layer_precisions(["features.0"], read_log([(4, "Building")]), NODES)
    assert found == (LayerPrecision("features.0", "unknown", "unknown"),)
