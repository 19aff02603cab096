"""What is counted, and what is written of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.gateway.metrics import render
from skyloom.inference.gateway.numbers import RouteCounter

eighths = st.integers(0, 40).map(lambda count: count / 8)  # exact in binary, so that the sum can be compared
steps = st.lists(st.tuples(eighths, st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(steps)
def test_mean_in_flight_is_the_area_under_the_curve(story):
    counter, now, area = RouteCounter("ep_1", 100.0), 100.0, 0.0
    for duration_s, held, in_flight in story:
        counter.moved(now, held=held - counter.held, in_flight=in_flight - counter.in_flight)
        area += duration_s * (held + in_flight)
        now += duration_s
    told = counter.traffic(now, 0.0, closes=True)
    if now > 100.0:
        assert told.mean_in_flight == pytest.approx(area / (now - 100.0), abs=1e-6)
    later = counter.traffic(now + 2.0, 0.0, closes=True)
    assert later.mean_in_flight == pytest.approx(counter.held + counter.in_flight), "the next mean begins anew"


@given(st.lists(st.floats(0, 100), max_size=80))
def test_queue_delay_is_the_median_within_a_bin(delays):
    counter = RouteCounter("ep_1", 0.0)
    for delay in delays:
        counter.waited(delay)
    told = counter.traffic(1.0, 0.0, closes=False).queue_delay_s
    ordered = sorted(delays)
    low = ordered[(len(ordered) - 1) // 2] if ordered else 0.0
    assert told == 0.0 if low == 0.0 else max(low, 1e-6) / 1.26 <= told <= max(low, 1e-6) * 1.26


@given(st.lists(st.tuples(st.sampled_from(["a", "b", ""]), st.integers(200, 599), st.floats(0, 1e5)), max_size=60))
def test_totals_only_grow_and_add_up(answers):
    counter, before = RouteCounter("ep_1", 0.0), 0
    counter.keep(["a", "b"], [])
    for revision, status, duration_s in answers:
        counter.answered(revision, status, duration_s)
        told = counter.traffic(1.0, 0.0, closes=True)
        now = sum(each.requests for each in told.revisions.values())
        assert now == before + bool(revision)
        before = now
    for name, each in counter.traffic(1.0, 0.0, closes=True).revisions.items():
        mine = [status for revision, status, _ in answers if revision == name]
        assert each.requests == len(mine) == sum(each.latency.counts.values())
        assert each.client_errors == sum(400 <= status < 500 for status in mine)
        assert each.server_errors == sum(status >= 500 for status in mine)


def test_revisions_that_left_the_table_are_forgotten_and_not_counted():
    counter = RouteCounter("ep_1", 0.0)
    for number in range(300):
        counter.keep(["rev_1", f"rev_{number}"], [f"rev_{number}"])
        counter.answered("rev_1", 200, 0.1)
        counter.answered(f"rev_{number + 900}", 200, 0.1)
    told = counter.traffic(1.0, 0.0, closes=True)
    assert (list(told.revisions), list(told.shadows)) == (["rev_1", "rev_299"], ["rev_299"])
    assert told.revisions["rev_1"].requests == 300 and told.revisions["rev_299"].requests == 0


def test_metrics_are_what_prometheus_reads():
    from prometheus_client.parser import text_string_to_metric_families

    counter = RouteCounter("ep_1", 0.0)
    counter.arrived = 3
    counter.keep(["rev_1"], ["rev_2"])
    for status, duration_s in ((200, 0.01), (404, 0.02), (503, 2.0)):
        counter.answered("rev_1", status, duration_s)
    counter.shadowed("rev_2", 200, 0.5)
    text = render(counter.traffic(1.0, 0.0, closes=False)).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["skyloom_gateway_arrived"].samples[0].value == 3
    assert families["skyloom_gateway_server_errors"].samples[0].labels == {"endpoint": "ep_1", "revision": "rev_1"}
    buckets = [
        each.value for each in families["skyloom_gateway_duration_seconds"].samples if each.name.endswith("_bucket")
    ]
    assert buckets == [1, 2, 3, 3]
    assert families["skyloom_gateway_shadow_requests"].samples[0].value == 1
