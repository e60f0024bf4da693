"""The view in a terminal, and the log where there is none."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from alexnet_edge.camera.frames import Event
from alexnet_edge.camera.sinks import TerminalView
from alexnet_edge.camera.sinks.terminal import render, summarize
from tests.camera.answers import HOSTILE, make_answer, make_keeper


def show(stats, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(stats))
    return console.file.getvalue()


def test_the_answer_its_rate_latencies_and_drops_are_shown():
    answers = [make_answer(index, dropped=2) for index in range(6)]
    text = show(make_keeper(*answers, dropped=2, corrupt=1, reconnects=4).snapshot())
    assert "running" in text
    assert "a camera" in text and "tiny.onnx" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    assert rows["age"] == ["12.50"] * 3
    assert rows["preprocess"] == ["2.25"] * 3
    assert rows["output"] == ["0.25"] * 3
    assert "75.0%  a cat" in text and "20.0%  a dog" in text
    for figure in ("answered 6", "dropped 2 (25.0%)", "corrupt 1", "reconnects 4"):
        assert figure in text


def test_before_the_first_answer_there_is_something_to_see():
    stats = make_keeper(state="connecting").snapshot()
    assert "connecting" in show(stats)
    assert "no answer yet" in show(stats)
    assert "no answer yet" in summarize(stats)


def test_an_answer_below_the_threshold_is_marked():
    stats = make_keeper(make_answer(accepted=False)).snapshot()
    assert "unsure" in show(stats)
    assert "unsure (a cat 75.0%)" in summarize(stats)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_narrow_terminal_is_not_overrun(width):
    lines = show(make_keeper(make_answer()).snapshot(), width).splitlines()
    assert max(len(line) for line in lines) <= width


def test_names_are_text_and_nothing_is_obeyed():
    keeper = make_keeper(make_answer(top=((HOSTILE, 0.5),)), source=f"[red]{HOSTILE}")
    for text in (show(keeper.snapshot(), 160), summarize(keeper.snapshot())):
        assert r"\x1b[2J\x9b31m<b>x</b>\u202e\nname" in text
        assert "\x1b" not in text and "\x9b" not in text and "\u202e" not in text
    assert "[red]" in show(keeper.snapshot(), 160)


def test_a_terminal_is_redrawn_in_place():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=30)
    keeper = make_keeper(make_answer())
    view = TerminalView(console, keeper.snapshot)
    view.note(Event("connected", f"camera {HOSTILE}", time.monotonic()))
    view.write(make_answer())
    keeper.set_state("stopped")
    view.close()
    text = console.file.getvalue()
    assert "connected: camera \\x1b[2J" in text
    assert "\x1b[?25l" in text and text.endswith("\x1b[?25h"), "the cursor comes back"
    assert "stopped" in text[text.rindex("connected:") :], "the last state stays"
    assert "\x1b[2J\x9b" not in text


def test_where_there_is_no_terminal_lines_are_few():
    console = Console(file=io.StringIO(), width=200)
    view = TerminalView(console, make_keeper(make_answer()).snapshot)
    for index in range(50):
        view.write(make_answer(index))
    view.note(Event("lost", "camera: gone", time.monotonic()))
    view.close()
    first, second = console.file.getvalue().splitlines()
    assert first.startswith("running: a cat 75.0%")
    assert second == "lost: camera: gone"
