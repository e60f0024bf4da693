"""A folder of images as a source: decoded as parity decodes them, every one delivered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_edge.camera.sources.base import CorruptFrameError, Picture
from alexnet_edge.camera.sources.uri import SourceName
from alexnet_edge.dataset import ImageItem, open_images
from alexnet_edge.errors import ImageError


class FolderSource:
    """The images of a folder, of class folders, or a single image, by name.

    Raises:
        DatasetError: the folder holds no images.
    """

    def __init__(self, name: SourceName) -> None:
        self.name = name.shown
        self.live = self.reopens = False
        self.fps = float(name.number("fps", 0)) or None
        path = Path(name.location)
        self._items = open_images(path).items if path.is_dir() else (ImageItem(path.name, path),)

    def open(self) -> FolderStream:
        """Begin with the first image."""
        return FolderStream(self._items)

    def describe(self) -> list[str]:
        """Return how many images there are."""
        return [f"{len(self._items)} images, from {self._items[0].name}"]


class FolderStream:
    """One pass over the images."""

    def __init__(self, items: tuple[ImageItem, ...]) -> None:
        self._items: Iterator[ImageItem] = iter(items)

    def read(self) -> Picture | None:
        """Decode the next image.

        Raises:
            CorruptFrameError: it cannot be decoded.
        """
        item = next(self._items, None)
        if item is None:
            return None
        captured_s, wall_time = time.monotonic(), time.time()
        try:
            pixels = np.asarray(item.load())
        except ImageError as error:
            raise CorruptFrameError(error.message, hint=error.hint) from error
        spent_ms = (time.monotonic() - captured_s) * 1e3
        return Picture(lambda: pixels, captured_s, wall_time, spent_ms, name=item.name)

    def interrupt(self) -> None:
        """Nothing here waits."""

    def close(self) -> None:
        """Nothing is held."""
