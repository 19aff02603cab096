"""How long gangs run, as far as anybody can know: from earlier ones, from what their user said, or from nothing.

A distribution is a row of quantiles. n of them split all outcomes into n + 1 equally likely parts, which is also what n earlier
durations do for the next one, whatever their distribution is (order statistics); so history needs no model once there is enough.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from statistics import NormalDist, fmean

import msgspec

# Beyond the largest quantile durations have a heavy tail (Pareto): what outlived all others may well go on for long.
_TAIL = 2.0
_NUM_QUANTILES = 99
_ENOUGH = 20  # with so many earlier durations, they are the distribution
_MAX_KEPT = 200
# What is believed of the spread before there is history: a factor of 2 either way, worth as much as three durations.
_SPREAD, _SPREAD_WEIGHT = 0.7, 3
_ANY_MEDIAN_S, _ANY_SPREAD = 600.0, 2.0
_SHORTEST_S = 1e-3


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    """How long a gang may run in all, with its fewest workers.

    Attributes:
        quantiles_s: ascending, more than 0; n of them stand at 1/(n+1), 2/(n+1), … n/(n+1).
        basis: what they are from, for people: "from 12 earlier jobs named train-digits".
    """

    quantiles_s: tuple[float, ...]
    basis: str = ""

    def share_by(self, elapsed_s: float) -> float:
        """The probability that it is done after so long."""
        values, parts = self.quantiles_s, len(self.quantiles_s) + 1
        if elapsed_s <= 0:
            return 0.0
        if elapsed_s >= values[-1]:
            return 1.0 - math.pow(elapsed_s / values[-1], -_TAIL) / parts
        place = bisect_right(values, elapsed_s)
        low, high = (values[place - 1] if place else 0.0), values[place]
        return (place + (elapsed_s - low) / (high - low)) / parts

    def at(self, share: float) -> float:
        """The duration by which that share of gangs is done. Inverse of `share_by`."""
        values, parts = self.quantiles_s, len(self.quantiles_s) + 1
        place = int(share * parts)
        if place >= len(values):
            return values[-1] * math.pow(max((1.0 - share) * parts, 1e-9), -1.0 / _TAIL)
        low = values[place - 1] if place else 0.0
        return low + (values[place] - low) * (share * parts - place)

    def left_s(self, elapsed_s: float, chance: float) -> float:
        """How long one that ran ``elapsed_s`` without being done still runs, by a chance between 0 and 1."""
        done = self.share_by(elapsed_s)
        return max(0.0, self.at(done + chance * (1.0 - done)) - elapsed_s)


def from_history(durations_s: Sequence[float], like: str) -> Durations:
    """What earlier durations, at least one and the newest last, say about the next. ``like`` ends the sentence "from 12 earlier …"."""
    kept = [max(_SHORTEST_S, value) for value in durations_s[-_MAX_KEPT:]]
    basis = f"from {len(kept)} earlier {like if len(kept) > 1 else like.replace('jobs', 'job', 1)}"
    if len(kept) >= _ENOUGH:
        return Durations(quantiles_s=_ascending(sorted(kept)), basis=basis)
    logs = [math.log(value) for value in kept]
    centre = fmean(logs)
    squares = sum((value - centre) ** 2 for value in logs)
    freedom = len(logs) - 1 + _SPREAD_WEIGHT
    spread = math.sqrt((squares + _SPREAD_WEIGHT * _SPREAD**2) / freedom * (1 + 1 / len(logs)))
    return Durations(quantiles_s=_lognormal(centre, spread, freedom), basis=basis)


def from_estimate(expected_s: float) -> Durations:
    """What a user's own estimate says: right within a factor of 2, mostly."""
    return Durations(
        quantiles_s=_lognormal(math.log(max(_SHORTEST_S, expected_s)), _SPREAD), basis="from its own estimate"
    )


def from_nothing() -> Durations:
    """What is known of a gang of which nothing is known: minutes, more likely than hours."""
    return Durations(
        quantiles_s=_lognormal(math.log(_ANY_MEDIAN_S), _ANY_SPREAD), basis="a guess: no earlier job is like it"
    )


def _lognormal(centre: float, spread: float, freedom: int | None = None) -> tuple[float, ...]:
    normal = NormalDist()
    steps = (normal.inv_cdf(part / (_NUM_QUANTILES + 1)) for part in range(1, _NUM_QUANTILES + 1))
    return _ascending([math.exp(centre + spread * (_student(step, freedom) if freedom else step)) for step in steps])


def _student(step: float, freedom: int) -> float:
    """The quantile of Student's t at which the normal one is ``step`` (Abramowitz and Stegun 26.7.5; good from 3 degrees on)."""
    x, square = step, step * step
    terms = (
        x * (square + 1) / 4,
        x * ((5 * square + 16) * square + 3) / 96,
        x * (((3 * square + 19) * square + 17) * square - 15) / 384,
    )
    return x + sum(term / math.pow(freedom, power) for power, term in enumerate(terms, 1))


def _ascending(values: Sequence[float]) -> tuple[float, ...]:
    """The same values, each a little above the one before: equal ones would make a step that cannot be inverted."""
    kept: list[float] = []
    for value in values:
        kept.append(max(value, kept[-1] * (1 + 1e-9)) if kept else value)
    return tuple(kept)
