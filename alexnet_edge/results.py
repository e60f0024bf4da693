"""The result types that commands print, save and pass on."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of a network's input or output.

    Attributes:
        name: as the graph has it.
        dtype: NumPy's name of the element type.
        shape: None for a dynamic axis.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def batch(self) -> int | None:
        """The fixed batch size, or None where any will do."""
        return self.shape[0]

    def __str__(self) -> str:
        axes = "×".join("N" if size is None else str(size) for size in self.shape)
        return f"{self.name} {axes} {self.dtype}"


def to_json(value: Any) -> Any:
    """Return dataclasses, tuples and non-finite numbers as values that JSON has.

    Infinity and NaN become None: JSON has neither.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
