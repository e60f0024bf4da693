"""Modules that wait until they are used, and a calibration that uses no computer algebra."""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import subprocess
import sys

import pytest

from alexnet_edge.deferred import deferred

NAME, INNER, IMPORTER, OTHER = (
    "waiting_module", "importing_package.inner", "importing_package._core", "other_importer",
)  # fmt: skip


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A package whose core imports two modules, and another importer: a list of who has run."""
    told = []
    monkeypatch.setattr(sys, "told", told, raising=False)
    package = tmp_path / "importing_package"
    package.mkdir()
    files = {
        tmp_path / f"{NAME}.py": "VALUE = sys.told.count('waiting_module')\n",
        tmp_path / f"{OTHER}.py": f"import {NAME}\nVALUE = {NAME}.VALUE\n",
        package / "__init__.py": "from importing_package import _core\n",
        package / "inner.py": f"import {NAME}\nVALUE = 5 * {NAME}.VALUE\n",
        package / "_core.py": f"import {NAME}\nfrom importing_package import inner\n"
        f"def ask():\n    return {NAME}.VALUE\ndef ask_inner():\n    return inner.VALUE\n",
    }
    for path, text in files.items():
        path.write_text(f"import sys\nsys.told.append(__name__)\n{text}")
    monkeypatch.syspath_prepend(tmp_path)
    yield told
    for name in (NAME, INNER, IMPORTER, OTHER, "importing_package"):
        sys.modules.pop(name, None)


@pytest.fixture
def core(ran):
    with deferred([NAME, INNER], importer=IMPORTER):
        module = importlib.import_module(IMPORTER)
    assert ran == ["importing_package", IMPORTER]
    assert not {NAME, INNER} & set(sys.modules)
    return module


def test_a_module_runs_when_the_importer_uses_it(core, ran):
    assert core.ask() == 1
    assert core.ask() == 1
    assert ran[2:] == [NAME]
    assert sys.modules[NAME].VALUE == 1


def test_a_module_of_a_package_runs_when_it_is_used_and_what_it_imports(core, ran):
    assert core.ask_inner() == 5
    assert ran[2:] == [INNER, NAME]


def test_another_importer_has_it_run_at_once(core, ran):
    assert importlib.import_module(OTHER).VALUE == 1
    assert ran[2:] == [OTHER, NAME]
    assert core.ask() == 1
    assert ran[2:] == [OTHER, NAME]


def test_an_importer_that_uses_a_module_as_it_runs_gets_it(ran):
    with deferred([NAME], importer=OTHER):
        assert importlib.import_module(OTHER).VALUE == 1
    assert ran == [OTHER, NAME]
    assert sys.modules[NAME].VALUE == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_a_module_raises_comes_out_and_it_is_imported_again(core, ran, error, monkeypatch):
    class Told(list):
        def append(self, name):
            if name == NAME:
                raise error

    monkeypatch.setattr(sys, "told", Told())
    with pytest.raises(error):
        core.ask()
    with pytest.raises(error):
        importlib.import_module(OTHER)
    monkeypatch.setattr(sys, "told", ran)
    assert core.ask() == 1


def test_modules_without_the_importer_run_at_once_and_those_that_ran_stay(ran):
    with deferred([NAME], importer="no_such_importer"):
        first = importlib.import_module(NAME)
    with deferred([NAME], importer=IMPORTER):
        importlib.import_module(IMPORTER)
    assert sys.modules[NAME] is first
    assert ran == [NAME, "importing_package", IMPORTER, INNER]


def test_the_importer_is_as_it_would_be_otherwise(core):
    assert isinstance(core.__loader__, importlib.machinery.SourceFileLoader)
    assert core.__spec__.loader is core.__loader__
    assert "def ask()" in inspect.getsource(core)


def test_a_missing_module_is_missing_and_imports_are_as_before(core):
    finders = list(sys.meta_path)
    sys.modules.pop(OTHER, None)
    with deferred(["no_such_module"], importer="no_such_importer"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_module")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_importer")
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
