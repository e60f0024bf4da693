"""Modules that are imported, and run only once something of them is used.

onnx-ir imports sympy for arithmetic on symbolic dimensions, of which this package does none; that
takes longer than all else that a short command imports, and again as it ends.

    with deferred(COMPUTER_ALGEBRA):
        import onnx_ir

`importlib.util.LazyLoader` does it; here it is applied to what others import.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Collection, Iterator, Sequence

COMPUTER_ALGEBRA = ("sympy", "onnx_ir._symbolic_shapes")
"""sympy, and the module of onnx-ir that would use it as soon as it ran. Another release of onnx-ir
may have other modules: sympy is then imported as ever."""


@contextlib.contextmanager
def deferred(names: Collection[str]) -> Iterator[None]:
    """Let what is imported in the block import these modules without running them.

    Whoever uses one, then or later, has it run first; one that was imported before stays as it is.

    Args:
        names: of the modules, with their packages.
    """
    finder = _DeferringFinder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _DeferringFinder(importlib.abc.MetaPathFinder):
    """Finds modules where Python does, and has the named ones wait."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.abc.Loader):
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
