"""One pass over the images: what every tensor to be quantized holds.

Each thread takes a batch from bytes to histograms by itself: it decodes, runs the network on one
core, and counts. So decoding, inference and counting overlap without queues, and no core waits for
another. Every thread counts into histograms of its own; they merge exactly, so neither the number
of threads nor the order in which batches finish shows in the result.

Decoding is a few batches ahead: it goes on while ONNX Runtime still loads the network. The weights
are in memory once: the graph refers to its file for them, which ONNX Runtime maps. Fully connected
layers cost the reading of their weights, so they wait for the images of several batches.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
from PIL import Image

from alexnet_edge.dataset import ImageItem, SkippedImage
from alexnet_edge.errors import GraphError, ImageError
from alexnet_edge.graph import GraphInfo, weights_folder
from alexnet_edge.preprocess import AnyArray, PreprocessSpec, UInt8Array
from alexnet_edge.quantize.observers import Histogram
from alexnet_edge.quantize.pieces import nodes_between
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session

if TYPE_CHECKING:
    import onnx_ir as ir

Histograms = dict[str, Histogram]
Fetched = dict[str, AnyArray]
Decoded = tuple[list[UInt8Array], list[SkippedImage]]
Decoding = concurrent.futures.Future[Decoded]

_AHEAD = 8
"""Batches that wait for each thread, decoded; enough for what a network takes to load."""

_LATER_ROWS = 32
"""Images at once through the fully connected layers: enough for arithmetic to outweigh reading."""


@dataclasses.dataclass(frozen=True)
class Network:
    """What is observed.

    Attributes:
        prepared: the graph in normal form; a bare one refers to the file for its weights.
        graph: what the file says of itself.
        names: the tensors to observe.
    """

    prepared: ir.Model
    graph: GraphInfo
    names: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Observed:
    """What a batch gave: how many images were read, and which could not be."""

    part: int
    read: int
    skipped: tuple[SkippedImage, ...]


def collect(
    spec: PreprocessSpec,
    batches: Sequence[tuple[int, Sequence[ImageItem]]],
    load: Callable[[], Network],
    *,
    workers: int,
    on_batch: Callable[[Observed], None],
) -> list[Histograms]:
    """Observe every batch.

    Args:
        spec: how images are prepared.
        batches: each with the number of the part, 0 or 1, that it is counted to.
        load: gives the graph and its tensors; called once, after decoding has begun.
        workers: threads; each runs one batch at a time on one core.
        on_batch: called in the caller's thread, in the order of ``batches``; what it raises ends
            the pass.

    Returns:
        For each part the histograms by tensor.

    Raises:
        GraphError: a tensor holds NaN or infinity, or ONNX Runtime refuses the graph or a batch.
    """
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="observe") as pool:
        remaining = iter(batches)
        pending: collections.deque[concurrent.futures.Future[Observed]] = collections.deque()

        def submit(count: int) -> list[tuple[int, Decoding]]:
            taken = itertools.islice(remaining, count)
            return [(part, pool.submit(_decode, items, spec)) for part, items in taken]

        try:
            # The pool is first in, first out: a batch's decoding has begun before it is observed.
            decoding = collections.deque(submit(_AHEAD * workers))
            observer = _Observer(spec, load())
            while decoding or pending:
                while decoding and len(pending) < _AHEAD * workers:
                    pending.append(pool.submit(observer.observe, *decoding.popleft()))
                    decoding += submit(1)
                on_batch(pending.popleft().result())
            list(pool.map(observer.finish, (0, 1)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return observer.merged()


class _Observer:
    """Shared by the threads; what they write to is their own."""

    def __init__(self, spec: PreprocessSpec, network: Network) -> None:
        self._spec = spec
        self._network = network
        self._input = network.graph.input.name
        self._fixed = network.graph.input.batch
        names = [name for name in network.names if name != self._input]
        proto = _serializable(network)
        later = None if self._fixed else _find_later(proto, names)
        if later is not None:
            names = [name for name in names if name not in later.names]
        folder = weights_folder(network.graph.path)
        self._first = _Piece(proto, self._input, names, folder)
        self._later = None if later is None else _Later(_Piece(proto, *later, folder))
        self._local = threading.local()
        self._counters: list[_Counter] = []

    def observe(self, part: int, decoding: Decoding) -> Observed:
        """Take one batch from pixels to histograms."""
        crops, skipped = decoding.result()
        if crops:
            counter = self._counter()
            counter.count_pixels(part, crops)
            fetched = self._run(counter.prepare(self._spec, crops))
            self._count(part, fetched)
            if self._later is not None:
                rows = fetched[self._later.source]
                if len(rows) != len(crops):
                    raise self._refused(len(crops), f"mismatch: {len(rows)} rows of answers")
                self._observe_later(part, self._later.add(part, rows))
        return Observed(part, len(crops), tuple(skipped))

    def finish(self, part: int) -> None:
        """Take what still waits for more images; called when every batch of a part was observed."""
        if self._later is not None:
            self._observe_later(part, self._later.take(part))

    def _observe_later(self, part: int, rows: AnyArray | None) -> None:
        if rows is not None and self._later is not None:
            self._count(part, self._infer(self._later.piece, rows))

    def _run(self, batch: AnyArray) -> Fetched:
        rows, fixed = len(batch), self._fixed
        if fixed is None or rows >= fixed:
            return self._infer(self._first, batch)
        # Repeat images to fill a fixed batch; only the first rows are observed.
        fetched = self._infer(self._first, batch.take(range(fixed), axis=0, mode="wrap"))
        # A transposed weight, say, has no row for each image.
        return {
            name: values[:rows] if values.shape[:1] == (fixed,) else values
            for name, values in fetched.items()
        }

    def _infer(self, piece: _Piece, batch: AnyArray) -> Fetched:
        try:
            return piece.run(batch)
        except Exception as error:  # onnxruntime raises classes of its C extension, without a base
            raise self._refused(len(batch), str(error).strip().splitlines()[0]) from error

    def _refused(self, count: int, reason: str) -> GraphError:
        return GraphError(
            f"{self._network.graph.path}: ONNX Runtime fails on {count} images ({reason})",
            hint="its batch size may be fixed within: try --batch-size 1",
        )

    def _counter(self) -> _Counter:
        counter: _Counter | None = getattr(self._local, "counter", None)
        if counter is None:
            counter = self._local.counter = _Counter()
            self._counters.append(counter)
        return counter

    def _count(self, part: int, fetched: Fetched) -> None:
        counter = self._counter()
        for name, values in fetched.items():
            try:
                counter.histogram(part, name).update(values)
            except ValueError as error:
                raise GraphError(
                    f"{self._network.graph.path}: tensor '{name}' holds {error}",
                    hint="check the checkpoint",
                ) from error

    def merged(self) -> list[Histograms]:
        """Return the histograms of both parts, of all threads."""
        levels = self._spec.levels()
        merged = []
        for part in (0, 1):
            histograms = {name: Histogram() for name in self._network.names}
            for counter in self._counters:
                for name, histogram in counter.parts[part].items():
                    histograms[name].merge(histogram)
                if self._input in histograms:
                    pixels = counter.pixels[part].reshape(-1)
                    histograms[self._input].update_counted(levels.reshape(-1), pixels)
            merged.append(histograms)
        return merged


class _Counter:
    """What one thread has seen: histograms of tensors, and counts of the images' bytes.

    A normalized image has 256 values for each channel, so counting bytes counts its floats.
    """

    def __init__(self) -> None:
        self.parts: tuple[Histograms, Histograms] = ({}, {})
        self.pixels: npt.NDArray[np.int64] = np.zeros((2, 3, 256), np.int64)
        self._buffer: AnyArray | None = None

    def prepare(self, spec: PreprocessSpec, crops: Sequence[UInt8Array]) -> AnyArray:
        """Return the network's input, in memory that the next batch uses again."""
        if self._buffer is None or len(self._buffer) < len(crops):
            self._buffer = spec.to_input(crops)
            return self._buffer
        return spec.to_input(crops, self._buffer)

    def histogram(self, part: int, name: str) -> Histogram:
        return self.parts[part].setdefault(name, Histogram())

    def count_pixels(self, part: int, crops: Sequence[UInt8Array]) -> None:
        for crop in crops:
            counts = Image.fromarray(np.ascontiguousarray(crop)).histogram()
            self.pixels[part] += np.reshape(counts, (3, 256))


def _decode(items: Sequence[ImageItem], spec: PreprocessSpec) -> Decoded:
    crops, skipped = [], []
    for item in items:
        try:
            crops.append(np.ascontiguousarray(spec.crop_center(spec.resize_shorter(item.load()))))
        except ImageError as error:
            skipped.append(SkippedImage(item.name, error.message))
    return crops, skipped


class _Piece:
    """A part of the network in a session on one core."""

    def __init__(
        self, model: onnx.ModelProto, source: str, names: Sequence[str], folder: Path
    ) -> None:
        piece = onnx.ModelProto()
        piece.CopyFrom(model)
        nodes = nodes_between(model, source, names)
        if nodes is not None:
            del piece.graph.node[:]
            piece.graph.node.extend(nodes)
            used = {name for node in nodes for name in node.input}
            constants = [item for item in model.graph.initializer if item.name in used]
            del piece.graph.initializer[:]
            piece.graph.initializer.extend(constants)
        if source not in {value.name for value in model.graph.input}:
            del piece.graph.input[:]
            piece.graph.input.append(_untyped(source))
        del piece.graph.output[:]
        piece.graph.output.extend(map(_untyped, names))
        del piece.graph.value_info[:]
        self.source, self._names = source, names
        options = RuntimeOptions(threads=1)
        self._session = create_session(piece.SerializeToString(), options, folder=folder)

    def run(self, batch: AnyArray) -> Fetched:
        return dict(
            zip(self._names, self._session.run(self._names, {self.source: batch}), strict=True)
        )


class _Later:
    """The fully connected layers, and the images that wait for them, of all threads."""

    def __init__(self, piece: _Piece) -> None:
        self.piece, self.source = piece, piece.source
        self._waiting: tuple[list[AnyArray], list[AnyArray]] = ([], [])
        self._lock = threading.Lock()

    def add(self, part: int, rows: AnyArray) -> AnyArray | None:
        """Let rows (N, …) wait; return all that wait once they are many."""
        with self._lock:
            self._waiting[part].append(rows)
            enough = sum(map(len, self._waiting[part])) >= _LATER_ROWS
            return self._pop(part) if enough else None

    def take(self, part: int) -> AnyArray | None:
        """Return what waits, or None."""
        with self._lock:
            return self._pop(part) if self._waiting[part] else None

    def _pop(self, part: int) -> AnyArray:
        rows = np.concatenate(self._waiting[part])
        self._waiting[part].clear()
        return rows


class _Cut(NamedTuple):
    """A tensor from which ``names`` can be computed, and nothing else is needed."""

    source: str
    names: Sequence[str]


def _find_later(model: onnx.ModelProto, names: Sequence[str]) -> _Cut | None:
    """Return where the fully connected layers begin, or None where nothing can be cut off."""
    for node in model.graph.node:
        if node.op_type in {"Gemm", "MatMul"} and node.input[0] in names:
            source = node.input[0]
            behind = {name: nodes_between(model, source, [name]) for name in names}
            later = [name for name, nodes in behind.items() if nodes]
            operators = {item.op_type for name in later for item in behind[name] or ()}
            reshaped = "Reshape" in operators  # maybe to the shape of a certain number of images
            return _Cut(source, later) if later and not reshaped else None
    return None


def _serializable(network: Network) -> onnx.ModelProto:
    import onnx_ir as ir

    model: onnx.ModelProto = ir.to_proto(network.prepared)
    return model


def _untyped(name: str) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
