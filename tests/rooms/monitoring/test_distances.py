import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from skyloom.rooms.monitoring.distances import (
    chi_square,
    chi_square_by_chance,
    gap_by_chance,
    largest_gap,
    population_stability,
    shares,
    stability_by_chance,
)
from skyloom.rooms.monitoring.model import Histogram

COUNTS = st.lists(st.integers(0, 5_000), min_size=6, max_size=6)


def histogram(counts: list[int], missing: int = 0) -> Histogram:
    return Histogram(counts=tuple(counts), missing=missing)


HISTOGRAMS = st.builds(histogram, COUNTS, st.integers(0, 50))


def test_population_stability_of_a_worked_example_is_the_sum_by_hand():
    # Shares 10, 20, 30, 40% against 40, 30, 20, 10%: twice 0.3·ln 4 + 0.1·ln 1.5. Large counts make the smoothing vanish.
    before = histogram([10**8, 2 * 10**8, 3 * 10**8, 4 * 10**8])
    after = histogram([4 * 10**8, 3 * 10**8, 2 * 10**8, 10**8])
    assert population_stability(before, after) == pytest.approx(2 * (0.3 * math.log(4) + 0.1 * math.log(1.5)), rel=1e-6)


def test_population_stability_with_an_empty_bin_is_large_and_finite():
    assert 1 < population_stability(histogram([500, 500, 0]), histogram([0, 500, 500])) < 20


def test_population_stability_sees_values_that_went_missing():
    assert population_stability(histogram([500, 500]), histogram([250, 250], missing=500)) > 0.2


@given(HISTOGRAMS, HISTOGRAMS)
def test_population_stability_is_symmetric_and_never_negative(first: Histogram, second: Histogram):
    assert population_stability(first, second) == pytest.approx(population_stability(second, first))
    assert population_stability(first, second) >= 0
    assert population_stability(first, first) == 0


def test_stability_by_chance_is_exceeded_by_healthy_samples_as_rarely_as_it_says():
    rng, even = np.random.default_rng(19), [0.05] * 20
    pairs = [(rng.multinomial(2_000, even), rng.multinomial(300, even)) for _ in range(4_000)]
    bins = [(histogram(first.tolist()), histogram(second.tolist())) for first, second in pairs]
    beyond = sum(population_stability(*pair) > stability_by_chance(*pair, 0.01) for pair in bins)
    assert 0.002 <= beyond / len(bins) <= 0.015


@given(st.lists(st.integers(0, 30), min_size=2, max_size=80), st.lists(st.integers(0, 30), min_size=2, max_size=80))
def test_largest_gap_with_an_edge_at_every_value_equals_scipy(first: list[int], second: list[int]):
    def binned(values: list[int]) -> Histogram:
        return histogram(np.bincount(values, minlength=31).tolist())

    expected = stats.ks_2samp(first, second, method="asymp").statistic
    assert largest_gap(binned(first), binned(second)) == pytest.approx(expected)


def test_largest_gap_with_coarse_bins_is_a_lower_bound():
    rng = np.random.default_rng(3)
    for _ in range(50):
        first, second = rng.normal(size=300), rng.normal(rng.uniform(0, 1), 1, size=200)
        edges = np.sort(rng.normal(size=5))
        bins = [histogram(np.histogram(values, [-np.inf, *edges, np.inf])[0].tolist()) for values in (first, second)]
        assert largest_gap(*bins) <= stats.ks_2samp(first, second).statistic + 1e-12


@pytest.mark.parametrize("significance", [0.05, 0.01, 1e-3, 1e-5])
def test_gap_by_chance_is_where_scipys_limit_law_has_that_probability(significance: float):
    num_expected, num_seen = 4_000, 350
    gap = gap_by_chance(num_expected, num_seen, significance)
    size = num_expected * num_seen / (num_expected + num_seen)
    # The law is an alternating series whose first term is ours; the others only lower the probability.
    exact = stats.kstwobign.sf(gap * math.sqrt(size))
    assert exact <= significance + 1e-12
    assert exact == pytest.approx(significance, rel=0.01)


@given(HISTOGRAMS, HISTOGRAMS)
def test_chi_square_of_two_samples_equals_scipys_contingency_table(first: Histogram, second: Histogram):
    table = np.array([(*first.counts, first.missing), (*second.counts, second.missing)])
    table = table[:, table.sum(axis=0) > 0]
    if not first.total or not second.total:
        assert chi_square(first, second) == (0.0, 0)
    elif table.shape[1] > 1:
        expected = stats.chi2_contingency(table, correction=False)
        assert chi_square(first, second) == (pytest.approx(expected.statistic, abs=1e-6), expected.dof)


@pytest.mark.parametrize("significance", [1e-3, 1e-4, 1e-5, 1e-7])
def test_chi_square_by_chance_is_never_below_the_exact_quantile_and_at_most_a_fifth_above(significance: float):
    for degrees in range(1, 202):
        exact = stats.chi2.isf(significance, degrees)
        assert exact <= chi_square_by_chance(degrees, significance) <= 1.2 * exact


def test_distances_of_nothing_seen_never_alarm():
    nothing, something = histogram([0, 0, 0]), histogram([5, 5, 5])
    assert population_stability(something, nothing) == 0
    assert largest_gap(something, nothing) == 0
    assert gap_by_chance(15, 0, 1e-3) == math.inf
    assert stability_by_chance(something, nothing, 1e-3) == math.inf
    assert chi_square_by_chance(0, 1e-3) == math.inf
    assert shares(nothing) == (0, 0, 0)
