"""Models without their weights: with them the same to the bit, and damage is an error."""

from __future__ import annotations

import dataclasses

import google.protobuf.message
import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_edge.bare import SMALL_BYTES, read_bare, read_weights
from alexnet_edge.errors import GraphError, InputError
from alexnet_edge.graph import (
    describe_model,
    hash_model,
    load_bare,
    load_onnx,
    load_weights,
    outline_model,
    read_graph,
)
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session
from tests.foreign import write_foreign

REFUSED = (ValueError, google.protobuf.message.DecodeError)
GRAPH, INITIALIZER, RAW_DATA = b"\x3a", b"\x2a", b"\x4a"
"""Tags of ModelProto.graph, GraphProto.initializer and TensorProto.raw_data."""
POSITIONS = st.integers(-1000, 3000) | st.integers(0, 100_000)
"""Nodes come first, inputs and outputs last; most of the rest is weights."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bare")


@pytest.fixture(scope="module")
def foreign(folder):
    return write_foreign(folder / "foreign.onnx")


@pytest.fixture(params=["foreign", "export", "external", "floats", "joined"])
def path(request, foreign, tmp_path):
    """Return a model, in each of the ways that weights are stored."""
    if request.param == "foreign":
        return foreign
    if request.param == "export":
        return request.getfixturevalue("tiny_onnx")
    model, out = onnx.load(foreign), tmp_path / "model.onnx"
    if request.param == "external":
        onnx.save(model, out, save_as_external_data=True, location="weights", size_threshold=64)
    elif request.param == "floats":
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.float_data.extend(onnx.numpy_helper.to_array(tensor).ravel())
                tensor.ClearField("raw_data")
        onnx.save(model, out)
    else:  # messages merge when joined, so a field may come in two parts
        more = onnx.ModelProto(doc_string="joined")
        more.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(99), "more"))
        described = onnx.helper.make_tensor_value_info("more", onnx.TensorProto.DOUBLE, [99, 99])
        more.graph.input.append(described)
        out.write_bytes(model.SerializeToString() + more.SerializeToString())
    return out


def fill(model, weights):
    """Put the weights back where they were."""
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name].tobytes()
            tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT


def write_model(path, *tensors, value=None):
    describe = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("GlobalAveragePool", ["x"], ["y"])],
        "small",
        [value or describe("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [describe("y", onnx.TensorProto.FLOAT, ["N", 3])],
        tensors,
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[opset])
    path.write_bytes(model.SerializeToString())
    return path


def external(dims=(40, 40), **entries):
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def varint(value):
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def field(tag, content):
    return tag + varint(len(content)) + content


def test_bare_and_weights_are_the_model_to_the_bit(path):
    model, expected = load_bare(path), onnx.load(path)
    fill(model, load_weights(model, path))
    fill(expected, {})
    assert model == expected


def test_only_small_initializers_stay_inside(foreign):
    model = load_bare(foreign)
    inside = {t.name for t in model.graph.initializer if t.HasField("raw_data")}
    sizes = {t.name: len(t.raw_data) for t in onnx.load(foreign).graph.initializer}
    assert inside == {name for name, size in sizes.items() if size <= SMALL_BYTES}
    assert read_weights(model, foreign.parent).keys() == sizes.keys() - inside
    assert model.ByteSize() < foreign.stat().st_size / 4


@pytest.mark.parametrize("excess", [0, 1])
def test_the_limit_itself_stays_inside(tmp_path, excess):
    array = np.arange(SMALL_BYTES + excess, dtype=np.int64).astype(np.uint8)
    path = write_model(tmp_path / "edge.onnx", onnx.numpy_helper.from_array(array, "w"))
    weights = load_weights(load_bare(path), path)
    assert list(weights) == ["w"] * excess
    np.testing.assert_array_equal(weights.get("w", array), array)


@pytest.mark.parametrize("kind", ["float16", "float64", "int8", "int64", "bool", "complex64"])
def test_weights_of_any_type_are_read(tmp_path, kind):
    array = np.random.default_rng(0).integers(-9, 9, (90, 99)).astype(kind)
    path = write_model(tmp_path / "typed.onnx", onnx.numpy_helper.from_array(array, "w"))
    found = load_weights(load_bare(path), path)["w"]
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())
    assert found.flags.writeable, "and belong to the caller"


@pytest.mark.parametrize("shape", [(), (1,), (0, 5), (5, 320)])
def test_references_of_any_shape_are_followed(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (tmp_path / "beside").write_bytes(b"odd" + array.tobytes() + b"rest")
    path = write_model(tmp_path / "refers.onnx", external(shape, location="beside", offset=3))
    np.testing.assert_array_equal(load_weights(load_bare(path), path)["w"], array)


def test_a_bare_model_is_described_and_hashed_as_the_whole(path):
    bare = load_bare(path)
    outline = outline_model(bare, path)
    hashed = hash_model(outline, bare)
    assert hashed == describe_model(bare, path) == describe_model(load_onnx(path), path)
    hashes = dict.fromkeys(("sha256", "weights_sha256", "structure_sha256"), "")
    assert outline == dataclasses.replace(hashed, **hashes)


def test_onnx_runtime_runs_a_bare_model_beside_its_file(path):
    batch = np.random.default_rng(0).normal(size=(1, 3, 227, 227)).astype(np.float32)
    model, options = load_bare(path), RuntimeOptions()
    bare = create_session(model.SerializeToString(), options, folder=path.parent)
    answers = [
        session.run(None, {model.graph.input[0].name: batch})[0]
        for session in (bare, create_session(path, options))
    ]
    np.testing.assert_allclose(*answers, rtol=1e-5)


@pytest.mark.parametrize("read", [load_bare, load_onnx])
def test_names_that_are_no_utf8_are_refused(tmp_path, foreign, read):
    path = tmp_path / "binary.onnx"
    path.write_bytes(foreign.read_bytes().replace(b"pool5_1", b"pool5\xff1"))
    with pytest.raises(GraphError, match=r"NodeProto\.\w+ is no UTF-8 text"):
        read(path)


def test_a_model_that_was_changed_since_gives_an_error(tmp_path, foreign):
    path = tmp_path / "short.onnx"
    path.write_bytes(foreign.read_bytes())
    model = load_bare(path)
    path.write_bytes(foreign.read_bytes()[:10_000])
    with pytest.raises(GraphError, match=r"short\.onnx.*initializer '\w+' has -?\d+ bytes"):
        load_weights(model, path)
    with pytest.raises(GraphError, match="its shape"):
        hash_model(outline_model(model, path), model)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (external(location="none"), "No such file"),
        (external(location=""), "directory"),
        (external(location="beside", offset=4), "has 6396 bytes, its shape 6400"),
        (external(location="beside", length=64), "has 64 bytes, its shape 6400"),
        (external(location="beside", offset=10**30), "bytes, its shape 6400"),
        (external(location="beside", offset=-4), "bytes, its shape 6400|non-negative"),
        (external(location="beside", offset="four"), "invalid literal"),
        (external((2**62, 2**62), location="beside"), "its shape"),
        (external((-40, 40), location="beside"), "its shape"),
        (external(location="sub/../../beside"), "outside of the folder"),
        (external(location="/etc/hostname"), "outside of the folder"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value.external_data[-1].value),
)
def test_references_that_lead_nowhere_are_refused(tmp_path, tensor, reason):
    (tmp_path / "beside").write_bytes(bytes(6400))
    path = write_model(tmp_path / "refers.onnx", tensor)
    model = load_bare(path)
    with pytest.raises(GraphError, match=reason):
        load_weights(model, path)
    with pytest.raises(GraphError, match=reason):
        describe_model(model, path)


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()],
    ids=["missing", "folder", "empty"],
)  # fmt: skip
def test_what_is_no_model_is_refused_by_name(tmp_path, make):
    make(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"net\.onnx"):
        load_bare(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "value",
    [
        onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UNDEFINED, [1, 3, 8, 8]),
        onnx.helper.make_tensor_value_info("x", 99, [1, 3, 8, 8]),
        onnx.helper.make_tensor_sequence_value_info("x", onnx.TensorProto.FLOAT, None),
    ],
    ids=["undefined", "unknown", "sequence"],
)
def test_an_input_that_is_no_tensor_of_a_known_type_is_refused(tmp_path, value):
    path = write_model(tmp_path / "odd.onnx", value=value)
    for read in (lambda: outline_model(load_bare(path), path), lambda: read_graph(path)):
        with pytest.raises(GraphError, match=r"odd\.onnx: 'x' is no tensor of a known type"):
            read()


@given(st.integers(0, 174_000) | st.integers(0, 400) | st.binary(max_size=300))
def test_truncated_and_random_files_are_refused_or_read_as_onnx_would(folder, foreign, content):
    if isinstance(content, int):
        content = foreign.read_bytes()[:content]
    path = folder / "part.onnx"
    path.write_bytes(content)
    try:
        model = read_bare(path)
    except REFUSED:
        with pytest.raises(GraphError, match=r"part\.onnx: is not a valid ONNX model"):
            load_bare(path)
    else:  # cut between two fields
        assert model == onnx.ModelProto.FromString(content)


@given(st.lists(st.tuples(POSITIONS, st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_refused_or_described_as_the_whole_would_be(folder, foreign, changes):
    content = bytearray(foreign.read_bytes())
    for position, byte in changes:
        content[position] = byte
    path = folder / "damaged.onnx"
    path.write_bytes(content)
    try:
        model = load_bare(path)
        described, weights = describe_model(model, path), load_weights(model, path)
    except InputError:
        return
    assert described == read_graph(path)
    assert sum(array.nbytes for array in weights.values()) <= len(content)


@pytest.mark.parametrize(
    "content",
    [
        GRAPH,
        GRAPH + b"\xff" * 9 + b"\x01",
        GRAPH + b"\xff" * 10,
        GRAPH + b"\xff" * 100_000,
        b"\xff" * 100_000,
        b"\x08" + b"\x80" * 100_000,
        GRAPH + varint(2**63),
        field(GRAPH, INITIALIZER + varint(2**40)),
        field(GRAPH, field(INITIALIZER, RAW_DATA + varint(2**32 - 1) + bytes(9000))),
        field(GRAPH, field(INITIALIZER, RAW_DATA + varint(9001) + bytes(9000))) + bytes(9),
        b"\x3b" + bytes(99),  # a group, which ONNX has none of
        b"\x3e\x3f",  # wire types that do not exist
        b"\x39" + bytes(7),
        b"\x3d" + bytes(3),
    ],
    ids=lambda content: f"{content[:6].hex()}-{len(content)}",
)
def test_lengths_and_tags_that_cannot_be_are_refused(tmp_path, content):
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"truncated|no protobuf message"):
        read_bare(path)
    with pytest.raises(GraphError, match=r"odd\.onnx: is not a valid ONNX model \((truncated|no )"):
        load_bare(path)


def test_the_fields_of_an_initializer_come_in_any_order(tmp_path):
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2000])
    raw = np.arange(2000, dtype=np.float32).tobytes()
    content = field(RAW_DATA, raw) + tensor.SerializeToString()
    path = tmp_path / "order.onnx"
    path.write_bytes(field(GRAPH, field(INITIALIZER, content)))
    assert read_weights(read_bare(path), tmp_path)["w"].tobytes() == raw
