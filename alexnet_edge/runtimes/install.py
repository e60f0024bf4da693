"""How to get what a runtime is made of: on a Jetson otherwise than elsewhere.

On a Jetson TensorRT's bindings come with JetPack, PyPI has no onnxruntime-gpu for its processor,
and pycuda is compiled; so the `gpu` extra cannot be installed (docs/how-to/jetson.md, 4b).
"""

from __future__ import annotations

from alexnet_edge import machine

_ON_JETSON = {
    "tensorrt": "sudo apt-get install nvidia-jetpack, and make the environment with "
    "python3 -m venv --system-site-packages",
    "pycuda": "with nvcc on the PATH: pip install pycuda",
    "onnxruntime-gpu": "PyPI has no onnxruntime-gpu for this processor: pip install a wheel that "
    "was built for your JetPack",
}


def is_jetson() -> bool:
    """Return whether this machine is a Jetson."""
    return machine.l4t_release() is not None or "Jetson" in (machine.board_name() or "")


def install_hint(package: str) -> str:
    """Return how to install `tensorrt`, `pycuda` or `onnxruntime-gpu` on this machine."""
    return _ON_JETSON[package] if is_jetson() else "pip install 'alexnet-edge[gpu]'"
