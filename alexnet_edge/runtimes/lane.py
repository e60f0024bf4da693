"""What one caller of a TensorRT engine needs, and the pool that callers take turns with."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from alexnet_edge.errors import InputError, UnavailableError
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.cuda import Buffer, CudaDevice, GraphApi

if TYPE_CHECKING:
    import tensorrt as trt

_UNRECORDED = "not recorded yet"


@dataclasses.dataclass(frozen=True)
class LaneSettings:
    """How lanes run.

    Attributes:
        input, output: the engine's tensors.
        zero_copy: buffers are mapped into the device instead of copied.
        graphs: records launches; None to launch each time.
        graph_required: a launch that cannot be recorded is an error.
        native_graphs: the execution context records graphs by itself.
    """

    input: TensorSpec
    output: TensorSpec
    zero_copy: bool = False
    graphs: GraphApi | None = None
    graph_required: bool = False
    native_graphs: bool = False


class Lane:
    """An execution context with its stream and buffers; one caller at a time.

    A CUDA graph holds addresses and the state of the execution context that it was captured from;
    once the context changes, replaying it is undefined (TensorRT's developer guide, CUDA Graphs).
    So a lane keeps one graph, of the shape that it ran last, drops it before the shape changes, and
    records a shape when it comes a second time in a row. The first time it is launched plainly,
    which TensorRT needs before a capture, and which shapes that alternate cost nothing more.

    Attributes:
        graph_state: `off`, `not recorded yet`, `recorded`, `left to the runtime`, or why launches
            are plain.
    """

    def __init__(self, device: CudaDevice, settings: LaneSettings) -> None:
        self._device, self._settings = device, settings
        self._source = Buffer(device.driver, mapped=settings.zero_copy)
        self._sink = Buffer(device.driver, mapped=settings.zero_copy)
        self._context: trt.IExecutionContext  # from `open` to `close`, as the stream
        self._stream: Any
        self._graph: int | None = None
        self._shape: tuple[int, ...] | None = None
        self._images = self._answers = np.empty(0)
        self.graph_state = _UNRECORDED if settings.graphs else "off"
        if settings.native_graphs:
            self.graph_state = "left to the runtime"

    def open(self, create_context: Callable[[], trt.IExecutionContext | None]) -> None:
        """Create the stream and the execution context; the device is active.

        Args:
            create_context: TensorRT's answer, None where it fails. The engine itself is not given:
                the traceback of a failure would keep it beyond its runtime and CUDA context.

        Raises:
            UnavailableError: TensorRT creates none.
        """
        self._stream = self._device.driver.Stream()
        context = create_context()
        if context is None:
            raise UnavailableError(
                f"{self._device.path}: no execution context could be created",
                hint="use fewer contexts, or close what else runs on this GPU",
            )
        self._context = context

    def run(self, batch: AnyArray) -> AnyArray:
        """Run a batch that was checked; the device is active.

        Raises:
            InputError: the engine's optimization profile does not reach to this batch size;
                nothing has been launched then.
            UnavailableError: the launch fails.
        """
        again = batch.shape == self._shape
        if not again:
            self._bind(batch.shape)
        self._images[...] = batch
        graphs = self._settings.graphs
        if graphs and again and self.graph_state == _UNRECORDED:
            self._record(graphs)
        if graphs and self._graph is not None:
            graphs.launch(self._graph, self._stream.handle)
        else:
            self._launch()
        self._stream.synchronize()
        return self._answers.astype(np.float32)  # a copy: the next batch overwrites the buffer

    def _bind(self, shape: tuple[int, ...]) -> None:
        """Set the shape, and addresses of buffers that are large enough for it."""
        source, sink = self._settings.input, self._settings.output
        self._drop_graph()
        self._shape = None
        if not self._context.set_input_shape(source.name, shape):
            raise InputError(
                f"{self._device.path}: takes no batch of {shape[0]}",
                hint="build it for this size: alexnet-edge build --batch MIN,OPT,MAX",
            )
        answers: Any = self._context.get_tensor_shape(sink.name)
        self._images = self._source.reserve(shape, source.dtype)
        self._answers = self._sink.reserve(tuple(answers), sink.dtype)
        for spec, buffer in ((source, self._source), (sink, self._sink)):
            if not self._context.set_tensor_address(spec.name, buffer.pointer):
                raise UnavailableError(
                    f"{self._device.path}: has no tensor {spec.name}",
                    hint="build it again with: alexnet-edge build",
                )
        self._shape = shape

    def _launch(self) -> None:
        self._source.upload(self._stream)
        if not self._context.execute_async_v3(self._stream.handle):
            raise UnavailableError(
                f"{self._device.path}: execution failed",
                hint="check the GPU with: alexnet-edge doctor",
            )
        self._sink.download(self._stream)

    def _record(self, graphs: GraphApi) -> None:
        try:
            with self._device.translated():
                self._graph = graphs.record(self._stream.handle, self._launch)
        except UnavailableError as error:
            if self._settings.graph_required:
                raise UnavailableError(
                    f"{self._device.path}: no CUDA graph can be recorded ({error.message})",
                    hint="leave CUDA graphs to auto, or off",
                ) from error
            self.graph_state = f"plain launches: {error.message}"
        else:
            self.graph_state = "recorded"

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None and self._settings.graphs is not None:
            self._settings.graphs.destroy(graph)
            self.graph_state = _UNRECORDED

    def close(self) -> None:
        """Free graph, execution context, buffers and stream, in this order; the device is active.

        What was not opened, or is closed already, is passed over.
        """
        with contextlib.ExitStack() as stack:  # each step is taken, whatever the one before did
            stack.callback(self._drop, "_stream")
            stack.callback(self._sink.free)
            stack.callback(self._source.free)
            stack.callback(self._drop, "_context")
            stack.callback(self._drop_graph)
            if hasattr(self, "_stream"):
                self._stream.synchronize()

    def _drop(self, name: str) -> None:
        """Let go of what frees itself then, if it is there."""
        vars(self).pop(name, None)


class LanePool:
    """Lanes that callers take turns with."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._free, self._count = list(lanes), len(lanes)
        self._changed = threading.Condition()
        self._closed = False

    @contextlib.contextmanager
    def acquire(self) -> Iterator[Lane]:
        """Yield a lane that nobody uses, once there is one.

        Raises:
            InputError: the pool was closed meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise InputError("the engine is closed", hint="open the engine again")
            lane = self._free.pop()
        try:
            yield lane
        finally:
            with self._changed:
                self._free.append(lane)
                self._changed.notify_all()

    def close(self) -> None:
        """Turn new callers away, and wait for those that are running."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == self._count)
