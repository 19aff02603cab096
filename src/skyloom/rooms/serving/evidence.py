"""Evidence that grows with every request and may be looked at as often as one likes. Pure arithmetic.

A coin that shows heads with a chance of at most ``p`` is watched. For any q > p the product of (q/p)^heads · ((1-q)/(1-p))^tails is a
supermartingale that starts at 1, and so is a mixture over many q; by Ville's inequality it ever reaches 1/a with a chance of at most a.
This is the mixture sequential probability ratio test (Robbins 1970, Ann. Math. Statist. 41; for experiments that are watched while they
run: Johari, Koomen, Pekelis and Walsh, "Always Valid Inference", Operations Research 2022), one-sided, and exact: no normal approximation.

Two revisions that share traffic are compared by their errors alone, as in Lindon and Malek, "Anytime-Valid Inference for Multinomial
Count Data" (NeurIPS 2022): requests are shared by chance, so if both err alike, an error belongs to the new one with the chance of its
share of the requests, whatever the rate is and however it changes with time. That is the coin.
"""

import math

_RATIO = math.sqrt(2.0)
_LARGEST_ODDS = 1_000.0


def log_evidence(heads: int, tails: int, p: float) -> float:
    """Log of the evidence that a coin shows heads with more than ``p``: reject at level a once it is above log(1/a).

    The mixture is even over odds that grow by √2 from those of ``p`` to 1000 to 1. 0 at the start; -inf never ends an experiment.
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie between 0 and 1, not {p}")
    terms: list[float] = []
    odds = p / (1.0 - p) * _RATIO
    while odds <= _LARGEST_ODDS or not terms:
        q = odds / (1.0 + odds)
        terms.append(heads * math.log(q / p) + tails * math.log((1.0 - q) / (1.0 - p)))
        odds *= _RATIO
    top = max(terms)
    return top + math.log(sum(math.exp(term - top) for term in terms) / len(terms))


def p_value(heads: int, tails: int, p: float) -> float:
    """Always-valid p-value of "heads come with at most ``p``"."""
    return math.exp(min(0.0, -log_evidence(heads, tails, p)))


def interval(heads: int, tails: int, level: float = 0.95) -> tuple[float, float]:
    """Bounds that hold the coin's chance with at least ``level``, at all times together (a confidence sequence)."""
    limit = math.log(2.0 / (1.0 - level))
    return _lower(heads, tails, limit), 1.0 - _lower(tails, heads, limit)


def chance_of_error(share: float, tolerance: float = 1.0) -> float:
    """The chance that an error belongs to a revision with that share of the requests, if its odds of erring are at most ``tolerance`` times
    the others'."""
    share = min(max(share, 1e-6), 1.0 - 1e-6)
    odds = tolerance * share / (1.0 - share)
    return odds / (1.0 + odds)


def _lower(heads: int, tails: int, limit: float) -> float:
    """The largest chance that is already rejected as too small, by bisection; 0 when none is."""
    low, high = 0.0, heads / (heads + tails) if heads else 0.0
    for _ in range(40):
        middle = (low + high) / 2.0
        if not 0.0 < middle < 1.0:
            break
        if log_evidence(heads, tails, middle) >= limit:
            low = middle
        else:
            high = middle
    return low
