"""Typed views of what bench and parity wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from alexnet_edge.results_files.reading import ResultsFile

Pair = tuple[float, float]
TORCH = "torch"


def base_name(path: object) -> str:
    """Return the file's name of a path as any system writes it."""
    return PurePath(str(path).replace("\\", "/")).name or str(path)


@dataclasses.dataclass(frozen=True)
class BenchRow:
    """One engine of a bench.

    Attributes:
        file: where it was read.
        position: among the rows of the file.
        raw: its JSON object.
    """

    file: ResultsFile
    position: int
    raw: Mapping[str, Any]

    @property
    def engine(self) -> str:
        """The engine's file name."""
        return base_name(self.path)

    @property
    def path(self) -> str:
        """The engine's path, as it was given."""
        return str(self.raw["engine"])

    @property
    def engine_sha256(self) -> str | None:
        """Of the engine's file; None in files of older versions."""
        return self.raw.get("engine_sha256") or None

    @property
    def model_sha256(self) -> str | None:
        """Of the FP32 graph that the engine was made from; None where that is not known.

        PyTorch runs a checkpoint, whose hash is that of no graph.
        """
        return None if self.runtime == TORCH else self.raw.get("model_sha256") or None

    @property
    def runtime(self) -> str:
        """What ran it."""
        return str(self.raw["runtime"])

    @property
    def precision(self) -> str:
        """`fp32`, `fp16` or `int8`."""
        return str(self.raw["precision"])

    @property
    def batch(self) -> int:
        """Images per inference."""
        return int(self.raw["batch"])

    @property
    def scenario(self) -> Mapping[str, Any]:
        """How queries arrived."""
        return self.file.data.get("scenario") or {}

    @property
    def cache(self) -> str | None:
        """`warm` or `flushed`; None in files of older versions."""
        return self.raw.get("cache")

    @property
    def environment(self) -> Mapping[str, Any]:
        """The machine."""
        return self.file.data.get("environment") or {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the runtime."""
        return self.raw.get("settings") or {}

    @property
    def samples(self) -> int:
        """Timed inferences."""
        return int(self.raw["samples"])

    @property
    def input_skipped(self) -> tuple[str, ...]:
        """Names of the images that it should have been fed and that could not be read."""
        return tuple(self.raw.get("input_skipped") or ())

    @property
    def is_doubtful(self) -> bool:
        """Whether the row, or the run that it is of, says of itself that it is not valid."""
        return bool(self.invalid_because) or self.file.data.get("valid") is False

    @property
    def invalid_because(self) -> tuple[str, ...] | None:
        """Why its figures cannot be relied on; None where they can, or nothing was said."""
        if self.raw.get("valid", True):
            return None
        return tuple(self.raw.get("invalid_because") or ["no reason is given"])

    def latency_ms(self, figure: str) -> float:
        """Return `mean`, `p50`, `p90` or `p99`."""
        return float(self.raw["latency_ms"][figure])

    def latency_interval(self, figure: str) -> Pair | None:
        """Return the interval that bench gave for a percentile."""
        return _pair(self.raw["latency_ms"].get(f"ci95_{figure}"))

    @property
    def throughput_ips(self) -> float:
        """Images per second."""
        return float(self.raw["throughput_ips"])

    @property
    def throughput_interval(self) -> Pair | None:
        """The interval that bench gave."""
        return _pair(self.raw.get("throughput_ci95_ips"))

    @property
    def size_bytes(self) -> int:
        """Of the engine's file."""
        return int(self.raw["size_bytes"])

    @property
    def energy_j(self) -> float | None:
        """Joules per inference."""
        return self.raw.get("energy_j_per_inference")

    @property
    def label(self) -> str:
        """What tells it from the other rows."""
        return f"{self.engine}, {self.runtime} {self.precision}, batch {self.batch}"


@dataclasses.dataclass(frozen=True)
class ParityRow:
    """One engine of a parity run.

    Attributes:
        file: where it was read.
        raw: its JSON object.
    """

    file: ResultsFile
    raw: Mapping[str, Any]

    @property
    def engine(self) -> str:
        """The engine's file name; the result's where no engine is named."""
        return base_name(self.path)

    @property
    def path(self) -> str:
        """The engine's path, as it was given; the result's name where no engine is named."""
        return str(self.raw.get("engine_path") or self.file.name)

    @property
    def engine_sha256(self) -> str | None:
        """Of the engine's file; None in files of older versions."""
        return self.raw.get("engine_sha256") or None

    @property
    def model_sha256(self) -> str | None:
        """Of the FP32 graph that the engine was made from; None where that is not known."""
        return self.raw.get("model_sha256") or None

    @property
    def reference(self) -> str | None:
        """The reference's file name."""
        path = self.raw.get("reference_path")
        return None if path is None else base_name(path)

    @property
    def images(self) -> int:
        """Images compared."""
        return int(self.raw["images"])

    @property
    def labelled(self) -> int:
        """Of these, with a label."""
        return int(self.raw["labelled"])

    def accuracy(self, whose: str, which: str = "top1") -> float | None:
        """Return an accuracy of `engine` or `reference`; None without labels."""
        return (self.raw.get(whose) or {}).get(which)

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Names of the images that could not be read, each with the reason or an empty text."""
        listed = self.raw.get("skipped") or []
        return tuple((str(item["name"]), str(item.get("reason") or "")) for item in listed)

    @property
    def drop_interval_pp(self) -> Pair | None:
        """Of the loss of top-1."""
        return _pair(self.raw.get("drop_ci95_pp"))

    @property
    def label(self) -> str:
        """What tells it from the other rows."""
        return self.engine

    def flipped(self, *kinds: str) -> frozenset[str]:
        """Return the images whose answer changed, of these kinds; of all where none is named."""
        return frozenset(
            item["image"]
            for item in self.raw.get("flipped") or []
            if not kinds or item.get("kind") in kinds
        )

    @property
    def names_its_flips(self) -> bool:
        """Whether every image that became right or wrong is named."""
        flips = self.raw.get("flips")
        return flips is not None and all(
            len(self.flipped(kind)) == flips[kind] for kind in ("broken", "fixed")
        )


def bench_rows(file: ResultsFile) -> tuple[BenchRow, ...]:
    """Return the rows of a bench."""
    return tuple(BenchRow(file, at, raw) for at, raw in enumerate(file.data["engines"]))


def parity_rows(file: ResultsFile) -> tuple[ParityRow, ...]:
    """Return the results of a parity file."""
    return tuple(ParityRow(file, raw) for raw in file.data.get("parity", [file.data]))


def _pair(value: Any) -> Pair | None:
    return None if value is None else (float(value[0]), float(value[1]))
