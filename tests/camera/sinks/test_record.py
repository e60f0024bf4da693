"""An answer as JSON values, and text that a terminal does not obey."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from alexnet_edge.camera.sinks.record import describe_answer, escape_controls
from alexnet_edge.results import to_json
from tests.camera.answers import HOSTILE, make_answer


def test_an_answer_is_described():
    answer = make_answer(7, timestamp_s=0.25, name="a/b.png", accepted=False, dropped=3)
    assert describe_answer(answer) == {
        "time": "2026-11-18T11:06:40.250+00:00",
        "frame": 7,
        "name": "a/b.png",
        "timestamp_s": 0.25,
        "size": [160, 120],
        "age_ms": 12.5,
        "stages_ms": {"capture": 1.5, "preprocess": 2.25, "inference": 4.0},
        "dropped": 3,
        "answered": 8,
        "accepted": False,
        "top": [
            {"label": 0, "name": "a cat", "probability": 0.75},
            {"label": 1, "name": "a dog", "probability": 0.2},
        ],
    }


def test_what_json_lacks_becomes_null():
    described = to_json(describe_answer(make_answer(top=(("x", float("nan")),))))
    assert json.loads(json.dumps(described, allow_nan=False))["top"][0]["probability"] is None


@given(st.text(st.characters()))
def test_nothing_of_a_name_is_obeyed(text):
    shown = escape_controls(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_escapes_say_what_was_there():
    assert escape_controls(HOSTILE) == r"\x1b[2J\x9b31m<b>x</b>\u202e\nname"
