"""From jobs to what the scheduler understands, and back: demands, holdings, nodes, and halts made of evictions. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from skyloom.rooms.cost.prices import PriceBook, PriceHistory, PriceList, Tenure
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.mirror import LiveGang
from skyloom.rooms.jobs.model import ENDLESS, Halt, Job, Reason, Task, TaskState
from skyloom.rooms.pools.fleet import MachineName, PoolMachine
from skyloom.rooms.pools.model import LOCAL
from skyloom.rooms.scheduling.model import Cause, Demand, Eviction, Holding, Node, Placement, Wait

_MOST_NAMED = 5
_FOR_GOOD = " until somebody stops them."
_WHY: dict[Cause, str] = {
    Cause.PRIORITY: "made room for {other}, which has a higher priority",
    Cause.POLICY: "made room for {other}: it is its turn",
    Cause.RECLAIM: "made room for {other}, whose project asks back what is its own",
    Cause.SHRINK: "goes on with {workers}, to make room for {other}",
    Cause.GROW: "goes on with {workers}: they were idle",
}


def nodes(grounds: Iterable[PoolMachine], prices: PriceHistory, now: float) -> list[Node]:
    """The machines of all pools, with what they cost now."""
    return [_node(ground, prices.at(ground.name.pool, now)) for ground in grounds]


def _node(ground: PoolMachine, valid: PriceList | None) -> Node:
    total, book = ground.machine.total, valid.prices if valid else PriceBook()
    usd_per_hour = (
        total.cpus * book.cpu_usd_per_hour
        + total.gpus * book.gpu_usd_per_hour
        + total.memory_bytes / 2**30 * book.memory_gib_usd_per_hour
    )
    return Node(
        name=ground.name.node,
        pool=ground.island,
        total=total,
        labels=ground.machine.labels,
        usd_per_hour=usd_per_hour,
        rented=valid is not None and valid.tenure is not Tenure.OWNED and ground.name.pool != LOCAL,
    )


Islands = Mapping[str, tuple[str, ...]]
"""Name of a pool → what a gang on it never leaves; see `PoolMachine`."""


def islands(grounds: Iterable[PoolMachine]) -> Islands:
    """The islands of every pool."""
    found: dict[str, dict[str, None]] = {}
    for ground in grounds:
        found.setdefault(ground.name.pool, {})[ground.island] = None
    return {pool: tuple(names) for pool, names in found.items()}


def demand(gang: LiveGang, of_pool: Islands = MappingProxyType({}), expected_s: float | None = None) -> Demand:
    """What a job asks for, with what it was given so far.

    Args:
        of_pool: the islands of each pool that is up; one that is not there counts as one island.
        expected_s: how long such jobs run, where its owner does not say.
    """
    job, spec = gang.job, gang.job.spec
    # What is stopped some day says nothing about when the next of its name will be.
    whole_s = spec.expected_duration_s or (None if rules.is_endless(spec) else expected_s)
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
        limit_s=spec.max_duration_s,
        endless=rules.is_endless(spec),
        rates=spec.speedups,
        attained_gpu_s=gang.served_s * each,
        preemptible=spec.preemptible,
        pools=tuple(island for pool in spec.pools for island in of_pool.get(pool, (pool,))),
        labels=spec.requires,
    )


def holding(
    gang: LiveGang, now: float, of_pool: Islands = MappingProxyType({}), expected_s: float | None = None
) -> Holding:
    """What a started gang holds; tasks that have ended gave theirs back."""
    live = [task for task in gang.tasks if task.state in rules.HOLDING]
    starts = [task.started_at for task in gang.tasks if task.started_at is not None]
    asked = demand(gang, of_pool, expected_s)
    if len(live) < len(gang.tasks):
        # Some of its workers are done and the others will be: what they left idle is no reason to start it again with more.
        asked = msgspec.structs.replace(asked, min_workers=len(live), max_workers=len(live))
    return Holding(
        demand=asked,
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


def advice(wait: Wait, job: Job, gangs: Mapping[str, LiveGang]) -> str:
    """What the owner of a job can do that waits for what never ends by itself; empty for all others. Names only what is his project's."""
    if not wait.for_good:
        return ""
    holders = [gangs[job_id].job for job_id in wait.for_good if job_id in gangs]
    own = list(dict.fromkeys(_service(holder) for holder in holders if holder.project == job.project))
    if not own:
        return f"Add a machine, or ask for less: services of other projects hold the rest{_FOR_GOOD}"
    named = ", ".join(own[:_MOST_NAMED]) + (f" and {len(own) - _MOST_NAMED} more" if len(own) > _MOST_NAMED else "")
    return f"Scale down or stop {named}; or add a machine, or ask for less: these hold the rest{_FOR_GOOD}"


def _service(job: Job) -> str:
    """``endpoint digits revision 3``."""
    kind = next(iter(sorted(ENDLESS.intersection(job.spec.labels))), "job")
    return f"{kind} {job.spec.name}" if job.spec.name not in ("", kind) else f"{kind} job {job.id}"


def halt(eviction: Eviction, job: Job, other: Job | None, now: float) -> Halt:
    """What a job is told that has to stop for another, or to change its size. Of another project's jobs nobody learns the ids."""
    if other is not None and other.project != job.project:
        who, by = "a job of another project", "scheduler"
    else:
        who, by = (f"job {other.id}", other.id) if other else ("others", "scheduler")
    resized = eviction.why in (Cause.SHRINK, Cause.GROW)
    count = eviction.num_workers or 0
    message = _WHY.get(eviction.why, "made room for {other}").format(
        other=who, workers=f"{count} worker{'s' if count != 1 else ''}"
    )
    return Halt(
        reason=Reason.RESIZED if resized else Reason.PREEMPTED,
        by=by,
        at=now,
        message=message,
        num_workers=eviction.num_workers,
    )
