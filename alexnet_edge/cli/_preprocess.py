"""The preprocessing options, which four commands share."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from alexnet_edge.preprocess import PreprocessSpec


def _check_triple(text: str | None) -> str | None:
    if text is not None:
        _triple(text)
    return text


def _triple(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise typer.BadParameter(f"'{text}' is not three numbers")
    return values


@dataclasses.dataclass(frozen=True)
class PreprocessOptions:
    """The options as they were given; None where they were not."""

    resize: Annotated[int | None, typer.Option(help="Shorter side after resizing, in pixels.")] = (
        None
    )
    crop: Annotated[int | None, typer.Option(help="Centre square, in pixels.")] = None
    interpolation: Annotated[str | None, typer.Option(help="bilinear, bicubic or box.")] = None
    color: Annotated[str | None, typer.Option(help="RGB, or BGR for networks from Caffe.")] = None
    mean: Annotated[
        str | None,
        typer.Option(
            help="Per channel, of values in 0–1.", metavar="A,B,C", callback=_check_triple
        ),
    ] = None
    std: Annotated[
        str | None,
        typer.Option(
            help="Per channel, of values in 0–1.", metavar="A,B,C", callback=_check_triple
        ),
    ] = None

    def _given(self) -> dict[str, Any]:
        values: dict[str, Any] = dataclasses.asdict(self)
        for name in ("mean", "std"):
            values[name] = None if values[name] is None else _triple(values[name])
        return {name: value for name, value in values.items() if value is not None}

    def applied_to(self, base: PreprocessSpec) -> PreprocessSpec:
        """Return ``base`` with what was given in its place."""
        return dataclasses.replace(base, **self._given())

    def alone(self) -> PreprocessSpec | None:
        """Return the preprocessing of a model that has none of its own; None if nothing is given.

        Raises:
            InputError: what was given leaves open what must not be guessed.
        """
        from alexnet_edge.errors import InputError
        from alexnet_edge.preprocess import PreprocessSpec

        given = self._given()
        if not given:
            return None
        missing = [f"--{key}" for key in ("resize", "crop", "mean", "std") if key not in given]
        if missing:
            raise InputError(
                f"{', '.join(missing)} must be given too: preprocessing is not guessed",
                hint="e.g. --resize 256 --crop 227 --mean 0.485,0.456,0.406 "
                "--std 0.229,0.224,0.225",
            )
        return PreprocessSpec(**given)


def with_preprocess_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options in place of its parameter ``preprocessing``.

    Typer reads a command's signature; it gets one in which that parameter is spread out.
    """
    hints = typing.get_type_hints(PreprocessOptions, include_extras=True)
    options = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[field.name]
        )
        for field in dataclasses.fields(PreprocessOptions)
    ]
    signature = inspect.signature(command, eval_str=True)
    others = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name != "preprocessing"
    ]

    @functools.wraps(command)
    def spread(**values: Any) -> None:
        given = {option.name: values.pop(option.name) for option in options}
        command(preprocessing=PreprocessOptions(**given), **values)

    parameters = [*others, *options]
    spread.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    spread.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return spread
