"""The pass over the images: every value counted once, whatever the batches; and its end."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from alexnet_edge.dataset import ImageItem, SkippedImage, open_images
from alexnet_edge.errors import GraphError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.graph import load_onnx, outline_model
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.collect import Network, Observed, collect
from alexnet_edge.quantize.layers import prepare, quantization_points, weighted_layers
from alexnet_edge.quantize.observers import Histogram
from tests.conftest import DIGITS_SPEC
from tests.foreign import INPUT, SPEC, write_foreign

BAD = ImageItem("bad.png", Path("nowhere/bad.png"))
SKIPPED = SkippedImage("bad.png", "nowhere/bad.png: No such file or directory: 'nowhere/bad.png'")


@pytest.fixture(scope="module")
def images():
    """Digits in colours, so that channels differ."""
    rng = np.random.default_rng(0)
    digits = open_images("digits:val").sample(14)
    items = (
        dataclasses.replace(item, source=(item.source * rng.uniform(0.2, 1, 3)).astype(np.uint8))
        for item in digits.items
    )
    return dataclasses.replace(digits, items=tuple(items))


def describe(path):
    """Return the network of a file, and the tensors that Q/DQ represents."""
    model = load_onnx(path)
    prepared = prepare(model, path)
    points = quantization_points(weighted_layers(prepared, path))
    names = list(dict.fromkeys(ranged.name for _, ranged in points))
    return Network(prepared, outline_model(model, path), names)


@pytest.fixture(scope="module")
def network(tiny_onnx):
    return describe(tiny_onnx)


@pytest.fixture(scope="module")
def whole(network, images):
    return observe(network, [(0, images.items)])[0]


def write_edited(path, *, batch, rows, change=lambda _: None):
    """Write the foreign graph with another batch size and another number of rows to flatten to."""
    model = onnx.load(write_foreign(path))
    for value in (model.graph.input[0], model.graph.output[0]):
        dimension = value.type.tensor_type.shape.dim[0]
        dimension.CopyFrom(type(dimension)(dim_value=batch) if batch else type(dimension)())
    fill(initializer(model.graph, "shape_0"), [rows, -1], np.int64)
    change(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def initializer(graph, name):
    return next(tensor for tensor in graph.initializer if tensor.name == name)


def fill(tensor, values, dtype):
    array = np.broadcast_to(np.array(values, dtype), tensor.dims)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def observe(network, batches, *, spec=DIGITS_SPEC, workers=2):
    """Return the histograms of both parts."""
    return collect(spec, batches, lambda: network, workers=workers, on_batch=lambda _: None)


def observe_directly(spec, items):
    """Return the histogram of the network's input."""
    histogram = Histogram()
    histogram.update(spec.to_input([spec.from_rgb(item.source) for item in items]))
    return histogram


def merge(*parts):
    merged = {name: Histogram() for name in parts[0]}
    for part in parts:
        assert part.keys() == merged.keys()
        for name, histogram in part.items():
            merged[name].merge(histogram)
    return merged


def state(histogram):
    return histogram.low, histogram.high, histogram.width, histogram.counts.tolist()


def states(histograms):
    return {name: state(histogram) for name, histogram in histograms.items()}


def assert_close(found, expected):
    """Compare histograms of values whose last bits may depend on the batch size."""
    assert found.keys() == expected.keys()
    for name, histogram in expected.items():
        tolerance = 1e-4 * histogram.amax
        assert found[name].low == pytest.approx(histogram.low, abs=tolerance), name
        assert found[name].high == pytest.approx(histogram.high, abs=tolerance), name
        assert found[name].width == histogram.width, name
        below, expected_below = np.cumsum(found[name].counts), np.cumsum(histogram.counts)
        assert below[-1] == expected_below[-1] > 0, name
        assert np.abs(below - expected_below).max() < 1e-3 * below[-1], name


@pytest.mark.parametrize("seed", range(5))
def test_order_batches_parts_and_threads_do_not_matter(network, images, whole, seed):
    rng = np.random.default_rng(seed)
    shuffled = [images.items[index] for index in rng.permutation(len(images))]
    cuts = sorted({0, len(images), *rng.integers(1, len(images), rng.integers(0, 6)).tolist()})
    batches = [
        (int(rng.integers(0, 2)), shuffled[start:end]) for start, end in itertools.pairwise(cuts)
    ]
    found = observe(network, batches, workers=int(rng.integers(1, 5)))
    assert_close(merge(*found), whole)


@pytest.mark.parametrize("seed", range(3))
def test_two_halves_merge_to_the_whole(network, images, whole, seed):
    order = np.random.default_rng(seed).permutation(len(images))
    halves = [
        observe(network, [(0, [images.items[index] for index in half])])[0]
        for half in np.split(order, 2)
    ]
    assert_close(merge(*halves), whole)


@pytest.mark.parametrize("workers", [2, 5])
def test_the_number_of_threads_does_not_matter_at_all(network, images, workers):
    batches = [(index % 2, [item]) for index, item in enumerate(images.items)]
    alone, together = (observe(network, batches, workers=count) for count in (1, workers))
    assert [states(part) for part in together] == [states(part) for part in alone]


def test_a_part_holds_its_own_images(network, images):
    first, second = images.items[:9], images.items[9:]
    parts = observe(network, [(0, first[:5]), (1, second), (0, first[5:])])
    assert_close(parts[0], observe(network, [(0, first)])[0])
    assert_close(parts[1], observe(network, [(0, second)])[0])
    assert state(parts[0]["input"]) == state(observe_directly(DIGITS_SPEC, first))
    assert state(parts[1]["input"]) == state(observe_directly(DIGITS_SPEC, second))


def test_a_table_without_held_out_images_is_that_of_the_others(tiny_onnx, images):
    settings = CalibrationSettings(batch_size=1)
    table = calibrate(tiny_onnx, images, settings)
    held_out = table.images["held_out"]
    rest = tuple(item for item in images.items if item.name not in held_out)
    assert 0 < len(rest) < len(images)
    others = calibrate(tiny_onnx, dataclasses.replace(images, items=rest), settings)
    assert others.tensors == table.tensors_without_held_out != table.tensors


@pytest.mark.parametrize("seed", range(2))
def test_a_table_does_not_depend_on_the_order_of_images(tiny_onnx, images, seed):
    settings = CalibrationSettings(batch_size=1)
    order = np.random.default_rng(seed).permutation(len(images))
    shuffled = dataclasses.replace(images, items=tuple(images.items[index] for index in order))
    found, expected = (calibrate(tiny_onnx, given, settings) for given in (shuffled, images))
    assert found.tensors == expected.tensors
    assert found.tensors_without_held_out == expected.tensors_without_held_out
    assert set(found.images["held_out"]) == set(expected.images["held_out"])


def test_pixels_are_counted_in_the_networks_channel_order(tmp_path, images):
    network = describe(write_foreign(tmp_path / "foreign.onnx"))
    found = observe(network, [(0, [item]) for item in images.items], spec=SPEC)[0]
    assert state(found[INPUT]) == state(observe_directly(SPEC, images.items))
    rgb = observe_directly(dataclasses.replace(SPEC, color="RGB"), images.items)
    assert state(found[INPUT]) != state(rgb), "else it would prove little"


def test_bytes_that_the_graph_normalizes_are_counted_as_floats_are(
    tmp_path, tiny_checkpoint, images, whole
):
    path, spec = tmp_path / "uint8.onnx", DIGITS_SPEC.with_input("uint8")
    export_onnx(load_checkpoint(tiny_checkpoint), spec, ExportSettings(), path)
    found = observe(describe(path), [(0, images.items[:9]), (0, images.items[9:])], spec=spec)[0]
    assert "input" not in found
    assert_close({"input": found.pop("preprocess.add.out"), **found}, whole)


@pytest.mark.parametrize("count", [1, 3, 4, 5])
def test_a_batch_that_is_not_full_counts_its_own_rows(tmp_path, images, count):
    items = images.items[:count]
    one = describe(write_foreign(tmp_path / "one.onnx"))
    four = describe(write_edited(tmp_path / "four.onnx", batch=4, rows=4))
    expected = observe(one, [(0, [item]) for item in items], spec=SPEC)[0]
    for batches in ([items[:4], items[4:]], [[BAD, *items[:3]], items[3:]]):
        found = observe(four, [(0, batch) for batch in batches], spec=SPEC)[0]
        assert_close(found, expected)


def test_a_tensor_without_a_row_for_each_image_is_observed_whole(tmp_path, images):
    def change(graph):
        """Transpose the weight of fc7 at run time, and scale the answers by their mean."""
        *nodes, softmax = graph.node
        next(node for node in nodes if "fc7_w_0" in node.input).input[1] = "transposed"
        softmax.input[0] = "scaled"
        make = onnx.helper.make_node
        nodes = [
            make("Transpose", ["fc7_w_0"], ["transposed"], perm=[1, 0]),
            *nodes,
            make("ReduceMean", ["fc8_1"], ["mean"], keepdims=0),
            make("Mul", ["fc8_1", "mean"], ["scaled"]),
            softmax,
        ]
        del graph.node[:]
        graph.node.extend(nodes)

    path = write_edited(tmp_path / "foreign.onnx", batch=4, rows=4, change=change)
    settings = CalibrationSettings(every_tensor=True, max_images=5)
    table = calibrate(path, images, settings, preprocess=SPEC)
    weight = onnx.numpy_helper.to_array(initializer(onnx.load(path).graph, "fc7_w_0"))
    whole = table.tensors["transposed"]["minmax"]
    assert (whole.low, whole.high) == (weight.min(), weight.max())
    assert table.tensors["mean"]["minmax"].amax > 0


def test_images_that_cannot_be_read_are_reported_and_leave_no_trace(network, images):
    a, b, c = images.items[:3]
    seen = []
    batches = [(0, [a, BAD, b]), (1, [BAD, BAD]), (0, [c])]
    parts = collect(DIGITS_SPEC, batches, lambda: network, workers=2, on_batch=seen.append)
    assert seen == [Observed(0, 2, (SKIPPED,)), Observed(1, 0, (SKIPPED,) * 2), Observed(0, 1, ())]
    assert states(parts[0]) == states(observe(network, [(0, [a, b]), (0, [c])])[0])
    assert {histogram.counts.sum() for histogram in parts[1].values()} == {0}


@dataclasses.dataclass(frozen=True)
class Watched(ImageItem):
    """An image that tells when it is loaded."""

    on_load: Callable[[], None] = lambda: None

    def load(self):
        self.on_load()
        return super().load()


@pytest.fixture
def interrupt():
    """What Ctrl-C does, also in a shell's background job, which would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def leaves_no_thread():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


@pytest.mark.usefixtures("leaves_no_thread")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("where", ["on_batch", "a wait"])
def test_an_interrupt_ends_the_pass(network, images, interrupt, workers, where):
    loaded, late, stopped = [], [], threading.Event()

    def stop(_=None):
        stopped.set()
        interrupt()

    def on_load():
        loaded.append(None)
        if stopped.is_set():
            late.append(None)
            time.sleep(0.2)  # ample for the main thread to act
        elif where == "a wait" and len(loaded) == 40:
            stop()

    items = [Watched(item.name, item.source, None, on_load) for item in images.items * 10]
    batches = [(0, [item]) for item in items]
    on_batch = stop if where == "on_batch" else lambda _: None
    with pytest.raises(KeyboardInterrupt):
        collect(DIGITS_SPEC, batches, lambda: network, workers=workers, on_batch=on_batch)
    assert len(late) <= 2 * workers, "batches that wait are not begun"


def test_an_interrupted_calibration_ends_its_threads(tiny_onnx, images, interrupt):
    before, seen = set(threading.enumerate()), []

    def on_progress(progress):
        seen.append(progress)
        interrupt()

    settings = CalibrationSettings(batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        calibrate(tiny_onnx, images, settings, on_progress=on_progress)
    assert len(seen) == 1
    for thread in set(threading.enumerate()) - before:  # one may still be hashing the file
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.mark.usefixtures("leaves_no_thread")
def test_a_graph_that_cannot_be_loaded_ends_the_pass(images):
    def load():
        raise GraphError("the graph")

    batches = [(0, [item]) for item in images.items]
    with pytest.raises(GraphError, match="the graph"):
        collect(DIGITS_SPEC, batches, load, workers=2, on_batch=lambda _: None)


@pytest.mark.usefixtures("leaves_no_thread")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_that_onnx_runtime_refuses_is_an_error_of_the_graph(tmp_path, images, workers):
    path = write_edited(tmp_path / "foreign.onnx", batch=None, rows=1)
    batches = [(0, images.items[start : start + 4]) for start in range(0, len(images), 4)]
    with pytest.raises(GraphError, match=r"foreign\.onnx: .* on 4 images .*ismatch") as caught:
        observe(describe(path), batches, spec=SPEC, workers=workers)
    assert "--batch-size 1" in caught.value.hint
    table = calibrate(path, images, CalibrationSettings(batch_size=1), preprocess=SPEC)
    assert table.images["count"] == len(images), "the hint helps"


@pytest.mark.usefixtures("leaves_no_thread")
@pytest.mark.parametrize("workers", [1, 3])
def test_an_overflow_names_the_tensor(tmp_path, images, workers):
    def change(graph):
        fill(initializer(graph, "conv3_w_0"), 3e38, np.float32)

    network = describe(write_edited(tmp_path / "foreign.onnx", batch=1, rows=1, change=change))
    with pytest.raises(GraphError, match="tensor 'conv3_2' holds NaN or infinity"):
        observe(network, [(0, [item]) for item in images.items], spec=SPEC, workers=workers)
