"""One JSON object a line, for programs: each answer and each event, as it happens."""

from __future__ import annotations

import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, Literal

from alexnet_edge.camera.frames import Answer, Event
from alexnet_edge.camera.sinks.record import describe_answer, iso_time
from alexnet_edge.errors import InputError
from alexnet_edge.results import to_json


class JsonLines:
    """Appends `{"type": "answer", …}` and `{"type": "event", …}` to a file or standard output.

    A line is handed to the operating system in one piece as soon as there is one, so a reader sees
    whole lines, and a service that is killed loses none. An existing file is continued: a service
    that starts again must not erase what it wrote before. Where a disk is full in the middle of a
    line, the file is cut back to its last whole line before the error is raised. A reader of a pipe
    that does not keep up holds the loop; frames are then dropped at the source, and counted.

    Args:
        path: the file, or `-` for standard output.

    Raises:
        InputError: the file cannot be opened for writing.
    """

    name = "JSON lines"

    def __init__(self, path: Path | Literal["-"]) -> None:
        if str(path) == "-":
            sys.stdout.flush()
            self._descriptor = os.dup(sys.stdout.fileno())
        else:
            self._descriptor = _open_to_append(Path(path))
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def write(self, answer: Answer) -> None:
        """Append an answer.

        Raises:
            OSError: it could not be written: the disk is full, or nobody reads the pipe.
        """
        self._append({"type": "answer", **describe_answer(answer)})

    def note(self, event: Event) -> None:
        """Append an event.

        Raises:
            OSError: as for `write`.
        """
        since_s = time.monotonic() - event.monotonic_s
        self._append(
            {
                "type": "event",
                "time": iso_time(time.time() - since_s),
                "kind": event.kind,
                "message": event.message,
            }
        )

    def close(self) -> None:
        """Close the file; standard output stays open for others."""
        os.close(self._descriptor)

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(to_json(record), allow_nan=False) + "\n").encode("ascii")
        start = os.fstat(self._descriptor).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            if self._is_file:
                os.ftruncate(self._descriptor, start)
            raise


def _open_to_append(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        status = os.fstat(descriptor)
        # What a machine that lost power left of a line must not swallow the next one.
        is_file = stat.S_ISREG(status.st_mode) and status.st_size > 0
        if is_file and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
            os.write(descriptor, b"\n")
    except OSError as error:
        hint = f"mkdir -p {path.parent}" if not path.parent.is_dir() else "name a file to write"
        raise InputError(f"{path}: {error.strerror}", hint=hint) from error
    return descriptor
