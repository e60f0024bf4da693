"""Runs the command line as a user does: in a process of its own."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from alexnet_edge.cli import main; main()"]
ON_A_FULL_DISK = """
import resource, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from alexnet_edge.cli import main
main()
"""


@dataclasses.dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `alexnet-edge ARGUMENTS…` in ``tmp_path`` (or ``cwd``).

    With ``room_bytes`` no file can grow larger, as if the disk were full then.
    """

    def run_command(
        *arguments: object, cwd: Path = tmp_path, room_bytes: int | None = None
    ) -> Done:
        command = COMMAND
        if room_bytes is not None:
            pytest.importorskip("resource", reason="file size limits are POSIX's")
            command = [sys.executable, "-c", ON_A_FULL_DISK, str(room_bytes)]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run_command


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a function that mounts a file system with room for so many bytes; root's only."""
    mounted: list[Path] = []

    def mount(room_bytes: int) -> Path:
        disk = tmp_path / f"disk{len(mounted)}"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={room_bytes}", "tmpfs", str(disk)]
        if (
            shutil.which("mount") is None
            or subprocess.run(command, capture_output=True, check=False).returncode
        ):
            pytest.skip("this user may not mount a small file system")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", str(disk)], check=True)


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
