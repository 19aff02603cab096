"""Short ways to write clouds, gangs and what happens to them, for the scenes of the scheduler's tests."""

from typing import Any

from skyloom.core.resources import Resources
from skyloom.rooms.scheduling.model import Decision, Demand, Holding, Node, Placement, Policy, Rulebook
from skyloom.rooms.scheduling.scheduler import Scheduler

FIFO = Rulebook(policy=Policy.FIFO, min_run_s=0)


def node(name: str, gpus: int = 8, pool: str = "", **more: Any) -> Node:
    """A machine of so many GPUs, with CPUs and memory for any."""
    total = Resources(cpus=64, gpus=gpus, memory_bytes=2**38)
    return Node(name=name, pool=pool, total=total, **more)


def gang(name: str, gpus: int = 1, workers: int = 1, at: float = 0.0, project: str = "p", **more: Any) -> Demand:
    """So many workers of so many GPUs each."""
    return Demand(
        id=name,
        project=project,
        resources=Resources(cpus=1, gpus=gpus, memory_bytes=2**30),
        min_workers=workers,
        submitted_at=at,
        **{"max_workers": workers, **more},
    )


def scene(rules: Rulebook, nodes: list[Node], *waiting: Demand) -> Scheduler:
    """A cloud on which these wait."""
    scheduler = Scheduler(rules, nodes)
    for demand in waiting:
        scheduler.submit(demand)
    return scheduler


def run(scheduler: Scheduler, demand: Demand, at: float = 0.0, **placement: int) -> Demand:
    """It runs there since then: ``run(scheduler, gang("1", 4), a=1)``."""
    where: Placement = tuple(placement.items())
    scheduler.hold(Holding(demand=demand, placement=where, started_at=at))
    return demand


def stop(
    scheduler: Scheduler, demand: Demand, at: float, now: float, back: Demand | None = None, **placement: int
) -> None:
    """It is told to stop, stops at once, and waits again."""
    where: Placement = tuple(placement.items())
    scheduler.hold(Holding(demand=demand, placement=where, started_at=at, stopping=True))
    scheduler.release(demand.id, now)
    scheduler.submit(back or demand)


def started(decision: Decision) -> list[str]:
    """Who starts."""
    return [each.gang for each in decision.admissions]


def stopped(decision: Decision) -> list[tuple[str, str, str]]:
    """Who stops, why, and for whom."""
    return [(each.gang, each.why.value, each.for_gang) for each in decision.evictions]


def whys(decision: Decision) -> dict[str, str]:
    """Who waits, and why."""
    return {each.gang: each.why.value for each in decision.waits}
