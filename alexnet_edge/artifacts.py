"""Files that are whole or not there: hashes, atomic writes, JSON."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alexnet_edge.errors import InputError

_CHUNK_BYTES = 1 << 20

_DISK_ERRORS = frozenset((errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", None)))
"""What a write fails with, of which Python does not say what was being written."""


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits, reading it in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: object) -> str:
    """Return the SHA-256 of a JSON value, independent of key order and white space."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it only when the block succeeds.

    The file is flushed to disk before the rename, so a crash, a kill or a full disk leaves either
    the old file or the new one. Temporary files of writers that are no longer alive are removed.

    Raises:
        InputError: the folder does not exist or ``path`` is a folder.
        OSError: it could not be written; the error has the name of ``path``.
    """
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def atomic_paths(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Yield a temporary path for each of several files that belong together; see `atomic_path`.

    None replaces its file before all are on the disk. A link stays, and what it points to is
    replaced; a device or a pipe is written to.

    Raises:
        InputError: a folder does not exist, or one of ``paths`` is a folder.
        OSError: they could not be written; the error names the file, or all of them.
    """
    for path in paths:
        require_target(path)
    paths = tuple(
        path.resolve() if path.is_symlink() and not _is_stream(path) else path for path in paths
    )
    # The suffix is kept: some writers (ONNX, safetensors, torch) choose their format by it.
    temporaries = tuple(
        (Path(tempfile.gettempdir()) if _is_stream(path) else path.parent)
        / f".{path.stem}.{os.getpid()}.partial{path.suffix}"
        for path in paths
    )
    for path in paths:
        if not _is_stream(path):
            _remove_abandoned(path)
    try:
        yield temporaries
        for temporary in temporaries:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        for temporary, path in zip(temporaries, paths, strict=True):
            if _is_stream(path):
                with temporary.open("rb") as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            else:
                temporary.replace(path)
    except OSError as error:
        targets = dict(zip(map(str, temporaries), map(str, paths), strict=True))
        if error.filename is None and error.errno in _DISK_ERRORS:
            error.filename = ", ".join(targets.values())
        elif error.filename is not None:
            error.filename = targets.get(str(error.filename), error.filename)
        raise
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def require_target(path: Path) -> None:
    """Require that a file can be written under this name, before work is done for it.

    Raises:
        InputError: its folder does not exist, or it is a folder itself.
        OSError: nobody may write to the folder, or to the device.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent}: no such folder", hint=f"mkdir -p {path.parent}")
    if path.is_dir():
        raise InputError(f"{path}: is a folder", hint="name a file to write")
    written = path if _is_stream(path) else path.resolve().parent
    if not os.access(written, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def _is_stream(path: Path) -> bool:
    """Return whether a name is a device's or a pipe's, `/dev/stdout` among them."""
    return path.exists() and (not path.is_file() or path.parent == Path("/dev"))


def _remove_abandoned(path: Path) -> None:
    pattern = re.compile(
        rf"\.{re.escape(path.stem)}\.(\d+)\.partial{re.escape(path.suffix)}", re.ASCII
    )
    for candidate in path.parent.iterdir():
        match = pattern.fullmatch(candidate.name)
        if match and not _is_alive(int(match[1])):
            candidate.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # the latter: a number that no process can have
        return False
    except PermissionError:
        return True
    return True


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: Path, *, what: str, hint: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: the file.
        what: what it should be, for the error.
        hint: how to make one, for the error.

    Raises:
        InputError: it is missing, unreadable, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", hint=hint) from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: is not {what} ({error})", hint=hint) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: is not {what} (a JSON object is expected)", hint=hint)
    return value


def require_file(path: Path, *, hint: str) -> Path:
    """Return ``path`` if it is a file.

    Raises:
        InputError: it does not exist, or is a folder.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, a file is expected", hint=hint)
    if not path.exists():
        raise InputError(f"{path}: no such file", hint=hint)
    return path
