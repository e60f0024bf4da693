"""From a trained PyTorch AlexNet to an INT8 engine that still answers as FP32 did.

The command line (``alexnet-edge --help``) is the way in; each command is thin over a function of
this package. Importing the package loads none of torch, onnxruntime, tensorrt or cv2.
"""

__version__ = "0.1.0"
