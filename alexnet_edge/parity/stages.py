"""From an image's bytes to the engine's answers: the stages, what each may differ by, and why.

Each stage is compared with the one before it on the same images. The first that differs by more
than its tolerance is where the engine and the reference part ways; what comes after it is wrong
because of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from alexnet_edge.parity.layers import LayerSqnr
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.similarity import centred_logits, sqnr_db

BYTES, DECODE, PREPROCESSING = "bytes", "decode", "preprocessing"
PYTORCH, FP32, QDQ, ENGINE = "PyTorch", "FP32 ONNX", "Q/DQ graph", "engine"
REFERENCE = "reference"
"""Instead of the FP32 ONNX graph, where the reference is an engine."""


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """What a stage may differ by.

    Attributes:
        least_db: the least SQNR; None where it is not judged by that.
        most: the largest absolute difference; None where it is not judged by that.
        why: why so much, and no more.
    """

    least_db: float | None = None
    most: float | None = None
    why: str = ""

    def holds(self, difference: Difference) -> bool:
        """Whether a difference is within it."""
        if self.most is not None and not difference.max_abs <= self.most:  # NaN is beyond too
            return False
        if self.least_db is None or (difference.sqnr_db is None and difference.max_abs == 0):
            return True
        return difference.sqnr_db is not None and difference.sqnr_db >= self.least_db

    def __str__(self) -> str:
        if self.most is not None:
            return "equal" if self.most == 0 else f"at most {self.most:g}"
        return f"SQNR of the logits at least {self.least_db:g} dB"


EXACT = Tolerance(most=0.0, why="the same bytes must give the same values")
NORMALIZED = Tolerance(most=1e-5, why="values up to 3 in float32, rounded twice")
QUANTIZED_INPUT = Tolerance(30.0, why="8 bits over the range of the input leave about 47 dB")
EXPORTED = Tolerance(80.0, why="float32 sums in another order: 10⁻⁴ of the answers at most")
QUANTIZATION = Tolerance(
    20.0, why="INT8 of a good table leaves 30 to 50 dB; at 20 dB answers change"
)
INTEGER_KERNELS = Tolerance(
    25.0, why="rounding of ties differs between kernels and leaves 35 dB or more"
)
HALF = Tolerance(40.0, why="FP16 rounds to 11 bits, which leaves 50 to 60 dB")
SINGLE = Tolerance(50.0, why="TF32, which GPUs may use, leaves about 60 dB; float32 over 100")

ENGINE_TOLERANCE = {"int8": QUANTIZATION, "fp16": HALF, "fp32": SINGLE}
"""Of an engine against the FP32 network; against its own Q/DQ graph it is `INTEGER_KERNELS`."""

HINTS = {
    BYTES: "the files changed while they were read: trace again on a copy of the folder",
    DECODE: "another decoder: compare the sha256 of this stage on both machines, and their Pillow",
    PREPROCESSING: "other size, crop, colour order, mean or std: export and build again with the "
    "preprocessing that the network was trained with",
    REFERENCE: "the reference was built from other weights: build it again from this checkpoint",
    FP32: "the graph was exported from other weights: export it again from this checkpoint",
    QDQ: "ranges that clip or are too wide: calibrate on images like these, try --method auto, or "
    "see which layers to spare with: alexnet-edge sensitivity",
    ENGINE: "kernels that saturate or a damaged engine: build it again, on the machine that runs "
    "it",
}
"""What usually causes a stage to be the first that differs."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How two arrays differ; ``sqnr_db`` is None where they are equal."""

    max_abs: float
    sqnr_db: float | None


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        name: `bytes`, `decode`, `preprocessing`, `PyTorch`, `FP32 ONNX` (`reference`, where that is
            an engine), `Q/DQ graph` or `engine`.
        compared_with: what; None where it was not traced, or has nothing before it.
        max_abs, sqnr_db: the measured difference; sqnr_db is None for equal values too.
        tolerance: in words.
        within: whether it is within; None where nothing was compared.
        reason: why it was not traced; else why the tolerance is what it is, or what differs.
        layer: the first layer that differs, where the stage does and that can be seen.
        sha256: of what the stage gave, to compare with another machine's; None of answers.
    """

    name: str
    compared_with: str | None = None
    max_abs: float | None = None
    sqnr_db: float | None = None
    tolerance: str | None = None
    within: bool | None = None
    reason: str = ""
    layer: str | None = None
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Divergence:
    """Where an engine and its reference part ways.

    Attributes:
        first: the first stage beyond its tolerance; None where all are within.
        layer: the first layer of that stage that differs, where that can be seen.
        hint: what usually causes this.
        images: how many were traced.
        stages: in order.
    """

    first: str | None
    layer: str | None
    hint: str
    images: int
    stages: tuple[Stage, ...]


def find_divergence(stages: Sequence[Stage], images: int, layers: Sequence[str]) -> Divergence:
    """Return the first stage beyond its tolerance.

    Args:
        stages: in order.
        images: how many were traced.
        layers: names of the network's layers in order.
    """
    first = next((stage for stage in stages if stage.within is False), None)
    if first is None:
        return Divergence(None, None, "", images, tuple(stages))
    hint = HINTS[first.name]
    if first.layer is not None and first.name == ENGINE:
        hint = f"the weights, scale or kernel of {first.layer} differ: build the engine again"
        if layers and first.layer == layers[0]:
            hint += "; in the first layer also look for swapped colour channels"
    return Divergence(first.name, first.layer, hint, images, tuple(stages))


UNLIKE = Difference(math.inf, -math.inf)
"""Of arrays of different shapes."""


def compare_arrays(found: AnyArray, wanted: AnyArray) -> Difference:
    """Return how two arrays differ; `UNLIKE` where their shapes do."""
    if found.shape != wanted.shape:
        return UNLIKE
    ours, theirs = found.astype(np.float64), wanted.astype(np.float64)
    noise = ours - theirs
    largest = float(np.abs(noise).max()) if noise.size else 0.0
    return Difference(largest, sqnr_db(float((theirs**2).sum()), float((noise**2).sum())))


def compare_outputs(found: tuple[AnyArray, str], wanted: tuple[AnyArray, str]) -> Difference:
    """Return how answers (N, classes) differ: the outputs as they are, the SQNR of the logits.

    Args:
        found, wanted: answers with their kind, `probabilities` or `logits`.
    """
    if found[0].shape != wanted[0].shape:
        return UNLIKE
    ours, theirs = (
        centred_logits(answers, probabilities=kind == "probabilities")
        for answers, kind in (found, wanted)
    )
    of_logits = compare_arrays(ours, theirs)
    if found[1] != wanted[1]:
        return of_logits
    return Difference(compare_arrays(found[0], wanted[0]).max_abs, of_logits.sqnr_db)


def first_worse(layers: Sequence[LayerSqnr], least_db: float) -> str | None:
    """Return the first layer below ``least_db``, or else that where the SQNR falls most."""
    if not layers:
        return None
    highest = 150.0  # float32 itself
    values = [highest if layer.sqnr_db is None else layer.sqnr_db for layer in layers]
    for layer, value in zip(layers, values, strict=True):
        if value < least_db:
            return layer.name
    falls = [before - after for before, after in zip([highest, *values[:-1]], values, strict=True)]
    return layers[int(np.argmax(falls))].name


def judge_stage(
    name: str,
    compared_with: str,
    difference: Difference,
    tolerance: Tolerance,
    *,
    reason: str = "",
    sha256: str | None = None,
) -> Stage:
    """Return a stage that was compared."""
    return Stage(
        name=name,
        compared_with=compared_with,
        max_abs=difference.max_abs,
        sqnr_db=difference.sqnr_db,
        tolerance=str(tolerance),
        within=tolerance.holds(difference),
        reason=reason or tolerance.why,
        sha256=sha256,
    )
