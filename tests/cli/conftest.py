"""Runs the command line as a user does: in a process of its own."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from alexnet_edge.cli import main; main()"]


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `alexnet-edge ARGUMENTS…` in ``tmp_path`` (or ``cwd``)."""

    def run_command(*arguments: object, cwd: Path = tmp_path) -> Done:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run_command


@pytest.fixture
def folder(tmp_path: Path, tiny_checkpoint: Path, tiny_onnx: Path, tiny_table: Path) -> Path:
    """A folder as a user's: `alexnet.pt`, `alexnet.onnx`, `alexnet.table.json`."""
    for source, name in (
        (tiny_checkpoint, "alexnet.pt"),
        (tiny_onnx, "alexnet.onnx"),
        (tiny_table, "alexnet.table.json"),
    ):
        shutil.copy(source, tmp_path / name)
    return tmp_path
