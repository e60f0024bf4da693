"""Rounding that makes up for itself: each weight's error is carried by the weights still to round.

A layer's answers change by ``e·x``, where ``e`` is what rounding took off a row of its weights and
``x`` what it reads. Over many images the squared change is ``e·H·eᵀ`` with the second moments
``H = mean(x·xᵀ)``; rounding to the nearest makes ``e`` short, not this. So column by column the
weights that are not rounded yet are moved to cancel what the rounded ones did (Frantar et al.,
GPTQ, 2022, arXiv 2210.17323).

The paper walks along the Cholesky factor of H's inverse. Here H itself is factored, into R·Rᵀ with
R upper triangular: ``e·H·eᵀ`` is the sum of the squares of ``(e·R)_j``, of which the j-th holds the
errors of the columns up to j alone, and the same choices follow:

    q_j = round(w_j + Σ_{i<j} e_i·R_ij / R_jj)        e_j = w_j - q_j

No inverse is computed, weights are moved where they are looked at only, and what earlier columns
add is a product of matrices. A layer of 4096 × 9216 takes some seconds on two cores.

    moments = InputMoments(features=4096)
    for batch in inputs:
        moments.add(batch)
    rounded = round_rows(weights, moments.second()[0], Grid(-8, 7, block=64), find_scales)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from alexnet_edge.errors import InputError
from alexnet_edge.quantize.scales import FloatArray

IntArray = npt.NDArray[np.int8]
DoubleArray = npt.NDArray[np.float64]

ScaleSearch = Callable[[FloatArray], FloatArray]
"""From the weights (rows, columns) of one block to its scale in each row, (rows,)."""

DAMPING = 0.01
"""Share of the mean squared input that is added to each one's: inputs that never vary, or of which
fewer images than inputs were seen, would else let weights run far at no cost. The paper's value."""

_PANEL = 128
"""Columns that are rounded between two products of large matrices."""

_STRIP = 16
"""Columns within these whose errors are added one by one: so few fit the processor's cache."""

_FACTOR_BLOCK = 128

_LEAST_PIVOT = 1e-6
"""Share of the mean squared input below which a pivot is float32's error rather than a value."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """The values that weights may take: integers times scales.

    Attributes:
        low, high: smallest and largest integer.
        block: columns that share a scale; None where a whole row does.
    """

    low: int
    high: int
    block: int | None = None

    def round(self, weights: FloatArray, scales: FloatArray) -> FloatArray:
        """Return the nearest integers, as floats; ``scales`` broadcast against the weights."""
        rounded: FloatArray = np.rint(weights / scales)
        return np.clip(rounded, self.low, self.high, out=rounded)

    def blocks(self, columns: int) -> list[slice]:
        """Return the columns of each block; the last may be shorter."""
        return _parts(0, columns, self.block or max(1, columns))

    def spread(self, scales: FloatArray, columns: int) -> FloatArray:
        """Return the scale of every weight, (rows, columns), from those of blocks."""
        sizes = [part.stop - part.start for part in self.blocks(columns)]
        spread: FloatArray = np.repeat(scales, sizes, axis=1)
        return spread

    def all_scales(self, weights: FloatArray, scales: FloatArray | ScaleSearch) -> FloatArray:
        """Return the scales of all blocks (rows, blocks), as given or found in the weights.

        Raises:
            InputError: those given are not so many.
        """
        blocks = self.blocks(weights.shape[1])
        if callable(scales):
            found = [scales(np.ascontiguousarray(weights[:, block])) for block in blocks]
            return np.stack(found, axis=1).astype(np.float32)
        if scales.shape != (len(weights), len(blocks)):
            raise InputError(
                f"scales of shape {scales.shape} are given for {len(weights)} rows of "
                f"{len(blocks)} blocks",
                hint="give one scale for each block of each row",
            )
        return scales.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class RoundedRows:
    """Weights on a grid.

    Attributes:
        integers: (rows, columns).
        scales: (rows, blocks).
        grid: what they lie on.
    """

    integers: IntArray
    scales: FloatArray
    grid: Grid

    def weights(self) -> FloatArray:
        """Return the weights that the integers stand for."""
        spread = self.grid.spread(self.scales, self.integers.shape[1])
        np.multiply(spread, self.integers, out=spread)
        return spread


def round_nearest(weights: FloatArray, grid: Grid, scales: FloatArray | ScaleSearch) -> RoundedRows:
    """Round each weight to the nearest value of its grid.

    Args:
        weights: (rows, columns).
        grid: where they may lie.
        scales: (rows, blocks), or how to find those of a block.

    Raises:
        InputError: the scales do not fit.
    """
    found = grid.all_scales(weights, scales)
    integers = np.empty(weights.shape, np.int8)
    for index, block in enumerate(grid.blocks(weights.shape[1])):
        integers[:, block] = grid.round(weights[:, block], found[:, index : index + 1])
    return RoundedRows(integers, found, grid)


def round_rows(
    weights: FloatArray,
    moments: FloatArray,
    grid: Grid,
    scales: FloatArray | ScaleSearch,
    *,
    damping: float = DAMPING,
    by_importance: bool = False,
) -> RoundedRows:
    """Round so that the products with the inputs change least.

    Args:
        weights: (rows, columns); a row gives one output. Unchanged.
        moments: (columns, columns) second moments of the inputs, in any unit. Used up: a large
            layer's are too large to be there twice.
        grid: where the weights may lie.
        scales: (rows, blocks), or how to find those of a block: when the block is reached, in its
            weights as the columns before it have moved them.
        damping: see `DAMPING`.
        by_importance: round the columns of the largest inputs first, not as they come; scales are
            then found in the weights as they are.

    Raises:
        InputError: shapes do not fit, or a moment is not finite.
    """
    columns = weights.shape[1]
    if moments.shape != (columns, columns):
        raise InputError(
            f"moments of shape {moments.shape} are given for weights of shape {weights.shape}",
            hint="give the second moments of this layer's inputs",
        )
    if not np.isfinite(moments.sum(dtype=np.float64)):
        raise InputError("the moments of the inputs are not finite", hint="check the images")
    order = np.arange(columns)
    if by_importance:
        order = np.argsort(-np.diagonal(moments), kind="stable")
        moments = moments[np.ix_(order, order)]
    if by_importance or len(grid.blocks(columns)) == 1:
        scales = grid.all_scales(weights, scales)
    rounding = _Rounding(weights, grid, scales, order)
    rounding.run(factor_upper(moments, damping=damping))
    return rounding.result()


def factor_upper(moments: FloatArray, *, damping: float = 0.0) -> FloatArray:
    """Factor a symmetric matrix in place into R·Rᵀ with R upper triangular.

    Block by block from the last to the first; blocks below the diagonal keep what they held.

    Args:
        moments: (n, n) float32, positive semidefinite.
        damping: share of the mean of the diagonal that is added to the diagonal.

    Returns:
        The same array; of its upper triangle R.
    """
    size = len(moments)
    diagonal = np.einsum("ii->i", moments)
    mean = float(diagonal.mean(dtype=np.float64)) if size else 0.0
    # Where nothing was ever read any choice is as good: that of the nearest.
    diagonal += np.float32(damping * mean if mean > 0 else 1.0)
    for own in reversed(_parts(0, size, _FACTOR_BLOCK)):
        above, later = slice(0, own.stop), slice(own.stop, size)
        moments[above, own] -= moments[above, later] @ moments[own, later].T
        corner = _factor_corner(moments[own, own], mean or 1.0)
        before = slice(0, own.start)
        moments[before, own] = moments[before, own] @ _invert_upper(corner).T.astype(np.float32)
        moments[own, own] = corner
    return moments


def _factor_corner(block: FloatArray, mean: float) -> DoubleArray:
    """Factor a small block as `factor_upper` does.

    A pivot that is only float32's error is that of an input which depends on later ones; it is
    taken for an average one that does not, so that nothing is divided by it.

    Written out: LAPACK shares even this among threads, which costs more than it saves, and a
    second where other work has the cores.
    """
    rest = block.astype(np.float64)
    upper = np.zeros_like(rest)
    for place in reversed(range(len(rest))):
        dependent = rest[place, place] < _LEAST_PIVOT * mean
        pivot = np.sqrt(mean if dependent else rest[place, place])
        upper[place, place] = pivot
        if not dependent:
            column = upper[:place, place] = rest[:place, place] / pivot
            rest[:place, :place] -= np.outer(column, column)
    return upper


def _invert_upper(upper: DoubleArray) -> DoubleArray:
    """Return the inverse of an upper triangular matrix, column by column."""
    inverse = np.zeros_like(upper)
    for place, pivot in enumerate(np.diagonal(upper)):
        inverse[:place, place] = inverse[:place, :place] @ upper[:place, place] / -pivot
        inverse[place, place] = 1 / pivot
    return inverse


class _Rounding:
    """One run over the columns. What it writes has the columns first, where they are contiguous."""

    def __init__(
        self,
        weights: FloatArray,
        grid: Grid,
        scales: FloatArray | ScaleSearch,
        order: npt.NDArray[np.intp],
    ) -> None:
        rows, columns = weights.shape
        self._weights, self._grid, self._order = weights, grid, order
        self._block_of = order // (grid.block or max(1, columns))
        self._search = scales if callable(scales) else None
        self._scales = np.empty((rows, len(grid.blocks(columns))), np.float32)
        if not callable(scales):
            self._scales[:] = grid.all_scales(weights, scales)
        self._errors = np.empty((columns, rows), np.float32)
        self._integers = np.empty((columns, rows), np.int8)

    def run(self, factor: FloatArray) -> None:
        """Round all columns in their order."""
        columns = len(self._order)
        blocks = _parts(0, columns, _PANEL)
        if self._search is not None:
            blocks = self._grid.blocks(columns)
        for index, block in enumerate(blocks):
            # What the errors so far add to (e·R) of these columns.
            carried = factor[: block.start, block].T @ self._errors[: block.start]
            if self._search is not None:
                moved = self._moved(factor[block, block], block, carried)
                self._scales[:, index] = self._search(moved.T)
            for strip in _parts(block.start, block.stop, _STRIP):
                done = slice(block.start, strip.start)
                own = carried[strip.start - block.start : strip.stop - block.start]
                own += factor[done, strip].T @ self._errors[done]
                self._round_strip(factor[strip, strip], strip, own)

    def result(self) -> RoundedRows:
        """Return the integers in the columns' own order."""
        integers = np.empty(self._integers.shape[::-1], np.int8)
        integers[:, self._order] = self._integers.T
        return RoundedRows(integers, self._scales, self._grid)

    def _moved(self, corner: FloatArray, block: slice, carried: FloatArray) -> FloatArray:
        """Return a block's weights (columns, rows), moved to where no error would be left."""
        own = np.ascontiguousarray(self._weights[:, self._order[block]].T)
        if block.start > 0:
            inverse = _invert_upper(np.triu(corner).astype(np.float64))
            own += inverse.T.astype(np.float32) @ carried
        return own

    def _round_strip(self, corner: FloatArray, part: slice, carried: FloatArray) -> None:
        columns, errors = self._order[part], self._errors[part]
        weights = np.ascontiguousarray(self._weights[:, columns].T)
        scales = np.ascontiguousarray(self._scales[:, self._block_of[part]].T)
        for place, row in enumerate(corner):
            wanted = weights[place] + carried[place] / row[place]
            integers = self._grid.round(wanted, scales[place])
            self._integers[part.start + place] = integers
            errors[place] = weights[place] - integers * scales[place]
            carried[place + 1 :] += row[place + 1 :, None] * errors[place]


def _parts(start: int, stop: int, size: int) -> list[slice]:
    return [slice(at, min(at + size, stop)) for at in range(start, stop, size)]
