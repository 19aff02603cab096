"""Pure: where a month is going, by what the last days cost.

The days to come are taken for draws from the same distribution as the last whole ones, so what n of them will cost has the mean n·m and,
with m itself estimated from k days, the deviation s·√(n + n²/k); its quantiles are Student's t with k - 1 degrees of freedom (the
prediction interval for a sum; e.g. Hahn and Meeker, Statistical Intervals, 1991, chapter 4).
"""

import itertools
import math
import operator
import statistics
from collections.abc import Sequence

from skyloom.core.money import Money
from skyloom.rooms.cost.model import CostForecast

MIN_DAYS = 3
MAX_DAYS = 28
# The 95 % quantile of Student's t, for 1, 2, … degrees of freedom: nine times of ten a draw is between its two sides.
_T_95 = (
    6.314,
    2.920,
    2.353,
    2.132,
    2.015,
    1.943,
    1.895,
    1.860,
    1.833,
    1.812,
    1.796,
    1.782,
    1.771,
    1.761,
    1.753,
    1.746,
    1.740,
    1.734,
    1.729,
    1.725,
    1.721,
    1.717,
    1.714,
    1.711,
    1.708,
    1.706,
    1.703,
)


def forecast(month: str, spent: Money, days: Sequence[Money], days_left: float) -> CostForecast:
    """Say what a month will have cost.

    Args:
        spent: in this month so far.
        days: what each of the last whole days cost, oldest first; only the newest `MAX_DAYS` count, and those before the first that cost
            anything do not.
        days_left: until the month's end, the rest of today included.
    """
    recent = list(itertools.dropwhile(operator.not_, (day.nano_usd for day in days[-MAX_DAYS:])))
    if not recent:
        return CostForecast(
            month=month,
            spent=spent,
            expected=spent,
            num_days=0,
            message="There is no whole day to go by yet: this is what was spent so far.",
        )
    mean = statistics.fmean(recent)
    expected = spent.nano_usd + mean * days_left
    if len(recent) < MIN_DAYS:
        return CostForecast(
            month=month,
            spent=spent,
            expected=Money(round(expected)),
            num_days=len(recent),
            message=f"By {len(recent)} whole day{'s' if len(recent) > 1 else ''} only, so nobody can say how far off it may be.",
        )
    spread = statistics.stdev(recent) * math.sqrt(days_left + days_left**2 / len(recent))
    reach = _T_95[len(recent) - 2] * spread
    return CostForecast(
        month=month,
        spent=spent,
        expected=Money(round(expected)),
        low=Money(round(max(spent.nano_usd, expected - reach))),
        high=Money(round(expected + reach)),
        num_days=len(recent),
        message=f"If the days to come are like the last {len(recent)}; nine times of ten it ends in between.",
    )
