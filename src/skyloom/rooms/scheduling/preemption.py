"""Who has to stop for whom.

A gang may stop another when it stands before it in one fixed order: first who stays inside its project's guarantee (those who borrow
after them), then priority, then, under SRTF, SRSF and LAS, the policy's own key. A project that holds no more than it is guaranteed
is safe from those who would have to borrow. Only who is preemptible and has run ``min_run_s`` is stopped; only if the beneficiary
starts thereby; and nobody is stopped who could be spared (the worst in line are tried first, then each is spared who can be).

Why this ends: the order in which waiting gangs start is the same order. Whoever was stopped stands behind its beneficiary when it is
back, so it cannot take the room before it, nor stop it in turn. Only service changes the order afterwards (a gang uses up its LAS queue,
or its project its guarantee), and each such change needs ``min_run_s`` of work done, or a queue's worth of it; so between two
stops of one gang there is progress, and a finite trace has finitely many of them.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf

from skyloom.rooms.scheduling.backfill import Promise, awaited
from skyloom.rooms.scheduling.fairness import Standing, Standings
from skyloom.rooms.scheduling.model import Cause, Demand, Eviction, Placement, Rulebook
from skyloom.rooms.scheduling.occupants import Occupant, Occupants
from skyloom.rooms.scheduling.placement import Area, Floor, Shape
from skyloom.rooms.scheduling.policies import PREEMPTIVE, Key
from skyloom.rooms.scheduling.vectors import ZERO, Vector, plus

# So few stops at once are looked for in the line as it is; for more, a sorted copy pays.
_FEW = 32


class Handover:
    """What will be free soon because somebody was told to stop, and for whom it is kept.

    Attributes:
        promise: what is kept, as a limit for all others.
    """

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._soon: Floor | None = None
        self._kept: set[int] = set()
        self._given_back: dict[str, Vector] = {}
        self.leaving: dict[str, Occupant] = {}
        self.promise = Promise("", "", -inf, {})

    def soon(self) -> Floor:
        """The floor as it will be when all have left, less what is kept."""
        if self._soon is None:
            self._soon = self._floor.copy()
            for one in self.leaving.values():
                self._soon.give(one.placement, one.worker)
        return self._soon

    def view(self) -> Floor:
        """The same; the floor as it is now when nobody leaves."""
        return self.soon() if self.leaving else self._floor

    def back(self, project: str) -> Vector:
        """What a project gives back."""
        return self._given_back.get(project, ZERO)

    def leave(self, ones: Iterable[Occupant]) -> None:
        """These give back what they hold, sooner or later."""
        for one in ones:
            self.leaving[one.gang.id] = one
            self._given_back[one.gang.project] = plus(self.back(one.gang.project), one.used)
            if self._soon is not None:
                self._soon.give(one.placement, one.worker)
                self._look(one.placement)

    def keep(self, gang_id: str, placement: Placement, worker: Vector) -> None:
        """That is for this gang, and nobody else may start there meanwhile."""
        self.soon().take(placement, worker)
        self._kept.update(self._places(placement))
        self._look(placement)
        self.promise.gang = gang_id

    def take(self, placement: Placement, worker: Vector, sign: int = 1) -> None:
        """Somebody starts there now (or, with ``sign`` -1, does not after all)."""
        if self._soon is not None:
            if sign > 0:
                self._soon.take(placement, worker)
            else:
                self._soon.give(placement, worker)
            self._look(placement)

    def _places(self, placement: Placement) -> Iterator[int]:
        return (place for name, _ in placement if (place := self._floor.place_of.get(name)) is not None)

    def _look(self, placement: Placement) -> None:
        for place in self._places(placement):
            if place in self._kept:
                self.promise.spare[place] = self.soon().free[place]


class Stops:
    """Finds who has to stop, by the rules above."""

    def __init__(
        self, rulebook: Rulebook, floor: Floor, occupants: Occupants, standings: Standings, claims: Handover, now: float
    ) -> None:
        self._rules = rulebook
        self._floor = floor
        self._occupants = occupants
        self._standings = standings
        self._claims = claims
        self._now = now
        self._by_policy = rulebook.policy in PREEMPTIVE
        self._lines: dict[tuple[str, bool], list[Occupant]] = {}
        self._starts: dict[tuple[str, bool], int] = {}
        self._lowest: int | None = None
        self._worst: Key | None = None
        self.again_at = inf

    def find(self, gang: Demand, shape: Shape, key: Key, borrows: bool, limits: list[Promise]) -> list[Eviction]:
        """Who stops so that a gang that fits nowhere can start; its place is then kept. Nobody, if that cannot be.

        Args:
            key: the gang's, by the policy.
            borrows: it would hold more than its project is guaranteed.
            limits: promises to others that it must not break.
        """
        best: tuple[list[Occupant], Placement] | None = None
        for areas in self._floor.ground.pools(shape):
            found = self._in_pool(gang, shape, areas, key, borrows, limits)
            if found is not None and (best is None or len(found[0]) < len(best[0])):
                best = found
        if best is None:
            return []
        victims, placement = best
        self._claims.leave(victims)
        self._claims.keep(gang.id, placement, shape.worker)
        return [Eviction(gang=one.gang.id, why=self._why(gang, one, borrows), for_gang=gang.id) for one in victims]

    def could(self, gang: Demand, key: Key, borrows: bool) -> bool:
        """Whether anybody at all stands behind it; quick, since it is asked at every decision."""
        if not self._rules.preempt or not self._occupants.all:
            return False
        if not borrows and self._standings.standing(gang.project).guaranteed is not None:
            return True
        if self._lowest is None:
            self._lowest = min(self._occupants.priorities)
            if self._by_policy:
                self._worst = next(self._occupants.worst_first(self._now))[0]
        return self._lowest < gang.priority or (self._worst is not None and key < self._worst)

    def yielding(self, gang: Demand, pool: str, key: Key, borrows: bool) -> dict[str, float]:
        """Who ends at no known time in a pool and need not be waited for, since it may be stopped for a gang; and from when on."""
        if not self.could(gang, key, borrows):
            return {}
        held: dict[str, Vector] = {}
        found: dict[str, float] = {}
        unbounded = (one for one in self._occupants.unbounded(pool) if one.gang.id not in self._claims.leaving)
        for one in sorted(unbounded, key=lambda one: (self._safe(one, borrows), one.gang.priority)):
            standing = self._standings.standing(one.gang.project)
            now_held = held.get(one.gang.project) or plus(standing.held, self._claims.back(one.gang.project), -1)
            if one.gang.preemptible and self._precedes(gang, one, key, borrows, _borrowed(standing, now_held)):
                held[one.gang.project] = plus(now_held, one.used, -1)
                found[one.gang.id] = one.started_at + self._rules.min_run_s
        return found

    def _in_pool(
        self, gang: Demand, shape: Shape, areas: tuple[Area, ...], key: Key, borrows: bool, limits: list[Promise]
    ) -> tuple[list[Occupant], Placement] | None:
        """Who stops, and where it would start then."""
        soon = self._claims.soon()
        with soon.imagined():
            freed = self._enough(gang, shape, areas, self._behind(gang, shape, areas, key, borrows))
            for held in limits:
                held.narrow(soon)
            placement = soon.find_in(areas, shape.worker, shape.min_workers) if freed else None
        return (freed, placement) if placement is not None else None

    def _enough(
        self, gang: Demand, shape: Shape, areas: tuple[Area, ...], victims: Iterator[Occupant]
    ) -> list[Occupant]:
        """The first of these that make room, without those it fits without; they have left the floor then."""
        standing, soon = self._standings.standing(gang.project), self._claims.soon()
        freed: list[Occupant] = []
        back = self._claims.back(gang.project)
        if standing.may_hold(plus(shape.need, back, -1)):
            freed = awaited(soon, shape, areas, victims)
            for one in freed:
                soon.give(one.placement, one.worker)
                back = plus(back, one.used)
        else:
            for one in victims:
                freed.append(one)
                soon.give(one.placement, one.worker)
                back = plus(back, one.used)
                if self._fits(standing, shape, areas, back):
                    break
            else:
                return []
        # The better one's place in line, the sooner it is spared. The last one is needed: without it, it did not fit.
        for one in reversed(freed[:-1]):
            soon.take(one.placement, one.worker)
            if self._fits(standing, shape, areas, plus(back, one.used, -1)):
                freed.remove(one)
                back = plus(back, one.used, -1)
            else:
                soon.give(one.placement, one.worker)
        return freed

    def _fits(self, standing: Standing, shape: Shape, areas: tuple[Area, ...], back: Vector) -> bool:
        if not standing.may_hold(plus(shape.need, back, -1)):
            return False
        return self._claims.soon().find_in(areas, shape.worker, shape.min_workers) is not None

    def _behind(
        self, gang: Demand, shape: Shape, areas: tuple[Area, ...], key: Key, borrows: bool
    ) -> Iterator[Occupant]:
        """Who stands behind it and runs in a pool, the worst in line first; each is taken as stopped once it was yielded.

        At its project's ceiling only its own project's gangs can make room for it.
        """
        held: dict[str, Vector] = {}
        own = self._standings.standing(gang.project)
        own_only = not own.may_hold(plus(shape.need, self._claims.back(gang.project), -1))
        for one in self._candidates(gang, areas[0].pool, key, borrows):
            if own_only and one.gang.project != gang.project:
                continue
            standing = self._standings.standing(one.gang.project)
            now_held = held.get(one.gang.project) or plus(standing.held, self._claims.back(one.gang.project), -1)
            if self._precedes(gang, one, key, borrows, _borrowed(standing, now_held)):
                held[one.gang.project] = plus(now_held, one.used, -1)
                yield one

    def _candidates(self, gang: Demand, pool: str, key: Key, borrows: bool) -> Iterator[Occupant]:
        """Who can be stopped in a pool, the worst in line first, up to where nobody can stand behind this gang any more."""
        plain = not self._rules.quotas
        leaving = self._claims.leaving
        if self._by_policy and plain and len(self._occupants.priorities) == 1 and len(leaving) < _FEW:
            # The usual case, without looking at each.
            priority = next(iter(self._occupants.priorities))
            for own_key, one in self._occupants.worst_first(self._now):
                if gang.priority < priority or (gang.priority == priority and own_key <= key):
                    return
                if one.pool == pool and one.gang.id not in leaving and self._stoppable(one):
                    yield one
            return
        line, start = self._line(pool, borrows)
        for one in islice(line, start, None):
            if plain and (
                one.gang.priority > gang.priority or not (self._by_policy or one.gang.priority < gang.priority)
            ):
                return
            if one.gang.id not in leaving:
                yield one

    def _line(self, pool: str, borrows: bool) -> tuple[list[Occupant], int]:
        """All that can be stopped in a pool, and from where on: who borrows first if a guarantee is asked for, then by priority."""
        at = pool, borrows
        line = self._lines.get(at)
        if line is None:
            if self._by_policy:
                everybody = [one for _, one in self._occupants.worst_first(self._now)]
            else:
                everybody = sorted(self._occupants.all.values(), key=lambda one: (-one.started_at, one.gang.id))
            line = self._lines[at] = [one for one in everybody if one.pool == pool and self._stoppable(one)]
            line.sort(key=lambda one: (self._safe(one, borrows), one.gang.priority))
        start = self._starts.get(at, 0)
        # Whoever was told to stop is passed over once, not by everyone who looks for room.
        while start < len(line) and line[start].gang.id in self._claims.leaving:
            start += 1
        self._starts[at] = start
        return line, start

    def _safe(self, one: Occupant, borrows: bool) -> bool:
        return borrows or not _borrowed(self._standings.standing(one.gang.project), None)

    def _precedes(self, gang: Demand, one: Occupant, key: Key, borrows: bool, victim_borrows: bool) -> bool:
        if one.gang.project != gang.project and borrows != victim_borrows:
            return victim_borrows
        if one.gang.priority != gang.priority:
            return gang.priority > one.gang.priority
        return self._by_policy and key < self._occupants.key(one, self._now)

    def _stoppable(self, one: Occupant) -> bool:
        if one.stopping or not one.gang.preemptible:
            return False
        ready_at = one.started_at + self._rules.min_run_s
        if ready_at > self._now:
            self.again_at = min(self.again_at, ready_at)
            return False
        return True

    def _why(self, gang: Demand, one: Occupant, borrows: bool) -> Cause:
        if (
            gang.project != one.gang.project
            and not borrows
            and gang.priority <= one.gang.priority
            and self._rules.quotas
        ):
            return Cause.RECLAIM
        return Cause.PRIORITY if gang.priority > one.gang.priority else Cause.POLICY


def _borrowed(standing: Standing, held: Vector | None) -> bool:
    """Whether a project holds more than it is guaranteed."""
    if standing.guaranteed is None:
        return True
    have = standing.held if held is None else held
    return any(mine > own for mine, own in zip(have, standing.guaranteed, strict=True))
