"""What a machine tells of itself, for a profile to be held against."""

from __future__ import annotations

import pytest

from alexnet_edge import machine
from alexnet_edge.engine.target import TargetFacts, jetpack_of, read_target_facts


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ((32, 7, 4), (4, 6, 4)),
        ((35, 4, 1), (5, 1, 2)),
        ((36, 3), (6,)),
        ((36, 3, 0), (6,)),
        ((36, 4, 0), (6, 1)),
        ((36, 4, 3), (6, 2)),
        ((36, 5), (6, 2, 2)),
        ((39, 2), (7, 2)),
    ],
)
def test_jetpack_is_told_by_the_l4t_release(l4t, jetpack):
    assert jetpack_of(l4t) == jetpack


def test_unknown_revision_is_the_latest_jetpack_known_before_it():
    assert jetpack_of((36, 4, 7)) == jetpack_of((36, 4, 4)) == (6, 2, 1)
    assert jetpack_of((39, 2, 1)) == (7, 2)


@pytest.mark.parametrize("l4t", [None, (99, 1), (28, 2), (36, 2)])
def test_nothing_is_said_of_an_unknown_release(l4t):
    assert jetpack_of(l4t) is None


@pytest.mark.parametrize(("gpu", "version"), [((8, 7), (8, 7)), ((9, 0), (9,))])
def test_facts_compare_with_what_a_profile_states(monkeypatch, gpu, version):
    monkeypatch.setattr(machine, "l4t_release", lambda: (36, 4, 3))
    facts = read_target_facts(compute_capability=gpu, tensorrt="10.3.0.30")
    assert facts == TargetFacts(version, (6, 2), (10, 3, 0, 30))


def test_what_a_machine_does_not_tell_is_left_open(monkeypatch):
    monkeypatch.setattr(machine, "l4t_release", lambda: None)
    assert read_target_facts() == TargetFacts(None, None, None)
