"""The layers of the FP32 graph, of the Q/DQ graph and of the engine, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from alexnet_edge.errors import AlexnetEdgeError, GraphError
from alexnet_edge.graph import load_bare, load_onnx, opset_of, weights_folder
from alexnet_edge.manifest import find_manifest, manifest_path
from alexnet_edge.parity.layers import INPUT, OUTPUT, LayerProbe, LayerSqnr, LayerTally
from alexnet_edge.parity.qdq import rebuild_qdq
from alexnet_edge.parity.stages import ENGINE, FP32, QDQ
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.layers import QDQ_OPSET, prepare, weighted_layers
from alexnet_edge.quantize.scales import FloatArray
from alexnet_edge.runtimes.base import EngineInfo
from alexnet_edge.runtimes.ort import OnnxRuntime

_CHUNK = 16
"""Images whose layers are held at a time: 0.2 GB at full size."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The batch as each side's preprocessing gives it."""

    reference: AnyArray
    engine: AnyArray


class Probes:
    """Opens what can be looked into, and says of the rest why it cannot.

    Attributes:
        graph: the FP32 ONNX graph; None where the reference is none.
        names: of the weighted layers, in order; empty where nothing names them.
        missing: by stage, why it is not among the probes.
        qdq_answers: of the Q/DQ graph (N, classes), once measured.
    """

    def __init__(self, engine: EngineInfo, reference: EngineInfo, table: Path | None) -> None:
        self._engine, self._reference = engine, reference
        self.graph = reference.path if _is_graph(reference) else None
        self.manifest = find_manifest(engine.path)
        self.missing: dict[str, str] = {}
        self.names: list[str] = []
        self.qdq_answers: AnyArray | None = None
        self._probes: dict[str, LayerProbe] = {}
        self._inputs: dict[str, FloatArray] = {}
        self._tallies: dict[tuple[str, str], LayerTally] = {}
        self._try(FP32, self._open_fp32)
        self._try(QDQ, lambda: self._open_qdq(table))
        self._try(ENGINE, self._open_engine)

    def measure(self, inputs: Inputs) -> None:
        """Run the images through all probes."""
        parts: dict[str, list[dict[str, FloatArray]]] = {name: [] for name in self._probes}
        pairs = [(a, b) for a, b in ((FP32, QDQ), (QDQ, ENGINE), (FP32, ENGINE))
                 if a in self._probes and b in self._probes]  # fmt: skip
        self._tallies = {pair: LayerTally() for pair in pairs}
        for start in range(0, len(inputs.reference), _CHUNK):
            found = {}
            for name, probe in self._probes.items():
                batch = inputs.engine if name == ENGINE else inputs.reference
                found[name] = probe.run(batch[start : start + _CHUNK])
                kept = {key: found[name][key] for key in (INPUT, OUTPUT)}
                parts[name].append(kept)
            for first, second in pairs:
                self._tallies[first, second].add(found[first], found[second])
        self._inputs = {
            name: np.concatenate([part[INPUT] for part in kept]) for name, kept in parts.items()
        }
        if QDQ in parts:
            self.qdq_answers = np.concatenate([part[OUTPUT] for part in parts[QDQ]])

    def input_of(self, stage: str) -> FloatArray | None:
        """Return what the first layer of a graph reads (N, 3, H, W), if it can be seen."""
        return self._inputs.get(stage)

    def reads_pixels(self, stage: str) -> bool:
        """Whether the first layer of a graph reads pixels that nothing has normalized."""
        return stage in self._probes and self._probes[stage].reads_pixels

    def compare(self, reference: str, stage: str) -> tuple[LayerSqnr, ...]:
        """Return the layers of one graph against those of another; none where one is missing."""
        tally = self._tallies.get((reference, stage))
        return tally.result() if tally is not None else ()

    def summarize(self) -> tuple[tuple[LayerSqnr, ...] | None, str]:
        """Return the layers against FP32, and whose they are or why there are none."""
        for stage in (ENGINE, QDQ):
            if layers := self.compare(FP32, stage):
                note = f"{stage} against {FP32}"
                if stage == QDQ:
                    note += f"; of the {ENGINE}: {self.missing[ENGINE]}"
                return layers, note
        return None, "none: " + (self.missing.get(FP32) or self.missing[ENGINE])

    def _try(self, stage: str, open_probe: Callable[[], LayerProbe]) -> None:
        try:
            self._probes[stage] = open_probe()
        except AlexnetEdgeError as error:
            self.missing[stage] = f"{error.message}; {error.hint}" if error.hint else error.message

    def _open_fp32(self) -> LayerProbe:
        if self.graph is None:
            self.names = [layer.name for layer in self.manifest.layers] if self.manifest else []
            raise GraphError(_explain_reference(self._reference))
        model = load_bare(self.graph)
        if opset_of(model) < QDQ_OPSET:
            model = load_onnx(self.graph)  # converting needs the weights
        prepared = prepare(model, self.graph)
        self.names = [layer.name for layer in weighted_layers(prepared, self.graph)]
        folder = weights_folder(self.graph)
        return LayerProbe(ir.to_proto(prepared), self.names, str(self.graph), folder)

    def _open_qdq(self, table: Path | None) -> LayerProbe:
        if self._engine.precision != "int8":
            raise GraphError(f"the engine is {self._engine.precision.upper()}")
        if self.graph is None:
            raise GraphError(_explain_reference(self._reference))
        if self.manifest is None:
            raise GraphError("the engine has no manifest that says how it was quantized")
        proto = rebuild_qdq(self.manifest, self.graph, table)
        return LayerProbe(proto, self.names, "the Q/DQ graph")

    def _open_engine(self) -> LayerProbe:
        if self._engine.runtime != OnnxRuntime.name:
            raise GraphError(f"an engine of {self._engine.runtime} does not show its layers")
        return LayerProbe(onnx.load(self._engine.path), self.names, str(self._engine.path))


def _is_graph(info: EngineInfo) -> bool:
    """Whether a file is an FP32 ONNX graph as it was exported, not one that was optimized."""
    is_onnx = info.runtime == OnnxRuntime.name and info.precision == "fp32"
    return is_onnx and not manifest_path(info.path).exists()


def _explain_reference(info: EngineInfo) -> str:
    if info.runtime == "torch":
        return "the reference is a checkpoint: give the FP32 ONNX graph as --reference"
    return (
        f"the reference is an engine ({info.runtime}, {info.precision.upper()}): give the FP32 "
        "ONNX graph as --reference"
    )
