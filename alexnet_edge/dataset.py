"""Folders of images, class folders and the bundled digits, decoded ahead of the network.

images = open_images("signs/val")
for batch in ImageReader(images, spec, batch_size=8):
probabilities = engine.infer(batch.tensor)
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from alexnet_edge.artifacts import sha256_file
from alexnet_edge.errors import DatasetError, ImageError, MissingDependencyError
from alexnet_edge.machine import usable_cores
from alexnet_edge.preprocess import AnyArray, PreprocessSpec, UInt8Array, load_rgb

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
)
_NOT_DATA = frozenset(("Thumbs.db", "desktop.ini"))

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class ImageItem:
    """One image, not yet read.

    Attributes:
        name: path relative to its set, or an identifier of a bundled image.
        source: the file, or (H, W, 3) uint8 RGB pixels.
        label: index into the set's classes; None where the set has none.
    """

    name: str
    source: Path | UInt8Array
    label: int | None = None

    def load(self) -> Image.Image:
        """Return the upright RGB image.

        Raises:
            ImageError: it cannot be decoded.
        """
        if isinstance(self.source, Path):
            return load_rgb(self.source)
        return Image.fromarray(self.source)

    @property
    def sha256(self) -> str:
        """The hash of the file's bytes, or of the bundled pixels."""
        if isinstance(self.source, Path):
            return sha256_file(self.source)
        return hashlib.sha256(self.source.tobytes()).hexdigest()


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """A named, ordered list of images.

    Attributes:
        name: where it came from, as the user wrote it.
        items: the images.
        classes: class names in label order; None for an unlabelled set.
    """

    name: str
    items: tuple[ImageItem, ...]
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, count: int | None, *, seed: int = 0) -> ImageSet:
        """Return ``count`` images chosen at random by ``seed``, evenly over the classes.

        The choice depends on the names alone, so the same folder gives the same images.
        """
        if count is None or count >= len(self.items):
            return self
        rng = np.random.default_rng(seed)
        by_label: dict[int | None, list[ImageItem]] = {}
        for item in self.items:
            by_label.setdefault(item.label, []).append(item)
        queues = [[group[i] for i in rng.permutation(len(group))] for group in by_label.values()]
        rounds = itertools.chain.from_iterable(itertools.zip_longest(*queues))
        chosen = {item.name for item in itertools.islice(filter(None, rounds), count)}
        return dataclasses.replace(
            self, items=tuple(item for item in self.items if item.name in chosen)
        )

    def with_classes(self, classes: Sequence[str]) -> ImageSet:
        """Return the set with its labels expressed as indices into ``classes``.

        Raises:
            DatasetError: a class folder is not among ``classes``.
        """
        if self.classes is None:
            return self
        positions = {name: index for index, name in enumerate(classes)}
        unknown = [name for name in self.classes if name not in positions]
        if unknown:
            raise DatasetError(
                f"{self.name}: class folder '{unknown[0]}' is not a class of the model "
                f"({_shorten(classes)})",
                hint="name the folders as the model's classes, or pass --classes FILE",
            )
        names = self.classes
        items = (
            dataclasses.replace(
                item, label=None if item.label is None else positions[names[item.label]]
            )
            for item in self.items
        )
        return dataclasses.replace(self, items=tuple(items), classes=tuple(classes))


def open_images(source: str | Path) -> ImageSet:
    """Open a set of images.

    Args:
        source: a folder of images; a folder of class folders; or `digits:train`, `digits:val`,
            `digits` (both): scikit-learn's 1,797 handwritten digits.

    Raises:
        DatasetError: no such folder, or no images in it, or images beside class folders.
        MissingDependencyError: digits were asked for and scikit-learn is missing.
    """
    name = str(source)
    if name == "digits" or name.startswith("digits:"):
        return _open_digits(name.partition(":")[2] or "all")
    folder = Path(source)
    if not folder.is_dir():
        state = "is a file, a folder is expected" if folder.exists() else "no such folder"
        raise DatasetError(f"{folder}: {state}", hint="give a folder of images or class folders")
    folders = [
        child for child in sorted(folder.iterdir()) if child.is_dir() and child.name[0] != "."
    ]
    groups = {child.name: _files(child) for child in folders}
    direct = _files(folder)
    has_images = any(path.suffix.lower() in IMAGE_SUFFIXES for path in direct)
    if any(groups.values()) and has_images:
        raise DatasetError(
            f"{folder}: holds images beside the class folders {_shorten(list(groups))}",
            hint="move the images into class folders, or give one of the folders",
        )
    if any(groups.values()):
        items = tuple(
            ImageItem(f"{label_name}/{path.name}", path, label)
            for label, (label_name, files) in enumerate(groups.items())
            for path in files
        )
        return ImageSet(name, items, tuple(groups))
    nested = [child for child in folders if any(child.glob("*/*"))]
    if nested and not has_images:
        raise DatasetError(
            f"{folder}: holds folders of class folders", hint=f"give one of them: {nested[0]}"
        )
    if not direct:
        raise DatasetError(f"{folder}: holds no images", hint="give a folder of images")
    return ImageSet(name, tuple(ImageItem(path.name, path) for path in direct))


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name not in _NOT_DATA
    )


def _open_digits(part: str) -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingDependencyError(
            "scikit-learn", needed_for="the digits", extra="demo"
        ) from None
    if part not in {"all", "train", "val"}:
        raise DatasetError(
            f"digits:{part}: no such part", hint="give digits, digits:train or digits:val"
        )
    data = load_digits()
    pixels = np.repeat((data.images * (255 / 16)).astype(np.uint8)[..., None], 3, axis=3)
    items = tuple(
        ImageItem(f"digits/{index:04d}", image, int(label))
        for index, (image, label) in enumerate(zip(pixels, data.target, strict=True))
        # Every fifth is for validation: a fixed choice, with images of every class.
        if part == "all" or (part == "val") == (index % 5 == 4)
    )
    name = "digits" if part == "all" else f"digits:{part}"
    return ImageSet(name, items, tuple(str(digit) for digit in range(10)))


@dataclasses.dataclass(frozen=True)
class Batch:
    """A batch of decoded images.

    Attributes:
        items: the images that are in it.
        tensor: the network's input, as `PreprocessSpec.to_input` gives it.
    """

    items: tuple[ImageItem, ...]
    tensor: AnyArray

    def __len__(self) -> int:
        return len(self.items)


@dataclasses.dataclass(frozen=True)
class SkippedImage:
    """An image that could not be decoded, and why."""

    name: str
    reason: str


class ImageReader:
    """Iterate over a set in batches, decoding on threads ahead of the consumer.

    Args:
        images: the set, read in its order.
        spec: the preprocessing.
        batch_size: images per batch; the last may be smaller.
        workers: decoding threads; by default one per core. The result does not depend on it.
        max_bad: the share of images that may fail to decode.

    Attributes:
        skipped: the images that could not be decoded so far.

    Raises:
        DatasetError: while iterating, once more than ``max_bad`` of the images have failed.
    """

    def __init__(
        self,
        images: ImageSet,
        spec: PreprocessSpec,
        *,
        batch_size: int = 8,
        workers: int | None = None,
        max_bad: float = 0.01,
    ) -> None:
        self.images = images
        self.spec = spec
        self.batch_size = batch_size
        self.workers = workers or usable_cores()
        self.max_bad = max_bad
        self.skipped: list[SkippedImage] = []

    def __iter__(self) -> Iterator[Batch]:
        self.skipped = []
        ready: list[tuple[ImageItem, UInt8Array]] = []
        window = max(2 * self.batch_size, 2 * self.workers)
        for item, crop in map_ahead(
            self._decode, self.images.items, workers=self.workers, window=window
        ):
            if isinstance(crop, ImageError):
                self._skip(item, crop)
                continue
            ready.append((item, crop))
            if len(ready) == self.batch_size:
                yield self._collate(ready)
                ready = []
        if ready:
            yield self._collate(ready)
        require_readable(self.images, self.skipped, max_bad=self.max_bad)

    def _decode(self, item: ImageItem) -> tuple[ImageItem, UInt8Array | ImageError]:
        try:
            return item, self.spec.crop_center(self.spec.resize_shorter(item.load()))
        except ImageError as error:
            return item, error

    def _collate(self, ready: Sequence[tuple[ImageItem, UInt8Array]]) -> Batch:
        items, crops = zip(*ready, strict=True)
        return Batch(tuple(items), self.spec.to_input(crops))

    def _skip(self, item: ImageItem, error: ImageError) -> None:
        self.skipped.append(SkippedImage(item.name, error.message))
        require_readable(self.images, self.skipped, max_bad=self.max_bad)


def require_readable(images: ImageSet, skipped: Sequence[SkippedImage], *, max_bad: float) -> None:
    """Refuse a set of which too many images, or all, could not be read.

    Raises:
        DatasetError: naming the first of them.
    """
    if len(skipped) <= max_bad * len(images) and len(skipped) < len(images):
        return
    first = "; ".join(f"{item.reason}" for item in skipped[:3])
    bound = f", more than {max_bad:.1%}" if max_bad < 1 else ""
    raise DatasetError(
        f"{images.name}: {len(skipped)} of {len(images)} files so far could not be read as "
        f"images{bound} ({first})",
        hint="mend or remove them" + (", or allow more with --max-bad" if bound else ""),
    )


def drop_unreadable(images: ImageSet, *, max_bad: float) -> tuple[ImageSet, list[SkippedImage]]:
    """Decode every image once; return the set without those that fail, and these.

    Raises:
        DatasetError: more than ``max_bad`` of them fail.
    """
    smallest = PreprocessSpec(resize=1, crop=1, interpolation="box", input="uint8")
    reader = ImageReader(images, smallest, batch_size=64, max_bad=max_bad)
    items = tuple(item for batch in reader for item in batch.items)
    return dataclasses.replace(images, items=items), reader.skipped


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], *, workers: int, window: int
) -> Iterator[R]:
    """Apply ``function`` on threads, at most ``window`` items ahead, yielding in order.

    The threads end when the iterator is exhausted or closed.
    """
    pending: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    remaining = iter(items)
    pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for item in itertools.islice(remaining, window):
            pending.append(pool.submit(function, item))
        while pending:
            result = pending.popleft().result()
            for item in itertools.islice(remaining, 1):
                pending.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_classes(path: Path) -> tuple[str, ...]:
    """Read class names, one a line, in label order.

    Raises:
        DatasetError: the file is missing, empty, or names a class twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: {error}", hint="give a text file, a class a line") from error
    names = [line.strip() for line in lines if line.strip()]
    repeated = [name for name, count in collections.Counter(names).items() if count > 1]
    if repeated or not names:
        problem = f"names '{repeated[0]}' twice" if repeated else "names no class"
        raise DatasetError(f"{path}: {problem}", hint="give a text file, a class a line")
    return tuple(names)


def _shorten(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … {len(names)} in all"
