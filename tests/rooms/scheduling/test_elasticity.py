"""Gangs of more than one size."""

from typing import Any

import pytest

from skyloom.rooms.scheduling.elasticity import gain, most_useful, next_useful
from skyloom.rooms.scheduling.model import Allotment, Cause, Decision, Demand, Holding, Policy, Quota, Renting, Rulebook
from tests.rooms.scheduling.scenes import FIFO, gang, node, run, scene, started, stop

ELASTIC = Rulebook(policy=Policy.ELASTIC, min_run_s=0, restart_s=30.0)


def wide(name: str, most: int = 8, **more: Any) -> Demand:
    """One GPU a worker, one worker at least."""
    return gang(name, 1, 1, max_workers=most, **more)


def sizes(decision: Decision) -> dict[str, int]:
    return {each.gang: sum(count for _, count in each.placement) for each in decision.admissions}


def test_it_starts_with_what_is_idle() -> None:
    assert sizes(scene(FIFO, [node("a")], wide("1")).decide(0.0)) == {"1": 8}
    assert sizes(scene(FIFO, [node("a", 5)], wide("1", 3)).decide(0.0)) == {"1": 3}


def test_everybody_gets_the_fewest_before_anybody_gets_more() -> None:
    waiting = [wide("1"), wide("2", at=1.0), gang("3", 4, at=2.0)]
    assert sizes(scene(FIFO, [node("a")], *waiting).decide(3.0)) == {"1": 2, "2": 2, "3": 1}


def test_workers_go_to_where_they_speed_up_most() -> None:
    flat = wide("flat", rates=(1.0, 1.2, 1.3, 1.35))
    steep = wide("steep", rates=(1.0, 1.9, 2.8, 3.6, 4.4, 5.0), at=1.0)
    assert sizes(scene(ELASTIC, [node("a")], flat, steep).decide(2.0)) == {"flat": 2, "steep": 6}


def test_a_worker_that_does_not_help_is_not_taken() -> None:
    assert sizes(scene(FIFO, [node("a")], wide("1", rates=(1.0, 1.8, 1.7, 1.6))).decide(0.0)) == {"1": 2}
    assert sizes(scene(FIFO, [node("a")], wide("1", rates=(1.0, 1.0, 2.5))).decide(0.0)) == {"1": 3}


def test_without_elastic_every_gang_has_its_fewest() -> None:
    rules = Rulebook(policy=Policy.FIFO, elastic=False)
    assert sizes(scene(rules, [node("a")], wide("1")).decide(0.0)) == {"1": 1}


def test_a_running_gang_gives_workers_to_one_that_waits() -> None:
    scheduler = scene(ELASTIC, [node("a")])
    held = run(scheduler, wide("big", expected_s=1e4), a=8)
    scheduler.submit(gang("new", 3, at=5.0))
    decision = scheduler.decide(10.0)
    (eviction,) = decision.evictions
    assert (eviction.gang, eviction.why, eviction.num_workers, eviction.for_gang) == ("big", Cause.SHRINK, 5, "new")
    stop(scheduler, held, 0.0, 10.0, a=8)
    assert sizes(scheduler.decide(10.0)) == {"big": 5, "new": 1}


def test_nobody_shrinks_for_a_lower_priority_or_just_before_its_end() -> None:
    for big in (wide("big", priority=1, expected_s=1e4), wide("big", expected_s=160.0)):
        scheduler = scene(Rulebook(policy=Policy.FIFO, min_run_s=0, restart_s=30.0), [node("a")])
        run(scheduler, big, a=8)
        scheduler.submit(gang("new", 3, at=5.0))
        assert scheduler.decide(10.0).evictions == ()


def test_the_measured_curve_says_who_shrinks() -> None:
    scheduler = scene(ELASTIC, [node("a")])
    run(scheduler, wide("flat", rates=(1.0, 1.1, 1.2, 1.3), expected_s=1e4), a=4)
    run(scheduler, wide("steep", rates=(1.0, 2.0, 3.0, 4.0), expected_s=1e4), a=4)
    scheduler.submit(gang("new", 2, at=5.0))
    assert [(each.gang, each.num_workers) for each in scheduler.decide(10.0).evictions] == [("flat", 2)]


@pytest.mark.parametrize(
    ("left_s", "rates", "grows"),
    [
        (1_000.0, (), True),
        (100.0, (1.0, 1.0, 1.0, 1.01), False),  # a percent of it is less than a restart
        (40.0, (), False),  # three quarters of it are
        (None, (), True),  # nobody knows; it has run long, so it is taken to run on
    ],
)
def test_a_running_gang_grows_where_that_is_worth_a_restart(
    left_s: float | None, rates: tuple[float, ...], grows: bool
) -> None:
    scheduler = scene(ELASTIC, [node("a", 4)])
    run(scheduler, wide("1", 4, expected_s=None if left_s is None else left_s + 500.0, rates=rates), a=1)
    decision = scheduler.decide(500.0)
    assert [(each.why, each.num_workers) for each in decision.evictions] == ([(Cause.GROW, 4)] if grows else [])


def test_a_gang_that_grew_comes_back_larger() -> None:
    scheduler = scene(ELASTIC, [node("a")])
    held = run(scheduler, wide("1", expected_s=1e4), a=2)
    assert scheduler.decide(100.0).evictions[0].num_workers == 8
    stop(scheduler, held, 0.0, 100.0, a=2)
    assert sizes(scheduler.decide(100.0)) == {"1": 8}


def test_it_does_not_grow_into_what_somebody_waits_for() -> None:
    scheduler = scene(Rulebook(policy=Policy.FIFO, min_run_s=0), [node("a")])
    run(scheduler, wide("1", expected_s=1e4, priority=1), a=2)
    scheduler.submit(gang("large", 8, at=1.0))
    assert scheduler.decide(100.0).evictions == ()
    scheduler.withdraw("large")
    assert started(scheduler.decide(100.0)) == []
    assert [each.why for each in scheduler.decide(100.0).evictions] == [Cause.GROW]


def test_gain_looks_past_a_plateau() -> None:
    demand = wide("1", 4, rates=(1.0, 1.0, 4.0, 3.0))
    assert next_useful(demand, 1) == 3
    assert gain(demand, 1) == pytest.approx(1.5)
    assert next_useful(demand, 3) is None
    assert gain(demand, 3) == 0.0
    assert most_useful(demand, 4) == 3


def test_a_gang_that_was_to_grow_and_is_stopped_for_another_stands_behind_that_one() -> None:
    scheduler = scene(Rulebook(policy=Policy.SRTF, min_run_s=0), [node("a", 4)])
    long = run(scheduler, wide("long", 4, expected_s=1e4), a=2)
    assert [each.why for each in scheduler.decide(10.0).evictions] == [Cause.GROW]
    # Nobody carries that out; then somebody comes whose turn it is.
    scheduler.submit(gang("short", 4, at=20.0, expected_s=5.0))
    assert [each.why for each in scheduler.decide(20.0).evictions] == [Cause.POLICY]
    stop(scheduler, long, 0.0, 20.0, a=2)
    assert started(scheduler.decide(20.0)) == ["short"]


def test_it_takes_what_is_promised_to_others_only_if_it_ends_in_time() -> None:
    for expected_s, size in ((60.0, 4), (200.0, 1), (None, 1)):
        scheduler = scene(FIFO, [node("a")])
        run(scheduler, gang("runs", 4, expected_s=100.0), a=1)
        scheduler.submit(gang("large", 7, at=1.0))
        scheduler.submit(wide("wide", 4, at=2.0, expected_s=expected_s))
        assert sizes(scheduler.decide(3.0)) == {"wide": size}


def test_nobody_is_stopped_to_go_on_with_as_many_workers_as_before() -> None:
    scheduler = scene(FIFO, [node("a"), node("b"), node("c")])
    # It would lose the least, but what it could give lies on two nodes, and neither part is enough.
    run(scheduler, wide("flat", rates=(1.0, 1.1), expected_s=1e4), b=4, a=4)
    run(scheduler, gang("fixed", 4, preemptible=False), a=1)
    run(scheduler, gang("fixed-too", 4, preemptible=False), b=1)
    run(scheduler, wide("steep", expected_s=1e4), c=8)
    scheduler.submit(gang("new", 7, at=5.0))
    assert [(each.gang, each.num_workers) for each in scheduler.decide(10.0).evictions] == [("steep", 1)]


def test_gangs_of_one_project_grow_together_no_further_than_its_ceiling() -> None:
    rules = Rulebook(policy=Policy.FIFO, min_run_s=0, quotas={"p": Quota(ceiling=Allotment(gpus=6))})
    scheduler = scene(rules, [node("a", 4), node("b", 4)])
    for name in "ab":
        run(scheduler, wide(name, 4, expected_s=1e4), **{name: 2})
    assert [(each.gang, each.num_workers) for each in scheduler.decide(100.0).evictions] == [("a", 4)]


def test_a_gang_grows_only_where_it_may_start_again() -> None:
    nodes = [node("own", 2, "both"), node("rented", 8, "both", rented=True)]
    for renting, grown in ((Renting.FREELY, [8]), (Renting.FOR_DEADLINES, [2])):
        scheduler = scene(Rulebook(policy=Policy.FIFO, min_run_s=0, renting=renting), nodes)
        run(scheduler, wide("1", expected_s=1e4), own=1)
        assert [each.num_workers for each in scheduler.decide(100.0).evictions] == grown


def test_nobody_grows_into_what_another_was_stopped_to_grow_into() -> None:
    scheduler = scene(FIFO, [node("a")])
    held = [run(scheduler, wide(name, expected_s=1e4), a=1) for name in ("1", "2")]
    assert [(each.gang, each.num_workers) for each in scheduler.decide(100.0).evictions] == [("1", 7)]
    scheduler.hold(Holding(demand=held[0], placement=(("a", 1),), started_at=0.0, stopping=True))
    assert scheduler.decide(101.0).evictions == ()
    scheduler.release("1", 102.0)
    scheduler.submit(held[0])
    assert sizes(scheduler.decide(102.0)) == {"1": 7}
