"""Recorded trees, set up as files."""

from __future__ import annotations

from pathlib import Path

import pytest

TREES = Path(__file__).parent / "trees"
UNREADABLE = "<unreadable>"


class Tree:
    """A machine's files below a folder; `tree[path] = text` changes one."""

    def __init__(self, root):
        self.root = root

    def __setitem__(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if text == UNREADABLE:  # a folder opens and gives an OSError when read, for root as well
            file.unlink(missing_ok=True)
            file.mkdir()
        else:
            file.write_text(f"{text}\n", encoding="utf-8")


@pytest.fixture
def plant(tmp_path):
    """Set up the tree of a name."""

    def set_up(name):
        tree = Tree(tmp_path / name)
        for line in (TREES / f"{name}.txt").read_text(encoding="utf-8").splitlines():
            if line and not line.startswith("#"):
                path, _, text = line.partition(" = ")
                tree[path] = text
        return tree

    return set_up
