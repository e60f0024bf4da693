"""PyTorch itself: the reference that everything else is compared with."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_edge.errors import UnavailableError
from alexnet_edge.machine import usable_cores
from alexnet_edge.model import build_module, import_torch, load_checkpoint
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.base import EngineInfo, LayerTime, Runtime, RuntimeOptions
from alexnet_edge.runtimes.profiling import LayerClock


class TorchRuntime(Runtime):
    """A checkpoint in eager PyTorch, FP32; answers are probabilities."""

    name = "torch"

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        torch = import_torch(f"running {path}")
        kind, index = options.choose_device("torch", known=("cpu", "cuda"))
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if kind == "cuda" and index >= gpus:
            raise UnavailableError(
                f"device {options.device}: torch {torch.__version__} sees {gpus} GPUs",
                hint="use --device cpu",
            )
        checkpoint = load_checkpoint(path)
        size = checkpoint.architecture.input_size
        super().__init__(
            EngineInfo(
                path=path,
                runtime=self.name,
                precision="fp32",
                input=TensorSpec("input", "float32", (None, 3, size, size)),
                output=TensorSpec(
                    "probabilities", "float32", (None, checkpoint.architecture.classes)
                ),
                output_kind="probabilities",
                model_sha256=checkpoint.sha256,
                preprocess=checkpoint.default_preprocess().with_input("float32"),
                classes=checkpoint.classes,
            )
        )
        self._torch, self._device = torch, f"cuda:{index}" if kind == "cuda" else "cpu"
        self._threads = options.threads or usable_cores()
        module = build_module(checkpoint.architecture)
        module.load_state_dict(dict(checkpoint.state_dict))
        self._module = module.eval().to(self._device)
        self.on_gpu = kind == "cuda"

    def describe(self) -> dict[str, Any]:
        """Return device, threads and transfers."""
        return {
            "device": self._device,
            "threads": self._threads,
            "spin_wait": "left to OpenMP",
            "transfers": "timed: pageable memory" if self.on_gpu else "none: host memory",
            "cuda_graph": "off",
        }

    def profile(self, batch: AnyArray, *, runs: int, warmup: int) -> tuple[LayerTime, ...]:
        """Time every module with hooks around its call, the GPU waited for at each."""
        self.check(batch)
        clock = LayerClock(runs)
        started = 0.0

        def begin(*_: Any) -> None:
            nonlocal started
            started = self._now()

        def note(name: str) -> Any:
            def end(module: Any, *_: Any) -> None:
                clock.add(name, type(module).__name__, (self._now() - started) * 1e6)

            return end

        hooks = []
        for name, module in self._module.named_modules():
            if not list(module.children()):
                hooks.append(module.register_forward_pre_hook(begin))
                hooks.append(module.register_forward_hook(note(name)))
        try:
            for _ in range(warmup + runs):
                self._execute(batch)
        finally:
            for hook in hooks:
                hook.remove()
        return clock.times()

    def _now(self) -> float:
        if self.on_gpu:
            self._torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _execute(self, batch: AnyArray) -> AnyArray:
        torch = self._torch
        torch.set_num_threads(self._threads)
        # torch takes no negative strides, and warns of arrays that are read-only.
        images = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
        with torch.inference_mode():
            answers = self._module(images.to(self._device)).softmax(1)
        return np.asarray(answers.cpu().numpy(), np.float32)

    def _release(self) -> None:
        del self._module
