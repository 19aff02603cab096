"""From jobs to what the scheduler understands, and back: demands, holdings, nodes, and halts made of evictions. Pure."""

from collections import Counter
from collections.abc import Iterable

from skyloom.ports.engine import Machine
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.mirror import LiveGang
from skyloom.rooms.jobs.model import Halt, Job, Reason, Task, TaskState
from skyloom.rooms.pools.fleet import MachineName
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.scheduling.model import Cause, Demand, Eviction, Holding, Node, Placement

_WHY: dict[Cause, str] = {
    Cause.PRIORITY: "made room for {other}, which has a higher priority",
    Cause.POLICY: "made room for {other}: it is its turn",
    Cause.RECLAIM: "made room for {other}, whose project asks back what is its own",
    Cause.SHRINK: "goes on with {workers}, to make room for {other}",
    Cause.GROW: "goes on with {workers}: they were idle",
}


def nodes(machines: Iterable[tuple[MachineName, Machine]]) -> list[Node]:
    """The machines of all pools."""
    return [
        Node(name=place.node, pool=place.pool, total=machine.total, labels=machine.labels)
        for place, machine in machines
    ]


def demand(gang: LiveGang, expected_s: float | None = None) -> Demand:
    """What a job asks for, with what it was given so far.

    Args:
        expected_s: how long such jobs run, where its owner does not say.
    """
    job, spec = gang.job, gang.job.spec
    whole_s = spec.expected_duration_s or expected_s
    each = spec.resources.gpus or spec.resources.cpus
    return Demand(
        id=job.id,
        project=job.project,
        resources=spec.resources,
        min_workers=spec.num_workers,
        max_workers=max(spec.num_workers, spec.max_workers),
        priority=spec.priority,
        submitted_at=job.submitted_at,
        deadline_at=rules.deadline_of(job),
        expected_s=max(1.0, whole_s - gang.served_s / spec.num_workers) if whole_s else None,
        attained_gpu_s=gang.served_s * each,
        preemptible=spec.preemptible,
        pools=spec.pools,
        labels=spec.requires,
    )


def holding(gang: LiveGang, now: float, expected_s: float | None = None) -> Holding:
    """What a started gang holds; tasks that have ended gave theirs back."""
    live = [task for task in gang.tasks if task.state in rules.HOLDING]
    starts = [task.started_at for task in gang.tasks if task.started_at is not None]
    return Holding(
        demand=demand(gang, expected_s),
        placement=tuple(sorted(Counter(place_of(task).node for task in live).items())),
        started_at=min(starts, default=now),
        stopping=gang.job.halt is not None or any(task.state is TaskState.STOPPING for task in live),
    )


def place_of(task: Task) -> MachineName:
    """Where a task runs."""
    return MachineName(task.pool or LOCAL, task.machine)


def places(placement: Placement) -> list[MachineName]:
    """One place for each worker, by rank: workers of one machine have neighbouring ranks."""
    return [MachineName(*node.split("/", 1)) for node, count in placement for _ in range(count)]


def halt(eviction: Eviction, other: Job | None, now: float) -> Halt:
    """What a gang is told that has to stop for others, or to change its size."""
    resized = eviction.why in (Cause.SHRINK, Cause.GROW)
    count = eviction.num_workers or 0
    message = _WHY.get(eviction.why, "made room for {other}").format(
        other=f"job {other.id}" if other else "others", workers=f"{count} worker{'s' if count != 1 else ''}"
    )
    return Halt(
        reason=Reason.RESIZED if resized else Reason.PREEMPTED,
        by=other.id if other else "scheduler",
        at=now,
        message=message,
        num_workers=eviction.num_workers,
    )
