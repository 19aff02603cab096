import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.core.money import Money
from skyloom.rooms.cost.forecast import MAX_DAYS, MIN_DAYS, forecast

AMOUNTS = st.integers(1, 10**15).map(Money)


@given(AMOUNTS, st.lists(AMOUNTS, max_size=40), st.floats(0, 31))
def test_forecast_is_never_below_what_was_spent_and_inside_its_interval(
    spent: Money, days: list[Money], days_left: float
):
    made = forecast("2026-01", spent, days, days_left)
    assert made.expected >= made.spent == spent
    assert (made.low is None) is (made.high is None) is (len(days) < MIN_DAYS)
    if made.low is not None and made.high is not None:
        assert spent <= made.low <= made.expected <= made.high
    assert made.num_days == min(len(days), MAX_DAYS)


def test_forecast_of_equal_days_is_certain():
    made = forecast("2026-01", Money(100), [Money(10)] * 5, 7)
    assert (made.low, made.expected, made.high) == (Money(170), Money(170), Money(170))


def test_forecast_counts_days_from_the_first_that_cost_anything():
    days = [Money(10), Money(0), Money(20)]
    assert forecast("2026-01", Money(100), [Money(0)] * 4 + days, 7) == forecast("2026-01", Money(100), days, 7)


@pytest.mark.parametrize("num_days", [0, 1, 2])
def test_forecast_with_little_history_says_so(num_days: int):
    made = forecast("2026-01", Money(100), [Money(10)] * num_days, 10)
    assert made.expected == Money(100 + (100 if num_days else 0))
    assert made.high is None
    assert ("no whole day" in made.message) is (num_days == 0)
    assert ("nobody can say" in made.message) is (num_days > 0)


@pytest.mark.parametrize("num_days", [3, 7, 28])
def test_forecast_holds_nine_times_of_ten(num_days: int):
    dice = random.Random(num_days)

    def a_day() -> Money:
        return Money(round(dice.gauss(100, 15) * 10**9))

    held = 0
    for _ in range(2_000):
        made = forecast("2026-01", Money(0), [a_day() for _ in range(num_days)], 10)
        truth = Money(sum(a_day().nano_usd for _ in range(10)))
        held += made.low is not None and made.high is not None and made.low <= truth <= made.high
    assert 0.88 < held / 2_000 < 0.92
