"""Who stops for whom, and who does not."""

from skyloom.rooms.scheduling.model import Allotment, Holding, Policy, Quota, Renting, Rulebook
from tests.rooms.scheduling.scenes import FIFO, gang, node, run, scene, started, stop, stopped

PREEMPTIVE = (Policy.LAS, Policy.SRTF, Policy.SRSF)


def test_priority_stops_the_lowest_and_youngest_and_no_more_than_needed() -> None:
    scheduler = scene(FIFO, [node("a")])
    for name, gpus, priority, at in (
        ("old", 2, 0, 0.0),
        ("young", 2, 0, 1.0),
        ("better", 2, 1, 2.0),
        ("best", 2, 9, 3.0),
    ):
        run(scheduler, gang(name, gpus, priority=priority), at=at, a=1)
    scheduler.submit(gang("urgent", 3, at=4.0, priority=5))
    decision = scheduler.decide(5.0)
    assert stopped(decision) == [("young", "priority", "urgent"), ("old", "priority", "urgent")]
    assert started(decision) == []
    assert decision.waits[0].message == (
        "needs 3 GPUs, 0 free on the node with most; others stop to make room for it; next in the queue"
    )


def test_whoever_can_be_spared_is_spared() -> None:
    scheduler = scene(FIFO, [node("a"), node("b")])
    run(scheduler, gang("elsewhere", 1), at=9.0, b=1)
    run(scheduler, gang("fixed", 7, preemptible=False), at=0.0, b=1)
    run(scheduler, gang("large", 8), at=1.0, a=1)
    scheduler.submit(gang("urgent", 8, at=10.0, priority=1))
    # The youngest comes first, but stopping it would not help.
    assert stopped(scheduler.decide(10.0)) == [("large", "priority", "urgent")]


def test_nobody_stops_in_vain() -> None:
    scheduler = scene(FIFO, [node("a"), node("b")])
    run(scheduler, gang("fixed", 5, preemptible=False), a=1)
    run(scheduler, gang("small", 3), a=1)
    run(scheduler, gang("fixed-too", 8, preemptible=False), b=1)
    scheduler.submit(gang("urgent", 8, at=1.0, priority=9))
    assert stopped(scheduler.decide(2.0)) == []


def test_everybody_runs_the_minimum_first() -> None:
    scheduler = scene(Rulebook(policy=Policy.FIFO, min_run_s=60.0), [node("a")])
    run(scheduler, gang("runs", 8), at=100.0, a=1)
    scheduler.submit(gang("urgent", 8, at=101.0, priority=9))
    decision = scheduler.decide(120.0)
    assert stopped(decision) == []
    assert decision.again_at == 160.0
    assert stopped(scheduler.decide(160.0)) == [("runs", "priority", "urgent")]


def test_without_preempt_nobody_stops() -> None:
    for policy in Policy:
        scheduler = scene(Rulebook(policy=policy, preempt=False, min_run_s=0), [node("a")])
        run(scheduler, gang("runs", 8, expected_s=1e6, attained_gpu_s=1e6, max_workers=2), a=1)
        scheduler.submit(gang("urgent", 8, at=1.0, priority=9, expected_s=1.0))
        assert stopped(scheduler.decide(2.0)) == []


def test_what_is_given_back_is_kept_for_whom_it_is_and_nobody_else_stops_for_it() -> None:
    scheduler = scene(FIFO, [node("a"), node("b", 1)])
    held = run(scheduler, gang("runs", 8), a=1)
    run(scheduler, gang("other", 1), b=1)
    scheduler.submit(gang("urgent", 6, at=1.0, priority=1, expected_s=100.0))
    assert stopped(scheduler.decide(2.0)) == [("runs", "priority", "urgent")]
    scheduler.hold(Holding(demand=held, placement=(("a", 1),), started_at=0.0, stopping=True))
    scheduler.submit(gang("small", 1, at=3.0, expected_s=5.0))
    decision = scheduler.decide(3.0)
    assert (started(decision), stopped(decision)) == ([], [])
    scheduler.release("runs", 4.0)
    scheduler.submit(held)
    # First who it was for, then the others in their order, on what is left.
    assert started(scheduler.decide(4.0)) == ["urgent", "small"]


def test_many_wait_and_each_gets_its_room_in_one_decision() -> None:
    scheduler = scene(FIFO, [node("a"), node("b")])
    for name in ("1", "2", "3", "4"):
        run(scheduler, gang(name, 4), at=float(name), **{"a" if name in "12" else "b": 1})
    for place in range(3):
        scheduler.submit(gang(f"urgent-{place}", 4, at=9.0, priority=1))
    assert [(who, whom) for who, _, whom in stopped(scheduler.decide(9.0))] == [
        ("4", "urgent-0"),
        ("3", "urgent-1"),
        ("2", "urgent-2"),
    ]


def test_a_stopped_gang_does_not_stop_the_one_it_stopped_for() -> None:
    for policy in PREEMPTIVE:
        scheduler = scene(Rulebook(policy=policy, min_run_s=0), [node("a")])
        long = run(scheduler, gang("long", 8, expected_s=900.0, attained_gpu_s=10_000.0), a=1)
        scheduler.submit(gang("new", 8, at=10.0, expected_s=50.0))
        assert stopped(scheduler.decide(10.0)) == [("long", "policy", "new")]
        stop(scheduler, long, 0.0, 10.0, gang("long", 8, expected_s=890.0, attained_gpu_s=10_080.0), a=1)
        decision = scheduler.decide(10.0)
        assert started(decision) == ["new"]
        run(scheduler, gang("new", 8, at=10.0, expected_s=50.0), at=10.0, a=1)
        assert stopped(scheduler.decide(11.0)) == []


def test_whoever_leaves_its_las_queue_makes_room_for_those_above() -> None:
    rules = Rulebook(policy=Policy.LAS, las_limits_gpu_s=(80.0,), min_run_s=0)
    scheduler = scene(rules, [node("a")])
    run(scheduler, gang("runs", 8), a=1)
    scheduler.submit(gang("waits", 8, at=1.0))
    decision = scheduler.decide(5.0)
    assert stopped(decision) == []
    assert decision.again_at == 10.0
    assert stopped(scheduler.decide(10.0)) == [("runs", "policy", "waits")]


def test_at_its_ceiling_a_project_stops_once_for_one_gang_and_not_again_while_that_leaves() -> None:
    rules = Rulebook(policy=Policy.FIFO, min_run_s=0, quotas={"p": Quota(ceiling=Allotment(gpus=4))})
    scheduler = scene(rules, [node("a")])
    run(scheduler, gang("old", 2), at=0.0, a=1)
    young = run(scheduler, gang("young", 2), at=1.0, a=1)
    scheduler.submit(gang("urgent", 2, at=2.0, priority=1))
    assert stopped(scheduler.decide(2.0)) == [("young", "priority", "urgent")]
    scheduler.hold(Holding(demand=young, placement=(("a", 1),), started_at=1.0, stopping=True))
    decision = scheduler.decide(3.0)
    assert (started(decision), stopped(decision)) == ([], [])
    assert "others stop to make room for it" in decision.waits[0].message
    scheduler.submit(gang("urgent-too", 2, at=3.0, priority=1))
    assert stopped(scheduler.decide(3.0)) == [("old", "priority", "urgent-too")], "what leaves is for one of them"


def test_a_stopped_gang_goes_on_first_in_its_las_queue_however_often_it_is_told_of() -> None:
    for renting in Renting:
        rules = Rulebook(policy=Policy.LAS, las_limits_gpu_s=(1_000.0,), min_run_s=0, renting=renting)
        scheduler = scene(rules, [node("a")])
        first = run(scheduler, gang("first", 8, deadline_at=500.0, expected_s=400.0), a=1)
        scheduler.submit(gang("urgent", 8, at=5.0, priority=1))
        scheduler.submit(gang("second", 8, at=-5.0))
        stop(
            scheduler, first, 0.0, 5.0, gang("first", 8, deadline_at=500.0, expected_s=395.0, attained_gpu_s=40.0), a=1
        )
        scheduler.submit(gang("first", 8, deadline_at=500.0, expected_s=395.0, attained_gpu_s=40.0))
        scheduler.withdraw("urgent")
        # Its time to rent comes and goes as well, where that is a matter of deadlines.
        for now in (100.0, 501.0):
            assert started(scheduler.decide(now)) == ["first"]


def test_whoever_came_down_a_las_queue_stands_behind_those_who_wait_there_for_one_round_only() -> None:
    rules = Rulebook(policy=Policy.LAS, las_limits_gpu_s=(80.0,), min_run_s=15.0)
    scheduler = scene(rules, [node("a")], gang("waits", 8, at=1.0, attained_gpu_s=100.0))
    demand = run(scheduler, gang("runs", 8), a=1)
    assert stopped(scheduler.decide(10.0)) == []
    run(scheduler, demand, a=1)
    assert stopped(scheduler.decide(16.0)) == []


def test_under_srsf_service_counts_and_under_srtf_time() -> None:
    for policy, expected in ((Policy.SRTF, [("wide", "policy", "new")]), (Policy.SRSF, [("wide", "policy", "new")])):
        scheduler = scene(Rulebook(policy=policy, min_run_s=0), [node("a")])
        run(scheduler, gang("narrow", 2, expected_s=100.0), a=1)
        run(scheduler, gang("wide", 6, expected_s=110.0), a=1)
        scheduler.submit(gang("new", 2, at=1.0, expected_s=60.0))
        assert stopped(scheduler.decide(1.0)) == expected
    for policy, expected in ((Policy.SRTF, [("narrow", "policy", "new")]), (Policy.SRSF, [("wide", "policy", "new")])):
        scheduler = scene(Rulebook(policy=policy, min_run_s=0), [node("a")])
        run(scheduler, gang("narrow", 2, expected_s=120.0), a=1)
        run(scheduler, gang("wide", 6, expected_s=100.0), a=1)
        scheduler.submit(gang("new", 2, at=1.0, expected_s=60.0))
        assert stopped(scheduler.decide(1.0)) == expected
