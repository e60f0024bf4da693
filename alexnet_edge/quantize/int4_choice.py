"""How weights are rounded to 4 bits, judged by what the network answers.

Three ways are tried on the network as it will be built, its other layers quantized or not:

nearest   blocks scaled by their largest weight, each weight to the nearest value
mse       blocks scaled by the least squared error of their weights
gptq      each weight to make up for those before it (`gptq.round_rows`), by what its layer reads
          on calibration images while the layers before it are 4-bit already

Judged are the logits of held-out images, as `choose` does: the first way that is tried stays unless
a later one takes away more of the noise than chance explains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from alexnet_edge.dataset import Batch, ImageReader, ImageSet
from alexnet_edge.errors import BuildError
from alexnet_edge.preprocess import AnyArray, PreprocessSpec
from alexnet_edge.quantize.calibrate import hold_out
from alexnet_edge.quantize.choose import SURE_OF_ONE, Noise, Trial, is_better, pick_evidence
from alexnet_edge.quantize.gptq import RoundedRows, round_nearest, round_rows
from alexnet_edge.quantize.int4 import AUTO, GPTQ, MSE, NEAREST, Int4Settings, scale_search
from alexnet_edge.quantize.layerwise import FLOAT, Activations, LayerSetting, Layerwise
from alexnet_edge.quantize.moments import InputMoments
from alexnet_edge.quantize.table import CalibrationTable
from alexnet_edge.similarity import centred_logits, mean_kl, sqnr_db

FIT_IMAGES = 512
"""Images whose inputs weights are rounded to. A layer of 9216 inputs needs many: on a trained
network the logits' SQNR is 5 dB better for 512 than for 64. Only what the first of these layers
reads is kept of each."""

DAMPING = 0.1
"""See `gptq.DAMPING`. Steps of 4 bits move weights far, and there are fewer images than inputs: a
stronger damping was 1 dB better on held-out images, with 192 of them as with 512."""

_KIND = "int4"
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Int4Images:
    """What weights are rounded to, and judged by.

    Attributes:
        held_out: images to judge by.
        fit: others to round to.
        spec: how they are prepared.
    """

    held_out: ImageSet
    fit: ImageSet
    spec: PreprocessSpec

    @classmethod
    def of_table(cls, table: CalibrationTable, images: ImageSet | None, folder: Path) -> Int4Images:
        """Return those of a calibration.

        Args, Raises: as for `choose.pick_evidence`.
        """
        held_out, fit = pick_evidence(table, images, folder, fit_images=FIT_IMAGES)
        return cls(held_out, fit, table.preprocess)

    @classmethod
    def of_set(cls, images: ImageSet, spec: PreprocessSpec) -> Int4Images:
        """Divide a set as a calibration would."""
        held_out = hold_out(images)
        names = {item.name for item in held_out}
        rest = [item for item in images.items if item.name not in names] or list(held_out)
        count = min(FIT_IMAGES, len(rest))
        fit = [rest[index * len(rest) // count] for index in range(count)]
        return cls(
            held_out=dataclasses.replace(images, items=tuple(held_out or rest)),
            fit=dataclasses.replace(images, items=tuple(fit)),
            spec=spec,
        )


@dataclasses.dataclass(frozen=True)
class Int4Choice:
    """4-bit weights, and why these.

    Attributes:
        weights: layer name to its weights, one row for each output.
        rounding: `nearest`, `mse` or `gptq`.
        trials: every way that was tried, in order.
        images: how many images they were judged on; 0 where none were needed.
        fit_images: how many `gptq` was given.
    """

    weights: Mapping[str, RoundedRows]
    rounding: str
    trials: tuple[Trial, ...] = ()
    images: int = 0
    fit_images: int = 0


def choose_int4(
    network: Layerwise,
    others: Sequence[LayerSetting],
    layers: Sequence[str],
    settings: Int4Settings,
    images: Int4Images | None,
    *,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Int4Choice:
    """Round the weights of some layers to 4 bits.

    Args:
        network: cut.
        others: how every layer runs, those to be rounded too: in float, with the input they get.
        layers: names of those that become 4-bit.
        settings: blocks, and a way of rounding or `auto`.
        images: to round to and to judge by; None where the way that is asked for needs none.
        on_progress: called with what is done, and how much of how much of it.

    Raises:
        BuildError: images are needed, and there are none.
    """
    rounder = _Rounder(network, others, layers, settings, on_progress)
    if settings.rounding in {NEAREST, MSE}:
        return Int4Choice(rounder.round_weights(settings.rounding), settings.rounding)
    if images is None:
        raise BuildError(
            "rounding to 4 bits by what the layers read needs images",
            hint="give --images DIR, or a calibration table; or name --int4-rounding nearest",
        )
    fit, count = rounder.enter(images.fit, images.spec)
    if settings.rounding == GPTQ:
        return Int4Choice(rounder.fit_weights(fit), GPTQ, fit_images=count)
    chosen = _choose(rounder, fit, images)
    return dataclasses.replace(chosen, fit_images=count)


def _choose(rounder: _Rounder, fit: Activations, images: Int4Images) -> Int4Choice:
    judge = _Judge(rounder, images)
    best: dict[str, RoundedRows] = {}
    rounding, least = "", np.array([np.inf])
    trials = []
    for way in (NEAREST, MSE, GPTQ):
        weights = rounder.fit_weights(fit) if way == GPTQ else rounder.round_weights(way)
        noise, trial = judge.try_weights(way, weights)
        trials.append(trial)
        if not best or is_better(noise, least, SURE_OF_ONE):
            best, rounding, least = weights, way, noise
    return Int4Choice(
        weights=best,
        rounding=rounding,
        trials=tuple(
            dataclasses.replace(trial, kept=trial.candidate == rounding) for trial in trials
        ),
        images=judge.images,
    )


class _Rounder:
    """The network from its first 4-bit layer on.

    Attributes:
        first: index of that layer.
    """

    def __init__(
        self,
        network: Layerwise,
        others: Sequence[LayerSetting],
        layers: Sequence[str],
        settings: Int4Settings,
        report: Callable[[str, int, int], None],
    ) -> None:
        self.network = network
        self._others = list(others)
        self._indices = [network.layers.index(name) for name in layers]
        self._settings = settings
        self._report = report
        self._done, ways = 0, 3 if settings.rounding == AUTO else 1
        self._steps = ways * len(layers)
        self.first = min(self._indices)
        # TensorRT takes positive scales only.
        self._signed = network.dialect.name != "tensorrt"

    def enter(self, images: ImageSet, spec: PreprocessSpec) -> tuple[Activations, int]:
        """Return what the first 4-bit layer reads, and of how many images."""
        entered: Activations = []
        count = 0
        for batch in self.batches(images, spec):
            entered += self._run_to_first(batch)
            count += len(batch)
        return entered, count

    def enter_beside_float(
        self, images: ImageSet, spec: PreprocessSpec
    ) -> tuple[Activations, AnyArray]:
        """Return what the first 4-bit layer reads, and the float network's logits."""
        network, entered, logits = self.network, [], []
        float_settings = [FLOAT] * len(network.layers)
        for batch in self.batches(images, spec):
            entered += self._run_to_first(batch)
            found = network.finish(0, network.begin(batch.tensor), float_settings)
            logits.append(found[: len(batch)])
        return entered, np.concatenate(logits)

    def batches(self, images: ImageSet, spec: PreprocessSpec) -> ImageReader:
        """Return a reader of batches that the graph takes: only the last may have to be filled."""
        size = self.network.graph.input.batch or _BATCH
        return ImageReader(images, spec, batch_size=size)

    def _run_to_first(self, batch: Batch) -> Activations:
        activations = self.network.begin(batch.tensor)
        for index in range(self.first):
            activations, _ = self.network.step(index, activations, self._others[index])
        return activations

    def round_weights(self, way: str) -> dict[str, RoundedRows]:
        """Round without images."""
        found = {}
        for index in self._indices:
            self._step(way, index)
            name = self.network.layers[index]
            grid = self._settings.grid(name)
            search = scale_search(way, grid, signed=self._signed)
            found[name] = round_nearest(self._rows(index), grid, search)
        return found

    def fit_weights(self, activations: Activations) -> dict[str, RoundedRows]:
        """Round to what the layers read, each behind those that are rounded already."""
        found: dict[str, RoundedRows] = {}
        for index in range(self.first, max(self._indices) + 1):
            name = self.network.layers[index]
            if index in self._indices:
                self._step(GPTQ, index)
                rows = self._rows(index)
                moments = InputMoments(rows.shape[1])
                for chunk in activations:
                    moments.add(chunk)
                second = moments.finish().second[0]
                grid = self._settings.grid(name)
                search = scale_search(NEAREST, grid, signed=self._signed)
                found[name] = round_rows(rows, second, grid, search, damping=DAMPING)
                self.network.use_weights(_KIND, self._arrays({name: found[name]}))
            setting = self._int4(index) if name in found else self._others[index]
            activations, _ = self.network.step(index, activations, setting)
        return found

    def finish(self, activations: Activations, weights: Mapping[str, RoundedRows]) -> AnyArray:
        """Return the logits with these weights, from what the first 4-bit layer reads."""
        self.network.use_weights(_KIND, self._arrays(weights))
        settings = [
            self._int4(index) if index in self._indices else setting
            for index, setting in enumerate(self._others)
        ]
        return self.network.finish(self.first, activations, settings)

    def _int4(self, index: int) -> LayerSetting:
        return dataclasses.replace(self._others[index], weights=_KIND)

    def _rows(self, index: int) -> AnyArray:
        """Return a weight, one row for each output."""
        weight, axis = self.network.weight(index), self.network.layer(index).axis
        return weight if axis == 0 else np.ascontiguousarray(weight.T)

    def _arrays(self, weights: Mapping[str, RoundedRows]) -> dict[int, AnyArray]:
        found = {}
        for name, rounded in weights.items():
            index = self.network.layers.index(name)
            rows = rounded.weights()
            axis = self.network.layer(index).axis
            found[index] = rows if axis == 0 else np.ascontiguousarray(rows.T)
        return found

    def _step(self, way: str, index: int) -> None:
        self._report(f"4-bit {way}: {self.network.layers[index]}", self._done, self._steps)
        self._done += 1


class _Judge:
    """Compares answers on held-out images with the float network's.

    Attributes:
        images: how many there are.
    """

    def __init__(self, rounder: _Rounder, images: Int4Images) -> None:
        self._rounder = rounder
        found = rounder.enter_beside_float(images.held_out, images.spec)
        self._activations, self._reference = found
        self.images = len(self._reference)
        self._centred = centred_logits(self._reference)

    def try_weights(self, way: str, weights: Mapping[str, RoundedRows]) -> tuple[Noise, Trial]:
        """Return each image's noise, and the trial."""
        logits = self._rounder.finish(self._activations, weights)[: self.images]
        noise: Noise = ((centred_logits(logits) - self._centred) ** 2).sum(axis=1)
        signal = float((self._centred**2).sum())
        trial = Trial(way, sqnr_db(signal, float(noise.sum())), mean_kl(self._reference, logits))
        return noise, trial
