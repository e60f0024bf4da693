"""Whole processes measured from outside, and results as tables in the README."""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("ALEXNET_EDGE_DATA", ROOT.parent / "shared/data"))
COMMAND = (sys.executable, "-c", "from alexnet_edge.cli import main; main()")


@dataclasses.dataclass(frozen=True)
class Process:
    """What a process took: wall seconds, CPU seconds, and peak resident memory in bytes."""

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


def run_process(
    arguments: Sequence[str], *, folder: Path, allowed: tuple[int, ...] = (0,)
) -> Process:
    """Run a command to its end and measure it.

    Raises:
        SystemExit: its exit code is not ``allowed``; the end of what it said is shown.
    """
    log = folder / "process.log"
    started = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            arguments, cwd=folder, stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in allowed:
        sys.exit(f"{' '.join(arguments)} failed:\n{log.read_text(errors='replace')[-3000:]}")
    # Linux counts ru_maxrss in KiB.
    return Process(
        round(seconds, 3), round(usage.ru_utime + usage.ru_stime, 3), usage.ru_maxrss << 10
    )


def median_of(processes: Sequence[Process]) -> Process:
    """Return the medians of several runs."""
    return Process(
        statistics.median(p.seconds for p in processes),
        statistics.median(p.cpu_seconds for p in processes),
        int(statistics.median(p.peak_rss_bytes for p in processes)),
    )


def replace_section(path: Path, name: str, text: str) -> None:
    """Put ``text`` between `<!-- NAME -->` and `<!-- /NAME -->` of a Markdown file.

    Raises:
        ValueError: the file has no such section.
    """
    content = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path.name} has no section {name}")
    path.write_text(f"{before}{begin}{text.rstrip()}\n{end}{after}", encoding="utf-8")
