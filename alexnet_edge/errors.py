"""Every error that a user can mend, each with the hint that mends it.

    AlexnetEdgeError
    ├── InputError               a file, folder or option that cannot be used as it is
    │   ├── ImageError           one image
    │   ├── DatasetError         a folder of images
    │   ├── CheckpointError      a PyTorch or safetensors checkpoint
    │   ├── GraphError           an ONNX graph
    │   └── TableError           a calibration table, recipe or profile
    ├── StaleArtifactError       two artifacts that do not belong together
    ├── MissingDependencyError   a package that is not installed
    ├── UnavailableError         a runtime, provider or device that this machine lacks
    ├── ExportError              a graph that does not answer as PyTorch does
    └── BuildError               an engine that could not be built as asked

A library function raises these and never prints; the command line turns them into one line and a
hint on standard error, and exit code 1.
"""

from __future__ import annotations

from collections.abc import Mapping


class AlexnetEdgeError(Exception):
    """A failure that names the thing, and the step that mends it.

    Args:
        message: what is wrong, naming the file, field or device.
        hint: what to do about it; a command where there is one.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(AlexnetEdgeError):
    """A file, folder or option that cannot be used as it is."""


class ImageError(InputError):
    """One image that cannot be decoded, or must not be."""


class DatasetError(InputError):
    """A folder of images that does not hold what was asked of it."""


class CheckpointError(InputError):
    """A checkpoint that is not one of the three AlexNets, or not a checkpoint."""


class GraphError(InputError):
    """An ONNX file that cannot be read, or lacks what a step needs."""


class TableError(InputError):
    """A calibration table, recipe or profile that is malformed."""


class MissingDependencyError(AlexnetEdgeError):
    """A package that is not installed."""

    def __init__(self, package: str, *, needed_for: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; it is needed for {needed_for}",
            hint=f"pip install 'alexnet-edge[{extra}]'",
        )


class UnavailableError(AlexnetEdgeError):
    """A runtime, provider or device that this machine does not have."""


class ExportError(AlexnetEdgeError):
    """An exported graph that does not answer as PyTorch does."""


class BuildError(AlexnetEdgeError):
    """An engine that could not be built as asked."""


class StaleArtifactError(AlexnetEdgeError):
    """Two artifacts that do not belong together.

    Args:
        message: which two.
        differences: field name to ``(expected, found)``.
        hint: the command that makes them match again.
    """

    def __init__(
        self, message: str, differences: Mapping[str, tuple[object, object]], *, hint: str
    ) -> None:
        named = "; ".join(
            f"{field}: expected {_shorten(expected)}, found {_shorten(found)}"
            for field, (expected, found) in differences.items()
        )
        super().__init__(f"{message} ({named})", hint=hint)
        self.differences = dict(differences)


def _shorten(value: object) -> str:
    """Return ``value`` as text; a hash is cut to the 12 digits that tell it apart."""
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
