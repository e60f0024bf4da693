"""What quantization does to the answers, for many settings of the network at once.

Images stream through in batches. Settings that begin alike share the layers that they have in
common, so trying each layer alone costs a few passes rather than one for every layer.

    found = measure(network, reader, {"int8": settings, "all but conv1": others})
    found["int8"].drop_pp
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from alexnet_edge.dataset import Batch
from alexnet_edge.errors import DatasetError
from alexnet_edge.preprocess import AnyArray
from alexnet_edge.quantize.choose import Choice
from alexnet_edge.quantize.layerwise import FITTED, FLOAT, Activations, LayerSetting, Layerwise
from alexnet_edge.quantize.table import CalibrationTable
from alexnet_edge.similarity import centred_logits, mean_kl, sqnr_db

Settings = Sequence[LayerSetting]


@dataclasses.dataclass(frozen=True)
class Damage:
    """How answers differ from the float network's.

    Attributes:
        images, labelled: how many were seen, and how many of these have a label.
        logit_sqnr_db: of the centred logits; None without any difference.
        kl: mean divergence of the probabilities, in nats.
        agreement: share of the images with the same top-1.
        top1: share of the labelled images that are right; None without labels.
        drop_pp: top-1 lost against float, in percentage points; without labels the share of
            answers that changed.
    """

    images: int
    labelled: int
    logit_sqnr_db: float | None
    kl: float
    agreement: float
    top1: float | None
    drop_pp: float


def measure(
    network: Layerwise,
    batches: Iterable[Batch],
    candidates: Mapping[str, Settings],
    *,
    on_progress: Callable[[int], None] = lambda _: None,
) -> dict[str, Damage]:
    """Run the images through the float network and through every candidate.

    Args:
        network: cut.
        batches: images; the labels are indices of the network's classes.
        candidates: settings of all layers, by name.
        on_progress: called with the number of images done.

    Raises:
        DatasetError: there is no image.
    """
    float_settings = [FLOAT] * len(network.layers)
    tallies = {name: _Tally() for name in candidates}
    done = 0
    for batch in batches:
        answers: dict[str, AnyArray] = {}
        wanted = {"": float_settings, **candidates}
        _run(network, 0, network.begin(batch.tensor), wanted, answers)
        labels = [item.label for item in batch.items]
        reference = answers.pop("")[: len(batch)]
        for name, logits in answers.items():
            tallies[name].add(reference, logits[: len(batch)], labels)
        done += len(batch)
        on_progress(done)
    if not done:
        raise DatasetError("there is no image to measure on", hint="give a folder with images")
    return {name: tally.result() for name, tally in tallies.items()}


def choose_spared(
    network: Layerwise,
    table: CalibrationTable,
    choice: Choice,
    open_batches: Callable[[], Iterable[Batch]],
    max_drop_pp: float,
    *,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[tuple[str, ...], Damage]:
    """Return the fewest layers to spare so that top-1 falls by at most a bound, and what is left.

    Sparing none is tried, then each single layer; after that the best set so far is extended by
    whichever layer serves best, until the bound holds. Layers that it then holds without are taken
    out again. So no layer is spared where none need be, one where one will do, and none that could
    be left out; beyond that it is a greedy search, not all 2ⁿ sets.

    Args:
        network: cut.
        table, choice: ranges and how to use them.
        open_batches: starts a pass over the images.
        max_drop_pp: in percentage points.
        on_progress: called with the number of layers spared and the images done.

    Raises:
        DatasetError: sparing all layers but one is not enough.
    """

    def find_best(sets: Sequence[frozenset[str]]) -> tuple[frozenset[str], Damage]:
        count = len(sets[0])
        found = measure(
            network,
            open_batches(),
            {_key(names): settings_of(network, table, choice, names) for names in sets},
            on_progress=lambda done: on_progress(count, done),
        )
        best = min(sets, key=lambda names: _rank(found[_key(names)], max_drop_pp))
        return best, found[_key(best)]

    best, damage = find_best([frozenset()])
    while damage.drop_pp > max_drop_pp and len(best) < len(network.layers) - 1:
        best, damage = find_best([best | {n} for n in network.layers if n not in best])
    while len(best) > 1 and damage.drop_pp <= max_drop_pp:
        fewer, left = find_best([best - {name} for name in network.layers if name in best])
        if left.drop_pp > max_drop_pp:
            break
        best, damage = fewer, left
    if damage.drop_pp <= max_drop_pp:
        return tuple(name for name in network.layers if name in best), damage
    raise DatasetError(
        f"with all but one layer spared, top-1 still falls by {damage.drop_pp:.2f} pp "
        f"on {damage.images} images",
        hint="allow more with --max-drop, or build --fp32",
    )


def settings_of(
    network: Layerwise, table: CalibrationTable, choice: Choice, spared: frozenset[str]
) -> list[LayerSetting]:
    """Return the settings that a build by this choice would have."""
    network.use_zero_skipping(choice.zero_skipping)
    network.use_fitted(choice.fitted, choice.weight_ranges)
    return network.settings(
        choice.ranges(table.tensors),
        weights=FITTED if choice.fitted else choice.weight_ranges,
        spared=spared,
        corrections={
            name: np.array(values, np.float32) for name, values in choice.bias_corrections.items()
        },
    )


def _key(names: frozenset[str]) -> str:
    return " ".join(sorted(names)) or "none"


def _rank(damage: Damage, bound: float) -> tuple[float, float]:
    """Order sets of one size: the drop counts as far as it exceeds the bound, then the noise."""
    noise = -np.inf if damage.logit_sqnr_db is None else -damage.logit_sqnr_db
    return max(damage.drop_pp, bound), noise


def _run(
    network: Layerwise,
    layer: int,
    activations: Activations,
    candidates: Mapping[str, Settings],
    answers: dict[str, AnyArray],
) -> None:
    """Run candidates from a layer on; those whose setting is the same run it together."""
    if layer == len(network.layers):
        answers.update(dict.fromkeys(candidates, np.concatenate(activations)))
        return
    groups: dict[object, dict[str, Settings]] = {}
    for name, settings in candidates.items():
        setting = settings[layer]
        correction = None if setting.correction is None else setting.correction.tobytes()
        key = (setting.activation, setting.result, setting.weights, correction)
        groups.setdefault(key, {})[name] = settings
    for group in groups.values():
        setting = next(iter(group.values()))[layer]
        following, _ = network.step(layer, activations, setting)
        _run(network, layer + 1, following, group, answers)


class _Tally:
    def __init__(self) -> None:
        self._images = self._labelled = self._agreed = self._right = self._reference_right = 0
        self._signal = self._noise = self._kl = 0.0

    def add(self, reference: AnyArray, logits: AnyArray, labels: Sequence[int | None]) -> None:
        centred = centred_logits(reference)
        self._signal += float((centred**2).sum())
        self._noise += float(((centred_logits(logits) - centred) ** 2).sum())
        self._kl += mean_kl(reference, logits) * len(logits)
        ours, theirs = logits.argmax(axis=1), reference.argmax(axis=1)
        self._images += len(logits)
        self._agreed += int((ours == theirs).sum())
        for answer, expected, label in zip(ours, theirs, labels, strict=True):
            if label is not None:
                self._labelled += 1
                self._right += int(answer == label)
                self._reference_right += int(expected == label)

    def result(self) -> Damage:
        """Return the shares and means."""
        agreement = self._agreed / self._images
        drop = 1 - agreement
        if self._labelled:
            drop = (self._reference_right - self._right) / self._labelled
        return Damage(
            images=self._images,
            labelled=self._labelled,
            logit_sqnr_db=sqnr_db(self._signal, self._noise),
            kl=self._kl / self._images,
            agreement=agreement,
            top1=self._right / self._labelled if self._labelled else None,
            drop_pp=100 * drop,
        )
