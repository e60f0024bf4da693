"""Modules that wait until they are used, and a calibration that uses no computer algebra."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from alexnet_edge.deferred import deferred

NAME, PACKAGE = "waiting_module", "waiting_package"


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Modules that say when they run: a list of who has run so far."""
    told = []
    monkeypatch.setattr(sys, "told", told, raising=False)
    (tmp_path / f"{NAME}.py").write_text(f"import sys\nsys.told.append('{NAME}')\nVALUE = 3\n")
    package = tmp_path / PACKAGE
    package.mkdir()
    (package / "inner.py").write_text("import sys\nsys.told.append('inner')\nVALUE = 5\n")
    (package / "__init__.py").write_text(
        "import sys\nsys.told.append('package')\nfrom waiting_package import inner\n"
        "def ask():\n    return inner.VALUE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield told
    for name in (NAME, PACKAGE, f"{PACKAGE}.inner"):
        sys.modules.pop(name, None)


def test_a_module_runs_when_it_is_used(ran):
    with deferred([NAME]):
        module = importlib.import_module(NAME)
    assert ran == []
    assert module.VALUE == 3
    assert ran == [NAME]


def test_a_module_of_a_package_runs_when_the_package_uses_it(ran):
    with deferred([f"{PACKAGE}.inner"]):
        package = importlib.import_module(PACKAGE)
    assert ran == ["package"]
    assert package.ask() == 5
    assert ran == ["package", "inner"]


def test_others_run_at_once_and_those_that_ran_stay(ran):
    with deferred(["no_such_module"]):
        first = importlib.import_module(NAME)
    with deferred([NAME]):
        assert importlib.import_module(NAME) is first
    assert ran == [NAME]


def test_a_missing_module_is_missing_and_imports_are_as_before():
    finders = list(sys.meta_path)
    with pytest.raises(ModuleNotFoundError), deferred(["no_such_module"]):
        importlib.import_module("no_such_module")
    assert sys.meta_path == finders


@pytest.mark.parametrize(
    "command",
    [
        "calibrate MODEL --images digits:val --max-images 2 --out table.json",
        "build MODEL --int8 --table TABLE --method minmax --out int8.onnx",
        "parity MODEL --reference MODEL --images digits:val --max-images 2",
    ],
    ids=lambda command: command.split()[0],
)
def test_commands_run_no_computer_algebra_and_dimensions_can_still_be_added(
    tiny_onnx, tiny_table, tmp_path, command
):
    script = """
import sys
from alexnet_edge.cli import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert done.code in {0, 3}, done.code
import onnx_ir
assert "sympy.core" not in sys.modules
assert (onnx_ir.SymbolicDim("N") + 1).evaluate({"N": 2}) == 3
import sympy
assert sympy.Integer(4) == 4
"""
    names = {"MODEL": str(tiny_onnx), "TABLE": str(tiny_table)}
    arguments = [names.get(word, word) for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
