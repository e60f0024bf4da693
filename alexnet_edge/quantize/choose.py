"""Which method, judged by what the network answers on images that the ranges have not seen.

A calibration measures its ranges twice in one pass: on all images, and without every eighth. Here
the second kind is applied, one candidate after another, to the network layer by layer, and the
answers on the held-out images are compared with the float ones. The winner's ranges are then taken
from all images.

First it is found out which layers skip zeros (`zeros`), because their weights are not in blocks.
Then, in this order, each step kept only where the noise of the logits falls by more than `WORTH`,
and on so many of the images that chance does not explain it (`SURE_OF_ONE`, `SURE_OF_MANY`):

1. each method for all tensors; the best one stays,
2. for each tensor in turn, the other methods (a mixture),
3. weights scaled by least squared error rather than by their largest value,
4. weights rounded to what each layer reads on other calibration images (`fitting`), rather than
   each to the nearest,
5. empirical bias correction: what quantization shifts a channel by, on average over other
   calibration images, is taken off its bias, layer after layer (Nagel et al., Data-Free
   Quantization, 2019, section 4.2, measured as in its appendix D).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alexnet_edge.dataset import ImageReader, ImageSet, open_images
from alexnet_edge.errors import DatasetError, TableError
from alexnet_edge.preprocess import AnyArray, PreprocessSpec
from alexnet_edge.quantize.fitting import fit_weights
from alexnet_edge.quantize.image_list import pick_images
from alexnet_edge.quantize.layerwise import (
    FITTED,
    FLOAT,
    Activations,
    LayerSetting,
    Layerwise,
)
from alexnet_edge.quantize.scales import Dialect, FloatArray
from alexnet_edge.quantize.table import CalibrationTable, Range
from alexnet_edge.quantize.zeros import choose_zero_skipping
from alexnet_edge.similarity import Logits, centred_logits, mean_kl, sqnr_db

WORTH = 0.02
"""Share of the noise that a mixture, weight search or correction must remove to be kept."""

SURE_OF_ONE, SURE_OF_MANY = 1.65, 2.5
"""Standard errors by which the mean of the images' noise must fall: one side of 5 % for what is
tried once, and of 0.6 % for mixtures, of which some thirty are tried, so one will look better by
luck."""

SCREENED = 16
"""Images on which a method for one tensor must do no worse, before it is tried on all."""

FIT_IMAGES = 64
"""Images that weights are rounded to and bias corrections measured on; none is held out."""


Noise = npt.NDArray[np.float64]
"""(N,) squared error of each image's centred logits."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A candidate and what it did on the held-out images.

    Attributes:
        candidate: a method, `mixture`, `weights mse`, `weights gptq` or `bias correction`.
        logit_sqnr_db: of the centred logits against the float network's; None without noise.
        kl: mean divergence of the probabilities, in nats.
        kept: whether it is part of the choice.
    """

    candidate: str
    logit_sqnr_db: float | None
    kl: float
    kept: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """How to quantize, and why.

    Attributes:
        methods: tensor name to method.
        weight_ranges: `minmax` or `mse`.
        bias_corrections: layer name to the values that are added to its bias.
        trials: every candidate, in the order in which they were tried.
        images: how many images they were judged on.
        fitted: layer name to the integers of its weight, where they are not the nearest ones. A
            choice that is stored lacks them: they are as large as the engine.
        zero_skipping: fully connected layers that read no weights of zeros, where the dialect has
            blocks for the others, to their inputs that are seldom 0 (see `zeros`).
    """

    methods: Mapping[str, str]
    weight_ranges: str = "minmax"
    bias_corrections: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    images: int = 0
    fitted: Mapping[str, AnyArray] = dataclasses.field(
        default_factory=dict, repr=False, compare=False
    )
    zero_skipping: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @property
    def rounding(self) -> str:
        """How weights were rounded: `gptq`, or to the `nearest`."""
        return "gptq" if self.fitted else "nearest"

    @property
    def method(self) -> str:
        """The method, or `mixture` where tensors have different ones."""
        names = set(self.methods.values())
        return names.pop() if len(names) == 1 else "mixture"

    def ranges(self, tensors: Mapping[str, Mapping[str, Range]]) -> dict[str, Range]:
        """Return each tensor's range by its method.

        Raises:
            TableError: the table lacks a tensor or its method.
        """
        found = {}
        for name, method in self.methods.items():
            if method not in tensors.get(name, {}):
                raise TableError(
                    f"the table has no {method} range for '{name}'", hint="calibrate again"
                )
            found[name] = tensors[name][method]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as JSON values, without fitted weights."""
        return dataclasses.asdict(dataclasses.replace(self, fitted={}), dict_factory=_stored)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Choice:
        """Read what `to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is malformed.
        """
        return cls(
            methods={str(name): str(method) for name, method in value["methods"].items()},
            weight_ranges=str(value["weight_ranges"]),
            bias_corrections={
                str(name): tuple(float(number) for number in numbers)
                for name, numbers in value["bias_corrections"].items()
            },
            trials=tuple(Trial(**trial) for trial in value["trials"]),
            images=int(value["images"]),
            zero_skipping={
                str(name): tuple(int(index) for index in hot)
                for name, hot in dict(value.get("zero_skipping", {})).items()
            },
        )


def _stored(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if name != "fitted"}


AUTO = "auto"
"""The method that is chosen by evidence."""


def decide(
    path: Path,
    table: CalibrationTable,
    dialect: Dialect,
    method: str = AUTO,
    *,
    images: ImageSet | None = None,
    folder: Path | None = None,
    fit: bool = True,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Choice:
    """Return the choice for a target: of a method by name, of the table, or made now.

    Args:
        path: the FP32 graph.
        table: its ranges.
        dialect: of the target.
        method: `auto`, or one of the table's.
        images: the calibration's images, where they are now; None for where they were. Given
            images are judged even where the table holds a choice.
        folder: beside which a relative source of images is looked for too.
        fit, on_progress: as for `choose`.

    Raises:
        DatasetError: `auto`, no choice in the table, and its images are not to be found.
        StaleArtifactError: the table belongs to another graph, or an image has changed.
        TableError: the table has no such method.
    """
    if method != AUTO:
        table.ranges(method)
        return Choice(dict.fromkeys(table.tensors, method))
    stored = read_stored_choice(table, dialect)
    if stored is not None and images is None:
        return stored
    evidence = read_evidence(table, images, folder or path.parent)
    return choose(path, table, evidence, dialect, fit=fit, on_progress=on_progress)


def read_stored_choice(table: CalibrationTable, dialect: Dialect) -> Choice | None:
    """Return the choice that a table holds for a dialect; None where it holds none.

    Raises:
        TableError: it is malformed.
    """
    stored = table.choices.get(dialect.key)
    if stored is None:
        return None
    try:
        return Choice.from_dict(stored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(
            f"the table's choice of methods is malformed (at {error})", hint="calibrate again"
        ) from error


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What choices are judged on.

    Attributes:
        held_out: the network's input for the images that no range has seen.
        fit: for other calibration images, which weights and corrections are fitted to.
    """

    held_out: AnyArray
    fit: AnyArray


def read_evidence(table: CalibrationTable, images: ImageSet | None, folder: Path) -> Evidence:
    """Read the images of a calibration again, as many as judging needs.

    Args, Raises: as for `pick_evidence`.
    """
    held_out, fit = pick_evidence(table, images, folder)
    return Evidence(_read(held_out, table.preprocess), _read(fit, table.preprocess))


def pick_evidence(
    table: CalibrationTable,
    images: ImageSet | None,
    folder: Path,
    *,
    fit_images: int = FIT_IMAGES,
) -> tuple[ImageSet, ImageSet]:
    """Return the images of a calibration that were held out, and others to fit to.

    Args:
        table: which images these were.
        images: where they are now; None to look where they were.
        folder: beside which a relative source is looked for too.
        fit_images: how many to fit to, at most.

    Raises:
        DatasetError: they are not there.
        StaleArtifactError: an image is another now.
    """
    found = images if images is not None else _open_source(table, folder)
    digests = {name: digest for digest, _, name in
               (line.partition("  ") for line in table.images["files"])}  # fmt: skip
    held_out = list(table.images["held_out"])
    rest = sorted(digests.keys() - set(held_out))
    count = min(fit_images, len(rest))
    fit = [rest[index * len(rest) // count] for index in range(count)]
    # A set of one image holds out none; it is judged on that one.
    judged = {name: digests[name] for name in held_out or fit}
    hint = "give the folder of the calibration with --images DIR, or name a --method"
    return (
        pick_images(found, judged, hint=hint),
        pick_images(found, {name: digests[name] for name in fit}, hint=hint),
    )


def choose(
    path: Path,
    table: CalibrationTable,
    evidence: Evidence,
    dialect: Dialect,
    *,
    fit: bool = True,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Choice:
    """Try the methods of a table, and what may be added to them, on the held-out images.

    Args:
        path: the FP32 graph.
        table: its ranges; it must belong to the graph.
        evidence: images, as `read_evidence` gives them.
        dialect: of the target.
        fit: whether weights may be rounded to what the layers read; not for a choice that is to be
            stored.
        on_progress: called with what is tried, and how many of how many steps are done.

    Raises:
        GraphError: the graph is no chain of layers.
    """
    network = Layerwise(path, dialect)
    table.require_match(network.graph, network.graph.preprocess)
    chooser = _Chooser(network, table, evidence, on_progress)
    chooser.find_zeros()
    chooser.rank_methods()
    chooser.mix()
    chooser.search_weights()
    if fit:
        chooser.fit_weights()
    chooser.correct_biases()
    return chooser.choice()


@dataclasses.dataclass
class _Current:
    """The best so far."""

    methods: dict[str, str]
    weights: str = "minmax"
    fitted: dict[str, AnyArray] = dataclasses.field(default_factory=dict)
    corrections: dict[str, FloatArray] = dataclasses.field(default_factory=dict)
    noise: Noise = dataclasses.field(default_factory=lambda: np.array([np.inf]))


class _Chooser:
    def __init__(
        self,
        network: Layerwise,
        table: CalibrationTable,
        evidence: Evidence,
        report: Callable[[str, int, int], None],
    ) -> None:
        self._network = network
        self._table, self._tensors = table, table.tensors_without_held_out
        self._methods = table.methods
        self._evidence = evidence
        self._report = report
        self._steps, self._done = len(self._methods) + 2 * len(network.layers) + 2, 0
        self._steps += network.dialect.fc_block is not None
        self._images = len(evidence.held_out)
        self._begin = network.begin(evidence.held_out)
        self._reference = self._answers(0, self._begin, [FLOAT] * len(network.layers))
        self._centred: Logits = centred_logits(self._reference)
        self._best = _Current({})
        self._trials: list[Trial] = []
        self._zero_skipping: dict[str, tuple[int, ...]] = {}

    def find_zeros(self) -> None:
        """Find the layers that read so many zeros that it pays to skip them, instead of blocks."""
        if self._network.dialect.fc_block is None:
            return
        self._step("zeros")
        self._zero_skipping = choose_zero_skipping(self._network, self._table, self._evidence.fit)
        self._network.use_zero_skipping(self._zero_skipping)

    def rank_methods(self) -> None:
        """Try each method for all tensors."""
        for method in self._methods:
            self._step(method)
            methods = dict.fromkeys(self._tensors, method)
            noise = self._try(method, self._settings(methods))
            if noise.sum() < self._best.noise.sum():
                self._best = _Current(methods, noise=noise)
        self._keep(self._best.methods[next(iter(self._tensors))])

    def mix(self) -> None:
        """Try the other methods for one tensor after another."""
        start = self._best.methods
        activations = self._begin
        for index, (tensor, result) in enumerate(
            zip(self._network.activations, self._network.results, strict=True)
        ):
            self._step(f"mixture: {tensor}")
            used = self._settings(self._best.methods)[index]
            for name, found in ((tensor, used.activation), (result, used.result)):
                # What no layer reads, or is exact, has nothing to choose.
                if name is not None and found is not None and not self._network.is_exact(name):
                    self._mix_tensor(name, index, activations)
            settings = self._settings(self._best.methods)
            activations, _ = self._network.step(index, activations, settings[index])
        if self._best.methods != start:
            self._try("mixture", self._settings(self._best.methods))
            self._keep("mixture")

    def _mix_tensor(self, tensor: str, index: int, activations: Activations) -> None:
        current = self._tensors[tensor][self._best.methods[tensor]]
        tried = [current]
        for method in self._methods:
            found = self._tensors[tensor][method]
            if any(_alike(found, other) for other in tried):
                continue
            tried.append(found)
            methods = {**self._best.methods, tensor: method}
            settings = self._settings(methods)
            first = activations[: math.ceil(SCREENED / len(activations[0]))]
            noise = self._noise(self._answers(index, first, settings))
            if noise.sum() >= self._best.noise[: len(noise)].sum():
                continue
            noise = self._noise(self._answers(index, activations, settings))
            if is_better(noise, self._best.noise, SURE_OF_MANY):
                self._best = dataclasses.replace(self._best, methods=methods, noise=noise)

    def search_weights(self) -> None:
        """Try weights whose ranges have the least squared error."""
        self._step("weights mse")
        settings = self._settings(self._best.methods, weights="mse")
        noise = self._try("weights mse", settings)
        if is_better(noise, self._best.noise, SURE_OF_ONE):
            self._best = dataclasses.replace(self._best, weights="mse", noise=noise)
            self._keep("weights mse")

    def fit_weights(self) -> None:
        """Try weights that are rounded to what each layer reads."""
        fitted = fit_weights(
            self._network,
            self._evidence.fit,
            self._best.weights,
            on_layer=lambda name: self._step(f"weights gptq: {name}"),
        )
        self._network.use_fitted(fitted, self._best.weights)
        noise = self._try("weights gptq", self._settings(self._best.methods, weights=FITTED))
        if is_better(noise, self._best.noise, SURE_OF_ONE):
            self._best = dataclasses.replace(self._best, fitted=fitted, noise=noise)
            self._keep("weights gptq")

    def correct_biases(self) -> None:
        """Try taking the mean shift of every channel off its bias."""
        self._step("bias correction")
        corrections = self._measure_shifts()
        noise = self._try(
            "bias correction",
            self._settings(self._best.methods, self._weights, corrections),
        )
        if is_better(noise, self._best.noise, SURE_OF_ONE):
            self._best = dataclasses.replace(self._best, corrections=corrections, noise=noise)
            self._keep("bias correction")

    def _measure_shifts(self) -> dict[str, FloatArray]:
        """Return each layer's mean output in float less that quantized, corrected in order."""
        settings = self._settings(self._best.methods, self._weights)
        count = len(self._evidence.fit)
        exact = rounded = self._network.begin(self._evidence.fit)
        corrections: dict[str, FloatArray] = {}
        for index, name in enumerate(self._network.layers):
            exact, wanted = self._network.step(index, exact, FLOAT)
            if not self._network.has_bias(index):
                rounded, _ = self._network.step(index, rounded, settings[index])
                continue
            _, found = self._network.step(index, rounded, settings[index])
            shift = _mean(wanted, count) - _mean(found, count)
            corrections[name] = shift.astype(np.float32)
            corrected = dataclasses.replace(settings[index], correction=corrections[name])
            rounded, _ = self._network.step(index, rounded, corrected)
        return corrections

    def choice(self) -> Choice:
        """Return what was kept."""
        return Choice(
            methods=self._best.methods,
            weight_ranges=self._best.weights,
            bias_corrections={
                # Six digits are more than float32 tells apart here.
                name: tuple(float(f"{value:.6g}") for value in values)
                for name, values in self._best.corrections.items()
            },
            trials=tuple(self._trials),
            images=self._images,
            fitted=self._best.fitted,
            zero_skipping=self._zero_skipping,
        )

    @property
    def _weights(self) -> str:
        return FITTED if self._best.fitted else self._best.weights

    def _settings(
        self,
        methods: Mapping[str, str],
        weights: str = "minmax",
        corrections: Mapping[str, FloatArray] | None = None,
    ) -> list[LayerSetting]:
        ranges = {name: self._tensors[name][method] for name, method in methods.items()}
        return self._network.settings(ranges, weights=weights, corrections=corrections)

    def _answers(
        self, layer: int, activations: Activations, settings: Sequence[LayerSetting]
    ) -> AnyArray:
        return self._network.finish(layer, activations, settings)[: self._images]

    def _try(self, candidate: str, settings: Sequence[LayerSetting]) -> Noise:
        logits = self._answers(0, self._begin, settings)
        noise = self._noise(logits)
        signal = float((self._centred**2).sum())
        kl = mean_kl(self._reference, logits)
        self._trials.append(Trial(candidate, sqnr_db(signal, float(noise.sum())), kl))
        return noise

    def _noise(self, logits: AnyArray) -> Noise:
        found: Noise = ((centred_logits(logits) - self._centred[: len(logits)]) ** 2).sum(axis=1)
        return found

    def _keep(self, candidate: str) -> None:
        self._trials = [
            dataclasses.replace(trial, kept=trial.kept or trial.candidate == candidate)
            for trial in self._trials
        ]

    def _step(self, what: str) -> None:
        self._report(what, self._done, self._steps)
        self._done += 1


def is_better(noise: Noise, than: Noise, sure: float) -> bool:
    """Whether noise falls by enough, and on enough images for chance not to explain it."""
    if noise.sum() >= (1 - WORTH) * than.sum():
        return False
    changes = noise - than
    error = changes.std(ddof=1) / np.sqrt(len(changes)) if len(changes) > 1 else 0.0
    return bool(changes.mean() < -sure * error)


def _alike(one: Range, other: Range) -> bool:
    """Whether two ranges differ by less than half a percent: no step of a quantizer tells."""
    pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    return all(abs(a - b) <= 0.005 * max(abs(a), abs(b)) for a, b in pairs)


def _mean(means: Activations, count: int) -> FloatArray:
    mean: FloatArray = np.concatenate(means)[:count].mean(axis=0, dtype=np.float64)
    return mean


def _open_source(table: CalibrationTable, folder: Path) -> ImageSet:
    source = str(table.images["source"])
    tried = [source, str(folder / source)]
    for candidate in tried:
        try:
            return open_images(candidate)
        except DatasetError as error:
            reason = error.message
    raise DatasetError(
        f"choosing a method needs the images of the calibration, which are not where they were "
        f"({reason})",
        hint="say where they are with --images DIR, or name a --method, or choose where they are: "
        "alexnet-edge calibrate --rank",
    )


def _read(images: ImageSet, spec: PreprocessSpec) -> AnyArray:
    """Return the network's input for all of them."""
    reader = ImageReader(images, spec, batch_size=len(images), max_bad=0)
    return np.concatenate([batch.tensor for batch in reader])
