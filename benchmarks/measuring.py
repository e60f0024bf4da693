"""Whole processes measured from outside, and results as tables in the README."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("ALEXNET_EDGE_DATA", ROOT.parent / "shared/data"))
LIST = ROOT / "calibration/signs-256.txt"
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


def link_listed(folder: Path) -> Path:
    """Make a folder of the 256 training images of `LIST`, links to those of the development data.

    For programs that take a folder and no list.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, line in enumerate(LIST.read_text(encoding="utf-8").splitlines()):
        source = DATA / "signs/train" / line.partition("  ")[2]
        (folder / f"{index:04d}{source.suffix}").symlink_to(source.resolve())
    return folder


def conclude(
    name: str, result: dict[str, Any], targets: Sequence[tuple[str, str, bool]], text: str
) -> None:
    """Save a result with its verdicts, put its table into the README, and end the program.

    The exit code is 1 where a target is missed.

    Args:
        name: of the file under benchmarks/results, and of the README's section.
        result: what was measured.
        targets: each what it is, the figure seen, and whether it is reached.
        text: the README's tables.
    """
    verdicts = [
        {"target": target, "seen": seen, "reached": reached} for target, seen, reached in targets
    ]
    path = ROOT / f"benchmarks/results/{name}.json"
    path.write_text(json.dumps({**result, "targets": verdicts}, indent=2) + "\n", encoding="utf-8")
    replace_section(ROOT / "README.md", name, text)
    for target, seen, reached in targets:
        print(f"{'reached' if reached else 'MISSED '}  {target}: {seen}")
    print(json.dumps({"reached": sum(t[2] for t in targets), "of": len(targets)}))
    sys.exit(0 if all(reached for *_, reached in targets) else 1)


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
