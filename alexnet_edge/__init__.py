"""From a trained PyTorch AlexNet to an INT8 engine that still answers as FP32 did.

    from alexnet_edge import Classifier

    with Classifier("alexnet.int8.onnx") as classifier:
        print(classifier.classify(Path("cat.jpg")))

The command line (``alexnet-edge --help``) is the other way in; each command is thin over a function
of this package. Importing the package loads none of torch, onnxruntime, tensorrt or cv2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_edge.classifier import Classifier, Prediction

__version__ = "0.1.0"
__all__ = ["Classifier", "Prediction", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Classifier` and `Prediction` when they are first asked for: they load NumPy."""
    if name in {"Classifier", "Prediction"}:
        from alexnet_edge import classifier

        return getattr(classifier, name)
    raise AttributeError(f"module 'alexnet_edge' has no attribute '{name}'")
