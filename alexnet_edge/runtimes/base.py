"""The one interface over everything that executes a network.

A runtime is opened on one file, answers `infer`, and is closed. What a backend must write is
`_execute` and `_release`; checking the batch, splitting it for networks of a fixed batch size, and
refusing to run after `close` happen here, once.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alexnet_edge.closing import Closing
from alexnet_edge.errors import InputError, UnavailableError
from alexnet_edge.preprocess import AnyArray, PreprocessSpec
from alexnet_edge.results import TensorSpec

CUDA_GRAPH = ("auto", "on", "off")


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
    """How to run; whatever is asked for is what runs, or opening fails.

    Attributes:
        device: `cpu`, `cuda` or, of ONNX Runtime, `tensorrt` and `tensorrt,cuda`; `cuda:1` is the
            second GPU. None for the runtime's own: the GPU for TensorRT's engines, else the CPU.
        threads: CPU threads of an inference; None for all usable cores, divided among the callers.
        contexts: how many callers an engine serves at a time: TensorRT's with an execution context,
            stream and buffers for each, ONNX Runtime's on the CPU.
        cuda_graph: whether TensorRT's launches are recorded and replayed as one: `on`, `off`, or
            `auto` for where that works.
        zero_copy: whether TensorRT reads and writes host memory in place; None for GPUs that share
            their memory with the CPU.
        spin: whether ONNX Runtime's threads wait for the next inference by spinning. It then begins
            sooner, where nothing else needs the cores.
        huge_pages: whether ONNX Runtime's weights on the CPU move to huge pages, where the system
            gives some.
    """

    device: str | None = None
    threads: int | None = None
    contexts: int = 1
    cuda_graph: str = "auto"
    zero_copy: bool | None = None
    spin: bool = False
    huge_pages: bool = True

    def __post_init__(self) -> None:
        if self.contexts < 1:
            raise InputError(f"contexts is {self.contexts}", hint="give 1 or more")
        if self.cuda_graph not in CUDA_GRAPH:
            raise InputError(
                f"cuda_graph '{self.cuda_graph}' is unknown", hint=f"one of {', '.join(CUDA_GRAPH)}"
            )

    def choose_device(self, runtime: str, *, known: Sequence[str]) -> tuple[str, int]:
        """Return the kind of device and its number.

        Args:
            runtime: its name, for the error.
            known: the kinds that it runs on, its own first.

        Raises:
            UnavailableError: it does not run on what was asked for.
        """
        device = known[0] if self.device is None else self.device
        kind, colon, number = device.partition(":")
        is_numbered = number.isdecimal() and kind != "cpu"
        if kind not in known or (colon and not is_numbered):
            raise UnavailableError(
                f"device {device}: {runtime} runs on {', '.join(known)}",
                hint=f"use --device {known[0]}, or leave --device out",
            )
        return kind, int(number or 0)


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What is known of an opened engine.

    Attributes:
        path: its file.
        runtime: `torch`, `onnxruntime`, `tensorrt` or `tensorrt-rtx`.
        precision: `fp32`, `fp16` or `int8`.
        input, output: the image batch and the answers (N, classes).
        output_kind: `probabilities` or `logits`.
        model_sha256: of the FP32 model it was made from.
        preprocess, classes: None where nothing says.
    """

    path: Path
    runtime: str
    precision: str
    input: TensorSpec
    output: TensorSpec
    output_kind: str
    model_sha256: str
    preprocess: PreprocessSpec | None = None
    classes: tuple[str, ...] | None = None

    @property
    def size_bytes(self) -> int:
        """Size of the engine's file."""
        return self.path.stat().st_size


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """What a layer took.

    Attributes:
        name, op: as the runtime names them; no op where it names none.
        mean_us: microseconds of one inference, on average.
    """

    name: str
    op: str
    mean_us: float


class Runtime(Closing):
    """An opened network, for as many callers at a time as it has contexts.

    Attributes:
        info: what is known of it.
        contexts: how many callers at a time.
        on_gpu: whether it computes on a GPU.
    """

    name: ClassVar[str]
    contexts: int = 1
    on_gpu: bool = False

    def __init__(self, info: EngineInfo) -> None:
        self.info = info
        self._open = True

    def infer(self, batch: AnyArray) -> AnyArray:
        """Run one batch.

        Args:
            batch: of the dtype and shape of ``info.input``; where the batch size is fixed, of
                just that size.

        Returns:
            (N, classes) float32, probabilities or logits as ``info.output_kind`` says.

        Raises:
            InputError: another shape or dtype; nothing has been launched then.
        """
        self.check(batch)
        return self._execute(batch)

    def infer_any(self, batch: AnyArray) -> AnyArray:
        """Run a batch of any size: networks of a fixed batch size get it split and padded."""
        fixed = self.info.input.batch
        if fixed is None or batch.shape[:1] in {(), (0,), (fixed,)}:
            return self.infer(batch)  # which refuses what is no batch
        answers = []
        for start in range(0, len(batch), fixed):
            part = batch[start : start + fixed]
            padded = np.zeros((fixed, *part.shape[1:]), part.dtype)
            padded[: len(part)] = part
            answers.append(self.infer(padded)[: len(part)])
        return np.concatenate(answers)

    def check(self, batch: AnyArray) -> None:
        """Refuse a batch that the network does not take.

        Raises:
            InputError: naming what is expected and what came.
        """
        expected = self.info.input
        if not self._open:
            raise InputError(f"{self.info.path}: is closed", hint="open the engine again")
        fits = (
            batch.dtype == expected.dtype
            and batch.ndim == len(expected.shape)
            and len(batch) > 0
            and all(size in (None, got) for size, got in zip(expected.shape, batch.shape))  # noqa: B905
        )
        if not fits:
            found = "×".join(map(str, batch.shape))
            raise InputError(
                f"{self.info.path}: takes {expected}, not {found} {batch.dtype}",
                hint="prepare images with PreprocessSpec.to_input, and build for this batch size",
            )

    def describe(self) -> dict[str, Any]:
        """Return settings that a benchmark must state, as JSON values."""
        return {}

    def profile(self, batch: AnyArray, *, runs: int, warmup: int) -> tuple[LayerTime, ...]:
        """Time every layer, in the order in which they run.

        Measuring each layer costs time between them: their sum is more than an inference takes.

        Args:
            batch: as `infer` takes it.
            runs: how many to average.
            warmup: as many before, which do not count.

        Raises:
            UnavailableError: the runtime tells no times of layers.
        """
        raise UnavailableError(
            f"{self.info.path}: {self.info.runtime} tells no times of its layers",
            hint="leave the profile out",
        )

    def flush_device_cache(self) -> None:
        """Empty the cache of the GPU that it runs on.

        Raises:
            UnavailableError: it runs on none, or cannot.
        """
        raise UnavailableError(
            f"{self.info.path}: {self.info.runtime} cannot flush the cache of a GPU",
            hint="measure with a warm cache",
        )

    @abc.abstractmethod
    def _execute(self, batch: AnyArray) -> AnyArray: ...

    def _release(self) -> None:
        """Free what the backend holds beside memory; most hold nothing."""

    def close(self) -> None:
        """Free the network; a second call does nothing."""
        if self._open:
            self._open = False
            self._release()
