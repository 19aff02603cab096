"""One decision: through the line from its head, each gang starts, gets a promise, or learns why it waits.

Nothing that is done here outlives the round: the floor and the accounts are as before when it ends.

*Work is conserved*: after a round no gang waits that would fit into what is free and not promised, is below its project's ceiling,
and is not behind a gang of its own project that waits for that ceiling.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from heapq import heapify, heappop, heappush

from skyloom.rooms.scheduling.backfill import Promise, reserve
from skyloom.rooms.scheduling.fairness import Standing, Standings
from skyloom.rooms.scheduling.model import Cause, Demand, Eviction, Holding, Placement, Policy, Rulebook
from skyloom.rooms.scheduling.occupants import Occupant, Occupants, pool_of
from skyloom.rooms.scheduling.placement import Floor, Shape
from skyloom.rooms.scheduling.policies import remaining_s, speed
from skyloom.rooms.scheduling.queue import Entry, Group, Queue
from skyloom.rooms.scheduling.vectors import ZERO, Vector, plus, within

# A group's turn against the others': who stays inside a guarantee, priority, who was promised to go on, the policy.
Rank = tuple[object, ...]


class Refusal:
    """Why the first of a group, and with it the whole group, does not start now."""

    __slots__ = ("ahead", "left", "reservation", "why")

    def __init__(
        self, why: Cause, ahead: str = "", reservation: Promise | None = None, left: Vector | None = None
    ) -> None:
        self.why = why
        self.left = left
        self.ahead = ahead
        self.reservation = reservation


class Round:
    """One pass over the line."""

    def __init__(
        self, rulebook: Rulebook, floor: Floor, queue: Queue, occupants: Occupants, standings: Standings, now: float
    ) -> None:
        self.rules = rulebook
        self.floor = floor
        self.queue = queue
        self.occupants = occupants
        self.standings = standings
        self.now = now
        self.started: list[tuple[Group, Entry, Occupant, bool]] = []
        self.evictions: list[Eviction] = []
        self.refusals: dict[int, Refusal] = {}
        self.reservations: dict[str, Promise] = {}
        self._started: dict[str, list[Occupant]] = {}
        self._held_before: dict[str, tuple[Standing, Vector]] = {}
        self._at_ceiling: dict[str, str] = {}

    @contextmanager
    def on_trial(self) -> Iterator[None]:
        """Whatever the round takes and charges inside is undone at the end."""
        with self.floor.imagined():
            try:
                yield
            finally:
                for standing, held in self._held_before.values():
                    standing.held = held
                self._held_before.clear()
                for group, entry, _, _ in self.started:
                    group.add(entry)

    def run(self) -> None:
        """Start what may start, promise what may not."""
        line = [(self.rank(group, entry), number, group) for number, (group, entry) in enumerate(self._heads())]
        heapify(line)
        while line:
            rank, number, group = heappop(line)
            entry = group.first()
            if entry is None:
                continue
            now_ranked = self.rank(group, entry)
            if line and now_ranked > rank:
                # Others started since it was ranked, and it comes later now: shares and guarantees only ever get used up.
                heappush(line, (now_ranked, number, group))
                continue
            refusal = self._try(group, entry)
            if refusal is None:
                following = group.first()
                if following is not None:
                    heappush(line, (self.rank(group, following), number, group))
            else:
                self.refusals[id(group)] = refusal
                if refusal.why is Cause.TURN:
                    self._overtake(group)
        self._widen()

    def _heads(self) -> Iterator[tuple[Group, Entry]]:
        for group in self.queue.groups():
            entry = group.first()
            if entry is not None:
                yield group, entry

    def rank(self, group: Group, entry: Entry) -> Rank:
        """Whose turn it is among groups, the smallest first."""
        if not group.project:
            return (True, -group.priority, not group.resumed, entry[0])
        borrows = not self.standings.standing(group.project).entitled(group.shape.need)
        if self.rules.policy is Policy.FAIR:
            share = self.standings.share(group.project, self.now)
            return (borrows, -group.priority, not group.resumed, (share, *entry[0]))
        return (borrows, -group.priority, not group.resumed, entry[0])

    def _try(self, group: Group, entry: Entry) -> Refusal | None:
        """Start the first of a group, or say why not; the first in line that does not fit gets a promise."""
        gang, shape = entry[2], group.shape
        standing = self.standings.standing(gang.project)
        if not within(shape.need, standing.ceiling) or not self.floor.can_ever(shape):
            return Refusal(Cause.IMPOSSIBLE)
        ahead = self._at_ceiling.get(gang.project)
        if ahead is not None:
            return Refusal(Cause.QUOTA, ahead)
        if not standing.may_hold(shape.need):
            self._at_ceiling[gang.project] = gang.id
            return Refusal(Cause.QUOTA, left=plus(standing.ceiling, standing.held, -1))
        placement, ahead = self._find(shape, self._ends_at(gang))
        if placement is not None:
            self._admit(group, entry, placement)
            return None
        why = Cause.TURN if ahead else Cause.RESOURCES
        return Refusal(why, ahead, self._promise(gang, shape))

    def _overtake(self, group: Group) -> None:
        """Others of a group whose first would delay a promise may be brief enough not to: the briefest first.

        (Shortest-job backfill: Tsafrir, Etsion and Feitelson, "Backfilling using system-generated predictions", TPDS 2007.)
        """
        while self.rules.backfill:
            entry = group.briefest()
            if entry is None or not self.standings.standing(entry[2].project).may_hold(group.shape.need):
                return
            placement, _ = self._find(group.shape, self._ends_at(entry[2]))
            if placement is None:
                return
            self._admit(group, entry, placement)

    def _promise(self, gang: Demand, shape: Shape) -> Promise | None:
        """Reserve where it can start the soonest, in a pool that protects nobody yet."""
        found: Promise | None = None
        for areas in self.floor.pools(shape):
            pool = areas[0].pool
            if pool in self.reservations:
                continue
            ends = [self.occupants.by_end(pool), sorted(self._started.get(pool, ()), key=lambda run: run.end)]
            held = reserve(self.floor, gang.id, shape, areas, ends, self.now)
            if held is not None and (found is None or held.at < found.at):
                found = held
        if found is not None:
            self.reservations[pool_of(found.placement, self.floor)] = found
        return found

    def _find(self, shape: Shape, ends_at: float) -> tuple[Placement | None, str]:
        """Where a gang goes; or nowhere, and for whose sake, where it would fit otherwise."""
        placement = self.floor.find(shape, shape.min_workers)
        if placement is None or not self.reservations:
            return placement, ""
        limits = [held for held in self.reservations.values() if not (self.rules.backfill and held.allows(ends_at))]
        with self.floor.imagined():
            for held in limits:
                held.narrow(self.floor, whole_pool=not self.rules.backfill)
            allowed = self.floor.find(shape, shape.min_workers)
        return (allowed, "") if allowed else (None, limits[0].gang)

    def _ends_at(self, gang: Demand) -> float:
        return self.now + remaining_s(gang)

    def _admit(self, group: Group, entry: Entry, placement: Placement) -> None:
        gang, worker = entry[2], group.shape.worker
        pool = pool_of(placement, self.floor)
        self.floor.take(placement, worker)
        self.charge(gang, group.shape.need)
        for held in self.reservations.values():
            if not held.allows(self._ends_at(gang)):
                held.use(self.floor, placement, worker)
        group.drop(gang.id)
        run = Occupant(Holding(demand=gang, placement=placement, started_at=self.now), pool)
        self.started.append((group, entry, run, pool in self.reservations))
        self._started.setdefault(pool, []).append(run)

    def charge(self, gang: Demand, more: Vector) -> None:
        """A project holds more, for as long as the round lasts."""
        standing = self.standings.standing(gang.project)
        self._held_before.setdefault(gang.project, (standing, standing.held))
        standing.held = plus(standing.held, more)

    def _widen(self) -> None:
        """Elastic gangs that start take what nobody else can use, the one that gains most by a worker first."""
        if not self.rules.elastic:
            return
        for at, (group, entry, run, overtook) in enumerate(self.started):
            gang, shape = entry[2], group.shape
            if shape.max_workers == shape.min_workers:
                continue
            standing = self.standings.standing(gang.project)
            self.floor.give(run.placement, shape.worker)
            best = run.placement
            with self.floor.imagined():
                for held in self.reservations.values():
                    held.narrow(self.floor)
                for count in range(shape.max_workers, shape.min_workers, -1):
                    if not standing.may_hold(plus(ZERO, shape.worker, count - shape.min_workers)):
                        continue
                    wider = self.floor.find(shape, count)
                    if wider is not None and speed(gang, count) > speed(gang, count - 1):
                        best = wider
                        break
            self.floor.take(best, shape.worker)
            if best is not run.placement:
                more = plus(ZERO, shape.worker, sum(n for _, n in best) - shape.min_workers)
                self.charge(gang, more)
                self.started[at] = (
                    group,
                    entry,
                    Occupant(Holding(demand=gang, placement=best, started_at=self.now), run.pool),
                    overtook,
                )
