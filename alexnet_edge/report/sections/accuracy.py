"""Accuracy against the reference: the verdict, the classes, the images that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alexnet_edge.report import numbers, plots
from alexnet_edge.report.answer import FLAGS
from alexnet_edge.report.page import (
    BAD,
    GOOD,
    NOTHING,
    Block,
    Cell,
    Figure,
    Gallery,
    Picture,
    Section,
    Table,
    Text,
    name,
)
from alexnet_edge.report.sections.skipped import tell_skipped
from alexnet_edge.report.sources import Sources
from alexnet_edge.report.thumbnails import Thumbnails
from alexnet_edge.results_files.rows import ParityRow

_NO = Cell("no", flag=BAD)
MOST_CLASSES, MOST_PICTURES, MOST_FLIPPED = 30, 12, 60


def make_accuracy(sources: Sources, thumbnails: Thumbnails) -> Section | None:
    """Return the section, or None without a parity result."""
    rows = sources.parity
    if not rows:
        return None
    blocks: list[Block] = [
        _verdict_table(sources, rows),
        _accuracy_table(sources, rows),
    ]
    for at, row in enumerate(rows):
        which = "" if len(rows) == 1 else f" ({sources.engine(row)})"
        blocks += _power(row, which)
        blocks += tell_skipped(f"Not compared{which}", row.skipped)
        blocks += _classes(sources, row, at, which)
        blocks += _flipped(sources, row, thumbnails, which)
        blocks += _worst(sources, row, thumbnails, which)
        blocks += _stages(sources, row, which)
    return Section("accuracy", "Accuracy", tuple(blocks))


def _verdict_table(sources: Sources, rows: Sequence[ParityRow]) -> Table:
    listing = []
    for row in rows:
        verdict = str(row.raw["verdict"])
        interval = row.drop_interval_pp
        bounds = NOTHING
        if interval is not None:
            bounds = Cell(f"{numbers.signed(interval[0])} to {numbers.signed(interval[1])}")
        listing.append((
            name(sources.engine(row)), Cell(verdict, flag=FLAGS.get(verdict, "")),
            sources.parity_cell(row, ("drop_pp",), numbers.points), bounds,
            sources.parity_cell(row, ("margin_pp",), lambda x: f"{x:g}"),
            sources.parity_cell(row, ("flips", "broken"), numbers.count),
            sources.parity_cell(row, ("flips", "fixed"), numbers.count),
            sources.parity_cell(row, ("mcnemar_p",), numbers.significant),
            sources.parity_cell(row, ("images",), numbers.count),
        ))  # fmt: skip
    return Table(
        "The verdict: top-1 lost against the reference",
        ("Engine", "Verdict", "Drop", "95 % interval", "Margin pp", "Broken", "Fixed", "McNemar p",
         "Images"),
        tuple(listing),
        "Drop: in percentage points; negative where the engine is better. pass: the whole interval "
        "is within the margin; fail: beyond it; inconclusive: on both sides.",
    )  # fmt: skip


def _accuracy_table(sources: Sources, rows: Sequence[ParityRow]) -> Table:
    listing = []
    for row in rows:
        shares = [
            sources.parity_cell(row, (whose, which), numbers.percent)
            for which in ("top1", "top5")
            for whose in ("reference", "engine")
        ]
        noises = [
            _decibels(sources.parity_cell(row, (key,), numbers.decibels), row.raw, key)
            for key in ("logit_sqnr_db", "sqnr_db")
        ]
        agreement = sources.parity_cell(row, ("agreement",), numbers.percent)
        largest = sources.parity_cell(row, ("max_abs",), numbers.significant)
        listing.append((name(sources.engine(row)), *shares, agreement, *noises, largest))
    return Table(
        "The engine's answers beside the reference's",
        ("Engine", "Top-1 reference", "Top-1 engine", "Top-5 reference", "Top-5 engine",
         "Agreement", "Logit SQNR", "SQNR", "Largest difference"),
        tuple(listing),
    )  # fmt: skip


def _decibels(cell: Cell, raw: Mapping[str, Any], key: str) -> Cell:
    """An SQNR that is there and null is that of equal outputs."""
    return Cell("∞ (equal)") if cell is NOTHING and key in raw else cell


def _power(row: ParityRow, which: str) -> list[Block]:
    needed, least = row.raw.get("images_needed"), row.raw.get("minimum_detectable_drop_pp")
    parts = []
    if needed:
        parts.append(f"about {numbers.count(needed)} images would decide")
    if least:
        parts.append(
            f"{numbers.count(row.images)} images show a drop of {numbers.significant(least, 2)} pp "
            "or more"
        )
    if not parts:
        return []
    return [Text((f"How much these images can tell{which}: {'; '.join(parts)}.",))]


def _classes(sources: Sources, row: ParityRow, number: int, which: str) -> list[Block]:
    classes = row.raw.get("per_class") or []
    if not classes:
        return []
    order = sorted(range(len(classes)), key=lambda at: (-abs(classes[at]["drop_pp"]), at))
    shown = sorted(order[:MOST_CLASSES]) if len(classes) > MOST_CLASSES else range(len(classes))
    listing = tuple(
        (name(classes[at]["class"]), *(
            sources.parity_cell(row, ("per_class", at, key), show)
            for key, show in (
                ("images", numbers.count), ("reference_top1", numbers.percent),
                ("engine_top1", numbers.percent), ("drop_pp", numbers.points),
                ("broken", numbers.count), ("fixed", numbers.count),
            )
        ))
        for at in shown
    )  # fmt: skip
    rest = len(classes) - len(listing)
    note = f"The {len(listing)} classes that changed most, of {len(classes)}." if rest else ""
    changed = [at for at in order if classes[at]["drop_pp"]][:15]
    blocks: list[Block] = []
    if changed:
        names = [str(classes[at]["class"]) for at in changed]
        drops = tuple(float(classes[at]["drop_pp"]) for at in changed)
        told = "; ".join(
            f"{label}: {numbers.points(drop)}" for label, drop in zip(names, drops, strict=True)
        )
        svg = plots.plot_bars(
            f"classes-{number}", names,
            [plots.Series("drop", tuple(map(float, range(len(names)))), drops)],
            plots.Axis("top-1 lost, pp (negative: gained)"),
        )  # fmt: skip
        more = len([at for at in order if classes[at]["drop_pp"]]) - len(changed)
        rest_told = f"; {more} more classes changed less" if more else "; the others kept theirs"
        blocks.append(Figure(svg, f"Top-1 lost by class{which}. {told}.",
                             f"Classes whose accuracy changed{which}{rest_told}."))  # fmt: skip
    else:
        blocks.append(Text((f"No class lost or gained accuracy{which}.",)))
    blocks.append(Table(
        f"Class by class{which}",
        ("Class", "Images", "Top-1 reference", "Top-1 engine", "Drop", "Broken", "Fixed"),
        listing, note,
    ))  # fmt: skip
    return blocks


def _flipped(sources: Sources, row: ParityRow, thumbnails: Thumbnails, which: str) -> list[Block]:
    flipped = row.raw.get("flipped") or []
    if not flipped:
        return []
    total = int(row.raw.get("flipped_total") or len(flipped))
    note = f"{MOST_FLIPPED} of {total}." if total > MOST_FLIPPED else ""
    if 0 < len(flipped) < total and not note:
        note = f"{len(flipped)} of {total}."
    pictures = []
    for at, item in enumerate(flipped[:MOST_FLIPPED]):
        sure = [
            sources.parity_cell(row, ("flipped", at, key), numbers.percent)
            for key in ("reference_confidence", "confidence")
        ]
        facts = () if NOTHING in sure else ("sure to ", sure[0], " and ", sure[1])
        pictures.append(_picture(item, thumbnails, row, *facts))
    return [Gallery(
        f"Images whose answer changed{which}",
        tuple(pictures), note,
    )]  # fmt: skip


def _worst(sources: Sources, row: ParityRow, thumbnails: Thumbnails, which: str) -> list[Block]:
    worst = (row.raw.get("worst") or [])[:MOST_PICTURES]
    if not worst:
        return []
    pictures = []
    for at, item in enumerate(worst):
        largest = sources.parity_cell(row, ("worst", at, "max_abs"), numbers.significant)
        pictures.append(_picture(item, thumbnails, row, "differs by ", largest))
    return [Gallery(
        f"Images on which the outputs differ most{which}", tuple(pictures),
        "The largest difference of an output, of the images that were compared.",
    )]  # fmt: skip


def _stages(sources: Sources, row: ParityRow, which: str) -> list[Block]:
    """From the file's bytes to the engine: where answers part, if they do."""
    divergence = row.raw.get("divergence") or {}
    stages = divergence.get("stages") or []
    if not stages:
        return []
    listing = []
    for at, stage in enumerate(stages):
        path = ("divergence", "stages", at)
        within = stage.get("within")
        mark = NOTHING if within is None else Cell("yes", flag=GOOD) if within else _NO
        listing.append((
            name(stage["name"]), name(stage.get("compared_with") or "–"),
            sources.parity_cell(row, (*path, "max_abs"), numbers.significant),
            sources.parity_cell(row, (*path, "sqnr_db"), numbers.decibels),
            name(stage.get("tolerance") or "–"), mark, name(stage.get("reason") or "–"),
        ))  # fmt: skip
    first = divergence.get("first")
    note = "No stage differs by more than its tolerance."
    if first is not None:
        note = f"Answers part first at: {first}."
    return [Table(
        f"Stage by stage, on {divergence.get('images', 'some')} images{which}",
        ("Stage", "Compared with", "Largest difference", "SQNR", "Tolerance", "Within", "Because"),
        tuple(listing), note,
    )]  # fmt: skip


def _picture(
    item: Mapping[str, Any], thumbnails: Thumbnails, row: ParityRow, *facts: str | Cell
) -> Picture:
    told: list[str | Cell] = []
    for key, label in (("label", "label "), ("reference", "reference "), ("engine", "engine ")):
        if item.get(key) is not None:
            told += [f"{'; ' if told else ''}{label}", name(item[key])]
    if item.get("kind"):
        told.append(f"{'; ' if told else ''}{item['kind']}")
    if facts:
        told += ["; " if told else "", *facts]
    image = str(item["image"])
    return Picture(thumbnails.of(row, image), image, tuple(told))
