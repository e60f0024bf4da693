"""Images into a calibration table, in one streaming pass over the FP32 graph."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx.helper
import onnx_ir as ir

from alexnet_edge.artifacts import sha256_json
from alexnet_edge.dataset import Batch, ImageReader, ImageSet, map_ahead
from alexnet_edge.errors import DatasetError, GraphError, InputError
from alexnet_edge.graph import GraphInfo, describe_model, load_onnx
from alexnet_edge.machine import package_versions, usable_cores
from alexnet_edge.preprocess import AnyArray, PreprocessSpec
from alexnet_edge.quantize.layers import prepare, quantization_points, weighted_layers
from alexnet_edge.quantize.observers import METHODS, Histogram
from alexnet_edge.quantize.table import CalibrationTable, Range
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate.

    Attributes:
        max_images: how many images to take, evenly over the classes; None for all.
        batch_size: images per inference; the table does not depend on it.
        seed: of the choice of images.
        workers: decoding threads; the table does not depend on it.
        max_bad: share of the images that may fail to decode.
    """

    max_images: int | None = None
    batch_size: int = 8
    seed: int = 0
    workers: int | None = None
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        for name in ("max_images", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}", hint="give 1 or more")
        if self.seed < 0 or not 0 <= self.max_bad <= 1:
            raise InputError(
                f"seed is {self.seed}, max_bad is {self.max_bad}",
                hint="give a seed of 0 or more, and a share of 0 to 1",
            )


@dataclasses.dataclass(frozen=True)
class CalibrationProgress:
    """How far a calibration is."""

    done: int
    total: int
    images_per_second: float
    seconds_left: float


def require_preprocess(graph: GraphInfo, given: PreprocessSpec | None) -> PreprocessSpec:
    """Return the model's preprocessing, from its metadata or as given by options.

    Raises:
        GraphError: neither says, or the two contradict each other, or the input does not fit.
    """
    spec = given or graph.preprocess
    if spec is None:
        raise GraphError(
            f"{graph.path}: its metadata does not say how images are prepared",
            hint="say it: --resize 256 --crop SIDE --mean R,G,B --std R,G,B "
            "[--interpolation NAME] [--color RGB|BGR]",
        )
    if graph.preprocess is not None and spec != graph.preprocess:
        differing = ", ".join(
            f"{key} {ours} → {theirs}"
            for key, (ours, theirs) in graph.preprocess.differences(spec).items()
        )
        raise GraphError(
            f"{graph.path}: its metadata contradicts the options ({differing or 'input'})",
            hint="leave the options out, or export again with them",
        )
    if graph.input.shape[1:] != spec.input_shape or graph.input.dtype != spec.input:
        wanted = "×".join(map(str, spec.input_shape))
        raise GraphError(
            f"{graph.path}: its input is {graph.input}, the preprocessing gives {wanted} "
            f"{spec.input}",
            hint="correct --crop (the network's input size)",
        )
    return spec


def calibrate(
    path: Path,
    images: ImageSet,
    settings: CalibrationSettings,
    *,
    preprocess: PreprocessSpec | None = None,
    on_progress: Callable[[CalibrationProgress], None] = lambda _: None,
) -> CalibrationTable:
    """Measure the ranges of every tensor that will be quantized.

    Args:
        path: the FP32 ONNX graph.
        images: what it will see in use; labels are not needed.
        settings: how many images, and how.
        preprocess: for a graph whose metadata has none.
        on_progress: called after every batch.

    Raises:
        DatasetError: too many images cannot be decoded.
        GraphError: the graph is quantized already, or gives NaN.
    """
    model = load_onnx(path)
    graph = describe_model(model, path)
    if graph.quantized:
        raise GraphError(f"{path}: is quantized already", hint="give the FP32 graph")
    spec = require_preprocess(graph, preprocess)
    prepared = prepare(model, path)
    points = quantization_points(weighted_layers(prepared, path))
    names = list(dict.fromkeys(ranged.name or "" for _, ranged in points))
    chosen = images.sample(settings.max_images, seed=settings.seed)
    reader = ImageReader(
        chosen, spec, batch_size=graph.input.batch or settings.batch_size,
        workers=settings.workers, max_bad=settings.max_bad,
    )  # fmt: skip
    observe = _Observer(prepared, graph, names)
    used, started = 0, time.monotonic()
    for batch in reader:
        observe(batch)
        used += len(batch)
        pace = (time.monotonic() - started) / used
        left = (len(chosen) - len(reader.skipped) - used) * pace
        on_progress(CalibrationProgress(used, len(chosen), 1 / pace, left))
    return CalibrationTable(
        model_sha256=graph.sha256,
        weights_sha256=graph.weights_sha256,
        structure_sha256=graph.structure_sha256,
        preprocess=spec,
        images=_describe_images(chosen, reader),
        tensors=observe.ranges(),
        tool=package_versions(),
    )


class _Observer:
    """Runs batches and lets one histogram per tensor see them."""

    def __init__(self, prepared: ir.Model, graph: GraphInfo, names: list[str]) -> None:
        self._input = graph.input.name
        self._fixed = graph.input.batch
        self._path = graph.path
        self._fetched = [name for name in names if name != self._input]
        self.histograms = {name: Histogram() for name in names}
        self._session = create_session(_with_outputs(prepared, self._fetched), RuntimeOptions())

    def __call__(self, batch: Batch) -> None:
        tensor = batch.tensor
        if self._fixed is not None and len(tensor) < self._fixed:
            # Repeat images to fill a fixed batch; only the first rows are observed.
            tensor = tensor.take(range(self._fixed), axis=0, mode="wrap")
        fetched = self._session.run(self._fetched, {self._input: tensor})
        self._observe(self._input, batch.tensor)
        for name, values in zip(self._fetched, fetched, strict=True):
            self._observe(name, values[: len(batch)])

    def _observe(self, name: str, values: AnyArray) -> None:
        histogram = self.histograms.get(name)
        if histogram is None:
            return
        try:
            histogram.update(values)
        except ValueError as error:
            raise GraphError(
                f"{self._path}: tensor '{name}' holds {error}", hint="check the checkpoint"
            ) from error

    def ranges(self) -> dict[str, dict[str, Range]]:
        """Return every method's range of every tensor."""
        return {
            name: {
                method: _range_of(histogram, find(histogram)) for method, find in METHODS.items()
            }
            for name, histogram in self.histograms.items()
        }


def _range_of(histogram: Histogram, amax: float) -> Range:
    # Both ends are cut at both sides: a constant tensor's percentile may lie below its one value.
    low, high = (min(max(end, -amax), amax) for end in (histogram.low, histogram.high))
    return Range(amax, low=low, high=high)


def _with_outputs(prepared: ir.Model, names: list[str]) -> bytes:
    """Return the serialized graph with these tensors as its only outputs."""
    proto: onnx.ModelProto = ir.to_proto(prepared)
    del proto.graph.output[:]
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    serialized: bytes = proto.SerializeToString()
    return serialized


def _describe_images(chosen: ImageSet, reader: ImageReader) -> dict[str, Any]:
    skipped = {item.name for item in reader.skipped}
    used = [item for item in chosen.items if item.name not in skipped]
    if not used:
        raise DatasetError(f"{chosen.name}: no image could be decoded", hint="give JPEG or PNG")
    hashes = map_ahead(lambda item: item.sha256, used, workers=usable_cores(), window=64)
    entries = [[item.name, digest] for item, digest in zip(used, hashes, strict=True)]
    return {
        "source": chosen.name,
        "count": len(used),
        "sha256": sha256_json(entries),
        "skipped": [dataclasses.asdict(item) for item in reader.skipped],
    }
