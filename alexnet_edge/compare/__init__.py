"""The change between two runs: how large, how sure, and whether it is a regression.

    found = compare_files(Path("before.json"), Path("after.json"))
    for pair in found.pairs:
        for change in pair.changes: ...

    pairing.py   which row of one file belongs to which of the other
    settings.py  what the runs have unlike, and whether that forbids comparing them
    changes.py   the change of each figure, its interval and its verdict
    camera.py    which figures of the camera change
    kinds.py     what can be compared, and how
    run.py       all of it together
    entries.py   the line for the history

The intervals hold what varied while each run was measured, not what differs between one run and
the next (another placement in memory, a warmer room): changes of a few per cent are best confirmed
by measuring both engines in turns, in one `bench`.
"""

from alexnet_edge.compare.changes import Bounds, Change
from alexnet_edge.compare.entries import describe_run
from alexnet_edge.compare.run import ComparedPair, Comparison, compare_files
from alexnet_edge.compare.settings import Difference

__all__ = [
    "Bounds",
    "Change",
    "ComparedPair",
    "Comparison",
    "Difference",
    "compare_files",
    "describe_run",
]
