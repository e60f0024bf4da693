"""Named TOML files that ship beside the code: calibration recipes and engine profiles.

A name (`default`) is looked up among the files that come with alexnet-edge; a path (`./my.toml`)
is read as it is. Unknown keys are refused: a misspelt one would otherwise be a silent default.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from alexnet_edge.errors import TableError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PACKAGE = Path(__file__).parent
_FOLDERS = {
    # Installed from a wheel; in the source tree.
    "recipe": (_PACKAGE / "data/recipes", _PACKAGE.parent / "calibration/recipes"),
    "profile": (_PACKAGE / "data/profiles", _PACKAGE.parent / "engines/profiles"),
}


def list_named(kind: str) -> dict[str, Path]:
    """Return the shipped files of a kind, `recipe` or `profile`, by name."""
    for folder in _FOLDERS[kind]:
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


def read_named(kind: str, name: str, *, keys: Collection[str]) -> dict[str, Any]:
    """Read a recipe or profile by name or path.

    Raises:
        TableError: there is none of that name, it is not TOML, or it has an unknown key.
    """
    shipped = list_named(kind)
    path = shipped.get(name, Path(name))
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise TableError(
            f"{kind} '{name}' is unknown", hint=f"one of {', '.join(shipped)}, or a .toml file"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: is not TOML ({error})", hint="correct the file") from error
    unknown = sorted(set(values) - set(keys))
    if unknown:
        raise TableError(
            f"{path}: has an unknown key '{unknown[0]}'", hint=f"the keys are {', '.join(keys)}"
        )
    return values
