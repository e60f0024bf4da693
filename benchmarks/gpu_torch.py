"""PyTorch on a GPU as a peer of `gpu_items.py`: eager or compiled, FP32 or FP16."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from alexnet_edge.preprocess import AnyArray
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.torch_eager import TorchRuntime


class TorchVariant(TorchRuntime):
    """A checkpoint on the first GPU, host memory to host memory as the engines are measured.

    FP32 is FP32: without TF32. Compiled is `reduce-overhead`, which records CUDA graphs.
    """

    def __init__(self, path: Path, precision: str, *, compiled: bool, device: str = "cuda") -> None:
        super().__init__(path, RuntimeOptions(device=device))
        torch = self._torch
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self._type = torch.float16 if precision == "fp16" else torch.float32
        module = self._module.to(self._type)
        self._module = torch.compile(module, mode="reduce-overhead") if compiled else module
        self.info = dataclasses.replace(self.info, precision=precision)

    def _execute(self, batch: AnyArray) -> AnyArray:
        torch = self._torch
        images = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
        with torch.inference_mode():
            answers = self._module(images.to(self._device).to(self._type)).float()
        return np.asarray(answers.cpu().numpy(), np.float32)
