"""What `parity` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from alexnet_edge.cli._shared import Output, new_table
from alexnet_edge.cli._text import printable

if TYPE_CHECKING:
    from alexnet_edge.parity import Accuracy, Divergence, ParityResult, Stage, Trace

_CLASSES = 10
"""Classes that are shown: those that lost or won most."""


def show_divergence(output: Output, found: Divergence, engine: str) -> None:
    """Print every stage, and where answers part."""
    table = new_table("stage", "compared with", "max abs", "SQNR", "tolerance", "within")
    for stage in found.stages:
        table.add_row(
            stage.name, printable(stage.compared_with or "–"),
            "–" if stage.max_abs is None else f"{stage.max_abs:.2g}", _stage_decibels(stage),
            stage.tolerance or "–", {True: "yes", False: "NO", None: "–"}[stage.within],
        )  # fmt: skip
    _say(output, f"{engine}: {found.images} images, stage by stage")
    output.show(table)
    for stage in found.stages:
        if stage.within is None:
            _say(output, f"{stage.name}: {stage.reason}")
    if found.first is None:
        _say(output, "no stage differs by more than its tolerance")
        return
    where = f", from layer {found.layer} on" if found.layer else ""
    beyond = next(stage for stage in found.stages if stage.name == found.first)
    _say(output, f"answers part at: {found.first}{where} ({beyond.reason})")
    _say(output, f"hint: {found.hint}")


def show_layers(output: Output, trace: Trace, engine: str) -> None:
    """Print the SQNR of each layer, or why there is none."""
    _say(output, f"{engine}: layers: {trace.layers_note}")
    if trace.layers is None:
        return
    table = new_table("layer", "SQNR")
    for layer in trace.layers:
        table.add_row(printable(layer.name), _decibels(layer.sqnr_db))
    output.show(table)


def show_result(output: Output, result: ParityResult, *, flips: int) -> None:
    """Print the figures and the verdict."""
    for skipped in result.skipped:
        _say(output, f"skipped: {skipped.reason}")
    table = new_table(printable(result.engine_path), "reference", "engine")
    if result.reference is not None and result.engine is not None:
        table.add_row("top-1", f"{result.reference.top1:.2%}", f"{result.engine.top1:.2%}")
        table.add_row("top-5", _percent(result.reference), _percent(result.engine))
        output.show(table)
    _say(
        output,
        f"agreement {result.agreement:.2%} of {result.images} images; SQNR of the "
        f"{result.output_kind} {_decibels(result.sqnr_db)}, of the logits "
        f"{_decibels(result.logit_sqnr_db)}; largest difference {result.max_abs:.2g}",
    )
    _show_classes(output, result)
    _show_flips(output, result, flips)
    _show_verdict(output, result)


def _show_verdict(output: Output, result: ParityResult) -> None:
    """Print the interval that the verdict rests on, and the verdict, warnings first."""
    for warning in result.warnings:
        typer.echo(f"warning: {printable(warning)}", err=True)
    _say(output, _describe_interval(result))
    unit = "top-1" if result.basis == "top1" else "agreement, for want of labels"
    _say(output, f"verdict: {result.verdict} at a margin of {result.margin_pp:g} pp of {unit}")
    if result.images_needed is not None:
        _say(
            output,
            f"the interval lies on both sides of the margin: give more images, at this rate "
            f"{_images(result.images_needed)} ({_describe_least(result)})",
        )


def _describe_interval(result: ParityResult) -> str:
    low, high = result.verdict_ci95_pp or (float("nan"), float("nan"))
    if result.flips is None or result.drop_bootstrap95_pp is None:
        return (
            f"{100 * (1 - result.agreement):.2f} % of the answers changed, 95 % interval "
            f"{low:.2f} to {high:.2f} (without labels each may be a broken one)"
        )
    return (
        f"drop {result.drop_pp:+.2f} pp, 95 % interval {low:+.2f} to {high:+.2f} "
        f"(bootstrap {result.drop_bootstrap95_pp[0]:+.2f} to "
        f"{result.drop_bootstrap95_pp[1]:+.2f}); "
        f"{result.flips.broken} broken, {result.flips.fixed} fixed, "
        f"McNemar p = {result.mcnemar_p:.2g}"
    )


def _describe_least(result: ParityResult) -> str:
    least = result.minimum_detectable_drop_pp
    if least is None:
        return "so few as here show no drop, however large"
    return f"so many as here show a drop of {least:{'.0f' if least >= 9.95 else '.2g'}} pp"


def _show_classes(output: Output, result: ParityResult) -> None:
    changed = [row for row in result.per_class if row["fixed"] or row["broken"]]
    if not changed:
        return
    changed.sort(key=lambda row: (-row["broken"], -row["fixed"]))
    table = new_table("class", "images", "reference", "engine", "broken", "fixed")
    for row in changed[:_CLASSES]:
        table.add_row(
            printable(row["class"]), str(row["images"]), f"{row['reference_top1']:.1%}",
            f"{row['engine_top1']:.1%}", str(row["broken"]), str(row["fixed"]),
        )  # fmt: skip
    output.show(table)
    if len(changed) > _CLASSES:
        _say(output, f"… and {len(changed) - _CLASSES} classes more, in the JSON")


def _show_flips(output: Output, result: ParityResult, most: int) -> None:
    for flip in result.flipped[:most]:
        label = "" if flip.label is None else f", is {flip.label}"
        _say(
            output,
            f"{flip.kind}: {flip.image}{label}: {flip.reference} "
            f"({flip.reference_confidence:.0%}) became {flip.engine} ({flip.confidence:.0%})",
        )
    left = result.flipped_total - min(most, len(result.flipped))
    if most and left:
        _say(output, f"… and {left} changed answers more, in the JSON")


def _say(output: Output, text: str) -> None:
    """Print one line; names of files and classes in it cannot make it two."""
    output.say(printable(text))


def _percent(accuracy: Accuracy) -> str:
    return "–" if accuracy.top5 is None else f"{accuracy.top5:.2%}"


def _stage_decibels(stage: Stage) -> str:
    if stage.max_abs is None or (stage.sqnr_db is None and stage.max_abs > 0):
        return "–"
    return _decibels(stage.sqnr_db)


def _decibels(value: float | None) -> str:
    return "∞ (equal)" if value is None else f"{value:.1f} dB"


def _images(count: int) -> str:
    return f"{count:,} images" if count < 10**7 else "more images than there are"
