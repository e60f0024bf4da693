"""Calibration recipes: named settings in `calibration/recipes/*.toml`."""

from __future__ import annotations

import dataclasses

from alexnet_edge.errors import InputError, TableError
from alexnet_edge.quantize.calibrate import CalibrationSettings
from alexnet_edge.recipes import read_named


def load_recipe(name: str) -> CalibrationSettings:
    """Read a recipe by name, or from a TOML file.

    Raises:
        TableError: it is unknown, has an unknown key, or a value of the wrong type or range.
    """
    fields = [
        field.name
        for field in dataclasses.fields(CalibrationSettings)
        if field.name != "every_tensor"  # depends on what is asked for, not on the images
    ]
    values = read_named("recipe", name, keys=["description", *fields])
    values.pop("description", None)
    for key, value in values.items():
        kind = (int, float) if key == "max_bad" else int
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TableError(f"recipe '{name}': {key} is {value!r}", hint="give a number")
    try:
        return CalibrationSettings(**values)
    except InputError as error:
        raise TableError(f"recipe '{name}': {error.message}", hint=error.hint) from error
