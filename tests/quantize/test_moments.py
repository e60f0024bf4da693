"""Second moments: what a layer reads, as PyTorch unfolds it, whatever the batches."""

from __future__ import annotations

import itertools

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from alexnet_edge.errors import GraphError, InputError
from alexnet_edge.graph import load_onnx
from alexnet_edge.quantize.layers import prepare, weighted_layers
from alexnet_edge.quantize.moments import InputMoments, Window

ALL = 10_000


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0.3, 1, shape).astype(np.float32)


def unfold(batch: np.ndarray, window: Window) -> np.ndarray:
    """Return all patches (groups, N · positions, features)."""
    functional = pytest.importorskip("torch.nn.functional")
    torch = pytest.importorskip("torch")
    top, left, below, right = window.pads
    padded = functional.pad(torch.from_numpy(batch), (left, right, top, below))
    columns = functional.unfold(
        padded, window.kernel, dilation=window.dilations, stride=window.strides
    ).numpy()  # (N, channels · kernel, positions)
    split = columns.reshape(len(batch), window.groups, -1, columns.shape[2])
    return split.transpose(1, 0, 3, 2).reshape(window.groups, -1, split.shape[2])


WINDOWS = [
    Window((3, 3), pads=(1, 1, 1, 1)),
    Window((5, 3), strides=(2, 1), pads=(2, 0, 1, 1)),
    Window((2, 3), dilations=(2, 1), groups=2),
    Window((11, 11), strides=(4, 4)),
    Window((1, 1), groups=6),
]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_patches_are_what_the_convolution_reads(window):
    batch = images(2, 6, 15, 14)
    expected = unfold(batch, window)
    assert np.array_equal(window.patches(batch, ALL, 0), expected)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_moments_are_those_of_all_patches(window):
    batch = images(3, 6, 15, 14)
    rows = unfold(batch, window)
    moments = InputMoments(rows.shape[2], window, positions=ALL)
    moments.add(batch)
    found = moments.finish()
    expected = np.einsum("gni,gnj->gij", rows, rows) / rows.shape[1]
    np.testing.assert_allclose(found.second, expected, atol=1e-4)
    np.testing.assert_allclose(found.mean, rows.mean(axis=1), atol=1e-5)
    assert found.rows == rows.shape[1]


def test_a_linear_layer_reads_its_vectors():
    batch = images(40, 12)
    moments = InputMoments(12)
    moments.add(batch)
    found = moments.finish(centred=True)
    np.testing.assert_allclose(found.second[0], np.cov(batch.T, bias=True), atol=1e-5)
    np.testing.assert_allclose(found.mean[0], batch.mean(axis=0), atol=1e-6)


def test_moments_of_many_features_are_symmetric():
    batch = images(9, 1500)  # more than one tile
    moments = InputMoments(1500)
    moments.add(batch)
    second = moments.finish().second[0]
    assert np.array_equal(second, second.T)
    np.testing.assert_allclose(second, batch.T @ batch / 9, atol=1e-5)


@pytest.mark.parametrize("window", [None, Window((3, 3), groups=2)], ids=["linear", "conv"])
def test_moments_do_not_depend_on_how_images_are_batched(window):
    batch = images(24, 4, 8, 8) if window else images(24, 36)
    features = 18 if window else 36
    found = []
    for size in (1, 5, 24):
        moments = InputMoments(features, window, positions=7)
        for start in range(0, 24, size):
            moments.add(batch[start : start + size])
        found.append(moments.finish().second)
    for one, other in itertools.pairwise(found):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_positions_are_spread_over_the_images():
    """Each image gives a few; together they come from everywhere."""
    size = 30
    places = np.arange(size * size, dtype=np.float32).reshape(1, 1, size, size)
    window = Window((1, 1))
    seen = [window.patches(places, 8, image).ravel() for image in range(60)]
    assert all(len(np.unique(taken)) == 8 for taken in seen)
    assert len(np.unique(np.concatenate(seen))) > 250
    assert np.array_equal(seen[7], window.patches(places, 8, 7).ravel()), "and always the same"


def test_moments_are_refused_for_another_layer_s_input():
    with pytest.raises(InputError, match="12 inputs is given 13"):
        InputMoments(12).add(images(2, 13))


def test_moments_of_nothing_are_refused():
    with pytest.raises(InputError, match="no inputs"):
        InputMoments(12).finish()


def layers_of(body: str, tmp_path, **weights: np.ndarray):
    header = '<ir_version: 8, opset_import: ["": 17]> g (float[N,6,15,14] x) => (float y) '
    model = onnx.parser.parse_model(header + "{" + body + "}")
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    model.graph.initializer.extend(tensors)
    return weighted_layers(prepare(model, tmp_path), tmp_path)


def test_a_window_is_read_from_the_graph(tmp_path):
    body = (
        "a = Conv<strides=[2,1], pads=[2,0,1,1], dilations=[1,2], group=2>(x, w) "
        "f = Flatten(a) y = Gemm(f, v)"
    )
    conv, gemm = layers_of(body, tmp_path, w=images(4, 3, 5, 3), v=images(320, 4))
    assert Window.of(conv) == Window((5, 3), (2, 1), (2, 0, 1, 1), (1, 2), 2)
    assert Window.of(gemm) is None


def test_a_window_that_is_computed_is_refused(tmp_path):
    body = 'y = Conv<auto_pad="SAME_UPPER">(x, w)'
    (conv,) = layers_of(body, tmp_path, w=images(4, 6, 3, 3))
    with pytest.raises(GraphError, match="auto_pad"):
        Window.of(conv)


def test_an_export_s_layers_have_the_windows_of_its_architecture(tiny_onnx):
    model: ir.Model = prepare(load_onnx(tiny_onnx), tiny_onnx)
    found = [Window.of(layer) for layer in weighted_layers(model, tiny_onnx)]
    assert found[0] == Window((11, 11), (4, 4))
    assert found[1] == Window((5, 5), pads=(2, 2, 2, 2))
    assert found[5:] == [None, None, None]
