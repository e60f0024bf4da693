"""`build --max-drop`: settings that are chosen by what they cost on labelled images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from alexnet_edge.cli._ranges import RangeSource
from alexnet_edge.cli._shared import Output, label_images, progress_bar

if TYPE_CHECKING:
    from alexnet_edge.engine.build import BuildSettings


def pick_settings(
    output: Output,
    source: RangeSource,
    settings: BuildSettings,
    classes: Path | None,
    *,
    max_drop: float | None,
    by: str,
) -> BuildSettings:
    """Measure every way to build for the target; return the settings of the best within bound."""
    from alexnet_edge.cli.pareto import run_pareto, show_pareto
    from alexnet_edge.pareto import choose_point

    if max_drop is None:
        raise typer.BadParameter("--smallest and --fastest need --max-drop PP and --images DIR")
    # The smallest is known without timing.
    duration_s = 0.0 if by == "size" else 2.0
    found, candidates = run_pareto(output, source, settings, classes, duration_s=duration_s)
    show_pareto(output, found)
    point = choose_point(found, max_drop_pp=max_drop, by=by)
    chosen = next(one for one in candidates if one.name == point.name)
    output.say(
        f"chosen by {by}: {point.name}; top-1 falls by {point.drop_pp:.2f} pp on {found.images} "
        f"images (at most {max_drop:g} asked for)"
    )
    judgement = {
        "chosen_by": by, "max_drop_pp": max_drop, "drop_pp": point.drop_pp,
        "images": found.images, "candidate": point.name,
    }  # fmt: skip
    return dataclasses.replace(chosen.settings, judgement=judgement)


def spare_fewest(
    output: Output,
    source: RangeSource,
    settings: BuildSettings,
    ranges: dict[str, Any],
    max_drop: float,
    classes: tuple[str, ...] | None,
) -> BuildSettings:
    """Return the settings with the fewest layers spared that keep the drop within bound."""
    from alexnet_edge.dataset import ImageReader, open_images
    from alexnet_edge.quantize.damage import choose_spared
    from alexnet_edge.quantize.layerwise import Layerwise

    network = Layerwise(source.model, settings.dialect)
    images = label_images(open_images(source.images or ""), network.graph, classes)
    table = ranges["table"]
    reader = ImageReader(images, table.preprocess, batch_size=32)
    with progress_bar("judging") as update:
        spared, damage = choose_spared(
            network, table, ranges["choice"], lambda: reader, max_drop,
            on_progress=lambda count, done: update(done, len(images), f"{count} layers spared"),
        )  # fmt: skip
    output.say(
        f"spared: {', '.join(spared) or 'none'}; top-1 falls by {damage.drop_pp:.2f} pp on "
        f"{damage.images} images, simulated (at most {max_drop:g} asked for)"
    )
    return dataclasses.replace(
        settings,
        spared=spared,
        judgement={"max_drop_pp": max_drop, "simulated": dataclasses.asdict(damage)},
    )
