"""Reading ONNX files, ours and others': what they say, what tells them apart, what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from alexnet_edge.errors import GraphError, InputError
from alexnet_edge.graph import read_graph
from alexnet_edge.results import TensorSpec
from tests.foreign import INPUT, OUTPUT, write_foreign


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return write_foreign(tmp_path_factory.mktemp("foreign") / "foreign.onnx")


@pytest.fixture
def changed(tmp_path, foreign):
    """Return a function that writes a changed copy of the foreign file."""

    def write(change=lambda model: None):
        model = onnx.load(foreign)
        change(model)
        path = tmp_path / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def change_weight(model):
    tensor = model.graph.initializer[0]
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[0] += 1e-6
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def change_attribute(model):
    conv = next(node for node in model.graph.node if node.op_type == "LRN")
    next(a for a in conv.attribute if a.name == "alpha").f = 2e-4


def change_both(model):
    change_weight(model)
    change_attribute(model)


def change_note(model):
    model.doc_string = "another note"


def store_as_floats(model):
    tensor = model.graph.initializer[0]
    values = onnx.numpy_helper.to_array(tensor).ravel().tolist()
    tensor.ClearField("raw_data")
    tensor.float_data.extend(values)


def reverse_initializers(model):
    tensors = list(model.graph.initializer)[::-1]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)


def value(name, shape, kind=onnx.TensorProto.FLOAT):
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def replace_input(model, *values):
    others = [v for v in model.graph.input if v.name != INPUT]
    del model.graph.input[:]
    model.graph.input.extend([*values, *others])


def replace_output(model, *values):
    del model.graph.output[:]
    model.graph.output.extend(values)


def test_a_foreign_file_is_described_and_what_it_does_not_say_is_none(foreign):
    graph = read_graph(foreign)
    assert graph.input == TensorSpec(INPUT, "float32", (1, 3, 227, 227))
    assert graph.output == TensorSpec(OUTPUT, "float32", (1, 10))
    assert (graph.opset, graph.output_kind, graph.quantized) == (9, "probabilities", False)
    assert (graph.preprocess, graph.classes, graph.arch, graph.checkpoint_sha256) == (None,) * 4


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (change_weight, {"sha256", "weights_sha256"}),
        (change_attribute, {"sha256", "structure_sha256"}),
        (change_both, {"sha256", "weights_sha256", "structure_sha256"}),
        (change_note, {"sha256"}),
        (store_as_floats, {"sha256"}),
        (reverse_initializers, {"sha256"}),
        (lambda model: None, set()),
    ],
)
def test_hashes_tell_what_has_changed(changed, change, differing):
    before, after = read_graph(changed()), read_graph(changed(change))
    fields = [field.name for field in dataclasses.fields(before)]
    assert {f for f in fields if getattr(before, f) != getattr(after, f)} == differing


def test_the_structure_does_not_depend_on_the_weights_of_an_export(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    change_weight(model)
    path = tmp_path / "retrained.onnx"
    onnx.save(model, path)
    assert read_graph(path).structure_sha256 == read_graph(tiny_onnx).structure_sha256
    assert read_graph(path).weights_sha256 != read_graph(tiny_onnx).weights_sha256


def test_weights_beside_the_file_are_read(foreign, tmp_path):
    path = tmp_path / "split.onnx"
    onnx.save(
        onnx.load(foreign), path, save_as_external_data=True, location="weights", size_threshold=64
    )
    assert read_graph(path).weights_sha256 == read_graph(foreign).weights_sha256
    (tmp_path / "weights").unlink()
    with pytest.raises(GraphError, match="weights"):
        read_graph(path)


def test_a_graph_that_ends_in_a_linear_layer_gives_logits(changed):
    def cut(model):
        del model.graph.node[-1]
        replace_output(model, value("fc8_1", [1, 10]))

    assert read_graph(changed(cut)).output_kind == "logits"


@pytest.mark.parametrize("size", ["N", 0, None])
def test_a_batch_axis_of_any_size_is_none(changed, size):
    path = changed(lambda model: replace_input(model, value(INPUT, [size, 3, 227, 227])))
    assert read_graph(path).input.batch is None


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncated_files_are_refused(tmp_path, foreign, keep):
    data = foreign.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(GraphError, match=r"cut\.onnx: is not a valid ONNX model") as caught:
        read_graph(path)
    assert "truncated" in caught.value.hint


@pytest.mark.parametrize("content", [b"not a graph\n", b'{"json": 1}', b"\x89PNG\r\n", b"\0" * 99])
def test_files_of_another_kind_are_refused(tmp_path, content):
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(GraphError, match="is not a valid ONNX model") as caught:
        read_graph(path)
    assert "alexnet-edge export" in caught.value.hint


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "net.onnx")
    with pytest.raises(InputError, match=r"net\.onnx"):
        read_graph(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda m: replace_input(m, value(INPUT, [1, 3, 227, 227]), value("more", [1])),
            rf"has 2 inputs \({INPUT}, more\)",
        ),
        (lambda m: replace_input(m, value(INPUT, [3, 227, 227])), "input is data_0 3×227×227"),
        (lambda m: replace_input(m, value(INPUT, [1, 3, "H", "W"])), "input is data_0 1×3×N×N"),
        (lambda m: replace_input(m, value(INPUT, [1, 1, 28, 28])), "input is data_0 1×1×28×28"),
        (lambda m: replace_input(m, value(INPUT, [])), "input is data_0"),
        (lambda m: replace_output(m, value(OUTPUT, [1, 10, 1])), "outputs are prob_1 1×10×1"),
        (
            lambda m: replace_output(m, value(OUTPUT, [1, 10]), value("fc8_1", [1, 10])),
            "prob_1 1×10 float32; fc8_1 1×10 float32",
        ),
    ],
    ids=["two inputs", "rank 3", "any size", "gray", "scalar", "output of rank 3",
         "two outputs"],
)  # fmt: skip
def test_graphs_that_do_not_map_one_image_batch_to_answers_are_refused(changed, change, named):
    with pytest.raises(GraphError, match=named) as caught:
        read_graph(changed(change))
    assert "expected" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "text", "named"),
    [
        ("preprocess", "{", "metadata is damaged"),
        ("preprocess", '{"crop": 227}', r"preprocess\.color is missing"),
        ("preprocess", "3", "preprocess is not an object"),
        ("classes", "3", "metadata is damaged"),
    ],
)
def test_damaged_metadata_is_refused(changed, key, text, named):
    def stamp(model):
        model.metadata_props.add(key=f"alexnet_edge.{key}", value=text)

    with pytest.raises(InputError, match=named):
        read_graph(changed(stamp))


def test_metadata_of_other_tools_is_left_alone(changed):
    def stamp(model):
        model.metadata_props.add(key="classes", value="not json")

    assert read_graph(changed(stamp)).classes is None


def test_quantized_graphs_are_recognised(changed):
    def quantize(model):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.1), "scale"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.int8(0), "zero"))
        for name in ("scale", "zero"):
            kind = next(t for t in model.graph.initializer if t.name == name).data_type
            model.graph.input.append(value(name, [], kind))
        node = onnx.helper.make_node("QuantizeLinear", [INPUT, "scale", "zero"], ["quantized"])
        model.graph.node.insert(0, node)
        model.opset_import[0].version = 10

    assert read_graph(changed(quantize)).quantized


def test_more_class_names_than_outputs_are_refused(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    for entry in model.metadata_props:
        if entry.key.endswith(".classes"):
            entry.value = '["one", "two"]'
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(GraphError, match="names 2 classes, and has 10 outputs"):
        read_graph(tmp_path / "two.onnx")
