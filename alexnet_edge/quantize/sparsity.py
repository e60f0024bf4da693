"""Prune weights to 2:4 sparsity, and measure what that does.

requires  a graph in normal form (`layers.prepare`), FP32 throughout
call      prune_weights(model, path)
ensures   in every layer that TensorRT has sparse kernels for, at most 2 of any 4 neighbouring
          weights along the axis of input channels are not 0; the others keep their values

Sparse tensor cores (NVIDIA Ampere and later) skip two of every four products if, for each output
channel and each place of the kernel, every four input channels have at least two zeros (TensorRT
developer guide, Structured Sparsity). Those of least magnitude are set to 0, which has the least
squared error of all such patterns. It is not without loss, and nothing is trained afterwards: the
error of every layer is returned, and `measure_loss` says what the answers lose.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from alexnet_edge.dataset import Batch
from alexnet_edge.errors import DatasetError
from alexnet_edge.graph import GraphInfo, constant
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.layers import WeightedLayer, weighted_layers
from alexnet_edge.quantize.scales import FloatArray
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.ort import create_session
from alexnet_edge.similarity import centred_logits, sqnr_db

GROUP, KEPT = 4, 2
"""Of every 4 neighbouring weights 2 are kept."""


@dataclasses.dataclass(frozen=True)
class PrunedLayer:
    """What became of a layer's weights.

    Attributes:
        name: the layer's.
        relative_error: norm of what was cut over the norm of the weights; 0 where it stayed dense.
        dense: why it stayed dense; empty where it was pruned.
    """

    name: str
    relative_error: float
    dense: str = ""


@dataclasses.dataclass(frozen=True)
class PruningLoss:
    """How the pruned network answers, against the FP32 one.

    Attributes:
        images: how many were seen.
        agreement: share of them with the same top-1.
        logit_sqnr_db: of the centred logits; None without any difference.
    """

    images: int
    agreement: float
    logit_sqnr_db: float | None


def prune_weights(model: ir.Model, path: Path) -> list[PrunedLayer]:
    """Prune in place; return what became of each weighted layer, in graph order.

    Raises:
        GraphError: there is no weighted layer.
    """
    told = []
    errors: dict[int, float] = {}
    for layer in weighted_layers(model, path):
        reason = _why_dense(layer)
        key = id(layer.weight)
        if not reason and key not in errors:  # layers may share a weight
            weight = _array(layer)
            kept = keep_largest(weight, _input_axis(layer))
            layer.weight.const_value = constant(layer.weight.name or "", kept).const_value
            norm = float(np.linalg.norm(weight))
            errors[key] = float(np.linalg.norm(weight - kept)) / norm if norm else 0.0
        told.append(PrunedLayer(layer.name, 0.0 if reason else errors[key], reason))
    return told


def keep_largest(weight: FloatArray, axis: int) -> FloatArray:
    """Return a copy with the 2 smallest magnitudes of every 4 along ``axis`` set to 0.

    Args:
        weight: of any rank.
        axis: of input channels; a multiple of 4 long.
    """
    moved = np.moveaxis(weight, axis, -1)
    groups = moved.reshape(-1, GROUP)
    magnitudes = [np.abs(groups[:, place]) for place in range(GROUP)]
    # How many of the other three go first; sorting would take eight times the weight's memory.
    ranks = [np.zeros(len(groups), np.uint8) for _ in range(GROUP)]
    for one, other in itertools.combinations(range(GROUP), 2):
        first = magnitudes[one] >= magnitudes[other]
        ranks[other] += first
        ranks[one] += ~first
    kept = np.where(np.stack(ranks, axis=1) < KEPT, groups, np.float32(0))
    found: FloatArray = np.ascontiguousarray(np.moveaxis(kept.reshape(moved.shape), -1, axis))
    return found


def measure_loss(
    graph: GraphInfo,
    reference: onnx.ModelProto,
    pruned: onnx.ModelProto,
    batches: Iterable[Batch],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> PruningLoss:
    """Run images through both networks in ONNX Runtime.

    Args:
        graph: what they take and give.
        reference: the FP32 network.
        pruned: the same, pruned, and quantized if it will be.
        batches: images.
        on_progress: called with the number of images done.

    Raises:
        DatasetError: there is no image.
    """
    sessions = [
        create_session(model.SerializeToString(), RuntimeOptions()) for model in (reference, pruned)
    ]
    agreed = images = 0
    signal = noise = 0.0
    probabilities = graph.output_kind == "probabilities"
    for batch in batches:
        rows = np.arange(graph.input.batch or len(batch)) % len(batch)
        feed = {graph.input.name: batch.tensor[rows]}
        answers = [session.run(None, feed)[0][: len(batch)] for session in sessions]
        expected, found = (centred_logits(a, probabilities=probabilities) for a in answers)
        signal += float((expected**2).sum())
        noise += float(((found - expected) ** 2).sum())
        agreed += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
        images += len(batch)
        on_progress(images)
    if not images:
        raise DatasetError("there is no image to measure on", hint="give a folder with images")
    return PruningLoss(images, agreed / images, sqnr_db(signal, noise))


def _why_dense(layer: WeightedLayer) -> str:
    """Return why no sparse kernel takes a layer, or nothing."""
    channels = _array(layer).shape[_input_axis(layer)]
    if layer.node.op_type == "Conv" and layer.node.attributes.get_int("group", 1) != 1:
        return "grouped convolution"
    if channels % GROUP:
        return f"{channels} input channels are no multiple of {GROUP}"
    return ""


def _input_axis(layer: WeightedLayer) -> int:
    """Return the weight's axis of input channels: beside that of output channels."""
    return 1 if layer.axis == 0 else layer.axis - 1


def _array(layer: WeightedLayer) -> FloatArray:
    tensor = layer.weight.const_value
    array: AnyArray = tensor.numpy() if tensor is not None else np.zeros(0)
    return np.asarray(array, np.float32)
