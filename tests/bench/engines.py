"""Runtimes whose latency is known: they sleep, or do nothing."""

from __future__ import annotations

import itertools
import time

import numpy as np

from alexnet_edge.results import TensorSpec
from alexnet_edge.runtimes.base import EngineInfo, Runtime

CLASSES = 10


class Sleeper(Runtime):
    """Answers after as many seconds as its schedule says; the last entry repeats.

    Args:
        path: of the file that stands for its engine.
        seconds: of each inference in turn.
        batch: fixed batch size, or None.
        contexts: how many callers at a time.
    """

    name = "sleeper"

    def __init__(self, path, seconds=(0.0,), *, batch=None, contexts=1):
        path.write_bytes(bytes(1000))
        image = TensorSpec("input", "float32", (batch, 3, 4, 4))
        super().__init__(
            EngineInfo(
                path, self.name, "fp32", image, TensorSpec("output", "float32", (batch, CLASSES)),
                "logits", "0" * 64,
            )
        )  # fmt: skip
        self.contexts = contexts
        self.batches = []
        self._seconds = itertools.chain(seconds, itertools.repeat(seconds[-1]))

    def describe(self):
        return {"threads": 1}

    def _execute(self, batch):
        self.batches.append(len(batch))
        if seconds := next(self._seconds):
            time.sleep(seconds)
        return np.zeros((len(batch), CLASSES), np.float32)
