"""What is believed of durations: that it is a distribution, and that it is right as often as it says."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.rooms.scheduling.durations import Durations, from_estimate, from_history, from_nothing

LENGTHS = st.floats(0.01, 1e6)
HISTORIES = st.lists(LENGTHS, min_size=1, max_size=60)


@given(HISTORIES, st.floats(0.001, 0.999))
def test_durations_and_shares_are_each_others_inverse(history: list[float], share: float) -> None:
    known = from_history(history, "jobs")
    assert known.share_by(known.at(share)) == pytest.approx(share, abs=1e-6)


@given(HISTORIES, st.lists(st.floats(0, 1e7), min_size=2, max_size=2))
def test_more_time_never_means_fewer_done(history: list[float], moments: list[float]) -> None:
    known = from_history(history, "jobs")
    early, late = sorted(moments)
    assert 0 <= known.share_by(early) <= known.share_by(late) <= 1


@given(HISTORIES, st.floats(0, 1e7), st.floats(0, 1))
def test_rest_is_never_negative_and_always_a_number(history: list[float], elapsed_s: float, chance: float) -> None:
    left_s = from_history(history, "jobs").left_s(elapsed_s, chance)
    assert 0 <= left_s < math.inf


def test_long_history_is_its_own_distribution() -> None:
    known = from_history([float(value) for value in range(99, 0, -1)], "jobs named nightly")
    assert known.at(0.5) == pytest.approx(50)
    assert known.at(0.9) == pytest.approx(90)
    assert known.basis == "from 99 earlier jobs named nightly"


def test_history_counts_only_its_newest_part() -> None:
    assert from_history([1e6] * 300 + [10.0] * 200, "jobs").at(0.5) == pytest.approx(10, rel=1e-3)


def test_one_that_ran_longer_than_all_others_is_given_more_by_how_long_it_ran() -> None:
    known = from_history([100.0] * 30, "jobs")
    assert known.left_s(1_000, 0.5) == pytest.approx(1_000 * (2**0.5 - 1))


def test_estimates_are_believed_within_a_factor_and_nothing_within_hours() -> None:
    known = from_estimate(100)
    assert known.at(0.5) == pytest.approx(100)
    assert 35 < known.at(0.1) < 45
    assert from_nothing().at(0.9) / from_nothing().at(0.1) > 100
    assert "guess" in from_nothing().basis


@pytest.mark.parametrize("num_earlier", [1, 3, 8, 19, 20, 60])
def test_next_duration_is_between_early_and_late_in_eighty_of_a_hundred(num_earlier: int) -> None:
    """Jobs of many names: each name has its own length, and its own spread as it is believed of spreads."""
    chance = random.Random(num_earlier)
    hits, tries = 0, 1_500
    for _ in range(tries):
        centre, spread = chance.gauss(6, 2), 0.7 * math.sqrt(3 / chance.gammavariate(1.5, 2))
        drawn = [chance.lognormvariate(centre, spread) for _ in range(num_earlier + 1)]
        known = from_history(drawn[:-1], "jobs")
        hits += known.at(0.1) <= drawn[-1] <= known.at(0.9)
    assert hits / tries == pytest.approx(0.8, abs=0.035)


@pytest.mark.parametrize("known", [from_history([5.0, 5.0, 5.0], "jobs"), Durations(quantiles_s=(1.0,))])
def test_durations_that_are_all_equal_or_one_still_are_a_distribution(known: Durations) -> None:
    for share in (0.01, 0.3, 0.5, 0.8, 0.99):
        assert known.share_by(known.at(share)) == pytest.approx(share, abs=1e-6)
