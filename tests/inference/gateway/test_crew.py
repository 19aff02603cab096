"""Who of a revision's replicas takes a request, and who is left out for how long."""

import random

from hypothesis import given
from hypothesis import strategies as st

from skyloom.inference.gateway.crew import FAILURES, FEW, Crew, RetryBudget, out_s
from tests.inference.gateway.gateways import backend


def crew_of(count: int, max_open: int = 4, max_bytes: int = 1_000) -> Crew:
    crew = Crew(random.Random(3), max_open, max_bytes)
    crew.update([backend(9_000 + n, f"rep_{n}") for n in range(count)])
    return crew


events = st.lists(
    st.tuples(st.sampled_from(["send", "ok", "bad", "refused", "wait", "table"]), st.integers(0, 30), st.floats(0, 20)),
    max_size=120,
)


@given(st.integers(1, 14), events)
def test_whatever_happens_at_most_half_are_left_out_and_nobody_gets_too_many(count, story):
    crew, now, busy = crew_of(count), 0.0, []
    for what, number, duration_s in story:
        lane = crew.lanes[number % len(crew.lanes)]
        if what == "send":
            picked = crew.pick(now, number)
            if picked is not None:
                assert picked.ejected_until <= now and picked.resting_until <= now and picked in crew.lanes
                assert picked.num_open < 4 and not (picked.num_open and picked.open_bytes + number > 1_000)
                picked.num_open += 1
                picked.open_bytes += number
                busy.append((picked, number))
            else:
                assert all(each.num_open == 4 or each.num_refusals or each.ejected_until > now for each in crew.lanes)
        elif what in ("ok", "bad") and busy:
            done, size = busy.pop()
            done.num_open -= 1
            done.open_bytes -= size
            crew.answered(done, now, failed=what == "bad")
        elif what == "bad":
            for _ in range(FAILURES):
                crew.answered(lane, now, failed=True)
        elif what == "refused":
            crew.refused(lane, now)
        elif what == "table":
            kept = [each.backend for each in crew.lanes][: 1 + number % count]
            gone = crew.update(kept)
            assert all(each.is_gone for each in gone) and not set(gone) & set(crew.lanes)
        now += duration_s
        assert sum(each.ejected_until > now for each in crew.lanes) <= len(crew.lanes) // 2


@given(st.lists(st.integers(0, 3), min_size=1, max_size=FEW))
def test_of_few_the_least_busy_is_picked_and_equals_take_turns(loads):
    crew = crew_of(len(loads))
    for lane, load in zip(crew.lanes, loads, strict=True):
        lane.num_open = load
    assert crew.pick(0.0, 0).num_open == min(loads)
    for lane in crew.lanes:
        lane.num_open = 0
    assert {crew.pick(0.0, 0) for _ in loads} == set(crew.lanes)


def test_of_many_a_full_pair_does_not_hide_who_is_free():
    crew = crew_of(40)
    for lane in crew.lanes[:-1]:
        lane.num_open = 4
    assert all(crew.pick(0.0, 0) is crew.lanes[-1] for _ in range(50))


def test_tried_ones_are_not_asked_again():
    crew = crew_of(2)
    first = crew.pick(0.0, 0)
    assert crew.pick(0.0, 0, (first,)) not in (first, None)
    assert crew.pick(0.0, 0, crew.lanes) is None


def test_failures_in_a_row_leave_one_out_for_a_growing_time_and_a_good_time_forgives():
    crew, now, times = crew_of(2), 0.0, []
    bad = crew.lanes[0]
    for _ in range(8):
        for _ in range(FAILURES):
            crew.answered(bad, now, failed=True)
        times.append(bad.ejected_until - now)
        assert crew.pick(now, 0) is crew.lanes[1]
        now = bad.ejected_until
    assert [round(each, 6) for each in times] == [out_s(n) for n in range(1, 9)] and times[-1] == times[-2] == 300.0
    crew.answered(bad, now + 301, failed=False)
    assert bad.num_ejections == 0


def test_good_answers_between_failures_keep_a_replica_in():
    crew = crew_of(2)
    for _ in range(20):
        for _ in range(FAILURES - 1):
            crew.answered(crew.lanes[0], 0.0, failed=True)
        crew.answered(crew.lanes[0], 0.0, failed=False)
    assert crew.lanes[0].ejected_until == 0.0


def test_who_refuses_rests_and_is_asked_with_one_request_first():
    crew = crew_of(1)
    lane = crew.lanes[0]
    crew.refused(lane, 10.0)
    assert crew.pick(10.0, 0) is None
    probe = crew.pick(10.1, 0)
    assert probe is lane
    lane.num_open = 1
    assert crew.pick(10.2, 0) is None, "one probe at a time"
    crew.answered(lane, 10.3, failed=False)
    assert crew.pick(10.3, 0) is lane


def test_a_new_table_keeps_what_is_known_of_those_who_stay():
    crew = crew_of(3)
    crew.lanes[1].num_open = 2
    stays = crew.lanes[1]
    gone = crew.update([stays.backend, backend(9_100, "rep_new")])
    assert len(gone) == 2 and crew.lanes[0] is stays and stays.num_open == 2
    moved = crew.update([backend(9_200, stays.backend.replica)])
    assert stays in moved, "the same replica at another port is another way"


@given(st.lists(st.booleans(), max_size=500))
def test_retries_are_at_most_a_fifth_and_a_few(story):
    budget, num_arrived, num_retries = RetryBudget(), 0, 0
    for arrives in story:
        if arrives:
            budget.arrived()
            num_arrived += 1
        elif budget.take():
            num_retries += 1
        assert num_retries <= budget.RESERVE + budget.SHARE * num_arrived + 1e-6


def test_retry_budget_does_not_grow_for_ever():
    budget = RetryBudget()
    for _ in range(100_000):
        budget.arrived()
    assert sum(budget.take() for _ in range(20_000)) <= budget.MOST + 1
