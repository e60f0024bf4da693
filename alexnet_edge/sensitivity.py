"""Which layers INT8 hurts, and what it costs to spare them.

    found = measure_sensitivity(model, table, choice, images, SensitivitySettings())
    for point in found.pareto: ...

For each weighted layer the damage is measured of quantizing it alone and of sparing it alone, both
in one pass over the images (see `quantize.damage`). What sparing costs is measured on real engines
in turns with the plain INT8 one, so it is a ratio under the same conditions. The Pareto table holds
INT8, every single layer spared, the layers spared one after another in the order in which sparing
them helps, and the float engine; a row is optimal where no other is both faster and more faithful.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from alexnet_edge.bench import BenchSettings, Inputs, Latency, bench
from alexnet_edge.dataset import ImageReader, ImageSet
from alexnet_edge.engine.build import BuildSettings, build_engine, default_out
from alexnet_edge.errors import InputError
from alexnet_edge.machine import environment
from alexnet_edge.quantize.choose import Choice
from alexnet_edge.quantize.damage import Damage, measure, settings_of
from alexnet_edge.quantize.layerwise import FLOAT, LayerSetting, Layerwise
from alexnet_edge.quantize.table import CalibrationTable
from alexnet_edge.runtimes.base import RuntimeOptions
from alexnet_edge.runtimes.loader import availability, open_engine

Spared = tuple[str, ...]
"""Names of the layers that stay in float, in the network's order."""


@dataclasses.dataclass(frozen=True)
class SensitivitySettings:
    """What to measure.

    Attributes:
        build: target of the engines; its precision is `int8`.
        batch_size: images per inference of the damage.
        max_bad: share of the images that may fail to decode.
        duration_s: seconds for which each pair of engines is measured; 0 leaves latency out.
        threads: CPU threads of the engines.
    """

    build: BuildSettings = dataclasses.field(default_factory=lambda: BuildSettings("int8"))
    batch_size: int = 32
    max_bad: float = 0.01
    duration_s: float = 2.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.build.precision != "int8":
            raise InputError(
                f"sensitivity to INT8 of a {self.build.precision} build", hint="give int8"
            )
        if not 0 <= self.duration_s <= 3600:
            raise InputError(f"duration is {self.duration_s} s", hint="give 0 to 3600 seconds")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What an engine costs.

    Attributes:
        size_bytes: of its file.
        latency_ms: at batch 1; None where the engine does not run here.
        ratio: of its median latency to that of the plain INT8 engine, measured in turns.
    """

    size_bytes: int
    latency_ms: Latency | None = None
    ratio: float | None = None


@dataclasses.dataclass(frozen=True)
class LayerSensitivity:
    """One weighted layer.

    Attributes:
        layer: its name.
        only: damage when it alone is quantized.
        spared: damage when it alone is not.
        cost: of the engine that spares it.
    """

    layer: str
    only: Damage
    spared: Damage
    cost: Cost


@dataclasses.dataclass(frozen=True)
class ParetoPoint:
    """A set of spared layers.

    Attributes:
        spared: their names; all of them for the float engine.
        damage: None for the float engine, which is the reference.
        cost: of its engine.
        optimal: whether no other point is at least as fast and as faithful, and better in one.
    """

    spared: Spared
    damage: Damage | None
    cost: Cost
    optimal: bool = False


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What was found.

    Attributes:
        model, runtime, dialect, method: what was quantized, and how.
        images, labelled: what damage was measured on.
        damage_by: how: `simulation` of the quantized layers in float32.
        latency: what was timed, or why nothing was.
        layers: in the network's order.
        pareto: from the fastest on; by size where latency is not known.
        environment: the machine.
    """

    model: str
    runtime: str
    dialect: str
    method: str
    images: int
    labelled: int
    damage_by: str
    latency: str
    layers: tuple[LayerSensitivity, ...]
    pareto: tuple[ParetoPoint, ...]
    environment: dict[str, object]


Progress = Callable[[str, int, int], None]

_WARMUP_S = 0.2
"""At least so long, or as long as is measured, where that is less."""


def measure_sensitivity(
    model: Path,
    table: CalibrationTable,
    choice: Choice,
    images: ImageSet,
    settings: SensitivitySettings,
    *,
    on_progress: Progress = lambda *_: None,
) -> Sensitivity:
    """Measure damage and cost, layer by layer.

    Args:
        model: the FP32 graph.
        table, choice: its ranges and how they are used.
        images: labelled by the model's classes, or not at all.
        settings: the target, and how long to measure.
        on_progress: called with what is measured, and how many of how many are done.

    Raises:
        DatasetError: there is no image, or too many cannot be read.
        GraphError: the graph is no chain of layers.
    """
    network = Layerwise(model, settings.build.dialect)
    table.require_match(network.graph, network.graph.preprocess)
    layers = network.layers
    reader = ImageReader(
        images, table.preprocess, batch_size=settings.batch_size, max_bad=settings.max_bad
    )
    judge = _Judge(network, table, choice, reader, on_progress)
    only, without = judge.judge_layers()
    order = sorted(layers, key=lambda name: _noise_rank(without[name,]))
    nested = [_in_order(layers, order[:count]) for count in range(2, len(layers))]
    without |= judge.judge_sets(nested)
    costs = _Costs(model, table, choice, images, settings, on_progress=on_progress)
    spared_sets: list[Spared] = [(), *((name,) for name in layers), *nested, tuple(layers)]
    by_set = costs.measure(spared_sets)
    points = [ParetoPoint(names, without.get(names), by_set[names]) for names in spared_sets]
    return Sensitivity(
        model=str(model),
        runtime=settings.build.runtime,
        dialect=network.dialect.name,
        method=choice.method,
        images=without[()].images,
        labelled=without[()].labelled,
        damage_by="simulation",
        latency=costs.what,
        layers=tuple(
            LayerSensitivity(name, only[name], without[name,], by_set[name,]) for name in layers
        ),
        pareto=mark_optimal(points),
        environment=environment(),
    )


def mark_optimal(points: Sequence[ParetoPoint]) -> tuple[ParetoPoint, ...]:
    """Return the points from the cheapest on, each with whether it is Pareto-optimal."""

    def price(point: ParetoPoint) -> float:
        return point.cost.size_bytes if point.cost.ratio is None else point.cost.ratio

    def noise(point: ParetoPoint) -> float:
        return -float("inf") if point.damage is None else _noise_rank(point.damage)

    marked, least = [], float("inf")
    for point in sorted(points, key=lambda point: (price(point), noise(point))):
        marked.append(dataclasses.replace(point, optimal=noise(point) < least))
        least = min(least, noise(point))
    return tuple(marked)


class _Judge:
    """Measures damage on one set of images, by simulation."""

    def __init__(
        self,
        network: Layerwise,
        table: CalibrationTable,
        choice: Choice,
        reader: ImageReader,
        report: Progress,
    ) -> None:
        self._network, self._table, self._choice = network, table, choice
        self._reader, self._report = reader, report

    def judge_layers(self) -> tuple[dict[str, Damage], dict[Spared, Damage]]:
        """Return the damage of quantizing each layer alone, and of sparing none and each."""
        layers = self._network.layers
        quantized = self._settings(())
        candidates = {}
        for index, name in enumerate(layers):
            alone = [FLOAT] * len(quantized)
            alone[index] = quantized[index]
            candidates[f"only {name}"] = alone
        sets: list[Spared] = [(), *((name,) for name in layers)]
        candidates |= {_key(names): self._settings(names) for names in sets}
        damages = self._measure(candidates, "damage of each layer")
        return (
            {name: damages[f"only {name}"] for name in layers},
            {names: damages[_key(names)] for names in sets},
        )

    def judge_sets(self, sets: Sequence[Spared]) -> dict[Spared, Damage]:
        """Return the damage of sparing each set of layers."""
        if not sets:
            return {}
        candidates = {_key(names): self._settings(names) for names in sets}
        damages = self._measure(candidates, "damage of sets of layers")
        return {names: damages[_key(names)] for names in sets}

    def _settings(self, names: Spared) -> list[LayerSetting]:
        return settings_of(self._network, self._table, self._choice, frozenset(names))

    def _measure(
        self, candidates: Mapping[str, Sequence[LayerSetting]], what: str
    ) -> dict[str, Damage]:
        total = len(self._reader.images)
        return measure(
            self._network, self._reader, candidates,
            on_progress=lambda done: self._report(what, done, total),
        )  # fmt: skip


def _key(names: Spared) -> str:
    return f"without {' '.join(names)}"


def _noise_rank(damage: Damage) -> float:
    return -float("inf") if damage.logit_sqnr_db is None else -damage.logit_sqnr_db


def _in_order(layers: Sequence[str], names: Sequence[str]) -> Spared:
    return tuple(name for name in layers if name in names)


class _Costs:
    """Builds engines in a temporary folder, two at a time, and measures them in turns."""

    def __init__(
        self,
        model: Path,
        table: CalibrationTable,
        choice: Choice,
        images: ImageSet,
        settings: SensitivitySettings,
        *,
        on_progress: Progress,
    ) -> None:
        self._model, self._table, self._choice = model, table, choice
        self._inputs = Inputs(images)
        self._settings = settings
        self._report = on_progress
        found = availability(settings.build.runtime)
        self._runs = found.runs and settings.duration_s > 0
        if self._runs:
            self.what = f"{settings.build.runtime}, batch 1, in turns with the INT8 engine"
        elif found.runs:
            self.what = "not measured, as asked"
        else:
            self.what = f"not measured: {found.reason}"

    def measure(self, sets: Sequence[Spared]) -> dict[Spared, Cost]:
        """Return the cost of sparing each set; the first set is the one to compare with."""
        costs: dict[Spared, Cost] = {}
        with tempfile.TemporaryDirectory(prefix="alexnet-edge-") as folder:
            base = self._build(Path(folder), sets[0], "base")
            costs[sets[0]] = self._compare(base, base)
            for index, names in enumerate(sets[1:], start=1):
                self._report("cost of sparing", index, len(sets))
                is_float = index == len(sets) - 1
                engine = self._build(Path(folder), names, "float" if is_float else "spared")
                costs[names] = self._compare(base, engine)
                engine.unlink()
        return costs

    def _build(self, folder: Path, names: Spared, kind: str) -> Path:
        settings = dataclasses.replace(self._settings.build, spared=names)
        if kind == "float":
            settings = dataclasses.replace(self._settings.build, precision="fp32")
        out = folder / default_out(Path(f"{kind}.onnx"), settings).name
        build_engine(
            self._model, out, settings, table=self._table, choice=self._choice,
            preprocess=self._table.preprocess,
        )  # fmt: skip
        return out

    def _compare(self, base: Path, engine: Path) -> Cost:
        size = engine.stat().st_size
        if not self._runs:
            return Cost(size)
        options = RuntimeOptions(threads=self._settings.threads)
        duration_s = self._settings.duration_s
        timing = BenchSettings(
            warmup_s=min(_WARMUP_S, duration_s), duration_s=duration_s, min_samples=20
        )
        with open_engine(base, options) as first, open_engine(engine, options) as second:
            pair = [first] if base == engine else [first, second]
            measured = bench(pair, timing, inputs=self._inputs).engines
        latency = measured[-1].latency_ms
        return Cost(size, latency, latency.p50 / measured[0].latency_ms.p50)
