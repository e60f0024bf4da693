"""Two runs of the camera: how each figure changed."""

from __future__ import annotations

from alexnet_edge.compare.changes import Bounds, Change, drop_missing, ratio_change, share_change
from alexnet_edge.results_files import CameraRow
from alexnet_edge.results_files.camera import AGE, PERCENTILES
from alexnet_edge.results_files.estimates import camera_dropped, camera_fps, camera_time
from alexnet_edge.results_files.intervals import Estimate

_STAGE_PERCENTILES = ("p50", "p99")
_NOT_JUDGED = Bounds()


def camera_changes(first: CameraRow, second: CameraRow, bounds: Bounds) -> tuple[Change, ...]:
    """Return the changes of all figures that both runs have.

    The bounds are for answers a second and their age. Stages and the share of dropped frames are
    where a change of these comes from; processor time and memory are one reading a run, of which
    nothing tells the error.
    """

    def of_time(name: str, figure: str, bounds: Bounds) -> Change | None:
        before, after = (camera_time(row, name, figure) for row in (first, second))
        return ratio_change(f"{name} {figure}", before, after, bounds)

    def of_reading(figure: str, key: str, scale: float) -> Change | None:
        before, after = (_reading(row, key, scale) for row in (first, second))
        return ratio_change(figure, before, after, _NOT_JUDGED)

    stages = [name for name in first.stages if name in second.stages]
    dropped = camera_dropped(first), camera_dropped(second)
    found = [
        ratio_change("fps", camera_fps(first), camera_fps(second), bounds),
        *(of_time(AGE, figure, bounds) for figure in PERCENTILES),
        *(of_time(stage, at, _NOT_JUDGED) for stage in stages for at in _STAGE_PERCENTILES),
        share_change("dropped", dropped[0], dropped[1], _NOT_JUDGED),
        of_reading("CPU", "cpu_percent", 1.0),
        of_reading("memory", "rss_bytes", 1e-6),
    ]
    return tuple(drop_missing(found))


def _reading(row: CameraRow, key: str, scale: float) -> Estimate | None:
    value = row.raw.get(key)
    return None if value is None else Estimate(scale * value)
