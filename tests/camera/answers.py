"""Answers as the loop gives them, for outputs that are tested without one."""

from __future__ import annotations

import time

from alexnet_edge.camera.capture import CaptureCounts
from alexnet_edge.camera.frames import Answer, Frame
from alexnet_edge.camera.stats import StatsKeeper
from alexnet_edge.classifier import Prediction
from tests.camera.scenes import numbered

HOSTILE = "\x1b[2J\x9b31m<b>x</b>\u202e\nname"


def make_answer(
    index=0, *, width=160, height=120, timestamp_s=None, captured_s=None, name=None,
    top=(("a cat", 0.75), ("a dog", 0.2)), accepted=True, age_ms=12.5, dropped=0,
):  # fmt: skip
    captured_s = time.monotonic() if captured_s is None else captured_s
    frame = Frame(
        index, numbered(index, width, height), captured_s, timestamp_s, 1_795_000_000.25, name, 1.5
    )
    predictions = tuple(
        Prediction(label, text, probability) for label, (text, probability) in enumerate(top)
    )
    stages = {"capture": 1.5, "preprocess": 2.25, "inference": 4.0}
    return Answer(frame, predictions, accepted, stages, age_ms, dropped, index + 1)


def make_keeper(*answers, state="running", dropped=0, corrupt=0, reconnects=0, source="a camera"):
    """A loop's statistics after some answers."""
    captured = len(answers) + dropped
    counts = CaptureCounts(captured, dropped, corrupt, reconnects)
    keeper = StatsKeeper(source, "tiny.onnx", lambda: counts)
    keeper.set_state(state)
    for answer in answers:
        keeper.add_answer(answer)
        keeper.add_output(0.25)
    return keeper
