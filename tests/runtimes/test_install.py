"""What to install is another thing on a Jetson than elsewhere."""

from __future__ import annotations

import pytest

from alexnet_edge import machine
from alexnet_edge.errors import MissingDependencyError
from alexnet_edge.runtimes import install, loader
from alexnet_edge.runtimes.loader import availability
from tests.runtimes.standins import Gpu, Vendor

PACKAGES = ("tensorrt", "pycuda", "onnxruntime-gpu")


@pytest.fixture
def board(monkeypatch):
    """Make this machine another."""

    def be(release, name):
        monkeypatch.setattr(machine, "l4t_release", lambda: release)
        monkeypatch.setattr(machine, "board_name", lambda: name)

    return be


@pytest.mark.parametrize(
    ("release", "name", "expected"),
    [
        ((36, 4, 3), "NVIDIA Orin Nano Developer Kit", True),
        (None, "NVIDIA Jetson AGX Thor Developer Kit", True),
        (None, "Raspberry Pi 5 Model B Rev 1.0", False),
        (None, None, False),
    ],
)
def test_jetson_is_known_by_its_release_or_its_name(board, release, name, expected):
    board(release, name)
    assert install.is_jetson() is expected


@pytest.mark.parametrize("package", PACKAGES)
def test_extra_is_for_pcs_and_never_for_a_jetson(board, package):
    board(None, None)
    assert install.install_hint(package) == "pip install 'alexnet-edge[gpu]'"
    board((36, 4, 3), None)
    assert "[gpu]" not in install.install_hint(package)


@pytest.mark.parametrize(
    ("release", "hint"),
    [(None, "pip install 'alexnet-edge[gpu]'"), ((36, 4, 3), "pip install pycuda")],
)
def test_pycuda_that_is_missing_is_named_with_what_installs_it_here(
    board, monkeypatch, release, hint
):
    board(release, None)
    monkeypatch.setattr(loader, "import_vendor", lambda runtime: Vendor(Gpu(), "10.3.0"))
    monkeypatch.setattr(loader, "cuda_device_count", lambda: 1)
    monkeypatch.setattr(loader.importlib.util, "find_spec", lambda name: None)
    found = availability("tensorrt")
    assert found.reason == "pycuda is not installed"
    assert found.hint.endswith(hint)


def test_tensorrt_that_is_missing_comes_with_jetpack(board, monkeypatch):
    def missing(runtime):
        raise MissingDependencyError(runtime, needed_for="engines", extra="gpu")

    monkeypatch.setattr(loader, "import_vendor", missing)
    board((38, 4, 0), None)
    assert "nvidia-jetpack" in availability("tensorrt").hint
    assert "[gpu]" in availability("tensorrt-rtx").hint  # as its own error says
