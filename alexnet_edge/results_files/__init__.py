"""The JSON files that commands write, read back: what `compare` and `report` work on.

    reading.py    which kind of result a file is, and whether it holds what that kind must
    checks.py     what a value must be like
    rows.py       an engine's row of a bench, and a parity result, as typed views
    camera.py     a run of the camera, likewise
    estimates.py  their figures, each with its interval
    intervals.py  where the intervals come from
    history.py    figures over time, one JSON line a run

Files of older versions lack the newer keys; every view says None there.
"""

from alexnet_edge.results_files.camera import CameraRow, camera_rows
from alexnet_edge.results_files.history import HistoryEntry, append_history, read_history
from alexnet_edge.results_files.reading import KINDS, ResultsFile, read_results
from alexnet_edge.results_files.rows import BenchRow, ParityRow, bench_rows, parity_rows

__all__ = [
    "KINDS",
    "BenchRow",
    "CameraRow",
    "HistoryEntry",
    "ParityRow",
    "ResultsFile",
    "append_history",
    "bench_rows",
    "camera_rows",
    "parity_rows",
    "read_history",
    "read_results",
]
