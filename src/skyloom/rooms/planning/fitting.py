"""From measurements to a time model: fit each candidate law, weigh them by evidence, and keep all that could be true.

Errors count in percent of the time that was measured, since that is how people judge a prediction. No law is chosen for good: each
is weighed by a criterion for small samples and the prediction is the weighted mean (Burnham & Anderson, 2002), so that where the
measurements cannot tell two laws apart, the interval shows it.
"""

import math
from collections.abc import Sequence

import msgspec

from skyloom.ports.curves import Curves, LinearFit
from skyloom.rooms.planning.model import Law, Measurement, TimeModel
from skyloom.rooms.planning.terms import Load, Term, candidates, row

# Measurements that agree by chance prove no precision: what is known before is a noise of half a percent, worth one measurement.
PRIOR_NOISE, PRIOR_DEGREES = 0.005, 1.0
_LEAST_WEIGHT = 0.01


def fit(measurements: Sequence[Measurement], curves: Curves) -> TimeModel:
    """Fit a time model. The measurements are checked already (`checking.check`)."""
    by_batch = len({one.batch_size for one in measurements}) > 1
    loads = [load_of(one) for one in measurements]
    seconds = [one.seconds for one in measurements]
    laws = [law for terms in candidates(by_batch=by_batch) if (law := _law(terms, loads, seconds, curves))]
    best = min(criterion for _, criterion in laws)
    weights = [math.exp(-(criterion - best) / 2) for _, criterion in laws]
    kept = [(law, weight) for (law, _), weight in zip(laws, weights, strict=True) if weight >= _LEAST_WEIGHT]
    whole = sum(weight for _, weight in kept)
    ordered = tuple(
        msgspec.structs.replace(law, weight=weight / whole) for law, weight in sorted(kept, key=lambda pair: -pair[1])
    )
    return TimeModel(
        terms={term: value for term, value in ordered[0].coefficients.items() if value > 0},
        noise_share=math.sqrt(sum(law.weight * law.noise_share**2 for law in ordered)),
        laws=ordered,
        num_measurements=len(measurements),
        measured_workers=tuple(sorted({one.workers for one in measurements})),
        by_batch=by_batch,
    )


def load_of(measurement: Measurement) -> Load:
    """What was measured, without the time it took."""
    return Load(
        workers=measurement.workers,
        data_fraction=measurement.data_fraction,
        batch_size=measurement.batch_size or 0,
    )


def _law(
    terms: tuple[Term, ...], loads: Sequence[Load], seconds: Sequence[float], curves: Curves
) -> tuple[Law, float] | None:
    """One candidate and its criterion (smaller is better); None when the measurements cannot tell its terms apart."""
    rows = [row(terms, load) for load in loads]
    if any(not any(place[at] for place in rows) for at in range(len(terms))):
        return None
    found, expected = None, list(seconds)
    # First in percent of what was measured, then of what is expected: the noise must not choose the weights.
    for _ in range(2):
        found = curves.fit(
            [[value / by for value in one] for one, by in zip(rows, expected, strict=True)],
            [value / by for value, by in zip(seconds, expected, strict=True)],
        )
        if found.rank < len(terms):
            return None
        expected = [max(_sum(found.coefficients, one), 1e-3 * value) for one, value in zip(rows, seconds, strict=True)]
    assert found is not None
    return _judged(terms, found, len(loads))


def _judged(terms: tuple[Term, ...], found: LinearFit, count: int) -> tuple[Law, float]:
    degrees = PRIOR_DEGREES + max(0, count - len(terms))
    known = found.residual_sum + PRIOR_DEGREES * PRIOR_NOISE**2
    effective = count + PRIOR_DEGREES
    # Bayes' criterion with the noise integrated out under its prior.
    criterion = effective * math.log(known / effective) + len(terms) * math.log(effective)
    law = Law(
        weight=1.0,
        coefficients=dict(zip(terms, found.coefficients, strict=True)),
        spread=found.spread,
        noise_share=math.sqrt(known / degrees),
        degrees=degrees,
    )
    return law, criterion


def _sum(coefficients: Sequence[float], values: Sequence[float]) -> float:
    return sum(weight * value for weight, value in zip(coefficients, values, strict=True))
