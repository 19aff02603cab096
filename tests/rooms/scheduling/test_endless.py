"""What never ends promises nothing: nobody waits for whoever waits for its end, and promises hold for all that does end."""

from typing import Any

import pytest

from skyloom.rooms.scheduling.model import Allotment, Cause, Demand, Holding, Policy, Quota, Rulebook
from tests.rooms.scheduling.scenes import FIFO, gang, node, run, scene, started, stopped, whys


def endless(name: str, gpus: int, **more: Any) -> Demand:
    """A replica: it runs until somebody stops it, and nobody may do that for others."""
    return gang(name, gpus, endless=True, **{"preemptible": False, **more})


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("backfill", [True, False])
def test_who_waits_for_what_never_ends_holds_up_nobody(policy: Policy, backfill: bool) -> None:
    rules = Rulebook(policy=policy, min_run_s=0, backfill=backfill)
    scheduler = scene(rules, [node("a")], gang("large", 8, at=1.0), gang("small", 4, at=2.0))
    run(scheduler, endless("replica", 1), a=1)
    decision = scheduler.decide(10.0)
    assert started(decision) == ["small"]
    (wait,) = decision.waits
    assert (wait.gang, wait.why, wait.for_good, wait.reserved_at) == ("large", Cause.RESOURCES, ("replica",), None)
    assert wait.message == (
        "needs 8 GPUs, 3 free on the node with most, and too few will come free: what holds them never ends by itself;"
        " next in the queue"
    )
    assert not decision.admissions[0].backfill, "nothing that it could have overtaken was reserved"


def test_a_promise_counts_on_what_ends_and_never_on_what_does_not() -> None:
    scheduler = scene(FIFO, [node("a"), node("b")], gang("large", 8, at=1.0), gang("long", 4, at=2.0, expected_s=500.0))
    run(scheduler, endless("replica", 1), at=-50.0, a=1)
    run(scheduler, gang("runs", 4, expected_s=100.0), b=1)
    decision = scheduler.decide(10.0)
    assert [(each.gang, each.placement) for each in decision.admissions] == [("long", (("a", 1),))]
    assert decision.waits[0].reserved_at == 100.0


def test_the_promise_is_there_once_the_endless_one_is_gone() -> None:
    scheduler = scene(FIFO, [node("a")], gang("large", 8, at=1.0), gang("long", 4, at=2.0, expected_s=500.0))
    replica = run(scheduler, endless("replica", 1), a=1)
    run(scheduler, gang("runs", 3, expected_s=100.0), a=1)
    assert started(scheduler.decide(10.0)) == ["long"]
    scheduler.release(replica.id, 11.0)
    decision = scheduler.decide(11.0)
    assert whys(decision) == {"large": "resources", "long": "turn"}
    assert decision.waits[0].reserved_at == 100.0


def test_one_that_is_told_to_stop_is_not_endless_any_more() -> None:
    scheduler = scene(FIFO, [node("a")], gang("large", 8, at=1.0), gang("small", 4, at=2.0))
    scheduler.hold(Holding(demand=endless("replica", 1), placement=(("a", 1),), started_at=0.0, stopping=True))
    assert whys(scheduler.decide(10.0)) == {"large": "resources", "small": "turn"}


def test_the_next_in_line_is_promised_what_the_hopeless_one_cannot_use() -> None:
    scheduler = scene(
        FIFO,
        [node("a")],
        gang("hopeless", 8, at=1.0),
        gang("next", 6, at=2.0),
        gang("long", 2, at=3.0, expected_s=500.0),
        gang("brief", 2, at=4.0, expected_s=20.0),
    )
    run(scheduler, endless("replica", 1), a=1)
    run(scheduler, gang("runs", 4, expected_s=100.0), a=1)
    decision = scheduler.decide(10.0)
    assert started(decision) == ["brief"]
    told = {each.gang: each for each in decision.waits}
    assert (told["next"].reserved_at, told["hopeless"].reserved_at) == (100.0, None)
    assert told["next"].for_good == ()


def test_another_pool_with_hope_is_the_one_that_is_kept() -> None:
    scheduler = scene(
        FIFO,
        [node("a", pool="x"), node("b", pool="y")],
        gang("large", 8, at=1.0),
        gang("x", 4, at=2.0, pools=("x",), expected_s=500.0),
        gang("y", 4, at=3.0, pools=("y",), expected_s=500.0),
    )
    run(scheduler, endless("replica", 1), a=1)
    run(scheduler, gang("runs", 4, expected_s=100.0), b=1)
    decision = scheduler.decide(10.0)
    assert started(decision) == ["x"]
    assert whys(decision) == {"large": "resources", "y": "turn"}


def test_where_no_time_is_known_who_ends_by_a_known_one_may_go_first() -> None:
    """The end of a job without an estimate is no time to wait for, but it will end: others like it may not take its place."""
    scheduler = scene(
        FIFO,
        [node("a")],
        gang("large", 8, at=1.0),
        gang("who-knows", 2, at=2.0),
        gang("estimated", 2, at=3.0, expected_s=500.0),
        gang("limited", 2, at=4.0, limit_s=900.0),
    )
    run(scheduler, gang("runs", 4), a=1)
    decision = scheduler.decide(10.0)
    assert started(decision) == ["estimated", "limited"]
    assert whys(decision)["large"] == "resources"
    assert decision.waits[0].reserved_at is None
    # Once it has ended, only what ends at known times is in the way, and the promise holds against everybody.
    scheduler.withdraw("who-knows")
    run(scheduler, gang("estimated", 2, expected_s=500.0), at=10.0, a=1)
    run(scheduler, gang("limited", 2, limit_s=900.0), at=10.0, a=1)
    scheduler.release("runs", 20.0)
    scheduler.submit(gang("brief", 4, at=5.0, limit_s=800.0))
    scheduler.submit(gang("long", 4, at=6.0, expected_s=1_000.0))
    decision = scheduler.decide(20.0)
    assert started(decision) == ["brief"]
    assert decision.waits[0].reserved_at == 910.0


def test_a_limit_ends_a_job_that_was_expected_to_run_longer() -> None:
    scheduler = scene(FIFO, [node("a")], gang("large", 8, at=1.0))
    run(scheduler, gang("runs", 4, expected_s=1_000.0, limit_s=60.0), a=1)
    assert scheduler.decide(10.0).waits[0].reserved_at == 60.0


def test_who_will_be_stopped_for_it_keeps_no_one_from_a_promise() -> None:
    """It may run its minimum first; until then nobody takes what will be its room together with that."""
    rules = Rulebook(policy=Policy.FIFO, min_run_s=60.0)
    scheduler = scene(rules, [node("a")], gang("large", 8, at=1.0, priority=1), gang("small", 4, at=2.0, priority=1))
    run(scheduler, endless("notebook", 1, preemptible=True), a=1)
    decision = scheduler.decide(10.0)
    assert started(decision) == []
    assert (decision.waits[0].reserved_at, decision.waits[0].for_good) == (60.0, ())
    assert decision.again_at == 60.0
    assert stopped(scheduler.decide(60.0)) == [("notebook", "priority", "large")]


def test_a_stream_of_finite_jobs_does_not_keep_it_from_one_that_it_may_stop() -> None:
    rules = Rulebook(policy=Policy.FIFO, min_run_s=60.0)
    scheduler = scene(rules, [node("a")], gang("large", 8, at=1.0, priority=1))
    run(scheduler, gang("who-knows", 1), a=1)
    scheduler.submit(gang("finite", 4, at=2.0, priority=1, expected_s=500.0))
    assert started(scheduler.decide(10.0)) == []


def test_a_guarantee_is_not_kept_for_who_cannot_start() -> None:
    rules = Rulebook(policy=Policy.FIFO, min_run_s=0, preempt=False, quotas={"p": Quota(guaranteed=Allotment(gpus=8))})
    scheduler = scene(rules, [node("a")], gang("large", 8, at=1.0), gang("small", 2, at=2.0))
    run(scheduler, endless("replica", 1, project="q"), a=1)
    run(scheduler, gang("others", 4, project="q"), a=1)
    assert started(scheduler.decide(10.0)) == ["small"]


def test_endless_ones_that_start_in_this_very_round_count_as_well() -> None:
    scheduler = scene(
        FIFO, [node("a")], endless("replica", 1, at=0.5), gang("large", 8, at=1.0), gang("small", 4, at=2.0)
    )
    decision = scheduler.decide(10.0)
    assert started(decision) == ["replica", "small"]
    assert decision.waits[0].for_good == ("replica",)


def test_nobody_learns_of_another_projects_jobs_by_waiting() -> None:
    scheduler = scene(FIFO, [node("a")], gang("large", 8, at=1.0), gang("long", 4, at=2.0, project="q"))
    run(scheduler, gang("runs", 4, expected_s=100.0), a=1)
    told = {each.gang: each.message for each in scheduler.decide(10.0).waits}
    assert (
        told["long"] == "would fit, but would delay a job of another project, which comes first; number 2 in the queue"
    )
