"""What engines are fed: images, prepared as each engine wants them, or random values.

Most engines take as long whatever they see. Those that skip the weights of zeros do not, and random
values leave other zeros than photos do; only images tell how long they take in use.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from alexnet_edge.artifacts import sha256_json
from alexnet_edge.dataset import ImageReader, ImageSet
from alexnet_edge.errors import InputError
from alexnet_edge.manifest import find_manifest
from alexnet_edge.preprocess import AnyArray, PreprocessSpec
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.base import EngineInfo

SYNTHETIC, IMAGES = "synthetic", "images"

MOST_IMAGES = 32
_POOL_BYTES = 64 << 20
"""Of different batches that an engine goes through."""


@dataclasses.dataclass(frozen=True)
class InputSummary:
    """What engines were fed.

    Attributes:
        kind: `images`, or `synthetic` (random of the input's type).
        images: how many different ones.
        sha256: of their contents, in order; None of synthetic input.
        name: the set as it was given.
        skipped: names of images that could not be read.
    """

    kind: str
    images: int = 0
    sha256: str | None = None
    name: str | None = None
    skipped: tuple[str, ...] = ()


class Inputs:
    """Makes the batches of a run, or of several: images are read once for all of them.

    Args:
        images: at most `MOST_IMAGES` of them are taken, by chance; None for random values.
        seed: of the choice, and of random values.

    Attributes:
        summary: what the batches are of, as soon as some were made.
    """

    def __init__(self, images: ImageSet | None, seed: int = 0) -> None:
        self._images = None if images is None else images.sample(MOST_IMAGES, seed=seed)
        self._seed = seed
        self._prepared: dict[PreprocessSpec, AnyArray] = {}
        self.summary = InputSummary(SYNTHETIC)

    def make(self, info: EngineInfo, size: int | None, *, of_random: int = 1) -> list[AnyArray]:
        """Return batches for an engine: as many as it takes for every image to come up.

        There are fewer where they would take too much memory.

        Args:
            info: of the engine.
            size: images in each; None for the engine's fixed batch size, or 1. Where there are
                fewer images, they are repeated.
            of_random: batches of random values, at most.

        Raises:
            DatasetError: none of the images can be read.
            InputError: the engine does not say how images are prepared.
        """
        spec = info.input
        size = size or spec.batch or 1
        one = math.prod(count or 1 for count in spec.shape[1:]) * np.dtype(spec.dtype).itemsize
        fitting = max(1, _POOL_BYTES // (size * one))
        if self._images is None:
            count = min(fitting, of_random)
            return [synthetic_input(spec, size, seed=self._seed + index) for index in range(count)]
        prepared = self._prepare(self._images, info)
        count = min(fitting, math.ceil(len(prepared) / size))
        chosen = np.arange(count * size) % len(prepared)
        return list(prepared[chosen].reshape(count, size, *prepared.shape[1:]))

    def _prepare(self, images: ImageSet, info: EngineInfo) -> AnyArray:
        """Return all images as an engine takes them; engines that prepare alike share them."""
        spec = info.preprocess
        if spec is None:
            raise InputError(
                f"{info.path}: does not say how images are prepared",
                hint="build it again with --resize, --crop, --mean and --std, or give no --images",
            )
        if spec not in self._prepared:
            reader = ImageReader(images, spec, max_bad=1)
            batches = list(reader)
            self._prepared[spec] = np.concatenate([batch.tensor for batch in batches])
            digest = sha256_json([item.sha256 for batch in batches for item in batch.items])
            skipped = tuple(item.name for item in reader.skipped)
            count = len(self._prepared[spec])
            self.summary = InputSummary(IMAGES, count, digest, images.name, skipped)
        return self._prepared[spec]


def depends_on_input(info: EngineInfo) -> bool:
    """Whether an engine's latency does: some of its layers skip the weights of zeros."""
    manifest = find_manifest(info.path)
    return manifest is not None and bool(manifest.options.get("zero_skipping"))


def synthetic_input(spec: TensorSpec, batch: int | None, *, seed: int) -> AnyArray:
    """Return a random batch: uniform bytes, or standard normal floats as normalized images are."""
    rng = np.random.default_rng(seed)
    shape = (batch or spec.batch or 1, *(size or 1 for size in spec.shape[1:]))
    if spec.dtype == "uint8":
        return rng.integers(0, 256, shape, np.uint8)
    return rng.standard_normal(shape, np.float32)
