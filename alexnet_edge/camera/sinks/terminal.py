"""The loop in a terminal: the answer, its rate, latency by stage, and what was dropped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from alexnet_edge.camera.frames import Answer, Event, LoopStats, StatsReader
from alexnet_edge.camera.sinks.record import escape_controls

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

REFRESHES_PER_S = 5
"""More cannot be read, and each costs the loop's machine time."""

LINE_EVERY_S = 10.0
"""Where there is no terminal: seconds between two lines of a log."""

_BAR_WIDTH = 24
_STATE_STYLES = {
    "running": "bold green",
    "connecting": "bold yellow",
    "stalled": "bold red",
    "stopped": "dim",
}


class TerminalView:
    """Redraws a few lines in place; where the console is no terminal, a line every 10 s.

    Redrawing happens on a thread of its own, so `write` costs the loop nothing.

    Args:
        console: where to draw.
        stats: what to draw.
    """

    name = "terminal"

    def __init__(self, console: Console, stats: StatsReader) -> None:
        self._console = console
        self._stats = stats
        self._live: Live | None = None
        self._next_line_s = 0.0

    def write(self, answer: Answer) -> None:
        """Start drawing with the first answer, or log a line if one is due."""
        if self._console.is_terminal:
            self._start()
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            self._console.print(summarize(self._stats()), markup=False, highlight=False)

    def note(self, event: Event) -> None:
        """Leave a line above the drawing."""
        if self._console.is_terminal:
            self._start()
        line = f"{event.kind}: {escape_controls(event.message)}"
        self._console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Draw a last time and leave it there."""
        if self._live is not None:
            self._live.stop()

    def _start(self) -> None:
        if self._live is None:
            from rich.live import Live

            self._live = Live(
                console=self._console,
                refresh_per_second=REFRESHES_PER_S,
                get_renderable=lambda: render(self._stats()),
            )
            self._live.start()


def summarize(stats: LoopStats) -> str:
    """Return the loop's state as one line for a log."""
    return (
        f"{stats.state}: {describe_top(stats.last_answer)}, {stats.fps:.1f} fps, age "
        f"{stats.recent['age'].p50:.1f} ms (p99 {stats.recent['age'].p99:.1f}), "
        f"answered {stats.answered}, dropped {stats.dropped}, corrupt {stats.corrupt}, "
        f"reconnects {stats.reconnects}"
    )


def describe_top(answer: Answer | None) -> str:
    """Return the best class and its probability, marked where it is below the threshold."""
    if answer is None or not answer.top:
        return "no answer yet"
    best = answer.top[0]
    text = f"{escape_controls(best.name)} {best.probability:.1%}"
    return text if answer.accepted else f"unsure ({text})"


def render(stats: LoopStats) -> RenderableType:
    """Return what the terminal shows of the loop."""
    from rich.console import Group
    from rich.text import Text

    # Names are put into Text, never into markup.
    head = Text.assemble(
        (stats.state, _STATE_STYLES[stats.state]),
        f"  {escape_controls(stats.source)}  {escape_controls(stats.engine)}  ",
        (f"up {_clock(stats.uptime_s)}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )
    return Group(head, Text(), *_answer_lines(stats.last_answer), Text(), _times(stats), Text(),
                 _counts(stats))  # fmt: skip


def _answer_lines(answer: Answer | None) -> list[Text]:
    from rich.text import Text

    if answer is None or not answer.top:
        return [Text("no answer yet", style="dim")]
    lines = []
    for rank, item in enumerate(answer.top):
        filled = round(item.probability * _BAR_WIDTH)
        best = rank == 0
        style = ("bold" if answer.accepted else "yellow") if best else "dim"
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append("█" * filled, "cyan" if best else "dim cyan")
        line.append("░" * (_BAR_WIDTH - filled), "dim")
        line.append(f" {item.probability:6.1%}  ", style)
        line.append(escape_controls(item.name), style)
        if best and not answer.accepted:
            line.append("  (unsure: below the threshold)", "yellow")
        lines.append(line)
    return lines


def _times(stats: LoopStats) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("ms, recent", min_width=12)
    for heading in ("p50", "p90", "p99"):
        table.add_column(heading, justify="right", min_width=7)
    for stage, times in stats.recent.items():
        cells = (times.p50, times.p90, times.p99) if times.count else ()
        table.add_row(stage, *(f"{ms:.2f}" for ms in cells), style="bold" if stage == "age" else "")
    return table


def _counts(stats: LoopStats) -> Text:
    from rich.text import Text

    share = stats.dropped / stats.captured if stats.captured else 0.0
    line = Text(f"{stats.fps:.1f} fps", style="bold", no_wrap=True, overflow="ellipsis")
    line.append(f"   answered {stats.answered}", "not bold")
    line.append(f"   dropped {stats.dropped} ({share:.1%})", "yellow" if stats.dropped else "")
    line.append(f"   corrupt {stats.corrupt}", "red" if stats.corrupt else "not bold")
    line.append(f"   reconnects {stats.reconnects}", "red" if stats.reconnects else "not bold")
    line.append(f"   {stats.rss_bytes / 1e6:.0f} MB", "dim not bold")
    return line


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
