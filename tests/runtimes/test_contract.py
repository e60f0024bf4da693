"""One contract for everything that executes a network."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from alexnet_edge.dataset import open_images
from alexnet_edge.engine.build import BuildSettings, build_engine
from alexnet_edge.errors import InputError
from alexnet_edge.export import ExportSettings, export_onnx
from alexnet_edge.model import load_checkpoint
from alexnet_edge.quantize.calibrate import CalibrationSettings, calibrate
from alexnet_edge.quantize.table import load_table
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.loader import availability, open_engine
from tests.conftest import DIGITS_SPEC

TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.15}
"""Largest difference of a probability from PyTorch's."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A runtime, what it runs and on what; ``build`` is False for files that need no engine."""

    runtime: str
    precision: str = "fp32"
    build: bool = True
    fixed_batch: int | None = None
    device: str | None = None

    @property
    def missing(self) -> str:
        """Why it cannot run here, or nothing."""
        found = availability(self.runtime)
        if not found.runs:
            return f"{self.runtime}: {found.reason}"
        if self.device not in {None, *found.devices}:
            return f"{self.runtime}: has no {self.device} here, only {', '.join(found.devices)}"
        return ""

    def open(self, path):
        return open_engine(path, RuntimeOptions(device=self.device))

    def __str__(self) -> str:
        kind = "engine" if self.build else "file"
        fixed = f"-batch{self.fixed_batch}" if self.fixed_batch else ""
        device = f"-{self.device}" if self.device else ""
        return f"{self.runtime}-{self.precision}-{kind}{device}{fixed}"


GPU_RUNTIMES = ("tensorrt", "tensorrt-rtx")
CASES = [
    Case("torch", build=False),
    Case("onnxruntime", build=False),
    Case("onnxruntime"),
    Case("onnxruntime", "int8"),
    *(Case("onnxruntime", build=False, device=name) for name in ("cuda", "tensorrt")),
    Case("torch", build=False, device="cuda"),
    *(Case(name, p) for name in GPU_RUNTIMES for p in ("fp32", "fp16", "int8")),
]
DYNAMIC = [case for case in CASES if not case.missing]
FIXED = [dataclasses.replace(case, fixed_batch=4) for case in DYNAMIC if case.runtime != "torch"]


@pytest.fixture(scope="module")
def prepare(tiny_checkpoint, tiny_onnx, tiny_table, tmp_path_factory):
    """Make the file that a case runs, once."""
    folder = tmp_path_factory.mktemp("contract")
    made = {}

    def fixed_graph(size):
        graph = folder / f"batch{size}.onnx"
        if not graph.exists():
            checkpoint = load_checkpoint(tiny_checkpoint)
            export_onnx(checkpoint, DIGITS_SPEC, ExportSettings(batch=size), graph)
            images = open_images("digits:train")
            calibrate(graph, images, CalibrationSettings(max_images=64)).save(
                graph.with_suffix(".table.json")
            )
        return graph, graph.with_suffix(".table.json")

    def make(case):
        if case.runtime == "torch":
            return tiny_checkpoint
        size = case.fixed_batch
        graph, table = fixed_graph(size) if size else (tiny_onnx, tiny_table)
        if not case.build:
            return graph
        out = folder / f"{case}.engine"
        settings = BuildSettings(case.precision, case.runtime)
        build_engine(graph, out, settings, table=load_table(table))
        return out

    def prepare(case):
        if case not in made:
            made[case] = make(case)
        return made[case]

    return prepare


@pytest.fixture(params=DYNAMIC, ids=str)
def engine(request, prepare):
    """An opened network that takes any batch size."""
    with request.param.open(prepare(request.param)) as engine:
        yield engine


@pytest.fixture(params=FIXED, ids=str)
def fixed_engine(request, prepare):
    """An opened network that takes batches of 4."""
    with request.param.open(prepare(request.param)) as engine:
        yield engine


@pytest.fixture(params=[*DYNAMIC, *FIXED], ids=str)
def any_engine(request, prepare):
    """An opened network of either kind."""
    with request.param.open(prepare(request.param)) as engine:
        yield engine


@pytest.fixture(scope="module")
def images(digits_folders):
    """(6, 3, 227, 227) float32 of six digits, read-only."""
    files = sorted((digits_folders / "val").glob("*/*.png"))[::16][:6]
    batch = DIGITS_SPEC.to_input([DIGITS_SPEC.decode(path) for path in files])
    batch.flags.writeable = False
    return batch


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, images):
    """What PyTorch answers, without our runtime."""
    import torch

    from alexnet_edge.model import build_module

    checkpoint = load_checkpoint(tiny_checkpoint)
    module = build_module(checkpoint.architecture)
    module.load_state_dict(dict(checkpoint.state_dict))
    with torch.inference_mode():
        return module.eval()(torch.from_numpy(images.copy())).softmax(1).numpy()


@pytest.fixture
def refuses_before_running(monkeypatch):
    """Fail the test if a batch reaches the backend."""

    def arm(engine):
        def execute(batch):
            pytest.fail(f"a batch of {batch.shape} {batch.dtype} was run")

        monkeypatch.setattr(engine, "_execute", execute)

    return arm


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_contract_covers_what_runs_here(case):
    if case.missing:
        pytest.skip(case.missing)
    assert case in DYNAMIC


@pytest.mark.parametrize("size", [1, 2, 6])
def test_answers_are_a_row_of_float32_for_each_image(engine, images, size):
    answers = engine.infer(images[:size])
    assert answers.shape == (size, 10)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-3)


def test_answers_agree_with_pytorch(engine, images, expected):
    tolerance = TOLERANCE[engine.info.precision]
    np.testing.assert_allclose(engine.infer(images), expected, rtol=0, atol=tolerance)


def test_an_image_answers_alone_as_in_a_batch(engine, images):
    alone = np.concatenate([engine.infer(image[None]) for image in images])
    # Kernels for one row and for several add up in another order.
    np.testing.assert_allclose(engine.infer(images), alone, rtol=0, atol=1e-4)


def test_a_smaller_batch_after_a_larger_one_has_its_own_answers(engine, images):
    whole = engine.infer(images)
    kept = whole.copy()
    np.testing.assert_allclose(engine.infer(images[3:5]), whole[3:5], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(whole, kept)


def test_the_batch_is_not_changed(engine, images):
    batch = images.copy()
    engine.infer(batch)
    np.testing.assert_array_equal(batch, images)


@pytest.mark.parametrize(
    "view",
    [
        lambda batch: batch[::-1],
        lambda batch: batch[:, ::-1],
        lambda batch: batch.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    ],
    ids=["reversed", "channels-reversed", "channels-last"],
)
def test_strided_views_answer_as_copies_do(engine, images, view):
    strided = view(images)
    copied = np.ascontiguousarray(strided)
    np.testing.assert_allclose(engine.infer(strided), engine.infer(copied), rtol=0, atol=1e-5)


def test_info_says_what_the_network_is(any_engine, tiny_checkpoint):
    info = any_engine.info
    assert (info.input.dtype, info.input.shape[1:]) == ("float32", (3, 227, 227))
    assert info.output.shape[1] == 10
    assert info.output_kind == "probabilities"
    assert info.preprocess == DIGITS_SPEC
    assert info.classes == tuple("0123456789")
    assert info.size_bytes == info.path.stat().st_size
    assert any_engine.describe()


@pytest.mark.parametrize("infer", ["infer", "infer_any"])
@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((1, 3, 227, 227), np.float64),
        np.zeros((1, 3, 227, 227), np.uint8),
        np.zeros((1, 3, 227, 227), ">f4"),
        np.zeros((1, 3, 224, 224), np.float32),
        np.zeros((1, 227, 227, 3), np.float32),
        np.zeros((3, 227, 227), np.float32),
        np.zeros((0, 3, 227, 227), np.float32),
        np.zeros((), np.float32),
    ],
    ids=lambda batch: f"{'x'.join(map(str, batch.shape))}-{batch.dtype.str[1:]}",
)
def test_what_the_network_does_not_take_is_refused_before_it_runs(
    any_engine, refuses_before_running, infer, batch
):
    refuses_before_running(any_engine)
    with pytest.raises(InputError, match=r"takes .*3×227×227 float32, not") as refused:
        getattr(any_engine, infer)(batch)
    assert str(any_engine.info.path) in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("infer", ["infer", "infer_any"])
def test_a_closed_network_refuses_to_run(any_engine, images, infer):
    any_engine.close()
    any_engine.close()
    with pytest.raises(InputError, match="is closed"):
        getattr(any_engine, infer)(images[:4])


def test_leaving_the_block_closes(prepare, images):
    with DYNAMIC[0].open(prepare(DYNAMIC[0])) as engine:
        pass
    with pytest.raises(InputError, match="is closed"):
        engine.infer(images)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 6])
def test_infer_any_splits_and_pads_for_a_fixed_batch(fixed_engine, images, expected, size):
    answers = fixed_engine.infer_any(images[:size])
    assert answers.shape == (size, 10)
    tolerance = TOLERANCE[fixed_engine.info.precision]
    np.testing.assert_allclose(answers, expected[:size], rtol=0, atol=tolerance)


def test_infer_any_is_infer_where_any_batch_is_taken(engine, images):
    np.testing.assert_array_equal(engine.infer_any(images), engine.infer(images))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_fixed_batch_takes_no_other(fixed_engine, refuses_before_running, images, size):
    refuses_before_running(fixed_engine)
    with pytest.raises(InputError, match=f"takes input 4×3×227×227 float32, not {size}×"):
        fixed_engine.infer(images[:size])
