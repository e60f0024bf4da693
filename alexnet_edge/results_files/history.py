"""Figures over time: one JSON line a run, appended whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alexnet_edge.artifacts import require_file
from alexnet_edge.errors import InputError
from alexnet_edge.results import to_json
from alexnet_edge.results_files.checks import (
    MalformedError,
    check,
    count,
    each,
    flag,
    number,
    text,
)
from alexnet_edge.results_files.reading import replace_halves

_HINT = "give a file that compare --history wrote, or start a new one"


def _figure(value: Any, where: str) -> None:
    if value is not None:
        number(value, where)


def _gpu(value: Any, where: str) -> None:
    if value is not None:
        text(value, where)


_SHAPE = {
    "date": text, "source": text, "sha256": text, "kind": text,
    "machine": {"gpus?": [_gpu], "cpu?": text},
    "rows": [{
        "label": text, "figures": each(_figure), "valid?": flag, "verdict?": text,
        "engine?": text, "batch?": count, "cache?": text, "scenario?": text,
    }],
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class HistoryEntry:
    """A run.

    Attributes:
        date: when it was measured, ISO 8601.
        source, sha256: the result's file name and hash.
        kind: `bench`, `parity` or `camera`.
        machine: what it was measured on.
        rows: a label, what makes rows comparable, and the figures of each.
    """

    date: str
    source: str
    sha256: str
    kind: str
    machine: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]


def append_history(path: Path, entry: HistoryEntry) -> bool:
    """Add a run at the end of a file, which is made where there is none.

    The line is written under a lock and taken back when it does not get through, so that runs
    that end together and a full disk leave whole lines.

    Returns:
        False where the result, by its hash, is in the file already.

    Raises:
        InputError: the folder does not exist, or the file is no history.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder", hint=f"mkdir -p {path.parent}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder", hint="name a file to write")
    line = json.dumps(to_json(entry), ensure_ascii=True, sort_keys=True) + "\n"
    with _locked(path) as descriptor:
        if any(known.sha256 == entry.sha256 for known in read_history(path)):
            return False
        size = os.fstat(descriptor).st_size
        try:
            _write_all(descriptor, _line_break(path) + line.encode())
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    return True


def read_history(path: Path) -> tuple[HistoryEntry, ...]:
    """Read all runs, in the order in which they were added.

    Raises:
        InputError: missing, or a line of it is no run.
    """
    require_file(path, hint=_HINT)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no history ({error})", hint=_HINT) from error
    entries = []
    for at, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entries.append(_entry_of(json.loads(line)))
        except (ValueError, RecursionError, MalformedError) as error:
            raise InputError(f"{path}: line {at} is no run ({error})", hint=_HINT) from error
    return tuple(entries)


def _entry_of(raw: Any) -> HistoryEntry:
    raw = replace_halves(raw)
    check(raw, _SHAPE, "")
    texts = {name: raw[name] for name in ("date", "source", "sha256", "kind")}
    return HistoryEntry(**texts, machine=raw["machine"], rows=tuple(raw["rows"]))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with contextlib.suppress(ImportError):  # Windows has no such locks
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _line_break(path: Path) -> bytes:
    """Return what ends a last line that another program left open."""
    text = path.read_bytes()
    return b"\n" if text and not text.endswith(b"\n") else b""


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
