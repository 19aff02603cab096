"""Elastic gangs: they start with their fewest workers, take what is idle, and give it back to those who wait.

Workers go one by one to where one more speeds up the most (marginal goodput by the measured ``rates``, as in Peng et al., "Optimus",
EuroSys 2018, Hwang et al., "Elastic resource sharing" (AFS-L), NSDI 2021, and Qiao et al., "Pollux", OSDI 2021, each with its own model of
the speed). A gang that runs cannot change without a restart, which costs ``restart_s``: it grows only where it ends earlier all the
same, and only where nobody waits; it shrinks only if another can start by it.
"""

from collections.abc import Iterable
from heapq import heappop, heappush
from math import inf

import msgspec

from skyloom.rooms.scheduling.backfill import Promise
from skyloom.rooms.scheduling.fairness import Standings
from skyloom.rooms.scheduling.model import Cause, Demand, Eviction, Placement, Policy, Rulebook
from skyloom.rooms.scheduling.occupants import Occupant, Occupants, pool_of, size
from skyloom.rooms.scheduling.placement import Area, Floor, Shape
from skyloom.rooms.scheduling.policies import speed
from skyloom.rooms.scheduling.preemption import Handover
from skyloom.rooms.scheduling.queue import Queue
from skyloom.rooms.scheduling.vectors import ZERO, Vector, plus

_PERFECT = 1.0 + 1e-6


def gain(gang: Demand, num_workers: int) -> float:
    """What each GPU (CPU) adds that it gets beyond so many workers, up to the next number that helps at all.

    In what a GPU of its fewest workers does: 1 is perfect scaling, and what a gang that waits would do with it.
    """
    more = next_useful(gang, num_workers)
    if more is None:
        return 0.0
    return (speed(gang, more) - speed(gang, num_workers)) * gang.min_workers / (more - num_workers)


def next_useful(gang: Demand, num_workers: int) -> int | None:
    """The next larger number of workers with which it is faster; None if there is none."""
    now = speed(gang, num_workers)
    return next((count for count in range(num_workers + 1, gang.max_workers + 1) if speed(gang, count) > now), None)


def most_useful(gang: Demand, num_workers: int) -> int:
    """The most workers that each still make it faster."""
    while num_workers > gang.min_workers and speed(gang, num_workers) <= speed(gang, num_workers - 1):
        num_workers -= 1
    return num_workers


class Resizes:
    """Who goes on with more workers, or with fewer."""

    def __init__(
        self,
        rulebook: Rulebook,
        floor: Floor,
        queue: Queue,
        occupants: Occupants,
        standings: Standings,
        claims: Handover,
        now: float,
    ) -> None:
        self._rules = rulebook
        self._queue = queue
        self._floor = floor
        self._occupants = occupants
        self._standings = standings
        self._claims = claims
        self._now = now
        self.again_at = inf

    def shrink(self, gang: Demand, shape: Shape, limits: list[Promise]) -> list[Eviction]:
        """Who goes on with fewer workers so that a gang that fits nowhere can start. Nobody, if that cannot be.

        Those lose first who lose the least speed for what they give. Nobody of higher priority gives, and nobody who is about to end.
        """
        if not (self._rules.elastic and self._rules.preempt and self._occupants.num_elastic):
            return []
        if not self._standings.standing(gang.project).may_hold(shape.need):
            return []
        for areas in self._floor.ground.pools(shape):
            found = self._in_pool(gang, shape, areas, limits)
            if found is None:
                continue
            kept, placement = found
            self._claims.leave(one for one, _ in kept)
            for one, own in kept:
                self._claims.keep(one.gang.id, own, one.worker)
            self._claims.keep(gang.id, placement, shape.worker)
            return [
                Eviction(gang=one.gang.id, why=Cause.SHRINK, for_gang=gang.id, num_workers=size(own))
                for one, own in kept
            ]
        return []

    def _in_pool(
        self, gang: Demand, shape: Shape, areas: tuple[Area, ...], limits: list[Promise]
    ) -> tuple[list[tuple[Occupant, Placement]], Placement] | None:
        shrunk: list[tuple[Occupant, Placement]] = []
        soon = self._claims.soon()
        with soon.imagined():
            for one in self._givers(gang, areas[0].pool):
                least = _first_workers(one.placement, one.gang.min_workers)
                soon.give(one.placement, one.worker)
                soon.take(least, one.worker)
                shrunk.append((one, least))
                if soon.find_in(areas, shape.worker, shape.min_workers) is not None:
                    break
            else:
                return None
            for at, (one, least) in reversed(list(enumerate(shrunk))):
                shrunk[at] = (one, self._ease(one, least, shape, areas))
            for held in limits:
                held.narrow(soon)
            placement = soon.find_in(areas, shape.worker, shape.min_workers)
        kept = [(one, own) for one, own in shrunk if size(own) < one.num_workers]
        return (kept, placement) if placement is not None else None

    def _ease(self, one: Occupant, least: Placement, shape: Shape, areas: tuple[Area, ...]) -> Placement:
        """As many workers as it can keep so that the other still fits."""
        soon = self._claims.soon()
        soon.give(least, one.worker)
        for count in range(one.num_workers, one.gang.min_workers, -1):
            own = _first_workers(one.placement, count)
            soon.take(own, one.worker)
            if soon.find_in(areas, shape.worker, shape.min_workers) is not None:
                return own
            soon.give(own, one.worker)
        soon.take(least, one.worker)
        return least

    def _givers(self, gang: Demand, pool: str) -> Iterable[Occupant]:
        found = []
        for one in self._occupants.all.values():
            if one.pool != pool or one.num_workers <= one.gang.min_workers or one.gang.priority > gang.priority:
                continue
            if one.gang.id in self._claims.leaving or not self._settled(one):
                continue
            if one.left_s(self._now) <= self._rules.restart_s and one.end[0] < inf:
                continue
            given = one.num_workers - one.gang.min_workers
            loss = (speed(one.gang, one.num_workers) - 1.0) * one.gang.min_workers / given
            if self._rules.policy is Policy.ELASTIC and loss > _PERFECT:
                continue  # it does more with them than the other would
            found.append((loss, -one.started_at, one.gang.id, one))
        return [one for *_, one in sorted(found, key=lambda item: item[:3])]

    def _settled(self, one: Occupant) -> bool:
        """Whether it may be stopped and has run its minimum."""
        if one.stopping or not one.gang.preemptible:
            return False
        ready_at = one.started_at + self._rules.min_run_s
        if ready_at > self._now:
            self.again_at = min(self.again_at, ready_at)
        return ready_at <= self._now

    def grow(self, limits: list[Promise], wanted: set[str]) -> list[Eviction]:
        """Who goes on with more workers: on what is idle, in pools that nobody waits for.

        Args:
            wanted: pools that somebody waits for.
        """
        if not self._rules.elastic or not self._occupants.num_elastic:
            return []
        narrow = [
            one
            for one in self._occupants.all.values()
            if one.gang.min_workers <= one.num_workers < one.gang.max_workers
            and one.gang.preemptible
            and one.pool not in wanted
            and one.gang.id not in self._claims.leaving
        ]
        grown: list[Eviction] = []
        more: dict[str, Vector] = {}  # by project: what those who grow will hold beyond what they hold now
        for one in sorted(narrow, key=lambda one: (-gain(one.gang, one.num_workers), one.gang.id)):
            placement = self._wider(one, limits, more.get(one.gang.project, ZERO))
            if placement is not None:
                self._claims.leave([one])
                self._claims.keep(one.gang.id, placement, one.worker)
                count = size(placement)
                more[one.gang.project] = plus(more.get(one.gang.project, ZERO), one.worker, count - one.num_workers)
                grown.append(Eviction(gang=one.gang.id, why=Cause.GROW, for_gang=one.gang.id, num_workers=count))
        return grown

    def _wider(self, one: Occupant, limits: list[Promise], promised: Vector) -> Placement | None:
        """Where it would go on with more workers, if that is worth a restart.

        Args:
            promised: what others of its project will hold beyond what they hold now.
        """
        standing = self._standings.standing(one.gang.project)
        # Where it may start again, which need not be where it runs: its time on rented nodes may be over.
        shape = self._queue.shape(one.gang, self._now)
        areas = next((areas for areas in self._floor.ground.pools(shape) if areas[0].pool == one.pool), None)
        if areas is None:
            return None
        soon = self._claims.soon()
        with soon.imagined():
            soon.give(one.placement, one.worker)
            for held in limits:
                held.narrow(soon)
            room = soon.room(areas, one.worker, one.gang.max_workers)
            for count in range(most_useful(one.gang, min(room, one.gang.max_workers)), one.num_workers, -1):
                if standing.may_hold(plus(promised, one.worker, count - one.num_workers)) and self._pays(one, count):
                    return soon.find_in(areas, one.worker, count)
        return None

    def _pays(self, one: Occupant, num_workers: int) -> bool:
        """Whether it ends earlier with so many, the restart included, and may be stopped for it now."""
        saved = 1.0 - speed(one.gang, one.num_workers) / speed(one.gang, num_workers)
        if saved <= 0.0:
            return False
        if one.left_s(self._now) * saved > self._rules.restart_s:
            return self._settled(one)
        if one.end[0] == inf:
            # Nobody knows how long it runs; the longer it has run, the longer it is taken to go on.
            self.again_at = min(self.again_at, one.started_at + self._rules.restart_s / saved + 1e-3)
        return False


def _first_workers(placement: Placement, count: int) -> Placement:
    """So many workers on the same hosts, the fullest host first, so that as few hosts as possible are kept."""
    kept = []
    for name, here in sorted(placement, key=lambda item: (-item[1], item[0])):
        if count > 0:
            kept.append((name, min(here, count)))
            count -= here
    return tuple(kept)


class Widening(msgspec.Struct, kw_only=True):
    """A gang that starts now.

    Attributes:
        placement: with its fewest workers at first.
        most: how many workers it may have at once.
        stays: only adds workers: others wait for its pools, and were refused as it stood.
    """

    gang: Demand
    shape: Shape
    placement: Placement
    most: int
    stays: bool = False


def widen(floor: Floor, standings: Standings, starts: list[Widening]) -> None:
    """Give gangs that start now what is left, worker by worker, to the one that gains the most.

    The floor holds them with their fewest before, and as they are in ``starts`` after.
    """
    line: list[tuple[float, int, int, int]] = []
    for at, start in enumerate(starts):
        _line_up(line, at, start, start.shape.min_workers)
    held: dict[str, Vector] = {}
    while line:
        _, _, at, count = heappop(line)
        start = starts[at]
        project, worker = start.gang.project, start.shape.worker
        more = plus(held.get(project, ZERO), worker, count - size(start.placement))
        if not standings.standing(project).may_hold(more):
            continue
        wider = _added(floor, start, count) if start.stays else _anew(floor, start, count)
        if wider is not None:
            floor.give(start.placement, worker)
            floor.take(wider, worker)
            start.placement = wider
            held[project] = more
            _line_up(line, at, start, count)


def _anew(floor: Floor, start: Widening, num_workers: int) -> Placement | None:
    with floor.imagined():
        floor.give(start.placement, start.shape.worker)
        return floor.find(start.shape, num_workers)


def _added(floor: Floor, start: Widening, num_workers: int) -> Placement | None:
    """Beside those that it has; on their hosts, or on others of the pool."""
    pool = pool_of(start.placement, floor)
    areas = next(areas for areas in floor.ground.pools(start.shape) if areas[0].pool == pool)
    added = floor.find_in(areas, start.shape.worker, num_workers - size(start.placement))
    if added is None:
        return None
    workers = dict(start.placement)
    for name, count in added:
        workers[name] = workers.get(name, 0) + count
    return tuple(workers.items())


def _line_up(line: list[tuple[float, int, int, int]], at: int, start: Widening, num_workers: int) -> None:
    more = next_useful(start.gang, num_workers)
    if more is not None and more <= start.most:
        heappush(line, (-gain(start.gang, num_workers), num_workers, at, more))
