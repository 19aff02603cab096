"""From a time model to an estimate with its interval: between the laws, in the coefficients, and in one run's own luck."""

import math

from skyloom.ports.curves import Curves
from skyloom.rooms.planning.model import Estimate, Law, TimeModel
from skyloom.rooms.planning.terms import Load, row

CONFIDENCE = 0.9
_WIDEST = math.log(100.0)  # an interval wider than a hundredfold says no more


def seconds(model: TimeModel, load: Load) -> float:
    """The expected time: the geometric mean of the laws, so that one of them alone cannot make it absurd far from the measurements."""
    return math.exp(sum(law.weight * math.log(_expected(law, load)) for law in model.laws))


def estimate(model: TimeModel, load: Load, curves: Curves, confidence: float = CONFIDENCE) -> Estimate:
    """The expected time and the interval in which one run ends with the given probability, if the model holds."""
    middle = seconds(model, load)
    # In logarithms, so that no bound is ever below zero.
    variance = sum(
        law.weight * (_relative_variance(law, load) + math.log(_expected(law, load) / middle) ** 2)
        for law in model.laws
    )
    variance += model.run_noise_share**2
    degrees = sum(law.weight * law.degrees for law in model.laws)
    reach = min(_WIDEST, curves.t_quantile((1 + confidence) / 2, degrees) * math.sqrt(variance))
    return Estimate(
        workers=load.workers,
        batch_size=load.batch_size or None,
        seconds=middle,
        low_s=middle * math.exp(-reach),
        high_s=middle * math.exp(reach),
    )


def _expected(law: Law, load: Load) -> float:
    values = row(tuple(law.coefficients), load)
    return max(1e-9, sum(weight * value for weight, value in zip(law.coefficients.values(), values, strict=True)))


def _relative_variance(law: Law, load: Load) -> float:
    """Of one future run: its own noise, and what the measurements left open of the coefficients (the leverage)."""
    expected = _expected(law, load)
    shares = [value / expected for value in row(tuple(law.coefficients), load)]
    leverage = sum(one * other * law.spread[i][j] for i, one in enumerate(shares) for j, other in enumerate(shares))
    return law.noise_share**2 * (1 + max(0.0, leverage))
