"""What the package needs is what `pyproject.toml` says that it needs."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {"PIL": "pillow"}
"""Packages that are imported by another name."""

CAMERA = ROOT / "alexnet_edge" / "camera" / "web"
"""Imported only when something is served, which needs an extra."""


def package_of(module):
    name = module.split(".")[0]
    return PACKAGES.get(name, name).replace("_", "-").lower()


def imported_at_once(path):
    """Yield the packages that importing a file needs, those of the standard library left out."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            if module.split(".")[0] not in {*sys.stdlib_module_names, "alexnet_edge"}:
                yield package_of(module)


def names(requirements):
    return {Requirement(text).name.lower() for text in requirements}


def test_what_a_module_imports_is_a_dependency():
    core = names(PROJECT["dependencies"])
    served = core | names(PROJECT["optional-dependencies"]["camera"])
    for path in sorted((ROOT / "alexnet_edge").rglob("*.py")):
        allowed = served if CAMERA in path.parents else core
        assert set(imported_at_once(path)) <= allowed, path


def test_every_dependency_is_pinned_for_ci():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pinned.setdefault(pin.name, []).append(next(iter(pin.specifier)).version)
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]):
        wanted = Requirement(text)
        versions = pinned.get(wanted.name.lower(), [])
        assert versions, f"{wanted.name} is not in constraints.txt"
        assert all(wanted.specifier.contains(version) for version in versions), wanted.name


def test_both_kinds_of_onnxruntime_have_one_floor():
    extras = PROJECT["optional-dependencies"]
    found = [Requirement(text) for text in (*extras["cpu"], *extras["gpu"])]
    floors = [one.specifier for one in found if one.name.startswith("onnxruntime")]
    assert len(floors) == 2
    assert floors[0] == floors[1]
