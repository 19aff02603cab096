"""One decision: through the line from its head, each gang starts, gets a promise, or learns why it waits.

Nothing that is done here outlives the round: the floor, the line and the standings are as before when it ends.

*Work is conserved*: after a round no gang waits that would fit into what is free and not promised, is below its project's ceiling,
and is not behind a gang of its own project that waits for that ceiling. (Without `Rulebook.backfill`: and in whose pools nobody before
it waits who could start there in time, see `hope`.)

Promises are for policies that stop nobody. Under SRTF, SRSF and LAS whoever fits may run, as in the papers, because who comes
first takes back what it needs; there only gangs that cannot be stopped are kept from what was promised.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from heapq import heapify, heappop, heappush, merge
from math import inf

from skyloom.rooms.scheduling.backfill import Promise, promise
from skyloom.rooms.scheduling.elasticity import Resizes, Widening, widen
from skyloom.rooms.scheduling.fairness import Standing, Standings
from skyloom.rooms.scheduling.hope import Hope
from skyloom.rooms.scheduling.model import Cause, Demand, Eviction, Holding, Placement, Policy, Rulebook
from skyloom.rooms.scheduling.occupants import Occupant, Occupants, demoted_at, pool_of, size
from skyloom.rooms.scheduling.placement import Floor, Shape
from skyloom.rooms.scheduling.policies import PREEMPTIVE, ends_within_s, queue_of
from skyloom.rooms.scheduling.preemption import Handover, Stops
from skyloom.rooms.scheduling.queue import Entry, Group, Queue
from skyloom.rooms.scheduling.vectors import ZERO, Vector, plus, within

OTHERS = "others"  # who stands before a gang, where it is not one in particular

# A group's turn against the others': who stays inside a guarantee, priority, who was promised to go on, the policy.
Rank = tuple[object, ...]


class Refusal:
    """Why a gang does not start now; told for the first of a group, it holds for the whole group."""

    __slots__ = ("ahead", "for_good", "left", "promise", "why")

    def __init__(
        self, why: Cause, ahead: str = "", promised: Promise | None = None, left: Vector | None = None
    ) -> None:
        self.why = why
        self.ahead = ahead
        self.promise = promised
        self.left = left
        self.for_good: tuple[str, ...] = ()


class Round:
    """One pass over the line."""

    def __init__(
        self,
        rulebook: Rulebook,
        floor: Floor,
        queue: Queue,
        occupants: Occupants,
        standings: Standings,
        resuming: dict[str, int],
        now: float,
    ) -> None:
        self.rules = rulebook
        self.floor = floor
        self.queue = queue
        self.occupants = occupants
        self.standings = standings
        self.now = now
        self.starts: list[Widening] = []
        self.overtook: set[str] = set()
        self.evictions: list[Eviction] = []
        self.refusals: dict[Group, Refusal] = {}
        self.told: dict[str, Refusal] = {}  # by gang, where it is not that of its group
        self.served: set[str] = set()  # those for whom others make room
        self._resuming = resuming
        self._owed: list[tuple[Entry, Shape, bool, Refusal]] = []
        self._asked: dict[str, Vector] = {}  # by project: what it is guaranteed and could not get
        self._num_told: dict[Group, int] = {}
        self._shares: dict[str, float] = {}
        self._full: set[Shape] = set()  # shapes that do not fit any more
        self._gives_way = rulebook.preempt and rulebook.policy in PREEMPTIVE
        self._promises: dict[str, Promise] = {}
        self._taken: list[tuple[Group, Entry]] = []  # who starts
        self._aside: list[tuple[Group, Entry]] = []  # who waits and is explained by itself
        self._started: dict[str, list[Occupant]] = {}
        self._held_before: dict[str, tuple[Standing, Vector]] = {}
        self._at_ceiling: dict[str, str] = {}
        self._overdrawn: set[str] = set()
        self._wanted: set[str] = set()
        self._claims = Handover(floor)
        self._claims.leave(occupants.stopping.values())
        self._stops = Stops(rulebook, floor, occupants, standings, self._claims, now)
        self._resizes = Resizes(rulebook, floor, queue, occupants, standings, self._claims, now)
        self.hope = Hope(floor, occupants, self._stops, self._claims)

    @contextmanager
    def on_trial(self) -> Iterator[None]:
        """Whatever the round takes and charges inside is undone at the end."""
        with self.floor.imagined():
            try:
                yield
            finally:
                for standing, held in self._held_before.values():
                    standing.held = held
                _put_back(self._taken)
                _put_back(self._aside)

    def idle(self) -> bool:
        """Whether nothing can start, stop or be resized now: most often so, and quick to see."""
        if self._claims.leaving or (self.rules.elastic and self.occupants.num_elastic):
            return False
        floor = self.floor
        for group in self.queue.groups():
            shape = group.shape
            if shape.refused != (floor, floor.news) and floor.find(shape, shape.min_workers) is not None:
                return False
            entry = group.first() if self.rules.preempt else None
            if entry is not None and self._stops.could(entry[2], entry[0], not group.project):
                return False
        return True

    def run(self, explained: bool = True) -> None:
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
            if self._pass(group, entry, not now_ranked[0]):
                following = group.first()
                if following is not None:
                    heappush(line, (self.rank(group, following), number, group))
        self._resize()
        if explained:
            self.promise_owed()
        _put_back(self._aside)

    def again_at(self) -> float:
        """When time alone may bring another decision."""
        return min(self._stops.again_at, self._resizes.again_at, self._first_demotion())

    def _first_demotion(self) -> float:
        """Of those that start now and have others waiting behind them."""
        if self.rules.policy is not Policy.LAS or len(self.queue) == len(self.starts):
            return inf
        return min(
            (
                demoted_at(
                    self.rules,
                    start.gang,
                    queue_of(self.rules, start.gang.attained_gpu_s),
                    size(start.placement),
                    self.now,
                )
                for start in self.starts
            ),
            default=inf,
        )

    def rank(self, group: Group, entry: Entry) -> Rank:
        """Whose turn it is among groups, the smallest first."""
        if not group.project:
            return (True, -group.priority, not group.resumed, entry[0])
        standing = self.standings.standing(group.project)
        asked = self._asked.get(group.project)
        need = plus(group.shape.need, asked) if asked else group.shape.need
        borrows = group.project in self._overdrawn or not standing.entitled(need)
        if self.rules.policy is Policy.FAIR:
            share = self._shares.get(group.project)
            if share is None:
                share = self._shares[group.project] = self.standings.share(group.project, self.now)
            return (borrows, -group.priority, not group.resumed, (share, *entry[0]))
        return (borrows, -group.priority, not group.resumed, entry[0])

    def charge(self, gang: Demand, more: Vector) -> None:
        """A project holds more, for as long as the round lasts."""
        standing = self.standings.standing(gang.project)
        self._held_before.setdefault(gang.project, (standing, standing.held))
        standing.held = plus(standing.held, more)
        self._shares.pop(gang.project, None)

    def _heads(self) -> Iterator[tuple[Group, Entry]]:
        guaranteed: dict[str, list[tuple[tuple[object, ...], Group]]] = {}
        heads = []
        for group in self.queue.groups():
            entry = group.first()
            if entry is not None:
                heads.append((group, entry))
                if group.project and self.standings.standing(group.project).guaranteed is not None:
                    own_place = (-group.priority, not group.resumed, entry[0])
                    guaranteed.setdefault(group.project, []).append((own_place, group))
        for project, own in guaranteed.items():
            # A guarantee is used in the order of the project's own line: if its first needs more, those behind get none of it.
            first = min(own, key=lambda item: item[0])[1]
            if not self.standings.standing(project).entitled(first.shape.need):
                self._overdrawn.add(project)
        yield from heads

    def _pass(self, group: Group, entry: Entry, entitled: bool) -> bool:
        """Look at the first of a group; returns whether its next is to be looked at as well."""
        gang, shape = entry[2], group.shape
        refusal = self._try(group, entry, entitled)
        if refusal is None:
            return True
        if gang.id in self.served:
            self._step_aside(group, entry, refusal)
            self.charge(gang, shape.need)
            return True
        if refusal.why not in (Cause.RESOURCES, Cause.TURN):
            self.refusals[group] = refusal
            return False
        if refusal.for_good:
            # Nobody has to wait until what never ends has ended.
            self.refusals[group] = refusal
            return False
        self._wanted.update(self.hope.pools(entry, shape, not entitled))
        if entitled and group.project:
            self._asked[group.project] = plus(self._asked.get(group.project, ZERO), shape.need)
        if refusal.why is Cause.TURN:
            self._overtake(group)
        if self._is_owed_more(group):
            # Every pool protects its first in line, and that may be the next of this group.
            self._step_aside(group, entry, refusal)
            return True
        self.refusals[group] = refusal
        return False

    def _step_aside(self, group: Group, entry: Entry, refusal: Refusal) -> None:
        """Out of the line, as far as this round is concerned; it waits, and is explained by itself."""
        self.told[entry[2].id] = refusal
        group.drop(entry[2].id)
        self._aside.append((group, entry))

    def _is_owed_more(self, group: Group) -> bool:
        num_told = self._num_told[group] = self._num_told.get(group, 0) + 1
        return num_told < len(self.floor.ground.pool_names(group.shape)) and len(group) > 1

    def _try(self, group: Group, entry: Entry, entitled: bool) -> Refusal | None:
        """Start the first of a group, or say why not."""
        gang, shape = entry[2], group.shape
        standing = self.standings.standing(gang.project)
        if not within(shape.need, standing.ceiling) or not self.floor.ground.can_ever(shape):
            return Refusal(Cause.IMPOSSIBLE)
        ahead = self._at_ceiling.get(gang.project)
        if ahead is not None:
            return Refusal(Cause.QUOTA, ahead)
        if not standing.may_hold(shape.need):
            refusal = Refusal(Cause.QUOTA, left=plus(standing.ceiling, standing.held, -1))
            if not self._make_room(group, entry, entitled, refusal):
                self._at_ceiling[gang.project] = gang.id
            return refusal
        placement, ahead = self._find(gang, shape)
        if placement is not None:
            self._admit(group, entry, placement)
            return None
        refusal = Refusal(Cause.TURN if ahead else Cause.RESOURCES, ahead)
        if not self._make_room(group, entry, entitled, refusal):
            if refusal.why is Cause.RESOURCES and not self.hope.pools(entry, shape, not entitled):
                refusal.for_good = self.hope.holders(shape)
            else:
                self._owed.append((entry, shape, entitled, refusal))
        return refusal

    def _make_room(self, group: Group, entry: Entry, entitled: bool, refusal: Refusal) -> bool:
        """Whether enough is being given back for a gang, or somebody can be told to give it back."""
        key, _, gang = entry
        can_stop = self._stops.could(gang, key, not entitled)
        if not (can_stop or self._claims.leaving or (self.rules.elastic and self.occupants.num_elastic)):
            return False
        limits = self._limits(gang)
        room = self._await_leaving(gang, group.shape, limits)
        if not room:
            stopped = self._resizes.shrink(gang, group.shape, limits)
            if can_stop and not stopped:
                stopped = self._stops.find(gang, group.shape, key, not entitled, limits)
            self.evictions += stopped
            room = bool(stopped)
        if room:
            refusal.ahead = ""
            self.served.add(gang.id)
        return room

    def _await_leaving(self, gang: Demand, shape: Shape, limits: list[Promise]) -> bool:
        standing, back = self.standings.standing(gang.project), self._claims.back(gang.project)
        if not self._claims.leaving or not standing.may_hold(plus(shape.need, back, -1)):
            return False
        soon = self._claims.soon()
        with soon.imagined():
            for held in limits:
                held.narrow(soon)
            placement = soon.find(shape, shape.min_workers)
        if placement is not None:
            self._claims.keep(gang.id, placement, shape.worker)
        return placement is not None

    def _overtake(self, group: Group) -> None:
        """Others of a group whose first would delay a promise may be brief enough not to: the briefest first.

        (Shortest-job backfill: Tsafrir, Etsion and Feitelson, "Backfilling using system-generated predictions", TPDS 2007.)
        """
        while self.rules.backfill:
            entry = group.briefest()
            if entry is None or not self.standings.standing(entry[2].project).may_hold(group.shape.need):
                return
            placement, _ = self._find(entry[2], group.shape)
            if placement is None:
                return
            self._admit(group, entry, placement)

    def promise_owed(self) -> None:
        """Promise room to those who were refused; put off until somebody could take it from them."""
        for entry, shape, entitled, refusal in self._owed:
            if self._gives_way and not self.queue.num_fixed:
                break
            if not self._promises.keys() >= self.floor.ground.pool_names(shape):
                refusal.promise = self._promise(entry, shape, not entitled)
        self._owed.clear()

    def _promise(self, entry: Entry, shape: Shape, borrows: bool) -> Promise | None:
        """Promise room where it can start the soonest, in a pool that protects nobody yet."""
        key, _, gang = entry
        found: Promise | None = None
        floor = self._claims.view()
        hopeful = self.hope.pools(entry, shape, borrows)
        for areas in floor.ground.pools(shape):
            pool = areas[0].pool
            if pool in hopeful and pool not in self._promises:
                leaving = self._leaving(pool, self._stops.yielding(gang, pool, key, borrows))
                made = promise(floor, gang.id, shape, areas, leaving, self.now)
                if made is not None and (found is None or made.at < found.at):
                    found = made
        if found is not None:
            self._promises[found.pool] = found
        return found

    def _leaving(self, pool: str, yielding: Mapping[str, float]) -> Iterable[tuple[float, Occupant]]:
        """Who ends in a pool or can be stopped there, and when, the soonest first."""
        gone = self._claims.leaving.keys() | yielding.keys()
        ends = ((one.leaves, one) for one in self.occupants.by_end(pool) if one.gang.id not in gone)
        new = sorted((one.leaves, one) for one in self._started.get(pool, ()) if not one.gang.endless)
        stops = sorted(((at, 0.0, gang_id), self.occupants.all[gang_id]) for gang_id, at in yielding.items())
        return ((end[0], one) for end, one in merge(ends, new, stops, key=lambda item: item[0]))

    def _limits(self, gang: Demand) -> list[Promise]:
        """The promises that this gang could break."""
        if self._gives_way and gang.preemptible:
            return []
        self.promise_owed()
        ends_at = self.now + ends_within_s(gang) if self.rules.backfill else inf
        return [held for held in self._promises.values() if not held.allows(ends_at)]

    def _find(self, gang: Demand, shape: Shape) -> tuple[Placement | None, str]:
        """Where a gang goes; or nowhere, and for whose sake, where it would fit otherwise."""
        if shape in self._full:
            return None, ""
        placement = self.floor.find(shape, shape.min_workers)
        if placement is None:
            self._full.add(shape)
            return None, ""
        limits = self._limits(gang)
        if self._claims.promise.spare:
            limits = [self._claims.promise, *limits]
        closed = () if self.rules.backfill else self._wanted
        if not limits and not closed:
            return placement, ""
        with self.floor.imagined():
            for held in limits:
                held.narrow(self.floor)
            allowed = self.floor.find(shape, shape.min_workers, closed)
        return allowed, "" if allowed else (limits[0].gang if limits else OTHERS)

    def _admit(self, group: Group, entry: Entry, placement: Placement) -> None:
        gang, worker = entry[2], group.shape.worker
        pool = pool_of(placement, self.floor)
        for held in self._limits(gang):
            held.use(self.floor, placement, worker)
        if pool in self._wanted:
            self.overtook.add(gang.id)
        self.floor.take(placement, worker)
        self._claims.take(placement, worker)
        self.charge(gang, group.shape.need)
        group.drop(gang.id)
        self._taken.append((group, entry))
        self.starts.append(
            Widening(
                gang=gang, shape=group.shape, placement=placement, most=self._resuming.get(gang.id, gang.max_workers)
            )
        )
        one = Occupant(Holding(demand=gang, placement=placement, started_at=self.now), pool)
        self._started.setdefault(pool, []).append(one)
        if gang.endless:
            self.hope.give_up(one)

    def _resize(self) -> None:
        """Elastic gangs take what is left: those that start, at once; those that run, where nobody waits for it."""
        elastic = [start for start in self.starts if start.shape.max_workers > start.shape.min_workers]
        if not self.rules.elastic or not (elastic or self.occupants.num_elastic):
            return
        self.promise_owed()
        limits = [*self._promises.values(), self._claims.promise]
        # Who is out of everybody's way in time even with its fewest workers may use what is promised meanwhile.
        late = {start.gang.id for start in elastic if self._limits(start.gang)}
        self._widen([start for start in elastic if start.gang.id not in late], [self._claims.promise])
        self._widen([start for start in elastic if start.gang.id in late], limits)
        if self.rules.preempt:
            # Whoever was stopped to be resized comes back for what is free now, and does not wait for it yet.
            coming_back = {one.pool for one in self.occupants.stopping.values() if one.gang.id in self._resuming}
            self.evictions += self._resizes.grow(limits, self._wanted | coming_back)

    def _widen(self, elastic: list[Widening], limits: list[Promise]) -> None:
        for start in elastic:
            wanted = not self._wanted.isdisjoint(self.floor.ground.pool_names(start.shape))
            start.stays = wanted
            if not wanted:
                start.most = start.gang.max_workers
            elif self._gives_way:
                start.most = min(start.most, start.shape.min_workers)
        before = [(start.placement, start.shape.worker) for start in elastic]
        with self.floor.imagined():
            for held in limits:
                held.narrow(self.floor)
            widen(self.floor, self.standings, elastic)
        for (placement, worker), start in zip(before, elastic, strict=True):
            self.floor.give(placement, worker)
            self.floor.take(start.placement, worker)
            self._claims.take(placement, worker, -1)
            self._claims.take(start.placement, worker)
            self.charge(start.gang, plus(ZERO, worker, size(start.placement) - size(placement)))


def _put_back(passed: list[tuple[Group, Entry]]) -> None:
    while passed:
        group, entry = passed.pop()
        group.add(entry)
