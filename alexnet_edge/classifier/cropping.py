"""`PreprocessSpec.from_rgb` for frames of a camera: the same bytes in about half the time.

Resizing 1280×720 to 455×256 and then cutting out 227×227 computes twice what is kept. Pillow
resizes the columns first and then the rows, each with weights in whole numbers, and a row of the
first pass or a column of the second depends on no other. So the rows that the crop does not need
can be left out, the second pass can run on the crop's columns alone, and the rows can be shared
among threads: the bytes stay the same by construction.

Columns can be left out of the first pass too, where the resized width has a period that input
columns share (1280 → 455 repeats every 256 → 91). Pillow computes the same weights then but for
the last bits of a double; `_period_columns` computes them both ways and takes the shortcut only
where that cannot change a single one of the whole-number weights. (Pillow's Resample.c,
precompute_coeffs and normalize_coeffs_8bpc.)

Which pass comes first is Pillow's choice: for tall images some versions take the rows first. So for
each new size of frames one of noise is cropped both ways, and unless the two are equal every frame
of that size goes through `from_rgb`.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from alexnet_edge.classifier.crew import Crew
from alexnet_edge.preprocess import PreprocessSpec, UInt8Array

_FILTERS = {
    "box": (Image.Resampling.BOX, 0.5),
    "bilinear": (Image.Resampling.BILINEAR, 1.0),
    "bicubic": (Image.Resampling.BICUBIC, 2.0),
}
_WEIGHT_ONE = 1 << 22
"""Pillow's weights are whole multiples of 1 / 2²²."""
_DOUBT = 1e-5
"""More than ten times what the last bits of the doubles can move a weight, in units of 1 / 2²²."""
_SIZES_KEPT = 16
_WORTHWHILE_PIXELS = 200_000
_SHARED_PIXELS = 400_000


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Which columns the first pass computes.

    Attributes:
        start, stop: of the input, a whole number of periods.
        first, count: of the resized width.
    """

    start: int
    stop: int
    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How frames of one size are cropped.

    Attributes:
        columns: of the first pass.
        margin: input columns beside them that the filter reaches.
        rows: of the input that the crop needs.
        height: after resizing.
        left, top: of the crop in the resized frame.
    """

    columns: _Columns
    margin: int
    rows: tuple[int, int]
    height: int
    left: int
    top: int


class FrameCropper:
    """Resizes and crops frames as `PreprocessSpec.from_rgb` does, byte for byte.

    Thread-safe.

    Args:
        spec: the preprocessing.
        threads: how many share a large frame, the caller's included.
    """

    def __init__(self, spec: PreprocessSpec, threads: int) -> None:
        self._spec = spec
        self._filter, self._support = _FILTERS[spec.interpolation]
        self._parts = max(1, threads)
        self._crew = Crew(self._parts - 1, "crop")
        self._shares = False
        self._plans: collections.OrderedDict[tuple[int, int], _Plan | None]
        self._plans = collections.OrderedDict()

    def crop(self, pixels: UInt8Array, threads: int | None = None) -> UInt8Array:
        """Return (crop, crop, 3) in the spec's colour order, of (H, W, 3) RGB.

        Args:
            pixels: the frame.
            threads: how many share it, if it is large; by default as many as there are. One is
                later with it, and takes less time of the cores in all.
        """
        height, width = pixels.shape[:2]
        try:
            plan = self._plans[width, height]
        except KeyError:
            plan = self._try_plan(width, height)
        if plan is None:
            self._shares = False
            return self._spec.from_rgb(pixels)
        return self._crop(pixels, plan, min(threads or self._parts, self._parts))

    def _try_plan(self, width: int, height: int) -> _Plan | None:
        """Return the plan for a size, if it holds good on noise; remember the last few sizes."""
        plan = _make_plan(self._spec, width, height)
        if plan is not None:
            noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
            if not np.array_equal(self._crop(noise, plan, self._parts), self._spec.from_rgb(noise)):
                plan = None
        self._plans[width, height] = plan
        while len(self._plans) > _SIZES_KEPT:
            with contextlib.suppress(KeyError):  # another thread was first
                self._plans.popitem(last=False)
        return plan

    def _crop(self, pixels: UInt8Array, plan: _Plan, threads: int) -> UInt8Array:
        (height, width), size = pixels.shape[:2], self._spec.crop
        start, stop = plan.rows
        parts = threads if (stop - start) * width >= _SHARED_PIXELS else 1
        self._shares = parts > 1
        rows, columns = _edges(start, stop, parts), _edges(0, size, parts)
        narrow = [Image.new("RGB", (high - low, height)) for low, high in columns]
        cropped = np.empty((size, size, 3), np.uint8)

        def resize_columns(strip: int) -> None:
            low, high = rows[strip]
            resized = self._first_pass(pixels[low:high], plan)
            for image, (left, right) in zip(narrow, columns, strict=True):
                image.paste(resized.crop((left, 0, right, high - low)), (0, low))

        def resize_rows(strip: int) -> None:
            left, right = columns[strip]
            small = narrow[strip].resize((right - left, plan.height), self._filter)
            cropped[:, left:right] = np.asarray(small)[plan.top : plan.top + size]

        self._crew.share(resize_columns, len(rows))
        self._crew.share(resize_rows, len(columns))
        return cropped[:, :, ::-1] if self._spec.color == "BGR" else cropped

    def rouse(self) -> None:
        """Say that a frame is about to come, so that the threads are awake when it does.

        They sleep on where the last frame was too small for them: the next one will be, too.
        """
        if self._shares:
            self._crew.rouse()

    def close(self) -> None:
        """End the threads."""
        self._crew.close()

    def _first_pass(self, rows: UInt8Array, plan: _Plan) -> Image.Image:
        columns = plan.columns
        low = max(0, columns.start - plan.margin)
        high = min(rows.shape[1], columns.stop + plan.margin)
        image = Image.fromarray(rows[:, low:high])
        resized = image.resize(
            (columns.count, len(rows)), self._filter,
            box=(columns.start - low, 0, columns.stop - low, len(rows)),
        )  # fmt: skip
        left = plan.left - columns.first
        return resized.crop((left, 0, left + self._spec.crop, len(rows)))


def _edges(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    """Return where each of so many equal parts of a range begins and ends."""
    edges = [start + (stop - start) * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _make_plan(spec: PreprocessSpec, width: int, height: int) -> _Plan | None:
    """Return how to crop frames of a size; None where `from_rgb` is as good."""
    shorter = min(width, height)
    new_width, new_height = spec.resize * width // shorter, spec.resize * height // shorter
    shrinks = new_width < width and new_height < height
    if not shrinks or width * height < _WORTHWHILE_PIXELS or max(width, height) > 64 * shorter:
        return None
    left, top = (new_width - spec.crop) // 2, (new_height - spec.crop) // 2
    support = _FILTERS[spec.interpolation][1]
    scale = height / new_height
    rows = (
        max(0, math.floor((top + 0.5 - support) * scale) - 1),
        min(height, math.ceil((top + spec.crop - 0.5 + support) * scale) + 1),
    )
    columns = _period_columns(width, new_width, (left, left + spec.crop), spec.interpolation)
    margin = math.ceil(support * width / new_width) + 2
    return _Plan(columns, margin, rows, new_height, left, top)


def _period_columns(width: int, new_width: int, wanted: tuple[int, int], name: str) -> _Columns:
    """Return the fewest whole periods that hold the wanted columns; all, where that is in doubt."""
    everything = _Columns(0, width, 0, new_width)
    periods = math.gcd(width, new_width)
    old, new = width // periods, new_width // periods
    first, last = wanted[0] // new, -(-wanted[1] // new)
    columns = _Columns(old * first, old * last, new * first, new * (last - first))
    if columns.count == new_width or not _is_exact(columns, width / new_width, width, name):
        return everything
    return columns


def _is_exact(columns: _Columns, scale: float, width: int, name: str) -> bool:
    """Whether the weights of these columns, computed from their own start, round to the same.

    Each weight must be further from where it would round to another whole number than the last
    bits of a double can move it, and so must the ends of the filter.
    """
    support = _FILTERS[name][1] * scale
    centers = columns.start + (np.arange(columns.count) + 0.5) * scale
    for edges in (centers - support + 0.5, centers + support + 0.5):
        if (np.abs(edges - np.rint(edges)) < 1e-9).any():
            return False
    lows = np.maximum(0, np.floor(centers - support + 0.5))
    highs = np.minimum(width, np.floor(centers + support + 0.5))
    taps = np.arange(math.ceil(2 * support) + 2)
    positions = lows[:, None] + taps
    weights = _kernel(name, (positions - centers[:, None] + 0.5) / scale)
    weights[positions >= highs[:, None]] = 0
    units = weights / weights.sum(axis=1, keepdims=True) * _WEIGHT_ONE
    fractions = np.abs(units) % 1
    return not (np.abs(fractions - 0.5) < _DOUBT).any()


def _kernel(name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Pillow's filters; bicubic is that of Keys (1981) with a = -0.5."""
    x = np.abs(x)
    if name == "box":
        return np.where(x <= 0.5, 1.0, 0.0)
    if name == "bilinear":
        return np.maximum(0.0, 1 - x)
    near, far = ((1.5 * x) - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
