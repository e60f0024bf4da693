"""`alexnet-edge doctor`: what this machine has and can run."""

from __future__ import annotations

import typer

from alexnet_edge.cli._shared import JsonOption, Output, new_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(short_help="What this machine has and can run.")(doctor)


def doctor(json: JsonOption = None) -> None:
    """Say what this machine has, and which runtimes build and run here.

    Example: alexnet-edge doctor
    """
    from alexnet_edge.doctor import diagnose

    output = Output(json)
    found = diagnose()
    where = found.environment
    board = f"{where['board']}, " if where["board"] else ""
    output.say(
        f"{board}{where['cpu']}, {where['cores']} cores, "
        f"{'VNNI' if where['vnni'] else 'no VNNI'}, {found.memory_bytes / 2**30:.0f} GiB"
    )
    output.say(f"{where['os']}, Python {where['python']}")
    output.say(f"NVIDIA GPU: {'; '.join(found.gpus) or 'none'}")
    sensors = found.sensors
    output.say(
        f"sensors: {', '.join(sensors.sources) or 'none'}; "
        f"energy: {sensors.energy_source or 'nothing here measures it'}"
    )
    for item in sensors.missing:
        output.say(f"  {item.sensor}: {item.reason}")
    table = new_table("runtime", "version", "builds", "runs", "on", "why not")
    for runtime in found.runtimes:
        table.add_row(
            runtime.runtime, runtime.version or "–", "yes" if runtime.builds else "no",
            "yes" if runtime.runs else "no", ", ".join(runtime.devices) or "–",
            f"{runtime.reason}; {runtime.hint}" if runtime.hint else runtime.reason,
        )  # fmt: skip
    output.show(table)
    for line in found.advice:
        output.say(line)
    output.finish(found)
