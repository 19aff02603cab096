"""What a job may not ask for: checks of a spec against the clock and the pools, before it is taken in."""

from collections.abc import Iterable

from skyloom.core.labels import matches
from skyloom.core.resources import NOTHING, Resources
from skyloom.rooms.jobs import growth
from skyloom.rooms.jobs.model import DeadlinePassed, ImpossibleRequest, JobSpec
from skyloom.rooms.pools.fleet import Fleet
from skyloom.rooms.pools.model import PoolDown

_MOST = 1_024  # as many workers as a gang may have


def check_size(spec: JobSpec) -> None:
    """Raise `ImpossibleRequest` when an elastic gang has a largest size below its smallest."""
    if spec.max_workers and spec.max_workers < spec.num_workers:
        raise ImpossibleRequest(
            f"The gang is to have at least {spec.num_workers} workers and at most {spec.max_workers}.",
            next_action="Give the smaller number first: 1-8.",
        )


def check_deadline(spec: JobSpec, now: float) -> None:
    """Raise `DeadlinePassed` for a deadline that nothing can meet any more."""
    if spec.deadline_at is not None and spec.deadline_s is not None:
        raise ImpossibleRequest("The job has two deadlines.", next_action="Give deadline_at or deadline_s, not both.")
    if spec.deadline_at is not None and spec.deadline_at <= now:
        raise DeadlinePassed(
            f"The deadline was {now - spec.deadline_at:.0f} s ago.", next_action="Give one in the future, or none."
        )


def check_room(spec: JobSpec, fleet: Fleet) -> None:
    """Raise `ImpossibleRequest`, with the largest that would fit, for what no pool could give even when it is idle.

    A gang never spans pools, nor machines that share no folder; a worker never spans machines. A pool that grows counts by what it may
    become, one that is down by what was last seen of it. Raises `PoolDown` while one that may fit was never seen.
    """
    _check_pools(spec, fleet)
    meant = _meant(spec, fleet)
    if not meant:
        _check_seen(spec, fleet)
        wanted = ", ".join(f"{key}={value}" for key, value in spec.requires.items())
        raise ImpossibleRequest(
            f"No machine has the labels {wanted}." if wanted else "The pools it may run on have no machines.",
            next_action="See what there is: skyloom pool list.",
        )
    most = {pool: sum(_count(spec.resources, total) for total in totals) for pool, totals in meant.items()}
    if max(most.values()) >= spec.num_workers:
        return
    _check_seen(spec, fleet)
    if max(most.values()) > 0:
        pool = max(most, key=lambda name: most[name])
        raise ImpossibleRequest(
            f"The job can never start here: it needs {spec.num_workers} such workers, and at most {most[pool]} fit "
            f"({pool}).",
            next_action=f"Ask for {most[pool]} workers or fewer, or for less for each of them.",
        )
    largest = _largest(total for totals in meant.values() for total in totals)
    missing = spec.resources.shortfall(largest) or ("needs more of everything at once than any one machine has",)
    raise ImpossibleRequest(
        f"The job can never start here: each worker {', '.join(missing)} on the largest machine.".replace(" free", ""),
        next_action="Ask for less for each worker; skyloom status shows what there is.",
    )


def _meant(spec: JobSpec, fleet: Fleet) -> dict[str, list[Resources]]:
    """All machines that the job may use, by what a gang never leaves."""
    meant: dict[str, list[Resources]] = {}
    for name, machine, island in fleet.grounds(down=True):
        if (not spec.pools or name.pool in spec.pools) and matches(machine.labels, spec.requires):
            meant.setdefault(island, []).append(machine.total)
    for link in fleet.links().values():
        if link.pool.grows and growth.may_use(spec, link.pool):
            meant[f"{link.pool.name}, grown"] = growth.ground(spec.resources, link.pool)
    return meant


def _check_seen(spec: JobSpec, fleet: Fleet) -> None:
    """Raise `PoolDown` when a pool that might have what is asked for was never seen since the start."""
    for name, link in fleet.links().items():
        if not link.machines and not link.pool.grows and (not spec.pools or name in spec.pools):
            raise PoolDown(
                f"Pool {name} was not reached yet, and no other has what this job needs.",
                next_action=f"Try again when it is up: skyloom pool show {name}.",
            )


def _check_pools(spec: JobSpec, fleet: Fleet) -> None:
    unknown = sorted(set(spec.pools) - fleet.links().keys())
    if unknown:
        raise ImpossibleRequest(f"There is no pool {unknown[0]!r}.", next_action="List them: skyloom pool list.")


def _count(worker: Resources, total: Resources) -> int:
    """How many such workers fit into one machine."""
    fits = [
        have // need
        for have, need in (
            (total.cpus + 1e-6, worker.cpus),
            (total.gpus, worker.gpus),
            (total.memory_bytes, worker.memory_bytes),
        )
        if need
    ]
    return int(min([*fits, _MOST]))  # of what is next to nothing, more would fit than a number can say


def _largest(totals: Iterable[Resources]) -> Resources:
    """The machine with the most GPUs, CPUs, memory, in this order."""
    return max(totals, key=lambda total: (total.gpus, total.cpus, total.memory_bytes), default=NOTHING)
