"""Follow the same images from their bytes to the engine's answers.

    found = trace_stages(engine, reference, images, TraceSettings())
    found.divergence.first      # "Q/DQ graph", say; None where every stage is within tolerance

An engine whose preprocessing is not the reference's is traced too: that is what the trace then
says.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_edge.dataset import ImageItem, ImageReader, ImageSet
from alexnet_edge.errors import DatasetError, ImageError, InputError
from alexnet_edge.graph import read_graph
from alexnet_edge.parity import stages
from alexnet_edge.parity.layers import LayerSqnr
from alexnet_edge.parity.probes import Inputs, Probes
from alexnet_edge.parity.stages import (
    Difference,
    Divergence,
    Stage,
    Tolerance,
    compare_arrays,
    compare_outputs,
    find_divergence,
    first_worse,
    judge_stage,
)
from alexnet_edge.preprocess import AnyArray, PreprocessSpec, UInt8Array, load_rgb
from alexnet_edge.runtimes.base import Runtime

_CHUNK = 16

Answers = tuple[AnyArray, str]
"""(N, classes), and whether they are `probabilities` or `logits`."""


@dataclasses.dataclass(frozen=True)
class TraceSettings:
    """What to trace.

    Attributes:
        images: how many, chosen evenly over the classes.
        seed: of that choice.
        table: the engine's calibration table, from which its Q/DQ graph is made again.
        checkpoint: the PyTorch checkpoint that the graph was exported from, opened; None to leave
            that stage out.
    """

    images: int = 16
    seed: int = 0
    table: Path | None = None
    checkpoint: Runtime | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.images <= 1024:
            raise InputError(f"{self.images} images to trace", hint="give 1 to 1024")


@dataclasses.dataclass(frozen=True)
class Trace:
    """What was found.

    Attributes:
        layers: SQNR of each weighted layer against FP32; None where it cannot be measured.
        layers_note: whose layers these are, or why there are none.
        divergence: stage by stage.
    """

    layers: tuple[LayerSqnr, ...] | None
    layers_note: str
    divergence: Divergence


def trace_stages(
    engine: Runtime, reference: Runtime, images: ImageSet, settings: TraceSettings
) -> Trace:
    """Trace some images through every stage.

    Raises:
        DatasetError: none of the images can be decoded.
        InputError: nothing says how images are prepared.
    """
    tracer = _Tracer(engine, reference, images.sample(settings.images, seed=settings.seed))
    decoded = tracer.decode()
    read = tracer.read_again()
    tracer.probe(settings.table)
    found = [read, decoded, tracer.preprocess(), *tracer.answer(settings.checkpoint)]
    layers, note = tracer.probes.summarize()
    divergence = find_divergence(found, len(tracer.crops), tracer.probes.names)
    return Trace(layers, note, divergence)


class _Tracer:
    """Carries the images from stage to stage."""

    probes: Probes

    def __init__(self, engine: Runtime, reference: Runtime, images: ImageSet) -> None:
        self._engine, self._reference = engine, reference
        spec = reference.info.preprocess or engine.info.preprocess
        if spec is None:
            raise InputError(
                f"{engine.info.path}: neither it nor the reference says how images are prepared",
                hint="build it again with --resize, --crop, --mean and --std",
            )
        self._spec = spec
        self._engine_spec = engine.info.preprocess or spec
        self._images = images
        self._digests: list[str] = []
        self.crops: list[UInt8Array] = []

    def decode(self) -> Stage:
        """Decode bytes one by one, and files as the comparison does: on threads, many at a time."""
        spec = self._spec.with_input("uint8")
        digest = hashlib.sha256()
        readable = []
        for item in self._images.items:
            data = _read_bytes(item)
            try:
                pixels = _decode(item, data)
            except ImageError:
                continue  # the comparison lists it
            readable.append(item)
            self._digests.append(hashlib.sha256(data).hexdigest())
            self.crops.append(spec.from_rgb(pixels))
            digest.update(repr(pixels.shape).encode() + pixels.tobytes())
        if not readable:
            raise DatasetError(
                f"{self._images.name}: no image to trace can be decoded", hint="give other images"
            )
        self._images = dataclasses.replace(self._images, items=tuple(readable))
        reader = ImageReader(self._images, spec, batch_size=_CHUNK, max_bad=1.0)
        threaded = np.concatenate([batch.tensor for batch in reader])
        difference = compare_arrays(threaded, np.stack(self.crops))
        return judge_stage(
            stages.DECODE, "decoded from memory, one by one", difference, stages.EXACT,
            sha256=digest.hexdigest(),
        )  # fmt: skip

    def read_again(self) -> Stage:
        """Read the files once more: what is found holds only where they stay as they are."""
        items = self._images.items
        changed = [
            item.name
            for item, digest in zip(items, self._digests, strict=True)
            if item.sha256 != digest
        ]
        return judge_stage(
            stages.BYTES, "the same files, read again", Difference(len(changed), None),
            stages.EXACT, reason=f"{changed[0]} has changed" if changed else "",
            sha256=hashlib.sha256("".join(self._digests).encode()).hexdigest(),
        )  # fmt: skip

    def probe(self, table: Path | None) -> None:
        """Run the images through every graph that shows its layers."""
        self.probes = Probes(self._engine.info, self._reference.info, table)
        self.probes.measure(Inputs(self._inputs(self._reference), self._inputs(self._engine)))

    def preprocess(self) -> Stage:
        """Compare the tensor with the formula, and with whatever else prepares these images."""
        tensor = self._spec.with_input("float32").to_input(self.crops)
        compared = [("its formula", compare_arrays(tensor, _apply_formula(self._spec, self.crops)),
                     stages.NORMALIZED)]  # fmt: skip
        fields = self._spec.differences(self._engine_spec)
        if fields:
            other = _prepare(self._engine_spec.with_input("float32"), self._images.items)
            found = ("the reference's", compare_arrays(other, tensor), stages.NORMALIZED)
            compared.insert(0, found)
        for stage, runtime in ((stages.FP32, self._reference), (stages.ENGINE, self._engine)):
            read = self.probes.input_of(stage)
            if read is not None and self.probes.reads_pixels(stage):
                pixels = np.stack(self.crops).transpose(0, 3, 1, 2).astype(np.float32)
                what = f"the pixels ({runtime.info.path.name} normalizes in its first layer)"
                compared.append((what, compare_arrays(read, pixels), stages.EXACT))
            elif read is not None and runtime.info.input.dtype == "uint8":
                is_float = runtime.info.precision != "int8"
                limit = stages.NORMALIZED if is_float else stages.QUANTIZED_INPUT
                what = f"the float tensor ({runtime.info.path.name} normalizes in the graph)"
                compared.append((what, compare_arrays(read, tensor), limit))
        beyond = [entry for entry in compared if not entry[2].holds(entry[1])]
        what, difference, tolerance = (beyond or compared)[0]
        reason = "; ".join(
            f"{name}: {ours} and {theirs}" for name, (ours, theirs) in fields.items()
        )
        return judge_stage(
            stages.PREPROCESSING, what, difference, tolerance, reason=reason,
            sha256=hashlib.sha256(repr(tensor.shape).encode() + tensor.tobytes()).hexdigest(),
        )  # fmt: skip

    def answer(self, checkpoint: Runtime | None) -> list[Stage]:
        """Run the networks, each on what its own preprocessing gives."""
        chain, missing = _Chain(), self.probes.missing
        from_torch = self._reference.info.runtime == "torch"
        torch = self._reference if from_torch else checkpoint
        if torch is None:
            chain.leave_out(stages.PYTORCH, "give the checkpoint with --checkpoint")
        else:
            chain.begin(stages.PYTORCH, self._answers(torch), self._explain_origin(torch))
        if self.probes.graph is not None:
            chain.compare(stages.FP32, self._answers(self._reference), stages.EXPORTED)
        else:
            chain.leave_out(stages.FP32, missing[stages.FP32])
            if not from_torch:
                tolerance = stages.ENGINE_TOLERANCE[self._reference.info.precision]
                chain.compare(stages.REFERENCE, self._answers(self._reference), tolerance)
        tolerance = stages.ENGINE_TOLERANCE[self._engine.info.precision]
        if self.probes.qdq_answers is None:
            chain.leave_out(stages.QDQ, missing[stages.QDQ])
        else:
            kind = self._reference.info.output_kind
            chain.compare(stages.QDQ, (self.probes.qdq_answers, kind), stages.QUANTIZATION)
            tolerance = stages.INTEGER_KERNELS
        chain.compare(stages.ENGINE, self._answers(self._engine), tolerance)
        return [self._name_layer(stage) for stage in chain.stages]

    def _name_layer(self, stage: Stage) -> Stage:
        """Name the first layer that differs, of a stage that does."""
        if stage.within is not False or stage.compared_with is None:
            return stage
        layers = self.probes.compare(stage.compared_with, stage.name)
        own = stage.compared_with == stages.QDQ
        limit = stages.INTEGER_KERNELS if own else stages.QUANTIZATION
        return dataclasses.replace(stage, layer=first_worse(layers, limit.least_db or 0.0))

    def _explain_origin(self, torch: Runtime) -> str:
        graph = self.probes.graph
        stamped = read_graph(graph).checkpoint_sha256 if graph is not None else None
        if stamped is None or stamped == torch.info.model_sha256:
            return "the origin: there is nothing before it"
        return f"the graph says that it was exported from another checkpoint, {stamped[:12]}"

    def _answers(self, runtime: Runtime) -> Answers:
        batch = self._inputs(runtime)
        starts = range(0, len(batch), _CHUNK)
        parts = [runtime.infer_any(batch[start : start + _CHUNK]) for start in starts]
        return np.concatenate(parts), runtime.info.output_kind

    def _inputs(self, runtime: Runtime) -> AnyArray:
        """Return the batch as this runtime's own preprocessing gives it."""
        dtype = runtime.info.input.dtype
        if runtime is self._engine and self._engine_spec.differences(self._spec):
            return _prepare(self._engine_spec.with_input(dtype), self._images.items)
        return self._spec.with_input(dtype).to_input(self.crops)


class _Chain:
    """Stages of answers, each compared with the last one that was traced."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self._last: tuple[str, Answers] | None = None

    def leave_out(self, name: str, reason: str) -> None:
        """Add a stage that was not traced."""
        self.stages.append(Stage(name, reason=f"not traced: {reason}"))

    def begin(self, name: str, answers: Answers, reason: str) -> None:
        """Add a stage that has nothing before it."""
        self.stages.append(Stage(name, reason=reason))
        self._last = name, answers

    def compare(self, name: str, answers: Answers, tolerance: Tolerance) -> None:
        """Add a stage, compared with the last one."""
        if self._last is None:
            self.begin(name, answers, "taken as right: with --checkpoint it is compared")
            return
        before, wanted = self._last
        difference = compare_outputs(answers, wanted)
        self.stages.append(judge_stage(name, before, difference, tolerance))
        self._last = name, answers


def _read_bytes(item: ImageItem) -> bytes:
    if isinstance(item.source, Path):
        return item.source.read_bytes()
    return item.source.tobytes()


def _decode(item: ImageItem, data: bytes) -> UInt8Array:
    """Return the upright pixels (H, W, 3) of an encoded image, or of a bundled one."""
    return np.asarray(load_rgb(data)) if isinstance(item.source, Path) else item.source


def _prepare(spec: PreprocessSpec, items: Sequence[ImageItem]) -> AnyArray:
    return spec.to_input([spec.crop_center(spec.resize_shorter(item.load())) for item in items])


def _apply_formula(spec: PreprocessSpec, crops: Sequence[UInt8Array]) -> AnyArray:
    """Return (x / 255 − mean) / std in double precision, (N, 3, H, W)."""
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (spec.mean, spec.std))
    exact: AnyArray = (np.stack(crops).transpose(0, 3, 1, 2) / 255 - mean) / std
    return exact
