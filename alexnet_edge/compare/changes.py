"""The change of each figure, its interval and its verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from alexnet_edge.errors import InputError
from alexnet_edge.results_files.estimates import BENCH_FIGURES, estimate
from alexnet_edge.results_files.intervals import (
    Estimate,
    divide,
    paired_difference,
    proportion,
    subtract,
)
from alexnet_edge.results_files.rows import BenchRow, ParityRow

UNITS = {
    "p50": "ms", "p90": "ms", "p99": "ms", "mean": "ms", "throughput": "images/s", "size": "B",
    "energy": "J", "top-1": "", "agreement": "", "logit SQNR": "dB", "SQNR": "dB", "drop": "pp",
    "fps": "answers/s", "dropped": "%", "CPU": "% of a core", "memory": "MB",
}  # fmt: skip
"""Of the camera's ages and stages, which have names of their own, milliseconds: see `unit_of`."""

_MORE_IS_BETTER = frozenset(("throughput", "top-1", "agreement", "logit SQNR", "SQNR", "fps"))
_WORDS = {
    "size": ("smaller", "larger"), "memory": ("smaller", "larger"),
    **dict.fromkeys(("energy", "dropped", "CPU"), ("less", "more")),
}  # fmt: skip
_ACCURACY_WORDS = ("better", "worse")
_SPEED_WORDS = ("faster", "slower")
UNCHANGED, UNSEEN, UNJUDGED = "the same", "no change seen", "not judged: no interval"


@dataclasses.dataclass(frozen=True)
class Bounds:
    """How much worse a figure may become.

    A figure fails where it is worse by more than the bound beyond its 95 % interval: the end of
    the interval that is nearest to no change lies beyond the bound. Then a noisy figure fails no
    build by chance, and one without an interval fails none at all.

    Attributes:
        regression: per cent, of latency, throughput, size and energy, and of a camera's answers a
            second and their age; of accuracies percentage points, where ``drop_pp`` is None. None
            judges nothing.
        drop_pp: percentage points, of top-1, agreement and drop.
        strict: fail where the measured change itself is beyond the bound, whatever its interval.
    """

    regression: float | None = None
    drop_pp: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for name in ("regression", "drop_pp"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1000:
                raise InputError(f"bound is {value}", hint="give per cent of 0 or more, as 5%")
        if self.strict and not self.given:
            raise InputError("strict judges by a bound", hint="give one: --max-regression 5%")

    @property
    def given(self) -> bool:
        """Whether anything is judged."""
        return self.regression is not None or self.drop_pp is not None

    def of(self, unit: str) -> float | None:
        """Return the bound for changes in a unit; None where they are not judged."""
        if unit == "%":
            return self.regression
        if unit == "pp":
            return self.regression if self.drop_pp is None else self.drop_pp
        return None


@dataclasses.dataclass(frozen=True)
class Change:
    """How a figure changed.

    Attributes:
        figure: its name; `unit_of` has the unit of its values.
        first, second: its values.
        change: in ``unit``: per cent (`%`), percentage points (`pp`) or decibels (`dB`).
        low, high: its 95 % interval; None where the files say nothing of the error.
        basis: what the interval rests on: `turns`, `samples`, `frames`, `images`, `same images`,
            `exact`.
        verdict: `faster`, `slower`, `smaller`, `better`, …, `no change seen`, `not judged: …`.
        bound: how much worse it may become; None where it is not judged.
        fails: whether it is worse than that.
    """

    figure: str
    first: float
    second: float
    change: float
    unit: str
    low: float | None
    high: float | None
    basis: str
    verdict: str
    bound: float | None = None
    fails: bool = False

    @property
    def more_is_better(self) -> bool:
        """Which way is up."""
        return self.figure in _MORE_IS_BETTER


def unit_of(figure: str) -> str:
    """Return the unit of a figure's values."""
    return UNITS.get(figure, "ms")


def bench_changes(first: BenchRow, second: BenchRow, bounds: Bounds) -> tuple[Change, ...]:
    """Return the changes of all figures that both rows have."""
    return tuple(drop_missing(_bench_change(f, first, second, bounds) for f in BENCH_FIGURES))


def parity_changes(first: ParityRow, second: ParityRow, bounds: Bounds) -> tuple[Change, ...]:
    """Return the changes of all figures that both results have."""
    found: list[Change | None] = [
        _top1_change(first, second, bounds),
        _drop_change(first, second, bounds),
        _agreement_change(first, second, bounds),
    ]
    for figure, key in (("logit SQNR", "logit_sqnr_db"), ("SQNR", "sqnr_db")):
        values = first.raw.get(key), second.raw.get(key)
        if values[0] is not None and values[1] is not None:
            difference = Estimate(values[1] - values[0])
            found.append(make_change(figure, (values[0], values[1]), difference, "dB", bounds))
    return tuple(drop_missing(found))


def _bench_change(figure: str, first: BenchRow, second: BenchRow, bounds: Bounds) -> Change | None:
    return ratio_change(figure, estimate(first, figure), estimate(second, figure), bounds)


def ratio_change(
    figure: str, first: Estimate | None, second: Estimate | None, bounds: Bounds
) -> Change | None:
    """Return the change in per cent; None where a side lacks the figure, or it is not positive."""
    ratio = None if first is None or second is None else divide(second, first)
    if first is None or second is None or ratio is None:
        return None
    bend = [None if end is None else 100 * (end - 1) for end in (ratio.low, ratio.high)]
    percent = Estimate(100 * (ratio.value - 1), bend[0], bend[1], ratio.basis)
    return make_change(figure, (first.value, second.value), percent, "%", bounds)


def share_change(
    figure: str, first: Estimate | None, second: Estimate | None, bounds: Bounds
) -> Change | None:
    """Return the change of a share, which is shown in per cent, in percentage points."""
    if first is None or second is None:
        return None
    values = 100 * first.value, 100 * second.value
    return make_change(figure, values, _scale(subtract(second, first), 100), "pp", bounds)


def _top1_change(first: ParityRow, second: ParityRow, bounds: Bounds) -> Change | None:
    values = first.accuracy("engine"), second.accuracy("engine")
    if values[0] is None or values[1] is None:
        return None
    difference = _paired_top1(first, second)
    if difference is None:
        difference = _unpaired(values[0], first.labelled, values[1], second.labelled)
    return make_change("top-1", (values[0], values[1]), _scale(difference, 100), "pp", bounds)


def _drop_change(first: ParityRow, second: ParityRow, bounds: Bounds) -> Change | None:
    values = first.raw.get("drop_pp"), second.raw.get("drop_pp")
    if values[0] is None or values[1] is None:
        return None
    paired = _paired_top1(first, second)
    if paired is not None:
        difference = _scale(paired, -100)
    else:
        difference = subtract(
            _drop(values[1], second.drop_interval_pp), _drop(values[0], first.drop_interval_pp)
        )
    return make_change("drop", (values[0], values[1]), difference, "pp", bounds)


def _drop(value: float, interval: tuple[float, float] | None) -> Estimate:
    return Estimate(value) if interval is None else Estimate(value, *interval, basis="images")


def _agreement_change(first: ParityRow, second: ParityRow, bounds: Bounds) -> Change:
    values = first.raw["agreement"], second.raw["agreement"]
    difference = None
    changed = [row.flipped() for row in (first, second)]
    complete = all(
        len(names) == round(row.images * (1 - row.raw["agreement"]))
        for names, row in zip(changed, (first, second), strict=True)
    )
    if complete and _same_images(first, second):
        difference = dataclasses.replace(
            paired_difference(
                len(changed[1] - changed[0]), len(changed[0] - changed[1]), first.images
            ),
            basis="same images",
        )
    if difference is None:
        difference = _unpaired(values[0], first.images, values[1], second.images)
    return make_change("agreement", values, _scale(difference, 100), "pp", bounds)


def _paired_top1(first: ParityRow, second: ParityRow) -> Estimate | None:
    """Return the difference of top-1 image by image, where both files allow it.

    Both engines were compared with one reference on the same images, so an image on which they
    differ is one that exactly one of them broke, or fixed.
    """
    same_reference = first.raw.get("reference") == second.raw.get("reference")
    complete = first.names_its_flips and second.names_its_flips
    if not (same_reference and complete and _same_images(first, second)):
        return None
    broken = [row.flipped("broken") for row in (first, second)]
    fixed = [row.flipped("fixed") for row in (first, second)]
    only_first = len(broken[1] - broken[0]) + len(fixed[0] - fixed[1])
    only_second = len(broken[0] - broken[1]) + len(fixed[1] - fixed[0])
    found = paired_difference(only_first, only_second, first.labelled)
    return dataclasses.replace(found, basis="same images")


def _same_images(first: ParityRow, second: ParityRow) -> bool:
    def named(row: ParityRow) -> tuple[object, ...]:
        return row.images, row.labelled, row.raw.get("images_sha256"), row.raw.get("images_name")

    hashes = first.raw.get("images_sha256"), second.raw.get("images_sha256")
    if None not in hashes:
        return hashes[0] == hashes[1] and first.images == second.images
    return first.raw.get("images_name") is not None and named(first) == named(second)


def _unpaired(first: float, count: int, second: float, second_count: int) -> Estimate:
    return subtract(
        proportion(second * second_count, second_count), proportion(first * count, count)
    )


def _scale(estimate: Estimate, factor: float) -> Estimate:
    ends = [None if end is None else end * factor for end in (estimate.low, estimate.high)]
    low, high = ends if factor > 0 else ends[::-1]
    return Estimate(estimate.value * factor, low, high, estimate.basis)


def drop_missing(changes: Iterable[Change | None]) -> list[Change]:
    """Return the changes of the figures that both sides have."""
    return [change for change in changes if change is not None]


def make_change(
    figure: str, values: tuple[float, float], change: Estimate, unit: str, bounds: Bounds
) -> Change:
    """Judge a change that is known."""
    sign = -1 if figure in _MORE_IS_BETTER else 1
    bound = bounds.of(unit)
    # By how much the figure is worse: as measured, and at least.
    worse = sign * change.value
    ends = [end for end in (change.low, change.high) if end is not None]
    least = min((sign * end for end in ends), default=None)
    judged = worse if bounds.strict else least
    return Change(
        figure=figure,
        first=values[0],
        second=values[1],
        change=change.value,
        unit=unit,
        low=change.low,
        high=change.high,
        basis=change.basis,
        verdict=_verdict(figure, change, sign),
        bound=bound,
        # A hair's breadth above the bound is rounding.
        fails=bound is not None and judged is not None and judged > bound + 1e-9,
    )


def _verdict(figure: str, change: Estimate, sign: int) -> str:
    if change.low is None or change.high is None:
        return UNCHANGED if change.value == 0 else UNJUDGED
    if change.low == change.high == 0:
        return UNCHANGED
    if change.low <= 0 <= change.high:
        return UNSEEN
    words = _WORDS.get(figure)
    if words is None:
        words = _ACCURACY_WORDS if unit_of(figure) in {"", "pp", "dB"} else _SPEED_WORDS
    return words[0] if sign * change.value < 0 else words[1]
