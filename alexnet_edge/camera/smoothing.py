"""Answers over time: one frame's mistake need not become an answer."""

from __future__ import annotations

import collections
import math
from typing import Protocol

import numpy as np

from alexnet_edge.classifier import Probabilities
from alexnet_edge.errors import InputError

_WINDOW_MOST = 1000


class Smoother(Protocol):
    """Turns each frame's probabilities into smoothed ones, in order."""

    def add(self, probabilities: Probabilities) -> Probabilities:
        """Return the smoothed probabilities (classes,) after one more frame."""

    def reset(self) -> None:
        """Forget the past: what comes next is another scene."""


class NoSmoothing:
    """Each frame speaks for itself."""

    def add(self, probabilities: Probabilities) -> Probabilities:
        """Return what was given."""
        return probabilities

    def reset(self) -> None:
        """Nothing is remembered."""


class ExponentialSmoothing:
    """Exponential moving average: ``alpha`` of the new frame, the rest of what was.

    Args:
        alpha: 0–1; 1 is no smoothing.
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._state: Probabilities | None = None

    def add(self, probabilities: Probabilities) -> Probabilities:
        """Return the average after one more frame."""
        if self._state is None:
            self._state = probabilities
        else:
            self._state = self._alpha * probabilities + (1 - self._alpha) * self._state
        return self._state

    def reset(self) -> None:
        """Begin with the next frame."""
        self._state = None


class WindowSmoothing:
    """Mean over the last frames.

    Args:
        frames: how many.
    """

    def __init__(self, frames: int) -> None:
        self._window: collections.deque[Probabilities] = collections.deque(maxlen=frames)

    def add(self, probabilities: Probabilities) -> Probabilities:
        """Return the mean over the window, after one more frame."""
        self._window.append(probabilities)
        mean: Probabilities = np.mean(self._window, axis=0)
        return mean

    def reset(self) -> None:
        """Begin with the next frame."""
        self._window.clear()


def make_smoother(strength: float | None) -> Smoother:
    """Return a smoother: below 1 the weight of the new frame, else a number of frames.

    Raises:
        InputError: it is neither.
    """
    if strength is None or strength == 1:
        return NoSmoothing()
    if 0 < strength < 1:
        return ExponentialSmoothing(strength)
    if math.isfinite(strength) and strength == int(strength) and 1 < strength <= _WINDOW_MOST:
        return WindowSmoothing(int(strength))
    raise InputError(
        f"smoothing is {strength:g}",
        hint=f"give the weight of the new frame (0.3, say) or a number of frames (2 to "
        f"{_WINDOW_MOST})",
    )
