"""A typed view of what `camera --json` wrote."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from alexnet_edge.results_files.reading import ResultsFile
from alexnet_edge.results_files.rows import Pair, base_name

AGE = "age"
PERCENTILES = ("p50", "p90", "p99", "mean")


@dataclasses.dataclass(frozen=True)
class CameraRow:
    """A run of the camera.

    Attributes:
        file: where it was read.
        raw: its JSON object.
    """

    file: ResultsFile
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
    def source(self) -> str:
        """What delivered the frames: a file's name, a device, an address."""
        stated = self.source_settings.get("location")
        return str(stated or base_name(self.raw.get("source") or "unknown source"))

    @property
    def source_settings(self) -> Mapping[str, Any]:
        """Kind, location, options and size of frames; empty in files of older versions."""
        return self.raw.get("source_settings") or {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the loop, the runtime and the preprocessing."""
        return self.raw.get("settings") or {}

    @property
    def environment(self) -> Mapping[str, Any]:
        """The machine."""
        return self.raw.get("environment") or {}

    @property
    def throughput(self) -> bool:
        """Whether frames went through the engine together."""
        return bool(self.settings.get("throughput"))

    @property
    def fps(self) -> float:
        """Answers a second."""
        return float(self.raw["fps"])

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages whose times are known."""
        stages = self.raw.get("stages_ms") or {}
        return tuple(name for name, times in stages.items() if isinstance(times, dict))

    def frames(self, which: str) -> int | None:
        """Return how many were `captured`, `answered`, `dropped` or `corrupt`."""
        count: int | None = self.raw["frames"].get(which)
        return count

    def time_ms(self, name: str, figure: str) -> float | None:
        """Return `p50`, `p90`, `p99` or `mean` of `age` or a stage."""
        stages = self.raw.get("stages_ms") or {}
        times = self.raw.get("frame_age_ms") if name == AGE else stages.get(name)
        value = (times or {}).get(figure)
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value)

    def sampling(self, name: str) -> Mapping[str, Any]:
        """Return what tells how sure `age` or a stage is; empty in files of older versions."""
        return (self.raw.get("sampling") or {}).get(name) or {}

    def interval_ms(self, name: str, figure: str) -> Pair | None:
        """Return the interval that the camera gave for a percentile of `age` or a stage."""
        ends = self.sampling(name).get(f"ci95_{figure}")
        return None if ends is None else (float(ends[0]), float(ends[1]))

    @property
    def delivered_fps(self) -> float | None:
        """Frames a second that the source delivered."""
        captured, seconds = self.frames("captured"), self.raw["seconds"]
        return captured / seconds if captured and seconds else None

    @property
    def invalid_because(self) -> tuple[str, ...]:
        """Why its figures cannot be relied on; empty where they can."""
        reasons = []
        if self.frames("answered") == 0:
            reasons.append("no frame was answered")
        if self.raw.get("ended") == "stalled":
            reasons.append("the source delivered no more frames, and the waiting counts")
        failed = self.raw.get("failed_outputs") or {}
        reasons += [f"an output failed: {why}" for why in failed.values()]
        return tuple(reasons)

    @property
    def label(self) -> str:
        """What tells it from other runs."""
        mode = ", throughput" if self.throughput else ""
        ran = f"{self.raw.get('runtime', 'unknown runtime')} {self.raw.get('precision', '')}"
        return f"{self.engine}, {ran.strip()}, {self.source}{mode}"


def camera_rows(file: ResultsFile) -> tuple[CameraRow, ...]:
    """Return the run of a camera's file."""
    return (CameraRow(file, file.data),)
