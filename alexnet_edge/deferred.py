"""Modules that another imports, and that run only once something of them is used.

onnx-ir imports sympy for arithmetic on symbolic dimensions, of which this package does none; that
takes longer than all else that a short command imports, and again as it ends.

    with deferred(COMPUTER_ALGEBRA, importer="onnx_ir._core"):
        import onnx_ir

Only the importer gets a stand-in. Who else imports the module has it run as ever: what
`importlib.util.LazyLoader` leaves in `sys.modules` runs within the interpreter's look for a running
import, which drops whatever is raised there, an interruption too.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Collection, Iterator, Sequence

COMPUTER_ALGEBRA = ("sympy", "onnx_ir._symbolic_shapes")
"""sympy, and the module of onnx-ir that would use it as soon as it ran. Another release of onnx-ir
may have other modules: sympy is then imported as ever."""


@contextlib.contextmanager
def deferred(names: Collection[str], *, importer: str) -> Iterator[None]:
    """Let a module that is imported in the block import these modules without running them.

    Once it uses one, that one is imported; one that was imported before stays as it is.

    Args:
        names: of the modules, with their packages.
        importer: the module that imports them, with its package.
    """
    finder = _ImporterFinder(names, importer)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _ImporterFinder(importlib.abc.MetaPathFinder):
    """Finds the importer where Python does, and has it run among stand-ins."""

    def __init__(self, names: Collection[str], importer: str) -> None:
        self._names = names
        self._importer = importer

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._importer:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.abc.Loader):
            spec.loader = _ImporterLoader(spec.loader, self._names)
        return spec


class _ImporterLoader(importlib.abc.Loader):
    """Runs a module while stand-ins are there for those that it imports."""

    def __init__(self, loader: importlib.abc.Loader, names: Collection[str]) -> None:
        self._loader = loader
        self._names = names

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        stand_ins = [_StandIn(name) for name in self._names if name not in sys.modules]
        sys.modules.update((stand_in.__name__, stand_in) for stand_in in stand_ins)
        try:
            self._loader.exec_module(module)
        finally:
            for stand_in in stand_ins:
                stand_in._leave()


class _StandIn(types.ModuleType):
    """Has the attributes of the module that it stands for, which is imported for the first."""

    def __getattr__(self, name: str) -> object:
        self._leave()
        return getattr(importlib.import_module(self.__name__), name)

    def _leave(self) -> None:
        """Make room in `sys.modules` for the module itself."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
