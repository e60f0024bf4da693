"""The classifier itself; see the package."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_edge.classifier.cropping import FrameCropper
from alexnet_edge.closing import Closing
from alexnet_edge.errors import InputError
from alexnet_edge.machine import usable_cores
from alexnet_edge.preprocess import AnyArray, PreprocessSpec, UInt8Array, to_rgb
from alexnet_edge.runtimes.base import RuntimeOptions

if TYPE_CHECKING:
    from alexnet_edge.runtimes.base import EngineInfo

Picture: TypeAlias = UInt8Array | Image.Image | Path | str
"""What can be classified: (H, W, 3) uint8 RGB, a Pillow image, or an image file's path."""

Probabilities: TypeAlias = npt.NDArray[np.float64]

_DEFAULT_OPTIONS = RuntimeOptions()


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class of an answer.

    Attributes:
        label: the class's index.
        name: as the manifest names it; its index where nothing names the classes.
        probability: 0–1.
    """

    label: int
    name: str
    probability: float


class Classifier(Closing):
    """An engine that classifies pictures.

    Thread-safe: preparation runs in the callers' threads side by side; inferences take turns, or
    run side by side where ``options.contexts`` asks for that and the runtime does it.
    Close it, or use it as a context manager; it frees the engine and what the engine holds on a
    device.

    Args:
        engine: an engine with its manifest, an ONNX graph, or a checkpoint.
        options: device and threads.
        top_k: how many classes an answer names.
        preprocess: how pictures are prepared, for engines that do not say.
        classes: names in label order, for engines that do not say.

    Raises:
        InputError: it is no engine; nothing says how pictures are prepared; what is given
            contradicts what the engine says.
        StaleArtifactError: the engine is not the one that its manifest describes.
        UnavailableError: this machine cannot run it.
    """

    def __init__(
        self,
        engine: Path | str,
        options: RuntimeOptions = _DEFAULT_OPTIONS,
        *,
        top_k: int = 3,
        preprocess: PreprocessSpec | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        from alexnet_edge.runtimes.loader import open_engine

        if top_k < 1:
            raise InputError(f"top_k is {top_k}", hint="give 1 or more")
        self._top_k = top_k
        self._closing = threading.Lock()
        self._runtime = open_engine(Path(engine), options)
        self._turns = threading.BoundedSemaphore(self._runtime.contexts)
        try:
            self.info: EngineInfo = self._runtime.info
            self.spec = _choose_spec(self.info, preprocess)
            self.classes = _choose_classes(self.info, classes)
            self._cropper = FrameCropper(self.spec, min(2, options.threads or usable_cores()))
        except BaseException:
            self._runtime.close()
            raise

    def classify(self, frame: Picture, *, top_k: int | None = None) -> tuple[Prediction, ...]:
        """Return the most probable classes of one picture, best first.

        Args:
            frame: (H, W, 3) uint8 RGB pixels, a Pillow image, or the path of an image file.
            top_k: how many; by default as the classifier was opened with.

        Raises:
            ImageError: the file cannot be decoded.
            InputError: not RGB pixels of 8 bits, or the classifier is closed.
        """
        return self.rank(self.infer(self.prepare(frame))[0], top_k)

    def prepare(self, frame: Picture, *, threads: int | None = None) -> AnyArray:
        """Return the network's input, (1, …), of one picture; see `PreprocessSpec`.

        Args:
            frame: as for `classify`.
            threads: how many share the work, of those there are for it. One is later with it, and
                takes less time of the cores in all.

        Raises:
            ImageError: the file cannot be decoded.
            InputError: not RGB pixels of 8 bits.
        """
        if isinstance(frame, (str, Path)):
            return self.spec.to_input([self.spec.decode(Path(frame))])
        if isinstance(frame, Image.Image):
            return self.spec.to_input([self._cropper.crop(_pixels_of(frame), threads)])
        expected = isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3
        if not expected or frame.dtype != np.uint8 or 0 in frame.shape:
            what = f"{frame.shape} {frame.dtype}" if isinstance(frame, np.ndarray) else type(frame)
            raise InputError(
                f"a frame is {what}",
                hint="give (height, width, 3) uint8 pixels in RGB order, a Pillow image or a path",
            )
        return self.spec.to_input([self._cropper.crop(frame, threads)])

    def rouse(self) -> None:
        """Say that a picture is about to be prepared, so that the threads for it are awake."""
        self._cropper.rouse()

    def infer(self, batch: AnyArray) -> Probabilities:
        """Return probabilities (N, classes) for N prepared pictures.

        Raises:
            InputError: another shape or dtype, or the classifier is closed.
        """
        with self._turns:
            answers = self._runtime.infer_any(batch)
        if self.info.output_kind == "probabilities":
            return answers.astype(np.float64)
        return softmax(answers)

    def rank(
        self, probabilities: Probabilities, top_k: int | None = None
    ) -> tuple[Prediction, ...]:
        """Return the ``top_k`` most probable classes, best first; equal ones by their index."""
        order = np.argsort(-probabilities, kind="stable")[: top_k or self._top_k]
        return tuple(
            Prediction(int(label), self.name_of(int(label)), float(probabilities[label]))
            for label in order
        )

    def name_of(self, label: int) -> str:
        """Return a class's name; its index where nothing names the classes."""
        return self.classes[label] if self.classes is not None else str(label)

    def warm_up(self, runs: int = 3) -> None:
        """Run the engine on an empty picture, so that the first real one finds it ready."""
        blank = np.zeros((self.spec.resize, self.spec.resize, 3), np.uint8)
        for _ in range(runs):
            self.infer(self.prepare(blank))

    def warm_up_batch(self, most: int) -> int:
        """Return the largest power of two up to ``most`` that the engine takes as one batch."""
        blank = self.prepare(np.zeros((self.spec.resize, self.spec.resize, 3), np.uint8))
        fixed = self.info.input.batch
        if fixed is not None:
            return min(fixed, most)
        while most > 1:
            try:
                self.infer(np.repeat(blank, most, axis=0))
            except InputError:  # beyond a TensorRT engine's profile
                most //= 2
            else:
                break
        return most

    @property
    def callers(self) -> int:
        """How many inferences run at a time."""
        return self._runtime.contexts

    def describe(self) -> dict[str, object]:
        """Return the runtime's settings, as JSON values."""
        return self._runtime.describe()

    def close(self) -> None:
        """Free the engine, after the inference in progress; a second call does nothing."""
        with self._closing:
            for _ in range(self.callers):
                self._turns.acquire()
            self._runtime.close()
            for _ in range(self.callers):
                self._turns.release()
        self._cropper.close()


def softmax(logits: AnyArray) -> Probabilities:
    """Return probabilities (N, classes) of logits (N, classes)."""
    shifted = logits.astype(np.float64)
    powers = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    found: Probabilities = powers / powers.sum(axis=1, keepdims=True)
    return found


def _pixels_of(image: Image.Image) -> UInt8Array:
    """Return upright RGB pixels of a Pillow image, by the rules that files are decoded with."""
    if image.mode != "RGB" or image.getexif().get(0x0112, 1) != 1:
        return np.asarray(to_rgb(image, "the image"))
    return np.asarray(image)


def _choose_spec(info: EngineInfo, given: PreprocessSpec | None) -> PreprocessSpec:
    spec = info.preprocess or given
    if spec is None:
        raise InputError(
            f"{info.path}: does not say how images are prepared",
            hint="build it again with --resize, --crop, --mean and --std",
        )
    if given is not None and (differences := spec.differences(given)):
        raise InputError(
            f"{info.path}: prepares images otherwise ({', '.join(differences)})",
            hint="leave the preprocessing out: the engine brings its own",
        )
    return spec.with_input(info.input.dtype)


def _choose_classes(info: EngineInfo, given: Sequence[str] | None) -> tuple[str, ...] | None:
    if given is None:
        return info.classes
    outputs = info.output.shape[1]
    if outputs not in {None, len(given)}:
        raise InputError(
            f"{info.path}: has {outputs} outputs, {len(given)} classes are named",
            hint="give one name for each output, in label order",
        )
    if info.classes is not None and info.classes != tuple(given):
        raise InputError(
            f"{info.path}: names other classes than those given",
            hint="leave the classes out: the engine brings its own",
        )
    return tuple(given)
