"""How close answers are: as SciPy says, whatever a softmax does not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from alexnet_edge.similarity import centred_logits, mean_kl, sqnr_db

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 12))
SHIFTS = st.floats(-1000, 1000)
POSITIVE = st.floats(1e-90, 1e90)


def batches(shape, largest=50):
    return hnp.arrays(np.float32, shape, elements=st.floats(-largest, largest, width=32))


ONE = SHAPES.flatmap(batches)
PAIRS = SHAPES.flatmap(lambda shape: st.tuples(batches(shape), batches(shape)))


@given(ONE, SHIFTS)
def test_centring_removes_what_all_classes_share_and_nothing_else(logits, shift):
    centred = centred_logits(logits)
    assert centred.dtype == np.float64
    np.testing.assert_allclose(centred.mean(axis=1), 0, atol=1e-12)
    differences = logits - logits[:, :1].astype(np.float64)
    np.testing.assert_allclose(centred - centred[:, :1], differences, atol=1e-12)
    shifted = logits.astype(np.float64) + shift * np.arange(len(logits))[:, None]
    np.testing.assert_allclose(centred_logits(shifted), centred, atol=1e-9)


@given(SHAPES.flatmap(lambda shape: batches(shape, largest=15)))
def test_probabilities_give_the_logits_back(logits):
    probabilities = scipy.special.softmax(logits, axis=1)
    found = centred_logits(probabilities, probabilities=True)
    np.testing.assert_allclose(found, centred_logits(logits), atol=1e-4)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_probability_of_zero_is_a_very_small_one(kind):
    found = centred_logits(np.array([[1, 0, 0], [0.5, 0.5, 0]], kind), probabilities=True)
    np.testing.assert_allclose(found[:, 0] - found[:, 2], [87.34, 86.64], atol=0.01)


@pytest.mark.parametrize("probabilities", [False, True])
def test_answers_are_left_as_they_are(probabilities):
    answers = np.array([[0.25, 0.75, 0.0]])
    centred_logits(answers, probabilities=probabilities)
    mean_kl(answers, answers)
    assert answers.tolist() == [[0.25, 0.75, 0.0]]


@pytest.mark.parametrize(
    ("signal", "noise", "expected"),
    [(1, 1, 0), (100, 1, 20), (1, 1000, -30), (5, 0, None), (0, 0, None), (0, 2, -math.inf)],
)
def test_sqnr_in_decibels(signal, noise, expected):
    assert sqnr_db(signal, noise) == pytest.approx(expected)


@given(POSITIVE, POSITIVE)
def test_half_the_step_is_six_decibels_more(signal, noise):
    gained = sqnr_db(signal, noise / 4) - sqnr_db(signal, noise)
    assert gained == pytest.approx(20 * math.log10(2), abs=1e-9)
    assert sqnr_db(noise, signal) == pytest.approx(-sqnr_db(signal, noise), abs=1e-9)


@given(PAIRS)
def test_divergence_is_scipys(pair):
    p, q = (scipy.special.softmax(logits.astype(np.float64), axis=1) for logits in pair)
    expected = scipy.stats.entropy(p, q, axis=1).mean()
    assert mean_kl(*pair) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert mean_kl(*pair) > -1e-12


@given(ONE, SHIFTS, SHIFTS)
def test_answers_of_the_same_probabilities_do_not_diverge(logits, one, other):
    logits = logits.astype(np.float64)
    assert mean_kl(logits + one, logits + other) == pytest.approx(0, abs=1e-9)
    assert mean_kl(centred_logits(logits), logits) == pytest.approx(0, abs=1e-9)


@given(PAIRS)
def test_a_batch_has_the_mean_of_its_rows(pair):
    rows = [mean_kl(*(part[i : i + 1] for part in pair)) for i in range(len(pair[0]))]
    assert mean_kl(*pair) == pytest.approx(np.mean(rows), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("margin", [50, 1e4, 1e30])
def test_a_confident_mistake_costs_its_margin_and_overflows_nothing(margin):
    right, wrong = np.float32([[margin, 0, 0]]), np.float32([[0, margin, 0]])
    assert mean_kl(right, wrong) == pytest.approx(margin, rel=1e-6)
    assert mean_kl(right, right) == pytest.approx(0, abs=1e-12)


def test_divergence_depends_on_which_is_the_reference():
    sure, unsure = np.float32([[9, 0, 0]]), np.float32([[0, 0, 0]])
    assert mean_kl(sure, unsure) == pytest.approx(math.log(3), rel=0.01)
    assert mean_kl(unsure, sure) == pytest.approx(9 * 2 / 3 - math.log(3), rel=0.01)
