"""A comparison that was interrupted goes on from where it was.

The state is one small file with the rows of the images seen so far, and the identity of the run:
hashes of the engines, the reference, the images and the preprocessing, and the settings. A run of
another identity does not go on from it; the fields that differ are named.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_edge.artifacts import write_bytes
from alexnet_edge.dataset import SkippedImage
from alexnet_edge.errors import InputError, StaleArtifactError
from alexnet_edge.parity.tally import Tally

VERSION = 1

Identity = Mapping[str, Any]


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
            InputError: the file is no state, or its folder is not there.
            StaleArtifactError: it is the state of another run.
        """
        if not self.path.parent.is_dir():  # told now rather than when the first rows are saved
            folder = self.path.parent
            raise InputError(f"{folder}: no such folder", hint=f"mkdir -p {folder}")
        if not self.path.exists():
            return 0.0
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                known = json.loads(saved["known"].tobytes())
                self._require_same(known["identity"])
                position = int(known["position"])
                tally.status[:position] = saved["status"]
                tally.reference[:position] = saved["reference"]
                for index, rows in enumerate(tally.engines):
                    rows[:position] = saved[f"engine{index}"]
                tally.classes = int(known["classes"])
                tally.skipped = [SkippedImage(name, reason) for name, reason in known["skipped"]]
                tally.rewind(position)
                return float(known["seconds"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{self.path}: is not the state of a comparison ({error})",
                hint="name another file with --resume, or remove this one to begin again",
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
