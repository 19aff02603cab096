"""The order of the line, promises, quotas, shares, and what waiting gangs are told."""

import pickle
from typing import Any

import msgspec
import pytest

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.model import Allotment, Cause, Demand, Policy, Quota, Renting, Rulebook
from skyloom.rooms.scheduling.scheduler import Scheduler
from tests.rooms.scheduling.scenes import FIFO, gang, node, run, scene, started, stopped, whys


def rules(policy: Policy = Policy.FIFO, **more: Any) -> Rulebook:
    return Rulebook(policy=policy, **{"min_run_s": 0.0, **more})


def quota(guaranteed: int | None = None, ceiling: int | None = None, weight: float = 1.0) -> Quota:
    """Of GPUs."""
    return Quota(
        guaranteed=None if guaranteed is None else Allotment(gpus=guaranteed),
        ceiling=None if ceiling is None else Allotment(gpus=ceiling),
        weight=weight,
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Policy.FIFO, ["old", "wide", "short"]),
        (Policy.SRTF, ["short", "wide", "old"]),
        (Policy.SRSF, ["short", "old", "wide"]),
        (Policy.LAS, ["wide", "short", "old"]),
        (Policy.DEADLINE, ["wide", "old", "short"]),
        (Policy.ELASTIC, ["old", "wide", "short"]),
    ],
)
def test_each_policy_has_its_order(policy: Policy, expected: list[str]) -> None:
    scheduler = scene(
        rules(policy),
        [node("a")],
        gang("old", 1, at=0.0, expected_s=900.0, deadline_at=2_000.0, attained_gpu_s=5_000.0),
        gang("wide", 4, at=1.0, expected_s=800.0, deadline_at=1_900.0),
        gang("short", 1, at=2.0, expected_s=9.0, deadline_at=5.0),
    )
    assert started(scheduler.decide(10.0)) == expected


def test_fair_starts_the_project_with_the_smallest_weighted_share() -> None:
    book = rules(Policy.FAIR, quotas={"q": quota(weight=3.0)})
    waiting = [gang(f"{project}{number}", project=project) for project in "pq" for number in range(8)]
    decision = scene(book, [node("a")], *waiting).decide(0.0)
    # Three for q for each one for p.
    assert sorted(each[0] for each in started(decision)) == ["p"] * 2 + ["q"] * 6


def test_fair_looks_at_the_dominant_resource() -> None:
    scheduler = scene(rules(Policy.FAIR), [node("a")])
    run(scheduler, gang("gpus", 4, project="p"), a=1)  # half of all GPUs
    run(scheduler, gang("cpus", 0, 20, project="q"), a=20)  # a third of all CPUs
    scheduler.submit(gang("1", 4, at=0.0, project="p"))
    scheduler.submit(gang("2", 4, at=1.0, project="q"))
    assert started(scheduler.decide(1.0)) == ["2"]


def test_fair_remembers_past_use_and_forgets_it() -> None:
    book = rules(Policy.FAIR, half_life_s=100.0)
    scheduler = scene(book, [node("a")])
    run(scheduler, gang("past", 8, project="p"), a=1)
    scheduler.release("past", 500.0)
    run(scheduler, gang("now", 1, project="q"), at=500.0, a=1)
    scheduler.submit(gang("1", 7, at=0.0, project="p"))
    scheduler.submit(gang("2", 7, at=1.0, project="q"))
    assert started(scheduler.decide(501.0)) == ["2"]
    assert started(scheduler.decide(2_000.0)) == ["1"]


def test_priority_comes_before_any_policy() -> None:
    for policy in Policy:
        scheduler = scene(
            rules(policy), [node("a")], gang("1", 8, expected_s=1.0), gang("2", 8, at=5.0, priority=1, expected_s=99.0)
        )
        assert started(scheduler.decide(6.0)) == ["2"], policy


def test_a_large_gang_is_promised_room_and_smaller_ones_may_only_use_what_it_leaves() -> None:
    scheduler = scene(FIFO, [node("a"), node("b", 4)])
    run(scheduler, gang("runs", 4, expected_s=100.0), a=1)
    for demand in (
        gang("large", 8, at=1.0),
        gang("too-long", 4, at=2.0, expected_s=200.0),
        gang("who-knows", 4, at=3.0),
        gang("brief", 4, at=4.0, expected_s=50.0),
        gang("last", 4, at=5.0, expected_s=50.0),
    ):
        scheduler.submit(demand)
    decision = scheduler.decide(10.0)
    # ``too-long`` fits beside the promise, on b; ``brief`` is out of its way in time; after that a is full.
    assert [(each.gang, each.placement, each.backfill) for each in decision.admissions] == [
        ("too-long", (("b", 1),), True),
        ("brief", (("a", 1),), True),
    ]
    told = {each.gang: each for each in decision.waits}
    assert told["large"].reserved_at == 100.0
    assert told["large"].message == "needs 8 GPUs, 0 free on the node with most; next in the queue"
    assert told["who-knows"].why is Cause.RESOURCES, "what it would have taken is taken"


def test_a_gang_that_would_delay_the_first_is_told_so() -> None:
    scheduler = scene(FIFO, [node("a")], gang("large", 8, at=1.0), gang("long", 4, at=2.0, expected_s=500.0))
    run(scheduler, gang("runs", 4, expected_s=100.0), a=1)
    decision = scheduler.decide(10.0)
    assert decision.admissions == ()
    assert whys(decision) == {"large": "resources", "long": "turn"}
    assert decision.waits[1].message == "would fit, but would delay large, which comes first; number 2 in the queue"


def test_without_backfill_nobody_overtakes_in_a_pool_that_somebody_waits_for() -> None:
    scheduler = scene(
        rules(backfill=False),
        [node("a", pool="x"), node("b", pool="y")],
        gang("large", 8, 2, at=1.0, pools=("x",)),
        gang("first", 8, at=1.0, pools=("x",)),
        gang("large-x", 8, at=2.0, pools=("x",)),
        gang("small-x", 1, at=3.0, pools=("x",)),
        gang("small-y", 1, at=4.0, pools=("y",)),
    )
    run(scheduler, gang("runs", 1), a=1)
    decision = scheduler.decide(5.0)
    assert started(decision) == ["small-y"]
    assert whys(decision) == {"first": "resources", "large-x": "resources", "small-x": "turn", "large": "impossible"}


def test_a_ceiling_holds_back_the_project_and_nobody_else() -> None:
    scheduler = scene(
        rules(quotas={"p": quota(ceiling=4)}),
        [node("a"), node("b")],
        *(gang("1", 4), gang("2", 4, at=1.0), gang("3", 1, at=2.0), gang("4", 4, project="q"), gang("5", 16)),
    )
    decision = scheduler.decide(3.0)
    assert started(decision) == ["1", "4"]
    assert whys(decision) == {"2": "quota", "3": "quota", "5": "impossible"}
    assert [each.message for each in decision.waits] == [
        "its project holds all that it may: needs 4 GPUs, 0 free under its ceiling; next in the queue",
        "waits behind 2 of its project, which waits for its quota; number 2 in the queue",
        "cannot start: needs 16 GPUs, 4 allowed by its project's ceiling",
    ]


def test_an_idle_guarantee_is_lent_and_asked_back_from_the_youngest_borrower_only() -> None:
    scheduler = scene(rules(quotas={"p": quota(guaranteed=4)}), [node("a")])
    run(scheduler, gang("old", 2, project="q"), at=0.0, a=1)
    run(scheduler, gang("middle", 2, project="q"), at=1.0, a=1)
    run(scheduler, gang("young", 4, project="q", priority=5), at=2.0, a=1)
    scheduler.submit(gang("mine", 2, at=3.0))
    # Reclaim takes the lowest priority first, then the youngest; whoever can be spared is.
    assert stopped(scheduler.decide(4.0)) == [("middle", "reclaim", "mine")]


def test_a_borrower_takes_nothing_back_from_a_guarantee() -> None:
    scheduler = scene(rules(quotas={"p": quota(guaranteed=4)}), [node("a")])
    run(scheduler, gang("mine", 4), a=1)
    run(scheduler, gang("other", 4, project="q"), a=1)
    scheduler.submit(gang("urgent", 4, at=1.0, project="q", priority=9))
    assert stopped(scheduler.decide(2.0)) == [("other", "priority", "urgent")]


def test_a_guarantee_is_used_in_the_order_of_the_projects_own_line() -> None:
    scheduler = scene(rules(quotas={"p": quota(guaranteed=4)}, preempt=False), [node("a")])
    run(scheduler, gang("runs", 4, project="q"), a=1)
    scheduler.submit(gang("large", 8, at=1.0, priority=1))
    scheduler.submit(gang("small", 4, at=2.0))
    scheduler.submit(gang("others", 4, at=1.5, project="q", expected_s=1.0))
    decision = scheduler.decide(3.0)
    assert [each.gang for each in decision.waits][:1] == ["large"]


@pytest.mark.parametrize(
    ("now", "deadline_at", "expected_s", "rents"),
    [
        (0.0, None, 100.0, False),
        (0.0, 1_000.0, 100.0, False),  # it can still wait for an owned one
        (870.0, 1_000.0, 100.0, True),  # the last moment, a restart's time included
        (0.0, 1_000.0, None, True),  # nobody knows how long it takes
        (1_001.0, 1_000.0, 100.0, False),  # it is too late anyway
    ],
)
def test_rented_nodes_are_for_deadlines_that_owned_ones_would_miss(
    now: float, deadline_at: float | None, expected_s: float | None, rents: bool
) -> None:
    book = rules(renting=Renting.FOR_DEADLINES, restart_s=30.0)
    scheduler = scene(book, [node("own"), node("cloud", pool="rented", rented=True)])
    run(scheduler, gang("runs", 8), own=1)
    scheduler.submit(gang("1", 1, deadline_at=deadline_at, expected_s=expected_s))
    decision = scheduler.decide(now)
    assert bool(decision.admissions) is rents
    if not rents and deadline_at == 1_000.0 and now == 0.0:
        assert decision.again_at == 870.0
        assert started(scheduler.decide(870.0)) == ["1"]


def test_what_only_rented_nodes_can_hold_needs_a_deadline() -> None:
    book = rules(renting=Renting.FOR_DEADLINES)
    nodes = [node("own", 1), node("cloud", pool="rented", rented=True)]
    scheduler = scene(book, nodes, gang("1", 8, deadline_at=1e6, expected_s=10.0), gang("2", 8))
    decision = scheduler.decide(0.0)
    assert started(decision) == ["1"]
    assert whys(decision) == {"2": "impossible"}
    assert decision.waits[0].message == ("cannot start: needs 8 GPUs, 1 on the largest node")
    rented = scene(book, nodes[1:], gang("2", 8)).decide(0.0)
    assert rented.waits[0].message == (
        "cannot start: only rented nodes would do, and they are for those that have a deadline"
    )


def test_deadlines_that_cannot_be_met_stand_behind_those_that_can() -> None:
    late = gang("late", 8, at=0.0, deadline_at=50.0, expected_s=100.0)
    good = gang("good", 8, at=1.0, deadline_at=900.0, expected_s=100.0)
    scheduler = scene(rules(Policy.DEADLINE), [node("a")], late, good)
    assert started(scheduler.decide(1.0)) == ["good"]
    scheduler = scene(rules(Policy.DEADLINE), [node("a")], good, gang("none", 8, at=0.5))
    run(scheduler, gang("runs", 8), a=1)
    decision = scheduler.decide(1.0)
    assert [each.gang for each in decision.waits] == ["good", "none"]
    assert decision.again_at is not None
    assert decision.again_at > 800.0
    # Its time has passed: it is one of many.
    assert [each.gang for each in scheduler.decide(801.0).waits] == ["none", "good"]


def test_nodes_that_go_and_come_are_taken_into_account() -> None:
    scheduler = scene(FIFO, [node("a"), node("b")])
    run(scheduler, gang("runs", 4), a=1, b=1)
    scheduler.set_nodes([node("b"), node("c", 2)])
    scheduler.submit(gang("1", 6, at=1.0))
    scheduler.submit(gang("2", 2, at=2.0))
    assert started(scheduler.decide(3.0)) == ["2"]
    scheduler.release("runs", 4.0)
    assert started(scheduler.decide(4.0)) == ["1", "2"]


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        (gang("1", 9), "cannot start: needs 9 GPUs, 8 on the largest node"),
        (gang("1", 8, 3), "cannot start: needs 3 workers at once, the largest pool has room for 2"),
        (gang("1", pools=("z",)), "cannot start: no node of a pool that it may use is there"),
        (
            gang("1", labels={"zone": "eu"}),
            "cannot start: no node that it may use has the labels that it asks for",
        ),
    ],
)
def test_the_impossible_is_said_at_once_and_stands_in_nobodys_way(demand: Demand, message: str) -> None:
    scheduler = scene(FIFO, [node("a"), node("b")], demand, gang("2", 8, 2, at=9.0))
    decision = scheduler.decide(10.0)
    assert started(decision) == ["2"]
    assert [(each.why, each.message) for each in decision.waits] == [(Cause.IMPOSSIBLE, message)]


def test_withdrawn_gangs_are_forgotten_and_repeated_ones_replaced() -> None:
    scheduler = scene(FIFO, [node("a")], gang("1", 8), gang("2", 8, at=1.0))
    scheduler.withdraw("1")
    scheduler.withdraw("never-heard-of")
    scheduler.submit(gang("2", 4, at=1.0))
    scheduler.submit(gang("2", 4, at=1.0))
    decision = scheduler.decide(2.0)
    assert started(decision) == ["2"]
    assert decision.waits == ()
    assert scheduler.decide(2.0) == decision, "nothing has happened"


def test_who_can_never_start_crowds_nobody_out_of_being_told() -> None:
    never = [gang(f"never{number}", 9, at=float(number)) for number in range(3)]
    scheduler = scene(FIFO, [node("a")], *never, gang("1", 8, at=5.0), gang("2", 8, at=6.0))
    run(scheduler, gang("runs", 8), a=1)
    told = scheduler.decide(10.0, num_explained=3).waits
    assert [(each.gang, each.place) for each in told] == [("1", 1), ("2", 2), ("never0", 3)]


@pytest.mark.parametrize("policy", [Policy.FIFO, Policy.LAS, Policy.DEADLINE])
def test_being_told_the_same_over_and_over_takes_no_room(policy: Policy) -> None:
    """The loop of jobs tells of everybody again each minute."""
    nodes = [node("a", pool="x"), node("b", pool="y")]
    scheduler = Scheduler(rules(policy), nodes)
    running = [gang(name, 7, preemptible=False, expected_s=1e6) for name in "ab"]
    waiting = [gang(f"{number}", 8, at=float(number), expected_s=50.0, deadline_at=1e9) for number in range(20)]
    waiting += [gang(f"small{number}", 1, at=30.0 + number, expected_s=5.0 if number else 1e7) for number in range(20)]

    def tell(times: int) -> int:
        for _ in range(times):
            for demand in running:
                run(scheduler, demand, **{demand.id: 1})
            for demand in waiting:
                scheduler.submit(demand)
            scheduler.decide(10.0)
        return len(pickle.dumps(scheduler))

    before = tell(10)
    assert tell(200) < 2 * before


def test_shapes_that_nobody_has_any_more_are_forgotten() -> None:
    """Whoever submits jobs of ever other sizes leaves nothing behind."""
    scheduler = Scheduler(FIFO, [node("a")])
    run(scheduler, gang("runs", 8), a=1)

    def submit(sizes: range) -> int:
        for size in sizes:
            resources = Resources(cpus=1, gpus=1, memory_bytes=size)
            scheduler.submit(msgspec.structs.replace(gang("1"), resources=resources))
            scheduler.decide(10.0)
        return len(pickle.dumps(scheduler))

    before = submit(range(1, 1_500))
    assert submit(range(1_500, 6_000)) < 2 * before


def test_who_fits_and_is_kept_out_is_never_told_that_nothing_is_free() -> None:
    """What is free is kept for one that was stopped for it."""
    scheduler = scene(FIFO, [node("a")], gang("first", 8, at=1.0, priority=2), gang("second", 4, at=2.0, priority=1))
    run(scheduler, gang("low", 2), a=1)
    run(scheduler, gang("lower", 2, priority=-1), at=1.0, a=1)
    told = {each.gang: each.message for each in scheduler.decide(10.0).waits}
    assert told["second"] == "would fit, but would delay first, which comes first; number 2 in the queue"


def test_demotions_of_those_that_have_ended_are_forgotten() -> None:
    scheduler = scene(rules(Policy.LAS), [node("a")])

    def live(number: int) -> None:
        demand = run(scheduler, gang(f"{number}", 1), at=float(number), a=1)
        scheduler.release(demand.id, number + 1.0)
        scheduler.withdraw(demand.id)

    for number in range(300):
        live(number)
    before = len(pickle.dumps(scheduler))
    for number in range(300, 2_000):
        live(number)
    assert len(pickle.dumps(scheduler)) < 2 * before
