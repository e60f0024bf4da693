"""A comparison that was interrupted goes on from where it was.

The state is one small file with the rows of the images seen so far, and the identity of the run:
hashes of the engines, the reference, the images and the preprocessing, and the settings. A run of
another identity does not go on from it; the fields that differ are named.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_edge.artifacts import write_bytes
from alexnet_edge.dataset import SkippedImage
from alexnet_edge.errors import InputError, StaleArtifactError
from alexnet_edge.parity.tally import DONE, PENDING, Tally

VERSION = 1

Identity = Mapping[str, Any]

_MALFORMED = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, OverflowError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What reading an archive raises that this module did not write, or that was damaged since."""


class RunState:
    """The file of one run.

    Args:
        path: where it is, or shall be.
        identity: of the run, as JSON values.
    """

    def __init__(self, path: Path, identity: Identity) -> None:
        self.path = path
        # As it comes back from JSON: tuples are lists there.
        self._identity: dict[str, Any] = json.loads(json.dumps({"version": VERSION, **identity}))

    def save(self, tally: Tally, restart: int, seconds: float) -> None:
        """Write the state, atomically.

        Args:
            tally: what has been counted.
            restart: the image to go on from; what comes after it is left out. It is the first of
                the last batch, which will be run again: batches then begin where they would have,
                and the answers are the same to the last bit.
            seconds: spent so far.
        """
        known = {
            "identity": self._identity,
            "position": restart,
            "classes": tally.classes,
            "seconds": seconds,
            "skipped": [[item.name, item.reason] for item in tally.skipped],
        }
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {
            "known": np.frombuffer(json.dumps(known).encode(), np.uint8),
            "status": tally.status[:restart],
            "reference": tally.reference[:restart],
            **{f"engine{i}": rows[:restart] for i, rows in enumerate(tally.engines)},
        }
        np.savez(buffer, **arrays)
        write_bytes(self.path, buffer.getbuffer())

    def restore(self, tally: Tally) -> float:
        """Fill a new tally with what was saved, if anything was; return the seconds spent on it.

        Raises:
            InputError: the file is no state, or cannot be written.
            StaleArtifactError: it is the state of another run.
        """
        self._require_writable()
        if not self.path.exists():
            return 0.0
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                known = json.loads(saved["known"].tobytes())
                self._require_same(dict(known["identity"].items()))
                return _fill(tally, saved, known)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be read ({error.strerror or error})",
                hint="name another file with --resume",
            ) from error
        except _MALFORMED as error:
            raise InputError(
                f"{self.path}: is not the state of a comparison, or is damaged",
                hint="name another file with --resume, or remove this one to begin again",
            ) from error

    def _require_writable(self) -> None:
        """Find out now, rather than when the first rows are saved."""
        folder = self.path.parent
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder", hint=f"mkdir -p {folder}")
        if self.path.is_dir():
            raise InputError(f"{self.path}: is a folder", hint="name a file with --resume")
        try:
            with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{self.path.stem}."):
                pass
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror or error})",
                hint="name a file with --resume in a folder that you may write to",
            ) from error

    def _require_same(self, found: Mapping[str, Any]) -> None:
        keys = sorted(self._identity.keys() | found.keys())
        differences: dict[str, tuple[object, object]] = {
            key: (found.get(key), self._identity.get(key))
            for key in keys
            if found.get(key) != self._identity.get(key)
        }
        if differences:
            raise StaleArtifactError(
                f"{self.path}: is the state of another run", differences,
                hint="go on with the same engines, images and options, or remove the file to begin "
                "again",
            )  # fmt: skip


def _fill(tally: Tally, saved: Mapping[str, Any], known: Mapping[str, Any]) -> float:
    """Take up the rows of a state; return its seconds.

    Raises:
        ValueError: they are not rows such as `RunState.save` writes.
    """
    position, classes, seconds = int(known["position"]), int(known["classes"]), known["seconds"]
    if not 0 <= position <= len(tally.status) or not math.isfinite(seconds):
        raise ValueError(f"position {position}, {seconds} seconds")
    targets = {"status": tally.status, "reference": tally.reference}
    targets |= {f"engine{index}": rows for index, rows in enumerate(tally.engines)}
    for name, rows in targets.items():
        found = saved[name]
        if found.dtype != rows.dtype or found.shape != (position,):
            raise ValueError(f"{name} is {found.dtype} {found.shape}")
        rows[:position] = found
    if (tally.status[:position] == PENDING).any():
        raise ValueError("an image before the position is pending")
    done = tally.status[:position] == DONE
    for rows in (tally.reference, *tally.engines):
        answers = rows["answer"][:position][done]
        if ((answers < 0) | (answers >= classes)).any():
            raise ValueError("an answer is none of the classes")
    tally.classes = classes
    tally.skipped = [SkippedImage(str(name), str(reason)) for name, reason in known["skipped"]]
    tally.rewind(position)
    return float(seconds)
