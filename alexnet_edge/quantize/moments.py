"""Second moments of what a layer reads, image after image: what `gptq.round_rows` weighs errors by.

A convolution's kernel reads a patch at every position; patches of one image are much alike, so a
few positions of each are taken, other ones for every image. The moments of one layer are in memory
at a time, and no activation is kept.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from alexnet_edge.errors import GraphError, InputError
from alexnet_edge.quantize.layers import WeightedLayer
from alexnet_edge.quantize.scales import FloatArray

POSITIONS = 32
"""Patches that are taken of each image."""

_TILE = 1024
"""Rows of the moments that are summed by one product."""

_ROWS_AT_ONCE = 1024
"""Inputs that are gathered before they are multiplied: single images make slow products."""

_GOLDEN = 0.6180339887498949
"""Of the positions, how far the first one moves on from image to image: it comes near all of them,
and near none twice in a row."""


@dataclasses.dataclass(frozen=True)
class Window:
    """Where a convolution's kernel reads.

    Attributes:
        kernel, strides, dilations: down and across.
        pads: above, left, below, right.
        groups: that channels are split into.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, layer: WeightedLayer) -> Window | None:
        """Return a layer's window; None for one that reads whole vectors.

        Raises:
            GraphError: a convolution with padding that is computed, or not of two axes.
        """
        node = layer.node
        if node.op_type != "Conv":
            return None
        shape = [] if layer.weight.shape is None else [int(size) for size in layer.weight.shape]  # type: ignore[arg-type]
        computed = node.attributes.get_string("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
        if len(shape) != 4 or computed:
            raise GraphError(
                f"'{layer.name}' is a convolution of other than two axes, or with auto_pad",
                hint="export it with two axes and explicit pads",
            )
        return cls(
            kernel=(shape[2], shape[3]),
            strides=_pair(node, "strides"),
            pads=_quad(node),
            dilations=_pair(node, "dilations"),
            groups=node.attributes.get_int("group", 1),
        )

    def patches(self, images: FloatArray, count: int, first_image: int) -> FloatArray:
        """Return what the kernel reads at some positions of each image.

        Args:
            images: (N, channels, height, width).
            count: positions of each image, at most.
            first_image: how many images were seen before; the positions follow from it.

        Returns:
            (groups, N · count, channels / groups · kernel), in the order of a weight's values.
        """
        top, left, below, right = self.pads
        padded = np.pad(images, ((0, 0), (0, 0), (top, below), (left, right)))
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
        windows = windows[
            :, :, :: self.strides[0], :: self.strides[1], :: self.dilations[0], :: self.dilations[1]
        ]
        height, width = windows.shape[2:4]
        taken = []
        for index, window in enumerate(windows):
            places = _places(height * width, count, first_image + index)
            found = window[:, places // width, places % width]  # (channels, count, kernel)
            found = found.reshape(self.groups, -1, len(places), *self.kernel)
            taken.append(found.swapaxes(1, 2).reshape(self.groups, len(places), -1))
        return np.concatenate(taken, axis=1)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of what a layer reads.

    Attributes:
        second: (groups, features, features) mean products of two inputs each; less the product of
            their means where centred.
        mean: (groups, features).
        rows: how many inputs, or patches, were seen.
    """

    second: FloatArray
    mean: FloatArray
    rows: int


class InputMoments:
    """Sums over images.

    moments = InputMoments(weights.shape[1], Window.of(layer))
    for chunk in activations:
        moments.add(chunk)
    moments.finish().second[group]
    """

    def __init__(
        self, features: int, window: Window | None = None, *, positions: int = POSITIONS
    ) -> None:
        """Begin.

        Args:
            features: inputs of each output: columns of the weights as a matrix.
            window: of a convolution.
            positions: patches to take of each image.
        """
        groups = 1 if window is None else window.groups
        self._window, self._positions = window, positions
        self._second = np.zeros((groups, features, features), np.float32)
        self._sum = np.zeros((groups, features))
        self._waiting: list[FloatArray] = []
        self._images = self._rows = 0

    def add(self, activations: FloatArray) -> None:
        """Add images.

        Args:
            activations: (N, channels, height, width) of a convolution; else (N, …, features).

        Raises:
            InputError: they have another number of features.
        """
        features = self._second.shape[2]
        if self._window is None:
            rows = activations.reshape(1, -1, activations.shape[-1])
        else:
            rows = self._window.patches(activations, self._positions, self._images)
        if rows.shape[2] != features:
            raise InputError(
                f"a layer of {features} inputs is given {rows.shape[2]}",
                hint="give the layer's own input",
            )
        self._images += len(activations)
        self._rows += rows.shape[1]
        self._waiting.append(rows)
        if sum(part.shape[1] for part in self._waiting) >= _ROWS_AT_ONCE:
            self._flush()

    def finish(self, *, centred: bool = False) -> Moments:
        """Return the moments; the sums are used up.

        Args:
            centred: leave the means out: for a layer whose bias takes the mean error off.

        Raises:
            InputError: nothing was added.
        """
        if not self._rows:
            raise InputError("there are no inputs to take moments of", hint="add images first")
        self._flush()
        mean = (self._sum / self._rows).astype(np.float32)
        second, self._second = self._second, np.zeros((0, 0, 0), np.float32)
        second /= np.float32(self._rows)
        for group, own in enumerate(second):
            if centred:
                second[group] -= np.outer(mean[group], mean[group])
            _mirror(own)
        return Moments(second, mean, self._rows)

    def _flush(self) -> None:
        """Add what waits; of a symmetric product one half is computed, tile by tile."""
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting, axis=1)
        self._waiting = []
        self._sum += rows.sum(axis=1, dtype=np.float64)
        for own, part in zip(self._second, rows, strict=True):
            for start in range(0, own.shape[0], _TILE):
                tile = slice(start, start + _TILE)
                own[tile, start:] += part[:, tile].T @ part[:, start:]


def _places(total: int, count: int, image: int) -> npt.NDArray[np.intp]:
    """Return evenly spread positions, which are others for the next image."""
    if count >= total:
        return np.arange(total)
    first = int(total * ((image * _GOLDEN) % 1.0))
    return (first + np.arange(count) * total // count) % total


def _mirror(square: FloatArray) -> None:
    """Copy what is above the diagonal below it, tile by tile."""
    for start in range(0, len(square), _TILE):
        tile = slice(start, start + _TILE)
        square[start:, tile] = square[tile, start:].T.copy()
        corner = square[tile, tile]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T


def _pair(node: ir.Node, name: str) -> tuple[int, int]:
    first, second = node.attributes.get_ints(name, (1, 1))
    return first, second


def _quad(node: ir.Node) -> tuple[int, int, int, int]:
    top, left, below, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    return top, left, below, right
