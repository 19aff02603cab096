"""The scheduler's rules, one table or scene each."""

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.model import Allotment, Cause, Demand, Node, Policy, Quota, Rulebook
from skyloom.rooms.scheduling.scheduler import Scheduler

FIFO = Rulebook(policy=Policy.FIFO)


def node(name: str, gpus: int = 8, pool: str = "") -> Node:
    return Node(name=name, pool=pool, total=Resources(cpus=64, gpus=gpus, memory_bytes=2**38))


def gang(name: str, gpus: int = 1, workers: int = 1, at: float = 0.0, project: str = "p", **more: object) -> Demand:
    return Demand(
        id=name,
        project=project,
        resources=Resources(cpus=1, gpus=gpus, memory_bytes=2**30),
        min_workers=workers,
        max_workers=more.pop("max_workers", workers),
        submitted_at=at,
        **more,
    )


def test_fifo_starts_in_order_and_whole_gangs_only() -> None:
    scheduler = Scheduler(FIFO, [node("a"), node("b")])
    for demand in (gang("1", 4, 3), gang("2", 4, 2, at=1.0), gang("3", 1, 1, at=2.0)):
        scheduler.submit(demand)
    decision = scheduler.decide(3.0)
    assert [(each.gang, each.placement, each.backfill) for each in decision.admissions] == [
        ("1", (("a", 2), ("b", 1)), False),
        ("3", (("b", 1),), True),
    ]
    (wait,) = decision.waits
    assert (wait.gang, wait.place, wait.why) == ("2", 1, Cause.RESOURCES)
    assert wait.message == "needs 2 workers of 4 GPUs at once, room for 0 now; next in the queue"


def test_decide_changes_nothing_by_itself() -> None:
    scheduler = Scheduler(FIFO, [node("a"), node("b")])
    for demand in (gang("1", 4, 3), gang("2", 4, 2, at=1.0), gang("3", 1, 1, at=2.0)):
        scheduler.submit(demand)
    assert scheduler.decide(3.0) == scheduler.decide(3.0)


def test_ceiling_holds_back_the_project_and_nobody_else() -> None:
    rules = Rulebook(policy=Policy.FIFO, quotas={"p": Quota(ceiling=Allotment(gpus=4))})
    scheduler = Scheduler(rules, [node("a"), node("b")])
    for demand in (gang("1", 4), gang("2", 4, at=1.0), gang("3", 1, at=2.0), gang("4", 4, project="q"), gang("5", 16)):
        scheduler.submit(demand)
    decision = scheduler.decide(3.0)
    assert [each.gang for each in decision.admissions] == ["1", "4"]
    assert [(each.gang, each.why) for each in decision.waits] == [
        ("2", Cause.QUOTA),
        ("3", Cause.QUOTA),
        ("5", Cause.IMPOSSIBLE),
    ]
    assert decision.waits[1].message.startswith("waits behind 2 of its project")
