"""Images into a calibration table, in one streaming pass over the FP32 graph."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx

from alexnet_edge.artifacts import sha256_json
from alexnet_edge.dataset import (
    ImageItem,
    ImageSet,
    SkippedImage,
    map_ahead,
    require_readable,
)
from alexnet_edge.errors import GraphError, InputError
from alexnet_edge.graph import (
    GraphInfo,
    hash_model,
    load_bare,
    load_onnx,
    outline_model,
)
from alexnet_edge.machine import package_versions, usable_cores
from alexnet_edge.preprocess import PreprocessSpec
from alexnet_edge.quantize.collect import Histograms, Network, Observed, collect
from alexnet_edge.quantize.observers import Histogram
from alexnet_edge.quantize.table import CalibrationTable, Range
from alexnet_edge.quantize.thresholds import ASYMMETRIC, METHODS, PARAMETERS, SYMMETRIC, Method

MOST_HELD_OUT = 64
"""Images that methods are judged on; their answers vary less than methods differ."""


@dataclasses.dataclass(frozen=True)
class CalibrationSettings:
    """How to calibrate.

    Attributes:
        max_images: how many images to take, evenly over the classes; None for all.
        batch_size: images per inference, at most; the table does not depend on it.
        seed: of the choice of images.
        workers: decoding threads; the table does not depend on it.
        max_bad: share of the images that may fail to decode.
        every_tensor: measure all tensors, as a TensorRT cache needs, not only those that Q/DQ
            represents; slower.
    """

    max_images: int | None = None
    batch_size: int = 8
    seed: int = 0
    workers: int | None = None
    max_bad: float = 0.01
    every_tensor: bool = False

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
    chosen = images.sample(settings.max_images, seed=settings.seed)
    held_out = hold_out(chosen)
    progress = _Progress(chosen, settings, on_progress)
    workers = settings.workers or usable_cores()
    model = load_bare(path)
    outline = outline_model(model, path)
    if outline.quantized:
        raise GraphError(f"{path}: is quantized already", hint="give the FP32 graph")
    spec = require_preprocess(outline, preprocess)
    size = outline.input.batch or settings.batch_size
    # The last batches are small, so that no thread waits long for another's.
    last = outline.input.batch or math.ceil(size / 4)
    batches = [(0, part) for part in _batches(_without(chosen, held_out), size)]
    batches += [(1, part) for part in _batches(held_out, last)]
    loading = _Loading(model, outline, every_tensor=settings.every_tensor)
    rest, held = collect(spec, batches, loading.load, workers=workers, on_batch=progress)
    graph = loading.hashed()
    merged = _merge(rest, held)
    if not any(histogram.counts.any() for histogram in rest.values()):
        rest, held_out = merged, ()  # only images that were to be held out could be read
    for histograms in (merged, rest):
        histograms |= {name: histograms[source] for name, source in loading.aliases.items()}
    return CalibrationTable(
        model_sha256=graph.sha256,
        weights_sha256=graph.weights_sha256,
        structure_sha256=graph.structure_sha256,
        preprocess=spec,
        images=_describe_images(chosen, progress.skipped, held_out),
        tensors=_find_ranges(merged, workers),
        tensors_without_held_out=_find_ranges(rest, workers),
        parameters=PARAMETERS,
        tool=package_versions(),
    )


class _Loading:
    """Prepares the graph while images are decoded, and hashes the file while it runs.

    Attributes:
        aliases: after `load`, tensors that the prepared graph lacks, each with its equal there.
    """

    def __init__(self, model: onnx.ModelProto, outline: GraphInfo, *, every_tensor: bool) -> None:
        self._model = model
        self._every_tensor = every_tensor
        self.aliases: dict[str, str] = {}
        self._outline = outline
        hasher = concurrent.futures.ThreadPoolExecutor(1)
        self._hashed = hasher.submit(hash_model, outline, model)
        hasher.shutdown(wait=False)

    def load(self) -> Network:
        """Return the network in normal form, with the tensors that are quantized."""
        # Imported here, while images are decoded.
        from alexnet_edge.quantize.layers import (
            QDQ_OPSET,
            bypassed_tensors,
            float_tensors,
            prepare,
            quantization_points,
            weighted_layers,
        )

        path = self._outline.path
        if self._outline.opset < QDQ_OPSET:
            prepared = prepare(load_onnx(path), path)  # converting needs the weights
        else:
            prepared = prepare(self._model, path)
        points = quantization_points(weighted_layers(prepared, path))
        names = list(dict.fromkeys(ranged.name or "" for _, ranged in points))
        if self._every_tensor:
            names = list(dict.fromkeys((*names, *float_tensors(prepared))))
            self.aliases = {
                name: source
                for name, source in bypassed_tensors(self._model).items()
                if source in names
            }
        return Network(prepared, self._outline, names)

    def hashed(self) -> GraphInfo:
        """Return the graph's description with its hashes."""
        return self._hashed.result()


def hold_out(images: ImageSet) -> tuple[ImageItem, ...]:
    """Return the images that methods are judged on: every fourth, 64 at most.

    They are evenly spread over the names in order, so over class folders too, and do not depend on
    the order of the set. One image alone is nobody's judge: a set of one holds out none.
    """
    ordered = sorted(images.items, key=lambda item: item.name)
    stride = max(4, math.ceil(len(ordered) / MOST_HELD_OUT))
    return tuple(ordered[1:2] if len(ordered) < stride else ordered[stride - 1 :: stride])


def _without(images: ImageSet, held_out: Sequence[ImageItem]) -> list[ImageItem]:
    names = {item.name for item in held_out}
    return [item for item in images.items if item.name not in names]


def _batches(items: Sequence[ImageItem], size: int) -> list[Sequence[ImageItem]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


class _Progress:
    """Counts what was read, and stops a calibration of images that cannot be read."""

    def __init__(
        self,
        images: ImageSet,
        settings: CalibrationSettings,
        report: Callable[[CalibrationProgress], None],
    ) -> None:
        self._images, self._settings, self._report = images, settings, report
        self._started = time.monotonic()
        self._read = 0
        self.skipped: list[SkippedImage] = []

    def __call__(self, observed: Observed) -> None:
        self._read += observed.read
        self.skipped += observed.skipped
        if observed.skipped:
            require_readable(self._images, self.skipped, max_bad=self._settings.max_bad)
        if self._read:
            pace = (time.monotonic() - self._started) / self._read
            left = len(self._images) - len(self.skipped) - self._read
            self._report(CalibrationProgress(self._read, len(self._images), 1 / pace, left * pace))


def _merge(rest: Histograms, held: Histograms) -> Histograms:
    merged = {name: Histogram() for name in rest}
    for name, histogram in merged.items():
        histogram.merge(rest[name])
        histogram.merge(held[name])
    return merged


def _find_ranges(histograms: Histograms, workers: int) -> dict[str, dict[str, Range]]:
    """Return every method's range of every tensor."""

    def find(histogram: Histogram) -> dict[str, Range]:
        return {name: _range_of(histogram, method) for name, method in METHODS.items()}

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return dict(zip(histograms, pool.map(find, histograms.values()), strict=True))


def _range_of(histogram: Histogram, method: Method) -> Range:
    clip = method(histogram, ASYMMETRIC)
    # Both ends are cut at both sides: a constant tensor's percentile may lie below its one value.
    low, high = (min(max(end, -clip), clip) for end in (histogram.low, histogram.high))
    return Range(method(histogram, SYMMETRIC), low=low, high=high)


def _describe_images(
    chosen: ImageSet, skipped: Sequence[SkippedImage], held_out: Sequence[ImageItem]
) -> dict[str, Any]:
    unread = {item.name for item in skipped}
    used = [item for item in chosen.items if item.name not in unread]
    if not used:
        require_readable(chosen, skipped, max_bad=0)
    hashes = map_ahead(lambda item: item.sha256, used, workers=usable_cores(), window=64)
    files = [f"{digest}  {item.name}" for item, digest in zip(used, hashes, strict=True)]
    return {
        "source": chosen.name,
        "count": len(used),
        "sha256": sha256_json(files),
        "files": files,
        "held_out": [item.name for item in held_out if item.name not in unread],
        "skipped": [dataclasses.asdict(item) for item in skipped],
    }
