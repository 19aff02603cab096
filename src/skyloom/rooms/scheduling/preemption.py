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
from math import inf

from skyloom.rooms.scheduling.backfill import Promise, awaited
from skyloom.rooms.scheduling.fairness import Standing, Standings
from skyloom.rooms.scheduling.model import Cause, Demand, Eviction, Placement, Rulebook
from skyloom.rooms.scheduling.occupants import Occupant, Occupants
from skyloom.rooms.scheduling.placement import Area, Floor, Shape
from skyloom.rooms.scheduling.policies import PREEMPTIVE, Key
from skyloom.rooms.scheduling.vectors import ZERO, Vector, plus


class Claims:
    """What will be free soon because somebody was told to stop, and for whom it is kept."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self.leaving: dict[str, Occupant] = {}
        self.given_back: dict[str, Vector] = {}  # by project
        self._kept: list[tuple[Placement, Vector]] = []
        self.promise = Promise("", "", -inf, (), {})

    def leave(self, ones: Iterable[Occupant]) -> None:
        """These give back what they hold, sooner or later."""
        for one in ones:
            self.leaving[one.gang.id] = one
            self.given_back[one.gang.project] = plus(self.given_back.get(one.gang.project, ZERO), one.used)

    def back(self, project: str) -> Vector:
        """What a project gives back."""
        return self.given_back.get(project, ZERO)

    def foresee(self) -> None:
        """The floor as it will be when all have left, less what is kept; to be undone by the caller."""
        for one in self.leaving.values():
            self._floor.give(one.placement, one.worker)
        for placement, worker in self._kept:
            self._floor.take(placement, worker)

    def keep(self, gang_id: str, placement: Placement, worker: Vector) -> None:
        """That is for this gang, and nobody else may start there meanwhile."""
        self._kept.append((placement, worker))
        with self._floor.imagined():
            self.foresee()
            places = {self._floor.place_of.get(name) for kept, _ in self._kept for name, _ in kept}
            spare = {place: self._floor.free[place] for place in places if place is not None}
        self.promise = Promise(gang_id, "", -inf, placement, spare)


class Stops:
    """Finds who has to stop, by the rules above."""

    def __init__(
        self, rulebook: Rulebook, floor: Floor, occupants: Occupants, standings: Standings, claims: Claims, now: float
    ) -> None:
        self._rules = rulebook
        self._floor = floor
        self._occupants = occupants
        self._standings = standings
        self._claims = claims
        self._now = now
        self._by_policy = rulebook.policy in PREEMPTIVE
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
        if not self.could(gang, key, borrows):
            return []
        best: tuple[list[Occupant], Placement] | None = None
        for areas in self._floor.pools(shape):
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

    def _in_pool(
        self, gang: Demand, shape: Shape, areas: tuple[Area, ...], key: Key, borrows: bool, limits: list[Promise]
    ) -> tuple[list[Occupant], Placement] | None:
        """Who stops, and where it would start then."""
        with self._floor.imagined():
            self._claims.foresee()
            freed = self._enough(gang, shape, areas, self._behind(gang, shape, areas, key, borrows))
            for held in limits:
                held.narrow(self._floor)
            placement = self._floor.find_in(areas, shape.worker, shape.min_workers) if freed else None
        return (freed, placement) if placement is not None else None

    def _enough(
        self, gang: Demand, shape: Shape, areas: tuple[Area, ...], victims: Iterator[Occupant]
    ) -> list[Occupant]:
        """The first of these that make room, without those it fits without; they have left the floor then."""
        standing = self._standings.standing(gang.project)
        freed: list[Occupant] = []
        back = ZERO
        if standing.may_hold(shape.need):
            freed, _ = awaited(self._floor, shape, areas, victims)
            for one in freed:
                self._floor.give(one.placement, one.worker)
                back = plus(back, one.used)
        else:
            for one in victims:
                freed.append(one)
                self._floor.give(one.placement, one.worker)
                back = plus(back, one.used)
                if self._fits(standing, shape, areas, back):
                    break
            else:
                return []
        # The better one's place in line, the sooner it is spared. The last one is needed: without it, it did not fit.
        for one in reversed(freed[:-1]):
            self._floor.take(one.placement, one.worker)
            if self._fits(standing, shape, areas, plus(back, one.used, -1)):
                freed.remove(one)
                back = plus(back, one.used, -1)
            else:
                self._floor.give(one.placement, one.worker)
        return freed

    def _fits(self, standing: Standing, shape: Shape, areas: tuple[Area, ...], back: Vector) -> bool:
        if not standing.may_hold(plus(shape.need, back, -1)):
            return False
        return self._floor.find_in(areas, shape.worker, shape.min_workers) is not None

    def _behind(
        self, gang: Demand, shape: Shape, areas: tuple[Area, ...], key: Key, borrows: bool
    ) -> Iterator[Occupant]:
        """Who stands behind it and runs in a pool, the worst in line first; each is taken as stopped once it was yielded.

        At its project's ceiling only its own project's gangs can make room for it.
        """
        held: dict[str, Vector] = {}
        pool = areas[0].pool
        own_only = not self._standings.standing(gang.project).may_hold(shape.need)
        for own_key, one in self._candidates(gang, borrows):
            if self._by_policy and own_key is not None and own_key <= key:
                return
            if (
                one.pool != pool
                or (own_only and one.gang.project != gang.project)
                or one.gang.id in self._claims.leaving
            ):
                continue
            standing = self._standings.standing(one.gang.project)
            now_held = held.get(one.gang.project) or plus(standing.held, self._claims.back(one.gang.project), -1)
            if self._precedes(gang, one, key, borrows, _borrowed(standing, now_held)) and self._stoppable(one):
                held[one.gang.project] = plus(now_held, one.used, -1)
                yield one

    def _candidates(self, gang: Demand, borrows: bool) -> Iterator[tuple[Key | None, Occupant]]:
        """Occupants, the worst in line first; with their keys where only those are of interest that the policy puts behind."""
        priorities = self._occupants.priorities
        plain = len(priorities) == 1 and gang.priority in priorities and not self._rules.quotas
        if self._by_policy and plain:
            return self._occupants.worst_first(self._now)
        everybody = list(self._occupants.all.values())
        if self._by_policy:
            everybody = [one for _, one in self._occupants.worst_first(self._now)]
        else:
            everybody.sort(key=lambda one: (-one.started_at, one.gang.id))
        everybody.sort(
            key=lambda one: (
                borrows or not _borrowed(self._standings.standing(one.gang.project), None),
                one.gang.priority,
            )
        )
        return ((None, one) for one in everybody)

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
