"""Small pictures of the images that a result names, as data URIs."""

from __future__ import annotations

import base64
from io import BytesIO

from alexnet_edge.dataset import ImageItem, open_images
from alexnet_edge.errors import AlexnetEdgeError, ImageError
from alexnet_edge.results_files.rows import ParityRow

SIZE_PX = 96
_QUALITY = 78


class Thumbnails:
    """Finds images by their names within their folder; never outside it.

    Args:
        folder: where the images are; None for where each result says that they were.

    Attributes:
        missing: names of which there is no picture, in order.
        reasons: why, folder by folder or image by image.

    Raises:
        DatasetError: ``folder`` is no folder of images.
    """

    def __init__(self, folder: str | None = None) -> None:
        self._given = None if folder is None else self._read(folder)
        self._sets: dict[str, dict[str, ImageItem]] = {}
        self._made: dict[tuple[str, str], str | None] = {}
        self.missing: list[str] = []
        self.reasons: list[str] = []

    def of(self, row: ParityRow, image: str) -> str | None:
        """Return a JPEG of at most 96 × 96 pixels as a data URI; None where it cannot be had."""
        where = "" if self._given is not None else str(row.raw.get("images_name") or "")
        if (where, image) not in self._made:
            made = self._made[where, image] = self._make(self._items(where), image)
            if made is None:
                self.missing.append(image)
        return self._made[where, image]

    def _items(self, where: str) -> dict[str, ImageItem]:
        if self._given is not None:
            return self._given
        if where not in self._sets:
            try:
                self._sets[where] = self._read(where) if where else {}
            except AlexnetEdgeError as error:
                self._sets[where] = {}
                self.reasons.append(error.message)
        return self._sets[where]

    @staticmethod
    def _read(folder: str) -> dict[str, ImageItem]:
        return {item.name: item for item in open_images(folder).items}

    def _make(self, items: dict[str, ImageItem], image: str) -> str | None:
        item = items.get(image)
        if item is None:
            return None
        try:
            picture = item.load()
        except ImageError as error:
            self.reasons.append(error.message)
            return None
        if max(picture.size) < SIZE_PX:  # the digits have 8 × 8 pixels
            scale = SIZE_PX // max(picture.size)
            picture = picture.resize((picture.width * scale, picture.height * scale), 0)
        picture.thumbnail((SIZE_PX, SIZE_PX))
        out = BytesIO()
        picture.save(out, "JPEG", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
