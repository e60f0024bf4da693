"""The answer first: how much faster, how much smaller, and whether it still answers as FP32."""

from __future__ import annotations

from collections.abc import Sequence

from alexnet_edge.report import numbers
from alexnet_edge.report.engines import may_be_one_engine
from alexnet_edge.report.page import BAD, DOUBT, GOOD, Caution, Cell, Tile, name
from alexnet_edge.report.sources import Show, Sources
from alexnet_edge.report.speed_ups import SpeedUp, lead_speed_ups
from alexnet_edge.results_files.estimates import estimate
from alexnet_edge.results_files.intervals import Estimate
from alexnet_edge.results_files.reading import CAMERA, SENSITIVITY
from alexnet_edge.results_files.rows import BenchRow, ParityRow, base_name

FLAGS = {"pass": GOOD, "fail": BAD, "inconclusive": DOUBT}

Sentence = tuple["str | Cell", ...]


def make_answers(sources: Sources, speed_ups: Sequence[SpeedUp]) -> tuple[Sentence, ...]:
    """Return a sentence for each engine, and for what else was measured."""
    sentences: list[Sentence] = []
    told: list[ParityRow] = []
    lead = lead_speed_ups(sources, speed_ups)
    for speed_up in lead:
        sentence = _speed_sentence(sources, speed_up)
        row = _parity_of(sources, speed_up.row, alone=len(lead) == 1)
        if row is not None:
            told.append(row)
            sentence = (*sentence, "; ", *verdict_parts(sources, row))
        sentences.append((*sentence, "."))
    if not lead:
        sentences += [_row_sentence(sources, row) for row in sources.bench[:3]]
    for row in sources.parity:
        if row not in told:
            sentences.append((name(sources.engine(row)), ": ", *verdict_parts(sources, row), "."))
    sentences += [_camera_sentence(sources, at) for at in range(len(sources.of(CAMERA)))]
    if not sentences and sources.of(SENSITIVITY):
        sentences.append(_sensitivity_sentence(sources))
    return tuple(sentences) or (
        ("None of these files holds a measurement; what they say of themselves is below.",),
    )


def make_tiles(sources: Sources, speed_ups: Sequence[SpeedUp]) -> tuple[Tile, ...]:
    """Return the figures of the first engine that matter most."""
    tiles = []
    lead = lead_speed_ups(sources, speed_ups)
    if lead:
        first = lead[0]
        near = "" if len(lead) == 1 else f", {sources.engine(first.row)}"
        detail = _interval(first.ratio) or "no interval in the file"
        doubt = "; not valid" if first.is_doubtful else ""
        tiles.append(
            Tile(
                "Speed-up",
                _ratio(first.ratio),
                f"{detail}; batch {first.row.batch}{near}{doubt}",
            )
        )
        if first.size is not None:
            detail = " from ".join(
                numbers.megabytes(row.size_bytes) for row in (first.row, first.base)
            )
            figure, word = _factor(first.size, "Smaller", "Larger")
            tiles.append(Tile(word.strip(), figure, detail))
        if first.energy is not None:
            figure, word = _factor(first.energy, "Less energy", "More energy")
            tiles.append(Tile(word.strip(), figure, "per inference"))
    told = _leading_parity(sources, lead)
    if told is not None:
        several = len({sources.engine(row) for row in sources.parity}) > 1 or len(lead) > 1
        tiles.append(_verdict_tile(told, sources.engine(told) if several else ""))
    return tuple(tiles)


def _leading_parity(sources: Sources, lead: Sequence[SpeedUp]) -> ParityRow | None:
    """Return the result of the engine that leads; the first where no engine does."""
    if lead:
        return _parity_of(sources, lead[0].row, alone=len(lead) == 1)
    return sources.parity[0] if sources.parity else None


def _verdict_tile(row: ParityRow, engine: str) -> Tile:
    verdict = str(row.raw["verdict"])
    detail = f"{numbers.percent(row.raw['agreement'])} agreement"
    if row.raw.get("drop_pp") is not None:
        drop = numbers.points(row.raw["drop_pp"])
        detail = f"drop {drop}, margin {row.raw['margin_pp']:g} pp"
    if engine:
        detail = f"{engine}: {detail}"
    return Tile("Accuracy verdict", Cell(verdict, flag=FLAGS.get(verdict, "")), detail)


def make_cautions(sources: Sources) -> tuple[Caution, ...]:
    """Say which runs are not valid by their own account, and why."""
    found = []
    for file in sources.files:
        reasons = [str(reason) for reason in file.data.get("invalid_because") or []]
        rows = [row for row in sources.bench if row.file is file and row.invalid_because]
        if not reasons:
            reasons = [
                f"{sources.label(row)}: {why}" for row in rows for why in row.invalid_because or ()
            ]
        if rows or file.data.get("valid") is False:
            found.append(Caution(name(file.name), tuple(reasons) or ("no reason is given",)))
    return tuple(found)


def _speed_sentence(sources: Sources, found: SpeedUp) -> Sentence:
    ratio = found.ratio
    interval = f" ({_interval(ratio)})" if _interval(ratio) else ""
    unseen = ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high
    speed: Sentence
    if unseen:
        speed = (" shows no difference in speed, ", _ratio(ratio), interval, ",")
    elif ratio.value >= 1:
        speed = (" is ", _ratio(ratio), " faster", interval)
    else:
        slower = _invert(ratio)
        speed = (
            " is ",
            _ratio(slower),
            f" slower ({_interval(slower)})" if interval else " slower",
        )
    sentence = (found.row.precision.upper(), " (", name(sources.engine(found.row)), ")", *speed)
    if found.size is not None:
        sentence = (*sentence, " and ", *_factor(found.size, "smaller", "larger"))
    sentence = (*sentence, f" than {found.base.precision.upper()} at batch {found.row.batch}")
    if found.energy is not None:
        sentence = (*sentence, ", with ", *_factor(found.energy, "less", "more"))
        sentence = (*sentence, " energy per inference")
    if found.is_doubtful:
        doubt = Cell("not valid", flag=BAD)
        sentence = (*sentence, " (from a measurement that is ", doubt, ")")
    if not found.together:
        sentence = (*sentence, " (measured in different runs, not in turns)")
    return sentence


def _invert(ratio: Estimate) -> Estimate:
    low, high = (None if end is None else 1 / end for end in (ratio.high, ratio.low))
    return Estimate(1 / ratio.value, low, high, ratio.basis)


def _factor(value: float, less: str, more: str) -> tuple[Cell, str]:
    """Return `4.0×` and `smaller`, or the inverse and the other word."""
    return (_plain(value), f" {less}") if value >= 1 else (_plain(1 / value), f" {more}")


def verdict_parts(sources: Sources, row: ParityRow) -> Sentence:
    """Return `accuracy verdict pass: drop −0.24 pp (−0.95 to +0.24) on 418 images`."""
    verdict = str(row.raw["verdict"])
    parts: Sentence = (
        "accuracy verdict ", Cell(verdict, verdict, flag=FLAGS.get(verdict, "")), ": ",
    )  # fmt: skip
    images = sources.parity_cell(row, ("images",), numbers.count)
    if row.raw.get("drop_pp") is None:
        agreement = sources.parity_cell(row, ("agreement",), numbers.percent)
        return (*parts, "agreement ", agreement, " on ", images, " images without labels")
    interval = row.drop_interval_pp
    shown = f" ({numbers.signed(interval[0])} to {numbers.signed(interval[1])})" if interval else ""
    drop = sources.parity_cell(row, ("drop_pp",), numbers.points)
    return (*parts, "drop ", drop, shown, " on ", images, " images")


def _parity_of(sources: Sources, row: BenchRow, *, alone: bool) -> ParityRow | None:
    """Return an engine's result; where both are alone, one that names no engine as well."""
    found, parity = sources.parity_of(row), sources.parity
    if found is None and alone and len(parity) == 1 and not parity[0].raw.get("engine_path"):
        return parity[0] if may_be_one_engine(parity[0], row) else None
    return found


def _row_sentence(sources: Sources, row: BenchRow) -> Sentence:
    median = estimate(row, "p50")
    shown = ""
    if median is not None and median.low is not None and median.high is not None:
        shown = f" ({numbers.interval(median.low, median.high)})"
    return (
        name(sources.engine(row)), " takes ",
        sources.bench_cell(row, ("latency_ms", "p50"), numbers.milliseconds), shown,
        f" at the median, batch {row.batch}: ",
        sources.bench_cell(row, ("throughput_ips",), numbers.significant), " images/s.",
    )  # fmt: skip


def _camera_sentence(sources: Sources, at: int) -> Sentence:
    file = sources.of(CAMERA)[at]

    def cell(show: Show, *path: str) -> Cell:
        return sources.cell(file, path, show)

    return (
        "Camera, ", name(base_name(file.data["engine"])), ": ",
        cell(numbers.significant, "fps"), " frames/s, answers ",
        cell(numbers.milliseconds, "frame_age_ms", "p50"), " old at the median and ",
        cell(numbers.milliseconds, "frame_age_ms", "p99"), " at p99, ",
        cell(numbers.count, "frames", "dropped"), " frames dropped.",
    )  # fmt: skip


def _sensitivity_sentence(sources: Sources) -> Sentence:
    file = sources.of(SENSITIVITY)[0]
    layers = [
        (layer["only"]["logit_sqnr_db"], at)
        for at, layer in enumerate(file.data["layers"])
        if layer["only"].get("logit_sqnr_db") is not None
    ]
    if not layers:
        return ("No layer is damaged by INT8.",)
    _, worst = min(layers)
    path = ("layers", worst, "only", "logit_sqnr_db")
    return (
        "The layer that INT8 hurts most is ", name(file.data["layers"][worst]["layer"]), ": ",
        sources.cell(file, path, numbers.decibels), " when it alone is quantized.",
    )  # fmt: skip


def _ratio(ratio: Estimate) -> Cell:
    return Cell(numbers.times(ratio.value, _digits(ratio)), ratio.value)


def _plain(value: float) -> Cell:
    return Cell(numbers.times(value), value)


def _interval(ratio: Estimate) -> str:
    if ratio.low is None or ratio.high is None:
        return ""
    return numbers.interval(ratio.low, ratio.high, _digits(ratio))


def _digits(ratio: Estimate) -> int:
    """Two, and a third where it tells the ends of the interval apart, or faster from slower."""
    narrow = ratio.low is not None and ratio.high is not None and ratio.high < 1.1 * ratio.low
    return 3 if narrow or 0.8 < ratio.value < 1.25 else 2
