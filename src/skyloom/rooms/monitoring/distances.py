"""How far apart two histograms over the same edges are, and how far chance alone would put them.

Pure arithmetic on counts, standard library only. Missing values (NaN) are one more bin, after the last.

Formulas:
- PSI: S. Lewis, "An Introduction to Credit Scoring" (1994); the same sum as Jeffreys' divergence (1946), eq. (1).
- KS and its two-sample asymptotic critical value: N. Smirnov, Ann. Math. Stat. 19 (1948) 279.
- Two-sample chi-square for unequal totals: Press et al., "Numerical Recipes", 3rd ed. (2007), section 14.3.
- What chance gives PSI: B. Yurdakul, "Statistical Properties of Population Stability Index" (2018), theorem 3.2.
- Chi-square quantile: E. Wilson and M. Hilferty, PNAS 17 (1931) 684.
"""

import itertools
import math
from statistics import NormalDist

from skyloom.rooms.monitoring.model import Histogram

_PSEUDO_COUNT = 0.5  # added to every bin, so that an empty bin is "rarer than once" and not infinitely surprising


def population_stability(expected: Histogram, seen: Histogram) -> float:
    """Return the population stability index: the sum of ``(q - p) · ln(q / p)`` over the bins.

    Zero for equal shares, symmetric, never negative. By custom below 0.1 is nothing and above 0.2 is a shift. Each bin's count is
    raised by one half before shares are taken (Krichevsky and Trofimov's estimator), which also pulls the index of very small
    samples towards zero instead of towards an alarm. Zero when either side is empty.
    """
    first, second = _bins(expected), _bins(seen)
    if not sum(first) or not sum(second):
        return 0.0
    return math.fsum(
        (q - p) * math.log(q / p) for p, q in zip(_smoothed_shares(first), _smoothed_shares(second), strict=True)
    )


def stability_by_chance(expected: Histogram, seen: Histogram, significance: float) -> float:
    """Return the stability index that two samples of one distribution exceed with about probability ``significance``.

    Without a shift, the index is close to ``(1 / n + 1 / m)`` times a chi-square with one degree of freedom less than there are bins
    in use. Infinite when either sample is empty.
    """
    used = sum(1 for a, b in zip(_bins(expected), _bins(seen), strict=True) if a + b)
    if not expected.total or not seen.total:
        return math.inf
    return chi_square_by_chance(used - 1, significance) * (1 / expected.total + 1 / seen.total)


def largest_gap(expected: Histogram, seen: Histogram) -> float:
    """Return the largest gap of the two cumulative distributions, read at the bin edges: the Kolmogorov-Smirnov distance.

    Within a bin the true gap may be larger, so this is a lower bound of the distance of the samples: whatever exceeds
    `gap_by_chance` here exceeds it there too. Binning costs power, never validity. Zero when either side is empty.
    """
    first, second = _bins(expected), _bins(seen)
    total_first, total_second = sum(first), sum(second)
    if not total_first or not total_second:
        return 0.0
    below = zip(itertools.accumulate(first), itertools.accumulate(second), strict=True)
    return max(abs(a / total_first - b / total_second) for a, b in below)


def gap_by_chance(num_expected: int, num_seen: int, significance: float) -> float:
    """Return the gap that two samples of one distribution exceed with at most probability ``significance``.

    ``sqrt(-ln(significance / 2) / 2) · sqrt(1 / n + 1 / m)``; infinite when either sample is empty. Ties and bins make the true
    probability smaller.
    """
    if not num_expected or not num_seen:
        return math.inf
    return math.sqrt(-math.log(significance / 2) / 2 * (1 / num_expected + 1 / num_seen))


def chi_square(expected: Histogram, seen: Histogram) -> tuple[float, int]:
    """Return the two-sample chi-square statistic and its degrees of freedom; for bins without an order (classes).

    ``Σ (sqrt(m/n) · a - sqrt(n/m) · b)² / (a + b)`` over bins where either count is not zero. (0, 0) when either side is empty.
    """
    pairs = [(a, b) for a, b in zip(_bins(expected), _bins(seen), strict=True) if a + b]
    total_first, total_second = sum(a for a, _ in pairs), sum(b for _, b in pairs)
    if not total_first or not total_second:
        return 0.0, 0
    weight = math.sqrt(total_second / total_first)
    return math.fsum((weight * a - b / weight) ** 2 / (a + b) for a, b in pairs), len(pairs) - 1


def chi_square_by_chance(degrees: int, significance: float) -> float:
    """Return the chi-square value that chance exceeds with probability ``significance``, by Wilson and Hilferty's cube.

    For significances from 1e-3 to 1e-7 never below the exact quantile and at most a fifth above it (one degree, 1e-7): it errs
    towards no alarm. Infinite without a degree of freedom.
    """
    if degrees < 1:
        return math.inf
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + NormalDist().inv_cdf(1 - significance) * math.sqrt(spread)) ** 3


def shares(histogram: Histogram) -> tuple[float, ...]:
    """Return the share of each bin (without the missing values) of all that was counted; zeros when nothing was."""
    total = histogram.total
    return tuple(count / total if total else 0.0 for count in histogram.counts)


def _bins(histogram: Histogram) -> tuple[int, ...]:
    return (*histogram.counts, histogram.missing)


def _smoothed_shares(bins: tuple[int, ...]) -> list[float]:
    total = sum(bins) + _PSEUDO_COUNT * len(bins)
    return [(count + _PSEUDO_COUNT) / total for count in bins]
