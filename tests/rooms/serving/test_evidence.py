"""The sequential test: what it promises of false alarms, by counting all histories or by playing many; and that it finds what is there."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.rooms.serving.evidence import chance_of_error, interval, log_evidence, p_value

CHANCES = st.floats(0.001, 0.95)


@given(st.integers(0, 200), st.integers(0, 200), CHANCES)
def test_evidence_is_a_supermartingale_at_the_bound_and_below(heads, tails, p):
    """The mean of what the next toss makes of it is no more than it was: the whole of the proof, at each point of the way."""
    now = math.exp(log_evidence(heads, tails, p) - log_evidence(heads, tails, p))
    for true in (p, p / 2):
        after = true * math.exp(log_evidence(heads + 1, tails, p) - log_evidence(heads, tails, p))
        after += (1 - true) * math.exp(log_evidence(heads, tails + 1, p) - log_evidence(heads, tails, p))
        assert after <= now * (1 + 1e-9)


@given(CHANCES)
def test_evidence_begins_at_nothing(p):
    assert log_evidence(0, 0, p) == pytest.approx(0.0)


@given(st.integers(0, 300), st.integers(0, 300), CHANCES)
def test_evidence_grows_with_heads_and_shrinks_with_tails(heads, tails, p):
    found = log_evidence(heads, tails, p)
    assert log_evidence(heads + 1, tails, p) > found > log_evidence(heads, tails + 1, p)


def test_looking_all_the_time_raises_no_more_false_alarms_than_promised():
    dice, alarms, runs = random.Random(1), 0, 400
    for _ in range(runs):
        heads = 0
        for toss in range(1, 400):
            heads += dice.random() < 0.2
            if log_evidence(heads, toss - heads, 0.2) >= math.log(1 / 0.1):
                alarms += 1
                break
    assert alarms <= 0.1 * runs


def test_few_errors_are_enough_when_all_come_from_a_small_share():
    assert p_value(3, 0, chance_of_error(0.01)) < 0.001
    assert p_value(12, 0, chance_of_error(0.5)) < 0.01
    assert p_value(5, 95, chance_of_error(0.05)) > 0.3


@given(st.integers(0, 500), st.integers(0, 500))
def test_interval_holds_what_was_seen(heads, tails):
    low, high = interval(heads, tails)
    assert 0.0 <= low <= high <= 1.0
    if heads + tails:
        assert low <= heads / (heads + tails) <= high


def test_interval_narrows_with_what_is_seen():
    few, many = interval(5, 95), interval(500, 9_500)
    assert 0.005 < few[0] < many[0] < 0.05 < many[1] < few[1] < 0.2
    assert interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("p", [0.0, 1.0, -1.0, 2.0])
def test_bound_that_is_no_chance_is_refused(p):
    with pytest.raises(ValueError):
        log_evidence(1, 1, p)
