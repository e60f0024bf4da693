"""Where a command's INT8 ranges come from: a table, images measured now, or a TensorRT cache."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alexnet_edge.cli._shared import Output, new_table, progress_bar

if TYPE_CHECKING:
    from alexnet_edge.dataset import ImageSet
    from alexnet_edge.preprocess import PreprocessSpec
    from alexnet_edge.quantize.calibrate import CalibrationSettings
    from alexnet_edge.quantize.choose import Choice
    from alexnet_edge.quantize.scales import Dialect
    from alexnet_edge.quantize.table import CalibrationTable


@dataclasses.dataclass(frozen=True)
class RangeSource:
    """The options that say where ranges come from.

    Attributes:
        model: the FP32 graph.
        table: a table by name; None for the one beside the model.
        images: to measure ranges on, or, with ``judged``, to judge by where there is a table.
        cache: a TensorRT calibration cache instead of a table.
        recipe, method, preprocess: as the options of these names.
        any_versions: accept a table that other versions measured.
        judged: whether the images are there to judge by.
    """

    model: Path
    table: Path | None = None
    images: str | None = None
    cache: Path | None = None
    recipe: str = "default"
    method: str = "auto"
    preprocess: PreprocessSpec | None = None
    any_versions: bool = False
    judged: bool = False

    def open(self, output: Output, measured: Path, dialect: Dialect) -> dict[str, Any]:
        """Return `build_engine`'s ``table`` and ``choice``, or its ``cache``, or nothing.

        Args:
            output: for what is said on the way.
            measured: the file of a table that has to be measured.
            dialect: of the target.
        """
        from alexnet_edge.quantize.trt_cache import load_cache

        if self.cache is not None:
            return {"cache": load_cache(self.cache)}
        found = self._table(output, measured)
        if found is None:
            return {}
        table, folder, moved = found
        if not self.any_versions:
            table.require_versions()  # before methods are tried, which takes seconds
        choice = choose_method(output, self.model, table, dialect, self.method, moved, folder)
        return {"table": table, "choice": choice}

    def foresee(self, engine: Path) -> tuple[CalibrationTable | None, str | None]:
        """Return the table that a build would use, if it exists, and where ranges come from.

        Args:
            engine: what would be built; a table that has to be measured is written beside it.
        """
        from alexnet_edge.quantize.table import load_table
        from alexnet_edge.quantize.trt_cache import load_cache

        if self.cache is not None:
            cache = load_cache(self.cache)
            return None, f"calibration cache {self.cache}, {len(cache.amax)} tensors"
        beside = default_table(self.model)
        measures = self.images is not None and not (self.judged and beside.exists())
        if self.table is None and measures:
            return None, f"to be measured on {self.images} into {engine.name}.table.json"
        file = self.table or (beside if beside.exists() else None)
        if file is None:
            return None, None
        return load_table(file), f"table {file}, method {self.method}"

    def _table(
        self, output: Output, measured: Path
    ) -> tuple[CalibrationTable, Path, ImageSet | None] | None:
        """Return the table, the folder that it lies in, and its images where they were given."""
        from alexnet_edge.dataset import open_images
        from alexnet_edge.quantize.recipe import load_recipe
        from alexnet_edge.quantize.table import load_table

        beside = default_table(self.model)
        if self.table is not None:
            moved = self.images if not self.judged else None
            table = load_table(self.table)
            return table, self.table.parent, None if moved is None else open_images(moved)
        if self.images is not None and not (self.judged and beside.exists()):
            images = open_images(self.images)
            recipe = load_recipe(self.recipe)
            table = calibrate_into(output, self.model, images, measured, recipe, self.preprocess)
            return table, measured.parent, images
        return (load_table(beside), beside.parent, None) if beside.exists() else None


def default_table(model: Path) -> Path:
    """Return where the table of a model is looked for."""
    return model.with_name(f"{model.stem}.table.json")


def calibrate_into(
    output: Output,
    model: Path,
    images: ImageSet,
    target: Path,
    settings: CalibrationSettings,
    preprocess: PreprocessSpec | None,
) -> CalibrationTable:
    """Calibrate with a progress bar and save the table."""
    from alexnet_edge.cli._shared import duration
    from alexnet_edge.quantize.calibrate import calibrate as run
    from alexnet_edge.quantize.table import load_table

    with progress_bar("calibrating") as update:
        table = run(
            model, images, settings, preprocess=preprocess,
            on_progress=lambda at: update(
                at.done, at.total,
                f"{at.images_per_second:.0f} images/s · {duration(at.seconds_left)} left",
            ),
        )  # fmt: skip
    table.save(target)
    skipped = table.images["skipped"]
    for item in skipped:
        output.say(f"skipped: {item['reason']}")
    output.say(
        f"{target}: {len(table.tensors)} tensors, {len(table.methods)} methods, "
        f"{table.images['count']} images" + (f", {len(skipped)} skipped" if skipped else "")
    )
    return load_table(target)


def choose_method(
    output: Output,
    model: Path,
    table: CalibrationTable,
    dialect: Dialect,
    method: str = "auto",
    images: ImageSet | None = None,
    folder: Path | None = None,
    *,
    fit: bool = True,
) -> Choice:
    """Decide with a progress bar, and print the ranking where there is one."""
    from alexnet_edge.quantize.choose import decide

    with progress_bar("choosing") as update:
        choice = decide(
            model, table, dialect, method, images=images, folder=folder, fit=fit,
            on_progress=lambda what, done, total: update(done, total, what),
        )  # fmt: skip
    if choice.trials:
        listing = new_table(
            f"{dialect.name}, {choice.images} held-out images", "logit SQNR dB", "KL", "kept"
        )
        for trial in choice.trials:
            sqnr = decibels(trial.logit_sqnr_db)
            listing.add_row(trial.candidate, sqnr, f"{trial.kl:.2g}", "✓" if trial.kept else "")
        output.show(listing)
    return choice


def decibels(value: float | None) -> str:
    """Return a signal-to-noise ratio for a table; None is no noise."""
    return "∞" if value is None else f"{value:.1f}"
