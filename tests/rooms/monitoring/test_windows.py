import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.rooms.monitoring.model import Histogram, Latency, Traffic
from skyloom.rooms.monitoring.packed import packed
from skyloom.rooms.monitoring.windows import (
    Bounds,
    Report,
    Ring,
    latency_quantile,
    merge_histograms,
    merge_traffic,
    observed,
    recent,
    recent_rows,
)

SMALL = st.integers(0, 1_000)
HISTOGRAMS = st.builds(Histogram, counts=st.tuples(SMALL, SMALL, SMALL), missing=SMALL)
LATENCIES = st.builds(Latency, counts=st.dictionaries(st.integers(0, 100), st.integers(1, 1_000), max_size=8))
TRAFFIC = st.builds(
    Traffic,
    requests=SMALL,
    rows=SMALL,
    client_errors=SMALL,
    server_errors=SMALL,
    latency=LATENCIES,
    histograms=st.tuples(HISTOGRAMS, HISTOGRAMS) | st.just(()),
)
KEEP_ALL = Bounds(spacing_s=0, horizon_s=1e9, limit=10_000)


def requests(count: int, rows: int | None = None) -> Traffic:
    return Traffic(requests=count, rows=count if rows is None else rows)


def ring_of(*reports: tuple[float, Traffic], bounds: Bounds = KEEP_ALL, started_at: float | None = None) -> Ring:
    ring = Ring()
    for at, traffic in reports:
        ring = observed(ring, Report(at=at, traffic=traffic), bounds, started_at=started_at)
    return ring


@given(TRAFFIC, TRAFFIC, TRAFFIC)
def test_merging_is_associative_and_commutative_and_an_empty_one_changes_nothing(a: Traffic, b: Traffic, c: Traffic):
    assert merge_traffic(merge_traffic(a, b), c) == merge_traffic(a, merge_traffic(b, c))
    assert merge_traffic(a, b) == merge_traffic(b, a)
    assert merge_traffic(a, Traffic()) == merge_traffic(Traffic(), a)
    assert merge_traffic(a, Traffic()).rows == a.rows


def test_merging_histograms_of_different_profiles_raises():
    with pytest.raises(ValueError, match="argument"):
        merge_histograms(Histogram(counts=(1, 2)), Histogram(counts=(1, 2, 3)))


@given(TRAFFIC, TRAFFIC)
def test_traffic_between_two_reports_is_what_was_added(before: Traffic, added: Traffic):
    after = merge_traffic(before, added)
    difference = recent([ring_of((0, before), (1, after))], 1, 1e6).traffic
    assert merge_traffic(before, difference) == after


@given(TRAFFIC, TRAFFIC)
def test_traffic_between_any_two_reports_is_never_negative(before: Traffic, after: Traffic):
    difference = recent([ring_of((0, before), (1, after))], 1, 1e6).traffic
    numbers = [difference.requests, difference.rows, difference.client_errors, difference.server_errors]
    numbers += difference.latency.counts.values()
    numbers += [count for histogram in difference.histograms for count in (*histogram.counts, histogram.missing)]
    assert min(numbers) >= 0


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_replica_that_restarts_has_all_its_lives_counted(lives: list[list[int]]):
    reports, clock, seen = [(0.0, requests(0))], 0.0, 0
    for life in lives:
        total = 0
        for added in life:
            clock, total = clock + 1, total + added
            reports.append((clock, requests(total)))
        seen += total
        # The next life must look like one: its first report has to be smaller than this life's last.
        reports.append((clock := clock + 1, requests(0)))
    assert recent([ring_of(*reports)], clock, 1e6).traffic.requests == seen


def test_latency_quantile_is_at_most_a_quarter_too_long_and_never_too_short():
    durations = np.random.default_rng(5).lognormal(-6, 1, 5_000)
    places, counts = np.unique(np.floor(np.log(durations / 1e-6) / np.log(1.25)).astype(int), return_counts=True)
    latency = Latency(counts=dict(zip(places.tolist(), counts.tolist(), strict=True)))
    for share in (0.5, 0.9, 0.99, 1.0):
        exact = float(np.quantile(durations, share, method="inverted_cdf"))
        found = latency_quantile(latency, share)
        assert found is not None
        assert exact <= found <= 1.25 * exact * (1 + 1e-9)
    assert latency_quantile(Latency(), 0.5) is None


def test_recent_window_divides_by_the_time_it_really_covers():
    ring = ring_of((100, requests(10)), (160, requests(70)), (190, requests(100)))
    window = recent([ring], now=200, duration_s=60)
    assert (window.since, window.traffic.requests) == (100, 90)  # the last report before 140 is that of 100
    assert window.duration_s == 100


def test_recent_window_of_a_known_start_counts_the_first_report_whole():
    assert recent([ring_of((100, requests(10)))], 100, 60).traffic.requests == 0
    fresh = ring_of((100, requests(10)), started_at=90)
    assert recent([fresh], 100, 60).traffic.requests == 10
    assert recent([fresh], 100, 60).since == 90


def test_recent_window_adds_replicas_and_forgets_one_that_died_long_ago():
    alive = ring_of((100, requests(0)), (200, requests(50)))
    dead = ring_of((100, requests(0)), (110, requests(9)))
    assert recent([alive, dead], 205, 300).traffic.requests == 59
    assert recent([alive, dead], 205, 50).traffic.requests == 50


def test_recent_window_without_any_replica_is_empty():
    assert recent([], 100, 60).traffic == Traffic()
    assert recent_rows([], 100, 200, 900).traffic == Traffic()


def test_recent_rows_takes_the_shortest_window_with_enough():
    ring = ring_of((0, requests(0)), (10, requests(1_000)), (20, requests(1_150)), (30, requests(1_300)))
    assert recent_rows([ring], 31, 200, 900).traffic.rows == 300
    assert recent_rows([ring], 31, 150, 900).traffic.rows == 150
    assert recent_rows([ring], 31, 301, 900).traffic.rows == 1_300
    assert recent_rows([ring], 31, 5_000, 900).traffic.rows == 1_300


@given(st.lists(st.tuples(st.floats(0.1, 20), st.integers(0, 9)), max_size=80))
def test_ring_stays_bounded_and_loses_no_count(steps: list[tuple[float, int]]):
    bounds = Bounds(spacing_s=5, horizon_s=60, limit=16)
    ring, now, total = ring_of((0, requests(0)), bounds=bounds), 0.0, 0
    for pause, added in steps:
        now, total = now + pause, total + added
        ring = observed(ring, Report(at=now, traffic=requests(total)), bounds)
        assert len(ring.reports) <= bounds.limit
        assert ring.reports[-1].traffic.requests == total
        assert sum(report.at < now - bounds.horizon_s for report in ring.reports) <= 1


def test_ring_of_an_hour_at_one_report_a_second_reaches_back_to_the_horizon_in_few_reports():
    bounds, ring = Bounds(), Ring()
    for second in range(3_600):
        ring = observed(ring, Report(at=float(second), traffic=requests(10 * second)), bounds)
    assert len(ring.reports) < bounds.limit
    for asked_s in (5, 60, 300, 900):
        window = recent([ring], 3_599.0, asked_s)
        assert asked_s <= window.duration_s <= asked_s * 13 / 12 + 2 * bounds.spacing_s
        assert window.traffic.requests == 10 * window.duration_s


def test_ring_ignores_a_report_that_comes_late_or_twice():
    ring = ring_of((0, requests(0)), (10, requests(5)))
    assert observed(ring, Report(at=10, traffic=requests(7)), KEEP_ALL) == ring
    assert observed(ring, Report(at=4, traffic=requests(2)), KEEP_ALL) == ring


def test_ring_of_a_replica_with_another_profile_starts_over():
    old = Traffic(requests=5, histograms=(Histogram(counts=(5, 0)),))
    new = Traffic(requests=6, histograms=(Histogram(counts=(5, 0, 1)),))
    assert len(ring_of((0, old), (10, new)).reports) == 1


def test_ring_of_a_quarter_hour_takes_few_bytes():
    counts = [[0] * 12 for _ in range(16)]
    places = dict.fromkeys(range(40), 0)
    ring, bounds = Ring(), Bounds()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for second in range(0, 1_000, 2):
            for place in (*places, *places):
                places[place] += 1 + second % (place + 1)
            for row in counts:
                row[second % 12] += 1_000 + second
            histograms = tuple(Histogram(counts=tuple(row)) for row in counts)
            traffic = Traffic(
                requests=second, rows=second, latency=Latency(counts=places.copy()), histograms=histograms
            )
            ring = observed(ring, Report(at=float(second), traffic=traffic), bounds)
        assert len(ring.reports) > 60
        assert tracemalloc.get_traced_memory()[0] - before < 200_000  # as objects they were 900,000
    finally:
        tracemalloc.stop()


@given(TRAFFIC, TRAFFIC)
def test_packed_report_is_what_was_reported(first: Traffic, second: Traffic):
    before = packed(1.0, first)
    after = packed(2.0, second, before)
    assert (before.traffic, after.traffic) == (first, second)
    assert after.counted == msgspec.structs.replace(second, histograms=())
    assert (after.at, after.rows) == (2.0, second.rows)


def test_report_without_news_is_kept_once():
    traffic = Traffic(requests=3, histograms=(Histogram(counts=(1, 2)),))
    before = packed(1.0, traffic)
    after = packed(2.0, traffic, before)
    assert after._counts is before._counts
    assert after._histograms is before._histograms
