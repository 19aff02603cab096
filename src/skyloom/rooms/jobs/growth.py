"""What pools that grow are to be told: gangs that wait for machines which are not there yet. Pure.

Only what a pool may become counts here. Which of its machines are free, and how many more are needed, its own autoscaler knows best:
it is told the gangs that wait, whole, and nothing of those that run.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from skyloom.core.labels import matches
from skyloom.core.resources import Resources
from skyloom.ports.engine import GangWish
from skyloom.rooms.jobs import rules
from skyloom.rooms.jobs.mirror import LiveGang
from skyloom.rooms.jobs.model import JobSpec
from skyloom.rooms.pools.model import Pool
from skyloom.rooms.scheduling.model import Cause, Renting, Rulebook, Wait
from skyloom.rooms.scheduling.vectors import BOUNDLESS, ZERO, Vector, bounds, plus, times_in, vector, within

_MOST_GANGS, _MOST_WORKERS = 50, 1_000  # that one pool is told of, from the head of the queue
Wishes = Mapping[str, Sequence[GangWish]]
"""Name of a pool → what waits for it to grow."""


def wishes(
    waits: Iterable[Wait], gangs: Mapping[str, LiveGang], pools: Sequence[Pool], rulebook: Rulebook
) -> dict[str, list[GangWish]]:
    """Which gangs wait for which pool to grow: each for the first that may ever hold it, in the order of the queue.

    Nobody grows for a gang that its project's ceiling keeps out, alone or together with what the project holds and already waits
    for; nor, where machines are rented for deadlines only, for one that has none and does not name the pool.
    """
    found: dict[str, list[GangWish]] = {}
    if not pools:
        return found
    left = _Ceilings(gangs, rulebook)
    for wait in waits:
        gang = gangs.get(wait.gang)
        if gang is None or wait.why is Cause.QUOTA:
            continue
        pool = next((pool for pool in pools if _would_do(pool, gang, rulebook, found.get(pool.name, ()))), None)
        if pool is not None and left.take(gang):
            found.setdefault(pool.name, []).append(_wish(gang, pool))
    return found


def _wish(gang: LiveGang, pool: Pool) -> GangWish:
    spec = gang.job.spec
    return GangWish(
        gang=gang.job.id, resources=spec.resources, num_workers=spec.num_workers, together=not pool.shared_folder
    )


def _would_do(pool: Pool, gang: LiveGang, rulebook: Rulebook, told: Sequence[GangWish]) -> bool:
    spec = gang.job.spec
    if not may_use(spec, pool) or most_workers(spec.resources, pool) < spec.num_workers:
        return False
    if rulebook.renting is Renting.FOR_DEADLINES and not spec.pools and rules.deadline_of(gang.job) is None:
        return False
    return len(told) < _MOST_GANGS and sum(wish.num_workers for wish in told) + spec.num_workers <= _MOST_WORKERS


class _Ceilings:
    """What projects may still have, now and with the machines that are wished for."""

    def __init__(self, gangs: Mapping[str, LiveGang], rulebook: Rulebook) -> None:
        self._quotas = rulebook.quotas
        self._held: dict[str, Vector] = {}
        for gang in gangs.values() if self._quotas else ():
            live = sum(task.state in rules.HOLDING for task in gang.tasks)
            self._add(gang, live)

    def _add(self, gang: LiveGang, workers: int) -> Vector:
        project = gang.job.project
        self._held[project] = plus(self._held.get(project, ZERO), vector(gang.job.spec.resources), workers)
        return self._held[project]

    def take(self, gang: LiveGang) -> bool:
        """Whether the project may have this gang too; counts it if so."""
        quota = self._quotas.get(gang.job.project)
        workers = gang.job.spec.num_workers
        if quota is None or within(self._add(gang, workers), bounds(quota.ceiling, BOUNDLESS)):
            return True
        self._add(gang, -workers)
        return False


def without(told: Wishes, gang_ids: Collection[str]) -> dict[str, list[GangWish]]:
    """The same, but for gangs that have just got what they waited for."""
    return {pool: [wish for wish in those if wish.gang not in gang_ids] for pool, those in told.items()}


def said(waits: Iterable[Wait], told: Wishes) -> tuple[Wait, ...]:
    """The same waits, saying which pool was asked to grow."""
    pool_of = {wish.gang: pool for pool, those in told.items() for wish in those}
    return tuple(_said(wait, pool_of.get(wait.gang, "")) for wait in waits)


def _said(wait: Wait, pool: str) -> Wait:
    if not pool:
        return wait
    why = "no machine is there that could run it" if wait.why is Cause.IMPOSSIBLE else wait.message
    return msgspec.structs.replace(wait, message=f"{why}; pool {pool} was asked to grow", for_good=())


def may_use(spec: JobSpec, pool: Pool) -> bool:
    """Whether a job may run on the machines that a pool may get: by its name, and the labels that all of them have."""
    return (not spec.pools or pool.name in spec.pools) and matches({"pool": pool.name, **pool.labels}, spec.requires)


def ground(worker: Resources, pool: Pool) -> list[Resources]:
    """The machines that a gang of such workers may span once a pool has grown: all, or one where they share no folder."""
    if pool.shared_folder:
        return [group.resources for group in pool.grows for _ in range(group.most)]
    return [max((group.resources for group in pool.grows), key=lambda machine: _fits(worker, machine))]


def most_workers(worker: Resources, pool: Pool) -> int:
    """How many such workers a gang on a pool may have once it has grown."""
    fits = [(_fits(worker, group.resources), group.most) for group in pool.grows]
    return sum(each * most for each, most in fits) if pool.shared_folder else max(each for each, _ in fits)


def _fits(worker: Resources, machine: Resources) -> int:
    return times_in(vector(machine), vector(worker))
