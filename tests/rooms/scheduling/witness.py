"""A scheduler that is watched: every decision is checked against the promises of the room, by books kept apart and by brute force."""

from collections.abc import Iterable
from math import inf

from skyloom.core.resources import NOTHING, Resources
from skyloom.rooms.scheduling.model import (
    Admission,
    Cause,
    Decision,
    Demand,
    Holding,
    Node,
    Placement,
    Quota,
    Renting,
    Rulebook,
    Wait,
)
from skyloom.rooms.scheduling.policies import rents_from
from skyloom.rooms.scheduling.scheduler import Scheduler

ALL = 10_000


class Witness(Scheduler):
    """Raises ``AssertionError`` at the first decision that breaks a promise.

    Args:
        explained: ask for the reasons as well, and check them; without, the scheduler may take its short cuts.
    """

    def __init__(self, rulebook: Rulebook, nodes: Iterable[Node], explained: bool) -> None:
        self.nodes = tuple(nodes)
        super().__init__(rulebook, self.nodes)
        self.rulebook = rulebook
        self.explained = explained
        self.now = 0.0
        self.waiting: dict[str, Demand] = {}
        self.held: dict[str, Holding] = {}
        self.promised: dict[str, float] = {}
        self.decisions: list[tuple[float, Decision]] = []

    def submit(self, gang: Demand) -> None:
        self.waiting[gang.id] = gang
        super().submit(gang)

    def hold(self, holding: Holding) -> None:
        self.waiting.pop(holding.demand.id, None)
        self.held[holding.demand.id] = holding
        super().hold(holding)

    def release(self, gang_id: str, now: float) -> None:
        self.held.pop(gang_id, None)
        super().release(gang_id, now)

    def decide(self, now: float, num_explained: int = 200) -> Decision:
        self.now = now
        decision = super().decide(now, ALL if self.explained else 0)
        self.decisions.append((now, decision))
        free, used = self.free(), self.used()
        for admission in decision.admissions:
            self._check_admission(admission, free, used, now)
        self._check_evictions(decision, now)
        if decision.again_at is not None:
            assert decision.again_at > now
        if self.explained:
            self._check_waits(decision, free, used)
        return decision

    def free(self) -> dict[str, Resources]:
        """By node; never less than nothing."""
        free = {node.name: node.total for node in self.nodes}
        for holding in self.held.values():
            take(free, holding.placement, holding.demand.resources)
        return free

    def _free_of_ends(self, decision: Decision) -> dict[str, Resources]:
        """By node, when all has ended that ends."""
        free = {node.name: node.total for node in self.nodes}
        for holding in self.held.values():
            if holding.demand.endless and not holding.stopping:
                take(free, holding.placement, holding.demand.resources)
        for admission in decision.admissions:
            if self.waiting[admission.gang].endless:
                take(free, admission.placement, self.waiting[admission.gang].resources)
        return free

    def used(self) -> dict[str, Resources]:
        """By project."""
        used: dict[str, Resources] = {}
        for holding in self.held.values():
            project = holding.demand.project
            used[project] = used.get(project, NOTHING) + holding.demand.resources.times(size(holding.placement))
        return used

    def _check_admission(
        self, admission: Admission, free: dict[str, Resources], used: dict[str, Resources], now: float
    ) -> None:
        gang = self.waiting[admission.gang]
        count = size(admission.placement)
        assert gang.min_workers <= count <= gang.max_workers, "a gang starts whole"
        nodes = {node.name: node for node in self.nodes}
        hosts = [nodes[name] for name, _ in admission.placement]
        assert len({host.name for host in hosts}) == len(hosts) and all(here > 0 for _, here in admission.placement)
        assert len({host.pool for host in hosts}) == 1, "a gang lives in one pool"
        assert all(self.usable(host, gang) for host in hosts)
        take(free, admission.placement, gang.resources)
        used[gang.project] = used.get(gang.project, NOTHING) + gang.resources.times(count)
        assert below(used[gang.project], self.quota(gang.project)), "no ceiling is exceeded"
        promised = self.promised.pop(gang.id, inf)
        assert now <= promised + 1e-6, f"{gang.id} was promised to start by {promised}"

    def _check_evictions(self, decision: Decision, now: float) -> None:
        assert self.rulebook.preempt or not decision.evictions
        admitted = {admission.gang for admission in decision.admissions}
        assert len({eviction.gang for eviction in decision.evictions}) == len(decision.evictions)
        for eviction in decision.evictions:
            holding = self.held[eviction.gang]
            assert not holding.stopping and holding.demand.preemptible
            assert now - holding.started_at >= self.rulebook.min_run_s - 1e-6, "it may run its minimum"
            assert eviction.for_gang not in admitted
            if eviction.why is Cause.GROW:
                assert eviction.num_workers is not None and eviction.num_workers > size(holding.placement)
            elif eviction.why is Cause.SHRINK:
                assert eviction.num_workers is not None and eviction.num_workers < size(holding.placement)
                assert eviction.num_workers >= holding.demand.min_workers
            if eviction.why is not Cause.GROW:
                assert eviction.for_gang in self.waiting
            if eviction.why is Cause.PRIORITY:
                assert self.waiting[eviction.for_gang].priority > holding.demand.priority
            if eviction.why is Cause.RECLAIM:
                assert self.quota(self.waiting[eviction.for_gang].project).guaranteed is not None

    def _check_waits(self, decision: Decision, free: dict[str, Resources], used: dict[str, Resources]) -> None:
        admitted = {admission.gang for admission in decision.admissions}
        left = {gang_id: gang for gang_id, gang in self.waiting.items() if gang_id not in admitted}
        assert sorted(wait.gang for wait in decision.waits) == sorted(left), "everybody who waits is told why"
        assert [wait.place for wait in decision.waits] == list(range(1, len(left) + 1))
        at_ceiling = {
            gang.project for gang in left.values() if not below(self._with(gang, used), self.quota(gang.project))
        }
        for wait in decision.waits:
            gang = left[wait.gang]
            assert wait.message
            fits = self._fits(gang, free)
            if wait.for_good:
                assert wait.why is Cause.RESOURCES and wait.reserved_at is None
                assert not self._fits(gang, self._free_of_ends(decision)), "it waits for work that ends"
            if wait.why is Cause.RESOURCES:
                assert not fits or decision.evictions or self._anybody_stops() or gang.project in at_ceiling, (
                    "work is conserved"
                )
            elif wait.why is Cause.QUOTA:
                assert gang.project in at_ceiling or decision.evictions or self._anybody_stops()
            elif wait.why is Cause.IMPOSSIBLE:
                whole = {node.name: node.total for node in self.nodes}
                assert not (self._fits(gang, whole) and below(self._with(gang, {}), self.quota(gang.project)))
            self._note_promise(wait, gang)
        if not (self.rulebook.preempt or self._anybody_stops()):
            self._check_hopes(decision, left)
        promises = [wait for wait in decision.waits if wait.reserved_at is not None]
        assert len(promises) <= len({node.pool for node in self.nodes})

    def _check_hopes(self, decision: Decision, left: dict[str, Demand]) -> None:
        """Where nobody is ever stopped for another: who could start once all has ended that ends, and nobody else, is waited for."""
        free = self._free_of_ends(decision)
        hopeful = {gang_id for gang_id, gang in left.items() if self._fits(gang, free)}
        # Who lost its hope to one that overtook it in this very decision learns so in the next.
        overtaken = any(
            admission.backfill and self.waiting[admission.gang].endless for admission in decision.admissions
        )
        for wait in decision.waits:
            if wait.why is Cause.TURN:
                assert hopeful - {wait.gang}, "nobody waits for who waits for what never ends"
            if wait.reserved_at is not None:
                assert wait.gang in hopeful, "a promise is never built on the end of what has none"
            if wait.why is Cause.RESOURCES and not overtaken:
                assert bool(wait.for_good) is (wait.gang not in hopeful)

    def _note_promise(self, wait: Wait, gang: Demand) -> None:
        if wait.reserved_at is not None and self.keeps_promises():
            self.promised[gang.id] = min(self.promised.get(gang.id, inf), wait.reserved_at)

    def keeps_promises(self) -> bool:
        """Whether nobody can come in between later who has a right to: all that is promised is kept to the letter then."""
        return False

    def _anybody_stops(self) -> bool:
        return any(holding.stopping for holding in self.held.values())

    def quota(self, project: str) -> Quota:
        return self.rulebook.quotas.get(project, Quota())

    def _with(self, gang: Demand, used: dict[str, Resources]) -> Resources:
        return used.get(gang.project, NOTHING) + gang.resources.times(gang.min_workers)

    def usable(self, node: Node, gang: Demand) -> bool:
        """By pool, labels and price."""
        if not usable(node, gang):
            return False
        if not node.rented or gang.pools or self.rulebook.renting is Renting.FREELY:
            return True
        if gang.deadline_at is None:
            return False
        if rents_from(self.rulebook, gang) <= self.now <= gang.deadline_at:
            return True
        owned = {other.name: other.total for other in self.nodes if not other.rented}
        return not self._fits_on(
            gang, owned, [other for other in self.nodes if not other.rented and usable(other, gang)]
        )

    def _fits(self, gang: Demand, free: dict[str, Resources]) -> bool:
        return self._fits_on(gang, free, [node for node in self.nodes if self.usable(node, gang)])

    def _fits_on(self, gang: Demand, free: dict[str, Resources], nodes: list[Node]) -> bool:
        room: dict[str, int] = {}
        for node in nodes:
            room[node.pool] = room.get(node.pool, 0) + times(free[node.name], gang.resources, gang.min_workers)
        return any(count >= gang.min_workers for count in room.values())


class PromiseWitness(Witness):
    """For traces in which durations are as told, nobody has priority and nobody is stopped."""

    def keeps_promises(self) -> bool:
        return True


def take(free: dict[str, Resources], placement: Placement, each: Resources) -> None:
    """Use up; breaks off where a node has less."""
    for name, count in placement:
        assert not each.times(count).shortfall(free[name]), f"{name} is given more than it has"
        free[name] = free[name].minus(each.times(count))


def times(free: Resources, each: Resources, most: int) -> int:
    """How often ``each`` goes into what is free, ``most`` at most."""
    return next((count for count in range(most, 0, -1) if not each.times(count).shortfall(free)), 0)


def size(placement: Placement) -> int:
    """How many workers."""
    return sum(count for _, count in placement)


def usable(node: Node, gang: Demand) -> bool:
    """By pool and labels."""
    if gang.pools and node.pool not in gang.pools:
        return False
    return all(node.labels.get(key) == value for key, value in gang.labels.items())


def below(used: Resources, quota: Quota) -> bool:
    """Whether a ceiling is kept."""
    top = quota.ceiling
    if top is None:
        return True
    return (
        (top.gpus is None or used.gpus <= top.gpus)
        and (top.cpus is None or used.cpus <= top.cpus + 1e-6)
        and (top.memory_bytes is None or used.memory_bytes <= top.memory_bytes)
    )
