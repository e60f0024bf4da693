"""`alexnet-edge compare`: the change between two runs, with an interval."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_edge.cli._shared import EXIT_VERDICT, JsonOption, Output, new_table

if TYPE_CHECKING:
    from alexnet_edge.compare import Bounds, Change, Comparison


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="The change between two runs, with an interval.")(compare)


def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A.json", help="Before: of bench, parity or camera.")
    ],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="After: of the same.")],
    max_regression: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Exit with 3 where a figure is worse by more, beyond its interval: 5%, 5 or 0.05.",
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="PP",
            help="The same for top-1 and agreement, in percentage points "
            "(default: what --max-regression says).",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Judge the measured change, whatever its interval.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Compare unlike settings and invalid runs all the same.")
    ] = False,
    history: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Add B's figures to this file, for report --history."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Show what changed from A to B, and how sure that is; exit 3 where a bound is broken.

    Example: alexnet-edge compare before.json after.json --max-regression 5%
    """
    from alexnet_edge.compare import Bounds, compare_files, describe_run
    from alexnet_edge.results_files import append_history

    output = Output(json, first, second)
    regression = None if max_regression is None else _read_percent(max_regression)
    bounds = Bounds(regression, max_drop, strict)
    result = compare_files(first, second, bounds, force=force)
    _show(output, result)
    if history is not None:
        added = append_history(history, describe_run(second))
        output.say(f"{history}: {second.name} {'added' if added else 'was in it already'}")
    output.finish(result)
    if result.verdict == "fail":
        raise typer.Exit(EXIT_VERDICT)


def _read_percent(text: str) -> float:
    """Return `5%`, `5` and `0.05` as 5; below 1 and without a sign it is a fraction."""
    try:
        value = float(text.strip().removesuffix("%"))
    except ValueError:
        raise typer.BadParameter(f"'{text}' is no percentage; give 5%, 5 or 0.05") from None
    if not 0 <= value < 1000:
        raise typer.BadParameter(f"{text}: give 0% or more")
    return value if "%" in text or value >= 1 else 100 * value


def _show(output: Output, result: Comparison) -> None:
    for pair in result.pairs:
        table = new_table("", "A", "B", "change", "95 % interval", "verdict", title=pair.label)
        for change in pair.changes:
            table.add_row(
                change.figure, _value(change, change.first), _value(change, change.second),
                f"{change.change:+.2f} {change.unit}", _interval(change),
                f"{change.verdict}{' – beyond the bound' if change.fails else ''}",
            )  # fmt: skip
        output.show(table)
    for name, rows in (("A", result.only_first), ("B", result.only_second)):
        for label in rows:
            output.say(f"only in {name}: {label}")
    for reason in result.invalid:
        output.say(f"not to be relied on: {reason}")
    for difference in result.differences:
        unlike = "unlike settings" if difference.refuses else "different"
        output.say(f"{unlike}: {difference}")
    unjudged = _unjudged(result)
    if unjudged:
        output.say(f"without an interval, so not judged: {', '.join(unjudged)}")
    if result.verdict is not None:
        output.say(f"verdict: {result.verdict} ({_rule(result.bounds)})")


def _unjudged(result: Comparison) -> list[str]:
    """Return the figures that a bound is given for and an interval is missing of."""
    if result.bounds.strict:
        return []
    changes = [change for pair in result.pairs for change in pair.changes]
    named = [c.figure for c in changes if c.bound is not None and c.low is None]
    return list(dict.fromkeys(named))


def _rule(bounds: Bounds) -> str:
    parts = []
    if bounds.regression is not None:
        parts.append(f"{bounds.regression:g} %")
    if bounds.drop_pp is not None:
        parts.append(f"{bounds.drop_pp:g} pp of accuracy")
    how = "as measured" if bounds.strict else "beyond the interval"
    return f"no figure may be worse by more than {' or '.join(parts)}, {how}"


def _value(change: Change, value: float) -> str:
    from alexnet_edge.compare.changes import unit_of

    if change.figure == "size":
        return f"{value / 1e6:.1f} MB"
    if change.figure in {"top-1", "agreement"}:
        return f"{value:.2%}"
    return f"{value:.4g} {unit_of(change.figure)}"


def _interval(change: Change) -> str:
    if change.low is None or change.high is None:
        return "–"
    if change.basis == "exact":
        return "exact"
    return f"{change.low:+.2f} to {change.high:+.2f}"
