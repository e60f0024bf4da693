"""`alexnet-edge report`: one self-contained page from any set of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="One page from any set of results.")(report)


def report(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT.json", help="Of any command's --json; tables; manifests."),
    ],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    markdown: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same as Markdown, for a pull request.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What compare --history wrote, to plot.")
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Where parity's images are (default: where they were)."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.")] = None,
) -> None:
    """Write one HTML page that needs no network: the answer first, then everything measured.

    Example: alexnet-edge report bench.json parity.json
    """
    from alexnet_edge.artifacts import atomic_paths, write_bytes
    from alexnet_edge.errors import InputError
    from alexnet_edge.report import (
        ReportSettings,
        make_page,
        printable,
        render_html,
        render_markdown,
    )

    read = {path.resolve() for path in (*results, *([history] if history else []))}
    outputs = [path.resolve() for path in (out, markdown) if path is not None]
    if read & set(outputs) or len(set(outputs)) < len(outputs):
        raise InputError(
            f"{out}: would be written over a result, or over the other page",
            hint="give --out and --markdown names of their own",
        )
    page = make_page(results, ReportSettings(title, history, images))
    written = {out: render_html(page).encode()}
    if markdown is not None:
        written[markdown] = render_markdown(page).encode()
    with atomic_paths(*written) as temporaries:
        for temporary, data in zip(temporaries, written.values(), strict=True):
            write_bytes(temporary, data)
    for name in dict.fromkeys(page.repeated):
        typer.echo(f"given more than once, counted once: {printable(name)}", err=True)
    for caution in page.cautions:
        typer.echo(f"not a valid measurement: {printable(caution.about.text)}", err=True)
    for answer in page.answers:
        told = "".join(part if isinstance(part, str) else part.text for part in answer)
        typer.echo(printable(told))
    for path, data in written.items():
        typer.echo(f"{path}: {len(data) / 1e3:.0f} kB")
